"""``price_limit``: what a limit costs each book, found by solving again without it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import polars as pl

from engine.api.loading import LoadedUniverse
from engine.api.rebalancing import RebalanceResult, lay_out_books
from engine.book.chunk import rebalance_chunk
from engine.documents import suggestion
from engine.errors import UsageError
from engine.mandates.mandate import LARGEST_EXPOSURE, LISTS, ActiveBand, Band, ExposureBand, LimitSet, Mandate

BANDS: Final = {
    "tier": (0.0, 1.0),
    "sector": (0.0, 1.0),
    "factor": (-LARGEST_EXPOSURE, LARGEST_EXPOSURE),
    "active_tier": (-1.0, 1.0),
    "active_sector": (-1.0, 1.0),
    "active_factor": (-LARGEST_EXPOSURE, LARGEST_EXPOSURE),
}
"""The ends at which a band on a kind does not bind."""

ALLOTMENT: Final = "allotment"


def price_limit(loaded: LoadedUniverse, result: RebalanceResult, limit_id: str) -> pl.DataFrame:
    """What every book that has a limit would save of its objective if it had not.

    ``saved = f(x) - f(x without)``, of two certified answers; at least 0 up to the certificates' gap.
    Where the shadow price is of the next little step, this is of the whole way. What a firm shares out of a day's
    volume stays as it was, save of the name whose allotment is left out; all of ``participation`` goes at once.

    Args:
        loaded: From ``load_universe``.
        result: The rebalance of its books with every limit.
        limit_id: As in the table ``limits``, e.g. ``stress:deepseek``.

    Returns:
        ``portfolio_id limit_id objective objective_without saved``, annual, NAV 1; null where an
        answer is not certified.

    Raises:
        UsageError: no book that was tried has such a limit.

    References:
        Oracle: a second solver without the row, tests/test_leaving_out.py.
    """
    limits = result.tables["limits"]
    books = limits.filter(pl.col("limit_id") == limit_id)["portfolio_id"].to_list()
    if not books:
        known = limits["limit_id"].unique().sort().to_list()
        raise UsageError(f"no book has a limit {limit_id!r}{suggestion(limit_id, known)}")
    mandates = {name: _without(mandate, limit_id) for name, mandate in loaded.mandates.items()}
    ready, task = lay_out_books(replace(loaded, mandates=mandates).only(books))
    if task.allotments is not None:
        # Shared out over fewer books a day's volume would be another one.
        task = replace(task, allotments=_lifted(result.tables["allotments"], limit_id))
    without, _ = rebalance_chunk(ready.portfolios, task)
    return (
        _objectives(result.tables)
        .filter(pl.col("portfolio_id").is_in(books))
        .join(_objectives(without).rename({"objective": "objective_without"}), on="portfolio_id", validate="1:1")
        .with_columns((pl.col("objective") - pl.col("objective_without")).alias("saved"))
        .select("portfolio_id", pl.lit(limit_id).alias("limit_id"), "objective", "objective_without", "saved")
        .sort("portfolio_id")
    )


def _objectives(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    certified = pl.when(pl.col("status") == "certified").then("objective").alias("objective")
    return tables["certificates"].filter(pl.col("form") == "continuous").select("portfolio_id", certified)


def _lifted(allotments: pl.DataFrame, limit_id: str) -> pl.DataFrame:
    """The allotments; without a cap on the name whose allotment is left out."""
    kind, *name, _ = limit_id.split(":") if ":" in limit_id else (limit_id, "")
    lifted = (pl.col("security_id") == ":".join(name)) & (kind == ALLOTMENT)
    return allotments.with_columns(pl.when(~lifted).then("allotted_base").alias("allotted_base"))


def _without(mandate: Mandate, limit_id: str) -> Mandate:
    """The mandate with one limit as wide as it can be."""
    limits = mandate.limits
    change: dict[str, Any] = {}
    match limit_id.split(":"):
        case ["turnover"]:
            change = {"turnover": 2.0}
        case ["cash", side]:
            change = {"cash": _opened(limits.cash, side, (0.0, 1.0))}
        case ["net", side] if limits.net is not None:
            change = {"net": _opened(limits.net, side, BANDS["factor"])}
        case [kind, *name, side] if kind in BANDS:
            change = _with_band(limits, f"{kind}s", ":".join(name), side, BANDS[kind])
        case ["weight", *name, side]:
            change = _with_weight(limits, ":".join(name), side)
        case ["active_weight", *name, side]:
            wide = ActiveBand(min=-limits.max_active_weight, max=limits.max_active_weight)
            own = limits.active_weights.get(":".join(name), wide)
            change = {
                "active_weights": {**limits.active_weights, ":".join(name): _opened(own, side, BANDS["active_tier"])}
            }
        case [kind, *name, _] if kind in LISTS:
            change = {kind: tuple(one for one in getattr(limits, kind) if one != ":".join(name))}
        case ["stress" | "shortfall" | "concentration" as kind, *_]:
            change = {kind: tuple(one for one in getattr(limits, kind) if one.limit_id != limit_id)}
        case ["gross" | "tracking_error" | "participation" as kind, *_]:
            change = {kind: None}
    return mandate.model_copy(update={"limits": limits.model_copy(update=change)})


def _with_band(limits: LimitSet, key: str, name: str, side: str, ends: tuple[float, float]) -> dict[str, Any]:
    bands = getattr(limits, key)
    return {key: {**bands, name: _opened(bands[name], side, ends)}} if name in bands else {}


def _with_weight(limits: LimitSet, name: str, side: str) -> dict[str, Any]:
    band = limits.weights.get(name, Band(min=0.0 - limits.max_short, max=limits.max_weight))
    lowest = -1.0 if limits.shorts else 0.0
    return {"weights": {**limits.weights, name: _opened(band, side, (lowest, 1.0))}}


def _opened(
    band: Band | ActiveBand | ExposureBand, side: str, ends: tuple[float, float]
) -> Band | ActiveBand | ExposureBand:
    """The band with one side where it does not bind."""
    return band.model_copy(update={side: ends[0] if side == "min" else ends[1]})
