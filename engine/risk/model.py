"""The risk model: exposures, factor covariance and specific variance that agree by name."""

import datetime as dt
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from engine.axes import Axis
from engine.conventions import MARKET
from engine.errors import AlignmentError, ModelError
from engine.intake import admit
from engine.risk.tails import Tails

PSD_TOLERANCE: Final = 1e-10
SPECIFIC_VOLATILITY_RANGE: Final = (0.05, 1.50)
"""Median specific volatility outside this is a unit fault: daily, percent, or volatility for variance."""


@dataclass(frozen=True, slots=True)
class RiskModel:
    """``Sigma = B F B' + D``, never formed; annual units.

    Args:
        as_of: Last day the model has seen.
        securities: Axis of the n securities.
        factors: Axis of the K factors, the market first.
        exposures: ``B``, ``(n, K)``.
        factor_covariance: ``F``, ``(K, K)``, a year.
        specific_variance: ``d``, ``(n,)``, a year; equal for the lines of one issuer.
        issuers: ``(n,)`` codes 0..m-1; the lines of one issuer share one specific return.
        tails: Tail shape fitted up to ``as_of``.
        largest_moves: ``(K,)``, largest absolute daily factor return seen.

    Raises:
        ModelError: not finite, not symmetric, not positive semi-definite, negative or
            misscaled specific variance, or unequal variances inside an issuer.
    """

    as_of: dt.date
    securities: Axis
    factors: Axis
    exposures: Float[np.ndarray, "n_securities n_factors"]
    factor_covariance: Float[np.ndarray, "n_factors n_factors"]
    specific_variance: Float[np.ndarray, " n_securities"]
    issuers: Int[np.ndarray, " n_securities"]
    tails: Tails
    largest_moves: Float[np.ndarray, " n_factors"]

    def __post_init__(self) -> None:
        faults = _faults(self.exposures, self.factor_covariance, self.specific_variance, self.issuers)
        if self.factors.labels[:1] != (MARKET,):
            faults.append(f"the first factor is {self.factors.labels[:1]}, expected {MARKET!r}")
        if faults:
            raise ModelError("risk model: " + "; ".join(faults))
        for name in ("exposures", "factor_covariance", "specific_variance", "issuers", "largest_moves"):
            frozen = np.array(getattr(self, name))
            frozen.setflags(write=False)
            object.__setattr__(self, name, frozen)

    @classmethod
    def from_frames(
        cls,
        tables: dict[str, pl.DataFrame],
        *,
        as_of: dt.date,
        factors: tuple[str, ...],
        tails: Tails,
        source: str,
    ) -> "RiskModel":
        """The model in its tables, joined by name; row order never matters.

        Args:
            tables: ``exposures``, ``factor_covariance``, ``specific_risk``, ``factor_returns``.
            as_of: Last day the model has seen.
            factors: Factor names in order, the market first.
            tails: Tail shape.
            source: Where the tables came from, for the messages.

        Raises:
            ContractError: a table breaks its contract.
            AlignmentError: a security or factor of one table is missing in another.
            ModelError: the numbers do not form a model.
        """
        frames = {name: admit(frame, name, f"{source}/{name}").frame for name, frame in tables.items()}
        specific, exposures = frames["specific_risk"], frames["exposures"]
        securities = Axis.of("security", specific["security_id"].to_list())
        axis = Axis("factor", factors)
        if absent := Axis.of("security", exposures["security_id"].to_list()).missing(securities.labels):
            raise AlignmentError("security", absent, f"exposures ({source})")
        matrix = securities.matrix(
            exposures, axis, "exposure", keys=("security_id", "factor"), source=f"exposures ({source})"
        )
        covariance = axis.matrix(
            frames["factor_covariance"], axis, "annual", keys=("factor_1", "factor_2"), source="factor_covariance"
        )
        by_name = specific.sort("security_id")
        _, issuers = np.unique(by_name["issuer_id"].to_numpy(), return_inverse=True)
        moves = frames["factor_returns"].group_by("factor").agg(pl.col("return").abs().max())
        return cls(
            as_of=as_of,
            securities=securities,
            factors=axis,
            exposures=matrix,
            factor_covariance=covariance,
            specific_variance=securities.vector(specific, "annual", label="security_id", source="specific_risk"),
            issuers=issuers.astype(np.int64),
            tails=tails,
            largest_moves=axis.vector(moves, "return", label="factor", source=f"factor_returns ({source})"),
        )

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """``exposures`` (without prior shares), ``factor_covariance``, ``specific_risk`` by name."""
        names, labels, k = self.securities.labels, self.factors.labels, len(self.factors)
        issuers = [f"I{code}" for code in self.issuers]
        return {
            "exposures": pl.DataFrame(
                {
                    "security_id": [name for name in names for _ in range(k)],
                    "factor": list(labels) * len(names),
                    "exposure": self.exposures.ravel(),
                }
            ),
            "factor_covariance": pl.DataFrame(
                {
                    "factor_1": [label for label in labels for _ in range(k)],
                    "factor_2": list(labels) * k,
                    "annual": self.factor_covariance.ravel(),
                }
            ),
            "specific_risk": pl.DataFrame(
                {"security_id": names, "issuer_id": issuers, "annual": self.specific_variance}
            ),
        }

    def specific_times(self, columns: Float[np.ndarray, "n_securities m"]) -> Float[np.ndarray, "n_securities m"]:
        """``D @ columns``: an issuer's variance times the sum over the issuer's lines."""
        sums = np.zeros((int(self.issuers.max(initial=-1)) + 1, columns.shape[1]))
        np.add.at(sums, self.issuers, columns)
        product: Float[np.ndarray, "n_securities m"] = self.specific_variance[:, None] * sums[self.issuers]
        return product

    def specific_variances(self, weights: csr_array) -> Float[np.ndarray, " n_rows"]:
        """``w'Dw`` a year of each row of weights: an issuer's lines are added before they are squared."""
        m = int(self.issuers.max(initial=-1)) + 1
        n = len(self.securities)
        belongs = csr_array((np.ones(n), (np.arange(n), self.issuers)), shape=(n, m))
        per_issuer = np.zeros(m)
        per_issuer[self.issuers] = self.specific_variance
        sums = weights @ belongs
        variances: Float[np.ndarray, " n_rows"] = sums.multiply(sums) @ per_issuer
        return variances

    def with_proxies(self, names: tuple[str, ...], exposures: Float[np.ndarray, "m n_factors"]) -> "RiskModel":
        """The model extended by securities it was not calibrated on.

        Args:
            names: New ids, sorted, each its own issuer.
            exposures: Their proxy exposures; their specific variance is the model's 90th
                percentile, because nothing is known of them.
        """
        order = np.argsort(np.array([*self.securities.labels, *names]), kind="stable")
        labels = [*self.securities.labels, *names]
        variance = np.quantile(self.specific_variance, 0.9) if len(self.securities) else 0.0
        codes = np.concatenate([self.issuers, int(self.issuers.max(initial=-1)) + 1 + np.arange(len(names))])
        return replace(
            self,
            securities=Axis("security", tuple(labels[i] for i in order)),
            exposures=np.vstack([self.exposures, exposures])[order],
            specific_variance=np.concatenate([self.specific_variance, np.full(len(names), variance)])[order],
            issuers=codes[order],
        )


def _faults(
    exposures: Float[np.ndarray, "n k"],
    covariance: Float[np.ndarray, "k k"],
    variance: Float[np.ndarray, " n"],
    issuers: Int[np.ndarray, " n"],
) -> list[str]:
    if not (np.isfinite(exposures).all() and np.isfinite(covariance).all() and np.isfinite(variance).all()):
        return ["a number is not finite"]
    faults = []
    scale = float(np.abs(covariance).max(initial=0.0))
    if np.abs(covariance - covariance.T).max(initial=0.0) > PSD_TOLERANCE * scale:
        faults.append("factor_covariance is not symmetric; it is refused, not repaired")
    elif len(covariance) and float(np.linalg.eigvalsh(covariance).min()) < -PSD_TOLERANCE * scale:
        faults.append("factor_covariance is not positive semi-definite; it is refused, not clipped")
    if (variance < 0.0).any():
        faults.append(f"{int((variance < 0).sum())} specific variances are negative")
    elif variance.any():
        low, high = SPECIFIC_VOLATILITY_RANGE
        median = float(np.median(np.sqrt(variance[variance > 0.0])))
        if not low <= median <= high:
            faults.append(
                f"the median specific volatility is {median:.1%} a year, outside {low:.0%} to {high:.0%}: "
                "give annual variances in decimals"
            )
    first = np.full(int(issuers.max(initial=-1)) + 1, np.nan)
    first[issuers] = variance
    if len(variance) and (first[issuers] != variance).any():
        faults.append("lines of one issuer have different specific variances; they share one specific return")
    return faults
