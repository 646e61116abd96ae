"""A scenario: a story, the numbers it states, and the scenarios that it is made of."""

import datetime as dt
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from engine.documents import Document, Place, load_document, suggestion, validate_values
from engine.errors import ConfigurationError
from engine.scenarios.kinds import KINDS, Body

OWN: Final = ("approved_by", "valid_until", "extend", "describes")
"""What an extension does not take over: an approval holds for the text that was read."""

MERGED: Final = ("demand", "tiers")
"""Mappings of which an extension replaces the keys it writes."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A valid scenario.

    Args:
        body: What its file says, the base of an extension filled in.
        sha256: Hash of its text and of every text that it extends or is made of.
        parts: The scenarios of a tree's leaves or a path's steps, in order.
    """

    body: Body
    sha256: str
    parts: tuple["Scenario", ...] = ()

    @property
    def id(self) -> str:
        """Its name."""
        return self.body.id

    @property
    def family(self) -> tuple["Scenario", ...]:
        """Itself and all that it is made of."""
        return (self, *(member for part in self.parts for member in part.family))

    def lacks_approval(self, as_of: dt.date) -> str | None:
        """Why it may not be used where approval is asked for; None if it may."""
        if self.body.approved_by is None:
            return "is not approved; approved_by is empty"
        if self.body.valid_until is not None and self.body.valid_until < as_of:
            return f"was approved until {self.body.valid_until}, before {as_of}"
        return None


@dataclass(frozen=True, slots=True)
class Draft:
    """A scenario's text with the text of its base filled in, not yet judged.

    Args:
        values: Keys and plain values.
        origins: The document in which each key was written.
        views: For each view, the document and the position there.
        sha256: Hash of the texts.
    """

    values: Mapping[Any, Any]
    origins: Mapping[Any, Document]
    views: tuple[tuple[Document, int], ...]
    sha256: str

    def place(self, path: Place, *, missing: bool = False) -> tuple[str, int, int]:
        """File, line and column where a value was written; of a missing key, the file that lacks it."""
        own = self.origins[""]
        key = str(path[0]) if path else ""
        if key == "views" and len(path) > 1 and isinstance(path[1], int) and path[1] < len(self.views):
            document, at = self.views[path[1]]
            return document.place(("views", at, *path[2:]), missing=missing)
        if key in MERGED and len(path) > 1 and path[1] in (own.values.get(key) or {}):
            return own.place(path, missing=missing)
        return self.origins.get(key, own).place(path, missing=missing)


def draft_scenario(text: str, source: str) -> Draft:
    """Read the text of one file.

    Raises:
        ConfigurationError: it is not the YAML that is read here.
    """
    document = load_document(text, source)
    views = document.values.get("views")
    places = tuple((document, at) for at in range(len(views))) if isinstance(views, tuple) else ()
    origins = {**dict.fromkeys(document.values, document), "": document}
    return Draft(document.values, origins, places, hashlib.sha256(text.encode()).hexdigest())


def extend_draft(child: Draft, base: Draft) -> Draft:
    """The child on top of its base.

    A key that the child writes replaces the base's; ``demand`` and ``tiers`` are merged key by
    key; a view replaces the base's view on the same subject, further ones are added. The
    base's approval, expiry and dates are not taken over.
    """
    values = {key: value for key, value in base.values.items() if key not in OWN} | dict(child.values)
    origins = dict(base.origins) | dict(child.origins)
    for key in MERGED:
        ours, theirs = child.values.get(key), base.values.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            values[key], origins[key] = theirs | ours, base.origins[key]
    views = child.views or base.views
    ours, theirs = child.values.get("views"), base.values.get("views")
    if isinstance(ours, tuple) and isinstance(theirs, tuple):
        said = [_subject(view) for view in ours]
        kept = [at for at, view in enumerate(theirs) if _subject(view) not in said]
        values["views"] = (*(theirs[at] for at in kept), *ours)
        views = (*(base.views[at] for at in kept), *child.views)
    digest = hashlib.sha256(f"{base.sha256}{child.sha256}".encode()).hexdigest()
    return Draft(values, origins, views, digest)


def settle_scenario(
    draft: Draft, vocabulary: Mapping[str, tuple[str, ...]], parts: Mapping[str, Scenario] | None = None
) -> Scenario:
    """The scenario that a draft says.

    Args:
        draft: Its text, bases filled in.
        vocabulary: Known names by kind: ``factor``, ``tier``, ``security``.
        parts: The scenarios that it is made of, by id.

    Raises:
        ConfigurationError: every fault with line, column and a suggestion.
    """
    kind = draft.values.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        missing = "kind" not in draft.values
        source, line, column = draft.place(("kind",), missing=missing)
        known = ", ".join(KINDS)
        words = (
            f"missing key 'kind'; one of {known}" if missing else f"unknown kind {kind!r}{suggestion(str(kind), KINDS)}"
        )
        raise ConfigurationError([f"{source}:{line}:{column}: {words}"])
    body: Body = validate_values(draft.values, KINDS[kind], draft.place, vocabulary)
    known_parts = parts or {}
    members = tuple(known_parts[name] for name in body.references)
    digest = draft.sha256
    if members:
        digest = hashlib.sha256("".join([digest, *(part.sha256 for part in members)]).encode()).hexdigest()
    return Scenario(body, digest, members)


def _subject(view: Any) -> Any:
    """What a view of a draft is about, before anyone knows that it is one."""
    if not isinstance(view, dict):
        return None
    named = ("factor", "tier", "security", "basket", "contrast")
    return tuple((name, view[name]) for name in named if name in view)
