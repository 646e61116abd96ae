"""The last digits of what gives way: limits that are no rows by their tangents, their bend in the objective."""

from dataclasses import replace
from typing import Final

import numpy as np
from jaxtyping import Float

from engine.rebalance.problem import TRACKING_ERROR, Problem
from engine.rebalance.relax_program import Bend, RelaxPrograms
from engine.rebalance.relax_slack import RelaxedAnswer, Slack
from engine.rebalance.straight import Tangent, flatten, lay_tangents, risk_tangent

STEPS: Final = 10
"""Each doubles the digits; the first starts with five or six."""

FARTHEST: Final = 1e-4
"""A step farther than this, fraction of NAV, comes from multipliers that are none."""

AT_REST: Final = 1e-11


def take_steps(problem: Problem, slack: Slack, found: RelaxedAnswer, programs: RelaxPrograms) -> RelaxedAnswer:
    """Newton's method on one level's program, from an interior point's answer.

    A step keeps the tangents of the cap on the tracking error and of the robust budgets at the weights and adds
    ``sum_j y_j / (2 size_j) |R_j'(x - w)|^2`` to the price, the bend that the tangents leave out. At rest the
    multipliers are those of the tangents at the weights themselves, which is what the certificate is told.

    Args:
        problem: The numbers; its bounds on weights hold.
        slack: What may give way.
        found: An answer near the least.
        programs: Compiled programs to reuse.

    Returns:
        The sharpest answer before a step finds none or goes far; ``found`` itself where nothing bends.

    References:
        Nocedal and Wright (2006), Numerical Optimization, 18.1. Oracle: a second program,
        tests/test_relax_cones.py.
    """
    if problem.tracking_error is None and not problem.margins:
        return found
    last = found
    for _ in range(STEPS):
        tangents = _smooth(problem, last.weights)
        # The row takes the id of the cap, whose own place in the program is empty without one.
        flat = replace(
            flatten(problem, tangents, [one.limit_id for one in tangents]),
            tracking_error=None,
            shortfalls=problem.shortfalls,
            concentrations=problem.concentrations,
            gross=problem.gross,
        )
        step = programs.solve(flat, slack, bend=_bend(problem, last))
        moved = np.inf if step is None else float(np.abs(step.weights - last.weights).max(initial=0.0))
        if step is None or moved > FARTHEST:
            break
        last = step
        if moved < AT_REST:
            break
    return last


def _smooth(problem: Problem, weights: Float[np.ndarray, " n_names"]) -> list[Tangent]:
    found = lay_tangents(replace(problem, shortfalls=(), concentrations=(), gross=None), weights)
    return found if problem.tracking_error is None else [*found, risk_tangent(problem, weights)]


def _bend(problem: Problem, at: RelaxedAnswer) -> Bend:
    """``sum_j y_j / size_j R_j R_j'`` as columns and a diagonal, around the weights."""
    columns, own = [np.zeros((len(at.weights), 0))], np.zeros(len(at.weights))
    for one in problem.margins:
        size = one.margin(at.weights)
        share = at.duals.get(one.limit_id, 0.0) / size if size > 0.0 else 0.0
        columns.append(np.sqrt(share) * one.shared)
        own = own + share * one.own**2
    if problem.tracking_error is not None:
        size = float(np.sqrt(problem.active_variance(at.weights)))
        share = at.duals.get(TRACKING_ERROR, 0.0) / size if size > 0.0 else 0.0
        columns.append(np.sqrt(share) * problem.root)
        own = own + share * problem.specific
    return Bend(np.hstack(columns), np.sqrt(own), at.weights)
