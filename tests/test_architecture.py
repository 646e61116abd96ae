"""The house: floors, purity, budgets of import and size, and the pages that must not go stale."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import engine
from engine.cli.main import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCES = {path: ast.parse(path.read_bytes()) for path in sorted((ROOT / "engine").rglob("*.py"))}
GROUND = {"errors", "conventions", "axes", "tables", "contracts", "intake", "documents"}
CORE = {"curve", "risk", "scenarios", "mandates", "stress", "rebalance", "book"}
SHELL = {"store", "desk", "api", "cli", "__main__"}

LARGEST_FILE = 400
MOST_POSITIONAL = 6
HEAVY = ("polars", "numpy", "scipy", "scipy.linalg", "cvxpy", "pyarrow", "pydantic", "dataframely", "rich")

EFFECTS = {"open", "print", "input", "eval", "exec", "compile", "__import__", "breakpoint"}
CLOCKS = {"now", "today", "utcnow", "perf_counter", "monotonic"}
FILE_METHODS = {
    "exists", "is_file", "is_dir", "mkdir", "rmdir", "unlink", "iterdir", "glob", "rglob", "touch", "stat",
    "fromfile", "tofile", "loadtxt", "savetxt", "genfromtxt", "memmap", "savez", "savez_compressed",
}  # fmt: skip
FILE_VERBS = ("read_", "scan_", "write_", "sink_")
OUTSIDE = {
    "os", "sys", "io", "pathlib", "time", "random", "shutil", "tempfile", "glob", "socket", "subprocess", "logging",
}  # fmt: skip
ROW_CALLS = {"map_elements", "map_rows"}

LOCKS = ("requirements.lock", "requirements-dev.lock")


def place(path: Path, node: ast.AST | None = None) -> str:
    line = f":{node.lineno}" if isinstance(node, ast.expr | ast.stmt) else ""
    return f"{path.relative_to(ROOT)}{line}"


def floor(path: Path) -> str:
    return path.relative_to(ROOT / "engine").with_suffix("").parts[0]


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node, node.module or ""


def called_name(node: ast.Call) -> str:
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def chosen_rooms(container: str) -> set[str]:
    contracts = [c for c in PROJECT["tool"]["importlinter"]["contracts"] if c.get("containers") == [container]]
    assert len(contracts) == 1, f"{container} needs one exhaustive layers contract in pyproject.toml"
    assert contracts[0]["exhaustive"]
    return {room for layer in contracts[0]["layers"] for room in re.findall(r"\w+", layer)}


def faults_of_purity(path: Path, tree: ast.AST) -> list[str]:
    faults = [f"{place(path, node)}: imports {name}" for node, name in imports(tree) if name.split(".")[0] in OUTSIDE]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = called_name(node)
        method = isinstance(node.func, ast.Attribute)
        drawn = method and ".random." in f".{ast.unparse(node.func)}" and name != "default_rng"
        seedless = name == "default_rng" and (not node.args or ast.unparse(node.args[0]) == "None")
        reaching = method and (name in CLOCKS | FILE_METHODS | ROW_CALLS or name.startswith(FILE_VERBS))
        if drawn or seedless or reaching or (name in EFFECTS and not method):
            faults.append(f"{place(path, node)}: calls {ast.unparse(node.func)}")
    return faults


def test_every_module_stands_on_a_floor() -> None:
    assert {floor(path) for path in SOURCES} - {"__init__"} <= GROUND | CORE | SHELL
    assert {floor(path) for path in SOURCES} - {"__init__"} == chosen_rooms("engine")


@pytest.mark.parametrize("package", sorted({p.parent.name for p in SOURCES} - {"engine"}))
def test_every_room_has_its_order(package: str) -> None:
    rooms = {path.stem for path in SOURCES if path.parent.name == package} - {"__init__"}
    assert rooms == chosen_rooms(f"engine.{package}")


def test_ground_and_core_touch_no_file_clock_chance_or_screen() -> None:
    pure = {path: tree for path, tree in SOURCES.items() if floor(path) in GROUND | CORE}
    assert not [fault for path, tree in pure.items() for fault in faults_of_purity(path, tree)]


@pytest.mark.parametrize(
    "crime",
    [
        "open('x')",
        "print(1)",
        "import os",
        "from pathlib import Path",
        "def f():\n    import time",
        "pl.read_parquet('x')",
        "pl.scan_csv('x')",
        "frame.write_csv('x')",
        "frame.lazy().sink_parquet('x')",
        "folder.exists()",
        "dt.datetime.now()",
        "date.today()",
        "np.random.normal()",
        "np.random.default_rng()",
        "frame.map_rows(f)",
    ],
)
def test_purity_check_catches(crime: str) -> None:
    assert faults_of_purity(ROOT / "engine" / "crime.py", ast.parse(crime))


@pytest.mark.parametrize("virtue", ["rng.normal(0, 1)", "np.random.default_rng(7)", "frame.rename(x)", "panel.dates"])
def test_purity_check_lets_pass(virtue: str) -> None:
    assert not faults_of_purity(ROOT / "engine" / "virtue.py", ast.parse(virtue))


def test_only_programs_import_cvxpy() -> None:
    users = {
        place(path, node)
        for path, tree in SOURCES.items()
        for node, name in imports(tree)
        if name.split(".")[0] == "cvxpy" and not path.stem.endswith("program")
    }
    assert not users


def test_no_file_has_two_nouns() -> None:
    lengths = {place(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert not {path: length for path, length in lengths.items() if length > LARGEST_FILE}


def test_no_function_takes_many_by_position() -> None:
    faults = []
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef):
                continue
            names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
            by_click = any(ast.unparse(d).startswith("click.command") for d in node.decorator_list)
            if not by_click and len([name for name in names if name not in {"self", "cls"}]) > MOST_POSITIONAL:
                faults.append(f"{place(path, node)}: {node.name}")
    assert not faults


def loaded_after(statement: str) -> set[str]:
    """The heavy libraries that one statement loads in a fresh interpreter."""
    code = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{statement}\nprint('loaded:', *sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name for name in done.stdout.rpartition("loaded:")[2].split() if name in HEAVY}


@pytest.mark.parametrize(
    "statement",
    [
        "import engine; dir(engine)",
        "from engine.cli.main import run; assert run([]) == 0",
        "from engine.cli.main import run; assert run(['--help']) == 0",
        "from engine.cli.main import run; assert run(['--version']) == 0",
    ],
)
def test_saying_hello_loads_nothing_heavy(statement: str) -> None:
    assert not loaded_after(statement)


def test_stress_loads_no_optimiser_no_writer_and_no_dense_algebra() -> None:
    stress = "from engine.cli.main import run; assert run(['stress', '--format', 'csv']) == 0"
    assert not loaded_after(stress) & {"cvxpy", "pyarrow", "scipy.linalg"}


def test_a_rebalance_in_which_no_book_needs_the_ladder_loads_no_modelling_layer() -> None:
    statement = (
        "from engine.api.loading import load_universe\n"
        "from engine.api.rebalancing import rebalance_portfolios\n"
        "certificates = rebalance_portfolios(load_universe()).tables['certificates']\n"
        "assert set(certificates['rung']) == {0}, set(certificates['rung'])"
    )
    assert "cvxpy" not in loaded_after(statement)


def test_public_names_are_the_verbs() -> None:
    assert set(engine.__all__) == {"__version__", *engine._PUBLIC}
    assert sorted(engine.__all__) == dir(engine)
    for name in engine._PUBLIC:
        assert callable(getattr(engine, name))


def test_no_public_name_hides_a_package() -> None:
    assert not {floor(path) for path in SOURCES} & set(engine.__all__)


def test_unknown_public_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match="stress_portfolios"):
        engine.nonsense  # noqa: B018 - the look-up is the test


@pytest.mark.parametrize("command", COMMANDS)
def test_command_explains_itself(command: str) -> None:
    module, words = COMMANDS[command]
    answer = CliRunner().invoke(cli, [command, "--help"])
    assert answer.exit_code == 0, answer.output
    assert words.rstrip(".") in " ".join((importlib.import_module(module).command.help or "").split())


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_in_the_readme(command: str) -> None:
    assert f"engine {command}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_version_is_said_once_and_changed_in_the_changelog() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"] == {"path": "engine/__init__.py"}
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[?v?(\d+\.\d+\.\d+)\]?", changelog, flags=re.MULTILINE)
    assert newest, "CHANGELOG.md needs a heading '## 0.1.0'"
    assert newest[1] == engine.__version__


def pins(lock: str) -> dict[str, set[str]]:
    """Pinned versions by name: a universal lock may hold several of one name, each for its platform."""
    found: dict[str, set[str]] = {}
    for entry in re.split(r"\n(?=\S)", (ROOT / lock).read_text(encoding="utf-8").strip()):
        name, _, rest = entry.partition("==")
        assert rest, f"{lock}: not a pin: {entry[:80]}"
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", rest), f"{lock}: {name} has no hash"
        found.setdefault(name, set()).add(re.split(r"[\s;\\]", rest, maxsplit=1)[0])
    return found


def declared(*extras: str) -> set[str]:
    project = PROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {re.split(r"[<>=\[; ]", line, maxsplit=1)[0].lower().replace(".", "-").replace("_", "-") for line in lines}


def test_locks_pin_what_is_declared_and_dev_contains_runtime() -> None:
    runtime, dev = map(pins, LOCKS)
    assert declared("build") <= runtime.keys()
    assert declared("build", "dev") <= dev.keys()
    assert not {name: versions for name, versions in runtime.items() if dev.get(name) != versions}


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_names_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.findall(r"^-.*", text, flags=re.MULTILINE)


def kept_files() -> list[Path]:
    """The files of the project: what git tracks or would, or all but the products where there is no git."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if (ROOT / ".git").exists():
        done = subprocess.run(command, capture_output=True, check=True)
        return [path for name in done.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]
    products = {".venv", "build", "dist", "out", "model", ".hypothesis"}
    parts = {path: path.relative_to(ROOT).parts for path in ROOT.rglob("*") if path.is_file()}
    return [path for path, names in parts.items() if names[0] not in products and "__pycache__" not in names]


def test_no_file_names_a_place_on_somebody_s_machine() -> None:
    here = {re.escape(bytes(path)) for path in (ROOT, Path.home()) if len(path.parts) > 2}
    pattern = re.compile(
        rb"(?<![\w.-])(?:" + b"|".join([rb"/(?:home|Users|root|work)/\w", rb"[A-Z]:\\Users\\", *here]) + rb")"
    )
    found = {place(path): match[0] for path in kept_files() if (match := pattern.search(path.read_bytes()))}
    assert not found


def test_warnings_are_errors(request: pytest.FixtureRequest) -> None:
    assert request.config.getini("filterwarnings")[0] == "error"
    with pytest.raises(UserWarning, match="loud"):
        warnings.warn("loud", stacklevel=1)
