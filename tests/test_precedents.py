"""The past beside a scenario: ranks, nearest days, guard-rails."""

import datetime as dt
import io
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from market import LINES, TIERS
from rich.console import Console

from engine.api.loading import LoadedUniverse, load_universe
from engine.api.stressing import stress_portfolios
from engine.axes import Axis
from engine.curve.universe import StressSettings
from engine.desk.terminal import show_stress
from engine.risk.covariance import Adjustments, estimate_factor_covariance
from engine.risk.history import FactorHistory, one_step_covariances
from engine.scenarios.kinds import ShockBody
from engine.scenarios.scenario import Scenario
from engine.scenarios.views import View
from engine.stress.outcome import Outcome
from engine.stress.plausibility import summarise_scenarios, weigh_plausibility
from engine.stress.precedents import BLOCK_DAYS, DRAWS, SEED, find_precedents
from engine.stress.propagation import Shock, propagate


@pytest.fixture(scope="module")
def loaded(written: Any) -> LoadedUniverse:
    """The planted universe, read from its folder."""
    return load_universe(str(written))


def shock(loaded: LoadedUniverse, views: list[dict[str, Any]], propagation: str = "none", days: int = 1) -> Shock:
    """What the planted model makes of the views."""
    body = ShockBody(
        id="test",
        title="Test",
        version="1.0.0",
        kind="shock",
        horizon_days=days,
        narrative="Test.",
        author="tests",
        propagation=propagation,  # type: ignore[arg-type]
        views=tuple(View(source="test", **view) for view in views),
    )
    return propagate(Scenario(body, "0" * 64), loaded.model, loaded.curve)


def summary(loaded: LoadedUniverse, applied: Shock, **rails: float) -> dict[str, Any]:
    """The row of ``scenario_summary``."""
    tables = summarise_scenarios([Outcome.of(applied)], loaded.history, StressSettings(**rails))
    return tables["scenario_summary"].row(0, named=True)


def repeated_day(loaded: LoadedUniverse, t: int, scale: float = 1.0, days: int = 1) -> Shock:
    """A scenario that states every factor's return of a past day."""
    day = scale * loaded.history.values[t]
    views = [{"factor": name, "value": float(x)} for name, x in zip(loaded.model.factors.labels, day, strict=True)]
    return shock(loaded, views, days=days)


def past_distances(loaded: LoadedUniverse, rows: np.ndarray) -> np.ndarray:
    """``(A f_t)' (A F_t A')^-1 (A f_t)`` day by day from the table of factor returns."""
    values = loaded.history.values
    half_life = loaded.universe.settings.calibration.volatility_half_life_days
    out = []
    for t in range(126, len(values)):
        daily = estimate_factor_covariance(values[:t], volatility_half_life=half_life, correlation_half_life=half_life)
        move = rows @ values[t]
        out.append(move @ np.linalg.inv(rows @ daily @ rows.T / 252) @ move)
    return np.array(out)


def test_the_rank_of_a_conditional_scenario_is_counted_in_its_own_views(loaded: LoadedUniverse) -> None:
    applied = shock(loaded, [{"factor": "market", "value": -0.01}, {"tier": "chips", "total": -0.02}], "conditional")
    row, past = summary(loaded, applied), past_distances(loaded, applied.views.on_factors)
    assert row["distance"] ** 2 == pytest.approx(applied.distance_squared)
    exceeded = int((past >= applied.distance_squared).sum())
    assert 0 < exceeded < len(past)
    assert (row["empirical_exceeded"], row["empirical_days"]) == (exceeded, len(past))
    assert row["empirical_years"] == pytest.approx(len(past) / exceeded / 252)


@pytest.mark.parametrize(
    ("views", "propagation"),
    [
        ([{"factor": "market", "value": -0.008}, {"tier": "chips", "pure": -0.01}], "none"),
        ([{"factor": "market", "value": -0.008}, {"security": "CHIPS-D1", "total": -0.05}], "conditional"),
    ],
)
def test_other_scenarios_are_ranked_by_the_factor_moves_applied(
    loaded: LoadedUniverse, views: list[dict[str, Any]], propagation: str
) -> None:
    applied = shock(loaded, views, propagation, days=5)
    row, past = summary(loaded, applied), past_distances(loaded, np.eye(4))
    f = applied.factors
    exceeded = int((past >= f @ np.linalg.inv(loaded.model.factor_covariance * 5 / 252) @ f).sum())
    assert 0 < exceeded < len(past)
    assert row["empirical_exceeded"] == exceeded
    assert row["empirical_years"] == pytest.approx(5 * len(past) / exceeded / 252)


def test_the_interval_is_that_of_blocks_drawn_around_the_circle(loaded: LoadedUniverse) -> None:
    applied = shock(loaded, [{"factor": "market", "value": -0.02}], "conditional")
    farther = past_distances(loaded, applied.views.on_factors) >= applied.distance_squared
    days = len(farther)
    starts = np.random.default_rng(SEED).integers(0, days, (DRAWS, round(days / BLOCK_DAYS)))
    drawn = farther[(starts[:, :, None] + np.arange(BLOCK_DAYS)) % days]
    low, high = np.quantile(drawn.mean(axis=(1, 2)), [0.025, 0.975])
    found = find_precedents(applied, loaded.history)
    assert found.low == pytest.approx(1 / high / 252)
    assert found.high == (None if low == 0.0 else pytest.approx(1 / low / 252))
    assert found.years is not None and found.low is not None and found.low < found.years
    assert found.high is None or found.years < found.high


@pytest.mark.parametrize("horizon", [1, 10])
def test_without_a_day_as_far_a_bound_is_said_and_nothing_else(loaded: LoadedUniverse, horizon: int) -> None:
    applied = shock(loaded, [{"factor": "market", "value": -0.9}], days=horizon)
    found = find_precedents(applied, loaded.history)
    assert (found.exceeded, found.years, found.high) == (0, None, None)
    assert found.low == pytest.approx(horizon * found.days / 3 / 252)
    period = "day" if horizon == 1 else "10-day period"
    bound = f"once in > {found.days} {period}s (95 % bound {300 / found.days:.1f} % a {period})"
    assert bound in printed(loaded, applied, 80)


def test_a_larger_shock_is_never_more_common(loaded: LoadedUniverse) -> None:
    found = [find_precedents(repeated_day(loaded, 200, scale), loaded.history) for scale in (0.1, 0.5, 1, 2, 4, 20)]
    counts = [past.exceeded for past in found]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1] == 0
    lows = [past.low for past in found]
    assert lows == sorted(lows)


def test_a_scenario_that_repeats_a_day_has_that_day_as_its_nearest(loaded: LoadedUniverse) -> None:
    for t in range(0, len(loaded.history.dates), 37):
        found = find_precedents(repeated_day(loaded, t), loaded.history)
        assert found.dates[0] == loaded.history.dates[t]
        assert found.cosines[0] == pytest.approx(1.0)
    month = find_precedents(repeated_day(loaded, 200, np.sqrt(21.0), days=21), loaded.history)
    assert month.dates[0] == loaded.history.dates[200]


def test_nearest_days_are_those_of_a_plain_search(loaded: LoadedUniverse) -> None:
    applied = shock(loaded, [{"factor": "market", "value": -0.03}, {"tier": "grid", "pure": -0.06}], days=4)
    inverse = np.linalg.inv(loaded.model.factor_covariance / 252)
    aim = applied.factors / 2.0
    rows = []
    for date, move in zip(loaded.history.dates, loaded.history.values, strict=True):
        cosine = move @ inverse @ aim / np.sqrt((move @ inverse @ move) * (aim @ inverse @ aim))
        rows.append(((move - aim) @ inverse @ (move - aim), date, cosine))
    nearest = sorted(rows)[:3]
    row = summary(loaded, applied)
    assert row["nearest_dates"] == " ".join(str(date) for _, date, _ in nearest)
    assert row["nearest_cosines"] == " ".join(f"{cosine:.2f}" for *_, cosine in nearest)


@pytest.mark.parametrize("propagation", ["none", "conditional"])
def test_the_order_of_the_factors_changes_no_figure(loaded: LoadedUniverse, propagation: str) -> None:
    views = [{"factor": "market", "value": -0.01}, {"tier": "chips", "total": -0.03}]
    order = np.array([0, 3, 1, 2])
    model = loaded.model
    turned = replace(
        model,
        factors=Axis("factor", tuple(model.factors.labels[k] for k in order)),
        exposures=model.exposures[:, order],
        factor_covariance=model.factor_covariance[np.ix_(order, order)],
        largest_moves=model.largest_moves[order],
    )
    one, other = shock(loaded, views, propagation), shock(replace(loaded, model=turned), views, propagation)
    assert other.distance_squared == pytest.approx(one.distance_squared, rel=1e-12)
    a, b = (find_precedents(applied, loaded.history) for applied in (one, other))
    assert (a.exceeded, a.low, a.high, a.dates) == (b.exceeded, b.low, b.high, b.dates)
    np.testing.assert_allclose(a.cosines, b.cosines, rtol=1e-10)
    p, q = weigh_plausibility(Outcome.of(one)), weigh_plausibility(Outcome.of(other))
    np.testing.assert_allclose(p.explained[order], q.explained, atol=1e-12)
    assert p.propagation_r2 == pytest.approx(q.propagation_r2)


def test_where_no_factor_moves_there_is_no_rank_and_no_nearest_day(loaded: LoadedUniverse) -> None:
    own = summary(loaded, shock(loaded, [{"security": "REST-00", "total": -0.2}]))
    assert own["empirical_exceeded"] is None and own["empirical_low"] is None and own["nearest_dates"] is None
    still = summary(loaded, shock(loaded, [{"factor": "market", "value": 0.0}]))
    assert still["empirical_exceeded"] == still["empirical_days"] and still["nearest_dates"] is None


def test_a_factor_that_stood_still_so_far_is_left_out_of_the_rank(loaded: LoadedUniverse) -> None:
    values = loaded.history.values.copy()
    values[:, 3] = 0.0
    calm = one_step_covariances(
        values, volatility_half_life=252.0, correlation_half_life=252.0, adjustments=Adjustments()
    )
    history = FactorHistory(loaded.history.dates, loaded.history.factors, values, calm)
    applied = shock(loaded, [{"factor": "market", "value": -0.015}, {"tier": "chips", "pure": -0.01}])
    f = applied.factors
    past = past_distances(loaded, np.eye(4)[:3])
    exceeded = int((past >= f @ np.linalg.inv(loaded.model.factor_covariance / 252) @ f).sum())
    assert find_precedents(applied, history).exceeded == exceeded


def test_what_views_explain_is_what_conditioning_takes_away(loaded: LoadedUniverse) -> None:
    views = [{"tier": "grid", "total": -0.1}, {"security": LINES[0], "total": 0.02}]
    applied = shock(loaded, views, "conditional", days=7)
    model = loaded.model
    f = model.factor_covariance * 7 / 252
    a, c = applied.views.on_factors, applied.views.on_specifics
    same = model.issuers[:, None] == model.issuers[None, :]
    dense = np.where(same, model.specific_variance[:, None], 0.0) * 7 / 252
    left = f - f @ a.T @ np.linalg.inv(a @ f @ a.T + c @ dense @ c.T) @ a @ f
    tables = summarise_scenarios([Outcome.of(applied)], loaded.history, StressSettings())
    factors = tables["scenario_factors"]
    by_name = dict(zip(model.factors.labels, 1.0 - np.diag(left) / np.diag(f), strict=True))
    shares = dict(factors.select("factor", "propagation_r2").iter_rows())
    assert shares == {name: pytest.approx(value, abs=1e-12) for name, value in by_name.items()}
    overall = 1.0 - np.trace(left) / np.trace(f)
    assert tables["scenario_summary"]["propagation_r2"][0] == pytest.approx(overall)
    moves = dict(factors.select("factor", "move").iter_rows())
    np.testing.assert_array_equal([moves[name] for name in model.factors.labels], applied.factors)
    seen = np.abs(loaded.history.values).max(axis=0)
    ratios = dict(factors.select("factor", "extrapolation").iter_rows())
    np.testing.assert_allclose(
        [ratios[name] for name in model.factors.labels], np.abs(applied.factors) / seen / np.sqrt(7.0), rtol=1e-12
    )


def test_every_factor_stated_is_explained_in_full(loaded: LoadedUniverse) -> None:
    figures = weigh_plausibility(Outcome.of(repeated_day(loaded, 10)))
    np.testing.assert_allclose(figures.explained, 1.0, atol=1e-9)
    assert figures.propagation_r2 == pytest.approx(1.0)


def test_a_scenario_outside_the_guard_rails_says_which_and_by_how_much(loaded: LoadedUniverse) -> None:
    seen = np.abs(loaded.history.values).max(axis=0)
    far = shock(loaded, [{"tier": "grid", "pure": -5.1 * seen[2]}, {"tier": "apps", "pure": 4.5 * seen[3]}])
    row = summary(loaded, far)
    assert row["outside_guard_rails"] is True
    assert row["guard_rails"] == (
        "grid moves 5.1x the largest seen (at most 4x); apps moves 4.5x the largest seen (at most 4x)"
    )
    assert "outside guard-rails: grid moves 5.1x the largest seen (at most 4x)" in printed(loaded, far, 80)
    assert summary(loaded, far, max_extrapolation=6.0)["guard_rails"] is None

    one = shock(loaded, [{"factor": "market", "value": -0.01}], "conditional")
    explained = summary(loaded, one)["propagation_r2"]
    assert summary(loaded, one)["outside_guard_rails"] is False
    thin = summary(loaded, one, min_propagation_r2=explained + 0.001)
    assert thin["guard_rails"] == f"views explain {explained:.1%} of variance (at least {explained + 0.001:.1%})"
    direct = shock(loaded, [{"factor": "market", "value": -0.01}])
    assert summary(loaded, direct, min_propagation_r2=1.0)["guard_rails"] is None

    both = shock(loaded, [{"factor": "market", "value": -0.01}, {"tier": "grid", "total": -0.02}])
    assert both.condition > 2.0
    assert summary(loaded, both, max_condition=2.0)["guard_rails"] == (
        f"views nearly repeat each other, condition {both.condition:.1e} (at most 2)"
    )


def test_the_head_of_a_scenario_fits_80_columns(loaded: LoadedUniverse) -> None:
    for propagation, days in (("none", 1), ("conditional", 63)):
        lines = printed(loaded, shock(loaded, [{"tier": "grid", "total": -0.06}], propagation, days), 80).splitlines()
        assert lines[1].startswith(f"{days} trading day") and lines[1].endswith(tuple("0123456789"))
        assert lines[2].startswith("moves up to") and "condition" in lines[2]
        assert lines[3].startswith("once in ") and lines[4].startswith("nearest ") and lines[4].endswith(")")
        assert max(map(len, lines[:5])) <= 80


def printed(loaded: LoadedUniverse, applied: Shock, width: int) -> str:
    """What the terminal shows of one scenario; the losses below the head are those of the planted day."""
    tables = dict(stress_portfolios(loaded).tables)
    summaries = summarise_scenarios([Outcome.of(applied)], loaded.history, StressSettings())
    tables["scenario_summary"] = summaries["scenario_summary"]
    screen = Console(file=io.StringIO(), width=width, highlight=False)
    show_stress(screen, tables, (*TIERS, "off_curve"))
    return screen.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ((0.5, 0.25, None), "once in 126 trading days (63 or more): 3 of 378 days as far"),
        ((0.9, 0.25, 5.0), "once in 227 trading days (63 to 1260): 3 of 378 days as far"),
        ((1.5, 0.5, 8.0), "once in 1.5 years (0.5 to 8): 3 of 378 days as far"),
    ],
)
def test_how_often_is_said_in_days_below_a_year(
    loaded: LoadedUniverse, figures: tuple[float, float, float | None], words: str
) -> None:
    tables = dict(stress_portfolios(loaded).tables)
    named = dict(zip(("years", "low", "high"), figures, strict=True))
    columns = [pl.lit(value, dtype=pl.Float64).alias(f"empirical_{name}") for name, value in named.items()]
    counts = [pl.lit(3).alias("empirical_exceeded"), pl.lit(378).alias("empirical_days")]
    tables["scenario_summary"] = tables["scenario_summary"].with_columns(*columns, *counts)
    screen = Console(file=io.StringIO(), width=80, highlight=False)
    show_stress(screen, tables, (*TIERS, "off_curve"))
    assert words in screen.file.getvalue()  # type: ignore[attr-defined]


def test_the_bundled_day_is_as_far_as_the_farthest_days_of_its_model(bundled: LoadedUniverse) -> None:
    row = stress_portfolios(bundled).tables["scenario_summary"].row(0, named=True)
    assert (row["empirical_exceeded"], row["empirical_days"]) == (1, 378)
    assert row["outside_guard_rails"] is False
    assert all(dt.date.fromisoformat(day) <= bundled.model.as_of for day in row["nearest_dates"].split())
