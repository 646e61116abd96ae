"""A mandate for a terminal: its limits in the desk's words, and the books under it."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from rich.console import Console

from engine.desk.terminal import escape
from engine.mandates.mandate import ActiveBand, Band, ExposureBand, LimitSet, Mandate

AnyBand: TypeAlias = Band | ActiveBand | ExposureBand


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
    lots = mandate.lots
    least = [(lots.min_trade, "trade"), (lots.min_position, "position")]
    told = [f"no {what} below {_share(size)}" for size, what in least if size > 0.0]
    told += ["the best of all lots is looked for"] if lots.exact else []
    if lots.round == "none" or told:
        screen.print(escape("; ".join(["fractions of shares" if lots.round == "none" else "whole lots", *told])))
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
        days = _days(budget.horizon_days)
        many = "" if budget.robust == 1.0 else "s"
        noise = f", {budget.robust:g} standard deviation{many} of specific return counted as loss"
        noise = noise if budget.robust else ""
        lines.append(f"under {budget.scenario}: loses at most {_share(budget.max_loss)}{against}{days}{noise}")
    for limit in sorted(limits.shortfall, key=lambda limit: limit.scenario):
        against = " more than the benchmark" if limit.kind == "active" else ""
        days = _days(limit.horizon_days)
        where = f"in the worst {_share(1.0 - limit.level)} of {limit.scenario}" if limit.level else limit.scenario
        lines.append(f"{where}: loses at most {_share(limit.max_loss)}{against}{days} on average")
    return lines + _further(limits)


def _further(limits: LimitSet) -> list[str]:
    """What is measured otherwise than a share of NAV or a loss: against the benchmark, exposures, volume, lists."""
    lines = []
    if limits.net is not None:
        lines.append(f"net exposure: {_between(limits.net, _share)}")
    if limits.tracking_error is not None:
        lines.append(f"tracking error: at most {_share(limits.tracking_error)} a year")
    if limits.max_active_weight < 1.0:
        lines.append(f"a name: at most {_share(limits.max_active_weight)} above or below the benchmark")
    kinds: list[tuple[str, Mapping[str, AnyBand], Callable[[float], str]]] = [
        ("active", limits.active_weights, _share),
        ("active tier", limits.active_tiers, _share),
        ("sector", limits.sectors, _share),
        ("active sector", limits.active_sectors, _share),
        ("factor", limits.factors, _plain),
        ("active factor", limits.active_factors, _plain),
    ]
    for what, bands, unit in kinds:
        lines += [f"{what} {name}: {_between(band, unit)}" for name, band in sorted(bands.items())]
    if limits.participation is not None:
        volume = limits.participation
        unknown = "not traded" if volume.unknown_volume == "hold" else "traded freely"
        lines.append(f"a trade: at most {_share(volume.max_share)} of a day's volume; a name without one is {unknown}")
    for key, words in (
        ("excluded", "may not hold"),
        ("no_buy", "may not buy"),
        ("no_sell", "may not sell"),
        ("frozen", "may not trade"),
    ):
        if names := getattr(limits, key):
            lines.append(f"{words} {', '.join(names)}")
    if limits.priorities:
        told = ", ".join(f"{key} {priority}" for key, priority in sorted(limits.priorities.items()))
        lines.append(f"gives way, 5 first and 0 never: {told}")
    return lines


def _between(band: AnyBand, told: Callable[[float], str]) -> str:
    """A band whose ends may not bind, in the words of its unit."""
    open_band = type(band)()
    low, high = band.min != open_band.min, band.max != open_band.max
    if low and high:
        return f"exactly {told(band.min)}" if band.min == band.max else f"{told(band.min)} to {told(band.max)}"
    if high:
        return f"at most {told(band.max)}"
    return f"at least {told(band.min)}" if low else "any"


def _days(horizon: int | None) -> str:
    return "" if horizon is None else f" over {horizon} trading day{'' if horizon == 1 else 's'}"


def _plain(value: float) -> str:
    return f"{value:.4g}"


def _band(band: Band) -> str:
    if band.min == band.max:
        return f"exactly {_share(band.min)}"
    if band.min == 0.0:
        return f"at most {_share(band.max)}"
    return f"at least {_share(band.min)}" if band.max == 1.0 else f"{100.0 * band.min:.4g} to {_share(band.max)}"


def _share(value: float) -> str:
    return f"{100.0 * value:.4g} %"
