"""Percent for fractions, split and stale prices, volatility for variance: each told apart, none repaired."""

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_bad_books import Captured, Change, check_quarantined, faulty_split, growth, rebalance
from test_failures import edit, edit_model, holdings_file

from engine.api.loading import LoadedUniverse
from engine.book.overnight import risk_moves
from engine.cli.main import run
from engine.conventions import is_percent
from engine.intake import Notice
from engine.risk.portfolios import weigh_benchmarks, weigh_holdings
from engine.risk.units import FACTOR_RANGE, SPECIFIC_RANGE, unit_faults


def test_sums_near_a_hundred_are_percent_and_no_others() -> None:
    assert [is_percent(total) for total in (95.0, 99.2, 100.3, 105.0)] == [True] * 4
    assert [is_percent(total) for total in (0.0, 1.0, 94.9, 105.1, 1e4, -100.0, float("nan"))] == [False] * 7


def weights_for_values(frame: pl.DataFrame) -> pl.DataFrame:
    """The book ``growth`` with weights in percent where its values should be, and no NAV said."""
    scale = 1e-4
    return growth("quantity", pl.col("quantity") * scale)(
        growth("market_value_base", pl.col("market_value_base") * scale)(frame)
    )


def test_a_book_of_weights_in_percent_is_set_aside_in_its_own_words(folder: Path, capsys: Captured) -> None:
    edit(holdings_file(folder), weights_for_values)
    check_quarantined(folder, capsys, "weights add up to 100.0: percent? divide by 100", "holdings.percent")


def test_most_books_in_percent_refuse_the_file(folder: Path, capsys: Captured) -> None:
    scaled = [pl.col(name) * 1e-4 for name in ("quantity", "market_value_base")]
    edit(holdings_file(folder), lambda frame: frame.with_columns(scaled))
    status, out, err = rebalance(folder, capsys)
    assert (status, out) == (65, "")
    assert err.startswith("engine: holdings: 3 faults\n  - growth: weights add up to 100.0: percent? divide by 100")
    assert not (folder / "out").exists()


def with_benchmarks(folder: Path, sums: dict[str, float]) -> None:
    """A benchmark of two names for every sum, the book ``growth`` on the first."""
    day = pl.read_parquet(holdings_file(folder))["as_of"][0]
    rows = [
        {"as_of": day, "benchmark_id": name, "security_id": security, "weight": total / 2.0}
        for name, total in sums.items()
        for security in ("CHIPS-0", "CHIPS-1")
    ]
    pl.DataFrame(rows).write_parquet(folder / "benchmarks.parquet")
    path = folder / "portfolios.csv"
    mine = pl.when(pl.col("portfolio_id") == "growth").then(pl.lit(next(iter(sums)))).otherwise(None)
    pl.read_csv(path).with_columns(benchmark_id=mine).write_csv(path)


def test_a_benchmark_in_percent_sets_its_book_aside(folder: Path, capsys: Captured) -> None:
    with_benchmarks(folder, {"percents": 100.3, "fractions": 1.0})
    check_quarantined(folder, capsys, "weights add up to 100.3: percent? divide by 100", "benchmarks.percent")


def test_most_benchmarks_in_percent_refuse_the_table(folder: Path, capsys: Captured) -> None:
    with_benchmarks(folder, {"one": 100.3, "other": 99.0, "third": 1.0})
    status, out, err = rebalance(folder, capsys)
    assert (status, out) == (65, "") and "benchmarks: 2 faults\n  - one: weights add up to 100.3: percent?" in err
    assert not (folder / "out").exists()


def test_a_price_a_split_away_sets_its_book_aside_and_asks(folder: Path, capsys: Captured) -> None:
    edit(holdings_file(folder), lambda frame: faulty_split(frame, 0.1))
    check_quarantined(folder, capsys, "split 10:1?", "holdings.split")


def test_another_large_move_only_warns(folder: Path, capsys: Captured) -> None:
    edit(holdings_file(folder), lambda frame: faulty_split(frame, 0.4))
    status, out, _ = rebalance(folder, capsys)
    document = json.loads(out)
    assert status == 0
    (found,) = [row for row in document["exceptions"] if row["code"] == "holdings.large_move"]
    assert (found["severity"], found["portfolio_id"]) == ("warn", "growth")
    assert "1 line: the price is more than 50% away from the listed one; first: GRID-0 at" in found["message"]
    assert {row["status"] for row in document["certificates"]} == {"certified"}


def price_notices(loaded: LoadedUniverse, **columns: pl.Expr) -> list[Notice]:
    """What is noticed of prices where the listing says something else."""
    securities = loaded.universe.securities.with_columns(**columns)
    noticed = weigh_holdings(
        loaded.holdings,
        loaded.portfolios,
        model=loaded.model,
        curve=loaded.curve,
        universe=replace(loaded.universe, securities=securities),
    )[1]
    return [n for n in noticed if n.code in {"holdings.stale", "holdings.split", "holdings.large_move"}]


def listed(loaded: LoadedUniverse, days: int, ratio: float = 1.0) -> set[tuple[str, str, str | None]]:
    """Codes, severities and books where NVDA was listed so long ago, at its price over a ratio."""
    day = loaded.holdings["as_of"].max()
    assert isinstance(day, dt.date)
    mine = pl.col("security_id") == "NVDA"
    date = pl.when(mine).then(pl.lit(day - dt.timedelta(days=days))).otherwise("price_date")
    price = pl.when(mine).then(pl.col("price") / ratio).otherwise("price")
    return {(n.code, n.severity, n.portfolio_id) for n in price_notices(loaded, price_date=date, price=price)}


def holders(loaded: LoadedUniverse) -> set[str]:
    """Books with NVDA."""
    return set(loaded.holdings.filter(pl.col("security_id") == "NVDA")["portfolio_id"].to_list())


def test_every_split_ratio_is_asked_about_and_other_moves_beyond_half_are_told(bundled: LoadedUniverse) -> None:
    for ratio in (0.1, 0.2, 1.0 / 3.0, 0.504, 10.0, 4.96, 3.0, 2.0):
        assert listed(bundled, 1, ratio) == {("holdings.split", "quarantine", book) for book in holders(bundled)}
    for ratio in (0.4, 0.15, 1.6, 2.05, 20.0):
        assert listed(bundled, 1, ratio) == {("holdings.large_move", "warn", book) for book in holders(bundled)}
    for ratio in (0.51, 0.8, 1.2, 1.49):
        assert listed(bundled, 1, ratio) == set()


def test_a_price_that_has_not_moved_since_an_old_listing_is_stale(bundled: LoadedUniverse) -> None:
    assert len(holders(bundled)) > 1
    assert listed(bundled, 8) == {("holdings.stale", "quarantine", book) for book in holders(bundled)}
    assert listed(bundled, 7) == listed(bundled, 8, 1.01) == set()


def test_a_listing_of_last_month_is_compared_and_an_older_one_is_not(bundled: LoadedUniverse) -> None:
    assert listed(bundled, 31, 2.0) == {("holdings.split", "quarantine", book) for book in holders(bundled)}
    assert listed(bundled, 32, 2.0) == set()


def test_the_books_that_ship_have_no_doubtful_price(bundled: LoadedUniverse) -> None:
    assert price_notices(bundled) == []


VOLATILITIES: dict[str, tuple[str, Change, str]] = {
    "specific volatility for variance": (
        "specific_risk",
        lambda frame: frame.with_columns(pl.col("annual").sqrt()),
        "times that of the second models, outside 0.57 to 1.75: give specific_risk as variance a year",
    ),
    "factor volatility for variance": (
        "factor_covariance",
        lambda frame: frame.with_columns(
            # The roots of the variances, correlations kept.
            pl.col("annual") / _deviation(frame, "factor_1").sqrt() / _deviation(frame, "factor_2").sqrt()
        ),
        "times those of its own factor_returns, outside 0.5 to 2: give factor_covariance as variance a year",
    ),
}


def _deviation(frame: pl.DataFrame, key: str) -> pl.Series:
    own = frame.filter(pl.col("factor_1") == pl.col("factor_2")).select("factor_1", pl.col("annual").sqrt())
    sizes = dict(own.iter_rows())
    return pl.Series([sizes[name] for name in frame[key].to_list()])


@pytest.mark.parametrize("fault", VOLATILITIES)
def test_volatility_given_as_variance_refuses_the_run(fault: str, folder: Path, capsys: Captured) -> None:
    table, change, words = VOLATILITIES[fault]
    edit_model(folder, table, change)
    status, out, err = rebalance(folder, capsys)
    assert (status, out) == (65, "") and words in err
    assert not (folder / "out").exists()


def test_the_model_that_ships_agrees_with_its_past_through_calm_and_storm(bundled: LoadedUniverse) -> None:
    model, history, others = bundled.model, bundled.history, bundled.alternatives
    for scale in (0.6, 1.0, 1.6):
        calmer = replace(model, factor_covariance=model.factor_covariance * scale**2)
        assert unit_faults(calmer, history, others) == []
        specific = replace(model, specific_variance=model.specific_variance * scale**2)
        assert unit_faults(specific, history, others) == []
    # A day later, every forecast of the history against the one before: the largest jump is far inside.
    sizes = np.sqrt(np.diagonal(history.covariances, axis1=1, axis2=2))
    jumps = np.median(sizes[1:] / sizes[:-1], axis=1)
    assert FACTOR_RANGE[0] < 0.8 < jumps.min() and jumps.max() < 1.6 < FACTOR_RANGE[1]
    assert SPECIFIC_RANGE[0] * SPECIFIC_RANGE[1] == pytest.approx(1.0)


def test_units_are_not_judged_without_anything_to_judge_by(bundled: LoadedUniverse) -> None:
    wrong = replace(bundled.model, specific_variance=np.sqrt(bundled.model.specific_variance))
    without = replace(bundled.history, covariances=bundled.history.covariances[:0])
    assert unit_faults(wrong, without, {}) == []
    (fault,) = unit_faults(wrong, without, bundled.alternatives)
    assert fault.startswith("the median specific volatility is 2.1 times that of the second models")
    daily = replace(bundled.model, factor_covariance=bundled.model.factor_covariance / 252.0)
    (fault,) = unit_faults(daily, bundled.history, {})
    assert fault.startswith("factor volatilities are 0.063 times those of its own factor_returns")


def test_benchmarks_that_ship_are_usable(bundled: LoadedUniverse) -> None:
    portfolios, _ = weigh_holdings(
        bundled.holdings, bundled.portfolios, model=bundled.model, curve=bundled.curve, universe=bundled.universe
    )
    assert weigh_benchmarks(bundled.benchmarks, portfolios)[1] == ()


def test_risk_that_moved_by_more_than_a_quarter_overnight_is_told() -> None:
    summary = pl.DataFrame(
        {
            "portfolio_id": ["fell", "rose", "still", "up", "new", "idle", "unmeasured"],
            "volatility": [0.149, 0.251, 0.151, 0.249, 0.3, 0.0, None],
        }
    )
    before = {"fell": 0.2, "rose": 0.2, "still": 0.2, "up": 0.2, "idle": 0.0, "unmeasured": 0.2, "gone": 0.2}
    told = [(n.code, n.severity, n.portfolio_id) for n in risk_moves(summary, before)]
    assert told == [("risk.dropped", "warn", "fell"), ("risk.risen", "warn", "rose")]


def test_a_stress_after_the_books_risk_was_halved_says_so(folder: Path, capsys: Captured) -> None:
    common = ["stress", "--universe", str(folder), "--format", "json"]
    assert run([*common, "--quiet", "--out", str(folder / "out")]) == 0
    (before,) = (folder / "out" / "adhoc").iterdir()
    edit_model(folder, "factor_covariance", lambda frame: frame.with_columns(pl.col("annual") * 0.36))
    capsys.readouterr()
    assert run([*common, "--previous", str(before)]) == 0
    out, err = capsys.readouterr()
    told = [row for row in json.loads(out)["exceptions"] if row["code"] == "risk.dropped"]
    assert {"growth", "house"} <= {row["portfolio_id"] for row in told}
    assert all("its volatility has dropped from" in row["message"] for row in told)
    assert "since the run before" in err
    assert run([*common, "--quiet"]) == 0
    assert "risk." not in json.dumps(json.loads(capsys.readouterr().out)["exceptions"])
