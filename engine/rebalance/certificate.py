"""A proof that an answer is feasible and nearly optimal, from the input tables alone.

This room does not know the solver, nor the program that was solved: it reads the tables
and the mandate again, by name, in its own code, so that a stale parameter, a swapped
factor or a dropped name is a refusal and not a trade. The bound needs no square root and
no linear solve; it holds for any multipliers, wrong ones only loosen it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Float

from engine.conventions import FEASIBILITY, MARKET, OFF_CURVE, OPTIMALITY, is_cash
from engine.errors import ModelError
from engine.mandates.mandate import Mandate

UNIT: Final = 2.0**-53
LARGEST: Final = 1e6
"""A weight or multiplier beyond this proves nothing and is refused before it overflows."""

SCALE_FLOOR: Final = 1e-8
"""Smallest scale that a gap is measured against (MATH 6)."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The input tables of a chunk, indexed by name once.

    Args:
        factors: Factor names, the market first.
        covariance: ``F`` a year.
        exposures: Row of ``B`` by security.
        variance: Specific variance a year by security.
        issuer: Issuer by security.
        shares: Tier shares by security; what is missing is off the curve.
        shocks: Total return by scenario and security.
        half_spread_bps: By security; absent where the table has none.
    """

    factors: tuple[str, ...]
    covariance: Float[np.ndarray, "k k"]
    exposures: Mapping[str, Float[np.ndarray, " k"]]
    variance: Mapping[str, float]
    issuer: Mapping[str, str]
    shares: Mapping[str, Mapping[str, float]]
    shocks: Mapping[str, Mapping[str, float]]
    half_spread_bps: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Claim:
    """An answer and the multipliers that are said to prove it.

    Args:
        weights: Weight after by name, without cash; a name that is absent is held at 0.
        duals: Multiplier by limit id: ``cash:min`` ``cash:max`` ``turnover``
            ``tier:<t>:max|min`` ``stress:<s>`` ``stress:<s>:active``.
    """

    weights: Mapping[str, float]
    duals: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the input data says of a claim.

    Args:
        accepted: Feasible within 1e-9 of NAV and within 1e-6 of the proven bound.
        objective: Value of the answer.
        lower_bound: No answer inside the limits is below it.
        relative_gap: ``(objective - lower_bound) / scale``.
        max_violation: Largest violation of a limit, fraction of NAV.
        worst_limit: The limit most violated.
    """

    accepted: bool
    objective: float
    lower_bound: float
    relative_gap: float
    max_violation: float
    worst_limit: str


@dataclass(frozen=True, slots=True)
class _Case:
    """One book, assembled anew from the tables."""

    names: list[str]
    x: Float[np.ndarray, " n"]
    start: Float[np.ndarray, " n"]
    benchmark: Float[np.ndarray, " n"]
    lower: Float[np.ndarray, " n"]
    upper: Float[np.ndarray, " n"]
    costs: Float[np.ndarray, " n"]
    b: Float[np.ndarray, "n k"]
    covariance: Float[np.ndarray, "k k"]
    own: Float[np.ndarray, " n"]
    shared: list[tuple[float, Float[np.ndarray, " n"]]]
    rows: list[tuple[str, Float[np.ndarray, " n"], float]]
    spendable: float
    turnover: float
    aversion: float
    years: float


def gather_evidence(
    *,
    exposures: pl.DataFrame,
    factor_covariance: pl.DataFrame,
    specific_risk: pl.DataFrame,
    memberships: pl.DataFrame,
    shocks: pl.DataFrame,
    securities: pl.DataFrame,
) -> Evidence:
    """Index the input tables by name.

    Args:
        exposures: Table ``exposures``.
        factor_covariance: Table ``factor_covariance``.
        specific_risk: Table ``specific_risk``.
        memberships: Table ``memberships``.
        shocks: Table ``shocks``.
        securities: Table ``securities``.

    Raises:
        ModelError: a security lacks a factor, or a factor pair its covariance.
    """
    labels = sorted(set(factor_covariance["factor_1"].to_list()), key=lambda f: (f != MARKET, f))
    column = {factor: position for position, factor in enumerate(labels)}
    covariance = np.full((len(labels), len(labels)), np.nan)
    for one, other, value in factor_covariance.select("factor_1", "factor_2", "annual").iter_rows():
        covariance[column[one], column[other]] = value
    wide = exposures.pivot(on="factor", index="security_id", values="exposure")
    if not np.isfinite(covariance).all() or sorted(wide.columns[1:]) != sorted(labels):
        raise ModelError("certificate: the factors of exposures and factor_covariance differ")
    matrix = wide.select(labels).to_numpy()
    shares: dict[str, dict[str, float]] = {}
    for security, tier, weight in memberships.select("security_id", "tier", "weight").iter_rows():
        shares.setdefault(security, {})[tier] = weight
    moves: dict[str, dict[str, float]] = {}
    for scenario, security, total in shocks.select("scenario_id", "security_id", "total").iter_rows():
        moves.setdefault(scenario, {})[security] = total
    return Evidence(
        factors=tuple(labels),
        covariance=covariance,
        exposures=dict(zip(wide["security_id"].to_list(), matrix, strict=True)),
        variance=dict(specific_risk.select("security_id", "annual").iter_rows()),
        issuer=dict(specific_risk.select("security_id", "issuer_id").iter_rows()),
        shares=shares,
        shocks=moves,
        half_spread_bps=dict(securities.select("security_id", "half_spread_bps").drop_nulls().iter_rows()),
    )


def certify(
    evidence: Evidence,
    *,
    holdings: pl.DataFrame,
    nav: float,
    benchmark: pl.DataFrame | None,
    mandate: Mandate,
    claim: Claim,
) -> Verdict:
    """Judge an answer by the input data.

    For any multipliers ``y >= 0`` (``y_b`` of the budget), ``lam >= 0`` and any ``w``, with
    the inequality ``b'Fb / 2 >= w'F b - w'F w / 2`` of a positive semi-definite ``F``::

        p* >= sum_i min_{lo<=t<=up} [ gamma/2 d_i (t - xb_i)^2 + s_i t + kap_i |t - x0_i| ]
              - gamma (w'F B'xb + w'F w / 2) - y_b spendable - y'b - lam tau
        s = gamma B F w + y_b 1 + A'y       kap_i = k_i (1 / years + y_b) + lam

    ``w`` is the answer's own active factor exposure; an issuer with several lines enters
    like one more factor with its variance. Each minimum is closed form. An allowance for
    rounding is subtracted, so that the bound holds in exact arithmetic.

    Args:
        evidence: From ``gather_evidence``.
        holdings: The book's rows of the table ``holdings``.
        nav: Its NAV.
        benchmark: Columns ``security_id``, ``weight``; None where the book has none.
        mandate: Its mandate.
        claim: The answer.

    References:
        MATH.md 6. Oracle: the same bound in exact rationals, tests/test_certificate.py.
    """
    strangers = sorted(name for name in claim.weights if name not in evidence.exposures)
    if strangers or not all(math.isfinite(weight) and abs(weight) < LARGEST for weight in claim.weights.values()):
        worst = f"weight:{strangers[0]}" if strangers else "weights that are not numbers"
        return Verdict(False, math.inf, -math.inf, math.inf, math.inf, worst)
    case = _assemble(evidence, holdings, nav, benchmark, mandate, claim)
    violation, worst = _violation(case)
    active = case.x - case.benchmark
    objective = _risk(case, active) * case.aversion / 2.0 + float(case.costs @ np.abs(case.x - case.start)) / case.years
    scale = max(objective, SCALE_FLOOR)
    bound = max(
        _lower_bound(case, duals, case.b.T @ active, [float(line @ active) for _, line in case.shared], risk=True)
        for duals in _candidates(claim.duals)
    )
    gap = (objective - bound) / scale
    numbers = (objective, bound, gap, violation)
    accepted = all(map(math.isfinite, numbers)) and violation <= FEASIBILITY and gap <= OPTIMALITY
    return Verdict(accepted, objective, bound, gap, violation, worst)


def prove_infeasible(
    evidence: Evidence,
    *,
    holdings: pl.DataFrame,
    nav: float,
    benchmark: pl.DataFrame | None,
    mandate: Mandate,
    claim: Claim,
) -> float:
    """How much the limits conflict, as a proven lower bound; no answer exists if it is above 0.

    The bound of ``certify`` with the objective left out: for multipliers that sum to one it
    is the violation that at least one limit must suffer.
    """
    case = _assemble(evidence, holdings, nav, benchmark, mandate, claim)
    nothing = np.zeros(case.b.shape[1])
    return max(
        _lower_bound(case, duals, nothing, [0.0] * len(case.shared), risk=False) for duals in _candidates(claim.duals)
    )


def _candidates(duals: Mapping[str, float]) -> list[dict[str, float]]:
    """The multipliers as given, without their dust, and none at all: the best bound counts."""
    clean = {name: max(value, 0.0) for name, value in duals.items() if abs(value) < LARGEST}
    largest = max(clean.values(), default=0.0)
    cut = {name: value if value > 1e-7 * largest else 0.0 for name, value in clean.items()}
    return [clean, cut, dict.fromkeys(clean, 0.0)]


def _assemble(
    evidence: Evidence,
    holdings: pl.DataFrame,
    nav: float,
    benchmark: pl.DataFrame | None,
    mandate: Mandate,
    claim: Claim,
) -> _Case:
    limits = mandate.limits
    held = {
        security: (value if exposure is None else exposure) / nav
        for security, value, exposure in holdings.select(
            "security_id", "market_value_base", "exposure_base"
        ).iter_rows()
        if not is_cash(security)
    }
    index = None if benchmark is None else dict(benchmark.select("security_id", "weight").iter_rows())
    allowed = {*held, *(index or {}), *mandate.buy_list, *limits.weights}
    names = sorted({*allowed, *claim.weights})
    start = np.array([held.get(name, 0.0) for name in names])
    issuers = [evidence.issuer[name] for name in names]
    several = sorted({issuer for issuer in issuers if issuers.count(issuer) > 1})
    variance = np.array([evidence.variance[name] for name in names])
    lines = [np.array([float(i == issuer) for i in issuers]) for issuer in several]
    rows: list[tuple[str, Float[np.ndarray, " n"], float]] = [("cash:max", -np.ones(len(names)), limits.cash.max - 1.0)]
    for tier, band in limits.tiers.items():
        share = np.array([_share(evidence, name, tier) for name in names])
        rows += [(f"tier:{tier}:max", share, band.max), (f"tier:{tier}:min", -share, -band.min)]
    for budget in limits.stress:
        loss = -np.array([evidence.shocks[budget.scenario][name] for name in names])
        bound = budget.max_loss
        if budget.kind == "active":
            if index is None:
                raise ModelError(f"certificate: {budget.limit_id} is active, and the book has no benchmark")
            bound += math.fsum(loss * np.array([index.get(name, 0.0) for name in names]))
        rows.append((budget.limit_id, loss, bound))
    bands = [limits.weights.get(name) for name in names]
    return _Case(
        names=names,
        x=np.array([claim.weights.get(name, 0.0) for name in names]),
        start=start,
        benchmark=start if index is None else np.array([index.get(name, 0.0) for name in names]),
        lower=np.array([0.0 if band is None else band.min for band in bands]),
        upper=np.array(
            [
                0.0 if name not in allowed else limits.max_weight if band is None else band.max
                for name, band in zip(names, bands, strict=True)
            ]
        ),
        costs=np.array([evidence.half_spread_bps.get(name, mandate.costs.half_spread_bps) for name in names]) / 1e4,
        b=np.array([evidence.exposures[name] for name in names]).reshape(len(names), len(evidence.factors)),
        covariance=evidence.covariance,
        own=np.where(np.isin(issuers, several), 0.0, variance),
        shared=[(float(variance[line > 0.0][0]), line) for line in lines],
        rows=rows,
        spendable=1.0 - limits.cash.min,
        turnover=limits.turnover,
        aversion=mandate.risk_aversion,
        years=mandate.costs.holding_years,
    )


def _share(evidence: Evidence, name: str, tier: str) -> float:
    shares = evidence.shares.get(name, {})
    return 1.0 - sum(shares.values()) if tier == OFF_CURVE else shares.get(tier, 0.0)


def _risk(case: _Case, active: Float[np.ndarray, " n"]) -> float:
    factor = case.b.T @ active
    lines = sum(variance * float(line @ active) ** 2 for variance, line in case.shared)
    return float(factor @ case.covariance @ factor) + float(case.own @ active**2) + lines


def _violation(case: _Case) -> tuple[float, str]:
    """The largest violation of any limit and its id, summed without cancellation."""
    traded = np.abs(case.x - case.start)
    found = {
        "cash:min": math.fsum(case.x) + math.fsum(case.costs * traded) - case.spendable,
        "turnover": math.fsum(traded) - case.turnover,
        **{name: math.fsum(row * case.x) - bound for name, row, bound in case.rows},
    }
    low, high = case.lower - case.x, case.x - case.upper
    if case.names:
        found[f"weight:{case.names[int(np.argmax(low))]}"] = float(low.max())
        at = int(np.argmax(high))
        found[f"weight:{case.names[at]}"] = max(float(high[at]), found.get(f"weight:{case.names[at]}", -math.inf))
    worst = max(found, key=lambda name: found[name] if math.isfinite(found[name]) else math.inf)
    return max(found[worst], 0.0) if math.isfinite(found[worst]) else math.inf, worst


def _lower_bound(
    case: _Case, duals: Mapping[str, float], w: Float[np.ndarray, " k"], line_w: list[float], *, risk: bool
) -> float:
    """The bound of ``certify`` less its rounding allowance; without ``risk`` the feasibility form."""
    gamma = case.aversion if risk else 0.0
    y_b, lam = duals.get("cash:min", 0.0), duals.get("turnover", 0.0)
    pull = gamma * (case.covariance @ w)
    tug = gamma * (np.abs(case.covariance) @ np.abs(w))  # what pull could be without cancellation
    s = case.b @ pull + y_b
    size = np.abs(case.b) @ tug + y_b
    constants = [-y_b * case.spendable, -lam * case.turnover]
    constants += [-float(pull @ (case.b.T @ case.benchmark)), -float(pull @ w) / 2.0]
    rough = [abs(value) for value in constants[:2]]
    rough += [float(tug @ (np.abs(case.b).T @ np.abs(case.benchmark))), float(tug @ np.abs(w)) / 2.0]
    for (variance, line), at in zip(case.shared, line_w, strict=True):
        push = gamma * variance * at
        s = s + push * line
        size = size + abs(push) * line
        constants += [-push * float(line @ case.benchmark), -push * at / 2.0]
        rough += [abs(value) for value in constants[-2:]]
    for name, row, bound in case.rows:
        y = duals.get(name, 0.0)
        s = s + y * row
        size = size + y * np.abs(row)
        constants.append(-y * bound)
        rough.append(abs(y * bound))
    kink = case.costs * ((1.0 / case.years if risk else 0.0) + y_b) + lam
    minima, reach = _one_dimensional_minima(case, s, kink, gamma * case.own)
    depth = 2 * len(w) + len(case.rows) + len(case.shared) + len(case.names) + 16
    # The benchmark is in it because the bound of an active budget is a sum over the benchmark.
    widest = np.max(np.abs([case.lower, case.upper, case.start, case.benchmark]), axis=0)
    allowance = 2.0 * depth * UNIT * (math.fsum(size * widest) + math.fsum(reach) + math.fsum(rough))
    return math.fsum(minima) + math.fsum(constants) - allowance - _indefinite(case, gamma, w)


def _one_dimensional_minima(
    case: _Case, s: Float[np.ndarray, " n"], kink: Float[np.ndarray, " n"], curve: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """``min over [lo, up] of curve/2 (t - xb)^2 + s t + kink |t - x0|`` and the size of its terms."""
    safe = np.where(curve > 0.0, curve, 1.0)
    stationary = [np.where(curve > 0.0, case.benchmark - (s + sign * kink) / safe, case.lower) for sign in (1.0, -1.0)]
    best = np.full(len(case.names), np.inf)
    reach = np.zeros(len(case.names))
    for t in (case.lower, case.upper, case.start, *stationary):
        at = np.clip(t, case.lower, case.upper)
        terms = (curve / 2.0 * (at - case.benchmark) ** 2, s * at, kink * np.abs(at - case.start))
        value = terms[0] + terms[1] + terms[2]
        reach = np.where(value < best, np.abs(terms[0]) + np.abs(terms[1]) + np.abs(terms[2]), reach)
        best = np.minimum(best, value)
    return best, reach


def _indefinite(case: _Case, gamma: float, w: Float[np.ndarray, " k"]) -> float:
    """What a factor covariance that is not provably positive semi-definite could take from the bound."""
    k = len(case.covariance)
    if gamma == 0.0 or k == 0:
        return 0.0
    shift = 4.0 * (k + 2) * UNIT * float(np.trace(case.covariance))
    try:
        # Cholesky of F less its own backward error: success proves that F is positive definite.
        np.linalg.cholesky(case.covariance - shift * np.eye(k))
        return 0.0
    except np.linalg.LinAlgError:
        deepest = max(-float(np.linalg.eigvalsh(case.covariance).min()), 0.0) + shift
        reach = np.maximum(np.abs(case.lower - case.benchmark), np.abs(case.upper - case.benchmark))
        span = np.abs(case.b).T @ reach + np.abs(w)
        return gamma / 2.0 * deepest * float(span @ span)
