"""Second models of the same securities and factors, for what a single model cannot know of itself."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import polars as pl

from engine.contracts import CONTRACTS, empty
from engine.conventions import ALTERNATIVE_MODELS
from engine.curve.cross_section import estimate_cross_section
from engine.curve.exposures import estimate_exposures
from engine.curve.industries import add_industries
from engine.curve.universe import CalibrationSettings, Universe
from engine.errors import AlignmentError, CalibrationError, ModelError
from engine.intake import Notice, admit
from engine.risk.calibration import Calibration, chosen_adjustments
from engine.risk.covariance import estimate_factor_covariance, estimate_stress_covariance
from engine.risk.model import RiskModel
from engine.risk.specific import estimate_specific_variance

SHORTER: Final = 3.0
"""The short model forgets this many times faster than the base."""

FIRST_TIER: Final = 1
"""Column of the factor whose worst days make the stress covariance: the market is 0, the first tier 1."""

REPLACES: Final = {
    "alternative_exposures": "exposures",
    "alternative_covariance": "factor_covariance",
    "alternative_specific": "specific_risk",
}
"""The base model's table whose place each table of the alternatives takes."""


def estimate_alternatives(base: Calibration, universe: Universe) -> tuple[dict[str, RiskModel], tuple[Notice, ...]]:
    """The base model seen three other ways, on its own securities, factors and tails.

    ``short``: exposures, volatilities, correlations and specific variances with a third of
    their half-lives (an industry's exposures on the industry net of market and tiers by the
    same short memory). ``stress``: the factor covariance of the worst decile of days of the first
    tier's pure factor. ``cross_section``: exposures from characteristics
    (``curve/cross_section``) and the specific variance of what they leave.

    Args:
        base: The calibration; its factor returns serve every alternative, so that a factor
            means the same in all of them.
        universe: As it was calibrated with.

    Returns:
        Models by name in the order of ``ALTERNATIVE_MODELS``; and a warning where the history is
        too short for the stress covariance, which is then left out.

    References:
        MATH.md 4. Each from its definition: tests/test_alternatives.py.
    """
    settings = universe.settings.calibration
    fast = _shorter(settings)
    hurried = replace(universe, settings=universe.settings.model_copy(update={"calibration": fast}))
    narrow = base.factors.curve_only
    _, quick = add_industries(base.panel, narrow, estimate_exposures(base.panel, narrow, hurried), hurried)
    crossed = estimate_cross_section(base.panel, base.factors, universe, base.exposures)
    models: dict[str, RiskModel] = {
        "short": replace(
            base.model,
            exposures=quick.values,
            factor_covariance=estimate_factor_covariance(
                base.factors.values,
                volatility_half_life=fast.volatility_half_life_days,
                correlation_half_life=fast.correlation_half_life_days,
                adjustments=chosen_adjustments(fast),
            ),
            specific_variance=_specific(quick.residuals, base, universe, fast),
        ),
        "cross_section": replace(
            base.model,
            exposures=crossed.values,
            specific_variance=_specific(crossed.residuals, base, universe, settings),
        ),
    }
    notices: tuple[Notice, ...] = ()
    try:
        models["stress"] = replace(
            base.model,
            factor_covariance=estimate_stress_covariance(
                base.factors.values, factor=FIRST_TIER, correlation_shrinkage=settings.correlation_shrinkage
            ),
        )
    except CalibrationError as error:
        notices = (Notice("model.no_stress_alternative", "warn", str(error), "prices"),)
    return {name: models[name] for name in ALTERNATIVE_MODELS if name in models}, notices


def alternative_tables(base: RiskModel, alternatives: Mapping[str, RiskModel]) -> dict[str, pl.DataFrame]:
    """The tables ``alternative_exposures``, ``alternative_covariance`` and ``alternative_specific``.

    Only what differs is written: a model without rows in one of them has the base's there,
    and one that is the base in everything is not written at all.
    """
    own = base.tables
    others = {model: alternative.tables for model, alternative in alternatives.items()}
    tables = {}
    for name, part in REPLACES.items():
        columns = list(CONTRACTS[name].columns)
        frames = [empty(name)]
        for model, frames_of in others.items():
            if not frames_of[part].equals(own[part]):
                frames.append(frames_of[part].with_columns(pl.lit(model).alias("model")).select(columns))
        tables[name] = pl.concat(frames).sort(CONTRACTS[name].key)
    return tables


def read_alternatives(base: RiskModel, tables: Mapping[str, pl.DataFrame], *, source: str) -> dict[str, RiskModel]:
    """The alternatives in their tables, joined by name onto the base's axes.

    Args:
        base: The base model, whose part stands wherever a model has no rows.
        tables: Those of the three tables that there are; none gives no model.
        source: Where the tables came from, for the messages.

    Returns:
        Models by name in the order of ``ALTERNATIVE_MODELS``.

    Raises:
        ContractError: a table breaks its contract.
        AlignmentError: a table names a security or factor that the base does not have, or
            has a model only in part.
        ModelError: the numbers do not form a model.
    """
    frames = {name: admit(frame, name, f"{source}/{name}").frame for name, frame in tables.items()}
    parts: dict[str, dict[str, Any]] = {}
    for table, frame in frames.items():
        for (model,), rows in frame.partition_by("model", as_dict=True).items():
            part, values = _part(base, table, rows, f"{source}/{table} of {model}")
            parts.setdefault(model, {})[part] = values
    models: dict[str, RiskModel] = {}
    for name in ALTERNATIVE_MODELS:
        if name in parts:
            try:
                models[name] = replace(base, **parts[name])
            except ModelError as error:
                raise ModelError(f"{source}: alternative {name}: {error}") from None
    return models


def _part(base: RiskModel, table: str, rows: pl.DataFrame, source: str) -> tuple[str, np.ndarray]:
    """The field of a risk model that a table holds, aligned by name."""
    if table == "alternative_exposures":
        keys = ("security_id", "factor")
        return "exposures", base.securities.matrix(rows, base.factors, "exposure", keys=keys, source=source)
    if table == "alternative_covariance":
        keys = ("factor_1", "factor_2")
        return "factor_covariance", base.factors.matrix(rows, base.factors, "annual", keys=keys, source=source)
    if absent := base.securities.missing(rows["security_id"].to_list()):
        raise AlignmentError("security", absent, source)
    return "specific_variance", base.securities.vector(rows, "annual", label="security_id", source=source)


def _shorter(settings: CalibrationSettings) -> CalibrationSettings:
    names = [f"{what}_half_life_days" for what in ("exposure", "volatility", "correlation", "specific")]
    return settings.model_copy(update={name: getattr(settings, name) / SHORTER for name in names})


def _specific(
    residuals: np.ndarray, base: Calibration, universe: Universe, settings: CalibrationSettings
) -> np.ndarray:
    """Specific variance of what other exposures leave, as the base's was estimated."""
    variance, _ = estimate_specific_variance(
        residuals,
        securities=universe.securities,
        axis=base.panel.securities,
        half_life=settings.specific_half_life_days,
        minimum_days=settings.minimum_days,
        regime_half_life=settings.specific_regime_half_life_days,
    )
    return variance
