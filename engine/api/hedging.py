"""``hedge_portfolios``: overlay trades that bring every book's stress loss inside its budget."""

import datetime as dt
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, get_args

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from engine.api.loading import LoadedUniverse
from engine.api.stressing import pick_scenarios
from engine.api.weighing import weigh_books
from engine.axes import Axis
from engine.book.budgets import unmeasured_budgets, with_budgets
from engine.book.margins import robust_margins
from engine.conventions import FEASIBILITY
from engine.documents import suggestion
from engine.errors import ConfigurationError, UsageError
from engine.intake import Notice, notices_frame
from engine.mandates.horizons import check_horizons
from engine.risk.portfolios import Portfolios, weigh_benchmarks
from engine.stress.hedge import Candidates, Objective, Overlay, basis_matrix, hedge_losses, room_for
from engine.stress.hedge_tables import Hedged, tabulate_hedges
from engine.stress.liquidity import measure_depth
from engine.stress.outcome import Outcome, unfold

GROUPS: Final = ("etfs", "names")
MOST_NAMES: Final = 100
REBOUND: Final = "overreaction"
CALM: Final = 20
"""Steps in which what an overlay adds to a margin may fall again."""

SETTLING: Final = 200
"""Steps at most."""

SETTLED: Final = 1e-12
"""Change of a margin that is none, fraction of NAV."""


@dataclass(frozen=True, slots=True)
class HedgeTerms:
    """Which trades a hedge may be made of, and what is least.

    Args:
        objective: ``cheapest``, ``fewest`` or ``steadiest``.
        budget: Largest loss of every book and parent, fraction of NAV; each mandate's own when None.
        candidates: ``etfs`` (of known volume), ``names`` (the 100 stocks of the largest volume), or ids.
        max_trades: Of one book; None does not limit.
        max_weight: Of one trade, fraction of NAV.
        charge_bps: Borrowing and financing of a unit, beside its half-spread.
        long_only: Whether no position may end short.
        rebound: Scenario that may follow; the library's ``overreaction``, if it has one, when None.

    Raises:
        UsageError: a number is outside its range, or two terms contradict each other.
    """

    objective: Objective = "cheapest"
    budget: float | None = None
    candidates: tuple[str, ...] = ("etfs",)
    max_trades: int | None = None
    max_weight: float = 0.25
    charge_bps: float = 1.0
    long_only: bool = False
    rebound: str | None = None

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise UsageError(f"--objective is {self.objective!r}; {', '.join(get_args(Objective))} are known")
        if not self.candidates:
            raise UsageError("--with: nothing is named; give etfs, names, or ids like SPY,SMH")
        if self.budget is not None and not 0.0 < self.budget <= 1.0:
            raise UsageError(
                f"--budget is {self.budget:g}; give a loss above 0, at most 1: 0.05 is five percent of NAV"
            )
        if self.max_trades is not None and self.max_trades < 1:
            raise UsageError(f"--max-trades is {self.max_trades}; at least 1")
        if self.max_trades is not None and self.objective == "steadiest":
            raise UsageError(
                "--max-trades does not go with --objective steadiest; use cheapest, or name fewer in --with"
            )
        if not 0.0 < self.max_weight <= 1.0:
            raise UsageError(f"--max-weight is {self.max_weight:g}; give a fraction of NAV above 0, at most 1")
        if not (math.isfinite(self.charge_bps) and 0.0 <= self.charge_bps <= 1000.0):
            raise UsageError(f"--charge-bps is {self.charge_bps:g}; 0 to 1000")


@dataclass(frozen=True, slots=True)
class HedgeResult:
    """The overlay of every book that has a budget, and what could not be done.

    Args:
        as_of: Date of the holdings.
        scenario: Id of the scenario.
        tables: ``hedges``, ``hedge_trades``, ``hedge_exposures``, ``exceptions``.
        refused: One line a book that the candidates cannot bring inside.
        notices: What was noticed in the inputs.
    """

    as_of: dt.date
    scenario: str
    tables: Mapping[str, pl.DataFrame]
    refused: tuple[str, ...]
    notices: tuple[Notice, ...]


def hedge_portfolios(
    loaded: LoadedUniverse,
    scenario: str | None = None,
    terms: HedgeTerms | None = None,
    *,
    texts: Mapping[str, str] | None = None,
) -> HedgeResult:
    """Find overlay trades that bring each book's loss under a scenario inside its budget.

    Args:
        loaded: From ``load_universe``.
        scenario: Id of the library; the universe's default when neither it nor a text is given.
        terms: Cheapest, of the universe's ETFs, within each mandate's budget when None.
        texts: A scenario instead, file name to YAML text.

    Raises:
        UsageError: an unknown scenario or candidate, no candidate that moves, or no book with a budget.
        ConfigurationError: the scenario is wrong.
        DataError: no book can be measured.
    """
    terms = terms or HedgeTerms()
    picked, faults = pick_scenarios(loaded, [] if scenario is None else [scenario], texts or {})
    if faults:
        raise ConfigurationError(faults)
    story = picked[0]
    check_horizons(loaded.mandates, {story.id: story.body.horizon_days})
    every, notices = weigh_books(loaded)
    outcome = unfold(story, every.model, loaded.curve)
    rebound = _rebound(loaded, outcome, terms)
    budgets, doubts = _budgets(loaded, every, outcome, terms)
    portfolios = _only(every, budgets["portfolio_id"].to_list())
    candidates, columns, unknown = _candidates(loaded, portfolios, outcome, terms)
    losses, limits = budgets["measured_loss"].to_numpy(), budgets["budget"].to_numpy()
    room = room_for(
        candidates,
        portfolios.nav,
        portfolios.traded[:, columns].toarray(),
        max_weight=terms.max_weight,
        participation=loaded.universe.settings.stress.liquidity.participation,
        long_only=terms.long_only,
    )
    basis = basis_matrix(portfolios, outcome, columns) if terms.objective == "steadiest" else None
    find = partial(
        hedge_losses, candidates, room=room, objective=terms.objective, max_trades=terms.max_trades, basis=basis
    )
    hedged = Hedged(
        portfolios,
        outcome,
        rebound,
        candidates,
        columns,
        room,
        find(losses - limits),
        losses,
        limits,
        added=np.zeros_like(losses),
    )
    if (budgets["margin"] > 0.0).any():
        hedged = _settle_margins(hedged, find, loaded, budgets["margin"].fill_null(0.0).to_numpy())
    tables = tabulate_hedges(hedged, budgets["budget_kind"].to_list(), terms.objective)
    notices = (*notices, *doubts, *unknown)
    tables["exceptions"] = notices_frame(notices)
    return HedgeResult(portfolios.as_of, story.id, tables, _refusals(hedged, terms), notices)


def _settle_margins(
    hedged: Hedged,
    find: Callable[[Float[np.ndarray, " m"]], Overlay],
    loaded: LoadedUniverse,
    margins: Float[np.ndarray, " m"],
) -> Hedged:
    """The overlay that is enough with its own specific risk counted as loss too, where the budget does so.

    What an overlay adds to ``kap sqrt(a'Da)`` is asked of the next one, until that adds no more; nothing is proven of
    such a book. What is asked only grows after some steps, so that it ends; a book whose overlay adds more than it
    takes away trades nothing.
    """
    benchmarks, _ = weigh_benchmarks(loaded.benchmarks, hedged.portfolios)
    counted = margins > 0.0
    asked = np.zeros_like(margins)
    for step in range(SETTLING):
        after = robust_margins(
            hedged.portfolios.with_overlay(hedged.lines), [hedged.outcome], loaded.mandates, benchmarks
        )
        by_book = dict(after.select("portfolio_id", "margin").iter_rows())
        now = np.array([by_book.get(book, 0.0) for book in hedged.portfolios.ids.labels])
        traded = counted & hedged.overlay.weights.any(axis=1)
        added = np.where(traded, now - margins, 0.0)
        hedged = replace(hedged, added=added)
        # One that was asked for more than it could reach trades nothing, and asks again for what it would add.
        wanted = np.where(traded, added, asked) if step < CALM else np.maximum(asked, added)
        if (np.abs(wanted - asked) <= SETTLED).all():
            break
        asked = wanted
        overlay = find(hedged.losses + asked - hedged.budgets)
        hedged = replace(hedged, overlay=replace(overlay, proven=overlay.proven & ~counted))
    weights = np.where(hedged.out_of_reach[:, None], 0.0, hedged.overlay.weights)
    return replace(
        hedged, overlay=replace(hedged.overlay, weights=weights), added=np.where(weights.any(axis=1), hedged.added, 0.0)
    )


def _rebound(loaded: LoadedUniverse, outcome: Outcome, terms: HedgeTerms) -> Outcome | None:
    name = terms.rebound
    if name is None:
        if REBOUND not in loaded.library.ids or outcome.scenario.id == REBOUND:
            return None
        name = REBOUND
    return unfold(loaded.library.scenario(name), outcome.model, loaded.curve)


def _budgets(
    loaded: LoadedUniverse, portfolios: Portfolios, outcome: Outcome, terms: HedgeTerms
) -> tuple[pl.DataFrame, tuple[Notice, ...]]:
    """``portfolio_id measured_loss margin budget budget_kind`` of every book that has a measured budget."""
    pnl = portfolios.weights @ outcome.total
    frame = pl.DataFrame(
        {
            "portfolio_id": portfolios.ids.labels,
            "scenario_id": [outcome.scenario.id] * len(portfolios.ids),
            "pnl_frac": pnl,
        }
    )
    if terms.budget is not None:
        fixed = [pl.lit(terms.budget).alias("budget"), pl.lit("absolute").alias("budget_kind")]
        return frame.with_columns((-pl.col("pnl_frac")).alias("measured_loss"), pl.lit(0.0).alias("margin"), *fixed), ()
    benchmarks, unusable = weigh_benchmarks(loaded.benchmarks, portfolios)
    measured = with_budgets(frame, portfolios, [outcome], loaded.mandates, benchmarks)
    budgets = measured.filter(pl.col("measured_loss").is_not_null() & pl.col("budget").is_not_null())
    if not budgets.height:
        raise UsageError(f"no book has a budget on {outcome.scenario.id} in its mandate; give one with --budget 0.05")
    notices = (
        *(replace(notice, severity="warn") for notice in unusable),
        *unmeasured_budgets(portfolios, loaded.mandates, benchmarks),
    )
    return budgets, notices


def _only(portfolios: Portfolios, books: Sequence[str]) -> Portfolios:
    """The same with just some rows, in their order."""
    rows = np.sort(portfolios.ids.positions(books, "hedge"))
    return replace(
        portfolios,
        ids=Axis("portfolio", tuple(portfolios.ids.labels[row] for row in rows)),
        is_parent=portfolios.is_parent[rows],
        weights=csr_array(portfolios.weights[rows]),
        lines=None if portfolios.lines is None else csr_array(portfolios.lines[rows]),
        cash=portfolios.cash[rows],
        nav=portfolios.nav[rows],
    )


def _candidates(
    loaded: LoadedUniverse, portfolios: Portfolios, outcome: Outcome, terms: HedgeTerms
) -> tuple[Candidates, Int[np.ndarray, " n"], tuple[Notice, ...]]:
    """What may be traded: those of the named that move under the scenario."""
    securities, axis = loaded.universe.securities, portfolios.model.securities
    words = ",".join(terms.candidates)
    chosen = Axis.of("security", _named(terms.candidates, securities, axis))
    columns = axis.positions(chosen.labels, "--with")
    moves = (outcome.total if portfolios.funds is None else portfolios.funds @ outcome.total)[columns]
    moving = moves != 0.0
    if not moving.any():
        raise UsageError(
            f"--with {words}: none of {len(chosen)} candidates moves under {outcome.scenario.id}, "
            "so none can hedge it; name others"
        )
    columns = columns[moving]
    depth = measure_depth(portfolios.model, securities, loaded.universe.settings.stress.liquidity.half_spread_bps)
    names = Axis("security", tuple(axis.labels[column] for column in columns))
    candidates = Candidates(
        names, moves[moving], depth.half_spread[columns] + terms.charge_bps / 1e4, depth.daily_volume[columns]
    )
    unknown = [name for name, volume in zip(names.labels, candidates.daily_volume, strict=True) if np.isnan(volume)]
    if not unknown:
        return candidates, columns, ()
    shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
    text = f"no adv_base of {shown}: their trades are capped by --max-weight {terms.max_weight:g} alone"
    return candidates, columns, (Notice("hedge.volume", "warn", text, "securities"),)


def _named(words: Sequence[str], securities: pl.DataFrame, axis: Axis) -> set[str]:
    """Ids that groups and ids stand for; a group takes only names of known volume."""
    known = securities.filter(pl.col("security_id").is_in(list(axis.labels)) & (pl.col("adv_base") > 0.0))
    groups = {
        "etfs": known.filter(pl.col("kind").is_in(["etf", "index"])),
        "names": known.filter(pl.col("kind") == "stock")
        .sort("adv_base", "security_id", descending=[True, False])
        .head(MOST_NAMES),
    }
    faults, found = [], set[str]()
    for word in words:
        if word in groups:
            found |= set(groups[word]["security_id"].to_list())
        elif word in axis:
            found.add(word)
        else:
            faults.append(f"--with: unknown candidate {word!r}{suggestion(word, [*GROUPS, *axis.labels])}")
    if faults:
        raise UsageError("; ".join(faults))
    if not found:
        raise UsageError(f"--with {','.join(words)}: the universe has none of known volume; name securities instead")
    return found


def _refusals(hedged: Hedged, terms: HedgeTerms) -> tuple[str, ...]:
    """How far the candidates go for each book that they cannot bring inside."""
    gains = hedged.room.gains(hedged.candidates)
    names, moves = hedged.candidates.names.labels, hedged.candidates.moves
    lines = []
    for row in np.flatnonzero(hedged.out_of_reach):
        order = np.argsort(-gains[row], kind="stable")[: terms.max_trades]
        used = [int(at) for at in order if gains[row, at] > 0.0]
        before, least = -hedged.losses[row], hedged.overlay.reachable[row] - hedged.losses[row]
        book = hedged.portfolios.ids.labels[row]
        budget = f"its budget is {100.0 * hedged.budgets[row]:.4g} %"
        if not used:
            lines.append(f"{book}: no candidate may be traded in the direction that helps; {budget}")
            continue
        trades = ", ".join(f"{names[at]} {'bought' if moves[at] > 0.0 else 'sold'}" for at in used[:3])
        shown = trades + (f" and {len(used) - 3} more" if len(used) > 3 else "")
        bring = "to its cap brings" if len(used) == 1 else "to their caps bring"
        far = f"{100.0 * before:.2f} % to {100.0 * least:.2f} % at best"
        if -least <= hedged.budgets[row] + FEASIBILITY:
            far += " before their own specific risk, which its budget counts"
        lines.append(f"{book}: {shown} {bring} {far}; {budget}; allow more with --with or --max-weight")
    return tuple(lines)
