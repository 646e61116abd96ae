"""A reverse stress for a terminal: one line a book, or one book in detail."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl
from rich.console import Console
from rich.table import Table

from engine.conventions import MARKET, TRADING_DAYS
from engine.desk.terminal import WIDE, escape, money, percent

SHOWN_NAMES: Final = 8
RAREST_YEARS: Final = 10_000


def show_reverse(
    screen: Console, tables: Mapping[str, pl.DataFrame], tiers: Sequence[str], parents: frozenset[str]
) -> None:
    """The most plausible way to the loss: one book in detail, several with a line each.

    Args:
        screen: Where to print.
        tables: ``reverse``, ``reverse_factors``, ``reverse_positions``.
        tiers: In order.
        parents: Books that others add up to; they stand below the rest.
    """
    ordered = tables["reverse"].with_columns(pl.col("portfolio_id").is_in(sorted(parents)).alias("parent"))
    rows = ordered.sort("parent", "distance", "portfolio_id").to_dicts()
    moves = {
        (row[0], row[1]): row[2] for row in tables["reverse_factors"].select("portfolio_id", "factor", "total").rows()
    }
    if len(rows) == 1:
        _show_book(screen, rows[0], tables, tiers, moves)
        return
    first = rows[0]
    screen.print(
        f"[bold]Reverse stress[/bold]: the most plausible way to lose {_short(first['loss'])} % of NAV in "
        f"{_days(first['horizon_days'])}"
    )
    wide = screen.width >= WIDE
    screen.print(_book_table(rows, tiers if wide else (), moves))
    if not wide:
        screen.print(_move_table(rows, tiers, moves))
    if first["within"] is not None:
        screen.print(f"worst: the most that a shock within distance {first['within']:g} can cost, % of NAV")
    if any(row["binding"] for row in rows):
        screen.print("*: the answer lies on a bound; name one book with --portfolio to see which")
        screen.print("once in: a loss that large in whichever way, also outside the bounds")


def _book_table(rows: list[dict[str, Any]], tiers: Sequence[str], moves: Mapping[tuple[str, str], float]) -> Table:
    worst = rows[0]["within"] is not None
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("book", overflow="ellipsis", no_wrap=True, max_width=20)
    headings = ("distance", "once in", "factors %", *(["worst %"] if worst else []))
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in (MARKET, *tiers) if tiers else ():
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("most like", overflow="ellipsis", no_wrap=True)
    for position, row in enumerate(rows):
        if row["parent"] and not rows[position - 1]["parent"]:
            table.add_row()
        book = row["portfolio_id"]
        table.add_row(
            escape(row["name"]),
            f"{row['distance']:.1f}{'*' if row['binding'] else ''}",
            _rarity(row["loss_probability"], row["horizon_days"]),
            percent(row["factor_loss"] / row["loss"], 0),
            *([percent(row["worst_loss"])] if worst else []),
            *[percent(moves[book, name]) for name in ((MARKET, *tiers) if tiers else ())],
            _likeness(row),
        )
    return table


def _move_table(rows: list[dict[str, Any]], tiers: Sequence[str], moves: Mapping[tuple[str, str], float]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title="market and tiers, %", title_justify="left")
    table.add_column("book", overflow="ellipsis", no_wrap=True, max_width=20)
    for heading in (MARKET, *tiers):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(escape(row["name"]), *[percent(moves[row["portfolio_id"], name]) for name in (MARKET, *tiers)])
    return table


def _show_book(
    screen: Console,
    row: Mapping[str, Any],
    tables: Mapping[str, pl.DataFrame],
    tiers: Sequence[str],
    moves: Mapping[tuple[str, str], float],
) -> None:
    screen.print(
        f"[bold]{escape(row['name'])}[/bold] ({money(row['nav_base'])}): the most plausible way to lose "
        f"{_short(row['loss'])} % of NAV in {_days(row['horizon_days'])}"
    )
    story = ", ".join(f"{escape(name)} {_signed(moves[row['portfolio_id'], name])} %" for name in (*tiers, MARKET))
    screen.print(f"[bold]{story}[/bold]")
    screen.print(
        f"distance {row['distance']:.1f}, t tail {row['tail_probability']:.1e}; "
        f"largest factor move {row['extrapolation']:.1f}x the largest seen"
    )
    screen.print(
        f"a loss that large comes about once in {_rarity(row['loss_probability'], row['horizon_days'], short=False)}: "
        f"chance {row['loss_probability']:.1e} in {_days(row['horizon_days'])}"
    )
    share = row["factor_loss"] / row["loss"]
    alone = row["factor_distance"]
    beside = "they cannot alone" if alone is None else f"alone they need distance {alone:.1f}"
    screen.print(f"factors carry {percent(share, 0)} % of it ({beside}), single names {percent(1.0 - share, 0)} %")
    if row["scenario_id"] is not None:
        screen.print(f"most like {escape(row['scenario_id'])} of the library: cosine {row['resemblance']:.2f}")
    if row["binding"] is not None:
        screen.print(f"on its bounds: {escape(row['binding'])}")
    if row["within"] is not None:
        screen.print(
            f"worst case within distance {row['within']:g}: {percent(row['worst_loss'])} % of NAV, the moves below "
            f"x {row['within'] / row['distance']:.2f}"
        )
    screen.print(_factor_table(tables["reverse_factors"], (MARKET, *tiers)))
    screen.print(_name_table(tables["reverse_positions"]))


def _factor_table(factors: pl.DataFrame, order: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("factor", no_wrap=True)
    for heading in ("total %", "factor %", "exposure", "P&L %", "total % by factors alone"):
        table.add_column(heading, justify="right", no_wrap=True)
    found = {row["factor"]: row for row in factors.iter_rows(named=True)}
    for name in (*order, *(name for name in found if name not in order)):
        row = found[name]
        total = row["factor_only_total"] if row["total"] is not None else row["factor_only_move"]
        table.add_row(
            escape(name),
            percent(row["total"]),
            percent(row["move"]),
            "" if row["exposure"] is None else f"{row['exposure']:.2f}",
            percent(row["pnl_frac"], 2),
            percent(total),
        )
    return table


def _name_table(positions: pl.DataFrame) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title="names that lead", title_justify="left")
    table.add_column("name", no_wrap=True)
    for heading in ("weight %", "move %", "own part %", "P&L %"):
        table.add_column(heading, justify="right", no_wrap=True)
    ordered = positions.sort(pl.col("pnl_frac").abs(), "security_id", descending=[True, False]).head(SHOWN_NAMES)
    for row in ordered.iter_rows(named=True):
        table.add_row(
            escape(row["security_id"]),
            percent(row["weight"], 2),
            percent(row["move"]),
            percent(row["specific"]),
            percent(row["pnl_frac"], 2),
        )
    return table


def _likeness(row: Mapping[str, Any]) -> str:
    return "" if row["scenario_id"] is None else f"{escape(row['scenario_id'])} {row['resemblance']:.2f}"


def _rarity(probability: float, horizon_days: int, *, short: bool = True) -> str:
    """0.01 a day reads ``100 trading days``, short ``100 d``; 1e-5 a day ``397 years``."""
    days = horizon_days / probability if probability > 0.0 else float("inf")
    years = days / TRADING_DAYS
    if years < 1.0:
        return f"{days:.0f} d" if short else f"{days:.0f} trading days"
    if years > RAREST_YEARS:
        return f">{RAREST_YEARS // 1000}k y" if short else f"more than {RAREST_YEARS:,} years"
    number = f"{years:.1f}" if years < 10.0 else f"{years:,.0f}"
    return f"{number} y" if short else f"{number} years"


def _days(days: int) -> str:
    return "a day" if days == 1 else f"{days} trading days"


def _short(fraction: float) -> str:
    return f"{100.0 * fraction:.4g}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{round(100.0 * value, 1) + 0.0:+.1f}"
