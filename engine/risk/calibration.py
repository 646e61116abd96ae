"""Prices become the model's tables: the pure half of ``engine calibrate``."""

import datetime as dt
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from jaxtyping import Float

from engine.curve.coordinates import BOOTSTRAP_SEED, place_tiers
from engine.curve.exposures import ExposurePanel, estimate_exposures
from engine.curve.factors import FactorPanel, build_factors, doubt_prices
from engine.curve.industries import add_industries
from engine.curve.returns import ReturnPanel, build_returns
from engine.curve.tiers import Curve, declare_curve
from engine.curve.universe import CalibrationSettings, Universe
from engine.errors import CalibrationError
from engine.intake import Notice
from engine.risk.covariance import Adjustments, estimate_factor_covariance, estimate_stress_covariance
from engine.risk.model import RiskModel
from engine.risk.specific import estimate_specific_variance
from engine.risk.tails import Tails, fit_tails


@dataclass(frozen=True, slots=True)
class Calibration:
    """A risk model, its curve, and the panels it rests on.

    Args:
        model: The risk model.
        curve: Tiers and memberships.
        panel: Daily returns.
        factors: Factor returns.
        exposures: Exposures with their evidence.
        issuers: Issuer of each security of the model.
        notices: What was noticed in the inputs.
    """

    model: RiskModel
    curve: Curve
    panel: ReturnPanel
    factors: FactorPanel
    exposures: ExposurePanel
    issuers: tuple[str, ...]
    notices: tuple[Notice, ...]

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """The model tables, each sorted by its key."""
        tables = self.model.tables
        names = self.model.securities.labels
        exposures = tables["exposures"].with_columns(
            pl.Series("prior_share", self.exposures.prior_share.ravel()),
            pl.Series("standard_error", self.exposures.standard_error.ravel(), nan_to_null=True),
        )
        specific = tables["specific_risk"].with_columns(pl.Series("issuer_id", self.issuers))
        members = self.curve.memberships.filter(pl.col("security_id").is_in(list(names)))
        return {
            "exposures": exposures.sort("security_id", "factor"),
            "factor_covariance": tables["factor_covariance"].sort("factor_1", "factor_2"),
            "factor_returns": self.factors.frame,
            "memberships": members,
            "specific_risk": specific.sort("security_id"),
            "tiers": self.curve.frame,
        }


def calibrate(prices: pl.DataFrame, universe: Universe, *, as_of: dt.date, source: str = "prices") -> Calibration:
    """Baskets, pure factors, shrunk exposures, factor covariance, specific risk, tails and coordinates.

    Args:
        prices: Table ``prices`` as read; nothing after ``as_of`` is looked at.
        universe: Tiers, securities, settings.
        as_of: Calibration date.
        source: File of the prices, for the messages.

    Returns:
        The calibration; a security with a short history keeps its prior, as a notice says.

    Raises:
        ContractError: the prices cannot be used as a whole.
        CalibrationError: they cannot carry a calibration.
        ModelError: the result is not a risk model.
    """
    history_days = universe.settings.calibration.history_days
    panel, notices = build_returns(prices, universe.securities, as_of=as_of, history_days=history_days, source=source)
    result = calibrate_panel(panel, universe, notices=notices, source=source)
    placed = place_tiers(result.factors, seed=BOOTSTRAP_SEED)
    return replace(result, curve=replace(result.curve, coordinates=placed if placed.known else None))


def calibrate_panel(
    panel: ReturnPanel,
    universe: Universe,
    *,
    notices: tuple[Notice, ...] = (),
    tails: Tails | None = None,
    source: str = "prices",
) -> Calibration:
    """The same from returns at hand, without coordinates, so that many days need not read their prices again.

    Args:
        panel: Daily returns up to the calibration date.
        universe: Tiers, securities, settings.
        notices: What was noticed in the prices.
        tails: Tails fitted on earlier days; fitted on this panel when None.
        source: File of the prices, for the messages.

    Raises:
        CalibrationError: the returns cannot carry a calibration.
        ModelError: the result is not a risk model.
    """
    settings = universe.settings.calibration
    factors = build_factors(panel, universe)
    exposures = estimate_exposures(panel, factors, universe)
    factors, exposures = add_industries(panel, factors, exposures, universe)
    adjustments = chosen_adjustments(settings)
    covariance = _factor_covariance(factors, settings, adjustments)
    variance, issuers = estimate_specific_variance(
        exposures.residuals,
        securities=universe.securities,
        axis=panel.securities,
        half_life=settings.specific_half_life_days,
        minimum_days=settings.minimum_days,
        regime_half_life=settings.specific_regime_half_life_days,
    )
    if tails is None:
        tails = fit_tails(
            factors.values,
            exposures.residuals,
            volatility_half_life=settings.volatility_half_life_days,
            correlation_half_life=settings.correlation_half_life_days,
            specific_half_life=settings.specific_half_life_days,
            adjustments=adjustments,
        )
    model = RiskModel(
        as_of=panel.dates[-1],
        securities=panel.securities,
        factors=factors.factors,
        exposures=exposures.values,
        factor_covariance=covariance,
        specific_variance=variance,
        issuers=np.unique(np.array(issuers), return_inverse=True)[1].astype(np.int64),
        tails=tails,
        largest_moves=np.abs(factors.values).max(axis=0),
    )
    young = exposures.n_days < settings.minimum_days
    short = tuple(
        Notice(
            "prices.short_history",
            "warn",
            f"{name}: {int(days)} daily returns, fewer than {settings.minimum_days}; it keeps its prior",
            source,
        )
        for name, days, flag in zip(panel.securities.labels, exposures.n_days, young, strict=True)
        if flag
    )
    doubts = doubt_prices(panel, universe, source) if universe.settings.market.proxy is None else ()
    curve = declare_curve(universe, factors)
    return Calibration(model, curve, panel, factors, exposures, tuple(issuers), (*notices, *doubts, *short))


def chosen_adjustments(settings: CalibrationSettings) -> Adjustments:
    """What the settings ask to be done to the factor covariance."""
    return Adjustments(
        newey_west_lags=settings.newey_west_lags,
        correlation_shrinkage=settings.correlation_shrinkage,
        eigenfactor=settings.eigenfactor,
        regime_half_life=settings.regime_half_life_days,
    )


def _factor_covariance(
    factors: FactorPanel, settings: CalibrationSettings, adjustments: Adjustments
) -> Float[np.ndarray, "n_factors n_factors"]:
    """The decayed covariance, or that of the worst days of ``stress_factor`` where one is named."""
    if settings.stress_factor is None:
        return estimate_factor_covariance(
            factors.values,
            volatility_half_life=settings.volatility_half_life_days,
            correlation_half_life=settings.correlation_half_life_days,
            adjustments=adjustments,
        )
    if settings.stress_factor not in factors.factors:
        allowed = ", ".join(factors.factors.labels)
        raise CalibrationError(f"stress_factor {settings.stress_factor!r} is no factor; allowed: {allowed}")
    return estimate_stress_covariance(
        factors.values,
        factor=factors.factors.labels.index(settings.stress_factor),
        correlation_shrinkage=settings.correlation_shrinkage,
    )
