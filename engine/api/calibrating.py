"""``calibrate_model``: prices become a model."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import polars as pl

import engine
from engine.curve.universe import (
    Universe,
    UniverseSettings,
    build_universe,
    read_settings,
    replace_baskets,
    without_foreign_tiers,
)
from engine.errors import InputFileError, UsageError
from engine.intake import Notice
from engine.risk.alternatives import alternative_tables, estimate_alternatives
from engine.risk.calibration import Calibration, calibrate
from engine.risk.model import RiskModel
from engine.store.files import Source, decode_table, read_source
from engine.store.manifests import read_manifest
from engine.store.universes import find_universe, read_universe


@dataclass(frozen=True, slots=True)
class CalibratedModel:
    """A calibration and the card that goes with its tables.

    Args:
        calibration: Model, curve, panels, notices.
        alternatives: Second models by name.
        card: What ``model.json`` says besides the hashes of the tables.
    """

    calibration: Calibration
    alternatives: Mapping[str, RiskModel]
    card: dict[str, Any]

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """Every table of the model's folder, each sorted by its key."""
        return {**self.calibration.tables, **alternative_tables(self.calibration.model, self.alternatives)}


def calibrate_model(
    prices: str,
    *,
    universe: str = "ai_curve",
    securities: str | None = None,
    baskets: str | None = None,
    as_of: dt.date | None = None,
    validation: str | None = None,
) -> CalibratedModel:
    """Calibrate a risk model from a price file.

    Args:
        prices: Parquet or CSV file of the table ``prices``.
        universe: Bundled name or folder, for tiers and settings.
        securities: File to use instead of the universe's securities.
        baskets: CSV (tier, security_id) to use instead of the universe's core names.
        as_of: Calibration date; the latest date of the prices when None.
        validation: Folder of a run of ``engine validate`` with the same universe and settings,
            whose headline goes into the card.

    Raises:
        EngineError: a leaf that names the file at fault and the remedy.
    """
    given = read_inputs(prices, universe, securities, baskets)
    headline = None if validation is None else read_headline(Path(validation), given.universe.settings)
    frame = decode_table(given.prices, "prices")
    latest = frame["date"].max() if frame.schema.get("date") == pl.Date else None
    day = as_of or (latest if isinstance(latest, dt.date) else dt.date.max)
    result = calibrate(frame, given.universe, as_of=day, source=str(given.prices.path))
    alternatives, doubts = estimate_alternatives(result, given.universe)
    result = replace(result, notices=(*given.notices, *result.notices, *doubts))
    settings = given.universe.settings
    model = result.model
    card = {
        "format": 1,
        "engine_version": engine.__version__,
        "universe": settings.id,
        "as_of": model.as_of.isoformat(),
        "first_date": result.panel.dates[0].isoformat(),
        "days": len(result.panel.dates),
        "securities": len(model.securities),
        "factors": list(model.factors.labels),
        "settings": settings.calibration.model_dump(),
        "tails": asdict(model.tails),
        "prior_variance": dict(zip(model.factors.labels, map(float, result.exposures.prior_variance), strict=True)),
        "inputs": {source.name: source.sha256 for source in given.sources},
    }
    if headline is not None:
        card["validation"] = headline
    return CalibratedModel(result, alternatives, card)


HEADLINE: Final = (
    "first_date", "last_date", "days", "books", "books_inside", "mrad", "qlike", "mean_gain", "widest_median_r2",
)  # fmt: skip
"""What the card says of a validation; units and formulas in ``risk/validation``."""


def read_headline(folder: Path, settings: UniverseSettings) -> dict[str, Any]:
    """The headline figures of a run of ``engine validate`` that used the same universe and settings.

    Baskets, market and calibration settings must be equal one by one; titles and what only
    ``stress`` reads may differ. The prices may: their hash is in the answer.

    Args:
        folder: Folder of the run.
        settings: What the model is calibrated with.

    Raises:
        InputFileError: no such run, or one without the figures.
        UsageError: another universe, or other settings, each with both values.
    """
    manifest = read_manifest(folder, "validate")
    try:
        theirs = manifest["configuration"]["universe"]
        owner, before = theirs["id"], _decisive(theirs)
        figures = {name: manifest["summary"][name] for name in HEADLINE}
        figures |= {name: manifest["configuration"][name] for name in ("every", "prices_sha256")}
        figures["run_id"] = manifest["run_id"]
    except (KeyError, TypeError, AttributeError):
        raise InputFileError(
            f"{folder / 'manifest.json'}: headline or settings are missing; run engine validate --out again"
        ) from None
    if owner != settings.id:
        raise UsageError(
            f"--validation {folder}: a run of universe {owner!r}, not {settings.id!r}; give one of its own"
        )
    now = _decisive(settings.model_dump(mode="json"))
    if differing := [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]:
        shown = "; ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in differing)
        raise UsageError(f"--validation {folder}: other settings: {shown}; run engine validate again with these")
    return figures


def _decisive(universe: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a calibration depends on, flat, by name."""
    core = {f"tiers.{tier['id']}": tier["core"] for tier in universe["tiers"]}
    parts = {f"{part}.{name}": value for part in ("calibration", "market") for name, value in universe[part].items()}
    return {**parts, **core, "tiers": [tier["id"] for tier in universe["tiers"]]}


@dataclass(frozen=True, slots=True)
class PriceInputs:
    """Prices as a source, and the universe that they are read for.

    Args:
        universe: Tiers, securities, settings.
        prices: The price file.
        sources: Every file read, the prices first.
        scenarios: Texts of the universe's scenarios by relative name.
        notices: What was noticed in the inputs.
    """

    universe: Universe
    prices: Source
    sources: tuple[Source, ...]
    scenarios: Mapping[str, str]
    notices: tuple[Notice, ...]


def read_inputs(prices: str, universe: str, securities: str | None, baskets: str | None) -> PriceInputs:
    """The price file, and the universe with other securities or baskets where they are given.

    Raises:
        EngineError: a leaf that names the file at fault and the remedy.
    """
    root = find_universe(universe)
    overrides = {"securities": Path(securities)} if securities is not None else {}
    folder = read_universe(root, overrides, only=("securities",))
    if "securities" not in folder.tables:
        raise InputFileError(f"securities: universe {root} has none; add it or give --securities")
    settings = read_settings(folder.texts["universe.yaml"], "universe.yaml")
    sources = [folder.sources["universe.yaml"], folder.sources["securities"]]
    table, notices = folder.tables["securities"], list[Notice]()
    if baskets is not None:
        source = read_source(Path(baskets), "baskets")
        settings = replace_baskets(settings, decode_table(source, "baskets"), str(source.path))
        sources.append(source)
        table, dropped = without_foreign_tiers(table, settings)
        if dropped:
            words = f"{dropped} declared memberships name tiers that the baskets do not have; they are left out"
            notices.append(Notice("securities.foreign_tiers", "warn", words, str(folder.sources["securities"].path)))
    checked = build_universe(settings, table, str(folder.sources["securities"].path))
    price_source = read_source(Path(prices), "prices")
    texts = folder.folder_texts("scenarios")
    return PriceInputs(checked, price_source, (price_source, *sources), texts, tuple(notices))
