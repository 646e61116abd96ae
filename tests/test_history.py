"""The past of the factors: each day's covariance is the model's own on the days before."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from engine.api.loading import load_universe
from engine.errors import AlignmentError, ModelError
from engine.risk.covariance import Adjustments, estimate_factor_covariance
from engine.risk.history import FactorHistory, one_step_covariances

ADJUSTMENTS = [
    Adjustments(),
    Adjustments(regime_half_life=20.0),
    Adjustments(newey_west_lags=3, correlation_shrinkage=0.2, regime_half_life=42.0),
]


@pytest.mark.parametrize("adjustments", ADJUSTMENTS)
@pytest.mark.parametrize("n_days", [60, 300])
def test_one_step_covariances_are_the_model_s_own_on_the_days_before(adjustments: Adjustments, n_days: int) -> None:
    rng = np.random.default_rng(4)
    values = 0.01 * rng.standard_normal((n_days, 4)) @ rng.standard_normal((4, 4)) + 0.001
    half_lives = {"volatility_half_life": 21.0, "correlation_half_life": 126.0}
    ours = one_step_covariances(values, **half_lives, adjustments=adjustments)
    start = min(126, n_days // 2)
    assert len(ours) == n_days - start
    for t in {start, start + 1, (start + n_days) // 2, n_days - 1}:
        theirs = estimate_factor_covariance(values[:t], **half_lives, adjustments=adjustments)
        np.testing.assert_allclose(ours[t - start], theirs, rtol=1e-12, atol=1e-12 * np.abs(theirs).max())


@pytest.mark.parametrize("adjustments", ADJUSTMENTS)
def test_one_step_covariances_look_at_no_later_day(adjustments: Adjustments) -> None:
    values = 0.01 * np.random.default_rng(5).standard_normal((200, 3))
    changed = values.copy()
    changed[150:] *= 9.0
    half_lives = {"volatility_half_life": 21.0, "correlation_half_life": 126.0}
    before, after = (one_step_covariances(x, **half_lives, adjustments=adjustments) for x in (values, changed))
    np.testing.assert_array_equal(before[: 150 - 100 + 1], after[: 150 - 100 + 1])
    assert (before[150 - 100 + 1] != after[150 - 100 + 1]).any()


def test_a_history_is_joined_by_name_and_refuses_a_gap(written: Path) -> None:
    loaded = load_universe(str(written))
    history, settings = loaded.history, loaded.universe.settings.calibration
    n_days, k = history.values.shape
    frame = pl.DataFrame(
        {
            "date": np.repeat(np.array(history.dates, dtype="datetime64[D]"), k),
            "factor": list(history.factors.labels) * n_days,
            "return": history.values.ravel(),
        }
    )
    shuffled = FactorHistory.from_frame(frame.sample(fraction=1.0, shuffle=True, seed=3), history.factors, settings)
    assert shuffled.dates == history.dates
    np.testing.assert_array_equal(shuffled.values, history.values)
    np.testing.assert_array_equal(shuffled.covariances, history.covariances)
    with pytest.raises(AlignmentError):
        FactorHistory.from_frame(frame[:-1], history.factors, settings)
    with pytest.raises(ModelError, match="a return is not finite"):
        FactorHistory.from_frame(frame.with_columns(pl.lit(np.inf).alias("return")), history.factors, settings)
