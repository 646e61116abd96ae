"""``engine explain``."""

import datetime as dt

import click

from engine.api.explaining import explain_portfolio
from engine.api.loading import load_universe
from engine.api.second_opinions import ask_second_models
from engine.cli.answers import print_answer
from engine.cli.options import MarketDate, format_option, quiet_option, universe_option, warn
from engine.desk.explanations import show_explanation
from engine.desk.terminal import console


@click.command()
@click.option("--portfolio", required=True, help="The book.")
@click.option("--security", help="Why this name trades or does not, instead of the whole story.")
@click.option("--second-models", is_flag=True, help="Also how many of the second models ask for each trade.")
@universe_option
@click.option("--holdings", type=click.Path(), help="Holdings instead of the universe's (Parquet or CSV).")
@click.option("--portfolios", type=click.Path(), help="Portfolios instead of the universe's.")
@click.option("--as-of", type=MarketDate(), help="Date of the holdings; the latest when not given.")
@format_option("table", "json", "csv")
@quiet_option
def command(
    portfolio: str,
    security: str | None,
    second_models: bool,
    universe: str,
    holdings: str | None,
    portfolios: str | None,
    as_of: dt.date | None,
    form: str,
    quiet: bool,
) -> int:
    """Tell one book's rebalance as a story, or why one name trades.

    The book is rebalanced afresh. With --format csv its trades go to stdout, or with --security the
    parts of what the name's next trade would add.
    """
    loaded = load_universe(universe, holdings=holdings, portfolios=portfolios, as_of=as_of).only([portfolio])
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
