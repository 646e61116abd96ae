"""Risk tiers: the rule as a chain of ifs, its hysteresis, the run before read back, and what parents add up to."""

import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given, seed
from hypothesis import strategies as st

from engine.api.loading import LoadedUniverse, load_universe
from engine.api.stressing import StressResult, stress_portfolios
from engine.book.risk_tier import grade_portfolios
from engine.cli.main import run
from engine.errors import InputFileError
from engine.store.past_runs import read_run_table
from engine.store.runs import Run, write_adhoc

LETTERS = "ABCDE"
NOBODY: dict[str, str] = {}


@pytest.fixture(scope="module")
def result(bundled: LoadedUniverse) -> StressResult:
    """The bundled books under two scenarios, one of which no mandate budgets."""
    return stress_portfolios(bundled, ["deepseek", "overreaction"])


def stress_of(*rows: tuple[str, str, float, float | None, float | None]) -> pl.DataFrame:
    """Portfolio, scenario, P&L, budget, measured loss."""
    schema = {"portfolio_id": pl.String, "scenario_id": pl.String}
    numbers = dict.fromkeys(("pnl_frac", "budget", "measured_loss"), pl.Float64)
    return pl.DataFrame(list(rows), schema={**schema, **numbers}, orient="row")


def grade(use: float, before: str | None = None) -> str:
    """The tier of a book with a budget of 10 % that uses this much of it."""
    stress = stress_of(("book", "crash", -0.1 * use, 0.1, 0.1 * use))
    previous = NOBODY if before is None else {"book": before}
    graded = grade_portfolios(stress, budgeted=["book"], default_loss_scale=0.5, previous=previous)
    assert graded["risk_utilisation"].to_list() == pytest.approx([use])
    return str(graded["risk_tier"].item())


def tier_by_hand(use: float) -> str:
    if use <= 0.5:
        return "A"
    if use <= 0.8:
        return "B"
    if use <= 1.0:
        return "C"
    return "D" if use <= 1.25 else "E"


@pytest.mark.parametrize(
    ("use", "tier"),
    [(-2.0, "A"), (0.5, "A"), (0.51, "B"), (0.8, "B"), (0.81, "C"), (1.0, "C"), (1.01, "D"), (1.25, "D"), (1.26, "E")],
)
def test_the_edges_of_the_tiers_belong_to_the_better_one(use: float, tier: str) -> None:
    assert grade(use) == tier


@pytest.mark.parametrize(
    ("before", "use", "tier"),
    [
        ("C", 0.79, "C"),
        ("C", 0.75, "B"),
        ("D", 0.97, "D"),
        ("D", 0.94, "C"),
        ("D", 0.49, "B"),
        ("E", 0.10, "A"),
        ("E", 1.22, "E"),
        ("A", 0.90, "C"),
        ("B", 0.79, "B"),
        ("A", 1.30, "E"),
    ],
)
def test_a_tier_is_worse_at_once_and_better_only_clearly_inside_it(before: str, use: float, tier: str) -> None:
    assert grade(use, before) == tier


@seed(20250127)
@given(st.floats(-1.0, 3.0), st.sampled_from(LETTERS))
@example(0.76, "E")
def test_the_tier_is_the_one_of_a_chain_of_ifs(use: float, before: str) -> None:
    # Away from the edges, where a tolerance of 1e-9 of NAV decides.
    use = round(use, 3) + 4e-4
    now, earned = tier_by_hand(use), tier_by_hand(use + 0.05)
    assert grade(use) == now
    assert grade(use, before) == max(now, min(before, earned))
    assert grade(use, grade(use, before)) == grade(use, before)


def test_a_book_that_a_certificate_brought_to_its_budget_is_not_a_breach() -> None:
    assert grade(1.0 + 9e-9) == "C" and grade(1.0 + 2e-8) == "D"


def test_the_worst_budgeted_scenario_is_named_and_others_do_not_count() -> None:
    stress = stress_of(
        ("book", "mild", -0.04, 0.05, 0.04), ("book", "crash", -0.06, 0.2, 0.06), ("book", "other", -0.5, None, None)
    )
    graded = grade_portfolios(stress, budgeted=["book"], default_loss_scale=0.1, previous=NOBODY)
    assert graded.rows() == [("book", "B", pytest.approx(0.8), "mild")]


def test_a_book_without_a_budget_is_held_against_the_default_scale_on_its_worst_scenario() -> None:
    stress = stress_of(("free", "a", -0.03, None, None), ("free", "b", -0.11, None, None))
    graded = grade_portfolios(stress, budgeted=[], default_loss_scale=0.1, previous=NOBODY)
    assert graded.rows() == [("free", "D", pytest.approx(1.1), "b")]


def test_a_book_whose_budgets_were_not_run_or_not_measured_has_no_tier() -> None:
    stress = stress_of(
        ("not_run", "a", -0.9, None, None), ("half", "a", -0.1, 0.2, 0.1), ("half", "b", -0.1, 0.2, None)
    )
    graded = grade_portfolios(stress, budgeted=["not_run", "half"], default_loss_scale=0.1, previous=NOBODY)
    assert graded.rows() == []


def test_the_bundled_books_are_graded_by_their_budget_and_the_parents_by_the_default_scale(
    bundled: LoadedUniverse, result: StressResult
) -> None:
    stress = result.tables["stress"]
    losses: dict[str, dict[str, float]] = {}
    for book, scenario, pnl in stress.select("portfolio_id", "scenario_id", "pnl_frac").iter_rows():
        losses.setdefault(book, {})[scenario] = -pnl
    mandate_of = dict(bundled.portfolios.select("portfolio_id", "mandate_id").iter_rows())
    rows = result.tables["portfolio_summary"].select("portfolio_id", "risk_tier", "risk_utilisation", "risk_scenario")
    assert rows.height == 20
    for book, tier, use, scenario in rows.iter_rows():
        mandate = mandate_of[book]
        scales = (
            dict.fromkeys(losses[book], 0.10)
            if mandate is None
            else {budget.scenario: budget.max_loss for budget in bundled.mandates[mandate].limits.stress}
        )
        uses = {name: losses[book][name] / scale for name, scale in scales.items() if name in losses[book]}
        assert use == pytest.approx(max(uses.values()), abs=1e-12)
        assert uses[scenario] == pytest.approx(use, abs=1e-12)
        assert tier == tier_by_hand(use)


def test_the_loss_of_a_parent_is_the_nav_weighted_loss_of_its_books(
    bundled: LoadedUniverse, result: StressResult
) -> None:
    stress = result.tables["stress"]
    found = {
        row[:2]: row[2:] for row in stress.select("portfolio_id", "scenario_id", "pnl_frac", "nav_base").iter_rows()
    }
    parents = bundled.portfolios.select("portfolio_id", "parent_id").drop_nulls()
    for parent in ("firm", "core", "thematic", "multi_asset"):
        below = parents.filter(pl.col("parent_id") == parent)["portfolio_id"].to_list()
        for scenario in ("deepseek", "overreaction"):
            pnl, nav = found[parent, scenario]
            assert nav == pytest.approx(sum(found[book, scenario][1] for book in below), rel=1e-14)
            whole = sum(found[book, scenario][0] * found[book, scenario][1] for book in below) / nav
            assert pnl == pytest.approx(whole, abs=1e-12)


def written(result: StressResult, out: Path, **tiers: str) -> Path:
    """A run with these tiers, as ``engine stress --out`` leaves it."""
    chosen = pl.col("portfolio_id").replace_strict(tiers, default=None, return_dtype=pl.String)
    summary = result.tables["portfolio_summary"].with_columns(pl.coalesce(chosen, "risk_tier").alias("risk_tier"))
    return write_adhoc(out, Run(result.as_of, "stress", {"portfolio_summary": summary}, [], {}, {}))


def test_the_run_before_holds_a_tier_back(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A budget of which one book uses 0.78: tier B, and only 0.02 inside it.
    loaded = load_universe(str(folder))
    stress = stress_portfolios(loaded).tables["stress"]
    loss = -stress.filter(pl.col("portfolio_id") == "growth")["pnl_frac"].item()
    path = folder / "mandates" / "careful.yaml"
    path.write_text(path.read_text().replace("max_loss: 0.08", f"max_loss: {loss / 0.78:.6f}"))
    free = stress_portfolios(load_universe(str(folder)))
    before = written(free, tmp_path / "past", growth="C")
    call = ["stress", "--universe", str(folder), "--quiet", "--format", "json", "--out", str(tmp_path / "now")]
    tiers, folders = [], []
    for more in ([], ["--previous", str(before)]):
        assert run([*call, *more]) == 0
        out, err = capsys.readouterr()
        tiers.append({row["portfolio_id"]: row["risk_tier"] for row in json.loads(out)["portfolio_summary"]})
        folders.append(Path(err.strip().removeprefix("written: ")))
    assert tiers[0]["growth"] == "B"
    assert tiers[1] == {**tiers[0], "growth": "C"}
    manifest = json.loads((folders[1] / "manifest.json").read_text())
    kept = json.loads((before / "manifest.json").read_text())["files"]["portfolio_summary.parquet"]["sha256"]
    assert manifest["inputs"]["previous/portfolio_summary"] == kept


def test_a_table_that_its_manifest_does_not_vouch_for_is_refused(result: StressResult, tmp_path: Path) -> None:
    folder = written(result, tmp_path)
    frame, source = read_run_table(folder, "portfolio_summary", "stress", "rebalance")
    assert frame.equals(result.tables["portfolio_summary"])
    (folder / "portfolio_summary.parquet").write_bytes(source.content[:-1] + b"?")
    with pytest.raises(InputFileError, match="not the table that its manifest vouches for"):
        read_run_table(folder, "portfolio_summary", "stress", "rebalance")
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(InputFileError, match="not the manifest of a run"):
        read_run_table(folder, "portfolio_summary", "stress", "rebalance")
    with pytest.raises(InputFileError, match=r"no manifest\.json in"):
        read_run_table(tmp_path, "portfolio_summary", "stress")
