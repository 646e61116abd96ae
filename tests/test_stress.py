"""The stress rooms: views, propagation, losses, plausibility, back-test, and the books they meet."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.stats
from market import (
    EVENT_MOVES,
    FACTORS,
    LINES,
    TIERS,
    YOUNG,
    Market,
    core_names,
    make_holdings,
    make_portfolios,
)

import engine
from engine.api.loading import LoadedUniverse, load_universe
from engine.api.stressing import StressResult, stress_portfolios
from engine.contracts import CONTRACTS
from engine.curve.universe import CalibrationSettings, StressSettings, Universe
from engine.errors import CalibrationError, ConfigurationError
from engine.intake import admit
from engine.risk.calibration import Calibration
from engine.risk.history import FactorHistory
from engine.scenarios.kinds import ShockBody
from engine.scenarios.scenario import Scenario
from engine.scenarios.views import View
from engine.stress.backtest import backtest_event
from engine.stress.outcome import Outcome
from engine.stress.plausibility import summarise_scenarios, weigh_plausibility
from engine.stress.propagation import Shock, propagate


def scenario(views: list[dict[str, Any]], propagation: str = "none", **body: Any) -> Scenario:
    """A scenario of the given views."""
    text: Mapping[str, Any] = {
        "id": "test",
        "title": "Test",
        "version": "1.0.0",
        "kind": "shock",
        "horizon_days": 1,
        "narrative": "Test.",
        "author": "tests",
        "propagation": propagation,
        "views": tuple(View(source="test", **view) for view in views),
    }
    return Scenario(ShockBody(**{**text, **body}), "0" * 64)


def shock(calibration: Calibration, views: list[dict[str, Any]], propagation: str = "none", **body: Any) -> Shock:
    """What the planted model makes of the views."""
    return propagate(scenario(views, propagation, **body), calibration.model, calibration.curve)


@pytest.fixture(scope="module")
def loaded(written: Path) -> LoadedUniverse:
    """The planted universe, read from its folder."""
    return load_universe(str(written))


@pytest.fixture(scope="module")
def result(loaded: LoadedUniverse) -> StressResult:
    """The planted books under the planted day."""
    return stress_portfolios(loaded)


def test_a_total_view_moves_its_own_pure_factor_by_what_the_market_leaves(calibration: Calibration) -> None:
    beta = calibration.curve.beta[TIERS.index("grid")]
    with_market = shock(calibration, [{"tier": "grid", "total": -0.1}, {"factor": "market", "value": -0.02}])
    np.testing.assert_allclose(with_market.factors, [-0.02, 0.0, -0.1 + 0.02 * beta, 0.0], atol=1e-16)
    alone = shock(calibration, [{"tier": "grid", "total": -0.1}])
    np.testing.assert_allclose(alone.factors, [0.0, 0.0, -0.1, 0.0], atol=1e-16)


def test_a_pure_view_and_a_factor_view_say_the_same(calibration: Calibration) -> None:
    pure = shock(calibration, [{"tier": "chips", "pure": -0.1}])
    factor = shock(calibration, [{"factor": "chips", "value": -0.1}])
    np.testing.assert_array_equal(pure.factors, factor.factors)


def test_a_security_read_directly_moves_only_its_issuer(calibration: Calibration) -> None:
    moved = shock(calibration, [{"factor": "market", "value": -0.02}, {"security": LINES[0], "total": -0.10}])
    labels = calibration.model.securities.labels
    first, second = (labels.index(name) for name in LINES)
    assert moved.total[first] == pytest.approx(-0.10, abs=1e-15)
    own = moved.specifics[first]
    assert own == pytest.approx(-0.10 + 0.02 * calibration.model.exposures[first, 0])
    assert moved.specifics[second] == own
    others = np.delete(moved.specifics, [first, second])
    assert not others.any()


@pytest.mark.parametrize("propagation", ["none", "conditional"])
def test_a_scenario_does_what_it_states(calibration: Calibration, propagation: str) -> None:
    views = [
        {"factor": "market", "value": -0.02},
        {"tier": "chips", "total": -0.1},
        {"security": "REST-00", "total": 0.05},
    ]
    applied = shock(calibration, views, propagation)
    stated = applied.views.on_factors @ applied.factors + applied.views.on_specifics @ applied.specifics
    np.testing.assert_allclose(stated, applied.views.values, atol=1e-14)


def test_under_no_propagation_only_what_is_stated_moves(calibration: Calibration) -> None:
    still = shock(calibration, [{"tier": "chips", "pure": -0.1}])
    np.testing.assert_array_equal(still.propagated, 0.0)
    np.testing.assert_array_equal(still.specific, 0.0)
    np.testing.assert_array_equal(still.total, still.stated)


def test_correlated_tiers_follow_when_a_view_is_propagated(calibration: Calibration) -> None:
    moved = shock(calibration, [{"tier": "chips", "pure": -0.1}], "conditional")
    covariance = calibration.model.factor_covariance
    np.testing.assert_allclose(moved.factors, -0.1 * covariance[1] / covariance[1, 1], atol=1e-15)
    assert moved.factors[2] < -0.02 and moved.factors[3] > 0.005


def test_damping_walks_from_the_conditional_mean_to_the_direct_reading(calibration: Calibration) -> None:
    views = [{"tier": "chips", "pure": -0.1}]
    full, half, none = (shock(calibration, views, "conditional", damping=d) for d in (0.0, 0.5, 1.0))
    np.testing.assert_allclose(half.factors, (full.factors + none.factors) / 2.0, atol=1e-16)
    np.testing.assert_allclose(none.factors, full.views.stated_factors, atol=1e-16)
    assert full.distance_squared < half.distance_squared < none.distance_squared


@pytest.mark.parametrize(
    ("views", "words"),
    [
        ([{"tier": "chip", "pure": 0.1}], "the model has no tier 'chip'"),
        ([{"security": "NOPE", "total": 0.1}], "the model has no security 'NOPE'"),
        ([{"tier": "chips", "total": 0.1}, {"factor": "chips", "value": 0.1}], "state the same move; keep one"),
        ([{"security": LINES[0], "total": 0.1}, {"security": LINES[1], "total": 0.1}], "state the same move; keep one"),
    ],
)
def test_views_that_the_model_cannot_hold_apart_are_refused(
    calibration: Calibration, views: list[dict[str, Any]], words: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        shock(calibration, views)
    assert words in str(caught.value) and str(caught.value).startswith("scenario test: ")


def test_a_move_of_what_has_no_risk_is_refused(calibration: Calibration) -> None:
    covariance = calibration.model.factor_covariance.copy()
    covariance[3], covariance[:, 3] = 0.0, 0.0
    model = replace(calibration.model, factor_covariance=covariance)
    with pytest.raises(ConfigurationError, match="tier apps: no risk in the model, so no view can move it"):
        propagate(scenario([{"tier": "apps", "pure": 0.1}]), model, calibration.curve)


def test_plausibility_falls_with_the_size_of_the_shock_and_rises_with_the_horizon(calibration: Calibration) -> None:
    day, twice, month = (
        weigh_plausibility(
            Outcome.of(shock(calibration, [{"tier": "chips", "pure": size}], "conditional", horizon_days=days))
        )
        for size, days in ((-0.03, 1), (-0.06, 1), (-0.03, 21))
    )
    assert twice.distance == pytest.approx(2.0 * day.distance)
    assert month.distance == pytest.approx(day.distance / np.sqrt(21.0))
    assert twice.tail_probability < day.tail_probability < month.tail_probability <= 1.0
    assert twice.extrapolation == pytest.approx(2.0 * day.extrapolation)


def test_extrapolation_is_the_largest_move_over_the_largest_seen(calibration: Calibration) -> None:
    seen = np.abs(calibration.factors.values).max(axis=0)
    moved = shock(
        calibration, [{"factor": "market", "value": -2.0 * seen[0] + 1e-15}, {"tier": "apps", "pure": seen[3]}]
    )
    assert weigh_plausibility(Outcome.of(moved)).extrapolation == pytest.approx(2.0)
    week = shock(calibration, [{"factor": "market", "value": -2.0 * seen[0]}], horizon_days=4)
    assert weigh_plausibility(Outcome.of(week)).extrapolation == pytest.approx(1.0)
    settings = CalibrationSettings()
    history = FactorHistory.from_frame(calibration.factors.frame, calibration.factors.factors, settings)
    summary = summarise_scenarios([Outcome.of(moved)], history, StressSettings())["scenario_summary"]
    assert admit(summary, "scenario_summary", "test").frame["extrapolation"][0] == pytest.approx(2.0)


def test_a_planted_shock_day_is_recovered_by_the_stress(
    market: Market, calibration: Calibration, result: StressResult
) -> None:
    truth = dict(zip(market.names, market.exposures @ EVENT_MOVES, strict=True))
    shocks = result.tables["shocks"].filter(pl.col("security_id") != YOUNG)
    planted = np.array([truth[name] for name in shocks["security_id"]])
    error = shocks["total"].to_numpy() - planted
    assert 1.0 - (error**2).sum() / ((planted - planted.mean()) ** 2).sum() > 0.97


def test_a_planted_shock_day_is_recovered_by_the_back_test(market: Market, universe: Universe) -> None:
    scored = backtest_event(market.prices, universe, event_date=market.event_date, band=0.8)
    assert scored.as_of == market.as_of
    assert scored.scores["r2"] > 0.85
    assert scored.scores["rank_correlation"] > 0.8
    assert scored.scores["r2_market_only"] < 0.2
    assert 0.65 < scored.scores["band_coverage"] < 0.95


def test_the_back_test_scores_stocks_with_a_sector_outside_the_baskets(market: Market, universe: Universe) -> None:
    names = backtest_event(market.prices, universe, event_date=market.event_date, band=0.8).names
    scored = set(names.filter("scored")["security_id"].to_list())
    core = {name for tier in TIERS for name in core_names(tier)}
    assert scored == set(market.names) - core - {YOUNG, "FUND"}
    assert set(names.filter("in_basket")["security_id"].to_list()) == core


def test_the_back_test_ignores_every_later_day(market: Market, universe: Universe) -> None:
    earlier = market.prices["date"].unique().sort()[-20]
    full = backtest_event(market.prices, universe, event_date=earlier, band=0.8)
    cut = backtest_event(market.prices.filter(pl.col("date") <= earlier), universe, event_date=earlier, band=0.8)
    assert full.scores == cut.scores and full.names.equals(cut.names)


def test_the_back_test_of_a_day_without_prices_is_refused(market: Market, universe: Universe) -> None:
    first = market.prices["date"].min()
    with pytest.raises(CalibrationError, match="a back-test needs a history"):
        backtest_event(market.prices, universe, event_date=first, band=0.8)  # type: ignore[arg-type]


def test_a_null_scenario_loses_nothing_and_has_no_distance(loaded: LoadedUniverse) -> None:
    text = "id: still\n" + _body("{factor: market, value: 0.0, source: x}")
    still = stress_portfolios(loaded, texts={"still.yaml": text})
    assert not still.tables["stress"]["pnl_frac"].to_numpy().any()
    assert still.tables["scenario_summary"]["distance"][0] == 0.0
    assert still.tables["scenario_summary"]["tail_probability"][0] == pytest.approx(1.0)


def test_a_budget_is_measured_against_the_loss_and_its_breach_is_said(
    loaded: LoadedUniverse,
) -> None:
    worse = "id: worse\n" + _body("{tier: grid, pure: -0.9, source: x}")
    table = stress_portfolios(loaded, ["planted_day"], texts={"worse.yaml": worse}).tables["stress"]
    budgeted = table.filter(pl.col("budget").is_not_null())
    assert set(budgeted["scenario_id"].to_list()) == {"planted_day"}
    assert set(budgeted["portfolio_id"].to_list()) == {"growth", "income", "soft"}
    np.testing.assert_array_equal(budgeted["measured_loss"].to_numpy(), -budgeted["pnl_frac"].to_numpy())
    assert (budgeted["breach"] == (budgeted["measured_loss"] > 0.08)).all()
    tight = {
        name: mandate.model_copy(update={"limits": _tight(mandate.limits)}) for name, mandate in loaded.mandates.items()
    }
    breached = stress_portfolios(replace(loaded, mandates=tight)).tables["stress"].filter("breach")
    assert breached["portfolio_id"].to_list() == ["growth", "income"]


def test_every_output_table_keeps_its_contract_and_is_sorted_by_its_key(result: StressResult) -> None:
    for name, frame in result.tables.items():
        admitted = admit(frame, name, "test")
        assert admitted.notices == () and admitted.frame.equals(frame), name
        assert frame.columns == list(CONTRACTS[name].columns), name


def test_a_scenario_that_is_wrong_does_not_stop_the_others(loaded: LoadedUniverse) -> None:
    wrong = "id: wrong\n" + _body("{factor: market, value: -0.1, source: x}\n  - {tier: chip, pure: 0.1, source: x}")
    both = stress_portfolios(loaded, ["planted_day"], texts={"wrong.yaml": wrong})
    assert both.tables["scenario_summary"]["scenario_id"].to_list() == ["planted_day"]
    assert both.refused == ("wrong.yaml:11:12: unknown tier 'chip'; did you mean 'chips'?",)


def test_one_row_a_portfolio_whatever_happens(loaded: LoadedUniverse) -> None:
    bad = (pl.col("portfolio_id") == "soft") & (pl.col("security_id") == "GAPPY")
    holdings = loaded.holdings.with_columns(pl.when(bad).then(np.nan).otherwise("quantity").alias("quantity"))
    idle = loaded.portfolios.filter(pl.col("portfolio_id") == "soft").with_columns(portfolio_id=pl.lit("idle"))
    changed = replace(loaded, holdings=holdings, portfolios=pl.concat([loaded.portfolios, idle]))
    tables = stress_portfolios(changed).tables
    status = dict(tables["portfolio_summary"].select("portfolio_id", "status").iter_rows())
    assert status == {
        "growth": "stress_only",
        "house": "stress_only",
        "idle": "empty",
        "income": "stress_only",
        "soft": "quarantined",
    }
    assert tables["stress"]["portfolio_id"].to_list() == ["growth", "house", "income"]
    untouched = stress_portfolios(loaded).tables["stress"].filter(pl.col("portfolio_id") == "growth")
    assert tables["stress"].filter(pl.col("portfolio_id") == "growth").equals(untouched)
    assert tables["exceptions"].select("code", "portfolio_id", "severity").rows() == [
        ("holdings.quantity.nan", "soft", "quarantine"),
        ("holdings.partial", "house", "warn"),
    ]


def test_volatility_contributions_and_the_specific_share_make_up_the_volatility(result: StressResult) -> None:
    summary = result.tables["portfolio_summary"].sort("portfolio_id")
    common = (
        result.tables["portfolio_exposures"].group_by("portfolio_id").agg(pl.col("volatility_contribution").sum())
    ).sort("portfolio_id")["volatility_contribution"]
    specific = summary["specific_share"] * summary["volatility"]
    np.testing.assert_allclose((common + specific).to_numpy(), summary["volatility"].to_numpy(), rtol=1e-12)


def test_the_bundled_books_lose_along_the_curve(bundled: LoadedUniverse) -> None:
    tables = stress_portfolios(bundled).tables
    loss = dict(tables["stress"].select("portfolio_id", "pnl_frac").iter_rows())
    assert loss["ai_infrastructure"] < loss["index_tracker"] < loss["dividend_income"] + 0.02
    assert set(tables["portfolio_exposures"]["factor"].to_list()) == set(bundled.model.factors.labels)
    shocks = dict(tables["shocks"].select("security_id", "total").iter_rows())
    assert shocks["VRT"] < -0.10 and shocks["NVDA"] < -0.08 and shocks["CRM"] > 0.0


def test_every_bundled_scenario_runs_on_every_bundled_book(bundled: LoadedUniverse) -> None:
    good, refused = bundled.library.everything()
    assert not refused
    result = stress_portfolios(bundled, list(good))
    assert result.refused == ()
    books, scenarios = result.tables["portfolio_summary"].height, len(good)
    assert result.tables["stress"].height == books * scenarios


def test_real_prices_reproduce_the_shipped_model(bundled: LoadedUniverse, real_prices: Path) -> None:
    model = engine.calibrate_model(str(real_prices), as_of=bundled.model.as_of).calibration.model
    assert model.securities == bundled.model.securities and model.factors == bundled.model.factors
    np.testing.assert_allclose(model.exposures, bundled.model.exposures, rtol=0.0, atol=1e-9)
    np.testing.assert_allclose(model.factor_covariance, bundled.model.factor_covariance, rtol=1e-9)
    np.testing.assert_allclose(model.specific_variance, bundled.model.specific_variance, rtol=1e-9)


def test_real_prices_of_the_deepseek_day_are_half_explained_from_the_day_before(real_prices: Path) -> None:
    scores = engine.backtest(str(real_prices), dt.date(2025, 1, 27)).scores
    assert scores["n"] > 400
    assert scores["r2"] >= 0.50
    assert scores["rank_correlation"] >= 0.50
    assert scores["r2_market_only"] < 0.10


def _body(view: str) -> str:
    head = "title: T\nversion: 1.0.0\nkind: shock\nhorizon_days: 1\nnarrative: n\nauthor: a\n"
    return f"{head}propagation: none\nviews:\n  - {view}\n"


def _tight(limits: Any) -> Any:
    budgets = tuple(budget.model_copy(update={"max_loss": 0.02}) for budget in limits.stress)
    return limits.model_copy(update={"stress": budgets})


def test_the_factors_of_the_model_are_those_of_the_market(calibration: Calibration) -> None:
    assert calibration.model.factors.labels == FACTORS


def test_the_odds_of_a_loss_are_the_t_s_from_the_printed_volatility(loaded: LoadedUniverse) -> None:
    month = "id: month\ntitle: T\nversion: 1.0.0\nkind: shock\nhorizon_days: 21\nnarrative: n\nauthor: a\n"
    month += "propagation: none\nviews:\n  - {factor: market, value: -0.05, source: x}\n"
    tables = stress_portfolios(loaded, ["planted_day"], texts={"month.yaml": month}).tables
    rows = (
        tables["stress"]
        .join(tables["portfolio_summary"], on="portfolio_id")
        .join(tables["scenario_summary"], on="scenario_id")
    )
    assert rows.height == 8
    tails = loaded.model.tails
    for row in rows.iter_rows(named=True):
        total, specific = row["volatility"] ** 2, row["specific_share"] * row["volatility"] ** 2
        variance = tails.factor_multiplier**2 * (total - specific) + tails.specific_multiplier**2 * specific
        narrower = scipy.stats.norm.ppf(0.9) / scipy.stats.t.ppf(0.9, tails.degrees)
        scale = np.sqrt(variance * row["horizon_days"] / 252) * narrower
        expected = scipy.stats.t.sf(-row["pnl_frac"] / scale, tails.degrees)
        assert row["loss_probability"] == pytest.approx(expected, rel=1e-9)


def test_a_book_without_risk_has_no_odds(loaded: LoadedUniverse, market: Market) -> None:
    holdings = make_holdings(market, {"idle": {}, "growth": {"CHIPS-0": 0.5}})
    changed = replace(loaded, holdings=holdings, portfolios=make_portfolios({"idle": None, "growth": None}, "careful"))
    odds = dict(stress_portfolios(changed).tables["stress"].select("portfolio_id", "loss_probability").iter_rows())
    assert odds["idle"] is None and 0.0 < odds["growth"] < 0.5
