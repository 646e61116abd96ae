"""The weights of the prints: their fixed point by dense algebra, and what they do to a nowcast."""

import datetime as dt
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from engine.risk.calibration import Calibration
from engine.risk.model import RiskModel
from engine.stress.nowcast import Nowcast, nowcast
from engine.stress.reweighting import reweigh
from engine.stress.tape import Tape

MIXED = {"market": -0.02, "CHIPS-0": -0.10, "GRID-1": -0.16, "APPS-2": 0.03, "REST-04": 0.01}


@pytest.fixture
def model(calibration: Calibration) -> RiskModel:
    return calibration.model


def with_degrees(model: RiskModel, degrees: float) -> RiskModel:
    return replace(model, tails=replace(model.tails, degrees=degrees))


def told(returns: dict[str, float], model: RiskModel, elapsed: float = 1.0) -> Nowcast:
    names = tuple(sorted(returns))
    return nowcast(Tape(names, np.array([returns[name] for name in names]), dt.time(16), elapsed, ()), model)


def weights_of(now: Nowcast, model: RiskModel) -> np.ndarray:
    return now.model.specific_variance / model.specific_variance


@pytest.mark.parametrize("degrees", [4.0, 8.2, 30.0])
@pytest.mark.parametrize("elapsed", [1.0, 0.25])
def test_the_variances_of_today_are_the_fixed_point_of_the_dense_posterior(
    model: RiskModel, degrees: float, elapsed: float
) -> None:
    """``E[eps^2]`` from the joint Gaussian of all factors and issuers over a day: no engine algebra."""
    returns = {**MIXED, "REST-05": -0.2}
    now = told(returns, with_degrees(model, degrees), elapsed)
    k, n = len(model.factors), len(model.securities)
    prior = np.zeros((k + n, k + n))
    prior[:k, :k] = model.factor_covariance / 252
    prior[k:, k:] = (model.issuers[:, None] == model.issuers[None, :]) * now.model.specific_variance / 252
    names = [name for name in returns if name != "market"]
    at = [model.securities.labels.index(name) for name in names]
    rows = np.vstack([np.eye(k + n)[:1], np.hstack([model.exposures, np.eye(n)])[at]])
    gain = np.linalg.solve(rows @ prior @ rows.T, rows @ prior).T
    mean = gain @ np.array([returns["market"], *(returns[name] for name in names)])
    posterior = prior - gain @ rows @ prior
    square = (mean**2 + np.diag(posterior))[k:][at]
    expected = (degrees - 2.0 + square / (model.specific_variance[at] / 252)) / (degrees + 1.0)
    weights = weights_of(now, model)
    assert weights[at] == pytest.approx(expected, rel=1e-9)
    assert weights[at].max() > 1.0 and weights[at].min() >= (degrees - 2.0) / (degrees + 1.0)
    assert (np.delete(weights, at) == 1.0).all()


@pytest.mark.parametrize("seed", range(20))
def test_the_steps_settle_on_wild_tapes(model: RiskModel, seed: int) -> None:
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 51))
    b = model.exposures[rng.choice(len(model.securities), k, replace=False)]
    by_factor, own = b @ model.factor_covariance @ b.T / 252, rng.uniform(0.01, 0.3, k) / 252
    values, degrees = 0.05 * rng.standard_t(3, k), float(rng.uniform(4.0, 30.0))
    weights = reweigh(by_factor, own, values, degrees=degrees)
    inverse = np.linalg.inv(by_factor + np.diag(weights * own))
    open_variance = weights * own - (weights * own) ** 2 * np.diag(inverse)
    square = (weights * own * (inverse @ values)) ** 2 + open_variance
    assert weights == pytest.approx((degrees - 2.0 + square / own) / (degrees + 1.0), rel=1e-9)


def test_a_view_without_a_specific_return_keeps_its_weight(model: RiskModel) -> None:
    by_factor = model.factor_covariance[:2, :2] / 252
    weights = reweigh(by_factor, np.array([0.0, 0.1 / 252]), np.array([-0.05, 0.2]), degrees=8.0)
    assert weights[0] == 1.0 and weights[1] != 1.0


def test_many_degrees_give_the_gaussian_answer(model: RiskModel) -> None:
    now = told(MIXED, with_degrees(model, 1e9))
    k, names = len(model.factors), [name for name in sorted(MIXED) if name != "market"]
    at = [model.securities.labels.index(name) for name in names]
    a = np.vstack([model.exposures[at], np.eye(k)[:1]])
    m = a @ model.factor_covariance @ a.T + np.diag([*model.specific_variance[at], 0.0])
    values = np.array([*(MIXED[name] for name in names), MIXED["market"]])
    assert now.factors == pytest.approx(model.factor_covariance @ a.T @ np.linalg.solve(m, values), rel=1e-6)
    assert weights_of(now, model) == pytest.approx(1.0, abs=1e-6)


def test_a_wild_print_moves_the_others_less_than_in_proportion(model: RiskModel) -> None:
    at = model.securities.labels.index("CHIPS-0")
    sizes = (-0.05, -0.1, -0.2, -0.4, -0.8)
    alone = [told({"CHIPS-0": size}, model) for size in sizes]
    slopes = [now.factors[1] / size for now, size in zip(alone, sizes, strict=True)]
    assert all(later < earlier for earlier, later in pairwise(slopes))
    weights = [weights_of(now, model)[at] for now in alone]
    assert all(later > earlier for earlier, later in pairwise(weights))
    assert all(now.returns[at] == pytest.approx(size, abs=1e-12) for now, size in zip(alone, sizes, strict=True))

    normal = with_degrees(model, 1e15)
    fat, thin = (
        np.abs(told({**MIXED, "CHIPS-1": -0.8}, given).factors - told(MIXED, given).factors).max()
        for given in (model, normal)
    )
    assert fat < thin


def test_the_hour_changes_no_weight(model: RiskModel) -> None:
    close, early = (told(MIXED, model, elapsed) for elapsed in (1.0, 0.1))
    assert early.model.specific_variance == pytest.approx(close.model.specific_variance, rel=1e-9)


def test_lines_of_one_issuer_share_the_weight_of_their_mean(model: RiskModel) -> None:
    both = weights_of(told({**MIXED, "TWIN-A": -0.3, "TWIN-B": -0.3}, model), model)
    at = [model.securities.labels.index(name) for name in ("TWIN-A", "TWIN-B")]
    assert both[at[0]] == both[at[1]] > 1.0
    one = weights_of(told({**MIXED, "TWIN-A": -0.3}, model), model)
    assert one[at[0]] == one[at[1]] > 1.0
