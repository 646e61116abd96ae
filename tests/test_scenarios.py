"""Scenarios: what a file may say, and what a library does with one that is wrong."""

import hashlib

import pytest

from engine.errors import ConfigurationError, UsageError
from engine.scenarios.library import read_library, read_scenario
from engine.scenarios.scenario import Scenario

VOCABULARY = {
    "factor": ("market", "ai_semis", "software"),
    "tier": ("ai_semis", "software"),
    "security": ("NVDA", "CRM"),
}

TEXT = """\
id: small
title: A small shock
version: 1.0.0
kind: shock
horizon_days: 1
narrative: Something happens.
author: tests
propagation: none
views:
  - {factor: market, value: -0.01, source: judgement}
"""


def read(text: str) -> Scenario:
    """The scenario in a text, with the vocabulary above."""
    return read_scenario(text, "small.yaml", VOCABULARY)


def with_view(view: str) -> str:
    """The text with a second view on line 11."""
    return f"{TEXT}  - {view}\n"


def test_a_scenario_keeps_its_numbers_and_the_hash_of_its_text() -> None:
    scenario = read(with_view("{tier: software, total: 0.02, source: judgement}"))
    assert [view.subject for view in scenario.body.views] == [("factor", "market"), ("tier", "software")]
    assert [view.number for view in scenario.body.views] == [-0.01, 0.02]
    assert (
        scenario.sha256
        == hashlib.sha256(with_view("{tier: software, total: 0.02, source: judgement}").encode()).hexdigest()
    )


@pytest.mark.parametrize(
    ("view", "words"),
    [
        ("{tier: sofware, total: 0.1, source: x}", "unknown tier 'sofware'; did you mean 'software'?"),
        ("{tier: market, total: 0.1, source: x}", "unknown tier 'market'; allowed: ai_semis, software"),
        ("{factor: oil, value: 0.1, source: x}", "unknown factor 'oil'; allowed: market, ai_semis, software"),
        ("{security: NVDIA, total: 0.1, source: x}", "unknown security 'NVDIA'; did you mean 'NVDA'?"),
        (
            "{security: NVDA, total: -1.01, source: x}",
            "total: input should be greater than or equal to -1; found -1.01",
        ),
        ("{tier: software, total: .inf, source: x}", "total: input should be a finite number; found inf"),
        ("{tier: software, total: '0.1', source: x}", "total: input should be a valid number; found '0.1'"),
        ("{tier: software, total: 0.1}", "missing key 'source'"),
        ("{tier: software, source: x}", "a tier view takes one number, total or pure; found none"),
        ("{tier: software, total: 0.1, pure: 0.1, source: x}", "takes one number, total or pure; found total, pure"),
        ("{security: NVDA, pure: 0.1, source: x}", "a security view takes one number, total; found pure"),
        (
            "{factor: market, tier: software, value: 0.1, source: x}",
            "one of factor, tier, security, basket, contrast; found factor, tier",
        ),
        ("{total: 0.1, source: x}", "a view names one of factor, tier, security, basket, contrast; found none"),
        ("{tier: software, totl: 0.1, source: x}", "unknown key 'totl'; did you mean 'total'?"),
    ],
)
def test_a_view_that_cannot_be_is_refused_with_its_line(view: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(with_view(view))
    assert any(fault.startswith("small.yaml:11:") and words in fault for fault in caught.value.faults)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "horizon_days: 1",
            "horizon_days: 0",
            "5:15: horizon_days: input should be greater than or equal to 1; found 0",
        ),
        ("horizon_days: 1", "horizon_days: 1.5", "5:15: horizon_days: input should be a valid integer; found 1.5"),
        (
            "horizon_days: 1",
            "horizon_days: 757",
            "5:15: horizon_days: input should be less than or equal to 756; found 757",
        ),
        (
            "propagation: none",
            "propagation: some",
            "8:14: propagation: input should be 'none', 'conditional' or 'historical'",
        ),
        ("kind: shock", "kind: shok", "4:7: unknown kind 'shok'; did you mean 'shock'?"),
        ("kind: shock\n", "", "small.yaml:1:1: missing key 'kind'; one of shock, replay, drivers, tree, path"),
        ("kind: shock", "kind: replay", "9:1: unknown key 'views'"),
        ("version: 1.0.0", "version: '1.0'", "3:10: version: string should match pattern"),
        ("author: tests", "autor: tests", "7:8: unknown key 'autor'; did you mean 'author'?"),
        ("value: -0.01", "value: -1.01", "the market cannot lose more than everything; found -1.01"),
    ],
)
def test_a_scenario_at_fault_says_line_and_column(old: str, new: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(TEXT.replace(old, new))
    assert any(words in fault for fault in caught.value.faults), caught.value.faults


def test_two_views_on_one_subject_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="two views on factor market; state each once"):
        read(with_view("{factor: market, value: 0.02, source: x}"))


def test_a_library_keeps_the_good_scenarios_and_the_reasons_of_the_others() -> None:
    texts = {
        "scenarios/small.yaml": TEXT,
        "scenarios/broken.yaml": with_view("{tier: softwear, total: 0.1, source: x}").replace(
            "id: small", "id: broken"
        ),
        "scenarios/other.yaml": TEXT,
    }
    library = read_library(texts, VOCABULARY)
    good, refused = library.everything()
    assert list(good) == ["small"]
    assert list(refused) == ["broken", "other"]
    assert refused["other"] == ("scenarios/other.yaml:1:1: holds scenario 'small'; file and id must agree",)
    picked, faults = library.pick(["small", "broken", "small"])
    assert [scenario.id for scenario in picked] == ["small"]
    assert faults == ["scenarios/broken.yaml:11:12: unknown tier 'softwear'; did you mean 'software'?"]


def test_a_library_names_what_it_does_not_have() -> None:
    library = read_library({"small.yaml": TEXT}, VOCABULARY)
    with pytest.raises(UsageError, match=r"^unknown scenario 'smal'; did you mean 'small'\?$"):
        library.pick(["smal"])
    broken = read_library({"small.yaml": "id: [1"}, VOCABULARY)
    with pytest.raises(ConfigurationError, match="not valid YAML"):
        broken.pick(["small"])
