"""What the past says of a scenario: how often days were as far, and which were nearest."""

import datetime as dt
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from engine.conventions import TRADING_DAYS
from engine.risk.history import FactorHistory
from engine.stress.propagation import Shock

NEAREST: Final = 3

BLOCK_DAYS: Final = 21
"""Days that the bootstrap draws together: days that are far come in clusters."""

DRAWS: Final = 1000
SEED: Final = 20250127
COVERAGE: Final = 0.95

RULE_OF_THREE: Final = 3.0
"""No event in T trials: at 95 % its rate is below 3 / T (Hanley and Lippman-Hand, 1983)."""


@dataclass(frozen=True, slots=True)
class Precedents:
    """What stands beside a scenario from the past of the factors.

    Args:
        exceeded: Days at least as far as the scenario; None where no factor moves.
        days: Days that were compared.
        years: Once in how many years; None without such a day.
        low: Lower end of ``years``; without such a day the 95 % bound.
        high: Upper end; None where it is open.
        dates: The nearest days, nearest first.
        cosines: For each of them the likeness of direction, -1..1, whatever the size.
    """

    exceeded: int | None
    days: int
    years: float | None
    low: float | None
    high: float | None
    dates: tuple[dt.date, ...]
    cosines: tuple[float, ...]


def find_precedents(shock: Shock, history: FactorHistory) -> Precedents:
    """Rank a scenario among past days, and find the days that moved most like it.

    ``D_t^2 = (A f_t)' (A F_t A')^-1 (A f_t)`` with ``F_t`` from the days before t, against
    ``D^2 = v' (A F_h A')^-1 v``, where a full conditional scenario states factors only. Otherwise
    (views on securities, ``propagation: none``, damping) the factor moves applied are ranked:
    ``f_t' F_t^-1 f_t`` against ``f' F_h^-1 f``; specific moves are then outside the rank.

    ``D^2`` has the horizon in it already and is held against single days, as if a period of
    h days were one larger day; a model of the worst days (``stress_factor``) has smaller ``D^2``
    and so ranks nearer to the ordinary. A share p of them at least as far is read as once in
    ``h / (252 p)`` years. Its interval is a circular block bootstrap with a fixed seed; without
    any such day in T the rate is below ``3 / T`` at 95 %, so ``low`` is ``h T / (3 x 252)``.

    The nearest days have the smallest ``(f_t - f / sqrt h)' F^-1 (f_t - f / sqrt h)`` in the
    model's daily covariance. Each day in units of its own covariance would be another choice;
    then a scenario that repeats a day to the digit need not find that day.

    Args:
        shock: The scenario as applied.
        history: Past of the factors; columns are found by name.

    Returns:
        Without figures where nothing can be said: no day has a forecast, or no factor moves
        while specific returns do. A scenario without any move is nearest to no day.

    Raises:
        AlignmentError: the history lacks a factor of the model.

    References:
        MATH.md 4; Kuensch (1989). Oracle: plain numpy day by day, tests/test_precedents.py.
    """
    at = history.factors.positions(shock.model.factors.labels, "factor history")
    covariances = history.covariances[:, at][:, :, at] / TRADING_DAYS
    moves = history.forecast_values[:, at]
    dates, cosines = _nearest(shock, history, history.values[:, at])
    days = len(moves)
    if not days or (shock.specifics.any() and not shock.factors.any()):
        return Precedents(None, days, None, None, None, dates, cosines)
    views = shock.views
    whole = shock.views_counted == len(views.values) and not views.on_specifics.any()
    if whole:
        a = views.on_factors
        past = _squared_distances(moves @ a.T, a @ covariances @ a.T)
        distance_squared = shock.distance_squared
    else:
        past = _squared_distances(moves, covariances)
        today = shock.model.factor_covariance * views.years
        distance_squared = float(shock.factors @ np.linalg.lstsq(today, shock.factors, rcond=None)[0])
    farther = past >= distance_squared
    low, high = _interval(farther)
    exceeded, period = int(farther.sum()), views.years
    return Precedents(
        exceeded=exceeded,
        days=days,
        years=period * days / exceeded if exceeded else None,
        low=period / low,
        high=period / high if high > 0.0 else None,
        dates=dates,
        cosines=cosines,
    )


def _squared_distances(
    moves: Float[np.ndarray, "n_days m"], covariances: Float[np.ndarray, "n_days m m"]
) -> Float[np.ndarray, " n_days"]:
    """``x' S^-1 x`` a day; a direction without variance on some day is left out of every day."""
    try:
        solved = np.linalg.solve(covariances, moves[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        solved = (np.linalg.pinv(covariances, hermitian=True) @ moves[:, :, None])[:, :, 0]
    return np.einsum("tm,tm->t", moves, solved)


def _interval(farther: Bool[np.ndarray, " n_days"]) -> tuple[float, float]:
    """Rates a day at the upper and the lower end: 95 % by blocks, or 3 / T and 0 without an event."""
    days = len(farther)
    if not farther.any():
        return min(RULE_OF_THREE / days, 1.0), 0.0
    block = min(BLOCK_DAYS, days)
    counts = np.concatenate([[0], np.cumsum(np.concatenate([farther, farther[: block - 1]]))])
    in_block = counts[block:] - counts[:-block]
    rng = np.random.default_rng(SEED)
    blocks = max(round(days / block), 1)
    rates = in_block[rng.integers(0, days, (DRAWS, blocks))].sum(axis=1) / (blocks * block)
    low, high = np.quantile(rates, [0.5 - COVERAGE / 2.0, 0.5 + COVERAGE / 2.0])
    return float(high), float(low)


def _nearest(
    shock: Shock, history: FactorHistory, values: Float[np.ndarray, "n_days n_factors"]
) -> tuple[tuple[dt.date, ...], tuple[float, ...]]:
    if not shock.factors.any():
        return (), ()
    scaled = shock.factors / np.sqrt(shock.views.years * TRADING_DAYS)
    inverse = np.linalg.pinv(shock.model.factor_covariance / TRADING_DAYS, hermitian=True)
    gaps = values - scaled
    apart = np.einsum("tk,kl,tl->t", gaps, inverse, gaps)
    order = np.argsort(apart, kind="stable")[:NEAREST]
    sizes = np.sqrt(np.einsum("tk,kl,tl->t", values, inverse, values) * (scaled @ inverse @ scaled))
    cosines = np.divide(values @ inverse @ scaled, sizes, out=np.zeros_like(sizes), where=sizes > 0.0)
    return tuple(history.dates[t] for t in order), tuple(float(cosines[t]) for t in order)
