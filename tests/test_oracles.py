"""The engine against those who compute the same another way."""

from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
import scipy.stats
from market import LINES, TIERS
from scipy.sparse import csr_array
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score

from engine.api.loading import LoadedUniverse
from engine.api.stressing import stress_portfolios
from engine.axes import Axis
from engine.book.assess import volatilities
from engine.curve.factors import decay_weights, decayed_slope
from engine.risk.calibration import Calibration
from engine.risk.covariance import estimate_factor_covariance
from engine.risk.model import RiskModel
from engine.risk.portfolios import Portfolios
from engine.risk.tails import Tails, fit_tails
from engine.scenarios.kinds import ShockBody
from engine.scenarios.scenario import Scenario
from engine.scenarios.views import View
from engine.stress.backtest import explained, rank_correlation
from engine.stress.losses import measure_losses
from engine.stress.outcome import Outcome
from engine.stress.propagation import propagate

UNIVERSE = Path(__file__).resolve().parent.parent / "universes" / "ai_curve"


def dense_specific(model: RiskModel) -> np.ndarray:
    """``D`` as an n x n matrix, block-constant over the lines of an issuer."""
    same = model.issuers[:, None] == model.issuers[None, :]
    return np.where(same, model.specific_variance[:, None], 0.0)


def dense_covariance(model: RiskModel) -> np.ndarray:
    """``V = B F B' + D`` as an n x n matrix."""
    return model.exposures @ model.factor_covariance @ model.exposures.T + dense_specific(model)


def random_books(calibration: Calibration, count: int = 7) -> Portfolios:
    """Books of random weights, some short, each with both lines of one issuer."""
    model = calibration.model
    weights = np.random.default_rng(11).normal(0.02, 0.05, (count, len(model.securities)))
    at = [model.securities.labels.index(name) for name in LINES]
    weights[0], weights[0, at] = 0.0, [0.5, 0.5]
    weights[1], weights[1, at] = 0.0, [0.5, -0.5]
    return Portfolios(
        as_of=model.as_of,
        ids=Axis("portfolio", tuple(f"book{i}" for i in range(count))),
        is_parent=np.zeros(count, dtype=bool),
        model=model,
        weights=csr_array(weights),
        cash=1.0 - weights.sum(axis=1),
        nav=np.full(count, 1e6),
        table=pl.DataFrame(),
        holdings=pl.DataFrame(),
        empty=(),
    )


def mixed_scenario(propagation: str, days: int) -> Scenario:
    """Views on a factor, a tier's total, and a line of an issuer."""
    body = ShockBody(
        id="mixed",
        title="Mixed",
        version="1.0.0",
        kind="shock",
        horizon_days=days,
        narrative="Mixed.",
        author="tests",
        propagation=propagation,  # type: ignore[arg-type]
        views=(
            View(factor="market", value=-0.03, source="x"),
            View(tier="grid", total=-0.12, source="x"),
            View(security=LINES[0], total=0.04, source="x"),
            View(security="CHIPS-D1", total=-0.15, source="x"),
        ),
    )
    return Scenario(body, "0" * 64)


def test_factor_covariance_is_numpy_cov_when_both_half_lives_agree() -> None:
    values = np.random.default_rng(1).standard_normal((300, 5)) @ np.random.default_rng(2).standard_normal((5, 5))
    ours = estimate_factor_covariance(values, volatility_half_life=40.0, correlation_half_life=40.0)
    theirs = 252 * np.cov(values.T, aweights=decay_weights(300, 40.0), ddof=0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_decayed_slope_is_numpy_polyfit() -> None:
    random = np.random.default_rng(3)
    x, y, weights = random.standard_normal(200), random.standard_normal((200, 3)), decay_weights(200, 30.0)
    theirs = np.polyfit(x, y, 1, w=np.sqrt(weights))[0]
    np.testing.assert_allclose(decayed_slope(y, x, weights), theirs, rtol=1e-10)


def test_shrunk_exposures_are_ridge_on_rescaled_factors(calibration: Calibration) -> None:
    panel, factors, ours = calibration.panel, calibration.factors, calibration.exposures
    decay = decay_weights(len(panel.dates), 252.0)
    shares = calibration.curve.shares(panel.securities)[:, :-1]
    prior = np.column_stack([1.0 - shares.sum(axis=1) + shares @ factors.beta, shares])
    kinds = {name: "etf" if name == "FUND" else "stock" for name in panel.securities.labels}
    fits, gaps = {}, []
    for i, name in enumerate(panel.securities.labels):
        y = panel.values[:, i]
        seen = np.isfinite(y)
        if seen.sum() < 63:
            continue
        x = factors.values.copy()
        for j in np.flatnonzero(factors.core[:, i]):
            others = factors.core[j].copy()
            others[i] = False
            rest = panel.values[:, others].mean(axis=1)
            slope = LinearRegression().fit(x[:, :1], rest, sample_weight=decay).coef_[0]
            x[:, 1 + j] = rest - slope * x[:, 0]
        weight = decay[seen] / decay[seen].sum()
        bare = LinearRegression().fit(x[seen], y[seen], sample_weight=weight)
        effective = 1.0 / (weight**2).sum()
        residual = y[seen] - bare.predict(x[seen])
        noise = weight @ residual**2 * effective / (effective - x.shape[1] - 1.0) / effective
        gram = np.cov(x[seen].T, aweights=weight, ddof=0)
        fits[i] = (x[seen], y[seen], weight, noise)
        if kinds[name] == "stock":
            gaps.append((bare.coef_ - prior[i]) ** 2 - noise * np.diag(np.linalg.inv(gram)))
    tau = np.sqrt(np.maximum(1e-6, np.mean(gaps, axis=0)))
    np.testing.assert_allclose(ours.prior_variance, tau**2, rtol=1e-9)
    for i, (x, y, weight, noise) in fits.items():
        ridge = Ridge(alpha=noise).fit(x * tau, y - x @ prior[i], sample_weight=weight)
        np.testing.assert_allclose(ours.values[i], prior[i] + tau * ridge.coef_, rtol=1e-8, atol=1e-9)


def test_explained_is_r2_score() -> None:
    random = np.random.default_rng(4)
    realised, predicted = random.standard_normal(50), random.standard_normal(50)
    assert explained(realised, predicted) == pytest.approx(r2_score(realised, predicted), abs=1e-13)


def test_rank_correlation_is_spearman_with_ties() -> None:
    random = np.random.default_rng(5)
    x, y = random.integers(0, 8, 60).astype(float), random.standard_normal(60)
    assert rank_correlation(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-13)


@pytest.mark.parametrize("degrees", [4.0, 7.1, 30.0])
@pytest.mark.parametrize("views", [1, 4, 9])
def test_the_tail_probability_is_that_of_an_f(degrees: float, views: int) -> None:
    tails = Tails(degrees, 1.0, 0.1, 1.0)
    for distance in (0.0, 0.5, 3.0, 40.0, 4000.0):
        theirs = scipy.stats.f.sf(distance * degrees / ((degrees - 2.0) * views), views, degrees)
        assert tails.tail_probability(distance, views) == pytest.approx(theirs, rel=1e-10)


def test_the_tail_probability_is_the_share_of_draws_of_a_multivariate_t() -> None:
    shape = np.diag([1.0, 2.0, 0.5]) * (6.0 - 2.0) / 6.0
    draws = scipy.stats.multivariate_t(np.zeros(3), shape, df=6, seed=6).rvs(200_000)
    distances = (draws**2 / np.array([1.0, 2.0, 0.5])).sum(axis=1)
    for distance in (3.0, 10.0, 30.0):
        share = (distances >= distance).mean()
        assert Tails(6.0, 1.0, 0.1, 1.0).tail_probability(distance, 3) == pytest.approx(share, rel=0.05)


def test_fitted_degrees_maximise_the_likelihood_of_scipy() -> None:
    shape = np.diag([0.01, 0.02, 0.015]) ** 2
    values = scipy.stats.multivariate_t(np.zeros(3), shape, df=6, seed=7).rvs(500)
    half_lives = {"volatility_half_life": 200.0, "correlation_half_life": 200.0, "specific_half_life": 200.0}
    ours = fit_tails(values, values, **half_lives).degrees
    distances = []
    for t in range(126, 500):
        known = 126 + 5 * ((t - 126) // 5)
        daily = np.cov(values[:known].T, aweights=decay_weights(known, 200.0), ddof=0)
        distances.append(values[t] @ np.linalg.solve(daily, values[t]))
    grid = np.round(np.arange(4.0, 30.01, 0.1), 1)
    scales = grid / ((grid - 2.0) * 3)
    likelihood = [
        scipy.stats.f.logpdf(np.array(distances) * scale, 3, nu).sum() + len(distances) * np.log(scale)
        for nu, scale in zip(grid, scales, strict=True)
    ]
    assert ours == grid[np.argmax(likelihood)]


def test_volatility_is_dense_also_with_two_lines_of_one_issuer(calibration: Calibration) -> None:
    books = random_books(calibration)
    weights, dense = books.weights.toarray(), dense_covariance(calibration.model)
    theirs = np.einsum("pi,ij,pj->p", weights, dense, weights)
    np.testing.assert_allclose(volatilities(books) ** 2, theirs, rtol=1e-12, atol=1e-16)
    both_lines = books.specific_variances()[:2]
    variance = calibration.model.specific_variance[calibration.model.securities.labels.index(LINES[0])]
    np.testing.assert_allclose(both_lines, [variance, 0.0], rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("days", [1, 21])
def test_propagation_is_the_dense_conditional_gaussian(calibration: Calibration, days: int) -> None:
    model, years = calibration.model, days / 252
    shock = propagate(mixed_scenario("conditional", days), model, calibration.curve)
    n, k = model.exposures.shape
    joint = np.zeros((k + n, k + n))
    joint[:k, :k] = model.factor_covariance * years
    joint[k:, k:] = dense_specific(model) * years
    beta = calibration.curve.beta[TIERS.index("grid")]
    rows = np.zeros((4, k + n))
    rows[0, 0] = 1.0
    rows[1, [0, 1 + TIERS.index("grid")]] = beta, 1.0
    for row, name in ((2, LINES[0]), (3, "CHIPS-D1")):
        at = model.securities.labels.index(name)
        rows[row, :k], rows[row, k + at] = model.exposures[at], 1.0
    values = np.array([-0.03, -0.12, 0.04, -0.15])
    stated = rows @ joint @ rows.T
    mean = joint @ rows.T @ np.linalg.solve(stated, values)
    left = joint - joint @ rows.T @ np.linalg.solve(stated, rows @ joint)
    np.testing.assert_allclose(shock.factors, mean[:k], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(shock.specifics, mean[k:], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(shock.open_factors, left[:k, :k], rtol=1e-8, atol=1e-14)
    assert shock.distance_squared == pytest.approx(values @ np.linalg.solve(stated, values), rel=1e-9)
    returns = np.hstack([model.exposures, np.eye(n)])
    np.testing.assert_allclose(shock.total, returns @ mean, rtol=1e-9, atol=1e-12)

    tails = Tails(degrees=7.0, factor_multiplier=0.9, specific_exponent=0.2, specific_multiplier=0.8)
    books = replace(random_books(calibration), model=replace(model, tails=tails))
    fat = replace(shock, model=books.model)
    table = measure_losses(books, [Outcome.of(fat)], calibration.curve, stage="before", band=0.8)["stress"]
    common = 0.9 * np.sqrt((7.0 - 2.0 + shock.distance_squared) / (7.0 + 4 - 2.0))
    own = 0.8 * ((shock.distance_squared + 3.0) / (4 + 3.0)) ** 0.2
    scale = np.repeat([common, own], [k, n])
    wide = left * np.outer(scale, scale)
    weights = books.weights.toarray() @ returns
    half = scipy.stats.norm.ppf(0.9) * np.sqrt(np.maximum(np.einsum("pi,ij,pj->p", weights, wide, weights), 0.0))
    np.testing.assert_allclose((table["band_high"] - table["band_low"]).to_numpy() / 2.0, half, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(table["pnl_frac"].to_numpy(), weights @ mean, rtol=1e-10, atol=1e-14)


def test_the_direct_reading_has_the_dense_distance(calibration: Calibration) -> None:
    shock = propagate(mixed_scenario("none", 5), calibration.model, calibration.curve)
    years = 5 / 252
    moved = np.flatnonzero(shock.specifics)
    specific = dense_specific(calibration.model)[np.ix_(moved, moved)] * years
    theirs = shock.factors @ np.linalg.solve(calibration.model.factor_covariance * years, shock.factors)
    theirs += shock.specifics[moved] @ np.linalg.pinv(specific) @ shock.specifics[moved]
    assert shock.distance_squared == pytest.approx(theirs, rel=1e-9)


def test_duckdb_recomputes_the_bundled_stress_from_the_files(bundled: LoadedUniverse) -> None:
    good, _ = bundled.library.everything()
    scenarios = sorted(
        name
        for name, one in good.items()
        if isinstance(one.body, ShockBody) and all(view.factor or view.tier for view in one.body.views)
    )
    assert "deepseek" in scenarios and len(scenarios) >= 4
    tables = stress_portfolios(bundled, scenarios).tables
    store = duckdb.connect()
    for name in ("exposures", "factor_covariance", "specific_risk", "tiers", "memberships"):
        store.execute(f"create table {name} as from read_parquet('{UNIVERSE}/model/{name}.parquet')")
    (holdings,) = (UNIVERSE / "holdings").glob("*.parquet")
    store.execute(f"create table holdings as from read_parquet('{holdings}')")
    store.execute(f"create table portfolios as from read_csv('{UNIVERSE}/portfolios.csv', all_varchar = true)")
    moves = pl.DataFrame(
        [row for name in scenarios for row in _factor_moves(store, good[name].body)],
        schema=["scenario_id", "factor", "stated", "moved"],
        orient="row",
    )
    store.register("moves", moves.to_arrow())
    store.execute(WEIGHTS)
    (unknown,) = store.execute("select count(*) from weights anti join specific_risk using (security_id)").fetchall()[0]
    assert unknown == 0
    _same(_query(store, STRESS), tables["stress"], ["portfolio_id", "scenario_id"])
    _same(_query(store, BY_FACTOR), tables["stress_factors"].filter(pl.col("factor") != "specific"), FACTOR_KEY)
    _same(_query(store, BY_TIER), tables["stress_tiers"], ["portfolio_id", "scenario_id", "tier"])
    _same(_query(store, VOLATILITY), tables["portfolio_summary"], ["portfolio_id"])


FACTOR_KEY = ["portfolio_id", "scenario_id", "factor"]

WEIGHTS = """
create table navs as
    select portfolio_id, coalesce(any_value(cast(nav_base as double)), sum(market_value_base)) as nav
    from holdings join portfolios using (portfolio_id) group by portfolio_id;
create table above as
    with recursive up as (
        select portfolio_id as book, portfolio_id as owner from navs
        union all
        select up.book, p.parent_id from up join portfolios p on p.portfolio_id = up.owner where p.parent_id is not null
    ) select * from up;
create table owners as
    select owner as portfolio_id, sum(nav) as nav from above join navs on navs.portfolio_id = book group by owner;
create table weights as
    select a.owner as portfolio_id, h.security_id,
        sum(coalesce(h.exposure_base, h.market_value_base)) / any_value(o.nav) as weight
    from holdings h join above a on a.book = h.portfolio_id join owners o on o.portfolio_id = a.owner
    where not starts_with(h.security_id, 'CASH:') group by all;
create table names as
    select security_id, scenario_id, sum(exposure * stated) as stated, sum(exposure * (moved - stated)) as propagated
    from exposures join moves using (factor) group by all;
"""

STRESS = """
select portfolio_id, scenario_id, any_value(o.nav) as nav_base, sum(weight * stated) as stated,
    sum(weight * propagated) as propagated, sum(weight * (stated + propagated)) as pnl_frac,
    any_value(o.nav) * sum(weight * (stated + propagated)) as pnl_base
from weights join names using (security_id) join owners o using (portfolio_id) group by all
"""

BY_FACTOR = """
select portfolio_id, scenario_id, factor, sum(weight * exposure) as exposure,
    sum(weight * exposure) * any_value(moved) as pnl_frac
from weights join exposures using (security_id) join moves using (factor) group by portfolio_id, scenario_id, factor
"""

BY_TIER = """
with shares as (
    select security_id, tier, weight as share from memberships
    union all
    select s.security_id, 'off_curve', 1 - coalesce(sum(m.weight), 0)
    from specific_risk s left join memberships m using (security_id) group by s.security_id
), cut as (
    select portfolio_id, scenario_id, tier, sum(weight * share) as weight,
        sum(weight * share * (stated + propagated)) as pnl_frac
    from weights join shares using (security_id) join names using (security_id) group by all
), grid as (
    select distinct w.portfolio_id, m.scenario_id, t.tier
    from weights w, moves m, (select tier from tiers union all select 'off_curve') t
)
select portfolio_id, scenario_id, tier, coalesce(weight, 0) as weight, coalesce(pnl_frac, 0) as pnl_frac
from grid left join cut using (portfolio_id, scenario_id, tier)
"""

VOLATILITY = """
with b as (
    select portfolio_id, factor, sum(weight * exposure) as b
    from weights join exposures using (security_id) group by all
), common as (
    select x.portfolio_id, sum(x.b * annual * y.b) as variance
    from b x join factor_covariance on factor_1 = x.factor
    join b y on y.factor = factor_2 and y.portfolio_id = x.portfolio_id group by all
), issuers as (
    select portfolio_id, issuer_id, sum(weight) as weight, any_value(annual) as annual
    from weights join specific_risk using (security_id) group by all
), own as (select portfolio_id, sum(weight * weight * annual) as variance from issuers group by all)
select portfolio_id, sqrt(common.variance + own.variance) as volatility,
    own.variance / (common.variance + own.variance) as specific_share
from common join own using (portfolio_id)
"""


def _query(store: duckdb.DuckDBPyConnection, sql: str) -> pl.DataFrame:
    answer = store.execute(sql)
    return pl.DataFrame(answer.fetchall(), schema=[column[0] for column in answer.description or []], orient="row")


def _factor_moves(store: duckdb.DuckDBPyConnection, body: ShockBody) -> list[tuple[str, str, float, float]]:
    """Stated and applied factor moves from the tables, by hand, for views on factors and tiers."""
    beta = dict(store.execute("select tier, beta from tiers").fetchall())
    others = store.execute("select distinct factor_1 from factor_covariance where factor_1 != 'market'").fetchall()
    factors = ["market", *sorted(factor for (factor,) in others)]
    cells = {(a, b): value for a, b, value in store.execute("from factor_covariance").fetchall()}
    covariance = np.array([[cells[a, b] for b in factors] for a in factors])
    rows, values = np.zeros((len(body.views), len(factors))), np.array([view.number for view in body.views])
    stated = np.zeros(len(factors))
    market = sum(view.number for view in body.views if view.subject == ("factor", "market"))
    for row, view in enumerate(body.views):
        kind, name = view.subject
        assert kind in {"factor", "tier"}
        rows[row, factors.index(name)] = 1.0
        stated[factors.index(name)] = view.number
        if view.total is not None:
            rows[row, 0] = beta[name]
            stated[factors.index(name)] -= beta[name] * market
    moved = stated
    if body.propagation == "conditional":
        mean = covariance @ rows.T @ np.linalg.solve(rows @ covariance @ rows.T, values)
        moved = body.damping * stated + (1.0 - body.damping) * mean
    return [(body.id, *row) for row in zip(factors, stated.tolist(), moved.tolist(), strict=True)]


def _same(theirs: pl.DataFrame, ours: pl.DataFrame, key: list[str]) -> None:
    """Every row of ours, none more, each number within 1e-9 of its size."""
    joined = ours.join(theirs, on=key, how="full", suffix="_theirs", coalesce=True, validate="1:1")
    assert joined.height == ours.height == theirs.height
    for name in (column for column in theirs.columns if column not in key):
        np.testing.assert_allclose(
            joined[f"{name}_theirs"].to_numpy(), joined[name].to_numpy(), rtol=1e-9, atol=1e-9, err_msg=name
        )
