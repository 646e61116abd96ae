"""A universe: the ordered tiers, their baskets, and every security's declared membership."""

from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from engine.axes import Axis
from engine.contracts import empty
from engine.conventions import MARKET, OFF_CURVE
from engine.documents import Strict, parse_document, suggestion
from engine.errors import ContractError
from engine.intake import admit


class Tier(Strict):
    """One rung of the curve and the core names whose mean return defines it."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)
    title: str
    core: tuple[str, ...] = Field(min_length=2)

    @field_validator("core")
    @classmethod
    def _distinct(cls, core: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(core)) != len(core):
            twice = sorted({name for name in core if core.count(name) > 1})
            raise ValueError(f"core names {', '.join(twice)} more than once")
        return core


class Market(Strict):
    """The first factor: the cap-weighted return of the universe's stocks, or a named proxy."""

    proxy: str | None = None


class CalibrationSettings(Strict):
    """Hyperparameters of the risk model; chosen on days before 2025 (MATH 1-2)."""

    history_days: int = Field(default=504, ge=60, le=5040)
    minimum_days: int = Field(default=63, ge=20)
    exposure_half_life_days: float = Field(default=63.0, gt=1)
    day_weight_power: float = Field(default=0.0, ge=0.0, le=2.0)
    huber_threshold: float | None = Field(default=None, gt=0.0, le=100.0)
    peer_levels: tuple[Literal["gics_sector", "gics_sub_industry"], ...] = ()
    volatility_half_life_days: float = Field(default=42.0, gt=1)
    correlation_half_life_days: float = Field(default=126.0, gt=1)
    specific_half_life_days: float = Field(default=63.0, gt=1)
    basket_weights: Literal["equal", "sqrt_cap"] = "equal"
    industry_level: Literal["gics_sector", "gics_sub_industry"] | None = None
    industry_minimum_names: int = Field(default=5, ge=2)
    newey_west_lags: int = Field(default=0, ge=0, le=20)
    correlation_shrinkage: float = Field(default=0.0, ge=0.0, le=1.0)
    eigenfactor: bool = False
    regime_half_life_days: float | None = Field(default=None, gt=1)
    specific_regime_half_life_days: float | None = Field(default=None, gt=1)
    stress_factor: str | None = None


class LiquiditySettings(Strict):
    """What leaving a position costs in a stressed market, and how fast one may leave (MATH 4).

    ``spread_multiple`` widens every half-spread, ``volume_multiple`` scales the day's volume (at
    most 1: heavy event volume must not cheapen the exit), ``impact`` is the number before the
    square root, ``participation`` the share of a day's volume that one seller may be.
    """

    spread_multiple: float = Field(default=2.0, ge=1.0, le=100.0)
    volume_multiple: float = Field(default=1.0, gt=0.0, le=1.0)
    impact: float = Field(default=1.0, ge=0.0, le=10.0)
    participation: float = Field(default=0.10, gt=0.0, le=1.0)
    half_spread_bps: float = Field(default=10.0, ge=0.0, le=1000.0)


class StressSettings(Strict):
    """What ``engine stress`` does when it is not told, and from where on it doubts a scenario.

    ``whipsaw`` is the scenario under which a rebalance is regretted; when it is not said,
    ``overreaction`` where the library has it.
    """

    scenario: str = "deepseek"
    whipsaw: str | None = None
    band: float = Field(default=0.80, gt=0.0, lt=1.0)
    max_extrapolation: float = Field(default=4.0, gt=0.0)
    min_propagation_r2: float = Field(default=0.05, ge=0.0, le=1.0)
    max_condition: float = Field(default=1e4, ge=1.0)
    liquidity: LiquiditySettings = Field(default_factory=LiquiditySettings)
    default_loss_scale: float = Field(default=0.10, gt=0.0, le=1.0)


class FirmLiquidity(Strict):
    """The most of a day's volume of a name that all books of the universe may trade together.

    ``firm_participation`` is shared out before the books are rebalanced; none is shared out where
    it is not given. ``unknown_volume`` says whether a name without a known volume is held or
    traded without such a cap.
    """

    firm_participation: float | None = Field(default=None, gt=0.0, le=1.0)
    unknown_volume: Literal["hold", "allow"] = "hold"


class UniverseSettings(Strict):
    """The file ``universe.yaml``."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)
    title: str
    base_currency: str = Field(pattern=r"^[A-Z]{3}$")
    unmapped_share: float = Field(default=0.02, ge=0.0, le=1.0)
    market: Market = Field(default_factory=Market)
    tiers: tuple[Tier, ...] = Field(min_length=2)
    calibration: CalibrationSettings = Field(default_factory=CalibrationSettings)
    stress: StressSettings = Field(default_factory=StressSettings)
    liquidity: FirmLiquidity = Field(default_factory=FirmLiquidity)

    @field_validator("tiers")
    @classmethod
    def _ids_and_cores_are_distinct(cls, tiers: tuple[Tier, ...], info: ValidationInfo) -> tuple[Tier, ...]:
        ids = [tier.id for tier in tiers]
        reserved = {MARKET, OFF_CURVE, "specific"} & set(ids)
        if reserved:
            raise ValueError(f"{', '.join(sorted(reserved))} is a reserved word; give the tier another id")
        if len(set(ids)) != len(ids):
            raise ValueError(f"tier ids repeat: {', '.join(sorted({i for i in ids if ids.count(i) > 1}))}")
        owners: dict[str, str] = {}
        for tier in tiers:
            for name in tier.core:
                if name in owners:
                    raise ValueError(f"{name} is core of both {owners[name]} and {tier.id}; a core name has one tier")
                owners[name] = tier.id
        return tiers

    @model_validator(mode="after")
    def _history_is_long_enough(self) -> "UniverseSettings":
        if self.calibration.minimum_days > self.calibration.history_days:
            raise ValueError(
                f"calibration: minimum_days {self.calibration.minimum_days} is above "
                f"history_days {self.calibration.history_days}"
            )
        return self

    @property
    def tier_ids(self) -> tuple[str, ...]:
        """Tiers from the first rung to the last."""
        return tuple(tier.id for tier in self.tiers)

    @property
    def core(self) -> dict[str, str]:
        """Tier of every core name."""
        return {name: tier.id for tier in self.tiers for name in tier.core}


@dataclass(frozen=True, slots=True)
class Universe:
    """Settings, securities and declared memberships that agree with each other.

    Args:
        settings: The file ``universe.yaml``.
        securities: Table ``securities``, sorted by id.
        memberships: Table ``memberships`` of the core and declared names; the part of a
            security that no row claims is off the curve.
        compositions: Table ``compositions`` as read; without rows where there is none.
    """

    settings: UniverseSettings
    securities: pl.DataFrame
    memberships: pl.DataFrame
    compositions: pl.DataFrame = field(default_factory=lambda: empty("compositions"))


def read_settings(text: str, source: str) -> UniverseSettings:
    """The settings in the text of a ``universe.yaml``.

    Raises:
        ConfigurationError: every fault with its line and column.
    """
    return parse_document(text, source, UniverseSettings)


def replace_baskets(settings: UniverseSettings, baskets: pl.DataFrame, source: str) -> UniverseSettings:
    """The settings with the tiers and core names of a table (tier, security_id) instead.

    Args:
        settings: The universe to change.
        baskets: One row a core name; tiers are ordered by their first row.
        source: File of the table, for the messages.

    Raises:
        ContractError: columns missing, fewer than two tiers, a name in two tiers, a bad id.
    """
    if absent := [name for name in ("tier", "security_id") if name not in baskets.columns]:
        raise ContractError(f"baskets ({source})", [f"missing column {name}" for name in absent])
    titles = {tier.id: tier.title for tier in settings.tiers}
    members: dict[str, list[str]] = {}
    for tier, name in baskets.select(pl.col("tier", "security_id").cast(pl.String)).drop_nulls().iter_rows():
        members.setdefault(tier, []).append(name)
    faults = [
        f"tier {tier!r} has {len(names)} core name; at least 2" for tier, names in members.items() if len(names) < 2
    ]
    if len(members) < 2:
        faults.append(f"{len(members)} tiers; at least 2 make a curve")
    if faults:
        raise ContractError(f"baskets ({source})", faults)
    tiers = tuple({"id": t, "title": titles.get(t, t), "core": tuple(names)} for t, names in members.items())
    try:
        return UniverseSettings.model_validate({**settings.model_dump(), "tiers": tiers})
    except ValidationError as error:
        words = [" ".join(fault["msg"].removeprefix("Value error, ").split()) for fault in error.errors()]
        raise ContractError(f"baskets ({source})", words) from None


def without_foreign_tiers(securities: pl.DataFrame, settings: UniverseSettings) -> tuple[pl.DataFrame, int]:
    """The securities without memberships that name a tier of another curve, and how many those were."""
    if "membership" not in securities.columns or securities.schema["membership"] != pl.String:
        return securities, 0
    named = pl.col("membership").str.extract_all(r"[^;:\s]+:").list.eval(pl.element().str.strip_suffix(":"))
    foreign = named.list.set_difference(list(settings.tier_ids)).list.len() > 0
    count = int(securities.select(foreign.fill_null(False).sum()).item())
    kept = pl.when(foreign).then(None).otherwise("membership").alias("membership")
    return securities.with_columns(kept), count


def build_universe(settings: UniverseSettings, securities: pl.DataFrame, source: str) -> Universe:
    """Join settings and securities into a universe.

    Args:
        settings: Tiers, baskets, market, calibration.
        securities: Table ``securities`` as read; a membership reads
            ``hyperscalers:0.6;software:0.4`` and what is missing from 1 is off the curve.
        source: File of the securities, for the messages.

    Raises:
        ContractError: the table breaks its contract, a core name or the market proxy is not
            listed, a membership names an unknown tier, does not parse or exceeds 1.
    """
    frame = admit(securities, "securities", source).frame
    frame = frame.with_columns(pl.col("name").fill_null(pl.col("security_id")))
    listed = set(frame["security_id"].to_list())
    absent = {tier.id: [name for name in tier.core if name not in listed] for tier in settings.tiers}
    faults = [
        f"core names of tier {tier} are not listed: {', '.join(names)}" for tier, names in absent.items() if names
    ]
    if settings.market.proxy is not None and settings.market.proxy not in listed:
        faults.append(f"the market proxy {settings.market.proxy} is not listed")
    rows: list[dict[str, Any]] = []
    declared = frame.filter(pl.col("membership").is_not_null() | pl.col("security_id").is_in(sorted(settings.core)))
    for security, membership in declared.select("security_id", "membership").iter_rows():
        try:
            rows += _membership_rows(security, membership, settings)
        except ValueError as error:
            faults.append(f"{security}: {error}")
    if faults:
        raise ContractError(f"securities ({source})", faults)
    schema = {"security_id": pl.String, "tier": pl.String, "weight": pl.Float64, "confidence": pl.Float64}
    memberships = pl.DataFrame(rows, schema={**schema, "source": pl.String}).sort("security_id", "tier")
    return Universe(settings, frame, memberships)


def _membership_rows(security: str, text: str | None, settings: UniverseSettings) -> list[dict[str, Any]]:
    home = settings.core.get(security)
    if text is None:
        text = f"{home}:1" if home else ""
    shares: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(";"))):
        tier, _, number = part.partition(":")
        if tier not in settings.tier_ids:
            raise ValueError(f"membership {text!r} names unknown tier {tier!r}{suggestion(tier, settings.tier_ids)}")
        try:
            share = float(number)
        except ValueError:
            raise ValueError(f"membership {text!r}: {number!r} is not a number; write {tier}:0.6") from None
        if tier in shares or not 0.0 < share <= 1.0:
            raise ValueError(f"membership {text!r}: one share in (0, 1] for each tier")
        shares[tier] = share
    if sum(shares.values()) > 1.0 + 1e-12:
        raise ValueError(f"membership {text!r} sums to {sum(shares.values()):g}; at most 1")
    if home and home not in shares:
        raise ValueError(f"core name of {home}, but its membership {text!r} has no share there")
    source = "core" if home else "declared"
    return [
        {"security_id": security, "tier": tier, "weight": share, "confidence": 1.0, "source": source}
        for tier, share in shares.items()
    ]


def issuers_of(securities: pl.DataFrame, axis: Axis) -> list[str]:
    """The issuer of each security; a security without one is its own."""
    frame = securities.with_columns(pl.coalesce("issuer_id", "security_id").alias("issuer"))
    issuer = dict(frame.select("security_id", "issuer").iter_rows())
    return [issuer[label] for label in axis.labels]
