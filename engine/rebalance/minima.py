"""The one-dimensional minima of the bound: what a name can cost at least, wherever it may stand."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from engine.rebalance.case import Case


@dataclass(frozen=True, slots=True)
class Price:
    """What one name costs at ``t``, by name.

    Args:
        curve: ``d`` times the aversion.
        slope: ``s``.
        kink: ``kap``, of the distance from ``x0``.
        impact: ``c``, of that distance to the power 3/2.
        size: ``g``, of ``|t|``.
        short: ``h``, of what is below 0.
    """

    curve: Float[np.ndarray, " n"]
    slope: Float[np.ndarray, " n"]
    kink: Float[np.ndarray, " n"]
    impact: Float[np.ndarray, " n"]
    size: Float[np.ndarray, " n"]
    short: Float[np.ndarray, " n"]


def one_dimensional_minima(case: Case, price: Price) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The least that each name can cost, and the size of its terms.

    ``min over [lo, up] of curve/2 (t - xb)^2 + s t + kap |t - x0| + c |t - x0|^(3/2) + g |t| + h max(-t, 0)``:
    at an end, at ``x0``, at 0, or where one side of both is stationary. There, with ``s'`` = ``s + g``
    above 0 and ``s - g - h`` below and ``t = x0 + sign w^2``::

        curve w^2 + 3/2 c w + e = 0     e = sign (curve (x0 - xb) + s') + kap
        w = -2 e / (3/2 c + sqrt((3/2 c)^2 - 4 curve e))     for e < 0

    The cost is convex: at a rounded root it is above its minimum by at most what is left of its
    slope there times the width of the interval, and that much more is put into the size.

    Args:
        case: The book: bounds, ``x0``, ``xb``.
        price: The terms.

    References:
        MATH 6. Oracle: exact rationals and roots to sixty digits, tests/test_impact.py.
    """
    best = np.full(len(case.names), np.inf)
    reach = np.zeros(len(case.names))
    bent, split = price.impact > 0.0, bool(price.size.any() or price.short.any())
    slopes = [price.slope + price.size, price.slope - price.size - price.short] if split else [price.slope]
    roots = [_stationary(case, price, slope, sign) for slope in slopes for sign in (1.0, -1.0)]
    for t in (case.lower, case.upper, case.start, *([np.zeros_like(best)] if split else []), *roots):
        at = np.clip(t, case.lower, case.upper)
        away = np.abs(at - case.start)
        terms = [price.curve / 2.0 * (at - case.benchmark) ** 2, price.slope * at, price.kink * away]
        if bent.any():
            terms.append(price.impact * (away * np.sqrt(away)))
        if split:
            terms += [price.size * np.abs(at), price.short * np.maximum(-at, 0.0)]
        value = sum(terms[1:], start=terms[0])
        reach = np.where(value < best, sum(map(np.abs, terms[1:]), start=np.abs(terms[0])), reach)
        best = np.minimum(best, value)
    if bent.any():
        reach = reach + np.where(bent, _rounded(case, price), 0.0)
    return best, reach


def _stationary(case: Case, price: Price, slope: Float[np.ndarray, " n"], sign: float) -> Float[np.ndarray, " n"]:
    """Where the cost would be stationary on one side of ``x0`` and of 0; an end where it is nowhere."""
    curve, bend = price.curve, 1.5 * price.impact
    safe = np.where(curve > 0.0, curve, 1.0)
    plain = np.where(curve > 0.0, case.benchmark - (slope + sign * price.kink) / safe, case.lower)
    if not price.impact.any():
        return plain
    e = np.minimum(sign * (curve * (case.start - case.benchmark) + slope) + price.kink, 0.0)
    below = bend + np.sqrt(bend * bend - 4.0 * curve * e)
    root = -2.0 * e / np.where(below > 0.0, below, 1.0)
    return np.where(price.impact > 0.0, case.start + sign * root * root, plain)


def _rounded(case: Case, price: Price) -> Float[np.ndarray, " n"]:
    """Size of the slope anywhere in the interval times the interval's width."""
    furthest = np.maximum(np.abs(case.lower - case.start), np.abs(case.upper - case.start))
    offset = np.maximum(np.abs(case.lower - case.benchmark), np.abs(case.upper - case.benchmark))
    steepest = price.curve * (offset + np.abs(case.start - case.benchmark)) + np.abs(price.slope) + price.kink
    steepest = steepest + price.size + price.short
    return (steepest + 1.5 * price.impact * np.sqrt(furthest)) * np.maximum(case.upper - case.lower, 0.0)
