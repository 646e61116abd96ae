"""Funds are seen through: measured as what they hold, traded as one name."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from market import Market, make_holdings, make_portfolios

from engine.api.loading import LoadedUniverse, load_universe
from engine.api.rebalancing import rebalance_portfolios
from engine.api.stressing import stress_portfolios
from engine.axes import Axis
from engine.cli.main import run
from engine.contracts import CONTRACTS
from engine.curve.universe import Universe
from engine.errors import ContractError
from engine.risk.calibration import Calibration
from engine.risk.funds import resolve_funds, traded_curve, traded_model
from engine.risk.portfolios import Portfolios, weigh_holdings

PAIR = {"CHIPS-0": 0.6, "GRID-0": 0.4}
LOSSES = ("pnl_frac", "stated", "propagated", "specific", "band_low", "band_high")


def compose(day: dt.date, funds: Mapping[str, Mapping[str, float]]) -> pl.DataFrame:
    """Table ``compositions`` of one day."""
    rows = [(day, fund, name, weight) for fund, parts in funds.items() for name, weight in parts.items()]
    return pl.DataFrame(rows, schema=CONTRACTS["compositions"].columns, orient="row")


def holding(
    market: Market, universe: Universe, calibration: Calibration, books: dict, funds: Mapping[str, Mapping[str, float]]
) -> tuple[Portfolios, list[str]]:
    """Books on the planted model, funds seen through, and what was noticed."""
    wider = replace(universe, compositions=compose(market.as_of, funds))
    portfolios, notices = weigh_holdings(
        make_holdings(market, books),
        make_portfolios(dict.fromkeys(books)),
        model=calibration.model,
        curve=calibration.curve,
        universe=wider,
    )
    return portfolios, [notice.message for notice in notices]


def loaded_with(written: Path, market: Market, books: dict, funds: Mapping[str, Mapping[str, float]]) -> LoadedUniverse:
    """The planted universe with other books and compositions."""
    loaded = load_universe(str(written))
    return replace(
        loaded,
        universe=replace(loaded.universe, compositions=compose(market.as_of, funds)),
        holdings=make_holdings(market, books),
        portfolios=make_portfolios(dict.fromkeys(books, "house"), "careful"),
    )


def resolved(universe: Universe, funds: Mapping[str, Mapping[str, float]], known: list[str]) -> tuple[dict, list[str]]:
    """Shares by fund, and the messages."""
    day = dt.date(2025, 1, 24)
    names = sorted({*funds, *(name for parts in funds.values() for name in parts)})
    kinds = {name: "etf" if name in funds else "stock" for name in names}
    table = pl.DataFrame({"security_id": names, "kind": [kinds[name] for name in names]})
    wider = replace(universe, securities=table, compositions=compose(day, funds))
    found, notices = resolve_funds(wider, Axis.of("security", known), day)
    shares: dict[str, dict[str, float]] = {}
    for fund, name, weight in found.shares.iter_rows():
        shares.setdefault(fund, {})[name] = weight
    return shares, [notice.message for notice in notices]


def test_a_fund_of_two_stocks_is_the_two_stocks_in_stress_risk_and_attribution(written: Path, market: Market) -> None:
    books = {"fund": {"FUND": 0.5, "REST-00": 0.2}, "pair": {"CHIPS-0": 0.3, "GRID-0": 0.2, "REST-00": 0.2}}
    tables = stress_portfolios(loaded_with(written, market, books, {"FUND": PAIR})).tables
    compared = 0
    for name in ("stress", "stress_tiers", "stress_factors", "stress_positions", "portfolio_exposures",
                 "portfolio_curve", "risk_factors", "risk_tiers", "risk_positions", "portfolio_summary"):  # fmt: skip
        frames = [tables[name].filter(pl.col("portfolio_id") == book) for book in books]
        one, other = (frame.drop("portfolio_id", *(["name"] if "name" in frame.columns else [])) for frame in frames)
        assert one.height == other.height > 0, name
        for column, dtype in one.schema.items():
            if column in {"liquidity", "days_to_liquidate", "sold_in_1_day", "sold_in_5_days"}:
                continue  # what is sold is the fund, at its own spread and volume
            if dtype == pl.Float64:
                np.testing.assert_allclose(
                    one[column].fill_null(0.0), other[column].fill_null(0.0), rtol=0.0,
                    atol=1e-12 * max(1.0, other[column].abs().max() or 0.0),
                )  # fmt: skip
                compared += 1
            else:
                assert one[column].equals(other[column]), (name, column)
    assert compared > 30
    held = tables["stress_positions"].filter(pl.col("portfolio_id") == "fund")["security_id"].to_list()
    assert sorted(held) == ["CHIPS-0", "GRID-0", "REST-00"]


def test_without_a_composition_a_fund_keeps_its_own_exposures(
    market: Market, universe: Universe, calibration: Calibration
) -> None:
    books = {"fund": {"FUND": 0.5}}
    plain, notices = holding(market, universe, calibration, books, {})
    at = calibration.model.securities.labels.index("FUND")
    np.testing.assert_array_equal(plain.exposures[0], 0.5 * calibration.model.exposures[at])
    assert plain.funds is None and plain.traded is plain.weights and notices == []


def test_long_the_fund_and_short_what_it_holds_has_no_risk(written: Path, market: Market) -> None:
    books = {"hedge": {"FUND": 0.5, "CHIPS-0": -0.3, "GRID-0": -0.2}}
    tables = stress_portfolios(loaded_with(written, market, books, {"FUND": PAIR})).tables
    summary = tables["portfolio_summary"].filter(pl.col("portfolio_id") == "hedge")
    assert summary["volatility"][0] <= 1e-12 and summary["var_99"][0] <= 1e-12
    assert tables["stress"].select(*LOSSES).to_numpy() == pytest.approx(0.0, abs=1e-12)


def test_the_benchmark_is_seen_through_too(written: Path, market: Market) -> None:
    loaded = loaded_with(written, market, {"fund": {"FUND": 1.0}}, {"FUND": PAIR})
    index = pl.DataFrame(
        {"as_of": [market.as_of] * 2, "benchmark_id": ["B"] * 2, "security_id": list(PAIR), "weight": [0.6, 0.4]}
    )
    itself = pl.DataFrame({"as_of": [market.as_of], "benchmark_id": ["F"], "security_id": ["FUND"], "weight": [1.0]})
    for name in ("B", "F"):
        table = loaded.portfolios.with_columns(pl.lit(name).alias("benchmark_id"))
        against = replace(loaded, portfolios=table, benchmarks=pl.concat([index, itself]))
        summary = stress_portfolios(against).tables["portfolio_summary"].filter(pl.col("portfolio_id") == "fund")
        assert summary["tracking_error"][0] <= 1e-12 and summary["volatility"][0] > 0.1


def test_funds_in_funds_are_resolved_and_cash_in_them_has_no_exposure(universe: Universe) -> None:
    funds = {"OUTER": {"INNER": 0.5, "A": 0.3, "CASH:USD": 0.2}, "INNER": {"CORE": 0.5, "B": 0.5}, "CORE": {"A": 1.0}}
    shares, messages = resolved(universe, funds, ["A", "B", "CORE", "INNER", "OUTER"])
    assert shares == {"CORE": {"A": 1.0}, "INNER": {"A": 0.5, "B": 0.5}, "OUTER": {"A": 0.55, "B": 0.25}}
    assert messages == []


@given(seed=st.integers(0, 10_000))
def test_any_funds_in_funds_are_what_recursion_finds(universe: Universe, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stocks, funds = [f"S{i}" for i in range(6)], [f"F{i}" for i in range(7)]
    held: dict[str, dict[str, float]] = {}
    for number, fund in enumerate(funds):
        names = rng.choice([*stocks, *funds[:number], "CASH:USD"], size=4, replace=False).tolist()
        weights = rng.normal(0.25, 0.3, 4)
        held[fund] = dict(zip(names, (weights + (1.0 - weights.sum()) / 4.0).tolist(), strict=True))

    def resolve(fund: str) -> np.ndarray:
        out = np.zeros(len(stocks))
        for name, weight in held[fund].items():
            if name in held:
                out += weight * resolve(name)
            elif name in stocks:
                out[stocks.index(name)] += weight
        return out

    shares, messages = resolved(universe, held, [*stocks, *funds])
    assert messages == []
    for fund in funds:
        found = [shares.get(fund, {}).get(name, 0.0) for name in stocks]
        np.testing.assert_allclose(found, resolve(fund), rtol=0.0, atol=1e-13)


def test_a_fund_of_cash_alone_has_no_risk(market: Market, universe: Universe, calibration: Calibration) -> None:
    portfolios, messages = holding(market, universe, calibration, {"a": {"FUND": 0.7}}, {"FUND": {"CASH:USD": 1.0}})
    assert messages == [] and portfolios.fund_names == ("FUND",)
    assert not portfolios.exposures.any() and not portfolios.specific_variances().any()
    assert portfolios.traded.toarray().sum() == pytest.approx(0.7)


def test_a_circle_of_funds_is_refused_and_the_others_are_resolved(universe: Universe) -> None:
    funds = {
        "ONE": {"TWO": 0.5, "A": 0.5},
        "TWO": {"ONE": 1.0},
        "SELF": {"SELF": 0.5, "A": 0.5},
        "ROUND": {"ONE": 1.0},
    }
    shares, messages = resolved(universe, funds, ["A", "ONE", "TWO", "SELF", "ROUND"])
    assert shares == {"ROUND": {"ONE": 1.0}}
    words = "the composition leads back to the fund itself; its own exposures are used"
    assert messages == [f"ONE, TWO: {words}", f"SELF: {words}"]


def test_a_small_unknown_share_stays_on_the_fund_and_a_large_one_refuses_the_composition(universe: Universe) -> None:
    small, large = {"A": 0.98, "X": 0.01, "Y": 0.01}, {"A": 0.97, "X": 0.02, "Y": 0.01}
    shares, messages = resolved(universe, {"GOOD": small, "BAD": large}, ["A", "GOOD", "BAD"])
    assert shares == {"GOOD": {"A": 0.98, "GOOD": 0.02}}
    assert messages == [
        "BAD: the model does not know 3.00% of its constituents (X, Y), at most 2.00% may be; "
        "its own exposures are used for all of it",
        "GOOD: the model does not know 2.00% of its constituents (X, Y); for them its own exposures are used",
    ]


def test_weights_count_as_given_within_a_percent_and_are_refused_beyond(universe: Universe) -> None:
    funds = {"NEAR": {"A": 0.995}, "FAR": {"A": 0.98}, "EXACT": {"A": 1.5, "CASH:USD": -0.5}}
    shares, messages = resolved(universe, funds, ["A", *funds])
    assert shares == {"EXACT": {"A": 1.5}, "NEAR": {"A": 0.995}}
    assert messages == [
        "FAR: its weights sum to 0.98, expected 1; its own exposures are used",
        "NEAR: its weights sum to 0.995; they count as given",
    ]


def test_the_latest_composition_on_or_before_the_day_counts(universe: Universe) -> None:
    days = [dt.date(2025, 1, day) for day in (10, 24, 27)]
    table = pl.concat([compose(day, {"F": {name: 1.0}}) for day, name in zip(days, ("A", "B", "C"), strict=True)])
    listed = pl.DataFrame({"security_id": ["F"], "kind": ["etf"]})
    wider = replace(universe, securities=listed, compositions=table)
    known = Axis.of("security", ["A", "B", "C", "F"])
    for day, name in ((dt.date(2025, 1, 23), "A"), (days[1], "B"), (dt.date(2025, 2, 1), "C")):
        assert resolve_funds(wider, known, day)[0].shares.rows() == [("F", name, 1.0)]
    assert resolve_funds(wider, known, dt.date(2025, 1, 1))[0].names == ()


def test_a_stock_has_no_composition_and_a_bad_row_refuses_only_its_fund(
    market: Market, universe: Universe, calibration: Calibration
) -> None:
    funds = {"FUND": {"CHIPS-0": 1.0}, "REST-00": {"CHIPS-0": 1.0}}
    known = calibration.model.securities
    wider = replace(universe, compositions=compose(market.as_of, funds))
    found, notices = resolve_funds(wider, known, market.as_of)
    assert found.names == ("FUND",)
    assert [n.message for n in notices] == ["REST-00: it is of kind stock; only an etf or an index has a composition"]
    broken = compose(market.as_of, {"FUND": {"CHIPS-0": float("nan")}})
    found, notices = resolve_funds(replace(universe, compositions=broken), known, market.as_of)
    assert found.names == () and [(n.code, n.severity) for n in notices] == [("compositions.weight.nan", "warn")]
    with pytest.raises(ContractError, match="missing column constituent_id"):
        resolve_funds(replace(universe, compositions=broken.drop("constituent_id")), known, market.as_of)


def test_a_fund_the_model_does_not_know_is_known_by_what_it_holds(
    market: Market, universe: Universe, calibration: Calibration
) -> None:
    listed = market.securities.filter(pl.col("security_id") == "FUND").with_columns(security_id=pl.lit("NEWFUND"))
    securities = pl.concat([market.securities, listed])
    wider = replace(universe, securities=securities)
    other = replace(market, securities=securities)
    books = {"a": {"NEWFUND": 0.5}}
    portfolios, messages = holding(other, wider, calibration, books, {"NEWFUND": PAIR})
    assert messages == [] and portfolios.ids.labels == ("a",)
    names = calibration.model.securities.labels
    b = {name: calibration.model.exposures[names.index(name)] for name in PAIR}
    np.testing.assert_allclose(portfolios.exposures[0], 0.3 * b["CHIPS-0"] + 0.2 * b["GRID-0"], atol=1e-14)
    assert holding(other, wider, calibration, books, {})[0].ids.labels == ()


def test_a_traded_fund_has_the_exposures_risk_and_tiers_of_what_it_holds(
    market: Market, universe: Universe, calibration: Calibration
) -> None:
    parts = {"TWIN-A": 0.25, "TWIN-B": 0.25, "CHIPS-D1": 0.5}
    portfolios, _ = holding(market, universe, calibration, {"a": {"FUND": 1.0}}, {"FUND": parts})
    assert portfolios.funds is not None and portfolios.fund_names == ("FUND",)
    base = calibration.model
    model = traded_model(base, portfolios.funds)
    names = base.securities.labels
    at = {name: names.index(name) for name in (*parts, "FUND")}
    expected = sum(weight * base.exposures[at[name]] for name, weight in parts.items())
    np.testing.assert_allclose(model.exposures[at["FUND"]], expected, atol=1e-15)
    d = base.specific_variance
    own = 0.5**2 * d[at["TWIN-A"]] + 0.5**2 * d[at["CHIPS-D1"]]
    assert model.specific_variance[at["FUND"]] == pytest.approx(own, rel=1e-12)
    assert (model.issuers == model.issuers[at["FUND"]]).sum() == 1
    others = np.array([name != "FUND" for name in names])
    np.testing.assert_array_equal(model.exposures[others], base.exposures[others])
    # Alone, the traded fund is as risky as the book that is seen through.
    row = np.zeros(len(names))
    row[at["FUND"]] = 1.0
    b = row @ model.exposures
    alone = b @ model.factor_covariance @ b + row @ model.specific_times(row[:, None])[:, 0]
    seen = portfolios.exposures[0] @ base.factor_covariance @ portfolios.exposures[0]
    assert alone == pytest.approx(seen + portfolios.specific_variances()[0], rel=1e-12)
    shares = traded_curve(calibration.curve, base.securities, portfolios.funds).shares(base.securities)
    np.testing.assert_allclose(shares[at["FUND"]], [0.4, 0.0, 0.0, 0.6], atol=1e-12)


def test_a_rebalance_trades_the_fund_inside_a_budget_measured_on_what_it_holds(written: Path, market: Market) -> None:
    books = {"fund": {"FUND": 0.6, "REST-00": 0.3}}
    result = rebalance_portfolios(loaded_with(written, market, books, {"FUND": {"GRID-0": 0.5, "GRID-1": 0.5}}))
    summary = result.tables["portfolio_summary"].filter(pl.col("portfolio_id") == "fund")
    assert summary["status"].to_list() == ["certified", "certified"]
    assert "FUND" in result.tables["trades"]["security_id"].to_list()
    assert not {"GRID-0", "GRID-1"} & set(result.tables["targets"]["security_id"].to_list())
    stress = result.tables["stress"].filter(pl.col("portfolio_id") == "fund").sort("stage")
    after, before = stress.rows(named=True)
    assert before["breach"] and not after["breach"]
    limit = result.tables["limits"].filter(pl.col("limit_id") == "stress:planted_day").row(0, named=True)
    assert limit["before"] == pytest.approx(before["measured_loss"], abs=1e-12)
    assert limit["after"] == pytest.approx(after["measured_loss"], abs=1e-12)
    moves = result.tables["shocks"].filter(pl.col("scenario_id") == "planted_day")
    total = dict(moves.select("security_id", "total").iter_rows())
    assert total["FUND"] == pytest.approx(0.5 * total["GRID-0"] + 0.5 * total["GRID-1"], abs=1e-15)


def test_a_scenario_that_moves_a_fund_by_itself_says_that_it_reaches_no_book(written: Path, market: Market) -> None:
    text = (
        "id: crash\ntitle: T\nversion: 1.0.0\nkind: shock\nhorizon_days: 1\nnarrative: n\nauthor: a\n"
        "propagation: none\nviews:\n  - {factor: market, value: 0.0, source: s}\n"
        "  - {security: FUND, total: -0.2, source: s}\n"
    )
    loaded = loaded_with(written, market, {"fund": {"FUND": 0.5}}, {"FUND": PAIR})
    notices = stress_portfolios(loaded, texts={"crash.yaml": text}).notices
    assert [n.message for n in notices if n.code == "scenario.fund"] == [
        "scenario crash moves FUND by itself, which is measured as what it holds: that move reaches no book; "
        "state its constituents, or leave out its composition"
    ]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_compositions_are_read_from_the_universe_s_folder(
    folder: Path, market: Market, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = compose(market.as_of, {"FUND": PAIR})
    path = folder / f"compositions.{ending}"
    table.write_csv(path) if ending == "csv" else table.write_parquet(path)
    loaded = load_universe(str(folder))
    assert loaded.universe.compositions.equals(table)
    assert "compositions" in {source.name for source in loaded.sources}
    positions = stress_portfolios(loaded).tables["stress_positions"].filter(pl.col("portfolio_id") == "income")
    assert "FUND" not in positions["security_id"].to_list() and "GRID-0" in positions["security_id"].to_list()
    bad = table.rename({"weight": "share"})
    bad.write_csv(path) if ending == "csv" else bad.write_parquet(path)
    assert run(["stress", "--universe", str(folder)]) == 65
    assert "missing column weight" in capsys.readouterr().err
