"""Tables for a terminal: 80 columns are enough, more are used, colour only where there is a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl
from rich import markup
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.conventions import TRADING_DAYS

WIDE: Final = 150
"""From this many columns on, the parts by tier stand beside the loss instead of below it."""

FULL: Final = 96
"""From this many columns on, the loss table also shows NAV, and ranges are written out."""

ROOMY: Final = 90
"""From this many columns on, the rebalance table also shows volatility."""

PIPE_WIDTH: Final = 152
"""Width when stdout is no terminal."""


def console() -> Console:
    """stdout, honouring NO_COLOR; a fixed width when it is no terminal."""
    screen = Console(highlight=False, soft_wrap=False)
    return screen if screen.is_terminal else Console(highlight=False, width=PIPE_WIDTH, soft_wrap=False)


def escape(text: str) -> str:
    """Text of an input as it is: no markup, and no character that moves the cursor."""
    return markup.escape(_printable(text))


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def percent(value: float | None, digits: int = 1) -> str:
    """-0.0512 reads -5.1; what rounds to zero has no sign."""
    return "" if value is None else f"{round(100.0 * value, digits) + 0.0:.{digits}f}"


def money(value: float | None) -> str:
    """2.1e9 reads 2.1bn, 850e6 reads 850m."""
    if value is None:
        return ""
    size = abs(value)
    for scale, unit in ((1e9, "bn"), (1e6, "m"), (1e3, "k")):
        if size >= 0.9995 * scale:
            number = value / scale
            return f"{number:.0f}{unit}" if abs(number) >= 99.95 else f"{number:.1f}{unit}"
    return f"{value:.0f}"


def show_stress(screen: Console, tables: Mapping[str, pl.DataFrame], tiers: Sequence[str]) -> None:
    """One block a scenario: its plausibility, then every book and parent with loss, band, models and budget."""
    for scenario in tables["scenario_summary"].sort("scenario_id").iter_rows(named=True):
        one = tables["stress"].filter(pl.col("scenario_id") == scenario["scenario_id"])
        parts = tables["stress_tiers"].filter(pl.col("scenario_id") == scenario["scenario_id"])
        _scenario_head(screen, scenario)
        rows = _ordered(one, tables["portfolio_summary"])
        wide = screen.width >= WIDE
        screen.print(_loss_table(rows, parts, tiers if wide else (), full=screen.width >= FULL))
        if not wide:
            screen.print(_part_table(rows, parts, tiers))
        leaves = tables["stress_trees"].filter(pl.col("scenario_id") == scenario["scenario_id"])
        if leaves.height:
            screen.print(_tree_table(rows, leaves))
        breaches = one.filter("breach").height
        budgeted = one["budget"].is_not_null().sum()
        verdict = f"{breaches} of {budgeted} budgets breached" if budgeted else "no book has a budget here"
        screen.print(Text(verdict, style="bold red" if breaches else "bold green"))
        if split := one.filter("models_disagree").height:
            screen.print(Text(f"? the models disagree on {split} of {budgeted} budgets", style="bold yellow"))
        screen.print()


def show_detail(screen: Console, tables: Mapping[str, pl.DataFrame]) -> None:
    """For every book and scenario the ten names that cost most."""
    summary = tables["portfolio_summary"]
    _show_standing(screen, summary)
    names = dict(summary.select("portfolio_id", "name").iter_rows())
    books = tables["stress_positions"].filter(
        ~pl.col("portfolio_id").is_in(summary["parent_id"].drop_nulls().to_list())
    )
    keys = books.select("portfolio_id", "scenario_id").unique().sort("portfolio_id", "scenario_id")
    for book, scenario in keys.iter_rows():
        lines = tables["stress_positions"].filter(
            (pl.col("portfolio_id") == book) & (pl.col("scenario_id") == scenario) & (pl.col("pnl_frac") < 0.0)
        )
        screen.print(f"[bold]{escape(names[book])}[/bold] under {escape(scenario)}: the names that cost most")
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("name", "weight %", "shock %", "P&L %"):
            table.add_column(heading, justify="left" if heading == "name" else "right")
        for line in lines.sort("pnl_frac", "security_id").head(10).iter_rows(named=True):
            table.add_row(
                line["security_id"],
                percent(line["weight"], 2),
                percent(line["shock"]),
                percent(line["pnl_frac"], 2),
            )
        screen.print(table)


def _show_standing(screen: Console, summary: pl.DataFrame) -> None:
    """How much of its budget each book uses, under which scenario, and how long leaving it would take."""
    screen.print("[bold]Risk tier and exit[/bold]: use of the budget, days to leave, share sold")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("book", "risk", "use %", "worst scenario", "days", "1 day %", "5 days %"):
        left = heading in ("book", "worst scenario")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True, overflow="ellipsis")
    for row in summary.filter(pl.col("sold_in_1_day").is_not_null()).iter_rows(named=True):
        days = row["days_to_liquidate"]
        table.add_row(
            escape(row["name"]),
            _tier(row["risk_tier"]),
            percent(row["risk_utilisation"], 0),
            escape(row["risk_scenario"] or ""),
            "" if days is None else f"{days:.1f}",
            percent(row["sold_in_1_day"], 0),
            percent(row["sold_in_5_days"], 0),
        )
    screen.print(table)
    screen.print()


def show_calibration(screen: Console, card: Mapping[str, Any], volatility: Mapping[str, float], out: str) -> None:
    """What was calibrated, from what, and each factor's volatility."""
    screen.print(
        f"[bold]Risk model of {escape(card['universe'])}[/bold] as of {card['as_of']}: "
        f"{card['securities']} securities, "
        f"{card['days']} days from {card['first_date']}, t with {card['tails']['degrees']:.1f} degrees of freedom"
    )
    table = Table("factor", box=None)
    table.add_column("volatility % a year", justify="right")
    for factor, value in volatility.items():
        table.add_row(factor, percent(value))
    screen.print(table)
    screen.print(f"written: {escape(out)}")


def _scenario_head(screen: Console, scenario: Mapping[str, Any]) -> None:
    screen.print(f"[bold]{escape(scenario['scenario_id'])}[/bold]  {escape(scenario['title'])}")
    if scenario["guard_rails"] is not None:
        screen.print(Text(f"outside guard-rails: {scenario['guard_rails']}", style="bold red"))
    days, explained = scenario["horizon_days"], scenario["propagation_r2"]
    how = scenario["kind"] if scenario["propagation"] is None else f"propagation {scenario['propagation']}"
    far = "its leaves have their own distances"
    if scenario["distance"] is not None:
        far = f"distance {scenario['distance']:.1f}, t tail {scenario['tail_probability']:.1e}"
    screen.print(f"{days} trading day{'s' if days > 1 else ''}, {how}; {far}")
    screen.print(
        f"moves up to {scenario['extrapolation']:.1f}x the largest seen, "
        + ("" if explained is None else f"views explain {100.0 * explained:.0f} % of variance, ")
        + f"condition {scenario['condition']:.2g}"
    )
    if scenario["empirical_exceeded"] is not None:
        screen.print(_frequency(scenario))
    if scenario["nearest_dates"] is not None:
        dates, cosines = (", ".join(scenario[f"nearest_{name}"].split()) for name in ("dates", "cosines"))
        screen.print(f"nearest {dates} (cosine {cosines})")


def _frequency(scenario: Mapping[str, Any]) -> str:
    """How often the past was as far, in trading days below a year."""
    horizon, count, years = scenario["horizon_days"], scenario["empirical_days"], scenario["empirical_years"]
    low, high = scenario["empirical_low"], scenario["empirical_high"]
    if years is None:
        period = "day" if horizon == 1 else f"{horizon}-day period"
        return f"once in > {count} {period}s (95 % bound {percent(horizon / TRADING_DAYS / low)} % a {period})"
    scale, unit = (1.0, "years") if years >= 1.0 else (float(TRADING_DAYS), "trading days")
    interval = f"{_three(scale * low)} or more" if high is None else f"{_three(scale * low)} to {_three(scale * high)}"
    seen = f"{scenario['empirical_exceeded']} of {count} days as far"
    return f"once in {_three(scale * years)} {unit} ({interval}): {seen}"


def _three(value: float) -> str:
    """Three digits, and no power of ten for a thousand."""
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def _ordered(stress: pl.DataFrame, summary: pl.DataFrame) -> list[dict[str, Any]]:
    """Books from the largest loss to the smallest, then the parents they add up to."""
    parents = summary["parent_id"].drop_nulls().to_list()
    frame = stress.join(summary.select("portfolio_id", "name", "risk_tier"), on="portfolio_id", how="left")
    frame = frame.with_columns(pl.col("portfolio_id").is_in(parents).alias("parent"))
    return frame.sort("parent", "pnl_frac", "portfolio_id").to_dicts()


def _loss_table(rows: list[dict[str, Any]], parts: pl.DataFrame, tiers: Sequence[str], *, full: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("book", overflow="ellipsis", no_wrap=True, max_width=22)
    compared = any(row["model_low"] is not None for row in rows)
    models = ["models %"] if compared else []
    for heading in (*(["NAV"] if full else []), "P&L %", "P&L", "band %", *models, "budget", "risk"):
        table.add_column(heading, justify="right", no_wrap=True)
    for tier in tiers:
        table.add_column(tier, justify="right", no_wrap=True)
    split = {(row[0], row[1]): row[2] for row in parts.select("portfolio_id", "tier", "pnl_frac").iter_rows()}
    lines: list[list[str | Text]] = []
    seen_parent = False
    for row in rows:
        if row["parent"] and not seen_parent:
            lines.append([""] * len(table.columns))
            seen_parent = True
        lines.append(
            [
                _printable(row["name"]),
                *([money(row["nav_base"])] if full else []),
                percent(row["pnl_frac"]),
                money(row["pnl_base"]),
                _range(row["band_low"], row["band_high"], full=full),
                *([_range(row["model_low"], row["model_high"], full=full)] if compared else []),
                _budget(row["budget"], row["budget_kind"]),
                Text(" ").join(part for part in (_verdict(row), _tier(row["risk_tier"])) if part.plain),
                *[percent(split.get((row["portfolio_id"], tier))) for tier in tiers],
            ]
        )
    _add_lines(table, lines)
    return table


def _add_lines(table: Table, lines: Sequence[Sequence[str | Text]]) -> None:
    """All lines of a table whose columns do not wrap, as one row: a cell costs what it does however long it is."""
    columns = zip(*lines, strict=True)
    table.add_row(*[Text("\n").join(Text(cell) if isinstance(cell, str) else cell for cell in one) for one in columns])


def _range(low: float | None, high: float | None, *, full: bool) -> str:
    return "" if low is None else f"{percent(low)}{' to ' if full else '/'}{percent(high)}"


def _budget(budget: float | None, kind: str | None) -> str:
    """0.05 reads 5; a budget of the loss against the benchmark reads 5 act."""
    return "" if budget is None else f"{100.0 * budget:.4g}{' act' if kind == 'active' else ''}"


TIER_STYLES: Final = {"A": "green", "B": "green", "C": "yellow", "D": "red", "E": "bold red"}
"""A risk tier's colour, where there is a terminal."""


def _tier(tier: str | None) -> Text:
    return Text(tier or "", style=TIER_STYLES.get(tier or "", ""))


def _verdict(row: Mapping[str, Any]) -> Text:
    """Whether the budget holds; n/a where it could not be measured, a question mark where other models differ."""
    doubt = "?" if row["models_disagree"] else " "
    if row["breach"]:
        return Text(f"BREACH{doubt}", style="bold red")
    if row["budget"] is None:
        return Text("")
    if row["measured_loss"] is None:
        return Text("n/a ")
    return Text(f"ok{doubt}", style="bold yellow" if row["models_disagree"] else "")


def _part_table(rows: list[dict[str, Any]], parts: pl.DataFrame, tiers: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title="P&L % by tier", title_justify="left")
    table.add_column("book", overflow="ellipsis", no_wrap=True, max_width=22)
    split = {(row[0], row[1]): row[2] for row in parts.select("portfolio_id", "tier", "pnl_frac").iter_rows()}
    for tier in tiers:
        table.add_column(tier, justify="right", no_wrap=True)
    _add_lines(
        table,
        [
            [_printable(row["name"]), *[percent(split.get((row["portfolio_id"], tier))) for tier in tiers]]
            for row in rows
        ],
    )
    return table


def _tree_table(rows: list[dict[str, Any]], trees: pl.DataFrame) -> Table:
    """What the leaves of a tree say of each book."""
    table = Table("book", box=None, pad_edge=False, header_style="bold", title="leaves, %", title_justify="left")
    for heading in ("mean", "sd", "worst tenth", "worst leaf", "", "over budget"):
        table.add_column(heading, justify="left" if heading == "" else "right", no_wrap=True)
    figures = {row["portfolio_id"]: row for row in trees.iter_rows(named=True)}
    for row in rows:
        tree = figures[row["portfolio_id"]]
        table.add_row(
            escape(row["name"]),
            percent(tree["mean"]),
            percent(tree["standard_deviation"]),
            percent(0.0 - tree["expected_shortfall"]),
            percent(tree["worst_pnl"]),
            escape(tree["worst_leaf"]),
            percent(tree["over_budget"], 0),
        )
    return table


def show_rebalance(screen: Console, tables: Mapping[str, pl.DataFrame], scenario: str) -> None:
    """One row a book: status, loss before and after under one scenario, turnover, cost, proof."""
    summary = tables["portfolio_summary"]
    after = summary.filter(pl.col("stage") == "after")
    loss = tables["stress"].filter(pl.col("scenario_id") == scenario)
    losses = {
        (row[0], row[1]): row[2:]
        for row in loss.select("portfolio_id", "stage", "pnl_frac", "budget", "breach", "budget_kind").rows()
    }
    proofs = tables["certificates"].filter(pl.col("form") == "continuous")
    gaps = {row["portfolio_id"]: row for row in proofs.iter_rows(named=True)}
    screen.print(f"[bold]rebalance[/bold]  P&L under {escape(scenario)} in % of NAV before and after, and what it cost")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("book", overflow="ellipsis", no_wrap=True, max_width=20)
    roomy = screen.width >= ROOMY
    headings = ["status", "before", "after", "budget", "turn", "cost", "gap", *(["vol", "risk"] if roomy else [])]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "status" else "right", no_wrap=True)
    cured = 0
    for row in after.sort("portfolio_id").iter_rows(named=True):
        book = row["portfolio_id"]
        before, now = losses.get((book, "before")), losses.get((book, "after"))
        if row["status"] == "stress_only":
            continue
        proof = gaps.get(book)
        cured += bool(before and now and before[2] and not now[2])
        table.add_row(
            escape(row["name"]),
            Text(row["status"], style="green" if row["status"] == "certified" else "bold red"),
            Text(percent(before[0], 2) if before else "", style="red" if before and before[2] else ""),
            Text(percent(now[0], 2) if now else "", style="red" if now and now[2] else ""),
            "" if now is None else _budget(now[1], now[3]),
            percent(row["turnover"]),
            money(row["cost_base"]),
            _gap(proof),
            *((percent(row["volatility"]), _tier(row["risk_tier"])) if roomy else ()),
        )
    screen.print(table)
    done = int((after["status"] == "certified").sum())
    screen.print(
        f"{done} of {proofs.height} answers certified from the input data; "
        f"{cured} budget{'s' if cured != 1 else ''} breached before and met after; "
        f"cost {money(float(after['cost_base'].fill_null(0.0).sum()))} in all"
    )
    full = (
        tables["firm_liquidity"].filter(pl.col("at_cap")).sort("traded_base", "security_id", descending=[True, False])
    )
    if full.height:
        shown = ", ".join(full["security_id"].head(5).to_list()) + (", ..." if full.height > 5 else "")
        screen.print(f"the firm is at its share of the day's volume in {full.height} names: {escape(shown)}")


def _gap(proof: Mapping[str, Any] | None) -> str:
    if proof is None or proof["relative_gap"] is None:
        return ""
    return f"{proof['relative_gap']:.0e}" if proof["relative_gap"] >= 1e-9 else "<1e-9"


def show_trades(screen: Console, tables: Mapping[str, pl.DataFrame]) -> None:
    """The ten largest trades of each book, the limit or aim that asks for each, and its price of a whipsaw."""
    names = dict(tables["portfolio_summary"].select("portfolio_id", "name").iter_rows())
    trades = tables["trades"].sort(pl.col("trade_weight").abs(), "security_id", descending=[True, False])
    for book in sorted(set(trades["portfolio_id"].to_list())):
        screen.print(f"[bold]{escape(names[book])}[/bold]: largest trades")
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("name")
        for heading in ("side", "weight %", "notional", "avoids", "regret", "pays from %", "reason"):
            table.add_column(heading, justify="left" if heading in ("side", "reason") else "right")
        for row in trades.filter(pl.col("portfolio_id") == book).head(10).iter_rows(named=True):
            weight = percent(row["trade_weight"], 2)
            amounts = [money(row[name]) for name in ("notional_base", "loss_avoided", "regret")]
            pays = percent(row["break_even"], 0)
            table.add_row(row["security_id"], row["side"], weight, *amounts, pays, escape(row["reason"]))
        screen.print(table)
