"""How good the model has been."""

import dataframely as dy

from engine.tables.columns import (
    FRACTION,
    count_column,
    date_column,
    id_column,
    number_column,
    one_of_column,
    text_column,
)


class BacktestDays(dy.Schema):
    event_date = date_column(key=True)
    kind = one_of_column(("event", "control"))
    model_as_of = date_column()
    n = count_column("names scored")
    r2 = number_column("share of the cross-section explained", "<= 1", max=1.0)
    r2_market_only = number_column("the same by market beta alone", "<= 1", max=1.0)
    gain = number_column("r2 less r2_market_only")
    rank_correlation = number_column("correlation", "-1..1")
    sign_accuracy = number_column("share", "0..1", min=0.0, max=1.0)
    band_coverage = number_column("share of names inside their band", "0..1", min=0.0, max=1.0)
    tier_spread = number_column("standard deviation of the baskets' returns", ">= 0", nullable=True, min=0.0)
    tier_error = number_column("mean absolute error of the tiers not stated", ">= 0", nullable=True, min=0.0)
    book_pnl = number_column(f"{FRACTION}, mean absolute of random books", ">= 0", min=0.0)
    book_error = number_column(f"{FRACTION}, mean absolute of random books", ">= 0", min=0.0)
    book_error_market_only = number_column(f"{FRACTION}, mean absolute of random books", ">= 0", min=0.0)


class Hindsight(dy.Schema):
    shock = text_column(key=True)
    event_date = date_column(key=True)
    kind = one_of_column(("event", "control"))
    model_as_of = date_column()
    horizon_days = count_column("trading days")
    n = count_column("names scored")
    r2 = number_column("share of the cross-section explained", "<= 1", max=1.0)
    r2_market_only = number_column("the same by market beta alone", "<= 1", max=1.0)
    gain = number_column("r2 less r2_market_only")
    rank_correlation = number_column("correlation", "-1..1")
    sign_accuracy = number_column("share", "0..1", min=0.0, max=1.0)
    band_coverage = number_column("share of names inside their band", "0..1", min=0.0, max=1.0)
    tier_error = number_column("mean absolute error of the tiers not stated", ">= 0", nullable=True, min=0.0)


class HindsightTiers(dy.Schema):
    shock = text_column(key=True)
    event_date = date_column(key=True)
    tier = id_column(key=True)
    kind = one_of_column(("event", "control"))
    stated = dy.Bool(nullable=False)
    predicted = number_column("total return over the horizon")
    realised = number_column("total return over the horizon", nullable=True)


class BacktestNames(dy.Schema):
    event_date = date_column(key=True)
    security_id = id_column(key=True)
    predicted = number_column("return over the horizon")
    realised = number_column("return over the horizon")
    band_low = number_column("return over the horizon")
    band_high = number_column("return over the horizon")
    in_basket = dy.Bool(nullable=False)
    scored = dy.Bool(nullable=False)


class ValidationDays(dy.Schema):
    date = date_column(key=True)
    r2 = number_column("share of the cross-section explained", "<= 1", nullable=True, max=1.0)
    r2_market_only = number_column("the same by market beta alone", "<= 1", nullable=True, max=1.0)
    gain = number_column("r2 less r2_market_only", nullable=True)
    n = count_column("names scored")
    spread = number_column("standard deviation of the baskets' returns", ">= 0", min=0.0)


class ValidationBooks(dy.Schema):
    book_id = id_column(key=True)
    group = one_of_column(
        ("tier", "spread", "sector", "random_long", "random_long_short", "market", "minimum_risk"),
    )
    bias = number_column("standard deviation of return over forecast volatility, last window", ">= 0", min=0.0)
    band_low = number_column("95 % band of bias if the forecasts are right", "< 1")
    band_high = number_column("95 % band of bias if the forecasts are right", "> 1")
    inside = dy.Bool(nullable=False)
    windows_inside = number_column("share of the rolling windows inside their band", "0..1", min=0.0, max=1.0)
    mrad = number_column("mean of |bias - 1| over the rolling windows", ">= 0", min=0.0)
    qlike = number_column("mean of log h + r^2 / h, h the variance of one day")
    exceptions_99 = count_column("days with a loss beyond the VaR 99 of the day before")
    n_days = count_column("trading days")
