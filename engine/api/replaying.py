"""``observe_replays``: the realised returns of the days that scenarios replay."""

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.api.loading import LoadedUniverse
from engine.api.stressing import pick_scenarios
from engine.curve.returns import read_history
from engine.errors import UsageError
from engine.intake import Notice
from engine.scenarios.kinds import ReplayBody
from engine.store.files import Source, decode_table, read_source
from engine.stress.replay import ObservedDay, observe_days

DAYS_BEFORE = 15
"""Trading days read before the first replayed one: enough to tell a living series from a stale one."""


def observe_replays(
    loaded: LoadedUniverse,
    scenarios: Sequence[str],
    texts: Mapping[str, str],
    prices: str,
) -> tuple[Mapping[dt.date, ObservedDay], Source, tuple[Notice, ...]]:
    """The returns of every day that the scenarios replay, from a price file.

    Args:
        loaded: From ``load_universe``.
        scenarios: Ids of the library.
        texts: Further scenarios, file name to YAML text.
        prices: Parquet or CSV file of the table ``prices``.

    Returns:
        The days by date, for ``StressTerms``; the file read; and what was noticed in it.

    Raises:
        UsageError: none of the scenarios replays a day.
        CalibrationError: a date that is no trading day of these prices.
        ContractError: the prices cannot be used.
    """
    chosen, _ = pick_scenarios(loaded, scenarios, texts)
    replays = [one.body for scenario in chosen for one in scenario.family if isinstance(one.body, ReplayBody)]
    dates = sorted({day.date for body in replays for day in body.days})
    if not dates:
        raise UsageError("--prices: none of the scenarios replays a day; leave it out, or name a replay")
    source = read_source(Path(prices), "prices")
    span = (dates[-1] - dates[0]).days + DAYS_BEFORE
    securities = loaded.universe.securities
    history = read_history(
        decode_table(source, "prices"), securities, until=dates[-1], days=span, source=str(source.path)
    )
    return observe_days(history, loaded.universe, dates), source, history.notices
