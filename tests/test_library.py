"""The scenarios that ship: each is valid, tells its story, names its sources, and does what it says."""

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from engine.api.loading import LoadedUniverse
from engine.api.stressing import StressResult, stress_portfolios
from engine.documents import load_document
from engine.scenarios.drivers import respond
from engine.scenarios.kinds import KINDS, DriversBody, TreeBody
from engine.scenarios.scenario import Scenario
from engine.stress.outcome import unfold

FOLDER = Path(__file__).resolve().parent.parent / "universes" / "ai_curve" / "scenarios"
FILES = sorted(FOLDER.glob("*.yaml"))

PROMISED = {
    "deepseek", "deepseek_replay", "same_with_less", "more_with_the_same", "overreaction", "deepseek_tree",
    "training_gap", "lab_fold", "model_commoditisation", "price_war", "distillation", "chip_substitution",
    "power_down", "capex_acceleration", "inference_boom",
}  # fmt: skip

SIGNS = {
    "deepseek": "---+",
    "same_with_less": "--++",
    "more_with_the_same": "++++",
    "overreaction": "++++",
    "lab_fold": "----",
    "price_war": "---+",
    "power_down": "--+ ",
    "capex_acceleration": "++ +",
    "inference_boom": "++++",
    "model_commoditisation": "---+",
    "distillation": "--  ",
    "training_lull": "--++",
    "training_gap": "--++",
}
"""What the story says of chips, power, hyperscalers and software; a blank says nothing."""


@pytest.fixture(scope="module")
def library(bundled: LoadedUniverse) -> dict[str, Scenario]:
    good, refused = bundled.library.everything()
    assert not refused
    return good


@pytest.fixture(scope="module")
def stressed(bundled: LoadedUniverse, library: dict[str, Scenario]) -> StressResult:
    return stress_portfolios(bundled, list(library))


def tiers(bundled: LoadedUniverse, scenario: Scenario) -> dict[str, float]:
    """Total return of each tier."""
    moves = unfold(scenario, bundled.model, bundled.curve).factors
    at = [bundled.model.factors.labels.index(tier) for tier in bundled.curve.tiers.labels]
    return dict(zip(bundled.curve.tiers.labels, moves[at] + bundled.curve.beta * moves[0], strict=True))


def test_every_promised_scenario_is_there_under_the_name_of_its_file(library: dict[str, Scenario]) -> None:
    assert set(library) >= PROMISED
    assert {path.stem for path in FILES} == set(library)
    assert all(scenario.id == name for name, scenario in library.items())


def test_every_kind_is_covered_and_extensions_too(library: dict[str, Scenario]) -> None:
    assert {scenario.body.kind for scenario in library.values()} == set(KINDS)
    assert {scenario.body.kind for scenario in library.values() if scenario.body.extend} >= {"shock", "drivers"}


def numbers_without_source(value: Any, sourced: bool = False) -> list[Any]:
    """Every number below a mapping without a ``source`` beside it or above it."""
    if isinstance(value, dict):
        sourced = sourced or bool(str(value.get("source", "")).strip())
        return [found for part in value.values() for found in numbers_without_source(part, sourced)]
    if isinstance(value, tuple | list):
        return [found for part in value for found in numbers_without_source(part, sourced)]
    return [value] if isinstance(value, int | float) and not sourced else []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_number_has_a_source(path: Path) -> None:
    values = dict(load_document(path.read_text(), path.name).values)
    values.pop("horizon_days", None)
    assert numbers_without_source(values) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_story_is_told_in_two_to_six_sentences(path: Path) -> None:
    story = load_document(path.read_text(), path.name).values["narrative"]
    sentences = [part for part in story.replace("\n", " ").split(". ") if part.strip()]
    assert 2 <= len(sentences) <= 6


def test_no_line_of_prose_stands_in_two_scenarios() -> None:
    lines = [line.strip() for path in FILES for line in path.read_text().splitlines() if line.startswith("  ")]
    prose = [line for line in lines if not line.startswith(("-", "{")) and ":" not in line]
    assert len(prose) > 60 and len(set(prose)) == len(prose)


def test_only_what_describes_the_day_knows_it(library: dict[str, Scenario]) -> None:
    day = dt.date(2025, 1, 27)
    about = {name for name, scenario in library.items() if day in scenario.body.describes}
    assert about == {"deepseek", "deepseek_replay", "deepseek_two_days"}
    assert library["overreaction"].body.describes[0] == dt.date(2025, 1, 28)
    for name, scenario in library.items():
        text = (FOLDER / f"{name}.yaml").read_text()
        if not scenario.body.describes and name != "deepseek_tree":
            assert "2025-01-27" not in text and "2025-01-28" not in text


@pytest.mark.parametrize("name", sorted(SIGNS))
def test_the_tiers_move_the_way_the_story_says(
    bundled: LoadedUniverse, library: dict[str, Scenario], name: str
) -> None:
    moves = tiers(bundled, library[name])
    for sign, move in zip(SIGNS[name], moves.values(), strict=True):
        assert sign == " " or (move > 0.0) == (sign == "+"), moves


def test_the_chips_rotate_inside_their_tier(bundled: LoadedUniverse, library: dict[str, Scenario]) -> None:
    out = unfold(library["chip_substitution"], bundled.model, bundled.curve)
    total = dict(zip(bundled.model.securities.labels, out.total, strict=True))
    assert total["NVDA"] == pytest.approx(-0.20, abs=1e-9)
    assert (total["AVGO"] + total["MRVL"]) / 2.0 == pytest.approx(0.10, abs=1e-9)


def test_no_scenario_leaves_its_guard_rails_or_takes_more_than_everything(
    bundled: LoadedUniverse, library: dict[str, Scenario], stressed: StressResult
) -> None:
    summary = stressed.tables["scenario_summary"]
    assert summary.height == len(library) and not summary["outside_guard_rails"].any()
    assert not [notice for notice in stressed.notices if notice.code == "scenario.below_total_loss"]
    worst = stressed.tables["stress"]["pnl_frac"].min()
    assert isinstance(worst, float) and -0.25 < worst < -0.10


def test_thematic_books_lose_more_than_defensive_ones_where_chips_fall(stressed: StressResult) -> None:
    pnl = {(s, p): v for s, p, v in stressed.tables["stress"].select("scenario_id", "portfolio_id", "pnl_frac").rows()}
    for name in ("deepseek", "same_with_less", "lab_fold", "training_gap", "distillation_leapfrog"):
        assert pnl[name, "ai_infrastructure"] < pnl[name, "index_tracker"] < pnl[name, "dividend_income"] + 1e-3
    power = {book: value for (name, book), value in pnl.items() if name == "power_down"}
    assert min(power, key=lambda book: power[book]) == "power_and_grid"
    for name in ("inference_boom", "more_with_the_same", "capex_acceleration"):
        assert pnl[name, "ai_infrastructure"] > pnl[name, "dividend_income"]


def test_the_two_readings_of_cheaper_training_differ_by_the_elasticities_alone(library: dict[str, Scenario]) -> None:
    less, more = library["same_with_less"].body, library["more_with_the_same"].body
    assert isinstance(less, DriversBody) and isinstance(more, DriversBody)
    assert respond(less.demand, {}).demand == pytest.approx(0.557, abs=5e-4)
    assert less.demand.training_elasticity.value == 0.0 and more.demand.training_elasticity.value >= 1.0
    for name in ("training_share", "training_gain", "inference_gain"):
        assert getattr(less.demand, name) == getattr(more.demand, name)
    assert more.horizon_days == less.horizon_days and more.tiers["ai_semis"] == less.tiers["ai_semis"]


def test_every_tier_of_every_driver_scenario_is_inside_its_interval(library: dict[str, Scenario]) -> None:
    bodies = [scenario.body for scenario in library.values() if isinstance(scenario.body, DriversBody)]
    assert len(bodies) >= 5
    for body in bodies:
        out = respond(body.demand, body.tiers)
        assert out.demand_range[0] <= out.demand <= out.demand_range[1]
        for name, (low, high) in out.ranges.items():
            assert low - 1e-12 <= out.tiers[name] <= high + 1e-12, (body.id, name)


def test_the_weight_of_same_with_less_is_the_one_that_nvidia_s_day_implies(library: dict[str, Scenario]) -> None:
    body = library["deepseek_tree"].body
    assert isinstance(body, TreeBody)
    weight = {leaf.scenario: leaf.probability for leaf in body.leaves}
    assert weight["same_with_less"] == pytest.approx(-0.17 / (0.49 / 10.5 - 0.49), abs=5e-3)
    assert sum(weight.values()) == pytest.approx(1.0, abs=1e-12)
