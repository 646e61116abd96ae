"""One book assembled from the evidence and its mandate: its own limits, bounds, risk.

This room does not know the program that was solved: it reads the mandate anew.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from engine.conventions import TRADING_DAYS, is_cash
from engine.errors import ModelError
from engine.mandates.mandate import LEAST_COST, ActiveBand, Band, ExposureBand, LimitSet, Mandate
from engine.rebalance.evidence import Claim, Evidence

Row = tuple[str, Float[np.ndarray, " n"], float]
"""A limit ``row'x <= bound``, by id."""


@dataclass(frozen=True, slots=True)
class Case:
    """One book, assembled anew from the tables; ``at`` says where its names stand in the evidence."""

    names: list[str]
    at: Int[np.ndarray, " n"]
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
    rows: list[Row]
    spendable: float
    turnover: float
    gross: float | None
    tracking_error: float | None
    aversion: float
    alpha: Float[np.ndarray, " n"]
    years: float


def assemble(
    evidence: Evidence,
    holdings: pl.DataFrame,
    nav: float,
    benchmark: pl.DataFrame | None,
    mandate: Mandate,
    claim: Claim,
) -> Case:
    """One book by name from the tables: its bounds, its rows, its risk, with every name of the claim.

    Raises:
        ModelError: the model does not know a name, or a limit is active and the book has no benchmark.
    """
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
    at = evidence.rows(names)
    start = _found(held, names)
    against = None if index is None else _found(index, names)
    codes, counts = np.unique(evidence.issuer[at], return_counts=True)
    lines = [(evidence.issuer[at] == code).astype(np.float64) for code in codes[counts > 1]]
    variance, b = evidence.variance[at], evidence.exposures[at]
    book = None if evidence.allotted is None else str(holdings["portfolio_id"][0])
    most = np.minimum(_most_traded(evidence, at, limits, nav), _most_allotted(evidence, book, names) / nav)
    lower, upper = _name_bounds(names, start, against, limits, most)
    if len(allowed) < len(names):
        known = _listed(allowed, names)
        lower, upper = np.where(known, lower, 0.0), np.where(known, upper, 0.0)
    unmeasured = (0.0 if mandate.objective == "mean_variance" else 1.0) * start
    return Case(
        names=names,
        at=at,
        x=_found(claim.weights, names),
        start=start,
        benchmark=unmeasured if against is None else against,
        lower=lower,
        upper=upper,
        costs=_costs(evidence, at, mandate),
        impact=_impact(evidence, at, mandate, nav),
        borrow=_borrow(names, mandate),
        b=b,
        covariance=evidence.covariance,
        own=np.where(sum(lines, start=np.zeros(len(names))) > 0.0, 0.0, variance),
        shared=[(float(variance[line > 0.0][0]), line) for line in lines],
        rows=[*_sum_rows(evidence, at, against, limits), *_band_rows(evidence, at, against, limits)],
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
    if not values:
        return np.zeros(len(names))
    return np.array([values.get(name, 0.0) for name in names], dtype=np.float64)


def _costs(evidence: Evidence, at: Int[np.ndarray, " n"], mandate: Mandate) -> Float[np.ndarray, " n"]:
    """Half-spread of each name, fraction of the traded value; none is free where costs alone are minimised."""
    listed = evidence.half_spread_bps[at]
    least = LEAST_COST if mandate.objective == "least_cost" else 0.0
    return np.maximum(np.where(np.isnan(listed), mandate.costs.half_spread_bps, listed) / 1e4, least)


def _borrow(names: list[str], mandate: Mandate) -> Float[np.ndarray, " n"]:
    costs = mandate.costs
    if not costs.borrow_bps_of:
        return np.full(len(names), costs.borrow_bps / 1e4)
    return np.array([costs.borrow_bps_of.get(name, costs.borrow_bps) for name in names]) / 1e4


def _impact(evidence: Evidence, at: Int[np.ndarray, " n"], mandate: Mandate, nav: float) -> Float[np.ndarray, " n"]:
    """What trading the whole NAV of each name in a day would move its price by, fraction."""
    costs = mandate.costs
    if costs.impact == 0.0:
        return np.zeros(len(at))
    b = evidence.exposures[at]
    daily = (((b @ evidence.covariance) * b).sum(axis=1) + evidence.variance[at]) / TRADING_DAYS
    known = np.nan_to_num(evidence.volume[at], nan=0.0)
    volume = np.where(known > 0.0, known, costs.unknown_volume_base)
    return costs.impact * np.sqrt(daily) * np.sqrt(nav / volume)


def _most_traded(
    evidence: Evidence, at: Int[np.ndarray, " n"], limits: LimitSet, nav: float
) -> Float[np.ndarray, " n"]:
    """The largest trade of each name that its volume allows, fraction of NAV."""
    share = limits.participation
    if share is None:
        return np.full(len(at), math.inf)
    volume = evidence.volume[at]
    unknown = math.inf if share.unknown_volume == "allow" else 0.0
    return np.where(np.isnan(volume), unknown, share.max_share * volume / nav)


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
    own = {**limits.weights, **limits.active_weights}
    place = {name: i for i, name in enumerate(names) if name in own}
    low, high = np.full(len(names), 0.0 - limits.max_short), np.full(len(names), limits.max_weight)
    for name, band in limits.weights.items():
        low[place[name]], high[place[name]] = band.min, band.max
    low, high = np.maximum(low, held - most_traded), np.minimum(high, held + most_traded)
    forced = _listed(limits.excluded, names)
    low, high = np.where(forced, np.maximum(low, 0.0), low), np.where(forced, np.minimum(high, 0.0), high)
    high = np.where(_listed((*limits.no_buy, *limits.frozen), names), np.minimum(high, held), high)
    low = np.where(_listed((*limits.no_sell, *limits.frozen), names), np.maximum(low, held), low)
    if index is None:
        return low, high
    below, above = np.full(len(names), -limits.max_active_weight), np.full(len(names), limits.max_active_weight)
    for name, around in limits.active_weights.items():
        below[place[name]], above[place[name]] = around.min, around.max
    return np.maximum(low, index + below), np.minimum(high, index + above)


def _listed(listed: Collection[str], names: list[str]) -> Bool[np.ndarray, " n"]:
    """Whether each name is on a list."""
    if not listed:
        return np.zeros(len(names), dtype=bool)
    on = frozenset(listed)
    return np.array([name in on for name in names], dtype=bool)


def _sum_rows(
    evidence: Evidence, at: Int[np.ndarray, " n"], index: Float[np.ndarray, " n"] | None, limits: LimitSet
) -> list[Row]:
    """Cash, net, tiers and plain stress budgets, both sides of every band."""
    ones = np.ones(len(at))
    rows: list[Row] = [("cash:max", -ones, limits.most_cash - 1.0)]
    if limits.net is not None:
        rows += [("net:max", ones, limits.net.max), ("net:min", -ones, -limits.net.min)]
    for tier, band in limits.tiers.items():
        rows += _sides(f"tier:{tier}", _load(evidence, "tier", tier, at), band, 0.0, limits)
    for budget in limits.stress:
        if budget.robust > 0.0:
            continue  # a cone, not a row
        loss, bound = -evidence.shocks[budget.scenario][at], budget.max_loss
        if budget.kind == "active":
            if index is None:
                raise ModelError(f"certificate: {budget.limit_id} is active, and the book has no benchmark")
            bound += math.fsum(loss * index)
        rows.append((budget.limit_id, loss, bound))
    return rows


def _band_rows(
    evidence: Evidence, at: Int[np.ndarray, " n"], index: Float[np.ndarray, " n"] | None, limits: LimitSet
) -> list[Row]:
    """Both sides of every band on sectors and factors and of every active band, also those that cannot bind."""
    if index is None and limits.active:
        raise ModelError(f"certificate: {', '.join(limits.active)} are active, and the book has no benchmark")
    rows = []
    for kind, bands in (
        ("active_tier", limits.active_tiers),
        ("sector", limits.sectors),
        ("active_sector", limits.active_sectors),
        ("factor", limits.factors),
        ("active_factor", limits.active_factors),
    ):
        for key, band in bands.items():
            load = _load(evidence, kind.removeprefix("active_"), key, at)
            base = math.fsum(load * index) if index is not None and kind.startswith("active_") else 0.0
            rows += _sides(f"{kind}:{key}", load, band, base, limits)
    return rows


def _sides(
    limit: str, load: Float[np.ndarray, " n"], band: Band | ActiveBand | ExposureBand, base: float, limits: LimitSet
) -> list[Row]:
    """Both sides of a band; where names may be short an end that was not given could bind, and is left out."""
    rows = [(f"{limit}:max", load, band.max + base), (f"{limit}:min", -load, -(band.min + base))]
    open_ends = {(Band, "max"): 1.0, (Band, "min"): 0.0, (ActiveBand, "max"): 1.0, (ActiveBand, "min"): -1.0}
    ends = {"max": band.max, "min": band.min}
    return [row for row in rows if not limits.shorts or open_ends.get((type(band), row[0][-3:])) != ends[row[0][-3:]]]


def _load(evidence: Evidence, kind: str, key: str, at: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """How much of a tier, a sector or a factor one unit of each name is."""
    if kind == "factor":
        return evidence.exposures[at, evidence.factors.index(key)]
    if kind == "sector":
        return (evidence.sector[at] == key).astype(np.float64)
    return evidence.shares[key][at] if key in evidence.shares else np.zeros(len(at))
