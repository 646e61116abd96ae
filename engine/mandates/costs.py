"""What trading and holding costs, as a mandate states it."""

from typing import Annotated

from pydantic import Field

from engine.documents import Strict, known


class Costs(Strict):
    """Trading costs, spread over ``holding_years``.

    A security without a half-spread pays ``half_spread_bps``. ``impact`` is the coefficient of
    the square-root law: a trade of a share ``q`` of a day's volume moves the price against it by
    ``impact * sqrt(q)`` daily volatilities; 0 leaves it out. A security whose daily volume is not
    known, or is 0, moves like one that trades ``unknown_volume_base`` a day. Impact is a cost of
    the objective; cash pays the half-spreads. A short position pays ``borrow_bps`` a year of its
    value, or what ``borrow_bps_of`` says for the security.
    """

    half_spread_bps: float = Field(default=5.0, ge=0.0, le=1000.0)
    holding_years: float = Field(default=1.0, gt=0.0, le=30.0)
    impact: float = Field(default=0.0, ge=0.0, le=10.0)
    unknown_volume_base: float = Field(default=1e6, gt=0.0, le=1e12)
    borrow_bps: float = Field(default=0.0, ge=0.0, le=1e4)
    borrow_bps_of: dict[Annotated[str, known("security", "security")], Annotated[float, Field(ge=0.0, le=1e5)]] = Field(
        default_factory=dict
    )
