"""Expected shortfalls and robust budgets in cvxpy: one block of a compiled rebalance program."""

from typing import Any

import cvxpy as cp
import numpy as np

from engine.rebalance.problem import Problem
from engine.rebalance.shape import ConeShape


class ConeBlock:
    """The block of one shape over trades ``z = (x - x0) / unit``, every limit divided by ``unit``.

    A shortfall is ``eta + tail'u <= 0``, ``u >= losses z + c - eta``, ``u >= 0``, the losses
    counted from the bound; a robust budget ``loss'z + |R'(z - z_center)| <= room``.
    """

    def __init__(self, n: int, shape: ConeShape) -> None:
        self.tails = [_Tail(n, leaves) for leaves in shape.leaves]
        self.margins = [_Spread(n, issuers) for issuers in shape.issuers]
        self.count = len(self.tails) + len(self.margins)

    def limits(self, z: Any, slacks: list[Any]) -> list[Any]:
        """The limits that have a multiplier, each with what it may give way by: shortfalls, then robust budgets."""
        tails, spreads = slacks[: len(self.tails)], slacks[len(self.tails) :]
        pairs = [limit for tail, slack in zip(self.tails, tails, strict=True) for limit in tail.limits(z, slack)]
        return pairs + [spread.limit(z, slack) for spread, slack in zip(self.margins, spreads, strict=True)]

    def load(self, problem: Problem, unit: float, margin: float) -> None:
        """Give the block its numbers.

        Args:
            problem: The book's.
            unit: Size of a trade of 1.
            margin: Subtracted from every bound.
        """
        x0 = problem.start
        for tail, limit in zip(self.tails, problem.shortfalls, strict=True):
            tail.tail.value, tail.losses.value = limit.tail, limit.losses
            tail.now.value = (limit.losses @ x0 - limit.offsets - limit.bound + margin) / unit
        for spread, budget in zip(self.margins, problem.margins, strict=True):
            spread.loss.value, spread.own.value, spread.shared.value = budget.loss, budget.own, budget.shared.T
            spread.room.value = (budget.bound + budget.offset - margin - float(budget.loss @ x0)) / unit
            away = (x0 - budget.center) / unit
            spread.now.value = np.concatenate([budget.own * away, budget.shared.T @ away])

    def duals(self, problem: Problem, limits: list[Any]) -> dict[str, Any]:
        """The raw multiplier of each limit and of each leaf, by id.

        Args:
            problem: The book's.
            limits: From ``limits``, solved.
        """
        plain = 2 * len(problem.shortfalls)
        values = [np.atleast_1d(np.asarray(limit.dual_value, dtype=np.float64)) for limit in limits[:plain]]
        found: dict[str, Any] = {}
        for at, limit in enumerate(problem.shortfalls):
            found[limit.limit_id] = values[2 * at][0]
            found |= dict(zip(limit.leaf_ids, values[2 * at + 1], strict=True))
        for budget, limit in zip(problem.margins, limits[plain:], strict=True):
            found[budget.limit_id] = np.atleast_1d(limit.dual_value[0])[0]
        return found

    def directions(self, problem: Problem, limits: list[Any]) -> dict[str, Any]:
        """The direction of each robust budget's dual vector, ``R'v`` no longer than 1, by id.

        Args:
            problem: The book's.
            limits: From ``limits``, solved.
        """
        found: dict[str, Any] = {}
        for budget, limit in zip(problem.margins, limits[2 * len(problem.shortfalls) :], strict=True):
            toward = cone_direction(limit)
            if toward is not None:
                found[budget.limit_id] = budget.toward(toward)
        return found


def cone_direction(limit: Any) -> Any:
    """The dual vector of ``|X| <= t`` over its size, no longer than 1; None where the limit costs nothing."""
    size, vector = float(np.atleast_1d(limit.dual_value[0])[0]), np.ravel(limit.dual_value[1])
    if size == 0.0:
        return None
    # Which sign a dual vector has differs between versions of cvxpy; it points where the book stands.
    return np.sign(vector @ np.ravel(limit.args[1].value)) * vector / abs(size)


class _Tail:
    def __init__(self, n: int, leaves: int) -> None:
        self.eta, self.u = cp.Variable(), cp.Variable(leaves, nonneg=True)
        self.tail = cp.Parameter(leaves, nonneg=True)
        self.losses, self.now = cp.Parameter((leaves, n)), cp.Parameter(leaves)

    def limits(self, z: Any, slack: Any) -> list[Any]:
        return [self.eta + self.tail @ self.u <= slack, self.losses @ z + self.now - self.eta <= self.u]


class _Spread:
    def __init__(self, n: int, issuers: int) -> None:
        self.loss, self.own, self.room = cp.Parameter(n), cp.Parameter(n), cp.Parameter()
        self.shared, self.now = cp.Parameter((issuers, n)), cp.Parameter(n + issuers)

    def limit(self, z: Any, slack: Any) -> Any:
        moved = cp.multiply(self.own, z)
        if self.shared.shape[0]:
            moved = cp.hstack([moved, self.shared @ z])
        return cp.SOC(self.room - self.loss @ z + slack, moved + self.now)
