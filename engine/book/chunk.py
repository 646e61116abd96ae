"""The one pipeline: books before, rebalanced, after, certified, as tables."""

from typing import Final

import polars as pl

from engine.book.answers import (
    certificate_table,
    conflict_table,
    limit_table,
    targets_and_cash,
    trade_table,
    trading_sums,
    with_quantities,
)
from engine.book.assess import Yardstick, assess, summarise
from engine.book.bench import Task, lay_out
from engine.book.breaches import gave_way, why_not
from engine.book.publishing import lot_notices
from engine.book.whipsaw import price_whipsaws
from engine.contracts import CONTRACTS
from engine.intake import Notice, notices_frame
from engine.risk.portfolios import Portfolios
from engine.stress.liquidity import measure_depth
from engine.stress.plausibility import summarise_scenarios

STAGED: Final = (
    "stress",
    "stress_models",
    "stress_tiers",
    "stress_factors",
    "stress_positions",
    "stress_leaves",
    "stress_trees",
    "portfolio_exposures",
    "portfolio_curve",
    "risk_factors",
    "risk_tiers",
    "risk_positions",
)


def rebalance_chunk(portfolios: Portfolios, task: Task) -> tuple[dict[str, pl.DataFrame], tuple[Notice, ...]]:
    """Rebalance every book that has a mandate; measure before and after.

    Only certified weights move a book. A book with a short position under a long-only
    mandate, without a usable benchmark, or with a budget on a scenario that cannot run is
    set aside with its reason and measured unchanged; the others go on.

    Args:
        portfolios: Weights of books and parents.
        task: Mandates, scenarios, tables.

    Returns:
        Every output table of the run by contract name, columns and order as in the contracts;
        and every notice, the ones that came in included.
    """
    bench = lay_out(portfolios, task)
    books, benchmarks, moves, notices = bench.books, bench.benchmarks, bench.moves, list(bench.notices)
    settled = [bench.settle(book) for book in bench.ids]
    results = [(problem, answer) for problem, answer, _ in settled]
    conflicts = {problem.portfolio_id: conflict for problem, _, conflict in settled if conflict is not None}
    status: dict[str, str] = {problem.portfolio_id: answer.outcome for problem, answer in results}
    status |= {n.portfolio_id: "quarantined" for n in notices if n.portfolio_id and n.severity == "quarantine"}
    targets, cash = targets_and_cash(books, results)
    after = portfolios.moved(targets, cash)
    stages = {"before": portfolios, "after": after}
    depth = measure_depth(portfolios.model, task.securities, task.settings.liquidity.half_spread_bps)
    yardstick = Yardstick(task.curve, task.mandates, benchmarks, task.settings.band, task.moves, depth, task.settings)
    measured = {stage: assess(stages[stage], list(task.outcomes), yardstick, stage=stage) for stage in stages}
    tables = {name: pl.concat([measured[stage][name] for stage in stages]).sort(CONTRACTS[name].key) for name in STAGED}
    trades = trade_table(books, results, task.securities)
    sums = trading_sums(trades, results)
    tables["trades"], tables["whipsaws"] = price_whipsaws(
        trades, moves, sums.join(_navs(books), on="portfolio_id"), measured["before"]["stress"], task.settings
    )
    tables["targets"] = with_quantities(targets, results, books, task.securities)
    tables["limits"] = limit_table(results, {book: bench.mandate(book) for book in bench.ids})
    tables["conflicts"] = conflict_table(conflicts)
    tables["certificates"] = certificate_table(results)
    tables["portfolio_summary"] = pl.concat(
        [
            summarise(portfolios, yardstick, stage="before", stress=measured["before"]["stress"], status=status),
            summarise(
                after,
                yardstick,
                stage="after",
                stress=measured["after"]["stress"],
                status=status,
                trading=sums,
            ),
        ]
    ).sort(CONTRACTS["portfolio_summary"].key)
    tables["shocks"] = moves
    tables |= summarise_scenarios(list(task.outcomes), task.history, task.settings)
    notices += [*why_not(results, conflicts), *gave_way(tables["limits"], results), *lot_notices(results)]
    tables["exceptions"] = notices_frame(notices)
    return tables, tuple(notices)


def _navs(books: Portfolios) -> pl.DataFrame:
    return pl.DataFrame({"portfolio_id": books.ids.labels, "nav": books.nav})
