"""Every security's exposure to the market and the tiers, shrunk towards its membership."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from engine.axes import Axis
from engine.curve.factors import FactorPanel, basket_weights, decay_weights, decayed_slope
from engine.curve.peers import group_codes, lean_on_peers
from engine.curve.returns import ReturnPanel
from engine.curve.universe import Universe, issuers_of
from engine.errors import CalibrationError

MINIMUM_PRIOR_VARIANCE: Final = 1e-6
"""Floor of tau^2: a prior that the data cannot reject still leaves the data a say (MATH 1)."""


@dataclass(frozen=True, slots=True)
class ExposurePanel:
    """Exposures of the securities and what the factors do not explain.

    Args:
        securities: Axis of the rows.
        factors: Axis of the columns.
        values: ``B``, ``(n_securities, n_factors)``, return per unit of factor return.
        prior_share: Same shape, 0..1, how much of each number is the prior.
        standard_error: Same shape, posterior standard deviation; NaN where the prior is all there is.
        residuals: ``(n_days, n_securities)``, decimals a day, NaN where the return is missing.
        n_days: ``(n_securities,)``, number of returns each estimate rests on.
        prior_variance: ``tau_k^2``, ``(n_factors,)``.
    """

    securities: Axis
    factors: Axis
    values: Float[np.ndarray, "n_securities n_factors"]
    prior_share: Float[np.ndarray, "n_securities n_factors"]
    standard_error: Float[np.ndarray, "n_securities n_factors"]
    residuals: Float[np.ndarray, "n_days n_securities"]
    n_days: Float[np.ndarray, " n_securities"]
    prior_variance: Float[np.ndarray, " n_factors"]


@dataclass(frozen=True, slots=True)
class _Moments:
    """Decayed moments of each security with its factors, the intercept taken out."""

    gram: Float[np.ndarray, "n k k"]
    cross: Float[np.ndarray, "n k"]
    variance: Float[np.ndarray, " n"]
    effective: Float[np.ndarray, " n"]


@dataclass(frozen=True, slots=True)
class _Fit:
    """One round of shrinkage; shapes as in ``ExposurePanel``."""

    values: Float[np.ndarray, "n k"]
    prior_share: Float[np.ndarray, "n k"]
    standard_error: Float[np.ndarray, "n k"]
    prior_variance: Float[np.ndarray, " k"]


def membership_prior(
    securities: Axis, memberships: pl.DataFrame, tiers: Axis, beta: Float[np.ndarray, " n_tiers"]
) -> Float[np.ndarray, "n_securities n_factors"]:
    """Exposures that a membership alone implies: ``off_curve (1, 0..) + sum_j c_j (beta_j, e_j)``.

    Args:
        securities: Axis of the rows; a security without membership is all off the curve.
        memberships: Table ``memberships``.
        tiers: Axis of the tiers, in the order of the curve.
        beta: Each tier's slope on the market.
    """
    rows = memberships.filter(pl.col("security_id").is_in(list(securities.labels)))
    shares = np.zeros((len(securities), len(tiers)))
    at = securities.positions(rows["security_id"].to_list(), "memberships")
    shares[at, tiers.positions(rows["tier"].to_list(), "memberships")] = rows["weight"].to_numpy()
    return np.column_stack([1.0 - shares.sum(axis=1) + shares @ beta, shares])


def estimate_exposures(panel: ReturnPanel, factors: FactorPanel, universe: Universe) -> ExposurePanel:
    """Decayed regression on the factors, shrunk to the prior of the declared membership.

    ``B_i = (X'WX + L_i)^-1 (X'W y_i + L_i b0_i)``, ``L_i = s_i^2 / N_eff diag(1/tau_k^2)``,
    the intercept free and unshrunk, weights halving every ``exposure_half_life_days`` and
    summing to 1 over the days a security has; ``tau_k^2 = max(1e-6, mean_i((b_ols - b0)^2 -
    se^2))`` over the stocks with enough history. A basket's own member is regressed on the
    basket without it. With ``peer_levels`` the prior first leans on the security's peers
    (``curve/peers``), and with ``day_weight_power`` calm days count more. With
    ``huber_threshold`` the fit is done again with each name's large residuals weighed down
    (``huber_trust``), one step of iterated least squares. One batched solve for all
    securities, whatever is missing.

    Args:
        panel: Daily returns.
        factors: Factor returns on the same days.
        universe: Memberships for the prior, settings for the decay.

    Returns:
        Exposures; a security with fewer than ``minimum_days`` returns keeps its prior
        (``prior_share`` 1), and its residuals are what that prior leaves.

    Raises:
        CalibrationError: no stock has enough history.

    References:
        MATH.md 1. Oracle: scikit-learn ``Ridge`` on rescaled factors, tests/test_oracles.py.
    """
    settings = universe.settings.calibration
    weights = day_weights(panel, universe)
    tiers = Axis("tier", factors.factors.labels[1:])
    prior = membership_prior(panel.securities, universe.memberships, tiers, factors.beta)
    moments = _moments(panel, factors, universe, weights, np.ones_like(panel.values))
    days = np.isfinite(panel.values).sum(axis=0).astype(np.float64)
    enough = (days >= settings.minimum_days) & (moments.variance > 0.0)
    voters = enough & is_stock(panel, universe)
    if not voters.any():
        raise CalibrationError(f"no stock has {settings.minimum_days} daily returns up to {panel.dates[-1]}")

    levels = [group_codes(universe.securities, panel.securities, level) for level in settings.peer_levels]
    fit = _shrink(moments, prior, enough=enough, voters=voters, levels=levels)
    if settings.huber_threshold is not None:
        left = residuals_of(panel, factors, fit.values, weights)
        trust = huber_trust(left, weights, settings.huber_threshold)
        fit = _shrink(
            _moments(panel, factors, universe, weights, trust), prior, enough=enough, voters=voters, levels=levels
        )
    return ExposurePanel(
        securities=panel.securities,
        factors=factors.factors,
        values=fit.values,
        prior_share=fit.prior_share,
        standard_error=fit.standard_error,
        residuals=residuals_of(panel, factors, fit.values, weights),
        n_days=days,
        prior_variance=fit.prior_variance,
    )


def _shrink(
    moments: _Moments,
    prior: Float[np.ndarray, "n k"],
    *,
    enough: Bool[np.ndarray, " n"],
    voters: Bool[np.ndarray, " n"],
    levels: Sequence[Int[np.ndarray, " n"]],
) -> _Fit:
    """The posterior of every security, its prior leaning on peers; the prior itself where not enough."""
    identity = np.eye(prior.shape[1])
    unshrunk, noise = _least_squares(moments, enough)
    variance = noise[:, None] * _inverse_diagonal(np.where(enough[:, None, None], moments.gram, identity))
    prior = lean_on_peers(prior, slopes=unshrunk, variance=variance, voters=voters, levels=levels)
    missed = ((unshrunk - prior) ** 2 - variance)[voters].mean(axis=0)
    tau = np.maximum(MINIMUM_PRIOR_VARIANCE, missed)
    pull = np.where(enough, noise, 0.0)[:, None] / tau
    system = moments.gram + pull[:, :, None] * identity
    system[~enough] = identity
    values = np.where(
        enough[:, None],
        np.linalg.solve(system, (moments.cross + pull * prior)[:, :, None])[:, :, 0],
        prior,
    )
    spread = _inverse_diagonal(system)
    return _Fit(
        values=values,
        prior_share=np.where(enough[:, None], np.clip(spread * pull, 0.0, 1.0), 1.0),
        standard_error=np.where(enough[:, None], np.sqrt(np.maximum(noise[:, None] * spread, 0.0)), np.nan),
        prior_variance=tau,
    )


def huber_trust(
    residuals: Float[np.ndarray, "n_days n"], weights: Float[np.ndarray, " n_days"], threshold: float
) -> Float[np.ndarray, "n_days n"]:
    """Huber's weights: ``min(1, k s_i / |e_ti|)``, 1 where the return is missing.

    A day of a name's own news, an earnings call say, says little about its exposures; beyond
    ``k`` standard deviations it pulls no more than at ``k``.

    Args:
        residuals: What a first fit leaves, about its weighted mean; NaN where missing.
        weights: Of the days, for ``s_i^2``, the weighted mean of the squared residuals.
        threshold: ``k``; 1.345 keeps 95 % of the efficiency under the normal.

    References:
        Huber (1964), Ann. Math. Statist. 35. Oracle: a loop over names, tests/test_huber.py.
    """
    seen = np.isfinite(residuals)
    size = np.where(seen, np.abs(residuals), 0.0)
    decay = np.where(seen, weights[:, None], 0.0)
    total = np.maximum(decay.sum(axis=0), np.finfo(float).tiny)
    bound = np.broadcast_to(threshold * np.sqrt((decay * size**2).sum(axis=0) / total), size.shape)
    return np.divide(bound, size, out=np.ones_like(size), where=size > bound)


def day_weights(panel: ReturnPanel, universe: Universe) -> Float[np.ndarray, " n_days"]:
    """Decay, times the day's dispersion to the power ``-day_weight_power``, summing to 1.

    The dispersion is the standard deviation of the stocks' returns: a day on which names
    scatter widely says less about each name's exposures (weighted least squares).
    """
    settings = universe.settings.calibration
    weights = decay_weights(len(panel.dates), settings.exposure_half_life_days)
    if settings.day_weight_power == 0.0:
        return weights
    stocks = panel.values[:, is_stock(panel, universe)]
    dispersion = np.maximum(np.nanstd(stocks, axis=1), 1e-12)
    weights = weights * (dispersion / np.median(dispersion)) ** -settings.day_weight_power
    return weights / weights.sum()


def is_stock(panel: ReturnPanel, universe: Universe) -> Bool[np.ndarray, " n_securities"]:
    """True for the securities of kind stock."""
    stocks = set(universe.securities.filter(pl.col("kind") == "stock")["security_id"].to_list())
    return np.array([name in stocks for name in panel.securities.labels], dtype=bool)


def _moments(
    panel: ReturnPanel,
    factors: FactorPanel,
    universe: Universe,
    weights: Float[np.ndarray, " n_days"],
    trust: Float[np.ndarray, "n_days n_securities"],
) -> _Moments:
    """Moments on the common factors, then again for core names on their leave-one-out basket."""
    seen = np.isfinite(panel.values)
    decay = np.where(seen, weights[:, None] * trust, 0.0)
    total = decay.sum(axis=0)
    decay = np.divide(decay, total, out=np.zeros_like(decay), where=total > 0.0)
    returns = np.where(seen, panel.values, 0.0)
    n_factors = factors.values.shape[1]
    outer = np.einsum("tk,tl->tkl", factors.values, factors.values).reshape(len(panel.dates), -1)
    gram = (decay.T @ outer).reshape(-1, n_factors, n_factors)
    mean_x = decay.T @ factors.values
    cross = (decay * returns).T @ factors.values
    mean_y = (decay * returns).sum(axis=0)
    issuers = np.array(issuers_of(universe.securities, panel.securities))
    members = np.flatnonzero(np.isin(issuers, issuers[factors.core.any(axis=0)]))
    own = _leave_one_out(panel, factors, universe, weights, issuers[members])
    gram[members] = np.einsum("tc,tck,tcl->ckl", decay[:, members], own, own)
    mean_x[members] = np.einsum("tc,tck->ck", decay[:, members], own)
    cross[members] = np.einsum("tc,tck->ck", decay[:, members] * returns[:, members], own)
    effective = np.divide(1.0, (decay**2).sum(axis=0), out=np.zeros(decay.shape[1]), where=total > 0.0)
    return _Moments(
        gram=gram - mean_x[:, :, None] * mean_x[:, None, :],
        cross=cross - mean_x * mean_y[:, None],
        variance=(decay * returns**2).sum(axis=0) - mean_y**2,
        effective=effective,
    )


def _leave_one_out(
    panel: ReturnPanel,
    factors: FactorPanel,
    universe: Universe,
    weights: Float[np.ndarray, " n_days"],
    owners: np.ndarray,
) -> Float[np.ndarray, "n_days n_members n_factors"]:
    """The factors as core names see them: baskets without their own issuer's lines, net of the market.

    ``owners`` are the issuers of the members: core names and further lines of their issuers,
    which would otherwise find themselves in the basket.
    """
    own = np.repeat(factors.values[:, None, :], len(owners), axis=1)
    market = factors.values[:, 0]
    issuers = np.array(issuers_of(universe.securities, panel.securities))
    seen = np.isfinite(panel.values)
    for j, row in enumerate(factors.core):
        core = np.flatnonzero(row)
        share = np.where(seen, basket_weights(panel, universe, row), 0.0)[:, core]
        value = np.where(seen, panel.values, 0.0)[:, core] * share
        same = (issuers[core][:, None] == owners[None, :]).astype(np.float64)
        inside = np.flatnonzero(same.any(axis=0))
        kept = share.sum(axis=1, keepdims=True) - share @ same[:, inside]
        rest = (value.sum(axis=1, keepdims=True) - value @ same[:, inside]) / kept
        own[:, inside, 1 + j] = rest - np.outer(market, decayed_slope(rest, market, weights))
    return own


def _least_squares(
    moments: _Moments, enough: Bool[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, " n"]]:
    """Unshrunk slopes and ``s^2 / N_eff``, the variance of a slope per unit of inverse Gram."""
    n_factors = moments.cross.shape[1]
    safe = np.where(enough[:, None, None], moments.gram, np.eye(n_factors))
    slopes = np.linalg.solve(safe, moments.cross[:, :, None])[:, :, 0]
    unexplained = np.maximum(moments.variance - np.einsum("nk,nk->n", slopes, moments.cross), 0.0)
    freedom = np.maximum(moments.effective - n_factors - 1.0, 1.0)
    noise = unexplained * moments.effective / freedom / np.maximum(moments.effective, 1.0)
    return slopes, np.where(enough, noise, 0.0)


def _inverse_diagonal(matrices: Float[np.ndarray, "n k k"]) -> Float[np.ndarray, "n k"]:
    return np.diagonal(np.linalg.inv(matrices), axis1=1, axis2=2)


def residuals_of(
    panel: ReturnPanel,
    factors: FactorPanel,
    values: Float[np.ndarray, "n k"],
    weights: Float[np.ndarray, " n_days"],
) -> Float[np.ndarray, "n_days n"]:
    """What the factors leave of each return, about its weighted mean; NaN where the return is missing."""
    left = panel.values - factors.values @ values.T
    seen = np.isfinite(left)
    decay = np.where(seen, weights[:, None], 0.0)
    mean = np.where(seen, decay * left, 0.0).sum(axis=0) / np.maximum(decay.sum(axis=0), np.finfo(float).tiny)
    return left - mean
