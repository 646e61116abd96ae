"""One book's rebalance as numbers: names, limits as rows, costs, risk in factor form."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from engine.axes import Axis
from engine.curve.tiers import Curve
from engine.errors import AlignmentError, ModelError
from engine.mandates.mandate import Mandate
from engine.risk.model import RiskModel

BUDGET = "cash:min"
"""The budget row with costs: what is not spent stays at least the cash minimum."""

TURNOVER = "turnover"


@dataclass(frozen=True, slots=True)
class Problem:
    """The program of MATH 5 for one book, NAV 1, annual units.

    minimise ``gamma/2 |R'(x - xb)|^2 + gamma/2 sum d_i (x_i - xb_i)^2 + k'|x - x0| / years``
    subject to ``lo <= x <= up``, ``1'x + k'|x - x0| <= spendable``, ``A x <= b`` and
    ``sum |x - x0| <= tau``.

    Args:
        portfolio_id: The book.
        names: Axis of the candidate names: holdings, benchmark, buy list; no cash.
        start: ``x0``, today's weights.
        benchmark: ``xb``; today's weights where there is none.
        lower: ``lo``.
        upper: ``up``.
        costs: ``k``, fraction of the traded value.
        years: Holding period that spreads the costs.
        aversion: ``gamma``.
        root: ``R``, ``(n_names, n_columns)``: exposures times a root of the factor
            covariance, then one column for each issuer with several lines.
        specific: ``d``, zero on the lines that have a column.
        row_ids: Limit id of each row.
        rows: ``A``, ``(n_rows, n_names)``.
        bounds: ``b``.
        spendable: 1 less the cash minimum.
        turnover: ``tau``.
    """

    portfolio_id: str
    names: Axis
    start: Float[np.ndarray, " n_names"]
    benchmark: Float[np.ndarray, " n_names"]
    lower: Float[np.ndarray, " n_names"]
    upper: Float[np.ndarray, " n_names"]
    costs: Float[np.ndarray, " n_names"]
    years: float
    aversion: float
    root: Float[np.ndarray, "n_names n_columns"]
    specific: Float[np.ndarray, " n_names"]
    row_ids: tuple[str, ...]
    rows: Float[np.ndarray, "n_rows n_names"]
    bounds: Float[np.ndarray, " n_rows"]
    spendable: float
    turnover: float


@dataclass(frozen=True, slots=True)
class Terms:
    """What the books of a chunk share.

    Args:
        model: Risk model; knows every name.
        curve: Memberships for the tier bands.
        shocks: Total return by security, on the model's axis, of every scenario.
        half_spread_bps: By security; absent where the table has none.
    """

    model: RiskModel
    curve: Curve
    shocks: Mapping[str, Float[np.ndarray, " n_securities"]]
    half_spread_bps: Mapping[str, float]


def state_problem(
    portfolio_id: str,
    *,
    weights: Mapping[str, float],
    benchmark: Mapping[str, float] | None,
    mandate: Mandate,
    terms: Terms,
) -> Problem:
    """Turn a book and its mandate into numbers.

    Args:
        portfolio_id: The book.
        weights: Today's weights by name, cash excluded.
        benchmark: Benchmark weights by name; None keeps the book near itself.
        mandate: Limits, costs, aversion, buy list.
        terms: Model, curve, shocks, spreads; a security without a spread pays the mandate's.

    Raises:
        AlignmentError: the model does not know a name of the benchmark or the buy list.
        ModelError: a budget is active and there is no benchmark.
    """
    model = terms.model
    limits = mandate.limits
    names = Axis.of("security", {*weights, *(benchmark or {}), *mandate.buy_list, *limits.weights})
    if absent := model.securities.missing(names.labels):
        raise AlignmentError("security", absent, f"candidates of {portfolio_id}")
    at = model.securities.positions(names.labels, portfolio_id)
    start = np.array([weights.get(name, 0.0) for name in names.labels])
    band = {name: limits.weights.get(name) for name in names.labels}
    lower = np.array([b.min if b else 0.0 for b in band.values()])
    upper = np.array([b.max if b else limits.max_weight for b in band.values()])
    costs = np.array([terms.half_spread_bps.get(name, mandate.costs.half_spread_bps) for name in names.labels]) / 1e4
    root, specific = _risk(model, at)
    index = None if benchmark is None else np.array([benchmark.get(name, 0.0) for name in names.labels])
    rows, ids, bounds = _rows(names, mandate, terms.curve, {s: shock[at] for s, shock in terms.shocks.items()}, index)
    return Problem(
        portfolio_id=portfolio_id,
        names=names,
        start=start,
        benchmark=start if index is None else index,
        lower=lower,
        upper=upper,
        costs=costs,
        years=mandate.costs.holding_years,
        aversion=mandate.risk_aversion,
        root=root,
        specific=specific,
        row_ids=ids,
        rows=rows,
        bounds=bounds,
        spendable=1.0 - limits.cash.min,
        turnover=limits.turnover,
    )


def _risk(
    model: RiskModel, at: np.ndarray
) -> tuple[Float[np.ndarray, "n_names n_columns"], Float[np.ndarray, " n_names"]]:
    """``R`` and ``d`` with ``R R' + diag(d) = Sigma`` on the names (MATH 6)."""
    values, vectors = np.linalg.eigh(model.factor_covariance)
    root = model.exposures[at] @ (vectors * np.sqrt(np.maximum(values, 0.0)))
    specific = model.specific_variance[at].copy()
    issuers, counts = np.unique(model.issuers[at], return_counts=True)
    shared = issuers[counts > 1]
    columns = (model.issuers[at][:, None] == shared[None, :]) * np.sqrt(specific)[:, None]
    specific[np.isin(model.issuers[at], shared)] = 0.0
    return np.hstack([root, columns]), specific


def _rows(
    names: Axis,
    mandate: Mandate,
    curve: Curve,
    shocks: Mapping[str, Float[np.ndarray, " n"]],
    benchmark: Float[np.ndarray, " n"] | None,
) -> tuple[Float[np.ndarray, "n_rows n_names"], tuple[str, ...], Float[np.ndarray, " n_rows"]]:
    """Linear limits ``A x <= b`` in a fixed order, each with its id."""
    limits = mandate.limits
    shares = curve.shares(names)
    rows, ids, bounds = [-np.ones(len(names))], ["cash:max"], [limits.cash.max - 1.0]
    for tier, band in sorted(limits.tiers.items()):
        share = shares[:, curve.buckets.labels.index(tier)]
        if band.max < 1.0:
            rows, ids, bounds = [*rows, share], [*ids, f"tier:{tier}:max"], [*bounds, band.max]
        if band.min > 0.0:
            rows, ids, bounds = [*rows, -share], [*ids, f"tier:{tier}:min"], [*bounds, -band.min]
    for budget in sorted(limits.stress, key=lambda b: b.scenario):
        row, bound = -shocks[budget.scenario], budget.max_loss
        if budget.kind == "active":
            if benchmark is None:
                raise ModelError(f"mandate {mandate.id}: {budget.limit_id} needs a benchmark, and the book has none")
            bound += float(row @ benchmark)
        rows, ids, bounds = [*rows, row], [*ids, budget.limit_id], [*bounds, bound]
    return np.array(rows), tuple(ids), np.array(bounds)
