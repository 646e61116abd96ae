"""Stress and rebalance portfolios along the AI risk curve, with a certificate on every answer.

The public verbs mirror the commands. They are loaded on first use, so that
``import engine`` costs nothing (tests/test_architecture.py holds the budget).
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "backtest": "engine.api.backtesting",
    "backtest_days": "engine.api.backtesting",
    "calibrate_model": "engine.api.calibrating",
    "describe_tiers": "engine.api.curving",
    "explain_portfolio": "engine.api.explaining",
    "hedge_portfolios": "engine.api.hedging",
    "load_universe": "engine.api.loading",
    "nowcast_portfolios": "engine.api.nowcasting",
    "rebalance_portfolios": "engine.api.rebalancing",
    "reverse_stress_portfolios": "engine.api.reversing",
    "score_library": "engine.api.hindsight",
    "score_nowcast": "engine.api.nowcasting",
    "stress_portfolios": "engine.api.stressing",
    "trace_frontier": "engine.api.tracing",
    "validate_model": "engine.api.validating",
}

__all__ = [
    "__version__",
    "backtest",
    "backtest_days",
    "calibrate_model",
    "describe_tiers",
    "explain_portfolio",
    "hedge_portfolios",
    "load_universe",
    "nowcast_portfolios",
    "rebalance_portfolios",
    "reverse_stress_portfolios",
    "score_library",
    "score_nowcast",
    "stress_portfolios",
    "trace_frontier",
    "validate_model",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'engine' has no attribute {name!r}; it offers {', '.join(_PUBLIC)}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
