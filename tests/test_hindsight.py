"""Hindsight: the library on the days it describes and on days it does not, against the back-test."""

import datetime as dt
import io
from pathlib import Path

import polars as pl
import pytest
from market import Market
from rich.console import Console

import engine
from engine.api.hindsight import ScoredLibrary
from engine.contracts import CONTRACTS
from engine.curve.universe import Universe
from engine.desk.scores import show_hindsight
from engine.errors import CalibrationError, UsageError
from engine.intake import admit
from engine.scenarios.library import read_scenario
from engine.stress.backtest import Rules, Told, backtest_event
from engine.stress.hindsight import Hindsight, Story, Trial, score_stories

TEXT = """\
id: {id}
title: Planted
version: 1.0.0
kind: shock
horizon_days: {days}
narrative: What was planted.
author: tests
propagation: none
views:
  - {{factor: market, value: -0.02, source: planted}}
  - {{tier: chips, pure: -0.09, source: planted}}
  - {{tier: grid, pure: -0.15, source: planted}}
  - {{tier: apps, pure: 0.04, source: planted}}
"""

SCORES = ("r2", "gain", "rank_correlation", "sign_accuracy", "band_coverage")


def told(days: int = 1) -> Told:
    return Told(scenario=read_scenario(TEXT.format(id="planted", days=days), "planted.yaml", {}))


def calendar(market: Market) -> list[dt.date]:
    return market.prices["date"].unique().sort().to_list()


@pytest.fixture(scope="module")
def stories(market: Market, universe: Universe) -> list[Story]:
    return [
        Story("scenario:planted", told(), (market.event_date,)),
        Story("baskets", Told.baskets(universe), (market.event_date,)),
        Story("observed:market,chips", Told(("market", "chips"), "conditional"), (market.event_date,)),
    ]


@pytest.fixture(scope="module")
def scored(market: Market, universe: Universe, stories: list[Story]) -> Hindsight:
    return score_stories(market.prices, universe, stories, trial=Trial(0.8, 4, seed=3))


def test_every_score_is_that_of_the_back_test_of_the_day(
    market: Market, universe: Universe, stories: list[Story], scored: Hindsight
) -> None:
    for story in stories:
        for row in scored.days.filter(pl.col("shock") == story.shock).iter_rows(named=True):
            rules = Rules(story.told, 0.8, 3)
            one = backtest_event(market.prices, universe, event_date=row["event_date"], rules=rules)
            ours = {**one.scores, **one.figures}
            assert all(row[name] == pytest.approx(ours[name], abs=1e-12) for name in (*SCORES, "r2_market_only"))
            assert row["model_as_of"] == one.as_of and row["n"] == one.scores["n"]


def test_the_planted_story_is_told_from_ordinary_days(market: Market, scored: Hindsight) -> None:
    own = scored.days.filter(pl.col("shock") == "scenario:planted")
    event = own.row(by_predicate=pl.col("kind") == "event", named=True)
    assert event["event_date"] == market.event_date and event["r2"] > 0.8 and event["sign_accuracy"] > 0.8
    assert own.filter(pl.col("kind") == "control")["gain"].max() < 0.0 < event["gain"]  # type: ignore[operator]
    assert scored.controls["scenario:planted"]["r2"] < 0.0


def test_the_controls_are_common_drawn_with_the_seed_and_before_the_event(
    market: Market, universe: Universe, stories: list[Story], scored: Hindsight
) -> None:
    controls = scored.days.filter(pl.col("kind") == "control")
    days = {shock[0]: set(rows["event_date"]) for shock, rows in controls.group_by("shock")}
    assert len(days) == 3 and all(drawn == days["baskets"] and len(drawn) == 4 for drawn in days.values())
    assert max(days["baskets"]) < market.event_date
    again = score_stories(market.prices, universe, stories[:1], trial=Trial(0.8, 4, seed=3))
    assert again.days.equals(scored.days.filter(pl.col("shock") == "scenario:planted"))
    other = score_stories(market.prices, universe, stories[:1], trial=Trial(0.8, 4, seed=4))
    assert set(other.days["event_date"]) != set(again.days["event_date"])


def test_the_median_of_the_controls_is_that_of_the_table(scored: Hindsight) -> None:
    for shock, medians in scored.controls.items():
        rows = scored.days.filter((pl.col("shock") == shock) & (pl.col("kind") == "control"))
        assert medians == {name: rows[name].median() for name in SCORES}


def test_the_tiers_that_were_not_stated_have_an_error(scored: Hindsight) -> None:
    event = pl.col("kind") == "event"
    two = scored.tiers.filter(event & (pl.col("shock") == "observed:market,chips"))
    left = two.filter(~pl.col("stated"))
    assert sorted(left["tier"]) == ["apps", "grid"]
    row = scored.days.row(by_predicate=event & (pl.col("shock") == "observed:market,chips"), named=True)
    assert row["tier_error"] == pytest.approx((left["predicted"] - left["realised"]).abs().mean(), abs=1e-15)
    assert scored.days.filter(pl.col("shock") == "baskets")["tier_error"].is_null().all()


def test_the_tables_keep_their_contracts(scored: Hindsight) -> None:
    for name, frame in (("hindsight", scored.days), ("hindsight_tiers", scored.tiers)):
        admit(frame, name, "tests")
        assert frame.equals(frame.sort(CONTRACTS[name].key))


def test_days_after_the_horizon_have_no_say(market: Market, universe: Universe) -> None:
    days = calendar(market)
    story = [Story("scenario:planted", told(3), tuple(days[-20:-17]))]
    whole = score_stories(market.prices, universe, story, trial=Trial(0.8, 0))
    assert whole.days["event_date"].to_list() == [days[-20]] and whole.controls == {}
    cut = market.prices.filter(pl.col("date") <= days[-18])
    assert score_stories(cut, universe, story, trial=Trial(0.8, 0)).days.equals(whole.days)


def test_a_story_is_scored_again_after_its_horizon(market: Market, universe: Universe) -> None:
    days = calendar(market)
    about = (days[-30], days[-29], days[-28], days[-10])
    result = score_stories(market.prices, universe, [Story("s", told(2), about)], trial=Trial(0.8, 0))
    assert result.days["event_date"].to_list() == [days[-30], days[-28], days[-10]]


def test_no_control_reaches_into_the_event(market: Market, universe: Universe) -> None:
    days = calendar(market)
    at = days.index(market.event_date) - 4
    story = [Story("s", told(5), (days[at],))]
    result = score_stories(market.prices, universe, story, trial=Trial(0.8, 30, seed=1))
    controls = result.days.filter(pl.col("kind") == "control")["event_date"]
    assert all(days.index(day) + 4 < at for day in controls)


def test_days_that_the_prices_do_not_have_are_set_aside(market: Market, universe: Universe) -> None:
    later = market.event_date + dt.timedelta(days=400)
    stories = [Story("old", told(), (market.event_date,)), Story("new", told(), (later,))]
    result = score_stories(market.prices, universe, stories, trial=Trial(0.8, 0))
    (notice,) = [notice for notice in result.notices if notice.code == "hindsight.day"]
    assert notice.message == f"new describes {later}, which is no trading day of these prices"
    with pytest.raises(CalibrationError, match=f"nothing to score: new describes {later}"):
        score_stories(market.prices, universe, stories[1:], trial=Trial(0.8, 0))
    with pytest.raises(CalibrationError, match="no day that is described can be scored; new is not scored on"):
        score_stories(market.prices, universe, [Story("new", told(9), (market.event_date,))], trial=Trial(0.8, 0))
    with pytest.raises(CalibrationError, match="can be controls, 9999 were asked; ask for fewer"):
        score_stories(market.prices, universe, stories[:1], trial=Trial(0.8, 9999))


def test_a_library_is_scored_from_its_folder(folder: Path, market: Market) -> None:
    path = folder / "scenarios" / "planted_day.yaml"
    path.write_text(path.read_text().replace("author: tests", f"author: tests\ndescribes: [{market.event_date}]"))
    settings = folder / "universe.yaml"
    settings.write_text(settings.read_text().replace('"scenario": "deepseek"', '"scenario": "planted_day"'))
    (folder / "scenarios" / "torn.yaml").write_text("id: [1")
    result = engine.score_library(str(folder / "prices.parquet"), universe=str(folder), controls=2)
    shocks = result.tables["hindsight"]["shock"].unique().sort().to_list()
    assert shocks == ["baskets", "observed:market,chips", "scenario:planted_day"]
    assert [notice.code for notice in result.notices if "scenario" in notice.code] == ["scenario.refused"]
    shown = printed(result)
    assert "scenario:planted_day" in shown and "controls" in shown and "tier not stated" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_library_that_describes_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"no scenario says which days it describes; write describes: \[DATE\]"):
        engine.score_library(str(folder / "prices.parquet"), universe=str(folder))
    with pytest.raises(UsageError, match="--controls -1 is negative"):
        engine.score_library(str(folder / "prices.parquet"), universe=str(folder), controls=-1)


def printed(result: ScoredLibrary) -> str:
    page = io.StringIO()
    show_hindsight(Console(file=page, width=80, highlight=False), result.tables, result.controls)
    return page.getvalue()


def test_real_prices_tell_the_library_s_stories_from_ordinary_days(real_prices: Path) -> None:
    result = engine.score_library(str(real_prices), controls=3)
    event = {row["shock"]: row for row in result.tables["hindsight"].filter(kind="event").iter_rows(named=True)}
    assert event["scenario:deepseek"]["r2"] >= 0.50 and event["scenario:deepseek_replay"]["r2"] >= 0.50
    assert event["observed:market,ai_semis"]["r2"] >= 0.35
    assert event["observed:market,ai_semis"]["tier_error"] < 0.08
    for shock, row in event.items():
        assert row["gain"] > max(0.0, result.controls[shock]["gain"]), shock
