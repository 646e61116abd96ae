"""From a certified continuous answer to what is published: whole lots, certified again from the tables."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Float

from engine.conventions import FEASIBILITY
from engine.intake import Notice
from engine.mandates.lots import Lots
from engine.rebalance.certificate import SCALE_FLOOR, Verdict
from engine.rebalance.evidence import Claim
from engine.rebalance.lot_grid import Grid, state_grid
from engine.rebalance.lot_state import objective
from engine.rebalance.lots import RoundedAnswer, round_to_lots
from engine.rebalance.lots_exact import round_exactly
from engine.rebalance.problem import Problem
from engine.rebalance.published import Listing, LotClaim, PublishedVerdict, certify_published
from engine.rebalance.solve import Answer, Published
from engine.rebalance.straight import Tangent, flatten, lay_tangents

TOLD_COST: Final = 1e-5
"""A rounding cost above this, a tenth of a basis point of NAV a year, is told."""

PIECES: Final = 20
"""Times that lots are rounded, each with the pieces of its limits that the lots before missed."""

TOLD_VIOLATION: Final = 1e-4
"""A limit that plain rounding misses by more than this fraction of NAV is told, although it holds after repair."""


@dataclass(frozen=True, slots=True)
class Custody:
    """What a book holds, and by which rules it is traded.

    Args:
        holdings: Its rows of the table ``holdings``.
        nav: Its NAV.
        rules: Of its mandate.
    """

    holdings: pl.DataFrame
    nav: float
    rules: Lots


def publish_answer(
    problem: Problem, answer: Answer, *, custody: Custody, listing: Listing, judge: Callable[[Claim], Verdict]
) -> Answer:
    """The answer with its whole lots; unchanged where shares may be fractional or nothing is certified.

    Limits that are no rows enter the rounding as their tangents, first at the answer; a piece that the lots miss
    joins, and they are rounded again. Where no whole lots are found that keep every limit, nothing is
    traded: the continuous answer stays certified, and is not published.

    Args:
        problem: One book's program.
        answer: Its continuous answer.
        custody: The book's holdings and rules.
        listing: Prices and lot sizes.
        judge: The certificate of weights, bound to the book's input data.

    References:
        MATH 5, RELIABILITY 3.
    """
    fractional = custody.rules.round == "none" or not len(problem.names)
    if fractional or answer.status != "certified" or answer.verdict is None:
        return answer
    grid = _grid(problem, custody, listing)
    tangents = [*lay_tangents(problem, answer.weights), *_held_down(problem, grid, answer.weights)]
    for _ in range(PIECES):
        straight = flatten(problem, tangents, [tangent.limit_id for tangent in tangents])
        found = _round(straight, grid, answer.weights, exact=custody.rules.exact)
        verdicts = (_certified(problem, one, custody, listing, judge) for one in found)
        judged = list(zip(found, verdicts, strict=True))
        accepted = [pair for pair in judged if pair[1].accepted]
        rounded, verdict = (accepted or judged)[0]
        if accepted:
            return replace(answer, published=_accepted(answer.verdict, rounded, verdict))
        # A limit of several pieces may be missed at a piece that none of the tangents shows.
        missed = _missed_pieces(problem, grid, answer.weights, rounded.weights)
        if rounded.violation > FEASIBILITY or not missed:
            break
        tangents += missed
    return replace(answer, published=_missed(problem, grid, rounded, verdict))


def _held_down(
    problem: Problem,
    grid: Grid,
    weights: Float[np.ndarray, " n_names"],
    beyond: Float[np.ndarray, " n_names"] | None = None,
) -> list[Tangent]:
    """What keeps the caps on the largest positions where rounding tells tied positions apart."""
    step = grid.unit * grid.lot
    return [
        Tangent(cap.limit_id, row, bound, {}, None)
        for cap in problem.concentrations
        if beyond is None or cap.used(beyond) > cap.bound + FEASIBILITY
        for row, bound in cap.held_down(weights, step, beyond)
    ]


def _missed_pieces(
    problem: Problem, grid: Grid, weights: Float[np.ndarray, " n_names"], lots: Float[np.ndarray, " n_names"]
) -> list[Tangent]:
    """Rows for the limits that the lots miss: their tangents there, and what holds positions down that crossed over."""
    found = [one for one in lay_tangents(problem, lots) if float(one.slope @ lots) > one.bound + FEASIBILITY]
    return found + _held_down(problem, grid, weights, lots)


def _round(problem: Problem, grid: Grid, weights: Float[np.ndarray, " n_names"], *, exact: bool) -> list[RoundedAnswer]:
    """Whole lots near the weights, the better first; where it is refused, the other one."""
    found = [round_to_lots(problem, grid, weights)]
    if exact:
        best = round_exactly(problem, grid, weights)
        found += [] if best is None else [replace(best, unrepaired=found[0].unrepaired, broken=found[0].broken)]
    return sorted(found, key=lambda one: (one.violation > FEASIBILITY, objective(problem, one.weights)))


def _grid(problem: Problem, custody: Custody, listing: Listing) -> Grid:
    """The allowed quantities, from the holdings and the listing."""
    columns = [custody.holdings[name].to_list() for name in ("security_id", "quantity", "market_value_base", "price")]
    held = {
        name: (quantity, value / quantity if quantity != 0.0 else price)
        for name, quantity, value, price in zip(*columns, strict=True)
    }
    lines = [held.get(name, (0.0, listing.price.get(name, np.nan))) for name in problem.names.labels]
    return state_grid(
        problem,
        held=np.array([quantity for quantity, _ in lines]),
        unit=np.array([worth / custody.nav for _, worth in lines]),
        lot=np.array([listing.lot_size.get(name, 1.0) for name in problem.names.labels]),
        min_trade=custody.rules.min_trade,
        min_position=custody.rules.min_position,
    )


def _certified(
    problem: Problem, one: RoundedAnswer, custody: Custody, listing: Listing, judge: Callable[[Claim], Verdict]
) -> PublishedVerdict:
    labels = problem.names.labels
    quantities, weights = (dict(zip(labels, values.tolist(), strict=True)) for values in (one.quantities, one.weights))
    return certify_published(
        listing,
        holdings=custody.holdings,
        nav=custody.nav,
        rules=custody.rules,
        claim=LotClaim(quantities, weights),
        judge=judge,
    )


def _missed(problem: Problem, grid: Grid, rounded: RoundedAnswer, verdict: PublishedVerdict) -> Published:
    return Published(
        certified=False,
        weights=problem.start,
        quantities=grid.held,
        objective=None,
        rounding_cost=None,
        relative_gap=None,
        max_violation=rounded.violation,
        worst_limit=verdict.fault or rounded.worst,
        unrepaired=rounded.unrepaired,
        broken=rounded.broken,
        steps=rounded.steps,
        by=rounded.by,
    )


def _accepted(continuous: Verdict, rounded: RoundedAnswer, verdict: PublishedVerdict) -> Published:
    return Published(
        certified=True,
        weights=rounded.weights,
        quantities=rounded.quantities,
        objective=verdict.objective,
        rounding_cost=verdict.objective - continuous.objective,
        relative_gap=(verdict.objective - continuous.lower_bound) / max(verdict.objective, SCALE_FLOOR),
        max_violation=verdict.max_violation,
        worst_limit=verdict.worst_limit,
        unrepaired=rounded.unrepaired,
        broken=rounded.broken,
        steps=rounded.steps,
        by=rounded.by,
    )


def lot_notices(results: list[tuple[Problem, Answer]]) -> list[Notice]:
    """For every book that whole lots hold back, or cost something that is worth a word, what they miss and cost."""
    notices = []
    for problem, answer in results:
        lots = answer.published
        if lots is None:
            continue
        if not lots.certified:
            message = (
                f"no whole lots were found that keep {lots.worst_limit}: missed by {lots.max_violation:.1e} of NAV "
                f"after {lots.steps} changes, {lots.broken} by {lots.unrepaired:.1e} before them; nothing is traded. "
                "Widen the limit, lower min_trade or min_position, try lots: {exact: true} if it is not set, or trade "
                "fractions with lots: {round: none}"
            )
        elif max(lots.rounding_cost or 0.0, 0.0) > TOLD_COST or lots.unrepaired > TOLD_VIOLATION:
            cost = max((lots.rounding_cost or 0.0) * 1e4, 0.0)
            told = f"{cost:.2f}" if cost >= 0.005 else "less than 0.01"
            message = (
                f"whole lots cost {told} bp of NAV a year; plain rounding missed {lots.broken} by "
                f"{lots.unrepaired:.1e} of NAV, after {lots.steps} changes every limit holds"
            )
        else:
            continue
        notices.append(Notice("book.lots", "warn", message, "mandates", problem.portfolio_id))
    return notices
