"""Why the limits that must hold cannot all be kept: a minimal set of them, and what would cure it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from engine.conventions import FEASIBILITY
from engine.mandates.mandate import ActiveBand, Band, Mandate
from engine.rebalance.certificate import Verdict
from engine.rebalance.cure_certificate import Bracket
from engine.rebalance.evidence import Claim
from engine.rebalance.problem import ACTIVE, BUDGET, GROSS, TRACKING_ERROR, TURNOVER, Problem, limit_of
from engine.rebalance.relax_program import RelaxPrograms
from engine.rebalance.relax_slack import RelaxedAnswer, Slack, limit_ids
from engine.rebalance.relaxed_certificate import Relaxation

NAME_KINDS: Final = ("participation", "no_buy", "no_sell", "frozen", "excluded", "active_weight", "weight")
"""Kinds of limits on single names; each is one limit of a conflict, which tells the names that matter."""

FREE: Final = 100.0
"""A limit that gives way by so much does not bind: no weight, exposure or turnover is as large."""

UNPROVEN: Final = Bracket(None, None)
"""A cure of which the certificate has said nothing."""

MATTERS: Final = 1e-4
"""A name whose bound has less than this share of the largest multiplier is not told."""


@dataclass(frozen=True, slots=True)
class Court:
    """One book's mandate, and who states and who judges under it or a narrower one.

    Args:
        mandate: The book's.
        state: The program under a mandate that leaves limits out.
        certify: The certificate of an answer for which limits gave way.
        refute: The infeasibility proof under a mandate that leaves limits out.
        bracket: What is proven of a cure: the limits that give way, by how much, and the claim.
    """

    mandate: Mandate
    state: Callable[[Mandate], Problem]
    certify: Callable[[Claim, Relaxation], Verdict]
    refute: Callable[[Claim, Mandate], float]
    bracket: Callable[[frozenset[str], float, Claim], Bracket]


@dataclass(frozen=True, slots=True)
class Member:
    """One limit of a minimal conflicting set.

    Args:
        limit_id: As in the table ``limits``; of limits on single names the kind alone.
        names: The names whose bounds matter, the most binding first; empty for other limits.
        bound: In the limit's own unit; None for limits on single names.
        cure: The least by which this limit alone must give way so that everything of priority 0
            can be kept; None where no change of it would do.
        proven: What is proven of the cure.
        common: The least by which every limit of the set must give way together.
        common_proven: What is proven of that.
        multiplier: In the proof, which sums to one over the set's sums; 0 for limits on single names.
    """

    limit_id: str
    names: tuple[str, ...]
    bound: float | None
    cure: float | None
    common: float | None
    multiplier: float
    proven: Bracket = UNPROVEN
    common_proven: Bracket = UNPROVEN


@dataclass(frozen=True, slots=True)
class Conflict:
    """A minimal set of limits of priority 0 that cannot all be kept, and the proof.

    Args:
        members: The set: without any one of them the others can be kept.
        amount: Proven smallest common violation of the set.
        duals: Multipliers of the proof by limit id.
    """

    members: tuple[Member, ...]
    amount: float
    duals: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Proof:
    amount: float
    duals: dict[str, float]
    names: tuple[str, ...]


def find_conflict(problem: Problem, programs: RelaxPrograms, court: Court) -> Conflict | None:
    """A minimal conflicting set of the limits that must hold, by deletion; None where none is proven.

    One limit after the other is left out for good if the others still conflict. Each step is
    decided by the certificate's proof and not by the word of a solver.

    Args:
        problem: One book's program.
        programs: Compiled programs to reuse.
        court: The book's mandate and who judges.

    References:
        Chinneck (2008), Feasibility and Infeasibility in Optimization, ch. 6. Oracle: scipy's
        linprog on every subset, tests/test_relax.py and tests/test_cures.py.
    """
    priority = court.mandate.limits.priority
    sums = [name for name in (BUDGET, *sorted(problem.row_ids), TURNOVER) if priority(name) == 0]
    if problem.tracking_error is not None and priority(TRACKING_ERROR) == 0:
        sums.append(TRACKING_ERROR)
    if problem.gross is not None and priority(GROSS) == 0:
        sums.append(GROSS)
    sums += [cone.limit_id for cone in problem.cones if priority(cone.limit_id) == 0]
    stated = [kind for kind in NAME_KINDS if priority(kind) == 0]
    everything = (*stated, *sums)
    kept, proof = everything, _prove(everything, problem, programs, court)
    if proof is None:
        return None
    for limit in everything:
        rest = tuple(name for name in kept if name != limit)
        if (tighter := _prove(rest, problem, programs, court)) is not None:
            kept, proof = rest, tighter
    common, common_proven = _cure(kept, everything, problem, programs, court)
    cures = {limit: _cure((limit,), everything, problem, programs, court) for limit in sorted(kept)}
    members = tuple(
        Member(
            limit_id=limit,
            names=proof.names if limit in NAME_KINDS else (),
            bound=None if limit in NAME_KINDS else desk_bound(problem, limit),
            cure=cure,
            common=common,
            multiplier=proof.duals.get(limit, 0.0),
            proven=proven,
            common_proven=common_proven,
        )
        for limit, (cure, proven) in cures.items()
    )
    return Conflict(members, proof.amount, proof.duals)


def desk_bound(problem: Problem, limit_id: str) -> float:
    """The bound of a sum as its mandate states it: at most, or at least for what ends in ``min``."""
    sums = {
        BUDGET: 1.0 - problem.spendable,
        TURNOVER: problem.turnover,
        TRACKING_ERROR: problem.tracking_error or 0.0,
        GROSS: problem.gross or 0.0,
        **{cone.limit_id: cone.bound for cone in problem.cones},
    }
    if limit_id in sums:
        return sums[limit_id]
    at = problem.row_ids.index(limit_id)
    bound = float(problem.bounds[at])
    if limit_id == "cash:max":
        return 1.0 + bound
    if limit_id.endswith(":active") or limit_id.startswith(ACTIVE):
        bound -= float(problem.rows[at] @ problem.benchmark)
    return -bound if limit_id.endswith(":min") else bound


def without(mandate: Mandate, kinds: Iterable[str]) -> Mandate:
    """The mandate without some kinds of limits on single names; it names the same candidates."""
    limits = mandate.limits
    change: dict[str, Any] = {}
    for kind in kinds:
        if kind == "weight":
            # What may be short stays so: without the limit no name may have less room than with it.
            bands = {name: Band(min=min(band.min, 0.0)) for name, band in limits.weights.items()}
            change |= {"weights": bands, "max_weight": 1.0}
        elif kind == "active_weight":
            change |= {"active_weights": dict.fromkeys(limits.active_weights, ActiveBand()), "max_active_weight": 1.0}
        elif kind == "participation":
            change |= {"participation": None}
        else:
            change |= {kind: ()}
    return mandate.model_copy(update={"limits": limits.model_copy(update=change)})


def _prove(kept: tuple[str, ...], problem: Problem, programs: RelaxPrograms, court: Court) -> _Proof | None:
    """A proof that the kept limits conflict by themselves, or None where the certificate finds none."""
    narrowed = without(court.mandate, (kind for kind in NAME_KINDS if kind not in kept))
    case = court.state(narrowed)
    names = case.names.labels
    apart = case.lower - case.upper
    if len(names) and float(apart.max()) > FEASIBILITY:
        amount = court.refute(Claim(dict(zip(names, case.start.tolist(), strict=True)), {}), narrowed)
        worst = np.argsort(-apart, kind="stable")
        return _Proof(amount, {}, tuple(names[i] for i in worst if apart[i] > FEASIBILITY)) if amount > 0.0 else None
    sums = frozenset(kept) - set(NAME_KINDS)
    if not sums:
        return None
    others = {name: FREE for name in limit_ids(problem) if name not in sums}
    # The bounds on names are given as what could give way, by nothing, so that they have multipliers.
    loose = replace(case, lower=case.lower - 1.0, upper=case.upper + 1.0)
    nothing = np.zeros(len(names))
    slack = Slack(most=others, together=sums, lower=case.lower, upper=case.upper, low_most=nothing, high_most=nothing)
    found = programs.solve(loose, slack)
    if found is None:
        return None
    duals = {name: value for name, value in found.duals.items() if limit_of(name) in sums}
    inside = np.clip(found.weights, case.lower, case.upper)
    amount = court.refute(Claim(dict(zip(names, inside.tolist(), strict=True)), duals), narrowed)
    return _Proof(amount, duals, _binding(case, found)) if amount > FEASIBILITY else None


def _binding(case: Problem, found: RelaxedAnswer) -> tuple[str, ...]:
    """The names whose bounds hold the sums back, the most binding first; no weight below 0 is no limit of a mandate."""
    plain = (case.lower == 0.0) & (np.array(case.lower_kinds, dtype=object) == "weight")
    pressure = np.maximum(found.high_duals, np.where(plain, 0.0, found.low_duals))
    order = np.argsort(-pressure, kind="stable")
    return tuple(case.names.labels[i] for i in order if pressure[i] > max(MATTERS * pressure.max(), FEASIBILITY))


def _cure(
    chosen: tuple[str, ...], everything: tuple[str, ...], problem: Problem, programs: RelaxPrograms, court: Court
) -> tuple[float | None, Bracket]:
    """The least common amount by which the chosen limits must give way to keep all of priority 0, and its proof."""
    kinds = [limit for limit in chosen if limit in NAME_KINDS]
    stated = [kind for kind in NAME_KINDS if kind in everything]
    absent = [kind for kind in NAME_KINDS if kind not in everything]
    hard = court.state(without(court.mandate, [*kinds, *absent]))
    if not len(hard.names) or float((hard.lower - hard.upper).max()) > FEASIBILITY:
        return None, UNPROVEN
    soft = court.state(without(court.mandate, [kind for kind in (*stated, *absent) if kind not in kinds]))
    others = {name: FREE for name in limit_ids(problem) if name not in everything}
    slack = Slack(
        most=others,
        together=frozenset(chosen) - set(kinds),
        lower=soft.lower if kinds else None,
        upper=soft.upper if kinds else None,
        weights_together=bool(kinds),
    )
    found = programs.solve(hard, slack)
    if found is None or found.common >= FREE:
        return None, UNPROVEN
    weights = dict(zip(hard.names.labels, found.weights.tolist(), strict=True))
    return found.common, court.bracket(frozenset(chosen), found.common, Claim(weights, found.duals))
