"""The certificate of what is published: whole lots at the tables' prices, inside every limit.

Like ``certificate`` this room reads the tables again, by name, and does not know how the lots were found.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from engine.conventions import FEASIBILITY, is_cash
from engine.mandates.lots import Lots
from engine.rebalance.certificate import Verdict
from engine.rebalance.evidence import Claim

SAME: Final = 1e-12
"""Two weights, or a trade and its minimum, that differ by less than this are the same but for rounding."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What the table ``securities`` says of a share.

    Args:
        price: Base currency by security; absent where the table has none.
        lot_size: Shares by security; absent where the table has none, and then one share.
    """

    price: Mapping[str, float]
    lot_size: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class LotClaim:
    """What is to be published of a book.

    Args:
        quantities: Shares after by name; a name that is absent is held at 0.
        weights: Their weights by name, as the tables will show them.
    """

    quantities: Mapping[str, float]
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PublishedVerdict:
    """What the input data says of quantities.

    Args:
        accepted: Every limit holds to 1e-9 of NAV and every quantity is allowed.
        objective: Value of the published weights.
        max_violation: Largest violation of a limit, fraction of NAV.
        worst_limit: The limit most violated.
        fault: What is wrong with a quantity; empty where nothing is.
    """

    accepted: bool
    objective: float
    max_violation: float
    worst_limit: str
    fault: str


def gather_listing(securities: pl.DataFrame) -> Listing:
    """Prices and lot sizes by security, from the table ``securities``; a column that may be absent may be."""
    columns = {name for name in ("price", "lot_size") if name in securities.columns}
    found = {name: dict(securities.select("security_id", name).drop_nulls().iter_rows()) for name in columns}
    return Listing(found.get("price", {}), found.get("lot_size", {}))


def certify_published(
    listing: Listing,
    *,
    holdings: pl.DataFrame,
    nav: float,
    rules: Lots,
    claim: LotClaim,
    judge: Callable[[Claim], Verdict],
) -> PublishedVerdict:
    """Judge quantities by the input data.

    A share held is worth ``market_value_base / quantity`` of its row, another one the listed price. The
    weight of a quantity is ``q share / nav``, of one that is held as it is its value over NAV. A
    quantity that differs from the one held is 0, or a whole number of lots that keeps the minimum trade
    and the minimum position. A sale of all that is held may be below the minimum trade.
    The limits are judged on the weights found here; a claimed weight that differs is a fault.

    Args:
        listing: From ``gather_listing``.
        holdings: The book's rows of the table ``holdings``.
        nav: Its NAV.
        rules: Of its mandate.
        claim: Quantities and weights.
        judge: The certificate of weights, bound to the book's input data.

    References:
        RELIABILITY 3. Planted wrong answers: tests/test_lots.py.
    """
    lines = {
        name: (quantity, value, price)
        for name, quantity, value, price in _rows(holdings, "security_id", "quantity", "market_value_base", "price")
        if not is_cash(name)
    }
    quantities = claim.quantities
    names = sorted({*lines, *quantities, *claim.weights})
    weights, faults = dict[str, float](), []
    for name in names:
        held, after = lines.get(name, (0.0,))[0], quantities.get(name, 0.0)
        if name in lines and after == held:
            weights[name] = lines[name][1] / nav
            continue
        share = _worth(name, lines, listing)
        weights[name] = after * share / nav
        faults.append(_fault(name, held, after, share / nav, listing, rules))
    faults += [
        f"{name}: {quantities.get(name, 0.0):.10g} shares weigh {weight:.12g} of NAV, not {found:.12g}"
        for name, weight in weights.items()
        if not abs(weight - (found := claim.weights.get(name, 0.0))) <= SAME
    ]
    if fault := next(filter(None, faults), ""):
        return PublishedVerdict(False, math.inf, math.inf, "", fault)
    verdict = judge(Claim({name: weight for name, weight in weights.items() if weight != 0.0}, {}))
    accepted = verdict.max_violation <= FEASIBILITY and math.isfinite(verdict.objective)
    return PublishedVerdict(accepted, verdict.objective, verdict.max_violation, verdict.worst_limit, "")


def _rows(frame: pl.DataFrame, *columns: str) -> Iterator[tuple[Any, ...]]:
    """Rows of some columns; a lazy selection costs more than the rows of one book."""
    return zip(*(frame[column].to_list() for column in columns), strict=True)


def _worth(name: str, lines: Mapping[str, tuple[float, float, float]], listing: Listing) -> float:
    """Base currency of one share; NaN where no table says."""
    if name not in lines:
        return listing.price.get(name, math.nan)
    quantity, value, price = lines[name]
    return value / quantity if quantity != 0.0 else price


def _fault(name: str, held: float, after: float, unit: float, listing: Listing, rules: Lots) -> str:
    """What is wrong with the quantity of one name, ``unit`` the weight of a share; empty where nothing is."""
    if after == held:
        return ""
    lot = listing.lot_size.get(name, 1.0)
    if not (math.isfinite(after) and unit > 0.0 and math.isfinite(unit)):
        return f"{name}: {after} shares at a weight of {unit} each are not numbers"
    if round(after / lot) * lot != after:
        return f"{name}: {after:.10g} shares are not whole lots of {lot:g}"
    if after != 0.0 and abs(after - held) * unit < rules.min_trade - SAME:
        return f"{name}: a trade of {abs(after - held) * unit:.3g} of NAV is below the minimum of {rules.min_trade:g}"
    if after != 0.0 and abs(after) * unit < rules.min_position - SAME:
        return f"{name}: a position of {abs(after) * unit:.3g} of NAV is below the minimum of {rules.min_position:g}"
    return ""
