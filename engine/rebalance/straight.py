"""Limits that are no rows as rows: their tangents at an answer, for changes that are small."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from engine.rebalance.cones import Margin
from engine.rebalance.problem import GROSS, TRACKING_ERROR, Problem


@dataclass(frozen=True, slots=True)
class Tangent:
    """``slope'x <= bound``, which every portfolio inside a convex limit keeps.

    Args:
        limit_id: The limit.
        slope: At the weights where it touches.
        bound: Fraction of NAV.
        parts: Of a shortfall each leaf's share of the mean, of a concentration each position's of the sum, by the
            id of its multiplier.
        toward: Of a robust budget, ``(w - center) / |R'(w - center)|``.
    """

    limit_id: str
    slope: Float[np.ndarray, " n_names"]
    bound: float
    parts: Mapping[str, float]
    toward: Float[np.ndarray, " n_names"] | None


def lay_tangents(problem: Problem, weights: Float[np.ndarray, " n_names"]) -> list[Tangent]:
    """The tangent of every shortfall, concentration, robust budget and of the gross at the weights.

    For ``g(x) <= b``, convex: ``g(w) + s'(x - w) <= b`` with the slope ``s`` at ``w``.

    Args:
        problem: One book's program.
        weights: Where they touch.
    """
    found = []
    for cone in problem.cones:
        parts = {} if isinstance(cone, Margin) else cone.parts(weights)
        slope = cone.pressure(weights, parts or {cone.limit_id: 1.0})
        toward = cone.away(weights) if isinstance(cone, Margin) else None
        bound = cone.bound - cone.used(weights) + float(slope @ weights)
        found.append(Tangent(cone.limit_id, slope, bound, parts, toward))
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
        concentrations=(),
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
