"""A primal-dual interior point for a program that is diagonal but for a few columns."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float
from scipy.linalg.lapack import dpotrs

LONGEST: Final = 60
"""Steps after which it gives up; a sound problem takes 10 to 25."""

HOPELESS: Final = 1e9
"""Growth of a multiplier at which the rows are taken to have no common point."""

BACK_OFF: Final = 0.995
"""Share of the way to the nearest wall that a step may go."""

SHORTEST: Final = 1e-6
"""A step shorter than this leaves the point where it is, and so would the next."""

SMALLEST: Final = 1e-8
"""Objectives below this are solved to this one's accuracy."""


@dataclass(frozen=True, slots=True)
class Quadratic:
    """``minimise weight V(v) + q'v + sum c_i (b_i + v_i)^(3/2)`` in ``0 <= v <= most``.

    Limits are ``G v <= h`` and ``V(v) <= cap``; ``V(v) = sum p_i v_i^2 / 2 + r'v + |W v - w|^2 / 2 + rest``.
    All of it is diagonal but ``W``, ``G`` and, where there is a cap, the slope of ``V``.

    Args:
        weight: Of ``V``; above 0 unless it is capped or has no ``W``.
        p: Diagonal of ``V``, not negative.
        tilt: ``r``.
        load: ``W``; k is small.
        aim: ``w``.
        rest: What ``V`` has besides.
        q: Prices.
        power: ``c``, not negative.
        begun: ``b``, not negative.
        rows: ``G``; m is small.
        bounds: ``h``.
        most: Upper bounds, above 0.
        cap: The most of ``V``, above 0; None without a cap.
    """

    weight: float
    p: Float[np.ndarray, " n"]
    tilt: Float[np.ndarray, " n"]
    load: Float[np.ndarray, "k n"]
    aim: Float[np.ndarray, " k"]
    rest: float
    q: Float[np.ndarray, " n"]
    power: Float[np.ndarray, " n"]
    begun: Float[np.ndarray, " n"]
    rows: Float[np.ndarray, "m n"]
    bounds: Float[np.ndarray, " m"]
    most: Float[np.ndarray, " n"]
    cap: float | None


@dataclass(frozen=True, slots=True)
class Optimum:
    """Where a solver stopped; nothing here is evidence.

    Args:
        values: ``v``.
        pressure: Multiplier of each row.
        push: Multiplier of ``V <= cap``, 0 without a cap.
        status: ``solved`` or why not.
        iterations: Steps.
    """

    values: Float[np.ndarray, " n"]
    pressure: Float[np.ndarray, " m"]
    push: float
    status: str
    iterations: int

    @property
    def solved(self) -> bool:
        """Whether the solver says that it met its tolerance."""
        return self.status == "solved"


def solve_interior(program: Quadratic, tolerance: float) -> Optimum:
    """Solve by Mehrotra's predictor and corrector; a step costs ``(k + m)^2 n``.

    The cap is the smooth limit ``V / cap - 1 <= 0``: its multiplier joins the weight of ``V``, its
    slope the rows. A step takes it for straight and the power for a parabola.

    Args:
        program: The numbers.
        tolerance: Of the gap and the gradient relative to the objective, of the rows absolute, of the cap relative.

    References:
        Mehrotra (1992), SIAM Journal on Optimization 2, 575-601; Nocedal and Wright (2006), ch. 16.
        Oracle: PIQP and the cvxpy program, tests/test_direct.py.
    """
    n, m = len(program.q), len(program.bounds)
    both = np.vstack([program.load, program.rows])
    at = _first_point(program, both)
    largest = HOPELESS * float(at.dual.max())

    def stop(status: str, steps: int) -> Optimum:
        push = 0.0 if program.cap is None else float(at.dual[-1]) / program.cap
        return Optimum(at.primal[:n], at.dual[2 * n : 2 * n + m], push, status, steps)

    for step in range(LONGEST):
        dual = at.dual
        here = _Slopes.of(program, both, at.primal[:n])
        slope = here.slope + here.both[len(program.aim) :].T @ dual[2 * n :] - dual[:n] + dual[n : 2 * n]
        over = here.over + at.primal[2 * n :]
        gap = float(at.primal @ dual)
        allowed = tolerance * max(abs(here.objective), SMALLEST)
        # The gradient is a difference of prices: below their own rounding it says nothing.
        rounding = 1e-13 * float(max(np.abs(program.q).max(), dual.max()))
        met = gap <= allowed and np.abs(slope).max() <= max(allowed, rounding)
        if met and np.abs(over).max(initial=0.0) <= tolerance:
            return stop("solved", step)
        if not dual.max() < largest:
            return stop("diverged", step)
        try:
            newton = _Newton.of(program, at, here)
        except np.linalg.LinAlgError:
            return stop("no Cholesky factor", step)
        straight = newton.move(slope, over, -at.primal * dual)
        ahead = at.moved(straight, _longest(at, straight))
        centre = (float(ahead.primal @ ahead.dual) / gap) ** 3 * gap / len(dual)
        bent = newton.move(slope, over, centre - at.primal * dual - straight.primal * straight.dual)
        length = min(1.0, BACK_OFF * _longest(at, bent))
        if length < SHORTEST:
            return stop("no way on", step)
        at = at.moved(bent, length)
    return stop("too many steps", LONGEST)


@dataclass(frozen=True, slots=True)
class _Slopes:
    """What a point has of the program: the objective, its slope, the rows with that of the cap, how far each is missed.

    ``curve`` is the curvature of the power alone; ``both`` are ``W`` and the rows.
    """

    objective: float
    slope: Float[np.ndarray, " n"]
    curve: Float[np.ndarray, " n"]
    both: Float[np.ndarray, "k_and_m n"]
    over: Float[np.ndarray, " m"]

    @classmethod
    def of(cls, program: Quadratic, both: Float[np.ndarray, "k_and_m n"], v: Float[np.ndarray, " n"]) -> "_Slopes":
        k, used = len(program.aim), both @ v
        y = used[:k] - program.aim
        variance = float(program.p @ (v * v) / 2.0 + program.tilt @ v + y @ y / 2.0) + program.rest
        pull = program.p * v + program.tilt + program.load.T @ y
        traded = program.begun + v
        root = np.sqrt(traded)
        objective = program.weight * variance + float(program.q @ v + program.power @ (traded * root))
        slope = program.weight * pull + program.q + 1.5 * program.power * root
        over = used[k:] - program.bounds
        if program.cap is not None:
            both, over = np.vstack([both, pull / program.cap]), np.append(over, variance / program.cap - 1.0)
        return cls(objective, slope, 0.75 * program.power / root, both, over)


@dataclass(frozen=True, slots=True)
class _Point:
    """Distances to the walls and their multipliers, or a move of both: lower bounds, upper bounds, rows, the cap."""

    primal: Float[np.ndarray, " walls"]
    dual: Float[np.ndarray, " walls"]

    def moved(self, move: "_Point", step: float) -> "_Point":
        return _Point(self.primal + step * move.primal, self.dual + step * move.dual)


def _first_point(program: Quadratic, both: Float[np.ndarray, "k_and_m n"]) -> _Point:
    n = len(program.q)
    v = np.minimum(program.most / 2.0, 1.0 / n)
    here = _Slopes.of(program, both, v)
    primal = np.concatenate([v, program.most - v, np.maximum(-here.over, 1.0 / n)])
    return _Point(primal, np.full(len(primal), max(float(np.abs(here.slope).mean()), 1e-12)))


def _longest(at: _Point, move: _Point) -> float:
    """The step that brings the first wall to 0, at most 1 / BACK_OFF."""
    # The fastest share of a wall that a whole step takes away; dividing by the place needs no choice of walls.
    fastest = max(float((-move.primal / at.primal).max()), float((-move.dual / at.dual).max()))
    return 1.0 / max(fastest, BACK_OFF)


@dataclass(frozen=True, slots=True)
class _Newton:
    """The factored matrix of one step, with ``U = [W; G]`` and ``c`` the diagonal and its barrier.

    ``(U diag(1/c) U' + diag(1/weight, s/z)) lam = U (r / c) - t`` and ``dv = (r - U'lam) / c``; ``G`` has the slope
    of the cap, and its multiplier is in the weight.
    """

    at: _Point
    both: Float[np.ndarray, "k_and_m n"]
    curve: Float[np.ndarray, " n"]
    matrix: Float[np.ndarray, "k_and_m k_and_m"]
    factor: Float[np.ndarray, "k_and_m k_and_m"]

    @classmethod
    def of(cls, program: Quadratic, at: _Point, here: _Slopes) -> "_Newton":
        n, k = len(program.q), len(program.aim)
        both, weight = here.both, program.weight + (0.0 if program.cap is None else float(at.dual[-1]) / program.cap)
        ratio = at.dual / at.primal
        curve = weight * program.p + here.curve + ratio[:n] + ratio[n : 2 * n]
        thin = both / np.sqrt(curve)
        matrix = thin @ thin.T
        matrix[np.diag_indices(len(both))] += np.concatenate(
            [np.full(k, 1.0 / weight if k else 1.0), 1.0 / ratio[2 * n :]]
        )
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
        # One refinement: near the optimum the matrix is as badly scaled as it gets. LAPACK's own call, because
        # scipy's takes longer to look at its arguments than it takes to solve.
        found, _ = dpotrs(self.factor, right, lower=True)
        return found + dpotrs(self.factor, right - self.matrix @ found, lower=True)[0]
