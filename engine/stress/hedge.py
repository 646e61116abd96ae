"""The fewest, cheapest or steadiest overlay trades that bring a stress loss inside its budget."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array, eye_array

from engine.axes import Axis
from engine.conventions import FEASIBILITY, OPTIMALITY
from engine.risk.portfolios import Portfolios
from engine.stress.outcome import Outcome

Objective = Literal["cheapest", "fewest", "steadiest"]

DUST: Final = 1e-12
"""Share of an excess below which what is left of it is rounding and no trade."""

SPECK: Final = 1e-8
"""Share of the largest trade below which one in a solver's answer is noise."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """What may be traded, and what the scenario makes of it.

    Args:
        names: Axis of the n candidates.
        moves: ``r``, ``(n,)``: return over the horizon, never 0.
        unit_cost: ``c``, ``(n,)``: cost of trading one unit, at least 0.
        daily_volume: ``(n,)``, base currency a day; NaN where it is not known.
    """

    names: Axis
    moves: Float[np.ndarray, " n"]
    unit_cost: Float[np.ndarray, " n"]
    daily_volume: Float[np.ndarray, " n"]


@dataclass(frozen=True, slots=True)
class Room:
    """The most of every candidate that each book may buy and sell, fraction of its NAV.

    Args:
        bought: ``(m, n)``, at least 0.
        sold: ``(m, n)``, at least 0.
    """

    bought: Float[np.ndarray, "m n"]
    sold: Float[np.ndarray, "m n"]

    def gains(self, candidates: Candidates) -> Float[np.ndarray, "m n"]:
        """``|r_i| u_i``: the loss that trading each candidate to its cap takes away."""
        caps = np.where(candidates.moves > 0.0, self.bought, self.sold)
        return caps * np.abs(candidates.moves)


@dataclass(frozen=True, slots=True)
class Overlay:
    """The trades of every book.

    Args:
        weights: ``h``, ``(m, n)``, fraction of NAV; 0 where the book is inside, or out of reach.
        reachable: ``(m,)``: the most loss that the candidates can take away.
        least_cost: ``(m,)``, fraction of NAV: no overlay that takes the excess away is cheaper,
            of however many trades; NaN where it is out of reach.
        proven: ``(m,)``: no overlay the question allows has a better objective.
    """

    weights: Float[np.ndarray, "m n"]
    reachable: Float[np.ndarray, " m"]
    least_cost: Float[np.ndarray, " m"]
    proven: Bool[np.ndarray, " m"]


def room_for(
    candidates: Candidates,
    nav: Float[np.ndarray, " m"],
    held: Float[np.ndarray, "m n"],
    *,
    max_weight: float,
    participation: float,
    long_only: bool,
) -> Room:
    """Caps of every book: a largest weight, a share of a day's volume and, long only, what it holds.

    ``u_i = min(max_weight, participation ADV_i / NAV)``; where the volume is not known only the
    weight counts. Long only, a book sells at most what it holds.

    Args:
        candidates: What may be traded.
        nav: Base currency.
        held: Weights of the candidates in each book as they are traded.
        max_weight: Of one trade, fraction of NAV.
        participation: Share of a day's volume.
        long_only: Whether no position may end short.
    """
    by_volume = participation * candidates.daily_volume[None, :] / nav[:, None]
    cap = np.where(np.isfinite(by_volume), np.minimum(by_volume, max_weight), max_weight)
    return Room(cap, np.minimum(cap, np.maximum(held, 0.0)) if long_only else cap)


def basis_matrix(portfolios: Portfolios, outcome: Outcome, columns: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n n"]:
    """``Q`` with ``h'Qh`` the variance over the horizon that the scenario leaves open of an overlay ``h``.

    ``Outcome.open_variance`` ``V`` is a quadratic form for every kind of scenario, so that its values
    on one and on two names give it: ``Q_ij = (V(e_i + e_j) - V(e_i) - V(e_j)) / 2``.

    Args:
        portfolios: The books, for the compositions of funds.
        outcome: The scenario on their model.
        columns: Positions of the candidates on the model's axis.

    References:
        Oracle: the variance of an overlay directly, tests/test_hedge.py.
    """
    units = csr_array(eye_array(len(portfolios.model.securities), format="csr")[columns])
    if portfolios.funds is not None:
        units = csr_array(units @ portfolios.funds)
    alone = outcome.open_variance(units)
    matrix = np.diag(alone)
    first, second = np.triu_indices(len(columns), k=1)
    if len(first):
        pairs = outcome.open_variance(csr_array(units[first] + units[second]))
        matrix[first, second] = matrix[second, first] = (pairs - alone[first] - alone[second]) / 2.0
    return matrix


def hedge_losses(
    candidates: Candidates,
    excess: Float[np.ndarray, " m"],
    room: Room,
    *,
    objective: Objective = "cheapest",
    max_trades: int | None = None,
    basis: Float[np.ndarray, "n n"] | None = None,
) -> Overlay:
    """The overlay of each book that takes its excess loss away: ``r'h >= excess`` inside its caps.

    ``cheapest``: least ``c'|h|``. One row and boxes make it a fractional knapsack: candidates are
    used up in the order of ``c_i / |r_i|``, which is exact. ``fewest``: as few trades as any overlay
    needs, counted from the largest ``|r_i| u_i`` on, and the cheapest of that many. A limit of one
    trade is enumerated; of more, a small mixed-integer program chooses the names and the closed
    form the sizes. ``steadiest``: least basis risk ``h'Qh``, a quadratic program whose answer is
    judged by the linear bound ``f(h) + min f'(h)(x - h)``, whose minimum is a knapsack again.

    Args:
        candidates: What may be traded.
        excess: Loss above the budget; a book at 0 or below is inside.
        room: Caps.
        objective: What is least.
        max_trades: Of one book; None does not limit. Not together with ``steadiest``.
        basis: ``Q`` for ``steadiest``, from ``basis_matrix``.

    Raises:
        ValueError: ``steadiest`` without a basis matrix.

    References:
        Dantzig (1957), Operations Research 5, 266. Oracles: linear programs and every subset,
        tests/test_hedge.py.
    """
    if objective == "steadiest" and basis is None:
        raise ValueError("the steadiest overlay needs a basis matrix")
    gains = room.gains(candidates)
    limit = len(candidates.names) if max_trades is None else max_trades
    largest = -np.sort(-gains, axis=1)
    summed = np.cumsum(largest, axis=1)
    reachable = summed[:, min(limit, summed.shape[1]) - 1]
    above = excess > FEASIBILITY
    open_books = np.flatnonzero(above & (reachable >= excess))
    unlimited = _fill(np.where(above, excess, 0.0), gains, _by_cost(candidates))
    cost = unlimited @ (candidates.unit_cost / np.abs(candidates.moves))
    proven = np.ones(len(excess), dtype=bool)
    weights = np.zeros_like(gains)
    fewest = np.sum(summed < excess[:, None], axis=1) + 1
    for row in open_books:
        if objective == "steadiest" and basis is not None:
            bounds = (-room.sold[row], room.bought[row])
            weights[row], proven[row] = _steadiest(candidates, float(excess[row]), bounds, basis)
            continue
        most = int(fewest[row]) if objective == "fewest" else limit
        taken = unlimited[row]
        if np.count_nonzero(taken) > most:
            taken, proven[row] = _limited(candidates, float(excess[row]), gains[row], most)
        weights[row] = taken / candidates.moves
    return Overlay(weights, reachable, np.where(reachable >= excess, cost, np.nan), proven)


def _by_cost(candidates: Candidates) -> Int[np.ndarray, " n"]:
    """Positions from the cheapest unit of loss taken away to the dearest; the larger move first where they tie."""
    size = np.abs(candidates.moves)
    return np.lexsort((-size, candidates.unit_cost / size))


def _fill(
    excess: Float[np.ndarray, " m"], gains: Float[np.ndarray, "m n"], order: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "m n"]:
    """The excess of each book, taken from its candidates in order until there is none."""
    capacity = gains[:, order]
    left = excess[:, None] - (np.cumsum(capacity, axis=1) - capacity)
    taken = np.clip(left, 0.0, capacity)
    taken[taken <= DUST * excess[:, None]] = 0.0
    out = np.zeros_like(gains)
    out[:, order] = taken
    return out


def _limited(
    candidates: Candidates, excess: float, gains: Float[np.ndarray, " n"], most: int
) -> tuple[Float[np.ndarray, " n"], bool]:
    """The cheapest way with at most so many trades, and whether none is cheaper."""
    price = candidates.unit_cost / np.abs(candidates.moves)
    if most == 1:
        best = int(np.argmin(np.where(gains >= excess, price, np.inf)))
        return np.where(np.arange(len(gains)) == best, excess, 0.0), True
    from engine.stress.hedge_program import choose_names  # noqa: PLC0415  its solver takes a moment to load

    chosen, bound = choose_names(price, gains / excess, most)
    if gains[chosen].sum() < excess:
        chosen = np.argsort(-gains, kind="stable")[:most]
    some = np.zeros_like(gains)
    some[chosen] = gains[chosen]
    taken = _fill(np.array([excess]), some[None, :], _by_cost(candidates))[0]
    cost = float(taken @ price) / excess
    return taken, cost - bound <= OPTIMALITY * max(cost, float(price.min()))


def _steadiest(
    candidates: Candidates,
    excess: float,
    bounds: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]],
    basis: Float[np.ndarray, "n n"],
) -> tuple[Float[np.ndarray, " n"], bool]:
    """The overlay of least basis risk, which takes the excess away exactly, and whether the bound proves it."""
    from engine.stress.hedge_program import least_variance  # noqa: PLC0415  cvxpy takes half a second to load

    raw = least_variance(basis, candidates.moves, excess, bounds)
    if raw is None:
        return _towards(candidates, excess, np.zeros_like(bounds[0]), bounds), False
    point = np.clip(raw, *bounds)
    point[np.abs(point) <= SPECK * np.abs(point).max()] = 0.0
    point = _towards(candidates, excess, point, bounds)
    slope = 2.0 * (basis @ point)
    best = _least_linear(candidates.moves, slope, excess, bounds)
    return point, bool(slope @ (point - best) <= OPTIMALITY * float(point @ basis @ point))


def _towards(
    candidates: Candidates,
    excess: float,
    point: Float[np.ndarray, " n"],
    bounds: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]],
) -> Float[np.ndarray, " n"]:
    """A point moved until it takes the excess away: what is traded already first, then the cheapest."""
    moves = candidates.moves
    lacking = max(excess - float(moves @ point), 0.0)
    end = np.where(moves > 0.0, bounds[1], bounds[0])
    left = np.maximum((end - point) * moves, 0.0)
    order = _by_cost(candidates)
    order = np.concatenate([order[point[order] != 0.0], order[point[order] == 0.0]])
    return point + _fill(np.array([lacking]), left[None, :], order)[0] / moves


def _least_linear(
    moves: Float[np.ndarray, " n"],
    slope: Float[np.ndarray, " n"],
    excess: float,
    bounds: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]],
) -> Float[np.ndarray, " n"]:
    """The ``x`` inside the caps with ``r'x >= excess`` and the least ``slope'x``: a knapsack from the free corner."""
    low, high = bounds
    start = np.where(slope > 0.0, low, high)
    lacking = max(excess - float(moves @ start), 0.0)
    left = (np.where(moves > 0.0, high, low) - start) * moves
    order = np.argsort(np.abs(slope / moves), kind="stable")
    return start + _fill(np.array([lacking]), left[None, :], order)[0] / moves
