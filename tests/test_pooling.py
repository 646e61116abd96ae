"""Entropy pooling: against the primal, laws, and the views it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from engine.curve.factors import decay_weights
from engine.errors import ConfigurationError
from engine.stress.pooling import MomentViews, pool_history

NAMES = ("market", "chips", "grid")


def history(days: int = 400, seed: int = 7) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = np.array([[1.0, 0.3, -0.2], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    return 0.01 * rng.standard_t(6, (days, 3)) @ shape


def views(rows: list[list[float]], values: list[float], upper: list[bool] | None = None) -> MomentViews:
    labels = tuple(f"v{number}" for number in range(len(values)))
    says = np.array(upper if upper is not None else [False] * len(values), dtype=bool)
    return MomentViews(labels, np.array(rows, dtype=float).reshape(len(values), 3), np.array(values, dtype=float), says)


def primal(days: np.ndarray, prior: np.ndarray, stated: MomentViews) -> np.ndarray:
    """The same question asked of another method in another form."""
    seen = 100.0 * (days @ stated.rows.T - stated.values)
    rules = [{"type": "eq", "fun": lambda q: q.sum() - 1.0, "jac": np.ones_like}]
    for column, upper in zip(seen.T, stated.upper, strict=True):
        sign, kind = (-1.0, "ineq") if upper else (1.0, "eq")
        move = sign * column
        rules.append({"type": kind, "fun": lambda q, move=move: q @ move, "jac": lambda _, move=move: move})
    found = minimize(
        lambda q: float((q * np.log(q / prior)).sum()),
        prior,
        jac=lambda q: np.log(q / prior) + 1.0,
        bounds=[(1e-9, 1.0)] * len(days),
        constraints=rules,
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    return found.x


@pytest.mark.parametrize(
    "stated",
    [
        views([[1, 0, 0]], [-0.004]),
        views([[1, 0, 0], [0, 1, 0]], [-0.003, -0.005]),
        views([[1, 0, 0], [0, 1, 0]], [-0.003, -0.005], [False, True]),
        views([[1, 0, 0], [0, 1, 0]], [-0.003, 0.5], [False, True]),
        views([[1.2, 1, 0], [0, 1, -1]], [-0.004, -0.001], [True, True]),
    ],
)
def test_pooled_weights_are_the_nearest_that_meet_the_views(stated: MomentViews):
    days, prior = history(40), decay_weights(40, 30.0)
    pooled = pool_history(days, prior, stated)
    other = primal(days, prior, stated)
    assert pooled.divergence == pytest.approx(float((other * np.log(other / prior)).sum()), rel=1e-5, abs=1e-7)
    np.testing.assert_allclose(pooled.weights, other, atol=2e-5)


@pytest.mark.parametrize("days", [60, 400])
def test_without_views_the_prior_comes_back(days: int):
    prior = decay_weights(days, 90.0)
    pooled = pool_history(history(days), prior, views([], []))
    np.testing.assert_allclose(pooled.weights, prior, rtol=1e-14)
    assert pooled.divergence == pytest.approx(0.0, abs=1e-14)
    assert pooled.effective_days == pytest.approx(1.0 / (prior**2).sum())


def test_a_view_that_history_already_holds_changes_nothing():
    days, prior = history(), decay_weights(400, 120.0)
    pooled = pool_history(days, prior, views(np.eye(3).tolist(), (prior @ days).tolist()))
    np.testing.assert_allclose(pooled.weights, prior, atol=1e-12)
    assert pooled.divergence == pytest.approx(0.0, abs=1e-12)


@given(st.lists(st.floats(-0.004, 0.004), min_size=3, max_size=3), st.integers(0, 50))
def test_views_hold_and_weights_are_a_distribution(values: list[float], seed: int):
    days, prior = history(seed=seed), np.full(400, 1.0 / 400)
    pooled = pool_history(days, prior, views(np.eye(3).tolist(), values))
    np.testing.assert_allclose(pooled.mean, values, atol=1e-11)
    assert pooled.weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert (pooled.weights > 0.0).all()
    assert pooled.divergence >= 0.0


def test_an_at_most_view_that_holds_already_does_not_bind_and_one_that_does_not_is_met():
    days, prior = history(), np.full(400, 1.0 / 400)
    loose = pool_history(days, prior, views([[1, 0, 0]], [0.01], [True]))
    np.testing.assert_allclose(loose.weights, prior, rtol=1e-12)
    tight = pool_history(days, prior, views([[1, 0, 0]], [-0.003], [True]))
    equal = pool_history(days, prior, views([[1, 0, 0]], [-0.003]))
    np.testing.assert_allclose(tight.weights, equal.weights, rtol=1e-9)


def test_repeated_views_say_it_once():
    days, prior = history(), np.full(400, 1.0 / 400)
    once = pool_history(days, prior, views([[1, 0, 0]], [-0.003]))
    twice = pool_history(days, prior, views([[1, 0, 0], [2, 0, 0]], [-0.003, -0.006]))
    np.testing.assert_allclose(once.weights, twice.weights, rtol=1e-8)


def test_days_without_prior_weight_get_none_and_are_not_seen():
    days, prior = history(), np.full(400, 1.0 / 399)
    worst = int(days[:, 0].argmin())
    prior[worst] = 0.0
    pooled = pool_history(days, prior, views([[1, 0, 0]], [-0.003]))
    assert pooled.weights[worst] == 0.0
    with pytest.raises(ConfigurationError, match="outside what the 399 days have seen"):
        pool_history(days, prior, views([[1, 0, 0]], [float(days[worst, 0])]))


def test_a_view_that_history_has_not_seen_is_refused_with_what_it_has():
    days = history()
    low, high = days[:, 0].min(), days[:, 0].max()
    with pytest.raises(ConfigurationError) as caught:
        pool_history(days, np.full(400, 1.0 / 400), views([[1, 0, 0]], [-0.9]))
    assert str(caught.value) == f"view v0 = -90.00%: outside what the 400 days have seen, {low:.2%} to {high:.2%}"


def test_views_that_no_weighting_meets_together_are_refused():
    days = history()
    values = [float(days[:, 0].min()) * 0.98, float(days[:, 1].max()) * 0.98]
    with pytest.raises(ConfigurationError, match="no weighting of the 400 days meets them together"):
        pool_history(days, np.full(400, 1.0 / 400), views([[1, 0, 0], [0, 1, 0]], values))


def test_views_that_lean_on_a_few_days_are_refused():
    days = history()
    with pytest.raises(ConfigurationError, match=r"they leave \d+\.\d of 400 days in effect, at least 5% are needed"):
        pool_history(days, np.full(400, 1.0 / 400), views([[1, 0, 0]], [float(days[:, 0].min()) * 0.9]))


@pytest.mark.parametrize("prior", [np.full(400, 1.0 / 300), np.append(np.full(399, 1.01 / 399), -0.01)])
def test_a_prior_that_is_no_distribution_is_refused(prior: np.ndarray):
    with pytest.raises(ConfigurationError, match="prior: weights must be at least 0 and sum to 1"):
        pool_history(history(), prior, views([[1, 0, 0]], [-0.001]))
