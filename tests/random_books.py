"""Random books of any size: the tables that the certificate reads and the problem that the program solves."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from engine.axes import Axis
from engine.curve.tiers import Curve
from engine.mandates.mandate import Mandate
from engine.rebalance.certificate import Verdict, certifier, certify, prove_infeasible
from engine.rebalance.evidence import Claim, Evidence, gather_evidence
from engine.rebalance.problem import Problem, Terms, state_problem
from engine.rebalance.solve import Answer, Programs, solve_problem
from engine.risk.model import RiskModel
from engine.risk.tails import Tails

NAV: Final = 2.0**30
"""A power of two: weight times NAV over NAV is the weight to the last bit."""

TIERS: Final = ("t1", "t2", "t3", "t4")

TWINS: Final = 3
"""Issuers with two lines each."""


@dataclass(frozen=True)
class RandomBook:
    """One drawn book; its limits leave room around one planted answer.

    Args:
        weights: Today's weights by name, without cash.
        benchmark: Weights of every name.
        mandate: Its limits.
        terms: What the program is told.
        evidence: What the certificate is told, from tables of its own.
        planted: A feasible answer on the axis of all names.
    """

    weights: Mapping[str, float]
    benchmark: Mapping[str, float]
    mandate: Mandate
    terms: Terms
    evidence: Evidence
    planted: np.ndarray

    def state(self) -> Problem:
        """The problem, stated anew."""
        return state_problem(
            "book", weights=self.weights, benchmark=self.benchmark, mandate=self.mandate, terms=self.terms, nav=NAV
        )

    @property
    def inputs(self) -> dict[str, Any]:
        """What the certificate reads of the book besides the evidence."""
        held = pl.DataFrame(
            {
                "security_id": [*self.weights, "CASH:USD"],
                "market_value_base": [*(w * NAV for w in self.weights.values()), 0.0],
                "exposure_base": [None] * (len(self.weights) + 1),
            },
            schema={"security_id": pl.String, "market_value_base": pl.Float64, "exposure_base": pl.Float64},
        )
        index = pl.DataFrame({"security_id": list(self.benchmark), "weight": list(self.benchmark.values())})
        return {"holdings": held, "nav": NAV, "benchmark": index, "mandate": self.mandate}

    def judge(self, claim: Claim) -> Verdict:
        """The certificate's word on a claim."""
        return certify(self.evidence, **self.inputs, claim=claim)

    def solve(self, programs: Programs) -> Answer:
        """State, solve, certify: what one book of a night costs."""
        inputs = self.inputs
        return solve_problem(
            self.state(),
            programs,
            judge=certifier(self.evidence, **inputs),
            refute=lambda claim: prove_infeasible(self.evidence, **inputs, claim=claim),
        )


def random_book(
    rng: np.random.Generator, names: int, factors: int, *, holdings: int | None = None, scenarios: int = 8
) -> RandomBook:
    """Draw a book of ``holdings`` lines against a benchmark of ``names``.

    Market-like weights, one broad factor and narrower ones, four tiers, factor bands, stress
    budgets, boxes, linear costs and a turnover of 0.2 to 0.3. Today's weights break some of the
    bands and budgets; the planted answer keeps them all.

    Args:
        rng: Source of every number.
        names: Size of the benchmark.
        factors: Of the risk model, at least 2.
        holdings: Lines held; between 60 and 200 where not given, at most half of the names.
        scenarios: Number of stress budgets.
    """
    labels = tuple(f"S{i:05d}" for i in range(names))
    model, shocks = _model(rng, labels, factors), _shocks(rng, names, scenarios)
    shocks += model.exposures @ _factor_moves(rng, model, scenarios)
    shocks = np.maximum(shocks, -0.9)
    caps = rng.pareto(1.2, names) + 0.3
    bench = caps / caps.sum()
    lines = min(holdings or int(rng.integers(60, 201)), max(names // 2, 2))
    held = rng.choice(names, lines, replace=False, p=bench)
    start = np.zeros(names)
    start[held] = np.sqrt(bench[held]) * rng.lognormal(0.0, 0.5, lines)
    start *= 0.985 / start.sum()
    turnover = float(rng.uniform(0.2, 0.3))
    memberships, shares = _memberships(rng, labels)
    aim = _aim(rng, start, bench, shocks, turnover)
    mandate = _mandate(rng, aim, start, shares, shocks, model, turnover)
    bps = rng.uniform(1.0, 15.0, names)
    scenario_ids = [f"s{j}" for j in range(scenarios)]
    tables = model.tables
    evidence = gather_evidence(
        exposures=tables["exposures"],
        factor_covariance=tables["factor_covariance"],
        specific_risk=tables["specific_risk"],
        memberships=memberships,
        shocks=pl.DataFrame(
            {
                "scenario_id": np.repeat(scenario_ids, names),
                "security_id": np.tile(labels, scenarios),
                "total": shocks.T.ravel(),
            }
        ),
        securities=pl.DataFrame(
            {
                "security_id": labels,
                "half_spread_bps": bps,
                "gics_sector": [None] * names,
                "adv_base": [None] * names,
            },
            schema_overrides={"gics_sector": pl.String, "adv_base": pl.Float64},
        ),
    )
    terms = Terms(
        model=model,
        curve=Curve(Axis("tier", TIERS), np.ones(len(TIERS)), memberships),
        shocks={s: shocks[:, j] for j, s in enumerate(scenario_ids)},
        half_spread_bps=dict(zip(labels, bps.tolist(), strict=True)),
    )
    return RandomBook(
        weights={labels[i]: float(start[i]) for i in sorted(held.tolist())},
        benchmark=dict(zip(labels, bench.tolist(), strict=True)),
        mandate=mandate,
        terms=terms,
        evidence=evidence,
        planted=aim,
    )


def _model(rng: np.random.Generator, labels: tuple[str, ...], factors: int) -> RiskModel:
    n = len(labels)
    exposures = np.column_stack([rng.normal(1.0, 0.3, n), rng.normal(0.0, 1.0, (n, factors - 1))])
    volatility = np.append(0.16, rng.uniform(0.015, 0.06, factors - 1))
    mix = np.eye(factors) + 0.15 * rng.normal(size=(factors, factors)) / np.sqrt(factors)
    covariance = (volatility[:, None] * mix) @ (volatility[:, None] * mix).T
    issuers = np.arange(n)
    twins = min(TWINS, n // 2)
    issuers[1 : 2 * twins : 2] = issuers[0 : 2 * twins : 2]
    _, issuers = np.unique(issuers, return_inverse=True)
    variance = rng.uniform(0.15, 0.6, n) ** 2
    variance[1 : 2 * twins : 2] = variance[0 : 2 * twins : 2]
    return RiskModel(
        as_of=dt.date(2025, 1, 24),
        securities=Axis.of("security", labels),
        factors=Axis("factor", ("market", *(f"f{j:03d}" for j in range(1, factors)))),
        exposures=exposures,
        factor_covariance=(covariance + covariance.T) / 2.0,
        specific_variance=variance,
        issuers=issuers.astype(np.int64),
        tails=Tails(5.0, 1.0, 0.2, 1.0),
        largest_moves=np.ones(factors),
    )


def _factor_moves(rng: np.random.Generator, model: RiskModel, scenarios: int) -> np.ndarray:
    moves = rng.normal(size=(len(model.factors), scenarios)) * np.sqrt(np.diag(model.factor_covariance))[:, None] / 4.0
    moves[0] = -np.abs(moves[0]) - 0.02
    return moves


def _shocks(rng: np.random.Generator, names: int, scenarios: int) -> np.ndarray:
    return rng.normal(0.0, 0.01, (names, scenarios))


def _memberships(rng: np.random.Generator, labels: tuple[str, ...]) -> tuple[pl.DataFrame, np.ndarray]:
    """Every third name on one tier, in part or in full."""
    chosen = np.flatnonzero(rng.uniform(size=len(labels)) < 1.0 / 3.0)
    tier, share = rng.integers(0, len(TIERS), len(chosen)), rng.choice([0.4, 0.7, 1.0], len(chosen))
    shares = np.zeros((len(labels), len(TIERS)))
    shares[chosen, tier] = share
    frame = pl.DataFrame(
        {
            "security_id": [labels[i] for i in chosen],
            "tier": [TIERS[j] for j in tier],
            "weight": share,
        },
        schema={"security_id": pl.String, "tier": pl.String, "weight": pl.Float64},
    )
    return frame, shares


def _aim(
    rng: np.random.Generator, start: np.ndarray, bench: np.ndarray, shocks: np.ndarray, turnover: float
) -> np.ndarray:
    """A portfolio within four fifths of the turnover: towards the benchmark and towards smaller losses."""
    gentle = np.where(rng.uniform(size=len(bench)) < 0.3, bench, 0.0) * np.exp(20.0 * shocks.mean(axis=1))
    target = 0.5 * bench + 0.5 * gentle / gentle.sum()
    step = target * start.sum() - start
    return start + step * min(1.0, 0.8 * turnover / np.abs(step).sum())


def _mandate(
    rng: np.random.Generator,
    aim: np.ndarray,
    start: np.ndarray,
    shares: np.ndarray,
    shocks: np.ndarray,
    model: RiskModel,
    turnover: float,
) -> Mandate:
    """Limits that the aim keeps with a little room; half of them are broken or nearly so today."""
    after, before = aim @ shares, start @ shares
    tiers = {}
    for j, tier in enumerate(TIERS):
        room = 0.1 * abs(after[j] - before[j]) + 0.002
        tiers[tier] = {"min": max(float(after[j] - room), 0.0), "max": min(float(after[j] + room), 1.0)}
    chosen = rng.choice(np.arange(1, len(model.factors)), min(5, len(model.factors) - 1), replace=False)
    factors = {}
    for j in sorted(chosen.tolist()):
        value = float(aim @ model.exposures[:, j])
        factors[model.factors.labels[j]] = {"min": value - 0.02, "max": value + 0.02}
    losses = np.maximum(-(aim @ shocks), 0.001)
    rooms = rng.uniform(0.0002, 0.004, len(losses))
    budgets = [
        {"scenario": f"s{j}", "max_loss": float(loss + room)}
        for j, (loss, room) in enumerate(zip(losses, rooms, strict=True))
    ]
    return Mandate.model_validate(
        {
            "id": "random",
            "title": "Random",
            "version": "1.0.0",
            "risk_aversion": float(rng.uniform(5.0, 30.0)),
            "costs": {"half_spread_bps": 10.0, "holding_years": float(rng.uniform(0.5, 2.0))},
            "limits": {
                "max_weight": min(1.0, float(aim.max()) + 0.002),
                "turnover": turnover,
                "cash": {"min": 0.005, "max": 0.05},
                "tiers": tiers,
                "factors": factors,
                "stress": tuple(budgets),
            },
        }
    )
