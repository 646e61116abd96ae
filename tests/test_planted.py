"""Wrong answers planted in random books of many limits: the certificate refuses each, whatever multipliers come along.

A plant is a slip that a program could make and a solver would not notice: it solves the wrong problem to the last
digit. ``tests/test_certificate.py`` plants forty such slips in small tight books, this file others in books that look
like a desk's: bands on tiers and factors, eight stress budgets, issuers with two lines, names that are not held.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, Final

import numpy as np
import pytest
from random_books import RandomBook, random_book

from engine.rebalance.attempt import Attempt
from engine.rebalance.evidence import Claim
from engine.rebalance.problem import Problem
from engine.rebalance.solve import Answer, Programs

NAMES, FACTORS = 40, 6

QUICK: Final = 4
SOAK: Final = 500
"""Wrong answers of each kind that must be refused; a plant that changes nothing does not count."""

DRAWN: Final = 4
"""At most so many books are drawn for each plant that counts: a plant that seldom tells proves little."""

FELT: Final = 1e-4
"""A plant counts where it moves the weights by more than a basis point in all, and the answer is wrong for it."""

OTHER: Final = 10_000
"""Seed of the other book, from that of the book."""

PROGRAMS: Final = Programs()


@cache
def drawn(seed: int) -> RandomBook:
    return random_book(np.random.default_rng(seed), NAMES, FACTORS)


@cache
def stated(seed: int) -> Problem:
    return drawn(seed).state()


@cache
def truth(seed: int) -> tuple[Problem, Answer]:
    book = drawn(seed)
    answer = book.solve(PROGRAMS)
    assert answer.status == "certified", seed
    return stated(seed), answer


Plant = Callable[[RandomBook, Problem, Problem], Problem]
"""The wrong problem from the true book, its problem, and the problem of another book of the same names."""


def stale(*fields: str) -> Plant:
    """Parameters of the compiled program that still hold another book's numbers."""
    return lambda b, p, other: replace(p, **{field: getattr(other, field) for field in fields})


def modelled(change: Callable[[Any], dict[str, Any]]) -> Plant:
    """The risk of another model; the limits stay as they are, so that there is an answer."""

    def plant(book: RandomBook, problem: Problem, *_: Any) -> Problem:
        model = replace(book.terms.model, **change(book.terms.model))
        wrong = restated(book, terms=replace(book.terms, model=model))
        return replace(problem, root=wrong.root, specific=wrong.specific)

    return plant


def restated(book: RandomBook, **changes: Any) -> Problem:
    return replace(book, **changes).state()


def rows_like(start: str, change: Callable[[np.ndarray], np.ndarray]) -> Plant:
    """The rows of the limits that begin so, changed."""

    def plant(book: RandomBook, problem: Problem, *_: Any) -> Problem:
        chosen = np.array([name.startswith(start) for name in problem.row_ids])
        rows = problem.rows.copy()
        rows[chosen] = change(rows[chosen])
        return replace(problem, rows=rows)

    return plant


def bounds_like(start: str, change: Callable[[np.ndarray], np.ndarray]) -> Plant:
    """The bounds of the limits that begin so, changed."""

    def plant(book: RandomBook, problem: Problem, *_: Any) -> Problem:
        chosen = np.array([name.startswith(start) for name in problem.row_ids])
        return replace(problem, bounds=np.where(chosen, change(problem.bounds), problem.bounds))

    return plant


def held_only(book: RandomBook, problem: Problem, *_: Any) -> Problem:
    """Only what is held may be traded: the universe was cut, and the cut was not screened."""
    return replace(problem, upper=np.where(problem.start > 0.0, problem.upper, 0.0))


def largest_benchmark_name_lost(book: RandomBook, problem: Problem, *_: Any) -> Problem:
    free = {name: weight for name, weight in book.benchmark.items() if name not in book.weights}
    lost = max(free, key=lambda name: free[name])
    return restated(book, benchmark={name: w for name, w in book.benchmark.items() if name != lost})


def cash_counts_as_a_name(book: RandomBook, problem: Problem, *_: Any) -> Problem:
    """Weights as shares of what is invested, not of NAV."""
    return replace(problem, start=problem.start / problem.start.sum())


def correlation(model: Any) -> dict[str, Any]:
    volatility = np.sqrt(np.diag(model.factor_covariance))
    return {"factor_covariance": model.factor_covariance / np.outer(volatility, volatility)}


def twins_apart(model: Any) -> dict[str, Any]:
    return {"issuers": np.arange(len(model.securities))}


PLANTS: Final[dict[str, Plant]] = {
    "another book's factor risk": stale("root"),
    "another book's specific risk": stale("specific"),
    "another book's costs": stale("costs"),
    "another book's benchmark": stale("benchmark"),
    "another book's aversion": stale("aversion"),
    "another book's holding period": stale("years"),
    "another book's cap on turnover": stale("turnover"),
    "another book's highest weights": stale("upper"),
    "exposures joined by place": modelled(lambda m: {"exposures": m.exposures[::-1].copy()}),
    "exposures of a rolled axis": modelled(lambda m: {"exposures": np.roll(m.exposures, 1, axis=0)}),
    "factors of the covariance in another order": modelled(
        lambda m: {"factor_covariance": m.factor_covariance[::-1, ::-1].copy()}
    ),
    "correlations for covariances": modelled(correlation),
    "a month's covariance for a year's": modelled(
        lambda m: {"factor_covariance": m.factor_covariance / 12.0, "specific_variance": m.specific_variance / 12.0}
    ),
    "the market factor lost": modelled(lambda m: {"exposures": m.exposures * (np.arange(FACTORS) > 0)}),
    "exposures clipped at zero": modelled(lambda m: {"exposures": np.maximum(m.exposures, 0.0)}),
    "specific volatility for variance": modelled(lambda m: {"specific_variance": np.sqrt(m.specific_variance)}),
    "specific risk of one median name": modelled(
        lambda m: {"specific_variance": np.full(NAMES, float(np.median(m.specific_variance)))}
    ),
    "two lines of an issuer as strangers": modelled(twins_apart),
    "factor bands a tenth of a unit wider": bounds_like("factor", lambda bounds: bounds + 0.1),
    "factor bands dropped": bounds_like("factor", lambda bounds: bounds + 100.0),
    "tier bands dropped": bounds_like("tier", lambda bounds: bounds + 2.0),
    "tier bands a point wider": bounds_like("tier", lambda bounds: bounds + 0.01),
    "tiers of the next name": rows_like("tier", lambda rows: np.roll(rows, 1, axis=1)),
    "stress losses as gains": rows_like("stress", np.negative),
    "stress losses in percent": rows_like("stress", lambda rows: rows / 100.0),
    "logarithmic for simple shocks": rows_like("stress", lambda rows: 1.0 - np.exp(-rows)),
    "stress budgets a tenth wider": bounds_like("stress", lambda bounds: 1.1 * bounds),
    "turnover counted one-way": lambda b, p, *_: replace(p, turnover=2.0 * p.turnover),
    "turnover halved twice": lambda b, p, *_: replace(p, turnover=0.5 * p.turnover),
    "costs of a full spread": lambda b, p, *_: replace(p, costs=2.0 * p.costs),
    "costs a month for a year": lambda b, p, *_: replace(p, years=12.0 * p.years),
    "one half-spread for all": lambda b, p, *_: restated(b, terms=replace(b.terms, half_spread_bps={})),
    "variance without its half": lambda b, p, *_: replace(p, aversion=2.0 * p.aversion),
    "risk of the weights, not of the active ones": lambda b, p, *_: replace(p, benchmark=np.zeros(len(p.start))),
    "active against today's book": lambda b, p, *_: replace(p, benchmark=p.start),
    "only what is held may be traded": held_only,
    "a name of the benchmark lost": largest_benchmark_name_lost,
    "weights of what is invested": cash_counts_as_a_name,
}


def solved_wrongly(kind: str, seed: int) -> tuple[np.ndarray, dict[str, float]] | None:
    """The weights that the planted problem asks for, on the true names, and its multipliers; None where it has none."""
    problem, _ = truth(seed)
    wrong = PLANTS[kind](drawn(seed), problem, stated(seed + OTHER))
    raw = PROGRAMS.fit(wrong).solve(wrong, Attempt("CLARABEL"))
    if raw.weights is None:
        return None
    claimed = dict(zip(wrong.names.labels, raw.weights.tolist(), strict=True))
    return np.array([claimed.get(name, 0.0) for name in problem.names.labels]), raw.duals


Spoil = Callable[[Problem, np.ndarray], np.ndarray]

SPOILS: Final[dict[str, Spoil]] = {
    "a solver stopped early": lambda p, x: np.asarray(
        PROGRAMS.fit(p).solve(p, Attempt("CLARABEL", tolerance=1e-3)).weights
    ),
    "single precision": lambda p, x: x.astype(np.float32).astype(np.float64),
    "rounded to a basis point": lambda p, x: np.round(x, 4),
    "trades below five basis points left out": lambda p, x: np.where(np.abs(x - p.start) < 5e-4, p.start, x),
    "small weights rounded away": lambda p, x: np.where(x < 5e-4, 0.0, x),
    "scaled to one": lambda p, x: x / x.sum(),
    "weights of the next name": lambda p, x: np.roll(x, 1),
    "the largest trade undone": lambda p, x: np.where(np.arange(len(x)) == np.argmax(np.abs(x - p.start)), p.start, x),
    "half of the way": lambda p, x: (x + p.start) / 2.0,
}
"""What is done to the true answer after it was found."""


def objective(problem: Problem, x: np.ndarray) -> float:
    active = x - problem.benchmark
    factor = problem.root.T @ active
    risk = factor @ factor + problem.specific @ active**2
    return float(problem.aversion / 2.0 * risk + problem.costs @ np.abs(x - problem.start) / problem.years)


def is_wrong(problem: Problem, x: np.ndarray, best: np.ndarray) -> bool:
    """Outside the limits, or worse than the true answer: said without the certificate."""
    moved = np.abs(x - problem.start)
    outside = max(
        float((problem.lower - x).max()),
        float((x - problem.upper).max()),
        float((problem.rows @ x - problem.bounds).max()),
        float(x.sum() + problem.costs @ moved) - problem.spendable,
        float(moved.sum()) - problem.turnover,
    )
    return outside > 2e-9 or objective(problem, x) > objective(problem, best) * (1.0 + 2e-6)


def refused(kind: str, seed: int) -> bool | None:
    """Whether the certificate refuses the planted answer; None where the plant does not count."""
    problem, true = truth(seed)
    if kind in SPOILS:
        x, own = SPOILS[kind](problem, true.weights), true.duals
    else:
        found = solved_wrongly(kind, seed)
        if found is None or np.abs(found[0] - true.weights).sum() <= FELT:
            return None
        x, own = found
    if not is_wrong(problem, x, true.weights):
        return None
    weights = dict(zip(problem.names.labels, x.tolist(), strict=True))
    # Not even with the multipliers that prove the true answer may a wrong one pass.
    return not any(drawn(seed).judge(Claim(weights, duals)).accepted for duals in (own, true.duals))


def check_refused(kind: str, wanted: int, seeds: range) -> None:
    """Plant until ``wanted`` count; every one of them must be refused."""
    counted = 0
    for seed in seeds:
        verdict = refused(kind, seed)
        assert verdict in {None, True}, f"{kind}: accepted in book {seed}"
        counted += verdict is True
        if counted == wanted:
            return
    raise AssertionError(f"{kind}: only {counted} plants of {len(seeds)} made an answer wrong")


@pytest.mark.parametrize("kind", [*PLANTS, *SPOILS])
def test_a_slip_of_the_program_is_refused(kind: str) -> None:
    check_refused(kind, QUICK, range(DRAWN * QUICK))


@pytest.mark.soak
@pytest.mark.parametrize("kind", [*PLANTS, *SPOILS])
def test_five_hundred_slips_of_each_kind_are_refused(kind: str) -> None:
    check_refused(kind, SOAK, range(DRAWN * SOAK))


def test_the_true_answers_are_accepted() -> None:
    assert all(truth(seed)[1].verdict.accepted for seed in range(DRAWN * QUICK))
