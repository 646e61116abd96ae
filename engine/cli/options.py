"""Options that several commands share, and how results leave by stdout."""

import csv
import datetime as dt
import io
import json
from collections.abc import Callable
from typing import Any, TypeVar

import click
import polars as pl

from engine.intake import Notice

Function = TypeVar("Function", bound=Callable[..., Any])


class MarketDate(click.ParamType[dt.date]):
    """A date written 2025-01-24."""

    name = "YYYY-MM-DD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dt.date:
        """Parse, or refuse with the form that is read."""
        if isinstance(value, dt.date):
            return value
        try:
            return dt.date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a date; write 2025-01-24", param, ctx)


def universe_option(function: Function) -> Function:
    """``--universe``."""
    return click.option(
        "--universe", default="ai_curve", show_default=True, help="Bundled universe, or a folder like it."
    )(function)


def book_options(function: Function) -> Function:
    """The options that say which books: universe, holdings, portfolios, one book, a date."""
    for option in reversed(
        [
            universe_option,
            click.option("--holdings", type=click.Path(), help="Holdings instead of the universe's (Parquet or CSV)."),
            click.option("--portfolios", type=click.Path(), help="Portfolios instead of the universe's."),
            click.option("--portfolio", "only", multiple=True, help="Just this book; may be repeated."),
            click.option("--as-of", type=MarketDate(), help="Date of the holdings; the latest when not given."),
        ]
    ):
        function = option(function)
    return function


def format_option(*allowed: str) -> Callable[[Function], Function]:
    """``--format``."""
    return click.option("--format", "form", type=click.Choice(allowed), default=allowed[0], show_default=True)


def quiet_option(function: Function) -> Function:
    """``--quiet``."""
    return click.option("--quiet", is_flag=True, help="No warnings on stderr.")(function)


def print_json(document: Any) -> None:
    """One JSON document on stdout; dates as ISO text, NaN an error."""
    click.echo(json.dumps(document, allow_nan=False, default=_iso, indent=2))


def print_csv(frame: pl.DataFrame) -> None:
    """One CSV table on stdout."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(frame.columns)
    writer.writerows(frame.iter_rows())
    click.echo(text.getvalue(), nl=False)


def warn(notices: tuple[Notice, ...], refused: tuple[str, ...], *, quiet: bool) -> None:
    """Warnings, quarantines and refused scenarios on stderr; refusals also when quiet."""
    for fault in refused:
        click.echo(f"refused: {fault}", err=True)
    for notice in notices:
        if notice.severity != "warn" or not quiet:
            book = f"{notice.portfolio_id}: " if notice.portfolio_id else ""
            click.echo(f"{notice.severity}: {book}{notice.message} [{notice.code}]", err=True)


def _iso(value: object) -> str:
    if isinstance(value, dt.date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
