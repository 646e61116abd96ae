"""Shapes are checked in every call, hypothesis repeats itself, and the fixtures everyone shares."""

import json
import shutil
from pathlib import Path
from typing import Any

import hypothesis
import polars as pl
import pytest
from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parent.parent

# beartype cannot read a hint on polars' DataType (its repr is inconsistent) nor on pydantic's
# ValidationInfo (a protocol without runtime checks); these rooms hold no array.
UNCHECKED = {
    "engine.contracts",
    "engine.curve.universe",
    "engine.intake",
    "engine.mandates.costs",
    "engine.mandates.mandate",
    "engine.scenarios.drivers",
    "engine.scenarios.kinds",
    "engine.scenarios.views",
    "engine.stress.reverse_bounds",
}


def _rooms() -> list[str]:
    paths = sorted((ROOT / "engine").rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths if path.stem[:2] != "__"]
    return [name for name in names if name not in UNCHECKED]


install_import_hook(_rooms(), "beartype.beartype")

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=20)
hypothesis.settings.load_profile("repeatable")

from market import Market, make_holdings, make_market, make_portfolios  # noqa: E402

from engine.api.loading import LoadedUniverse, load_universe  # noqa: E402
from engine.curve.universe import Universe, build_universe  # noqa: E402
from engine.risk.alternatives import alternative_tables, estimate_alternatives  # noqa: E402
from engine.risk.calibration import Calibration, calibrate  # noqa: E402

BOOKS = {
    "growth": {"CHIPS-0": 0.15, "CHIPS-1": 0.15, "GRID-0": 0.2, "STRADDLE": 0.2, "REST-00": 0.2},
    "income": {"REST-01": 0.3, "REST-02": 0.3, "TWIN-A": 0.1, "TWIN-B": 0.1, "FUND": 0.1},
    "soft": {"APPS-0": 0.4, "APPS-1": 0.4, "YOUNG": 0.05, "GAPPY": 0.1},
}

SCENARIO = """\
id: planted_day
title: The planted day
version: 1.0.0
kind: shock
horizon_days: 1
narrative: What the planted factors do on the event.
author: tests
propagation: none
views:
  - {factor: market, value: -0.02, source: planted}
  - {tier: chips, pure: -0.09, source: planted}
  - {tier: grid, pure: -0.15, source: planted}
  - {tier: apps, pure: 0.04, source: planted}
"""

MANDATE = """\
id: careful
title: Careful
version: 1.0.0
limits:
  turnover: 0.3
  stress:
    - {scenario: planted_day, max_loss: 0.08}
"""


@pytest.fixture(scope="session")
def market() -> Market:
    """The market with planted truth."""
    return make_market()


@pytest.fixture(scope="session")
def universe(market: Market) -> Universe:
    """Its universe."""
    return build_universe(market.settings, market.securities, "securities")


@pytest.fixture(scope="session")
def calibration(market: Market, universe: Universe) -> Calibration:
    """Its model, as of the day before the event."""
    return calibrate(market.prices, universe, as_of=market.as_of)


@pytest.fixture(scope="session")
def books(market: Market) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Holdings and portfolios of three books below one house."""
    return make_holdings(market, BOOKS), make_portfolios(dict.fromkeys(BOOKS, "house"), "careful")


@pytest.fixture(scope="session")
def written(
    market: Market,
    universe: Universe,
    calibration: Calibration,
    books: tuple[pl.DataFrame, pl.DataFrame],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The planted universe as a folder, with model, scenario, mandate and books; not to be changed."""
    from dataclasses import asdict

    from engine.store.runs import write_model

    root = tmp_path_factory.mktemp("planted")
    (root / "universe.yaml").write_text(json.dumps(market.settings.model_dump(), indent=2))
    market.securities.write_csv(root / "securities.csv")
    books[1].write_csv(root / "portfolios.csv")
    for folder in ("holdings", "scenarios", "mandates"):
        (root / folder).mkdir()
    books[0].write_parquet(root / "holdings" / f"{market.as_of}.parquet")
    (root / "scenarios" / "planted_day.yaml").write_text(SCENARIO)
    (root / "mandates" / "careful.yaml").write_text(MANDATE)
    model = calibration.model
    card: dict[str, Any] = {
        "universe": "planted",
        "as_of": model.as_of.isoformat(),
        "factors": list(model.factors.labels),
        "settings": market.settings.calibration.model_dump(),
        "tails": asdict(model.tails),
    }
    alternatives, _ = estimate_alternatives(calibration, universe)
    tables = {**calibration.tables, **alternative_tables(model, alternatives)}
    write_model(root / "model", tables, card)
    market.prices.write_parquet(root / "prices.parquet")
    return root


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of the planted universe's folder, to be broken."""
    return Path(shutil.copytree(written, tmp_path / "planted"))


@pytest.fixture(scope="session")
def bundled() -> LoadedUniverse:
    """The universe that ships."""
    return load_universe()


@pytest.fixture(scope="session")
def real_prices() -> Path:
    """Real prices beside the repository, where someone has put them."""
    path = ROOT.parent / "shared" / "data" / "prices.parquet"
    if not path.is_file():
        pytest.skip("no real prices beside the repository (../shared/data/prices.parquet)")
    return path
