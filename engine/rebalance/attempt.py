"""What is asked of a solver and what it says: the nouns that every program shares."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from engine.rebalance.problem import Problem

FINER: Final = 1e-2
"""How much smaller the tolerance is of a program with second-order cones."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """How to solve.

    Args:
        solver: ``CLARABEL`` or ``PIQP``.
        scale: Factor on the objective, so that its size suits the solver's tolerances.
        unit: Size of a trade of 1 in the program, fraction of NAV.
        margin: Subtracted from every bound: an answer inside the limits, not on them.
        tolerance: Of the solver, absolute and relative.
    """

    solver: str
    scale: float = 1.0
    unit: float = 1.0
    margin: float = 0.0
    tolerance: float = 1e-10


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """What a solver returned; nothing here is evidence.

    Args:
        weights: ``x``, or None when the solver gave none.
        duals: Non-negative multiplier by limit id.
        excess: Smallest common violation, of the elastic form; 0 otherwise.
        solver: Name.
        status: The solver's own word.
        iterations: Count.
        directions: Of each robust budget, as in a claim; none where it is that of the weights.
    """

    weights: Float[np.ndarray, " n_names"] | None
    duals: dict[str, float]
    excess: float
    solver: str
    status: str
    iterations: int
    directions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@runtime_checkable
class Program(Protocol):
    """A compiled program, whatever it is compiled with."""

    def solve(self, problem: Problem, attempt: Attempt, *, elastic: bool = False) -> RawAnswer:
        """Solve one problem of its shape, or its elastic form."""
        ...
