"""A day's volume shared out over the books of a firm: never more than there is, and counted after."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from market import Market, make_holdings, make_portfolios
from test_certificate import NAV, TIERS, Book
from test_tracking_error import claim_of, solved, voluminous

from engine.api.loading import LoadedUniverse, load_universe
from engine.api.rebalancing import RebalanceResult, rebalance_portfolios
from engine.axes import Axis
from engine.book.allotment import count_volume, share_volume
from engine.curve.tiers import Curve
from engine.curve.universe import FirmLiquidity
from engine.errors import ContractError, ModelError
from engine.intake import admit
from engine.rebalance.evidence import Evidence
from engine.rebalance.problem import Terms, state_problem

TENTH = FirmLiquidity(firm_participation=0.1)


def demand_of(rows: list[tuple[str, str, float, float, float]]) -> pl.DataFrame:
    columns = ["portfolio_id", "security_id", "need_base", "claim_base", "reach_base"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def volumes_of(volumes: dict[str, float | None]) -> pl.DataFrame:
    return pl.DataFrame({"security_id": list(volumes), "adv_base": list(volumes.values())}).cast(
        {"security_id": pl.String, "adv_base": pl.Float64}
    )


def by_hand(
    rows: list[tuple[str, str, float, float, float]], volumes: dict[str, float], share: float
) -> dict[tuple[str, str], float]:
    """Name by name and round by round, filling the rows that reach their ceiling first, one after the other."""
    given_out: dict[tuple[str, str], float] = {}
    for name in {row[1] for row in rows}:
        left = share * volumes.get(name, 0.0)
        mine = {row[0]: row[2:] for row in rows if row[1] == name}
        got = dict.fromkeys(mine, 0.0)
        for weigh, most in ((0, 0), (1, 2), (2, 2)):
            open_to = {}
            for book, figures in mine.items():
                ceiling = max(min(figures[most], figures[2]) - got[book], 0.0)
                if figures[weigh] > 0.0:
                    open_to[book] = (ceiling, figures[weigh])
            while open_to:
                book = min(open_to, key=lambda one: open_to[one][0] / open_to[one][1])
                ceiling, weight = open_to[book]
                part = left * weight / sum(w for _, w in open_to.values())
                if ceiling > part:
                    for one, (_, w) in open_to.items():
                        got[one] += left * w / sum(v for _, v in open_to.values())
                    left = 0.0
                    break
                got[book] += ceiling
                left -= ceiling
                del open_to[book]
        given_out |= {(book, name): money for book, money in got.items()}
    return given_out


AMOUNT = st.one_of(st.just(0.0), st.floats(1.0, 1e6))


@st.composite
def firms(draw: Any) -> tuple[list[tuple[str, str, float, float, float]], dict[str, float]]:
    books, names = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    rows = []
    for book in range(books):
        for name in range(names):
            need, claim, more = draw(AMOUNT), draw(AMOUNT), draw(AMOUNT)
            rows.append((f"b{book}", f"n{name}", need, claim, need + more))
    return rows, {f"n{name}": draw(st.floats(0.0, 1e7)) for name in range(names)}


def allotted(table: pl.DataFrame) -> dict[tuple[str, str], float | None]:
    columns = table.select("portfolio_id", "security_id", "allotted_base").iter_rows()
    return {(book, name): money for book, name, money in columns}


@given(firms())
def test_the_shares_are_those_of_a_plain_loop(firm: Any) -> None:
    rows, volumes = firm
    found = allotted(share_volume(demand_of(rows), volumes_of(volumes), TENTH))
    assert found == pytest.approx(by_hand(rows, volumes, 0.1), rel=1e-9, abs=1e-6)


@given(firms())
def test_the_shares_never_exceed_the_cap_or_what_a_book_could_trade_and_waste_nothing(firm: Any) -> None:
    rows, volumes = firm
    table = share_volume(demand_of(rows), volumes_of(volumes), TENTH)
    assert (table["allotted_base"] >= 0.0).all() and (table["allotted_base"] <= table["reach_base"]).all()
    for name, volume in volumes.items():
        mine = table.filter(pl.col("security_id") == name)
        total, cap = float(mine["allotted_base"].sum()), 0.1 * volume
        assert total <= cap
        assert total == pytest.approx(min(cap, float(mine["reach_base"].sum())), rel=1e-9, abs=1e-6)


@given(firms(), st.randoms(use_true_random=False))
def test_the_shares_are_the_same_to_the_bit_in_whatever_order_books_come(firm: Any, random: Any) -> None:
    rows, volumes = firm
    first = share_volume(demand_of(rows), volumes_of(volumes), TENTH)
    random.shuffle(rows)
    assert share_volume(demand_of(rows), volumes_of(volumes), TENTH).equals(first)


def test_a_book_alone_may_trade_the_whole_cap() -> None:
    table = share_volume(demand_of([("a", "X", 0.0, 5.0, 1e6)]), volumes_of({"X": 1e6}), TENTH)
    assert table["allotted_base"].item() == pytest.approx(1e5)


def test_who_must_trade_comes_first_then_claims_then_the_rest() -> None:
    rows = [("must", "X", 60.0, 1.0, 60.0), ("large", "X", 0.0, 30.0, 100.0), ("small", "X", 0.0, 10.0, 100.0)]
    found = allotted(share_volume(demand_of(rows), volumes_of({"X": 1000.0}), TENTH))
    assert found == pytest.approx({("must", "X"): 60.0, ("large", "X"): 30.0, ("small", "X"): 10.0})
    rows = [("asks", "X", 0.0, 1.0, 40.0), ("settled", "X", 0.0, 0.0, 100.0)]
    found = allotted(share_volume(demand_of(rows), volumes_of({"X": 1000.0}), TENTH))
    assert found == pytest.approx({("asks", "X"): 40.0, ("settled", "X"): 60.0})


def test_a_small_claim_beside_a_huge_one_keeps_its_part() -> None:
    rows = [("huge", "X", 0.0, 1e12, 1e14), ("tiny", "X", 0.0, 1e-3, 1e3)]
    found = allotted(share_volume(demand_of(rows), volumes_of({"X": 1e10}), TENTH))
    assert found["tiny", "X"] == pytest.approx(1e-6, rel=1e-6)


def test_a_name_without_a_volume_is_held_unless_the_universe_allows_it() -> None:
    rows, volumes = demand_of([("a", "X", 0.0, 5.0, 9.0), ("a", "Y", 0.0, 5.0, 9.0)]), volumes_of({"X": None})
    assert allotted(share_volume(rows, volumes, TENTH)) == {("a", "X"): 0.0, ("a", "Y"): 0.0}
    free = TENTH.model_copy(update={"unknown_volume": "allow"})
    assert allotted(share_volume(rows, volumes, free)) == {("a", "X"): None, ("a", "Y"): None}


# In the program and before the certificate.


@dataclass(frozen=True)
class Sharing(Book):
    """A book that was allotted money by name, and whose evidence knows it."""

    most: Mapping[str, float | None] = field(default_factory=dict)

    @cached_property
    def terms(self) -> Terms:
        curve = Curve(Axis("tier", TIERS), np.ones(len(TIERS)), self.memberships)
        return Terms(self.model, curve, {}, {}, allotted={"book": self.most})

    @cached_property
    def evidence(self) -> Evidence:
        rows = [("book", name, money) for name, money in self.most.items()]
        columns = ["portfolio_id", "security_id", "allotted_base"]
        plain = Book(**{one.name: getattr(self, one.name) for one in fields(Book)})
        return plain.evidence.with_allotments(pl.DataFrame(rows, schema=columns, orient="row"))

    @cached_property
    def inputs(self) -> dict[str, Any]:
        plain = Book(**{one.name: getattr(self, one.name) for one in fields(Book)}).inputs
        return {**plain, "holdings": plain["holdings"].with_columns(pl.lit("book").alias("portfolio_id"))}


def sharing(most: Mapping[str, float | None]) -> Sharing:
    """The tracker of the participation tests without a participation of its own."""
    book = voluminous(limits={"turnover": 2.0, "cash": {"min": 0.0, "max": 1.0}})
    return Sharing(**{one.name: getattr(book, one.name) for one in fields(Book)}, most=most)


ALLOTTED = {"S0": 0.05 * NAV, "S1": 0.0, "S2": None, "S4": 0.03 * NAV}


def test_no_book_trades_more_of_a_name_than_it_was_allotted() -> None:
    book = sharing(ALLOTTED)
    problem, moved = book.problem, solved(book).weights - book.problem.start
    assert moved[0] == pytest.approx(-0.05, abs=1e-9) and moved[4] == pytest.approx(0.03, abs=1e-9)
    assert (moved[1], moved[3]) == (0.0, 0.0)
    assert problem.upper_kinds[0] == "allotment" and problem.upper_id(0) == "allotment:S0:max"


@pytest.mark.parametrize(
    "wrong",
    [
        dict.fromkeys(ALLOTTED),
        {**ALLOTTED, "S0": 0.10 * NAV},
        {**ALLOTTED, "S0": 0.03 * NAV, "S4": 0.05 * NAV},
        {**ALLOTTED, "S3": 0.02 * NAV},
        {name: money and 0.5 * money for name, money in ALLOTTED.items()},
    ],
    ids=["no cap", "twice as much", "of another name", "of a name with none", "half"],
)
def test_a_planted_wrong_allotment_is_refused(wrong: dict[str, float | None]) -> None:
    true, spoilt = sharing(ALLOTTED), sharing(wrong)
    answer = solved(spoilt)
    for duals in (answer.duals, solved(true).duals):
        assert not true.judge(claim_of(true.problem, answer.weights, duals)).accepted


def test_an_allotment_without_a_nav_is_refused() -> None:
    book = voluminous(limits={"turnover": 2.0})
    terms = replace(book.terms, allotted={})
    with pytest.raises(ModelError, match="an allotment of volume needs the NAV"):
        state_problem("b", weights={}, benchmark=book.benchmark, mandate=book.mandate, terms=terms)


# The whole run.


def sharing_universe(loaded: LoadedUniverse, share: float, unknown: str = "hold") -> LoadedUniverse:
    terms = FirmLiquidity.model_validate({"firm_participation": share, "unknown_volume": unknown})
    settings = loaded.universe.settings.model_copy(update={"liquidity": terms})
    return replace(loaded, universe=replace(loaded.universe, settings=settings))


@pytest.fixture(scope="module")
def tight(bundled: LoadedUniverse) -> tuple[LoadedUniverse, RebalanceResult]:
    """The bundled books with two percent of the day's volume for all of them."""
    loaded = sharing_universe(bundled, 0.02)
    return loaded, rebalance_portfolios(loaded)


def test_all_books_together_stay_below_the_cap_of_every_name(tight: tuple[LoadedUniverse, RebalanceResult]) -> None:
    loaded, result = tight
    volumes = dict(loaded.universe.securities.select("security_id", "adv_base").iter_rows())
    traded: dict[str, float] = {}
    for name, money in result.tables["trades"].select("security_id", "notional_base").iter_rows():
        traded[name] = traded.get(name, 0.0) + money
    firm = {row["security_id"]: row for row in result.tables["firm_liquidity"].iter_rows(named=True)}
    for name, money in traded.items():
        assert money <= 0.02 * (volumes[name] or 0.0) + 1e-9 * 42e9
        assert firm[name]["traded_base"] == pytest.approx(money)
        assert firm[name]["adv_share"] == pytest.approx(money / volumes[name])
    assert set(result.tables["certificates"]["status"]) == {"certified"}
    free = rebalance_portfolios(sharing_universe(loaded, 1.0))
    over = free.tables["firm_liquidity"].filter(pl.col("adv_share") > 0.02)["security_id"].to_list()
    assert over and firm["DOCN"]["at_cap"] is True
    for name in ("allotments", "firm_liquidity"):
        assert admit(result.tables[name], name, "result").frame.equals(result.tables[name])


def test_a_firm_that_trades_more_than_its_cap_is_an_error_whatever_was_allotted(
    tight: tuple[LoadedUniverse, RebalanceResult],
) -> None:
    loaded, result = tight
    securities = loaded.universe.securities
    terms = loaded.universe.settings.liquidity
    more = result.tables["trades"].with_columns(pl.col("notional_base", "trade_weight") * 1.5)
    with pytest.raises(ContractError, match=r"DOCN: 1 books trade .* may be; nothing is published"):
        count_volume(more, result.tables["allotments"], securities, terms)
    with pytest.raises(ContractError, match="DOCN"):
        count_volume(
            result.tables["trades"], result.tables["allotments"], securities.with_columns(adv_base=None), terms
        )


def test_a_wrong_sharing_is_caught_after_the_solves(bundled: LoadedUniverse, monkeypatch: pytest.MonkeyPatch) -> None:
    def generous(demand: pl.DataFrame, securities: pl.DataFrame, settings: FirmLiquidity) -> pl.DataFrame:
        table = share_volume(demand, securities, settings)
        return table.with_columns(pl.col("allotted_base") * 10.0)

    monkeypatch.setattr("engine.api.rebalancing.share_volume", generous)
    with pytest.raises(ContractError, match="firm_liquidity"):
        rebalance_portfolios(sharing_universe(bundled, 0.01).only(["ai_infrastructure", "momentum_growth"]))


def test_a_book_that_is_inside_its_limits_and_follows_nothing_claims_nothing(
    tight: tuple[LoadedUniverse, RebalanceResult],
) -> None:
    table = tight[1].tables["allotments"]
    claims = dict(table.group_by("portfolio_id").agg(pl.col("claim_base").sum()).iter_rows())
    assert claims["quality_core"] == 0.0
    assert claims["ai_infrastructure"] > 1e9


def test_without_the_setting_nothing_is_shared_out(bundled: LoadedUniverse) -> None:
    tables = rebalance_portfolios(bundled.only(["family_office"])).tables
    assert not tables["allotments"].height and not tables["firm_liquidity"].height


def test_names_without_a_volume_are_named_where_they_cannot_be_traded(bundled: LoadedUniverse) -> None:
    books = ["equal_weight_curve", "momentum_growth", "quality_core"]
    for unknown, expected in (("hold", True), ("allow", False)):
        result = rebalance_portfolios(sharing_universe(bundled, 0.5, unknown).only(books))
        found = [notice.message for notice in result.notices if notice.code == "book.volume"]
        assert bool(found) is expected
        assert all("have no adv_base and are not traded" in message for message in found)


def test_planted_books_that_want_one_name_share_it(market: Market, folder: Any) -> None:
    loaded = load_universe(str(folder))
    books = {name: {"CHIPS-0": 0.5, "CHIPS-1": 0.4} for name in ("one", "two", "three")}
    holdings, portfolios = make_holdings(market, books), make_portfolios(dict.fromkeys(books, "house"), "careful")
    volumes = loaded.universe.securities.with_columns(pl.lit(2e6).alias("adv_base"))
    loaded = replace(loaded, holdings=holdings, portfolios=portfolios)
    loaded = replace(loaded, universe=replace(loaded.universe, securities=volumes))
    table = rebalance_portfolios(sharing_universe(loaded, 0.1)).tables["allotments"]
    mine = table.filter(pl.col("security_id") == "CHIPS-0")
    assert mine["allotted_base"].to_list() == pytest.approx([2e5 / 3.0] * 3)
    assert np.ptp(mine["allotted_base"].to_numpy()) == 0.0
