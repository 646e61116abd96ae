"""Back-tests for a terminal: one day with its misses, or many days with what they come to."""

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import polars as pl
from rich.console import Console
from rich.table import Table

from engine.desk.terminal import escape, percent

MEASURES: Final = {
    "gain_mean": "mean gain over market beta",
    "gain_median": "median gain over market beta",
    "r2_mean": "mean R2",
    "r2_median": "median R2",
    "rank_correlation_mean": "mean rank correlation",
    "sign_accuracy_mean": "mean sign accuracy",
    "band_coverage": "band coverage, all names",
    "band_coverage_lowest": "  lowest day",
    "band_coverage_highest": "  highest day",
    "book_error_share": "random books: error / P&L",
    "book_error_share_market_only": "  by market beta alone",
    "book_error_to_market_only": "  over that of market beta",
}


def show_backtest(
    screen: Console,
    days: tuple[dt.date, dt.date],
    shock: str,
    scores: Mapping[str, float],
    *,
    tiers: pl.DataFrame,
    names: pl.DataFrame,
) -> None:
    """The scores, the tiers that were not stated, and the names that the model missed most."""
    told = "given the market and the baskets" if shock == "baskets" else f"told {shock}"
    screen.print(f"[bold]{days[1]}[/bold], seen with the model of {days[0]}, {escape(told)}")
    table = Table("measure", box=None)
    table.add_column("value", justify="right")
    for name, value in scores.items():
        digits = 0 if name == "n" else 4 if name.startswith("book") else 3
        table.add_row(name, f"{value:.{digits}f}")
    screen.print(table)
    if not tiers["stated"].all():
        parts = Table("tier", box=None, title="total returns of the tiers", title_justify="left")
        for heading in ("predicted %", "realised %", ""):
            parts.add_column(heading, justify="right")
        for row in tiers.iter_rows(named=True):
            said = "stated" if row["stated"] else ""
            parts.add_row(row["tier"], percent(row["predicted"], 2), percent(row["realised"], 2), said)
        screen.print(parts)
    missed = names.filter("scored").with_columns((pl.col("realised") - pl.col("predicted")).alias("miss"))
    worst = Table("name", title="largest misses of the scoring set", title_justify="left")
    for heading in ("predicted %", "realised %", "band %"):
        worst.add_column(heading, justify="right")
    for row in missed.sort(pl.col("miss").abs(), descending=True).head(10).iter_rows(named=True):
        band = f"{percent(row['band_low'])} to {percent(row['band_high'])}"
        worst.add_row(row["security_id"], percent(row["predicted"]), percent(row["realised"]), band)
    screen.print(worst)


def show_days(screen: Console, shock: str, days: pl.DataFrame, summary: Mapping[str, Any]) -> None:
    """One row a day, then what the days, the widest of them and the controls come to."""
    widest = set(summary["widest"].get("dates", ()))
    screen.print(f"[bold]back-test[/bold] told {escape(shock)}, each day with the model of the day before")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("day", no_wrap=True)
    for heading in ("", "n", "R2", "beta", "gain", "rank", "sign %", "band %", "spread %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in days.iter_rows(named=True):
        mark = "control" if row["kind"] == "control" else "widest" if row["event_date"] in widest else ""
        table.add_row(
            row["event_date"].isoformat(),
            mark,
            str(row["n"]),
            *(f"{row[name]:.3f}" for name in ("r2", "r2_market_only", "gain", "rank_correlation")),
            percent(row["sign_accuracy"], 0),
            percent(row["band_coverage"], 0),
            percent(row["tier_spread"], 2),
        )
    screen.print(table)
    screen.print()
    groups = {"all days": "events", "widest spread": "widest", "controls": "controls"}
    shown = {title: summary[key] for title, key in groups.items() if summary[key]["days"]}
    sums = Table("measure", box=None, pad_edge=False)
    for title in shown:
        sums.add_column(title, justify="right")
    sums.add_row("days", *(str(group["days"]) for group in shown.values()))
    for name, words in MEASURES.items():
        sums.add_row(words, *("" if g[name] is None else f"{g[name]:.3f}" for g in shown.values()))
    screen.print(sums)
    if summary["tiers"]:
        _show_tiers(screen, summary["tiers"])


def _show_tiers(screen: Console, tiers: Mapping[str, Mapping[str, Any]]) -> None:
    table = Table("tier not stated", box=None, pad_edge=False)
    for heading in ("mean |error| %", "mean |return| %", "explained"):
        table.add_column(heading, justify="right")
    for tier, row in tiers.items():
        sizes = (percent(row["mean_absolute_error"], 2), percent(row["mean_absolute_return"], 2))
        table.add_row(tier, *sizes, f"{row['explained']:.3f}")
    screen.print(table)


def show_hindsight(
    screen: Console, tables: Mapping[str, pl.DataFrame], controls: Mapping[str, Mapping[str, float]]
) -> None:
    """One row a shock and day it describes, the median of its control days below, then the tiers not stated."""
    screen.print("[bold]hindsight[/bold] each day with the model of the day before")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("told", overflow="fold")
    table.add_column("day", no_wrap=True)
    for heading in ("days", "R2", "gain", "rank", "sign %", "band %"):
        table.add_column(heading, justify="right", no_wrap=True)
    events = tables["hindsight"].filter(pl.col("kind") == "event")
    for shock, days in events.group_by("shock", maintain_order=True):
        for row in days.iter_rows(named=True):
            name, day = escape(row["shock"]), row["event_date"].isoformat()
            table.add_row(name, day, str(row["horizon_days"]), *_measures(row))
        if median := controls.get(str(shock[0])):
            table.add_row("", "controls", "", *_measures(median), style="dim")
    screen.print(table)
    left = tables["hindsight_tiers"].filter((pl.col("kind") == "event") & ~pl.col("stated"))
    if left.height:
        parts = Table("told", "day", "tier not stated", box=None, pad_edge=False)
        for heading in ("predicted %", "realised %"):
            parts.add_column(heading, justify="right")
        for row in left.iter_rows(named=True):
            sizes = (percent(row["predicted"], 2), percent(row["realised"], 2))
            parts.add_row(escape(row["shock"]), row["event_date"].isoformat(), row["tier"], *sizes)
        screen.print(parts)


def _measures(row: Mapping[str, Any]) -> tuple[str, ...]:
    shares = (percent(row[name], 0) for name in ("sign_accuracy", "band_coverage"))
    return (*(f"{row[name]:.2f}" for name in ("r2", "gain", "rank_correlation")), *shares)
