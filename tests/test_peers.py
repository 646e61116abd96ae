"""What peers say of a security: planted groups are found, a loner keeps its prior."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.axes import Axis
from engine.curve.peers import group_codes, lean_on_peers


def planted(seed: int, *, spread: float, noise: float) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """200 names in 10 groups; a group's names deviate from a zero prior together."""
    random = np.random.default_rng(seed)
    codes = np.repeat(np.arange(10), 20)
    common = random.normal(0.0, spread, size=(10, 2))
    truth = common[codes] + random.normal(0.0, 0.1, size=(200, 2))
    return (
        {
            "slopes": truth + random.normal(0.0, noise, size=(200, 2)),
            "variance": np.full((200, 2), noise**2),
            "voters": np.ones(200, dtype=bool),
        },
        codes,
        truth,
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_prior_that_leans_on_planted_groups_is_nearer_to_the_truth(seed: int) -> None:
    numbers, codes, truth = planted(seed, spread=0.5, noise=0.5)
    leant = lean_on_peers(np.zeros((200, 2)), levels=[codes], **numbers)
    assert ((leant - truth) ** 2).mean() < 0.25 * (truth**2).mean()


@pytest.mark.parametrize("seed", range(3))
def test_groups_that_are_none_move_the_prior_hardly_at_all(seed: int) -> None:
    numbers, codes, _ = planted(seed, spread=0.0, noise=0.5)
    shuffled = np.random.default_rng(seed).permutation(codes)
    leant = lean_on_peers(np.zeros((200, 2)), levels=[shuffled], **numbers)
    assert np.abs(leant).max() < 0.12


def test_a_security_never_leans_on_itself() -> None:
    numbers, codes, _ = planted(0, spread=0.5, noise=0.2)
    shifted = {**numbers, "slopes": numbers["slopes"].copy()}
    shifted["slopes"][0] += 1e-6
    before = lean_on_peers(np.zeros((200, 2)), levels=[codes], **numbers)[0]
    after = lean_on_peers(np.zeros((200, 2)), levels=[codes], **shifted)[0]
    np.testing.assert_allclose(after, before, atol=1e-7)


def test_a_security_alone_or_in_no_group_keeps_its_prior() -> None:
    numbers, codes, _ = planted(1, spread=0.5, noise=0.2)
    codes = codes.copy()
    codes[0], codes[1] = 10, -1
    prior = np.full((200, 2), 0.3)
    leant = lean_on_peers(prior, levels=[codes], **numbers)
    np.testing.assert_array_equal(leant[:2], prior[:2])
    assert not np.allclose(leant[2:], prior[2:])


def test_without_levels_the_prior_stands() -> None:
    numbers, _, _ = planted(2, spread=0.5, noise=0.2)
    prior = np.full((200, 2), 0.3)
    np.testing.assert_array_equal(lean_on_peers(prior, levels=[], **numbers), prior)


@given(st.integers(0, 1000))
def test_the_order_of_securities_does_not_matter(seed: int) -> None:
    numbers, codes, _ = planted(seed, spread=0.4, noise=0.3)
    order = np.random.default_rng(seed).permutation(200)
    straight = lean_on_peers(np.zeros((200, 2)), levels=[codes], **numbers)
    turned = lean_on_peers(
        np.zeros((200, 2)), levels=[codes[order]], **{name: value[order] for name, value in numbers.items()}
    )
    np.testing.assert_allclose(turned, straight[order], atol=1e-12)


def test_group_codes_join_by_name_and_leave_the_unknown_out() -> None:
    securities = pl.DataFrame(
        {"security_id": ["C", "A", "B", "D"], "gics_sector": ["Energy", "Utilities", None, "Energy"]}
    )
    assert group_codes(securities, Axis("security", ("A", "B", "C")), "gics_sector").tolist() == [1, -1, 0]
