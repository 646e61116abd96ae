"""The books on which a risk model is validated: fixed weights, chosen before any return is seen."""

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from engine.axes import Axis
from engine.curve.universe import Universe
from engine.risk.model import RiskModel

LONG_ONLY_BOOKS: Final = 100
LONG_SHORT_BOOKS: Final = 20
NAMES_A_SIDE: Final = 30
MINIMUM_RISK: Final = "minimum_risk"
"""The one book that is not fixed: each model has its own."""

GROUPS: Final = ("tier", "spread", "sector", "random_long", "random_long_short", "market", MINIMUM_RISK)


@dataclass(frozen=True, slots=True)
class FixedBooks:
    """Books of NAV 1 on one axis of securities.

    Args:
        books: Axis of the rows, e.g. ``tier:ai_semis``, ``random:007``.
        groups: Group of each book, out of ``GROUPS``.
        securities: Axis of the columns.
        weights: ``(n_books, n_securities)``, fraction of NAV; longs sum to 1 or to 0, shorts to -1 or 0.
    """

    books: Axis
    groups: tuple[str, ...]
    securities: Axis
    weights: Float[np.ndarray, "n_books n_securities"]

    def among(self, names: Axis) -> Float[np.ndarray, "n_books n_names"]:
        """The weights on the names of a model, each side scaled to what it was.

        A side of which no name is known is left empty: a book with an empty side has no weights.
        """
        column = {label: i for i, label in enumerate(self.securities.labels)}
        at = np.array([column.get(name, -1) for name in names.labels], dtype=np.int64)
        known = np.where(at >= 0, self.weights[:, at], 0.0)
        longs, shorts = np.maximum(known, 0.0), np.minimum(known, 0.0)
        whole = True
        out = np.zeros_like(known)
        for part, all_of_it in ((longs, np.maximum(self.weights, 0.0)), (shorts, np.minimum(self.weights, 0.0))):
            have, want = part.sum(axis=1, keepdims=True), all_of_it.sum(axis=1, keepdims=True)
            out += np.divide(part * want, have, out=np.zeros_like(part), where=have != 0.0)
            whole = whole & ((have != 0.0) | (want == 0.0))
        return np.where(whole, out, 0.0)


def choose_books(universe: Universe, seed: int) -> FixedBooks:
    """Each tier, the first tier against the last, sectors, random books and the market.

    Tiers are weighted as their baskets, sectors equally (stocks with a ``gics_sector``; none, no
    book), the market by cap or the named proxy. A random long-only book holds 30 stocks
    (a third of all where there are fewer than 90) with uniform random weights; a long-short one
    two such halves without a common name. No price or return has a say.

    Args:
        universe: Tiers, securities, settings.
        seed: Of the random books; the same seed and stocks give the same books to the bit.
    """
    table = universe.securities
    axis = Axis("security", tuple(table["security_id"].to_list()))
    stock = (table["kind"] == "stock").to_numpy()
    caps = np.where(stock, table["market_cap_base"].fill_null(0.0).to_numpy(), 0.0)
    rows = _tier_rows(universe, axis, caps)
    first, last = universe.settings.tier_ids[0], universe.settings.tier_ids[-1]
    rows.append((f"spread:{first}.{last}"[:64], "spread", rows[0][2] - rows[-1][2]))
    rows += _sector_rows(table, stock)
    rows += _random_rows(stock, seed)
    proxy = universe.settings.market.proxy
    market = np.array([name == proxy for name in axis.labels], dtype=np.float64) if proxy else caps
    rows.append(("market", "market", market))
    kept = [row for row in rows if row[2].any()]
    weights = np.vstack([_scaled(row[2]) for row in kept])
    return FixedBooks(Axis("book", tuple(row[0] for row in kept)), tuple(row[1] for row in kept), axis, weights)


def minimum_risk_weights(model: RiskModel, allowed: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The fully invested book of least predicted variance, shorts allowed.

    ``w ~ Sigma^-1 1`` on the allowed names, by ``Sigma^-1 = D^-1 - D^-1 B (I + F B'D^-1 B)^-1 F B'D^-1``.
    Of the lines of one issuer the first is held: they share one specific return, so that D has no
    inverse with all of them. Names without specific variance are left out.

    Args:
        model: Risk model.
        allowed: On the model's securities, which may be held.

    Returns:
        Weights that sum to 1; all zero where no name may be held.

    References:
        Oracle: ``numpy.linalg.solve`` on the dense covariance, tests/test_validation.py.
    """
    usable = np.flatnonzero(allowed & (model.specific_variance > 0.0))
    _, first = np.unique(model.issuers[usable], return_index=True)
    held = usable[np.sort(first)]
    weights = np.zeros(len(model.securities))
    if not held.size:
        return weights
    b, inverse = model.exposures[held], 1.0 / model.specific_variance[held]
    scaled = b * inverse[:, None]
    inner = np.eye(b.shape[1]) + model.factor_covariance @ (b.T @ scaled)
    raw = inverse - scaled @ np.linalg.solve(inner, model.factor_covariance @ scaled.sum(axis=0))
    weights[held] = raw / raw.sum()
    return weights


_Row = tuple[str, str, Float[np.ndarray, " n"]]


def _tier_rows(universe: Universe, axis: Axis, caps: Float[np.ndarray, " n"]) -> list[_Row]:
    rows: list[_Row] = []
    for tier in universe.settings.tiers:
        weights = np.zeros(len(axis))
        core = axis.positions(tier.core, "core")
        equal = universe.settings.calibration.basket_weights == "equal"
        weights[core] = 1.0 if equal else np.sqrt(caps[core])
        rows.append((f"tier:{tier.id}", "tier", weights / max(weights.sum(), np.finfo(float).tiny)))
    return rows


def _sector_rows(table: pl.DataFrame, stock: Bool[np.ndarray, " n"]) -> list[_Row]:
    words = [re.sub(r"[^A-Za-z0-9]+", "-", sector or "").strip("-") for sector in table["gics_sector"].to_list()]
    rows: list[_Row] = []
    for sector in sorted({word for word, is_stock in zip(words, stock, strict=True) if word and is_stock}):
        members = np.array([word == sector for word in words]) & stock
        rows.append((f"sector:{sector}"[:64], "sector", members.astype(np.float64)))
    return rows


def _random_rows(stock: Bool[np.ndarray, " n"], seed: int) -> list[_Row]:
    rng = np.random.default_rng(seed)
    pool = np.flatnonzero(stock)
    size = max(min(NAMES_A_SIDE, len(pool) // 3), 1)
    rows: list[_Row] = []
    for number in range(LONG_ONLY_BOOKS):
        weights = np.zeros(len(stock))
        weights[rng.choice(pool, size, replace=False)] = rng.uniform(size=size)
        rows.append((f"random:{number:03}", "random_long", weights))
    for number in range(LONG_SHORT_BOOKS if len(pool) >= 2 else 0):
        weights = np.zeros(len(stock))
        chosen = rng.choice(pool, 2 * size if len(pool) >= 2 * size else 2, replace=False)
        half, sizes = len(chosen) // 2, rng.uniform(size=len(chosen))
        weights[chosen[:half]] = sizes[:half] / sizes[:half].sum()
        weights[chosen[half:]] = -sizes[half:] / sizes[half:].sum()
        rows.append((f"long_short:{number:02}", "random_long_short", weights))
    return rows


def _scaled(weights: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Longs summing to 1 and shorts to -1, where there are any."""
    out = np.zeros_like(weights)
    for part in (np.maximum(weights, 0.0), np.minimum(weights, 0.0)):
        if part.any():
            out += part / np.abs(part.sum())
    return out
