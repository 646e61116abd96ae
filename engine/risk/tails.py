"""How much wider than Gaussian the tails are: fitted on the days before the calibration date."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float
from scipy.special import betaln, fdtrc, ndtri

from engine.conventions import TRADING_DAYS
from engine.errors import ModelError
from engine.risk.covariance import estimate_factor_covariance

DEGREES: Final = np.round(np.arange(4.0, 30.01, 0.1), 1)
"""Grid of degrees of freedom for the factors, the range of MATH 4."""

SPECIFIC_DEGREES: Final = np.round(np.geomspace(4.0, 1000.0, 200), 1)
"""Grid for the specific returns; 1000 says that their size ignores the factors'."""

WARM_UP_DAYS: Final = 126
FITTED_LEVEL: Final = 0.80


@dataclass(frozen=True, slots=True)
class Tails:
    """Tail shape of factor and specific returns.

    Args:
        degrees: ``nu`` of the factors' multivariate t, in [4, 30].
        factor_multiplier: Scale that makes an 80 % band of past factor returns hold 80 %.
        specific_degrees: How fast specific volatility grows with the size of the factor move.
        specific_multiplier: The same scale for specific returns.
    """

    degrees: float
    factor_multiplier: float
    specific_degrees: float
    specific_multiplier: float

    def __post_init__(self) -> None:
        sizes = (self.factor_multiplier, self.specific_multiplier)
        if not all(np.isfinite(degrees) and degrees > 2.0 for degrees in (self.degrees, self.specific_degrees)):
            raise ModelError("tails: degrees must be finite and above 2, where a t has a variance")
        if not all(np.isfinite(size) and size > 0.0 for size in sizes):
            raise ModelError("tails: multipliers must be finite and above 0")

    def factor_scale(self, distance_squared: float, views: int) -> float:
        """Volatility multiplier of what the views leave open in the factors."""
        return self.factor_multiplier * float(np.sqrt(_inflation(distance_squared, self.degrees, views)))

    def specific_scale(self, distance_squared: float, views: int) -> float:
        """Volatility multiplier of the specific returns."""
        return self.specific_multiplier * float(np.sqrt(_inflation(distance_squared, self.specific_degrees, views)))

    def tail_probability(self, distance_squared: float, views: int) -> float:
        """``P(D^2 >= d)`` of ``views`` numbers: ``F_sf(d nu / ((nu - 2) k), k, nu)`` (MATH 4)."""
        scaled = distance_squared * self.degrees / ((self.degrees - 2.0) * views)
        return float(fdtrc(views, self.degrees, scaled))


def _inflation(distance_squared: float, degrees: float, views: int) -> float:
    return (degrees - 2.0 + distance_squared) / (degrees + views - 2.0)


def fit_tails(
    factors: Float[np.ndarray, "n_days n_factors"],
    residuals: Float[np.ndarray, "n_days n_securities"],
    *,
    volatility_half_life: float,
    correlation_half_life: float,
    specific_half_life: float,
) -> Tails:
    """Fit the tails on one-step-ahead standardised returns of the panel's own days.

    ``nu`` maximises the likelihood of each day's ``D_t^2 = f_t' F_t^-1 f_t`` with ``F_t``
    from the days before t. The specific degrees fit ``mean_i (e_it / sig_it)^2`` by least
    squares in logarithms to ``c (nu_s - 2 + D_t^2) / (nu_s + K - 2)``. Each multiplier is
    the 80 % quantile of the standardised absolute returns over the Gaussian one.

    Args:
        factors: Daily factor returns up to the calibration date.
        residuals: Daily specific returns on the same days, NaN where missing.
        volatility_half_life: Days, of the factor volatilities.
        correlation_half_life: Days, of the factor correlations.
        specific_half_life: Days, of the specific variances.
    """
    n_days, n_factors = factors.shape
    start = min(WARM_UP_DAYS, n_days // 2)
    distances = np.empty(n_days - start)
    standardised = np.empty((n_days - start, n_factors))
    for t in range(start, n_days):
        daily = (
            estimate_factor_covariance(
                factors[:t], volatility_half_life=volatility_half_life, correlation_half_life=correlation_half_life
            )
            / TRADING_DAYS
        )
        distances[t - start] = factors[t] @ np.linalg.lstsq(daily, factors[t], rcond=None)[0]
        standardised[t - start] = factors[t] / np.sqrt(np.diag(daily))
    degrees = float(DEGREES[np.argmax([_log_likelihood(distances, n_factors, nu) for nu in DEGREES])])

    scores = _specific_scores(residuals, specific_half_life)[start:]
    with np.errstate(invalid="ignore"):
        sizes = np.nanmean(np.where(np.isfinite(scores), scores, np.nan) ** 2, axis=1)
    specific_degrees = _fit_specific_degrees(sizes, distances, n_factors)
    inflation = np.sqrt((specific_degrees - 2.0 + distances) / (specific_degrees + n_factors - 2.0))
    return Tails(
        degrees=degrees,
        factor_multiplier=_multiplier(standardised),
        specific_degrees=specific_degrees,
        specific_multiplier=_multiplier(scores / inflation[:, None]),
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


def _specific_scores(
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


def _fit_specific_degrees(sizes: Float[np.ndarray, " n"], distances: Float[np.ndarray, " n"], n_factors: int) -> float:
    usable = np.isfinite(sizes) & (sizes > 0.0)
    if not usable.any():
        return float(SPECIFIC_DEGREES[-1])
    target = np.log(sizes[usable])
    grid = SPECIFIC_DEGREES[:, None]
    shape = np.log((grid - 2.0 + distances[usable]) / (grid + n_factors - 2.0))
    error = target - shape
    loss = ((error - error.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    return float(SPECIFIC_DEGREES[np.argmin(loss)])


def _multiplier(scores: Float[np.ndarray, "n_days m"]) -> float:
    seen = np.abs(scores[np.isfinite(scores)])
    if not seen.size:
        return 1.0
    return float(np.quantile(seen, FITTED_LEVEL) / ndtri(0.5 + FITTED_LEVEL / 2.0))
