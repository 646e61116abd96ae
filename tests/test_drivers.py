"""Drivers: the demand for compute and what it does to the tiers, against cases worked out by hand."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from engine.scenarios.drivers import Demand, Quantity, Transmission, implied_weight, respond, set_quantities

PUBLISHED = [(0.0, 0.557), (0.5, 0.661), (1.0, 1.00), (1.5, 2.10)]


def known(value: float) -> Quantity:
    return Quantity(value=value, source="tests")


def between(value: float, low: float, high: float) -> Quantity:
    return Quantity(value=value, low=low, high=high, source="tests")


def demand(**quantities: Any) -> Demand:
    """Training is 0.49 of demand and gains 10.5; inference is as it was."""
    base: dict[str, Any] = {
        "training_share": known(0.49),
        "training_gain": known(10.5),
        "inference_gain": known(1.0),
        "training_elasticity": known(0.0),
        "inference_elasticity": known(1.0),
    }
    return Demand(**{**base, **quantities})


def tier(theta: Any = 1.0, omega: Any = 1.0, relief: Any = 0.0) -> Transmission:
    parts = {"theta": theta, "omega": omega, "relief": relief}
    return Transmission(**{name: known(part) if isinstance(part, float) else part for name, part in parts.items()})


@pytest.mark.parametrize(("elasticity", "published"), PUBLISHED)
def test_the_published_cases_of_demand_are_reproduced(elasticity: float, published: float) -> None:
    told = set_quantities(demand(), {"e_T": elasticity})
    assert respond(told, {}).demand == pytest.approx(published, abs=5e-3)
    by_hand = 0.49 * 10.5 ** (elasticity - 1.0) + 0.51
    assert respond(told, {}).demand == pytest.approx(by_hand, rel=1e-14)


def test_an_observed_move_implies_the_published_weights() -> None:
    same = respond(demand(), {"chips": tier()}).tiers["chips"]
    jevons = respond(set_quantities(demand(), {"e_T": 1.5}), {"chips": tier()}).tiers["chips"]
    assert same == pytest.approx(-0.443, abs=5e-4)
    assert implied_weight(-0.17, same=same, alternative=0.0) == pytest.approx(0.38, abs=5e-3)
    assert implied_weight(-0.17, same=same, alternative=jevons) == pytest.approx(0.82, abs=5e-3)
    assert implied_weight(same, same=same, alternative=jevons) == 1.0
    with pytest.raises(ValueError, match="both readings predict the same move"):
        implied_weight(-0.1, same=same, alternative=same)


def test_a_tier_is_worth_what_the_formula_says() -> None:
    told = demand(inference_gain=known(2.0), inference_elasticity=known(1.3))
    shift = 0.49 / 10.5 + 0.51 * 2.0**0.3
    out = respond(told, {"chips": tier(0.5, 0.9, -0.1)})
    assert out.tiers["chips"] == pytest.approx(shift**0.45 * 2.0**-0.1 - 1.0, rel=1e-13)


def test_what_has_no_range_has_no_interval() -> None:
    out = respond(demand(), {"chips": tier(0.5, 0.9)})
    assert out.demand_range == pytest.approx((out.demand, out.demand), rel=1e-12)
    assert out.ranges["chips"] == pytest.approx((out.tiers["chips"], out.tiers["chips"]), rel=1e-12)


def test_the_interval_of_one_range_is_that_of_the_uniform_distribution() -> None:
    out = respond(demand(), {"chips": tier(between(0.5, 0.2, 0.8))}, draws=200_000)
    ends = [np.expm1((0.2 + 0.6 * share) * np.log(out.demand)) for share in (0.95, 0.05)]
    assert out.ranges["chips"] == pytest.approx(ends, abs=2e-3)


def test_intervals_contain_the_point_and_widen_with_the_ranges() -> None:
    narrow = respond(demand(training_elasticity=between(0.5, 0.4, 0.6)), {"chips": tier(0.5)})
    wide = respond(demand(training_elasticity=between(0.5, 0.0, 1.0)), {"chips": tier(0.5)})
    for out in (narrow, wide):
        low, high = out.ranges["chips"]
        assert low < out.tiers["chips"] < high
        assert out.demand_range[0] < out.demand < out.demand_range[1]
    assert wide.ranges["chips"][0] < narrow.ranges["chips"][0] < narrow.ranges["chips"][1] < wide.ranges["chips"][1]


def test_the_order_of_the_tiers_changes_nothing() -> None:
    told = demand(training_gain=between(10.5, 10.0, 11.0))
    tiers = {
        name: tier(between(0.5, 0.1, 0.9), relief=size) for name, size in zip("cab", (0.1, 0.0, -0.1), strict=True)
    }
    out, turned = respond(told, tiers), respond(told, dict(reversed(tiers.items())))
    assert out == turned


def test_demand_grows_with_either_elasticity_and_not_with_efficiency_alone() -> None:
    more = [respond(set_quantities(demand(), {"e_T": e}), {}).demand for e in (0.0, 0.3, 0.9, 1.2)]
    assert more == sorted(more)
    less = [respond(set_quantities(demand(), {"g_I": g, "e_I": 0.5}), {}).demand for g in (1.0, 2.0, 5.0)]
    assert less == sorted(less, reverse=True)
    assert respond(set_quantities(demand(), {"g_T": 3.0, "training_elasticity": 1.0}), {}).demand == 1.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"e_X": 1.0}, "unknown driver 'e_X'"),
        ({"training_gian": 1.0}, "did you mean 'training_gain'"),
        ({"s_T": 1.2}, "training_share is a share of demand, 0 to 1"),
        ({"g_I": 0.0}, "inference_gain is work per unit of compute, above 0"),
        ({"e_T": -0.1}, "training_elasticity is an elasticity of demand, 0 to 5"),
    ],
)
def test_a_driver_that_cannot_be_is_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        set_quantities(demand(), change)


def test_a_value_outside_its_range_is_refused() -> None:
    with pytest.raises(ValidationError, match="value 2 is not inside its range 0 to 1"):
        between(2.0, 0.0, 1.0)
    with pytest.raises(ValidationError, match="omega is a share of value, 0 to 1"):
        tier(omega=between(1.0, 0.5, 1.5))
