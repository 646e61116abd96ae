"""What cures a conflict: that it is enough and that no less is, proven from the tables; no false claim accepted."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from test_certificate import Book
from test_relax import TOOLS, court_of, holds, must_hold, sell_slowly, settled, stern_book

from engine.book.answers import conflict_table
from engine.book.breaches import why_not
from engine.rebalance.conflict import Conflict, find_conflict
from engine.rebalance.cure_certificate import STEPS, Bracket
from engine.rebalance.evidence import Claim


@cache
def conflicts(first: int, last: int) -> tuple[tuple[Book, Conflict], ...]:
    found = ((book, settled(book).conflict) for book in map(stern_book, range(first, last)))
    return tuple((book, conflict) for book, conflict in found if conflict is not None)


def check_brackets(found: tuple[tuple[Book, Conflict], ...]) -> tuple[int, int]:
    """Every bracket against HiGHS on either side; how many cures there are, and how many are proven both ways."""
    cures = proven = 0
    for book, conflict in found:
        hard = dict.fromkeys(must_hold(book), 0.0)
        together = [member.limit_id for member in conflict.members]
        told = [([member.limit_id], member.cure, member.proven) for member in conflict.members]
        for chosen, cure, bracket in [*told, (together, conflict.members[0].common, conflict.members[0].common_proven)]:
            if cure is None:
                assert bracket == Bracket(None, None)
                continue
            cures += 1
            proven += bracket.least is not None and bracket.enough is not None
            if bracket.enough is not None:
                assert holds(book, {**hard, **dict.fromkeys(chosen, bracket.enough + 1e-8)}), chosen
            if bracket.least is not None and bracket.least > 1e-6:
                assert not holds(book, {**hard, **dict.fromkeys(chosen, bracket.least - 1e-6)}), chosen
    return cures, proven


def test_every_cure_is_bracketed_and_a_second_solver_agrees_on_either_side() -> None:
    cures, proven = check_brackets(conflicts(0, 5))
    assert cures > 3 and proven == cures


@pytest.mark.soak
def test_the_brackets_of_three_hundred_books_hold() -> None:
    cures, proven = check_brackets(conflicts(5, 305))
    assert cures > 200 and proven >= 0.98 * cures


def test_a_cure_that_is_too_small_or_too_large_is_not_proven() -> None:
    book, conflict = sell_slowly(), settled(sell_slowly()).conflict
    assert [member.limit_id for member in conflict.members] == ["participation", "weight"]
    sold = Claim({"S0": 0.1, "S1": 0.3, "S2": 0.3}, {})
    bracket = court_of(book).bracket
    for kind in ("participation", "weight"):
        chosen = frozenset({kind})
        # 30 % held, at most 10 % allowed, 5 % a day: 15 % more of either is enough and less is not.
        at = 0.1 if kind == "participation" else 0.25
        claim = replace(sold, weights={**sold.weights, "S0": at})
        assert bracket(chosen, 0.15, claim).enough == pytest.approx(0.15, abs=1e-9)
        assert bracket(chosen, 0.15, claim).least == pytest.approx(0.15, abs=2e-6)
        assert bracket(chosen, 0.14, claim).enough is None
        assert bracket(chosen, 0.14, claim).least == pytest.approx(0.14, abs=1e-9)
        assert bracket(chosen, 0.16, claim).least is None
        assert bracket(chosen, 0.15, replace(claim, weights={**claim.weights, "S0": at + 1e-4})).enough is None
        assert bracket(chosen, 0.15, replace(claim, weights={**claim.weights, "nobody": 0.1})).enough is None


def test_no_multipliers_prove_a_least_above_what_is_enough() -> None:
    random = np.random.default_rng(0)
    for book, conflict in conflicts(0, 5):
        bracket = court_of(book).bracket
        for member in conflict.members:
            if member.proven.enough is None:
                continue
            for _ in range(4):
                duals = {name: float(random.exponential()) for name in must_hold(book)}
                tried = bracket(frozenset({member.limit_id}), member.proven.enough + 1e-4, Claim({}, duals))
                assert tried.least is None


def test_a_program_that_understates_a_cure_is_found_out() -> None:
    """The cap on a limit is read wrong where cures are sought: neither half may be proven of the wrong number."""
    found = 0
    for book, conflict in conflicts(0, 5):
        court, problem = court_of(book), book.problem
        sums = [m for m in conflict.members if m.limit_id in problem.row_ids and m.cure and m.cure > 0.01]
        for member in sums:
            wrong = np.array([0.005 * (row == member.limit_id) for row in problem.row_ids])

            def state(mandate, court=court, wrong=wrong):  # type: ignore[no-untyped-def]
                stated = court.state(mandate)
                return replace(stated, bounds=stated.bounds + wrong)

            planted = find_conflict(
                replace(problem, bounds=problem.bounds + wrong), TOOLS.relaxing, replace(court, state=state)
            )
            told = {m.limit_id: m for m in planted.members} if planted is not None else {}
            if member.limit_id in told:
                assert told[member.limit_id].cure == pytest.approx(member.cure - 0.005, abs=1e-6)
                assert told[member.limit_id].proven.enough is None
                found += 1
    assert found


def test_the_table_tells_what_is_proven_and_words_claim_no_more() -> None:
    book = sell_slowly()
    settlement = settled(book)
    table = conflict_table({"book": settlement.conflict})
    assert table["cure_enough"].to_list() == pytest.approx([0.15, 0.15], abs=2e-7)
    assert (table["cure_least"] <= table["cure"]).all() and (table["cure"] <= table["cure_enough"]).all()
    assert (table["cure"] - table["cure_least"] <= STEPS[-1]).all()
    (notice,) = why_not([(book.problem, settlement.answer)], {"book": settlement.conflict})
    assert "15.00 % more room in the bounds on weights would do" in notice.message
    unproven = replace(
        settlement.conflict,
        members=tuple(replace(m, proven=Bracket(None, None)) for m in settlement.conflict.members),
    )
    (notice,) = why_not([(book.problem, settlement.answer)], {"book": unproven})
    assert "15.00 % more room in the bounds on weights may do, not proven" in notice.message
    assert " or " in notice.message and "weights would do" not in notice.message
