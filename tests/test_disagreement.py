"""Losses under several models: sums by hand, ranges, and the flag where a breach is a matter of opinion."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from market import Market, make_holdings
from rich.console import Console

from engine.api.loading import LoadedUniverse, load_universe
from engine.api.rebalancing import rebalance_portfolios
from engine.api.stressing import StressResult, prepare, stress_portfolios
from engine.conventions import ALTERNATIVE_MODELS, BASE_MODEL, FEASIBILITY
from engine.desk.terminal import show_stress
from engine.intake import admit
from engine.stress.disagreement import apply_models, measure_models
from engine.stress.propagation import propagate

CHIPS_FALL = """\
id: chips_fall
title: Chips fall
version: 1.0.0
kind: shock
horizon_days: 5
narrative: The first tier alone is stated.
author: tests
propagation: conditional
views:
  - {tier: chips, total: -0.15, source: test}
  - {security: REST-05, total: -0.10, source: test}
"""


@pytest.fixture(scope="module")
def loaded(written: Path) -> LoadedUniverse:
    return load_universe(str(written))


@pytest.fixture(scope="module")
def result(loaded: LoadedUniverse) -> StressResult:
    """The planted books under the planted day and a conditional scenario."""
    return stress_portfolios(loaded, ["planted_day"], texts={"chips_fall.yaml": CHIPS_FALL})


def by_model(result: StressResult, book: str, scenario: str) -> dict[str, float]:
    rows = result.tables["stress_models"].filter(portfolio_id=book, scenario_id=scenario)
    return dict(rows.select("model", "pnl_frac").iter_rows())


def test_a_loss_is_weights_times_the_moves_of_each_model(loaded: LoadedUniverse, result: StressResult) -> None:
    ready = prepare(loaded, ["planted_day"], {"chips_fall.yaml": CHIPS_FALL})
    weights = ready.portfolios.weights.toarray()
    for shock in ready.outcomes:
        for name, model in {BASE_MODEL: loaded.model, **loaded.alternatives}.items():
            moves = propagate(shock.scenario, model, loaded.curve).total
            for row, book in enumerate(ready.portfolios.ids.labels):
                by_hand = sum(w * r for w, r in zip(weights[row], moves, strict=True))
                assert by_model(result, book, shock.scenario.id)[name] == pytest.approx(by_hand, abs=1e-15)


def test_the_base_model_says_what_the_stress_table_says(result: StressResult) -> None:
    joined = result.tables["stress"].join(
        result.tables["stress_models"].filter(model=BASE_MODEL), on=["portfolio_id", "stage", "scenario_id"]
    )
    assert joined.height == result.tables["stress"].height
    np.testing.assert_allclose(joined["pnl_frac"], joined["pnl_frac_right"], atol=1e-15)


def test_the_range_is_the_smallest_and_largest_of_all_models_and_holds_the_base(result: StressResult) -> None:
    for row in result.tables["stress"].iter_rows(named=True):
        losses = by_model(result, row["portfolio_id"], row["scenario_id"])
        assert set(losses) == {BASE_MODEL, *ALTERNATIVE_MODELS}
        assert (row["model_low"], row["model_high"]) == (min(losses.values()), max(losses.values()))
        assert row["model_low"] <= row["pnl_frac"] + 1e-15 and row["pnl_frac"] <= row["model_high"] + 1e-15
    ranges = result.tables["stress"]["model_high"] - result.tables["stress"]["model_low"]
    assert (ranges > 1e-4).all()


def test_a_parent_is_the_nav_weighted_sum_of_its_books_under_every_model(result: StressResult) -> None:
    joined = result.tables["stress_models"].join(
        result.tables["stress"].select("portfolio_id", "stage", "scenario_id", "nav_base"),
        on=["portfolio_id", "stage", "scenario_id"],
    )
    money = joined.with_columns(pnl=pl.col("pnl_frac") * pl.col("nav_base"))
    below = money.filter(pl.col("portfolio_id") != "house").group_by("scenario_id", "model").agg(pl.col("pnl").sum())
    above = money.filter(pl.col("portfolio_id") == "house").join(below, on=["scenario_id", "model"])
    assert above.height == 8
    np.testing.assert_allclose(above["pnl"], above["pnl_right"], rtol=1e-12)


def test_a_covariance_changes_nothing_that_is_read_directly(result: StressResult) -> None:
    direct, spread = by_model(result, "growth", "planted_day"), by_model(result, "growth", "chips_fall")
    assert direct["stress"] == pytest.approx(direct[BASE_MODEL], abs=1e-15)
    assert abs(spread["stress"] - spread[BASE_MODEL]) > 1e-4


@pytest.mark.parametrize(("place", "disagree"), [(-0.5, False), (0.5, True), (1.5, False)])
def test_models_disagree_when_a_budget_lies_between_their_losses(
    loaded: LoadedUniverse, result: StressResult, place: float, disagree: bool
) -> None:
    losses = [-pnl for pnl in by_model(result, "growth", "planted_day").values()]
    budget = min(losses) + place * (max(losses) - min(losses))
    careful = loaded.mandates["careful"]
    limits = careful.limits.model_copy(
        update={"stress": (careful.limits.stress[0].model_copy(update={"max_loss": budget}),)}
    )
    changed = replace(loaded, mandates={"careful": careful.model_copy(update={"limits": limits})})
    row = stress_portfolios(changed).tables["stress"].filter(portfolio_id="growth").to_dicts()[0]
    verdicts = {loss > budget + FEASIBILITY for loss in losses}
    assert row["models_disagree"] is disagree
    assert disagree == (len(verdicts) == 2)


def test_a_book_without_a_budget_has_a_range_and_no_disagreement(result: StressResult) -> None:
    house = result.tables["stress"].filter(portfolio_id="house", scenario_id="planted_day").to_dicts()[0]
    assert house["budget"] is None and house["models_disagree"] is None
    assert house["model_low"] < house["model_high"]


def test_models_that_are_the_base_agree_with_it(loaded: LoadedUniverse) -> None:
    tables = stress_portfolios(replace(loaded, alternatives={"short": loaded.model})).tables
    np.testing.assert_allclose(tables["stress"]["model_low"], tables["stress"]["model_high"], atol=1e-15)
    assert not tables["stress"]["models_disagree"].any()


def test_without_second_models_there_is_no_range(loaded: LoadedUniverse) -> None:
    tables = stress_portfolios(replace(loaded, alternatives={})).tables
    assert tables["stress_models"].height == 0
    assert tables["stress"].select("model_low", "model_high", "models_disagree").null_count().row(0) == (4, 4, 4)


def test_a_name_that_no_model_knows_takes_the_same_proxy_in_all(loaded: LoadedUniverse, market: Market) -> None:
    row = loaded.universe.securities.filter(security_id="REST-00").with_columns(
        security_id=pl.lit("IPO"), membership=pl.lit(None, dtype=pl.String), price=pl.lit(10.0)
    )
    securities = pl.concat([loaded.universe.securities, row]).sort("security_id")
    holdings = make_holdings(replace(market, securities=securities), {"growth": {"IPO": 0.02}})
    wider = replace(loaded, universe=replace(loaded.universe, securities=securities), holdings=holdings)
    assert set(by_model(stress_portfolios(wider), "growth", "planted_day").values()) == {0.02 * -0.02}


def test_a_model_that_cannot_carry_a_scenario_is_null_and_leaves_the_range_to_the_others(
    loaded: LoadedUniverse,
) -> None:
    variance = loaded.model.specific_variance.copy()
    variance[loaded.model.securities.labels.index("REST-05")] = 0.0
    riskless = replace(loaded.alternatives["short"], specific_variance=variance)
    # With its factors riskless too, the view on the name has nothing to move.
    riskless = replace(riskless, exposures=np.zeros_like(riskless.exposures))
    ready = prepare(replace(loaded, alternatives={}), [], {"chips_fall.yaml": CHIPS_FALL})
    models = {"short": riskless, "stress": loaded.alternatives["stress"]}
    moves = apply_models(ready.outcomes, models, loaded.curve, {})
    table = measure_models(ready.portfolios, moves, stage="before").filter(portfolio_id="growth")
    assert table.filter(pl.col("pnl_frac").is_null())["model"].to_list() == ["short"]
    assert admit(table, "stress_models", "test").frame.equals(table)
    tables = stress_portfolios(replace(loaded, alternatives=models), [], texts={"chips_fall.yaml": CHIPS_FALL}).tables
    growth = tables["stress"].filter(portfolio_id="growth").to_dicts()[0]
    assert (growth["model_low"], growth["model_high"]) == (table["pnl_frac"].min(), table["pnl_frac"].max())


def test_a_rebalance_measures_both_stages_under_every_model(loaded: LoadedUniverse) -> None:
    result = rebalance_portfolios(loaded)
    moves = prepare(loaded, ["planted_day"], {}).moves
    assert moves is not None
    after = result.tables["stress_models"].filter(portfolio_id="growth", stage="after", scenario_id="planted_day")
    targets = result.tables["targets"].filter(portfolio_id="growth")
    at = moves.securities.positions(targets["security_id"], "test")
    for model, pnl in after.select("model", "pnl_frac").iter_rows():
        by_hand = targets["weight_after"].to_numpy() @ moves.values[moves.models.index(model), 0, at]
        assert pnl == pytest.approx(by_hand, abs=1e-12)
    stress = result.tables["stress"].filter(portfolio_id="growth").sort("stage", descending=True)
    assert stress["stage"].to_list() == ["before", "after"]
    assert stress["model_low"].null_count() == 0


def text_of(tables: dict[str, pl.DataFrame], tiers: tuple[str, ...], width: int) -> str:
    paper = io.StringIO()
    show_stress(Console(file=paper, width=width, highlight=False), tables, tiers)
    return paper.getvalue()


@pytest.mark.parametrize("width", [80, 96, 160])
def test_the_desk_reads_the_range_and_a_mark_in_its_width(
    loaded: LoadedUniverse, result: StressResult, width: int
) -> None:
    doubtful = (pl.col("portfolio_id") == "growth") & pl.col("budget").is_not_null()
    stress = result.tables["stress"].with_columns(breach=doubtful, models_disagree=doubtful)
    text = text_of({**result.tables, "stress": stress}, loaded.curve.buckets.labels, width)
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    row = stress.filter(portfolio_id="growth", scenario_id="planted_day").to_dicts()[0]
    between = "/" if width == 80 else " to "
    assert f"{100 * row['model_low']:.1f}{between}{100 * row['model_high']:.1f}" in text
    assert "models %" in text and text.count("BREACH?") == 1
    assert "? the models disagree on 1 of 3 budgets" in text


def test_the_desk_leaves_the_column_out_where_there_is_one_model(loaded: LoadedUniverse) -> None:
    tables = dict(stress_portfolios(replace(loaded, alternatives={})).tables)
    text = text_of(tables, loaded.curve.buckets.labels, 80)
    assert "models" not in text and "?" not in text
