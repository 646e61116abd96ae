"""``reverse_stress_portfolios``: what it would take to cost every book a given loss."""

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from engine.api.loading import LoadedUniverse
from engine.api.weighing import unfold_library, weigh_books
from engine.errors import DataError, UsageError
from engine.intake import Notice, notices_frame
from engine.risk.portfolios import Portfolios
from engine.stress.reverse import ReverseStress, keep_books_with_risk, reverse_stress, worst_within
from engine.stress.reverse_bounds import read_bounds
from engine.stress.reverse_tables import tabulate_reverse


@dataclass(frozen=True, slots=True)
class ReverseQuestion:
    """Which loss, over which horizon, and how far the worst case may look.

    Args:
        loss: Fraction of NAV, 0 to 1.
        horizon_days: Trading days.
        within: Mahalanobis distance of the worst case to state beside it; None states none.

    Raises:
        UsageError: a number is outside its range.
    """

    loss: float = 0.10
    horizon_days: int = 1
    within: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.loss <= 1.0:
            raise UsageError(f"--loss is {self.loss:g}; give a fraction of NAV above 0, at most 1: 0.10 is ten percent")
        if not 1 <= self.horizon_days <= 252:
            raise UsageError(f"--horizon is {self.horizon_days}; 1 to 252 trading days")
        if self.within is not None and not (math.isfinite(self.within) and self.within > 0.0):
            raise UsageError(f"--within is {self.within:g}; a distance is a number above 0, in standard deviations")


@dataclass(frozen=True, slots=True)
class ReverseResult:
    """The most plausible way of every book to the loss, and what had to be left out.

    Args:
        as_of: Date of the holdings.
        tables: ``reverse``, ``reverse_factors``, ``reverse_positions``, ``exceptions``.
        refused: One line a book that no shock inside the bounds costs that much.
        notices: What was noticed in the inputs.
    """

    as_of: dt.date
    tables: Mapping[str, pl.DataFrame]
    refused: tuple[str, ...]
    notices: tuple[Notice, ...]


def reverse_stress_portfolios(
    loaded: LoadedUniverse, question: ReverseQuestion | None = None, *, bounds: tuple[str, str] | None = None
) -> ReverseResult:
    """Find the most plausible shock that costs each book of a universe a given loss.

    Args:
        loaded: From ``load_universe``.
        question: A tenth of NAV in a day when None.
        bounds: Name and YAML text of bounds on factors, tiers and names; none when None.

    Raises:
        UsageError: a worst case within a distance is asked for together with bounds.
        ConfigurationError: the bounds are wrong, contradict each other, or leave no book an answer.
        DataError: no book can be measured, or none has risk.
    """
    asked = question or ReverseQuestion()
    if bounds is not None and asked.within is not None:
        raise UsageError("--within states the worst case without bounds; give --within or --bounds, not both")
    checked = None if bounds is None else read_bounds(bounds[1], bounds[0], loaded.vocabulary)
    portfolios, notices = _weigh(loaded)
    answer = reverse_stress(portfolios, np.full(len(portfolios.ids), asked.loss), horizon_days=asked.horizon_days)
    refused: tuple[str, ...] = ()
    if bounds is not None and checked is not None:
        # cvxpy takes half a second to load; the closed form does not pay for it.
        from engine.stress.reverse_bounded import bound_reverse  # noqa: PLC0415

        answer, refused = bound_reverse(answer, checked, loaded.curve, source=bounds[0])
    library, doubts = unfold_library(loaded, portfolios.model)
    tables = tabulate_reverse(answer, loaded.curve, library=library)
    worst = [None] * len(answer.portfolios.ids)
    if asked.within is not None:
        worst = worst_within(portfolios, asked.within, horizon_days=asked.horizon_days).losses.tolist()
    figures = pl.DataFrame(
        {"portfolio_id": answer.portfolios.ids.labels, "worst_loss": worst}, schema_overrides={"worst_loss": pl.Float64}
    )
    tables["reverse"] = (
        tables["reverse"]
        .join(figures, on="portfolio_id", how="left", validate="1:1")
        .with_columns(pl.lit(asked.within, dtype=pl.Float64).alias("within"))
        .sort("portfolio_id")
    )
    notices = (*notices, *doubts, *_too_large(answer))
    tables["exceptions"] = notices_frame(notices)
    return ReverseResult(portfolios.as_of, tables, refused, notices)


def _weigh(loaded: LoadedUniverse) -> tuple[Portfolios, tuple[Notice, ...]]:
    """The books that have risk, and a warning for each that has none."""
    weighed, notices = weigh_books(loaded)
    portfolios, still = keep_books_with_risk(weighed)
    if not len(portfolios.ids):
        raise DataError(f"holdings: {', '.join(still)}: nothing but cash, so no shock costs it anything; add holdings")
    words = "no risk (nothing but cash), so no shock costs it anything; left out"
    return portfolios, (*notices, *(Notice("reverse.no_risk", "warn", words, "holdings", book) for book in still))


def _too_large(answer: ReverseStress) -> list[Notice]:
    """A warning for each book whose shock takes more from a name than it is worth."""
    books = answer.portfolios
    rows, columns = books.weights.tocoo().coords
    gone = answer.held_moves < -1.0
    which, first = np.unique(rows[gone], return_index=True)  # the lines of a book stand together
    doubts = []
    for row, lines in zip(which, np.split(columns[gone], first[1:]), strict=True) if len(which) else ():
        names = [books.model.securities.labels[at] for at in lines]
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        words = f"the shock takes more than 100 % from {len(names)} names ({shown}): too large for a linear model"
        doubts.append(Notice("reverse.below_total_loss", "warn", words, "model", books.ids.labels[row]))
    return doubts
