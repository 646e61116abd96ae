"""What one certified rebalance costs beside Clarabel called directly and beside its peers: ``make bench``.

Every figure is CPU time on one thread, the contestants in turn in one run; the ratio is to the quicker of the two
forms in which Clarabel is given the problem. Nothing here is a test. Usage: rebalance.py OUT [PYTHON_OF_PEERS]
"""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import clarabel
import numpy as np
import polars as pl
import scipy.sparse as sp

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from random_books import RandomBook, random_book  # noqa: E402

from engine.rebalance.attempt import Attempt, RawAnswer  # noqa: E402
from engine.rebalance.direct import Trades, solve_direct  # noqa: E402
from engine.rebalance.evidence import Claim  # noqa: E402
from engine.rebalance.problem import Problem  # noqa: E402
from engine.rebalance.reduction import solve_reduced  # noqa: E402
from engine.rebalance.solve import Answer, Programs  # noqa: E402

SIZES = ((200, 10, 5), (500, 30, 5), (1000, 60, 5), (3000, 70, 5), (10000, 100, 3))
"""Names, factors, repetitions; each repetition is another book."""

LARGEST_FOR_PEERS = 1000
"""Beyond it a peer, and a dense covariance, takes minutes."""

LARGEST_FOR_CVXPY = 3000

PEERS = ("cvxportfolio factor", "cvxportfolio full", "PyPortfolioOpt", "skfolio", "Riskfolio-Lib")

TOLERANCE = 1e-8


def plain_form(problem: Problem) -> tuple[Any, ...]:
    """Weights, absolute trades and factor exposures as variables, as a textbook writes it."""
    p, (n, k), m = problem, problem.root.shape, len(problem.row_ids)
    eye, none, gap = sp.eye_array(n), sp.csc_array((n, n)), sp.csc_array((n, k))
    quadratic = sp.block_diag([sp.diags_array(p.aversion * p.specific), none, p.aversion * sp.eye_array(k)])
    linear = np.concatenate([-p.aversion * p.specific * p.benchmark, p.costs / p.years, np.zeros(k)])
    sums = np.vstack([p.rows, np.ones(n), np.zeros(n)])
    trades = np.vstack([np.zeros((m, n)), p.costs, np.ones(n)])
    matrix = sp.vstack(
        [
            sp.hstack([sp.csc_array(p.root.T), sp.csc_array((k, n)), -sp.eye_array(k)]),
            sp.hstack([sp.csc_array(sums), sp.csc_array(trades), sp.csc_array((m + 2, k))]),
            sp.hstack([eye, -eye, gap]),
            sp.hstack([-eye, -eye, gap]),
            sp.hstack([eye, none, gap]),
            sp.hstack([-eye, none, gap]),
        ]
    )
    limits = [p.bounds, [p.spendable, p.turnover], p.start, -p.start, p.upper, -p.lower]
    right = np.concatenate([p.root.T @ p.benchmark, *limits])
    return quadratic, linear, matrix, right, k


def split_form(problem: Problem) -> tuple[Any, ...]:
    """Purchases, sales and factor exposures as variables: fewer where most names are not held."""
    p, k = problem, problem.root.shape[1]
    held = np.flatnonzero(p.start > p.lower)
    names = np.concatenate([np.arange(len(p.start)), held])
    sign = np.concatenate([np.ones(len(p.start)), -np.ones(len(held))])
    gap, v = p.benchmark - p.start, len(names)
    curve = p.aversion * p.specific[names]
    quadratic = sp.diags_array(np.concatenate([curve, np.full(k, p.aversion)]))
    linear = np.concatenate([p.costs[names] / p.years - curve * sign * gap[names], np.zeros(k)])
    sums = np.vstack([sign + p.costs[names], np.ones(v), p.rows[:, names] * sign])
    bounded = sp.hstack([sp.eye_array(v), sp.csc_array((v, k))])
    matrix = sp.vstack(
        [
            sp.hstack([sp.csc_array((p.root[names] * sign[:, None]).T), -sp.eye_array(k)]),
            sp.hstack([sp.csc_array(sums), sp.csc_array((len(sums), k))]),
            bounded,
            -bounded,
        ]
    )
    most = np.where(sign > 0.0, p.upper[names] - p.start[names], p.start[names] - p.lower[names])
    limits = [p.spendable - p.start.sum(), p.turnover, *(p.bounds - p.rows @ p.start)]
    right = np.concatenate([p.root.T @ gap, limits, np.maximum(most, 0.0), np.zeros(v)])
    return quadratic, linear, matrix, right, k


def dense_form(problem: Problem) -> tuple[Any, ...]:
    """The plain form with the covariance of the names in place of factor exposures."""
    _, linear, matrix, right, k = plain_form(problem)
    n = len(problem.start)
    sigma = problem.aversion * (problem.root @ problem.root.T + np.diag(problem.specific))
    quadratic = sp.block_diag([sp.csc_array(sigma), sp.csc_array((n, n))])
    pull = np.concatenate([-sigma @ problem.benchmark, linear[n : 2 * n]])
    return quadratic, pull, matrix[k:, : 2 * n], right[k:], 0


def clarabel_seconds(form: tuple[Any, ...]) -> float:
    """CPU seconds of Clarabel on matrices that are already there."""
    quadratic, linear, matrix, right, k = form
    quadratic, matrix = sp.csc_matrix(sp.triu(quadratic)), sp.csc_matrix(matrix)
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.max_threads = False, 1
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = TOLERANCE
    cones = [clarabel.ZeroConeT(k), clarabel.NonnegativeConeT(len(right) - k)]
    began = time.process_time()
    found = clarabel.DefaultSolver(quadratic, linear, matrix, right, cones, settings).solve()
    took = time.process_time() - began
    if str(found.status) != "Solved":
        print(f"clarabel says {found.status}", file=sys.stderr)
    return took


def engine_seconds(book: RandomBook, programs: Programs) -> float:
    """CPU seconds from weights and tables to a certified answer."""
    began = time.process_time()
    answer = book.solve(programs)
    took = time.process_time() - began
    if answer.status != "certified":
        raise SystemExit(f"a book of {len(book.benchmark)} names is {answer.status}")
    return took


def seconds(run: Callable[[], RawAnswer]) -> float:
    """CPU seconds of a solver call that is not judged."""
    began = time.process_time()
    answer = run()
    took = time.process_time() - began
    if answer.weights is None:
        print(f"{answer.solver} says {answer.status}", file=sys.stderr)
    return took


def judge_seconds(book: RandomBook, names: tuple[str, ...], answer: Answer) -> float:
    """CPU seconds of the certificate alone, the book's tables read anew."""
    claim = Claim(dict(zip(names, answer.weights.tolist(), strict=True)), answer.duals)
    began = time.process_time()
    book.judge(claim)
    return time.process_time() - began


def parts(problem: Problem, programs: Programs) -> dict[str, Callable[[], float]]:
    """What the engine could do and does, each alone and without a certificate."""
    whole = Trades.of(problem)
    found: dict[str, Callable[[], float]] = {}
    for solver, attempt in (("PIQP", Attempt("PIQP", tolerance=TOLERANCE)), ("interior point", Attempt("INTERIOR"))):
        found[f"{solver}, all names"] = partial(seconds, partial(solve_direct, problem, whole, attempt))
        found[f"{solver}, reduced"] = partial(seconds, partial(solve_reduced, problem, attempt))
    if len(problem.start) <= LARGEST_FOR_CVXPY:
        attempt = Attempt("CLARABEL", tolerance=TOLERANCE)
        found["cvxpy, cold"] = partial(seconds, lambda: Programs().fit(problem).solve(problem, attempt))
        programs.fit(problem).solve(problem, attempt)
        found["cvxpy, compiled"] = partial(seconds, lambda: programs.fit(problem).solve(problem, attempt))
    return found


class Peers:
    """The peers in a process with packages of their own, asked one problem at a time."""

    def __init__(self, python: str, folder: Path) -> None:
        self.file = folder / "problem.npz"
        command = [python, "-W", "ignore", str(HERE / "peers.py"), str(self.file)]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def load(self, problem: Problem, book: RandomBook) -> None:
        """Write the problem where the child reads it."""
        model = book.terms.model
        values = {name: getattr(problem, name) for name in Problem.__slots__}
        numbers = {name: value for name, value in values.items() if isinstance(value, float | np.ndarray)}
        covariance = model.factor_covariance
        np.savez(self.file, exposures=model.exposures, covariance=covariance, own=model.specific_variance, **numbers)

    def seconds(self, peer: str) -> float:
        """CPU seconds of one peer; nan where it gave no answer."""
        self.child.stdin.write(peer + "\n")
        self.child.stdin.flush()
        said = json.loads(self.child.stdout.readline())
        if said["error"]:
            print(f"{peer}: {said['error']}", file=sys.stderr)
        return float("nan") if said["error"] else float(said["seconds"])

    def close(self) -> None:
        """End the child."""
        self.child.stdin.close()
        self.child.wait()


def measure(names: int, factors: int, repetitions: int, peers: Peers | None) -> list[dict[str, Any]]:
    """One row for each contestant at one size."""
    programs, times = Programs(), {}
    random_book(np.random.default_rng(99), 200, 10).solve(programs)
    for seed in range(repetitions):
        book = random_book(np.random.default_rng(seed), names, factors)
        problem = book.state()
        contest: dict[str, Callable[[], float]] = {
            "engine, certified": partial(engine_seconds, book, programs),
            "Clarabel, plain form": partial(clarabel_seconds, plain_form(problem)),
            "Clarabel, split form": partial(clarabel_seconds, split_form(problem)),
            **parts(problem, programs),
        }
        if names <= LARGEST_FOR_PEERS:
            contest["Clarabel, dense covariance"] = partial(clarabel_seconds, dense_form(problem))
        contest["certificate alone"] = partial(judge_seconds, book, problem.names.labels, book.solve(programs))
        if peers is not None and names <= LARGEST_FOR_PEERS:
            peers.load(problem, book)
            contest |= {peer: partial(peers.seconds, peer) for peer in PEERS}
        for contestant, run in contest.items():
            times.setdefault(contestant, []).append(run())
    medians = {contestant: float(np.nanmedian(taken)) for contestant, taken in times.items()}
    bare = min(medians["Clarabel, plain form"], medians["Clarabel, split form"])
    return [
        {
            "names": names,
            "factors": factors,
            "contestant": contestant,
            "repetitions": int(np.isfinite(taken).sum()),
            "median_ms": 1e3 * medians[contestant],
            "min_ms": 1e3 * float(np.nanmin(taken)),
            "max_ms": 1e3 * float(np.nanmax(taken)),
            "to_clarabel": medians[contestant] / bare,
            "to_engine": medians[contestant] / medians["engine, certified"],
        }
        for contestant, taken in times.items()
        if np.isfinite(taken).any()
    ]


def main() -> None:
    """Measure, write one table as Markdown and Parquet."""
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    peers = Peers(sys.argv[2], out) if len(sys.argv) > 2 else None
    rows: list[dict[str, Any]] = []
    for names, factors, repetitions in SIZES:
        rows += measure(names, factors, repetitions, peers)
        print(f"{names} x {factors} done", file=sys.stderr)
    if peers is not None:
        peers.close()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    packages = ", ".join(f"{name} {version(name)}" for name in ("clarabel", "piqp", "numpy", "scipy", "polars"))
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    frame = pl.DataFrame(rows).with_columns(
        machine=pl.lit(machine), versions=pl.lit(packages), commit=pl.lit(commit.stdout.strip())
    )
    frame.write_parquet(out / "rebalance.parquet")
    lines = [f"One rebalance; CPU ms on one thread. {machine}; {packages}; commit {commit.stdout.strip()}.", ""]
    lines += [
        "| names x factors | contestant | median (min - max) | to Clarabel | to engine |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['names']} x {r['factors']} | {r['contestant']} | {r['median_ms']:.1f} ({r['min_ms']:.1f} - "
        f"{r['max_ms']:.1f}) | {r['to_clarabel']:.3f} | {r['to_engine']:.1f} |"
        for r in rows
    ]
    text = "\n".join(lines) + "\n"
    (out / "rebalance.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
