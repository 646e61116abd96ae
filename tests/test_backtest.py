"""The back-test: a day or many, what the model is told, what it may not see, and every refusal."""

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from market import TIERS, Market, core_names

import engine
from engine.api.backtesting import Days, Terms
from engine.cli.main import run
from engine.contracts import CONTRACTS
from engine.curve.returns import read_history
from engine.curve.universe import Universe
from engine.errors import CalibrationError, ConfigurationError, UsageError
from engine.scenarios.library import read_scenario
from engine.scenarios.scenario import Scenario
from engine.stress.backtest import Backtest, Rules, Told, backtest_event
from engine.stress.backtest_days import BacktestDays, Range, backtest_range

Captured = pytest.CaptureFixture[str]

SCORES = ["n", "r2", "rank_correlation", "sign_accuracy", "band_coverage", "r2_market_only"]

VIEWS = """\
id: told
title: Told
version: 1.0.0
kind: shock
horizon_days: {horizon}
narrative: Numbers of its own.
author: tests
propagation: conditional
views:
  - {{factor: market, value: -0.02, source: tests}}
  - {{tier: chips, total: -0.12, source: tests}}
"""


def told(horizon: int = 1) -> Scenario:
    return read_scenario(VIEWS.format(horizon=horizon), "told.yaml", {})


def calendar(market: Market) -> list[dt.date]:
    return market.prices["date"].unique().sort().to_list()


def moved(prices: pl.DataFrame, rows: pl.Expr, factor: float) -> pl.DataFrame:
    """Prices with some of them multiplied."""
    return prices.with_columns(pl.when(rows).then(pl.col("close") * factor).otherwise("close").alias("close"))


@pytest.fixture(scope="module")
def rules(universe: Universe) -> Rules:
    return Rules(Told.baskets(universe), 0.8)


@pytest.fixture(scope="module")
def last_days(market: Market, universe: Universe, rules: Rules) -> BacktestDays:
    """Forty days to the event, the event among them."""
    days = Range(calendar(market)[-40], market.event_date)
    return backtest_range(market.prices, universe, events=days, rules=rules)


def quiet_market(market: Market) -> pl.DataFrame:
    """The planted prices with an event on which no name does anything of its own."""
    before = market.prices.filter(pl.col("date") == market.as_of)
    returns = dict(zip(market.names, market.exposures @ np.array([-0.02, -0.09, -0.15, 0.04]), strict=True))
    event = before.with_columns(
        pl.lit(market.event_date).alias("date"),
        pl.col("close") * (1.0 + pl.col("security_id").replace_strict(returns, return_dtype=pl.Float64)),
    )
    return pl.concat([market.prices.filter(pl.col("date") <= market.as_of), event])


def test_a_day_without_specific_moves_is_predicted_by_the_exposures(market: Market, universe: Universe) -> None:
    prices = quiet_market(market)
    one = backtest_event(prices, universe, event_date=market.event_date)
    assert one.scores["r2"] > 0.97
    assert one.figures["book_error"] < 0.5 * one.figures["book_error_market_only"]
    core = one.names.filter("in_basket")
    assert np.abs((core["predicted"] - core["realised"]).to_numpy()).max() < 0.02


def test_exposures_without_error_predict_exactly(market: Market, universe: Universe) -> None:
    """With the estimated exposures as the truth of the event nothing is left, up to rounding."""
    rules = Rules(Told(scenario=told()), 0.8)
    first = backtest_event(market.prices, universe, event_date=market.event_date, rules=rules)
    planted = dict(first.names.select("security_id", "predicted").iter_rows())
    before = market.prices.filter(pl.col("date") <= market.as_of)
    event = before.filter((pl.col("date") == market.as_of) & pl.col("security_id").is_in(list(planted))).with_columns(
        pl.lit(market.event_date).alias("date"),
        pl.col("close") * (1.0 + pl.col("security_id").replace_strict(planted, return_dtype=pl.Float64)),
    )
    exact = backtest_event(pl.concat([before, event]), universe, event_date=market.event_date, rules=rules)
    assert exact.scores["r2"] == pytest.approx(1.0, abs=1e-12)
    assert exact.scores["band_coverage"] == 1.0 and exact.scores["sign_accuracy"] == 1.0
    assert exact.figures["book_error"] < 1e-12


def test_prices_on_and_after_the_event_change_no_prediction(market: Market, universe: Universe) -> None:
    event = calendar(market)[-10]
    rules = Rules(Told(scenario=told()), 0.8)
    first = backtest_event(market.prices, universe, event_date=event, rules=rules)
    random = np.random.default_rng(5)
    noise = pl.Series(1.0 + 0.3 * random.random(market.prices.height))
    torn = market.prices.with_columns(
        pl.when(pl.col("date") >= event).then(pl.col("close") * noise).otherwise("close").alias("close")
    )
    second = backtest_event(torn, universe, event_date=event, rules=rules)
    columns = ["security_id", "predicted", "band_low", "band_high"]
    assert first.names.select(columns).equals(second.names.select(columns))
    assert not first.names["realised"].equals(second.names["realised"])
    assert first.tiers["predicted"].equals(second.tiers["predicted"])


def test_what_was_observed_reaches_the_prediction_through_the_views_alone(market: Market, universe: Universe) -> None:
    event = market.event_date
    first = backtest_event(market.prices, universe, event_date=event)
    fund = (pl.col("date") == event) & (pl.col("security_id") == "FUND")  # in no basket, without a cap
    second = backtest_event(moved(market.prices, fund, 1.2), universe, event_date=event)
    columns = ["security_id", "predicted", "band_low", "band_high"]
    assert first.names.select(columns).equals(second.names.select(columns))


def test_a_range_never_looks_ahead(market: Market, universe: Universe, rules: Rules, last_days: BacktestDays) -> None:
    days = calendar(market)
    cut = days[-20]
    torn = moved(market.prices, pl.col("date") > cut, 1.3)
    again = backtest_range(torn, universe, events=Range(days[-40], market.event_date), rules=rules)
    for name in ("days", "names"):
        past = pl.col("event_date") <= cut
        first, second = (getattr(one, name).filter(past) for one in (last_days, again))
        # The spread marks nothing here; every column of a day up to the cut is the same to the bit.
        assert first.equals(second)


def test_one_day_and_many_days_agree(market: Market, universe: Universe, last_days: BacktestDays) -> None:
    days = calendar(market)
    for event in (days[-40], days[-33], days[-1]):
        one = backtest_event(market.prices, universe, event_date=event)
        row = last_days.days.filter(pl.col("event_date") == event).row(0, named=True)
        for name, value in {**one.scores, **one.figures}.items():
            assert row[name] == pytest.approx(value, abs=1e-12, rel=1e-12), name
        names = last_days.names.filter(pl.col("event_date") == event).drop("event_date")
        assert names["security_id"].equals(one.names["security_id"])
        for name in ("predicted", "realised", "band_low", "band_high"):
            np.testing.assert_allclose(names[name].to_numpy(), one.names[name].to_numpy(), rtol=0.0, atol=1e-12)


def test_bands_of_the_planted_market_hold_what_they_promise(last_days: BacktestDays) -> None:
    assert last_days.summary["events"]["days"] == 40
    assert 0.72 < last_days.summary["events"]["band_coverage"] < 0.88
    assert last_days.summary["events"]["gain_mean"] > 0.0


def test_tables_of_many_days_keep_their_contracts(last_days: BacktestDays) -> None:
    for name, frame in (("backtest_days", last_days.days), ("backtest_names", last_days.names)):
        assert frame.schema == pl.Schema(CONTRACTS[name].columns)
        assert frame.equals(frame.sort(CONTRACTS[name].key))


def test_the_summary_is_that_of_the_table(last_days: BacktestDays) -> None:
    days, summary = last_days.days, last_days.summary
    assert summary["events"]["gain_mean"] == pytest.approx(days["gain"].mean())
    assert summary["events"]["gain_median"] == pytest.approx(days["gain"].median())
    widest = days.sort("tier_spread", descending=True).head(10)
    assert summary["widest"]["r2_median"] == pytest.approx(widest["r2"].median())
    assert summary["widest"]["dates"] == widest["event_date"].to_list()
    assert summary["controls"] == {"days": 0} and summary["tiers"] == {}
    share = days["book_error"].sum() / days["book_pnl"].sum()
    assert summary["events"]["book_error_share"] == pytest.approx(share)


def test_views_that_were_observed_are_met_and_the_other_tiers_propagated(market: Market, universe: Universe) -> None:
    rules = Rules(Told(("market", "grid"), "conditional"), 0.8)
    one = backtest_event(market.prices, universe, event_date=market.event_date, rules=rules)
    tiers = {row["tier"]: row for row in one.tiers.iter_rows(named=True)}
    assert tiers["grid"]["stated"] and tiers["grid"]["predicted"] == pytest.approx(tiers["grid"]["realised"])
    assert not tiers["chips"]["stated"] and -0.15 < tiers["chips"]["predicted"] < 0.0
    many = backtest_range(market.prices, universe, events=[market.event_date], rules=rules)
    assert set(many.summary["tiers"]) == {"chips", "apps"}
    left = one.tiers.filter(~pl.col("stated"))
    assert many.days["tier_error"][0] == pytest.approx(float((left["predicted"] - left["realised"]).abs().mean()))


def test_a_band_is_wider_where_less_is_told(market: Market, universe: Universe) -> None:
    widths = []
    for names in (("market", *TIERS), ("market",)):
        rules = Rules(Told(names, "conditional"), 0.8)
        one = backtest_event(market.prices, universe, event_date=calendar(market)[-7], rules=rules).names
        widths.append(float((one["band_high"] - one["band_low"]).mean()))
    assert widths[0] < widths[1]


def test_a_scenario_is_applied_with_its_own_numbers(market: Market, universe: Universe) -> None:
    rules = Rules(Told(scenario=told()), 0.8)
    one = backtest_event(market.prices, universe, event_date=market.event_date, rules=rules)
    chips = one.tiers.filter(pl.col("tier") == "chips")
    assert chips["predicted"][0] == pytest.approx(-0.12) and chips["realised"][0] != pytest.approx(-0.12)


def test_a_long_scenario_is_scored_over_its_horizon(market: Market, universe: Universe) -> None:
    event = calendar(market)[-8]
    rules = Rules(Told(scenario=told(5)), 0.8)
    one = backtest_event(market.prices, universe, event_date=event, rules=rules)
    closes = market.prices.filter(pl.col("security_id") == "REST-00").sort("date")["close"].to_numpy()
    realised = dict(one.names.select("security_id", "realised").iter_rows())
    assert realised["REST-00"] == pytest.approx(closes[-4] / closes[-9] - 1.0)
    with pytest.raises(CalibrationError, match=r"5 trading days from .* are scored, but the prices end on"):
        backtest_event(market.prices, universe, event_date=market.event_date, rules=rules)


def test_controls_are_the_same_for_one_seed_and_before_the_event(
    market: Market, universe: Universe, rules: Rules
) -> None:
    events = [calendar(market)[-30], market.event_date]

    def controls(seed: int) -> list[dt.date]:
        many = backtest_range(market.prices, universe, events=events, rules=replace(rules, seed=seed), controls=4)
        assert many.summary["controls"]["days"] == many.days.height - 2
        return many.days.filter(pl.col("kind") == "control")["event_date"].to_list()

    first = controls(3)
    assert first == controls(3) and first != controls(4)
    assert 4 <= len(first) <= 8 and max(first) < market.event_date and not set(first) & set(events)


def test_controls_of_the_planted_market_explain_less_than_its_event(
    market: Market, universe: Universe, rules: Rules
) -> None:
    many = backtest_range(market.prices, universe, events=[market.event_date], rules=rules, controls=10)
    assert many.summary["controls"]["r2_median"] < many.summary["events"]["r2_median"] - 0.2


def test_random_books_depend_on_the_seed_alone(market: Market, universe: Universe, rules: Rules) -> None:
    def books(seed: int) -> Backtest:
        given = replace(rules, seed=seed)
        return backtest_event(market.prices, universe, event_date=market.event_date, rules=given)

    assert books(1).figures == books(1).figures
    assert books(1).figures != books(2).figures and books(1).scores == books(2).scores


def test_a_split_on_the_event_leaves_the_name_out_and_says_so(market: Market, universe: Universe) -> None:
    split = (pl.col("date") == market.event_date) & (pl.col("security_id") == "REST-03")
    before = market.prices.filter((pl.col("security_id") == "REST-03") & (pl.col("date") == market.as_of))
    prices = market.prices.with_columns(pl.when(split).then(before["close"][0] / 2.0).otherwise("close").alias("close"))
    one = backtest_event(prices, universe, event_date=market.event_date)
    assert "REST-03" not in one.names["security_id"]
    assert [n.message for n in one.notices if n.code == "prices.split"] == [
        f"REST-03: the move of -50.0% on {market.event_date} looks like a split; return dropped"
    ]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (lambda frame, row: pl.concat([frame, frame.filter(row)]), "prices.primary_key"),
        (lambda frame, row: moved(frame, row, -1.0), "prices.close.min_exclusive"),
        (lambda frame, row: moved(frame, row, float("nan")), "prices.close.nan"),
    ],
)
def test_a_bad_row_sets_its_security_aside_only_where_it_is_seen(
    market: Market, universe: Universe, rules: Rules, fault: Callable[..., pl.DataFrame], code: str
) -> None:
    days = calendar(market)
    row = (pl.col("security_id") == "REST-05") & (pl.col("date") == days[-10])
    many = backtest_range(fault(market.prices, row), universe, events=[days[-20], days[-3]], rules=rules)
    held = many.names.filter(pl.col("security_id") == "REST-05")["event_date"].to_list()
    assert held == [days[-20]]
    bad = [n for n in many.notices if n.severity == "quarantine"]
    assert [n.code for n in bad] == [code] and f"REST-05/{days[-10]}" in bad[0].message
    clean = backtest_event(market.prices, universe, event_date=days[-20])
    assert clean.names.equals(many.names.filter(pl.col("event_date") == days[-20]).drop("event_date"))


def test_a_constant_series_is_set_aside_by_name(market: Market, universe: Universe) -> None:
    still = pl.when(pl.col("security_id") == "REST-07").then(10.0).otherwise("close").alias("close")
    one = backtest_event(market.prices.with_columns(still), universe, event_date=market.event_date)
    assert "REST-07" not in one.names["security_id"]
    assert "REST-07: the price never moves; left out of the model" in [n.message for n in one.notices]


def test_dates_on_which_few_names_are_priced_are_no_trading_days(market: Market, universe: Universe) -> None:
    friday = next(day for day in reversed(calendar(market)[:-5]) if day.weekday() == 4)
    saturday = friday + dt.timedelta(days=1)
    extra = market.prices.filter((pl.col("date") == friday) & (pl.col("security_id") == "REST-00"))
    prices = pl.concat([market.prices, extra.with_columns(pl.lit(saturday).alias("date"))])
    assert saturday not in read_history(prices, universe.securities, until=market.event_date, days=60).dates
    with pytest.raises(CalibrationError, match=f"{saturday} is not a trading day"):
        backtest_event(prices, universe, event_date=saturday)


def test_a_day_on_which_nothing_moves_is_no_trading_day(market: Market, universe: Universe) -> None:
    saturday = market.event_date + dt.timedelta(days=1)
    copy = market.prices.filter(pl.col("date") == market.event_date).with_columns(pl.lit(saturday).alias("date"))
    with pytest.raises(CalibrationError, match=f"{saturday} is not a trading day of these prices"):
        backtest_event(pl.concat([market.prices, copy]), universe, event_date=saturday)


def test_a_basket_without_prices_is_named(market: Market, universe: Universe) -> None:
    event = market.event_date
    names = list(core_names("grid"))
    gone = market.prices.filter(~(pl.col("security_id").is_in(names) & (pl.col("date") == event)))
    with pytest.raises(CalibrationError, match=f"no core name of tier grid has a return on {event}"):
        backtest_event(gone, universe, event_date=event)
    never = market.prices.filter(~pl.col("security_id").is_in(names))
    with pytest.raises(CalibrationError, match="tier grid: fewer than 2 of its core names are priced"):
        backtest_event(never, universe, event_date=event)


def test_days_with_too_short_a_history_are_set_aside_and_the_rest_scored(
    market: Market, universe: Universe, rules: Rules
) -> None:
    days = calendar(market)
    many = backtest_range(market.prices, universe, events=Range(days[60], days[66]), rules=rules)
    assert many.days["event_date"].to_list() == days[64:67]
    aside = [n.message for n in many.notices if n.code == "backtest.day"]
    assert aside[0].startswith(f"{days[60]} is not scored: 59 daily returns up to {days[59]}; at least 63 are needed")
    assert len(aside) == 4
    with pytest.raises(CalibrationError, match=r"no event can be scored; .* at least 63 are needed"):
        backtest_range(market.prices, universe, events=Range(days[5], days[8]), rules=rules)


def test_days_that_are_no_trading_days_are_refused_by_name(market: Market, universe: Universe, rules: Rules) -> None:
    late = dt.date(2999, 1, 4)
    with pytest.raises(CalibrationError, match="not trading days of these prices: 2999-01-04; they run from"):
        backtest_range(market.prices, universe, events=[market.event_date, late], rules=rules)
    with pytest.raises(CalibrationError, match="no trading day from 2999-01-04 to 2999-01-04; they run from"):
        backtest_range(market.prices, universe, events=Range(late, late), rules=rules)
    with pytest.raises(CalibrationError, match=r"\d+ days before it can be its controls, 9999 were asked"):
        backtest_range(market.prices, universe, events=[market.event_date], rules=rules, controls=9999)


def test_a_scenario_on_a_name_the_model_does_not_know_is_refused(market: Market, universe: Universe) -> None:
    text = VIEWS.format(horizon=1) + "  - {security: NOBODY, total: -0.1, source: tests}\n"
    rules = Rules(Told(scenario=read_scenario(text, "told.yaml", {})), 0.8)
    with pytest.raises(ConfigurationError, match="the model has no security 'NOBODY'"):
        backtest_event(market.prices, universe, event_date=market.event_date, rules=rules)


def arguments(folder: Path, *more: str) -> list[str]:
    return ["backtest", "--universe", str(folder), "--prices", str(folder / "prices.parquet"), "--quiet", *more]


def test_json_of_a_day_has_these_keys(folder: Path, market: Market, capsys: Captured) -> None:
    assert run(arguments(folder, "--event-date", str(market.event_date), "--format", "json")) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["as_of", "event_date", "shock", *SCORES, "names"]
    name = ["security_id", "predicted", "realised", "band_low", "band_high", "in_basket", "scored"]
    assert list(document["names"][0]) == name
    assert document["shock"] == "baskets" and document["as_of"] == str(market.as_of)
    more = ("--shock", "observed:market,grid", "--format", "json")
    assert run(arguments(folder, "--event-date", str(market.event_date), *more)) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["as_of", "event_date", "shock", *SCORES, "tiers", "names"]
    assert list(document["tiers"][0]) == ["tier", "stated", "predicted", "realised"]


def test_json_of_many_days_has_days_and_a_summary(folder: Path, market: Market, capsys: Captured) -> None:
    days = calendar(market)
    dates = f"{days[-3]},{days[-1]}"
    assert run(arguments(folder, "--dates", dates, "--controls", "2", "--format", "json")) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["shock", "days", "summary"]
    assert list(document["summary"]) == ["events", "widest", "controls", "tiers"]
    assert {day["kind"] for day in document["days"]} == {"event", "control"}
    keys = {"as_of", "event_date", "gain", "tier_spread", "book_error", "tiers", *SCORES}
    assert keys <= set(document["days"][0])


def test_tables_are_readable_at_80_columns(folder: Path, market: Market, capsys: Captured) -> None:
    days = calendar(market)
    assert run(arguments(folder, "--from", str(days[-3]), "--to", str(days[-1]), "--shock", "observed:market")) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "mean gain over market beta" in out and "tier not stated" in out


def test_a_run_is_written_with_its_tables(folder: Path, market: Market, capsys: Captured) -> None:
    event = ("--event-date", str(market.event_date), "--out", str(folder / "out"), "--format", "json")
    assert run(arguments(folder, *event)) == 0
    out, err = capsys.readouterr()
    written = Path(err.strip().removeprefix("written: "))
    assert list(json.loads(out))[:3] == ["as_of", "event_date", "shock"]
    assert {path.stem for path in written.glob("*.parquet")} == {"backtest_days", "backtest_names", "exceptions"}
    table = pl.read_parquet(written / "backtest_days.parquet")
    assert table["event_date"].to_list() == [market.event_date]


def test_a_scenario_of_the_universe_and_one_of_a_file_say_the_same(
    folder: Path, market: Market, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "copy.yaml"
    path.write_text((folder / "scenarios" / "planted_day.yaml").read_text())
    documents = []
    for shock in ("scenario:planted_day", f"views:{path}"):
        event = ("--event-date", str(market.event_date), "--shock", shock, "--format", "json")
        assert run(arguments(folder, *event)) == 0
        documents.append(json.loads(capsys.readouterr().out))
    assert documents[0]["r2"] == documents[1]["r2"] > 0.8


def test_a_range_with_days_set_aside_exits_3(folder: Path, market: Market, capsys: Captured) -> None:
    days = calendar(market)
    assert run(arguments(folder, "--from", str(days[62]), "--to", str(days[64]), "--format", "csv")) == 3
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("event_date,kind,model_as_of,n,r2,") and len(out.splitlines()) == 2
    assert f"quarantine: {days[62]} is not scored" in err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--from", "2023-01-02"], "--from and --to belong together: the first and the last day of the range"),
        (["--from", "2023-01-05", "--to", "2023-01-02"], "--from 2023-01-05 is after --to 2023-01-02; turn them round"),
        (
            ["--dates", "2023-01-02,2023-01-03,2023-01-02"],
            "--dates names 2023-01-02 more than once; name each day once",
        ),
        (["--dates", "2023-01-05,2023-01-03"], "--dates: 2023-01-03 stands after 2023-01-05; write the days in order"),
        (
            ["--event-date", "2023-01-05", "--dates", "2023-01-03"],
            "give the days once: --event-date, --dates or --from with --to",
        ),
        (
            ["--dates", "2023-01-03", "--from", "2023-01-03", "--to", "2023-01-04"],
            "give the days once: --event-date, --dates or --from with --to",
        ),
        (
            ["--event-date", "2023-01-05", "--shock", "observed:market,chipz"],
            "--shock observed: no tier 'chipz'; did you mean 'chips'?",
        ),
        (
            ["--event-date", "2023-01-05", "--shock", "observed:chips,chips"],
            "--shock observed: chips,chips names something twice",
        ),
        (
            ["--event-date", "2023-01-05", "--shock", "everything"],
            "--shock 'everything' is not known; write baskets, observed:market,TIER,.., views:FILE or scenario:ID",
        ),
        (
            ["--event-date", "2023-01-05", "--shock", "scenario:planted_dy"],
            "unknown scenario 'planted_dy'; did you mean 'planted_day'?",
        ),
    ],
)
def test_a_wrong_command_line_is_refused(folder: Path, more: list[str], words: str, capsys: Captured) -> None:
    assert run(arguments(folder, *more)) == UsageError.exit_code
    out, err = capsys.readouterr()
    assert out == "" and err == f"engine: {words}\n"


def test_files_and_days_at_fault_have_their_exit_codes(folder: Path, market: Market, capsys: Captured) -> None:
    event = str(market.event_date)
    assert run(arguments(folder, "--event-date", event, "--shock", "views:nowhere.yaml")) == 65
    assert "nowhere.yaml" in capsys.readouterr().err
    broken = folder / "broken.yaml"
    broken.write_text(VIEWS.format(horizon=1).replace("chips", "chipz"))
    assert run(arguments(folder, "--event-date", event, "--shock", f"views:{broken}")) == 78
    assert "unknown tier 'chipz'; did you mean 'chips'?" in capsys.readouterr().err
    assert run(arguments(folder, "--dates", f"{event},2999-01-04")) == 65
    assert "not trading days of these prices: 2999-01-04" in capsys.readouterr().err
    assert run(arguments(folder, "--dates", "2023-01-03,soon")) == 2
    assert "'soon' is not a date; write 2025-01-24" in capsys.readouterr().err


def test_the_terms_of_python_are_checked_like_those_of_the_command(folder: Path, market: Market) -> None:
    with pytest.raises(UsageError, match="band 1 is no probability"):
        Terms(band=1.0)
    with pytest.raises(UsageError, match="seed -1 is negative"):
        Terms(seed=-1)
    with pytest.raises(UsageError, match="--controls -1 is negative"):
        Days((market.event_date,), controls=-1)
    prices = str(folder / "prices.parquet")
    many = engine.backtest_days(prices, Days((market.event_date,)), universe=str(folder))
    one = engine.backtest(prices, market.event_date, universe=str(folder))
    assert many.result.days["r2"][0] == pytest.approx(one.scores["r2"], abs=1e-12)


def test_a_name_that_the_model_lost_is_missing_from_the_realised_baskets_too(
    market: Market, universe: Universe
) -> None:
    lost = next(iter(universe.settings.tiers)).core[0]
    day = market.prices["date"].max()
    hole = market.prices["date"].unique().sort()[-100]
    broken = market.prices.with_columns(
        pl.when((pl.col("security_id") == lost) & (pl.col("date") == hole))
        .then(float("nan"))
        .otherwise("close")
        .alias("close")
    )
    without = market.prices.filter(pl.col("security_id") != lost)
    rules = Rules(Told.baskets(universe), 0.8, 1)
    scores = [
        backtest_event(prices, universe, event_date=day, rules=rules).scores["r2"] for prices in (broken, without)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-12)
