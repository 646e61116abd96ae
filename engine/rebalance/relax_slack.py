"""What may give way and what an answer gave: the nouns that the programs of a level share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Float

from engine.rebalance.problem import BUDGET, GROSS, TRACKING_ERROR, TURNOVER, Problem

LEVELS: Final = 5
"""Priorities that may give way, 1 to 5."""


@dataclass(frozen=True, slots=True)
class Slack:
    """What may give way, by how much, and what that costs; limits that are not named hold.

    Args:
        most: The most that each limit may give way by itself, by limit id, in its own unit.
        price: Cost of a unit of it.
        together: Limits that give way by one common amount, whose price is 1.
        held: For each earlier level its limits and the most they may give way by in all.
        lower: Lowest weights that may give way, beside the problem's that hold.
        upper: Highest weights that may give way.
        low_most: The most that each lowest weight may give way by itself.
        high_most: The same of each highest.
        weight_price: Cost of a unit of either.
        weight_level: The earlier level in whose total the weights count; 0 where they are not held.
        weights_together: The weights give way by the common amount too.
    """

    most: Mapping[str, float] = field(default_factory=dict)
    price: Mapping[str, float] = field(default_factory=dict)
    together: frozenset[str] = frozenset()
    held: Mapping[int, tuple[frozenset[str], float]] = field(default_factory=dict)
    lower: Float[np.ndarray, " n_names"] | None = None
    upper: Float[np.ndarray, " n_names"] | None = None
    low_most: Float[np.ndarray, " n_names"] | None = None
    high_most: Float[np.ndarray, " n_names"] | None = None
    weight_price: float = 0.0
    weight_level: int = 0
    weights_together: bool = False


@dataclass(frozen=True, slots=True)
class RelaxedAnswer:
    """The least that must give way, as a solver says; nothing here is evidence.

    Args:
        weights: ``x``.
        gives: What each limit gives way by, by limit id.
        low_gives: What each lowest weight gives way by.
        high_gives: What each highest weight gives way by.
        common: The common amount.
        duals: Non-negative multiplier by limit id.
        low_duals: Of the lowest weights that may give way.
        high_duals: Of the highest.
        held: Multiplier of the total of each earlier level.
        directions: Of each robust budget's dual vector.
    """

    weights: Float[np.ndarray, " n_names"]
    gives: dict[str, float]
    low_gives: Float[np.ndarray, " n_names"]
    high_gives: Float[np.ndarray, " n_names"]
    common: float
    duals: dict[str, float]
    low_duals: Float[np.ndarray, " n_names"]
    high_duals: Float[np.ndarray, " n_names"]
    held: dict[int, float]
    directions: dict[str, Float[np.ndarray, " n_names"]]


def limit_ids(problem: Problem) -> tuple[str, ...]:
    """Every limit that is no bound on a name, in the order of the program; also where the book has no such cap."""
    return BUDGET, TURNOVER, TRACKING_ERROR, GROSS, *problem.row_ids, *(cone.limit_id for cone in problem.cones)
