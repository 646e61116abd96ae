"""Industry factors: planted ones are found, the curve's numbers stay, and rows may stand in any order."""

import numpy as np
import polars as pl
import pytest
from market import GAPPY, LINES, YOUNG, Market
from sklearn.linear_model import LinearRegression, Ridge

from engine.curve.exposures import ExposurePanel, estimate_exposures
from engine.curve.factors import FactorPanel, build_factors, decay_weights
from engine.curve.industries import add_industries, industry_ids
from engine.curve.returns import ReturnPanel, build_returns
from engine.curve.universe import Universe, UniverseSettings, build_universe
from engine.risk.calibration import Calibration, calibrate

MEMBERS = {"Energy & Oil": range(12), "Health Care": range(12, 24), "Tiny": range(24, 28)}
"""REST names by planted industry; the last is too small for a factor. Both lines of TWIN are in Health Care."""

IDS = ("industry:energy-oil", "industry:health-care")
PLANTED_VOLATILITY = 0.020


def exposure_of(number: int) -> float:
    """Planted exposure of REST-number to its industry: 0.6 to 1.4, about 1."""
    return 0.6 + 0.8 * (number % 12) / 11.0


def planted(market: Market) -> tuple[pl.DataFrame, np.ndarray]:
    """Prices in which each planted industry has a common move, and those moves."""
    moves = np.random.default_rng(12).normal(0.0, PLANTED_VOLATILITY, (506, len(MEMBERS)))
    days = market.prices["date"].unique().sort()
    extra = []
    for k, numbers in enumerate(MEMBERS.values()):
        names = {f"REST-{i:02}": exposure_of(i) for i in numbers}
        if k == 1:
            names |= dict.fromkeys(LINES, 1.0) | {GAPPY: 1.0}
        for name, exposure in names.items():
            growth = np.cumprod(1.0 + exposure * moves[: len(days), k])
            extra.append(pl.DataFrame({"date": days, "growth": growth}).with_columns(security_id=pl.lit(name)))
    grown = market.prices.join(pl.concat(extra), on=["security_id", "date"], how="left")
    close = (pl.col("close") * pl.col("growth").fill_null(1.0)).alias("close")
    return grown.with_columns(close).drop("growth"), moves[1 : len(days) - 1]


def with_industries(market: Market, **changes: object) -> Universe:
    """The planted universe with industries, which are read from ``gics_sector``."""
    industry = {f"REST-{i:02}": name for name, numbers in MEMBERS.items() for i in numbers}
    industry |= dict.fromkeys((*LINES, GAPPY, YOUNG), "Health Care")
    sector = pl.col("security_id").replace_strict(industry, default=None, return_dtype=pl.String)
    securities = market.securities.with_columns(sector.alias("gics_sector"))
    settings = market.settings.model_dump()
    settings["calibration"] |= {"industry_level": "gics_sector", **changes}
    return build_universe(UniverseSettings.model_validate(settings), securities, "securities")


def estimate(
    prices: pl.DataFrame, market: Market, universe: Universe
) -> tuple[ReturnPanel, FactorPanel, ExposurePanel, tuple[FactorPanel, ExposurePanel]]:
    """Returns, the curve's panels, and both with industries."""
    panel, _ = build_returns(prices, universe.securities, as_of=market.as_of, history_days=504)
    factors = build_factors(panel, universe)
    exposures = estimate_exposures(panel, factors, universe)
    return panel, factors, exposures, add_industries(panel, factors, exposures, universe)


@pytest.fixture(scope="module")
def prices(market: Market) -> pl.DataFrame:
    """Prices with planted industries."""
    return planted(market)[0]


@pytest.fixture(scope="module")
def with_factors(market: Market, prices: pl.DataFrame) -> Calibration:
    """Their model."""
    return calibrate(prices, with_industries(market), as_of=market.as_of)


def test_planted_industries_and_exposures_are_found(market: Market, with_factors: Calibration) -> None:
    moves = planted(market)[1]
    model = with_factors.model
    assert model.factors.labels[4:] == IDS
    curve = with_factors.factors.values[:, :4]
    for k, name in enumerate(IDS):
        # The market holds the industries too, so that a part of their moves is the market's.
        beyond = moves[:, k] - LinearRegression().fit(curve, moves[:, k]).predict(curve)
        found = with_factors.factors.values[:, model.factors.labels.index(name)]
        assert np.corrcoef(found, beyond)[0, 1] > 0.9
        volatility = np.sqrt(np.diag(model.factor_covariance))[4 + k]
        assert volatility == pytest.approx(beyond.std() * 252**0.5, rel=0.15)
    for i in (*MEMBERS["Energy & Oil"], *MEMBERS["Health Care"]):
        row = model.exposures[model.securities.labels.index(f"REST-{i:02}"), 4:]
        own, other = (0, 1) if i < 12 else (1, 0)
        assert row[own] == pytest.approx(exposure_of(i), abs=0.25) and row[other] == 0.0


def test_the_curve_is_the_same_to_the_bit_with_industries(market: Market, prices: pl.DataFrame) -> None:
    universe = with_industries(market)
    bare = with_industries(market, industry_level=None)
    with_them, without = (calibrate(prices, each, as_of=market.as_of) for each in (universe, bare))
    np.testing.assert_array_equal(with_them.model.exposures[:, :4], without.model.exposures)
    np.testing.assert_array_equal(with_them.factors.values[:, :4], without.factors.values)
    assert with_them.curve.frame.equals(without.curve.frame)


def test_without_the_setting_both_panels_pass_as_they_are(market: Market, prices: pl.DataFrame) -> None:
    _, factors, exposures, (same, untouched) = estimate(prices, market, with_industries(market, industry_level=None))
    assert same is factors and untouched is exposures
    assert industry_ids(with_industries(market, industry_level=None)) == ()


def test_exposures_to_an_industry_are_a_ridge_on_it_without_the_names_issuer(
    market: Market, prices: pl.DataFrame
) -> None:
    universe = with_industries(market)
    panel, curve, first, (wider, ours) = estimate(prices, market, universe)
    decay = decay_weights(504, 252.0)
    caps = dict(universe.securities.select("security_id", "market_cap_base").iter_rows())
    sectors = dict(universe.securities.select("security_id", "gics_sector").iter_rows())
    issuer = dict.fromkeys(LINES, "TWIN")
    fits, gaps = {}, []
    for column, sector in enumerate(("Energy & Oil", "Health Care"), start=4):
        inside = [i for i, s in enumerate(panel.securities.labels) if sectors[s] == sector]
        basket = [i for i in inside if caps[panel.securities.labels[i]] and ours.n_days[i] >= 63]
        everyone = net_mean(panel, curve, basket, caps, decay)
        np.testing.assert_allclose(wider.values[:, column], everyone, atol=1e-15)
        for i in inside:
            label = panel.securities.labels[i]
            others = [
                k
                for k in basket
                if issuer.get(panel.securities.labels[k], panel.securities.labels[k]) != issuer.get(label, label)
            ]
            x, y = net_mean(panel, curve, others, caps, decay)[:, None], first.residuals[:, i]
            seen = np.isfinite(y)
            if seen.sum() < 63:
                continue
            weight = decay[seen] / decay[seen].sum()
            fit = LinearRegression().fit(x[seen], y[seen], sample_weight=weight)
            left = y[seen] - fit.predict(x[seen])
            spread = weight @ (x[seen, 0] - weight @ x[seen, 0]) ** 2
            effective = 1.0 / (weight**2).sum()
            noise = weight @ left**2 / (effective - 6.0)
            fits[label, column] = (x[seen], y[seen], weight, noise)
            gaps.append((fit.coef_[0] - 1.0) ** 2 - noise / spread)
    tau = max(1e-6, float(np.mean(gaps)))
    np.testing.assert_allclose(ours.prior_variance[4:], tau, rtol=1e-9)
    for (label, column), (x, y, weight, noise) in fits.items():
        ridge = Ridge(alpha=noise / tau).fit(x, y - x[:, 0], sample_weight=weight)
        at = panel.securities.labels.index(label)
        assert ours.values[at, column] == pytest.approx(1.0 + ridge.coef_[0], rel=1e-8)


def net_mean(
    panel: ReturnPanel, curve: FactorPanel, members: list[int], caps: dict[str, float], decay: np.ndarray
) -> np.ndarray:
    """Root-cap mean return of some names, net of the curve's factors by a weighted regression."""
    weight = np.sqrt([caps[panel.securities.labels[i]] for i in members])
    masked = np.ma.masked_invalid(panel.values[:, members])
    mean = np.asarray(np.ma.average(masked, axis=1, weights=weight))
    slopes = LinearRegression().fit(curve.values, mean, sample_weight=decay).coef_
    return mean - curve.values @ slopes


def test_an_industry_that_is_too_small_has_no_factor(market: Market, prices: pl.DataFrame) -> None:
    assert industry_ids(with_industries(market)) == IDS
    _, _, _, (few, exposures) = estimate(prices, market, with_industries(market, industry_minimum_names=13))
    assert few.factors.labels[4:] == IDS[1:]
    at = [exposures.securities.labels.index(f"REST-{i:02}") for i in (*MEMBERS["Tiny"], *MEMBERS["Energy & Oil"])]
    assert not exposures.values[at, 4:].any()
    _, factors, _, (none, _) = estimate(prices, market, with_industries(market, industry_minimum_names=400))
    assert none is factors


def test_a_young_name_keeps_its_prior_and_two_lines_are_no_peers_of_each_other(
    market: Market, prices: pl.DataFrame
) -> None:
    universe = with_industries(market)
    _, _, _, (_, exposures) = estimate(prices, market, universe)
    at = exposures.securities.labels.index
    # YOUNG is declared to be all chips: nothing of it is off the curve.
    assert exposures.values[at(YOUNG), 5] == 0.0 and exposures.prior_share[at(YOUNG), 5] == 1.0
    np.testing.assert_allclose(exposures.values[at(LINES[0])], exposures.values[at(LINES[1])], atol=1e-12)
    # A wild issuer moves its other line, and must not find that line in its own basket.
    wild = np.cumprod(1.0 + np.random.default_rng(3).normal(0.0, 0.03, prices["date"].n_unique()))
    days = prices["date"].unique().sort()
    table = pl.DataFrame({"date": days, "wild": wild})
    alone = prices.join(table, on="date", how="left").with_columns(
        pl.when(pl.col("security_id").is_in(LINES)).then("wild").otherwise("close").alias("close")
    )
    _, _, _, (_, other) = estimate(alone.drop("wild"), market, universe)
    unshrunk = (other.values - other.prior_share)[at(LINES[0]), 5] / (1.0 - other.prior_share[at(LINES[0]), 5])
    assert abs(unshrunk) < 0.4


@pytest.mark.parametrize("scale", [1e-3, 7.0])
def test_row_order_and_units_of_caps_do_not_matter(market: Market, prices: pl.DataFrame, scale: float) -> None:
    universe = with_industries(market)
    _, _, _, (factors, exposures) = estimate(prices, market, universe)
    shuffled = universe.securities.sample(fraction=1.0, shuffle=True, seed=5)
    scaled = shuffled.with_columns(pl.col("market_cap_base") * scale)
    again = build_universe(universe.settings, scaled, "securities")
    mixed = prices.sample(fraction=1.0, shuffle=True, seed=6)
    _, _, _, (other, same) = estimate(mixed, market, again)
    np.testing.assert_allclose(other.values, factors.values, atol=1e-14)
    np.testing.assert_allclose(same.values, exposures.values, atol=1e-10)
    assert other.factors == factors.factors


def test_industries_make_the_risk_of_an_industry_book_right(
    market: Market, prices: pl.DataFrame, with_factors: Calibration
) -> None:
    bare = calibrate(prices, with_industries(market, industry_level=None), as_of=market.as_of)
    at = [bare.model.securities.labels.index(f"REST-{i:02}") for i in MEMBERS["Energy & Oil"]]
    realised = float((with_factors.panel.values[:, at].mean(axis=1)).std() * 252**0.5)

    def predicted(calibration: Calibration) -> float:
        b = calibration.model.exposures[at].mean(axis=0)
        specific = calibration.model.specific_variance[at].sum() / len(at) ** 2
        return float(np.sqrt(b @ calibration.model.factor_covariance @ b + specific))

    assert predicted(with_factors) == pytest.approx(realised, rel=0.06)
    assert predicted(bare) < 0.9 * realised
