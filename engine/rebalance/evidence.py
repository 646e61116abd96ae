"""The input tables read anew, by name, for the certificate.

This room does not know the program that was solved. It reads the tables in
its own code, so that a stale parameter, a swapped factor or a dropped name is a refusal
and not a trade.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from engine.conventions import MARKET, OFF_CURVE, UNCLASSIFIED
from engine.errors import ModelError


@dataclass(frozen=True, slots=True)
class Evidence:
    """The input tables of a chunk, indexed by name once: ``row`` says where a security stands in every array.

    Args:
        row: By security.
        factors: Factor names, the market first.
        covariance: ``F`` a year.
        exposures: ``B``.
        variance: Specific variance a year.
        issuer: Issuer's place among all issuers, sorted by name.
        shares: Tier shares by tier and off the curve, whatever is missing; a security without any is off it.
        shocks: Total return by scenario; NaN where the table has none.
        half_spread_bps: NaN where the table has none.
        sector: Listed sector, unclassified where the table has none.
        volume: Daily volume in base currency; NaN where the table has none.
        leaves: Probability and total returns of each leaf, by scenario.
        horizon: Trading days by scenario.
        allotted: Money by book and security that may be traded, None without a cap; None as a
            whole where no volume is shared out.
    """

    row: Mapping[str, int]
    factors: tuple[str, ...]
    covariance: Float[np.ndarray, "k k"]
    exposures: Float[np.ndarray, "n k"]
    variance: Float[np.ndarray, " n"]
    issuer: Int[np.ndarray, " n"]
    shares: Mapping[str, Float[np.ndarray, " n"]]
    shocks: Mapping[str, Float[np.ndarray, " n"]]
    half_spread_bps: Float[np.ndarray, " n"]
    sector: np.ndarray
    volume: Float[np.ndarray, " n"]
    leaves: Mapping[str, Mapping[str, tuple[float, Float[np.ndarray, " n"]]]] = field(default_factory=dict)
    horizon: Mapping[str, int] = field(default_factory=dict)
    allotted: Mapping[tuple[str, str], float | None] | None = None

    def rows(self, names: list[str]) -> Int[np.ndarray, " m"]:
        """Where the names stand.

        Raises:
            ModelError: the model does not know one.
        """
        absent = [name for name in names if name not in self.row]
        if absent:
            raise ModelError(f"certificate: the model does not know {', '.join(absent[:3])}")
        return np.array([self.row[name] for name in names], dtype=np.int64)

    def with_allotments(self, allotments: pl.DataFrame | None) -> "Evidence":
        """The same with the table ``allotments``; as it is where none is shared out."""
        if allotments is None:
            return self
        rows = allotments.select("portfolio_id", "security_id", "allotted_base").iter_rows()
        return replace(self, allotted={(book, name): most for book, name, most in rows})


@dataclass(frozen=True, slots=True)
class Claim:
    """An answer and the multipliers that are said to prove it.

    Args:
        weights: Weight after by name, without cash; a name that is absent is held at 0.
        duals: Multiplier by limit id: ``cash:min`` ``cash:max`` ``turnover`` ``gross``
            ``net:max|min`` ``tracking_error`` ``tier:<t>:max|min`` ``stress:<s>`` ``stress:<s>:active``
            ``sector|factor|active_tier|active_sector|active_factor:<key>:max|min``
            ``shortfall:<s>`` ``shortfall:<s>:active``, with ``:leaf:<leaf>`` after it that of a leaf.
        directions: By the id of a robust budget, the direction by name in which its margin is cut;
            without one it is cut in that of the weights.
    """

    weights: Mapping[str, float]
    duals: Mapping[str, float]
    directions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def gather_evidence(
    *,
    exposures: pl.DataFrame,
    factor_covariance: pl.DataFrame,
    specific_risk: pl.DataFrame,
    memberships: pl.DataFrame,
    shocks: pl.DataFrame,
    securities: pl.DataFrame,
) -> Evidence:
    """Index the input tables by name.

    Args:
        exposures: Table ``exposures``.
        factor_covariance: Table ``factor_covariance``.
        specific_risk: Table ``specific_risk``.
        memberships: Table ``memberships``.
        shocks: Table ``shocks``.
        securities: Table ``securities``.

    Raises:
        ModelError: a security lacks a factor or its specific risk, or a factor pair its covariance.
    """
    labels = sorted(set(factor_covariance["factor_1"].to_list()), key=lambda f: (f != MARKET, f))
    column = {factor: position for position, factor in enumerate(labels)}
    covariance = np.full((len(labels), len(labels)), np.nan)
    for one, other, value in factor_covariance.select("factor_1", "factor_2", "annual").iter_rows():
        covariance[column[one], column[other]] = value
    wide = exposures.pivot(on="factor", index="security_id", values="exposure")
    if not np.isfinite(covariance).all() or sorted(wide.columns[1:]) != sorted(labels):
        raise ModelError("certificate: the factors of exposures and factor_covariance differ")
    names = wide["security_id"].to_list()
    own = {
        name: (issuer, annual) for name, issuer, annual in _rows(specific_risk, "security_id", "issuer_id", "annual")
    }
    if bare := [name for name in names if name not in own]:
        raise ModelError(f"certificate: no specific risk of {', '.join(bare[:3])}")
    row = {name: place for place, name in enumerate(names)}
    listed = {
        name: rest for name, *rest in _rows(securities, "security_id", "half_spread_bps", "adv_base", "gics_sector")
    }
    rest = [listed.get(name, [None, None, None]) for name in names]
    return Evidence(
        row=row,
        factors=tuple(labels),
        covariance=covariance,
        exposures=wide.select(labels).to_numpy(),
        variance=np.array([own[name][1] for name in names], dtype=np.float64),
        issuer=np.unique([own[name][0] for name in names], return_inverse=True)[1].astype(np.int64),
        shares=_shares(memberships, row),
        shocks=_by_key(shocks.select("scenario_id", "security_id", "total"), row),
        half_spread_bps=np.array([spread for spread, _, _ in rest], dtype=np.float64),
        volume=np.array([volume for _, volume, _ in rest], dtype=np.float64),
        sector=np.array([sector or UNCLASSIFIED for _, _, sector in rest], dtype=object),
    )


def with_scenarios(evidence: Evidence, *, leaves: pl.DataFrame, horizons: pl.DataFrame) -> Evidence:
    """The same with what a tree and a robust budget need besides ``shocks``.

    Args:
        evidence: From ``gather_evidence``.
        leaves: ``scenario_id leaf_id probability security_id total``, a row a leaf and security.
        horizons: ``scenario_id horizon_days``.
    """
    trees: dict[str, dict[str, tuple[float, Float[np.ndarray, " n"]]]] = {}
    keys = ("scenario_id", "leaf_id", "probability")
    for (scenario, leaf, probability), rows in leaves.partition_by(keys, as_dict=True, maintain_order=True).items():
        totals = _by_key(rows.select("leaf_id", "security_id", "total"), evidence.row)[str(leaf)]
        trees.setdefault(str(scenario), {})[str(leaf)] = (float(probability), totals)
    days = dict(horizons.select("scenario_id", "horizon_days").iter_rows())
    return replace(evidence, leaves=trees, horizon=days)


def _rows(frame: pl.DataFrame, *columns: str) -> list[tuple[Any, ...]]:
    return list(frame.select(columns).iter_rows())


def _by_key(frame: pl.DataFrame, row: Mapping[str, int]) -> dict[str, Float[np.ndarray, " n"]]:
    """Values by the first column, in the rows of the second; NaN where there is none."""
    found: dict[str, Float[np.ndarray, " n"]] = {}
    for key, name, value in frame.iter_rows():
        if key not in found:
            found[key] = np.full(len(row), np.nan)
        if name in row:
            found[key][row[name]] = value
    return found


def _shares(memberships: pl.DataFrame, row: Mapping[str, int]) -> dict[str, Float[np.ndarray, " n"]]:
    shares: dict[str, Float[np.ndarray, " n"]] = {}
    on_it, declared = np.zeros(len(row)), np.zeros(len(row), dtype=bool)
    for name, tier, weight in memberships.select("security_id", "tier", "weight").iter_rows():
        if tier not in shares:
            shares[tier] = np.zeros(len(row))
        if name in row:
            shares[tier][row[name]] = weight
            on_it[row[name]] += weight
            declared[row[name]] = True
    return {**shares, OFF_CURVE: np.where(declared, 1.0 - on_it, 1.0)}
