"""The lowest and highest weight of each name, and which limit sets it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from engine.axes import Axis
from engine.mandates.mandate import ActiveBand, Band, LimitSet


@dataclass(frozen=True, slots=True)
class Box:
    """Bounds on every name; where several limits bound a name the tightest holds and is named.

    Args:
        lower: ``lo``.
        upper: ``up``; below ``lo`` where two limits conflict on a name.
        lower_kinds: Kind of the limit that sets each ``lo``.
        upper_kinds: Kind of the limit that sets each ``up``.
    """

    lower: Float[np.ndarray, " n_names"]
    upper: Float[np.ndarray, " n_names"]
    lower_kinds: tuple[str, ...]
    upper_kinds: tuple[str, ...]


def state_box(
    names: Axis,
    *,
    start: Float[np.ndarray, " n_names"],
    benchmark: Float[np.ndarray, " n_names"] | None,
    limits: LimitSet,
    capacity: Float[np.ndarray, " n_names"] | None = None,
    allotted: Float[np.ndarray, " n_names"] | None = None,
) -> Box:
    """The tightest bounds of every limit on single names.

    Args:
        names: The candidates.
        start: ``x0``, today's weights: what a list forbids to buy or sell stays there.
        benchmark: ``xb``; None where the book has none, and then nothing may be active.
        limits: Of the mandate.
        capacity: Largest trade that the day's volume allows, fraction of NAV; None where no
            participation is limited.
        allotted: Largest trade that the book's part of the firm's volume allows, fraction of NAV;
            None where no volume is shared out.
    """
    nowhere = np.full(len(names), np.inf)
    lower, upper = _bands(names, limits.weights, 0.0 - limits.max_short, limits.max_weight)
    excluded, no_buy, no_sell, frozen = (
        _member(names, chosen) for chosen in (limits.excluded, limits.no_buy, limits.no_sell, limits.frozen)
    )
    steps = [
        ("excluded", np.where(excluded, 0.0, -np.inf), np.where(excluded, 0.0, np.inf)),
        ("no_buy", -nowhere, np.where(no_buy, start, np.inf)),
        ("no_sell", np.where(no_sell, start, -np.inf), nowhere),
        ("frozen", np.where(frozen, start, -np.inf), np.where(frozen, start, np.inf)),
    ]
    if benchmark is not None:
        low, high = _bands(names, limits.active_weights, -limits.max_active_weight, limits.max_active_weight)
        steps.append(("active_weight", benchmark + low, benchmark + high))
    if capacity is not None:
        steps.append(("participation", start - capacity, start + capacity))
    if allotted is not None:
        steps.append(("allotment", start - allotted, start + allotted))
    return _tightest(("weight", lower, upper), steps)


def _bands(
    names: Axis, own: Mapping[str, Band | ActiveBand], low: float, high: float
) -> tuple[Float[np.ndarray, " n_names"], Float[np.ndarray, " n_names"]]:
    """Both ends of every name's band, its own or the one of all."""
    lower, upper = np.full(len(names), low), np.full(len(names), high)
    if own:
        at = names.positions(own, "limits")
        lower[at], upper[at] = [band.min for band in own.values()], [band.max for band in own.values()]
    return lower, upper


def _member(names: Axis, chosen: Iterable[str]) -> np.ndarray:
    on_it = np.zeros(len(names), dtype=bool)
    on_it[[*names.positions([name for name in chosen if name in names], "limits")]] = True
    return on_it


def _tightest(first: tuple[str, Any, Any], steps: list[tuple[str, Any, Any]]) -> Box:
    kind, lower, upper = first
    low_kinds = np.full(len(lower), kind, dtype=object)
    high_kinds = low_kinds.copy()
    for kind, low, high in steps:
        low_kinds[low > lower], high_kinds[high < upper] = kind, kind
        lower, upper = np.maximum(lower, low), np.minimum(upper, high)
    return Box(lower, upper, tuple(low_kinds.tolist()), tuple(high_kinds.tolist()))
