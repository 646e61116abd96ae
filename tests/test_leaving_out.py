"""The cost of a limit by leaving it out: a second solver, the shadow price as a ceiling, and the words."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_certificate import second_opinion
from test_rebalance import bundled_problems
from test_stories import Captured, ran

from engine.api.leaving_out import price_limit
from engine.api.loading import LoadedUniverse
from engine.api.rebalancing import RebalanceResult, rebalance_portfolios
from engine.errors import UsageError
from engine.rebalance.problem import Problem

BOOKS = ("ai_infrastructure", "cloud_platforms")


@pytest.fixture(scope="module")
def result(bundled: LoadedUniverse) -> RebalanceResult:
    return rebalance_portfolios(bundled, only=BOOKS)


def opened(problem: Problem, limit: str) -> Problem:
    """The program without one limit, taken apart here."""
    if limit == "turnover":
        return replace(problem, turnover=2.0)
    if limit.startswith("weight:"):
        held = np.array([name == limit.split(":")[1] for name in problem.names.labels])
        return replace(problem, upper=np.where(held, 1.0, problem.upper))
    kept = [name != limit for name in problem.row_ids]
    ids = tuple(name for name, stays in zip(problem.row_ids, kept, strict=True) if stays)
    return replace(problem, row_ids=ids, rows=problem.rows[kept], bounds=problem.bounds[kept])


@pytest.mark.parametrize(
    ("book", "limit", "binds"),
    [
        ("ai_infrastructure", "stress:deepseek", True),
        ("ai_infrastructure", "turnover", False),
        ("cloud_platforms", "weight:MSFT:max", True),
    ],
)
def test_a_limit_costs_what_a_second_solver_saves_without_it(
    bundled: LoadedUniverse, result: RebalanceResult, book: str, limit: str, binds: bool
) -> None:
    priced = price_limit(bundled, result, limit).filter(pl.col("portfolio_id") == book).row(0, named=True)
    problem = bundled_problems(bundled)[book]
    best, without = second_opinion(problem)[0], second_opinion(opened(problem, limit))
    assert priced["saved"] == pytest.approx(best - without[0], abs=2e-6 * priced["objective"] + 2e-10)
    assert (priced["saved"] > 1e-6) == binds
    # The saving is concave in the width: the whole way saves at most its price times the way.
    row = result.tables["limits"].filter((pl.col("portfolio_id") == book) & (pl.col("limit_id") == limit))
    price, bound = row.select("shadow_price", "bound").row(0)
    if limit.startswith("stress:"):
        way = float(problem.rows[problem.row_ids.index(limit)] @ without[1]) - bound
        assert 0.0 < priced["saved"] <= price * way


def test_a_limit_that_no_book_has_is_refused(bundled: LoadedUniverse, result: RebalanceResult) -> None:
    with pytest.raises(UsageError, match="no book has a limit 'stress:depseek'; did you mean 'stress:deepseek'"):
        price_limit(bundled, result, "stress:depseek")


def test_the_command_says_what_leaving_a_limit_out_saves(tmp_path: Path, capsys: Captured) -> None:
    arguments = ("rebalance", "--portfolio", BOOKS[0], "--leave-out", "stress:deepseek", "--out", str(tmp_path))
    document = json.loads(ran(capsys, 0, *arguments, "--quiet", "--format", "json")[0])
    (row,) = document["left_out"]
    out = ran(capsys, 0, *arguments, "--quiet")[0]
    assert "without the deepseek budget" in out
    assert f"{1e4 * row['saved']:.2f}" in out.splitlines()[-1]
