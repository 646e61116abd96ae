"""What every book loses under a scenario: by part, by factor, by tier and by name."""

from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Float
from scipy.special import ndtri

from engine.curve.tiers import Curve
from engine.risk.portfolios import Portfolios
from engine.stress.outcome import Outcome, scaled

SPECIFIC: Final = "specific"
"""Row of ``stress_factors`` that holds what no factor carries."""


def measure_losses(
    portfolios: Portfolios,
    outcomes: list[Outcome],
    curve: Curve,
    *,
    stage: str,
    band: float,
    positions: int | None = 10,
) -> dict[str, pl.DataFrame]:
    """Losses of all portfolios under all scenarios, each cut adding up to the total.

    ``pnl = w'r`` with ``r = stated + propagated + specific`` of the shock; by factor
    ``b_k f_k`` plus the row ``specific``; by tier the membership-weighted sum with
    ``off_curve``; by name ``w_i r_i``. The band is ``pnl -+ z sqrt(b'Cov[f]b + w'Cov[eps]w
    + 2 b'Cov[f,eps]w)`` with the t inflation and the fitted multipliers.

    Args:
        portfolios: Weights.
        outcomes: One a scenario, on the portfolios' model.
        curve: Memberships for the cut by tier.
        stage: ``before`` or ``after``.
        band: Probability that the band holds, e.g. 0.8.
        positions: Names a portfolio and scenario to keep, by size of P&L; None keeps all.

    Returns:
        Tables ``stress`` (without budgets), ``stress_tiers``, ``stress_factors``,
        ``stress_positions``, each sorted by key.
    """
    tables: dict[str, list[pl.DataFrame]] = {name: [] for name in _KEYS}
    shares = curve.shares(portfolios.model.securities)
    held = _held(portfolios)
    for outcome in outcomes:
        parts = {"stated": outcome.stated, "propagated": outcome.propagated, "specific": outcome.specific}
        tables["stress"].append(_totals(portfolios, outcome, parts, band))
        tables["stress_tiers"].append(_by_tier(portfolios, outcome, parts, shares, curve))
        tables["stress_factors"].append(_by_factor(portfolios, outcome))
        tables["stress_positions"].append(_by_name(portfolios, held, outcome, parts, positions))
    return {
        name: pl.concat(frames).with_columns(pl.lit(stage).alias("stage")).sort(_KEYS[name])
        for name, frames in tables.items()
    }


_KEYS: Final = {
    "stress": ["portfolio_id", "scenario_id"],
    "stress_tiers": ["portfolio_id", "scenario_id", "tier"],
    "stress_factors": ["portfolio_id", "scenario_id", "factor"],
    "stress_positions": ["portfolio_id", "scenario_id", "security_id"],
}


def _totals(
    portfolios: Portfolios, outcome: Outcome, parts: dict[str, Float[np.ndarray, " n"]], band: float
) -> pl.DataFrame:
    pnl = {name: portfolios.weights @ part for name, part in parts.items()}
    total = pnl["stated"] + pnl["propagated"] + pnl["specific"]
    half = ndtri(0.5 + band / 2.0) * np.sqrt(outcome.open_variance(portfolios.weights))
    n = len(portfolios.ids)
    return pl.DataFrame(
        {
            "portfolio_id": portfolios.ids.labels,
            "scenario_id": [outcome.scenario.id] * n,
            "scenario_version": [outcome.scenario.body.version] * n,
            "nav_base": portfolios.nav,
            "pnl_frac": total,
            "pnl_base": total * portfolios.nav,
            **pnl,
            "band_low": total - half,
            "band_high": total + half,
        }
    )


def _by_tier(
    portfolios: Portfolios,
    outcome: Outcome,
    parts: dict[str, Float[np.ndarray, " n"]],
    shares: Float[np.ndarray, "n n_buckets"],
    curve: Curve,
) -> pl.DataFrame:
    cut = {name: portfolios.weights @ (shares * part[:, None]) for name, part in parts.items()}
    buckets = len(curve.buckets)
    n = len(portfolios.ids)
    return pl.DataFrame(
        {
            "portfolio_id": [label for label in portfolios.ids.labels for _ in range(buckets)],
            "scenario_id": [outcome.scenario.id] * (n * buckets),
            "tier": list(curve.buckets.labels) * n,
            "weight": (portfolios.weights @ shares).ravel(),
            "pnl_frac": sum(cut.values()).ravel(),
            **{name: values.ravel() for name, values in cut.items()},
        }
    )


def _by_factor(portfolios: Portfolios, outcome: Outcome) -> pl.DataFrame:
    b = portfolios.exposures
    stated, moved = np.zeros_like(b), np.zeros_like(b)
    own_stated, own = np.zeros(len(b)), np.zeros(len(b))
    for layer in outcome.layers:
        shock, weights = layer.shock, scaled(portfolios.weights, layer.scale)
        reached = weights @ outcome.model.exposures
        stated += reached * shock.views.stated_factors
        moved += reached * (shock.factors - shock.views.stated_factors)
        own_stated += weights @ shock.views.stated_specifics
        own += weights @ shock.specific
    n, k = b.shape
    nothing = np.zeros((n, 1))
    names = (*portfolios.model.factors.labels, SPECIFIC)
    return pl.DataFrame(
        {
            "portfolio_id": [label for label in portfolios.ids.labels for _ in names],
            "scenario_id": [outcome.scenario.id] * (n * (k + 1)),
            "factor": list(names) * n,
            "exposure": np.hstack([b, np.full((n, 1), np.nan)]).ravel(),
            "shock": np.tile(np.append(outcome.factors, np.nan), n),
            "pnl_frac": np.hstack([stated + moved, (own_stated + own)[:, None]]).ravel(),
            "stated": np.hstack([stated, own_stated[:, None]]).ravel(),
            "propagated": np.hstack([moved, nothing]).ravel(),
            "specific": np.hstack([np.zeros_like(b), own[:, None]]).ravel(),
        }
    ).with_columns(pl.col("exposure", "shock").fill_nan(None))


def _held(portfolios: Portfolios) -> pl.DataFrame:
    """Every held name with its weight, in the order of the weights; its labels are written once for all scenarios."""
    rows, columns = portfolios.weights.tocoo().coords
    books, securities = pl.Series(portfolios.ids.labels), pl.Series(portfolios.model.securities.labels)
    return pl.DataFrame(
        {
            "portfolio_id": books.gather(rows).cast(pl.String),
            "security_id": securities.gather(columns).cast(pl.String),
            "weight": portfolios.weights.data,
        }
    )


def _by_name(
    portfolios: Portfolios,
    held: pl.DataFrame,
    outcome: Outcome,
    parts: dict[str, Float[np.ndarray, " n"]],
    keep: int | None,
) -> pl.DataFrame:
    columns, weights = portfolios.weights.indices, portfolios.weights.data
    shock = outcome.total[columns]
    frame = held.select(
        "portfolio_id",
        pl.lit(outcome.scenario.id).alias("scenario_id"),
        "security_id",
        "weight",
        pl.Series("shock", shock),
        pl.Series("pnl_frac", weights * shock),
        *[pl.Series(name, weights * part[columns]) for name, part in parts.items()],
    )
    if keep is None:
        return frame
    ordered = frame.sort(pl.col("pnl_frac").abs(), "security_id", descending=[True, False])
    return ordered.group_by("portfolio_id", maintain_order=True).head(keep)
