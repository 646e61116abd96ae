"""The books of a chunk laid out: what each is rebalanced and judged with, solved one at a time."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from scipy.sparse import csr_array

from engine.book.assess import shock_table
from engine.book.budgets import unmeasured_budgets
from engine.book.demand import Stated
from engine.book.leaves import horizon_table, leaf_table
from engine.book.publishing import Custody, publish_answer
from engine.contracts import empty
from engine.curve.tiers import Curve
from engine.curve.universe import StressSettings
from engine.intake import Notice
from engine.mandates.mandate import Mandate
from engine.rebalance.certificate import certifier, prove_infeasible
from engine.rebalance.cones import Tree
from engine.rebalance.conflict import Conflict, Court
from engine.rebalance.cure_certificate import prove_cure
from engine.rebalance.evidence import Evidence, gather_evidence, with_scenarios
from engine.rebalance.problem import Problem, Terms, state_problem
from engine.rebalance.published import Listing, gather_listing
from engine.rebalance.relax import Tools, settle
from engine.rebalance.relaxed_certificate import LOTS, certify_relaxed
from engine.rebalance.solve import Answer, Judge, solve_problem
from engine.risk.funds import traded_curve, traded_model
from engine.risk.history import FactorHistory
from engine.risk.portfolios import Portfolios, weigh_benchmarks
from engine.stress.disagreement import ModelMoves
from engine.stress.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Task:
    """What a chunk needs besides its books.

    Args:
        curve: Tiers and memberships.
        mandates: By id.
        securities: Table ``securities``.
        benchmarks: Table ``benchmarks`` as read.
        outcomes: Every scenario that is reported or budgeted, on the portfolios' model.
        moves: The same scenarios under the second models; None where there are none.
        settings: The universe's: loss band, guard-rails, what leaving costs.
        history: Past of the factors.
        notices: What was noticed in the inputs so far.
        allotments: Table ``allotments`` of all books of the run; None where no volume is shared out.
    """

    curve: Curve
    mandates: Mapping[str, Mandate]
    securities: pl.DataFrame
    benchmarks: pl.DataFrame
    outcomes: tuple[Outcome, ...]
    moves: ModelMoves | None
    settings: StressSettings
    history: FactorHistory
    notices: tuple[Notice, ...]
    allotments: pl.DataFrame | None = None


def lay_out(portfolios: Portfolios, task: Task) -> "Bench":
    """State what every book of a chunk is rebalanced and judged with, without solving anything yet.

    Args:
        portfolios: Weights of books and parents.
        task: Mandates, scenarios, tables.
    """
    benchmarks, faults = weigh_benchmarks(task.benchmarks, portfolios)
    books = portfolios.books()
    cases = _cases(books, task)
    priced = set(task.securities.filter(pl.col("price").is_not_null())["security_id"].to_list())
    notices = [*task.notices, *faults, *unmeasured_budgets(portfolios, task.mandates, benchmarks)]
    for case in cases:
        notices += _unfit(case, books, task, benchmarks, priced)
        notices += _unseen(case, task, benchmarks, funds=frozenset(portfolios.fund_names))
    aside = {notice.portfolio_id for notice in notices if notice.severity == "quarantine"}
    moves = shock_table(portfolios, task.outcomes) if task.outcomes else empty("shocks")
    terms = _terms(portfolios, task)
    evidence = with_scenarios(
        _evidence(terms, moves, task),
        leaves=leaf_table(portfolios, task.outcomes),
        horizons=horizon_table(task.outcomes),
    )
    desk = _Desk(terms, evidence, benchmarks, Tools(), gather_listing(task.securities))
    sound = {case.portfolio_id: case for case in cases if case.portfolio_id not in aside}
    return Bench(books, benchmarks, moves, tuple(notices), sound, desk)


def state_bare(portfolios: Portfolios, task: Task) -> list[Stated]:
    """Every book that can be rebalanced, as if the day's volume had no end.

    Args:
        portfolios: Weights of all books of the run.
        task: Mandates, scenarios, tables.
    """
    benchmarks, faults = weigh_benchmarks(task.benchmarks, portfolios)
    books, terms = portfolios.books(), _terms(portfolios, replace(task, allotments=None))
    priced = set(task.securities.filter(pl.col("price").is_not_null())["security_id"].to_list())
    unusable = {fault.portfolio_id for fault in faults}
    stated = []
    for case in _cases(books, task):
        if case.portfolio_id in unusable or _unfit(case, books, task, benchmarks, priced):
            continue
        index = benchmarks.get(case.benchmark_id) if case.benchmark_id is not None else None
        own = case.mandate.limits.participation
        limits = case.mandate.limits.model_copy(update={"participation": None})
        mandate = case.mandate.model_copy(update={"limits": limits})
        problem = state_problem(
            case.portfolio_id, weights=case.weights, benchmark=index, mandate=mandate, terms=terms, nav=case.nav
        )
        stated.append(Stated(problem, case.nav, own, follows=index is not None))
    return stated


def _terms(portfolios: Portfolios, task: Task) -> Terms:
    """What the books are traded with; a fund is one name that is and does what its constituents are and do."""
    model, curve, funds = portfolios.model, task.curve, portfolios.funds
    if funds is not None:
        model, curve = traded_model(model, funds), traded_curve(curve, model.securities, funds)
    allotted: dict[str, dict[str, float | None]] | None = None
    if task.allotments is not None:
        allotted = {}
        for book, name, most in task.allotments.select("portfolio_id", "security_id", "allotted_base").iter_rows():
            allotted.setdefault(book, {})[name] = most
    return Terms(
        model=model,
        curve=curve,
        shocks={one.scenario.id: one.total if funds is None else funds @ one.total for one in task.outcomes},
        half_spread_bps=dict(task.securities.select("security_id", "half_spread_bps").drop_nulls().iter_rows()),
        volumes=dict(task.securities.select("security_id", "adv_base").drop_nulls().iter_rows()),
        sectors=dict(task.securities.select("security_id", "gics_sector").drop_nulls().iter_rows()),
        trees={one.scenario.id: _tree(one, funds) for one in task.outcomes if one.branches},
        horizons={one.scenario.id: one.scenario.body.horizon_days for one in task.outcomes},
        allotted=allotted,
    )


@dataclass(frozen=True, slots=True)
class _Case:
    """One book with a mandate, ready to be judged and rebalanced."""

    portfolio_id: str
    mandate: Mandate
    benchmark_id: str | None
    weights: Mapping[str, float]
    holdings: pl.DataFrame
    nav: float


@dataclass(frozen=True, slots=True)
class _Desk:
    """What every book of the chunk is rebalanced with."""

    terms: Terms
    evidence: Evidence
    benchmarks: Mapping[str, Mapping[str, float]]
    tools: Tools
    listing: Listing


@dataclass(frozen=True, slots=True)
class Bench:
    """The books of a chunk laid out to be rebalanced, one by one and under other mandates too.

    Args:
        books: Weights of the books, without parents.
        benchmarks: Weights by name of every benchmark that can be used.
        moves: Table ``shocks``.
        notices: What was noticed so far, with why a book was set aside.
        cases: The books that can be rebalanced, in the order of their ids.
        desk: What they share.
    """

    books: Portfolios
    benchmarks: Mapping[str, Mapping[str, float]]
    moves: pl.DataFrame
    notices: tuple[Notice, ...]
    cases: "Mapping[str, _Case]"
    desk: "_Desk"

    @property
    def ids(self) -> tuple[str, ...]:
        """The books that can be rebalanced."""
        return tuple(self.cases)

    def mandate(self, portfolio_id: str) -> Mandate:
        """A book's own mandate."""
        return self.cases[portfolio_id].mandate

    def nav(self, portfolio_id: str) -> float:
        """A book's NAV in base currency."""
        return self.cases[portfolio_id].nav

    def solve(self, portfolio_id: str, mandate: Mandate | None = None) -> tuple[Problem, Answer]:
        """One book's program and answer under a mandate, its own when None; every limit kept or proven impossible."""
        case = self.cases[portfolio_id]
        case = case if mandate is None else replace(case, mandate=mandate)
        inputs = _inputs(case, self.desk)
        return _solve(case, self.desk, inputs, certifier(self.desk.evidence, **inputs))

    def settle(self, portfolio_id: str) -> tuple[Problem, Answer, Conflict | None]:
        """As ``solve``; where not all limits can be kept those of low priority give way, or the conflict is told."""
        return _settle(self.cases[portfolio_id], self.desk)

    def state(self, portfolio_id: str, mandate: Mandate) -> Problem:
        """One book's program under a mandate."""
        return _state(self.cases[portfolio_id], self.desk, mandate)


def _cases(books: Portfolios, task: Task) -> list[_Case]:
    """The books that have a mandate, in the order of their ids."""
    terms = {row[0]: row[1:] for row in books.table.select("portfolio_id", "mandate_id", "benchmark_id").iter_rows()}
    holdings = books.holdings.partition_by("portfolio_id", as_dict=True)
    labels = books.model.securities.labels
    matrix = books.traded.tocsr()
    cases = []
    for row, book in enumerate(books.ids.labels):
        mandate_id, benchmark_id = terms[book]
        if mandate_id is None:
            continue
        part = slice(matrix.indptr[row], matrix.indptr[row + 1])
        pairs = zip(matrix.indices[part].tolist(), matrix.data[part].tolist(), strict=True)
        weights = {labels[column]: value for column, value in pairs}
        nav = float(books.nav[row])
        cases.append(_Case(book, task.mandates[mandate_id], benchmark_id, weights, holdings[(book,)], nav))
    return cases


def _state(case: _Case, desk: _Desk, mandate: Mandate) -> Problem:
    return state_problem(
        case.portfolio_id,
        weights=case.weights,
        benchmark=desk.benchmarks.get(case.benchmark_id) if case.benchmark_id is not None else None,
        mandate=mandate,
        terms=desk.terms,
        nav=case.nav,
    )


def _inputs(case: _Case, desk: _Desk) -> dict[str, Any]:
    """What the certificate reads of a book: the holdings, not the weights the program was stated with."""
    index = desk.benchmarks.get(case.benchmark_id) if case.benchmark_id is not None else None
    frame = None if index is None else pl.DataFrame({"security_id": list(index), "weight": list(index.values())})
    return {"holdings": case.holdings, "nav": case.nav, "benchmark": frame, "mandate": case.mandate}


def _solve(case: _Case, desk: _Desk, inputs: dict[str, Any], judge: Judge) -> tuple[Problem, Answer]:
    problem = _state(case, desk, case.mandate)
    return problem, solve_problem(
        problem,
        desk.tools.programs,
        judge=judge,
        refute=lambda claim: prove_infeasible(desk.evidence, **inputs, claim=claim),
    )


def _settle(case: _Case, desk: _Desk) -> tuple[Problem, Answer, Conflict | None]:
    inputs = _inputs(case, desk)
    judge_plain = certifier(desk.evidence, **inputs)
    problem, answer = _solve(case, desk, inputs, judge_plain)
    if answer.status != "infeasible":
        return problem, _publish(case, desk, problem, answer, judge_plain), None
    court = Court(
        mandate=case.mandate,
        state=lambda mandate: _state(case, desk, mandate),
        certify=lambda claim, why: certify_relaxed(desk.evidence, inputs=inputs, claim=claim, relaxation=why),
        refute=lambda claim, mandate: prove_infeasible(desk.evidence, **{**inputs, "mandate": mandate}, claim=claim),
        bracket=lambda chosen, cure, claim: prove_cure(
            desk.evidence, inputs=inputs, chosen=chosen, cure=cure, claim=claim
        ),
    )
    settlement = settle(problem, answer, desk.tools, court)
    found, wide = settlement.answer, settlement.problem
    if found.status != "certified" or wide is None:
        return problem, found, settlement.conflict
    judge = partial(certify_relaxed, desk.evidence, inputs=inputs, room=LOTS)
    relaxation = settlement.relaxation
    return problem, _publish(case, desk, wide, found, lambda claim: judge(claim=claim, relaxation=relaxation)), None


def _publish(case: _Case, desk: _Desk, problem: Problem, answer: Answer, judge: Judge) -> Answer:
    """The answer with its whole lots, inside the problem's limits, those that gave way widened."""
    custody = Custody(case.holdings, case.nav, case.mandate.lots)
    return publish_answer(problem, answer, custody=custody, listing=desk.listing, judge=judge)


def _tree(outcome: Outcome, funds: csr_array | None) -> Tree:
    """The leaves of a tree; a fund moves as what it holds."""
    totals = np.array([leaf.total for _, leaf in outcome.branches])
    return Tree(
        leaves=tuple(leaf.scenario.id for _, leaf in outcome.branches),
        probability=np.array([probability for probability, _ in outcome.branches]),
        totals=totals if funds is None else (funds @ totals.T).T,
    )


def _evidence(terms: Terms, moves: pl.DataFrame, task: Task) -> Evidence:
    tables = terms.model.tables
    return gather_evidence(
        exposures=tables["exposures"],
        factor_covariance=tables["factor_covariance"],
        specific_risk=tables["specific_risk"],
        memberships=terms.curve.memberships,
        shocks=moves,
        securities=task.securities,
    ).with_allotments(task.allotments)


def _unfit(
    case: _Case, books: Portfolios, task: Task, benchmarks: Mapping[str, Mapping[str, float]], priced: set[str]
) -> list[Notice]:
    """Why a book cannot be rebalanced as it is; it is measured all the same."""
    limits, book = case.mandate.limits, case.portfolio_id
    faults: dict[str, str] = {}
    if not limits.shorts and (short := sorted(name for name, weight in case.weights.items() if weight < 0.0)):
        faults["book.short"] = f"short in {', '.join(short[:3])}; mandate {case.mandate.id} is long-only"
    overlay = case.holdings.filter(
        pl.col("exposure_base").is_not_null() & (pl.col("exposure_base") != pl.col("market_value_base"))
    )
    if overlay.height:
        first = ", ".join(overlay["security_id"].head(3).to_list())
        faults["book.derivative"] = f"{first}: exposure_base differs from market_value_base; only cash lines are traded"
    have = {outcome.scenario.id for outcome in task.outcomes}
    if missing := sorted({budget.scenario for budget in limits.budgets} - have):
        faults["book.scenario"] = f"mandate {case.mandate.id} budgets {', '.join(missing)}, which cannot run"
    if strangers := books.model.securities.missing({*case.mandate.buy_list, *limits.named}):
        faults["book.unmodelled"] = (
            f"mandate {case.mandate.id} names {', '.join(strangers[:3])}, which the model does not know"
        )
    index = benchmarks.get(case.benchmark_id, {}) if case.benchmark_id is not None else {}
    if limits.active and case.benchmark_id not in benchmarks:
        faults["book.active_limit"] = (
            f"mandate {case.mandate.id} limits {', '.join(limits.active)} against a benchmark, and the book has none "
            "that can be used"
        )
    candidates = {*index, *case.mandate.buy_list, *limits.named} - set(case.weights)
    if free := sorted(candidates - priced):
        faults["book.unpriced"] = f"the securities table has no price of {', '.join(free[:3])}, which it could buy"
    return [Notice(code, "quarantine", message, "holdings", book) for code, message in faults.items()]


def _unseen(
    case: _Case, task: Task, benchmarks: Mapping[str, Mapping[str, float]], *, funds: frozenset[str]
) -> list[Notice]:
    """A warning that names what is not traded because its volume is not known, and what a sector band cannot see."""
    limits, book = case.mandate.limits, case.portfolio_id
    index = benchmarks.get(case.benchmark_id, {}) if case.benchmark_id is not None else {}
    candidates = sorted({*case.weights, *index, *case.mandate.buy_list, *limits.named})
    notices = []
    own = limits.participation is not None and limits.participation.unknown_volume == "hold"
    unknown = set(candidates) - set(task.securities.filter(pl.col("adv_base").is_not_null())["security_id"].to_list())
    if not own and task.allotments is not None:
        capped = task.allotments.filter((pl.col("portfolio_id") == book) & pl.col("allotted_base").is_not_null())
        unknown &= set(capped["security_id"].to_list())
    if unknown and (own or task.allotments is not None):
        shown = ", ".join(sorted(unknown)[:5]) + (", ..." if len(unknown) > 5 else "")
        message = (
            f"{len(unknown)} names have no adv_base and are not traded ({shown}); add their volume, or say "
            "unknown_volume: allow"
        )
        notices.append(Notice("book.volume", "warn", message, "securities", book))
    if (limits.sectors or limits.active_sectors) and (seen := [name for name in candidates if name in funds]):
        shown = ", ".join(seen[:5]) + (", ..." if len(seen) > 5 else "")
        message = (
            f"the sector limits of mandate {case.mandate.id} do not see through {shown}; each counts to its own "
            "listed sector, or to unclassified"
        )
        notices.append(Notice("book.sector_fund", "warn", message, "mandates", book))
    return notices
