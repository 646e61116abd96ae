"""Exposures from characteristics: what each day's cross-section pays for beta, tier and sector."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from engine.axes import Axis
from engine.curve.exposures import ExposurePanel, is_stock
from engine.curve.factors import FactorPanel, decay_weights
from engine.curve.returns import ReturnPanel
from engine.curve.tiers import declare_curve
from engine.curve.universe import Universe

REPEATED: Final = 1e-10
"""Eigenvalue of a day's system, over its largest, below which characteristics repeat each other."""


@dataclass(frozen=True, slots=True)
class CrossSection:
    """Exposures on the model's factor axis that no regression of single names went into.

    Args:
        securities: Axis of the rows.
        factors: Axis of the columns, the model's own.
        values: ``B_alt``, ``(n_securities, n_factors)``, return per unit of factor return.
        residuals: ``(n_days, n_securities)``, what ``B_alt f`` leaves, about its decayed mean;
            NaN where the return is missing.
        characteristics: ``C``, ``(n_securities, n_characteristics)``: market beta, shares in the
            tiers, one 0/1 column a sector.
        returns: ``(n_days, n_characteristics)``, what a unit of each characteristic earned.
        slopes: ``Lambda``, ``(n_characteristics, n_factors)``, of ``returns`` on the factors.
    """

    securities: Axis
    factors: Axis
    values: Float[np.ndarray, "n_securities n_factors"]
    residuals: Float[np.ndarray, "n_days n_securities"]
    characteristics: Float[np.ndarray, "n_securities n_characteristics"]
    returns: Float[np.ndarray, "n_days n_characteristics"]
    slopes: Float[np.ndarray, "n_characteristics n_factors"]


def estimate_cross_section(
    panel: ReturnPanel, factors: FactorPanel, universe: Universe, fallback: ExposurePanel
) -> CrossSection:
    """Constrained cross-sectional regressions, tied to the model's factors.

    Each day ``phi_t = R (R'C'V_t C R)^-1 R'C'V_t r_t`` over the stocks priced that day, with
    ``V_t`` the square roots of their market caps and ``R`` an orthonormal basis of
    ``{phi : sum_s cap_s phi_s = 0 over the sectors}``. A decayed regression with intercept,
    ``phi_t = a + Lambda f_t``, then puts the characteristics on the model's factors, so that a
    view on the market or a tier means the same as in the base model. ``B_alt = C Lambda + 1 s'``,
    with the one row ``s`` that makes the cap-weighted mean of the stocks ``(1, 0, ..., 0)``: the
    market is that mean. Where the market is a named proxy, ``s = 0``.

    Missing data: a stock without a cap weighs like the smallest that has one; a stock with
    fewer than ``minimum_days`` returns has market beta 1; a stock without a sector is in
    none; characteristics that repeat each other share their return (the least-norm answer).
    Funds and indices have no characteristics and keep their exposures in ``fallback``.

    Args:
        panel: Daily returns.
        factors: Factor returns on the same days.
        universe: Memberships, sectors, caps, settings for the decay.
        fallback: Exposures of the same securities, for those that are no stocks.

    References:
        MATH.md 1; Menchero, Orr and Wang (2011), USE4, appendix A. Oracle: the dense
        Karush-Kuhn-Tucker system of each day, tests/test_cross_section.py.
    """
    settings = universe.settings.calibration
    weights = decay_weights(len(panel.dates), settings.exposure_half_life_days)
    stocks = is_stock(panel, universe)
    shares = declare_curve(universe, factors).shares(panel.securities)[:, :-1]
    sectors = _sectors(panel.securities, universe)
    beta = _market_beta(panel, factors.values[:, 0], weights, settings.minimum_days)
    characteristics = np.column_stack([beta, shares, sectors]) * stocks[:, None]
    caps = _caps(panel, universe, stocks)
    constraint = np.concatenate([np.zeros(1 + shares.shape[1]), caps @ sectors])
    returns = constrained_returns(panel.values, characteristics, weights=np.sqrt(caps), constraint=constraint)
    roots = np.sqrt(weights)[:, None]
    centred = factors.values - weights @ factors.values
    slopes = np.linalg.lstsq(roots * centred, roots * returns, rcond=None)[0].T
    values = characteristics @ slopes
    if universe.settings.market.proxy is None:
        values = values + np.eye(len(factors.factors))[0] - caps @ values
    values = np.where(stocks[:, None], values, fallback.values)
    left = panel.values - factors.values @ values.T
    return CrossSection(
        securities=panel.securities,
        factors=factors.factors,
        values=values,
        residuals=left - _decayed_mean(left, weights),
        characteristics=characteristics,
        returns=returns,
        slopes=slopes,
    )


def constrained_returns(
    returns: Float[np.ndarray, "n_days n"],
    characteristics: Float[np.ndarray, "n q"],
    *,
    weights: Float[np.ndarray, " n"],
    constraint: Float[np.ndarray, " q"],
) -> Float[np.ndarray, "n_days q"]:
    """Weighted least squares of every day's returns on characteristics, under one linear constraint.

    Minimises ``sum_i v_i (r_it - C_i phi_t)^2`` over the securities seen on day t, subject to
    ``a' phi_t = 0``. Rows are scaled; the diagonal matrix of the weights is never built.

    Args:
        returns: Decimals a day, NaN where missing.
        characteristics: ``C``.
        weights: ``v``, 0 leaves a security out.
        constraint: ``a``; all 0 is no constraint.

    Returns:
        ``phi``, a row a day; the least-norm one where several are best.
    """
    basis = _null_space(constraint)
    columns = characteristics @ basis
    seen = np.isfinite(returns)
    scaled = seen * weights
    n, q = columns.shape
    products = (columns[:, :, None] * columns[:, None, :]).reshape(n, q * q)
    gram = (scaled @ products).reshape(-1, q, q)
    right = (scaled * np.where(seen, returns, 0.0)) @ columns
    inverse = np.linalg.pinv(gram, rcond=REPEATED, hermitian=True)
    answer: Float[np.ndarray, "n_days q"] = np.einsum("tkl,tl->tk", inverse, right) @ basis.T
    return answer


def _null_space(constraint: Float[np.ndarray, " q"]) -> Float[np.ndarray, "q p"]:
    """Orthonormal basis of the vectors that a constraint sends to 0."""
    if not constraint.any():
        return np.eye(len(constraint))
    return np.linalg.svd(constraint[None, :])[2][1:].T


def _market_beta(
    panel: ReturnPanel, market: Float[np.ndarray, " n_days"], weights: Float[np.ndarray, " n_days"], minimum_days: int
) -> Float[np.ndarray, " n_securities"]:
    """Decayed slope on the market over the days a security has; 1 where they are too few."""
    seen = np.isfinite(panel.values)
    decay = np.where(seen, weights[:, None], 0.0)
    total = np.maximum(decay.sum(axis=0), np.finfo(float).tiny)
    returns = np.where(seen, panel.values, 0.0)
    mean = market @ decay / total
    covariance = market @ (decay * returns) / total - mean * (decay * returns).sum(axis=0) / total
    variance = market**2 @ decay / total - mean**2
    enough = (seen.sum(axis=0) >= minimum_days) & (variance > 0.0)
    return np.where(enough, covariance / np.where(enough, variance, 1.0), 1.0)


def _sectors(securities: Axis, universe: Universe) -> Float[np.ndarray, "n_securities n_sectors"]:
    """One 0/1 column a sector, in the order of their names."""
    rows = universe.securities.filter(pl.col("gics_sector").is_not_null())
    rows = rows.filter(pl.col("security_id").is_in(list(securities.labels)))
    sectors = Axis.of("sector", rows["gics_sector"].to_list())
    out = np.zeros((len(securities), len(sectors)))
    at = securities.positions(rows["security_id"], "securities")
    out[at, sectors.positions(rows["gics_sector"], "securities")] = 1.0
    return out


def _caps(
    panel: ReturnPanel, universe: Universe, stocks: Bool[np.ndarray, " n_securities"]
) -> Float[np.ndarray, " n_securities"]:
    """Market caps in units of their sum; 0 for what is no stock."""
    known = universe.securities.filter(pl.col("market_cap_base") > 0.0)
    caps = panel.securities.vector(known, "market_cap_base", label="security_id", source="securities", fill=np.nan)
    sized = stocks & np.isfinite(caps)
    smallest = float(caps[sized].min()) if sized.any() else 1.0
    filled = np.where(stocks, np.where(sized, caps, smallest), 0.0)
    return filled / filled.sum()


def _decayed_mean(
    values: Float[np.ndarray, "n_days n"], weights: Float[np.ndarray, " n_days"]
) -> Float[np.ndarray, " n"]:
    seen = np.isfinite(values)
    decay = np.where(seen, weights[:, None], 0.0)
    sums: Float[np.ndarray, " n"] = np.where(seen, decay * values, 0.0).sum(axis=0)
    return sums / np.maximum(decay.sum(axis=0), np.finfo(float).tiny)
