"""The one pipeline: books before, rebalanced, after, certified, as tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import polars as pl
from jaxtyping import Float

from engine.book.assess import Yardstick, assess, summarise
from engine.contracts import CONTRACTS, empty
from engine.conventions import FEASIBILITY
from engine.curve.tiers import Curve
from engine.intake import Notice, notices_frame
from engine.mandates.mandate import Mandate
from engine.rebalance.certificate import Evidence, certify, gather_evidence, prove_infeasible
from engine.rebalance.problem import BUDGET, TURNOVER, Problem, Terms, state_problem
from engine.rebalance.solve import Answer, Programs, solve_problem
from engine.risk.portfolios import Portfolios, weigh_benchmarks
from engine.stress.plausibility import summarise_scenarios
from engine.stress.propagation import Shock

STAGED: Final = ("stress", "stress_tiers", "stress_factors", "stress_positions", "portfolio_exposures")


@dataclass(frozen=True, slots=True)
class Task:
    """What a chunk needs besides its books.

    Args:
        curve: Tiers and memberships.
        mandates: By id.
        securities: Table ``securities``.
        benchmarks: Table ``benchmarks`` as read.
        shocks: Every scenario that is reported or budgeted, on the portfolios' model.
        band: Probability that a loss band holds.
        notices: What was noticed in the inputs so far.
    """

    curve: Curve
    mandates: Mapping[str, Mandate]
    securities: pl.DataFrame
    benchmarks: pl.DataFrame
    shocks: tuple[Shock, ...]
    band: float
    notices: tuple[Notice, ...]


def rebalance_chunk(portfolios: Portfolios, task: Task) -> dict[str, pl.DataFrame]:
    """Rebalance every book that has a mandate; measure before and after.

    Only certified weights move a book. A book with a short position under a long-only
    mandate, without a usable benchmark, or with a budget on a scenario that cannot run is
    set aside with its reason and measured unchanged; the others go on.

    Args:
        portfolios: Weights of books and parents.
        task: Mandates, scenarios, tables.

    Returns:
        Every output table of the run by contract name, columns and order as in the contracts.
    """
    benchmarks, faults = weigh_benchmarks(task.benchmarks, portfolios)
    notices = [*task.notices, *faults, *_unfit(portfolios, task)]
    aside = {notice.portfolio_id for notice in notices if notice.severity == "quarantine"}
    books = portfolios.books()
    terms = Terms(
        model=portfolios.model,
        curve=task.curve,
        shocks={shock.scenario.id: shock.total for shock in task.shocks},
        half_spread_bps=dict(task.securities.select("security_id", "half_spread_bps").drop_nulls().iter_rows()),
    )
    desk = _Desk(books, terms, _evidence(portfolios, task), benchmarks, Programs())
    results: list[tuple[Problem, Answer]] = []
    for book in books.ids.labels:
        mandate = _mandate_of(book, portfolios, task)
        if mandate is not None and book not in aside:
            results.append(_rebalance_one(book, mandate, desk))
    status: dict[str, str] = {problem.portfolio_id: answer.status for problem, answer in results}
    status |= {name: "quarantined" for name in aside if name is not None}
    targets, cash = _targets(books, results)
    after = portfolios.moved(targets, cash)
    stages = {"before": portfolios, "after": after}
    yardstick = Yardstick(task.curve, task.mandates, benchmarks, task.band)
    measured = {stage: assess(stages[stage], list(task.shocks), yardstick, stage=stage) for stage in stages}
    tables = {name: pl.concat([measured[stage][name] for stage in stages]).sort(CONTRACTS[name].key) for name in STAGED}
    trades = _trades(books, results, task)
    tables["trades"] = trades
    tables["targets"] = _with_quantities(targets, books, task)
    tables["limits"] = _limits(results)
    tables["certificates"] = _certificates(results)
    tables["portfolio_summary"] = pl.concat(
        [
            summarise(portfolios, stage="before", status=status, benchmarks=benchmarks),
            summarise(after, stage="after", status=status, benchmarks=benchmarks, trading=_trading(trades, results)),
        ]
    ).sort(CONTRACTS["portfolio_summary"].key)
    tables["shocks"] = pl.concat([shock.frame for shock in task.shocks]).sort("scenario_id", "security_id")
    tables["scenario_summary"] = summarise_scenarios(list(task.shocks))
    tables["exceptions"] = notices_frame(notices)
    return tables


@dataclass(frozen=True, slots=True)
class _Desk:
    """What every book of the chunk is rebalanced with."""

    books: Portfolios
    terms: Terms
    evidence: Evidence
    benchmarks: Mapping[str, Mapping[str, float]]
    programs: Programs


def _rebalance_one(book: str, mandate: Mandate, desk: _Desk) -> tuple[Problem, Answer]:
    books = desk.books
    benchmark_id = dict(books.table.select("portfolio_id", "benchmark_id").iter_rows())[book]
    benchmark = desk.benchmarks.get(benchmark_id) if benchmark_id is not None else None
    problem = state_problem(
        book, weights=_weights_of(book, books), benchmark=benchmark, mandate=mandate, terms=desk.terms
    )
    inputs: dict[str, Any] = {
        "holdings": books.holdings.filter(pl.col("portfolio_id") == book),
        "nav": float(books.nav[books.ids.labels.index(book)]),
        "benchmark": None
        if benchmark is None
        else pl.DataFrame({"security_id": list(benchmark), "weight": list(benchmark.values())}),
        "mandate": mandate,
    }
    judge = partial(_call, certify, desk.evidence, inputs)
    refute = partial(_call, prove_infeasible, desk.evidence, inputs)
    return problem, solve_problem(problem, desk.programs, judge=judge, refute=refute)


def _call(verb: Any, evidence: Evidence, inputs: dict[str, Any], claim: Any) -> Any:
    return verb(evidence, **inputs, claim=claim)


def _evidence(portfolios: Portfolios, task: Task) -> Evidence:
    tables = portfolios.model.tables
    frames = [shock.frame for shock in task.shocks]
    return gather_evidence(
        exposures=tables["exposures"],
        factor_covariance=tables["factor_covariance"],
        specific_risk=tables["specific_risk"],
        memberships=task.curve.memberships,
        shocks=pl.concat(frames) if frames else empty("shocks"),
        securities=task.securities,
    )


def _mandate_of(book: str, portfolios: Portfolios, task: Task) -> Mandate | None:
    mandate_id = dict(portfolios.table.select("portfolio_id", "mandate_id").iter_rows())[book]
    return None if mandate_id is None else task.mandates[mandate_id]


def _weights_of(book: str, books: Portfolios) -> dict[str, float]:
    row = books.weights[[books.ids.labels.index(book)]].tocoo()
    labels = books.model.securities.labels
    return {labels[column]: float(value) for column, value in zip(row.coords[1], row.data, strict=True)}


def _unfit(portfolios: Portfolios, task: Task) -> list[Notice]:
    """Books that cannot be rebalanced as they are, with the reason."""
    have = {shock.scenario.id for shock in task.shocks}
    notices = []
    for book in portfolios.books().ids.labels:
        mandate = _mandate_of(book, portfolios, task)
        if mandate is None:
            continue
        short = sorted(name for name, weight in _weights_of(book, portfolios).items() if weight < 0.0)
        if short:
            message = f"short in {', '.join(short[:3])}; mandate {mandate.id} is long-only"
            notices.append(Notice("book.short", "quarantine", message, "holdings", book))
        missing = sorted({budget.scenario for budget in mandate.limits.stress} - have)
        if missing:
            message = f"mandate {mandate.id} budgets {', '.join(missing)}, which cannot run"
            notices.append(Notice("book.scenario", "quarantine", message, "scenarios", book))
        wanted = {*mandate.buy_list, *mandate.limits.weights}
        if strangers := portfolios.model.securities.missing(wanted):
            message = f"mandate {mandate.id} names {', '.join(strangers[:3])}, which the model does not know"
            notices.append(Notice("book.unmodelled", "quarantine", message, "mandates", book))
    return notices


def _targets(
    books: Portfolios, results: list[tuple[Problem, Answer]]
) -> tuple[pl.DataFrame, Float[np.ndarray, " n_books"]]:
    """Weights before and after of every book, unchanged where nothing is certified; and the cash after."""
    solved = {problem.portfolio_id: (problem, answer) for problem, answer in results}
    frames = []
    cash = books.cash.copy()
    for position, book in enumerate(books.ids.labels):
        if book in solved:
            problem, answer = solved[book]
            names, before, after = problem.names.labels, problem.start, answer.weights
            spent = float(problem.costs @ np.abs(after - before))
            cash[position] += float(before.sum() - after.sum()) - spent
        else:
            held = _weights_of(book, books)
            names, before = tuple(sorted(held)), np.array([held[name] for name in sorted(held)])
            after = before
        frame = pl.DataFrame({"security_id": names, "weight_before": before, "weight_after": after})
        frames.append(frame.select(pl.lit(book).alias("portfolio_id"), pl.all()))
    both = pl.concat(frames).filter((pl.col("weight_before") != 0.0) | (pl.col("weight_after") != 0.0))
    return both.sort("portfolio_id", "security_id"), cash


def _with_quantities(targets: pl.DataFrame, books: Portfolios, task: Task) -> pl.DataFrame:
    """The table ``targets``: shares after, fractional; untouched holdings keep their shares."""
    frame = _priced(targets, books, task).with_columns(
        (pl.col("weight_after") * pl.col("nav") / pl.col("price")).alias("quantity_after")
    )
    return frame.select(list(CONTRACTS["targets"].columns)).sort("portfolio_id", "security_id")


def _priced(frame: pl.DataFrame, books: Portfolios, task: Task) -> pl.DataFrame:
    held = books.holdings.select("portfolio_id", "security_id", pl.col("price").alias("held_price"))
    listed = task.securities.select("security_id", pl.col("price").alias("listed_price"), "adv_base")
    navs = pl.DataFrame({"portfolio_id": books.ids.labels, "nav": books.nav})
    return (
        frame.join(navs, on="portfolio_id", how="left", validate="m:1")
        .join(held, on=["portfolio_id", "security_id"], how="left", validate="1:1")
        .join(listed, on="security_id", how="left", validate="m:1")
        .with_columns(pl.coalesce("held_price", "listed_price").alias("price"))
    )


def _trades(books: Portfolios, results: list[tuple[Problem, Answer]], task: Task) -> pl.DataFrame:
    frames = []
    for problem, answer in results:
        delta = answer.weights - problem.start
        at = np.flatnonzero(delta)
        frames.append(
            pl.DataFrame(
                {
                    "portfolio_id": [problem.portfolio_id] * len(at),
                    "security_id": [problem.names.labels[i] for i in at],
                    "trade_weight": delta[at],
                    "cost": problem.costs[at] * np.abs(delta[at]),
                    "reason": [_reason(problem, answer, int(i)) for i in at],
                },
                schema_overrides={"portfolio_id": pl.String, "security_id": pl.String, "reason": pl.String},
            )
        )
    if not frames:
        return empty("trades")
    frame = _priced(pl.concat(frames), books, task).with_columns(
        (pl.col("trade_weight").abs() * pl.col("nav")).alias("notional_base"),
        pl.when(pl.col("trade_weight") > 0).then(pl.lit("buy")).otherwise(pl.lit("sell")).alias("side"),
        (pl.col("cost") * pl.col("nav")).alias("cost_base"),
    )
    frame = frame.with_columns(
        (pl.col("notional_base") / pl.col("price")).alias("quantity"),
        pl.when(pl.col("adv_base") > 0).then(pl.col("notional_base") / pl.col("adv_base")).alias("adv_share"),
    )
    return frame.select(list(CONTRACTS["trades"].columns)).sort("portfolio_id", "security_id")


def _reason(problem: Problem, answer: Answer, i: int) -> str:
    """The limit whose multiplier pushes the trade hardest, or the objective."""
    direction = float(np.sign(answer.weights[i] - problem.start[i]))
    active = answer.weights - problem.benchmark
    gradient = problem.root[i] @ (problem.root.T @ active) + problem.specific[i] * active[i]
    pushes = {"less active risk": -direction * problem.aversion * float(gradient)}
    for name, row in zip(problem.row_ids, problem.rows, strict=True):
        pushes[f"limit {name}"] = -direction * answer.duals.get(name, 0.0) * float(row[i])
    pushes[f"limit {BUDGET}"] = -direction * answer.duals.get(BUDGET, 0.0)
    if problem.start[i] > problem.upper[i]:
        return f"limit weight:{problem.names.labels[i]}:max"
    if problem.start[i] < problem.lower[i]:
        return f"limit weight:{problem.names.labels[i]}:min"
    return max(pushes, key=lambda name: pushes[name])


def _trading(trades: pl.DataFrame, results: list[tuple[Problem, Answer]]) -> pl.DataFrame:
    done = pl.DataFrame({"portfolio_id": [p.portfolio_id for p, _ in results]}, schema={"portfolio_id": pl.String})
    sums = trades.group_by("portfolio_id").agg(
        pl.col("trade_weight").abs().sum().alias("turnover"), pl.col("cost_base").sum()
    )
    return done.join(sums, on="portfolio_id", how="left").with_columns(pl.col("turnover", "cost_base").fill_null(0.0))


def _limits(results: list[tuple[Problem, Answer]]) -> pl.DataFrame:
    """Every limit of every book: bound, use before and after, slack and shadow price."""
    rows = [
        {
            "portfolio_id": problem.portfolio_id,
            "limit_id": use.limit_id,
            "kind": use.kind,
            "priority": 0,
            "bound": use.bound,
            "before": use.before,
            "after": use.after,
            "slack": use.room(use.after),
            "shadow_price": answer.duals.get(use.limit_id) if answer.status == "certified" else None,
            "breach_before": use.room(use.before) < -FEASIBILITY,
            "breach": use.room(use.after) < -FEASIBILITY,
        }
        for problem, answer in results
        for use in _uses(problem, answer)
    ]
    if not rows:
        return empty("limits")
    return pl.DataFrame(rows, schema=CONTRACTS["limits"].columns).sort("portfolio_id", "limit_id")


@dataclass(frozen=True, slots=True)
class _Use:
    """One limit as the desk reads it: at most (``sign`` 1) or at least (-1) ``bound``."""

    limit_id: str
    kind: str
    sign: int
    bound: float
    before: float
    after: float

    def room(self, used: float) -> float:
        """What is left of the limit; negative is a breach."""
        return self.sign * (self.bound - used)


def _uses(problem: Problem, answer: Answer) -> list[_Use]:
    x0, x = problem.start, answer.weights
    traded = np.abs(x - x0)
    spent = float(x.sum() + problem.costs @ traded)
    uses = [
        _Use(BUDGET, "cash", -1, 1.0 - problem.spendable, 1.0 - float(x0.sum()), 1.0 - spent),
        _Use(TURNOVER, "turnover", 1, problem.turnover, 0.0, float(traded.sum())),
    ]
    for name, row, bound in zip(problem.row_ids, problem.rows, problem.bounds, strict=True):
        kind, before, after = name.split(":")[0], float(row @ x0), float(row @ x)
        if name == "cash:max":
            uses.append(_Use(name, kind, 1, 1.0 + float(bound), 1.0 + before, 1.0 + after))
        elif name.endswith(":min"):
            uses.append(_Use(name, kind, -1, -float(bound), -before, -after))
        else:
            uses.append(_Use(name, kind, 1, float(bound), before, after))
    for i in np.flatnonzero((x0 > problem.upper) | (x >= problem.upper)):
        name = f"weight:{problem.names.labels[i]}:max"
        uses.append(_Use(name, "weight", 1, float(problem.upper[i]), float(x0[i]), float(x[i])))
    for i in np.flatnonzero((x0 < problem.lower) | ((x <= problem.lower) & (problem.lower > 0.0))):
        name = f"weight:{problem.names.labels[i]}:min"
        uses.append(_Use(name, "weight", -1, float(problem.lower[i]), float(x0[i]), float(x[i])))
    return uses


def _certificates(results: list[tuple[Problem, Answer]]) -> pl.DataFrame:
    rows = [
        {
            "portfolio_id": problem.portfolio_id,
            "form": "continuous",
            "status": answer.status,
            "objective": _finite(answer, "objective"),
            "lower_bound": _finite(answer, "lower_bound"),
            "relative_gap": _finite(answer, "relative_gap"),
            "max_violation": answer.conflict if answer.status == "infeasible" else _finite(answer, "max_violation"),
            "solver": answer.solver,
            "rung": answer.rung,
            "iterations": answer.iterations,
        }
        for problem, answer in results
    ]
    if not rows:
        return empty("certificates")
    return pl.DataFrame(rows, schema=CONTRACTS["certificates"].columns).sort("portfolio_id", "form")


def _finite(answer: Answer, name: str) -> float | None:
    value = None if answer.verdict is None else float(getattr(answer.verdict, name))
    return value if value is not None and np.isfinite(value) else None
