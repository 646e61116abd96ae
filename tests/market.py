"""A market with planted truth: every exposure, variance and event move in it is known."""

import datetime as dt
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from engine.curve.universe import UniverseSettings

TIERS: Final = ("chips", "grid", "apps")
FACTORS: Final = ("market", *TIERS)
CORE_NAMES: Final = 6
DECLARED_NAMES: Final = 4
REST_NAMES: Final = 48
DAYS: Final = 504
FIRST_DAY: Final = dt.date(2021, 3, 1)
MARKET_SHARE_OF_TIER: Final = 0.04

TIER_BETA: Final = {"chips": 1.5, "grid": 1.2, "apps": 0.9}
MEMBERSHIP_SHARE: Final = (1.0, 0.8, 0.6, 0.4)
EVENT_MOVES: Final = np.array([-0.02, -0.09, -0.15, 0.04])

YOUNG: Final = "YOUNG"
YOUNG_DAYS: Final = 20
GAPPY: Final = "GAPPY"
FUND: Final = "FUND"
LINES: Final = ("TWIN-A", "TWIN-B")
STRADDLER: Final = "STRADDLE"


@dataclass(frozen=True, slots=True)
class Market:
    """Frames that keep the input contracts, and the truth they were drawn from.

    Args:
        prices: Table ``prices`` up to and including the event.
        securities: Table ``securities``.
        settings: Tiers with their core names; half-lives of 252 days.
        as_of: Last day before the event.
        event_date: The day on which the factors move by ``EVENT_MOVES``.
        names: Securities in the order of the truth.
        exposures: ``(n, 4)`` true exposures to ``FACTORS``.
        factor_covariance: ``(4, 4)`` a year.
        specific_variance: ``(n,)`` a year.
        factor_returns: ``(DAYS, 4)`` drawn before the event.
    """

    prices: pl.DataFrame
    securities: pl.DataFrame
    settings: UniverseSettings
    as_of: dt.date
    event_date: dt.date
    names: tuple[str, ...]
    exposures: np.ndarray
    factor_covariance: np.ndarray
    specific_variance: np.ndarray
    factor_returns: np.ndarray


def make_market(seed: int = 20250127) -> Market:
    """Draw a market; the same seed gives the same market to the bit.

    The rest of the market offsets the tiers, so that the cap-weighted exposures are
    (1, 0, 0, 0) and the planted market factor is the one that the engine measures.
    """
    random = np.random.default_rng(seed)
    table = _roster(random)
    names = tuple(table["security_id"].to_list())
    exposures = table.select(FACTORS).to_numpy()
    daily = np.diag([0.010, 0.012, 0.014, 0.010]) @ _correlation() @ np.diag([0.010, 0.012, 0.014, 0.010])
    specific = table["specific"].to_numpy()
    moves = random.multivariate_normal(np.zeros(4), daily, size=DAYS)
    factors = np.vstack([moves, EVENT_MOVES])
    noise = random.standard_normal((DAYS + 1, len(names))) * specific
    noise[:, names.index(LINES[1])] = noise[:, names.index(LINES[0])]
    growth = np.cumprod(1.0 + factors @ exposures.T + noise, axis=0)
    close = np.vstack([np.ones(len(names)), growth]) * random.uniform(20.0, 300.0, len(names))
    close[: DAYS + 1 - YOUNG_DAYS, names.index(YOUNG)] = np.nan
    close[random.choice(np.arange(20, DAYS - 20), 50, replace=False), names.index(GAPPY)] = np.nan
    dates = _weekdays(DAYS + 2)
    return Market(
        prices=_price_table(close, names, dates),
        securities=_security_table(table, close[-2], dates[-2]),
        settings=_settings(),
        as_of=dates[-2],
        event_date=dates[-1],
        names=names,
        exposures=exposures,
        factor_covariance=daily * 252,
        specific_variance=specific**2 * 252,
        factor_returns=moves,
    )


def core_names(tier: str) -> tuple[str, ...]:
    """The names whose mean return is the tier's."""
    return tuple(f"{tier.upper()}-{number}" for number in range(CORE_NAMES))


def make_holdings(market: Market, books: dict[str, dict[str, float]], nav: float = 1e6) -> pl.DataFrame:
    """Table ``holdings`` of books given as weights; what is missing from 1 is cash."""
    price = dict(market.securities.select("security_id", "price").iter_rows())
    rows = []
    for book, weights in books.items():
        money = nav * (1.0 - sum(weights.values()))
        lines = [(name, weight * nav / price[name], price[name]) for name, weight in weights.items()]
        for name, quantity, unit in [*lines, ("CASH:USD", money, 1.0)]:
            rows.append((market.as_of, book, name, quantity, unit, "USD", quantity * unit))
    columns = ["as_of", "portfolio_id", "security_id", "quantity", "price", "currency", "market_value_base"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def make_portfolios(parents: dict[str, str | None], mandate: str | None = None) -> pl.DataFrame:
    """Table ``portfolios`` of books with their parents; a parent is listed too."""
    above = sorted({name for name in parents.values() if name} - set(parents))
    rows = [(name, parents.get(name), None if name in above else mandate) for name in [*parents, *above]]
    return pl.DataFrame(
        [(name, name.title(), parent, mandated, "USD") for name, parent, mandated in rows],
        schema={
            "portfolio_id": pl.String,
            "name": pl.String,
            "parent_id": pl.String,
            "mandate_id": pl.String,
            "base_currency": pl.String,
        },
        orient="row",
    )


def _correlation() -> np.ndarray:
    correlation = np.eye(4)
    for (i, j), value in {(1, 2): 0.5, (1, 3): -0.3, (2, 3): -0.2}.items():
        correlation[i, j] = correlation[j, i] = value
    return correlation


def _roster(random: np.random.Generator) -> pl.DataFrame:
    """One row a security: its exposures, daily specific volatility, share of market cap."""
    rows: list[tuple[str, str, str | None, float, np.ndarray, float]] = []
    per_name = MARKET_SHARE_OF_TIER / (CORE_NAMES + DECLARED_NAMES)
    for j, tier in enumerate(TIERS):
        tilt = np.linspace(-0.1, 0.1, CORE_NAMES)
        for name, lean in zip(core_names(tier), tilt, strict=True):
            exposure = _on_curve({j: 1.0 + lean}, TIER_BETA[tier] + lean / 2)
            rows.append((name, "stock", None, per_name, exposure, 0.004))
        for number, share in enumerate(MEMBERSHIP_SHARE[:DECLARED_NAMES]):
            exposure = _on_curve({j: share + 0.05}, share * TIER_BETA[tier] + 1.0 - share)
            rows.append((f"{tier.upper()}-D{number}", "stock", f"{tier}:{share}", per_name, exposure, 0.012))
    rows.append((STRADDLER, "stock", "chips:0.5;apps:0.5", 0.002, _on_curve({0: 0.5, 2: 0.5}, 1.2), 0.012))
    rows.append((YOUNG, "stock", "chips:1", 0.0, _on_curve({0: 0.6}, 1.0), 0.015))
    rows.append((FUND, "etf", None, 0.0, _on_curve({0: 1.0}, TIER_BETA["chips"]), 0.003))
    rest = [f"REST-{number:02}" for number in range(REST_NAMES - 3)] + [GAPPY, *LINES]
    curve_share = sum(row[3] for row in rows)
    curve_load = sum(row[3] * row[4] for row in rows)
    target = (np.array([1.0, 0.0, 0.0, 0.0]) - curve_load) / (1.0 - curve_share)
    lean = random.uniform(-1.0, 1.0, (len(rest), 4)) * [0.4, 0.2, 0.2, 0.2]
    lean[-1] = lean[-2]
    lean -= lean.mean(axis=0)
    volatility = np.append(random.uniform(0.008, 0.016, len(rest) - 2), [0.011, 0.011])
    for i, name in enumerate(rest):
        rows.append((name, "stock", None, (1.0 - curve_share) / len(rest), target + lean[i], volatility[i]))
    return pl.DataFrame(
        [(*row[:4], *row[4], row[5]) for row in rows],
        schema=["security_id", "kind", "membership", "cap_share", *FACTORS, "specific"],
        orient="row",
    )


def _on_curve(tiers: dict[int, float], beta: float) -> np.ndarray:
    exposure = np.zeros(4)
    exposure[0] = beta
    for j, share in tiers.items():
        exposure[1 + j] = share
    return exposure


def _weekdays(count: int) -> list[dt.date]:
    days = [FIRST_DAY + dt.timedelta(days=offset) for offset in range(2 * count)]
    return [day for day in days if day.weekday() < 5][:count]


def _price_table(close: np.ndarray, names: tuple[str, ...], dates: list[dt.date]) -> pl.DataFrame:
    frame = pl.DataFrame(close, schema=list(names)).with_columns(pl.Series("date", dates))
    long = frame.unpivot(index="date", variable_name="security_id", value_name="close")
    return long.filter(pl.col("close").is_not_nan()).select("security_id", "date", "close")


def _security_table(table: pl.DataFrame, close: np.ndarray, day: dt.date) -> pl.DataFrame:
    cap = pl.when(pl.col("cap_share") > 0.0).then(pl.col("cap_share") * 1e12)
    twin = pl.col("security_id").is_in(LINES)
    return table.select(
        "security_id",
        pl.col("security_id").str.to_titlecase().alias("name"),
        "kind",
        pl.when(twin).then(pl.lit("TWIN")).alias("issuer_id"),
        pl.lit("USD").alias("currency"),
        pl.when((pl.col("kind") == "stock") & (pl.col("security_id") != YOUNG))
        .then(pl.lit("Sector"))
        .alias("gics_sector"),
        "membership",
        pl.Series("price", close),
        pl.lit(day).alias("price_date"),
        pl.lit(1e8).alias("adv_base"),
        cap.alias("market_cap_base"),
        pl.lit(2.0).alias("half_spread_bps"),
    )


def _settings() -> UniverseSettings:
    half_lives = dict.fromkeys(("exposure", "volatility", "correlation", "specific"), 252.0)
    return UniverseSettings.model_validate(
        {
            "id": "planted",
            "title": "Planted truth",
            "base_currency": "USD",
            "tiers": tuple({"id": tier, "title": tier, "core": core_names(tier)} for tier in TIERS),
            "calibration": {"history_days": DAYS, **{f"{k}_half_life_days": v for k, v in half_lives.items()}},
            "stress": {"scenario": "planted_day"},
        }
    )
