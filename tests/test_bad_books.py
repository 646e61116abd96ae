"""Books that are wrong or extreme, through ``engine rebalance``: set aside with a reason or answered."""

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from test_chunk import with_mandate
from test_failures import BAD_BOOKS, edit, edit_model, faulty_book, holdings_file

from engine.api.loading import LoadedUniverse, load_universe
from engine.api.rebalancing import RebalanceResult, rebalance_portfolios
from engine.api.weighing import weigh_books
from engine.cli.main import run
from engine.errors import EngineError

Captured = pytest.CaptureFixture[str]
Change = Callable[[pl.DataFrame], pl.DataFrame]
FREE = {"turnover": 2.0, "cash": {"min": 0.0, "max": 1.0}, "stress": ()}


def rebalance(folder: Path, capsys: Captured, *more: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a rebalance of the planted universe."""
    capsys.readouterr()
    code = run(["rebalance", "--universe", str(folder), "--out", str(folder / "out"), "--format", "json", *more])
    out, err = capsys.readouterr()
    assert "Traceback" not in err and "internal error" not in err
    return code, out, err


def growth(column: str, value: pl.Expr | float) -> Change:
    """A column of every line of the book ``growth`` made wrong."""
    mine = pl.col("portfolio_id") == "growth"
    return lambda frame: frame.with_columns(pl.when(mine).then(value).otherwise(column).alias(column))


def set_nav(folder: Path, value: float) -> None:
    """The NAV that the books of the planted universe say they have."""
    path = folder / "portfolios.csv"
    frame = pl.read_csv(path)
    mine = pl.col("portfolio_id") == "growth"
    frame.with_columns(nav_base=pl.when(mine).then(value).otherwise(None)).write_csv(path)


def faulty_short(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """A short line, its proceeds in cash."""
    mine = pl.col("portfolio_id") == "growth"
    line, money = mine & (pl.col("security_id") == name), mine & (pl.col("security_id") == "CASH:USD")
    value = float(frame.filter(line)["market_value_base"].item())
    return frame.with_columns(
        pl.when(line)
        .then(-pl.col("quantity"))
        .when(money)
        .then(pl.col("quantity") + 2.0 * value)
        .otherwise("quantity"),
        pl.when(line)
        .then(-pl.col("market_value_base"))
        .when(money)
        .then(pl.col("market_value_base") + 2.0 * value)
        .otherwise("market_value_base")
        .alias("market_value_base"),
    )


def negated(frame: pl.DataFrame) -> pl.DataFrame:
    return growth("quantity", -pl.col("quantity"))(growth("market_value_base", -pl.col("market_value_base"))(frame))


def faulty_split(frame: pl.DataFrame, ratio: float) -> pl.DataFrame:
    line = (pl.col("portfolio_id") == "growth") & (pl.col("security_id") == "GRID-0")
    return frame.with_columns(
        pl.when(line).then(pl.col("price") * ratio).otherwise("price").alias("price"),
        pl.when(line).then(pl.col("quantity") / ratio).otherwise("quantity").alias("quantity"),
    )


QUARANTINED: dict[str, tuple[Change, str, str]] = {
    **{name: (*BAD_BOOKS[name], "holdings.") for name in BAD_BOOKS if name != "unknown book"},
    "price 0": (faulty_book("price", 0.0), "price", "holdings.price"),
    "negative price": (faulty_book("price", -3.0), "price", "holdings.price"),
    "NaN price": (faulty_book("price", float("nan")), "'price is a number'", "holdings.price"),
    "infinite quantity": (faulty_book("quantity", float("-inf")), "'quantity is finite'", "holdings.quantity"),
    "null value": (faulty_book("market_value_base", None), "is present", "holdings.market_value_base"),
    "an exposure that is none": (
        lambda frame: faulty_book("exposure_base", float("nan"))(
            frame.with_columns(exposure_base=pl.lit(None, pl.Float64))
        ),
        "'exposure_base is a number'",
        "holdings.exposure_base",
    ),
    "a negative weight": (
        lambda frame: faulty_short(frame, "GRID-0"),
        "short in GRID-0; mandate careful is long-only",
        "book.short",
    ),
    "a NAV below 0": (
        negated,
        "a NAV must be above 0",
        "holdings.nav",
    ),
    "a NAV of 0": (
        lambda frame: growth("quantity", 0.0)(growth("market_value_base", 0.0)(frame)),
        "a NAV must be above 0",
        "holdings.nav",
    ),
    "a split": (
        lambda frame: faulty_split(frame, 10.0),
        "the price is a split ratio away from the listed one; first: GRID-0 at ",
        "holdings.split",
    ),
}


def check_quarantined(folder: Path, capsys: Captured, words: str, code: str) -> None:
    status, out, err = rebalance(folder, capsys)
    assert status == 0, err
    document = json.loads(out)
    found = [
        row for row in document["exceptions"] if row["severity"] == "quarantine" and row["portfolio_id"] == "growth"
    ]
    assert any(words in row["message"] and row["code"].startswith(code) for row in found), found
    states = {row["portfolio_id"]: row["status"] for row in document["portfolio_summary"] if row["stage"] == "after"}
    assert states["growth"] == "quarantined"
    assert states["income"] == states["soft"] == "certified"
    assert not [row for table in ("trades", "limits") for row in document[table] if row["portfolio_id"] == "growth"]
    assert rebalance(folder, capsys, "--fail-on-breach")[0] == 1


@pytest.mark.parametrize("fault", QUARANTINED)
def test_a_bad_book_is_set_aside_with_its_reason_and_the_rest_are_rebalanced(
    fault: str, folder: Path, capsys: Captured
) -> None:
    change, words, code = QUARANTINED[fault]
    edit(holdings_file(folder), change)
    check_quarantined(folder, capsys, words, code)


@pytest.mark.parametrize(
    ("nav", "words", "code"),
    [
        (1.02e6, "nav_base says 1,020,000.00 (-1.96%)", "holdings.nav"),
        (1e4, "weights add up to 100.0 of nav_base 10,000.00: percent? divide by 100", "holdings.percent"),
    ],
    ids=["two percent apart", "weights in percent"],
)
def test_a_nav_that_is_not_the_sum_of_values_sets_its_book_aside(
    nav: float, words: str, code: str, folder: Path, capsys: Captured
) -> None:
    set_nav(folder, nav)
    check_quarantined(folder, capsys, words, code)


def test_a_nav_a_few_basis_points_away_only_warns(folder: Path, capsys: Captured) -> None:
    set_nav(folder, 1.0005e6)
    status, out, _ = rebalance(folder, capsys)
    document = json.loads(out)
    assert status == 0
    found = [row for row in document["exceptions"] if row["code"] == "holdings.nav"]
    assert [row["severity"] for row in found] == ["warn"]
    assert {row["status"] for row in document["certificates"]} == {"certified"}


@pytest.mark.parametrize("nav", [0.0, -5.0, float("nan"), float("inf")])
def test_a_nav_that_is_none_refuses_the_table_of_portfolios(nav: float, folder: Path, capsys: Captured) -> None:
    set_nav(folder, nav)
    status, out, err = rebalance(folder, capsys)
    assert (status, out) == (65, "") and "nav_base" in err
    assert not (folder / "out").exists()


def test_an_unknown_base_currency_refuses_the_table_of_portfolios(folder: Path, capsys: Captured) -> None:
    edit(folder / "portfolios.csv", lambda frame: frame.with_columns(base_currency=pl.lit("EUR")))
    status, out, err = rebalance(folder, capsys)
    assert (status, out) == (65, "") and "base_currency EUR, the universe is in USD" in err


MODELS: dict[str, tuple[str, Change, str]] = {
    "daily covariance": (
        "factor_covariance",
        lambda frame: frame.with_columns(pl.col("annual") / 252.0),
        "the market's volatility is 0.",
    ),
    "covariance in percent": (
        "factor_covariance",
        lambda frame: frame.with_columns(pl.col("annual") * 1e4),
        "give factor_covariance a year, in decimals",
    ),
    "daily specific variance": (
        "specific_risk",
        lambda frame: frame.with_columns(pl.col("annual") / 252.0),
        "the median specific volatility is",
    ),
}


@pytest.mark.parametrize("fault", MODELS)
def test_a_model_in_another_unit_refuses_the_run_and_publishes_nothing(
    fault: str, folder: Path, capsys: Captured
) -> None:
    table, change, words = MODELS[fault]
    edit_model(folder, table, change)
    status, out, err = rebalance(folder, capsys)
    assert (status, out) == (65, "") and words in err
    assert not (folder / "out").exists()


# Extreme and not wrong.


def only(loaded: LoadedUniverse, book: str, **limits: Any) -> RebalanceResult:
    """One planted book under other limits."""
    return rebalance_portfolios(with_mandate(loaded, book, **{**FREE, **limits}).only([book]))


def state_of(result: RebalanceResult) -> str:
    summary = result.tables["portfolio_summary"]
    return str(summary.filter(pl.col("stage") == "after")["status"].item())


def reasons(result: RebalanceResult) -> str:
    return " ".join(notice.message for notice in result.notices)


def lone(loaded: LoadedUniverse, book: str, name: str) -> LoadedUniverse:
    """A book with all its money in one name."""
    mine = loaded.holdings.filter(pl.col("portfolio_id") == book)
    nav = float(mine["market_value_base"].sum())
    line = mine.filter(pl.col("security_id") == name).with_columns(
        (nav / pl.col("price")).alias("quantity"), pl.lit(nav).alias("market_value_base")
    )
    return replace(loaded, holdings=pl.concat([loaded.holdings.filter(pl.col("portfolio_id") != book), line]))


@pytest.fixture
def planted(folder: Path) -> LoadedUniverse:
    """The planted universe."""
    return load_universe(str(folder))


def test_a_single_name_under_a_cap_is_cut_to_it_or_proven_to_have_no_answer(planted: LoadedUniverse) -> None:
    alone = lone(planted, "growth", "GRID-0")
    result = only(alone, "growth", max_weight=0.4)
    assert state_of(result) == "certified"
    # Whole lots stop short of the cap by less than a lot.
    (after,) = result.tables["targets"]["weight_after"].to_list()
    assert 0.4 - 1e-4 < after <= 0.4 + 1e-9
    full = only(alone, "growth", max_weight=0.4, cash={"min": 0.0, "max": 0.1}, priorities={"cash": 0})
    assert state_of(full) == "infeasible"
    assert "cash at most 10.00 %" in reasons(full) and "proven" in reasons(full)
    assert not full.tables["trades"].height


def test_contradictory_bounds_are_proven_and_nothing_is_traded(planted: LoadedUniverse) -> None:
    result = only(planted, "growth", weights={"GRID-0": {"min": 0.3, "max": 0.4}}, no_buy=("GRID-0",))
    assert state_of(result) == "infeasible"
    assert "GRID-0" in reasons(result) or "proven" in reasons(result)
    assert not result.tables["trades"].height


def test_an_excluded_list_over_all_holdings_sells_them_all_or_is_proven_impossible(planted: LoadedUniverse) -> None:
    held = planted.holdings.filter(pl.col("portfolio_id") == "growth")["security_id"].to_list()
    names = tuple(name for name in held if not name.startswith("CASH"))
    result = only(planted, "growth", excluded=names)
    assert state_of(result) == "certified"
    assert np.abs(result.tables["targets"]["weight_after"].to_numpy()).max() <= 1e-9
    stuck = only(planted, "growth", excluded=names, cash={"min": 0.0, "max": 0.2}, priorities={"cash": 0})
    assert state_of(stuck) == "infeasible"
    moved = only(planted, "growth", excluded=names, cash={"min": 0.0, "max": 0.2})
    assert state_of(moved) == "certified"
    assert moved.tables["limits"].filter(limit_id="cash:max")["relaxed_by"].to_list() == pytest.approx([0.8], abs=1e-6)


def test_a_turnover_of_nothing_keeps_a_sound_book_and_is_proven_where_it_cannot(planted: LoadedUniverse) -> None:
    kept = only(planted, "growth", turnover=0.0)
    assert state_of(kept) == "certified" and not kept.tables["trades"].height
    stuck = only(planted, "growth", turnover=0.0, max_weight=0.1)
    assert state_of(stuck) == "infeasible" and not stuck.tables["trades"].height


def test_an_all_cash_book_is_fine_and_an_empty_one_has_a_row(planted: LoadedUniverse) -> None:
    cash = planted.holdings.filter(pl.col("portfolio_id") == "growth").filter(pl.col("security_id") == "CASH:USD")
    rest = planted.holdings.filter(pl.col("portfolio_id") != "growth")
    money = cash.with_columns(pl.lit(1e6).alias("quantity"), pl.lit(1e6).alias("market_value_base"))
    assert state_of(only(replace(planted, holdings=pl.concat([rest, money])), "growth")) == "certified"
    result = rebalance_portfolios(replace(planted, holdings=rest))
    after = result.tables["portfolio_summary"].filter(pl.col("stage") == "after")
    states = dict(after.select("portfolio_id", "status").iter_rows())
    assert (states["growth"], states["income"]) == ("empty", "certified")


def test_a_missing_benchmark_sets_its_book_aside(folder: Path, capsys: Captured) -> None:
    path = folder / "portfolios.csv"
    mine = pl.col("portfolio_id") == "growth"
    pl.read_csv(path).with_columns(benchmark_id=pl.when(mine).then(pl.lit("gone")).otherwise(None)).write_csv(path)
    check_quarantined(folder, capsys, "benchmark gone: no weights", "benchmarks.unusable")


# What is noticed and stops nothing.


def test_names_without_a_volume_are_told_where_participation_holds_them(planted: LoadedUniverse) -> None:
    blank = planted.universe.securities.with_columns(pl.lit(None, dtype=pl.Float64).alias("adv_base"))
    loaded = replace(planted, universe=replace(planted.universe, securities=blank))
    for unknown, count in (("hold", 1), ("allow", 0)):
        result = only(loaded, "growth", participation={"max_share": 0.1, "unknown_volume": unknown})
        found = [notice for notice in result.notices if notice.code == "book.volume"]
        assert len(found) == count
        assert all("5 names have no adv_base and are not traded (CHIPS-0, CHIPS-1" in n.message for n in found)
        assert {(n.severity, n.portfolio_id) for n in found} <= {("warn", "growth")}


def test_sector_limits_say_which_funds_they_do_not_see_through(planted: LoadedUniverse) -> None:
    inside = pl.DataFrame(
        {
            "security_id": ["FUND"] * 2,
            "constituent_id": ["CHIPS-0", "CHIPS-1"],
            "weight": [0.5, 0.5],
            "as_of": [planted.holdings["as_of"][0]] * 2,
        }
    )
    loaded = replace(planted, universe=replace(planted.universe, compositions=inside))
    for sectors, count in (({"Sector": {"max": 1.0}}, 1), ({}, 0)):
        found = [
            notice for notice in only(loaded, "income", sectors=sectors).notices if notice.code == "book.sector_fund"
        ]
        assert len(found) == count
        assert all("do not see through FUND" in notice.message for notice in found)


# Generated faults.

VALUES: dict[str, tuple[Any, ...]] = {
    "quantity": (None, float("nan"), float("inf"), float("-inf"), 0.0, -1.0, 1e-300, 1e15, 1e300),
    "price": (None, float("nan"), float("inf"), 0.0, -1.0, 1e-300, 1e15, 1e300),
    "market_value_base": (None, float("nan"), float("inf"), 0.0, -1.0, 1e-300, 1e15, 1e300),
    "security_id": (None, "", "NOPE", "../x", "=A1", "chips-0", "CASH:EUR", "CASH:USD", "x" * 70, "\u202eX", "REST-01"),
    "portfolio_id": (None, "", "growth", "house", "nobody", "../x", "Growth", "-rf"),
    "currency": (None, "", "EUR", "usd", "USD "),
    "as_of": (None, dt.date(1900, 1, 1), dt.date(2999, 1, 1)),
}


def spoilt(holdings: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Holdings with one to three cells, rows or columns made wrong."""
    for _ in range(int(rng.integers(1, 4))):
        kind = rng.integers(0, 8)
        row = pl.int_range(pl.len()) == int(rng.integers(0, max(holdings.height, 1)))
        columns = [name for name in VALUES if name in holdings.columns]
        name = columns[int(rng.integers(0, len(columns)))]
        if kind < 5:
            value = VALUES[name][int(rng.integers(0, len(VALUES[name])))]
            cell = pl.lit(value, dtype=holdings.schema[name]) if value is None else pl.lit(value)
            if value is None or holdings.schema[name] in (pl.Float64, pl.String, pl.Date):
                holdings = holdings.with_columns(pl.when(row).then(cell).otherwise(name).alias(name))
        elif kind == 5:
            holdings = pl.concat([holdings, holdings.filter(row)])
        elif kind == 6:
            holdings = holdings.filter(~row)
        elif len(columns) > 2:
            holdings = (
                holdings.drop(name) if rng.random() < 0.5 else holdings.with_columns(pl.col(name).cast(pl.String))
            )
    return holdings


def check_generated(loaded: LoadedUniverse, seed: int) -> str:
    """Refused with a reason for people, or answered with one row a portfolio and no trade of a bad book."""
    try:
        result = rebalance_portfolios(replace(loaded, holdings=spoilt(loaded.holdings, np.random.default_rng(seed))))
    except EngineError as error:
        return "refused" if str(error).strip() and error.exit_code == 65 else f"{seed}: {error.exit_code}"
    tables = result.tables
    after = tables["portfolio_summary"].filter(pl.col("stage") == "after")
    assert after["portfolio_id"].to_list() == sorted(loaded.portfolios["portfolio_id"].to_list()), seed
    sound = set(after.filter(pl.col("status") == "certified")["portfolio_id"].to_list())
    assert set(tables["trades"]["portfolio_id"].to_list()) <= sound, seed
    aside = set(after.filter(pl.col("status") == "quarantined")["portfolio_id"].to_list())
    explained = {notice.portfolio_id for notice in result.notices if notice.severity == "quarantine"}
    assert aside <= explained, seed
    return "quarantined" if aside else "answered"


@pytest.fixture(scope="module")
def steady(written: Path) -> LoadedUniverse:
    """The planted universe, read once."""
    return load_universe(str(written))


def check_weighed(loaded: LoadedUniverse, seed: int) -> str:
    """Refused with a reason for people, or weighed in finite numbers with a notice for every book set aside."""
    try:
        weighed, notices = weigh_books(replace(loaded, holdings=spoilt(loaded.holdings, np.random.default_rng(seed))))
    except EngineError as error:
        return "refused" if str(error).strip() and error.exit_code == 65 else f"{seed}: {error.exit_code}"
    assert np.isfinite(weighed.weights.data).all() and (weighed.nav > 0.0).all(), seed
    aside = {notice.portfolio_id for notice in notices if notice.severity == "quarantine"}
    assert not aside & set(weighed.books().ids.labels), seed
    return "quarantined" if aside else "answered"


def test_two_hundred_generated_holdings_are_refused_set_aside_or_weighed(steady: LoadedUniverse) -> None:
    assert {"refused", "quarantined", "answered"} == {check_weighed(steady, seed) for seed in range(200)}


def test_a_dozen_of_them_are_refused_set_aside_or_rebalanced(steady: LoadedUniverse) -> None:
    assert {"refused", "quarantined", "answered"} >= {check_generated(steady, seed) for seed in range(12)}


@pytest.mark.soak
def test_two_thousand_generated_holdings_are_refused_set_aside_or_answered(steady: LoadedUniverse) -> None:
    found = [check_generated(steady, seed) for seed in range(1000, 3000)]
    assert {"refused", "quarantined", "answered"} == set(found)
