"""A day the model has not seen: its shock applied to the model of the day before, and scored."""

import datetime as dt
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float
from scipy.special import ndtri

from engine.conventions import MARKET
from engine.curve.factors import basket_weights, market_returns
from engine.curve.returns import ReturnPanel, build_returns
from engine.curve.universe import Universe
from engine.errors import CalibrationError
from engine.intake import Notice, screen
from engine.risk.calibration import Calibration, calibrate
from engine.scenarios.scenario import Scenario, ScenarioBody, View
from engine.stress.propagation import Shock, propagate


@dataclass(frozen=True, slots=True)
class Backtest:
    """How well a model of the day before predicts the names, given the market and the baskets.

    Args:
        as_of: Last day the model saw.
        event_date: The day scored.
        scores: ``n r2 rank_correlation sign_accuracy band_coverage r2_market_only`` over the
            scoring set: stocks with a GICS sector that are in no basket.
        names: ``security_id predicted realised band_low band_high in_basket scored``.
        notices: What was noticed in the prices.
    """

    as_of: dt.date
    event_date: dt.date
    scores: dict[str, float]
    names: pl.DataFrame
    notices: tuple[Notice, ...]


def backtest_event(
    prices: pl.DataFrame, universe: Universe, *, event_date: dt.date, band: float, source: str = "prices"
) -> Backtest:
    """Calibrate on the days before an event, apply its market and basket returns, score all names.

    The shock is a scenario of total views on the market and on every tier, read directly
    (``propagation: none``). ``r2 = 1 - SSE / SST`` with SST about the mean of the scoring
    set; the band is ``predicted -+ z sqrt(d_i / 252)`` with the tail scale fitted before.

    Args:
        prices: Table ``prices`` as read.
        universe: Tiers, securities, settings.
        event_date: The day to score; nothing of it reaches the calibration.
        band: Probability that a band holds.
        source: File of the prices, for the messages.

    Raises:
        CalibrationError: no prices on the event date, a basket without return on it, or a
            history too short before it.
    """
    if prices.schema.get("date") != pl.Date:
        screen(prices, "prices", source, by="security_id")
    before = prices.filter(pl.col("date") < event_date)
    last = before["date"].max()
    if not isinstance(last, dt.date):
        raise CalibrationError(f"{source}: no price before {event_date}; a back-test needs a history")
    calibration = calibrate(before, universe, as_of=last, source=source)
    day, notices = build_returns(prices, universe.securities, as_of=event_date, history_days=1, source=source)
    if day.dates != (event_date,):
        raise CalibrationError(
            f"{source}: {event_date} is not a trading day of these prices; the last before it is {day.dates[-1]}"
        )
    shock = propagate(_observed_scenario(day, universe, event_date), calibration.model, calibration.curve)
    names = _score_names(calibration, shock, day, universe, band)
    scored = names.filter("scored")
    if scored.height < 3:
        raise CalibrationError(f"{event_date}: {scored.height} names can be scored; at least 3 are needed")
    return Backtest(
        as_of=calibration.model.as_of,
        event_date=event_date,
        scores=_scores(scored),
        names=names.drop("market_only"),
        notices=tuple(dict.fromkeys((*calibration.notices, *notices))),
    )


def _observed_scenario(day: ReturnPanel, universe: Universe, event_date: dt.date) -> Scenario:
    market = float(market_returns(day, universe)[0])
    views = [View(factor=MARKET, value=market, source="observed")]
    faults = [] if np.isfinite(market) else [f"the market has no return on {event_date}"]
    for tier in universe.settings.tiers:
        members = np.array([name in tier.core for name in day.securities.labels])
        seen = members & np.isfinite(day.values[0])
        weights = basket_weights(day, universe, members)
        if not seen.any() or not weights[seen].sum() > 0.0:
            faults.append(f"no core name of tier {tier.id} has a return on {event_date}")
            continue
        total = float(weights[seen] @ day.values[0, seen] / weights[seen].sum())
        views.append(View(tier=tier.id, total=total, source="observed"))
    if faults:
        raise CalibrationError("; ".join(faults))
    body = ScenarioBody(
        id="observed",
        title=f"Market and baskets of {event_date}",
        version="1.0.0",
        kind="shock",
        horizon_days=1,
        narrative="What the market and each basket did.",
        author="engine",
        propagation="none",
        views=tuple(views),
    )
    return Scenario(body, "")


def _score_names(
    calibration: Calibration, shock: Shock, day: ReturnPanel, universe: Universe, band: float
) -> pl.DataFrame:
    model = calibration.model
    scale = model.tails.specific_scale(shock.distance_squared, shock.views_counted)
    half = ndtri(0.5 + band / 2.0) * scale * np.sqrt(model.specific_variance * shock.views.years)
    predicted = pl.DataFrame(
        {
            "security_id": model.securities.labels,
            "predicted": shock.total,
            "band_low": shock.total - half,
            "band_high": shock.total + half,
            "market_only": model.exposures[:, 0] * shock.factors[0],
        }
    )
    realised = pl.DataFrame({"security_id": day.securities.labels, "realised": day.values[0]})
    core = sorted(universe.settings.core)
    table = universe.securities.select("security_id", "kind", "gics_sector")
    return (
        predicted.join(realised.filter(pl.col("realised").is_finite()), on="security_id", validate="1:1")
        .join(table, on="security_id", validate="1:1")
        .with_columns(pl.col("security_id").is_in(core).alias("in_basket"))
        .with_columns(
            ((pl.col("kind") == "stock") & pl.col("gics_sector").is_not_null() & ~pl.col("in_basket")).alias("scored")
        )
        .select("security_id", "predicted", "realised", "band_low", "band_high", "in_basket", "scored", "market_only")
        .sort("security_id")
    )


def _scores(scored: pl.DataFrame) -> dict[str, float]:
    realised, predicted = scored["realised"].to_numpy(), scored["predicted"].to_numpy()
    inside: Bool[np.ndarray, " n"] = (scored["band_low"].to_numpy() <= realised) & (
        realised <= scored["band_high"].to_numpy()
    )
    return {
        "n": float(scored.height),
        "r2": explained(realised, predicted),
        "rank_correlation": rank_correlation(realised, predicted),
        "sign_accuracy": float(np.mean(np.sign(realised) == np.sign(predicted))),
        "band_coverage": float(inside.mean()),
        "r2_market_only": explained(realised, scored["market_only"].to_numpy()),
    }


def explained(realised: Float[np.ndarray, " n"], predicted: Float[np.ndarray, " n"]) -> float:
    """``1 - SSE / SST`` with SST about the mean of ``realised``. Oracle: sklearn ``r2_score``."""
    return float(1.0 - ((realised - predicted) ** 2).sum() / ((realised - realised.mean()) ** 2).sum())


def rank_correlation(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Spearman's: the correlation of average ranks. Oracle: ``scipy.stats.spearmanr``."""
    ranks = [pl.Series(values).rank("average").to_numpy() for values in (x, y)]
    if any(np.ptp(rank) == 0.0 for rank in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
