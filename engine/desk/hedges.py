"""Hedges for a terminal: what each book would trade, what that leaves, and how it tilts."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.conventions import MARKET
from engine.desk.terminal import FULL, escape, money, percent

SHOWN_TRADES: Final = 8


def show_hedges(
    screen: Console, tables: Mapping[str, pl.DataFrame], tiers: Sequence[str], parents: frozenset[str]
) -> None:
    """P&L before and after, cost and what stays open of every hedged book; its trades; its tilt.

    Args:
        screen: Where to print.
        tables: ``hedges``, ``hedge_trades``, ``hedge_exposures``.
        tiers: In order.
        parents: Books that others add up to; they stand below the rest.
    """
    frame = tables["hedges"].with_columns(pl.col("portfolio_id").is_in(sorted(parents)).alias("parent"))
    excess = pl.col("loss_before") - pl.col("budget")
    rows = frame.sort("parent", excess, "portfolio_id", descending=[False, True, False]).to_dicts()
    first = rows[0]
    screen.print(
        f"[bold]{first['objective']} hedge[/bold] under {escape(first['scenario_id'])}: P&L % and what it costs"
    )
    outside = [row for row in rows if row["status"] != "inside"]
    hedged = [row for row in outside if row["status"] == "hedged"]
    full = screen.width >= FULL
    if outside:
        screen.print(_loss_table(outside, full=full))
    if hedged:
        screen.print(_trade_table(hedged, tables["hedge_trades"]))
        screen.print(_tilt_table(hedged, tables["hedge_exposures"], tiers, full=full))
        _explain(screen, hedged, full=full)
    if inside := [row for row in rows if row["status"] == "inside"]:
        names = ", ".join(escape(row["name"]) for row in inside)
        screen.print(f"inside: {names}")
    verdict = f"{len(hedged)} of {len(outside)} books outside their budget can be brought inside"
    calm = len(hedged) == len(outside)
    screen.print(
        Text(verdict if outside else "every book is inside its budget", style="bold green" if calm else "bold red")
    )


def _loss_table(rows: list[dict[str, Any]], *, full: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("book", overflow="ellipsis", no_wrap=True, max_width=20 if full else 18)
    more = ["open", "gross %", "volatility %", "NAV"] if full else []
    for heading in ["before", "after", "budget", "trades", "cost", "bps", "basis", "rebound", *more]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        done = row["status"] == "hedged"
        figures = [
            str(row["trades"]),
            money(row["cost_base"]),
            f"{1e4 * row['cost_frac']:.2f}{'' if row['proven'] else '*'}",
            percent(row["basis_risk"], 2),
            percent(row["rebound_pnl"], 2),
        ]
        wide = [
            f"{percent(row['open_risk_before'], 2)} to {percent(row['open_risk_after'], 2)}",
            percent(row["gross"]),
            f"{percent(row['volatility_before'])} to {percent(row['volatility_after'])}",
        ]
        if not done:
            figures, wide = ["at best", *[""] * 4], [""] * 3
        table.add_row(
            escape(row["name"]),
            percent(-row["loss_before"], 2),
            percent(-row["loss_after"], 2) if done else Text(percent(-row["reachable_loss"], 2), style="bold red"),
            f"{100.0 * row['budget']:.4g}{' act' if row['budget_kind'] == 'active' else ''}",
            *figures,
            *([*wide, money(row["nav_base"])] if full else []),
        )
    return table


def _trade_table(rows: list[dict[str, Any]], trades: pl.DataFrame) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title="trades", title_justify="left")
    table.add_column("book", overflow="ellipsis", no_wrap=True, max_width=18)
    for heading in ("", "name", "weight %", "value", "day %", "move %", "P&L %", "cost"):
        table.add_column(heading, justify="left" if heading in ("", "name") else "right", no_wrap=True)
    for row in rows:
        lines = trades.filter(pl.col("portfolio_id") == row["portfolio_id"])
        ordered = lines.sort("pnl_frac", "security_id", descending=[True, False])
        for at, line in enumerate(ordered.head(SHOWN_TRADES).iter_rows(named=True)):
            table.add_row(
                "" if at else escape(row["name"]),
                line["side"],
                escape(line["security_id"]),
                f"{percent(line['weight'], 2)}{'|' if line['at_cap'] else ' '}",
                money(line["notional_base"]),
                percent(line["adv_share"], 2),
                percent(line["shock"]),
                percent(line["pnl_frac"], 2),
                money(line["cost_base"]),
            )
        if lines.height > SHOWN_TRADES:
            table.add_row(f"and {lines.height - SHOWN_TRADES} more")
    return table


def _tilt_table(rows: list[dict[str, Any]], exposures: pl.DataFrame, tiers: Sequence[str], *, full: bool) -> Table:
    what = "exposure before, and of the overlay" if full else "exposure of the overlay"
    table = Table(box=None, pad_edge=False, header_style="bold", title=what, title_justify="left")
    table.add_column("book", overflow="ellipsis", no_wrap=True, max_width=20 if full else 18)
    found = {
        (row[0], row[1]): row[2:] for row in exposures.select("portfolio_id", "factor", "before", "overlay").rows()
    }
    for name in (MARKET, *tiers):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        pairs = [found[row["portfolio_id"], name] for name in (MARKET, *tiers)]
        table.add_row(
            escape(row["name"]),
            *[f"{f'{_two(before)} ' if full else ''}{_two(overlay):>5}" for before, overlay in pairs],
        )
    return table


def _explain(screen: Console, rows: list[dict[str, Any]], *, full: bool) -> None:
    screen.print("before, after: as each budget measures a loss, its margin included; after is the mean")
    screen.print("if the story holds; basis: how far the overlay's gain scatters")
    if full:
        screen.print("open: how far the book scatters around that mean, without and with the overlay, % of NAV")
    if rows[0]["rebound_id"] is not None:
        screen.print(f"rebound: what the overlay earns if {escape(rows[0]['rebound_id'])} follows, % of NAV")
    if any(not row["proven"] for row in rows):
        screen.print("*: no proof that none is better")


def _two(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"
