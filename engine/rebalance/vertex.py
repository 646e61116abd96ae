"""An answer where the limits leave next to no inside: at a vertex of them, by simplex."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from jaxtyping import Float
from scipy.optimize import linprog
from scipy.sparse import csr_array

from engine.rebalance.attempt import RawAnswer
from engine.rebalance.direct import Trades, is_plain, linear_limits
from engine.rebalance.elastic import EXACT, NAME, covered
from engine.rebalance.problem import BUDGET, TURNOVER, Problem

TIMES: Final = 4
"""Slopes that are tried; where two vertices are left, the better is among the first."""


def solve_on_vertices(problem: Problem, near: Float[np.ndarray, " n_names"]) -> Iterator[RawAnswer]:
    """Minimise the slope of the objective at an answer over limits that leave next to nothing besides it.

    Limits that gave way leave a polytope of a billionth's width around the answer that says so: an interior point
    finds no way in it, while its vertices are a simplex method's own ground, and the objective has no room to bend.
    Each round takes the slope at the vertex before::

        s = sign (gamma Sigma (x - xb) - alpha) + (k + 3/2 c sqrt|x - x0|) / years

    Args:
        problem: One book's program.
        near: Weights inside the limits, or nearly.

    Returns:
        One answer a round with the multipliers of its vertex; none where the problem has a limit that is not linear,
        or nothing may trade.

    References:
        Frank and Wolfe (1956). Oracle: the certificate and the cvxpy program, tests/test_vertex.py.
    """
    if not is_plain(problem) or problem.tracking_error is not None:
        return
    trades = Trades.of(problem)
    if not len(trades.name):
        return
    rows, bounds = linear_limits(problem, trades)
    matrix, x = csr_array(rows), np.clip(near, problem.lower, problem.upper)
    for _ in range(TIMES):
        slope = problem.aversion * problem.risk_slope(x) - problem.alpha
        kink = (problem.costs + 1.5 * problem.impact * np.sqrt(np.abs(x - problem.start))) / problem.years
        price = trades.sign * slope[trades.name] + kink[trades.name]
        found = linprog(
            price,
            A_ub=matrix,
            b_ub=bounds,
            bounds=np.column_stack([np.zeros(len(trades.most)), trades.most]),
            method="highs-ds",
            options=EXACT,
        )
        if found.x is None:
            return
        last, x = x, trades.weights(found.x)
        pressure = np.maximum(-found.ineqlin.marginals, 0.0)
        pressure = covered(pressure, price + rows.T @ pressure, found.x)
        duals = dict(zip((BUDGET, TURNOVER, *problem.row_ids), pressure.tolist(), strict=True))
        yield RawAnswer(x, duals, 0.0, NAME, "solved", int(found.nit))
        if np.array_equal(x, last):
            return
