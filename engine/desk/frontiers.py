"""Frontiers for a terminal: what each loss costs, from no budget to the least."""

from collections.abc import Mapping
from typing import Any, Final

import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.desk.terminal import ROOMY, escape, money, percent

BAR: Final = {False: 16, True: 40}
"""Columns of the longest bar, on a narrow and on a roomy screen."""

MEASURES: Final = {"tracking_error": ("tracking_error", "active risk"), "cost": ("cost_frac", "cost of trading")}

KINDS: Final = {"free": "no budget", "mandate": "mandate", "least": "least", "step": ""}


def show_frontiers(screen: Console, frontier: pl.DataFrame, names: Mapping[str, str | None], *, against: str) -> None:
    """Each book's certified points from the widest budget to the least loss, a bar beside each.

    Args:
        screen: Where to print.
        frontier: Table ``frontier``.
        names: Of the books, by id.
        against: ``tracking_error`` or ``cost``: what the bars show.
    """
    certified = frontier.filter(pl.col("status") == "certified")
    if not certified.height:
        screen.print(Text("no point is certified", style="bold red"))
        return
    column, words = MEASURES[against]
    screen.print(
        f"[bold]frontier[/bold]  loss under {escape(certified['scenario_id'][0])} in % of NAV against {words}; "
        "every line a certified rebalance"
    )
    for (book,), rows in certified.partition_by("portfolio_id", as_dict=True, maintain_order=True).items():
        screen.print(f"[bold]{escape(names.get(book) or book)}[/bold]")
        screen.print(_table(rows, column, roomy=screen.width >= ROOMY))
        screen.print(_verdict(rows))
    screen.print("saves: what one more point of budget would save at most, bp a year of active risk and cost")


def _table(rows: pl.DataFrame, column: str, *, roomy: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "loss", "TE %", "cost", "turn", "total bp", "saves"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    table.add_column(MEASURES["cost" if column == "cost_frac" else "tracking_error"][1], no_wrap=True)
    longest = max(rows[column].max(), 1e-12)  # type: ignore[type-var]
    for row in rows.iter_rows(named=True):
        bar = "#" * round(BAR[roomy] * row[column] / longest)
        table.add_row(KINDS[row["kind"]], *_figures(row), bar, style="bold" if row["kind"] == "mandate" else "")
    return table


def _figures(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        percent(row["loss"], 2),
        percent(row["tracking_error"], 2),
        money(row["cost_base"]),
        percent(row["turnover"]),
        f"{1e4 * row['objective']:.1f}",
        f"{100.0 * row['shadow_price']:.1f}",
    )


def _verdict(rows: pl.DataFrame) -> str:
    floor, last = rows["floor"][0], rows.row(-1, named=True)
    if rows.height == 1:
        return "the loss cannot be made smaller within the other limits"
    if floor is None or last["kind"] != "least":
        return f"{percent(last['loss'], 2)} % is the least loss that was certified"
    return f"no portfolio within the other limits loses less than {percent(floor, 2)} %: proven"
