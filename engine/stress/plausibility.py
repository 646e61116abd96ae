"""How far from ordinary a scenario is: distance, tail probability, extrapolation, odds of a loss."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from engine.contracts import CONTRACTS
from engine.conventions import TRADING_DAYS
from engine.risk.attribution import loss_probabilities
from engine.risk.portfolios import Portfolios
from engine.scenarios.kinds import DriversBody, ShockBody
from engine.stress.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Plausibility:
    """Figures that stand beside every loss of a scenario.

    Args:
        distance: Mahalanobis distance of what is applied; None of a tree, whose leaves have theirs.
        tail_probability: Chance of a move at least that far over the horizon, by the t.
        extrapolation: Largest factor move applied over the largest seen, horizon-scaled.
        condition: Largest condition number of the views' covariance.
        views: Numbers that are stated.
    """

    distance: float | None
    tail_probability: float | None
    extrapolation: float
    condition: float
    views: int


def weigh_plausibility(outcome: Outcome) -> Plausibility:
    """Distance ``sqrt(D^2)``, its multivariate t tail, and the extrapolation.

    ``D^2`` has no sign: a rally as large is as far. Its degrees are the number of views
    under full conditional propagation, otherwise the number of factors plus the issuers
    that are moved, because what is not named is then stated to stay still. The steps of a
    path are independent: their ``D^2`` and degrees add up.

    References:
        MATH.md 4. Oracle: ``scipy.stats.f.sf``, tests/test_oracles.py.
    """
    model = outcome.model
    shocks = [layer.shock for layer in outcome.layers]
    ratios = [_extrapolation(shock.factors, model.largest_moves, shock.views.years) for shock in shocks]
    distance, tail = None, None
    if not outcome.branches:
        squared = sum(shock.distance_squared for shock in shocks)
        distance = float(np.sqrt(squared))
        tail = model.tails.tail_probability(squared, sum(shock.views_counted for shock in shocks))
    return Plausibility(
        distance=distance,
        tail_probability=tail,
        extrapolation=max(ratios),
        condition=max(shock.condition for shock in shocks),
        views=sum(len(shock.views.values) for shock in shocks),
    )


def summarise_scenarios(outcomes: list[Outcome]) -> pl.DataFrame:
    """The table ``scenario_summary``, one row a scenario."""
    rows = []
    for outcome in outcomes:
        body, figures = outcome.scenario.body, weigh_plausibility(outcome)
        rows.append(
            {
                "scenario_id": body.id,
                "title": body.title,
                "kind": body.kind,
                "version": body.version,
                "sha256": outcome.scenario.sha256,
                "horizon_days": body.horizon_days,
                "propagation": body.propagation if isinstance(body, ShockBody | DriversBody) else None,
                "distance": figures.distance,
                "views": figures.views,
                "tail_probability": figures.tail_probability,
                "condition": figures.condition,
                "extrapolation": figures.extrapolation,
            }
        )
    columns = CONTRACTS["scenario_summary"].columns
    return pl.DataFrame(rows, schema=columns).sort("scenario_id")


def _extrapolation(
    factors: Float[np.ndarray, " n_factors"], largest: Float[np.ndarray, " n_factors"], years: float
) -> float:
    seen = largest * np.sqrt(years * TRADING_DAYS)
    return float((np.abs(factors) / np.where(seen > 0.0, seen, np.inf)).max(initial=0.0))


def with_loss_probabilities(stress: pl.DataFrame, portfolios: Portfolios, outcomes: list[Outcome]) -> pl.DataFrame:
    """The table ``stress`` with ``loss_probability``: how often a book loses at least the stressed loss.

    ``P(loss >= l)`` over the scenario's own horizon, whatever causes the loss: ``D^2`` has no
    sign and knows no book. A gain is a loss below zero, so its probability is above a half.

    Args:
        stress: Columns ``portfolio_id``, ``scenario_id``, ``pnl_frac``; other columns stay.
        portfolios: The books of those rows.
        outcomes: The scenarios of those rows.

    Returns:
        The same rows in the same order; null for a book without risk.

    References:
        MATH.md 4. Oracle: ``scipy.stats.t.sf``, tests/test_stress.py.
    """
    at = portfolios.ids.positions(stress["portfolio_id"], "stress")
    years = {outcome.scenario.id: outcome.scenario.body.horizon_days / TRADING_DAYS for outcome in outcomes}
    horizon = stress["scenario_id"].replace_strict(years, return_dtype=pl.Float64).to_numpy()
    b = portfolios.exposures
    factor_variance = np.einsum("pk,kl,pl->p", b, portfolios.model.factor_covariance, b)
    chances = loss_probabilities(
        -stress["pnl_frac"].to_numpy(),
        factor_variance[at] * horizon,
        portfolios.specific_variances()[at] * horizon,
        portfolios.model.tails,
    )
    return stress.with_columns(pl.Series("loss_probability", chances, nan_to_null=True))
