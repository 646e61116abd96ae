"""Whole lots: enumeration and a mixed-integer program agree, every limit holds, wrong quantities are refused."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_certificate import NAV, PROGRAMS, Book, covariance_of, tight_book
from test_chunk import rows

from engine.api.loading import LoadedUniverse
from engine.api.rebalancing import RebalanceResult, rebalance_portfolios
from engine.book.publishing import Custody, publish_answer
from engine.mandates.lots import Lots
from engine.mandates.mandate import Mandate
from engine.rebalance.lot_grid import Grid, state_grid
from engine.rebalance.lots import round_to_lots
from engine.rebalance.lots_exact import round_exactly
from engine.rebalance.problem import Problem
from engine.rebalance.published import Listing, LotClaim, PublishedVerdict, certify_published
from engine.rebalance.relaxed_certificate import LOTS, with_room
from engine.rebalance.solve import Answer, Published

FREE = Lots()


@dataclass(frozen=True)
class LotBook:
    """A book whose shares have prices, as fractions of NAV, and lots."""

    book: Book
    share: Mapping[str, float]
    lots: Mapping[str, float]
    rules: Lots = FREE

    @property
    def problem(self) -> Problem:
        return self.book.problem

    def held(self, name: str) -> float:
        return self.book.weights.get(name, 0.0) / self.share[name]

    @property
    def grid(self) -> Grid:
        names = self.problem.names.labels
        return state_grid(
            self.problem,
            held=np.array([self.held(name) for name in names]),
            unit=np.array([self.share[name] for name in names]),
            lot=np.array([self.lots.get(name, 1.0) for name in names]),
            min_trade=self.rules.min_trade,
            min_position=self.rules.min_position,
        )

    @property
    def custody(self) -> Custody:
        rows = [
            (name, self.held(name), self.share[name] * NAV, weight * NAV) for name, weight in self.book.weights.items()
        ]
        columns = ["security_id", "quantity", "price", "market_value_base"]
        return Custody(pl.DataFrame(rows, schema=columns, orient="row"), NAV, self.rules)

    @property
    def listing(self) -> Listing:
        return Listing({name: share * NAV for name, share in self.share.items()}, self.lots)

    def publish(self, answer: Answer | None = None) -> Answer:
        answer = self.book.solve(PROGRAMS) if answer is None else answer
        return publish_answer(self.problem, answer, custody=self.custody, listing=self.listing, judge=self.book.judge)

    def certify(self, quantities: Mapping[str, float], weights: Mapping[str, float]) -> PublishedVerdict:
        custody = self.custody
        return certify_published(
            self.listing,
            holdings=custody.holdings,
            nav=custody.nav,
            rules=custody.rules,
            claim=LotClaim(quantities, weights),
            judge=self.book.judge,
        )


def with_lots(book: Book, size: float, seed: int, **rules: Any) -> LotBook:
    """Lots of about ``size`` of NAV: some of one share, some of three, one of a fraction of a share."""
    random = np.random.default_rng(seed)
    names = book.problem.names.labels
    lots = {name: (1.0, 3.0, 0.25)[i % 3] for i, name in enumerate(names)}
    share = {name: size * float(random.uniform(0.7, 1.3)) / lots[name] for name in names}
    return LotBook(book, share, lots, Lots(**rules))


@cache
def tiny_book(seed: int) -> Book:
    """Three or four names whose limits bind where the continuous answer ends."""
    random = np.random.default_rng(seed)
    n = 3 + seed % 2
    names = [f"S{i}" for i in range(n)]
    start = random.dirichlet(np.full(n, 3.0)) * 0.95
    start[-1] = 0.0 if seed % 3 == 0 else start[-1]
    shock = -random.uniform(0.02, 0.3, n)
    loss = float(-shock @ start)
    limits: dict[str, Any] = {
        "max_weight": 0.7,
        "turnover": float(random.uniform(0.5, 1.2)),
        "cash": {"min": 0.0, "max": float(random.uniform(0.05, 0.4))},
        "stress": ({"scenario": "crash", "max_loss": loss * float(random.uniform(0.75, 0.98))},),
        "tiers": {"a": {"max": float(random.uniform(0.4, 0.8))}},
    }
    benchmark = random.dirichlet(np.full(n, 3.0))
    if seed % 4 == 0:
        limits["tracking_error"] = float(random.uniform(0.05, 0.1))
    return Book(
        weights=dict(zip(names, start.tolist(), strict=True)),
        benchmark=dict(zip(names, benchmark.tolist(), strict=True)) if seed % 2 == 0 else None,
        limits=limits,
        exposures=np.column_stack([random.uniform(0.6, 1.6, n), random.normal(0.0, 0.6, n)]),
        covariance=covariance_of(random, 2),
        variance=random.uniform(0.02, 0.1, n),
        issuers=np.arange(n),
        shares={names[0]: {"a": 1.0}, names[1]: {"a": 0.5}},
        shocks={"crash": shock},
        bps={name: float(random.uniform(5.0, 60.0)) for name in names},
        rest={"risk_aversion": 8.0},
    )


def enumerate_all(lotted: LotBook) -> float:
    """The objective of the best of every allowed combination of quantities; infinite where none keeps every limit."""
    problem, rules = lotted.problem, lotted.rules
    choices = []
    for i, name in enumerate(problem.names.labels):
        share, lot, held, start = lotted.share[name], lotted.lots[name], lotted.held(name), problem.start[i]
        whole = [k * lot * share for k in range(int(1.0 / (lot * share)) + 2)]
        kept = [w for w in whole if w == 0.0 or (abs(w - held * share) >= rules.min_trade and w >= rules.min_position)]
        inside = [w for w in [start, *kept] if problem.lower[i] <= w <= problem.upper[i]]
        choices.append(sorted(set(inside)))
    x = np.array(list(product(*choices))).reshape(-1, len(choices))
    traded, active = np.abs(x - problem.start), x - problem.benchmark
    risk = ((active @ problem.root) ** 2).sum(axis=1) + active**2 @ problem.specific
    keeps = (
        (x.sum(axis=1) + traded @ problem.costs <= problem.spendable + 1e-12)
        & (traded.sum(axis=1) <= problem.turnover + 1e-12)
        & (x @ problem.rows.T <= problem.bounds + 1e-12).all(axis=1)
    )
    if problem.tracking_error is not None:
        keeps &= np.sqrt(risk) <= problem.tracking_error + 1e-12
    if not keeps.any():
        return np.inf
    value = np.where(keeps, problem.aversion / 2.0 * risk + traded @ problem.costs / problem.years, np.inf)
    return float(value.min())


SEEDS = range(24)


def tiny(seed: int) -> LotBook:
    rules = ({}, {"min_trade": 0.06}, {"min_position": 0.09}, {"min_trade": 0.03, "min_position": 0.08})[seed // 3 % 4]
    return with_lots(tiny_book(seed), (0.03, 0.05, 0.09)[seed % 3], seed, **rules)


@cache
def continuous(seed: int) -> Answer:
    return tiny_book(seed).solve(PROGRAMS)


@cache
def best_of(seed: int) -> float:
    return enumerate_all(tiny(seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_mixed_integer_program_finds_the_best_of_every_combination(seed: int) -> None:
    lotted, best = tiny(seed), best_of(seed)
    if continuous(seed).status != "certified":
        assert best == np.inf
        return
    exact = published(replace(lotted, rules=lotted.rules.model_copy(update={"exact": True})), continuous(seed))
    assert exact.certified == np.isfinite(best)
    if exact.certified:
        assert exact.objective == pytest.approx(best, rel=1e-5, abs=1e-9)


def test_rounding_and_repair_come_near_the_best_of_every_combination() -> None:
    possible, ratios = 0, []
    for seed in SEEDS:
        if continuous(seed).status != "certified":
            continue
        lots, best = published(tiny(seed), continuous(seed)), best_of(seed)
        assert not (lots.certified and best == np.inf)
        possible += np.isfinite(best)
        if lots.certified:
            assert lots.objective is not None
            ratios.append(lots.objective / best)
    assert possible == 18
    assert len(ratios) >= 17
    assert min(ratios) >= 1.0 - 1e-9
    assert sum(ratio <= 1.0 + 1e-9 for ratio in ratios) >= 12
    assert max(ratios) <= 1.35


def published(lotted: LotBook, answer: Answer | None = None) -> Published:
    lots = lotted.publish(answer).published
    assert lots is not None
    return lots


def checked(lotted: LotBook, lots: Published) -> None:
    """Every rule of whole lots and every limit, by hand."""
    problem, rules = lotted.problem, lotted.rules
    x0, x = problem.start, lots.weights
    for i, name in enumerate(problem.names.labels):
        held, after = lotted.held(name), float(lots.quantities[i])
        if after == held:
            assert x[i] == x0[i]
            continue
        assert after == round(after / lotted.lots[name]) * lotted.lots[name]
        assert x[i] == pytest.approx(after * lotted.share[name], abs=1e-15)
        assert after == 0.0 or abs(after - held) * lotted.share[name] >= rules.min_trade - 1e-12
        assert after == 0.0 or x[i] >= rules.min_position - 1e-12
    traded, active = np.abs(x - x0), x - problem.benchmark
    assert x.sum() + problem.costs @ traded <= problem.spendable + 1e-9
    assert traded.sum() <= problem.turnover + 1e-9
    assert (problem.rows @ x <= problem.bounds + 1e-9).all()
    assert (x >= problem.lower - 1e-9).all() and (x <= problem.upper + 1e-9).all()
    if problem.tracking_error is not None:
        risk = ((problem.root.T @ active) ** 2).sum() + problem.specific @ active**2
        assert np.sqrt(risk) <= problem.tracking_error + 1e-9


@cache
def tight(seed: int) -> tuple[Book, Answer]:
    book = tight_book(seed)
    return book, book.solve(PROGRAMS)


@given(
    seed=st.integers(0, 5),
    size=st.floats(-6.0, -2.5),
    min_trade=st.sampled_from([0.0, 1e-3, 1e-2]),
    min_position=st.sampled_from([0.0, 1e-3, 2e-2]),
)
def test_lots_keep_every_limit_and_cost_no_less_than_nothing(
    seed: int, size: float, min_trade: float, min_position: float
) -> None:
    book, answer = tight(seed)
    lotted = with_lots(book, 10.0**size, seed, min_trade=min_trade, min_position=min_position)
    lots = published(lotted, answer)
    if not lots.certified:
        assert np.array_equal(lots.weights, book.problem.start)
        return
    checked(lotted, lots)
    assert lots.rounding_cost is not None and answer.verdict is not None
    # A limit that the continuous answer misses by rounding, lots may miss by as much.
    assert lots.rounding_cost >= -2e-6 * answer.verdict.objective
    assert lots.relative_gap is not None and lots.relative_gap >= -2e-6


def test_smaller_lots_cost_less_and_at_last_next_to_nothing() -> None:
    for seed in range(6):
        book, answer = tight(seed)
        costs = []
        for size in (1e-3, 1e-5, 1e-7):
            lots = published(with_lots(book, size, seed), answer)
            assert lots.certified and lots.rounding_cost is not None and answer.verdict is not None
            costs.append(lots.rounding_cost / answer.verdict.objective)
        assert costs[2] <= costs[1] + 1e-7 <= costs[0] + 2e-7
        assert costs[2] <= 5e-6


def test_what_the_continuous_answer_leaves_alone_stays_to_the_last_share() -> None:
    for seed in range(6):
        book, answer = tight(seed)
        lotted = with_lots(book, 1e-7, seed)
        lots = published(lotted, answer)
        names = book.problem.names.labels
        held = np.array([lotted.held(name) for name in names])
        still = answer.weights == book.problem.start
        assert np.array_equal(lots.quantities[still], held[still])


def test_lots_larger_than_the_book_publish_nothing_and_say_which_limit() -> None:
    book, answer = tight(0)
    lots = published(with_lots(book, 5.0, 0), answer)
    assert not lots.certified
    assert np.array_equal(lots.weights, book.problem.start)
    assert lots.objective is None and lots.rounding_cost is None
    assert lots.max_violation > 1e-4 and lots.unrepaired > 1e-4
    assert lots.worst_limit and lots.broken
    assert replace(answer, published=lots).outcome == "held"
    assert replace(answer, published=lots).status == "certified"


def test_a_book_that_keeps_its_limits_stands_still_whatever_its_lots() -> None:
    book = replace(tight_book(1), benchmark=None, limits={"turnover": 0.3})
    answer = book.solve(PROGRAMS)
    for size in (5.0, 1e-12):
        lots = published(with_lots(book, size, 1), answer)
        assert lots.certified
        assert lots.rounding_cost == 0.0
        assert np.array_equal(lots.weights, book.problem.start)


# Planted wrong answers.


def planted(**rules: Any) -> tuple[LotBook, dict[str, float], dict[str, float]]:
    """A book with the quantities and weights of its published answer."""
    book, answer = tight(2)
    lotted = with_lots(book, 1e-4, 2, **rules)
    lots = published(lotted, answer)
    assert lots.certified
    names = book.problem.names.labels
    quantities, weights = (dict(zip(names, v.tolist(), strict=True)) for v in (lots.quantities, lots.weights))
    assert lotted.certify(quantities, weights).accepted
    return lotted, quantities, weights


def traded_name(lotted: LotBook, quantities: Mapping[str, float]) -> str:
    return next(name for name, q in quantities.items() if q not in (0.0, lotted.held(name)))


def moved(lotted: LotBook, quantities: Mapping[str, float], name: str, to: float) -> PublishedVerdict:
    changed = {**quantities, name: to}
    names = lotted.problem.names.labels
    start = dict(zip(names, lotted.problem.start.tolist(), strict=True))
    weights = {n: start[n] if q == lotted.held(n) else q * lotted.share[n] for n, q in changed.items()}
    return lotted.certify(changed, weights)


def test_a_quantity_off_its_lot_is_refused() -> None:
    lotted, quantities, _ = planted()
    name = traded_name(lotted, quantities)
    for part in (0.5, 0.01, 1e-6):
        verdict = moved(lotted, quantities, name, quantities[name] + part * lotted.lots[name])
        assert not verdict.accepted
        assert f"{name}:" in verdict.fault and "whole lots" in verdict.fault


def test_lots_of_another_size_are_refused() -> None:
    lotted, quantities, weights = planted()
    name = next(n for n, q in quantities.items() if lotted.lots[n] == 0.25 and q not in (0.0, lotted.held(n)))
    other = replace(lotted, lots={**lotted.lots, name: 7.0})
    quantities[name] += 0.25 * (quantities[name] % 7.0 == 0.0)
    verdict = other.certify(quantities, weights)
    assert not verdict.accepted
    assert "whole lots of 7" in verdict.fault


def test_a_trade_and_a_position_below_their_minimum_are_refused() -> None:
    lotted, quantities, weights = planted()
    size = min(
        abs(q - lotted.held(n)) * lotted.share[n] for n, q in quantities.items() if q not in (0.0, lotted.held(n))
    )
    small = replace(lotted, rules=Lots(min_trade=1.5 * size)).certify(quantities, weights)
    assert not small.accepted and "below the minimum" in small.fault and "a trade" in small.fault
    least = min(q * lotted.share[n] for n, q in quantities.items() if q not in (0.0, lotted.held(n)))
    if least < 0.09:
        thin = replace(lotted, rules=Lots(min_position=1.1 * least)).certify(quantities, weights)
        assert not thin.accepted and "a position" in thin.fault


def test_a_limit_broken_by_rounding_is_refused() -> None:
    book, answer = tight(2)
    lotted = with_lots(book, 5e-3, 2)
    names, unit = book.problem.names.labels, lotted.grid.lot * lotted.grid.unit
    # Every trade rounded up: more is bought than the limits leave room for.
    wanted = np.ceil(answer.weights / unit) * lotted.grid.lot
    quantities = np.where(answer.weights == book.problem.start, lotted.grid.held, wanted)
    weights = lotted.grid.weights(quantities, book.problem.start)
    claims = (dict(zip(names, values.tolist(), strict=True)) for values in (quantities, weights))
    verdict = lotted.certify(*claims)
    assert not verdict.accepted
    assert verdict.fault == "" and verdict.max_violation > 1e-6
    assert verdict.worst_limit


def test_a_weight_at_a_stale_price_is_refused() -> None:
    lotted, quantities, weights = planted()
    name = traded_name(lotted, quantities)
    verdict = lotted.certify(quantities, {**weights, name: weights[name] * (1.0 + 1e-6)})
    assert not verdict.accepted
    assert verdict.fault.startswith(f"{name}: ") and "weigh" in verdict.fault


def test_a_name_without_a_price_and_one_left_out_are_refused() -> None:
    lotted, quantities, weights = planted()
    new = next(name for name in quantities if name not in lotted.book.weights or lotted.held(name) == 0.0)
    bought = {**quantities, new: lotted.lots[new]}
    unpriced = replace(lotted, share={n: s for n, s in lotted.share.items() if n != new})
    listing = Listing({n: s * NAV for n, s in unpriced.share.items()}, lotted.lots)
    verdict = certify_published(
        listing,
        holdings=lotted.custody.holdings.filter(pl.col("security_id") != new),
        nav=NAV,
        rules=lotted.rules,
        claim=LotClaim(bought, weights),
        judge=lotted.book.judge,
    )
    assert not verdict.accepted and new in verdict.fault
    name = traded_name(lotted, quantities)
    without = {n: q for n, q in quantities.items() if n != name}
    assert not lotted.certify(without, weights).accepted


# The bundled books.


@pytest.fixture(scope="module")
def result(bundled: LoadedUniverse) -> RebalanceResult:
    """The bundled books, rebalanced."""
    return rebalance_portfolios(bundled)


def with_rules(bundled: LoadedUniverse, **rules: Any) -> LoadedUniverse:
    lots = Lots(**rules)
    return replace(bundled, mandates={n: m.model_copy(update={"lots": lots}) for n, m in bundled.mandates.items()})


def test_every_bundled_trade_is_in_whole_shares_and_everything_else_stays(
    bundled: LoadedUniverse, result: RebalanceResult
) -> None:
    held = bundled.holdings.select("portfolio_id", "security_id", "quantity", "price", "market_value_base")
    listed = bundled.universe.securities.select("security_id", "lot_size", pl.col("price").alias("listed"))
    frame = (
        result.tables["targets"]
        .join(held, on=["portfolio_id", "security_id"], how="left")
        .join(listed, on="security_id", how="left")
        .join(
            result.tables["trades"].select("portfolio_id", "security_id", traded="quantity"),
            on=["portfolio_id", "security_id"],
            how="left",
        )
        .join(bundled.portfolios.select("portfolio_id", "nav_base"), on="portfolio_id")
        .with_columns(pl.col("quantity").fill_null(0.0), pl.coalesce("price", "listed").alias("price"))
    )
    moved = frame.filter(pl.col("weight_after") != pl.col("weight_before"))
    assert moved.height > 150
    assert ((moved["quantity_after"] / moved["lot_size"]) % 1.0 == 0.0).all()
    assert (moved["traded"] == (moved["quantity_after"] - moved["quantity"]).abs()).all()
    by_hand = (moved["quantity_after"] * moved["price"] / moved["nav_base"]).to_list()
    assert moved["weight_after"].to_list() == pytest.approx(by_hand, rel=1e-9)
    still = frame.filter(pl.col("weight_after") == pl.col("weight_before"))
    assert (still["quantity_after"] == still["quantity"]).all()


def test_the_certificates_say_what_whole_shares_cost(result: RebalanceResult) -> None:
    table = result.tables["certificates"]
    plain, lots = (table.filter(pl.col("form") == form) for form in ("continuous", "published"))
    assert plain["rounding_cost"].null_count() == plain.height
    cost = (lots["objective"] - plain["objective"]).to_list()
    assert lots["rounding_cost"].to_list() == pytest.approx(cost, abs=1e-15)
    assert 0.0 < max(cost) < 1e-8
    assert lots["lower_bound"].equals(plain["lower_bound"])
    assert lots["max_violation"].max() <= 1e-9
    assert lots["unrepaired"].max() > 1e-8
    assert not [notice for notice in result.notices if notice.code == "book.lots"]


def test_fractions_are_published_as_they_are(bundled: LoadedUniverse) -> None:
    tables = rebalance_portfolios(with_rules(bundled, round="none"), only=["ai_infrastructure"]).tables
    one, two = (tables["certificates"].filter(pl.col("form") == f) for f in ("continuous", "published"))
    same = ["status", "objective", "lower_bound", "relative_gap", "max_violation", "solver", "iterations"]
    assert one.select(same).equals(two.select(same))
    assert two["rounding_cost"].to_list() == [0.0]
    assert (tables["trades"]["quantity"] % 1.0 != 0.0).any()


def test_minimum_trades_and_positions_are_kept_and_their_price_is_told(bundled: LoadedUniverse) -> None:
    result = rebalance_portfolios(
        with_rules(bundled, min_trade=0.002, min_position=0.003), only=["ai_infrastructure", "index_tracker"]
    )
    trades = result.tables["trades"].join(
        result.tables["targets"].select("portfolio_id", "security_id", "weight_after"),
        on=["portfolio_id", "security_id"],
        how="left",
    )
    kept = trades.filter(pl.col("weight_after").fill_null(0.0) != 0.0)
    assert kept.height
    assert kept["trade_weight"].abs().min() >= 0.002 - 1e-12
    assert kept["weight_after"].min() >= 0.003 - 1e-12
    told = [notice for notice in result.notices if notice.code == "book.lots"]
    assert [notice.severity for notice in told] == ["warn"] * len(told)
    lots = result.tables["certificates"].filter(pl.col("form") == "published")
    assert set(lots["status"]) == {"certified"}
    missed = lots.filter((pl.col("unrepaired") > 1e-4) | (pl.col("rounding_cost") > 1e-5))["portfolio_id"].to_list()
    assert [notice.portfolio_id for notice in told] == missed != []
    assert "bp of NAV a year; plain rounding missed" in told[0].message


def test_lots_that_no_limit_can_bear_hold_the_book_and_say_so(bundled: LoadedUniverse) -> None:
    huge = pl.lit(1e9).alias("lot_size")
    universe = replace(bundled.universe, securities=bundled.universe.securities.with_columns(huge))
    result = rebalance_portfolios(replace(bundled, universe=universe), only=["ai_infrastructure", "quality_core"])
    after = dict(rows(result.tables["portfolio_summary"], "portfolio_id", "status", stage="after"))
    assert (after["ai_infrastructure"], after["quality_core"]) == ("held", "certified")
    assert not result.tables["trades"].height
    forms = dict(rows(result.tables["certificates"], "form", "status", portfolio_id="ai_infrastructure"))
    assert forms == {"continuous": "certified", "published": "held"}
    (notice,) = [notice for notice in result.notices if notice.code == "book.lots"]
    assert notice.portfolio_id == "ai_infrastructure"
    assert notice.message.startswith("no whole lots were found that keep ")
    assert "cash:max by 8.2e-02 before" in notice.message
    assert "nothing is traded" in notice.message
    breached = result.tables["limits"].filter(pl.col("breach"))["limit_id"].to_list()
    assert "stress:deepseek" in breached


@pytest.mark.parametrize("factor", [1e-9, 1e3])
def test_books_of_one_dollar_and_of_a_trillion_are_published_or_held(bundled: LoadedUniverse, factor: float) -> None:
    part = bundled.only(["ai_infrastructure"])
    scaled = replace(
        part,
        holdings=part.holdings.with_columns(pl.col("quantity", "market_value_base", "exposure_base") * factor),
        portfolios=part.portfolios.with_columns(pl.col("nav_base") * factor),
    )
    tables = rebalance_portfolios(scaled).tables
    (row,) = tables["certificates"].filter(pl.col("form") == "published").to_dicts()
    if factor < 1.0:
        assert row["status"] == "held"
        assert not tables["trades"].height
    else:
        assert row["status"] == "certified"
        moved = tables["targets"].filter(pl.col("weight_after") != pl.col("weight_before"))
        assert (moved["quantity_after"] % 1.0 == 0.0).all()
        (plain,) = tables["certificates"].filter(pl.col("form") == "continuous").to_dicts()
        bound = most_that_lots_cost(scaled, moved["security_id"].to_list(), row["objective"])
        assert bound < 2e-10
        # Lots of a trillion are finer than the gap of the continuous answer: both are held against the proven bound.
        assert 0.0 <= row["objective"] - row["lower_bound"] <= plain["objective"] - plain["lower_bound"] + bound


def most_that_lots_cost(loaded: LoadedUniverse, moved: list[str], objective: float) -> float:
    """``f(x) - f(x*)`` at most, where no name is moved by more than a lot.

    ``f`` is convex, so it is at most ``sum |f'_i(x)| lot_i``, with ``|f'_i| <= gamma te sigma_i + k_i / years`` and
    ``gamma te^2 / 2 <= f(x)`` at the published ``x``.
    """
    model, (book,) = loaded.model, loaded.portfolios.to_dicts()
    mandate = loaded.mandates[book["mandate_id"]]
    at = model.securities.positions(moved, "lots")
    b = model.exposures[at]
    sigma = np.sqrt(((b @ model.factor_covariance) * b).sum(axis=1) + model.specific_variance[at])
    listed = pl.DataFrame({"security_id": moved}).join(
        loaded.universe.securities, on="security_id", how="left", maintain_order="left"
    )
    lot = (listed["price"] * listed["lot_size"].fill_null(1.0)).to_numpy() / book["nav_base"]
    cost = listed["half_spread_bps"].fill_null(mandate.costs.half_spread_bps).to_numpy() / 1e4
    slope = np.sqrt(2.0 * mandate.risk_aversion * objective) * sigma + cost / mandate.costs.holding_years
    return float(slope @ lot)


def test_rules_that_would_have_no_effect_are_refused() -> None:
    words = {"id": "m", "title": "M", "version": "1.0.0", "lots": {"round": "none", "min_trade": 0.001}}
    with pytest.raises(ValueError, match="round is none, and min_trade would have no effect"):
        Mandate.model_validate(words)
    with pytest.raises(ValueError, match=r"less than or equal to 0\.1"):
        Mandate.model_validate({**words, "lots": {"min_position": 5.0}})
    assert Mandate.model_validate({**words, "lots": {}}).lots.round == "lots"


def test_the_best_lots_of_a_program_are_whole_and_inside() -> None:
    book, answer = tight(3)
    lotted = with_lots(book, 2e-3, 3)
    exact = round_exactly(book.problem, lotted.grid, answer.weights)
    plain = round_to_lots(book.problem, lotted.grid, answer.weights)
    assert exact is not None and exact.by == "HiGHS"
    lots = published(replace(lotted, rules=Lots(exact=True)), answer)
    checked(lotted, lots)
    assert lots.objective is not None and answer.verdict is not None
    assert exact.violation <= 1e-9
    assert plain.violation > 1e-9 or lots.objective <= published(lotted, answer).objective + 1e-15


def test_a_book_whose_limits_gave_way_is_published_in_whole_lots_no_worse_than_today(bundled: LoadedUniverse) -> None:
    part = bundled.only(["ai_infrastructure"])
    (name,) = set(part.portfolios["mandate_id"].drop_nulls())
    own = part.mandates[name]
    limits = own.limits.model_copy(update={"turnover": 0.01})
    tight = replace(part, mandates={**part.mandates, name: own.model_copy(update={"limits": limits})})
    tables = rebalance_portfolios(tight).tables
    assert tables["certificates"]["status"].to_list() == ["certified", "certified"]
    row = tables["limits"].filter(limit_id="stress:deepseek").row(0, named=True)
    assert row["relaxed_by"] > 1e-4
    assert row["bound"] + row["relaxed_by"] <= row["after"] + 1e-8 <= row["before"]
    assert row["after"] <= row["bound"] + row["relaxed_by"] + LOTS
    whole = tables["targets"].filter(pl.col("weight_after") != pl.col("weight_before"))["quantity_after"]
    assert whole.len() and (whole % 1.0 == 0.0).all()


def test_room_for_whole_lots_is_small_and_never_beyond_today() -> None:
    assert with_room(0.01, 0.02, LOTS) == 0.01 + LOTS
    assert with_room(0.01, 0.01, LOTS) == 0.01
    assert with_room(0.01, 0.0, LOTS) == 0.01
