"""One book's rebalance as a story for a terminal, and why one name trades or does not."""

from collections.abc import Mapping
from typing import Any, Final

import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.conventions import BINDS
from engine.desk.opinions import say_opinion, show_opinions
from engine.desk.reasons import PER_POINT, show_limits, show_whipsaws, words_of
from engine.desk.terminal import escape, money, percent, show_trades

SHOWN_PARTS: Final = 10
"""Parts of a marginal cost that are told one by one; the rest is one line."""

NOTHING: Final = 5e-4
"""A marginal cost of less than this, in basis points a point, reads as nothing."""


def show_explanation(screen: Console, tables: Mapping[str, pl.DataFrame]) -> None:
    """The story of the book; with the table ``standing`` that of one name of it.

    Args:
        screen: Where to print.
        tables: Of an ``Explanation``.
    """
    if "standing" in tables:
        standing = tables["standing"].row(0, named=True)
        _show_security(screen, standing, tables["marginal_costs"])
        for trade in tables["trades"].filter(pl.col("security_id") == standing["security_id"]).iter_rows(named=True):
            if (opinion := say_opinion(trade)) is not None:
                screen.print(opinion, style="bold")
    else:
        _show_book(screen, tables)


def _show_book(screen: Console, tables: Mapping[str, pl.DataFrame]) -> None:
    summary = tables["portfolio_summary"].sort("stage", descending=True)
    before, after = summary.row(0, named=True), summary.row(1, named=True)
    screen.print(f"[bold]{escape(before['name'])}[/bold]  NAV {money(before['nav_base'])}, {after['status']}")
    breached = tables["limits"].filter("breach_before")
    if breached.height:
        for row in breached.sort("slack", "limit_id").iter_rows(named=True):
            used = f"{percent(row['before'], 2)} % against {100.0 * row['bound']:.4g} %"
            still = ", and is still missed" if row["breach"] else f", now {percent(row['after'], 2)} %"
            screen.print(f"  breached: {escape(words_of(row['limit_id']))}, {used}{still}")
    else:
        screen.print("  no limit was breached")
    if after["status"] != "certified":
        screen.print(Text("nothing is traded: no answer was certified", style="bold red"))
        return
    trades = tables["trades"]
    proof = tables["certificates"].row(0, named=True)
    screen.print(
        f"  {trades.height} trades, turnover {percent(after['turnover'], 2)} %, cost {money(after['cost_base'])}, "
        f"volatility {percent(before['volatility'], 2)} % to {percent(after['volatility'], 2)} %; "
        f"at most {max(proof['relative_gap'], 0.0):.0e} from the best"
    )
    if trades.height:
        reasons = trades.group_by("reason").agg(pl.len().alias("trades"), pl.col("notional_base").sum())
        for row in reasons.sort("notional_base", descending=True).iter_rows(named=True):
            asks = words_of(row["reason"].removeprefix("limit "))
            count = "1 trade" if row["trades"] == 1 else f"{row['trades']} trades"
            screen.print(f"  for {escape(asks)}: {count} of {money(row['notional_base'])}")
        show_trades(screen, tables)
    show_limits(screen, tables)
    _show_losses(screen, tables["stress"])
    show_whipsaws(screen, tables)
    show_opinions(screen, tables)


def _show_losses(screen: Console, stress: pl.DataFrame) -> None:
    screen.print("[bold]stress[/bold]  P&L in % of NAV before and after")
    table = Table("scenario", box=None, pad_edge=False, header_style="bold")
    for heading in ("before", "after", "budget"):
        table.add_column(heading, justify="right")
    for (scenario,), rows in stress.partition_by("scenario_id", as_dict=True, maintain_order=True).items():
        found = {row["stage"]: row for row in rows.iter_rows(named=True)}
        budget = found["after"]["budget"]
        cells = [percent(found[stage]["pnl_frac"], 2) for stage in ("before", "after")]
        table.add_row(escape(str(scenario)), *cells, "" if budget is None else f"{100.0 * budget:.4g}")
    screen.print(table)


def _show_security(screen: Console, row: Mapping[str, Any], parts: pl.DataFrame) -> None:
    index = "" if row["benchmark"] is None else f"; benchmark {percent(row['benchmark'], 2)} %"
    screen.print(
        f"[bold]{escape(row['security_id'])}[/bold] in {escape(row['portfolio_id'])}: "
        f"{percent(row['before'], 2)} % before, {percent(row['after'], 2)} % after{index}"
    )
    if not row["candidate"]:
        screen.print("no candidate: neither held, nor in the benchmark, nor on the buy list; looked at as if it were")
    screen.print("what one more point of it would add at first, bp a year of active risk and cost")
    sides = ["buying", "selling"] if row["after"] > 0.0 or row["lowest"] < 0.0 else ["buying"]
    table = Table("", box=None, pad_edge=False, header_style="bold")
    for heading in sides:
        table.add_column(heading, justify="right", no_wrap=True)
    size = pl.max_horizontal(*[pl.col(side).abs() for side in sides])
    ordered = parts.sort(size, "kind", "part", descending=[True, False, False])
    told = min(ordered.filter(PER_POINT * size >= NOTHING).height, SHOWN_PARTS)
    for part in ordered.head(told).iter_rows(named=True):
        table.add_row(escape(_words(part)), *[_points(part[side]) for side in sides])
    rest = ordered.slice(told)
    if rest.height:
        table.add_row(f"{rest.height} smaller parts", *[_points(sum(rest[side].to_list())) for side in sides])
    table.add_row("in all", *[_points(row[side]) for side in sides], style="bold")
    screen.print(table)
    screen.print(escape(_verdict(row)), style="bold")


def _words(part: Mapping[str, Any]) -> str:
    if part["kind"] == "limit":
        return words_of(part["part"])
    names = {"own_risk": "active risk: its own", "cost": "cost of trading"}
    return names.get(part["kind"], f"active risk: {part['part']}")


def _points(value: float) -> str:
    return f"{round(PER_POINT * value, 3) + 0.0:.3f}"


def _verdict(row: Mapping[str, Any]) -> str:
    """Why the name is where it is."""
    name, buying, selling = row["security_id"], PER_POINT * row["buying"], PER_POINT * row["selling"]
    if not row["candidate"]:
        if buying >= -NOTHING:
            return f"{name} would not be bought on the buy list either: a point adds at least {buying:.2f} bp"
        return f"{name} would be bought if the buy list had it: a point saves at most {-buying:.2f} bp"
    if row["after"] >= row["highest"] - BINDS and buying < -NOTHING:
        words = f"is held back by {words_of(row['highest_by'])}: a point more would save at most {-buying:.2f} bp"
    elif row["after"] <= row["lowest"] + BINDS and row["lowest"] > 0.0 and selling < -NOTHING:
        words = f"is held up by {words_of(row['lowest_by'])}: a point less would save at most {-selling:.2f} bp"
    elif row["after"] > row["before"]:
        words = "is bought until the next point neither adds nor saves"
    elif row["after"] < row["before"]:
        words = "is sold until the next point neither adds nor saves" if row["after"] > 0.0 else "is sold, all of it"
    elif row["after"] == 0.0:
        words = f"is not bought: a point adds at least {buying:.2f} bp"
    else:
        words = (
            f"stays: either way costs more than it saves, buying a point {buying:.2f} bp, selling one {selling:.2f} bp"
        )
    return f"{name} {words}"
