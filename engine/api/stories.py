"""What the scenarios of a universe say, do and would do: the verbs behind ``engine scenarios``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float

from engine.api.loading import load_model, scenario_vocabulary
from engine.conventions import MARKET
from engine.curve.tiers import Curve
from engine.curve.universe import StressSettings, read_settings
from engine.errors import ConfigurationError, UsageError
from engine.risk.history import FactorHistory
from engine.risk.model import RiskModel
from engine.scenarios.drivers import DriverResponse, implied_weight, respond, set_quantities
from engine.scenarios.kinds import DriversBody
from engine.scenarios.library import ScenarioLibrary, read_library
from engine.scenarios.scenario import Scenario
from engine.store.universes import find_universe, read_universe
from engine.stress.outcome import Outcome, unfold
from engine.stress.plausibility import summarise_scenarios

DEMAND = "demand"
"""Not a tier: what moves one for one with the demand for compute."""

UNCHANGED, JEVONS = 1.0, 1.5
"""Elasticities of the two alternatives to "same with less": nothing changes, and use grows."""


@dataclass(frozen=True, slots=True)
class Stories:
    """The scenarios of a universe and the model on which they are worked out; no books.

    Args:
        library: Scenarios.
        model: Risk model.
        curve: Tiers.
        history: Past of the factors.
        settings: Guard-rails.
    """

    library: ScenarioLibrary
    model: RiskModel
    curve: Curve
    history: FactorHistory
    settings: StressSettings

    def with_texts(self, texts: Mapping[str, str]) -> tuple["Stories", tuple[str, ...]]:
        """The same with further files, and the ids that they hold, in order.

        Raises:
            ConfigurationError: a text that cannot be read.
        """
        library, names = self.library, list[str]()
        for source, text in texts.items():
            library, name = library.with_text(text, source)
            names.append(name)
        return Stories(library, self.model, self.curve, self.history, self.settings), tuple(names)


@dataclass(frozen=True, slots=True)
class Story:
    """One scenario and what it does.

    Args:
        scenario: What it says.
        response: ``subject stated total``: the market and each tier, totals over the horizon.
        summary: Its row of ``scenario_summary``.
    """

    scenario: Scenario
    response: pl.DataFrame
    summary: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class WhatIf:
    """A drivers scenario as its file has it, and with other values.

    Args:
        before: As the file has it.
        after: With the changes; the same where there are none.
        response: ``subject before after low high``: the market and each tier, totals; the interval
            is that of ``after`` over the ranges, for the tiers that the drivers move.
        weights: ``observed subject alternative weight``: weight of "same with less" in an observed move.
    """

    before: DriverResponse
    after: DriverResponse
    response: pl.DataFrame
    weights: pl.DataFrame


def load_stories(universe: str = "ai_curve") -> Stories:
    """Scenarios and model of a universe.

    Args:
        universe: Name of a bundled universe, or the path of a folder like it.

    Raises:
        EngineError: a leaf that names the file at fault and the remedy.
    """
    root = find_universe(universe)
    folder = read_universe(root, dict[str, Path](), only=())
    settings = read_settings(folder.texts["universe.yaml"], "universe.yaml")
    calibrated = load_model(root / "model")
    library = read_library(folder.folder_texts("scenarios"), scenario_vocabulary(calibrated.model, calibrated.curve))
    return Stories(library, calibrated.model, calibrated.curve, calibrated.history, settings.stress)


def list_stories(stories: Stories) -> pl.DataFrame:
    """Every scenario of the library, valid or not.

    Returns:
        ``scenario_id kind version horizon_days approved_by valid_until title faults``; a scenario that
        was refused has its faults and nothing else.
    """
    good, refused = stories.library.everything()
    rows = [
        {
            "scenario_id": name,
            **one.body.model_dump(include={"kind", "version", "horizon_days", "approved_by", "valid_until", "title"}),
        }
        for name, one in good.items()
    ]
    rows += [{"scenario_id": name, "faults": "\n".join(faults)} for name, faults in refused.items()]
    schema = {
        "scenario_id": pl.String,
        "kind": pl.String,
        "version": pl.String,
        "horizon_days": pl.Int64,
        "approved_by": pl.String,
        "valid_until": pl.Date,
        "title": pl.String,
        "faults": pl.String,
    }
    return pl.DataFrame(rows, schema=schema).sort("scenario_id")


def tell_story(stories: Stories, name: str) -> Story:
    """One scenario, what it does to the curve, and how plausible that is.

    Raises:
        UsageError: no such scenario.
        ConfigurationError: it is wrong, or cannot be worked out on this model.
    """
    scenario = stories.library.scenario(name)
    outcome = unfold(scenario, stories.model, stories.curve, history=stories.history)
    summary = summarise_scenarios([outcome], stories.history, stories.settings)["scenario_summary"]
    return Story(scenario, _response(outcome, stories.curve), summary.row(0, named=True))


def what_if(
    stories: Stories, name: str, changes: Mapping[str, float], observed: Mapping[str, float] | None = None
) -> WhatIf:
    """The curve's response to other economics.

    Args:
        stories: From ``load_stories``.
        name: A scenario of kind ``drivers``.
        changes: New value by driver, ``e_T`` or ``training_elasticity``.
        observed: Return by tier, or by ``demand`` for what moves one for one with it; each is read as
            a mixture of "same with less" (an elasticity of 0) and an alternative.

    Raises:
        UsageError: no such scenario, driver or tier; or a value that cannot be.
        ConfigurationError: the scenario is wrong, or cannot be worked out on this model.
    """
    scenario = stories.library.scenario(name)
    body = scenario.body
    if not isinstance(body, DriversBody):
        raise UsageError(f"scenario {name} is of kind {body.kind}; only kind drivers has economics to change")
    try:
        demand = set_quantities(body.demand, changes)
    except ValueError as error:
        raise UsageError(f"--set: {_first_line(error)}") from None
    changed = body.model_copy(update={"demand": demand})
    after = respond(demand, body.tiers)
    outcomes = [unfold(scenario, stories.model, stories.curve, history=stories.history)]
    outcomes.append(unfold(Scenario(changed, scenario.sha256), stories.model, stories.curve, history=stories.history))
    was, now = (_response(outcome, stories.curve) for outcome in outcomes)
    none = (None, None)
    response = pl.DataFrame(
        {
            "subject": was["subject"],
            "before": was["total"],
            "after": now["total"],
            "low": [after.ranges.get(subject, none)[0] for subject in was["subject"].to_list()],
            "high": [after.ranges.get(subject, none)[1] for subject in was["subject"].to_list()],
        },
        schema_overrides={"low": pl.Float64, "high": pl.Float64},
    )
    return WhatIf(respond(body.demand, body.tiers), after, response, _weights(changed, observed or {}))


def _weights(body: DriversBody, observed: Mapping[str, float]) -> pl.DataFrame:
    """Implied weight of "same with less" in each observed move, beside each alternative."""
    rows = []
    for subject, move in observed.items():
        if subject != DEMAND and subject not in body.tiers:
            known = ", ".join((DEMAND, *body.tiers))
            raise UsageError(f"--observed: the drivers move {known}; found {subject!r}")
        same = _at_elasticity(body, 0.0, subject)
        for words, elasticity in (("unchanged", UNCHANGED), (f"Jevons at {JEVONS:g}", JEVONS)):
            other = _at_elasticity(body, elasticity, subject)
            try:
                weight = implied_weight(move, same=same, alternative=other)
            except ValueError as error:
                raise UsageError(f"--observed {subject}: {error}") from None
            rows.append((subject, move, same, words, other, weight))
    schema = {
        "subject": pl.String,
        "observed": pl.Float64,
        "same_with_less": pl.Float64,
        "alternative": pl.String,
        "alternative_move": pl.Float64,
        "weight": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def _at_elasticity(body: DriversBody, elasticity: float, subject: str) -> float:
    answer = respond(set_quantities(body.demand, {"training_elasticity": elasticity}), body.tiers, draws=1)
    return answer.demand - 1.0 if subject == DEMAND else answer.tiers[subject]


def _response(outcome: Outcome, curve: Curve) -> pl.DataFrame:
    """Total return of the market and of each tier, ``g_j + beta_j m``: as stated, and as applied."""
    factors = outcome.model.factors
    at = factors.positions(curve.tiers.labels, "tiers")
    market = factors.labels.index(MARKET)

    def totals(moves: Float[np.ndarray, " n_factors"]) -> Sequence[float]:
        return [float(moves[market]), *(moves[at] + curve.beta * moves[market]).tolist()]

    return pl.DataFrame(
        {
            "subject": [MARKET, *curve.tiers.labels],
            "stated": totals(outcome.stated_factors),
            "total": totals(outcome.factors),
        }
    )


def check_stories(stories: Stories, names: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """The faults of every named scenario, or of all; without faults it can be worked out on this model.

    Raises:
        UsageError: a name that the library does not have.
    """
    answers: dict[str, tuple[str, ...]] = {}
    for name in names or stories.library.ids:
        try:
            unfold(stories.library.scenario(name), stories.model, stories.curve, history=stories.history)
            answers[name] = ()
        except ConfigurationError as error:
            answers[name] = error.faults
    return answers


def _first_line(error: ValueError) -> str:
    """What pydantic or a check says, without its preamble."""
    details = getattr(error, "errors", None)
    return str(details()[0]["msg"]).removeprefix("Value error, ") if details is not None else str(error)
