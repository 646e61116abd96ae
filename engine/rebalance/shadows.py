"""What the objective would save if a limit were a little wider."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from jaxtyping import Float

from engine.conventions import BINDS
from engine.rebalance.problem import BUDGET, GROSS, TRACKING_ERROR, TURNOVER, Problem

FLAT: Final = 1e-8
"""A position below this fraction of NAV, of a name that may be short, is neither long nor short."""


def marginal_costs(
    problem: Problem, weights: Float[np.ndarray, " n_names"], duals: Mapping[str, float]
) -> tuple[Float[np.ndarray, " n_names"], Float[np.ndarray, " n_names"]]:
    """What buying and what selling a little more of each name would add to the objective.

    With the multipliers ``y`` of the rows, ``y_b`` of the budget and ``lam`` of the turnover::

        s = (gamma + mu) Sigma (x - xb) - alpha + A'y + y_b + 3/2 c sign(x - x0) sqrt|x - x0| / years
        kap = k (1 / years + y_b) + lam
        mu = (multiplier of the tracking error) / (tracking error)
        buying adds s + kap, selling -s + kap; a trade that is taken back gives its kap back
        the gross g adds g to s of a long, a short -g - h with its borrowing cost h, a flat name either

    A shortfall adds the losses of each leaf at the leaf's multiplier, a robust budget its slope.
    Limits are counted at their multipliers. At an optimum no name inside its bounds has a
    negative entry; a name at rest between the two is left alone because either would cost.

    Args:
        problem: One book's program.
        weights: The answer.
        duals: Its multipliers by limit id.

    Returns:
        Buying and selling, objective (annual, NAV 1) per unit of weight.

    References:
        MATH 5-6. Oracle: the objective of a second solver with each bound moved,
        tests/test_shadows.py.
    """
    y_b = duals.get(BUDGET, 0.0)
    pressure = np.array([duals.get(name, 0.0) for name in problem.row_ids])
    risk = problem.risk_slope(weights)
    slope = problem.aversion * risk - problem.alpha + problem.rows.T @ pressure + y_b
    tracking_error = float(np.sqrt(problem.active_variance(weights)))
    if tracking_error > 0.0:
        slope = slope + duals.get(TRACKING_ERROR, 0.0) / tracking_error * risk
    for cone in problem.cones:
        slope = slope + cone.pressure(weights, duals)
    moved = np.sign(weights - problem.start)
    slope = slope + moved * 1.5 * problem.impact * np.sqrt(np.abs(weights - problem.start)) / problem.years
    gross = duals.get(GROSS, 0.0)
    dust = np.where(problem.lower < 0.0, FLAT, 0.0)
    up = slope + np.where(weights < -dust, -gross - problem.borrow, gross)
    down = slope + np.where(weights > dust, gross, -gross - problem.borrow)
    kink = problem.costs * (1.0 / problem.years + y_b) + duals.get(TURNOVER, 0.0)
    return up + np.where(moved < 0.0, -kink, kink), -down + np.where(moved > 0.0, -kink, kink)


def shadow_prices(
    problem: Problem, weights: Float[np.ndarray, " n_names"], duals: Mapping[str, float]
) -> dict[str, float]:
    """Objective saved per unit by which a limit is widened, by limit id.

    The multiplier of a row, the budget, turnover or tracking error as it is; of a bound on a weight with
    less room than ``BINDS``, what moving the name past it would save, ``max(-(what that adds), 0)``. The
    saving is concave in the width: a whole point saves at most a hundredth of the price.

    Args:
        problem: One book's program.
        weights: The answer.
        duals: Its multipliers by limit id.

    References:
        MATH 5. Oracle: as for ``marginal_costs``.
    """
    buying, selling = marginal_costs(problem, weights, duals)
    highest, lowest = np.flatnonzero(weights >= problem.upper - BINDS), np.flatnonzero(weights <= problem.lower + BINDS)
    above = {problem.upper_id(i): max(-float(buying[i]), 0.0) for i in highest.tolist()}
    below = {problem.lower_id(i): max(-float(selling[i]), 0.0) for i in lowest.tolist()}
    return {**duals, **above, **below}
