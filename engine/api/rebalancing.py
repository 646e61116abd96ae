"""``rebalance_portfolios``: every book of a universe inside its limits at the least cost."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import polars as pl

from engine.api.loading import LoadedUniverse
from engine.api.stressing import Prepared, prepare
from engine.book.allotment import count_volume, share_volume
from engine.book.bench import Task, state_bare
from engine.book.chunk import rebalance_chunk
from engine.book.demand import measure_demand
from engine.contracts import empty
from engine.intake import Notice

WHIPSAW: Final = "overreaction"
"""What follows a trade that is regretted, where the universe does not name another."""


@dataclass(frozen=True, slots=True)
class RebalanceResult:
    """Every table of a rebalance, before and after.

    Args:
        as_of: Date of the holdings.
        tables: Output tables by contract name.
        refused: Faults of scenarios that could not run.
        notices: What was noticed in the inputs.
    """

    as_of: dt.date
    tables: Mapping[str, pl.DataFrame]
    refused: tuple[str, ...]
    notices: tuple[Notice, ...]


def lay_out_books(loaded: LoadedUniverse, scenarios: Sequence[str] = ()) -> tuple[Prepared, Task]:
    """The books on the model's axis, and what they are rebalanced with.

    Args:
        loaded: From ``load_universe``.
        scenarios: Ids besides those that mandates budget and the whipsaw.

    Raises:
        As ``rebalance_portfolios``.
    """
    budgeted = {budget.scenario for mandate in loaded.mandates.values() for budget in mandate.limits.budgets}
    settings = loaded.universe.settings.stress
    if settings.whipsaw is None and WHIPSAW in loaded.library.ids:
        settings = settings.model_copy(update={"whipsaw": WHIPSAW})
    wanted = sorted({*scenarios, *budgeted, settings.scenario, *filter(None, [settings.whipsaw])})
    ready = prepare(loaded, wanted, {})
    task = Task(
        curve=loaded.curve,
        mandates=loaded.mandates,
        securities=loaded.universe.securities,
        benchmarks=loaded.benchmarks,
        outcomes=ready.outcomes,
        moves=ready.moves,
        settings=settings,
        history=loaded.history,
        notices=ready.notices,
    )
    sharing = loaded.universe.settings.liquidity
    # Over all books of the run, before any of them is solved: the shares do not depend on chunks.
    if sharing.firm_participation is not None:
        volumes = dict(task.securities.select("security_id", "adv_base").drop_nulls().iter_rows())
        demand = measure_demand(state_bare(ready.portfolios, task), volumes)
        task = replace(task, allotments=share_volume(demand, task.securities, sharing))
    return ready, task


def rebalance_portfolios(
    loaded: LoadedUniverse, scenarios: Sequence[str] = (), *, only: Sequence[str] = ()
) -> RebalanceResult:
    """Rebalance the books of a universe under their mandates.

    Args:
        loaded: From ``load_universe``.
        scenarios: Ids to report besides those that mandates budget and the whipsaw.
        only: Portfolio ids; all books when empty.

    Returns:
        The tables of DESIGN 5 that a rebalance fills; every answer that moves a book is certified.

    Raises:
        UsageError: an unknown portfolio or scenario.
        ConfigurationError: no scenario can run.
        DataError: no book can be measured.
        ContractError: the books together trade more of a name than the firm may.
    """
    ready, task = lay_out_books(loaded.only(only), scenarios)
    sharing, securities = loaded.universe.settings.liquidity, loaded.universe.securities
    tables, notices = rebalance_chunk(ready.portfolios, task)
    tables["allotments"] = empty("allotments") if task.allotments is None else task.allotments
    tables["firm_liquidity"] = count_volume(tables["trades"], tables["allotments"], securities, sharing)
    return RebalanceResult(ready.portfolios.as_of, tables, ready.refused, notices)
