"""What leaving costs and how long it takes: name by name, up the hierarchy, and where volume is not known."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, seed
from hypothesis import strategies as st
from market import Market, make_holdings, make_portfolios
from scipy.sparse import csr_array

from engine.api.loading import LoadedUniverse, load_universe
from engine.api.stressing import StressResult, stress_portfolios
from engine.axes import Axis
from engine.curve.universe import LiquiditySettings, Universe
from engine.risk.calibration import Calibration
from engine.risk.portfolios import Portfolios, weigh_holdings
from engine.stress.liquidity import Depth, exit_costs, exit_times, measure_depth, unknown_volumes

TERMS = LiquiditySettings(spread_multiple=3.0, volume_multiple=0.5, impact=0.8)


@pytest.fixture(scope="module")
def result(bundled: LoadedUniverse) -> StressResult:
    """The bundled books under the universe's default scenario."""
    return stress_portfolios(bundled)


@pytest.fixture(scope="module")
def loaded(written: Path) -> LoadedUniverse:
    """The planted universe, read from its folder."""
    return load_universe(str(written))


def weighed(
    market: Market, universe: Universe, calibration: Calibration, nav: float, **books: dict[str, float]
) -> Portfolios:
    """The books as given, below one house."""
    portfolios, _ = weigh_holdings(
        make_holdings(market, books, nav=nav),
        make_portfolios(dict.fromkeys(books, "house")),
        model=calibration.model,
        curve=calibration.curve,
        universe=universe,
    )
    return portfolios


def depth_of(portfolios: Portfolios, universe: Universe) -> Depth:
    return measure_depth(portfolios.model, universe.securities, 10.0)


def test_the_cost_of_leaving_is_the_sum_of_spread_and_impact_name_by_name(
    market: Market, universe: Universe, calibration: Calibration
) -> None:
    book = {"CHIPS-0": 0.3, "REST-01": 0.5, "TWIN-A": 0.15}
    portfolios = weighed(market, universe, calibration, 4e9, book=book)
    model = calibration.model
    dense = model.exposures @ model.factor_covariance @ model.exposures.T + np.diag(model.specific_variance)
    expected = 0.0
    for name, weight in book.items():
        i = model.securities.labels.index(name)
        daily = math.sqrt(dense[i, i] / 252)
        expected += weight * (3.0 * 2e-4 + 0.8 * daily * math.sqrt(weight * 4e9 / (1e8 * 0.5)))
    costs = exit_costs(portfolios, depth_of(portfolios, universe), TERMS)
    assert portfolios.ids.labels == ("book", "house")
    assert costs == pytest.approx([expected, expected], rel=1e-12)


def test_the_bundled_books_cost_what_their_files_say(bundled: LoadedUniverse, result: StressResult) -> None:
    terms = bundled.universe.settings.stress.liquidity
    listed = {row["security_id"]: row for row in bundled.universe.securities.iter_rows(named=True)}
    model = bundled.model
    navs = dict(result.tables["portfolio_summary"].select("portfolio_id", "nav_base").iter_rows())
    costs = dict.fromkeys(navs, 0.0)
    for book, name, value in bundled.holdings.select("portfolio_id", "security_id", "market_value_base").iter_rows():
        if name.startswith("CASH:"):
            continue
        i = model.securities.labels.index(name)
        b = model.exposures[i]
        daily = math.sqrt((b @ model.factor_covariance @ b + model.specific_variance[i]) / 252)
        cost = terms.spread_multiple * listed[name]["half_spread_bps"] / 1e4
        if listed[name]["adv_base"]:
            cost += terms.impact * daily * math.sqrt(value / (listed[name]["adv_base"] * terms.volume_multiple))
        costs[book] += value / navs[book] * cost
    measured = dict(result.tables["stress"].select("portfolio_id", "liquidity").iter_rows())
    books = bundled.holdings["portfolio_id"].unique().to_list()
    assert {book: -measured[book] for book in books} == pytest.approx({book: costs[book] for book in books}, rel=1e-9)


def test_liquidity_stands_beside_the_loss_and_its_budget(result: StressResult) -> None:
    stress = result.tables["stress"]
    assert (stress["liquidity"] < 0.0).all()
    parts = stress["stated"] + stress["propagated"] + stress["specific"]
    assert stress["pnl_frac"].to_list() == pytest.approx(parts.to_list(), abs=1e-15)
    budgeted = stress.filter(pl.col("budget").is_not_null())
    assert budgeted["measured_loss"].to_list() == (-budgeted["pnl_frac"]).to_list()


def test_wider_spreads_and_thinner_volume_cost_more(
    market: Market, universe: Universe, calibration: Calibration
) -> None:
    portfolios = weighed(market, universe, calibration, 1e9, book={"GRID-0": 0.6, "REST-02": 0.3})
    depth = depth_of(portfolios, universe)
    calm = exit_costs(portfolios, depth, LiquiditySettings())[0]
    wide = exit_costs(portfolios, depth, LiquiditySettings(spread_multiple=3.0))[0]
    thin = exit_costs(portfolios, depth, LiquiditySettings(volume_multiple=0.25))[0]
    assert wide - calm == pytest.approx(0.9 * 2e-4, rel=1e-9)
    assert thin - 0.9 * 4e-4 == pytest.approx(2.0 * (calm - 0.9 * 4e-4), rel=1e-9)


def test_heavy_volume_may_not_cheapen_the_exit() -> None:
    with pytest.raises(ValueError, match="less than or equal to 1"):
        LiquiditySettings(volume_multiple=1.5)


def test_days_are_those_of_the_slowest_name_and_shares_count_the_others(
    market: Market, universe: Universe, calibration: Calibration
) -> None:
    # A tenth of USD 100m a day: 30m takes 3 days, 5m half a day, 64m 6.4 days.
    portfolios = weighed(market, universe, calibration, 1e8, book={"REST-00": 0.30, "REST-01": 0.05, "REST-02": 0.64})
    row = exit_times(portfolios, depth_of(portfolios, universe), 0.10).row(0, named=True)
    assert row["days_to_liquidate"] == pytest.approx(6.4, rel=1e-9)
    assert row["sold_in_1_day"] == pytest.approx((10.0 + 5.0 + 10.0) / 99.0, rel=1e-9)
    assert row["sold_in_5_days"] == pytest.approx((30.0 + 5.0 + 50.0) / 99.0, rel=1e-9)


def test_cash_costs_nothing_and_is_sold_at_once(market: Market, universe: Universe, calibration: Calibration) -> None:
    portfolios = weighed(market, universe, calibration, 1e9, cash={}, half={"REST-00": 0.5})
    depth = depth_of(portfolios, universe)
    assert exit_costs(portfolios, depth, TERMS)[0] == 0.0
    times = exit_times(portfolios, depth, 0.1).row(0, named=True)
    assert times == {"portfolio_id": "cash", "days_to_liquidate": 0.0, "sold_in_1_day": 1.0, "sold_in_5_days": 1.0}


@pytest.mark.parametrize("volume", [None, 0.0])
def test_an_unknown_volume_is_named_has_no_days_and_counts_as_unsold(
    market: Market, universe: Universe, calibration: Calibration, volume: float | None
) -> None:
    portfolios = weighed(
        market, universe, calibration, 1e8, known={"REST-00": 0.4}, one={"REST-00": 0.1, "REST-01": 0.3}
    )
    blank = pl.when(pl.col("security_id") == "REST-01").then(pl.lit(volume)).otherwise("adv_base").alias("adv_base")
    securities = universe.securities.with_columns(blank)
    depth = measure_depth(portfolios.model, securities, 10.0)
    full = exit_costs(portfolios, depth_of(portfolios, universe), TERMS)
    costs = exit_costs(portfolios, depth, TERMS)
    assert costs[0] == full[0] and 0.3 * 3.0 * 2e-4 < costs[1] < full[1]
    times = exit_times(portfolios, depth, 0.1).to_dict(as_series=False)
    assert times["portfolio_id"] == ["known", "one", "house"]
    assert times["days_to_liquidate"] == [pytest.approx(4.0), None, None]
    assert times["sold_in_5_days"][1] == pytest.approx(0.25)
    (notice,) = unknown_volumes(portfolios, securities)
    assert notice.severity == "warn" and "1 held names have no adv_base (REST-01)" in notice.message
    assert unknown_volumes(portfolios, universe.securities) == ()


def test_a_name_without_a_spread_pays_the_universes(
    market: Market, universe: Universe, calibration: Calibration
) -> None:
    portfolios = weighed(market, universe, calibration, 1e6, book={"REST-00": 0.5})
    blank = pl.when(pl.col("security_id") != "REST-00").then("half_spread_bps").alias("half_spread_bps")
    depth = measure_depth(portfolios.model, universe.securities.with_columns(blank), 25.0)
    column = portfolios.model.securities.labels.index("REST-00")
    assert depth.half_spread[column] == 25e-4
    assert set(np.delete(depth.half_spread, column)) == {2e-4}


@seed(20250127)
@given(
    st.lists(st.lists(st.floats(0.0, 0.25), min_size=4, max_size=4), min_size=2, max_size=4),
    st.lists(st.floats(1e6, 1e11), min_size=4, max_size=4),
)
def test_leaving_a_parent_costs_at_least_what_leaving_its_books_costs(
    loaded: LoadedUniverse, weights: list[list[float]], navs: list[float]
) -> None:
    model = loaded.model
    n = len(weights)
    nav = np.array(navs[:n])
    below = np.zeros((n, len(model.securities)))
    below[:, model.securities.positions(["CHIPS-0", "GRID-1", "REST-00", "FUND"], "test")] = weights
    rows = np.vstack([below, nav @ below / nav.sum()])
    portfolios = Portfolios(
        as_of=model.as_of,
        ids=Axis("portfolio", (*[f"b{i}" for i in range(n)], "house")),
        is_parent=np.append(np.zeros(n, dtype=bool), True),
        model=model,
        weights=csr_array(rows),
        cash=1.0 - rows.sum(axis=1),
        nav=np.append(nav, nav.sum()),
        table=pl.DataFrame(),
        holdings=pl.DataFrame(),
        empty=(),
    )
    depth = measure_depth(model, loaded.universe.securities, 10.0)
    money = exit_costs(portfolios, depth, TERMS) * portfolios.nav
    assert money[-1] >= money[:-1].sum() * (1.0 - 1e-12)
    days = exit_times(portfolios, depth, 0.1)["days_to_liquidate"].to_list()
    assert days[-1] >= max(days[:-1]) * (1.0 - 1e-12)


def test_a_parent_is_left_as_one_position_a_name(bundled: LoadedUniverse, result: StressResult) -> None:
    stress = result.tables["stress"].with_columns((-pl.col("liquidity") * pl.col("nav_base")).alias("money"))
    money = dict(stress.select("portfolio_id", "money").iter_rows())
    parents = bundled.portfolios.select("portfolio_id", "parent_id").drop_nulls()
    for parent in parents["parent_id"].unique().to_list():
        below = parents.filter(pl.col("parent_id") == parent)["portfolio_id"].to_list()
        assert money[parent] > sum(money[book] for book in below)


def test_the_multiples_of_a_universe_are_what_its_file_says(folder: Path, loaded: LoadedUniverse) -> None:
    written = json.loads((folder / "universe.yaml").read_text())
    written["stress"]["liquidity"] = {"spread_multiple": 2.0, "impact": 0.0}
    (folder / "universe.yaml").write_text(json.dumps(written))
    flat = stress_portfolios(load_universe(str(folder))).tables["stress"]
    invested = dict(
        loaded.holdings.filter(pl.col("security_id") != "CASH:USD")
        .group_by("portfolio_id")
        .agg(pl.col("market_value_base").sum() / 1e6)
        .iter_rows()
    )
    costs = {book: -value for book, value in flat.select("portfolio_id", "liquidity").iter_rows() if book != "house"}
    assert costs == pytest.approx({book: 2.0 * 2e-4 * share for book, share in invested.items()}, rel=1e-9)
