"""How far from ordinary a scenario is: distance, tail probability, precedents, extrapolation, guard-rails."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from engine.contracts import CONTRACTS
from engine.conventions import TRADING_DAYS
from engine.curve.universe import StressSettings
from engine.risk.attribution import loss_probabilities
from engine.risk.history import FactorHistory
from engine.risk.portfolios import Portfolios
from engine.scenarios.kinds import DriversBody, ShockBody
from engine.stress.outcome import Outcome
from engine.stress.precedents import Precedents, find_precedents
from engine.stress.propagation import Shock


@dataclass(frozen=True, slots=True)
class Plausibility:
    """Figures that stand beside every loss of a scenario.

    Args:
        distance: Mahalanobis distance of what is applied; None of a tree, whose leaves have theirs.
        tail_probability: Chance of a move at least that far over the horizon, by the t.
        extrapolations: ``(n_factors,)``, factor move applied over the largest seen, horizon-scaled.
        explained: ``(n_factors,)``, ``1 - Cov[f]_kk / F_kk``: the share of each factor's variance
            that the views explain; NaN where the factor has none.
        propagation_r2: ``1 - trace Cov[f] / trace F``, all factors together; None without variance.
        condition: Largest condition number of the views' covariance.
        views: Numbers that are stated.
    """

    distance: float | None
    tail_probability: float | None
    extrapolations: Float[np.ndarray, " n_factors"]
    explained: Float[np.ndarray, " n_factors"]
    propagation_r2: float | None
    condition: float
    views: int

    @property
    def extrapolation(self) -> float:
        """The largest of all factors."""
        return float(self.extrapolations.max(initial=0.0))


def weigh_plausibility(outcome: Outcome) -> Plausibility:
    """Distance ``sqrt(D^2)``, its multivariate t tail, the extrapolation and the share explained.

    ``D^2`` has no sign: a rally as large is as far. Its degrees are the number of views
    under full conditional propagation, otherwise the number of factors plus the issuers
    that are moved, because what is not named is then stated to stay still. The share
    explained is that of the views, whether or not what they explain is propagated. The
    steps of a path are independent: ``D^2``, degrees and variances add up; its extrapolation
    is the largest of a step. Of a tree the figures of its leaves are gathered the same way,
    but no distance, because it is no single move.

    References:
        MATH.md 4. Oracle: ``scipy.stats.f.sf``, tests/test_oracles.py, tests/test_precedents.py.
    """
    model = outcome.model
    shocks = [layer.shock for layer in outcome.layers]
    before = np.diag(model.factor_covariance) * sum(shock.views.years for shock in shocks)
    open_variance = np.sum([np.diag(shock.open_factors) for shock in shocks], axis=0)
    left = np.divide(open_variance, before, out=np.full_like(before, np.nan), where=before > 0.0)
    overall = 1.0 - open_variance.sum() / before.sum() if before.sum() > 0.0 else None
    distance, tail = None, None
    if not outcome.branches:
        squared = sum(shock.distance_squared for shock in shocks)
        distance = float(np.sqrt(squared))
        tail = model.tails.tail_probability(squared, sum(shock.views_counted for shock in shocks))
    return Plausibility(
        distance=distance,
        tail_probability=tail,
        extrapolations=np.max([_extrapolations(shock) for shock in shocks], axis=0),
        # A factor that is stated leaves nothing open up to rounding, which may fall on either side of 0.
        explained=np.clip(1.0 - left, 0.0, 1.0),
        propagation_r2=None if overall is None else float(np.clip(overall, 0.0, 1.0)),
        condition=max(shock.condition for shock in shocks),
        views=sum(len(shock.views.values) for shock in shocks),
    )


def summarise_scenarios(
    outcomes: list[Outcome], history: FactorHistory, settings: StressSettings
) -> dict[str, pl.DataFrame]:
    """The tables ``scenario_summary``, one row a scenario, and ``scenario_factors``.

    The precedents are those of the single shock; of several days or steps, those of the
    farthest; of a tree there are none.

    Args:
        outcomes: One a scenario.
        history: Past of the factors, for the precedents.
        settings: The guard-rails.
    """
    rows, factors = [], []
    for outcome in outcomes:
        body, figures = outcome.scenario.body, weigh_plausibility(outcome)
        outside = _outside(outcome, figures, settings)
        farthest = max((layer.shock for layer in outcome.layers), key=lambda shock: shock.distance_squared)
        rows.append(
            {
                "scenario_id": body.id,
                "title": body.title,
                "kind": body.kind,
                "version": body.version,
                "sha256": outcome.scenario.sha256,
                "horizon_days": body.horizon_days,
                "propagation": body.propagation if isinstance(body, ShockBody | DriversBody) else None,
                "distance": figures.distance,
                "views": figures.views,
                "tail_probability": figures.tail_probability,
                "condition": figures.condition,
                "extrapolation": figures.extrapolation,
                "propagation_r2": figures.propagation_r2,
                **({} if outcome.branches else _precedent_columns(find_precedents(farthest, history))),
                "outside_guard_rails": bool(outside),
                "guard_rails": "; ".join(outside) or None,
            }
        )
        factors.append(_factor_rows(outcome, figures))
    return {
        "scenario_summary": pl.DataFrame(rows, schema=CONTRACTS["scenario_summary"].columns).sort("scenario_id"),
        "scenario_factors": pl.concat(factors).sort("scenario_id", "factor"),
    }


def _extrapolations(shock: Shock) -> Float[np.ndarray, " n_factors"]:
    seen = shock.model.largest_moves * np.sqrt(shock.views.years * TRADING_DAYS)
    return np.abs(shock.factors) / np.where(seen > 0.0, seen, np.inf)


def _precedent_columns(past: Precedents) -> dict[str, object]:
    return {
        "empirical_exceeded": past.exceeded,
        "empirical_days": past.days,
        "empirical_years": past.years,
        "empirical_low": past.low,
        "empirical_high": past.high,
        "nearest_dates": " ".join(map(str, past.dates)) or None,
        "nearest_cosines": " ".join(f"{cosine:.2f}" for cosine in past.cosines) or None,
    }


def _outside(outcome: Outcome, figures: Plausibility, settings: StressSettings) -> list[str]:
    """What lies outside the guard-rails, in words."""
    far = np.flatnonzero(figures.extrapolations > settings.max_extrapolation)
    words = [
        f"{outcome.model.factors.labels[k]} moves {figures.extrapolations[k]:.1f}x the largest seen "
        f"(at most {settings.max_extrapolation:g}x)"
        for k in far[np.argsort(-figures.extrapolations[far], kind="stable")]
    ]
    # Where nothing is propagated, nothing rests on what the views explain.
    propagated = any(layer.shock.views.propagated for layer in outcome.layers)
    explained = figures.propagation_r2 if propagated else None
    if explained is not None and explained < settings.min_propagation_r2:
        words.append(f"views explain {explained:.1%} of variance (at least {settings.min_propagation_r2:.1%})")
    if figures.condition > settings.max_condition:
        words.append(
            f"views nearly repeat each other, condition {figures.condition:.1e} (at most {settings.max_condition:g})"
        )
    return words


def _factor_rows(outcome: Outcome, figures: Plausibility) -> pl.DataFrame:
    labels = outcome.model.factors.labels
    return pl.DataFrame(
        {
            "scenario_id": [outcome.scenario.id] * len(labels),
            "factor": labels,
            "stated": outcome.stated_factors,
            "move": outcome.factors,
            "propagation_r2": pl.Series(figures.explained, nan_to_null=True),
            "extrapolation": figures.extrapolations,
        }
    )


def with_loss_probabilities(stress: pl.DataFrame, portfolios: Portfolios, outcomes: list[Outcome]) -> pl.DataFrame:
    """The table ``stress`` with ``loss_probability``: how often a book loses at least the stressed loss.

    ``P(loss >= l)`` over the scenario's own horizon, whatever causes the loss: ``D^2`` has no
    sign and knows no book. A gain is a loss below zero, so its probability is above a half.

    Args:
        stress: Columns ``portfolio_id``, ``scenario_id``, ``pnl_frac``; other columns stay.
        portfolios: The books of those rows.
        outcomes: The scenarios of those rows.

    Returns:
        The same rows in the same order; null for a book without risk.

    References:
        MATH.md 4. Oracle: ``scipy.stats.t.sf``, tests/test_stress.py.
    """
    at = portfolios.ids.positions(stress["portfolio_id"], "stress")
    years = {outcome.scenario.id: outcome.scenario.body.horizon_days / TRADING_DAYS for outcome in outcomes}
    horizon = stress["scenario_id"].replace_strict(years, return_dtype=pl.Float64).to_numpy()
    b = portfolios.exposures
    factor_variance = np.einsum("pk,kl,pl->p", b, portfolios.model.factor_covariance, b)
    chances = loss_probabilities(
        -stress["pnl_frac"].to_numpy(),
        factor_variance[at] * horizon,
        portfolios.specific_variances()[at] * horizon,
        portfolios.model.tails,
    )
    return stress.with_columns(pl.Series("loss_probability", chances, nan_to_null=True))
