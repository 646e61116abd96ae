"""The text of a scenario file by kind: what every scenario says, and the body of each kind."""

import datetime as dt
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field, TypeAdapter, ValidationInfo, field_validator, model_validator

from engine.documents import Strict, suggestion
from engine.scenarios.drivers import Demand, Transmission, respond
from engine.scenarios.views import View

TOTAL: Final = 1e-9
"""How far probabilities may miss 1: written numbers are rounded."""

Propagation: TypeAlias = Literal["none", "conditional", "historical"]
"""Views as they stand, the model's mean given them, or the past reweighted until they hold."""


class Liquidity(Strict):
    """What the scenario does to the market's depth: spreads times ``spread``, volumes times ``volume``.

    Heavy volume on the day does not make an exit cheap, so ``volume`` is at most 1.
    """

    spread: float = Field(default=1.0, ge=1.0, le=100.0)
    volume: float = Field(default=1.0, gt=0.0, le=1.0)
    source: str = Field(min_length=1)


def _known_tier(name: str, info: ValidationInfo) -> str:
    known = (info.context or {}).get("tier")
    if known is not None and name not in known:
        raise ValueError(f"unknown tier {name!r}{suggestion(name, known)}")
    return name


class Header(Strict):
    """What every scenario says about itself."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)
    title: str = Field(min_length=1)
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    extend: str | None = None
    horizon_days: int = Field(ge=1, le=756)
    narrative: str = Field(min_length=1)
    sources: tuple[str, ...] = ()
    author: str = Field(min_length=1)
    approved_by: str | None = Field(default=None, min_length=1)
    valid_until: dt.date | None = None
    describes: tuple[dt.date, ...] = ()
    liquidity: Liquidity | None = None

    @field_validator("describes")
    @classmethod
    def _in_order(cls, dates: tuple[dt.date, ...]) -> tuple[dt.date, ...]:
        if list(dates) != sorted(set(dates)):
            raise ValueError("describes: write the dates in order, each once")
        return dates

    @property
    def references(self) -> tuple[str, ...]:
        """Ids of the scenarios that this one is made of."""
        return ()


class ShockBody(Header):
    """``kind: shock``: views, read as they stand or propagated."""

    kind: Literal["shock"]
    propagation: Propagation
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
    def _damping_has_something_to_damp(self) -> "ShockBody":
        _refuse_idle_damping(self.propagation, self.damping)
        return self


class DriversBody(Header):
    """``kind: drivers``: economic inputs, turned into a total view on each tier named."""

    kind: Literal["drivers"]
    propagation: Propagation
    damping: float = Field(default=0.0, ge=0.0, le=1.0)
    demand: Demand
    tiers: dict[Annotated[str, AfterValidator(_known_tier)], Transmission] = Field(min_length=1)
    also: tuple[View, ...] = ()

    @model_validator(mode="after")
    def _says_each_thing_once(self) -> "DriversBody":
        _refuse_idle_damping(self.propagation, self.damping)
        if twice := sorted({view.tier for view in self.also if view.tier in self.tiers}, key=str):
            raise ValueError(f"the drivers already move {', '.join(map(str, twice))}; remove the view under also")
        return self

    @property
    def views(self) -> tuple[View, ...]:
        """What the drivers state: the total return of each tier, then the views under ``also``."""
        moves = respond(self.demand, self.tiers, draws=1).tiers
        return (*(View(tier=tier, total=move, source="drivers") for tier, move in moves.items()), *self.also)


class ReplayDay(Strict):
    """One day of a replay: the returns of the market and of the baskets, carried inline."""

    date: dt.date
    market: float | None = Field(default=None, ge=-1.0, le=10.0)
    tiers: dict[str, float] = Field(default_factory=dict)
    source: str = Field(min_length=1)

    @field_validator("tiers")
    @classmethod
    def _tiers_are_known(cls, tiers: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        known = (info.context or {}).get("tier")
        for name, value in tiers.items():
            if known is not None and name not in known:
                raise ValueError(f"unknown tier {name!r}{suggestion(name, known)}")
            if not -1.0 <= value <= 10.0:
                raise ValueError(f"tier {name} returns {value:g}; at least -1")
        return tiers


class ReplayBody(Header):
    """``kind: replay``: days that were, one after the other."""

    kind: Literal["replay"]
    days: tuple[ReplayDay, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _days_are_the_horizon(self) -> "ReplayBody":
        dates = [day.date for day in self.days]
        if dates != sorted(set(dates)):
            raise ValueError("days: write the dates in order, each once")
        if len(dates) != self.horizon_days:
            raise ValueError(f"horizon_days is {self.horizon_days}, but {len(dates)} days are replayed")
        return self


class Leaf(Strict):
    """One way that a tree may go."""

    scenario: str
    probability: float = Field(gt=0.0, le=1.0)
    source: str = Field(min_length=1)


class TreeBody(Header):
    """``kind: tree``: other scenarios with probabilities that sum to 1."""

    kind: Literal["tree"]
    leaves: tuple[Leaf, ...] = Field(min_length=2)

    @field_validator("leaves")
    @classmethod
    def _probabilities_sum_to_one(cls, leaves: tuple[Leaf, ...]) -> tuple[Leaf, ...]:
        names = [leaf.scenario for leaf in leaves]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} is a leaf more than once; add its probabilities up")
        total = sum(leaf.probability for leaf in leaves)
        if not abs(total - 1.0) <= TOTAL:
            raise ValueError(f"the probabilities of the leaves sum to {total:g}; they must sum to 1")
        return leaves

    @property
    def references(self) -> tuple[str, ...]:
        """The leaves."""
        return tuple(leaf.scenario for leaf in self.leaves)


class Step(Strict):
    """One step of a path: a scenario that begins on a trading day, counted from 1."""

    day: int = Field(ge=1, le=756)
    scenario: str
    source: str = Field(min_length=1)


class PathBody(Header):
    """``kind: path``: scenarios one after the other; their returns compound."""

    kind: Literal["path"]
    steps: tuple[Step, ...] = Field(min_length=1)

    @field_validator("steps")
    @classmethod
    def _days_ascend(cls, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        days = [step.day for step in steps]
        if days != sorted(set(days)):
            raise ValueError("steps: write the days in order, each once")
        return steps

    @property
    def references(self) -> tuple[str, ...]:
        """The steps."""
        return tuple(step.scenario for step in self.steps)


Body: TypeAlias = ShockBody | DriversBody | ReplayBody | TreeBody | PathBody

KINDS: Final[dict[str, type[Body]]] = {
    "shock": ShockBody,
    "replay": ReplayBody,
    "drivers": DriversBody,
    "tree": TreeBody,
    "path": PathBody,
}
"""The body of each kind."""


def scenario_schema() -> dict[str, Any]:
    """JSON Schema of a scenario file, for an editor."""
    schema = TypeAdapter(Body).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Scenario", **schema}


def _refuse_idle_damping(propagation: str, damping: float) -> None:
    if propagation == "none" and damping > 0.0:
        raise ValueError("damping has no meaning with propagation none; remove it or write conditional")
