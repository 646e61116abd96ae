"""What the books are and risk, at a stage."""

import dataframely as dy

from engine.tables.columns import (
    FRACTION,
    MONEY,
    RISK_TIERS,
    STAGES,
    STATUSES,
    id_column,
    number_column,
    one_of_column,
    text_column,
)


class PortfolioSummary(dy.Schema):
    portfolio_id = id_column(key=True)
    stage = one_of_column(STAGES, key=True)
    name = text_column()
    parent_id = id_column(nullable=True)
    nav_base = number_column(MONEY, nullable=True)
    volatility = number_column("fraction of NAV per square-root year", ">= 0", nullable=True, min=0.0)
    tracking_error = number_column("fraction of NAV per square-root year", ">= 0", nullable=True, min=0.0)
    specific_share = number_column("share of variance", "0..1", nullable=True)
    var_99 = number_column(f"{FRACTION} over one day", "> 0 is a loss", nullable=True, min=0.0)
    es_975 = number_column(f"{FRACTION} over one day", "> 0 is a loss", nullable=True, min=0.0)
    curve_position = number_column("mean coordinate of the tier exposures", "-1..1", nullable=True)
    cash_weight = number_column(FRACTION, nullable=True)
    days_to_liquidate = number_column(
        "trading days at the participation cap; null where a name's volume is not known",
        ">= 0",
        nullable=True,
        min=0.0,
    )
    sold_in_1_day = number_column(
        "share of the gross exposure; what has no known volume counts as unsold", "0..1", nullable=True
    )
    sold_in_5_days = number_column(
        "share of the gross exposure; what has no known volume counts as unsold", "0..1", nullable=True
    )
    risk_tier = one_of_column(RISK_TIERS, nullable=True)
    risk_utilisation = number_column(
        "largest loss over budget of the scenarios that were run; without a budget, over the default scale",
        "> 1 is a breach",
        nullable=True,
    )
    risk_scenario = id_column(nullable=True)
    turnover = number_column(f"{FRACTION}, two-way", ">= 0", nullable=True)
    cost_base = number_column(MONEY, ">= 0", nullable=True)
    agreed_turnover = number_column(
        f"{FRACTION}, two-way: the part of the turnover that every model asks for", ">= 0", nullable=True
    )
    status = one_of_column(STATUSES)


class PortfolioExposures(dy.Schema):
    portfolio_id = id_column(key=True)
    stage = one_of_column(STAGES, key=True)
    factor = id_column(key=True)
    exposure = number_column("return per unit of factor return")
    active_exposure = number_column("exposure less the benchmark's", nullable=True)
    volatility_contribution = number_column("fraction of NAV per square-root year")


class PortfolioCurve(dy.Schema):
    portfolio_id = id_column(key=True)
    stage = one_of_column(STAGES, key=True)
    contrast = id_column(key=True)
    sensitivity = number_column("return per unit of the contrast of the tiers' pure returns")


class RiskFactors(dy.Schema):
    portfolio_id = id_column(key=True)
    stage = one_of_column(STAGES, key=True)
    factor = id_column(key=True)
    contribution = number_column("fraction of NAV per square-root year; with 'specific' they sum to volatility")
    share_of_variance = number_column("share of variance; they sum to 1")
    active_contribution = number_column("the same of the tracking error; null without a benchmark", nullable=True)


class RiskTiers(dy.Schema):
    portfolio_id = id_column(key=True)
    stage = one_of_column(STAGES, key=True)
    tier = id_column(key=True)
    by_names = number_column(
        "fraction of NAV per square-root year, by membership shares of the names; sum to volatility"
    )
    by_factors = number_column("fraction of NAV per square-root year, by the tiers' pure factors; sum to volatility")
    active_by_names = number_column("the same of the tracking error; null without a benchmark", nullable=True)
    active_by_factors = number_column("the same of the tracking error; null without a benchmark", nullable=True)


class RiskPositions(dy.Schema):
    portfolio_id = id_column(key=True)
    stage = one_of_column(STAGES, key=True)
    security_id = id_column(key=True)
    weight = number_column(FRACTION)
    contribution = number_column("fraction of NAV per square-root year; all names together sum to volatility")
    active_weight = number_column("weight less the benchmark's; null without a benchmark", nullable=True)
    active_contribution = number_column("the same of the tracking error; null without a benchmark", nullable=True)
