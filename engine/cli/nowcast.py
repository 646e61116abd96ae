"""``engine nowcast``."""

import datetime as dt
from pathlib import Path
from typing import Any

import click

from engine.api.loading import LoadedUniverse
from engine.api.nowcasting import NowcastResult, nowcast_portfolios, score_nowcast
from engine.cli.options import Books, book_options, format_option, print_csv, print_json, quiet_option, warn
from engine.desk.nowcasts import show_nowcast
from engine.desk.terminal import console
from engine.errors import EXIT_BREACH, EXIT_OK, EXIT_PARTIAL, UsageError
from engine.store.files import Source, decode_table, read_source
from engine.stress.tape import TapeRules


class Clock(click.ParamType[dt.time]):
    """A time of day written 10:30."""

    name = "HH:MM"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dt.time:
        """Parse, or refuse with the form that is read."""
        try:
            return dt.datetime.strptime(value, "%H:%M").time()  # noqa: DTZ007  exchange time has no zone here
        except ValueError:
            self.fail(f"{value!r} is not a time; write 10:30", param, ctx)


class Session(click.ParamType[tuple[dt.time, dt.time]]):
    """A session written 09:30-16:00."""

    name = "HH:MM-HH:MM"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[dt.time, dt.time]:
        """Both ends, the first before the second."""
        first, dash, last = value.partition("-")
        if not dash:
            self.fail(f"{value!r} is not a session; write 09:30-16:00", param, ctx)
        opens, closes = Clock().convert(first, param, ctx), Clock().convert(last, param, ctx)
        if opens >= closes:
            self.fail(f"the session {value} ends before it begins; write 09:30-16:00", param, ctx)
        return opens, closes


@click.command()
@click.option("--tape", type=click.Path(), help="Prints: security_id, time, return so far (Parquet or CSV). Required.")
@click.option("--score", type=click.Path(), help="Closing returns to compare with: security_id, return.")
@click.option("--at", type=Clock(), help="Leave out later prints; the newest counts when not given.")
@click.option("--session", type=Session(), default="09:30-16:00", show_default=True, help="Exchange time.")
@click.option(
    "--stale-minutes",
    type=click.FloatRange(0.0),
    default=30.0,
    show_default=True,
    help="Leave out names whose last print is older than this.",
)
@book_options
@click.option("--out", type=click.Path(), help="Also write the tables below this folder.")
@click.option("--fail-on-breach", is_flag=True, help="Exit 1 when a budget is breached or a book set aside.")
@format_option("table", "json", "csv")
@quiet_option
def command(
    tape: str | None,
    score: str | None,
    at: dt.time | None,
    session: tuple[dt.time, dt.time],
    stale_minutes: float,
    books: Books,
    out: str | None,
    fail_on_breach: bool,
    form: str,
    quiet: bool,
) -> int:
    """Estimate from a few prints what every book has lost so far.

    Each print (a name, an index, or `market`) is a view; the model says what all other names
    most likely did. A breach is an estimated loss beyond the book's tightest stress budget.
    """
    if tape is None:
        raise UsageError("nowcast needs --tape FILE (columns security_id, time, return), 1 to 50 names")
    rules = TapeRules(*session, at=at, stale_minutes=stale_minutes)
    loaded = books.load()
    sources = [read_source(Path(tape), "tape")]
    result = nowcast_portfolios(loaded, decode_table(sources[0], "tape"), rules=rules, source=tape)
    if score is not None:
        sources.append(read_source(Path(score), "closing"))
        result = score_nowcast(result, decode_table(sources[1], "closing"), loaded, source=score)
    warn(result.notices, result.refused, quiet=quiet)
    if out is not None:
        click.echo(f"written: {_write(Path(out), loaded, result, sources, rules)}", err=True)
    if form == "json":
        print_json(_document(loaded, result))
    elif form == "csv":
        print_csv(result.tables["nowcast"])
    else:
        tape_read = result.now.tape
        head = {
            "model": loaded.model.as_of,
            "at": tape_read.at,
            "elapsed": tape_read.elapsed,
            "prints": tape_read.names,
        }
        show_nowcast(console(), head, _factors(result), result.tables, loaded.portfolios)
    troubled = result.tables["nowcast"]["breach"].any() or any(n.severity == "quarantine" for n in result.notices)
    if fail_on_breach and troubled:
        return EXIT_BREACH
    return EXIT_PARTIAL if result.refused else EXIT_OK


def _factors(result: NowcastResult) -> dict[str, float]:
    return dict(zip(result.now.model.factors.labels, map(float, result.now.factors), strict=True))


def _document(loaded: LoadedUniverse, result: NowcastResult) -> dict[str, object]:
    return {
        "universe": loaded.universe.settings.id,
        "model_as_of": loaded.model.as_of,
        "time": result.now.tape.at.isoformat(),
        "elapsed": result.now.tape.elapsed,
        "factors": _factors(result),
        **{name: frame.to_dicts() for name, frame in result.tables.items()},
        "refused": list(result.refused),
    }


def _write(out: Path, loaded: LoadedUniverse, result: NowcastResult, sources: list[Source], rules: TapeRules) -> Path:
    from engine.store.runs import Run, write_adhoc  # pyarrow is only needed to write

    as_of = result.portfolios.as_of
    run = Run(
        as_of=as_of,
        command="nowcast",
        tables=result.tables,
        inputs=[*loaded.sources, *sources],
        configuration={
            "universe": loaded.universe.settings.model_dump(mode="json"),
            "portfolios": sorted(loaded.portfolios["portfolio_id"].to_list()),
            "as_of": as_of.isoformat(),
            "session": [rules.opens.isoformat(), rules.closes.isoformat()],
            "at": rules.at.isoformat() if rules.at else None,
            "stale_minutes": rules.stale_minutes,
        },
        summary={"time": result.now.tape.at.isoformat(), "prints": len(result.now.tape.names)},
    )
    return write_adhoc(out, run)
