"""Caps on the largest positions together, as numbers: a sum of the largest issuers, which is no row."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from engine.axes import Axis
from engine.mandates.mandate import LimitSet

LONG = ":long:"
SHORT = ":short:"
"""Between a limit's id and a position's in the id of the position's multiplier, by its sign."""

LINES = "&"
"""Between the lines of an issuer in the label of its position."""


@dataclass(frozen=True, slots=True)
class Concentration:
    """``max q'G'x <= bound`` over ``|q_j| <= 1``, ``sum |q_j| <= largest``: the largest positions without sign.

    Args:
        limit_id: Of the mandate.
        largest: How many positions are counted.
        alone: ``(n_names,)``: 1 for a name that is its issuer's only line, else 0.
        shared: ``(n_names, n_issuers)``: a column of ones for each issuer with several lines.
        labels: Name of each position: every name (empty where it is one of several lines), then the lines
            of each issuer with several, as ``GOOG&GOOGL``.
        shorts: Whether a position may be below 0.
        bound: Fraction of NAV.
    """

    limit_id: str
    largest: int
    alone: Float[np.ndarray, " n_names"]
    shared: Float[np.ndarray, "n_names n_issuers"]
    labels: tuple[str, ...]
    shorts: bool
    bound: float

    @property
    def part_ids(self) -> tuple[str, ...]:
        """Id of each position's multiplier, long ones first, then short ones where there may be any."""
        longs = tuple(f"{self.limit_id}{LONG}{label}" for label in self.labels)
        return longs + tuple(f"{self.limit_id}{SHORT}{label}" for label in self.labels) * self.shorts

    def positions(self, weights: Float[np.ndarray, " n_names"]) -> Float[np.ndarray, " n_positions"]:
        """Every issuer's weight, in the order of ``labels``."""
        return np.concatenate([self.alone * weights, self.shared.T @ weights])

    def used(self, weights: Float[np.ndarray, " n_names"]) -> float:
        """The sum of the largest positions, fraction of NAV."""
        sizes = np.abs(self.positions(weights))
        return float(np.sort(sizes)[::-1][: self.largest].sum())

    def parts(self, weights: Float[np.ndarray, " n_names"]) -> dict[str, float]:
        """The share of each position in the sum, 1 for the largest, by the id of its multiplier."""
        positions = self.positions(weights)
        counted = np.zeros(len(positions))
        counted[np.argsort(-np.abs(positions), kind="stable")[: self.largest]] = 1.0
        shares = np.concatenate([counted * (positions >= 0.0), counted * (positions < 0.0)])
        return dict(zip(self.part_ids, shares[: len(self.part_ids)].tolist(), strict=True))

    def held_down(
        self,
        weights: Float[np.ndarray, " n_names"],
        step: Float[np.ndarray, " n_names"],
        beyond: Float[np.ndarray, " n_names"] | None = None,
    ) -> list[tuple[Float[np.ndarray, " n_names"], float]]:
        """Rows that keep the cap where weights are rounded, whichever positions then are the largest.

        With ``t`` the smallest position counted, ``largest t + sum_j max(|p_j| - t, 0)`` is never below the sum of
        the largest: those that two steps could bring across ``t`` are kept at most there, so that only those above it
        are summed. None where the cap has room for a step of each.

        Args:
            weights: Inside the cap.
            step: What one lot of each name moves.
            beyond: Rounded weights; what they have brought across ``t`` is kept at most there too.
        """
        positions, reach = self.positions(weights), 2.0 * self.positions(step)
        sizes, signs = np.abs(positions), np.where(positions < 0.0, -1.0, 1.0)
        if beyond is None and self.used(weights) + np.sort(reach)[::-1][: self.largest].sum() <= self.bound:
            return []
        t = float(np.sort(sizes)[::-1][: self.largest][-1])
        above = sizes > t + reach
        held = (sizes >= t - reach) & ~above
        if beyond is not None:
            held |= (np.abs(self.positions(beyond)) > t) & ~above
        summed = self._by_name(above * signs), self.bound - (self.largest - float(above.sum())) * t
        return [summed, *((self._by_name((np.arange(len(sizes)) == j) * signs), t) for j in np.flatnonzero(held))]

    def _by_name(self, by_position: Float[np.ndarray, " n_positions"]) -> Float[np.ndarray, " n_names"]:
        """Each line what its issuer's position has."""
        own = len(self.alone)
        return self.alone * by_position[:own] + self.shared @ by_position[own:]

    def pressure(
        self,
        weights: Float[np.ndarray, " n_names"],
        duals: Mapping[str, float],
    ) -> Float[np.ndarray, " n_names"]:
        """The multipliers times the slope of the limit: each line that of its issuer's position."""
        found = np.array([duals.get(part, 0.0) for part in self.part_ids])
        n = len(self.labels)
        by_position = found[:n] - (found[n:] if self.shorts else 0.0)
        return self._by_name(by_position)


def state_concentrations(
    limits: LimitSet, names: Axis, issuers: Int[np.ndarray, " n_names"]
) -> tuple[Concentration, ...]:
    """The caps on the largest positions of a mandate, the fewest positions first.

    Args:
        limits: The mandate's.
        names: Candidates of the book.
        issuers: Issuer of each.

    References:
        MATH 5. Oracle: every choice of positions, tests/test_concentration.py.
    """
    if not limits.concentration:
        return ()
    several, counts = np.unique(issuers, return_counts=True)
    several = several[counts > 1]
    lines = issuers[:, None] == several[None, :]
    together = [LINES.join(names.labels[i] for i in np.flatnonzero(line)) for line in lines.T]
    return tuple(
        Concentration(
            limit_id=limit.limit_id,
            largest=limit.largest,
            alone=(~lines.any(axis=1)).astype(np.float64),
            shared=lines.astype(np.float64),
            labels=(*names.labels, *together),
            shorts=limits.shorts,
            bound=limit.max,
        )
        for limit in sorted(limits.concentration, key=lambda limit: limit.largest)
    )
