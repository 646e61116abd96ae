"""How an answer about books leaves a command: on stdout in one of three forms, and below a folder."""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import click
import polars as pl

from engine.api.loading import LoadedUniverse
from engine.cli.options import print_csv, print_json
from engine.errors import EXIT_OK, EXIT_PARTIAL
from engine.store.files import Source


@runtime_checkable
class Answered(Protocol):
    """What a verb on books gives back."""

    @property
    def as_of(self) -> dt.date:
        """Date of the holdings."""

    @property
    def tables(self) -> Mapping[str, pl.DataFrame]:
        """Tables by contract name."""

    @property
    def refused(self) -> tuple[str, ...]:
        """What could not be done."""


def print_answer(loaded: LoadedUniverse, answer: Answered, *, form: str, main: str, show: Callable[[], None]) -> int:
    """Print an answer and give its exit code.

    Args:
        loaded: From ``load_universe``.
        answer: Tables and what was refused.
        form: ``table``, ``json`` (every table) or ``csv`` (one).
        main: The table of ``csv``.
        show: Prints it for a person.
    """
    if form == "json":
        print_json(
            {
                "universe": loaded.universe.settings.id,
                "model_as_of": loaded.model.as_of,
                **{name: frame.to_dicts() for name, frame in answer.tables.items()},
                "refused": list(answer.refused),
            }
        )
    elif form == "csv":
        print_csv(answer.tables[main])
    else:
        show()
    return EXIT_PARTIAL if answer.refused else EXIT_OK


def write_answer(
    out: str | None,
    loaded: LoadedUniverse,
    answer: Answered,
    *,
    asked: Mapping[str, Any],
    extra: Sequence[Source] = (),
) -> None:
    """Write an answer's tables with a manifest below a folder, if one is given, and say where.

    Args:
        out: The folder.
        loaded: From ``load_universe``.
        answer: Its tables; the first says how many books there are.
        asked: ``command`` and what it was asked, for the manifest.
        extra: Files read besides the universe's.
    """
    if out is None:
        return
    from engine.store.runs import Run, write_adhoc  # pyarrow is only needed to write

    rest = {name: value for name, value in asked.items() if name != "command"}
    run = Run(
        as_of=answer.as_of,
        command=asked["command"],
        tables=answer.tables,
        inputs=[*loaded.sources, *extra],
        configuration={
            "universe": loaded.universe.settings.model_dump(mode="json"),
            **rest,
            "portfolios": sorted(loaded.portfolios["portfolio_id"].to_list()),
            "as_of": answer.as_of.isoformat(),
        },
        summary={
            "books": next(iter(answer.tables.values()))["portfolio_id"].n_unique(),
            "refused": list(answer.refused),
        },
    )
    click.echo(f"written: {write_adhoc(Path(out), run)}", err=True)
