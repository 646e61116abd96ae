"""``engine reverse-stress``."""

from pathlib import Path

import click

from engine.api.reversing import ReverseQuestion, reverse_stress_portfolios
from engine.cli.answers import print_answer, write_answer
from engine.cli.options import Books, book_options, format_option, quiet_option, warn
from engine.desk.reversals import show_reverse
from engine.desk.terminal import console
from engine.store.files import decode_text, read_source


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
    books: Books,
    out: str | None,
    form: str,
    quiet: bool,
) -> int:
    """Find the most plausible shock that costs each book a given loss.

    Without options: what costs each bundled book a tenth of its NAV in a day. One line a book; a
    single book, chosen with --portfolio, in detail.
    """
    question = ReverseQuestion(loss, horizon, within)
    loaded = books.load()
    source = None if bounds is None else read_source(Path(bounds), bounds, may_be_empty=True)
    given = None if source is None else (source.name, decode_text(source))
    result = reverse_stress_portfolios(loaded, question, bounds=given)
    warn(result.notices, result.refused, quiet=quiet)
    asked = {
        "command": "reverse-stress",
        "loss": question.loss,
        "horizon_days": question.horizon_days,
        "within": question.within,
    }
    write_answer(out, loaded, result, asked=asked, extra=[source] if source is not None else [])
    parents = frozenset(loaded.portfolios["parent_id"].drop_nulls().to_list())
    return print_answer(
        loaded,
        result,
        form=form,
        main="reverse",
        show=lambda: show_reverse(console(), result.tables, loaded.curve.tiers.labels, parents),
    )
