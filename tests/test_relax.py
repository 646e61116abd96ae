"""Limits that give way: the least of each priority, nothing worse than today, and no false claim accepted."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from scipy.optimize import linprog
from test_certificate import NAV, Book, tight_book

from engine.mandates.mandate import Mandate
from engine.rebalance.certificate import prove_infeasible
from engine.rebalance.conflict import Court
from engine.rebalance.problem import Problem, state_problem
from engine.rebalance.relax import Bench, Settlement, settle
from engine.rebalance.relaxed_certificate import certify_relaxed

BENCH = Bench()

ROOM = 1e-7
"""Two solvers agree on what a level gives way by to this."""


def stated(book: Book, mandate: Mandate) -> Problem:
    return state_problem(
        "book", weights=book.weights, benchmark=book.benchmark, mandate=mandate, terms=book.terms, nav=NAV
    )


def court_of(book: Book) -> Court:
    return Court(
        mandate=book.mandate,
        state=lambda mandate: stated(book, mandate),
        certify=lambda claim, relaxation: certify_relaxed(
            book.evidence, inputs=book.inputs, claim=claim, relaxation=relaxation
        ),
        refute=lambda claim, mandate: prove_infeasible(
            book.evidence, **{**book.inputs, "mandate": mandate}, claim=claim
        ),
    )


def settled(book: Book) -> Settlement:
    """The book solved, and settled where all limits together are proven infeasible."""
    answer = book.solve(BENCH.programs)
    return (
        settle(book.problem, answer, BENCH, court_of(book))
        if answer.status == "infeasible"
        else Settlement(answer, None)
    )


@cache
def torn_book(seed: int, n: int = 10) -> Book:
    """A random book whose limits conflict about half the time: stress, tiers, sectors, cash, lists, weights."""
    random = np.random.default_rng(seed)
    book = tight_book(seed, n)
    start, shock = book.problem.start, book.shocks["crash"]
    loss = max(-float(shock @ start), 0.02)
    limits: dict[str, Any] = {
        "max_weight": float(random.choice([0.12, 0.25, 1.0])),
        "turnover": float(random.choice([0.0, 0.05, 0.2, 0.6])),
        "cash": {"min": 0.0, "max": float(random.choice([0.03, 0.1, 0.5]))},
        "tiers": {"a": {"max": float(random.uniform(0.05, 0.4))}, "b": {"min": float(random.uniform(0.1, 0.4))}},
        "sectors": {"tech": {"max": float(random.uniform(0.05, 0.3))}},
        "factors": {"f1": {"max": float(random.normal(0.0, 0.2))}},
        "stress": ({"scenario": "crash", "max_loss": loss * float(random.uniform(0.3, 1.1))},),
        "priorities": {"weights": int(random.integers(0, 6))} if random.uniform() < 0.7 else {},
    }
    if random.uniform() < 0.3:
        limits["excluded"] = ("S0",)
    if random.uniform() < 0.3:
        limits["no_sell"] = ("S3",)
    return replace(book, limits=limits, sectors={f"S{i}": "tech" for i in range(0, n, 3)})


def levels_by_linprog(book: Book) -> tuple[bool, bool, list[float]]:
    """Whether all limits can be kept, whether priority 0 can, and the least of every level by HiGHS.

    Variables: weights, trades, and a slack for every row and both sides of every weight band.
    """
    problem, limits = book.problem, book.mandate.limits
    n, m = len(problem.start), len(problem.row_ids)
    soft = limits.priority("weight")
    hard = stated(book, wide_weights(book.mandate)) if soft else problem
    bands = [limits.weights.get(name) for name in problem.names.labels]
    low = np.array([band.min if band else 0.0 for band in bands])
    high = np.array([band.max if band else limits.max_weight for band in bands])
    eye, none = np.eye(n), np.zeros((n, n))
    rows = [
        np.hstack([eye, -eye, np.zeros((n, m + 2 * n))]),
        np.hstack([-eye, -eye, np.zeros((n, m + 2 * n))]),
        np.hstack([np.ones(n), problem.costs, np.zeros(m + 2 * n)])[None],
        np.hstack([np.zeros(n), np.ones(n), np.zeros(m + 2 * n)])[None],
        np.hstack([problem.rows, np.zeros((m, n)), -np.eye(m), np.zeros((m, 2 * n))]),
        np.hstack([eye, none, np.zeros((n, m)), -eye, none]),
        np.hstack([-eye, none, np.zeros((n, m)), none, -eye]),
    ]
    inside = soft > 0
    bounds = np.concatenate(
        [
            problem.start,
            -problem.start,
            [problem.spendable],
            [problem.turnover],
            problem.bounds,
            high if inside else np.full(n, 9.0),
            -low if inside else np.full(n, 9.0),
        ]
    )
    level = np.array([*(limits.priority(name) for name in problem.row_ids), *[soft] * (2 * n)])
    today = np.concatenate([problem.rows @ problem.start - problem.bounds, problem.start - high, low - problem.start])

    def least(most: np.ndarray, price: np.ndarray, held: list[tuple[np.ndarray, float]]) -> float | None:
        more = [np.concatenate([np.zeros(2 * n), members]) for members, _ in held]
        box = [*zip(hard.lower, hard.upper, strict=True), *[(0.0, None)] * n, *[(0.0, one) for one in most]]
        if (hard.lower > hard.upper).any():
            return None
        found = linprog(
            np.concatenate([np.zeros(2 * n), price]),
            A_ub=np.vstack([*rows, *more]),
            b_ub=np.concatenate([bounds, [total + 1e-9 for _, total in held]]),
            bounds=box,
            method="highs-ds",
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        return float(found.fun) if found.status == 0 else None

    nothing = np.zeros(len(level))
    free = np.where(level > 0, 50.0, 0.0)
    kept = least(nothing, nothing, []) is not None
    if kept or least(free, nothing, []) is None:
        return kept, kept, []
    most = np.where(level > 0, np.maximum(today, 0.0), 0.0)
    if least(most, nothing, []) is None:
        most = free
    held: list[tuple[np.ndarray, float]] = []
    for p in range(1, 6):
        price = (level == p).astype(float)
        total = least(most, price, held)
        assert total is not None
        held.append((price, total))
    return False, True, [total for _, total in held]


def wide_weights(mandate: Mandate) -> Mandate:
    limits = mandate.limits.model_copy(update={"weights": {}, "max_weight": 1.0})
    return mandate.model_copy(update={"limits": limits})


def totals(book: Book, amounts: Mapping[str, float]) -> list[float]:
    priority = book.mandate.limits.priority
    return [sum(amount for name, amount in amounts.items() if priority(name) == p) for p in range(1, 6)]
