"""The README cannot go stale: its Python runs, its commands and exit codes exist, its YAML is a scenario."""

import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from engine import errors
from engine.api.loading import load_universe
from engine.api.mandating import check_mandates, load_rules
from engine.api.stories import check_stories, load_stories
from engine.cli.main import COMMANDS, run
from engine.errors import EngineError
from engine.mandates.priorities import GIVES_WAY
from engine.mandates.priorities import KINDS as KINDS_OF_LIMITS
from engine.scenarios.kinds import KINDS
from engine.stress.reverse_bounds import read_bounds
from engine.tables.trades import LIMIT_KINDS

README = (Path(__file__).parent.parent / "README.md").read_text()

BUNDLED = Path(__file__).parent.parent / "universes" / "ai_curve"


def fenced(language: str) -> str:
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL))


def test_the_python_of_the_readme_runs_and_says_what_it_promises(capsys):
    code = fenced("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102  the README's own example
    printed = capsys.readouterr().out
    assert "ai_infrastructure" in printed
    assert "certified" in printed
    assert names["rebalanced"].tables["trades"].height > 0


def test_every_scenario_of_the_readme_is_one_and_runs():
    stories = load_stories()
    texts = [
        text for text in re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL) if re.search("(?m)^kind: ", text)
    ]
    for text in texts:
        stories, _ = stories.with_texts({"readme.yaml": text})
    assert set(check_stories(stories).values()) == {()}
    kinds = {stories.library.scenario(name).body.kind for name in re.findall(r"(?m)^id: (\w+)", "\n".join(texts))}
    assert kinds == set(KINDS)
    views = stories.library.scenario("my_story").body.views
    assert {view.subject[0] for view in views} == {"factor", "tier", "security", "basket", "contrast"}


def test_the_mandate_of_the_readme_is_one_and_rules_a_book_to_its_published_tables(tmp_path):
    (text,) = [text for text in re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL) if "max_weight: " in text]
    assert check_mandates(load_rules().with_texts({"my_mandate.yaml": text}), ["my_mandate"]) == {"my_mandate": ()}
    universe = tmp_path / "universe"
    shutil.copytree(BUNDLED, universe)
    (universe / "mandates" / "my_mandate.yaml").write_text(text)
    books = universe / "portfolios.csv"
    given = "momentum_growth,Momentum growth,core,diversified,,"
    assert given in books.read_text()
    ruled = "momentum_growth,Momentum growth,core,my_mandate,us_large_cap,"
    books.write_text(books.read_text().replace(given, ruled))
    asked = ["--portfolio", "momentum_growth", "--out", str(tmp_path / "out"), "--quiet"]
    assert run(["rebalance", "--universe", str(universe), *asked]) == 0
    (limits,) = (tmp_path / "out").rglob("limits.parquet")
    kinds = {
        "shortfall",
        "concentration",
        "stress",
        "tracking_error",
        "tier",
        "active_sector",
        "factor",
        "turnover",
        "cash",
    }
    assert kinds <= set(pl.read_parquet(limits)["kind"])


def test_every_kind_of_limit_that_a_mandate_can_state_has_its_word_in_the_table():
    assert {*GIVES_WAY, *KINDS_OF_LIMITS.values()} <= {*LIMIT_KINDS}


def test_the_bounds_of_the_readme_are_some():
    (text,) = [text for text in re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL) if "order: " in text]
    assert read_bounds(text, "bounds.yaml", load_universe().vocabulary)


def test_every_command_stands_in_the_table_of_the_readme():
    assert re.findall(r"^\| `engine ([a-z-]+)` \|", README, flags=re.MULTILINE) == list(COMMANDS)


def test_every_exit_code_stands_in_the_table_of_the_readme():
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", README, flags=re.MULTILINE)}
    leaves = {EngineError}
    while grown := {below for leaf in leaves for below in leaf.__subclasses__()} - leaves:
        leaves |= grown
    raised = {leaf.exit_code for leaf in leaves}
    returned = {getattr(errors, name) for name in dir(errors) if name.startswith("EXIT_")}
    assert documented == raised | returned


@pytest.mark.parametrize("path", re.findall(r"`((?:engine|universes)/[\w./]+)`", README))
def test_every_path_that_the_readme_names_exists(path):
    assert (Path(__file__).parent.parent / path).exists()
