"""``explain_portfolio``: one book's rebalance as a story, and why one name trades or does not."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from engine.api.loading import LoadedUniverse
from engine.api.rebalancing import lay_out_books
from engine.book.bench import Bench, lay_out
from engine.book.chunk import rebalance_chunk
from engine.contracts import CONTRACTS
from engine.documents import suggestion
from engine.errors import UsageError
from engine.intake import Notice
from engine.rebalance.pushes import split_marginal_costs

TOLD: Final = ("portfolio_summary", "stress", "limits", "certificates", "trades", "whipsaws")
"""The tables of a rebalance that a story is told from."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A book's rebalance, and of one name what its next trade would cost.

    Args:
        as_of: Date of the holdings.
        tables: Those of ``TOLD``; with a security ``standing`` and ``marginal_costs``, and always ``exceptions``.
        refused: Why there is nothing to explain, if so.
        notices: What was noticed in the inputs.
    """

    as_of: dt.date
    tables: Mapping[str, pl.DataFrame]
    refused: tuple[str, ...]
    notices: tuple[Notice, ...]


def explain_portfolio(loaded: LoadedUniverse, portfolio_id: str, security_id: str | None = None) -> Explanation:
    """Rebalance one book and tell why, for the whole book or for one name.

    A name that is no candidate (neither held, nor in the benchmark, nor on the buy list) is
    looked at as if it were: at no weight it changes nothing, and its marginal cost is what
    its first trade would add.

    Args:
        loaded: From ``load_universe``.
        portfolio_id: The book.
        security_id: A security of the risk model.

    Raises:
        UsageError: an unknown book or security.
        DataError: the book cannot be measured.
    """
    chosen = loaded.only([portfolio_id])
    ready, task = lay_out_books(chosen)
    known = ready.portfolios.model.securities.labels
    if security_id is not None and security_id not in known:
        raise UsageError(f"unknown security {security_id!r}{suggestion(security_id, known)}")
    tables, notices = rebalance_chunk(ready.portfolios, task)
    told = {name: tables[name] for name in (*TOLD, "exceptions")}
    status = tables["portfolio_summary"].filter(pl.col("stage") == "after")["status"].to_list()
    refused = list(ready.refused)
    if status != ["certified"]:
        refused += [f"{portfolio_id}: {_reason(portfolio_id, notices)}"]
    elif security_id is not None:
        told |= _look(lay_out(ready.portfolios, task), portfolio_id, security_id)
    return Explanation(ready.portfolios.as_of, told, tuple(refused), notices)


def _reason(book: str, notices: tuple[Notice, ...]) -> str:
    """Why there is no certified answer, in the words of the run."""
    words = [n.message for n in notices if n.portfolio_id == book and n.code.startswith("book.")]
    return "; ".join(words) if words else "it has no mandate, so nothing is rebalanced"


def _look(bench: Bench, book: str, security: str) -> dict[str, pl.DataFrame]:
    """The tables ``standing`` and ``marginal_costs`` of one name."""
    problem, answer, _ = bench.settle(book)
    weights, candidate = answer.weights, security in problem.names
    if not candidate:
        own = bench.mandate(book)
        found = dict(zip(problem.names.labels, weights.tolist(), strict=True))
        problem = bench.state(book, own.model_copy(update={"buy_list": (*own.buy_list, security)}))
        weights = np.array([found.get(name, 0.0) for name in problem.names.labels])
    pushes = split_marginal_costs(problem, weights, answer.duals, bench.desk.terms.model)
    at = problem.names.labels.index(security)
    indexed = book in bench.cases and bench.cases[book].benchmark_id is not None
    key = {"portfolio_id": book, "security_id": security}
    buying, selling = pushes.buying[:, at], pushes.selling[:, at]
    standing: dict[str, Any] = key | {
        "candidate": candidate,
        "before": float(problem.start[at]),
        "after": float(weights[at]),
        "benchmark": float(problem.benchmark[at]) if indexed else None,
        "lowest": float(problem.lower[at]),
        "highest": float(problem.upper[at]),
        "lowest_by": problem.lower_id(at),
        "highest_by": problem.upper_id(at),
        "buying": float(buying.sum()),
        "selling": float(selling.sum()),
    }
    parts = pl.DataFrame(
        {
            "portfolio_id": [book] * len(pushes.parts),
            "security_id": [security] * len(pushes.parts),
            "kind": pushes.kinds,
            "part": pushes.parts,
            "buying": buying,
            "selling": selling,
        },
        schema=CONTRACTS["marginal_costs"].columns,
    )
    return {
        "standing": pl.DataFrame([standing], schema=CONTRACTS["standing"].columns),
        "marginal_costs": parts.sort(CONTRACTS["marginal_costs"].key),
    }
