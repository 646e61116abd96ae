"""What decides which compiled program fits a problem: its sizes and which terms it has."""

from typing import NamedTuple

from engine.rebalance.problem import Problem


class ConeShape(NamedTuple):
    """What decides which block fits.

    Args:
        leaves: Number of leaves of each shortfall limit.
        positions: Number of issuers with several lines, of each concentration, and whether there are shorts.
        issuers: Number of issuers with several lines, of each robust budget.
    """

    leaves: tuple[int, ...] = ()
    positions: tuple[tuple[int, bool], ...] = ()
    issuers: tuple[int, ...] = ()


Shape = tuple[int, int, int, bool, frozenset[str], ConeShape]


def shape_of(problem: Problem) -> Shape:
    """The shape that decides which compiled program fits."""
    terms = {
        "risk": problem.aversion > 0.0,
        "alpha": problem.alpha.any(),
        "impact": problem.impact.any(),
        "borrow": problem.borrow.any(),
        "gross": problem.gross is not None,
    }
    asked = frozenset(name for name, is_there in terms.items() if is_there)
    n, k, m = len(problem.names), problem.root.shape[1], len(problem.row_ids)
    return n, k, m, problem.tracking_error is not None, asked, cone_shape(problem)


def cone_shape(problem: Problem) -> ConeShape:
    """The shape of a problem's block; nothing in it for an ordinary book."""
    return ConeShape(
        tuple(len(limit.leaves) for limit in problem.shortfalls),
        tuple((limit.shared.shape[1], limit.shorts) for limit in problem.concentrations),
        tuple(budget.shared.shape[1] for budget in problem.margins),
    )
