"""Books against their mandates: summary, exposures, losses, budgets and breaches."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from engine.contracts import CONTRACTS
from engine.conventions import FEASIBILITY
from engine.curve.position import book_positions
from engine.curve.tiers import Curve
from engine.mandates.mandate import Mandate
from engine.risk.attribution import measure_tails, risk_tables
from engine.risk.portfolios import Portfolios
from engine.stress.disagreement import ModelMoves, measure_models
from engine.stress.losses import measure_losses
from engine.stress.outcome import Outcome
from engine.stress.plausibility import with_loss_probabilities
from engine.stress.trees import measure_trees


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What portfolios are measured against.

    Args:
        curve: Memberships.
        mandates: By id; a portfolio without one has no budget.
        benchmarks: Weights by benchmark and security, for active exposures.
        band: Probability that a loss band holds.
        moves: The scenarios under the second models; None where there are none.
    """

    curve: Curve
    mandates: Mapping[str, Mandate]
    benchmarks: Mapping[str, Mapping[str, float]]
    band: float
    moves: ModelMoves | None


def assess(
    portfolios: Portfolios, outcomes: list[Outcome], yardstick: Yardstick, *, stage: str
) -> dict[str, pl.DataFrame]:
    """Measure every portfolio at one stage.

    Args:
        portfolios: Weights of books and parents.
        outcomes: One a scenario, on the portfolios' model.
        yardstick: Curve, mandates, benchmarks, band.
        stage: ``before`` or ``after``.

    Returns:
        ``portfolio_exposures``, ``stress`` with budget, measured loss, breach, probability and
        its range over the models, ``stress_models``, ``stress_tiers``, ``stress_factors``,
        ``stress_positions``, ``stress_leaves``, ``stress_trees``, ``risk_factors``,
        ``risk_tiers``, ``risk_positions``, columns as in their contracts.
    """
    tables = measure_losses(portfolios, outcomes, yardstick.curve, stage=stage, band=yardstick.band)
    tables["stress_models"] = measure_models(portfolios, yardstick.moves, stage=stage)
    budgets = _budgets(portfolios, yardstick.mandates)
    tables["stress"] = _with_models(_with_budgets(tables["stress"], budgets), tables["stress_models"])
    tables["stress"] = with_loss_probabilities(tables["stress"], portfolios, outcomes)
    tables |= measure_trees(portfolios, outcomes, budgets, stage=stage)
    active = active_weights(portfolios, yardstick.benchmarks)
    tables["portfolio_exposures"] = _exposures(portfolios, stage, active)
    tables |= risk_tables(portfolios, yardstick.curve, stage=stage, active=active)
    return {
        name: frame.select(list(CONTRACTS[name].columns)).sort(CONTRACTS[name].key) for name, frame in tables.items()
    }


def _budgets(portfolios: Portfolios, mandates: Mapping[str, Mandate]) -> pl.DataFrame:
    rows = [
        {"portfolio_id": book, "scenario_id": budget.scenario, "budget": budget.max_loss}
        for book, mandate_id in portfolios.table.select("portfolio_id", "mandate_id").iter_rows()
        if mandate_id in mandates
        for budget in mandates[mandate_id].limits.stress
    ]
    schema = {"portfolio_id": pl.String, "scenario_id": pl.String, "budget": pl.Float64}
    return pl.DataFrame(rows, schema=schema)


def _with_budgets(stress: pl.DataFrame, budgets: pl.DataFrame) -> pl.DataFrame:
    has = pl.col("budget").is_not_null()
    return stress.join(budgets, on=["portfolio_id", "scenario_id"], how="left", validate="m:1").with_columns(
        pl.when(has).then(pl.lit("absolute")).alias("budget_kind"),
        pl.when(has).then(-pl.col("pnl_frac")).alias("measured_loss"),
        (has & (-pl.col("pnl_frac") > pl.col("budget") + FEASIBILITY)).fill_null(False).alias("breach"),
    )


def _with_models(stress: pl.DataFrame, by_model: pl.DataFrame) -> pl.DataFrame:
    """Smallest and largest P&L over the models, and whether they differ on a breach; null without second models."""
    ranges = by_model.group_by("portfolio_id", "scenario_id").agg(
        pl.col("pnl_frac").min().alias("model_low"), pl.col("pnl_frac").max().alias("model_high")
    )
    allowed = pl.col("budget") + FEASIBILITY
    some, every = -pl.col("model_low") > allowed, -pl.col("model_high") > allowed
    return stress.join(ranges, on=["portfolio_id", "scenario_id"], how="left", validate="1:1").with_columns(
        (some & ~every).alias("models_disagree")
    )


def active_weights(portfolios: Portfolios, benchmarks: Mapping[str, Mapping[str, float]]) -> dict[str, np.ndarray]:
    """Weights less the benchmark's, on the model's axis, of every book that has a usable benchmark."""
    securities = portfolios.model.securities
    active = {}
    for book, name in portfolios.table.select("portfolio_id", "benchmark_id").iter_rows():
        if name in benchmarks and book in portfolios.ids:
            row = portfolios.weights[[portfolios.ids.labels.index(book)]].toarray()[0]
            names = list(benchmarks[name])
            row[securities.positions(names, name)] -= [benchmarks[name][security] for security in names]
            active[book] = row
    return active


def _exposures(portfolios: Portfolios, stage: str, active: Mapping[str, np.ndarray]) -> pl.DataFrame:
    model, b = portfolios.model, portfolios.exposures
    volatility = volatilities(portfolios)
    with np.errstate(invalid="ignore", divide="ignore"):
        contribution = b * (b @ model.factor_covariance) / volatility[:, None]
    n, k = b.shape
    return pl.DataFrame(
        {
            "portfolio_id": [label for label in portfolios.ids.labels for _ in range(k)],
            "stage": [stage] * (n * k),
            "factor": list(model.factors.labels) * n,
            "exposure": b.ravel(),
            "active_exposure": pl.Series(
                [
                    value
                    for book in portfolios.ids.labels
                    for value in ((active[book] @ model.exposures).tolist() if book in active else [None] * k)
                ],
                dtype=pl.Float64,
            ),
            "volatility_contribution": np.where(np.isfinite(contribution), contribution, 0.0).ravel(),
        }
    )


def volatilities(portfolios: Portfolios) -> np.ndarray:
    """``sqrt(b'Fb + w'Dw)`` of every portfolio, a year."""
    b = portfolios.exposures
    common = np.einsum("pk,kl,pl->p", b, portfolios.model.factor_covariance, b)
    return np.sqrt(np.maximum(common + portfolios.specific_variances(), 0.0))


def tracking_errors(portfolios: Portfolios, benchmarks: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """``sqrt(a' Sigma a)`` a year of every book with a usable benchmark, ``a`` the active weights."""
    model = portfolios.model
    errors = {}
    for book, active in active_weights(portfolios, benchmarks).items():
        exposure = active @ model.exposures
        specific = active @ model.specific_times(active[:, None])[:, 0]
        errors[book] = float(np.sqrt(max(exposure @ model.factor_covariance @ exposure + specific, 0.0)))
    return errors


def summarise(
    portfolios: Portfolios,
    curve: Curve,
    *,
    stage: str,
    status: Mapping[str, str],
    benchmarks: Mapping[str, Mapping[str, float]] | None = None,
    trading: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """The table ``portfolio_summary`` at one stage, one row for every portfolio of the table.

    Args:
        portfolios: Weights of books and parents.
        curve: Coordinates of the tiers, for the positions of the portfolios on the curve.
        stage: ``before`` or ``after``.
        status: Status by portfolio; what is measured and not named is ``stress_only``.
        benchmarks: Weights by benchmark and security, for tracking errors.
        trading: Columns ``portfolio_id``, ``turnover``, ``cost_base`` of what was traded.
    """
    volatility = volatilities(portfolios)
    specific = np.divide(
        portfolios.specific_variances(), volatility**2, out=np.zeros_like(volatility), where=volatility > 0.0
    )
    tiers = portfolios.model.factors.positions(curve.tiers.labels, "tiers")
    positions = book_positions(portfolios.exposures[:, tiers], curve.coordinates)
    tail = measure_tails(
        np.maximum(volatility**2 - portfolios.specific_variances(), 0.0),
        portfolios.specific_variances(),
        portfolios.model.tails,
    )
    measured = pl.DataFrame(
        {
            "portfolio_id": portfolios.ids.labels,
            "nav": portfolios.nav,
            "volatility": volatility,
            "specific_share": specific,
            "var_99": tail.var_99,
            "es_975": tail.es_975,
            "curve_position": pl.Series(positions, nan_to_null=True),
            "cash_weight": portfolios.cash,
        }
    )
    frame = portfolios.table.join(measured, on="portfolio_id", how="left", validate="1:1").with_columns(
        pl.lit(stage).alias("stage"), pl.coalesce("nav", "nav_base").alias("nav_base")
    )
    errors = tracking_errors(portfolios, benchmarks or {})
    names = frame["portfolio_id"].to_list()
    frame = frame.with_columns(pl.Series("tracking_error", [errors.get(name) for name in names], dtype=pl.Float64))
    if trading is not None:
        frame = frame.join(trading, on="portfolio_id", how="left", validate="1:1")
    states = [status.get(name, "stress_only" if name in portfolios.ids else "quarantined") for name in names]
    states = ["empty" if name in portfolios.empty else state for name, state in zip(names, states, strict=True)]
    frame = frame.with_columns(pl.Series("status", states))
    missing = [name for name in CONTRACTS["portfolio_summary"].columns if name not in frame.columns]
    dtypes = CONTRACTS["portfolio_summary"].columns
    frame = frame.with_columns(*[pl.lit(None, dtype=dtypes[name]).alias(name) for name in missing])
    return frame.select(list(dtypes)).sort("portfolio_id", "stage")
