"""Books under random mixes of every objective, cost and limit: all are certified, for all have an answer."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from random_books import RandomBook, random_book

from engine.mandates.mandate import Mandate
from engine.rebalance.cones import Tree
from engine.rebalance.evidence import Claim, with_scenarios
from engine.rebalance.solve import Programs

PROGRAMS = Programs()

SCENARIOS = ("s0", "s1", "s2")

DAYS = 5

ROOM = 1.02
"""Every limit leaves the planted answer so much room."""


class Planted:
    """A drawn book and what its planted answer uses of limits that ``random_book`` does not know."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([7, seed])
        names, factors = int(self.rng.choice([40, 80])), int(self.rng.choice([3, 8]))
        self.book = random_book(np.random.default_rng(seed), names, factors, scenarios=len(SCENARIOS))
        self.names = self.book.terms.model.securities.labels
        self.chances = self.rng.dirichlet(np.ones(len(SCENARIOS)))
        self.moves = np.array([self.book.terms.shocks[scenario] for scenario in SCENARIOS])

    def own_risk(self, weights: np.ndarray) -> float:
        """Specific variance a year, one specific return for the lines of an issuer."""
        model = self.book.terms.model
        totals = np.bincount(model.issuers, weights)
        return float(totals**2 @ model.specific_variance[np.unique(model.issuers, return_index=True)[1]])

    def volatility(self, weights: np.ndarray) -> float:
        """A year's, of weights."""
        model = self.book.terms.model
        loads = model.exposures.T @ weights
        return float(np.sqrt(loads @ model.factor_covariance @ loads + self.own_risk(weights)))

    def words(self) -> tuple[dict[str, Any], list[str]]:
        """A mandate that the planted answer keeps, and which terms are in it besides those of ``random_book``."""
        words, aim = self.book.mandate.model_dump(), self.book.planted
        limits: dict[str, Any] = words["limits"]
        bench = np.array([self.book.benchmark[name] for name in self.names])
        losses = -self.moves @ aim

        def cap_error() -> None:
            limits["tracking_error"] = self.volatility(aim - bench) * ROOM + 1e-4

        def cap_largest() -> None:
            count = int(self.rng.choice([1, 3, 8]))
            sizes = np.sort(np.bincount(self.book.terms.model.issuers, aim))[::-1]
            limits["concentration"] = ({"largest": count, "max": float(sizes[:count].sum() * ROOM)},)

        def cap_tail() -> None:
            left, tail = 0.5, 0.0
            for i in np.argsort(-losses):
                tail += min(self.chances[i], left) * losses[i] / 0.5
                left -= min(self.chances[i], left)
            limits["shortfall"] = ({"scenario": "fork", "level": 0.5, "max_loss": max(tail * ROOM, 2e-3)},)

        def count_own_risk() -> None:
            first, *others = limits["stress"]
            margin = float(np.sqrt(self.own_risk(aim) * DAYS / 252.0))
            limits["stress"] = ({**first, "robust": 1.0, "max_loss": first["max_loss"] + margin * ROOM}, *others)

        def allow_shorts() -> None:
            limits.update(max_short=0.05, gross=1.3)
            words["costs"]["borrow_bps"] = 50.0

        def expect_returns() -> None:
            drawn = self.rng.normal(0.0, 0.05, len(self.names)).tolist()
            words.update(objective="mean_variance", alpha=dict(zip(self.names, drawn, strict=True)))

        def ask_for_the_cheapest() -> None:
            words.update(objective="least_cost", alpha={})

        def charge_impact() -> None:
            words["costs"]["impact"] = 1.0

        terms: Mapping[str, tuple[float, Callable[[], None]]] = {
            "tracking error": (0.3, cap_error),
            "concentration": (0.4, cap_largest),
            "shortfall": (0.25, cap_tail),
            "robust": (0.25, count_own_risk),
            "short": (0.25, allow_shorts),
            "alpha": (0.3, expect_returns),
            "least cost": (0.15, ask_for_the_cheapest),
            "impact": (0.25, charge_impact),
        }
        picked = [name for name, (chance, _) in terms.items() if self.rng.uniform() < chance]
        for name in picked:
            terms[name][1]()
        return words, picked

    def mixed(self) -> tuple[RandomBook, list[str]]:
        """The book under its mandate, and what is in it."""
        words, picked = self.words()
        tree = Tree(SCENARIOS, self.chances, self.moves)
        terms = replace(self.book.terms, trees={"fork": tree}, horizons=dict.fromkeys(SCENARIOS, DAYS))
        rows = [
            ("fork", scenario, float(chance), name, float(move))
            for scenario, chance, moves in zip(SCENARIOS, self.chances, self.moves, strict=True)
            for name, move in zip(self.names, moves, strict=True)
        ]
        columns = ["scenario_id", "leaf_id", "probability", "security_id", "total"]
        horizons = pl.DataFrame({"scenario_id": SCENARIOS, "horizon_days": [DAYS] * len(SCENARIOS)})
        leaves = pl.DataFrame(rows, schema=columns, orient="row")
        evidence = with_scenarios(self.book.evidence, leaves=leaves, horizons=horizons)
        return replace(self.book, mandate=Mandate.model_validate(words), terms=terms, evidence=evidence), picked


def tried(seeds: range) -> Counter[str]:
    """How many books had each term; every one certified, the bound below the objective of the planted answer."""
    found: Counter[str] = Counter()
    for seed in seeds:
        book, picked = Planted(seed).mixed()
        answer = book.solve(PROGRAMS)
        assert answer.status == "certified", (seed, picked, answer)
        planted = book.judge(claim_of(book, book.planted))
        assert planted.max_violation <= 1e-9, (seed, picked, planted)
        assert answer.verdict.lower_bound <= planted.objective + 1e-9, (seed, picked)
        assert answer.verdict.objective <= planted.objective + 1e-6 * answer.verdict.scale, (seed, picked)
        found.update(picked or ["nothing further"])
    return found


def claim_of(book: RandomBook, weights: np.ndarray) -> Claim:
    return Claim(dict(zip(book.terms.model.securities.labels, weights.tolist(), strict=True)), {})


def test_books_of_mixed_terms_are_certified() -> None:
    assert len(tried(range(24))) >= 8


@pytest.mark.soak
def test_a_thousand_books_of_mixed_terms_are_certified() -> None:
    found = tried(range(24, 1024))
    assert len(found) == 9 and min(found.values()) > 30
