"""The bounded reverse stress in cvxpy: three small programs of one shape, solved by Clarabel."""

import warnings
from dataclasses import dataclass
from typing import Any, Final

import cvxpy as cp
import numpy as np
from jaxtyping import Float

TOLERANCE: Final = 1e-10


@dataclass(frozen=True, slots=True)
class RawPoint:
    """What the solver returned; nothing here is evidence.

    Args:
        point: ``x``, or None when the solver gave none.
        multipliers: Of the bounds, at least 0; None likewise.
    """

    point: Float[np.ndarray, " n"] | None
    multipliers: Float[np.ndarray, " m"] | None


class ReverseProgram:
    """One compiled shape ``(m, n)`` of bounds ``G x <= h`` on a standardised shock ``x``.

    Three questions: the shortest ``x`` with ``a'x = -l``; the largest loss ``-a'x`` inside the
    bounds and a box; the smallest common violation of the bounds inside that box.

    Args:
        rows: ``G``, ``(m, n)``, rows of length 1 where they have any.
        limits: ``h``, ``(m,)``.
        box: Largest size of a component of ``x`` in the second and third question.
    """

    def __init__(self, rows: Float[np.ndarray, "m n"], limits: Float[np.ndarray, " m"], box: float) -> None:
        m, n = rows.shape
        self.x, self.excess = cp.Variable(n), cp.Variable()
        self.pull, self.level = cp.Parameter(n), cp.Parameter()
        self.scaled_limits = cp.Parameter(m)
        self.limits = limits
        bounds = rows @ self.x <= self.scaled_limits
        inside = [self.x <= box, self.x >= -box]
        loosened = rows @ self.x <= self.scaled_limits + self.excess
        self.shortest = (
            cp.Problem(cp.Minimize(cp.sum_squares(self.x) / 2.0), [bounds, self.pull @ self.x == -self.level]),
            bounds,
        )
        self.largest = cp.Problem(cp.Maximize(-self.pull @ self.x), [bounds, *inside]), bounds
        self.tightest = cp.Problem(cp.Minimize(self.excess), [loosened, *inside]), loosened

    def nearest(self, pull: Float[np.ndarray, " n"], level: float, *, unit: float) -> RawPoint:
        """The shortest ``x`` with ``pull @ x = -level`` inside the bounds, solved in units of ``unit``."""
        size = float(np.linalg.norm(pull))
        self.pull.value, self.level.value = pull / size, level / (size * unit)
        self.scaled_limits.value = self.limits / unit
        raw = self._solve(*self.shortest)
        point = None if raw.point is None else raw.point * unit
        return RawPoint(point, None if raw.multipliers is None else raw.multipliers * unit)

    def costliest(self, pull: Float[np.ndarray, " n"]) -> RawPoint:
        """The ``x`` inside bounds and box with the largest ``-pull @ x``."""
        self.pull.value, self.scaled_limits.value = pull, self.limits
        return self._solve(*self.largest)

    def least_violation(self) -> RawPoint:
        """The ``x`` inside the box that breaks the bounds least."""
        self.scaled_limits.value = self.limits
        return self._solve(*self.tightest)

    def _solve(self, problem: Any, bounds: Any) -> RawPoint:
        with warnings.catch_warnings():
            # An inaccurate answer is judged afterwards, not by a warning.
            warnings.simplefilter("ignore", UserWarning)
            try:
                problem.solve(
                    solver="CLARABEL",
                    warm_start=False,
                    tol_gap_abs=TOLERANCE,
                    tol_gap_rel=TOLERANCE,
                    tol_feas=TOLERANCE,
                    max_threads=1,
                )
            except (cp.error.SolverError, ValueError, ZeroDivisionError):
                return RawPoint(None, None)
        if self.x.value is None or bounds.dual_value is None:
            return RawPoint(None, None)
        # Signs of dual values have changed between versions of cvxpy; a multiplier of a <= row is >= 0.
        multipliers = np.abs(np.atleast_1d(np.asarray(bounds.dual_value, dtype=np.float64)))
        return RawPoint(np.asarray(self.x.value, dtype=np.float64), multipliers)
