"""The risk of fixed books forecast day by day, each day by the model of the days before it."""

import datetime as dt
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from engine.axes import Axis
from engine.conventions import TRADING_DAYS
from engine.curve.factors import basket_weights, market_returns
from engine.curve.returns import PriceHistory, ReturnPanel
from engine.curve.universe import Universe
from engine.errors import CalibrationError
from engine.intake import Notice
from engine.risk.attribution import measure_tails
from engine.risk.calibration import Calibration, calibrate_panel
from engine.risk.fixed_books import MINIMUM_RISK, FixedBooks, choose_books, minimum_risk_weights
from engine.risk.model import RiskModel
from engine.risk.tails import Tails

LEAST_SCORED: Final = 3
"""Fewer names than this have no cross-section to explain."""

SEEN_SHARE: Final = 0.90
"""A day on which less of a book's gross weight has a return does not count for it."""

TAIL_DAYS: Final = 63
"""Days after which the tails are fitted anew; they only set the VaR's quantile."""

SEED: Final = 20240101
"""Of the random books."""


@dataclass(frozen=True, slots=True)
class Forecasts:
    """Forecast and outcome of every day and book.

    Args:
        dates: The days forecast, in order; the model of a day has seen the days before it.
        books: Axis of the columns.
        groups: Group of each book.
        volatility: ``(n_days, n_books)``, daily, NaN where the book is empty.
        realised: Same shape, simple return, NaN where too little of the book has one.
        value_at_risk: Same shape, VaR 99 of one day, a loss above zero.
        inflation: ``(n_days, n_factors)``, variance inflation of the factors.
        factors: Axis of its columns.
        days: Table ``validation_days``.
    """

    dates: tuple[dt.date, ...]
    books: Axis
    groups: tuple[str, ...]
    volatility: Float[np.ndarray, "n_days n_books"]
    realised: Float[np.ndarray, "n_days n_books"]
    value_at_risk: Float[np.ndarray, "n_days n_books"]
    inflation: Float[np.ndarray, "n_days n_factors"]
    factors: Axis
    days: pl.DataFrame


def forecast_books(
    history: PriceHistory, positions: range, universe: Universe, every: int
) -> tuple[Forecasts, tuple[Notice, ...]]:
    """Volatilities of the books from the days before each position, and the returns of the day itself.

    Args:
        history: Prices up to the last day forecast.
        positions: Positions of those days in ``history.dates``, without a gap.
        universe: Tiers, securities, settings.
        every: Days from one fit to the next.

    Returns:
        The forecasts, and what the last calibration noticed.
    """
    chosen = choose_books(universe, SEED)
    books = Axis("book", (*chosen.books.labels, MINIMUM_RISK))
    shape = (len(positions), len(books))
    volatility, realised, at_risk = (np.full(shape, np.nan) for _ in range(3))
    inflation, scores = [], []
    tails: Tails | None = None
    for start in range(0, len(positions), every):
        stale = start % max(every, TAIL_DAYS - TAIL_DAYS % every) == 0
        calibration, panel, notices = _model_before(history, positions[start], universe, None if stale else tails)
        model, tails = calibration.model, calibration.model.tails
        weights = _weights(chosen, calibration, universe)
        factor, specific = book_variances(weights, model)
        ahead = _days_ahead(history, positions[start : start + every], panel)
        rows = slice(start, start + len(ahead.dates))
        volatility[rows] = np.sqrt((factor + specific) / TRADING_DAYS)
        at_risk[rows] = measure_tails(factor, specific, model.tails).var_99
        realised[rows] = [book_returns(weights, returns) for returns in ahead.values]
        inflation += [variance_inflation(model.factor_covariance)] * len(ahead.dates)
        scores += score_days(ahead, calibration, universe)
    dates = tuple(history.dates[position] for position in positions)
    columns = ("r2", "r2_market_only", "gain", "n", "spread")
    days = pl.DataFrame(scores, schema=dict.fromkeys(columns, pl.Float64), orient="row")
    days = days.with_columns(pl.col(*columns).fill_nan(None))
    days = days.select(pl.Series("date", dates), *columns).with_columns(pl.col("n").cast(pl.Int64))
    groups = (*chosen.groups, MINIMUM_RISK)
    table = np.array(inflation)
    return Forecasts(dates, books, groups, volatility, realised, at_risk, table, model.factors, days), notices


def book_variances(
    weights: Float[np.ndarray, "n_books n"], model: RiskModel
) -> tuple[Float[np.ndarray, " n_books"], Float[np.ndarray, " n_books"]]:
    """``w' B F B' w`` and ``w' D w`` of each row, a year; NaN for a book without variance."""
    loadings = weights @ model.exposures
    factor = np.einsum("bk,kl,bl->b", loadings, model.factor_covariance, loadings)
    specific = np.einsum("bn,nb->b", weights, model.specific_times(weights.T))
    alive = factor + specific > 0.0
    return np.where(alive, factor, np.nan), np.where(alive, specific, np.nan)


def book_returns(
    weights: Float[np.ndarray, "n_books n"], returns: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n_books"]:
    """Return of each book on the names that have one, scaled to its full gross weight.

    NaN where names with less than 90 % of the gross weight have a return.
    """
    seen = np.isfinite(returns)
    gross = np.abs(weights).sum(axis=1)
    found = np.abs(weights) @ seen
    enough = (gross > 0.0) & (found >= SEEN_SHARE * gross)
    scale = np.divide(gross, found, out=np.full_like(gross, np.nan), where=enough)
    return scale * (weights @ np.where(seen, returns, 0.0))


def variance_inflation(covariance: Float[np.ndarray, "k k"]) -> Float[np.ndarray, " k"]:
    """``VIF_k = 1 / (1 - R2_k)`` of each factor on the others: ``F_kk (F^-1)_kk``; infinite if singular.

    Oracle: the R2 of ``numpy.linalg.lstsq``, tests/test_validation.py.
    """
    scale = np.sqrt(np.diag(covariance))
    if not (scale > 0.0).all() or np.linalg.matrix_rank(covariance / np.outer(scale, scale)) < len(scale):
        return np.full(len(scale), np.inf)
    return np.diag(np.linalg.inv(covariance / np.outer(scale, scale))).copy()


def _model_before(
    history: PriceHistory, position: int, universe: Universe, tails: Tails | None
) -> tuple[Calibration, ReturnPanel, tuple[Notice, ...]]:
    """The model of the days before a position, its returns, and what was noticed in them."""
    days = universe.settings.calibration.history_days
    panel, notices = history.panel(as_of=history.dates[position - 1], history_days=days)
    calibration = calibrate_panel(panel, universe, notices=notices, tails=tails, source=history.source)
    return calibration, panel, calibration.notices


def _weights(chosen: FixedBooks, calibration: Calibration, universe: Universe) -> Float[np.ndarray, "n_books n"]:
    model = calibration.model
    stocks = _flagged(model.securities, universe, pl.col("kind") == "stock")
    known = calibration.exposures.n_days >= universe.settings.calibration.minimum_days
    return np.vstack([chosen.among(model.securities), minimum_risk_weights(model, stocks & known)])


def _days_ahead(history: PriceHistory, positions: range, panel: ReturnPanel) -> ReturnPanel:
    """The days' returns on the names of a model; what is fixed of them is as the model knew it."""
    at = history.securities.positions(panel.securities.labels, "the day's returns")
    first, stop = positions.start, positions.stop
    return ReturnPanel(
        dates=history.dates[first:stop],
        securities=panel.securities,
        values=history.values[first:stop, at],
        previous_close=history.close[first - 1 : stop - 1, at],
        last_close=panel.last_close,
    )


def score_days(ahead: ReturnPanel, calibration: Calibration, universe: Universe) -> list[tuple[float, ...]]:
    """``r2 r2_market_only gain n spread`` of each day, given the market's and the baskets' returns.

    ``R2 = 1 - SSE / SST`` over the stocks with a GICS sector that are in no basket, NaN where fewer
    than 3 have a return; ``spread`` the standard deviation across the baskets' total returns.

    Args:
        ahead: Returns on the model's securities.
        calibration: Model of the days before.
        universe: Tiers, securities, settings.

    Raises:
        CalibrationError: the market or a basket has no return on a day.

    References:
        MATH.md 1, 4. Oracle: ``stress.backtest``, tests/test_validation.py.
    """
    baskets = np.column_stack([_basket_returns(ahead, universe, tier.core) for tier in universe.settings.tiers])
    market = market_returns(ahead, universe)
    gaps = ~np.isfinite(np.column_stack([market, baskets])).all(axis=1)
    if gaps.any():
        raise CalibrationError(f"{ahead.dates[np.argmax(gaps)]}: the market or a basket has no return")
    moves = np.column_stack([market, baskets - np.outer(market, calibration.curve.beta)])
    listed = (pl.col("kind") == "stock") & pl.col("gics_sector").is_not_null()
    outside = ~pl.col("security_id").is_in(sorted(universe.settings.core))
    names = _flagged(ahead.securities, universe, listed & outside)
    exposures = calibration.model.exposures[names, : moves.shape[1]]
    return [
        (*_explained(realised, exposures, move), float(basket.std()))
        for realised, move, basket in zip(ahead.values[:, names], moves, baskets, strict=True)
    ]


def _explained(
    realised: Float[np.ndarray, " n"], exposures: Float[np.ndarray, "n k"], moves: Float[np.ndarray, " k"]
) -> tuple[float, float, float, float]:
    """``r2 r2_market_only gain n`` of one cross-section."""
    seen = np.isfinite(realised)
    kept, count = realised[seen], float(seen.sum())
    total = ((kept - kept.mean()) ** 2).sum() if count >= LEAST_SCORED else 0.0
    if total == 0.0:
        return np.nan, np.nan, np.nan, count
    full, alone = (1.0 - float(((kept - exposures[seen, :k] @ moves[:k]) ** 2).sum() / total) for k in (len(moves), 1))
    return full, alone, full - alone, count


def _basket_returns(ahead: ReturnPanel, universe: Universe, core: tuple[str, ...]) -> Float[np.ndarray, " n_days"]:
    weights = basket_weights(ahead, universe, np.array([name in core for name in ahead.securities.labels]))
    held = np.where(np.isfinite(ahead.values), weights, 0.0)
    total = held.sum(axis=1)
    moved = (held * np.where(np.isfinite(ahead.values), ahead.values, 0.0)).sum(axis=1)
    return np.divide(moved, total, out=np.full_like(total, np.nan), where=total > 0.0)


def _flagged(axis: Axis, universe: Universe, claim: pl.Expr) -> Bool[np.ndarray, " n"]:
    chosen = set(universe.securities.filter(claim)["security_id"].to_list())
    return np.array([name in chosen for name in axis.labels], dtype=bool)
