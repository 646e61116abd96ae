"""Forecasts meet the next day: planted truth, no look-ahead, formulas by hand, and the command."""

import datetime as dt
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from market import FACTORS, Market, make_market

from engine.api.loading import load_model
from engine.cli.main import run
from engine.contracts import CONTRACTS
from engine.curve.returns import read_history
from engine.curve.universe import Universe, build_universe
from engine.errors import CalibrationError, UsageError
from engine.intake import admit
from engine.risk.calibration import Calibration, calibrate
from engine.risk.fixed_books import GROUPS, LONG_ONLY_BOOKS, LONG_SHORT_BOOKS, choose_books, minimum_risk_weights
from engine.risk.forecasts import SEED, Forecasts, book_returns, book_variances, forecast_books, variance_inflation
from engine.risk.validation import Validation, bias_band, quasi_likelihood, validate
from engine.stress.backtest import backtest_event


@pytest.fixture(scope="module")
def dates(market: Market) -> list[dt.date]:
    return market.prices["date"].unique().sort().to_list()


@pytest.fixture(scope="module")
def validation(market: Market, universe: Universe, dates: list[dt.date]) -> Validation:
    """The planted market's last 254 days before the event."""
    return validate(market.prices, universe, first=dates[-255], last=market.as_of, every=12)


def with_returns_scaled(prices: pl.DataFrame, since: dt.date, factor: float) -> pl.DataFrame:
    """The prices whose returns from one day on are ``factor`` times what they were."""
    rows = prices.sort("security_id", "date").with_columns(
        (pl.col("close") / pl.col("close").shift(1).over("security_id") - 1.0).fill_null(0.0).alias("move")
    )
    moved = pl.when(pl.col("date") >= since).then(factor).otherwise(1.0) * pl.col("move") + 1.0
    first = pl.col("close").first().over("security_id")
    return rows.with_columns((first * moved.cum_prod().over("security_id")).alias("close")).drop("move")


def test_bias_of_right_forecasts_is_near_one_and_inside_its_band(validation: Validation):
    fixed = validation.books.filter(pl.col("group") != "minimum_risk")
    assert validation.headline["window_days"] == 252
    assert fixed["bias"].mean() == pytest.approx(1.0, abs=0.05)
    assert fixed["inside"].mean() >= 0.9
    assert fixed["windows_inside"].mean() >= 0.9


def test_bias_of_a_market_twice_as_volatile_as_forecast_is_two_and_outside(
    market: Market, universe: Universe, dates: list[dt.date]
):
    first = dates[-102]
    stormy = with_returns_scaled(market.prices, first, 2.0)
    found = validate(stormy, universe, first=first, last=market.as_of, every=1000)
    assert found.books["bias"].median() == pytest.approx(2.0, abs=0.15)
    assert found.books["inside"].sum() == 0
    assert found.headline["exceptions_share"] > 0.05
    calm = validate(market.prices, universe, first=first, last=market.as_of, every=1000)
    assert calm.headline["qlike"] < found.headline["qlike"]


def test_band_by_hand():
    z = np.array([[1.0, -1.0, 1.0, -1.0], [2.0, -2.0, 0.0, 0.0]])
    bias, half = bias_band(z)
    assert bias == pytest.approx([np.sqrt(4 / 3), np.sqrt(8 / 3)])
    assert half == pytest.approx([0.0, 1.96 * np.sqrt(1 / 16)])  # kurtosis 1 and 8 / 4 = 2
    spike = np.zeros((1, 252))
    spike[0, 0] = 1.0
    assert bias_band(spike)[1] == pytest.approx([1.96 * np.sqrt(5 / 1008)])  # kurtosis is capped at 6
    normal = np.random.default_rng(1).standard_normal((1, 200_000))
    assert bias_band(normal)[1][0] * np.sqrt(200_000 / 252) == pytest.approx(0.0873, abs=1e-3)


def test_qlike_is_least_at_the_true_variance():
    returns = 0.01 * np.random.default_rng(2).standard_normal(20_000)
    grid = np.linspace(0.005, 0.02, 301)
    loss = [quasi_likelihood(returns, np.full(returns.shape, sigma)).mean() for sigma in grid]
    assert grid[np.argmin(loss)] == pytest.approx(returns.std(), abs=1e-4)
    assert quasi_likelihood(np.array([0.02]), np.array([0.01]))[0] == pytest.approx(np.log(1e-4) + 4.0)


def forecast(prices: pl.DataFrame, universe: Universe, start: int) -> Forecasts:
    history = read_history(prices, universe.securities, until=dt.date.max, days=10_000)
    return forecast_books(history, range(start, len(history.dates)), universe, 1)[0]


def test_changing_tomorrow_changes_no_forecast_made_today(market: Market, universe: Universe, dates: list[dt.date]):
    start, change = len(dates) - 12, len(dates) - 6
    random = np.random.default_rng(3)
    later = pl.col("date") >= dates[change]
    noise = pl.Series(np.exp(0.3 * random.standard_normal(market.prices.height)))
    planted = market.prices.with_columns(
        pl.when(later).then(pl.col("close") * noise).otherwise("close").alias("close")
    ).filter(~(later & pl.col("security_id").is_in(["REST-00", "REST-07"])))
    honest, touched = forecast(market.prices, universe, start), forecast(planted, universe, start)
    made = change - start + 1  # the forecast of the first changed day was made the day before it
    np.testing.assert_array_equal(honest.volatility[:made], touched.volatility[:made])
    np.testing.assert_array_equal(honest.value_at_risk[:made], touched.value_at_risk[:made])
    np.testing.assert_array_equal(honest.inflation[:made], touched.inflation[:made])
    assert honest.days.head(made - 1).equals(touched.days.head(made - 1))
    assert (honest.volatility[made] != touched.volatility[made]).all()
    assert (honest.realised[made - 1] != touched.realised[made - 1]).all()


def test_the_model_of_a_day_is_the_calibration_of_the_day_before(
    market: Market, universe: Universe, dates: list[dt.date]
):
    found = forecast(market.prices, universe, len(dates) - 3)
    model = calibrate(market.prices, universe, as_of=dates[-2]).model
    weights = choose_books(universe, SEED).among(model.securities)
    factor, specific = book_variances(weights, model)
    assert found.dates[-1] == dates[-1]
    np.testing.assert_allclose(found.volatility[-1, :-1], np.sqrt((factor + specific) / 252), rtol=1e-12)


def test_r2_of_a_day_is_the_back_test_s(market: Market, universe: Universe, dates: list[dt.date]):
    found = forecast(market.prices, universe, len(dates) - 1).days.row(0, named=True)
    scores = backtest_event(market.prices, universe, event_date=market.event_date).scores
    assert found["date"] == market.event_date
    assert found["n"] == scores["n"]
    assert found["r2"] == pytest.approx(scores["r2"], abs=1e-12)
    assert found["r2_market_only"] == pytest.approx(scores["r2_market_only"], abs=1e-12)
    assert found["gain"] == found["r2"] - found["r2_market_only"]


def test_books_are_the_same_every_time_and_their_sides_add_up(universe: Universe):
    books, again = choose_books(universe, 7), choose_books(universe, 7)
    np.testing.assert_array_equal(books.weights, again.weights)
    assert books.books == again.books
    assert (choose_books(universe, 8).weights != books.weights).any()
    counts = {group: books.groups.count(group) for group in GROUPS}
    assert counts == {
        "tier": 3,
        "spread": 1,
        "sector": 1,
        "random_long": LONG_ONLY_BOOKS,
        "random_long_short": LONG_SHORT_BOOKS,
        "market": 1,
        "minimum_risk": 0,
    }
    longs, shorts = np.maximum(books.weights, 0).sum(axis=1), np.minimum(books.weights, 0).sum(axis=1)
    two_sided = np.array([group in {"spread", "random_long_short"} for group in books.groups])
    np.testing.assert_allclose(longs, 1.0)
    np.testing.assert_allclose(shorts, np.where(two_sided, -1.0, 0.0))


def test_sectors_are_skipped_where_there_are_none(market: Market):
    bare = market.securities.with_columns(pl.lit(None, dtype=pl.String).alias("gics_sector"))
    books = choose_books(build_universe(market.settings, bare, "securities"), 7)
    assert "sector" not in books.groups


def test_a_side_without_known_names_leaves_the_book_empty(universe: Universe):
    books = choose_books(universe, 7)
    known = type(books.securities)("security", ("CHIPS-0", "CHIPS-1", "REST-00"))
    weights = dict(zip(books.books.labels, books.among(known), strict=True))
    assert weights["tier:chips"] == pytest.approx([0.5, 0.5, 0.0])
    assert not weights["spread:chips.apps"].any()
    assert not weights["tier:apps"].any()


def test_minimum_risk_book_is_the_dense_solution(calibration: Calibration):
    model = calibration.model
    n = len(model.securities)
    _, first = np.unique(model.issuers, return_index=True)
    held = np.sort(first)
    dense = model.exposures @ model.factor_covariance @ model.exposures.T + np.diag(model.specific_variance)
    raw = np.linalg.solve(dense[np.ix_(held, held)], np.ones(len(held)))
    weights = minimum_risk_weights(model, np.ones(n, dtype=bool))
    assert weights.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(weights[held], raw / raw.sum(), rtol=1e-8, atol=1e-12)
    assert not minimum_risk_weights(model, np.zeros(n, dtype=bool)).any()


def test_variance_inflation_is_one_over_one_less_r2():
    x = np.random.default_rng(4).standard_normal((300, 4)) @ np.array(
        [[1.0, 0.5, 0, 0], [0, 1, 0.3, 0], [0, 0, 1, 0.9], [0, 0, 0, 1]]
    )
    x -= x.mean(axis=0)
    expected = []
    for k in range(4):
        rest = np.delete(x, k, axis=1)
        left = x[:, k] - rest @ np.linalg.lstsq(rest, x[:, k], rcond=None)[0]
        expected.append((x[:, k] @ x[:, k]) / (left @ left))
    np.testing.assert_allclose(variance_inflation(np.cov(x.T)), expected, rtol=1e-10)
    assert np.isinf(variance_inflation(np.ones((2, 2)))).all()


def test_a_book_is_scored_on_the_names_with_a_return_or_not_at_all():
    weights = np.array([[0.5, 0.5, 0.0], [0.05, 0.0, 0.95], [0.0, 0.0, 0.0]])
    found = book_returns(weights, np.array([np.nan, 0.02, 0.01]))
    assert np.isnan(found[[0, 2]]).all()
    assert found[1] == pytest.approx(0.01)


def test_tables_keep_their_contracts(validation: Validation):
    for name, frame in (("validation_days", validation.days), ("validation_books", validation.books)):
        assert admit(frame, name, "validation").frame.equals(frame.select(list(CONTRACTS[name].columns)))
    assert validation.inflation["factor"].to_list() == list(FACTORS)
    assert validation.groups["group"].to_list() == list(GROUPS)
    assert validation.headline["books"] == validation.books.height


def test_range_without_trading_days_is_refused(market: Market, universe: Universe):
    with pytest.raises(CalibrationError, match="no trading day from 2030-01-01 to the end; these end on"):
        validate(market.prices, universe, first=dt.date(2030, 1, 1))
    with pytest.raises(CalibrationError, match="no trading day from the start to 1999-01-01; these begin later"):
        validate(market.prices, universe, last=dt.date(1999, 1, 1))


def test_short_history_names_the_first_day_that_can_be_forecast(
    market: Market, universe: Universe, dates: list[dt.date]
):
    with pytest.raises(CalibrationError, match=f"a model needs 63; the first day that can be forecast is {dates[64]}"):
        validate(market.prices, universe, first=dates[10])
    short = market.prices.filter(pl.col("date") < dates[70])
    with pytest.raises(CalibrationError, match=r"too short a history.*give a longer one"):
        validate(short, universe)


def test_few_days_are_refused(market: Market, universe: Universe, dates: list[dt.date]):
    with pytest.raises(CalibrationError, match="5 trading days to forecast; at least 20 are needed"):
        validate(market.prices, universe, first=dates[-5])


def test_default_range_starts_where_a_model_can(market: Market, universe: Universe, dates: list[dt.date]):
    found = validate(market.prices.filter(pl.col("date") < dates[100]), universe, every=50)
    assert found.days["date"][0] == dates[64]
    assert found.days.height == 36


def test_backward_range_is_refused():
    from engine.api.validating import DayRange

    with pytest.raises(UsageError, match="--from 2025-01-02 is after --to 2025-01-01; turn them round"):
        DayRange(dt.date(2025, 1, 2), dt.date(2025, 1, 1))
    with pytest.raises(UsageError, match="1 or more"):
        DayRange(every=0)


def call(folder: Path, *options: str) -> int:
    prices = folder / "prices.parquet"
    return run(["validate", "--universe", str(folder), "--prices", str(prices), "--every", "10", *options])


def test_command_prints_a_table(written: Path, dates: list[dt.date], capsys, monkeypatch):
    monkeypatch.setattr("engine.desk.terminal.PIPE_WIDTH", 80)
    assert call(written, "--from", str(dates[-60])) == 0
    out = capsys.readouterr().out
    assert f"{dates[-60]} to {dates[-1]}" in out
    for word in (*GROUPS, "spread:chips.apps", "days of widest tier spread", str(dates[-1])):
        assert word in out
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_command_leaves_json_csv_and_a_run(written: Path, tmp_path: Path, dates: list[dt.date], capsys):
    span = ("--from", str(dates[-40]), "--to", str(dates[-2]), "--quiet")
    assert call(written, *span, "--format", "json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["last_date"] == str(dates[-2])
    assert document["days"][0]["date"] == str(dates[-40])
    assert {row["group"] for row in document["books"]} == set(GROUPS)
    assert call(written, *span, "--format", "csv", "--out", str(tmp_path / "out")) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == "date,r2,r2_market_only,gain,n,spread"
    folder = tmp_path / "out" / "adhoc" / f"{dates[-2]}-1"
    assert f"written: {folder}" in printed.err
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["command"] == "validate"
    assert manifest["summary"]["mrad"] == document["mrad"]
    books = pl.read_parquet(folder / "validation_books.parquet")
    assert books["bias"].to_list() == [row["bias"] for row in document["books"]]
    assert "prices" not in manifest["inputs"]


def test_command_without_prices_or_with_a_backward_range_is_a_usage_error(capsys):
    assert run(["validate"]) == 2
    assert "validate needs --prices FILE" in capsys.readouterr().err
    assert run(["validate", "--prices", "x.parquet", "--from", "2025-01-02", "--to", "2025-01-01"]) == 2


def test_command_with_faulty_prices_is_a_data_error(written: Path, tmp_path: Path, capsys):
    assert run(["validate", "--universe", str(written), "--prices", str(tmp_path / "none.parquet")]) == 65
    bad = tmp_path / "bad.csv"
    bad.write_text("security_id,date\nA,2025-01-02\n")
    assert run(["validate", "--universe", str(written), "--prices", str(bad)]) == 65
    assert call(written, "--from", "2031-01-01") == 65
    assert "no trading day from 2031-01-01" in capsys.readouterr().err


@pytest.mark.soak
def test_share_of_books_inside_is_that_of_a_95_percent_band():
    shares = []
    for seed in range(6):
        market = make_market(seed)
        universe = build_universe(market.settings, market.securities, "securities")
        found = validate(market.prices, universe, last=market.as_of, every=5)
        shares.append(found.books.filter(pl.col("group") == "random_long")["windows_inside"].mean())
    assert np.mean(shares) > 0.85


@pytest.fixture(scope="module")
def validated(written: Path, dates: list[dt.date], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of the planted universe."""
    out = tmp_path_factory.mktemp("validated")
    assert call(written, "--from", str(dates[-40]), "--to", str(dates[-2]), "--quiet", "--out", str(out)) == 0
    return out / "adhoc" / f"{dates[-2]}-1"


def calibrate_with(folder: Path, run_folder: Path, out: Path) -> int:
    prices = folder / "prices.parquet"
    options = ["--universe", str(folder), "--prices", str(prices), "--out", str(out), "--validation", str(run_folder)]
    return run(["calibrate", *options, "--quiet"])


def test_the_card_of_a_model_holds_the_headline_of_its_validation(written, validated, dates, tmp_path, capsys):
    assert calibrate_with(written, validated, tmp_path / "model") == 0
    card = json.loads((tmp_path / "model" / "model.json").read_text())["validation"]
    manifest = json.loads((validated / "manifest.json").read_text())
    days = pl.read_parquet(validated / "validation_days.parquet")
    books = pl.read_parquet(validated / "validation_books.parquet")
    assert (card["first_date"], card["last_date"]) == (str(dates[-40]), str(dates[-2]))
    assert (card["days"], card["books"], card["every"]) == (days.height, books.height, 10)
    assert card["books_inside"] == books["inside"].mean() and card["mrad"] == books["mrad"].mean()
    assert card["qlike"] == books["qlike"].mean() and card["mean_gain"] == days["gain"].mean()
    widest = days.sort("spread", "date", descending=True).head(10)
    assert card["widest_median_r2"] == widest["r2"].median()
    assert card["run_id"] == manifest["run_id"] == days["run_id"][0]
    assert load_model(tmp_path / "model").universe == "planted"


def test_a_validation_of_another_universe_or_other_settings_is_refused(folder, validated, tmp_path, capsys):
    settings = json.loads((folder / "universe.yaml").read_text())
    changed = {**settings, "title": "Another title", "stress": {**settings["stress"], "band": 0.9}}
    (folder / "universe.yaml").write_text(json.dumps(changed))
    assert calibrate_with(folder, validated, tmp_path / "same") == 0
    capsys.readouterr()
    calibration = {**settings["calibration"], "volatility_half_life_days": 20.0}
    tiers = [{**tier, "core": tier["core"][:-1]} if tier["id"] == "grid" else tier for tier in settings["tiers"]]
    for edit, words in (
        ({"id": "other"}, "a run of universe 'planted', not 'other'; give one of its own"),
        ({"calibration": calibration}, "other settings: calibration.volatility_half_life_days was 252.0, is 20.0; run"),
        ({"tiers": tiers}, "other settings: tiers.grid was ["),
    ):
        (folder / "universe.yaml").write_text(json.dumps({**settings, **edit}))
        assert calibrate_with(folder, validated, tmp_path / "model") == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_a_folder_that_is_no_validation_is_refused(written, validated, tmp_path, capsys):
    assert calibrate_with(written, tmp_path, tmp_path / "model") == 65
    assert "give the folder that engine validate --out named as written" in capsys.readouterr().err
    manifest = json.loads((validated / "manifest.json").read_text())
    del manifest["summary"]["mrad"]
    for text, words in (
        (json.dumps({**manifest, "command": "stress"}), "a run of engine stress, not of engine validate"),
        (json.dumps(manifest), "headline or settings are missing; run engine validate --out again"),
        ("[]", "not the manifest of a run"),
    ):
        (tmp_path / "manifest.json").write_text(text)
        assert calibrate_with(written, tmp_path, tmp_path / "model") == 65
        assert words in capsys.readouterr().err
