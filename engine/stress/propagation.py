"""Views become the most likely move of every factor and security, and what stays open."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from engine.conventions import TRADING_DAYS
from engine.curve.tiers import Curve
from engine.errors import ConfigurationError
from engine.risk.history import FactorHistory
from engine.risk.model import RiskModel
from engine.scenarios.scenario import Scenario
from engine.stress.pooling import MomentViews, pool_history
from engine.stress.resolve import Views, resolve_views

ILL_CONDITIONED: Final = 1e8
"""Above this the views nearly repeat each other; a ridge is added and reported (MATH 4)."""

REPEATED: Final = 1e14
"""Above this one view is a combination of others to the last digit."""

TIED: Final = 1e-4
"""Share of the largest weight from which a view belongs to a flat direction."""

AGREE: Final = 1e-6
"""Views that follow from each other agree when they differ by less than this share."""

LEAST_STRETCHES: Final = 10
"""The past must hold the horizon this many times over before it may be reweighted."""


@dataclass(frozen=True, slots=True)
class Shock:
    """What a scenario does to factors and securities over its horizon.

    Args:
        scenario: The scenario.
        model: The model it was worked out on.
        views: Its views as rows.
        factors: ``(n_factors,)``, the factor moves applied.
        specifics: ``(n_securities,)``, the specific moves applied.
        open_factors: ``Cov[f]``, what the views leave open, over the horizon.
        gain: ``M^-1``, ``(n_views, n_views)``; with the rows it gives ``Cov[eps]`` and the
            cross term without an n x n matrix.
        distance_squared: ``D^2`` of what is applied.
        views_counted: Degrees of ``D^2``.
        condition: Condition number of the views' covariance.
    """

    scenario: Scenario
    model: RiskModel
    views: Views
    factors: Float[np.ndarray, " n_factors"]
    specifics: Float[np.ndarray, " n_securities"]
    open_factors: Float[np.ndarray, "n_factors n_factors"]
    gain: Float[np.ndarray, "n_views n_views"]
    distance_squared: float
    views_counted: int
    condition: float

    @property
    def stated(self) -> Float[np.ndarray, " n_securities"]:
        """``B f0 + e0``: what the views say by themselves."""
        direct: Float[np.ndarray, " n_securities"] = (
            self.model.exposures @ self.views.stated_factors + self.views.stated_specifics
        )
        return direct

    @property
    def propagated(self) -> Float[np.ndarray, " n_securities"]:
        """``B (f - f0)``: what the factors add because they move together."""
        added: Float[np.ndarray, " n_securities"] = self.model.exposures @ (self.factors - self.views.stated_factors)
        return added

    @property
    def specific(self) -> Float[np.ndarray, " n_securities"]:
        """``e - e0``: what the views on single names imply beyond the direct reading."""
        implied: Float[np.ndarray, " n_securities"] = self.specifics - self.views.stated_specifics
        return implied

    @property
    def total(self) -> Float[np.ndarray, " n_securities"]:
        """The return of each security, the sum of the three parts."""
        return self.stated + self.propagated + self.specific


def propagate(scenario: Scenario, model: RiskModel, curve: Curve, history: FactorHistory | None = None) -> Shock:
    """Apply a scenario: as stated, as the conditional mean given its views, or as the past has it.

    With ``F_h = (h / 252) F``, ``D_h`` likewise and ``M = A F_h A' + C D_h C'``:
    ``E[f] = F_h A' M^-1 v``, ``E[eps] = D_h C' M^-1 v``. ``damping`` moves from there
    towards the direct reading. What the views leave open is the conditional covariance in
    these cases. ``propagation: historical`` takes mean and covariance of the factors from the
    overlapping sums of their daily returns over the horizon, centred because the model has no
    drift, under the weights nearest to equal ones that meet the views; specific returns stay
    at 0 with the model's variance.

    Args:
        scenario: A valid scenario.
        model: Risk model.
        curve: Slopes of the tiers.
        history: Past of the factors, which ``historical`` needs.

    Raises:
        ConfigurationError: views the model does not know, that repeat or contradict each
            other, or that a model without that risk cannot meet; under ``historical`` views
            on single names, or ones that the past has not seen or meets on too few days.

    References:
        MATH.md 4. Oracles: the dense conditional Gaussian, tests/test_oracles.py; a search over
        the weights, tests/test_historical.py.
    """
    views = resolve_views(scenario, model, curve)
    a, c = views.on_factors, views.on_specifics
    factor_covariance = model.factor_covariance * views.years
    specific_gain = model.specific_times(c.T) * views.years
    m = a @ factor_covariance @ a.T + c @ specific_gain
    condition = float(np.linalg.cond(m))
    if not condition < REPEATED or (np.diag(m) <= 0.0).any():
        raise ConfigurationError([f"scenario {scenario.id}: {fault}" for fault in _degenerate(views, m)])
    if condition > ILL_CONDITIONED:
        m = m + np.eye(len(m)) * np.trace(m) / len(m) / ILL_CONDITIONED
    gain = np.linalg.inv(m)
    gain = (gain + gain.T) / 2.0
    factors, specifics = views.stated_factors, views.stated_specifics
    share = views.propagated
    left = factor_covariance - factor_covariance @ a.T @ gain @ a @ factor_covariance
    if views.historical:
        mean, left = _seen_by_the_past(views, scenario, model, history)
        factors = (1.0 - share) * factors + share * mean
    elif share > 0.0:
        factors = (1.0 - share) * factors + share * (factor_covariance @ a.T @ gain @ views.values)
        specifics = (1.0 - share) * specifics + share * (specific_gain @ gain @ views.values)
    stated_issuers = len({int(model.issuers[i]) for i in np.flatnonzero(specifics)})
    return Shock(
        scenario=scenario,
        model=model,
        views=views,
        factors=factors,
        specifics=specifics,
        open_factors=(left + left.T) / 2.0,
        gain=gain,
        distance_squared=_distance_squared(model, factors, specifics, views.years, scenario.id),
        views_counted=len(views.values)
        if share == 1.0 and not views.historical
        else len(model.factors) + stated_issuers,
        condition=condition,
    )


def _seen_by_the_past(
    views: Views, scenario: Scenario, model: RiskModel, history: FactorHistory | None
) -> tuple[Float[np.ndarray, " n_factors"], Float[np.ndarray, "n_factors n_factors"]]:
    """Mean and covariance of the factors over the horizon under the weights that meet the views."""
    where, horizon = f"scenario {scenario.id}: propagation historical", round(views.years * TRADING_DAYS)
    if history is None or history.factors != model.factors:
        raise ConfigurationError([f"{where} needs the past of the model's factors, which is not at hand here"])
    if named := [views.labels[row] for row in np.flatnonzero(views.on_specifics.any(axis=1))]:
        raise ConfigurationError([f"{where} knows factors and tiers only; remove {', '.join(named)}"])
    days = len(history.values)
    if days < LEAST_STRETCHES * horizon:
        raise ConfigurationError(
            [f"{where} needs {LEAST_STRETCHES} times {horizon} days of the past, there are {days}; shorten the horizon"]
        )
    reached = np.vstack([np.zeros(len(model.factors)), np.cumsum(history.values, axis=0)])
    moves = reached[horizon:] - reached[:-horizon]
    moves = moves - moves.mean(axis=0)
    told = MomentViews(views.labels, views.on_factors, views.values, np.zeros(len(views.values), dtype=bool))
    try:
        pooled = pool_history(moves, np.full(len(moves), 1.0 / len(moves)), told)
    except ConfigurationError as error:
        raise ConfigurationError([f"{where}: {fault}" for fault in error.faults]) from None
    apart = moves - pooled.mean
    return pooled.mean, (apart * pooled.weights[:, None]).T @ apart


def _degenerate(views: Views, m: Float[np.ndarray, "n_views n_views"]) -> list[str]:
    """Which views have no risk, or follow from others, and whether they agree with them."""
    scale = np.sqrt(np.diag(m))
    if still := [views.labels[row] for row in np.flatnonzero(~(scale > 0.0))]:
        return [f"{', '.join(still)}: no risk in the model, so no view can move it; remove the view"]
    levels, directions = np.linalg.eigh(m / np.outer(scale, scale))
    # In the flattest direction y'(A f + C eps) is always 0; the views it names decide each other.
    y = directions[:, 0]
    tied = [views.labels[row] for row in np.flatnonzero(np.abs(y) > TIED * np.abs(y).max())]
    agree = abs(float(y @ (views.values / scale))) <= AGREE * float(np.abs(y) @ np.abs(views.values / scale))
    words = "repeat each other; keep one less" if agree else "contradict each other; remove one"
    return [f"the views {', '.join(tied)} {words} (flattest direction {levels[0]:.1e})"]


def _distance_squared(
    model: RiskModel,
    factors: Float[np.ndarray, " n_factors"],
    specifics: Float[np.ndarray, " n_securities"],
    years: float,
    scenario_id: str,
) -> float:
    """``f' F_h^-1 f + sum over issuers of e^2 / d_h``."""
    covariance = model.factor_covariance * years
    solution = np.linalg.lstsq(covariance, factors, rcond=None)[0]
    missed = np.abs(covariance @ solution - factors).max(initial=0.0)
    _, first = np.unique(model.issuers, return_index=True)
    moved = first[specifics[first] != 0.0]
    variance = model.specific_variance[moved] * years
    if missed > 1e-8 or (variance <= 0.0).any():
        raise ConfigurationError([f"scenario {scenario_id}: it moves what has no risk in the model; drop that view"])
    return float(factors @ solution + (specifics[moved] ** 2 / variance).sum())
