"""The leaves of trees and the horizons of scenarios as tables, for the certificate."""

from collections.abc import Sequence

import polars as pl

from engine.risk.portfolios import Portfolios
from engine.stress.outcome import Outcome


def leaf_table(portfolios: Portfolios, outcomes: Sequence[Outcome]) -> pl.DataFrame:
    """``scenario_id leaf_id probability security_id total`` of every tree; a fund moves as what it holds, ``L r``.

    Args:
        portfolios: Whose model and funds the outcomes are on.
        outcomes: One a scenario; those without leaves have no row.
    """
    schema = {
        "scenario_id": pl.String,
        "leaf_id": pl.String,
        "probability": pl.Float64,
        "security_id": pl.String,
        "total": pl.Float64,
    }
    labels = list(portfolios.model.securities.labels)
    frames = [
        pl.DataFrame(
            {
                "scenario_id": [one.scenario.id] * len(labels),
                "leaf_id": [leaf.scenario.id] * len(labels),
                "probability": [probability] * len(labels),
                "security_id": labels,
                "total": leaf.total if portfolios.funds is None else portfolios.funds @ leaf.total,
            },
            schema=schema,
        )
        for one in outcomes
        for probability, leaf in one.branches
    ]
    return pl.concat(frames) if frames else pl.DataFrame(schema=schema)


def horizon_table(outcomes: Sequence[Outcome]) -> pl.DataFrame:
    """``scenario_id horizon_days`` of every scenario."""
    rows = [(one.scenario.id, one.scenario.body.horizon_days) for one in outcomes]
    return pl.DataFrame(rows, schema={"scenario_id": pl.String, "horizon_days": pl.Int64}, orient="row")
