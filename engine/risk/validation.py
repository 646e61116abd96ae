"""Does the model predict the next day's risk? Fixed books, one day ahead, over any span of days."""

import datetime as dt
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Float

from engine.curve.returns import PriceHistory, read_history, trading_days
from engine.curve.universe import Universe
from engine.errors import CalibrationError
from engine.intake import Notice, screen
from engine.risk.attribution import count_exceptions
from engine.risk.fixed_books import GROUPS
from engine.risk.forecasts import Forecasts, forecast_books

WINDOW_DAYS: Final = 252
"""T of the bias statistic (MATH 2); the whole span where it is shorter."""

DEFAULT_DAYS: Final = 2 * WINDOW_DAYS
LEAST_DAYS: Final = 20
"""Fewer days than this say nothing about a standard deviation."""

LARGEST_KURTOSIS: Final = 6.0
"""Above this the band is no wider (MATH 2)."""


@dataclass(frozen=True, slots=True)
class Validation:
    """One-day-ahead forecasts against what came.

    Args:
        days: Table ``validation_days``.
        books: Table ``validation_books``.
        groups: Means of the books by group, in the order of ``GROUPS``.
        inflation: Mean and largest variance inflation of each factor: ``factor mean largest``.
        headline: The figures of the whole: window, share of books inside, MRAD, QLIKE and so on.
        notices: What was noticed in the prices and the books.
    """

    days: pl.DataFrame
    books: pl.DataFrame
    groups: pl.DataFrame
    inflation: pl.DataFrame
    headline: dict[str, float | int | None]
    notices: tuple[Notice, ...]


def validate(
    prices: pl.DataFrame,
    universe: Universe,
    *,
    first: dt.date | None = None,
    last: dt.date | None = None,
    every: int = 1,
    source: str = "prices",
) -> Validation:
    """Forecast the risk of fixed books day by day and hold it against the next day's return.

    Per book, with ``z = r / sig`` and ``h = sig^2`` of one day: the bias statistic ``std(z)`` of
    the last 252 days with its band, the share of all 252-day windows inside theirs, MRAD (mean
    of ``|bias - 1|`` over those windows), the mean QLIKE ``log h + r^2 / h`` over all days, and
    the days on which the loss exceeded the t VaR 99. Per day: R2 of the cross-section given
    the market's and the baskets' returns, and its gain over market beta alone.

    Args:
        prices: Table ``prices`` as read.
        universe: Tiers, securities, settings; caps and memberships are taken as they stand.
        first: First day forecast; the last 504 with enough history when None.
        last: Last day forecast; the last price when None.
        every: The model is fitted on every n-th day and used unchanged until the next.
        source: File of the prices, for the messages.

    Raises:
        ContractError: the prices cannot be used as a whole.
        CalibrationError: no trading day in the range, fewer than 20, or too short a history.

    References:
        MATH.md 2. Planted truth: tests/test_validation.py.
    """
    history, positions = _span(prices, universe, first, last, source)
    forecasts, notices = forecast_books(history, positions, universe, every)
    books, thin = _book_table(forecasts)
    if not books.height:
        raise CalibrationError(f"{source}: no book has returns on {LEAST_DAYS} days; are the core names priced?")
    return Validation(
        days=forecasts.days,
        books=books,
        groups=_group_table(books),
        inflation=pl.DataFrame(
            {
                "factor": forecasts.factors.labels,
                "mean": forecasts.inflation.mean(axis=0),
                "largest": forecasts.inflation.max(axis=0),
            }
        ),
        headline=_headline(forecasts, books),
        notices=(*notices, *thin),
    )


def bias_band(
    standardised: Float[np.ndarray, "n_windows n_days"],
) -> tuple[Float[np.ndarray, " n_windows"], Float[np.ndarray, " n_windows"]]:
    """Bias statistic of each window, and the half-width of its 95 % band about 1.

    ``b = std(z)`` about the mean with n - 1; half-width ``1.96 sqrt((min(kurt, 6) - 1) / (4 T))``
    with ``kurt = m4 / m2^2``, 3 for a normal: 0.0873 at T = 252.
    """
    n_days = standardised.shape[1]
    centred = standardised - standardised.mean(axis=1, keepdims=True)
    second = (centred**2).mean(axis=1)
    fourth = (centred**4).mean(axis=1)
    kurtosis = np.divide(fourth, second**2, out=np.full_like(second, 3.0), where=second > 0.0)
    half = 1.96 * np.sqrt((np.minimum(kurtosis, LARGEST_KURTOSIS) - 1.0) / (4.0 * n_days))
    return np.sqrt(second * n_days / (n_days - 1.0)), half


def quasi_likelihood(
    realised: Float[np.ndarray, " n_days"], volatility: Float[np.ndarray, " n_days"]
) -> Float[np.ndarray, " n_days"]:
    """QLIKE ``log h + r^2 / h`` with ``h = volatility^2``; its mean is least at the true variance."""
    return 2.0 * np.log(volatility) + (realised / volatility) ** 2


def _span(
    prices: pl.DataFrame, universe: Universe, first: dt.date | None, last: dt.date | None, source: str
) -> tuple[PriceHistory, range]:
    """The prices that the range needs, and the positions of its days."""
    settings = universe.settings.calibration
    if prices.schema.get("date") != pl.Date or not prices.height:
        screen(prices, "prices", source, by="security_id")
    prices = prices if last is None else prices.filter(pl.col("date") <= last)
    calendar = trading_days(prices.filter(pl.col("date").is_not_null()))
    inside = [day for day in calendar if first is None or day >= first]
    if not inside:
        held = f"these end on {calendar[-1]}" if calendar else "these begin later"
        raise CalibrationError(f"{source}: no trading day from {first or 'the start'} to {last or 'the end'}; {held}")
    inside = inside[-DEFAULT_DAYS:] if first is None else inside
    needed = len(inside) + settings.history_days + 1
    history = read_history(prices, universe.securities, until=inside[-1], days=needed, source=source)
    start = sum(day < inside[0] for day in history.dates)
    earliest = settings.minimum_days + 1
    if start < earliest:
        if len(history.dates) < earliest + LEAST_DAYS:
            raise CalibrationError(
                f"{source}: too short a history: {len(history.dates) - 1} daily returns up to {inside[-1]}; a model "
                f"needs {settings.minimum_days}, and {LEAST_DAYS} days after them to forecast; give a longer one"
            )
        if first is not None:
            raise CalibrationError(
                f"{source}: too short a history: {max(start - 1, 0)} daily returns before {inside[0]}, a model needs "
                f"{settings.minimum_days}; the first day that can be forecast is {history.dates[earliest]}"
            )
        start = earliest
    positions = range(start, len(history.dates))
    if len(positions) < LEAST_DAYS:
        raise CalibrationError(
            f"{source}: {len(positions)} trading days to forecast; at least {LEAST_DAYS} are needed "
            "(engine backtest scores a single day)"
        )
    return history, positions


def _book_table(forecasts: Forecasts) -> tuple[pl.DataFrame, tuple[Notice, ...]]:
    """Table ``validation_books``, and a notice for each book with too few days."""
    rows, notices = [], []
    for column, (book, group) in enumerate(zip(forecasts.books.labels, forecasts.groups, strict=True)):
        realised, sigma = forecasts.realised[:, column], forecasts.volatility[:, column]
        seen = np.isfinite(realised) & np.isfinite(sigma)
        days = int(seen.sum())
        if days < LEAST_DAYS:
            words = f"{book}: {days} days with a forecast and a return, fewer than {LEAST_DAYS}; left out"
            notices.append(Notice("validation.thin_book", "warn", words, "prices"))
            continue
        realised, sigma = realised[seen], sigma[seen]
        windows = np.lib.stride_tricks.sliding_window_view(realised / sigma, min(WINDOW_DAYS, days))
        bias, half = bias_band(windows)
        inside = np.abs(bias - 1.0) <= half
        exceptions = count_exceptions(realised, forecasts.value_at_risk[seen, column]).exceptions
        rows.append(
            {
                "book_id": book,
                "group": group,
                "bias": float(bias[-1]),
                "band_low": float(1.0 - half[-1]),
                "band_high": float(1.0 + half[-1]),
                "inside": bool(inside[-1]),
                "windows_inside": float(inside.mean()),
                "mrad": float(np.abs(bias - 1.0).mean()),
                "qlike": float(quasi_likelihood(realised, sigma).mean()),
                "exceptions_99": exceptions,
                "n_days": days,
            }
        )
    return pl.DataFrame(rows).sort("book_id") if rows else pl.DataFrame(), tuple(notices)


def _group_table(books: pl.DataFrame) -> pl.DataFrame:
    means = [pl.col(name).mean() for name in ("inside", "windows_inside", "bias", "mrad", "qlike")]
    rate = (pl.col("exceptions_99").sum() / pl.col("n_days").sum()).alias("exceptions_share")
    table = books.group_by("group").agg(pl.len().alias("books"), *means, rate)
    order = {group: position for position, group in enumerate(GROUPS)}
    return table.sort(pl.col("group").replace_strict(order, return_dtype=pl.Int64))


def _headline(forecasts: Forecasts, books: pl.DataFrame) -> dict[str, float | int | None]:
    days = forecasts.days
    widest = days.sort("spread", "date", descending=True).head(10)

    def mean(frame: pl.DataFrame, name: str, *, median: bool = False) -> float | None:
        value = frame[name].median() if median else frame[name].mean()
        return float(value) if isinstance(value, float) else None

    return {
        "days": days.height,
        "window_days": min(WINDOW_DAYS, days.height),
        "books": books.height,
        "books_inside": mean(books, "inside"),
        "windows_inside": mean(books, "windows_inside"),
        "bias": mean(books, "bias"),
        "mrad": mean(books, "mrad"),
        "qlike": mean(books, "qlike"),
        "exceptions_share": int(books["exceptions_99"].sum()) / int(books["n_days"].sum()),
        "mean_r2": mean(days, "r2"),
        "mean_gain": mean(days, "gain"),
        "widest_median_r2": mean(widest, "r2", median=True),
    }
