"""What an overlay does to each book: loss, cost, what it leaves open, and what a rebound would cost."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from engine.conventions import FEASIBILITY
from engine.risk.portfolios import Portfolios
from engine.stress.hedge import Candidates, Overlay, Room
from engine.stress.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Hedged:
    """Books, the loss that each may have, and the overlay found for it; one row a book.

    Args:
        portfolios: The books that have a budget.
        outcome: The scenario.
        rebound: What may follow it; None where the library has no such story.
        candidates: What could be traded.
        columns: Their positions on the model's axis.
        room: Their caps.
        overlay: The answer.
        losses: ``(m,)``, measured loss before, of the budget's kind.
        budgets: ``(m,)``.
        added: ``(m,)``, what the overlay adds to the specific risk of a book whose budget counts that; 0 for others.
    """

    portfolios: Portfolios
    outcome: Outcome
    rebound: Outcome | None
    candidates: Candidates
    columns: Int[np.ndarray, " n"]
    room: Room
    overlay: Overlay
    losses: Float[np.ndarray, " m"]
    budgets: Float[np.ndarray, " m"]
    added: Float[np.ndarray, " m"]

    @property
    def losses_after(self) -> Float[np.ndarray, " m"]:
        """Measured loss with the overlay."""
        return self.losses + self.added - self.overlay.weights @ self.candidates.moves

    @property
    def inside(self) -> Bool[np.ndarray, " m"]:
        """Books that need no overlay."""
        return self.losses <= self.budgets + FEASIBILITY

    @property
    def out_of_reach(self) -> Bool[np.ndarray, " m"]:
        """Books that the candidates cannot bring inside."""
        return ~self.inside & (self.losses_after > self.budgets + FEASIBILITY)

    @property
    def lines(self) -> csr_array:
        """The overlay on the model's axis, a fund as one name."""
        rows, at = np.nonzero(self.overlay.weights)
        shape = (len(self.portfolios.ids), len(self.portfolios.model.securities))
        return csr_array((self.overlay.weights[rows, at], (rows, self.columns[at])), shape=shape)


def tabulate_hedges(hedged: Hedged, kinds: list[str], objective: str) -> dict[str, pl.DataFrame]:
    """Tables ``hedges``, ``hedge_trades`` and ``hedge_exposures``, each sorted by key.

    With overlay ``h`` and shock ``r`` the loss after is ``loss - h'r``, with what ``h`` adds to the specific risk where
    the budget counts that as loss. The basis risk is
    ``sqrt(V(h))`` with ``V`` the variance over the horizon that the scenario leaves open: how far the
    overlay's own gain scatters around ``h'r`` when the scenario holds; beside it that of the book
    before and after, ``sqrt(V(w))`` and ``sqrt(V(w + h))``. Annual: the overlay's specific volatility
    ``sqrt(h'Dh)`` and the model's volatility before and after. A rebound ``r2`` that follows moves
    what the shock has left of the overlay: ``sum h_i (1 + r_i) r2_i``.

    Args:
        hedged: Books with their overlays.
        kinds: Kind of each book's budget.
        objective: What was least.

    References:
        Oracle: sums name by name from the table ``shocks`` and dense algebra, tests/test_hedge.py.
    """
    books, overlay, candidates = hedged.portfolios, hedged.overlay, hedged.candidates
    traded = overlay.weights
    cost = np.abs(traded) @ candidates.unit_cost
    status = np.where(hedged.inside, "inside", np.where(hedged.out_of_reach, "out_of_reach", "hedged"))
    summary = pl.DataFrame(
        {
            "portfolio_id": books.ids.labels,
            "scenario_id": [hedged.outcome.scenario.id] * len(books.ids),
            "nav_base": books.nav,
            "objective": [objective] * len(books.ids),
            "status": status.tolist(),
            "budget": hedged.budgets,
            "budget_kind": kinds,
            "loss_before": hedged.losses,
            "loss_after": hedged.losses_after,
            "reachable_loss": hedged.losses - overlay.reachable,
            "trades": np.count_nonzero(traded, axis=1),
            "gross": np.abs(traded).sum(axis=1),
            "cost_base": cost * books.nav,
            "cost_frac": cost,
            "least_cost_frac": pl.Series(overlay.least_cost, nan_to_null=True),
            "proven": overlay.proven,
            **_risks(hedged),
            **_rebound(hedged),
        }
    )
    summary = summary.with_columns(pl.when(pl.col("status") == "hedged").then("proven").alias("proven"))
    names = books.table.select("portfolio_id", "name")
    return {
        "hedges": summary.join(names, on="portfolio_id", how="left", validate="1:1").sort(
            "portfolio_id", "scenario_id"
        ),
        "hedge_trades": _trades(hedged),
        "hedge_exposures": _exposures(hedged),
    }


def _seen_through(hedged: Hedged) -> csr_array:
    lines, funds = hedged.lines, hedged.portfolios.funds
    return lines if funds is None else csr_array(lines @ funds)


def _risks(hedged: Hedged) -> dict[str, Float[np.ndarray, " m"]]:
    books, outcome, model = hedged.portfolios, hedged.outcome, hedged.portfolios.model
    added = _seen_through(hedged)
    after = csr_array(books.weights + added)

    def annual(weights: csr_array) -> Float[np.ndarray, " m"]:
        b = weights @ model.exposures
        common = np.einsum("pk,kl,pl->p", b, model.factor_covariance, b)
        return np.sqrt(np.maximum(common + model.specific_variances(weights), 0.0))

    return {
        "basis_risk": np.sqrt(outcome.open_variance(added)),
        "open_risk_before": np.sqrt(outcome.open_variance(books.weights)),
        "open_risk_after": np.sqrt(outcome.open_variance(after)),
        "specific_volatility": np.sqrt(model.specific_variances(added)),
        "volatility_before": annual(books.weights),
        "volatility_after": annual(after),
    }


def _rebound(hedged: Hedged) -> dict[str, pl.Series]:
    n = len(hedged.portfolios.ids)
    if hedged.rebound is None:
        return {
            "rebound_id": pl.Series([None] * n, dtype=pl.String),
            "rebound_pnl": pl.Series([None] * n, dtype=pl.Float64),
        }
    total, funds = hedged.rebound.total, hedged.portfolios.funds
    later = (total if funds is None else funds @ total)[hedged.columns]
    left = hedged.overlay.weights * (1.0 + hedged.candidates.moves)
    return {"rebound_id": pl.Series([hedged.rebound.scenario.id] * n), "rebound_pnl": pl.Series(left @ later)}


def _trades(hedged: Hedged) -> pl.DataFrame:
    candidates, weights = hedged.candidates, hedged.overlay.weights
    rows, at = np.nonzero(weights)
    h, nav = weights[rows, at], hedged.portfolios.nav[rows]
    cap = np.where(h > 0.0, hedged.room.bought[rows, at], hedged.room.sold[rows, at])
    cost = np.abs(h) * candidates.unit_cost[at]
    books = np.array(hedged.portfolios.ids.labels, dtype=object)
    names = np.array(candidates.names.labels, dtype=object)
    return pl.DataFrame(
        {
            "portfolio_id": pl.Series(books[rows].tolist(), dtype=pl.String),
            "scenario_id": pl.Series([hedged.outcome.scenario.id] * len(rows), dtype=pl.String),
            "security_id": pl.Series(names[at].tolist(), dtype=pl.String),
            "side": pl.Series(np.where(h > 0.0, "buy", "sell").tolist(), dtype=pl.String),
            "weight": h,
            "notional_base": np.abs(h) * nav,
            "shock": candidates.moves[at],
            "pnl_frac": h * candidates.moves[at],
            "cost_frac": cost,
            "cost_base": cost * nav,
            "adv_share": pl.Series(np.abs(h) * nav / candidates.daily_volume[at], nan_to_null=True),
            "at_cap": np.abs(h) >= cap * (1.0 - FEASIBILITY),
        }
    ).sort("portfolio_id", "scenario_id", "security_id")


def _exposures(hedged: Hedged) -> pl.DataFrame:
    books, factors = hedged.portfolios, hedged.portfolios.model.factors.labels
    before = books.exposures
    overlay = _seen_through(hedged) @ books.model.exposures
    return pl.DataFrame(
        {
            "portfolio_id": [book for book in books.ids.labels for _ in factors],
            "scenario_id": [hedged.outcome.scenario.id] * before.size,
            "factor": list(factors) * len(books.ids),
            "before": before.ravel(),
            "overlay": overlay.ravel(),
            "after": (before + overlay).ravel(),
        }
    ).sort("portfolio_id", "scenario_id", "factor")
