"""Scenarios: what a file may say, and what a library does with one that is wrong."""

import hashlib

import pytest

from engine.errors import ConfigurationError, UsageError
from engine.scenarios.kinds import ShockBody
from engine.scenarios.library import ScenarioLibrary, read_library, read_scenario
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


CHILD = """\
id: child
title: A child
version: 1.0.0
kind: shock
extend: small
author: tests
views:
  - {factor: market, value: -0.05, source: worse}
  - {tier: software, total: 0.02, source: new}
"""

PATH = """\
id: steps
title: Steps
version: 1.0.0
kind: path
horizon_days: 3
narrative: One after the other.
author: tests
steps:
  - {day: 1, scenario: small, source: tests}
"""

TREE = """\
id: fork
title: A fork
version: 1.0.0
kind: tree
horizon_days: 1
narrative: One or the other.
author: tests
leaves:
  - {scenario: small, probability: 0.4, source: tests}
  - {scenario: child, probability: 0.6, source: tests}
"""


def library_of(**texts: str) -> ScenarioLibrary:
    """A library of ``small``, ``child`` and further files."""
    files = {"small": TEXT, "child": CHILD, **texts}
    return read_library({f"{name}.yaml": text for name, text in files.items()}, VOCABULARY)


def faults_of(name: str, **texts: str) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        library_of(**texts).scenario(name)
    return caught.value.faults


def test_an_extension_replaces_views_by_subject_and_adds_its_own() -> None:
    second = "  - {factor: software, value: 0.01, source: kept}\n"
    body = library_of(small=TEXT + second).scenario("child").body
    assert isinstance(body, ShockBody)
    said = {view.subject: (view.number, view.source) for view in body.views}
    assert said == {
        ("factor", "software"): (0.01, "kept"),
        ("factor", "market"): (-0.05, "worse"),
        ("tier", "software"): (0.02, "new"),
    }
    assert (body.horizon_days, body.narrative, body.title) == (1, "Something happens.", "A child")


def test_an_extension_inherits_no_approval_expiry_or_dates() -> None:
    own = "approved_by: risk\nvalid_until: 2030-01-01\ndescribes: [2025-01-27]\npropagation"
    library = library_of(small=TEXT.replace("propagation", own))
    base, child = library.scenario("small").body, library.scenario("child").body
    assert base.approved_by == "risk" and base.describes
    assert child.approved_by is None and child.valid_until is None and child.describes == ()


def test_the_hash_of_an_extension_changes_with_its_base() -> None:
    other = TEXT.replace("value: -0.01", "value: -0.02")
    before, after = library_of().scenario("child"), library_of(small=other).scenario("child")
    assert before.sha256 != after.sha256 and before.body == after.body
    forks = [library_of(fork=TREE, small=text).scenario("fork").sha256 for text in (TEXT, other)]
    assert forks[0] != forks[1]


def test_a_fault_of_the_base_is_reported_in_the_file_of_the_base() -> None:
    wrong = TEXT + "  - {tier: softwear, total: 0.1, source: x}\n"
    assert faults_of("child", small=wrong) == ("small.yaml:11:12: unknown tier 'softwear'; did you mean 'software'?",)
    own = CHILD.replace("tier: software", "tier: softwear")
    assert faults_of("child", child=own) == ("child.yaml:9:12: unknown tier 'softwear'; did you mean 'software'?",)


def test_an_extension_keeps_the_kind_and_has_a_base_that_exists() -> None:
    (changed,) = faults_of("child", child=CHILD.replace("kind: shock", "kind: replay"))
    assert changed == "child.yaml:4:7: 'small' is of kind 'shock'; an extension keeps the kind"
    (missing,) = faults_of("child", child=CHILD.replace("extend: small", "extend: smal"))
    assert missing == "child.yaml:5:9: unknown scenario 'smal'; did you mean 'small'?"
    without = library_of(child=CHILD.replace("kind: shock\n", "")).scenario("child")
    assert without.body.kind == "shock"


def test_a_scenario_cannot_extend_itself() -> None:
    circle = TEXT.replace("kind: shock\n", "kind: shock\nextend: child\n")
    (fault,) = faults_of("child", small=circle)
    assert fault == "small.yaml:5:9: a scenario cannot extend itself: child -> small -> child"


def test_a_scenario_cannot_be_made_of_itself() -> None:
    a = PATH.replace("id: steps", "id: a").replace("scenario: small", "scenario: b")
    b = PATH.replace("id: steps", "id: b").replace("scenario: small", "scenario: a")
    faults = faults_of("a", a=a, b=b)
    assert any("a scenario cannot be made of itself: a -> b -> a" in fault for fault in faults), faults
    (own,) = faults_of("steps", steps=PATH.replace("scenario: small", "scenario: steps"))
    assert own == "steps.yaml:9:24: a scenario cannot be made of itself: steps -> steps"


def test_references_that_do_not_exist_or_are_wrong_are_named_where_they_stand() -> None:
    (missing,) = faults_of("steps", steps=PATH.replace("scenario: small", "scenario: smal"))
    assert missing == "steps.yaml:9:24: unknown scenario 'smal'; did you mean 'small'?"
    faults = faults_of("fork", fork=TREE, child=CHILD.replace("tier: software", "tier: softwear"))
    assert faults[0].startswith("fork.yaml:10:16: ") and any("child.yaml:9:12" in fault for fault in faults)


def test_the_probabilities_of_a_tree_sum_to_one_and_name_each_leaf_once() -> None:
    (short,) = faults_of("fork", fork=TREE.replace("0.6", "0.5"))
    assert short.startswith("fork.yaml:") and "the probabilities of the leaves sum to 0.9; they must sum to 1" in short
    (twice,) = faults_of("fork", fork=TREE.replace("scenario: child", "scenario: small"))
    assert "small is a leaf more than once; add its probabilities up" in twice


def test_the_steps_of_a_path_neither_overlap_nor_overrun_nor_fork() -> None:
    two = TEXT.replace("id: small", "id: long").replace("horizon_days: 1", "horizon_days: 2")
    overlap = PATH.replace("scenario: small", "scenario: long") + "  - {day: 2, scenario: small, source: tests}\n"
    (fault,) = faults_of("steps", long=two, steps=overlap)
    assert fault == "steps.yaml:10:11: day 2 is inside the step before, which ends on 2"
    beyond = PATH + "  - {day: 3, scenario: long, source: tests}\n"
    (fault,) = faults_of("steps", long=two, steps=beyond)
    assert fault == "steps.yaml:10:11: 'long' runs from day 3 to day 4, beyond horizon_days 3"
    (fault,) = faults_of("steps", fork=TREE, steps=PATH.replace("scenario: small", "scenario: fork"))
    assert fault == "steps.yaml:9:11: 'fork' is a tree; make a tree of paths instead"
    backwards = PATH.replace("day: 1", "day: 2") + "  - {day: 1, scenario: small, source: tests}\n"
    (fault,) = faults_of("steps", steps=backwards)
    assert "write the days in order, each once" in fault


def test_a_tree_may_hold_paths_and_trees() -> None:
    fork = library_of(fork=TREE.replace("scenario: child", "scenario: steps"), steps=PATH).scenario("fork")
    assert [member.id for member in fork.family] == ["fork", "small", "steps", "small"]
    nested = TREE.replace("id: fork", "id: tall").replace("scenario: child", "scenario: fork")
    assert len(library_of(fork=TREE, tall=nested).scenario("tall").family) == 5


def test_damping_needs_something_to_damp_and_no_total_is_below_everything() -> None:
    with pytest.raises(ConfigurationError, match="damping has no meaning with propagation none"):
        read(TEXT.replace("propagation: none", "propagation: none\ndamping: 0.5"))
    with pytest.raises(ConfigurationError, match=r"greater than or equal to -1; found -1\.2"):
        read(with_view("{tier: software, total: -1.2, source: x}"))
    replay = TEXT.replace("kind: shock", "kind: replay").partition("propagation")[0]
    days = "days:\n  - {date: 2025-01-27, market: -0.01, tiers: {software: -1.5}, source: x}\n"
    with pytest.raises(ConfigurationError, match=r"tier software returns -1\.5; at least -1"):
        read(replay + days)
