"""What stands in the way of a book, and what gave way, as notices in the desk's words."""

import math
from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from engine.conventions import FEASIBILITY, OPTIMALITY
from engine.intake import Notice
from engine.rebalance.certificate import Verdict
from engine.rebalance.conflict import Conflict, Member
from engine.rebalance.problem import Problem
from engine.rebalance.solve import Answer

EXPOSURES: Final = ("factor:", "active_factor:")
"""How the ids of limits in a factor's own unit begin."""

SHOWN: Final = 3
"""Names told of a limit on single names; more are counted."""

KINDS: Final = {
    "weight": "the bounds on weights",
    "active_weight": "the bounds on active weights",
    "excluded": "the excluded list",
    "no_buy": "the list not to buy",
    "no_sell": "the list not to sell",
    "frozen": "the frozen list",
    "participation": "the share of a day's volume",
}


def why_not(results: list[tuple[Problem, Answer]], conflicts: Mapping[str, Conflict]) -> list[Notice]:
    """For every book without a certified answer, what stands in the way.

    Args:
        results: Each book's program and answer.
        conflicts: By book, where limits that must hold conflict.
    """
    notices = []
    for problem, answer in results:
        if answer.status == "infeasible":
            conflict = conflicts.get(problem.portfolio_id)
            message = _words(conflict) if conflict is not None else "the limits that must hold conflict: proven"
        elif answer.status == "held":
            message = f"no answer could be certified ({_short(answer.verdict)}); nothing is traded"
        else:
            continue
        notices.append(Notice(f"book.{answer.status}", "warn", message, "mandates", problem.portfolio_id))
    return notices


def _short(verdict: Verdict | None) -> str:
    """What the nearest answer lacked."""
    if verdict is None:
        return "no solver gave an answer"
    told = [verdict.fault] if verdict.fault else []
    if verdict.max_violation > FEASIBILITY and verdict.worst_limit != verdict.fault:
        told.append(f"{verdict.worst_limit} missed by {verdict.max_violation:.1e} of NAV")
    if OPTIMALITY < verdict.relative_gap < math.inf:
        told.append(f"gap {verdict.relative_gap:.1e}")
    return "; ".join(told)


def gave_way(limits: pl.DataFrame, results: list[tuple[Problem, Answer]]) -> list[Notice]:
    """For every book whose limits could not all be kept, which gave way, how far, and what the next point is worth.

    Args:
        limits: Table ``limits``.
        results: Each book's program and answer; one that found no whole lots has gone nowhere.
    """
    notices = []
    answers = {problem.portfolio_id: (problem, answer) for problem, answer in results}
    relaxed = limits.filter(pl.col("relaxed_by").is_not_null()).sort("portfolio_id", "priority", "limit_id")
    for (book,), rows in relaxed.partition_by("portfolio_id", as_dict=True, maintain_order=True).items():
        problem, answer = answers[str(book)]
        if answer.outcome != "certified":
            told = ", ".join(f"{row['limit_id']} by {_width(row)}" for row in rows.iter_rows(named=True))
            message = f"not all limits can be kept: proven; these would have to give way at least: {told}"
        else:
            told = "; ".join(_gave(row, _most_saved(problem, answer)) for row in rows.iter_rows(named=True))
            message = f"not all limits can be kept: proven; the book goes as far as it can: {told}"
        notices.append(Notice("book.relaxed", "warn", message, "mandates", str(book)))
    return notices


def _most_saved(problem: Problem, answer: Answer) -> float:
    """What no limit can be worth more than: an objective of risk and costs alone is never below 0."""
    if answer.verdict is None or problem.alpha.any():
        return math.inf
    return max(answer.verdict.objective, 0.0)


def _gave(row: Mapping[str, Any], most: float) -> str:
    """One limit that gave way; a hundredth of its price is what a point saves at most, in objective."""
    before, after, bound = (_amount(row["limit_id"], row[name]) for name in ("before", "after", "bound"))
    saved = min(row["shadow_price"] / 100.0, most)
    priced = f", one more point is worth at most {1e4 * saved:.1f} bp" if saved else ""
    return f"{row['limit_id']} {before} to {after} where {bound} is the limit (priority {row['priority']}{priced})"


def _width(row: Mapping[str, Any]) -> str:
    exposure = row["limit_id"].startswith(EXPOSURES)
    return f"{row['relaxed_by']:.3g}" if exposure else f"{100.0 * row['relaxed_by']:.2f} %"


def _words(conflict: Conflict) -> str:
    """``turnover at most 5.00 % and tier:a at most 20.00 % cannot both be kept: ... would do``."""
    told = [_limit(member) for member in conflict.members]
    if len(told) == 1:
        start = f"{told[0]} cannot be kept"
    else:
        start = f"{', '.join(told[:-1])} and {told[-1]} cannot {'both' if len(told) == 2 else 'all'} be kept"
    cures = [_cure(member, member.proven.enough) for member in conflict.members if member.proven.enough is not None]
    doubtful = [
        _cure(member, member.cure)
        for member in conflict.members
        if member.cure is not None and member.proven.enough is None
    ]
    ends = [f"{' or '.join(cures)} would do"] if cures else []
    ends += [f"{' or '.join(doubtful)} may do, not proven"] if doubtful else []
    end = "; ".join(ends) or "no change of one of them alone was found that would do"
    common = conflict.members[0].common_proven.enough if conflict.members else None
    together = (
        f"; so would {100.0 * _enough(common):.2f} % more of each" if common is not None and len(told) > 1 else ""
    )
    return f"{start}, proven: {end}{together}"


def _limit(member: Member) -> str:
    if member.bound is None:
        return f"{KINDS.get(member.limit_id, member.limit_id)}{_names(member)}"
    least = member.limit_id.endswith(":min")
    side = "at least" if least else "at most"
    return (
        f"{member.limit_id.removesuffix(':min').removesuffix(':max')} {side} {_amount(member.limit_id, member.bound)}"
    )


def _cure(member: Member, cure: float) -> str:
    if member.bound is None:
        return f"{100.0 * _enough(cure):.2f} % more room in {KINDS.get(member.limit_id, member.limit_id)}"
    moved = -_enough(cure - member.bound) if member.limit_id.endswith(":min") else _enough(member.bound + cure)
    return f"{member.limit_id.removesuffix(':min').removesuffix(':max')} of {_amount(member.limit_id, moved)}"


def _enough(value: float) -> float:
    """Rounded up to what is printed, so that what is told would do; a solver's last digits are not."""
    return math.ceil(1e4 * value - 1e-3) / 1e4


def _amount(limit_id: str, value: float) -> str:
    """A share of NAV in percent; a factor exposure as it is, to the digits that cures are rounded to."""
    if limit_id.startswith(EXPOSURES):
        return f"{value:.4f}".rstrip("0").rstrip(".")
    return f"{100.0 * value:.2f} %"


def _names(member: Member) -> str:
    if not member.names:
        return ""
    more = len(member.names) - SHOWN
    return f" ({', '.join(member.names[:SHOWN])}{f' and {more} more' if more > 0 else ''})"
