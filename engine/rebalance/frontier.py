"""The least loss that a book's other limits allow, closed in on by certified answers and proofs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from engine.rebalance.solve import Answer

FAR: Final = 1.0
"""The first budget tried is a whole NAV below what is known to be kept."""

MOST_TRIES: Final = 40


@dataclass(frozen=True, slots=True)
class Attained:
    """The least budget found to be kept.

    Args:
        budget: Kept by a certified answer.
        floor: No answer that keeps the other limits loses less: proven. None where nothing was refuted.
    """

    budget: float
    floor: float | None


def least_budget(solve: Callable[[float], Answer], kept: float, *, limit_id: str, within: float) -> Attained:
    """The least loss under a scenario that the other limits of a book allow.

    A budget ``b`` that cannot be kept comes with a proof: some limit is missed by at least ``c``,
    so no answer that keeps the others loses less than ``b + c``. With the share ``y`` of the budget
    in that proof the smallest violation falls at most at the rate ``y``: ``b + c / y`` is tried next,
    and from a budget that is kept a step down of ``within``; else the middle.

    Args:
        solve: The answer under a budget.
        kept: A budget that a certified answer keeps.
        limit_id: Of the budget, among the multipliers of a proof.
        within: Stop where what is kept and what is not are this close, fraction of NAV.

    References:
        Oracle: a linear program of a second solver, tests/test_frontier.py.
    """
    low, floor, trial = kept - FAR, None, kept - FAR
    for _ in range(MOST_TRIES):
        tried = solve(trial)
        if tried.status == "certified":
            kept, trial = trial, trial - within
        elif tried.status == "infeasible":
            share = tried.duals.get(limit_id, 0.0) / max(sum(tried.duals.values()), 1e-12)
            floor = trial + tried.conflict if floor is None else max(floor, trial + tried.conflict)
            low = max(low, floor)
            trial += tried.conflict / max(share, 1e-3) + within / 2.0
        else:
            low = max(low, trial)
        if kept - low <= 1.01 * within:
            break
        if not low < trial < kept:
            trial = (low + kept) / 2.0
    return Attained(kept, floor)
