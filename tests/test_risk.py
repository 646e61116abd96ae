"""The risk model's rooms: covariance, specific risk, tails, model, calibration, portfolios."""

import datetime as dt
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from market import CORE_NAMES, FACTORS, LINES, YOUNG, Market, core_names, make_holdings, make_portfolios
from scipy.stats import multivariate_t

from engine.axes import Axis
from engine.contracts import CONTRACTS
from engine.curve.universe import Universe, UniverseSettings, build_universe
from engine.errors import AlignmentError, ContractError, DataError, ModelError
from engine.intake import admit
from engine.risk.calibration import Calibration, calibrate
from engine.risk.covariance import estimate_factor_covariance
from engine.risk.model import RiskModel
from engine.risk.portfolios import Portfolios, weigh_holdings
from engine.risk.specific import estimate_specific_variance, pool_by_issuer
from engine.risk.tails import Tails, fit_tails

MODEL_TABLES = ("exposures", "factor_covariance", "specific_risk", "factor_returns")


def rebuild(calibration: Calibration, **tables: pl.DataFrame) -> RiskModel:
    """The model read back from its tables, some of them changed."""
    frames = {name: calibration.tables[name] for name in MODEL_TABLES} | tables
    model = calibration.model
    return RiskModel.from_frames(
        frames, as_of=model.as_of, factors=model.factors.labels, tails=model.tails, source="model"
    )


def weigh(
    calibration: Calibration, universe: Universe, holdings: pl.DataFrame, portfolios: pl.DataFrame, **options: Any
) -> tuple[Portfolios, list[tuple[str, str, str | None]]]:
    """Portfolios, and code, severity and book of each notice."""
    result, notices = weigh_holdings(
        holdings, portfolios, model=calibration.model, curve=calibration.curve, universe=universe, **options
    )
    return result, [(notice.code, notice.severity, notice.portfolio_id) for notice in notices]


def test_planted_factor_covariance_is_recovered(market: Market, calibration: Calibration) -> None:
    measured, planted = calibration.model.factor_covariance, market.factor_covariance
    np.testing.assert_allclose(np.sqrt(np.diag(measured)), np.sqrt(np.diag(planted)), rtol=0.12)
    scales = [np.sqrt(np.diag(matrix)) for matrix in (measured, planted)]
    np.testing.assert_allclose(
        measured / np.outer(scales[0], scales[0]), planted / np.outer(scales[1], scales[1]), atol=0.12
    )


def test_factor_covariance_is_symmetric_to_the_bit_and_psd_even_when_the_half_lives_differ() -> None:
    values = np.random.default_rng(1).standard_normal((60, 12))
    covariance = estimate_factor_covariance(values, volatility_half_life=5.0, correlation_half_life=40.0)
    assert (covariance == covariance.T).all()
    assert np.linalg.eigvalsh(covariance).min() >= -1e-12 * covariance.max()


def test_volatility_follows_the_short_memory_and_correlation_the_long_one() -> None:
    random = np.random.default_rng(2)
    calm = random.standard_normal((300, 1)) @ np.ones((1, 2)) * 0.01 + random.standard_normal((300, 2)) * 1e-4
    wild = random.standard_normal((40, 2)) * 0.05
    covariance = estimate_factor_covariance(
        np.vstack([calm, wild]), volatility_half_life=8.0, correlation_half_life=1e6
    )
    assert np.sqrt(covariance[0, 0] / 252) == pytest.approx(0.05, rel=0.3)
    pooled = np.corrcoef(np.vstack([calm, wild]).T)[0, 1]
    assert covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]) == pytest.approx(pooled, abs=1e-3)


def test_planted_specific_risk_is_recovered(market: Market, calibration: Calibration) -> None:
    names = calibration.model.securities.labels
    truth = market.specific_variance[[market.names.index(name) for name in names]]
    ratio = dict(zip(names, np.sqrt(calibration.model.specific_variance / truth), strict=True))
    known = [value for name, value in ratio.items() if name not in {YOUNG, "FUND"}]
    assert np.median(known) == pytest.approx(1.0, abs=0.04)
    assert min(known) > 0.8 and max(known) < 1.2


def test_a_short_history_takes_the_specific_risk_of_names_like_it() -> None:
    random = np.random.default_rng(3)
    names = [f"S{i:02}" for i in range(20)]
    residuals = random.normal(0.0, 0.01, (300, 20))
    residuals[:-10, 0] = np.nan
    residuals[-10:, 0] *= 50.0
    table = pl.DataFrame(
        {
            "security_id": names,
            "kind": "stock",
            "market_cap_base": 1e9,
            "issuer_id": pl.Series([None] * 20, dtype=pl.String),
        }
    )
    variance, _ = estimate_specific_variance(
        residuals, securities=table, axis=Axis("security", tuple(names)), half_life=200.0, minimum_days=63
    )
    assert np.sqrt(variance[0] / 252) == pytest.approx(0.01, rel=0.15)


def test_specific_variances_shrunk_towards_their_decile_are_closer_to_the_truth() -> None:
    random = np.random.default_rng(4)
    names = [f"S{i:03}" for i in range(100)]
    truth = 0.01 * np.exp(0.05 * random.standard_normal(100))
    residuals = random.standard_normal((80, 100)) * truth
    table = pl.DataFrame(
        {
            "security_id": names,
            "kind": "stock",
            "market_cap_base": 1e9,
            "issuer_id": pl.Series([None] * 100, dtype=pl.String),
        }
    )
    variance, _ = estimate_specific_variance(
        residuals, securities=table, axis=Axis("security", tuple(names)), half_life=1e9, minimum_days=20
    )
    raw = (residuals**2).mean(axis=0) * 252
    assert np.log(variance).std() < 0.7 * np.log(raw).std()
    error = [np.abs(np.log(estimate / (truth**2 * 252))).mean() for estimate in (variance, raw)]
    assert error[0] < 0.7 * error[1]


def test_lines_of_one_issuer_share_the_mean_of_their_variances(calibration: Calibration) -> None:
    np.testing.assert_array_equal(pool_by_issuer(np.array([1.0, 3.0, 5.0]), ["A", "A", "B"]), [2.0, 2.0, 5.0])
    model = calibration.model
    first, second = (model.securities.labels.index(name) for name in LINES)
    assert model.issuers[first] == model.issuers[second]
    assert model.specific_variance[first] == model.specific_variance[second]


def test_lines_are_pooled_though_their_own_residuals_differ() -> None:
    residuals = np.random.default_rng(8).standard_normal((200, 12)) * np.linspace(0.005, 0.03, 12)
    names = [f"S{i:02}" for i in range(12)]
    issuers = ["ONE", *[None] * 10, "ONE"]
    table = pl.DataFrame({"security_id": names, "kind": "stock", "market_cap_base": 1e9, "issuer_id": issuers})
    variance, found = estimate_specific_variance(
        residuals, securities=table, axis=Axis("security", tuple(names)), half_life=100.0, minimum_days=63
    )
    assert variance[0] == variance[11] and found == ["ONE", *names[1:-1], "ONE"]
    assert (residuals[:, 0] ** 2).mean() * 252 < variance[0] < (residuals[:, 11] ** 2).mean() * 252


def test_planted_tails_are_recovered() -> None:
    random = np.random.default_rng(5)
    shape = np.diag([0.01, 0.012, 0.008]) ** 2 * (5.0 - 2.0) / 5.0
    fat = multivariate_t(np.zeros(3), shape, df=5, seed=random).rvs(800)
    thin = random.standard_normal((800, 3)) * 0.01
    residuals = random.standard_normal((800, 40)) * 0.01
    half_lives = {"volatility_half_life": 250.0, "correlation_half_life": 250.0, "specific_half_life": 250.0}
    tails = fit_tails(fat, residuals, **half_lives)
    assert 4.0 <= tails.degrees < 8.0
    assert tails.factor_multiplier < 0.97
    gauss = fit_tails(thin, residuals, **half_lives)
    assert gauss.degrees > 20.0
    assert gauss.factor_multiplier == pytest.approx(1.0, abs=0.04)
    assert gauss.specific_multiplier == pytest.approx(1.0, abs=0.02)
    assert gauss.specific_exponent < 0.05


def test_a_band_widens_with_the_distance_and_is_neutral_at_the_usual_one() -> None:
    tails = Tails(degrees=6.0, factor_multiplier=0.9, specific_exponent=0.2, specific_multiplier=0.8)
    assert tails.factor_scale(5.0, 5) == pytest.approx(0.9)
    assert tails.specific_scale(5.0, 5) == pytest.approx(0.8)
    assert tails.factor_scale(100.0, 5) == pytest.approx(0.9 * np.sqrt(104.0 / 9.0))
    assert tails.specific_scale(100.0, 5) < tails.factor_scale(100.0, 5)


def test_a_model_survives_its_own_tables_in_any_row_order(calibration: Calibration) -> None:
    shuffled = {name: calibration.tables[name].sample(fraction=1.0, shuffle=True, seed=7) for name in MODEL_TABLES}
    model, again = calibration.model, rebuild(calibration, **shuffled)
    assert again.securities == model.securities and again.factors == model.factors
    for name in ("exposures", "factor_covariance", "specific_variance", "largest_moves"):
        np.testing.assert_array_equal(getattr(again, name), getattr(model, name))
    first, second = (again.securities.labels.index(name) for name in LINES)
    assert again.issuers[first] == again.issuers[second]
    assert len(set(again.issuers.tolist())) == len(model.securities) - 1


def test_every_model_table_keeps_its_contract(calibration: Calibration) -> None:
    for name, frame in calibration.tables.items():
        assert admit(frame, name, "test").frame.equals(frame.select(list(CONTRACTS[name].columns))), name


def test_the_numbers_of_a_model_cannot_be_changed(calibration: Calibration) -> None:
    for name in ("exposures", "factor_covariance", "specific_variance", "issuers"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(calibration.model, name)[...] = 0
    with pytest.raises(AttributeError):
        calibration.model.exposures = None  # type: ignore[misc]


def test_the_calibration_sees_nothing_after_its_date(
    market: Market, universe: Universe, calibration: Calibration
) -> None:
    blind = calibrate(market.prices.filter(pl.col("date") <= market.as_of), universe, as_of=market.as_of)
    assert blind.model.as_of == market.as_of
    for name, frame in blind.tables.items():
        assert frame.equals(calibration.tables[name]), name


def test_the_order_of_input_rows_changes_no_digit_of_the_model(
    market: Market, universe: Universe, calibration: Calibration
) -> None:
    securities = universe.securities.sample(fraction=1.0, shuffle=True, seed=1)
    prices = market.prices.sample(fraction=1.0, shuffle=True, seed=2)
    again = calibrate(prices, build_universe(market.settings, securities, "s"), as_of=market.as_of)
    for name, frame in again.tables.items():
        assert frame.equals(calibration.tables[name]), name


def test_other_tiers_calibrate_as_well(market: Market) -> None:
    settings = market.settings.model_dump()
    tiers = tuple(
        {"id": f"t{i}", "title": "t", "core": core_names(tier)[i:]} for i, tier in enumerate(("grid", "apps"))
    )
    securities = market.securities.with_columns(pl.lit(None, dtype=pl.String).alias("membership"))
    universe = build_universe(UniverseSettings.model_validate({**settings, "tiers": tiers}), securities, "s")
    model = calibrate(market.prices, universe, as_of=market.as_of - dt.timedelta(days=30)).model
    assert model.factors.labels == ("market", "t0", "t1")
    assert model.exposures[model.securities.labels.index("GRID-0"), 1] == pytest.approx(0.9, abs=0.15)


def test_specific_times_is_the_dense_block_matrix(calibration: Calibration) -> None:
    model = calibration.model
    columns = np.random.default_rng(6).standard_normal((len(model.securities), 3))
    dense = np.where(model.issuers[:, None] == model.issuers[None, :], model.specific_variance[:, None], 0.0)
    np.testing.assert_allclose(model.specific_times(columns), dense @ columns, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"factor_covariance": np.full((4, 4), np.nan)}, "a number is not finite"),
        ({"factor_covariance": np.triu(np.ones((4, 4)))}, "not symmetric; it is refused, not repaired"),
        (
            {"factor_covariance": np.diag([1.0, 1.0, 1.0, -1e-6])},
            "not positive semi-definite; it is refused, not clipped",
        ),
        (
            {"factors": Axis("factor", ("chips", "market", "grid", "apps"))},
            "the first factor is ('chips',), expected 'market'",
        ),
    ],
)
def test_what_is_no_model_is_refused(calibration: Calibration, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError) as caught:
        replace(calibration.model, **change)
    assert words in str(caught.value)


@pytest.mark.parametrize("scale", [1 / 252, 1e4])
def test_specific_variance_in_another_unit_is_refused(calibration: Calibration, scale: float) -> None:
    with pytest.raises(
        ModelError, match=r"the median specific volatility is .* outside 5% to 150%: give annual variances"
    ):
        replace(calibration.model, specific_variance=calibration.model.specific_variance * scale)


def test_a_singular_covariance_and_zero_specific_variance_are_fine(calibration: Calibration) -> None:
    replace(calibration.model, factor_covariance=np.zeros((4, 4)))
    replace(calibration.model, specific_variance=np.zeros(len(calibration.model.securities)))


def test_unequal_variances_inside_an_issuer_are_refused(calibration: Calibration) -> None:
    variance = calibration.model.specific_variance.copy()
    variance[calibration.model.securities.labels.index(LINES[0])] *= 1.01
    with pytest.raises(ModelError, match="lines of one issuer have different specific variances"):
        replace(calibration.model, specific_variance=variance)


def test_tables_that_do_not_name_the_same_things_are_refused(calibration: Calibration) -> None:
    exposures = calibration.tables["exposures"]
    with pytest.raises(AlignmentError, match="1 security label is unknown: APPS-0"):
        rebuild(calibration, exposures=exposures.filter(pl.col("security_id") != "APPS-0"))
    with pytest.raises(AlignmentError, match="1 security x factor label is unknown: APPS-0"):
        rebuild(calibration, exposures=exposures.slice(1))
    stranger = calibration.tables["specific_risk"].filter(pl.col("security_id") != "APPS-0")
    with pytest.raises(AlignmentError, match="1 security label is unknown: APPS-0"):
        rebuild(calibration, specific_risk=stranger)
    fewer = calibration.tables["factor_covariance"].filter(pl.col("factor_1") != "apps")
    with pytest.raises(AlignmentError, match="factor x factor label is unknown: apps"):
        rebuild(calibration, factor_covariance=fewer)
    with pytest.raises(ContractError, match="one row for each security_id, factor"):
        rebuild(calibration, exposures=pl.concat([exposures, exposures.head(1)]))


def test_weights_are_values_over_nav_and_cash_has_no_exposure(
    market: Market, universe: Universe, calibration: Calibration, books: tuple[pl.DataFrame, pl.DataFrame]
) -> None:
    portfolios, notices = weigh(calibration, universe, *books)
    assert notices == []
    assert portfolios.ids.labels == ("growth", "income", "soft", "house")
    growth = portfolios.weights.toarray()[0]
    assert growth[portfolios.model.securities.labels.index("STRADDLE")] == pytest.approx(0.2)
    assert growth.sum() + portfolios.cash[0] == pytest.approx(1.0)
    assert portfolios.exposures[0] == pytest.approx(growth @ calibration.model.exposures)


def test_the_exposure_of_a_future_counts_and_its_value_does_not(
    market: Market, universe: Universe, calibration: Calibration
) -> None:
    holdings = make_holdings(market, {"a": {"REST-00": 0.1}}).with_columns(
        pl.when(pl.col("security_id") == "REST-00").then(pl.lit(-5e5)).alias("exposure_base")
    )
    portfolios, _ = weigh(calibration, universe, holdings, make_portfolios({"a": None}))
    assert portfolios.weights.toarray()[0].sum() == pytest.approx(-0.5)
    assert portfolios.nav[0] == pytest.approx(1e6)


def test_the_latest_date_is_taken_unless_another_is_named(
    market: Market, universe: Universe, calibration: Calibration, books: tuple[pl.DataFrame, pl.DataFrame]
) -> None:
    earlier = market.as_of - dt.timedelta(days=7)
    old = make_holdings(market, {"growth": {"REST-00": 0.5}}).with_columns(pl.lit(earlier).alias("as_of"))
    both = pl.concat([old, books[0]])
    assert weigh(calibration, universe, both, books[1])[0].as_of == market.as_of
    picked, _ = weigh(calibration, universe, both, books[1], as_of=earlier)
    assert picked.as_of == earlier and picked.ids.labels == ("growth", "house")
    with pytest.raises(DataError, match=r"^holdings: no rows as of 1999-01-01; the latest dates are"):
        weigh(calibration, universe, both, books[1], as_of=dt.date(1999, 1, 1))


def test_a_name_unknown_to_the_model_takes_its_proxy_up_to_the_share_that_is_allowed(
    market: Market, universe: Universe, calibration: Calibration
) -> None:
    securities = pl.concat(
        [
            market.securities,
            market.securities.head(1).with_columns(
                security_id=pl.lit("IPO"), membership=pl.lit("grid:0.5"), price=pl.lit(10.0)
            ),
        ]
    )
    wider = build_universe(market.settings, securities, "s")
    holdings = make_holdings(replace(market, securities=securities), {"a": {"IPO": 0.02}, "b": {"IPO": 0.021}})
    # The proxy of a declared name needs its membership in the curve, as calibrate writes it.
    curve = replace(calibration.curve, memberships=wider.memberships)
    portfolios, notices = weigh_holdings(
        holdings, make_portfolios({"a": None, "b": None}), model=calibration.model, curve=curve, universe=wider
    )
    assert [(n.portfolio_id, n.severity, n.code) for n in notices] == [
        ("a", "warn", "holdings.unmapped"),
        ("b", "quarantine", "holdings.unmapped"),
    ]
    assert portfolios.ids.labels == ("a",)
    at = portfolios.model.securities.labels.index("IPO")
    beta = curve.beta[1]
    np.testing.assert_allclose(portfolios.model.exposures[at], [0.5 + 0.5 * beta, 0.0, 0.5, 0.0])
    assert portfolios.model.specific_variance[at] == np.quantile(calibration.model.specific_variance, 0.9)


def test_an_id_that_differs_by_case_is_not_matched_but_hinted_at(
    market: Market, universe: Universe, calibration: Calibration
) -> None:
    holdings = make_holdings(market, {"a": {"REST-00": 0.5}}).with_columns(
        pl.col("security_id").str.replace("REST", "Rest")
    )
    _, notices = weigh_holdings(
        holdings, make_portfolios({"a": None}), model=calibration.model, curve=calibration.curve, universe=universe
    )
    assert notices[0].message == (
        "1 held name is not in the model, 50.00% of NAV (at most 2.00% may be): Rest-00 (is REST-00 meant?)"
    )


@pytest.mark.parametrize(
    ("column", "value", "code", "severity"),
    [
        ("quantity", np.nan, "holdings.quantity.nan", "quarantine"),
        ("market_value_base", 1.0, "holdings.value", "quarantine"),
        ("currency", "EUR", "holdings.currency", "quarantine"),
        ("price", -1.0, "holdings.price.min_exclusive", "quarantine"),
    ],
)
def test_a_bad_book_is_set_aside_and_the_good_ones_are_measured(
    universe: Universe,
    calibration: Calibration,
    books: tuple[pl.DataFrame, pl.DataFrame],
    column: str,
    value: object,
    code: str,
    severity: str,
) -> None:
    line = (pl.col("portfolio_id") == "growth") & (pl.col("security_id") == "GRID-0")
    broken = books[0].with_columns(pl.when(line).then(pl.lit(value)).otherwise(column).alias(column))
    portfolios, notices = weigh(calibration, universe, broken, books[1])
    assert (code, severity, "growth") in notices
    assert portfolios.ids.labels == ("income", "soft", "house")


def test_a_nav_that_disagrees_with_the_values_warns_and_beyond_one_percent_sets_aside(
    universe: Universe, calibration: Calibration, books: tuple[pl.DataFrame, pl.DataFrame]
) -> None:
    nav = {"growth": 1e6 * 1.00005, "income": 1e6 * 1.005, "soft": 1e6 * 1.02}
    table = books[1].with_columns(pl.col("portfolio_id").replace_strict(nav, default=None).alias("nav_base"))
    portfolios, notices = weigh(calibration, universe, books[0], table)
    assert notices == [
        ("holdings.nav", "warn", "income"),
        ("holdings.nav", "quarantine", "soft"),
        ("holdings.partial", "warn", "house"),
    ]
    assert portfolios.ids.labels == ("growth", "income", "house")
    assert portfolios.nav[1] == 1e6 * 1.005


def test_a_price_a_split_away_from_the_listed_one_sets_the_book_aside(
    universe: Universe, calibration: Calibration, books: tuple[pl.DataFrame, pl.DataFrame]
) -> None:
    line = (pl.col("portfolio_id") == "growth") & (pl.col("security_id") == "GRID-0")
    scale = pl.when(line).then(10.0).otherwise(1.0)
    split = books[0].with_columns(price=pl.col("price") / scale, quantity=pl.col("quantity") * scale)
    _, notices = weigh(calibration, universe, split, books[1])
    assert notices == [("holdings.split", "quarantine", "growth"), ("holdings.partial", "warn", "house")]


def test_a_book_that_no_table_lists_is_set_aside(
    universe: Universe, calibration: Calibration, books: tuple[pl.DataFrame, pl.DataFrame]
) -> None:
    _, notices = weigh(calibration, universe, books[0], books[1].filter(pl.col("portfolio_id") != "soft"))
    assert notices == [("holdings.unknown_portfolio", "quarantine", "soft")]


def test_a_book_without_holdings_is_empty_and_one_of_cash_is_measured(
    market: Market, universe: Universe, calibration: Calibration
) -> None:
    portfolios, notices = weigh(
        calibration, universe, make_holdings(market, {"cash": {}}), make_portfolios({"cash": None, "none": None})
    )
    assert notices == [] and portfolios.empty == ("none",)
    assert portfolios.ids.labels == ("cash",) and portfolios.cash.tolist() == [1.0]
    assert not portfolios.exposures.any()


def test_parents_that_cannot_be_are_refused(universe: Universe, calibration: Calibration, market: Market) -> None:
    holdings = make_holdings(market, {"a": {"REST-00": 0.5}})
    loop = make_portfolios({"a": "b", "b": "a"})
    with pytest.raises(ContractError, match="a: is its own ancestor through parent_id"):
        weigh(calibration, universe, holdings, loop)
    orphan = make_portfolios({"a": "house"}).filter(pl.col("portfolio_id") == "a")
    with pytest.raises(ContractError, match="a: unknown parent_id 'house'; allowed: a"):
        weigh(calibration, universe, holdings, orphan)
    mixed = make_portfolios({"a": None, "b": None}).with_columns(pl.Series("base_currency", ["USD", "EUR"]))
    with pytest.raises(ContractError, match="b: base_currency EUR, the universe is in USD"):
        weigh(calibration, universe, holdings, mixed)


def test_the_planted_basket_has_the_planted_number_of_names(calibration: Calibration) -> None:
    assert calibration.factors.core.sum(axis=1).tolist() == [CORE_NAMES] * (len(FACTORS) - 1)
