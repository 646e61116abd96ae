"""The smallest common violation of linear limits: the material of a proof that they cannot all be kept."""

from typing import Final

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array

from engine.rebalance.attempt import RawAnswer
from engine.rebalance.direct import Trades
from engine.rebalance.problem import BUDGET, TURNOVER, Problem

NAME: Final = "HIGHS"


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
    at, sign, base = trades.name, trades.sign, trades.base
    forced = np.abs(base - problem.start)
    limits = problem.rows.reshape(-1, len(base))
    rows = np.vstack([sign + problem.costs[at], np.ones(len(at)), limits[:, at] * sign])
    spare = [problem.spendable - base.sum() - problem.costs @ forced, problem.turnover - forced.sum()]
    bounds = np.concatenate([spare, problem.bounds - limits @ base])
    found = linprog(
        np.append(np.zeros(len(at)), 1.0),
        A_ub=csr_array(np.hstack([rows, -np.ones((len(rows), 1))])),
        b_ub=bounds,
        bounds=np.column_stack([np.zeros(len(at) + 1), np.append(trades.most, np.inf)]),
        method="highs-ds",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if found.x is None:
        return RawAnswer(None, {}, 0.0, NAME, str(found.message)[:80], 0)
    pressure = np.maximum(-found.ineqlin.marginals, 0.0).tolist()
    duals = dict(zip((BUDGET, TURNOVER, *problem.row_ids), pressure, strict=True))
    return RawAnswer(trades.weights(found.x[:-1]), duals, float(found.x[-1]), NAME, "solved", int(found.nit))
