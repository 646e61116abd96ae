"""A table of an earlier run, read back only if its manifest vouches for it."""

import json
from pathlib import Path

import polars as pl

from engine.errors import InputFileError
from engine.intake import admit
from engine.store.files import Source, decode_table, decode_text, read_source


def read_run_table(folder: Path, table: str) -> tuple[pl.DataFrame, Source]:
    """One table of a run that a command wrote with ``--out``, and its bytes.

    Args:
        folder: Folder of the run, the one with ``manifest.json``.
        table: Name of its contract; nullable columns that an older run lacks become null.

    Raises:
        InputFileError: there is no manifest, it is not one, or the table is not the one it names.
        ContractError: the table breaks its contract.
    """
    if not (folder / "manifest.json").is_file():
        raise InputFileError(f"{folder} is not a run: it has no manifest.json; give a folder that --out has written")
    try:
        manifest = json.loads(decode_text(read_source(folder / "manifest.json", "manifest.json")))
        expected = manifest["files"][f"{table}.parquet"]["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputFileError(f"{folder / 'manifest.json'}: not the manifest of a run with {table}") from None
    source = read_source(folder / f"{table}.parquet", f"previous/{table}")
    if source.sha256 != expected:
        raise InputFileError(f"{source.path}: not the table that its manifest vouches for (its SHA-256 differs)")
    frame = decode_table(source, table).drop("as_of", "run_id", strict=False)
    return admit(frame, table, str(source.path)).frame, source
