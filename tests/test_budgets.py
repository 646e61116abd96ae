"""Stress budgets, absolute and active: measured, rebalanced to, certified from the tables, refused where wrong."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from test_certificate import PROGRAMS, Book, exact_bound, rational, some_duals, tight_book, with_bounds

from engine.api.loading import LoadedUniverse, load_universe
from engine.api.rebalancing import rebalance_portfolios
from engine.api.stressing import stress_portfolios
from engine.errors import ConfigurationError, ModelError
from engine.mandates.mandate import Mandate
from engine.rebalance.attempt import Attempt
from engine.rebalance.bound import lower_bound
from engine.rebalance.case import assemble
from engine.rebalance.evidence import Claim
from engine.rebalance.problem import Problem
from engine.rebalance.solve import Answer

ACTIVE = "stress:crash:active"
BOOK = "ai_infrastructure"


def active_loss(book: Book, x: np.ndarray) -> float:
    """``-r'(x - xb)`` by name."""
    names = book.problem.names.labels
    at = [book.model.securities.labels.index(name) for name in names]
    return -float(book.shocks["crash"][at] @ (x - np.array([book.benchmark.get(name, 0.0) for name in names])))


@cache
def active_book(seed: int) -> Book:
    """A book that may lose a third of what it would lose today against its benchmark, under a crash."""
    base = tight_book(seed)
    loose = {"max_weight": 1.0, "turnover": 2.0, "cash": {"min": 0.0, "max": 0.2}}
    today = active_loss(replace(base, limits=loose), replace(base, limits=loose).problem.start)
    sign = 1.0 if today > 0.0 else -1.0
    limit = {"scenario": "crash", "max_loss": abs(today) / 3.0, "kind": "active"}
    shocks = {name: sign * shock for name, shock in base.shocks.items()}
    return replace(base, limits={**loose, "stress": (limit,)}, shocks=shocks, rest={"risk_aversion": 0.2})


@cache
def solved(seed: int) -> Answer:
    answer = active_book(seed).solve(PROGRAMS)
    assert answer.status == "certified", seed
    return answer


SEEDS = tuple(range(8))


def test_a_certified_book_keeps_its_active_budget_and_pays_a_price_where_it_binds() -> None:
    binding = 0
    for seed in SEEDS:
        book, answer = active_book(seed), solved(seed)
        limit = book.mandate.limits.stress[0].max_loss
        assert active_loss(book, book.problem.start) == pytest.approx(3.0 * limit)
        assert active_loss(book, answer.weights) <= limit + 1e-9
        if answer.duals[ACTIVE] > 1e-6:
            assert active_loss(book, answer.weights) == pytest.approx(limit, abs=1e-7)
            binding += 1
    assert binding >= 4


def test_the_shadow_price_is_what_a_little_more_budget_saves() -> None:
    for seed in SEEDS:
        book, answer = active_book(seed), solved(seed)
        price = answer.duals[ACTIVE]
        step = 0.02 * book.mandate.limits.stress[0].max_loss
        wider = {"scenario": "crash", "max_loss": book.mandate.limits.stress[0].max_loss + step, "kind": "active"}
        other = replace(book, limits={**book.limits, "stress": (wider,)}).solve(PROGRAMS)
        saved = (answer.verdict.objective - other.verdict.objective) / step
        assert price >= 0.0
        # The value is convex in the bound, so the price bounds the saving from above and nearly meets it.
        assert saved <= price + 1e-6
        assert saved >= other.duals[ACTIVE] - 1e-6


def wrong(change: Callable[[float, float], float]) -> Callable[[Book, Problem], Problem]:
    """Another bound of the active row, from the budget and from what the benchmark adds to it."""

    def spoil(book: Book, problem: Problem) -> Problem:
        limit = book.mandate.limits.stress[0].max_loss
        return with_bounds(problem, "stress", lambda bound: change(limit, bound - limit))

    return spoil


def other_benchmark(book: Book, problem: Problem) -> Problem:
    """The row of a benchmark that holds what this one holds of the next name."""
    names = list(book.benchmark)
    turned = dict(zip(names, np.roll(list(book.benchmark.values()), 3).tolist(), strict=True))
    bounds = replace(book, benchmark=turned).problem.bounds
    return replace(problem, bounds=bounds)


PLANTS: dict[str, Callable[[Book, Problem], Problem]] = {
    "benchmark with the wrong sign": wrong(lambda limit, own: limit - own),
    "active budget read as absolute": wrong(lambda limit, own: limit),
    "benchmark twice": wrong(lambda limit, own: limit + 2.0 * own),
    "budget in percent": wrong(lambda limit, own: 100.0 * limit + own),
    "budget dropped": wrong(lambda limit, own: 1.0),
    "benchmark of another book": other_benchmark,
}


@pytest.mark.parametrize("kind", PLANTS)
def test_a_planted_wrong_active_budget_is_refused(kind: str) -> None:
    refused = []
    for seed in SEEDS:
        book, true = active_book(seed), solved(seed)
        spoilt = PLANTS[kind](book, book.problem)
        raw = PROGRAMS.fit(spoilt).solve(spoilt, Attempt("CLARABEL"))
        if raw.weights is None or np.abs(raw.weights - true.weights).sum() <= 1e-5:
            continue
        claimed = dict(zip(spoilt.names.labels, raw.weights.tolist(), strict=True))
        refused += [not book.judge(Claim(claimed, duals)).accepted for duals in (raw.duals, true.duals)]
    assert refused, f"{kind}: the plant changed no answer and proves nothing"
    assert all(refused)


def test_the_bound_of_an_active_book_is_never_above_exact_rationals() -> None:
    for seed in range(24):
        book, random = active_book(seed), np.random.default_rng(seed)
        problem = book.problem
        case = assemble(book.evidence, *book.inputs.values(), Claim({}, {}))
        row = problem.rows[problem.row_ids.index(ACTIVE)]
        limit = Fraction(book.mandate.limits.stress[0].max_loss)
        bound = limit + sum(r * b for r, b in zip(rational(row), rational(problem.benchmark), strict=True))
        rounded = Fraction(float(problem.bounds[problem.row_ids.index(ACTIVE)]))
        for size in (1e-4, 1.0, 1e4):
            duals = {**some_duals(problem, random, size), ACTIVE: size}
            w = case.b.T @ (random.dirichlet(np.ones(len(problem.names))) - case.benchmark)
            lines = [float(random.normal() * 0.1) for _ in case.shared]
            exact = exact_bound(book, duals, w, lines, risk=True) + Fraction(duals[ACTIVE]) * (rounded - bound)
            assert Fraction(lower_bound(case, duals, w, lines, risk=True)) <= exact


def test_an_active_budget_without_a_benchmark_is_refused_by_program_and_certificate() -> None:
    book = replace(active_book(0), benchmark=None)
    with pytest.raises(ModelError, match="stress:crash:active needs a benchmark, and the book has none"):
        _ = book.problem
    with pytest.raises(ModelError, match="stress:crash:active is active, and the book has no benchmark"):
        book.judge(Claim({}, {}))


def with_budget(loaded: LoadedUniverse, benchmark: str | None, **budget: Any) -> LoadedUniverse:
    """One bundled book with its own benchmark and one budget on deepseek."""
    mandate = loaded.mandates["thematic"]
    words = mandate.model_dump()
    limits = {**words["limits"], "turnover": 1.0, "stress": ({"scenario": "deepseek", **budget},)}
    changed = Mandate.model_validate({**words, "limits": limits})
    table = loaded.portfolios.with_columns(
        pl.when(pl.col("portfolio_id") == BOOK)
        .then(pl.lit(benchmark, dtype=pl.String))
        .otherwise("benchmark_id")
        .alias("benchmark_id")
    )
    return replace(loaded, mandates={**loaded.mandates, "thematic": changed}, portfolios=table).only([BOOK])


def active_by_hand(loaded: LoadedUniverse, weights: dict[str, float], shocks: pl.DataFrame) -> float:
    """The active loss name by name, from the tables."""
    benchmark = dict(loaded.benchmarks.select("security_id", "weight").iter_rows())
    moves = dict(shocks.filter(pl.col("scenario_id") == "deepseek").select("security_id", "total").iter_rows())
    return -sum(moves[name] * (weights.get(name, 0.0) - benchmark.get(name, 0.0)) for name in {*weights, *benchmark})


def test_an_active_budget_measures_the_loss_against_the_benchmark(bundled: LoadedUniverse) -> None:
    loaded = with_budget(bundled, "us_large_cap", max_loss=0.02, kind="active")
    result = stress_portfolios(loaded)
    row = result.tables["stress"].row(0, named=True)
    lines = loaded.holdings.filter(~pl.col("security_id").str.starts_with("CASH:"))
    weights = {name: value / row["nav_base"] for name, value in lines.select("security_id", "market_value_base").rows()}
    expected = active_by_hand(loaded, weights, result.tables["shocks"])
    assert (row["budget"], row["budget_kind"], row["breach"]) == (0.02, "active", True)
    assert row["measured_loss"] == pytest.approx(expected, abs=1e-12)
    assert -row["pnl_frac"] > row["measured_loss"] > 0.02


def test_a_rebalance_brings_a_book_to_its_active_budget(bundled: LoadedUniverse) -> None:
    loaded = with_budget(bundled, "us_large_cap", max_loss=0.01, kind="active")
    tables = rebalance_portfolios(loaded).tables
    assert tables["certificates"]["status"].to_list() == ["certified", "certified"]
    weights = dict(tables["targets"].select("security_id", "weight_after").iter_rows())
    # The loss of a few shares less: what is traded is whole.
    assert 0.01 - 1e-6 < active_by_hand(loaded, weights, tables["shocks"]) <= 0.01 + 1e-9
    stress = tables["stress"].filter((pl.col("scenario_id") == "deepseek") & (pl.col("stage") == "after"))
    assert stress["measured_loss"].to_list() == pytest.approx([0.01], abs=1e-6)
    assert stress["breach"].to_list() == [False]
    limit = tables["limits"].filter(pl.col("limit_id") == "stress:deepseek:active").row(0, named=True)
    assert limit["kind"] == "stress" and limit["shadow_price"] > 0.0
    assert limit["bound"] == pytest.approx(0.01, abs=1e-12) and limit["after"] == pytest.approx(0.01, abs=1e-6)
    assert limit["breach_before"] and not limit["breach"]
    assert "limit stress:deepseek:active" in tables["trades"]["reason"].to_list()


@pytest.mark.parametrize(
    ("benchmark", "found"), [(None, "has none"), ("nobodys", "has 'nobodys', which cannot be used")]
)
def test_an_active_budget_without_a_usable_benchmark_is_kept_unmeasured_and_told(
    bundled: LoadedUniverse, benchmark: str | None, found: str
) -> None:
    loaded = with_budget(bundled, benchmark, max_loss=0.02, kind="active")
    result = stress_portfolios(loaded)
    row = result.tables["stress"].row(0, named=True)
    assert (row["budget"], row["budget_kind"], row["measured_loss"], row["breach"]) == (0.02, "active", None, False)
    notice = next(notice for notice in result.notices if notice.code == "book.active_budget")
    assert notice.severity == "quarantine" and notice.portfolio_id == BOOK and found in notice.message
    moved = rebalance_portfolios(loaded)
    assert set(moved.tables["portfolio_summary"]["status"]) == {"quarantined"}
    assert not moved.tables["trades"].height


def test_a_parent_with_a_mandate_has_its_budget_measured(bundled: LoadedUniverse) -> None:
    table = bundled.portfolios.with_columns(
        pl.when(pl.col("portfolio_id") == "firm")
        .then(pl.lit("index_tracker"))
        .otherwise("mandate_id")
        .alias("mandate_id")
    )
    stress = stress_portfolios(replace(bundled, portfolios=table)).tables["stress"]
    firm = stress.filter(pl.col("portfolio_id") == "firm").row(0, named=True)
    books = stress.filter(~pl.col("portfolio_id").is_in(["firm", "core", "thematic", "multi_asset"]))
    whole = (books["pnl_frac"] * books["nav_base"]).sum() / books["nav_base"].sum()
    assert (firm["budget"], firm["budget_kind"]) == (0.05, "absolute")
    assert firm["measured_loss"] == pytest.approx(-whole, abs=1e-12)
    assert firm["breach"] == (-whole > 0.05)


def set_horizon(folder: Path, days: int) -> None:
    path = folder / "mandates" / "careful.yaml"
    path.write_text(path.read_text().replace("max_loss: 0.08}", f"max_loss: 0.08, horizon_days: {days}}}"))


def test_a_budget_for_another_horizon_than_its_scenario_is_refused(folder: Path) -> None:
    set_horizon(folder, 5)
    words = (
        "mandates/careful.yaml:7:61: its budget on planted_day is for 5 trading days, the scenario runs 1; "
        "state the same horizon in both"
    )
    with pytest.raises(ConfigurationError) as refusal:
        load_universe(str(folder))
    assert refusal.value.faults == (words,)


def test_a_scenario_file_may_not_stretch_the_horizon_of_a_budget(folder: Path) -> None:
    set_horizon(folder, 1)
    loaded = load_universe(str(folder))
    assert stress_portfolios(loaded).tables["stress"]["budget"].drop_nulls().to_list() == [0.08] * 3
    text = (folder / "scenarios" / "planted_day.yaml").read_text().replace("horizon_days: 1", "horizon_days: 3")
    with pytest.raises(ConfigurationError, match="is for 1 trading days, the scenario runs 3"):
        stress_portfolios(loaded, texts={"planted_day.yaml": text})
