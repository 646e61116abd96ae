"""Expected shortfall over the leaves of a tree: measured, proven, priced, refused where planted wrong."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import cvxpy as cp
import numpy as np
import polars as pl
import pytest
from cones import ConeBook, as_cone_book, dense_optimum
from hypothesis import given
from hypothesis import strategies as st
from market import Market
from test_certificate import PROGRAMS, rational, some_duals, tight_book
from test_funds import loaded_with
from test_rebalance import LOOSE

from engine.api.leaving_out import price_limit
from engine.api.loading import LoadedUniverse, load_universe
from engine.api.rebalancing import rebalance_portfolios
from engine.book.answers import limit_table
from engine.desk.reasons import words_of
from engine.errors import ConfigurationError, ModelError
from engine.mandates.lots import Lots
from engine.mandates.mandate import Mandate
from engine.rebalance.attempt import Attempt
from engine.rebalance.bound import lower_bound
from engine.rebalance.case import assemble
from engine.rebalance.cone_bounds import read_cones
from engine.rebalance.cones import Shortfall
from engine.rebalance.evidence import Claim
from engine.rebalance.problem import Problem
from engine.rebalance.shadows import marginal_costs
from engine.rebalance.solve import Answer

SEEDS = (0, 1, 2, 3)

LEVELS = (0.0, 0.3, 0.6, 0.9)


def tree_of(seed: int, n: int = 10, leaves: int = 5) -> dict[str, tuple[float, np.ndarray]]:
    """Leaves with probabilities in hundredths and moves that differ by name."""
    random = np.random.default_rng(100 + seed)
    counts = random.multinomial(100 - leaves, np.full(leaves, 1.0 / leaves)) + 1
    moves = random.normal(-0.06, 0.12, (leaves, n))
    return {f"leaf_{i}": (int(counts[i]) / 100.0, moves[i]) for i in range(leaves)}


def vertices(probability: list[Fraction], level: Fraction) -> list[list[Fraction]]:
    """Every vertex of ``0 <= q <= p / (1 - level)``, ``sum q = 1``: every leaf but one at 0 or at its most."""
    most = [p / (1 - level) for p in probability]
    found = []
    for inner in range(len(most)):
        others = [i for i in range(len(most)) if i != inner]
        for size in range(len(most)):
            for full in combinations(others, size):
                rest = 1 - sum(most[i] for i in full)
                if 0 <= rest <= most[inner]:
                    found.append(
                        [rest if i == inner else most[i] if i in full else Fraction(0) for i in range(len(most))]
                    )
    return found


def hundredths(book: ConeBook) -> list[Fraction]:
    """The probabilities of the leaves as they were meant."""
    return [Fraction(round(100 * p), 100) for p, _ in book.trees["fork"].values()]


def free_book(seed: int, **limits: Any) -> ConeBook:
    """A tight book's names and risk under loose limits, with a tree."""
    base = tight_book(seed)
    rest = {"risk_aversion": 3.0, "costs": {"half_spread_bps": 15.0, "holding_years": 1.5}}
    return as_cone_book(base, limits={**LOOSE, **limits}, trees={"fork": tree_of(seed)}, rest=rest)


def solved(book: ConeBook) -> Answer:
    answer = book.solve(PROGRAMS)
    assert answer.status == "certified", answer
    return answer


def plain_shortfall(book: ConeBook, x: np.ndarray, level: float, *, active: bool = False) -> float:
    """By sorting, from the book and not from its problem."""
    names = [book.model.securities.labels.index(name) for name in book.problem.names.labels]
    held = x - book.problem.benchmark if active else x
    pairs = sorted(((-float(r[names] @ held), p) for p, r in book.trees["fork"].values()), reverse=True)
    left, total = 1.0 - level, 0.0
    for loss, p in pairs:
        counted = min(p, left)
        total, left = total + counted * loss, left - counted
    return total / (1.0 - level)


@cache
def limited(seed: int, level: float, kind: str = "absolute") -> ConeBook:
    """A book that may lose less in the tail than it would without the limit: two thirds, or half if active."""
    free = free_book(seed)
    x, active = solved(free).weights, kind == "active"
    if active and plain_shortfall(free, x, level, active=True) <= 1e-3:
        free = replace(free, trees={"fork": {leaf: (p, -r) for leaf, (p, r) in free.trees["fork"].items()}})
    now = plain_shortfall(free, x, level, active=active)
    before = plain_shortfall(free, free.problem.start, level)
    most = 0.5 * now if active else max(now - 0.3 * abs(now), 0.2 * before, 1e-3)
    return replace(free, limits={**free.limits, "shortfall": (limit_of(level, most, kind),)})


def limit_of(level: float, most: float, kind: str = "absolute") -> dict[str, Any]:
    return {"scenario": "fork", "level": level, "max_loss": float(most), "kind": kind}


@cache
def answer_of(seed: int, level: float, kind: str = "absolute") -> Answer:
    return solved(limited(seed, level, kind))


def bound_of(book: ConeBook) -> float:
    return book.mandate.limits.shortfall[0].max_loss


def claim_of(problem: Problem, answer: Answer) -> Claim:
    return Claim(dict(zip(problem.names.labels, answer.weights.tolist(), strict=True)), answer.duals)


def naive(book: ConeBook, level: float, *, active: bool = False) -> tuple[float, np.ndarray]:
    """The dense program with a row for every vertex of the tail and no further variable."""
    problem = book.problem
    names = [book.model.securities.labels.index(name) for name in problem.names.labels]
    losses = -np.array([r[names] for _, r in book.trees["fork"].values()])
    corners = np.array(vertices(hundredths(book), Fraction(level).limit_denominator(100)), dtype=np.float64)
    x = cp.Variable(len(problem.names))
    held = x - problem.benchmark if active else x
    return dense_optimum(problem, x, [(corners @ losses) @ held <= bound_of(book)])


@pytest.mark.parametrize("kind", ["absolute", "active"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_limited_book_is_certified_on_its_limit_and_a_dense_program_agrees(level: float, kind: str) -> None:
    binding = 0
    for seed in SEEDS:
        book, answer = limited(seed, level, kind), answer_of(seed, level, kind)
        best, _ = naive(book, level, active=kind == "active")
        assert abs(answer.verdict.objective - best) <= 1e-6 * best + 1e-9
        assert answer.verdict.lower_bound <= best + 1e-9
        used = plain_shortfall(book, answer.weights, level, active=kind == "active")
        assert used <= bound_of(book) + 1e-9
        limit_id = "shortfall:fork" + (":active" if kind == "active" else "")
        row = {one["limit_id"]: one for one in limit_table([(book.problem, answer)]).to_dicts()}[limit_id]
        assert (row["kind"], row["bound"], row["breach"]) == ("shortfall", bound_of(book), False)
        assert row["after"] == pytest.approx(used, abs=1e-12)
        start = plain_shortfall(book, book.problem.start, level, active=kind == "active")
        assert row["before"] == pytest.approx(start, abs=1e-12)
        if row["shadow_price"] > 1e-3:
            assert used == pytest.approx(bound_of(book), abs=1e-8)
            binding += 1
    assert binding >= 3


def test_a_shadow_price_is_what_a_wider_limit_saves_and_no_further_trade_pays() -> None:
    for level in (0.3, 0.6):
        for seed in (1, 2):
            book, answer = limited(seed, level), answer_of(seed, level)
            step = 1e-4
            wide, tight = (
                replace(book, limits={**LOOSE, "shortfall": (limit_of(level, bound_of(book) + sign * step),)})
                for sign in (1.0, -1.0)
            )
            price = limit_table([(book.problem, answer)]).filter(limit_id="shortfall:fork")["shadow_price"][0]
            saved = (answer.verdict.objective - naive(wide, level)[0]) / step
            paid = (naive(tight, level)[0] - answer.verdict.objective) / step
            assert saved * (1.0 - 1e-3) - 1e-5 <= price <= paid * (1.0 + 1e-3) + 1e-5
            buying, selling = marginal_costs(book.problem, answer.weights, answer.duals)
            x = answer.weights
            assert buying[x < book.problem.upper - 1e-9].min() > -2e-5
            assert selling[x > book.problem.lower + 1e-9].min() > -2e-5


def test_the_shortfall_of_program_and_certificate_is_that_of_every_vertex_and_of_the_linear_program() -> None:
    for seed in range(6):
        random = np.random.default_rng(seed)
        for level in LEVELS:
            book = free_book(seed, shortfall=(limit_of(level, 0.2),))
            limit = book.problem.shortfalls[0]
            x = random.dirichlet(np.ones(10))
            losses = limit.losses @ x
            corners = vertices(hundredths(book), Fraction(level).limit_denominator(100))
            exact = float(max(sum(q * v for q, v in zip(corner, rational(losses), strict=True)) for corner in corners))
            eta, over = cp.Variable(), cp.Variable(len(losses), nonneg=True)
            program = cp.Problem(cp.Minimize(eta + limit.tail @ over), [over >= losses - eta])
            program.solve(solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
            assert limit.used(x) == pytest.approx(exact, abs=1e-14)
            assert program.value == pytest.approx(exact, abs=1e-8)
            claim = Claim(dict(zip(book.problem.names.labels, x.tolist(), strict=True)), {})
            case = assemble(book.evidence, *book.inputs.values(), claim)
            cones = read_cones(book.evidence, case, book.mandate, claim, benchmarked=True)
            assert cones.violation["shortfall:fork"] == pytest.approx(exact - 0.2, abs=1e-14)


LEAF = st.tuples(st.integers(1, 20), st.floats(-0.5, 0.5))


def shortfall_of(leaves: list[tuple[int, float]], level: float) -> float:
    mass = np.array([float(count) for count, _ in leaves])
    losses = np.array([[loss] for _, loss in leaves])
    names = tuple(f"l{i}" for i in range(len(leaves)))
    zeros = np.zeros(len(leaves))
    return Shortfall("shortfall:s", names, mass / mass.sum(), losses, zeros, level, 0.1).used(np.ones(1))


@given(st.lists(LEAF, min_size=1, max_size=6), st.floats(0.0, 0.99), st.floats(0.0, 0.99))
def test_the_shortfall_is_at_least_the_mean_at_most_the_worst_and_grows_with_the_level(
    leaves: list[tuple[int, float]], one: float, other: float
) -> None:
    low, high = sorted((one, other))
    mean = sum(count * loss for count, loss in leaves) / sum(count for count, _ in leaves)
    assert shortfall_of(leaves, 0.0) == pytest.approx(mean, abs=1e-12)
    assert mean - 1e-12 <= shortfall_of(leaves, low) <= shortfall_of(leaves, high) + 1e-12
    assert shortfall_of(leaves, high) <= max(loss for _, loss in leaves) + 1e-12


def moved(p: Problem, **changes: Callable[[Shortfall], Any]) -> Problem:
    """The program with its shortfall changed."""
    limit = p.shortfalls[0]
    return replace(p, shortfalls=(replace(limit, **{name: change(limit) for name, change in changes.items()}),))


PLANTS: dict[str, Callable[[Problem], Problem]] = {
    "limit dropped": lambda p: replace(p, shortfalls=()),
    "wrong probabilities": lambda p: moved(p, probability=lambda s: s.probability[::-1].copy()),
    "leaves equally likely": lambda p: moved(p, probability=lambda s: np.full(len(s.leaves), 1.0 / len(s.leaves))),
    "worst leaf dropped": lambda p: moved(p, losses=lambda s: np.where(worst(p)[:, None], 0.0, s.losses)),
    "wrong sign": lambda p: moved(p, losses=lambda s: -s.losses),
    "leaves of the day before": lambda p: moved(p, losses=lambda s: 0.9 * s.losses),
    "percent for fraction": lambda p: moved(p, bound=lambda s: 100.0 * s.bound),
    "level 0: the mean": lambda p: moved(p, level=lambda s: 0.0),
    "higher level than the mandate": lambda p: moved(p, level=lambda s: 0.95),
    "another name's losses": lambda p: moved(p, losses=lambda s: np.roll(s.losses, 1, axis=1)),
    "tighter than the mandate": lambda p: moved(p, bound=lambda s: 0.8 * s.bound),
}


def worst(p: Problem) -> np.ndarray:
    losses = p.shortfalls[0].losses @ p.start
    return losses == losses.max()


@pytest.mark.parametrize("kind", PLANTS)
def test_a_planted_wrong_shortfall_is_refused(kind: str) -> None:
    refused = []
    for level in (0.3, 0.6):
        for seed in SEEDS:
            book, true = limited(seed, level), answer_of(seed, level)
            spoilt = PLANTS[kind](book.problem)
            raw = PROGRAMS.fit(spoilt).solve(spoilt, Attempt("CLARABEL"))
            if raw.weights is None or np.abs(raw.weights - true.weights).sum() <= 1e-4:
                continue
            names = book.problem.names.labels
            claimed = dict(zip(names, np.clip(raw.weights, 0.0, 1.0).tolist(), strict=True))
            refused += [not book.judge(Claim(claimed, duals)).accepted for duals in (raw.duals, true.duals)]
    assert len(refused) >= 6, f"{kind}: the plant changed too few answers and proves nothing"
    assert all(refused)


def test_absolute_for_active_or_the_reverse_is_refused() -> None:
    for seed in SEEDS:
        for kind, other in (("absolute", "active"), ("active", "absolute")):
            book = limited(seed, 0.6, kind)
            swapped = replace(book, limits={**LOOSE, "shortfall": (limit_of(0.6, bound_of(book), other),)})
            answer = swapped.solve(PROGRAMS)
            if np.abs(answer.weights - answer_of(seed, 0.6, kind).weights).sum() > 1e-4:
                assert not book.judge(claim_of(swapped.problem, answer)).accepted


def test_wrong_multipliers_of_the_leaves_only_loosen_the_bound() -> None:
    for seed in SEEDS:
        book, answer = limited(seed, 0.6), answer_of(seed, 0.6)
        leaves = book.problem.shortfalls[0].part_ids
        random = np.random.default_rng(seed)
        wrongs: list[dict[str, float]] = [
            dict.fromkeys(leaves, 0.0),
            dict.fromkeys(leaves, -1.0),
            dict.fromkeys(leaves, float("nan")),
            {leaves[0]: 1.0, **dict.fromkeys(leaves[1:], 0.0)},
            *({leaf: float(random.exponential()) for leaf in leaves} for _ in range(5)),
        ]
        for wrong in wrongs:
            verdict = book.judge(Claim(claim_of(book.problem, answer).weights, {**answer.duals, **wrong}))
            assert verdict.lower_bound <= answer.verdict.lower_bound + 1e-6 * answer.verdict.objective
            assert verdict.max_violation == answer.verdict.max_violation


def test_the_implied_row_is_broken_by_no_portfolio_inside_the_limit_in_exact_rationals() -> None:
    """Exactly ``row x - bound <= ES(x) - L`` at every point of the box, whatever the leaves' multipliers."""
    for seed in range(8):
        random = np.random.default_rng(seed)
        for level, kind in ((0.0, "absolute"), (0.35, "active"), (0.6, "absolute"), (0.9, "active")):
            book = free_book(seed, shortfall=(limit_of(level, 0.1, kind),))
            problem, limit = book.problem, book.problem.shortfalls[0]
            duals = {leaf: float(random.exponential() * random.integers(0, 2)) for leaf in limit.part_ids}
            claim = Claim({}, duals)
            case = assemble(book.evidence, *book.inputs.values(), claim)
            ((_, row, bound),) = read_cones(book.evidence, case, book.mandate, claim, benchmarked=True).rows
            written = [Fraction(p) for p, _ in book.trees["fork"].values()]
            probability = [p / sum(written) for p in written]
            against = rational(problem.benchmark) if kind == "active" else [Fraction(0)] * 10
            for point in (*random.dirichlet(np.ones(10), 6), np.ones(10), np.zeros(10)):
                held = [x - b for x, b in zip(rational(point), against, strict=True)]
                losses = [
                    -sum(r * h for r, h in zip(rational(totals), held, strict=True))
                    for _, totals in book.trees["fork"].values()
                ]
                met = worst_mean(losses, probability, Fraction(level)) - Fraction(0.1)
                implied = sum(r * x for r, x in zip(rational(row), rational(point), strict=True)) - Fraction(bound)
                assert implied <= met
            assert bound <= 0.1 + float(abs(row @ problem.benchmark)) + 1e-12


def worst_mean(losses: list[Fraction], probability: list[Fraction], level: Fraction) -> Fraction:
    left, total = 1 - level, Fraction(0)
    for loss, p in sorted(zip(losses, probability, strict=True), reverse=True):
        counted = min(p, left)
        total, left = total + counted * loss, left - counted
    return total / (1 - level)


def test_the_bound_is_never_above_a_portfolio_inside_the_limit_whatever_the_multipliers() -> None:
    inside = 0
    for seed in range(6):
        book, random = limited(seed % 4, 0.6), np.random.default_rng(seed)
        problem = book.problem
        for _ in range(40):
            x = random.dirichlet(np.full(10, 0.6)) * random.uniform(0.2, 0.9)
            spent = float(problem.costs @ np.abs(x - problem.start))
            if plain_shortfall(book, x, 0.6) > bound_of(book) - 1e-12 or x.sum() + spent > 1.0:
                continue
            inside += 1
            active = x - problem.benchmark
            risk = active @ (problem.root @ problem.root.T + np.diag(problem.specific)) @ active
            value = problem.aversion / 2 * risk + spent / problem.years
            size = float(10.0 ** random.uniform(-4, 1))
            ids = ("shortfall:fork", *problem.shortfalls[0].part_ids)
            duals = {**some_duals(problem, random, size), **{name: float(size * random.exponential()) for name in ids}}
            weights = dict(zip(problem.names.labels, random.dirichlet(np.ones(10)).tolist(), strict=True))
            assert book.judge(Claim(weights, duals)).lower_bound <= value + 1e-12
    assert inside > 60


def conflicts() -> dict[str, ConeBook]:
    book = free_book(1)
    fall = {"fork": {"down": (0.4, np.full(10, -0.3)), "up": (0.6, np.full(10, 0.1))}}
    bad = replace(book, trees=fall)
    tail = (limit_of(0.6, 0.05),)
    return {
        "cash cap": replace(bad, limits={**LOOSE, "cash": {"min": 0.0, "max": 0.1}, "shortfall": tail}),
        "turnover": replace(bad, limits={**LOOSE, "turnover": 0.1, "shortfall": tail}),
        "a pinned name": replace(bad, limits={**LOOSE, "weights": {"S0": {"min": 0.6, "max": 0.7}}, "shortfall": tail}),
        "tracking error": replace(bad, limits={**LOOSE, "tracking_error": 0.02, "shortfall": tail}),
    }


@pytest.mark.parametrize("words", conflicts())
def test_a_limit_that_cannot_be_kept_is_proven_and_so_is_by_how_much(words: str) -> None:
    book = conflicts()[words]
    answer = book.solve(PROGRAMS)
    assert answer.status == "infeasible"
    assert answer.duals["shortfall:fork"] > 0.0
    elastic = PROGRAMS.fit(book.problem).solve(book.problem, Attempt("CLARABEL"), elastic=True)
    assert answer.conflict == pytest.approx(elastic.excess, abs=1e-6)
    assert answer.conflict <= elastic.excess + 1e-9


def test_no_multipliers_refute_a_book_that_has_an_answer() -> None:
    for seed in SEEDS:
        book, random = limited(seed, 0.6), np.random.default_rng(seed)
        ids = ("shortfall:fork", *book.problem.shortfalls[0].part_ids)
        for size in (1e-3, 1.0, 30.0):
            for _ in range(5):
                duals = {**some_duals(book.problem, random, size), **{n: float(random.exponential()) for n in ids}}
                claim = Claim(claim_of(book.problem, answer_of(seed, 0.6)).weights, duals)
                assert book.refute(claim) <= 0.0


def test_the_bound_with_the_implied_row_is_what_lower_bound_says_of_it() -> None:
    """The row enters like any other: the bound of the case with it is the certificate's."""
    book, answer = limited(1, 0.6), answer_of(1, 0.6)
    claim = claim_of(book.problem, answer)
    case = assemble(book.evidence, *book.inputs.values(), claim)
    cones = read_cones(book.evidence, case, book.mandate, claim, benchmarked=True)
    active = case.x - case.benchmark
    lines = [float(line @ active) for _, line in case.shared]
    args = (answer.duals, case.b.T @ active, lines)
    with_row = lower_bound(replace(case, rows=[*case.rows, *cones.rows]), *args, risk=True)
    assert with_row <= answer.verdict.lower_bound
    assert with_row == pytest.approx(answer.verdict.lower_bound, rel=1e-6)
    assert lower_bound(case, *args, risk=True) != pytest.approx(with_row, rel=1e-3)


def test_a_shortfall_over_a_scenario_without_leaves_is_refused_by_program_and_certificate() -> None:
    book = replace(limited(1, 0.6), trees={})
    with pytest.raises(ModelError, match="shortfall:fork limits the mean over leaves, and fork has none"):
        _ = book.problem
    with pytest.raises(ModelError, match="shortfall:fork needs leaves, and fork has none"):
        book.judge(Claim({}, {}))


def test_an_active_shortfall_without_a_benchmark_is_refused_by_program_and_certificate() -> None:
    book = replace(limited(1, 0.6, "active"), benchmark=None)
    with pytest.raises(ModelError, match="shortfall need a benchmark"):
        _ = book.problem
    with pytest.raises(ModelError, match="shortfall are active, and the book has no benchmark"):
        book.judge(Claim({}, {}))


# The bundled universe.

TREE = "deepseek_tree"


def with_limit(loaded: LoadedUniverse, book: str, turnover: float = 1.0, **limit: Any) -> LoadedUniverse:
    """One bundled book under a limit on the shortfall over the tree."""
    name = dict(loaded.portfolios.select("portfolio_id", "mandate_id").iter_rows())[book]
    words = loaded.mandates[name].model_dump()
    holds = {**words["limits"]["priorities"], "shortfall": 0}
    tail = ({"scenario": TREE, **limit},)
    limits = {**words["limits"], "turnover": turnover, "shortfall": tail, "priorities": holds}
    changed = Mandate.model_validate({**words, "limits": limits, "lots": {"round": "none"}})
    return replace(loaded, mandates={**loaded.mandates, name: changed}).only([book])


def test_a_bundled_book_is_brought_inside_its_shortfall(bundled: LoadedUniverse) -> None:
    book = "power_and_grid"
    before = rebalance_portfolios(with_limit(bundled, book, level=0.9, max_loss=0.9))
    leaves = before.tables["stress_leaves"].filter(stage="after", scenario_id=TREE).sort("pnl_frac")
    worst_loss = -leaves["pnl_frac"][0]
    assert leaves["probability"][0] > 0.1
    most = round(worst_loss - 0.01, 3)
    loaded = with_limit(bundled, book, level=0.9, max_loss=most)
    result = rebalance_portfolios(loaded)
    assert result.tables["certificates"]["status"].to_list() == ["certified", "certified"]
    row = result.tables["limits"].filter(limit_id=f"shortfall:{TREE}").row(0, named=True)
    # One leaf carries more than the worst tenth, so the mean over it is the loss in that leaf.
    after = result.tables["stress_leaves"].filter(stage="after", scenario_id=TREE)["pnl_frac"].min()
    assert row["after"] == pytest.approx(-after, abs=1e-10)
    assert row["after"] == pytest.approx(most, abs=1e-8)
    assert row["shadow_price"] > 0.0
    trees = result.tables["stress_trees"].filter(stage="after", scenario_id=TREE)
    assert trees["expected_shortfall"].to_list() == pytest.approx([most], abs=1e-8)
    assert f"limit shortfall:{TREE}" in result.tables["trades"]["reason"].to_list()
    priced = price_limit(loaded, result, f"shortfall:{TREE}")
    assert priced["saved"][0] > 0.0
    assert words_of(f"shortfall:{TREE}") == "the expected shortfall over deepseek_tree"
    assert words_of(f"shortfall:{TREE}:active") == "the active expected shortfall over deepseek_tree"


def test_a_bundled_conflict_names_the_limit_and_no_leaf(bundled: LoadedUniverse) -> None:
    loaded = with_limit(bundled, "power_and_grid", turnover=0.1, level=0.9, max_loss=0.001)
    result = rebalance_portfolios(loaded)
    assert result.tables["certificates"]["status"].to_list() == ["infeasible"]
    (message,) = [notice.message for notice in result.notices if notice.code == "book.infeasible"]
    assert f"shortfall:{TREE}" in message and ":leaf:" not in message


def test_where_another_limit_gives_way_a_shortfall_and_its_proof_hold(bundled: LoadedUniverse) -> None:
    loaded = with_limit(bundled, "power_and_grid", turnover=0.005, level=0.9, max_loss=0.5)
    result = rebalance_portfolios(loaded)
    assert result.tables["certificates"]["status"].to_list() == ["certified", "certified"]
    limits = {row["limit_id"]: row for row in result.tables["limits"].iter_rows(named=True)}
    assert limits["stress:deepseek"]["relaxed_by"] > 1e-3
    assert not limits[f"shortfall:{TREE}"]["breach"] and limits[f"shortfall:{TREE}"]["relaxed_by"] is None


def test_a_shortfall_over_a_scenario_that_is_no_tree_is_refused_with_its_place(folder: Path) -> None:
    path = folder / "mandates" / "careful.yaml"
    path.write_text(path.read_text() + "  shortfall:\n    - {scenario: planted_day, level: 0.9, max_loss: 0.08}\n")
    with pytest.raises(ConfigurationError) as refusal:
        load_universe(str(folder))
    (fault,) = refusal.value.faults
    line = path.read_text().splitlines().index("    - {scenario: planted_day, level: 0.9, max_loss: 0.08}") + 1
    assert fault.startswith(f"mandates/careful.yaml:{line}:")
    assert "shortfall:planted_day: 'planted_day' is not a tree and has no leaves; the library has no tree" in fault


def plant_fork(folder: Path, limit: str) -> None:
    """A tree of the planted day and a mild other one, five days long, and a limit on it."""
    text = "id: fork\ntitle: F\nversion: 1.0.0\nkind: tree\nhorizon_days: 5\nnarrative: n\nauthor: a\nleaves:\n"
    text += "  - {scenario: planted_day, probability: 0.4, source: s}\n"
    text += "  - {scenario: planted_other, probability: 0.6, source: s}\n"
    (folder / "scenarios" / "fork.yaml").write_text(text)
    other = (folder / "scenarios" / "planted_day.yaml").read_text().replace("id: planted_day", "id: planted_other")
    (folder / "scenarios" / "planted_other.yaml").write_text(other.replace("-0.02", "0.02"))
    path = folder / "mandates" / "careful.yaml"
    path.write_text(path.read_text() + f"  shortfall:\n    - {{scenario: fork, {limit}}}\n")


def test_a_shortfall_for_another_horizon_than_its_tree_is_refused(folder: Path) -> None:
    plant_fork(folder, "max_loss: 0.08, horizon_days: 1")
    with pytest.raises(ConfigurationError, match="its budget on fork is for 1 trading days, the scenario runs 5"):
        load_universe(str(folder))
    path = folder / "mandates" / "careful.yaml"
    path.write_text(path.read_text().replace("horizon_days: 1", "horizon_days: 5"))
    assert load_universe(str(folder)).mandates["careful"].limits.shortfall[0].level == 0.9


def test_a_traded_fund_moves_in_every_leaf_as_what_it_holds_and_its_margin_is_the_programs(
    folder: Path, market: Market
) -> None:
    plant_fork(folder, "level: 0.8, max_loss: 0.06")
    path = folder / "mandates" / "careful.yaml"
    path.write_text(path.read_text().replace("max_loss: 0.08}", "max_loss: 0.08, robust: 1.0}"))
    books = {"fund": {"FUND": 0.5, "REST-00": 0.3, "GRID-0": 0.1}}
    tables = rebalance_portfolios(loaded_with(folder, market, books, {"FUND": {"GRID-0": 0.5, "GRID-1": 0.5}})).tables
    assert tables["certificates"]["status"].to_list() == ["certified", "certified"]
    limits = {row["limit_id"]: row for row in tables["limits"].iter_rows(named=True)}
    for stage in ("before", "after"):
        leaves = tables["stress_leaves"].filter(portfolio_id="fund", stage=stage, scenario_id="fork")
        # The worst fifth is inside the worst leaf.
        assert limits["shortfall:fork"][stage] == pytest.approx(-leaves["pnl_frac"].min(), abs=1e-12)
        row = tables["stress"].filter(portfolio_id="fund", stage=stage, scenario_id="planted_day").row(0, named=True)
        assert limits["stress:planted_day"][stage] == pytest.approx(row["measured_loss"], abs=1e-12)
        assert row["measured_loss"] > 1e-3 - row["pnl_frac"]
    assert limits["shortfall:fork"]["after"] == pytest.approx(0.06, abs=1e-8)


def test_one_limit_a_tree() -> None:
    words = {"id": "m", "title": "M", "version": "1.0.0"}
    with pytest.raises(ValueError, match="two budgets for fork; keep one"):
        Mandate.model_validate({**words, "limits": {"shortfall": (limit_of(0.5, 0.1), limit_of(0.9, 0.1))}})


@pytest.mark.parametrize("robust", [0.0, 1.0])
def test_whole_lots_keep_limits_that_are_no_rows(bundled: LoadedUniverse, robust: float) -> None:
    loaded = with_limit(bundled, "power_and_grid", level=0.9, max_loss=0.2)
    (name,) = set(loaded.portfolios["mandate_id"].drop_nulls())
    own = loaded.mandates[name]
    budgets = tuple(budget.model_copy(update={"robust": robust}) for budget in own.limits.stress)
    limits = own.limits.model_copy(update={"stress": budgets})
    whole = own.model_copy(update={"limits": limits, "lots": Lots()})
    tables = rebalance_portfolios(replace(loaded, mandates={**loaded.mandates, name: whole})).tables
    assert tables["certificates"]["status"].to_list() == ["certified", "certified"]
    traded = tables["targets"].filter(pl.col("weight_after") != pl.col("weight_before"))["quantity_after"]
    assert traded.len() and (traded % 1.0 == 0.0).all()
    assert not tables["limits"]["breach"].any()
