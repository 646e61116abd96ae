"""Why one name of a book trades or does not: where it stands, and what its next trade would add."""

import dataframely as dy

from engine.tables.columns import FRACTION, id_column, number_column, one_of_column, text_column


class MarginalCosts(dy.Schema):
    portfolio_id = id_column(key=True)
    security_id = id_column(key=True)
    kind = one_of_column(("factor", "own_risk", "cost", "limit"), key=True)
    part = text_column(key=True)
    buying = number_column("objective added per unit of weight bought")
    selling = number_column("objective added per unit of weight sold")


class Standing(dy.Schema):
    portfolio_id = id_column(key=True)
    security_id = id_column(key=True)
    candidate = dy.Bool(nullable=False)
    before = number_column(FRACTION)
    after = number_column(FRACTION)
    benchmark = number_column(FRACTION, nullable=True)
    lowest = number_column(FRACTION)
    highest = number_column(FRACTION)
    lowest_by = text_column()
    highest_by = text_column()
    buying = number_column("objective added per unit of weight bought")
    selling = number_column("objective added per unit of weight sold")
