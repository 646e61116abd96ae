"""The past of a model's factors: what each day did, and what the model would have forecast for it."""

import datetime as dt
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from engine.axes import Axis
from engine.conventions import TRADING_DAYS, WARM_UP_DAYS
from engine.curve.universe import CalibrationSettings
from engine.errors import ModelError
from engine.risk.covariance import Adjustments


@dataclass(frozen=True, slots=True)
class FactorHistory:
    """Daily factor returns and the factor covariance of the days before each day.

    Args:
        dates: ``T`` trading days in order.
        factors: Axis of the columns.
        values: ``(T, K)``, daily returns, decimals.
        covariances: ``(T', K, K)`` a year, for the last ``T'`` days; each has seen only the
            days before its own. The first days are warm-up and have none.

    Raises:
        ModelError: shapes disagree, or a number is not finite.
    """

    dates: tuple[dt.date, ...]
    factors: Axis
    values: Float[np.ndarray, "n_days n_factors"]
    covariances: Float[np.ndarray, "n_forecasts n_factors n_factors"]

    def __post_init__(self) -> None:
        shape = (len(self.dates), len(self.factors))
        if self.values.shape != shape or len(self.covariances) > len(self.dates):
            raise ModelError(f"factor history: returns are {self.values.shape}, dates and factors {shape}")
        if not (np.isfinite(self.values).all() and np.isfinite(self.covariances).all()):
            raise ModelError("factor history: a number is not finite; factors have no gaps")
        for name in ("values", "covariances"):
            frozen = np.array(getattr(self, name))
            frozen.setflags(write=False)
            object.__setattr__(self, name, frozen)

    @property
    def forecast_values(self) -> Float[np.ndarray, "n_forecasts n_factors"]:
        """The returns of the days that have a covariance."""
        return self.values[len(self.values) - len(self.covariances) :]

    @classmethod
    def from_frame(cls, frame: pl.DataFrame, factors: Axis, settings: CalibrationSettings) -> "FactorHistory":
        """The history in the table ``factor_returns``, joined by name; row order never matters.

        Args:
            frame: Table ``factor_returns``.
            factors: Axis of the columns.
            settings: What the model was calibrated with; its half-lives, lags, shrinkage and regime.

        Raises:
            AlignmentError: a factor is missing on a day, or the table has a foreign one.
            ModelError: a return is not finite.
        """
        dates = frame["date"].unique().sort()
        days = Axis("date", tuple(dates.cast(pl.String).to_list()))
        long = frame.with_columns(pl.col("date").cast(pl.String))
        values = days.matrix(long, factors, "return", keys=("date", "factor"), source="factor_returns")
        covariances = one_step_covariances(
            values,
            volatility_half_life=settings.volatility_half_life_days,
            correlation_half_life=settings.correlation_half_life_days,
            adjustments=Adjustments(
                newey_west_lags=settings.newey_west_lags,
                correlation_shrinkage=settings.correlation_shrinkage,
                regime_half_life=settings.regime_half_life_days,
            ),
        )
        return cls(tuple(dates.to_list()), factors, values, covariances)


def one_step_covariances(
    values: Float[np.ndarray, "n_days n_factors"],
    *,
    volatility_half_life: float,
    correlation_half_life: float,
    adjustments: Adjustments,
) -> Float[np.ndarray, "n_forecasts n_factors n_factors"]:
    """Annual factor covariance of the days before each day, for all days in a few passes.

    Row i is ``estimate_factor_covariance(values[:s + i])`` with ``s`` the warm-up, from decayed
    sums of ``f``, ``ff'`` and their lags instead of a pass over the past for every day. The
    eigenfactor correction is left out: its draws for every day would take minutes. On the
    bundled model it changes the ``D^2`` of a scenario by less than 1 %.

    Args:
        values: Daily factor returns, newest last, no gap.
        volatility_half_life: Days.
        correlation_half_life: Days.
        adjustments: Newey-West lags, shrinkage and regime half-life are applied.

    Returns:
        ``(T - s, K, K)``, ``s = min(WARM_UP_DAYS, T // 2)``, symmetric; zero variance stays zero.

    Raises:
        ModelError: a return is not finite.

    References:
        MATH.md 2, 4. Oracle: ``estimate_factor_covariance`` day by day, tests/test_history.py.
    """
    if not np.isfinite(values).all():
        raise ModelError("factor history: a return is not finite; factors have no gaps")
    n_days = len(values)
    start = max(min(WARM_UP_DAYS, n_days // 2), 1)
    days = slice(start - 1, n_days - 1)
    lags = adjustments.newey_west_lags
    plain = _running_covariances(values, volatility_half_life, 0)
    short = plain[days] if not lags else _running_covariances(values, volatility_half_life, lags)[days]
    long = _running_covariances(values, correlation_half_life, lags)[days]
    of_short, of_long = (np.diagonal(table, axis1=1, axis2=2) for table in (short, long))
    scale = np.sqrt(np.divide(of_short, of_long, out=np.zeros_like(of_long), where=of_long > 0.0))
    covariances = TRADING_DAYS * (long * (scale[:, :, None] * scale[:, None, :]))
    if adjustments.correlation_shrinkage > 0.0:
        kept = np.where(np.eye(values.shape[1], dtype=bool), 1.0, 1.0 - adjustments.correlation_shrinkage)
        covariances *= kept
    if adjustments.regime_half_life is not None:
        variances = np.vstack([np.zeros(values.shape[1]), np.diagonal(plain, axis1=1, axis2=2)[:-1]])
        covariances *= _regime_variances(values, variances, adjustments.regime_half_life)[days, None, None]
    return (covariances + covariances.transpose(0, 2, 1)) / 2.0


def _decayed_sums(terms: Float[np.ndarray, "n_days m"], half_life: float) -> Float[np.ndarray, "n_days m"]:
    """Row t is ``sum over s <= t of 0.5^((t - s) / half_life) terms_s``, by doubling the reach."""
    sums = terms.copy()
    step = 1
    while step < len(sums):
        sums[step:] += 0.5 ** (step / half_life) * sums[:-step]
        step *= 2
    return sums


def _running_covariances(
    values: Float[np.ndarray, "n_days n_factors"], half_life: float, lags: int
) -> Float[np.ndarray, "n_days n_factors n_factors"]:
    """Row t is ``decayed_covariance(values[:t + 1], half_life, lags)``."""
    n_days, k = values.shape
    weight = _decayed_sums(np.ones((n_days, 1)), half_life)
    mean = _decayed_sums(values, half_life) / weight
    total = _decayed_products(values, values, half_life) / weight[:, :, None] - mean[:, :, None] * mean[:, None, :]
    for lag in range(1, min(lags, n_days - 1) + 1):
        later, earlier = np.zeros((2, n_days, k))
        later[lag:], earlier[lag:] = values[lag:], values[:-lag]
        both = np.zeros((n_days, 1))
        both[lag:] = 1.0
        products = _decayed_products(later, earlier, half_life)
        products -= _decayed_sums(later, half_life)[:, :, None] * mean[:, None, :]
        products -= mean[:, :, None] * _decayed_sums(earlier, half_life)[:, None, :]
        products += _decayed_sums(both, half_life)[:, :, None] * (mean[:, :, None] * mean[:, None, :])
        products *= (1.0 - lag / (lags + 1.0)) * 0.5 ** (lag / 2.0 / half_life) / weight[:, :, None]
        total += products + products.transpose(0, 2, 1)
    return total


def _decayed_products(
    left: Float[np.ndarray, "n_days n_factors"], right: Float[np.ndarray, "n_days n_factors"], half_life: float
) -> Float[np.ndarray, "n_days n_factors n_factors"]:
    n_days, k = left.shape
    terms = (left[:, :, None] * right[:, None, :]).reshape(n_days, k * k)
    return _decayed_sums(terms, half_life).reshape(n_days, k, k)


def _regime_variances(
    values: Float[np.ndarray, "n_days n_factors"],
    variances: Float[np.ndarray, "n_days n_factors"],
    half_life: float,
) -> Float[np.ndarray, " n_days"]:
    """Row t is ``regime_multiplier(values[:t + 1]) ** 2``: a window that opens after its own warm-up."""
    usable = (variances > 0.0).all(axis=1)
    sizes = np.divide(values**2, variances, out=np.zeros_like(values), where=variances > 0.0).mean(axis=1)
    terms = np.column_stack([np.where(usable, sizes, 0.0), usable.astype(np.float64)])
    sums = np.vstack([np.zeros(2), _decayed_sums(terms, half_life)])
    seen = np.arange(1, len(values) + 1)
    opened = np.minimum(WARM_UP_DAYS, seen // 2)
    inside = sums[seen] - 0.5 ** ((seen - opened) / half_life)[:, None] * sums[opened]
    any_usable = np.cumsum(usable) > np.concatenate([[0], np.cumsum(usable)])[opened]
    return np.divide(inside[:, 0], inside[:, 1], out=np.ones(len(values)), where=any_usable)
