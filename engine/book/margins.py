"""Robust margins: how many standard deviations of specific return a budget counts as loss."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from scipy.sparse import csr_array

from engine.conventions import TRADING_DAYS
from engine.mandates.mandate import Mandate
from engine.risk.funds import traded_model
from engine.risk.portfolios import Portfolios
from engine.stress.outcome import Outcome

_SCHEMA = {"portfolio_id": pl.String, "scenario_id": pl.String, "margin": pl.Float64}


def robust_margins(
    portfolios: Portfolios,
    outcomes: Sequence[Outcome],
    mandates: Mapping[str, Mandate],
    benchmarks: Mapping[str, Mapping[str, float]],
) -> pl.DataFrame:
    """``kap sqrt(a'Da)`` of every robust budget that can be measured, fraction of NAV.

    ``D`` is the specific variance over the scenario's horizon, ``h / 252`` of a year's, and ``a`` the
    weights as they are traded, less the benchmark's where the budget is active. As in the program
    of a rebalance, a fund is one name with a specific return of its own.

    Args:
        portfolios: Books and parents with their mandates and benchmarks.
        outcomes: The scenarios that are measured; a budget on another has no row.
        mandates: By id.
        benchmarks: Weights of the usable ones; an active budget against another has no row.

    Returns:
        ``portfolio_id scenario_id margin``.

    References:
        MATH 5. Oracle: the sum issuer by issuer, tests/test_robust.py.
    """
    years = {one.scenario.id: one.scenario.body.horizon_days / TRADING_DAYS for one in outcomes}
    terms = portfolios.table.select("portfolio_id", "mandate_id", "benchmark_id").iter_rows()
    chosen = [
        (book, budget, benchmark if budget.kind == "active" else None)
        for book, mandate, benchmark in terms
        if mandate in mandates and book in portfolios.ids
        for budget in mandates[mandate].limits.stress
        if budget.robust > 0.0 and budget.scenario in years
        if budget.kind == "absolute" or benchmark in benchmarks
    ]
    if not chosen:
        return pl.DataFrame(schema=_SCHEMA)
    model, funds = portfolios.model, portfolios.funds
    if funds is not None:
        model = traded_model(model, funds)
    held = portfolios.traded[portfolios.ids.positions([book for book, _, _ in chosen], "mandates")]
    against = np.zeros((len(chosen), len(model.securities)))
    for row, (_, _, benchmark) in enumerate(chosen):
        if benchmark is not None:
            names = list(benchmarks[benchmark])
            against[row, model.securities.positions(names, benchmark)] = list(benchmarks[benchmark].values())
    horizons = np.array([years[budget.scenario] for _, budget, _ in chosen])
    deviations = np.sqrt(horizons * model.specific_variances(csr_array(held - csr_array(against))))
    return pl.DataFrame(
        {
            "portfolio_id": [book for book, _, _ in chosen],
            "scenario_id": [budget.scenario for _, budget, _ in chosen],
            "margin": np.array([budget.robust for _, budget, _ in chosen]) * deviations,
        },
        schema=_SCHEMA,
    )
