"""Books on the model's axis, and the library's stories on the same: what several verbs begin with."""

import datetime as dt
from typing import Final

from engine.api.loading import LoadedUniverse
from engine.errors import ConfigurationError, DataError
from engine.intake import Notice
from engine.risk.model import RiskModel
from engine.risk.portfolios import Portfolios, weigh_holdings
from engine.stress.outcome import Outcome, unfold

STALE_MODEL_DAYS: Final = 31


def weigh_books(loaded: LoadedUniverse) -> tuple[Portfolios, tuple[Notice, ...]]:
    """The books of a universe as weights, and what was noticed in them and in the model's date.

    Raises:
        DataError: no book can be measured.
    """
    portfolios, notices = weigh_holdings(
        loaded.holdings,
        loaded.portfolios,
        model=loaded.model,
        curve=loaded.curve,
        universe=loaded.universe,
        as_of=loaded.as_of,
    )
    if not len(portfolios.ids):
        faults = "\n".join(f"  - {n.portfolio_id}: {n.message}" for n in notices if n.severity == "quarantine")
        raise DataError(f"holdings: no book can be measured\n{faults}")
    return portfolios, (*notices, *_date_doubts(loaded, portfolios.as_of))


def unfold_library(loaded: LoadedUniverse, model: RiskModel) -> tuple[tuple[Outcome, ...], tuple[Notice, ...]]:
    """Every scenario of the library that can run, to compare with; one that cannot is only a warning here."""
    outcomes, doubts = list[Outcome](), list[Notice]()
    good, refused = loaded.library.everything()
    faults = {name: "; ".join(words) for name, words in refused.items()}
    for name, scenario in good.items():
        try:
            outcomes.append(unfold(scenario, model, loaded.curve, history=loaded.history))
        except ConfigurationError as error:
            faults[name] = "; ".join(error.faults)
    for name in sorted(faults):
        doubts.append(Notice("scenario.not_compared", "warn", f"not compared: {faults[name]}", "scenarios"))
    return tuple(outcomes), tuple(doubts)


def _date_doubts(loaded: LoadedUniverse, as_of: dt.date) -> list[Notice]:
    """A warning when the model has seen days after the holdings, or is older than a month."""
    model = loaded.model.as_of
    if as_of < model:
        words = f"the model has seen days up to {model}, after the holdings of {as_of}"
    elif (as_of - model).days > STALE_MODEL_DAYS:
        words = (
            f"the model of {model} is {(as_of - model).days} days older than the holdings of {as_of}; calibrate again"
        )
    else:
        return []
    return [Notice("model.date", "warn", words, "model")]
