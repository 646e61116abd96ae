"""The columns of every table: dtype, null or not, unit, sign, allowed values, key.

Contracts give them their names and versions; dataframely holds the rules.
"""

from collections.abc import Sequence
from typing import Any, Final

import dataframely as dy

from engine.conventions import MAX_ID_LENGTH

ID_PATTERN: Final = r"^[A-Za-z0-9^][A-Za-z0-9._:\-]*$"
"""Ids are ASCII and start with a letter or digit: no path, blank, control or look-alike."""

STAGES: Final = ("before", "after")
STATUSES: Final = ("certified", "held", "infeasible", "quarantined", "empty", "not_due", "stress_only")
KINDS: Final = ("stock", "etf", "index", "cash")


def _id(*, key: bool = False, nullable: bool = False) -> Any:
    return dy.String(primary_key=key, nullable=nullable, regex=ID_PATTERN, max_length=MAX_ID_LENGTH)


def _date(*, key: bool = False) -> Any:
    return dy.Date(primary_key=key, nullable=False)


def _text(*, key: bool = False, nullable: bool = False) -> Any:
    return dy.String(primary_key=key, nullable=nullable, min_length=None if nullable else 1)


def _one_of(allowed: Sequence[str], *, key: bool = False, nullable: bool = False) -> Any:
    check = {f"one of {', '.join(allowed)}": lambda column: column.is_in(list(allowed))}
    return dy.String(primary_key=key, nullable=nullable, check=check, metadata={"enum": list(allowed)})


def _number(unit: str, sign: str = "any", *, nullable: bool = False, **bounds: Any) -> Any:
    metadata = {"unit": unit, "sign": sign}
    return dy.Float64(nullable=nullable, allow_inf=False, allow_nan=False, metadata=metadata, **bounds)


def _count(unit: str, *, nullable: bool = False) -> Any:
    return dy.Int64(nullable=nullable, min=0, metadata={"unit": unit, "sign": ">= 0"})


LARGEST: Final = 1e15
"""No price, quantity or value is larger; what is would overflow before it could be checked."""

FRACTION = "fraction of NAV"
MONEY = "base currency"


class Prices(dy.Schema):
    security_id = _id(key=True)
    date = _date(key=True)
    close = _number("currency, total-return adjusted", "> 0", min_exclusive=0.0)
    volume = _count("shares", nullable=True)


class Securities(dy.Schema):
    security_id = _id(key=True)
    name = _text(nullable=True)
    kind = _one_of(KINDS)
    issuer_id = _id(nullable=True)
    currency = _text()
    exchange = _text(nullable=True)
    gics_sector = _text(nullable=True)
    gics_sub_industry = _text(nullable=True)
    membership = _text(nullable=True)
    membership_reason = _text(nullable=True)
    price = _number("currency", "> 0", nullable=True, min_exclusive=0.0)
    price_date = dy.Date(nullable=True)
    adv_base = _number(f"{MONEY} a day", ">= 0", nullable=True, min=0.0)
    market_cap_base = _number(MONEY, ">= 0", nullable=True, min=0.0)
    half_spread_bps = _number("basis points", ">= 0", nullable=True, min=0.0, max=1000.0)
    lot_size = _number("shares", "> 0", nullable=True, min_exclusive=0.0)
    isin = _text(nullable=True)
    figi = _text(nullable=True)


class Portfolios(dy.Schema):
    portfolio_id = _id(key=True)
    name = _text()
    parent_id = _id(nullable=True)
    mandate_id = _id(nullable=True)
    benchmark_id = _id(nullable=True)
    base_currency = _text()
    nav_base = _number(MONEY, "> 0", nullable=True, min_exclusive=0.0)
    flow_base = _number(MONEY, nullable=True)


class Holdings(dy.Schema):
    as_of = _date(key=True)
    portfolio_id = _id(key=True)
    security_id = _id(key=True)
    quantity = _number("shares; money for cash", min=-LARGEST, max=LARGEST)
    price = _number("currency", "> 0", min_exclusive=0.0, max=LARGEST)
    currency = _text()
    market_value_base = _number(MONEY, min=-LARGEST, max=LARGEST)
    exposure_base = _number(f"{MONEY}, by delta", nullable=True, min=-LARGEST, max=LARGEST)


class Benchmarks(dy.Schema):
    as_of = _date(key=True)
    benchmark_id = _id(key=True)
    security_id = _id(key=True)
    weight = _number("fraction of the benchmark", ">= 0", min=0.0)


class Exposures(dy.Schema):
    security_id = _id(key=True)
    factor = _id(key=True)
    exposure = _number("return per unit of factor return")
    prior_share = _number("share of the estimate that is prior", "0..1", min=0.0, max=1.0)
    standard_error = _number("posterior sd of the exposure; null where it is all prior", ">= 0", nullable=True, min=0.0)


class FactorCovariance(dy.Schema):
    factor_1 = _id(key=True)
    factor_2 = _id(key=True)
    annual = _number("covariance a year")


class SpecificRisk(dy.Schema):
    security_id = _id(key=True)
    issuer_id = _id()
    annual = _number("variance a year", ">= 0", min=0.0)


class FactorReturns(dy.Schema):
    date = _date(key=True)
    factor = _id(key=True)
    factor_return = _number("fraction a day", alias="return")


class Tiers(dy.Schema):
    tier = _id(key=True)
    ordinal = _count("position on the curve, from 0")
    coordinate = _number("calibrated position", "-1..1", nullable=True, min=-1.0, max=1.0)
    low = _number("calibrated position", nullable=True)
    high = _number("calibrated position", nullable=True)
    beta = _number("slope of the tier's total return on the market")


class Memberships(dy.Schema):
    security_id = _id(key=True)
    tier = _id(key=True)
    weight = _number("share of the security", "0..1", min_exclusive=0.0, max=1.0)
    confidence = _number("share", "0..1", nullable=True, min=0.0, max=1.0)
    source = _one_of(("core", "declared", "estimated"))


class PortfolioSummary(dy.Schema):
    portfolio_id = _id(key=True)
    stage = _one_of(STAGES, key=True)
    name = _text()
    parent_id = _id(nullable=True)
    nav_base = _number(MONEY, nullable=True)
    volatility = _number("fraction of NAV per square-root year", ">= 0", nullable=True, min=0.0)
    tracking_error = _number("fraction of NAV per square-root year", ">= 0", nullable=True, min=0.0)
    specific_share = _number("share of variance", "0..1", nullable=True)
    var_99 = _number(f"{FRACTION} over one day", "> 0 is a loss", nullable=True, min=0.0)
    es_975 = _number(f"{FRACTION} over one day", "> 0 is a loss", nullable=True, min=0.0)
    curve_position = _number("mean coordinate of the tier exposures", "-1..1", nullable=True)
    cash_weight = _number(FRACTION, nullable=True)
    turnover = _number(f"{FRACTION}, two-way", ">= 0", nullable=True)
    cost_base = _number(MONEY, ">= 0", nullable=True)
    status = _one_of(STATUSES)


class PortfolioExposures(dy.Schema):
    portfolio_id = _id(key=True)
    stage = _one_of(STAGES, key=True)
    factor = _id(key=True)
    exposure = _number("return per unit of factor return")
    active_exposure = _number("exposure less the benchmark's", nullable=True)
    volatility_contribution = _number("fraction of NAV per square-root year")


class RiskFactors(dy.Schema):
    portfolio_id = _id(key=True)
    stage = _one_of(STAGES, key=True)
    factor = _id(key=True)
    contribution = _number("fraction of NAV per square-root year; with 'specific' they sum to volatility")
    share_of_variance = _number("share of variance; they sum to 1")
    active_contribution = _number("the same of the tracking error; null without a benchmark", nullable=True)


class RiskTiers(dy.Schema):
    portfolio_id = _id(key=True)
    stage = _one_of(STAGES, key=True)
    tier = _id(key=True)
    by_names = _number("fraction of NAV per square-root year, by membership shares of the names; sum to volatility")
    by_factors = _number("fraction of NAV per square-root year, by the tiers' pure factors; sum to volatility")
    active_by_names = _number("the same of the tracking error; null without a benchmark", nullable=True)
    active_by_factors = _number("the same of the tracking error; null without a benchmark", nullable=True)


class RiskPositions(dy.Schema):
    portfolio_id = _id(key=True)
    stage = _one_of(STAGES, key=True)
    security_id = _id(key=True)
    weight = _number(FRACTION)
    contribution = _number("fraction of NAV per square-root year; all names together sum to volatility")
    active_weight = _number("weight less the benchmark's; null without a benchmark", nullable=True)
    active_contribution = _number("the same of the tracking error; null without a benchmark", nullable=True)


class Stress(dy.Schema):
    portfolio_id = _id(key=True)
    stage = _one_of(STAGES, key=True)
    scenario_id = _id(key=True)
    scenario_version = _text()
    nav_base = _number(MONEY)
    pnl_frac = _number(FRACTION, "< 0 is a loss")
    pnl_base = _number(MONEY, "< 0 is a loss")
    stated = _number(FRACTION, "< 0 is a loss")
    propagated = _number(FRACTION, "< 0 is a loss")
    specific = _number(FRACTION, "< 0 is a loss")
    band_low = _number(FRACTION, "< 0 is a loss")
    band_high = _number(FRACTION, "< 0 is a loss")
    budget = _number(FRACTION, "> 0", nullable=True, min_exclusive=0.0)
    budget_kind = _one_of(("absolute",), nullable=True)
    measured_loss = _number(FRACTION, "> 0 is a loss", nullable=True)
    breach = dy.Bool(nullable=False)


class StressTiers(dy.Schema):
    portfolio_id = _id(key=True)
    stage = _one_of(STAGES, key=True)
    scenario_id = _id(key=True)
    tier = _id(key=True)
    weight = _number(FRACTION)
    pnl_frac = _number(FRACTION, "< 0 is a loss")
    stated = _number(FRACTION, "< 0 is a loss")
    propagated = _number(FRACTION, "< 0 is a loss")
    specific = _number(FRACTION, "< 0 is a loss")


class StressFactors(dy.Schema):
    portfolio_id = _id(key=True)
    stage = _one_of(STAGES, key=True)
    scenario_id = _id(key=True)
    factor = _id(key=True)
    exposure = _number("return per unit of factor return; null on the row 'specific'", nullable=True)
    shock = _number("factor return over the horizon", nullable=True)
    pnl_frac = _number(FRACTION, "< 0 is a loss")
    stated = _number(FRACTION, "< 0 is a loss")
    propagated = _number(FRACTION, "< 0 is a loss")
    specific = _number(FRACTION, "< 0 is a loss")


class StressPositions(dy.Schema):
    portfolio_id = _id(key=True)
    stage = _one_of(STAGES, key=True)
    scenario_id = _id(key=True)
    security_id = _id(key=True)
    weight = _number(FRACTION)
    shock = _number("return over the horizon")
    pnl_frac = _number(FRACTION, "< 0 is a loss")
    stated = _number(FRACTION, "< 0 is a loss")
    propagated = _number(FRACTION, "< 0 is a loss")
    specific = _number(FRACTION, "< 0 is a loss")


class Shocks(dy.Schema):
    scenario_id = _id(key=True)
    security_id = _id(key=True)
    total = _number("return over the horizon")
    stated = _number("return over the horizon")
    propagated = _number("return over the horizon")
    specific = _number("return over the horizon")


class ScenarioSummary(dy.Schema):
    scenario_id = _id(key=True)
    title = _text()
    version = _text()
    sha256 = _text()
    horizon_days = _count("trading days")
    propagation = _one_of(("none", "conditional"))
    distance = _number("Mahalanobis distance of what is applied", ">= 0", min=0.0)
    views = _count("numbers that the scenario states")
    tail_probability = _number("probability", "0..1", min=0.0, max=1.0)
    condition = _number("condition number of the views' covariance", ">= 1")
    extrapolation = _number("stated market-and-tier shock over the largest seen", ">= 0", nullable=True)


class BacktestDays(dy.Schema):
    event_date = _date(key=True)
    kind = _one_of(("event", "control"))
    model_as_of = _date()
    n = _count("names scored")
    r2 = _number("share of the cross-section explained", "<= 1", max=1.0)
    r2_market_only = _number("the same by market beta alone", "<= 1", max=1.0)
    gain = _number("r2 less r2_market_only")
    rank_correlation = _number("correlation", "-1..1")
    sign_accuracy = _number("share", "0..1", min=0.0, max=1.0)
    band_coverage = _number("share of names inside their band", "0..1", min=0.0, max=1.0)
    tier_spread = _number("standard deviation of the baskets' returns", ">= 0", nullable=True, min=0.0)
    tier_error = _number("mean absolute error of the tiers not stated", ">= 0", nullable=True, min=0.0)
    book_pnl = _number(f"{FRACTION}, mean absolute of random books", ">= 0", min=0.0)
    book_error = _number(f"{FRACTION}, mean absolute of random books", ">= 0", min=0.0)
    book_error_market_only = _number(f"{FRACTION}, mean absolute of random books", ">= 0", min=0.0)


class BacktestNames(dy.Schema):
    event_date = _date(key=True)
    security_id = _id(key=True)
    predicted = _number("return over the horizon")
    realised = _number("return over the horizon")
    band_low = _number("return over the horizon")
    band_high = _number("return over the horizon")
    in_basket = dy.Bool(nullable=False)
    scored = dy.Bool(nullable=False)


class ValidationDays(dy.Schema):
    date = _date(key=True)
    r2 = _number("share of the cross-section explained", "<= 1", nullable=True, max=1.0)
    r2_market_only = _number("the same by market beta alone", "<= 1", nullable=True, max=1.0)
    gain = _number("r2 less r2_market_only", nullable=True)
    n = _count("names scored")
    spread = _number("standard deviation of the baskets' returns", ">= 0", min=0.0)


class ValidationBooks(dy.Schema):
    book_id = _id(key=True)
    group = _one_of(
        ("tier", "spread", "sector", "random_long", "random_long_short", "market", "minimum_risk"),
    )
    bias = _number("standard deviation of return over forecast volatility, last window", ">= 0", min=0.0)
    band_low = _number("95 % band of bias if the forecasts are right", "< 1")
    band_high = _number("95 % band of bias if the forecasts are right", "> 1")
    inside = dy.Bool(nullable=False)
    windows_inside = _number("share of the rolling windows inside their band", "0..1", min=0.0, max=1.0)
    mrad = _number("mean of |bias - 1| over the rolling windows", ">= 0", min=0.0)
    qlike = _number("mean of log h + r^2 / h, h the variance of one day")
    exceptions_99 = _count("days with a loss beyond the VaR 99 of the day before")
    n_days = _count("trading days")


class Targets(dy.Schema):
    portfolio_id = _id(key=True)
    security_id = _id(key=True)
    weight_before = _number(FRACTION)
    weight_after = _number(FRACTION)
    quantity_after = _number("shares; money for cash")


class Trades(dy.Schema):
    portfolio_id = _id(key=True)
    security_id = _id(key=True)
    side = _one_of(("buy", "sell"))
    quantity = _number("shares", "> 0", min_exclusive=0.0)
    notional_base = _number(MONEY, "> 0", min_exclusive=0.0)
    trade_weight = _number(FRACTION, "sells < 0")
    adv_share = _number("notional over a day's volume", ">= 0", nullable=True)
    cost_base = _number(MONEY, ">= 0", min=0.0)
    reason = _text()


class Limits(dy.Schema):
    portfolio_id = _id(key=True)
    limit_id = _text(key=True)
    kind = _one_of(("turnover", "cash", "tier", "weight", "stress", "budget"))
    priority = _count("0 must hold")
    bound = _number("in the limit's own unit")
    before = _number("in the limit's own unit")
    after = _number("in the limit's own unit", nullable=True)
    slack = _number("bound less use", nullable=True)
    shadow_price = _number("objective per unit of the bound", ">= 0", nullable=True, min=0.0)
    breach_before = dy.Bool(nullable=False)
    breach = dy.Bool(nullable=False)


class Certificates(dy.Schema):
    portfolio_id = _id(key=True)
    form = _one_of(("continuous",), key=True)
    status = _one_of(("certified", "held", "infeasible"))
    objective = _number("annual, NAV = 1", nullable=True)
    lower_bound = _number("annual, NAV = 1", nullable=True)
    relative_gap = _number("gap over the objective's scale", nullable=True)
    max_violation = _number(FRACTION, ">= 0", nullable=True)
    solver = _text()
    rung = _count("step of the ladder, from 0")
    iterations = _count("solver iterations")


class Exceptions(dy.Schema):
    code = _text()
    portfolio_id = _text(nullable=True)
    row = dy.Int64(nullable=True)
    severity = _one_of(("reject", "quarantine", "warn"))
    message = _text()
    source = _text()
