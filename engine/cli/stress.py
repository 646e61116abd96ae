"""``engine stress``."""

from dataclasses import replace
from pathlib import Path

import click

from engine.api.loading import LoadedUniverse
from engine.api.replaying import observe_replays
from engine.api.stressing import StressResult, StressTerms, stress_portfolios
from engine.cli.options import (
    Books,
    book_options,
    format_option,
    print_csv,
    print_json,
    quiet_option,
    warn,
)
from engine.desk.terminal import console, show_detail, show_stress
from engine.errors import EXIT_BREACH, EXIT_OK, EXIT_PARTIAL
from engine.store.files import Source, decode_text, read_source
from engine.store.past_runs import read_run_table


@click.command()
@click.option("--scenario", "scenarios", multiple=True, help="Id of the library, or a YAML file; may be repeated.")
@book_options
@click.option("--detail", is_flag=True, help="Also the ten names that cost each book most.")
@click.option("--out", type=click.Path(), help="Also write the tables below this folder.")
@click.option("--previous", type=click.Path(), help="Folder of the run before; a risk tier improves only clearly.")
@click.option("--prices", type=click.Path(), help="Price table from which replays take the names' own returns.")
@click.option("--require-approved", is_flag=True, help="Refuse scenarios without an approval that still holds.")
@click.option("--fail-on-breach", is_flag=True, help="Exit 1 when a budget is breached or a book set aside.")
@format_option("table", "json", "csv")
@quiet_option
def command(
    scenarios: tuple[str, ...],
    books: Books,
    detail: bool,
    out: str | None,
    previous: str | None,
    prices: str | None,
    require_approved: bool,
    fail_on_breach: bool,
    form: str,
    quiet: bool,
) -> int:
    """Stress the books under scenarios and print what they lose.

    Without options: the bundled books under the universe's default scenario, deepseek.
    """
    loaded = books.load()
    files = {name: Path(name) for name in scenarios if name.endswith((".yaml", ".yml"))}
    texts = {name: decode_text(read_source(path, name, may_be_empty=True)) for name, path in files.items()}
    before, past = _previous(previous)
    ids = [name for name in scenarios if name not in files]
    terms = replace(before, require_approved=require_approved)
    if prices is not None:
        days, read, noticed = observe_replays(loaded, ids, texts, prices)
        terms, past = replace(terms, observed=days), [*past, read]
        warn(noticed, (), quiet=quiet)
    result = stress_portfolios(loaded, ids, texts=texts, terms=terms)
    warn(result.notices, result.refused, quiet=quiet)
    if out is not None:
        click.echo(f"written: {_write(Path(out), loaded, result, [*_scenario_files(texts), *past])}", err=True)
    if form == "json":
        print_json(_document(loaded, result, detail=detail))
    elif form == "csv":
        print_csv(result.tables["stress"])
    else:
        screen = console()
        show_stress(screen, result.tables, loaded.curve.buckets.labels)
        if detail:
            show_detail(screen, result.tables)
    troubled = result.tables["stress"]["breach"].any() or any(n.severity == "quarantine" for n in result.notices)
    if fail_on_breach and troubled:
        return EXIT_BREACH
    return EXIT_PARTIAL if result.refused else EXIT_OK


def _document(loaded: LoadedUniverse, result: StressResult, *, detail: bool) -> dict[str, object]:
    names = [
        "portfolio_summary",
        "scenario_summary",
        "scenario_factors",
        "stress",
        "stress_models",
        "stress_leaves",
        "stress_trees",
        "stress_tiers",
        "stress_factors",
        "exceptions",
    ]
    names += ["stress_positions"] if detail else []
    return {
        "universe": loaded.universe.settings.id,
        "model_as_of": loaded.model.as_of,
        **{name: result.tables[name].to_dicts() for name in names},
        "refused": list(result.refused),
    }


def _previous(folder: str | None) -> tuple[StressTerms, list[Source]]:
    """Risk tiers and volatilities of the run before, after its trades where it traded, and the table they stand in."""
    if folder is None:
        return StressTerms(), []
    summary, source = read_run_table(Path(folder), "portfolio_summary", "stress", "rebalance")
    # The last stage counts: after the trades where there were any.
    ordered = summary.sort("portfolio_id", "stage", descending=[False, True])
    tiers, risk = (
        dict(ordered.drop_nulls(name).select("portfolio_id", name).iter_rows()) for name in ("risk_tier", "volatility")
    )
    return StressTerms(previous=tiers, risk_before=risk), [source]


def _scenario_files(texts: dict[str, str]) -> list[Source]:
    return [read_source(Path(name), name) for name in texts]


def _write(out: Path, loaded: LoadedUniverse, result: StressResult, extra: list[Source]) -> Path:
    from engine.store.runs import Run, write_adhoc  # pyarrow is only needed to write

    run = Run(
        as_of=result.as_of,
        command="stress",
        tables=result.tables,
        inputs=[*loaded.sources, *extra],
        configuration={
            "universe": loaded.universe.settings.model_dump(mode="json"),
            "scenarios": result.tables["scenario_summary"]["scenario_id"].to_list(),
            "portfolios": sorted(loaded.portfolios["portfolio_id"].to_list()),
            "as_of": result.as_of.isoformat(),
        },
        summary={"scenarios": result.tables["scenario_summary"]["scenario_id"].to_list()},
    )
    return write_adhoc(out, run)
