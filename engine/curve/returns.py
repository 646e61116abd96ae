"""Prices become a panel of daily returns on one calendar."""

import bisect
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Float

from engine.axes import Axis
from engine.errors import CalibrationError
from engine.intake import Notice, screen
from engine.tables.columns import LARGEST, SMALLEST_PRICE

SPLIT_RATIOS: Final = (2.0, 3.0, 5.0, 10.0)
SPLIT_TOLERANCE: Final = 0.01
LARGE_MOVE: Final = 0.50
STALE_DAYS: Final = 10
CALENDAR_SHARE: Final = 0.10
"""A date on which fewer than this share of the usual names is priced is no trading day."""

REPEATED_SHARE: Final = 0.95
REPEATED_NAMES: Final = 10
"""A date on which this share of at least so many names repeats its last close is no trading day."""

SPLIT_SUSPICION: Final = 0.10
"""This near a split ratio a move is kept, and the question is put: the day's own return may hide a split."""

WEEK: Final = 5
"""Monday is 1; a date beyond Friday is no trading day."""

USUAL_DAYS: Final = 505
USUAL_START: Final = 20
"""Dates over which the usual number of priced names is the median; the first dates share one."""


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

    def close_on(self, days: Sequence[dt.date | None]) -> Float[np.ndarray, " n_securities"]:
        """Close of each security on its own day, or the last of the panel's days before it.

        Args:
            days: One a security, on the panel's axis.

        Returns:
            NaN where the day is None, outside the panel, or has no close.
        """
        at = np.array([-1 if day is None else bisect.bisect_right(self.dates, day) - 1 for day in days], dtype=np.int64)
        at[[day is not None and day > self.dates[-1] for day in days]] = -1
        close = np.vstack([self.previous_close[1:], self.last_close])
        return np.where(at >= 0, close[at, np.arange(len(days))], np.nan)

    def among(self, names: Axis) -> "ReturnPanel":
        """The panel of the securities that are on an axis, in its own order."""
        kept = [i for i, label in enumerate(self.securities.labels) if label in names]
        return ReturnPanel(
            dates=self.dates,
            securities=Axis("security", tuple(self.securities.labels[i] for i in kept)),
            values=self.values[:, kept],
            previous_close=self.previous_close[:, kept],
            last_close=self.last_close[kept],
        )


@dataclass(frozen=True, slots=True)
class PriceHistory:
    """Closes and returns of a whole file on one calendar, from which each day's panel is cut.

    Args:
        dates: Trading days in order.
        securities: Axis of the columns, every listed security that has a price.
        close: ``(n_days, n_securities)``, NaN where missing.
        values: Same shape, the return up to each day; splits and the first row are NaN.
        doubtful: Rows of securities with a bad row somewhere; each panel screens its own.
        notices: What was noticed in the file as a whole.
        moves: What was noticed in single returns: the row of the day, the security, the notice.
        source: File of the prices, for the messages.
    """

    dates: tuple[dt.date, ...]
    securities: Axis
    close: Float[np.ndarray, "n_days n_securities"]
    values: Float[np.ndarray, "n_days n_securities"]
    doubtful: pl.DataFrame
    notices: tuple[Notice, ...]
    moves: tuple[tuple[int, str, Notice], ...]
    source: str

    def panel(self, *, as_of: dt.date, history_days: int) -> tuple[ReturnPanel, tuple[Notice, ...]]:
        """The last ``history_days`` returns up to ``as_of``; no later day has a say in it.

        Raises:
            CalibrationError: no price on or before ``as_of``, or no series alive on it.
        """
        end = bisect.bisect_right(self.dates, as_of)
        first = max(end - history_days - 1, 0)
        dates = self.dates[first + 1 : end]
        names, set_aside = self._admitted(first, end)
        close, values = self.close[first:end, names], self.values[first + 1 : end, names]
        if not dates or not np.isfinite(values).any():
            raise CalibrationError(f"{self.source}: no listed security has two prices in a row on or before {as_of}")
        labels = Axis("security", tuple(self.securities.labels[i] for i in names))
        kept, dead = _alive(close, values, labels, self.source)
        if not kept:
            raise CalibrationError(f"{self.source}: no series is alive on {as_of}; first: {dead[0].message}")
        panel = ReturnPanel(
            dates=dates,
            securities=Axis("security", tuple(labels.labels[i] for i in kept)),
            values=values[:, kept],
            previous_close=close[:-1, kept],
            last_close=_last_observed(close)[kept],
        )
        odd = [notice for row, name, notice in self.moves if first < row < end and name in labels]
        return panel, (*self.notices, *set_aside, *odd, *dead)

    def _admitted(self, first: int, end: int) -> tuple[list[int], tuple[Notice, ...]]:
        """Columns with a price in the rows ``first`` to ``end``, without those that have a bad one there."""
        priced = np.isfinite(self.close[first:end]).any(axis=0)
        inside = pl.col("date").is_between(self.dates[first], self.dates[end - 1]) if end else pl.lit(False)
        rows = self.doubtful.filter(inside)
        notices: tuple[Notice, ...] = ()
        if rows.height:
            admitted = screen(rows, "prices", self.source, by="security_id")
            bad = set(rows["security_id"].to_list()) - set(admitted.frame["security_id"].to_list())
            priced &= np.array([name not in bad for name in self.securities.labels])
            notices = admitted.notices
        return np.flatnonzero(priced).tolist(), notices


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
    split ratio (2, 3, 5, 10 or inverse) is dropped with a warning; one within 10 % is kept and
    the warning asks. Weekends and days that repeat the closes of the day before are dropped by
    date. A series that is stale for more than 10 trading days or never moves is set aside with
    a notice.

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
    history = read_history(prices, securities, until=as_of, days=history_days + 1, source=source)
    return history.panel(as_of=as_of, history_days=history_days)


def read_history(
    prices: pl.DataFrame, securities: pl.DataFrame, *, until: dt.date, days: int, source: str = "prices"
) -> PriceHistory:
    """The last ``days`` trading days up to ``until`` of every listed security.

    A trading day is a weekday on which at least a tenth of the usual number of names is priced,
    usual being the median of the dates up to it, so that no later day decides, and on which
    not nearly all of them (95 %) repeat their last close, as a holiday filled forward does.

    Args:
        prices: Table ``prices`` as read.
        securities: Table ``securities``; prices of other ids are ignored with a warning.
        until: Last day to read.
        days: Number of trading days.
        source: File of the prices, for the messages.

    Raises:
        ContractError: the file as a whole cannot be used.
        CalibrationError: no price on or before ``until``.
    """
    listed = sorted(securities["security_id"].to_list())
    if prices.height and "date" in prices.columns and prices["date"].null_count():
        screen(prices.filter(pl.col("date").is_null()), "prices", source, by="security_id")
    if prices.height and prices.schema.get("date") == pl.Date:
        prices = prices.filter(pl.col("date") <= until)
        if not prices.height:
            raise CalibrationError(f"{source}: no price on or before {until}; give an earlier file or a later date")
        closed = closed_days(prices)
        _refuse_mostly_closed(prices, closed, source)
        kept = _open_days(prices, closed)[-days:]
        prices = prices.filter(pl.col("date").is_in(kept))
        closed = closed.filter(pl.col("date") > kept[0])
    else:
        closed = pl.DataFrame()
    admitted = screen(prices, "prices", source, by="security_id")
    notices = [notice for notice in admitted.notices if notice.severity != "quarantine"]
    notices += _closed_notices(closed, source)
    foreign = sorted(set(prices["security_id"].cast(pl.String).unique().to_list()) - set(listed))
    if foreign:
        shown = ", ".join(foreign[:5]) + (", ..." if len(foreign) > 5 else "")
        notices.append(Notice("prices.unlisted", "warn", f"{len(foreign)} priced ids are not listed: {shown}", source))
    rows = admitted.frame.filter(pl.col("security_id").is_in(listed))
    doubtful, sound = prices.clear(), set(rows["security_id"].unique().to_list())
    if admitted.frame.height < prices.height:
        doubtful = prices.filter(pl.col("security_id").is_in(sorted(set(listed) - sound)))
        usable = pl.col("close").is_between(SMALLEST_PRICE, LARGEST, closed="right")
        extra = doubtful.filter(usable & ~pl.struct("security_id", "date").is_duplicated())
        rows = pl.concat(
            [rows.select("security_id", "date", "close"), extra.select("security_id", "date", "close")],
            how="vertical_relaxed",
        )
    if not rows.height:
        raise CalibrationError(f"{source}: no listed security has a price on or before {until}{_repeated_keys(prices)}")
    names = Axis.of("security", rows["security_id"].unique().to_list())
    calendar = rows["date"].unique().sort()
    # A scatter by position: pivot takes ten times as long.
    close = np.full((len(calendar), len(names)), np.nan)
    at = np.searchsorted(calendar.to_numpy(), rows["date"].to_numpy())
    close[at, names.positions(rows["security_id"], source)] = rows["close"].to_numpy()
    dates = tuple(calendar.to_list())
    values = np.full(close.shape, np.nan)
    with np.errstate(invalid="ignore"):
        values[1:] = close[1:] / close[:-1] - 1.0
    values, moves = _without_splits(values, names, dates, source)
    return PriceHistory(dates, names, close, values, doubtful, tuple(notices), moves, source)


def trading_days(prices: pl.DataFrame) -> list[dt.date]:
    """The weekdays on which a usual share of the names is priced and not filled forward, in order."""
    return _open_days(prices, closed_days(prices))


def _open_days(prices: pl.DataFrame, closed: pl.DataFrame) -> list[dt.date]:
    usual = (
        pl.col("len")
        .rolling_median(USUAL_DAYS, min_samples=USUAL_START)
        .backward_fill()
        .fill_null(pl.col("len").median())
    )
    open_days = prices.filter(~pl.col("date").is_in(closed["date"].to_list()))
    days = open_days.group_by("date").len().sort("date").with_columns(pl.col("len").cast(pl.Float64))
    return days.filter(pl.col("len") >= CALENDAR_SHARE * usual)["date"].to_list()


def closed_days(prices: pl.DataFrame) -> pl.DataFrame:
    """Dates with rows on which no exchange can have traded, in order.

    Saturdays and Sundays, and weekdays on which at least 95 % of ten names or more repeat
    the close of their row before to the last digit (3 % do on the stillest real day). Where
    more than half of the weekdays repeat, none counts.

    Args:
        prices: Columns ``security_id``, ``date``, ``close``; none of the dates is null.

    Returns:
        Columns ``date`` and ``weekend``.
    """
    weekend = pl.col("date").dt.weekday() > WEEK
    weekends = prices.filter(weekend).select("date").unique().with_columns(pl.lit(True).alias("weekend"))
    if not {"security_id", "close"} <= set(prices.columns):
        return weekends.sort("date")
    ordered = prices.filter(~weekend).select("security_id", "date", "close").sort("security_id", "date")
    follows = (pl.col("security_id") == pl.col("security_id").shift(1)) & (pl.col("date") > pl.col("date").shift(1))
    same = pl.when(follows).then(pl.col("close") == pl.col("close").shift(1)).alias("same")
    filled = (
        ordered.select("date", same)
        .group_by("date")
        .agg(pl.col("same").mean(), pl.col("same").count().alias("names"))
        .filter((pl.col("same") >= REPEATED_SHARE) & (pl.col("names") >= REPEATED_NAMES))
        .select("date", pl.lit(False).alias("weekend"))
    )
    # Where most days repeat, the file stands still: its series are stale, not its days closed.
    days = ordered["date"].n_unique()
    return pl.concat([weekends, filled if 2 * filled.height <= days else filled.clear()]).sort("date")


def _without_splits(
    values: Float[np.ndarray, "n_days n_securities"], names: Axis, dates: tuple[dt.date, ...], source: str
) -> tuple[Float[np.ndarray, "n_days n_securities"], tuple[tuple[int, str, Notice], ...]]:
    """Returns without those that look like a split, and what was noticed in which row."""
    ratio = 1.0 + values
    split, suspect = np.zeros(values.shape, dtype=bool), np.zeros(values.shape, dtype=bool)
    for number in (*SPLIT_RATIOS, *(1.0 / n for n in SPLIT_RATIOS)):
        split |= np.abs(ratio / number - 1.0) <= SPLIT_TOLERANCE
        suspect |= np.abs(ratio / number - 1.0) <= SPLIT_SUSPICION
    found = []
    for t, i in np.argwhere(split):
        words = f"{names.labels[i]}: the move of {values[t, i]:+.1%} on {dates[t]} looks like a split; return dropped"
        found.append((int(t), names.labels[i], Notice("prices.split", "warn", words, source)))
    for t, i in np.argwhere(((np.abs(values) > LARGE_MOVE) | suspect) & ~split):
        asked = split_question(float(ratio[t, i]))
        words = f"{names.labels[i]}: moved {values[t, i]:+.1%} on {dates[t]}; kept{asked}"
        found.append((int(t), names.labels[i], Notice("prices.large_move", "warn", words, source)))
    return np.where(split, np.nan, values), tuple(found)


def split_question(ratio: float) -> str:
    """``; split 10:1?`` where a price ratio is within 10 % of one or of its inverse, else nothing."""
    for number in SPLIT_RATIOS:
        if abs(ratio * number - 1.0) <= SPLIT_SUSPICION:
            return f"; split {number:g}:1?"
        if abs(ratio / number - 1.0) <= SPLIT_SUSPICION:
            return f"; split 1:{number:g}?"
    return ""


def _refuse_mostly_closed(prices: pl.DataFrame, closed: pl.DataFrame, source: str) -> None:
    """Refuse a file most of whose rows are dated on days without trading: dropping them would leave a guess."""
    weekend = pl.col("date").is_in(closed.filter("weekend")["date"].to_list())
    rows = prices.filter(weekend).height
    if 2 * rows > prices.height:
        raise CalibrationError(
            f"{source}: {rows} of {prices.height} rows are dated on a Saturday or Sunday; are the dates shifted? "
            "Give the market's own dates"
        )


def _closed_notices(closed: pl.DataFrame, source: str) -> list[Notice]:
    """One warning for the weekends and one for the repeated days that were dropped, each by date."""
    if not closed.height:
        return []
    words = {
        True: ("prices.weekend", "dated on a Saturday or Sunday"),
        False: ("prices.repeated_day", f"on which {REPEATED_SHARE:.0%} of the names or more repeat their last close"),
    }
    notices = []
    for weekend, (code, why) in words.items():
        days = closed.filter(pl.col("weekend") == weekend)["date"].to_list()
        if days:
            shown = ", ".join(map(str, days[:5])) + (", ..." if len(days) > 5 else "")
            message = f"{len(days)} day{'s' if len(days) > 1 else ''} {why}: {shown}; dropped"
            notices.append(Notice(code, "warn", message, source))
    return notices


def _repeated_keys(prices: pl.DataFrame) -> str:
    """What to add to a refusal where rows share their key: how many, and the first keys."""
    keys = prices.filter(pl.struct("security_id", "date").is_duplicated()).select("security_id", "date")
    if not keys.height:
        return ""
    first = "; ".join(f"{name}/{day}" for name, day in keys.unique().sort("security_id", "date").head(3).iter_rows())
    return (
        f" that is usable: {keys.height} of {prices.height} rows share security_id and date with another row "
        f"({keys.unique().height} keys; first: {first}); keep one close for each"
    )


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
