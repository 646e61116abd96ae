"""Units, names and tolerances on which every room agrees.

Decimals (0.05 is five percent), annual where a rate, fraction of NAV where a weight,
daily simple returns. P&L below zero is a loss; budgets are above zero. Two-way turnover
is buys plus sells, cash excluded.
"""

from typing import Final

TRADING_DAYS: Final = 252
"""Trading days a year; turns a daily variance into an annual one."""

WARM_UP_DAYS: Final = 126
"""Days before the first one-step-ahead figure; half the history where that is less."""

MARKET: Final = "market"
"""Name of the first factor of every model."""

OFF_CURVE: Final = "off_curve"
"""The share of a security's membership that lies on no tier."""

UNCLASSIFIED: Final = "unclassified"
"""The sector of a line for which the securities table lists none."""

BASE_MODEL: Final = "base"
"""The risk model that every figure rests on unless it says otherwise."""

ALTERNATIVE_MODELS: Final = ("short", "stress", "cross_section")
"""Models of the same securities and factors, beside the base, that say how far a loss is a matter of opinion."""

CASH_PREFIX: Final = "CASH:"
"""``CASH:USD`` and its like: the only ids with zero exposure by definition."""

MAX_ID_LENGTH: Final = 64

NAV_WARNING: Final = 1e-4
"""NAV against the sum of values: above one basis point is a warning (RELIABILITY)."""

NAV_REFUSAL: Final = 1e-2
"""NAV against the sum of values: above one percent quarantines the book."""

PERCENT_SUMS: Final = (95.0, 105.0)
"""Weights that add up to this are in percent: a book with some cash missing or some gearing (judgement)."""

FEASIBILITY: Final = 1e-9
"""Largest violation of a limit, as a fraction of NAV, that an accepted answer may show."""

BINDS: Final = 1e-6
"""A limit with less room than this binds: dust that is not traded leaves so much."""

OPTIMALITY: Final = 1e-6
"""Largest relative gap between an accepted answer and the proven bound."""


def is_cash(security_id: str) -> bool:
    """True for ``CASH:<CCY>``, the ids that carry no exposure by definition."""
    return security_id.startswith(CASH_PREFIX)


def is_percent(total: float) -> bool:
    """True for a sum of weights near 100 where one near 1 is expected; never a reason to divide."""
    low, high = PERCENT_SUMS
    return low <= total <= high
