"""Market impact: the square-root law against a second formulation, its bound exact, its slips refused."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache

import cvxpy as cp
import numpy as np
import pytest
from exactly import full_bound
from scipy.optimize import minimize_scalar
from test_certificate import NAV, Book, second_opinion, some_duals, tight_book
from test_limits import solved
from test_mandates import HEAD, faults_of, read
from test_objectives import refusals
from test_rebalance import LOOSE, plain_book

from engine.errors import ModelError
from engine.rebalance.bound import lower_bound
from engine.rebalance.case import assemble
from engine.rebalance.evidence import Claim
from engine.rebalance.minima import Price, one_dimensional_minima
from engine.rebalance.problem import Problem, state_problem
from engine.rebalance.shadows import marginal_costs
from engine.rebalance.shape import shape_of
from engine.rebalance.solve import Answer

SEEDS = range(5)


@cache
def heavy(seed: int) -> Book:
    """A tight book whose trades move prices; the volume of S8 is not known, that of S7 is 0."""
    random, book = np.random.default_rng(seed), tight_book(seed)
    volumes = {f"S{i}": float(NAV * 10.0 ** random.uniform(-1.0, 1.5)) for i in range(10) if i != 8}
    costs = {**book.rest["costs"], "impact": 0.8, "unknown_volume_base": NAV / 4.0}
    return replace(book, volumes={**volumes, "S7": 0.0}, rest={**book.rest, "costs": costs})


@cache
def answered(seed: int) -> Answer:
    return solved(heavy(seed))


def law(book: Book) -> np.ndarray:
    """Coefficient, volatility of a day and root of NAV over volume, from the book."""
    found = []
    for name in book.problem.names.labels:
        i, volume = int(name[1:]), book.volumes.get(name) or NAV / 4.0
        variance = book.exposures[i] @ book.covariance @ book.exposures[i] + book.variance[i]
        found.append(0.8 * np.sqrt(variance / 252.0) * np.sqrt(NAV / volume))
    return np.array(found)


def test_program_and_certificate_each_state_the_square_root_law() -> None:
    for seed in SEEDS:
        book = heavy(seed)
        case = assemble(book.evidence, *book.inputs.values(), Claim({}, {}))
        assert book.problem.impact == pytest.approx(law(book), rel=1e-12)
        assert case.impact == pytest.approx(law(book), rel=1e-12)


def dense(book: Book) -> float:
    """The program in weights with a dense covariance, the power in its own cone, by Clarabel."""
    problem = book.problem
    x = cp.Variable(len(problem.names))
    moved = cp.abs(x - problem.start)
    sigma = problem.root @ problem.root.T + np.diag(problem.specific)
    paid = problem.costs @ moved + law(book) @ cp.power(moved, 1.5, approx=False)
    objective = problem.aversion / 2 * cp.quad_form(x - problem.benchmark, cp.psd_wrap(sigma)) + paid / problem.years
    limits = [
        x >= problem.lower,
        x <= problem.upper,
        problem.rows @ x <= problem.bounds,
        cp.sum(x) + problem.costs @ moved <= problem.spendable,
        cp.sum(moved) <= problem.turnover,
    ]
    program = cp.Problem(cp.Minimize(objective), limits)
    program.solve(solver=cp.CLARABEL)
    assert program.status == "optimal"
    return float(program.value)


def test_the_answer_meets_the_dense_program_and_its_bound() -> None:
    for seed in SEEDS:
        answer, best = answered(seed), dense(heavy(seed))
        assert answer.verdict.objective == pytest.approx(best, rel=1e-6)
        assert answer.verdict.lower_bound <= best * (1.0 + 1e-7)
        assert answer.verdict.objective > second_opinion(heavy(seed).problem)[0]


def test_one_name_trades_to_where_the_slope_of_risk_is_that_of_impact() -> None:
    costs = {"half_spread_bps": 0.0, "holding_years": 1.0, "impact": 1.0}
    book = plain_book(
        {"S0": 0.1},
        1,
        exposures=np.array([[1.0, 0.0]]),
        benchmark={"S0": 0.8},
        volumes={"S0": NAV},
        rest={"costs": costs, "risk_aversion": 2.0},
    )
    variance = 0.03 + 0.06
    c = np.sqrt(variance / 252.0)
    cost = lambda x: variance * (x - 0.8) ** 2 + c * abs(x - 0.1) ** 1.5  # noqa: E731
    best = minimize_scalar(cost, bounds=(0.1, 0.8), method="bounded", options={"xatol": 1e-12}).x
    assert solved(book).weights == pytest.approx([best], abs=1e-6)


def test_more_impact_trades_less() -> None:
    for seed in SEEDS:
        book = replace(heavy(seed), limits=LOOSE)
        traded = []
        for impact in (0.0, 0.1, 1.0, 10.0):
            rest = {**book.rest, "costs": {**book.rest["costs"], "impact": impact}}
            one = replace(book, rest=rest)
            traded.append(float(np.abs(solved(one).weights - one.problem.start) @ law(book)))
        assert traded == sorted(traded, reverse=True)


def test_a_book_without_impact_keeps_its_quadratic_program() -> None:
    assert shape_of(tight_book(0).problem)[-2] == frozenset({"risk"})
    assert shape_of(heavy(0).problem)[-2] == frozenset({"risk", "impact"})


PLANTS: dict[str, Callable[[Problem], Problem]] = {
    "impact forgotten": lambda p: replace(p, impact=np.zeros_like(p.impact)),
    "volatility of a year": lambda p: replace(p, impact=p.impact * np.sqrt(252.0)),
    "volume for its root": lambda p: replace(p, impact=p.impact**2),
    "impact of the next name": lambda p: replace(p, impact=np.roll(p.impact, 1)),
    "impact a fifth too small": lambda p: replace(p, impact=0.8 * p.impact),
    "impact not spread over the holding period": lambda p: replace(p, impact=p.impact * p.years),
}


@pytest.mark.parametrize("kind", PLANTS)
def test_a_planted_wrong_impact_is_refused(kind: str) -> None:
    refused = refusals([(heavy(seed), answered(seed)) for seed in SEEDS], PLANTS[kind])
    assert len(refused) >= 4, f"{kind}: the plant changed too few answers and proves nothing"
    assert all(refused)


def test_the_bound_with_impact_is_never_above_exact_arithmetic() -> None:
    for seed in range(12):
        book, random = heavy(seed), np.random.default_rng(seed)
        case = assemble(book.evidence, *book.inputs.values(), Claim({}, {}))
        for size in (0.0, 1e-4, 1e-2, 1.0):
            duals = some_duals(book.problem, random, size)
            w = case.b.T @ (random.dirichlet(np.ones(len(case.names))) - case.benchmark)
            lines = [float(random.normal() * 0.1) for _ in case.shared]
            exact, terms = full_bound(book, case, duals, w, lines)
            found = lower_bound(case, duals, w, lines, risk=True)
            assert Fraction(found) <= exact
            assert float(exact) - found <= 1e-11 * (1.0 + float(terms) + size)


def test_a_one_dimensional_minimum_is_below_every_point_of_a_fine_grid() -> None:
    random = np.random.default_rng(0)
    book = heavy(0)
    case = assemble(book.evidence, *book.inputs.values(), Claim({}, {}))
    n = len(case.names)
    for _ in range(50):
        price = Price(
            curve=random.exponential(size=n) * random.integers(0, 2, n),
            slope=random.normal(size=n) * 10.0 ** random.uniform(-4, 0),
            kink=random.exponential(size=n) * 0.01,
            impact=random.exponential(size=n) * 0.1 * random.integers(0, 2, n),
            size=random.exponential(size=n) * 0.01 * random.integers(0, 2, n),
            short=random.exponential(size=n) * 0.01 * random.integers(0, 2, n),
        )
        found, _ = one_dimensional_minima(case, price)
        grid = np.linspace(case.lower, case.upper, 2001)
        away = np.abs(grid - case.start)
        costs = price.curve / 2 * (grid - case.benchmark) ** 2 + price.slope * grid + price.kink * away
        costs = costs + price.size * np.abs(grid) + price.short * np.maximum(-grid, 0.0)
        values = costs + price.impact * away**1.5
        assert (found <= values.min(axis=0) + 1e-15).all()
        assert found == pytest.approx(values.min(axis=0), abs=1e-3)


def test_at_an_optimum_with_impact_no_further_trade_pays() -> None:
    for seed in SEEDS:
        book, answer = heavy(seed), answered(seed)
        problem, x = book.problem, answer.weights
        buying, selling = marginal_costs(problem, x, answer.duals)
        assert buying[x < problem.upper - 1e-9].min() > -2e-5
        assert selling[x > problem.lower + 1e-9].min() > -2e-5


def test_impact_without_a_nav_is_refused_and_a_mandate_reads_its_coefficient() -> None:
    book = heavy(0)
    with pytest.raises(ModelError, match="impact needs the NAV"):
        state_problem("book", weights=book.weights, benchmark=None, mandate=book.mandate, terms=book.terms)
    costs = read(HEAD + "costs: {impact: 0.5, unknown_volume_base: 2e6}\n").costs
    assert (costs.impact, costs.unknown_volume_base) == (0.5, 2e6)
    assert read(HEAD).costs.impact == 0.0
    (fault,) = faults_of(HEAD + "costs: {impact: -0.5}\n")
    assert fault == "mandates/m.yaml:4:17: impact: input should be greater than or equal to 0; found -0.5"
