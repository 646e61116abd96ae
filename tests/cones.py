"""Books whose scenarios have leaves and horizons, for the limits that are no rows."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import cvxpy as cp
import numpy as np
import polars as pl
from test_certificate import Book

from engine.rebalance.cones import Tree
from engine.rebalance.evidence import Evidence, with_scenarios
from engine.rebalance.problem import Problem, Terms

Leaves = Mapping[str, tuple[float, np.ndarray]]


@dataclass(frozen=True)
class ConeBook(Book):
    """A book with trees and horizons.

    Args:
        trees: By scenario, probability and total return of each name, by leaf.
        horizons: Trading days by scenario.
    """

    trees: Mapping[str, Leaves] = field(default_factory=dict)
    horizons: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def terms(self) -> Terms:
        trees = {
            scenario: Tree(
                tuple(leaves), np.array([p for p, _ in leaves.values()]), np.array([r for _, r in leaves.values()])
            )
            for scenario, leaves in self.trees.items()
        }
        return replace(super().terms, trees=trees, horizons=self.horizons)

    @cached_property
    def evidence(self) -> Evidence:
        names = self.model.securities.labels
        rows = [
            (scenario, leaf, probability, name, float(total))
            for scenario, leaves in self.trees.items()
            for leaf, (probability, totals) in leaves.items()
            for name, total in zip(names, totals, strict=True)
        ]
        schema = {"scenario_id": pl.String, "leaf_id": pl.String, "probability": pl.Float64}
        leaves = pl.DataFrame(rows, schema={**schema, "security_id": pl.String, "total": pl.Float64}, orient="row")
        days = {"scenario_id": list(self.horizons), "horizon_days": list(self.horizons.values())}
        horizons = pl.DataFrame(days, schema={"scenario_id": pl.String, "horizon_days": pl.Int64})
        return with_scenarios(super().evidence, leaves=leaves, horizons=horizons)


def as_cone_book(book: Book, **changes: object) -> ConeBook:
    """The same book with trees, horizons and other changes."""
    kept = {name: getattr(book, name) for name in Book.__dataclass_fields__}
    return ConeBook(**{**kept, **changes})


def dense_optimum(problem: Problem, x: cp.Variable, cones: list[cp.Constraint]) -> tuple[float, np.ndarray]:
    """The least objective over ``x`` with a dense covariance and the further limits given, by Clarabel."""
    moved = cp.abs(x - problem.start)
    risk = cp.quad_form(x - problem.benchmark, cp.psd_wrap(problem.root @ problem.root.T + np.diag(problem.specific)))
    limits = [
        x >= problem.lower,
        x <= problem.upper,
        problem.rows @ x <= problem.bounds,
        cp.sum(x) + problem.costs @ moved <= problem.spendable,
        cp.sum(moved) <= problem.turnover,
        *cones,
    ]
    program = cp.Problem(cp.Minimize(problem.aversion / 2 * risk + problem.costs @ moved / problem.years), limits)
    for tolerance in (1e-11, 1e-10):
        # Clarabel stops short of the first for some books, and says so.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            program.solve(solver=cp.CLARABEL, tol_gap_abs=tolerance, tol_gap_rel=tolerance, tol_feas=tolerance)
        if program.status == "optimal":
            break
    assert program.status == "optimal"
    return float(program.value), np.asarray(x.value)
