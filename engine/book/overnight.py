"""Risk that rose or fell overnight by more than a quarter: a fall is as alarming as a rise."""

from collections.abc import Mapping
from typing import Final

import polars as pl

from engine.intake import Notice

RISK_MOVE: Final = 0.25
"""A change of volatility from one run to the next beyond this is told (RELIABILITY 2)."""


def risk_moves(summary: pl.DataFrame, before: Mapping[str, float]) -> tuple[Notice, ...]:
    """A warning for every portfolio whose volatility is more than a quarter away from the run before.

    Args:
        summary: Table ``portfolio_summary`` at one stage.
        before: Volatility a year by portfolio in the run before; one that it lacks, or that had
            none, is not compared.
    """
    notices = []
    for name, now in summary.select("portfolio_id", "volatility").drop_nulls().sort("portfolio_id").iter_rows():
        was = before.get(name)
        if was and abs(now / was - 1.0) > RISK_MOVE:
            verb = "risen" if now > was else "dropped"
            words = (
                f"its volatility has {verb} from {was:.1%} to {now:.1%} a year since the run before "
                f"({now / was - 1.0:+.0%}); is the model or a position amiss?"
            )
            notices.append(Notice(f"risk.{verb}", "warn", words, "previous/portfolio_summary", name))
    return tuple(notices)
