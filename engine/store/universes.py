"""A universe's folder, read into raw tables and texts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

import engine
from engine.documents import suggestion
from engine.errors import ModelError, UsageError
from engine.store.files import Source, decode_table, decode_text, read_source

MODEL_TABLES: Final = (
    "exposures",
    "factor_covariance",
    "factor_returns",
    "memberships",
    "specific_risk",
    "tiers",
)

ALTERNATIVE_TABLES: Final = ("alternative_exposures", "alternative_covariance", "alternative_specific")
"""Tables that a model may do without; they are read where its card vouches for them."""


@dataclass(frozen=True, slots=True)
class UniverseFolder:
    """The files of a universe as they were read; nothing in them is checked yet.

    Args:
        root: The folder.
        sources: Every file read, by name.
        tables: ``securities``, and where the folder has them ``portfolios``, ``holdings``,
            ``benchmarks``, ``compositions``.
        texts: ``universe.yaml``, ``scenarios/*.yaml``, ``mandates/*.yaml`` by relative name.
    """

    root: Path
    sources: Mapping[str, Source]
    tables: Mapping[str, pl.DataFrame]
    texts: Mapping[str, str]

    def folder_texts(self, folder: str) -> dict[str, str]:
        """The texts below one folder, by relative name."""
        return {name: text for name, text in self.texts.items() if name.startswith(f"{folder}/")}


def bundled_root() -> Path:
    """Where the shipped universes are: inside the wheel, or beside the package in a checkout."""
    package = Path(engine.__file__).resolve().parent
    inside = package / "universes"
    return inside if inside.is_dir() else package.parent / "universes"


def find_universe(name: str) -> Path:
    """The folder of a bundled universe by its name, or of any universe by its path.

    Raises:
        UsageError: neither a bundled name nor a folder with a universe.yaml.
    """
    for root in (bundled_root() / name, Path(name)):
        if (root / "universe.yaml").is_file():
            return root
    known = sorted(path.parent.name for path in bundled_root().glob("*/universe.yaml"))
    raise UsageError(
        f"no universe {name!r}: neither a bundled name nor a folder with universe.yaml{suggestion(name, known)}"
    )


BOOK_TABLES: Final = ("securities", "portfolios", "holdings", "benchmarks", "compositions")


def read_universe(root: Path, overrides: Mapping[str, Path], *, only: Sequence[str] = BOOK_TABLES) -> UniverseFolder:
    """Read a universe's folder, some of its tables from elsewhere.

    Args:
        root: Folder with ``universe.yaml``.
        overrides: Paths that replace ``securities``, ``portfolios``, ``holdings``, ``benchmarks``.
        only: The tables to read.

    Raises:
        InputFileError: a needed file is missing or unreadable.
    """
    sources: dict[str, Source] = {}
    texts: dict[str, str] = {}
    paths = [root / "universe.yaml", *sorted(root.glob("scenarios/*.yaml")), *sorted(root.glob("mandates/*.yaml"))]
    for path in paths:
        name = path.relative_to(root).as_posix()
        sources[name] = read_source(path, name, may_be_empty=True)
        texts[name] = decode_text(sources[name])
    tables: dict[str, pl.DataFrame] = {}
    for table in only:
        found = overrides.get(table) or _table_path(root, table)
        if found is not None:
            sources[table] = read_source(found, table)
            tables[table] = decode_table(sources[table], table)
    return UniverseFolder(root, sources, tables, texts)


def read_model(root: Path) -> tuple[dict[str, Any], dict[str, pl.DataFrame], dict[str, Source]]:
    """``model.json``, the model tables it vouches for, and their sources.

    Args:
        root: Folder of the model.

    Raises:
        InputFileError: a file is missing or unreadable.
        ModelError: model.json is not one, or a table is not the one that was calibrated.
    """
    sources = {"model/model.json": read_source(root / "model.json", "model.json")}
    try:
        card = json.loads(decode_text(sources["model/model.json"]))
        hashes = dict(card["tables"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ModelError(f"{root / 'model.json'}: not a model card; run engine calibrate again") from None
    tables = {}
    for table in (*MODEL_TABLES, *(name for name in ALTERNATIVE_TABLES if name in hashes)):
        source = read_source(root / f"{table}.parquet", f"model/{table}")
        if source.sha256 != hashes.get(table):
            raise ModelError(
                f"{source.path}: not the table that model.json vouches for (its SHA-256 differs); "
                "run engine calibrate again"
            )
        sources[f"model/{table}"] = source
        tables[table] = decode_table(source, table)
    return card, tables, sources


def _table_path(root: Path, table: str) -> Path | None:
    if table == "holdings":
        found = sorted(root.glob("holdings/*.parquet"))
        return found[-1] if found else None
    for ending in ("csv", "parquet"):
        if (root / f"{table}.{ending}").exists():
            return root / f"{table}.{ending}"
    return None
