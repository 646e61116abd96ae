"""Baskets become pure factors: the market, and what each tier does beyond it."""

import datetime as dt
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from engine.axes import Axis
from engine.conventions import MARKET
from engine.curve.returns import ReturnPanel
from engine.curve.universe import Universe
from engine.errors import CalibrationError


@dataclass(frozen=True, slots=True)
class FactorPanel:
    """Daily returns of the factors ``(market, pure tier 1, ..., pure tier J)``.

    Args:
        dates: Trading days in order.
        factors: Axis of the columns: the market, then the tiers in the order of the curve.
        values: ``(n_days, n_factors)``, decimals a day, no gap.
        basket_returns: ``(n_days, n_tiers)``, the total return of each basket.
        beta: ``(n_tiers,)``, decayed slope of each basket on the market.
        core: ``(n_tiers, n_securities)`` on the panel's securities, true for core names.
    """

    dates: tuple[dt.date, ...]
    factors: Axis
    values: Float[np.ndarray, "n_days n_factors"]
    basket_returns: Float[np.ndarray, "n_days n_tiers"]
    beta: Float[np.ndarray, " n_tiers"]
    core: Bool[np.ndarray, "n_tiers n_securities"]

    @property
    def frame(self) -> pl.DataFrame:
        """The table ``factor_returns``."""
        return pl.DataFrame(
            {
                "date": np.repeat(np.array(self.dates, dtype="datetime64[D]"), len(self.factors)),
                "factor": list(self.factors.labels) * len(self.dates),
                "return": self.values.ravel(),
            }
        ).sort("date", "factor")


def decay_weights(n_days: int, half_life: float) -> Float[np.ndarray, " n_days"]:
    """Weights that halve every ``half_life`` days back from the last and sum to 1."""
    weights = 0.5 ** (np.arange(n_days)[::-1] / half_life)
    return weights / weights.sum()


def decayed_slope(
    y: Float[np.ndarray, "n_days m"], x: Float[np.ndarray, " n_days"], weights: Float[np.ndarray, " n_days"]
) -> Float[np.ndarray, " m"]:
    """Slope of each column of ``y`` on ``x`` with an intercept, by weighted least squares.

    ``cov_w(x, y) / var_w(x)``. Oracle: numpy.polyfit with ``w = sqrt(weights)``.
    """
    centred = x - weights @ x
    return (weights * centred) @ y / ((weights * centred) @ centred)


def build_factors(panel: ReturnPanel, universe: Universe) -> FactorPanel:
    """The market's return, each basket's total return, and the pure tier factors.

    ``m`` is the mean of the stocks' returns weighted by shares times the previous close,
    shares fixed from market cap and price (no cap, no weight), or the named proxy;
    ``r_j`` the mean of the core names priced that day; ``g_j = r_j - beta_j m`` with
    ``beta_j`` the decayed slope of ``r_j`` on ``m`` over the panel.

    Args:
        panel: Daily returns up to the calibration date.
        universe: Tiers, core names, caps.

    Raises:
        CalibrationError: the market has no return on some day, a basket has fewer than two
            priced names on some day, or a factor never moves.
    """
    settings = universe.settings
    market = market_returns(panel, universe)
    core = np.array([[name in tier.core for name in panel.securities.labels] for tier in settings.tiers], dtype=bool)
    baskets = np.column_stack([_basket(panel, universe, row) for row in core])
    _refuse_gaps(panel, universe, market, baskets, core)
    weights = decay_weights(len(panel.dates), settings.calibration.exposure_half_life_days)
    beta = decayed_slope(baskets, market, weights)
    values = np.column_stack([market, baskets - np.outer(market, beta)])
    return FactorPanel(panel.dates, Axis("factor", (MARKET, *settings.tier_ids)), values, baskets, beta, core)


def market_returns(panel: ReturnPanel, universe: Universe) -> Float[np.ndarray, " n_days"]:
    """Cap-weighted return of the universe's stocks, or the proxy's, NaN where there is none."""
    proxy = universe.settings.market.proxy
    if proxy is not None:
        if proxy not in panel.securities:
            raise CalibrationError(f"the market proxy {proxy} has no usable prices")
        column: Float[np.ndarray, " n_days"] = panel.values[:, panel.securities.labels.index(proxy)]
        return column
    shares = _shares(panel, universe)
    return _weighted_mean(panel.values, shares * panel.previous_close)


def basket_weights(
    panel: ReturnPanel, universe: Universe, members: Bool[np.ndarray, " n_securities"]
) -> Float[np.ndarray, " n_securities"]:
    """Weight of each member in its basket before missing days: 1, or the square root of its cap."""
    if universe.settings.calibration.basket_weights == "equal":
        return members.astype(np.float64)
    caps = panel.securities.vector(
        universe.securities, "market_cap_base", label="security_id", source="securities", fill=np.nan
    )
    if np.isnan(caps[members]).any():
        absent = [panel.securities.labels[i] for i in np.flatnonzero(members & np.isnan(caps))]
        raise CalibrationError(f"basket_weights: sqrt_cap needs market_cap_base of {', '.join(absent)}")
    return np.where(members, np.sqrt(np.where(members, caps, 0.0)), 0.0)


def _basket(
    panel: ReturnPanel, universe: Universe, members: Bool[np.ndarray, " n_securities"]
) -> Float[np.ndarray, " n_days"]:
    weights = basket_weights(panel, universe, members)
    return _weighted_mean(panel.values, np.broadcast_to(weights, panel.values.shape))


def _shares(panel: ReturnPanel, universe: Universe) -> Float[np.ndarray, " n_securities"]:
    def column(name: str) -> Float[np.ndarray, " n_securities"]:
        frame = universe.securities.with_columns(pl.col(name).fill_null(float("nan")))
        return panel.securities.vector(frame, name, label="security_id", source="securities", fill=np.nan)

    stocks = set(universe.securities.filter(pl.col("kind") == "stock")["security_id"].to_list())
    is_stock = np.array([name in stocks for name in panel.securities.labels])
    price = np.where(np.isfinite(column("price")), column("price"), panel.last_close)
    shares = column("market_cap_base") / price
    return np.where(is_stock & np.isfinite(shares), shares, 0.0)


def _weighted_mean(
    values: Float[np.ndarray, "n_days n"], weights: Float[np.ndarray, "n_days n"]
) -> Float[np.ndarray, " n_days"]:
    seen = np.isfinite(values) & np.isfinite(weights)
    total = np.where(seen, weights, 0.0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(seen, weights * values, 0.0).sum(axis=1) / total


def _refuse_gaps(
    panel: ReturnPanel,
    universe: Universe,
    market: Float[np.ndarray, " n_days"],
    baskets: Float[np.ndarray, "n_days n_tiers"],
    core: Bool[np.ndarray, "n_tiers n_securities"],
) -> None:
    days = len(panel.dates)
    minimum = universe.settings.calibration.minimum_days
    faults: list[str] = []
    if days < minimum:
        faults.append(
            f"{days} daily returns up to {panel.dates[-1] if days else 'then'}; at least {minimum} are needed"
        )
    if not np.isfinite(market).all():
        faults.append(
            f"the market has no return on {int((~np.isfinite(market)).sum())} days: no priced stock has a "
            "market_cap_base; add it to the securities, or name a proxy under market in universe.yaml"
        )
    elif days and np.ptp(market) == 0.0:
        faults.append("the market never moves")
    for j, tier in enumerate(universe.settings.tiers):
        unpriced = sorted(set(tier.core) - {panel.securities.labels[i] for i in np.flatnonzero(core[j])})
        priced = np.isfinite(panel.values[:, core[j]]).sum(axis=1)
        thin = int((priced < 2).sum())
        if thin:
            extra = f"; without usable prices: {', '.join(unpriced)}" if unpriced else ""
            faults.append(f"tier {tier.id}: fewer than 2 of its core names are priced on {thin} of {days} days{extra}")
        elif np.ptp(baskets[:, j]) == 0.0:
            faults.append(f"tier {tier.id}: its basket never moves")
    if faults:
        raise CalibrationError("; ".join(faults))
