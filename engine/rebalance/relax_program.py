"""The program of what gives way, in cvxpy, compiled once for each shape (DPP), solved by Clarabel or HiGHS."""

import warnings
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from engine.rebalance.attempt import FINER
from engine.rebalance.cones import risk_direction
from engine.rebalance.problem import TRACKING_ERROR, Problem
from engine.rebalance.relax_direct import is_straight, solve_level
from engine.rebalance.relax_slack import LEVELS, RelaxedAnswer, Slack, limit_ids
from engine.rebalance.shape import Shape, shape_of

TOLERANCE: Final = 1e-10

LARGE: Final = 2000
"""Names beyond which the modelling layer costs more than the program it states."""

SIMPLEX: Final = {
    "solver": "SCIPY",  # the same HiGHS without its banner on standard output
    "scipy_options": {
        "method": "highs-ds",
        "primal_feasibility_tolerance": TOLERANCE,
        "dual_feasibility_tolerance": TOLERANCE,
    },
}


@dataclass(frozen=True, slots=True)
class Bend:
    """``(|C'(x - w)|^2 + |d (x - w)|^2) / 2``, added to the price.

    Args:
        columns: ``C``.
        own: ``d``.
        center: ``w``.
    """

    columns: Float[np.ndarray, "n_names n_columns"]
    own: Float[np.ndarray, " n_names"]
    center: Float[np.ndarray, " n_names"]


class RelaxProgram:
    """One compiled shape: every limit ``i`` is ``a_i'x <= b_i + e_i + c`` where it may give way.

    minimise ``price'e + c`` with ``0 <= e <= most``, ``c >= 0``, and for every earlier level
    ``sum e <= total``. The objective of the book is not in it.
    """

    def __init__(self, shape: Shape, columns: int | None = None) -> None:
        # cvxpy takes a second and more to load, and the nouns of this file are needed without it.
        import cvxpy as cp  # noqa: PLC0415

        from engine.rebalance.cone_program import ConeBlock  # noqa: PLC0415

        n, k, m, self.capped, terms, cones = shape
        self.cones = ConeBlock(n, cones)
        own, self.has_gross = 4 + m + self.cones.count, "gross" in terms
        self.z, self.t = cp.Variable(n), cp.Variable(n)
        self.e, self.low, self.high = cp.Variable(own), cp.Variable(n), cp.Variable(n)
        self.common = cp.Variable(nonneg=True)
        self.most, self.price, self.together = (cp.Parameter(own, nonneg=True) for _ in range(3))
        self.low_most, self.high_most = cp.Parameter(n, nonneg=True), cp.Parameter(n, nonneg=True)
        self.weight_price, self.weights_together = cp.Parameter(nonneg=True), cp.Parameter(nonneg=True)
        self.members, self.totals = cp.Parameter((LEVELS, own), nonneg=True), cp.Parameter(LEVELS)
        self.weight_members = cp.Parameter(LEVELS, nonneg=True)
        self.rows, self.bounds = cp.Parameter((m, n)), cp.Parameter(m)
        self.costs = cp.Parameter(n, nonneg=True)
        self.spendable, self.turnover, self.radius = cp.Parameter(), cp.Parameter(), cp.Parameter()
        self.root, self.root_b = cp.Parameter((k, n)), cp.Parameter(k)
        self.sd, self.sd_b = cp.Parameter(n, nonneg=True), cp.Parameter(n)
        self.hard_lower, self.hard_upper = cp.Parameter(n), cp.Parameter(n)
        self.opening, self.gross = cp.Parameter(n), cp.Parameter()
        self.lower, self.upper = cp.Parameter(n), cp.Parameter(n)
        room = self.e + self.together * self.common
        self.limits = [
            cp.sum(self.z) + self.costs @ self.t <= self.spendable + room[0],
            cp.sum(self.t) <= self.turnover + room[1],
            self.rows @ self.z <= self.bounds + room[4 : 4 + m],
            self.z >= self.lower - self.low - self.weights_together * self.common,
            self.z <= self.upper + self.high + self.weights_together * self.common,
            self.members @ self.e + self.weight_members * (cp.sum(self.low) + cp.sum(self.high)) <= self.totals,
        ]
        if self.capped:
            active = [self.root @ self.z - self.root_b, cp.multiply(self.sd, self.z) - self.sd_b]
            self.limits.append(cp.SOC(self.radius + room[2], cp.hstack(active)))
        if self.has_gross:
            self.limits.append(cp.norm1(self.z + self.opening) <= self.gross + room[3])
        self.limits += self.cones.limits(self.z, [room[4 + m + at] for at in range(self.cones.count)])
        bounds = [self.z >= self.hard_lower, self.z <= self.hard_upper, self.t >= self.z, self.t >= -self.z]
        slacks = [self.e >= 0, self.e <= self.most, self.low >= 0, self.low <= self.low_most]
        slacks += [self.high >= 0, self.high <= self.high_most]
        weights = self.weight_price * (cp.sum(self.low) + cp.sum(self.high))
        least = self.price @ self.e + weights + self.common
        self.bent = columns is not None
        if columns is not None:
            self.columns, self.columns_b = cp.Parameter((columns, n)), cp.Parameter(columns)
            self.own, self.own_b = cp.Parameter(n, nonneg=True), cp.Parameter(n)
            least += cp.sum_squares(cp.multiply(self.own, self.z) - self.own_b) / 2.0
            least += cp.sum_squares(self.columns @ self.z - self.columns_b) / 2.0
        self.problem = cp.Problem(cp.Minimize(least), [*self.limits, *bounds, *slacks])

    def solve(
        self, problem: Problem, slack: Slack, *, second: bool = False, bend: Bend | None = None
    ) -> RelaxedAnswer | None:
        """The least of what may give way, or None where the solver found nothing.

        Args:
            problem: The numbers; its bounds on weights hold.
            slack: What may give way.
            second: In the second way: where every limit is linear by the simplex method, which sees an
                inside that an interior point does not; else at the tolerance that it more surely reaches.
            bend: Added to the price, of a program compiled with so many columns.
        """
        from cvxpy.error import SolverError  # noqa: PLC0415  as above

        self._load(problem)
        self._load_slack(problem, slack)
        if bend is not None:
            moved = bend.center - problem.start
            self.columns.value, self.columns_b.value = bend.columns.T, bend.columns.T @ moved
            self.own.value, self.own_b.value = bend.own, bend.own * moved
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            linear = not (self.cones.margins or self.capped or self.bent)
            tolerance = TOLERANCE * (1.0 if linear or (second and not self.bent) else FINER)
            options: dict[str, Any] = {"tol_gap_abs": tolerance, "tol_gap_rel": tolerance, "tol_feas": tolerance}
            options = {"solver": "CLARABEL", "max_iter": 200, "max_threads": 1, **options}
            try:
                self.problem.solve(warm_start=False, **(SIMPLEX if linear and second else options))
            except (SolverError, ValueError, ZeroDivisionError, MemoryError):
                return None
        if self.bent and self.problem.status != "optimal":
            return None
        if self.z.value is None or self.limits[0].dual_value is None or not np.isfinite(self.z.value).all():
            return None
        return self._answer(problem)

    def _load(self, problem: Problem) -> None:
        start, gap = problem.start, problem.benchmark - problem.start
        root, sd = problem.root.T, np.sqrt(problem.specific)
        self.root.value, self.root_b.value = root, root @ gap
        self.sd.value, self.sd_b.value = sd, sd * gap
        self.costs.value = problem.costs
        self.rows.value, self.bounds.value = problem.rows, problem.bounds - problem.rows @ start
        self.spendable.value, self.turnover.value = problem.spendable - float(start.sum()), problem.turnover
        self.radius.value = problem.tracking_error or 0.0
        self.opening.value, self.gross.value = start, 0.0 if problem.gross is None else problem.gross
        self.cones.load(problem, 1.0, 0.0)
        self.hard_lower.value, self.hard_upper.value = problem.lower - start, problem.upper - start

    def _load_slack(self, problem: Problem, slack: Slack) -> None:
        ids = limit_ids(problem)
        none = np.zeros(len(problem.start))
        self.most.value = np.array([slack.most.get(name, 0.0) for name in ids])
        self.price.value = np.array([slack.price.get(name, 0.0) for name in ids])
        self.together.value = np.array([float(name in slack.together) for name in ids])
        members, totals, weights = np.zeros((LEVELS, len(ids))), np.ones(LEVELS), np.zeros(LEVELS)
        for level, (names, total) in slack.held.items():
            members[level - 1] = [float(name in names) for name in ids]
            totals[level - 1], weights[level - 1] = total, float(level == slack.weight_level)
        self.members.value, self.totals.value, self.weight_members.value = members, totals, weights
        low = problem.lower if slack.lower is None else slack.lower
        high = problem.upper if slack.upper is None else slack.upper
        self.lower.value, self.upper.value = low - problem.start, high - problem.start
        self.low_most.value = none if slack.low_most is None else slack.low_most
        self.high_most.value = none if slack.high_most is None else slack.high_most
        self.weight_price.value, self.weights_together.value = slack.weight_price, float(slack.weights_together)

    def _answer(self, problem: Problem) -> RelaxedAnswer:
        from engine.rebalance.cone_program import cone_direction  # noqa: PLC0415  as above

        # Signs of dual values have changed between versions of cvxpy; a multiplier of a <= row is >= 0.
        plain = 6 + self.capped + self.has_gross
        budget, turnover, rows, low, high, held, *further = (
            np.abs(np.atleast_1d(np.asarray(_dual(limit), dtype=np.float64))) for limit in self.limits[:plain]
        )
        ids = limit_ids(problem)
        risk = further.pop(0)[0] if self.capped else 0.0
        directions = self.cones.directions(problem, self.limits[plain:])
        if self.capped and (toward := cone_direction(self.limits[6])) is not None:
            directions[TRACKING_ERROR] = risk_direction(problem.root, problem.specific, toward)
        gross = further.pop(0)[0] if self.has_gross else 0.0
        cones = {name: abs(float(y)) for name, y in self.cones.duals(problem, self.limits[plain:]).items()}
        return RelaxedAnswer(
            weights=np.clip(problem.start + self.z.value, problem.lower, problem.upper),
            gives=dict(zip(ids, np.maximum(self.e.value, 0.0).tolist(), strict=True)),
            low_gives=np.maximum(self.low.value, 0.0),
            high_gives=np.maximum(self.high.value, 0.0),
            common=max(float(self.common.value), 0.0),
            duals=dict(zip(ids, [budget[0], turnover[0], risk, gross, *rows.tolist()], strict=False)) | cones,
            low_duals=low,
            high_duals=high,
            held={level: float(value) for level, value in enumerate(held, start=1)},
            directions=directions,
        )


def _dual(limit: Any) -> Any:
    value = limit.dual_value
    return value[0] if isinstance(value, list) else value


@dataclass(slots=True)
class RelaxPrograms:
    """Compiled programs by shape, for the life of one chunk; none is compiled before a book needs it."""

    by_shape: dict[tuple[Shape, int | None], RelaxProgram] = field(default_factory=dict)

    def solve(
        self, problem: Problem, slack: Slack, *, second: bool = False, bend: Bend | None = None
    ) -> RelaxedAnswer | None:
        """As ``RelaxProgram.solve``, with the program of the problem's shape; a linear one first as matrices."""
        straight = is_straight(problem) and bend is None
        if straight and not second:
            return solve_level(problem, slack)
        if straight and len(problem.names) > LARGE:
            return None
        shape = shape_of(problem), None if bend is None else bend.columns.shape[1]
        if shape not in self.by_shape:
            self.by_shape[shape] = RelaxProgram(*shape)
        # Simplex has had its turn at a linear one.
        return self.by_shape[shape].solve(problem, slack, second=second and not straight, bend=bend)
