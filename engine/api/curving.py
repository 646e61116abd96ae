"""``describe_tiers``: the curve of a universe, and who behaves like which tier."""

import datetime as dt
from dataclasses import dataclass

import polars as pl

from engine.api.loading import LoadedUniverse
from engine.curve.membership import MembershipEvidence, weigh_evidence
from engine.curve.position import Contrasts, curve_contrasts
from engine.errors import InputFileError
from engine.intake import Notice, admit
from engine.store.files import decode_table


@dataclass(frozen=True, slots=True)
class TierReport:
    """The curve and its people, from the model's tables alone.

    Args:
        as_of: Last day the model has seen.
        tiers: Table ``tiers`` in the order of the curve, with ``title``, ``core`` (number of
            core names), ``members`` (names with a declared share) and ``lookalikes``
            (undeclared names that behave like the tier).
        contrasts: Curve moves weighted by core names; None where they do not exist.
        evidence: Exposure, t-statistic and confidence of every security on every tier.
        notices: What keeps the report from being whole.
    """

    as_of: dt.date
    tiers: pl.DataFrame
    contrasts: Contrasts | None
    evidence: MembershipEvidence
    notices: tuple[Notice, ...]


def describe_tiers(loaded: LoadedUniverse) -> TierReport:
    """Coordinates, members, straddlers, look-alikes and declared names that behave otherwise.

    Estimated memberships appear here and nowhere else: limits and P&L by tier keep to the
    memberships that the model froze.

    Args:
        loaded: From ``load_universe``.

    Returns:
        The report. A model without standard errors or coordinates gives one without
        estimates or positions, and a notice that says so.

    Raises:
        InputFileError: the universe was loaded without the model's exposures.
    """
    found = [source for source in loaded.sources if source.name == "model/exposures"]
    if not found:
        raise InputFileError("model/exposures: the universe was loaded without it; use load_universe")
    where = str(found[0].path)
    evidence = weigh_evidence(admit(decode_table(found[0], "exposures"), "exposures", where).frame, loaded.curve)
    settings = loaded.universe.settings
    titles = {tier.id: tier.title for tier in settings.tiers}
    core = {tier.id: len(tier.core) for tier in settings.tiers}
    labels = loaded.curve.tiers.labels
    tiers = loaded.curve.frame.sort("ordinal").with_columns(
        pl.Series("title", [titles.get(tier, tier) for tier in labels]),
        pl.Series("core", [core.get(tier, 0) for tier in labels]),
        *[
            pl.Series(name, [rows.filter(pl.col("tier") == tier).height for tier in labels])
            for name, rows in (("members", evidence.members), ("lookalikes", evidence.lookalikes))
        ],
    )
    doubts = []
    if loaded.curve.coordinates is None:
        doubts.append(
            Notice(
                "model.coordinates",
                "warn",
                "the tiers have no coordinates; run engine calibrate again on at least 91 days",
                where,
            )
        )
    if evidence.frame["standard_error"].is_null().all():
        words = "the exposures have no standard errors, so no membership is estimated; run engine calibrate again"
        doubts.append(Notice("model.standard_error", "warn", words, where))
    contrasts = curve_contrasts(loaded.curve.coordinates, loaded.curve.core_counts)
    return TierReport(loaded.model.as_of, tiers, contrasts, evidence, tuple(doubts))
