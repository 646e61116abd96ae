"""Where the tiers lie on the curve: one coordinate each, with the interval that the days allow."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from engine.axes import Axis
from engine.curve.factors import FactorPanel

WIDEST_SHARE: Final = 0.10
"""Share of the days, those with the widest tier dispersion, on which the curve shows itself (MATH 1)."""

FEWEST_WIDE_DAYS: Final = 10
"""With fewer wide days, or fewer than two a tier, a principal direction is noise: no coordinates."""

INTERVAL: Final = 0.90
"""Probability of the bootstrap interval."""

DRAWS: Final = 1000
"""Bootstrap samples: the ends of a 90 % interval rest on 50 draws each."""

BOOTSTRAP_SEED: Final = 20250124
"""Seed of a calibration, so that the same prices give the same intervals to the bit."""


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Positions of the tiers on the curve.

    Args:
        tiers: Axis of the tiers.
        values: ``x``, ``(n_tiers,)``, in [-1, 1], the largest in size exactly 1; NaN where unknown.
        low: ``(n_tiers,)``, lower end of the interval; NaN where unknown.
        high: ``(n_tiers,)``, upper end.
    """

    tiers: Axis
    values: Float[np.ndarray, " n_tiers"]
    low: Float[np.ndarray, " n_tiers"]
    high: Float[np.ndarray, " n_tiers"]

    def __post_init__(self) -> None:
        for name in ("values", "low", "high"):
            frozen = np.array(getattr(self, name))
            frozen.setflags(write=False)
            object.__setattr__(self, name, frozen)

    @property
    def known(self) -> bool:
        """True when every tier has a coordinate."""
        return bool(np.isfinite(self.values).all())


def place_tiers(factors: FactorPanel, *, seed: int, draws: int = DRAWS) -> Coordinates:
    """Coordinates of the tiers: loadings of the pure factors on their widest common move.

    ``x`` is the first eigenvector of the covariance of ``g_1..g_J`` over the tenth of the
    days (rounded up) on which ``std_j r_j`` is largest, divided by ``max_j |x_j|``, with the
    sign that puts the first tier below zero. The order of the tiers is not imposed: a tier
    lies where its days put it. The interval holds the middle 90 % of the same over days
    drawn with replacement (wide days are chosen anew in each draw, the direction is turned
    towards ``x``), widened where needed to hold ``x`` itself.

    Two tiers that always move by opposite amounts lie at -1 and 1.

    Args:
        factors: Pure factors ``g`` and total basket returns ``r``, no gap.
        seed: Seed of the draws; the same seed gives the same interval.
        draws: Number of bootstrap samples.

    Returns:
        Coordinates on the tiers' axis. With fewer than 10 wide days, fewer than two a tier,
        or tiers that never move, all of them are NaN: unknown, not zero.

    References:
        MATH.md 1. Planted coordinates and numpy.linalg.svd: tests/test_tiers.py.
    """
    n_tiers = factors.basket_returns.shape[1]
    tiers = Axis("tier", factors.factors.labels[1 : 1 + n_tiers])
    pure = factors.values[:, 1 : 1 + n_tiers]
    dispersion = factors.basket_returns.std(axis=1)
    n_days = len(dispersion)
    n_wide = int(np.ceil(WIDEST_SHARE * n_days))
    unknown = np.full(n_tiers, np.nan)
    if n_wide < max(FEWEST_WIDE_DAYS, 2 * n_tiers):
        return Coordinates(tiers, unknown, unknown, unknown)
    direction, moves = _principal_directions(pure[None, _widest(dispersion[None, :], n_wide)[0]])
    if not moves[0] > 0.0:
        return Coordinates(tiers, unknown, unknown, unknown)
    values = _scaled(direction * _sign_of_first(direction[0]))[0]
    generator = np.random.default_rng(seed)
    days = generator.integers(0, n_days, size=(draws, n_days))
    wide = np.take_along_axis(days, _widest(dispersion[days], n_wide), axis=1)
    drawn, moved = _principal_directions(pure[wide])
    drawn = _scaled(drawn[moved > 0.0])
    drawn *= np.where(drawn @ values < 0.0, -1.0, 1.0)[:, None]
    tail = (1.0 - INTERVAL) / 2.0
    low, high = np.quantile(np.vstack([drawn, values]), [tail, 1.0 - tail], axis=0)
    return Coordinates(tiers, values, np.minimum(low, values), np.maximum(high, values))


def _widest(dispersion: Float[np.ndarray, "n_samples n_days"], count: int) -> np.ndarray:
    """Positions of the ``count`` widest days of each sample; equal days in the order they come."""
    return np.argsort(-dispersion, axis=1, kind="stable")[:, :count]


def _principal_directions(
    pure: Float[np.ndarray, "n_samples n_wide n_tiers"],
) -> tuple[Float[np.ndarray, "n_samples n_tiers"], Float[np.ndarray, " n_samples"]]:
    """First eigenvector of each sample's covariance, and its eigenvalue."""
    centred = pure - pure.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(np.einsum("stj,stk->sjk", centred, centred) / pure.shape[1])
    return vectors[:, :, -1], values[:, -1]


def _scaled(directions: Float[np.ndarray, "n_samples n_tiers"]) -> Float[np.ndarray, "n_samples n_tiers"]:
    return directions / np.abs(directions).max(axis=1, keepdims=True)


def _sign_of_first(direction: Float[np.ndarray, " n_tiers"]) -> float:
    """The sign that puts the first tier below zero, or the first that moves at all."""
    first = direction[np.flatnonzero(direction)[0]]
    return -1.0 if first > 0.0 else 1.0
