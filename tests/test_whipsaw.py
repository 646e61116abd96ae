"""The price of a whipsaw: by hand, in SQL, against the books' own losses, and where there is none."""

from dataclasses import replace
from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.api.loading import LoadedUniverse, load_universe
from engine.api.rebalancing import RebalanceResult, rebalance_portfolios
from engine.book.whipsaw import WHIPSAW_COLUMNS, price_whipsaws
from engine.contracts import empty
from engine.curve.universe import StressSettings
from engine.errors import UsageError

SETTINGS = StressSettings(scenario="goes_on", whipsaw="turns_round")


@pytest.fixture(scope="module")
def result(bundled: LoadedUniverse) -> RebalanceResult:
    return rebalance_portfolios(bundled)


def moves(**returns: dict[str, float]) -> pl.DataFrame:
    rows = [(scenario, name, value) for scenario, names in returns.items() for name, value in names.items()]
    return pl.DataFrame(rows, schema=["scenario_id", "security_id", "total"], orient="row")


def priced(
    trades: dict[str, float], shocks: pl.DataFrame, losses: dict[str, tuple[float, float]] | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One book of NAV 1000, its trades by name, its measured loss and budget by scenario."""
    frame = (
        empty("trades")
        .clear(len(trades))
        .drop(WHIPSAW_COLUMNS)
        .with_columns(
            pl.lit("book").alias("portfolio_id"),
            pl.Series("security_id", list(trades), dtype=pl.String),
            pl.Series("trade_weight", list(trades.values()), dtype=pl.Float64),
        )
    )
    traded = pl.DataFrame({"portfolio_id": ["book"], "cost_base": [2.0], "nav": [1000.0]})
    rows = [("book", scenario, *pair) for scenario, pair in (losses or {}).items()]
    schema = {"portfolio_id": pl.String, "scenario_id": pl.String, "measured_loss": pl.Float64, "budget": pl.Float64}
    return price_whipsaws(frame, shocks, traded, pl.DataFrame(rows, schema=schema, orient="row"), SETTINGS)


def test_two_trades_are_priced_by_hand() -> None:
    shocks = moves(goes_on={"A": -0.2, "B": 0.01}, turns_round={"A": 0.05, "B": 0.02})
    trades, (book,) = (frame.to_dicts() for frame in priced({"A": -0.1, "B": 0.05}, shocks))
    sold, bought = trades
    # 100 sold: 20 not lost, 5 not won back, so the sale pays from 5 / 25 = 20 % on.
    assert [sold[name] for name in WHIPSAW_COLUMNS] == pytest.approx([20.0, 5.0, 0.2])
    # 50 bought: 0.5 won if it goes on, 1 won in the whipsaw: it pays whatever comes.
    assert [bought[name] for name in WHIPSAW_COLUMNS] == pytest.approx([0.5, -1.0, 0.0])
    assert [book[name] for name in WHIPSAW_COLUMNS] == pytest.approx([20.5, 4.0, 4.0 / 24.5])
    assert (book["loss_avoided_frac"], book["regret_frac"], book["cost_base"]) == pytest.approx((0.0205, 0.004, 2.0))


def test_a_trade_that_does_not_reduce_the_loss_has_no_break_even() -> None:
    shocks = moves(goes_on={"A": -0.2, "B": 0.0}, turns_round={"A": 0.05, "B": 0.1})
    trades, books = priced({"A": 0.1, "B": -0.1}, shocks)
    assert trades["loss_avoided"].to_list() == pytest.approx([-20.0, 0.0])
    assert trades["regret"].to_list() == pytest.approx([-5.0, 10.0])
    assert trades["break_even"].to_list() == [None, None]
    assert books["break_even"].to_list() == [None]


def test_the_scenario_that_asks_is_the_budget_used_most() -> None:
    shocks = moves(goes_on={"A": -0.2}, other={"A": -0.3}, turns_round={"A": 0.05})
    losses = {"goes_on": (0.06, 0.05), "other": (0.09, 0.06)}
    trades, books = priced({"A": -0.1}, shocks, losses)
    assert books["scenario_id"].to_list() == ["other"]
    assert trades["loss_avoided"].to_list() == pytest.approx([30.0])
    _, books = priced({"A": -0.1}, shocks, {"other": (0.05, 0.05), "goes_on": (0.05, 0.05)})
    assert books["scenario_id"].to_list() == ["goes_on"]


@pytest.mark.parametrize("missing", ["goes_on", "turns_round"])
def test_without_one_of_the_two_scenarios_there_is_no_price(missing: str) -> None:
    both = {"goes_on": {"A": -0.2}, "turns_round": {"A": 0.05}}
    trades, books = priced({"A": -0.1}, moves(**{name: held for name, held in both.items() if name != missing}))
    assert trades.select(WHIPSAW_COLUMNS).row(0) == (None, None, None)
    assert not books.height


def test_a_book_that_does_not_trade_avoids_and_regrets_nothing() -> None:
    _, books = priced({}, moves(goes_on={"A": -0.2}, turns_round={"A": 0.05}))
    assert books.select(WHIPSAW_COLUMNS).row(0) == (0.0, 0.0, None)


@given(st.lists(st.tuples(*(st.floats(-0.5, 0.5, allow_subnormal=False) for _ in range(3))), min_size=1, max_size=12))
def test_the_break_even_is_where_both_outcomes_balance_and_trades_add_up(
    rows: list[tuple[float, float, float]],
) -> None:
    names = [f"S{i:02d}" for i in range(len(rows))]
    shocks = moves(
        goes_on=dict(zip(names, [r for _, r, _ in rows], strict=True)),
        turns_round=dict(zip(names, [o for _, _, o in rows], strict=True)),
    )
    trades, books = priced(dict(zip(names, [w for w, _, _ in rows], strict=True)), shocks)
    for avoided, regret, probability in (*trades.select(WHIPSAW_COLUMNS).rows(), *books.select(WHIPSAW_COLUMNS).rows()):
        assert (probability is None) == (avoided <= 0.0)
        if probability is not None:
            assert 0.0 <= probability <= 1.0
            assert probability * avoided == pytest.approx((1.0 - probability) * max(regret, 0.0), abs=1e-12)
    for name in ("loss_avoided", "regret"):
        assert trades[name].sum() == pytest.approx(books[name].item(), abs=1e-10)


def test_a_books_price_is_the_change_of_its_own_loss(result: RebalanceResult) -> None:
    stress = result.tables["stress"].pivot(on="stage", index=["portfolio_id", "scenario_id"], values="pnl_frac")
    change = {
        (book, s): after - before
        for book, s, before, after in stress.select("portfolio_id", "scenario_id", "before", "after").iter_rows()
    }
    books = result.tables["whipsaws"]
    assert books.height == 16
    for row in books.iter_rows(named=True):
        book = row["portfolio_id"]
        assert row["loss_avoided_frac"] == pytest.approx(change[book, row["scenario_id"]], abs=1e-12)
        assert row["regret_frac"] == pytest.approx(-change[book, row["whipsaw_id"]], abs=1e-12)


def test_duckdb_recomputes_every_price_from_the_shocks(bundled: LoadedUniverse, result: RebalanceResult) -> None:
    store = duckdb.connect()
    for name in ("trades", "shocks", "whipsaws", "stress", "portfolio_summary"):
        store.register(name, result.tables[name].to_arrow())
    sql = """
        with asked as (
            select portfolio_id, arg_max(scenario_id, measured_loss / budget) as scenario_id
            from stress where stage = 'before' and measured_loss is not null group by 1
        ), one as (
            select t.*, p.nav_base,
                   t.trade_weight * s.total * p.nav_base as avoided,
                   -t.trade_weight * o.total * p.nav_base as regretted
            from trades t join asked using (portfolio_id)
            join portfolio_summary p on p.portfolio_id = t.portfolio_id and p.stage = 'before'
            join shocks s on s.scenario_id = asked.scenario_id and s.security_id = t.security_id
            join shocks o on o.scenario_id = 'overreaction' and o.security_id = t.security_id
        )
        select count(*),
               max(abs(avoided - loss_avoided) / nav_base), max(abs(regretted - regret) / nav_base),
               max(abs(case when avoided > 0 then greatest(regretted, 0) / (greatest(regretted, 0) + avoided) end
                       - break_even)),
               count(*) filter ((break_even is null) <> (avoided <= 0))
        from one
    """
    count, avoided, regret, break_even, unlike = store.execute(sql).fetchone()
    assert count == result.tables["trades"].height > 0
    assert max(avoided, regret, break_even) < 1e-12
    assert unlike == 0
    sums = """
        select max(abs(a - w.loss_avoided_frac)), max(abs(r - w.regret_frac)), max(abs(c - w.cost_base)), count(*)
        from whipsaws w join (
            select portfolio_id, sum(loss_avoided / nav_base) a, sum(regret / nav_base) r, sum(trades.cost_base) c
            from trades join portfolio_summary using (portfolio_id) where stage = 'before' group by 1
        ) using (portfolio_id)
    """
    avoided, regret, cost, books = store.execute(sums).fetchone()
    assert max(avoided, regret) < 1e-12
    assert cost < 1e-6
    assert books == result.tables["trades"]["portfolio_id"].n_unique()


def test_a_universe_without_the_whipsaw_has_no_prices_and_refuses_nothing(written: Path) -> None:
    result = rebalance_portfolios(load_universe(str(written)))
    tables = result.tables
    assert result.refused == ()
    assert set(tables["certificates"]["status"]) == {"certified"}
    assert "overreaction" not in tables["scenario_summary"]["scenario_id"]
    assert not tables["whipsaws"].height


def test_a_whipsaw_that_the_file_names_must_be_there(bundled: LoadedUniverse) -> None:
    settings = bundled.universe.settings
    stress = StressSettings.model_validate({**settings.stress.model_dump(), "whipsaw": "overreacton"})
    universe = replace(bundled.universe, settings=settings.model_copy(update={"stress": stress}))
    with pytest.raises(UsageError, match="unknown scenario 'overreacton'; did you mean 'overreaction'"):
        rebalance_portfolios(replace(bundled, universe=universe))
