"""Fat tails of single names: how much wider today each printed issuer's own return is."""

from typing import Final

import numpy as np
from jaxtyping import Float

SETTLED: Final = 1e-12
"""Relative change of the weights at which they count as settled."""

STEPS: Final = 500
"""Most steps to the fixed point; tapes of one to fifty wild prints took about 50, at worst 210."""


def reweigh(
    by_factor: Float[np.ndarray, "n_views n_views"],
    own: Float[np.ndarray, " n_views"],
    values: Float[np.ndarray, " n_views"],
    *,
    degrees: float,
) -> Float[np.ndarray, " n_views"]:
    """Weights ``w`` of the views' specific variances, given what was seen.

    A specific return is a t of ``nu`` degrees and variance ``d``: normal of variance ``s d``
    with ``s`` inverse gamma of shape ``nu / 2`` and mean 1. Given the prints, ``1 / s`` has the mean
    ``(nu + 1) / (nu - 2 + E[eps^2] / d)``, and the moments of ``eps`` follow from the
    variances ``w d`` with ``w = 1 / E[1 / s]``. The two are taken in turn, from ``w = 1``, the
    Gaussian answer, until they agree (the mean-field approximation of the posterior):
    ``w = (nu - 2 + E[eps^2] / d) / (nu + 1)``. With ``M = F_v + diag(w d)``,
    ``E[eps] = w d M^-1 v`` and ``Var[eps] = w d - (w d)^2 diag(M^-1)``.

    So a print far from what the others say moves the factors less than in proportion, and one
    that agrees with them a little more: ``w >= (nu - 2) / (nu + 1)``. At many degrees ``w = 1``.

    Args:
        by_factor: ``F_v``, covariance of the views by the factors over a day.
        own: ``d``, specific variance of each view over a day; a view without one keeps weight 1.
        values: ``v``, the views.
        degrees: ``nu``, above 2.

    References:
        Lange, Little, Taylor (1989), Robust statistical modeling using the t distribution, for
        the weights of a t. Oracle: dense algebra, tests/test_reweighting.py.
    """
    named = own > 0.0
    weights = np.ones(len(own))
    for _ in range(STEPS):
        wide = weights * own
        gain = np.linalg.inv(by_factor + np.diag(wide))
        square = (wide * (gain @ values)) ** 2 + wide - wide**2 * np.diag(gain)
        relative = square / np.where(named, own, 1.0)
        before, weights = weights, np.where(named, (degrees - 2.0 + relative) / (degrees + 1.0), 1.0)
        if np.allclose(weights, before, rtol=SETTLED, atol=0.0):
            break
    return weights
