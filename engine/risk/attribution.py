"""Where a book's risk comes from: by factor, by name, by tier twice; and what a bad day costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Float
from scipy.sparse import coo_array, csr_array
from scipy.special import bdtrc, gammaln, ndtri, stdtr, stdtrit

from engine.conventions import MARKET, TRADING_DAYS
from engine.curve.tiers import Curve
from engine.errors import CalibrationError
from engine.risk.model import RiskModel
from engine.risk.portfolios import Portfolios
from engine.risk.tails import FITTED_LEVEL, Tails

SPECIFIC: Final = "specific"
"""Row of ``risk_factors`` and ``risk_tiers`` that holds what no factor carries."""

OTHER_FACTORS: Final = "other_factors"
"""Row of ``risk_tiers`` for factors that are neither the market nor a tier, where there are any."""

VAR_LEVEL: Final = 0.99
ES_LEVEL: Final = 0.975


@dataclass(frozen=True, slots=True)
class Attribution:
    """Volatility of each portfolio, cut three ways; every cut sums to ``volatility``.

    Args:
        volatility: ``(n_portfolios,)``, ``sig = sqrt(b'Fb + w'Dw)`` a year.
        by_factor: ``(n_portfolios, n_factors)``, ``b_k (Fb)_k / sig``.
        specific: ``(n_portfolios,)``, ``w'Dw / sig``; with ``by_factor`` it sums to ``sig``.
        by_name: Sparse ``(n_portfolios, n_securities)``, ``w_i (Sigma w)_i / sig``.
        factor_variance: ``(n_portfolios,)``, ``b'Fb`` a year.
        specific_variance: ``(n_portfolios,)``, ``w'Dw`` a year.
    """

    volatility: Float[np.ndarray, " n_portfolios"]
    by_factor: Float[np.ndarray, "n_portfolios n_factors"]
    specific: Float[np.ndarray, " n_portfolios"]
    by_name: csr_array
    factor_variance: Float[np.ndarray, " n_portfolios"]
    specific_variance: Float[np.ndarray, " n_portfolios"]


def attribute_risk(weights: csr_array, model: RiskModel) -> Attribution:
    """Volatility and its cuts, for all portfolios at once and without a security covariance.

    ``(Sigma w)_i = B_i F b + d_issuer(i) x (sum of w over the issuer's lines)``, worked out at
    the held names only. A name's part may be below zero: it hedges. A portfolio without
    risk has zeros everywhere.

    Args:
        weights: ``w``, ``(n_portfolios, n_securities)`` on the model's axis, or active weights.
        model: Risk model.

    References:
        MATH.md 3; Menchero and Davis (2011). Oracle: dense algebra, tests/test_attribution.py.
    """
    b = weights @ model.exposures
    common = b @ model.factor_covariance
    lines = _issuer_sums(weights, model)
    # Each variance is added up from the cut that reports it, so that the cuts cannot drift apart.
    factor_parts = b * common
    specific_variance = _row_sums(weights.multiply(lines * model.specific_variance[None, :]))
    factor_variance = factor_parts.sum(axis=1)
    variance = np.maximum(factor_variance + specific_variance, 0.0)
    volatility = np.sqrt(variance)
    per = np.divide(1.0, volatility, out=np.zeros_like(volatility), where=volatility > 0.0)
    held = weights.tocoo()
    rows, columns = held.coords
    marginal = np.einsum("hk,hk->h", model.exposures[columns], common[rows])
    systematic = coo_array((held.data * marginal, (rows, columns)), shape=weights.shape).tocsr()
    own = weights.multiply(lines * model.specific_variance[None, :]).tocsr()
    return Attribution(
        volatility=volatility,
        by_factor=factor_parts * per[:, None],
        specific=specific_variance * per,
        by_name=csr_array((systematic + own).multiply(per[:, None])),
        factor_variance=factor_variance,
        specific_variance=specific_variance,
    )


def attribute_tiers(
    attribution: Attribution, model: RiskModel, curve: Curve
) -> dict[str, tuple[Float[np.ndarray, " n_portfolios"], Float[np.ndarray, " n_portfolios"]]]:
    """The same volatility by tier twice: by names and by tier factors.

    By names, a tier has ``sum_i c_ij w_i (Sigma w)_i / sig`` with membership shares ``c``, and
    ``off_curve`` what they leave of 1; market and specific risk are inside the names. By
    factors, a tier has its pure factor's part and market, specific and other factors stand
    in rows of their own, while ``off_curve`` has none. Both columns sum to ``sig``.

    Returns:
        By row label, tiers first: ``by_names`` and ``by_factors``.
    """
    names = attribution.by_name @ curve.shares(model.securities)
    nothing = np.zeros_like(attribution.volatility)
    at = {factor: k for k, factor in enumerate(model.factors.labels)}
    rows = {
        bucket: (names[:, j], attribution.by_factor[:, at[bucket]] if bucket in at else nothing)
        for j, bucket in enumerate(curve.buckets.labels)
    }
    rows[MARKET] = (nothing, attribution.by_factor[:, at[MARKET]])
    if others := [k for factor, k in at.items() if factor not in rows]:
        rows[OTHER_FACTORS] = (nothing, attribution.by_factor[:, others].sum(axis=1))
    rows[SPECIFIC] = (nothing, attribution.specific)
    return rows


@dataclass(frozen=True, slots=True)
class TailRisk:
    """Loss over one day that is passed once in a hundred, and the mean of the worst 2.5 %.

    Args:
        var_99: ``(n_portfolios,)``, fraction of NAV, above zero is a loss.
        es_975: ``(n_portfolios,)``, the same.
    """

    var_99: Float[np.ndarray, " n_portfolios"]
    es_975: Float[np.ndarray, " n_portfolios"]


def measure_tails(
    factor_variance: Float[np.ndarray, " n_portfolios"],
    specific_variance: Float[np.ndarray, " n_portfolios"],
    tails: Tails,
) -> TailRisk:
    """VaR 99 and ES 97.5 over one day from the fitted t; mean zero.

    ``s = sqrt((m_f^2 b'Fb + m_s^2 w'Dw) / 252)`` with the fitted multipliers, which make a
    *Gaussian* 80 % band hold 80 %. A t with ``nu`` degrees has the same 80 % band at the scale
    ``k = s z_0.9 / t_0.9``, so that the centre is the fitted one and only the tail is the t's
    (a t of unit variance times the multiplier would narrow the centre twice):
    ``VaR = k t_0.99``, ``ES = k f(q) (nu + q^2) / ((nu - 1) 0.025)`` with ``q = t_0.975``.

    Args:
        factor_variance: ``b'Fb`` a year.
        specific_variance: ``w'Dw`` a year.
        tails: Degrees and multipliers.

    References:
        MATH.md 3-4; McNeil, Frey and Embrechts (2015), 2.25. Oracle: draws of a t,
        tests/test_attribution.py.
    """
    nu = tails.degrees
    scale = _tail_scale(factor_variance / TRADING_DAYS, specific_variance / TRADING_DAYS, tails)
    q = stdtrit(nu, ES_LEVEL)
    density = np.exp(gammaln((nu + 1.0) / 2.0) - gammaln(nu / 2.0)) / np.sqrt(nu * np.pi)
    density *= (1.0 + q**2 / nu) ** (-(nu + 1.0) / 2.0)
    shortfall = density * (nu + q**2) / ((nu - 1.0) * (1.0 - ES_LEVEL))
    return TailRisk(var_99=scale * stdtrit(nu, VAR_LEVEL), es_975=scale * shortfall)


def loss_probabilities(
    losses: Float[np.ndarray, " n"],
    factor_variance: Float[np.ndarray, " n"],
    specific_variance: Float[np.ndarray, " n"],
    tails: Tails,
) -> Float[np.ndarray, " n"]:
    """``P(loss >= l)`` by the t of ``measure_tails``, so that the one-day VaR 99 has exactly 0.01.

    ``P = t_nu(-l / k)``, mean zero, one-sided: a half at no loss, more for a gain.

    Args:
        losses: ``l``, fraction of NAV, above zero is a loss.
        factor_variance: ``b'F_h b`` over the horizon.
        specific_variance: ``w'D_h w`` over the horizon.
        tails: Degrees and multipliers.

    Returns:
        Probability; NaN where there is no risk.

    References:
        MATH.md 4. Oracle: ``scipy.stats.t.sf``, tests/test_stress.py.
    """
    scale = _tail_scale(factor_variance, specific_variance, tails)
    steps = np.divide(-losses, scale, out=np.full_like(scale, np.nan), where=scale > 0.0)
    return stdtr(tails.degrees, steps)


def _tail_scale(
    factor_variance: Float[np.ndarray, " n"], specific_variance: Float[np.ndarray, " n"], tails: Tails
) -> Float[np.ndarray, " n"]:
    """``k``: the t at this scale has the 80 % band of the fitted Gaussian."""
    variance = tails.factor_multiplier**2 * factor_variance + tails.specific_multiplier**2 * specific_variance
    central = 0.5 + FITTED_LEVEL / 2.0
    return np.sqrt(np.maximum(variance, 0.0)) * ndtri(central) / stdtrit(tails.degrees, central)


@dataclass(frozen=True, slots=True)
class ExceptionCount:
    """Days on which a book lost more than was forecast.

    Args:
        days: Days with a return and a forecast.
        exceptions: Days whose loss passed the forecast.
        expected: ``(1 - level) days``.
        probability: Chance of at least that many if each day's were ``1 - level``.
    """

    days: int
    exceptions: int
    expected: float
    probability: float


def count_exceptions(
    returns: Float[np.ndarray, " n_days"], forecasts: Float[np.ndarray, " n_days"], *, level: float = VAR_LEVEL
) -> ExceptionCount:
    """How often losses passed the value at risk that was forecast for the day.

    Args:
        returns: Realised, fraction of NAV; below zero is a loss. NaN leaves the day out.
        forecasts: Value at risk of the same days, above zero, made before each; NaN leaves the day out.
        level: Probability that a forecast holds.

    Returns:
        The count, with the one-sided binomial probability of one as high (Kupiec's question).

    Raises:
        CalibrationError: a forecast is negative: losses are above zero here.

    References:
        Kupiec (1995). Oracle: ``scipy.stats.binom.sf``, tests/test_attribution.py.
    """
    seen = np.isfinite(returns) & np.isfinite(forecasts)
    if (forecasts[seen] < 0.0).any():
        raise CalibrationError("value at risk: a forecast is negative; write losses above zero")
    days, exceptions = int(seen.sum()), int((-returns[seen] > forecasts[seen]).sum())
    chance = 1.0 if exceptions == 0 else float(bdtrc(exceptions - 1, days, 1.0 - level))
    return ExceptionCount(days, exceptions, (1.0 - level) * days, chance)


def risk_tables(
    portfolios: Portfolios,
    curve: Curve,
    *,
    stage: str,
    active: Mapping[str, np.ndarray] | None = None,
    positions: int = 10,
) -> dict[str, pl.DataFrame]:
    """The tables ``risk_factors``, ``risk_tiers`` and ``risk_positions`` at one stage.

    Args:
        portfolios: Weights of books and parents.
        curve: Memberships for the cut by tier.
        stage: ``before`` or ``after``.
        active: Weights less the benchmark's, of the books that have one; their tracking error
            is cut the same way, in the columns that begin with ``active``, null for others.
        positions: Names a portfolio to keep by size of contribution, and as many by size of
            active contribution.

    Returns:
        Each sorted by key; the cuts of ``risk_factors`` and ``risk_tiers`` are whole.
    """
    model, ids = portfolios.model, portfolios.ids
    total = attribute_risk(portfolios.weights, model)
    relative = _relative(portfolios, active or {})
    books = np.array(ids.labels, dtype=object)
    factor_names = (*model.factors.labels, SPECIFIC)

    def by_factor(cut: Attribution) -> Float[np.ndarray, "n_portfolios m"]:
        return np.column_stack([cut.by_factor, cut.specific])

    share = np.divide(1.0, total.volatility, out=np.zeros_like(total.volatility), where=total.volatility > 0.0)
    factors = pl.DataFrame(
        {
            "portfolio_id": np.repeat(books, len(factor_names)).tolist(),
            "factor": list(factor_names) * len(ids),
            "contribution": by_factor(total).ravel(),
            "share_of_variance": (by_factor(total) * share[:, None]).ravel(),
            "active_contribution": _spread(by_factor(relative.cut), relative.rows, len(ids)).ravel(),
        },
        schema_overrides={"portfolio_id": pl.String, "factor": pl.String},
    )
    tiers, relative_tiers = attribute_tiers(total, model, curve), attribute_tiers(relative.cut, model, curve)
    columns = {
        "by_names": np.column_stack([pair[0] for pair in tiers.values()]),
        "by_factors": np.column_stack([pair[1] for pair in tiers.values()]),
        "active_by_names": _spread(
            np.column_stack([pair[0] for pair in relative_tiers.values()]), relative.rows, len(ids)
        ),
        "active_by_factors": _spread(
            np.column_stack([pair[1] for pair in relative_tiers.values()]), relative.rows, len(ids)
        ),
    }
    tier_table = pl.DataFrame(
        {
            "portfolio_id": np.repeat(books, len(tiers)).tolist(),
            "tier": list(tiers) * len(ids),
            **{name: values.ravel() for name, values in columns.items()},
        },
        schema_overrides={"portfolio_id": pl.String, "tier": pl.String},
    )
    frames = {
        "risk_factors": (factors, "factor"),
        "risk_tiers": (tier_table, "tier"),
        "risk_positions": (_positions(portfolios, total, relative, positions), "security_id"),
    }
    return {
        name: frame.with_columns(pl.lit(stage).alias("stage"), pl.col(pl.Float64).fill_nan(None)).sort(
            "portfolio_id", key
        )
        for name, (frame, key) in frames.items()
    }


@dataclass(frozen=True, slots=True)
class _Relative:
    """Active weights of the books that have a benchmark, and the cut of their tracking error."""

    rows: list[int]
    weights: csr_array
    cut: Attribution


def _relative(portfolios: Portfolios, active: Mapping[str, np.ndarray]) -> _Relative:
    rows = [row for row, book in enumerate(portfolios.ids.labels) if book in active]
    labels = [portfolios.ids.labels[row] for row in rows]
    n = len(portfolios.model.securities)
    weights = csr_array(np.vstack([active[label] for label in labels]) if labels else np.zeros((0, n)))
    return _Relative(rows, weights, attribute_risk(weights, portfolios.model))


def _spread(values: Float[np.ndarray, "m k"], rows: list[int], count: int) -> Float[np.ndarray, "n k"]:
    """The values at their rows, NaN at the others."""
    out = np.full((count, values.shape[1]), np.nan)
    out[rows] = values
    return out


def _positions(portfolios: Portfolios, total: Attribution, relative: _Relative, keep: int) -> pl.DataFrame:
    key = ["portfolio_id", "security_id"]
    ours = _long(portfolios, portfolios.weights, total.by_name, ("weight", "contribution"), None)
    theirs = _long(
        portfolios, relative.weights, relative.cut.by_name, ("active_weight", "active_contribution"), relative.rows
    )
    rows = ours.join(theirs, on=key, how="full", coalesce=True, validate="1:1").with_columns(
        pl.col("weight", "contribution").fill_null(0.0)
    )
    compared = pl.col("portfolio_id").is_in([portfolios.ids.labels[row] for row in relative.rows])
    rows = rows.with_columns(
        pl.when(compared).then(pl.col(name).fill_null(0.0)).alias(name)
        for name in ("active_weight", "active_contribution")
    )
    largest = [
        rows.filter(pl.col(size).abs() > 0.0)
        .sort(pl.col(size).abs(), "security_id", descending=[True, False])
        .group_by("portfolio_id", maintain_order=True)
        .head(keep)
        for size in ("contribution", "active_contribution")
    ]
    return pl.concat(frame.select(rows.columns) for frame in largest).unique(subset=key)


def _long(
    portfolios: Portfolios, weights: csr_array, parts: csr_array, names: tuple[str, str], rows: list[int] | None
) -> pl.DataFrame:
    """One row a held name: its weight and its part, both from sparse tables of one pattern."""
    books = np.array(portfolios.ids.labels, dtype=object)
    books = books if rows is None else books[rows]
    securities = np.array(portfolios.model.securities.labels, dtype=object)
    frames = []
    for name, table in zip(names, (weights, parts), strict=True):
        held = table.tocoo()
        at, columns = held.coords
        frames.append(
            pl.DataFrame(
                {"portfolio_id": books[at].tolist(), "security_id": securities[columns].tolist(), name: held.data},
                schema={"portfolio_id": pl.String, "security_id": pl.String, name: pl.Float64},
            )
        )
    return frames[0].join(frames[1], on=["portfolio_id", "security_id"], how="left", validate="1:1")


def _issuer_sums(weights: csr_array, model: RiskModel) -> csr_array:
    """For each line, the sum of weights over its issuer's lines; sparse like the weights."""
    n, m = len(model.securities), int(model.issuers.max(initial=-1)) + 1
    belongs = csr_array((np.ones(n), (np.arange(n), model.issuers)), shape=(n, m))
    return csr_array(weights @ belongs @ belongs.T)


def _row_sums(table: csr_array) -> Float[np.ndarray, " n"]:
    return np.asarray(table.sum(axis=1), dtype=np.float64).ravel()
