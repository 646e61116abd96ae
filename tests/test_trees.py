"""Trees: mean, standard deviation, expected shortfall, worst leaf and odds of a breach, by hand."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.api.loading import LoadedUniverse
from engine.api.weighing import weigh_books
from engine.contracts import CONTRACTS
from engine.stress.outcome import Outcome, unfold
from engine.stress.trees import expected_shortfall, measure_trees


@pytest.fixture(scope="module")
def tree(bundled: LoadedUniverse) -> Outcome:
    return unfold(bundled.library.scenario("deepseek_tree"), bundled.model, bundled.curve)


NO_BUDGETS = pl.DataFrame(schema={"portfolio_id": pl.String, "scenario_id": pl.String, "budget": pl.Float64})


def by_hand(pnl: np.ndarray, probability: np.ndarray, share: float) -> float:
    """Mean loss over the worst share, taken from a long list in which each leaf stands as often as it is likely."""
    often = np.repeat(pnl, np.round(probability * 1000).astype(int))
    worst = np.sort(often)[: round(share * 1000)]
    return float(-worst.mean())


def test_the_figures_of_a_tree_are_those_of_its_leaves(bundled: LoadedUniverse, tree: Outcome) -> None:
    books, _ = weigh_books(bundled)
    tables = measure_trees(books, [tree], NO_BUDGETS, stage="before")
    probability = np.array([p for p, _ in tree.branches])
    weights = books.weights.toarray()
    for at, book in enumerate(books.ids.labels):
        pnl = np.array([weights[at] @ branch.total for _, branch in tree.branches])
        row = tables["stress_trees"].row(by_predicate=pl.col("portfolio_id") == book, named=True)
        mean = sum(p * x for p, x in zip(probability, pnl, strict=True))
        variance = sum(p * (x - mean) ** 2 for p, x in zip(probability, pnl, strict=True))
        assert row["mean"] == pytest.approx(mean, abs=1e-14)
        assert row["mean"] == pytest.approx(weights[at] @ tree.total, abs=1e-14)
        assert row["standard_deviation"] == pytest.approx(np.sqrt(variance), abs=1e-14)
        assert row["expected_shortfall"] == pytest.approx(by_hand(pnl, probability, 0.10), abs=1e-14)
        assert row["worst_pnl"] == pytest.approx(pnl.min(), abs=1e-14)
        assert row["worst_leaf"] == tree.branches[int(pnl.argmin())][1].scenario.id
        assert row["over_budget"] is None
    assert set(tables["stress_trees"].columns) == set(CONTRACTS["stress_trees"].columns)


def test_the_odds_of_a_breach_are_those_of_the_leaves_that_break_the_budget(
    bundled: LoadedUniverse, tree: Outcome
) -> None:
    books, _ = weigh_books(bundled)
    pnl = {branch.scenario.id: books.weights @ branch.total for _, branch in tree.branches}
    at = books.ids.labels.index("ai_infrastructure")
    budget = -0.5 * float(pnl["same_with_less"][at])
    rows = pl.DataFrame({"portfolio_id": ["ai_infrastructure"], "scenario_id": [tree.scenario.id], "budget": [budget]})
    trees = measure_trees(books, [tree], rows, stage="before")["stress_trees"]
    row = trees.row(by_predicate=pl.col("portfolio_id") == "ai_infrastructure", named=True)
    assert row["over_budget"] == pytest.approx(0.38, abs=1e-15)


def test_the_variance_a_tree_leaves_open_is_the_leaves_own_plus_that_of_their_means(
    bundled: LoadedUniverse, tree: Outcome
) -> None:
    books, _ = weigh_books(bundled)
    probability = np.array([p for p, _ in tree.branches])
    means = np.array([books.weights @ branch.total for _, branch in tree.branches])
    own = np.array([branch.open_variance(books.weights) for _, branch in tree.branches])
    expected = probability @ own + probability @ (means - probability @ means) ** 2
    np.testing.assert_allclose(tree.open_variance(books.weights), expected, rtol=1e-12)


def test_a_leaf_counts_in_part_where_it_straddles_the_mark() -> None:
    pnl = np.array([[-0.10, 0.05]])
    assert expected_shortfall(pnl, np.array([0.05, 0.95]), 0.10)[0] == pytest.approx(0.025, abs=1e-15)
    assert expected_shortfall(pnl, np.array([0.5, 0.5]), 0.10)[0] == pytest.approx(0.10, abs=1e-15)
    assert expected_shortfall(pnl, np.array([0.05, 0.95]), 1.0)[0] == pytest.approx(-0.0425, abs=1e-15)


@given(
    st.lists(st.tuples(st.integers(1, 20), st.floats(-0.5, 0.5)), min_size=2, max_size=6),
    st.sampled_from([0.05, 0.1, 0.5]),
)
def test_the_shortfall_lies_between_the_mean_loss_and_the_worst(leaves: list[tuple[int, float]], share: float) -> None:
    mass = np.array([float(count) for count, _ in leaves])
    probability, pnl = mass / mass.sum(), np.array([[value for _, value in leaves]])
    shortfall = expected_shortfall(pnl, probability, share)[0]
    assert -pnl[0] @ probability - 1e-12 <= shortfall <= -pnl.min() + 1e-12
    order = np.random.default_rng(len(leaves)).permutation(len(leaves))
    assert expected_shortfall(pnl[:, order], probability[order], share)[0] == pytest.approx(shortfall, abs=1e-12)
