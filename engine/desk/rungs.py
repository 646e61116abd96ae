"""The curve for a terminal of 80 columns: its rungs, and the names on them."""

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import polars as pl
from rich.console import Console
from rich.table import Table

from engine.curve.membership import MembershipEvidence
from engine.desk.terminal import escape

SHOWN: Final = 8
"""Rows of each tier that a list shows; json and csv have all."""


def show_tiers(screen: Console, as_of: dt.date, tiers: pl.DataFrame, evidence: MembershipEvidence) -> None:
    """The tiers with coordinates and intervals, then the four lists of names."""
    screen.print(f"[bold]The curve[/bold] as of {as_of}: where its tiers lie, with 90 % intervals")
    screen.print(_curve_table(tiers))
    order = tiers["tier"].to_list()
    lists = (
        ("members", "declared share, pure exposure, t of the exposure, confidence", evidence.members),
        ("straddlers", "on two tiers or more, declared or estimated", evidence.straddlers),
        ("off the curve, yet they behave like a tier", "estimated; no limit uses it", evidence.lookalikes),
    )
    for title, words, rows in lists:
        names = rows["security_id"].n_unique()
        screen.print(f"\n[bold]{title}[/bold] ({names}): {words}")
        if title == "straddlers":
            screen.print(_straddler_table(rows, order))
        else:
            screen.print(_name_table(rows, order))
    unlike = evidence.unlike
    head = "declared, yet they do not behave like it"
    screen.print(f"\n[bold]{head}[/bold] ({unlike['security_id'].n_unique()}): below half of it")
    screen.print(_unlike_table(unlike, evidence, order))


def _curve_table(tiers: pl.DataFrame) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("tier", no_wrap=True)
    for heading in ("coordinate", "from", "to", "beta", "core", "members", "alike"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in tiers.iter_rows(named=True):
        places = [_number(row[name], "+.2f") for name in ("coordinate", "low", "high")]
        counts = [str(row[name]) for name in ("core", "members", "lookalikes")]
        table.add_row(escape(row["tier"]), *places, _number(row["beta"]), *counts)
    return table


def _name_table(rows: pl.DataFrame, order: list[str]) -> Table:
    """The largest shares of each tier, one row a name."""
    table = _evidence_columns("tier", "name", "share")
    for tier in order:
        inside = rows.filter(pl.col("tier") == tier).with_columns(_share().alias("share"))
        inside = inside.sort("share", "t_statistic", "security_id", descending=[True, True, False], nulls_last=True)
        for row in inside.head(SHOWN).iter_rows(named=True):
            table.add_row(escape(tier), escape(row["security_id"]), _number(row["share"]), *_evidence(row))
        if inside.height > SHOWN:
            table.add_row(escape(tier), f"... {inside.height - SHOWN} more", "", "", "", "")
    return table


def _straddler_table(rows: pl.DataFrame, order: list[str]) -> Table:
    """One row a name and tier, the name once."""
    table = _evidence_columns("name", "tier", "share")
    ranked = rows.with_columns(
        _share().alias("share"), pl.col("tier").replace_strict(order, range(len(order))).alias("at")
    )
    last = ""
    for row in ranked.sort("security_id", "at").iter_rows(named=True):
        name = row["security_id"]
        star = "" if row["source"] != "estimated" else " (estimated)"
        shown = "" if name == last else escape(name) + star
        table.add_row(shown, escape(row["tier"]), _number(row["share"]), *_evidence(row))
        last = name
    return table


def _unlike_table(rows: pl.DataFrame, evidence: MembershipEvidence, order: list[str]) -> Table:
    table = _evidence_columns("name", "declared", "share")
    table.add_column("behaves like")
    found = evidence.of(rows["security_id"].to_list()).filter(pl.col("weight") > 0.0)
    for row in rows.sort(pl.col("tier").replace_strict(order, range(len(order))), "security_id").iter_rows(named=True):
        alike = found.filter(pl.col("security_id") == row["security_id"]).sort(
            "weight", "tier", descending=[True, False]
        )
        words = ", ".join(f"{tier} {weight:.2f}" for tier, weight in alike.select("tier", "weight").iter_rows())
        table.add_row(
            escape(row["security_id"]), escape(row["tier"]), _number(row["declared"]), *_evidence(row),
            escape(words or "off the curve"),
        )  # fmt: skip
    return table


def _evidence_columns(*first: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in first:
        table.add_column(heading, justify="right" if heading == "share" else "left", no_wrap=True)
    for heading in ("exposure", "t", "conf"):
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _evidence(row: Mapping[str, Any]) -> list[str]:
    return [_number(row["exposure"]), _number(row["t_statistic"], ".1f"), _number(row["confidence"])]


def _share() -> pl.Expr:
    return pl.when(pl.col("source") == "estimated").then("weight").otherwise("declared")


def _number(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else format(round(value, 4) + 0.0, form)
