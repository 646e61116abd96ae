"""Specific variance of every security: its own residuals, shrunk to names like it, one an issuer."""

from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from engine.axes import Axis
from engine.conventions import TRADING_DAYS
from engine.curve.factors import decay_weights

GROUPS: Final = 10
"""Deciles of market cap: small names have larger specific risk (MATH 2)."""


def estimate_specific_variance(
    residuals: Float[np.ndarray, "n_days n_securities"],
    *,
    securities: pl.DataFrame,
    axis: Axis,
    half_life: float,
    minimum_days: int,
) -> tuple[Float[np.ndarray, " n_securities"], list[str]]:
    """Annual specific variance, shrunk in logarithms to its decile of market cap.

    The decayed mean square of the residuals has a log error variance of about
    ``2 / N_eff``; with ``V`` the spread of the logs inside the decile the estimate keeps
    the share ``V / (V + 2 / N_eff)`` of its distance from the decile's mean log. A security
    with fewer than ``minimum_days`` residuals takes the decile's mean. Lines of one issuer
    share one variance, the mean of theirs, because they share one specific return.

    Args:
        residuals: Daily, NaN where missing.
        securities: Table ``securities``, for caps, kinds and issuers.
        axis: Axis of the columns of ``residuals``.
        half_life: Days.
        minimum_days: Below this a security's own residuals are not used.

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
    return pool_by_issuer(shrunk, issuers) * TRADING_DAYS, issuers


def issuers_of(securities: pl.DataFrame, axis: Axis) -> list[str]:
    """The issuer of each security; a security without one is its own."""
    frame = securities.with_columns(pl.coalesce("issuer_id", "security_id").alias("issuer"))
    issuer = dict(frame.select("security_id", "issuer").iter_rows())
    return [issuer[label] for label in axis.labels]


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
