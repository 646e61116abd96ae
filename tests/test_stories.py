"""``engine scenarios`` and what ``engine stress`` asks of scenarios: approvals, and replays from prices."""

import datetime as dt
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from market import Market

from engine.api.loading import LoadedUniverse, load_universe
from engine.api.replaying import observe_replays
from engine.api.stories import list_stories, load_stories, tell_story, what_if
from engine.api.stressing import StressTerms, stress_portfolios
from engine.cli.main import run
from engine.errors import CalibrationError, ConfigurationError, UsageError

Captured = pytest.CaptureFixture[str]

HEAD = """\
id: {id}
title: A story
version: 1.0.0
kind: {kind}
horizon_days: {days}
narrative: Something happens.
author: tests
"""

DRIVERS = (
    HEAD.format(id="economics", kind="drivers", days=63)
    + """\
propagation: conditional
demand:
  training_share: {value: 0.49, source: fact}
  training_gain: {value: 10.5, low: 10.0, high: 11.0, source: fact}
  inference_gain: {value: 1.0, source: fact}
  training_elasticity: {value: 0.0, source: judgement}
  inference_elasticity: {value: 1.0, source: judgement}
tiers:
  chips:
    theta: {value: 1.0, source: judgement}
    omega: {value: 0.5, low: 0.25, high: 0.75, source: judgement}
    relief: {value: 0.0, source: judgement}
"""
)

REPLAY = HEAD.format(id="again", kind="replay", days=2) + "days:\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A drivers scenario on the planted universe's tiers."""
    path = tmp_path / "economics.yaml"
    path.write_text(DRIVERS)
    return path


def ran(capsys: Captured, code: int, *arguments: str) -> tuple[str, str]:
    """stdout and stderr of a command that must end with ``code``."""
    capsys.readouterr()
    assert run(list(arguments)) == code, capsys.readouterr()
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return out, err


def test_the_library_is_listed_with_what_is_wrong_in_it(written: Path, tmp_path: Path) -> None:
    stories = load_stories(str(written))
    library, _ = stories.library.with_text("id: broken\nkind: hope\n", "broken.yaml")
    listed = list_stories(type(stories)(library, stories.model, stories.curve, stories.history, stories.settings))
    assert listed["scenario_id"].to_list() == ["broken", "planted_day"]
    assert "unknown kind 'hope'" in listed["faults"][0] and listed["faults"][1] is None
    assert listed["kind"].to_list() == [None, "shock"]


def test_a_story_says_what_it_does_to_the_curve(written: Path) -> None:
    stories = load_stories(str(written))
    story = tell_story(stories, "planted_day")
    beta = dict(zip(stories.curve.tiers.labels, stories.curve.beta, strict=True))
    totals = dict(story.response.select("subject", "total").iter_rows())
    assert totals["market"] == pytest.approx(-0.02, abs=1e-12)
    assert totals["chips"] == pytest.approx(-0.09 - 0.02 * beta["chips"], abs=1e-12)
    assert story.response["stated"].to_list() == pytest.approx(story.response["total"].to_list(), abs=1e-12)


def test_other_economics_answer_as_the_demand_model_says(written: Path) -> None:
    stories, _ = load_stories(str(written)).with_texts({"economics.yaml": DRIVERS})
    answer = what_if(stories, "economics", {"e_T": 0.5}, {"demand": -0.17})
    assert answer.before.demand == pytest.approx(0.557, abs=5e-4)
    assert answer.after.demand == pytest.approx(0.661, abs=5e-4)
    chips = answer.response.filter(pl.col("subject") == "chips").row(0, named=True)
    assert chips["before"] == pytest.approx(answer.before.demand**0.5 - 1.0, abs=1e-9)
    assert chips["after"] == pytest.approx(answer.after.demand**0.5 - 1.0, abs=1e-9)
    assert chips["low"] < chips["after"] < chips["high"]
    assert answer.weights["weight"].to_list() == pytest.approx([0.38, 0.82], abs=5e-3)
    assert answer.weights["alternative"].to_list() == ["unchanged", "Jevons at 1.5"]


@pytest.mark.parametrize(
    ("changes", "observed", "words"),
    [
        ({"e_Q": 0.5}, {}, "--set: unknown driver 'e_Q'; did you mean 'e_T'?"),
        ({"e_T": -1.0}, {}, "training_elasticity is an elasticity of demand, 0 to 5; found -1 to -1"),
        ({"s_T": 1.5}, {}, "training_share is a share of demand, 0 to 1"),
        ({"g_T": 0.0}, {}, "training_gain is work per unit of compute"),
        ({}, {"grid": -0.1}, "--observed: the drivers move demand, chips; found 'grid'"),
        ({"g_T": 1.0}, {"demand": -0.1}, "both readings predict the same move"),
    ],
)
def test_economics_that_cannot_be_are_refused(
    written: Path, changes: dict[str, float], observed: dict[str, float], words: str
) -> None:
    stories, _ = load_stories(str(written)).with_texts({"economics.yaml": DRIVERS})
    with pytest.raises(UsageError) as caught:
        what_if(stories, "economics", changes, observed)
    assert words in str(caught.value)


def test_a_shock_has_no_economics(written: Path) -> None:
    with pytest.raises(UsageError, match="scenario planted_day is of kind shock; only kind drivers has economics"):
        what_if(load_stories(str(written)), "planted_day", {})


def test_every_command_of_the_group_answers(written: Path, file: Path, capsys: Captured) -> None:
    universe = ("--universe", str(written))
    assert "planted_day" in ran(capsys, 0, "scenarios", "list", *universe)[0]
    listed = json.loads(ran(capsys, 0, "scenarios", "list", *universe, "--format", "json")[0])
    assert [row["kind"] for row in listed["scenarios"]] == ["shock"]
    out = ran(capsys, 0, "scenarios", "show", str(file), *universe)[0]
    assert "training_gain" in out and "10 to 11" in out and "not approved" in out
    shown = json.loads(ran(capsys, 0, "scenarios", "show", "planted_day", *universe, "--format", "json")[0])
    assert shown["scenario"]["id"] == "planted_day" and len(shown["sha256"]) == 64
    assert ran(capsys, 0, "scenarios", "validate", str(file), "planted_day", *universe)[0].splitlines() == [
        "economics: ok",
        "planted_day: ok",
    ]
    schema = json.loads(ran(capsys, 0, "scenarios", "schema")[0])
    kinds = {
        definition["properties"]["kind"]["const"]
        for definition in schema["$defs"].values()
        if "kind" in definition.get("properties", {})
    }
    assert kinds == {"shock", "replay", "drivers", "tree", "path"}
    rows = json.loads(ran(capsys, 0, "scenarios", "diff", "planted_day", str(file), *universe, "--format", "json")[0])[
        "differences"
    ]
    assert {"place": "kind", "one": "shock", "other": "drivers"} in rows
    assert {"place": "views[tier chips].pure", "one": "-0.09", "other": None} in rows
    assert "say the same" in ran(capsys, 0, "scenarios", "diff", "planted_day", "planted_day", *universe)[0]
    out = ran(capsys, 0, "scenarios", "drivers", str(file), "--set", "e_T=1", "--observed", "chips=-0.1", *universe)[0]
    assert "now 1.000" in out and "weight" in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("show", "planted"), 2, "unknown scenario 'planted'; did you mean 'planted_day'?"),
        (("show", "none.yaml"), 65, "none.yaml"),
        (("drivers", "planted_day", "--set", "e_T"), 2, "--set 'e_T': write NAME=NUMBER, e.g. e_T=0.5"),
        (("drivers", "planted_day", "--set", "e_T=nan"), 2, "write NAME=NUMBER"),
        (("drivers", "planted_day", "--set", "e_T=1", "--set", "e_T=2"), 2, "--set names e_T twice"),
    ],
)
def test_a_wrong_call_of_the_group_is_answered(
    written: Path, capsys: Captured, arguments: tuple[str, ...], code: int, words: str
) -> None:
    assert words in ran(capsys, code, "scenarios", *arguments, "--universe", str(written))[1]


def test_a_wrong_file_is_refused_with_its_line(written: Path, file: Path, capsys: Captured) -> None:
    file.write_text(DRIVERS.replace("  chips:", "  chip:"))
    out, err = ran(capsys, 78, "scenarios", "validate", "planted_day", str(file), "--universe", str(written))
    assert out == "planted_day: ok\n"
    assert f"{file}:" in err and "unknown tier 'chip'; did you mean 'chips'?" in err


def approved(loaded: LoadedUniverse, *lines: str) -> tuple[str, ...]:
    """What a run that asks for approval refuses of a story made of an approved day and a tree around it."""
    day = HEAD.format(id="day", kind="shock", days=1) + "propagation: none\nviews:\n"
    day += "  - {tier: chips, pure: -0.05, source: judgement}\n" + "".join(f"{line}\n" for line in lines)
    tree = HEAD.format(id="either", kind="tree", days=1) + "approved_by: risk committee\nleaves:\n"
    tree += "  - {scenario: day, probability: 0.5, source: judgement}\n"
    tree += "  - {scenario: planted_day, probability: 0.5, source: judgement}\n"
    terms = StressTerms(require_approved=True)
    try:
        return stress_portfolios(loaded, texts={"day.yaml": day, "either.yaml": tree}, terms=terms).refused
    except ConfigurationError as error:
        return error.faults


def test_only_approved_stories_run_where_approval_is_asked_for(written: Path) -> None:
    loaded = load_universe(str(written))
    lacking = "scenario planted_day is not approved; approved_by is empty"
    assert approved(loaded) == ("scenario day is not approved; approved_by is empty", lacking)
    assert approved(loaded, "approved_by: risk committee") == (lacking,)
    late = approved(loaded, "approved_by: risk committee", "valid_until: 2000-01-01")
    assert late[0].startswith("scenario day was approved until 2000-01-01, before ") and late[1] == lacking


def test_a_replay_takes_the_names_own_returns_from_prices(written: Path, market: Market, tmp_path: Path) -> None:
    prices = tmp_path / "prices.parquet"
    market.prices.write_parquet(prices)
    loaded = load_universe(str(written))
    dates = market.prices["date"].unique().sort()
    days = [day for day in dates if day <= market.as_of][-2:]
    text = REPLAY + "".join(f"  - {{date: {day}, source: prices}}\n" for day in days)
    observed, source, _ = observe_replays(loaded, [], {"again.yaml": text}, str(prices))
    assert list(observed) == days and source.path == prices
    result = stress_portfolios(loaded, texts={"again.yaml": text}, terms=StressTerms(observed=observed))
    closes = market.prices.sort("security_id", "date").filter(
        pl.col("date").is_in([*dates.filter(dates < days[0])[-1:], days[1]])
    )
    real = closes.group_by("security_id").agg(
        (pl.col("close").last() / pl.col("close").first() - 1.0).alias("real"), pl.len()
    )
    both = result.tables["shocks"].join(real.filter(pl.col("len") == 2), on="security_id")
    assert both.height > 40
    np.testing.assert_allclose(both["total"], both["real"], rtol=0.0, atol=1e-12)
    bands = result.tables["stress"].select((pl.col("band_high") - pl.col("band_low")).abs().max()).item()
    assert bands <= 1e-12


def test_a_replay_without_data_says_so(written: Path, market: Market, tmp_path: Path) -> None:
    prices = tmp_path / "prices.parquet"
    market.prices.write_parquet(prices)
    loaded = load_universe(str(written))
    text = HEAD.format(id="again", kind="replay", days=1) + "days:\n  - {date: 1999-12-31, source: prices}\n"
    with pytest.raises(ConfigurationError, match="1999-12-31 carries no returns of the market and the tiers"):
        stress_portfolios(loaded, texts={"again.yaml": text})
    with pytest.raises(CalibrationError, match="no price on or before 1999-12-31"):
        observe_replays(loaded, [], {"again.yaml": text}, str(prices))
    sunday = next(day for day in (market.as_of - dt.timedelta(n) for n in range(7)) if day.weekday() == 6)
    with pytest.raises(CalibrationError, match=f"{sunday} is not a trading day of these prices"):
        observe_replays(loaded, [], {"again.yaml": text.replace("1999-12-31", str(sunday))}, str(prices))
    with pytest.raises(UsageError, match="--prices: none of the scenarios replays a day"):
        observe_replays(loaded, ["planted_day"], {}, str(prices))
