"""``engine backtest``."""

import datetime as dt

import click

from engine.api.calibrating import backtest
from engine.cli.options import MarketDate, format_option, print_csv, print_json, quiet_option, universe_option, warn
from engine.desk.terminal import console, show_backtest
from engine.errors import UsageError


@click.command()
@click.option("--event-date", type=MarketDate(), help="The day to score. Required.")
@click.option(
    "--shock", type=click.Choice(["baskets"]), default="baskets", show_default=True, help="What the model is told."
)
@click.option("--prices", type=click.Path(), help="Price table (Parquet or CSV). Required.")
@click.option("--securities", type=click.Path(), help="Securities to use instead of the universe's.")
@click.option("--baskets", type=click.Path(), help="CSV (tier, security_id) to use instead of the universe's core.")
@universe_option
@format_option("table", "json", "csv")
@quiet_option
def command(
    event_date: dt.date | None,
    shock: str,
    prices: str | None,
    securities: str | None,
    baskets: str | None,
    universe: str,
    form: str,
    quiet: bool,
) -> None:
    """Score the model of the day before an event on the event.

    Calibrates on the days before, applies the market's and each basket's return of the day,
    and compares every name's predicted with its realised return.
    """
    if prices is None or event_date is None:
        raise UsageError("backtest needs --event-date YYYY-MM-DD and --prices FILE; no prices are bundled")
    result = backtest(prices, event_date, universe=universe, securities=securities, baskets=baskets)
    warn(result.notices, (), quiet=quiet)
    if form == "csv":
        print_csv(result.names)
    elif form == "json":
        scores = {**result.scores, "n": int(result.scores["n"])}
        dates = {"as_of": result.as_of, "event_date": result.event_date, "shock": shock}
        print_json({**dates, **scores, "names": result.names.to_dicts()})
    else:
        show_backtest(console(), result.as_of, result.event_date, result.scores, result.names)
