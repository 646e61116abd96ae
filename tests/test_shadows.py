"""Shadow prices: the objective of a second solver with each limit moved a little either way."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from test_certificate import PROGRAMS, second_opinion, tight_book
from test_rebalance import bundled_problems

from engine.api.loading import LoadedUniverse
from engine.api.rebalancing import rebalance_portfolios
from engine.desk.reasons import show_limits
from engine.rebalance.problem import BUDGET, TURNOVER, Problem
from engine.rebalance.shadows import marginal_costs, shadow_prices

STEP = 1e-4
EXACT = 2e-9 / STEP
"""How far a difference of two optima may be off, from the solver's own accuracy."""


def widened(problem: Problem, limit: str, step: float) -> Problem:
    """The program with one limit wider by ``step``; negative is tighter."""
    if limit == BUDGET:
        return replace(problem, spendable=problem.spendable + step)
    if limit == TURNOVER:
        return replace(problem, turnover=problem.turnover + step)
    if limit.startswith("weight:"):
        _, name, side = limit.split(":")
        at = np.array([label == name for label in problem.names.labels], dtype=float)
        if side == "max":
            return replace(problem, upper=problem.upper + step * at)
        return replace(problem, lower=problem.lower - step * at)
    at = np.array([name == limit for name in problem.row_ids], dtype=float)
    return replace(problem, bounds=problem.bounds + step * at)


@pytest.mark.parametrize("seed", [0, 1, 2, 4, 7])
def test_a_shadow_price_is_what_a_wider_limit_saves_and_a_tighter_one_costs(seed: int) -> None:
    book = tight_book(seed)
    answer = book.solve(PROGRAMS)
    assert answer.status == "certified"
    best, _ = second_opinion(book.problem)
    prices = shadow_prices(book.problem, answer.weights, answer.duals)
    assert max(prices.values()) > 0.05
    for limit, price in prices.items():
        saved = (best - second_opinion(widened(book.problem, limit, STEP))[0]) / STEP
        # The optimum is convex in the width: no step saves more than its price, a small one nearly as much.
        assert saved <= price + EXACT, limit
        assert saved == pytest.approx(price, rel=0.02, abs=EXACT), limit


@pytest.mark.parametrize("seed", range(6))
def test_at_an_optimum_no_further_trade_inside_the_bounds_pays(seed: int) -> None:
    book = tight_book(seed)
    answer = book.solve(PROGRAMS)
    problem, x = book.problem, answer.weights
    buying, selling = marginal_costs(problem, x, answer.duals)
    assert buying[x < problem.upper - 1e-9].min() > -EXACT
    assert selling[x > problem.lower + 1e-9].min() > -EXACT
    inside = (x > problem.lower + 1e-9) & (x < problem.upper - 1e-9)
    bought, sold = inside & (x > problem.start), inside & (x < problem.start)
    assert bought.any() and sold.any()
    assert buying[bought] == pytest.approx(0.0, abs=EXACT)
    assert selling[sold] == pytest.approx(0.0, abs=EXACT)


@pytest.mark.parametrize("seed", [1, 7])
def test_a_cap_that_a_rounding_leaves_untouched_keeps_its_price(seed: int) -> None:
    book = tight_book(seed)
    answer = book.solve(PROGRAMS)
    problem, x = book.problem, answer.weights
    touched = (x >= problem.upper) & (np.abs(problem.upper - problem.start) > 1e-4)
    assert touched.any()
    exact = shadow_prices(problem, x, answer.duals)
    rounded = shadow_prices(problem, np.where(touched, problem.upper - 1e-9, x), answer.duals)
    caps = [problem.upper_id(i) for i in np.flatnonzero(touched).tolist()]
    assert max(exact[cap] for cap in caps) > 0.0
    assert [rounded[cap] for cap in caps] == pytest.approx([exact[cap] for cap in caps], abs=1e-6)


def test_limits_carry_the_prices_and_the_desk_says_them_in_points(
    bundled: LoadedUniverse, capsys: pytest.CaptureFixture[str]
) -> None:
    binding = {"ai_infrastructure": "stress:deepseek", "cloud_platforms": "weight:MSFT:max"}
    tables = rebalance_portfolios(bundled.only(list(binding))).tables
    limits = {(row["portfolio_id"], row["limit_id"]): row for row in tables["limits"].iter_rows(named=True)}
    problems, prices = bundled_problems(bundled), {}
    for book, limit in binding.items():
        narrow, wide = (second_opinion(widened(problems[book], limit, step))[0] for step in (-STEP, STEP))
        prices[limit] = (narrow - wide) / (2.0 * STEP)
        assert limits[book, limit]["shadow_price"] == pytest.approx(prices[limit], rel=0.02)
    show_limits(Console(highlight=False, width=200), tables)
    said = capsys.readouterr().out.splitlines()
    starts = {"stress:deepseek": "the deepseek budget binds at 10 %", "weight:MSFT:max": "the cap on MSFT binds"}
    for limit, start in starts.items():
        (line,) = (line for line in said if line.strip().startswith(start))
        # A hundredth of the bound in ten-thousandths of the objective.
        assert float(line.split()[-2]) == pytest.approx(prices[limit] * 0.01 / 0.0001, rel=0.02, abs=0.06)
    room = next(line for line in said if line.strip().startswith("room in points"))
    assert f"turnover {100 * limits['ai_infrastructure', 'turnover']['slack']:.1f}" in room


def test_a_name_that_may_not_trade_is_told_once_though_it_binds_on_both_sides(
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = {"portfolio_id": "b", "bound": 0.0099, "slack": 0.0, "shadow_price": 0.0}
    sides = [{**row, "limit_id": f"participation:ECHO:{side}"} for side in ("max", "min")]
    other = {**row, "limit_id": "participation:BNY:max"}
    names = pl.DataFrame({"portfolio_id": ["b"], "name": ["Book"]})
    show_limits(Console(width=200), {"portfolio_summary": names, "limits": pl.DataFrame([*sides, other])})
    said = [line for line in capsys.readouterr().out.splitlines() if "binds at" in line]
    assert [line.split(" binds")[0].split()[-1] for line in said] == ["ECHO", "BNY"]
