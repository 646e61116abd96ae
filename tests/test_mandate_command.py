"""``engine mandates``: what a mandate allows in words, its schema, and every fault with its place."""

import json
from pathlib import Path

import pytest
from test_bad_mandates import EVERY_KEY
from test_mandates import FULL, HEAD
from test_stories import Captured, ran

from engine.api.mandating import check_mandates, load_rules, show_rules
from engine.mandates.mandate import Mandate, mandate_schema


def words(capsys: Captured, *arguments: str) -> list[str]:
    return [line.strip() for line in ran(capsys, 0, "mandates", *arguments)[0].splitlines()]


def test_the_bundled_mandates_are_sound(capsys: Captured) -> None:
    names = ("concentrated", "diversified", "index_tracker", "multi_asset", "power", "thematic")
    assert words(capsys, "validate") == [f"{name}: ok" for name in names]
    assert words(capsys, "validate", "power") == ["power: ok"]


def test_every_fault_of_every_file_is_told_with_its_place(tmp_path: Path, capsys: Captured) -> None:
    wrong, other = tmp_path / "m.yaml", tmp_path / "n.yaml"
    wrong.write_text(HEAD + "limits:\n  turnover: 3\n  stress:\n    - {scenario: depseek, max_loss: 0.05}\n")
    other.write_text(HEAD)
    out, err = ran(capsys, 78, "mandates", "validate", str(wrong), "thematic", str(other))
    assert out == "thematic: ok\n"
    assert err.splitlines() == [
        f"engine: {wrong}:5:13: turnover: input should be less than or equal to 2; found 3",
        f"{wrong}:7:18: unknown scenario 'depseek'; did you mean 'deepseek'?",
        f"{other}:1:1: holds mandate 'm'; file and id must agree",
    ]


def test_a_budget_for_another_horizon_than_its_scenario_is_a_fault(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(HEAD + "limits:\n  stress:\n    - {scenario: deepseek, max_loss: 0.05, horizon_days: 5}\n")
    err = ran(capsys, 78, "mandates", "validate", str(file))[1]
    assert "its budget on deepseek is for 5 trading days, the scenario runs 1" in err


def test_a_faulty_mandate_of_the_universe_does_not_hide_the_others(folder: Path) -> None:
    (folder / "mandates" / "m.yaml").write_text(HEAD + "limts: {}\n")
    answers = check_mandates(load_rules(str(folder)))
    assert answers["careful"] == ()
    assert answers["m"] == ("mandates/m.yaml:4:1: unknown key 'limts'; did you mean 'limits'?",)


def test_a_mandate_is_shown_in_the_words_of_the_desk(tmp_path: Path, capsys: Captured) -> None:
    assert words(capsys, "show", "diversified") == [
        "diversified  Diversified equity: at most 5 % on a DeepSeek day",
        "version 1.0.0; books: dividend_income, global_leaders, low_volatility, momentum_growth, quality_core, "
        "software_tilt",
        "a name: at most 12 %",
        "turnover, buys and sells: at most 30 %",
        "cash: at most 5 %",
        "tier ai_semis: at most 35 %",
        "tier electrical: at most 25 %",
        "under deepseek: loses at most 5 %",
        "risk aversion 10; costs of 10 bp where a name has no half-spread, spread over 1 year",
    ]
    file = tmp_path / "full.yaml"
    file.write_text(FULL.replace("max_loss: 0.1}", "max_loss: 0.1, kind: active}"))
    said = words(capsys, "show", str(file))
    for line in (
        "version 1.2.3; books: none",
        "AGG: 10 to 60 %",
        "cash: 1 to 10 %",
        "tier off_curve: at least 20 %",
        "under overreaction: loses at most 10 % more than the benchmark",
        "risk aversion 20; costs of 10 bp where a name has no half-spread, spread over 0.5 years",
        "may also buy AGG, NVDA",
    ):
        assert line in said


def test_a_mandate_as_json_is_read_back_as_the_same_mandate(capsys: Captured) -> None:
    document = json.loads(ran(capsys, 0, "mandates", "show", "power", "--format", "json")[0])
    assert Mandate.model_validate_json(json.dumps(document["mandate"])) == show_rules(load_rules(), "power")[0]
    assert document["portfolios"] == ["power_and_grid"]


def test_the_schema_names_every_key_of_a_mandate(capsys: Captured) -> None:
    schema = json.loads(ran(capsys, 0, "mandates", "schema")[0])
    assert schema == mandate_schema()
    assert set(schema["properties"]) == set(Mandate.model_fields)
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"id", "title", "version"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("show", "powr"), 2, "unknown mandate 'powr'; did you mean 'power'?"),
        (("validate", "none.yaml"), 65, "none.yaml"),
        (("validate", "a/m.yaml", "b/m.yaml"), 2, "a/m.yaml and b/m.yaml have one name; check them one at a time"),
    ],
)
def test_a_wrong_call_is_answered(capsys: Captured, arguments: tuple[str, ...], code: int, said: str) -> None:
    assert said in ran(capsys, code, "mandates", *arguments)[1]


def test_every_key_of_a_mandate_is_said_in_words(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "m.yaml").write_text(EVERY_KEY)
    said = words(capsys, "show", str(tmp_path / "m.yaml"))
    for line in (
        "net exposure: 50 % to 110 %",
        "tracking error: at most 6 % a year",
        "a name: at most 10 % above or below the benchmark",
        "active NVDA: -5 % to 5 %",
        "sector Utilities: at most 20 %",
        "factor market: 0.2 to 1.4",
        "a trade: at most 10 % of a day's volume; a name without one is traded freely",
        "may not hold TSLA",
        "may not trade GOOGL",
        "gives way, 5 first and 0 never: cash 0, tiers 2",
        "whole lots; no trade below 0.1 %; no position below 0.2 %",
    ):
        assert line in said
    assert not any("{" in line or "[" in line for line in said)
