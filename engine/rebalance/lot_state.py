"""Quantities of a book with what they use of every limit, and what changes of them would."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from engine.rebalance.lot_grid import ROUND_OFF, Grid
from engine.rebalance.problem import BUDGET, TRACKING_ERROR, TURNOVER, Problem


def objective(problem: Problem, weights: Float[np.ndarray, " n_names"]) -> float:
    """Value of weights, as the program states it."""
    active = weights - problem.benchmark
    risk = float(((problem.root.T @ active) ** 2).sum() + problem.specific @ active**2)
    return problem.aversion / 2.0 * risk + float(problem.costs @ np.abs(weights - problem.start)) / problem.years


@dataclass(frozen=True, slots=True)
class Moves:
    """Changes of single names."""

    at: Int[np.ndarray, " n_moves"]
    to: Float[np.ndarray, " n_moves"]
    weight: Float[np.ndarray, " n_moves"]
    traded: Float[np.ndarray, " n_moves"]
    linear: Float[np.ndarray, "n_limits n_moves"]

    def chosen(self, which: Int[np.ndarray, " n_chosen"] | list[int]) -> "Moves":
        """Some of them."""
        return Moves(self.at[which], self.to[which], self.weight[which], self.traded[which], self.linear[:, which])


@dataclass(frozen=True, slots=True)
class LotState:
    """Quantities with what they use of every limit; ``traded`` are the names of which a trade is meant anyway."""

    problem: Problem
    grid: Grid
    quantities: Float[np.ndarray, " n_names"]
    weights: Float[np.ndarray, " n_names"]
    excess: Float[np.ndarray, " n_limits"]
    pull: Float[np.ndarray, " n_names"]
    variance: float
    traded: Bool[np.ndarray, " n_names"]

    @staticmethod
    def of(
        problem: Problem,
        grid: Grid,
        quantities: Float[np.ndarray, " n_names"],
        meant: Bool[np.ndarray, " n_names"] | None = None,
    ) -> "LotState":
        """Measured anew, so that errors do not add up over the steps."""
        weights = grid.weights(quantities, problem.start)
        traded = np.abs(weights - problem.start)
        active = weights - problem.benchmark
        pull = problem.root @ (problem.root.T @ active) + problem.specific * active
        excess = np.array(
            [
                float(weights.sum() + problem.costs @ traded) - problem.spendable,
                float(traded.sum()) - problem.turnover,
                *(problem.rows @ weights - problem.bounds),
            ]
        )
        moved = quantities != grid.held
        return LotState(
            problem,
            grid,
            quantities,
            weights,
            excess,
            pull,
            float(active @ pull),
            moved if meant is None else meant | moved,
        )

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

    def moves(self, to: Float[np.ndarray, "n_kinds n_names"], *, everything: bool) -> Moves:
        """The changes to the given quantities that are changes and are allowed, of names traded anyway or of all."""
        at = np.broadcast_to(np.arange(to.shape[1]), to.shape)
        real = np.isfinite(to) & (to != self.quantities) & (self.traded | everything)
        at, to = at[real], to[real]
        start = self.problem.start[at]
        weight = np.where(to == self.grid.held[at], start, to * self.grid.unit[at])
        change = weight - self.weights[at]
        traded = np.abs(weight - start) - np.abs(self.weights[at] - start)
        linear = np.vstack([change + self.problem.costs[at] * traded, traded, self.problem.rows[:, at] * change])
        return Moves(at, to, change, traded, linear)

    def singles(self, moves: Moves) -> tuple[Float[np.ndarray, " n_moves"], Float[np.ndarray, " n_moves"]]:
        """What each change leaves of the violations, and what it adds to the objective."""
        own = (self.problem.root[moves.at] ** 2).sum(axis=1) + self.problem.specific[moves.at]
        added = 2.0 * self.pull[moves.at] * moves.weight + own * moves.weight**2
        return self._judged(self.excess[:, None] + moves.linear, added, moves.traded * self.problem.costs[moves.at])

    def pairs(self, first: Moves, second: Moves) -> tuple[Float[np.ndarray, "n m"], Float[np.ndarray, "n m"]]:
        """The same of one change of each, of different names, together."""
        root = self.problem.root
        own = [
            2.0 * self.pull[one.at] * one.weight
            + ((root[one.at] ** 2).sum(axis=1) + self.problem.specific[one.at]) * one.weight**2
            for one in (first, second)
        ]
        cross = 2.0 * (root[first.at] @ root[second.at].T) * np.outer(first.weight, second.weight)
        costs = [one.traded * self.problem.costs[one.at] for one in (first, second)]
        linear = self.excess[:, None, None] + first.linear[:, :, None] + second.linear[:, None, :]
        left, gained = self._judged(linear, own[0][:, None] + own[1] + cross, costs[0][:, None] + costs[1])
        same = first.at[:, None] == second.at
        return np.where(same, np.inf, left), np.where(same, np.inf, gained)

    def _judged(
        self,
        linear: Float[np.ndarray, "n_limits ..."],
        variance: Float[np.ndarray, "..."],
        cost: Float[np.ndarray, "..."],
    ) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
        left = beyond(linear).sum(axis=0)
        if self.problem.tracking_error is not None:
            error = np.sqrt(np.maximum(self.variance + variance, 0.0))
            left = left + beyond(error - self.problem.tracking_error)
        return left, self.problem.aversion / 2.0 * variance + cost / self.problem.years

    def after(self, *moves: Moves) -> "LotState":
        """The state after changes."""
        quantities = self.quantities.copy()
        for one in moves:
            quantities[one.at] = one.to
        return LotState.of(self.problem, self.grid, quantities, self.traded)


def beyond(excess: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Violations that are more than rounding error; zero for the others."""
    return np.where(excess > ROUND_OFF, excess, 0.0)
