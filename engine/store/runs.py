"""Tables go out complete or not at all: bytes, fsync, manifest, rename."""

import datetime as dt
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow.parquet as pq

import engine
from engine.contracts import CONTRACTS
from engine.errors import StorageError
from engine.intake import admit
from engine.store.files import Source

NUMERIC_LIBRARIES: Final = ("clarabel", "cvxpy", "numpy", "piqp", "polars", "pyarrow", "scipy")


def run_key(inputs: Mapping[str, str], configuration: Mapping[str, Any]) -> str:
    """Hash of everything an answer depends on: inputs, configuration, code, libraries.

    Args:
        inputs: SHA-256 by input name.
        configuration: Effective settings, JSON values.
    """
    recipe = {"inputs": dict(inputs), "configuration": dict(configuration), "code": code_hash(), **library_versions()}
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, allow_nan=False).encode()).hexdigest()


def code_hash() -> str:
    """Hash of the package's own source files, by name."""
    root = Path(engine.__file__).resolve().parent
    digest = hashlib.sha256(engine.__version__.encode())
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that numbers pass through."""
    return {name: version(name) for name in NUMERIC_LIBRARIES}


@dataclass(frozen=True, slots=True)
class Run:
    """What one call of a command leaves.

    Args:
        as_of: Date of the holdings.
        command: The command, for the manifest.
        tables: Output tables by contract name.
        inputs: What was read; kept under ``<out>/inputs/<sha256>``.
        configuration: Effective settings, JSON values.
        summary: Counts by status and the like, for the manifest.
    """

    as_of: dt.date
    command: str
    tables: Mapping[str, pl.DataFrame]
    inputs: Sequence[Source]
    configuration: Mapping[str, Any]
    summary: Mapping[str, Any]


def write_adhoc(out: Path, run: Run) -> Path:
    """Write one run of a command under ``<out>/adhoc/<as_of>-<N>/`` and keep its inputs.

    Every table is held against its contract, gains ``as_of`` and ``run_id``, and carries
    contract version, run key and input hashes in its footer. ``manifest.json`` comes last
    in a staging folder, which then takes its final name in one rename; N is the first
    number that is free.

    Args:
        out: Folder of all runs; made when missing.
        run: What to write.

    Returns:
        The folder of the run.

    Raises:
        StorageError: the disk refuses; nothing half-written keeps a final name.
    """
    hashes = {source.name: source.sha256 for source in run.inputs}
    key = run_key(hashes, {"command": run.command, **run.configuration})
    with _storage_faults(out):
        for source in run.inputs:
            _keep_input(out / "inputs", source)
        (out / "adhoc").mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=out))
        try:
            files = {}
            for name, frame in sorted(run.tables.items()):
                payload = encode_table(frame, name, as_of=run.as_of, key=key, inputs=hashes)
                write_durably(staging / f"{name}.parquet", payload)
                files[f"{name}.parquet"] = {
                    "sha256": hashlib.sha256(payload).hexdigest(),
                    "bytes": len(payload),
                    "rows": frame.height,
                    "contract_version": CONTRACTS[name].version,
                }
            manifest = {
                "command": run.command,
                "as_of": run.as_of.isoformat(),
                "run_key": key,
                "run_id": key[:12],
                "engine_version": engine.__version__,
                "code_sha256": code_hash(),
                "libraries": library_versions(),
                "configuration": dict(run.configuration),
                "inputs": hashes,
                "files": files,
                "summary": dict(run.summary),
                "created_utc": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            }
            write_durably(staging / "manifest.json", dump_json(manifest))
            return _take_number(staging, out / "adhoc", run.as_of)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def encode_table(frame: pl.DataFrame, table: str, *, as_of: dt.date, key: str, inputs: Mapping[str, str]) -> bytes:
    """A table as Parquet bytes that depend on nothing but the table and the run key.

    Raises:
        ContractError: the table breaks its contract; nothing is written.
    """
    checked = admit(frame, table, "output").frame
    dated = checked.select(pl.lit(as_of).alias("as_of"), pl.lit(key[:12]).alias("run_id"), pl.all())
    return _parquet_bytes(
        dated, {"contract": table, "contract_version": str(CONTRACTS[table].version), "run_key": key, **inputs}
    )


def encode_model_table(frame: pl.DataFrame, table: str) -> bytes:
    """A model table as Parquet bytes that depend on nothing but the table."""
    checked = admit(frame, table, "calibration").frame
    return _parquet_bytes(checked, {"contract": table, "contract_version": str(CONTRACTS[table].version)})


def write_model(root: Path, tables: Mapping[str, pl.DataFrame], card: Mapping[str, Any]) -> dict[str, str]:
    """Write the model tables and, last, the card that vouches for them by hash.

    Args:
        root: Folder of the model; made when missing.
        tables: Model tables by contract name.
        card: What ``model.json`` says besides the hashes.

    Returns:
        SHA-256 by table.

    Raises:
        StorageError: the disk refuses; a half-written model does not load.
    """
    payloads = {name: encode_model_table(frame, name) for name, frame in sorted(tables.items())}
    hashes = {name: hashlib.sha256(payload).hexdigest() for name, payload in payloads.items()}
    with _storage_faults(root):
        root.mkdir(parents=True, exist_ok=True)
        for name, payload in payloads.items():
            write_durably(root / f"{name}.parquet", payload)
        write_durably(root / "model.json", dump_json({**card, "tables": hashes}))
    return hashes


def write_durably(path: Path, payload: bytes) -> None:
    """Bytes to a temporary file beside ``path``, fsync, rename, fsync of the folder."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def dump_json(value: Mapping[str, Any]) -> bytes:
    """Sorted, indented JSON; NaN and infinity are errors, not text."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _parquet_bytes(frame: pl.DataFrame, metadata: Mapping[str, str]) -> bytes:
    arrow = frame.to_arrow(compat_level=pl.CompatLevel.oldest()).replace_schema_metadata(dict(metadata))
    buffer = io.BytesIO()
    pq.write_table(arrow, buffer, compression="zstd", version="2.6", write_page_checksum=True)
    return buffer.getvalue()


def _keep_input(folder: Path, source: Source) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / source.sha256
    if not kept.exists():
        write_durably(kept, source.content)


def _take_number(staging: Path, parent: Path, as_of: dt.date) -> Path:
    staging.chmod(0o755)
    number = 1
    while True:
        target = parent / f"{as_of.isoformat()}-{number}"
        number += 1
        if target.exists():
            continue
        try:
            staging.rename(target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                continue
            raise
        _sync_folder(parent)
        return target


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _storage_faults(where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write below {where}: {error.strerror or error}") from None
