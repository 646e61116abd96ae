"""A proof that limits gave way by no more than they had to, level by level, from the input tables alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from engine.conventions import FEASIBILITY
from engine.mandates.mandate import Band, Mandate
from engine.rebalance.bound import active_variance
from engine.rebalance.case import Case, assemble
from engine.rebalance.certificate import LARGEST, Verdict, judge_case
from engine.rebalance.cone_bounds import Cones, read_cones
from engine.rebalance.evidence import Claim, Evidence
from engine.rebalance.level_bound import (
    GROSS,
    TRACKING_ERROR,
    WEIGHT,
    LevelProof,
    allowed,
    plain_band,
    prove_least,
    soft_limits,
)

LOTS: Final = 1e-5
"""The most that whole lots may miss a limit by beyond what it gave way by, in its own unit."""

LEVELS: Final = (1, 2, 3, 4, 5)


@dataclass(frozen=True, slots=True)
class Relaxation:
    """By how much limits gave way, and why no less would do.

    Args:
        amounts: By limit id, in the limit's own unit.
        proofs: By level; 0 proves that without a new or a worse breach there is no answer.
    """

    amounts: Mapping[str, float] = field(default_factory=dict)
    proofs: Mapping[int, LevelProof] = field(default_factory=dict)


def certify_relaxed(
    evidence: Evidence,
    *,
    inputs: Mapping[str, Any],
    claim: Claim,
    relaxation: Relaxation,
    room: float = 0.0,
) -> Verdict:
    """Judge an answer that keeps every limit but those that had to give way.

    The answer is judged by ``judge_case`` with exactly the claimed amounts on exactly those limits.
    The amounts themselves are accepted only if every level's total ``T_p`` is the least. For any ``y >= 0``,
    ``nu >= 0``, with the earlier levels held at their totals::

        T_p >= min over the box of [ y'(A x - b) + y_b (1'x + k'|x - x0| - spendable) + lam (|x - x0| - tau) ]
               + sum_{i in p} min(0, (1 - y_i) most_i) - sum_{i in later} y_i most_i
               + sum_{q < p} [ sum_{i in q} min(0, (nu_q - y_i) most_i) - nu_q T_q ]

    ``most`` is today's breach, so that nothing gets worse and nothing new is breached. Only where a proof
    (level 0) shows that this leaves no answer may a limit be missed by more, up to what the box allows. A unit
    of every limit counts alike: a point of NAV, of volatility a year, of exposure. A cap on the tracking
    error enters by its square as in ``certify``; where it gives way beside others of its level, or its level is
    held, it is cut by ``r'(x - xb) <= te``, ``r = Sigma a / sqrt(a'Sigma a)``, which it implies,
    or in the direction that its proof names. An expected
    shortfall that gives way by ``e`` implies the row of ``read_cones``, wider by ``e``; the gross enters as in
    ``certify``. A level whose least is above 0 proves that not all limits can be kept;
    without one nothing may give way.

    Args:
        evidence: From ``gather_evidence``.
        inputs: ``holdings``, ``nav``, ``benchmark``, ``mandate`` as for ``certify``.
        claim: The answer.
        relaxation: What gave way.
        room: For whole lots: by how much more than proven each limit that gave way may be missed, at most
            ``LOTS``, and never by more than it is missed today.

    Returns:
        As ``certify``; where the amounts are not proven, not accepted, and ``fault`` says which.

    References:
        MATH 5-6. Oracle: the levels by scipy's linprog, tests/test_relax.py.
    """
    limits = inputs["mandate"].limits
    amounts = relaxation.amounts
    wrong = [name for name, amount in amounts.items() if not 0.0 < amount < LARGEST or limits.priority(name) == 0]
    strangers = [name for name in claim.weights if name not in evidence.row]
    if wrong or strangers or not all(abs(weight) < LARGEST for weight in claim.weights.values()):
        return _refused(f"{(wrong or strangers or ['weights that are not numbers'])[0]} may not be so")
    given = amounts
    if room > 0.0:
        today = _breaches(evidence, inputs, _loosened(evidence, inputs, claim))
        given = {name: with_room(amount, today.get(name, 0.0), min(room, LOTS)) for name, amount in amounts.items()}
    case = assemble(evidence, **{**inputs, "mandate": _widened(inputs["mandate"], given)}, claim=claim)
    cones = read_cones(evidence, case, inputs["mandate"], claim, benchmarked=inputs["benchmark"] is not None)
    known = {name for name, _, _ in case.rows} | {f"{WEIGHT}:{name}:{side}" for name in case.names for side in _SIDES}
    known |= {*cones.violation, *([GROSS] if case.gross is not None else [])}
    if stranger := sorted({*amounts} - known - ({TRACKING_ERROR} if case.tracking_error is not None else set())):
        return _refused(f"{stranger[0]} is no limit")
    wide = replace(
        case,
        rows=[(name, row, bound + given.get(name, 0.0)) for name, row, bound in case.rows],
        tracking_error=None if case.tracking_error is None else case.tracking_error + given.get(TRACKING_ERROR, 0.0),
        gross=None if case.gross is None else case.gross + given.get(GROSS, 0.0),
    )
    wider = Cones(
        [(name, row, bound + given.get(name, 0.0)) for name, row, bound in cones.rows],
        {name: over - given.get(name, 0.0) for name, over in cones.violation.items()},
    )
    verdict = judge_case(wide, claim, wider)
    fault = _unproven(evidence, inputs, claim, relaxation)
    return verdict if fault is None else replace(verdict, accepted=False, fault=fault)


_SIDES: Final = ("max", "min")


def with_room(amount: float, today: float, room: float) -> float:
    """What a limit that gave way may be missed by in whole lots: a little more, not more than today."""
    return min(amount + room, max(amount, today))


def _refused(why: str) -> Verdict:
    return Verdict(False, math.inf, -math.inf, math.inf, math.inf, why, fault=why)


def _widened(mandate: Mandate, amounts: Mapping[str, float]) -> Mandate:
    """The mandate with the bounds on weights that gave way moved by what they gave."""
    limits = mandate.limits
    bands = dict(limits.weights)
    for limit_id, amount in amounts.items():
        kind, _, rest = limit_id.partition(":")
        name, _, side = rest.rpartition(":")
        if kind != WEIGHT:
            continue
        band = bands.get(name, plain_band(limits))
        least = min(band.min, 0.0)
        low, high = (band.min, band.max + amount) if side == "max" else (band.min - amount, band.max)
        bands[name] = Band(min=max(low, least), max=min(high, 1.0))
    return mandate.model_copy(update={"limits": limits.model_copy(update={"weights": bands})})


def _unproven(evidence: Evidence, inputs: Mapping[str, Any], claim: Claim, relaxation: Relaxation) -> str | None:
    """Why the amounts are not the least, or None where they are."""
    mandate: Mandate = inputs["mandate"]
    amounts, limits = relaxation.amounts, mandate.limits
    loose = _loosened(evidence, inputs, claim)

    def implied(proof: LevelProof) -> Case:
        # Each limit that is no row implies one at the proof's own weights and multipliers.
        at = replace(loose, x=np.array([proof.weights.get(name, 0.0) for name in loose.names]))
        guess = Claim(proof.weights, proof.duals, proof.directions)
        cones = read_cones(evidence, at, mandate, guess, benchmarked=inputs["benchmark"] is not None)
        return replace(at, rows=[*at.rows, *cones.rows])

    def best(level: int, totals: Mapping[int, float], most: Mapping[str, float] | None) -> float:
        # The highest bound that the material of a level proves.
        proof = relaxation.proofs.get(level)
        tries = () if proof is None else (proof, *proof.others)
        return max((prove_least(implied(one), mandate, one, (level, totals), most) for one in tries), default=-math.inf)

    breaches = _breaches(evidence, inputs, loose)
    worse = any(amount > breaches.get(name, 0.0) + FEASIBILITY for name, amount in amounts.items())
    if worse and not best(0, {}, breaches) > 0.0:
        return "a limit got worse without proof that it had to"
    most = None if worse else breaches
    totals = {
        level: math.fsum(amount for name, amount in amounts.items() if limits.priority(name) == level)
        for level in LEVELS
    }
    needed = False
    for level, total in totals.items():
        if total == 0.0:
            continue
        least = best(level, totals, most)
        if not total - least <= allowed(total):
            return f"priority {level} gave way by {total:.3g}, {total - least:.1e} more than is proven"
        needed |= least > 0.0
    return None if needed else "nothing had to give way"


def _loosened(evidence: Evidence, inputs: Mapping[str, Any], claim: Claim) -> Case:
    """The book without the bounds on weights that may give way."""
    mandate: Mandate = inputs["mandate"]
    limits = mandate.limits
    if limits.priority(WEIGHT) > 0:
        bands = {name: Band(min=min(band.min, 0.0)) for name, band in limits.weights.items()}
        mandate = mandate.model_copy(update={"limits": limits.model_copy(update={"weights": bands, "max_weight": 1.0})})
    return assemble(evidence, **{**inputs, "mandate": mandate}, claim=claim)


def _breaches(evidence: Evidence, inputs: Mapping[str, Any], loose: Case) -> dict[str, float]:
    """By how much each limit that may give way is missed today; limits that are kept are absent."""
    mandate: Mandate = inputs["mandate"]
    today = replace(loose, x=loose.start)
    cones = read_cones(evidence, today, mandate, Claim({}, {}), benchmarked=inputs["benchmark"] is not None)
    missed = dict(cones.violation)
    if loose.gross is not None:
        missed[GROSS] = math.fsum(np.abs(loose.start)) - loose.gross
    if loose.tracking_error is not None:
        variance = active_variance(loose, loose.start - loose.benchmark)
        missed[TRACKING_ERROR] = math.sqrt(max(variance, 0.0)) - loose.tracking_error
    for one in soft_limits(loose, mandate, loose.start, None):
        missed.setdefault(one.limit_id, math.fsum(one.row * loose.start) - one.bound)
    return {name: over for name, over in missed.items() if over > 0.0 and mandate.limits.priority(name) > 0}
