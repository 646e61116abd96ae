"""What a calibration leaves: the risk model and the curve."""

import dataframely as dy

from engine.conventions import ALTERNATIVE_MODELS
from engine.tables.columns import count_column, date_column, id_column, number_column, one_of_column


class Exposures(dy.Schema):
    security_id = id_column(key=True)
    factor = id_column(key=True)
    exposure = number_column("return per unit of factor return")
    prior_share = number_column("share of the estimate that is prior", "0..1", min=0.0, max=1.0)
    standard_error = number_column(
        "posterior sd of the exposure; null where it is all prior", ">= 0", nullable=True, min=0.0
    )


class FactorCovariance(dy.Schema):
    factor_1 = id_column(key=True)
    factor_2 = id_column(key=True)
    annual = number_column("covariance a year")


class SpecificRisk(dy.Schema):
    security_id = id_column(key=True)
    issuer_id = id_column()
    annual = number_column("variance a year", ">= 0", min=0.0)


class FactorReturns(dy.Schema):
    date = date_column(key=True)
    factor = id_column(key=True)
    factor_return = number_column("fraction a day", alias="return")


class Tiers(dy.Schema):
    tier = id_column(key=True)
    ordinal = count_column("position on the curve, from 0")
    coordinate = number_column("calibrated position", "-1..1", nullable=True, min=-1.0, max=1.0)
    low = number_column("calibrated position", nullable=True)
    high = number_column("calibrated position", nullable=True)
    beta = number_column("slope of the tier's total return on the market")


class Memberships(dy.Schema):
    security_id = id_column(key=True)
    tier = id_column(key=True)
    weight = number_column("share of the security", "0..1", min_exclusive=0.0, max=1.0)
    confidence = number_column("share", "0..1", nullable=True, min=0.0, max=1.0)
    source = one_of_column(("core", "declared", "estimated"))


class AlternativeExposures(dy.Schema):
    model = one_of_column(ALTERNATIVE_MODELS, key=True)
    security_id = id_column(key=True)
    factor = id_column(key=True)
    exposure = number_column("return per unit of factor return")


class AlternativeCovariance(dy.Schema):
    model = one_of_column(ALTERNATIVE_MODELS, key=True)
    factor_1 = id_column(key=True)
    factor_2 = id_column(key=True)
    annual = number_column("covariance a year")


class AlternativeSpecific(dy.Schema):
    model = one_of_column(ALTERNATIVE_MODELS, key=True)
    security_id = id_column(key=True)
    annual = number_column("variance a year", ">= 0", min=0.0)
