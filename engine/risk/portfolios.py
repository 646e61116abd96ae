"""Holdings become weights on the model's axis, one row a portfolio, parents included."""

import datetime as dt
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from jaxtyping import Bool, Float
from scipy.sparse import csr_array, vstack

from engine.axes import Axis
from engine.contracts import cash_row
from engine.conventions import NAV_REFUSAL, is_percent
from engine.curve.exposures import membership_prior
from engine.curve.tiers import Curve
from engine.curve.universe import Universe
from engine.errors import ContractError
from engine.intake import Notice, admit
from engine.risk.funds import funds_in, resolve_funds
from engine.risk.holdings import CheckedHoldings, check_holdings
from engine.risk.model import RiskModel


@dataclass(frozen=True, slots=True)
class Portfolios:
    """Books and the parents they add up to, on a model that knows all their securities.

    Args:
        as_of: Date of the holdings.
        ids: Axis of the rows: books first, then parents.
        is_parent: ``(n_portfolios,)``.
        model: The risk model, extended by proxies for held names it does not know.
        weights: ``(n_portfolios, n_securities)``, exposure as a fraction of NAV, no cash; a fund
            whose composition is known is replaced by what it holds.
        cash: ``(n_portfolios,)``, fraction of NAV.
        nav: ``(n_portfolios,)``, base currency.
        table: Table ``portfolios``.
        holdings: The holdings used, without the books set aside.
        empty: Books of the table that hold nothing.
        funds: ``L``, ``(n_securities, n_securities)``: what a unit of each name holds; None
            where no composition is known.
        lines: Weights of the names as they are held and traded, funds among them, so that
            ``weights = lines L``; None where they are the same.
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
    funds: csr_array | None = None
    lines: csr_array | None = None

    @property
    def traded(self) -> csr_array:
        """Weights of the names as they are held and traded: a fund is one name."""
        return self.weights if self.lines is None else self.lines

    @property
    def fund_names(self) -> tuple[str, ...]:
        """The names that are seen through, in order."""
        if self.funds is None:
            return ()
        return tuple(self.model.securities.labels[i] for i in np.flatnonzero(funds_in(self.funds)))

    def seen_through(self, weights: Float[np.ndarray, " n_securities"]) -> Float[np.ndarray, " n_securities"]:
        """Weights with each fund replaced by what it holds; what is no fund stays."""
        return weights if self.funds is None else self.funds.T @ weights

    def with_overlay(self, lines: csr_array) -> "Portfolios":
        """The same with further lines, on the model's axis, added to what is traded; cash as it is."""
        return self._with_lines(csr_array(self.traded + lines))

    def _with_lines(self, lines: csr_array) -> "Portfolios":
        if self.funds is None:
            return replace(self, weights=lines)
        return replace(self, weights=csr_array(lines @ self.funds), lines=lines)

    @property
    def exposures(self) -> Float[np.ndarray, "n_portfolios n_factors"]:
        """``b = B'w`` of every portfolio."""
        product: Float[np.ndarray, "n_portfolios n_factors"] = self.weights @ self.model.exposures
        return product

    def specific_variances(self) -> Float[np.ndarray, " n_portfolios"]:
        """``w'Dw`` a year of every portfolio."""
        return self.model.specific_variances(self.weights)

    def books(self) -> "Portfolios":
        """The same without the parents."""
        n = int((~self.is_parent).sum())
        return replace(
            self,
            ids=Axis("portfolio", self.ids.labels[:n]),
            is_parent=self.is_parent[:n],
            weights=self.weights[:n],
            lines=None if self.lines is None else self.lines[:n],
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
        return _with_parents(replace(books, cash=cash)._with_lines(weights))


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
        ContractError: the table breaks its contract, or most benchmarks are in percent.
    """
    table = admit(benchmarks, "benchmarks", "benchmarks").frame if benchmarks.width else benchmarks
    usable: dict[str, dict[str, float]] = {}
    faults: dict[str, str] = {}
    percent: dict[str, str] = {}
    if table.height:
        table = table.filter(pl.col("as_of") <= portfolios.as_of)
        table = table.filter(pl.col("as_of") == pl.col("as_of").max().over("benchmark_id"))
        for (name,), rows in sorted(table.group_by("benchmark_id"), key=lambda item: str(item[0][0])):
            total = float(rows["weight"].sum())
            strangers = portfolios.model.securities.missing(rows["security_id"].to_list())
            if is_percent(total):
                faults[str(name)] = percent[str(name)] = f"weights add up to {total:.1f}: percent? divide by 100"
            elif not abs(total - 1.0) <= NAV_REFUSAL:
                faults[str(name)] = f"its weights sum to {total:g}, expected 1"
            elif strangers:
                faults[str(name)] = f"the model does not know {', '.join(strangers[:5])}"
            else:
                usable[str(name)] = dict(rows.sort("security_id").select("security_id", "weight").iter_rows())
    if 2 * len(percent) > len(usable) + len(faults) > 1:
        raise ContractError("benchmarks", [f"{name}: {words}" for name, words in sorted(percent.items())])
    notices = [
        Notice(
            "benchmarks.percent" if name in percent else "benchmarks.unusable",
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
    aside. Cash alone has no exposure. A fund with a composition is seen through: it is
    measured as what it holds, and stays one name where it is traded.

    Args:
        holdings: Table ``holdings`` as read.
        portfolios: Table ``portfolios`` as read.
        model: Risk model.
        curve: Memberships and slopes, for the proxies.
        universe: Securities, compositions and settings.
        as_of: Date of the holdings to take; the latest when None.

    Raises:
        ContractError: a file as a whole cannot be used.
        DataError: no holdings on that date.
    """
    day = as_of or (holdings["as_of"].max() if holdings.schema.get("as_of") == pl.Date else None)
    funds, doubts = resolve_funds(universe, model.securities, day if isinstance(day, dt.date) else None)
    known = Axis.of("security", {*model.securities.labels, *funds.names})
    checked = check_holdings(holdings, portfolios, known=known, universe=universe, as_of=as_of)
    strangers = sorted({*checked.strangers, *model.securities.missing(funds.names)})
    extended = _extend(model, curve, strangers) if strangers else model
    books = Axis.of("portfolio", checked.rows["portfolio_id"].to_list())
    leaves = _leaf_portfolios(checked, books, extended)
    if funds.names:
        leaves = replace(leaves, funds=funds.matrix(extended.securities))._with_lines(leaves.weights)
    return _with_parents(leaves), (*checked.notices, *doubts)


def _extend(model: RiskModel, curve: Curve, strangers: list[str]) -> RiskModel:
    axis = Axis("security", tuple(strangers))
    prior = membership_prior(axis, curve.memberships, curve.tiers, curve.beta)
    exposures = np.zeros((len(strangers), len(model.factors)))
    exposures[:, 0] = prior[:, 0]
    exposures[:, model.factors.positions(curve.tiers.labels, "tiers")] = prior[:, 1:]
    return model.with_proxies(axis.labels, exposures)


def _leaf_portfolios(checked: CheckedHoldings, books: Axis, model: RiskModel) -> Portfolios:
    nav = np.array([checked.navs[book] for book in books.labels])
    lines = checked.rows.filter(~cash_row()).with_columns(
        pl.coalesce("exposure_base", "market_value_base").alias("exposure")
    )
    at = books.positions(lines["portfolio_id"], "holdings")
    columns = model.securities.positions(lines["security_id"], "holdings")
    shape = (len(books), len(model.securities))
    weights = csr_array((lines["exposure"].to_numpy() / nav[at], (at, columns)), shape=shape)
    money = checked.rows.filter(cash_row()).group_by("portfolio_id").agg(pl.col("market_value_base").sum())
    cash = books.vector(money, "market_value_base", label="portfolio_id", source="holdings", fill=0.0)
    return Portfolios(
        as_of=checked.as_of,
        ids=books,
        is_parent=np.zeros(len(books), dtype=bool),
        model=model,
        weights=weights,
        cash=cash / nav if len(books) else cash,
        nav=nav,
        table=checked.table,
        holdings=checked.rows,
        empty=checked.empty,
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
        lines=None if books.lines is None else csr_array(vstack([books.lines, share @ books.lines])),
        cash=np.concatenate([books.cash, share @ books.cash]),
        nav=np.concatenate([books.nav, nav]),
    )
