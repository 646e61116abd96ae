"""The curve: its tiers in order, where each lies, its slope on the market, and who belongs to it."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from jaxtyping import Float

from engine.axes import Axis
from engine.conventions import OFF_CURVE
from engine.curve.coordinates import Coordinates
from engine.curve.factors import FactorPanel
from engine.curve.universe import Universe
from engine.errors import ContractError
from engine.intake import admit


@dataclass(frozen=True, slots=True)
class Curve:
    """Ordered tiers and the memberships of securities.

    Args:
        tiers: Axis of the tiers, first rung first.
        beta: ``(n_tiers,)``, slope of each tier's total return on the market.
        memberships: Table ``memberships``; what a security's rows leave of 1 is off the curve.
        coordinates: Where the tiers lie, on the axis ``tiers``; None where it is not known.
    """

    tiers: Axis
    beta: Float[np.ndarray, " n_tiers"]
    memberships: pl.DataFrame
    coordinates: Coordinates | None = None

    @classmethod
    def from_frames(cls, tiers: pl.DataFrame, memberships: pl.DataFrame, source: str) -> "Curve":
        """The curve in the model tables ``tiers`` and ``memberships``.

        Raises:
            ContractError: a table breaks its contract.
            AlignmentError: a membership names a tier that the curve does not have.
        """
        ordered = admit(tiers, "tiers", source).frame.sort("ordinal")
        axis = Axis("tier", tuple(ordered["tier"].to_list()))
        faults = []
        if ordered["ordinal"].to_list() != list(range(len(axis))):
            faults.append(f"ordinals must be 0 to {len(axis) - 1}; found {ordered['ordinal'].to_list()}")
        members = admit(memberships, "memberships", source).frame
        axis.positions(members["tier"].to_list(), f"memberships ({source})")
        sums = members.group_by("security_id").agg(pl.col("weight").sum()).filter(pl.col("weight") > 1.0 + 1e-9)
        if sums.height:
            faults.append(f"memberships sum to more than 1: {', '.join(sums['security_id'].sort().head(5).to_list())}")
        if faults:
            raise ContractError(f"curve ({source})", faults)
        places = [ordered[name].cast(pl.Float64).to_numpy() for name in ("coordinate", "low", "high")]
        coordinates = Coordinates(axis, *places) if ordered["coordinate"].null_count() == 0 else None
        return cls(axis, ordered["beta"].to_numpy().copy(), members, coordinates)

    def with_declared(self, memberships: pl.DataFrame) -> "Curve":
        """The curve with declared memberships of securities that it has none of, such as new listings."""
        known = self.memberships["security_id"].unique().to_list()
        new = memberships.filter(~pl.col("security_id").is_in(known) & pl.col("tier").is_in(list(self.tiers.labels)))
        rows = pl.concat([self.memberships, new.select(self.memberships.columns)]).sort("security_id", "tier")
        return replace(self, memberships=rows)

    @property
    def frame(self) -> pl.DataFrame:
        """The table ``tiers``; coordinates that are not known are null."""
        unknown = np.full(len(self.tiers), np.nan)
        places = self.coordinates or Coordinates(self.tiers, unknown, unknown, unknown)
        return pl.DataFrame(
            {
                "tier": self.tiers.labels,
                "ordinal": np.arange(len(self.tiers), dtype=np.int64),
                "coordinate": pl.Series(places.values, nan_to_null=True),
                "low": pl.Series(places.low, nan_to_null=True),
                "high": pl.Series(places.high, nan_to_null=True),
                "beta": self.beta,
            }
        ).sort("tier")

    @property
    def buckets(self) -> Axis:
        """The tiers and, last, ``off_curve``."""
        return Axis("tier", (*self.tiers.labels, OFF_CURVE))

    @property
    def core_counts(self) -> Float[np.ndarray, " n_tiers"]:
        """Core names of each tier, at least 1: the weights of the curve's contrasts."""
        core = self.memberships.filter(pl.col("source") == "core").group_by("tier").len()
        counts = dict(core.iter_rows())
        return np.array([max(counts.get(tier, 0), 1) for tier in self.tiers.labels], dtype=np.float64)

    def shares(self, securities: Axis) -> Float[np.ndarray, "n_securities n_buckets"]:
        """Membership shares on ``buckets``; each row sums to 1."""
        rows = self.memberships.filter(pl.col("security_id").is_in(list(securities.labels)))
        out = np.zeros((len(securities), len(self.buckets)))
        at = securities.positions(rows["security_id"].to_list(), "memberships")
        out[at, self.tiers.positions(rows["tier"].to_list(), "memberships")] = rows["weight"].to_numpy()
        out[:, -1] = 1.0 - out[:, :-1].sum(axis=1)
        return out


def declare_curve(universe: Universe, factors: FactorPanel) -> Curve:
    """The curve of a universe with its declared memberships and calibrated slopes; nobody has placed its tiers yet."""
    tiers = Axis("tier", universe.settings.tier_ids)
    return Curve(tiers, factors.beta, universe.memberships)
