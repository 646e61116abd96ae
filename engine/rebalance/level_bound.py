"""How little a level can give way by: a bound from multipliers, whatever they are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from jaxtyping import Float

from engine.conventions import FEASIBILITY
from engine.mandates.mandate import Band, LimitSet, Mandate
from engine.rebalance.bound import SQUARED_ERROR, UNIT, active_variance, lower_bound
from engine.rebalance.case import Case
from engine.rebalance.certificate import LARGEST

ABSOLUTE: Final = 1e-8
RELATIVE: Final = 1e-6
"""What a level gives way by in all may be above its proven least by so much: absolute, or of itself."""

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
        directions: As in a claim, and of the cap: ``v`` with ``v'Sigma v <= 1``, cut by ``Sigma v`` instead.
        others: Further material for the same; the best of it counts.
    """

    duals: Mapping[str, float]
    held: Mapping[int, float]
    weights: Mapping[str, float]
    directions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    others: tuple["LevelProof", ...] = ()


@dataclass(frozen=True, slots=True)
class Soft:
    """A limit that may give way: ``row'x <= bound`` (``sum |x|`` of the gross), and the most it may be missed by."""

    limit_id: str
    level: int
    row: Float[np.ndarray, " n"]
    bound: float
    most: float


def soft_limits(
    loose: Case,
    mandate: Mandate,
    at: Float[np.ndarray, " n"],
    today: Mapping[str, float] | None,
    toward: Float[np.ndarray, " n"] | None = None,
) -> list[Soft]:
    """Every limit that may give way, the tracking error cut at ``at``: as far as today, or as the box allows."""
    limits = mandate.limits
    found: list[Soft] = []

    def add(limit_id: str, row: Float[np.ndarray, " n"], bound: float, widest: float) -> None:
        most = max(widest - bound, 0.0) if today is None else today.get(limit_id, 0.0)
        found.append(Soft(limit_id, limits.priority(limit_id), row, bound, most))

    rows = list(loose.rows)
    if loose.tracking_error is not None:
        rows.append((TRACKING_ERROR, *_cut(loose, at, toward)))
    if limits.priority(WEIGHT) > 0:
        for i, name in enumerate(loose.names):
            band, unit = limits.weights.get(name, plain_band(limits)), np.eye(1, len(loose.names), i)[0]
            rows += [(f"{WEIGHT}:{name}:max", unit, band.max), (f"{WEIGHT}:{name}:min", -unit, -band.min)]
    for limit_id, row, bound in rows:
        if limits.priority(limit_id) > 0:
            add(limit_id, row, bound, math.fsum(np.maximum(row * loose.lower, row * loose.upper)))
    if loose.gross is not None and limits.priority(GROSS) > 0:
        widest = math.fsum(np.maximum(np.abs(loose.lower), np.abs(loose.upper)))
        add(GROSS, np.zeros(len(loose.names)), loose.gross, widest)
    return found


def _cut(
    case: Case, at: Float[np.ndarray, " n"], toward: Float[np.ndarray, " n"] | None
) -> tuple[Float[np.ndarray, " n"], float]:
    """A row that a cap on the tracking error implies: ``r'x <= te + r'xb``, with room for rounding."""
    cap = case.tracking_error or 0.0
    active = at - case.benchmark if toward is None else toward
    loads = case.b.T @ active
    risk = case.b @ (case.covariance @ loads) + case.own * active
    squares = [float(loads @ (case.covariance @ loads)), *(case.own * active**2)]
    for variance, line in case.shared:
        along = float(line @ active)
        risk = risk + variance * along * line
        squares.append(variance * along**2)
    # The row stands for the loads and sums that were found, whatever rounding left of them; what rounding
    # could have taken from their size is added to it.
    lost = 8.0 * (len(loads) + len(at)) * UNIT * float(np.abs(loads) @ (np.abs(case.covariance) @ np.abs(loads)))
    volatility = math.sqrt(max(math.fsum(squares), 0.0) + lost)
    if toward is not None:
        volatility = max(volatility, 1.0)
    definite = bool(np.linalg.eigvalsh(case.covariance).min() > 0.0)
    if volatility <= 0.0 or not definite:
        return np.zeros(len(at)), cap
    # Cauchy-Schwarz; the row's own rounding, without cancellation, over the widest that a name can be held.
    size = np.abs(case.b) @ (np.abs(case.covariance) @ (np.abs(case.b).T @ np.abs(active)))
    widest = np.max(np.abs([case.lower, case.upper, case.benchmark]), axis=0)
    rough = 64.0 * (len(case.covariance) + len(at)) * UNIT * float((size + np.abs(risk)) @ widest) / volatility
    row = risk / volatility
    return row, cap + float(row @ case.benchmark) + rough


def prove_least(
    loose: Case,
    mandate: Mandate,
    proof: LevelProof,
    levels: tuple[int, Mapping[int, float]],
    today: Mapping[str, float] | None,
) -> float:
    """A proven lower bound of what a level must give way by in all; of level 0, of a conflict with today's breaches.

    A cap on the tracking error that gives way enters by its square where it may, and by its cut; the better counts.

    Args:
        loose: The book, without the bounds that may give way, with the rows that other limits imply.
        mandate: Its mandate.
        proof: Multipliers, weights and directions; whatever they are, the bound holds.
        levels: The level and the totals of all.
        today: What each limit may be missed by; None for what the box allows.

    References:
        MATH 5-6, the formula in ``certify_relaxed``. Oracle: scipy's linprog and a second program,
        tests/test_relax.py, tests/test_relax_cones.py.
    """
    level, totals = levels
    at = np.array([proof.weights.get(name, 0.0) for name in loose.names])
    named = proof.directions.get(TRACKING_ERROR)
    toward = None if named is None else np.array([_finite(named.get(name, 0.0)) for name in loose.names])
    soft = soft_limits(loose, mandate, at, today, toward)
    rows = [(name, row, bound) for name, row, bound in loose.rows if mandate.limits.priority(name) == 0]
    hard = replace(loose, rows=rows)
    cap, alone = _cap(loose, soft, levels, worse=today is None)
    least = -math.inf
    if cap is not None:
        others = [one for one in soft if one.limit_id != TRACKING_ERROR]
        least = _lowest(replace(hard, tracking_error=cap), others, proof, levels)
        if alone:
            least = totals[level] - allowed(totals[level]) if least > 0.0 else -math.inf
    if cap is None or len(others) < len(soft):
        least = max(least, _lowest(replace(hard, tracking_error=None), soft, proof, levels))
    return least


def _finite(value: float) -> float:
    return value if abs(value) < LARGEST else 0.0


def _lowest(hard: Case, soft: list[Soft], proof: LevelProof, levels: tuple[int, Mapping[int, float]]) -> float:
    """The bound of ``prove_least`` with the limits that hold and those that may give way apart."""
    level, totals = levels
    at = np.array([proof.weights.get(name, 0.0) for name in hard.names])
    gross, rows = hard.gross, list(hard.rows)
    lower, upper = hard.lower.copy(), hard.upper.copy()
    place = {name: i for i, name in enumerate(hard.names)}
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
    case = replace(hard, lower=lower, upper=np.maximum(lower, upper), rows=rows, gross=gross)
    return max(
        _bound(case, duals, at, list(bounds.values()), (level, proof.held, totals)) for duals in _guesses(proof.duals)
    )


def allowed(total: float) -> float:
    """By how much what a level gives way by may be above its proven least."""
    return max(ABSOLUTE, RELATIVE * total)


def _cap(
    loose: Case, soft: list[Soft], levels: tuple[int, Mapping[int, float]], *, worse: bool
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
        return loose.tracking_error + totals[level] - allowed(totals[level]), True
    return None, False


def _guesses(duals: Mapping[str, float]) -> list[dict[str, float]]:
    clean = {name: max(value, 0.0) for name, value in duals.items() if abs(value) < LARGEST}
    largest = max(clean.values(), default=0.0)
    return [clean, {name: value if value > 1e-7 * largest else 0.0 for name, value in clean.items()}]


def _bound(
    case: Case,
    duals: Mapping[str, float],
    at: Float[np.ndarray, " n"],
    soft: list[Soft],
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


def plain_band(limits: LimitSet) -> Band:
    """The bounds of a name that has none of its own."""
    return Band(min=-limits.max_short, max=limits.max_weight)
