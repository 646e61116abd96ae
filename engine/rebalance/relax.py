"""Limits give way where not all can be kept: the least of the highest priority first, then the objective."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from jaxtyping import Float

from engine.conventions import FEASIBILITY
from engine.mandates.mandate import Band
from engine.rebalance.attempt import Attempt
from engine.rebalance.conflict import Conflict, Court, Member, desk_bound, find_conflict, without
from engine.rebalance.evidence import Claim
from engine.rebalance.level_bound import LevelProof
from engine.rebalance.problem import GROSS, TRACKING_ERROR, Problem
from engine.rebalance.relax_newton import take_steps
from engine.rebalance.relax_program import RelaxPrograms
from engine.rebalance.relax_slack import LEVELS, RelaxedAnswer, Slack, limit_ids
from engine.rebalance.relaxed_certificate import LOTS, Relaxation, with_room
from engine.rebalance.solve import Answer, Judge, Programs, claim_of, sharpened, solve_problem
from engine.rebalance.vertex import solve_on_vertices

ABSOLUTE_MARGIN: Final = 5e-9
RELATIVE_MARGIN: Final = 5e-7
"""A level gives way by so much more than its least, half of what the certificate allows: the answer has an inside."""

DUST: Final = 2e-9
"""A level that would give way by less gives way by nothing."""

WEIGHT: Final = "weight"


@dataclass(frozen=True, slots=True)
class Tools:
    """Compiled programs of both kinds, for the life of one chunk."""

    programs: Programs = field(default_factory=Programs)
    relaxing: RelaxPrograms = field(default_factory=RelaxPrograms)


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of a book whose limits cannot all be kept.

    Args:
        answer: ``certified`` where limits gave way, ``infeasible`` where those of priority 0 alone
            conflict, ``held`` where neither could be proven.
        conflict: Why, where it is infeasible.
        problem: The program with the limits that gave way widened, with room for whole lots, where it is certified.
        relaxation: What gave way, with its proofs.
    """

    answer: Answer
    conflict: Conflict | None
    problem: Problem | None = None
    relaxation: Relaxation = field(default_factory=Relaxation)


def settle(problem: Problem, answer: Answer, tools: Tools, court: Court) -> Settlement:
    """Let limits give way in the order of their priorities, or say why those that must hold conflict.

    For ``p = 1..5`` the total by which the limits of priority ``p`` are missed is made the least, the earlier
    totals held; a limit that is kept today stays kept and a breach gets no worse, unless priority 0 leaves no
    other way. Then the objective is minimised with every limit that gave way moved by what it gave.

    Args:
        problem: One book's program, all limits together proven infeasible.
        answer: Its proof.
        tools: Compiled programs to reuse.
        court: The book's mandate and who judges.

    References:
        MATH 5. Oracle: the levels by scipy's linprog, tests/test_relax.py.
    """
    if not len(problem.names):
        return _stand_still(problem, answer, court)
    conflict = find_conflict(problem, tools.relaxing, court)
    if conflict is not None:
        return Settlement(replace(answer, duals=conflict.duals, conflict=conflict.amount), conflict)
    held = replace(answer, status="held", duals={}, conflict=0.0)
    limits = _choose(problem, tools, court)
    for second in (False, True):
        descended = _descend(limits, tools.relaxing, second=second)
        if descended is None or not descended[0].amounts:
            continue
        relaxation, near = descended
        wide = widen(problem, limits.hard, relaxation.amounts)
        found = _solve_widened(wide, tools.programs, _judge(court, relaxation), near)
        if found.status == "certified":
            roomy = widen(problem, limits.hard, _roomy(problem, relaxation.amounts))
            return Settlement(replace(found, relaxed=relaxation.amounts), None, roomy, relaxation)
        held = replace(held, verdict=found.verdict, solver=found.solver)
    return Settlement(held, None)


def _judge(court: Court, relaxation: Relaxation) -> Judge:
    return lambda claim: court.certify(claim, relaxation)


def _stand_still(problem: Problem, answer: Answer, court: Court) -> Settlement:
    """A book without any name can only stand still: what it misses gives way, or may not."""
    over = {name: value for name, value in missed(problem, problem.start).items() if value > 0.0}
    priority = court.mandate.limits.priority
    if must := [name for name in sorted(over) if priority(name) == 0]:
        proven = {name: court.bracket(frozenset({name}), over[name], Claim({}, {name: 1.0})) for name in must}
        members = (
            Member(name, (), desk_bound(problem, name), over[name], None, 1.0, proven=proven[name]) for name in must
        )
        return Settlement(answer, Conflict(tuple(members), answer.conflict, answer.duals))
    levels = sorted({priority(name) for name in over})
    proofs = {level: LevelProof({name: 1.0 for name in over if priority(name) == level}, {}, {}) for level in levels}
    verdict = court.certify(Claim({}, {}), Relaxation(over, proofs))
    if not verdict.accepted:
        return Settlement(replace(answer, status="held", duals={}, verdict=verdict, conflict=0.0), None)
    return Settlement(replace(answer, status="certified", duals={}, verdict=verdict, conflict=0.0, relaxed=over), None)


def _solve_widened(problem: Problem, programs: Programs, judge: Judge, near: Float[np.ndarray, " n"]) -> Answer:
    """As ``solve_problem``; where next to nothing is left inside the limits, also at a vertex, or on them as they are.

    A book whose turnover is used up or which may only stand still has no inside: the ladder's
    margin would make it infeasible, and its smallest unit is far larger than its trades.
    """
    for raw in solve_on_vertices(problem, near):
        for sharp, weights in sharpened(problem, raw):
            verdict = judge(claim_of(problem, weights, sharp))
            if verdict.accepted:
                return Answer("certified", weights, sharp.duals, verdict, 0.0, raw.solver, 0, sharp.iterations)
    found = solve_problem(problem, programs, judge=judge, refute=lambda claim: 0.0)
    if found.status == "certified":
        return found
    for solver in ("CLARABEL", "PIQP"):
        raw = programs.fit(problem).solve(problem, Attempt(solver))
        if raw.weights is None or not np.isfinite(raw.weights).all():
            continue
        for sharp, weights in sharpened(problem, raw):
            verdict = judge(claim_of(problem, weights, sharp))
            if verdict.accepted:
                return Answer("certified", weights, sharp.duals, verdict, 0.0, solver, found.rung, sharp.iterations)
    return found


@dataclass(frozen=True, slots=True)
class _Limits:
    """What may give way, by how much at most, and at which level."""

    hard: Problem
    lower: Float[np.ndarray, " n"]
    upper: Float[np.ndarray, " n"]
    level: Mapping[str, int]
    most: Mapping[str, float]
    weight_level: int
    low_most: Float[np.ndarray, " n"]
    high_most: Float[np.ndarray, " n"]
    worse: LevelProof | None


def _choose(problem: Problem, tools: Tools, court: Court) -> _Limits:
    """First without a new or a worse breach; where that is proven to leave no answer, with."""
    limits = court.mandate.limits
    weight_level = limits.priority(WEIGHT)
    hard = court.state(without(court.mandate, [WEIGHT])) if weight_level else problem
    names = problem.names.labels
    if weight_level:
        bands = [limits.weights.get(name, Band(min=-limits.max_short, max=limits.max_weight)) for name in names]
        lower, upper = np.array([band.min for band in bands]), np.array([band.max for band in bands])
    else:
        lower, upper = hard.lower, hard.upper
    ids = [name for name in problem.row_ids if limits.priority(name)]
    if problem.tracking_error is not None and limits.priority(TRACKING_ERROR):
        ids.append(TRACKING_ERROR)
    if problem.gross is not None and limits.priority(GROSS):
        ids.append(GROSS)
    ids += [limit.limit_id for limit in problem.cones if limits.priority(limit.limit_id)]
    soft = float(weight_level > 0)
    now = _Limits(
        hard=hard,
        lower=lower,
        upper=upper,
        level={name: limits.priority(name) for name in ids},
        most={name: max(value, 0.0) for name, value in missed(problem, problem.start).items() if name in ids},
        weight_level=weight_level,
        low_most=soft * np.maximum(lower - problem.start, 0.0),
        high_most=soft * np.maximum(problem.start - upper, 0.0),
        worse=None,
    )
    proof = _conflict_today(now, tools.relaxing)
    if proof is None:
        return now
    widest = np.maximum(problem.rows * hard.lower, problem.rows * hard.upper).sum(axis=1) - problem.bounds
    most = dict(zip(problem.row_ids, np.maximum(widest, 0.0).tolist(), strict=True))
    return replace(
        now,
        most={name: most.get(name, 10.0) for name in ids},
        low_most=np.full(len(names), soft),
        high_most=np.full(len(names), soft),
        worse=proof,
    )


def _conflict_today(limits: _Limits, programs: RelaxPrograms) -> LevelProof | None:
    """Multipliers that prove that limits must get worse than today, or None where they need not."""
    together = frozenset(limit_ids(limits.hard))
    slack = _slack(limits, {}, 0)
    lower, upper = limits.lower - limits.low_most, limits.upper + limits.high_most
    if limits.weight_level and (np.maximum(lower, limits.hard.lower) > np.minimum(upper, limits.hard.upper)).any():
        return LevelProof({}, {}, dict(zip(limits.hard.names.labels, limits.hard.start.tolist(), strict=True)))
    found = programs.solve(limits.hard, replace(slack, together=together))
    return None if found is None or found.common <= FEASIBILITY else _proof(limits, found, {})


def _slack(limits: _Limits, held: Mapping[int, float], level: int) -> Slack:
    """What may give way at one level: its own limits for a price, the earlier in all, the later as far as they may."""
    shut = {one for one, total in held.items() if total == 0.0}
    own = level == limits.weight_level and level > 0
    closed = float(limits.weight_level not in shut)
    return Slack(
        most={name: 0.0 if limits.level[name] in shut else most for name, most in limits.most.items()},
        price={name: 1.0 for name, own_level in limits.level.items() if own_level == level},
        held={
            one: (frozenset(name for name, at in limits.level.items() if at == one), total)
            for one, total in held.items()
            if total > 0.0
        },
        lower=limits.lower,
        upper=limits.upper,
        low_most=closed * limits.low_most,
        high_most=closed * limits.high_most,
        weight_price=float(own),
        weight_level=limits.weight_level,
    )


def _descend(
    limits: _Limits, programs: RelaxPrograms, *, second: bool
) -> tuple[Relaxation, Float[np.ndarray, " n"]] | None:
    """The least of every level in turn, with its multipliers; the amounts and the weights of the last answer."""
    held: dict[int, float] = {}
    proofs: dict[int, LevelProof] = {} if limits.worse is None else {0: limits.worse}
    last: RelaxedAnswer | None = None
    stated = {*limits.level.values()} | ({limits.weight_level} - {0})
    for level in range(1, LEVELS + 1):
        if level not in stated:
            continue
        slack = _slack(limits, held, level)
        found = programs.solve(limits.hard, slack, second=second)
        if found is None:
            return None
        near, found = found, take_steps(limits.hard, slack, found, programs)
        least = sum(_given(limits, found, level).values())
        margin = max(ABSOLUTE_MARGIN, RELATIVE_MARGIN * least)
        held[level] = least + margin if least > DUST else 0.0
        if held[level]:
            proofs[level] = _material(limits, found, near, held)
        last = found
    if last is None:
        return None
    amounts: dict[str, float] = {}
    for level, total in held.items():
        given = _given(limits, last, level) if total else {}
        # A solver's last digit beyond the total would cost the later levels many times over: the total is exact.
        whole = sum(given.values())
        given = {name: value * min(total / whole, 1.0) for name, value in given.items()}
        spare = max(total - whole, 0.0) / max(len(given), 1)
        most = _most(limits)
        amounts |= {name: min(value + spare, most[name]) for name, value in given.items()}
    return Relaxation(amounts, proofs), last.weights


def _material(limits: _Limits, found: RelaxedAnswer, near: RelaxedAnswer, held: Mapping[int, float]) -> LevelProof:
    """What each solver says of a level, a bent limit cut in its own direction and in that of the weights."""
    proof = _proof(limits, found, held)
    if not proof.directions and found is near:
        return proof
    others = (proof,) if found is near else (proof, _proof(limits, near, held))
    return replace(proof, others=(*others[1:], *(replace(one, directions={}) for one in others)))


def _most(limits: _Limits) -> dict[str, float]:
    names = limits.hard.names.labels
    lows = {f"{WEIGHT}:{name}:min": float(value) for name, value in zip(names, limits.low_most, strict=True)}
    highs = {f"{WEIGHT}:{name}:max": float(value) for name, value in zip(names, limits.high_most, strict=True)}
    return {**limits.most, **lows, **highs}


def _given(limits: _Limits, found: RelaxedAnswer, level: int) -> dict[str, float]:
    """By how much an answer misses each limit of a level; what is dust is nothing."""
    over = {
        name: value for name, value in missed(limits.hard, found.weights).items() if limits.level.get(name) == level
    }
    if limits.weight_level == level:
        for i, name in enumerate(limits.hard.names.labels):
            over[f"{WEIGHT}:{name}:min"] = float(limits.lower[i] - found.weights[i])
            over[f"{WEIGHT}:{name}:max"] = float(found.weights[i] - limits.upper[i])
    return {name: value for name, value in over.items() if value > FEASIBILITY / 10.0}


def _proof(limits: _Limits, found: RelaxedAnswer, held: Mapping[int, float]) -> LevelProof:
    names = limits.hard.names.labels
    duals = dict(found.duals)
    if limits.weight_level:
        duals |= {f"{WEIGHT}:{name}:min": float(y) for name, y in zip(names, found.low_duals, strict=True)}
        duals |= {f"{WEIGHT}:{name}:max": float(y) for name, y in zip(names, found.high_duals, strict=True)}
    weights = dict(zip(names, found.weights.tolist(), strict=True))
    directions = {name: dict(zip(names, toward.tolist(), strict=True)) for name, toward in found.directions.items()}
    return LevelProof(duals, {level: found.held.get(level, 0.0) for level in held}, weights, directions)


def missed(problem: Problem, weights: Float[np.ndarray, " n_names"]) -> dict[str, float]:
    """By how much weights miss each limit that is a sum; below 0 what is left."""
    found = dict(zip(problem.row_ids, (problem.rows @ weights - problem.bounds).tolist(), strict=True))
    if problem.tracking_error is not None:
        found[TRACKING_ERROR] = float(np.sqrt(problem.active_variance(weights))) - problem.tracking_error
    if problem.gross is not None:
        found[GROSS] = float(np.abs(weights).sum()) - problem.gross
    return found | {limit.limit_id: limit.used(weights) - limit.bound for limit in problem.cones}


def _roomy(problem: Problem, amounts: Mapping[str, float]) -> dict[str, float]:
    """The amounts with room for whole lots, none beyond today's breach."""
    today = missed(problem, problem.start)
    for name, at, low, high in zip(problem.names.labels, problem.start, problem.lower, problem.upper, strict=True):
        today |= {f"{WEIGHT}:{name}:min": float(low - at), f"{WEIGHT}:{name}:max": float(at - high)}
    return {name: with_room(amount, today[name], LOTS) for name, amount in amounts.items()}


def widen(problem: Problem, hard: Problem, amounts: Mapping[str, float]) -> Problem:
    """The problem with every limit that gave way moved by what it gave; weights stay inside what must hold."""
    names = problem.names.labels
    low = np.array([amounts.get(f"{WEIGHT}:{name}:min", 0.0) for name in names])
    high = np.array([amounts.get(f"{WEIGHT}:{name}:max", 0.0) for name in names])
    cap = problem.tracking_error
    return replace(
        problem,
        lower=np.where(low > 0.0, np.maximum(hard.lower, problem.lower - low), problem.lower),
        upper=np.where(high > 0.0, np.minimum(hard.upper, problem.upper + high), problem.upper),
        bounds=problem.bounds + np.array([amounts.get(name, 0.0) for name in problem.row_ids]),
        gross=None if problem.gross is None else problem.gross + amounts.get(GROSS, 0.0),
        tracking_error=None if cap is None else cap + amounts.get(TRACKING_ERROR, 0.0),
        shortfalls=tuple(replace(one, bound=one.bound + amounts.get(one.limit_id, 0.0)) for one in problem.shortfalls),
        concentrations=tuple(
            replace(one, bound=one.bound + amounts.get(one.limit_id, 0.0)) for one in problem.concentrations
        ),
        margins=tuple(replace(one, bound=one.bound + amounts.get(one.limit_id, 0.0)) for one in problem.margins),
    )
