"""``stress_portfolios``: every book of a universe under scenarios."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from engine.api.loading import LoadedUniverse
from engine.api.weighing import weigh_books
from engine.book.assess import Yardstick, assess, shock_table, summarise
from engine.book.budgets import unmeasured_budgets
from engine.book.overnight import risk_moves
from engine.errors import ConfigurationError
from engine.intake import Notice, notices_frame
from engine.mandates.horizons import check_horizons
from engine.risk.portfolios import Portfolios, weigh_benchmarks
from engine.scenarios.scenario import Scenario
from engine.stress.disagreement import ModelMoves, apply_models
from engine.stress.liquidity import measure_depth, unknown_volumes
from engine.stress.outcome import Outcome, unfold
from engine.stress.plausibility import summarise_scenarios
from engine.stress.replay import ObservedDay


@dataclass(frozen=True, slots=True)
class StressTerms:
    """What a stress is run under.

    Args:
        observed: Days that replays may read, from ``observe_replays``.
        require_approved: Refuse scenarios without an approval that holds on the holdings' date.
        previous: Risk tier by portfolio in the run before; a portfolio that it lacks has no hysteresis.
        risk_before: Volatility by portfolio in the run before; a change beyond a quarter is told.
    """

    observed: Mapping[dt.date, ObservedDay] = field(default_factory=dict)
    require_approved: bool = False
    previous: Mapping[str, str] = field(default_factory=dict)
    risk_before: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StressResult:
    """Losses of every sound book and parent, and what had to be left out.

    Args:
        as_of: Date of the holdings.
        tables: Output tables by contract name.
        refused: Faults of scenarios that could not run while others did.
        notices: What was noticed in the inputs.
    """

    as_of: dt.date
    tables: Mapping[str, pl.DataFrame]
    refused: tuple[str, ...]
    notices: tuple[Notice, ...]


def stress_portfolios(
    loaded: LoadedUniverse,
    scenarios: Sequence[str] = (),
    *,
    texts: Mapping[str, str] | None = None,
    band: float | None = None,
    terms: StressTerms | None = None,
) -> StressResult:
    """Stress the books of a universe.

    Args:
        loaded: From ``load_universe``.
        scenarios: Ids of the library; the universe's default when neither they nor texts are given.
        texts: Further scenarios, file name to YAML text.
        band: Probability of the loss band; the universe's when None.
        terms: Days that replays may read, whether approval is asked for, the run before.

    Returns:
        ``portfolio_summary``, ``portfolio_exposures``, ``portfolio_curve``, ``stress``, its cuts and
        models, ``shocks``, ``scenario_summary``, ``scenario_factors``, ``exceptions``.

    Raises:
        UsageError: a scenario that the library does not have.
        ConfigurationError: no scenario can run.
        DataError: no book can be measured.
    """
    ready = prepare(loaded, scenarios, texts or {}, terms)
    portfolios, outcomes = ready.portfolios, list(ready.outcomes)
    level = band if band is not None else loaded.universe.settings.stress.band
    benchmarks, unusable = weigh_benchmarks(loaded.benchmarks, portfolios)
    # A book is stressed without its benchmark all the same; only its active figures are missing.
    notices = (
        *ready.notices,
        *(replace(notice, severity="warn") for notice in unusable),
        *unmeasured_budgets(portfolios, loaded.mandates, benchmarks),
    )
    settings = loaded.universe.settings.stress
    depth = measure_depth(portfolios.model, loaded.universe.securities, settings.liquidity.half_spread_bps)
    previous = terms.previous if terms is not None else {}
    yardstick = Yardstick(loaded.curve, loaded.mandates, benchmarks, level, ready.moves, depth, settings, previous)
    tables = assess(portfolios, outcomes, yardstick, stage="before")
    tables["portfolio_summary"] = summarise(portfolios, yardstick, stage="before", stress=tables["stress"], status={})
    notices = (*notices, *risk_moves(tables["portfolio_summary"], terms.risk_before if terms is not None else {}))
    tables["shocks"] = shock_table(portfolios, outcomes)
    tables |= summarise_scenarios(outcomes, loaded.history, settings)
    tables["exceptions"] = notices_frame(notices)
    return StressResult(portfolios.as_of, tables, ready.refused, notices)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Books on the model's axis and the shocks to apply to them.

    Args:
        portfolios: Weights of books and parents.
        outcomes: One a scenario that can run, on the portfolios' model.
        moves: The same scenarios under the second models too; None where there are none.
        refused: Faults of the scenarios that cannot.
        notices: What was noticed in the inputs.
    """

    portfolios: Portfolios
    outcomes: tuple[Outcome, ...]
    moves: ModelMoves | None
    refused: tuple[str, ...]
    notices: tuple[Notice, ...]


def prepare(
    loaded: LoadedUniverse, scenarios: Sequence[str], texts: Mapping[str, str], terms: StressTerms | None = None
) -> Prepared:
    """Weigh the books and work out the shocks: the common first half of stress and rebalance.

    Raises:
        UsageError: a scenario that the library does not have.
        ConfigurationError: no scenario can run, or a budget is for another horizon than its scenario.
        DataError: no book can be measured.
    """
    terms = terms or StressTerms()
    chosen, refused = pick_scenarios(loaded, scenarios, texts)
    check_horizons(loaded.mandates, {scenario.id: scenario.body.horizon_days for scenario in chosen})
    portfolios, notices = weigh_books(loaded)
    if terms.require_approved:
        chosen, lacking = _unapproved(chosen, portfolios.as_of)
        refused += lacking
    outcomes: list[Outcome] = []
    for scenario in chosen:
        try:
            outcomes.append(unfold(scenario, portfolios.model, loaded.curve, terms.observed, loaded.history))
        except ConfigurationError as error:
            refused += error.faults
    if not outcomes:
        raise ConfigurationError(refused)
    doubts = [
        *(doubt for outcome in outcomes for doubt in _doubts(outcome, portfolios)),
        *unknown_volumes(portfolios, loaded.universe.securities),
    ]
    moves = None
    if loaded.alternatives:
        moves = apply_models(outcomes, loaded.alternatives, loaded.curve, terms.observed, loaded.history)
    return Prepared(portfolios, tuple(outcomes), moves, tuple(refused), (*notices, *doubts))


def _doubts(outcome: Outcome, portfolios: Portfolios) -> list[Notice]:
    """Warnings about a scenario that runs: expired, worse than a total loss, or of a fund that is seen through."""
    body, name = outcome.scenario.body, outcome.scenario.id
    doubts = []
    if body.valid_until is not None and body.valid_until < portfolios.as_of:
        words = f"scenario {name} was valid until {body.valid_until}; review it"
        doubts.append(Notice("scenario.expired", "warn", words, "scenarios"))
    gone = [outcome.model.securities.labels[i] for i in np.flatnonzero(outcome.total < -1.0)]
    if gone:
        shown = ", ".join(gone[:3]) + (", ..." if len(gone) > 3 else "")
        words = f"scenario {name} takes more than 100 % from {len(gone)} names ({shown}): too large for a linear model"
        doubts.append(Notice("scenario.below_total_loss", "warn", words, "scenarios"))
    named = np.any([layer.shock.views.on_specifics.any(axis=0) for layer in outcome.layers], axis=0)
    moved = [fund for fund in portfolios.fund_names if named[outcome.model.securities.labels.index(fund)]]
    if moved:
        words = (
            f"scenario {name} moves {', '.join(moved[:3])} by itself, which is measured as what it holds: "
            "that move reaches no book; state its constituents, or leave out its composition"
        )
        doubts.append(Notice("scenario.fund", "warn", words, "scenarios"))
    return doubts


def pick_scenarios(
    loaded: LoadedUniverse, ids: Sequence[str], texts: Mapping[str, str]
) -> tuple[list[Scenario], list[str]]:
    """Scenarios by id and from texts, and the faults of those that cannot be read.

    A text may extend the library and be made of it; it stands in for the library's scenario
    of the same id.
    """
    library, given, refused = loaded.library, list[str](), list[str]()
    for name, text in texts.items():
        try:
            library, added = library.with_text(text, name)
        except ConfigurationError as error:
            refused += error.faults
            continue
        if added in given:
            refused.append(f"{name}:1:1: a second scenario {added!r}; give it another id")
        elif added in ids:
            refused.append(f"scenario {added!r} is given as a file and by name; keep one")
        given.append(added)
    named = [name for name in ids if name not in given]
    if not ids and not texts:
        named = [loaded.universe.settings.stress.scenario]
    if not given and not named:
        raise ConfigurationError(refused)
    picked, faults = library.pick([*given, *named])
    return picked, [*refused, *faults]


def _unapproved(scenarios: list[Scenario], as_of: dt.date) -> tuple[list[Scenario], list[str]]:
    """The scenarios that are approved for a date with all they are made of, and what the others lack."""
    approved, faults = [], list[str]()
    for scenario in scenarios:
        lacking = [
            f"scenario {member.id} {lack}" for member in scenario.family if (lack := member.lacks_approval(as_of))
        ]
        faults += lacking
        if not lacking:
            approved.append(scenario)
    return approved, list(dict.fromkeys(faults))
