"""A mandate: the limits a portfolio must keep and what it prefers inside them."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from engine.documents import Strict, parse_document, suggestion
from engine.errors import ConfigurationError


class Band(Strict):
    """Lowest and highest share of NAV; a side that is not given does not bind."""

    min: float = Field(default=0.0, ge=0.0, le=1.0)
    max: float = Field(default=1.0, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _in_order(self) -> "Band":
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}; no portfolio can keep both")
        return self


class StressBudget(Strict):
    """The most a portfolio may lose under a scenario, as a fraction of NAV.

    ``absolute`` is the loss of the weights, ``active`` the loss of the weights less the
    benchmark's. ``horizon_days`` is the horizon that the budget was set for.
    """

    scenario: str
    max_loss: float = Field(gt=0.0, le=1.0)
    kind: Literal["absolute", "active"] = "absolute"
    horizon_days: int | None = Field(default=None, ge=1, le=252)

    @property
    def limit_id(self) -> str:
        """Its name among the limits of a book."""
        return f"stress:{self.scenario}" + (":active" if self.kind == "active" else "")

    @field_validator("scenario")
    @classmethod
    def _is_known(cls, name: str, info: ValidationInfo) -> str:
        known = (info.context or {}).get("scenario")
        if known is not None and name not in known:
            raise ValueError(f"unknown scenario {name!r}{suggestion(name, known)}")
        return name


class LimitSet(Strict):
    """Limits, all long-only, all of priority 0: they must hold."""

    max_weight: float = Field(default=1.0, gt=0.0, le=1.0)
    weights: dict[str, Band] = Field(default_factory=dict)
    turnover: float = Field(default=2.0, ge=0.0, le=2.0)
    cash: Band = Field(default_factory=Band)
    tiers: dict[str, Band] = Field(default_factory=dict)
    stress: tuple[StressBudget, ...] = ()

    @field_validator("tiers", "weights")
    @classmethod
    def _keys_are_known(cls, bands: dict[str, Band], info: ValidationInfo) -> dict[str, Band]:
        kind = "bucket" if info.field_name == "tiers" else "security"
        known = (info.context or {}).get(kind)
        for name in bands:
            if known is not None and name not in known:
                word = "tier" if kind == "bucket" else kind
                raise ValueError(f"unknown {word} {name!r}{suggestion(name, known)}")
        return bands

    @field_validator("stress")
    @classmethod
    def _one_budget_each(cls, budgets: tuple[StressBudget, ...]) -> tuple[StressBudget, ...]:
        names = [budget.scenario for budget in budgets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two budgets for {', '.join(twice)}; keep one")
        return budgets

    @model_validator(mode="after")
    def _add_up(self) -> "LimitSet":
        floor = self.cash.min + sum(band.min for band in self.weights.values())
        if floor > 1.0 + 1e-12:
            raise ValueError(f"the minimum weights and cash sum to {floor:g} of NAV; at most 1 can be held")
        tiers = self.cash.min + sum(band.min for band in self.tiers.values())
        if tiers > 1.0 + 1e-12:
            raise ValueError(f"the tier and cash minima sum to {tiers:g} of NAV; at most 1 can be held")
        return self


class Costs(Strict):
    """Linear trading costs; a security without a half-spread pays ``half_spread_bps``."""

    half_spread_bps: float = Field(default=5.0, ge=0.0, le=1000.0)
    holding_years: float = Field(default=1.0, gt=0.0, le=30.0)


class Mandate(Strict):
    """The file of one mandate.

    The objective is ``risk_aversion / 2`` times the active variance against the benchmark
    (against today's holdings where there is none) plus the linear costs over the holding
    period. ``buy_list`` names what may be bought besides holdings and benchmark.
    """

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)
    title: str = Field(min_length=1)
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    risk_aversion: float = Field(default=10.0, gt=0.0, le=1e4)
    limits: LimitSet = Field(default_factory=LimitSet)
    costs: Costs = Field(default_factory=Costs)
    buy_list: tuple[str, ...] = ()

    @field_validator("buy_list")
    @classmethod
    def _is_listed(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known = (info.context or {}).get("security")
        for name in names:
            if known is not None and name not in known:
                raise ValueError(f"unknown security {name!r}{suggestion(name, known)}")
        return tuple(sorted(set(names)))


def mandate_schema() -> dict[str, Any]:
    """JSON Schema of a mandate file, for an editor."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Mandate.model_json_schema()}


def read_mandates(texts: Mapping[str, str], vocabulary: Mapping[str, tuple[str, ...]]) -> dict[str, Mandate]:
    """Every mandate of a folder, by id.

    Args:
        texts: File name to text; ``diversified.yaml`` must hold the mandate ``diversified``.
        vocabulary: Known names by kind: ``scenario``, ``bucket`` (tiers and off_curve), ``security``.

    Raises:
        ConfigurationError: every fault of every file; a limit that is wrong is no limit.
    """
    mandates: dict[str, Mandate] = {}
    faults: list[str] = []
    for name, text in sorted(texts.items()):
        try:
            mandate = parse_document(text, name, Mandate, vocabulary)
        except ConfigurationError as error:
            faults += error.faults
            continue
        stem = name.rsplit("/", 1)[-1].removesuffix(".yaml")
        if mandate.id != stem:
            faults.append(f"{name}:1:1: holds mandate {mandate.id!r}; file and id must agree")
        mandates[mandate.id] = mandate
    if faults:
        raise ConfigurationError(faults)
    return mandates


def check_horizons(mandates: Mapping[str, Mandate], horizons: Mapping[str, int]) -> None:
    """Refuse a budget that was set for another horizon than its scenario has.

    Args:
        mandates: By id.
        horizons: Trading days by scenario; a scenario that is not named is not checked.

    Raises:
        ConfigurationError: every budget whose ``horizon_days`` is not its scenario's.
    """
    faults = [
        f"mandate {mandate.id}: its budget on {budget.scenario} is for {budget.horizon_days} trading days, "
        f"the scenario runs {horizons[budget.scenario]}; state the same horizon in both"
        for mandate in mandates.values()
        for budget in mandate.limits.stress
        if budget.horizon_days is not None and budget.scenario in horizons
        if budget.horizon_days != horizons[budget.scenario]
    ]
    if faults:
        raise ConfigurationError(faults)
