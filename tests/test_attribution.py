"""Risk attribution: every cut sums, every figure against dense algebra, draws or scipy.stats."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from market import LINES, Market, make_holdings, make_portfolios
from scipy.sparse import csr_array

from engine.api.loading import LoadedUniverse
from engine.api.rebalancing import rebalance_portfolios
from engine.api.stressing import stress_portfolios
from engine.book.assess import Yardstick, summarise, volatilities
from engine.contracts import CONTRACTS, empty
from engine.conventions import MARKET
from engine.curve.universe import Universe
from engine.errors import CalibrationError
from engine.intake import admit
from engine.risk.attribution import (
    OTHER_FACTORS,
    SPECIFIC,
    attribute_risk,
    attribute_tiers,
    count_exceptions,
    loss_probabilities,
    measure_tails,
    risk_tables,
)
from engine.risk.calibration import Calibration
from engine.risk.model import RiskModel
from engine.risk.portfolios import Portfolios, weigh_holdings
from engine.risk.tails import Tails
from engine.stress.liquidity import measure_depth

TABLES = ("risk_factors", "risk_tiers", "risk_positions")


def dense(model: RiskModel) -> np.ndarray:
    same = model.issuers[:, None] == model.issuers[None, :]
    specific = np.where(same, model.specific_variance[:, None], 0.0)
    return model.exposures @ model.factor_covariance @ model.exposures.T + specific


def some_weights(model: RiskModel, seed: int, books: int = 6) -> np.ndarray:
    random = np.random.default_rng(seed)
    shape = (books, len(model.securities))
    weights = random.normal(0.0, 0.1, shape) * (random.random(shape) < 0.3)
    at = [model.securities.labels.index(line) for line in LINES]
    weights[0, at], weights[1, at], weights[2] = [0.5, 0.3], [0.4, -0.4], 0.0
    return weights


@pytest.fixture(scope="module")
def portfolios(universe: Universe, calibration: Calibration, books: tuple[pl.DataFrame, pl.DataFrame]) -> Portfolios:
    return weigh_holdings(*books, model=calibration.model, curve=calibration.curve, universe=universe)[0]


def test_every_part_is_that_of_the_dense_covariance(calibration: Calibration) -> None:
    model, sigma = calibration.model, dense(calibration.model)
    weights = some_weights(model, 1)
    cut = attribute_risk(csr_array(weights), model)
    volatility = np.sqrt(np.einsum("pi,ij,pj->p", weights, sigma, weights))
    np.testing.assert_allclose(cut.volatility, volatility, rtol=1e-12, atol=1e-15)
    per = np.divide(1.0, volatility, out=np.zeros(6), where=volatility > 0.0)[:, None]
    np.testing.assert_allclose(cut.by_name.toarray(), weights * (weights @ sigma) * per, rtol=1e-10, atol=1e-14)
    b = weights @ model.exposures
    np.testing.assert_allclose(cut.by_factor, b * (b @ model.factor_covariance) * per, rtol=1e-10, atol=1e-14)
    assert not cut.by_name.toarray()[2].any() and cut.specific[2] == 0.0


@given(seed=st.integers(0, 10_000))
def test_every_cut_sums_to_the_volatility(calibration: Calibration, seed: int) -> None:
    model = calibration.model
    cut = attribute_risk(csr_array(some_weights(model, seed)), model)
    tiers = attribute_tiers(cut, model, calibration.curve)
    for sums in (
        cut.by_factor.sum(axis=1) + cut.specific,
        cut.by_name.sum(axis=1),
        sum(pair[0] for pair in tiers.values()),
        sum(pair[1] for pair in tiers.values()),
    ):
        np.testing.assert_allclose(sums, cut.volatility, rtol=0.0, atol=1e-12)


@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 50.0))
def test_a_book_twice_the_size_has_twice_every_part(calibration: Calibration, seed: int, scale: float) -> None:
    weights = some_weights(calibration.model, seed)
    one, more = (attribute_risk(csr_array(weights * size), calibration.model) for size in (1.0, scale))
    np.testing.assert_allclose(more.by_factor, one.by_factor * scale, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(more.by_name.toarray(), one.by_name.toarray() * scale, rtol=1e-9, atol=1e-12)


def test_the_order_of_the_books_changes_nothing(calibration: Calibration) -> None:
    weights = some_weights(calibration.model, 3)
    order = [4, 0, 5, 2, 1, 3]
    one, other = (attribute_risk(csr_array(rows), calibration.model) for rows in (weights, weights[order]))
    np.testing.assert_allclose(other.by_name.toarray(), one.by_name.toarray()[order], rtol=1e-12, atol=1e-16)


def test_a_part_is_the_slope_of_volatility_times_the_weight(calibration: Calibration) -> None:
    model, weights = calibration.model, some_weights(calibration.model, 4)[4:5]
    cut = attribute_risk(csr_array(weights), model)
    step = 1e-6
    for i in np.flatnonzero(weights[0])[:5]:
        moved = [weights.copy(), weights.copy()]
        moved[0][0, i] += step
        moved[1][0, i] -= step
        up, down = (attribute_risk(csr_array(rows), model).volatility[0] for rows in moved)
        assert cut.by_name.toarray()[0, i] == pytest.approx(weights[0, i] * (up - down) / (2 * step), rel=1e-5)


def test_tiers_by_names_are_the_shares_and_by_factors_the_pure_factors(calibration: Calibration) -> None:
    model, curve = calibration.model, calibration.curve
    cut = attribute_risk(csr_array(some_weights(model, 5)), model)
    tiers = attribute_tiers(cut, model, curve)
    assert list(tiers) == ["chips", "grid", "apps", "off_curve", MARKET, SPECIFIC]
    np.testing.assert_allclose(tiers["grid"][0], cut.by_name.toarray() @ curve.shares(model.securities)[:, 1])
    np.testing.assert_array_equal(tiers["grid"][1], cut.by_factor[:, 2])
    np.testing.assert_array_equal(tiers[MARKET][1], cut.by_factor[:, 0])
    assert not tiers[MARKET][0].any() and not tiers[SPECIFIC][0].any() and not tiers["off_curve"][1].any()


def test_factors_beyond_the_tiers_stand_in_one_row(calibration: Calibration) -> None:
    model, curve = calibration.model, calibration.curve
    fewer = replace(curve, tiers=type(curve.tiers)("tier", ("chips", "grid")), beta=curve.beta[:2])
    fewer = replace(fewer, memberships=curve.memberships.filter(pl.col("tier") != "apps"))
    cut = attribute_risk(csr_array(some_weights(model, 6)), model)
    tiers = attribute_tiers(cut, model, fewer)
    np.testing.assert_array_equal(tiers[OTHER_FACTORS][1], cut.by_factor[:, 3])
    np.testing.assert_allclose(sum(pair[1] for pair in tiers.values()), cut.volatility, atol=1e-12)


def test_the_tables_keep_their_contracts_and_their_sums(portfolios: Portfolios, calibration: Calibration) -> None:
    active = {"growth": portfolios.weights.toarray()[0] - portfolios.weights.toarray()[1]}
    tables = risk_tables(portfolios, calibration.curve, stage="before", active=active)
    for name in TABLES:
        frame = admit(tables[name], name, "test").frame
        assert frame.equals(tables[name].select(list(CONTRACTS[name].columns)))
    volatility = dict(zip(portfolios.ids.labels, volatilities(portfolios), strict=True))
    error = attribute_risk(csr_array(active["growth"][None, :]), portfolios.model).volatility[0]
    for name, columns in (("risk_factors", ["contribution"]), ("risk_tiers", ["by_names", "by_factors"])):
        for (book,), rows in tables[name].group_by("portfolio_id"):
            for column in columns:
                assert rows[column].sum() == pytest.approx(volatility[str(book)], abs=1e-12)
                relative = rows[f"active_{column}"]
                if book == "growth":
                    assert relative.sum() == pytest.approx(error, abs=1e-12)
                else:
                    assert relative.null_count() == len(relative)
    shares = tables["risk_factors"].group_by("portfolio_id").agg(pl.col("share_of_variance").sum())
    np.testing.assert_allclose(shares["share_of_variance"].to_numpy(), 1.0, rtol=1e-12)


def test_positions_are_the_largest_and_the_benchmark_names_that_a_book_lacks(
    portfolios: Portfolios, calibration: Calibration
) -> None:
    active = {"growth": portfolios.weights.toarray()[0] - portfolios.weights.toarray()[1]}
    table = risk_tables(portfolios, calibration.curve, stage="before", active=active)["risk_positions"]
    growth = table.filter(pl.col("portfolio_id") == "growth")
    lacking = growth.filter(pl.col("security_id") == "REST-01").row(0, named=True)
    assert lacking["weight"] == 0.0 and lacking["contribution"] == 0.0
    assert lacking["active_weight"] == pytest.approx(-0.3)
    whole = table.filter(pl.col("portfolio_id") == "soft")
    assert whole["active_weight"].null_count() == whole.height == 4
    assert whole["contribution"].sum() == pytest.approx(volatilities(portfolios)[2], abs=1e-12)
    few = risk_tables(portfolios, calibration.curve, stage="before", positions=1)["risk_positions"]
    assert few.height == len(portfolios.ids)


def test_a_book_of_cash_has_no_risk_and_no_nan(market: Market, universe: Universe, calibration: Calibration) -> None:
    cash, _ = weigh_holdings(
        make_holdings(market, {"cash": {}}),
        make_portfolios({"cash": None}),
        model=calibration.model,
        curve=calibration.curve,
        universe=universe,
    )
    tables = risk_tables(cash, calibration.curve, stage="before")
    assert tables["risk_factors"]["contribution"].to_list() == [0.0] * 5
    assert not tables["risk_positions"].height
    settings = universe.settings.stress
    depth = measure_depth(cash.model, universe.securities, settings.liquidity.half_spread_bps)
    yardstick = Yardstick(calibration.curve, {}, {}, settings.band, None, depth, settings)
    row = summarise(cash, yardstick, stage="before", stress=empty("stress"), status={}).row(0, named=True)
    assert row["var_99"] == row["es_975"] == row["volatility"] == row["days_to_liquidate"] == 0.0
    assert row["sold_in_1_day"] == row["sold_in_5_days"] == 1.0


@pytest.mark.parametrize("degrees", [4.0, 6.3, 30.0])
def test_var_and_shortfall_are_those_of_scipy_and_of_draws(degrees: float) -> None:
    central = scipy.stats.t.ppf(0.9, degrees) * np.sqrt((degrees - 2.0) / degrees) / scipy.stats.norm.ppf(0.9)
    tails = Tails(degrees, central, 0.1, central)
    risk = measure_tails(np.array([0.03]), np.array([0.01]), tails)
    shape = scipy.stats.t(degrees, scale=np.sqrt(0.04 / 252 * (degrees - 2.0) / degrees))
    assert risk.var_99[0] == pytest.approx(shape.ppf(0.99), rel=1e-10)
    assert risk.es_975[0] == pytest.approx(shape.expect(lambda x: x, lb=shape.ppf(0.975)) / 0.025, rel=1e-6)
    losses = np.sort(shape.rvs(2_000_000, random_state=9))
    assert risk.var_99[0] == pytest.approx(np.quantile(losses, 0.99), rel=0.01)
    assert risk.es_975[0] == pytest.approx(losses[-50_000:].mean(), rel=0.02)


def test_the_multipliers_scale_their_own_part_and_a_normal_limit_is_the_normal() -> None:
    parts = np.array([0.04, 0.0]), np.array([0.0, 0.04])
    risk = measure_tails(*parts, Tails(30.0, 1.2, 0.1, 0.9))
    assert risk.var_99[0] / risk.var_99[1] == pytest.approx(1.2 / 0.9)
    normal = measure_tails(*parts, Tails(1e6, 1.0, 0.1, 1.0))
    assert normal.var_99[0] == pytest.approx(0.2 / np.sqrt(252) * scipy.stats.norm.ppf(0.99), rel=1e-4)
    assert normal.es_975[0] == pytest.approx(
        0.2 / np.sqrt(252) * scipy.stats.norm.pdf(scipy.stats.norm.ppf(0.975)) / 0.025, rel=1e-4
    )


def test_exceptions_are_counted_with_their_binomial_chance() -> None:
    returns = np.array([-0.03, -0.01, np.nan, 0.05, -0.021, -0.5])
    forecasts = np.array([0.02, 0.02, 0.02, 0.02, 0.02, np.nan])
    count = count_exceptions(returns, forecasts)
    assert (count.days, count.exceptions) == (4, 2)
    assert count.expected == pytest.approx(0.04)
    assert count.probability == pytest.approx(scipy.stats.binom.sf(1, 4, 0.01))
    assert count_exceptions(returns[3:4], forecasts[3:4]).probability == 1.0
    assert count_exceptions(np.array([-0.02]), np.array([0.02])).exceptions == 0
    assert count_exceptions(np.array([np.nan]), np.array([0.02])).days == 0
    with pytest.raises(CalibrationError, match="a forecast is negative; write losses above zero"):
        count_exceptions(returns, -forecasts)


def test_the_commands_return_the_risk_of_the_bundled_books(bundled: LoadedUniverse) -> None:
    tables = stress_portfolios(bundled).tables
    summary = tables["portfolio_summary"].drop_nulls("volatility")
    assert (summary["var_99"] > summary["volatility"] / np.sqrt(252)).all()
    assert (summary["es_975"] >= summary["var_99"]).all()
    sums = tables["risk_tiers"].group_by("portfolio_id").agg(pl.col("by_names", "by_factors").sum())
    joined = summary.join(sums, on="portfolio_id", validate="1:1")
    for column in ("by_names", "by_factors"):
        np.testing.assert_allclose(joined[column].to_numpy(), joined["volatility"].to_numpy(), atol=1e-12)


def test_a_rebalance_shows_risk_before_and_after_and_active_risk_as_the_tracking_error(
    bundled: LoadedUniverse,
) -> None:
    tables = rebalance_portfolios(bundled, only=["ai_infrastructure"]).tables
    assert tables["risk_factors"]["stage"].unique().sort().to_list() == ["after", "before"]
    errors = tables["portfolio_summary"].drop_nulls("tracking_error")
    sums = tables["risk_factors"].drop_nulls("active_contribution").group_by("portfolio_id", "stage")
    joined = errors.join(sums.agg(pl.col("active_contribution").sum()), on=["portfolio_id", "stage"])
    assert joined.height == errors.height
    np.testing.assert_allclose(
        joined["active_contribution"].to_numpy(), joined["tracking_error"].to_numpy(), rtol=0.0, atol=1e-12
    )


def test_the_odds_of_the_var_are_one_in_a_hundred_and_fall_with_the_loss() -> None:
    tails = Tails(5.0, 0.9, 0.2, 1.1)
    factor, specific = np.array([0.04, 0.01, 0.0]), np.array([0.01, 0.02, 0.0])
    var = measure_tails(factor, specific, tails).var_99
    odds = loss_probabilities(var, factor / 252, specific / 252, tails)
    np.testing.assert_allclose(odds[:2], 0.01, rtol=1e-12)
    assert np.isnan(odds[2])
    losses = np.linspace(-0.1, 0.1, 21)
    many = loss_probabilities(losses, np.full(21, 1e-4), np.full(21, 1e-4), tails)
    assert (np.diff(many) < 0.0).all() and many[10] == 0.5 and (many[:10] > 0.5).all()
