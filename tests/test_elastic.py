"""The smallest common violation of linear limits, and the order in which the ladder asks for it."""

from dataclasses import replace

import numpy as np
import pytest
from test_certificate import PROGRAMS, Book, tight_book

from engine.rebalance import solve as ladder
from engine.rebalance.attempt import Attempt, RawAnswer
from engine.rebalance.elastic import solve_elastic
from engine.rebalance.evidence import Claim
from engine.rebalance.rebalance_program import RebalanceProgram
from engine.rebalance.solve import LADDER, SHORTCUTS, Programs

BARE = {"weights": {}, "tiers": {}, "stress": ()}


def impossible(seed: int) -> Book:
    """Tier ``a`` must be left and little may be traded."""
    book = tight_book(seed)
    return replace(book, limits={**BARE, "turnover": 0.01, "tiers": {"a": {"max": 0.02}}})


@pytest.mark.parametrize("seed", range(6))
def test_the_least_violation_is_that_of_the_modelling_layer(seed: int) -> None:
    problem = impossible(seed).problem
    ours = solve_elastic(problem)
    theirs = PROGRAMS.fit(problem).solve(problem, Attempt("CLARABEL"), elastic=True)
    assert ours.excess > 1e-3
    assert ours.excess == pytest.approx(theirs.excess, rel=1e-7)


@pytest.mark.parametrize("seed", range(6))
def test_no_violation_where_all_limits_can_be_kept(seed: int) -> None:
    assert solve_elastic(tight_book(seed).problem).excess <= 1e-10


@pytest.mark.parametrize("seed", range(6))
def test_an_impossible_book_is_proven_without_a_compiled_program(seed: int) -> None:
    book, programs = impossible(seed), Programs()
    answer = book.solve(programs)
    assert (answer.status, answer.rung, answer.solver) == ("infeasible", len(SHORTCUTS) - 1, "HIGHS")
    assert answer.conflict == pytest.approx(solve_elastic(book.problem).excess, rel=1e-6)
    assert not programs.by_shape


def test_a_claim_of_no_answer_needs_the_proof_whatever_the_solver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    book = tight_book(3)
    none = RawAnswer(None, {}, 0.0, "LIAR", "infeasible", 1)
    wrong = replace(none, weights=book.problem.start, duals=dict.fromkeys(book.problem.row_ids, 1.0), excess=1.0)
    monkeypatch.setattr(ladder, "solve_reduced", lambda *_: none)
    monkeypatch.setattr(ladder, "solve_elastic", lambda *_: wrong)
    answer = book.solve(PROGRAMS)
    assert (answer.status, answer.rung) == ("certified", len(SHORTCUTS))


def test_the_last_step_is_reached_and_can_certify(monkeypatch: pytest.MonkeyPatch) -> None:
    book, asked = tight_book(4), []
    solve = RebalanceProgram.solve

    def only_the_last(self: RebalanceProgram, problem: object, attempt: Attempt, **kwargs: bool) -> RawAnswer:
        asked.append(attempt.solver)
        if attempt.solver != "SCS":
            return RawAnswer(None, {}, 0.0, attempt.solver, "failed", 0)
        return solve(self, problem, attempt, **kwargs)

    monkeypatch.setattr(ladder, "solve_reduced", lambda *_: RawAnswer(None, {}, 0.0, "NONE", "failed", 0))
    monkeypatch.setattr(RebalanceProgram, "solve", only_the_last)
    answer = book.solve(Programs())
    assert (answer.status, answer.solver, answer.rung) == ("certified", "SCS", len(SHORTCUTS + LADDER) - 1)
    assert asked[-1] == "SCS"


def test_a_program_that_does_not_fit_into_memory_is_a_failed_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    book = tight_book(4)
    program = PROGRAMS.fit(book.problem)

    def too_large(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 101. GiB")

    monkeypatch.setattr(program.problem, "solve", too_large)
    raw = program.solve(book.problem, Attempt("CLARABEL"))
    assert (raw.weights, raw.status) == (None, "failed: out of memory")


def test_the_weights_of_the_least_violation_keep_the_bounds_of_every_name() -> None:
    book = impossible(1)
    found = solve_elastic(book.problem)
    assert found.weights is not None
    assert (found.weights >= book.problem.lower - 1e-12).all()
    assert (found.weights <= book.problem.upper + 1e-12).all()
    violated = book.problem.rows @ found.weights - book.problem.bounds
    assert float(np.max(violated)) <= found.excess + 1e-9
    assert (
        book.refute(Claim(dict(zip(book.problem.names.labels, found.weights.tolist(), strict=True)), found.duals)) > 0
    )
