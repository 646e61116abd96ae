"""The frontier: convex and falling, its slope is the shadow price, its ends are known by other ways."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.optimize import linprog
from test_rebalance import bundled_problems
from test_stories import Captured, ran

from engine.api.leaving_out import price_limit
from engine.api.loading import LoadedUniverse
from engine.api.rebalancing import rebalance_portfolios
from engine.api.tracing import FrontierResult, trace_frontier
from engine.contracts import CONTRACTS
from engine.errors import UsageError
from engine.intake import admit
from engine.mandates.mandate import Mandate
from engine.rebalance.problem import Problem

BOOKS = ("ai_infrastructure", "momentum_growth", "cloud_platforms")
LIMIT = "stress:deepseek"


@pytest.fixture(scope="module")
def traced(bundled: LoadedUniverse) -> FrontierResult:
    return trace_frontier(bundled.only(BOOKS), "deepseek", points=7)


def points(traced: FrontierResult, book: str) -> pl.DataFrame:
    return traced.tables["frontier"].filter(pl.col("portfolio_id") == book)


def least_loss(problem: Problem) -> float:
    """The linear program in buys and sells that a second solver answers."""
    n = len(problem.names)
    row = problem.rows[problem.row_ids.index(LIMIT)]
    others = [i for i, name in enumerate(problem.row_ids) if name != LIMIT]
    a = np.vstack(
        [
            np.hstack([problem.rows[others], -problem.rows[others]]),
            np.hstack([1.0 + problem.costs, problem.costs - 1.0])[None, :],
            np.ones((1, 2 * n)),
        ]
    )
    b = np.hstack(
        [
            problem.bounds[others] - problem.rows[others] @ problem.start,
            problem.spendable - problem.start.sum(),
            problem.turnover,
        ]
    )
    # Weights below their floor or above their cap must trade at least that far.
    buys = [
        (max(lo - x, 0.0), max(up - x, 0.0))
        for lo, up, x in zip(problem.lower, problem.upper, problem.start, strict=True)
    ]
    sells = [
        (max(x - up, 0.0), max(x - lo, 0.0))
        for lo, up, x in zip(problem.lower, problem.upper, problem.start, strict=True)
    ]
    found = linprog(np.hstack([row, -row]), A_ub=a, b_ub=b, bounds=[*buys, *sells], method="highs")
    assert found.status == 0
    return float(found.fun + row @ problem.start)


def test_the_table_keeps_its_contract_and_every_point_is_certified(traced: FrontierResult) -> None:
    frame = admit(traced.tables["frontier"], "frontier", "trace").frame
    assert frame.columns == list(CONTRACTS["frontier"].columns)
    assert set(frame["portfolio_id"]) == set(BOOKS)
    assert set(frame["status"]) == {"certified"}
    assert traced.refused == ()


@pytest.mark.parametrize("book", BOOKS)
def test_the_objective_is_convex_and_falls_as_the_budget_widens(traced: FrontierResult, book: str) -> None:
    rows = points(traced, book)
    loss, value, price = (rows[name].to_numpy() for name in ("loss", "objective", "shadow_price"))
    slack = 2e-6 * value[1:] + 2e-10
    assert (np.diff(loss) < 0.0).all()
    assert (np.diff(value) >= -slack).all()
    assert (np.diff(price) >= -1e-4 * price[1:]).all()
    # Both slopes of a convex function bound what lies between.
    narrowed = -np.diff(loss)
    assert (np.diff(value) >= price[:-1] * narrowed - slack).all()
    assert (np.diff(value) <= price[1:] * narrowed + slack).all()


def test_the_slope_is_the_shadow_price(bundled: LoadedUniverse, traced: FrontierResult) -> None:
    row = points(traced, BOOKS[0]).filter(pl.col("kind") == "step").row(2, named=True)
    step, found = 2e-4, []
    for move in (step, -step):
        mandate = bundled.mandates[_mandate(bundled, BOOKS[0])]
        (budget,) = mandate.limits.stress
        moved = mandate.limits.model_copy(
            update={"stress": (budget.model_copy(update={"max_loss": row["budget"] + move}),)}
        )
        changed = {**bundled.mandates, mandate.id: mandate.model_copy(update={"limits": moved})}
        found.append(_objective(bundled, changed, BOOKS[0]))
    wide, narrow = found
    assert (narrow - wide) / (2.0 * step) == pytest.approx(row["shadow_price"], rel=1e-3)


def _mandate(bundled: LoadedUniverse, book: str) -> str:
    return str(bundled.portfolios.filter(pl.col("portfolio_id") == book)["mandate_id"][0])


def _objective(bundled: LoadedUniverse, mandates: Mapping[str, Mandate], book: str) -> float:
    tables = rebalance_portfolios(replace(bundled, mandates=mandates), only=[book]).tables
    return float(tables["certificates"]["objective"][0])


def test_the_wide_end_is_the_answer_without_the_limit(bundled: LoadedUniverse, traced: FrontierResult) -> None:
    result = rebalance_portfolios(bundled, only=BOOKS)
    without = dict(price_limit(bundled, result, LIMIT).select("portfolio_id", "objective_without").iter_rows())
    prices = result.tables["limits"].filter(pl.col("limit_id") == LIMIT)
    own = dict(prices.select("portfolio_id", "shadow_price").iter_rows())
    for book in BOOKS:
        rows = points(traced, book)
        assert rows["objective"][0] == pytest.approx(without[book], abs=1e-12)
        mandate = rows.filter(pl.col("kind") == "mandate")
        assert mandate.height == (0 if book == "cloud_platforms" else 1)
        if mandate.height:
            assert mandate["shadow_price"][0] == pytest.approx(own[book], rel=1e-6)


@pytest.mark.parametrize("book", BOOKS)
def test_the_narrow_end_is_the_least_loss_of_a_second_solver(
    bundled: LoadedUniverse, traced: FrontierResult, book: str
) -> None:
    least = least_loss(bundled_problems(bundled)[book])
    last = points(traced, book).row(-1, named=True)
    assert last["kind"] == "least"
    assert last["floor"] <= least + 1e-9
    assert least - 1e-9 <= last["loss"] <= least + 2e-6


def test_what_a_point_shows_adds_up_to_its_objective(bundled: LoadedUniverse, traced: FrontierResult) -> None:
    for row in traced.tables["frontier"].iter_rows(named=True):
        mandate = bundled.mandates[_mandate(bundled, row["portfolio_id"])]
        risk = mandate.risk_aversion / 2.0 * row["tracking_error"] ** 2
        assert row["objective"] == pytest.approx(risk + row["cost_frac"] / mandate.costs.holding_years, rel=1e-9)


def test_a_book_whose_other_limits_conflict_is_said(bundled: LoadedUniverse) -> None:
    mandate = bundled.mandates[_mandate(bundled, BOOKS[2])]
    tight = mandate.limits.model_copy(update={"max_weight": 0.01, "turnover": 0.0})
    changed = {**bundled.mandates, mandate.id: mandate.model_copy(update={"limits": tight})}
    result = trace_frontier(replace(bundled, mandates=changed).only([BOOKS[2]]), "deepseek", points=3)
    assert result.tables["frontier"].height == 0
    assert result.refused == (
        f"{BOOKS[2]}: no frontier, even without the deepseek budget its other limits conflict: proven",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scenario": "depseek"}, "unknown scenario 'depseek'; did you mean 'deepseek'"),
        ({"points": 1}, "--points is 1; 2 to 200"),
    ],
)
def test_a_wrong_question_is_refused(bundled: LoadedUniverse, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        trace_frontier(bundled, **arguments)  # type: ignore[arg-type]


def test_the_command_prints_every_form_and_writes(tmp_path: Path, capsys: Captured) -> None:
    arguments = ("frontier", "--portfolio", BOOKS[1], "--points", "3", "--quiet")
    out = ran(capsys, 0, *arguments, "--against", "cost")[0]
    assert "loses less than 3.10 %: proven" in out
    assert "cost of trading" in out
    document = json.loads(ran(capsys, 0, *arguments, "--format", "json", "--out", str(tmp_path))[0])
    assert [row["kind"] for row in document["frontier"]] == ["free", "mandate", "step", "least"]
    assert list(tmp_path.glob("adhoc/*/frontier.parquet"))
    lines = ran(capsys, 0, *arguments, "--format", "csv")[0].splitlines()
    assert lines[0].split(",") == list(CONTRACTS["frontier"].columns)
    assert len(lines) == 5
    assert "did you mean 'momentum_growth'" in ran(capsys, 2, "frontier", "--portfolio", "momentum_growt")[1]
