"""Holdings become weights on the model's axis, one row a portfolio, parents included."""

import datetime as dt
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Bool, Float
from scipy.sparse import csr_array, vstack

from engine.axes import Axis
from engine.contracts import cash_row
from engine.conventions import NAV_REFUSAL, NAV_WARNING, is_cash
from engine.curve.exposures import membership_prior
from engine.curve.tiers import Curve
from engine.curve.universe import Universe
from engine.documents import suggestion
from engine.errors import ContractError, DataError
from engine.intake import Notice, admit, screen
from engine.risk.model import RiskModel

VALUE_TOLERANCE: Final = 0.01
"""Quantity times price against market value: more than one percent apart is quarantined."""

SPLITS: Final = (2.0, 3.0, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Portfolios:
    """Books and the parents they add up to, on a model that knows all their securities.

    Args:
        as_of: Date of the holdings.
        ids: Axis of the rows: books first, then parents.
        is_parent: ``(n_portfolios,)``.
        model: The risk model, extended by proxies for held names it does not know.
        weights: ``(n_portfolios, n_securities)``, exposure as a fraction of NAV, no cash.
        cash: ``(n_portfolios,)``, fraction of NAV.
        nav: ``(n_portfolios,)``, base currency.
        table: Table ``portfolios``.
        holdings: The holdings used, without the books set aside.
        empty: Books of the table that hold nothing.
    """

    as_of: dt.date
    ids: Axis
    is_parent: Bool[np.ndarray, " n_portfolios"]
    model: RiskModel
    weights: csr_array
    cash: Float[np.ndarray, " n_portfolios"]
    nav: Float[np.ndarray, " n_portfolios"]
    table: pl.DataFrame
    holdings: pl.DataFrame
    empty: tuple[str, ...]

    @property
    def exposures(self) -> Float[np.ndarray, "n_portfolios n_factors"]:
        """``b = B'w`` of every portfolio."""
        product: Float[np.ndarray, "n_portfolios n_factors"] = self.weights @ self.model.exposures
        return product

    def specific_variances(self) -> Float[np.ndarray, " n_portfolios"]:
        """``w'Dw`` a year: an issuer's lines are added before they are squared."""
        m = int(self.model.issuers.max(initial=-1)) + 1
        n = len(self.model.securities)
        belongs = csr_array((np.ones(n), (np.arange(n), self.model.issuers)), shape=(n, m))
        per_issuer = np.zeros(m)
        per_issuer[self.model.issuers] = self.model.specific_variance
        sums = self.weights @ belongs
        variances: Float[np.ndarray, " n_portfolios"] = sums.multiply(sums) @ per_issuer
        return variances

    def books(self) -> "Portfolios":
        """The same without the parents."""
        n = int((~self.is_parent).sum())
        return replace(
            self,
            ids=Axis("portfolio", self.ids.labels[:n]),
            is_parent=self.is_parent[:n],
            weights=self.weights[:n],
            cash=self.cash[:n],
            nav=self.nav[:n],
        )

    def moved(self, targets: pl.DataFrame, cash: Float[np.ndarray, " n_books"]) -> "Portfolios":
        """The same books at other weights, parents added up anew.

        Args:
            targets: Columns ``portfolio_id``, ``security_id``, ``weight_after``; all non-cash
                weights of every book.
            cash: Cash of every book after, fraction of today's NAV, in the order of ``books``.
        """
        books = self.books()
        rows = books.ids.positions(targets["portfolio_id"].to_list(), "targets")
        columns = self.model.securities.positions(targets["security_id"].to_list(), "targets")
        shape = (len(books.ids), len(self.model.securities))
        weights = csr_array((targets["weight_after"].to_numpy(), (rows, columns)), shape=shape)
        return _with_parents(replace(books, weights=weights, cash=cash))


def weigh_benchmarks(
    benchmarks: pl.DataFrame, portfolios: Portfolios
) -> tuple[dict[str, dict[str, float]], tuple[Notice, ...]]:
    """Benchmark weights by benchmark and security, for the benchmarks that can be used.

    The latest weights on or before the holdings' date count. A benchmark that does not sum
    to 1 within a percent, or holds a name the model does not know, is left out, and each
    book on it is set aside, as is a book whose benchmark is missing.

    Args:
        benchmarks: Table ``benchmarks`` as read.
        portfolios: Books with the ids of their benchmarks.

    Raises:
        ContractError: the table breaks its contract.
    """
    table = admit(benchmarks, "benchmarks", "benchmarks").frame if benchmarks.width else benchmarks
    usable: dict[str, dict[str, float]] = {}
    faults: dict[str, str] = {}
    if table.height:
        table = table.filter(pl.col("as_of") <= portfolios.as_of)
        table = table.filter(pl.col("as_of") == pl.col("as_of").max().over("benchmark_id"))
        for (name,), rows in sorted(table.group_by("benchmark_id"), key=lambda item: str(item[0][0])):
            total = float(rows["weight"].sum())
            strangers = portfolios.model.securities.missing(rows["security_id"].to_list())
            if not abs(total - 1.0) <= NAV_REFUSAL:
                faults[str(name)] = f"its weights sum to {total:g}, expected 1"
            elif strangers:
                faults[str(name)] = f"the model does not know {', '.join(strangers[:5])}"
            else:
                usable[str(name)] = dict(rows.sort("security_id").select("security_id", "weight").iter_rows())
    notices = [
        Notice(
            "benchmarks.unusable",
            "quarantine",
            f"benchmark {name}: {faults.get(name, 'no weights')}",
            "benchmarks",
            book,
        )
        for book, name in portfolios.table.select("portfolio_id", "benchmark_id").iter_rows()
        if name is not None and name not in usable and book in portfolios.ids
    ]
    return usable, tuple(notices)


def weigh_holdings(
    holdings: pl.DataFrame,
    portfolios: pl.DataFrame,
    *,
    model: RiskModel,
    curve: Curve,
    universe: Universe,
    as_of: dt.date | None = None,
) -> tuple[Portfolios, tuple[Notice, ...]]:
    """Weights of every sound book, and a notice for each that had to be set aside.

    A weight is ``exposure_base`` (``market_value_base`` where null) over NAV; NAV is
    ``nav_base``, or the sum of values where null. Held names that the model does not know
    take the exposures their declared membership implies (market beta 1 off the curve) with
    a warning, up to the universe's ``unmapped_share`` of NAV; beyond it the book is set
    aside. Cash alone has no exposure.

    Args:
        holdings: Table ``holdings`` as read.
        portfolios: Table ``portfolios`` as read.
        model: Risk model.
        curve: Memberships and slopes, for the proxies.
        universe: Securities and settings.
        as_of: Date of the holdings to take; the latest when None.

    Raises:
        ContractError: a file as a whole cannot be used.
        DataError: no holdings on that date.
    """
    table = _admit_portfolios(portfolios)
    screened = screen(holdings, "holdings", "holdings")
    rows = screened.frame
    dates = sorted(set(holdings["as_of"].to_list())) if "as_of" in holdings.columns else []
    day = as_of or (dates[-1] if dates else None)
    if day is None or day not in dates:
        shown = ", ".join(str(date) for date in dates[-3:])
        raise DataError(f"holdings: no rows as of {day}; the latest dates are {shown}")
    rows = rows.filter(pl.col("as_of") == day)
    notices = [*screened.notices, *_value_faults(rows, table, universe, day)]
    known = set(model.securities.labels)
    proxied = _proxied(rows, known, universe, table)
    notices += proxied
    bad = {notice.portfolio_id for notice in notices if notice.severity == "quarantine"}
    rows = rows.filter(~pl.col("portfolio_id").is_in([name for name in bad if name]))
    strangers = sorted({s for s in rows["security_id"].to_list() if s not in known and not is_cash(s)})
    extended = _extend(model, curve, strangers) if strangers else model
    books = sorted(set(rows["portfolio_id"].to_list()))
    listed = table["portfolio_id"].to_list()
    parents = set(table["parent_id"].drop_nulls().to_list())
    held_or_bad = {*books, *(name for name in bad if name)}
    leaves = _leaf_portfolios(rows, table, Axis("portfolio", tuple(books)), extended, day)
    empty = tuple(name for name in listed if name not in held_or_bad and name not in parents)
    return _with_parents(replace(leaves, empty=empty)), tuple(notices)


def _admit_portfolios(portfolios: pl.DataFrame) -> pl.DataFrame:
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
    currencies = sorted(set(table["base_currency"].to_list()))
    if len(currencies) > 1:
        faults.append(f"several base currencies: {', '.join(currencies)}; run them apart")
    if faults:
        raise ContractError("portfolios", faults)
    return table


def _value_faults(rows: pl.DataFrame, table: pl.DataFrame, universe: Universe, day: dt.date) -> list[Notice]:
    """Lines and sums that do not add up, each naming its book."""
    base = universe.settings.base_currency
    frame = rows.join(
        universe.securities.select("security_id", pl.col("price").alias("listed_price"), "price_date"),
        on="security_id",
        how="left",
        validate="m:1",
    ).with_columns((pl.col("quantity") * pl.col("price")).alias("value"))
    ratio = pl.col("price") / pl.col("listed_price")
    split = pl.any_horizontal(*[((ratio / s) - 1.0).abs() <= 0.01 for n in SPLITS for s in (n, 1.0 / n)])
    tests = {
        "holdings.unknown_portfolio": (
            ~pl.col("portfolio_id").is_in(table["portfolio_id"].to_list()),
            "the portfolio is not in the table portfolios",
        ),
        "holdings.currency": (
            pl.col("currency") != base,
            f"currency is not {base} and no exchange rates are given",
        ),
        "holdings.value": (
            (pl.col("currency") == base)
            & ~((pl.col("value") - pl.col("market_value_base")).abs() <= VALUE_TOLERANCE * pl.col("value").abs()),
            f"quantity x price is more than {VALUE_TOLERANCE:.0%} away from market_value_base",
        ),
        "holdings.split": (
            (pl.col("price_date") == day) & split,
            "the price is a split ratio away from the listed one; a split?",
        ),
    }
    notices = []
    for code, (expression, words) in tests.items():
        for (book,), bad in sorted(frame.filter(expression).group_by("portfolio_id"), key=lambda item: str(item[0][0])):
            first = ", ".join(sorted(bad["security_id"].to_list())[:3])
            message = f"{bad.height} line{'s' if bad.height > 1 else ''}: {words}; first: {first}"
            notices.append(Notice(code, "quarantine", message, "holdings", str(book)))
    return notices + _nav_faults(rows, table)


def _nav_faults(rows: pl.DataFrame, table: pl.DataFrame) -> list[Notice]:
    sums = rows.group_by("portfolio_id").agg(pl.col("market_value_base").sum().alias("sum")).sort("portfolio_id")
    notices = []
    for book, total, nav in (
        sums.join(table, on="portfolio_id", how="left").select("portfolio_id", "sum", "nav_base").rows()
    ):
        if not total > 0.0:
            message = f"the values sum to {total:,.2f}; a NAV must be above 0"
            notices.append(Notice("holdings.nav", "quarantine", message, "holdings", book))
        elif nav is not None and not abs(total / nav - 1.0) <= NAV_WARNING:
            severity = "warn" if abs(total / nav - 1.0) <= NAV_REFUSAL else "quarantine"
            message = f"the values sum to {total:,.2f}, nav_base says {nav:,.2f} ({total / nav - 1.0:+.2%})"
            notices.append(Notice("holdings.nav", severity, message, "holdings", book))  # type: ignore[arg-type]
    return notices


def _proxied(rows: pl.DataFrame, known: set[str], universe: Universe, table: pl.DataFrame) -> list[Notice]:
    """A warning, or beyond the universe's share a quarantine, for each book with unmapped names."""
    allowed = universe.settings.unmapped_share
    navs = _navs(rows, table)
    unmapped = rows.filter(~pl.col("security_id").is_in(sorted(known)) & ~cash_row()).with_columns(
        pl.coalesce("exposure_base", "market_value_base").abs().alias("size")
    )
    exact = {label.strip().upper(): label for label in sorted(known)}
    notices = []
    for (book,), lines in sorted(unmapped.group_by("portfolio_id"), key=lambda item: str(item[0][0])):
        names = sorted(lines["security_id"].to_list())
        share = float(lines["size"].sum()) / navs[str(book)]
        hints = [f"{n} (is {exact[n.strip().upper()]} meant?)" if n.strip().upper() in exact else n for n in names[:5]]
        shown = ", ".join(hints) + (", ..." if len(names) > 5 else "")
        severity = "warn" if share <= allowed else "quarantine"
        message = (
            f"{len(names)} held name{'s are' if len(names) > 1 else ' is'} not in the model, {share:.2%} of NAV "
            f"({'proxy exposures are used' if severity == 'warn' else f'at most {allowed:.2%} may be'}): {shown}"
        )
        notices.append(Notice("holdings.unmapped", severity, message, "holdings", str(book)))  # type: ignore[arg-type]
    return notices


def _navs(rows: pl.DataFrame, table: pl.DataFrame) -> dict[str, float]:
    sums = rows.group_by("portfolio_id").agg(pl.col("market_value_base").sum().alias("sum"))
    joined = sums.join(table.select("portfolio_id", "nav_base"), on="portfolio_id", how="left")
    return {book: nav or total for book, total, nav in joined.select("portfolio_id", "sum", "nav_base").iter_rows()}


def _extend(model: RiskModel, curve: Curve, strangers: list[str]) -> RiskModel:
    axis = Axis("security", tuple(strangers))
    prior = membership_prior(axis, curve.memberships, curve.tiers, curve.beta)
    exposures = np.zeros((len(strangers), len(model.factors)))
    exposures[:, 0] = prior[:, 0]
    exposures[:, model.factors.positions(curve.tiers.labels, "tiers")] = prior[:, 1:]
    return model.with_proxies(axis.labels, exposures)


def _leaf_portfolios(
    rows: pl.DataFrame, table: pl.DataFrame, books: Axis, model: RiskModel, day: dt.date
) -> Portfolios:
    navs = _navs(rows, table)
    nav = np.array([navs[book] for book in books.labels])
    lines = rows.filter(~cash_row()).with_columns(pl.coalesce("exposure_base", "market_value_base").alias("exposure"))
    at = books.positions(lines["portfolio_id"].to_list(), "holdings")
    columns = model.securities.positions(lines["security_id"].to_list(), "holdings")
    shape = (len(books), len(model.securities))
    weights = csr_array((lines["exposure"].to_numpy() / nav[at], (at, columns)), shape=shape)
    money = rows.filter(cash_row()).group_by("portfolio_id").agg(pl.col("market_value_base").sum())
    cash = books.vector(money, "market_value_base", label="portfolio_id", source="holdings", fill=0.0)
    return Portfolios(
        as_of=day,
        ids=books,
        is_parent=np.zeros(len(books), dtype=bool),
        model=model,
        weights=weights,
        cash=cash / nav if len(books) else cash,
        nav=nav,
        table=table,
        holdings=rows,
        empty=(),
    )


def _with_parents(books: Portfolios) -> Portfolios:
    """Add a row for every parent of a sound book: the NAV-weighted sum of what is below it."""
    parent = dict(books.table.select("portfolio_id", "parent_id").iter_rows())
    pairs: list[tuple[str, int]] = []
    for position, book in enumerate(books.ids.labels):
        above = parent.get(book)
        while above is not None:
            pairs.append((above, position))
            above = parent.get(above)
    names = sorted({name for name, _ in pairs} - set(books.ids.labels))
    pairs = [(name, position) for name, position in pairs if name in set(names)]
    if not names:
        return books
    index = {name: row for row, name in enumerate(names)}
    below = csr_array(
        (np.ones(len(pairs)), ([index[name] for name, _ in pairs], [position for _, position in pairs])),
        shape=(len(names), len(books.ids)),
    )
    nav = below @ books.nav
    money = below.multiply(books.nav[None, :]).tocsr()
    share = money.multiply(1.0 / nav[:, None]).tocsr()
    return replace(
        books,
        ids=Axis("portfolio", (*books.ids.labels, *names)),
        is_parent=np.concatenate([books.is_parent, np.ones(len(names), dtype=bool)]),
        weights=csr_array(vstack([books.weights, share @ books.weights])),
        cash=np.concatenate([books.cash, share @ books.cash]),
        nav=np.concatenate([books.nav, nav]),
    )
