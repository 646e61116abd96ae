"""A mandate for a terminal: its limits in the desk's words, and the books under it."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from engine.desk.terminal import escape
from engine.mandates.mandate import Band, Mandate


def show_mandate(screen: Console, mandate: Mandate, books: Sequence[str]) -> None:
    """What a mandate allows, a sentence a limit; what does not bind is left out.

    Args:
        screen: Where to print.
        mandate: The mandate.
        books: The portfolios that are managed by it.
    """
    costs = mandate.costs
    screen.print(f"[bold]{escape(mandate.id)}[/bold]  {escape(mandate.title)}")
    screen.print(f"version {mandate.version}; books: {escape(', '.join(books) or 'none')}")
    for line in _limits(mandate):
        screen.print(f"  {escape(line)}")
    screen.print(
        f"risk aversion {mandate.risk_aversion:g}; costs of {costs.half_spread_bps:g} bp where a name has no "
        f"half-spread, spread over {costs.holding_years:g} year{'s' if costs.holding_years != 1.0 else ''}"
    )
    if costs.impact > 0.0:
        screen.print(
            f"market impact: {costs.impact:g} daily volatilities times the root of the share of a day's volume; "
            f"{costs.unknown_volume_base:,.0f} a day where no volume is known"
        )
    if mandate.limits.shorts and (costs.borrow_bps > 0.0 or costs.borrow_bps_of):
        dear = "".join(f", {name} {bps:g} bp" for name, bps in sorted(costs.borrow_bps_of.items()))
        screen.print(f"borrowing a year: {costs.borrow_bps:g} bp{escape(dear)}")
    if mandate.objective != "minimum_active_risk":
        screen.print(f"objective: {mandate.objective.replace('_', ' ')}")
    if mandate.alpha:
        expected = (f"{name} {100.0 * value:.4g} %" for name, value in sorted(mandate.alpha.items()))
        screen.print(f"expected return a year: {escape(', '.join(expected))}")
    if mandate.buy_list:
        screen.print(f"may also buy {escape(', '.join(mandate.buy_list))}")


def _limits(mandate: Mandate) -> list[str]:
    limits = mandate.limits
    lines = [f"a name: at most {_share(limits.max_weight)}"] if limits.max_weight < 1.0 else []
    lines += [f"{name}: {_band(band)}" for name, band in sorted(limits.weights.items())]
    lines += [f"a name: short by at most {_share(limits.max_short)}"] if limits.max_short > 0.0 else []
    lines += [f"gross exposure: at most {_share(limits.gross)}"] if limits.gross is not None else []
    for cap in sorted(limits.concentration, key=lambda cap: cap.largest):
        what = "any issuer" if cap.largest == 1 else f"the largest {cap.largest} issuers together"
        lines.append(f"{what}: at most {_share(cap.max)}")
    lines += [f"turnover, buys and sells: at most {_share(limits.turnover)}"] if limits.turnover < 2.0 else []
    lines += [f"cash: {_band(limits.cash)}"] if limits.cash != Band() else []
    lines += [f"tier {tier}: {_band(band)}" for tier, band in sorted(limits.tiers.items())]
    for budget in sorted(limits.stress, key=lambda budget: budget.scenario):
        against = " more than the benchmark" if budget.kind == "active" else ""
        days = "" if budget.horizon_days is None else f" over {budget.horizon_days} trading days"
        noise = f", {budget.robust:g} standard deviations of specific return counted as loss" if budget.robust else ""
        lines.append(f"under {budget.scenario}: loses at most {_share(budget.max_loss)}{against}{days}{noise}")
    for limit in sorted(limits.shortfall, key=lambda limit: limit.scenario):
        against = " more than the benchmark" if limit.kind == "active" else ""
        days = "" if limit.horizon_days is None else f" over {limit.horizon_days} trading days"
        where = f"in the worst {_share(1.0 - limit.level)} of {limit.scenario}" if limit.level else limit.scenario
        lines.append(f"{where}: loses at most {_share(limit.max_loss)}{against}{days} on average")
    said = {
        "max_weight",
        "weights",
        "turnover",
        "cash",
        "tiers",
        "stress",
        "shortfall",
        "max_short",
        "gross",
        "concentration",
    }
    others: dict[str, Any] = limits.model_dump(mode="json", exclude=said, exclude_defaults=True)
    return lines + [f"{name.replace('_', ' ')}: {value}" for name, value in others.items()]


def _band(band: Band) -> str:
    if band.min == band.max:
        return f"exactly {_share(band.min)}"
    if band.min == 0.0:
        return f"at most {_share(band.max)}"
    return f"at least {_share(band.min)}" if band.max == 1.0 else f"{100.0 * band.min:.4g} to {_share(band.max)}"


def _share(value: float) -> str:
    return f"{100.0 * value:.4g} %"
