"""Stories held against the days they describe, and against ordinary days on which they must fail."""

import bisect
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from engine.contracts import CONTRACTS
from engine.curve.returns import PriceHistory, trading_days
from engine.curve.universe import Universe
from engine.errors import CalibrationError, ConfigurationError, ModelError
from engine.intake import Notice, screen
from engine.risk.tails import Tails
from engine.stress.backtest import (
    MONTH_OF_DAYS,
    Backtest,
    Rules,
    Told,
    calibrate_before,
    read_around,
    score_told,
    tails_before,
    tier_error,
)

MEASURED: Final = ("r2", "gain", "rank_correlation", "sign_accuracy", "band_coverage")


@dataclass(frozen=True, slots=True)
class Story:
    """What a model is told of some days.

    Args:
        shock: As ``engine backtest --shock`` writes it.
        told: The scenario, or what was observed.
        describes: The days it is about, in order.
    """

    shock: str
    told: Told
    describes: tuple[dt.date, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """How stories are tried.

    Args:
        band: Probability that a name's band holds.
        controls: Ordinary days on which every story is scored too.
        seed: Of the control days and the random books.
    """

    band: float
    controls: int
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Hindsight:
    """Scores of stories.

    Args:
        days: Table ``hindsight``.
        tiers: Table ``hindsight_tiers``.
        controls: By shock, the median of each score over its control days.
        notices: What was noticed in the prices, once a name; days set aside.
    """

    days: pl.DataFrame
    tiers: pl.DataFrame
    controls: dict[str, dict[str, float]]
    notices: tuple[Notice, ...]


def score_stories(
    prices: pl.DataFrame, universe: Universe, stories: Sequence[Story], *, trial: Trial, source: str = "prices"
) -> Hindsight:
    """Score every story on the days it describes and on common ordinary days.

    The model is that of the day before. A story of several days is scored over its horizon
    from the first day it describes, and again from the first one after that horizon. The
    controls are drawn without replacement from the ``history_days`` trading days that end
    one longest horizon before the first day described, so that none reaches into it. Each
    day is calibrated once for all stories. A day that cannot be scored is set aside with a
    notice.

    Args:
        prices: Table ``prices`` as read.
        universe: Tiers, securities, settings.
        stories: Each with its own shock.
        trial: Band, number of controls, seed.
        source: File of the prices, for the messages.

    Raises:
        CalibrationError: no day that is described can be scored, or too few days are left
            to draw the controls from.

    References:
        MATH.md 4. Oracle: ``backtest_event`` day by day, tests/test_hindsight.py.
    """
    if prices.schema.get("date") != pl.Date:
        screen(prices, "prices", source, by="security_id")
    calendar = trading_days(prices)
    events, notices = _events(stories, calendar, source)
    described = sorted({day for days in events.values() for day in days})
    if not described:
        words = "; ".join(notice.message for notice in notices) or "no scenario says which days it describes"
        raise CalibrationError(f"{source}: nothing to score: {words}")
    settings = universe.settings.calibration
    longest = max(stories, key=lambda story: story.told.horizon_days).told
    span = calendar.index(described[-1]) - calendar.index(described[0])
    days = span + settings.history_days * (2 if trial.controls else 1) + MONTH_OF_DAYS + longest.horizon_days
    widest = Rules(longest, trial.band, trial.seed)
    history = read_around(prices, universe, last=described[-1], days=days, rules=widest, source=source)
    drawn = _controls(history, universe, first=described[0], horizon=longest.horizon_days, trial=trial)
    scored: list[tuple[str, str, Told, Backtest]] = []
    tails: dict[tuple[int, int], Tails | None] = {}
    for day in sorted({*described, *drawn}):
        asked = [story for story in stories if day in drawn or day in events[story.shock]]
        kind = "control" if day in drawn else "event"
        month = (day.year, day.month)
        try:
            if month not in tails:
                tails[month] = tails_before(history, universe, day)
            calibration = calibrate_before(history, universe, day, tails[month])
        except (CalibrationError, ModelError) as error:
            notices.append(Notice("hindsight.day", "quarantine", f"{day} is not scored: {error}", source))
            continue
        for story in asked:
            rules = Rules(story.told, trial.band, trial.seed)
            try:
                one = score_told(history, universe, calibration, day, rules)
            except (CalibrationError, ConfigurationError) as error:
                words = f"{story.shock} is not scored on {day}: {error}"
                notices.append(Notice("hindsight.day", "quarantine", words, source))
            else:
                scored.append((story.shock, kind, story.told, one))
    if all(kind == "control" for _, kind, _, _ in scored):
        raise CalibrationError(f"no day that is described can be scored; {notices[-1].message}")
    frame = _days_frame(scored)
    seen: dict[tuple[str, str], Notice] = {}
    for notice in (notice for *_, one in scored for notice in one.notices):
        # "NAME: 35 daily returns" changes from day to day; the name needs to be said once.
        seen.setdefault((notice.code, notice.message.partition(":")[0]), notice)
    return Hindsight(frame, _tiers_frame(scored), _medians(frame), (*seen.values(), *notices))


def _events(
    stories: Sequence[Story], calendar: list[dt.date], source: str
) -> tuple[dict[str, list[dt.date]], list[Notice]]:
    """For each story the days from which it is scored."""
    events: dict[str, list[dt.date]] = {}
    notices = []
    place = {day: at for at, day in enumerate(calendar)}
    for story in stories:
        chosen, free = list[dt.date](), 0
        for day in story.describes:
            if day not in place:
                words = f"{story.shock} describes {day}, which is no trading day of these prices"
                notices.append(Notice("hindsight.day", "quarantine", words, source))
            elif place[day] >= free:
                chosen.append(day)
                free = place[day] + story.told.horizon_days
        events[story.shock] = chosen
    return events, notices


def _controls(
    history: PriceHistory, universe: Universe, *, first: dt.date, horizon: int, trial: Trial
) -> frozenset[dt.date]:
    """Ordinary days, the same for every story."""
    if not trial.controls:
        return frozenset()
    settings = universe.settings.calibration
    until = bisect.bisect_left(history.dates, first) - horizon + 1
    # A control needs a history of its own.
    pool = history.dates[settings.minimum_days + 1 : max(until, 0)][-settings.history_days :]
    if len(pool) < trial.controls:
        raise CalibrationError(
            f"{first}: {len(pool)} days before it can be controls, {trial.controls} were asked; ask for fewer"
        )
    rng = np.random.default_rng([trial.seed, first.toordinal()])
    return frozenset(pool[at] for at in rng.choice(len(pool), trial.controls, replace=False))


def _days_frame(scored: list[tuple[str, str, Told, Backtest]]) -> pl.DataFrame:
    rows = [
        {
            "shock": shock,
            "event_date": one.event_date,
            "kind": kind,
            "model_as_of": one.as_of,
            "horizon_days": told.horizon_days,
            **one.scores,
            "n": int(one.scores["n"]),
            "gain": one.figures["gain"],
            "tier_error": tier_error(one.tiers),
        }
        for shock, kind, told, one in scored
    ]
    columns = CONTRACTS["hindsight"].columns
    frame = pl.DataFrame(rows, schema_overrides=dict(columns), infer_schema_length=None)
    return frame.select(*columns).sort("shock", "event_date")


def _tiers_frame(scored: list[tuple[str, str, Told, Backtest]]) -> pl.DataFrame:
    parts = [
        one.tiers.with_columns(
            pl.lit(shock).alias("shock"), pl.lit(one.event_date).alias("event_date"), pl.lit(kind).alias("kind")
        )
        for shock, kind, _, one in scored
    ]
    return pl.concat(parts).select(*CONTRACTS["hindsight_tiers"].columns).sort("shock", "event_date", "tier")


def _medians(days: pl.DataFrame) -> dict[str, dict[str, float]]:
    controls = days.filter(pl.col("kind") == "control").group_by("shock").agg(pl.col(*MEASURED).median())
    return {row.pop("shock"): row for row in controls.sort("shock").iter_rows(named=True)}
