"""What leaving a position costs in a stressed market, and how long it takes."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from engine.conventions import TRADING_DAYS
from engine.curve.universe import LiquiditySettings
from engine.intake import Notice
from engine.risk.model import RiskModel
from engine.risk.portfolios import Portfolios


@dataclass(frozen=True, slots=True)
class Depth:
    """How deep the market of each name is on an ordinary day, on the model's axis.

    Args:
        half_spread: ``(n_securities,)``, fraction of the price.
        daily_volume: ``ADV``, ``(n_securities,)``, base currency a day; NaN where it is not known.
        daily_volatility: ``(n_securities,)``, of the whole return: ``sqrt((b'Fb + d) / 252)``.
    """

    half_spread: Float[np.ndarray, " n_securities"]
    daily_volume: Float[np.ndarray, " n_securities"]
    daily_volatility: Float[np.ndarray, " n_securities"]


def measure_depth(model: RiskModel, securities: pl.DataFrame, half_spread_bps: float) -> Depth:
    """Spread, volume and volatility of every name of the model.

    Args:
        model: Risk model.
        securities: Table ``securities``. An ``adv_base`` that is null or 0 is not known, and never 0.
        half_spread_bps: For a name whose row has none, or that has no row.
    """
    filled = securities.with_columns(pl.col("half_spread_bps").fill_null(half_spread_bps))
    axis = model.securities
    spread = axis.vector(filled, "half_spread_bps", label="security_id", source="securities", fill=half_spread_bps)
    volume = axis.vector(securities, "adv_base", label="security_id", source="securities", fill=np.nan)
    common = np.einsum("nk,kl,nl->n", model.exposures, model.factor_covariance, model.exposures)
    return Depth(
        half_spread=spread / 1e4,
        daily_volume=np.where(volume > 0.0, volume, np.nan),
        daily_volatility=np.sqrt(np.maximum(common + model.specific_variance, 0.0) / TRADING_DAYS),
    )


def exit_costs(portfolios: Portfolios, depth: Depth, terms: LiquiditySettings) -> Float[np.ndarray, " n_portfolios"]:
    """What selling (or buying back) every position of a portfolio costs.

    ``sum_i |w_i| (m_s h_i + Y sig_i sqrt(Q_i / (m_v ADV_i)))`` with ``Q_i = |w_i| NAV``: half-spread
    ``h``, daily volatility ``sig``, spread multiple ``m_s``, volume multiple ``m_v``, impact ``Y``.
    A position of a day's whole volume in a name that moves 2 % a day costs 2 % and the spread. A
    parent is left as one: its positions are added up first, so that it costs at least what its
    books cost one by one where they are all on the same side. Cash costs nothing.

    Args:
        portfolios: Weights and NAV of books and parents.
        depth: On the same axis. A name of unknown volume is costed at its spread alone, which is
            too little; ``unknown_volumes`` says so.
        terms: Multiples of the scenario or of the universe.

    Returns:
        Fraction of NAV, not negative.

    References:
        MATH.md 4; Toth et al. (2011), Phys. Rev. X 1, 021006. Oracle: a sum name by name,
        tests/test_liquidity.py.
    """
    rows, columns, size = _positions(portfolios)
    volume = terms.volume_multiple * depth.daily_volume[columns]
    impact = terms.impact * depth.daily_volatility[columns] * np.sqrt(size * portfolios.nav[rows] / volume)
    cost = terms.spread_multiple * depth.half_spread[columns] + np.where(np.isfinite(impact), impact, 0.0)
    return _summed(rows, size * cost, len(portfolios.ids))


def exit_times(portfolios: Portfolios, depth: Depth, participation: float) -> pl.DataFrame:
    """How long leaving takes when no more than a share of each name's ordinary volume is traded.

    All names are sold side by side, so a portfolio takes as long as its slowest name:
    ``max_i Q_i / (participation ADV_i)``. A portfolio of cash takes no time and is sold at once.

    Args:
        portfolios: Weights and NAV of books and parents.
        depth: On the same axis. With a name of unknown volume the days are not known (null), and
            that name counts as unsold.
        participation: Largest share of a day's volume.

    Returns:
        ``portfolio_id``, ``days_to_liquidate`` and, as shares of gross exposure,
        ``sold_in_1_day`` and ``sold_in_5_days``.
    """
    rows, columns, size = _positions(portfolios)
    n = len(portfolios.ids)
    days = size * portfolios.nav[rows] / (participation * depth.daily_volume[columns])
    longest = np.zeros(n)
    np.maximum.at(longest, rows, np.where(np.isfinite(days), days, np.inf))
    gross = _summed(rows, size, n)
    sold = {}
    for span in (1, 5):
        share = np.where(np.isfinite(days), span / np.maximum(days, span), 0.0)
        part = _summed(rows, size * share, n)
        sold[span] = np.divide(part, gross, out=np.ones(n), where=gross > 0.0)
    return pl.DataFrame(
        {
            "portfolio_id": portfolios.ids.labels,
            "days_to_liquidate": pl.Series(np.where(np.isfinite(longest), longest, np.nan), nan_to_null=True),
            "sold_in_1_day": np.minimum(sold[1], 1.0),
            "sold_in_5_days": np.minimum(sold[5], 1.0),
        }
    )


def unknown_volumes(portfolios: Portfolios, securities: pl.DataFrame) -> tuple[Notice, ...]:
    """A warning that names what is held and has no volume in the table ``securities``."""
    known = securities.filter(pl.col("adv_base") > 0.0)["security_id"].to_list()
    _, columns, _ = _positions(portfolios)
    held = [portfolios.model.securities.labels[column] for column in np.unique(columns)]
    unknown = sorted(set(held) - set(known))
    if not unknown:
        return ()
    shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
    words = (
        f"{len(unknown)} held names have no adv_base ({shown}): leaving them is costed at the spread alone, "
        "and the books that hold them have no days_to_liquidate"
    )
    return (Notice("securities.volume", "warn", words, "securities"),)


def _positions(
    portfolios: Portfolios,
) -> tuple[np.ndarray, np.ndarray, Float[np.ndarray, " n_positions"]]:
    """Row, column and absolute weight of every position that is not zero."""
    held = portfolios.traded.tocoo()
    rows, columns = held.coords
    some = held.data != 0.0
    return rows[some], columns[some], np.abs(held.data[some])


def _summed(rows: np.ndarray, values: Float[np.ndarray, " n_positions"], n: int) -> Float[np.ndarray, " n_portfolios"]:
    """Values added up by row; numpy counts in integers where there is nothing to add."""
    return np.bincount(rows, weights=values, minlength=n).astype(np.float64)
