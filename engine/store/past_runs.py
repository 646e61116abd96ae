"""A table of an earlier run, read back only if its manifest vouches for it."""

from pathlib import Path

import polars as pl

from engine.errors import InputFileError
from engine.intake import admit
from engine.store.files import Source, decode_table, read_source
from engine.store.manifests import read_manifest


def read_run_table(folder: Path, table: str, *commands: str) -> tuple[pl.DataFrame, Source]:
    """One table of a run that a command wrote with ``--out``, and its bytes.

    Args:
        folder: Folder of the run, the one with ``manifest.json``.
        table: Name of its contract; nullable columns that an older run lacks become null.
        commands: The commands that may have written it.

    Raises:
        InputFileError: there is no manifest, it is not one, or the table is not the one it names.
        ContractError: the table breaks its contract.
    """
    manifest = read_manifest(folder, *commands)
    try:
        expected = manifest["files"][f"{table}.parquet"]["sha256"]
    except (KeyError, TypeError):
        raise InputFileError(f"{folder / 'manifest.json'}: not the manifest of a run with {table}") from None
    source = read_source(folder / f"{table}.parquet", f"previous/{table}")
    if source.sha256 != expected:
        raise InputFileError(f"{source.path}: not the table that its manifest vouches for (its SHA-256 differs)")
    frame = decode_table(source, table).drop("as_of", "run_id", strict=False)
    return admit(frame, table, str(source.path)).frame, source
