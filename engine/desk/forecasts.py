"""A validation for a terminal: groups of books, the books farthest out, the days of widest spread."""

from collections.abc import Mapping

import polars as pl
from rich.console import Console
from rich.table import Table

from engine.desk.terminal import escape, percent

SHOWN_BOOKS = 8
SHOWN_DAYS = 10


def show_validation(
    screen: Console,
    headline: Mapping[str, float | int | None],
    groups: pl.DataFrame,
    inflation: pl.DataFrame,
    *,
    books: pl.DataFrame,
    days: pl.DataFrame,
) -> None:
    """The headline, one row a group, the books farthest from 1, and the widest days."""
    window = headline["window_days"]
    screen.print(
        f"[bold]{headline['days']} days, {days['date'][0]} to {days['date'][-1]}[/bold]: "
        f"each day's risk of {headline['books']} books, forecast the day before"
    )
    screen.print(
        f"bias inside its 95 % band over {window} days: {percent(headline['windows_inside'], 0)} % of books and "
        f"windows, {percent(headline['books_inside'], 0)} % of books in the last; MRAD {_number(headline['mrad'])}"
    )
    screen.print(
        f"R2 of the cross-section: mean {_number(headline['mean_r2'])}, gain over market beta "
        f"{_number(headline['mean_gain'])}; median of the {min(SHOWN_DAYS, days.height)} widest days "
        f"{_number(headline['widest_median_r2'])}"
    )
    screen.print(_group_table(groups))
    words = ", ".join(f"{escape(name)} {value:.2f}" for name, value in inflation.select("factor", "mean").iter_rows())
    screen.print(f"variance inflation of the factors, mean: {words}")
    screen.print(_book_table(books))
    screen.print(_day_table(days))


def _table(first: str, headings: tuple[str, ...], title: str | None = None) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    table.add_column(first, overflow="ellipsis", no_wrap=True, max_width=32)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _group_table(groups: pl.DataFrame) -> Table:
    table = _table("group", ("books", "inside %", "last %", "bias", "MRAD", "QLIKE", "VaR 99 %"))
    for row in groups.iter_rows(named=True):
        table.add_row(
            row["group"],
            str(row["books"]),
            percent(row["windows_inside"], 0),
            percent(row["inside"], 0),
            f"{row['bias']:.2f}",
            f"{row['mrad']:.3f}",
            f"{row['qlike']:.3f}",
            percent(row["exceptions_share"]),
        )
    return table


def _book_table(books: pl.DataFrame) -> Table:
    far = books.sort((pl.col("bias") - 1.0).abs(), "book_id", descending=[True, False]).head(SHOWN_BOOKS)
    table = _table("book", ("bias", "band", "MRAD", "QLIKE", "VaR 99", "days"), "books farthest from 1, last window")
    for row in far.iter_rows(named=True):
        table.add_row(
            escape(row["book_id"]),
            f"{row['bias']:.2f}",
            f"{row['band_low']:.2f} to {row['band_high']:.2f}",
            f"{row['mrad']:.3f}",
            f"{row['qlike']:.3f}",
            str(row["exceptions_99"]),
            str(row["n_days"]),
        )
    return table


def _day_table(days: pl.DataFrame) -> Table:
    widest = days.sort("spread", "date", descending=True).head(SHOWN_DAYS)
    table = _table("date", ("spread %", "R2", "market only", "gain", "names"), "days of widest tier spread")
    for row in widest.iter_rows(named=True):
        numbers = [_number(row[name]) for name in ("r2", "r2_market_only", "gain")]
        table.add_row(str(row["date"]), percent(row["spread"]), *numbers, str(row["n"]))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
