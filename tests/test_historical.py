"""Historical propagation: the past of the factors, reweighted until it meets the views."""

import numpy as np
import pytest
import scipy.optimize

from engine.api.loading import LoadedUniverse
from engine.api.stressing import stress_portfolios
from engine.errors import ConfigurationError
from engine.intake import admit
from engine.risk.history import FactorHistory
from engine.scenarios.library import read_scenario
from engine.stress.outcome import unfold
from engine.stress.propagation import Shock, propagate

TEXT = """\
id: past
title: As the past has it
version: 1.0.0
kind: shock
horizon_days: {days}
narrative: Chips fall as they did before.
author: tests
propagation: {how}
{damping}views:
"""

CHIPS = "  - {tier: ai_semis, total: -0.03, source: tests}\n  - {factor: market, value: -0.01, source: tests}\n"


def text(views: str = CHIPS, *, days: int = 1, how: str = "historical", damping: float = 0.0) -> str:
    damped = f"damping: {damping}\n" if damping else ""
    return TEXT.format(days=days, how=how, damping=damped) + views


def shock(bundled: LoadedUniverse, said: str, history: FactorHistory | None) -> Shock:
    return propagate(read_scenario(said, "past.yaml", {}), bundled.model, bundled.curve, history)


def test_the_weights_are_those_of_a_search_over_the_dual(bundled: LoadedUniverse) -> None:
    """Exponential weights whose two multipliers a general root finder finds."""
    ours = shock(bundled, text(days=5), bundled.history)
    values = bundled.history.values
    sums = np.array([values[t : t + 5].sum(axis=0) for t in range(len(values) - 4)])
    sums = sums - sums.mean(axis=0)
    row, market = np.zeros(len(bundled.model.factors)), np.zeros(len(bundled.model.factors))
    row[bundled.model.factors.labels.index("ai_semis")] = market[0] = 1.0
    row[0] = bundled.curve.beta[bundled.curve.tiers.labels.index("ai_semis")]
    seen = sums @ np.array([row, market]).T

    def weights(multipliers: np.ndarray) -> np.ndarray:
        tilted = np.exp(seen @ multipliers)
        return tilted / tilted.sum()

    found = scipy.optimize.root(lambda m: (weights(m) @ seen - [-0.03, -0.01]) * 100.0, np.zeros(2), tol=1e-13)
    q = weights(found.x)
    np.testing.assert_allclose(ours.factors, q @ sums, rtol=0.0, atol=1e-9)
    np.testing.assert_allclose(ours.open_factors, np.cov(sums.T, aweights=q, ddof=0), rtol=0.0, atol=1e-9)


def test_the_views_are_met_and_names_follow_by_their_exposures(bundled: LoadedUniverse) -> None:
    ours = shock(bundled, text(), bundled.history)
    np.testing.assert_allclose(ours.views.on_factors @ ours.factors, ours.views.values, rtol=0.0, atol=1e-9)
    np.testing.assert_allclose(ours.total, bundled.model.exposures @ ours.factors, rtol=0.0, atol=1e-15)
    assert not ours.specifics.any()
    conditional = shock(bundled, text(how="conditional"), None)
    assert 0.001 < np.abs(ours.factors - conditional.factors).max() < 0.02


def test_views_that_say_what_the_past_says_change_nothing(bundled: LoadedUniverse) -> None:
    still = "  - {tier: ai_semis, total: 0.0, source: tests}\n"
    ours = shock(bundled, text(still), bundled.history)
    np.testing.assert_allclose(ours.factors, 0.0, rtol=0.0, atol=1e-12)
    np.testing.assert_allclose(ours.open_factors, np.cov(bundled.history.values.T, ddof=0), rtol=0.0, atol=1e-12)


def test_damping_walks_from_the_past_to_the_direct_reading(bundled: LoadedUniverse) -> None:
    whole, half = (shock(bundled, text(damping=d), bundled.history).factors for d in (0.0, 0.5))
    direct = shock(bundled, text(damping=1.0), bundled.history).factors
    np.testing.assert_allclose(direct, shock(bundled, text(how="none"), None).factors, rtol=0.0, atol=1e-15)
    np.testing.assert_allclose(half, (whole + direct) / 2.0, rtol=0.0, atol=1e-15)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (text("  - {tier: ai_semis, total: -0.3, source: x}\n"), "view tier ai_semis = -30.00%: outside what the"),
        (text("  - {tier: ai_semis, total: -0.08, source: x}\n"), "days in effect, at least 5% are needed"),
        (text("  - {security: NVDA, total: -0.01, source: x}\n"), "knows factors and tiers only; remove security NVDA"),
        (text(days=63), "needs 10 times 63 days of the past, there are 504; shorten the horizon"),
    ],
)
def test_what_the_past_cannot_say_is_refused_by_name(bundled: LoadedUniverse, said: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        shock(bundled, said, bundled.history)
    assert caught.value.faults[0].startswith("scenario past: propagation historical") and words in str(caught.value)


def test_without_a_past_it_is_refused(bundled: LoadedUniverse) -> None:
    with pytest.raises(ConfigurationError, match="needs the past of the model's factors, which is not at hand here"):
        shock(bundled, text(), None)


def test_books_are_stressed_under_it_with_every_model(bundled: LoadedUniverse) -> None:
    result = stress_portfolios(bundled, texts={"past.yaml": text(days=5)})
    assert result.refused == ()
    row = result.tables["scenario_summary"].row(0, named=True)
    assert row["propagation"] == "historical" and row["distance"] > 0.0
    admit(result.tables["scenario_summary"], "scenario_summary", "tests")
    assert not result.tables["stress_models"]["pnl_frac"].is_null().any()
    scenario = read_scenario(text(days=5), "past.yaml", {})
    total = unfold(scenario, bundled.model, bundled.curve, history=bundled.history).total
    shocks = dict(result.tables["shocks"].select("security_id", "total").iter_rows())
    assert max(abs(shocks[n] - v) for n, v in zip(bundled.model.securities.labels, total, strict=True)) < 1e-12
