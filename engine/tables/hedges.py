"""Overlay trades that bring a stress loss inside its budget."""

import dataframely as dy

from engine.tables.columns import FRACTION, MONEY, count_column, id_column, number_column, one_of_column, text_column

OVER_HORIZON = "standard deviation over the horizon once the scenario holds, fraction of NAV"
A_YEAR = "annual volatility, fraction of NAV"


class Hedges(dy.Schema):
    portfolio_id = id_column(key=True)
    scenario_id = id_column(key=True)
    name = text_column()
    nav_base = number_column(MONEY)
    objective = one_of_column(("cheapest", "fewest", "steadiest"))
    status = one_of_column(("inside", "hedged", "out_of_reach"))
    budget = number_column(FRACTION, "> 0", min_exclusive=0.0)
    budget_kind = one_of_column(("absolute", "active"))
    loss_before = number_column(f"{FRACTION}, of the budget's kind", "> 0 is a loss")
    loss_after = number_column(f"{FRACTION}, of the budget's kind", "> 0 is a loss")
    reachable_loss = number_column(f"{FRACTION}, the least that all allowed trades can leave", "> 0 is a loss")
    trades = count_column("trades")
    gross = number_column(f"{FRACTION}, buys plus sells", ">= 0", min=0.0)
    cost_base = number_column(MONEY, ">= 0", min=0.0)
    cost_frac = number_column(FRACTION, ">= 0", min=0.0)
    least_cost_frac = number_column(
        f"{FRACTION}, of any number of trades; null out of reach", ">= 0", nullable=True, min=0.0
    )
    proven = dy.Bool(nullable=True)
    basis_risk = number_column(f"{OVER_HORIZON}, of the overlay alone", ">= 0", min=0.0)
    open_risk_before = number_column(OVER_HORIZON, ">= 0", min=0.0)
    open_risk_after = number_column(OVER_HORIZON, ">= 0", min=0.0)
    specific_volatility = number_column(f"{A_YEAR}, of the overlay's specific return", ">= 0", min=0.0)
    volatility_before = number_column(A_YEAR, ">= 0", min=0.0)
    volatility_after = number_column(A_YEAR, ">= 0", min=0.0)
    rebound_id = id_column(nullable=True)
    rebound_pnl = number_column(f"{FRACTION}, of the overlay if that follows", "< 0 is a loss", nullable=True)


class HedgeTrades(dy.Schema):
    portfolio_id = id_column(key=True)
    scenario_id = id_column(key=True)
    security_id = id_column(key=True)
    side = one_of_column(("buy", "sell"))
    weight = number_column(FRACTION, "sells < 0")
    notional_base = number_column(MONEY, "> 0", min_exclusive=0.0)
    shock = number_column("return over the horizon")
    pnl_frac = number_column(FRACTION, "> 0 takes loss away")
    cost_frac = number_column(FRACTION, ">= 0", min=0.0)
    cost_base = number_column(MONEY, ">= 0", min=0.0)
    adv_share = number_column("notional over a day's volume", ">= 0", nullable=True)
    at_cap = dy.Bool(nullable=False)


class HedgeExposures(dy.Schema):
    portfolio_id = id_column(key=True)
    scenario_id = id_column(key=True)
    factor = id_column(key=True)
    before = number_column("return per unit of factor return")
    overlay = number_column("return per unit of factor return")
    after = number_column("return per unit of factor return")
