"""The last digits of an answer with limits that are no rows: solved on their tangents, while one is missed."""

from dataclasses import replace
from typing import Final

import numpy as np
from jaxtyping import Float

from engine.rebalance.attempt import Attempt, RawAnswer
from engine.rebalance.direct import is_plain
from engine.rebalance.problem import GROSS, TRACKING_ERROR, Problem
from engine.rebalance.reduction import solve_reduced
from engine.rebalance.straight import Tangent, flatten, lay_tangents, risk_tangent

ROUNDS: Final = 40
"""Times that tangents are laid; near the optimum two or three are enough."""

SAME: Final = 1e-9
"""Slopes this near are of one piece."""

MET: Final = 1e-11
"""A limit missed by less than this needs no further tangent."""


def has_pieces(problem: Problem) -> bool:
    """Whether every limit that is no row is linear by pieces, and everything else plain."""
    bare = replace(problem, shortfalls=(), concentrations=())
    return bool(problem.cones) and is_plain(bare)


def solve_by_pieces(problem: Problem, attempt: Attempt) -> RawAnswer:
    """Solve a problem whose further limits are linear by pieces from today's weights: a piece joins when it is missed.

    Args:
        problem: The numbers; ``has_pieces``.
        attempt: Solver, scaling, margin.

    Returns:
        As ``solve_on_tangents``; no weights where it ends without an answer.

    References:
        Kelley (1960). Oracle: the cvxpy program of the same problem, tests/test_concentration.py.
    """
    today = RawAnswer(problem.start, {}, 0.0, attempt.solver, "a piece is still missed", 0)
    found = solve_on_tangents(problem, today, attempt)
    return replace(today, weights=None) if found is today else found


def solve_on_tangents(problem: Problem, raw: RawAnswer, attempt: Attempt) -> RawAnswer:
    """Sharpen an answer near the optimum: Kelley's cuts, the objective in full.

    A cone's interior point stops at weights within 1e-8 where what is left inside its limits is thin. On the
    tangents the program has linear limits only, which a solver meets to the last digits; the tangents that
    bind carry the multipliers, and mixed by them the leaves and the direction that the certificate is told.

    Args:
        problem: One book's program.
        raw: An answer near the optimum.
        attempt: Solver, scaling, margin.

    Returns:
        The sharpened answer; ``raw`` where another term than these limits is not linear, a round gives
        none or a limit is still missed after the last.

    References:
        Kelley (1960), The cutting-plane method for solving convex programs. Oracle: the certificate,
        tests/test_tangents.py.
    """
    if raw.weights is None:
        return raw
    tangents = _all_tangents(problem, np.clip(raw.weights, problem.lower, problem.upper))
    if not tangents:
        return raw
    for _ in range(ROUNDS):
        ids = [f"{tangent.limit_id}#{at}" for at, tangent in enumerate(tangents)]
        flat = replace(flatten(problem, tangents, ids), tracking_error=None)
        if not is_plain(flat):
            return raw
        found = solve_reduced(flat, attempt)
        if found.weights is None or found.status != "solved" or not np.isfinite(found.weights).all():
            return raw
        if max(_missed(problem, found.weights)) <= MET:
            return _gathered(problem, found, tangents, ids)
        tangents = _renewed(tangents, _all_tangents(problem, found.weights))
    return raw


def _renewed(old: list[Tangent], new: list[Tangent]) -> list[Tangent]:
    """Every tangent laid so far, of those of one piece the newest."""
    return [one for one in old if not any(_same_piece(one, other) for other in new)] + new


def _same_piece(one: Tangent, other: Tangent) -> bool:
    return one.limit_id == other.limit_id and bool(np.abs(one.slope - other.slope).max(initial=0.0) <= SAME)


def _all_tangents(problem: Problem, weights: Float[np.ndarray, " n_names"]) -> list[Tangent]:
    """Those of ``lay_tangents`` and of a cap on the tracking error, which other programs keep as it is."""
    found = lay_tangents(problem, weights)
    return found if problem.tracking_error is None else [*found, risk_tangent(problem, weights)]


def _missed(problem: Problem, weights: Float[np.ndarray, " n_names"]) -> list[float]:
    missed = [cone.used(weights) - cone.bound for cone in problem.cones]
    if problem.gross is not None:
        missed.append(float(np.abs(weights).sum()) - problem.gross)
    if problem.tracking_error is not None:
        missed.append(float(np.sqrt(problem.active_variance(weights))) - problem.tracking_error)
    return missed


def _gathered(problem: Problem, found: RawAnswer, tangents: list[Tangent], ids: list[str]) -> RawAnswer:
    """The answer with the multipliers of the tangents as those of their limits."""
    duals = {name: value for name, value in found.duals.items() if name not in set(ids)}
    duals |= dict.fromkeys([cone.limit_id for cone in problem.cones], 0.0)
    duals |= {} if problem.gross is None else {GROSS: 0.0}
    duals |= {} if problem.tracking_error is None else {TRACKING_ERROR: 0.0}
    directions: dict[str, Float[np.ndarray, " n_names"]] = {}
    for name, tangent in zip(ids, tangents, strict=True):
        pressure = found.duals.get(name, 0.0)  # none where nothing may trade
        duals[tangent.limit_id] += pressure
        for part, share in tangent.parts.items():
            duals[part] = duals.get(part, 0.0) + pressure * share
        if tangent.toward is not None:
            directions[tangent.limit_id] = directions.get(tangent.limit_id, 0.0) + pressure * tangent.toward
    mixed = {name: toward / duals[name] for name, toward in directions.items() if duals[name] > 0.0}
    names = problem.names.labels
    return replace(
        found,
        duals=duals,
        directions={name: dict(zip(names, toward.tolist(), strict=True)) for name, toward in mixed.items()},
    )
