"""The horizon that a budget was set for is the one that its scenario has."""

from collections.abc import Mapping

from engine.documents import load_document
from engine.errors import ConfigurationError
from engine.mandates.mandate import Mandate, ShortfallLimit, StressBudget, stem_of


def check_horizons(
    mandates: Mapping[str, Mandate], horizons: Mapping[str, int], texts: Mapping[str, str] | None = None
) -> None:
    """Refuse a budget that was set for another horizon than its scenario has.

    Args:
        mandates: By id.
        horizons: Trading days by scenario; a scenario that is not named is not checked.
        texts: File name to text, as for ``read_mandates``, to say where a fault stands; a mandate
            without a text is named by its id.

    Raises:
        ConfigurationError: every budget whose ``horizon_days`` is not its scenario's.
    """
    written = {stem_of(source): (source, text) for source, text in (texts or {}).items()}
    faults = []
    for mandate in mandates.values():
        limits = mandate.limits
        budgets: list[tuple[str, int, StressBudget | ShortfallLimit]] = []
        budgets += [("stress", number, budget) for number, budget in enumerate(limits.stress)]
        budgets += [("shortfall", number, budget) for number, budget in enumerate(limits.shortfall)]
        for key, number, budget in budgets:
            runs = horizons.get(budget.scenario)
            if budget.horizon_days is None or runs is None or budget.horizon_days == runs:
                continue
            where = f"mandate {mandate.id}"
            if mandate.id in written:
                source, text = written[mandate.id]
                place = load_document(text, source).place(("limits", key, number, "horizon_days"))
                where = ":".join(map(str, place))
            faults.append(
                f"{where}: its budget on {budget.scenario} is for {budget.horizon_days} trading days, "
                f"the scenario runs {runs}; state the same horizon in both"
            )
    if faults:
        raise ConfigurationError(faults)
