"""``backtest`` and ``backtest_days``: a model meets days that it has not seen."""

import datetime as dt
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from engine.api.calibrating import PriceInputs, read_inputs
from engine.conventions import MARKET
from engine.curve.industries import industry_ids
from engine.curve.universe import Universe
from engine.documents import suggestion
from engine.errors import UsageError
from engine.scenarios.library import ScenarioLibrary, read_library
from engine.scenarios.scenario import Scenario
from engine.store.files import Source, decode_table, decode_text, read_source
from engine.stress.backtest import Backtest, Rules, Told, backtest_event
from engine.stress.backtest_days import BacktestDays, Range, backtest_range

SHOCKS: Final = "baskets, observed:market,TIER,.., views:FILE or scenario:ID"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a model is told of a day, and how it is scored.

    Args:
        shock: ``baskets`` (the returns of the market and of every basket, as they stand),
            ``observed:market,ai_semis`` (those returns, and the rest as it usually moves with
            them), ``views:FILE`` or ``scenario:ID`` (the numbers and the propagation of a
            scenario; nothing realised is filled in).
        band: Probability of the bands; the universe's when None.
        seed: Of the random books and of the control days.

    Raises:
        UsageError: another shock, a band that is no probability, a seed below 0.
    """

    shock: str = "baskets"
    band: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        kind, _, rest = self.shock.partition(":")
        if kind not in {"baskets", "observed", "views", "scenario"} or bool(rest) != (kind != "baskets"):
            raise UsageError(f"--shock {self.shock!r} is not known; write {SHOCKS}")
        if self.band is not None and not 0.0 < self.band < 1.0:
            raise UsageError(f"band {self.band:g} is no probability; give one between 0 and 1, e.g. 0.8")
        if self.seed < 0:
            raise UsageError(f"seed {self.seed} is negative; give 0 or more")


@dataclass(frozen=True, slots=True)
class ManyDays:
    """Scores of many days and every file that was read for them."""

    result: BacktestDays
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Days:
    """Which days are scored: dates in order, or all trading days of a span.

    Args:
        dates: Trading days, each once, in order.
        since: First day of a span; None without one.
        until: Last day of a span.
        controls: Ordinary days drawn for each event.

    Raises:
        UsageError: no day, both ways of saying it, a date twice or out of order, a span backwards.
    """

    dates: tuple[dt.date, ...] = ()
    since: dt.date | None = None
    until: dt.date | None = None
    controls: int = 0

    def __post_init__(self) -> None:
        if (self.since is None) != (self.until is None):
            raise UsageError("--from and --to belong together: the first and the last day of the range")
        if bool(self.dates) == (self.since is not None):
            raise UsageError("give the days once: --event-date, --dates or --from with --to")
        if self.since is not None and self.until is not None and self.since > self.until:
            raise UsageError(f"--from {self.since} is after --to {self.until}; turn them round")
        if twice := sorted({day for day in self.dates if self.dates.count(day) > 1}):
            raise UsageError(f"--dates names {', '.join(map(str, twice))} more than once; name each day once")
        for early, late in zip(self.dates, self.dates[1:], strict=False):
            if late < early:
                raise UsageError(f"--dates: {late} stands after {early}; write the days in order")
        if self.controls < 0:
            raise UsageError(f"--controls {self.controls} is negative; give 0 or more")


def backtest(
    prices: str,
    event_date: dt.date,
    *,
    universe: str = "ai_curve",
    securities: str | None = None,
    baskets: str | None = None,
    terms: Terms | None = None,
) -> Backtest:
    """Score the model of the day before an event on the event.

    Args:
        prices: Parquet or CSV file of the table ``prices``.
        event_date: The day to score.
        universe: Bundled name or folder, for tiers and settings.
        securities: File to use instead of the universe's securities.
        baskets: CSV (tier, security_id) to use instead of the universe's core names.
        terms: What the model is told, its band and seed; the baskets when None.

    Raises:
        EngineError: a leaf that names the file at fault and the remedy.
    """
    terms = terms or Terms()
    given = read_inputs(prices, universe, securities, baskets)
    result = backtest_event(
        decode_table(given.prices, "prices"),
        given.universe,
        event_date=event_date,
        rules=_rules(terms, given, []),
        source=str(given.prices.path),
    )
    return replace(result, notices=(*given.notices, *result.notices))


def backtest_days(
    prices: str,
    days: Days,
    *,
    universe: str = "ai_curve",
    securities: str | None = None,
    baskets: str | None = None,
    terms: Terms | None = None,
) -> ManyDays:
    """Score many days, each with the model of the day before.

    Args:
        prices: Parquet or CSV file of the table ``prices``; read once.
        days: The days and their controls.
        universe: Bundled name or folder, for tiers and settings.
        securities: File to use instead of the universe's securities.
        baskets: CSV (tier, security_id) to use instead of the universe's core names.
        terms: What the model is told, its band and seed; the baskets when None.

    Raises:
        EngineError: a leaf that names the file at fault and the remedy.
    """
    terms = terms or Terms()
    given = read_inputs(prices, universe, securities, baskets)
    views: list[Source] = []
    span = None if days.since is None or days.until is None else Range(days.since, days.until)
    result = backtest_range(
        decode_table(given.prices, "prices"),
        given.universe,
        events=span or days.dates,
        rules=_rules(terms, given, views),
        controls=days.controls,
        source=str(given.prices.path),
    )
    result = replace(result, notices=(*given.notices, *result.notices))
    return ManyDays(result, (*given.sources, *views))


def _rules(terms: Terms, given: PriceInputs, views: list[Source]) -> Rules:
    """The terms on this universe; a file of views that is read joins ``views``."""
    kind, _, rest = terms.shock.partition(":")
    if kind == "baskets":
        told = Told.baskets(given.universe)
    elif kind == "observed":
        told = Told(_observed(rest, given.universe), "conditional")
    else:
        told = Told(scenario=_scenario(kind, rest, given, views))
    return Rules(told, terms.band or given.universe.settings.stress.band, terms.seed)


def _observed(text: str, universe: Universe) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    known = (MARKET, *universe.settings.tier_ids)
    if unknown := [name for name in names if name not in known]:
        words = "; ".join(f"no tier {name!r}{suggestion(name, known)}" for name in unknown)
        raise UsageError(f"--shock observed: {words}")
    if len(set(names)) != len(names):
        raise UsageError(f"--shock observed: {text} names something twice")
    return names


def price_library(given: PriceInputs) -> ScenarioLibrary:
    """The universe's scenarios, which may name what its settings and securities have: there is no model yet."""
    settings = given.universe.settings
    vocabulary = {
        "factor": (MARKET, *settings.tier_ids, *industry_ids(given.universe)),
        "tier": settings.tier_ids,
        "security": tuple(given.universe.securities["security_id"].to_list()),
    }
    return read_library(given.scenarios, vocabulary)


def _scenario(kind: str, name: str, given: PriceInputs, sources: list[Source]) -> Scenario:
    library = price_library(given)
    if kind == "views":
        sources.append(read_source(Path(name), name, may_be_empty=True))
        library, name = library.with_text(decode_text(sources[0]), name)
    return library.scenario(name)
