"""Second models: each from its definition, and through its tables."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from engine.api.loading import load_universe
from engine.conventions import ALTERNATIVE_MODELS
from engine.curve.universe import Universe
from engine.errors import AlignmentError, ContractError, EngineError, ModelError
from engine.intake import admit
from engine.risk.alternatives import alternative_tables, estimate_alternatives, read_alternatives
from engine.risk.calibration import Calibration, calibrate_panel
from engine.risk.model import RiskModel

TABLES = ("alternative_exposures", "alternative_covariance", "alternative_specific")


@pytest.fixture(scope="module")
def alternatives(calibration: Calibration, universe: Universe) -> dict[str, RiskModel]:
    """The second models of the planted market."""
    models, notices = estimate_alternatives(calibration, universe)
    assert notices == ()
    return models


@pytest.fixture(scope="module")
def tables(calibration: Calibration, alternatives: dict[str, RiskModel]) -> dict[str, pl.DataFrame]:
    return alternative_tables(calibration.model, alternatives)


def test_all_share_the_bases_axes_issuers_tails_and_date(
    calibration: Calibration, alternatives: dict[str, RiskModel]
) -> None:
    base = calibration.model
    assert tuple(alternatives) == ALTERNATIVE_MODELS
    for model in alternatives.values():
        assert (model.as_of, model.securities, model.factors, model.tails) == (
            base.as_of,
            base.securities,
            base.factors,
            base.tails,
        )
        np.testing.assert_array_equal(model.issuers, base.issuers)
        np.testing.assert_array_equal(model.largest_moves, base.largest_moves)


def test_only_what_a_model_is_named_for_differs(calibration: Calibration, alternatives: dict[str, RiskModel]) -> None:
    def same(name: str, part: str) -> bool:
        return bool(np.array_equal(getattr(alternatives[name], part), getattr(calibration.model, part)))

    parts = ("exposures", "factor_covariance", "specific_variance")
    assert {name: [same(name, part) for part in parts] for name in alternatives} == {
        "short": [False, False, False],
        "stress": [True, False, True],
        "cross_section": [False, True, False],
    }


def test_the_short_model_sees_a_change_sooner(calibration: Calibration, universe: Universe) -> None:
    """Twenty market betas move by 1 up or down, and everything three times as much, for the last 40 days."""
    values = calibration.panel.values.copy()
    at = calibration.panel.securities.positions([f"REST-{number:02}" for number in range(20)], "test")
    shift = np.tile([1.0, -1.0], 10)
    values[-40:, at] += calibration.factors.values[-40:, [0]] * shift
    values[-40:] *= 3.0
    changed = calibrate_panel(replace(calibration.panel, values=values), universe)
    models, _ = estimate_alternatives(changed, universe)
    truth = calibration.model.exposures[at, 0] + shift
    short, base = models["short"], changed.model
    sooner, later = (np.abs(model.exposures[at, 0] - truth).mean() for model in (short, base))
    assert sooner < 0.75 * later
    assert (np.diag(short.factor_covariance) > 1.3 * np.diag(base.factor_covariance)).all()
    assert np.median(short.specific_variance / base.specific_variance) > 1.3


def test_the_stress_covariance_is_that_of_the_first_tiers_worst_days(
    calibration: Calibration, alternatives: dict[str, RiskModel]
) -> None:
    values = calibration.factors.values
    worst = values[np.argsort(values[:, 1])[: int(np.ceil(0.1 * len(values)))]]
    left = worst - values.mean(axis=0)
    np.testing.assert_allclose(alternatives["stress"].factor_covariance, 252 * left.T @ left / len(worst), rtol=1e-10)


def test_a_history_too_short_for_worst_days_leaves_that_model_out_and_says_so(
    calibration: Calibration, universe: Universe
) -> None:
    last = slice(-70, None)
    panel = replace(
        calibration.panel,
        dates=calibration.panel.dates[last],
        values=calibration.panel.values[last],
        previous_close=calibration.panel.previous_close[last],
    )
    models, notices = estimate_alternatives(calibrate_panel(panel, universe), universe)
    assert tuple(models) == ("short", "cross_section")
    assert [(n.code, n.severity) for n in notices] == [("model.no_stress_alternative", "warn")]
    assert "7 of 70 days for 4 factors" in notices[0].message


def test_every_table_keeps_its_contract_and_holds_only_what_differs(tables: dict[str, pl.DataFrame]) -> None:
    assert {name: frame["model"].unique().sort().to_list() for name, frame in tables.items()} == {
        "alternative_exposures": ["cross_section", "short"],
        "alternative_covariance": ["short", "stress"],
        "alternative_specific": ["cross_section", "short"],
    }
    for name, frame in tables.items():
        assert admit(frame, name, "test").frame.equals(frame)


def test_models_survive_their_tables_in_any_row_order(
    calibration: Calibration, alternatives: dict[str, RiskModel], tables: dict[str, pl.DataFrame]
) -> None:
    shuffled = {name: frame.sample(fraction=1.0, shuffle=True, seed=7) for name, frame in tables.items()}
    read = read_alternatives(calibration.model, shuffled, source="test")
    assert tuple(read) == ALTERNATIVE_MODELS
    for name, model in read.items():
        for part in ("exposures", "factor_covariance", "specific_variance"):
            np.testing.assert_array_equal(getattr(model, part), getattr(alternatives[name], part))


def test_a_model_that_is_the_base_in_everything_is_not_written(calibration: Calibration) -> None:
    tables = alternative_tables(calibration.model, {"stress": calibration.model})
    assert [frame.height for frame in tables.values()] == [0, 0, 0]
    assert read_alternatives(calibration.model, tables, source="test") == {}


def short_of(value: float) -> pl.Expr:
    return pl.when(pl.col("model") == "short").then(pl.lit(value)).otherwise("annual").alias("annual")


@pytest.mark.parametrize(
    ("table", "change", "error", "words"),
    [
        ("alternative_exposures", lambda f: f.slice(1), AlignmentError, "alternative_exposures of cross_section"),
        (
            "alternative_exposures",
            lambda f: f.with_columns(pl.col("security_id").replace("REST-00", "NOBODY")),
            AlignmentError,
            "NOBODY",
        ),
        (
            "alternative_specific",
            lambda f: f.with_columns(pl.col("security_id").replace("REST-00", "NOBODY")),
            AlignmentError,
            "alternative_specific of cross_section: 1 security label is unknown: NOBODY",
        ),
        ("alternative_specific", lambda f: f.slice(1), AlignmentError, "alternative_specific of cross_section"),
        (
            "alternative_specific",
            lambda f: f.with_columns(pl.col("annual") * 1e4),
            ModelError,
            "m: alternative short: risk model: the median specific volatility",
        ),
        ("alternative_covariance", lambda f: f.with_columns(-pl.col("annual")), ModelError, "alternative short"),
        (
            "alternative_covariance",
            lambda f: f.with_columns(model=pl.lit("other")),
            ContractError,
            "one of short, stress, cross_section",
        ),
        ("alternative_specific", lambda f: f.with_columns(short_of(-1.0)), ContractError, "annual >= 0"),
    ],
)
def test_what_is_no_second_model_is_refused_with_its_place(
    calibration: Calibration,
    tables: dict[str, pl.DataFrame],
    table: str,
    change: Callable[[pl.DataFrame], pl.DataFrame],
    error: type[EngineError],
    words: str,
) -> None:
    with pytest.raises(error) as caught:
        read_alternatives(calibration.model, {**tables, table: change(tables[table])}, source="m")
    assert words in str(caught.value)


def test_a_folder_of_before_loads_without_second_models(folder: Path) -> None:
    card = folder / "model" / "model.json"
    told = json.loads(card.read_text())
    told["tables"] = {name: digest for name, digest in told["tables"].items() if name not in TABLES}
    card.write_text(json.dumps(told))
    loaded = load_universe(str(folder))
    # The files lie there still, but the card does not vouch for them.
    assert (folder / "model" / "alternative_exposures.parquet").exists()
    assert loaded.alternatives == {}
    assert not [source.name for source in loaded.sources if "alternative" in source.name]


def test_a_folder_gives_back_the_models_that_were_written(written: Path, alternatives: dict[str, RiskModel]) -> None:
    loaded = load_universe(str(written))
    assert tuple(loaded.alternatives) == ALTERNATIVE_MODELS
    for name, model in loaded.alternatives.items():
        np.testing.assert_array_equal(model.exposures, alternatives[name].exposures)
    assert {f"model/{name}" for name in TABLES} <= {source.name for source in loaded.sources}


@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_the_card_vouches_for_must_be_that_one(folder: Path, table: str) -> None:
    path = folder / "model" / f"{table}.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=f"{table}.parquet: not the table that model.json vouches for"):
        load_universe(str(folder))
    path.unlink()
    with pytest.raises(EngineError, match=f"model/{table}: no file"):
        load_universe(str(folder))
