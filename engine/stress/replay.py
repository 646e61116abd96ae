"""Days that were: the returns of the market, the baskets and the names, from prices."""

import bisect
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from engine.curve.factors import basket_weights, market_returns
from engine.curve.returns import PriceHistory, ReturnPanel
from engine.curve.universe import Universe
from engine.errors import CalibrationError


@dataclass(frozen=True, slots=True)
class ObservedDay:
    """What one trading day did.

    Args:
        date: The day.
        market: Return of the market.
        tiers: Total return of each basket that is priced.
        names: Return of each security that is priced on the day and on the one before.
    """

    date: dt.date
    market: float
    tiers: Mapping[str, float]
    names: Mapping[str, float]


def observe_days(
    history: PriceHistory, universe: Universe, dates: Sequence[dt.date]
) -> MappingProxyType[dt.date, ObservedDay]:
    """The returns of each date, from prices on one calendar.

    Args:
        history: Prices.
        universe: Tiers, core names, caps for the market's weights.
        dates: The days.

    Raises:
        CalibrationError: a date that is no trading day of these prices, or without a market return.
    """
    days, faults = {}, []
    for date in dates:
        at = bisect.bisect_left(history.dates, date)
        if at == len(history.dates) or history.dates[at] != date:
            faults.append(f"{date} is not a trading day of these prices")
            continue
        if at == 0:
            faults.append(f"{date} is the first day of these prices; its returns need the day before")
            continue
        panel, _ = history.panel(as_of=date, history_days=1)
        market = float(market_returns(panel, universe)[0])
        if not np.isfinite(market):
            faults.append(f"the market has no return on {date}")
            continue
        pairs = zip(panel.securities.labels, panel.values[0].tolist(), strict=True)
        names = {name: value for name, value in pairs if np.isfinite(value)}
        days[date] = ObservedDay(date, market, basket_totals(panel, universe), names)
    if faults:
        raise CalibrationError(f"{history.source}: {'; '.join(faults)}")
    return MappingProxyType(days)


def basket_totals(panel: ReturnPanel, universe: Universe) -> dict[str, float]:
    """Compounded return of each basket that is priced on every day of a panel."""
    totals = {}
    for tier in universe.settings.tiers:
        core = set(tier.core)
        members = np.array([name in core for name in panel.securities.labels])
        weights = np.where(np.isfinite(panel.values), basket_weights(panel, universe, members), 0.0)
        share = weights.sum(axis=1)
        if (share > 0.0).all():
            daily = (weights * np.nan_to_num(panel.values)).sum(axis=1) / share
            totals[tier.id] = float(np.prod(1.0 + daily) - 1.0)
    return totals
