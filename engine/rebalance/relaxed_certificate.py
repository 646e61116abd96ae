"""A proof that limits gave way by no more than they had to, level by level, from the input tables alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from engine.conventions import FEASIBILITY
from engine.mandates.mandate import Band, LimitSet, Mandate
from engine.rebalance.bound import SQUARED_ERROR, UNIT, active_variance, lower_bound
from engine.rebalance.certificate import LARGEST, Verdict, judge_case
from engine.rebalance.cone_bounds import Cones, read_cones
from engine.rebalance.evidence import Case, Claim, Evidence, assemble

ABSOLUTE: Final = 1e-8
RELATIVE: Final = 1e-6
"""What a level gives way by in all may be above its proven least by so much: absolute, or of itself."""

LOTS: Final = 1e-5
"""The most that whole lots may miss a limit by beyond what it gave way by, in its own unit."""

LEVELS: Final = (1, 2, 3, 4, 5)

WEIGHT: Final = "weight"
TRACKING_ERROR: Final = "tracking_error"
GROSS: Final = "gross"


@dataclass(frozen=True, slots=True)
class LevelProof:
    """What is said to prove that a level cannot give way by less.

    Args:
        duals: Multiplier by limit id; of bounds on weights as ``weight:<name>:max|min``.
        held: Multiplier of the total of each earlier level.
        weights: By name, where a cap on the tracking error is cut.
    """

    duals: Mapping[str, float]
    held: Mapping[int, float]
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Relaxation:
    """By how much limits gave way, and why no less would do.

    Args:
        amounts: By limit id, in the limit's own unit.
        proofs: By level; 0 proves that without a new or a worse breach there is no answer.
    """

    amounts: Mapping[str, float] = field(default_factory=dict)
    proofs: Mapping[int, LevelProof] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Soft:
    """A limit that may give way: ``row'x <= bound`` (``sum |x|`` of the gross), and the most it may be missed by."""

    limit_id: str
    level: int
    row: Float[np.ndarray, " n"]
    bound: float
    most: float


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
    held, it is cut by ``r'(x - xb) <= te``, ``r = Sigma a / sqrt(a'Sigma a)``, which it implies. An expected
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
        As ``certify``; where the amounts are not proven, not accepted, and ``worst_limit`` says which.

    References:
        MATH 5-6. Oracle: the levels by scipy's linprog, tests/test_relax.py.
    """
    limits = inputs["mandate"].limits
    amounts = relaxation.amounts
    wrong = [name for name, amount in amounts.items() if not 0.0 < amount < LARGEST or limits.priority(name) == 0]
    strangers = [name for name in claim.weights if name not in evidence.exposures]
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
    return verdict if fault is None else replace(verdict, accepted=False, worst_limit=fault)


_SIDES: Final = ("max", "min")


def with_room(amount: float, today: float, room: float) -> float:
    """What a limit that gave way may be missed by in whole lots: a little more, not more than today."""
    return min(amount + room, max(amount, today))


def _refused(why: str) -> Verdict:
    return Verdict(False, math.inf, -math.inf, math.inf, math.inf, why)


def _widened(mandate: Mandate, amounts: Mapping[str, float]) -> Mandate:
    """The mandate with the bounds on weights that gave way moved by what they gave."""
    limits = mandate.limits
    bands = dict(limits.weights)
    for limit_id, amount in amounts.items():
        kind, _, rest = limit_id.partition(":")
        name, _, side = rest.rpartition(":")
        if kind != WEIGHT:
            continue
        band = bands.get(name, _plain_band(limits))
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
        guess = Claim(proof.weights, proof.duals)
        cones = read_cones(evidence, at, mandate, guess, benchmarked=inputs["benchmark"] is not None)
        return replace(at, rows=[*at.rows, *cones.rows])

    breaches = _breaches(evidence, inputs, loose)
    worse = any(amount > breaches.get(name, 0.0) + FEASIBILITY for name, amount in amounts.items())
    if worse:
        proof = relaxation.proofs.get(0)
        if proof is None or not _least(implied(proof), mandate, proof, (0, {}), breaches) > 0.0:
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
        proof = relaxation.proofs.get(level)
        least = -math.inf if proof is None else _least(implied(proof), mandate, proof, (level, totals), most)
        if not total - least <= _allowed(total):
            return f"priority {level} gave way by {total:.3g}, proven are {least:.3g}"
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


def _plain_band(limits: LimitSet) -> Band:
    """The bounds of a name that has none of its own."""
    return Band(min=-limits.max_short, max=limits.max_weight)


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
    for one in _soft(loose, mandate, loose.start, None):
        missed.setdefault(one.limit_id, math.fsum(one.row * loose.start) - one.bound)
    return {name: over for name, over in missed.items() if over > 0.0 and mandate.limits.priority(name) > 0}


def _soft(loose: Case, mandate: Mandate, at: Float[np.ndarray, " n"], today: Mapping[str, float] | None) -> list[_Soft]:
    """Every limit that may give way, the tracking error cut at ``at``: as far as today, or as the box allows."""
    limits = mandate.limits
    found: list[_Soft] = []

    def add(limit_id: str, row: Float[np.ndarray, " n"], bound: float, widest: float) -> None:
        most = max(widest - bound, 0.0) if today is None else today.get(limit_id, 0.0)
        found.append(_Soft(limit_id, limits.priority(limit_id), row, bound, most))

    rows = list(loose.rows)
    if loose.tracking_error is not None:
        rows.append((TRACKING_ERROR, *_cut(loose, at)))
    if limits.priority(WEIGHT) > 0:
        for i, name in enumerate(loose.names):
            band, unit = limits.weights.get(name, _plain_band(limits)), np.eye(1, len(loose.names), i)[0]
            rows += [(f"{WEIGHT}:{name}:max", unit, band.max), (f"{WEIGHT}:{name}:min", -unit, -band.min)]
    for limit_id, row, bound in rows:
        if limits.priority(limit_id) > 0:
            add(limit_id, row, bound, math.fsum(np.maximum(row * loose.lower, row * loose.upper)))
    if loose.gross is not None and limits.priority(GROSS) > 0:
        widest = math.fsum(np.maximum(np.abs(loose.lower), np.abs(loose.upper)))
        add(GROSS, np.zeros(len(loose.names)), loose.gross, widest)
    return found


def _cut(case: Case, at: Float[np.ndarray, " n"]) -> tuple[Float[np.ndarray, " n"], float]:
    """A row that a cap on the tracking error implies: ``r'x <= te + r'xb``, with room for rounding."""
    cap = case.tracking_error or 0.0
    active = at - case.benchmark
    risk = case.b @ (case.covariance @ (case.b.T @ active)) + case.own * active
    for variance, line in case.shared:
        risk = risk + variance * float(line @ active) * line
    volatility = math.sqrt(max(float(active @ risk), 0.0))
    definite = bool(np.linalg.eigvalsh(case.covariance).min() > 0.0)
    if volatility <= 0.0 or not definite:
        return np.zeros(len(at)), cap
    # Cauchy-Schwarz; the row's own rounding, without cancellation, over the widest that a name can be held.
    size = np.abs(case.b) @ (np.abs(case.covariance) @ (np.abs(case.b).T @ np.abs(active)))
    widest = np.max(np.abs([case.lower, case.upper, case.benchmark]), axis=0)
    rough = 64.0 * (len(case.covariance) + len(at)) * UNIT * float((size + np.abs(risk)) @ widest) / volatility
    row = risk / volatility
    return row, cap + float(row @ case.benchmark) + rough


def _least(
    loose: Case,
    mandate: Mandate,
    proof: LevelProof,
    levels: tuple[int, Mapping[int, float]],
    today: Mapping[str, float] | None,
) -> float:
    """A proven lower bound of what a level must give way by in all; of level 0, of a conflict with today's breaches."""
    level, totals = levels
    at = np.array([proof.weights.get(name, 0.0) for name in loose.names])
    soft = _soft(loose, mandate, at, today)
    gross = loose.gross
    lower, upper = loose.lower.copy(), loose.upper.copy()
    rows = [(name, row, bound) for name, row, bound in loose.rows if mandate.limits.priority(name) == 0]
    cap, alone = _cap(loose, soft, levels, worse=today is None)
    if cap is not None:
        soft = [one for one in soft if one.limit_id != TRACKING_ERROR]
    place = {name: i for i, name in enumerate(loose.names)}
    bounds = {one.limit_id: one for one in soft}
    for one in soft:
        later = level == 0 or one.level > level
        holds = one.most == 0.0 or (not later and one.level != level and totals.get(one.level, 0.0) == 0.0)
        room = one.most if later else 0.0
        if one.limit_id.startswith(f"{WEIGHT}:") and (holds or later):
            # A bound that holds, or that holds once moved, belongs to the box and needs no multiplier.
            i = place[one.limit_id.split(":", 1)[1].rpartition(":")[0]]
            if one.limit_id.endswith(":max"):
                upper[i] = min(upper[i], one.bound + room)
            else:
                lower[i] = max(lower[i], -one.bound - room)
            bounds.pop(one.limit_id)
            continue
        if one.limit_id == GROSS:
            gross = one.bound + room
        else:
            rows.append((one.limit_id, one.row, one.bound + room))
        if holds or later:
            bounds.pop(one.limit_id)
    if (lower > upper + FEASIBILITY).any():
        # Of level 0 a conflict; of another it says nothing, for the answer itself is inside.
        return math.inf if level == 0 else -math.inf
    case = replace(loose, lower=lower, upper=np.maximum(lower, upper), rows=rows, gross=gross, tracking_error=cap)
    least = max(
        _bound(case, duals, at, list(bounds.values()), (level, proof.held, totals)) for duals in _guesses(proof.duals)
    )
    if not alone:
        return least
    return totals[level] - _allowed(totals[level]) if least > 0.0 else -math.inf


def _allowed(total: float) -> float:
    return max(ABSOLUTE, RELATIVE * total)


def _cap(
    loose: Case, soft: list[_Soft], levels: tuple[int, Mapping[int, float]], *, worse: bool
) -> tuple[float | None, bool]:
    """The cap on the tracking error where its square is in the bound, and whether it is what the level is about.

    A cap that holds, or that gives way later and then by no more than it may, is exact as it is. One
    that gives way alone in its level gives way by the least if a cap a little below the claim conflicts.
    Where it shares its level with others, its level is held, or it may get worse later, its cut stands for
    it: what the cut can be missed by is no bound on what the cap can be.
    """
    level, totals = levels
    if loose.tracking_error is None:
        return None, False
    own = next((one for one in soft if one.limit_id == TRACKING_ERROR), None)
    if own is None:
        return loose.tracking_error, False
    if level == 0 or own.level > level:
        if worse:
            return None, False
        return loose.tracking_error + own.most, False
    others = any(one.level == level and one.most > 0.0 for one in soft if one is not own)
    if own.level == level and not others:
        return loose.tracking_error + totals[level] - _allowed(totals[level]), True
    return None, False


def _guesses(duals: Mapping[str, float]) -> list[dict[str, float]]:
    clean = {name: max(value, 0.0) for name, value in duals.items() if abs(value) < LARGEST}
    largest = max(clean.values(), default=0.0)
    return [clean, {name: value if value > 1e-7 * largest else 0.0 for name, value in clean.items()}]


def _bound(
    case: Case,
    duals: Mapping[str, float],
    at: Float[np.ndarray, " n"],
    soft: list[_Soft],
    levels: tuple[int, Mapping[int, float], Mapping[int, float]],
) -> float:
    level, held, totals = levels
    active = at - case.benchmark
    lines = [float(line @ active) for _, line in case.shared]
    if case.tracking_error is not None:
        used = max(math.sqrt(max(active_variance(case, active), 0.0)), case.tracking_error, UNIT)
        duals = {**duals, SQUARED_ERROR: duals.get(TRACKING_ERROR, 0.0) / used}
    terms = [lower_bound(case, duals, case.b.T @ active, lines, risk=False)]
    for one in soft:
        worth = 1.0 if one.level == level else min(max(held.get(one.level, 0.0), 0.0), LARGEST)
        terms.append(min(0.0, (worth - duals.get(one.limit_id, 0.0)) * one.most))
    earlier = sorted({one.level for one in soft} - {level})
    terms += [-min(max(held.get(one, 0.0), 0.0), LARGEST) * totals[one] for one in earlier]
    rough = 8.0 * UNIT * math.fsum(abs(term) for term in terms)
    return math.fsum(terms) - rough
