"""Gross, net and expected shortfall give way too: the least of each, and no false claim accepted."""

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from cones import ConeBook, as_cone_book
from cvxpy.error import SolverError
from test_certificate import tight_book
from test_rebalance import LOOSE, plain_book
from test_relax import TOOLS, court_of, give_way, settled

from engine.conventions import FEASIBILITY
from engine.mandates.mandate import Mandate
from engine.rebalance.conflict import Court
from engine.rebalance.evidence import Claim
from engine.rebalance.level_bound import LevelProof
from engine.rebalance.problem import Problem
from engine.rebalance.relax import settle
from engine.rebalance.relaxed_certificate import Relaxation
from engine.rebalance.solve import Answer

LEVEL = 0.6
NEW = ("gross", "net:max", "net:min", "shortfall:fork")
"""What gave way in no mandate before."""

LIKE_FOR_LIKE = 1e-6
"""Two solvers agree on what a level gives way by to this, the earlier levels held at the same totals."""


def leaning_book(seed: int) -> ConeBook:
    """A long-short book whose leverage, tail and stress budget are too tight for its turnover, in every mix."""
    random = np.random.default_rng(seed)
    base = tight_book(seed)
    signs = np.where(np.arange(10) < 6, 1.0, -0.5)
    weights = {f"S{i}": float(signs[i] * random.uniform(0.05, 0.2)) for i in range(9)}
    leaves = {leaf: (float(random.uniform(0.1, 1.0)), random.normal(-0.1, 0.15, 10)) for leaf in "abcde"}
    total = sum(probability for probability, _ in leaves.values())
    tree = {leaf: (probability / total, moves) for leaf, (probability, moves) in leaves.items()}
    held = np.array([*weights.values(), 0.0])
    gross, net = float(np.abs(held).sum()), float(held.sum())
    most, least = net * float(random.choice([0.65, 0.9, 1.3])), net - 0.05 * float(random.choice([-0.5, 0.5, 1.0]))

    def tight() -> float:
        return float(random.choice([0.3, 0.8, 1.5]))

    limits: dict[str, Any] = {
        **LOOSE,
        "max_short": 0.3,
        "turnover": float(random.choice([0.02, 0.1, 0.3])),
        "gross": gross * tight(),
        "net": {"min": min(least, most), "max": most},
        "shortfall": ({"scenario": "fork", "level": LEVEL, "max_loss": 0.05 * tight()},),
        "stress": ({"scenario": "crash", "max_loss": 0.05 * tight()},),
        "priorities": {name: int(random.integers(1, 5)) for name in ("gross", "net", "shortfall", "stress")},
    }
    if random.uniform() < 0.3:
        limits["priorities"][str(random.choice(["gross", "net", "shortfall", "stress"]))] = 0
    return as_cone_book(replace(base, weights=weights, limits=limits), trees={"fork": tree})


def bent_book(seed: int) -> ConeBook:
    """The same with a robust stress budget, and every other one with a cap on its tracking error."""
    book = leaning_book(seed)
    random = np.random.default_rng(seed)
    robust, days = float(random.choice([0.5, 1.5, 3.0])), int(random.choice([1, 5, 10]))
    limits = {**book.limits, "stress": ({**book.limits["stress"][0], "robust": robust},)}
    if seed % 2:
        now = float(np.linalg.norm(risk_root(book) @ (book.problem.start - book.problem.benchmark)))
        limits["tracking_error"] = now * float(random.choice([0.4, 0.8, 0.95, 1.2]))
        limits["priorities"] = {**limits["priorities"], "tracking_error": int(random.integers(1, 5))}
    return replace(book, limits=limits, horizons={"crash": days})


def risk_root(book: ConeBook) -> np.ndarray:
    """``W`` with ``|W a|`` the tracking error of ``a``, from the problem."""
    return np.vstack([book.problem.root.T, np.diag(np.sqrt(book.problem.specific))])


def margin_root(book: ConeBook) -> np.ndarray:
    """``kappa`` standard deviations of specific return over the horizon, a row an issuer, from the book's tables."""
    at = [int(name[1:]) for name in book.problem.names.labels]
    issuers = sorted({int(book.issuers[i]) for i in at})
    lines = np.array([[float(book.issuers[i] == issuer) for i in at] for issuer in issuers])
    scale = book.mandate.limits.stress[0].robust * np.sqrt(book.horizons.get("crash", 0) / 252.0)
    return scale * lines * np.sqrt(book.variance[at])


def least_of(book: ConeBook, level: int, held: Mapping[int, float], most: Mapping[str, float]) -> float | None:
    """The least total of one level, the earlier held at their totals, in longs and shorts apart."""
    limits, names = book.mandate.limits, book.problem.names.labels
    at = [int(name[1:]) for name in names]
    start = np.array([book.weights.get(name, 0.0) for name in names])
    n = len(names)
    long, short, buy, sell = (cp.Variable(n, nonneg=True) for _ in range(4))
    x, over = long - short, {name: cp.Variable(nonneg=True) for name in most}
    eta, above = cp.Variable(), cp.Variable(len(book.trees["fork"]), nonneg=True)
    chances = np.array([probability for probability, _ in book.trees["fork"].values()])
    moves = np.array([leaf[at] for _, leaf in book.trees["fork"].values()])
    uses = {
        "gross": (cp.sum(long + short), limits.gross),
        "net:max": (cp.sum(x), limits.net.max),
        "net:min": (-cp.sum(x), -limits.net.min),
        "shortfall:fork": (eta + chances @ above / (1.0 - LEVEL), limits.shortfall[0].max_loss),
        "stress:crash": (
            -book.shocks["crash"][at] @ x,
            limits.stress[0].max_loss,
        ),
    }
    linear = limits.stress[0].robust == 0.0 and limits.tracking_error is None
    if limits.stress[0].robust > 0.0:
        uses["stress:crash"] = uses["stress:crash"][0] + cp.norm(margin_root(book) @ x), limits.stress[0].max_loss
    if limits.tracking_error is not None:
        uses["tracking_error"] = cp.norm(risk_root(book) @ (x - book.problem.benchmark)), limits.tracking_error
    kept = [
        x == start + buy - sell,
        x >= -limits.max_short,
        x <= 1.0,
        cp.sum(x) + book.problem.costs @ (buy + sell) <= 1.0,
        cp.sum(buy + sell) <= limits.turnover,
        above >= -moves @ x - eta,
        *(use <= bound + over.get(name, 0.0) for name, (use, bound) in uses.items()),
        *(over[name] <= top for name, top in most.items() if np.isfinite(top)),
        *(cp.sum([over[m] for m in most if limits.priority(m) == q]) <= total for q, total in held.items()),
    ]
    priced = [over[name] for name in most if limits.priority(name) == level]
    program = cp.Problem(cp.Minimize(cp.sum(priced) if priced else 0.0), kept)
    if linear:
        program.solve(solver=cp.SCIPY, scipy_options={"method": "highs-ds", "primal_feasibility_tolerance": 1e-10})
        return float(program.value) if program.status == "optimal" else None
    for tolerance in (1e-11, 1e-10, 1e-9):
        # Clarabel stops short of the first for some books, and says so, gives up, or misses a limit by 4e-7.
        with warnings.catch_warnings(), suppress(SolverError):
            warnings.simplefilter("ignore", UserWarning)
            program.solve(solver=cp.CLARABEL, tol_gap_abs=tolerance, tol_gap_rel=tolerance, tol_feas=tolerance)
            found = program.status in ("optimal", "optimal_inaccurate")
            if not found or max(float(np.max(limit.violation())) for limit in kept) <= FEASIBILITY:
                break
    return float(program.value) if program.status in ("optimal", "optimal_inaccurate") else None


def uses_of(book: ConeBook, weights: Mapping[str, float]) -> dict[str, float]:
    """By how much weights miss each limit, from the book's own numbers."""
    limits = book.mandate.limits
    at = np.array([int(name[1:]) for name in book.problem.names.labels])
    x = np.array([weights.get(f"S{i}", 0.0) for i in at])
    leaves = sorted(((-float(moves[at] @ x), chance) for chance, moves in book.trees["fork"].values()), reverse=True)
    left, tail = 1.0 - LEVEL, 0.0
    for loss, chance in leaves:
        tail, left = tail + min(chance, left) * loss, left - min(chance, left)
    margin = float(np.linalg.norm(margin_root(book) @ x))
    capped = {}
    if limits.tracking_error is not None:
        error = float(np.linalg.norm(risk_root(book) @ (x - book.problem.benchmark)))
        capped = {"tracking_error": error - limits.tracking_error}
    return capped | {
        "gross": float(np.abs(x).sum()) - limits.gross,
        "net:max": float(x.sum()) - limits.net.max,
        "net:min": limits.net.min - float(x.sum()),
        "shortfall:fork": tail / (1.0 - LEVEL) - limits.shortfall[0].max_loss,
        "stress:crash": margin - float(book.shocks["crash"][at] @ x) - limits.stress[0].max_loss,
    }


def check_book(seed: int, made: Callable[[int], ConeBook] = leaning_book) -> str:
    """One book against a second program: the same standing, and of every level the least given the earlier totals."""
    book = made(seed)
    priority = book.mandate.limits.priority
    answer = settled(book).answer
    today = uses_of(book, book.weights)
    soft = [name for name in today if priority(name) > 0]
    if least_of(book, 0, {}, {}) is not None:
        assert answer.status == "certified" and not answer.relaxed, seed
        return "kept"
    if least_of(book, 0, {}, dict.fromkeys(soft, np.inf)) is None:
        assert answer.status == "infeasible", seed
        return "infeasible"
    assert answer.status == "certified" and answer.relaxed, seed
    most = {name: max(today[name], 0.0) for name in soft}
    if least_of(book, 0, {}, most) is None:
        most = dict.fromkeys(soft, np.inf)
    after = uses_of(book, dict(zip(book.problem.names.labels, answer.weights.tolist(), strict=True)))
    assert all(value <= answer.relaxed.get(name, 0.0) + 2e-9 for name, value in after.items()), seed
    assert all(value <= most.get(name, 0.0) + 2e-9 for name, value in after.items()), seed
    held: dict[int, float] = {}
    for level in sorted({priority(name) for name in soft}):  # an empty level's 0 <= 0 costs the second solver digits
        total = sum(amount for name, amount in answer.relaxed.items() if priority(name) == level)
        least = least_of(book, level, held, most)
        assert least is not None, seed
        # Between bent limits a billionth of an earlier level can be worth a thousandth of a later one (seed 21), so
        # the totals before are known to the certificate's billionth and no better.
        if total != pytest.approx(least, rel=1e-6, abs=LIKE_FOR_LIKE):
            low, high = (
                least_of(book, level, {q: max(one + room, 0.0) for q, one in held.items()}, most)
                for room in (FEASIBILITY, -FEASIBILITY)
            )
            assert held and low is not None and high is not None, (seed, level)
            assert low - LIKE_FOR_LIKE <= total <= high + LIKE_FOR_LIKE, (seed, level)
        held[level] = total
    return "relaxed"


def test_leverage_and_tails_give_way_by_what_a_second_program_says() -> None:
    found = [check_book(seed) for seed in range(3)]
    assert found.count("relaxed") > 1


@pytest.mark.soak
def test_none_of_two_hundred_long_short_books_gives_way_by_more_than_it_must() -> None:
    found = [check_book(seed) for seed in range(3, 203)]
    assert found.count("relaxed") > 100 and found.count("infeasible") > 15


def test_a_book_whose_inside_is_too_thin_for_an_interior_point_is_answered_by_simplex() -> None:
    assert check_book(127) == "relaxed"


@cache
def relaxed_books() -> tuple[tuple[ConeBook, Answer, Relaxation, Claim], ...]:
    return give_way(leaning_book(seed) for seed in range(7))


def test_each_new_kind_gives_way_in_some_book() -> None:
    gave = {name for _, _, why, _ in relaxed_books() for name in why.amounts}
    assert {*NEW} <= gave


def test_more_or_less_than_needed_or_without_its_proof_is_refused() -> None:
    for book, _, why, claim in relaxed_books():
        judge, priority = court_of(book).certify, book.mandate.limits.priority
        assert judge(claim, why).accepted
        for name in {*NEW} & {*why.amounts}:
            amount, level = why.amounts[name], priority(name)
            assert not judge(claim, replace(why, amounts={**why.amounts, name: 1.01 * amount + 1e-5})).accepted
            assert not judge(claim, replace(why, amounts={**why.amounts, name: 0.99 * amount - 1e-5})).accepted
            rest = {key: proof for key, proof in why.proofs.items() if key != level}
            assert not judge(claim, replace(why, proofs=rest)).accepted
            if amount > 1e-6:
                empty = {**rest, level: replace(why.proofs[level], duals={}, others=())}
                assert not judge(claim, replace(why, proofs=empty)).accepted


def test_what_must_hold_or_is_kept_may_not_give_way() -> None:
    for book, _, why, claim in relaxed_books():
        for name in {*NEW} - {*why.amounts}:
            assert not court_of(book).certify(claim, replace(why, amounts={**why.amounts, name: 1e-3})).accepted


def planted(problem: Problem, name: str) -> Problem:
    """The program with one of its limits wrong by a hundredth, in the direction that asks too little."""
    if name == "gross":
        return replace(problem, gross=problem.gross + 0.01)
    if name == "shortfall:fork":
        return replace(problem, shortfalls=tuple(replace(one, losses=one.losses - 0.02) for one in problem.shortfalls))
    wrong = np.array([0.01 * (row == name) for row in problem.row_ids])
    return replace(problem, bounds=problem.bounds + wrong)


def test_a_program_that_reads_a_limit_wrong_is_never_certified_by_what_it_says_gave_way() -> None:
    tried = set()
    for book, answer, why, _ in relaxed_books():
        for name in {*NEW} & {*why.amounts} - tried:
            wrong = planted(book.problem, name)
            settlement = settle(wrong, replace(answer, status="infeasible", relaxed={}), TOOLS, court_with(book, name))
            assert settlement.answer.status != "certified", name
            tried.add(name)
    assert tried == {*NEW}


def court_with(book: ConeBook, name: str) -> Court:
    """A court whose statements are planted and whose judgement is not."""
    court = court_of(book)
    return replace(court, state=lambda mandate: planted(court.state(mandate), name))


def test_no_multipliers_let_the_gross_of_a_book_that_can_keep_it_give_way() -> None:
    random = np.random.default_rng(0)
    weights = {"S0": 0.5, "S1": -0.3, "S2": 0.2}
    limits = {**LOOSE, "max_short": 0.5, "gross": 0.8, "net": {"max": 0.3}, "priorities": {"gross": 2, "net": 3}}
    book = replace(plain_book(weights, 3), limits=limits)
    claim = Claim(weights, {})
    over = {"gross": 0.2, "net:max": 0.1}
    for _ in range(15):
        duals = {name: float(random.exponential()) for name in ("turnover", "cash:min", *over)}
        proof = LevelProof(duals, {2: float(random.exponential())}, weights)
        assert not court_of(book).certify(claim, Relaxation(over, dict.fromkeys(range(6), proof))).accepted


def test_a_short_that_the_mandate_allows_needs_nothing_to_give_way() -> None:
    weights = {"S0": 0.6, "S1": -0.3, "S2": 0.5}
    limits = {**LOOSE, "max_short": 0.3, "max_weight": 0.5, "turnover": 0.02, "priorities": {"weights": 1}}
    book = replace(plain_book(weights, 3), limits=limits)
    answer = settled(book).answer
    assert answer.status == "certified"
    # Half of what turnover lets be traded would cure 0.02 of the 0.1 by which S0 is too large.
    assert answer.relaxed == {"weight:S0:max": pytest.approx(0.08, abs=2e-7)}
    assert answer.weights[1] == pytest.approx(-0.3, abs=1e-6)


def test_gross_and_net_hold_unless_the_mandate_says_otherwise_and_tails_come_before_tiers() -> None:
    words = {"id": "m", "title": "M", "version": "1.0.0"}
    plain = Mandate.model_validate(words).limits
    assert [plain.priority(name) for name in NEW] == [0, 0, 0, 1]
    tail = {"scenario": "fork", "max_loss": 0.1, "kind": "active"}
    stated = {"gross": 4, "net": 2, "net:min": 0, "shortfall:fork:active": 3}
    limits = Mandate.model_validate({**words, "limits": {"shortfall": (tail,), "priorities": stated}}).limits
    asked = ("gross", "net:max", "net:min", "shortfall:fork:active")
    assert [limits.priority(name) for name in asked] == [4, 2, 0, 3]
    with pytest.raises(ValueError, match="no limit 'shortfall:elsewhere'"):
        Mandate.model_validate({**words, "limits": {"shortfall": (tail,), "priorities": {"shortfall:elsewhere": 1}}})
