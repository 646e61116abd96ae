"""How much wider than Gaussian the tails are: fitted on the days before the calibration date."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float
from scipy.special import betaln, fdtrc, ndtri

from engine.conventions import TRADING_DAYS, WARM_UP_DAYS
from engine.errors import ModelError
from engine.risk.covariance import Adjustments, estimate_factor_covariance
from engine.risk.specific import specific_scores

DEGREES: Final = np.round(np.arange(4.0, 30.01, 0.1), 1)
"""Grid of degrees of freedom for the factors, the range of MATH 4."""

OFFSET: Final = 3.0
"""Added to D^2 and to its degrees before the power is taken: quiet days do not shrink to nothing."""

STEEPEST: Final = 0.5
"""Exponent of a multivariate t for large moves; specific returns grow more slowly than that."""

REFIT_DAYS: Final = 5
"""Days that share one covariance of the days before them; a daily one costs five times as much."""

FITTED_LEVEL: Final = 0.80


@dataclass(frozen=True, slots=True)
class Tails:
    """Tail shape of factor and specific returns.

    Args:
        degrees: ``nu`` of the factors' multivariate t, in [4, 30].
        factor_multiplier: Scale that makes an 80 % band of past factor returns hold 80 %.
        specific_exponent: Power of the factor move's size with which specific volatility grows, 0 to 0.5.
        specific_multiplier: The same scale for specific returns.
    """

    degrees: float
    factor_multiplier: float
    specific_exponent: float
    specific_multiplier: float

    def __post_init__(self) -> None:
        sizes = (self.factor_multiplier, self.specific_multiplier)
        if not (np.isfinite(self.degrees) and self.degrees > 2.0):
            raise ModelError("tails: degrees must be finite and above 2, where a t has a variance")
        if not 0.0 <= self.specific_exponent <= STEEPEST:
            raise ModelError(f"tails: specific_exponent must be in [0, {STEEPEST:g}]")
        if not all(np.isfinite(size) and size > 0.0 for size in sizes):
            raise ModelError("tails: multipliers must be finite and above 0")

    def factor_scale(self, distance_squared: float, views: int) -> float:
        """Volatility multiplier of what the views leave open in the factors."""
        inflation = (self.degrees - 2.0 + distance_squared) / (self.degrees + views - 2.0)
        return self.factor_multiplier * float(np.sqrt(inflation))

    def specific_scale(self, distance_squared: float, views: int) -> float:
        """Volatility multiplier of the specific returns, ``c ((D^2 + 3) / (k + 3))^a``."""
        size = (distance_squared + OFFSET) / (views + OFFSET)
        return self.specific_multiplier * float(size**self.specific_exponent)

    def tail_probability(self, distance_squared: float, views: int) -> float:
        """``P(D^2 >= d)`` of ``views`` numbers: ``F_sf(d nu / ((nu - 2) k), k, nu)`` (MATH 4)."""
        scaled = distance_squared * self.degrees / ((self.degrees - 2.0) * views)
        return float(fdtrc(views, self.degrees, scaled))


def fit_tails(
    factors: Float[np.ndarray, "n_days n_factors"],
    residuals: Float[np.ndarray, "n_days n_securities"],
    *,
    volatility_half_life: float,
    correlation_half_life: float,
    specific_half_life: float,
    adjustments: Adjustments | None = None,
) -> Tails:
    """Fit the tails on standardised returns, ahead of their week, of the panel's own days.

    ``nu`` maximises the likelihood of each day's ``D_t^2 = f_t' F_t^-1 f_t`` with ``F_t``
    from the days before its week. The specific exponent fits ``mean_i (e_it / sig_it)^2`` by least
    squares in logarithms to ``c ((D_t^2 + 3) / (K + 3))^(2a)``, kept in [0, 0.5]. Each multiplier is
    the 80 % quantile of the standardised absolute returns over the Gaussian one.

    Args:
        factors: Daily factor returns up to the calibration date.
        residuals: Daily specific returns on the same days, NaN where missing.
        volatility_half_life: Days, of the factor volatilities.
        correlation_half_life: Days, of the factor correlations.
        specific_half_life: Days, of the specific variances.
        adjustments: Of the factor covariance, the same as the model's.
    """
    n_days, n_factors = factors.shape
    start = min(WARM_UP_DAYS, n_days // 2)
    distances = np.empty(n_days - start)
    standardised = np.empty((n_days - start, n_factors))
    for t in range(start, n_days, REFIT_DAYS):
        daily = (
            estimate_factor_covariance(
                factors[:t],
                volatility_half_life=volatility_half_life,
                correlation_half_life=correlation_half_life,
                adjustments=adjustments,
            )
            / TRADING_DAYS
        )
        week, rows = factors[t : t + REFIT_DAYS], slice(t - start, t - start + REFIT_DAYS)
        distances[rows] = (week.T * np.linalg.lstsq(daily, week.T, rcond=None)[0]).sum(axis=0)
        standardised[rows] = week / np.sqrt(np.diag(daily))
    degrees = float(DEGREES[np.argmax([_log_likelihood(distances, n_factors, nu) for nu in DEGREES])])

    scores = specific_scores(residuals, specific_half_life)[start:]
    with np.errstate(invalid="ignore"):
        sizes = np.nanmean(np.where(np.isfinite(scores), scores, np.nan) ** 2, axis=1)
    moves = (distances + OFFSET) / (n_factors + OFFSET)
    exponent = _fit_exponent(sizes, moves)
    return Tails(
        degrees=degrees,
        factor_multiplier=_multiplier(standardised),
        specific_exponent=exponent,
        specific_multiplier=_multiplier(scores / (moves**exponent)[:, None]),
    )


def _log_likelihood(distances: Float[np.ndarray, " n"], n_factors: int, degrees: float) -> float:
    """Log density of D^2 under a t with unit covariance: D^2 nu / ((nu - 2) K) is F(K, nu)."""
    scale = degrees / ((degrees - 2.0) * n_factors)
    x = np.maximum(distances * scale, 1e-12)
    half_k, half_nu = n_factors / 2.0, degrees / 2.0
    density = (
        half_k * np.log(n_factors / degrees)
        + (half_k - 1.0) * np.log(x)
        - (half_k + half_nu) * np.log1p(n_factors * x / degrees)
        - betaln(half_k, half_nu)
    )
    return float((density + np.log(scale)).sum())


def _fit_exponent(sizes: Float[np.ndarray, " n"], moves: Float[np.ndarray, " n"]) -> float:
    """Half the slope of log mean square on log size of the move; 0 when there is nothing to fit."""
    usable = np.isfinite(sizes) & (sizes > 0.0)
    x, y = np.log(moves[usable]), np.log(sizes[usable])
    if x.size < 2 or not np.ptp(x) > 0.0:
        return 0.0
    slope = ((x - x.mean()) @ (y - y.mean())) / ((x - x.mean()) @ (x - x.mean()))
    return float(np.clip(slope / 2.0, 0.0, STEEPEST))


def _multiplier(scores: Float[np.ndarray, "n_days m"]) -> float:
    seen = np.abs(scores[np.isfinite(scores)])
    if not seen.size:
        return 1.0
    return float(np.quantile(seen, FITTED_LEVEL) / ndtri(0.5 + FITTED_LEVEL / 2.0))
