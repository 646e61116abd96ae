"""A day's volume shared out over the books of a firm before they trade, and counted after."""

from typing import Final

import numpy as np
import polars as pl

from engine.contracts import CONTRACTS, empty
from engine.conventions import FEASIBILITY
from engine.curve.universe import FirmLiquidity
from engine.errors import ContractError

SMALLEST: Final = 1e-12
"""A weight below this part of its ceiling asks for nothing."""

HALVINGS: Final = 100
"""Enough for a weight that is SMALLEST of its ceiling beside one that is not."""

SHAVED: Final = 1.0 - 1e-12
"""What is shared out is this much of the cap, so that the shares added up in any order stay below it."""

AT_CAP: Final = 0.999
"""Share of a name's cap from which it counts as used up; whole lots stop short of it."""


def share_volume(demand: pl.DataFrame, securities: pl.DataFrame, settings: FirmLiquidity) -> pl.DataFrame:
    """The table ``allotments``: how much of each name every book may trade today, bought or sold.

    All books of the universe are one firm. The cap of a name is ``firm_participation ADV`` and is
    poured in three rounds: for ``need``, what a book must trade to be inside its bounds; then by
    ``claim``, its holding plus its distance from the benchmark; then, of what is left, by
    ``reach``. In a round, book p gets ``min(c_p, lam w_p)`` with one ``lam`` a name such that the
    cap or every ceiling ``c_p`` is met: ``w = c = need``, then ``w = claim``, then ``w = reach``,
    both up to the rest of ``reach``. So no book gets more than it could trade, one alone gets
    all that it could, and nothing is kept back while someone could use it. Purchases and sales
    both count; crossings between books are not netted, since each order goes to the market.

    Args:
        demand: ``portfolio_id``, ``security_id`` and, in base currency, ``need_base``,
            ``claim_base``, ``reach_base``; one row a book and candidate name.
        securities: Table ``securities``. A name without ``adv_base`` is not traded, or under
            ``unknown_volume: allow`` without a cap (null).
        settings: Share of the day's volume; None shares nothing out.

    References:
        MATH.md 5. Oracle: a plain loop, tests/test_allotment.py.
    """
    if settings.firm_participation is None or not demand.height:
        return empty("allotments")
    rows = demand.join(_caps(securities, settings), on="security_id", how="left", validate="m:1").sort(
        "security_id", "portfolio_id"
    )
    name = rows["security_id"].rle_id().to_numpy().astype(np.int64)
    first = np.flatnonzero(np.diff(name, prepend=-1))
    cap = rows["cap_base"].fill_null(0.0).to_numpy()[first]
    need, claim, reach = (rows[f"{kind}_base"].to_numpy().astype(float) for kind in ("need", "claim", "reach"))
    got = np.zeros(rows.height)
    for weight, ceiling in ((need, need), (claim, reach), (reach, reach)):
        left = np.maximum(cap - np.bincount(name, weights=got, minlength=len(cap)), 0.0)
        got = got + _pour(name, weight, np.maximum(np.minimum(ceiling, reach) - got, 0.0), left)
    free = pl.col("cap_base").is_null() & (settings.unknown_volume == "allow")
    allotted = pl.when(~free).then(pl.Series("allotted_base", got * SHAVED)).alias("allotted_base")
    return rows.with_columns(allotted).select(list(CONTRACTS["allotments"].columns)).sort("portfolio_id", "security_id")


def count_volume(
    trades: pl.DataFrame, allotments: pl.DataFrame, securities: pl.DataFrame, settings: FirmLiquidity
) -> pl.DataFrame:
    """The table ``firm_liquidity``: what all books trade of each name, held against the firm's cap.

    Added up from the trades by name, whatever was allotted. A book may miss its own allotment by
    the certificate's tolerance, so that the firm may miss its cap by 1e-9 of the NAVs that trade.

    Args:
        trades: Table ``trades`` of every book.
        allotments: Table ``allotments``.
        securities: Table ``securities``.
        settings: Share of the day's volume.

    Raises:
        ContractError: the firm trades more of a name than its cap, or a name of unknown volume.
    """
    if settings.firm_participation is None:
        return empty("firm_liquidity")
    shared = allotments.group_by("security_id").agg(pl.col("allotted_base").sum())
    allowance = (FEASIBILITY * pl.col("notional_base") / pl.col("trade_weight").abs()).sum()
    traded = trades.group_by("security_id").agg(
        pl.col("notional_base").sum().alias("traded_base"),
        pl.col("portfolio_id").n_unique().cast(pl.Int64).alias("books"),
        allowance.alias("allowance"),
    )
    table = (
        shared.join(traded, on="security_id", how="full", coalesce=True, validate="1:1")
        .join(_caps(securities, settings), on="security_id", how="left", validate="1:1")
        .join(securities.select("security_id", "adv_base"), on="security_id", how="left", validate="1:1")
        .with_columns(pl.col("allotted_base", "traded_base", "books", "allowance").fill_null(0))
        .with_columns(
            pl.when(pl.col("adv_base") > 0.0).then(pl.col("traded_base") / pl.col("adv_base")).alias("adv_share"),
            (pl.col("traded_base") >= AT_CAP * pl.col("cap_base")).fill_null(False).alias("at_cap"),
        )
        .sort("security_id")
    )
    most = pl.col("cap_base") if settings.unknown_volume == "allow" else pl.col("cap_base").fill_null(0.0)
    over = table.filter((pl.col("traded_base") > most + pl.col("allowance")).fill_null(False))
    if over.height:
        raise ContractError(
            "firm_liquidity",
            [
                f"{name}: {books} books trade {traded:,.0f}, at most {cap or 0.0:,.0f} may be; nothing is published"
                for name, traded, cap, books in over.select(
                    "security_id", "traded_base", "cap_base", "books"
                ).iter_rows()
            ],
        )
    return table.select(list(CONTRACTS["firm_liquidity"].columns))


def _caps(securities: pl.DataFrame, settings: FirmLiquidity) -> pl.DataFrame:
    """``firm_participation ADV`` of every name whose volume is known."""
    known = securities.filter(pl.col("adv_base").is_not_null())
    return known.select("security_id", (pl.col("adv_base") * settings.firm_participation).alias("cap_base"))


def _pour(name: np.ndarray, weight: np.ndarray, ceiling: np.ndarray, left: np.ndarray) -> np.ndarray:
    """``min(c, lam w)`` by row, with the ``lam`` of each name at which what is left, or every ceiling, is met.

    By halving the interval of ``lam``: sorted partial sums would lose small books beside large ones.
    """
    asks = weight > SMALLEST * ceiling
    weight, ceiling = np.where(asks, weight, 0.0), np.where(asks, ceiling, 0.0)
    ratio = np.divide(ceiling, weight, out=np.zeros(len(name)), where=asks)
    low, high = np.zeros(len(left)), np.zeros(len(left))
    np.maximum.at(high, name, ratio)
    middle = high
    for _ in range(HALVINGS):
        fits = np.bincount(name, weights=np.minimum(ceiling, middle[name] * weight), minlength=len(left)) <= left
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        middle = (low + high) / 2.0
    return np.minimum(ceiling, low[name] * weight)
