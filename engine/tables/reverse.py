"""The most plausible way to a given loss."""

import dataframely as dy

from engine.tables.columns import (
    FRACTION,
    MONEY,
    count_column,
    id_column,
    number_column,
    text_column,
)

HORIZON = "return over the horizon"
DISTANCE = "Mahalanobis distance"


class Reverse(dy.Schema):
    portfolio_id = id_column(key=True)
    name = text_column()
    nav_base = number_column(MONEY)
    loss = number_column(FRACTION, "> 0 is a loss", min_exclusive=0.0)
    horizon_days = count_column("trading days")
    distance = number_column(DISTANCE, ">= 0", min=0.0)
    tail_probability = number_column("chance of a move as far over the horizon", "0..1", min=0.0, max=1.0)
    loss_probability = number_column(
        "chance of the loss or more over the horizon, by the law of the VaR", "0..1", min=0.0, max=1.0
    )
    factor_loss = number_column(FRACTION, "> 0 is a loss")
    specific_loss = number_column(FRACTION, "> 0 is a loss")
    factor_distance = number_column(f"{DISTANCE} by the factors alone; null where they cannot", nullable=True, min=0.0)
    extrapolation = number_column("largest factor move over the largest seen", ">= 0", min=0.0)
    binding = text_column(nullable=True)
    scenario_id = id_column(nullable=True)
    resemblance = number_column("cosine with that scenario's factor moves in units of risk", "-1..1", nullable=True)
    within = number_column(f"{DISTANCE} of the worst case", "> 0", nullable=True, min_exclusive=0.0)
    worst_loss = number_column(f"{FRACTION}, the most that distance can cost", "> 0 is a loss", nullable=True)


class ReverseFactors(dy.Schema):
    portfolio_id = id_column(key=True)
    factor = id_column(key=True)
    exposure = number_column("return per unit of factor return; null on the row 'specific'", nullable=True)
    move = number_column(f"factor {HORIZON}; null on the row 'specific'", nullable=True)
    total = number_column(f"{HORIZON} of the tier or market itself; null elsewhere", nullable=True)
    pnl_frac = number_column(FRACTION, "< 0 is a loss")
    factor_only_move = number_column(f"factor {HORIZON}, with specific moves at 0; null where none", nullable=True)
    factor_only_total = number_column("the same of the tier or market itself", nullable=True)


class ReversePositions(dy.Schema):
    portfolio_id = id_column(key=True)
    security_id = id_column(key=True)
    weight = number_column(FRACTION)
    move = number_column(HORIZON)
    specific = number_column(f"{HORIZON}, the part of its issuer alone")
    pnl_frac = number_column(FRACTION, "< 0 is a loss")
