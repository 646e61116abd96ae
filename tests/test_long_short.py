"""Long-short books: gross, net, borrowing, each against a second formulation, proven, and planted wrong."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import cvxpy as cp
import numpy as np
import polars as pl
import pytest
from exactly import full_bound
from test_certificate import PROGRAMS, Book, some_duals, tight_book
from test_limits import solved
from test_mandates import HEAD, faults_of, read
from test_objectives import refusals
from test_rebalance import LOOSE, plain_book

from engine.api.loading import LoadedUniverse
from engine.api.rebalancing import rebalance_portfolios
from engine.book.answers import limit_table
from engine.mandates.mandate import LimitSet
from engine.rebalance.bound import lower_bound
from engine.rebalance.case import assemble
from engine.rebalance.evidence import Claim
from engine.rebalance.problem import Problem
from engine.rebalance.shadows import marginal_costs
from engine.rebalance.solve import Answer

SEEDS = range(6)
SHORT = {**LOOSE, "max_short": 0.3, "gross": 1.5, "net": {"min": 0.2, "max": 0.6}}
BORROWED = ("S1", "S2")


@cache
def fund(seed: int, *, impact: float = 0.0) -> Book:
    """A book that is long and short, expects returns, pays to borrow and has no benchmark."""
    random, book = np.random.default_rng(seed + 100), tight_book(seed)
    signs = np.where(np.arange(10) < 6, 1.0, -0.5)
    weights = {f"S{i}": float(signs[i] * random.uniform(0.05, 0.2)) for i in range(9)}
    alpha = {f"S{i}": float(random.normal(0.0, 0.08)) for i in range(10)}
    costs = {**book.rest["costs"], "borrow_bps": 60.0, "borrow_bps_of": dict.fromkeys(BORROWED, 400.0)}
    rest = {"risk_aversion": 3.0, "objective": "mean_variance", "alpha": alpha, "costs": {**costs, "impact": impact}}
    return replace(book, weights=weights, benchmark=None, limits=SHORT, rest={**rest, "buy_list": ("S9",)})


@cache
def answered(seed: int) -> Answer:
    return solved(fund(seed))


def two_legs(book: Book) -> float:
    """The program in longs and shorts apart, buys and sells apart, with a dense covariance, by another solver."""
    problem, limits, costs = book.problem, book.limits, book.rest["costs"]
    n = len(problem.names)
    long, short, buy, sell = (cp.Variable(n, nonneg=True) for _ in range(4))
    x, traded = long - short, buy + sell
    sigma = problem.root @ problem.root.T + np.diag(problem.specific)
    names = problem.names.labels
    borrow = np.array([costs["borrow_bps_of"].get(name, costs["borrow_bps"]) for name in names]) / 1e4
    alpha = np.array([book.rest["alpha"].get(name, 0.0) for name in names])
    spent = problem.costs @ traded
    risk = book.rest["risk_aversion"] / 2 * cp.quad_form(x, cp.psd_wrap(sigma))
    kept = [
        x == problem.start + buy - sell,
        x >= -limits["max_short"],
        x <= 1.0,
        cp.sum(long + short) <= limits["gross"],
        cp.sum(x) <= limits["net"]["max"],
        cp.sum(x) >= limits["net"]["min"],
        cp.sum(x) + spent <= 1.0,
        cp.sum(traded) <= 2.0,
    ]
    program = cp.Problem(cp.Minimize(risk - alpha @ x + spent / costs["holding_years"] + borrow @ short), kept)
    program.solve(solver=cp.PIQP, eps_abs=1e-11, eps_rel=1e-11, max_iter=500)
    assert program.status == "optimal"
    return float(program.value)


def test_a_long_short_answer_meets_a_program_of_two_legs() -> None:
    for seed in SEEDS:
        book, answer = fund(seed), answered(seed)
        best = two_legs(book)
        assert answer.verdict.objective == pytest.approx(best, abs=1e-6 * answer.verdict.scale)
        assert answer.verdict.lower_bound <= best + 1e-9
        assert np.abs(answer.weights).sum() <= 1.5 + 1e-9
        assert 0.2 - 1e-9 <= answer.weights.sum() <= 0.6 + 1e-9
        assert answer.weights.min() >= -0.3
    assert any((answered(seed).weights < -0.01).sum() >= 2 for seed in SEEDS)
    assert any(answered(seed).duals["gross"] > 1e-4 for seed in SEEDS)


def with_limits(seed: int, **changes: Any) -> Book:
    book = fund(seed)
    return replace(book, limits={**book.limits, **changes})


PLANTS: dict[str, Callable[[Problem], Problem]] = {
    "gross cap dropped": lambda p: replace(p, gross=None),
    "gross cap of yesterday": lambda p: replace(p, gross=1.6),
    "gross cap of the net": lambda p: replace(p, gross=10.0),
    "borrowing free": lambda p: replace(p, borrow=np.zeros_like(p.borrow)),
    "borrowing in percent": lambda p: replace(p, borrow=100.0 * p.borrow),
    "one borrowing cost for all": lambda p: replace(p, borrow=np.full_like(p.borrow, 0.006)),
    "twice as short": lambda p: replace(p, lower=2.0 * p.lower),
    "long only": lambda p: replace(p, lower=np.maximum(p.lower, 0.0)),
    "net dropped": lambda p: replace(p, bounds=p.bounds + 0.3 * np.char.startswith(np.array(p.row_ids), "net")),
    "shorts as longs": lambda p: replace(p, start=np.abs(p.start)),
    "alpha of the wrong sign": lambda p: replace(p, alpha=-p.alpha),
}


@pytest.mark.parametrize("kind", PLANTS)
def test_a_planted_wrong_long_short_is_refused(kind: str) -> None:
    dear = [replace(fund(s), limits={**SHORT, "gross": 1.5 if "gross" in kind else 3.0}) for s in SEEDS]
    if "gross" in kind:
        dear = [replace(book, rest={**book.rest, "risk_aversion": 0.5}) for book in dear]
    refused = refusals([(book, solved(book)) for book in dear], PLANTS[kind])
    assert len(refused) >= 4, f"{kind}: the plant changed too few answers and proves nothing"
    assert all(refused)


@pytest.mark.parametrize("impact", [0.0, 0.7])
def test_the_bound_with_shorts_is_never_above_exact_arithmetic(impact: float) -> None:
    for seed in range(10):
        book, random = fund(seed, impact=impact), np.random.default_rng(seed)
        case = assemble(book.evidence, *book.inputs.values(), Claim({}, {}))
        assert case.lower.min() == -0.3
        for size in (0.0, 1e-4, 1e-2, 1.0):
            duals = {**some_duals(book.problem, random, size), "gross": float(size * random.exponential())}
            w = case.b.T @ (random.dirichlet(np.ones(len(case.names))) - 0.3)
            lines = [float(random.normal() * 0.1) for _ in case.shared]
            exact, terms = full_bound(book, case, duals, w, lines)
            found = lower_bound(case, duals, w, lines, risk=True)
            assert Fraction(found) <= exact
            assert float(exact) - found <= 1e-11 * (1.0 + float(terms) + size)


def test_the_bound_is_below_the_objective_of_every_feasible_point_whatever_the_multipliers() -> None:
    for seed in SEEDS:
        book, random, answer = fund(seed), np.random.default_rng(seed), answered(seed)
        names = book.problem.names.labels
        for _ in range(20):
            duals = {name: value * float(random.uniform(0.0, 3.0)) for name, value in answer.duals.items()}
            anywhere = answer.weights + random.normal(size=len(names)) * 0.05
            verdict = book.judge(Claim(dict(zip(names, anywhere.tolist(), strict=True)), duals))
            assert verdict.lower_bound <= answer.verdict.objective


def test_shorts_with_impact_and_a_tracking_error_cap_are_certified_too() -> None:
    index = {f"S{i}": 0.1 for i in range(6)}
    for seed in SEEDS:
        book = replace(fund(seed, impact=0.5), benchmark=index, limits={**SHORT, "tracking_error": 0.08})
        answer = solved(book)
        assert np.abs(answer.weights).sum() <= 1.5 + 1e-9


def test_a_gross_cap_that_cannot_be_kept_is_proven_to_conflict() -> None:
    book = plain_book({"S0": 0.5, "S1": -0.5}, 2, limits={**LOOSE, "max_short": 0.6, "gross": 0.4, "turnover": 0.2})
    answer = book.solve(PROGRAMS)
    assert answer.status == "infeasible"
    # Selling 0.1 + c leaves 1.0 - 0.2 - c, and the cap gives way to 0.4 + c.
    assert answer.conflict == pytest.approx(0.2, abs=1e-6)
    assert {"gross", "turnover"} <= {name for name, value in answer.duals.items() if value > 1e-3}


def test_a_list_holds_back_a_short_position_too() -> None:
    for key, kept in (
        ("excluded", lambda x, x0: x == 0.0),
        ("no_buy", lambda x, x0: x <= x0),
        ("no_sell", lambda x, x0: x >= x0),
        ("frozen", lambda x, x0: x == x0),
    ):
        book = with_limits(1, **{key: ("S7",)}, net=None, gross=None)
        at = book.problem.names.labels.index("S7")
        x, x0 = solved(book).weights[at], book.problem.start[at]
        assert x0 < 0.0
        assert kept(x, x0), key


def test_a_short_that_the_mandate_does_not_allow_is_covered() -> None:
    book = plain_book({"S0": 0.5, "S1": -0.2, "S2": -0.1}, 3, limits={**LOOSE, "weights": {"S1": {"min": -0.3}}})
    answer = solved(book)
    assert 0.0 <= answer.weights[2] < 1e-9
    assert answer.weights[1] < 0.0


def test_at_an_optimum_no_further_trade_pays_long_short_or_flat() -> None:
    for seed in SEEDS:
        book, answer = fund(seed), answered(seed)
        problem, x = book.problem, answer.weights
        buying, selling = marginal_costs(problem, x, answer.duals)
        assert buying[x < problem.upper - 1e-9].min() > -2e-5
        assert selling[x > problem.lower + 1e-9].min() > -2e-5


def test_limits_show_gross_net_and_a_name_at_its_shortest() -> None:
    book = with_limits(2, max_short=0.1)
    answer = solved(book)
    rows = {row["limit_id"]: row for row in limit_table([(book.problem, answer)]).to_dicts()}
    assert rows["gross"]["before"] == pytest.approx(sum(map(abs, book.weights.values())))
    assert rows["gross"]["after"] == pytest.approx(np.abs(answer.weights).sum())
    assert (rows["net:min"]["bound"], rows["net:max"]["bound"]) == (0.2, 0.6)
    assert rows["net:max"]["after"] == pytest.approx(answer.weights.sum())
    shortest = [row for row in rows.values() if row["kind"] == "weight" and row["limit_id"].endswith(":min")]
    assert shortest
    assert all(row["bound"] == -0.1 and not row["breach"] for row in shortest if row["after"] < 0.0)


def test_a_mandate_reads_shorts_and_only_weights_may_be_below_zero() -> None:
    limits = read(
        HEAD + "limits:\n  weights:\n    NVDA: {min: -0.05}\n  gross: 1.6\n  net: {min: -0.1, max: 0.1}\n"
    ).limits
    assert (limits.weights["NVDA"].min, limits.gross, limits.shorts) == (-0.05, 1.6, True)
    assert not LimitSet().shorts
    assert LimitSet().most_cash == 1.0
    assert LimitSet.model_validate({"max_short": 0.1}).most_cash == 11.0
    for text, words in (
        ("limits:\n  cash: {min: -0.1}\n", "cash: min -0.1 is below 0; only a weight may be"),
        ("limits:\n  tiers:\n    ai_semis: {min: -0.1}\n", "tiers ai_semis: min -0.1 is below 0; only a weight may be"),
        ("limits: {gross: 20}\n", "gross: input should be less than or equal to 10; found 20"),
        ("costs: {borrow_bps_of: {NVDIA: 50}}\n", "unknown security 'NVDIA'; did you mean 'NVDA'?"),
    ):
        (fault,) = faults_of(HEAD + text)
        assert fault.endswith(words), fault


def test_a_book_that_is_short_is_rebalanced_where_its_mandate_allows_it(bundled: LoadedUniverse) -> None:
    book, mandate = (
        bundled.portfolios.filter(bundled.portfolios["mandate_id"].is_not_null())
        .select("portfolio_id", "mandate_id")
        .row(0)
    )
    one = bundled.mandates[mandate]
    words = {**one.model_dump(), "limits": {**one.limits.model_dump(), "max_short": 0.1, "gross": 1.5}}
    held = bundled.holdings
    mine = (held["portfolio_id"] == book) & ~held["security_id"].str.starts_with("CASH")
    name = held.filter(mine).sort("market_value_base")["security_id"][0]
    turned = (pl.col("portfolio_id") == book) & (pl.col("security_id") == name)
    columns = [column for column in ("quantity", "market_value_base", "exposure_base") if column in held.columns]
    short = held.with_columns(pl.when(turned).then(-pl.col(column)).otherwise(pl.col(column)) for column in columns)
    loaded = replace(
        bundled, holdings=short, mandates={**bundled.mandates, mandate: type(one).model_validate(words)}
    ).only([book])
    tables = rebalance_portfolios(loaded).tables
    assert tables["certificates"]["status"].to_list() == ["certified", "certified"]
    assert "gross" in tables["limits"]["limit_id"].to_list()
    before = dict(tables["targets"].select("security_id", "weight_before").iter_rows())
    assert before[name] < 0.0
