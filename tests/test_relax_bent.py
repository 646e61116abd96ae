"""Robust budgets and caps on the tracking error give way too, beside each other and beside what is linear."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from cones import ConeBook
from test_certificate import tight_book
from test_relax import court_of, give_way, missed, settled
from test_relax_cones import bent_book, check_book, risk_root

from engine.rebalance.evidence import Claim
from engine.rebalance.level_bound import LevelProof
from engine.rebalance.relaxed_certificate import Relaxation
from engine.rebalance.solve import Answer
from engine.rebalance.straight import lay_tangents, risk_tangent

Book = tuple[ConeBook, Answer, Relaxation, Claim]

BENT = ("stress:crash", "tracking_error")


def test_what_is_bent_gives_way_by_what_a_second_program_says() -> None:
    found = [check_book(seed, bent_book) for seed in (3, 5, 6)]
    assert found == ["relaxed", "relaxed", "relaxed"]


@pytest.mark.soak
def test_few_of_two_hundred_bent_books_are_held_and_none_gives_way_by_more_than_it_must() -> None:
    found: dict[str, list[int]] = {}
    for seed in range(10, 210):
        if settled(bent_book(seed)).answer.status == "held":
            found.setdefault("held", []).append(seed)
            continue
        found.setdefault(check_book(seed, bent_book), []).append(seed)
    assert len(found["relaxed"]) > 120 and len(found["infeasible"]) > 15
    # Nothing is claimed and nothing trades where several bent limits leave a thin inside between them.
    held = found.get("held", [])
    assert all(seed % 2 for seed in held) and len(held) <= 8, held


@cache
def relaxed_books() -> tuple[Book, ...]:
    return tuple(book for book in give_way(bent_book(seed) for seed in range(1, 8)) if {*book[2].amounts} & {*BENT})


def turned(proof: LevelProof, random: np.random.Generator, size: float) -> LevelProof:
    """The proof with every number of it moved, each direction too."""

    def moved(numbers: Mapping[str, float]) -> dict[str, float]:
        return {name: float(value * np.exp(size * random.normal())) for name, value in numbers.items()}

    directions = {
        name: {one: float(value + size * random.normal()) for one, value in toward.items()}
        for name, toward in proof.directions.items()
    }
    held = {level: float(value * np.exp(size * random.normal())) for level, value in proof.held.items()}
    return LevelProof(moved(proof.duals), held, moved(proof.weights), directions)


def test_each_bent_limit_gives_way_in_some_book() -> None:
    assert {*BENT} <= {name for _, _, why, _ in relaxed_books() for name in why.amounts}


def test_more_than_needed_is_refused_whatever_the_multipliers_and_directions() -> None:
    random = np.random.default_rng(3)
    tried = 0
    for book, _, why, claim in relaxed_books():
        judge = court_of(book).certify
        assert judge(claim, why).accepted
        for name in {*BENT} & {*why.amounts}:
            more = {**why.amounts, name: why.amounts[name] * 1.001 + 1e-6}
            for size in (0.0, 1e-6, 1e-3, 0.1, 1.0, 30.0):
                proofs = {level: turned(proof, random, size) for level, proof in why.proofs.items()}
                others = {level: replace(proof, others=(proofs[level],)) for level, proof in why.proofs.items()}
                assert not judge(claim, Relaxation(more, others)).accepted, (name, size)
                tried += 1
    assert tried >= 30


def test_a_wrong_direction_only_loosens_and_a_long_one_is_cut_to_its_length() -> None:
    for book, _, why, claim in relaxed_books():
        judge = court_of(book).certify
        bare = {level: replace(proof, others=()) for level, proof in why.proofs.items()}
        for factor in (-1.0, 0.0, 1e15, np.inf):
            wrong = {
                level: replace(
                    proof,
                    directions={
                        name: {one: value * factor for one, value in toward.items()}
                        for name, toward in proof.directions.items()
                    },
                )
                for level, proof in bare.items()
            }
            more = {name: amount * 1.01 + 1e-6 for name, amount in why.amounts.items()}
            assert not judge(claim, Relaxation(more, wrong)).accepted, factor


def test_no_multipliers_let_a_bent_limit_of_a_book_that_can_keep_it_give_way() -> None:
    random = np.random.default_rng(5)
    book = bent_book(3)
    start = book.problem.start
    error = float(np.linalg.norm(risk_root(book) @ (start - book.problem.benchmark)))
    easy = {**book.limits, "tracking_error": 2.0 * error + 0.01, "gross": 5.0, "net": {}, "turnover": 1.0}
    easy["shortfall"] = ({**book.limits["shortfall"][0], "max_loss": 0.9},)
    easy["stress"] = ({**book.limits["stress"][0], "max_loss": 0.9},)
    easy["priorities"] = {"stress": 2, "tracking_error": 3, "gross": 1, "shortfall": 4}
    book = replace(book, limits=easy)
    assert settled(book).answer.status == "certified" and not settled(book).answer.relaxed
    names = book.problem.names.labels
    claim = Claim(dict(zip(names, start.tolist(), strict=True)), {})
    for _ in range(20):
        duals = {name: float(random.exponential() * 10.0 ** random.uniform(-3, 3)) for name in ("turnover", *BENT)}
        directions = {name: dict(zip(names, random.normal(size=10).tolist(), strict=True)) for name in BENT}
        proof = LevelProof(duals, {}, dict(zip(names, random.normal(size=10).tolist(), strict=True)), directions)
        for name, level in (("stress:crash", 2), ("tracking_error", 3)):
            over = Relaxation({name: 1e-3}, {level: proof})
            assert not court_of(book).certify(claim, over).accepted


def test_a_tangent_is_broken_by_nothing_inside_its_limit_and_touches_at_its_weights() -> None:
    random = np.random.default_rng(8)
    for seed in (1, 3, 5):
        problem = bent_book(seed).problem
        at = random.normal(size=len(problem.names)) * 0.2
        tangents = [*lay_tangents(problem, at), risk_tangent(problem, at)]
        over = missed(problem, at)
        for tangent in tangents:
            assert float(tangent.slope @ at) - tangent.bound == pytest.approx(over[tangent.limit_id], abs=1e-13)
        for _ in range(200):
            x = random.normal(size=len(problem.names)) * 10.0 ** random.uniform(-3, 0)
            used = missed(problem, x)
            for tangent in tangents:
                assert float(tangent.slope @ x) - tangent.bound <= used[tangent.limit_id] + 1e-12


def test_a_robust_budget_gives_way_at_its_own_priority_and_holds_where_the_mandate_says_so() -> None:
    limits = bent_book(1).mandate.limits
    assert limits.priority("stress:crash") == limits.priorities["stress"]
    book = bent_book(1)
    stern = replace(book, limits={**book.limits, "priorities": {**book.limits["priorities"], "stress": 0}})
    assert stern.mandate.limits.priority("stress:crash") == 0
    assert "stress:crash" not in settled(stern).answer.relaxed


def test_a_plain_book_has_no_tangents() -> None:
    problem = tight_book(0).problem
    assert lay_tangents(problem, problem.start) == []
