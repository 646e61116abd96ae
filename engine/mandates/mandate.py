"""A mandate: the limits a portfolio must keep and what it prefers inside them."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import Field, ValidationInfo, field_validator, model_validator

from engine.documents import Strict, known, parse_document, suggestion
from engine.errors import ConfigurationError
from engine.mandates.costs import Costs
from engine.mandates.lots import Lots
from engine.mandates.priorities import LOWEST, check_priorities, priority_of

LARGEST_EXPOSURE: Final = 10.0
"""A factor exposure beyond this is a slip of the pen (percent for fraction) and refused."""

LARGEST_GROSS: Final = 10.0
"""Gross exposure beyond this is a slip of the pen and refused."""

Tier: TypeAlias = Annotated[str, known("bucket", "tier")]
Sector: TypeAlias = Annotated[str, known("sector", "sector")]
Factor: TypeAlias = Annotated[str, known("factor", "factor")]
Security: TypeAlias = Annotated[str, known("security", "security")]

LEAST_COST: Final = 1e-6
"""Lowest cost of a name where costs alone are minimised, fraction of the traded value: a hundredth of a basis point."""

LISTS: Final = ("excluded", "no_buy", "no_sell", "frozen")


class Band(Strict):
    """Lowest and highest share of NAV; a side that is not given does not bind. Only a weight may be below 0."""

    min: float = Field(default=0.0, ge=-1.0, le=1.0)
    max: float = Field(default=1.0, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _in_order(self) -> "Band":
        _refuse_disorder(self.min, self.max)
        return self


class ActiveBand(Strict):
    """Lowest and highest share of NAV above the benchmark's; a side that is not given does not bind."""

    min: float = Field(default=-1.0, ge=-1.0, le=1.0)
    max: float = Field(default=1.0, ge=-1.0, le=1.0)

    @model_validator(mode="after")
    def _in_order(self) -> "ActiveBand":
        _refuse_disorder(self.min, self.max)
        return self


class ExposureBand(Strict):
    """Lowest and highest exposure to a factor, in the factor's own unit; a side that is not given does not bind."""

    min: float = Field(default=-LARGEST_EXPOSURE, ge=-LARGEST_EXPOSURE, le=LARGEST_EXPOSURE)
    max: float = Field(default=LARGEST_EXPOSURE, ge=-LARGEST_EXPOSURE, le=LARGEST_EXPOSURE)

    @model_validator(mode="after")
    def _in_order(self) -> "ExposureBand":
        _refuse_disorder(self.min, self.max)
        return self


def _refuse_disorder(low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"min {low} is above max {high}; no portfolio can keep both")


class StressBudget(Strict):
    """The most a portfolio may lose under a scenario, as a fraction of NAV.

    ``absolute`` is the loss of the weights, ``active`` the loss of the weights less the
    benchmark's. ``horizon_days`` is the horizon that the budget was set for. ``robust`` counts
    that many standard deviations of the specific return over the scenario's horizon as loss.
    """

    scenario: str
    max_loss: float = Field(gt=0.0, le=1.0)
    kind: Literal["absolute", "active"] = "absolute"
    horizon_days: int | None = Field(default=None, ge=1, le=252)
    robust: float = Field(default=0.0, ge=0.0, le=10.0)

    @property
    def limit_id(self) -> str:
        """Its name among the limits of a book."""
        return f"stress:{self.scenario}" + (":active" if self.kind == "active" else "")

    @field_validator("scenario")
    @classmethod
    def _is_known(cls, name: str, info: ValidationInfo) -> str:
        allowed = (info.context or {}).get("scenario")
        if allowed is not None and name not in allowed:
            raise ValueError(f"unknown scenario {name!r}{suggestion(name, allowed)}")
        return name


class ShortfallLimit(Strict):
    """The most a portfolio may lose on average over the worst leaves of a tree, as a fraction of NAV.

    ``level`` 0.9 is the mean over the worst tenth of the leaves' probability, a leaf counting in
    part where it straddles that mark; 0 is the mean over all of them. The rest as in ``StressBudget``.
    """

    scenario: str
    level: float = Field(default=0.9, ge=0.0, le=0.999)
    max_loss: float = Field(gt=0.0, le=1.0)
    kind: Literal["absolute", "active"] = "absolute"
    horizon_days: int | None = Field(default=None, ge=1, le=252)

    @property
    def limit_id(self) -> str:
        """Its name among the limits of a book."""
        return f"shortfall:{self.scenario}" + (":active" if self.kind == "active" else "")

    @field_validator("scenario")
    @classmethod
    def _is_a_tree(cls, name: str, info: ValidationInfo) -> str:
        context = info.context or {}
        allowed, trees = context.get("scenario"), context.get("tree")
        if allowed is not None and name not in allowed:
            raise ValueError(f"unknown scenario {name!r}{suggestion(name, trees or allowed)}")
        if trees is not None and name not in trees:
            shown = f"trees are {', '.join(trees)}" if trees else "the library has no tree"
            raise ValueError(f"shortfall:{name}: {name!r} is not a tree and has no leaves; {shown}")
        return name


class ConcentrationLimit(Strict):
    """The most that the ``largest`` positions may be together, as a fraction of NAV.

    A position is an issuer's: its lines are added up, and it counts without sign. ``largest: 1`` caps
    every issuer.
    """

    largest: int = Field(ge=1, le=1000)
    max: float = Field(gt=0.0, le=LARGEST_GROSS)

    @property
    def limit_id(self) -> str:
        """Its name among the limits of a book."""
        return f"concentration:{self.largest}"


class Participation(Strict):
    """The most of a day's volume that a book may trade of one name, on its own.

    A name whose daily volume the securities table does not know is not traded
    (``unknown_volume: hold``) unless the mandate says ``allow``; then it has no such limit.
    """

    max_share: float = Field(gt=0.0, le=1.0)
    unknown_volume: Literal["hold", "allow"] = "hold"


class LimitSet(Strict):
    """Limits, long-only unless a weight may be below 0.

    ``priorities`` say what gives way first where not all can be kept: 0 must hold, 5 goes first. They are
    stated by kind (``tiers: 2``) or by limit (``"stress:deepseek": 3``); where they are not, ``DEFAULTS`` hold.

    What is ``active`` limits the weights less the benchmark's and needs a benchmark; so does
    ``tracking_error``, the most active volatility a year.
    ``max_weight`` and ``max_active_weight`` hold for every name without a band of its own in
    ``weights`` and ``active_weights``; ``max_active_weight`` holds in both directions. A line
    counts to its listed sector; one that has none counts to ``unclassified``.

    A name may be short by ``max_short``, one with a band in ``weights`` down to its ``min``.
    ``gross`` is the most of the weights taken without sign, cash left out; ``net`` a band on their
    sum; ``concentration`` caps the largest positions together. Bands on tiers and sectors limit longs
    less shorts; where a name may be short, the ends 0 and 1 of a band on tiers, sectors or cash count
    as not given, save the 0 of cash.

    Of the lists, ``excluded`` may not be held (what is held is sold, what is short covered),
    ``no_buy`` not bought, ``no_sell`` not sold, ``frozen`` neither; to cover is to buy. None of them
    adds a name to what may be bought.
    """

    max_weight: float = Field(default=1.0, gt=0.0, le=1.0)
    weights: dict[Security, Band] = Field(default_factory=dict)
    max_short: float = Field(default=0.0, ge=0.0, le=1.0)
    gross: float | None = Field(default=None, gt=0.0, le=LARGEST_GROSS)
    net: ExposureBand | None = None
    concentration: tuple[ConcentrationLimit, ...] = ()
    max_active_weight: float = Field(default=1.0, gt=0.0, le=1.0)
    active_weights: dict[Security, ActiveBand] = Field(default_factory=dict)
    turnover: float = Field(default=2.0, ge=0.0, le=2.0)
    participation: Participation | None = None
    tracking_error: float | None = Field(default=None, gt=0.0, le=1.0)
    cash: Band = Field(default_factory=Band)
    tiers: dict[Tier, Band] = Field(default_factory=dict)
    active_tiers: dict[Tier, ActiveBand] = Field(default_factory=dict)
    sectors: dict[Sector, Band] = Field(default_factory=dict)
    active_sectors: dict[Sector, ActiveBand] = Field(default_factory=dict)
    factors: dict[Factor, ExposureBand] = Field(default_factory=dict)
    active_factors: dict[Factor, ExposureBand] = Field(default_factory=dict)
    stress: tuple[StressBudget, ...] = ()
    shortfall: tuple[ShortfallLimit, ...] = ()
    excluded: tuple[Security, ...] = ()
    no_buy: tuple[Security, ...] = ()
    no_sell: tuple[Security, ...] = ()
    frozen: tuple[Security, ...] = ()
    priorities: dict[str, Annotated[int, Field(ge=0, le=LOWEST)]] = Field(default_factory=dict)

    def priority(self, limit_id: str) -> int:
        """Priority of one limit by its id, as in the table ``limits``."""
        return priority_of(limit_id, self.priorities)

    @property
    def active(self) -> tuple[str, ...]:
        """The keys that are measured against the benchmark, besides the stress budgets."""
        keys = ("active_weights", "active_tiers", "active_sectors", "active_factors")
        wide = () if self.max_active_weight == 1.0 else ("max_active_weight",)
        risk = () if self.tracking_error is None else ("tracking_error",)
        tails = ("shortfall",) if any(limit.kind == "active" for limit in self.shortfall) else ()
        return wide + tuple(key for key in keys if getattr(self, key)) + risk + tails

    @property
    def shorts(self) -> bool:
        """Whether any name may be short."""
        return self.max_short > 0.0 or any(band.min < 0.0 for band in self.weights.values())

    @property
    def most_cash(self) -> float:
        """Highest share of cash; what shorts may bring where they are allowed and no maximum is given."""
        return 1.0 + LARGEST_GROSS if self.shorts and self.cash.max == 1.0 else self.cash.max

    @property
    def named(self) -> frozenset[str]:
        """The securities that a band of their own makes candidates, held or not."""
        return frozenset({*self.weights, *self.active_weights})

    @property
    def budgets(self) -> tuple[StressBudget | ShortfallLimit, ...]:
        """Every limit on what a scenario may cost."""
        return (*self.stress, *self.shortfall)

    @field_validator("cash", "tiers", "sectors")
    @classmethod
    def _are_not_short(cls, value: Band | dict[str, Band], info: ValidationInfo) -> Band | dict[str, Band]:
        for name, band in value.items() if isinstance(value, dict) else [("", value)]:
            if band.min < 0.0:
                raise ValueError(
                    f"{info.field_name} {name}".strip() + f": min {band.min:g} is below 0; only a weight may be"
                )
        return value

    @field_validator(*LISTS)
    @classmethod
    def _are_sorted(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(names)))

    @model_validator(mode="after")
    def _lists_agree(self) -> "LimitSet":
        for key, kept in (("no_sell", self.no_sell), ("frozen", self.frozen)):
            if both := sorted({*self.excluded} & {*kept}):
                raise ValueError(f"{', '.join(both)}: in excluded, which sells it, and in {key}; keep one")
        return self

    @field_validator("stress", "shortfall")
    @classmethod
    def _one_budget_each(
        cls, budgets: tuple[StressBudget | ShortfallLimit, ...]
    ) -> tuple[StressBudget | ShortfallLimit, ...]:
        names = [budget.scenario for budget in budgets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two budgets for {', '.join(twice)}; keep one")
        return budgets

    @field_validator("concentration")
    @classmethod
    def _one_cap_each(cls, caps: tuple[ConcentrationLimit, ...]) -> tuple[ConcentrationLimit, ...]:
        counts = [cap.largest for cap in caps]
        if twice := sorted({count for count in counts if counts.count(count) > 1}):
            raise ValueError(f"two caps on the largest {twice[0]}; keep one")
        return caps

    @model_validator(mode="after")
    def _caps_can_bind(self) -> "LimitSet":
        for cap in self.concentration:
            if cap.max > 1.0 and not self.shorts:
                raise ValueError(
                    f"concentration of the largest {cap.largest}: max {cap.max:g} is above 1, the most that a book "
                    f"without shorts holds; {cap.max:g} percent is {cap.max / 100.0:g}"
                )
        return self

    @model_validator(mode="after")
    def _priorities_are_of_limits(self) -> "LimitSet":
        singular = {key: key.removesuffix("s") for key in ("tiers", "active_tiers", "sectors", "active_sectors")}
        singular |= {key: key.removesuffix("s") for key in ("factors", "active_factors")}
        named: dict[str, tuple[str, ...]] = {kind: tuple(getattr(self, key)) for key, kind in singular.items()}
        named["stress"] = tuple(budget.scenario for budget in self.stress)
        named["shortfall"] = tuple(limit.scenario for limit in self.shortfall)
        named["concentration"] = tuple(str(cap.largest) for cap in self.concentration)
        check_priorities(self.priorities, named)
        return self

    @model_validator(mode="after")
    def _add_up(self) -> "LimitSet":
        if self.shorts:
            return self
        floor = self.cash.min + sum(band.min for band in self.weights.values())
        if floor > 1.0 + 1e-12:
            raise ValueError(f"the minimum weights and cash sum to {floor:g} of NAV; at most 1 can be held")
        tiers = self.cash.min + sum(band.min for band in self.tiers.values())
        if tiers > 1.0 + 1e-12:
            raise ValueError(f"the tier and cash minima sum to {tiers:g} of NAV; at most 1 can be held")
        return self


class Mandate(Strict):
    """The file of one mandate.

    What the rebalance minimises, with costs spread over the holding period:

    - ``minimum_active_risk``: ``risk_aversion / 2`` times the active variance against the benchmark
      (against today's holdings where there is none), plus costs.
    - ``mean_variance``: the same less the return that ``alpha`` expects of the weights; without a
      benchmark the variance is that of the weights themselves.
    - ``least_cost``: costs alone, the cheapest trades that cure every breach. A name costs at least
      ``LEAST_COST`` there, so that none is traded for nothing.

    ``alpha`` is the expected return a year by security; a name that is absent is expected to
    return 0, one that the book may not hold is ignored. ``buy_list`` names what may be bought
    besides holdings and benchmark.
    """

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)
    title: str = Field(min_length=1)
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    objective: Literal["minimum_active_risk", "mean_variance", "least_cost"] = "minimum_active_risk"
    risk_aversion: float = Field(default=10.0, gt=0.0, le=1e4)
    alpha: dict[Security, Annotated[float, Field(ge=-1.0, le=1.0)]] = Field(default_factory=dict)
    limits: LimitSet = Field(default_factory=LimitSet)
    costs: Costs = Field(default_factory=Costs)
    lots: Lots = Field(default_factory=Lots)
    buy_list: tuple[Security, ...] = ()

    @field_validator("buy_list")
    @classmethod
    def _is_sorted(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(names)))

    @model_validator(mode="after")
    def _alpha_counts(self) -> "Mandate":
        if self.alpha and self.objective != "mean_variance":
            raise ValueError(
                f"objective {self.objective} looks at no alpha; say objective: mean_variance, or drop alpha"
            )
        return self


def mandate_schema() -> dict[str, Any]:
    """JSON Schema of a mandate file, for an editor."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Mandate.model_json_schema()}


def read_mandates(texts: Mapping[str, str], vocabulary: Mapping[str, tuple[str, ...]]) -> dict[str, Mandate]:
    """Every mandate of a folder, by id.

    Args:
        texts: File name to text; ``diversified.yaml`` must hold the mandate ``diversified``.
        vocabulary: Known names by kind: ``scenario``, ``bucket`` (tiers and off_curve), ``security``,
            ``sector`` (with unclassified), ``factor``, ``tree`` (scenarios that have leaves).

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
        if mandate.id != stem_of(name):
            faults.append(f"{name}:1:1: holds mandate {mandate.id!r}; file and id must agree")
        mandates[mandate.id] = mandate
    if faults:
        raise ConfigurationError(faults)
    return mandates


def stem_of(source: str) -> str:
    """The id that a file's name promises."""
    return source.rsplit("/", 1)[-1].removesuffix(".yaml")
