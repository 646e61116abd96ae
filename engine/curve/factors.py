"""Baskets become pure factors: the market, and what each tier does beyond it."""

import datetime as dt
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from engine.axes import Axis
from engine.conventions import MARKET
from engine.curve.returns import ReturnPanel, split_question
from engine.curve.universe import Universe
from engine.errors import CalibrationError
from engine.intake import Notice

DISAGREEMENT: Final = 0.01
"""A close further from the securities' price of the same day is worth a warning."""

RESCALED: Final = 0.25
"""Beyond this no dividends explain it: the history is on another scale than the price."""


@dataclass(frozen=True, slots=True)
class FactorPanel:
    """Daily returns of the factors ``(market, pure tier 1, ..., pure tier J, industries)``.

    Args:
        dates: Trading days in order.
        factors: Axis of the columns: the market, the tiers in the order of the curve, then industries if any.
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
    def curve_only(self) -> "FactorPanel":
        """The panel of the market and the tiers, without the industries that may follow them."""
        k = 1 + len(self.beta)
        return replace(self, factors=Axis("factor", self.factors.labels[:k]), values=self.values[:, :k])

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
    shares fixed from market cap and price (no cap, no weight; the close of the price's date
    instead where the two are more than 25 % apart), or the named proxy;
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
    """Shares on the scale of the panel's closes: cap over price, or over the close where both cannot be right.

    ``previous_close`` times these is the cap moved by the panel's returns. A close of
    ``price_date`` that is more than 25 % from ``price`` is of a history on another scale (a
    split adjusted late, another unit): over ``price`` the name would weigh less by that ratio,
    over its own close it weighs its cap on ``price_date``. Without a close on that day the
    price stands, and the last close where there is no price.
    """
    table = _listed(panel, universe)
    price, close = table["price"].to_numpy(), table["close"].to_numpy()
    with np.errstate(invalid="ignore"):
        rescaled = np.abs(close / price - 1.0) > RESCALED
    scale = np.where(np.isfinite(price), np.where(rescaled, close, price), panel.last_close)
    shares = table["market_cap_base"].to_numpy() / scale
    return np.where((table["kind"] == "stock").to_numpy() & np.isfinite(shares), shares, 0.0)


def doubt_prices(panel: ReturnPanel, universe: Universe, source: str) -> tuple[Notice, ...]:
    """A warning where the close of ``price_date`` and ``securities.price`` are more than 1 % apart.

    One names all that dividends may explain (adjusted closes fall behind by what was paid
    since: 20 % at most on the bundled names), worst first; each beyond 25 % has its own.

    Args:
        panel: Daily returns up to the calibration date.
        universe: Securities with prices and their dates.
        source: File of the prices, for the messages.
    """
    table = _listed(panel, universe).with_columns((pl.col("close") / pl.col("price")).alias("ratio"))
    apart = (pl.col("ratio") - 1.0).abs()
    table = table.filter((pl.col("kind") == "stock") & pl.col("ratio").is_finite() & (apart > DISAGREEMENT))
    table = table.sort(apart, "security_id", descending=[True, False])
    notices = [
        Notice(
            "prices.rescaled",
            "warn",
            f"{name}: closes at {close:g} on {day}, securities say {price:g}{split_question(ratio)}; "
            "its shares are its cap over that close",
            source,
        )
        for name, close, day, price, ratio in table.filter(apart > RESCALED)
        .select("security_id", "close", "price_date", "price", "ratio")
        .iter_rows()
    ]
    rest = table.filter(apart <= RESCALED)
    if rest.height:
        first = ", ".join(
            f"{name} {ratio - 1.0:+.1%}" for name, ratio in rest.head(5).select("security_id", "ratio").rows()
        )
        words = (
            f"{rest.height} closes on price_date are more than {DISAGREEMENT:.0%} from the securities' price, as later "
            f"dividends adjust them: {first}{', ...' if rest.height > 5 else ''}; shares are cap over price"
        )
        notices.append(Notice("prices.adjusted", "warn", words, source))
    return tuple(notices)


def _listed(panel: ReturnPanel, universe: Universe) -> pl.DataFrame:
    """Kind, price, its date, cap and the panel's close on that date, on the panel's axis; NaN where missing."""
    names = pl.DataFrame({"security_id": panel.securities.labels})
    columns = ("security_id", "kind", "price", "price_date", "market_cap_base")
    table = names.join(
        universe.securities.select(columns), on="security_id", how="left", validate="1:1", maintain_order="left"
    )
    close = panel.close_on(table["price_date"].to_list())
    return table.with_columns(pl.col("price", "market_cap_base").fill_null(float("nan")), pl.Series("close", close))


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
