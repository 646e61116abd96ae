"""A second opinion on the units of a risk model: what else the calibration left must be of the same size."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from engine.risk.history import FactorHistory
from engine.risk.model import RiskModel

FACTOR_RANGE: Final = (0.5, 2.0)
"""A model's factor volatilities over those its own history forecasts, median; one day cannot move all of them so."""

SPECIFIC_RANGE: Final = (1.0 / 1.75, 1.75)
"""A model's median specific volatility over its second models'; they see the same days."""


def unit_faults(model: RiskModel, history: FactorHistory, alternatives: Mapping[str, RiskModel]) -> list[str]:
    """Volatilities of another size than their own history's or the second models', in words.

    A volatility ``s`` given where a variance is wanted reads as ``sqrt(s)``, too large by
    ``1 / sqrt(s)``: 3.2 for a factor of 10 % a year, 2.0 for a name of 25 %. Both stay inside the
    range that is plausible in itself, and stand out beside a number from the same days.
    Medians ``s`` below 0.25 for factors and 0.33 for names are seen, larger ones are not.

    Args:
        model: Risk model.
        history: Past of its factors; with no forecast, the factors are not judged.
        alternatives: Second models; without one, the names are not judged.

    Returns:
        A sentence a fault; none for a sound model.
    """
    faults = []
    if len(history.covariances):
        forecast = np.diagonal(history.covariances[-1])
        ratio = _median_ratio(np.diagonal(model.factor_covariance), forecast)
        low, high = FACTOR_RANGE
        if not low <= ratio <= high:
            faults.append(
                f"factor volatilities are {ratio:.2g} times those of its own factor_returns, "
                f"outside {low:g} to {high:g}: give factor_covariance as variance a year, in decimals"
            )
    medians = [_median_volatility(other) for other in alternatives.values()]
    if medians and min(medians) > 0.0 and _median_volatility(model) > 0.0:
        ratio = _median_volatility(model) / float(np.median(medians))
        low, high = SPECIFIC_RANGE
        if not low <= ratio <= high:
            faults.append(
                f"the median specific volatility is {ratio:.2g} times that of the second models, "
                f"outside {low:.2g} to {high:g}: give specific_risk as variance a year, in decimals"
            )
    return faults


def _median_ratio(found: np.ndarray, expected: np.ndarray) -> float:
    """Median ratio of volatilities over what moves in both; 1 where nothing does."""
    both = (found > 0.0) & (expected > 0.0)
    return float(np.median(np.sqrt(found[both] / expected[both]))) if both.any() else 1.0


def _median_volatility(model: RiskModel) -> float:
    variance = model.specific_variance
    return float(np.median(np.sqrt(variance[variance > 0.0]))) if (variance > 0.0).any() else 0.0
