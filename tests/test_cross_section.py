"""Exposures from characteristics: the constrained regression against oracles, laws and planted truth."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from market import FACTORS, FUND, YOUNG, Market

from engine.axes import Axis
from engine.curve.cross_section import CrossSection, constrained_returns, estimate_cross_section
from engine.curve.factors import build_factors, decay_weights
from engine.curve.universe import Universe, build_universe
from engine.risk.calibration import Calibration, calibrate

NAMES, SECTORS = 60, 4


def case(seed: int, days: int = 5) -> dict[str, np.ndarray]:
    """Returns with gaps, a beta, a share and four sectors; weights and their cap-weighted constraint."""
    random = np.random.default_rng(seed)
    codes = np.arange(NAMES) % SECTORS
    sectors = np.eye(SECTORS)[codes]
    caps = random.uniform(1.0, 100.0, NAMES)
    shares = random.uniform(0.0, 1.0, NAMES) * (random.uniform(size=NAMES) < 0.4)
    returns = random.normal(0.0, 0.02, (days, NAMES))
    returns[random.uniform(size=returns.shape) < 0.1] = np.nan
    return {
        "returns": returns,
        "characteristics": np.column_stack([random.uniform(0.5, 1.5, NAMES), shares, sectors]),
        "weights": np.sqrt(caps),
        "constraint": np.concatenate([[0.0, 0.0], caps @ sectors]),
    }


def solve(numbers: dict[str, np.ndarray]) -> np.ndarray:
    return constrained_returns(
        numbers["returns"],
        numbers["characteristics"],
        weights=numbers["weights"],
        constraint=numbers["constraint"],
    )


@pytest.mark.parametrize("seed", range(5))
def test_every_day_solves_its_dense_karush_kuhn_tucker_system(seed: int) -> None:
    numbers = case(seed)
    c, v, a = numbers["characteristics"], numbers["weights"], numbers["constraint"]
    q = c.shape[1]
    found = solve(numbers)
    for day, answer in zip(numbers["returns"], found, strict=True):
        seen = np.isfinite(day)
        hessian = c[seen].T @ np.diag(v[seen]) @ c[seen]
        system = np.block([[hessian, a[:, None]], [a[None, :], np.zeros((1, 1))]])
        right = np.append(c[seen].T @ np.diag(v[seen]) @ day[seen], 0.0)
        np.testing.assert_allclose(answer, np.linalg.solve(system, right)[:q], rtol=1e-9, atol=1e-13)


@given(seed=st.integers(0, 10_000))
def test_the_constraint_holds_every_day(seed: int) -> None:
    numbers = case(seed)
    scale = np.abs(numbers["constraint"]).sum()
    np.testing.assert_allclose(solve(numbers) @ numbers["constraint"] / scale, 0.0, atol=1e-15)


@given(seed=st.integers(0, 10_000))
def test_the_order_of_securities_and_characteristics_changes_nothing(seed: int) -> None:
    numbers = case(seed)
    random = np.random.default_rng(seed)
    rows, columns = random.permutation(NAMES), random.permutation(2 + SECTORS)
    shuffled = {
        "returns": numbers["returns"][:, rows],
        "characteristics": numbers["characteristics"][rows][:, columns],
        "weights": numbers["weights"][rows],
        "constraint": numbers["constraint"][columns],
    }
    np.testing.assert_allclose(solve(shuffled), solve(numbers)[:, columns], rtol=1e-9, atol=1e-13)


@given(seed=st.integers(0, 10_000))
def test_planted_returns_of_characteristics_are_found_to_the_last_digits(seed: int) -> None:
    numbers = case(seed)
    truth = np.random.default_rng(seed + 1).normal(0.0, 0.01, (5, 2 + SECTORS))
    a = numbers["constraint"]
    truth -= np.outer(truth @ a, a) / (a @ a)
    gaps = np.isnan(numbers["returns"])
    numbers["returns"] = np.where(gaps, np.nan, truth @ numbers["characteristics"].T)
    np.testing.assert_allclose(solve(numbers), truth, atol=1e-12)


def test_characteristics_that_repeat_each_other_share_their_return() -> None:
    numbers = case(3)
    once = {**numbers, "constraint": np.zeros(2 + SECTORS)}
    twice = {
        **once,
        "characteristics": np.column_stack([once["characteristics"], once["characteristics"][:, 1]]),
        "constraint": np.zeros(3 + SECTORS),
    }
    single, double = solve(once), solve(twice)
    np.testing.assert_allclose(double[:, 1], double[:, -1], rtol=1e-6)
    np.testing.assert_allclose(double[:, 1] + double[:, -1], single[:, 1], rtol=1e-6)


def test_a_security_without_weight_has_no_say() -> None:
    numbers = case(4)
    numbers["weights"][0] = 0.0
    before = solve(numbers)
    numbers["returns"][:, 0] = 5.0
    np.testing.assert_array_equal(solve(numbers), before)


@pytest.fixture(scope="module")
def crossed(calibration: Calibration, universe: Universe) -> CrossSection:
    """The planted market's exposures from characteristics."""
    return estimate_cross_section(calibration.panel, calibration.factors, universe, calibration.exposures)


def test_planted_exposures_are_near_where_characteristics_tell_them(
    market: Market, calibration: Calibration, crossed: CrossSection
) -> None:
    """Core and declared names have a planted share; the sample moves their betas, as it does the base's."""
    truth = market.exposures[[market.names.index(name) for name in crossed.securities.labels]]
    told = [i for i, name in enumerate(crossed.securities.labels) if name.split("-")[0].lower() in FACTORS]
    assert len(told) == 30
    missed = np.abs(crossed.values - truth)[told, 1:]
    assert missed.max() < 0.13 and missed.mean() < 0.05
    np.testing.assert_allclose(crossed.values[told, 0], calibration.exposures.values[told, 0], atol=0.03)


def test_the_cap_weighted_stock_is_the_market(market: Market, crossed: CrossSection) -> None:
    caps = dict(
        market.securities.filter(pl.col("kind") == "stock").select("security_id", "market_cap_base").iter_rows()
    )
    known = {name: cap for name, cap in caps.items() if cap is not None}
    weights = np.array([known.get(name, 0.0) for name in crossed.securities.labels])
    # The one stock without a cap weighs like the smallest: 0.4 % of the whole.
    np.testing.assert_allclose(weights @ crossed.values / weights.sum(), [1.0, 0.0, 0.0, 0.0], atol=5e-3)


def test_exposures_are_characteristics_times_slopes_and_one_row(
    calibration: Calibration, universe: Universe, crossed: CrossSection
) -> None:
    weights = decay_weights(len(calibration.factors.dates), universe.settings.calibration.exposure_half_life_days)
    design = np.column_stack([np.ones(len(weights)), calibration.factors.values]) * np.sqrt(weights)[:, None]
    oracle = np.linalg.lstsq(design, crossed.returns * np.sqrt(weights)[:, None], rcond=None)[0][1:].T
    np.testing.assert_allclose(crossed.slopes, oracle, atol=1e-9)
    stocks = [i for i, name in enumerate(crossed.securities.labels) if name != FUND]
    rest = crossed.values[stocks] - crossed.characteristics[stocks] @ oracle
    np.testing.assert_allclose(rest, np.broadcast_to(rest[0], rest.shape), atol=1e-9)


def test_a_fund_keeps_its_exposures_and_a_young_stock_has_market_beta_one(
    calibration: Calibration, crossed: CrossSection
) -> None:
    fund, young = (crossed.securities.labels.index(name) for name in (FUND, YOUNG))
    np.testing.assert_array_equal(crossed.values[fund], calibration.exposures.values[fund])
    assert not crossed.characteristics[fund].any()
    np.testing.assert_array_equal(crossed.characteristics[young], [1.0, 1.0, 0.0, 0.0, 0.0])


def test_market_betas_are_weighted_slopes_of_numpy(
    calibration: Calibration, universe: Universe, crossed: CrossSection
) -> None:
    weights = decay_weights(len(calibration.factors.dates), universe.settings.calibration.exposure_half_life_days)
    for name in ("CHIPS-0", "GAPPY", "REST-07"):
        at = crossed.securities.labels.index(name)
        y = calibration.panel.values[:, at]
        seen = np.isfinite(y)
        slope = np.polyfit(calibration.factors.values[seen, 0], y[seen], 1, w=np.sqrt(weights[seen]))[0]
        assert crossed.characteristics[at, 0] == pytest.approx(slope, rel=1e-9)


def test_residuals_have_no_decayed_mean_and_keep_their_gaps(
    calibration: Calibration, universe: Universe, crossed: CrossSection
) -> None:
    weights = decay_weights(len(calibration.factors.dates), universe.settings.calibration.exposure_half_life_days)
    np.testing.assert_array_equal(np.isnan(crossed.residuals), np.isnan(calibration.panel.values))
    np.testing.assert_allclose(np.nansum(crossed.residuals * weights[:, None], axis=0), 0.0, atol=1e-15)
    unexplained = calibration.panel.values - calibration.factors.values @ crossed.values.T - crossed.residuals
    np.testing.assert_allclose(np.nanstd(unexplained, axis=0), 0.0, atol=1e-15)


def test_the_order_of_the_panel_changes_no_exposure(
    calibration: Calibration, universe: Universe, crossed: CrossSection
) -> None:
    turned = list(reversed(range(len(crossed.securities))))
    panel = replace(
        calibration.panel,
        securities=Axis("security", tuple(crossed.securities.labels[i] for i in turned)),
        values=calibration.panel.values[:, turned],
        previous_close=calibration.panel.previous_close[:, turned],
        last_close=calibration.panel.last_close[turned],
    )
    factors = build_factors(panel, universe)
    base = replace(calibration.exposures, securities=panel.securities, values=calibration.exposures.values[turned])
    found = estimate_cross_section(panel, factors, universe, base)
    np.testing.assert_allclose(found.values, crossed.values[turned], atol=1e-9)


def test_sectors_caps_and_the_market_may_be_missing(market: Market, calibration: Calibration) -> None:
    index = pl.DataFrame({"date": calibration.panel.dates, "move": calibration.factors.values[:, 0]})
    close = index.select(
        pl.lit("MKT").alias("security_id"), "date", ((pl.col("move") + 1.0).cum_prod() * 50.0).alias("close")
    )
    first = market.prices["date"].min()
    start = pl.DataFrame({"security_id": ["MKT"], "date": [first], "close": [50.0]})
    row = market.securities.filter(pl.col("security_id") == FUND).with_columns(security_id=pl.lit("MKT"))
    securities = pl.concat([market.securities, row]).with_columns(
        pl.lit(None, dtype=pl.String).alias("gics_sector"), pl.lit(None, dtype=pl.Float64).alias("market_cap_base")
    )
    settings = market.settings.model_copy(update={"market": market.settings.market.model_copy(update={"proxy": "MKT"})})
    bare = build_universe(settings, securities, "securities")
    prices = pl.concat([market.prices.filter(pl.col("date") <= market.as_of), start, close])
    result = calibrate(prices, bare, as_of=market.as_of)
    found = estimate_cross_section(result.panel, result.factors, bare, result.exposures)
    assert found.characteristics.shape[1] == len(FACTORS)
    stocks = np.array([name not in (FUND, "MKT") for name in found.securities.labels])
    np.testing.assert_array_equal(found.values[stocks], found.characteristics[stocks] @ found.slopes)
    assert np.isfinite(found.values).all()
