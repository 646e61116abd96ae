"""Huber's weights: a loop agrees, own news no longer bends exposures, and off changes no bit."""

import numpy as np
import polars as pl
import pytest
from market import FACTORS, Market
from pydantic import ValidationError
from sklearn.linear_model import LinearRegression, Ridge

from engine.axes import Axis
from engine.curve.exposures import ExposurePanel, estimate_exposures, huber_trust, membership_prior
from engine.curve.factors import FactorPanel, build_factors, decay_weights
from engine.curve.returns import ReturnPanel, build_returns
from engine.curve.universe import CalibrationSettings, Universe, UniverseSettings, build_universe

STANDARD = 1.345


def estimate(
    prices: pl.DataFrame, market: Market, threshold: float | None
) -> tuple[ReturnPanel, FactorPanel, ExposurePanel, Universe]:
    """Panels of the planted market at a threshold."""
    settings = market.settings.model_dump()
    settings["calibration"] |= {"huber_threshold": threshold}
    universe = build_universe(UniverseSettings.model_validate(settings), market.securities, "securities")
    panel, _ = build_returns(prices, universe.securities, as_of=market.as_of, history_days=504)
    factors = build_factors(panel, universe)
    return panel, factors, estimate_exposures(panel, factors, universe), universe


def with_news(market: Market, seed: int) -> tuple[pl.DataFrame, list[str]]:
    """Prices in which names outside the baskets jump by 12 % on 3 % of the days, and those names."""
    random = np.random.default_rng(seed)
    names = [name for name in market.names if name.startswith(("REST-", "GRID-D", "CHIPS-D", "APPS-D"))]
    days = market.prices["date"].unique().sort()
    extra = []
    for name in names:
        jumps = np.where(random.random(len(days)) < 0.03, 0.12 * random.choice([-1.0, 1.0], len(days)), 0.0)
        growth = pl.DataFrame({"date": days, "growth": np.cumprod(1.0 + jumps)})
        extra.append(growth.with_columns(security_id=pl.lit(name)))
    grown = market.prices.join(pl.concat(extra), on=["security_id", "date"], how="left")
    close = (pl.col("close") * pl.col("growth").fill_null(1.0)).alias("close")
    return grown.with_columns(close).drop("growth"), names


def test_the_weights_are_those_of_a_loop_over_names() -> None:
    random = np.random.default_rng(1)
    residuals = random.standard_t(3, (120, 7)) * 0.02
    residuals[random.random((120, 7)) < 0.1] = np.nan
    residuals[:, 6] = 0.0
    weights = decay_weights(120, 30.0)
    ours = huber_trust(residuals, weights, STANDARD)
    for i in range(7):
        seen = ~np.isnan(residuals[:, i])
        size = np.abs(residuals[seen, i])
        deviation = np.sqrt(np.average(size**2, weights=weights[seen]))
        theirs = [min(1.0, STANDARD * deviation / e) if e > 0.0 else 1.0 for e in size]
        np.testing.assert_allclose(ours[seen, i], theirs, rtol=1e-12)
        assert (ours[~seen, i] == 1.0).all()
    assert 0.0 < ours.min() < 0.5 and (ours[:, :6] < 1.0).any(axis=0).all()


def test_exposures_are_ridge_weighted_by_decay_and_huber(market: Market) -> None:
    prices, names = with_news(market, 2)
    panel, factors, ours, universe = estimate(prices, market, STANDARD)
    first = estimate(prices, market, None)[2]
    decay = decay_weights(504, 252.0)
    tiers = Axis("tier", factors.factors.labels[1:])
    prior = membership_prior(panel.securities, universe.memberships, tiers, factors.beta)
    tau = np.sqrt(ours.prior_variance)
    for name in names:
        i = panel.securities.labels.index(name)
        y, x = panel.values[:, i], factors.values
        left = y - x @ first.values[i]
        left = left - decay @ left
        weight = decay * np.minimum(1.0, STANDARD * np.sqrt(decay @ left**2) / np.abs(left))
        weight = weight / weight.sum()
        bare = LinearRegression().fit(x, y, sample_weight=weight)
        effective = 1.0 / (weight**2).sum()
        noise = weight @ (y - bare.predict(x)) ** 2 / (effective - len(FACTORS) - 1.0)
        ridge = Ridge(alpha=noise).fit(x * tau, y - x @ prior[i], sample_weight=weight)
        np.testing.assert_allclose(ours.values[i], prior[i] + tau * ridge.coef_, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_exposures_under_own_news_are_nearer_to_the_truth(market: Market, seed: int) -> None:
    prices, names = with_news(market, seed)
    truth = market.exposures[[market.names.index(name) for name in names]]
    missed = []
    for threshold in (None, STANDARD):
        panel, _, exposures, _ = estimate(prices, market, threshold)
        at = [panel.securities.labels.index(name) for name in names]
        missed.append(((exposures.values[at] - truth) ** 2).mean())
    assert missed[1] < 0.9 * missed[0]


def test_off_is_the_plain_ridge_and_never_asks_for_weights(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    assert CalibrationSettings().huber_threshold is None
    far = estimate(market.prices, market, 100.0)[2]
    monkeypatch.delattr("engine.curve.exposures.huber_trust")
    off = estimate(market.prices, market, None)[2]
    with pytest.raises(NameError, match="huber_trust"):
        estimate(market.prices, market, 100.0)
    for field in ("values", "prior_share", "standard_error", "residuals", "prior_variance"):
        # Weights of 1 on another memory layout: sums differ in their last bits.
        np.testing.assert_allclose(getattr(far, field), getattr(off, field), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("threshold", [0.0, -1.0, 101.0])
def test_a_threshold_that_is_none_is_refused(threshold: float) -> None:
    with pytest.raises(ValidationError, match="huber_threshold"):
        CalibrationSettings(huber_threshold=threshold)
