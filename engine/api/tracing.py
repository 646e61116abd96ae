"""``trace_frontier``: what every stress budget would cost a book, from none to the least loss it can reach."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from engine.api.loading import LoadedUniverse
from engine.api.rebalancing import lay_out_books
from engine.book.bench import Bench, lay_out
from engine.contracts import CONTRACTS, empty
from engine.documents import suggestion
from engine.errors import UsageError
from engine.intake import Notice, notices_frame
from engine.mandates.mandate import Mandate, StressBudget
from engine.rebalance.frontier import least_budget
from engine.rebalance.problem import Problem
from engine.rebalance.solve import Answer

WITHIN: Final = 1e-6
"""The least loss is known this well, fraction of NAV."""

MOST_POINTS: Final = 200


@dataclass(frozen=True, slots=True)
class FrontierResult:
    """The frontier of every book that has one.

    Args:
        as_of: Date of the holdings.
        scenario: Id of the scenario.
        tables: ``frontier``, ``exceptions``.
        refused: One line a book, or a point of it, without a certified answer.
        notices: What was noticed in the inputs.
    """

    as_of: dt.date
    scenario: str
    tables: Mapping[str, pl.DataFrame]
    refused: tuple[str, ...]
    notices: tuple[Notice, ...]


def trace_frontier(loaded: LoadedUniverse, scenario: str | None = None, *, points: int = 9) -> FrontierResult:
    """Sweep the budget of one scenario and rebalance each book under every one of them.

    With the objective ``f`` and the limits other than the budget ``X``::

        v(b) = min { f(x) : x in X, loss(x) <= b }

    is convex and falls in ``b``; the shadow price of the budget is ``-v'(b)``. The sweep goes in
    equal steps from the loss of the answer without the budget to the least loss in ``X``; the
    mandate's own budget is one more point where it lies between. Every point is solved and
    certified like a rebalance.

    Args:
        loaded: From ``load_universe``.
        scenario: Id of the library; the universe's default when None. A book without a budget on it
            is swept all the same; one with an active budget is measured against its benchmark.
        points: Of each book, both ends included.

    Returns:
        A point that is not certified has its status and no numbers.

    Raises:
        UsageError: an unknown scenario, too few or too many points.
        ConfigurationError: no scenario can run.
        DataError: no book can be measured.

    References:
        MATH 5. Laws and a second solver: tests/test_frontier.py.
    """
    if not 2 <= points <= MOST_POINTS:
        raise UsageError(f"--points is {points}; 2 to {MOST_POINTS}")
    chosen = scenario or loaded.universe.settings.stress.scenario
    if chosen not in loaded.library.ids:
        raise UsageError(f"unknown scenario {chosen!r}{suggestion(chosen, loaded.library.ids)}")
    ready, task = lay_out_books(loaded, [chosen])
    bench = lay_out(ready.portfolios, task)
    refused = list(ready.refused)
    rows = list[dict[str, Any]]()
    if chosen in bench.desk.terms.shocks:
        for book in bench.ids:
            lines, faults = _trace(_Sweep(bench, book, chosen), points)
            rows += lines
            refused += faults
    contract = CONTRACTS["frontier"]
    frame = pl.DataFrame(rows, schema=contract.columns).sort(contract.key) if rows else empty("frontier")
    tables = {"frontier": frame, "exceptions": notices_frame(bench.notices)}
    return FrontierResult(ready.portfolios.as_of, chosen, tables, tuple(refused), bench.notices)


@dataclass(frozen=True, slots=True)
class _Sweep:
    """One book and the scenario whose budget moves."""

    bench: Bench
    book: str
    scenario: str

    @property
    def own(self) -> StressBudget | None:
        """The mandate's budget on the scenario."""
        stress = self.bench.mandate(self.book).limits.stress
        return next((budget for budget in stress if budget.scenario == self.scenario), None)

    @property
    def limit_id(self) -> str:
        """Of the budget that moves."""
        return (self.own or StressBudget(scenario=self.scenario, max_loss=1.0)).limit_id

    def mandate(self, budget: float | None) -> Mandate:
        """The book's mandate with this budget in place of its own; None leaves it out."""
        mandate = self.bench.mandate(self.book)
        rest = tuple(other for other in mandate.limits.stress if other.scenario != self.scenario)
        if budget is not None:
            # A budget below zero asks for a gain; a file may not say so, a sweep goes there.
            moved = self.own or StressBudget(scenario=self.scenario, max_loss=1.0)
            rest = (*rest, moved.model_copy(update={"max_loss": budget}))
        return mandate.model_copy(update={"limits": mandate.limits.model_copy(update={"stress": rest})})

    def solve(self, budget: float | None) -> tuple[Problem, Answer]:
        """The book rebalanced under a budget."""
        # A solver that is given a budget which cannot be kept may run away before it gives up.
        with np.errstate(over="ignore"):
            return self.bench.solve(self.book, self.mandate(budget))

    def loss(self, problem: Problem, weights: np.ndarray) -> float:
        """What the weights lose, against the benchmark where the budget is active."""
        terms = self.bench.desk.terms
        at = terms.model.securities.positions(problem.names.labels, self.book)
        active = self.own is not None and self.own.kind == "active"
        return -float(terms.shocks[self.scenario][at] @ (weights - problem.benchmark if active else weights))


def _trace(sweep: _Sweep, points: int) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of one book, and what could not be certified."""
    problem, free = sweep.solve(None)
    if free.status != "certified":
        why = "its other limits conflict: proven" if free.status == "infeasible" else "no answer could be certified"
        return [], [f"{sweep.book}: no frontier, even without the {sweep.scenario} budget {why}"]
    highest = sweep.loss(problem, free.weights)
    reached = least_budget(lambda b: sweep.solve(b)[1], highest, limit_id=sweep.limit_id, within=WITHIN)
    swept: list[tuple[str, float | None]] = [("free", None)]
    if highest - reached.budget > WITHIN:
        steps = np.linspace(highest, reached.budget, points)[1:].tolist()
        swept += [("step", step) for step in steps[:-1]] + [("least", reached.budget)]
        own = sweep.own
        if own is not None and reached.budget < own.max_loss < highest:
            swept.append(("mandate", own.max_loss))
    swept[1:] = sorted(swept[1:], key=lambda point: -(point[1] or 0.0))
    rows, refused = [], []
    for point, (kind, budget) in enumerate(swept):
        at, answer = sweep.solve(budget) if budget is not None else (problem, free)
        row = {
            "portfolio_id": sweep.book,
            "scenario_id": sweep.scenario,
            "point": point,
            "kind": kind,
            "budget": budget,
            "status": answer.status,
            "floor": reached.floor,
        }
        if answer.status == "certified":
            row |= _measures(sweep, at, answer)
        else:
            refused.append(f"{sweep.book}: no certified answer at a budget of {100.0 * (budget or 0.0):.4g} %")
        rows.append(row)
    return rows, refused


def _measures(sweep: _Sweep, problem: Problem, answer: Answer) -> dict[str, float]:
    active, traded = answer.weights - problem.benchmark, np.abs(answer.weights - problem.start)
    variance = float(((problem.root.T @ active) ** 2).sum() + problem.specific @ active**2)
    cost = float(problem.costs @ traded)
    verdict = answer.verdict
    return {
        "loss": sweep.loss(problem, answer.weights),
        "tracking_error": float(np.sqrt(variance)),
        "cost_frac": cost,
        "cost_base": cost * sweep.bench.nav(sweep.book),
        "turnover": float(traded.sum()),
        "objective": verdict.objective if verdict is not None else float("nan"),
        "shadow_price": answer.duals.get(sweep.limit_id, 0.0),
        "relative_gap": verdict.relative_gap if verdict is not None else float("nan"),
    }
