"""Hedges: each objective against an oracle, the laws of the closed form, the tables against the files, the command."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from market import Market, make_holdings, make_portfolios
from scipy.optimize import linprog, minimize
from scipy.sparse import csr_array
from test_funds import compose, loaded_with

from engine.api.hedging import HedgeResult, HedgeTerms, hedge_portfolios
from engine.api.loading import LoadedUniverse, load_universe
from engine.api.stressing import stress_portfolios
from engine.api.weighing import weigh_books
from engine.axes import Axis
from engine.cli.main import cli, run
from engine.contracts import CONTRACTS
from engine.errors import EXIT_OK, EXIT_PARTIAL, UsageError
from engine.intake import admit
from engine.stress.hedge import Candidates, Objective, Overlay, Room, basis_matrix, hedge_losses, room_for
from engine.stress.outcome import unfold

Captured = pytest.CaptureFixture[str]
SEEDS = st.integers(0, 10_000)


def some_candidates(rng: np.random.Generator, n: int) -> Candidates:
    names = Axis("security", tuple(f"S{i:02}" for i in range(n)))
    return Candidates(names, rng.normal(0.0, 0.06, n), rng.uniform(1e-4, 2e-3, n), np.full(n, 1e8))


def some_room(rng: np.random.Generator, n: int) -> Room:
    return Room(rng.uniform(0.0, 0.3, (1, n)), rng.uniform(0.0, 0.3, (1, n)))


def some_case(seed: int, n: int = 6) -> tuple[Candidates, Room, float]:
    """Candidates, caps, and an excess between nothing and all that they can take away."""
    rng = np.random.default_rng(seed)
    candidates, room = some_candidates(rng, n), some_room(rng, n)
    return candidates, room, float(rng.uniform(0.02, 0.98) * room.gains(candidates).sum())


def overlay(
    candidates: Candidates, excess: float, room: Room, objective: Objective, most: int | None = None
) -> Overlay:
    rng = np.random.default_rng(len(candidates.names))
    root = rng.normal(0.0, 0.02, (len(candidates.names), len(candidates.names)))
    basis = root @ root.T if objective == "steadiest" else None
    return hedge_losses(candidates, np.array([excess]), room, objective=objective, max_trades=most, basis=basis)


def cheapest_of(candidates: Candidates, excess: float, room: Room, names: tuple[int, ...]) -> float:
    """The least cost of an overlay in some names alone, by a linear program in buys and sells; inf where none is."""
    at = list(names)
    r, c = candidates.moves[at], candidates.unit_cost[at]
    caps = [(0.0, cap) for cap in (*room.bought[0, at], *room.sold[0, at])]
    done = linprog(np.concatenate([c, c]), A_ub=-np.concatenate([r, -r])[None, :], b_ub=[-excess], bounds=caps)
    return float(done.fun) if done.status == 0 else np.inf


def assert_keeps(candidates: Candidates, excess: float, room: Room, answer: Overlay) -> None:
    h = answer.weights[0]
    assert h @ candidates.moves == pytest.approx(excess, abs=1e-12)
    assert (h <= room.bought[0] * (1 + 1e-12)).all() and (-h <= room.sold[0] * (1 + 1e-12)).all()


@given(SEEDS)
def test_the_cheapest_overlay_costs_what_a_linear_program_costs(seed: int):
    candidates, room, excess = some_case(seed)
    answer = overlay(candidates, excess, room, "cheapest")
    assert_keeps(candidates, excess, room, answer)
    cost = float(np.abs(answer.weights[0]) @ candidates.unit_cost)
    assert cost == pytest.approx(cheapest_of(candidates, excess, room, tuple(range(6))), rel=1e-7)
    assert answer.least_cost == pytest.approx([cost], rel=1e-12)


@given(SEEDS, st.integers(1, 4))
def test_few_trades_are_the_best_of_every_subset(seed: int, most: int):
    candidates, room, excess = some_case(seed)
    by_count = {
        k: min(cheapest_of(candidates, excess, room, names) for names in combinations(range(6), k)) for k in range(1, 7)
    }
    fewest = min(k for k, cost in by_count.items() if np.isfinite(cost))
    answer = overlay(candidates, excess, room, "fewest")
    assert_keeps(candidates, excess, room, answer)
    assert np.count_nonzero(answer.weights) == fewest and answer.proven.all()
    assert np.abs(answer.weights[0]) @ candidates.unit_cost == pytest.approx(by_count[fewest], rel=1e-6)
    limited = overlay(candidates, excess, room, "cheapest", most)
    if np.isinf(by_count[most]):
        assert not limited.weights.any() and limited.reachable[0] < excess and np.isnan(limited.least_cost[0])
        return
    assert_keeps(candidates, excess, room, limited)
    assert np.count_nonzero(limited.weights) <= most and limited.proven.all()
    assert np.abs(limited.weights[0]) @ candidates.unit_cost == pytest.approx(by_count[most], rel=1e-6)
    assert limited.least_cost[0] <= np.abs(limited.weights[0]) @ candidates.unit_cost * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_the_steadiest_overlay_has_the_basis_risk_of_another_solver(seed: int):
    candidates, room, excess = some_case(seed, 5)
    rng = np.random.default_rng(seed)
    root = rng.normal(0.0, 1.0, (5, 5))
    basis = 4e-4 * root @ root.T
    answer = hedge_losses(candidates, np.array([excess]), room, objective="steadiest", basis=basis)
    h = answer.weights[0]
    assert answer.proven.all() and h @ candidates.moves >= excess - 1e-12
    assert (h <= room.bought[0] + 1e-12).all() and (-h <= room.sold[0] + 1e-12).all()
    caps = list(zip(-room.sold[0], room.bought[0], strict=True))
    row = {"type": "ineq", "fun": lambda x: 100.0 * (candidates.moves @ x - excess)}
    start = overlay(candidates, excess, room, "cheapest").weights[0]
    terms = {"method": "SLSQP", "bounds": caps, "constraints": [row], "options": {"ftol": 1e-14, "maxiter": 1000}}
    other = minimize(lambda x: 1e3 * x @ basis @ x, start, jac=lambda x: 2e3 * basis @ x, **terms)
    assert h @ basis @ h == pytest.approx(other.fun / 1e3, rel=1e-5)


@given(SEEDS, st.sampled_from(["cheapest", "fewest"]))
def test_the_order_of_the_candidates_does_not_matter(seed: int, objective: Objective):
    candidates, room, excess = some_case(seed)
    turn = np.random.default_rng(seed).permutation(6)
    names = Axis("security", tuple(candidates.names.labels[i] for i in turn))
    turned = Candidates(names, candidates.moves[turn], candidates.unit_cost[turn], candidates.daily_volume[turn])
    one = overlay(candidates, excess, room, objective)
    two = overlay(turned, excess, Room(room.bought[:, turn], room.sold[:, turn]), objective)
    np.testing.assert_allclose(one.weights[:, turn], two.weights, atol=1e-12)


@given(SEEDS, st.floats(0.1, 2.0), st.sampled_from(["cheapest", "fewest"]))
def test_twice_the_excess_and_the_caps_is_twice_the_overlay(seed: int, scale: float, objective: Objective):
    candidates, room, excess = some_case(seed)
    one = overlay(candidates, excess, room, objective)
    two = overlay(candidates, scale * excess, Room(scale * room.bought, scale * room.sold), objective)
    np.testing.assert_allclose(scale * one.weights, two.weights, atol=1e-12)


@pytest.mark.parametrize("objective", ["cheapest", "fewest", "steadiest"])
def test_a_book_inside_trades_nothing_and_one_out_of_reach_is_told_how_far(objective: Objective):
    candidates, room, _ = some_case(3)
    all_of_it = float(room.gains(candidates).sum())
    for excess in (-0.01, 0.0, 1e-10):
        assert not overlay(candidates, excess, room, objective).weights.any()
    beyond = overlay(candidates, 1.01 * all_of_it, room, objective)
    assert not beyond.weights.any() and beyond.reachable == pytest.approx([all_of_it])
    assert np.isnan(beyond.least_cost).all()


def test_the_steadiest_overlay_needs_a_basis_matrix():
    candidates, room, excess = some_case(1)
    with pytest.raises(ValueError, match="the steadiest overlay needs a basis matrix"):
        hedge_losses(candidates, np.array([excess]), room, objective="steadiest")


def test_caps_are_the_weight_the_volume_and_long_only_what_is_held():
    names = Axis("security", ("KNOWN", "UNKNOWN"))
    candidates = Candidates(names, np.array([-0.1, 0.1]), np.zeros(2), np.array([1e8, np.nan]))
    held = np.array([[0.01, 0.0], [-0.2, 0.5]])
    nav = np.array([1e9, 1e7])
    room = room_for(candidates, nav, held, max_weight=0.2, participation=0.1, long_only=False)
    assert room.bought == pytest.approx(np.array([[0.01, 0.2], [0.2, 0.2]])) and (room.sold == room.bought).all()
    long = room_for(candidates, nav, held, max_weight=0.2, participation=0.1, long_only=True)
    assert (long.bought == room.bought).all()
    assert long.sold == pytest.approx(np.array([[0.01, 0.0], [0.0, 0.2]]))


@pytest.fixture(scope="module")
def results(bundled: LoadedUniverse) -> dict[Objective, HedgeResult]:
    """The bundled books by every objective."""
    wanted: tuple[Objective, ...] = ("cheapest", "fewest", "steadiest")
    return {name: hedge_portfolios(bundled, terms=HedgeTerms(objective=name)) for name in wanted}


@pytest.fixture(scope="module")
def loaded(written: Path) -> LoadedUniverse:
    """The planted universe, read from its folder."""
    return load_universe(str(written))


@pytest.mark.parametrize("objective", ["cheapest", "fewest", "steadiest"])
def test_the_bundled_hedges_end_on_their_budgets_by_the_table_of_shocks(
    bundled: LoadedUniverse, results: dict[Objective, HedgeResult], objective: Objective
):
    tables = results[objective].tables
    stress = stress_portfolios(bundled).tables
    shock = dict(stress["shocks"].select("security_id", "total").iter_rows())
    rows = stress["stress"].filter(pl.col("budget").is_not_null())
    before = {row["portfolio_id"]: row for row in rows.iter_rows(named=True)}
    assert set(before) == set(tables["hedges"]["portfolio_id"])
    breaches = {book for book, row in before.items() if row["breach"]}
    hedged = tables["hedges"].filter(pl.col("status") == "hedged")
    assert set(hedged["portfolio_id"]) == breaches and not results[objective].refused
    for row in tables["hedges"].iter_rows(named=True):
        book = row["portfolio_id"]
        lines = tables["hedge_trades"].filter(pl.col("portfolio_id") == book)
        gain = sum(line["weight"] * shock[line["security_id"]] for line in lines.iter_rows(named=True))
        assert row["loss_after"] == pytest.approx(-before[book]["pnl_frac"] - gain, abs=1e-12)
        assert row["trades"] == lines.height and row["cost_base"] == pytest.approx(lines["cost_base"].sum())
        if book in breaches:
            assert row["loss_after"] == pytest.approx(row["budget"], abs=1e-12) and row["proven"]
    spreads = dict(bundled.universe.securities.select("security_id", "half_spread_bps").iter_rows())
    volumes = dict(bundled.universe.securities.select("security_id", "adv_base").iter_rows())
    for line in tables["hedge_trades"].iter_rows(named=True):
        name = line["security_id"]
        assert line["cost_base"] == pytest.approx(line["notional_base"] * (spreads[name] + 1.0) / 1e4)
        assert line["adv_share"] == pytest.approx(line["notional_base"] / volumes[name])
        assert line["adv_share"] <= 0.1 * (1 + 1e-9) and abs(line["weight"]) <= 0.25
    for name, frame in tables.items():
        admitted = admit(frame, name, name)
        assert not admitted.notices and admitted.frame.height == frame.height


def test_objectives_are_best_at_what_they_are_named_for(results: dict[Objective, HedgeResult]):
    best = {name: result.tables["hedges"].filter(pl.col("status") == "hedged") for name, result in results.items()}
    for other in best.values():
        assert (best["cheapest"]["cost_frac"] <= other["cost_frac"] + 1e-15).all()
        assert (best["fewest"]["trades"] <= other["trades"]).all()
        assert (best["steadiest"]["basis_risk"] <= other["basis_risk"] * (1 + 1e-6)).all()
        assert (other["least_cost_frac"] - best["cheapest"]["cost_frac"]).abs().max() < 1e-15


def test_risks_exposures_and_rebound_are_those_of_dense_algebra(
    bundled: LoadedUniverse, results: dict[Objective, HedgeResult]
):
    tables = results["steadiest"].tables
    portfolios, _ = weigh_books(bundled)
    model = portfolios.model
    first, later = (
        unfold(bundled.library.scenario(name), model, bundled.curve) for name in ("deepseek", "overreaction")
    )
    same_issuer = model.issuers[:, None] == model.issuers[None, :]
    specific = np.where(same_issuer, model.specific_variance[:, None], 0.0)
    dense = model.exposures @ model.factor_covariance @ model.exposures.T + specific
    for row in tables["hedges"].filter(pl.col("status") == "hedged").iter_rows(named=True):
        book = row["portfolio_id"]
        lines = tables["hedge_trades"].filter(pl.col("portfolio_id") == book)
        h = model.securities.vector(lines, "weight", label="security_id", source="test", fill=0.0)
        w = portfolios.weights[[portfolios.ids.labels.index(book)]].toarray()[0]
        assert row["volatility_before"] == pytest.approx(np.sqrt(w @ dense @ w), rel=1e-9)
        assert row["volatility_after"] == pytest.approx(np.sqrt((w + h) @ dense @ (w + h)), rel=1e-9)
        assert row["specific_volatility"] == pytest.approx(np.sqrt(h @ specific @ h), rel=1e-9)
        variances = first.open_variance(csr_array(np.vstack([h, w, w + h])))
        found = [row["basis_risk"], row["open_risk_before"], row["open_risk_after"]]
        assert found == pytest.approx(np.sqrt(variances).tolist(), rel=1e-9)
        assert row["rebound_pnl"] == pytest.approx(float(h @ ((1.0 + first.total) * later.total)), abs=1e-14)
        tilt = tables["hedge_exposures"].filter(pl.col("portfolio_id") == book)
        b = model.factors.vector(tilt, "overlay", label="factor", source="test")
        assert b == pytest.approx(model.exposures.T @ h, abs=1e-14)
        assert tilt["after"].to_numpy() == pytest.approx((tilt["before"] + tilt["overlay"]).to_numpy(), abs=1e-15)


@pytest.mark.parametrize("scenario", ["deepseek", "same_with_less"])
def test_the_basis_matrix_gives_the_open_variance_of_any_overlay(bundled: LoadedUniverse, scenario: str):
    portfolios, _ = weigh_books(bundled)
    outcome = unfold(bundled.library.scenario(scenario), portfolios.model, bundled.curve)
    columns = portfolios.model.securities.positions(["AGG", "NVDA", "GOOG", "GOOGL", "SMH"], "test")
    matrix = basis_matrix(portfolios, outcome, columns)
    rng = np.random.default_rng(5)
    h = rng.normal(0.0, 0.1, 5)
    full = np.zeros(len(portfolios.model.securities))
    full[columns] = h
    assert h @ matrix @ h == pytest.approx(float(outcome.open_variance(csr_array(full[None, :]))[0]), rel=1e-9)


def test_a_fund_is_sold_as_one_name_and_hedges_as_what_it_holds(written: Path, market: Market):
    parts = {"CHIPS-0": 0.6, "GRID-0": 0.4}
    books = {"growth": {"CHIPS-0": 0.5, "GRID-0": 0.4}}
    universe = loaded_with(written, market, books, {"FUND": parts})
    assert universe.universe.compositions.equals(compose(market.as_of, {"FUND": parts}))
    tables = hedge_portfolios(universe, terms=HedgeTerms(candidates=("FUND",), max_weight=1.0)).tables
    shock = dict(stress_portfolios(universe).tables["shocks"].select("security_id", "total").iter_rows())
    (trade,) = tables["hedge_trades"].to_dicts()
    (row,) = tables["hedges"].filter(pl.col("status") == "hedged").to_dicts()
    moved = 0.6 * shock["CHIPS-0"] + 0.4 * shock["GRID-0"]
    assert trade["security_id"] == "FUND" and trade["shock"] == pytest.approx(moved, abs=1e-14)
    before = -(0.5 * shock["CHIPS-0"] + 0.4 * shock["GRID-0"])
    assert row["loss_before"] == pytest.approx(before, abs=1e-12)
    assert before + trade["weight"] * -moved == pytest.approx(row["budget"], abs=1e-12)


def test_an_active_budget_is_hedged_to_the_loss_against_the_benchmark(written: Path, market: Market):
    universe = load_universe(str(written))
    mandate = universe.mandates["careful"]
    budget = mandate.limits.stress[0].model_copy(update={"kind": "active", "max_loss": 0.01})
    limits = mandate.limits.model_copy(update={"stress": (budget,)})
    universe = replace(
        universe,
        mandates={"careful": mandate.model_copy(update={"limits": limits})},
        holdings=make_holdings(market, {"growth": {"CHIPS-0": 0.5, "GRID-0": 0.4}}),
        portfolios=make_portfolios({"growth": None}, "careful").with_columns(pl.lit("calm").alias("benchmark_id")),
        benchmarks=pl.DataFrame(
            [(market.as_of, "calm", "REST-01", 0.5), (market.as_of, "calm", "APPS-0", 0.5)],
            schema=CONTRACTS["benchmarks"].columns,
            orient="row",
        ),
    )
    result = hedge_portfolios(universe, terms=HedgeTerms(candidates=("names",), max_weight=1.0))
    shock = dict(stress_portfolios(universe).tables["shocks"].select("security_id", "total").iter_rows())
    (row,) = result.tables["hedges"].to_dicts()
    gap = 0.5 * (shock["REST-01"] + shock["APPS-0"]) - 0.5 * shock["CHIPS-0"] - 0.4 * shock["GRID-0"]
    assert row["budget_kind"] == "active" and row["status"] == "hedged"
    assert row["loss_before"] == pytest.approx(gap, abs=1e-12)
    gain = sum(t["weight"] * shock[t["security_id"]] for t in result.tables["hedge_trades"].iter_rows(named=True))
    assert gap - gain == pytest.approx(0.01, abs=1e-12)


def test_a_budget_of_ones_own_counts_for_parents_too_and_without_any_there_is_nothing_to_do(loaded: LoadedUniverse):
    terms = HedgeTerms(budget=0.02, candidates=("names",), rebound="planted_day")
    rows = hedge_portfolios(loaded, terms=terms, scenario="planted_day").tables["hedges"]
    assert set(rows["portfolio_id"]) == {"growth", "house", "income", "soft"} and set(rows["budget"]) == {0.02}
    assert set(rows["rebound_id"]) == {"planted_day"}
    assert hedge_portfolios(loaded, scenario="planted_day").tables["hedges"]["rebound_id"].null_count() == 3
    unbounded = replace(loaded, mandates={})
    with pytest.raises(UsageError, match="no book has a budget on planted_day in its mandate; give one with --budget"):
        hedge_portfolios(unbounded, "planted_day")


def test_candidates_of_unknown_volume_are_taken_only_by_name_with_a_warning(bundled: LoadedUniverse):
    by_group = hedge_portfolios(bundled, terms=HedgeTerms(objective="steadiest")).tables["hedge_trades"]
    known = bundled.universe.securities.filter(pl.col("adv_base") > 0.0)["security_id"].to_list()
    assert set(by_group["security_id"]) <= set(known) and by_group["adv_share"].null_count() == 0
    named = hedge_portfolios(bundled, terms=HedgeTerms(candidates=("XSD",)))
    assert [notice.code for notice in named.notices if notice.code.startswith("hedge")] == ["hedge.volume"]
    assert named.tables["hedge_trades"]["adv_share"].null_count() == named.tables["hedge_trades"].height > 0


def test_a_candidate_that_does_not_move_is_refused(bundled: LoadedUniverse):
    calm = bundled.library.texts["deepseek"][1].partition("views:")[0].replace("id: deepseek", "id: calm")
    text = calm + "views:\n  - {factor: market, value: 0.0, source: none}\n"
    with pytest.raises(UsageError, match="--with SMH: none of 1 candidates moves under calm, so none can hedge it"):
        hedge_portfolios(bundled, texts={"calm.yaml": text}, terms=HedgeTerms(budget=0.05, candidates=("SMH",)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "0"], "--budget is 0; give a loss above 0, at most 1: 0.05 is five percent of NAV"),
        (["--budget", "nan"], "--budget is nan; give a loss above 0"),
        (["--with", "SMHH"], "--with: unknown candidate 'SMHH'; did you mean 'SMH'?"),
        (["--with", "etf"], "--with: unknown candidate 'etf'; did you mean 'etfs'?"),
        (["--with", ","], "--with: nothing is named; give etfs, names, or ids like SPY,SMH"),
        (["--scenario", "deepsek"], "unknown scenario 'deepsek'; did you mean 'deepseek'?"),
        (["--rebound", "overreactio"], "unknown scenario 'overreactio'; did you mean 'overreaction'?"),
        (["--max-trades", "0"], "--max-trades is 0; at least 1"),
        (["--max-weight", "2"], "--max-weight is 2; give a fraction of NAV above 0, at most 1"),
        (["--charge-bps", "-1"], "--charge-bps is -1; 0 to 1000"),
        (["--objective", "steadiest", "--max-trades", "2"], "--max-trades does not go with --objective steadiest"),
        (["--scenario", "same_with_less"], "no book has a budget on same_with_less in its mandate"),
    ],
)
def test_a_wrong_question_exits_2(arguments: list[str], words: str, capsys: Captured):
    assert run(["hedge", *arguments]) == UsageError.exit_code
    captured = capsys.readouterr()
    assert words in captured.err and not captured.out


def test_books_out_of_reach_are_refused_one_by_one_and_the_others_run(capsys: Captured):
    assert run(["hedge", "--with", "SMH", "--max-weight", "0.03", "--format", "json"]) == EXIT_PARTIAL
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert "refused: momentum_growth: SMH sold to its cap brings -5.82 % to -5.56 % at best" in captured.err
    status = {row["portfolio_id"]: row["status"] for row in document["hedges"]}
    assert status["ai_infrastructure"] == "out_of_reach" and status["equal_weight_curve"] == "hedged"
    assert {row["portfolio_id"] for row in document["hedge_trades"]} == {"equal_weight_curve"}
    assert len(document["refused"]) == list(status.values()).count("out_of_reach") == 3


def test_command_writes_its_tables_and_reads_a_file(bundled: LoadedUniverse, tmp_path: Path, capsys: Captured):
    file = tmp_path / "mine.yaml"
    file.write_text(bundled.library.texts["deepseek"][1].replace("id: deepseek", "id: mine"), encoding="utf-8")
    arguments = ["hedge", "--scenario", str(file), "--budget", "0.10", "--format", "csv", "--out", str(tmp_path)]
    assert run(arguments) == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(",")[:5] == ["portfolio_id", "scenario_id", "security_id", "side", "weight"]
    folder = next((tmp_path / "adhoc").iterdir())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["command"] == "hedge" and manifest["configuration"]["scenario"] == "mine"
    names = {"hedges", "hedge_trades", "hedge_exposures", "exceptions"}
    assert {path.stem for path in folder.glob("*.parquet")} == names


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "4 of 4 books outside their budget can be brought inside"),
        (["--objective", "steadiest"], "steadiest hedge under deepseek"),
        (["--with", "SMH", "--max-weight", "0.05"], "at best"),
        (["--portfolio", "quality_core"], "every book is inside its budget"),
    ],
)
def test_no_line_is_wider_than_the_terminal_and_nothing_is_cut(
    arguments: list[str], words: str, width: int, monkeypatch: pytest.MonkeyPatch
):
    from rich.console import Console

    monkeypatch.setattr("engine.cli.hedge.console", lambda: Console(highlight=False, width=width, soft_wrap=False))
    answer = CliRunner().invoke(cli, ["hedge", *arguments], standalone_mode=False)
    assert answer.return_value in (EXIT_OK, EXIT_PARTIAL), answer.output
    lines = answer.stdout.splitlines()
    assert max(len(line) for line in lines) <= width and words in answer.stdout
    assert "…" not in answer.stdout
