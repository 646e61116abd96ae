"""A scenario's views as rows on factors and securities: ``A f + C eps = v``."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from engine.conventions import MARKET, TRADING_DAYS
from engine.curve.tiers import Curve
from engine.errors import ConfigurationError
from engine.risk.model import RiskModel
from engine.scenarios.kinds import DriversBody, ShockBody
from engine.scenarios.scenario import Scenario
from engine.scenarios.views import View

MET: Final = 1e-12
"""A view read directly holds to rounding or is refused."""


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
        propagated: Share of the way from the direct reading to the mean given the views, 0 to 1.
        historical: Whether that mean is the reweighted past's instead of the model's.
    """

    labels: tuple[str, ...]
    on_factors: Float[np.ndarray, "n_views n_factors"]
    on_specifics: Float[np.ndarray, "n_views n_securities"]
    values: Float[np.ndarray, " n_views"]
    stated_factors: Float[np.ndarray, " n_factors"]
    stated_specifics: Float[np.ndarray, " n_securities"]
    years: float
    propagated: float
    historical: bool


def resolve_views(scenario: Scenario, model: RiskModel, curve: Curve) -> Views:
    """Rows, values and the direct reading of a scenario's views.

    A factor view is ``e_k``; a tier's total is ``g_j + beta_j m``, its pure return ``g_j``; a
    security is ``B_i`` on the factors and 1 on its own specific return, a basket the mean of
    its members' rows, a contrast the difference of two tiers' rows. Read directly
    (``propagation: none``), a tier's total moves its own pure factor by ``v - beta_j m``
    with the stated market or 0, a contrast moves the tiers that nothing else states, as
    little as it can (one alone is split evenly), and a security moves only its issuer's
    specific return by ``v - B_i f0``; what no view names stays at 0.

    Args:
        scenario: A valid scenario of a kind that states views: ``shock`` or ``drivers``.
        model: Risk model; its axes are the columns.
        curve: Slopes of the tiers.

    Raises:
        ConfigurationError: the scenario names what the model does not know, states one
            thing twice (a tier's total beside its pure factor, two lines of one issuer), or
            states directly what only propagation can meet.
    """
    body = _stating(scenario)
    faults = _unknown(body, model, curve) or _repeated(body, model)
    if faults:
        raise ConfigurationError([f"scenario {scenario.id}: {fault}" for fault in faults])
    n, k = model.exposures.shape
    rows, specific_rows = np.zeros((len(body.views), k)), np.zeros((len(body.views), n))
    for row, view in enumerate(body.views):
        rows[row], specific_rows[row] = _row(view, model, curve)
    values = np.array([view.number for view in body.views])
    factors, specifics = _direct(body, model, rows, values)
    if body.propagation == "none":
        missed = np.abs(rows @ factors + specific_rows @ specifics - values)
        if wrong := [" ".join(body.views[row].subject) for row in np.flatnonzero(~(missed <= MET))]:
            raise ConfigurationError(
                [
                    f"scenario {scenario.id}: read directly, {', '.join(wrong)} cannot be met together with the "
                    "other views; write propagation: conditional, or remove one"
                ]
            )
    return Views(
        labels=tuple(" ".join(view.subject) for view in body.views),
        on_factors=rows,
        on_specifics=specific_rows,
        values=values,
        stated_factors=factors,
        stated_specifics=specifics,
        years=body.horizon_days / TRADING_DAYS,
        propagated=0.0 if body.propagation == "none" else 1.0 - body.damping,
        historical=body.propagation == "historical",
    )


def _stating(scenario: Scenario) -> ShockBody | DriversBody:
    if isinstance(scenario.body, ShockBody | DriversBody):
        return scenario.body
    raise ConfigurationError(
        [f"scenario {scenario.id} is of kind {scenario.body.kind}, which states no views of its own; name a shock"]
    )


def _row(
    view: View, model: RiskModel, curve: Curve
) -> tuple[Float[np.ndarray, " n_factors"], Float[np.ndarray, " n_securities"]]:
    on_factors, on_specifics = np.zeros(len(model.factors)), np.zeros(len(model.securities))
    kind, name = view.subject
    market = model.factors.labels.index(MARKET)
    if kind in {"security", "basket"}:
        members = model.securities.positions(view.basket or (name,), "views")
        on_specifics[members] = 1.0 / len(members)
        return model.exposures[members].mean(axis=0), on_specifics
    signed = zip(view.sides, (1.0, -1.0), strict=True) if kind == "contrast" else [(name, 1.0)]
    for label, sign in signed:
        on_factors[model.factors.labels.index(label)] += sign
        if view.total is not None:
            on_factors[market] += sign * curve.beta[curve.tiers.labels.index(label)]
    return on_factors, on_specifics


def _direct(
    body: ShockBody | DriversBody,
    model: RiskModel,
    rows: Float[np.ndarray, "n_views n_factors"],
    values: Float[np.ndarray, " n_views"],
) -> tuple[Float[np.ndarray, " n_factors"], Float[np.ndarray, " n_securities"]]:
    market = model.factors.labels.index(MARKET)
    factors = np.zeros(len(model.factors))
    specifics = np.zeros(len(model.securities))
    subjects = [view.subject for view in body.views]
    for row, subject in enumerate(subjects):
        if subject == ("factor", MARKET):
            factors[market] = values[row]
    stated = {market}
    for row, (kind, name) in enumerate(subjects):
        if kind in {"factor", "tier"} and name != MARKET:
            own = model.factors.labels.index(name)
            factors[own] = values[row] - rows[row, market] * factors[market]
            stated.add(own)
    contrasts = [row for row, (kind, _) in enumerate(subjects) if kind == "contrast"]
    free = [k for k in range(len(factors)) if k not in stated]
    if contrasts and free:
        left = values[contrasts] - rows[contrasts] @ factors
        # The smallest moves that meet all contrasts at once: the order of the views has no say.
        factors[free] = np.linalg.lstsq(rows[np.ix_(contrasts, free)], left, rcond=None)[0]
    for row, (kind, name) in enumerate(subjects):
        if kind == "security":
            at = model.securities.labels.index(name)
            lines = model.issuers == model.issuers[at]
            specifics[lines] = values[row] - model.exposures[at] @ factors
    return factors, specifics


def _unknown(body: ShockBody | DriversBody, model: RiskModel, curve: Curve) -> list[str]:
    axes = {"factor": model.factors, "tier": curve.tiers, "security": model.securities}
    named: list[tuple[str, str]] = []
    for view in body.views:
        kind, name = view.subject
        named += [("tier", side) for side in view.sides] if kind == "contrast" else []
        named += [("security", member) for member in view.basket or ()]
        named += [(kind, name)] if kind in axes else []
    return [f"the model has no {kind} {name!r}" for kind, name in named if name not in axes[kind]]


def _repeated(body: ShockBody | DriversBody, model: RiskModel) -> list[str]:
    seen: dict[str | int, str] = {}
    faults = []
    for kind, name in (view.subject for view in body.views):
        thing = int(model.issuers[model.securities.labels.index(name)]) if kind == "security" else name
        if thing in seen:
            faults.append(f"'{seen[thing]}' and '{kind} {name}' state the same move; keep one")
        seen[thing] = f"{kind} {name}"
    return faults
