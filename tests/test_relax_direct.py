"""Levels of linear books as matrices: the same least as the modelled program, the same settlement."""

from dataclasses import replace

import numpy as np
import pytest
from test_relax import TOOLS, check_book, settled, torn_book
from test_relax_cones import leaning_book

import engine.rebalance.relax_program as programs
from engine.rebalance.relax_direct import is_straight, solve_level
from engine.rebalance.relax_slack import RelaxedAnswer, Slack, limit_ids


def drawn_slack(seed: int) -> Slack:
    """Some rows for a price, some together, an earlier level held, weights soft in every other book."""
    random = np.random.default_rng(seed)
    problem = torn_book(seed).problem
    ids = limit_ids(problem)
    n = len(problem.start)
    soft = seed % 2 == 0
    early = frozenset(name for name in problem.row_ids if random.uniform() < 0.3)
    return Slack(
        most={name: 0.0 if name in ("turnover", "cash:min") else float(random.uniform(0.2, 2.0)) for name in ids},
        price={name: float(random.uniform(0.5, 2.0)) for name in ids if name not in early},
        together=frozenset(name for name in ids if random.uniform() < 0.2),
        held={1: (early, float(random.uniform(0.0, 0.3)))},
        lower=problem.lower,
        upper=np.minimum(problem.upper, 0.3),
        low_most=np.full(n, 0.5 * soft),
        high_most=np.full(n, 0.5 * soft),
        weight_price=float(soft),
        weight_level=1 if seed % 3 == 0 else 0,
        weights_together=seed % 5 == 0,
    )


def price_of(answer: RelaxedAnswer, slack: Slack) -> float:
    own = sum(slack.price.get(name, 0.0) * value for name, value in answer.gives.items())
    weights = slack.weight_price * float(answer.low_gives.sum() + answer.high_gives.sum())
    return own + weights + answer.common


def test_the_modelled_program_finds_the_same_least() -> None:
    found = 0
    for seed in range(24):
        problem, slack = torn_book(seed).problem, drawn_slack(seed)
        modelled = TOOLS.relaxing.solve(problem, slack)
        direct = solve_level(problem, slack)
        if modelled is None or direct is None:
            assert direct is None
            continue
        assert price_of(direct, slack) == pytest.approx(price_of(modelled, slack), abs=1e-7), seed
        room = {name: direct.gives[name] + direct.common * (name in slack.together) for name in problem.row_ids}
        used = problem.rows @ direct.weights - problem.bounds
        assert all(use <= room[name] + 1e-9 for name, use in zip(problem.row_ids, used, strict=True))
        assert np.abs(direct.weights - problem.start).sum() <= problem.turnover + direct.common + 1e-9
        found += 1
    assert found > 12


def test_a_book_settles_the_same_without_the_modelling_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "LARGE", 0)
    # Every level against HiGHS in another statement, what is infeasible with its conflict.
    assert {check_book(seed) for seed in range(16, 26)} >= {"relaxed", "infeasible"}


def test_only_what_is_linear_as_it_stands_is_straight() -> None:
    problem = torn_book(0).problem
    assert is_straight(problem)
    assert not is_straight(replace(problem, tracking_error=0.02))
    assert not is_straight(replace(problem, gross=1.5))
    assert not is_straight(leaning_book(0).problem)


def test_bounds_that_leave_a_name_no_weight_give_no_answer() -> None:
    problem = torn_book(1).problem
    upper = problem.lower - 0.1
    assert solve_level(problem, Slack(lower=problem.lower, upper=upper)) is None
    assert settled(torn_book(1)).answer.status in ("certified", "infeasible")
