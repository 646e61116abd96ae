"""The most plausible way to a given loss, in closed form, for all books at once."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtr, stdtrit

from engine.axes import Axis
from engine.conventions import TRADING_DAYS
from engine.risk.attribution import VAR_LEVEL, measure_tails
from engine.risk.portfolios import Portfolios

LEAST_VOLATILITY: Final = 1e-8
"""A year; a book below it is cash or hedged to the last digit, and no ordinary shock costs it anything."""


@dataclass(frozen=True, slots=True)
class ReverseStress:
    """For every book the shock of least Mahalanobis distance among those that cost it its loss.

    Args:
        portfolios: The books, all of them with risk.
        horizon_days: Trading days in which the loss happens.
        losses: ``l``, ``(n_portfolios,)``, fraction of NAV, above 0.
        factors: ``f*``, ``(n_portfolios, n_factors)``.
        specifics: ``e*`` of the held lines, in the order of ``portfolios.weights.tocoo()``.
        distance: ``(n_portfolios,)``, ``sqrt(f' F_h^-1 f + sum e^2 / d_h)``.
        factor_only: ``(n_portfolios, n_factors)``, the same question with specific moves held at 0;
            NaN where the factors alone cannot cost the book that much.
        factor_distance: ``(n_portfolios,)``, its distance; NaN likewise.
        binding: For each book the bounds that the answer touches.
    """

    portfolios: Portfolios
    horizon_days: int
    losses: Float[np.ndarray, " n_portfolios"]
    factors: Float[np.ndarray, "n_portfolios n_factors"]
    specifics: Float[np.ndarray, " n_held"]
    distance: Float[np.ndarray, " n_portfolios"]
    factor_only: Float[np.ndarray, "n_portfolios n_factors"]
    factor_distance: Float[np.ndarray, " n_portfolios"]
    binding: tuple[tuple[str, ...], ...]

    @property
    def factor_losses(self) -> Float[np.ndarray, " n_portfolios"]:
        """What the factors cost, ``-b'f*``; the rest of the loss is specific."""
        cost: Float[np.ndarray, " n_portfolios"] = -(self.portfolios.exposures * self.factors).sum(axis=1)
        return cost

    @property
    def held_moves(self) -> Float[np.ndarray, " n_held"]:
        """``B_i f* + e*_i`` of every held line."""
        rows, columns = self.portfolios.weights.tocoo().coords
        carried = (self.portfolios.model.exposures[columns] * self.factors[rows]).sum(axis=1)
        moves: Float[np.ndarray, " n_held"] = carried + self.specifics
        return moves

    def tail_probabilities(self) -> Float[np.ndarray, " n_portfolios"]:
        """Chance of a move at least as far, by the t of the model.

        The answer is the conditional mean given the loss and the bounds it touches, so ``D^2``
        has one degree more than there are such bounds: 1 for the closed form.
        """
        tails = self.portfolios.model.tails
        pairs = zip(self.distance.tolist(), self.binding, strict=True)
        return np.array([tails.tail_probability(size**2, 1 + len(bounds)) for size, bounds in pairs])

    def loss_probabilities(self) -> Float[np.ndarray, " n_portfolios"]:
        """``P(loss >= l)`` over the horizon, one-sided, by the law of the VaR: 1 % at the VaR 99."""
        books, nu = self.portfolios, self.portfolios.model.tails.degrees
        at_risk = measure_tails(factor_variances(books), books.specific_variances(), books.model.tails).var_99
        quantiles = self.losses / (at_risk * np.sqrt(self.horizon_days)) * stdtrit(nu, VAR_LEVEL)
        return np.asarray(stdtr(nu, -quantiles), dtype=np.float64)

    def extrapolations(self) -> Float[np.ndarray, " n_portfolios"]:
        """Largest factor move over the largest seen, horizon-scaled."""
        seen = self.portfolios.model.largest_moves * np.sqrt(self.horizon_days)
        ratios = np.abs(self.factors) / np.where(seen > 0.0, seen, np.inf)
        return np.asarray(ratios.max(axis=1), dtype=np.float64)


def factor_variances(portfolios: Portfolios) -> Float[np.ndarray, " n_portfolios"]:
    """``b'Fb`` a year."""
    b = portfolios.exposures
    variances: Float[np.ndarray, " n_portfolios"] = ((b @ portfolios.model.factor_covariance) * b).sum(axis=1)
    return variances


def keep_books_with_risk(portfolios: Portfolios) -> tuple[Portfolios, tuple[str, ...]]:
    """The books that a shock can cost anything, and the names of the others (cash)."""
    moves = factor_variances(portfolios) + portfolios.specific_variances() > LEAST_VOLATILITY**2
    rest = tuple(label for label, risky in zip(portfolios.ids.labels, moves, strict=True) if not risky)
    return select_books(portfolios, np.flatnonzero(moves)), rest


def select_books(portfolios: Portfolios, rows: Int[np.ndarray, " n_kept"]) -> Portfolios:
    """Some of the books and parents, in their order."""
    return replace(
        portfolios,
        ids=Axis(portfolios.ids.name, tuple(portfolios.ids.labels[row] for row in rows)),
        is_parent=portfolios.is_parent[rows],
        weights=portfolios.weights[rows],
        cash=portfolios.cash[rows],
        nav=portfolios.nav[rows],
    )


def reverse_stress(
    portfolios: Portfolios, losses: Float[np.ndarray, " n_portfolios"], *, horizon_days: int = 1
) -> ReverseStress:
    """The shock of least distance that costs each book its loss.

    With ``F_h = (h / 252) F``, ``D_h`` likewise, ``sig^2 = b'F_h b + w'D_h w``:
    ``f* = -l F_h b / sig^2``, ``e* = -l D_h w / sig^2``, distance ``l / sig``. The lines of an
    issuer share one specific return. The factor-only answer is ``-l F_h b / b'F_h b``, at
    ``l / sqrt(b'F_h b)``; it is NaN where a book has no factor risk.

    Args:
        portfolios: Books with risk (``keep_books_with_risk``).
        losses: ``l``, fraction of NAV, above 0.
        horizon_days: ``h``.

    References:
        MATH.md 4; Breuer, Jandacka, Rheinberger and Summer (2009). Oracle: dense algebra and
        random shocks of the same loss, tests/test_reverse.py.
    """
    years = horizon_days / TRADING_DAYS
    by_factors = factor_variances(portfolios) * years
    variance = by_factors + portfolios.specific_variances() * years
    pull = portfolios.exposures @ portfolios.model.factor_covariance * years
    rows, own = held_specific_pull(portfolios)
    alone = np.where(by_factors > LEAST_VOLATILITY**2 * years, by_factors, np.nan)
    return ReverseStress(
        portfolios=portfolios,
        horizon_days=horizon_days,
        losses=losses,
        factors=-pull * (losses / variance)[:, None],
        specifics=-own * years * (losses / variance)[rows],
        distance=losses / np.sqrt(variance),
        factor_only=-pull * (losses / alone)[:, None],
        factor_distance=losses / np.sqrt(alone),
        binding=((),) * len(portfolios.ids),
    )


def worst_within(portfolios: Portfolios, radius: float, *, horizon_days: int = 1) -> ReverseStress:
    """The worst case of each book among all shocks within a distance: it costs ``radius * sig``.

    ``f* = -radius F_h b / sig``: the reverse stress of that loss, so its distance is the radius.
    """
    years = horizon_days / TRADING_DAYS
    variance = (factor_variances(portfolios) + portfolios.specific_variances()) * years
    return reverse_stress(portfolios, radius * np.sqrt(variance), horizon_days=horizon_days)


def measure_resemblance(
    factors: Float[np.ndarray, "n_portfolios n_factors"],
    library: Float[np.ndarray, "n_shocks n_factors"],
    covariance: Float[np.ndarray, "n_factors n_factors"],
) -> Float[np.ndarray, "n_portfolios n_shocks"]:
    """Cosine between each answer and each shock of a library, in whitened factor space.

    ``f' F^+ g / (|f| |g|)`` with ``|f|^2 = f' F^+ f``: 1 is the same story at any size, 0 an unrelated
    one; 0 too where either moves no factor that has risk.
    """
    white = np.linalg.pinv(whitening_root(covariance)).T
    ours, theirs = factors @ white, library @ white
    sizes = np.linalg.norm(ours, axis=1)[:, None] * np.linalg.norm(theirs, axis=1)[None, :]
    return np.divide(ours @ theirs.T, sizes, out=np.zeros_like(sizes), where=sizes > 0.0)


def whitening_root(covariance: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "k rank"]:
    """``L`` with ``L L' = F``, one column a direction that has risk."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > 1e-12 * max(float(values[-1]), 0.0)
    root: Float[np.ndarray, "k rank"] = vectors[:, kept] * np.sqrt(values[kept])
    return root


def held_specific_pull(
    portfolios: Portfolios,
) -> tuple[Int[np.ndarray, " n_held"], Float[np.ndarray, " n_held"]]:
    """The book of each held line, and ``(D w)_i`` of it a year: its issuer's weights are added first."""
    held = portfolios.weights.tocoo()
    rows, columns = (np.asarray(part, dtype=np.int64) for part in held.coords)
    issuers = portfolios.model.issuers
    _, group = np.unique(rows * (int(issuers.max(initial=-1)) + 1) + issuers[columns], return_inverse=True)
    sums = np.bincount(group, weights=held.data)[group] if len(rows) else np.zeros(0)
    return rows, portfolios.model.specific_variance[columns] * sums
