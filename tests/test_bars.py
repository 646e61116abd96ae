"""The bars of the rebalance: every book certified, a second solver agrees, no feasible book is called infeasible.

``pytest -m soak tests/test_bars.py`` runs the full counts, in blocks that ``-k`` and ``-n`` can take apart.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import piqp
import pytest
import scipy.sparse as sp
from random_books import RandomBook, random_book

from engine.conventions import FEASIBILITY, OPTIMALITY
from engine.mandates.mandate import Mandate
from engine.rebalance.certificate import prove_infeasible
from engine.rebalance.evidence import Claim
from engine.rebalance.problem import Problem
from engine.rebalance.solve import Answer, Programs


@dataclass(frozen=True)
class Bar:
    """How many books of a size, in blocks that a test each runs."""

    names: int
    factors: int
    books: int
    block: int

    @property
    def blocks(self) -> list[range]:
        return [range(first, first + self.block) for first in range(0, self.books, self.block)]


BARS: Final = (Bar(500, 30, 1000, 50), Bar(3000, 70, 100, 5), Bar(10000, 100, 5, 1))

MIDDLE: Final = Bar(1500, 50, 1, 1)
"""For the quick tier, where the larger ones take too long."""

FEASIBLE: Final = 1000
"""Books that have a feasible point by construction, of which none may be called infeasible."""

ROOMS: Final = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""What every limit leaves around the planted answer, in turn."""

AGREEMENT: Final = 1e-6
"""Between the objectives of two solvers, relative."""

PROGRAMS: Final = Programs()


def drawn(seed: int, names: int, factors: int) -> RandomBook:
    return random_book(np.random.default_rng(seed), names, factors)


def on_all_names(book: RandomBook, problem: Problem, x: np.ndarray) -> np.ndarray:
    """Weights on the model's axis."""
    whole = np.zeros(len(book.terms.model.securities))
    whole[book.terms.model.securities.positions(problem.names.labels, "book")] = x
    return whole


def objective_of(book: RandomBook, x: np.ndarray) -> float:
    """The objective from the model and the mandate, ``x`` on the model's axis; no root, no program."""
    model, mandate = book.terms.model, book.mandate
    labels = model.securities.labels
    start = np.array([book.weights.get(name, 0.0) for name in labels])
    active = x - np.array([book.benchmark.get(name, 0.0) for name in labels])
    half = mandate.costs.half_spread_bps
    costs = np.array([book.terms.half_spread_bps.get(name, half) for name in labels]) / 1e4
    loads = model.exposures.T @ active
    of_issuer = np.bincount(model.issuers, weights=active)
    own = np.zeros(len(of_issuer))
    own[model.issuers] = model.specific_variance
    risk = loads @ model.factor_covariance @ loads + own @ of_issuer**2
    return float(mandate.risk_aversion / 2.0 * risk + costs @ np.abs(x - start) / mandate.costs.holding_years)


def second_answer(problem: Problem) -> np.ndarray:
    """The same program in weights, put together here for PIQP: no cvxpy, no trades as variables, no scaling.

    Variables ``x``, ``t >= |x - x0|`` and ``y = R'(x - xb)``.
    """
    n, k = problem.root.shape
    curve = problem.aversion * problem.specific
    eye, ones, none = sp.identity(n), np.ones((1, n)), np.zeros((1, k))
    blocks = [
        [eye, -eye, sp.csc_matrix((n, k))],
        [-eye, -eye, sp.csc_matrix((n, k))],
        [problem.rows, sp.csc_matrix((len(problem.bounds), n + k))],
        [np.hstack([ones, problem.costs[None, :], none])],
        [np.hstack([0.0 * ones, ones, none])],
    ]
    limits = sp.vstack([sp.hstack([sp.csc_matrix(part) for part in row]) for row in blocks], format="csc")
    ends = [problem.start, -problem.start, problem.bounds, [problem.spendable, problem.turnover]]
    solver = piqp.SparseSolver()
    solver.settings.eps_abs = solver.settings.eps_rel = 1e-10
    solver.settings.max_iter = 500
    solver.setup(
        sp.block_diag([sp.diags(curve), sp.csc_matrix((n, n)), problem.aversion * sp.identity(k)], format="csc"),
        np.concatenate([-curve * problem.benchmark, problem.costs / problem.years, np.zeros(k)]),
        sp.hstack([sp.csc_matrix(problem.root.T), sp.csc_matrix((k, n)), -sp.identity(k)], format="csc"),
        problem.root.T @ problem.benchmark,
        limits,
        np.full(limits.shape[0], -np.inf),
        np.concatenate(ends),
        np.concatenate([problem.lower, np.zeros(n), np.full(k, -np.inf)]),
        np.concatenate([problem.upper, np.full(n + k, np.inf)]),
    )
    assert solver.solve() == piqp.PIQP_SOLVED
    return np.asarray(solver.result.x[:n])


def what_is_wrong(book: RandomBook, answer: Answer) -> str:
    """Why a book fails the bar; empty where it keeps it."""
    verdict = answer.verdict
    if answer.status != "certified":
        return f"{answer.status}: {verdict}"
    if not (verdict.max_violation <= FEASIBILITY and verdict.relative_gap <= OPTIMALITY):
        return f"certified outside the bar: {verdict}"
    problem = book.state()
    found, other = (
        objective_of(book, on_all_names(book, problem, x)) for x in (answer.weights, second_answer(problem))
    )
    if abs(found - other) > AGREEMENT * other:
        return f"objective {found!r}, second solver {other!r}"
    return ""


def failures(bar: Bar, seeds: Iterable[int]) -> dict[int, str]:
    found = {}
    for seed in seeds:
        book = drawn(seed, bar.names, bar.factors)
        if wrong := what_is_wrong(book, book.solve(PROGRAMS)):
            found[seed] = wrong
    return found


@pytest.mark.parametrize(("bar", "count"), [(BARS[0], 5), (MIDDLE, 1)], ids=["500 x 30", "1500 x 50"])
def test_every_random_book_is_certified_and_a_second_solver_agrees(bar: Bar, count: int) -> None:
    assert failures(bar, range(bar.books, bar.books + count)) == {}


@pytest.mark.soak
@pytest.mark.parametrize(
    ("bar", "seeds"),
    [pytest.param(bar, seeds, id=f"{bar.names}x{bar.factors}-{seeds.start}") for bar in BARS for seeds in bar.blocks],
)
def test_the_full_count_of_random_books_is_certified_and_a_second_solver_agrees(bar: Bar, seeds: range) -> None:
    assert failures(bar, seeds) == {}


def tightened(book: RandomBook, room: float) -> RandomBook:
    """Every limit moved to ``room`` from the planted answer: feasible, and next to nothing else is."""
    problem = book.state()
    model, labels = book.terms.model, book.terms.model.securities.labels
    x = book.planted
    start = np.array([book.weights.get(name, 0.0) for name in labels])
    moved = np.abs(x - start)
    costs = on_all_names(book, problem, problem.costs)
    shares = book.terms.curve.shares(model.securities)
    in_tier = dict(zip(book.terms.curve.buckets.labels, (x @ shares).tolist(), strict=True))
    loads = dict(zip(model.factors.labels, (x @ model.exposures).tolist(), strict=True))
    limits = book.mandate.limits.model_dump()
    changes: dict[str, Any] = {
        "max_weight": min(float(x.max()) + room, 1.0),
        "turnover": float(moved.sum()) + room,
        "cash": {"min": 1.0 - float(x.sum() + costs @ moved) - room, "max": 1.0 - float(x.sum()) + room},
        "tiers": {t: {"min": max(in_tier[t] - room, 0.0), "max": in_tier[t] + room} for t in limits["tiers"]},
        "factors": {f: {"min": loads[f] - room, "max": loads[f] + room} for f in limits["factors"]},
        "stress": tuple(
            {"scenario": name, "max_loss": max(-float(x @ shock), 0.0) + room}
            for name, shock in book.terms.shocks.items()
        ),
    }
    words = book.mandate.model_dump() | {"limits": limits | changes}
    return replace(book, mandate=Mandate.model_validate(words))


def called_infeasible(seed: int) -> tuple[str, int]:
    """The status of a book that is feasible by construction, and how many guessed multipliers refute it."""
    rng = np.random.default_rng(seed)
    book = tightened(random_book(rng, 60, 8), ROOMS[seed % len(ROOMS)])
    problem = book.state()
    x = book.planted[book.terms.model.securities.positions(problem.names.labels, "book")]
    verdict = book.judge(Claim(dict(zip(problem.names.labels, x.tolist(), strict=True)), {}))
    assert verdict.max_violation == 0.0, (seed, verdict)
    false = 0
    for size in (1e-3, 1.0, 1e3):
        ids = ("cash:min", "turnover", *problem.row_ids)
        duals = {name: float(size * rng.exponential() * rng.integers(0, 2)) for name in ids}
        false += prove_infeasible(book.evidence, **book.inputs, claim=Claim({}, duals)) > 0.0
    return book.solve(PROGRAMS).status, false


def check_feasible(seeds: Iterable[int]) -> None:
    found = {seed: called_infeasible(seed) for seed in seeds}
    assert {seed: one for seed, one in found.items() if one != ("certified", 0)} == {}


def test_no_book_with_a_planted_feasible_answer_is_called_infeasible() -> None:
    check_feasible(range(FEASIBLE, FEASIBLE + 4 * len(ROOMS)))


@pytest.mark.soak
@pytest.mark.parametrize("first", range(0, FEASIBLE, 100))
def test_none_of_a_thousand_feasible_books_is_called_infeasible(first: int) -> None:
    check_feasible(range(first, first + 100))
