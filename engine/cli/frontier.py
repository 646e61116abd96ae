"""``engine frontier``."""

import click

from engine.api.tracing import trace_frontier
from engine.cli.answers import print_answer, write_answer
from engine.cli.options import Books, book_options, format_option, quiet_option, warn
from engine.desk.frontiers import show_frontiers
from engine.desk.terminal import console


@click.command()
@click.option("--scenario", help="Id of the library; the universe's default when not given.")
@click.option(
    "--against",
    type=click.Choice(["tracking_error", "cost"]),
    default="tracking_error",
    show_default=True,
    help="What the bars of the table show beside the loss.",
)
@click.option("--points", type=int, default=9, show_default=True, help="Budgets of each book, both ends included.")
@book_options
@click.option("--out", type=click.Path(), help="Also write the tables below this folder.")
@format_option("table", "json", "csv")
@quiet_option
def command(
    scenario: str | None,
    against: str,
    points: int,
    books: Books,
    out: str | None,
    form: str,
    quiet: bool,
) -> int:
    """Sweep a stress budget and show what each width of it would cost a book.

    From the loss without a budget down to the least loss that the other limits allow, every
    point rebalanced and certified. Books chosen with --portfolio; all of them take half a minute.
    """
    loaded = books.load()
    result = trace_frontier(loaded, scenario, points=points)
    warn(result.notices, result.refused, quiet=quiet)
    asked = {"command": "frontier", "scenario": result.scenario, "points": points}
    write_answer(out, loaded, result, asked=asked)
    names = dict(loaded.portfolios.select("portfolio_id", "name").iter_rows())
    return print_answer(
        loaded,
        result,
        form=form,
        main="frontier",
        show=lambda: show_frontiers(console(), result.tables["frontier"], names, against=against),
    )
