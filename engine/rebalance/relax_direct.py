"""The least of what may give way where every limit is linear: as matrices, by simplex."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy.optimize import linprog
from scipy.sparse import block_array, csr_array

from engine.rebalance.direct import Trades, linear_limits
from engine.rebalance.elastic import EXACT, covered
from engine.rebalance.problem import BUDGET, TURNOVER, Problem
from engine.rebalance.relax_slack import RelaxedAnswer, Slack, limit_ids


def is_straight(problem: Problem) -> bool:
    """Whether every limit is linear as it stands."""
    return problem.tracking_error is None and problem.gross is None and not problem.cones


def solve_level(problem: Problem, slack: Slack) -> RelaxedAnswer | None:
    """The program of ``RelaxProgram`` in one-sided trades ``v``, by HiGHS.

    minimise ``price'e + weight_price (sum low + sum high) + c`` with ``A v - e - c <= b``, the bounds that may give
    way as rows of the names that have room, every other one a bound of ``v``, and ``sum e <= total`` of the earlier
    levels.

    Args:
        problem: The numbers; ``is_straight``.
        slack: What may give way.

    Returns:
        As ``RelaxProgram.solve``: None where HiGHS gives none.

    References:
        MATH 5. Oracle: ``RelaxProgram``, tests/test_relax_direct.py.
    """
    n = len(problem.start)
    low = problem.lower if slack.lower is None else slack.lower
    high = problem.upper if slack.upper is None else slack.upper
    low_most = np.zeros(n) if slack.low_most is None else slack.low_most
    high_most = np.zeros(n) if slack.high_most is None else slack.high_most
    soft_low = np.flatnonzero((low_most > 0.0) | slack.weights_together)
    soft_high = np.flatnonzero((high_most > 0.0) | slack.weights_together)
    lower, upper = np.maximum(problem.lower, low), np.minimum(problem.upper, high)
    lower[soft_low], upper[soft_high] = problem.lower[soft_low], problem.upper[soft_high]
    if (lower > upper).any():
        return None
    trades = Trades.of(replace(problem, lower=lower, upper=upper))
    at, sign, base = trades.name, trades.sign, trades.base
    ids = (BUDGET, TURNOVER, *problem.row_ids)
    own, rest = linear_limits(problem, trades)
    moves = csr_array((sign, (at, np.arange(len(at)))), shape=(n, len(at)))
    shared = np.array([[float(name in slack.together)] for name in ids])
    together = np.full((len(soft_low) + len(soft_high), 1), float(slack.weights_together))
    levels = sorted(slack.held)
    members = np.array([[float(name in slack.held[one][0]) for name in ids] for one in levels]).reshape(-1, len(ids))
    counted = np.array([float(one == slack.weight_level) for one in levels])[:, None]
    bend = len(soft_low) + len(soft_high)
    narrow = block_array([[-moves[soft_low]], [moves[soft_high]]]) if bend else csr_array((0, len(at)))
    matrix = block_array(
        [
            [csr_array(own), -csr_array(np.eye(len(ids))), csr_array((len(ids), bend)), csr_array(-shared)],
            [narrow, csr_array((bend, len(ids))), -_unit(bend), csr_array(-together)],
            [
                csr_array((len(levels), len(at))),
                csr_array(members),
                csr_array(counted * np.ones((1, bend))),
                csr_array((len(levels), 1)),
            ],
        ],
        format="csr",
    )
    bounds = np.concatenate(
        [
            rest,
            base[soft_low] - low[soft_low],
            high[soft_high] - base[soft_high],
            [slack.held[one][1] for one in levels],
        ]
    )
    price = [slack.price.get(name, 0.0) for name in ids]
    most = [slack.most.get(name, 0.0) for name in ids]
    ends = np.concatenate([trades.most, most, low_most[soft_low], high_most[soft_high], [np.inf]])
    found = linprog(
        np.concatenate([np.zeros(len(at)), price, np.full(bend, slack.weight_price), [1.0]]),
        A_ub=matrix,
        b_ub=bounds,
        bounds=np.column_stack([np.zeros(len(ends)), ends]),
        method="highs-ds",
        options=EXACT,
    )
    if found.x is None:
        return None
    parts = np.split(found.x, np.cumsum([len(at), len(ids), len(soft_low), len(soft_high)]))
    marginals = np.maximum(-found.ineqlin.marginals, 0.0)
    pressure = np.split(marginals, np.cumsum([len(ids), len(soft_low), len(soft_high)]))
    pressure[0] = covered(pressure[0], (matrix.T @ marginals)[: len(at)], parts[0])
    absent = dict.fromkeys(limit_ids(problem), 0.0)
    return RelaxedAnswer(
        weights=np.clip(trades.weights(parts[0]), problem.lower, problem.upper),
        gives=absent | dict(zip(ids, parts[1].tolist(), strict=True)),
        low_gives=_spread(n, soft_low, parts[2]),
        high_gives=_spread(n, soft_high, parts[3]),
        common=float(parts[4][0]),
        duals=absent | dict(zip(ids, pressure[0].tolist(), strict=True)),
        low_duals=_spread(n, soft_low, pressure[1]),
        high_duals=_spread(n, soft_high, pressure[2]),
        held=dict(zip(levels, pressure[3].tolist(), strict=True)),
        directions={},
    )


def _unit(size: int) -> csr_array:
    return csr_array((np.ones(size), (np.arange(size), np.arange(size))), shape=(size, size))


def _spread(n: int, at: np.ndarray, values: Float[np.ndarray, " m"]) -> Float[np.ndarray, " n"]:
    whole = np.zeros(n)
    whole[at] = values
    return whole
