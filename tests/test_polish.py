"""The last digits of an answer: books that every solver leaves short of the certificate, and closed forms."""

from dataclasses import replace

import numpy as np
import pytest
from test_certificate import PROGRAMS, Book, second_opinion, tight_book
from test_degenerate import capped_tracker
from test_rebalance import LOOSE, plain_book
from test_tracking_error import capped, dense

from engine.rebalance.attempt import Attempt, RawAnswer
from engine.rebalance.evidence import Claim
from engine.rebalance.polish import MOST, polish
from engine.rebalance.problem import TRACKING_ERROR
from engine.rebalance.solve import LADDER, repairs

SHORT = (0, 6, 8, 15, 22, 43, 74, 95)
"""Capped trackers of 20 basis points that no step of the ladder certifies."""


def claimed(book: Book, raw: RawAnswer, x: np.ndarray) -> Claim:
    return Claim(dict(zip(book.problem.names.labels, x.tolist(), strict=True)), raw.duals)


def gap(book: Book, raw: RawAnswer) -> float:
    """The best gap of the repaired answers."""
    return min(book.judge(claimed(book, raw, x)).relative_gap for x in repairs(book.problem, raw.weights))


@pytest.mark.parametrize("seed", SHORT)
def test_a_capped_tracker_that_the_ladder_leaves_short_is_certified_once_sharpened(seed: int) -> None:
    book = capped_tracker(seed)
    raw = PROGRAMS.fit(book.problem).solve(book.problem, Attempt("CLARABEL", margin=LADDER[0].margin))
    sharp = polish(book.problem, raw)
    assert gap(book, raw) > 1e-6
    assert abs(gap(book, sharp)) <= 1e-7
    active = sharp.weights - book.problem.benchmark
    assert np.sqrt(active @ dense(book.problem) @ active) == pytest.approx(book.problem.tracking_error, abs=1e-12)
    assert book.solve(PROGRAMS).status == "certified"


def test_a_capped_book_that_the_ladder_leaves_short_is_certified() -> None:
    assert {capped(seed).solve(PROGRAMS).status for seed in (0, 12, 20, 27, 36, 50)} == {"certified"}


def test_an_answer_to_seven_digits_is_sharpened_to_the_optimum_of_a_second_solver() -> None:
    for seed in range(6):
        book = replace(tight_book(seed), limits={**LOOSE, "turnover": 0.3})
        exact = PROGRAMS.fit(book.problem).solve(book.problem, Attempt("CLARABEL"))
        random = np.random.default_rng(seed)
        moves = np.abs(exact.weights - book.problem.start) > 1e-4
        rough = replace(exact, weights=exact.weights + 3e-8 * moves * random.normal(size=len(moves)))
        sharp = polish(book.problem, rough)
        best, _ = second_opinion(book.problem)
        verdict = book.judge(claimed(book, sharp, sharp.weights))
        assert verdict.objective == pytest.approx(best, rel=1e-8)
        assert (verdict.relative_gap <= 1e-9, verdict.max_violation <= 1e-12) == (True, True)


def test_one_name_is_sharpened_to_the_closed_form() -> None:
    # gamma v (xb - x) = k / years where the trade stops.
    book = plain_book(
        {"S0": 0.2},
        1,
        benchmark={"S0": 1.0},
        exposures=np.ones((1, 1)),
        covariance=np.array([[0.04]]),
        variance=np.zeros(1),
        rest={"costs": {"half_spread_bps": 50.0, "holding_years": 0.5}, "risk_aversion": 10.0},
    )
    duals = {"cash:min": 0.0, "cash:max": 0.0, "turnover": 0.0, TRACKING_ERROR: 0.0}
    sharp = polish(book.problem, RawAnswer(np.array([0.9]), duals, 0.0, "guess", "rough", 0))
    assert sharp.weights[0] == pytest.approx(1.0 - 0.005 / 0.5 / 0.4, abs=1e-15)


def test_where_there_is_nothing_to_solve_for_the_answer_stays_as_it_is() -> None:
    problem = tight_book(1).problem
    none = RawAnswer(None, {}, 0.0, "guess", "failed", 0)
    stands = RawAnswer(np.clip(problem.start, problem.lower, problem.upper), {}, 0.0, "guess", "rough", 0)
    assert polish(problem, none) is none
    assert polish(problem, stands) is stands
    n = MOST + 1
    wide = plain_book({f"S{i}": 0.5 / n for i in range(n)}, n).problem
    moved = RawAnswer(wide.start * 1.1, {}, 0.0, "guess", "rough", 0)
    assert polish(wide, moved) is moved
