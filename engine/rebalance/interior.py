"""A primal-dual interior point for a quadratic program that is diagonal but for a few columns."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_solve

LONGEST: Final = 60
"""Steps after which it gives up; a sound problem takes 10 to 25."""

HOPELESS: Final = 1e9
"""Growth of a multiplier at which the rows are taken to have no common point."""

BACK_OFF: Final = 0.995
"""Share of the way to the nearest wall that a step may go."""

SMALLEST: Final = 1e-8
"""Objectives below this are solved to this one's accuracy."""


@dataclass(frozen=True, slots=True)
class Quadratic:
    """``minimise sum p_i v_i^2 / 2 + |W v - w|^2 / 2 + q'v`` with ``G v <= h``, ``0 <= v <= most``.

    Args:
        p: Diagonal, not negative.
        q: Linear part.
        load: ``W``; k is small.
        aim: ``w``.
        rows: ``G``; m is small.
        bounds: ``h``.
        most: Upper bounds, above 0.
    """

    p: Float[np.ndarray, " n"]
    q: Float[np.ndarray, " n"]
    load: Float[np.ndarray, "k n"]
    aim: Float[np.ndarray, " k"]
    rows: Float[np.ndarray, "m n"]
    bounds: Float[np.ndarray, " m"]
    most: Float[np.ndarray, " n"]


@dataclass(frozen=True, slots=True)
class Optimum:
    """Where a solver stopped; nothing here is evidence.

    Args:
        values: ``v``.
        pressure: Multiplier of each row.
        status: ``solved`` or why not.
        iterations: Steps.
    """

    values: Float[np.ndarray, " n"]
    pressure: Float[np.ndarray, " m"]
    status: str
    iterations: int

    @property
    def solved(self) -> bool:
        """Whether the solver says that it met its tolerance."""
        return self.status == "solved"


def solve_interior(program: Quadratic, tolerance: float) -> Optimum:
    """Solve by Mehrotra's predictor and corrector; a step costs ``(k + m)^2 n``.

    Args:
        program: The numbers.
        tolerance: Of the gap and the gradient relative to the objective, of the rows absolute.

    References:
        Mehrotra (1992), SIAM Journal on Optimization 2, 575-601; Nocedal and Wright (2006), ch. 16.
        Oracle: PIQP and the cvxpy program, tests/test_direct.py.
    """
    n = len(program.q)
    at = _first_point(program)
    largest = HOPELESS * float(at.dual.max())
    for step in range(LONGEST):
        v, dual = at.primal[:n], at.dual
        y = program.load @ v - program.aim
        pressure = dual[2 * n :]
        objective = float(program.p @ (v * v) / 2.0 + y @ y / 2.0 + program.q @ v)
        slope = program.p * v + program.q + program.load.T @ y + program.rows.T @ pressure - dual[:n] + dual[n : 2 * n]
        over = program.rows @ v + at.primal[2 * n :] - program.bounds
        gap = float(at.primal @ dual)
        allowed = tolerance * max(abs(objective), SMALLEST)
        # The gradient is a difference of prices: below their own rounding it says nothing.
        rounding = 1e-13 * float(max(np.abs(program.q).max(), dual.max()))
        met = gap <= allowed and np.abs(slope).max() <= max(allowed, rounding)
        if met and np.abs(over).max(initial=0.0) <= tolerance:
            return Optimum(v, pressure, "solved", step)
        if not dual.max() < largest:
            return Optimum(v, pressure, "diverged", step)
        try:
            newton = _Newton.of(program, at)
        except np.linalg.LinAlgError:
            return Optimum(v, pressure, "no Cholesky factor", step)
        straight = newton.move(slope, over, -at.primal * dual)
        ahead = at.moved(straight, _longest(at, straight))
        centre = (float(ahead.primal @ ahead.dual) / gap) ** 3 * gap / len(dual)
        bent = newton.move(slope, over, centre - at.primal * dual - straight.primal * straight.dual)
        at = at.moved(bent, min(1.0, BACK_OFF * _longest(at, bent)))
    return Optimum(at.primal[:n], at.dual[2 * n :], "too many steps", LONGEST)


@dataclass(frozen=True, slots=True)
class _Point:
    """Distances to the walls and their multipliers, or a move of both: lower bounds, upper bounds, rows."""

    primal: Float[np.ndarray, " walls"]
    dual: Float[np.ndarray, " walls"]

    def moved(self, move: "_Point", step: float) -> "_Point":
        return _Point(self.primal + step * move.primal, self.dual + step * move.dual)


def _first_point(program: Quadratic) -> _Point:
    n = len(program.q)
    v = np.minimum(program.most / 2.0, 1.0 / n)
    slope = program.p * v + program.q + program.load.T @ (program.load @ v - program.aim)
    slack = np.maximum(program.bounds - program.rows @ v, 1.0 / n)
    primal = np.concatenate([v, program.most - v, slack])
    return _Point(primal, np.full(len(primal), max(float(np.abs(slope).mean()), 1e-12)))


def _longest(at: _Point, move: _Point) -> float:
    """The step that brings the first wall to 0, at most 1 / BACK_OFF."""
    place, change = np.concatenate([at.primal, at.dual]), np.concatenate([move.primal, move.dual])
    down = change < 0.0
    return float((-place[down] / change[down]).min(initial=1.0 / BACK_OFF))


@dataclass(frozen=True, slots=True)
class _Newton:
    """The factored matrix of one step, with ``U = [W; G]`` and ``c`` the diagonal and its barrier.

    ``(U diag(1/c) U' + diag(1, s/z)) lam = U (r / c) - t`` and ``dv = (r - U'lam) / c``.
    """

    at: _Point
    both: Float[np.ndarray, "k_and_m n"]
    curve: Float[np.ndarray, " n"]
    matrix: Float[np.ndarray, "k_and_m k_and_m"]
    factor: Float[np.ndarray, "k_and_m k_and_m"]

    @classmethod
    def of(cls, program: Quadratic, at: _Point) -> "_Newton":
        n, k = len(program.q), len(program.aim)
        both = np.vstack([program.load, program.rows])
        ratio = at.dual / at.primal
        curve = program.p + ratio[:n] + ratio[n : 2 * n]
        thin = both / np.sqrt(curve)
        matrix = thin @ thin.T
        matrix[np.diag_indices(len(both))] += np.concatenate([np.ones(k), 1.0 / ratio[2 * n :]])
        return cls(at, both, curve, matrix, np.linalg.cholesky(matrix))

    def move(
        self, slope: Float[np.ndarray, " n"], over: Float[np.ndarray, " m"], target: Float[np.ndarray, " walls"]
    ) -> _Point:
        """The move that zeroes both residuals and changes each product of distance and multiplier by its target."""
        n, m = len(slope), len(over)
        primal, dual = self.at.primal, self.at.dual
        share = target / primal
        right = -slope + share[:n] - share[n : 2 * n]
        t = np.zeros(len(self.both))
        t[len(t) - m :] = -over - target[2 * n :] / dual[2 * n :]
        lam = self._solve(self.both @ (right / self.curve) - t)
        dv = (right - self.both.T @ lam) / self.curve
        moves = np.concatenate([dv, -dv, -over - self.both[len(t) - m :] @ dv])
        pushes = (target - dual * moves) / primal
        pushes[2 * n :] = lam[len(t) - m :]
        return _Point(moves, pushes)

    def _solve(self, right: Float[np.ndarray, " k_and_m"]) -> Float[np.ndarray, " k_and_m"]:
        # One refinement: near the optimum the matrix is as badly scaled as it gets.
        found = cho_solve((self.factor, True), right, check_finite=False)
        return found + cho_solve((self.factor, True), right - self.matrix @ found, check_finite=False)
