"""A day the model has not seen: a shock applied to the model of the day before, and scored."""

import bisect
import datetime as dt
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Float
from scipy.sparse import eye_array
from scipy.special import ndtri

from engine.conventions import MARKET
from engine.curve.factors import market_returns
from engine.curve.returns import PriceHistory, ReturnPanel, read_history
from engine.curve.universe import Universe
from engine.errors import CalibrationError
from engine.intake import Notice, screen
from engine.risk.calibration import Calibration, calibrate_panel
from engine.risk.tails import Tails
from engine.scenarios.kinds import DriversBody, ReplayBody, ShockBody
from engine.scenarios.scenario import Scenario
from engine.scenarios.views import View
from engine.stress.outcome import Outcome, unfold
from engine.stress.replay import basket_totals

BOOKS: Final = 1000
BOOK_NAMES: Final = 40
"""Random books a day, and the names in each."""

MONTH_OF_DAYS: Final = 30
"""No month has more trading days: the tails of an event's month rest on days before that many."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the model is told of a day.

    Args:
        observed: The market and tiers whose realised returns are its views.
        propagation: How views that were observed are read: ``none`` or ``conditional``.
        scenario: Views with numbers of their own instead; nothing realised reaches them.
    """

    observed: tuple[str, ...] = ()
    propagation: str = "none"
    scenario: Scenario | None = None

    @classmethod
    def baskets(cls, universe: Universe) -> "Told":
        """The returns of the market and of every basket, read directly."""
        return cls((MARKET, *universe.settings.tier_ids))

    @property
    def horizon_days(self) -> int:
        """Trading days from the event that are scored."""
        return self.scenario.body.horizon_days if self.scenario else 1

    @property
    def subjects(self) -> frozenset[str]:
        """Factors and tiers that are stated."""
        return frozenset(self.observed) if self.scenario is None else _stated(self.scenario)


@dataclass(frozen=True, slots=True)
class Backtest:
    """How well a model of the day before predicts the names, given what it is told.

    Args:
        as_of: Last day the model saw.
        event_date: The day scored; the first one where the horizon is longer.
        scores: ``n r2 rank_correlation sign_accuracy band_coverage r2_market_only`` over the
            scoring set: stocks with a GICS sector that are in no basket.
        figures: ``gain`` (R2 less R2 of market beta alone), ``tier_spread`` (standard deviation
            of the baskets' returns), ``book_pnl``, ``book_error``, ``book_error_market_only``
            (mean absolute realised P&L and prediction errors of random books).
        tiers: ``tier stated predicted realised``, total returns of the baskets.
        names: ``security_id predicted realised band_low band_high in_basket scored``.
        notices: What was noticed in the prices.
    """

    as_of: dt.date
    event_date: dt.date
    scores: dict[str, float]
    figures: dict[str, float]
    tiers: pl.DataFrame
    names: pl.DataFrame
    notices: tuple[Notice, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """How days are scored.

    Args:
        told: What the model is told.
        band: Probability that a name's band holds.
        seed: Of the random books and control days.
    """

    told: Told
    band: float
    seed: int = 0


def backtest_event(
    prices: pl.DataFrame,
    universe: Universe,
    *,
    event_date: dt.date,
    band: float = 0.8,
    rules: Rules | None = None,
    source: str = "prices",
) -> Backtest:
    """Calibrate on the days before an event, apply what the model is told, score all names.

    By default the market's and every tier's return of the day, read directly. ``r2 = 1 - SSE
    / SST`` with SST about the mean of the scoring set; the band is ``predicted -+ z s`` with
    ``s^2`` what the views leave open, its tails fitted on days before the event's month.

    Args:
        prices: Table ``prices`` as read.
        universe: Tiers, securities, settings.
        event_date: The day to score; nothing of it reaches the calibration.
        band: Probability that a band holds, where there are no rules.
        rules: What the model is told; the market and the baskets when None.
        source: File of the prices, for the messages.

    Raises:
        CalibrationError: no prices on the event date, a basket without return on it, or a
            history too short before it.
        ConfigurationError: a scenario that the model of the day before does not know.
    """
    rules = rules or Rules(Told.baskets(universe), band)
    days = universe.settings.calibration.history_days + MONTH_OF_DAYS + rules.told.horizon_days
    history = read_around(prices, universe, last=event_date, days=days, rules=rules, source=source)
    tails = tails_before(history, universe, event_date)
    return score_day(history, universe, event_date=event_date, tails=tails, rules=rules)


def read_around(
    prices: pl.DataFrame, universe: Universe, *, last: dt.date, days: int, rules: Rules, source: str
) -> PriceHistory:
    """The trading days up to the end of the last event's horizon, ``days`` of them."""
    if prices.schema.get("date") != pl.Date:
        screen(prices, "prices", source, by="security_id")
    if not prices.filter(pl.col("date") < last).height:
        raise CalibrationError(f"{source}: no price before {last}; a back-test needs a history")
    until = last
    if rules.told.horizon_days > 1:
        after = prices.filter(pl.col("date") > last)["date"].unique().sort()
        # Twice the horizon leaves room for dates that are no trading days.
        until = after[: 2 * rules.told.horizon_days].max() or last  # type: ignore[assignment]
    return read_history(
        prices, universe.securities, until=until, days=days + 2 * rules.told.horizon_days, source=source
    )


def tails_before(history: PriceHistory, universe: Universe, event_date: dt.date) -> Tails | None:
    """Tails fitted on the days before the event's month, one fit a month; never on later days.

    None where those days are too few for a calibration: then each day's own panel, which
    ends the day before the event, serves.
    """
    before = history.dates[: bisect.bisect_left(history.dates, event_date.replace(day=1))]
    settings = universe.settings.calibration
    if len(before) <= settings.minimum_days:
        return None
    panel, _ = history.panel(as_of=before[-1], history_days=settings.history_days)
    try:
        return calibrate_panel(panel, universe, source=history.source).model.tails
    except CalibrationError:
        return None


def score_day(
    history: PriceHistory, universe: Universe, *, event_date: dt.date, tails: Tails | None, rules: Rules
) -> Backtest:
    """Score one day of a history; days after the horizon have no say.

    Args:
        history: Prices on one calendar.
        universe: Tiers, securities, settings.
        event_date: The day to score.
        tails: From ``tails_before``.
        rules: What the model is told, and how it is scored.

    Raises:
        CalibrationError, ConfigurationError: as ``backtest_event``.
    """
    return score_told(history, universe, calibrate_before(history, universe, event_date, tails), event_date, rules)


def calibrate_before(
    history: PriceHistory, universe: Universe, event_date: dt.date, tails: Tails | None
) -> Calibration:
    """The calibration as of the trading day before a day.

    Raises:
        CalibrationError: no trading day, or a history too short before it.
    """
    as_of = history.dates[_position(history, event_date) - 1]
    panel, notices = history.panel(as_of=as_of, history_days=universe.settings.calibration.history_days)
    return calibrate_panel(panel, universe, notices=notices, tails=tails, source=history.source)


def score_told(
    history: PriceHistory, universe: Universe, calibration: Calibration, event_date: dt.date, rules: Rules
) -> Backtest:
    """Score one day with the calibration of the day before, which may serve for several tellings.

    Raises:
        CalibrationError, ConfigurationError: as ``backtest_event``.
    """
    source, horizon = history.source, rules.told.horizon_days
    end = _position(history, event_date) + horizon - 1
    if end >= len(history.dates):
        raise CalibrationError(
            f"{source}: {horizon} trading days from {event_date} are scored, but the prices end on {history.dates[-1]}"
        )
    after, later = history.panel(as_of=history.dates[end], history_days=horizon)
    after = after.among(calibration.model.securities)
    if not np.nan_to_num(after.values).any():
        raise CalibrationError(f"{source}: no price moved on {event_date}; it is no trading day")
    totals = basket_totals(after, universe)
    scenario = rules.told.scenario or _observed(rules.told, after, universe, totals, event_date)
    outcome = unfold(scenario, calibration.model, calibration.curve)
    names = _score_names(calibration, outcome, after, universe, rules.band)
    scored = names.filter("scored")
    if scored.height < 3:
        raise CalibrationError(f"{event_date}: {scored.height} names can be scored; at least 3 are needed")
    if np.ptp(scored["realised"].to_numpy()) == 0.0:
        raise CalibrationError(f"{source}: every name that can be scored made the same return on {event_date}")
    scores = _scores(scored)
    figures = {
        "gain": scores["r2"] - scores["r2_market_only"],
        "tier_spread": float(np.nanstd(list(totals.values()))) if len(totals) else float("nan"),
        **_random_books(scored, np.random.default_rng([rules.seed, event_date.toordinal()])),
    }
    return Backtest(
        as_of=calibration.model.as_of,
        event_date=event_date,
        scores=scores,
        figures=figures,
        tiers=_tier_totals(calibration, outcome, rules.told, totals),
        names=names.drop("market_only"),
        notices=tuple(dict.fromkeys((*calibration.notices, *later))),
    )


def tier_error(tiers: pl.DataFrame) -> float | None:
    """Mean absolute error of the tiers that were not stated; None where all were."""
    left = tiers.filter(~pl.col("stated") & pl.col("realised").is_not_null())
    miss = (left["predicted"] - left["realised"]).to_numpy()
    return float(np.abs(miss).mean()) if left.height else None


def _stated(scenario: Scenario) -> frozenset[str]:
    """Factors and tiers about which a scenario states something itself."""
    match scenario.body:
        case ShockBody() | DriversBody() as body:
            return frozenset(name for kind, name in (v.subject for v in body.views) if kind in {"factor", "tier"})
        case ReplayBody() as body:
            return frozenset(name for day in body.days for name in (MARKET, *day.tiers))
    return frozenset(name for part in scenario.parts for name in _stated(part))


def _position(history: PriceHistory, event_date: dt.date) -> int:
    at = bisect.bisect_left(history.dates, event_date)
    if at == 0:
        raise CalibrationError(f"{history.source}: no price before {event_date}; a back-test needs a history")
    if at == len(history.dates) or history.dates[at] != event_date:
        raise CalibrationError(
            f"{history.source}: {event_date} is not a trading day of these prices; "
            f"the last before it is {history.dates[at - 1]}"
        )
    return at


def _observed(
    told: Told, after: ReturnPanel, universe: Universe, totals: dict[str, float], event_date: dt.date
) -> Scenario:
    views, faults = [], []
    for name in told.observed:
        if name == MARKET:
            market = float(market_returns(after, universe)[0])
            if np.isfinite(market):
                views.append(View(factor=MARKET, value=market, source="observed"))
            else:
                faults.append(f"the market has no return on {event_date}")
        elif name in totals:
            views.append(View(tier=name, total=totals[name], source="observed"))
        else:
            faults.append(f"no core name of tier {name} has a return on {event_date}")
    if faults:
        raise CalibrationError("; ".join(faults))
    body = {
        "id": "observed",
        "title": f"What {', '.join(told.observed)} did on {event_date}",
        "version": "1.0.0",
        "kind": "shock",
        "horizon_days": 1,
        "narrative": "Returns of the day itself.",
        "author": "engine",
        "propagation": told.propagation,
        "views": tuple(views),
    }
    return Scenario(ShockBody.model_validate(body), "")


def _tier_totals(calibration: Calibration, outcome: Outcome, told: Told, realised: dict[str, float]) -> pl.DataFrame:
    tiers = calibration.curve.tiers.labels
    at = [calibration.model.factors.labels.index(tier) for tier in tiers]
    return pl.DataFrame(
        {
            "tier": tiers,
            "stated": [tier in told.subjects for tier in tiers],
            "predicted": outcome.factors[at] + calibration.curve.beta * outcome.factors[0],
            "realised": [realised.get(tier) for tier in tiers],
        },
        schema_overrides={"realised": pl.Float64},
    )


def _score_names(
    calibration: Calibration, outcome: Outcome, after: ReturnPanel, universe: Universe, band: float
) -> pl.DataFrame:
    model = calibration.model
    half = ndtri(0.5 + band / 2.0) * np.sqrt(outcome.open_variance(eye_array(len(model.securities), format="csr")))
    predicted = pl.DataFrame(
        {
            "security_id": model.securities.labels,
            "predicted": outcome.total,
            "band_low": outcome.total - half,
            "band_high": outcome.total + half,
            "market_only": model.exposures[:, 0] * outcome.factors[0],
        }
    )
    moved = np.prod(1.0 + after.values, axis=0) - 1.0
    realised = pl.DataFrame({"security_id": after.securities.labels, "realised": moved})
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
    inside = (scored["band_low"].to_numpy() <= realised) & (realised <= scored["band_high"].to_numpy())
    return {
        "n": float(scored.height),
        "r2": explained(realised, predicted),
        "rank_correlation": rank_correlation(realised, predicted),
        "sign_accuracy": float(np.mean(np.sign(realised) == np.sign(predicted))),
        "band_coverage": float(inside.mean()),
        "r2_market_only": explained(realised, scored["market_only"].to_numpy()),
    }


def _random_books(scored: pl.DataFrame, rng: np.random.Generator) -> dict[str, float]:
    """Long-only books of names drawn without replacement, weights uniform on the simplex."""
    realised = scored["realised"].to_numpy()
    size = min(BOOK_NAMES, len(realised))
    picked = np.argpartition(rng.random((BOOKS, len(realised))), size - 1, axis=1)[:, :size]
    weights = rng.standard_exponential((BOOKS, size))
    weights /= weights.sum(axis=1, keepdims=True)
    made = {
        "book_pnl": realised,
        "book_error": scored["predicted"].to_numpy() - realised,
        "book_error_market_only": scored["market_only"].to_numpy() - realised,
    }
    return {name: float(np.abs((weights * value[picked]).sum(axis=1)).mean()) for name, value in made.items()}


def explained(realised: Float[np.ndarray, " n"], predicted: Float[np.ndarray, " n"]) -> float:
    """``1 - SSE / SST`` with SST about the mean of ``realised``. Oracle: sklearn ``r2_score``."""
    return float(1.0 - ((realised - predicted) ** 2).sum() / ((realised - realised.mean()) ** 2).sum())


def rank_correlation(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Spearman's: the correlation of average ranks. Oracle: ``scipy.stats.spearmanr``."""
    ranks = [pl.Series(values).rank("average").to_numpy() for values in (x, y)]
    if any(np.ptp(rank) == 0.0 for rank in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
