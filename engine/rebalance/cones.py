"""Limits that are no rows, as numbers: expected shortfall over the leaves of a tree, robust stress budgets."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from engine.conventions import TRADING_DAYS
from engine.errors import ModelError
from engine.mandates.mandate import Mandate, ShortfallLimit, StressBudget
from engine.stress.trees import expected_shortfall

LEAST_OWN = 1e-10
"""Share of the largest variance that stands for a specific variance of zero."""

LEAF = ":leaf:"
"""Between a limit's id and a leaf's in the id of the leaf's multiplier."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The leaves of a scenario.

    Args:
        leaves: Id of each.
        probability: Of each, as written; they sum to 1 but for rounding.
        totals: ``(n_leaves, n_securities)``: total return of each security, on the model's axis.
    """

    leaves: tuple[str, ...]
    probability: Float[np.ndarray, " n_leaves"]
    totals: Float[np.ndarray, "n_leaves n_securities"]


@dataclass(frozen=True, slots=True)
class Shortfall:
    """``ES(losses x - offsets) <= bound``, the mean over the worst ``1 - level`` of the probability.

    Args:
        limit_id: Of the mandate.
        leaves: Id of each leaf.
        probability: Of each; they sum to 1.
        losses: ``(n_leaves, n_names)``: loss of one unit of each name.
        offsets: ``(n_leaves,)``: the benchmark's loss where the limit is active, else 0.
        level: Share of the probability that is left out.
        bound: Fraction of NAV.
    """

    limit_id: str
    leaves: tuple[str, ...]
    probability: Float[np.ndarray, " n_leaves"]
    losses: Float[np.ndarray, "n_leaves n_names"]
    offsets: Float[np.ndarray, " n_leaves"]
    level: float
    bound: float

    @property
    def tail(self) -> Float[np.ndarray, " n_leaves"]:
        """``p / (1 - level)``: the most that each leaf can weigh in the mean."""
        return self.probability / (1.0 - self.level)

    @property
    def part_ids(self) -> tuple[str, ...]:
        """Id of each leaf's multiplier."""
        return tuple(f"{self.limit_id}{LEAF}{leaf}" for leaf in self.leaves)

    def used(self, weights: Float[np.ndarray, " n_names"]) -> float:
        """The expected shortfall of weights, fraction of NAV."""
        pnl = self.offsets - self.losses @ weights
        return float(expected_shortfall(pnl[None, :], self.probability, 1.0 - self.level)[0])

    def parts(self, weights: Float[np.ndarray, " n_names"]) -> dict[str, float]:
        """Each leaf's share of the mean over the worst: the worst leaves first, each as far as it goes."""
        order = np.argsort(-(self.losses @ weights - self.offsets), kind="stable")
        before = np.append(0.0, np.cumsum(self.tail[order])[:-1])
        shares = np.empty(len(order))
        shares[order] = np.clip(1.0 - before, 0.0, self.tail[order])
        return dict(zip(self.part_ids, shares.tolist(), strict=True))

    def pressure(
        self, weights: Float[np.ndarray, " n_names"], duals: Mapping[str, float]
    ) -> Float[np.ndarray, " n_names"]:
        """The multipliers times the slope of the limit: each leaf's losses at the leaf's own multiplier."""
        return np.array([duals.get(name, 0.0) for name in self.part_ids]) @ self.losses


@dataclass(frozen=True, slots=True)
class Margin:
    """``loss'x - offset + |R'(x - center)| <= bound``, ``R R' = kappa^2 (h / 252) D`` on the names.

    Args:
        limit_id: Of the mandate.
        loss: Loss of one unit of each name.
        offset: The benchmark's loss where the limit is active, else 0.
        center: The benchmark where the limit is active, else 0.
        own: Diagonal of ``R`` of the names with a specific return of their own.
        shared: ``(n_names, n_issuers)``: a column of ``R`` for each issuer with several lines.
        bound: Fraction of NAV.
    """

    limit_id: str
    loss: Float[np.ndarray, " n_names"]
    offset: float
    center: Float[np.ndarray, " n_names"]
    own: Float[np.ndarray, " n_names"]
    shared: Float[np.ndarray, "n_names n_issuers"]
    bound: float

    def used(self, weights: Float[np.ndarray, " n_names"]) -> float:
        """Loss and margin of weights, fraction of NAV."""
        return float(self.loss @ weights) - self.offset + self.margin(weights)

    def pressure(
        self, weights: Float[np.ndarray, " n_names"], duals: Mapping[str, float]
    ) -> Float[np.ndarray, " n_names"]:
        """The multiplier times the slope of the limit, ``loss + R R'(x - center) / |R'(x - center)|``."""
        away, size = weights - self.center, self.margin(weights)
        slope = self.loss.copy()
        if size > 0.0:
            slope += (self.own**2 * away + self.shared @ (self.shared.T @ away)) / size
        return duals.get(self.limit_id, 0.0) * slope

    def away(self, weights: Float[np.ndarray, " n_names"]) -> Float[np.ndarray, " n_names"]:
        """``(x - center) / |R'(x - center)|``; 0 where there is no margin."""
        size = self.margin(weights)
        return (weights - self.center) / size if size > 0.0 else np.zeros(len(weights))

    def toward(self, dual: Float[np.ndarray, " n_names_and_issuers"]) -> Float[np.ndarray, " n_names"]:
        """``v`` with ``R'v`` the dual vector, in the order of ``own`` and ``shared``; 0 where ``R`` is."""
        n, squares = len(self.own), (self.shared**2).sum(axis=0)
        alone = np.divide(dual[:n], self.own, out=np.zeros(n), where=self.own > 0.0)
        return alone + self.shared @ np.divide(dual[n:], squares, out=np.zeros(len(squares)), where=squares > 0.0)

    def margin(self, weights: Float[np.ndarray, " n_names"]) -> float:
        """``|R'(x - center)|``, fraction of NAV."""
        away = weights - self.center
        return float(np.sqrt(((self.own * away) ** 2).sum() + ((self.shared.T @ away) ** 2).sum()))


def risk_direction(
    root: Float[np.ndarray, "n_names n_columns"],
    specific: Float[np.ndarray, " n_names"],
    dual: Float[np.ndarray, " n_columns_and_names"],
) -> Float[np.ndarray, " n_names"]:
    """``v`` whose ``(R'v, sqrt(d) v)`` is nearest to a dual vector: ``Sigma v = R u + sqrt(d) w``, by Woodbury.

    Args:
        root: ``R`` of the problem.
        specific: ``d``; zero on the lines that have a column, where a small number takes its place.
        dual: ``(u, w)``, no longer than 1.
    """
    k = root.shape[1]
    own = np.maximum(specific, LEAST_OWN * float((root**2).sum(axis=1).max(initial=0.0) + specific.max(initial=0.0)))
    if not own.min(initial=1.0) > 0.0:
        return np.zeros(len(own))
    pull = root @ dual[:k] + np.sqrt(specific) * dual[k:]
    over = root / own[:, None]
    return pull / own - over @ np.linalg.solve(np.eye(k) + root.T @ over, over.T @ pull)


def state_shortfalls(
    mandate: Mandate, trees: Mapping[str, Tree], benchmark: Float[np.ndarray, " n_names"] | None
) -> tuple[Shortfall, ...]:
    """The shortfall limits of a mandate, in the order of their ids.

    Args:
        mandate: Its limits.
        trees: By scenario, cut to the names of the book.
        benchmark: ``xb``; None where there is none.

    Raises:
        ModelError: a limit on a scenario without leaves, or an active one without a benchmark.

    References:
        MATH 5, Rockafellar and Uryasev (2000). Oracle: brute force over the leaves, tests/test_shortfall.py.
    """
    limits = []
    for limit in sorted(mandate.limits.shortfall, key=lambda limit: limit.limit_id):
        if limit.scenario not in trees:
            raise ModelError(
                f"mandate {mandate.id}: {limit.limit_id} limits the mean over leaves, and {limit.scenario} has none; "
                "name a scenario of kind tree"
            )
        tree = trees[limit.scenario]
        losses = -tree.totals
        limits.append(
            Shortfall(
                limit_id=limit.limit_id,
                leaves=tree.leaves,
                probability=tree.probability / tree.probability.sum(),
                losses=losses,
                offsets=losses @ _center(mandate, limit, benchmark, losses.shape[1]),
                level=limit.level,
                bound=limit.max_loss,
            )
        )
    return tuple(limits)


def state_margins(
    mandate: Mandate,
    shocks: Mapping[str, Float[np.ndarray, " n_names"]],
    horizons: Mapping[str, int],
    risk: tuple[Float[np.ndarray, " n_names"], Float[np.ndarray, "n_names n_issuers"]],
    benchmark: Float[np.ndarray, " n_names"] | None,
) -> tuple[Margin, ...]:
    """The stress budgets that count the specific risk over the scenario's horizon as loss, in the order of their ids.

    Args:
        mandate: Its limits.
        shocks: Total returns by scenario, on the names of the book.
        horizons: Trading days by scenario.
        risk: Specific variance a year, 0 on the lines of an issuer with several, and a column of
            standard deviations for each such issuer.
        benchmark: ``xb``; None where there is none.

    Raises:
        ModelError: a budget on a scenario without a horizon, or an active one without a benchmark.

    References:
        MATH 5. Oracle: the dense formula, tests/test_robust.py.
    """
    variance, columns = risk
    margins = []
    for budget in sorted(mandate.limits.stress, key=lambda budget: budget.limit_id):
        if budget.robust == 0.0:
            continue
        if budget.scenario not in horizons:
            raise ModelError(f"mandate {mandate.id}: {budget.limit_id} is robust, and its scenario has no horizon")
        scale = budget.robust * np.sqrt(horizons[budget.scenario] / TRADING_DAYS)
        loss = -shocks[budget.scenario]
        center = _center(mandate, budget, benchmark, len(loss))
        margins.append(
            Margin(
                limit_id=budget.limit_id,
                loss=loss,
                offset=float(loss @ center),
                center=center,
                own=scale * np.sqrt(variance),
                shared=scale * columns,
                bound=budget.max_loss,
            )
        )
    return tuple(margins)


def _center(
    mandate: Mandate, limit: StressBudget | ShortfallLimit, benchmark: Float[np.ndarray, " n_names"] | None, n: int
) -> Float[np.ndarray, " n_names"]:
    """What the loss is measured against: the benchmark, or nothing."""
    if limit.kind == "absolute":
        return np.zeros(n)
    if benchmark is None:
        raise ModelError(f"mandate {mandate.id}: {limit.limit_id} needs a benchmark, and the book has none")
    return benchmark
