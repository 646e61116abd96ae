"""The bound of MATH 6 with every term of the objective, in exact rationals and roots to sixty digits."""

from collections.abc import Mapping
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
from test_certificate import Book, rational

from engine.rebalance.case import Case

DIGITS = 60


def root(value: Fraction) -> Fraction:
    """Square root to sixty digits."""
    with localcontext() as context:
        context.prec = DIGITS + 20
        return Fraction((Decimal(value.numerator) / Decimal(value.denominator)).sqrt())


def full_bound(
    book: Book, case: Case, duals: Mapping[str, float], w: np.ndarray, lines: list[float]
) -> tuple[Fraction, Fraction]:
    """The exact bound from the book and its problem, and the size of what it sums.

    Impact and borrowing cost are taken from the case, as numbers that are written: others check them.
    """
    mandate, problem = book.mandate, book.problem
    names = list(problem.names.labels)
    at = [book.model.securities.labels.index(name) for name in names]
    gamma, years = Fraction(problem.aversion), Fraction(mandate.costs.holding_years)
    y_b, lam = Fraction(duals["cash:min"]), Fraction(duals["turnover"])
    point = rational(w)
    pull = [gamma * sum(f * v for f, v in zip(rational(row), point, strict=True)) for row in book.covariance]
    exposure = [rational(book.exposures[i]) for i in at]
    x0, xb = rational(problem.start), rational(problem.benchmark)
    lower, upper, costs = rational(problem.lower), rational(problem.upper), rational(problem.costs)
    alpha = [Fraction(mandate.alpha.get(name, 0.0)) for name in names]
    slope = [sum(b * p for b, p in zip(row, pull, strict=True)) + y_b for row in exposure]
    slope = [s - a for s, a in zip(slope, alpha, strict=True)]
    total = -y_b * Fraction(1.0 - mandate.limits.cash.min) - lam * Fraction(mandate.limits.turnover)
    total -= sum(p * sum(row[j] * b for row, b in zip(exposure, xb, strict=True)) for j, p in enumerate(pull))
    total -= sum(p * v for p, v in zip(pull, point, strict=True)) / 2
    own = [Fraction(float(book.variance[i])) for i in at]
    codes = [int(book.issuers[i]) for i in at]
    several = sorted({code for code in codes if codes.count(code) > 1}, key=lambda code: f"I{code}")
    for code, value in zip(several, lines, strict=True):
        members = [i for i, other in enumerate(codes) if other == code]
        push = gamma * own[members[0]] * Fraction(value)
        slope = [s + push * (i in members) for i, s in enumerate(slope)]
        total -= push * sum(xb[i] for i in members) + push * Fraction(value) / 2
    own = [Fraction(0) if code in several else d for code, d in zip(codes, own, strict=True)]
    for name, row, bound in zip(problem.row_ids, problem.rows, problem.bounds, strict=True):
        y = Fraction(duals.get(name, 0.0))
        slope = [s + y * r for s, r in zip(slope, rational(row), strict=True)]
        total -= y * Fraction(float(bound))
    g = Fraction(duals.get("gross", 0.0)) if case.gross is not None else Fraction(0)
    total -= g * Fraction(case.gross or 0.0)
    borrow = rational(case.borrow)
    size = abs(total)
    impact = [c / years for c in rational(case.impact)]
    for i in range(len(names)):
        kink, curve, bend = costs[i] * (1 / years + y_b) + lam, gamma * own[i], impact[i]
        points = [lower[i], upper[i], x0[i], Fraction(0)]
        for sign in (1, -1):
            for tilt in (slope[i] + g, slope[i] - g - borrow[i]):
                e = min(sign * (curve * (x0[i] - xb[i]) + tilt) + kink, Fraction(0))
                if bend:
                    below = Fraction(3, 2) * bend + root(Fraction(9, 4) * bend**2 - 4 * curve * e)
                    points.append(x0[i] + sign * (2 * e / below) ** 2)
                elif curve:
                    points.append(xb[i] - (tilt + sign * kink) / curve)
        inside = [min(max(t, lower[i]), upper[i]) for t in points]
        least = min(
            curve / 2 * (t - xb[i]) ** 2
            + slope[i] * t
            + kink * abs(t - x0[i])
            + bend * abs(t - x0[i]) * root(abs(t - x0[i]))
            + g * abs(t)
            + borrow[i] * max(-t, Fraction(0))
            for t in inside
        )
        total, size = total + least, size + abs(least)
    return total, size
