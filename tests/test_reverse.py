"""Reverse stress in closed form: against dense algebra, its laws, its tables, the verb and the command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from market import LINES, Market, make_holdings, make_portfolios
from scipy import stats

from engine.api.loading import LoadedUniverse, load_universe
from engine.api.reversing import ReverseQuestion, reverse_stress_portfolios
from engine.cli.main import cli, run
from engine.contracts import CONTRACTS
from engine.curve.universe import Universe
from engine.errors import DataError, UsageError
from engine.intake import admit
from engine.risk.attribution import measure_tails
from engine.risk.calibration import Calibration
from engine.risk.model import RiskModel
from engine.risk.portfolios import Portfolios, weigh_holdings
from engine.stress.propagation import propagate
from engine.stress.reverse import (
    ReverseStress,
    factor_variances,
    keep_books_with_risk,
    measure_resemblance,
    reverse_stress,
    worst_within,
)
from engine.stress.reverse_tables import tabulate_reverse

Captured = pytest.CaptureFixture[str]
LONG_SHORT = {"pairs": {"CHIPS-0": 0.5, "GRID-0": -0.4, LINES[0]: 0.3, LINES[1]: -0.1}, "cash": {}}


def weigh(
    books: dict[str, dict[str, float]], market: Market, calibration: Calibration, universe: Universe
) -> Portfolios:
    parents = dict.fromkeys(books, "house")
    frames = (make_holdings(market, books), make_portfolios(parents))
    return weigh_holdings(*frames, model=calibration.model, curve=calibration.curve, universe=universe)[0]


@pytest.fixture(scope="module")
def portfolios(books: tuple[pl.DataFrame, pl.DataFrame], calibration: Calibration, universe: Universe) -> Portfolios:
    """Three books and the house above them."""
    return weigh_holdings(*books, model=calibration.model, curve=calibration.curve, universe=universe)[0]


@pytest.fixture(scope="module")
def answer(portfolios: Portfolios) -> ReverseStress:
    """A tenth of NAV in five days."""
    return reverse_stress(portfolios, np.full(len(portfolios.ids), 0.1), horizon_days=5)


def dense_covariances(model: RiskModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B, F and the block matrix D, read back from the model's tables alone."""
    tables = model.tables
    labels = list(model.factors.labels)
    exposures = tables["exposures"].pivot("factor", index="security_id", values="exposure").sort("security_id")
    covariance = tables["factor_covariance"].pivot("factor_2", index="factor_1", values="annual")
    order = pl.DataFrame({"factor_1": labels})
    f = order.join(covariance, on="factor_1", how="left", maintain_order="left").select(labels).to_numpy()
    specific = tables["specific_risk"].sort("security_id")
    issuer = specific["issuer_id"].to_numpy()
    same = issuer[:, None] == issuer[None, :]
    return exposures.select(labels).to_numpy(), f, np.where(same, specific["annual"].to_numpy()[:, None], 0.0)


def test_answer_is_the_closed_form_of_the_dense_model(answer: ReverseStress):
    books = answer.portfolios
    exposures, f, d = dense_covariances(books.model)
    f, d, weights = f * 5 / 252, d * 5 / 252, books.weights.toarray()
    rows, columns = books.weights.tocoo().coords
    for row, w in enumerate(weights):
        sigma = np.sqrt(w @ (exposures @ f @ exposures.T + d) @ w)
        moves = -0.1 * f @ exposures.T @ w / sigma**2
        own = -0.1 * d @ w / sigma**2
        np.testing.assert_allclose(answer.factors[row], moves, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(answer.specifics[rows == row], own[columns[rows == row]], rtol=1e-9, atol=1e-15)
        assert answer.distance[row] == pytest.approx(0.1 / sigma, rel=1e-9)
        b = exposures.T @ w
        np.testing.assert_allclose(answer.factor_only[row], -0.1 * f @ b / (b @ f @ b), rtol=1e-9, atol=1e-15)
        assert answer.factor_distance[row] == pytest.approx(0.1 / np.sqrt(b @ f @ b), rel=1e-9)
        # the distance of the shock itself, an issuer counted once
        issuers, first = np.unique(books.model.issuers, return_index=True)
        size = moves @ np.linalg.solve(f, moves) + (own[first] ** 2 / np.diag(d)[first]).sum()
        assert np.sqrt(size) == pytest.approx(answer.distance[row], rel=1e-9)
        assert len(issuers) < len(books.model.securities)


def test_answer_costs_every_book_and_parent_its_loss(answer: ReverseStress):
    held = answer.portfolios.weights.tocoo()
    losses = np.bincount(held.coords[0], weights=held.data * answer.held_moves)
    np.testing.assert_allclose(losses, -0.1, atol=1e-12)
    alone = (answer.portfolios.exposures * answer.factor_only).sum(axis=1)
    np.testing.assert_allclose(alone, -0.1, atol=1e-12)
    assert answer.portfolios.is_parent.sum() == 1


@given(st.integers(0, 10_000))
def test_no_other_shock_of_the_same_loss_is_nearer(answer: ReverseStress, seed: int):
    books = answer.portfolios
    exposures, f, d = dense_covariances(books.model)
    rng = np.random.default_rng(seed)
    _, first = np.unique(books.model.issuers, return_index=True)
    own = np.sqrt(np.diag(d)[first] * 5 / 252)
    for row, w in enumerate(books.weights.toarray()):
        per_issuer = np.zeros(len(first))
        np.add.at(per_issuer, books.model.issuers, w)
        pull = np.append(np.linalg.cholesky(f * 5 / 252).T @ exposures.T @ w, own * per_issuer)
        shock = -0.1 * pull / (pull @ pull) + rng.normal(0.0, rng.choice([1e-3, 0.1, 3.0]), len(pull))
        shock -= (pull @ shock + 0.1) * pull / (pull @ pull)
        assert pull @ shock == pytest.approx(-0.1)
        assert np.linalg.norm(shock) >= answer.distance[row] * (1.0 - 1e-12)


def test_twice_the_loss_is_twice_the_shock_at_twice_the_distance(answer: ReverseStress):
    twice = reverse_stress(answer.portfolios, 2.0 * answer.losses, horizon_days=5)
    for name in ("distance", "factors", "specifics", "factor_only", "factor_distance"):
        np.testing.assert_allclose(getattr(twice, name), 2.0 * getattr(answer, name), rtol=1e-13)


def test_a_longer_horizon_is_the_same_shock_from_nearer_by(answer: ReverseStress):
    day = reverse_stress(answer.portfolios, answer.losses, horizon_days=1)
    np.testing.assert_allclose(day.factors, answer.factors, rtol=1e-12)
    np.testing.assert_allclose(day.distance, answer.distance * np.sqrt(5.0), rtol=1e-12)


def test_worst_case_within_the_distance_of_a_loss_is_that_loss(answer: ReverseStress):
    for row, radius in enumerate(answer.distance):
        worst = worst_within(answer.portfolios, float(radius), horizon_days=5)
        assert worst.losses[row] == pytest.approx(0.1, rel=1e-12)
        np.testing.assert_allclose(worst.factors[row], answer.factors[row], rtol=1e-12)
        np.testing.assert_allclose(worst.distance, radius, rtol=1e-12)


def test_lines_of_one_issuer_may_be_split_or_netted(market: Market, calibration: Calibration, universe: Universe):
    books = {
        "one": {"CHIPS-0": 0.3, LINES[0]: 0.2},
        "split": {"CHIPS-0": 0.3, LINES[0]: 0.05, LINES[1]: 0.15},
        "netted": {"CHIPS-0": 0.3, LINES[0]: 0.5, LINES[1]: -0.3},
    }
    weighed = weigh(books, market, calibration, universe)
    exposures = weighed.model.exposures.copy()
    first, second = (weighed.model.securities.labels.index(name) for name in LINES)
    exposures[second] = exposures[first]
    weighed = replace(weighed, model=replace(weighed.model, exposures=exposures))
    found = reverse_stress(weighed, np.full(len(weighed.ids), 0.1))
    at = [weighed.ids.labels.index(name) for name in books]
    np.testing.assert_allclose(found.distance[at], found.distance[at[0]], rtol=1e-12)
    np.testing.assert_allclose(found.factors[at], found.factors[at][[0, 0, 0]], rtol=1e-12)
    held = weighed.weights.tocoo()
    moves = {(r, c): e for r, c, e in zip(*held.coords, found.specifics, strict=True)}
    assert moves[at[1], first] == moves[at[1], second] == pytest.approx(moves[at[0], first], rel=1e-12)


def test_probabilities_are_those_of_the_t(answer: ReverseStress):
    model, books = answer.portfolios.model, answer.portfolios
    nu = model.tails.degrees
    unit = answer.distance * np.sqrt(nu / (nu - 2.0))
    np.testing.assert_allclose(answer.tail_probabilities(), 2.0 * stats.t.sf(unit, nu), rtol=1e-9)
    at_risk = measure_tails(factor_variances(books), books.specific_variances(), model.tails).var_99
    again = reverse_stress(books, at_risk * np.sqrt(5.0), horizon_days=5)
    np.testing.assert_allclose(again.loss_probabilities(), 0.01, rtol=1e-9)
    assert (answer.loss_probabilities() < 0.5).all()


def test_books_of_cash_are_set_apart(market: Market, calibration: Calibration, universe: Universe):
    weighed = weigh(LONG_SHORT, market, calibration, universe)
    kept, rest = keep_books_with_risk(weighed)
    assert rest == ("cash",)
    assert kept.ids.labels == ("pairs", "house")
    found = reverse_stress(kept, np.array([0.1, 0.1]))
    assert found.distance[1] == pytest.approx(2.0 * found.distance[0])


def test_a_book_without_factor_risk_has_no_factor_only_answer(portfolios: Portfolios, calibration: Calibration):
    still = replace(portfolios.model, exposures=np.zeros_like(portfolios.model.exposures))
    found = reverse_stress(replace(portfolios, model=still), np.full(len(portfolios.ids), 0.1))
    assert np.isnan(found.factor_only).all() and np.isnan(found.factor_distance).all()
    assert np.isfinite(found.distance).all() and not found.factors.any()
    tables = tabulate_reverse(found, calibration.curve)
    assert tables["reverse"]["factor_distance"].null_count() == len(portfolios.ids)
    admit(tables["reverse_factors"], "reverse_factors", "test")


def test_resemblance_is_the_cosine_in_units_of_risk():
    covariance = np.array([[4.0, 1.0], [1.0, 2.0]])
    ours, library = np.array([[1.0, 0.0], [-0.5, 0.5]]), np.array([[3.0, 0.0], [0.0, 0.0], [1.0, -1.0]])
    found = measure_resemblance(ours, library, covariance)
    inverse = np.linalg.inv(covariance)
    expected = (
        ours[0] @ inverse @ library[2] / np.sqrt((ours[0] @ inverse @ ours[0]) * (library[2] @ inverse @ library[2]))
    )
    np.testing.assert_allclose(found, [[1.0, 0.0, expected], [found[1, 0], 0.0, -1.0]], atol=1e-12)


def test_cuts_sum_to_the_loss_and_keep_their_contracts(answer: ReverseStress, calibration: Calibration):
    tables = tabulate_reverse(answer, calibration.curve, positions=None)
    for name, frame in tables.items():
        assert frame.sort(CONTRACTS[name].key).equals(frame)
    admit(tables["reverse_factors"], "reverse_factors", "test")
    admit(tables["reverse_positions"], "reverse_positions", "test")
    for name in ("reverse_factors", "reverse_positions"):
        sums = tables[name].group_by("portfolio_id").agg(pl.col("pnl_frac").sum())
        np.testing.assert_allclose(sums["pnl_frac"], -0.1, atol=1e-12)
    books = tables["reverse"]
    np.testing.assert_allclose(books["factor_loss"] + books["specific_loss"], books["loss"], atol=1e-15)
    factors = tables["reverse_factors"].filter(pl.col("portfolio_id") == "growth")
    found = {row["factor"]: row for row in factors.to_dicts()}
    slope = calibration.curve.beta[calibration.curve.tiers.labels.index("chips")]
    assert found["chips"]["total"] == pytest.approx(found["chips"]["move"] + slope * found["market"]["move"], rel=1e-12)
    assert found["market"]["total"] == found["market"]["move"]
    assert found["specific"]["move"] is None and found["specific"]["total"] is None


@pytest.fixture(scope="module")
def loaded(written: Path) -> LoadedUniverse:
    """The planted universe, read from its folder."""
    return load_universe(str(written))


def test_the_verb_answers_for_all_books_and_names_the_nearest_story(loaded: LoadedUniverse):
    result = reverse_stress_portfolios(loaded, ReverseQuestion(loss=0.08, within=3.0))
    books = result.tables["reverse"]
    assert books["portfolio_id"].to_list() == ["growth", "house", "income", "soft"]
    for name in ("reverse", "reverse_factors", "reverse_positions", "exceptions"):
        admit(result.tables[name], name, "test")
    np.testing.assert_allclose(books["worst_loss"], 3.0 * books["loss"] / books["distance"], rtol=1e-12)
    scenario = loaded.library.scenario("planted_day")
    shock = propagate(scenario, loaded.model, loaded.curve).factors
    moves = result.tables["reverse_factors"].filter((pl.col("portfolio_id") == "growth") & pl.col("move").is_not_null())
    ours = np.array([dict(moves.select("factor", "move").iter_rows())[name] for name in loaded.model.factors.labels])
    inverse = np.linalg.inv(loaded.model.factor_covariance)
    cosine = ours @ inverse @ shock / np.sqrt((ours @ inverse @ ours) * (shock @ inverse @ shock))
    row = books.row(0, named=True)
    assert (row["scenario_id"], row["resemblance"]) == ("planted_day", pytest.approx(cosine, rel=1e-9))


def test_a_shock_larger_than_the_names_themselves_is_said(loaded: LoadedUniverse):
    result = reverse_stress_portfolios(loaded.only(["income"]), ReverseQuestion(loss=1.0))
    words = [notice.message for notice in result.notices if notice.code == "reverse.below_total_loss"]
    assert len(words) == 1 and "takes more than 100 % from" in words[0]
    assert not [n for n in reverse_stress_portfolios(loaded).notices if n.code == "reverse.below_total_loss"]


def test_cash_is_left_out_with_a_warning_and_refused_alone(loaded: LoadedUniverse, market: Market):
    books = {"pairs": {"CHIPS-0": 0.5}, "idle": {}}
    with_cash = replace(
        loaded, holdings=make_holdings(market, books), portfolios=make_portfolios(dict.fromkeys(books, None), "careful")
    )
    result = reverse_stress_portfolios(with_cash)
    assert result.tables["reverse"]["portfolio_id"].to_list() == ["pairs"]
    assert [n.portfolio_id for n in result.notices if n.code == "reverse.no_risk"] == ["idle"]
    with pytest.raises(DataError, match="holdings: idle: nothing but cash, so no shock costs it anything"):
        reverse_stress_portfolios(with_cash.only(["idle"]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--loss", "0"], "--loss is 0; give a fraction of NAV above 0, at most 1"),
        (["--loss", "10"], "--loss is 10; give a fraction of NAV above 0, at most 1: 0.10 is ten percent"),
        (["--loss", "nan"], "--loss is nan; give a fraction of NAV"),
        (["--horizon", "0"], "--horizon is 0; 1 to 252 trading days"),
        (["--within", "-1"], "--within is -1; a distance is a number above 0"),
        (["--within", "inf"], "--within is inf; a distance is a number above 0"),
        (["--portfolio", "growt"], "unknown portfolio 'growt'; did you mean 'growth'?"),
    ],
)
def test_a_wrong_question_exits_2(written: Path, arguments: list[str], words: str, capsys: Captured):
    assert run(["reverse-stress", "--universe", str(written), *arguments]) == UsageError.exit_code
    captured = capsys.readouterr()
    assert words in captured.err and not captured.out


def test_command_prints_a_line_a_book_and_one_book_in_detail(written: Path, capsys: Captured):
    assert run(["reverse-stress", "--universe", str(written), "--within", "4"]) == 0
    many = capsys.readouterr().out
    assert "the most plausible way to lose 10 % of NAV in a day" in many
    assert [line.split()[0] for line in many.splitlines() if line.split()[:1] in (["Growth"], ["House"])]
    assert "the most that a shock within distance 4 can cost" in many
    assert run(["reverse-stress", "--universe", str(written), "--portfolio", "growth", "--horizon", "5"]) == 0
    one = capsys.readouterr().out
    assert "lose 10 % of NAV in 5 trading days" in one
    assert "names that lead" in one and "CHIPS-0" in one
    assert "most like planted_day of the library: cosine" in one


def test_command_speaks_json_and_csv_and_writes_its_tables(written: Path, tmp_path: Path, capsys: Captured):
    base = ["reverse-stress", "--universe", str(written), "--loss", "0.05"]
    assert run([*base, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {row["portfolio_id"] for row in document["reverse"]} == {"growth", "house", "income", "soft"}
    assert run([*base, "--format", "csv", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(",")[:4] == ["portfolio_id", "name", "nav_base", "loss"] and len(lines) == 5
    folder = next((tmp_path / "adhoc").iterdir())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["command"] == "reverse-stress" and manifest["configuration"]["loss"] == 0.05
    assert {path.stem for path in folder.glob("*.parquet")} == {
        "reverse", "reverse_factors", "reverse_positions", "exceptions",
    }  # fmt: skip


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("arguments", [[], ["--portfolio", "ai_infrastructure"], ["--within", "5"]])
def test_every_tier_is_shown_and_no_line_is_wider_than_the_terminal(
    arguments: list[str], width: int, monkeypatch: pytest.MonkeyPatch
):
    from rich.console import Console

    monkeypatch.setattr(
        "engine.cli.reverse_stress.console", lambda: Console(highlight=False, width=width, soft_wrap=False)
    )
    answer = CliRunner().invoke(cli, ["reverse-stress", *arguments])
    assert answer.exit_code == 0, answer.output
    assert max(len(line) for line in answer.stdout.splitlines()) <= width
    for heading in ("market", "ai_semis", "electrical", "hyperscalers", "software"):
        assert heading in answer.stdout
