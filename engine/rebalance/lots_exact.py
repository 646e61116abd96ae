"""Whole lots by a mixed-integer program: for small books, where the repair of rounding is not enough."""

from typing import Final

import numpy as np
from jaxtyping import Float
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array, hstack, vstack

from engine.rebalance.lot_grid import NEARLY, Grid
from engine.rebalance.lot_state import objective
from engine.rebalance.lots import RoundedAnswer, round_to_lots
from engine.rebalance.problem import Problem

NODES: Final = 20_000
"""Nodes of one program; this limit decides, not the clock."""

ROUNDS: Final = 40
"""Programs solved, each with the tangents of the risk at the answers before."""

SCALE: Final = 1e3
"""Factor on weights in the program: HiGHS accepts violations of 1e-7 of its own numbers."""

CLOSE: Final = 1e-6
"""Relative distance from the proven bound at which an answer is taken."""


def round_exactly(problem: Problem, grid: Grid, weights: Float[np.ndarray, " n_names"]) -> RoundedAnswer | None:
    """The best whole lots, by tangents to the risk.

    Every name is at today's quantity or in one of its ranges of multiples (a binary each); all
    limits but the tracking error are rows. The risk is a variable above its tangents at the continuous
    answer and at every answer since, ``r >= v(x_k) + v'(x_k)(x - x_k)``; a cap on the tracking error
    is a cap on it. It ends when the best answer is at the proven bound, or at the limits of nodes and rounds.

    Args:
        problem: Limits and objective.
        grid: The allowed quantities.
        weights: The continuous answer: the first tangent.

    Returns:
        None where no answer was found that keeps every limit.

    References:
        Kelley (1960), The cutting-plane method for solving convex programs. Oracle: enumeration of
        every allowed quantity, tests/test_lots.py.
    """
    if not len(problem.names):
        return None
    program = _Program(problem, grid, weights)
    best: RoundedAnswer | None = None
    value = np.inf
    for _ in range(ROUNDS):
        found = program.solve()
        if found is None:
            break
        quantities, bound = found
        x = grid.weights(quantities, problem.start)
        # Polished: integers from a solver are only nearly inside limits that bind.
        tried = round_to_lots(problem, grid, x)
        if tried.violation <= 2.0 * NEARLY and objective(problem, tried.weights) < value:
            best, value = tried, objective(problem, tried.weights)
        if value <= bound + CLOSE * abs(value) or not program.cut(x):
            break
    if best is None:
        return None
    return RoundedAnswer(
        best.quantities, best.weights, best.violation, best.worst, best.unrepaired, best.broken, best.steps, by="HiGHS"
    )


class _Program:
    """Columns: lots in each range, a binary for each range and for today, trade sizes, risk."""

    def __init__(self, problem: Problem, grid: Grid, weights: Float[np.ndarray, " n_names"]) -> None:
        self.problem, self.grid = problem, grid
        n = len(problem.names)
        ranges = (grid.first <= grid.last) & np.isfinite(grid.first) & np.isfinite(grid.last)
        kind, self.at = np.nonzero(ranges)
        self.first, self.last = grid.first[kind, self.at], grid.last[kind, self.at]
        self.today = np.flatnonzero(grid.stays)
        m, h = len(self.at), len(self.today)
        self.count, self.binary, self.width = m, m + h, 2 * m + h + n + 1
        step = (grid.lot * grid.unit)[self.at]
        # x = sum of lots of a name, or its weight today
        self.place = csr_array(
            hstack(
                [
                    coo_array((step, (self.at, np.arange(m))), shape=(n, m)),
                    coo_array((n, m)),
                    coo_array((problem.start[self.today], (self.today, np.arange(h))), shape=(n, h)),
                    coo_array((n, n + 1)),
                ]
            )
        )
        self.sizes = csr_array(hstack([coo_array((n, 2 * m + h)), coo_array(np.eye(n)), coo_array((n, 1))]))
        self.risk = csr_array(([1.0], ([0], [self.width - 1])), shape=(1, self.width))
        self.size = max(objective(problem, weights), 1e-8)
        self.rows = self._limits()
        self.seen: list[Float[np.ndarray, " n_names"]] = []
        self.cut(weights)

    def _limits(self) -> list[LinearConstraint]:
        problem, m, h, n = self.problem, self.count, len(self.today), len(self.problem.names)
        identity, nothing = coo_array(np.eye(m)), coo_array((m, h + n + 1))
        low = csr_array(hstack([identity, coo_array(np.diag(-self.first)), nothing]))
        high = csr_array(hstack([identity, coo_array(np.diag(-self.last)), nothing]))
        one_each = csr_array(
            hstack(
                [
                    coo_array((n, m)),
                    coo_array((np.ones(m), (self.at, np.arange(m))), shape=(n, m)),
                    coo_array((np.ones(h), (self.today, np.arange(h))), shape=(n, h)),
                    coo_array((n, n + 1)),
                ]
            )
        )
        ones = csr_array(np.ones((1, n)))
        costs = csr_array(problem.costs[None, :])
        kept = vstack([ones @ self.place + costs @ self.sizes, ones @ self.sizes, csr_array(problem.rows) @ self.place])
        most = np.array([problem.spendable, problem.turnover, *problem.bounds])
        return [
            LinearConstraint(low, 0.0, np.inf),
            LinearConstraint(high, -np.inf, 0.0),
            LinearConstraint(one_each, 1.0, 1.0),
            LinearConstraint(csr_array(self.sizes - self.place), -problem.start, np.inf),
            LinearConstraint(csr_array(self.sizes + self.place), problem.start, np.inf),
            LinearConstraint(csr_array(kept) * SCALE, -np.inf, most * SCALE),
        ]

    def cut(self, x: Float[np.ndarray, " n_names"]) -> bool:
        """Add the tangent of the risk at ``x``; False where it is there already."""
        if any(np.array_equal(x, one) for one in self.seen):
            return False
        self.seen.append(x)
        problem = self.problem
        active = x - problem.benchmark
        pull = problem.risk_slope(x)
        # r >= a'Sa + 2 (Sa)'(y - x), with r in units of the objective
        slope = csr_array((problem.aversion / self.size * pull)[None, :])
        level = problem.aversion / self.size * (float(active @ pull) / 2.0 - float(pull @ x))
        self.rows.append(LinearConstraint(csr_array(self.risk - slope @ self.place), level, np.inf))
        return True

    def solve(self) -> tuple[Float[np.ndarray, " n_names"], float] | None:
        """Quantities and the proven bound on the objective, or None where there are none."""
        problem, m, n = self.problem, self.count, len(self.problem.names)
        cap = np.inf
        if problem.tracking_error is not None:
            cap = problem.aversion / 2.0 * problem.tracking_error**2 / self.size
        upper = np.concatenate([np.full(m, np.inf), np.ones(m + len(self.today)), np.full(n, np.inf), [cap]])
        lower = np.concatenate([np.full(m, -np.inf), np.zeros(m + len(self.today) + n + 1)])
        cost = np.concatenate([np.zeros(2 * m + len(self.today)), problem.costs / problem.years / self.size, [1.0]])
        integral = np.concatenate([np.ones(2 * m + len(self.today)), np.zeros(n + 1)])
        found = milp(
            cost,
            integrality=integral,
            bounds=Bounds(lower, upper),
            constraints=self.rows,
            options={"node_limit": NODES, "mip_rel_gap": CLOSE / 10.0},
        )
        if found.x is None:
            return None
        lots = np.round(found.x[:m]) * self.grid.lot[self.at]
        quantities = np.zeros(n)
        chosen = found.x[m : 2 * m] > 0.5
        quantities[self.at[chosen]] = lots[chosen]
        stays = found.x[2 * m : 2 * m + len(self.today)] > 0.5
        quantities[self.today[stays]] = self.grid.held[self.today[stays]]
        bound = -np.inf if found.mip_dual_bound is None else float(found.mip_dual_bound) * self.size
        return quantities, bound
