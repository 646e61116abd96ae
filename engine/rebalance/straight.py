"""Limits that are no rows as rows: their tangents at an answer, for changes that are small."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from engine.rebalance.cones import Margin, Shortfall
from engine.rebalance.problem import GROSS, TRACKING_ERROR, Problem


@dataclass(frozen=True, slots=True)
class Tangent:
    """``slope'x <= bound``, which every portfolio inside a convex limit keeps.

    Args:
        limit_id: The limit.
        slope: At the weights where it touches.
        bound: Fraction of NAV.
        leaves: Of a shortfall, each leaf's share of the mean, by the id of its multiplier.
        toward: Of a robust budget, ``(w - center) / |R'(w - center)|``.
    """

    limit_id: str
    slope: Float[np.ndarray, " n_names"]
    bound: float
    leaves: Mapping[str, float]
    toward: Float[np.ndarray, " n_names"] | None


def lay_tangents(problem: Problem, weights: Float[np.ndarray, " n_names"]) -> list[Tangent]:
    """The tangent of every shortfall, robust budget and gross at the weights.

    For ``g(x) <= b``, convex: ``g(w) + s'(x - w) <= b`` with the slope ``s`` at ``w``.

    Args:
        problem: One book's program.
        weights: Where they touch.
    """
    found = []
    for cone in problem.cones:
        leaves = cone.worst(weights) if isinstance(cone, Shortfall) else {}
        slope = cone.pressure(weights, leaves or {cone.limit_id: 1.0})
        toward = cone.away(weights) if isinstance(cone, Margin) else None
        bound = cone.bound - cone.used(weights) + float(slope @ weights)
        found.append(Tangent(cone.limit_id, slope, bound, leaves, toward))
    if problem.gross is not None:
        found.append(Tangent(GROSS, np.sign(weights), problem.gross, {}, None))
    return found


def flatten(problem: Problem, tangents: list[Tangent], ids: list[str]) -> Problem:
    """The problem with tangents, under these ids, in place of every limit that is no row."""
    if not tangents:
        return problem
    return replace(
        problem,
        row_ids=(*problem.row_ids, *ids),
        rows=np.vstack([problem.rows, *(tangent.slope for tangent in tangents)]),
        bounds=np.append(problem.bounds, [tangent.bound for tangent in tangents]),
        shortfalls=(),
        margins=(),
        gross=None,
    )


def risk_tangent(problem: Problem, weights: Float[np.ndarray, " n_names"]) -> Tangent:
    """The tangent of the cap on the tracking error at the weights.

    Args:
        problem: One book's program, with a cap.
        weights: Where it touches.
    """
    risk, volatility = problem.risk_slope(weights), float(np.sqrt(problem.active_variance(weights)))
    slope = risk / volatility if volatility > 0.0 else np.zeros(len(weights))
    bound = (problem.tracking_error or 0.0) + float(slope @ problem.benchmark)
    return Tangent(TRACKING_ERROR, slope, bound, {}, None)


def straighten(problem: Problem, weights: Float[np.ndarray, " n_names"]) -> Problem:
    """The problem with every shortfall, robust budget and gross replaced by its tangent at the weights.

    A change of a millionth of NAV misses the limit itself by its square, where no leaf of a shortfall is tied with
    another and no weight changes its sign; what is missed by more the certificate refuses.

    Args:
        problem: One book's program.
        weights: An answer inside its limits.
    """
    tangents = lay_tangents(problem, weights)
    return flatten(problem, tangents, [tangent.limit_id for tangent in tangents])
