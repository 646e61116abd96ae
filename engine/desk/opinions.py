"""Which trades only some models ask for, for a terminal."""

from collections.abc import Mapping
from typing import Any, Final

import polars as pl
from rich.console import Console
from rich.table import Table

from engine.desk.terminal import escape, percent

SHOWN: Final = 8
"""Names that are told of the trades that equally many models ask for, the largest first."""


def show_opinions(screen: Console, tables: Mapping[str, pl.DataFrame]) -> None:
    """For every book that trades, what all models agree on; then the trades that only some ask for.

    Prints nothing where no second model was asked.

    Args:
        screen: Where to print.
        tables: ``trades`` and ``portfolio_summary`` of a rebalance.
    """
    trades = tables["trades"].drop_nulls("models_asked")
    if not trades.height:
        return
    summary = tables["portfolio_summary"].filter(pl.col("stage") == "after")
    books = {row["portfolio_id"]: row for row in summary.iter_rows(named=True)}
    parts = trades.partition_by("portfolio_id", as_dict=True, maintain_order=True)
    screen.print("[bold]second models[/bold]  how much of what is traded every model asks for")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("book", overflow="ellipsis", no_wrap=True, max_width=24)
    for heading in ("models", "trades", "all ask for", "agreed turnover %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for (book,), part in parts.items():
        asked = part["models_asked"][0]
        shared = part.filter(pl.col("models_agreeing") == pl.col("models_asked")).height if asked > 1 else None
        agreed, turnover = books[str(book)]["agreed_turnover"], books[str(book)]["turnover"]
        share = None if agreed is None or not turnover else agreed / turnover
        cells = (str(asked), str(part.height), "" if shared is None else str(shared), percent(share, 0))
        table.add_row(escape(books[str(book)]["name"]), *cells)
    screen.print(table)
    for (book,), part in parts.items():
        _show_split(screen, books[str(book)]["name"], part)


def _show_split(screen: Console, name: str, trades: pl.DataFrame) -> None:
    """A line for the trades of one book that equally many models ask for."""
    split = trades.filter(pl.col("models_agreeing") < pl.col("models_asked"))
    if not split.height:
        return
    screen.print(f"[bold]{escape(name)}[/bold]: asked for by some models only")
    largest = split.sort(
        "models_agreeing", pl.col("trade_weight").abs(), "security_id", descending=[False, True, False]
    )
    for part in largest.partition_by("models_agreeing", maintain_order=True):
        shown = [f"{row['security_id']} {row['side']}" for row in part.head(SHOWN).iter_rows(named=True)]
        more = f" and {part.height - SHOWN} more" if part.height > SHOWN else ""
        which = "this trade" if part.height == 1 else f"these {part.height} trades"
        screen.print(f"  {_count(part.row(0, named=True))} for {which}: {escape(', '.join(shown))}{more}")


def say_opinion(trade: Mapping[str, Any]) -> str | None:
    """How many models ask for a trade, in words; None where no second one was heard.

    ``models_asked`` 3 and ``models_agreeing`` 2 read "2 of 3 models ask for this trade".
    """
    if trade["models_asked"] is None or trade["models_asked"] < 2:
        return None
    if trade["models_agreeing"] == trade["models_asked"]:
        return f"all {trade['models_asked']} models ask for this trade"
    return f"{_count(trade)} for this trade"


def _count(trade: Mapping[str, Any]) -> str:
    agreeing, asked = trade["models_agreeing"], trade["models_asked"]
    return f"{agreeing} of {asked} models {'asks' if agreeing == 1 else 'ask'}"
