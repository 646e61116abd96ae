"""The last digits of an answer with limits that are no rows, from a start that is wrong in the sixth."""

from dataclasses import replace

import numpy as np
import pytest
from cones import ConeBook
from test_certificate import tight_book
from test_relax import missed
from test_robust import PROGRAMS, limited
from test_shortfall import limited as tailed

from engine.rebalance.attempt import Attempt, RawAnswer
from engine.rebalance.evidence import Claim
from engine.rebalance.tangents import solve_on_tangents

ATTEMPT = Attempt("PIQP", unit=0.1, tolerance=1e-12)


def rough(book: ConeBook, seed: int, size: float) -> RawAnswer:
    """A solver's answer with its weights moved and without its multipliers."""
    raw = PROGRAMS.fit(book.problem).solve(book.problem, Attempt("CLARABEL"))
    assert raw.weights is not None
    moved = raw.weights + size * np.random.default_rng(seed).normal(size=len(raw.weights))
    return replace(raw, weights=moved, duals={}, directions={})


@pytest.mark.parametrize("kind", ["absolute", "active"])
@pytest.mark.parametrize("size", [1e-6, 1e-3])
def test_a_rough_answer_to_a_robust_budget_becomes_a_certified_one(kind: str, size: float) -> None:
    for seed in range(3):
        book = limited(seed, kind)
        before = rough(book, seed, size)
        sharp = solve_on_tangents(book.problem, before, ATTEMPT)
        assert sharp is not before and sharp.weights is not None
        assert max(missed(book.problem, sharp.weights).values()) <= 1e-11
        weights = dict(zip(book.problem.names.labels, sharp.weights.tolist(), strict=True))
        assert book.judge(Claim(weights, sharp.duals, sharp.directions)).accepted, (kind, size, seed)
        assert not book.judge(Claim(weights, {**sharp.duals, **dict.fromkeys(sharp.directions, 0.0)})).accepted


def test_a_shortfall_s_leaves_share_the_multiplier_of_its_tangents() -> None:
    for seed in range(3):
        book = tailed(seed, 0.6)
        sharp = solve_on_tangents(book.problem, rough(book, seed, 1e-4), ATTEMPT)
        (limit,) = book.problem.shortfalls
        assert sharp.weights is not None
        weights = dict(zip(book.problem.names.labels, sharp.weights.tolist(), strict=True))
        assert book.judge(Claim(weights, sharp.duals)).accepted
        shared = sum(sharp.duals.get(leaf, 0.0) for leaf in limit.part_ids)
        assert shared == pytest.approx(sharp.duals[limit.limit_id], rel=1e-9) and shared > 0.0


def test_what_has_no_such_limit_or_another_bent_term_is_left_as_it_was() -> None:
    plain = tight_book(0).problem
    raw = RawAnswer(plain.start, {}, 0.0, "CLARABEL", "solved", 1)
    assert solve_on_tangents(plain, raw, ATTEMPT) is raw
    book = limited(0)
    before = rough(book, 0, 1e-6)
    dear = replace(book.problem, borrow=np.full(len(book.problem.names), 0.01))
    assert solve_on_tangents(dear, before, ATTEMPT) is before


def test_where_no_round_meets_the_limits_the_answer_is_left_as_it_was() -> None:
    book = limited(0)
    before = rough(book, 0, 1e-6)
    (margin,) = book.problem.margins
    never = replace(book.problem, margins=(replace(margin, bound=-1.0),))
    assert solve_on_tangents(never, before, ATTEMPT) is before
