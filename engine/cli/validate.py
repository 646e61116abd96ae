"""``engine validate``."""

import datetime as dt
from pathlib import Path

import click

from engine.api.validating import DayRange, ValidatedModel, validate_model
from engine.cli.options import MarketDate, format_option, print_csv, print_json, quiet_option, universe_option, warn
from engine.desk.forecasts import show_validation
from engine.desk.terminal import console
from engine.errors import UsageError


@click.command()
@click.option("--prices", type=click.Path(), help="Price table (Parquet or CSV). Required.")
@click.option("--securities", type=click.Path(), help="Securities to use instead of the universe's.")
@click.option("--baskets", type=click.Path(), help="CSV (tier, security_id) to use instead of the universe's core.")
@universe_option
@click.option("--from", "first", type=MarketDate(), help="First day forecast; the last 504 days when not given.")
@click.option("--to", "last", type=MarketDate(), help="Last day forecast; the last price when not given.")
@click.option(
    "--every",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Fit the model on every N-th day only and use it unchanged until the next: faster, and staler.",
)
@click.option("--out", type=click.Path(), help="Also write the tables below this folder.")
@format_option("table", "json", "csv")
@quiet_option
def command(
    prices: str | None,
    securities: str | None,
    baskets: str | None,
    universe: str,
    first: dt.date | None,
    last: dt.date | None,
    every: int,
    out: str | None,
    form: str,
    quiet: bool,
) -> None:
    """Check the model's one-day-ahead risk on fixed books, day by day.

    The model of the days before forecasts each day's risk of the tiers, sectors, random and other
    fixed books. Prints the bias statistic with its band, MRAD, QLIKE, VaR exceptions and the
    R2 of the cross-section. With --format csv the days go to stdout.
    """
    if prices is None:
        raise UsageError("validate needs --prices FILE (columns security_id, date, close); no prices are bundled")
    days = DayRange(first, last, every)
    result = validate_model(prices, days, universe=universe, securities=securities, baskets=baskets)
    found = result.validation
    warn(found.notices, (), quiet=quiet)
    if out is not None:
        click.echo(f"written: {_write(Path(out), result, days)}", err=True)
    if form == "csv":
        print_csv(found.days)
    elif form == "json":
        span = {"first_date": found.days["date"][0], "last_date": found.days["date"][-1], "every": every}
        names = ("groups", "inflation", "books", "days")
        print_json({**span, **found.headline, **{name: getattr(found, name).to_dicts() for name in names}})
    else:
        show_validation(console(), found.headline, found.groups, found.inflation, books=found.books, days=found.days)


def _write(out: Path, result: ValidatedModel, days: DayRange) -> Path:
    from engine.intake import notices_frame
    from engine.store.runs import Run, write_adhoc  # pyarrow is only needed to write

    found, inputs = result.validation, result.inputs
    run = Run(
        as_of=found.days["date"][-1],
        command="validate",
        tables={
            "validation_days": found.days,
            "validation_books": found.books,
            "exceptions": notices_frame(found.notices),
        },
        # Prices may belong to someone else: they are named by their hash, not kept.
        inputs=[source for source in inputs.sources if source.name != inputs.prices.name],
        configuration={
            "universe": inputs.universe.settings.model_dump(mode="json"),
            "prices_sha256": inputs.prices.sha256,
            "from": None if days.first is None else days.first.isoformat(),
            "to": None if days.last is None else days.last.isoformat(),
            "every": days.every,
        },
        summary={
            **found.headline,
            "first_date": found.days["date"][0].isoformat(),
            "last_date": found.days["date"][-1].isoformat(),
        },
    )
    return write_adhoc(out, run)
