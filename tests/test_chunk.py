"""The pipeline end to end: the bundled books certified, the odd ones set aside, one row whatever happens."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from market import LINES, Market, make_holdings, make_portfolios

from engine.api.loading import LoadedUniverse, load_universe
from engine.api.rebalancing import RebalanceResult, rebalance_portfolios
from engine.api.stressing import stress_portfolios
from engine.contracts import CONTRACTS
from engine.errors import DataError, UsageError
from engine.intake import admit
from engine.mandates.mandate import Mandate

BREACHING = ("ai_infrastructure", "equal_weight_curve", "momentum_growth", "power_and_grid")
SOUND = "quality_core"


@pytest.fixture(scope="module")
def result(bundled: LoadedUniverse) -> RebalanceResult:
    """The bundled books, rebalanced."""
    return rebalance_portfolios(bundled)


def rows(frame: pl.DataFrame, *columns: str, **where: Any) -> list[tuple[Any, ...]]:
    for column, value in where.items():
        frame = frame.filter(pl.col(column) == value)
    return frame.select(columns).rows()


def books_of(bundled: LoadedUniverse) -> list[str]:
    return bundled.portfolios.filter(pl.col("mandate_id").is_not_null())["portfolio_id"].sort().to_list()


def money_of(loaded: LoadedUniverse) -> dict[str, float]:
    sums = loaded.holdings.group_by("portfolio_id").agg(pl.col("market_value_base").sum())
    listed = dict(loaded.portfolios.select("portfolio_id", "nav_base").iter_rows())
    return {book: listed[book] or total for book, total in sums.iter_rows()}


def weights_by_hand(loaded: LoadedUniverse, book: str) -> dict[str, float]:
    nav = money_of(loaded)[book]
    lines = loaded.holdings.filter(pl.col("portfolio_id") == book).select("security_id", "market_value_base")
    return {name: value / nav for name, value in lines.iter_rows() if not name.startswith("CASH:")}


def after_by_hand(result: RebalanceResult, book: str) -> dict[str, float]:
    return dict(rows(result.tables["targets"], "security_id", "weight_after", portfolio_id=book))


def mandate_of(loaded: LoadedUniverse, book: str) -> Mandate:
    return loaded.mandates[dict(loaded.portfolios.select("portfolio_id", "mandate_id").iter_rows())[book]]


def shock_of(result: RebalanceResult) -> dict[str, float]:
    return dict(rows(result.tables["shocks"], "security_id", "total", scenario_id="deepseek"))


def test_all_sixteen_bundled_books_are_certified(bundled: LoadedUniverse, result: RebalanceResult) -> None:
    both = result.tables["certificates"]
    assert set(both["status"]) == {"certified"}
    assert both["max_violation"].max() <= 1e-9
    table = both.filter(pl.col("form") == "continuous")
    assert table["portfolio_id"].to_list() == books_of(bundled)
    assert both.filter(pl.col("form") == "published")["portfolio_id"].to_list() == books_of(bundled)
    assert table.height == 16
    assert set(table["status"]) == {"certified"}
    assert table["max_violation"].max() <= 1e-9
    assert table["relative_gap"].max() <= 1e-6
    # A limit missed by v may lower the objective by its shadow price times v, below what exact answers can reach.
    prices = result.tables["limits"].group_by("portfolio_id").agg(pl.col("shadow_price").max())
    joined = table.join(prices, on="portfolio_id", how="left", validate="1:1").with_columns(
        (pl.col("shadow_price").fill_null(0.0) * pl.col("max_violation")).alias("missed")
    )
    assert (joined["lower_bound"] <= joined["objective"] * (1.0 + 1e-6) + 1e-12 + joined["missed"]).all()


def test_the_books_that_breach_before_keep_their_budget_after(result: RebalanceResult) -> None:
    stress = result.tables["stress"].filter(pl.col("scenario_id") == "deepseek")
    before = stress.filter((pl.col("stage") == "before") & pl.col("breach"))["portfolio_id"].to_list()
    assert tuple(before) == BREACHING
    assert not stress.filter((pl.col("stage") == "after") & pl.col("breach")).height
    after = stress.filter((pl.col("stage") == "after") & pl.col("portfolio_id").is_in(BREACHING))
    assert after["measured_loss"].to_list() == pytest.approx(after["budget"].to_list(), abs=1e-8)


def test_the_turnover_of_every_book_is_the_sum_of_its_trades_and_inside_its_cap(
    bundled: LoadedUniverse, result: RebalanceResult
) -> None:
    trades = result.tables["trades"]
    for book, turnover in rows(result.tables["portfolio_summary"], "portfolio_id", "turnover", stage="after"):
        if book in books_of(bundled):
            traded = sum(abs(weight) for (weight,) in rows(trades, "trade_weight", portfolio_id=book))
            assert turnover == pytest.approx(traded, abs=1e-15)
            assert turnover <= 0.30 + 1e-9
        else:
            assert turnover is None


def test_targets_hold_todays_weights_as_the_holdings_give_them(
    bundled: LoadedUniverse, result: RebalanceResult
) -> None:
    for book in books_of(bundled):
        before = dict(rows(result.tables["targets"], "security_id", "weight_before", portfolio_id=book))
        held = weights_by_hand(bundled, book)
        assert {name: weight for name, weight in before.items() if weight} == pytest.approx(held, abs=1e-15)


def test_trades_are_the_difference_of_the_targets_and_nothing_else(result: RebalanceResult) -> None:
    moved = result.tables["targets"].with_columns(
        (pl.col("weight_after") - pl.col("weight_before")).alias("trade_weight")
    )
    moved = moved.filter(pl.col("trade_weight") != 0.0)
    trades = result.tables["trades"]
    assert moved.select("portfolio_id", "security_id").equals(trades.select("portfolio_id", "security_id"))
    assert moved["trade_weight"].to_list() == pytest.approx(trades["trade_weight"].to_list(), abs=1e-15)
    assert (trades["side"] == "buy").to_list() == (trades["trade_weight"] > 0.0).to_list()


def test_trades_carry_shares_money_volume_and_a_reason(bundled: LoadedUniverse, result: RebalanceResult) -> None:
    listed = bundled.universe.securities.select("security_id", "price", "adv_base")
    navs = pl.DataFrame(list(money_of(bundled).items()), schema=["portfolio_id", "nav"], orient="row")
    trades = result.tables["trades"].join(listed, on="security_id").join(navs, on="portfolio_id")
    notional = trades["trade_weight"].abs() * trades["nav"]
    assert trades["notional_base"].to_list() == pytest.approx(notional.to_list())
    assert (trades["quantity"] * trades["price"]).to_list() == pytest.approx(notional.to_list(), rel=1e-9)
    shares = (trades["notional_base"] / trades["adv_base"]).to_list()
    assert trades["adv_share"].to_list() == pytest.approx(shares, nan_ok=True)
    assert all(trades["reason"].to_list())
    reasons = trades.filter(pl.col("portfolio_id") == "ai_infrastructure")["reason"].to_list()
    assert "limit stress:deepseek" in reasons


def test_costs_are_half_spreads_times_what_is_traded(bundled: LoadedUniverse, result: RebalanceResult) -> None:
    spreads = dict(bundled.universe.securities.select("security_id", "half_spread_bps").iter_rows())
    by_book: dict[str, float] = {}
    columns = ("portfolio_id", "security_id", "notional_base", "cost_base")
    for book, name, notional, cost in rows(result.tables["trades"], *columns):
        bps = spreads[name] if spreads[name] is not None else mandate_of(bundled, book).costs.half_spread_bps
        assert cost == pytest.approx(notional * bps / 1e4)
        by_book[book] = by_book.get(book, 0.0) + cost
    found = dict(rows(result.tables["portfolio_summary"], "portfolio_id", "cost_base", stage="after"))
    assert {book: found[book] for book in by_book} == pytest.approx(by_book)


def test_cash_after_is_cash_before_less_purchases_and_costs(bundled: LoadedUniverse, result: RebalanceResult) -> None:
    summary = result.tables["portfolio_summary"]
    before = dict(rows(summary, "portfolio_id", "cash_weight", stage="before"))
    after = dict(rows(summary, "portfolio_id", "cash_weight", stage="after"))
    for book, nav in money_of(bundled).items():
        trades = rows(result.tables["trades"], "trade_weight", "cost_base", portfolio_id=book)
        assert after[book] == pytest.approx(before[book] - sum(w + cost / nav for w, cost in trades), abs=1e-12)


def test_the_limits_table_says_what_the_targets_say(bundled: LoadedUniverse, result: RebalanceResult) -> None:
    shock = shock_of(result)
    spreads = dict(bundled.universe.securities.select("security_id", "half_spread_bps").iter_rows())
    shares = {(s, t): w for s, t, w in bundled.curve.memberships.select("security_id", "tier", "weight").iter_rows()}

    def on_curve(name: str) -> float:
        return sum(shares.get((name, tier), 0.0) for tier in bundled.curve.tiers.labels)

    for book in books_of(bundled):
        mandate, x0, x = mandate_of(bundled, book), weights_by_hand(bundled, book), after_by_hand(result, book)
        traded = {name: abs(x.get(name, 0.0) - x0.get(name, 0.0)) for name in {*x, *x0}}
        default = mandate.costs.half_spread_bps
        bps = {name: default if spreads.get(name) is None else spreads[name] for name in traded}
        spent = sum(bps[name] / 1e4 * size for name, size in traded.items())
        limits = {
            name: (bound, before, after, slack, breach_before, breach)
            for name, bound, before, after, slack, breach_before, breach in rows(
                result.tables["limits"],
                *("limit_id", "bound", "before", "after", "slack", "breach_before", "breach"),
                portfolio_id=book,
            )
        }
        expected = {
            "turnover": (mandate.limits.turnover, 0.0, sum(traded.values()), 1),
            "cash:min": (mandate.limits.cash.min, 1.0 - sum(x0.values()), 1.0 - sum(x.values()) - spent, -1),
            "stress:deepseek": (
                mandate.limits.stress[0].max_loss,
                -sum(shock[name] * weight for name, weight in x0.items()),
                -sum(shock[name] * weight for name, weight in x.items()),
                1,
            ),
        }
        for tier, band in mandate.limits.tiers.items():
            share = {
                name: 1.0 - on_curve(name) if tier == "off_curve" else shares.get((name, tier), 0.0) for name in traded
            }
            sums = (sum(share[name] * weight for name, weight in side.items()) for side in (x0, x))
            expected[f"tier:{tier}:max"] = (band.max, *sums, 1)
        for name, (bound, before, after, sign) in expected.items():
            assert limits[name][:3] == pytest.approx((bound, before, after), abs=1e-12), (book, name)
            assert limits[name][3] == pytest.approx(sign * (bound - after), abs=1e-12)
            assert limits[name][4] == (sign * (bound - before) < -1e-9)
            assert limits[name][5] is False


def test_every_name_stays_inside_its_weight_limits(bundled: LoadedUniverse, result: RebalanceResult) -> None:
    for book in books_of(bundled):
        limits = mandate_of(bundled, book).limits
        for name, weight in after_by_hand(result, book).items():
            band = limits.weights.get(name)
            assert (band.min if band else 0.0) <= weight <= (band.max if band else limits.max_weight), (book, name)


def test_nothing_is_bought_that_is_neither_held_nor_in_the_benchmark_nor_on_the_buy_list(
    bundled: LoadedUniverse, result: RebalanceResult
) -> None:
    benchmark = dict(bundled.portfolios.select("portfolio_id", "benchmark_id").iter_rows())
    for book in books_of(bundled):
        index = [name for (name,) in rows(bundled.benchmarks, "security_id", benchmark_id=benchmark[book] or "none")]
        mandate = mandate_of(bundled, book)
        allowed = {*weights_by_hand(bundled, book), *index, *mandate.buy_list, *mandate.limits.weights}
        assert set(after_by_hand(result, book)) <= allowed


def test_the_stress_after_is_the_weights_after_times_the_shocks(
    bundled: LoadedUniverse, result: RebalanceResult
) -> None:
    shock = shock_of(result)
    after = dict(rows(result.tables["stress"], "portfolio_id", "pnl_frac", stage="after", scenario_id="deepseek"))
    for book in books_of(bundled):
        by_hand = sum(shock[name] * weight for name, weight in after_by_hand(result, book).items())
        assert after[book] == pytest.approx(by_hand, abs=1e-13)


def test_parents_after_are_the_nav_weighted_books_after(bundled: LoadedUniverse, result: RebalanceResult) -> None:
    after = dict(rows(result.tables["stress"], "portfolio_id", "pnl_base", stage="after", scenario_id="deepseek"))
    parent = dict(bundled.portfolios.select("portfolio_id", "parent_id").iter_rows())
    for above in ("core", "thematic", "multi_asset"):
        assert after[above] == pytest.approx(sum(after[b] for b in books_of(bundled) if parent[b] == above))
    assert after["firm"] == pytest.approx(sum(after[book] for book in books_of(bundled)))


def test_every_portfolio_has_one_row_at_each_stage(bundled: LoadedUniverse, result: RebalanceResult) -> None:
    found = result.tables["portfolio_summary"].select("portfolio_id", "stage")
    listed = bundled.portfolios["portfolio_id"].to_list()
    assert found.rows() == sorted((name, stage) for name in listed for stage in ("before", "after"))


def test_every_table_keeps_its_contract_and_is_sorted_by_its_key(result: RebalanceResult) -> None:
    for name, table in result.tables.items():
        assert admit(table, name, "result").frame.equals(table), name
        assert list(table.columns) == list(CONTRACTS[name].columns)


# Books that are not as they should be. Each stands beside a sound one, which must be certified.


def status_of(result: RebalanceResult) -> dict[str, str]:
    found = result.tables["portfolio_summary"]
    both = [dict(rows(found, "portfolio_id", "status", stage=stage)) for stage in ("before", "after")]
    assert both[0] == both[1]
    return both[1]


def with_lines(loaded: LoadedUniverse, book: str, change: Iterable[pl.Expr], security: str) -> LoadedUniverse:
    at = (pl.col("portfolio_id") == book) & (pl.col("security_id") == security)
    assert loaded.holdings.filter(at).height == 1
    changed = [pl.when(at).then(e).otherwise(pl.col(e.meta.output_name())).alias(e.meta.output_name()) for e in change]
    return replace(loaded, holdings=loaded.holdings.with_columns(changed))


def check_set_aside(loaded: LoadedUniverse, book: str, code: str, words: str) -> None:
    result = rebalance_portfolios(loaded.only([book, SOUND]))
    status = status_of(result)
    assert (status[book], status[SOUND]) == ("quarantined", "certified")
    found = rows(result.tables["exceptions"], "severity", "message", portfolio_id=book, code=code)
    assert [severity for severity, _ in found] == ["quarantine"]
    assert words in found[0][1]
    assert not rows(result.tables["trades"], "security_id", portfolio_id=book)
    assert not rows(result.tables["certificates"], "status", portfolio_id=book)
    assert not rows(result.tables["limits"], "limit_id", portfolio_id=book)
    for name, table in result.tables.items():
        assert admit(table, name, "result").frame.equals(table), name


def test_a_book_with_nan_is_set_aside(bundled: LoadedUniverse) -> None:
    broken = with_lines(bundled, "cloud_platforms", [pl.lit(float("nan")).alias("market_value_base")], "AMZN")
    check_set_aside(broken, "cloud_platforms", "holdings.market_value_base.nan", "AMZN")


def test_a_book_with_too_much_in_an_unknown_name_is_set_aside(bundled: LoadedUniverse) -> None:
    broken = with_lines(bundled, "cloud_platforms", [pl.lit("NOBODY").alias("security_id")], "AMZN")
    check_set_aside(broken, "cloud_platforms", "holdings.unmapped", "NOBODY")


def test_a_book_with_a_short_position_is_set_aside_and_measured_unchanged(bundled: LoadedUniverse) -> None:
    change = [-pl.col("quantity"), -pl.col("market_value_base")]
    broken = with_lines(bundled, "cloud_platforms", change, "AMZN")
    broken = replace(
        broken,
        portfolios=broken.portfolios.with_columns(
            pl.when(pl.col("portfolio_id") == "cloud_platforms").then(None).otherwise("nav_base").alias("nav_base")
        ),
    )
    check_set_aside(broken, "cloud_platforms", "book.short", "short in AMZN; mandate concentrated is long-only")
    stress = rebalance_portfolios(broken.only(["cloud_platforms"])).tables["stress"]
    before, after = (rows(stress, "pnl_frac", portfolio_id="cloud_platforms", stage=s) for s in ("before", "after"))
    assert before == after != []


def test_a_book_whose_benchmark_is_missing_is_set_aside(bundled: LoadedUniverse) -> None:
    broken = replace(bundled, benchmarks=bundled.benchmarks.clear())
    check_set_aside(broken, "index_tracker", "benchmarks.unusable", "benchmark us_large_cap: no weights")


def test_a_book_whose_benchmark_does_not_sum_to_one_is_set_aside(bundled: LoadedUniverse) -> None:
    broken = replace(bundled, benchmarks=bundled.benchmarks.with_columns(pl.col("weight") * 2.0))
    check_set_aside(broken, "index_tracker", "benchmarks.unusable", "its weights sum to 2, expected 1")


def test_a_book_whose_benchmark_holds_an_unknown_name_is_set_aside(bundled: LoadedUniverse) -> None:
    stranger = pl.when(pl.col("security_id") == "AAPL").then(pl.lit("NOBODY")).otherwise(pl.col("security_id"))
    broken = replace(bundled, benchmarks=bundled.benchmarks.with_columns(stranger.alias("security_id")))
    check_set_aside(broken, "index_tracker", "benchmarks.unusable", "the model does not know NOBODY")


def test_a_book_that_budgets_a_scenario_which_cannot_run_is_set_aside(bundled: LoadedUniverse) -> None:
    words = bundled.mandates["concentrated"].model_dump()
    words["limits"]["stress"] = ({"scenario": "nowhere", "max_loss": 0.1},)
    library, _ = bundled.library.with_text("id: nowhere\nkind: hope", "nowhere.yaml")
    broken = replace(
        bundled,
        library=library,
        mandates={**bundled.mandates, "concentrated": Mandate.model_validate(words)},
    )
    check_set_aside(
        broken, "cloud_platforms", "book.scenario", "mandate concentrated budgets nowhere, which cannot run"
    )
    assert rebalance_portfolios(broken.only(["cloud_platforms"])).refused == (
        "nowhere.yaml:2:7: unknown kind 'hope'; allowed: shock, replay, drivers, tree, path",
    )


def test_a_book_whose_mandate_names_what_the_model_does_not_know_is_set_aside(bundled: LoadedUniverse) -> None:
    listed = Mandate.model_validate({**bundled.mandates["concentrated"].model_dump(), "buy_list": ("NOBODY",)})
    broken = replace(bundled, mandates={**bundled.mandates, "concentrated": listed})
    check_set_aside(broken, "cloud_platforms", "book.unmodelled", "names NOBODY, which the model does not know")


def test_a_book_with_a_derivative_is_set_aside(bundled: LoadedUniverse) -> None:
    half = (pl.col("market_value_base") * 0.5).alias("exposure_base")
    at = (pl.col("portfolio_id") == "cloud_platforms") & (pl.col("security_id") == "AMZN")
    holdings = bundled.holdings.with_columns(pl.when(at).then(half).otherwise("exposure_base").alias("exposure_base"))
    check_set_aside(replace(bundled, holdings=holdings), "cloud_platforms", "book.derivative", "AMZN")


def with_mandate(loaded: LoadedUniverse, book: str, **limits: Any) -> LoadedUniverse:
    mandate = mandate_of(loaded, book)
    words = mandate.model_dump()
    changed = Mandate.model_validate({**words, "limits": {**words["limits"], **limits}})
    return replace(loaded, mandates={**loaded.mandates, mandate.id: changed})


def test_a_book_that_breaches_and_may_not_trade_is_infeasible_with_a_proof(bundled: LoadedUniverse) -> None:
    must = with_mandate(bundled, "ai_infrastructure", turnover=0.0, priorities={"stress": 0})
    result = rebalance_portfolios(must.only(["ai_infrastructure"]))
    assert status_of(result)["ai_infrastructure"] == "infeasible"
    assert not result.tables["trades"].height
    ((status, conflict),) = rows(result.tables["certificates"], "status", "max_violation")
    assert status == "infeasible"
    assert conflict > 1e-6
    targets = result.tables["targets"]
    assert targets["weight_before"].equals(targets["weight_after"].alias("weight_before"))
    limits = result.tables["limits"].filter(pl.col("breach"))
    assert "stress:deepseek" in limits["limit_id"].to_list()
    assert limits["shadow_price"].null_count() == limits.height
    ((turnover, cost),) = rows(
        result.tables["portfolio_summary"], "turnover", "cost_base", stage="after", portfolio_id="ai_infrastructure"
    )
    assert (turnover, cost) == (0.0, 0.0)


def without_mandate(loaded: LoadedUniverse, book: str) -> LoadedUniverse:
    blank = pl.when(pl.col("portfolio_id") == book).then(None).otherwise("mandate_id").alias("mandate_id")
    return replace(loaded, portfolios=loaded.portfolios.with_columns(blank))


def test_a_book_without_a_mandate_is_measured_and_not_traded(bundled: LoadedUniverse) -> None:
    result = rebalance_portfolios(without_mandate(bundled, "momentum_growth").only(["momentum_growth", SOUND]))
    assert status_of(result)["momentum_growth"] == "stress_only"
    stress = result.tables["stress"]
    found = [rows(stress, "pnl_frac", "budget", portfolio_id="momentum_growth", stage=s) for s in ("before", "after")]
    assert found[0] == found[1]
    assert found[0][0][1] is None
    assert not rows(result.tables["trades"], "side", portfolio_id="momentum_growth")


def test_a_book_without_holdings_is_empty(bundled: LoadedUniverse) -> None:
    gone = replace(bundled, holdings=bundled.holdings.filter(pl.col("portfolio_id") != "momentum_growth"))
    result = rebalance_portfolios(gone.only(["momentum_growth", SOUND]))
    assert status_of(result)["momentum_growth"] == "empty"
    assert status_of(result)[SOUND] == "certified"


def test_a_run_without_one_sound_book_names_every_reason(bundled: LoadedUniverse) -> None:
    broken = with_lines(bundled, "cloud_platforms", [pl.lit(float("nan")).alias("market_value_base")], "AMZN")
    with pytest.raises(DataError, match=r"no book can be measured\n  - cloud_platforms: .*AMZN"):
        rebalance_portfolios(broken.only(["cloud_platforms"]))


def test_an_unknown_book_is_refused_with_a_suggestion(bundled: LoadedUniverse) -> None:
    with pytest.raises(UsageError, match="unknown portfolio 'quality_cor'; did you mean 'quality_core'"):
        rebalance_portfolios(bundled, only=["quality_cor"])


def all_cash(loaded: LoadedUniverse, book: str) -> LoadedUniverse:
    nav = money_of(loaded)[book]
    cash = loaded.holdings.filter(pl.col("portfolio_id") == book).head(1)
    values = {"security_id": "CASH:USD", "quantity": nav, "price": 1.0, "market_value_base": nav}
    cash = cash.with_columns([pl.lit(value).alias(name) for name, value in values.items()])
    return replace(loaded, holdings=pl.concat([loaded.holdings.filter(pl.col("portfolio_id") != book), cash]))


def test_an_all_cash_book_that_may_buy_is_invested_as_far_as_its_limits_ask(bundled: LoadedUniverse) -> None:
    loaded = with_mandate(
        all_cash(bundled, "power_and_grid"), "power_and_grid", turnover=1.0, cash={"min": 0.0, "max": 0.1}
    )
    result = rebalance_portfolios(loaded.only(["power_and_grid", SOUND]))
    assert status_of(result)["power_and_grid"] == "certified"
    assert sum(after_by_hand(result, "power_and_grid").values()) == pytest.approx(0.9, abs=1e-6)


def test_an_all_cash_book_that_may_not_trade_enough_is_infeasible(bundled: LoadedUniverse) -> None:
    loaded = with_mandate(all_cash(bundled, "power_and_grid"), "power_and_grid", priorities={"cash": 0})
    result = rebalance_portfolios(loaded.only(["power_and_grid"]))
    assert status_of(result)["power_and_grid"] == "infeasible"
    assert result.tables["certificates"]["max_violation"].to_list() == pytest.approx([0.3], abs=1e-6)


# The planted market: two lines of one issuer, and a proxied name.


@pytest.fixture(scope="module")
def planted(written: Any) -> LoadedUniverse:
    """The planted universe, loaded."""
    return load_universe(str(written))


def with_books(planted: LoadedUniverse, market: Market, books: dict[str, dict[str, float]]) -> LoadedUniverse:
    table = make_portfolios(dict.fromkeys(books, "house"), "careful")
    return replace(
        planted,
        holdings=make_holdings(market, books),
        portfolios=table.with_columns(pl.lit(None, pl.String).alias("benchmark_id"), pl.lit(None).alias("nav_base")),
    )


def test_two_lines_of_one_issuer_are_one_specific_risk_before_and_after(
    planted: LoadedUniverse, market: Market
) -> None:
    books = {"pair": {LINES[0]: 0.5, LINES[1]: 0.4}, "line": {LINES[0]: 0.9}}
    result = rebalance_portfolios(with_books(planted, market, books))
    assert status_of(result) == {"pair": "certified", "line": "certified", "house": "stress_only"}
    model = planted.model
    at = [model.securities.labels.index(name) for name in LINES]
    for stage in ("before", "after"):
        ((volatility, share),) = rows(
            result.tables["portfolio_summary"], "volatility", "specific_share", portfolio_id="pair", stage=stage
        )
        column = f"weight_{stage}"
        held = dict(rows(result.tables["targets"], "security_id", column, portfolio_id="pair"))
        w = np.array([held[name] for name in LINES])
        specific = model.specific_variance[at[0]] * w.sum() ** 2
        b = w @ model.exposures[at]
        assert volatility**2 == pytest.approx(b @ model.factor_covariance @ b + specific)
        assert share == pytest.approx(specific / volatility**2)


def test_an_unknown_name_below_the_limit_is_proxied_and_its_book_certified(
    planted: LoadedUniverse, market: Market
) -> None:
    loaded = with_books(planted, market, {"small": {"REST-00": 0.6, "REST-01": 0.3, "YOUNG": 0.01}})
    renamed = pl.when(pl.col("security_id") == "YOUNG").then(pl.lit("NOBODY")).otherwise(pl.col("security_id"))
    result = rebalance_portfolios(replace(loaded, holdings=loaded.holdings.with_columns(renamed.alias("security_id"))))
    assert status_of(result)["small"] == "certified"
    expected = [("warn", "holdings.unmapped"), ("warn", "securities.volume")]
    assert sorted(rows(result.tables["exceptions"], "severity", "code")) == expected
    assert "NOBODY" in after_by_hand(result, "small")


def test_a_planted_book_over_its_budget_is_brought_to_it(planted: LoadedUniverse, market: Market) -> None:
    books = {"hot": {"GRID-0": 0.35, "GRID-1": 0.25, "REST-00": 0.4}}
    result = rebalance_portfolios(with_books(planted, market, books))
    (before,), (after,) = (
        rows(result.tables["stress"], "measured_loss", portfolio_id="hot", stage=s) for s in ("before", "after")
    )
    assert before[0] > 0.08
    # The loss of one share less: the book is small, and what it trades is whole.
    assert 0.08 - 1e-4 < after[0] <= 0.08 + 1e-9


def test_a_name_without_a_price_sets_aside_only_the_books_that_could_buy_it(bundled: LoadedUniverse) -> None:
    gone = pl.when(pl.col("security_id") == "CMS").then(None).otherwise("price").alias("price")
    universe = replace(bundled.universe, securities=bundled.universe.securities.with_columns(gone))
    result = rebalance_portfolios(replace(bundled, universe=universe).only(["power_and_grid", SOUND]))
    assert dict(rows(result.tables["portfolio_summary"], "portfolio_id", "status", stage="after")) == {
        "power_and_grid": "quarantined",
        SOUND: "certified",
    }
    messages = [notice.message for notice in result.notices if notice.code == "book.unpriced"]
    assert messages == ["the securities table has no price of CMS, which it could buy"]


def test_an_infeasible_book_says_which_limits_cannot_all_hold(bundled: LoadedUniverse) -> None:
    mandate = bundled.mandates["thematic"]
    changes = {"turnover": 0.0, "priorities": {"stress": 0}}
    still = mandate.model_copy(update={"limits": mandate.limits.model_copy(update=changes)})
    loaded = replace(bundled, mandates={**bundled.mandates, "thematic": still})
    result = rebalance_portfolios(loaded, only=["ai_infrastructure"])
    notice = next(notice for notice in result.notices if notice.code == "book.infeasible")
    assert "turnover" in notice.message and "stress:deepseek" in notice.message
    assert "cannot both be kept, proven: turnover of " in notice.message


def test_a_book_of_cash_alone_stands_still_or_is_proven_to_break_its_cash_band(bundled: LoadedUniverse) -> None:
    row = bundled.holdings.filter(pl.col("security_id") == "CASH:USD").head(1)
    cash = row.with_columns(
        pl.lit("family_office").alias("portfolio_id"),
        pl.lit(2e7).alias("quantity"),
        pl.lit(2e7).alias("market_value_base"),
    )
    free = bundled.mandates["multi_asset"].model_copy(update={"buy_list": ()})
    roomy = free.limits.model_copy(update={"weights": {}, "cash": free.limits.cash.model_copy(update={"max": 1.0})})
    soft = free.limits.model_copy(update={"weights": {}})
    tight = soft.model_copy(update={"priorities": {"cash": 0}})
    for limits, status in ((roomy, "certified"), (soft, "certified"), (tight, "infeasible")):
        mandates = {**bundled.mandates, "multi_asset": free.model_copy(update={"limits": limits})}
        loaded = replace(bundled, holdings=cash, mandates=mandates).only(["family_office"])
        summary = rebalance_portfolios(loaded).tables["portfolio_summary"]
        assert rows(summary, "status", stage="after") == [(status,)]


def test_stress_and_rebalance_agree_on_the_tracking_error_before(
    bundled: LoadedUniverse, result: RebalanceResult
) -> None:
    stressed = stress_portfolios(bundled).tables["portfolio_summary"]
    before = result.tables["portfolio_summary"]
    found = rows(stressed, "tracking_error", portfolio_id="index_tracker", stage="before")
    assert found == rows(before, "tracking_error", portfolio_id="index_tracker", stage="before")
    assert found[0][0] > 0.0


def test_a_missing_benchmark_warns_a_stress_and_stops_nothing(bundled: LoadedUniverse) -> None:
    result = stress_portfolios(replace(bundled, benchmarks=bundled.benchmarks.head(0)))
    severities = [n.severity for n in result.notices if n.portfolio_id == "index_tracker"]
    assert severities == ["warn"]
    assert rows(result.tables["stress"], "scenario_id", portfolio_id="index_tracker") == [("deepseek",)]
