"""Every table that enters or leaves the engine, as code.

A contract fixes, per column, the dtype, whether it may be null, the unit, the sign and the
allowed values; per table, the key and an integer version (an added nullable column keeps
it, anything else raises it). Files carry the version in their footer. Nullable columns of
an input may be absent. The columns stand in ``tables/``.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import dataframely as dy
import polars as pl

from engine.conventions import CASH_PREFIX
from engine.tables import (
    explanations,
    frontiers,
    hedges,
    inputs,
    model,
    nowcasts,
    reverse,
    risk,
    scores,
    stress,
    trades,
)

ROW_NUMBER: Final = "row_number"


@dataclass(frozen=True, slots=True)
class Contract:
    """One table: its name, its version, and its columns with their rules."""

    name: str
    version: int
    schema: type[dy.Schema]

    @property
    def columns(self) -> dict[str, pl.DataType]:
        """Column names with their dtypes, in order."""
        return {column.alias or name: column.dtype for name, column in self.schema.columns().items()}

    @property
    def nullable(self) -> frozenset[str]:
        """The columns that may be null, and absent from an input."""
        return frozenset(c.alias or n for n, c in self.schema.columns().items() if c.nullable)

    @property
    def numbered_schema(self) -> type[dy.Schema]:
        """The schema with a row number beside it, so that a fault can name its row."""
        name = f"Numbered{self.schema.__name__}"
        members = {ROW_NUMBER: dy.UInt32(nullable=False), "__module__": __name__}
        make: Any = type(self.schema)
        numbered: type[dy.Schema] = make(name, (self.schema,), members)
        return numbered

    @property
    def key(self) -> list[str]:
        """The columns whose values name a row."""
        return list(self.schema.primary_key())


RAISED: Final = MappingProxyType({"certificates": 2, "limits": 4, "scenario_summary": 3, "stress": 2})
"""The version of every contract that has left its first: a certificate has two forms, a limit more kinds,
a summary knows trees and the past, a stress benchmarks."""

CONTRACTS: Final = MappingProxyType(
    {
        name: Contract(name, RAISED.get(name, 1), schema)
        for name, schema in {
            "prices": inputs.Prices,
            "securities": inputs.Securities,
            "portfolios": inputs.Portfolios,
            "holdings": inputs.Holdings,
            "benchmarks": inputs.Benchmarks,
            "compositions": inputs.Compositions,
            "exposures": model.Exposures,
            "factor_covariance": model.FactorCovariance,
            "specific_risk": model.SpecificRisk,
            "factor_returns": model.FactorReturns,
            "tiers": model.Tiers,
            "memberships": model.Memberships,
            "alternative_exposures": model.AlternativeExposures,
            "alternative_covariance": model.AlternativeCovariance,
            "alternative_specific": model.AlternativeSpecific,
            "portfolio_summary": risk.PortfolioSummary,
            "portfolio_exposures": risk.PortfolioExposures,
            "portfolio_curve": risk.PortfolioCurve,
            "risk_factors": risk.RiskFactors,
            "risk_tiers": risk.RiskTiers,
            "risk_positions": risk.RiskPositions,
            "stress": stress.Stress,
            "stress_models": stress.StressModels,
            "stress_tiers": stress.StressTiers,
            "stress_factors": stress.StressFactors,
            "stress_positions": stress.StressPositions,
            "shocks": stress.Shocks,
            "scenario_summary": stress.ScenarioSummary,
            "stress_leaves": stress.StressLeaves,
            "stress_trees": stress.StressTrees,
            "reverse": reverse.Reverse,
            "reverse_factors": reverse.ReverseFactors,
            "reverse_positions": reverse.ReversePositions,
            "hedges": hedges.Hedges,
            "hedge_trades": hedges.HedgeTrades,
            "hedge_exposures": hedges.HedgeExposures,
            "scenario_factors": stress.ScenarioFactors,
            "backtest_days": scores.BacktestDays,
            "backtest_names": scores.BacktestNames,
            "hindsight": scores.Hindsight,
            "hindsight_tiers": scores.HindsightTiers,
            "validation_days": scores.ValidationDays,
            "validation_books": scores.ValidationBooks,
            "tape": nowcasts.Tape,
            "closing": nowcasts.Closing,
            "nowcast": nowcasts.Nowcast,
            "nowcast_names": nowcasts.NowcastNames,
            "nowcast_scenarios": nowcasts.NowcastScenarios,
            "nowcast_scores": nowcasts.NowcastScores,
            "nowcast_book_scores": nowcasts.NowcastBookScores,
            "targets": trades.Targets,
            "trades": trades.Trades,
            "whipsaws": trades.Whipsaws,
            "limits": trades.Limits,
            "conflicts": trades.Conflicts,
            "certificates": trades.Certificates,
            "allotments": trades.Allotments,
            "firm_liquidity": trades.FirmLiquidity,
            "frontier": frontiers.Frontier,
            "marginal_costs": explanations.MarginalCosts,
            "standing": explanations.Standing,
            "exceptions": trades.Exceptions,
        }.items()
    }
)
"""Every contract by the name of its table."""


def empty(name: str) -> pl.DataFrame:
    """A table without rows."""
    return pl.DataFrame(schema=CONTRACTS[name].columns)


def cash_row(column: str = "security_id") -> pl.Expr:
    """True on rows whose security is cash."""
    return pl.col(column).str.starts_with(CASH_PREFIX)
