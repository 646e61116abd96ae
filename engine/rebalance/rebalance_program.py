"""The rebalance program in cvxpy, compiled once for each shape (DPP), solved by Clarabel or PIQP."""

import warnings
from typing import Any, Final

import cvxpy as cp
import numpy as np

from engine.rebalance.attempt import FINER, Attempt, RawAnswer
from engine.rebalance.cone_program import ConeBlock
from engine.rebalance.problem import BUDGET, GROSS, TRACKING_ERROR, TURNOVER, Problem
from engine.rebalance.shape import Shape

SCS_TOLERANCE: Final = 1e-9
"""What a first-order solver is asked for; the certificate judges what comes."""


class RebalanceProgram:
    """One compiled shape: (names, risk columns, rows, tracking-error cap, terms, cones), in ``z = (x - x0) / unit``.

    Trades, not weights, are the variables: a tracker whose trades are a millionth of NAV is
    then as well scaled as a book that turns over a third.

    The elastic form gives every row and the turnover cap the same slack and minimises it
    instead of the objective: its answer is the smallest common violation, its multipliers
    the material of an infeasibility proof. It is compiled on first need.
    """

    def __init__(self, shape: Shape) -> None:
        n, k, m, self.capped, self.terms, cones = shape
        self.cones = ConeBlock(n, cones)
        self.z, self.t, self.y = cp.Variable(n), cp.Variable(n), cp.Variable(k)
        self.excess = cp.Variable(nonneg=True)
        self.root, self.root_b = cp.Parameter((k, n)), cp.Parameter(k)
        self.sd, self.sd_b = cp.Parameter(n, nonneg=True), cp.Parameter(n)
        self.linear_costs = cp.Parameter(n, nonneg=True)
        self.costs = cp.Parameter(n, nonneg=True)
        self.impact = cp.Parameter(n, nonneg=True)
        self.lower, self.upper = cp.Parameter(n), cp.Parameter(n)
        self.rows, self.bounds = cp.Parameter((m, n)), cp.Parameter(m)
        self.spendable, self.turnover = cp.Parameter(), cp.Parameter()
        self.radius, self.radius_unit = cp.Parameter(), cp.Parameter(nonneg=True)
        self.alpha = cp.Parameter(n)
        self.short, self.opening = cp.Variable(n, nonneg=True), cp.Parameter(n)
        self.borrow, self.gross = cp.Parameter(n, nonneg=True), cp.Parameter()
        objective = self.linear_costs @ self.t
        if "risk" in self.terms:
            own = cp.multiply(self.sd, self.z) - self.sd_b
            objective = cp.sum_squares(self.y) / 2.0 + cp.sum_squares(own) / 2.0 + objective
        if "alpha" in self.terms:
            objective -= self.alpha @ self.z
        if "borrow" in self.terms:
            objective += self.borrow @ self.short
        if "impact" in self.terms:
            objective += self.impact @ cp.power(self.t, 1.5, approx=False)
        self.limits = self._limits(0.0)
        link = [self.y == self.root @ self.z - self.root_b]
        self.problem = cp.Problem(cp.Minimize(objective), [*self.limits, *self._box(), *link])
        self.elastic_limits = self._limits(self.excess)
        self.elastic = cp.Problem(cp.Minimize(self.excess), [*self.elastic_limits, *self._box()])

    def _limits(self, slack: Any) -> list[Any]:
        spent = cp.sum(self.z) + self.costs @ self.t
        limits = [
            spent <= self.spendable + slack,
            self.rows @ self.z <= self.bounds + slack,
            cp.sum(self.t) <= self.turnover + slack,
        ]
        if "gross" in self.terms:
            limits.append(cp.sum(self.z) + cp.sum(self.opening) + 2.0 * cp.sum(self.short) <= self.gross + slack)
        if self.capped:
            active = [self.root @ self.z - self.root_b, cp.multiply(self.sd, self.z) - self.sd_b]
            limits.append(cp.norm(cp.hstack(active)) <= self.radius + self.radius_unit * slack)
        return limits + self.cones.limits(self.z, [slack] * self.cones.count)

    def _box(self) -> list[Any]:
        box = [
            self.z >= self.lower,
            self.z <= self.upper,
            self.t >= self.z,
            self.t >= -self.z,
        ]
        if self.terms & {"gross", "borrow"}:
            box.append(self.short >= -self.opening - self.z)
        return box

    def solve(self, problem: Problem, attempt: Attempt, *, elastic: bool = False) -> RawAnswer:
        """Solve one problem of this shape.

        Args:
            problem: The numbers.
            attempt: Solver, scaling, margin, tolerance.
            elastic: Minimise the common violation instead.
        """
        solver, scale, unit = attempt.solver, attempt.scale, attempt.unit
        # Where a root is limited the multipliers come out less exact than the solver's tolerance says.
        tolerance = attempt.tolerance * (FINER if self.cones.margins or self.capped else 1.0)
        self._load(problem, scale, unit, attempt.margin)
        which, limits = (self.elastic, self.elastic_limits) if elastic else (self.problem, self.limits)
        # cvxpy takes the power 3/2 of trades that the solver left a rounding below zero.
        with warnings.catch_warnings(), np.errstate(over="ignore", invalid="ignore"):
            # No warm start: an answer must not depend on the books before it.
            # An inaccurate answer is judged by the certificate, not by a warning.
            warnings.simplefilter("ignore", UserWarning)
            try:
                which.solve(solver=solver, warm_start=False, **_options(solver, tolerance))
            except (cp.error.SolverError, ValueError, ZeroDivisionError) as error:
                return RawAnswer(None, {}, 0.0, solver, f"failed: {error}"[:80], 0)
            except MemoryError:
                # One large book that misses the short cuts must not end the run: it is held.
                return RawAnswer(None, {}, 0.0, solver, "failed: out of memory", 0)
        weights = None if self.z.value is None else problem.start + unit * np.asarray(self.z.value, dtype=np.float64)
        steps = getattr(which.solver_stats, "num_iters", None)
        duals = {} if limits[0].dual_value is None else self._duals(problem, limits, 1.0 if elastic else scale * unit)
        slack = unit * float(self.excess.value) if elastic and self.excess.value is not None else 0.0
        return RawAnswer(weights, duals, slack, solver, str(which.status), int(steps or 0))

    def _load(self, problem: Problem, scale: float, unit: float, margin: float) -> None:
        # Without risk in the objective the risk is that of the cap alone, in its own unit.
        factor = np.sqrt(problem.aversion * scale) if "risk" in self.terms else 1.0
        root = problem.root.T * factor
        sd = np.sqrt(problem.specific) * factor
        gap = problem.benchmark - problem.start
        self.root.value, self.root_b.value = root * unit, root @ gap
        self.sd.value, self.sd_b.value = sd * unit, sd * gap
        self.linear_costs.value = problem.costs * (scale * unit / problem.years)
        self.alpha.value = problem.alpha * (scale * unit)
        self.borrow.value = problem.borrow * (scale * unit)
        self.opening.value = problem.start / unit
        self.gross.value = 0.0 if problem.gross is None else (problem.gross - margin) / unit
        self.costs.value = problem.costs
        self.impact.value = problem.impact * (scale * unit**1.5 / problem.years)
        self.lower.value = (problem.lower - problem.start) / unit
        self.upper.value = (problem.upper - problem.start) / unit
        self.rows.value = problem.rows
        self.bounds.value = (problem.bounds - margin - problem.rows @ problem.start) / unit
        self.spendable.value = (problem.spendable - margin - float(problem.start.sum())) / unit
        self.turnover.value = max(problem.turnover - margin, 0.0) / unit
        # The cone is in the objective's own scaled risk; a slack of 1 is ``unit`` of volatility in it.
        cap = 0.0 if problem.tracking_error is None else max(problem.tracking_error - margin, 0.0)
        self.radius.value, self.radius_unit.value = factor * cap, factor * unit
        self.cones.load(problem, unit, margin)

    def _duals(self, problem: Problem, limits: list[Any], scale: float) -> dict[str, float]:
        plain = 3 + ("gross" in self.terms) + self.capped
        budget, rows, turnover, *further = (
            np.atleast_1d(np.asarray(limit.dual_value, dtype=np.float64)) for limit in limits[:plain]
        )
        found = {BUDGET: budget[0], TURNOVER: turnover[0], **dict(zip(problem.row_ids, rows, strict=True))}
        found |= self.cones.duals(problem, limits[plain:])
        if "gross" in self.terms:
            found[GROSS] = further.pop(0)[0]
        if further:
            found[TRACKING_ERROR] = further[0][0] * self.radius_unit.value
        # Signs of dual values have changed between versions of cvxpy; a multiplier of a <= row is >= 0.
        return {name: abs(float(value)) / scale for name, value in found.items()}


def _options(solver: str, tolerance: float) -> dict[str, float | int]:
    if solver == "PIQP":
        return {"eps_abs": tolerance, "eps_rel": tolerance, "max_iter": 250}
    if solver == "SCS":
        # A bound on the steps, not on the time: an answer must not depend on the clock.
        return {"eps_abs": max(tolerance, SCS_TOLERANCE), "eps_rel": max(tolerance, SCS_TOLERANCE), "max_iters": 5000}
    return {
        "tol_gap_abs": tolerance,
        "tol_gap_rel": tolerance,
        "tol_feas": tolerance,
        "max_iter": 200,
        "max_threads": 1,
    }
