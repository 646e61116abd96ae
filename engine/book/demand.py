"""What every book must, would and could trade of each name, before the day's volume is shared out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from engine.contracts import empty
from engine.mandates.mandate import Participation
from engine.rebalance.problem import Problem


@dataclass(frozen=True, slots=True)
class Stated:
    """A book's program without any limit from the day's volume.

    Args:
        problem: Its program.
        nav: Base currency.
        participation: What its mandate says of the day's volume.
        follows: True where it has a benchmark.
    """

    problem: Problem
    nav: float
    participation: Participation | None
    follows: bool


def measure_demand(stated: Sequence[Stated], volumes: Mapping[str, float]) -> pl.DataFrame:
    """What every book must, would and could trade of each name, base currency.

    ``need`` is the distance of today's weight from its bounds; ``reach`` the largest trade inside
    the bounds and the turnover, at least the need; neither more than the mandate's own
    participation. ``claim`` is the holding plus the distance from the benchmark. A book
    without a benchmark that breaks no bound and no row is at its optimum: it claims nothing.

    Args:
        stated: The books.
        volumes: Daily volume in base currency by security; absent where it is not known.

    Returns:
        ``portfolio_id``, ``security_id``, ``need_base``, ``claim_base``, ``reach_base``, sorted.
    """
    frames = [empty("allotments").drop("allotted_base")]
    for book in stated:
        problem, own = book.problem, _own_share(book, volumes)
        x0 = problem.start
        need = np.minimum(np.maximum(x0 - problem.upper, problem.lower - x0).clip(min=0.0), own)
        room = np.maximum(x0 - problem.lower, problem.upper - x0).clip(min=0.0)
        reach = np.minimum(np.maximum(np.minimum(room, problem.turnover), need), own)
        settled = not book.follows and not need.any() and _keeps_rows(problem)
        claim = np.zeros(len(x0)) if settled else np.abs(x0) + np.abs(x0 - problem.benchmark)
        columns = {"need_base": need, "claim_base": claim, "reach_base": reach}
        money = {name: values * book.nav for name, values in columns.items()}
        ids = [problem.portfolio_id] * len(x0)
        schema = {"portfolio_id": pl.String, "security_id": pl.String, **dict.fromkeys(columns, pl.Float64)}
        frames.append(pl.DataFrame({"portfolio_id": ids, "security_id": problem.names.labels, **money}, schema=schema))
    return pl.concat(frames).sort("portfolio_id", "security_id")


def _own_share(book: Stated, volumes: Mapping[str, float]) -> Float[np.ndarray, " n_names"]:
    """The largest trade of each name under the mandate's own participation, fraction of NAV."""
    names, share = book.problem.names.labels, book.participation
    if share is None:
        return np.full(len(names), np.inf)
    unknown = np.inf if share.unknown_volume == "allow" else 0.0
    return np.array([share.max_share * volumes[name] / book.nav if name in volumes else unknown for name in names])


def _keeps_rows(problem: Problem) -> bool:
    spent = float(problem.start.sum())
    return spent <= problem.spendable and bool((problem.rows @ problem.start <= problem.bounds).all())
