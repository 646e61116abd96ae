"""Factor covariance: volatilities with a short memory, correlations with a longer one."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from engine.conventions import TRADING_DAYS, WARM_UP_DAYS
from engine.curve.factors import decay_weights
from engine.errors import CalibrationError, ModelError

EIGENFACTOR_DRAWS: Final = 1000
EIGENFACTOR_NUMBERS: Final = 64_000
"""At most this many numbers are drawn, so that 16 factors (250 draws) take no longer than 8."""

EIGENFACTOR_SEED: Final = 20110601
EIGENFACTOR_STRENGTH: Final = 1.4
"""``a`` of Menchero, Wang and Orr (2011): returns have fatter tails than the draws."""

STRESS_SHARE: Final = 0.10
"""The worst decile of days (MATH 2)."""

ROUNDING: Final = 1e-10
"""Smallest eigenvalue, over the largest, that still counts as rounding of zero."""


@dataclass(frozen=True, slots=True)
class Adjustments:
    """What is done to the decayed covariance, in this order; the default does nothing.

    Args:
        newey_west_lags: Lags ``L`` of serial correlation that are added; 0 adds none.
        correlation_shrinkage: Share of every correlation that is taken off, 0..1.
        eigenfactor: Whether eigenvalues are corrected for the bias that sampling gives them.
        regime_half_life: Days, of the market-wide volatility multiplier; None leaves it out.

    Raises:
        CalibrationError: a number is outside its range.
    """

    newey_west_lags: int = 0
    correlation_shrinkage: float = 0.0
    eigenfactor: bool = False
    regime_half_life: float | None = None

    def __post_init__(self) -> None:
        if self.newey_west_lags < 0:
            raise CalibrationError(f"newey_west_lags is {self.newey_west_lags}; 0 or more")
        if not 0.0 <= self.correlation_shrinkage <= 1.0:
            raise CalibrationError(f"correlation_shrinkage is {self.correlation_shrinkage}; 0 to 1")
        if self.regime_half_life is not None and not self.regime_half_life > 0.0:
            raise CalibrationError(f"regime_half_life is {self.regime_half_life}; above 0 days")


def estimate_factor_covariance(
    values: Float[np.ndarray, "n_days n_factors"],
    *,
    volatility_half_life: float,
    correlation_half_life: float,
    adjustments: Adjustments | None = None,
) -> Float[np.ndarray, "n_factors n_factors"]:
    """Annual covariance of daily factor returns, exponentially weighted.

    ``F = 252 lam^2 diag(s) C diag(s)``: ``s`` the decayed standard deviations with
    ``volatility_half_life``, ``C`` the decayed correlations with ``correlation_half_life``,
    both about the decayed mean, both with Newey-West terms where asked for; ``C`` shrunk to
    ``(1 - a) C + a I``; eigenvalues corrected; ``lam`` the regime multiplier.

    Every step keeps ``F`` positive semi-definite, so nothing is ever clipped: a decayed
    covariance is ``Y'Y``; Newey-West keeps that form (see ``decayed_covariance``); scaling
    rows and columns alike is a congruence; shrinkage is a convex mixture with ``I``; the
    eigenfactor step scales eigenvalues by positive numbers; ``lam^2`` is positive.

    Args:
        values: Daily factor returns, newest last, no gap.
        volatility_half_life: Days.
        correlation_half_life: Days.
        adjustments: Options; none when None.

    Returns:
        Covariance a year, symmetric to the bit.

    Raises:
        CalibrationError: a return is not finite, or an adjustment leaves a factor no variance.

    References:
        MATH.md 2. Oracle: ``numpy.cov(aweights=...)`` when both half-lives agree.
    """
    if not np.isfinite(values).all():
        raise CalibrationError("factor returns: a number is not finite; factors have no gaps")
    options = adjustments or Adjustments()
    short = decayed_covariance(values, volatility_half_life, options.newey_west_lags)
    long = decayed_covariance(values, correlation_half_life, options.newey_west_lags)
    if not (np.diag(long) > 0.0).all():
        still = ", ".join(str(k) for k in np.flatnonzero(~(np.diag(long) > 0.0)))
        raise CalibrationError(f"factor returns: columns {still} have no variance")
    scale = np.sqrt(np.diag(short) / np.diag(long))
    covariance = TRADING_DAYS * long * np.outer(scale, scale)
    covariance = (covariance + covariance.T) / 2.0
    if options.correlation_shrinkage > 0.0:
        covariance = shrink_correlations(covariance, options.correlation_shrinkage)
    if options.eigenfactor:
        weights = decay_weights(len(values), correlation_half_life)
        covariance = adjust_eigenfactors(covariance, effective_days=1.0 / float(weights @ weights))
    if options.regime_half_life is not None:
        covariance = covariance * regime_multiplier(values, volatility_half_life, options.regime_half_life) ** 2
    return covariance


def decayed_covariance(
    values: Float[np.ndarray, "n_days n_factors"], half_life: float, lags: int = 0
) -> Float[np.ndarray, "n_factors n_factors"]:
    """Daily decayed covariance with Newey-West terms that keep it positive semi-definite.

    ``G_0 + sum_j (1 - j/(L+1)) (G_j + G_j')`` with ``G_j = sum_t sqrt(p_t p_(t-j)) x_t x_(t-j)'``.

    Why it is positive semi-definite: put ``y_t = sqrt(p_t) x_t``, zero outside the history,
    and ``z_s = y_s + y_(s-1) + ... + y_(s-L)`` for every s whose window touches the history.
    The pair ``(y_t, y_(t-j))`` lies in L + 1 - j of the windows, so ``sum_s z_s z_s' / (L+1)`` is
    the sum above to the letter, and a sum of squares. It is computed in this form. The usual
    weight ``p_t`` on lag j has no such form: it can make a variance negative.

    Args:
        values: Daily returns, newest last.
        half_life: Days.
        lags: ``L``; 0 is the plain decayed covariance.

    References:
        Newey and West (1987); MATH.md 2. Oracle: the sum over lags, tests/test_covariance.py.
    """
    weights = decay_weights(len(values), half_life)
    centred = values - weights @ values
    if not lags:
        return (centred * weights[:, None]).T @ centred
    roots = np.sqrt(weights)[:, None] * centred
    windows = np.zeros((len(values) + lags, values.shape[1]))
    for j in range(lags + 1):
        windows[j : j + len(values)] += roots
    return windows.T @ windows / (lags + 1.0)


def shrink_correlations(covariance: Float[np.ndarray, "k k"], intensity: float) -> Float[np.ndarray, "k k"]:
    """Every correlation times ``1 - intensity``, every variance as it is.

    The target is no correlation, because pure factors are net of the market by construction.
    """
    shrunk: Float[np.ndarray, "k k"] = (1.0 - intensity) * covariance
    np.fill_diagonal(shrunk, np.diag(covariance))
    return shrunk


def adjust_eigenfactors(covariance: Float[np.ndarray, "k k"], *, effective_days: float) -> Float[np.ndarray, "k k"]:
    """Eigenvalues scaled up where sampling makes them too small, and down where too large.

    With ``F = U diag(l) U'``, draw returns of variances ``l`` for ``effective_days`` days, take
    the eigenvectors ``u`` and eigenvalues ``e`` of their sample covariance, and compare with
    the true variance ``u' diag(l) u``: ``v_k^2 = mean over draws of u_k' diag(l) u_k / e_k``.
    Then ``l_k`` becomes ``(a (v_k - 1) + 1)^2 l_k``, ``a = 1.4``. Draws are made in eigenvector
    space from a fixed seed, so that relabelling factors relabels the answer and nothing else.

    Args:
        covariance: Any unit, symmetric positive semi-definite.
        effective_days: ``1 / sum p_t^2`` of the decay.

    Raises:
        ModelError: the input is not symmetric positive semi-definite; it is refused, not clipped.

    References:
        Menchero, Wang and Orr (2011), Improving risk forecasts for optimized portfolios.
    """
    if not np.isfinite(covariance).all() or not np.array_equal(covariance, covariance.T):
        raise ModelError("factor covariance is not finite and symmetric; it is refused, not repaired")
    values, vectors = np.linalg.eigh(covariance)
    if values[0] < -ROUNDING * max(values[-1], 0.0) or values[-1] < 0.0:
        raise ModelError("factor covariance is not positive semi-definite; it is refused, not clipped")
    kept = values > ROUNDING * values[-1]
    if not kept.any():
        return covariance
    true = values[kept]
    days = max(round(effective_days), 2 * len(true) + 2)
    generator = np.random.default_rng(EIGENFACTOR_SEED)
    # Bartlett: the lower triangle of a Wishart draw, instead of the days themselves.
    draws = min(EIGENFACTOR_DRAWS, max(EIGENFACTOR_NUMBERS // len(true) ** 2, 1))
    roots = np.tril(generator.standard_normal((draws, len(true), len(true))), -1)
    at = np.arange(len(true))
    roots[:, at, at] = np.sqrt(generator.chisquare(days - at, (draws, len(true))))
    roots *= np.sqrt(true)[:, None]
    samples = roots @ roots.transpose(0, 2, 1) / days
    sampled, seen = np.linalg.eigh(samples)
    bias = np.sqrt((np.einsum("mik,i,mik->mk", seen, true, seen) / sampled).mean(axis=0))
    stretch = np.ones_like(values)
    stretch[kept] = np.maximum(EIGENFACTOR_STRENGTH * (bias - 1.0) + 1.0, ROUNDING)
    adjusted = (vectors * (np.maximum(values, 0.0) * stretch**2)) @ vectors.T
    return (adjusted + adjusted.T) / 2.0


def regime_multiplier(
    values: Float[np.ndarray, "n_days n_factors"], volatility_half_life: float, regime_half_life: float
) -> float:
    """How much larger all volatilities have been lately than forecast the day before.

    ``lam^2 = sum_t p_t mean_k (f_kt / sig_kt)^2`` with ``sig_kt`` the decayed volatility of the
    days before t and ``p_t`` halving every ``regime_half_life`` days. 1 where forecasts were
    right on average; scaling all returns leaves it as it is.

    Args:
        values: Daily returns, newest last, no gap.
        volatility_half_life: Days, of the forecasts.
        regime_half_life: Days, of the average.

    References:
        MATH.md 2; Menchero, Orr and Wang (2011), USE4. Planted truth: tests/test_covariance.py.
    """
    start = min(WARM_UP_DAYS, len(values) // 2)
    forecast = one_step_variances(values, volatility_half_life)[start:]
    usable = (forecast > 0.0).all(axis=1)
    if not usable.any():
        return 1.0
    sizes = (values[start:][usable] ** 2 / forecast[usable]).mean(axis=1)
    weights = decay_weights(len(forecast), regime_half_life)[usable]
    return float(np.sqrt(weights @ sizes / weights.sum()))


def one_step_variances(
    values: Float[np.ndarray, "n_days n_factors"], half_life: float
) -> Float[np.ndarray, "n_days n_factors"]:
    """Daily decayed variance about the decayed mean of the days before each day; 0 on the first.

    Row t is the diagonal of ``decayed_covariance(values[:t], half_life)``, in one pass.
    """
    decay = 0.5 ** (1.0 / half_life)
    weight, mean, spread = 0.0, np.zeros(values.shape[1]), np.zeros(values.shape[1])
    out = np.zeros(values.shape)
    for t, today in enumerate(values):
        out[t] = spread / weight if weight else 0.0
        weight = decay * weight + 1.0
        step = today - mean
        mean = mean + step / weight
        spread = decay * spread + step * (today - mean)
    return out


def estimate_stress_covariance(
    values: Float[np.ndarray, "n_days n_factors"],
    *,
    factor: int,
    share: float = STRESS_SHARE,
    correlation_shrinkage: float = 0.0,
) -> Float[np.ndarray, "n_factors n_factors"]:
    """Annual covariance on the worst days of one factor, each such day counting the same.

    ``F = 252 mean over the days of (f_t - m)(f_t - m)'`` with ``m`` the mean of *all* days: about
    the worst days' own mean the chosen factor would look calm, because the choice cuts its
    tail off, and its slope on the others would be that of the rest of the tail. Decay would
    leave a handful of days; there is none.

    Args:
        values: Daily factor returns, no gap.
        factor: Column whose lowest returns choose the days; ties go to the later day.
        share: Share of days, e.g. 0.1.
        correlation_shrinkage: As in ``Adjustments``.

    Returns:
        Covariance a year, symmetric to the bit, positive semi-definite as a sum of squares.

    Raises:
        CalibrationError: not finite, or fewer chosen days than twice the factors.

    References:
        MATH.md 2. Oracle: plain numpy on the sorted days, tests/test_covariance.py.
    """
    if not np.isfinite(values).all():
        raise CalibrationError("factor returns: a number is not finite; factors have no gaps")
    n_days, n_factors = values.shape
    count = int(np.ceil(share * n_days))
    if count < 2 * n_factors:
        raise CalibrationError(
            f"stress covariance: {count} of {n_days} days for {n_factors} factors; at least {2 * n_factors}: "
            "give a longer history"
        )
    order = np.lexsort((-np.arange(n_days), values[:, factor]))
    left = values[order[:count]] - values.mean(axis=0)
    covariance = TRADING_DAYS * left.T @ left / count
    covariance = (covariance + covariance.T) / 2.0
    return shrink_correlations(covariance, correlation_shrinkage) if correlation_shrinkage > 0.0 else covariance
