"""Quantities of a book with what they use of every limit, and what changes of them would."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

from engine.rebalance.lot_grid import ROUND_OFF, Grid
from engine.rebalance.problem import BUDGET, TRACKING_ERROR, TURNOVER, Problem

AT_ONCE: Final = 1024
"""Pairs of changes whose limits are read at once."""


def objective(problem: Problem, weights: Float[np.ndarray, " n_names"]) -> float:
    """Value of weights, as the program states it."""
    risk = problem.active_variance(weights)
    return problem.aversion / 2.0 * risk + float(problem.costs @ np.abs(weights - problem.start)) / problem.years


@dataclass(frozen=True, slots=True)
class Reach:
    """Some names of a book, and what a unit of weight of each does.

    Args:
        at: Their positions.
        grid: Their allowed quantities.
        start: Today's weights.
        costs: ``k``.
        lines: What a unit of weight uses of every limit but the tracking error, the costs of trading left out.
        sizes: The most of that, costs included.
        root: Their rows of ``R``.
        own: Variance of a unit of weight.
    """

    at: Int[np.ndarray, " n_some"]
    grid: Grid
    start: Float[np.ndarray, " n_some"]
    costs: Float[np.ndarray, " n_some"]
    lines: Float[np.ndarray, "n_limits n_some"]
    sizes: Float[np.ndarray, "n_limits n_some"]
    root: Float[np.ndarray, "n_some n_columns"]
    own: Float[np.ndarray, " n_some"]

    @staticmethod
    def of(problem: Problem, grid: Grid, among: Bool[np.ndarray, " n_names"]) -> "Reach":
        """The names that are marked."""
        at = np.flatnonzero(among)
        costs, root = problem.costs[at], problem.root[at]
        lines = np.vstack([np.ones((2, len(at))), problem.rows[:, at]])
        sizes = np.vstack([1.0 + costs, np.abs(lines[1:])])
        own = (root**2).sum(axis=1) + problem.specific[at]
        return Reach(at, grid.of(at), problem.start[at], costs, lines, sizes, root, own)


@dataclass(frozen=True, slots=True)
class Moves:
    """Changes of single names.

    Args:
        reach: The names that may change.
        place: Which of them each changes.
        to: Shares after.
        weight: Change of the weight.
        traded: Change of the size of the trade.
        most: By how much any of them changes the use of each limit at most.
    """

    reach: Reach
    place: Int[np.ndarray, " n_moves"]
    to: Float[np.ndarray, " n_moves"]
    weight: Float[np.ndarray, " n_moves"]
    traded: Float[np.ndarray, " n_moves"]
    most: Float[np.ndarray, " n_limits"]

    def chosen(self, which: Int[np.ndarray, " n_chosen"] | list[int]) -> "Moves":
        """Some of them."""
        return Moves(self.reach, self.place[which], self.to[which], self.weight[which], self.traded[which], self.most)

    @property
    def at(self) -> Int[np.ndarray, " n_moves"]:
        """The position of each name in the book."""
        return self.reach.at[self.place]

    @property
    def cost(self) -> Float[np.ndarray, " n_moves"]:
        """What each adds to what trading costs."""
        return self.traded * self.reach.costs[self.place]

    def linear(self, counted: Bool[np.ndarray, " n_limits"]) -> Float[np.ndarray, "n_counted n_moves"]:
        """What each adds to the use of the limits that count."""
        uses = self.reach.lines[counted].take(self.place, axis=1)
        uses *= self.weight
        if counted[0]:
            uses[0] += self.cost
        if counted[1]:
            uses[int(counted[0])] = self.traded
        return uses


@dataclass(frozen=True, slots=True)
class LotState:
    """Quantities with what they use of every limit; ``traded`` are the names of which a trade is meant anyway.

    A limit that no change at hand can bring to its bound is left out of the sums over limits: it would add nothing.
    """

    problem: Problem
    grid: Grid
    quantities: Float[np.ndarray, " n_names"]
    weights: Float[np.ndarray, " n_names"]
    excess: Float[np.ndarray, " n_limits"]
    pull: Float[np.ndarray, " n_names"]
    variance: float
    traded: Bool[np.ndarray, " n_names"]
    reach: Reach

    @staticmethod
    def of(
        problem: Problem,
        grid: Grid,
        quantities: Float[np.ndarray, " n_names"],
        meant: Bool[np.ndarray, " n_names"] | None = None,
        reach: Reach | None = None,
    ) -> "LotState":
        """Measured anew, so that errors do not add up over the steps."""
        weights = grid.weights(quantities, problem.start)
        traded = np.abs(weights - problem.start)
        active = weights - problem.benchmark
        pull = problem.risk_slope(weights)
        spent = float(weights.sum() + problem.costs @ traded) - problem.spendable
        sums = np.array([spent, float(traded.sum()) - problem.turnover])
        excess = np.concatenate([sums, problem.rows @ weights - problem.bounds])
        meant = quantities != grid.held if meant is None else meant | (quantities != grid.held)
        if reach is None or int(meant.sum()) != len(reach.at):
            reach = Reach.of(problem, grid, meant)
        return LotState(problem, grid, quantities, weights, excess, pull, float(active @ pull), meant, reach)

    def all_excess(self) -> Float[np.ndarray, " n_limits"]:
        """Use less bound of every limit, the tracking error last."""
        cap = self.problem.tracking_error
        if cap is None:
            return self.excess
        return np.append(self.excess, np.sqrt(max(self.variance, 0.0)) - cap)

    def outside(self) -> Float[np.ndarray, " n_names"]:
        """How far each name is outside its bounds; only names that no allowed quantity can bring inside are."""
        return np.maximum(self.problem.lower - self.weights, self.weights - self.problem.upper)

    def violation(self) -> float:
        """The largest."""
        return max(float(self.all_excess().max()), float(self.outside().max()), 0.0)

    def total(self) -> float:
        """Sum of the violations that are more than rounding."""
        return float(beyond(self.all_excess()).sum())

    def worst_limit(self) -> str:
        """Id of the limit missed most, or most nearly."""
        excess, outside = self.all_excess(), self.outside()
        at = int(outside.argmax())
        if outside[at] > max(float(excess.max()), ROUND_OFF):
            below = self.problem.lower[at] > self.weights[at]
            return self.problem.lower_id(at) if below else self.problem.upper_id(at)
        return (BUDGET, TURNOVER, *self.problem.row_ids, TRACKING_ERROR)[int(excess.argmax())]

    def moves(self, to: Float[np.ndarray, "n_kinds n_some"], reach: Reach) -> Moves:
        """The changes of some names to the given quantities that are changes and are allowed."""
        grid, now = reach.grid, self.weights[reach.at]
        real = np.isfinite(to) & (to != self.quantities[reach.at])
        place, to = np.nonzero(real)[1], to[real]
        start = reach.start[place]
        weight = np.where(to == grid.held[place], start, to * grid.unit[place])
        change = weight - now[place]
        traded = np.abs(weight - start) - np.abs(now[place] - start)
        sizes = np.zeros(real.shape)
        sizes[real] = np.abs(change)
        most = (reach.sizes * sizes.max(axis=0)).max(axis=1, initial=0.0)
        return Moves(reach, place, to, change, traded, most)

    def singles(self, moves: Moves) -> tuple[Float[np.ndarray, " n_moves"], Float[np.ndarray, " n_moves"]]:
        """What each change leaves of the violations, and what it adds to the objective."""
        counted = self.excess + moves.most > 0.0
        uses = moves.linear(counted)
        uses += self.excess[counted][:, None]
        variance = self._own(moves)
        return self._left(uses, variance), self._added(variance, moves.cost)

    def pairs(self, first: Moves, second: Moves) -> tuple[Float[np.ndarray, "n m"], Float[np.ndarray, "n m"]]:
        """The same of one change of each, of different names, together."""
        one, other = self._of_both(first, second)
        variance, added = self._risk_of_both(first, second)
        left = self._left(one[:, :, None] + other[:, None, :], variance)
        return np.where(first.at[:, None] == second.at, np.inf, left), added

    def best_pair(self, first: Moves, second: Moves, enough: float) -> int | None:
        """The pair inside the limits that takes most from the objective, if more than ``enough``; its place in a row.

        The limits are read in the order of what the pairs take, until one is inside.
        """
        one, other = self._of_both(first, second)
        variance, added = (both.ravel() for both in self._risk_of_both(first, second))
        worth = np.flatnonzero(added < -enough)
        worth = worth[np.argsort(added[worth], kind="stable")]
        for begin in range(0, len(worth), AT_ONCE):
            some = worth[begin : begin + AT_ONCE]
            row, column = np.divmod(some, len(second.place))
            inside = np.flatnonzero(self._left(one[:, row] + other[:, column], variance[some]) == 0.0)
            if len(inside):
                return int(some[inside[0]])
        return None

    def _of_both(
        self, first: Moves, second: Moves
    ) -> tuple[Float[np.ndarray, "n_counted n"], Float[np.ndarray, "n_counted m"]]:
        """Use less bound after the first of two changes, and what the second adds, of the limits that count."""
        counted = self.excess + first.most + second.most > 0.0
        return self.excess[counted][:, None] + first.linear(counted), second.linear(counted)

    def _risk_of_both(self, first: Moves, second: Moves) -> tuple[Float[np.ndarray, "n m"], Float[np.ndarray, "n m"]]:
        """What two changes add to the variance and to the objective; infinite where they are of one name."""
        together = (first.reach.root[first.place] @ second.reach.root.T)[:, second.place]
        cross = 2.0 * together * np.outer(first.weight, second.weight)
        variance = self._own(first)[:, None] + self._own(second) + cross
        added = self._added(variance, first.cost[:, None] + second.cost)
        return variance, np.where(first.at[:, None] == second.at, np.inf, added)

    def _own(self, moves: Moves) -> Float[np.ndarray, " n_moves"]:
        """What each change adds to the variance."""
        return 2.0 * self.pull[moves.at] * moves.weight + moves.reach.own[moves.place] * moves.weight**2

    def _left(
        self, linear: Float[np.ndarray, "n_counted ..."], variance: Float[np.ndarray, "..."]
    ) -> Float[np.ndarray, "..."]:
        left = beyond(linear).sum(axis=0)
        if self.problem.tracking_error is None:
            return left
        error = np.sqrt(np.maximum(self.variance + variance, 0.0))
        return left + beyond(error - self.problem.tracking_error)

    def _added(self, variance: Float[np.ndarray, "..."], cost: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        return self.problem.aversion / 2.0 * variance + cost / self.problem.years

    def after(self, *moves: Moves) -> "LotState":
        """The state after changes."""
        quantities = self.quantities.copy()
        for one in moves:
            quantities[one.at] = one.to
        return LotState.of(self.problem, self.grid, quantities, self.traded, self.reach)


def beyond(excess: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Violations that are more than rounding error; zero for the others."""
    return np.where(excess > ROUND_OFF, excess, 0.0)
