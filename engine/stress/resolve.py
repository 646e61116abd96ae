"""A scenario's views as rows on factors and securities: ``A f + C eps = v``."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from engine.conventions import MARKET, TRADING_DAYS
from engine.curve.tiers import Curve
from engine.errors import ConfigurationError
from engine.risk.model import RiskModel
from engine.scenarios.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Views:
    """What a scenario states, on a model's axes.

    Args:
        labels: One name a view, as messages print it.
        on_factors: ``A``, ``(n_views, n_factors)``.
        on_specifics: ``C``, ``(n_views, n_securities)``.
        values: ``v``, ``(n_views,)``, returns over the horizon.
        stated_factors: ``f0``, ``(n_factors,)``: the factor moves the views state by themselves.
        stated_specifics: ``e0``, ``(n_securities,)``: the specific moves they state.
        years: Horizon in years, ``h / 252``.
    """

    labels: tuple[str, ...]
    on_factors: Float[np.ndarray, "n_views n_factors"]
    on_specifics: Float[np.ndarray, "n_views n_securities"]
    values: Float[np.ndarray, " n_views"]
    stated_factors: Float[np.ndarray, " n_factors"]
    stated_specifics: Float[np.ndarray, " n_securities"]
    years: float


def resolve_views(scenario: Scenario, model: RiskModel, curve: Curve) -> Views:
    """Rows, values and the direct reading of a scenario's views.

    A factor view is ``e_k``; a tier's total is ``g_j + beta_j m``, its pure return ``g_j``; a
    security is ``B_i`` on the factors and 1 on its own specific return. Read directly
    (``propagation: none``), a tier's total moves its own pure factor by ``v - beta_j m``
    with the stated market or 0, and a security moves only its issuer's specific return by
    ``v - B_i f0``; what no view names stays at 0.

    Args:
        scenario: A valid scenario.
        model: Risk model; its axes are the columns.
        curve: Slopes of the tiers.

    Raises:
        ConfigurationError: the scenario names what the model does not know, or states one
            thing twice (a tier's total beside its pure factor, two lines of one issuer).
    """
    body = scenario.body
    faults = _unknown(scenario, model, curve) or _repeated(scenario, model)
    if faults:
        raise ConfigurationError([f"scenario {scenario.id}: {fault}" for fault in faults])
    n, k = model.exposures.shape
    rows, specific_rows = np.zeros((len(body.views), k)), np.zeros((len(body.views), n))
    market = model.factors.labels.index(MARKET)
    for row, view in enumerate(body.views):
        kind, name = view.subject
        if kind == "security":
            at = model.securities.labels.index(name)
            rows[row], specific_rows[row, at] = model.exposures[at], 1.0
        else:
            rows[row, model.factors.labels.index(name)] = 1.0
            if view.total is not None:
                rows[row, market] = curve.beta[curve.tiers.labels.index(name)]
    values = np.array([view.number for view in body.views])
    factors, specifics = _direct(scenario, model, rows, values)
    return Views(
        labels=tuple(" ".join(view.subject) for view in body.views),
        on_factors=rows,
        on_specifics=specific_rows,
        values=values,
        stated_factors=factors,
        stated_specifics=specifics,
        years=body.horizon_days / TRADING_DAYS,
    )


def _direct(
    scenario: Scenario,
    model: RiskModel,
    rows: Float[np.ndarray, "n_views n_factors"],
    values: Float[np.ndarray, " n_views"],
) -> tuple[Float[np.ndarray, " n_factors"], Float[np.ndarray, " n_securities"]]:
    market = model.factors.labels.index(MARKET)
    factors = np.zeros(len(model.factors))
    specifics = np.zeros(len(model.securities))
    subjects = [view.subject for view in scenario.body.views]
    for row, subject in enumerate(subjects):
        if subject == ("factor", MARKET):
            factors[market] = values[row]
    for row, (kind, name) in enumerate(subjects):
        if kind != "security" and name != MARKET:
            own = model.factors.labels.index(name)
            factors[own] = values[row] - rows[row, market] * factors[market]
    for row, (kind, name) in enumerate(subjects):
        if kind == "security":
            at = model.securities.labels.index(name)
            lines = model.issuers == model.issuers[at]
            specifics[lines] = values[row] - model.exposures[at] @ factors
    return factors, specifics


def _unknown(scenario: Scenario, model: RiskModel, curve: Curve) -> list[str]:
    axes = {"factor": model.factors, "tier": curve.tiers, "security": model.securities}
    subjects = [view.subject for view in scenario.body.views]
    return [f"the model has no {kind} {name!r}" for kind, name in subjects if name not in axes[kind]]


def _repeated(scenario: Scenario, model: RiskModel) -> list[str]:
    seen: dict[str | int, str] = {}
    faults = []
    for kind, name in (view.subject for view in scenario.body.views):
        thing = int(model.issuers[model.securities.labels.index(name)]) if kind == "security" else name
        if thing in seen:
            faults.append(f"'{seen[thing]}' and '{kind} {name}' state the same move; keep one")
        seen[thing] = f"{kind} {name}"
    return faults
