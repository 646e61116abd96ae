"""The peers on one problem each: reads a name a line, answers with CPU seconds. Runs where only they are installed.

The problem is the engine's, except: no peer pays costs out of cash; skfolio and Riskfolio-Lib limit the trade of each
name, not their sum (here by the mean trade allowed times ten), and take the covariance as given. PyPortfolioOpt and
they hold the full covariance; forming it is not counted.
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import cvxpy as cp
import numpy as np
import pandas as pd


def labels(numbers: Any) -> list[str]:
    """Names of the securities."""
    return [f"S{i:05d}" for i in range(len(numbers["start"]))]


def full(numbers: Any) -> np.ndarray:
    """The covariance of the names."""
    return numbers["root"] @ numbers["root"].T + np.diag(numbers["specific"])


def cvxportfolio(numbers: Any, *, factors: bool) -> Callable[[], np.ndarray]:
    """Single-period optimisation with the same objective and limits."""
    import cvxportfolio as cvx

    names = labels(numbers)
    days = pd.date_range("2024-01-01", periods=300, freq="D")
    returns = pd.DataFrame(np.zeros((300, len(names) + 1)), index=days, columns=[*names, "cash"])
    market = cvx.UserProvidedMarketData(returns=returns, cash_key="cash", min_history=pd.Timedelta("1d"))
    start, bench = numbers["start"], numbers["benchmark"]
    money = pd.Series([*start, 1.0 - start.sum()], index=[*names, "cash"]) * 1e6
    index = pd.Series([*bench, 1.0 - bench.sum()], index=[*names, "cash"])
    columns = [f"f{j}" for j in range(numbers["root"].shape[1])]
    if factors:
        loads = pd.DataFrame(numbers["root"].T, index=columns, columns=names)
        own = pd.Series(numbers["specific"], index=names)
        risk = cvx.FactorModelCovariance(F=loads, d=own)
    else:
        risk = cvx.FullCovariance(pd.DataFrame(full(numbers), index=names, columns=names))
    spread = cvx.TransactionCost(a=pd.Series(numbers["costs"], index=names), b=None)
    rows = [f"r{j}" for j in range(len(numbers["bounds"]))]
    limits = [
        cvx.MinWeights(pd.Series(numbers["lower"], index=names)),
        cvx.MaxWeights(pd.Series(numbers["upper"], index=names)),
        cvx.TurnoverLimit(float(numbers["turnover"]) / 2.0),
        cvx.FactorMaxLimit(
            pd.DataFrame(numbers["rows"].T, index=names, columns=rows), pd.Series(numbers["bounds"], index=rows)
        ),
        cvx.MinCashBalance(1e6 * (1.0 - float(numbers["spendable"]))),
    ]
    gamma, years = float(numbers["aversion"]), float(numbers["years"])

    def run() -> np.ndarray:
        policy = cvx.SinglePeriodOptimization(
            -(gamma / 2.0) * risk - (1.0 / years) * spread,
            limits,
            include_cash_return=False,
            benchmark=cvx.FixedWeights(index),
            solver="CLARABEL",
        )
        trades, _, _ = policy.execute(money, market, t=days[-1])
        return start + trades[names].to_numpy() / 1e6

    return run


def pyportfolioopt(numbers: Any) -> Callable[[], np.ndarray]:
    """Its efficient frontier with this objective and these limits, in cvxpy expressions."""
    from pypfopt import EfficientFrontier

    sigma, start, bench = full(numbers), numbers["start"], numbers["benchmark"]
    gamma, years, costs = float(numbers["aversion"]), float(numbers["years"]), numbers["costs"]

    def run() -> np.ndarray:
        bounds = list(zip(numbers["lower"], numbers["upper"], strict=True))
        frontier = EfficientFrontier(None, sigma, weight_bounds=bounds, solver="CLARABEL")
        frontier.add_constraint(lambda w: numbers["rows"] @ w <= numbers["bounds"])
        frontier.add_constraint(lambda w: cp.norm1(w - start) <= float(numbers["turnover"]))
        frontier.add_constraint(lambda w: cp.sum(w) + costs @ cp.abs(w - start) <= float(numbers["spendable"]))

        def objective(w: Any, sigma: np.ndarray) -> Any:
            return gamma / 2.0 * cp.quad_form(w - bench, sigma, assume_PSD=True) + costs @ cp.abs(w - start) / years

        frontier.convex_objective(objective, weights_sum_to_one=False, sigma=sigma)
        return np.asarray(frontier.weights)

    return run


def skfolio(numbers: Any) -> Callable[[], np.ndarray]:
    """Mean-risk with a given covariance; the benchmark enters the objective as a linear term."""
    from skfolio.optimization import MeanRisk, ObjectiveFunction
    from skfolio.prior import BasePrior, ReturnDistribution

    sigma, start = full(numbers), numbers["start"]
    gamma, years = float(numbers["aversion"]), float(numbers["years"])
    pull = gamma * (sigma @ numbers["benchmark"])
    draws = np.random.default_rng(0).normal(0.0, 0.01, (30, len(start)))

    class Given(BasePrior):
        def __init__(self) -> None:
            self.return_distribution_: Any = None

        def fit(self, X: Any, y: Any = None, **params: Any) -> "Given":  # noqa: N803
            self.return_distribution_ = ReturnDistribution(mu=pull, covariance=sigma, returns=draws)
            return self

    def run() -> np.ndarray:
        model = MeanRisk(
            objective_function=ObjectiveFunction.MAXIMIZE_UTILITY,
            risk_aversion=gamma / 2.0,
            prior_estimator=Given(),
            min_weights=numbers["lower"],
            max_weights=numbers["upper"],
            budget=None,
            max_budget=float(numbers["spendable"]),
            transaction_costs=numbers["costs"] / years,
            previous_weights=start,
            max_turnover=10.0 * float(numbers["turnover"]) / len(start),
            left_inequality=numbers["rows"],
            right_inequality=numbers["bounds"],
            solver="CLARABEL",
        )
        model.fit(draws)
        return np.asarray(model.weights_)

    return run


def riskfolio(numbers: Any) -> Callable[[], np.ndarray]:
    """Classic mean-risk with given moments; the benchmark enters the objective as a linear term."""
    import riskfolio as rp

    names, sigma, start = labels(numbers), full(numbers), numbers["start"]
    gamma = float(numbers["aversion"])
    draws = pd.DataFrame(np.random.default_rng(0).normal(0.0, 0.01, (30, len(start))), columns=names)
    pull = pd.DataFrame([gamma * (sigma @ numbers["benchmark"])], columns=names)

    def run() -> np.ndarray:
        book = rp.Portfolio(returns=draws, upperlng=pd.DataFrame([numbers["upper"]], columns=names).T.to_numpy())
        book.mu, book.cov = pull, pd.DataFrame(sigma, index=names, columns=names)
        book.solvers = ["CLARABEL"]
        book.ainequality, book.binequality = numbers["rows"], numbers["bounds"][:, None]
        book.allowTO, book.turnover = True, 10.0 * float(numbers["turnover"]) / len(start)
        book.benchweights = pd.DataFrame(start, index=names, columns=["weights"])
        found = book.optimization(model="Classic", rm="MV", obj="Utility", rf=0.0, l=gamma / 2.0, hist=True)
        if found is None:
            raise ValueError("no solution")
        return found["weights"].to_numpy()

    return run


CONTEST: dict[str, Callable[[Any], Callable[[], np.ndarray]]] = {
    "cvxportfolio factor": lambda numbers: cvxportfolio(numbers, factors=True),
    "cvxportfolio full": lambda numbers: cvxportfolio(numbers, factors=False),
    "PyPortfolioOpt": pyportfolioopt,
    "skfolio": skfolio,
    "Riskfolio-Lib": riskfolio,
}


def objective(numbers: Any, weights: np.ndarray) -> float:
    """The engine's objective of some weights."""
    active = weights - numbers["benchmark"]
    risk = float(np.sum((numbers["root"].T @ active) ** 2) + numbers["specific"] @ active**2)
    cost = float(numbers["costs"] @ np.abs(weights - numbers["start"]))
    return float(numbers["aversion"]) / 2.0 * risk + cost / float(numbers["years"])


def main() -> None:
    """Answer until the input ends."""
    for line in sys.stdin:
        said = {"seconds": None, "objective": None, "error": None}
        try:
            with np.load(sys.argv[1]) as file:
                numbers = dict(file)
            run = CONTEST[line.strip()](numbers)
            began = time.process_time()
            with redirect_stdout(sys.stderr):  # some say there what they should raise
                weights = run()
            said["seconds"] = time.process_time() - began
            said["objective"] = objective(numbers, weights)
        except Exception as error:  # noqa: BLE001 - one peer's failure is its own row
            said["error"] = f"{type(error).__name__}: {error}"[:200]
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
