"""A nowcast meets the close: names outside the tape, and every book."""

from collections.abc import Collection
from typing import Final

import numpy as np
import polars as pl

from engine.errors import DataError
from engine.intake import Notice, screen
from engine.risk.portfolios import Portfolios
from engine.stress.backtest import explained, rank_correlation

FEWEST: Final = 3
"""Names below which no share of a cross-section is explained."""


def read_closing(frame: pl.DataFrame, source: str) -> tuple[pl.DataFrame, tuple[Notice, ...]]:
    """Table ``closing`` without the names whose return cannot be.

    Raises:
        ContractError: the file as a whole cannot be used.
    """
    screened = screen(frame, "closing", source, by="security_id")
    return screened.frame, screened.notices


def score_names(names: pl.DataFrame, closing: pl.DataFrame, *, scoring: Collection[str]) -> pl.DataFrame:
    """The table ``nowcast_scores``: one row for the names of the scoring set outside the tape.

    ``r2 = 1 - SSE / SST`` with SST about the mean; the coverage is of the band of the close.

    Args:
        names: Table ``nowcast_names``.
        closing: Table ``closing``.
        scoring: Names that may be scored; those printed are left out.

    Raises:
        DataError: fewer than 3 of them have a closing return, or all made the same.
    """
    chosen = pl.col("printed").is_null() & pl.col("security_id").is_in(sorted(scoring))
    both = names.filter(chosen).join(closing, on="security_id", how="inner", validate="1:1").sort("security_id")
    if both.height < FEWEST or both["return"].n_unique() == 1:
        raise DataError(
            f"closing: {both.height} names outside the tape can be scored, {both['return'].n_unique()} different "
            f"returns; at least {FEWEST} are needed"
        )
    estimated, realised = both["estimated"].to_numpy(), both["return"].to_numpy()
    inside = (both["close_low"].to_numpy() <= realised) & (realised <= both["close_high"].to_numpy())
    return pl.DataFrame(
        {
            "scoring_set": ["outside_tape"],
            "n": [both.height],
            "r2": [explained(realised, estimated)],
            "rank_correlation": [rank_correlation(realised, estimated)],
            "sign_accuracy": [float(np.mean(np.sign(realised) == np.sign(estimated)))],
            "band_coverage": [float(inside.mean())],
        }
    )


def score_books(
    books: pl.DataFrame, names: pl.DataFrame, closing: pl.DataFrame, portfolios: Portfolios
) -> pl.DataFrame:
    """The table ``nowcast_book_scores``: each book's estimate beside what its names made.

    ``realised = w'r`` over the names with a closing return, the others at their estimate;
    ``known_share`` is the part of the gross weight that has one.

    Args:
        books: Table ``nowcast``.
        names: Table ``nowcast_names``.
        closing: Table ``closing``.
        portfolios: Weights.
    """
    labels = pl.DataFrame({"security_id": portfolios.model.securities.labels})
    made = labels.join(names, on="security_id", how="left", maintain_order="left").join(
        closing, on="security_id", how="left", maintain_order="left"
    )
    known = made["return"].is_not_null().to_numpy()
    realised = portfolios.weights @ made.select(pl.coalesce("return", "estimated")).to_series().to_numpy()
    gross = abs(portfolios.weights)
    held = gross @ np.ones(len(known))
    share = np.divide(gross @ known.astype(np.float64), held, out=np.ones(len(held)), where=held > 0.0)
    frame = pl.DataFrame({"portfolio_id": portfolios.ids.labels, "realised": realised, "known_share": share})
    between = pl.col("realised").is_between(pl.col("close_low"), pl.col("close_high"))
    return (
        books.join(frame, on="portfolio_id", validate="1:1")
        .with_columns((pl.col("pnl_frac") - pl.col("realised")).alias("error"), between.alias("inside_band"))
        .select(
            "portfolio_id", pl.col("pnl_frac").alias("estimated"), "realised", "error", "inside_band", "known_share"
        )
        .sort("portfolio_id")
    )
