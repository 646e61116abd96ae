"""The same optimum from a part of the names: solve over a few trades, price the rest, add those that pay."""

from dataclasses import replace
from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from engine.rebalance.attempt import Attempt, RawAnswer
from engine.rebalance.direct import Trades, solve_direct
from engine.rebalance.problem import BUDGET, TRACKING_ERROR, TURNOVER, Problem

FIRST: Final = 100
"""Purchases of the first round besides the holdings: those that today's risk and costs favour most."""

FOR_EACH_ROW: Final = 10
"""Trades of the first round for every limit that is broken today: those that cure it fastest."""

ADDED: Final = 200
"""Trades added in a round at the most, those that pay most."""

WHOLE: Final = 800
"""Trades that are taken at once: one round over so many is quicker than two over fewer."""

ROUNDS: Final = 10
"""Rounds after which every trade is taken."""

WORTHLESS: Final = 1e-9
"""What a unit of a trade may save, in the objective, and the trade stay out."""


def solve_reduced(problem: Problem, attempt: Attempt) -> RawAnswer:
    """Solve a plain problem over the trades that its optimum makes.

    A name left out stays at today's weight and enters risk and limits as a constant. The
    multipliers of the part price every trade left out; those that would pay join, until none
    does. Then the multipliers prove the answer of the part for the whole, which is what the
    certificate checks on every name. A part without an answer gives way to the whole.

    Args:
        problem: The numbers; ``is_plain``.
        attempt: Solver, scaling, margin, tolerance.

    Returns:
        Weights on every name and multipliers by limit id; iterations are those of all rounds.

    References:
        MATH 5-6. Oracle: ``solve_direct`` with every trade and the cvxpy program, tests/test_direct.py.
    """
    trades = Trades.of(problem)
    chosen = np.ones(len(trades.name), dtype=bool) if len(trades.name) <= WHOLE else _first(problem, trades)
    steps = 0
    for _ in range(ROUNDS):
        raw = solve_direct(problem, trades.only(chosen), attempt)
        steps += raw.iterations
        if raw.status != "solved" or raw.weights is None:
            break
        price = _prices(problem, trades, raw.weights, raw.duals)
        pays = np.flatnonzero(~chosen & (price < -WORTHLESS))
        if not len(pays):
            return replace(raw, iterations=steps)
        chosen[pays[np.argsort(price[pays], kind="stable")[:ADDED]]] = True
    if chosen.all():
        return replace(raw, iterations=steps)
    raw = solve_direct(problem, trades, attempt)
    return replace(raw, iterations=steps + raw.iterations)


def _first(problem: Problem, trades: Trades) -> Bool[np.ndarray, " n_trades"]:
    """Every trade of a holding, the best purchases, and the best cures of limits that are broken."""
    chosen = problem.start[trades.name] != 0.0
    price = np.where(chosen, np.inf, _prices(problem, trades, trades.base, {}))
    chosen[np.argsort(price, kind="stable")[:FIRST]] = True
    for row in problem.rows[problem.rows @ trades.base > problem.bounds] if len(problem.row_ids) else ():
        chosen[np.argsort(row[trades.name] * trades.sign, kind="stable")[:FOR_EACH_ROW]] = True
    return chosen


def _prices(
    problem: Problem, trades: Trades, weights: Float[np.ndarray, " n_names"], duals: dict[str, float]
) -> Float[np.ndarray, " n_trades"]:
    """What a unit of each trade adds to the objective at these multipliers, counted as a trade away from today."""
    y_b = duals.get(BUDGET, 0.0)
    risk = problem.risk_slope(weights)
    mu = 0.0 if problem.tracking_error is None else duals.get(TRACKING_ERROR, 0.0) / problem.tracking_error
    slope = (problem.aversion + mu) * risk + y_b - problem.alpha
    if len(problem.row_ids):
        slope = slope + problem.rows.T @ np.array([duals.get(name, 0.0) for name in problem.row_ids])
    kink = problem.costs * (1.0 / problem.years + y_b) + duals.get(TURNOVER, 0.0)
    # The power has no slope where a trade begins, except of a name that its bounds have moved already.
    kink = kink + 1.5 * problem.impact / problem.years * np.sqrt(np.abs(trades.base - problem.start))
    return trades.sign * slope[trades.name] + kink[trades.name]
