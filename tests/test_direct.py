"""The short cut: the same answer and multipliers as the modelled program, from fewer names and no modelling layer."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from random_books import random_book
from test_certificate import PROGRAMS, Book, second_opinion, tight_book
from test_impact import heavy
from test_objectives import hopeful
from test_rebalance import LOOSE, bundled_problems, plain_book
from test_tracking_error import capped

from engine.api.loading import LoadedUniverse
from engine.api.rebalancing import rebalance_portfolios
from engine.rebalance.attempt import Attempt
from engine.rebalance.direct import KNOWN, Trades, is_plain, solve_direct
from engine.rebalance.evidence import Claim
from engine.rebalance.interior import Quadratic, solve_interior
from engine.rebalance.problem import BUDGET, TRACKING_ERROR, TURNOVER, Problem
from engine.rebalance.reduction import solve_reduced
from engine.rebalance.solve import SHORTCUTS, Programs

EXACT = Attempt("INTERIOR", tolerance=1e-11)


@pytest.mark.parametrize("seed", [0, 1, 2, 4, 7])
@pytest.mark.parametrize("solver", ["INTERIOR", "PIQP"])
def test_matrices_and_the_modelled_program_give_the_same_answer_and_multipliers(seed: int, solver: str) -> None:
    problem = tight_book(seed).problem
    modelled = PROGRAMS.fit(problem).solve(problem, Attempt("PIQP", tolerance=1e-11))
    direct = solve_direct(problem, Trades.of(problem), Attempt(solver, tolerance=1e-11))
    assert direct.status == "solved"
    assert direct.weights == pytest.approx(modelled.weights, abs=1e-8)
    assert direct.duals == pytest.approx(modelled.duals, abs=1e-6)


def together(*books: Book) -> Book:
    """The last book with the alpha, the impact and the cap of them all."""
    rest: dict[str, Any] = {}
    for book in books:
        costs = {**rest.get("costs", {}), **book.rest.get("costs", {})}
        rest |= {**book.rest, "costs": costs}
    caps = {key: book.limits[key] for book in books for key in ("tracking_error",) if key in book.limits}
    volumes = {name: volume for book in books for name, volume in (book.volumes or {}).items()}
    return replace(books[-1], rest=rest, limits={**books[-1].limits, **caps}, volumes=volumes)


BENT: dict[str, Callable[[int], Book]] = {
    "alpha": hopeful,
    "impact": heavy,
    "cap": capped,
    "cap alone": lambda s: replace(capped(s), rest={**capped(s).rest, "objective": "least_cost"}),
    "alpha and impact": lambda s: together(hopeful(s), heavy(s)),
    "alpha and cap": lambda s: together(hopeful(s), capped(s)),
    "impact and cap": lambda s: together(heavy(s), capped(s)),
    "all three": lambda s: together(hopeful(s), heavy(s), capped(s)),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", BENT)
def test_alpha_impact_and_a_cap_give_the_answer_and_multipliers_of_the_modelled_program(kind: str, seed: int) -> None:
    book = BENT[kind](seed)
    problem = book.problem
    modelled = PROGRAMS.fit(problem).solve(problem, Attempt("CLARABEL"))
    direct = solve_direct(problem, Trades.of(problem), EXACT)
    assert direct.status == "solved"
    assert direct.weights == pytest.approx(modelled.weights, abs=2e-6)
    assert set(direct.duals) == set(modelled.duals)
    assert direct.duals == pytest.approx(modelled.duals, abs=1e-5)
    if problem.tracking_error is not None:
        assert direct.duals[TRACKING_ERROR] > 1e-4
    programs = Programs()
    answer = book.solve(programs)
    assert (answer.status, answer.rung, programs.by_shape) == ("certified", 0, {})


def test_a_holding_above_its_cap_pays_the_power_of_the_whole_sale() -> None:
    book = replace(heavy(0), limits={**LOOSE, "max_weight": 0.12})
    problem = book.problem
    assert (problem.start > problem.upper + 0.01).any()
    modelled = PROGRAMS.fit(problem).solve(problem, Attempt("CLARABEL"))
    direct = solve_direct(problem, Trades.of(problem), EXACT)
    assert direct.weights == pytest.approx(modelled.weights, abs=2e-6)
    assert book.solve(Programs()).rung == 0


def test_what_is_no_quadratic_program_is_not_handed_to_piqp() -> None:
    for problem in (heavy(0).problem, capped(0).problem):
        assert solve_direct(problem, Trades.of(problem), Attempt("PIQP")).weights is None
    problem = hopeful(0).problem
    piqp, own = (solve_direct(problem, Trades.of(problem), Attempt(s, tolerance=1e-11)) for s in ("PIQP", "INTERIOR"))
    assert piqp.weights == pytest.approx(own.weights, abs=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_a_part_of_the_names_gives_the_answer_of_them_all_with_the_three_terms(seed: int) -> None:
    problem = random_book(np.random.default_rng(seed), 300, 15).state()
    random = np.random.default_rng(seed)
    alpha = np.where(random.uniform(size=len(problem.start)) < 0.5, random.normal(0.0, 0.02, len(problem.start)), 0.0)
    impact = random.uniform(0.0, 0.05, len(problem.start))
    risk = lambda x: float(np.sqrt(((problem.root.T @ x) ** 2).sum() + problem.specific @ x**2))  # noqa: E731
    bent = replace(problem, alpha=alpha, impact=impact, aversion=1.0)
    free = solve_direct(bent, Trades.of(bent), EXACT)
    bent = replace(bent, tracking_error=0.9 * risk(free.weights - problem.benchmark))
    part, whole = solve_reduced(bent, EXACT), solve_direct(bent, Trades.of(bent), EXACT)
    assert part.weights == pytest.approx(whole.weights, abs=1e-7)
    assert part.duals == pytest.approx(whole.duals, abs=1e-7)
    assert whole.duals[TRACKING_ERROR] > 1e-4


@pytest.mark.parametrize(("seed", "names", "factors"), [(0, 200, 10), (1, 300, 20), (2, 400, 25), (3, 800, 30)])
def test_a_part_of_the_names_gives_the_answer_of_them_all(seed: int, names: int, factors: int) -> None:
    problem = random_book(np.random.default_rng(seed), names, factors).state()
    part, whole = solve_reduced(problem, EXACT), solve_direct(problem, Trades.of(problem), EXACT)
    assert part.weights == pytest.approx(whole.weights, abs=1e-8)
    assert part.duals == pytest.approx(whole.duals, abs=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_random_books_are_certified_by_the_first_short_cut_at_a_second_solvers_objective(seed: int) -> None:
    book = random_book(np.random.default_rng(seed), 250, 12)
    programs = Programs()
    answer = book.solve(programs)
    assert (answer.status, answer.rung, answer.solver) == ("certified", 0, "INTERIOR")
    assert not programs.by_shape
    best, _ = second_opinion(book.state())
    assert answer.verdict.objective == pytest.approx(best, rel=1e-6)


def test_a_short_cut_that_is_wrong_is_refused_and_the_ladder_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    book = tight_book(4)
    truth = book.solve(PROGRAMS)

    def wrong(problem: Problem, attempt: Attempt) -> object:
        raw = solve_reduced(problem, attempt)
        return replace(raw, weights=np.clip(raw.weights + 1e-4, problem.lower, problem.upper))

    monkeypatch.setattr("engine.rebalance.solve.solve_reduced", wrong)
    answer = book.solve(PROGRAMS)
    assert answer.status == "certified"
    assert answer.rung >= len(SHORTCUTS)
    assert answer.verdict.objective == pytest.approx(truth.verdict.objective, rel=1e-6)


def test_every_bundled_book_takes_the_first_short_cut(bundled: LoadedUniverse) -> None:
    problems = bundled_problems(bundled)
    plain = {book for book, problem in problems.items() if is_plain(problem)}
    certificates = rebalance_portfolios(bundled).tables["certificates"]
    rungs = dict(certificates.select("portfolio_id", "rung").iter_rows())
    assert plain
    assert {book for book, rung in rungs.items() if rung == 0} >= plain


def test_a_problem_with_a_term_that_is_not_stated_here_is_not_plain() -> None:
    problem = tight_book(0).problem
    assert is_plain(problem)
    assert is_plain(replace(problem, tracking_error=0.05, alpha=problem.start, impact=problem.costs))
    assert not is_plain(replace(problem, gross=1.5))
    assert not is_plain(replace(problem, borrow=problem.costs))
    assert not is_plain(replace(problem, upper=np.where(np.arange(len(problem.upper)) == 1, np.inf, problem.upper)))
    assert set(problem.__slots__) - KNOWN >= {"gross", "borrow"}


def test_a_name_that_its_bounds_hold_is_no_variable_and_one_outside_them_starts_at_the_bound() -> None:
    pins = {"S0": {"min": 0.2, "max": 0.2}, "S1": {"min": 0.1, "max": 1.0}, "S2": {"min": 0.0, "max": 0.3}}
    book = plain_book({"S0": 0.2, "S2": 0.4}, 4, limits={"weights": pins, "turnover": 2.0}, benchmark={"S3": 0.5})
    trades = Trades.of(book.problem)
    assert trades.base.tolist() == [0.2, 0.1, 0.3, 0.0]
    sides = set(zip(trades.name.tolist(), trades.sign.tolist(), strict=True))
    assert sides == {(1, 1.0), (2, -1.0), (3, 1.0)}


def quadratic(rows: np.ndarray, bounds: np.ndarray, **given: Any) -> Quadratic:
    """A program without columns: ``V = sum v^2 / 2``, every v at most 1, what is not given 0."""
    n = rows.shape[1]
    none: dict[str, Any] = {name: np.zeros(n) for name in ("tilt", "q", "power", "begun")}
    columns = {"load": np.zeros((0, n)), "aim": np.zeros(0), "rest": 0.0, "cap": None}
    sides = {"rows": rows, "bounds": bounds, "most": np.ones(n)}
    return Quadratic(**{"weight": 1.0, "p": np.ones(n), **none, **columns, **sides, **given})


def test_one_variable_by_hand() -> None:
    # minimise v^2 / 2 - v with v <= 0.25: the row binds and its multiplier is the slope, 0.75.
    found = solve_interior(quadratic(np.ones((1, 1)), np.array([0.25]), q=-np.ones(1)), 1e-10)
    assert found.solved
    assert found.values == pytest.approx([0.25], abs=1e-9)
    assert found.pressure == pytest.approx([0.75], abs=1e-8)


def test_one_variable_with_a_cap_and_one_with_a_power_by_hand() -> None:
    # minimise v^2 / 2 - v with v^2 / 2 <= 0.02: v = 0.2, and mu v is the slope, 0.8.
    loose = np.ones((1, 1)), np.array([9.0])
    found = solve_interior(quadratic(*loose, q=-np.ones(1), cap=0.02), 1e-10)
    assert found.solved
    assert (found.values[0], found.push) == (pytest.approx(0.2, abs=1e-9), pytest.approx(4.0, abs=1e-7))
    # minimise (0.16 + v)^(3/2) - 0.75 v: the root of 0.16 + v is 0.5.
    bent = quadratic(*loose, weight=0.0, q=np.full(1, -0.75), power=np.ones(1), begun=np.full(1, 0.16))
    assert solve_interior(bent, 1e-10).values == pytest.approx([0.09], abs=1e-8)


def test_rows_without_a_common_point_end_without_an_answer_and_without_a_warning() -> None:
    rows = np.array([[1.0, 1.0], [-1.0, -1.0]])
    assert not solve_interior(quadratic(rows, np.array([0.1, -0.2]), q=np.ones(2)), 1e-10).solved
    # Half of v^2 is at most 0.005 and the sum at least 0.3: no v of two names is both.
    assert not solve_interior(quadratic(-np.ones((1, 2)), np.array([-0.3]), cap=0.005), 1e-10).solved


def test_a_problem_whose_limits_conflict_is_still_proven_infeasible() -> None:
    book = replace(tight_book(2), limits={**tight_book(2).limits, "cash": {"min": 0.3, "max": 0.3}, "turnover": 0.05})
    answer = book.solve(PROGRAMS)
    assert answer.status == "infeasible"
    assert answer.conflict > 0.0


def test_the_short_cut_gives_the_same_bits_twice_and_in_another_order_of_books() -> None:
    books = [random_book(np.random.default_rng(seed), 250, 12) for seed in (5, 6)]
    first = [book.solve(PROGRAMS).weights.tobytes() for book in books]
    assert [book.solve(PROGRAMS).weights.tobytes() for book in reversed(books)] == first[::-1]


def test_a_multiplier_is_found_for_every_limit_of_the_problem() -> None:
    problem = tight_book(1).problem
    raw = solve_reduced(problem, EXACT)
    assert set(raw.duals) == {BUDGET, TURNOVER, *problem.row_ids}
    names = dict(zip(problem.names.labels, raw.weights.tolist(), strict=True))
    assert tight_book(1).judge(Claim(names, raw.duals)).relative_gap < 1e-6
