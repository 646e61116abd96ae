"""What a desk allows a reverse stress to move: bounds on factors, tiers and names, and an order of tiers."""

from collections.abc import Mapping

from pydantic import Field, ValidationInfo, field_validator, model_validator

from engine.documents import Strict, parse_document, suggestion


class Range(Strict):
    """Lowest and highest return over the horizon; a side that is not given does not bind."""

    min: float | None = Field(default=None, ge=-2.0, le=10.0)
    max: float | None = Field(default=None, ge=-2.0, le=10.0)

    @model_validator(mode="after")
    def _in_order(self) -> "Range":
        if self.min is None and self.max is None:
            raise ValueError("a bound needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}; no shock can keep both")
        return self


class ReverseBounds(Strict):
    """The file of bounds.

    ``factors`` bounds a factor as it is (a tier's name means its pure factor), ``tiers`` what the
    tape shows for a tier, ``securities`` one name's return. ``order`` lists tiers whose
    returns may not fall along the list, the worst hit first. A sign is a bound of 0.
    """

    factors: dict[str, Range] = Field(default_factory=dict)
    tiers: dict[str, Range] = Field(default_factory=dict)
    securities: dict[str, Range] = Field(default_factory=dict)
    order: tuple[str, ...] = ()

    @field_validator("factors", "tiers", "securities")
    @classmethod
    def _keys_are_known(cls, ranges: dict[str, Range], info: ValidationInfo) -> dict[str, Range]:
        kind = {"factors": "factor", "tiers": "tier", "securities": "security"}[info.field_name or ""]
        _refuse_unknown(kind, tuple(ranges), info)
        return ranges

    @field_validator("order")
    @classmethod
    def _tiers_once_each(cls, order: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        _refuse_unknown("tier", order, info)
        if len(order) == 1:
            raise ValueError("an order needs two tiers or more")
        if twice := sorted({name for name in order if order.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} stands in the order twice")
        return order

    @model_validator(mode="after")
    def _says_something(self) -> "ReverseBounds":
        if not (self.factors or self.tiers or self.securities or self.order):
            raise ValueError("no bound in it; give factors, tiers, securities or order")
        return self


def _refuse_unknown(kind: str, names: tuple[str, ...], info: ValidationInfo) -> None:
    known = (info.context or {}).get(kind)
    for name in names:
        if known is not None and name not in known:
            raise ValueError(f"unknown {kind} {name!r}{suggestion(name, known)}")


def read_bounds(text: str, source: str, vocabulary: Mapping[str, tuple[str, ...]]) -> ReverseBounds:
    """The bounds in the text of one file.

    Args:
        text: The whole file.
        source: Its name, for the messages.
        vocabulary: Known names by kind: ``factor``, ``tier``, ``security``.

    Raises:
        ConfigurationError: every fault with line, column and a suggestion.
    """
    return parse_document(text, source, ReverseBounds, vocabulary)
