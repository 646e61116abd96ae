"""Laws that hold for every model, every book and every scenario, by hypothesis."""

import datetime as dt
import re
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from market import TIERS, Market, make_holdings, make_portfolios
from scipy.sparse import csr_array

from engine.axes import Axis
from engine.book.assess import volatilities
from engine.curve.tiers import Curve
from engine.curve.universe import Universe
from engine.documents import parse_document
from engine.errors import ConfigurationError
from engine.risk.calibration import Calibration
from engine.risk.covariance import estimate_factor_covariance
from engine.risk.model import RiskModel
from engine.risk.portfolios import Portfolios, weigh_holdings
from engine.risk.tails import Tails
from engine.scenarios.kinds import ShockBody
from engine.scenarios.scenario import Scenario
from engine.scenarios.views import View
from engine.stress.losses import measure_losses
from engine.stress.outcome import Outcome
from engine.stress.propagation import Shock, propagate

DAY = dt.date(2025, 1, 24)
CURVE_TIERS = ("up", "down")
FACTORS = ("market", *CURVE_TIERS)
GAUSS = Tails(1e12, 1.0, 0.0, 1.0)

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(3, 9)
returns = st.floats(-0.3, 0.3).map(lambda x: round(x, 6))


def random_model(seed: int, n: int, tails: Tails = GAUSS) -> RiskModel:
    """Any model: correlated factors, unequal specific risk, the last two names lines of one issuer."""
    random = np.random.default_rng(seed)
    loading = random.standard_normal((3, 3)) * [[0.2], [0.15], [0.15]] + np.eye(3) * 0.05
    issuers = np.append(np.arange(n - 1), n - 2)
    return RiskModel(
        as_of=DAY,
        securities=Axis("security", tuple(f"S{i}" for i in range(n))),
        factors=Axis("factor", FACTORS),
        exposures=random.normal([1.0, 0.2, 0.2], 0.5, (n, 3)),
        factor_covariance=loading @ loading.T,
        specific_variance=random.uniform(0.01, 0.2, n - 1)[issuers],
        issuers=issuers.astype(np.int64),
        tails=tails,
        largest_moves=np.full(3, 0.05),
    )


def random_curve(seed: int, n: int) -> Curve:
    """Tiers with any slope, every name split between them and off the curve."""
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.ones(3), n)
    rows = [(f"S{i}", tier, shares[i, j], 1.0, "declared") for i in range(n) for j, tier in enumerate(CURVE_TIERS)]
    schema = ["security_id", "tier", "weight", "confidence", "source"]
    return Curve(
        Axis("tier", CURVE_TIERS), random.uniform(0.5, 2.0, 2), pl.DataFrame(rows, schema=schema, orient="row")
    )


def books_of(model: RiskModel, weights: np.ndarray, nav: float = 1e6) -> Portfolios:
    """Books with the given weights."""
    count = len(weights)
    names = tuple(f"book{i}" for i in range(count))
    return Portfolios(
        as_of=DAY,
        ids=Axis("portfolio", names),
        is_parent=np.zeros(count, dtype=bool),
        model=model,
        weights=csr_array(weights),
        cash=1.0 - weights.sum(axis=1),
        nav=np.full(count, nav),
        table=pl.DataFrame(
            {"portfolio_id": names, "mandate_id": [None] * count}, schema_overrides={"mandate_id": pl.String}
        ),
        holdings=pl.DataFrame(),
        empty=(),
    )


def random_weights(seed: int, count: int, n: int) -> np.ndarray:
    """Long and short weights of a few books."""
    return np.random.default_rng(seed + 1).normal(0.2, 0.4, (count, n))


def scenario_of(values: dict[tuple[str, str, str], float], propagation: str = "conditional", **body: Any) -> Scenario:
    """A scenario from ``{(kind, name, number): value}``."""
    views = tuple(View(**{kind: name, number: value, "source": "x"}) for (kind, name, number), value in values.items())
    text = {
        "id": "law",
        "title": "Law",
        "version": "1.0.0",
        "kind": "shock",
        "horizon_days": 1,
        "narrative": "Law.",
        "author": "tests",
        "propagation": propagation,
        "views": views,
    }
    return Scenario(ShockBody(**{**text, **body}), "0" * 64)


def mixed(market: float, up: float, name: float) -> dict[tuple[str, str, str], float]:
    """A view of each kind, the security one of two lines of an issuer."""
    return {("factor", "market", "value"): market, ("tier", "up", "total"): up, ("security", "LAST", "total"): name}


def applied(model: RiskModel, curve: Curve, views: dict[tuple[str, str, str], float], *rest: Any, **body: Any) -> Shock:
    """What the model makes of views; ``LAST`` is its last name."""
    last = model.securities.labels[-1]
    named = {(kind, last if name == "LAST" else name, number): v for (kind, name, number), v in views.items()}
    return propagate(scenario_of(named, *rest, **body), model, curve)


def stress_of(books: Portfolios, shock: Shock, curve: Curve) -> pl.DataFrame:
    """The table ``stress``."""
    outcome = Outcome.of(replace(shock, model=books.model))
    return measure_losses(books, [outcome], curve, stage="before", band=0.8)["stress"]


NUMBERS = ["pnl_frac", "pnl_base", "stated", "propagated", "specific", "band_low", "band_high"]


@given(seeds, sizes, returns, returns, returns)
def test_permuting_the_securities_changes_nothing(seed: int, n: int, market: float, up: float, name: float) -> None:
    model, curve = random_model(seed, n), random_curve(seed, n)
    weights = random_weights(seed, 3, n)
    order = np.random.default_rng(seed).permutation(n)
    labels = tuple(model.securities.labels[i] for i in order)
    _, issuers = np.unique(model.issuers[order], return_inverse=True)
    turned = replace(
        model,
        securities=Axis("security", labels),
        exposures=model.exposures[order],
        specific_variance=model.specific_variance[order],
        issuers=issuers.astype(np.int64),
    )
    views = {**mixed(market, up, name), ("security", f"S{n - 1}", "total"): name}
    del views["security", "LAST", "total"]
    before, after = (
        stress_of(books_of(m, w), applied(m, curve, views), curve)
        for m, w in ((model, weights), (turned, weights[:, order]))
    )
    np.testing.assert_allclose(
        after.select(NUMBERS).to_numpy(), before.select(NUMBERS).to_numpy(), rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(
        volatilities(books_of(turned, weights[:, order])), volatilities(books_of(model, weights)), rtol=1e-12
    )


@given(seeds, sizes, st.floats(0.0, 1.0), returns, returns)
def test_splitting_a_security_into_two_lines_of_one_issuer_changes_no_book_risk(
    seed: int, n: int, share: float, market: float, up: float
) -> None:
    model, curve = random_model(seed, n), random_curve(seed, n)
    weights = random_weights(seed, 3, n)
    halves = np.hstack([weights, (weights[:, :1] * share)])
    halves[:, 0] -= halves[:, -1]
    split = replace(
        model,
        securities=Axis("security", (*model.securities.labels, "S0B")),
        exposures=np.vstack([model.exposures, model.exposures[:1]]),
        specific_variance=np.append(model.specific_variance, model.specific_variance[0]),
        issuers=np.append(model.issuers, model.issuers[0]),
    )
    whole, parts = books_of(model, weights), books_of(split, halves)
    np.testing.assert_allclose(volatilities(parts), volatilities(whole), rtol=1e-12)
    views = {("factor", "market", "value"): market, ("security", "S0", "total"): up}
    before, after = (stress_of(b, applied(b.model, curve, views), curve) for b in (whole, parts))
    np.testing.assert_allclose(
        after.select(NUMBERS).to_numpy(), before.select(NUMBERS).to_numpy(), rtol=1e-9, atol=1e-8
    )


@given(seeds, sizes, returns, returns, returns, st.floats(-2.0, 2.0), st.sampled_from(["none", "conditional"]))
def test_a_loss_is_linear_in_the_shock(
    seed: int, n: int, market: float, up: float, name: float, scale: float, propagation: str
) -> None:
    model, curve = random_model(seed, n), random_curve(seed, n)
    books = books_of(model, random_weights(seed, 3, n))
    one = applied(model, curve, mixed(market, up, name), propagation)
    many = applied(model, curve, mixed(scale * market, scale * up, scale * name), propagation)
    np.testing.assert_allclose(books.weights @ many.total, scale * (books.weights @ one.total), rtol=1e-9, atol=1e-11)
    assert many.distance_squared == pytest.approx(scale**2 * one.distance_squared, rel=1e-6, abs=1e-9)


@given(seeds, sizes, returns, returns, returns, returns, st.sampled_from(["none", "conditional"]))
def test_two_scenarios_on_the_same_subjects_add_up(
    seed: int, n: int, market: float, up: float, other: float, name: float, propagation: str
) -> None:
    model, curve = random_model(seed, n), random_curve(seed, n)
    first, second, both = (
        applied(model, curve, views, propagation).total
        for views in (
            mixed(market, up, name),
            mixed(other, -up / 2, market),
            mixed(market + other, up / 2, name + market),
        )
    )
    np.testing.assert_allclose(both, first + second, rtol=1e-9, atol=1e-11)


@given(seeds, sizes, returns, returns, st.floats(-2.0, 2.0), st.floats(-2.0, 2.0))
def test_a_loss_is_linear_in_the_weights(seed: int, n: int, market: float, up: float, a: float, b: float) -> None:
    model, curve, weights = random_model(seed, n), random_curve(seed, n), random_weights(seed, 2, n)
    books = books_of(model, np.vstack([weights, a * weights[0] + b * weights[1]]))
    table = stress_of(books, applied(model, curve, mixed(market, up, 0.1)), curve)
    for column in ("pnl_frac", "stated", "propagated", "specific"):
        first, second, mix = table[column].to_list()
        assert mix == pytest.approx(a * first + b * second, rel=1e-9, abs=1e-12)


@given(seeds, sizes, returns, returns, returns, st.sampled_from(["none", "conditional"]), st.floats(0.0, 1.0))
def test_the_parts_of_a_loss_sum_to_it_by_factor_tier_and_name(
    seed: int, n: int, market: float, up: float, name: float, propagation: str, damping: float
) -> None:
    model, curve = random_model(seed, n), random_curve(seed, n)
    keep = damping if propagation == "conditional" else 0.0
    shock = applied(model, curve, mixed(market, up, name), propagation, damping=keep)
    books = books_of(model, random_weights(seed, 3, n))
    tables = measure_losses(books, [Outcome.of(shock)], curve, stage="before", band=0.8, positions=None)
    total = tables["stress"].sort("portfolio_id")
    parts = total.select(pl.col("stated") + pl.col("propagated") + pl.col("specific")).to_series()
    np.testing.assert_allclose(parts.to_numpy(), total["pnl_frac"].to_numpy(), rtol=0.0, atol=1e-12)
    for cut in ("stress_factors", "stress_tiers", "stress_positions"):
        columns = ["pnl_frac", "stated", "propagated", "specific"]
        sums = tables[cut].group_by("portfolio_id").agg(pl.col(columns).sum()).sort("portfolio_id")
        np.testing.assert_allclose(
            sums.select(columns).to_numpy(), total.select(columns).to_numpy(), rtol=0.0, atol=1e-12
        )


@given(seeds, sizes, returns, returns, returns, st.sampled_from(["none", "conditional"]))
def test_stating_what_came_out_gives_it_again_at_the_same_distance(
    seed: int, n: int, market: float, up: float, name: float, propagation: str
) -> None:
    model, curve = random_model(seed, n), random_curve(seed, n)
    assume(np.linalg.cond(model.factor_covariance) < 1e6)
    first = applied(model, curve, mixed(market, up, name), propagation)
    assume(abs(first.factors[0]) < 1.0)
    said = {("factor", factor, "value"): float(value) for factor, value in zip(FACTORS, first.factors, strict=True)}
    for again in ("conditional", "none"):
        second = applied(model, curve, {**said, ("security", "LAST", "total"): float(first.total[-1])}, again)
        np.testing.assert_allclose(second.factors, first.factors, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(second.total, first.total, rtol=1e-6, atol=1e-8)
        assert second.distance_squared == pytest.approx(first.distance_squared, rel=1e-5, abs=1e-8)


@given(seeds, sizes, returns, returns, returns)
def test_conditional_propagation_keeps_the_distance_of_the_views_and_no_other_answer_is_nearer(
    seed: int, n: int, market: float, up: float, name: float
) -> None:
    model, curve = random_model(seed, n), random_curve(seed, n)
    assume(np.linalg.cond(model.factor_covariance) < 1e6)
    near = applied(model, curve, mixed(market, up, name))
    assert near.distance_squared == pytest.approx(near.views.values @ near.gain @ near.views.values, rel=1e-6, abs=1e-9)
    direct = applied(model, curve, mixed(market, up, name), "none")
    assert direct.distance_squared >= near.distance_squared * (1.0 - 1e-9) - 1e-9


@given(seeds, sizes, returns, returns, returns)
def test_a_further_view_never_opens_the_band(seed: int, n: int, market: float, up: float, name: float) -> None:
    model, curve = random_model(seed, n), random_curve(seed, n)
    books, views, width = books_of(model, random_weights(seed, 3, n)), {}, np.full(3, np.inf)
    for view, value in mixed(market, up, name).items():
        views[view] = value
        table = stress_of(books, applied(model, curve, views), curve)
        narrower = (table["band_high"] - table["band_low"]).to_numpy()
        assert (narrower <= width + 1e-9).all()
        np.testing.assert_allclose(
            (table["band_high"] + table["band_low"]).to_numpy() / 2, table["pnl_frac"].to_numpy()
        )
        width = narrower


@given(seeds, sizes, returns, returns, returns, st.integers(2, 252))
def test_a_longer_horizon_leaves_the_mean_and_scales_distance_and_band_by_its_root(
    seed: int, n: int, market: float, up: float, name: float, days: int
) -> None:
    model, curve = random_model(seed, n), random_curve(seed, n)
    books = books_of(model, random_weights(seed, 3, n))
    short, long = (applied(model, curve, mixed(market, up, name), horizon_days=h) for h in (1, days))
    np.testing.assert_allclose(long.total, short.total, rtol=1e-9, atol=1e-12)
    assert long.distance_squared == pytest.approx(short.distance_squared / days, rel=1e-6, abs=1e-9)
    widths = [
        (table["band_high"] - table["band_low"]).to_numpy()
        for table in (stress_of(books, shock, curve) for shock in (short, long))
    ]
    np.testing.assert_allclose(widths[1], widths[0] * np.sqrt(days), rtol=1e-6, atol=1e-8)


@given(seeds, sizes)
def test_volatility_is_a_norm_of_the_weights(seed: int, n: int) -> None:
    model, weights = random_model(seed, n), random_weights(seed, 2, n)
    first, second, both, twice = volatilities(
        books_of(model, np.vstack([weights, weights.sum(axis=0), -2.0 * weights[0]]))
    )
    assert both <= first + second + 1e-12
    assert twice == pytest.approx(2.0 * first, rel=1e-12)


@given(st.integers(2, 60), st.integers(1, 8), seeds, st.floats(2.0, 500.0), st.floats(2.0, 500.0))
def test_a_covariance_is_psd_whatever_the_half_lives(days: int, k: int, seed: int, short: float, long: float) -> None:
    values = np.random.default_rng(seed).standard_t(3, (days, k)) * 0.01
    covariance = estimate_factor_covariance(values, volatility_half_life=short, correlation_half_life=long)
    assert np.linalg.eigvalsh(covariance).min() >= -1e-10 * np.abs(covariance).max()


weights_of_a_book = st.dictionaries(
    st.sampled_from(["CHIPS-0", "GRID-1", "APPS-2", "TWIN-A", "TWIN-B", "REST-00", "REST-07"]),
    st.floats(0.01, 0.15).map(lambda x: round(x, 4)),
    min_size=1,
    max_size=6,
)
navs = st.floats(1e4, 1e9).map(lambda x: round(x, 2))


def planted(calibration: Calibration, universe: Universe, holdings: pl.DataFrame, table: pl.DataFrame) -> Portfolios:
    """Portfolios on the planted model, nothing set aside."""
    portfolios, notices = weigh_holdings(
        holdings, table, model=calibration.model, curve=calibration.curve, universe=universe
    )
    assert notices == ()
    return portfolios


def measured(calibration: Calibration, portfolios: Portfolios) -> dict[str, tuple[float, ...]]:
    """Loss, band and volatility of every book and parent under a propagated shock."""
    shock = propagate(
        scenario_of({("tier", TIERS[1], "total"): -0.2, ("security", "TWIN-A", "total"): -0.1}),
        calibration.model,
        calibration.curve,
    )
    table = stress_of(portfolios, shock, calibration.curve)
    volatility = dict(zip(portfolios.ids.labels, volatilities(portfolios).tolist(), strict=True))
    rows = table.select("portfolio_id", "pnl_frac", "pnl_base", "band_low", "band_high").iter_rows()
    return {book: (*numbers, volatility[book]) for book, *numbers in rows}


@settings(max_examples=10)
@given(st.lists(st.tuples(weights_of_a_book, navs), min_size=2, max_size=4))
def test_a_parent_is_the_nav_weighted_sum_of_its_books(
    market: Market, universe: Universe, calibration: Calibration, books: list[tuple[dict[str, float], float]]
) -> None:
    names = [f"b{i}" for i in range(len(books))]
    holdings = pl.concat(
        [make_holdings(market, {name: weights}, nav) for name, (weights, nav) in zip(names, books, strict=True)]
    )
    table = make_portfolios({name: "lower" if i else "upper" for i, name in enumerate(names)} | {"lower": "upper"})
    portfolios = planted(calibration, universe, holdings, table)
    at = portfolios.ids.labels.index
    weights, nav = portfolios.weights.toarray(), portfolios.nav
    below = {"upper": names, "lower": names[1:]}
    for parent, children in below.items():
        rows = [at(name) for name in children]
        assert portfolios.is_parent[at(parent)] and nav[at(parent)] == pytest.approx(nav[rows].sum(), rel=1e-12)
        np.testing.assert_allclose(weights[at(parent)] * nav[rows].sum(), nav[rows] @ weights[rows], rtol=1e-9)
        assert portfolios.cash[at(parent)] * nav[rows].sum() == pytest.approx(
            nav[rows] @ portfolios.cash[rows], rel=1e-9
        )
    loss = measured(calibration, portfolios)
    for parent, children in below.items():
        assert loss[parent][1] == pytest.approx(sum(loss[child][1] for child in children), rel=1e-9, abs=1e-6)


@settings(max_examples=10)
@given(weights_of_a_book, st.floats(0.05, 0.95))
def test_splitting_a_book_in_two_changes_nothing_above_it(
    market: Market, universe: Universe, calibration: Calibration, weights: dict[str, float], share: float
) -> None:
    whole = make_holdings(market, {"a": weights})
    parts = [
        whole.with_columns(
            portfolio_id=pl.lit(name),
            quantity=pl.col("quantity") * s,
            market_value_base=pl.col("market_value_base") * s,
        )
        for name, s in (("a", share), ("b", 1.0 - share))
    ]
    one = measured(calibration, planted(calibration, universe, whole, make_portfolios({"a": "house"})))
    two = measured(
        calibration, planted(calibration, universe, pl.concat(parts), make_portfolios({"a": "house", "b": "house"}))
    )
    np.testing.assert_allclose(two["house"], one["house"], rtol=1e-9, atol=1e-9)


@settings(max_examples=10)
@given(weights_of_a_book, st.floats(0.05, 0.3))
def test_a_long_and_a_short_of_one_name_net_out_above_the_books(
    market: Market, universe: Universe, calibration: Calibration, weights: dict[str, float], size: float
) -> None:
    hedged = {**weights, "FUND": size}
    opposite = {"FUND": -size}
    plain = make_holdings(market, {"a": weights, "b": {}})
    both = make_holdings(market, {"a": hedged, "b": opposite})
    table = make_portfolios({"a": "house", "b": "house"})
    one, two = (measured(calibration, planted(calibration, universe, frame, table)) for frame in (plain, both))
    np.testing.assert_allclose(two["house"], one["house"], rtol=1e-9, atol=1e-9)


@settings(max_examples=10)
@given(weights_of_a_book, seeds)
def test_the_order_of_holdings_changes_no_digit(
    market: Market, universe: Universe, calibration: Calibration, weights: dict[str, float], seed: int
) -> None:
    frame = make_holdings(market, {"a": weights, "b": {"REST-01": 0.5}})
    table = make_portfolios({"a": "house", "b": "house"})
    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=seed)
    first, second = (
        measured(calibration, planted(calibration, universe, f, t))
        for f, t in ((frame, table), (shuffled, table.reverse()))
    )
    assert first == second


SCENARIO_TEXT = """\
id: law
title: A law
version: 1.0.0
kind: shock
horizon_days: 1
narrative: n
author: a
propagation: none
views:
  - {factor: market, value: -0.01, source: x}
"""
pieces = st.one_of(
    st.sampled_from(list(":{}[]#\t\n'\"|>~%@\x00\u202e")),
    st.sampled_from(["- ", "&a", "*a", "!!x", "1e400", ".nan", "? ", "0x1F", "2025-01-24", "<<: ", ""]),
)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, len(SCENARIO_TEXT)), st.integers(0, 12), pieces), min_size=1, max_size=4))
def test_a_mangled_document_is_read_or_refused_with_its_line_and_never_fails_otherwise(
    cuts: list[tuple[int, int, str]],
) -> None:
    text = SCENARIO_TEXT
    for start, length, piece in cuts:
        text = text[:start] + piece + text[start + length :]
    faults: tuple[str, ...] = ()
    try:
        parse_document(text, "law.yaml", ShockBody, {"factor": ("market",)})
    except ConfigurationError as error:
        faults = error.faults
    assert all(re.match(r"law\.yaml:\d+:\d+: ", fault) for fault in faults)
