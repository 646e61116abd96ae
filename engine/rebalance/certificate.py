"""A proof that an answer is feasible and nearly optimal, from the input tables alone.

This room does not know the solver, nor the program that was solved: ``evidence`` reads the
tables and the mandate again. The bound needs no square root and no linear solve; it holds
for any multipliers, wrong ones only loosen it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl

from engine.conventions import FEASIBILITY, OPTIMALITY
from engine.mandates.mandate import Mandate
from engine.rebalance.bound import SQUARED_ERROR, UNIT, active_variance, lower_bound, value_and_scale
from engine.rebalance.case import Case, assemble
from engine.rebalance.cone_bounds import Cones, read_cones
from engine.rebalance.evidence import Claim, Evidence

LARGEST: Final = 1e6
"""A weight or multiplier beyond this proves nothing and is refused before it overflows."""

CLOSE: Final = OPTIMALITY / 100.0
"""A gap that no further multipliers are tried to narrow."""

SCALE_FLOOR: Final = 1e-8
"""Smallest scale that a gap is measured against (MATH 6)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the input data says of a claim.

    Args:
        accepted: Feasible within 1e-9 of NAV and within 1e-6 of the proven bound.
        objective: Value of the answer.
        lower_bound: No answer inside the limits is below it.
        relative_gap: ``(objective - lower_bound) / scale``, the scale at least 1e-8.
        max_violation: Largest violation of a limit, fraction of NAV.
        worst_limit: The limit most violated.
        scale: Size of the objective's parts, each counted as positive.
        fault: What is wrong besides, in words; nothing where it is a limit or the gap.
    """

    accepted: bool
    objective: float
    lower_bound: float
    relative_gap: float
    max_violation: float
    worst_limit: str
    scale: float = 0.0
    fault: str = ""


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

        p* >= sum_i min_{lo<=t<=up} [ gamma/2 d_i (t - xb_i)^2 + s_i t + kap_i |t - x0_i|
                                      + c_i / years |t - x0_i|^(3/2) ]
              - gamma (w'F B'xb + w'F w / 2) - y_b spendable - y'b - lam tau
        s = gamma B F w - alpha + y_b 1 + A'y       kap_i = k_i (1 / years + y_b) + lam

    ``w`` is the answer's own active factor exposure; an issuer with several lines enters
    like one more factor with its variance. A cap on the tracking error adds, for any ``mu >= 0``,
    ``mu/2 (a'Sigma a - te^2)``: ``gamma + mu`` for ``gamma`` and the constant ``- mu te^2 / 2``;
    a cap on the gross adds ``g (sum |t| - gross)`` and borrowing ``h max(-t, 0)``, kinks at 0;
    the claim's multiplier of the volatility itself, over the volatility, is such a ``mu``. The cap's
    violation is ``sqrt(a'Sigma a) - te``, volatility a year as a fraction of NAV. An expected
    shortfall and a robust budget enter as the row that ``read_cones`` shows each to imply.
    Each minimum is closed form. An allowance for rounding is subtracted, so that the bound holds
    in exact arithmetic.

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
    return certifier(evidence, holdings=holdings, nav=nav, benchmark=benchmark, mandate=mandate)(claim)


def certifier(
    evidence: Evidence, *, holdings: pl.DataFrame, nav: float, benchmark: pl.DataFrame | None, mandate: Mandate
) -> Callable[[Claim], Verdict]:
    """``certify`` for all claims about one book: the tables are read once, here, and only the claimed weights differ.

    A claim that names what the book may not hold is judged by a reading of its own.
    """
    read: list[Case] = []

    def judge(claim: Claim) -> Verdict:
        strangers = sorted(claim.weights.keys() - evidence.row.keys())
        sizes = np.abs(np.fromiter(claim.weights.values(), dtype=np.float64, count=len(claim.weights)))
        if strangers or not (sizes < LARGEST).all():
            worst = f"weight:{strangers[0]}" if strangers else "weights that are not numbers"
            return Verdict(False, math.inf, -math.inf, math.inf, math.inf, worst)
        if not read:
            read.append(assemble(evidence, holdings, nav, benchmark, mandate, Claim({}, {})))
        case = read[0]
        if claim.weights.keys() <= set(case.names):
            case = replace(case, x=np.array([claim.weights.get(name, 0.0) for name in case.names]))
        else:
            case = assemble(evidence, holdings, nav, benchmark, mandate, claim)
        return judge_case(case, claim, read_cones(evidence, case, mandate, claim, benchmarked=benchmark is not None))

    return judge


def judge_case(case: Case, claim: Claim, cones: Cones) -> Verdict:
    """Judge an answer by a case that was read anew: what ``certify`` proves, with the case's bounds.

    Args:
        case: From ``assemble``; limits that gave way are widened in it.
        claim: The answer.
        cones: Its limits that are no rows.
    """
    violation, worst = _violation(case, cones)
    case = replace(case, rows=[*case.rows, *cones.rows])
    active = case.x - case.benchmark
    objective, scale = value_and_scale(case, active)
    at, lines = case.b.T @ active, [float(line @ active) for _, line in case.shared]
    bound, gap = -math.inf, math.inf
    for duals in _candidates(_squared(case, claim.duals)):
        bound = max(bound, lower_bound(case, duals, at, lines, risk=True))
        gap = (objective - bound) / max(scale, SCALE_FLOOR)
        if gap <= CLOSE:
            break
    numbers = (objective, bound, gap, violation)
    accepted = all(map(math.isfinite, numbers)) and violation <= FEASIBILITY and gap <= OPTIMALITY
    return Verdict(accepted, objective, bound, gap, violation, worst, scale)


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

    The bound ``V`` of ``certify`` with the objective left out. If every limit gave way by ``c``,
    the sum could be at most ``(sum y + mu te) c + mu c^2 / 2``; so some limit is missed by the
    ``c`` at which that is ``V``, for multipliers that sum to one and no ``mu`` ``V`` itself. Two limits
    that leave a name no weight at all are missed, one of them, by half of what lies between them.
    """
    case = assemble(evidence, holdings, nav, benchmark, mandate, claim)
    return refute_case(case, read_cones(evidence, case, mandate, claim, benchmarked=benchmark is not None), claim)


def refute_case(case: Case, cones: Cones, claim: Claim) -> float:
    """How much the limits of a case that was read anew conflict: what ``prove_infeasible`` proves.

    Args:
        case: From ``assemble``; limits may be moved in it.
        cones: Its limits that are no rows.
        claim: The multipliers.
    """
    case = replace(case, rows=[*case.rows, *cones.rows])
    apart = float((case.lower - case.upper).max(initial=0.0))
    if apart > FEASIBILITY:
        return apart / 2.0
    active = case.x - case.benchmark
    point, lines = case.b.T @ active, [float(line @ active) for _, line in case.shared]
    return max(
        _common(case, duals, lower_bound(case, duals, point, lines, risk=False))
        for duals in _candidates(_squared(case, claim.duals))
    )


def _squared(case: Case, duals: Mapping[str, float]) -> dict[str, float]:
    """The multipliers with that of the tracking error turned into ``mu`` of half its square."""
    rest = {name: value for name, value in duals.items() if name not in ("tracking_error", SQUARED_ERROR)}
    if case.tracking_error is None or "tracking_error" not in duals:
        return rest
    used = max(math.sqrt(max(active_variance(case, case.x - case.benchmark), 0.0)), case.tracking_error)
    return {**rest, SQUARED_ERROR: duals["tracking_error"] / used}


def _common(case: Case, duals: Mapping[str, float], bound: float) -> float:
    """The violation that some limit must suffer where the sum of them all is at least ``bound``."""
    mu = duals.get(SQUARED_ERROR, 0.0)
    if mu == 0.0 or bound <= 0.0:
        return bound
    known = {"cash:min", "turnover", "gross", *(name for name, _, _ in case.rows)}
    slope = math.fsum(value for name, value in duals.items() if name in known) + mu * (case.tracking_error or 0.0)
    return 2.0 * bound / (slope + math.sqrt(slope * slope + 2.0 * mu * bound)) * (1.0 - 16.0 * UNIT)


def _candidates(duals: Mapping[str, float]) -> list[dict[str, float]]:
    """The multipliers without their dust, as given, and none at all, each once; the best bound tried counts."""
    clean = {name: max(value, 0.0) for name, value in duals.items() if abs(value) < LARGEST}
    largest = max(clean.values(), default=0.0)
    cut = {name: value if value > 1e-7 * largest else 0.0 for name, value in clean.items()}
    none = dict.fromkeys(clean, 0.0)
    return [cut, *([clean] if cut != clean else []), *([none] if none not in (clean, cut) else [])]


def _row_violations(case: Case) -> dict[str, float]:
    """How far the weights are beyond each row; exactly of those that may be the worst, the others left out.

    A plain product of ``n`` terms is within ``n 2^-53`` of their sizes' sum, far less than what parts two rows here.
    """
    rows = np.array([row for _, row, _ in case.rows]).reshape(len(case.rows), len(case.names))
    over = rows @ case.x - np.array([bound for _, _, bound in case.rows])
    doubt = 2.0 * (len(case.names) + 2) * UNIT * (np.abs(rows) @ np.abs(case.x) + 1.0)
    # What is no number is kept, so that it is refused.
    kept = ~(over + doubt < np.max(over - doubt, initial=-math.inf))
    return {
        name: math.fsum((row * case.x).tolist()) - bound
        for (name, row, bound), keep in zip(case.rows, kept.tolist(), strict=True)
        if keep
    }


def _violation(case: Case, cones: Cones) -> tuple[float, str]:
    """The largest violation of any limit and its id, summed without cancellation."""
    traded = np.abs(case.x - case.start)
    found = {
        "cash:min": math.fsum(case.x) + math.fsum(case.costs * traded) - case.spendable,
        "turnover": math.fsum(traded) - case.turnover,
        **_row_violations(case),
        **cones.violation,
    }
    if case.gross is not None:
        found["gross"] = math.fsum(np.abs(case.x)) - case.gross
    if case.tracking_error is not None:
        volatility = math.sqrt(max(active_variance(case, case.x - case.benchmark), 0.0))
        found["tracking_error"] = volatility - case.tracking_error
    low, high = case.lower - case.x, case.x - case.upper
    if case.names:
        found[f"weight:{case.names[int(np.argmax(low))]}"] = float(low.max())
        at = int(np.argmax(high))
        found[f"weight:{case.names[at]}"] = max(float(high[at]), found.get(f"weight:{case.names[at]}", -math.inf))
    worst = max(found, key=lambda name: found[name] if math.isfinite(found[name]) else math.inf)
    return max(found[worst], 0.0) if math.isfinite(found[worst]) else math.inf, worst
