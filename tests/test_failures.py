"""Every way of refusing, once: its message, its exit code, no traceback, nothing written."""

import datetime as dt
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from market import TIERS, Market, core_names
from test_stories import ran

from engine.api.loading import load_universe
from engine.cli.main import run
from engine.errors import (
    AlignmentError,
    CalibrationError,
    ConfigurationError,
    ContractError,
    DataError,
    EngineError,
    InputFileError,
    ModelError,
    StorageError,
    UsageError,
)
from engine.store.runs import write_durably, write_model

Captured = pytest.CaptureFixture[str]


def refused(arguments: list[str], code: int, capsys: Captured) -> str:
    """The one message of a call that must fail with this exit code."""
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err and "internal error" not in err
    assert err.count("engine: ") == 1
    return err.removeprefix("engine: ").rstrip("\n")


def stress(folder: Path, *more: str) -> list[str]:
    """Arguments of a stress of the planted universe that would write."""
    return ["stress", "--universe", str(folder), "--quiet", "--out", str(folder / "out"), *more]


def calibrate(folder: Path, prices: Path) -> list[str]:
    """Arguments of a calibration that would write."""
    return ["calibrate", "--universe", str(folder), "--prices", str(prices), "--out", str(folder / "new_model")]


def nothing_written(folder: Path) -> bool:
    """True when neither a run nor a model has left anything."""
    return not (folder / "out").exists() and not (folder / "new_model").exists()


def holdings_file(folder: Path) -> Path:
    """The holdings of a copied universe."""
    return next((folder / "holdings").glob("*.parquet"))


def edit(path: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Path:
    """Rewrite a Parquet or CSV table."""
    if path.suffix == ".csv":
        change(pl.read_csv(path)).write_csv(path)
    else:
        change(pl.read_parquet(path)).write_parquet(path)
    return path


def edit_model(folder: Path, table: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """Rewrite one model table and vouch for it, as a wrong calibration would."""
    root = folder / "model"
    tables = {path.stem: pl.read_parquet(path) for path in root.glob("*.parquet")}
    card = json.loads((root / "model.json").read_text())
    write_model(root, {**tables, table: change(tables[table])}, card)


def test_a_missing_file_is_named(folder: Path, capsys: Captured) -> None:
    message = refused(stress(folder, "--holdings", str(folder / "none.parquet")), InputFileError.exit_code, capsys)
    assert message == f"holdings: no file {folder / 'none.parquet'}; check the path"
    assert nothing_written(folder)


def test_a_file_of_zero_bytes_is_refused(folder: Path, capsys: Captured) -> None:
    holdings_file(folder).write_bytes(b"")
    message = refused(stress(folder), 65, capsys)
    assert message == f"holdings: {holdings_file(folder)} is empty (0 bytes); export it again"
    assert nothing_written(folder)


def test_a_folder_in_place_of_a_file_is_refused(folder: Path, capsys: Captured) -> None:
    message = refused(stress(folder, "--holdings", str(folder)), 65, capsys)
    assert message == f"holdings: {folder} is not a regular file; give the file itself"


@pytest.mark.parametrize(
    "content", [b"not parquet at all", b"PAR1", b"PAR1" + b"\x00" * 200 + b"PAR1"], ids=["text", "magic", "hollow"]
)
def test_what_is_not_parquet_is_refused(folder: Path, capsys: Captured, content: bytes) -> None:
    holdings_file(folder).write_bytes(content)
    message = refused(stress(folder), 65, capsys)
    assert message.startswith(f"holdings: {holdings_file(folder)} is not a readable Parquet file: ")
    assert nothing_written(folder)


def test_a_truncated_file_is_refused(folder: Path, capsys: Captured) -> None:
    path = holdings_file(folder)
    path.write_bytes(path.read_bytes()[:-20])
    assert "is not a readable Parquet file" in refused(stress(folder), 65, capsys)


def test_an_ending_that_is_not_read_is_refused(folder: Path, capsys: Captured) -> None:
    path = holdings_file(folder).rename(folder / "holdings.xlsx")
    message = refused(stress(folder, "--holdings", str(path)), 65, capsys)
    assert message == f"holdings: {path} must end in .parquet or .csv"


def test_text_that_is_not_utf_8_is_refused(folder: Path, capsys: Captured) -> None:
    path = folder / "universe.yaml"
    path.write_bytes("id: plänted".encode("latin-1"))
    assert refused(stress(folder), 78, capsys) == (
        "universe.yaml:1:1: not plain UTF-8 (byte order mark, NUL, broken character); save it as UTF-8"
    )


def test_a_missing_column_is_named_with_what_was_found(folder: Path, capsys: Captured) -> None:
    edit(holdings_file(folder), lambda frame: frame.drop("price").rename({"quantity": "Quantity"}))
    assert refused(stress(folder), 65, capsys) == (
        f"holdings ({holdings_file(folder)}): 1 fault\n"
        "  - missing columns quantity (found 'Quantity': rename it), price; found as_of, portfolio_id, security_id, "
        "Quantity, currency, market_value_base"
    )
    assert nothing_written(folder)


def test_a_wrong_type_is_named_with_the_expected_one(folder: Path, capsys: Captured) -> None:
    edit(holdings_file(folder), lambda frame: frame.with_columns(pl.col("price").cast(pl.String)))
    assert refused(stress(folder), 65, capsys) == (
        f"holdings ({holdings_file(folder)}): 1 fault\n  - column 'price' is String, expected Float64"
    )


def test_csv_cells_that_are_no_numbers_are_named_with_their_lines(folder: Path, capsys: Captured) -> None:
    path = edit(
        folder / "securities.csv",
        lambda frame: frame.with_columns(price=pl.Series(["n/a"] * 2 + ["1"] * (frame.height - 2))),
    )
    assert refused(stress(folder), 65, capsys) == (
        f"securities ({path}): 1 fault\n  - column 'price': 2 cells are not Float64; lines 2, 3; found 'n/a', 'n/a'"
    )


def test_a_table_without_rows_is_refused(folder: Path, capsys: Captured) -> None:
    edit(holdings_file(folder), lambda frame: frame.head(0))
    assert refused(stress(folder), 65, capsys) == (
        f"holdings ({holdings_file(folder)}): 1 fault\n  - the table has no rows"
    )


def test_an_id_that_is_a_path_refuses_the_file(folder: Path, capsys: Captured) -> None:
    edit(holdings_file(folder), lambda frame: frame.with_columns(portfolio_id=pl.lit("../../etc/passwd")))
    message = refused(stress(folder), ContractError.exit_code, capsys)
    assert "'portfolio_id is plain ASCII: letters, digits and . _ : - only'" in message
    assert nothing_written(folder)


def test_duplicate_securities_refuse_the_file(folder: Path, capsys: Captured) -> None:
    path = edit(folder / "securities.csv", lambda frame: pl.concat([frame, frame.head(1)]))
    assert refused(stress(folder), 65, capsys) == (
        f"securities ({path}): 1 fault\n  - 2 rows break 'one row for each security_id'; first: CHIPS-0; CHIPS-0"
    )


def test_a_date_without_holdings_is_refused(folder: Path, market: Market, capsys: Captured) -> None:
    assert refused(stress(folder, "--as-of", "1999-12-31"), DataError.exit_code, capsys) == (
        f"holdings: no rows as of 1999-12-31; the latest dates are {market.as_of}"
    )


def faulty_book(column: str, value: object) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """One line of the book ``growth`` made wrong."""
    line = (pl.col("portfolio_id") == "growth") & (pl.col("security_id") == "GRID-0")
    return lambda frame: frame.with_columns(pl.when(line).then(pl.lit(value)).otherwise(column).alias(column))


def doubled(frame: pl.DataFrame) -> pl.DataFrame:
    """The first line of the book ``growth`` twice."""
    return pl.concat([frame, frame.filter(pl.col("portfolio_id") == "growth").head(1)])


BAD_BOOKS = {
    "duplicate key": (doubled, "2 rows break 'one row for each as_of, portfolio_id, security_id'"),
    "NaN": (faulty_book("quantity", float("nan")), "1 row breaks 'quantity is a number'"),
    "infinity": (faulty_book("market_value_base", float("inf")), "1 row breaks 'market_value_base is finite'"),
    "unknown name": (
        faulty_book("security_id", "NOPE"),
        "1 held name is not in the model, 20.00% of NAV (at most 2.00% may be): NOPE",
    ),
    "value": (
        faulty_book("market_value_base", 7.0),
        "1 line: quantity x price is more than 1% away from market_value_base; first: GRID-0",
    ),
    "currency": (faulty_book("currency", "EUR"), "1 line: currency is not USD and no exchange rates are given"),
    "unknown book": (
        lambda frame: frame.with_columns(pl.col("portfolio_id").replace({"growth": "grwth"})),
        "the portfolio is not in the table portfolios",
    ),
}


@pytest.mark.parametrize("fault", BAD_BOOKS)
def test_a_bad_book_does_not_stop_the_good_ones(folder: Path, capsys: Captured, fault: str) -> None:
    change, words = BAD_BOOKS[fault]
    edit(holdings_file(folder), change)
    arguments = ["stress", "--universe", str(folder), "--format", "json"]
    assert run([*arguments, "--fail-on-breach"]) == 1
    capsys.readouterr()
    assert run(arguments) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert {row["portfolio_id"] for row in document["stress"]} == {"income", "soft", "house"}
    exceptions = [row for row in document["exceptions"] if row["severity"] == "quarantine"]
    assert any(words in row["message"] and row["portfolio_id"] in {"growth", "grwth"} for row in exceptions)
    status = {row["portfolio_id"]: row["status"] for row in document["portfolio_summary"]}
    assert len(status) == 4 and status["income"] == status["soft"] == "stress_only"
    assert status["growth"] == ("empty" if fault == "unknown book" else "quarantined")
    assert re.search(rf"^quarantine: gr\w+: .*{re.escape(words)}", err, re.MULTILINE)


def test_when_no_book_is_left_the_run_is_refused_with_every_reason(folder: Path, capsys: Captured) -> None:
    edit(holdings_file(folder), lambda frame: frame.with_columns(quantity=pl.lit(float("nan"))))
    message = refused(stress(folder), 65, capsys)
    assert message.startswith("holdings: no book can be measured\n  - growth: 6 rows break 'quantity is a number'")
    assert all(f"  - {book}: " in message for book in ("income", "soft"))
    assert nothing_written(folder)


def text_of(folder: Path, name: str, old: str, new: str) -> None:
    """Replace one piece of a text file."""
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


CONFIGURATIONS = {
    "unknown tier": (
        ("scenarios/planted_day.yaml", "tier: chips", "tier: chip"),
        "scenarios/planted_day.yaml:11:12: unknown tier 'chip'; did you mean 'chips'?",
    ),
    "unknown mandate key": (
        ("mandates/careful.yaml", "turnover:", "turnovr:"),
        "mandates/careful.yaml:5:12: unknown key 'turnovr'; did you mean 'turnover'?",
    ),
    "contradictory bounds": (
        ("mandates/careful.yaml", "  turnover: 0.3\n", "  turnover: 0.3\n  cash: {min: 0.2, max: 0.1}\n"),
        "mandates/careful.yaml:6:3: min 0.2 is above max 0.1; no portfolio can keep both",
    ),
    "unknown tier in a mandate": (
        ("mandates/careful.yaml", "  turnover: 0.3\n", "  turnover: 0.3\n  tiers:\n    grids: {max: 0.5}\n"),
        "mandates/careful.yaml:7:5: unknown tier 'grids'; did you mean 'grid'?",
    ),
    "budget for no scenario": (
        ("mandates/careful.yaml", "scenario: planted_day", "scenario: deepseek"),
        "mandates/careful.yaml:7:18: unknown scenario 'deepseek'; allowed: planted_day",
    ),
    "bounds out of range": (
        ("mandates/careful.yaml", "turnover: 0.3", "turnover: 30"),
        "mandates/careful.yaml:5:13: turnover: input should be less than or equal to 2; found 30",
    ),
    "unknown mandate": (
        ("portfolios.csv", "careful", "carefull"),
        "portfolios: unknown mandate_id 'carefull'; did you mean 'careful'?",
    ),
    "unknown universe key": (
        ("universe.yaml", '"title"', '"titel"'),
        "universe.yaml:1:1: missing key 'title'\nuniverse.yaml:3:12: unknown key 'titel'; did you mean 'title'?",
    ),
    "a core name twice": (
        ("universe.yaml", '"GRID-0"', '"CHIPS-0"'),
        re.compile(r"^universe\.yaml:\d+:\d+: CHIPS-0 is core of both chips and grid; a core name has one tier$"),
    ),
}


@pytest.mark.parametrize("fault", CONFIGURATIONS)
def test_a_wrong_configuration_is_refused_with_line_column_and_suggestion(
    folder: Path, capsys: Captured, fault: str
) -> None:
    change, words = CONFIGURATIONS[fault]
    text_of(folder, *change)
    message = refused(stress(folder), ConfigurationError.exit_code, capsys)
    assert words.match(message) if isinstance(words, re.Pattern) else message == words
    assert nothing_written(folder)


def test_a_universe_or_scenario_that_does_not_exist_is_a_wrong_command(folder: Path, capsys: Captured) -> None:
    assert refused(["stress", "--universe", "ai_curv"], UsageError.exit_code, capsys) == (
        "no universe 'ai_curv': neither a bundled name nor a folder with universe.yaml; did you mean 'ai_curve'?"
    )
    assert refused(stress(folder, "--scenario", "planted_dya"), UsageError.exit_code, capsys) == (
        "unknown scenario 'planted_dya'; did you mean 'planted_day'?"
    )
    assert nothing_written(folder)


def test_contradictory_views_are_refused(folder: Path, capsys: Captured) -> None:
    path = folder / "scenarios" / "planted_day.yaml"
    path.write_text(path.read_text() + "  - {factor: chips, value: -0.1, source: x}\n")
    assert refused(stress(folder), 78, capsys) == (
        "scenario planted_day: 'tier chips' and 'factor chips' state the same move; keep one"
    )


def test_a_refused_scenario_beside_a_good_one_exits_3_and_says_so(folder: Path, capsys: Captured) -> None:
    text = (folder / "scenarios" / "planted_day.yaml").read_text()
    wrong = folder / "wrong.yaml"
    wrong.write_text(text.replace("id: planted_day", "id: wrong").replace("tier: grid", "tier: gird"))
    code = run(
        ["stress", "--universe", str(folder), "--scenario", "planted_day", "--scenario", str(wrong), "--format", "csv"]
    )
    out, err = capsys.readouterr()
    assert code == 3
    assert err == f"refused: {wrong}:12:12: unknown tier 'gird'; did you mean 'grid'?\n"
    assert {line.split(",")[2] for line in out.splitlines()[1:]} == {"planted_day"}


def not_psd(frame: pl.DataFrame) -> pl.DataFrame:
    """A covariance of chips and grid beyond what their variances allow."""
    cell = pl.col("factor_1").is_in(["chips", "grid"]) & pl.col("factor_2").is_in(["chips", "grid"])
    off = cell & (pl.col("factor_1") != pl.col("factor_2"))
    return frame.with_columns(pl.when(off).then(1.0).otherwise("annual").alias("annual"))


def one_sided(frame: pl.DataFrame) -> pl.DataFrame:
    """A covariance whose two halves disagree."""
    cell = (pl.col("factor_1") == "chips") & (pl.col("factor_2") == "grid")
    return frame.with_columns(pl.when(cell).then(0.0).otherwise("annual").alias("annual"))


MODELS = {
    "not PSD": (
        "factor_covariance",
        not_psd,
        ModelError,
        "risk model: factor_covariance is not positive semi-definite; it is refused, not clipped",
    ),
    "not symmetric": (
        "factor_covariance",
        one_sided,
        ModelError,
        "risk model: factor_covariance is not symmetric; it is refused, not repaired",
    ),
    "daily variance": (
        "specific_risk",
        lambda frame: frame.with_columns(pl.col("annual") / 252),
        ModelError,
        re.compile(
            r"^risk model: the median specific volatility is \d\.\d% a year, outside 5% to 150%: "
            r"give annual variances in decimals$"
        ),
    ),
    "lines of one issuer": (
        "specific_risk",
        lambda frame: frame.with_columns(issuer_id=pl.lit("ONE")),
        ModelError,
        "risk model: lines of one issuer have different specific variances; they share one specific return",
    ),
    "missing exposure": (
        "exposures",
        lambda frame: frame.filter(pl.col("security_id") != "REST-00"),
        AlignmentError,
        re.compile(r"^exposures \(.*\): 1 security label is unknown: REST-00$"),
    ),
    "tier without factor": (
        "tiers",
        lambda frame: frame.filter(pl.col("tier") != "apps"),
        AlignmentError,
        re.compile(r"^memberships \(.*\): 1 tier label is unknown: apps$"),
    ),
}


@pytest.mark.parametrize("fault", MODELS)
def test_what_is_no_risk_model_is_refused(folder: Path, capsys: Captured, fault: str) -> None:
    table, change, leaf, words = MODELS[fault]
    edit_model(folder, table, change)
    with pytest.raises(leaf):
        load_universe(str(folder))
    message = refused(stress(folder), leaf.exit_code, capsys)
    assert words.match(message) if isinstance(words, re.Pattern) else message == words
    assert nothing_written(folder)


def test_a_model_table_that_its_card_does_not_vouch_for_is_refused(folder: Path, capsys: Captured) -> None:
    path = edit(folder / "model" / "exposures.parquet", lambda frame: frame.reverse())
    assert refused(stress(folder), ModelError.exit_code, capsys) == (
        f"{path}: not the table that model.json vouches for (its SHA-256 differs); run engine calibrate again"
    )


def test_one_flipped_bit_in_a_model_table_is_refused(folder: Path, capsys: Captured) -> None:
    path = folder / "model" / "specific_risk.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "its SHA-256 differs" in refused(stress(folder), 65, capsys)


def test_a_card_that_is_none_is_refused(folder: Path, capsys: Captured) -> None:
    card = folder / "model" / "model.json"
    card.write_text("[]")
    assert refused(stress(folder), 65, capsys) == f"{card}: not a model card; run engine calibrate again"
    (folder / "model" / "model.json").unlink()
    assert refused(stress(folder), 65, capsys) == f"model.json: no file {card}; check the path"


def test_too_short_a_history_is_refused(folder: Path, market: Market, capsys: Captured) -> None:
    days = market.prices["date"].unique().sort()
    path = edit(folder / "prices.parquet", lambda frame: frame.filter(pl.col("date").is_in(days[-41:].to_list())))
    assert refused(calibrate(folder, path), CalibrationError.exit_code, capsys) == (
        f"40 daily returns up to {market.event_date}; at least 63 are needed"
    )
    assert nothing_written(folder)


def test_a_basket_without_prices_is_named(folder: Path, market: Market, capsys: Captured) -> None:
    core = core_names(TIERS[0])
    path = edit(folder / "prices.parquet", lambda frame: frame.filter(~pl.col("security_id").is_in(core)))
    assert refused(calibrate(folder, path), 65, capsys) == (
        "tier chips: fewer than 2 of its core names are priced on 504 of 504 days; "
        f"without usable prices: {', '.join(core)}"
    )
    assert nothing_written(folder)


def test_a_market_without_caps_is_named(folder: Path, capsys: Captured) -> None:
    edit(folder / "securities.csv", lambda frame: frame.drop("market_cap_base"))
    assert refused(calibrate(folder, folder / "prices.parquet"), 65, capsys).startswith(
        "the market has no return on 504 days: no priced stock has a market_cap_base; "
        "add it to the securities, or name a proxy under market in universe.yaml"
    )


def test_an_event_on_a_sunday_is_refused(folder: Path, market: Market, capsys: Captured) -> None:
    sunday = market.event_date + dt.timedelta(days=6 - market.event_date.weekday())
    prices = folder / "prices.parquet"
    arguments = ["backtest", "--universe", str(folder), "--prices", str(prices), "--event-date", sunday.isoformat()]
    assert refused(arguments, CalibrationError.exit_code, capsys) == (
        f"{prices}: {sunday} is not a trading day of these prices; the last before it is {market.event_date}"
    )


def test_prices_that_break_their_contract_as_a_whole_are_refused(folder: Path, capsys: Captured) -> None:
    path = edit(folder / "prices.parquet", lambda frame: frame.rename({"close": "Close"}))
    assert refused(calibrate(folder, path), 65, capsys) == (
        f"prices ({path}): 1 fault\n  - missing column close (found 'Close': rename it); found security_id, date, Close"
    )
    assert nothing_written(folder)


def test_baskets_at_fault_are_refused(folder: Path, capsys: Captured) -> None:
    baskets = folder / "baskets.csv"
    baskets.write_text("tier,security_id\nchips,CHIPS-0\nchips,CHIPS-1\n")
    message = refused([*calibrate(folder, folder / "prices.parquet"), "--baskets", str(baskets)], 65, capsys)
    assert message == f"baskets ({baskets}): 1 fault\n  - 1 tiers; at least 2 make a curve"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["calibrate"], "calibrate needs --prices FILE (columns security_id, date, close); no prices are bundled"),
        (["backtest"], "backtest needs --event-date YYYY-MM-DD and --prices FILE; no prices are bundled"),
    ],
)
def test_a_command_that_needs_prices_says_so(arguments: list[str], words: str, capsys: Captured) -> None:
    assert refused(arguments, UsageError.exit_code, capsys) == words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stres"], "no command 'stres'; did you mean 'stress'?"),
        (["stress", "--as-of", "24.01.2025"], "'24.01.2025' is not a date; write 2025-01-24"),
        (["stress", "--format", "xml"], "'xml' is not one of 'table', 'json', 'csv'"),
        (["stress", "--scenaro", "deepseek"], "No such option"),
    ],
)
def test_a_wrong_command_line_exits_2(arguments: list[str], words: str, capsys: Captured) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and words in err and "Traceback" not in err


def test_a_disk_that_refuses_is_a_storage_error_and_the_result_is_not_half_written(
    folder: Path, capsys: Captured
) -> None:
    blocked = folder / "blocked"
    blocked.write_text("a file where a folder should be")
    message = refused(["stress", "--universe", str(folder), "--quiet", "--out", str(blocked)], 74, capsys)
    assert re.match(rf"^cannot write below {re.escape(str(blocked))}: (Not a directory|File exists)$", message)
    assert blocked.read_text() == "a file where a folder should be"
    message = refused([*calibrate(folder, folder / "prices.parquet")[:-1], str(blocked), "--quiet"], 74, capsys)
    assert message.startswith(f"cannot write below {blocked}: ")


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.parquet"
    write_durably(path, b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_no_run_behind(folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    message = refused(stress(folder), StorageError.exit_code, capsys)
    assert message == f"cannot write below {folder / 'out'}: No space left on device"
    assert [path for path in (folder / "out").rglob("*") if path.is_file()] == []


def test_an_unforeseen_error_exits_70_in_one_line(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("engine.cli.options.load_universe", fail)
    assert run(["stress"]) == EngineError.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert re.match(r"^engine: internal error, please report it: RuntimeError: unforeseen \(\w+\.py:\d+\)\n$", err)


def test_a_parent_stands_for_the_books_below_it(folder: Path, capsys: Captured) -> None:
    arguments = ("rebalance", "--universe", str(folder), "--quiet", "--format", "json", "--out", str(folder / "out"))
    below = json.loads(ran(capsys, 0, *arguments, "--portfolio", "house")[0])["portfolio_summary"]
    every = json.loads(ran(capsys, 0, *arguments)[0])["portfolio_summary"]
    books = {row["portfolio_id"] for row in every} - {"house"}
    assert {row["portfolio_id"] for row in below} == books and len(books) == 3


def test_a_reader_that_leaves_early_is_no_failure() -> None:
    command = [sys.executable, "-m", "engine", "rebalance", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.close()
        assert child.wait() == 0 and child.stderr.read() == b""


def test_an_interrupt_exits_130(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.cli.options.load_universe", interrupt)
    assert run(["stress"]) == 130
    assert capsys.readouterr().err.lstrip("\n") == "engine: interrupted\n"


def test_the_process_itself_exits_with_the_code_and_no_traceback(folder: Path) -> None:
    holdings_file(folder).write_bytes(b"PAR1garbage")
    done = subprocess.run(
        [sys.executable, "-m", "engine", *stress(folder)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parent.parent,
        check=False,
    )
    assert done.returncode == 65 and done.stdout == ""
    assert re.fullmatch(r"engine: holdings: .* is not a readable Parquet file: .*\n", done.stderr)
    assert nothing_written(folder)


def test_numbers_that_overflow_are_no_numbers(folder: Path, capsys: Captured) -> None:
    edit(holdings_file(folder), lambda frame: frame.with_columns(pl.col("quantity") * 1e308 * np.float64(10)))
    message = refused(stress(folder), 65, capsys)
    assert "'quantity is finite'" in message


def test_a_model_of_another_universe_is_refused(folder: Path, capsys: Captured) -> None:
    card = folder / "model" / "model.json"
    card.write_text(card.read_text().replace('"planted"', '"elsewhere"'))
    message = refused(stress(folder), 65, capsys)
    assert message == "model: calibrated for universe 'elsewhere', not 'planted'; run engine calibrate again"


@pytest.mark.parametrize("degrees", ["-3", "NaN", '"many"', "[1, 2]"])
def test_tails_that_are_none_are_refused(folder: Path, capsys: Captured, degrees: str) -> None:
    card = folder / "model" / "model.json"
    old = json.loads(card.read_text())["tails"]["degrees"]
    card.write_text(card.read_text().replace(f'"degrees": {old}', f'"degrees": {degrees}'))
    assert "tails" in refused(stress(folder), 65, capsys)


def test_a_merge_key_is_refused_with_its_place(folder: Path, capsys: Captured) -> None:
    path = folder / "universe.yaml"
    path.write_text("<<: {a: 1}\n" + path.read_text())
    assert refused(stress(folder), 78, capsys) == ("universe.yaml:1:1: merge keys are not read; write the values out")


def test_prices_that_never_move_are_refused(folder: Path, capsys: Captured) -> None:
    path = edit(folder / "prices.parquet", lambda frame: frame.with_columns(pl.lit(10.0).alias("close")))
    assert "no series is alive" in refused(calibrate(folder, path), 65, capsys)


def test_a_price_without_a_date_refuses_the_file(folder: Path, capsys: Captured) -> None:
    hole = pl.when(pl.int_range(pl.len()) == 5).then(None).otherwise("date").alias("date")
    path = edit(folder / "prices.parquet", lambda frame: frame.with_columns(hole))
    assert "date is present" in refused(calibrate(folder, path), 65, capsys)


def test_dates_of_a_csv_are_iso_dates(folder: Path, capsys: Captured) -> None:
    frame = pl.read_parquet(holdings_file(folder))
    path = folder / "holdings.csv"
    frame.with_columns(pl.col("as_of").dt.strftime("%d/%m/%Y")).write_csv(path)
    assert "column 'as_of'" in refused(stress(folder, "--holdings", str(path)), 65, capsys)


def test_a_full_standard_output_is_a_disk_that_refuses() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "engine", "stress"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 74
    assert done.stderr.splitlines()[-1].startswith("engine: cannot write the result: ")
