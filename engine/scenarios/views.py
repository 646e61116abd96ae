"""A view: one number that a scenario states, about a factor, tier, security, basket or contrast."""

import re
from typing import Final, Literal, TypeAlias

from pydantic import Field, ValidationInfo, field_validator, model_validator

from engine.conventions import MARKET
from engine.documents import Strict, suggestion

SubjectKind: TypeAlias = Literal["factor", "tier", "security", "basket", "contrast"]

_NUMBERS: Final = {
    "factor": ("value",),
    "tier": ("total", "pure"),
    "security": ("total",),
    "basket": ("total",),
    "contrast": ("total", "pure"),
}
"""What may be said of each kind of subject."""


class View(Strict):
    """One number that the scenario states, with where it comes from.

    ``factor`` + ``value`` moves a factor as it is (a tier's name means its pure factor);
    ``tier`` + ``total`` states what the tape shows for the tier, ``tier`` + ``pure`` the
    part beyond the market; ``security`` + ``total`` states one name's return, ``basket`` +
    ``total`` the mean return of several; ``contrast: ai_semis - software`` states the
    difference of two tiers, total or pure.
    """

    factor: str | None = None
    tier: str | None = None
    security: str | None = None
    basket: tuple[str, ...] | None = Field(default=None, min_length=2)
    contrast: str | None = None
    value: float | None = Field(default=None, ge=-2.0, le=10.0)
    total: float | None = Field(default=None, ge=-2.0, le=10.0)
    pure: float | None = Field(default=None, ge=-2.0, le=10.0)
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _one_subject_one_number(self) -> "View":
        subjects = [name for name in _NUMBERS if getattr(self, name) is not None]
        numbers = [name for name in ("value", "total", "pure") if getattr(self, name) is not None]
        if len(subjects) != 1:
            raise ValueError(f"a view names one of {', '.join(_NUMBERS)}; found {', '.join(subjects) or 'none'}")
        allowed = _NUMBERS[subjects[0]]
        if len(numbers) != 1 or numbers[0] not in allowed:
            found = ", ".join(numbers) or "none"
            raise ValueError(f"a {subjects[0]} view takes one number, {' or '.join(allowed)}; found {found}")
        if self.factor == MARKET and self.value is not None and self.value < -1.0:
            raise ValueError(f"the market cannot lose more than everything; found {self.value}")
        if self.contrast is None and self.total is not None and self.total < -1.0:
            raise ValueError(f"total: input should be greater than or equal to -1; found {self.total}")
        return self

    @field_validator("factor", "tier", "security")
    @classmethod
    def _is_known(cls, name: str | None, info: ValidationInfo) -> str | None:
        _refuse_unknown(name, info.field_name or "", info)
        return name

    @field_validator("basket")
    @classmethod
    def _members_are_known(cls, names: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        for name in names or ():
            _refuse_unknown(name, "security", info)
        if names and len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"the basket names {', '.join(twice)} more than once")
        return names

    @field_validator("contrast")
    @classmethod
    def _names_two_tiers(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is None:
            return None
        match = re.fullmatch(r"\s*([a-z][a-z0-9_]*)\s+-\s+([a-z][a-z0-9_]*)\s*", text)
        if match is None:
            raise ValueError(f"a contrast is written 'ai_semis - software'; found {text!r}")
        for name in match.groups():
            _refuse_unknown(name, "tier", info)
        if match[1] == match[2]:
            raise ValueError(f"the contrast {text!r} sets {match[1]} against itself")
        return f"{match[1]} - {match[2]}"

    @property
    def subject(self) -> tuple[SubjectKind, str]:
        """What the view is about: its kind and name."""
        if self.basket is not None:
            return "basket", " + ".join(self.basket)
        kinds: tuple[SubjectKind, ...] = ("factor", "tier", "security", "contrast")
        for kind in kinds:
            name = getattr(self, kind)
            if name is not None:
                return kind, name
        raise AssertionError("a view has a subject by construction")

    @property
    def sides(self) -> tuple[str, str]:
        """The two tiers of a contrast, the first less the second."""
        first, _, second = (self.contrast or "").partition(" - ")
        return first, second

    @property
    def number(self) -> float:
        """The number stated, a return over the horizon."""
        return next(v for v in (self.value, self.total, self.pure) if v is not None)


def _refuse_unknown(name: str | None, kind: str, info: ValidationInfo) -> None:
    known = (info.context or {}).get(kind)
    if name is not None and known is not None and name not in known:
        raise ValueError(f"unknown {kind} {name!r}{suggestion(name, known)}")
