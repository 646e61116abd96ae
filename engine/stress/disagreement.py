"""The same scenarios under second models: how far a loss is a matter of opinion."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from engine.axes import Axis
from engine.contracts import empty
from engine.conventions import BASE_MODEL
from engine.curve.tiers import Curve
from engine.errors import ConfigurationError
from engine.risk.history import FactorHistory
from engine.risk.model import RiskModel
from engine.risk.portfolios import Portfolios
from engine.scenarios.scenario import Scenario
from engine.stress.outcome import Outcome, unfold
from engine.stress.replay import ObservedDay


@dataclass(frozen=True, slots=True)
class ModelMoves:
    """What every security does under every scenario and every model.

    Args:
        models: Names, the base first.
        scenarios: Ids.
        securities: Axis of the last dimension, that of the base model.
        values: ``(n_models, n_scenarios, n_securities)``, return over the horizon; NaN where a
            model cannot carry a scenario.
    """

    models: tuple[str, ...]
    scenarios: tuple[str, ...]
    securities: Axis
    values: Float[np.ndarray, "n_models n_scenarios n_securities"]

    def __post_init__(self) -> None:
        frozen = np.array(self.values)
        frozen.setflags(write=False)
        object.__setattr__(self, "values", frozen)


def apply_models(
    outcomes: Sequence[Outcome],
    alternatives: Mapping[str, RiskModel],
    curve: Curve,
    observed: Mapping[dt.date, ObservedDay],
    history: FactorHistory | None = None,
) -> ModelMoves:
    """Work every scenario out again under each alternative.

    Factors and the tiers' slopes stay the base's, so that a view on the market or on a
    tier's total states the same move in every model; exposures, factor covariance and
    specific variance differ. Names that only the base's extension knows keep its proxies.

    Args:
        outcomes: The scenarios under the base model, which may hold proxies.
        alternatives: Models by name, on the axes that the base had before its proxies.
        curve: Slopes of the tiers.
        observed: Days that replays may read.
        history: Past of the factors, for ``propagation: historical``.
    """
    base = outcomes[0].model
    rows = [[outcome.total for outcome in outcomes]]
    for model in alternatives.values():
        extended = _extended(model, base)
        rows.append([_total(outcome.scenario, extended, curve, observed, history) for outcome in outcomes])
    scenarios = tuple(outcome.scenario.id for outcome in outcomes)
    return ModelMoves((BASE_MODEL, *alternatives), scenarios, base.securities, np.array(rows))


def measure_models(portfolios: Portfolios, moves: ModelMoves | None, *, stage: str) -> pl.DataFrame:
    """P&L of every portfolio under every scenario and model, ``w'r`` with the model's own ``r``.

    Args:
        portfolios: Weights, on the securities of ``moves``.
        moves: Returns by model; None where there are no second models.
        stage: ``before`` or ``after``.

    Returns:
        Table ``stress_models``, sorted by key; without rows when ``moves`` is None.
    """
    if moves is None:
        return empty("stress_models")
    m, s, n = moves.values.shape
    pnl = portfolios.weights @ moves.values.reshape(m * s, n).T
    return pl.DataFrame(
        {
            "portfolio_id": np.repeat(np.array(portfolios.ids.labels, dtype=object), m * s).tolist(),
            "stage": [stage] * pnl.size,
            "scenario_id": list(moves.scenarios) * (len(portfolios.ids) * m),
            "model": [model for model in moves.models for _ in range(s)] * len(portfolios.ids),
            "pnl_frac": pl.Series(pnl.ravel(), nan_to_null=True),
        }
    ).sort("portfolio_id", "stage", "scenario_id", "model")


def _total(
    scenario: Scenario,
    model: RiskModel,
    curve: Curve,
    observed: Mapping[dt.date, ObservedDay],
    history: FactorHistory | None,
) -> Float[np.ndarray, " n_securities"]:
    try:
        return unfold(scenario, model, curve, observed, history).total
    except ConfigurationError:
        return np.full(len(model.securities), np.nan)


def _extended(model: RiskModel, base: RiskModel) -> RiskModel:
    """The model with the base's proxies, on the base's axis."""
    strangers = model.securities.missing(base.securities.labels)
    if not strangers:
        return model
    at = base.securities.positions(strangers, "proxies")
    return model.with_proxies(tuple(strangers), base.exposures[at])
