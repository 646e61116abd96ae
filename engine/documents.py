"""YAML text becomes a valid configuration value, or every fault with its line and column.

YAML 1.2 without aliases, anchors, tags and repeated keys, so that a file says one thing.
Text comes in as an argument: this room, like all the core, opens no file.
"""

import datetime as dt
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, TypeVar, runtime_checkable

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from engine.errors import ConfigurationError

MAX_CHARACTERS: Final = 1_000_000
MAX_DEPTH: Final = 20
MAX_FAULTS: Final = 50
"""Faults of one file that are told; the rest are counted."""

LONGEST_SHOWN: Final = 80
"""Characters of a value that a message repeats."""


class Strict(BaseModel):
    """A configuration value: frozen, no unknown key, no silent conversion, no NaN."""

    # A validator is built when it is first used: that of a part is part of its whole's already.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


Model = TypeVar("Model", bound=Strict)

Place: TypeAlias = tuple[str | int, ...]
"""Keys and list positions from the top of a document to one value."""


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document as read: its values, and where in the text each stands.

    Args:
        source: Name of the file, as the messages print it.
        values: Keys and plain values, lists as tuples.
        root: The nodes of the text that they were made from, each with its place.
    """

    source: str
    values: Mapping[Any, Any]
    root: Node

    def place(self, path: Place, *, missing: bool = False) -> tuple[str, int, int]:
        """File, line and column (from 1) of the deepest part of ``path`` that the text has."""
        return (self.source, *_position(self.values, self.root, path, missing=missing))


@runtime_checkable
class Locate(Protocol):
    """Says where the value at a path was written: ``Document.place``, or a choice among documents."""

    def __call__(self, path: Place, *, missing: bool = False) -> tuple[str, int, int]:
        """File, line and column."""
        ...


def load_document(text: str, source: str) -> Document:
    """Read one YAML document without judging what it says.

    Raises:
        ConfigurationError: it is not YAML 1.2, or uses what is not read here.
    """
    values, root = _load(text, source)
    return Document(source, _frozen(values), root)


def validate_values(
    values: Mapping[Any, Any], model: type[Model], locate: Locate, context: Mapping[str, Any] | None = None
) -> Model:
    """Values from one document or several become a configuration value.

    Args:
        values: Keys and plain values.
        model: The kind of value.
        locate: Where each path was written.
        context: What the model's validators may consult, e.g. the known tiers.

    Raises:
        ConfigurationError: one line ``source:line:column: ...`` per fault, all of them.
    """
    try:
        return model.model_validate(dict(values), context=dict(context or {}))
    except ValidationError as error:
        keys = sorted(_field_names(model.model_json_schema()))
        faults = []
        found = error.errors(include_url=False)
        more = len(found) - MAX_FAULTS
        deeper = {fault["loc"][:depth] for fault in found for depth in range(len(fault["loc"]))}
        for fault in found[:MAX_FAULTS]:
            if fault["type"] == "too_short" and fault["loc"] in deeper:
                continue  # short only because the items inside it are at fault
            source, line, column = locate(fault["loc"], missing=fault["type"] == "missing")
            faults.append((source, line, column, _words(dict(fault), keys)))
        told = [f"{s}:{line}:{column}: {words}" for s, line, column, words in sorted(faults)]
        if more > 0:
            source, line, column = max(faults)[:3]
            told.append(f"{source}:{line}:{column}: and {more:,} more faults; mend these first")
        raise ConfigurationError(told) from None


def parse_document(text: str, source: str, model: type[Model], context: Mapping[str, Any] | None = None) -> Model:
    """Read one YAML document into a configuration value.

    Args:
        text: The whole file.
        source: Its name, as the messages print it.
        model: The kind of value.
        context: What the model's validators may consult, e.g. the known tiers.

    Raises:
        ConfigurationError: one line ``source:line:column: ...`` per fault, all of them.
    """
    document = load_document(text, source)
    return validate_values(document.values, model, document.place, context)


def known(kind: str, word: str) -> AfterValidator:
    """A check that a name is in the vocabulary of its kind, where the context has one.

    Put on each key or item, so that every unknown name is a fault with its own place.
    """

    def check(name: str, info: Any) -> str:
        allowed = (info.context or {}).get(kind)
        if allowed is not None and name not in allowed:
            # What is close to it is looked for only where the fault is told.
            raise PydanticCustomError("unknown_name", "unknown {word}", {"word": word, "allowed": allowed})
        return name

    return AfterValidator(check)


def suggestion(word: str, allowed: Iterable[str]) -> str:
    """``; did you mean 'x'?`` when something close exists, else the allowed words."""
    candidates = list(allowed)
    if close := difflib.get_close_matches(word, candidates, n=1, cutoff=0.6):
        return f"; did you mean {close[0]!r}?"
    shown = ", ".join(candidates[:12]) + (", ..." if len(candidates) > 12 else "")
    return f"; allowed: {shown}" if candidates else ""


def _load(text: str, source: str) -> tuple[dict[Any, Any], Node]:
    if len(text) > MAX_CHARACTERS:
        raise ConfigurationError([f"{source}:1:1: {len(text):,} characters; at most {MAX_CHARACTERS:,} are read"])
    if text.startswith("\ufeff") or "\x00" in text or "\ufffd" in text:
        raise ConfigurationError(
            [f"{source}:1:1: not plain UTF-8 (byte order mark, NUL, broken character); save it as UTF-8"]
        )
    root: Node | None = None
    try:
        if _may_trick(text):
            _refuse_tricks(text, source)
        # Composed and constructed apart: the nodes know their places, which the plain values do not.
        reader = YAML(typ="safe", pure=True)
        root = reader.compose(text)
        values = None if root is None else reader.constructor.construct_document(root)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = " ".join((error.problem or str(error)).split())[:200]
        raise ConfigurationError([f"{source}:{line}:{column}: not valid YAML: {problem}"]) from None
    except (YAMLError, ValueError) as error:
        line, column = _impossible_value(root)
        words = " ".join(str(error).split()).split("; use sys.")[0][:200]
        raise ConfigurationError([f"{source}:{line}:{column}: not valid YAML: {words}"]) from None
    if not isinstance(values, dict):
        raise ConfigurationError([f"{source}:1:1: expected keys and values, found {_kind(values)}"])
    return values, root


def _impossible_value(node: Node | None) -> tuple[int, int]:
    """Where a date like 2025-13-01 or an endless integer stands, which compose and cannot be made."""
    waiting = [node] if node is not None else []
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, MappingNode):
            waiting += [item for pair in one.value for item in pair]
        elif isinstance(one, SequenceNode):
            waiting += one.value
        elif str(one.tag).endswith((":timestamp", ":int")):
            try:
                dt.date.fromisoformat(one.value[:10]) if str(one.tag).endswith(":timestamp") else int(one.value, 0)
            except ValueError:
                return one.start_mark.line + 1, one.start_mark.column + 1
    return 1, 1


def _may_trick(text: str) -> bool:
    """True when the text could hold an anchor, alias, tag, merge key or deep nesting.

    Looking at every event costs as much as reading the document; plain text is spared it.
    """
    indented = any(line.startswith(" " * MAX_DEPTH) for line in text.splitlines())
    nested = text.count("[") + text.count("{") + text.count("- ") > MAX_DEPTH or indented
    return nested or any(mark in text for mark in ("&", "*", "!", "<<"))


def _kind(values: Any) -> str:
    return "nothing" if values is None else "a list" if isinstance(values, list) else _shown(values)


def _shown(value: Any) -> str:
    """A plain value as the messages repeat it: cut where it is long."""
    if isinstance(value, int) and value.bit_length() > 4 * LONGEST_SHOWN:
        return f"an integer of {value.bit_length():,} bits"
    shown = repr(value)
    return shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}..."


def _refuse_tricks(text: str, source: str) -> None:
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        at = f"{source}:{event.start_mark.line + 1}:{event.start_mark.column + 1}"
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
            raise ConfigurationError([f"{at}: anchors and aliases are not read; write the value out"])
        if getattr(event, "tag", None):
            raise ConfigurationError([f"{at}: the tag {event.tag} is not read; remove it"])
        if getattr(event, "value", None) == "<<":
            raise ConfigurationError([f"{at}: merge keys are not read; write the values out"])
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigurationError([f"{at}: nested deeper than {MAX_DEPTH} levels"])


def _frozen(value: Any) -> Any:
    """Lists as tuples, all the way down."""
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _position(values: Any, root: Node, path: Place, *, missing: bool) -> tuple[int, int]:
    """Line and column (from 1) of the deepest part of ``path`` that the text has.

    A mapping or list is where its key stands, a plain value where it stands itself.
    """
    value, node, mark, named = values, root, None, None
    for step in path[:-1] if missing else path:
        if isinstance(node, MappingNode) and str(step) in (names := [_step(one) for one in value]):
            # Without merge and repeated keys, the values stand in the order of the nodes.
            at = names.index(str(step))
            key, node = node.value[at]
            value = list(value.values())[at]
            named = key.start_mark
            mark = key.start_mark if isinstance(value, dict | tuple) else node.start_mark
        elif isinstance(node, SequenceNode) and isinstance(step, int) and step < len(value):
            value, node = value[step], node.value[step]
            mark = node.start_mark
        elif step == "[key]":
            mark = named
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _step(key: Any) -> str:
    """A key as the path of a fault names it; one that is no text goes by its representation."""
    return key if isinstance(key, str) else repr(int(key) if isinstance(key, bool) else key)


def _field_names(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return set().union(*map(_field_names, schema))
    if not isinstance(schema, dict):
        return set()
    return set(schema.get("properties", {})).union(*map(_field_names, schema.values()))


def _words(fault: dict[str, Any], keys: list[str]) -> str:
    name = str(fault["loc"][-1]) if fault["loc"] else "the document"
    match fault["type"]:
        case "extra_forbidden":
            return f"unknown key {_shown(name)}{suggestion(name[:LONGEST_SHOWN], keys)}"
        case "missing":
            return f"missing key {name!r}"
        case "unknown_name":
            word, allowed = fault["ctx"]["word"], fault["ctx"]["allowed"]
            return f"unknown {word} {_shown(fault['input'])}{suggestion(fault['input'][:LONGEST_SHOWN], allowed)}"
        case "value_error":
            return str(fault["ctx"]["error"])
        case _:
            found = fault["input"]
            shown = "a mapping" if isinstance(found, dict) else "a list" if isinstance(found, tuple) else _shown(found)
            said = f"{fault['msg'][0].lower()}{fault['msg'][1:]}".replace("tuple", "list").replace(
                "dictionary", "mapping"
            )
            return f"{name}: {said.replace(' after validation', '')}; found {shown}"
