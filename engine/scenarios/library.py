"""A library of scenarios: read when they are asked for, the refused ones with their reasons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from engine.documents import suggestion
from engine.errors import ConfigurationError, UsageError
from engine.scenarios.kinds import PathBody, TreeBody
from engine.scenarios.scenario import Draft, Scenario, draft_scenario, extend_draft, settle_scenario


@dataclass(frozen=True, slots=True)
class ScenarioLibrary:
    """Scenarios by id, each read on first demand together with all that it extends or is made of.

    Args:
        texts: File name and text by the id that the file name promises.
        vocabulary: Known names by kind: ``factor``, ``tier``, ``security``.
    """

    texts: Mapping[str, tuple[str, str]]
    vocabulary: Mapping[str, tuple[str, ...]]
    _read: dict[str, Scenario | ConfigurationError] = field(default_factory=dict, repr=False, compare=False)
    _drafts: dict[str, Draft] = field(default_factory=dict, repr=False, compare=False)

    @property
    def ids(self) -> tuple[str, ...]:
        """Every id that a file promises, valid or not, in order."""
        return tuple(sorted(self.texts))

    @property
    def trees(self) -> tuple[str, ...]:
        """The ids whose file says that it is a tree, and those whose file cannot be read that far."""
        return tuple(name for name in self.ids if self._kind(name) in (None, "tree"))

    def scenario(self, name: str) -> Scenario:
        """One scenario.

        Raises:
            UsageError: no file promises that id.
            ConfigurationError: its faults, or those of a scenario that it needs.
        """
        if name not in self.texts:
            raise UsageError(f"unknown scenario {name!r}{suggestion(name, self.ids)}")
        if name not in self._read:
            try:
                self._read[name] = self._settle(name, ())
            except ConfigurationError as error:
                self._read[name] = error
        found = self._read[name]
        if isinstance(found, ConfigurationError):
            raise ConfigurationError(found.faults)
        return found

    def pick(self, ids: Sequence[str]) -> tuple[list[Scenario], list[str]]:
        """The named scenarios in that order, and the faults of those that were refused.

        Raises:
            UsageError: an id that no file has.
            ConfigurationError: none of the named ones is valid.
        """
        if unknown := [name for name in ids if name not in self.texts]:
            raise UsageError("; ".join(f"unknown scenario {name!r}{suggestion(name, self.ids)}" for name in unknown))
        picked: list[Scenario] = []
        faults: list[str] = []
        for name in dict.fromkeys(ids):
            try:
                picked.append(self.scenario(name))
            except ConfigurationError as error:
                faults += error.faults
        if not picked:
            raise ConfigurationError(faults)
        return picked, faults

    def everything(self) -> tuple[dict[str, Scenario], dict[str, tuple[str, ...]]]:
        """Every valid scenario by id, and the faults of every other file."""
        good: dict[str, Scenario] = {}
        refused: dict[str, tuple[str, ...]] = {}
        for name in self.ids:
            try:
                good[name] = self.scenario(name)
            except ConfigurationError as error:
                refused[name] = error.faults
        return good, refused

    def with_text(self, text: str, source: str) -> tuple["ScenarioLibrary", str]:
        """The library with one further file, and its id.

        A file outside the library is known by the id it holds, whatever its name, and stands in
        for the library's scenario of that id; it may extend the others and be made of them.

        Args:
            text: The whole file.
            source: Its name, for the messages.

        Raises:
            ConfigurationError: it is not the YAML that is read here.
        """
        draft = draft_scenario(text, source)
        promised = draft.values.get("id")
        name = promised if isinstance(promised, str) else source
        drafts = {**self._drafts, name: draft}
        return replace(self, texts={**self.texts, name: (source, text)}, _read={}, _drafts=drafts), name

    def _kind(self, name: str) -> object:
        try:
            return self._draft(name, ()).values.get("kind")
        except ConfigurationError:
            return None

    def _settle(self, name: str, above: tuple[str, ...]) -> Scenario:
        draft = self._draft(name, ())
        source = self.texts[name][0]
        if (said := draft.values.get("id")) != name and isinstance(said, str):
            raise ConfigurationError([f"{source}:1:1: holds scenario {said!r}; file and id must agree"])
        parts = {part: self._part(part, draft, (*above, name)) for part in _references(draft)}
        scenario = settle_scenario(draft, self.vocabulary, parts)
        if isinstance(scenario.body, PathBody):
            _refuse_bad_steps(scenario, scenario.body, draft)
        return scenario

    def _part(self, name: str, draft: Draft, above: tuple[str, ...]) -> Scenario:
        """A leaf or step of a scenario, in whose file a fault is reported."""
        key, at = _reference_place(draft, name)
        source, line, column = draft.place((key, at, "scenario"))
        where = f"{source}:{line}:{column}"
        if name in above:
            circle = " -> ".join((*above[above.index(name) :], name))
            raise ConfigurationError([f"{where}: a scenario cannot be made of itself: {circle}"])
        if name not in self.texts:
            raise ConfigurationError([f"{where}: unknown scenario {name!r}{suggestion(name, self.ids)}"])
        try:
            return self._settle(name, above)
        except ConfigurationError as error:
            if any("cannot be made of itself" in fault for fault in error.faults):
                raise
            raise ConfigurationError([f"{where}: {name!r} was refused", *error.faults]) from None

    def _draft(self, name: str, below: tuple[str, ...]) -> Draft:
        """The text of a scenario on top of all that it extends."""
        if name not in self._drafts:
            source, text = self.texts[name]
            self._drafts[name] = draft_scenario(text, source)
        draft = self._drafts[name]
        base = draft.values.get("extend")
        if base is None:
            return draft
        source, line, column = draft.place(("extend",))
        where = f"{source}:{line}:{column}"
        if not isinstance(base, str) or base not in self.texts:
            raise ConfigurationError([f"{where}: unknown scenario {base!r}{suggestion(str(base), self.ids)}"])
        if base in (*below, name):
            circle = " -> ".join((*below, name, base))
            raise ConfigurationError([f"{where}: a scenario cannot extend itself: {circle}"])
        onto = self._draft(base, (*below, name))
        theirs, ours = onto.values.get("kind"), draft.values.get("kind")
        if ours not in (None, theirs):
            source, line, column = draft.place(("kind",))
            raise ConfigurationError(
                [f"{source}:{line}:{column}: {base!r} is of kind {theirs!r}; an extension keeps the kind"]
            )
        return extend_draft(draft, onto)


def read_library(texts: Mapping[str, str], vocabulary: Mapping[str, tuple[str, ...]]) -> ScenarioLibrary:
    """The library of a folder; nothing is read before it is asked for.

    Args:
        texts: File name to text; ``deepseek.yaml`` must hold the scenario ``deepseek``.
        vocabulary: Known names by kind: ``factor``, ``tier``, ``security``.
    """
    return ScenarioLibrary({_stem(name): (name, text) for name, text in sorted(texts.items())}, vocabulary)


def read_scenario(text: str, source: str, vocabulary: Mapping[str, tuple[str, ...]]) -> Scenario:
    """The scenario in one text that needs no other.

    Raises:
        ConfigurationError: every fault with line, column and a suggestion.
    """
    library, name = ScenarioLibrary({}, vocabulary).with_text(text, source)
    return library.scenario(name)


def _stem(name: str) -> str:
    return name.rsplit("/", 1)[-1].removesuffix(".yaml")


def _references(draft: Draft) -> list[str]:
    """The scenarios a draft is made of, as far as they can be read before it is judged."""
    names = []
    for key in ("leaves", "steps"):
        rows = draft.values.get(key)
        for row in rows if isinstance(rows, tuple) else ():
            name = row.get("scenario") if isinstance(row, dict) else None
            if isinstance(name, str):
                names.append(name)
    return list(dict.fromkeys(names))


def _reference_place(draft: Draft, name: str) -> tuple[str, int]:
    for key in ("leaves", "steps"):
        rows = draft.values.get(key)
        for at, row in enumerate(rows if isinstance(rows, tuple) else ()):
            if isinstance(row, dict) and row.get("scenario") == name:
                return key, at
    raise AssertionError("a reference has a place by construction")


def _refuse_bad_steps(scenario: Scenario, body: PathBody, draft: Draft) -> None:
    """Each step is one thing that happens, after the step before and inside the horizon."""
    faults = []
    free = 1
    for at, (step, part) in enumerate(zip(body.steps, scenario.parts, strict=True)):
        end = step.day + part.body.horizon_days - 1
        source, line, column = draft.place(("steps", at, "day"))
        if any(isinstance(member.body, TreeBody) for member in part.family):
            faults.append(f"{source}:{line}:{column}: {step.scenario!r} is a tree; make a tree of paths instead")
        if step.day < free:
            faults.append(
                f"{source}:{line}:{column}: day {step.day} is inside the step before, which ends on {free - 1}"
            )
        if end > body.horizon_days:
            faults.append(
                f"{source}:{line}:{column}: {step.scenario!r} runs from day {step.day} to day {end}, beyond "
                f"horizon_days {body.horizon_days}"
            )
        free = end + 1
    if faults:
        raise ConfigurationError(faults)
