"""``nowcast_portfolios``: a tape of prints becomes every book's estimated loss, scored at the close."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import polars as pl

from engine.api.loading import LoadedUniverse
from engine.api.weighing import unfold_library, weigh_books
from engine.contracts import CONTRACTS
from engine.conventions import FEASIBILITY
from engine.intake import Notice, notices_frame
from engine.risk.portfolios import Portfolios
from engine.stress.nowcast import Nowcast, compare_scenarios, nowcast, nowcast_books, nowcast_names
from engine.stress.nowcast_scores import read_closing, score_books, score_names
from engine.stress.tape import TapeRules, read_tape

SURPRISING: Final = 8.0
"""Standard deviations from which on a print asks for a second look; a true shock looks like this too."""


@dataclass(frozen=True, slots=True)
class NowcastResult:
    """What a tape says of every sound book and parent.

    Args:
        now: The conditional distribution.
        portfolios: Weights of the books.
        tables: ``nowcast``, ``nowcast_names``, ``nowcast_scenarios``, ``exceptions``; after
            ``score_nowcast`` also ``nowcast_scores`` and ``nowcast_book_scores``.
        refused: Faults of scenarios that could not run.
        notices: What was noticed in the inputs.
    """

    now: Nowcast
    portfolios: Portfolios
    tables: Mapping[str, pl.DataFrame]
    refused: tuple[str, ...]
    notices: tuple[Notice, ...]


def nowcast_portfolios(
    loaded: LoadedUniverse,
    tape: pl.DataFrame,
    *,
    rules: TapeRules | None = None,
    band: float | None = None,
    source: str = "tape",
) -> NowcastResult:
    """Estimate what every book has lost from a few prints.

    Args:
        loaded: From ``load_universe``.
        tape: Table ``tape``: security_id, time, return since the previous close.
        rules: Session, moment, staleness; 09:30 to 16:00 and the newest print when None.
        band: Probability of the bands; the universe's when None.
        source: File of the tape, for the messages.

    Raises:
        DataError: no print can be used, or no book measured.
    """
    prints = read_tape(tape, loaded.model.securities, rules or TapeRules(), source)
    portfolios, doubts = weigh_books(loaded)
    now = nowcast(prints, portfolios.model)
    level = band if band is not None else loaded.universe.settings.stress.band
    library, uncompared = unfold_library(loaded, portfolios.model)
    scenarios = compare_scenarios(now, library)
    notices = (*doubts, *uncompared, *prints.notices, *_doubts(now, source))
    books = _with_budgets(nowcast_books(now, portfolios, level), loaded, portfolios)
    alike = scenarios.filter(pl.col("similarity") > 0.0).sort("similarity", "scenario_id", descending=[True, False])
    nearest = alike.row(0, named=True) if alike.height else {"scenario_id": None, "similarity": None}
    books = books.with_columns(
        pl.lit(nearest["scenario_id"], dtype=pl.String).alias("nearest_scenario"),
        pl.lit(nearest["similarity"], dtype=pl.Float64).alias("similarity"),
    )
    tables = {
        "nowcast": books,
        "nowcast_names": nowcast_names(now, level),
        "nowcast_scenarios": scenarios,
        "exceptions": notices_frame(notices),
    }
    tables = {name: frame.select(*CONTRACTS[name].columns) for name, frame in tables.items()}
    return NowcastResult(now, portfolios, tables, (), notices)


def score_nowcast(
    result: NowcastResult, closing: pl.DataFrame, loaded: LoadedUniverse, *, source: str = "closing"
) -> NowcastResult:
    """The same with its scores against the closing returns.

    The scoring set is that of a back-test, stocks with a GICS sector that are in no basket,
    without the names of the tape.

    Args:
        result: From ``nowcast_portfolios``.
        closing: Table ``closing``: security_id, return of the whole day.
        loaded: The universe of the nowcast.
        source: File of the closing returns, for the messages.

    Raises:
        ContractError: the closing returns cannot be used.
        DataError: fewer than 3 names can be scored.
    """
    day, noticed = read_closing(closing, source)
    rows = loaded.universe.securities.filter((pl.col("kind") == "stock") & pl.col("gics_sector").is_not_null())
    scoring = set(rows["security_id"].to_list()) - set(loaded.universe.settings.core)
    names = result.tables["nowcast_names"]
    notices = (*result.notices, *noticed)
    tables = {
        **result.tables,
        "nowcast_scores": score_names(names, day, scoring=scoring),
        "nowcast_book_scores": score_books(result.tables["nowcast"], names, day, result.portfolios),
        "exceptions": notices_frame(notices),
    }
    return NowcastResult(result.now, result.portfolios, tables, result.refused, notices)


def _with_budgets(books: pl.DataFrame, loaded: LoadedUniverse, portfolios: Portfolios) -> pl.DataFrame:
    """Each book's tightest stress budget, and whether the estimated loss is already beyond it."""
    rows = [
        {"portfolio_id": book, "budget_scenario": budget.scenario, "budget": budget.max_loss}
        for book, mandate in portfolios.table.select("portfolio_id", "mandate_id").iter_rows()
        if mandate in loaded.mandates
        for budget in loaded.mandates[mandate].limits.stress
    ]
    schema = {"portfolio_id": pl.String, "budget_scenario": pl.String, "budget": pl.Float64}
    every = pl.DataFrame(rows, schema=schema).sort("portfolio_id", "budget", "budget_scenario")
    tightest = every.group_by("portfolio_id", maintain_order=True).first()
    beyond = -pl.col("pnl_frac") > pl.col("budget") + FEASIBILITY
    return (
        books.join(tightest, on="portfolio_id", how="left", validate="1:1")
        .with_columns(beyond.fill_null(False).alias("breach"))
        .sort("portfolio_id")
    )


def _doubts(now: Nowcast, source: str) -> list[Notice]:
    doubts = [
        Notice(
            "tape.surprise",
            "warn",
            f"print {name}: {100.0 * moved:.1f} % is {abs(distance):.0f} standard deviations from what the other "
            "prints say; check this print (it is used)",
            source,
        )
        for name, moved, distance in zip(now.tape.names, now.tape.returns, now.surprises, strict=True)
        if abs(distance) > SURPRISING
    ]
    if now.ridged:
        words = "the prints nearly repeat each other; a ridge keeps them apart and none is met exactly"
        doubts.append(Notice("tape.ridge", "warn", words, source))
    return doubts
