"""Holdings that do not add up: what sets a book aside, what only warns, what refuses the file."""

import datetime as dt
from dataclasses import replace

import polars as pl
import pytest

from engine.api.loading import LoadedUniverse
from engine.api.stressing import stress_portfolios
from engine.cli.main import run
from engine.risk.holdings import CheckedHoldings, check_holdings


def checked(loaded: LoadedUniverse, holdings: pl.DataFrame, portfolios: pl.DataFrame | None = None) -> CheckedHoldings:
    table = loaded.portfolios if portfolios is None else portfolios
    return check_holdings(holdings, table, known=loaded.model.securities, universe=loaded.universe, as_of=None)


def codes(result: CheckedHoldings) -> list[tuple[str, str, str | None]]:
    return [(notice.code, notice.severity, notice.portfolio_id) for notice in result.notices]


def one(loaded: LoadedUniverse, book: str) -> pl.Expr:
    first = loaded.holdings.filter(pl.col("portfolio_id") == book)["security_id"].sort()[0]
    return (pl.col("portfolio_id") == book) & (pl.col("security_id") == first)


def test_a_fault_in_an_older_row_leaves_todays_book_alone(bundled: LoadedUniverse) -> None:
    older = bundled.holdings.with_columns(
        pl.lit(dt.date(2025, 1, 23)).alias("as_of"), pl.lit(float("nan")).alias("quantity")
    )
    result = checked(bundled, pl.concat([bundled.holdings, older]))
    assert result.notices == ()
    assert result.rows.height == bundled.holdings.height


def test_a_parent_that_holds_securities_itself_is_set_aside_and_its_books_are_not(bundled: LoadedUniverse) -> None:
    own = bundled.holdings.filter(pl.col("portfolio_id") == "family_office").with_columns(
        pl.lit("core").alias("portfolio_id")
    )
    result = checked(bundled, pl.concat([bundled.holdings, own]))
    assert ("holdings.parent", "quarantine", "core") in codes(result)
    assert ("holdings.partial", "warn", "firm") in codes(result)
    assert set(result.navs) == set(bundled.holdings["portfolio_id"].to_list())


def test_a_book_that_sums_to_nothing_with_an_unknown_name_is_set_aside_without_a_crash(
    bundled: LoadedUniverse,
) -> None:
    mine = pl.col("portfolio_id") == "family_office"
    odd = bundled.holdings.with_columns(
        pl.when(one(bundled, "family_office")).then(pl.lit("STRANGER")).otherwise("security_id").alias("security_id"),
        pl.when(mine).then(0.0).otherwise("quantity").alias("quantity"),
        pl.when(mine).then(0.0).otherwise("market_value_base").alias("market_value_base"),
    )
    free = bundled.portfolios.with_columns(pl.lit(None, dtype=pl.Float64).alias("nav_base"))
    result = checked(bundled, odd, free)
    assert ("holdings.nav", "quarantine", "family_office") in codes(result)
    assert "family_office" not in result.navs


def test_a_parent_says_which_books_it_adds_up_without(bundled: LoadedUniverse) -> None:
    bad = bundled.holdings.with_columns(
        pl.when(one(bundled, "low_volatility")).then(float("inf")).otherwise("price").alias("price")
    )
    notices = {n.portfolio_id: n.message for n in checked(bundled, bad).notices if n.code == "holdings.partial"}
    assert notices == {"core": "adds up without low_volatility", "firm": "adds up without low_volatility"}


def test_a_declared_name_that_the_model_does_not_know_is_proxied_by_its_membership(bundled: LoadedUniverse) -> None:
    small = one(bundled, "index_tracker")
    held = bundled.holdings.with_columns(
        pl.when(small).then(pl.lit("NEWCO")).otherwise("security_id").alias("security_id")
    )
    row = bundled.universe.memberships.head(1).with_columns(
        pl.lit("NEWCO").alias("security_id"), pl.lit("ai_semis").alias("tier"), pl.lit(1.0).alias("weight")
    )
    loaded = replace(bundled, holdings=held, curve=bundled.curve.with_declared(row))
    shocks = stress_portfolios(loaded, ["deepseek"]).tables["shocks"]
    total = shocks.filter(pl.col("security_id") == "NEWCO")["total"].item()
    assert total == pytest.approx(-0.1177, abs=1e-12)


@pytest.mark.parametrize("name", ["Fund [/a]", "[bold]Fund", "Fund \\[x]"])
def test_a_book_name_with_brackets_is_printed_as_it_is(
    name: str, bundled: LoadedUniverse, tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    path = f"{tmp_path}/portfolios.csv"
    mine = pl.col("portfolio_id") == "family_office"
    bundled.portfolios.with_columns(pl.when(mine).then(pl.lit(name)).otherwise("name").alias("name")).write_csv(path)
    assert run(["stress", "--portfolios", path, "--portfolio", "family_office", "--detail"]) == 0
    assert name in capsys.readouterr().out


@pytest.mark.parametrize("label", ["CASH:EUR", "CASH:", "CASH:USD2"])
def test_a_security_relabelled_as_cash_is_no_cash(label: str, bundled: LoadedUniverse) -> None:
    odd = bundled.holdings.with_columns(
        pl.when(one(bundled, "ai_infrastructure")).then(pl.lit(label)).otherwise("security_id").alias("security_id")
    )
    assert ("holdings.cash", "quarantine", "ai_infrastructure") in codes(checked(bundled, odd))


def test_a_value_too_large_to_be_one_sets_its_book_aside(bundled: LoadedUniverse) -> None:
    odd = bundled.holdings.with_columns(
        pl.when(one(bundled, "family_office")).then(1e308).otherwise("quantity").alias("quantity")
    )
    assert ("holdings.quantity.max", "quarantine", "family_office") in codes(checked(bundled, odd))


def test_holdings_before_the_model_and_long_after_it_are_warned_of(bundled: LoadedUniverse) -> None:
    for day, words in ((dt.date(2025, 1, 23), "has seen days up to"), (dt.date(2025, 6, 30), "days older than")):
        # Prices that had not moved since January would be stale in June.
        moved = pl.when(~pl.col("security_id").str.starts_with("CASH:")).then(1.001).otherwise(1.0)
        later = bundled.holdings.with_columns(
            pl.lit(day).alias("as_of"), pl.col("price") * moved, pl.col("quantity") / moved
        )
        loaded = replace(bundled, holdings=later)
        notices = [n.message for n in stress_portfolios(loaded).notices if n.code == "model.date"]
        assert len(notices) == 1 and words in notices[0]


def test_a_scenario_past_its_date_or_beyond_total_loss_runs_with_a_warning(bundled: LoadedUniverse) -> None:
    text = (
        "id: old\ntitle: Old\nversion: 1.0.0\nkind: shock\nhorizon_days: 1\nnarrative: Old.\nauthor: tests\n"
        "valid_until: 2024-12-31\npropagation: none\nviews:\n  - {factor: market, value: -0.9, source: judgement}\n"
    )
    codes_found = {notice.code for notice in stress_portfolios(bundled, texts={"old.yaml": text}).notices}
    assert codes_found == {"scenario.expired", "scenario.below_total_loss", "securities.volume"}
