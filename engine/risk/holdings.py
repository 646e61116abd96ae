"""Holdings that add up: the sound books of one day, and a notice for each that is set aside."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import polars as pl

from engine.axes import Axis
from engine.contracts import cash_row
from engine.conventions import CASH_PREFIX, NAV_REFUSAL, NAV_WARNING, is_percent
from engine.curve.returns import LARGE_MOVE, SPLIT_RATIOS, SPLIT_TOLERANCE, split_question
from engine.curve.universe import Universe
from engine.documents import suggestion
from engine.errors import ContractError, DataError
from engine.intake import Notice, Severity, admit, screen

VALUE_TOLERANCE: Final = 0.01
"""Quantity times price against market value: more than one percent apart is quarantined."""

COMPARABLE_DAYS: Final = 31
"""A listed price this many days away or nearer tells what a holding's price should be (judgement)."""

STALE_DAYS: Final = 7
"""A price that has not moved since a listing older than this is stale: a week has a trading day (judgement)."""


@dataclass(frozen=True, slots=True)
class CheckedHoldings:
    """One day's holdings of the books that can be measured.

    Args:
        as_of: The day.
        table: Table ``portfolios``.
        rows: Table ``holdings`` of the sound books.
        navs: NAV by sound book: ``nav_base``, or the sum of values where null.
        strangers: Held names that the model does not know, within the allowed share.
        empty: Portfolios that hold nothing and have nothing below them.
        notices: What was noticed; a book with a quarantine notice has no rows.
    """

    as_of: dt.date
    table: pl.DataFrame
    rows: pl.DataFrame
    navs: Mapping[str, float]
    strangers: tuple[str, ...]
    empty: tuple[str, ...]
    notices: tuple[Notice, ...]


def check_holdings(
    holdings: pl.DataFrame,
    portfolios: pl.DataFrame,
    *,
    known: Axis,
    universe: Universe,
    as_of: dt.date | None,
) -> CheckedHoldings:
    """Hold one day's holdings against their contract, their portfolios, and arithmetic.

    Args:
        holdings: Table ``holdings`` as read; only the rows of the day count.
        portfolios: Table ``portfolios`` as read.
        known: Securities that the model knows.
        universe: Listed prices, base currency, allowed share of unmapped names.
        as_of: The day; the latest when None.

    Raises:
        ContractError: a file as a whole cannot be used.
        DataError: no holdings on that day.
    """
    table = _admit_portfolios(portfolios, universe.settings.base_currency)
    if holdings.schema.get("as_of") == pl.Date:
        dates: list[dt.date] = holdings["as_of"].unique().sort().drop_nulls().to_list()
        day = as_of or (dates[-1] if dates else None)
        if holdings.height and day not in dates:
            shown = ", ".join(str(date) for date in dates[-3:])
            raise DataError(f"holdings: no rows as of {day}; the latest dates are {shown}")
        holdings = holdings.filter(pl.col("as_of") == day)
    screened = screen(holdings, "holdings", "holdings")
    rows = screened.frame
    day = holdings["as_of"][0]
    notices = [*screened.notices, *_value_faults(rows, table, universe, day), *_price_faults(rows, universe, day)]
    notices += _nav_faults(rows, table)
    notices += _parents_with_holdings(rows, table)
    rows = rows.filter(~pl.col("portfolio_id").is_in(_set_aside(notices)))
    notices += _proxied(rows, known, universe, table)
    aside = _set_aside(notices)
    rows = rows.filter(~pl.col("portfolio_id").is_in(aside))
    notices += _partial_parents(table, aside)
    strangers = rows.filter(~cash_row())["security_id"].unique().sort().to_list()
    parents = set(table["parent_id"].drop_nulls().to_list())
    held = {*rows["portfolio_id"].unique().to_list(), *aside}
    return CheckedHoldings(
        as_of=day,
        table=table,
        rows=rows,
        navs=_navs(rows, table),
        strangers=tuple(known.missing(strangers)),
        empty=tuple(name for name in table["portfolio_id"].to_list() if name not in held and name not in parents),
        notices=tuple(notices),
    )


def _set_aside(notices: list[Notice]) -> list[str]:
    return sorted({n.portfolio_id for n in notices if n.severity == "quarantine" and n.portfolio_id is not None})


def _parents_with_holdings(rows: pl.DataFrame, table: pl.DataFrame) -> list[Notice]:
    parents = set(table["parent_id"].drop_nulls().to_list())
    message = "has portfolios below it and holds securities itself; move them into a book of their own"
    both = sorted(parents & set(rows["portfolio_id"].unique().to_list()))
    return [Notice("holdings.parent", "quarantine", message, "holdings", name) for name in both]


def _partial_parents(table: pl.DataFrame, aside: list[str]) -> list[Notice]:
    """A warning for every parent that adds up without a book that was set aside."""
    parent = dict(table.select("portfolio_id", "parent_id").iter_rows())
    missing: dict[str, list[str]] = {}
    for book in aside:
        above = parent.get(book)
        while above is not None:
            missing.setdefault(above, []).append(book)
            above = parent.get(above)
    return [
        Notice("holdings.partial", "warn", f"adds up without {', '.join(sorted(books))}", "holdings", name)
        for name, books in sorted(missing.items())
    ]


def _admit_portfolios(portfolios: pl.DataFrame, base: str) -> pl.DataFrame:
    table = admit(portfolios, "portfolios", "portfolios").frame
    parent = dict(table.select("portfolio_id", "parent_id").iter_rows())
    faults = [
        f"{name}: unknown parent_id {above!r}{suggestion(above, sorted(parent))}"
        for name, above in parent.items()
        if above is not None and above not in parent
    ]
    for name in parent:
        seen, at = {name}, parent.get(name)
        while at is not None and at not in seen:
            seen.add(at)
            at = parent.get(at)
        if at == name:
            faults.append(f"{name}: is its own ancestor through parent_id")
    foreign = table.filter(pl.col("base_currency") != base).select("portfolio_id", "base_currency")
    faults += [f"{name}: base_currency {found}, the universe is in {base}" for name, found in foreign.iter_rows()]
    if faults:
        raise ContractError("portfolios", faults)
    return table


def _value_faults(rows: pl.DataFrame, table: pl.DataFrame, universe: Universe, day: dt.date) -> list[Notice]:
    """Lines and sums that do not add up, each naming its book."""
    base = universe.settings.base_currency
    frame = rows.with_columns((pl.col("quantity") * pl.col("price")).alias("value"))
    tests = {
        "holdings.unknown_portfolio": (
            ~pl.col("portfolio_id").is_in(table["portfolio_id"].to_list()),
            "the portfolio is not in the table portfolios",
        ),
        "holdings.currency": (
            pl.col("currency") != base,
            f"currency is not {base} and no exchange rates are given",
        ),
        "holdings.cash": (
            cash_row() & ((pl.col("security_id") != CASH_PREFIX + pl.col("currency")) | (pl.col("price") != 1.0)),
            "cash is written CASH:<its currency> at a price of 1",
        ),
        "holdings.value": (
            (pl.col("currency") == base)
            & ~((pl.col("value") - pl.col("market_value_base")).abs() <= VALUE_TOLERANCE * pl.col("value").abs()),
            f"quantity x price is more than {VALUE_TOLERANCE:.0%} away from market_value_base",
        ),
    }
    notices = list[Notice]()
    for code, (expression, words) in tests.items():
        for (book,), bad in sorted(frame.filter(expression).group_by("portfolio_id"), key=lambda item: str(item[0][0])):
            first = ", ".join(sorted(bad["security_id"].to_list())[:3])
            message = f"{bad.height} line{'s' if bad.height > 1 else ''}: {words}; first: {first}"
            notices.append(Notice(code, "quarantine", message, "holdings", str(book)))
    return notices


def _price_faults(rows: pl.DataFrame, universe: Universe, day: dt.date) -> list[Notice]:
    """Prices that the universe's own listing contradicts: split since, stale, or moved by more than half."""
    listed = universe.securities.select("security_id", pl.col("price").alias("listed_price"), "price_date")
    age = (pl.lit(day) - pl.col("price_date")).dt.total_days()
    ratio = pl.col("ratio")
    frame = rows.join(listed, on="security_id", how="inner", validate="m:1").with_columns(
        age.alias("age"), (pl.col("price") / pl.col("listed_price")).alias("ratio")
    )
    near = pl.col("age").abs() <= COMPARABLE_DAYS
    split = near & pl.any_horizontal(
        *[(ratio / s - 1.0).abs() <= SPLIT_TOLERANCE for n in SPLIT_RATIOS for s in (n, 1.0 / n)]
    )
    stale = (pl.col("age") > STALE_DAYS) & (pl.col("price") == pl.col("listed_price"))
    large = near & ~split & ((ratio - 1.0).abs() > LARGE_MOVE)
    tests: dict[str, tuple[pl.Expr, Severity, str]] = {
        "holdings.split": (split, "quarantine", "the price is a split ratio away from the listed one"),
        "holdings.stale": (
            stale,
            "quarantine",
            f"the price is the listed one, unmoved for more than {STALE_DAYS} days",
        ),
        "holdings.large_move": (large, "warn", f"the price is more than {LARGE_MOVE:.0%} away from the listed one"),
    }
    notices = list[Notice]()
    for code, (expression, severity, words) in tests.items():
        lines = frame.filter(expression).sort("portfolio_id", "security_id")
        for (book,), bad in lines.group_by("portfolio_id", maintain_order=True):
            name, price, was, date, moved = bad.select(
                "security_id", "price", "listed_price", "price_date", "ratio"
            ).row(0)
            asked = split_question(moved) if severity == "quarantine" else ""
            message = (
                f"{bad.height} line{'s' if bad.height > 1 else ''}: {words}; "
                f"first: {name} at {price:g}, listed at {was:g} on {date}{asked}"
            )
            notices.append(Notice(code, severity, message, "holdings", str(book)))
    return notices


def _nav_faults(rows: pl.DataFrame, table: pl.DataFrame) -> list[Notice]:
    """Sums that are not the NAV.

    Raises:
        ContractError: most books hold weights in percent where money is wanted.
    """
    sums = rows.group_by("portfolio_id").agg(pl.col("market_value_base").sum().alias("sum")).sort("portfolio_id")
    notices = list[Notice]()
    percent = list[str]()
    for book, total, nav in (
        sums.join(table, on="portfolio_id", how="left").select("portfolio_id", "sum", "nav_base").rows()
    ):
        if total > 0.0 and is_percent(total / (nav or 1.0)):
            percent.append(book)
            of = f" of nav_base {nav:,.2f}" if nav else ""
            message = f"weights add up to {total / (nav or 1.0):.1f}{of}: percent? divide by 100; values are money"
            notices.append(Notice("holdings.percent", "quarantine", message, "holdings", book))
        elif not total > 0.0:
            message = f"the values sum to {total:,.2f}; a NAV must be above 0"
            notices.append(Notice("holdings.nav", "quarantine", message, "holdings", book))
        elif nav is not None and not abs(total / nav - 1.0) <= NAV_WARNING:
            severity: Severity = "warn" if abs(total / nav - 1.0) <= NAV_REFUSAL else "quarantine"
            message = f"the values sum to {total:,.2f}, nav_base says {nav:,.2f} ({total / nav - 1.0:+.2%})"
            notices.append(Notice("holdings.nav", severity, message, "holdings", book))
    if 2 * len(percent) > sums.height > 1:
        faults = [f"{n.portfolio_id}: {n.message}" for n in notices if n.code == "holdings.percent"]
        raise ContractError("holdings", faults)
    return notices


def _proxied(rows: pl.DataFrame, known: Axis, universe: Universe, table: pl.DataFrame) -> list[Notice]:
    """A warning, or beyond the universe's share a quarantine, for each book with unmapped names."""
    allowed = universe.settings.unmapped_share
    navs = _navs(rows, table)
    unmapped = rows.filter(~pl.col("security_id").is_in(list(known.labels)) & ~cash_row()).with_columns(
        pl.coalesce("exposure_base", "market_value_base").abs().alias("size")
    )
    exact = {label.strip().upper(): label for label in known.labels}
    notices = []
    for (book,), lines in sorted(unmapped.group_by("portfolio_id"), key=lambda item: str(item[0][0])):
        names = sorted(lines["security_id"].to_list())
        share = float(lines["size"].sum()) / navs[str(book)]
        hints = [f"{n} (is {exact[n.strip().upper()]} meant?)" if n.strip().upper() in exact else n for n in names[:5]]
        shown = ", ".join(hints) + (", ..." if len(names) > 5 else "")
        severity: Severity = "warn" if share <= allowed else "quarantine"
        message = (
            f"{len(names)} held name{'s are' if len(names) > 1 else ' is'} not in the model, {share:.2%} of NAV "
            f"({'proxy exposures are used' if severity == 'warn' else f'at most {allowed:.2%} may be'}): {shown}"
        )
        notices.append(Notice("holdings.unmapped", severity, message, "holdings", str(book)))
    return notices


def _navs(rows: pl.DataFrame, table: pl.DataFrame) -> dict[str, float]:
    sums = rows.group_by("portfolio_id").agg(pl.col("market_value_base").sum().alias("sum"))
    joined = sums.join(table.select("portfolio_id", "nav_base"), on="portfolio_id", how="left")
    return {book: nav or total for book, total, nav in joined.select("portfolio_id", "sum", "nav_base").iter_rows()}
