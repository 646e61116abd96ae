"""What the exposures say about who belongs to which tier; it never overrules what is declared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Bool, Float
from scipy.special import ndtr, ndtri

from engine.axes import Axis
from engine.conventions import OFF_CURVE
from engine.curve.tiers import Curve

FALSE_POSITIVES: Final = 0.01
"""Chance that a name with no tier exposure at all is given a tier: at most this, over all tiers together."""

MATERIAL_SHARE: Final = 0.10
"""An exposure below this is no membership however significant: a tenth of a tier's move."""

UNLIKE: Final = 0.05
"""A declared name does not behave like its tier when its confidence there is below this."""

FAITHFUL_PART: Final = 0.5
"""Part of its declared share that a name's exposure must reach to behave like its tier."""


@dataclass(frozen=True, slots=True)
class MembershipEvidence:
    """Exposure, t-statistic, confidence and estimated share of every security on every tier.

    Args:
        frame: One row a security and tier, sorted by both: ``declared`` (share, 0 without),
            ``source`` (``core``, ``declared``, or ``estimated``, null where the name has no
            share), ``exposure``, ``standard_error``, ``t_statistic``, ``weight`` (estimated
            share), ``off_curve`` (what the estimated shares of the name leave of 1),
            ``confidence`` and ``unlike`` (declared here, and not behaving so).
    """

    frame: pl.DataFrame

    @property
    def shares(self) -> pl.DataFrame:
        """Rows with a share, declared or estimated."""
        return self.frame.filter(pl.col("source").is_not_null())

    @property
    def members(self) -> pl.DataFrame:
        """Rows of the declared shares."""
        return self.frame.filter(pl.col("declared") > 0.0)

    @property
    def straddlers(self) -> pl.DataFrame:
        """Rows of the names with shares on two tiers or more, declared or else estimated."""
        return self.shares.filter(pl.len().over("security_id") > 1)

    @property
    def estimated(self) -> pl.DataFrame:
        """Table ``memberships`` of the undeclared names that behave like a tier, source ``estimated``."""
        return self.lookalikes.select("security_id", "tier", "weight", "confidence", "source")

    @property
    def lookalikes(self) -> pl.DataFrame:
        """Rows of the undeclared names that behave like a tier."""
        return self.frame.filter(pl.col("source") == "estimated")

    @property
    def unlike(self) -> pl.DataFrame:
        """Rows of the declared shares that the name does not behave like."""
        return self.frame.filter("unlike")

    def of(self, names: Sequence[str]) -> pl.DataFrame:
        """Rows of some securities, on every tier."""
        return self.frame.filter(pl.col("security_id").is_in(sorted(set(names))))


def weigh_evidence(exposures: pl.DataFrame, curve: Curve) -> MembershipEvidence:
    """Estimated membership of every security, and whether declared names behave like their tier.

    The statistic is ``t_ij = B_ij / se_ij``, posterior mean over posterior standard deviation
    of the shrunk regression. A tier counts when ``t_ij >= Phi^-1(1 - 0.01 / n_tiers)`` and
    ``B_ij >= 0.10``: shrinking pulls an undeclared name's t towards its prior, so one that, like
    its peers, only follows the market is given a tier with a chance of at most 1 % (given the
    factors as measured; returns that are not normal make it somewhat more). Exposures of the tiers
    that count are the shares, scaled to sum to 1 where they exceed it; several tiers may
    count; the rest is off the curve. A share below zero is a hedge, not a membership.

    The confidence is the posterior probability ``Phi((B_ij - floor) / se_ij)`` with floor
    0.10, or half the share where one is declared; a declared name does not behave like its
    tier when that is below 0.05. Declared names are shrunk to their declaration, so the
    verdict against it is reached late, not early.

    NVDA at 1.10 with a standard error of 0.05, declared ``ai_semis:1``: t 22, confidence 1.

    Args:
        exposures: Table ``exposures``.
        curve: Tiers and declared memberships; they are not changed.

    Returns:
        The evidence. Without a standard error (an old model, a short history) there is no
        t, no confidence, no estimated share and no verdict.

    Raises:
        AlignmentError: a security has no exposure to a tier of the curve.

    References:
        MATH.md 1. Planted truth and the rate of false positives: tests/test_tiers.py.
    """
    tiers = curve.tiers
    rows = exposures.filter(pl.col("factor").is_in(list(tiers.labels)))
    securities = Axis.of("security", exposures["security_id"].to_list())
    mean, error = (
        securities.matrix(rows, tiers, column, keys=("security_id", "factor"), source="exposures")
        for column in ("exposure", "standard_error")
    )
    declared = curve.shares(securities)[:, :-1]
    known = error > 0.0
    error = np.where(known, error, np.nan)
    t = mean / error
    weight = _shares(mean, t >= ndtri(1.0 - FALSE_POSITIVES / len(tiers)))
    floor = np.where(declared > 0.0, FAITHFUL_PART * declared, MATERIAL_SHARE)
    confidence = ndtr((mean - floor) / error)
    undeclared = declared.sum(axis=1, keepdims=True) == 0.0
    numbers = {
        "declared": declared,
        "exposure": mean,
        "standard_error": error,
        "t_statistic": t,
        "weight": weight,
        OFF_CURVE: np.repeat(1.0 - weight.sum(axis=1, keepdims=True), len(tiers), axis=1),
        "confidence": confidence,
    }
    frame = pl.DataFrame(
        {
            "security_id": [name for name in securities.labels for _ in tiers.labels],
            "tier": list(tiers.labels) * len(securities),
            **{name: pl.Series(values.ravel(), nan_to_null=True) for name, values in numbers.items()},
            "estimated": (undeclared & (weight > 0.0)).ravel(),
            "unlike": ((declared > 0.0) & (confidence < UNLIKE)).ravel(),
        }
    )
    sources = curve.memberships.select("security_id", "tier", "source")
    frame = frame.join(sources, on=["security_id", "tier"], how="left", validate="1:1")
    source = pl.when("estimated").then(pl.lit("estimated")).otherwise("source").alias("source")
    return MembershipEvidence(
        frame.with_columns(source)
        .select("security_id", "tier", "declared", "source", *list(numbers)[1:], "unlike")
        .sort("security_id", "tier")
    )


def _shares(
    mean: Float[np.ndarray, "n_securities n_tiers"], significant: Bool[np.ndarray, "n_securities n_tiers"]
) -> Float[np.ndarray, "n_securities n_tiers"]:
    """Exposures that count, scaled to sum to 1 where they exceed it; what is missing is off the curve."""
    share = np.where(significant & (mean >= MATERIAL_SHARE), mean, 0.0)
    return share / np.maximum(share.sum(axis=1, keepdims=True), 1.0)
