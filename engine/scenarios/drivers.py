"""Drivers: the economics of a scenario, as demand for compute, turned into what each tier is worth."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from jaxtyping import Float
from pydantic import Field, ValidationInfo, field_validator, model_validator

from engine.documents import Strict, suggestion

DRAWS: Final = 10_000
SEED: Final = 20250127
INTERVAL: Final = (0.05, 0.95)
"""Intervals hold 90 % of the draws from the ranges."""

SYMBOLS: Final = {
    "s_T": "training_share",
    "g_T": "training_gain",
    "g_I": "inference_gain",
    "e_T": "training_elasticity",
    "e_I": "inference_elasticity",
}
"""How MATH 4 writes the inputs; either name may be used on the command line."""


class Quantity(Strict):
    """A number with its range and where it comes from; without a range it is taken as known."""

    value: float
    low: float | None = None
    high: float | None = None
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _in_order(self) -> "Quantity":
        low, high = self.bounds
        if not low <= self.value <= high:
            raise ValueError(f"value {self.value:g} is not inside its range {low:g} to {high:g}")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value that is thought possible."""
        low = self.value if self.low is None else self.low
        return low, self.value if self.high is None else self.high


class Demand(Strict):
    """Demand for compute after a gain in efficiency, relative to before.

    ``D'/D = s_T g_T^(e_T - 1) + (1 - s_T) g_I^(e_I - 1)``: an elasticity of 0 is "same with
    less", 1 "more with the same", above 1 Jevons. With a training share of 0.49, a training
    gain of 10.5 and nothing new in inference: 0.557 at e_T = 0, 1 at 1, 2.10 at 1.5.
    """

    training_share: Quantity
    training_gain: Quantity
    inference_gain: Quantity
    training_elasticity: Quantity
    inference_elasticity: Quantity

    @field_validator("training_share")
    @classmethod
    def _is_a_share(cls, share: Quantity) -> Quantity:
        if share.bounds[0] < 0.0 or share.bounds[1] > 1.0:
            raise ValueError(f"training_share is a share of demand, 0 to 1; its range is {_range(share)}")
        return share

    @field_validator("training_gain", "inference_gain")
    @classmethod
    def _is_a_gain(cls, gain: Quantity, info: ValidationInfo) -> Quantity:
        if gain.bounds[0] <= 0.0 or gain.bounds[1] > 1e4:
            raise ValueError(f"{info.field_name} is work per unit of compute, above 0 to 10000; found {_range(gain)}")
        return gain

    @field_validator("training_elasticity", "inference_elasticity")
    @classmethod
    def _is_an_elasticity(cls, elasticity: Quantity, info: ValidationInfo) -> Quantity:
        if elasticity.bounds[0] < 0.0 or elasticity.bounds[1] > 5.0:
            raise ValueError(f"{info.field_name} is an elasticity of demand, 0 to 5; found {_range(elasticity)}")
        return elasticity


class Transmission(Strict):
    """How demand for compute reaches the value of a tier.

    ``d ln V = theta omega ln(D'/D) + relief ln g_I``; the return is ``exp(d ln V) - 1``. ``theta``
    is the change of value per change of demand, ``omega`` the share of value earned after
    what is sold out already, ``relief`` what cheaper inference is worth to those who buy it.
    """

    theta: Quantity
    omega: Quantity
    relief: Quantity

    @field_validator("omega")
    @classmethod
    def _is_a_share(cls, omega: Quantity) -> Quantity:
        if omega.bounds[0] < 0.0 or omega.bounds[1] > 1.0:
            raise ValueError(f"omega is a share of value, 0 to 1; its range is {_range(omega)}")
        return omega


Draws: TypeAlias = Mapping[str, Float[np.ndarray, " n_draws"]]


@dataclass(frozen=True, slots=True)
class DriverResponse:
    """What the drivers do.

    Args:
        demand: ``D'/D`` at the stated values.
        demand_range: The 5 % and 95 % points over the ranges.
        tiers: Total return of each tier at the stated values.
        ranges: The 5 % and 95 % points of each tier.
    """

    demand: float
    demand_range: tuple[float, float]
    tiers: Mapping[str, float]
    ranges: Mapping[str, tuple[float, float]]


def respond(demand: Demand, tiers: Mapping[str, Transmission], *, draws: int = DRAWS) -> DriverResponse:
    """Demand and tier returns at the stated values, with intervals from the ranges.

    Every quantity is drawn evenly and independently from its range, the demand once for all
    tiers. What has no range is not drawn.

    Args:
        demand: Inputs of the demand model.
        tiers: Transmission of each tier.
        draws: Number of draws; the seed is fixed.

    References:
        MATH.md 4, "Drivers"; the published cases are in tests/test_drivers.py.
    """
    rng = np.random.default_rng(SEED)
    names = list(SYMBOLS.values())
    point = {name: np.array([getattr(demand, name).value]) for name in names}
    sample = {name: _draw(rng, getattr(demand, name), draws) for name in names}
    shift, shifts = _demand(point), _demand(sample)
    moves, ranges = {}, {}
    for tier, transmission in sorted(tiers.items()):
        at = {name: np.array([getattr(transmission, name).value]) for name in ("theta", "omega", "relief")}
        drawn = {name: _draw(rng, getattr(transmission, name), draws) for name in ("theta", "omega", "relief")}
        moves[tier] = float(_value(at, shift, point["inference_gain"])[0])
        ranges[tier] = _interval(_value(drawn, shifts, sample["inference_gain"]))
    return DriverResponse(float(shift[0]), _interval(shifts), moves, ranges)


def implied_weight(observed: float, *, same: float, alternative: float) -> float:
    """Weight of "same with less" that an observed move implies, given what the alternative would do.

    ``(r_obs - r_alt) / (r_same - r_alt)``. A loss of 17 % where "same with less" costs 44.3 %
    reads 0.38 if the alternative is that nothing changes, 0.82 if it is Jevons at 1.5.

    Raises:
        ValueError: both readings predict the same move, so nothing tells them apart.
    """
    if abs(same - alternative) < 1e-12:
        raise ValueError("both readings predict the same move; the observed one cannot tell them apart")
    return (observed - alternative) / (same - alternative)


def set_quantities(demand: Demand, changes: Mapping[str, float]) -> Demand:
    """The demand with other values, each taken as known.

    Args:
        demand: Inputs of the demand model.
        changes: New value by name, ``training_elasticity`` or ``e_T``.

    Raises:
        ValueError: an unknown name, or a value that cannot be.
    """
    known = [*SYMBOLS.values(), *SYMBOLS]
    updated = demand.model_dump()
    for name, value in changes.items():
        if name not in known:
            raise ValueError(f"unknown driver {name!r}{suggestion(name, known)}")
        updated[SYMBOLS.get(name, name)] = {"value": value, "source": "what if"}
    return Demand.model_validate(updated)


def _demand(at: Draws) -> Float[np.ndarray, " n_draws"]:
    training = at["training_share"] * at["training_gain"] ** (at["training_elasticity"] - 1.0)
    inference = (1.0 - at["training_share"]) * at["inference_gain"] ** (at["inference_elasticity"] - 1.0)
    demand: Float[np.ndarray, " n_draws"] = training + inference
    return demand


def _value(
    at: Draws, demand: Float[np.ndarray, " n_draws"], gain: Float[np.ndarray, " n_draws"]
) -> Float[np.ndarray, " n_draws"]:
    worth: Float[np.ndarray, " n_draws"] = at["theta"] * at["omega"] * np.log(demand) + at["relief"] * np.log(gain)
    return np.expm1(worth)


def _draw(rng: np.random.Generator, quantity: Quantity, draws: int) -> Float[np.ndarray, " n_draws"]:
    low, high = quantity.bounds
    return low + (high - low) * rng.random(draws)  # drawn even for a point, so that others keep their draws


def _interval(values: Float[np.ndarray, " n_draws"]) -> tuple[float, float]:
    low, high = np.quantile(values, INTERVAL)
    return float(low), float(high)


def _range(quantity: Quantity) -> str:
    low, high = quantity.bounds
    return f"{low:g} to {high:g}"
