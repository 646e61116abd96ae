"""The nowcast: against the dense conditional Gaussian, its laws, bad tapes, and the day itself."""

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from market import EVENT_MOVES, TIERS, Market, core_names
from scipy.stats import norm

from engine.api.loading import LoadedUniverse, load_universe
from engine.api.nowcasting import nowcast_portfolios, score_nowcast
from engine.axes import Axis
from engine.cli.main import run
from engine.curve.returns import build_returns
from engine.errors import ContractError, DataError
from engine.risk.calibration import Calibration
from engine.risk.model import RiskModel
from engine.stress.nowcast import compare_scenarios, nowcast, nowcast_names
from engine.stress.nowcast_scores import score_names
from engine.stress.outcome import Outcome
from engine.stress.propagation import propagate
from engine.stress.tape import Tape, TapeRules, read_tape

Captured = pytest.CaptureFixture[str]

REAL_TAPE = [
    "NVDA", "AVGO", "TSM", "MU", "ANET", "VRT", "ETN", "GEV", "CEG", "VST", "PWR", "MSFT",
    "GOOGL", "AMZN", "META", "ORCL", "CRM", "NOW", "AAPL", "JPM", "XOM", "UNH", "JNJ", "PG",
]  # fmt: skip


def tape(returns: dict[str, float], time: str = "16:00") -> pl.DataFrame:
    return pl.DataFrame({"security_id": list(returns), "time": [time] * len(returns), "return": list(returns.values())})


def prints(returns: dict[str, float], elapsed: float = 1.0) -> Tape:
    names = tuple(sorted(returns))
    return Tape(names, np.array([returns[name] for name in names]), dt.time(16), elapsed, ())


def event_returns(market: Market) -> dict[str, float]:
    rows = market.prices.filter(pl.col("date").is_in([market.as_of, market.event_date])).sort("security_id", "date")
    moved = rows.group_by("security_id", maintain_order=True).agg(pl.col("close").last() / pl.col("close").first() - 1)
    return dict(moved.iter_rows())


@pytest.fixture
def model(calibration: Calibration) -> RiskModel:
    return calibration.model


@pytest.fixture
def loaded(written: Path) -> LoadedUniverse:
    return load_universe(str(written))


FALL = {"market": -0.02, "CHIPS-0": -0.15, "GRID-0": -0.22}
MIXED = {"market": -0.02, "CHIPS-0": -0.10, "GRID-1": -0.16, "APPS-2": 0.03, "REST-04": 0.01}


def dense(
    model: RiskModel, told: dict[str, float], elapsed: float, scales: tuple[float, float] = (1.0, 1.0)
) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, covariance and D^2 of factors and specifics, stacked, given the views: no engine algebra."""
    k, n = len(model.factors), len(model.securities)
    same = model.issuers[:, None] == model.issuers[None, :]
    prior = np.zeros((k + n, k + n))
    prior[:k, :k] = scales[0] ** 2 * model.factor_covariance
    prior[k:, k:] = scales[1] ** 2 * same * model.specific_variance
    prior *= elapsed / 252
    rows = np.zeros((len(told), k + n))
    for row, name in enumerate(sorted(told)):
        if name == "market":
            rows[row, 0] = 1.0
        else:
            at = model.securities.labels.index(name)
            rows[row, :k], rows[row, k + at] = model.exposures[at], 1.0
    values = np.array([told[name] for name in sorted(told)])
    gain = np.linalg.solve(rows @ prior @ rows.T, rows @ prior).T
    return gain @ values, prior - gain @ rows @ prior, values @ np.linalg.solve(rows @ prior @ rows.T, values)


@pytest.mark.parametrize("elapsed", [1.0, 0.25])
def test_nowcast_is_the_dense_conditional_gaussian(model: RiskModel, elapsed: float) -> None:
    """At the variances of today, which tests/test_reweighting.py holds to their fixed point; D^2 is the model's."""
    k = len(model.factors)
    _, _, distance = dense(model, MIXED, elapsed)
    now = nowcast(prints(MIXED, elapsed), model)
    today = now.model
    mean, _, _ = dense(today, MIXED, elapsed)
    assert now.factors == pytest.approx(mean[:k], abs=1e-12)
    assert now.specifics == pytest.approx(mean[k:], abs=1e-12)
    assert now.distance_squared == pytest.approx(distance, rel=1e-9)
    scales = model.tails.factor_scale(distance, len(MIXED)), model.tails.specific_scale(distance, len(MIXED))
    _, covariance, _ = dense(today, MIXED, elapsed, scales)
    rows = np.hstack([model.exposures, np.eye(len(model.securities))])
    open_variance = np.maximum(np.einsum("nk,kl,nl->n", rows, covariance, rows), 0.0)
    own = np.einsum("nk,kl,nl->n", model.exposures, model.factor_covariance, model.exposures)
    day = distance * elapsed
    coming = model.tails.factor_scale(day, len(MIXED)) ** 2 * own
    coming += model.tails.specific_scale(day, len(MIXED)) ** 2 * today.specific_variance
    rest = coming * (1.0 - elapsed) / 252
    frame = nowcast_names(now, 0.8)
    assert frame["estimated"].to_numpy() == pytest.approx(model.exposures @ mean[:k] + mean[k:], abs=1e-12)
    half = (frame["band_high"] - frame["estimated"]).to_numpy()
    assert half == pytest.approx(norm.ppf(0.9) * np.sqrt(open_variance), abs=1e-8)
    close = (frame["close_high"] - frame["estimated"]).to_numpy()
    assert close == pytest.approx(norm.ppf(0.9) * np.sqrt(open_variance + rest), abs=1e-8)


def test_books_add_up_from_the_dense_conditional_gaussian(loaded: LoadedUniverse) -> None:
    result = nowcast_portfolios(loaded, tape(MIXED, "12:45"))
    model, today, books = result.portfolios.model, result.now.model, result.tables["nowcast"]
    mean, _, _ = dense(today, MIXED, 0.5)
    _, _, distance = dense(model, MIXED, 0.5)
    k, weights = len(model.factors), result.portfolios.weights.toarray()
    scales = model.tails.factor_scale(distance, len(MIXED)), model.tails.specific_scale(distance, len(MIXED))
    _, covariance, _ = dense(today, MIXED, 0.5, scales)
    rows = np.hstack([weights @ model.exposures, weights])
    half = norm.ppf(0.9) * np.sqrt(np.einsum("nk,kl,nl->n", rows, covariance, rows))
    ordered = pl.DataFrame({"portfolio_id": result.portfolios.ids.labels}).join(
        books, on="portfolio_id", maintain_order="left"
    )
    pnl = weights @ (model.exposures @ mean[:k] + mean[k:])
    assert ordered["pnl_frac"].to_numpy() == pytest.approx(pnl, abs=1e-12)
    assert (ordered["band_high"] - ordered["pnl_frac"]).to_numpy() == pytest.approx(half, abs=1e-10)
    assert ordered["pnl_base"].to_numpy() == pytest.approx(pnl * result.portfolios.nav)


def test_a_surprise_is_the_distance_from_what_the_other_prints_say(model: RiskModel) -> None:
    now = nowcast(prints(MIXED), model)
    others = {name: value for name, value in MIXED.items() if name != "GRID-1"}
    mean, covariance, _ = dense(model, others, 1.0)
    at, k = model.securities.labels.index("GRID-1"), len(model.factors)
    row = np.concatenate([model.exposures[at], np.eye(len(model.securities))[at]])
    expected = (MIXED["GRID-1"] - row @ mean) / np.sqrt(row @ covariance @ row)
    assert len(row) == k + len(model.securities)
    assert now.surprises[now.tape.names.index("GRID-1")] == pytest.approx(expected, rel=1e-9)


def test_prints_are_met_and_have_no_band(model: RiskModel) -> None:
    frame = nowcast_names(nowcast(prints(MIXED), model), 0.8).drop_nulls("printed")
    assert frame.height == len(MIXED) - 1
    assert frame["estimated"].to_numpy() == pytest.approx(frame["printed"].to_numpy(), abs=1e-12)
    assert (frame["band_high"] - frame["band_low"]).to_numpy() == pytest.approx(0.0, abs=1e-7)


def test_telling_the_model_its_own_estimate_changes_no_gaussian_estimate_and_the_others_a_little(
    model: RiskModel,
) -> None:
    """Under normal returns nothing changes. Under a t one more print settles what the others' own moves
    were, so their weights shift: by less than a ten-thousandth of the largest move here.
    """
    at = model.securities.labels.index("REST-10")
    normal = replace(model, tails=replace(model.tails, degrees=1e15))
    for given, bound in ((normal, 1e-12), (model, 1e-4)):
        first = nowcast(prints(MIXED), given)
        again = nowcast(prints({**MIXED, "REST-10": float(first.returns[at])}), given)
        assert np.abs(again.returns - first.returns).max() <= bound * np.abs(first.returns).max()
        assert again.model.specific_variance[at] <= model.specific_variance[at]


def test_the_order_of_the_prints_and_the_hour_change_no_estimate(model: RiskModel) -> None:
    frame = tape(MIXED)
    one, two = (nowcast(read_tape(f, model.securities, TapeRules(), "tape"), model) for f in (frame, frame.reverse()))
    assert one.returns.tobytes() == two.returns.tobytes()
    early = nowcast(prints(MIXED, 0.1), model)
    assert early.returns == pytest.approx(one.returns, abs=1e-12)


def test_one_print_moves_all_by_their_slope_on_it_at_the_variances_of_today(model: RiskModel) -> None:
    at = model.securities.labels.index("CHIPS-0")
    now = nowcast(prints({"CHIPS-0": -0.1}), model)
    covariance = model.exposures @ model.factor_covariance @ model.exposures.T
    covariance += (model.issuers[:, None] == model.issuers[None, :]) * now.model.specific_variance
    assert now.returns == pytest.approx(-0.1 * covariance[:, at] / covariance[at, at], abs=1e-12)


def test_a_print_of_the_market_moves_all_by_their_slope_on_it(model: RiskModel) -> None:
    now = nowcast(prints({"market": -0.02}), model)
    slope = model.exposures @ model.factor_covariance[:, 0] / model.factor_covariance[0, 0]
    assert now.returns == pytest.approx(-0.02 * slope, abs=1e-12)
    assert not now.specifics.any()


def test_fifty_prints_are_read_and_one_more_is_refused(model: RiskModel) -> None:
    names = [name for name in model.securities.labels if not name.startswith("TWIN")]
    now = nowcast(read_tape(tape(dict.fromkeys(names[:50], -0.01)), model.securities, TapeRules(), "t"), model)
    assert now.returns[[model.securities.labels.index(name) for name in names[:50]]] == pytest.approx(-0.01)
    with pytest.raises(DataError, match="51 names; at most 50 are read"):
        read_tape(tape(dict.fromkeys(names[:51], -0.01)), model.securities, TapeRules(), "t")


def test_two_lines_of_one_issuer_count_as_one_print_their_mean(model: RiskModel) -> None:
    both = nowcast(prints({"TWIN-A": -0.04, "TWIN-B": -0.042}), model)
    assert len(both.open_gain) == 1 and not both.ridged
    assert np.abs(both.factors).max() < 0.05
    at = [model.securities.labels.index(name) for name in ("TWIN-A", "TWIN-B")]
    assert both.returns[at].mean() == pytest.approx(-0.041, abs=1e-12)
    alone = nowcast(prints({"TWIN-A": -0.041}), model)
    assert both.returns == pytest.approx(alone.returns, abs=2e-3)


def test_prints_without_risk_in_the_model_are_refused(model: RiskModel) -> None:
    flat = replace(
        model, factor_covariance=np.zeros_like(model.factor_covariance), specific_variance=np.zeros(len(model.issuers))
    )
    with pytest.raises(DataError, match="have no risk in the model"):
        nowcast(prints(MIXED), flat)


def test_the_planted_shock_is_found_from_a_few_names(
    market: Market, model: RiskModel, calibration: Calibration
) -> None:
    real = event_returns(market)
    told = {name: real[name] for tier in TIERS for name in core_names(tier)[:4]} | {"market": EVENT_MOVES[0]}
    now = nowcast(prints(told), model)
    assert now.factors == pytest.approx(EVENT_MOVES, abs=0.02)
    closing = pl.DataFrame({"security_id": list(real), "return": list(real.values())})
    scoring = {name for name in real if name.startswith(("REST", "TWIN"))} | {"CHIPS-5", "GRID-5", "APPS-5"}
    scores = score_names(nowcast_names(now, 0.8), closing, scoring=scoring).row(0, named=True)
    assert scores["r2"] > 0.7 and scores["rank_correlation"] > 0.3
    assert 0.6 < scores["band_coverage"] <= 1.0


def test_resemblance_has_a_sign_and_a_size(loaded: LoadedUniverse) -> None:
    shock = Outcome.of(propagate(loaded.library.scenario("planted_day"), loaded.model, loaded.curve))
    now = nowcast(prints(MIXED), loaded.model)
    for size, similarity in ((0.5, 1.0), (-2.0, -1.0)):
        row = compare_scenarios(replace(now, factors=size * shock.factors), (shock,)).row(0, named=True)
        assert row["similarity"] == pytest.approx(similarity)
        assert row["scale"] == pytest.approx(size)
    nothing = compare_scenarios(replace(now, factors=np.zeros(4)), (shock,)).row(0, named=True)
    assert nothing["similarity"] == 0.0 and nothing["scale"] == 0.0
    inverse = np.linalg.inv(loaded.model.factor_covariance)
    f, g = now.factors, shock.factors
    row = compare_scenarios(now, (shock,)).row(0, named=True)
    assert row["similarity"] == pytest.approx(f @ inverse @ g / np.sqrt((f @ inverse @ f) * (g @ inverse @ g)))


def test_breach_means_the_estimate_is_beyond_the_tightest_budget(loaded: LoadedUniverse) -> None:
    books = nowcast_portfolios(loaded, tape(FALL)).tables["nowcast"]
    assert books.filter("breach")["portfolio_id"].to_list() == ["growth"]
    growth = books.row(by_predicate=pl.col("portfolio_id") == "growth", named=True)
    assert growth["budget"] == 0.08 and growth["pnl_frac"] < -0.08
    assert growth["nearest_scenario"] == "planted_day" and growth["similarity"] > 0.8
    house = books.row(by_predicate=pl.col("portfolio_id") == "house", named=True)
    assert house["budget"] is None and not house["breach"]


def test_a_second_print_of_a_tier_bears_out_the_first(loaded: LoadedUniverse) -> None:
    """A lone fall is in part taken for the issuer's own; with two of each tier the planted day is plain."""
    borne_out = {**FALL, "CHIPS-1": FALL["CHIPS-0"], "GRID-1": FALL["GRID-0"]}
    lone, both = (nowcast_portfolios(loaded, tape(told)).tables["nowcast"] for told in (FALL, borne_out))
    assert both["nearest_scenario"].unique().to_list() == ["planted_day"]
    assert both["similarity"][0] > 0.95 > lone["similarity"][0]


def test_scores_compare_each_book_with_its_names(loaded: LoadedUniverse, market: Market) -> None:
    real = event_returns(market)
    result = nowcast_portfolios(loaded, tape({name: real[name] for name in ("CHIPS-0", "GRID-0", "REST-00")}))
    closing = pl.DataFrame({"security_id": list(real), "return": list(real.values())})
    scored = score_nowcast(result, closing, loaded).tables["nowcast_book_scores"]
    growth = {"CHIPS-0": 0.15, "CHIPS-1": 0.15, "GRID-0": 0.2, "STRADDLE": 0.2, "REST-00": 0.2}
    row = scored.row(by_predicate=pl.col("portfolio_id") == "growth", named=True)
    assert row["realised"] == pytest.approx(sum(weight * real[name] for name, weight in growth.items()))
    assert row["error"] == pytest.approx(row["estimated"] - row["realised"]) and row["known_share"] == pytest.approx(
        1.0
    )
    less = score_nowcast(result, closing.filter(pl.col("security_id") != "STRADDLE"), loaded).tables
    row = less["nowcast_book_scores"].row(by_predicate=pl.col("portfolio_id") == "growth", named=True)
    assert row["known_share"] == pytest.approx(0.7 / 0.9)
    rows = market.securities.filter((pl.col("kind") == "stock") & pl.col("gics_sector").is_not_null())
    core = {name for tier in TIERS for name in core_names(tier)}
    outside = set(rows["security_id"]) - core - {"REST-00", "STRADDLE"}
    assert less["nowcast_scores"]["n"].to_list() == [len(outside)]


def test_scores_need_names_outside_the_tape(loaded: LoadedUniverse) -> None:
    result = nowcast_portfolios(loaded, tape(MIXED))
    few = pl.DataFrame({"security_id": ["REST-00", "REST-04"], "return": [0.1, 0.2]})
    with pytest.raises(DataError, match="1 names outside the tape can be scored"):
        score_nowcast(result, few, loaded)


KNOWN = Axis("security", ("AAA", "BBB", "CCC"))


def rows(*lines: tuple[str, object, float]) -> pl.DataFrame:
    return pl.DataFrame(lines, schema=["security_id", "time", "return"], orient="row")


@pytest.mark.parametrize("time", ["12:45", "12:45:00", "2025-01-27T12:45:00", "2025-01-27 12:45"])
def test_a_time_is_read_alone_or_after_a_date(time: str) -> None:
    assert read_tape(rows(("AAA", time, 0.01)), KNOWN, TapeRules(), "t").elapsed == 0.5


@pytest.mark.parametrize("time", [dt.time(12, 45), dt.datetime(2025, 1, 27, 12, 45)])  # noqa: DTZ001
def test_a_time_is_read_from_typed_columns(time: object) -> None:
    read = read_tape(rows(("AAA", time, 0.01)), KNOWN, TapeRules(), "t")
    assert read.elapsed == 0.5 and read.at == dt.time(12, 45)


def test_the_latest_print_counts_up_to_the_moment_asked_for() -> None:
    frame = rows(("AAA", "10:00", 0.01), ("AAA", "10:20", 0.02), ("AAA", "15:00", 0.03))
    assert read_tape(frame, KNOWN, TapeRules(), "t").returns.tolist() == [0.03]
    at = read_tape(frame, KNOWN, TapeRules(at=dt.time(10, 30)), "t")
    assert at.returns.tolist() == [0.02] and at.elapsed == pytest.approx(50 / 390)


def test_prints_after_the_close_are_of_the_close() -> None:
    read = read_tape(rows(("AAA", "16:00", 0.01), ("BBB", "17:30", 0.02)), KNOWN, TapeRules(), "t")
    assert read.names == ("AAA", "BBB") and read.elapsed == 1.0


@pytest.mark.parametrize(
    ("extra", "code", "words"),
    [
        (("BBB", "10:00", 0.02), "tape.stale", "print BBB: 10:00:00 is more than 30 minutes older than the newest"),
        (("BBB", "09:15", 0.02), "tape.before_open", "print BBB: not after the open 09:30; left out"),
        (("AAB", "12:00", 0.02), "tape.unknown", "print 'AAB' is no security of the model; did you mean 'AAA'?"),
        (("BBB", "12:00", -1.2), "tape.return.min", "1 row breaks 'return >= -1'; first: BBB/12:00:00; found -1.2"),
        (("BBB", "12:00", 2.5), "tape.return.max", "1 row breaks 'return <= 2'; first: BBB/12:00:00; found 2.5"),
        (("BBB", "12:00", float("nan")), "tape.return.nan", "1 row breaks 'return is a number'"),
    ],
)
def test_a_print_that_cannot_count_is_left_out_by_name(extra: tuple[str, str, float], code: str, words: str) -> None:
    frame = rows(("AAA", "12:00", 0.01), ("CCC", "12:00", -0.01), extra)
    read = read_tape(frame, KNOWN, TapeRules(), "t")
    assert read.names == ("AAA", "CCC")
    assert [notice.code for notice in read.notices] == [code]
    assert words in read.notices[0].message


@pytest.mark.parametrize(
    ("frame", "error", "words"),
    [
        (rows(("AAA", "12:00", -3.1), ("BBB", "12:00", 2.4)), DataError, "looks like percent; give fractions"),
        (rows(("AAA", "12:00", 0.1), ("AAA", "12:00:00", 0.2)), ContractError, "AAA at 12:00:00; keep one"),
        (rows(("AAA", "noon", 0.1)), ContractError, "time.*found 'noon'"),
        (rows(("AAA", "25:00", 0.1)), ContractError, "time.*found '25:00'"),
        (rows(("ZZZ", "12:00", 0.1)), DataError, "no print can be used; give 1 to 50"),
        (
            rows(("AAA", "2025-01-27 12:00", 0.1), ("BBB", "2025-01-28 12:00", 0.1)),
            DataError,
            "prints of 2 dates, 2025-01-27 to 2025-01-28",
        ),
        (rows(("AAA", "12:00", 0.1)).drop("time"), ContractError, "missing column time"),
        (
            rows(("AAA", dt.datetime(2025, 1, 27, 17, tzinfo=dt.UTC), 0.1)),
            ContractError,
            "has the zone UTC; give exchange time",
        ),
    ],
)
def test_a_tape_that_cannot_be_read_is_refused(frame: pl.DataFrame, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        read_tape(frame, KNOWN, TapeRules(), "t")


def test_a_print_far_from_the_others_is_used_with_a_warning(loaded: LoadedUniverse) -> None:
    result = nowcast_portfolios(loaded, tape({**MIXED, "REST-05": -0.4}))
    found = [notice.message for notice in result.notices if notice.code == "tape.surprise"]
    assert len([words for words in found if "print REST-05: -40.0 %" in words and "it is used" in words]) == 1
    names = dict(result.tables["nowcast_names"].select("security_id", "estimated").iter_rows())
    assert names["REST-05"] == pytest.approx(-0.4)


def test_the_command_prints_one_document_and_writes_every_table(
    written: Path, market: Market, tmp_path: Path, capsys: Captured
) -> None:
    real = event_returns(market)
    tape(FALL).write_csv(tmp_path / "tape.csv")
    pl.DataFrame({"security_id": list(real), "return": list(real.values())}).write_parquet(tmp_path / "close.parquet")
    call = ["nowcast", "--universe", str(written), "--tape", str(tmp_path / "tape.csv")]
    call += ["--score", str(tmp_path / "close.parquet")]
    assert run([*call, "--format", "json", "--out", str(tmp_path / "out"), "--fail-on-breach"]) == 1
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert document["time"] == "16:00:00" and document["elapsed"] == 1.0
    assert document["nowcast_scores"][0]["scoring_set"] == "outside_tape"
    folder = next((tmp_path / "out" / "adhoc").iterdir())
    tables = {path.stem for path in folder.glob("*.parquet")}
    assert tables == {
        "nowcast", "nowcast_names", "nowcast_scenarios", "nowcast_scores", "nowcast_book_scores", "exceptions",
    }  # fmt: skip
    assert run([*call, "--quiet"]) == 0
    shown = capsys.readouterr()
    assert "planted_day" in shown.out and "Growth" in shown.out and not shown.err
    assert run([*call, "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("portfolio_id,nav_base,pnl_frac")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "nowcast needs --tape FILE"),
        (["--tape", "x.csv", "--session", "16:00-09:30"], "ends before it begins"),
        (["--tape", "x.csv", "--session", "allday"], "is not a session; write 09:30-16:00"),
        (["--tape", "x.csv", "--at", "noon"], "is not a time; write 10:30"),
    ],
)
def test_a_wrong_call_is_a_usage_error(options: list[str], words: str, capsys: Captured) -> None:
    assert run(["nowcast", *options]) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_deepseek_day_is_explained_from_twenty_five_prints(bundled: LoadedUniverse, real_prices: Path) -> None:
    """R2 of at least 0.53 outside the tape, the 80 % band holding 70 to 90 %."""
    day = dt.date(2025, 1, 27)
    prices = pl.read_parquet(real_prices)
    panel, _ = build_returns(prices, bundled.universe.securities, as_of=day, history_days=1)
    caps = dict(bundled.universe.securities.select("security_id", "market_cap_base").iter_rows())
    stocks = set(bundled.universe.securities.filter(pl.col("kind") == "stock")["security_id"].to_list())
    real = dict(zip(panel.securities.labels, panel.values[0].tolist(), strict=True))
    real = {name: value for name, value in real.items() if np.isfinite(value)}
    weight = {name: caps[name] or 0.0 for name in real if name in stocks}
    market = sum(weight[name] * real[name] for name in weight) / sum(weight.values())
    result = nowcast_portfolios(bundled, tape({"market": market, **{name: real[name] for name in REAL_TAPE}}))
    closing = pl.DataFrame({"security_id": list(real), "return": list(real.values())})
    scored = score_nowcast(result, closing, bundled).tables
    scores = scored["nowcast_scores"].row(0, named=True)
    assert scores["n"] > 400
    assert scores["r2"] >= 0.53
    assert scores["rank_correlation"] > 0.55
    assert 0.7 <= scores["band_coverage"] <= 0.9
    (nearest,) = result.tables["nowcast"]["nearest_scenario"].unique().to_list()
    assert nearest in {"deepseek", "deepseek_replay", "deepseek_two_days"}
