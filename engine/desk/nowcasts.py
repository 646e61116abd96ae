"""A nowcast for a terminal of 80 columns: the tape, the factors, the books, and the scores."""

from collections.abc import Mapping
from typing import Any, Final

import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.desk.terminal import ROOMY, escape, money, percent

SHOWN: Final = 3
"""Scenarios that a terminal names; json has all."""


def show_nowcast(
    screen: Console,
    head: Mapping[str, Any],
    factors: Mapping[str, float],
    tables: Mapping[str, pl.DataFrame],
    portfolios: pl.DataFrame,
) -> None:
    """What the tape says so far, book by book, and where a close is at hand how right it was."""
    count = len(head["prints"])
    screen.print(
        f"[bold]nowcast[/bold] at {head['at']:%H:%M}, {percent(head['elapsed'], 0)} % of the session, "
        f"{count} print{'s' if count != 1 else ''}, model of {head['model']}"
    )
    moves = ", ".join(f"{escape(name)} {percent(move)}" for name, move in factors.items())
    screen.print(f"factors so far %, tiers beyond the market: {moves}")
    screen.print(_likeness(tables["nowcast_scenarios"]))
    screen.print(_book_table(screen, tables["nowcast"], portfolios))
    breaches, budgeted = tables["nowcast"].filter("breach").height, tables["nowcast"]["budget"].is_not_null().sum()
    words = f"{breaches} of {budgeted} books have lost more than their tightest stress budget"
    screen.print(Text(words, style="bold red" if breaches else "bold green"))
    if "nowcast_scores" in tables:
        screen.print()
        _show_scores(screen, tables, portfolios)


def _likeness(scenarios: pl.DataFrame) -> str:
    ranked = scenarios.sort("similarity", "scenario_id", descending=[True, False]).head(SHOWN)
    alike = ranked.filter(pl.col("similarity") > 0.0)
    if not alike.height:
        return "the move is like no scenario of the library"
    words = [
        f"{row['scale']:.1f} x {escape(row['scenario_id'])} ({row['similarity']:.2f})"
        for row in alike.iter_rows(named=True)
    ]
    return f"most like (cosine): {', '.join(words)}"


def _book_table(screen: Console, books: pl.DataFrame, portfolios: pl.DataFrame) -> Table:
    """Books from the largest loss to the smallest, then parents."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("book", overflow="ellipsis", no_wrap=True, max_width=22)
    roomy = screen.width >= ROOMY
    for heading in ("NAV", "P&L %", "P&L", "band %", *(["at the close %"] if roomy else []), "budget", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    parents = portfolios["parent_id"].drop_nulls().to_list() if "parent_id" in portfolios.columns else []
    frame = books.join(portfolios.select("portfolio_id", "name"), on="portfolio_id", how="left")
    frame = frame.with_columns(pl.col("portfolio_id").is_in(parents).alias("parent"))
    last = False
    for row in frame.sort("parent", "pnl_frac", "portfolio_id").iter_rows(named=True):
        if row["parent"] and not last:
            table.add_row()
        last = row["parent"]
        close = [_band(row["close_low"], row["close_high"])] if roomy else []
        breach = Text("BREACH", style="bold red") if row["breach"] else Text("ok" if row["budget"] else "")
        table.add_row(
            escape(row["name"]),
            money(row["nav_base"]),
            percent(row["pnl_frac"]),
            money(row["pnl_base"]),
            _band(row["band_low"], row["band_high"]),
            *close,
            "" if row["budget"] is None else f"{100.0 * row['budget']:.4g}",
            breach,
        )
    return table


def _show_scores(screen: Console, tables: Mapping[str, pl.DataFrame], portfolios: pl.DataFrame) -> None:
    score = tables["nowcast_scores"].row(0, named=True)
    screen.print(
        f"[bold]at the close[/bold], {score['n']} names outside the tape: R2 {score['r2']:.3f}, rank "
        f"{score['rank_correlation']:.3f}, signs right {percent(score['sign_accuracy'], 0)} %, "
        f"inside the band {percent(score['band_coverage'], 0)} %"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("book", overflow="ellipsis", no_wrap=True, max_width=22)
    for heading in ("estimated %", "realised %", "error %", "in band", "known %"):
        table.add_column(heading, justify="right", no_wrap=True)
    frame = tables["nowcast_book_scores"].join(portfolios.select("portfolio_id", "name"), on="portfolio_id", how="left")
    for row in frame.sort("realised", "portfolio_id").iter_rows(named=True):
        table.add_row(
            escape(row["name"]),
            *(percent(row[name], 2) for name in ("estimated", "realised", "error")),
            "yes" if row["inside_band"] else "no",
            percent(row["known_share"], 0),
        )
    screen.print(table)


def _band(low: float, high: float) -> str:
    return f"{percent(low)} to {percent(high)}"
