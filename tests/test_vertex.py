"""Books whose limits gave way have next to no inside: answered at a vertex, however many names they have."""

from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
from random_books import NAV, RandomBook, random_book
from test_certificate import tight_book

from engine.mandates.mandate import Mandate
from engine.rebalance.attempt import Attempt
from engine.rebalance.certificate import certifier, prove_infeasible
from engine.rebalance.conflict import Court
from engine.rebalance.cure_certificate import prove_cure
from engine.rebalance.problem import Problem, state_problem
from engine.rebalance.relax import Settlement, Tools, settle, widen
from engine.rebalance.relaxed_certificate import certify_relaxed
from engine.rebalance.solve import claim_of, solve_problem
from engine.rebalance.vertex import solve_on_vertices

TOOLS = Tools()


def torn_book(seed: int, names: int, factors: int = 8) -> RandomBook:
    """A drawn book with its stress budgets halved and a turnover of a fiftieth: most of its limits must give way."""
    book = random_book(np.random.default_rng(seed), names, factors)
    words = book.mandate.model_dump()
    budgets = tuple({**budget, "max_loss": budget["max_loss"] / 2.0} for budget in words["limits"]["stress"])
    limits = {**words["limits"], "turnover": 0.02, "factors": {}, "stress": budgets}
    return replace(book, mandate=Mandate.model_validate({**words, "limits": limits}))


def settled(book: RandomBook) -> tuple[Problem, Settlement]:
    """The book's program, and what became of it."""
    evidence, inputs, problem = book.evidence, book.inputs, book.state()

    def refute(claim, mandate=book.mandate):
        return prove_infeasible(evidence, **{**inputs, "mandate": mandate}, claim=claim)

    answer = solve_problem(problem, TOOLS.programs, judge=certifier(evidence, **inputs), refute=refute)
    assert answer.status == "infeasible"
    state = partial(state_problem, "book", weights=book.weights, benchmark=book.benchmark, terms=book.terms, nav=NAV)
    court = Court(
        mandate=book.mandate,
        state=lambda mandate: state(mandate=mandate),
        certify=lambda claim, why: certify_relaxed(evidence, inputs=inputs, claim=claim, relaxation=why),
        refute=refute,
        bracket=lambda chosen, cure, claim: prove_cure(evidence, inputs=inputs, chosen=chosen, cure=cure, claim=claim),
    )
    return problem, settle(problem, answer, TOOLS, court)


@cache
def small(seed: int) -> tuple[RandomBook, Problem, Settlement]:
    book = torn_book(seed, 150)
    return (book, *settled(book))


@pytest.mark.parametrize("seed", range(6))
def test_a_torn_book_is_answered_at_a_vertex_and_the_modelling_layer_finds_none_better(seed: int) -> None:
    _, problem, settlement = small(seed)
    answer = settlement.answer
    assert answer.status == "certified" and len(answer.relaxed) >= 3
    assert answer.solver == "HIGHS" and answer.rung == 0
    wide = widen(problem, problem, answer.relaxed)
    raw = TOOLS.programs.fit(wide).solve(wide, Attempt("CLARABEL", tolerance=1e-11))
    # Between limits a billionth apart a solver may miss one by as much, and gain its price for it.
    x = answer.weights
    value, other = (
        problem.aversion / 2.0 * problem.active_variance(w)
        + float(problem.costs @ np.abs(w - problem.start)) / problem.years
        for w in (x, np.clip(raw.weights, problem.lower, problem.upper))
    )
    assert value == pytest.approx(answer.verdict.objective, rel=1e-12)
    assert abs(other - value) <= 1e-5 * value
    assert (wide.rows @ x - wide.bounds).max() <= 1e-9
    assert np.abs(x - problem.start).sum() <= 0.02 + 1e-9


def test_each_vertex_is_inside_and_its_multipliers_are_none_of_a_limit_with_room() -> None:
    for seed in range(4):
        _, problem, settlement = small(seed)
        wide = widen(problem, problem, settlement.answer.relaxed)
        found = list(solve_on_vertices(wide, settlement.answer.weights))
        assert 1 <= len(found) <= 4
        for raw in found:
            room = wide.bounds - wide.rows @ raw.weights
            duals = np.array([raw.duals[name] for name in wide.row_ids])
            assert room.min() >= -1e-9 and (duals >= 0.0).all()
            assert (duals * np.maximum(room, 0.0)).max() <= 1e-9 * max(duals.max(), 1.0)


def test_a_book_with_a_limit_that_is_not_linear_has_no_vertices() -> None:
    problem = tight_book(0).problem
    assert list(solve_on_vertices(replace(problem, tracking_error=0.1), problem.start)) == []
    assert list(solve_on_vertices(replace(problem, gross=1.0), problem.start)) == []


def test_a_book_with_an_inside_is_left_to_other_solvers() -> None:
    """A vertex of a wide polytope is far from the optimum of a curved objective, and is not certified."""
    book = random_book(np.random.default_rng(3), 100, 5)
    problem = book.state()
    judge = certifier(book.evidence, **book.inputs)
    vertices = list(solve_on_vertices(problem, problem.start))
    assert vertices and not any(judge(claim_of(problem, raw.weights, raw)).accepted for raw in vertices)


def test_a_torn_book_of_five_thousand_names_is_certified() -> None:
    answer = settled(torn_book(0, 5000, 20))[1].answer
    assert answer.status == "certified" and answer.solver == "HIGHS" and len(answer.relaxed) >= 8


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_torn_books_of_twenty_thousand_names_are_certified(seed: int) -> None:
    answer = settled(torn_book(seed, 20_000, 20))[1].answer
    assert answer.status == "certified" and len(answer.relaxed) >= 8
