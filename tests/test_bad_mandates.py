"""Mandates that are wrong: each fault named with file, line, column and limit, none published, nothing crashes."""

import random
import re
from pathlib import Path

import pytest
from test_mandates import FULL, HEAD
from test_stories import Captured, ran

from engine.api.mandating import Rules, check_mandates, load_rules, show_rules
from engine.cli.main import run
from engine.documents import MAX_CHARACTERS, MAX_FAULTS
from engine.errors import ConfigurationError
from engine.mandates.costs import Costs
from engine.mandates.lots import Lots
from engine.mandates.mandate import LimitSet, Mandate

PLACE = re.compile(r"^(engine: )?[^\n:]*m\.yaml:[1-9]\d*:[1-9]\d*: \S")

WRONG = {
    "unknown key": ("limits:\n  turnovr: 0.1\n", "5:12: unknown key 'turnovr'; did you mean 'turnover'?"),
    "unknown key at the top": ("limts: {}\n", "4:1: unknown key 'limts'; did you mean 'limits'?"),
    "no number": ("limits:\n  turnover: lots\n", "5:13: turnover: input should be a valid number; found 'lots'"),
    "text for a number": (
        "limits:\n  turnover: '0.3'\n",
        "5:13: turnover: input should be a valid number; found '0.3'",
    ),
    "a missing limit": ("limits:\n  stress:\n    - {scenario: deepseek}\n", "6:7: missing key 'max_loss'"),
    "lower above upper": (
        "limits:\n  cash: {min: 0.2, max: 0.1}\n",
        "5:3: min 0.2 is above max 0.1; no portfolio can keep both",
    ),
    "a negative cap": (
        "limits:\n  max_weight: -0.1\n",
        "5:15: max_weight: input should be greater than 0; found -0.1",
    ),
    "a negative turnover": (
        "limits:\n  turnover: -0.1\n",
        "5:13: turnover: input should be greater than or equal to 0; found -0.1",
    ),
    "percent for a fraction": (
        "limits:\n  max_weight: 15\n",
        "5:15: max_weight: input should be less than or equal to 1; found 15",
    ),
    "not a number": ("limits:\n  turnover: .nan\n", "5:13: turnover: input should be a finite number; found nan"),
    "infinite": ("limits:\n  turnover: .inf\n", "5:13: turnover: input should be a finite number; found inf"),
    "infinite downwards": (
        "limits:\n  turnover: -.inf\n",
        "5:13: turnover: input should be a finite number; found -inf",
    ),
    "too large to be finite": ("limits:\n  turnover: 1e999\n", "5:13: turnover: input should be"),
    "a key twice": ("limits:\n  turnover: 0.1\n  turnover: 0.2\n", "6:3: not valid YAML: found duplicate key"),
    "an alias": ("limits: &a {}\ncosts: *a\n", "4:9: anchors and aliases are not read; write the value out"),
    "a tag": ("limits: !!python/object:os.system {}\n", "4:9: the tag"),
    "nested too deeply": ("limits: " + "[" * 25 + "]" * 25 + "\n", "4:28: nested deeper than 20 levels"),
    "a tab": ("limits:\n\tturnover: 0.1\n", "5:1: not valid YAML: found character '\\t' that cannot start any token"),
    "an unknown tier": (
        "limits:\n  tiers: {ai_semi: {max: 0.1}}\n",
        "unknown tier 'ai_semi'; did you mean 'ai_semis'?",
    ),
    "an unknown sector": (
        "limits:\n  sectors: {Utility: {max: 0.1}}\n",
        "unknown sector 'Utility'; did you mean 'Utilities'?",
    ),
    "an unknown factor": (
        "limits:\n  factors: {markt: {max: 0.1}}\n",
        "unknown factor 'markt'; did you mean 'market'?",
    ),
    "an unknown name": ("limits:\n  excluded: [NVDAA]\n", "unknown security 'NVDAA'; did you mean 'NVDA'?"),
    "an unknown scenario": (
        "limits:\n  stress:\n    - {scenario: depseek, max_loss: 0.1}\n",
        "6:18: unknown scenario 'depseek'; did you mean 'deepseek'?",
    ),
    "two budgets for one scenario": (
        "limits:\n  stress:\n    - {scenario: deepseek, max_loss: 0.1}\n    - {scenario: deepseek, max_loss: 0.2}\n",
        "two budgets for deepseek; keep one",
    ),
    "minima beyond all there is": (
        "limits:\n  weights: {AGG: {min: 0.6}, TLT: {min: 0.6}}\n",
        "the minimum weights and cash sum to 1.2 of NAV; at most 1 can be held",
    ),
    "excluded and not to be sold": (
        "limits:\n  excluded: [NVDA]\n  no_sell: [NVDA]\n",
        "NVDA: in excluded, which sells it, and in no_sell; keep one",
    ),
    "another horizon": (
        "limits:\n  stress:\n    - {scenario: deepseek, max_loss: 0.1, horizon_days: 5}\n",
        "6:57: its budget on deepseek is for 5 trading days, the scenario runs 1; state the same horizon in both",
    ),
}


@pytest.fixture(scope="module")
def rules() -> Rules:
    """The bundled vocabulary."""
    return load_rules()


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_mandate_is_named_with_file_line_column_and_limit(fault: str, tmp_path: Path, capsys: Captured) -> None:
    text, words = WRONG[fault]
    path = tmp_path / "m.yaml"
    path.write_text(HEAD + text)
    out, err = ran(capsys, ConfigurationError.exit_code, "mandates", "validate", str(path))
    assert out == "" and "Traceback" not in err
    first = err.splitlines()[0]
    assert PLACE.match(first), first
    assert words in first


def faults_of(rules: Rules, text: str) -> tuple[str, ...]:
    """Every fault of a mandate of this text."""
    return check_mandates(rules.with_texts({"m.yaml": HEAD + text}), ["m"])["m"]


def test_every_unknown_name_is_told_at_once_with_its_own_place_beside_the_other_faults(rules: Rules) -> None:
    text = (
        "limits:\n  tiers:\n    ai_semi: {max: 0.1}\n    electricl: {max: 0.2}\n    software: {min: 0.5, max: 0.1}\n"
        "  excluded: [NVDA, NVDAA, GOOGLE]\nalpha: {NVDIA: 0.1}\n"
    )
    assert faults_of(rules, text) == (
        "m.yaml:6:5: unknown tier 'ai_semi'; did you mean 'ai_semis'?",
        "m.yaml:7:5: unknown tier 'electricl'; did you mean 'electrical'?",
        "m.yaml:8:5: min 0.5 is above max 0.1; no portfolio can keep both",
        "m.yaml:9:20: unknown security 'NVDAA'; did you mean 'NVDA'?",
        "m.yaml:9:27: unknown security 'GOOGLE'; did you mean 'GOOGL'?",
        "m.yaml:10:9: unknown security 'NVDIA'; did you mean 'NVDA'?",
    )


def test_a_flood_of_faults_is_counted_and_not_all_told(rules: Rules) -> None:
    faults = faults_of(rules, "".join(f"k{i}: 1\n" for i in range(20_000)))
    assert len(faults) == MAX_FAULTS + 1
    assert faults[-1] == "m.yaml:53:6: and 19,950 more faults; mend these first"


LONG = {
    "digits without end": ("9" * 5000, "5:13: not valid YAML: Exceeds the limit (4300 digits)"),
    "hexadecimal digits without end": ("0x" + "f" * 5000, "; found an integer of 20,000 bits"),
    "many digits": ("9" * 400, "; found an integer of 1,329 bits"),
    "a long text": ("x" * 100_000, "; found 'xxx"),
}


@pytest.mark.parametrize("fault", LONG)
def test_a_value_without_end_is_refused_in_few_words(fault: str, rules: Rules) -> None:
    value, words = LONG[fault]
    (told,) = faults_of(rules, f"limits:\n  turnover: {value}\n")
    assert told.startswith("m.yaml:5:13: ") and words in told and len(told) < 200


def test_a_key_that_is_no_text_has_its_place(rules: Rules) -> None:
    for key in ("~", "2020-01-01", ".nan", "7", "true"):
        (told,) = faults_of(rules, f"limits: {{}}\n{key}: 2\n")
        assert re.match(r"m\.yaml:5:[1-9]\d*: .*keys should be strings", told), told


def test_a_number_without_end_in_place_of_a_mandate_is_refused(rules: Rules) -> None:
    text = "0x" + "f" * 5000
    (told,) = check_mandates(rules.with_texts({"m.yaml": text}), ["m"])["m"]
    assert told == "m.yaml:1:1: expected keys and values, found an integer of 20,000 bits"


FILES = {
    "a byte order mark": (b"\xef\xbb\xbf" + HEAD.encode(), "1:1: not plain UTF-8"),
    "UTF-16": (HEAD.encode("utf-16"), "1:1: not plain UTF-8"),
    "latin-1": ((HEAD + "# gr\xf6\xdfer\n").encode("latin-1"), "1:1: not plain UTF-8"),
    "a NUL": ((HEAD + "# \x00\n").encode(), "1:1: not plain UTF-8"),
    "empty": (b"", "1:1: expected keys and values, found nothing"),
    "a list": (b"- a\n", "1:1: expected keys and values, found a list"),
    "too long": ((HEAD + "#" * MAX_CHARACTERS).encode(), "at most 1,000,000 are read"),
    "open bracket": (HEAD.encode() + b"limits: {turnover: 0.1\n", "not valid YAML"),
}


@pytest.mark.parametrize("fault", FILES)
def test_a_file_that_is_no_mandate_is_refused_with_its_place(fault: str, tmp_path: Path, capsys: Captured) -> None:
    content, words = FILES[fault]
    path = tmp_path / "m.yaml"
    path.write_bytes(content)
    err = ran(capsys, 78, "mandates", "validate", str(path))[1]
    assert PLACE.match(err) and words in err and "Traceback" not in err


@pytest.mark.parametrize("fault", ["unknown key", "lower above upper", "not a number", "a negative cap", "a tag"])
def test_a_wrong_mandate_stops_a_rebalance_before_anything_is_written(
    fault: str, folder: Path, capsys: Captured
) -> None:
    (folder / "mandates" / "m.yaml").write_text(HEAD + WRONG[fault][0])
    assert run(["rebalance", "--universe", str(folder), "--out", str(folder / "out")]) == 78
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    assert re.match(r"engine: mandates/m\.yaml:\d+:\d+: ", err)
    assert not (folder / "out").exists()


def test_a_horizon_that_differs_stops_a_rebalance_with_its_place(folder: Path, capsys: Captured) -> None:
    path = folder / "mandates" / "careful.yaml"
    path.write_text(path.read_text().replace("max_loss: 0.08", "max_loss: 0.08, horizon_days: 3"))
    assert run(["rebalance", "--universe", str(folder), "--out", str(folder / "out")]) == 78
    err = capsys.readouterr().err
    assert err.startswith("engine: mandates/careful.yaml:7:61: its budget on planted_day is for 3 trading days")
    assert not (folder / "out").exists()


# Generated faults.

SOUND = FULL.replace("id: full", "id: m")

EVERY_KEY = """\
id: m
title: Every key that a mandate knows
version: 2.0.0
objective: mean_variance
risk_aversion: 5
alpha: {NVDA: 0.02, AGG: -0.01}
limits:
  max_weight: 0.15
  weights: {AGG: {min: 0.0, max: 0.6}}
  max_short: 0.05
  gross: 1.5
  net: {min: 0.5, max: 1.1}
  concentration: [{largest: 10, max: 0.6}, {largest: 1, max: 0.1}]
  max_active_weight: 0.1
  active_weights: {NVDA: {min: -0.05, max: 0.05}}
  turnover: 0.30
  participation: {max_share: 0.1, unknown_volume: allow}
  tracking_error: 0.06
  cash: {min: 0.01, max: 0.10}
  tiers: {ai_semis: {max: 0.35}}
  active_tiers: {software: {min: -0.1, max: 0.1}}
  sectors: {Utilities: {max: 0.2}}
  active_sectors: {Energy: {min: -0.1, max: 0.1}}
  factors: {market: {min: 0.2, max: 1.4}}
  active_factors: {ai_semis: {min: -0.2, max: 0.2}}
  stress:
    - {scenario: deepseek, max_loss: 0.07, kind: absolute, horizon_days: 1, robust: 0.9}
    - {scenario: overreaction, max_loss: 0.1, kind: active}
  shortfall:
    - {scenario: deepseek_tree, level: 0.9, max_loss: 0.2}
  excluded: [TSLA]
  no_buy: [AMD]
  no_sell: [MSFT]
  frozen: [GOOGL]
  priorities: {tiers: 2, cash: 0}
costs:
  {half_spread_bps: 10, holding_years: 0.5, impact: 1, unknown_volume_base: 5.0e+5, borrow_bps: 50,
   borrow_bps_of: {TSLA: 300}}
lots: {round: lots, min_trade: 0.001, min_position: 0.002, exact: false}
buy_list: [NVDA, AGG]
"""

PIECES = (
    ".nan", "-.inf", "1e999", "-1", "1e308", "'0.1'", "null", "[]", "{}", "&a 1", "*a", "!!int 3", "<<: {a: 1}",
    "\t", ": ", "- ", "{", "]", "\"", "'", "#", "|", "%YAML 1.1", "---", "...", "0x1F", "2025-13-01", "yes", "~",
    "\u202e", "\u0000", "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), "NVDA", "  ", "\n", "\r",
)  # fmt: skip


def spoilt(text: str, rng: random.Random) -> str:
    """A mandate with one to four pieces put in, cut out, doubled or swapped."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        to = min(len(text), at + rng.randint(1, 12))
        lines = text.splitlines(keepends=True)
        line = rng.randrange(len(lines)) if lines else 0
        match rng.randrange(6):
            case 0:
                text = text[:at] + rng.choice(PIECES) + text[at:]
            case 1:
                text = text[:at] + text[to:]
            case 2:
                text = text[:at] + rng.choice(PIECES) + text[to:]
            case 3:
                text = "".join([*lines[:line], *lines[line : line + 1], *lines[line:]])
            case 4:
                text = "".join([*lines[:line], *lines[line + 1 :]])
            case _:
                text = "".join(rng.sample(lines, len(lines)))
    return text


def check_generated(rules: Rules, seed: int) -> bool:
    """True where the text is refused; then every fault has its place."""
    text = spoilt((SOUND, EVERY_KEY)[seed % 2], random.Random(seed))  # noqa: S311 - faults, not secrets
    (faults,) = check_mandates(rules.with_texts({"m.yaml": text}), ["m"]).values()
    for fault in faults:
        assert re.match(r"m\.yaml:[1-9]\d*:[1-9]\d*: \S", fault), (seed, fault)
    return bool(faults)


def test_the_mandates_that_are_spoilt_are_sound_and_say_every_key(rules: Rules) -> None:
    for text in (SOUND, EVERY_KEY):
        assert check_mandates(rules.with_texts({"m.yaml": text}), ["m"]) == {"m": ()}
    mandate = show_rules(rules.with_texts({"m.yaml": EVERY_KEY}), "m")[0]
    assert mandate.model_fields_set == set(Mandate.model_fields)
    assert mandate.limits.model_fields_set == set(LimitSet.model_fields)
    assert mandate.costs.model_fields_set == set(Costs.model_fields)
    assert mandate.lots.model_fields_set == set(Lots.model_fields)


def test_two_hundred_generated_mandates_are_read_or_refused_with_their_places(rules: Rules) -> None:
    refused = sum(check_generated(rules, seed) for seed in range(200))
    assert 100 < refused < 200


@pytest.mark.soak
def test_two_thousand_generated_mandates_are_read_or_refused_with_their_places(rules: Rules) -> None:
    refused = sum(check_generated(rules, seed) for seed in range(1000, 3000))
    assert 1000 < refused < 2000


def test_generated_mandates_leave_the_command_with_their_code(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "m.yaml"
    for seed in range(6):
        path.write_text(spoilt(SOUND, random.Random(seed)), encoding="utf-8")  # noqa: S311 - faults, not secrets
        code = run(["mandates", "validate", str(path)])
        out, err = capsys.readouterr()
        assert (code, out) in {(0, "m: ok\n"), (78, "")}
        assert "Traceback" not in err and "internal error" not in err
