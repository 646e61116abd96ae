"""Second models on trades: a closed form, counts by hand, a join by name, models that do not answer, the words."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from test_stories import Captured, ran

from engine.api.loading import LoadedUniverse
from engine.api.rebalancing import RebalanceResult, rebalance_portfolios
from engine.api.second_opinions import DUST, ask_second_models, mark_trades
from engine.book.answers import OPINION_COLUMNS
from engine.book.bench import Bench
from engine.contracts import empty
from engine.desk.opinions import say_opinion, show_opinions
from engine.errors import UsageError
from engine.intake import admit
from engine.mandates.mandate import Band
from engine.rebalance.conflict import Conflict
from engine.rebalance.problem import Problem
from engine.rebalance.solve import Answer
from engine.risk.model import RiskModel

BOOKS = ("ai_infrastructure", "cloud_platforms", "momentum_growth", "power_and_grid")
CHANGED = {"trades", "portfolio_summary", "exceptions"}


@pytest.fixture(scope="module")
def plain(bundled: LoadedUniverse) -> RebalanceResult:
    return rebalance_portfolios(bundled.only(BOOKS))


@pytest.fixture(scope="module")
def asked(bundled: LoadedUniverse, plain: RebalanceResult) -> RebalanceResult:
    return ask_second_models(bundled.only(BOOKS), plain)


def three_names(bundled: LoadedUniverse) -> LoadedUniverse:
    """A book of 4 % and 3 % too much of the first two names of its benchmark and 9 % too little of the third."""
    book, nav = "index_tracker", 1e9
    alone = bundled.only([book])
    mandate = bundled.mandates[str(alone.portfolios["mandate_id"][0])]
    document = {name: getattr(mandate, name) for name in ("id", "title", "version")} | {
        "risk_aversion": 10.0,
        "costs": {"half_spread_bps": 10.0, "holding_years": 1.0},
        "limits": {"turnover": 1.0, "max_weight": 1.0, "cash": {"min": 0.0, "max": 1.0}},
    }
    index = alone.benchmarks.filter(pl.col("benchmark_id") == alone.portfolios["benchmark_id"][0])
    index = index.sort("weight", descending=True).head(3).with_columns(weight=pl.Series([0.4, 0.3, 0.3]))
    securities = bundled.universe.securities.with_columns(half_spread_bps=pl.lit(None, dtype=pl.Float64))
    weights = dict(zip([*index["security_id"], "CASH:USD"], [0.44, 0.33, 0.21, 0.02], strict=True))
    price = {"CASH:USD": 1.0} | dict(securities.select("security_id", "price").iter_rows())
    holdings = pl.DataFrame(
        {
            "as_of": [alone.holdings["as_of"][0]] * 4,
            "portfolio_id": [book] * 4,
            "security_id": list(weights),
            "quantity": [nav * weight / price[name] for name, weight in weights.items()],
            "price": [price[name] for name in weights],
            "currency": ["USD"] * 4,
            "market_value_base": [nav * weight for weight in weights.values()],
        }
    )
    return replace(
        alone,
        mandates={**bundled.mandates, mandate.id: type(mandate).model_validate_json(json.dumps(document))},
        benchmarks=index,
        holdings=holdings,
        portfolios=alone.portfolios.with_columns(nav_base=pl.lit(nav)),
        universe=replace(bundled.universe, securities=securities),
    )


def with_own_risk(model: RiskModel, variances: dict[str, float]) -> RiskModel:
    """A model in which these names have no factor and this variance a year."""
    at = model.securities.positions(list(variances), "test")
    exposures, specific = model.exposures.copy(), model.specific_variance.copy()
    exposures[at] = 0.0
    specific[at] = list(variances.values())
    return replace(model, exposures=exposures, specific_variance=specific)


def test_a_name_that_only_some_models_want_in_closed_form(bundled: LoadedUniverse) -> None:
    loaded = three_names(bundled)
    first, second, third = loaded.benchmarks["security_id"].to_list()

    def model(variance: float) -> RiskModel:
        return with_own_risk(bundled.model, {first: variance, second: 0.08, third: 1e-4})

    # 10 * 0.002 * 0.04 is less than the half-spread of 0.001: the calm model leaves the first name alone.
    models = {"short": model(0.05), "stress": model(0.002)}
    loaded = replace(loaded, model=model(0.10), alternatives=models)
    result = ask_second_models(loaded, rebalance_portfolios(loaded))
    trades = {row["security_id"]: row for row in result.tables["trades"].iter_rows(named=True)}
    # Apart from the others, a name trades until aversion * variance * what is left of its active weight is its cost.
    deep, mild, other = -(0.04 - 0.001), -(0.04 - 0.002), -(0.03 - 0.00125)
    assert set(trades) == {first, second}
    assert trades[first]["trade_weight"] == pytest.approx(deep, abs=1e-7)
    assert [trades[first][name] for name in OPINION_COLUMNS] == [3, 2, 0.0]
    assert [trades[second][name] for name in OPINION_COLUMNS] == [3, 3, pytest.approx(other, abs=1e-7)]
    after = result.tables["portfolio_summary"].filter(stage="after")
    assert after["agreed_turnover"].to_list() == [pytest.approx(-other, abs=1e-7)]
    # Without the calm model both sell, the second one less.
    two = replace(loaded, alternatives={"short": models["short"]})
    found = ask_second_models(two, rebalance_portfolios(two)).tables["trades"].filter(security_id=first)
    assert found.select(OPINION_COLUMNS).row(0) == (2, 2, pytest.approx(mild, abs=1e-7))


def test_marks_are_counts_of_whole_rebalances_under_each_model(bundled: LoadedUniverse, asked: RebalanceResult) -> None:
    loaded = bundled.only(BOOKS)
    found = []
    for model in loaded.alternatives.values():
        trades = rebalance_portfolios(replace(loaded, model=model, alternatives={})).tables["trades"]
        found.append({row[:2]: row[2] for row in trades.select("portfolio_id", "security_id", "trade_weight").rows()})
    sums = dict.fromkeys(BOOKS, 0.0)
    for row in asked.tables["trades"].iter_rows(named=True):
        key, own = (row["portfolio_id"], row["security_id"]), row["trade_weight"]
        signed = [trades.get(key, 0.0) * np.sign(own) for trades in found]
        same = [size for size in signed if size > DUST]
        agreed = np.sign(own) * min(abs(own), *same) if len(same) == 3 else 0.0
        assert (row["models_asked"], row["models_agreeing"]) == (4, 1 + len(same))
        assert row["agreed_weight"] == pytest.approx(agreed, abs=1e-12)
        sums[key[0]] += abs(agreed)
    after = asked.tables["portfolio_summary"].filter(stage="after")
    for book, agreed, turnover in after.select("portfolio_id", "agreed_turnover", "turnover").iter_rows():
        assert agreed == pytest.approx(sums[book], abs=1e-10) and agreed <= turnover
    counts = set(asked.tables["trades"]["models_agreeing"].to_list())
    assert 4 in counts and min(counts) < 4


def test_only_the_marks_are_added(plain: RebalanceResult, asked: RebalanceResult) -> None:
    assert plain.tables["trades"].select(OPINION_COLUMNS).null_count().row(0) == (plain.tables["trades"].height,) * 3
    assert plain.tables["portfolio_summary"]["agreed_turnover"].null_count() == 8
    for name, frame in plain.tables.items():
        if name not in CHANGED:
            assert asked.tables[name].equals(frame)
    for name, columns in {"trades": OPINION_COLUMNS, "portfolio_summary": ("agreed_turnover",)}.items():
        assert asked.tables[name].drop(columns).equals(plain.tables[name].drop(columns))
        assert admit(asked.tables[name], name, "test").frame.equals(asked.tables[name])
    assert asked.tables["exceptions"].equals(plain.tables["exceptions"])


def test_a_model_that_is_the_base_agrees_on_everything(bundled: LoadedUniverse, plain: RebalanceResult) -> None:
    same = ask_second_models(replace(bundled.only(BOOKS), alternatives={"short": bundled.model}), plain)
    assert set(same.tables["trades"]["models_agreeing"].to_list()) == {2}
    assert (same.tables["trades"]["agreed_weight"] == plain.tables["trades"]["trade_weight"]).all()


@pytest.mark.parametrize(
    "limit",
    [
        # 0.04 * 2 of tracking error is out of reach of 0.02 with a turnover of 0.01; 0.04 * 0.3 is inside it.
        {"tracking_error": 0.02, "priorities": {"tracking_error": 0}},
        # 0.44 of the name is 0.44 of the market where it has an exposure of 1, and nothing where it has none.
        {"factors": {"market": Band(min=-0.1, max=0.1)}, "priorities": {"factors": 0}},
    ],
)
def test_a_model_that_has_no_answer_is_not_counted_and_is_named(
    bundled: LoadedUniverse, limit: dict[str, object]
) -> None:
    loaded = three_names(bundled)
    (book,) = loaded.portfolios["portfolio_id"]
    names = loaded.benchmarks["security_id"].to_list()
    own = loaded.mandates[loaded.portfolios["mandate_id"][0]]
    capped = own.model_copy(update={"limits": own.limits.model_copy(update={"turnover": 0.01, **limit})})
    base, wild = (
        with_own_risk(bundled.model, dict(zip(names, [variance, 0.01, 1e-4], strict=True))) for variance in (0.09, 4.0)
    )
    if "factors" in limit:
        exposures = wild.exposures.copy()
        exposures[wild.securities.labels.index(names[0]), 0] = 1.0
        wild = replace(wild, exposures=exposures)
    loaded = replace(
        loaded,
        mandates={**loaded.mandates, own.id: capped},
        model=base,
        alternatives={"short": base, "cross_section": wild},
    )
    plain = rebalance_portfolios(loaded)
    result = ask_second_models(loaded, plain)
    (silent,) = result.tables["exceptions"].filter(code="book.second_model").to_dicts()
    assert (silent["severity"], silent["portfolio_id"]) == ("warn", book)
    assert "'cross_section' has no answer here (its limits conflict under it: proven)" in silent["message"]
    assert set(result.tables["trades"]["models_asked"].to_list()) == {2}
    alone = ask_second_models(replace(loaded, alternatives={"cross_section": wild}), plain)
    trades = alone.tables["trades"]
    assert set(trades.select("models_asked", "models_agreeing").rows()) == {(1, 1)}
    assert trades.height == trades["agreed_weight"].null_count() == plain.tables["trades"].height
    assert alone.tables["portfolio_summary"]["agreed_turnover"].null_count() == 2
    text = text_of(dict(alone.tables))
    assert "US large-cap tracker" in text and "models ask" not in text


def test_a_book_that_is_held_under_every_model_is_left_without_opinions(
    bundled: LoadedUniverse, plain: RebalanceResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = Bench.settle

    def hold(bench: Bench, book: str) -> tuple[Problem, Answer, Conflict | None]:
        problem, answer, conflict = settle(bench, book)
        return problem, replace(answer, status="held") if book == BOOKS[0] else answer, conflict

    monkeypatch.setattr(Bench, "settle", hold)
    result = ask_second_models(bundled.only(BOOKS), plain)
    silent = result.tables["exceptions"].filter(code="book.second_model")
    assert silent["portfolio_id"].to_list() == [BOOKS[0]] * 3
    assert silent["message"].str.contains("no answer could be certified", literal=True).all()
    counts = dict(result.tables["trades"].select("portfolio_id", "models_asked").unique().iter_rows())
    assert counts == {book: 1 if book == BOOKS[0] else 4 for book in BOOKS}


def test_without_second_models_there_is_nobody_to_ask(bundled: LoadedUniverse, plain: RebalanceResult) -> None:
    with pytest.raises(UsageError, match="has no second models to ask; engine calibrate writes them"):
        ask_second_models(replace(bundled, alternatives={}), plain)


NAMES = ("A", "B", "C")
SIZES = st.sampled_from([-0.02, -0.01, -5e-8, 0.0, 5e-8, 0.01, 0.02])
MODELS = st.lists(st.fixed_dictionaries(dict.fromkeys(NAMES, SIZES)), max_size=4)


@given(own=st.fixed_dictionaries({name: st.sampled_from([-0.015, 0.015]) for name in NAMES}), others=MODELS)
def test_marks_never_exceed_who_was_asked_and_do_not_depend_on_the_order_of_rows(
    own: dict[str, float], others: list[dict[str, float]]
) -> None:
    trades = (
        empty("trades")
        .clear(3)
        .with_columns(
            portfolio_id=pl.lit("book"), security_id=pl.Series(NAMES), trade_weight=pl.Series(list(own.values()))
        )
    )
    rows = [("book", name, size) for model in others for name, size in model.items() if size]
    schema = {"portfolio_id": pl.String, "security_id": pl.String, "asked_weight": pl.Float64}
    asked = pl.DataFrame(rows, schema=schema, orient="row")
    marked = mark_trades(trades, asked, {"book": len(others)})
    shuffled = mark_trades(trades.reverse(), asked.sample(fraction=1.0, shuffle=True, seed=3), {"book": len(others)})
    assert shuffled.equals(marked)
    for row in marked.iter_rows(named=True):
        assert 1 <= row["models_agreeing"] <= row["models_asked"] == 1 + len(others)
        if not others:
            assert row["agreed_weight"] is None
            continue
        assert (row["agreed_weight"] != 0.0) == (row["models_agreeing"] == row["models_asked"])
        assert abs(row["agreed_weight"]) <= 0.015 and row["agreed_weight"] * row["trade_weight"] >= 0.0


def text_of(tables: dict[str, pl.DataFrame]) -> str:
    paper = io.StringIO()
    show_opinions(Console(file=paper, width=80, highlight=False), tables)
    return paper.getvalue()


def test_the_desk_marks_what_only_some_models_ask_for(plain: RebalanceResult, asked: RebalanceResult) -> None:
    assert not text_of(dict(plain.tables))
    text = text_of(dict(asked.tables))
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    split = asked.tables["trades"].filter(pl.col("models_agreeing") < pl.col("models_asked"))
    flat = " ".join(text.split())
    for (book, agreeing), part in split.partition_by("portfolio_id", "models_agreeing", as_dict=True).items():
        verb = "asks" if agreeing == 1 else "ask"
        which = "this trade" if part.height == 1 else f"these {part.height} trades"
        assert f"{agreeing} of 4 models {verb} for {which}" in flat, book
    after = asked.tables["portfolio_summary"].filter(stage="after", portfolio_id=BOOKS[0]).row(0, named=True)
    line = next(line for line in text.splitlines() if line.startswith(after["name"]))
    assert line.split()[-1] == f"{100.0 * after['agreed_turnover'] / after['turnover']:.0f}"


@pytest.mark.parametrize(
    ("asked_of", "agreeing", "words"),
    [
        (3, 2, "2 of 3 models ask for this trade"),
        (4, 1, "1 of 4 models asks for this trade"),
        (4, 4, "all 4 models ask for this trade"),
        (1, 1, None),
        (None, None, None),
    ],
)
def test_a_trade_is_told_in_words(asked_of: int | None, agreeing: int | None, words: str | None) -> None:
    assert say_opinion({"models_asked": asked_of, "models_agreeing": agreeing}) == words


def test_the_commands_say_it_and_json_carries_it(asked: RebalanceResult, tmp_path: Path, capsys: Captured) -> None:
    trades = asked.tables["trades"].filter(portfolio_id=BOOKS[0]).select("security_id", *OPINION_COLUMNS[:2])
    arguments = ("--portfolio", BOOKS[0], "--quiet", "--second-models")
    document = json.loads(ran(capsys, 0, "rebalance", *arguments, "--out", str(tmp_path), "--format", "json")[0])
    assert [tuple(row[name] for name in trades.columns) for row in document["trades"]] == trades.rows()
    trade = trades.sort("models_agreeing", "security_id").row(0, named=True)
    out = ran(capsys, 0, "explain", *arguments, "--security", trade["security_id"])[0]
    assert out.splitlines()[-1].strip() == say_opinion(trade)
