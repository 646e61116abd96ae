"""The two programs of a hedge: which few names, by HiGHS in scipy; the least variance, by Clarabel in cvxpy."""

import warnings
from typing import Final

import cvxpy as cp
import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import Bounds, LinearConstraint, milp

TOLERANCE: Final = 1e-10
SECONDS: Final = 20.0
"""After this the best choice so far is taken, and counts as not proven."""


def choose_names(
    price: Float[np.ndarray, " n"], most: Float[np.ndarray, " n"], trades: int
) -> tuple[Int[np.ndarray, " k"], float]:
    """Which names take one unit of loss away at the least cost, and the bound that the search proves.

    ``min price'y`` over ``y_i <= most_i z_i``, ``sum y = 1``, ``sum z <= trades``, ``z`` 0 or 1.

    Args:
        price: Cost of a unit of loss taken away by each candidate.
        most: Units that each can take away.
        trades: The most names.

    Returns:
        Positions of the names, and a number that no choice costs less than; minus infinity
        where the solver gave none. Nothing here is evidence of the sizes.
    """
    n = len(price)
    one, none = np.ones(n), np.zeros(n)
    caps = np.minimum(most, 1.0)
    scale = float(price.max()) or 1.0
    result = milp(
        np.concatenate([price / scale, none]),
        integrality=np.concatenate([none, one]),
        bounds=Bounds(0.0, np.concatenate([caps, one])),
        constraints=[
            LinearConstraint(np.hstack([np.eye(n), -np.diag(caps)]), -np.inf, 0.0),
            LinearConstraint(np.concatenate([one, none])[None, :], 1.0, 1.0),
            LinearConstraint(np.concatenate([none, one])[None, :], 0.0, float(trades)),
        ],
        options={"mip_rel_gap": 0.0, "time_limit": SECONDS},
    )
    if result.x is None or result.mip_dual_bound is None:
        return np.zeros(0, dtype=np.int64), -np.inf
    return np.flatnonzero(result.x[n:] > 0.5), float(result.mip_dual_bound) * scale


def least_variance(
    quadratic: Float[np.ndarray, "n n"],
    moves: Float[np.ndarray, " n"],
    excess: float,
    bounds: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]],
) -> Float[np.ndarray, " n"] | None:
    """``min h'Qh`` over ``r'h >= excess`` and the caps; None when the solver gave nothing.

    Solved in units of the largest trade that one name would need; the answer is judged elsewhere.
    """
    unit = excess / float(np.abs(moves).max())
    values, vectors = np.linalg.eigh(quadratic)
    scale = float(values.max()) or 1.0
    root = np.sqrt(np.maximum(values / scale, 0.0))[:, None] * vectors.T
    h = cp.Variable(len(moves))
    rows = [moves @ h >= excess / unit, h >= bounds[0] / unit, h <= bounds[1] / unit]
    with warnings.catch_warnings():
        # An inaccurate answer is judged afterwards, not by a warning.
        warnings.simplefilter("ignore", UserWarning)
        try:
            cp.Problem(cp.Minimize(cp.sum_squares(root @ h)), rows).solve(
                solver="CLARABEL", tol_gap_abs=TOLERANCE, tol_gap_rel=TOLERANCE, tol_feas=TOLERANCE, max_threads=1
            )
        except (cp.error.SolverError, ValueError, ZeroDivisionError):
            return None
    return None if h.value is None else np.asarray(h.value, dtype=np.float64) * unit
