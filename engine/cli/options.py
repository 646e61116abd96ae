"""Options that several commands share, and how results leave by stdout."""

import csv
import datetime as dt
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import click
import polars as pl

from engine.api.loading import LoadedUniverse, load_universe
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


@dataclass(frozen=True, slots=True)
class Books:
    """Which books a command is about, as its options say.

    Args:
        universe: Bundled name or folder.
        holdings: File instead of the universe's.
        portfolios: File instead of the universe's.
        only: Portfolio ids; all when empty.
        as_of: Date of the holdings; the latest when None.
    """

    universe: str
    holdings: str | None
    portfolios: str | None
    only: tuple[str, ...]
    as_of: dt.date | None

    def load(self) -> LoadedUniverse:
        """The universe with just these books."""
        loaded = load_universe(self.universe, holdings=self.holdings, portfolios=self.portfolios, as_of=self.as_of)
        return loaded.only(self.only)


def universe_option(function: Function) -> Function:
    """``--universe``."""
    return click.option(
        "--universe", default="ai_curve", show_default=True, help="Bundled universe, or a folder like it."
    )(function)


def book_options(function: Callable[..., int]) -> Callable[..., int]:
    """The options that say which books, as ``books``: universe, holdings, portfolios, books, a date."""
    return _with_books(
        function, click.option("--portfolio", "only", multiple=True, help="Just this book; may be repeated.")
    )


def one_book_options(function: Callable[..., int]) -> Callable[..., int]:
    """The same of a command about one book."""
    return _with_books(function, click.option("--portfolio", "only", required=True, help="The book."))


def _with_books(
    function: Callable[..., int], which: Callable[[Callable[..., int]], Callable[..., int]]
) -> Callable[..., int]:
    @wraps(function)
    def command(
        universe: str,
        holdings: str | None,
        portfolios: str | None,
        only: str | tuple[str, ...],
        as_of: dt.date | None,
        **others: Any,
    ) -> int:
        chosen = (only,) if isinstance(only, str) else only
        return function(books=Books(universe, holdings, portfolios, chosen, as_of), **others)

    options: list[Callable[[Callable[..., int]], Callable[..., int]]] = [
        universe_option,
        click.option("--holdings", type=click.Path(), help="Holdings instead of the universe's (Parquet or CSV)."),
        click.option("--portfolios", type=click.Path(), help="Portfolios instead of the universe's."),
        which,
        click.option("--as-of", type=MarketDate(), help="Date of the holdings; the latest when not given."),
    ]
    wrapped: Callable[..., int] = command
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


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
