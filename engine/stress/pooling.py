"""Entropy pooling: weights on past days that meet views and change history as little as possible."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from engine.errors import ConfigurationError

RESIDUAL: Final = 1e-9
"""Largest distance from a view, in standard deviations of what it speaks of."""

LEAST_EFFECTIVE_SHARE: Final = 0.05
"""Below this share of the days a few of them carry the answer (MATH 4)."""

MOST_STEPS: Final = 200
SMALLEST_STEP: Final = 2.0**-40
SUFFICIENT: Final = 1e-4
"""Share of the promised decrease that a step must bring (Armijo)."""


@dataclass(frozen=True, slots=True)
class MomentViews:
    """Views on expected factor moves: ``E_q[a'f] = v``, or at most ``v``.

    Args:
        labels: One name a view, as messages print it.
        rows: ``A``, ``(n_views, n_factors)``.
        values: ``v``, ``(n_views,)``.
        upper: True where the view says at most; for at least turn the signs of row and value.
    """

    labels: tuple[str, ...]
    rows: Float[np.ndarray, "n_views n_factors"]
    values: Float[np.ndarray, " n_views"]
    upper: Bool[np.ndarray, " n_views"]


@dataclass(frozen=True, slots=True)
class PooledHistory:
    """History seen with the views.

    Args:
        weights: ``q``, ``(n_days,)``, sums to 1.
        mean: ``(n_factors,)``, expected factor moves under ``q``.
        effective_days: ``1 / sum q^2``.
        divergence: ``KL(q | p)``; 0 when the views say nothing new.
    """

    weights: Float[np.ndarray, " n_days"]
    mean: Float[np.ndarray, " n_factors"]
    effective_days: float
    divergence: float


def pool_history(
    history: Float[np.ndarray, "n_days n_factors"], prior: Float[np.ndarray, " n_days"], views: MomentViews
) -> PooledHistory:
    """The weights ``q`` nearest to ``p`` in relative entropy under which the views hold.

    ``min sum q ln(q / p)`` with ``E_q[A f] = v`` has ``q_t = p_t exp(-lam' x_t) / Z`` with ``x_t = A f_t - v``;
    ``lam`` minimises the smooth convex dual ``ln sum p_t exp(-lam' x_t)``, with ``lam >= 0`` on views that say
    at most. Damped Newton steps, projected on those signs.

    Args:
        history: Factor moves of past days.
        prior: ``p``, at least 0, sums to 1; decayed or equal.
        views: On factors of ``history``; none gives back the prior.

    Raises:
        ConfigurationError: the prior is no distribution, a view lies outside what history has
            seen, the views together do, or they leave fewer than 5 % of the days in effect.

    References:
        Meucci (2008), Fully Flexible Views; Bertsekas (1982) for the projection. Oracle:
        ``scipy.optimize`` on the primal, tests/test_pooling.py.
    """
    if (prior < 0.0).any() or not abs(float(prior.sum()) - 1.0) <= RESIDUAL:
        raise ConfigurationError([f"prior: weights must be at least 0 and sum to 1; they sum to {prior.sum():g}"])
    used = prior > 0.0
    seen = history[used] @ views.rows.T
    _refuse_unseen(seen, views)
    spread = seen.std(axis=0)
    scaled = (seen - views.values) / np.where(spread > 0.0, spread, 1.0)
    weights = np.zeros(len(prior))
    weights[used] = _tilt(prior[used], scaled, _minimise_dual(prior[used], scaled, views.upper))
    missed = scaled.T @ weights[used]
    missed = np.where(views.upper, np.maximum(missed, 0.0), np.abs(missed))
    if not (abs(float(weights.sum()) - 1.0) <= RESIDUAL and missed.max(initial=0.0) <= RESIDUAL):
        far = ", ".join(name for name, off in zip(views.labels, missed, strict=True) if not off <= RESIDUAL)
        raise ConfigurationError(
            [f"views {far}: no weighting of the {len(prior)} days meets them together; loosen one"]
        )
    effective = 1.0 / float((weights**2).sum())
    if effective < LEAST_EFFECTIVE_SHARE * len(prior):
        raise ConfigurationError(
            [
                f"views {', '.join(views.labels)}: they leave {effective:.1f} of {len(prior)} days in effect, at least "
                f"{LEAST_EFFECTIVE_SHARE:.0%} are needed; state milder views, or more history"
            ]
        )
    left = weights > 0.0
    divergence = float((weights[left] * np.log(weights[left] / prior[left])).sum())
    return PooledHistory(weights, weights @ history, effective, max(divergence, 0.0))


def _refuse_unseen(seen: Float[np.ndarray, "n_days n_views"], views: MomentViews) -> None:
    low, high = seen.min(axis=0), seen.max(axis=0)
    outside = (views.values < low) | ((views.values > high) & ~views.upper)
    faults = [
        f"view {name} = {value:.2%}: outside what the {len(seen)} days have seen, {least:.2%} to {most:.2%}"
        for name, value, least, most, out in zip(views.labels, views.values, low, high, outside, strict=True)
        if out
    ]
    if faults:
        raise ConfigurationError(faults)


def _tilt(
    prior: Float[np.ndarray, " n_days"],
    scaled: Float[np.ndarray, "n_days n_views"],
    dual: Float[np.ndarray, " n_views"],
) -> Float[np.ndarray, " n_days"]:
    exponents = -(scaled @ dual)
    tilted = prior * np.exp(exponents - exponents.max())
    return tilted / tilted.sum()


def _dual_value(
    prior: Float[np.ndarray, " n_days"],
    scaled: Float[np.ndarray, "n_days n_views"],
    dual: Float[np.ndarray, " n_views"],
) -> float:
    exponents = -(scaled @ dual)
    top = float(exponents.max())
    return float(top + np.log((prior * np.exp(exponents - top)).sum()))


def _minimise_dual(
    prior: Float[np.ndarray, " n_days"],
    scaled: Float[np.ndarray, "n_days n_views"],
    upper: Bool[np.ndarray, " n_views"],
) -> Float[np.ndarray, " n_views"]:
    """Projected Newton; where it stops short, the residuals say so."""
    dual = np.zeros(len(upper))
    for _ in range(MOST_STEPS):
        weights = _tilt(prior, scaled, dual)
        slope = -(scaled.T @ weights)
        free = ~(upper & (dual <= 0.0) & (slope >= 0.0))
        if not np.abs(slope[free]).max(initial=0.0) > RESIDUAL * 1e-3:
            break
        centred = scaled[:, free] + slope[free]
        curvature = (centred * weights[:, None]).T @ centred
        direction = np.zeros(len(upper))
        direction[free] = -np.linalg.lstsq(curvature, slope[free], rcond=None)[0]
        value, size = _dual_value(prior, scaled, dual), 1.0
        while size > SMALLEST_STEP:
            trial = dual + size * direction
            trial = np.where(upper, np.maximum(trial, 0.0), trial)
            if _dual_value(prior, scaled, trial) <= value + SUFFICIENT * float(slope @ (trial - dual)):
                break
            size /= 2.0
        else:
            break
        dual = trial
    return dual
