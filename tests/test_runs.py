"""What a run leaves: its folder, manifest, kept inputs, equal bytes the second time, and its exit code."""

import csv
import datetime as dt
import hashlib
import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from market import Market

import engine
from engine.api.loading import LoadedUniverse
from engine.cli.main import run
from engine.contracts import CONTRACTS, empty
from engine.errors import ContractError, StorageError
from engine.intake import admit
from engine.store import runs
from engine.store.files import Source
from engine.store.runs import Run, dump_json, encode_table, run_key, write_adhoc, write_durably

BOOKS = ["--portfolio", "ai_infrastructure", "--portfolio", "quality_core"]
DAY = dt.date(2025, 1, 24)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the command line."""

    code: int
    out: str
    err: str


def call(*arguments: str) -> Call:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run(["rebalance", *arguments])
    return Call(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs of the same books, as JSON and as CSV."""
    return tmp_path_factory.mktemp("runs") / "out"


@pytest.fixture(scope="module")
def first(out: Path) -> Call:
    """The first run, JSON on stdout."""
    return call("--out", str(out), *BOOKS, "--format", "json")


@pytest.fixture(scope="module")
def second(out: Path, first: Call) -> Call:
    """The same again, CSV on stdout."""
    assert first.code == 0
    return call("--out", str(out), *BOOKS, "--format", "csv")


@pytest.fixture(scope="module")
def folders(out: Path, first: Call, second: Call) -> tuple[Path, Path]:
    """The two runs' folders."""
    assert (first.code, second.code) == (0, 0)
    return out / "adhoc" / "2025-01-24-1", out / "adhoc" / "2025-01-24-2"


def manifest_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text(encoding="utf-8")))


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def everything_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_runs_of_a_day_are_numbered_from_one(out: Path, folders: tuple[Path, Path]) -> None:
    assert sorted(path.name for path in (out / "adhoc").iterdir()) == ["2025-01-24-1", "2025-01-24-2"]
    assert sorted(path.name for path in out.iterdir()) == ["adhoc", "inputs"]


def test_every_table_keeps_its_contract_when_read_back(folders: tuple[Path, Path]) -> None:
    tables = sorted(folders[0].glob("*.parquet"))
    assert len(tables) == 25
    for path in tables:
        frame = pl.read_parquet(path)
        assert frame.columns[:2] == ["as_of", "run_id"]
        assert set(frame["as_of"]) <= {DAY}
        rest = frame.drop("as_of", "run_id")
        assert admit(rest, path.stem, str(path)).frame.equals(rest)


def test_the_run_id_in_every_row_is_the_head_of_the_run_key(folders: tuple[Path, Path]) -> None:
    manifest = manifest_of(folders[0])
    assert manifest["run_id"] == manifest["run_key"][:12]
    summary = pl.read_parquet(folders[0] / "portfolio_summary.parquet")
    assert set(summary["run_id"]) == {manifest["run_id"]}


def test_the_manifest_vouches_for_every_file_and_no_other(folders: tuple[Path, Path]) -> None:
    for folder in folders:
        manifest = manifest_of(folder)
        assert everything_below(folder) == sorted([*manifest["files"], "manifest.json"])
        for name, file in manifest["files"].items():
            path = folder / name
            assert file["sha256"] == sha256_of(path)
            assert file["bytes"] == path.stat().st_size
            assert file["rows"] == pq.read_metadata(path).num_rows
            assert file["contract_version"] == CONTRACTS[path.stem].version


def test_the_manifest_says_what_ran_on_what(folders: tuple[Path, Path]) -> None:
    manifest = manifest_of(folders[0])
    assert manifest["command"] == "rebalance"
    assert manifest["as_of"] == "2025-01-24"
    assert manifest["engine_version"] == engine.__version__
    assert manifest["code_sha256"] == runs.code_hash()
    assert manifest["libraries"].keys() >= {"clarabel", "cvxpy", "numpy", "polars"}
    assert manifest["configuration"]["portfolios"] == ["ai_infrastructure", "quality_core"]
    assert manifest["configuration"]["universe"]["id"] == "ai_curve"
    assert manifest["summary"] == {"books_by_status": {"certified": 2}}


def test_every_input_is_kept_under_its_hash(out: Path, folders: tuple[Path, Path], bundled: LoadedUniverse) -> None:
    inputs = manifest_of(folders[0])["inputs"]
    assert inputs == {source.name: source.sha256 for source in bundled.sources}
    kept = {path.name: sha256_of(path) for path in (out / "inputs").iterdir()}
    assert set(kept) == set(inputs.values())
    assert all(name == digest for name, digest in kept.items())


def test_the_same_inputs_give_equal_bytes_in_a_new_folder(folders: tuple[Path, Path]) -> None:
    one, other = (manifest_of(folder) for folder in folders)
    assert one["files"] == other["files"]
    assert one["run_key"] == other["run_key"]
    assert {k: v for k, v in one.items() if k != "created_utc"} == {
        k: v for k, v in other.items() if k != "created_utc"
    }
    for path in folders[0].glob("*.parquet"):
        assert path.read_bytes() == (folders[1] / path.name).read_bytes()


def test_json_is_one_document_without_nan(out: Path, first: Call) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    document = json.loads(first.out, parse_constant=refuse)
    assert document["run"] == str(out / "adhoc" / "2025-01-24-1")
    assert document["books_by_status"] == {"certified": 2}
    assert {row["status"] for row in document["certificates"]} == {"certified"}
    names = {"portfolio_summary", "stress", "limits", "certificates", "trades", "whipsaws", "exceptions", "refused"}
    names |= {"conflicts", "allotments", "firm_liquidity"}
    assert names <= document.keys()


def test_csv_is_the_trades_as_they_were_written(second: Call, folders: tuple[Path, Path]) -> None:
    lines = list(csv.reader(io.StringIO(second.out)))
    trades = pl.read_parquet(folders[1] / "trades.parquet").drop("as_of", "run_id")
    assert lines[0] == trades.columns
    assert len(lines) == trades.height + 1
    weights = [float(line[lines[0].index("trade_weight")]) for line in lines[1:]]
    assert weights == trades["trade_weight"].to_list()


def test_nothing_but_the_result_is_on_stdout(first: Call, second: Call) -> None:
    assert first.out.startswith("{")
    assert first.out.endswith("}\n")
    assert second.out.startswith("portfolio_id,")
    for found in (first, second):
        assert [line.split(": ")[0] for line in found.err.splitlines()] == ["warn", "written"]


def test_the_table_form_names_the_run_and_the_books(tmp_path: Path) -> None:
    found = call("--out", str(tmp_path), "--portfolio", "ai_infrastructure", "--detail")
    assert found.code == 0
    assert found.err.splitlines()[-1].startswith("written: ")
    assert "AI infrastructure" in found.out
    assert "limit stress:deepseek" in found.out


def test_a_full_run_of_the_bundled_universe_exits_zero_and_fails_on_no_breach(tmp_path: Path) -> None:
    found = call("--out", str(tmp_path), "--fail-on-breach", "--format", "json")
    assert found.code == 0
    assert json.loads(found.out)["books_by_status"] == {"certified": 16, "stress_only": 4}


def occupied(tmp_path: Path) -> Path:
    path = tmp_path / "taken"
    path.write_text("a file")
    return path


def below_a_file(tmp_path: Path) -> Path:
    return occupied(tmp_path) / "out"


def inputs_is_a_file(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "inputs").write_text("a file")
    return tmp_path / "out"


def adhoc_is_a_file(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "adhoc").write_text("a file")
    return tmp_path / "out"


@pytest.mark.parametrize("place", [occupied, below_a_file, inputs_is_a_file, adhoc_is_a_file])
def test_an_impossible_folder_exits_74_and_leaves_nothing_half_written(
    place: Callable[[Path], Path], written: Path, tmp_path: Path
) -> None:
    path = place(tmp_path)
    found = call("--universe", str(written), "--out", str(path), "--format", "json")
    assert found.code == 74
    assert found.out == ""
    assert found.err.startswith(f"engine: cannot write below {path}: ")
    assert "Traceback" not in found.err
    left = everything_below(tmp_path)
    assert not [name for name in left if "staging" in name or name.endswith((".parquet", "manifest.json"))]


@pytest.fixture
def breaching(folder: Path) -> Path:
    """The planted universe with a mandate that no book can keep without trading, and may not trade."""
    mandate = folder / "mandates" / "careful.yaml"
    mandate.write_text(mandate.read_text().replace("turnover: 0.3", "turnover: 0.0").replace("0.08", "0.01"))
    return folder


def test_a_breach_that_stays_exits_one_when_asked_and_zero_when_not(breaching: Path, tmp_path: Path) -> None:
    arguments = ("--universe", str(breaching), "--format", "json", "--out", str(tmp_path / "out"))
    plain, strict = call(*arguments), call(*arguments, "--fail-on-breach")
    assert (plain.code, strict.code) == (0, 1)
    assert any(row["relaxed_by"] for row in json.loads(strict.out)["limits"])


def test_a_book_set_aside_is_told_on_stderr_and_fails_when_asked(folder: Path, market: Market, tmp_path: Path) -> None:
    path = folder / "holdings" / f"{market.as_of}.parquet"
    holdings = pl.read_parquet(path)
    broken = pl.when(pl.col("portfolio_id") == "soft").then(float("nan")).otherwise(pl.col("market_value_base"))
    holdings.with_columns(broken.alias("market_value_base")).write_parquet(path)
    arguments = ("--universe", str(folder), "--format", "json", "--out", str(tmp_path / "out"), "--quiet")
    plain, strict = call(*arguments), call(*arguments, "--fail-on-breach")
    assert (plain.code, strict.code) == (0, 1)
    assert plain.err.startswith("quarantine: soft: ")
    counts = json.loads(plain.out)["books_by_status"]
    assert counts["quarantined"] == 1
    assert counts["certified"] == 2


def test_other_holdings_give_another_run_key(folder: Path, market: Market, tmp_path: Path) -> None:
    arguments = ("--universe", str(folder), "--format", "json", "--out", str(tmp_path))
    assert call(*arguments).code == 0
    path = folder / "holdings" / f"{market.as_of}.parquet"
    pl.read_parquet(path).with_columns(pl.col("quantity", "market_value_base") * 2.0).write_parquet(path)
    assert call(*arguments).code == 0
    one, other = (manifest_of(tmp_path / "adhoc" / f"{market.as_of}-{number}") for number in (1, 2))
    assert one["run_key"] != other["run_key"]
    assert one["inputs"]["holdings"] != other["inputs"]["holdings"]
    assert one["inputs"]["securities"] == other["inputs"]["securities"]


def run_of(**changes: Any) -> Run:
    parts: dict[str, Any] = {
        "as_of": DAY,
        "command": "rebalance",
        "tables": {"trades": empty("trades")},
        "inputs": [Source("holdings", Path("holdings.parquet"), b"bytes")],
        "configuration": {},
        "summary": {},
    }
    return Run(**{**parts, **changes})


def test_a_table_that_breaks_its_contract_is_not_written(tmp_path: Path) -> None:
    wrong = pl.DataFrame({"portfolio_id": ["A"]})
    with pytest.raises(ContractError, match="missing columns"):
        write_adhoc(tmp_path, run_of(tables={"trades": wrong}))
    assert everything_below(tmp_path / "adhoc") == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".staging")] == []


def test_a_manifest_that_cannot_be_written_leaves_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_adhoc(tmp_path, run_of(summary={"share": float("nan")}))
    assert everything_below(tmp_path / "adhoc") == []


def test_a_disk_that_fills_up_leaves_no_run_and_exits_74(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def full(path: Path, payload: bytes) -> None:
        written.append(path.name)
        if path.name == "manifest.json":
            raise OSError(28, "No space left on device")
        write_durably(path, payload)

    monkeypatch.setattr(runs, "write_durably", full)
    with pytest.raises(StorageError, match="No space left on device") as refusal:
        write_adhoc(tmp_path, run_of())
    assert refusal.value.exit_code == 74
    assert written[-1] == "manifest.json"
    assert everything_below(tmp_path / "adhoc") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adhoc", "inputs"]


def test_an_existing_run_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "adhoc" / "2025-01-24-1").mkdir(parents=True)
    (tmp_path / "adhoc" / "2025-01-24-2").mkdir()
    (tmp_path / "adhoc" / "2025-01-24-2" / "mine.txt").write_text("mine")
    assert write_adhoc(tmp_path, run_of()).name == "2025-01-24-3"
    assert (tmp_path / "adhoc" / "2025-01-24-2" / "mine.txt").read_text() == "mine"
    assert everything_below(tmp_path / "adhoc" / "2025-01-24-1") == []


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "card.json"
    write_durably(path, b"old")

    def broken(handle: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["card.json"]


def test_the_run_key_hangs_on_inputs_and_configuration_and_not_on_their_order() -> None:
    key = run_key({"a": "1", "b": "2"}, {"x": 1})
    assert key == run_key({"b": "2", "a": "1"}, {"x": 1})
    assert key != run_key({"a": "1", "b": "3"}, {"x": 1})
    assert key != run_key({"a": "1", "b": "2"}, {"x": 2})


def test_the_bytes_of_a_table_do_not_depend_on_the_order_of_its_rows() -> None:
    rows = {"scenario_id": ["s", "s", "t"], "security_id": ["B", "A", "A"]}
    numbers = {name: [0.1, -0.2, 0.3] for name in ("total", "stated", "propagated", "specific")}
    frame = pl.DataFrame({**rows, **numbers})
    parts = {"as_of": DAY, "key": "k" * 64, "inputs": {"holdings": "h"}}
    one = encode_table(frame, "shocks", **parts)
    assert one == encode_table(frame.reverse(), "shocks", **parts)
    assert pl.read_parquet(io.BytesIO(one))["security_id"].to_list() == ["A", "B", "A"]


def test_json_of_a_manifest_is_sorted_and_refuses_nan() -> None:
    assert dump_json({"b": 1, "a": "ü"}) == '{\n  "a": "ü",\n  "b": 1\n}\n'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_json({"a": float("inf")})


def test_the_footer_names_contract_version_run_key_and_inputs(folders: tuple[Path, Path]) -> None:
    manifest = manifest_of(folders[0])
    for path in folders[0].glob("*.parquet"):
        footer = {key.decode(): value.decode() for key, value in pq.read_metadata(path).metadata.items()}
        assert footer["contract"] == path.stem
        assert footer["contract_version"] == str(CONTRACTS[path.stem].version)
        assert footer["run_key"] == manifest["run_key"]
        assert manifest["inputs"].items() <= footer.items()


def test_another_scenario_gives_another_run_key(tmp_path: Path) -> None:
    keys = set()
    for number, more in enumerate(([], ["--scenario", "overreaction"])):
        out = tmp_path / str(number)
        found = call("--out", str(out), "--portfolio", "family_office", "--format", "json", *more)
        assert found.code == 0
        keys.add(manifest_of(next((out / "adhoc").iterdir()))["run_key"])
    assert len(keys) == 2
