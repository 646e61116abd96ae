"""The quantities that each name of a book may end on."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

from engine.conventions import FEASIBILITY
from engine.rebalance.problem import Problem

ROUND_OFF: Final = 1e-12
"""A violation below this is the error of a sum; a quotient this near to a whole number is one."""

NEARLY: Final = FEASIBILITY / 2.0
"""Where the continuous answer misses a limit by less than this, lots may: otherwise they keep it."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The quantities that each name may end on: today's, or a multiple of its lot where the rules allow one.

    Args:
        held: ``q0``, shares held today.
        unit: Weight of one share.
        lot: Shares in a lot.
        stays: True where today's weight is inside its bounds.
        first: ``(n_ranges, n_names)``, first multiple of the lot in each allowed range.
        last: The last one; below ``first`` where a range is empty.
    """

    held: Float[np.ndarray, " n_names"]
    unit: Float[np.ndarray, " n_names"]
    lot: Float[np.ndarray, " n_names"]
    stays: Bool[np.ndarray, " n_names"]
    first: Float[np.ndarray, "n_ranges n_names"]
    last: Float[np.ndarray, "n_ranges n_names"]

    def weights(
        self, quantities: Float[np.ndarray, " n_names"], start: Float[np.ndarray, " n_names"]
    ) -> Float[np.ndarray, " n_names"]:
        """Weights of quantities; what is not traded keeps its weight to the last digit."""
        return np.where(quantities == self.held, start, quantities * self.unit)

    def of(self, at: Int[np.ndarray, " n_some"]) -> "Grid":
        """Of some names; a range that is empty for all of them is left out."""
        first, last = self.first[:, at], self.last[:, at]
        used = np.union1d([0], np.flatnonzero((first <= last).any(axis=1)))
        return Grid(self.held[at], self.unit[at], self.lot[at], self.stays[at], first[used], last[used])

    def above(self, count: Float[np.ndarray, " n_names"]) -> Float[np.ndarray, " n_names"]:
        """Fewest shares of an allowed multiple of at least ``count`` lots; infinite where there is none."""
        at = np.maximum(self.first, count)
        return np.where(at <= self.last, at * self.lot, np.inf).min(axis=0)

    def below(self, count: Float[np.ndarray, " n_names"]) -> Float[np.ndarray, " n_names"]:
        """Most shares of an allowed multiple of at most ``count`` lots; minus infinity where there is none."""
        at = np.minimum(self.last, count)
        return np.where(at >= self.first, at * self.lot, -np.inf).max(axis=0)


def state_grid(
    problem: Problem,
    *,
    held: Float[np.ndarray, " n_names"],
    unit: Float[np.ndarray, " n_names"],
    lot: Float[np.ndarray, " n_names"],
    min_trade: float,
    min_position: float,
) -> Grid:
    """The allowed quantities of every name.

    A name that is traded ends on 0 or on a multiple ``q`` of its lot with
    ``|q - q0| unit >= min_trade`` and ``|q| unit >= min_position``, inside its bounds.

    Args:
        problem: Bounds on the weights.
        held: Shares today.
        unit: Weight of one share, above 0.
        lot: Shares in a lot, above 0.
        min_trade: Fraction of NAV; a sale of all that is held may be smaller.
        min_position: Fraction of NAV; what is not traded may be smaller.
    """
    step = lot * unit
    low, high = round_up((problem.lower - ROUND_OFF) / step), round_down((problem.upper + ROUND_OFF) / step)
    trade, position, today = min_trade / step, min_position / step, held / lot
    sold, bought = round_down(today - trade), round_up(today + trade)
    longest = np.maximum(round_up(position), 1.0)
    nothing = np.zeros(len(step))
    ranges = [
        (np.maximum(low, longest), np.minimum(high, sold)),
        (np.maximum(np.maximum(low, longest), bought), high),
        (low, np.minimum(np.minimum(high, -longest), sold)),
        (np.maximum(low, bought), np.minimum(high, -longest)),
        (np.where(low <= 0.0, 0.0, 1.0), np.where(high >= 0.0, nothing, -1.0)),
    ]
    stays = (problem.start >= problem.lower - NEARLY) & (problem.start <= problem.upper + NEARLY)
    return Grid(held, unit, lot, stays, np.array([one for one, _ in ranges]), np.array([one for _, one in ranges]))


def round_up(count: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The next whole number at or above, up to rounding error."""
    return np.ceil(count - ROUND_OFF * np.abs(count))


def round_down(count: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The next whole number at or below, up to rounding error."""
    return np.floor(count + ROUND_OFF * np.abs(count))
