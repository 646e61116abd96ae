"""The cost of a limit by leaving it out: a second solver, the shadow price as a ceiling, and the words."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from test_certificate import second_opinion
from test_rebalance import bundled_problems
from test_stories import Captured, ran

from engine.api.leaving_out import _without, price_limit
from engine.api.loading import LoadedUniverse
from engine.api.rebalancing import RebalanceResult, rebalance_portfolios
from engine.errors import UsageError
from engine.mandates.mandate import LARGEST_EXPOSURE, Mandate
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


TRACKER = "index_tracker"


def ruled(loaded: LoadedUniverse, **limits: Any) -> LoadedUniverse:
    """The bundled book with a benchmark under further limits."""
    words = loaded.mandates[TRACKER].model_dump()
    changed = Mandate.model_validate({**words, "limits": {**words["limits"], **limits}})
    return replace(loaded, mandates={**loaded.mandates, TRACKER: changed}).only([TRACKER])


EVERY_KIND = {
    "active_weight:NVDA:max": {"active_weights": {"NVDA": {"max": -0.01}}},
    "active_weight:NVDA:min": {"active_weights": {"NVDA": {"min": 0.01}}},
    "tier:ai_semis:max": {"tiers": {"ai_semis": {"max": 0.1}}},
    "active_tier:electrical:max": {"active_tiers": {"electrical": {"max": -0.002}}},
    "sector:Utilities:max": {"sectors": {"Utilities": {"max": 0.01}}},
    "active_sector:Energy:min": {"active_sectors": {"Energy": {"min": 0.02}}},
    "factor:market:max": {"factors": {"market": {"max": 0.97}}},
    "active_factor:market:max": {"active_factors": {"market": {"max": -0.02}}},
    "excluded:NVDA:max": {"excluded": ("MSFT", "NVDA")},
    "concentration:5": {"concentration": ({"largest": 5, "max": 0.2}, {"largest": 1, "max": 0.06})},
}


@pytest.mark.parametrize("limit", EVERY_KIND)
def test_every_kind_of_limit_can_be_left_out_and_then_the_book_is_what_it_would_be_without(
    bundled: LoadedUniverse, limit: str
) -> None:
    loaded = ruled(bundled, **EVERY_KIND[limit])
    result = rebalance_portfolios(loaded)
    priced = price_limit(loaded, result, limit).row(0, named=True)
    rest = {
        "excluded:NVDA:max": {"excluded": ("MSFT",)},
        "concentration:5": {"concentration": ({"largest": 1, "max": 0.06},)},
    }
    without = rebalance_portfolios(ruled(bundled, **rest.get(limit, {}))).tables["certificates"]
    assert priced["objective_without"] == pytest.approx(without.filter(form="continuous")["objective"][0], rel=2e-6)
    assert priced["saved"] > 1e-7


@pytest.mark.parametrize("kind", ["no_buy", "no_sell", "frozen"])
def test_a_name_is_taken_off_its_list_alone(kind: str) -> None:
    words = {"id": "m", "title": "M", "version": "1.0.0", "limits": {kind: ("A", "B.C", "D")}}
    assert getattr(_without(Mandate.model_validate(words), f"{kind}:B.C:max").limits, kind) == ("A", "D")


def test_a_side_of_the_net_is_left_out_and_the_other_stays() -> None:
    words = {"id": "m", "title": "M", "version": "1.0.0", "limits": {"net": {"min": 0.2, "max": 0.6}}}
    limits = _without(Mandate.model_validate(words), "net:max").limits
    assert (limits.net.min, limits.net.max) == (0.2, LARGEST_EXPOSURE)


def test_what_a_firm_shares_out_stays_as_it_was_where_a_limit_is_left_out(bundled: LoadedUniverse) -> None:
    """Priced for one book alone, the others' parts of a day's volume must not fall to it."""
    sharing = bundled.universe.settings.liquidity.model_copy(update={"firm_participation": 0.02})
    settings = bundled.universe.settings.model_copy(update={"liquidity": sharing})
    loaded = replace(bundled, universe=replace(bundled.universe, settings=settings))
    result = rebalance_portfolios(loaded)
    limits = result.tables["limits"]
    allotted = limits.filter((pl.col("kind") == "allotment") & (pl.col("shadow_price") > 1e-6))
    book, limit = allotted.sort("shadow_price").select("portfolio_id", "limit_id").row(-1)
    # A limit that some books have and that does not bind this one: without it nothing changes for it.
    loose = limits.filter(pl.len().over("limit_id") < 10, pl.col("portfolio_id") == book, pl.col("slack") > 1e-3)
    idle = loose["limit_id"][0]
    unchanged = price_limit(loaded, result, idle).filter(pl.col("portfolio_id") == book).row(0, named=True)
    assert unchanged["saved"] == pytest.approx(0.0, abs=1e-6 * unchanged["objective"])
    freed = price_limit(loaded, result, limit).filter(pl.col("portfolio_id") == book).row(0, named=True)
    row = limits.filter(portfolio_id=book, limit_id=limit).row(0, named=True)
    assert 0.0 < freed["saved"] <= row["shadow_price"]


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
