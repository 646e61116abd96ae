"""The rebalance: second solvers, a published case, and the answers that one knows without a solver."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from test_certificate import PROGRAMS, Book, second_opinion, tight_book

from engine.api.loading import LoadedUniverse
from engine.api.rebalancing import rebalance_portfolios
from engine.api.stressing import pick_scenarios
from engine.mandates.mandate import Lots
from engine.rebalance.attempt import Attempt
from engine.rebalance.evidence import Claim
from engine.rebalance.problem import Problem, Terms, state_problem
from engine.rebalance.shape import shape_of
from engine.rebalance.solve import LADDER, SHORTCUTS, Answer, Programs, repairs, solve_problem
from engine.risk.portfolios import weigh_benchmarks, weigh_holdings
from engine.stress.propagation import propagate

LOOSE: dict[str, Any] = {"max_weight": 1.0, "turnover": 2.0, "cash": {"min": 0.0, "max": 1.0}}

COVARIANCE = np.array([[0.02778, 0.00387, 0.00021], [0.00387, 0.01112, -0.00020], [0.00021, -0.00020, 0.00115]])
MEAN = np.array([0.1073, 0.0737, 0.0627])
"""Annual, S&P 500, 10-year Treasury bond and money market, 1960-2003: Cornuejols and Tutuncu,
Optimization Methods in Finance (2007), section 8.1.1."""

EFFICIENT = (
    (0.065, 0.0010, (0.03, 0.10, 0.87)),
    (0.070, 0.0014, (0.13, 0.12, 0.75)),
    (0.075, 0.0026, (0.24, 0.14, 0.62)),
    (0.080, 0.0044, (0.35, 0.16, 0.49)),
    (0.085, 0.0070, (0.45, 0.18, 0.37)),
    (0.090, 0.0102, (0.56, 0.20, 0.24)),
    (0.095, 0.0142, (0.67, 0.22, 0.11)),
    (0.100, 0.0189, (0.78, 0.22, 0.00)),
    (0.105, 0.0246, (0.93, 0.07, 0.00)),
)
"""Its table 8.1: least return, variance, weights."""


def plain_book(weights: Mapping[str, float], n: int, **changes: Any) -> Book:
    book = Book(
        weights=weights,
        benchmark=None,
        limits=LOOSE,
        exposures=np.column_stack([np.ones(n), np.linspace(-0.5, 0.5, n)]),
        covariance=np.diag([0.03, 0.02]),
        variance=np.full(n, 0.06),
        issuers=np.arange(n),
        rest={"costs": {"half_spread_bps": 10.0}},
    )
    return replace(book, **changes)


def solve(book: Book) -> Answer:
    answer = book.solve(PROGRAMS)
    assert answer.status == "certified", answer
    return answer


def bundled_problems(bundled: LoadedUniverse) -> dict[str, Problem]:
    """Every bundled book's program, put together here from the loaded tables."""
    portfolios, _ = weigh_holdings(
        bundled.holdings,
        bundled.portfolios,
        model=bundled.model,
        curve=bundled.curve,
        universe=bundled.universe,
    )
    benchmarks, _ = weigh_benchmarks(bundled.benchmarks, portfolios)
    scenarios, _ = pick_scenarios(bundled, ["deepseek"], {})
    spreads = bundled.universe.securities.select("security_id", "half_spread_bps").drop_nulls()
    terms = Terms(
        model=portfolios.model,
        curve=bundled.curve,
        shocks={scenario.id: propagate(scenario, portfolios.model, bundled.curve).total for scenario in scenarios},
        half_spread_bps=dict(spreads.iter_rows()),
    )
    nav = bundled.holdings.group_by("portfolio_id").agg(pl.col("market_value_base").sum())
    listed = dict(bundled.portfolios.select("portfolio_id", "nav_base").iter_rows())
    money = {book: listed[book] or total for book, total in nav.iter_rows()}
    rows = bundled.portfolios.filter(pl.col("mandate_id").is_not_null())
    problems = {}
    for book, mandate, benchmark in rows.select("portfolio_id", "mandate_id", "benchmark_id").iter_rows():
        lines = bundled.holdings.filter(
            (pl.col("portfolio_id") == book) & ~pl.col("security_id").str.starts_with("CASH:")
        )
        problems[book] = state_problem(
            book,
            weights={s: v / money[book] for s, v in lines.select("security_id", "market_value_base").iter_rows()},
            benchmark=benchmarks[benchmark] if benchmark else None,
            mandate=bundled.mandates[mandate],
            terms=terms,
        )
    return problems


def test_every_bundled_book_is_solved_alike_by_a_second_solver(bundled: LoadedUniverse) -> None:
    problems = bundled_problems(bundled)
    tables = rebalance_portfolios(bundled).tables
    continuous = tables["certificates"].filter(pl.col("form") == "continuous")
    found = dict(continuous.select("portfolio_id", "objective").iter_rows())
    assert found.keys() == problems.keys()
    for book, problem in problems.items():
        best, _ = second_opinion(problem)
        assert abs(found[book] - best) <= 1e-6 * max(found[book], 1e-8) + 1e-10, (book, found[book], best)


@pytest.mark.parametrize(("least_return", "variance", "weights"), EFFICIENT)
def test_the_published_efficient_portfolios_are_reproduced(
    least_return: float, variance: float, weights: tuple[float, ...]
) -> None:
    # One factor an asset and no specific risk is any covariance; a return floor is a stress
    # budget on returns less a constant, because the book is fully invested.
    shift = least_return + 0.1
    book = plain_book(
        {"S0": 0.4, "S1": 0.3, "S2": 0.3},
        3,
        benchmark={},
        exposures=np.eye(3),
        covariance=COVARIANCE,
        variance=np.zeros(3),
        shocks={"floor": MEAN - shift},
        limits={**LOOSE, "cash": {"max": 0.0}, "stress": ({"scenario": "floor", "max_loss": 0.1},)},
        rest={"costs": {"half_spread_bps": 0.0}, "risk_aversion": 2.0},
    )
    answer = solve(book)
    assert answer.weights == pytest.approx(weights, abs=0.007)
    assert answer.verdict.objective == pytest.approx(variance, abs=6e-5)


def test_the_unconstrained_minimum_variance_portfolio_is_the_closed_form() -> None:
    random = np.random.default_rng(5)
    root = random.normal(size=(5, 5)) * 0.05
    sigma = root @ root.T + 0.04 * np.eye(5)
    book = plain_book(
        {f"S{i}": 0.2 for i in range(5)},
        5,
        benchmark={},
        exposures=np.eye(5),
        covariance=(sigma + sigma.T) / 2.0,
        variance=np.zeros(5),
        limits={**LOOSE, "cash": {"max": 0.0}},
        rest={"costs": {"half_spread_bps": 0.0}},
    )
    raw = np.linalg.solve(sigma, np.ones(5))
    assert (raw > 0.0).all()
    assert solve(book).weights == pytest.approx(raw / raw.sum(), abs=1e-5)


def test_a_turnover_of_zero_leaves_a_sound_book_as_it_is() -> None:
    book = plain_book({"S0": 0.5, "S1": 0.4}, 4, benchmark={"S2": 1.0}, limits={**LOOSE, "turnover": 0.0})
    assert (solve(book).weights == book.problem.start).all()


def test_a_book_without_benchmark_inside_its_limits_is_left_alone_to_the_bit() -> None:
    book = plain_book({"S0": 1.0 / 3.0, "S1": 0.1, "S2": 0.2}, 4, limits={**LOOSE, "turnover": 0.3})
    answer = solve(book)
    assert (answer.weights == book.problem.start).all()
    assert answer.verdict.objective == 0.0


def test_bounds_that_pin_every_name_are_met_exactly() -> None:
    pins = {f"S{i}": {"min": value, "max": value} for i, value in enumerate((0.25, 0.5, 0.125))}
    book = plain_book({"S0": 0.9}, 3, benchmark={"S2": 1.0}, limits={**LOOSE, "weights": pins})
    assert solve(book).weights.tolist() == [0.25, 0.5, 0.125]


def test_a_single_name_above_its_cap_is_sold_down_to_it() -> None:
    answer = solve(plain_book({"S0": 0.9}, 1, limits={**LOOSE, "max_weight": 0.6}))
    assert answer.weights == pytest.approx([0.6], abs=1e-9)
    assert answer.verdict.max_violation == 0.0


def test_a_single_name_under_a_stress_budget_is_sold_to_the_budget() -> None:
    book = plain_book(
        {"S0": 0.9},
        1,
        shocks={"crash": np.array([-0.2])},
        limits={**LOOSE, "stress": ({"scenario": "crash", "max_loss": 0.1},)},
    )
    answer = solve(book)
    assert answer.weights == pytest.approx([0.5], abs=1e-8)
    # Shadow price by hand: the objective is gamma/2 v (x - 0.9)^2 + k (0.9 - x), the loss 0.2 x.
    variance = 0.03 + 0.25 * 0.02 + 0.06
    assert answer.duals["stress:crash"] == pytest.approx((10.0 * variance * 0.4 + 0.001) / 0.2, rel=1e-5)


def test_a_tracker_without_costs_buys_its_benchmark() -> None:
    benchmark = {f"S{i}": 0.2 for i in range(5)}
    book = plain_book(
        {"S0": 0.3, "S1": 0.3, "S2": 0.3, "S3": 0.1},
        5,
        benchmark=benchmark,
        rest={"costs": {"half_spread_bps": 0.0}, "risk_aversion": 100.0},
    )
    assert solve(book).weights == pytest.approx([0.2] * 5, abs=1e-5)


def test_a_trade_stops_where_its_cost_over_the_holding_period_meets_the_risk() -> None:
    # One name with unit exposure: gamma v (xb - x) = k / years where it stops.
    book = plain_book(
        {"S0": 0.2},
        1,
        benchmark={"S0": 1.0},
        exposures=np.ones((1, 1)),
        covariance=np.array([[0.04]]),
        variance=np.zeros(1),
        rest={"costs": {"half_spread_bps": 50.0, "holding_years": 0.5}, "risk_aversion": 10.0},
        limits={**LOOSE, "turnover": 1.0},
    )
    assert solve(book).weights == pytest.approx([1.0 - 0.005 / 0.5 / 0.4], abs=1e-6)


def test_duplicate_names_are_treated_alike() -> None:
    book = tight_book(2)
    twins = np.array(book.exposures)
    twins[3] = twins[2]
    alike = replace(
        book,
        exposures=twins,
        variance=np.where(np.arange(10) == 3, book.variance[2], book.variance),
        shares={name: share for name, share in book.shares.items() if name not in {"S2", "S3"}},
        shocks={"crash": np.where(np.arange(10) == 3, book.shocks["crash"][2], book.shocks["crash"])},
        bps={},
        rest={"risk_aversion": 50.0, "costs": {"half_spread_bps": 1.0}},
        weights={**book.weights, "S2": 0.06, "S3": 0.06},
        benchmark={**book.benchmark, "S2": 0.01, "S3": 0.01},
        limits=LOOSE,
    )
    weights = solve(alike).weights
    assert weights[3] == pytest.approx(weights[2], abs=1e-7)
    assert weights[2] < 0.05


def test_two_lines_of_one_issuer_share_their_specific_risk() -> None:
    # Held at 0.4 against a benchmark in the other line: as one issuer there is no active risk to trade away.
    lines = plain_book({"S0": 0.4}, 2, benchmark={"S1": 0.4}, exposures=np.ones((2, 2)))
    same = replace(lines, issuers=np.zeros(2, dtype=np.int64))
    assert (solve(same).weights == same.problem.start).all()
    assert solve(lines).weights == pytest.approx([0.0, 0.4], abs=2e-3)


def test_no_specific_risk_at_all_is_solved() -> None:
    book = replace(tight_book(5), variance=np.zeros(10))
    answer = solve(book)
    best, _ = second_opinion(book.problem)
    assert answer.verdict.objective == pytest.approx(best, rel=2e-6)


def test_a_singular_factor_covariance_is_solved() -> None:
    book = replace(tight_book(5), covariance=np.diag([0.03, 0.0, 0.01]))
    answer = solve(book)
    best, _ = second_opinion(book.problem)
    assert answer.verdict.objective == pytest.approx(best, rel=2e-6)


def test_two_runs_give_the_same_weights_to_the_bit() -> None:
    for seed in range(4):
        book = tight_book(seed)
        first, second = book.solve(Programs()), book.solve(Programs())
        assert first.weights.tobytes() == second.weights.tobytes()
        assert first.duals == second.duals


def test_the_programs_are_compiled_once_for_each_shape_and_stay_parametric() -> None:
    programs = Programs()
    for seed in range(3):
        programs.fit(tight_book(seed).problem)
    assert list(programs.by_shape) == [shape_of(tight_book(0).problem)]
    program = programs.fit(tight_book(0).problem)
    assert program.problem.is_dcp(dpp=True)
    assert program.elastic.is_dcp(dpp=True)


def test_every_rung_of_the_ladder_reaches_the_same_answer() -> None:
    book = tight_book(4)
    truth = solve(book).verdict.objective
    for rung in LADDER:
        raw = PROGRAMS.fit(book.problem).solve(book.problem, Attempt(rung.solver, margin=rung.margin))
        weights = dict(zip(book.problem.names.labels, raw.weights.tolist(), strict=True))
        assert book.judge(Claim(weights, raw.duals)).objective == pytest.approx(truth, rel=1e-6)


def test_a_book_that_no_judge_accepts_is_held_at_todays_weights() -> None:
    book = tight_book(4)

    def refuse(claim: Claim) -> Any:
        return replace(book.judge(claim), accepted=False)

    answer = solve_problem(book.problem, PROGRAMS, judge=refuse, refute=lambda claim: 0.0)
    assert answer.status == "held"
    assert (answer.weights == book.problem.start).all()
    assert answer.rung == len(SHORTCUTS + LADDER) - 1


def test_a_solver_that_does_not_exist_is_a_failed_attempt_and_not_a_crash() -> None:
    book = tight_book(4)
    raw = PROGRAMS.fit(book.problem).solve(book.problem, Attempt("NO_SUCH_SOLVER"))
    assert raw.weights is None
    assert raw.status.startswith("failed: ")


def test_dust_is_not_traded_and_no_weight_leaves_its_bounds() -> None:
    problem = plain_book({"S0": 0.5, "S1": 0.3}, 3, limits={**LOOSE, "max_weight": 0.4}).problem
    clean, exact = repairs(problem, np.array([0.4 + 3e-10, 0.3 + 5e-10, -2e-10])[: len(problem.names)])
    assert clean.tolist() == [0.4, 0.3, 0.0][: len(problem.names)]
    assert exact.tolist() == [0.4, 0.3 + 5e-10, 0.0][: len(problem.names)]


def only(bundled: LoadedUniverse, *books: str) -> LoadedUniverse:
    return bundled.only(books)


def test_scaling_the_nav_changes_no_weight(bundled: LoadedUniverse) -> None:
    fractions = Lots(round="none")
    mandates = {name: mandate.model_copy(update={"lots": fractions}) for name, mandate in bundled.mandates.items()}
    part = replace(only(bundled, "ai_infrastructure", "cloud_platforms"), mandates=mandates)
    columns = ["quantity", "market_value_base", "exposure_base"]
    twice = replace(
        part,
        holdings=part.holdings.with_columns(pl.col(columns) * 1024.0),
        portfolios=part.portfolios.with_columns(pl.col("nav_base") * 1024.0),
    )
    small, large = (rebalance_portfolios(loaded).tables["targets"] for loaded in (part, twice))
    assert small.drop("quantity_after").equals(large.drop("quantity_after"))
    assert (small["quantity_after"] * 1024.0).to_list() == pytest.approx(large["quantity_after"].to_list())


def test_shuffling_the_input_rows_changes_nothing(bundled: LoadedUniverse) -> None:
    part = only(bundled, "ai_infrastructure", "momentum_growth")
    shuffled = replace(
        part,
        holdings=part.holdings.sample(fraction=1.0, shuffle=True, seed=7),
        portfolios=part.portfolios.reverse(),
        benchmarks=part.benchmarks.sample(fraction=1.0, shuffle=True, seed=8),
    )
    one, other = (rebalance_portfolios(loaded).tables for loaded in (part, shuffled))
    for name, table in one.items():
        assert table.equals(other[name]), name


def test_a_books_answer_does_not_depend_on_the_books_beside_it(bundled: LoadedUniverse) -> None:
    alone = rebalance_portfolios(only(bundled, "power_and_grid")).tables["targets"]
    beside = rebalance_portfolios(only(bundled, "power_and_grid", "chip_growth")).tables["targets"]
    assert beside.filter(pl.col("portfolio_id") == "power_and_grid").equals(alone)


def test_a_compiled_program_does_not_remember_the_book_before() -> None:
    book = tight_book(1)
    alone = book.solve(Programs())
    shared = Programs()
    for seed in (0, 3, 4):
        tight_book(seed).solve(shared)
    assert book.solve(shared).weights.tobytes() == alone.weights.tobytes()
