"""Degenerate books: each is certified or proven infeasible, none is held."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import polars as pl
import pytest
from test_certificate import PROGRAMS, Book, second_opinion, tight_book
from test_rebalance import LOOSE

from engine.conventions import FEASIBILITY, OPTIMALITY
from engine.rebalance.certificate import certify, prove_infeasible
from engine.rebalance.problem import state_problem
from engine.rebalance.solve import Answer, solve_problem

NAMES: Final = tuple(f"S{i}" for i in range(10))

QUICK: Final = 3
SOAK: Final = 100
"""Books of each kind."""

EXPENSIVE: Final = {"costs": {"half_spread_bps": 1000.0, "holding_years": 0.1}}


def with_limits(seed: int, **changes: Any) -> Book:
    """A tight book under its own limits and those given."""
    book = tight_book(seed)
    return replace(book, limits={**book.limits, **changes})


def loose(seed: int, **changes: Any) -> Book:
    """The names and the risk of a tight book under next to no limits."""
    return replace(tight_book(seed), limits={**LOOSE, **changes})


def pinned(weights: Mapping[str, float]) -> dict[str, dict[str, float]]:
    return {name: {"min": weight, "max": weight} for name, weight in weights.items()}


def every_name_twice(seed: int) -> Book:
    """The second five names are the first five again, risk, shocks, tiers and costs, under their own issuers."""
    book = tight_book(seed)
    first = np.arange(10) % 5
    shares = {name: book.shares[f"S{i % 5}"] for i, name in enumerate(NAMES)}
    return replace(
        book,
        exposures=book.exposures[first],
        variance=book.variance[first],
        issuers=np.arange(10),
        shares=shares,
        shocks={name: shock[first] for name, shock in book.shocks.items()},
        bps={name: book.bps[f"S{i % 5}"] for i, name in enumerate(NAMES)},
        limits={**LOOSE, "tiers": {"a": {"max": 0.3}}},
    )


def tracker(seed: int, **changes: Any) -> Book:
    """A book whose active volatility is about 20 basis points a year."""
    book = tight_book(seed)
    off = np.random.default_rng(seed).normal(size=10)
    bench = np.array([book.benchmark[name] for name in NAMES]) * 0.98
    step = bench * (off - off @ bench / bench.sum())
    whole = replace(book, benchmark=dict(zip(NAMES, bench.tolist(), strict=True)), limits=LOOSE)
    sigma = whole.problem.root @ whole.problem.root.T + np.diag(whole.problem.specific)
    start = bench + step * (0.002 / np.sqrt(step @ sigma @ step))
    held = dict(zip(NAMES, start.tolist(), strict=True))
    return replace(whole, weights=held, limits={**LOOSE, **changes}, bps={}, rest={"risk_aversion": 100.0})


def capped_tracker(seed: int) -> Book:
    return replace(tracker(seed, tracking_error=0.001), rest={"risk_aversion": 0.5})


def next_to_nothing(seed: int) -> Book:
    """A trillionth of NAV in half of the names."""
    book = loose(seed)
    return replace(book, weights={**book.weights, **dict.fromkeys(NAMES[:5], 1e-12)})


CERTIFIED: dict[str, Callable[[int], Book]] = {
    "every name twice": every_name_twice,
    "no specific risk": lambda s: replace(tight_book(s), variance=np.zeros(10)),
    "no factor risk": lambda s: replace(tight_book(s), covariance=np.zeros((3, 3))),
    "no risk at all": lambda s: replace(tight_book(s), covariance=np.zeros((3, 3)), variance=np.zeros(10)),
    "a factor covariance of rank one": lambda s: replace(tight_book(s), covariance=0.03 * np.ones((3, 3))),
    "no exposure to any factor": lambda s: replace(tight_book(s), exposures=np.zeros((10, 3))),
    "neither costs nor a cost-free limit": lambda s: replace(
        tight_book(s), bps={}, rest={"costs": {"half_spread_bps": 0.0}}
    ),
    "no costs, no risk: any feasible answer is best": lambda s: replace(
        tight_book(s),
        bps={},
        rest={"costs": {"half_spread_bps": 0.0}},
        covariance=np.zeros((3, 3)),
        variance=np.zeros(10),
    ),
    "costs of a tenth over a tenth of a year": lambda s: replace(loose(s), bps={}, rest=EXPENSIVE),
    "turnover of nothing": lambda s: loose(s, turnover=0.0),
    "turnover of a millionth": lambda s: loose(s, turnover=1e-6),
    "turnover of a billionth": lambda s: loose(s, turnover=1e-9),
    "every name pinned where it is": lambda s: loose(s, weights=pinned(tight_book(s).weights)),
    "every name pinned elsewhere": lambda s: loose(s, weights=pinned(dict.fromkeys(NAMES, 0.09))),
    "every name pinned but one": lambda s: loose(
        s, weights=pinned({n: w for n, w in tight_book(s).weights.items() if n != "S3"})
    ),
    "everything frozen": lambda s: loose(s, frozen=NAMES),
    "everything excluded": lambda s: loose(s, excluded=NAMES),
    "nearly all sold for a cash floor": lambda s: loose(s, cash={"min": 0.98, "max": 1.0}),
    "no cash at all": lambda s: replace(
        loose(s, cash={"min": 0.0, "max": 0.0}), bps={}, rest={"costs": {"half_spread_bps": 0.0}}
    ),
    "only equal weights are allowed": lambda s: replace(
        loose(s, max_weight=0.1, cash={"min": 0.0, "max": 0.0}), bps={}, rest={"costs": {"half_spread_bps": 0.0}}
    ),
    "a stress budget on a scenario in which nothing happens": lambda s: replace(
        tight_book(s), shocks={**tight_book(s).shocks, "crash": np.zeros(10)}
    ),
    "the benchmark is held": lambda s: replace(loose(s), benchmark=tight_book(s).weights),
    "no benchmark, inside the limits": lambda s: replace(loose(s), benchmark=None),
    "a 20 basis point tracker": tracker,
    "a 20 basis point tracker with little turnover": lambda s: tracker(s, turnover=0.002),
    "a 20 basis point tracker capped at 10": capped_tracker,
    "aversion of ten thousand": lambda s: replace(tight_book(s), rest={"risk_aversion": 1e4}),
    "aversion of a millionth": lambda s: replace(tight_book(s), rest={"risk_aversion": 1e-6}),
    "every line of one issuer": lambda s: replace(
        tight_book(s), issuers=np.zeros(10, dtype=np.int64), variance=np.full(10, 0.05)
    ),
    "two issuers with five lines each": lambda s: replace(
        tight_book(s), issuers=np.arange(10) % 2, variance=np.where(np.arange(10) % 2, 0.05, 0.1)
    ),
    "one name held of ten": lambda s: replace(loose(s, turnover=0.3), weights={"S4": 0.95}),
    "a trillionth of NAV in every other name": next_to_nothing,
    "nothing may trade for want of volume": lambda s: loose(s, participation={"max_share": 0.1}),
    "all cash": lambda s: replace(loose(s), weights={}),
    "no name at all": lambda s: replace(loose(s), weights={}, benchmark=None),
}

INFEASIBLE: dict[str, Callable[[int], Book]] = {
    "turnover of nothing and a broken limit": lambda s: loose(s, turnover=0.0, cash={"min": 0.2, "max": 1.0}),
    "everything frozen and a broken limit": lambda s: loose(s, frozen=NAMES, cash={"min": 0.2, "max": 1.0}),
    "pinned to more than there is": lambda s: loose(s, weights=pinned(dict.fromkeys(NAMES, 0.1))),
    "invested in full under a cap that is too low": lambda s: loose(s, max_weight=0.09, cash={"min": 0.0, "max": 0.0}),
    "a cash floor of one that selling costs do not leave": lambda s: loose(s, cash={"min": 1.0, "max": 1.0}),
    "a name without room": lambda s: loose(s, max_weight=0.5, active_weights={"S0": {"min": 0.8}}),
    "nothing held and nothing to buy, yet invested": lambda s: replace(
        loose(s, cash={"min": 0.0, "max": 0.5}), weights={}, benchmark=None
    ),
}


def check_certified(book: Book, answer: Answer) -> None:
    verdict = answer.verdict
    assert answer.status == "certified", verdict
    assert verdict.max_violation <= FEASIBILITY
    assert verdict.relative_gap <= OPTIMALITY
    if len(book.problem.names) and book.problem.tracking_error is None:
        best, _ = second_opinion(book.problem)
        assert abs(verdict.objective - best) <= 1e-6 * max(best, 1e-8) + 1e-9


@pytest.mark.parametrize("kind", CERTIFIED)
def test_a_degenerate_book_is_certified(kind: str) -> None:
    for seed in range(QUICK):
        book = CERTIFIED[kind](seed)
        check_certified(book, book.solve(PROGRAMS))


@pytest.mark.soak
@pytest.mark.parametrize("kind", CERTIFIED)
def test_a_hundred_degenerate_books_of_each_kind_are_certified(kind: str) -> None:
    found = {seed: CERTIFIED[kind](seed).solve(PROGRAMS) for seed in range(QUICK, SOAK)}
    assert {seed: one.verdict for seed, one in found.items() if one.status != "certified"} == {}


@pytest.mark.parametrize("kind", INFEASIBLE)
def test_a_degenerate_book_without_an_answer_is_proven_to_have_none(kind: str) -> None:
    for seed in range(QUICK):
        answer = INFEASIBLE[kind](seed).solve(PROGRAMS)
        assert answer.status == "infeasible", answer.verdict
        assert answer.conflict > 1e-6


@dataclass(frozen=True)
class Money:
    """What a book of some NAV is told: values in its currency, weights as the pipeline divides them."""

    book: Book
    nav: float

    def solve(self) -> Answer:
        values = {name: weight * self.nav for name, weight in self.book.weights.items()}
        holdings = pl.DataFrame(
            {"security_id": list(values), "market_value_base": list(values.values()), "exposure_base": None},
            schema={"security_id": pl.String, "market_value_base": pl.Float64, "exposure_base": pl.Float64},
        )
        problem = state_problem(
            "book",
            weights={name: value / self.nav for name, value in values.items()},
            benchmark=self.book.benchmark,
            mandate=self.book.mandate,
            terms=self.book.terms,
            nav=self.nav,
        )
        inputs = {**self.book.inputs, "holdings": holdings, "nav": self.nav}
        evidence = self.book.evidence
        return solve_problem(
            problem,
            PROGRAMS,
            judge=lambda claim: certify(evidence, **inputs, claim=claim),
            refute=lambda claim: prove_infeasible(evidence, **inputs, claim=claim),
        )


@pytest.mark.parametrize("nav", [1.0, 3.0, 1e12, 7e13, 1e-6], ids=str)
def test_no_size_of_the_book_matters(nav: float) -> None:
    for seed in range(QUICK):
        book = tight_book(seed)
        answer = Money(book, nav).solve()
        check_certified(book, answer)
        assert answer.weights == pytest.approx(book.solve(PROGRAMS).weights, abs=1e-6)
