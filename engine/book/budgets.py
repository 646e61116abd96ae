"""Stress budgets: what a mandate allows under a scenario, against what was measured."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from engine.book.margins import robust_margins
from engine.conventions import FEASIBILITY
from engine.intake import Notice
from engine.mandates.mandate import Mandate
from engine.risk.portfolios import Portfolios
from engine.stress.outcome import Outcome


def with_budgets(
    stress: pl.DataFrame,
    portfolios: Portfolios,
    outcomes: Sequence[Outcome],
    mandates: Mapping[str, Mandate],
    benchmarks: Mapping[str, Mapping[str, float]],
) -> pl.DataFrame:
    """The table ``stress`` with budget, its kind, the loss that it limits, and whether it is breached.

    An absolute budget limits ``-r'w``, an active one ``-r'(w - wb)``, with the benchmark's weights
    ``wb`` (MATH 5); a robust one adds ``robust_margins``, so that the measured loss is what a
    rebalance keeps inside the budget. A portfolio with an active budget and no usable benchmark keeps the budget with
    no measured loss; ``unmeasured_budgets`` says so.

    Args:
        stress: ``pnl_frac`` by portfolio and scenario.
        portfolios: Books and parents with their mandates and benchmarks.
        outcomes: The scenarios of ``stress``.
        mandates: By id; a portfolio without one has no budget.
        benchmarks: Weights of the usable ones by benchmark and security.

    References:
        Oracle: the sum name by name from the files, tests/test_budgets.py.
    """
    rows = [
        (book, budget.scenario, budget.max_loss, budget.kind, benchmark)
        for book, mandate, benchmark in _mandated(portfolios, mandates)
        for budget in mandate.limits.stress
    ]
    schema = {
        "portfolio_id": pl.String,
        "scenario_id": pl.String,
        "budget": pl.Float64,
        "budget_kind": pl.String,
        "benchmark_id": pl.String,
    }
    budgets = pl.DataFrame(rows, schema=schema, orient="row")
    frame = stress.join(budgets, on=["portfolio_id", "scenario_id"], how="left", validate="m:1").join(
        _benchmark_returns(portfolios, outcomes, benchmarks),
        on=["benchmark_id", "scenario_id"],
        how="left",
        validate="m:1",
    )
    margins = robust_margins(portfolios, outcomes, mandates, benchmarks)
    frame = frame.join(margins, on=["portfolio_id", "scenario_id"], how="left", validate="m:1")
    loss = (
        pl.when(pl.col("budget_kind") == "absolute")
        .then(-pl.col("pnl_frac"))
        .when(pl.col("budget_kind") == "active")
        .then(pl.col("benchmark_return") - pl.col("pnl_frac"))
    )
    measured = loss + pl.col("margin").fill_null(0.0)
    return frame.with_columns(measured.alias("measured_loss")).with_columns(
        (pl.col("measured_loss") > pl.col("budget") + FEASIBILITY).fill_null(False).alias("breach")
    )


def unmeasured_budgets(
    portfolios: Portfolios, mandates: Mapping[str, Mandate], benchmarks: Mapping[str, Mapping[str, float]]
) -> tuple[Notice, ...]:
    """One quarantine for each portfolio whose active budgets have no usable benchmark to be active against."""
    notices = []
    for book, mandate, benchmark in _mandated(portfolios, mandates):
        active = [budget.scenario for budget in mandate.limits.stress if budget.kind == "active"]
        if active and book in portfolios.ids and benchmark not in benchmarks:
            found = "has none" if benchmark is None else f"has {benchmark!r}, which cannot be used"
            words = (
                f"mandate {mandate.id} budgets the active loss under {', '.join(sorted(active))}, and the book needs a "
                f"benchmark for that; it {found}: the budget is not measured"
            )
            notices.append(Notice("book.active_budget", "quarantine", words, "portfolios", book))
    return tuple(notices)


def _mandated(portfolios: Portfolios, mandates: Mapping[str, Mandate]) -> list[tuple[str, Mandate, str | None]]:
    """Every portfolio that has a mandate, with it and the id of its benchmark, in the order of the table."""
    terms = portfolios.table.select("portfolio_id", "mandate_id", "benchmark_id").iter_rows()
    return [(book, mandates[mandate], benchmark) for book, mandate, benchmark in terms if mandate in mandates]


def _benchmark_returns(
    portfolios: Portfolios, outcomes: Sequence[Outcome], benchmarks: Mapping[str, Mapping[str, float]]
) -> pl.DataFrame:
    """``r'wb`` of every usable benchmark under every scenario."""
    securities, funds = portfolios.model.securities, portfolios.funds
    weights = {name: np.array(list(held.values())) for name, held in benchmarks.items()}
    at = {name: securities.positions(list(held), name) for name, held in benchmarks.items()}
    moves = [(one.scenario.id, one.total if funds is None else funds @ one.total) for one in outcomes]
    rows = [
        (name, scenario, float(total[at[name]] @ weights[name]))
        for name in sorted(benchmarks)
        for scenario, total in moves
    ]
    schema = {"benchmark_id": pl.String, "scenario_id": pl.String, "benchmark_return": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")
