"""What a mandate minimises: active risk, mean and variance, or costs alone; each proven and each planted wrong."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from scipy.optimize import linprog
from test_certificate import PROGRAMS, Book, exact_bound, some_duals, tight_book
from test_limits import solved
from test_mandates import HEAD, faults_of, read
from test_rebalance import LOOSE, plain_book

from engine.book.answers import _reason
from engine.mandates.mandate import LEAST_COST
from engine.rebalance.attempt import Attempt
from engine.rebalance.bound import lower_bound
from engine.rebalance.case import assemble
from engine.rebalance.evidence import Claim
from engine.rebalance.problem import Problem
from engine.rebalance.shadows import marginal_costs
from engine.rebalance.solve import Answer

SEEDS = range(6)


@cache
def hopeful(seed: int, *, benchmark: bool = True) -> Book:
    """A tight book that expects returns of some names."""
    random, book = np.random.default_rng(seed), tight_book(seed)
    alpha = {f"S{i}": float(random.normal(0.0, 0.04)) for i in range(0, 10, 2)}
    rest = {**book.rest, "objective": "mean_variance", "alpha": alpha}
    return replace(book, rest=rest, benchmark=book.benchmark if benchmark else None)


@cache
def answered(seed: int) -> Answer:
    return solved(hopeful(seed))


def second_opinion(book: Book) -> float:
    """The utility written in weights with a dense covariance from the book, by another solver."""
    problem = book.problem
    at = [int(name[1:]) for name in problem.names.labels]
    b, same = book.exposures[at], book.issuers[at][:, None] == book.issuers[at][None, :]
    sigma = b @ book.covariance @ b.T + same * np.sqrt(np.outer(book.variance[at], book.variance[at]))
    xb = np.array([(book.benchmark or {}).get(name, 0.0) for name in problem.names.labels])
    alpha = np.array([book.rest["alpha"].get(name, 0.0) for name in problem.names.labels])
    x = cp.Variable(len(at))
    moved = cp.abs(x - problem.start)
    risk = book.rest["risk_aversion"] / 2 * cp.quad_form(x - xb, cp.psd_wrap(sigma))
    cost = problem.costs @ moved / book.rest["costs"]["holding_years"]
    limits = [
        x >= problem.lower,
        x <= problem.upper,
        problem.rows @ x <= problem.bounds,
        cp.sum(x) + problem.costs @ moved <= problem.spendable,
        cp.sum(moved) <= problem.turnover,
    ]
    program = cp.Problem(cp.Minimize(risk - alpha @ x + cost), limits)
    program.solve(solver=cp.PIQP, eps_abs=1e-11, eps_rel=1e-11, max_iter=500)
    assert program.status == "optimal"
    return float(program.value)


@pytest.mark.parametrize("benchmark", [True, False])
def test_mean_variance_meets_a_second_solver_of_the_dense_utility(benchmark: bool) -> None:
    for seed in SEEDS:
        book = hopeful(seed, benchmark=benchmark)
        answer, best = solved(book), second_opinion(book)
        assert answer.verdict.objective == pytest.approx(best, abs=1e-6 * answer.verdict.scale)
        assert answer.verdict.lower_bound <= best + 1e-9


def test_without_costs_and_limits_the_weight_is_alpha_over_aversion_times_variance() -> None:
    alpha = {"S0": 0.02, "S1": 0.03, "S2": 0.001}
    book = plain_book(
        {"S0": 0.3, "S1": 0.2, "S2": 0.1},
        3,
        covariance=np.zeros((2, 2)),
        rest={"objective": "mean_variance", "alpha": alpha, "risk_aversion": 4.0, "costs": {"half_spread_bps": 0.0}},
    )
    expected = [alpha[name] / (4.0 * 0.06) for name in book.problem.names.labels]
    assert solved(book).weights == pytest.approx(expected, abs=1e-6)


def test_without_alpha_mean_variance_against_a_benchmark_is_minimum_active_risk() -> None:
    book = tight_book(3)
    same = replace(book, rest={**book.rest, "objective": "mean_variance"})
    assert (solved(same).weights == solved(book).weights).all()


def test_more_alpha_never_means_less_of_a_name() -> None:
    for seed in SEEDS:
        book = hopeful(seed)
        alpha = {**book.rest["alpha"], "S4": book.rest["alpha"]["S4"] + 0.05}
        more = replace(book, rest={**book.rest, "alpha": alpha})
        assert solved(more).weights[4] >= answered(seed).weights[4] - 1e-7


PLANTS: dict[str, Callable[[Problem], Problem]] = {
    "alpha forgotten": lambda p: replace(p, alpha=np.zeros_like(p.alpha)),
    "alpha of the wrong sign": lambda p: replace(p, alpha=-p.alpha),
    "alpha a day for a year": lambda p: replace(p, alpha=p.alpha / 252.0),
    "alpha of the next name": lambda p: replace(p, alpha=np.roll(p.alpha, 1)),
    "alpha in percent": lambda p: replace(p, alpha=100.0 * p.alpha),
    "alpha a tenth too high": lambda p: replace(p, alpha=1.1 * p.alpha),
    "risk of the weights for active risk": lambda p: replace(p, benchmark=np.zeros_like(p.benchmark)),
    "risk left out": lambda p: replace(p, aversion=0.0),
}


def refusals(books: list[tuple[Book, Answer]], spoil: Callable[[Problem], Problem]) -> list[bool]:
    """Whether each answer that a spoilt program changes is refused, whoever's multipliers it comes with."""
    refused = []
    for book, true in books:
        spoilt = spoil(book.problem)
        raw = PROGRAMS.fit(spoilt).solve(spoilt, Attempt("CLARABEL"))
        if raw.weights is None or np.abs(raw.weights - true.weights).sum() <= 1e-3:
            continue
        claimed = dict(zip(spoilt.names.labels, raw.weights.tolist(), strict=True))
        refused += [not book.judge(Claim(claimed, duals)).accepted for duals in (raw.duals, true.duals)]
    return refused


@pytest.mark.parametrize("kind", PLANTS)
def test_a_planted_wrong_utility_is_refused(kind: str) -> None:
    refused = refusals([(hopeful(seed), answered(seed)) for seed in SEEDS], PLANTS[kind])
    assert len(refused) >= 4, f"{kind}: the plant changed too few answers and proves nothing"
    assert all(refused)


def test_the_bound_with_alpha_is_never_above_exact_rationals() -> None:
    for seed in range(12):
        book, random = hopeful(seed), np.random.default_rng(seed)
        problem = book.problem
        case = assemble(book.evidence, *book.inputs.values(), Claim({}, {}))
        for size in (0.0, 1e-4, 1.0):
            duals = some_duals(problem, random, size)
            w = case.b.T @ (random.dirichlet(np.ones(len(problem.names))) - case.benchmark)
            lines = [float(random.normal() * 0.1) for _ in case.shared]
            # A row of alpha with the multiplier 1 and the bound 0 is the term alpha in the slope.
            padded = replace(
                problem,
                row_ids=(*problem.row_ids, "alpha"),
                rows=np.vstack([problem.rows, -problem.alpha]),
                bounds=np.append(problem.bounds, 0.0),
            )
            twin = replace(book)
            twin.__dict__["problem"] = padded
            exact = exact_bound(twin, {**duals, "alpha": 1.0}, w, lines, risk=True)
            found = lower_bound(case, duals, w, lines, risk=True)
            assert Fraction(found) <= exact
            assert float(exact) - found <= 1e-11 * (1.0 + abs(found) + size)


def cheapest(book: Book) -> float:
    """The least cost a year of keeping the limits: a linear program in buys and sells."""
    problem = book.problem
    n = len(problem.names)
    both = np.hstack([np.eye(n), -np.eye(n)])
    ones, costs = np.ones(n), np.tile(problem.costs, 2)
    rows = [problem.rows @ both, (ones @ both + costs)[None], np.ones((1, 2 * n)), both, -both]
    bounds = [
        problem.bounds - problem.rows @ problem.start,
        [problem.spendable - problem.start.sum()],
        [problem.turnover],
        problem.upper - problem.start,
        problem.start - problem.lower,
    ]
    found = linprog(costs / problem.years, A_ub=np.vstack(rows), b_ub=np.concatenate(bounds), bounds=(0.0, None))
    assert found.status == 0
    return float(found.fun)


def thrifty(seed: int, **changes: Any) -> Book:
    book = tight_book(seed, **changes)
    return replace(book, rest={**book.rest, "objective": "least_cost"})


def test_least_cost_cures_every_breach_at_the_cost_that_a_linear_program_finds() -> None:
    traded = 0
    for seed in range(9):
        book = thrifty(seed)
        answer, best = solved(book), cheapest(book)
        assert answer.verdict.objective == pytest.approx(best, abs=1e-6 * max(best, 1e-8))
        traded += best > 0.0
    assert traded >= 4


def test_least_cost_leaves_a_sound_book_alone_also_where_trading_is_free() -> None:
    book = thrifty(1)
    free = replace(book, limits=LOOSE, bps=dict.fromkeys(book.weights, 0.0))
    assert free.problem.costs.min() == LEAST_COST
    answer = solved(free)
    assert (answer.weights == free.problem.start).all()
    assert answer.verdict.objective == 0.0


def test_least_cost_keeps_a_cap_on_tracking_error() -> None:
    book = thrifty(2)
    free = replace(book, limits=LOOSE)
    active = free.problem.start - free.problem.benchmark
    sigma = free.problem.root @ free.problem.root.T + np.diag(free.problem.specific)
    cap = 0.8 * float(np.sqrt(active @ sigma @ active))
    capped = replace(free, limits={**LOOSE, "tracking_error": cap})
    answer = solved(capped)
    active = answer.weights - free.problem.benchmark
    assert float(np.sqrt(active @ sigma @ active)) == pytest.approx(cap, abs=1e-8)
    assert answer.duals["tracking_error"] > 0.0


@pytest.mark.parametrize(
    "spoil",
    [lambda p: replace(p, aversion=12.0), lambda p: replace(p, costs=p.costs[::-1].copy())],
    ids=["risk as well", "costs of other names"],
)
def test_a_planted_wrong_least_cost_is_refused(spoil: Callable[[Problem], Problem]) -> None:
    refused = refusals([(thrifty(seed), solved(thrifty(seed))) for seed in SEEDS], spoil)
    assert len(refused) >= 4
    assert all(refused)


def test_at_an_optimum_with_alpha_no_trade_pays_and_expected_return_is_a_reason() -> None:
    book = replace(hopeful(2), limits=LOOSE)
    answer = solved(book)
    problem, x = book.problem, answer.weights
    buying, selling = marginal_costs(problem, x, answer.duals)
    assert buying[x < problem.upper - 1e-9].min() > -1e-5
    assert selling[x > problem.lower + 1e-9].min() > -1e-5
    assert buying[x > problem.start] == pytest.approx(0.0, abs=1e-5)
    assert (x > problem.start).any()
    assert "expected return" in reasons_of(book, answer)


def reasons_of(book: Book, answer: Answer) -> set[str]:
    moved = np.flatnonzero(answer.weights != book.problem.start)
    return {_reason(book.problem, answer, int(i)) for i in moved}


def test_a_mandate_reads_its_objective_and_refuses_an_alpha_that_nothing_looks_at() -> None:
    mandate = read(HEAD + "objective: mean_variance\nalpha: {NVDA: 0.04, AGG: -0.01}\n")
    assert mandate.alpha == {"NVDA": 0.04, "AGG": -0.01}
    assert read(HEAD).objective == "minimum_active_risk"
    assert faults_of(HEAD + "alpha: {NVDA: 0.04}\n") == [
        "mandates/m.yaml:1:1: objective minimum_active_risk looks at no alpha; say objective: mean_variance, "
        "or drop alpha"
    ]
    assert "least_cost looks at no alpha" in faults_of(HEAD + "objective: least_cost\nalpha: {AGG: 0.1}\n")[0]
    (fault,) = faults_of(HEAD + "objective: mean_variance\nalpha: {NVDIA: 0.04}\n")
    assert fault == "mandates/m.yaml:5:9: unknown security 'NVDIA'; did you mean 'NVDA'?"
    (fault,) = faults_of(HEAD + "objective: mean_variance\nalpha: {NVDA: 4}\n")
    assert fault == "mandates/m.yaml:5:15: NVDA: input should be less than or equal to 1; found 4"
