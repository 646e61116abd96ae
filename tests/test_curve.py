"""The curve's rooms: universe, returns, factors, exposures, tiers."""

import datetime as dt

import numpy as np
import polars as pl
import pytest
from market import (
    CORE_NAMES,
    FACTORS,
    GAPPY,
    LINES,
    STRADDLER,
    TIERS,
    YOUNG,
    YOUNG_DAYS,
    Market,
    core_names,
    make_market,
)

from engine.axes import Axis
from engine.curve.exposures import estimate_exposures, membership_prior
from engine.curve.factors import build_factors, decay_weights, doubt_prices, market_returns
from engine.curve.returns import build_returns, trading_days
from engine.curve.tiers import Curve
from engine.curve.universe import Universe, UniverseSettings, build_universe, replace_baskets
from engine.errors import AlignmentError, CalibrationError, ContractError
from engine.risk.calibration import Calibration, calibrate


def price_of(market: Market, name: str) -> pl.DataFrame:
    """The rows of one security."""
    return market.prices.filter(pl.col("security_id") == name).sort("date")


def with_settings(universe: Universe, **changes: object) -> Universe:
    """The universe with other settings."""
    settings = UniverseSettings.model_validate({**universe.settings.model_dump(), **changes})
    return build_universe(settings, universe.securities, "securities")


def test_the_same_seed_draws_the_same_market_to_the_bit(market: Market) -> None:
    again = make_market()
    assert again.prices.equals(market.prices) and again.securities.equals(market.securities)
    assert not make_market(seed=1).prices.equals(market.prices)


def test_a_return_is_the_close_over_the_close_before(market: Market, universe: Universe) -> None:
    panel, _ = build_returns(market.prices, universe.securities, as_of=market.as_of, history_days=3)
    closes = price_of(market, "REST-00").filter(pl.col("date") <= market.as_of)["close"].tail(4).to_numpy()
    at = panel.securities.labels.index("REST-00")
    np.testing.assert_allclose(panel.values[:, at], closes[1:] / closes[:-1] - 1.0, rtol=1e-14)
    assert panel.dates[-1] == market.as_of and len(panel.dates) == 3


def test_a_missing_close_leaves_two_returns_missing_never_one_over_two_days(market: Market, universe: Universe) -> None:
    panel, _ = build_returns(market.prices, universe.securities, as_of=market.as_of, history_days=504)
    priced = set(price_of(market, GAPPY)["date"].to_list())
    gap = [day for day in panel.dates if day not in priced]
    values = panel.values[:, panel.securities.labels.index(GAPPY)]
    missing = {panel.dates[i] for i in np.flatnonzero(np.isnan(values))}
    days = panel.dates
    after = {days[i + 1] for i, day in enumerate(days[:-1]) if day in gap}
    assert missing == set(gap) | after


def test_nothing_after_the_date_is_looked_at(market: Market, universe: Universe) -> None:
    past = market.prices.filter(pl.col("date") <= market.as_of)
    ruined = market.prices.with_columns(
        pl.when(pl.col("date") > market.as_of).then(1e6).otherwise("close").alias("close")
    )
    panels = [
        build_returns(prices, universe.securities, as_of=market.as_of, history_days=100)[0]
        for prices in (past, ruined, market.prices)
    ]
    for panel in panels[1:]:
        np.testing.assert_array_equal(panel.values, panels[0].values)
        np.testing.assert_array_equal(panel.last_close, panels[0].last_close)


@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.5, 2.0, 3.0])
def test_a_move_at_a_split_ratio_is_dropped_with_a_warning(market: Market, universe: Universe, ratio: float) -> None:
    before = price_of(market, "REST-00").filter(pl.col("date") < market.as_of)["close"][-1]
    split = (pl.col("security_id") == "REST-00") & (pl.col("date") == market.as_of)
    prices = market.prices.with_columns(pl.when(split).then(before * ratio).otherwise("close").alias("close"))
    panel, notices = build_returns(prices, universe.securities, as_of=market.as_of, history_days=30)
    assert np.isnan(panel.values[-1, panel.securities.labels.index("REST-00")])
    assert [(n.code, n.severity) for n in notices] == [("prices.split", "warn")]


def test_a_large_move_that_is_no_split_is_kept_with_a_warning(market: Market, universe: Universe) -> None:
    before = price_of(market, "REST-00").filter(pl.col("date") < market.as_of)["close"][-1]
    fall = (pl.col("security_id") == "REST-00") & (pl.col("date") == market.as_of)
    prices = market.prices.with_columns(pl.when(fall).then(before * 0.38).otherwise("close").alias("close"))
    panel, notices = build_returns(prices, universe.securities, as_of=market.as_of, history_days=30)
    assert panel.values[-1, panel.securities.labels.index("REST-00")] == pytest.approx(-0.62)
    assert [n.message for n in notices] == [f"REST-00: moved -62.0% on {market.as_of}; kept"]


def test_stale_series_and_bad_rows_set_their_security_aside(market: Market, universe: Universe) -> None:
    name = pl.col("security_id")
    prices = market.prices.with_columns(
        pl.when(name == "REST-00").then(50.0).when((name == "REST-01") & (pl.col("date") == market.as_of)).then(np.nan)
        .otherwise("close").alias("close")
    ).filter((name != "REST-02") | (pl.col("date") < market.as_of - dt.timedelta(days=30)))  # fmt: skip
    panel, notices = build_returns(prices, universe.securities, as_of=market.as_of, history_days=60)
    assert not {"REST-00", "REST-01", "REST-02"} & set(panel.securities.labels)
    assert {n.code for n in notices if n.severity == "quarantine"} == {"prices.stale", "prices.close.nan"}


def test_prices_of_unlisted_names_are_ignored_with_a_warning(market: Market, universe: Universe) -> None:
    few = universe.securities.filter(pl.col("security_id") != "FUND")
    panel, notices = build_returns(market.prices, few, as_of=market.as_of, history_days=30)
    assert "FUND" not in panel.securities
    assert [n.message for n in notices] == ["1 priced ids are not listed: FUND"]


def test_the_order_of_price_rows_changes_nothing(market: Market, universe: Universe) -> None:
    first, _ = build_returns(market.prices, universe.securities, as_of=market.as_of, history_days=100)
    shuffled = market.prices.sample(fraction=1.0, shuffle=True, seed=5)
    second, _ = build_returns(shuffled, universe.securities, as_of=market.as_of, history_days=100)
    np.testing.assert_array_equal(first.values, second.values)
    assert first.securities == second.securities and first.dates == second.dates


def test_decay_weights_halve_after_a_half_life_and_sum_to_one() -> None:
    weights = decay_weights(100, 10.0)
    assert weights.sum() == pytest.approx(1.0, abs=1e-15)
    assert weights[-11] / weights[-1] == pytest.approx(0.5, rel=1e-12)


def test_the_market_is_the_cap_weighted_mean_of_stocks_only(market: Market, universe: Universe) -> None:
    panel, _ = build_returns(market.prices, universe.securities, as_of=market.as_of, history_days=5)
    table = {row["security_id"]: row for row in universe.securities.iter_rows(named=True)}
    for day in range(5):
        caps = np.array([table[name]["market_cap_base"] or 0.0 for name in panel.securities.labels])
        price = np.array([table[name]["price"] for name in panel.securities.labels])
        seen = np.isfinite(panel.values[day]) & np.isfinite(panel.previous_close[day])
        weights = np.where(seen, caps / price * np.where(seen, panel.previous_close[day], 0.0), 0.0)
        expected = weights @ np.where(seen, panel.values[day], 0.0) / weights.sum()
        assert market_returns(panel, universe)[day] == pytest.approx(expected, abs=1e-15)


def test_a_named_proxy_is_the_market(market: Market, universe: Universe) -> None:
    proxied = with_settings(universe, market={"proxy": "FUND"})
    panel, _ = build_returns(market.prices, universe.securities, as_of=market.as_of, history_days=100)
    np.testing.assert_array_equal(
        market_returns(panel, proxied), panel.values[:, panel.securities.labels.index("FUND")]
    )


def test_measured_factors_follow_the_planted_ones(market: Market, calibration: Calibration) -> None:
    measured = calibration.factors.values
    for k, name in enumerate(FACTORS):
        assert np.corrcoef(measured[:, k], market.factor_returns[:, k])[0, 1] > 0.97, name


def test_pure_factors_are_uncorrelated_with_the_market_under_the_decay(calibration: Calibration) -> None:
    values = calibration.factors.values
    weights = decay_weights(len(values), 252.0)
    centred = values - weights @ values
    covariance = (centred * weights[:, None]).T @ centred
    np.testing.assert_allclose(covariance[0, 1:], 0.0, atol=1e-15)


def test_a_pure_factor_is_the_basket_less_its_beta_times_the_market(calibration: Calibration) -> None:
    factors = calibration.factors
    rebuilt = factors.values[:, 1:] + np.outer(factors.values[:, 0], factors.beta)
    np.testing.assert_allclose(rebuilt, factors.basket_returns, atol=1e-16)
    at = calibration.panel.securities.positions(core_names("chips"), "test")
    np.testing.assert_allclose(factors.basket_returns[:, 0], calibration.panel.values[:, at].mean(axis=1), atol=1e-16)


def test_square_root_cap_baskets_weigh_by_cap(market: Market, universe: Universe) -> None:
    caps = pl.when(pl.col("security_id") == "CHIPS-0").then(4.0).otherwise(1.0) * pl.col("market_cap_base")
    settings = {**universe.settings.calibration.model_dump(), "basket_weights": "sqrt_cap"}
    changed = with_settings(universe, calibration=settings)
    changed = build_universe(changed.settings, universe.securities.with_columns(caps.alias("market_cap_base")), "s")
    panel, _ = build_returns(market.prices, changed.securities, as_of=market.as_of, history_days=100)
    at = panel.securities.positions(core_names("chips"), "test")
    weights = np.array([2.0] + [1.0] * (CORE_NAMES - 1)) / (CORE_NAMES + 1)
    np.testing.assert_allclose(build_factors(panel, changed).basket_returns[:, 0], panel.values[:, at] @ weights)


def test_planted_exposures_are_recovered(market: Market, calibration: Calibration) -> None:
    names = calibration.model.securities.labels
    old = [i for i, name in enumerate(names) if name != YOUNG]
    truth = market.exposures[[market.names.index(names[i]) for i in old]]
    error = calibration.model.exposures[old] - truth
    assert np.abs(error).max() < 0.35
    assert (np.sqrt((error**2).mean(axis=0)) < 0.10).all()
    assert np.corrcoef(calibration.model.exposures[old, 0], truth[:, 0])[0, 1] > 0.90


def test_shrinking_to_the_membership_is_closer_to_the_truth_than_the_bare_regression(
    market: Market, calibration: Calibration
) -> None:
    panel, factors = calibration.panel, calibration.factors
    declared = [f"{tier.upper()}-D{number}" for tier in TIERS for number in range(4)]
    weights = decay_weights(len(panel.dates), 252.0)
    regressors = np.column_stack([np.ones(len(weights)), factors.values])
    errors = []
    for name in declared:
        y = panel.values[:, panel.securities.labels.index(name)]
        bare = np.linalg.solve(regressors.T * weights @ regressors, regressors.T * weights @ y)[1:]
        truth = market.exposures[market.names.index(name)]
        shrunk = calibration.exposures.values[calibration.panel.securities.labels.index(name)]
        errors.append([((bare - truth) ** 2).sum(), ((shrunk - truth) ** 2).sum()])
    bare_error, shrunk_error = np.mean(errors, axis=0)
    assert shrunk_error < bare_error


def test_a_young_listing_keeps_its_prior_and_says_so(market: Market, calibration: Calibration) -> None:
    exposures = calibration.exposures
    at = exposures.securities.labels.index(YOUNG)
    assert exposures.n_days[at] == YOUNG_DAYS - 1
    assert (exposures.prior_share[at] == 1.0).all()
    chips = 1 + TIERS.index("chips")
    expected = np.zeros(len(FACTORS))
    expected[[0, chips]] = calibration.curve.beta[chips - 1], 1.0
    np.testing.assert_array_equal(exposures.values[at], expected)
    assert [n.message for n in calibration.notices if n.code == "prices.short_history"] == [
        f"{YOUNG}: {YOUNG_DAYS - 1} daily returns, fewer than 63; it keeps its prior"
    ]


def test_the_share_of_the_prior_grows_as_the_history_shrinks(market: Market, universe: Universe) -> None:
    late = market.prices.filter(
        (pl.col("security_id") != "REST-03") | (pl.col("date") > market.as_of - dt.timedelta(120))
    )
    shares = []
    for prices in (market.prices, late):
        panel, _ = build_returns(prices, universe.securities, as_of=market.as_of, history_days=504)
        exposures = estimate_exposures(panel, build_factors(panel, universe), universe)
        shares.append(exposures.prior_share[exposures.securities.labels.index("REST-03")])
    assert (shares[1] > shares[0]).all() and (shares[1] < 1.0).all() and (shares[0] >= 0.0).all()


def test_a_core_name_is_measured_against_the_basket_without_it(market: Market, universe: Universe) -> None:
    random = np.random.default_rng(3)
    own = price_of(market, "CHIPS-0")
    wild = 100.0 * np.cumprod(1.0 + random.normal(0.0, 0.02, own.height))
    noise = own.with_columns(pl.Series("close", wild))
    prices = pl.concat([market.prices.filter(pl.col("security_id") != "CHIPS-0"), noise])
    panel, _ = build_returns(prices, universe.securities, as_of=market.as_of, history_days=504)
    factors = build_factors(panel, universe)
    exposures = estimate_exposures(panel, factors, universe)
    weights = decay_weights(504, 252.0)
    y = panel.values[:, panel.securities.labels.index("CHIPS-0")]
    including = np.column_stack([np.ones(504), factors.values])
    biased = np.linalg.solve(including.T * weights @ including, including.T * weights @ y)[2]
    measured = exposures.values[exposures.securities.labels.index("CHIPS-0"), 1]
    prior = 1.0
    unshrunk = (measured - exposures.prior_share[exposures.securities.labels.index("CHIPS-0"), 1] * prior) / (
        1.0 - exposures.prior_share[exposures.securities.labels.index("CHIPS-0"), 1]
    )
    assert biased > 0.5
    assert abs(unshrunk) < 0.35


def test_residuals_are_what_the_exposures_leave_about_their_mean(calibration: Calibration) -> None:
    left = calibration.panel.values - calibration.factors.values @ calibration.exposures.values.T
    weights = decay_weights(504, 252.0)
    at = calibration.panel.securities.labels.index("REST-00")
    np.testing.assert_allclose(calibration.exposures.residuals[:, at], left[:, at] - weights @ left[:, at], atol=1e-16)
    np.testing.assert_array_equal(np.isnan(calibration.exposures.residuals), np.isnan(calibration.panel.values))


def test_a_membership_implies_its_prior(universe: Universe) -> None:
    names = Axis("security", ("REST-00", STRADDLER, "CHIPS-0", "GRID-D2"))
    beta = np.array([1.5, 1.2, 0.9])
    prior = membership_prior(names, universe.memberships, Axis("tier", TIERS), beta)
    np.testing.assert_allclose(
        prior, [[1, 0, 0, 0], [1.2, 0.5, 0, 0.5], [1.5, 1, 0, 0], [0.6 * 1.2 + 0.4, 0, 0.6, 0]], atol=1e-15
    )


def test_membership_shares_with_off_curve_sum_to_one(calibration: Calibration) -> None:
    shares = calibration.curve.shares(calibration.model.securities)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-15)
    at = calibration.model.securities.labels.index
    assert shares[at(STRADDLER)].tolist() == [0.5, 0.0, 0.5, 0.0]
    assert shares[at(LINES[0])].tolist() == [0.0, 0.0, 0.0, 1.0]


def test_a_curve_survives_its_own_tables(calibration: Calibration) -> None:
    again = Curve.from_frames(calibration.curve.frame, calibration.curve.memberships.reverse(), "test")
    assert again.tiers == calibration.curve.tiers
    np.testing.assert_array_equal(again.beta, calibration.curve.beta)
    lost = calibration.curve.memberships.head(1).with_columns(tier=pl.lit("nope"))
    with pytest.raises(AlignmentError, match="1 tier label is unknown: nope"):
        Curve.from_frames(calibration.curve.frame, lost, "test")


@pytest.mark.parametrize(
    ("membership", "words"),
    [
        ("chip:0.5", "membership 'chip:0.5' names unknown tier 'chip'; did you mean 'chips'?"),
        ("chips:half", "'half' is not a number; write chips:0.6"),
        ("chips:0.6;apps:0.6", "sums to 1.2; at most 1"),
        ("chips:0.5;chips:0.5", "one share in (0, 1] for each tier"),
        ("chips:-0.5", "one share in (0, 1] for each tier"),
        ("chips:nan", "one share in (0, 1] for each tier"),
    ],
)
def test_a_membership_that_cannot_be_is_refused(market: Market, membership: str, words: str) -> None:
    name = pl.col("security_id") == "REST-00"
    changed = market.securities.with_columns(
        pl.when(name).then(pl.lit(membership)).otherwise("membership").alias("membership")
    )
    with pytest.raises(ContractError) as caught:
        build_universe(market.settings, changed, "securities")
    assert words in str(caught.value) and "REST-00" in str(caught.value)


def test_core_names_must_be_listed_and_lie_on_their_tier(market: Market) -> None:
    without = market.securities.filter(pl.col("security_id") != "CHIPS-0")
    with pytest.raises(ContractError, match="core names of tier chips are not listed: CHIPS-0"):
        build_universe(market.settings, without, "securities")
    name = pl.col("security_id") == "CHIPS-0"
    elsewhere = market.securities.with_columns(
        pl.when(name).then(pl.lit("apps:1")).otherwise("membership").alias("membership")
    )
    with pytest.raises(ContractError, match=r"core name of chips, but its membership 'apps:1' has no share there"):
        build_universe(market.settings, elsewhere, "securities")


def test_baskets_from_a_table_replace_the_tiers_in_the_order_of_its_rows(market: Market) -> None:
    table = pl.DataFrame({"tier": ["b", "a", "b", "a"], "security_id": ["REST-00", "REST-01", "REST-02", "REST-03"]})
    settings = replace_baskets(market.settings, table, "baskets.csv")
    assert settings.tier_ids == ("b", "a")
    assert settings.core == {"REST-00": "b", "REST-02": "b", "REST-01": "a", "REST-03": "a"}
    with pytest.raises(ContractError, match="missing column tier"):
        replace_baskets(market.settings, table.drop("tier"), "baskets.csv")
    with pytest.raises(ContractError, match="REST-00 is core of both b and a"):
        replace_baskets(
            market.settings, table.with_columns(security_id=pl.Series(["REST-00", "REST-00", "X", "Y"])), "b"
        )


def test_a_basket_that_cannot_be_priced_is_named(market: Market, universe: Universe) -> None:
    gone = list(core_names("grid"))[1:]
    prices = market.prices.filter(~pl.col("security_id").is_in(gone))
    panel, _ = build_returns(prices, universe.securities, as_of=market.as_of, history_days=504)
    with pytest.raises(CalibrationError) as caught:
        build_factors(panel, universe)
    assert str(caught.value) == (
        "tier grid: fewer than 2 of its core names are priced on 504 of 504 days; "
        "without usable prices: GRID-1, GRID-2, GRID-3, GRID-4, GRID-5"
    )


def repeated(market: Market, day: dt.date, source: dt.date) -> pl.DataFrame:
    """The prices with the closes of one day written again under another date."""
    rows = market.prices.filter(pl.col("date") == source).with_columns(pl.lit(day).alias("date"))
    return pl.concat([market.prices.filter(pl.col("date") != day), rows])


def friday(market: Market) -> dt.date:
    """The last Friday with a Monday after it in the history."""
    days = market.prices.filter(pl.col("date") < market.as_of)["date"].unique().sort().to_list()
    return next(day for day in reversed(days) if day.weekday() == 4 and day + dt.timedelta(days=3) in days)


def test_weekend_rows_are_dropped_by_date_and_change_no_return(market: Market, universe: Universe) -> None:
    end = friday(market)
    saturday, sunday = end + dt.timedelta(days=1), end + dt.timedelta(days=2)
    prices = repeated(market, saturday, end)
    prices = pl.concat([prices, prices.filter(pl.col("date") == end).with_columns(pl.lit(sunday).alias("date"))])
    clean, _ = build_returns(market.prices, universe.securities, as_of=market.as_of, history_days=60)
    panel, notices = build_returns(prices, universe.securities, as_of=market.as_of, history_days=60)
    assert panel.dates == clean.dates
    np.testing.assert_array_equal(panel.values, clean.values)
    assert [(n.code, n.severity, n.message) for n in notices] == [
        ("prices.weekend", "warn", f"2 days dated on a Saturday or Sunday: {saturday}, {sunday}; dropped")
    ]
    assert trading_days(prices) == trading_days(market.prices)


def test_a_file_dated_mostly_on_weekends_is_refused(market: Market, universe: Universe) -> None:
    shifted = market.prices.filter(pl.col("date").dt.weekday().is_in([1, 2])).with_columns(
        pl.col("date") - pl.duration(days=2)
    )
    with pytest.raises(CalibrationError, match=r"rows are dated on a Saturday or Sunday; are the dates shifted\?"):
        build_returns(shifted, universe.securities, as_of=market.as_of, history_days=60)


def test_a_holiday_filled_forward_is_no_trading_day(market: Market, universe: Universe) -> None:
    end = friday(market)
    monday = end + dt.timedelta(days=3)
    filled = repeated(market, monday, end)
    absent, _ = build_returns(
        market.prices.filter(pl.col("date") != monday), universe.securities, as_of=market.as_of, history_days=60
    )
    panel, notices = build_returns(filled, universe.securities, as_of=market.as_of, history_days=60)
    assert panel.dates == absent.dates and monday not in panel.dates
    np.testing.assert_array_equal(panel.values, absent.values)
    assert [n.message for n in notices] == [
        f"1 day on which 95% of the names or more repeat their last close: {monday}; dropped"
    ]


def test_a_still_day_of_some_names_is_a_trading_day(market: Market, universe: Universe) -> None:
    end = friday(market)
    monday = end + dt.timedelta(days=3)
    moving = [f"REST-{number:02}" for number in range(8)]
    kept = pl.col("security_id").is_in(moving) & (pl.col("date") == monday)
    prices = pl.concat([repeated(market, monday, end).filter(~kept), market.prices.filter(kept)])
    panel, notices = build_returns(prices, universe.securities, as_of=market.as_of, history_days=60)
    assert monday in panel.dates and not notices


@pytest.mark.parametrize(
    ("ratio", "moved", "asked"),
    [(0.1 * 0.95, "-90.5%", "10:1"), (2.0 * 1.06, "+112.0%", "1:2"), (0.5 * 1.08, "-46.0%", "2:1")],
)
def test_a_move_near_a_split_is_kept_and_the_warning_asks(
    market: Market, universe: Universe, ratio: float, moved: str, asked: str
) -> None:
    before = price_of(market, "REST-00").filter(pl.col("date") < market.as_of)["close"][-1]
    row = (pl.col("security_id") == "REST-00") & (pl.col("date") == market.as_of)
    prices = market.prices.with_columns(pl.when(row).then(before * ratio).otherwise("close").alias("close"))
    panel, notices = build_returns(prices, universe.securities, as_of=market.as_of, history_days=30)
    assert panel.values[-1, panel.securities.labels.index("REST-00")] == pytest.approx(ratio - 1.0)
    assert [n.message for n in notices] == [f"REST-00: moved {moved} on {market.as_of}; kept; split {asked}?"]


def test_a_file_of_repeated_keys_says_which_and_how_many(market: Market, universe: Universe) -> None:
    few = market.prices.filter(pl.col("date") > market.as_of - dt.timedelta(days=10))
    few = few.filter(pl.col("date") <= market.as_of)
    words = rf"that is usable: {2 * few.height} of {2 * few.height} rows share security_id and date with another row "
    with pytest.raises(CalibrationError, match=words + rf"\({few.height} keys; first: APPS-0/"):
        build_returns(pl.concat([few, few]), universe.securities, as_of=market.as_of, history_days=30)


@pytest.mark.parametrize(("price", "code"), [(1e300, "prices.close.max"), (1e-300, "prices.close.min_exclusive")])
def test_an_absurd_price_sets_its_security_aside_without_an_overflow(
    market: Market, universe: Universe, price: float, code: str
) -> None:
    row = (pl.col("security_id") == "REST-00") & (pl.col("date") == market.as_of)
    prices = market.prices.with_columns(pl.when(row).then(price).otherwise("close").alias("close"))
    panel, notices = build_returns(prices, universe.securities, as_of=market.as_of, history_days=30)
    assert "REST-00" not in panel.securities and [n.code for n in notices] == [code]
    assert f"REST-00/{market.as_of}" in notices[0].message


def test_a_history_on_another_scale_keeps_the_weight_of_its_cap(market: Market, universe: Universe) -> None:
    tenth = pl.when(pl.col("security_id") == "REST-00").then(pl.col("close") / 10.0).otherwise("close").alias("close")
    usual, _ = build_returns(market.prices, universe.securities, as_of=market.as_of, history_days=60)
    panel, _ = build_returns(
        market.prices.with_columns(tenth), universe.securities, as_of=market.as_of, history_days=60
    )
    np.testing.assert_allclose(market_returns(panel, universe), market_returns(usual, universe), rtol=0, atol=1e-15)
    assert doubt_prices(usual, universe, "prices") == ()
    price = universe.securities.filter(pl.col("security_id") == "REST-00")["price"][0]
    assert [n.message for n in doubt_prices(panel, universe, "prices")] == [
        f"REST-00: closes at {price / 10:g} on {market.as_of}, securities say {price:g}; split 10:1?; "
        "its shares are its cap over that close"
    ]


def test_closes_that_dividends_may_have_moved_are_counted_in_one_warning(market: Market, universe: Universe) -> None:
    paid = pl.when(pl.col("security_id") == "REST-00").then(0.9).when(pl.col("security_id") == "REST-01").then(0.98)
    prices = market.prices.with_columns(pl.col("close") * paid.otherwise(1.0))
    panel, _ = build_returns(prices, universe.securities, as_of=market.as_of, history_days=60)
    assert [n.message for n in doubt_prices(panel, universe, "prices")] == [
        "2 closes on price_date are more than 1% from the securities' price, as later dividends adjust them: "
        "REST-00 -10.0%, REST-01 -2.0%; shares are cap over price"
    ]
    result = calibrate(prices, universe, as_of=market.as_of)
    assert [n.code for n in result.notices] == ["prices.adjusted", "prices.short_history"]


def test_a_close_on_a_day_is_that_days_or_the_last_before_it_and_none_beyond_the_panel(
    market: Market, universe: Universe
) -> None:
    panel, _ = build_returns(market.prices, universe.securities, as_of=market.as_of, history_days=60)
    end = friday(market)
    names = panel.securities.labels
    days: list[dt.date | None] = [None, market.event_date, panel.dates[0] - dt.timedelta(days=30), market.as_of]
    days += [end + dt.timedelta(days=1)] * (len(names) - len(days))
    close = panel.close_on(days)
    assert np.isnan(close[:3]).all()
    assert close[3] == price_of(market, names[3]).filter(pl.col("date") == market.as_of)["close"][0]
    assert close[10] == price_of(market, names[10]).filter(pl.col("date") == end)["close"][0]
