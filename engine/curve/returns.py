"""Prices become a panel of daily returns on one calendar."""

import datetime as dt
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Float

from engine.axes import Axis
from engine.errors import CalibrationError
from engine.intake import Notice, screen

SPLIT_RATIOS: Final = (2.0, 3.0, 5.0, 10.0)
SPLIT_TOLERANCE: Final = 0.01
LARGE_MOVE: Final = 0.50
STALE_DAYS: Final = 10
CALENDAR_SHARE: Final = 0.10
"""A date on which fewer than this share of the usual names is priced is no trading day."""


@dataclass(frozen=True, slots=True)
class ReturnPanel:
    """Simple daily returns, days by securities, NaN where a price is missing on either side.

    Args:
        dates: Trading days in order; row t is the return from the day before to ``dates[t]``.
        securities: Axis of the columns.
        values: ``(n_days, n_securities)``, decimals a day.
        previous_close: ``(n_days, n_securities)``, the close that each return starts from.
        last_close: ``(n_securities,)``, last close on or before the last date.
    """

    dates: tuple[dt.date, ...]
    securities: Axis
    values: Float[np.ndarray, "n_days n_securities"]
    previous_close: Float[np.ndarray, "n_days n_securities"]
    last_close: Float[np.ndarray, " n_securities"]


def build_returns(
    prices: pl.DataFrame,
    securities: pl.DataFrame,
    *,
    as_of: dt.date,
    history_days: int,
    source: str = "prices",
) -> tuple[ReturnPanel, tuple[Notice, ...]]:
    """The last ``history_days`` daily returns up to ``as_of`` of every listed security.

    ``r_t = close_t / close_(t-1) - 1`` between neighbouring trading days only: a missing
    close leaves two returns missing, never one return over two days. A move within 1 % of a
    split ratio (2, 3, 5, 10 or inverse) is dropped with a warning; a series that is stale
    for more than 10 trading days or never moves is set aside with a notice.

    Args:
        prices: Table ``prices`` as read; bad rows set their security aside.
        securities: Table ``securities``; prices of other ids are ignored with a warning.
        as_of: Last day that may be seen.
        history_days: Number of returns.
        source: File of the prices, for the messages.

    Raises:
        ContractError: the file as a whole cannot be used.
        CalibrationError: no price on or before ``as_of``.
    """
    listed = sorted(securities["security_id"].to_list())
    if prices.height and "date" in prices.columns and prices["date"].null_count():
        screen(prices.filter(pl.col("date").is_null()), "prices", source, by="security_id")
    if prices.height and prices.schema.get("date") == pl.Date:
        prices = prices.filter(pl.col("date") <= as_of)
        if not prices.height:
            raise CalibrationError(f"{source}: no price on or before {as_of}; give an earlier file or a later date")
        prices = prices.filter(pl.col("date").is_in(_trading_days(prices, history_days + 1)))
    admitted = screen(prices, "prices", source, by="security_id")
    notices = list(admitted.notices)
    foreign = sorted(set(admitted.frame["security_id"].unique().to_list()) - set(listed))
    if foreign:
        shown = ", ".join(foreign[:5]) + (", ..." if len(foreign) > 5 else "")
        notices.append(Notice("prices.unlisted", "warn", f"{len(foreign)} priced ids are not listed: {shown}", source))
    rows = admitted.frame.filter(pl.col("security_id").is_in(listed))
    if not rows.height:
        raise CalibrationError(f"{source}: no listed security has a price on or before {as_of}")
    names = Axis.of("security", rows["security_id"].unique().to_list())
    days = rows["date"].unique().sort()
    # A scatter by position: pivot takes ten times as long.
    close = np.full((len(days), len(names)), np.nan)
    close[np.searchsorted(days.to_numpy(), rows["date"].to_numpy()), names.positions(rows["security_id"], source)] = (
        rows["close"].to_numpy()
    )
    dates = tuple(days.to_list()[1:])
    with np.errstate(invalid="ignore"):
        values = close[1:] / close[:-1] - 1.0
    if not dates or not np.isfinite(values).any():
        raise CalibrationError(f"{source}: no listed security has two prices in a row on or before {as_of}")
    values, odd = _without_splits(values, names, dates, source)
    kept, dead = _alive(close, values, names, source)
    if not kept:
        raise CalibrationError(f"{source}: no series is alive on {as_of}; first: {dead[0].message}")
    last = _last_observed(close)
    panel = ReturnPanel(
        dates=dates,
        securities=Axis("security", tuple(names.labels[i] for i in kept)),
        values=values[:, kept],
        previous_close=close[:-1, kept],
        last_close=last[kept],
    )
    return panel, (*notices, *odd, *dead)


def _trading_days(prices: pl.DataFrame, count: int) -> list[dt.date]:
    """The last ``count`` dates on which a usual share of the names is priced."""
    days = prices.group_by("date").len().sort("date")
    usual = float(days["len"].tail(count).median() or 0)  # type: ignore[arg-type]
    return days.filter(pl.col("len") >= CALENDAR_SHARE * usual)["date"].tail(count).to_list()


def _without_splits(
    values: Float[np.ndarray, "n_days n_securities"], names: Axis, dates: tuple[dt.date, ...], source: str
) -> tuple[Float[np.ndarray, "n_days n_securities"], list[Notice]]:
    ratio = 1.0 + values
    split = np.zeros(values.shape, dtype=bool)
    for number in (*SPLIT_RATIOS, *(1.0 / n for n in SPLIT_RATIOS)):
        split |= np.abs(ratio / number - 1.0) <= SPLIT_TOLERANCE
    notices = [
        Notice(
            "prices.split",
            "warn",
            f"{names.labels[i]}: the move of {values[t, i]:+.1%} on {dates[t]} looks like a split; return dropped",
            source,
        )
        for t, i in np.argwhere(split)
    ]
    large = (np.abs(values) > LARGE_MOVE) & ~split
    notices += [
        Notice("prices.large_move", "warn", f"{names.labels[i]}: moved {values[t, i]:+.1%} on {dates[t]}; kept", source)
        for t, i in np.argwhere(large)
    ]
    return np.where(split, np.nan, values), notices


def _alive(
    close: Float[np.ndarray, "n_days_plus_one n_securities"],
    values: Float[np.ndarray, "n_days n_securities"],
    names: Axis,
    source: str,
) -> tuple[list[int], list[Notice]]:
    observed = np.isfinite(values)
    recent = np.isfinite(close[-STALE_DAYS:]).any(axis=0)
    moves = np.where(observed, np.abs(values), 0.0).max(axis=0, initial=0.0) > 0.0
    enough = observed.sum(axis=0) >= STALE_DAYS
    kept: list[int] = []
    notices: list[Notice] = []
    for i, name in enumerate(names.labels):
        if not recent[i]:
            why = f"no price in the last {STALE_DAYS} trading days"
        elif enough[i] and not moves[i]:
            why = "the price never moves"
        else:
            kept.append(i)
            continue
        notices.append(Notice("prices.stale", "quarantine", f"{name}: {why}; left out of the model", source))
    return kept, notices


def _last_observed(close: Float[np.ndarray, "n_days n_securities"]) -> Float[np.ndarray, " n_securities"]:
    seen = np.isfinite(close)
    back = close.shape[0] - 1 - np.argmax(seen[::-1], axis=0)
    return np.where(seen.any(axis=0), close[back, np.arange(close.shape[1])], np.nan)
