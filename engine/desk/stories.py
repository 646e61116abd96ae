"""Scenarios for a terminal: the library, one story, a comparison, a what-if."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from engine.desk.terminal import escape, percent


def show_library(screen: Console, stories: pl.DataFrame) -> None:
    """One line a scenario; the faults of those that were refused below."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("scenario", "kind", "days", "approved", "title"):
        table.add_column(heading, justify="right" if heading == "days" else "left", overflow="fold")
    refused = []
    for row in stories.iter_rows(named=True):
        if row["faults"] is not None:
            refused.append(row)
            continue
        until = f" to {row['valid_until']}" if row["valid_until"] is not None else ""
        approved = "no" if row["approved_by"] is None else f"{row['approved_by']}{until}"
        cells = (row["scenario_id"], row["kind"], str(row["horizon_days"]), approved, row["title"])
        table.add_row(*map(escape, cells))
    screen.print(table)
    for row in refused:
        screen.print(Text(f"refused: {row['scenario_id']}", style="bold red"))
        for fault in row["faults"].split("\n"):
            screen.print(f"  {escape(fault)}")


def show_story(
    screen: Console,
    head: Mapping[str, Any],
    numbers: Sequence[tuple[str, float, float | None, float | None, str]],
    response: pl.DataFrame,
) -> None:
    """What a scenario says, number by number, what it does to the curve, and how plausible it is.

    Args:
        screen: Where to print.
        head: ``scenario_id title kind version horizon_days narrative sources parts``, and the
            figures of ``scenario_summary``.
        numbers: What, value, low, high, source.
        response: ``subject stated total``.
    """
    days = f"{head['horizon_days']} trading day{'s' if head['horizon_days'] > 1 else ''}"
    screen.print(f"[bold]{escape(head['scenario_id'])}[/bold]  {escape(head['title'])}")
    screen.print(f"kind {head['kind']}, version {head['version']}, {days}; {escape(head['approval'])}")
    screen.print(Padding(escape(" ".join(head["narrative"].split())), (1, 0)))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("number", "value", "range", "source"):
        table.add_column(heading, justify="right" if heading in {"value", "range"} else "left", overflow="fold")
    for what, value, low, high, source in numbers:
        span = "" if low is None or high is None else f"{low:g} to {high:g}"
        table.add_row(escape(what), f"{value:g}", span, escape(source))
    screen.print(table)
    for source in head["sources"]:
        screen.print(f"source: {escape(source)}")
    screen.print()
    curve = Table("the curve", box=None, pad_edge=False, header_style="bold")
    for heading in ("stated %", "with what follows %"):
        curve.add_column(heading, justify="right")
    for row in response.iter_rows(named=True):
        curve.add_row(escape(row["subject"]), percent(row["stated"]), percent(row["total"]))
    screen.print(curve)
    if head["distance"] is not None:
        screen.print(f"distance {head['distance']:.1f}, t tail {head['tail_probability']:.1e}")
    screen.print(f"largest factor move {head['extrapolation']:.1f}x the largest seen")
    if head["guard_rails"]:
        screen.print(Text(f"outside guard-rails: {head['guard_rails']}", style="bold yellow"))


def show_differences(
    screen: Console, names: tuple[str, str], rows: Sequence[tuple[str, str | None, str | None]]
) -> None:
    """Place by place what two scenarios say differently."""
    if not rows:
        screen.print(f"{escape(names[0])} and {escape(names[1])} say the same")
        return
    table = Table("place", box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(escape(name), overflow="fold")
    for place, one, other in rows:
        table.add_row(escape(place), escape(one or "-"), escape(other or "-"))
    screen.print(table)


def show_what_if(
    screen: Console,
    name: str,
    demand: tuple[float, float, tuple[float, float]],
    response: pl.DataFrame,
    weights: pl.DataFrame,
) -> None:
    """Demand and the curve before and after other economics, and what an observed move implies.

    Args:
        screen: Where to print.
        name: Id of the scenario.
        demand: ``D'/D`` before, after, and its 90 % range after.
        response: ``subject before after low high``.
        weights: ``subject observed same_with_less alternative alternative_move weight``.
    """
    before, after, (low, high) = demand
    screen.print(f"[bold]{escape(name)}[/bold]  demand for compute, after / before")
    screen.print(f"as written {before:.3f}, now {after:.3f}, 90 % of the ranges {low:.3f} to {high:.3f}")
    table = Table("total return %", box=None, pad_edge=False, header_style="bold")
    for heading in ("as written", "now", "90 % of the ranges"):
        table.add_column(heading, justify="right")
    for row in response.iter_rows(named=True):
        span = "follows" if row["low"] is None else f"{percent(row['low'])} to {percent(row['high'])}"
        table.add_row(escape(row["subject"]), percent(row["before"]), percent(row["after"]), span)
    screen.print(table)
    for row in weights.iter_rows(named=True):
        screen.print(
            f"{escape(row['subject'])} {percent(row['observed'])} %: weight {row['weight']:.2f} of same with less "
            f"({percent(row['same_with_less'])} %) if the alternative is {row['alternative']} "
            f"({percent(row['alternative_move'])} %)"
        )
