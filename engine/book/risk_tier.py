"""The risk tier of every portfolio, A (calm) to E (act today), and the scenario that sets it."""

from collections.abc import Collection, Mapping
from typing import Final

import numpy as np
import polars as pl

from engine.conventions import FEASIBILITY
from engine.tables.columns import RISK_TIERS

EDGES: Final = (0.5, 0.8, 1.0, 1.25)
"""Largest use of a budget in tiers A, B, C and D (MATH 4)."""

HYSTERESIS: Final = 0.05
"""How far inside a better tier the use must be before a portfolio returns to it."""


def grade_portfolios(
    stress: pl.DataFrame, *, budgeted: Collection[str], default_loss_scale: float, previous: Mapping[str, str]
) -> pl.DataFrame:
    """The tier of every portfolio by the most that a scenario uses of its budget.

    ``u = max over budgeted scenarios of loss / budget``; a portfolio without a budget is held
    against ``default_loss_scale`` on its worst scenario. ``A <= 0.5 < B <= 0.8 < C <= 1 < D <= 1.25
    < E``: D and E are the breaches, to the tolerance of every limit. A portfolio is worse at once and
    better only when ``u`` lies 0.05 inside the better tier.

    Args:
        stress: Table ``stress`` of one stage. Only its scenarios count: a budget on one that was not
            run is not in ``u``.
        budgeted: Portfolios whose mandate has a stress budget. One of them that no budget could be
            measured for, or not all, has no tier: the default scale is not its mandate's.
        default_loss_scale: Loss at which a portfolio without a budget is said to use all of it.
        previous: Tier by portfolio in the run before; a portfolio that it lacks has no hysteresis.

    Returns:
        ``portfolio_id``, ``risk_tier``, ``risk_utilisation``, ``risk_scenario``, one row for each
        portfolio that has a tier.

    References:
        MATH.md 4. Oracle: the rule as a chain of ifs, tests/test_risk_tier.py.
    """
    has_mandate = pl.col("portfolio_id").is_in(sorted(budgeted))
    loss = pl.when(has_mandate).then("measured_loss").otherwise(-pl.col("pnl_frac"))
    scale = pl.when(has_mandate).then("budget").otherwise(default_loss_scale)
    counted = stress.filter(~has_mandate | pl.col("budget").is_not_null()).select(
        "portfolio_id", "scenario_id", (loss / scale).alias("use"), ((loss - FEASIBILITY) / scale).alias("strict")
    )
    unmeasured = counted.filter(pl.col("use").is_null())["portfolio_id"].unique().to_list()
    worst = (
        counted.filter(~pl.col("portfolio_id").is_in(sorted(unmeasured)))
        .sort("portfolio_id", "use", "scenario_id", descending=[False, True, False])
        .unique("portfolio_id", keep="first", maintain_order=True)
    )
    use = worst["strict"].to_numpy()
    now = np.searchsorted(EDGES, use)
    earned = np.searchsorted(np.array(EDGES) - HYSTERESIS, use)
    before = np.array(
        [RISK_TIERS.index(previous.get(name, RISK_TIERS[0])) for name in worst["portfolio_id"]], dtype=int
    )
    tier = np.maximum(now, np.minimum(before, earned))
    return worst.select(
        "portfolio_id",
        pl.Series("risk_tier", [RISK_TIERS[position] for position in tier], dtype=pl.String),
        pl.col("use").alias("risk_utilisation"),
        pl.col("scenario_id").alias("risk_scenario"),
    )
