"""The certificate's view of limits that are no rows: what they are broken by, and a row that each implies.

An expected shortfall, a cap on the largest positions and a robust budget are convex: whatever multipliers and
direction a claim names, each implies a row that no portfolio inside it breaks. The row goes into the bound like
any other; a wrong direction only loosens it.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from engine.conventions import TRADING_DAYS
from engine.errors import ModelError
from engine.mandates.mandate import ConcentrationLimit, Mandate, ShortfallLimit, StressBudget
from engine.rebalance.case import Case, Row
from engine.rebalance.evidence import Claim, Evidence

UNIT: Final = 2.0**-53

LARGEST: Final = 1e12
"""A direction that names more of a name than this is not followed there."""


@dataclass(frozen=True, slots=True)
class Cones:
    """The limits of a case that are no rows.

    Args:
        rows: A row that each implies, every name inside its bounds.
        violation: Of each by the case's weights, by limit id.
    """

    rows: list[Row]
    violation: dict[str, float]


def read_cones(evidence: Evidence, case: Case, mandate: Mandate, claim: Claim, *, benchmarked: bool) -> Cones:
    """Read the shortfalls, concentrations and robust budgets of a mandate anew, and the row that each implies.

    Expected shortfall: for any ``0 <= q_s <= p_s / (1 - level)`` with ``sum q = 1`` it is at least
    ``sum_s q_s loss_s(x)``, so ``ES <= L`` implies ``-(sum_s q_s r_s)'x <= L``; ``q`` is the claim's
    leaf multipliers, brought into that set. Concentration: the ``N`` largest positions ``p = G'x`` without sign
    sum to at least ``q'p`` for any ``|q_j| <= 1``, ``sum |q_j| <= N``, so ``(G q)'x <= C``; ``q`` is the claim's
    multipliers of the positions, scaled into that set, or counts the largest of its own weights.
    Robust: for any ``v``, ``sqrt(a'Da) >= v'Da / sqrt(v'Dv)``,
    so ``-r'x + kap sqrt(a'Da) <= L`` implies ``(-r + kap Dv / sqrt(v'Dv))'x <= L``, with ``v`` the
    claim's own weights, or ``(-r + kap^2 Dv / max(1, kap sqrt(v'Dv)))'x <= L`` with the ``v`` that it names, which a
    dual vector shorter than the cone allows; ``D`` is the specific variance over the scenario's horizon, one specific
    return for the lines of an issuer. Against a benchmark ``a = x - xb`` takes the place of ``x``.
    Each bound is widened by what rounding could have taken from the row.

    Args:
        evidence: With leaves and horizons.
        case: The book, assembled.
        mandate: Its mandate.
        claim: Weights and multipliers.
        benchmarked: Whether the book has a benchmark.

    Raises:
        ModelError: a scenario without leaves or horizon, or an active limit without a benchmark.

    References:
        MATH 6. Oracle: exact rationals, tests/test_shortfall.py, test_concentration.py and test_robust.py.
    """
    tails = [_tail(evidence, case, limit, claim, benchmarked) for limit in mandate.limits.shortfall]
    tails += [_crowd(evidence, case, cap, claim) for cap in mandate.limits.concentration]
    robust = [budget for budget in mandate.limits.stress if budget.robust > 0.0]
    read = [*tails, *(_margin(evidence, case, budget, claim, benchmarked) for budget in robust)]
    return Cones([row for row, _ in read], {row[0]: broken for row, broken in read})


def _crowd(evidence: Evidence, case: Case, cap: ConcentrationLimit, claim: Claim) -> tuple[Row, float]:
    """The row that a cap on the largest positions implies, and by how much it is broken."""
    lines: dict[int, list[int]] = {}
    for i, issuer in enumerate(evidence.issuer[case.at].tolist()):
        lines.setdefault(issuer, []).append(i)
    positions = [math.fsum(case.x[own]) for own in lines.values()]
    largest = sorted((abs(position) for position in positions), reverse=True)[: cap.largest]

    def claimed(own: list[int]) -> float:
        label = "&".join(case.names[i] for i in own)
        long, short = (claim.duals.get(f"{cap.limit_id}:{side}:{label}", 0.0) for side in ("long", "short"))
        return long - short

    pushes = np.array([claimed(own) for own in lines.values()])
    pushes = np.where(np.abs(pushes) < LARGEST, pushes, 0.0)
    size = max(float(np.abs(pushes).max(initial=0.0)), math.fsum(np.abs(pushes)) / cap.largest)
    if size > 0.0:
        # A quotient may round up; a millionth of a millionth is worth less than the widened bound.
        pushes = pushes / (size * (1.0 + 1e-15 * (len(pushes) + 8)))
    else:
        counted = sorted(range(len(positions)), key=lambda j: -abs(positions[j]))[: cap.largest]
        pushes[counted] = np.sign([positions[j] for j in counted])
    row = np.zeros(len(case.names))
    for own, push in zip(lines.values(), pushes.tolist(), strict=True):
        row[own] = push
    return _widened(case, cap.limit_id, row, np.abs(row), cap.max, len(lines)), math.fsum(largest) - cap.max


def _tail(evidence: Evidence, case: Case, limit: ShortfallLimit, claim: Claim, benchmarked: bool) -> tuple[Row, float]:
    """The row that an expected shortfall implies, and by how much it is broken."""
    if limit.scenario not in evidence.leaves:
        raise ModelError(f"certificate: {limit.limit_id} needs leaves, and {limit.scenario} has none")
    against = _against(case, limit, benchmarked)
    leaves = evidence.leaves[limit.scenario]
    losses = -np.array([totals[case.at] for _, totals in leaves.values()]).reshape(len(leaves), len(case.names))
    written = [probability for probability, _ in leaves.values()]
    most = np.array(written) / math.fsum(written) / (1.0 - limit.level)
    met = [math.fsum(row * case.x) - math.fsum(row * against) for row in losses]
    claimed = np.array([claim.duals.get(f"{limit.limit_id}:leaf:{leaf}", 0.0) for leaf in leaves])
    row = _inside(claimed, most) @ losses
    size, bound = np.abs(losses).max(axis=0), limit.max_loss + math.fsum(row * against)
    implied = _widened(case, limit.limit_id, row, size, bound, len(leaves))
    return implied, _worst_mean(met, most.tolist()) - limit.max_loss


def _margin(evidence: Evidence, case: Case, budget: StressBudget, claim: Claim, benchmarked: bool) -> tuple[Row, float]:
    """The row that a robust budget implies, and by how much it is broken."""
    if budget.scenario not in evidence.horizon:
        raise ModelError(f"certificate: {budget.limit_id} is robust, and {budget.scenario} has no horizon")
    against = _against(case, budget, benchmarked)
    loss = -evidence.shocks[budget.scenario][case.at]
    years = evidence.horizon[budget.scenario] / TRADING_DAYS
    away = case.x - against
    pull, deviation = _pull(case, years, away)
    variance = years * case.own
    for shared, line in case.shared:
        variance = variance + years * shared * line
    broken = math.fsum(loss * case.x) - math.fsum(loss * against) + budget.robust * deviation - budget.max_loss
    named = claim.directions.get(budget.limit_id)
    if named is not None:
        toward = np.array([named.get(name, 0.0) for name in case.names])
        pull, size = _pull(case, years, np.where(np.abs(toward) < LARGEST, toward, 0.0))
        row = loss + budget.robust**2 * pull / max(budget.robust * size, 1.0)
    else:
        row = loss + budget.robust * pull / deviation if deviation > 0.0 else loss
    size, bound = np.abs(loss) + budget.robust * np.sqrt(variance), budget.max_loss + math.fsum(row * against)
    return _widened(case, budget.limit_id, row, size, bound, len(case.shared)), broken


def _pull(case: Case, years: float, toward: Float[np.ndarray, " n"]) -> tuple[Float[np.ndarray, " n"], float]:
    """``D v`` and ``sqrt(v'Dv)`` over the years, an issuer's own sum of ``v`` the same in both.

    Lines that nearly cancel leave a sum that is mostly rounding; the row stands for whatever sum was found.
    """
    pull, squares = years * case.own * toward, list(years * case.own * toward**2)
    for variance, line in case.shared:
        along = float(line @ toward)
        pull = pull + years * variance * along * line
        squares.append(years * variance * along**2)
    return pull, math.sqrt(math.fsum(squares))


def _against(case: Case, limit: StressBudget | ShortfallLimit, benchmarked: bool) -> Float[np.ndarray, " n"]:
    """The benchmark of an active limit, nothing otherwise."""
    if limit.kind == "absolute":
        return np.zeros(len(case.names))
    if not benchmarked:
        raise ModelError(f"certificate: {limit.limit_id} is active, and the book has no benchmark")
    return case.benchmark


def _worst_mean(losses: list[float], most: list[float]) -> float:
    """``max q'losses`` over ``0 <= q <= most``, ``sum q = 1``: the worst leaves first, each as far as it goes."""
    left, parts = 1.0, []
    for loss, share in sorted(zip(losses, most, strict=True), reverse=True):
        counted = min(share, left)
        parts.append(counted * loss)
        left -= counted
    return math.fsum(parts)


def _inside(claimed: Float[np.ndarray, " m"], most: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Weights of the leaves near the claimed ones: at least 0, at most ``most``, summing to 1.

    What is cut off above ``most`` goes to the room that is left, each leaf its share of it.
    """
    usable = np.where(np.isfinite(claimed) & (claimed > 0.0), claimed, 0.0)
    total = usable.sum()
    weights = np.minimum(usable / total if np.isfinite(total) and total > 0.0 else most, most)
    room = most - weights
    short = 1.0 - weights.sum()
    if short < 0.0:
        return weights / weights.sum()
    return weights + room * (short / room.sum()) if room.sum() > 0.0 else weights


def _widened(
    case: Case, limit: str, row: Float[np.ndarray, " n"], size: Float[np.ndarray, " n"], bound: float, depth: int
) -> Row:
    """The row with its bound widened by what rounding could have taken from it inside the bounds of the names."""
    widest = np.max(np.abs([case.lower, case.upper, case.benchmark]), axis=0)
    allowance = 8.0 * (depth + len(case.names) + 8) * UNIT * (math.fsum(size * widest) + abs(bound))
    return limit, row, bound + allowance
