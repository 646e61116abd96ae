"""What a stress budget costs, from none to the least loss a book can reach."""

import dataframely as dy

from engine.tables.columns import FRACTION, MONEY, id_column, number_column, one_of_column

ANNUAL = "annual, NAV = 1"


class Frontier(dy.Schema):
    portfolio_id = id_column(key=True)
    scenario_id = id_column(key=True)
    point = dy.Int64(nullable=False, min=0, primary_key=True, metadata={"unit": "from no budget at 0", "sign": ">= 0"})
    kind = one_of_column(("free", "step", "mandate", "least"))
    budget = number_column(f"loss, {FRACTION}; null without one", nullable=True)
    status = one_of_column(("certified", "held", "infeasible"))
    loss = number_column(FRACTION, "> 0 loses", nullable=True)
    tracking_error = number_column(f"{FRACTION} per square-root year", ">= 0", nullable=True)
    cost_frac = number_column(FRACTION, ">= 0", nullable=True)
    cost_base = number_column(MONEY, ">= 0", nullable=True)
    turnover = number_column(f"{FRACTION}, buys and sells", ">= 0", nullable=True)
    objective = number_column(ANNUAL, nullable=True)
    shadow_price = number_column("objective saved per unit of the budget", ">= 0", nullable=True)
    relative_gap = number_column("gap over the objective's scale", nullable=True)
    floor = number_column(f"loss below which no answer exists: proven; {FRACTION}", nullable=True)
