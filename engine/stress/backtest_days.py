"""Many days the model has not seen, each scored with the model of the day before."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from jaxtyping import Float

from engine.contracts import CONTRACTS
from engine.curve.returns import PriceHistory, trading_days
from engine.curve.universe import Universe
from engine.errors import CalibrationError, ConfigurationError, EngineError, ModelError
from engine.intake import Notice, screen
from engine.risk.tails import Tails
from engine.stress.backtest import MONTH_OF_DAYS, Backtest, Rules, read_around, score_day, tails_before, tier_error

MEASURED: Final = (
    "gain",
    "r2",
    "rank_correlation",
    "sign_accuracy",
    "band_coverage",
    "book_error",
    "book_error_market_only",
)

WIDEST: Final = 10
"""Days of the widest tier spread that are summed up by themselves."""


@dataclass(frozen=True, slots=True)
class Range:
    """All trading days from ``first`` to ``last``, both included."""

    first: dt.date
    last: dt.date


@dataclass(frozen=True, slots=True)
class BacktestDays:
    """Scores of many days.

    Args:
        days: Table ``backtest_days``; ``kind`` is ``event`` or ``control``.
        names: Table ``backtest_names``.
        tiers: ``event_date kind tier stated predicted realised``.
        summary: ``events``, ``widest`` (the events of widest tier spread) and ``controls``, each
            with means, medians and pooled band coverage; ``tiers`` of those not stated.
        notices: What was noticed in the prices, once a name; days set aside.
    """

    days: pl.DataFrame
    names: pl.DataFrame
    tiers: pl.DataFrame
    summary: dict[str, Any]
    notices: tuple[Notice, ...]


def backtest_range(
    prices: pl.DataFrame,
    universe: Universe,
    *,
    events: Sequence[dt.date] | Range,
    rules: Rules,
    controls: int = 0,
    source: str = "prices",
) -> BacktestDays:
    """Score each day with the model of the day before; prices are read once.

    Every day has its own exposures, covariance and specific risk; the tails are fitted once
    a month, on days before that month. A day that cannot be scored is set aside with a
    notice. Controls are ``controls`` days drawn without replacement for each event from the
    ``history_days`` trading days before it that are no event themselves.

    Args:
        prices: Table ``prices`` as read.
        universe: Tiers, securities, settings.
        events: Trading days in order, or a range of them.
        rules: What the model is told, and how it is scored.
        controls: Ordinary days for each event.
        source: File of the prices, for the messages.

    Raises:
        CalibrationError: a date is no trading day, no day can be scored, or too few days
            before an event can be its control.
    """
    if prices.schema.get("date") != pl.Date:
        screen(prices, "prices", source, by="security_id")
    calendar = trading_days(prices)
    chosen = _events(events, calendar, source)
    history_days = universe.settings.calibration.history_days
    first = calendar.index(chosen[0])
    reach = history_days * (2 if controls else 1) + MONTH_OF_DAYS
    days = calendar.index(chosen[-1]) - first + reach
    history = read_around(prices, universe, last=chosen[-1], days=days, rules=rules, source=source)
    drawn = _controls(chosen, history, universe, count=controls, seed=rules.seed)
    scored, notices = _score_all(history, universe, [*drawn, *chosen], rules)
    kinds = ["control" if one.event_date in drawn else "event" for one in scored]
    if "event" not in kinds:
        raise CalibrationError(f"no event can be scored; {notices[-1].message}")
    frame = _days_frame(scored, kinds)
    names = pl.concat([one.names.with_columns(pl.lit(one.event_date).alias("event_date")) for one in scored])
    tiers = pl.concat(
        [
            one.tiers.select(pl.lit(one.event_date).alias("event_date"), pl.lit(kind).alias("kind"), pl.all())
            for one, kind in zip(scored, kinds, strict=True)
        ]
    ).sort("event_date", "kind", maintain_order=True)
    columns = CONTRACTS["backtest_names"].columns
    return BacktestDays(
        frame, names.select(*columns).sort("event_date", "security_id"), tiers, _summary(frame, tiers), tuple(notices)
    )


def _events(events: Sequence[dt.date] | Range, calendar: list[dt.date], source: str) -> list[dt.date]:
    if isinstance(events, Range):
        inside = [day for day in calendar if events.first <= day <= events.last]
        if not inside:
            span = f"; they run from {calendar[0]} to {calendar[-1]}" if calendar else ""
            raise CalibrationError(f"{source}: no trading day from {events.first} to {events.last}{span}")
        return inside
    known = set(calendar)
    if absent := [day.isoformat() for day in events if day not in known]:
        span = f"; they run from {calendar[0]} to {calendar[-1]}" if calendar else ""
        raise CalibrationError(f"{source}: not trading days of these prices: {', '.join(absent)}{span}")
    return list(events)


def _controls(
    events: list[dt.date], history: PriceHistory, universe: Universe, *, count: int, seed: int
) -> list[dt.date]:
    """The control days of all events, each once, in order."""
    settings = universe.settings.calibration
    taken, drawn = set(events), set[dt.date]()
    for event in events if count else ():
        # A control needs a history of its own.
        before = [day for day in history.dates[settings.minimum_days + 1 :] if day < event]
        pool = [day for day in before[-settings.history_days :] if day not in taken]
        if len(pool) < count:
            raise CalibrationError(
                f"{event}: {len(pool)} days before it can be its controls, {count} were asked; "
                "ask for fewer, or for fewer events"
            )
        rng = np.random.default_rng([seed, event.toordinal()])
        drawn |= {pool[i] for i in rng.choice(len(pool), count, replace=False)}
    return sorted(drawn)


def _score_all(
    history: PriceHistory, universe: Universe, days: list[dt.date], rules: Rules
) -> tuple[list[Backtest], list[Notice]]:
    tails: dict[tuple[int, int], Tails | None] = {}
    scored: list[Backtest] = []
    seen: dict[tuple[str, str], Notice] = {}
    refused: list[Notice] = []
    for day in sorted(days):
        month = (day.year, day.month)
        try:
            if month not in tails:
                tails[month] = tails_before(history, universe, day)
            one = score_day(history, universe, event_date=day, tails=tails[month], rules=rules)
        except (CalibrationError, ConfigurationError, ModelError) as error:
            refused.append(_set_aside(day, error, history.source))
            continue
        scored.append(one)
        for notice in one.notices:
            # "NAME: 35 daily returns" changes from day to day; the name needs to be said once.
            seen.setdefault((notice.code, notice.message.partition(":")[0]), notice)
    return scored, [*seen.values(), *refused]


def _set_aside(day: dt.date, error: EngineError, source: str) -> Notice:
    return Notice("backtest.day", "quarantine", f"{day} is not scored: {error}", source)


def _days_frame(scored: list[Backtest], kinds: list[str]) -> pl.DataFrame:
    rows = [
        {
            "event_date": one.event_date,
            "kind": kind,
            "model_as_of": one.as_of,
            **one.scores,
            **one.figures,
            "tier_error": tier_error(one.tiers),
            "n": int(one.scores["n"]),
        }
        for one, kind in zip(scored, kinds, strict=True)
    ]
    columns = CONTRACTS["backtest_days"].columns
    frame = pl.DataFrame(rows, schema_overrides=dict(columns), infer_schema_length=None)
    return frame.with_columns(pl.col("tier_spread").fill_nan(None)).select(*columns).sort("event_date")


def _summary(frame: pl.DataFrame, tiers: pl.DataFrame) -> dict[str, Any]:
    events = frame.filter(pl.col("kind") == "event")
    widest = events.drop_nulls("tier_spread").sort("tier_spread", "event_date", descending=True).head(WIDEST)
    summary: dict[str, Any] = {"events": _averages(events)}
    summary["widest"] = {**_averages(widest), "dates": widest["event_date"].to_list()}
    summary["controls"] = _averages(frame.filter(pl.col("kind") == "control"))
    summary["tiers"] = _tier_summary(tiers.filter((pl.col("kind") == "event") & ~pl.col("stated")).drop_nulls())
    return summary


def _averages(days: pl.DataFrame) -> dict[str, Any]:
    if not days.height:
        return {"days": 0}
    column = {name: days[name].to_numpy() for name in (*MEASURED, "n", "book_pnl")}
    pnl = float(column["book_pnl"].sum())
    return {
        "days": days.height,
        "gain_mean": float(column["gain"].mean()),
        "gain_median": float(np.median(column["gain"])),
        "r2_mean": float(column["r2"].mean()),
        "r2_median": float(np.median(column["r2"])),
        "rank_correlation_mean": float(column["rank_correlation"].mean()),
        "sign_accuracy_mean": float(column["sign_accuracy"].mean()),
        "band_coverage": float(np.average(column["band_coverage"], weights=column["n"])),
        "band_coverage_lowest": float(column["band_coverage"].min()),
        "band_coverage_highest": float(column["band_coverage"].max()),
        "book_error_share": float(column["book_error"].sum()) / pnl if pnl > 0.0 else None,
        "book_error_share_market_only": float(column["book_error_market_only"].sum()) / pnl if pnl > 0.0 else None,
        "book_error_to_market_only": _ratio(column["book_error"], column["book_error_market_only"]),
    }


def _ratio(error: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"]) -> float | None:
    return float(error.sum() / other.sum()) if other.any() else None


def _tier_summary(tiers: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """For each tier that was not stated: how far its propagated total is from the realised one."""
    out = {}
    for tier in tiers["tier"].unique(maintain_order=True):
        rows = tiers.filter(pl.col("tier") == tier)
        miss = (rows["predicted"] - rows["realised"]).to_numpy()
        size = float((rows["realised"].to_numpy() ** 2).sum())
        out[tier] = {
            "days": rows.height,
            "mean_absolute_error": float(np.abs(miss).mean()),
            "mean_absolute_return": float(np.abs(rows["realised"].to_numpy()).mean()),
            "explained": float(1.0 - (miss**2).sum() / size) if size > 0.0 else 0.0,
        }
    return out
