"""What stands in the way of a book, and what gave way, as notices in the desk's words."""

import math
from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from engine.intake import Notice
from engine.rebalance.conflict import Conflict, Member
from engine.rebalance.problem import Problem
from engine.rebalance.solve import Answer

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
            missed = "no solver gave an answer"
            if answer.verdict is not None:
                missed = f"{answer.verdict.worst_limit} missed by {answer.verdict.max_violation:.1e}, gap "
                missed += f"{answer.verdict.relative_gap:.1e}"
            message = f"no answer could be certified ({missed}); nothing is traded"
        else:
            continue
        notices.append(Notice(f"book.{answer.status}", "warn", message, "mandates", problem.portfolio_id))
    return notices


def gave_way(limits: pl.DataFrame) -> list[Notice]:
    """For every book whose limits could not all be kept, which gave way, how far, and what the next point is worth.

    Args:
        limits: Table ``limits``.
    """
    notices = []
    relaxed = limits.filter(pl.col("relaxed_by").is_not_null()).sort("portfolio_id", "priority", "limit_id")
    for (book,), rows in relaxed.partition_by("portfolio_id", as_dict=True, maintain_order=True).items():
        told = "; ".join(_gave(row) for row in rows.iter_rows(named=True))
        message = f"not all limits can be kept: proven; the book goes as far as it can: {told}"
        notices.append(Notice("book.relaxed", "warn", message, "mandates", str(book)))
    return notices


def _gave(row: Mapping[str, Any]) -> str:
    """One limit that gave way: 100 times the price in objective is the basis points of a hundredth."""
    before, after, bound = (_amount(row["limit_id"], row[name]) for name in ("before", "after", "bound"))
    priced = f", one more point is worth {100.0 * row['shadow_price']:.1f} bp" if row["shadow_price"] else ""
    return f"{row['limit_id']} {before} to {after} where {bound} is the limit (priority {row['priority']}{priced})"


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
    """A share of NAV in percent; a factor exposure as it is."""
    return f"{value:.3g}" if limit_id.startswith(("factor:", "active_factor:")) else f"{100.0 * value:.2f} %"


def _names(member: Member) -> str:
    if not member.names:
        return ""
    more = len(member.names) - SHOWN
    return f" ({', '.join(member.names[:SHOWN])}{f' and {more} more' if more > 0 else ''})"
