"""Every kind of bad input that the engine promises to survive, with the test that holds it; many spoiled at once."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import engine
from engine.cli.main import run

TESTS = Path(__file__).resolve().parent
BUNDLED = Path(engine.__file__).resolve().parent.parent / "universes" / "ai_curve"

Change = Callable[[pl.DataFrame], pl.DataFrame]

# What happens, and which test holds it: file, test, and for a table of faults the row.
HELD = {
    "numbers: NaN": ("Q holdings.quantity.nan", "test_failures", "test_a_bad_book_does_not_stop_the_good_ones"),
    "numbers: infinite": ("Q holdings.quantity.inf", "test_bad_books", "QUARANTINED"),
    "numbers: NaN in the model": ("R 65", "test_failures", "test_what_is_no_risk_model_is_refused"),
    "numbers: negative weight in a long-only book": ("Q book.short", "test_bad_books", "QUARANTINED"),
    "numbers: NAV 0 or negative": ("Q holdings.nav", "test_bad_books", "QUARANTINED"),
    "numbers: nav_base 0, negative, NaN": (
        "R 65",
        "test_bad_books",
        "test_a_nav_that_is_none_refuses_the_table_of_portfolios",
    ),
    "numbers: NAV a basis point away": (
        "W holdings.nav",
        "test_bad_books",
        "test_a_nav_a_few_basis_points_away_only_warns",
    ),
    "numbers: NAV a percent away": (
        "Q holdings.nav",
        "test_bad_books",
        "test_a_nav_that_is_not_the_sum_of_values_sets_its_book_aside",
    ),
    "numbers: weights in percent": (
        "Q holdings.percent",
        "test_bad_units",
        "test_a_book_of_weights_in_percent_is_set_aside_in_its_own_words",
    ),
    "numbers: most books in percent": ("R 65", "test_bad_units", "test_most_books_in_percent_refuse_the_file"),
    "numbers: daily covariance": (
        "R 65",
        "test_bad_books",
        "test_a_model_in_another_unit_refuses_the_run_and_publishes_nothing",
    ),
    "numbers: volatility for variance": (
        "R 65",
        "test_bad_units",
        "test_volatility_given_as_variance_refuses_the_run",
    ),
    "numbers: price 0 or negative": ("Q holdings.price", "test_bad_books", "QUARANTINED"),
    "numbers: stale price": (
        "Q holdings.stale",
        "test_bad_units",
        "test_a_price_that_has_not_moved_since_an_old_listing_is_stale",
    ),
    "numbers: split ratio": (
        "Q holdings.split",
        "test_bad_units",
        "test_every_split_ratio_is_asked_about_and_other_moves_beyond_half_are_told",
    ),
    "numbers: split ratio in a calibration": (
        "W",
        "test_curve",
        "test_a_move_at_a_split_ratio_is_dropped_with_a_warning",
    ),
    "numbers: another large move": ("W holdings.large_move", "test_bad_units", "test_another_large_move_only_warns"),
    "numbers: unknown currency": ("Q holdings.currency", "test_failures", "BAD_BOOKS"),
    "numbers: unknown base currency": (
        "R 65",
        "test_bad_books",
        "test_an_unknown_base_currency_refuses_the_table_of_portfolios",
    ),
    "numbers: overflow": ("Q", "test_holdings", "test_a_value_too_large_to_be_one_sets_its_book_aside"),
    "numbers: risk dropped overnight": (
        "W risk.dropped",
        "test_bad_units",
        "test_a_stress_after_the_books_risk_was_halved_says_so",
    ),
    "shape: empty book and all cash": (
        "a row EMPTY; certified",
        "test_bad_books",
        "test_an_all_cash_book_is_fine_and_an_empty_one_has_a_row",
    ),
    "shape: single name under a cap": (
        "certified or proven",
        "test_bad_books",
        "test_a_single_name_under_a_cap_is_cut_to_it_or_proven_to_have_no_answer",
    ),
    "shape: contradictory bounds": (
        "proven",
        "test_bad_books",
        "test_contradictory_bounds_are_proven_and_nothing_is_traded",
    ),
    "shape: restricted list over all holdings": (
        "certified or proven",
        "test_bad_books",
        "test_an_excluded_list_over_all_holdings_sells_them_all_or_is_proven_impossible",
    ),
    "shape: turnover 0": (
        "certified or proven",
        "test_bad_books",
        "test_a_turnover_of_nothing_keeps_a_sound_book_and_is_proven_where_it_cannot",
    ),
    "shape: rounding that breaks a limit": ("refused", "test_lots", "test_a_limit_broken_by_rounding_is_refused"),
    "shape: lots that no limit can bear": (
        "held",
        "test_lots",
        "test_lots_that_no_limit_can_bear_hold_the_book_and_say_so",
    ),
    "shape: benchmark missing": (
        "Q benchmarks.unusable",
        "test_bad_books",
        "test_a_missing_benchmark_sets_its_book_aside",
    ),
    "configuration: one fault of every kind": (
        "R 78",
        "test_bad_mandates",
        "test_a_wrong_mandate_is_named_with_file_line_column_and_limit",
    ),
    "configuration: BOM, UTF-16, NUL, empty, > 1 MB": (
        "R 78",
        "test_bad_mandates",
        "test_a_file_that_is_no_mandate_is_refused_with_its_place",
    ),
    "configuration: several faults at once": (
        "R 78",
        "test_bad_mandates",
        "test_every_unknown_name_is_told_at_once_with_its_own_place_beside_the_other_faults",
    ),
    "configuration: a flood of faults": (
        "R 78",
        "test_bad_mandates",
        "test_a_flood_of_faults_is_counted_and_not_all_told",
    ),
    "configuration: values without end": (
        "R 78",
        "test_bad_mandates",
        "test_a_value_without_end_is_refused_in_few_words",
    ),
    "configuration: shock below -100 %": (
        "W",
        "test_holdings",
        "test_a_scenario_past_its_date_or_beyond_total_loss_runs_with_a_warning",
    ),
    "configuration: unknown tier in a scenario": (
        "R 3",
        "test_failures",
        "test_a_refused_scenario_beside_a_good_one_exits_3_and_says_so",
    ),
    "configuration: contradictory views": ("R 78", "test_failures", "test_contradictory_views_are_refused"),
}


@pytest.mark.parametrize("item", HELD)
def test_the_test_that_holds_an_item_exists(item: str) -> None:
    _, file, name = HELD[item]
    text = (TESTS / f"{file}.py").read_text()
    assert re.search(rf"^(def {name}\(|{name}\b.* = \{{)", text, re.MULTILINE)


# Many books spoiled at once, each in its own way, beside good ones.


def line(column: str, value: Any) -> Change:
    """The largest line of a book made wrong."""
    largest = pl.col("market_value_base") == pl.col("market_value_base").max()
    return lambda book: book.with_columns(pl.when(largest).then(pl.lit(value)).otherwise(column).alias(column))


def scaled(share: float) -> Change:
    """Values and quantities of a whole book so that the values sum to ``share``."""
    total = pl.col("market_value_base").sum()
    return lambda book: book.with_columns(pl.col("quantity", "market_value_base") * share / total)


def split(book: pl.DataFrame) -> pl.DataFrame:
    largest = pl.col("market_value_base") == pl.col("market_value_base").max()
    return book.with_columns(
        pl.when(largest).then(pl.col("price") / 10.0).otherwise("price").alias("price"),
        pl.when(largest).then(pl.col("quantity") * 10.0).otherwise("quantity").alias("quantity"),
    )


SPOILED: dict[str, tuple[Change, str]] = {
    "NaN quantity": (line("quantity", float("nan")), "holdings.quantity"),
    "infinite value": (line("market_value_base", float("inf")), "holdings.market_value_base"),
    "price 0": (line("price", 0.0), "holdings.price"),
    "negative price": (line("price", -3.0), "holdings.price"),
    "currency": (line("currency", "EUR"), "holdings.currency"),
    "a line twice": (lambda book: pl.concat([book, book.head(1)]), "holdings"),
    "NAV of 0": (scaled(0.0), "holdings.nav"),
    "a split": (split, "holdings.split"),
}


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], list[str]]:
    """The bundled universe with one book spoiled for every fault, which book it is, and the good ones."""
    root = tmp_path_factory.mktemp("spoiled") / "universe"
    shutil.copytree(BUNDLED, root)
    (path,) = (root / "holdings").glob("*.parquet")
    books = pl.read_parquet(path).partition_by("portfolio_id", maintain_order=True)
    names = [str(book["portfolio_id"][0]) for book in books]
    changed = [change(book) for book, (change, _) in zip(books, SPOILED.values(), strict=False)]
    pl.concat([*changed, *books[len(changed) :]]).write_parquet(path)
    return root, dict(zip(SPOILED, names, strict=False)), names[len(changed) :]


@pytest.fixture(scope="module", params=["stress", "rebalance", "hedge"])
def answer(
    request: pytest.FixtureRequest,
    spoiled: tuple[Path, dict[str, str], list[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path, Path]:
    """Command, universe and a folder to write into."""
    return str(request.param), spoiled[0], tmp_path_factory.mktemp("out")


def test_every_spoiled_book_is_set_aside_for_its_own_fault_and_the_good_ones_are_answered(
    answer: tuple[str, Path, Path],
    spoiled: tuple[Path, dict[str, str], list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    command, root, out = answer
    _, owner, good = spoiled
    assert len(owner) == len(SPOILED) and len(good) >= 3
    status = run([command, "--universe", str(root), "--out", str(out), "--format", "json", "--quiet"])
    text, err = capsys.readouterr()
    assert status == 0 and "Traceback" not in err and "internal error" not in err, err
    document = json.loads(text)
    aside = [row for row in document["exceptions"] if row["severity"] == "quarantine"]
    for fault, (_, code) in SPOILED.items():
        mine = [row for row in aside if row["portfolio_id"] == owner[fault]]
        assert any(row["code"].startswith(code) and row["message"] for row in mine), (fault, mine)
    assert not {row["portfolio_id"] for row in aside} & set(good)
    table = {"stress": "stress", "rebalance": "certificates", "hedge": "hedges"}[command]
    answered = {row["portfolio_id"] for row in document[table]}
    assert not answered & set(owner.values())
    if command != "hedge":  # which hedges only the books above their budget
        assert set(good) <= answered


@pytest.mark.parametrize("command", ["explain", "frontier", "hedge"])
def test_a_spoiled_book_asked_for_by_name_is_refused_with_its_reason_and_writes_nothing(
    command: str,
    spoiled: tuple[Path, dict[str, str], list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, owner, _ = spoiled
    more = () if command == "explain" else ("--out", str(tmp_path / "out"))
    status = run([command, "--universe", str(root), "--portfolio", owner["NaN quantity"], *more])
    text, err = capsys.readouterr()
    assert (status, text) == (65, "")
    assert "'quantity is a number'" in err and owner["NaN quantity"] in err
    assert "Traceback" not in err and not (tmp_path / "out").exists()
