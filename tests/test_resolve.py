"""Views on contrasts and baskets: what they state, what they leave, and what they cannot say together."""

from typing import Any

import numpy as np
import pytest

from engine.errors import ConfigurationError
from engine.risk.calibration import Calibration
from engine.scenarios.kinds import ShockBody
from engine.scenarios.scenario import Scenario
from engine.scenarios.views import View
from engine.stress.propagation import Shock, propagate

HEAD = {"id": "test", "title": "T", "version": "1.0.0", "kind": "shock", "horizon_days": 1, "narrative": "n"}


def shock(calibration: Calibration, views: list[dict[str, Any]], propagation: str = "none") -> Shock:
    stated = tuple(View(source="x", **view) for view in views)
    body = ShockBody(**HEAD, author="a", propagation=propagation, views=stated)
    return propagate(Scenario(body, "0" * 64), calibration.model, calibration.curve)


def pure(shock: Shock, tier: str) -> float:
    return float(shock.factors[shock.model.factors.labels.index(tier)])


def test_a_contrast_alone_is_split_evenly(calibration: Calibration) -> None:
    moved = shock(calibration, [{"contrast": "chips - apps", "pure": 0.06}])
    assert (pure(moved, "chips"), pure(moved, "apps"), pure(moved, "grid")) == pytest.approx((0.03, -0.03, 0.0))
    beta = dict(zip(calibration.curve.tiers.labels, calibration.curve.beta, strict=True))
    total = shock(calibration, [{"factor": "market", "value": -0.02}, {"contrast": "chips - apps", "total": 0.06}])
    left = 0.06 + 0.02 * (beta["chips"] - beta["apps"])
    assert (pure(total, "chips"), pure(total, "apps")) == pytest.approx((left / 2, -left / 2))


def test_a_contrast_moves_only_what_nothing_else_states(calibration: Calibration) -> None:
    moved = shock(calibration, [{"tier": "chips", "pure": -0.05}, {"contrast": "chips - apps", "pure": 0.06}])
    assert (pure(moved, "chips"), pure(moved, "apps")) == pytest.approx((-0.05, -0.11))


def test_the_order_of_contrasts_has_no_say(calibration: Calibration) -> None:
    views = [{"contrast": "chips - apps", "pure": 0.06}, {"contrast": "chips - grid", "pure": 0.02}]
    one, other = shock(calibration, views), shock(calibration, views[::-1])
    np.testing.assert_allclose(one.factors, other.factors, rtol=0.0, atol=1e-15)
    assert pure(one, "chips") - pure(one, "apps") == pytest.approx(0.06)
    assert pure(one, "chips") - pure(one, "grid") == pytest.approx(0.02)


def test_a_basket_is_met_by_the_mean_of_its_members(calibration: Calibration) -> None:
    basket = ("CHIPS-D0", "GRID-D1", "REST-03")
    moved = shock(
        calibration, [{"basket": basket, "total": -0.04}, {"factor": "market", "value": -0.01}], "conditional"
    )
    at = moved.model.securities.positions(basket, "test")
    assert moved.total[at].mean() == pytest.approx(-0.04, abs=1e-12)
    assert moved.factors[0] == pytest.approx(-0.01, abs=1e-12)


def test_a_contrast_is_met_under_propagation_and_nothing_is_added_the_second_time(calibration: Calibration) -> None:
    views = [{"contrast": "chips - apps", "total": -0.08}, {"security": "REST-02", "total": 0.03}]
    once = shock(calibration, views, "conditional")
    beta = dict(zip(calibration.curve.tiers.labels, calibration.curve.beta, strict=True))
    totals = {tier: pure(once, tier) + beta[tier] * once.factors[0] for tier in beta}
    assert totals["chips"] - totals["apps"] == pytest.approx(-0.08, abs=1e-12)
    implied = [{"tier": tier, "total": total} for tier, total in totals.items()]
    again = shock(
        calibration, [*implied, {"factor": "market", "value": float(once.factors[0])}, views[1]], "conditional"
    )
    np.testing.assert_allclose(again.total, once.total, rtol=0.0, atol=1e-10)
    assert again.distance_squared == pytest.approx(once.distance_squared, rel=1e-8)


@pytest.mark.parametrize(
    ("views", "propagation", "words"),
    [
        (
            [{"basket": ("CHIPS-D0", "GRID-D1"), "total": -0.04}],
            "none",
            "read directly, basket CHIPS-D0 + GRID-D1 cannot be met together with the other views",
        ),
        (
            [{"tier": "chips", "pure": 0.1}, {"tier": "apps", "pure": 0.1}, {"contrast": "chips - apps", "pure": 0.2}],
            "none",
            "read directly, contrast chips - apps cannot be met",
        ),
        (
            [{"tier": "chips", "pure": 0.1}, {"tier": "apps", "pure": 0.1}, {"contrast": "chips - apps", "pure": 0.2}],
            "conditional",
            "the views tier chips, tier apps, contrast chips - apps contradict each other; remove one",
        ),
        (
            [{"tier": "chips", "pure": 0.3}, {"tier": "apps", "pure": 0.1}, {"contrast": "chips - apps", "pure": 0.2}],
            "conditional",
            "the views tier chips, tier apps, contrast chips - apps repeat each other; keep one less",
        ),
    ],
)
def test_views_that_cannot_stand_together_are_named(
    calibration: Calibration, views: list[dict[str, Any]], propagation: str, words: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        shock(calibration, [*views, {"tier": "grid", "pure": -0.01}], propagation)
    assert words in str(caught.value)
    assert "grid" not in str(caught.value)


def test_a_view_that_was_a_combination_is_free_of_the_others(calibration: Calibration) -> None:
    """Two of the three views of a contradiction are enough, whichever they are."""
    chips, apps = {"tier": "chips", "pure": 0.3}, {"tier": "apps", "pure": 0.1}
    whole = shock(calibration, [chips, apps], "conditional")
    part = shock(calibration, [chips, {"contrast": "chips - apps", "pure": 0.2}], "conditional")
    np.testing.assert_allclose(part.total, whole.total, rtol=0.0, atol=1e-12)
    assert part.distance_squared == pytest.approx(whole.distance_squared, rel=1e-9)
