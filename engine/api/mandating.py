"""What the mandates of a universe allow, and what is wrong with them: the verbs behind ``engine mandates``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from engine.api.loading import load_model, scenario_vocabulary, tree_vocabulary
from engine.contracts import empty
from engine.conventions import UNCLASSIFIED
from engine.documents import suggestion
from engine.errors import ConfigurationError, UsageError
from engine.mandates.horizons import check_horizons
from engine.mandates.mandate import Mandate, read_mandates
from engine.scenarios.library import ScenarioLibrary, read_library
from engine.store.universes import find_universe, read_universe


@dataclass(frozen=True, slots=True)
class Rules:
    """The mandates of a universe as text, and the names that they may use; no books are weighed.

    Args:
        texts: File name and text by the id that the file name promises.
        vocabulary: Known names by kind: ``scenario``, ``bucket``, ``security``, ``sector``, ``factor``.
        library: Scenarios, whose horizons a budget may state.
        portfolios: Table ``portfolios`` as read.
    """

    texts: Mapping[str, tuple[str, str]]
    vocabulary: Mapping[str, tuple[str, ...]]
    library: ScenarioLibrary
    portfolios: pl.DataFrame

    def with_texts(self, texts: Mapping[str, str]) -> "Rules":
        """The same with further files, each known by the id that its name promises."""
        named = {Path(source).stem: (source, text) for source, text in texts.items()}
        return replace(self, texts={**self.texts, **named})


def load_rules(universe: str = "ai_curve") -> Rules:
    """The mandates of a universe, not yet judged.

    Args:
        universe: Name of a bundled universe, or the path of a folder like it.

    Raises:
        EngineError: a leaf that names the file at fault and the remedy.
    """
    root = find_universe(universe)
    folder = read_universe(root, dict[str, Path](), only=("securities", "portfolios"))
    calibrated = load_model(root / "model")
    model, curve = calibrated.model, calibrated.curve
    library = read_library(folder.folder_texts("scenarios"), scenario_vocabulary(model, curve))
    securities = folder.tables.get("securities", empty("securities"))
    listed, sectors = (
        securities[name].drop_nulls().to_list() if name in securities.columns else []
        for name in ("security_id", "gics_sector")
    )
    vocabulary = {
        "scenario": library.ids,
        "bucket": curve.buckets.labels,
        "security": tuple(sorted({*model.securities.labels, *listed})),
        "sector": (*sorted(set(sectors)), UNCLASSIFIED),
        "factor": model.factors.labels,
    }
    rules = Rules({}, vocabulary, library, folder.tables.get("portfolios", pl.DataFrame()))
    return rules.with_texts(folder.folder_texts("mandates"))


def check_mandates(rules: Rules, names: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """The faults of every named mandate, or of all.

    Raises:
        UsageError: a name that no file has.
    """
    answers: dict[str, tuple[str, ...]] = {}
    for name in names or sorted(rules.texts):
        try:
            show_rules(rules, name)
            answers[name] = ()
        except ConfigurationError as error:
            answers[name] = error.faults
    return answers


def show_rules(rules: Rules, name: str) -> tuple[Mandate, tuple[str, ...]]:
    """One mandate, and the portfolios that are managed by it.

    Raises:
        UsageError: a name that no file has.
        ConfigurationError: every fault of its file, and every budget for another horizon than its scenario's.
    """
    if name not in rules.texts:
        known = sorted(rules.texts)
        raise UsageError(f"unknown mandate {name!r}{suggestion(name, known)}")
    source, text = rules.texts[name]
    vocabulary = {**rules.vocabulary, "tree": tree_vocabulary(rules.library, {source: text})}
    mandate = read_mandates({source: text}, vocabulary)[name]
    dated = [budget.scenario for budget in mandate.limits.budgets if budget.horizon_days is not None]
    picked = rules.library.pick(dated)[0] if dated else []
    horizons = {scenario.id: scenario.body.horizon_days for scenario in picked}
    check_horizons({name: mandate}, horizons, {source: text})
    if "mandate_id" not in rules.portfolios.columns:
        return mandate, ()
    books = rules.portfolios.filter(pl.col("mandate_id") == name)["portfolio_id"].drop_nulls()
    return mandate, tuple(sorted(books.to_list()))
