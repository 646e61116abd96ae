"""How far from ordinary a scenario is: distance, tail probability, extrapolation."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from engine.stress.propagation import Shock


@dataclass(frozen=True, slots=True)
class Plausibility:
    """Figures that stand beside every loss of a scenario.

    Args:
        distance: Mahalanobis distance of what is applied.
        tail_probability: Chance of a move at least that far over the horizon, by the t.
        extrapolation: Largest factor move applied over the largest seen, horizon-scaled.
    """

    distance: float
    tail_probability: float
    extrapolation: float


def weigh_plausibility(shock: Shock) -> Plausibility:
    """Distance ``sqrt(D^2)``, its multivariate t tail, and the extrapolation.

    ``D^2`` has no sign: a rally as large is as far. Its degrees are the number of views
    under full conditional propagation, otherwise the number of factors plus the issuers
    that are moved, because what is not named is then stated to stay still.

    References:
        MATH.md 4. Oracle: ``scipy.stats.f.sf``, tests/test_oracles.py.
    """
    model = shock.model
    seen = model.largest_moves * np.sqrt(shock.scenario.body.horizon_days)
    ratios = np.abs(shock.factors) / np.where(seen > 0.0, seen, np.inf)
    return Plausibility(
        distance=float(np.sqrt(shock.distance_squared)),
        tail_probability=model.tails.tail_probability(shock.distance_squared, shock.views_counted),
        extrapolation=float(ratios.max(initial=0.0)),
    )


def summarise_scenarios(shocks: list[Shock]) -> pl.DataFrame:
    """The table ``scenario_summary``, one row a scenario."""
    rows = []
    for shock in shocks:
        body, figures = shock.scenario.body, weigh_plausibility(shock)
        rows.append(
            {
                "scenario_id": body.id,
                "title": body.title,
                "version": body.version,
                "sha256": shock.scenario.sha256,
                "horizon_days": body.horizon_days,
                "propagation": body.propagation,
                "distance": figures.distance,
                "views": len(body.views),
                "tail_probability": figures.tail_probability,
                "condition": shock.condition,
                "extrapolation": figures.extrapolation,
            }
        )
    return pl.DataFrame(rows).sort("scenario_id")
