"""Robust stress budgets: specific risk counted as loss, proven, priced, refused where planted wrong."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import cvxpy as cp
import numpy as np
import polars as pl
import pytest
from cones import ConeBook, as_cone_book, dense_optimum
from rich.console import Console
from test_certificate import PROGRAMS, rational, some_duals, tight_book
from test_rebalance import LOOSE

from engine.api.hedging import HedgeTerms, hedge_portfolios
from engine.api.loading import LoadedUniverse
from engine.api.rebalancing import rebalance_portfolios
from engine.api.stressing import stress_portfolios
from engine.book.answers import limit_table
from engine.desk.mandates import show_mandate
from engine.errors import ModelError
from engine.mandates.mandate import Mandate
from engine.rebalance.attempt import Attempt
from engine.rebalance.case import assemble
from engine.rebalance.cone_bounds import read_cones
from engine.rebalance.cones import Margin
from engine.rebalance.evidence import Claim
from engine.rebalance.problem import Problem
from engine.rebalance.shadows import marginal_costs
from engine.rebalance.solve import Answer

SEEDS = (0, 1, 2, 3)

DAYS = 21

KAPPA = 1.5


def budget_of(most: float, kind: str = "absolute", robust: float = KAPPA) -> tuple[dict[str, Any], ...]:
    return ({"scenario": "crash", "max_loss": float(most), "kind": kind, "robust": robust},)


def free_book(seed: int, **limits: Any) -> ConeBook:
    """A tight book's names and risk under loose limits; S0 and S1 are lines of one issuer."""
    rest = {"risk_aversion": 3.0, "costs": {"half_spread_bps": 15.0, "holding_years": 1.5}}
    return as_cone_book(tight_book(seed), limits={**LOOSE, **limits}, horizons={"crash": DAYS}, rest=rest)


def solved(book: ConeBook) -> Answer:
    answer = book.solve(PROGRAMS)
    assert answer.status == "certified", answer
    return answer


def deviation(book: ConeBook, held: np.ndarray) -> float:
    """``sqrt(a'Da)`` over the horizon, issuer by issuer, from the book and not from its problem."""
    at = [book.model.securities.labels.index(name) for name in book.problem.names.labels]
    total = 0.0
    for issuer in sorted({int(book.issuers[i]) for i in at}):
        lines = [position for position, i in enumerate(at) if book.issuers[i] == issuer]
        total += float(book.variance[at[lines[0]]]) * sum(float(held[position]) for position in lines) ** 2
    return float(np.sqrt(total * DAYS / 252.0))


def loss_with_margin(book: ConeBook, x: np.ndarray, kind: str = "absolute", robust: float = KAPPA) -> float:
    held = x - book.problem.benchmark if kind == "active" else x
    at = [book.model.securities.labels.index(name) for name in book.problem.names.labels]
    return -float(book.shocks["crash"][at] @ held) + robust * deviation(book, held)


@cache
def limited(seed: int, kind: str = "absolute") -> ConeBook:
    """A book whose loss with its margin has to come down by a quarter."""
    free = free_book(seed)
    if kind == "active" and loss_with_margin(free, base(seed), kind, robust=0.0) < 0.0:
        free = replace(free, shocks={name: -shock for name, shock in free.shocks.items()})
    return replace(free, limits={**LOOSE, "stress": budget_of(0.75 * loss_with_margin(free, base(seed), kind), kind)})


@cache
def base(seed: int) -> np.ndarray:
    """The weights without a budget."""
    return solved(free_book(seed)).weights


@cache
def answer_of(seed: int, kind: str = "absolute") -> Answer:
    return solved(limited(seed, kind))


def bound_of(book: ConeBook) -> float:
    return book.mandate.limits.stress[0].max_loss


def id_of(kind: str) -> str:
    return "stress:crash" + (":active" if kind == "active" else "")


def naive(book: ConeBook, kind: str = "absolute", robust: float = KAPPA) -> tuple[float, np.ndarray]:
    """The dense program with ``D`` formed and its root taken by Cholesky."""
    problem = book.problem
    at = [book.model.securities.labels.index(name) for name in problem.names.labels]
    same = book.issuers[at][:, None] == book.issuers[at][None, :]
    d = np.where(same, np.sqrt(np.outer(book.variance[at], book.variance[at])), 0.0) * DAYS / 252.0
    values, vectors = np.linalg.eigh(d)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))).T
    x = cp.Variable(len(problem.names))
    held = x - problem.benchmark if kind == "active" else x
    loss = -book.shocks["crash"][at] @ held
    return dense_optimum(problem, x, [loss + robust * cp.norm(root @ held) <= bound_of(book)])


@pytest.mark.parametrize("kind", ["absolute", "active"])
def test_a_robust_budget_is_certified_on_its_bound_and_a_dense_program_agrees(kind: str) -> None:
    for seed in SEEDS:
        book, answer = limited(seed, kind), answer_of(seed, kind)
        best, _ = naive(book, kind)
        assert abs(answer.verdict.objective - best) <= 1e-6 * best + 1e-9
        assert answer.verdict.lower_bound <= best + 1e-9
        used = loss_with_margin(book, answer.weights, kind)
        assert used == pytest.approx(bound_of(book), abs=1e-8)
        assert used <= bound_of(book) + 1e-9
        row = {one["limit_id"]: one for one in limit_table([(book.problem, answer)]).to_dicts()}[id_of(kind)]
        assert (row["kind"], row["bound"], row["breach"]) == ("stress", bound_of(book), False)
        assert row["before"] == pytest.approx(loss_with_margin(book, book.problem.start, kind), abs=1e-12)
        assert row["after"] == pytest.approx(used, abs=1e-12)
        assert row["shadow_price"] > 1e-3


def test_a_shadow_price_is_what_a_wider_budget_saves_and_no_further_trade_pays() -> None:
    for seed in SEEDS:
        book, answer = limited(seed), answer_of(seed)
        step = 1e-4
        wide, tight = (
            replace(book, limits={**LOOSE, "stress": budget_of(bound_of(book) + sign * step)}) for sign in (1.0, -1.0)
        )
        price = limit_table([(book.problem, answer)]).filter(limit_id="stress:crash")["shadow_price"][0]
        saved = (answer.verdict.objective - naive(wide)[0]) / step
        paid = (naive(tight)[0] - answer.verdict.objective) / step
        assert saved * (1.0 - 1e-3) - 2e-5 <= price <= paid * (1.0 + 1e-3) + 2e-5
        assert price == pytest.approx((saved + paid) / 2.0, rel=0.02, abs=2e-5)
        buying, selling = marginal_costs(book.problem, answer.weights, answer.duals)
        x = answer.weights
        assert buying[x < book.problem.upper - 1e-9].min() > -2e-5
        assert selling[x > book.problem.lower + 1e-9].min() > -2e-5


def test_robust_0_is_the_plain_budget_to_the_bit() -> None:
    for seed in SEEDS:
        most = -0.75 * float(free_book(seed).shocks["crash"] @ base(seed))
        plain = replace(free_book(seed), limits={**LOOSE, "stress": ({"scenario": "crash", "max_loss": most},)})
        zero = replace(free_book(seed), limits={**LOOSE, "stress": budget_of(most, robust=0.0)})
        assert zero.problem.margins == () and zero.problem.row_ids == plain.problem.row_ids
        assert (solved(zero).weights == solved(plain).weights).all()
        # A margin of next to nothing is a cone, and its answer the same.
        small = replace(free_book(seed), limits={**LOOSE, "stress": budget_of(most, robust=1e-9)})
        assert small.problem.margins and id_of("absolute") not in small.problem.row_ids
        assert solved(small).verdict.objective == pytest.approx(solved(plain).verdict.objective, rel=1e-6)


def test_a_larger_margin_costs_more_and_leaves_less_plain_loss() -> None:
    book = limited(1)
    costs = []
    for robust in (0.0, 0.5, 1.0, 2.0):
        wider = replace(book, limits={**LOOSE, "stress": budget_of(bound_of(book), robust=robust)})
        answer = solved(wider)
        costs.append(answer.verdict.objective)
        plain = loss_with_margin(wider, answer.weights, robust=0.0)
        assert plain + robust * deviation(wider, answer.weights) <= bound_of(book) + 1e-9
    assert (np.diff(costs) >= -1e-9).all() and costs[-1] > costs[0]


def moved(p: Problem, **changes: Callable[[Margin], Any]) -> Problem:
    """The program with its robust budget changed."""
    margin = p.margins[0]
    return replace(p, margins=(replace(margin, **{name: change(margin) for name, change in changes.items()}),))


def lines_apart(book: ConeBook) -> Problem:
    """The two lines of an issuer as if each had a specific return of its own."""
    p = book.problem
    own = p.margins[0].own + np.abs(p.margins[0].shared).sum(axis=1)
    return moved(p, own=lambda _: own, shared=lambda m: 0.0 * m.shared)


PLANTS: dict[str, Callable[[ConeBook, Problem], Problem]] = {
    "kappa 0": lambda b, p: moved(p, own=lambda m: 0.0 * m.own, shared=lambda m: 0.0 * m.shared),
    "budget dropped": lambda b, p: replace(p, margins=()),
    "a day for the horizon": lambda b, p: scaled(p, DAYS**-0.5),
    "a year for the horizon": lambda b, p: scaled(p, (252.0 / DAYS) ** 0.5),
    "variance for deviation": lambda b, p: moved(p, own=lambda m: m.own**2, shared=lambda m: m.shared**2),
    "lines of an issuer apart": lambda b, p: lines_apart(b),
    "issuer left out": lambda b, p: moved(p, shared=lambda m: 0.0 * m.shared),
    "wrong sign of the shock": lambda b, p: moved(p, loss=lambda m: -m.loss),
    "yesterday's shock": lambda b, p: moved(p, loss=lambda m: 0.9 * m.loss),
    "another name's risk": lambda b, p: moved(p, own=lambda m: np.roll(m.own, 3)),
    "percent for fraction": lambda b, p: moved(p, bound=lambda m: 100.0 * m.bound),
    "tighter than the mandate": lambda b, p: moved(p, bound=lambda m: 0.9 * m.bound),
}


def scaled(p: Problem, factor: float) -> Problem:
    return moved(p, own=lambda m: factor * m.own, shared=lambda m: factor * m.shared)


@pytest.mark.parametrize("kind", PLANTS)
def test_a_planted_wrong_margin_is_refused(kind: str) -> None:
    refused = []
    for against in ("absolute", "active"):
        for seed in SEEDS:
            book, true = limited(seed, against), answer_of(seed, against)
            spoilt = PLANTS[kind](book, book.problem)
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
        book = limited(seed, "active")
        swapped = replace(book, limits={**LOOSE, "stress": budget_of(bound_of(book), "absolute")})
        wide = replace(limited(seed), limits={**LOOSE, "stress": budget_of(bound_of(limited(seed)), "active")})
        for true, wrong in ((book, swapped), (limited(seed), wide)):
            answer = wrong.solve(PROGRAMS)
            duals = {name.replace("stress:crash:active", "stress:crash"): v for name, v in answer.duals.items()}
            claimed = dict(zip(true.problem.names.labels, answer.weights.tolist(), strict=True))
            for said in (duals, {**duals, "stress:crash:active": duals.get("stress:crash", 0.0)}):
                assert not true.judge(Claim(claimed, said)).accepted


def test_wrong_multipliers_only_loosen_the_bound() -> None:
    for seed in SEEDS:
        book, answer = limited(seed), answer_of(seed)
        weights = dict(zip(book.problem.names.labels, answer.weights.tolist(), strict=True))
        for factor in (0.0, 0.5, 0.9, 1.1, 3.0, -1.0):
            wrong = {**answer.duals, "stress:crash": factor * answer.duals["stress:crash"]}
            verdict = book.judge(Claim(weights, wrong))
            assert verdict.lower_bound <= answer.verdict.lower_bound + 1e-6 * answer.verdict.objective
            assert not verdict.accepted


def exact_square(book: ConeBook, held: list[Fraction]) -> Fraction:
    """``a'Da`` over the horizon in exact rationals."""
    names = book.problem.names.labels
    at = [book.model.securities.labels.index(name) for name in names]
    by_issuer: dict[int, list[int]] = {}
    for position, i in enumerate(at):
        by_issuer.setdefault(int(book.issuers[i]), []).append(position)
    return Fraction(DAYS, 252) * sum(
        Fraction(float(book.variance[at[lines[0]]])) * sum(held[i] for i in lines) ** 2 for lines in by_issuer.values()
    )


def test_the_implied_row_is_broken_by_no_portfolio_inside_the_budget_in_exact_rationals() -> None:
    """``row x - bound <= loss + kappa sqrt(a'Da) - L``, the root compared by its square, at points of the box."""
    for seed in range(8):
        random = np.random.default_rng(seed)
        for kind in ("absolute", "active"):
            book = free_book(seed, stress=budget_of(0.1, kind))
            problem = book.problem
            against = rational(problem.benchmark) if kind == "active" else [Fraction(0)] * 10
            direction = random.dirichlet(np.ones(10))
            claim = Claim(dict(zip(problem.names.labels, direction.tolist(), strict=True)), {})
            case = assemble(book.evidence, *book.inputs.values(), claim)
            cones = read_cones(book.evidence, case, book.mandate, claim, benchmarked=True)
            ((name, row, bound),) = cones.rows
            assert name == id_of(kind)
            assert cones.violation[name] == pytest.approx(loss_with_margin(book, direction, kind) - 0.1, abs=1e-13)
            shock = rational(book.shocks["crash"][[int(n[1:]) for n in problem.names.labels]])
            # Along the claim's own direction the row is tight, so rounding shows there first.
            along = [2.0 * direction - problem.benchmark, 0.5 * direction + 0.5 * problem.benchmark]
            points = [np.clip(p, 0.0, 1.0) for p in along] if kind == "active" else [direction, 0.3 * direction]
            for point in (*points, direction, *random.dirichlet(np.ones(10), 6), np.zeros(10), np.ones(10)):
                x = rational(point)
                held = [a - b for a, b in zip(x, against, strict=True)]
                loss = -sum(r * h for r, h in zip(shock, held, strict=True))
                implied = sum(r * a for r, a in zip(rational(row), x, strict=True)) - Fraction(bound)
                beyond = implied - (loss - Fraction(0.1))
                assert beyond <= 0 or beyond**2 <= Fraction(KAPPA) ** 2 * exact_square(book, held)
            slack = float(bound) - 0.1 - float(row @ np.array([float(b) for b in against]))
            assert 0.0 < slack < 1e-12


def test_the_bound_is_never_above_a_portfolio_inside_the_budget_whatever_the_multipliers() -> None:
    inside = 0
    for seed in SEEDS:
        book, random = limited(seed), np.random.default_rng(seed)
        problem = book.problem
        for _ in range(50):
            x = random.dirichlet(np.full(10, 0.6)) * random.uniform(0.2, 0.9)
            spent = float(problem.costs @ np.abs(x - problem.start))
            if loss_with_margin(book, x) > bound_of(book) - 1e-12 or x.sum() + spent > 1.0:
                continue
            inside += 1
            active = x - problem.benchmark
            risk = active @ (problem.root @ problem.root.T + np.diag(problem.specific)) @ active
            value = problem.aversion / 2 * risk + spent / problem.years
            size = float(10.0 ** random.uniform(-4, 1))
            duals = {**some_duals(problem, random, size), "stress:crash": float(size * random.exponential())}
            weights = dict(zip(problem.names.labels, random.dirichlet(np.ones(10)).tolist(), strict=True))
            assert book.judge(Claim(weights, duals)).lower_bound <= value + 1e-12
    assert inside > 60


def conflicts() -> dict[str, ConeBook]:
    book = replace(free_book(1), shocks={"crash": np.full(10, -0.1)})
    tail = budget_of(0.04)
    return {
        "cash cap": replace(book, limits={**LOOSE, "cash": {"min": 0.0, "max": 0.5}, "stress": tail}),
        "turnover": replace(book, limits={**LOOSE, "turnover": 0.1, "stress": tail}),
        "a pinned name": replace(book, limits={**LOOSE, "weights": {"S0": {"min": 0.5, "max": 0.6}}, "stress": tail}),
        "only its margin conflicts": replace(
            book,
            shocks={"crash": np.zeros(10)},
            limits={**LOOSE, "cash": {"min": 0.0, "max": 0.0}, "stress": budget_of(0.01)},
        ),
        "tracking error": replace(book, limits={**LOOSE, "tracking_error": 0.02, "stress": tail}),
    }


@pytest.mark.parametrize("words", conflicts())
def test_a_budget_that_cannot_be_kept_is_proven_and_so_is_by_how_much(words: str) -> None:
    book = conflicts()[words]
    answer = book.solve(PROGRAMS)
    assert answer.status == "infeasible"
    assert answer.duals["stress:crash"] > 0.0
    elastic = PROGRAMS.fit(book.problem).solve(book.problem, Attempt("CLARABEL"), elastic=True)
    assert answer.conflict == pytest.approx(elastic.excess, abs=1e-6)
    assert answer.conflict <= elastic.excess + 1e-9


def test_no_multipliers_refute_a_book_that_has_an_answer() -> None:
    for seed in SEEDS:
        book, random = limited(seed), np.random.default_rng(seed)
        for size in (1e-3, 1.0, 30.0):
            for _ in range(5):
                duals = {**some_duals(book.problem, random, size), "stress:crash": float(size * random.exponential())}
                weights = dict(zip(book.problem.names.labels, answer_of(seed).weights.tolist(), strict=True))
                assert book.refute(Claim(weights, duals)) <= 0.0


def test_a_robust_budget_without_a_horizon_or_a_benchmark_is_refused_by_program_and_certificate() -> None:
    book = replace(limited(1), horizons={})
    with pytest.raises(ModelError, match="stress:crash is robust, and its scenario has no horizon"):
        _ = book.problem
    with pytest.raises(ModelError, match="stress:crash is robust, and crash has no horizon"):
        book.judge(Claim({}, {}))
    book = replace(limited(1, "active"), benchmark=None)
    with pytest.raises(ModelError, match="stress:crash:active needs a benchmark, and the book has none"):
        _ = book.problem
    with pytest.raises(ModelError, match="stress:crash:active is active, and the book has no benchmark"):
        book.judge(Claim({}, {}))


# The bundled universe.


def robust_books(loaded: LoadedUniverse, books: list[str], **budget: Any) -> LoadedUniverse:
    """Bundled books with one robust budget under each mandate, on deepseek unless another is named."""
    mandates = {}
    for name, mandate in loaded.mandates.items():
        words = mandate.model_dump()
        limits = {**words["limits"], "turnover": 1.0, "stress": ({"scenario": "deepseek", **budget},)}
        mandates[name] = Mandate.model_validate({**words, "limits": limits, "lots": {"round": "none"}})
    return replace(loaded, mandates=mandates).only(books)


def margin_by_hand(loaded: LoadedUniverse, weights: dict[str, float], days: int) -> float:
    """One standard deviation of the specific return of weights, from the model's table."""
    table = loaded.model.tables["specific_risk"]
    held: dict[str, tuple[float, float]] = {}
    for name, issuer, variance in table.select("security_id", "issuer_id", "annual").iter_rows():
        if name in weights:
            held[issuer] = (held.get(issuer, (0.0, 0.0))[0] + weights[name], variance)
    return float(np.sqrt(sum(weight**2 * variance for weight, variance in held.values()) * days / 252.0))


@pytest.mark.parametrize("scenario", ["deepseek", "same_with_less"])
def test_the_loss_that_the_desk_reads_is_the_loss_that_the_program_limits(
    bundled: LoadedUniverse, scenario: str
) -> None:
    book = "power_and_grid"
    days = bundled.library.scenario(scenario).body.horizon_days
    wide = robust_books(bundled, [book], scenario=scenario, max_loss=1.0, robust=2.0)
    before = stress_portfolios(wide, [scenario]).tables["stress"].row(0, named=True)
    most = round(0.9 * before["measured_loss"], 4)
    loaded = robust_books(bundled, [book], scenario=scenario, max_loss=most, robust=2.0)
    tables = rebalance_portfolios(loaded).tables
    assert tables["certificates"]["status"].to_list() == ["certified", "certified"]
    limit = tables["limits"].filter(limit_id=f"stress:{scenario}").row(0, named=True)
    for stage in ("before", "after"):
        row = tables["stress"].filter(scenario_id=scenario, stage=stage).row(0, named=True)
        weights = dict(tables["targets"].select("security_id", f"weight_{stage}").iter_rows())
        margin = 2.0 * margin_by_hand(bundled, weights, days)
        assert row["measured_loss"] == pytest.approx(margin - row["pnl_frac"], abs=1e-12)
        assert row["measured_loss"] == pytest.approx(limit[stage], abs=1e-12)
        assert row["breach"] == (stage == "before")
    assert limit["after"] == pytest.approx(most, abs=1e-8) and limit["shadow_price"] > 0.0


def test_a_margin_that_alone_breaks_a_budget_is_a_breach_and_moves_the_risk_tier(bundled: LoadedUniverse) -> None:
    book = "momentum_growth"
    plain = stress_portfolios(robust_books(bundled, [book], max_loss=0.05), ["deepseek"])
    loss = plain.tables["stress"]["measured_loss"][0]
    most = round(1.01 * loss, 5)
    kept, broken = (
        stress_portfolios(robust_books(bundled, [book], max_loss=most, robust=robust), ["deepseek"]).tables
        for robust in (0.0, 3.0)
    )
    assert (kept["stress"]["breach"][0], broken["stress"]["breach"][0]) == (False, True)
    assert broken["stress"]["pnl_frac"][0] == kept["stress"]["pnl_frac"][0]
    used = {name: tables["portfolio_summary"]["risk_tier"][0] for name, tables in (("k", kept), ("b", broken))}
    assert used["b"] > used["k"]


def test_second_models_are_held_to_the_budget_less_its_margin(bundled: LoadedUniverse) -> None:
    book = "momentum_growth"
    row = stress_portfolios(robust_books(bundled, [book], max_loss=0.9, robust=1.0), ["deepseek"]).tables["stress"]
    margin = row["measured_loss"][0] + row["pnl_frac"][0]
    low, high = -row["model_high"][0] + margin, -row["model_low"][0] + margin
    assert margin > 0.0 and high - low > 1e-3
    between = robust_books(bundled, [book], max_loss=round((low + high) / 2.0, 6), robust=1.0)
    above = robust_books(bundled, [book], max_loss=round(high + 1e-4, 6), robust=1.0)
    said = [stress_portfolios(one, ["deepseek"]).tables["stress"]["models_disagree"][0] for one in (between, above)]
    assert said == [True, False]


def test_a_mandate_tells_its_shortfall_and_its_margin(capsys: pytest.CaptureFixture[str]) -> None:
    limits = {
        "stress": ({"scenario": "deepseek", "max_loss": 0.07, "robust": 1.5},),
        "shortfall": (
            {"scenario": "fork", "level": 0.9, "max_loss": 0.08, "horizon_days": 63},
            {"scenario": "spoon", "level": 0.0, "max_loss": 0.02, "kind": "active"},
        ),
    }
    mandate = Mandate.model_validate({"id": "m", "title": "M", "version": "1.0.0", "limits": limits})
    show_mandate(Console(width=200, highlight=False), mandate, ["a"])
    said = capsys.readouterr().out
    words = "under deepseek: loses at most 7 %, 1.5 standard deviations of specific return counted as loss"
    assert words in said
    assert "in the worst 10 % of fork: loses at most 8 % over 63 trading days on average" in said
    assert "spoon: loses at most 2 % more than the benchmark on average" in said


@pytest.mark.parametrize("objective", ["cheapest", "fewest", "steadiest"])
@pytest.mark.parametrize("robust", [0.5, 3.0])
def test_a_hedge_of_a_robust_budget_is_enough_with_its_own_specific_risk(
    bundled: LoadedUniverse, objective: str, robust: float
) -> None:
    """Loss and margin of book and overlay together, by hand from the holdings and the overlay's trades."""
    books = ["momentum_growth", "power_and_grid"]
    loaded = robust_books(bundled, books, max_loss=0.05, robust=robust)
    # Single names carry specific risk of their own, an index fund nearly none.
    chosen = ("names",) if objective != "steadiest" else ("NVDA", "VRT", "SPY", "GEV", "AVGO")
    tables = hedge_portfolios(loaded, "deepseek", HedgeTerms(objective=objective, candidates=chosen)).tables
    moves = dict(
        rebalance_portfolios(loaded)
        .tables["shocks"]
        .filter(scenario_id="deepseek")
        .select("security_id", "total")
        .iter_rows()
    )
    settled = 0
    for row in tables["hedges"].iter_rows(named=True):
        book = row["portfolio_id"]
        held = rebalance_portfolios(loaded.only([book])).tables["targets"]
        weights = dict(
            held.filter(~pl.col("security_id").str.starts_with("CASH:"))
            .select("security_id", "weight_before")
            .iter_rows()
        )
        before = -sum(moves[name] * weight for name, weight in weights.items())
        assert row["loss_before"] == pytest.approx(before + robust * margin_by_hand(loaded, weights, 1), abs=1e-12)
        for name, weight in (
            tables["hedge_trades"].filter(portfolio_id=book).select("security_id", "weight").iter_rows()
        ):
            weights[name] = weights.get(name, 0.0) + weight
        loss = -sum(moves[name] * weight for name, weight in weights.items())
        after = loss + robust * margin_by_hand(loaded, weights, 1)
        assert row["loss_after"] == pytest.approx(after, abs=1e-11)
        if row["status"] == "hedged":
            settled += 1
            assert row["loss_after"] == pytest.approx(0.05, abs=1e-9) and not row["proven"]
            assert abs(after - loss - (row["loss_before"] - before)) > 1e-6
    assert settled >= 1


def test_a_book_whose_overlays_own_risk_eats_what_it_gains_is_out_of_reach_and_says_why(
    bundled: LoadedUniverse,
) -> None:
    loaded = robust_books(bundled, ["momentum_growth"], max_loss=0.095, robust=10.0)
    found = hedge_portfolios(loaded, "deepseek", HedgeTerms(candidates=("AAPL",), max_weight=1.0))
    (row,) = found.tables["hedges"].to_dicts()
    assert row["status"] == "out_of_reach" and row["trades"] == 0 and row["loss_after"] == row["loss_before"]
    assert row["reachable_loss"] < 0.095
    assert "before their own specific risk, which its budget counts" in found.refused[0]


def test_books_without_such_limits_keep_their_program(bundled: LoadedUniverse) -> None:
    plain = rebalance_portfolios(bundled.only(["quality_core"]))
    assert plain.tables["limits"].filter(pl.col("kind") == "shortfall").is_empty()
    assert free_book(1).problem.cones == ()
