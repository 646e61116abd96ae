"""A tape of prints, what it says of books and names, and how right that was at the close."""

import dataframely as dy

from engine.tables.columns import FRACTION, MONEY, count_column, id_column, number_column, text_column

CLOCK = r"^([01]\d|2[0-3]):[0-5]\d:[0-5]\d$"
"""Time of day as every tape is read: 09:45 has become 09:45:00."""


class Tape(dy.Schema):
    security_id = id_column(key=True)
    time = dy.String(primary_key=True, nullable=False, regex=CLOCK, metadata={"unit": "exchange time, HH:MM:SS"})
    so_far = number_column("fraction since the previous close", alias="return", min=-1.0, max=2.0)


class Closing(dy.Schema):
    security_id = id_column(key=True)
    whole_day = number_column("fraction since the previous close", alias="return", min=-1.0, max=10.0)


class Nowcast(dy.Schema):
    portfolio_id = id_column(key=True)
    nav_base = number_column(MONEY)
    pnl_frac = number_column(f"{FRACTION}, so far", "< 0 is a loss")
    pnl_base = number_column(f"{MONEY}, so far", "< 0 is a loss")
    band_low = number_column(f"{FRACTION}, so far", "< 0 is a loss")
    band_high = number_column(f"{FRACTION}, so far", "< 0 is a loss")
    close_low = number_column(f"{FRACTION}, at the close", "< 0 is a loss")
    close_high = number_column(f"{FRACTION}, at the close", "< 0 is a loss")
    budget_scenario = id_column(nullable=True)
    budget = number_column(f"{FRACTION}, the tightest stress budget", "> 0", nullable=True, min_exclusive=0.0)
    breach = dy.Bool(
        nullable=False, metadata={"unit": "the estimated loss so far is beyond the tightest stress budget"}
    )
    nearest_scenario = id_column(nullable=True)
    similarity = number_column("cosine in whitened factor space", "-1..1", nullable=True, min=-1.0, max=1.0)


class NowcastNames(dy.Schema):
    security_id = id_column(key=True)
    estimated = number_column("return so far")
    band_low = number_column("return so far")
    band_high = number_column("return so far")
    close_low = number_column("return at the close")
    close_high = number_column("return at the close")
    printed = number_column("return so far, from the tape", nullable=True)
    surprise = number_column("standard deviations of the print from what the others say", nullable=True)


class NowcastScenarios(dy.Schema):
    scenario_id = id_column(key=True)
    title = text_column()
    similarity = number_column("cosine in whitened factor space", "-1..1", min=-1.0, max=1.0)
    scale = number_column("size of the scenario that comes closest")


class NowcastScores(dy.Schema):
    scoring_set = id_column(key=True)
    n = count_column("names scored")
    r2 = number_column("share of the cross-section explained", "<= 1", max=1.0)
    rank_correlation = number_column("correlation", "-1..1")
    sign_accuracy = number_column("share", "0..1", min=0.0, max=1.0)
    band_coverage = number_column("share of names inside their band of the close", "0..1", min=0.0, max=1.0)


class NowcastBookScores(dy.Schema):
    portfolio_id = id_column(key=True)
    estimated = number_column(FRACTION, "< 0 is a loss")
    realised = number_column(FRACTION, "< 0 is a loss")
    error = number_column("estimated less realised")
    inside_band = dy.Bool(nullable=False)
    known_share = number_column("share of the gross weight with a closing return", "0..1", min=0.0, max=1.0 + 1e-9)
