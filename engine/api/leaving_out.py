"""``price_limit``: what a limit costs each book, found by solving again without it."""

from dataclasses import replace
from typing import Any

import polars as pl

from engine.api.loading import LoadedUniverse
from engine.api.rebalancing import RebalanceResult, rebalance_portfolios
from engine.documents import suggestion
from engine.errors import UsageError
from engine.mandates.mandate import Band, Mandate


def price_limit(loaded: LoadedUniverse, result: RebalanceResult, limit_id: str) -> pl.DataFrame:
    """What every book that has a limit would save of its objective if it had not.

    ``saved = f(x) - f(x without)``, of two certified answers; at least 0 up to the certificates' gap.
    Where the shadow price is of the next little step, this is of the whole way.

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
    without = rebalance_portfolios(replace(loaded, mandates=mandates).only(books))
    return (
        _objectives(result)
        .filter(pl.col("portfolio_id").is_in(books))
        .join(_objectives(without).rename({"objective": "objective_without"}), on="portfolio_id", validate="1:1")
        .with_columns((pl.col("objective") - pl.col("objective_without")).alias("saved"))
        .select("portfolio_id", pl.lit(limit_id).alias("limit_id"), "objective", "objective_without", "saved")
        .sort("portfolio_id")
    )


def _objectives(result: RebalanceResult) -> pl.DataFrame:
    certified = pl.when(pl.col("status") == "certified").then("objective").alias("objective")
    return result.tables["certificates"].filter(pl.col("form") == "continuous").select("portfolio_id", certified)


def _without(mandate: Mandate, limit_id: str) -> Mandate:
    """The mandate with one limit as wide as it can be."""
    limits = mandate.limits
    change: dict[str, Any] = {}
    match limit_id.split(":"):
        case ["turnover"]:
            change = {"turnover": 2.0}
        case ["cash", side]:
            change = {"cash": _opened(limits.cash, side)}
        case ["tier", tier, side] if tier in limits.tiers:
            change = {"tiers": {**limits.tiers, tier: _opened(limits.tiers[tier], side)}}
        case ["weight", name, side]:
            band = limits.weights.get(name, Band(min=0.0 - limits.max_short, max=limits.max_weight))
            lowest = -1.0 if limits.shorts else 0.0
            change = {"weights": {**limits.weights, name: _opened(band, side, lowest)}}
        case ["gross" | "net" as key, *_]:
            change = {key: None}
        case ["stress", *_]:
            change = {"stress": tuple(budget for budget in limits.stress if budget.limit_id != limit_id)}
        case ["shortfall", *_]:
            change = {"shortfall": tuple(one for one in limits.shortfall if one.limit_id != limit_id)}
        case ["tracking_error"]:
            change = {"tracking_error": None}
        case ["participation", *_]:
            change = {"participation": None}
        case _:
            raise UsageError(
                f"limit {limit_id!r} cannot be left out by itself; turnover, cash, tier, weight, gross, net, stress, "
                "shortfall, tracking_error and participation can"
            )
    return mandate.model_copy(update={"limits": limits.model_copy(update=change)})


def _opened(band: Band, side: str, lowest: float = 0.0) -> Band:
    return Band(min=lowest, max=band.max) if side == "min" else Band(min=band.min, max=1.0)
