"""The certificate: a bound that exact rationals confirm, planted wrong answers refused, conflicts proven."""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache, cached_property
from typing import Any

import cvxpy as cp
import numpy as np
import polars as pl
import pytest

from engine.axes import Axis
from engine.curve.tiers import Curve
from engine.errors import ModelError
from engine.mandates.mandate import Mandate
from engine.rebalance.attempt import Attempt
from engine.rebalance.bound import _indefinite, lower_bound
from engine.rebalance.case import assemble
from engine.rebalance.certificate import Verdict, certifier, certify, prove_infeasible
from engine.rebalance.evidence import Claim, Evidence, gather_evidence
from engine.rebalance.problem import Problem, Terms, state_problem
from engine.rebalance.solve import Answer, Programs, solve_problem
from engine.risk.model import RiskModel
from engine.risk.tails import Tails

NAV = 2.0**20
"""A power of two: weight times NAV over NAV is the weight to the last bit."""

TIERS = ("a", "b")

LISTED = {
    "security_id": pl.String,
    "half_spread_bps": pl.Float64,
    "gics_sector": pl.String,
    "adv_base": pl.Float64,
}
"""Columns of the table ``securities`` that the certificate reads."""

PROGRAMS = Programs()
"""Compiled programs for all the books here."""


@dataclass(frozen=True)
class Book:
    """One book with all that the program and the certificate are told about it.

    Args:
        weights: Today's weights by name.
        benchmark: Benchmark weights, or None.
        limits: Of the mandate, as its file would hold them.
        exposures: ``(n, k)`` of the names ``S0, S1, ...``.
        covariance: ``F``.
        variance: Specific variance by position.
        issuers: Codes; equal codes share one specific return.
        shares: Tier shares by name.
        shocks: By scenario.
        bps: Half-spread by name.
        sectors: Listed sector by name.
        volumes: Daily volume by name.
        rest: Further keys of the mandate.
    """

    weights: Mapping[str, float]
    benchmark: Mapping[str, float] | None
    limits: Mapping[str, Any]
    exposures: np.ndarray
    covariance: np.ndarray
    variance: np.ndarray
    issuers: np.ndarray
    shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    shocks: Mapping[str, np.ndarray] = field(default_factory=dict)
    bps: Mapping[str, float] = field(default_factory=dict)
    sectors: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, float] = field(default_factory=dict)
    rest: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def model(self) -> RiskModel:
        n, k = self.exposures.shape
        return RiskModel(
            as_of=dt.date(2025, 1, 24),
            securities=Axis.of("security", [f"S{i}" for i in range(n)]),
            factors=Axis("factor", ("market", *(f"f{i}" for i in range(1, k)))),
            exposures=self.exposures,
            factor_covariance=self.covariance,
            specific_variance=self.variance,
            issuers=np.asarray(self.issuers, dtype=np.int64),
            tails=Tails(5.0, 1.0, 0.2, 1.0),
            largest_moves=np.ones(k),
        )

    @cached_property
    def mandate(self) -> Mandate:
        words = {"id": "m", "title": "M", "version": "1.0.0", "limits": dict(self.limits)}
        return Mandate.model_validate({**words, **self.rest})

    @cached_property
    def memberships(self) -> pl.DataFrame:
        rows = [(name, tier, share) for name, tiers in self.shares.items() for tier, share in tiers.items()]
        frame = pl.DataFrame(rows, schema=["security_id", "tier", "weight"], orient="row")
        return frame.cast({"security_id": pl.String, "tier": pl.String, "weight": pl.Float64})

    @cached_property
    def terms(self) -> Terms:
        curve = Curve(Axis("tier", TIERS), np.ones(len(TIERS)), self.memberships)
        return Terms(self.model, curve, self.shocks, self.bps, self.sectors, self.volumes)

    @cached_property
    def problem(self) -> Problem:
        return state_problem(
            "book", weights=self.weights, benchmark=self.benchmark, mandate=self.mandate, terms=self.terms, nav=NAV
        )

    @cached_property
    def evidence(self) -> Evidence:
        tables = self.model.tables
        names = self.model.securities.labels
        frames = [
            pl.DataFrame({"scenario_id": [s] * len(names), "security_id": names, "total": shock})
            for s, shock in self.shocks.items()
        ]
        columns = {"scenario_id": pl.String, "security_id": pl.String, "total": pl.Float64}
        return gather_evidence(
            exposures=tables["exposures"],
            factor_covariance=tables["factor_covariance"],
            specific_risk=tables["specific_risk"],
            memberships=self.memberships,
            shocks=pl.concat(frames) if frames else pl.DataFrame(schema=columns),
            securities=pl.DataFrame(
                {
                    "security_id": names,
                    "half_spread_bps": [self.bps.get(name) for name in names],
                    "gics_sector": [self.sectors.get(name) for name in names],
                    "adv_base": [self.volumes.get(name) for name in names],
                },
                schema=LISTED,
            ),
        )

    @cached_property
    def inputs(self) -> dict[str, Any]:
        holdings = pl.DataFrame(
            {
                "security_id": [*self.weights, "CASH:USD"],
                "market_value_base": [*(w * NAV for w in self.weights.values()), 0.0],
                "exposure_base": [None] * (len(self.weights) + 1),
            },
            schema={"security_id": pl.String, "market_value_base": pl.Float64, "exposure_base": pl.Float64},
        )
        bench = self.benchmark
        index = None if bench is None else pl.DataFrame({"security_id": list(bench), "weight": list(bench.values())})
        return {"holdings": holdings, "nav": NAV, "benchmark": index, "mandate": self.mandate}

    def judge(self, claim: Claim) -> Verdict:
        return certify(self.evidence, **self.inputs, claim=claim)

    def refute(self, claim: Claim) -> float:
        return prove_infeasible(self.evidence, **self.inputs, claim=claim)

    def solve(self, programs: Programs) -> Answer:
        evidence, inputs = self.evidence, self.inputs
        return solve_problem(
            self.problem,
            programs,
            judge=lambda claim: certify(evidence, **inputs, claim=claim),
            refute=lambda claim: prove_infeasible(evidence, **inputs, claim=claim),
        )


def covariance_of(random: np.random.Generator, k: int) -> np.ndarray:
    root = random.normal(size=(k, k)) * 0.1
    square = root @ root.T + np.diag(random.uniform(0.002, 0.03, k))
    return (square + square.T) / 2.0


@cache
def tight_book(seed: int, n: int = 10) -> Book:
    """A feasible book: its limits leave little room around one planted answer, every third more."""
    random = np.random.default_rng(seed)
    names = [f"S{i}" for i in range(n)]
    exposures = np.column_stack([random.uniform(0.6, 1.6, n), random.normal(0.0, 0.6, (n, 2))])
    issuers = np.arange(n)
    issuers[1] = issuers[0]
    variance = random.uniform(0.02, 0.12, n)
    variance[1] = variance[0]
    start, bench = random.dirichlet(np.full(n, 1.5)), random.dirichlet(np.full(n, 1.5))
    start[-1] = bench[-1] = 0.0
    start *= random.uniform(0.93, 0.96) / start.sum()
    bench /= bench.sum()
    aim = start + 0.12 * (bench / bench.sum() - start / start.sum())
    shock = np.append(random.uniform(-0.25, 0.05, n - 1), -0.4)
    shares = {name: {TIERS[i % 2]: float(random.uniform(0.3, 1.0))} for i, name in enumerate(names[: n - 2])}
    in_tier = {t: sum(shares.get(f"S{i}", {}).get(t, 0.0) * aim[i] for i in range(n)) for t in TIERS}
    loss = max(-float(shock @ aim), 0.0)
    room = (1.0, 1.0, 12.0)[seed % 3]
    cash = float(1.0 - aim.sum())
    limits = {
        "max_weight": min(float(aim.max()) + (0.02, 0.001, 0.1)[seed % 3], 1.0),
        "turnover": float(np.abs(aim - start).sum()) + 0.02 * room,
        "cash": {"min": max(cash - 0.004 * room, 0.0), "max": cash + 0.005 * room},
        "tiers": {"a": {"max": in_tier["a"] + 0.004 * room}, "b": {"min": max(in_tier["b"] - 0.004 * room, 0.001)}},
        "stress": ({"scenario": "crash", "max_loss": loss + 0.0005 * room},),
    }
    return Book(
        weights=dict(zip(names, start.tolist(), strict=True)),
        benchmark=dict(zip(names, bench.tolist(), strict=True)),
        limits=limits,
        exposures=exposures,
        covariance=covariance_of(random, 3),
        variance=variance,
        issuers=issuers,
        shares=shares,
        shocks={"crash": shock, "other": random.uniform(-0.2, 0.2, n)},
        bps={name: float(random.uniform(10.0, 120.0)) for name in names[:7]},
        rest={"risk_aversion": 12.0, "costs": {"half_spread_bps": 15.0, "holding_years": 1.5}},
    )


def small_book(seed: int) -> Book:
    """Three to eight names, one to three factors, and in turn every oddity that the bound must bear."""
    random = np.random.default_rng(seed)
    n, k = int(random.integers(3, 9)), int(random.integers(1, 4))
    names = [f"S{i}" for i in range(n)]
    variance = random.uniform(0.01, 0.2, n)
    issuers = np.arange(n)
    if seed % 2:
        issuers[1] = issuers[0]
        variance[1] = variance[0]
    if seed % 3 == 0:
        variance[issuers == issuers[0]] = 0.0
    if seed % 7 == 0:
        variance[:] = 0.0
    start = random.dirichlet(np.ones(n)) * 0.97
    start[-1] = 0.0
    pinned = {names[2]: {"min": float(start[2]), "max": float(start[2])}} if seed % 4 == 0 else {}
    limits = {
        "max_weight": float(random.uniform(0.5, 1.0)),
        "weights": pinned,
        "turnover": float(random.uniform(0.1, 2.0)),
        "cash": {"min": 0.01, "max": 1.0},
        "tiers": {"a": {"min": 0.0, "max": float(random.uniform(0.5, 1.0))}},
        "stress": ({"scenario": "crash", "max_loss": float(random.uniform(0.05, 0.3))},),
    }
    bench = random.dirichlet(np.ones(n)).tolist()
    return Book(
        weights=dict(zip(names, start.tolist(), strict=True)),
        benchmark=None if seed % 5 == 0 else dict(zip(names, bench, strict=True)),
        limits=limits,
        exposures=random.normal(0.8, 0.6, (n, k)),
        covariance=covariance_of(random, k),
        variance=variance,
        issuers=issuers,
        shares={names[0]: {"a": 1.0}, names[1]: {"a": 0.4, "b": 0.6}},
        shocks={"crash": random.uniform(-0.3, 0.1, n)},
        bps={names[0]: 25.0, names[1]: 0.0},
        rest={"risk_aversion": float(10.0 ** random.uniform(-1, 2.5))},
    )


def rational(values: Any) -> list[Fraction]:
    return [Fraction(float(value)) for value in np.ravel(values)]


def exact_bound(book: Book, duals: Mapping[str, float], w: np.ndarray, lines: list[float], *, risk: bool) -> Fraction:
    """The bound of MATH 6 in exact rationals, from the book and not from the certificate's arrays."""
    mandate, problem = book.mandate, book.problem
    names = list(problem.names.labels)
    at = [book.model.securities.labels.index(name) for name in names]
    gamma = Fraction(mandate.risk_aversion) if risk else Fraction(0)
    years, y_b, lam = (Fraction(v) for v in (mandate.costs.holding_years, duals["cash:min"], duals["turnover"]))
    covariance = [rational(row) for row in book.covariance]
    point = rational(w)
    pull = [gamma * sum(f * v for f, v in zip(row, point, strict=True)) for row in covariance]
    exposure = [rational(book.exposures[i]) for i in at]
    x0, xb = rational(problem.start), rational(problem.benchmark)
    lower, upper, costs = rational(problem.lower), rational(problem.upper), rational(problem.costs)
    slope = [sum(b * p for b, p in zip(row, pull, strict=True)) + y_b for row in exposure]
    total = -y_b * Fraction(1.0 - mandate.limits.cash.min) - lam * Fraction(mandate.limits.turnover)
    total -= sum(p * sum(row[j] * b for row, b in zip(exposure, xb, strict=True)) for j, p in enumerate(pull))
    total -= sum(p * v for p, v in zip(pull, point, strict=True)) / 2
    own = [Fraction(float(book.variance[i])) for i in at]
    codes = [int(book.issuers[i]) for i in at]
    several = sorted({code for code in codes if codes.count(code) > 1}, key=lambda code: f"I{code}")
    for code, value in zip(several, lines, strict=True):
        members = [i for i, other in enumerate(codes) if other == code]
        push = gamma * own[members[0]] * Fraction(value)
        slope = [s + push * (i in members) for i, s in enumerate(slope)]
        total -= push * sum(xb[i] for i in members) + push * Fraction(value) / 2
    own = [Fraction(0) if code in several else d for code, d in zip(codes, own, strict=True)]
    for name, row, bound in zip(problem.row_ids, problem.rows, problem.bounds, strict=True):
        y = Fraction(duals.get(name, 0.0))
        slope = [s + y * r for s, r in zip(slope, rational(row), strict=True)]
        total -= y * Fraction(float(bound))
    for i, name in enumerate(names):
        kink, curve = costs[i] * ((1 / years if risk else 0) + y_b) + lam, gamma * own[i]
        stationary = [xb[i] - (slope[i] + sign * kink) / curve for sign in (1, -1)] if curve else []
        points = [min(max(t, lower[i]), upper[i]) for t in (lower[i], upper[i], x0[i], *stationary)]
        total += min(curve / 2 * (t - xb[i]) ** 2 + slope[i] * t + kink * abs(t - x0[i]) for t in points)
        plain = problem.upper_kinds[i] == "weight" and name not in book.mandate.limits.weights
        assert not plain or upper[i] == Fraction(book.mandate.limits.max_weight)
    return total


def exact_objective(book: Book, x: np.ndarray) -> Fraction:
    """The objective in exact rationals, ``Sigma`` formed."""
    problem, mandate = book.problem, book.mandate
    at = [book.model.securities.labels.index(name) for name in problem.names.labels]
    active = [a - b for a, b in zip(rational(x), rational(problem.benchmark), strict=True)]
    loads = [
        sum(Fraction(float(book.exposures[i, j])) * a for i, a in zip(at, active, strict=True))
        for j in range(book.exposures.shape[1])
    ]
    risk = sum(
        Fraction(float(book.covariance[j, m])) * loads[j] * loads[m]
        for j in range(len(loads))
        for m in range(len(loads))
    )
    by_issuer: dict[int, list[int]] = {}
    for position, i in enumerate(at):
        by_issuer.setdefault(int(book.issuers[i]), []).append(position)
    for members in by_issuer.values():
        risk += Fraction(float(book.variance[at[members[0]]])) * sum(active[i] for i in members) ** 2
    moved = zip(rational(problem.costs), rational(x), rational(problem.start), strict=True)
    spent = sum(k * abs(a - b) for k, a, b in moved)
    return Fraction(mandate.risk_aversion) / 2 * risk + spent / Fraction(mandate.costs.holding_years)


def is_inside(problem: Problem, x: np.ndarray, room: float = 0.0) -> bool:
    moved = np.abs(x - problem.start)
    return bool(
        (x >= problem.lower + min(room, 0.0)).all()
        and (x <= problem.upper - min(room, 0.0)).all()
        and (problem.rows @ x <= problem.bounds - room).all()
        and x.sum() + problem.costs @ moved <= problem.spendable - room
        and moved.sum() <= problem.turnover - room
    )


def inside_points(problem: Problem, random: np.random.Generator, count: int) -> list[np.ndarray]:
    """Random points that keep every limit, some near today's weights and some far from them."""
    found = []
    for _ in range(count):
        step = random.dirichlet(np.full(len(problem.names), 0.7)) * random.uniform(0.0, 1.0) - problem.start
        point = np.clip(problem.start + random.uniform(0.0, 1.0) ** 2 * step, problem.lower, problem.upper)
        if is_inside(problem, point, room=1e-12):
            found.append(point)
    return found


def some_duals(problem: Problem, random: np.random.Generator, size: float) -> dict[str, float]:
    ids = ("cash:min", "turnover", *problem.row_ids)
    return {name: float(size * random.exponential() * random.integers(0, 2)) for name in ids}


def check_against_rationals(seed: int) -> None:
    book, random = small_book(seed), np.random.default_rng(seed + 1)
    n = len(book.problem.names)
    case = assemble(book.evidence, *book.inputs.values(), Claim({}, {}))
    for size in (0.0, 1e-4, 1.0):
        duals = some_duals(book.problem, random, size)
        w = case.b.T @ (random.dirichlet(np.ones(n)) - case.benchmark)
        lines = [float(random.normal() * 0.1) for _ in case.shared]
        for risk in (True, False):
            found = lower_bound(case, duals, w, lines, risk=risk)
            exact = exact_bound(book, duals, w, lines, risk=risk)
            assert Fraction(found) <= exact
            assert float(exact) - found <= 1e-11 * (1.0 + abs(found) + size + book.mandate.risk_aversion)


def test_the_bound_less_its_allowance_is_never_above_the_bound_in_exact_rationals() -> None:
    for seed in range(24):
        check_against_rationals(seed)


@pytest.mark.parametrize("names", [300, 900])
def test_the_allowance_of_many_names_covers_their_rounding_and_little_more(names: int) -> None:
    for seed in (1, 2):
        book, random = tight_book(seed, names), np.random.default_rng(seed)
        case = assemble(book.evidence, *book.inputs.values(), Claim({}, {}))
        for size in (0.0, 1.0, 300.0):
            duals = some_duals(book.problem, random, size)
            w = case.b.T @ (random.dirichlet(np.ones(names)) - case.benchmark)
            lines = [float(random.normal() * 0.1) for _ in case.shared]
            found = lower_bound(case, duals, w, lines, risk=True)
            exact = exact_bound(book, duals, w, lines, risk=True)
            assert Fraction(found) <= exact
            terms = sum(duals.values()) * names + book.mandate.risk_aversion
            assert float(exact) - found <= 2.0**-53 * 200.0 * (1.0 + terms)


@pytest.mark.soak
def test_the_bound_stays_below_exact_rationals_on_thousands_of_problems() -> None:
    for seed in range(24, 3000):
        check_against_rationals(seed)


def check_is_a_lower_bound(seed: int) -> int:
    book, random = small_book(seed), np.random.default_rng(seed + 2)
    problem = book.problem
    points = inside_points(problem, random, 15)
    values = [exact_objective(book, point) for point in points]
    evidence, inputs = book.evidence, book.inputs
    for _ in range(6):
        duals = some_duals(problem, random, 10.0 ** random.uniform(-5, 1))
        anywhere = random.dirichlet(np.ones(len(problem.names))).tolist()
        weights = dict(zip(problem.names.labels, anywhere, strict=True))
        verdict = certify(evidence, **inputs, claim=Claim(weights, duals))
        assert all(Fraction(verdict.lower_bound) <= value for value in values)
    return len(points)


def test_the_bound_is_never_above_the_exact_objective_of_a_feasible_point_whatever_the_multipliers() -> None:
    points = sum(check_is_a_lower_bound(seed) for seed in range(15))
    assert points > 60


@pytest.mark.soak
def test_the_bound_is_below_every_feasible_point_of_two_thousand_problems() -> None:
    for seed in range(15, 2000):
        check_is_a_lower_bound(seed)


def second_opinion(problem: Problem) -> tuple[float, np.ndarray]:
    """The same program written in weights with a dense covariance and solved by PIQP."""
    x = cp.Variable(len(problem.names))
    moved = cp.abs(x - problem.start)
    sigma = problem.root @ problem.root.T + np.diag(problem.specific)
    risk = cp.quad_form(x - problem.benchmark, cp.psd_wrap(sigma))
    limits = [
        x >= problem.lower,
        x <= problem.upper,
        problem.rows @ x <= problem.bounds,
        cp.sum(x) + problem.costs @ moved <= problem.spendable,
        cp.sum(moved) <= problem.turnover,
    ]
    objective = cp.Minimize(problem.aversion / 2 * risk + problem.costs @ moved / problem.years)
    program = cp.Problem(objective, limits)
    program.solve(solver=cp.PIQP, eps_abs=1e-11, eps_rel=1e-11, max_iter=500)
    assert program.status == "optimal"
    return float(program.value), np.asarray(x.value)


def test_the_bound_meets_the_optimum_of_a_second_solver_and_is_never_above_it() -> None:
    for seed in range(25):
        book = tight_book(seed)
        answer = book.solve(PROGRAMS)
        assert answer.status == "certified", (seed, answer)
        best, _ = second_opinion(book.problem)
        assert answer.verdict.lower_bound <= best + 1e-9
        assert abs(answer.verdict.objective - best) <= 1e-6 * max(best, 1e-8) + 1e-9


def test_wrong_multipliers_only_loosen_the_bound() -> None:
    for seed in range(6):
        book, random = tight_book(seed), np.random.default_rng(seed)
        answer = book.solve(PROGRAMS)
        weights = dict(zip(book.problem.names.labels, answer.weights.tolist(), strict=True))
        evidence, inputs = book.evidence, book.inputs
        for _ in range(10):
            wrong = {name: value * float(random.uniform(0.0, 3.0)) for name, value in answer.duals.items()}
            bound = certify(evidence, **inputs, claim=Claim(weights, wrong)).lower_bound
            assert bound <= answer.verdict.lower_bound + 1e-6 * answer.verdict.objective


def test_a_negative_multiplier_counts_as_none_and_a_foreign_one_is_ignored() -> None:
    book = tight_book(3)
    answer = book.solve(PROGRAMS)
    weights = dict(zip(book.problem.names.labels, answer.weights.tolist(), strict=True))
    plain = book.judge(Claim(weights, {**answer.duals, "turnover": 0.0}))
    assert book.judge(Claim(weights, {**answer.duals, "turnover": -5.0, "tier:moon:max": 9.0})) == plain


def test_a_bound_with_a_covariance_that_cannot_be_proven_positive_pays_for_it() -> None:
    book = tight_book(4)
    flat = replace(book, covariance=np.outer([0.2, 0.1, -0.1], [0.2, 0.1, -0.1]))
    answer = flat.solve(PROGRAMS)
    case = assemble(flat.evidence, *flat.inputs.values(), Claim({}, {}))
    assert answer.status == "certified"
    assert _indefinite(case, 12.0, np.zeros(3)) > 0.0
    assert _indefinite(case, 0.0, np.zeros(3)) == 0.0


# Planted wrong answers. Each plant corrupts the problem once; the certificate reads the true tables.

Plant = Callable[[Book, Problem, np.random.Generator], Problem]


def other_book(book: Book, **changes: Any) -> Problem:
    return replace(book, **changes).problem


def without_shared(book: Book, problem: Problem) -> Problem:
    own = replace(book, issuers=np.arange(len(book.issuers))).problem
    return replace(problem, root=own.root, specific=own.specific)


def with_rows(problem: Problem, chosen: str, row: Callable[[np.ndarray], np.ndarray]) -> Problem:
    rows = [row(r) if name.startswith(chosen) else r for name, r in zip(problem.row_ids, problem.rows, strict=True)]
    return replace(problem, rows=np.array(rows))


def with_bounds(problem: Problem, chosen: str, bound: Callable[[float], float]) -> Problem:
    pairs = zip(problem.row_ids, problem.bounds, strict=True)
    return replace(problem, bounds=np.array([bound(b) if name.startswith(chosen) else b for name, b in pairs]))


def limits_of(book: Book, **changes: Any) -> dict[str, Any]:
    return {**book.limits, **changes}


def swapped_shares(book: Book) -> Problem:
    turned = {name: {TIERS[1 - TIERS.index(t)]: v for t, v in share.items()} for name, share in book.shares.items()}
    return other_book(book, shares=turned)


PLANTS: dict[str, Plant] = {
    "yesterday's holdings as today's": lambda b, p, r: replace(
        p, start=np.abs(p.start + r.normal(0.0, 0.01, len(p.start)))
    ),
    "factors in another order": lambda b, p, r: other_book(b, exposures=b.exposures[:, [0, 2, 1]]),
    "market and tier swapped": lambda b, p, r: other_book(b, exposures=b.exposures[:, [1, 0, 2]]),
    "exposures of the next name": lambda b, p, r: other_book(b, exposures=np.roll(b.exposures, 1, axis=0)),
    "factor correlations lost": lambda b, p, r: other_book(b, covariance=np.diag(np.diag(b.covariance))),
    "covariance a day for a year": lambda b, p, r: replace(
        p, root=p.root / np.sqrt(252.0), specific=p.specific / 252.0
    ),
    "specific volatility for variance": lambda b, p, r: replace(p, specific=np.sqrt(p.specific)),
    "specific risk left out": lambda b, p, r: replace(p, specific=np.zeros_like(p.specific)),
    "issuer's shared specific left out": lambda b, p, r: replace(p, root=p.root[:, :-1]),
    "issuer's lines as strangers": lambda b, p, r: without_shared(b, p),
    "wrong sign of the shock": lambda b, p, r: with_bounds(with_rows(p, "stress", np.negative), "stress", abs),
    "shock in percent": lambda b, p, r: with_rows(p, "stress", lambda row: row / 100.0),
    "shock of another scenario": lambda b, p, r: with_rows(p, "stress", lambda row: -b.shocks["other"]),
    "stress budget dropped": lambda b, p, r: with_bounds(p, "stress", lambda v: 1.0),
    "yesterday's stress budget": lambda b, p, r: with_bounds(p, "stress", lambda v: v * 1.2),
    "yesterday's bounds": lambda b, p, r: replace(p, upper=p.upper * 1.1),
    "highest weight ignored": lambda b, p, r: replace(p, upper=np.ones_like(p.upper)),
    "a name may not be sold": lambda b, p, r: replace(p, lower=np.where(np.arange(len(p.start)) < 3, p.start, 0.0)),
    "shorts allowed": lambda b, p, r: replace(p, lower=np.full_like(p.lower, -0.2)),
    "costs left out of the budget": lambda b, p, r: replace(p, costs=p.costs * 1e-6, years=p.years * 1e-6),
    "no costs at all": lambda b, p, r: replace(p, costs=np.zeros_like(p.costs)),
    "basis points as fractions": lambda b, p, r: replace(p, costs=p.costs * 1e4, years=p.years),
    "basis points as percent": lambda b, p, r: replace(p, costs=p.costs * 100.0),
    "half-spreads of the mandate for the listed ones": lambda b, p, r: other_book(b, bps={}),
    "holding period doubled": lambda b, p, r: replace(p, years=2.0 * p.years),
    "turnover one-way": lambda b, p, r: replace(p, turnover=2.0 * p.turnover),
    "turnover cap dropped": lambda b, p, r: replace(p, turnover=2.0),
    "cash band ignored": lambda b, p, r: replace(with_bounds(p, "cash:max", lambda v: 0.0), spendable=1.0),
    "cash maximum ignored": lambda b, p, r: with_bounds(p, "cash:max", lambda v: 0.0),
    "borrowed money": lambda b, p, r: replace(p, spendable=1.1),
    "tier shares swapped": lambda b, p, r: swapped_shares(b),
    "tier cap dropped": lambda b, p, r: with_bounds(p, "tier:a:max", lambda v: 1.0),
    "tier floor dropped": lambda b, p, r: with_bounds(p, "tier:b:min", lambda v: 0.0),
    "whole names for membership shares": lambda b, p, r: with_rows(p, "tier", np.sign),
    "benchmark of another book": lambda b, p, r: replace(p, benchmark=r.permutation(p.benchmark)),
    "benchmark forgotten": lambda b, p, r: replace(p, benchmark=p.start),
    "aversion halved": lambda b, p, r: replace(p, aversion=p.aversion / 2.0),
    "aversion doubled": lambda b, p, r: replace(p, aversion=p.aversion * 2.0),
    "NAV of another book": lambda b, p, r: replace(p, start=p.start * 0.93),
    "a dropped name": lambda b, p, r: other_book(
        b,
        weights={name: w for name, w in b.weights.items() if name != "S2"},
        benchmark={name: w for name, w in b.benchmark.items() if name != "S2"},
    ),
}


@cache
def solved(seed: int) -> Answer:
    """The true answer of a tight book."""
    answer = tight_book(seed).solve(PROGRAMS)
    assert answer.status == "certified", seed
    return answer


def is_wrong(book: Book, x: np.ndarray, true: Answer) -> bool:
    """Outside the limits or worse than the true answer, found without the certificate."""
    best = float(exact_objective(book, true.weights))
    return not is_inside(book.problem, x, room=-2e-9) or float(exact_objective(book, x)) > best * (1.0 + 2e-6)


def plant(kind: str, seed: int) -> bool | None:
    """Whether the certificate refuses the planted answer; None where the plant changes nothing."""
    book = tight_book(seed)
    random = np.random.default_rng(seed)
    true = solved(seed)
    wrong = PLANTS[kind](book, book.problem, random)
    raw = PROGRAMS.fit(wrong).solve(wrong, Attempt("CLARABEL"))
    if raw.weights is None:
        return None
    claimed = dict(zip(wrong.names.labels, raw.weights.tolist(), strict=True))
    x = np.array([claimed.get(name, 0.0) for name in book.problem.names.labels])
    if np.abs(x - true.weights).sum() <= 1e-6 or not is_wrong(book, x, true):
        return None
    # Not even with the multipliers that prove the true answer may a wrong one pass.
    return not any(book.judge(Claim(claimed, duals)).accepted for duals in (raw.duals, true.duals))


@pytest.mark.parametrize("kind", PLANTS)
def test_a_planted_wrong_answer_is_refused(kind: str) -> None:
    refusals = [refused for seed in range(9) if (refused := plant(kind, seed)) is not None]
    assert refusals, f"{kind}: the plant changed no answer and proves nothing"
    assert all(refusals)


@pytest.mark.soak
@pytest.mark.parametrize("kind", PLANTS)
def test_five_hundred_planted_wrong_answers_of_each_kind_are_refused(kind: str) -> None:
    refusals = [refused for seed in range(500) if (refused := plant(kind, seed)) is not None]
    assert refusals
    assert all(refusals)


Spoil = Callable[[Book, np.ndarray, dict[str, float]], tuple[np.ndarray, dict[str, float]]]


def suboptimal(book: Book, x: np.ndarray, duals: dict[str, float]) -> tuple[np.ndarray, dict[str, float]]:
    """Feasible, and 1e-4 worse: a step from the optimum towards a point well inside the limits."""
    problem, best = book.problem, float(exact_objective(book, x))
    inside = replace(problem, aversion=problem.aversion, years=problem.years / 50.0)
    target = PROGRAMS.fit(inside).solve(inside, Attempt("CLARABEL", margin=1e-9)).weights
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2.0
        worse = float(exact_objective(book, x + middle * (target - x)))
        low, high = (middle, high) if worse < best * (1.0 + 1e-4) else (low, middle)
    return x + high * (target - x), duals


def largest_made(value: float) -> Spoil:
    return lambda b, x, duals: (x, {**duals, max(duals, key=lambda name: duals[name]): value})


def nudged(position: Callable[[np.ndarray], int], by: float) -> Spoil:
    def spoil(book: Book, x: np.ndarray, duals: dict[str, float]) -> tuple[np.ndarray, dict[str, float]]:
        return x + by * (np.arange(len(x)) == position(x)), duals

    return spoil


SPOILS: dict[str, Spoil] = {
    "NaN weight": nudged(lambda x: int(np.argmax(x)), float("nan")),
    "negative weight": nudged(lambda x: int(np.argmin(x)), -1.0),
    "one name a hundredth of a basis point over the budget": nudged(lambda x: int(np.argmax(x)), 1e-6),
    "infinite multiplier": largest_made(float("inf")),
    "NaN multiplier": largest_made(float("nan")),
    "largest multiplier lost": largest_made(0.0),
    "no multipliers": lambda b, x, duals: (x, {}),
    "multipliers of the wrong sign": lambda b, x, duals: (x, {name: -value for name, value in duals.items()}),
    "multipliers halved": lambda b, x, duals: (x, {name: value / 2.0 for name, value in duals.items()}),
    "multipliers shuffled": lambda b, x, duals: (x, dict(zip(duals, [*duals.values()][::-1], strict=True))),
    "weights in percent": lambda b, x, duals: (x * 100.0, duals),
    "weights of other names": lambda b, x, duals: (np.roll(x, 1), duals),
    "weights to the basis point": lambda b, x, duals: (np.round(x, 4), duals),
    "weights scaled to one": lambda b, x, duals: (x / x.sum(), duals),
    "today's weights": lambda b, x, duals: (b.problem.start, duals),
    "the benchmark's weights": lambda b, x, duals: (b.problem.benchmark, duals),
    "equal weights": lambda b, x, duals: (np.full_like(x, 1.0 / len(x)), duals),
    "nothing held": lambda b, x, duals: (np.zeros_like(x), duals),
    "feasible but 1e-4 worse": suboptimal,
}


@pytest.mark.parametrize("kind", SPOILS)
def test_a_spoiled_answer_is_refused(kind: str) -> None:
    for seed in range(5):
        book = tight_book(seed)
        answer = solved(seed)
        x, duals = SPOILS[kind](book, answer.weights.copy(), dict(answer.duals))
        weights = dict(zip(book.problem.names.labels, x.tolist(), strict=True))
        assert not book.judge(Claim(weights, duals)).accepted, seed


def test_a_feasible_answer_that_is_slightly_worse_is_refused_for_its_gap_alone() -> None:
    book = tight_book(1)
    answer = book.solve(PROGRAMS)
    x, duals = suboptimal(book, answer.weights, dict(answer.duals))
    verdict = book.judge(Claim(dict(zip(book.problem.names.labels, x.tolist(), strict=True)), duals))
    assert verdict.max_violation <= 1e-9
    assert 5e-5 <= verdict.relative_gap <= 2e-4
    assert not verdict.accepted


def test_an_answer_of_osqp_at_its_own_default_tolerance_is_refused() -> None:
    refused = 0
    for seed in range(8):
        book = tight_book(seed)
        program, true = PROGRAMS.fit(book.problem), solved(seed)
        program._load(book.problem, 1.0, 1.0, 0.0)
        program.problem.solve(solver=cp.OSQP, eps_abs=1e-3, eps_rel=1e-3, polishing=False)
        x = book.problem.start + program.z.value
        assert program.problem.status == "optimal"
        claim = Claim(dict(zip(book.problem.names.labels, x.tolist(), strict=True)), true.duals)
        if np.abs(x - true.weights).max() > 1e-6:
            assert not book.judge(claim).accepted
            refused += 1
    assert refused >= 6


def test_the_verdict_names_the_limit_most_violated() -> None:
    loose = {"max_weight": 0.6, "turnover": 2.0, "cash": {"min": 0.0, "max": 1.0}}
    book = replace(tight_book(2), limits=loose)
    verdicts = [book.judge(Claim({"S3": 0.1, "S4": weight}, {})) for weight in (-0.25, 0.85, 0.5)]
    assert [verdict.worst_limit for verdict in verdicts[:2]] == ["weight:S4", "weight:S4"]
    assert [verdict.max_violation for verdict in verdicts] == pytest.approx([0.25, 0.25, 0.0])


def test_a_name_that_the_claim_leaves_out_is_held_at_zero() -> None:
    book = tight_book(2)
    answer = book.solve(PROGRAMS)
    weights = dict(zip(book.problem.names.labels, answer.weights.tolist(), strict=True))
    rest = {name: weight for name, weight in weights.items() if name != "S5"}
    assert book.judge(Claim(rest, answer.duals)) == book.judge(Claim({**weights, "S5": 0.0}, answer.duals))


# Conflicts.


def conflicting_books() -> dict[str, Book]:
    book = tight_book(0)
    shock = np.full(10, -0.2)
    shock[0] = -0.1
    stressed = replace(book, shocks={"crash": shock})
    wide = {"max_weight": 1.0, "cash": {"min": 0.0, "max": 1.0}, "tiers": {}, "stress": (), "turnover": 2.0}
    budget = ({"scenario": "crash", "max_loss": 0.05},)
    return {
        "turnover against stress budget": replace(stressed, limits={**wide, "turnover": 0.1, "stress": budget}),
        "cash band against stress budget": replace(
            stressed, limits={**wide, "cash": {"min": 0.0, "max": 0.1}, "stress": budget}
        ),
        "cash band against highest weight": replace(
            book, limits={**wide, "max_weight": 0.05, "cash": {"min": 0.0, "max": 0.2}}
        ),
        "cash floor against turnover": replace(
            book, limits={**wide, "cash": {"min": 0.5, "max": 1.0}, "turnover": 0.2}
        ),
        "tier minimum against highest weight": replace(
            book, limits={**wide, "max_weight": 0.08, "tiers": {"a": {"min": 0.5}}}
        ),
        "two tier minima against memberships": replace(
            book, limits={**wide, "tiers": {"a": {"min": 0.5}, "b": {"min": 0.49}}, "max_weight": 0.3}
        ),
        "nothing may be traded and a limit is broken": replace(
            stressed, limits={**wide, "turnover": 0.0, "stress": budget}
        ),
        "a pinned name above its tier": replace(
            book,
            limits={**wide, "weights": {"S0": {"min": 0.5, "max": 0.5}}, "tiers": {"a": {"max": 0.05}}},
            shares={"S0": {"a": 1.0}},
        ),
        "costs eat what the cash floor leaves": replace(
            book,
            weights={"S0": 1.0},
            benchmark=None,
            limits={**wide, "weights": {"S0": {"min": 0.0, "max": 0.0}, "S1": {"min": 0.995, "max": 1.0}}},
            bps=dict.fromkeys(("S0", "S1"), 100.0),
        ),
    }


@pytest.mark.parametrize("words", conflicting_books())
def test_conflicting_limits_are_proven_to_conflict(words: str) -> None:
    book = conflicting_books()[words]
    answer = book.solve(PROGRAMS)
    assert answer.status == "infeasible"
    assert answer.conflict > 1e-6
    assert (answer.weights == book.problem.start).all()
    elastic = PROGRAMS.fit(book.problem).solve(book.problem, Attempt("CLARABEL"), elastic=True)
    assert answer.conflict == pytest.approx(elastic.excess, abs=1e-7)


def check_not_refuted(seed: int, *, solve: bool) -> bool:
    """No multipliers refute a book that has a feasible point: guesses, and what the elastic form says."""
    book, random = tight_book(seed), np.random.default_rng(seed + 3)
    duals = [some_duals(book.problem, random, size) for size in (1e-3, 1.0)]
    if solve:
        duals.append(PROGRAMS.fit(book.problem).solve(book.problem, Attempt("CLARABEL"), elastic=True).duals)
    return not any(book.refute(Claim({}, guess)) > 0.0 for guess in duals)


def test_no_feasible_book_is_ever_proven_infeasible() -> None:
    assert all(check_not_refuted(seed, solve=seed % 8 == 0) for seed in range(300))


@pytest.mark.soak
def test_none_of_five_thousand_feasible_books_is_proven_infeasible() -> None:
    assert all(check_not_refuted(seed, solve=True) for seed in range(300, 5300))


def test_a_factor_without_a_covariance_is_refused() -> None:
    tables = tight_book(0).model.tables
    empty = pl.DataFrame(schema={"scenario_id": pl.String, "security_id": pl.String, "total": pl.Float64})
    with pytest.raises(ModelError, match="factors of exposures and factor_covariance differ"):
        gather_evidence(
            exposures=tables["exposures"].filter(pl.col("factor") != "f1"),
            factor_covariance=tables["factor_covariance"],
            specific_risk=tables["specific_risk"],
            memberships=tight_book(0).memberships,
            shocks=empty,
            securities=pl.DataFrame(schema=LISTED),
        )


def test_a_name_that_nobody_allowed_is_refused_however_good_it_is() -> None:
    refused = 0
    for seed in range(12):
        book = tight_book(seed)
        falls = {"crash": np.append(book.shocks["crash"][:-1], 0.3)}
        held = {name: weight for name, weight in book.weights.items() if name != "S9"}
        index = {name: weight for name, weight in book.benchmark.items() if name != "S9"}
        true = replace(book, weights=held, benchmark=index, shocks=falls)
        wide = replace(true, rest={**book.rest, "buy_list": ("S9",)})
        answer = wide.solve(PROGRAMS)
        weights = dict(zip(wide.problem.names.labels, answer.weights.tolist(), strict=True))
        if answer.status == "certified" and weights["S9"] > 1e-6:
            verdict = true.judge(Claim(weights, answer.duals))
            assert not verdict.accepted
            assert verdict.max_violation >= weights["S9"]
            refused += 1
    assert refused


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), float("-inf"), 1e308], ids=str)
def test_a_weight_that_is_no_weight_is_refused_and_not_raised(weight: float) -> None:
    book = tight_book(0)
    answer = book.solve(PROGRAMS)
    weights = dict(zip(book.problem.names.labels, answer.weights.tolist(), strict=True))
    verdict = book.judge(Claim({**weights, book.problem.names.labels[0]: weight}, answer.duals))
    assert not verdict.accepted


def test_an_unknown_name_is_refused_by_its_name() -> None:
    book = tight_book(0)
    verdict = book.judge(Claim({"NOBODY": 0.1}, {}))
    assert (verdict.accepted, verdict.worst_limit) == (False, "weight:NOBODY")


def test_one_reading_of_the_tables_judges_every_claim_as_a_reading_each() -> None:
    book = tight_book(0)
    held = {name: weight for name, weight in book.weights.items() if name != "S9"}
    index = {name: weight for name, weight in book.benchmark.items() if name != "S9"}
    true = replace(book, weights=held, benchmark=index)
    answer = book.solve(PROGRAMS)
    weights = dict(zip(book.problem.names.labels, answer.weights.tolist(), strict=True))
    allowed = {name: weight for name, weight in weights.items() if name != "S9"}
    claims = [
        Claim(allowed, answer.duals),
        Claim({**allowed, "S9": 0.01}, answer.duals),
        Claim({"NOBODY": 0.1}, {}),
        Claim({**allowed, "S1": float("nan")}, {}),
        Claim({}, {}),
        Claim(allowed, {}),
        Claim({name: 2.0 * weight for name, weight in allowed.items()}, answer.duals),
        Claim(allowed, answer.duals),
    ]
    judge = certifier(true.evidence, **true.inputs)
    verdicts = [judge(claim) for claim in claims]
    assert verdicts == [true.judge(claim) for claim in claims]
    assert verdicts[0] == verdicts[-1] and len({verdict.max_violation for verdict in verdicts}) > 3
