"""A tape of prints becomes one return a name, of one moment of the day."""

import datetime as dt
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Float

from engine.axes import Axis
from engine.conventions import MARKET
from engine.documents import suggestion
from engine.errors import ContractError, DataError
from engine.intake import Notice, screen

MOST_PRINTS: Final = 50
"""More prints are no longer a glance at the tape; a back-test takes the whole cross-section."""

PERCENT_LIKE: Final = 0.5
"""A typical name does not halve or grow by half in a day: such returns are in percent."""

_CLOCK: Final = r"(?:^|[ T])(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?$"
"""The time of day that ends a text: ``09:45``, ``09:45:30`` or ``2025-01-27T09:45:30``."""


@dataclass(frozen=True, slots=True)
class TapeRules:
    """Which prints count.

    Args:
        opens: First moment of the session, exchange time.
        closes: Last moment of the session.
        at: Prints after this are left out; None takes all.
        stale_minutes: A name whose latest print is older than this against the newest is left out.
    """

    opens: dt.time = dt.time(9, 30)
    closes: dt.time = dt.time(16, 0)
    at: dt.time | None = None
    stale_minutes: float = 30.0


@dataclass(frozen=True, slots=True)
class Tape:
    """The latest print of every name, at one moment.

    Args:
        names: Security ids, ``market`` for the market itself; sorted.
        returns: ``(n_prints,)``, return since the previous close.
        at: Time of the newest print.
        elapsed: Share of the session that has passed, in (0, 1].
        notices: Prints left out, by name.
    """

    names: tuple[str, ...]
    returns: Float[np.ndarray, " n_prints"]
    at: dt.time
    elapsed: float
    notices: tuple[Notice, ...]


def read_tape(frame: pl.DataFrame, known: Axis, rules: TapeRules, source: str) -> Tape:
    """The usable prints of a tape, one a name.

    A print counts when its name is a security of the model or ``market``, its return lies in
    [-1, 2], and its time lies after the open and not after ``at``. Of several the latest
    counts, unless it is older than ``stale_minutes`` against the newest of all names. What is
    left out is a notice that names it. ``elapsed = (t - open) / (close - open)``, 1 from the
    close on.

    Args:
        frame: Table ``tape`` as read; ``time`` is a text ``HH:MM[:SS]``, alone or after one
            date, a time or a timestamp without zone: exchange time.
        known: Securities of the model.
        rules: Session, moment, staleness.
        source: File of the tape, for the messages.

    Raises:
        ContractError: columns, types or times that cannot be read, two prints of one name at one time.
        DataError: no print can be used, more than 50, returns in percent, several dates.
    """
    timed = _with_seconds(frame, source)
    _refuse_percent(timed, source)
    _refuse_repeated(timed, source)
    screened = screen(timed, "tape", source, by="security_id")
    notices = list(screened.notices)
    rows = screened.frame
    seconds = pl.col("time").str.slice(0, 2).cast(pl.Int64) * 3600 + pl.col("time").str.slice(3, 2).cast(pl.Int64) * 60
    rows = rows.with_columns((seconds + pl.col("time").str.slice(6, 2).cast(pl.Int64)).alias("second"))
    rows = _among(rows, known, source, notices)
    rows = _in_session(rows, rules, source, notices)
    latest = rows.sort("security_id", "second").group_by("security_id", maintain_order=True).last()
    latest = _fresh(latest, rules, source, notices)
    if not latest.height:
        said = "".join(f"\n  - {notice.message}" for notice in notices)
        raise DataError(f"tape ({source}): no print can be used; give 1 to {MOST_PRINTS} of them{said}")
    if latest.height > MOST_PRINTS:
        raise DataError(
            f"tape ({source}): {latest.height} names; at most {MOST_PRINTS} are read, choose the most telling"
        )
    newest = int(latest["second"].max())  # type: ignore[arg-type]
    opens, closes = _second(rules.opens), _second(rules.closes)
    return Tape(
        names=tuple(latest["security_id"].to_list()),
        returns=latest["return"].to_numpy().astype(np.float64),
        at=dt.time(newest // 3600, newest // 60 % 60, newest % 60),
        elapsed=min((newest - opens) / (closes - opens), 1.0),
        notices=tuple(notices),
    )


def _with_seconds(frame: pl.DataFrame, source: str) -> pl.DataFrame:
    """The same with ``time`` as ``HH:MM:SS``, whatever could be read as one."""
    dtype = frame.schema.get("time")
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is not None:
            raise ContractError(
                f"tape ({source})", [f"column 'time' has the zone {dtype.time_zone}; give exchange time without a zone"]
            )
        _refuse_days(frame["time"].dt.date(), source)
        return frame.with_columns(pl.col("time").dt.strftime("%H:%M:%S"))
    if dtype == pl.Time:
        return frame.with_columns(pl.col("time").dt.strftime("%H:%M:%S"))
    if dtype != pl.String:
        return frame
    _refuse_days(frame["time"].str.extract(r"^(\d{4}-\d{2}-\d{2})[ T]"), source)
    parts = [pl.col("time").str.extract(_CLOCK, group).fill_null("0").str.zfill(2) for group in (1, 2, 3)]
    clock = pl.concat_str(parts, separator=":")
    readable = pl.col("time").str.contains(_CLOCK) & clock.str.to_time("%H:%M:%S", strict=False).is_not_null()
    return frame.with_columns(pl.when(readable).then(clock).otherwise("time").alias("time"))


def _refuse_days(days: pl.Series, source: str) -> None:
    found = days.drop_nulls().unique().sort().to_list()
    if len(found) > 1:
        raise DataError(
            f"tape ({source}): prints of {len(found)} dates, {found[0]} to {found[-1]}; a tape is one day's"
        )


def _refuse_percent(frame: pl.DataFrame, source: str) -> None:
    if "return" not in frame.columns or not frame.schema["return"].is_numeric():
        return
    sizes = frame["return"].cast(pl.Float64).fill_nan(None).drop_nulls().abs()
    typical = sizes.median()
    if isinstance(typical, float) and typical > PERCENT_LIKE:
        raise DataError(
            f"tape ({source}): the median size of 'return' is {typical:.4g}, which looks like percent; "
            "give fractions, -0.05 for -5 %"
        )


def _refuse_repeated(frame: pl.DataFrame, source: str) -> None:
    key = ["security_id", "time"]
    if not set(key) <= set(frame.columns):
        return
    twice = frame.filter(pl.struct(key).is_duplicated()).select(key).unique().sort(key, nulls_last=True)
    if twice.height:
        shown = "; ".join(f"{name} at {clock}" for name, clock in twice.head(3).iter_rows())
        raise ContractError(f"tape ({source})", [f"two prints of one name at one time: {shown}; keep one"])


def _among(rows: pl.DataFrame, known: Axis, source: str, notices: list[Notice]) -> pl.DataFrame:
    names = (MARKET, *known.labels)
    strangers = sorted(set(rows["security_id"].to_list()) - set(names))
    for name in strangers:
        words = f"print {name!r} is no security of the model{suggestion(name, names)}; it is left out"
        notices.append(Notice("tape.unknown", "warn", words, source))
    return rows.filter(~pl.col("security_id").is_in(strangers))


def _in_session(rows: pl.DataFrame, rules: TapeRules, source: str, notices: list[Notice]) -> pl.DataFrame:
    if rules.at is not None:
        rows = rows.filter(pl.col("second") <= _second(rules.at))
    early = rows.filter(pl.col("second") <= _second(rules.opens))
    rows = rows.filter(pl.col("second") > _second(rules.opens))
    gone = sorted(set(early["security_id"].to_list()) - set(rows["security_id"].to_list()))
    notices += [
        Notice("tape.before_open", "warn", f"print {name}: not after the open {rules.opens:%H:%M}; left out", source)
        for name in gone
    ]
    return rows


def _fresh(latest: pl.DataFrame, rules: TapeRules, source: str, notices: list[Notice]) -> pl.DataFrame:
    """Prints after the close are of the close: they make nothing stale that was printed at it."""
    capped = pl.min_horizontal("second", pl.lit(_second(rules.closes)))
    stale = (capped.max() - capped) > 60.0 * rules.stale_minutes
    notices += [
        Notice(
            "tape.stale",
            "warn",
            f"print {name}: {clock} is more than {rules.stale_minutes:g} minutes older than the newest; left out",
            source,
        )
        for name, clock in latest.filter(stale).select("security_id", "time").iter_rows()
    ]
    return latest.filter(~stale)


def _second(time: dt.time) -> int:
    return time.hour * 3600 + time.minute * 60 + time.second
