"""``engine rebalance``."""

from pathlib import Path

import click

from engine.api.leaving_out import price_limit
from engine.api.rebalancing import RebalanceResult, rebalance_portfolios
from engine.api.second_opinions import ask_second_models
from engine.cli.options import Books, book_options, format_option, print_csv, print_json, quiet_option, warn
from engine.desk.opinions import show_opinions
from engine.desk.reasons import show_left_out, show_limits, show_whipsaws
from engine.desk.terminal import console, show_rebalance, show_trades
from engine.errors import EXIT_BREACH, EXIT_OK, EXIT_PARTIAL
from engine.store.runs import Run, write_adhoc


@click.command()
@click.option("--scenario", "scenarios", multiple=True, help="Report this scenario too; may be repeated.")
@book_options
@click.option(
    "--detail",
    is_flag=True,
    help="Also the ten largest trades of each book, why each; what binds; what a whipsaw costs.",
)
@click.option("--leave-out", metavar="LIMIT", help="Also what each book would save without this limit.")
@click.option("--second-models", is_flag=True, help="Also how many of the second models ask for each trade.")
@click.option("--out", type=click.Path(), default="out", show_default=True, help="Folder of all runs.")
@click.option("--fail-on-breach", is_flag=True, help="Exit 1 when a breach stays, or a book is held or set aside.")
@format_option("table", "json", "csv")
@quiet_option
def command(
    scenarios: tuple[str, ...],
    books: Books,
    detail: bool,
    leave_out: str | None,
    second_models: bool,
    out: str,
    fail_on_breach: bool,
    form: str,
    quiet: bool,
) -> int:
    """Bring books inside their limits at the least cost, each answer certified.

    Writes every table, before and after, with a manifest below OUT/adhoc/ and prints what
    changed. With --format csv the trades go to stdout.
    """
    loaded = books.load()
    result = rebalance_portfolios(loaded, scenarios)
    if second_models:
        result = ask_second_models(loaded, result)
    warn(result.notices, result.refused, quiet=quiet)
    counts = _counts(result)
    left = Run(
        as_of=result.as_of,
        command="rebalance",
        tables=result.tables,
        inputs=loaded.sources,
        configuration={
            "universe": loaded.universe.settings.model_dump(mode="json"),
            "scenarios": list(scenarios),
            "portfolios": list(books.only),
            "second_models": second_models,
            "as_of": None if books.as_of is None else books.as_of.isoformat(),
        },
        summary={"books_by_status": counts},
    )
    run = write_adhoc(Path(out), left)
    # After the run is written, so that a limit that no book has does not cost the answers.
    priced = None if leave_out is None else price_limit(loaded, result, leave_out)
    if form == "json":
        names = ["portfolio_summary", "stress", "limits", "certificates", "trades", "whipsaws", "exceptions"]
        names += ["conflicts", "allotments", "firm_liquidity"]
        tables = {name: result.tables[name].to_dicts() for name in names}
        if priced is not None:
            tables["left_out"] = priced.to_dicts()
        print_json({"run": str(run), "books_by_status": counts, **tables, "refused": list(result.refused)})
    elif form == "csv":
        print_csv(result.tables["trades"])
    else:
        screen = console()
        show_rebalance(screen, result.tables, loaded.universe.settings.stress.scenario)
        if detail:
            show_trades(screen, result.tables)
            show_limits(screen, result.tables)
            show_whipsaws(screen, result.tables)
        show_opinions(screen, result.tables)
        if priced is not None:
            show_left_out(screen, result.tables, priced)
    click.echo(f"written: {run}", err=True)
    troubled = _breach_stays(result) or any(counts.get(state) for state in ("held", "quarantined", "infeasible"))
    if fail_on_breach and troubled:
        return EXIT_BREACH
    return EXIT_PARTIAL if result.refused else EXIT_OK


def _counts(result: RebalanceResult) -> dict[str, int]:
    summary = result.tables["portfolio_summary"]
    states = summary["status"].filter(summary["stage"] == "after").to_list()
    return {state: states.count(state) for state in sorted(set(states))}


def _breach_stays(result: RebalanceResult) -> bool:
    return bool(result.tables["limits"]["breach"].any())
