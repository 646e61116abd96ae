"""How a continuous answer becomes a trade list: whole lots, least trades, least positions."""

from typing import Literal

from pydantic import Field, model_validator

from engine.documents import Strict


class Lots(Strict):
    """How a continuous answer becomes a trade list.

    With ``lots``, the default, a name that is traded ends on a whole number of its lots (of one share
    where the securities table has no lot size), and on 0 where it is sold out; a name that is not
    traded keeps what it has, odd lots and fractions included. With ``none`` shares are fractional.

    ``min_trade`` and ``min_position`` are fractions of NAV. A trade is at least ``min_trade``, unless it
    sells all that is held; a name that is traded ends on 0 or at least on ``min_position``.
    ``exact`` also asks a mixed-integer program, and takes the better of the two: for small books.
    """

    round: Literal["lots", "none"] = "lots"
    min_trade: float = Field(default=0.0, ge=0.0, le=0.1)
    min_position: float = Field(default=0.0, ge=0.0, le=0.1)
    exact: bool = False

    @model_validator(mode="after")
    def _rounds_what_it_rules(self) -> "Lots":
        ruled = [key for key in ("min_trade", "min_position", "exact") if getattr(self, key)]
        if self.round == "none" and ruled:
            raise ValueError(f"round is none, and {', '.join(ruled)} would have no effect; say round: lots or drop it")
        return self
