"""Kinds of columns, from which every table is made; dataframely holds the rules."""

from collections.abc import Sequence
from typing import Any, Final

import dataframely as dy

from engine.conventions import MAX_ID_LENGTH

ID_PATTERN: Final = r"^[A-Za-z0-9^][A-Za-z0-9._:\-]*$"
"""Ids are ASCII and start with a letter or digit: no path, blank, control or look-alike."""

STAGES: Final = ("before", "after")
STATUSES: Final = ("certified", "held", "infeasible", "quarantined", "empty", "not_due", "stress_only")
RISK_TIERS: Final = ("A", "B", "C", "D", "E")
KINDS: Final = ("stock", "etf", "index", "cash")


def id_column(*, key: bool = False, nullable: bool = False) -> Any:
    return dy.String(primary_key=key, nullable=nullable, regex=ID_PATTERN, max_length=MAX_ID_LENGTH)


def date_column(*, key: bool = False) -> Any:
    return dy.Date(primary_key=key, nullable=False)


def text_column(*, key: bool = False, nullable: bool = False) -> Any:
    return dy.String(primary_key=key, nullable=nullable, min_length=None if nullable else 1)


def one_of_column(allowed: Sequence[str], *, key: bool = False, nullable: bool = False) -> Any:
    check = {f"one of {', '.join(allowed)}": lambda column: column.is_in(list(allowed))}
    return dy.String(primary_key=key, nullable=nullable, check=check, metadata={"enum": list(allowed)})


def number_column(unit: str, sign: str = "any", *, nullable: bool = False, **bounds: Any) -> Any:
    metadata = {"unit": unit, "sign": sign}
    return dy.Float64(nullable=nullable, allow_inf=False, allow_nan=False, metadata=metadata, **bounds)


def count_column(unit: str, *, nullable: bool = False) -> Any:
    return dy.Int64(nullable=nullable, min=0, metadata={"unit": unit, "sign": ">= 0"})


LARGEST: Final = 1e15
"""No price, quantity or value is larger; what is would overflow before it could be checked."""

SMALLEST_PRICE: Final = 1e-9
"""No close is smaller: a return from it could overflow."""

FRACTION = "fraction of NAV"
MONEY = "base currency"
