"""Limits that are no rows in cvxpy: one block of a compiled rebalance program."""

from collections.abc import Iterator
from typing import Any

import cvxpy as cp
import numpy as np

from engine.rebalance.concentration import Concentration
from engine.rebalance.cones import Margin, Shortfall
from engine.rebalance.problem import Problem
from engine.rebalance.shape import ConeShape


class ConeBlock:
    """The block of one shape over trades ``z = (x - x0) / unit``, every limit divided by ``unit``.

    A shortfall is ``eta + tail'u <= 0``, ``u >= losses z + c - eta``, ``u >= 0``, the losses
    counted from the bound; a concentration ``largest t + sum u <= bound``, ``u >= |G'(z + z0)| - t``; a robust
    budget ``loss'z + |R'(z - z_center)| <= room``.
    """

    def __init__(self, n: int, shape: ConeShape) -> None:
        self.tails = [_Tail(n, leaves) for leaves in shape.leaves]
        self.crowds = [_Crowd(n, issuers, shorts) for issuers, shorts in shape.positions]
        self.margins = [_Spread(n, issuers) for issuers in shape.issuers]
        self.blocks: list[_Tail | _Crowd | _Spread] = [*self.tails, *self.crowds, *self.margins]
        self.count = len(self.blocks)

    def limits(self, z: Any, slacks: list[Any]) -> list[Any]:
        """The limits that have a multiplier, in the order of ``Problem.cones``, each with what it may give way by."""
        return [limit for one, slack in zip(self.blocks, slacks, strict=True) for limit in one.limits(z, slack)]

    def load(self, problem: Problem, unit: float, margin: float) -> None:
        """Give the block its numbers.

        Args:
            problem: The book's.
            unit: Size of a trade of 1.
            margin: Subtracted from every bound.
        """
        for tail, limit in zip(self.tails, problem.shortfalls, strict=True):
            tail.load(limit, problem.start, unit, margin)
        for crowd, cap in zip(self.crowds, problem.concentrations, strict=True):
            crowd.load(cap, problem.start, unit, margin)
        for spread, budget in zip(self.margins, problem.margins, strict=True):
            spread.load(budget, problem.start, unit, margin)

    def duals(self, problem: Problem, limits: list[Any]) -> dict[str, Any]:
        """The raw multiplier of each limit, leaf and position, by id.

        Args:
            problem: The book's.
            limits: From ``limits``, solved.
        """
        found: dict[str, Any] = {}
        for cone, own in zip(problem.cones, self._apart(limits), strict=True):
            if isinstance(cone, Margin):
                found[cone.limit_id] = np.atleast_1d(own[0].dual_value[0])[0]
                continue
            whole, *parts = (np.atleast_1d(np.asarray(limit.dual_value, dtype=np.float64)) for limit in own)
            found[cone.limit_id] = whole[0]
            found |= dict(zip(cone.part_ids, np.concatenate(parts), strict=True))
        return found

    def directions(self, problem: Problem, limits: list[Any]) -> dict[str, Any]:
        """The direction of each robust budget's dual vector, ``R'v`` no longer than 1, by id.

        Args:
            problem: The book's.
            limits: From ``limits``, solved.
        """
        found: dict[str, Any] = {}
        for cone, own in zip(problem.cones, self._apart(limits), strict=True):
            if isinstance(cone, Margin) and (toward := cone_direction(own[0])) is not None:
                found[cone.limit_id] = cone.toward(toward)
        return found

    def _apart(self, limits: list[Any]) -> Iterator[list[Any]]:
        """The limits of each block."""
        at = 0
        for one in self.blocks:
            yield limits[at : at + one.count]
            at += one.count


def cone_direction(limit: Any) -> Any:
    """The dual vector of ``|X| <= t`` over its size, no longer than 1; None where the limit costs nothing."""
    size, vector = float(np.atleast_1d(limit.dual_value[0])[0]), np.ravel(limit.dual_value[1])
    if size == 0.0:
        return None
    # Which sign a dual vector has differs between versions of cvxpy; it points where the book stands.
    return np.sign(vector @ np.ravel(limit.args[1].value)) * vector / abs(size)


class _Tail:
    count = 2

    def __init__(self, n: int, leaves: int) -> None:
        self.eta, self.u = cp.Variable(), cp.Variable(leaves, nonneg=True)
        self.tail = cp.Parameter(leaves, nonneg=True)
        self.losses, self.now = cp.Parameter((leaves, n)), cp.Parameter(leaves)

    def limits(self, z: Any, slack: Any) -> list[Any]:
        return [self.eta + self.tail @ self.u <= slack, self.losses @ z + self.now - self.eta <= self.u]

    def load(self, limit: Shortfall, start: np.ndarray, unit: float, margin: float) -> None:
        self.tail.value, self.losses.value = limit.tail, limit.losses
        self.now.value = (limit.losses @ start - limit.offsets - limit.bound + margin) / unit


class _Crowd:
    def __init__(self, n: int, issuers: int, shorts: bool) -> None:
        self.count = 3 if shorts else 2
        self.t, self.u = cp.Variable(nonneg=True), cp.Variable(n + issuers, nonneg=True)
        self.largest, self.most = cp.Parameter(nonneg=True), cp.Parameter()
        self.alone, self.shared = cp.Parameter(n), cp.Parameter((issuers, n))
        self.now = cp.Parameter(n + issuers)

    def limits(self, z: Any, slack: Any) -> list[Any]:
        moved = cp.multiply(self.alone, z)
        if self.shared.shape[0]:
            moved = cp.hstack([moved, self.shared @ z])
        position = moved + self.now
        sides = [position - self.t <= self.u, -position - self.t <= self.u]
        return [self.largest * self.t + cp.sum(self.u) <= self.most + slack, *sides[: self.count - 1]]

    def load(self, limit: Concentration, start: np.ndarray, unit: float, margin: float) -> None:
        self.largest.value, self.most.value = float(limit.largest), (limit.bound - margin) / unit
        self.alone.value, self.shared.value = limit.alone, limit.shared.T
        self.now.value = limit.positions(start) / unit


class _Spread:
    count = 1

    def __init__(self, n: int, issuers: int) -> None:
        self.loss, self.own, self.room = cp.Parameter(n), cp.Parameter(n), cp.Parameter()
        self.shared, self.now = cp.Parameter((issuers, n)), cp.Parameter(n + issuers)

    def limits(self, z: Any, slack: Any) -> list[Any]:
        moved = cp.multiply(self.own, z)
        if self.shared.shape[0]:
            moved = cp.hstack([moved, self.shared @ z])
        return [cp.SOC(self.room - self.loss @ z + slack, moved + self.now)]

    def load(self, budget: Margin, start: np.ndarray, unit: float, margin: float) -> None:
        self.loss.value, self.own.value, self.shared.value = budget.loss, budget.own, budget.shared.T
        self.room.value = (budget.bound + budget.offset - margin - float(budget.loss @ start)) / unit
        away = (start - budget.center) / unit
        self.now.value = np.concatenate([budget.own * away, budget.shared.T @ away])
