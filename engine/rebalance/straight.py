"""Limits that are no rows as rows: their tangents at an answer, for changes that are small."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from engine.rebalance.cones import Shortfall
from engine.rebalance.problem import GROSS, Problem


def straighten(problem: Problem, weights: Float[np.ndarray, " n_names"]) -> Problem:
    """The problem with every shortfall, robust budget and gross replaced by its tangent at the weights.

    For ``g(x) <= b``, convex: ``g(w) + s'(x - w) <= b`` with the slope ``s`` at ``w``. A change of a millionth of
    NAV misses the limit itself by its square, where no leaf of a shortfall is tied with another and no weight
    changes its sign; what is missed by more the certificate refuses.

    Args:
        problem: One book's program.
        weights: An answer inside its limits.
    """
    tangents: list[tuple[str, Float[np.ndarray, " n_names"], float]] = []
    for cone in problem.cones:
        slope = cone.pressure(weights, _worst(cone, weights) if isinstance(cone, Shortfall) else {cone.limit_id: 1.0})
        tangents.append((cone.limit_id, slope, cone.bound - cone.used(weights) + float(slope @ weights)))
    if problem.gross is not None:
        tangents.append((GROSS, np.sign(weights), problem.gross))
    if not tangents:
        return problem
    return replace(
        problem,
        row_ids=(*problem.row_ids, *(name for name, _, _ in tangents)),
        rows=np.vstack([problem.rows, *(slope for _, slope, _ in tangents)]),
        bounds=np.append(problem.bounds, [bound for _, _, bound in tangents]),
        shortfalls=(),
        margins=(),
        gross=None,
    )


def _worst(limit: Shortfall, weights: Float[np.ndarray, " n_names"]) -> dict[str, float]:
    """Each leaf's share of the mean over the worst: the worst leaves first, each as far as it goes."""
    order = np.argsort(-(limit.losses @ weights - limit.offsets), kind="stable")
    before = np.append(0.0, np.cumsum(limit.tail[order])[:-1])
    shares = np.empty(len(order))
    shares[order] = np.clip(1.0 - before, 0.0, limit.tail[order])
    return dict(zip(limit.leaf_ids, shares.tolist(), strict=True))
