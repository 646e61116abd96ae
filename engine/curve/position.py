"""Where a book lies on the curve, and what the curve's own moves do to it."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from engine.curve.coordinates import Coordinates

SMALLEST_EXPOSURE: Final = 0.05
"""A book with less tier exposure in all has no position: its ratio would be noise (MATH 1)."""

COINCIDENCE: Final = 1e-6
"""Tiers closer than this on the curve share a place; polynomials through them do not exist."""

MOVES: Final = ("level", "slope", "curvature", "shoulder")
"""Names of the contrasts of degree 0 to 3; later ones are named by their degree."""


@dataclass(frozen=True, slots=True)
class Contrasts:
    """Moves of the whole curve: orthonormal polynomials in the coordinates.

    Args:
        names: ``level``, ``slope``, ``curvature``, ``shoulder``, ``degree_4``, ...
        values: ``P``, ``(n_tiers, n_tiers)``, row a tier, column a contrast; ``P' W P = I``.
        weights: ``diag(W)``, ``(n_tiers,)``, each tier's share of the names, summing to 1.
    """

    names: tuple[str, ...]
    values: Float[np.ndarray, "n_tiers n_tiers"]
    weights: Float[np.ndarray, " n_tiers"]

    def decompose(self, moves: Float[np.ndarray, " n_tiers"]) -> Float[np.ndarray, " n_tiers"]:
        """The contrasts ``c = P'W m`` of tier moves ``m``; ``P c`` is ``m`` again, whatever it is."""
        return self.values.T @ (self.weights * moves)


def curve_contrasts(coordinates: Coordinates | None, names: Float[np.ndarray, " n_tiers"]) -> Contrasts | None:
    """Orthonormal polynomials in the tiers' coordinates, weighted by number of names.

    Column k is a polynomial of degree k in ``x`` with a leading coefficient above zero,
    orthonormal under ``W = diag(names) / sum(names)``. The level is 1 for every tier; a
    slope above zero lifts the far end of the curve against the first tier. There are as
    many contrasts as tiers, so any tier moves are met exactly.

    Two tiers at -1 and 1 with equally many names: level (1, 1), slope (-1, 1).

    Args:
        coordinates: Positions of the tiers.
        names: Number of names of each tier, above zero, on the tiers' axis.

    Returns:
        The contrasts; None where a coordinate is unknown or two coincide (within 1e-6).

    References:
        MATH.md 1. Oracle: Gram-Schmidt by hand for two tiers, tests/test_tiers.py.
    """
    if coordinates is None or not coordinates.known:
        return None
    x = coordinates.values
    if np.diff(np.sort(x)).min(initial=np.inf) <= COINCIDENCE:
        return None
    weights = names / names.sum()
    root = np.sqrt(weights)
    orthonormal, triangle = np.linalg.qr(root[:, None] * np.polynomial.legendre.legvander(x, len(x) - 1))
    values = orthonormal * np.sign(np.diag(triangle)) / root[:, None]
    labels = [*MOVES, *(f"degree_{degree}" for degree in range(len(MOVES), len(x)))]
    return Contrasts(tuple(labels[: len(x)]), values, weights)


def book_positions(
    exposures: Float[np.ndarray, "n_books n_tiers"], coordinates: Coordinates | None
) -> Float[np.ndarray, " n_books"]:
    """Position of each book on the curve.

    ``sum_j e_j x_j / sum_j |e_j|``: -1 is all on a tier at -1; a book short of it is at 1.
    Long one tier at -1 and one at 0.5 by equal amounts: -0.25.

    Args:
        exposures: ``e``, pure tier exposures, return per unit of factor return.
        coordinates: ``x``, on the columns of ``exposures``.

    Returns:
        In [-1, 1]; NaN for a book with ``sum_j |e_j|`` below 0.05, and for all books where
        the tiers have no coordinates.
    """
    if coordinates is None or not coordinates.known:
        return np.full(len(exposures), np.nan)
    size = np.abs(exposures).sum(axis=1)
    return np.divide(
        exposures @ coordinates.values, size, out=np.full(len(size), np.nan), where=size >= SMALLEST_EXPOSURE
    )


def curve_sensitivities(
    exposures: Float[np.ndarray, "n_books n_tiers"], contrasts: Contrasts
) -> Float[np.ndarray, "n_books n_tiers"]:
    """Return of each book per unit of each contrast of the pure factors: ``P'e``.

    With ``c`` the contrasts of the tiers' pure moves ``g``, ``(P'e)'c = e'g`` exactly.

    Args:
        exposures: ``e``, pure tier exposures, return per unit of factor return.
        contrasts: On the columns of ``exposures``.
    """
    return exposures @ contrasts.values
