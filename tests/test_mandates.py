"""Mandates: what a file may say, and every fault with its line and column."""

import pytest

from engine.errors import ConfigurationError
from engine.mandates.mandate import ActiveBand, Band, ExposureBand, Mandate, read_mandates

VOCABULARY = {
    "scenario": ("deepseek", "overreaction"),
    "bucket": ("ai_semis", "software", "off_curve"),
    "security": ("AGG", "MSFT", "NVDA"),
}

FULL = """\
id: full
title: All that a mandate can say
version: 1.2.3
risk_aversion: 20
limits:
  max_weight: 0.15
  weights:
    AGG: {min: 0.1, max: 0.6}
  turnover: 0.30
  cash: {min: 0.01, max: 0.10}
  tiers:
    ai_semis: {max: 0.35}
    off_curve: {min: 0.2}
  stress:
    - {scenario: deepseek, max_loss: 0.07}
    - {scenario: overreaction, max_loss: 0.1}
costs: {half_spread_bps: 10, holding_years: 0.5}
buy_list: [NVDA, AGG, NVDA]
"""

HEAD = "id: m\ntitle: M\nversion: 1.0.0\n"


def read(text: str, name: str = "mandates/m.yaml") -> Mandate:
    mandates = read_mandates({name: text}, VOCABULARY)
    return next(iter(mandates.values()))


def faults_of(text: str, name: str = "mandates/m.yaml") -> list[str]:
    with pytest.raises(ConfigurationError) as refusal:
        read_mandates({name: text}, VOCABULARY)
    assert refusal.value.exit_code == 78
    return list(refusal.value.faults)


def test_a_full_mandate_is_read_to_the_number() -> None:
    mandate = read(FULL, "mandates/full.yaml")
    assert mandate.limits.weights == {"AGG": Band(min=0.1, max=0.6)}
    assert mandate.limits.tiers == {"ai_semis": Band(max=0.35), "off_curve": Band(min=0.2)}
    assert [(b.scenario, b.max_loss) for b in mandate.limits.stress] == [("deepseek", 0.07), ("overreaction", 0.1)]
    assert (mandate.limits.turnover, mandate.limits.cash.min, mandate.limits.cash.max) == (0.30, 0.01, 0.10)
    assert (mandate.risk_aversion, mandate.costs.half_spread_bps, mandate.costs.holding_years) == (20.0, 10.0, 0.5)


def test_a_buy_list_is_sorted_and_names_each_security_once() -> None:
    assert read(FULL, "mandates/full.yaml").buy_list == ("AGG", "NVDA")


def test_what_a_mandate_leaves_out_does_not_bind() -> None:
    mandate = read(HEAD)
    assert (mandate.limits.max_weight, mandate.limits.turnover) == (1.0, 2.0)
    assert mandate.limits.cash == Band(min=0.0, max=1.0)
    assert not mandate.limits.tiers
    assert not mandate.limits.stress
    assert mandate.buy_list == ()


def test_a_mandate_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read(HEAD).risk_aversion = 1.0  # type: ignore[misc]


def test_a_band_may_be_a_point() -> None:
    assert Band(min=0.2, max=0.2).max == 0.2


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("id: m\nversion: 1.0.0\n", "mandates/m.yaml:1:1: missing key 'title'"),
        (HEAD + "limts: {}\n", "mandates/m.yaml:4:1: unknown key 'limts'; did you mean 'limits'?"),
        (
            HEAD + "limits:\n  turnovr: 0.3\n",
            "mandates/m.yaml:5:12: unknown key 'turnovr'; did you mean 'turnover'?",
        ),
        (
            HEAD + "limits:\n  cash: {min: 0.2, max: 0.1}\n",
            "mandates/m.yaml:5:3: min 0.2 is above max 0.1; no portfolio can keep both",
        ),
        (
            HEAD + "limits:\n  tiers:\n    ai_semi: {max: 0.3}\n",
            "mandates/m.yaml:6:5: unknown tier 'ai_semi'; did you mean 'ai_semis'?",
        ),
        (
            HEAD + "limits:\n  weights:\n    MSTF: {max: 0.3}\n",
            "mandates/m.yaml:6:5: unknown security 'MSTF'; did you mean 'MSFT'?",
        ),
        (
            HEAD + "limits:\n  stress:\n    - {scenario: depseek, max_loss: 0.05}\n",
            "mandates/m.yaml:6:18: unknown scenario 'depseek'; did you mean 'deepseek'?",
        ),
        (
            HEAD + "limits:\n  stress:\n    - {scenario: deepseek, max_loss: 0}\n",
            "mandates/m.yaml:6:38: max_loss: input should be greater than 0; found 0",
        ),
        (
            HEAD + "limits:\n  stress:\n    - {scenario: deepseek, max_loss: 5}\n",
            "mandates/m.yaml:6:38: max_loss: input should be less than or equal to 1; found 5",
        ),
        (
            HEAD
            + "limits:\n  stress:\n    - {scenario: deepseek, max_loss: 0.1}\n"
            + "    - {scenario: deepseek, max_loss: 0.2}\n",
            "mandates/m.yaml:5:3: two budgets for deepseek; keep one",
        ),
        (
            HEAD + "limits:\n  cash: {min: 0.5}\n  weights:\n    AGG: {min: 0.6}\n",
            "mandates/m.yaml:4:1: the minimum weights and cash sum to 1.1 of NAV; at most 1 can be held",
        ),
        (
            HEAD + "limits:\n  cash: {min: 0.5}\n  tiers:\n    software: {min: 0.6}\n",
            "mandates/m.yaml:4:1: the tier and cash minima sum to 1.1 of NAV; at most 1 can be held",
        ),
        (
            HEAD + "limits: {turnover: 2.5}\n",
            "mandates/m.yaml:4:20: turnover: input should be less than or equal to 2; found 2.5",
        ),
        (
            HEAD + "limits: {turnover: -0.1}\n",
            "mandates/m.yaml:4:20: turnover: input should be greater than or equal to 0; found -0.1",
        ),
        (
            HEAD + "limits: {max_weight: 0}\n",
            "mandates/m.yaml:4:22: max_weight: input should be greater than 0; found 0",
        ),
        (
            HEAD + "limits: {max_weight: 15}\n",
            "mandates/m.yaml:4:22: max_weight: input should be less than or equal to 1; found 15",
        ),
        (
            HEAD + "limits: {max_weight: '0.1'}\n",
            "mandates/m.yaml:4:22: max_weight: input should be a valid number; found '0.1'",
        ),
        (
            HEAD + "limits: {max_weight: .nan}\n",
            "mandates/m.yaml:4:22: max_weight: input should be a finite number; found nan",
        ),
        (
            HEAD + "risk_aversion: 0\n",
            "mandates/m.yaml:4:16: risk_aversion: input should be greater than 0; found 0",
        ),
        (
            HEAD + "costs: {half_spread_bps: -1}\n",
            "mandates/m.yaml:4:26: half_spread_bps: input should be greater than or equal to 0; found -1",
        ),
        (
            HEAD + "costs: {holding_years: 0}\n",
            "mandates/m.yaml:4:24: holding_years: input should be greater than 0; found 0",
        ),
        (
            HEAD + "buy_list: [MSFT, NVDIA]\n",
            "mandates/m.yaml:4:18: unknown security 'NVDIA'; did you mean 'NVDA'?",
        ),
        (
            "id: M-1\ntitle: M\nversion: 1.0.0\n",
            "mandates/m.yaml:1:5: id: string should match pattern '^[a-z][a-z0-9_]*$'; found 'M-1'",
        ),
        (
            "id: m\ntitle: M\nversion: one\n",
            "mandates/m.yaml:3:10: version: string should match pattern '^\\d+\\.\\d+\\.\\d+$'; found 'one'",
        ),
        (
            "id: m\ntitle: ''\nversion: 1.0.0\n",
            "mandates/m.yaml:2:8: title: string should have at least 1 character; found ''",
        ),
        ("id: other\ntitle: M\nversion: 1.0.0\n", "mandates/m.yaml:1:1: holds mandate 'other'; file and id must agree"),
    ],
)
def test_a_fault_is_told_with_its_place_and_its_remedy(text: str, fault: str) -> None:
    assert faults_of(text) == [fault]


def test_a_repeated_key_is_refused_at_its_line() -> None:
    (fault,) = faults_of(HEAD + "limits: {}\nlimits: {}\n")
    assert fault.startswith("mandates/m.yaml:5:1: not valid YAML: found duplicate key")


def test_a_missing_vocabulary_checks_no_names() -> None:
    text = (
        HEAD
        + "limits:\n  tiers:\n    moon: {max: 0.3}\n  stress:\n    - {scenario: any, max_loss: 0.1}\nbuy_list: [X]\n"
    )
    assert read_mandates({"m.yaml": text}, {})["m"].buy_list == ("X",)


def test_all_faults_of_all_files_come_at_once_in_the_order_of_names_and_lines() -> None:
    texts = {
        "mandates/z.yaml": "id: z\ntitle: Z\nversion: x\nrisk_aversion: -1\n",
        "mandates/a.yaml": "id: a\ntitle: A\nversion: 1.0.0\nfoo: 1\nlimits: {turnover: 9, cash: {max: 7}}\n",
        "mandates/good.yaml": "id: good\ntitle: G\nversion: 1.0.0\n",
        "mandates/k.yaml": "id: wrong\ntitle: K\nversion: 1.0.0\n",
    }
    with pytest.raises(ConfigurationError) as refusal:
        read_mandates(texts, VOCABULARY)
    places = [fault.split(": ")[0] for fault in refusal.value.faults]
    assert places == [
        "mandates/a.yaml:4:6",
        "mandates/a.yaml:5:20",
        "mandates/a.yaml:5:35",
        "mandates/k.yaml:1:1",
        "mandates/z.yaml:3:10",
        "mandates/z.yaml:4:16",
    ]
    assert str(refusal.value) == "\n".join(refusal.value.faults)


def test_no_files_are_no_mandates() -> None:
    assert read_mandates({}, VOCABULARY) == {}


WIDE = (
    HEAD
    + """\
limits:
  max_active_weight: 0.03
  active_weights:
    NVDA: {min: -0.02, max: 0.02}
  active_tiers:
    ai_semis: {max: 0.05}
  sectors:
    Utilities: {max: 0.4}
    unclassified: {max: 0.1}
  active_sectors:
    Utilities: {min: -0.05}
  factors:
    market: {min: 0.8, max: 1.2}
  active_factors:
    "tier:ai_semis": {max: 0.1}
  excluded: [MSFT]
  no_buy: [NVDA]
  no_sell: [AGG]
  frozen: [AGG]
"""
)

WORDS = {**VOCABULARY, "sector": ("Utilities", "unclassified"), "factor": ("market", "tier:ai_semis")}


def test_the_wider_limits_are_read_to_the_number() -> None:
    limits = read_mandates({"mandates/m.yaml": WIDE}, WORDS)["m"].limits
    assert limits.active_weights == {"NVDA": ActiveBand(min=-0.02, max=0.02)}
    assert limits.active_tiers == {"ai_semis": ActiveBand(min=-1.0, max=0.05)}
    assert limits.sectors == {"Utilities": Band(max=0.4), "unclassified": Band(max=0.1)}
    assert limits.factors == {"market": ExposureBand(min=0.8, max=1.2)}
    assert (limits.excluded, limits.no_buy, limits.no_sell, limits.frozen) == (("MSFT",), ("NVDA",), ("AGG",), ("AGG",))
    assert limits.active == ("max_active_weight", "active_weights", "active_tiers", "active_sectors", "active_factors")
    assert limits.named == {"NVDA"}
    assert read(HEAD).limits.active == ()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("sectors:\n    Utilties: {max: 0.3}\n", "6:5: unknown sector 'Utilties'; did you mean 'Utilities'?"),
        ("factors:\n    markt: {max: 1}\n", "6:5: unknown factor 'markt'; did you mean 'market'?"),
        ("active_tiers:\n    ai_semi: {max: 0.1}\n", "6:5: unknown tier 'ai_semi'; did you mean 'ai_semis'?"),
        ("active_weights:\n    NVDIA: {max: 0.1}\n", "6:5: unknown security 'NVDIA'; did you mean 'NVDA'?"),
        ("active_sectors: {Utilities: {max: 5}}\n", "5:37: max: input should be less than or equal to 1; found 5"),
        ("factors: {market: {max: 110}}\n", "5:27: max: input should be less than or equal to 10; found 110"),
        (
            "active_sectors: {Utilities: {min: 0.1, max: 0.0}}\n",
            "5:20: min 0.1 is above max 0.0; no portfolio can keep both",
        ),
        ("max_active_weight: 3\n", "5:22: max_active_weight: input should be less than or equal to 1; found 3"),
        ("no_buy: [NVDIA]\n", "5:12: unknown security 'NVDIA'; did you mean 'NVDA'?"),
    ],
)
def test_a_fault_of_the_wider_limits_is_told_with_its_place(text: str, fault: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        read_mandates({"mandates/m.yaml": HEAD + "limits:\n  " + text}, WORDS)
    assert list(refusal.value.faults) == [f"mandates/m.yaml:{fault}"]


def test_a_name_cannot_be_excluded_and_kept() -> None:
    (fault,) = faults_of(HEAD + "limits:\n  excluded: [NVDA, AGG]\n  frozen: [NVDA]\n")
    assert fault == "mandates/m.yaml:4:1: NVDA: in excluded, which sells it, and in frozen; keep one"


def test_a_priority_is_of_the_longest_key_that_a_limit_begins_with_and_else_the_default() -> None:
    words = "  priorities: {tiers: 2, 'tier:software:max': 5, 'stress:deepseek': 0, weights: 1, cash: 4}\n"
    limits = read(
        HEAD + "limits:\n  tiers: {software: {max: 0.2}}\n  stress: [{scenario: deepseek, max_loss: 0.1}]\n" + words
    ).limits
    found = {
        "tier:software:max": 5,
        "tier:software:min": 2,
        "stress:deepseek": 0,
        "stress:deepseek:active": 0,
        "weight:NVDA:max": 1,
        "cash:max": 4,
        "cash:min": 0,
        "turnover": 0,
        "participation:NVDA:max": 0,
        "excluded:NVDA:max": 0,
        "active_weight:NVDA:max": 0,
        "tracking_error": 2,
        "sector:tech:max": 4,
        "active_factor:market:min": 4,
    }
    assert {limit: limits.priority(limit) for limit in found} == found
    plain = read(HEAD).limits
    assert [
        plain.priority(name) for name in ("stress:deepseek", "tier:software:max", "cash:max", "weight:NVDA:max")
    ] == [
        1,
        3,
        5,
        0,
    ]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("{teirs: 2}", "priorities: no limit 'teirs'; did you mean 'tiers'?"),
        ("{'stress:deepsek': 2}", "priorities: no limit 'stress:deepsek'; did you mean 'stress:deepseek'?"),
        ("{turnover: 3}", "priorities: turnover always holds; its priority is 0 and may not be 3"),
        ("{excluded: 1}", "priorities: excluded always holds; its priority is 0 and may not be 1"),
    ],
)
def test_a_priority_of_no_limit_or_of_one_that_always_holds_is_refused(words: str, fault: str) -> None:
    text = HEAD + "limits:\n  stress: [{scenario: deepseek, max_loss: 0.1}]\n  priorities: " + words + "\n"
    assert faults_of(text)[0].endswith(fault)


def test_a_priority_beyond_five_is_refused_at_its_place() -> None:
    (fault,) = faults_of(HEAD + "limits:\n  priorities: {tiers: 6}\n")
    assert fault.startswith("mandates/m.yaml:5:") and "less than or equal to 5" in fault
