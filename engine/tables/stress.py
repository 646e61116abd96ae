"""What scenarios do to books and names."""

import dataframely as dy

from engine.conventions import ALTERNATIVE_MODELS, BASE_MODEL
from engine.tables.columns import (
    FRACTION,
    MONEY,
    STAGES,
    count_column,
    id_column,
    number_column,
    one_of_column,
    text_column,
)


class Stress(dy.Schema):
    portfolio_id = id_column(key=True)
    stage = one_of_column(STAGES, key=True)
    scenario_id = id_column(key=True)
    scenario_version = text_column()
    nav_base = number_column(MONEY)
    pnl_frac = number_column(FRACTION, "< 0 is a loss")
    pnl_base = number_column(MONEY, "< 0 is a loss")
    stated = number_column(FRACTION, "< 0 is a loss")
    propagated = number_column(FRACTION, "< 0 is a loss")
    specific = number_column(FRACTION, "< 0 is a loss")
    liquidity = number_column(
        f"{FRACTION} that leaving the whole book would cost; beside pnl_frac and its budget, not in them",
        "<= 0",
        nullable=True,
        max=0.0,
    )
    band_low = number_column(FRACTION, "< 0 is a loss")
    band_high = number_column(FRACTION, "< 0 is a loss")
    budget = number_column(FRACTION, "> 0", nullable=True, min_exclusive=0.0)
    budget_kind = one_of_column(("absolute", "active"), nullable=True)
    measured_loss = number_column(
        f"{FRACTION} that the budget limits; a robust one with its margin", "> 0 is a loss", nullable=True
    )
    breach = dy.Bool(nullable=False)
    model_low = number_column(FRACTION, "< 0 is a loss", nullable=True)
    model_high = number_column(FRACTION, "< 0 is a loss", nullable=True)
    models_disagree = dy.Bool(nullable=True)
    loss_probability = number_column(
        "probability that the book loses at least this over the horizon; null without risk",
        "0..1",
        nullable=True,
        min=0.0,
        max=1.0,
    )


class StressModels(dy.Schema):
    portfolio_id = id_column(key=True)
    stage = one_of_column(STAGES, key=True)
    scenario_id = id_column(key=True)
    model = one_of_column((BASE_MODEL, *ALTERNATIVE_MODELS), key=True)
    pnl_frac = number_column(FRACTION, "< 0 is a loss; null where the model cannot carry the scenario", nullable=True)


class StressTiers(dy.Schema):
    portfolio_id = id_column(key=True)
    stage = one_of_column(STAGES, key=True)
    scenario_id = id_column(key=True)
    tier = id_column(key=True)
    weight = number_column(FRACTION)
    pnl_frac = number_column(FRACTION, "< 0 is a loss")
    stated = number_column(FRACTION, "< 0 is a loss")
    propagated = number_column(FRACTION, "< 0 is a loss")
    specific = number_column(FRACTION, "< 0 is a loss")


class StressFactors(dy.Schema):
    portfolio_id = id_column(key=True)
    stage = one_of_column(STAGES, key=True)
    scenario_id = id_column(key=True)
    factor = id_column(key=True)
    exposure = number_column("return per unit of factor return; null on the row 'specific'", nullable=True)
    shock = number_column("factor return over the horizon", nullable=True)
    pnl_frac = number_column(FRACTION, "< 0 is a loss")
    stated = number_column(FRACTION, "< 0 is a loss")
    propagated = number_column(FRACTION, "< 0 is a loss")
    specific = number_column(FRACTION, "< 0 is a loss")


class StressPositions(dy.Schema):
    portfolio_id = id_column(key=True)
    stage = one_of_column(STAGES, key=True)
    scenario_id = id_column(key=True)
    security_id = id_column(key=True)
    weight = number_column(FRACTION)
    shock = number_column("return over the horizon")
    pnl_frac = number_column(FRACTION, "< 0 is a loss")
    stated = number_column(FRACTION, "< 0 is a loss")
    propagated = number_column(FRACTION, "< 0 is a loss")
    specific = number_column(FRACTION, "< 0 is a loss")


class Shocks(dy.Schema):
    scenario_id = id_column(key=True)
    security_id = id_column(key=True)
    total = number_column("return over the horizon")
    stated = number_column("return over the horizon")
    propagated = number_column("return over the horizon")
    specific = number_column("return over the horizon")


class ScenarioSummary(dy.Schema):
    scenario_id = id_column(key=True)
    title = text_column()
    kind = one_of_column(("shock", "replay", "drivers", "tree", "path"))
    version = text_column()
    sha256 = text_column()
    horizon_days = count_column("trading days")
    propagation = one_of_column(("none", "conditional", "historical"), nullable=True)
    distance = number_column("Mahalanobis distance of what is applied; null of a tree", ">= 0", nullable=True, min=0.0)
    views = count_column("numbers that the scenario states")
    tail_probability = number_column("probability; null of a tree", "0..1", nullable=True, min=0.0, max=1.0)
    condition = number_column("condition number of the views' covariance", ">= 1")
    extrapolation = number_column("stated market-and-tier shock over the largest seen", ">= 0", nullable=True)
    propagation_r2 = number_column(
        "share of the factors' summed variance that the views explain", "0..1", nullable=True, min=0.0, max=1.0
    )
    empirical_exceeded = count_column("past days at least as far; null where no factor moves", nullable=True)
    empirical_days = count_column("past days compared", nullable=True)
    empirical_years = number_column("once in years; null without such a day", "> 0", nullable=True, min=0.0)
    empirical_low = number_column(
        "years, lower end of a 95 % interval; without such a day the 95 % bound", "> 0", nullable=True, min=0.0
    )
    empirical_high = number_column("years, upper end; null where it is open", "> 0", nullable=True, min=0.0)
    nearest_dates = text_column(nullable=True)
    nearest_cosines = text_column(nullable=True)
    outside_guard_rails = dy.Bool(nullable=True)
    guard_rails = text_column(nullable=True)


class ScenarioFactors(dy.Schema):
    scenario_id = id_column(key=True)
    factor = id_column(key=True)
    stated = number_column("factor return over the horizon")
    move = number_column("factor return over the horizon")
    propagation_r2 = number_column(
        "share of the factor's variance that the views explain; null without variance",
        "0..1",
        nullable=True,
        min=0.0,
        max=1.0,
    )
    extrapolation = number_column("size of the move over the largest seen, horizon-scaled", ">= 0", min=0.0)


class StressLeaves(dy.Schema):
    portfolio_id = id_column(key=True)
    stage = one_of_column(STAGES, key=True)
    scenario_id = id_column(key=True)
    leaf_id = id_column(key=True)
    probability = number_column("probability of the leaf", "0..1", min=0.0, max=1.0)
    pnl_frac = number_column(FRACTION, "< 0 is a loss")


class StressTrees(dy.Schema):
    portfolio_id = id_column(key=True)
    stage = one_of_column(STAGES, key=True)
    scenario_id = id_column(key=True)
    mean = number_column(FRACTION, "< 0 is a loss")
    standard_deviation = number_column(f"{FRACTION}, across the leaves", ">= 0", min=0.0)
    expected_shortfall = number_column(f"{FRACTION}, mean loss of the worst tenth of the probability", "> 0 is a loss")
    worst_leaf = id_column()
    worst_pnl = number_column(FRACTION, "< 0 is a loss")
    over_budget = number_column("probability of a loss beyond the budget; null without one", "0..1", nullable=True)
