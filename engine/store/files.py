"""Files come in whole: bytes once, hashed, then decoded into a table or a text."""

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from engine.contracts import CONTRACTS
from engine.errors import ContractError, InputFileError, StorageError


@dataclass(frozen=True, slots=True)
class Source:
    """One input as it was read: what a run keeps and names in its manifest.

    Args:
        name: What it is to the engine, e.g. ``holdings`` or ``scenarios/deepseek.yaml``.
        path: Where it was read.
        content: Its bytes.
    """

    name: str
    path: Path
    content: bytes

    @property
    def sha256(self) -> str:
        """Hash of the bytes that were decoded, not of a later reading."""
        return hashlib.sha256(self.content).hexdigest()


def read_source(path: Path, name: str, *, may_be_empty: bool = False) -> Source:
    """Read a regular file whole.

    Raises:
        InputFileError: it is missing, a folder, a pipe, or empty.
        StorageError: the system refuses to read it.
    """
    try:
        if not path.exists():
            raise InputFileError(f"{name}: no file {path}; check the path")
        if not path.is_file():
            raise InputFileError(f"{name}: {path} is not a regular file; give the file itself")
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{name}: cannot read {path}: {error.strerror or error}") from None
    if not content and not may_be_empty:
        raise InputFileError(f"{name}: {path} is empty (0 bytes); export it again")
    return Source(name, path, content)


def decode_text(source: Source) -> str:
    """The text of a file; bytes that are not UTF-8 become U+FFFD, which its reader refuses with a place."""
    return source.content.decode("utf-8", errors="replace")


def decode_table(source: Source, table: str) -> pl.DataFrame:
    """The table in a Parquet or CSV file, told apart by the file's ending.

    CSV cells are read as the contract's types; a cell that does not fit is a fault.

    Args:
        source: The file.
        table: Name of its contract.

    Raises:
        InputFileError: the bytes are not what the ending says.
        ContractError: a CSV cell cannot be read as its column's type.
    """
    ending = source.path.suffix.lower()
    if ending == ".csv":
        return _decode_csv(source, table)
    if ending != ".parquet":
        raise InputFileError(f"{table}: {source.path} must end in .parquet or .csv")
    try:
        return pl.read_parquet(io.BytesIO(source.content))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        first = (str(error).splitlines() or ["unreadable"])[0][:200]
        raise InputFileError(f"{table}: {source.path} is not a readable Parquet file: {first}") from None


def _decode_csv(source: Source, table: str) -> pl.DataFrame:
    try:
        text = pl.read_csv(io.BytesIO(source.content), infer_schema=False, raise_if_empty=True)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError) as error:
        first = (str(error).splitlines() or ["unreadable"])[0][:200]
        raise InputFileError(f"{table}: {source.path} is not a readable CSV file: {first}") from None
    text = text.filter(~pl.all_horizontal(pl.all().is_null()))
    wanted = CONTRACTS[table].columns if table in CONTRACTS else {}
    repeated = [match[1] for name in text.columns if (match := re.fullmatch(r"(.+)_duplicated_\d+", name))]
    faults = [f"column '{name}' appears twice" for name in sorted(set(repeated) & set(text.columns))]
    casts = []
    for name in text.columns:
        dtype = wanted.get(name, pl.String)
        cells = text[name]
        typed = cells.str.to_date("%Y-%m-%d", strict=False) if dtype == pl.Date else cells.cast(dtype, strict=False)
        lost = cells.is_not_null() & typed.is_null()
        if lost.any():
            rows = [int(i) + 2 for i in lost.arg_true().head(3).to_list()]
            found = ", ".join(repr(value) for value in cells.filter(lost).head(3).to_list())
            where = ", ".join(map(str, rows))
            faults.append(f"column '{name}': {lost.sum()} cells are not {dtype}; lines {where}; found {found}")
        casts.append(typed.alias(name))
    if faults:
        raise ContractError(f"{table} ({source.path})", faults)
    return pl.DataFrame(casts)
