"""Factor covariance and specific risk: options against oracles, laws and planted truth."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from market import Market

from engine.axes import Axis
from engine.curve.factors import decay_weights
from engine.curve.universe import CalibrationSettings, Universe
from engine.errors import CalibrationError, ModelError
from engine.risk.calibration import Calibration, calibrate, calibrate_panel
from engine.risk.covariance import (
    Adjustments,
    adjust_eigenfactors,
    decayed_covariance,
    estimate_factor_covariance,
    estimate_stress_covariance,
    one_step_variances,
    regime_multiplier,
    shrink_correlations,
)
from engine.risk.model import RiskModel
from engine.risk.specific import estimate_specific_variance, specific_regime
from engine.risk.tails import fit_tails

ALL = Adjustments(newey_west_lags=3, correlation_shrinkage=0.2, eigenfactor=True, regime_half_life=15.0)
HALF_LIVES = {"volatility_half_life": 20.0, "correlation_half_life": 60.0}

returns = arrays(np.float64, (40, 4), elements=st.floats(-0.2, 0.2, allow_subnormal=False)).filter(
    lambda values: (np.ptp(values, axis=0) > 1e-4).all()
)
options = st.builds(
    Adjustments,
    newey_west_lags=st.integers(0, 10),
    correlation_shrinkage=st.floats(0.0, 1.0),
    eigenfactor=st.booleans(),
    regime_half_life=st.one_of(st.none(), st.floats(2.0, 100.0)),
)


def draw(days: int = 300, seed: int = 1) -> np.ndarray:
    mix = np.array([[1.0, 0.0, 0.0], [0.5, 1.0, 0.0], [-0.3, 0.2, 0.7]]) * 0.01
    return np.random.default_rng(seed).standard_normal((days, 3)) @ mix.T


def test_equal_half_lives_without_options_are_the_weighted_covariance_of_numpy() -> None:
    values = draw()
    ours = estimate_factor_covariance(values, volatility_half_life=40.0, correlation_half_life=40.0)
    theirs = np.cov(values.T, aweights=decay_weights(len(values), 40.0), ddof=0) * 252
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("lags", [1, 2, 5])
def test_newey_west_is_its_sum_over_lags(lags: int) -> None:
    values, weights = draw(), decay_weights(300, 30.0)
    centred = values - weights @ values
    theirs = (centred * weights[:, None]).T @ centred
    for j in range(1, lags + 1):
        term = (np.sqrt(weights[j:] * weights[:-j])[:, None] * centred[j:]).T @ centred[:-j]
        theirs += (1.0 - j / (lags + 1.0)) * (term + term.T)
    np.testing.assert_allclose(decayed_covariance(values, 30.0, lags), theirs, rtol=1e-11, atol=1e-18)


def test_newey_west_with_the_plain_weight_of_the_day_can_lose_its_sign_and_ours_cannot() -> None:
    values = np.array([[-1.0], [3.0], [-2.0], [2.0], [-1.0], [1.0], [0.0]])
    weights = decay_weights(7, 1.0)
    centred = values - weights @ values
    plain = (weights @ centred**2 + weights[1:] @ (centred[1:] * centred[:-1]))[0]
    assert plain < 0.0
    assert decayed_covariance(values, 1.0, 1)[0, 0] > 0.0


def test_newey_west_recovers_the_long_run_variance_of_a_moving_average() -> None:
    noise = np.random.default_rng(2).standard_normal(20_001)
    values = (noise[1:] + 0.5 * noise[:-1])[:, None] * 0.01
    ours = decayed_covariance(values, 1e9, 20)[0, 0]
    assert ours == pytest.approx(1.5**2 * 1e-4, rel=0.07)
    assert decayed_covariance(values, 1e9)[0, 0] == pytest.approx(1.25e-4, rel=0.05)


@given(values=returns, adjustments=options)
def test_any_returns_and_options_give_a_symmetric_positive_semi_definite_covariance(
    values: np.ndarray, adjustments: Adjustments
) -> None:
    try:
        covariance = estimate_factor_covariance(values, **HALF_LIVES, adjustments=adjustments)
    except CalibrationError:
        assert adjustments.newey_west_lags
        return
    assert (covariance == covariance.T).all()
    assert np.linalg.eigvalsh(covariance).min() >= -1e-12 * np.abs(covariance).max()


@given(values=returns, scale=st.floats(0.01, 100.0))
def test_scaling_all_returns_scales_all_volatilities(values: np.ndarray, scale: float) -> None:
    options = replace(ALL, newey_west_lags=0)
    once = estimate_factor_covariance(values, **HALF_LIVES, adjustments=options)
    more = estimate_factor_covariance(values * scale, **HALF_LIVES, adjustments=options)
    np.testing.assert_allclose(more, once * scale**2, rtol=1e-6, atol=1e-9 * np.abs(more).max())


def test_doubling_all_returns_doubles_volatility_and_leaves_the_regime_as_it_is() -> None:
    values = draw()
    once = estimate_factor_covariance(values, **HALF_LIVES, adjustments=ALL)
    twice = estimate_factor_covariance(2.0 * values, **HALF_LIVES, adjustments=ALL)
    np.testing.assert_allclose(np.sqrt(np.diag(twice)), 2.0 * np.sqrt(np.diag(once)), rtol=1e-12)
    assert regime_multiplier(2.0 * values, 20.0, 10.0) == pytest.approx(regime_multiplier(values, 20.0, 10.0))


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 0, 2]])
def test_relabelling_factors_relabels_the_covariance(order: list[int]) -> None:
    values = draw()
    ours = estimate_factor_covariance(values[:, order], **HALF_LIVES, adjustments=ALL)
    theirs = estimate_factor_covariance(values, **HALF_LIVES, adjustments=ALL)[np.ix_(order, order)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    stress = estimate_stress_covariance(values[:, order], factor=order.index(0))
    np.testing.assert_allclose(stress, estimate_stress_covariance(values, factor=0)[np.ix_(order, order)], rtol=1e-12)


def test_the_forecast_of_a_day_is_the_decayed_variance_of_the_days_before_it() -> None:
    values = draw(80)
    forecast = one_step_variances(values, 15.0)
    assert not forecast[0].any()
    for t in (2, 40, 79):
        np.testing.assert_allclose(forecast[t], np.diag(decayed_covariance(values[:t], 15.0)), rtol=1e-10)


def test_the_regime_multiplier_is_one_in_a_steady_market_and_finds_a_planted_jump() -> None:
    steady = draw(4000, seed=3)
    assert regime_multiplier(steady, 250.0, 500.0) == pytest.approx(1.0, abs=0.03)
    wild = steady.copy()
    wild[-60:] *= 2.0
    found = regime_multiplier(wild, 1000.0, 15.0)
    assert 1.7 < found < 2.1
    forecast = estimate_factor_covariance(
        wild, volatility_half_life=1000.0, correlation_half_life=1000.0, adjustments=Adjustments(regime_half_life=15.0)
    )
    truth = np.cov(steady.T) * 252 * 4.0
    np.testing.assert_allclose(np.sqrt(np.diag(forecast)), np.sqrt(np.diag(truth)), rtol=0.15)


def test_the_regime_multiplier_is_its_formula() -> None:
    values, forecast = draw(200), np.zeros((200, 3))
    for t in range(100, 200):
        forecast[t] = np.diag(np.cov(values[:t].T, aweights=decay_weights(t, 20.0), ddof=0))
    sizes = (values[100:] ** 2 / forecast[100:]).mean(axis=1)
    assert regime_multiplier(values, 20.0, 8.0) == pytest.approx(np.sqrt(decay_weights(100, 8.0) @ sizes))


def test_shrinking_correlations_leaves_the_variances() -> None:
    covariance = np.cov(draw().T)
    half = shrink_correlations(covariance, 0.5)
    np.testing.assert_array_equal(np.diag(half), np.diag(covariance))
    assert half[0, 1] == pytest.approx(0.5 * covariance[0, 1])
    np.testing.assert_array_equal(shrink_correlations(covariance, 1.0), np.diag(np.diag(covariance)))


def test_the_eigenfactor_step_lifts_the_smallest_and_lowers_the_bias_of_minimum_risk_books() -> None:
    """The in-sample least risky book is riskier than its forecast; less so after the step."""
    random, truth = np.random.default_rng(5), np.diag(np.linspace(0.5, 2.0, 8) ** 2)
    raw, better = [], []
    for _ in range(60):
        sample = np.cov(random.multivariate_normal(np.zeros(8), truth, size=40).T, ddof=0)
        adjusted = adjust_eigenfactors(sample, effective_days=40.0)
        assert np.linalg.eigvalsh(adjusted)[0] > np.linalg.eigvalsh(sample)[0]
        for forecast, ratios in ((sample, raw), (adjusted, better)):
            book = np.linalg.solve(forecast, np.ones(8))
            ratios.append(np.sqrt(book @ truth @ book / (book @ forecast @ book)))
    assert np.mean(raw) > 1.15
    assert abs(np.mean(better) - 1.0) < 0.5 * abs(np.mean(raw) - 1.0)


def test_the_eigenfactor_step_hardly_moves_a_long_history_and_keeps_zero_variance() -> None:
    covariance = np.cov(draw().T)
    np.testing.assert_allclose(adjust_eigenfactors(covariance, effective_days=1e6), covariance, rtol=0.01, atol=1e-7)
    flat = np.zeros((3, 3))
    np.testing.assert_array_equal(adjust_eigenfactors(flat, effective_days=50.0), flat)
    singular = np.outer([1.0, 2.0], [1.0, 2.0])
    assert np.linalg.eigvalsh(adjust_eigenfactors(singular, effective_days=50.0))[0] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.array([[1.0, 2.0], [2.0, 1.0]]), "not positive semi-definite; it is refused, not clipped"),
        (np.array([[1.0, 0.5], [0.4, 1.0]]), "not finite and symmetric; it is refused, not repaired"),
        (np.array([[np.nan, 0.0], [0.0, 1.0]]), "not finite and symmetric; it is refused, not repaired"),
        (-np.eye(2), "not positive semi-definite; it is refused, not clipped"),
    ],
)
def test_what_is_no_covariance_is_refused(matrix: np.ndarray, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        adjust_eigenfactors(matrix, effective_days=100.0)


def test_returns_that_carry_no_covariance_are_refused() -> None:
    values = draw(50)
    values[3, 1] = np.nan
    with pytest.raises(CalibrationError, match="a number is not finite; factors have no gaps"):
        estimate_factor_covariance(values, **HALF_LIVES)
    with pytest.raises(CalibrationError, match="a number is not finite; factors have no gaps"):
        estimate_stress_covariance(values, factor=0)
    with pytest.raises(CalibrationError, match="columns 2 have no variance"):
        estimate_factor_covariance(draw(50) * [1.0, 1.0, 0.0], **HALF_LIVES)
    with pytest.raises(CalibrationError, match="4 of 40 days for 3 factors; at least 6: give a longer history"):
        estimate_stress_covariance(draw(40), factor=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"newey_west_lags": -1}, "newey_west_lags is -1; 0 or more"),
        ({"correlation_shrinkage": 1.5}, "correlation_shrinkage is 1.5; 0 to 1"),
        ({"regime_half_life": 0.0}, "regime_half_life is 0.0; above 0 days"),
    ],
)
def test_an_option_outside_its_range_is_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(CalibrationError, match=words):
        Adjustments(**change)


def test_the_stress_covariance_is_that_of_the_worst_days_about_the_mean_of_all() -> None:
    values = draw(200)
    worst = values[np.argsort(values[:, 1])[:20]] - values.mean(axis=0)
    ours = estimate_stress_covariance(values, factor=1)
    np.testing.assert_allclose(ours, 252 * worst.T @ worst / 20, rtol=1e-12)
    assert ours[1, 1] > 2.0 * 252 * values[:, 1].var()
    assert (ours == ours.T).all() and np.linalg.eigvalsh(ours)[0] >= 0.0


def test_the_stress_covariance_finds_a_correlation_that_only_bad_days_have() -> None:
    random = np.random.default_rng(6)
    values = random.standard_normal((2000, 2)) * 0.01
    bad = values[:, 0] < np.quantile(values[:, 0], 0.1)
    values[bad, 1] = 0.8 * values[bad, 0] + 0.002 * random.standard_normal(bad.sum())
    covariance = estimate_stress_covariance(values, factor=0)
    assert covariance[0, 1] / covariance[0, 0] == pytest.approx(0.8, abs=0.1)
    assert np.polyfit(values[:, 0], values[:, 1], 1)[0] < 0.5
    mixed = estimate_stress_covariance(values, factor=0, correlation_shrinkage=1.0)
    assert mixed[0, 1] == 0.0 and mixed[1, 1] == covariance[1, 1]


def test_the_specific_regime_is_one_in_a_steady_market_finds_a_jump_and_ignores_one_name() -> None:
    residuals = np.random.default_rng(7).standard_normal((600, 80)) * 0.01
    assert specific_regime(residuals, 60.0, 10.0) == pytest.approx(1.0, abs=0.04)
    one = residuals.copy()
    one[-1, 0] *= 100.0
    assert specific_regime(one, 60.0, 10.0) == pytest.approx(specific_regime(residuals, 60.0, 10.0), abs=0.01)
    residuals[-30:] *= 1.6
    assert 1.2 < specific_regime(residuals, 250.0, 10.0) < 1.6
    assert specific_regime(3.0 * residuals, 250.0, 10.0) == pytest.approx(specific_regime(residuals, 250.0, 10.0))
    assert specific_regime(np.full((10, 2), np.nan), 60.0, 10.0) == 1.0


def test_the_specific_regime_scales_every_variance_alike() -> None:
    residuals = np.random.default_rng(8).standard_normal((300, 12)) * 0.01
    names = tuple(f"S{i:02}" for i in range(12))
    none = pl.Series([None] * 12, dtype=pl.String)
    table = pl.DataFrame({"security_id": names, "kind": "stock", "market_cap_base": 1e9, "issuer_id": none})
    given_terms = {"securities": table, "axis": Axis("security", names), "half_life": 60.0, "minimum_days": 63}
    without, _ = estimate_specific_variance(residuals, **given_terms)
    scaled, _ = estimate_specific_variance(residuals, **given_terms, regime_half_life=10.0)
    np.testing.assert_allclose(scaled / without, specific_regime(residuals, 60.0, 10.0) ** 2, rtol=1e-12)


def with_settings(universe: Universe, **changes: object) -> Universe:
    calibration = CalibrationSettings.model_validate({**universe.settings.calibration.model_dump(), **changes})
    return replace(universe, settings=universe.settings.model_copy(update={"calibration": calibration}))


def test_each_setting_reaches_the_model(universe: Universe, calibration: Calibration) -> None:
    base = calibration.model

    def model_with(**change: object) -> RiskModel:
        return calibrate_panel(calibration.panel, with_settings(universe, **change), tails=base.tails).model

    for change in (
        {"newey_west_lags": 2},
        {"correlation_shrinkage": 0.5},
        {"eigenfactor": True},
        {"regime_half_life_days": 21.0},
        {"stress_factor": "chips"},
    ):
        model = model_with(**change)
        assert np.abs(model.factor_covariance / base.factor_covariance - 1.0).max() > 1e-3, change
        np.testing.assert_array_equal(model.specific_variance, base.specific_variance)
    model = model_with(specific_regime_half_life_days=10.0)
    np.testing.assert_array_equal(model.factor_covariance, base.factor_covariance)
    assert (model.specific_variance != base.specific_variance).all()


def test_the_tails_are_fitted_on_the_adjusted_covariance(calibration: Calibration) -> None:
    factors, residuals = calibration.factors.values[-200:], calibration.exposures.residuals[-200:]
    terms = {**HALF_LIVES, "specific_half_life": 60.0}
    plain = fit_tails(factors, residuals, **terms)
    shrunk = fit_tails(factors, residuals, **terms, adjustments=Adjustments(regime_half_life=10.0))
    assert shrunk.factor_multiplier != plain.factor_multiplier


def test_a_stress_factor_that_is_none_is_refused(market: Market, universe: Universe) -> None:
    with pytest.raises(CalibrationError, match="stress_factor 'chip' is no factor; allowed: market, chips, grid, apps"):
        calibrate(market.prices, with_settings(universe, stress_factor="chip"), as_of=market.as_of)
