"""What buying and selling a little more of each name would cost, taken apart."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from engine.rebalance.problem import Problem, limit_of
from engine.rebalance.shadows import marginal_costs
from engine.risk.model import RiskModel


@dataclass(frozen=True, slots=True)
class Pushes:
    """The parts of the marginal costs of every name of a program.

    Args:
        kinds: ``factor``, ``own_risk``, ``cost`` or ``limit`` by part.
        parts: The factor, or the limit's id; the kind where there is one of its kind.
        buying: Objective per unit of weight bought, by part and name.
        selling: The same sold.
    """

    kinds: tuple[str, ...]
    parts: tuple[str, ...]
    buying: Float[np.ndarray, "n_parts n_names"]
    selling: Float[np.ndarray, "n_parts n_names"]


def split_marginal_costs(
    problem: Problem, weights: Float[np.ndarray, " n_names"], duals: Mapping[str, float], model: RiskModel
) -> Pushes:
    """Take the marginal costs apart: active risk by factor, the names' own risk, trading, each limit.

    With active weights ``a``, exposures ``B`` and issuers' own risk ``D``::

        factor k   gamma B_ik (F B'a)_k          own risk   gamma (D a)_i
        limit j    marginal_costs with y_j alone, less marginal_costs with no multiplier

    The marginal costs are linear in the multipliers, so that the parts sum to them.

    Args:
        problem: One book's program.
        weights: The answer.
        duals: Its multipliers by limit id.
        model: Risk model that the program was stated with.

    References:
        MATH 5. Oracle: ``marginal_costs`` and a dense covariance, tests/test_explain.py.
    """
    at = model.securities.positions(problem.names.labels, problem.portfolio_id)
    active = weights - problem.benchmark
    exposures, own = model.exposures[at], np.sqrt(model.specific_variance[at])
    factors = problem.aversion * exposures * (model.factor_covariance @ (exposures.T @ active))
    _, issuer = np.unique(model.issuers[at], return_inverse=True)
    specific = problem.aversion * own * np.bincount(issuer, own * active)[issuer]
    free = replace(problem, costs=np.zeros_like(problem.costs))
    without, untraded = marginal_costs(problem, weights, {}), marginal_costs(free, weights, {})
    # A limit of leaves or positions pushes with all of their multipliers.
    by_limit: dict[str, dict[str, float]] = {}
    for name, value in duals.items():
        if value != 0.0:
            by_limit.setdefault(limit_of(name), {})[name] = value
    limits = list(by_limit)
    pushed = [marginal_costs(problem, weights, by_limit[name]) for name in limits]
    sides = [
        np.vstack(
            [
                sign * factors.T,
                sign * specific[None, :],
                (without[side] - untraded[side])[None, :],
                *[(push[side] - without[side])[None, :] for push in pushed],
            ]
        )
        for side, sign in ((0, 1.0), (1, -1.0))
    ]
    names = model.factors.labels
    return Pushes(
        ("factor",) * len(names) + ("own_risk", "cost") + ("limit",) * len(limits),
        (*names, "own_risk", "cost", *limits),
        sides[0],
        sides[1],
    )
