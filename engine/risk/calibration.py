"""Prices become the model's tables: the pure half of ``engine calibrate``."""

import datetime as dt
from dataclasses import dataclass

import numpy as np
import polars as pl

from engine.curve.exposures import ExposurePanel, estimate_exposures
from engine.curve.factors import FactorPanel, build_factors
from engine.curve.returns import ReturnPanel, build_returns
from engine.curve.tiers import Curve, declare_curve
from engine.curve.universe import Universe
from engine.intake import Notice
from engine.risk.covariance import estimate_factor_covariance
from engine.risk.model import RiskModel
from engine.risk.specific import estimate_specific_variance
from engine.risk.tails import fit_tails


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
        exposures = tables["exposures"].with_columns(pl.Series("prior_share", self.exposures.prior_share.ravel()))
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
    """Baskets, pure factors, shrunk exposures, factor covariance, specific risk and tails.

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
    settings = universe.settings.calibration
    panel, notices = build_returns(
        prices, universe.securities, as_of=as_of, history_days=settings.history_days, source=source
    )
    factors = build_factors(panel, universe)
    exposures = estimate_exposures(panel, factors, universe)
    covariance = estimate_factor_covariance(
        factors.values,
        volatility_half_life=settings.volatility_half_life_days,
        correlation_half_life=settings.correlation_half_life_days,
    )
    variance, issuers = estimate_specific_variance(
        exposures.residuals,
        securities=universe.securities,
        axis=panel.securities,
        half_life=settings.specific_half_life_days,
        minimum_days=settings.minimum_days,
    )
    tails = fit_tails(
        factors.values,
        exposures.residuals,
        volatility_half_life=settings.volatility_half_life_days,
        correlation_half_life=settings.correlation_half_life_days,
        specific_half_life=settings.specific_half_life_days,
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
    curve = declare_curve(universe, factors)
    return Calibration(model, curve, panel, factors, exposures, tuple(issuers), (*notices, *short))
