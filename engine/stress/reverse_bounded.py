"""The most plausible way to a given loss inside bounds, each answer checked without its solver."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from engine.conventions import FEASIBILITY, MARKET, OPTIMALITY, TRADING_DAYS
from engine.curve.tiers import Curve
from engine.errors import ConfigurationError
from engine.risk.model import RiskModel
from engine.stress.reverse import ReverseStress, held_specific_pull, select_books, whitening_root
from engine.stress.reverse_bounds import Range, ReverseBounds
from engine.stress.reverse_program import RawPoint, ReverseProgram

BOX: Final = 1000.0
"""Standard deviations in every direction beyond which no shock is looked for."""

TOUCHES: Final = 1e-6
"""A bound binds when its multiplier is above this share of the distance."""


@dataclass(frozen=True, slots=True)
class BoundRows:
    """Bounds as rows ``A f + C e <= h`` on factor moves and on the specific moves of some issuers.

    Args:
        labels: One bound each, in desk words.
        on_factors: ``A``, ``(n_bounds, n_factors)``.
        issuers: Codes of the issuers that are bounded by name.
        on_issuers: ``C``, ``(n_bounds, n_named)``.
        limits: ``h``, ``(n_bounds,)``, returns over the horizon.
    """

    labels: tuple[str, ...]
    on_factors: Float[np.ndarray, "n_bounds n_factors"]
    issuers: Int[np.ndarray, " n_named"]
    on_issuers: Float[np.ndarray, "n_bounds n_named"]
    limits: Float[np.ndarray, " n_bounds"]


def bound_reverse(
    free: ReverseStress, bounds: ReverseBounds, curve: Curve, *, source: str
) -> tuple[ReverseStress, tuple[str, ...]]:
    """The shock of least distance inside the bounds that costs each book its loss.

    ``min f' F_h^-1 f + sum e^2 / d_h`` with ``b'f + w'e = -l`` and ``A f + C e <= h``. In units of risk
    it is the shortest ``x`` with ``a'x = -l``, ``G x <= h``, where the specific moves of issuers that no
    bound names enter by their one best direction. The solver's point is polished on the bounds
    it touches and accepted when it breaks nothing by more than 1e-9 and its distance squared
    is within 1e-6 of the dual bound ``-|a y + G'lam|^2 / 2 + y l - lam'h``, which holds for any
    ``lam >= 0`` whoever gave it.

    Args:
        free: The answer without bounds.
        bounds: What the desk allows.
        curve: Slopes of the tiers.
        source: Name of the bounds, for the messages.

    Returns:
        The answers of the books that have one, and a line for each book that has none.

    Raises:
        ConfigurationError: the bounds contradict each other, or no book has an answer.

    References:
        MATH.md 4. Oracle: non-negative least squares on the dense problem, tests/test_reverse_bounded.py.
    """
    model = free.portfolios.model
    rows = resolve_bounds(bounds, model, curve)
    space = _standardise(free, rows)
    all_moves = _Solver(space.rows, rows, source)
    by_factors = _Solver(space.rows[:, : space.root.shape[1]], rows, source)
    kept, faults, found = [], [], []
    for row, name in enumerate(free.portfolios.ids.labels):
        question = _Question(space.pull[row], float(free.losses[row]))
        answer = all_moves.answer(question)
        if answer is None:
            faults.append(f"{name}: {all_moves.explain(question)}")
            continue
        alone = by_factors.answer(_Question(question.pull[: space.root.shape[1]], question.level))
        kept.append(row)
        found.append((answer, alone))
    if not kept:
        raise ConfigurationError([f"{source}: {fault}" for fault in faults])
    return _assemble(free, space, np.array(kept), found), tuple(faults)


def resolve_bounds(bounds: ReverseBounds, model: RiskModel, curve: Curve) -> BoundRows:
    """Bounds as rows; a tier's return is ``g_j + beta_j m``, a security's ``B_i f + e_i``."""
    market, k = model.factors.labels.index(MARKET), len(model.factors)
    at = model.securities.positions(list(bounds.securities), "bounds")
    issuers, own = np.unique(model.issuers[at], return_inverse=True)
    labels: list[str] = []
    sides: list[tuple[Float[np.ndarray, " n"], float]] = []

    def state(label: str, move: Float[np.ndarray, " n"], allowed: Range) -> None:
        for number, sign, relation in ((allowed.max, 1.0, "at most"), (allowed.min, -1.0, "at least")):
            if number is not None:
                labels.append(f"{label} {relation} {100.0 * number:g} %")
                sides.append((sign * move, sign * number))

    def tier(name: str) -> Float[np.ndarray, " n"]:
        move = np.zeros(k + len(issuers))
        move[model.factors.labels.index(name)] = 1.0
        move[market] = curve.beta[curve.tiers.labels.index(name)]
        return move

    for name, allowed in bounds.factors.items():
        state(f"factor {name}", np.eye(k + len(issuers))[model.factors.labels.index(name)], allowed)
    for name, allowed in bounds.tiers.items():
        state(f"tier {name}", tier(name), allowed)
    for line, (name, allowed) in enumerate(bounds.securities.items()):
        move = np.append(model.exposures[at[line]], np.eye(len(issuers))[own[line]])
        state(f"security {name}", move, allowed)
    for worse, better in zip(bounds.order, bounds.order[1:], strict=False):
        labels.append(f"{worse} no better than {better}")
        sides.append((tier(worse) - tier(better), 0.0))
    matrix = np.array([move for move, _ in sides])
    limits = np.array([limit for _, limit in sides])
    return BoundRows(tuple(labels), matrix[:, :k], issuers, matrix[:, k:], limits)


@dataclass(frozen=True, slots=True)
class _Space:
    """Standardised shocks ``x``: factor directions, bounded issuers, one direction for all others.

    Args:
        root: ``L``, ``f = L x_f``.
        deviations: ``sqrt(d_h)`` of the bounded issuers.
        issuers: Their codes.
        rest: ``sqrt`` of the specific variance of each book that no bound names.
        rows: ``A L``, ``C sqrt(d_h)``, 0.
        pull: ``a`` of each book: its loss is ``-a'x``.
    """

    root: Float[np.ndarray, "n_factors rank"]
    deviations: Float[np.ndarray, " n_named"]
    issuers: Int[np.ndarray, " n_named"]
    rest: Float[np.ndarray, " n_portfolios"]
    rows: Float[np.ndarray, "n_bounds n_directions"]
    pull: Float[np.ndarray, "n_portfolios n_directions"]


def _standardise(free: ReverseStress, rows: BoundRows) -> _Space:
    books, years = free.portfolios, free.horizon_days / TRADING_DAYS
    model = books.model
    root = whitening_root(model.factor_covariance * years)
    variance = np.zeros(int(model.issuers.max(initial=-1)) + 1)
    variance[model.issuers] = model.specific_variance * years
    deviations = np.sqrt(variance[rows.issuers])
    held = books.weights.tocoo()
    at, own = held_specific_pull(books)
    code = model.issuers[held.coords[1]]
    # Summed over what no bound names, not as a difference: all bounded must give 0 to the last digit.
    column = _among(code, rows.issuers)
    named = column >= 0
    open_lines = np.where(named, 0.0, held.data * own * years)
    rest = np.sqrt(np.maximum(np.bincount(at, weights=open_lines, minlength=len(books.ids)), 0.0))
    weights = np.zeros((len(books.ids), len(rows.issuers)))
    np.add.at(weights, (at[named], column[named]), held.data[named])
    return _Space(
        root=root,
        deviations=deviations,
        issuers=rows.issuers,
        rest=rest,
        rows=np.hstack([rows.on_factors @ root, rows.on_issuers * deviations, np.zeros((len(rows.limits), 1))]),
        pull=np.hstack([books.exposures @ root, weights * deviations, rest[:, None]]),
    )


def _among(codes: Int[np.ndarray, " n"], named: Int[np.ndarray, " m"]) -> Int[np.ndarray, " n"]:
    """Position of each issuer among the named ones (sorted), -1 where it is none of them."""
    if not len(named):
        return np.full(len(codes), -1)
    at = np.minimum(np.searchsorted(named, codes), len(named) - 1)
    return np.where(named[at] == codes, at, -1)


def _assemble(
    free: ReverseStress,
    space: _Space,
    kept: Int[np.ndarray, " n_kept"],
    found: list[tuple["_Answer", "_Answer | None"]],
) -> ReverseStress:
    """Standardised answers as moves of the factors and of the held lines."""
    books, years, rank = select_books(free.portfolios, kept), free.horizon_days / TRADING_DAYS, space.root.shape[1]
    points = np.array([answer.point for answer, _ in found])
    alone = np.array([np.full(rank, np.nan) if only is None else only.point for _, only in found])
    rows, own = held_specific_pull(books)
    column = _among(books.model.issuers[books.weights.tocoo().coords[1]], space.issuers)
    rest = space.rest[kept]
    share = np.divide(points[:, -1], rest, out=np.zeros_like(rest), where=rest > 0.0)
    specifics = own * years * share[rows]
    named = column >= 0
    specifics[named] = space.deviations[column[named]] * points[rows[named], rank + column[named]]
    return replace(
        free,
        portfolios=books,
        losses=free.losses[kept],
        factors=points[:, :rank] @ space.root.T,
        specifics=specifics,
        distance=np.linalg.norm(points, axis=1),
        factor_only=alone @ space.root.T,
        factor_distance=np.linalg.norm(alone, axis=1),
        binding=tuple(answer.binding for answer, _ in found),
    )


@dataclass(frozen=True, slots=True)
class _Question:
    """``a'x = -l``."""

    pull: Float[np.ndarray, " n_directions"]
    level: float


@dataclass(frozen=True, slots=True)
class _Answer:
    """An accepted ``x`` and the bounds it touches."""

    point: Float[np.ndarray, " n_directions"]
    binding: tuple[str, ...]


class _Solver:
    """Asks the program, polishes, and judges by arithmetic of its own.

    Args:
        rows: ``G``, in returns per standardised shock.
        bounds: Labels and limits.
        source: Name of the bounds, for the messages.
    """

    def __init__(self, rows: Float[np.ndarray, "n_bounds n_directions"], bounds: BoundRows, source: str) -> None:
        lengths = np.linalg.norm(rows, axis=1)
        self.sizes = np.where(lengths > 0.0, lengths, 1.0)
        self.rows, self.limits = rows / self.sizes[:, None], bounds.limits / self.sizes
        self.labels, self.source = bounds.labels, source
        self.program = ReverseProgram(self.rows, self.limits, BOX)

    def answer(self, question: _Question) -> _Answer | None:
        """The shortest shock of that loss, if one is found and accepted."""
        length = float(np.linalg.norm(question.pull))
        if not length > 0.0:
            return None
        raw = self.program.nearest(question.pull, question.level, unit=question.level / length)
        if raw.point is None or raw.multipliers is None or not np.isfinite(raw.point).all():
            return None
        for point, multipliers in (self._polish(question, raw.multipliers), (raw.point, raw.multipliers)):
            if self._accepts(question, point, multipliers):
                touched = multipliers > TOUCHES * np.linalg.norm(point)
                return _Answer(point, tuple(name for name, on in zip(self.labels, touched, strict=True) if on))
        return None

    def _polish(
        self, question: _Question, multipliers: Float[np.ndarray, " n_bounds"]
    ) -> tuple[Float[np.ndarray, " n_directions"], Float[np.ndarray, " n_bounds"]]:
        """The shortest shock that lies exactly on the loss and on the bounds with a multiplier."""
        touched = multipliers > TOUCHES * question.level / np.linalg.norm(question.pull)
        equations = np.vstack([question.pull[None, :], self.rows[touched]])
        point = np.linalg.lstsq(equations, np.append(-question.level, self.limits[touched]), rcond=None)[0]
        exact = np.zeros(len(multipliers))
        exact[touched] = np.maximum(np.linalg.lstsq(equations.T, -point, rcond=None)[0][1:], 0.0)
        return point, exact

    def _accepts(
        self,
        question: _Question,
        point: Float[np.ndarray, " n_directions"],
        multipliers: Float[np.ndarray, " n_bounds"],
    ) -> bool:
        """Feasible to 1e-9 in returns, and as short as the dual bound proves to 1e-6."""
        a, level = question.pull, question.level
        missed = abs(float(a @ point) + level)
        broken = float((self.sizes * (self.rows @ point - self.limits)).max(initial=0.0))
        reach = self.rows.T @ multipliers
        y = (level - a @ reach) / (a @ a)
        bound = float(y * level - multipliers @ self.limits - ((a * y + reach) ** 2).sum() / 2.0)
        half = float(point @ point) / 2.0
        return max(missed, broken) <= FEASIBILITY and half - bound <= OPTIMALITY * half

    def explain(self, question: _Question) -> str:
        """Why a book has no answer, from multipliers that prove it.

        Raises:
            ConfigurationError: the bounds contradict each other, whatever the book.
        """
        self._refuse_contradiction()
        most, least = self._ceiling(question.pull), -self._ceiling(-question.pull)
        if most < question.level:
            words = "gains at least" if most < 0.0 else "loses at most"
            return (
                f"no shock inside the bounds costs it {_percent(question.level)}; under all that they allow it {words} "
                f"{_percent(abs(most))}; loosen a bound or ask for a smaller loss"
            )
        if least > question.level:
            return (
                f"every shock inside the bounds costs it more than {_percent(question.level)}, at least "
                f"{_percent(least)}; loosen a bound or ask for a larger loss"
            )
        return "neither an answer nor a proof that there is none; loosen a bound that is nearly met by no shock"

    def _ceiling(self, pull: Float[np.ndarray, " n_directions"]) -> float:
        """A bound on ``-a'x`` inside bounds and box: ``lam'h + BOX |a + G'lam|_1`` for any ``lam >= 0``."""
        raw: RawPoint = self.program.costliest(pull)
        lam = np.zeros(len(self.limits)) if raw.multipliers is None else raw.multipliers
        return float(lam @ self.limits + BOX * np.abs(pull + self.rows.T @ lam).sum())

    def _refuse_contradiction(self) -> None:
        raw = self.program.least_violation()
        if raw.multipliers is None or not raw.multipliers.sum() > 0.0:
            return
        lam = raw.multipliers / raw.multipliers.sum()
        if -(lam @ self.limits) - BOX * np.abs(self.rows.T @ lam).sum() > FEASIBILITY:
            at_odds = ", ".join(name for name, share in zip(self.labels, lam, strict=True) if share > TOUCHES)
            raise ConfigurationError([f"{self.source}: no shock keeps all of these: {at_odds}; loosen one"])


def _percent(value: float) -> str:
    return f"{100.0 * value:.3g} %"
