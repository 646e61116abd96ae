"""Industry factors: what the names of an industry do together beyond the market and the tiers."""

import re
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from engine.axes import Axis
from engine.conventions import MAX_ID_LENGTH
from engine.curve.exposures import ExposurePanel, day_weights, is_stock, membership_prior, residuals_of
from engine.curve.factors import FactorPanel
from engine.curve.returns import ReturnPanel
from engine.curve.universe import Universe, issuers_of

PREFIX: Final = "industry:"
"""No tier id holds a colon, so that no industry clashes with a tier or the market."""

LEAST_PRIOR_VARIANCE: Final = 1e-6
"""Floor of tau^2, as for the other exposures (MATH 1)."""


@dataclass(frozen=True, slots=True)
class _Baskets:
    """Who is in which industry, and with what weight on which day.

    Args:
        ids: Axis of the industries.
        group: Position of each stock's industry on ``ids``, -1 where it has none.
        weight: ``(n_days, n_securities)``, root of the cap of a member that is priced, else 0.
        value: Same shape, weight times return.
    """

    ids: Axis
    group: Int[np.ndarray, " n_securities"]
    weight: Float[np.ndarray, "n_days n_securities"]
    value: Float[np.ndarray, "n_days n_securities"]


def add_industries(
    panel: ReturnPanel, factors: FactorPanel, exposures: ExposurePanel, universe: Universe
) -> tuple[FactorPanel, ExposurePanel]:
    """Industry factors behind the market and the tiers, and each stock's exposure to its own.

    ``h_s = r_s - a_s' (m, g)`` with ``r_s`` the mean of the industry's priced stocks weighted by
    the root of their cap and ``a_s`` its decayed slopes. Market and tier exposures stay as they
    are; what they leave of a stock, ``e_i``, is regressed on its own industry without its own
    issuer's lines, and shrunk to its off-curve share ``b0_i``:
    ``b_i = (var h + l_i)^-1 (cov(h, e_i) + l_i b0_i)``, ``l_i = s_i^2 / (N_eff tau^2)``,
    ``tau^2 = max(1e-6, mean_i((b_ols - b0)^2 - se^2))`` over the stocks with enough history.
    Exposures to other industries are 0. A stock without a cap is exposed but in no basket.

    Args:
        panel: Daily returns.
        factors: Market and pure tiers.
        exposures: Exposures to them, and their residuals.
        universe: Industries, caps, memberships; ``industry_level`` None leaves all as it is.

    Returns:
        Both panels with the industries appended in the order of their ids. An industry with
        fewer than ``industry_minimum_names`` issuers priced on some day has no factor.

    References:
        MATH.md 1. Oracle: scikit-learn ``Ridge``; planted industries: tests/test_industries.py.
    """
    baskets = _fill_baskets(panel, universe)
    if not len(baskets.ids):
        return factors, exposures
    weights = day_weights(panel, universe)
    inside = np.eye(len(baskets.ids))[baskets.group] * (baskets.group >= 0)[:, None]
    totals, sums = baskets.value @ inside, baskets.weight @ inside
    pure = _net_of(totals / sums, factors.values, weights)
    own = np.flatnonzero(baskets.group >= 0)
    rest = _net_of(_without_issuer(baskets, universe, panel.securities, (totals, sums)), factors.values, weights)
    wider = replace(
        factors,
        factors=Axis("factor", (*factors.factors.labels, *baskets.ids.labels)),
        values=np.hstack([factors.values, pure]),
    )
    return wider, _expose(panel, wider, exposures, universe, (baskets.group, rest, own))


def industry_ids(universe: Universe) -> tuple[str, ...]:
    """Industries that a calibration may have a factor of: enough stocks are listed."""
    settings = universe.settings.calibration
    stocks = universe.securities.filter(pl.col("kind") == "stock")
    ids, counts = np.unique(_ids(stocks, settings.industry_level), return_counts=True)
    pairs = zip(ids.tolist(), counts.tolist(), strict=True)
    return tuple(name for name, count in pairs if name and count >= settings.industry_minimum_names)


def _ids(securities: pl.DataFrame, level: str | None) -> np.ndarray:
    """``industry:health-care`` of each row, empty where it has none."""
    if level is None:
        return np.full(securities.height, "")
    words = [re.sub(r"[^a-z0-9]+", "-", (text or "").lower()).strip("-") for text in securities[level].to_list()]
    return np.array([f"{PREFIX}{word}"[:MAX_ID_LENGTH] if word else "" for word in words], dtype=str)


def _fill_baskets(panel: ReturnPanel, universe: Universe) -> _Baskets:
    settings, axis = universe.settings.calibration, panel.securities
    listed = dict(
        zip(universe.securities["security_id"], _ids(universe.securities, settings.industry_level), strict=True)
    )
    stocks = is_stock(panel, universe)
    names = np.where(stocks, np.array([listed[label] for label in axis.labels], dtype=str), "")
    caps = axis.vector(
        universe.securities.with_columns(pl.col("market_cap_base").fill_null(0.0)),
        "market_cap_base",
        label="security_id",
        source="securities",
        fill=0.0,
    )
    seen = np.isfinite(panel.values)
    members = (names != "") & (caps > 0.0) & (seen.sum(axis=0) >= settings.minimum_days)
    issuers = np.array(issuers_of(universe.securities, axis))
    held = tuple(
        name
        for name in np.unique(names[members]).tolist()
        if _fewest_issuers(seen, issuers, members & (names == name)) >= settings.industry_minimum_names
    )
    at = {name: position for position, name in enumerate(held)}
    weight = np.where(seen, np.where(members, np.sqrt(np.maximum(caps, 0.0)), 0.0), 0.0)
    return _Baskets(
        ids=Axis("industry", held),
        group=np.array([at.get(name, -1) for name in names.tolist()], dtype=np.int64),
        weight=weight,
        value=weight * np.where(seen, panel.values, 0.0),
    )


def _fewest_issuers(seen: Bool[np.ndarray, "n_days n"], issuers: np.ndarray, members: Bool[np.ndarray, " n"]) -> int:
    """Fewest issuers priced on a day, the first line of each counted."""
    at = np.flatnonzero(members)
    _, first = np.unique(issuers[at], return_index=True)
    return int(seen[:, at[first]].sum(axis=1).min(initial=len(first)))


def _without_issuer(
    baskets: _Baskets,
    universe: Universe,
    axis: Axis,
    whole: tuple[Float[np.ndarray, "n_days n_industries"], Float[np.ndarray, "n_days n_industries"]],
) -> Float[np.ndarray, "n_days n_own"]:
    """Each stock's industry without any line of its issuer, by taking them off the sums."""
    own = np.flatnonzero(baskets.group >= 0)
    group = baskets.group[own]
    issuers = np.unique(np.array(issuers_of(universe.securities, axis)), return_inverse=True)[1]
    _, line = np.unique(issuers[own] * len(baskets.ids) + group, return_inverse=True)
    order = np.argsort(line, kind="stable")
    starts = np.flatnonzero(np.diff(line[order], prepend=-1))
    totals, sums = (
        every[:, group] - np.add.reduceat(part[:, own[order]], starts, axis=1)[:, line]
        for every, part in zip(whole, (baskets.value, baskets.weight), strict=True)
    )
    return totals / sums


def _net_of(
    returns: Float[np.ndarray, "n_days m"],
    factors: Float[np.ndarray, "n_days k"],
    weights: Float[np.ndarray, " n_days"],
) -> Float[np.ndarray, "n_days m"]:
    """Returns less the factors times their weighted slopes; the intercept is fitted and left in."""
    centred = factors - weights @ factors
    pulled = centred * weights[:, None]
    return returns - factors @ np.linalg.solve(pulled.T @ centred, pulled.T @ returns)


def _expose(
    panel: ReturnPanel,
    factors: FactorPanel,
    exposures: ExposurePanel,
    universe: Universe,
    members: tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n_days n_own"], Int[np.ndarray, " n_own"]],
) -> ExposurePanel:
    """The exposures with a column for each industry, and what is then left."""
    group, rest, own = members
    weights = day_weights(panel, universe)
    seen = np.isfinite(exposures.residuals[:, own])
    decay = np.where(seen, weights[:, None], 0.0)
    decay = decay / np.maximum(decay.sum(axis=0), np.finfo(float).tiny)
    left = np.where(seen, exposures.residuals[:, own], 0.0)
    centred = rest - (decay * rest).sum(axis=0)
    spread, cross = (decay * centred**2).sum(axis=0), (decay * centred * left).sum(axis=0)
    enough = (exposures.n_days[own] >= universe.settings.calibration.minimum_days) & (spread > 0.0)
    spread = np.where(enough, spread, 1.0)
    slope = cross / spread
    effective = 1.0 / np.maximum((decay**2).sum(axis=0), np.finfo(float).tiny)
    variance = (decay * left**2).sum(axis=0) - (decay * left).sum(axis=0) ** 2
    # The slopes on the market and the tiers, this one and the intercept are fitted.
    freedom = np.maximum(effective - exposures.values.shape[1] - 2.0, 1.0)
    noise = np.maximum(variance - slope * cross, 0.0) / freedom
    prior = _off_curve(panel.securities, factors, universe)[own]
    missed = ((slope - prior) ** 2 - noise / spread)[enough]
    tau = max(LEAST_PRIOR_VARIANCE, float(missed.mean()) if missed.size else 0.0)
    pull = noise / tau
    n, n_industries = len(group), len(factors.factors) - exposures.values.shape[1]
    values, share, error = np.zeros((n, n_industries)), np.ones((n, n_industries)), np.full((n, n_industries), np.nan)
    values[own, group[own]] = np.where(enough, (cross + pull * prior) / (spread + pull), prior)
    share[own, group[own]] = np.where(enough, pull / (spread + pull), 1.0)
    error[own, group[own]] = np.where(enough, np.sqrt(noise / (spread + pull)), np.nan)
    wide = np.hstack([exposures.values, values])
    return ExposurePanel(
        securities=exposures.securities,
        factors=factors.factors,
        values=wide,
        prior_share=np.hstack([exposures.prior_share, share]),
        standard_error=np.hstack([exposures.standard_error, error]),
        residuals=residuals_of(panel, factors, wide, weights),
        n_days=exposures.n_days,
        prior_variance=np.append(exposures.prior_variance, np.full(n_industries, tau)),
    )


def _off_curve(axis: Axis, factors: FactorPanel, universe: Universe) -> Float[np.ndarray, " n"]:
    """What the declared memberships leave of 1."""
    tiers = Axis("tier", factors.factors.labels[1 : 1 + len(factors.beta)])
    shares = membership_prior(axis, universe.memberships, tiers, factors.beta)[:, 1:]
    off: Float[np.ndarray, " n"] = 1.0 - shares.sum(axis=1)
    return off
