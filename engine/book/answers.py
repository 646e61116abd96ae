"""A chunk's answers as tables: targets, trades with their reasons, limits, certificates."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Float

from engine.book.whipsaw import WHIPSAW_COLUMNS
from engine.contracts import CONTRACTS, empty
from engine.conventions import FEASIBILITY
from engine.mandates.mandate import Mandate
from engine.rebalance.conflict import Conflict
from engine.rebalance.problem import ACTIVE, BUDGET, GROSS, TRACKING_ERROR, TURNOVER, Problem
from engine.rebalance.shadows import shadow_prices
from engine.rebalance.solve import Answer
from engine.risk.portfolios import Portfolios

OPINION_COLUMNS: Final = ("models_asked", "models_agreeing", "agreed_weight")
"""What a trade carries where second models were asked."""


def targets_and_cash(
    books: Portfolios, results: list[tuple[Problem, Answer]]
) -> tuple[pl.DataFrame, Float[np.ndarray, " n_books"]]:
    """Weights before and after of every book, unchanged where nothing is certified; and the cash after."""
    solved = {problem.portfolio_id: (problem, answer) for problem, answer in results}
    cash = books.cash.copy()
    frames = [_unchanged(books, [book not in solved for book in books.ids.labels])]
    for position, book in enumerate(books.ids.labels):
        if book not in solved:
            continue
        problem, answer = solved[book]
        spent = float(problem.costs @ np.abs(answer.final - problem.start))
        cash[position] += float(problem.start.sum() - answer.final.sum()) - spent
        frames.append(
            pl.DataFrame(
                {
                    "portfolio_id": [book] * len(problem.names),
                    "security_id": problem.names.labels,
                    "weight_before": problem.start,
                    "weight_after": answer.final,
                },
                schema=dict(list(CONTRACTS["targets"].columns.items())[:4]),
            )
        )
    both = pl.concat(frames).filter((pl.col("weight_before") != 0.0) | (pl.col("weight_after") != 0.0))
    return both.sort("portfolio_id", "security_id"), cash


def _unchanged(books: Portfolios, kept: list[bool]) -> pl.DataFrame:
    held = books.traded.tocoo()
    rows, columns = held.coords
    ids, names = np.array(books.ids.labels, dtype=object), np.array(books.model.securities.labels, dtype=object)
    chosen = np.array(kept, dtype=bool)[rows]
    return pl.DataFrame(
        {
            "portfolio_id": ids[rows[chosen]].tolist(),
            "security_id": names[columns[chosen]].tolist(),
            "weight_before": held.data[chosen],
            "weight_after": held.data[chosen],
        },
        schema=dict(list(CONTRACTS["targets"].columns.items())[:4]),
    )


def with_quantities(
    targets: pl.DataFrame, results: list[tuple[Problem, Answer]], books: Portfolios, securities: pl.DataFrame
) -> pl.DataFrame:
    """The table ``targets``: shares after, whole lots where the mandate asks; untouched holdings keep their shares."""
    untouched = pl.col("weight_after") == pl.col("weight_before")
    priced = _priced(targets, books, securities).join(
        _lots(results), on=["portfolio_id", "security_id"], how="left", validate="1:1"
    )
    frame = priced.with_columns(
        pl.when(untouched)
        .then(pl.col("held_quantity"))
        .otherwise(pl.coalesce("lots_after", pl.col("weight_after") * pl.col("nav") / pl.col("price")))
        .alias("quantity_after")
    )
    return frame.select(list(CONTRACTS["targets"].columns)).sort("portfolio_id", "security_id")


def _lots(results: list[tuple[Problem, Answer]]) -> pl.DataFrame:
    """Shares after of every name of the books that are published in whole lots."""
    columns = {"portfolio_id": pl.String, "security_id": pl.String, "lots_after": pl.Float64}
    frames = [
        pl.DataFrame(
            {
                "portfolio_id": [problem.portfolio_id] * len(problem.names),
                "security_id": problem.names.labels,
                "lots_after": answer.published.quantities,
            },
            schema=columns,
        )
        for problem, answer in results
        if answer.published is not None and answer.published.certified
    ]
    return pl.concat([pl.DataFrame(schema=columns), *frames])


def _priced(frame: pl.DataFrame, books: Portfolios, securities: pl.DataFrame) -> pl.DataFrame:
    held = books.holdings.select(
        "portfolio_id", "security_id", pl.col("price").alias("held_price"), pl.col("quantity").alias("held_quantity")
    )
    listed = securities.select("security_id", pl.col("price").alias("listed_price"), "adv_base")
    navs = pl.DataFrame({"portfolio_id": books.ids.labels, "nav": books.nav})
    return (
        frame.join(navs, on="portfolio_id", how="left", validate="m:1")
        .join(held, on=["portfolio_id", "security_id"], how="left", validate="1:1")
        .join(listed, on="security_id", how="left", validate="m:1")
        .with_columns(pl.coalesce("held_price", "listed_price").alias("price"))
    )


def trade_table(books: Portfolios, results: list[tuple[Problem, Answer]], securities: pl.DataFrame) -> pl.DataFrame:
    """The table ``trades``: what changes, at which price and cost, and which limit or aim asks for it.

    The reason is the limit whose multiplier pushes the trade hardest, or the objective. What the
    trades are worth under scenarios is not known here; ``price_whipsaws`` adds it. Nor is what other
    models would trade: those columns are null.
    """
    frames = []
    for problem, answer in results:
        delta = answer.final - problem.start
        at = np.flatnonzero(delta)
        frames.append(
            pl.DataFrame(
                {
                    "portfolio_id": [problem.portfolio_id] * len(at),
                    "security_id": [problem.names.labels[i] for i in at],
                    "trade_weight": delta[at],
                    "cost": (problem.costs[at] + problem.impact[at] * np.sqrt(np.abs(delta[at]))) * np.abs(delta[at]),
                    "reason": [_reason(problem, answer, int(i)) for i in at],
                },
                schema_overrides={"portfolio_id": pl.String, "security_id": pl.String, "reason": pl.String},
            )
        )
    if not frames:
        return empty("trades").drop(WHIPSAW_COLUMNS)
    named = pl.concat(frames).join(_lots(results), on=["portfolio_id", "security_id"], how="left", validate="1:1")
    frame = _priced(named, books, securities).with_columns(
        (pl.col("trade_weight").abs() * pl.col("nav")).alias("notional_base"),
        pl.when(pl.col("trade_weight") > 0).then(pl.lit("buy")).otherwise(pl.lit("sell")).alias("side"),
        (pl.col("cost") * pl.col("nav")).alias("cost_base"),
    )
    frame = frame.with_columns(
        pl.coalesce(
            (pl.col("lots_after") - pl.col("held_quantity").fill_null(0.0)).abs(),
            pl.col("notional_base") / pl.col("price"),
        ).alias("quantity"),
        pl.when(pl.col("adv_base") > 0).then(pl.col("notional_base") / pl.col("adv_base")).alias("adv_share"),
    )
    dtypes = CONTRACTS["trades"].columns
    frame = frame.with_columns(pl.lit(None, dtype=dtypes[name]).alias(name) for name in OPINION_COLUMNS)
    return frame.select([name for name in dtypes if name not in WHIPSAW_COLUMNS]).sort("portfolio_id", "security_id")


def _reason(problem: Problem, answer: Answer, i: int) -> str:
    """The limit whose multiplier pushes the trade hardest, or the objective; or the repair of rounding alone."""
    direction = float(np.sign(answer.final[i] - problem.start[i]))
    if direction != np.sign(answer.weights[i] - problem.start[i]):
        return "whole lots"
    gradient = problem.risk_slope(answer.weights)[i]
    risk = "less active risk" if problem.benchmark.any() else "less risk"
    pushes = {risk: -direction * problem.aversion * float(gradient)}
    pushes["expected return"] = direction * float(problem.alpha[i])
    for name, row in zip(problem.row_ids, problem.rows, strict=True):
        pushes[f"limit {name}"] = -direction * answer.duals.get(name, 0.0) * float(row[i])
    if problem.tracking_error is not None:
        slope = float(gradient) / max(float(np.sqrt(problem.active_variance(answer.weights))), 1e-12)
        pushes[f"limit {TRACKING_ERROR}"] = -direction * answer.duals.get(TRACKING_ERROR, 0.0) * slope
    for cone in problem.cones:
        pushes[f"limit {cone.limit_id}"] = -direction * float(cone.pressure(answer.weights, answer.duals)[i])
    if answer.weights[i] < 0.0:
        pushes["borrowing cost"] = direction * float(problem.borrow[i])
    if problem.gross is not None:
        pushes[f"limit {GROSS}"] = -direction * answer.duals.get(GROSS, 0.0) * float(np.sign(answer.weights[i]))
    pushes[f"limit {BUDGET}"] = -direction * answer.duals.get(BUDGET, 0.0)
    if problem.start[i] > problem.upper[i]:
        return f"limit {problem.upper_id(i)}"
    if problem.start[i] < problem.lower[i]:
        return f"limit {problem.lower_id(i)}"
    return max(pushes, key=lambda name: pushes[name])


def trading_sums(trades: pl.DataFrame, results: list[tuple[Problem, Answer]]) -> pl.DataFrame:
    """Two-way turnover and cost of every book that was tried, zero where nothing trades."""
    done = pl.DataFrame({"portfolio_id": [p.portfolio_id for p, _ in results]}, schema={"portfolio_id": pl.String})
    sums = trades.group_by("portfolio_id").agg(
        pl.col("trade_weight").abs().sum().alias("turnover"), pl.col("cost_base").sum()
    )
    return done.join(sums, on="portfolio_id", how="left").with_columns(pl.col("turnover", "cost_base").fill_null(0.0))


def limit_table(results: list[tuple[Problem, Answer]], mandates: Mapping[str, Mandate] | None = None) -> pl.DataFrame:
    """Every limit of every book: bound, use before and after, slack, shadow price, and what it gave way by.

    No price where the book has no certified answer; a weight limit that no longer binds has the price 0.
    """
    prices = {
        problem.portfolio_id: shadow_prices(problem, answer.weights, answer.duals)
        for problem, answer in results
        if answer.status == "certified"
    }
    rows = [
        {
            "portfolio_id": problem.portfolio_id,
            "limit_id": use.limit_id,
            "kind": use.kind,
            "priority": 0 if mandates is None else mandates[problem.portfolio_id].limits.priority(use.limit_id),
            "bound": use.bound,
            "before": use.before,
            "after": use.after,
            "slack": use.room(use.after),
            "shadow_price": prices[problem.portfolio_id].get(use.limit_id, 0.0)
            if problem.portfolio_id in prices
            else None,
            "breach_before": use.room(use.before) < -FEASIBILITY,
            "breach": use.room(use.after) < -FEASIBILITY,
            "relaxed_by": answer.relaxed.get(use.limit_id),
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
    x0, x, proven = problem.start, answer.final, answer.weights
    traded = np.abs(x - x0)
    spent = float(x.sum() + problem.costs @ traded)
    uses = [
        _Use(BUDGET, "cash", -1, 1.0 - problem.spendable, 1.0 - float(x0.sum()), 1.0 - spent),
        _Use(TURNOVER, "turnover", 1, problem.turnover, 0.0, float(traded.sum())),
    ]
    if problem.gross is not None:
        uses.append(_Use(GROSS, GROSS, 1, problem.gross, float(np.abs(x0).sum()), float(np.abs(x).sum())))
    if problem.tracking_error is not None:
        before, after = (float(np.sqrt(problem.active_variance(weights))) for weights in (x0, x))
        uses.append(_Use(TRACKING_ERROR, TRACKING_ERROR, 1, problem.tracking_error, before, after))
    uses += [
        _Use(cone.limit_id, cone.limit_id.split(":")[0], 1, cone.bound, cone.used(x0), cone.used(x))
        for cone in problem.cones
    ]
    for name, row, bound in zip(problem.row_ids, problem.rows, problem.bounds, strict=True):
        kind, before, after = name.split(":")[0], float(row @ x0), float(row @ x)
        own = float(row @ problem.benchmark) if name.endswith(":active") or kind.startswith(ACTIVE) else 0.0
        values = (float(bound) - own, before - own, after - own)
        if name == "cash:max":
            uses.append(_Use(name, kind, 1, *(1.0 + value for value in values)))
        elif name.endswith(":min"):
            uses.append(_Use(name, kind, -1, *(-value for value in values)))
        else:
            uses.append(_Use(name, kind, 1, *values))
    for i in np.flatnonzero((x0 > problem.upper) | (proven >= problem.upper)).tolist():
        own = float(problem.benchmark[i]) if problem.upper_kinds[i].startswith(ACTIVE) else 0.0
        values = (float(problem.upper[i]) - own, float(x0[i]) - own, float(x[i]) - own)
        uses.append(_Use(problem.upper_id(i), problem.upper_kinds[i], 1, *values))
    for i in np.flatnonzero((x0 < problem.lower) | ((proven <= problem.lower) & (problem.lower != 0.0))).tolist():
        own = float(problem.benchmark[i]) if problem.lower_kinds[i].startswith(ACTIVE) else 0.0
        values = (float(problem.lower[i]) - own, float(x0[i]) - own, float(x[i]) - own)
        uses.append(_Use(problem.lower_id(i), problem.lower_kinds[i], -1, *values))
    return uses


def conflict_table(conflicts: Mapping[str, Conflict]) -> pl.DataFrame:
    """The table ``conflicts``: by book the minimal set of limits of priority 0 that cannot all be kept."""
    rows = [
        {
            "portfolio_id": book,
            "limit_id": member.limit_id,
            "names": ", ".join(member.names) or None,
            "bound": member.bound,
            "cure": member.cure,
            "cure_least": member.proven.least,
            "cure_enough": member.proven.enough,
            "common": member.common,
            "common_least": member.common_proven.least,
            "common_enough": member.common_proven.enough,
            "multiplier": member.multiplier,
        }
        for book, conflict in conflicts.items()
        for member in conflict.members
    ]
    return pl.DataFrame(rows, schema=CONTRACTS["conflicts"].columns).sort("portfolio_id", "limit_id")


def certificate_table(results: list[tuple[Problem, Answer]]) -> pl.DataFrame:
    """The table ``certificates``; an infeasible book shows the proven smallest common violation.

    A book with a certified continuous answer has a second row, of what is published.
    """
    rows: list[dict[str, object]] = [
        {
            "portfolio_id": problem.portfolio_id,
            "form": "continuous",
            "status": answer.status,
            "objective": _finite(answer, "objective"),
            "lower_bound": _finite(answer, "lower_bound"),
            "relative_gap": _finite(answer, "relative_gap"),
            "max_violation": answer.conflict if answer.status == "infeasible" else _finite(answer, "max_violation"),
            "rounding_cost": None,
            "unrepaired": None,
            "solver": answer.solver,
            "rung": answer.rung,
            "iterations": answer.iterations,
        }
        for problem, answer in results
    ]
    rows += [_published_row(problem, answer) for problem, answer in results if answer.status == "certified"]
    if not rows:
        return empty("certificates")
    return pl.DataFrame(rows, schema=CONTRACTS["certificates"].columns).sort("portfolio_id", "form")


def _published_row(problem: Problem, answer: Answer) -> dict[str, object]:
    """What is published: the continuous answer itself where shares are fractional, else the whole lots."""
    lots = answer.published
    return {
        "portfolio_id": problem.portfolio_id,
        "form": "published",
        "status": answer.outcome,
        "objective": _finite(answer, "objective") if lots is None else lots.objective,
        "lower_bound": _finite(answer, "lower_bound"),
        "relative_gap": _finite(answer, "relative_gap") if lots is None else lots.relative_gap,
        "max_violation": _finite(answer, "max_violation") if lots is None else lots.max_violation,
        "rounding_cost": 0.0 if lots is None else lots.rounding_cost,
        "unrepaired": None if lots is None else lots.unrepaired,
        "solver": answer.solver if lots is None else lots.by,
        "rung": answer.rung,
        "iterations": answer.iterations if lots is None else lots.steps,
    }


def _finite(answer: Answer, name: str) -> float | None:
    value = None if answer.verdict is None else float(getattr(answer.verdict, name))
    return value if value is not None and np.isfinite(value) else None
