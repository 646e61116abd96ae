"""``validate_model``: the model of each day meets the day after, on fixed books."""

import datetime as dt
from dataclasses import dataclass, replace

from engine.api.calibrating import PriceInputs, read_inputs
from engine.errors import UsageError
from engine.risk.validation import Validation, validate
from engine.store.files import decode_table


@dataclass(frozen=True, slots=True)
class DayRange:
    """Which days are forecast, and how often the model is fitted.

    Args:
        first: First day; the last 504 with enough history when None.
        last: Last day; the last price when None.
        every: Days from one fit of the model to the next.

    Raises:
        UsageError: the range runs backwards, or ``every`` is below 1.
    """

    first: dt.date | None = None
    last: dt.date | None = None
    every: int = 1

    def __post_init__(self) -> None:
        if self.first is not None and self.last is not None and self.first > self.last:
            raise UsageError(f"--from {self.first} is after --to {self.last}; turn them round")
        if self.every < 1:
            raise UsageError(f"--every is {self.every}; 1 or more")


@dataclass(frozen=True, slots=True)
class ValidatedModel:
    """A validation and what it was made from.

    Args:
        validation: Tables, headline, notices.
        inputs: Universe and sources, the prices first.
    """

    validation: Validation
    inputs: PriceInputs


def validate_model(
    prices: str,
    days: DayRange | None = None,
    *,
    universe: str = "ai_curve",
    securities: str | None = None,
    baskets: str | None = None,
) -> ValidatedModel:
    """Forecast the risk of fixed books one day ahead over a range of days, and score it.

    Args:
        prices: Parquet or CSV file of the table ``prices``.
        days: The range; the last 504 days when None.
        universe: Bundled name or folder, for tiers and settings.
        securities: File to use instead of the universe's securities.
        baskets: CSV (tier, security_id) to use instead of the universe's core names.

    Raises:
        EngineError: a leaf that names the file at fault and the remedy.
    """
    chosen = days or DayRange()
    given = read_inputs(prices, universe, securities, baskets)
    result = validate(
        decode_table(given.prices, "prices"),
        given.universe,
        first=chosen.first,
        last=chosen.last,
        every=chosen.every,
        source=str(given.prices.path),
    )
    return ValidatedModel(replace(result, notices=(*given.notices, *result.notices)), given)
