"""A proof that a cure of a conflict is enough and that no less is, from the input tables alone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from engine.conventions import FEASIBILITY
from engine.mandates.mandate import ActiveBand, Band, Mandate
from engine.rebalance.case import Case, assemble
from engine.rebalance.certificate import LARGEST, judge_case, refute_case
from engine.rebalance.cone_bounds import Cones, read_cones
from engine.rebalance.evidence import Claim, Evidence

KINDS: Final = ("participation", "no_buy", "no_sell", "frozen", "excluded", "active_weight", "weight")
"""Kinds of limits on single names; each gives way as one."""

STEPS: Final = (0.0, 5e-8, 1e-6, 1e-5)
"""How far from the claimed cure the proofs are tried, the nearest first; a unit of the limit."""


@dataclass(frozen=True, slots=True)
class Bracket:
    """What is proven of a cure.

    Args:
        least: With no more room than this there is no answer; None where that is not proven.
        enough: With this room there is an answer; None where that is not proven.
    """

    least: float | None
    enough: float | None


def prove_cure(
    evidence: Evidence, *, inputs: Mapping[str, Any], chosen: Iterable[str], cure: float, claim: Claim
) -> Bracket:
    """Bracket the least common room of some limits with which all of priority 0 can be kept.

    ``enough``: the claim's weights keep every limit of priority 0, the chosen ones wider by it, within 1e-9.
    ``least``: with the chosen ones wider by it, the claim's multipliers refute every answer, as in
    ``prove_infeasible``; room only helps, so no less would do either. A kind of limits on single names moves
    each name's bounds, the other kinds as they are. Limits of another priority than 0 are left out.

    Args:
        evidence: From ``gather_evidence``.
        inputs: ``holdings``, ``nav``, ``benchmark``, ``mandate`` as for ``certify``.
        chosen: The limits that give way, by id; of limits on single names by kind.
        cure: The claimed least room, in the limits' own unit.
        claim: A portfolio that is said to be possible with it, and the multipliers that none is with less.

    References:
        MATH 5. Oracle: scipy's linprog on either side of the bracket, tests/test_cures.py.
    """
    if not all(name in evidence.row and abs(weight) < LARGEST for name, weight in claim.weights.items()):
        return Bracket(None, None)
    names = frozenset(chosen)
    enough = next((cure + step for step in STEPS if _kept(evidence, inputs, names, cure + step, claim)), None)
    least = next((cure - step for step in STEPS if _refuted(evidence, inputs, names, cure - step, claim)), None)
    return Bracket(least, enough)


def _kept(evidence: Evidence, inputs: Mapping[str, Any], chosen: frozenset[str], room: float, claim: Claim) -> bool:
    case, cones = _with_room(evidence, inputs, chosen, room, claim)
    return bool(judge_case(case, claim, cones).max_violation <= FEASIBILITY)


def _refuted(evidence: Evidence, inputs: Mapping[str, Any], chosen: frozenset[str], room: float, claim: Claim) -> bool:
    if room < 0.0:
        return False
    case, cones = _with_room(evidence, inputs, chosen, room, claim)
    return bool(refute_case(case, cones, claim) > 0.0)


def _with_room(
    evidence: Evidence, inputs: Mapping[str, Any], chosen: frozenset[str], room: float, claim: Claim
) -> tuple[Case, Cones]:
    """The book with its limits of priority 0 alone, the chosen ones wider by ``room``."""
    mandate: Mandate = inputs["mandate"]
    priority = mandate.limits.priority
    free = {kind for kind in KINDS if priority(kind) > 0}
    moved = chosen & {*KINDS}

    def read(kinds: set[str]) -> Case:
        return assemble(evidence, **{**inputs, "mandate": _less(mandate, kinds)}, claim=claim)

    def wider(limit_id: str) -> float:
        return room if limit_id in chosen else 0.0

    case = read(free | moved)
    if moved:
        own = read({*KINDS} - moved)
        lower, upper = np.maximum(case.lower, own.lower - room), np.minimum(case.upper, own.upper + room)
        case = replace(case, lower=lower, upper=upper)
    gross, cap = case.gross, case.tracking_error
    case = replace(
        case,
        rows=[(name, row, bound + wider(name)) for name, row, bound in case.rows if priority(name) == 0],
        spendable=case.spendable + wider("cash:min"),
        turnover=case.turnover + wider("turnover"),
        gross=None if gross is None or priority("gross") else gross + wider("gross"),
        tracking_error=None if cap is None or priority("tracking_error") else cap + wider("tracking_error"),
    )
    cones = read_cones(evidence, case, mandate, claim, benchmarked=inputs["benchmark"] is not None)
    rows = [(name, row, bound + wider(name)) for name, row, bound in cones.rows if priority(name) == 0]
    over = {name: value - wider(name) for name, value in cones.violation.items() if priority(name) == 0}
    return case, Cones(rows, over)


def _less(mandate: Mandate, kinds: Iterable[str]) -> Mandate:
    """The mandate with whole kinds of limits on single names left out; what may be short stays so."""
    limits = mandate.limits
    gone: dict[str, dict[str, Any]] = {
        "weight": {
            "weights": {name: Band(min=min(band.min, 0.0)) for name, band in limits.weights.items()},
            "max_weight": 1.0,
        },
        "active_weight": {
            "active_weights": dict.fromkeys(limits.active_weights, ActiveBand()),
            "max_active_weight": 1.0,
        },
        "participation": {"participation": None},
        **{kind: {kind: ()} for kind in ("no_buy", "no_sell", "frozen", "excluded")},
    }
    change = {key: value for kind in kinds for key, value in gone[kind].items()}
    return mandate.model_copy(update={"limits": limits.model_copy(update=change)})
