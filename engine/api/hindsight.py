"""``score_library``: the scenarios of a universe on the days they describe, and on days they do not."""

from dataclasses import dataclass
from typing import Final

import polars as pl

from engine.api.backtesting import Terms, price_library
from engine.api.calibrating import read_inputs
from engine.conventions import MARKET
from engine.errors import UsageError
from engine.intake import Notice
from engine.store.files import Source, decode_table
from engine.stress.backtest import Told
from engine.stress.hindsight import Story, Trial, score_stories

CONTROLS: Final = 20
"""Ordinary days by default: their median moves little with the seed."""


@dataclass(frozen=True, slots=True)
class ScoredLibrary:
    """What the scenarios of a library were worth.

    Args:
        tables: ``hindsight`` and ``hindsight_tiers``.
        controls: By shock, the median of each score over its control days.
        notices: Of the prices and of the scenarios that were refused.
        sources: Every file read.
    """

    tables: dict[str, pl.DataFrame]
    controls: dict[str, dict[str, float]]
    notices: tuple[Notice, ...]
    sources: tuple[Source, ...]


def score_library(
    prices: str,
    *,
    universe: str = "ai_curve",
    securities: str | None = None,
    baskets: str | None = None,
    controls: int = CONTROLS,
    seed: int = 0,
) -> ScoredLibrary:
    """Score each scenario that says which days it describes.

    Each is applied with its own numbers to the model of the day before; nothing realised
    reaches it, not even a replay's names. Beside them stand, on the days that the
    universe's default scenario describes, what the model says when it is told just two
    returns (the market's and the first tier's, the rest propagated), and when it is told
    those of all baskets.

    Args:
        prices: Parquet or CSV file of the table ``prices``.
        universe: Bundled name or folder, for tiers, settings and scenarios.
        securities: File to use instead of the universe's securities.
        baskets: CSV (tier, security_id) to use instead of the universe's core names.
        controls: Ordinary days on which each is scored too.
        seed: Of the control days.

    Raises:
        EngineError: a leaf that names the file at fault and the remedy.
    """
    if controls < 0:
        raise UsageError(f"--controls {controls} is negative; give 0 or more")
    terms = Terms(seed=seed)
    given = read_inputs(prices, universe, securities, baskets)
    settings = given.universe.settings
    good, refused = price_library(given).everything()
    stories = [
        Story(f"scenario:{name}", Told(scenario=scenario), scenario.body.describes)
        for name, scenario in good.items()
        if scenario.body.describes
    ]
    if not stories:
        raise UsageError(f"universe {settings.id}: no scenario says which days it describes; write describes: [DATE]")
    if settings.stress.scenario in good:
        days = good[settings.stress.scenario].body.describes
        first = settings.tier_ids[0]
        two = Story(f"observed:{MARKET},{first}", Told((MARKET, first), "conditional"), days)
        stories += [two, Story("baskets", Told.baskets(given.universe), days)]
    trial = Trial(settings.stress.band, controls, terms.seed)
    source = str(given.prices.path)
    result = score_stories(decode_table(given.prices, "prices"), given.universe, stories, trial=trial, source=source)
    doubts = [
        Notice("scenario.refused", "warn", f"not scored: {'; '.join(faults)}", "scenarios")
        for _, faults in sorted(refused.items())
    ]
    return ScoredLibrary(
        {"hindsight": result.days, "hindsight_tiers": result.tiers},
        result.controls,
        (*given.notices, *doubts, *result.notices),
        given.sources,
    )
