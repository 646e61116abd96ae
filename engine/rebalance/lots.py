"""Whole lots: a continuous answer rounded to what can be traded, and repaired until every limit holds."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from engine.conventions import OPTIMALITY
from engine.rebalance.lot_grid import NEARLY, ROUND_OFF, Grid, round_down, round_up
from engine.rebalance.lot_state import LotState, Moves, Reach, objective
from engine.rebalance.problem import Problem

SMALLEST_OBJECTIVE: Final = 1e-8
"""Smallest objective that an improvement is measured against."""

WORTH_A_LOOK: Final = 0.1
"""A change counts that removes at least this part of what the best one removes: lots of one share of a large
book would otherwise be repaired share by share."""

REPAIRS: Final = 200
"""Changes at most from one beginning."""

DEVIATIONS: Final = 3.0
"""Standard deviations of what rounding does to a limit, by which a second beginning is inside it."""

INWARD: Final = 5
"""Times that such a beginning is moved inside again, where rounding it broke a limit."""

IMPROVEMENTS: Final = 32
"""Changes at most to take back what rounding and repair cost."""

WORTH_A_TRADE: Final = 1e-6
"""What the objective must gain, a hundredth of a basis point of NAV a year, before a name is traded that was to be left
alone."""

PAIRED: Final = 16
"""Changes that are tried together with every other one, where no single one helps."""


@dataclass(frozen=True, slots=True)
class RoundedAnswer:
    """Whole lots near a continuous answer; nothing here is evidence.

    Args:
        quantities: Shares after.
        weights: Their weights.
        violation: Largest violation that is left, fraction of NAV.
        worst: The limit that is missed most, or most nearly.
        unrepaired: Largest violation of plain rounding.
        broken: The limit that plain rounding misses most, or most nearly.
        steps: Changes made since.
        by: ``lots`` or the solver.
    """

    quantities: Float[np.ndarray, " n_names"]
    weights: Float[np.ndarray, " n_names"]
    violation: float
    worst: str
    unrepaired: float
    broken: str
    steps: int
    by: str = "lots"


def round_to_lots(problem: Problem, grid: Grid, weights: Float[np.ndarray, " n_names"]) -> RoundedAnswer:
    """Round every name to the nearest allowed quantity, repair the limits, take back what was lost on the way.

    Rounding moves sums, so limits that bind are missed by about a lot. Each repair step takes, of
    the changes of one name by one lot, by as many lots as cure the worst limit, or back to today,
    the one that adds least to the objective per unit of violation removed; where none helps, the best
    pair of changes. A walk that is stuck begins again from weights moved further inside the limits, then from
    today's. Then single lots and pairs that improve the objective inside the limits are taken.

    Args:
        problem: Limits and objective.
        grid: The allowed quantities.
        weights: The continuous answer.

    Returns:
        The last state, whether or not every limit holds.

    References:
        MATH 5. Oracle: enumeration of every allowed quantity, tests/test_lots.py.
    """
    plain = LotState.of(problem, grid, _nearest(problem, grid, weights))
    kept, traded = _as_kept(problem, weights), weights != problem.start
    state, steps = _walk(LotState.of(kept, grid, plain.quantities, traded))
    if state.total() > 0.0:
        # A walk that is stuck may find its way from further inside the limits, or from today's quantities.
        inner = plain
        for _ in range(INWARD):
            inner = LotState.of(kept, grid, _nearest(problem, grid, _inward(inner)), traded)
            if inner.total() == 0.0:
                break
        today = LotState.of(kept, grid, _nearest(problem, grid, problem.start), traded)
        for begin in (inner, today):
            other, taken = _walk(begin) if state.total() > 0.0 else (state, steps)
            state, steps = (other, taken) if other.total() < state.total() else (state, steps)
    enough = OPTIMALITY * max(objective(problem, weights), SMALLEST_OBJECTIVE)
    aim = objective(problem, weights) + enough
    for _ in range(IMPROVEMENTS if state.total() == 0.0 else 0):
        better = None if objective(problem, state.weights) <= aim else _improved(state, enough)
        if better is None:
            break
        state, steps = better, steps + 1
    last = LotState.of(problem, grid, state.quantities)
    return RoundedAnswer(
        quantities=last.quantities,
        weights=last.weights,
        violation=last.violation(),
        worst=last.worst_limit(),
        unrepaired=plain.violation(),
        broken=plain.worst_limit(),
        steps=steps,
    )


def _walk(state: LotState) -> tuple[LotState, int]:
    """Repair until nothing more is to be done or can be, or the limit of steps."""
    for taken in range(REPAIRS):
        after = _repaired(state)
        if after is None:
            return state, taken
        state = after
    return state, REPAIRS


def _as_kept(problem: Problem, weights: Float[np.ndarray, " n_names"]) -> Problem:
    """The limits as far as the continuous answer keeps them: what it misses by rounding, lots may miss."""
    traded = np.abs(weights - problem.start)
    cap = problem.tracking_error
    spent = float(weights.sum() + problem.costs @ traded)
    if cap is not None:
        cap += _missed(float(np.sqrt(problem.active_variance(weights))) - cap)
    return replace(
        problem,
        spendable=problem.spendable + _missed(spent - problem.spendable),
        turnover=problem.turnover + _missed(float(traded.sum()) - problem.turnover),
        bounds=problem.bounds + np.clip(problem.rows @ weights - problem.bounds, 0.0, NEARLY),
        tracking_error=cap,
    )


def _missed(excess: float) -> float:
    return min(max(excess, 0.0), NEARLY)


def _nearest(problem: Problem, grid: Grid, weights: Float[np.ndarray, " n_names"]) -> Float[np.ndarray, " n_names"]:
    """The allowed quantity nearest to the continuous one; today's where the continuous answer leaves a name."""
    wanted = weights / grid.unit
    count = np.floor(wanted / grid.lot)
    choices = np.array([np.where(grid.stays, grid.held, np.inf), grid.below(count), grid.above(count + 1.0)])
    distance = np.where(np.isfinite(choices), np.abs(choices - wanted), np.inf)
    best = choices[distance.argmin(axis=0), np.arange(len(wanted))]
    kept = (grid.stays & (weights == problem.start)) | ~np.isfinite(best)
    return np.where(kept, grid.held, best)


def _inward(plain: LotState) -> Float[np.ndarray, " n_names"]:
    """The rounded weights, moved back inside the limits over the names whose trade is many lots.

    Rounding these again moves a limit ``a'x`` by about ``sqrt(sum (a_i lot_i)^2 / 12)``; the shortest change
    that brings each limit that is missed, or nearly, ``DEVIATIONS`` of that below its bound is taken.
    """
    problem, weights = plain.problem, plain.weights
    step, sign = plain.grid.lot * plain.grid.unit, np.sign(weights - problem.start)
    room = np.minimum(np.minimum(weights - problem.lower, problem.upper - weights), np.abs(weights - problem.start))
    free = room > DEVIATIONS * step
    slopes = np.vstack([1.0 + problem.costs * sign, sign, problem.rows])
    if problem.tracking_error is not None:
        slopes = np.vstack([slopes, plain.pull / np.sqrt(max(plain.variance, ROUND_OFF))])
    excess = plain.all_excess()
    margin = DEVIATIONS * np.sqrt(((slopes[:, free] * step[free]) ** 2).sum(axis=1) / 12.0)
    binds = excess > -margin
    inside = weights.copy()
    if binds.any() and free.any():
        inside[free] += np.linalg.lstsq(slopes[np.ix_(binds, free)], -(margin + excess)[binds], rcond=1e-9)[0]
    return np.clip(inside, problem.lower, problem.upper)


def _one_lot(state: LotState, reach: Reach) -> list[Float[np.ndarray, " n_some"]]:
    """The next allowed quantity above and below, and today's."""
    grid, today = reach.grid, np.where(reach.grid.stays, reach.grid.held, np.inf)
    count = state.quantities[reach.at] / grid.lot
    return [grid.above(round_down(count) + 1.0), grid.below(round_up(count) - 1.0), today]


def _as_many_as_cure(state: LotState, reach: Reach) -> list[Float[np.ndarray, " n_some"]]:
    """So many lots up and down that the worst limit holds, by its slope."""
    grid, excess = reach.grid, state.all_excess()
    worst = int(excess.argmax())
    if worst == len(state.excess):
        sizes = np.abs(state.pull[reach.at] / np.sqrt(max(state.variance, ROUND_OFF)))
    else:
        sizes = np.abs(reach.lines[worst])
    lots = np.ceil(excess[worst] / np.maximum(sizes * grid.lot * grid.unit, ROUND_OFF**2))
    count = state.quantities[reach.at] / grid.lot
    return [grid.above(round_down(count) + lots), grid.below(round_up(count) - lots)]


def _everything(state: LotState) -> Reach:
    return Reach.of(state.problem, state.grid, np.ones(len(state.quantities), dtype=bool))


def _repaired(state: LotState) -> LotState | None:
    """The state after the best change that removes violation; None where no one and no pair does.

    A name that was to be left alone is traded only where the others do not help.
    """
    if state.total() == 0.0:
        return None
    return _repaired_by(state, state.reach) or _repaired_by(state, _everything(state))


def _repaired_by(state: LotState, reach: Reach) -> LotState | None:
    moves = state.moves(np.array([*_one_lot(state, reach), *_as_many_as_cure(state, reach)]), reach)
    if not len(moves.place):
        return None
    before = state.total()
    left, added = state.singles(moves)
    found = _cheapest(before - left, added)
    if found is not None:
        return state.after(moves.chosen([found]))
    some = moves.chosen(_promising(left, added))
    left_of_two, added_by_two = state.pairs(some, moves)
    found = _cheapest((before - left_of_two).ravel(), added_by_two.ravel())
    return None if found is None else _after_both(state, some, moves, found)


def _after_both(state: LotState, first: Moves, second: Moves, found: int) -> LotState:
    one, other = divmod(found, len(second.place))
    return state.after(first.chosen([one]), second.chosen([other]))


def _cheapest(removed: Float[np.ndarray, " n"], added: Float[np.ndarray, " n"]) -> int | None:
    """The change that adds least to the objective per unit of violation removed."""
    most = float(removed.max())
    if not most > ROUND_OFF:
        return None
    price = np.full(len(removed), np.inf)
    counted = removed >= WORTH_A_LOOK * most
    price[counted] = added[counted] / removed[counted]
    return int(price.argmin())


def _improved(state: LotState, enough: float) -> LotState | None:
    """The state after the best change inside the limits; None where nothing more is worth it.

    A name that was to be left alone is traded only where that is worth a trade.
    """
    alone = max(enough, WORTH_A_TRADE)
    return _improved_by(state, state.reach, enough) or _improved_by(state, _everything(state), alone)


def _improved_by(state: LotState, reach: Reach, enough: float) -> LotState | None:
    moves = state.moves(np.array(_one_lot(state, reach)), reach)
    if not len(moves.place):
        return None
    left, added = state.singles(moves)
    best = np.where(left == 0.0, added, np.inf)
    if float(best.min()) < -enough:
        return state.after(moves.chosen([int(best.argmin())]))
    some = moves.chosen(_promising(left, added))
    found = state.best_pair(some, moves, enough)
    return None if found is None else _after_both(state, some, moves, found)


def _promising(left: Float[np.ndarray, " n"], added: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n_chosen"]:
    """The changes that leave least violation and those that add least, half of each."""
    half = PAIRED // 2
    return np.union1d(np.lexsort((added, left))[:half], np.argsort(added, kind="stable")[:half])
