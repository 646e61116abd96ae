"""What a scenario of any kind does: one shock, days one after the other, or leaves with probabilities."""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float
from scipy.sparse import csr_array

from engine.conventions import MARKET
from engine.curve.tiers import Curve
from engine.errors import ConfigurationError
from engine.risk.history import FactorHistory
from engine.risk.model import RiskModel
from engine.scenarios.kinds import PathBody, ReplayBody, ReplayDay, ShockBody, TreeBody
from engine.scenarios.scenario import Scenario
from engine.scenarios.views import View
from engine.stress.propagation import Shock, propagate
from engine.stress.replay import ObservedDay


@dataclass(frozen=True, slots=True)
class Layer:
    """One shock, and how much of it reaches each security.

    Args:
        shock: Factor and specific moves.
        scale: ``(n_securities,)``: what one unit held at the start has become when the shock
            begins, times the probability that it comes.
        open: ``(n_securities,)``: the same where the return is not known, 0 where it is.
    """

    shock: Shock
    scale: Float[np.ndarray, " n_securities"]
    open: Float[np.ndarray, " n_securities"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The return of every security under a scenario, cut into parts, and what it leaves open.

    Args:
        scenario: The scenario.
        model: The model it was worked out on.
        layers: Shocks that add up to it, each scaled name by name.
        branches: Probability and outcome of each leaf of a tree.
    """

    scenario: Scenario
    model: RiskModel
    layers: tuple[Layer, ...]
    branches: tuple[tuple[float, "Outcome"], ...] = ()

    @classmethod
    def of(cls, shock: Shock) -> "Outcome":
        """The outcome that is one shock and nothing else."""
        one = np.ones(len(shock.model.securities))
        return cls(shock.scenario, shock.model, (Layer(shock, one, one),))

    @property
    def stated(self) -> Float[np.ndarray, " n_securities"]:
        """What the views say by themselves."""
        return self._sum([layer.scale * layer.shock.stated for layer in self.layers])

    @property
    def propagated(self) -> Float[np.ndarray, " n_securities"]:
        """What the factors add because they move together."""
        return self._sum([layer.scale * layer.shock.propagated for layer in self.layers])

    @property
    def specific(self) -> Float[np.ndarray, " n_securities"]:
        """What views on single names imply beyond the direct reading."""
        return self._sum([layer.scale * layer.shock.specific for layer in self.layers])

    @property
    def total(self) -> Float[np.ndarray, " n_securities"]:
        """The return of each security over the horizon, the sum of the three parts."""
        return self.stated + self.propagated + self.specific

    @property
    def factors(self) -> Float[np.ndarray, " n_factors"]:
        """Factor moves over the horizon: compounded along a path, the mean over a tree."""
        return self._moves(lambda shock: shock.factors)

    @property
    def stated_factors(self) -> Float[np.ndarray, " n_factors"]:
        """The factor moves that the views state by themselves, gathered the same way."""
        return self._moves(lambda shock: shock.views.stated_factors)

    @property
    def frame(self) -> pl.DataFrame:
        """The table ``shocks`` of this scenario."""
        return pl.DataFrame(
            {
                "scenario_id": [self.scenario.id] * len(self.model.securities),
                "security_id": self.model.securities.labels,
                "total": self.total,
                "stated": self.stated,
                "propagated": self.propagated,
                "specific": self.specific,
            }
        ).sort("scenario_id", "security_id")

    def open_variance(self, weights: csr_array) -> Float[np.ndarray, " n_rows"]:
        """Variance over the horizon of each row of weights that the scenario leaves open.

        Of a shock ``b'Cov[f]b + w'Cov[eps]w + 2 b'Cov[f,eps]w``, the parts scaled by the tails
        of factors and names; along a path the sum over its steps; over a tree that of the
        mixture, the leaves' own plus that of their means.

        Args:
            weights: ``(n_rows, n_securities)``, fraction of NAV; an identity gives each security's.
        """
        if self.branches:
            mean = weights @ self.total
            parts = [p * (b.open_variance(weights) + (weights @ b.total - mean) ** 2) for p, b in self.branches]
            return np.sum(parts, axis=0)
        return np.sum([_open_variance(layer.shock, scaled(weights, layer.open)) for layer in self.layers], axis=0)

    def _moves(self, of: Callable[[Shock], Float[np.ndarray, " n_factors"]]) -> Float[np.ndarray, " n_factors"]:
        if self.branches:
            return np.sum([p * branch._moves(of) for p, branch in self.branches], axis=0)
        moved = of(self.layers[0].shock)
        for layer in self.layers[1:]:
            moved = moved + (1.0 + moved) * of(layer.shock)
        return moved

    def _sum(self, parts: list[Float[np.ndarray, " n_securities"]]) -> Float[np.ndarray, " n_securities"]:
        total: Float[np.ndarray, " n_securities"] = np.sum(parts, axis=0)
        return total


def unfold(
    scenario: Scenario,
    model: RiskModel,
    curve: Curve,
    observed: Mapping[dt.date, ObservedDay] | None = None,
    history: FactorHistory | None = None,
) -> Outcome:
    """Work out a scenario of any kind.

    A ``shock`` and ``drivers`` are propagated; a ``replay`` reads each day directly, with the
    realised returns of the names where the day was observed; the steps of a ``path`` and the
    days of a replay compound name by name, ``r = sum_s r_s prod_(t<s) (1 + r_t)``; a ``tree`` is
    the mean of its leaves, which stay at hand as branches.

    Args:
        scenario: A valid scenario.
        model: Risk model.
        curve: Slopes of the tiers.
        observed: Days that a replay may read, from ``observe_days``.
        history: Past of the factors, for ``propagation: historical``.

    Raises:
        ConfigurationError: views that cannot be met, or a replay of a day that is neither
            carried inline nor observed.

    References:
        MATH.md 4. Oracle: the steps multiplied out, tests/test_outcome.py.
    """
    body = scenario.body
    match body:
        case TreeBody():
            branches = tuple(
                (leaf.probability, unfold(part, model, curve, observed, history))
                for leaf, part in zip(body.leaves, scenario.parts, strict=True)
            )
            layers = [
                Layer(layer.shock, p * layer.scale, p * layer.open) for p, branch in branches for layer in branch.layers
            ]
            return Outcome(scenario, model, tuple(layers), branches)
        case PathBody():
            steps = [unfold(part, model, curve, observed, history) for part in scenario.parts]
            return Outcome(scenario, model, _chain(steps))
        case ReplayBody():
            return Outcome(
                scenario, model, _chain([_replayed(scenario, day, model, curve, observed) for day in body.days])
            )
        case _:
            return Outcome.of(propagate(scenario, model, curve, history))


def _chain(steps: list[Outcome]) -> tuple[Layer, ...]:
    """The layers of steps one after the other: each begins with what the steps before have left."""
    layers: list[Layer] = []
    grown = np.ones(len(steps[0].model.securities))
    for step in steps:
        layers += [Layer(layer.shock, grown * layer.scale, grown * layer.open) for layer in step.layers]
        grown = grown * (1.0 + step.total)
    return tuple(layers)


def _replayed(
    scenario: Scenario,
    day: ReplayDay,
    model: RiskModel,
    curve: Curve,
    observed: Mapping[dt.date, ObservedDay] | None,
) -> Outcome:
    """One day: the market and the baskets read directly, and the names that were observed."""
    seen = (observed or {}).get(day.date)
    market = seen.market if day.market is None and seen is not None else day.market
    tiers = day.tiers or (seen.tiers if seen is not None else {})
    if market is None or not tiers:
        raise ConfigurationError(
            [
                f"scenario {scenario.id}: {day.date} carries no returns of the market and the tiers; "
                "write them, or give the prices of that day with --prices"
            ]
        )
    views = (
        View(factor=MARKET, value=market, source=day.source),
        *(View(tier=tier, total=value, source=day.source) for tier, value in sorted(tiers.items())),
    )
    text: dict[str, Any] = {
        **scenario.body.model_dump(include={"id", "title", "version", "narrative", "author"}),
        "kind": "shock",
        "horizon_days": 1,
        "propagation": "none",
        "views": views,
    }
    outcome = Outcome.of(propagate(Scenario(ShockBody.model_validate(text), scenario.sha256), model, curve))
    names = [name for name in (seen.names if seen is not None else {}) if name in model.securities]
    if seen is None or not names:
        return outcome
    layer = outcome.layers[0]
    at = model.securities.positions(names, "observed")
    known = np.zeros(len(model.securities), dtype=bool)
    known[at] = True
    realised = layer.shock.stated.copy()
    realised[at] = [seen.names[name] for name in names]
    own = realised - model.exposures @ layer.shock.factors
    views_with_names = replace(layer.shock.views, stated_specifics=own)
    shock = replace(layer.shock, views=views_with_names, specifics=own)
    return Outcome(scenario, model, (Layer(shock, layer.scale, np.where(known, 0.0, layer.open)),))


def scaled(weights: csr_array, scale: Float[np.ndarray, " n_securities"]) -> csr_array:
    """Weights with each security's column times a number."""
    return csr_array((weights.data * scale[weights.indices], weights.indices, weights.indptr), shape=weights.shape)


def _open_variance(shock: Shock, weights: csr_array) -> Float[np.ndarray, " n_rows"]:
    model, views = shock.model, shock.views
    b = weights @ model.exposures
    moved = weights @ (model.specific_times(views.on_specifics.T) * views.years)
    from_factors = np.einsum("pk,kl,pl->p", b, shock.open_factors, b)
    own = model.specific_variances(weights) * views.years
    from_specifics = own - np.einsum("pv,vw,pw->p", moved, shock.gain, moved)
    between = -np.einsum(
        "pv,vw,pw->p", b @ (model.factor_covariance * views.years) @ views.on_factors.T, shock.gain, moved
    )
    by_factor = model.tails.factor_scale(shock.distance_squared, shock.views_counted)
    by_name = model.tails.specific_scale(shock.distance_squared, shock.views_counted)
    variance = by_factor**2 * from_factors + by_name**2 * from_specifics + 2.0 * by_factor * by_name * between
    return np.maximum(variance, 0.0)
