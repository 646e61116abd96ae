"""One book's rebalance as numbers: names, limits as rows, costs, risk in factor form."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from engine.axes import Axis
from engine.conventions import TRADING_DAYS, UNCLASSIFIED
from engine.curve.tiers import Curve
from engine.errors import AlignmentError, ModelError
from engine.mandates.mandate import (
    LARGEST_EXPOSURE,
    LEAST_COST,
    ActiveBand,
    Band,
    ExposureBand,
    LimitSet,
    Mandate,
)
from engine.rebalance.box import state_box
from engine.rebalance.concentration import LONG, SHORT, Concentration, state_concentrations
from engine.rebalance.cones import LEAF, Margin, Shortfall, Tree, state_margins, state_shortfalls
from engine.risk.model import RiskModel

BUDGET = "cash:min"
"""The budget row with costs: what is not spent stays at least the cash minimum."""

TURNOVER = "turnover"

GROSS = "gross"

TRACKING_ERROR = "tracking_error"

ACTIVE = "active_"
"""Kinds of limits that begin so limit the weights less the benchmark's."""

PARTS = (LEAF, LONG, SHORT)
"""What parts a limit's id from a part's in the id of a multiplier."""

WIDE = (-LARGEST_EXPOSURE, LARGEST_EXPOSURE)
"""A side of an exposure band that stands here was not given."""


@dataclass(frozen=True, slots=True)
class Problem:
    """The program of MATH 5 for one book, NAV 1, annual units.

    minimise ``gamma/2 |R'(x - xb)|^2 + gamma/2 sum d_i (x_i - xb_i)^2 - alpha'x
    + (k'|x - x0| + c'|x - x0|^(3/2)) / years + h'max(-x, 0)``
    subject to ``lo <= x <= up``, ``1'x + k'|x - x0| <= spendable``, ``A x <= b``,
    ``sum |x - x0| <= tau`` and ``sum |x| <= gross``, and the shortfalls, concentrations and margins, which are no rows.

    Args:
        portfolio_id: The book.
        names: Axis of the candidate names: holdings, benchmark, buy list; no cash.
        start: ``x0``, today's weights.
        benchmark: ``xb``; where there is none today's weights, or zero under ``mean_variance``.
        lower: ``lo``.
        upper: ``up``; below ``lo`` where two limits conflict on a name.
        lower_kinds: Kind of the limit that sets each ``lo``.
        upper_kinds: Kind of the limit that sets each ``up``.
        costs: ``k``, fraction of the traded value.
        impact: ``c``, 0 where the mandate leaves impact out; the budget does not pay it.
        borrow: ``h``, what a short costs a year; 0 where no name may be short.
        years: Holding period that spreads the costs.
        aversion: ``gamma``; 0 under ``least_cost``.
        alpha: Expected return a year.
        root: ``R``, ``(n_names, n_columns)``: exposures times a root of the factor
            covariance, then one column for each issuer with several lines.
        specific: ``d``, zero on the lines that have a column.
        row_ids: Limit id of each row.
        rows: ``A``, ``(n_rows, n_names)``.
        bounds: ``b``.
        spendable: 1 less the cash minimum.
        turnover: ``tau``.
        gross: The most of ``sum |x|``; None without a cap.
        tracking_error: ``te``, the most of ``sqrt((x - xb)'Sigma(x - xb))``; None without a cap.
        shortfalls: Limits on expected shortfall over the leaves of a tree.
        concentrations: Caps on the largest positions together.
        margins: Stress budgets that count specific risk as loss; they have no row.
    """

    portfolio_id: str
    names: Axis
    start: Float[np.ndarray, " n_names"]
    benchmark: Float[np.ndarray, " n_names"]
    lower: Float[np.ndarray, " n_names"]
    upper: Float[np.ndarray, " n_names"]
    lower_kinds: tuple[str, ...]
    upper_kinds: tuple[str, ...]
    costs: Float[np.ndarray, " n_names"]
    impact: Float[np.ndarray, " n_names"]
    borrow: Float[np.ndarray, " n_names"]
    years: float
    aversion: float
    alpha: Float[np.ndarray, " n_names"]
    root: Float[np.ndarray, "n_names n_columns"]
    specific: Float[np.ndarray, " n_names"]
    row_ids: tuple[str, ...]
    rows: Float[np.ndarray, "n_rows n_names"]
    bounds: Float[np.ndarray, " n_rows"]
    spendable: float
    turnover: float
    gross: float | None
    tracking_error: float | None
    shortfalls: tuple[Shortfall, ...] = ()
    concentrations: tuple[Concentration, ...] = ()
    margins: tuple[Margin, ...] = ()

    @property
    def cones(self) -> tuple[Shortfall | Concentration | Margin, ...]:
        """The limits that are no rows."""
        return (*self.shortfalls, *self.concentrations, *self.margins)

    def risk_slope(self, weights: Float[np.ndarray, " n_names"]) -> Float[np.ndarray, " n_names"]:
        """``Sigma (x - xb)``, half of what a unit of each name adds to the active variance."""
        active = weights - self.benchmark
        return self.root @ (self.root.T @ active) + self.specific * active

    def active_variance(self, weights: Float[np.ndarray, " n_names"]) -> float:
        """``(x - xb)'Sigma(x - xb)``, a year."""
        active = weights - self.benchmark
        return float(((self.root.T @ active) ** 2).sum() + self.specific @ active**2)

    def lower_id(self, i: int) -> str:
        """Limit id of the lowest weight of name ``i``."""
        return f"{self.lower_kinds[i]}:{self.names.labels[i]}:min"

    def upper_id(self, i: int) -> str:
        """Limit id of the highest weight of name ``i``."""
        return f"{self.upper_kinds[i]}:{self.names.labels[i]}:max"


def limit_of(multiplier: str) -> str:
    """The limit that a multiplier is of, be it of a leaf or of a position."""
    for part in PARTS:
        multiplier = multiplier.partition(part)[0]
    return multiplier


@dataclass(frozen=True, slots=True)
class Terms:
    """What the books of a chunk share.

    Args:
        model: Risk model; knows every name.
        curve: Memberships for the tier bands.
        shocks: Total return by security, on the model's axis, of every scenario.
        half_spread_bps: By security; absent where the table has none.
        sectors: By security; absent where the table lists none.
        volumes: Daily volume in base currency by security; absent where the table has none.
        trees: Leaves of every scenario that has any.
        horizons: Trading days of every scenario; a robust budget needs its scenario's.
        allotted: The most of a name that a book may trade today, base currency, by book and name: None
            without a cap, and nothing where a name is absent; None where no volume is shared out.
    """

    model: RiskModel
    curve: Curve
    shocks: Mapping[str, Float[np.ndarray, " n_securities"]]
    half_spread_bps: Mapping[str, float]
    sectors: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, float] = field(default_factory=dict)
    trees: Mapping[str, Tree] = field(default_factory=dict)
    horizons: Mapping[str, int] = field(default_factory=dict)
    allotted: Mapping[str, Mapping[str, float | None]] | None = None


def state_problem(
    portfolio_id: str,
    *,
    weights: Mapping[str, float],
    benchmark: Mapping[str, float] | None,
    mandate: Mandate,
    terms: Terms,
    nav: float | None = None,
) -> Problem:
    """Turn a book and its mandate into numbers.

    Args:
        portfolio_id: The book.
        weights: Today's weights by name, cash excluded.
        benchmark: Benchmark weights by name; None keeps the book near itself.
        mandate: Limits, costs, aversion, buy list.
        terms: Model, curve, shocks, spreads; a security without a spread pays the mandate's.
        nav: Base currency; a mandate that limits participation or charges impact needs it, and so does an allotment.

    Raises:
        AlignmentError: the model does not know a name of the benchmark or the buy list.
        ModelError: a limit is active and there is no benchmark, participation is limited or impact
            charged and there is no NAV, or a shortfall is limited on a scenario without leaves.
    """
    model = terms.model
    limits = mandate.limits
    names = Axis.of("security", {*weights, *(benchmark or {}), *mandate.buy_list, *limits.named})
    if absent := model.securities.missing(names.labels):
        raise AlignmentError("security", absent, f"candidates of {portfolio_id}")
    at = model.securities.positions(names.labels, portfolio_id)
    start = _by_name(names, weights)
    costs = np.array([terms.half_spread_bps.get(name, mandate.costs.half_spread_bps) for name in names.labels]) / 1e4
    if mandate.objective == "least_cost":
        costs = np.maximum(costs, LEAST_COST)
    unmeasured = np.zeros(len(names)) if mandate.objective == "mean_variance" else start
    root, specific = _risk(model, at)
    index = None if benchmark is None else _by_name(names, benchmark)
    if index is None and limits.active:
        raise ModelError(
            f"mandate {mandate.id}: {', '.join(limits.active)} need a benchmark, and {portfolio_id} has none"
        )
    capacity = _capacity(names, mandate, terms.volumes, nav)
    allotted = _allotted(portfolio_id, names, terms, nav)
    box = state_box(names, start=start, benchmark=index, limits=limits, capacity=capacity, allotted=allotted)
    shocks = {s: shock[at] for s, shock in terms.shocks.items()}
    trees = {s: replace(tree, totals=tree.totals[:, at]) for s, tree in terms.trees.items()}
    several = root[:, len(model.factors) :]
    tiers = dict(zip(terms.curve.buckets.labels, terms.curve.shares(names).T, strict=True))
    rows = [
        *_rows(names, mandate, tiers, shocks, index),
        *_bands(names, limits, tiers, terms, model.exposures[at], start if index is None else index),
    ]
    return Problem(
        portfolio_id=portfolio_id,
        names=names,
        start=start,
        benchmark=unmeasured if index is None else index,
        lower=box.lower,
        upper=box.upper,
        lower_kinds=box.lower_kinds,
        upper_kinds=box.upper_kinds,
        costs=costs,
        impact=_impact(names, (root**2).sum(axis=1) + specific, mandate, terms.volumes, nav),
        borrow=_borrow(names, mandate),
        years=mandate.costs.holding_years,
        aversion=0.0 if mandate.objective == "least_cost" else mandate.risk_aversion,
        alpha=_by_name(names, mandate.alpha),
        root=root,
        specific=specific,
        row_ids=tuple(row.limit_id for row in rows),
        rows=np.array([row.weights for row in rows]),
        bounds=np.array([row.bound for row in rows]),
        spendable=1.0 - limits.cash.min,
        turnover=limits.turnover,
        gross=limits.gross,
        tracking_error=limits.tracking_error,
        shortfalls=state_shortfalls(mandate, trees, index),
        concentrations=state_concentrations(limits, names, model.issuers[at]),
        margins=state_margins(mandate, shocks, terms.horizons, (specific, several), index),
    )


def _by_name(names: Axis, values: Mapping[str, float]) -> Float[np.ndarray, " n_names"]:
    """Values on the axis, 0 where a name has none; values of other names are left out."""
    if not values:
        return np.zeros(len(names))
    return np.array([values.get(name, 0.0) for name in names.labels], dtype=np.float64)


def _capacity(
    names: Axis, mandate: Mandate, volumes: Mapping[str, float], nav: float | None
) -> Float[np.ndarray, " n_names"] | None:
    """``participation ADV / NAV``: the largest trade of each name, 0 or no limit where no volume is known."""
    participation = mandate.limits.participation
    if participation is None:
        return None
    if nav is None:
        raise ModelError(f"mandate {mandate.id}: participation needs the NAV of the book")
    unknown = np.inf if participation.unknown_volume == "allow" else 0.0
    daily = np.array([volumes.get(name, np.nan) for name in names.labels])
    return np.where(np.isnan(daily), unknown, participation.max_share * daily / nav)


def _impact(
    names: Axis,
    variance: Float[np.ndarray, " n_names"],
    mandate: Mandate,
    volumes: Mapping[str, float],
    nav: float | None,
) -> Float[np.ndarray, " n_names"]:
    """``c``: coefficient times a day's volatility times ``sqrt(NAV / ADV)``, by name."""
    costs = mandate.costs
    if costs.impact == 0.0:
        return np.zeros(len(names))
    if nav is None:
        raise ModelError(f"mandate {mandate.id}: impact needs the NAV of the book")
    daily = np.array([volumes.get(name, 0.0) for name in names.labels])
    volume = np.where(daily > 0.0, daily, costs.unknown_volume_base)
    return costs.impact * np.sqrt(variance / TRADING_DAYS * nav / volume)


def _borrow(names: Axis, mandate: Mandate) -> Float[np.ndarray, " n_names"]:
    """``h``: what borrowing each name costs a year, fraction of what is short."""
    costs = mandate.costs
    if not mandate.limits.shorts:
        return np.zeros(len(names))
    if not costs.borrow_bps_of:
        return np.full(len(names), costs.borrow_bps / 1e4)
    return np.array([costs.borrow_bps_of.get(name, costs.borrow_bps) for name in names.labels]) / 1e4


def _allotted(portfolio_id: str, names: Axis, terms: Terms, nav: float | None) -> Float[np.ndarray, " n_names"] | None:
    """The largest trade of each name that the book's part of the firm's volume allows, fraction of NAV."""
    if terms.allotted is None:
        return None
    if nav is None:
        raise ModelError(f"{portfolio_id}: an allotment of volume needs the NAV of the book")
    own = terms.allotted.get(portfolio_id, {})
    money = [own.get(name, 0.0) for name in names.labels]
    return np.array([np.inf if most is None else most for most in money]) / nav


def _risk(
    model: RiskModel, at: np.ndarray
) -> tuple[Float[np.ndarray, "n_names n_columns"], Float[np.ndarray, " n_names"]]:
    """``R`` and ``d`` with ``R R' + diag(d) = Sigma`` on the names (MATH 6)."""
    values, vectors = np.linalg.eigh(model.factor_covariance)
    common = model.exposures[at] @ (vectors * np.sqrt(np.maximum(values, 0.0)))
    specific = model.specific_variance[at].copy()
    issuers, counts = np.unique(model.issuers[at], return_counts=True)
    shared = issuers[counts > 1]
    if not len(shared):
        return common, specific
    columns = (model.issuers[at][:, None] == shared[None, :]) * np.sqrt(specific)[:, None]
    specific[np.isin(model.issuers[at], shared)] = 0.0
    return np.hstack([common, columns]), specific


@dataclass(frozen=True, slots=True)
class _Row:
    """One linear limit ``weights'x <= bound``."""

    limit_id: str
    weights: Float[np.ndarray, " n_names"]
    bound: float


def _rows(
    names: Axis,
    mandate: Mandate,
    tiers: Mapping[str, Float[np.ndarray, " n"]],
    shocks: Mapping[str, Float[np.ndarray, " n"]],
    benchmark: Float[np.ndarray, " n"] | None,
) -> list[_Row]:
    """Cash, tiers and stress budgets in a fixed order."""
    limits = mandate.limits
    rows = [_Row("cash:max", -np.ones(len(names)), limits.most_cash - 1.0)]
    if limits.net is not None and limits.net.max < LARGEST_EXPOSURE:
        rows.append(_Row("net:max", np.ones(len(names)), limits.net.max))
    if limits.net is not None and limits.net.min > -LARGEST_EXPOSURE:
        rows.append(_Row("net:min", -np.ones(len(names)), -limits.net.min))
    for tier, band in sorted(limits.tiers.items()):
        share = tiers[tier]
        if band.max < 1.0:
            rows.append(_Row(f"tier:{tier}:max", share, band.max))
        if band.min > 0.0:
            rows.append(_Row(f"tier:{tier}:min", -share, -band.min))
    for budget in sorted(limits.stress, key=lambda b: b.scenario):
        if budget.robust > 0.0:
            continue
        row, bound = -shocks[budget.scenario], budget.max_loss
        if budget.kind == "active":
            if benchmark is None:
                raise ModelError(f"mandate {mandate.id}: {budget.limit_id} needs a benchmark, and the book has none")
            bound += float(row @ benchmark)
        rows.append(_Row(budget.limit_id, row, bound))
    return rows


def _bands(
    names: Axis,
    limits: LimitSet,
    tiers: Mapping[str, Float[np.ndarray, " n"]],
    terms: Terms,
    exposures: Float[np.ndarray, "n_names n_factors"],
    benchmark: Float[np.ndarray, " n_names"],
) -> list[_Row]:
    """Bands on sectors and factors, and on what is active, each side that binds a row.

    An active band ``min <= a'(x - xb) <= max`` becomes ``a'x <= max + a'xb`` and its mirror.
    """
    sectors = np.array([terms.sectors.get(name, UNCLASSIFIED) for name in names.labels], dtype=object)
    factors = terms.model.factors.labels
    # Kind, key, loading of each name, band, and the ends at which a side does not bind.
    bands: list[tuple[str, str, np.ndarray, Band | ActiveBand | ExposureBand, tuple[float, float]]] = [
        *(("active_tier", t, tiers[t], b, (-1.0, 1.0)) for t, b in limits.active_tiers.items()),
        *(("sector", s, (sectors == s).astype(float), b, (0.0, 1.0)) for s, b in limits.sectors.items()),
        *(("active_sector", s, (sectors == s).astype(float), b, (-1.0, 1.0)) for s, b in limits.active_sectors.items()),
        *(("factor", f, exposures[:, factors.index(f)], b, WIDE) for f, b in limits.factors.items()),
        *(("active_factor", f, exposures[:, factors.index(f)], b, WIDE) for f, b in limits.active_factors.items()),
    ]
    rows = []
    for kind, key, load, band, (lowest, highest) in sorted(bands, key=lambda band: band[:2]):
        own = float(load @ benchmark) if kind.startswith(ACTIVE) else 0.0
        if band.max < highest:
            rows.append(_Row(f"{kind}:{key}:max", load, band.max + own))
        if band.min > lowest:
            rows.append(_Row(f"{kind}:{key}:min", -load, -band.min - own))
    return rows
