"""Every number that a scenario states, with its source; and what differs between two scenarios."""

from dataclasses import dataclass
from typing import Any

from engine.scenarios.kinds import Body, DriversBody, PathBody, ReplayBody, ShockBody, TreeBody
from engine.scenarios.views import View


@dataclass(frozen=True, slots=True)
class Number:
    """One number of a scenario.

    Args:
        what: What it is about, as a person would say it.
        value: The number; of a replay, a return.
        low: Lowest value thought possible; None where there is no range.
        high: Highest.
        source: Where it comes from.
    """

    what: str
    value: float
    source: str
    low: float | None = None
    high: float | None = None


def stated_numbers(body: Body) -> tuple[Number, ...]:
    """The numbers of a scenario in the order of its file."""
    match body:
        case ShockBody():
            return tuple(map(_view, body.views))
        case DriversBody():
            inputs = [(name, getattr(body.demand, name)) for name in type(body.demand).model_fields]
            for tier, transmission in body.tiers.items():
                inputs += [(f"{tier} {name}", getattr(transmission, name)) for name in type(transmission).model_fields]
            quantities = [Number(name, q.value, q.source, q.low, q.high) for name, q in inputs]
            return (*quantities, *map(_view, body.also))
        case ReplayBody():
            returns = [
                (f"{subject} on {day.date}", value, day.source)
                for day in body.days
                for subject, value in (("market", day.market), *sorted(day.tiers.items()))
            ]
            return tuple(Number(what, value, source) for what, value, source in returns if value is not None)
        case TreeBody():
            return tuple(Number(f"{leaf.scenario} probability", leaf.probability, leaf.source) for leaf in body.leaves)
        case PathBody():
            return tuple(Number(f"{step.scenario} from day", float(step.day), step.source) for step in body.steps)


def differences(one: Body, other: Body) -> tuple[tuple[str, str | None, str | None], ...]:
    """What two scenarios say differently: the place, the first one's words, the second one's.

    Views, days, leaves and steps are compared by what they are about, whatever their order.
    """
    ours, theirs = _flat(one), _flat(other)
    return tuple(
        (place, ours.get(place), theirs.get(place))
        for place in dict.fromkeys((*ours, *theirs))
        if ours.get(place) != theirs.get(place)
    )


def _view(view: View) -> Number:
    said = next(name for name in ("value", "total", "pure") if getattr(view, name) is not None)
    kind, name = view.subject
    what = f"{kind} {name}" if said == "value" else f"{kind} {name}, {said}"
    return Number(what, view.number, view.source)


def _flat(body: Body) -> dict[str, str]:
    words: dict[str, str] = {}
    _spread("", body.model_dump(mode="json", exclude_none=True), words)
    return words


def _spread(place: str, value: Any, words: dict[str, str]) -> None:
    if isinstance(value, dict):
        for key, inside in value.items():
            _spread(f"{place}.{key}" if place else str(key), inside, words)
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for at, item in enumerate(value):
            _spread(f"{place}[{_label(item, at)}]", item, words)
    else:
        words[place] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _label(item: dict[str, Any], at: int) -> str:
    for key in ("factor", "tier", "security", "basket", "contrast", "scenario", "date"):
        if key in item:
            name = item[key]
            return f"{key} {' + '.join(name) if isinstance(name, list) else name}"
    return str(at + 1)
