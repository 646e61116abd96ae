"""Every table that enters or leaves the engine, as code.

A contract fixes, per column, the dtype, whether it may be null, the unit, the sign and the
allowed values; per table, the key and an integer version (an added nullable column keeps
it, anything else raises it). Files carry the version in their footer. Nullable columns of
an input may be absent. The columns stand in ``tables.py``.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import dataframely as dy
import polars as pl

from engine import tables
from engine.conventions import CASH_PREFIX

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


CONTRACTS: Final = MappingProxyType(
    {
        name: Contract(name, 1, schema)
        for name, schema in {
            "prices": tables.Prices,
            "securities": tables.Securities,
            "portfolios": tables.Portfolios,
            "holdings": tables.Holdings,
            "benchmarks": tables.Benchmarks,
            "exposures": tables.Exposures,
            "factor_covariance": tables.FactorCovariance,
            "specific_risk": tables.SpecificRisk,
            "factor_returns": tables.FactorReturns,
            "tiers": tables.Tiers,
            "memberships": tables.Memberships,
            "portfolio_summary": tables.PortfolioSummary,
            "portfolio_exposures": tables.PortfolioExposures,
            "risk_factors": tables.RiskFactors,
            "risk_tiers": tables.RiskTiers,
            "risk_positions": tables.RiskPositions,
            "stress": tables.Stress,
            "stress_tiers": tables.StressTiers,
            "stress_factors": tables.StressFactors,
            "stress_positions": tables.StressPositions,
            "shocks": tables.Shocks,
            "scenario_summary": tables.ScenarioSummary,
            "backtest_days": tables.BacktestDays,
            "backtest_names": tables.BacktestNames,
            "validation_days": tables.ValidationDays,
            "validation_books": tables.ValidationBooks,
            "targets": tables.Targets,
            "trades": tables.Trades,
            "limits": tables.Limits,
            "certificates": tables.Certificates,
            "exceptions": tables.Exceptions,
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
