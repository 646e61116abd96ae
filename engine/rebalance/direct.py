"""The plain program as matrices, handed to a solver without a modelling layer."""

from dataclasses import MISSING, dataclass, fields
from typing import Final

import numpy as np
import piqp
from jaxtyping import Bool, Float, Int
from scipy.sparse import csc_matrix, diags_array, eye_array, hstack

from engine.rebalance.attempt import Attempt, RawAnswer
from engine.rebalance.interior import Optimum, Quadratic, solve_interior
from engine.rebalance.problem import BUDGET, TRACKING_ERROR, TURNOVER, Problem

KNOWN: Final = frozenset(
    {
        "portfolio_id",
        "names",
        "start",
        "benchmark",
        "lower",
        "upper",
        "lower_kinds",
        "upper_kinds",
        "costs",
        "impact",
        "years",
        "aversion",
        "alpha",
        "root",
        "specific",
        "row_ids",
        "rows",
        "bounds",
        "spendable",
        "turnover",
        "tracking_error",
    }
)
"""The fields of a problem that this program states."""

POINT: Final = 1e-12
"""A trade that the bounds keep below this fraction of NAV is none."""


AT_BOUND: Final = 1e-11
"""A weight that an interior point left this near to a bound is at it."""


@dataclass(frozen=True, slots=True)
class Trades:
    """One-sided trades ``v >= 0``, to buy or to sell, from the weights inside the bounds next to today's.

    A trade splits into what is bought and what is sold, ``z = p - m``. Costs and turnover grow
    with ``p + m``, so an optimum never does both, and then ``z^2 = p^2 + m^2``: the program is
    diagonal in them, and a side that the bounds close is no variable at all.

    Args:
        base: Today's weights clipped to the bounds, of every name; getting there is no choice.
        name: Position of the name of each trade.
        sign: 1 to buy, -1 to sell.
        most: Largest trade that the bounds allow, fraction of NAV.
    """

    base: Float[np.ndarray, " n_names"]
    name: Int[np.ndarray, " n_trades"]
    sign: Float[np.ndarray, " n_trades"]
    most: Float[np.ndarray, " n_trades"]

    @classmethod
    def of(cls, problem: Problem) -> "Trades":
        """Every trade that the bounds leave open; a name that must stay where it is has none."""
        base = np.clip(problem.start, problem.lower, problem.upper)
        up, down = problem.upper - base, base - problem.lower
        bought, sold = np.flatnonzero(up > POINT), np.flatnonzero(down > POINT)
        sign = np.concatenate([np.ones(len(bought)), -np.ones(len(sold))])
        return cls(base, np.concatenate([bought, sold]), sign, np.concatenate([up[bought], down[sold]]))

    def only(self, chosen: Bool[np.ndarray, " n_trades"]) -> "Trades":
        """A part of them; what is left out is 0."""
        return Trades(self.base, self.name[chosen], self.sign[chosen], self.most[chosen])

    def weights(self, values: Float[np.ndarray, " n_trades"]) -> Float[np.ndarray, " n_names"]:
        """Weights after the trades."""
        return self.base + np.bincount(self.name, self.sign * values, minlength=len(self.base))


def linear_limits(
    problem: Problem, trades: Trades, margin: float = 0.0
) -> tuple[Float[np.ndarray, "n_limits n_trades"], Float[np.ndarray, " n_limits"]]:
    """Budget, turnover and rows as ``G v <= h`` in trades from their base, what is traded to get there already spent.

    Args:
        problem: The numbers.
        trades: Variables ``v``.
        margin: Subtracted from every bound.
    """
    at, sign, base = trades.name, trades.sign, trades.base
    forced, limits = np.abs(base - problem.start), problem.rows.reshape(-1, len(base))
    spent = float(base.sum() + problem.costs @ forced)
    turnover = max(problem.turnover - margin, 0.0) - float(forced.sum())
    rows = np.vstack([sign + problem.costs[at], np.ones(len(at)), limits[:, at] * sign])
    rest = problem.bounds - margin - limits @ base
    return rows, np.concatenate([[problem.spendable - margin - spent, turnover], rest])


def is_plain(problem: Problem) -> bool:
    """True where the problem has linear limits, a cap on tracking error at most, on weights that are bounded.

    A field that this program does not know must be None, empty, zero or at its default: a term that
    was added to the problem and not here is left to the modelling layer.
    """
    for field in fields(problem):
        value = getattr(problem, field.name)
        if field.name in KNOWN or value is None:
            continue
        if isinstance(value, np.ndarray):
            if value.any():
                return False
        elif isinstance(value, tuple | dict):
            if len(value):
                return False
        elif field.default is MISSING or value != field.default:
            return False
    return bool(np.isfinite(problem.lower).all() and np.isfinite(problem.upper).all())


def solve_direct(problem: Problem, trades: Trades, attempt: Attempt) -> RawAnswer:
    """Solve a plain problem in the given trades; every other name stays at today's weight, or its nearest bound.

    Args:
        problem: The numbers; ``is_plain``.
        trades: Variables.
        attempt: ``INTERIOR`` or ``PIQP``, scaling (of PIQP), margin, tolerance.

    Returns:
        Weights on every name and the multipliers by limit id; the status is the solver's own word. None
        where PIQP is asked for more than a quadratic objective and linear limits.

    References:
        MATH 5. Oracle: the cvxpy program of the same problem, tests/test_direct.py.
    """
    if not len(trades.name):
        return RawAnswer(trades.base, {}, 0.0, attempt.solver, "solved", 0)
    quadratic = _state(problem, trades, attempt.margin)
    if attempt.solver != "INTERIOR" and (quadratic.cap is not None or quadratic.power.any()):
        return RawAnswer(None, {}, 0.0, attempt.solver, "no quadratic program", 0)
    found = solve_interior(quadratic, attempt.tolerance) if attempt.solver == "INTERIOR" else _piqp(quadratic, attempt)
    weights = trades.weights(found.values)
    for bound in (problem.lower, problem.upper):
        weights = np.where(np.abs(weights - bound) <= AT_BOUND, bound, weights)
    pressure = np.maximum(found.pressure, 0.0).tolist()
    duals = dict(zip((BUDGET, TURNOVER, *problem.row_ids), pressure, strict=True))
    if problem.tracking_error is not None:
        # Of half the variance; a unit of volatility changes that by the volatility.
        duals[TRACKING_ERROR] = max(found.push, 0.0) * problem.tracking_error
    return RawAnswer(weights, duals, 0.0, attempt.solver, found.status, found.iterations)


def _state(problem: Problem, trades: Trades, margin: float) -> Quadratic:
    """The program of ``Problem`` in trades from ``base``."""
    at, sign, base = trades.name, trades.sign, trades.base
    gap, forced = problem.benchmark - base, np.abs(base - problem.start)
    rows, bounds = linear_limits(problem, trades, margin)
    error = problem.tracking_error
    cap = None if error is None else max(error - margin, error / 2.0) ** 2 / 2.0
    # Without aversion and without a cap risk is no part of the program.
    root = problem.root if problem.aversion > 0.0 or cap is not None else problem.root[:, :0]
    return Quadratic(
        weight=problem.aversion,
        p=problem.specific[at],
        tilt=-problem.specific[at] * sign * gap[at],
        load=np.ascontiguousarray((sign[:, None] * root[at]).T),
        aim=root.T @ gap,
        rest=float(problem.specific @ gap**2) / 2.0,
        q=problem.costs[at] / problem.years - problem.alpha[at] * sign,
        power=problem.impact[at] / problem.years,
        begun=forced[at],
        rows=rows,
        bounds=bounds,
        most=trades.most,
        cap=cap,
    )


def _piqp(program: Quadratic, attempt: Attempt) -> Optimum:
    """PIQP with ``y = W v - w`` as variables, the objective times ``scale`` and trades over ``unit``."""
    n, k = len(program.q), len(program.aim)
    scale, unit = attempt.scale, attempt.unit
    heavy = scale * program.weight
    factor = np.sqrt(heavy)
    solver = piqp.SparseSolver()
    solver.settings.eps_abs = solver.settings.eps_rel = attempt.tolerance
    solver.settings.max_iter = 250
    free = np.full(k, np.inf)
    solver.setup(
        csc_matrix(diags_array(np.concatenate([program.p * heavy * unit * unit, np.ones(k)]))),
        np.concatenate([(program.q * scale + program.tilt * heavy) * unit, np.zeros(k)]),
        csc_matrix(hstack([csc_matrix(-factor * unit * program.load), eye_array(k)])),
        -factor * program.aim,
        csc_matrix(hstack([csc_matrix(program.rows), csc_matrix((len(program.rows), k))])),
        None,
        program.bounds / unit,
        np.concatenate([np.zeros(n), -free]),
        np.concatenate([program.most / unit, free]),
    )
    status = solver.solve().name.lower().removeprefix("piqp_")
    found = solver.result
    values, pressure = np.array(found.x)[:n] * unit, np.array(found.z_u) / (scale * unit)
    return Optimum(values, pressure, 0.0, status, int(found.info.iter))
