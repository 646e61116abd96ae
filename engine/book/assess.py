"""Books against their mandates: summary, exposures, losses, budgets and breaches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import polars as pl

from engine.book.budgets import with_budgets
from engine.book.risk_tier import grade_portfolios
from engine.contracts import CONTRACTS, empty
from engine.conventions import FEASIBILITY
from engine.curve.position import book_positions, curve_contrasts, curve_sensitivities
from engine.curve.tiers import Curve
from engine.curve.universe import LiquiditySettings, StressSettings
from engine.mandates.mandate import Mandate
from engine.risk.attribution import measure_tails, risk_tables
from engine.risk.portfolios import Portfolios
from engine.stress.disagreement import ModelMoves, measure_models
from engine.stress.liquidity import Depth, exit_costs, exit_times
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
        depth: How deep the market of each name is, on the portfolios' model.
        settings: The universe's, for what leaving costs and the default loss scale.
        previous: Risk tier by portfolio in the run before, where there was one.
    """

    curve: Curve
    mandates: Mapping[str, Mandate]
    benchmarks: Mapping[str, Mapping[str, float]]
    band: float
    moves: ModelMoves | None
    depth: Depth
    settings: StressSettings
    previous: Mapping[str, str] = field(default_factory=dict)


def assess(
    portfolios: Portfolios, outcomes: list[Outcome], yardstick: Yardstick, *, stage: str
) -> dict[str, pl.DataFrame]:
    """Measure every portfolio at one stage.

    Args:
        portfolios: Weights of books and parents.
        outcomes: One a scenario, on the portfolios' model.
        yardstick: What they are measured against.
        stage: ``before`` or ``after``.

    Returns:
        ``portfolio_exposures``, ``portfolio_curve``, ``stress`` with liquidity, budget, measured
        loss, breach, probability and its range over the models, ``stress_models``,
        ``stress_tiers``, ``stress_factors``, ``stress_positions``, ``stress_leaves``,
        ``stress_trees``, ``risk_factors``, ``risk_tiers``, ``risk_positions``, columns as in
        their contracts.
    """
    tables = measure_losses(portfolios, outcomes, yardstick.curve, stage=stage, band=yardstick.band)
    stress = _with_liquidity(tables["stress"], portfolios, outcomes, yardstick)
    stress = with_budgets(stress, portfolios, outcomes, yardstick.mandates, yardstick.benchmarks)
    tables["stress_models"] = measure_models(portfolios, yardstick.moves, stage=stage)
    stress = _with_models(stress, tables["stress_models"])
    tables["stress"] = with_loss_probabilities(stress, portfolios, outcomes)
    tables |= measure_trees(portfolios, outcomes, _absolute_budgets(stress), stage=stage)
    active = active_weights(portfolios, yardstick.benchmarks)
    tables["portfolio_exposures"] = _exposures(portfolios, stage, active)
    tables["portfolio_curve"] = curve_table(portfolios, yardstick.curve, stage=stage)
    tables |= risk_tables(portfolios, yardstick.curve, stage=stage, active=active)
    return {
        name: frame.select(list(CONTRACTS[name].columns)).sort(CONTRACTS[name].key) for name, frame in tables.items()
    }


def _with_liquidity(
    stress: pl.DataFrame, portfolios: Portfolios, outcomes: list[Outcome], yardstick: Yardstick
) -> pl.DataFrame:
    """What leaving every book would cost under each scenario, beside what the scenario itself does."""
    books = portfolios.ids.labels
    frames = [
        pl.DataFrame(
            {
                "portfolio_id": books,
                "scenario_id": [outcome.scenario.id] * len(books),
                "liquidity": 0.0 - exit_costs(portfolios, yardstick.depth, _exit_terms(outcome, yardstick)),
            }
        )
        for outcome in outcomes
    ]
    return stress.join(pl.concat(frames), on=["portfolio_id", "scenario_id"], how="left", validate="1:1")


def _exit_terms(outcome: Outcome, yardstick: Yardstick) -> LiquiditySettings:
    """The universe's terms of leaving, with what the scenario says of spreads and volumes."""
    said = outcome.scenario.body.liquidity
    if said is None:
        return yardstick.settings.liquidity
    changes = {"spread_multiple": said.spread, "volume_multiple": said.volume}
    return yardstick.settings.liquidity.model_copy(update=changes)


def _absolute_budgets(stress: pl.DataFrame) -> pl.DataFrame:
    keys = ("portfolio_id", "scenario_id", "budget")
    return stress.filter(pl.col("budget_kind") == "absolute").select(keys)


def _with_models(stress: pl.DataFrame, by_model: pl.DataFrame) -> pl.DataFrame:
    """Smallest and largest P&L over the models, and whether they differ on a breach; null without second models."""
    ranges = by_model.group_by("portfolio_id", "scenario_id").agg(
        pl.col("pnl_frac").min().alias("model_low"), pl.col("pnl_frac").max().alias("model_high")
    )
    # What a robust budget counts as loss besides the P&L is the same under every model.
    margin = pl.col("measured_loss") + pl.col("pnl_frac")
    allowed = pl.col("budget") - margin + FEASIBILITY
    some, every = -pl.col("model_low") > allowed, -pl.col("model_high") > allowed
    return stress.join(ranges, on=["portfolio_id", "scenario_id"], how="left", validate="1:1").with_columns(
        # The second models' range is that of the whole loss; it says nothing of a loss against the benchmark.
        pl.when(pl.col("budget_kind") == "absolute").then(some & ~every).alias("models_disagree")
    )


def active_weights(portfolios: Portfolios, benchmarks: Mapping[str, Mapping[str, float]]) -> dict[str, np.ndarray]:
    """Weights less the benchmark's, funds seen through in both, of every book that has a usable benchmark."""
    securities = portfolios.model.securities
    active = {}
    for book, name in portfolios.table.select("portfolio_id", "benchmark_id").iter_rows():
        if name in benchmarks and book in portfolios.ids:
            row = portfolios.weights[[portfolios.ids.labels.index(book)]].toarray()[0]
            names = list(benchmarks[name])
            index = np.zeros(len(securities))
            index[securities.positions(names, name)] = [benchmarks[name][security] for security in names]
            active[book] = row - portfolios.seen_through(index)
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


def curve_table(portfolios: Portfolios, curve: Curve, *, stage: str) -> pl.DataFrame:
    """The table ``portfolio_curve``: ``P'e``, what a move of the whole curve does to each portfolio.

    With ``c`` the contrasts of the tiers' pure moves ``g``, the sensitivities times ``c`` are
    ``e'g``. No row where the tiers have no coordinates, or two coincide.

    Args:
        portfolios: Weights of books and parents.
        curve: Coordinates and core names of the tiers.
        stage: ``before`` or ``after``.
    """
    contrasts = curve_contrasts(curve.coordinates, curve.core_counts)
    if contrasts is None:
        return empty("portfolio_curve")
    tiers = portfolios.model.factors.positions(curve.tiers.labels, "tiers")
    n, k = len(portfolios.ids), len(contrasts.names)
    return pl.DataFrame(
        {
            "portfolio_id": [label for label in portfolios.ids.labels for _ in range(k)],
            "stage": [stage] * (n * k),
            "contrast": list(contrasts.names) * n,
            "sensitivity": curve_sensitivities(portfolios.exposures[:, tiers], contrasts).ravel(),
        }
    )


_PARTS: Final = ("total", "stated", "propagated", "specific")


def shock_table(portfolios: Portfolios, outcomes: Sequence[Outcome]) -> pl.DataFrame:
    """The table ``shocks``: a fund that is seen through moves as what it holds, ``L r``."""
    if portfolios.funds is None:
        return pl.concat([outcome.frame for outcome in outcomes]).sort("scenario_id", "security_id")
    securities = portfolios.model.securities
    frames = [
        pl.DataFrame(
            {
                "scenario_id": [outcome.scenario.id] * len(securities),
                "security_id": securities.labels,
                **{name: portfolios.funds @ getattr(outcome, name) for name in _PARTS},
            }
        )
        for outcome in outcomes
    ]
    return pl.concat(frames).sort("scenario_id", "security_id")


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
    yardstick: Yardstick,
    *,
    stage: str,
    stress: pl.DataFrame,
    status: Mapping[str, str],
    trading: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """The table ``portfolio_summary`` at one stage, one row for every portfolio of the table.

    Args:
        portfolios: Weights of books and parents.
        yardstick: Coordinates of the tiers, benchmarks for tracking errors, depth for the exit.
        stage: ``before`` or ``after``.
        stress: Table ``stress`` of that stage, for the risk tiers.
        status: Status by portfolio; what is measured and not named is ``stress_only``.
        trading: Columns ``portfolio_id``, ``turnover``, ``cost_base`` of what was traded.
    """
    volatility = volatilities(portfolios)
    specific = np.divide(
        portfolios.specific_variances(), volatility**2, out=np.zeros_like(volatility), where=volatility > 0.0
    )
    tiers = portfolios.model.factors.positions(yardstick.curve.tiers.labels, "tiers")
    positions = book_positions(portfolios.exposures[:, tiers], yardstick.curve.coordinates)
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
    measured = measured.join(
        exit_times(portfolios, yardstick.depth, yardstick.settings.liquidity.participation), on="portfolio_id"
    )
    frame = portfolios.table.join(measured, on="portfolio_id", how="left", validate="1:1").with_columns(
        pl.lit(stage).alias("stage"), pl.coalesce("nav", "nav_base").alias("nav_base")
    )
    budgeted = [
        book
        for book, mandate in portfolios.table.select("portfolio_id", "mandate_id").iter_rows()
        if mandate in yardstick.mandates and yardstick.mandates[mandate].limits.stress
    ]
    grades = grade_portfolios(
        stress,
        budgeted=budgeted,
        default_loss_scale=yardstick.settings.default_loss_scale,
        previous=yardstick.previous,
    )
    frame = frame.join(grades, on="portfolio_id", how="left", validate="1:1")
    errors = tracking_errors(portfolios, yardstick.benchmarks)
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
