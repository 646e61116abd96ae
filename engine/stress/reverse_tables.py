"""A reverse stress as tables: by book, by factor and tier, by name."""

from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Float

from engine.conventions import MARKET
from engine.curve.tiers import Curve
from engine.stress.outcome import Outcome
from engine.stress.reverse import ReverseStress, measure_resemblance

SPECIFIC: Final = "specific"
"""Row of ``reverse_factors`` that holds what no factor carries."""


def tabulate_reverse(
    answer: ReverseStress, curve: Curve, *, library: tuple[Outcome, ...] = (), positions: int | None = 10
) -> dict[str, pl.DataFrame]:
    """The tables ``reverse``, ``reverse_factors`` and ``reverse_positions``.

    By factor ``b_k f_k`` plus the row ``specific``, by name ``w_i r_i`` with all names kept: each cut sums
    to minus the loss. A tier's total is ``g_j + beta_j m``.

    Args:
        answer: The shocks.
        curve: Slopes of the tiers.
        library: Outcomes to compare with; the nearest by cosine is named where it is above 0.
        positions: Names a book to keep, by size of P&L; None keeps all.

    Returns:
        Tables sorted by key, without the columns ``within`` and ``worst_loss``.
    """
    return {
        "reverse": _by_book(answer, library),
        "reverse_factors": _by_factor(answer, curve),
        "reverse_positions": _by_name(answer, positions),
    }


def tier_totals(
    moves: Float[np.ndarray, "n_portfolios n_factors"], factors: tuple[str, ...], curve: Curve
) -> Float[np.ndarray, "n_portfolios n_factors"]:
    """What the tape shows for the market and each tier; NaN for factors that are neither."""
    market = factors.index(MARKET)
    totals = np.full_like(moves, np.nan)
    totals[:, market] = moves[:, market]
    for tier, slope in zip(curve.tiers.labels, curve.beta.tolist(), strict=True):
        own = factors.index(tier)
        totals[:, own] = moves[:, own] + slope * moves[:, market]
    return totals


def _by_book(answer: ReverseStress, library: tuple[Outcome, ...]) -> pl.DataFrame:
    books = answer.portfolios
    names = dict(books.table.select("portfolio_id", "name").iter_rows())
    nearest: list[str | None] = [None] * len(books.ids)
    cosine = np.full(len(books.ids), np.nan)
    if library:
        moves = np.array([shock.factors for shock in library])
        likeness = measure_resemblance(answer.factors, moves, books.model.factor_covariance)
        best = likeness.argmax(axis=1)
        cosine = np.where(likeness.max(axis=1) > 0.0, likeness.max(axis=1), np.nan)
        nearest = [library[at].scenario.id if size > 0.0 else None for at, size in zip(best, cosine, strict=True)]
    return (
        pl.DataFrame(
            {
                "portfolio_id": books.ids.labels,
                "name": [names[label] for label in books.ids.labels],
                "nav_base": books.nav,
                "loss": answer.losses,
                "horizon_days": [answer.horizon_days] * len(books.ids),
                "distance": answer.distance,
                "tail_probability": answer.tail_probabilities(),
                "loss_probability": answer.loss_probabilities(),
                "factor_loss": answer.factor_losses,
                "specific_loss": answer.losses - answer.factor_losses,
                "factor_distance": answer.factor_distance,
                "extrapolation": answer.extrapolations(),
                "binding": ["; ".join(bounds) or None for bounds in answer.binding],
                "scenario_id": nearest,
                "resemblance": cosine,
            },
            schema_overrides={"binding": pl.String, "scenario_id": pl.String},
        )
        .with_columns(pl.col("factor_distance", "resemblance").fill_nan(None))
        .sort("portfolio_id")
    )


def _by_factor(answer: ReverseStress, curve: Curve) -> pl.DataFrame:
    books = answer.portfolios
    b, factors = books.exposures, books.model.factors.labels
    own = np.bincount(
        books.weights.tocoo().coords[0], weights=books.weights.tocoo().data * answer.specifics, minlength=len(b)
    )
    gap = np.full((len(b), 1), np.nan)
    columns = {
        "exposure": b,
        "move": answer.factors,
        "total": tier_totals(answer.factors, factors, curve),
        "factor_only_move": answer.factor_only,
        "factor_only_total": tier_totals(answer.factor_only, factors, curve),
    }
    names = (*factors, SPECIFIC)
    return (
        pl.DataFrame(
            {
                "portfolio_id": [label for label in books.ids.labels for _ in names],
                "factor": list(names) * len(b),
                "pnl_frac": np.hstack([b * answer.factors, own[:, None]]).ravel(),
                **{name: np.hstack([values, gap]).ravel() for name, values in columns.items()},
            }
        )
        .with_columns(pl.col(list(columns)).fill_nan(None))
        .sort("portfolio_id", "factor")
    )


def _by_name(answer: ReverseStress, keep: int | None) -> pl.DataFrame:
    held = answer.portfolios.weights.tocoo()
    rows, columns = held.coords
    moves = answer.held_moves
    frame = pl.DataFrame(
        {
            "portfolio_id": np.array(answer.portfolios.ids.labels, dtype=object)[rows].tolist(),
            "security_id": np.array(answer.portfolios.model.securities.labels, dtype=object)[columns].tolist(),
            "weight": held.data,
            "move": moves,
            "specific": answer.specifics,
            "pnl_frac": held.data * moves,
        },
        schema_overrides={"portfolio_id": pl.String, "security_id": pl.String},
    )
    if keep is not None:
        ordered = frame.sort(pl.col("pnl_frac").abs(), "security_id", descending=[True, False])
        frame = ordered.group_by("portfolio_id", maintain_order=True).head(keep)
    return frame.sort("portfolio_id", "security_id")
