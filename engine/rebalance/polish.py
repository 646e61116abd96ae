"""The last digits of an answer: the conditions of an optimum solved on the limits that a solver found to bind."""

from dataclasses import replace
from typing import Final

import numpy as np
from jaxtyping import Float

from engine.rebalance.attempt import RawAnswer
from engine.rebalance.problem import BUDGET, TRACKING_ERROR, TURNOVER, Problem

AT_REST: Final = 1e-7
"""A weight this near to a bound or to today's is taken to be there, a limit this near to bind."""

FELT: Final = 1e-6
"""A multiplier below this share of the largest is taken to be none."""

MOST: Final = 600
"""Names that may trade between their bounds; beyond it the dense system costs more than another solver."""

STEPS: Final = 4
"""Newton steps; without a cap on tracking error the system is linear and the first is the last."""


def polish(problem: Problem, raw: RawAnswer) -> RawAnswer:
    """Sharpen a solver's answer where its binding limits are known.

    With the names ``F`` that trade and stand at no bound, ``a = x - xb``, the limits ``C x = c``
    that bind (rows, budget, turnover, each with the direction in which a name trades) and the
    multipliers ``y``, ``mu``, Newton's method solves::

        (gamma + mu) (Sigma a)_F + C_F'y + direction k_F / years - alpha_F = 0
        C x = c        (a'Sigma a - te^2) / 2 = 0

    The other names stay at the bound or at today's weight that they are near. A solver that
    stops at ``x`` within 1e-8 leaves a slope of 1e-9 on every name, which on a name without
    specific risk of its own costs the certificate more than a tracker's whole objective.

    Args:
        problem: One book's program.
        raw: An answer with multipliers, near the optimum.

    Returns:
        The sharpened answer, or ``raw`` itself where there is nothing to solve for or a term
        (impact, borrowing, gross, a limit that is no row) is not in the conditions. Whether it is
        better is for the certificate to say.

    References:
        Nocedal and Wright (2006), Numerical Optimization, 18.1. Oracle: the certificate,
        tests/test_polish.py.
    """
    bent = problem.gross is not None or bool(problem.impact.any() or problem.borrow.any() or problem.cones)
    if raw.weights is None or bent:
        return raw
    x, free = _at_rest(problem, raw.weights)
    if not 0 < free.sum() <= MOST:
        return raw
    direction = np.sign(x - problem.start)
    ids, rows, ends = _binding(problem, x, direction, raw.duals)
    y = np.array([raw.duals[name] for name in ids])
    cap = problem.tracking_error if raw.duals.get(TRACKING_ERROR, 0.0) > 0.0 else None
    mu = 0.0 if cap is None else raw.duals[TRACKING_ERROR] / cap
    loads, own = problem.root[free], problem.specific[free]
    sigma = loads @ loads.T + np.diag(own)
    m, extra = len(ids), cap is not None
    charge = direction * problem.costs / problem.years - problem.alpha
    for _ in range(STEPS):
        active = x - problem.benchmark
        slope = problem.risk_slope(x)
        pull = slope[free]
        missed = [
            (problem.aversion + mu) * pull + rows[:, free].T @ y + charge[free],
            rows @ x - ends,
            [(float(active @ slope) - cap * cap) / 2.0] if cap is not None else [],
        ]
        border = np.vstack([rows[:, free], pull[None, :]]) if extra else rows[:, free]
        system = np.block([[(problem.aversion + mu) * sigma, border.T], [border, np.zeros((m + extra, m + extra))]])
        # Least squares: where neither risk nor a limit tells two names apart, the smallest step is taken.
        step = np.linalg.lstsq(system, -np.concatenate(missed), rcond=1e-15)[0]
        x = x.copy()
        x[free] += step[: free.sum()]
        y = y + step[free.sum() : free.sum() + m]
        mu += float(step[-1]) if extra else 0.0
    duals = dict.fromkeys(raw.duals, 0.0) | dict(zip(ids, np.maximum(y, 0.0).tolist(), strict=True))
    if cap is not None:
        duals[TRACKING_ERROR] = max(mu, 0.0) * cap
    return replace(raw, weights=x, duals=duals)


def _at_rest(
    problem: Problem, weights: Float[np.ndarray, " n_names"]
) -> tuple[Float[np.ndarray, " n_names"], np.ndarray]:
    """The weights with those near a bound or today's put there, and which names are left."""
    x = np.clip(weights, problem.lower, problem.upper)
    free = np.ones(len(x), dtype=bool)
    for place in (problem.lower, problem.upper, np.clip(problem.start, problem.lower, problem.upper)):
        near = free & (np.abs(x - place) <= AT_REST)
        x, free = np.where(near, place, x), free & ~near
    return x, free


def _binding(
    problem: Problem,
    x: Float[np.ndarray, " n_names"],
    direction: Float[np.ndarray, " n_names"],
    duals: dict[str, float],
) -> tuple[list[str], Float[np.ndarray, "m n_names"], Float[np.ndarray, " m"]]:
    """The limits that bind, as rows ``C x = c`` in the directions in which the names trade."""
    ids = [*problem.row_ids, BUDGET, TURNOVER]
    spent = 1.0 + problem.costs * direction
    rows = np.vstack([problem.rows, spent, direction])
    ends = np.concatenate(
        [
            problem.bounds,
            [
                problem.spendable + float((problem.costs * direction) @ problem.start),
                problem.turnover + float(direction @ problem.start),
            ],
        ]
    )
    least = FELT * max(duals.values(), default=0.0)
    binds = (np.abs(rows @ x - ends) <= 10.0 * AT_REST) & (np.array([duals.get(name, 0.0) for name in ids]) > least)
    return [name for name, chosen in zip(ids, binds, strict=True) if chosen], rows[binds], ends[binds]
