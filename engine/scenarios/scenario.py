"""A scenario: a story, and the numbers it states about factors, tiers and securities."""

import datetime as dt
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from engine.conventions import MARKET
from engine.documents import Strict, parse_document, suggestion


class View(Strict):
    """One number that the scenario states, with where it comes from.

    ``factor`` + ``value`` moves a factor as it is (a tier's name means its pure factor);
    ``tier`` + ``total`` states what the tape shows for the tier, ``tier`` + ``pure`` the
    part beyond the market; ``security`` + ``total`` states one name's return.
    """

    factor: str | None = None
    tier: str | None = None
    security: str | None = None
    value: float | None = Field(default=None, ge=-2.0, le=10.0)
    total: float | None = Field(default=None, ge=-1.0, le=10.0)
    pure: float | None = Field(default=None, ge=-2.0, le=10.0)
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _one_subject_one_number(self) -> "View":
        subjects = [name for name in ("factor", "tier", "security") if getattr(self, name) is not None]
        numbers = [name for name in ("value", "total", "pure") if getattr(self, name) is not None]
        if len(subjects) != 1:
            raise ValueError(f"a view names one of factor, tier, security; found {', '.join(subjects) or 'none'}")
        allowed = {"factor": ("value",), "tier": ("total", "pure"), "security": ("total",)}[subjects[0]]
        if len(numbers) != 1 or numbers[0] not in allowed:
            found = ", ".join(numbers) or "none"
            raise ValueError(f"a {subjects[0]} view takes one number, {' or '.join(allowed)}; found {found}")
        if self.factor == MARKET and self.value is not None and self.value < -1.0:
            raise ValueError(f"the market cannot lose more than everything; found {self.value}")
        return self

    @field_validator("factor", "tier", "security")
    @classmethod
    def _is_known(cls, name: str | None, info: ValidationInfo) -> str | None:
        known = (info.context or {}).get(info.field_name or "")
        if name is not None and known is not None and name not in known:
            raise ValueError(f"unknown {info.field_name} {name!r}{suggestion(name, known)}")
        return name

    @property
    def subject(self) -> tuple[str, str]:
        """What the view is about: its kind and name."""
        for kind in ("factor", "tier", "security"):
            name = getattr(self, kind)
            if name is not None:
                return kind, name
        raise AssertionError("a view has a subject by construction")

    @property
    def number(self) -> float:
        """The number stated, a return over the horizon."""
        return next(v for v in (self.value, self.total, self.pure) if v is not None)


class ScenarioBody(Strict):
    """The text of a scenario file."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)
    title: str = Field(min_length=1)
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    kind: Literal["shock"]
    horizon_days: int = Field(ge=1, le=252)
    narrative: str = Field(min_length=1)
    author: str = Field(min_length=1)
    approved_by: str | None = None
    valid_until: dt.date | None = None
    propagation: Literal["none", "conditional"]
    damping: float = Field(default=0.0, ge=0.0, le=1.0)
    views: tuple[View, ...] = Field(min_length=1)

    @field_validator("views")
    @classmethod
    def _each_subject_once(cls, views: tuple[View, ...]) -> tuple[View, ...]:
        subjects = [view.subject for view in views]
        if twice := sorted({" ".join(subject) for subject in subjects if subjects.count(subject) > 1}):
            raise ValueError(f"two views on {', '.join(twice)}; state each once")
        return views

    @model_validator(mode="after")
    def _damping_has_something_to_damp(self) -> "ScenarioBody":
        if self.propagation == "none" and self.damping > 0.0:
            raise ValueError("damping has no meaning with propagation none; remove it or write conditional")
        return self


@dataclass(frozen=True, slots=True)
class Scenario:
    """A valid scenario and the hash of the text that says it."""

    body: ScenarioBody
    sha256: str

    @property
    def id(self) -> str:
        """Its name."""
        return self.body.id


def read_scenario(text: str, source: str, vocabulary: Mapping[str, tuple[str, ...]]) -> Scenario:
    """The scenario in the text of one file.

    Args:
        text: The whole file.
        source: Its name, for the messages.
        vocabulary: Known names by kind: ``factor``, ``tier``, ``security``.

    Raises:
        ConfigurationError: every fault with line, column and a suggestion.
    """
    body = parse_document(text, source, ScenarioBody, vocabulary)
    return Scenario(body, hashlib.sha256(text.encode()).hexdigest())
