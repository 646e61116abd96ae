"""Reverse stress inside bounds: the file, the rows, an independent solver, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from market import FACTORS, LINES, TIERS, Market, make_holdings, make_portfolios
from scipy.optimize import linprog, nnls
from test_architecture import loaded_after

from engine.api.loading import LoadedUniverse, load_universe
from engine.api.reversing import ReverseQuestion, reverse_stress_portfolios
from engine.cli.main import run
from engine.curve.universe import Universe
from engine.errors import ConfigurationError, UsageError
from engine.risk.calibration import Calibration
from engine.risk.portfolios import Portfolios, weigh_holdings
from engine.stress import reverse_bounded
from engine.stress.reverse import ReverseStress, reverse_stress
from engine.stress.reverse_bounded import bound_reverse, resolve_bounds
from engine.stress.reverse_bounds import ReverseBounds, read_bounds
from engine.stress.reverse_program import RawPoint

Captured = pytest.CaptureFixture[str]
HORIZON = 2
LOSS = 0.1


@pytest.fixture(scope="module")
def portfolios(books: tuple[pl.DataFrame, pl.DataFrame], calibration: Calibration, universe: Universe) -> Portfolios:
    """Three books and the house above them."""
    return weigh_holdings(*books, model=calibration.model, curve=calibration.curve, universe=universe)[0]


@pytest.fixture(scope="module")
def free(portfolios: Portfolios) -> ReverseStress:
    """A tenth of NAV in two days, unbounded."""
    return reverse_stress(portfolios, np.full(len(portfolios.ids), LOSS), horizon_days=HORIZON)


@pytest.fixture(scope="module")
def loaded(written: Path) -> LoadedUniverse:
    """The planted universe, read from its folder."""
    return load_universe(str(written))


def bounds_of(text: str) -> ReverseBounds:
    return read_bounds(text, "bounds.yaml", {"factor": FACTORS, "tier": TIERS})


MILD = """\
factors: {market: {min: -0.02, max: 0.0}}
tiers: {apps: {min: -0.01}, grid: {min: -0.08}}
order: [grid, chips, apps]
securities:
  CHIPS-0: {min: -0.06}
  TWIN-A: {max: 0.01}
  REST-01: {min: -0.03, max: 0.03}
"""


class Dense:
    """The same question on every factor and every issuer, whitened by Cholesky, nothing reduced."""

    def __init__(self, books: Portfolios, bounds: ReverseBounds, calibration: Calibration) -> None:
        model, curve = books.model, calibration.curve
        years = HORIZON / 252
        self.root = np.linalg.cholesky(model.factor_covariance * years)
        issuers, first = np.unique(model.issuers, return_index=True)
        self.own = np.sqrt(model.specific_variance[first] * years)
        k, m = len(model.factors), len(issuers)
        belongs = np.zeros((len(model.securities), m))
        belongs[np.arange(len(model.securities)), model.issuers] = 1.0
        returns = np.hstack([model.exposures @ self.root, belongs * self.own])
        self.pulls = books.weights.toarray() @ returns

        def factor(name: str) -> np.ndarray:
            return np.append(self.root[model.factors.labels.index(name)], np.zeros(m))

        def tier(name: str) -> np.ndarray:
            return factor(name) + curve.beta[curve.tiers.labels.index(name)] * factor("market")

        kinds = [
            *((factor(name), allowed) for name, allowed in bounds.factors.items()),
            *((tier(name), allowed) for name, allowed in bounds.tiers.items()),
            *((returns[model.securities.labels.index(n)], allowed) for n, allowed in bounds.securities.items()),
        ]
        rows, limits = [], []
        for row, allowed in kinds:
            for number, sign in ((allowed.max, 1.0), (allowed.min, -1.0)):
                if number is not None:
                    rows.append(sign * row)
                    limits.append(sign * number)
        for worse, better in zip(bounds.order, bounds.order[1:], strict=False):
            rows.append(tier(worse) - tier(better))
            limits.append(0.0)
        self.rows, self.limits, self.k = np.array(rows), np.array(limits), k

    def shortest(self, pull: np.ndarray) -> np.ndarray:
        """Least-distance programming by non-negative least squares (Lawson and Hanson, ch. 23)."""
        unit = np.linalg.norm(pull)
        sizes = np.linalg.norm(self.rows, axis=1)
        g = np.vstack([-self.rows / sizes[:, None], pull[None, :] / unit, -pull[None, :] / unit])
        h = np.concatenate([-self.limits / sizes, [-LOSS / unit, LOSS / unit]])
        e = np.vstack([g.T, h[None, :]])
        u, _ = nnls(e, np.append(np.zeros(g.shape[1]), 1.0), maxiter=10_000)
        rest = e @ u - np.append(np.zeros(g.shape[1]), 1.0)
        return -rest[:-1] / rest[-1]


def test_without_binding_bounds_the_program_gives_the_closed_form(free: ReverseStress, calibration: Calibration):
    wide = bounds_of("tiers: {chips: {min: -2.0, max: 1.0}}\nsecurities: {CHIPS-0: {min: -1.0}, REST-01: {max: 1.0}}")
    found, faults = bound_reverse(free, wide, calibration.curve, source="wide.yaml")
    assert not faults and found.binding == ((),) * 4
    np.testing.assert_allclose(found.distance, free.distance, rtol=1e-10)
    np.testing.assert_allclose(found.factors, free.factors, atol=1e-12)
    np.testing.assert_allclose(found.specifics, free.specifics, atol=1e-12)
    np.testing.assert_allclose(found.factor_only, free.factor_only, atol=1e-12)
    np.testing.assert_allclose(found.factor_distance, free.factor_distance, rtol=1e-10)
    np.testing.assert_allclose(found.tail_probabilities(), free.tail_probabilities(), rtol=1e-8)


def test_the_solver_s_own_point_is_the_closed_form_too(
    free: ReverseStress, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reverse_bounded._Solver, "_polish", lambda self, q, lam: (np.zeros(self.rows.shape[1]), lam))
    wide = bounds_of("tiers: {chips: {min: -2.0, max: 1.0}}")
    found, faults = bound_reverse(free, wide, calibration.curve, source="wide.yaml")
    assert not faults
    np.testing.assert_allclose(found.distance, free.distance, rtol=1e-6)
    np.testing.assert_allclose(found.factors, free.factors, atol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        MILD,
        "tiers: {chips: {max: 0.0}, grid: {min: 0.0}, apps: {min: 0.0}}",
        "order: [apps, grid, chips]",
        "factors: {market: {min: 0.0}, chips: {min: -0.02}}",
        "securities: {CHIPS-0: {min: -0.01}, CHIPS-1: {min: -0.01}, TWIN-A: {min: 0.0}, TWIN-B: {min: 0.0}}",
        "tiers: {chips: {min: -0.3, max: -0.3}}",
    ],
)
def test_bounded_answers_are_those_of_non_negative_least_squares(
    free: ReverseStress, calibration: Calibration, text: str
):
    bounds = bounds_of(text)
    found, faults = bound_reverse(free, bounds, calibration.curve, source="bounds.yaml")
    assert not faults
    dense = Dense(free.portfolios, bounds, calibration)
    held = free.portfolios.weights.tocoo()
    for row, pull in enumerate(dense.pulls):
        expected = dense.shortest(pull)
        assert found.distance[row] == pytest.approx(np.linalg.norm(expected), rel=1e-6)
        np.testing.assert_allclose(found.factors[row], dense.root @ expected[: dense.k], atol=1e-7)
        own = (dense.own * expected[dense.k :])[free.portfolios.model.issuers]
        here = held.coords[0] == row
        np.testing.assert_allclose(found.specifics[here], own[held.coords[1][here]], atol=1e-7)
        assert found.distance[row] >= free.distance[row] * (1.0 - 1e-12)


def test_bounded_answer_costs_the_loss_and_keeps_every_bound(free: ReverseStress, calibration: Calibration):
    found, _ = bound_reverse(free, bounds_of(MILD), calibration.curve, source="bounds.yaml")
    held = found.portfolios.weights.tocoo()
    losses = np.bincount(held.coords[0], weights=held.data * found.held_moves)
    np.testing.assert_allclose(losses, -LOSS, atol=1e-12)
    market, chips, grid, apps = found.factors.T
    totals = {n: f + b * market for n, f, b in zip(TIERS, (chips, grid, apps), calibration.curve.beta, strict=True)}
    slack = 1e-9
    assert (market >= -0.02 - slack).all() and (market <= slack).all()
    assert (totals["apps"] >= -0.01 - slack).all() and (totals["grid"] >= -0.08 - slack).all()
    assert (totals["grid"] <= totals["chips"] + slack).all() and (totals["chips"] <= totals["apps"] + slack).all()
    labels = np.array(found.portfolios.model.securities.labels, dtype=object)[held.coords[1]]
    assert (found.held_moves[labels == "CHIPS-0"] >= -0.06 - slack).all()
    assert (np.abs(found.held_moves[labels == "REST-01"]) <= 0.03 + slack).all()
    growth = found.portfolios.ids.labels.index("growth")
    assert "security CHIPS-0 at least -6 %" in found.binding[growth]


def test_distance_is_that_of_the_conditional_mean_given_loss_and_binding_bounds(
    free: ReverseStress, calibration: Calibration
):
    bounds = bounds_of(MILD)
    found, _ = bound_reverse(free, bounds, calibration.curve, source="bounds.yaml")
    rows = resolve_bounds(bounds, free.portfolios.model, calibration.curve)
    dense = Dense(free.portfolios, bounds, calibration)
    for row, pull in enumerate(dense.pulls):
        active = np.isin(np.array(rows.labels), np.array(found.binding[row]))
        order = [rows.labels.index(label) for label in rows.labels]
        stated = np.vstack([pull, dense.rows[order][active]])
        values = np.append(-LOSS, dense.limits[order][active])
        squared = values @ np.linalg.solve(stated @ stated.T, values)
        assert found.distance[row] == pytest.approx(np.sqrt(squared), rel=1e-8)
        tail = free.portfolios.model.tails.tail_probability(squared, 1 + int(active.sum()))
        assert found.tail_probabilities()[row] == pytest.approx(tail, rel=1e-6)


def test_factor_only_answer_keeps_the_bounds_with_no_specific_move(free: ReverseStress, calibration: Calibration):
    found, _ = bound_reverse(free, bounds_of("tiers: {apps: {min: 0.0}}"), calibration.curve, source="bounds.yaml")
    market, apps = found.factor_only[:, 0], found.factor_only[:, 3]
    assert (apps + calibration.curve.beta[2] * market >= -1e-9).all()
    np.testing.assert_allclose((found.portfolios.exposures * found.factor_only).sum(axis=1), -LOSS, atol=1e-12)
    assert (found.factor_distance >= found.distance * (1.0 - 1e-9)).all()


def test_factors_that_cannot_alone_leave_that_answer_empty(loaded: LoadedUniverse):
    still = "factors: {market: {min: -0.001}, chips: {min: 0.0}, grid: {min: 0.0}, apps: {min: 0.0}}"
    only = loaded.only(["growth"])
    result = reverse_stress_portfolios(only, bounds=("still.yaml", still))
    assert result.tables["reverse"]["factor_distance"].to_list() == [None]
    assert result.tables["reverse"]["specific_loss"][0] > 0.08


def narrow(loaded: LoadedUniverse, market: Market) -> LoadedUniverse:
    """A book of two names and one of three."""
    books = {"pair": {"CHIPS-0": 0.5, "GRID-0": 0.5}, "trio": {"CHIPS-0": 0.4, "GRID-0": 0.4, "APPS-0": 0.2}}
    return replace(
        loaded, holdings=make_holdings(market, books), portfolios=make_portfolios(dict.fromkeys(books, None), "careful")
    )


FLOORS = "securities: {CHIPS-0: {min: -0.05}, GRID-0: {min: -0.03, max: 0.5}}"


def test_a_loss_that_no_shock_inside_the_bounds_costs_is_refused_with_the_largest(
    loaded: LoadedUniverse, market: Market
):
    result = reverse_stress_portfolios(narrow(loaded, market), bounds=("floors.yaml", FLOORS))
    assert result.refused == (
        "pair: no shock inside the bounds costs it 10 %; under all that they allow it loses at most 4 %; "
        "loosen a bound or ask for a smaller loss",
    )
    assert result.tables["reverse"]["portfolio_id"].to_list() == ["trio"]
    with pytest.raises(ConfigurationError) as caught:
        reverse_stress_portfolios(narrow(loaded, market).only(["pair"]), bounds=("floors.yaml", FLOORS))
    assert str(caught.value).startswith("floors.yaml: pair: no shock inside the bounds costs it 10 %")
    inside = ReverseQuestion(loss=0.0399)
    near = reverse_stress_portfolios(narrow(loaded, market).only(["pair"]), inside, bounds=("floors.yaml", FLOORS))
    assert near.tables["reverse"].height == 1


def test_a_loss_that_every_shock_inside_the_bounds_passes_is_refused_with_the_smallest(
    loaded: LoadedUniverse, market: Market
):
    deep = "securities: {CHIPS-0: {max: -0.3}, GRID-0: {max: -0.2}}"
    with pytest.raises(ConfigurationError, match=r"costs it more than 10 %, at least 25 %; .* ask for a larger loss"):
        reverse_stress_portfolios(narrow(loaded, market).only(["pair"]), bounds=("deep.yaml", deep))


def test_bounds_under_which_a_book_gains_say_so(loaded: LoadedUniverse, market: Market):
    up = "securities: {CHIPS-0: {min: 0.02}, GRID-0: {min: 0.04}}"
    with pytest.raises(ConfigurationError, match="it gains at least 3 %; loosen a bound"):
        reverse_stress_portfolios(narrow(loaded, market).only(["pair"]), bounds=("up.yaml", up))


def test_largest_loss_is_that_of_linear_programming(free: ReverseStress, calibration: Calibration):
    bounds = bounds_of(MILD)
    rows = resolve_bounds(bounds, free.portfolios.model, calibration.curve)
    dense = Dense(free.portfolios, bounds, calibration)
    solver = reverse_bounded._Solver(dense.rows[:, : dense.k], rows, "bounds.yaml")
    for pull in dense.pulls[:, : dense.k]:
        box = (-reverse_bounded.BOX, reverse_bounded.BOX)
        expected = linprog(pull, A_ub=dense.rows[:, : dense.k], b_ub=dense.limits, bounds=[box] * dense.k)
        assert expected.status == 0
        ceiling = solver._ceiling(pull)
        assert ceiling >= -expected.fun - 1e-9
        assert ceiling == pytest.approx(-expected.fun, abs=1e-6)


def test_bounds_that_contradict_each_other_are_refused_by_name(loaded: LoadedUniverse):
    odd = "tiers: {chips: {min: 0.01}, apps: {max: -0.05}}\norder: [chips, apps]\nfactors: {grid: {min: -0.5}}"
    with pytest.raises(ConfigurationError) as caught:
        reverse_stress_portfolios(loaded, bounds=("odd.yaml", odd))
    assert str(caught.value) == (
        "odd.yaml: no shock keeps all of these: tier chips at least 1 %, tier apps at most -5 %, "
        "chips no better than apps; loosen one"
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda x, lam: (x * 1.001, lam),  # breaks the loss
        lambda x, lam: (x + 0.01 * np.arange(len(x)), lam),  # breaks the loss and bounds
        lambda x, lam: (x, lam * 0.0),  # proves nothing when a bound binds
    ],
    ids=["loss", "bounds", "proof"],
)
def test_a_wrong_answer_of_the_solver_is_not_accepted(
    free: ReverseStress, calibration: Calibration, monkeypatch: pytest.MonkeyPatch, damage
):
    true = reverse_bounded.ReverseProgram.nearest

    def wrong(self, pull, level, *, unit):
        raw = true(self, pull, level, unit=unit)
        return RawPoint(*damage(raw.point, raw.multipliers))

    monkeypatch.setattr(reverse_bounded.ReverseProgram, "nearest", wrong)
    monkeypatch.setattr(reverse_bounded._Solver, "_polish", lambda self, q, lam: (np.zeros(self.rows.shape[1]), lam))
    binding = bounds_of("factors: {market: {min: -0.01}}")
    with pytest.raises(ConfigurationError, match="neither an answer nor a proof"):
        bound_reverse(free, binding, calibration.curve, source="bounds.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "bounds.yaml:1:1: no bound in it; give factors, tiers, securities or order"),
        ("", "bounds.yaml:1:1: expected keys and values, found nothing"),
        (
            "tiers:\n  chips: {min: 0.1, max: -0.1}",
            "bounds.yaml:2:3: min 0.1 is above max -0.1; no shock can keep both",
        ),
        ("tiers:\n  chips: {}", "bounds.yaml:2:3: a bound needs min, max or both"),
        ("tiers: {chip: {max: 0}}", "bounds.yaml:1:1: unknown tier 'chip'; did you mean 'chips'?"),
        ("factors: {markt: {max: 0}}", "bounds.yaml:1:1: unknown factor 'markt'; did you mean 'market'?"),
        ("order: [chips]", "bounds.yaml:1:1: an order needs two tiers or more"),
        ("order: [chips, grid, chips]", "bounds.yaml:1:1: chips stands in the order twice"),
        ("order: [chips, grids]", "bounds.yaml:1:1: unknown tier 'grids'; did you mean 'grid'?"),
        ("tier: {chips: {max: 0}}", "bounds.yaml:1:1: unknown key 'tier'; did you mean 'tiers'?"),
        ("factors: {market: {max: .nan}}", "bounds.yaml:1:25: max: input should be a finite number; found nan"),
    ],
)
def test_bounds_at_fault_are_refused_with_their_place(text: str, words: str):
    with pytest.raises(ConfigurationError) as caught:
        bounds_of(text)
    assert words in caught.value.faults


def test_an_unknown_security_is_refused_with_a_suggestion(loaded: LoadedUniverse):
    with pytest.raises(ConfigurationError, match="unknown security 'CHIP-0'; did you mean 'CHIPS-0'"):
        reverse_stress_portfolios(loaded, bounds=("b.yaml", "securities: {CHIP-0: {min: 0}}"))


def test_a_sign_is_a_bound_of_zero_and_two_lines_of_an_issuer_move_together(
    free: ReverseStress, calibration: Calibration
):
    text = f"securities: {{{LINES[0]}: {{min: 0.0}}, {LINES[1]}: {{min: -0.2}}}}"
    found, _ = bound_reverse(free, bounds_of(text), calibration.curve, source="bounds.yaml")
    held = found.portfolios.weights.tocoo()
    labels = np.array(found.portfolios.model.securities.labels, dtype=object)[held.coords[1]]
    first, second = (found.specifics[labels == name] for name in LINES)
    np.testing.assert_allclose(first, second, atol=1e-15)
    assert (found.held_moves[labels == LINES[0]] >= -1e-9).all()


def test_worst_case_within_a_distance_is_not_asked_inside_bounds(loaded: LoadedUniverse):
    with pytest.raises(UsageError, match="give --within or --bounds, not both"):
        reverse_stress_portfolios(loaded, ReverseQuestion(within=3.0), bounds=("b.yaml", MILD))


def test_command_reads_bounds_and_says_which_bind(written: Path, tmp_path: Path, capsys: Captured):
    path = tmp_path / "bounds.yaml"
    path.write_text(MILD)
    base = ["reverse-stress", "--universe", str(written), "--bounds", str(path)]
    assert run(base) == 0
    assert "*: the answer lies on a bound" in capsys.readouterr().out
    assert run([*base, "--portfolio", "growth", "--out", str(tmp_path / "out")]) == 0
    assert "security CHIPS-0 at least -6 %" in capsys.readouterr().out
    path.write_text("tiers: {chip: {max: 0}}")
    assert run(base) == 78
    assert capsys.readouterr().err == f"engine: {path}:1:1: unknown tier 'chip'; did you mean 'chips'?\n"
    assert run([*base[:-1], str(tmp_path / "none.yaml")]) == 65


def test_books_without_an_answer_exit_3_beside_those_with_one(
    folder: Path, market: Market, tmp_path: Path, capsys: Captured
):
    books = {"pair": {"CHIPS-0": 0.5, "GRID-0": 0.5}, "trio": {"CHIPS-0": 0.4, "GRID-0": 0.4, "APPS-0": 0.2}}
    make_holdings(market, books).write_parquet(tmp_path / "held.parquet")
    make_portfolios(dict.fromkeys(books, None), "careful").write_csv(tmp_path / "portfolios.csv")
    (tmp_path / "floors.yaml").write_text(FLOORS)
    arguments = ["--holdings", str(tmp_path / "held.parquet"), "--portfolios", str(tmp_path / "portfolios.csv")]
    code = run(["reverse-stress", "--universe", str(folder), *arguments, "--bounds", str(tmp_path / "floors.yaml")])
    assert code == 3
    captured = capsys.readouterr()
    assert "refused: pair: no shock inside the bounds costs it 10 %" in captured.err
    assert "Trio" in captured.out


def test_the_closed_form_does_not_load_the_solver():
    statement = "from engine.cli.main import run; assert run(['reverse-stress', '--format', 'csv']) == 0"
    assert not loaded_after(statement) & {"cvxpy", "pyarrow"}
