"""``load_universe``: a folder becomes everything that the other verbs need."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import polars as pl

from engine.contracts import empty
from engine.conventions import UNCLASSIFIED
from engine.curve.tiers import Curve
from engine.curve.universe import CalibrationSettings, Universe, build_universe, read_settings
from engine.documents import suggestion
from engine.errors import ConfigurationError, InputFileError, ModelError, UsageError
from engine.intake import check_columns
from engine.mandates.horizons import check_horizons
from engine.mandates.mandate import Mandate, read_mandates
from engine.risk.alternatives import read_alternatives
from engine.risk.history import FactorHistory
from engine.risk.model import RiskModel
from engine.risk.tails import Tails
from engine.risk.units import unit_faults
from engine.scenarios.library import ScenarioLibrary, read_library
from engine.store.files import Source
from engine.store.universes import ALTERNATIVE_TABLES, find_universe, read_model, read_universe

MARKET_VOLATILITY_RANGE: Final = (0.03, 1.50)
"""A market's volatility outside this is a unit fault: daily for annual, or percent (judgement)."""


@dataclass(frozen=True, slots=True)
class LoadedUniverse:
    """A universe with its model, scenarios, mandates and books, checked and ready.

    Args:
        universe: Settings, securities, declared memberships.
        model: Risk model.
        alternatives: Second models by name, on the same axes; none where the folder has none.
        history: Past of the model's factors.
        curve: Tiers and memberships of the model.
        library: Scenarios.
        mandates: By id.
        holdings: Table ``holdings`` as read.
        portfolios: Table ``portfolios`` as read.
        benchmarks: Table ``benchmarks`` as read, without rows where there is none.
        as_of: Date of the holdings to use; the latest when None.
        sources: Every file read.
    """

    universe: Universe
    model: RiskModel
    alternatives: Mapping[str, RiskModel]
    history: FactorHistory
    curve: Curve
    library: ScenarioLibrary
    mandates: Mapping[str, Mandate]
    holdings: pl.DataFrame
    portfolios: pl.DataFrame
    benchmarks: pl.DataFrame
    as_of: dt.date | None
    sources: tuple[Source, ...]

    @property
    def vocabulary(self) -> dict[str, tuple[str, ...]]:
        """The names that scenarios may use, by kind."""
        return scenario_vocabulary(self.model, self.curve)

    def only(self, portfolios: Sequence[str]) -> "LoadedUniverse":
        """The same with just the named books, a parent standing for the books below it; all of it when none is named.

        Raises:
            UsageError: a name that the table ``portfolios`` does not have.
        """
        if not portfolios:
            return self
        known = sorted(self.portfolios["portfolio_id"].drop_nulls().to_list())
        if unknown := [name for name in portfolios if name not in known]:
            raise UsageError("; ".join(f"unknown portfolio {name!r}{suggestion(name, known)}" for name in unknown))
        chosen = pl.col("portfolio_id").is_in(self._books_of(portfolios))
        return replace(
            self,
            portfolios=self.portfolios.filter(chosen).with_columns(pl.lit(None, dtype=pl.String).alias("parent_id")),
            holdings=self.holdings.filter(chosen),
        )

    def _books_of(self, portfolios: Sequence[str]) -> list[str]:
        """The named books, and those below the named parents."""
        below: dict[str, list[str]] = {}
        for book, parent in self.portfolios.select("portfolio_id", "parent_id").iter_rows():
            below.setdefault(parent, []).append(book)
        found, left = set[str](), list(portfolios)
        while left:
            name = left.pop()
            left += below.get(name, [])
            if name not in below:
                found.add(name)
        return sorted(found)


def load_universe(
    universe: str = "ai_curve",
    *,
    holdings: str | None = None,
    portfolios: str | None = None,
    as_of: dt.date | None = None,
) -> LoadedUniverse:
    """Read and check a universe.

    Args:
        universe: Name of a bundled universe, or the path of a folder like it.
        holdings: Parquet or CSV file to use instead of the universe's holdings.
        portfolios: File to use instead of the universe's portfolios.
        as_of: Date of the holdings; the latest when None.

    Raises:
        EngineError: a leaf that names the file at fault and the remedy.
    """
    root = find_universe(universe)
    given = {"holdings": holdings, "portfolios": portfolios}
    folder = read_universe(root, {name: Path(path) for name, path in given.items() if path is not None})
    for table in ("securities", "portfolios", "holdings"):
        if table not in folder.tables:
            raise InputFileError(f"{table}: universe {root} has none; add it or give --{table}")
    for table in ("portfolios", "holdings", "benchmarks", "compositions"):
        if table in folder.tables:
            check_columns(folder.tables[table], table, str(folder.sources[table].path))
    settings = read_settings(folder.texts["universe.yaml"], "universe.yaml")
    checked = build_universe(settings, folder.tables["securities"], str(folder.sources["securities"].path))
    checked = replace(checked, compositions=folder.tables.get("compositions", empty("compositions")))
    calibrated = load_model(root / "model")
    model, curve = calibrated.model, calibrated.curve
    if calibrated.universe != settings.id:
        raise ModelError(
            f"model: calibrated for universe {calibrated.universe!r}, not {settings.id!r}; run engine calibrate again"
        )
    if missing := [tier for tier in settings.tier_ids if tier not in curve.tiers]:
        raise ModelError(f"model: it has no tier {', '.join(missing)} of universe.yaml; run engine calibrate again")
    curve = curve.with_declared(checked.memberships)
    library = read_library(folder.folder_texts("scenarios"), scenario_vocabulary(model, curve))
    mandate_texts = folder.folder_texts("mandates")
    mandates = read_mandates(
        mandate_texts,
        {
            "scenario": library.ids,
            "tree": tree_vocabulary(library, mandate_texts),
            "bucket": curve.buckets.labels,
            "security": tuple(sorted({*model.securities.labels, *checked.securities["security_id"].to_list()})),
            "sector": (*sorted(checked.securities["gics_sector"].drop_nulls().unique().to_list()), UNCLASSIFIED),
            "factor": model.factors.labels,
        },
    )
    check_horizons(mandates, _horizons(library, mandates), folder.folder_texts("mandates"))
    _refuse_unknown_mandates(folder.tables["portfolios"], mandates)
    return LoadedUniverse(
        universe=checked,
        model=model,
        alternatives=calibrated.alternatives,
        history=calibrated.history,
        curve=curve,
        library=library,
        mandates=mandates,
        holdings=folder.tables["holdings"],
        portfolios=folder.tables["portfolios"],
        benchmarks=folder.tables.get("benchmarks", pl.DataFrame()),
        as_of=as_of,
        sources=(*folder.sources.values(), *calibrated.sources.values()),
    )


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What a folder that ``engine calibrate`` wrote holds.

    Args:
        model: Risk model.
        history: Past of the factors.
        alternatives: Second models by name.
        curve: Tiers and memberships.
        universe: Id of the universe it was calibrated for.
        sources: Every file read, by name.
    """

    model: RiskModel
    history: FactorHistory
    alternatives: Mapping[str, RiskModel]
    curve: Curve
    universe: str
    sources: Mapping[str, Source]


def load_model(root: Path) -> LoadedModel:
    """The risk model, its past, its alternatives and its curve from a folder that ``engine calibrate`` wrote.

    Raises:
        InputFileError, ContractError, AlignmentError, ModelError: as the file at fault needs.
    """
    card, tables, sources = read_model(root)
    try:
        as_of = dt.date.fromisoformat(card["as_of"])
        factors = tuple(map(str, card["factors"]))
        tails = Tails(**{name: float(value) for name, value in card["tails"].items()})
        settings = CalibrationSettings.model_validate(card["settings"], strict=False)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ModelError(
            f"{root / 'model.json'}: as_of, factors, tails or settings are missing; run engine calibrate again"
        ) from None
    numbers = {name: tables[name] for name in ("exposures", "factor_covariance", "specific_risk", "factor_returns")}
    model = RiskModel.from_frames(numbers, as_of=as_of, factors=factors, tails=tails, source=str(root))
    low, high = MARKET_VOLATILITY_RANGE
    market = float(model.factor_covariance[0, 0]) ** 0.5
    if market > 0.0 and not low <= market <= high:
        raise ModelError(
            f"{root}: the market's volatility is {market:.1%} a year, outside {low:.0%} to {high:.0%}: "
            "give factor_covariance a year, in decimals"
        )
    history = FactorHistory.from_frame(tables["factor_returns"], model.factors, settings)
    curve = Curve.from_frames(tables["tiers"], tables["memberships"], str(root))
    if absent := model.factors.missing(curve.tiers.labels):
        raise ModelError(f"{root}: tiers {', '.join(absent)} have no factor; run engine calibrate again")
    others: dict[str, pl.DataFrame] = {name: tables[name] for name in ALTERNATIVE_TABLES if name in tables}
    alternatives = read_alternatives(model, others, source=str(root))
    if faults := unit_faults(model, history, alternatives):
        raise ModelError(f"{root}: {'; '.join(faults)}")
    return LoadedModel(model, history, alternatives, curve, str(card.get("universe")), sources)


def scenario_vocabulary(model: RiskModel, curve: Curve) -> dict[str, tuple[str, ...]]:
    """The names that scenarios may use, by kind."""
    return {"factor": model.factors.labels, "tier": curve.tiers.labels, "security": model.securities.labels}


def tree_vocabulary(library: ScenarioLibrary, mandates: Mapping[str, str]) -> tuple[str, ...]:
    """The trees among the scenarios; none where no mandate speaks of a shortfall, for that reads every file."""
    return library.trees if any("shortfall" in text for text in mandates.values()) else ()


def _horizons(library: ScenarioLibrary, mandates: Mapping[str, Mandate]) -> dict[str, int]:
    """Trading days of the scenarios for which a budget states a horizon; those that are wrong have none."""
    budgets = [budget for mandate in mandates.values() for budget in mandate.limits.budgets]
    named = sorted({budget.scenario for budget in budgets if budget.horizon_days is not None})
    picked = library.pick(named)[0] if named else []
    return {scenario.id: scenario.body.horizon_days for scenario in picked}


def _refuse_unknown_mandates(portfolios: pl.DataFrame, mandates: Mapping[str, Mandate]) -> None:
    if "mandate_id" not in portfolios.columns:
        return
    named = sorted({str(name) for name in portfolios["mandate_id"].drop_nulls().to_list()})
    if unknown := [name for name in named if name not in mandates]:
        known = sorted(mandates)
        raise ConfigurationError(
            [f"portfolios: unknown mandate_id {name!r}{suggestion(name, known)}" for name in unknown]
        )
