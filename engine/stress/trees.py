"""What a tree of scenarios says of a book: its leaves, their mean, and how bad it can get."""

from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Float

from engine.contracts import empty
from engine.conventions import FEASIBILITY
from engine.risk.portfolios import Portfolios
from engine.stress.outcome import Outcome

WORST_SHARE: Final = 0.10
"""Share of the probability over which the expected shortfall is the mean loss."""


def measure_trees(
    portfolios: Portfolios, outcomes: list[Outcome], budgets: pl.DataFrame, *, stage: str
) -> dict[str, pl.DataFrame]:
    """Losses of every book by leaf, and the figures of every tree.

    Mean and standard deviation are those of the leaves' P&L under their probabilities; the
    expected shortfall is the mean loss of the worst tenth of the probability, a leaf counting
    in part where it straddles that mark; a leaf breaks the budget when its loss is above it.

    Args:
        portfolios: Weights.
        outcomes: One a scenario; those without leaves are passed over.
        budgets: Columns ``portfolio_id``, ``scenario_id``, ``budget``, a row where there is one.
        stage: ``before`` or ``after``.

    Returns:
        ``stress_leaves`` and ``stress_trees``, without rows where no scenario is a tree.

    References:
        MATH.md 4. Oracle: sums by hand, tests/test_trees.py.
    """
    leaves, trees = [], []
    for outcome in (outcome for outcome in outcomes if outcome.branches):
        names = np.array([branch.scenario.id for _, branch in outcome.branches])
        probability = np.array([p for p, _ in outcome.branches])
        pnl = np.column_stack([portfolios.weights @ branch.total for _, branch in outcome.branches])
        n, m = pnl.shape
        keys = {"portfolio_id": portfolios.ids.labels, "stage": [stage] * n, "scenario_id": [outcome.scenario.id] * n}
        leaves.append(
            pl.DataFrame(
                {
                    **{name: np.repeat(np.array(values), m) for name, values in keys.items()},
                    "leaf_id": np.tile(names, n),
                    "probability": np.tile(probability, n),
                    "pnl_frac": pnl.ravel(),
                }
            )
        )
        mean = pnl @ probability
        worst = pnl.argmin(axis=1)
        frame = pl.DataFrame(
            {
                **keys,
                "mean": mean,
                "standard_deviation": np.sqrt((pnl - mean[:, None]) ** 2 @ probability),
                "expected_shortfall": expected_shortfall(pnl, probability, WORST_SHARE),
                "worst_leaf": names[worst],
                "worst_pnl": pnl[np.arange(n), worst],
            }
        )
        trees.append(_with_budgets(frame, leaves[-1], budgets))
    return {
        "stress_leaves": pl.concat(leaves) if leaves else empty("stress_leaves"),
        "stress_trees": pl.concat(trees) if trees else empty("stress_trees"),
    }


def expected_shortfall(
    pnl: Float[np.ndarray, "n_books n_leaves"], probability: Float[np.ndarray, " n_leaves"], share: float
) -> Float[np.ndarray, " n_books"]:
    """Mean loss over the worst ``share`` of the probability.

    Two leaves of -10 % and +5 % with 0.05 and 0.95: at a share of 0.1, half the mass is each, 2.5 %.
    """
    order = np.argsort(pnl, axis=1, kind="stable")
    sorted_pnl = np.take_along_axis(pnl, order, axis=1)
    reached = np.cumsum(probability[order], axis=1)
    counted = np.clip(np.minimum(reached, share) - np.minimum(reached - probability[order], share), 0.0, None)
    shortfall: Float[np.ndarray, " n_books"] = -(sorted_pnl * counted).sum(axis=1) / counted.sum(axis=1)
    return shortfall


def _with_budgets(trees: pl.DataFrame, leaves: pl.DataFrame, budgets: pl.DataFrame) -> pl.DataFrame:
    keys = ["portfolio_id", "scenario_id"]
    over = (
        leaves.join(budgets, on=keys, how="inner", validate="m:1")
        .group_by(keys)
        .agg(
            pl.col("probability")
            .filter(-pl.col("pnl_frac") > pl.col("budget") + FEASIBILITY)
            .sum()
            .alias("over_budget")
        )
    )
    return trees.join(over, on=keys, how="left", validate="m:1")
