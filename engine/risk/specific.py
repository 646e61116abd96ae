"""Specific variance of every security: its own residuals, shrunk to names like it, one an issuer."""

from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from engine.axes import Axis
from engine.conventions import TRADING_DAYS, WARM_UP_DAYS
from engine.curve.factors import decay_weights
from engine.curve.universe import issuers_of

LARGEST_SCORE: Final = 3.0
"""A residual counts as at most this many volatilities in the regime: one name's news is no regime."""

GROUPS: Final = 10
"""Deciles of market cap: small names have larger specific risk (MATH 2)."""


def estimate_specific_variance(
    residuals: Float[np.ndarray, "n_days n_securities"],
    *,
    securities: pl.DataFrame,
    axis: Axis,
    half_life: float,
    minimum_days: int,
    regime_half_life: float | None = None,
) -> tuple[Float[np.ndarray, " n_securities"], list[str]]:
    """Annual specific variance, shrunk in logarithms to its decile of market cap.

    The decayed mean square of the residuals has a log error variance of about
    ``2 / N_eff``; with ``V`` the spread of the logs inside the decile the estimate keeps
    the share ``V / (V + 2 / N_eff)`` of its distance from the decile's mean log. A security
    with fewer than ``minimum_days`` residuals takes the decile's mean. Lines of one issuer
    share one variance, the mean of theirs, because they share one specific return. Where a
    regime is asked for, all variances are then scaled by ``specific_regime`` squared.

    Args:
        residuals: Daily, NaN where missing.
        securities: Table ``securities``, for caps, kinds and issuers.
        axis: Axis of the columns of ``residuals``.
        half_life: Days.
        minimum_days: Below this a security's own residuals are not used.
        regime_half_life: Days, of the multiplier common to all names; None leaves it out.

    Returns:
        Variance a year on ``axis``, and the issuer of each security.

    References:
        MATH.md 2. Planted truth: tests/test_risk.py.
    """
    seen = np.isfinite(residuals)
    decay = np.where(seen, decay_weights(len(residuals), half_life)[:, None], 0.0)
    total = decay.sum(axis=0)
    square = np.where(seen, decay * np.where(seen, residuals, 0.0) ** 2, 0.0).sum(axis=0)
    variance = np.divide(square, total, out=np.zeros_like(square), where=total > 0.0)
    effective = np.divide(total**2, (decay**2).sum(axis=0), out=np.ones_like(total), where=total > 0.0)
    own = (seen.sum(axis=0) >= minimum_days) & (variance > 0.0)

    groups = _groups(securities, axis)
    logs = np.log(np.where(own, variance, 1.0))
    shrunk = variance.copy()
    for group in np.unique(groups):
        inside = groups == group
        known = inside & own
        if not known.any():
            known = own
        mean = logs[known].mean()
        noise = 2.0 / effective
        spread = max(float(logs[known].var() - noise[known].mean()), 0.0)
        keep = np.divide(spread, spread + noise, out=np.ones_like(noise), where=spread + noise > 0.0)
        shrunk = np.where(inside & own, np.exp(mean + keep * (logs - mean)), shrunk)
        young = inside & ~own & (seen.sum(axis=0) < minimum_days)
        shrunk = np.where(young, np.exp(mean), shrunk)
    issuers = issuers_of(securities, axis)
    if regime_half_life is not None:
        shrunk = shrunk * specific_regime(residuals, half_life, regime_half_life) ** 2
    return pool_by_issuer(shrunk, issuers) * TRADING_DAYS, issuers


def specific_regime(
    residuals: Float[np.ndarray, "n_days n_securities"], half_life: float, regime_half_life: float
) -> float:
    """How much larger specific volatilities have been lately than forecast the day before.

    ``lam^2 = sum_t p_t mean_i min(z_it^2, 9) / mean_t mean_i min(z_it^2, 9)`` with ``z_it`` the
    residual over the decayed volatility of the days before. The mean over the whole history
    stands below because bounded scores of fat tails average less than 1; 1 is its usual level.

    Args:
        residuals: Daily, NaN where missing.
        half_life: Days, of the forecasts.
        regime_half_life: Days, of the average.
    """
    scores = specific_scores(residuals, half_life)[min(WARM_UP_DAYS, len(residuals) // 2) :]
    seen = np.isfinite(scores)
    counted = seen.sum(axis=1)
    sizes = np.where(seen, np.minimum(np.where(seen, scores, 0.0) ** 2, LARGEST_SCORE**2), 0.0).sum(axis=1)
    days = counted > 0
    if not sizes.any():
        return 1.0
    daily = sizes[days] / counted[days]
    weights = decay_weights(len(sizes), regime_half_life)[days]
    return float(np.sqrt(weights @ daily / weights.sum() / daily.mean()))


def specific_scores(
    residuals: Float[np.ndarray, "n_days n_securities"], half_life: float
) -> Float[np.ndarray, "n_days n_securities"]:
    """Residuals over the decayed volatility of the days before, NaN where there is none."""
    decay = 0.5 ** (1.0 / half_life)
    weight = np.zeros(residuals.shape[1])
    square = np.zeros(residuals.shape[1])
    scores = np.full(residuals.shape, np.nan)
    for t, today in enumerate(residuals):
        with np.errstate(invalid="ignore", divide="ignore"):
            scores[t] = today / np.sqrt(square / weight)
        seen = np.isfinite(today)
        weight = np.where(seen, decay * weight + 1.0, weight)
        square = np.where(seen, decay * square + np.where(seen, today, 0.0) ** 2, square)
    return np.where(np.isfinite(scores), scores, np.nan)


def pool_by_issuer(variance: Float[np.ndarray, " n"], issuers: list[str]) -> Float[np.ndarray, " n"]:
    """Give every line of an issuer the mean of the issuer's variances."""
    _, codes = np.unique(np.array(issuers), return_inverse=True)
    mean = np.bincount(codes, weights=variance) / np.bincount(codes)
    pooled: Float[np.ndarray, " n"] = mean[codes]
    return pooled


def _groups(securities: pl.DataFrame, axis: Axis) -> Int[np.ndarray, " n"]:
    """Decile of cap among the stocks; stocks without a cap and other kinds have their own."""
    table = securities.select("security_id", "kind", "market_cap_base")
    rows = {row["security_id"]: row for row in table.iter_rows(named=True)}
    groups = np.zeros(len(axis), dtype=np.int64)
    caps = np.array([rows[label]["market_cap_base"] or 0.0 for label in axis.labels])
    stocks = np.array([rows[label]["kind"] == "stock" for label in axis.labels])
    sized = stocks & (caps > 0.0)
    if sized.any():
        order = np.argsort(np.argsort(caps[sized], kind="stable"), kind="stable")
        groups[sized] = 2 + (order * GROUPS) // max(int(sized.sum()), 1)
    groups[stocks & ~sized] = 1
    return groups
