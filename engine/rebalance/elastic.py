"""The smallest common violation of linear limits: the material of a proof that they cannot all be kept."""

from typing import Final

import numpy as np
from jaxtyping import Float
from scipy.optimize import linprog
from scipy.sparse import csr_array

from engine.rebalance.attempt import RawAnswer
from engine.rebalance.direct import Trades, linear_limits
from engine.rebalance.problem import BUDGET, TURNOVER, Problem

NAME: Final = "HIGHS"

EXACT: Final = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
"""As fine as HiGHS can be asked to be."""


def covered(
    pressure: Float[np.ndarray, " n_limits"],
    reduced: Float[np.ndarray, " n_trades"],
    values: Float[np.ndarray, " n_trades"],
) -> Float[np.ndarray, " n_limits"]:
    """The multipliers with that of the turnover, the second, raised until no trade that is not made would pay.

    HiGHS leaves each reduced cost within 1e-10; over a hundred thousand names whose bounds are wide that is worth more
    than a proof can spare, where the turnover is small.

    Args:
        pressure: Of the linear limits, in the order of ``linear_limits``.
        reduced: Reduced cost of each trade.
        values: The trades.
    """
    raised = pressure.copy()
    raised[1] += max(-float(reduced[values <= 0.0].min(initial=0.0)), 0.0)
    return raised


def solve_elastic(problem: Problem) -> RawAnswer:
    """Minimise one slack ``e >= 0`` that the budget, the turnover and every row share; bounds on names hold.

    ``minimise e`` with ``A v - e <= b`` and ``0 <= v <= most`` in one-sided trades ``v``, fractions of NAV. Limits
    that are not linear are left out, so that ``e`` is a lower bound of the violation that all limits share.
    Nothing here is evidence: the multipliers are, once the certificate has made a bound of them.

    Args:
        problem: The numbers; weights are bounded.

    Returns:
        The weights that violate least, a multiplier of each linear limit, ``e``; no weights where HiGHS gives none.

    References:
        MATH 6, the infeasibility form. Oracle: the elastic form of ``RebalanceProgram``, tests/test_elastic.py.
    """
    trades = Trades.of(problem)
    n = len(trades.name)
    rows, bounds = linear_limits(problem, trades)
    found = linprog(
        np.append(np.zeros(n), 1.0),
        A_ub=csr_array(np.hstack([rows, -np.ones((len(rows), 1))])),
        b_ub=bounds,
        bounds=np.column_stack([np.zeros(n + 1), np.append(trades.most, np.inf)]),
        method="highs-ds",
        options=EXACT,
    )
    if found.x is None:
        return RawAnswer(None, {}, 0.0, NAME, str(found.message)[:80], 0)
    pressure = np.maximum(-found.ineqlin.marginals, 0.0)
    pressure = covered(pressure, rows.T @ pressure, found.x[:-1])
    duals = dict(zip((BUDGET, TURNOVER, *problem.row_ids), pressure.tolist(), strict=True))
    return RawAnswer(trades.weights(found.x[:-1]), duals, float(found.x[-1]), NAME, "solved", int(found.nit))
