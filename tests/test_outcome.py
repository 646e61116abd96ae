"""Outcomes: steps compound name by name, replays reproduce what was realised, every cut adds up."""

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.sparse import csr_array

from engine.api.loading import LoadedUniverse
from engine.api.stressing import StressTerms, stress_portfolios
from engine.api.weighing import weigh_books
from engine.errors import ConfigurationError
from engine.scenarios.scenario import Scenario
from engine.stress.losses import measure_losses
from engine.stress.outcome import Outcome, unfold
from engine.stress.propagation import propagate
from engine.stress.replay import ObservedDay

HEAD = """\
id: {id}
title: Made of others
version: 1.0.0
kind: {kind}
horizon_days: {days}
narrative: Made for a test.
author: tests
"""

PATH = (
    HEAD.format(id="steps", kind="path", days=69)
    + """\
steps:
  - {day: 1, scenario: deepseek, source: tests}
  - {day: 2, scenario: overreaction, source: tests}
  - {day: 7, scenario: same_with_less, source: tests}
"""
)

NESTED = (
    HEAD.format(id="nested", kind="path", days=132)
    + """\
steps:
  - {day: 1, scenario: steps, source: tests}
  - {day: 70, scenario: chip_substitution, source: tests}
"""
)

DAY, NEXT = dt.date(2025, 1, 27), dt.date(2025, 1, 28)


def read(bundled: LoadedUniverse, *texts: str) -> Scenario:
    """The last of some texts, which may name the others and the library."""
    library, name = bundled.library, ""
    for text in texts:
        library, name = library.with_text(text, "test.yaml")
    return library.scenario(name)


def outcome(bundled: LoadedUniverse, name: str) -> Outcome:
    return unfold(bundled.library.scenario(name), bundled.model, bundled.curve)


def observed_days(bundled: LoadedUniverse, rng: np.random.Generator) -> dict[dt.date, ObservedDay]:
    """Two days on which three quarters of the names have a return."""
    labels = np.array(bundled.model.securities.labels)
    days = {}
    for day, market in ((DAY, -0.0163), (NEXT, 0.0097)):
        known = rng.choice(labels, 3 * len(labels) // 4, replace=False)
        names = dict(zip(known.tolist(), (0.05 * rng.standard_normal(len(known))).tolist(), strict=True))
        tiers = dict(zip(bundled.curve.tiers.labels, (0.05 * rng.standard_normal(4)).tolist(), strict=True))
        days[day] = ObservedDay(day, market, tiers, names)
    return days


def test_the_steps_of_a_path_compound_name_by_name(bundled: LoadedUniverse) -> None:
    out = unfold(read(bundled, PATH), bundled.model, bundled.curve)
    first, second, third = (outcome(bundled, name).total for name in ("deepseek", "overreaction", "same_with_less"))
    np.testing.assert_allclose(out.total, (1 + first) * (1 + second) * (1 + third) - 1, rtol=0.0, atol=1e-14)
    assert len(out.layers) == 3


def test_a_path_may_be_a_step_of_a_path(bundled: LoadedUniverse) -> None:
    out = unfold(read(bundled, PATH, NESTED), bundled.model, bundled.curve)
    inner = unfold(read(bundled, PATH), bundled.model, bundled.curve).total
    last = outcome(bundled, "chip_substitution").total
    np.testing.assert_allclose(out.total, (1 + inner) * (1 + last) - 1, rtol=0.0, atol=1e-14)


def test_the_factor_moves_of_a_path_compound(bundled: LoadedUniverse) -> None:
    gap = outcome(bundled, "training_gap")
    first, second = (outcome(bundled, name).factors for name in ("capex_acceleration", "training_lull"))
    np.testing.assert_allclose(gap.factors, (1 + first) * (1 + second) - 1, rtol=0.0, atol=1e-14)


def test_a_tree_is_the_mean_of_its_leaves(bundled: LoadedUniverse) -> None:
    tree = outcome(bundled, "deepseek_tree")
    parts = {0.38: "same_with_less", 0.37: "overreaction", 0.25: "more_with_the_same"}
    mean = sum(p * outcome(bundled, name).total for p, name in parts.items())
    np.testing.assert_allclose(tree.total, mean, rtol=0.0, atol=1e-15)
    assert [p for p, _ in tree.branches] == list(parts)


def test_drivers_do_what_the_same_views_do_as_a_shock(bundled: LoadedUniverse) -> None:
    drivers = bundled.library.scenario("same_with_less")
    views = "".join(
        f"  - {{tier: {view.tier}, total: {view.number!r}, source: tests}}\n" for view in drivers.body.views
    )  # type: ignore[union-attr]
    text = HEAD.format(id="written", kind="shock", days=63) + "propagation: conditional\nviews:\n" + views
    written = propagate(read(bundled, text), bundled.model, bundled.curve)
    np.testing.assert_allclose(outcome(bundled, "same_with_less").total, written.total, rtol=0.0, atol=1e-15)


def test_a_replay_of_observed_names_returns_what_they_made(bundled: LoadedUniverse) -> None:
    days = observed_days(bundled, np.random.default_rng(1))
    out = unfold(bundled.library.scenario("deepseek_replay"), bundled.model, bundled.curve, days)
    total = dict(zip(bundled.model.securities.labels, out.total, strict=True))
    assert max(abs(total[name] - value) for name, value in days[DAY].names.items()) < 1e-15
    at = bundled.model.securities.positions(sorted(days[DAY].names), "tests")
    one_each = np.eye(len(total))[at]
    assert not out.open_variance(csr_array(one_each)).any()


def test_a_replay_of_two_days_compounds_what_the_names_made(bundled: LoadedUniverse) -> None:
    days = observed_days(bundled, np.random.default_rng(2))
    out = unfold(bundled.library.scenario("deepseek_two_days"), bundled.model, bundled.curve, days)
    total = dict(zip(bundled.model.securities.labels, out.total, strict=True))
    both = days[DAY].names.keys() & days[NEXT].names.keys()
    assert len(both) > 300
    for name in both:
        assert total[name] == pytest.approx((1 + days[DAY].names[name]) * (1 + days[NEXT].names[name]) - 1, abs=1e-14)


def test_a_replay_without_prices_is_the_shock_of_its_numbers(bundled: LoadedUniverse) -> None:
    replay, shock = outcome(bundled, "deepseek_replay"), outcome(bundled, "deepseek")
    np.testing.assert_allclose(replay.total, shock.total, rtol=0.0, atol=1e-15)
    two = outcome(bundled, "deepseek_two_days")
    assert np.all((two.total > shock.total)[np.abs(shock.total) > 0.15])


@pytest.mark.parametrize("observed", [False, True], ids=["inline", "observed"])
@pytest.mark.parametrize(
    "name", ["training_gap", "deepseek_tree", "distillation", "deepseek_replay", "deepseek_two_days"]
)
def test_every_cut_of_every_kind_adds_up_to_the_loss(bundled: LoadedUniverse, name: str, observed: bool) -> None:
    days = observed_days(bundled, np.random.default_rng(3)) if observed else {}
    books, _ = weigh_books(bundled)
    out = unfold(bundled.library.scenario(name), bundled.model, bundled.curve, days)
    tables = measure_losses(books, [out], bundled.curve, stage="before", band=0.8, positions=None)
    whole = dict(tables["stress"].select("portfolio_id", "pnl_frac").iter_rows())
    ours = [whole[book] for book in books.ids.labels]
    np.testing.assert_allclose(ours, books.weights @ out.total, rtol=0.0, atol=1e-14)
    parts = tables["stress"].select(pl.sum_horizontal("stated", "propagated", "specific") - pl.col("pnl_frac"))
    assert np.abs(parts.to_numpy()).max() < 1e-12
    for cut in ("stress_tiers", "stress_factors", "stress_positions"):
        sums = tables[cut].group_by("portfolio_id").agg(pl.col("pnl_frac").sum())
        assert sums.height == len(whole)
        assert max(abs(whole[book] - value) for book, value in sums.iter_rows()) < 1e-12, cut


def test_a_replay_of_a_day_that_nobody_carries_is_refused(bundled: LoadedUniverse) -> None:
    text = HEAD.format(id="blank", kind="replay", days=1) + "days:\n  - {date: 2024-03-01, source: tests}\n"
    with pytest.raises(ConfigurationError, match=r"scenario blank: 2024-03-01 carries no returns.*--prices"):
        unfold(read(bundled, text), bundled.model, bundled.curve)


def test_a_shock_that_takes_more_than_everything_is_said(bundled: LoadedUniverse) -> None:
    text = HEAD.format(id="end", kind="shock", days=21) + (
        "propagation: none\nviews:\n"
        "  - {factor: market, value: -0.6, source: tests}\n  - {tier: ai_semis, pure: -0.9, source: tests}\n"
    )
    result = stress_portfolios(bundled, texts={"end.yaml": text}, terms=StressTerms())
    (said,) = [notice for notice in result.notices if notice.code == "scenario.below_total_loss"]
    assert said.message.startswith("scenario end takes more than 100 % from ")


def test_real_prices_replay_what_the_names_made(bundled: LoadedUniverse, real_prices: Path) -> None:
    from engine.curve.returns import read_history
    from engine.stress.replay import observe_days

    prices = pl.read_parquet(real_prices).filter(pl.col("date") <= NEXT)
    history = read_history(prices, bundled.universe.securities, until=NEXT, days=30, source="prices")
    days = observe_days(history, bundled.universe, [DAY, NEXT])
    out = unfold(bundled.library.scenario("deepseek_replay"), bundled.model, bundled.curve, days)
    total = dict(zip(bundled.model.securities.labels, out.total, strict=True))
    assert total["NVDA"] == pytest.approx(-0.1697, abs=5e-5) and total["VRT"] == pytest.approx(-0.2988, abs=5e-5)
    written = bundled.library.scenario("deepseek_two_days").body
    for day in written.days:  # type: ignore[union-attr]
        assert day.market == pytest.approx(days[day.date].market, abs=5e-5)
        for tier, value in day.tiers.items():
            assert value == pytest.approx(days[day.date].tiers[tier], abs=5e-5)
