"""Factor covariance: volatilities with a short memory, correlations with a longer one."""

import numpy as np
from jaxtyping import Float

from engine.conventions import TRADING_DAYS
from engine.curve.factors import decay_weights


def estimate_factor_covariance(
    values: Float[np.ndarray, "n_days n_factors"], *, volatility_half_life: float, correlation_half_life: float
) -> Float[np.ndarray, "n_factors n_factors"]:
    """Annual covariance of daily factor returns, exponentially weighted.

    ``F = 252 diag(s) C diag(s)``: ``s`` the decayed standard deviations with
    ``volatility_half_life``, ``C`` the decayed correlations with ``correlation_half_life``,
    both about the decayed mean. Positive semi-definite by construction.

    Args:
        values: Daily factor returns, newest last, no gap.
        volatility_half_life: Days.
        correlation_half_life: Days.

    Returns:
        Covariance a year, symmetric to the bit.

    References:
        MATH.md 2. Oracle: ``numpy.cov(aweights=...)`` when both half-lives agree.
    """
    short = _decayed_covariance(values, volatility_half_life)
    long = _decayed_covariance(values, correlation_half_life)
    scale = np.sqrt(np.diag(short) / np.diag(long))
    covariance = TRADING_DAYS * long * np.outer(scale, scale)
    return (covariance + covariance.T) / 2.0


def _decayed_covariance(
    values: Float[np.ndarray, "n_days n_factors"], half_life: float
) -> Float[np.ndarray, "n_factors n_factors"]:
    weights = decay_weights(len(values), half_life)
    centred = values - weights @ values
    return (centred * weights[:, None]).T @ centred
