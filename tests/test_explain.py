"""The story of a book and of a name: the parts sum to the marginal cost, and each is what it says."""

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from test_stories import Captured, ran

from engine.api.explaining import explain_portfolio
from engine.api.loading import LoadedUniverse
from engine.api.rebalancing import lay_out_books, rebalance_portfolios
from engine.book.bench import Bench, lay_out
from engine.contracts import CONTRACTS
from engine.desk.reasons import words_of
from engine.errors import UsageError
from engine.intake import admit
from engine.rebalance.pushes import split_marginal_costs
from engine.rebalance.shadows import marginal_costs

BOOK = "ai_infrastructure"
BOOKS = (BOOK, "cloud_platforms", "index_tracker", "momentum_growth")


@pytest.fixture(scope="module")
def bench(bundled: LoadedUniverse) -> Bench:
    ready, task = lay_out_books(bundled.only(BOOKS))
    return lay_out(ready.portfolios, task)


@pytest.mark.parametrize("book", BOOKS)
def test_the_parts_sum_to_the_marginal_costs_of_every_name(bench: Bench, book: str) -> None:
    problem, answer = bench.solve(book)
    pushes = split_marginal_costs(problem, answer.weights, answer.duals, bench.desk.terms.model)
    buying, selling = marginal_costs(problem, answer.weights, answer.duals)
    assert np.abs(pushes.buying.sum(axis=0) - buying).max() <= 1e-12
    assert np.abs(pushes.selling.sum(axis=0) - selling).max() <= 1e-12


def test_with_a_cap_on_tracking_error_they_sum_too(bench: Bench) -> None:
    own = bench.mandate("index_tracker")
    capped = own.model_copy(update={"limits": own.limits.model_copy(update={"tracking_error": 4e-5})})
    problem, answer = bench.solve("index_tracker", capped)
    assert answer.status == "certified" and answer.duals["tracking_error"] > 1e-6
    pushes = split_marginal_costs(problem, answer.weights, answer.duals, bench.desk.terms.model)
    buying, _ = marginal_costs(problem, answer.weights, answer.duals)
    assert np.abs(pushes.buying.sum(axis=0) - buying).max() <= 1e-12
    assert "tracking_error" in pushes.parts


def test_risk_is_the_gradient_of_a_dense_covariance_and_a_limit_its_row(bench: Bench) -> None:
    problem, answer = bench.solve(BOOK)
    model = bench.desk.terms.model
    at = model.securities.positions(problem.names.labels, "test")
    own = np.sqrt(model.specific_variance[at])
    same = model.issuers[at][:, None] == model.issuers[at][None, :]
    dense = model.exposures[at] @ model.factor_covariance @ model.exposures[at].T + same * np.outer(own, own)
    pushes = split_marginal_costs(problem, answer.weights, answer.duals, model)
    kinds = np.array(pushes.kinds)
    risk = pushes.buying[(kinds == "factor") | (kinds == "own_risk")].sum(axis=0)
    expected = problem.aversion * dense @ (answer.weights - problem.benchmark)
    assert risk == pytest.approx(expected, abs=1e-14)
    row = problem.rows[problem.row_ids.index("stress:deepseek")]
    push = pushes.buying[pushes.parts.index("stress:deepseek")]
    assert push == pytest.approx(answer.duals["stress:deepseek"] * row, abs=1e-15)


def test_the_tables_keep_their_contracts_and_agree(bundled: LoadedUniverse) -> None:
    told = explain_portfolio(bundled, BOOK, "NVDA")
    for name in ("standing", "marginal_costs"):
        frame = admit(told.tables[name], name, "explain").frame
        assert frame.columns == list(CONTRACTS[name].columns)
    standing, parts = told.tables["standing"].row(0, named=True), told.tables["marginal_costs"]
    for side in ("buying", "selling"):
        assert parts[side].sum() == pytest.approx(standing[side], abs=1e-12)
    result = rebalance_portfolios(bundled, only=[BOOK])
    assert told.tables["trades"].equals(result.tables["trades"])


def test_a_name_that_is_no_candidate_costs_what_its_first_trade_adds(bundled: LoadedUniverse) -> None:
    told = explain_portfolio(bundled, BOOK, "PG").tables["standing"].row(0, named=True)
    assert not told["candidate"]

    # On the buy list the objective falls, and never faster than the first step said.
    def with_it(most: float) -> float:
        own = bundled.mandates[_mandate(bundled)]
        weights = {**own.limits.weights, "PG": {"min": 0.0, "max": most}}
        document = own.model_dump(mode="json") | {"buy_list": [*own.buy_list, "PG"]}
        document["limits"]["weights"] = weights
        changed = type(own).model_validate_json(json.dumps(document))
        listed = replace(bundled, mandates={**bundled.mandates, own.id: changed})
        return float(rebalance_portfolios(listed, only=[BOOK]).tables["certificates"]["objective"][0])

    without, little = with_it(0.0), with_it(1e-3)
    saved = (without - little) / 1e-3
    assert told["buying"] < 0.0
    assert 0.7 * -told["buying"] <= saved <= -told["buying"] * (1.0 + 1e-3)


def _mandate(bundled: LoadedUniverse) -> str:
    return str(bundled.portfolios.filter(pl.col("portfolio_id") == BOOK)["mandate_id"][0])


@pytest.mark.parametrize(
    ("security", "words"),
    [
        ("NVDA", "NVDA is held back by the cap on NVDA: a point more would save at most"),
        ("VST", "VST is sold until the next point neither adds nor saves"),
        ("SPY", "SPY is bought until the next point neither adds nor saves"),
        ("MSFT", "MSFT is not bought: a point adds at least"),
        ("PG", "PG would be bought if the buy list had it"),
    ],
)
def test_the_command_says_why_a_name_trades_or_not(security: str, words: str, capsys: Captured) -> None:
    out = ran(capsys, 0, "explain", "--portfolio", BOOK, "--security", security, "--quiet")[0]
    assert words in out


def test_the_command_tells_the_story_in_every_form(capsys: Captured) -> None:
    arguments = ("explain", "--portfolio", BOOK, "--quiet")
    out = ran(capsys, 0, *arguments)[0]
    for words in ("breached: the deepseek budget, 10.29 % against 10 %", "one more point would save", "whipsaw"):
        assert words in out
    document: Mapping[str, list[object]] = json.loads(ran(capsys, 0, *arguments, "--format", "json")[0])
    assert len(document["trades"]) == 26
    lines = ran(capsys, 0, *arguments, "--security", "NVDA", "--format", "csv")[0].splitlines()
    assert lines[0].split(",") == list(CONTRACTS["marginal_costs"].columns)


def test_a_wrong_name_is_refused_with_a_suggestion(bundled: LoadedUniverse, capsys: Captured) -> None:
    with pytest.raises(UsageError, match="unknown security 'NVDAA'; did you mean 'NVDA'"):
        explain_portfolio(bundled, BOOK, "NVDAA")
    assert "did you mean 'momentum_growth'" in ran(capsys, 2, "explain", "--portfolio", "momentum_growt")[1]


def test_a_book_without_an_answer_says_why(bundled: LoadedUniverse) -> None:
    own = bundled.mandates[_mandate(bundled)]
    tight = own.limits.model_copy(update={"turnover": 0.0})
    changed = {**bundled.mandates, own.id: own.model_copy(update={"limits": tight})}
    told = explain_portfolio(replace(bundled, mandates=changed), BOOK, "NVDA")
    assert "standing" not in told.tables
    (words,) = told.refused
    assert words.startswith(f"{BOOK}: turnover at most 0.00 % and") and "cannot both be kept, proven" in words


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("tier:software:max", "the cap on software"),
        ("weight:NVDA:min", "the floor of NVDA"),
        ("sector:Energy:max", "the cap on sector Energy"),
        ("factor:industry:energy:min", "the floor of factor industry:energy"),
        ("active_weight:NVDA:max", "the cap on active NVDA"),
        ("active_factor:market:min", "the floor of active market"),
        ("participation:NVDA:max", "the share of a day's volume in NVDA"),
        ("allotment:NVDA:min", "the book's part of the firm's volume in NVDA"),
        ("excluded:NVDA:max", "the exclusion of NVDA"),
        ("no_sell:NVDA:min", "the ban on selling NVDA"),
        ("tracking_error", "the cap on tracking error"),
        ("turnover", "the cap on turnover"),
        ("gross", "the cap on gross"),
        ("net:min", "the net minimum"),
        ("stress:deepseek:active", "the active deepseek budget"),
    ],
)
def test_every_kind_of_limit_has_words(limit: str, words: str) -> None:
    assert words_of(limit) == words
