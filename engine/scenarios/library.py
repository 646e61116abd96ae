"""A library of scenarios: the good ones ready, the refused ones with their reasons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.documents import suggestion
from engine.errors import ConfigurationError, UsageError
from engine.scenarios.scenario import Scenario, read_scenario


@dataclass(frozen=True, slots=True)
class ScenarioLibrary:
    """Scenarios by id.

    Args:
        scenarios: The valid ones, by id in order.
        refused: For each refused file its faults, by the id its file name promises.
    """

    scenarios: Mapping[str, Scenario]
    refused: Mapping[str, tuple[str, ...]]

    def pick(self, ids: Sequence[str]) -> tuple[list[Scenario], list[str]]:
        """The named scenarios in that order, and the faults of those that were refused.

        Raises:
            UsageError: an id that no file has.
            ConfigurationError: none of the named ones is valid.
        """
        unknown = [name for name in ids if name not in self.scenarios and name not in self.refused]
        known = sorted({*self.scenarios, *self.refused})
        if unknown:
            raise UsageError("; ".join(f"unknown scenario {name!r}{suggestion(name, known)}" for name in unknown))
        faults = [fault for name in ids for fault in self.refused.get(name, ())]
        picked = [self.scenarios[name] for name in dict.fromkeys(ids) if name in self.scenarios]
        if not picked:
            raise ConfigurationError(faults)
        return picked, faults


def read_library(texts: Mapping[str, str], vocabulary: Mapping[str, tuple[str, ...]]) -> ScenarioLibrary:
    """Read every scenario file of a folder; one that is wrong does not stop the others.

    Args:
        texts: File name to text; ``deepseek.yaml`` must hold the scenario ``deepseek``.
        vocabulary: Known names by kind: ``factor``, ``tier``, ``security``.
    """
    good: dict[str, Scenario] = {}
    refused: dict[str, tuple[str, ...]] = {}
    for name, text in sorted(texts.items()):
        stem = name.rsplit("/", 1)[-1].removesuffix(".yaml")
        try:
            scenario = read_scenario(text, name, vocabulary)
        except ConfigurationError as error:
            refused[stem] = error.faults
            continue
        if scenario.id != stem:
            refused[stem] = (f"{name}:1:1: holds scenario {scenario.id!r}; file and id must agree",)
            continue
        good[scenario.id] = scenario
    return ScenarioLibrary(good, refused)
