"""The price of a whipsaw: what trades save if the scenario goes on, and cost if it turns round."""

from typing import Final

import polars as pl

from engine.contracts import CONTRACTS
from engine.curve.universe import StressSettings

WHIPSAW_COLUMNS: Final = ("loss_avoided", "regret", "break_even")
"""What a trade carries besides its size, cost and reason."""


def price_whipsaws(
    trades: pl.DataFrame, shocks: pl.DataFrame, traded: pl.DataFrame, stress: pl.DataFrame, settings: StressSettings
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The table ``trades`` with its price of a whipsaw, and the table ``whipsaws``.

    With the trade ``a_i`` (sells < 0), the return ``r_i`` under the scenario that asks for the
    trades and ``o_i`` under the whipsaw::

        loss_avoided_i = NAV a_i r_i       regret_i = -NAV a_i o_i
        break_even = regret+ / (regret+ + loss_avoided)    where loss_avoided > 0, regret+ = max(regret, 0)

    The scenario that asks is the budgeted one with the highest measured loss over budget before
    the trades, the first id among equals; for a book without a measured budget the universe's.
    Both figures are linear in the trades, cash earns nothing in either, and a book's are the sums
    of its trades'. A trade that loses more if the scenario goes on does not reduce its risk: it
    has no break-even; one that also gains in the whipsaw pays at any probability, 0. Costs are
    beside it, in neither figure.

    Args:
        trades: Table ``trades`` without these columns.
        shocks: Table ``shocks`` with every scenario that is named.
        traded: ``portfolio_id``, ``cost_base``, ``nav`` of every book that was tried.
        stress: Table ``stress`` before the trades.
        settings: The universe's default scenario and its whipsaw.

    Returns:
        Null where the shocks lack one of the two scenarios; such a book has no row in ``whipsaws``.

    References:
        MATH 5. Oracle: sums in SQL from the shocks, and the books' losses, tests/test_whipsaw.py.
    """
    ready = set(shocks["scenario_id"].unique().to_list())
    asked = _asked(traded, stress, settings.scenario).filter(
        pl.col("scenario_id").is_in(ready) & pl.lit(settings.whipsaw in ready)
    )
    moves = shocks.select("scenario_id", "security_id", pl.col("total").alias("goes_on"))
    whipsaw = pl.lit(settings.whipsaw, dtype=pl.String)
    back = shocks.filter(pl.col("scenario_id") == whipsaw).select("security_id", pl.col("total").alias("turns_round"))
    priced = (
        trades.join(asked, on="portfolio_id", how="left", validate="m:1")
        .join(moves, on=["scenario_id", "security_id"], how="left", validate="m:1")
        .join(back, on="security_id", how="left", validate="m:1")
        .with_columns(
            (pl.col("trade_weight") * pl.col("goes_on") * pl.col("nav")).alias("loss_avoided"),
            (-pl.col("trade_weight") * pl.col("turns_round") * pl.col("nav")).alias("regret"),
        )
        .with_columns(_break_even())
    )
    sums = priced.group_by("portfolio_id").agg(pl.col("loss_avoided", "regret").sum())
    books = (
        asked.with_columns(whipsaw.alias("whipsaw_id"))
        .join(sums, on="portfolio_id", how="left", validate="1:1")
        .with_columns(pl.col("loss_avoided", "regret").fill_null(0.0))
        .with_columns(
            (pl.col("loss_avoided") / pl.col("nav")).alias("loss_avoided_frac"),
            (pl.col("regret") / pl.col("nav")).alias("regret_frac"),
            _break_even(),
        )
    )
    return (
        priced.select(list(CONTRACTS["trades"].columns)).sort("portfolio_id", "security_id"),
        books.select(list(CONTRACTS["whipsaws"].columns)).sort("portfolio_id"),
    )


def _asked(traded: pl.DataFrame, stress: pl.DataFrame, default: str) -> pl.DataFrame:
    """The books that were tried, each with the scenario that asks for its trades."""
    used = stress.filter(pl.col("measured_loss").is_not_null()).select(
        "portfolio_id", "scenario_id", (pl.col("measured_loss") / pl.col("budget")).alias("use")
    )
    highest = (
        used.sort(["portfolio_id", "use", "scenario_id"], descending=[False, True, False])
        .group_by("portfolio_id", maintain_order=True)
        .first()
    )
    return traded.join(highest, on="portfolio_id", how="left", validate="1:1").select(
        "portfolio_id", "nav", "cost_base", pl.col("scenario_id").fill_null(default)
    )


def _break_even() -> pl.Expr:
    avoided, regret = pl.col("loss_avoided"), pl.col("regret").clip(lower_bound=0.0)
    return pl.when(avoided > 0.0).then(regret / (regret + avoided)).alias("break_even")
