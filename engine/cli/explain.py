"""``engine explain``."""

import click

from engine.api.explaining import explain_portfolio
from engine.api.second_opinions import ask_second_models
from engine.cli.answers import print_answer
from engine.cli.options import Books, format_option, one_book_options, quiet_option, warn
from engine.desk.explanations import show_explanation
from engine.desk.terminal import console


@click.command()
@one_book_options
@click.option("--security", help="Why this name trades or does not, instead of the whole story.")
@click.option("--second-models", is_flag=True, help="Also how many of the second models ask for each trade.")
@format_option("table", "json", "csv")
@quiet_option
def command(security: str | None, second_models: bool, books: Books, form: str, quiet: bool) -> int:
    """Tell one book's rebalance as a story, or why one name trades.

    The book is rebalanced afresh. With --format csv its trades go to stdout, or with --security the
    parts of what the name's next trade would add.
    """
    loaded, (portfolio,) = books.load(), books.only
    result = explain_portfolio(loaded, portfolio, security)
    if second_models:
        result = ask_second_models(loaded, result)
    warn(result.notices, result.refused, quiet=quiet)
    return print_answer(
        loaded,
        result,
        form=form,
        main="marginal_costs" if "marginal_costs" in result.tables else "trades",
        show=lambda: show_explanation(console(), result.tables),
    )
