"""Why a rebalance is as it is, for a terminal: what binds and what that costs, what a whipsaw would cost."""

from collections.abc import Mapping
from typing import Any, Final

import polars as pl
from rich.console import Console
from rich.table import Table

from engine.conventions import BINDS
from engine.desk.terminal import escape, money, percent

PER_POINT: Final = 100.0
"""A shadow price is objective per unit of the bound; of a point of it, in basis points, 0.01 / 0.0001."""


END: Final = {"max": "cap on", "min": "floor of"}
"""Words of the two sides of a band."""

ON_NAMES: Final = {
    "participation": "the share of a day's volume in",
    "allotment": "the book's part of the firm's volume in",
    "excluded": "the exclusion of",
    "no_buy": "the ban on buying",
    "no_sell": "the ban on selling",
    "frozen": "the freeze of",
}
"""Words of the limits that set a bound on one name."""


def show_limits(screen: Console, tables: Mapping[str, pl.DataFrame]) -> None:
    """A sentence for every limit that binds, and the room in the others.

    What a point would save is at most what is said: the saving is concave in the width.
    """
    names = dict(tables["portfolio_summary"].select("portfolio_id", "name").iter_rows())
    priced = tables["limits"].filter(pl.col("shadow_price").is_not_null())
    if not priced.height:
        return
    screen.print("[bold]limits[/bold]  what binds, and what a point of it would save of active risk and cost a year")
    for (book,), limits in priced.partition_by("portfolio_id", as_dict=True, maintain_order=True).items():
        screen.print(f"[bold]{escape(names[book])}[/bold]")
        binding = limits.filter(pl.col("slack") <= BINDS).sort("shadow_price", descending=True).iter_rows(named=True)
        # A name that may not trade binds on both sides, and both read alike.
        for sentence in dict.fromkeys(map(_sentence, binding)):
            screen.print(f"  {sentence}")
        free = limits.filter(pl.col("slack") > BINDS).sort("slack").iter_rows(named=True)
        room = [f"{words_of(row['limit_id'])} {percent(row['slack'])}" for row in free]
        screen.print(f"  room in points: {escape(', '.join(room))}" if room else "  no room anywhere else")


def _sentence(row: Mapping[str, Any]) -> str:
    """What one binding limit costs."""
    saved = PER_POINT * row["shadow_price"]
    words = f"{words_of(row['limit_id'])} binds at {100.0 * row['bound']:.4g} %"
    if saved < 0.05:
        return f"{escape(words)}; it costs next to nothing"
    return f"{escape(words)}; one more point would save at most {saved:.1f} bp"


def show_left_out(screen: Console, tables: Mapping[str, pl.DataFrame], priced: pl.DataFrame) -> None:
    """What each book would save a year of active risk and cost if one limit were not there."""
    names = dict(tables["portfolio_summary"].select("portfolio_id", "name").iter_rows())
    screen.print(f"[bold]without {escape(words_of(priced['limit_id'][0]))}[/bold]  bp a year of active risk and cost")
    table = Table("book", box=None, pad_edge=False, header_style="bold")
    for heading in ("with it", "without", "saved"):
        table.add_column(heading, justify="right")
    for row in priced.iter_rows(named=True):
        figures = (row["objective"], row["objective_without"], row["saved"])
        cells = ["" if value is None else f"{round(1e4 * value, 2) + 0.0:.2f}" for value in figures]
        table.add_row(escape(names[row["portfolio_id"]]), *cells)
    screen.print(table)


def words_of(limit: str) -> str:
    """A limit's id as the desk says it: ``tier:software:max`` reads the cap on software."""
    match limit.split(":"):
        case ["stress", scenario, *active]:
            words = f"the {'active ' if active else ''}{scenario} budget"
        case ["shortfall", scenario, *active]:
            words = f"the {'active ' if active else ''}expected shortfall over {scenario}"
        case ["concentration", "1"]:
            words = "the cap on the largest issuer"
        case ["concentration", count]:
            words = f"the cap on the largest {count} issuers"
        case ["cash" | "net" as what, side]:
            words = f"the {what} {side}imum"
        case ["tier" | "weight", *name, side]:
            words = f"the {END.get(side, side)} {':'.join(name)}"
        case ["sector" | "factor" as what, *name, side]:
            words = f"the {END.get(side, side)} {what} {':'.join(name)}"
        case ["active_weight" | "active_tier" | "active_sector" | "active_factor", *name, side]:
            words = f"the {END.get(side, side)} active {':'.join(name)}"
        case [kind, *name, "min" | "max"] if kind in ON_NAMES:
            words = f"{ON_NAMES[kind]} {':'.join(name)}"
        case ["turnover" | "tracking_error" | "gross" as what]:
            words = f"the cap on {what.replace('_', ' ')}"
        case _:
            words = limit
    return words


def show_whipsaws(screen: Console, tables: Mapping[str, pl.DataFrame]) -> None:
    """For every book that trades: loss avoided, regret, and from which probability on the trades pay."""
    names = dict(tables["portfolio_summary"].select("portfolio_id", "name").iter_rows())
    traded = tables["whipsaws"].filter(pl.col("portfolio_id").is_in(tables["trades"]["portfolio_id"].unique()))
    if not traded.height:
        return
    whipsaw = escape(traded["whipsaw_id"][0])
    screen.print(f"[bold]whipsaw[/bold]  loss avoided if the scenario goes on, regret if {whipsaw} follows")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("book", "scenario", "avoids", "%", "regret", "%", "pays from %", "cost"):
        left = heading in ("book", "scenario")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True, overflow="ellipsis")
    for row in traded.iter_rows(named=True):
        table.add_row(
            escape(names[row["portfolio_id"]]),
            escape(row["scenario_id"]),
            money(row["loss_avoided"]),
            percent(row["loss_avoided_frac"], 2),
            money(row["regret"]),
            percent(row["regret_frac"], 2),
            percent(row["break_even"], 0),
            money(row["cost_base"]),
        )
    screen.print(table)
