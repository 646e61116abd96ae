"""Portfolio problems with published answers: a full covariance enters as a model with one factor an asset."""

from typing import Any

import numpy as np
import pytest
from test_certificate import PROGRAMS, Book
from test_rebalance import COVARIANCE, EFFICIENT, LOOSE, MEAN, plain_book

from engine.rebalance.solve import Answer

INVESTED: dict[str, Any] = {**LOOSE, "cash": {"max": 0.0}}
"""Nothing in cash; short sales are not allowed in any of these."""

FREE: dict[str, Any] = {"costs": {"half_spread_bps": 0.0}, "risk_aversion": 2.0}
"""No costs, and an objective that is the variance."""


def least_variance(mean: np.ndarray, least: float, *, full: np.ndarray | None = None, **changes: Any) -> Book:
    """Least variance, or active variance, of a portfolio whose mean return is at least ``least``.

    The means are exposures to one more factor, of no variance, and their floor is a band on it.

    Args:
        mean: By asset.
        least: The floor.
        full: Covariance of the assets; None where ``changes`` give factors and specific risk.
        changes: Other fields of the book.
    """
    n = len(mean)
    exposures, covariance = (np.eye(n), full) if full is not None else (changes["exposures"], changes["covariance"])
    k = len(covariance)
    limits = {**changes.get("limits", INVESTED), "factors": {f"f{k}": {"min": least}}}
    given = {
        "benchmark": {},
        "variance": np.zeros(n),
        "rest": FREE,
        **changes,
        "exposures": np.column_stack([exposures, mean]),
        "covariance": np.block([[covariance, np.zeros((k, 1))], [np.zeros((1, k + 1))]]),
        "limits": limits,
    }
    return plain_book({f"S{i}": 1.0 / n for i in range(n)}, n, **given)


def solved(book: Book) -> Answer:
    answer = book.solve(PROGRAMS)
    assert answer.status == "certified", answer
    return answer


def from_correlations(volatility: list[float], correlation: np.ndarray) -> np.ndarray:
    scale = np.diag(volatility)
    covariance = scale @ correlation @ scale
    return (covariance + covariance.T) / 2.0


def symmetric(n: int, above: list[float]) -> np.ndarray:
    """A correlation matrix from its upper triangle, row by row."""
    matrix = np.eye(n)
    matrix[np.triu_indices(n, 1)] = above
    return matrix + np.triu(matrix, 1).T


@pytest.mark.parametrize("least", [row[0] for row in EFFICIENT if row[0] <= 0.095])
def test_mertons_frontier_is_met_where_it_is_long_only(least: float) -> None:
    """Merton, JFQA 7 (1972) 1851: variance ``(C E^2 - 2 A E + B) / D`` on the data of Cornuejols and Tutuncu."""
    inverse, ones = np.linalg.inv(COVARIANCE), np.ones(3)
    a, b, c = (u @ inverse @ v for u, v in ((ones, MEAN), (MEAN, MEAN), (ones, ones)))
    d = b * c - a * a
    weights = ((c * least - a) * inverse @ MEAN + (b - a * least) * inverse @ ones) / d
    assert (weights > 0.0).all()
    answer = solved(least_variance(MEAN, least, full=COVARIANCE))
    assert answer.verdict.objective == pytest.approx((c * least**2 - 2.0 * a * least + b) / d, rel=2e-6)
    assert answer.weights == pytest.approx(weights, abs=1e-4)


@pytest.mark.parametrize("least", [2.1, 2.3, 2.5, 2.7, 2.8, 2.95])
def test_luenbergers_three_uncorrelated_assets_are_reproduced(least: float) -> None:
    """Luenberger, Investment Science (1998), example 6.12: variances 1, means 1, 2, 3, no short sales."""
    if least <= 8.0 / 3.0:
        weights = (4.0 / 3.0 - least / 2.0, 1.0 / 3.0, least / 2.0 - 2.0 / 3.0)
        variance = 7.0 / 3.0 - 2.0 * least + least**2 / 2.0
    else:
        weights = (0.0, 3.0 - least, least - 2.0)
        variance = 2.0 * least**2 - 10.0 * least + 13.0
    answer = solved(least_variance(np.array([1.0, 2.0, 3.0]), least, full=np.eye(3)))
    assert answer.weights == pytest.approx(weights, abs=1e-5)
    assert answer.verdict.objective == pytest.approx(variance, rel=2e-6)


CUTOFF = (
    (15.0, 1.0, 50.0, 23.5),
    (17.0, 1.5, 40.0, 24.6),
    (12.0, 1.0, 20.0, 20.0),
    (17.0, 2.0, 10.0, 28.4),
    (11.0, 1.0, 40.0, 3.5),
    (11.0, 1.5, 30.0, 0.0),
    (11.0, 2.0, 40.0, 0.0),
    (7.0, 0.8, 16.0, 0.0),
    (7.0, 1.0, 20.0, 0.0),
    (5.6, 0.6, 6.0, 0.0),
)
"""Mean, beta, specific variance and published weight, all in percent: Elton, Gruber and Padberg, Journal of
Finance 31 (1976) 1341; the example of Elton and Gruber, Modern Portfolio Theory, ch. 9. Riskless rate 5, market
variance 10, cut-off 5.45."""


def test_elton_gruber_and_padbergs_cut_off_portfolio_is_reproduced() -> None:
    mean, beta, specific, published = (np.array(column) for column in zip(*CUTOFF, strict=True))
    excess = mean - 5.0
    # Their rule: cut-off from the names in order of excess return over beta, weights (beta / specific)(ratio - C*).
    ratio = excess / beta
    sums = np.cumsum(excess * beta / specific), np.cumsum(beta**2 / specific)
    cutoff = float(np.max(10.0 * sums[0] / (1.0 + 10.0 * sums[1])))
    raw = beta / specific * np.maximum(ratio - cutoff, 0.0)
    assert cutoff == pytest.approx(5.45, abs=0.005)
    # The tangent portfolio: least variance for a little excess return, the rest in cash, then scaled to one.
    book = least_variance(
        excess / 100.0,
        0.01,
        exposures=beta[:, None],
        covariance=np.array([[0.1]]),
        variance=specific / 100.0,
        limits=LOOSE,
    )
    weights = solved(book).weights
    assert book.problem.names.labels == tuple(f"S{i}" for i in range(10))
    assert weights / weights.sum() == pytest.approx(raw / raw.sum(), abs=1e-5)
    # The printed weights follow from the cut-off as printed, to two digits.
    assert weights / weights.sum() == pytest.approx(published / 100.0, abs=8e-4)


def test_bodie_kane_and_marcus_debt_and_equity_are_reproduced() -> None:
    """Bodie, Kane and Marcus, Investments, ch. 7: debt 8 % at 12 %, equity 13 % at 20 %, correlation 0.3, bills 5 %."""
    covariance = from_correlations([0.12, 0.20], symmetric(2, [0.3]))
    smallest = solved(least_variance(np.array([0.08, 0.13]), 0.0, full=covariance))
    assert smallest.weights == pytest.approx([0.82, 0.18], abs=1e-5)
    assert np.sqrt(smallest.verdict.objective) == pytest.approx(0.1145, abs=5e-5)
    tangent = solved(least_variance(np.array([0.03, 0.08]), 0.01, full=covariance, limits=LOOSE)).weights
    assert tangent / tangent.sum() == pytest.approx([0.40, 0.60], abs=1e-4)


COUNTRIES = symmetric(
    7,
    [
        *(0.488, 0.478, 0.515, 0.439, 0.512, 0.491),
        *(0.664, 0.655, 0.310, 0.608, 0.779),
        *(0.861, 0.355, 0.783, 0.668),
        *(0.354, 0.777, 0.653),
        *(0.405, 0.306),
        0.652,
    ],
)
VOLATILITY = [0.160, 0.203, 0.248, 0.271, 0.210, 0.200, 0.187]
CAPITALISATION = np.array([0.016, 0.022, 0.052, 0.055, 0.116, 0.124, 0.615])
EQUILIBRIUM = np.array([0.039, 0.069, 0.084, 0.090, 0.043, 0.068, 0.076])
"""Australia, Canada, France, Germany, Japan, United Kingdom, United States; risk aversion 2.5: He and Litterman,
The Intuition Behind Black-Litterman Model Portfolios (1999), tables 1 and 2."""


def test_he_and_littermans_equilibrium_returns_lead_back_to_the_market() -> None:
    covariance = from_correlations(VOLATILITY, COUNTRIES)
    implied = 2.5 * covariance @ CAPITALISATION
    assert implied == pytest.approx(EQUILIBRIUM, abs=6e-4)
    market = float(implied @ CAPITALISATION)
    answer = solved(least_variance(implied, market, full=covariance))
    assert answer.weights == pytest.approx(CAPITALISATION, abs=1e-4)
    assert answer.verdict.objective == pytest.approx(market / 2.5, rel=2e-6)


@pytest.mark.parametrize("gain", [0.002, 0.005, 0.01])
def test_rolls_tracking_error_frontier_is_met_whatever_the_benchmark(gain: float) -> None:
    """Roll, Journal of Portfolio Management 18 (1992) 13: the trades away from a benchmark that gain a return with the
    least tracking error are the same for every benchmark: ``gain / d  V^-1 (mean - (b / c) 1)``, ``d = a - b^2 / c``.
    """
    inverse, ones = np.linalg.inv(COVARIANCE), np.ones(3)
    a, b, c = (u @ inverse @ v for u, v in ((MEAN, MEAN), (ones, MEAN), (ones, ones)))
    d = a - b * b / c
    trades = gain / d * inverse @ (MEAN - b / c * ones)
    for bench in (np.array([0.3, 0.3, 0.4]), np.array([0.5, 0.2, 0.3])):
        held = {f"S{i}": weight for i, weight in enumerate(bench.tolist())}
        book = least_variance(MEAN, float(MEAN @ bench) + gain, full=COVARIANCE, benchmark=held)
        answer = solved(book)
        assert answer.weights - bench == pytest.approx(trades, abs=1e-4)
        assert answer.verdict.objective == pytest.approx(gain**2 / d, rel=2e-6)
