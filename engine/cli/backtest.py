"""``engine backtest``."""

import datetime as dt
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from engine.api.backtesting import Days, ManyDays, Terms, backtest, backtest_days
from engine.cli.options import MarketDate, format_option, print_csv, print_json, quiet_option, universe_option, warn
from engine.desk.scores import show_backtest, show_days
from engine.desk.terminal import console
from engine.errors import EXIT_OK, EXIT_PARTIAL, UsageError
from engine.intake import notices_frame
from engine.stress.backtest import Backtest
from engine.stress.backtest_days import BacktestDays


class Dates(click.ParamType[tuple[dt.date, ...]]):
    """Dates written 2025-01-24,2025-01-27."""

    name = "YYYY-MM-DD,.."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[dt.date, ...]:
        """Each part as a date."""
        return tuple(MarketDate().convert(part.strip(), param, ctx) for part in value.split(","))


@click.command()
@click.option("--event-date", type=MarketDate(), help="The day to score.")
@click.option("--dates", type=Dates(), help="Several days, in order.")
@click.option("--from", "since", type=MarketDate(), help="First day of a range of trading days.")
@click.option("--to", "until", type=MarketDate(), help="Last day of the range.")
@click.option(
    "--shock",
    default="baskets",
    show_default=True,
    help="What the model is told: baskets, observed:market,TIER,.., views:FILE or scenario:ID.",
)
@click.option("--controls", type=click.IntRange(0), default=0, help="Ordinary days drawn from before each event.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of controls and random books.")
@click.option("--prices", type=click.Path(), help="Price table (Parquet or CSV). Required.")
@click.option("--securities", type=click.Path(), help="Securities to use instead of the universe's.")
@click.option("--baskets", type=click.Path(), help="CSV (tier, security_id) to use instead of the universe's core.")
@universe_option
@click.option("--out", type=click.Path(), help="Also write the tables below this folder.")
@format_option("table", "json", "csv")
@quiet_option
def command(
    event_date: dt.date | None,
    dates: tuple[dt.date, ...] | None,
    since: dt.date | None,
    until: dt.date | None,
    shock: str,
    controls: int,
    seed: int,
    prices: str | None,
    securities: str | None,
    baskets: str | None,
    universe: str,
    out: str | None,
    form: str,
    quiet: bool,
) -> int:
    """Score the model of the day before an event on the event.

    Calibrates on the days before, applies what it is told of the day (the market's and each
    basket's return), and compares every name's predicted with its realised return.
    """
    if prices is None or not (event_date or dates or since or until):
        raise UsageError("backtest needs --event-date YYYY-MM-DD and --prices FILE; no prices are bundled")
    if event_date and dates:
        raise UsageError("give the days once: --event-date, --dates or --from with --to")
    chosen = Days((event_date,) if event_date else dates or (), since, until, controls)
    terms = Terms(shock, seed=seed)
    given = Given(universe, securities, baskets)
    one = backtest(prices, event_date, **asdict(given), terms=terms) if event_date and not controls else None
    many = backtest_days(prices, chosen, **asdict(given), terms=terms) if one is None or out is not None else None
    warn(one.notices if one else many.result.notices if many else (), (), quiet=quiet)
    if many is not None and out is not None:
        click.echo(f"written: {_write(Path(out), many, chosen, terms, given)}", err=True)
    if one is not None:
        _print_day(one, shock, form)
        return EXIT_OK
    return _print_days(many.result, shock, form) if many is not None else EXIT_OK


@dataclass(frozen=True, slots=True)
class Given:
    """Which universe, and the files that stand in for its own."""

    universe: str
    securities: str | None
    baskets: str | None


def _print_day(result: Backtest, shock: str, form: str) -> None:
    if form == "csv":
        print_csv(result.names)
    elif form == "json":
        scores = {**result.scores, "n": int(result.scores["n"])}
        dates = {"as_of": result.as_of, "event_date": result.event_date, "shock": shock}
        tiers = {} if shock == "baskets" else {"tiers": result.tiers.to_dicts()}
        print_json({**dates, **scores, **tiers, "names": result.names.to_dicts()})
    else:
        days = (result.as_of, result.event_date)
        figures = {name: value for name, value in result.figures.items() if name != "tier_spread"}
        scores = {**result.scores, **figures}
        show_backtest(console(), days, shock, scores, tiers=result.tiers, names=result.names)


def _print_days(result: BacktestDays, shock: str, form: str) -> int:
    if form == "csv":
        print_csv(result.days)
    elif form == "json":
        days = result.days.rename({"model_as_of": "as_of"}).to_dicts()
        for day, tiers in zip(days, result.tiers.partition_by("event_date", include_key=False), strict=True):
            day["tiers"] = tiers.drop("kind").to_dicts()
        print_json({"shock": shock, "days": days, "summary": result.summary})
    else:
        show_days(console(), shock, result.days, result.summary)
    return EXIT_PARTIAL if any(notice.code == "backtest.day" for notice in result.notices) else EXIT_OK


def _write(out: Path, many: ManyDays, days: Days, terms: Terms, given: Given) -> Path:
    from engine.store.runs import Run, write_adhoc  # pyarrow is only needed to write

    result = many.result
    run = Run(
        as_of=result.days["event_date"][-1],
        command="backtest",
        tables={
            "backtest_days": result.days,
            "backtest_names": result.names,
            "exceptions": notices_frame(result.notices),
        },
        inputs=many.sources,
        configuration={**asdict(given), **asdict(terms), **json.loads(json.dumps(asdict(days), default=str))},
        summary={"days": result.days.height},
    )
    return write_adhoc(out, run)
