"""The wider limits: bands on sectors and factors, active bands, lists, each proven and each planted wrong."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
from test_certificate import (
    PROGRAMS,
    Book,
    exact_bound,
    rational,
    second_opinion,
    some_duals,
    tight_book,
    with_bounds,
    with_rows,
)
from test_rebalance import LOOSE, plain_book

from engine.api.loading import LoadedUniverse
from engine.api.rebalancing import rebalance_portfolios
from engine.book.answers import limit_table
from engine.errors import ModelError
from engine.rebalance.attempt import Attempt
from engine.rebalance.bound import lower_bound
from engine.rebalance.case import assemble
from engine.rebalance.evidence import Claim
from engine.rebalance.problem import Problem
from engine.rebalance.solve import Answer

SECTORS = {f"S{i}": ("tech", "power")[i % 2] for i in range(6)}
"""The names from S6 on are unclassified."""

LISTS = ("S0", "S2", "S4", "S5")


def free_book(seed: int, **limits: Any) -> Book:
    """A tight book's names and risk under loose limits and those given."""
    book = tight_book(seed)
    return replace(book, limits={**LOOSE, **limits}, sectors=SECTORS)


def load_of(book: Book, kind: str, key: str) -> np.ndarray:
    """Loading of every name on a tier, a sector or a factor, from the book and not from its problem."""
    names = book.problem.names.labels
    if kind.endswith("sector"):
        return np.array([float(book.sectors.get(name, "unclassified") == key) for name in names])
    if kind.endswith("tier"):
        return np.array([book.shares.get(name, {}).get(key, 0.0) for name in names])
    column = book.model.factors.labels.index(key)
    return np.array([book.exposures[int(name[1:]), column] for name in names])


def measured(book: Book, kind: str, key: str, x: np.ndarray) -> float:
    held = x - book.problem.benchmark if kind.startswith("active") else x
    return float(load_of(book, kind, key) @ held)


BANDS = [
    ("active_tier", "a"),
    ("sector", "tech"),
    ("sector", "unclassified"),
    ("active_sector", "power"),
    ("factor", "market"),
    ("factor", "f1"),
    ("active_factor", "f2"),
]


@cache
def banded(kind: str, key: str, side: str, seed: int) -> tuple[Book, float]:
    """A book with one band that its answer without the band would break by about a sixth of the way."""
    free = free_book(seed)
    x = solved(free).weights
    now, before = measured(free, kind, key, x), measured(free, kind, key, free.problem.start)
    step = 0.02 + 0.2 * abs(now - before)
    bound = now - step if side == "max" else now + step
    return replace(free, limits={**free.limits, f"{kind}s": {key: {side: bound}}}), bound


@cache
def banded_answer(kind: str, key: str, side: str, seed: int) -> Answer:
    """The certified answer of a banded book."""
    return solved(banded(kind, key, side, seed)[0])


def solved(book: Book) -> Answer:
    answer = book.solve(PROGRAMS)
    assert answer.status == "certified", answer
    return answer


@pytest.mark.parametrize("side", ["max", "min"])
@pytest.mark.parametrize(("kind", "key"), BANDS)
def test_a_band_binds_to_the_number_and_a_second_solver_agrees(kind: str, key: str, side: str) -> None:
    for seed in range(2):
        (book, bound), answer = banded(kind, key, side, seed), banded_answer(kind, key, side, seed)
        assert measured(book, kind, key, answer.weights) == pytest.approx(bound, abs=1e-8)
        best, _ = second_opinion(book.problem)
        assert abs(answer.verdict.objective - best) <= 1e-6 * best + 1e-9
        row = {one["limit_id"]: one for one in limit_table([(book.problem, answer)]).to_dicts()}[f"{kind}:{key}:{side}"]
        assert row["kind"] == kind
        assert row["bound"] == pytest.approx(bound, abs=1e-12)
        assert row["before"] == pytest.approx(measured(book, kind, key, book.problem.start), abs=1e-12)
        assert row["after"] == pytest.approx(measured(book, kind, key, answer.weights), abs=1e-12)
        assert row["slack"] == pytest.approx(0.0, abs=1e-8)
        assert row["shadow_price"] > 0.0
        assert not row["breach"]


def test_a_shadow_price_is_what_one_more_unit_of_the_bound_saves() -> None:
    for kind, key in BANDS:
        book, bound = banded(kind, key, "max", 1)
        answer = banded_answer(kind, key, "max", 1)
        step = 1e-3
        wider = replace(book, limits={**book.limits, f"{kind}s": {key: {"max": bound + step}}})
        saved = (answer.verdict.objective - solved(wider).verdict.objective) / step
        # Convex: what a step saves is at most what the bound's own price says.
        price = answer.duals[f"{kind}:{key}:max"]
        assert saved <= price * (1.0 + 1e-4)
        assert saved == pytest.approx(price, rel=0.1)


Plant = Callable[[Book, Problem, str], Problem]

PLANTS: dict[str, Plant] = {
    "wrong sign": lambda b, p, limit: with_bounds(with_rows(p, limit, np.negative), limit, np.negative),
    "percent for fraction": lambda b, p, limit: with_rows(
        p, limit, lambda row: row * (0.01 if limit.endswith("max") else 100.0)
    ),
    "yesterday's bound": lambda b, p, limit: with_bounds(p, limit, lambda bound: bound + 0.01),
    "dropped row": lambda b, p, limit: with_bounds(p, limit, lambda bound: bound + 1e3),
    "another name's loading": lambda b, p, limit: with_rows(p, limit, lambda row: np.roll(row, 1)),
    "absolute for active or the reverse": lambda b, p, limit: with_bounds(
        p, limit, lambda bound: bound - float(p.rows[p.row_ids.index(limit)] @ p.benchmark)
    ),
}


@pytest.mark.parametrize("kind", PLANTS)
@pytest.mark.parametrize("side", ["max", "min"])
def test_a_planted_wrong_band_is_refused(kind: str, side: str) -> None:
    refused = []
    for band, key in BANDS:
        for seed in range(2):
            book, _ = banded(band, key, side, seed)
            true = banded_answer(band, key, side, seed)
            spoilt = PLANTS[kind](book, book.problem, f"{band}:{key}:{side}")
            raw = PROGRAMS.fit(spoilt).solve(spoilt, Attempt("CLARABEL"))
            if raw.weights is None or np.abs(raw.weights - true.weights).sum() <= 1e-4:
                continue
            claimed = dict(zip(spoilt.names.labels, raw.weights.tolist(), strict=True))
            refused += [not book.judge(Claim(claimed, duals)).accepted for duals in (raw.duals, true.duals)]
    assert len(refused) >= 8, f"{kind}: the plant changed too few answers and proves nothing"
    assert all(refused)


def test_the_bound_with_every_band_is_never_above_exact_rationals() -> None:
    for seed in range(12):
        random = np.random.default_rng(seed)
        bands = {"min": -0.2, "max": 0.3}
        book = free_book(
            seed,
            sectors={"tech": {"min": 0.1, "max": 0.5}},
            active_sectors={"power": bands},
            factors={"market": {"min": 0.2, "max": 1.4}},
            active_factors={"f1": bands},
            active_tiers={"a": bands},
            active_weights={"S0": {"min": -0.1, "max": 0.1}},
            no_buy=("S2",),
            frozen=("S4",),
        )
        problem = book.problem
        case = assemble(book.evidence, *book.inputs.values(), Claim({}, {}))
        assert {name for name, _, _ in case.rows} == set(problem.row_ids)
        for size in (1e-4, 1.0, 1e4):
            duals = some_duals(problem, random, size)
            w = case.b.T @ (random.dirichlet(np.ones(len(problem.names))) - case.benchmark)
            lines = [float(random.normal() * 0.1) for _ in case.shared]
            exact = wide_bound(book, duals, w, lines)
            found = lower_bound(case, duals, w, lines, risk=True)
            assert Fraction(found) <= exact
            assert float(exact) - found <= 1e-11 * (1.0 + abs(found) + size)


def wide_bound(book: Book, duals: dict[str, float], w: np.ndarray, lines: list[float]) -> Fraction:
    """The bound in exact rationals with the active rows' bounds unrounded: limit plus loading times benchmark."""
    total = exact_bound(book, duals, w, lines, risk=True)
    problem = book.problem
    for name, row, bound in zip(problem.row_ids, problem.rows, problem.bounds, strict=True):
        kind, key, side = [*name.split(":"), ""][:3]
        if kind.startswith("active_"):
            sign = 1 if side == "max" else -1
            band = book.mandate.limits.model_dump()[f"{kind}s"][key]
            own = sum(r * b for r, b in zip(rational(row), rational(problem.benchmark), strict=True))
            total += Fraction(duals.get(name, 0.0)) * (Fraction(float(bound)) - sign * Fraction(band[side]) - own)
    return total


def listed(seed: int, key: str) -> Book:
    return free_book(seed, **{key: LISTS})


def test_lists_are_kept_to_the_bit() -> None:
    for seed in range(4):
        chosen = np.isin(listed(seed, "frozen").problem.names.labels, LISTS)
        for key, kept in (
            ("excluded", lambda x, x0: x == 0.0),
            ("no_buy", lambda x, x0: x <= x0),
            ("no_sell", lambda x, x0: x >= x0),
            ("frozen", lambda x, x0: x == x0),
        ):
            book = listed(seed, key)
            answer = solved(book)
            assert kept(answer.weights[chosen], book.problem.start[chosen]).all(), (seed, key)
            best, _ = second_opinion(book.problem)
            assert abs(answer.verdict.objective - best) <= 1e-6 * best + 1e-9


@pytest.mark.parametrize("key", ["excluded", "no_buy", "no_sell", "frozen"])
def test_an_answer_that_forgot_a_list_is_refused(key: str) -> None:
    refused = 0
    for seed in range(6):
        free, book = free_book(seed), listed(seed, key)
        answer = solved(free)
        weights = dict(zip(free.problem.names.labels, answer.weights.tolist(), strict=True))
        if np.abs(answer.weights - solved(book).weights).max() > 1e-6:
            assert not book.judge(Claim(weights, answer.duals)).accepted
            refused += 1
    assert refused >= 4


def test_what_a_list_holds_back_stands_among_the_limits_and_sells_say_why() -> None:
    book = listed(0, "excluded")
    answer = solved(book)
    rows = {one["limit_id"]: one for one in limit_table([(book.problem, answer)]).to_dicts()}
    row = rows["excluded:S2:max"]
    assert (row["kind"], row["bound"], row["after"], row["breach"]) == ("excluded", 0.0, 0.0, False)
    assert row["before"] == book.weights["S2"]
    assert row["breach_before"]
    assert "frozen:S4:min" in limit_table([(listed(0, "frozen").problem, solved(listed(0, "frozen")))])["limit_id"]


def test_an_active_weight_band_is_measured_from_the_benchmark() -> None:
    for seed in range(3):
        free = free_book(seed)
        active = solved(free).weights - free.problem.benchmark
        i = int(np.argmax(np.abs(active)))
        name, side = free.problem.names.labels[i], "max" if active[i] > 0.0 else "min"
        book = free_book(seed, active_weights={name: {side: 0.5 * float(active[i])}})
        answer = solved(book)
        assert answer.weights[i] - book.problem.benchmark[i] == pytest.approx(0.5 * active[i], abs=1e-9)
        rows = {one["limit_id"]: one for one in limit_table([(book.problem, answer)]).to_dicts()}
        assert rows[f"active_weight:{name}:{side}"]["bound"] == pytest.approx(0.5 * active[i], abs=1e-12)
        weights = dict(zip(free.problem.names.labels, solved(free).weights.tolist(), strict=True))
        assert not book.judge(Claim(weights, solved(free).duals)).accepted


def test_the_widest_active_weight_holds_for_every_name_in_both_directions() -> None:
    free = free_book(1)
    widest = 0.6 * float(np.abs(solved(free).weights - free.problem.benchmark).max())
    book = free_book(1, max_active_weight=widest)
    answer = solved(book)
    assert np.abs(answer.weights - book.problem.benchmark).max() == pytest.approx(widest, abs=1e-9)
    best, _ = second_opinion(book.problem)
    assert abs(answer.verdict.objective - best) <= 1e-6 * best + 1e-9


def test_limits_that_leave_a_name_no_weight_are_proven_to_conflict_by_name() -> None:
    weights = {"S0": 0.5, "S1": 0.3}
    book = plain_book(weights, 2, limits={**LOOSE, "max_weight": 0.4, "frozen": ("S0", "S1")})
    answer = book.solve(PROGRAMS)
    assert (answer.status, answer.conflict) == ("infeasible", pytest.approx(0.05))
    assert list(answer.duals) == ["frozen:S0:min", "weight:S0:max"]
    assert book.refute(Claim(weights, {})) == pytest.approx(0.05)
    # The conflict is told, not found where there is none.
    still = plain_book(weights, 2, limits={**LOOSE, "max_weight": 0.5, "frozen": ("S0", "S1")})
    assert solved(still).weights.tolist() == [0.5, 0.3]
    assert still.refute(Claim(weights, {})) <= 0.0


def test_an_active_limit_without_a_benchmark_is_refused_by_program_and_certificate() -> None:
    book = replace(free_book(0, active_sectors={"tech": {"max": 0.1}}), benchmark=None)
    with pytest.raises(ModelError, match="active_sectors need a benchmark, and book has none"):
        _ = book.problem
    with pytest.raises(ModelError, match="active_sectors are active, and the book has no benchmark"):
        book.judge(Claim({}, {}))


def with_limits(bundled: LoadedUniverse, mandate: str, **changes: Any) -> LoadedUniverse:
    """The bundled universe with limits of one mandate read anew."""
    one = bundled.mandates[mandate]
    words = {**one.model_dump(), "limits": {**one.limits.model_dump(), **changes}}
    return replace(bundled, mandates={**bundled.mandates, mandate: type(one).model_validate(words)})


def test_a_bundled_book_keeps_a_sector_band_and_a_frozen_name(bundled: LoadedUniverse) -> None:
    book = "power_and_grid"
    mandate = bundled.portfolios.filter(bundled.portfolios["portfolio_id"] == book)["mandate_id"].item()
    plain = rebalance_portfolios(bundled.only([book])).tables
    held = plain["targets"].sort("weight_after", descending=True)
    sectors = dict(bundled.universe.securities.select("security_id", "gics_sector").drop_nulls().iter_rows())
    after = dict(held.select("security_id", "weight_after").iter_rows())
    chosen = sectors[next(name for name in after if name in sectors)]
    used = sum(weight for name, weight in after.items() if sectors.get(name) == chosen)
    moved = plain["trades"].sort("trade_weight")["security_id"][0]
    loaded = with_limits(bundled, mandate, sectors={chosen: {"max": used - 0.01}}, no_sell=(moved,))
    tables = rebalance_portfolios(loaded.only([book])).tables
    assert tables["certificates"]["status"].to_list() == ["certified", "certified"]
    now = dict(tables["targets"].select("security_id", "weight_after").iter_rows())
    total = sum(weight for name, weight in now.items() if sectors.get(name) == chosen)
    assert total <= used - 0.01 + 1e-9
    assert now[moved] >= dict(tables["targets"].select("security_id", "weight_before").iter_rows())[moved]


def test_a_bundled_book_without_a_benchmark_is_set_aside_by_an_active_limit(bundled: LoadedUniverse) -> None:
    alone = bundled.portfolios.filter(
        bundled.portfolios["mandate_id"].is_not_null() & bundled.portfolios["benchmark_id"].is_null()
    )
    book, mandate = alone.select("portfolio_id", "mandate_id").row(0)
    loaded = with_limits(bundled, mandate, active_factors={"market": {"max": 0.1}})
    result = rebalance_portfolios(loaded.only([book]))
    words = [notice.message for notice in result.notices if notice.code == "book.active_limit"]
    assert words == [
        f"mandate {mandate} limits active_factors against a benchmark, and the book has none that can be used"
    ]
