"""Which limits give way first where not all can be kept: priority 0 must hold, 5 gives way first."""

from collections.abc import Collection, Mapping
from typing import Final

from engine.documents import suggestion

LOWEST: Final = 5
"""The priority that gives way first."""

KINDS: Final = {
    "turnover": "turnover",
    "participation": "participation",
    "excluded": "excluded",
    "no_buy": "no_buy",
    "no_sell": "no_sell",
    "frozen": "frozen",
    "weights": "weight",
    "active_weights": "active_weight",
    "cash": "cash",
    "tiers": "tier",
    "active_tiers": "active_tier",
    "sectors": "sector",
    "active_sectors": "active_sector",
    "factors": "factor",
    "active_factors": "active_factor",
    "tracking_error": "tracking_error",
    "gross": "gross",
    "net": "net",
    "concentration": "concentration",
    "stress": "stress",
    "shortfall": "shortfall",
}
"""Kind of limit, as its id begins, by the key of a mandate."""

DEFAULTS: Final = {
    "stress": 1,
    "shortfall": 1,
    "tracking_error": 2,
    "tier": 3,
    "active_tier": 3,
    "concentration": 3,
    "sector": 4,
    "active_sector": 4,
    "factor": 4,
    "active_factor": 4,
    "cash:max": 5,
}
"""Priority by the beginning of a limit's id where the mandate says nothing; what is not here is 0."""

GIVES_WAY: Final = frozenset({*(key.split(":")[0] for key in DEFAULTS), "weight", "gross", "net"})
"""Kinds that a mandate may give another priority than 0; the others always hold."""

SIDES: Final = ("cash:max", "net:max", "net:min")
"""Limits with a side of their own that no key of a mandate names."""


def priority_of(limit_id: str, stated: Mapping[str, int]) -> int:
    """Priority of one limit: of the longest key that its id begins with, the mandate's before the defaults.

    Args:
        limit_id: As in the table ``limits``, e.g. ``tier:software:max``.
        stated: The mandate's ``priorities``: by kind (``tiers``) or by the beginning of an id.
    """
    if limit_id == "cash:min":
        return 0
    parts = limit_id.split(":")
    beginnings = [":".join(parts[:length]) for length in range(len(parts), 0, -1)]
    own = {KINDS.get(key, key): priority for key, priority in stated.items()}
    for found in (own, DEFAULTS):
        for beginning in beginnings:
            if beginning in found:
                return found[beginning]
    return 0


def check_priorities(stated: Mapping[str, int], keys: Mapping[str, Collection[str]]) -> None:
    """Refuse a key that names no limit, and another priority than 0 for what always holds.

    Args:
        stated: The mandate's ``priorities``.
        keys: What each kind of limit of the mandate names: tiers, scenarios; by the kind of the id.

    Raises:
        ValueError: the first key at fault, and what may stand there.
    """
    for key, priority in stated.items():
        kind, *rest = key.split(":")
        known = (*KINDS, *(f"{own}:{name}" for own, names in keys.items() for name in names), *SIDES)
        is_limit = key in known or (bool(rest) and f"{kind}:{rest[0]}" in known and rest[1:] in (["max"], ["min"]))
        active = (
            kind in ("stress", "shortfall") and f"{kind}:{rest[0] if rest else ''}" in known and rest[1:] == ["active"]
        )
        if not is_limit and not active:
            raise ValueError(f"priorities: no limit {key!r}{suggestion(key, known)}")
        if priority != 0 and KINDS.get(kind, kind) not in GIVES_WAY:
            raise ValueError(f"priorities: {key} always holds; its priority is 0 and may not be {priority}")
