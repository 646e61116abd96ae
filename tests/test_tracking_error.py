"""A cap on tracking error and on the share of a day's volume: proven, priced, and planted wrong."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from test_certificate import NAV, PROGRAMS, Book, exact_bound, some_duals, tight_book
from test_rebalance import LOOSE, plain_book

from engine.book.answers import limit_table
from engine.errors import ModelError
from engine.rebalance.attempt import Attempt
from engine.rebalance.bound import SQUARED_ERROR, lower_bound
from engine.rebalance.case import assemble
from engine.rebalance.evidence import Claim
from engine.rebalance.problem import Problem, state_problem
from engine.rebalance.solve import Answer

SEEDS = (0, 1, 2, 3)
"""In 0 the plain solvers stop at a gap above 1e-6."""


def dense(problem: Problem) -> np.ndarray:
    return problem.root @ problem.root.T + np.diag(problem.specific)


def tracking_error(problem: Problem, x: np.ndarray) -> float:
    active = x - problem.benchmark
    return float(np.sqrt(active @ dense(problem) @ active))


def solved(book: Book) -> Answer:
    answer = book.solve(PROGRAMS)
    assert answer.status == "certified", answer
    return answer


@cache
def capped(seed: int) -> Book:
    """A dear book that would rather not trade, its tracking error capped at two thirds of what it would keep."""
    book = tight_book(seed)
    rest = {"risk_aversion": 0.5, "costs": {"half_spread_bps": 60.0, "holding_years": 0.5}}
    free = replace(book, limits=LOOSE, bps={}, rest=rest)
    return replace(free, limits={**LOOSE, "tracking_error": tracking_error(free.problem, solved(free).weights) / 1.5})


@cache
def answer_of(seed: int) -> Answer:
    """The certified answer of a capped book."""
    return solved(capped(seed))


def claim_of(problem: Problem, x: np.ndarray, duals: Mapping[str, float]) -> Claim:
    return Claim(dict(zip(problem.names.labels, x.tolist(), strict=True)), dict(duals))


def penalised(problem: Problem, mu: float) -> tuple[float, np.ndarray]:
    """Weights by PIQP, which knows no cone: the cap's multiplier put into the aversion, in weights, dense."""
    x = cp.Variable(len(problem.names))
    moved = cp.abs(x - problem.start)
    risk = cp.quad_form(x - problem.benchmark, cp.psd_wrap(dense(problem)))
    limits = [
        x >= problem.lower,
        x <= problem.upper,
        problem.rows @ x <= problem.bounds,
        cp.sum(x) + problem.costs @ moved <= problem.spendable,
        cp.sum(moved) <= problem.turnover,
    ]
    cost = problem.costs @ moved / problem.years
    program = cp.Problem(cp.Minimize((problem.aversion + mu) / 2 * risk + cost), limits)
    program.solve(solver=cp.PIQP, eps_abs=1e-11, eps_rel=1e-11, max_iter=500)
    assert program.status == "optimal"
    weights = np.asarray(x.value)
    return float(problem.aversion / 2 * risk.value + cost.value), weights


def test_a_capped_book_is_certified_on_its_cap_and_a_solver_without_cones_agrees() -> None:
    for seed in SEEDS:
        book, answer = capped(seed), answer_of(seed)
        cap = book.mandate.limits.tracking_error
        assert tracking_error(book.problem, answer.weights) == pytest.approx(cap, abs=1e-8)
        low, high = 0.0, 1e4
        for _ in range(45):
            middle = (low + high) / 2.0
            over = tracking_error(book.problem, penalised(book.problem, middle)[1]) > cap
            low, high = (middle, high) if over else (low, middle)
        best, _ = penalised(book.problem, high)
        assert answer.verdict.objective == pytest.approx(best, rel=1e-5)
        assert answer.verdict.lower_bound <= best + 1e-9
        row = {one["limit_id"]: one for one in limit_table([(book.problem, answer)]).to_dicts()}["tracking_error"]
        assert (row["kind"], row["bound"], row["breach"]) == ("tracking_error", cap, False)
        assert row["before"] == pytest.approx(tracking_error(book.problem, book.problem.start), abs=1e-12)
        # The price of a unit of volatility is mu times the volatility.
        assert row["shadow_price"] == pytest.approx(high * cap, rel=1e-3)


def test_a_cap_that_does_not_bind_changes_nothing_and_costs_nothing() -> None:
    book = capped(1)
    free = solved(replace(book, limits=LOOSE))
    wide = replace(book, limits={**LOOSE, "tracking_error": 0.9})
    assert solved(wide).weights == pytest.approx(free.weights, abs=1e-6)
    assert solved(wide).duals["tracking_error"] <= 1e-6


PLANTS: dict[str, Callable[[Book, Problem], Problem]] = {
    "cap dropped": lambda b, p: replace(p, tracking_error=None),
    "cap in percent": lambda b, p: replace(p, tracking_error=100.0 * p.tracking_error),
    "yesterday's cap": lambda b, p: replace(p, tracking_error=1.1 * p.tracking_error),
    "variance for volatility": lambda b, p: replace(p, tracking_error=float(np.sqrt(p.tracking_error))),
    "a day for a year": lambda b, p: replace(p, tracking_error=p.tracking_error * np.sqrt(252.0)),
    "tighter than the mandate": lambda b, p: replace(p, tracking_error=0.8 * p.tracking_error),
    "specific risk left out": lambda b, p: replace(p, specific=np.zeros_like(p.specific)),
    "correlations lost": lambda b, p: replace(b, covariance=np.diag(np.diag(b.covariance))).problem,
    "active to yesterday's book": lambda b, p: replace(p, benchmark=0.9 * p.benchmark + 0.1 * p.start),
}


@pytest.mark.parametrize("kind", PLANTS)
def test_a_planted_wrong_cap_is_refused(kind: str) -> None:
    refused = []
    for seed in SEEDS:
        book, true = capped(seed), answer_of(seed)
        spoilt = PLANTS[kind](book, book.problem)
        raw = PROGRAMS.fit(spoilt).solve(spoilt, Attempt("CLARABEL"))
        if raw.weights is None or np.abs(raw.weights - true.weights).sum() <= 1e-4:
            continue
        claims = [claim_of(book.problem, raw.weights, duals) for duals in (raw.duals, true.duals)]
        refused += [not book.judge(claim).accepted for claim in claims]
    assert len(refused) >= 2, f"{kind}: the plant changed too few answers and proves nothing"
    assert all(refused)


def test_wrong_multipliers_of_the_cap_only_loosen_the_bound() -> None:
    for seed in SEEDS:
        book, answer = capped(seed), answer_of(seed)
        for factor in (0.0, 0.5, 0.9, 1.1, 3.0, -1.0):
            wrong = {**answer.duals, "tracking_error": factor * answer.duals["tracking_error"]}
            verdict = book.judge(claim_of(book.problem, answer.weights, wrong))
            assert verdict.lower_bound <= answer.verdict.lower_bound + 1e-6 * answer.verdict.objective
            assert not verdict.accepted


def exact_with_cap(
    book: Book, duals: Mapping[str, float], w: np.ndarray, lines: list[float], *, risk: bool
) -> Fraction:
    """The bound of MATH 6 with ``mu``: the aversion raised in exact rationals, and the constant."""
    mu, cap = Fraction(duals[SQUARED_ERROR]), Fraction(book.mandate.limits.tracking_error)
    aversion = (Fraction(book.mandate.risk_aversion) if risk else Fraction(0)) + mu
    raised = book.mandate.model_copy(update={"risk_aversion": aversion})
    years = Fraction(book.mandate.costs.holding_years) if risk else Fraction(10) ** 60
    raised = raised.model_copy(update={"costs": raised.costs.model_copy(update={"holding_years": years})})
    copy = replace(book)
    copy.__dict__.update(book.__dict__, mandate=raised)
    return exact_bound(copy, duals, w, lines, risk=True) - mu * cap * cap / 2


def test_the_bound_with_a_cap_is_never_above_exact_rationals_in_either_form() -> None:
    for seed in range(12):
        random = np.random.default_rng(seed)
        book = replace(tight_book(seed), limits={**tight_book(seed).limits, "tracking_error": 0.03})
        case = assemble(book.evidence, *book.inputs.values(), Claim({}, {}))
        for size in (1e-4, 1.0, 1e3):
            duals = {**some_duals(book.problem, random, size), SQUARED_ERROR: float(size * random.uniform(0.1, 3.0))}
            w = case.b.T @ (random.dirichlet(np.ones(len(book.problem.names))) - case.benchmark)
            lines = [float(random.normal() * 0.1) for _ in case.shared]
            for risk in (True, False):
                exact = exact_with_cap(book, duals, w, lines, risk=risk)
                found = lower_bound(case, duals, w, lines, risk=risk)
                assert Fraction(found) <= exact
                assert float(exact) - found <= 1e-11 * (1.0 + abs(found) + size)


def conflicts() -> dict[str, Book]:
    book = capped(1)
    tight = {**LOOSE, "tracking_error": 0.01}
    crash = {"crash": np.full(10, -0.2)}
    return {
        "turnover against the cap": replace(book, limits={**tight, "turnover": 0.02}),
        "cash floor against the cap": replace(book, limits={**tight, "cash": {"min": 0.5, "max": 1.0}}),
        "stress budget against the cap": replace(
            book, shocks=crash, limits={**tight, "stress": ({"scenario": "crash", "max_loss": 0.1},)}
        ),
        "a pinned name against the cap": replace(book, limits={**tight, "weights": {"S0": {"min": 0.6, "max": 0.7}}}),
    }


@pytest.mark.parametrize("words", conflicts())
def test_a_cap_that_cannot_be_kept_is_proven_and_so_is_by_how_much(words: str) -> None:
    book = conflicts()[words]
    answer = book.solve(PROGRAMS)
    assert answer.status == "infeasible"
    assert answer.duals["tracking_error"] > 0.0
    elastic = PROGRAMS.fit(book.problem).solve(book.problem, Attempt("CLARABEL"), elastic=True)
    assert answer.conflict == pytest.approx(elastic.excess, abs=1e-6)
    assert answer.conflict <= elastic.excess + 1e-9


def test_no_multipliers_refute_a_capped_book_that_has_an_answer() -> None:
    for seed in SEEDS:
        book, random = capped(seed), np.random.default_rng(seed)
        for size in (1e-3, 1.0, 30.0):
            duals = {**some_duals(book.problem, random, size), "tracking_error": size * float(random.exponential())}
            for x in (answer_of(seed).weights, book.problem.start, book.problem.benchmark):
                assert book.refute(claim_of(book.problem, x, duals)) <= 0.0


def test_a_cap_without_a_benchmark_is_refused() -> None:
    book = replace(capped(1), benchmark=None)
    with pytest.raises(ModelError, match="tracking_error need a benchmark"):
        _ = book.problem


# Participation.


def voluminous(unknown: str = "hold", **changes: Any) -> Book:
    """A tracker without costs in which the day's volume stands in the way of three names of five."""
    book = plain_book(
        {"S0": 0.4, "S1": 0.3, "S2": 0.2, "S3": 0.1},
        5,
        benchmark={f"S{i}": 0.2 for i in range(5)},
        rest={"costs": {"half_spread_bps": 0.0}, "risk_aversion": 100.0},
        limits={**LOOSE, "participation": {"max_share": 0.1, "unknown_volume": unknown}},
        volumes={"S0": 0.5 * NAV, "S1": 100.0 * NAV, "S2": 0.0, "S4": 0.3 * NAV},
    )
    return replace(book, **changes)


def test_no_name_trades_more_than_its_share_of_the_days_volume() -> None:
    book = voluminous()
    answer = solved(book)
    moved = answer.weights - book.problem.start
    assert moved[0] == pytest.approx(-0.05, abs=1e-9)
    assert moved[4] == pytest.approx(0.03, abs=1e-9)
    assert (moved[2], moved[3]) == (0.0, 0.0)
    rows = {one["limit_id"]: one for one in limit_table([(book.problem, answer)]).to_dicts()}
    row = rows["participation:S3:max"]
    assert (row["kind"], row["bound"], row["after"]) == ("participation", 0.1, 0.1)


def test_a_name_without_a_known_volume_trades_only_where_the_mandate_allows_it() -> None:
    book = voluminous("allow")
    answer = solved(book)
    assert answer.weights[3] > 0.11
    held = voluminous()
    assert not held.judge(claim_of(held.problem, answer.weights, answer.duals)).accepted


WRONG: dict[str, Callable[[], Book]] = {
    "no participation": lambda: voluminous(limits=LOOSE),
    "percent for fraction": lambda: voluminous(volumes={n: 100.0 * v for n, v in voluminous().volumes.items()}),
    "volume of another day": lambda: voluminous(volumes={n: 1.3 * v for n, v in voluminous().volumes.items()}),
    "unknown volume allowed": lambda: voluminous("allow"),
    "volume of another name": lambda: voluminous(volumes={"S0": 0.3 * NAV, "S4": 0.5 * NAV, "S1": NAV, "S2": 0.0}),
    "less than the mandate allows": lambda: voluminous(volumes={n: 0.5 * v for n, v in voluminous().volumes.items()}),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_planted_wrong_participation_is_refused(kind: str) -> None:
    true, wrong = voluminous(), WRONG[kind]()
    spoilt = solved(wrong)
    for duals in (spoilt.duals, solved(true).duals):
        assert not true.judge(claim_of(true.problem, spoilt.weights, duals)).accepted


def test_participation_without_a_nav_is_refused() -> None:
    book = voluminous()
    assert book.problem.lower[0] == pytest.approx(0.35)
    with pytest.raises(ModelError, match="participation needs the NAV"):
        state_problem("b", weights={}, benchmark=book.benchmark, mandate=book.mandate, terms=book.terms)
