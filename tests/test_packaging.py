"""The wheel: what is in it, and that it works where there is no checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import engine

ROOT = Path(__file__).resolve().parents[1]
UNIVERSE = "engine/universes/ai_curve"


def pip(*arguments: str) -> None:
    """Run pip without a network and without a look at newer versions of itself."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT))
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--no-index", "--no-deps", "--target", str(target), str(wheel))
    return target


def python(installed: Path, elsewhere: Path, *arguments: str) -> str:
    """Run the installed wheel.

    ``-S`` skips .pth files and with them the editable install, ``-P`` the current folder:
    the checkout is on no path, the dependencies are.
    """
    libraries = {sysconfig.get_path("purelib"): None, sysconfig.get_path("platlib"): None}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), *libraries])}
    command = [sys.executable, "-P", "-S", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=elsewhere, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_is_named_by_the_version(wheel: Path) -> None:
    assert wheel.name == f"ai_curve_engine-{engine.__version__}-py3-none-any.whl"


def test_wheel_holds_the_package_and_the_data_of_the_universe_and_nothing_else(contents: dict[str, bytes]) -> None:
    source = {path.relative_to(ROOT).as_posix() for path in (ROOT / "engine").rglob("*.py")}
    data = {
        f"engine/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / "universes" / "ai_curve").rglob("*")
        if path.is_file()
    }
    metadata = {name for name in contents if ".dist-info/" in name}
    assert set(contents) - metadata == source | data | {"engine/py.typed"}
    assert {name.partition("/")[2] for name in metadata} >= {"METADATA", "entry_points.txt", "licenses/LICENSE"}


def test_wheel_holds_no_price_history(contents: dict[str, bytes]) -> None:
    assert f"{UNIVERSE}/universe.yaml" in contents
    data = [name for name in contents if not name.endswith(".yaml")]  # a scenario may be called price_war
    assert not [name for name in data if "price" in name.rpartition("/")[2]]
    assert not [name for name, content in contents.items() if name.endswith(".parquet") and b"close" in content[-4000:]]


def test_installed_wheel_stresses_its_own_universe_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = python(
        installed,
        tmp_path,
        "-c",
        "import json, sys, engine; from engine.store.universes import bundled_root;"
        "print(json.dumps([engine.__file__, str(bundled_root()), sys.path]))",
    )
    file, universes, path = json.loads(where)
    assert Path(file).is_relative_to(installed)
    assert Path(universes) == installed / "engine" / "universes"
    assert str(ROOT) not in path

    answer = json.loads(python(installed, tmp_path, "-m", "engine", "stress", "--format", "json"))
    assert answer["universe"] == "ai_curve"
    assert answer["portfolio_summary"]
    assert not list(tmp_path.iterdir())
