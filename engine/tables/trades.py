"""What a rebalance answers, and what was noticed on the way."""

from typing import Final

import dataframely as dy

from engine.tables.columns import FRACTION, MONEY, count_column, id_column, number_column, one_of_column, text_column

LIMIT_KINDS: Final = (
    "turnover",
    "gross",
    "net",
    "concentration",
    "cash",
    "tier",
    "active_tier",
    "sector",
    "active_sector",
    "factor",
    "active_factor",
    "weight",
    "active_weight",
    "excluded",
    "no_buy",
    "no_sell",
    "frozen",
    "participation",
    "allotment",
    "tracking_error",
    "stress",
    "shortfall",
    "budget",
)


class Targets(dy.Schema):
    portfolio_id = id_column(key=True)
    security_id = id_column(key=True)
    weight_before = number_column(FRACTION)
    weight_after = number_column(FRACTION)
    quantity_after = number_column("shares, whole lots where traded; money for cash")


class Trades(dy.Schema):
    portfolio_id = id_column(key=True)
    security_id = id_column(key=True)
    side = one_of_column(("buy", "sell"))
    quantity = number_column("shares", "> 0", min_exclusive=0.0)
    notional_base = number_column(MONEY, "> 0", min_exclusive=0.0)
    trade_weight = number_column(FRACTION, "sells < 0")
    adv_share = number_column("notional over a day's volume", ">= 0", nullable=True)
    cost_base = number_column(MONEY, ">= 0", min=0.0)
    reason = text_column()
    loss_avoided = number_column(f"{MONEY}, if the scenario goes on", "> 0 loses less after the trade", nullable=True)
    regret = number_column(f"{MONEY}, if the whipsaw follows", "> 0 gives up a gain", nullable=True)
    break_even = number_column("probability that the scenario goes on from which the trade pays", "0..1", nullable=True)
    models_asked = count_column(
        "models that answer the book, the base included; null where none was asked", nullable=True
    )
    models_agreeing = count_column("of these, models that trade the name in the same direction", nullable=True)
    agreed_weight = number_column(
        f"{FRACTION}: the part of the trade that every model asks for; null where no second one answers",
        "sells < 0",
        nullable=True,
    )


class Whipsaws(dy.Schema):
    portfolio_id = id_column(key=True)
    scenario_id = id_column()
    whipsaw_id = id_column()
    loss_avoided = number_column(f"{MONEY}, if the scenario goes on", "> 0 loses less after the trades")
    regret = number_column(f"{MONEY}, if the whipsaw follows", "> 0 gives up a gain")
    loss_avoided_frac = number_column(FRACTION, "> 0 loses less after the trades")
    regret_frac = number_column(FRACTION, "> 0 gives up a gain")
    break_even = number_column("probability that the scenario goes on from which the trades pay", "0..1", nullable=True)
    cost_base = number_column(MONEY, ">= 0", min=0.0)


class Limits(dy.Schema):
    portfolio_id = id_column(key=True)
    limit_id = text_column(key=True)
    kind = one_of_column(LIMIT_KINDS)
    priority = count_column("0 must hold")
    bound = number_column("in the limit's own unit")
    before = number_column("in the limit's own unit")
    after = number_column("in the limit's own unit", nullable=True)
    slack = number_column("bound less use", nullable=True)
    shadow_price = number_column("objective per unit of the bound", ">= 0", nullable=True, min=0.0)
    breach_before = dy.Bool(nullable=False)
    breach = dy.Bool(nullable=False)
    relaxed_by = number_column("in the limit's own unit", "> 0 gave way", nullable=True, min=0.0)


class Conflicts(dy.Schema):
    portfolio_id = id_column(key=True)
    limit_id = text_column(key=True)
    names = text_column(nullable=True)
    bound = number_column("in the limit's own unit; null for limits on single names", nullable=True)
    cure = number_column("how far this limit alone must give way", ">= 0", nullable=True, min=0.0)
    cure_least = number_column("proven: no more of this limit alone is not enough", ">= 0", nullable=True, min=0.0)
    cure_enough = number_column("proven: so much of this limit alone is enough", ">= 0", nullable=True, min=0.0)
    common = number_column("how far every limit of the set must give way together", ">= 0", nullable=True, min=0.0)
    common_least = number_column("proven: no more of each is not enough", ">= 0", nullable=True, min=0.0)
    common_enough = number_column("proven: so much of each is enough", ">= 0", nullable=True, min=0.0)
    multiplier = number_column("weight of the limit in the proof", ">= 0", min=0.0)


class Certificates(dy.Schema):
    portfolio_id = id_column(key=True)
    form = one_of_column(("continuous", "published"), key=True)
    status = one_of_column(("certified", "held", "infeasible"))
    objective = number_column("annual, NAV = 1", nullable=True)
    lower_bound = number_column("annual, NAV = 1", nullable=True)
    relative_gap = number_column("gap over the objective's scale", nullable=True)
    max_violation = number_column(FRACTION, ">= 0", nullable=True)
    rounding_cost = number_column("annual, NAV = 1: objective published less continuous", nullable=True)
    unrepaired = number_column(f"{FRACTION}: largest violation of plain rounding", ">= 0", nullable=True)
    solver = text_column()
    rung = count_column("step of the ladder, from 0")
    iterations = count_column("solver iterations; published: changes since plain rounding")


class Allotments(dy.Schema):
    portfolio_id = id_column(key=True)
    security_id = id_column(key=True)
    need_base = number_column(f"{MONEY}, outside the bounds today", ">= 0", min=0.0)
    claim_base = number_column(f"{MONEY}, holding and distance from the benchmark", ">= 0", min=0.0)
    reach_base = number_column(f"{MONEY}, the most the mandate lets it trade", ">= 0", min=0.0)
    allotted_base = number_column(f"{MONEY}, the most it may trade; null without a cap", ">= 0", nullable=True, min=0.0)


class FirmLiquidity(dy.Schema):
    security_id = id_column(key=True)
    cap_base = number_column(f"{MONEY} a day; null where the volume is not known", ">= 0", nullable=True, min=0.0)
    allotted_base = number_column(f"{MONEY}, all books", ">= 0", min=0.0)
    traded_base = number_column(f"{MONEY}, buys and sells of all books", ">= 0", min=0.0)
    adv_share = number_column("traded over a day's volume", ">= 0", nullable=True, min=0.0)
    books = count_column("books that trade the name")
    at_cap = dy.Bool(nullable=False)


class Exceptions(dy.Schema):
    code = text_column()
    portfolio_id = text_column(nullable=True)
    row = dy.Int64(nullable=True)
    severity = one_of_column(("reject", "quarantine", "warn"))
    message = text_column()
    source = text_column()
