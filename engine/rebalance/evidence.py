"""The input tables read anew, by name, for the certificate: its own limits, bounds, risk.

This room does not know the program that was solved. It reads the tables and the mandate in
its own code, so that a stale parameter, a swapped factor or a dropped name is a refusal
and not a trade.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from engine.conventions import MARKET, OFF_CURVE, TRADING_DAYS, UNCLASSIFIED, is_cash
from engine.errors import ModelError
from engine.mandates.mandate import LEAST_COST, ActiveBand, Band, ExposureBand, LimitSet, Mandate


@dataclass(frozen=True, slots=True)
class Evidence:
    """The input tables of a chunk, indexed by name once.

    Args:
        factors: Factor names, the market first.
        covariance: ``F`` a year.
        exposures: Row of ``B`` by security.
        variance: Specific variance a year by security.
        issuer: Issuer by security.
        shares: Tier shares by security; what is missing is off the curve.
        shocks: Total return by scenario and security.
        half_spread_bps: By security; absent where the table has none.
        sector: Listed sector by security; absent where the table has none.
        volume: Daily volume in base currency by security; absent where the table has none.
        leaves: Probability and total return by security of each leaf, by scenario.
        horizon: Trading days by scenario.
        allotted: Money by book and security that may be traded, None without a cap; None as a
            whole where no volume is shared out.
    """

    factors: tuple[str, ...]
    covariance: Float[np.ndarray, "k k"]
    exposures: Mapping[str, Float[np.ndarray, " k"]]
    variance: Mapping[str, float]
    issuer: Mapping[str, str]
    shares: Mapping[str, Mapping[str, float]]
    shocks: Mapping[str, Mapping[str, float]]
    half_spread_bps: Mapping[str, float]
    sector: Mapping[str, str]
    volume: Mapping[str, float]
    leaves: Mapping[str, Mapping[str, tuple[float, Mapping[str, float]]]] = field(default_factory=dict)
    horizon: Mapping[str, int] = field(default_factory=dict)
    allotted: Mapping[tuple[str, str], float | None] | None = None

    def with_allotments(self, allotments: pl.DataFrame | None) -> "Evidence":
        """The same with the table ``allotments``; as it is where none is shared out."""
        if allotments is None:
            return self
        rows = allotments.select("portfolio_id", "security_id", "allotted_base").iter_rows()
        return replace(self, allotted={(book, name): most for book, name, most in rows})


@dataclass(frozen=True, slots=True)
class Claim:
    """An answer and the multipliers that are said to prove it.

    Args:
        weights: Weight after by name, without cash; a name that is absent is held at 0.
        duals: Multiplier by limit id: ``cash:min`` ``cash:max`` ``turnover`` ``gross``
            ``net:max|min`` ``tracking_error`` ``tier:<t>:max|min`` ``stress:<s>`` ``stress:<s>:active``
            ``sector|factor|active_tier|active_sector|active_factor:<key>:max|min``
            ``shortfall:<s>`` ``shortfall:<s>:active``, with ``:leaf:<leaf>`` after it that of a leaf.
        directions: By the id of a robust budget, the direction by name in which its margin is cut;
            without one it is cut in that of the weights.
    """

    weights: Mapping[str, float]
    duals: Mapping[str, float]
    directions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """One book, assembled anew from the tables."""

    names: list[str]
    x: Float[np.ndarray, " n"]
    start: Float[np.ndarray, " n"]
    benchmark: Float[np.ndarray, " n"]
    lower: Float[np.ndarray, " n"]
    upper: Float[np.ndarray, " n"]
    costs: Float[np.ndarray, " n"]
    impact: Float[np.ndarray, " n"]
    borrow: Float[np.ndarray, " n"]
    b: Float[np.ndarray, "n k"]
    covariance: Float[np.ndarray, "k k"]
    own: Float[np.ndarray, " n"]
    shared: list[tuple[float, Float[np.ndarray, " n"]]]
    rows: list[tuple[str, Float[np.ndarray, " n"], float]]
    spendable: float
    turnover: float
    gross: float | None
    tracking_error: float | None
    aversion: float
    alpha: Float[np.ndarray, " n"]
    years: float


def gather_evidence(
    *,
    exposures: pl.DataFrame,
    factor_covariance: pl.DataFrame,
    specific_risk: pl.DataFrame,
    memberships: pl.DataFrame,
    shocks: pl.DataFrame,
    securities: pl.DataFrame,
) -> Evidence:
    """Index the input tables by name.

    Args:
        exposures: Table ``exposures``.
        factor_covariance: Table ``factor_covariance``.
        specific_risk: Table ``specific_risk``.
        memberships: Table ``memberships``.
        shocks: Table ``shocks``.
        securities: Table ``securities``.

    Raises:
        ModelError: a security lacks a factor, or a factor pair its covariance.
    """
    labels = sorted(set(factor_covariance["factor_1"].to_list()), key=lambda f: (f != MARKET, f))
    column = {factor: position for position, factor in enumerate(labels)}
    covariance = np.full((len(labels), len(labels)), np.nan)
    for one, other, value in factor_covariance.select("factor_1", "factor_2", "annual").iter_rows():
        covariance[column[one], column[other]] = value
    wide = exposures.pivot(on="factor", index="security_id", values="exposure")
    if not np.isfinite(covariance).all() or sorted(wide.columns[1:]) != sorted(labels):
        raise ModelError("certificate: the factors of exposures and factor_covariance differ")
    matrix = wide.select(labels).to_numpy()
    shares: dict[str, dict[str, float]] = {}
    for security, tier, weight in memberships.select("security_id", "tier", "weight").iter_rows():
        shares.setdefault(security, {})[tier] = weight
    moves: dict[str, dict[str, float]] = {}
    for scenario, security, total in shocks.select("scenario_id", "security_id", "total").iter_rows():
        moves.setdefault(scenario, {})[security] = total
    return Evidence(
        factors=tuple(labels),
        covariance=covariance,
        exposures=dict(zip(wide["security_id"].to_list(), matrix, strict=True)),
        variance=dict(specific_risk.select("security_id", "annual").iter_rows()),
        issuer=dict(specific_risk.select("security_id", "issuer_id").iter_rows()),
        shares=shares,
        shocks=moves,
        half_spread_bps=dict(securities.select("security_id", "half_spread_bps").drop_nulls().iter_rows()),
        volume=dict(securities.select("security_id", "adv_base").drop_nulls().iter_rows()),
        sector=dict(securities.select("security_id", "gics_sector").drop_nulls().iter_rows()),
    )


def with_scenarios(evidence: Evidence, *, leaves: pl.DataFrame, horizons: pl.DataFrame) -> Evidence:
    """The same with what a tree and a robust budget need besides ``shocks``.

    Args:
        evidence: From ``gather_evidence``.
        leaves: ``scenario_id leaf_id probability security_id total``, a row a leaf and security.
        horizons: ``scenario_id horizon_days``.
    """
    trees: dict[str, dict[str, tuple[float, Mapping[str, float]]]] = {}
    keys = ("scenario_id", "leaf_id", "probability")
    for (scenario, leaf, probability), rows in leaves.partition_by(keys, as_dict=True, maintain_order=True).items():
        moves = dict(rows.select("security_id", "total").iter_rows())
        trees.setdefault(str(scenario), {})[str(leaf)] = (float(probability), moves)
    days = dict(horizons.select("scenario_id", "horizon_days").iter_rows())
    return replace(evidence, leaves=trees, horizon=days)


def assemble(
    evidence: Evidence,
    holdings: pl.DataFrame,
    nav: float,
    benchmark: pl.DataFrame | None,
    mandate: Mandate,
    claim: Claim,
) -> Case:
    """One book by name from the tables: its bounds, its rows, its risk, with every name of the claim."""
    limits = mandate.limits
    columns = (holdings[column].to_list() for column in ("security_id", "market_value_base", "exposure_base"))
    held = {
        security: (value if exposure is None else exposure) / nav
        for security, value, exposure in zip(*columns, strict=True)
        if not is_cash(security)
    }
    index = None
    if benchmark is not None:
        index = dict(zip(benchmark["security_id"].to_list(), benchmark["weight"].to_list(), strict=True))
    allowed = {*held, *(index or {}), *mandate.buy_list, *limits.weights, *limits.active_weights}
    names = sorted({*allowed, *claim.weights})
    start = _found(held, names)
    issuers = [evidence.issuer[name] for name in names]
    several = sorted(issuer for issuer, lines in Counter(issuers).items() if lines > 1)
    variance = np.array([evidence.variance[name] for name in names])
    lines = [np.array([float(i == issuer) for i in issuers]) for issuer in several]
    rows: list[tuple[str, Float[np.ndarray, " n"], float]] = [
        ("cash:max", -np.ones(len(names)), limits.most_cash - 1.0)
    ]
    if limits.net is not None:
        ones = np.ones(len(names))
        rows += [("net:max", ones, limits.net.max), ("net:min", -ones, -limits.net.min)]
    for tier, band in limits.tiers.items():
        rows += _sides(f"tier:{tier}", _shares(evidence, names, tier), band, 0.0, limits)
    for budget in limits.stress:
        if budget.robust > 0.0:
            continue  # a cone, not a row
        moves = evidence.shocks[budget.scenario]
        loss = -np.array([moves[name] for name in names])
        bound = budget.max_loss
        if budget.kind == "active":
            if index is None:
                raise ModelError(f"certificate: {budget.limit_id} is active, and the book has no benchmark")
            bound += math.fsum(loss * _found(index, names))
        rows.append((budget.limit_id, loss, bound))
    b = np.array([evidence.exposures[name] for name in names]).reshape(len(names), len(evidence.factors))
    rows += _band_rows(evidence, names, b, index, limits)
    book = None if evidence.allotted is None else str(holdings["portfolio_id"][0])
    most = np.minimum(_most_traded(evidence, names, limits, nav), _most_allotted(evidence, book, names) / nav)
    lower, upper = _name_bounds(names, start, None if index is None else _found(index, names), limits, most)
    known = _listed(allowed, names)
    return Case(
        names=names,
        x=_found(claim.weights, names),
        start=start,
        benchmark=(0.0 if mandate.objective == "mean_variance" else 1.0) * start
        if index is None
        else _found(index, names),
        lower=np.where(known, lower, 0.0),
        upper=np.where(known, upper, 0.0),
        costs=_costs(evidence, names, mandate),
        impact=np.zeros(len(names))
        if mandate.costs.impact == 0.0
        else np.array([_impact(evidence, name, mandate, nav) for name in names]),
        borrow=np.array([mandate.costs.borrow_bps_of.get(name, mandate.costs.borrow_bps) for name in names]) / 1e4,
        b=b,
        covariance=evidence.covariance,
        own=np.where(sum(lines, start=np.zeros(len(names))) > 0.0, 0.0, variance),
        shared=[(float(variance[line > 0.0][0]), line) for line in lines],
        rows=rows,
        spendable=1.0 - limits.cash.min,
        turnover=limits.turnover,
        gross=limits.gross,
        tracking_error=limits.tracking_error,
        aversion=mandate.risk_aversion if mandate.objective != "least_cost" else 0.0,
        alpha=_found(mandate.alpha, names),
        years=mandate.costs.holding_years,
    )


def _found(values: Mapping[str, float], names: list[str]) -> Float[np.ndarray, " n"]:
    """Values by name, 0 where a name is absent."""
    return np.array([values.get(name, 0.0) for name in names])


def _costs(evidence: Evidence, names: list[str], mandate: Mandate) -> Float[np.ndarray, " n"]:
    """Half-spread of each name, fraction of the traded value; none is free where costs alone are minimised."""
    least = LEAST_COST if mandate.objective == "least_cost" else 0.0
    listed = [evidence.half_spread_bps.get(name, mandate.costs.half_spread_bps) / 1e4 for name in names]
    return np.array([max(cost, least) for cost in listed])


def _impact(evidence: Evidence, name: str, mandate: Mandate, nav: float) -> float:
    """What trading the whole NAV of one name in a day would move its price by, fraction."""
    exposure = evidence.exposures[name]
    daily = (float(exposure @ evidence.covariance @ exposure) + evidence.variance[name]) / TRADING_DAYS
    volume = evidence.volume.get(name) or mandate.costs.unknown_volume_base
    return mandate.costs.impact * math.sqrt(daily) * math.sqrt(nav / volume)


def _most_traded(evidence: Evidence, names: list[str], limits: LimitSet, nav: float) -> Float[np.ndarray, " n"]:
    """The largest trade of each name that its volume allows, fraction of NAV."""
    share = limits.participation
    if share is None:
        return np.full(len(names), math.inf)
    unknown = math.inf if share.unknown_volume == "allow" else 0.0
    return np.array(
        [share.max_share * evidence.volume[name] / nav if name in evidence.volume else unknown for name in names]
    )


def _most_allotted(evidence: Evidence, book: str | None, names: list[str]) -> Float[np.ndarray, " n"]:
    """The most of each name that a book may trade of what the firm shares out, base currency."""
    if evidence.allotted is None or book is None:
        return np.full(len(names), math.inf)
    money = [evidence.allotted.get((book, name), 0.0) for name in names]
    return np.array([math.inf if most is None else most for most in money])


def _name_bounds(
    names: list[str],
    held: Float[np.ndarray, " n"],
    index: Float[np.ndarray, " n"] | None,
    limits: LimitSet,
    most_traded: Float[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Lowest and highest weight of every name under every limit that speaks of single names."""
    at = {name: i for i, name in enumerate(names)}
    low, high = np.full(len(names), 0.0 - limits.max_short), np.full(len(names), limits.max_weight)
    for name, band in limits.weights.items():
        low[at[name]], high[at[name]] = band.min, band.max
    low, high = np.maximum(low, held - most_traded), np.minimum(high, held + most_traded)
    forced = _listed(limits.excluded, names)
    low, high = np.where(forced, np.maximum(low, 0.0), low), np.where(forced, np.minimum(high, 0.0), high)
    high = np.where(_listed((*limits.no_buy, *limits.frozen), names), np.minimum(high, held), high)
    low = np.where(_listed((*limits.no_sell, *limits.frozen), names), np.maximum(low, held), low)
    if index is None:
        return low, high
    below, above = np.full(len(names), -limits.max_active_weight), np.full(len(names), limits.max_active_weight)
    for name, around in limits.active_weights.items():
        below[at[name]], above[at[name]] = around.min, around.max
    return np.maximum(low, index + below), np.minimum(high, index + above)


def _listed(listed: Collection[str], names: list[str]) -> Bool[np.ndarray, " n"]:
    """Whether each name is on a list."""
    on = frozenset(listed)
    return np.array([name in on for name in names], dtype=bool)


def _band_rows(
    evidence: Evidence,
    names: list[str],
    b: Float[np.ndarray, "n k"],
    index: Mapping[str, float] | None,
    limits: LimitSet,
) -> list[tuple[str, Float[np.ndarray, " n"], float]]:
    """Both sides of every band on sectors and factors and of every active band, also those that cannot bind."""
    if index is None and limits.active:
        raise ModelError(f"certificate: {', '.join(limits.active)} are active, and the book has no benchmark")
    own = _found(index or {}, names)
    rows = []
    for kind, bands in (
        ("active_tier", limits.active_tiers),
        ("sector", limits.sectors),
        ("active_sector", limits.active_sectors),
        ("factor", limits.factors),
        ("active_factor", limits.active_factors),
    ):
        for key, band in bands.items():
            of = kind.removeprefix("active_")
            load = b[:, evidence.factors.index(key)] if of == "factor" else _loads(evidence, of, key, names)
            base = math.fsum(load * own) if kind.startswith("active_") else 0.0
            rows += _sides(f"{kind}:{key}", load, band, base, limits)
    return rows


def _sides(
    limit: str, load: Float[np.ndarray, " n"], band: Band | ActiveBand | ExposureBand, base: float, limits: LimitSet
) -> list[tuple[str, Float[np.ndarray, " n"], float]]:
    """Both sides of a band; where names may be short an end that was not given could bind, and is left out."""
    rows = [(f"{limit}:max", load, band.max + base), (f"{limit}:min", -load, -(band.min + base))]
    open_ends = {(Band, "max"): 1.0, (Band, "min"): 0.0, (ActiveBand, "max"): 1.0, (ActiveBand, "min"): -1.0}
    ends = {"max": band.max, "min": band.min}
    return [row for row in rows if not limits.shorts or open_ends.get((type(band), row[0][-3:])) != ends[row[0][-3:]]]


def _loads(evidence: Evidence, kind: str, key: str, names: list[str]) -> Float[np.ndarray, " n"]:
    """How much of a tier or a sector one unit of each name is."""
    if kind == "tier":
        return _shares(evidence, names, key)
    return np.array([float(evidence.sector.get(name, UNCLASSIFIED) == key) for name in names])


def _shares(evidence: Evidence, names: list[str], tier: str) -> Float[np.ndarray, " n"]:
    known = [(i, evidence.shares[name]) for i, name in enumerate(names) if name in evidence.shares]
    shares = np.full(len(names), 1.0 if tier == OFF_CURVE else 0.0)
    for i, share in known:
        shares[i] = 1.0 - sum(share.values()) if tier == OFF_CURVE else share.get(tier, 0.0)
    return shares
