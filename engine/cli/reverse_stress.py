"""``engine reverse-stress``."""

import datetime as dt
from pathlib import Path

import click

from engine.api.loading import LoadedUniverse, load_universe
from engine.api.reversing import ReverseQuestion, ReverseResult, reverse_stress_portfolios
from engine.cli.options import book_options, format_option, print_csv, print_json, quiet_option, warn
from engine.desk.reversals import show_reverse
from engine.desk.terminal import console
from engine.errors import EXIT_OK, EXIT_PARTIAL
from engine.store.files import Source, decode_text, read_source


@click.command()
@click.option("--loss", type=float, default=0.10, show_default=True, help="Loss to explain, fraction of NAV.")
@click.option("--bounds", type=click.Path(), help="YAML of what may move how far: factors, tiers, order, securities.")
@click.option("--horizon", type=int, default=1, show_default=True, help="Trading days in which the loss happens.")
@click.option("--within", type=float, help="Also the most that a shock within this distance can cost.")
@book_options
@click.option("--out", type=click.Path(), help="Also write the tables below this folder.")
@format_option("table", "json", "csv")
@quiet_option
def command(
    loss: float,
    bounds: str | None,
    horizon: int,
    within: float | None,
    universe: str,
    holdings: str | None,
    portfolios: str | None,
    only: tuple[str, ...],
    as_of: dt.date | None,
    out: str | None,
    form: str,
    quiet: bool,
) -> int:
    """Find the most plausible shock that costs each book a given loss.

    Without options: what costs each bundled book a tenth of its NAV in a day. One line a book; a
    single book, chosen with --portfolio, in detail.
    """
    question = ReverseQuestion(loss, horizon, within)
    loaded = load_universe(universe, holdings=holdings, portfolios=portfolios, as_of=as_of).only(only)
    source = None if bounds is None else read_source(Path(bounds), bounds, may_be_empty=True)
    given = None if source is None else (source.name, decode_text(source))
    result = reverse_stress_portfolios(loaded, question, bounds=given)
    warn(result.notices, result.refused, quiet=quiet)
    if out is not None:
        click.echo(f"written: {_write(Path(out), loaded, result, question, source)}", err=True)
    if form == "json":
        print_json(
            {
                "universe": loaded.universe.settings.id,
                "model_as_of": loaded.model.as_of,
                **{name: frame.to_dicts() for name, frame in result.tables.items()},
                "refused": list(result.refused),
            }
        )
    elif form == "csv":
        print_csv(result.tables["reverse"])
    else:
        parents = frozenset(loaded.portfolios["parent_id"].drop_nulls().to_list())
        show_reverse(console(), result.tables, loaded.curve.tiers.labels, parents)
    return EXIT_PARTIAL if result.refused else EXIT_OK


def _write(
    out: Path, loaded: LoadedUniverse, result: ReverseResult, question: ReverseQuestion, bounds: Source | None
) -> Path:
    from engine.store.runs import Run, write_adhoc  # pyarrow is only needed to write

    run = Run(
        as_of=result.as_of,
        command="reverse-stress",
        tables=result.tables,
        inputs=[*loaded.sources, *([bounds] if bounds is not None else [])],
        configuration={
            "universe": loaded.universe.settings.model_dump(mode="json"),
            "loss": question.loss,
            "horizon_days": question.horizon_days,
            "within": question.within,
            "portfolios": sorted(loaded.portfolios["portfolio_id"].to_list()),
            "as_of": result.as_of.isoformat(),
        },
        summary={"books": result.tables["reverse"].height, "refused": list(result.refused)},
    )
    return write_adhoc(out, run)
