"""Climbs the ladder of solvers until an answer is certified, or proves that there is none."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from jaxtyping import Float

from engine.conventions import FEASIBILITY
from engine.rebalance.attempt import Attempt, Program, RawAnswer
from engine.rebalance.certificate import Verdict
from engine.rebalance.direct import is_plain
from engine.rebalance.elastic import solve_elastic
from engine.rebalance.evidence import Claim
from engine.rebalance.polish import polish
from engine.rebalance.problem import Problem
from engine.rebalance.reduction import solve_reduced
from engine.rebalance.shape import Shape, shape_of
from engine.rebalance.tangents import has_pieces, solve_by_pieces, solve_on_tangents

DUST: Final = (1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 0.0)
"""Trades below this fraction of NAV are left out, the largest size first that still certifies."""

SMALLEST_UNIT: Final = 1e-6
SMALLEST_OBJECTIVE: Final = 1e-10

TIGHT: Final = 1e-12
"""Tolerance of the last digits on tangents."""

SHOWN: Final = 3
"""Names whose limits leave no weight, that are told by name."""

Judge = Callable[[Claim], Verdict]
Refute = Callable[[Claim], float]


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of the ladder.

    Args:
        solver: Who solves.
        rescaled: Scale the objective to 1 and the largest trade to 1 by the answer before.
        margin: Keep this far inside every limit.
    """

    solver: str
    rescaled: bool
    margin: float


MARGIN: Final = 1e-10
"""Keeps an answer inside its limits although the solver is only nearly exact."""

SCS_MARGIN: Final = 1e-9
"""The same for a first-order solver, which is exact to no more than that."""

SHORTCUTS: Final = (
    Rung("INTERIOR", rescaled=False, margin=MARGIN),
    Rung("PIQP", rescaled=True, margin=MARGIN),
)
"""First steps of a problem whose limits are linear, or linear by pieces: over the names that trade, as matrices."""

LADDER: Final = (
    Rung("CLARABEL", rescaled=False, margin=MARGIN),
    Rung("CLARABEL", rescaled=True, margin=MARGIN),
    Rung("CLARABEL", rescaled=True, margin=0.0),
    Rung("PIQP", rescaled=True, margin=0.0),
    Rung("SCS", rescaled=True, margin=SCS_MARGIN),
)
"""The steps after them, for every problem: the whole of it, through the modelling layer."""


@dataclass(frozen=True, slots=True)
class Published:
    """What of a certified answer is published, in whole lots.

    Args:
        certified: False where no whole lots keep every limit: then nothing is traded.
        weights: Weights after, on the problem's names; today's unless certified.
        quantities: Shares after; today's unless certified.
        objective: Of the published weights; None unless certified.
        rounding_cost: Objective less that of the continuous answer; None unless certified.
        relative_gap: Objective less the proven bound, over its scale; None unless certified.
        max_violation: Largest violation of a limit by the whole lots, fraction of NAV.
        worst_limit: The limit most violated, or what is wrong with a quantity.
        unrepaired: Largest violation of plain rounding, before any repair.
        broken: The limit that plain rounding misses most, or most nearly.
        steps: Changes since plain rounding.
        by: Who found the lots.
    """

    certified: bool
    weights: Float[np.ndarray, " n_names"]
    quantities: Float[np.ndarray, " n_names"]
    objective: float | None
    rounding_cost: float | None
    relative_gap: float | None
    max_violation: float
    worst_limit: str
    unrepaired: float
    broken: str
    steps: int
    by: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A certified answer, a proof that there is none, or neither.

    Args:
        status: ``certified``, ``infeasible`` or ``held``.
        weights: Weights after, on the problem's names; today's unless certified.
        duals: Multiplier by limit id, of the certified answer or of the proof.
        verdict: Of the best answer tried; None when no solver gave one.
        conflict: Proven smallest common violation when infeasible.
        solver: Who gave the answer.
        rung: Step, from 0, counted over the shortcuts and the ladder.
        iterations: Of that solver.
        relaxed: By how much each limit that gave way is wider, by limit id.
        published: Whole lots near a certified answer; None where shares are fractional or nothing is certified.
    """

    status: str
    weights: Float[np.ndarray, " n_names"]
    duals: dict[str, float]
    verdict: Verdict | None
    conflict: float
    solver: str
    rung: int
    iterations: int
    relaxed: Mapping[str, float] = field(default_factory=dict)
    published: Published | None = None

    @property
    def final(self) -> Float[np.ndarray, " n_names"]:
        """The weights that are published; shadow prices and reasons belong to ``weights``."""
        return self.weights if self.published is None else self.published.weights

    @property
    def outcome(self) -> str:
        """The status of the book: held where the answer is certified and no whole lots near it are."""
        return "held" if self.published is not None and not self.published.certified else self.status


@dataclass(slots=True)
class Programs:
    """Compiled programs by shape, for the life of one chunk."""

    by_shape: dict[Shape, Program] = field(default_factory=dict)

    def fit(self, problem: Problem) -> Program:
        """The program of the problem's shape, compiled on first need."""
        shape = shape_of(problem)
        if shape not in self.by_shape:
            # cvxpy takes a second and more to load, and an ordinary book never asks for it.
            from engine.rebalance.rebalance_program import RebalanceProgram  # noqa: PLC0415

            self.by_shape[shape] = RebalanceProgram(shape)
        return self.by_shape[shape]


def solve_problem(problem: Problem, programs: Programs, *, judge: Judge, refute: Refute) -> Answer:
    """Solve, repair, certify; climb until certified, else prove infeasible, else hold.

    The proof is tried as soon as a step has failed: the short cuts for linear limits, the first of the
    ladder that has no answer for the others. Only the order depends on what a solver says, never the claim.

    Args:
        problem: One book's program.
        programs: Compiled programs to reuse.
        judge: The certificate, bound to the book's input data.
        refute: The infeasibility proof, bound to the same.
    """
    if not len(problem.names):
        return _nothing_to_trade(problem, judge, refute)
    apart = problem.lower - problem.upper
    if float(apart.max()) > FEASIBILITY:
        return _nowhere_to_go(problem, apart, refute)
    scale, unit = 1.0, 1.0
    nearest: Verdict | None = None
    shortcut, refuted, final = _shortcut(problem), False, len(SHORTCUTS + LADDER) - 1
    for number, rung in enumerate(SHORTCUTS + LADDER):
        short = number < len(SHORTCUTS)
        if short and shortcut is None:
            continue
        sizes = (scale, unit) if rung.rescaled else (1.0, 1.0)
        attempt = Attempt(rung.solver, *sizes, margin=rung.margin)
        last = shortcut(problem, attempt) if short and shortcut else programs.fit(problem).solve(problem, attempt)
        usable = last.weights is not None and bool(np.isfinite(last.weights).all())
        if usable:
            for raw, weights in sharpened(problem, last):
                verdict = judge(claim_of(problem, weights, raw))
                if verdict.accepted:
                    return Answer("certified", weights, raw.duals, verdict, 0.0, raw.solver, number, raw.iterations)
                if raw is last:
                    reached, found = weights, verdict
            if nearest is None or found.relative_gap < nearest.relative_gap:
                nearest = found
            unit = float(np.clip(np.abs(reached - problem.start).max(initial=0.0), SMALLEST_UNIT, 1.0))
            scale = 1.0 / max(found.scale, SMALLEST_OBJECTIVE)
        due = not short and not refuted and (not usable or number == final)
        if due or number == len(SHORTCUTS) - 1:
            refuted = due
            elastic = solve_elastic(problem) if short else _elastic(problem, programs)
            if proof := _proven(problem, elastic, refute):
                return replace(proof, verdict=nearest, rung=number)
    return Answer("held", problem.start, {}, nearest, 0.0, last.solver, final, last.iterations)


def _shortcut(problem: Problem) -> Callable[[Problem, Attempt], RawAnswer] | None:
    """How a problem is solved without the modelling layer, or None where it cannot be."""
    if is_plain(problem):
        return solve_reduced
    return solve_by_pieces if has_pieces(problem) else None


def _elastic(problem: Problem, programs: Programs) -> RawAnswer:
    """The smallest common violation with the limits that are not linear too."""
    return programs.fit(problem).solve(problem, Attempt("CLARABEL"), elastic=True)


def _proven(problem: Problem, elastic: RawAnswer, refute: Refute) -> Answer | None:
    """The answer that there is none, where the multipliers of the elastic form prove it."""
    if elastic.weights is None or not np.isfinite(elastic.weights).all():
        return None
    # The least conflicting weights: a cap on tracking error is linearised there.
    least = np.clip(elastic.weights, problem.lower, problem.upper)
    conflict = refute(Claim(dict(zip(problem.names.labels, least.tolist(), strict=True)), elastic.duals))
    if not conflict > 0.0:
        return None
    return Answer("infeasible", problem.start, elastic.duals, None, conflict, elastic.solver, 0, elastic.iterations)


def _nothing_to_trade(problem: Problem, judge: Judge, refute: Refute) -> Answer:
    """All cash and nothing that may be bought: standing still is the answer, or a limit forbids it."""
    verdict = judge(Claim({}, {}))
    duals = {} if verdict.accepted else {verdict.worst_limit: 1.0}
    conflict = 0.0 if verdict.accepted else refute(Claim({}, duals))
    status = "certified" if verdict.accepted else "infeasible" if conflict > 0.0 else "held"
    return Answer(status, problem.start, duals, verdict, conflict, "none", 0, 0)


def _nowhere_to_go(problem: Problem, apart: Float[np.ndarray, " n_names"], refute: Refute) -> Answer:
    """Limits that leave a name no weight: no solver is asked, the worst few names are shown."""
    worst = [int(i) for i in np.argsort(-apart, kind="stable")[:SHOWN] if apart[i] > FEASIBILITY]
    duals = {limit: float(apart[i]) for i in worst for limit in (problem.lower_id(i), problem.upper_id(i))}
    conflict = refute(Claim(dict(zip(problem.names.labels, problem.start.tolist(), strict=True)), duals))
    status = "infeasible" if conflict > 0.0 else "held"
    return Answer(status, problem.start, duals, None, conflict, "none", 0, 0)


def claim_of(problem: Problem, weights: Float[np.ndarray, " n_names"], raw: RawAnswer) -> Claim:
    """What is said of the weights: themselves by name, and what the solver gave to prove them."""
    return Claim(dict(zip(problem.names.labels, weights.tolist(), strict=True)), raw.duals, raw.directions)


def sharpened(problem: Problem, raw: RawAnswer) -> Iterator[tuple[RawAnswer, Float[np.ndarray, " n_names"]]]:
    """The repaired answer, and if none of that is certified the same with its last digits solved for."""
    if raw.weights is None:
        return
    for weights in repairs(problem, raw.weights):
        yield raw, weights
    sharp = polish(problem, raw)
    if sharp is raw:
        unit = float(np.clip(np.abs(raw.weights - problem.start).max(initial=0.0), SMALLEST_UNIT, 1.0))
        sharp = solve_on_tangents(problem, raw, Attempt("PIQP", unit=unit, tolerance=TIGHT))
    if sharp is not raw and sharp.weights is not None and np.isfinite(sharp.weights).all():
        for weights in repairs(problem, sharp.weights):
            yield sharp, weights


def repairs(problem: Problem, weights: Float[np.ndarray, " n_names"]) -> Iterator[Float[np.ndarray, " n_names"]]:
    """The solver's weights as they could be written: inside their bounds, dust left where it was.

    An interior-point answer trades a little of every name. Leaving that out moves the sums,
    which can cost the last digit of a binding limit or of a tracker's tiny objective, so
    smaller and smaller dust is offered, at last all of it. Of a name
    that may be short, a position of dust is none, and one a margin from its lowest weight is there.
    """
    inside = np.clip(weights, problem.lower, problem.upper)
    allowed = (problem.start >= problem.lower) & (problem.start <= problem.upper)
    left_out = -1
    for size in DUST:
        stays = (np.abs(inside - problem.start) <= size) & allowed
        short = (problem.lower < 0.0) & ~stays
        flat = short & (np.abs(inside) <= size)
        shortest = short & (inside - problem.lower <= min(size, MARGIN))
        settled = int(stays.sum() + flat.sum() + shortest.sum())
        if settled != left_out:
            left_out = settled
            rest = np.where(flat, 0.0, np.where(shortest, problem.lower, inside))
            yield np.where(stays, problem.start, rest)
