"""The certificate's arithmetic: a lower bound that holds whatever the multipliers, and after rounding."""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from jaxtyping import Float

from engine.rebalance.case import Case
from engine.rebalance.minima import Price, one_dimensional_minima

SQUARED_ERROR: Final = "tracking_error^2"
"""Id of the multiplier ``mu`` of half the squared tracking error (MATH 6)."""

UNIT: Final = 2.0**-53


def active_variance(case: Case, active: Float[np.ndarray, " n"]) -> float:
    """``a'Sigma a`` a year of active weights, one specific return for the lines of an issuer."""
    factor = case.b.T @ active
    lines = sum(variance * float(line @ active) ** 2 for variance, line in case.shared)
    return float(factor @ case.covariance @ factor) + float(case.own @ active**2) + lines


def value_and_scale(case: Case, active: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Objective of the answer, and the size ``S`` of its parts that a gap is measured against (MATH 6).

    Args:
        case: The book with the answer ``x``.
        active: ``a = x - xb``.
    """
    paid = active_variance(case, active) * case.aversion / 2.0
    traded = np.abs(case.x - case.start)
    paid += float(case.costs @ traded) / case.years
    paid += float(case.borrow @ np.maximum(-case.x, 0.0))
    paid += float(case.impact @ (traded * np.sqrt(traded))) / case.years
    return paid - float(case.alpha @ case.x), paid + float(np.abs(case.alpha) @ np.abs(active))


def lower_bound(
    case: Case, duals: Mapping[str, float], w: Float[np.ndarray, " k"], line_w: list[float], *, risk: bool
) -> float:
    """The bound of ``certify`` less its rounding allowance; without ``risk`` the feasibility form.

    The allowance is what the slopes' rounding could be worth at today's weights and the benchmark's; what it could be
    worth for a trade is taken from what trading costs.

    ``mu`` of the squared tracking error adds ``mu/2 (a'Sigma a - te^2)``: to the aversion, and a constant.
    """
    mu, cap = duals.get(SQUARED_ERROR, 0.0), case.tracking_error or 0.0
    gamma = (case.aversion if risk else 0.0) + mu
    y_b, lam = duals.get("cash:min", 0.0), duals.get("turnover", 0.0)
    pull = gamma * (case.covariance @ w)
    tug = gamma * (np.abs(case.covariance) @ np.abs(w))  # what pull could be without cancellation
    alpha = case.alpha if risk else np.zeros(len(case.names))
    s = case.b @ pull + y_b - alpha
    size = np.abs(case.b) @ tug + y_b + np.abs(alpha)
    constants = [-y_b * case.spendable, -lam * case.turnover, -mu * cap * cap / 2.0]
    constants += [-float(pull @ (case.b.T @ case.benchmark)), -float(pull @ w) / 2.0]
    rough = [*(abs(value) for value in constants[:3]), float(tug @ np.abs(w)) / 2.0]
    summed = [float(tug @ (np.abs(case.b).T @ np.abs(case.benchmark)))]  # plain sums over all names
    for (variance, line), at in zip(case.shared, line_w, strict=True):
        push = gamma * variance * at
        s = s + push * line
        size = size + abs(push) * line
        constants += [-push * float(line @ case.benchmark), -push * at / 2.0]
        summed.append(abs(push) * float(line @ np.abs(case.benchmark)))
        rough.append(abs(constants[-1]))
    for name, row, bound in case.rows:
        y = duals.get(name, 0.0)
        if y == 0.0:
            continue
        s = s + y * row
        size = size + y * np.abs(row)
        constants.append(-y * bound)
        rough.append(abs(y * bound))
    kink = case.costs * ((1.0 / case.years if risk else 0.0) + y_b) + lam
    impact = case.impact * (1.0 / case.years if risk else 0.0)
    g, short = duals.get("gross", 0.0) if case.gross is not None else 0.0, case.borrow if risk else 0.0 * case.borrow
    constants.append(-g * (case.gross or 0.0))
    rough.append(abs(constants[-1]))
    # What is added up over the names is added exactly, so that each name's own error counts and not their number.
    depth = 2 * len(w) + len(case.rows) + len(case.shared) + 16
    slack, sound = 2.0 * depth * UNIT * size, 1.0 - 8.0 * UNIT
    # A wrong slope costs at most slack |t| <= slack |x0| + slack |t - x0|: the second part is taken from the kink,
    # so that a name that stays away from what it costs to trade loses nothing, however wide its bounds.
    kept = np.maximum(kink * sound - slack, 0.0)
    left = np.maximum(slack - kink * sound, 0.0)
    price = Price(gamma * case.own * sound, s, kept, impact * sound, np.full(len(s), g), short)
    minima, reach = one_dimensional_minima(case, price)
    widest = np.max(np.abs([case.lower, case.upper, case.start]), axis=0) + np.abs(case.start)
    # The benchmark is in it because the bound of an active budget is a sum over the benchmark.
    near = math.fsum(slack * (np.abs(case.start) + np.abs(case.benchmark))) + math.fsum(left * widest)
    allowance = near + 2.0 * depth * UNIT * (math.fsum(reach) + math.fsum(rough))
    allowance += 2.0 * (depth + len(case.names)) * UNIT * math.fsum(summed)
    return math.fsum(minima) + math.fsum(constants) - allowance - _indefinite(case, gamma, w)


def _indefinite(case: Case, gamma: float, w: Float[np.ndarray, " k"]) -> float:
    """What a factor covariance that is not provably positive semi-definite could take from the bound."""
    k = len(case.covariance)
    if gamma == 0.0 or k == 0:
        return 0.0
    shift = 4.0 * (k + 2) * UNIT * float(np.trace(case.covariance))
    try:
        # Cholesky of F less its own backward error: success proves that F is positive definite.
        np.linalg.cholesky(case.covariance - shift * np.eye(k))
        return 0.0
    except np.linalg.LinAlgError:
        deepest = max(-float(np.linalg.eigvalsh(case.covariance).min()), 0.0) + shift
        reach = np.maximum(np.abs(case.lower - case.benchmark), np.abs(case.upper - case.benchmark))
        span = np.abs(case.b).T @ reach + np.abs(w)
        return gamma / 2.0 * deepest * float(span @ span)
