"""The curve's own numbers: coordinates, contrasts, positions, estimated memberships, ``engine tiers``."""

import csv
import datetime as dt
import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from market import DAYS, FACTORS, STRADDLER, TIER_BETA, TIERS, YOUNG, Market, core_names
from rich.console import Console

from engine.api.curving import describe_tiers
from engine.api.loading import LoadedUniverse, load_universe
from engine.api.rebalancing import rebalance_portfolios
from engine.api.stressing import stress_portfolios
from engine.axes import Axis
from engine.cli.main import cli
from engine.curve.coordinates import DRAWS, FEWEST_WIDE_DAYS, Coordinates, place_tiers
from engine.curve.factors import FactorPanel
from engine.curve.membership import FALSE_POSITIVES, MATERIAL_SHARE, MembershipEvidence, weigh_evidence
from engine.curve.position import COINCIDENCE, book_positions, curve_contrasts, curve_sensitivities
from engine.curve.tiers import Curve
from engine.curve.universe import UniverseSettings, build_universe
from engine.desk.rungs import show_tiers
from engine.errors import InputFileError
from engine.risk.calibration import Calibration, calibrate

PLANTED = np.array([-1.0, -0.6, 0.1, 0.7])
SEED = 7


def panel_of(pure: np.ndarray, beta: np.ndarray | None = None, market: np.ndarray | None = None) -> FactorPanel:
    """Pure tier returns as a panel; the market stands still unless it is given."""
    n_days, n_tiers = pure.shape
    market = np.zeros(n_days) if market is None else market
    beta = np.ones(n_tiers) if beta is None else beta
    first = dt.date(2020, 1, 1)
    return FactorPanel(
        dates=tuple(first + dt.timedelta(days=day) for day in range(n_days)),
        factors=Axis("factor", ("market", *(f"tier{j}" for j in range(n_tiers)))),
        values=np.column_stack([market, pure]),
        basket_returns=pure + np.outer(market, beta),
        beta=beta,
        core=np.ones((n_tiers, 2 * n_tiers), dtype=bool),
    )


def planted_moves(seed: int, n_days: int = 504, noise: float = 0.004) -> np.ndarray:
    """One move along the planted coordinates, and noise of each tier's own."""
    random = np.random.default_rng(seed)
    return np.outer(random.normal(0.0, 0.02, n_days), PLANTED) + random.normal(0.0, noise, (n_days, len(PLANTED)))


def at(values: list[float] | np.ndarray) -> Coordinates:
    """Coordinates without an interval."""
    x = np.asarray(values, dtype=float)
    return Coordinates(Axis("tier", tuple(f"tier{j}" for j in range(len(x)))), x, x, x)


def test_planted_coordinates_are_recovered_inside_their_intervals() -> None:
    placed = place_tiers(panel_of(planted_moves(1)), seed=SEED)
    np.testing.assert_allclose(placed.values, PLANTED, atol=0.05)
    assert ((placed.low <= PLANTED) & (placed.high >= PLANTED)).all()
    assert (placed.high - placed.low < 0.25).all()


def test_a_ninety_percent_interval_holds_the_truth_about_nine_times_in_ten() -> None:
    held = [
        (placed.low <= PLANTED) & (placed.high >= PLANTED)
        for seed in range(30)
        if (placed := place_tiers(panel_of(planted_moves(100 + seed)), seed=SEED))
    ]
    assert 0.80 <= np.mean(np.array(held)[:, 1:]) <= 0.98


def test_the_coordinates_of_the_market_are_those_of_its_planted_covariance(
    market: Market, calibration: Calibration
) -> None:
    random = np.random.default_rng(5)
    moves = random.multivariate_normal(np.zeros(4), market.factor_covariance / 252, size=200_000)
    truth = place_tiers(panel_of(moves[:, 1:], np.array(list(TIER_BETA.values())), moves[:, 0]), seed=1, draws=2)
    placed = calibration.curve.coordinates
    assert placed is not None and placed.tiers.labels == TIERS
    np.testing.assert_allclose(placed.values, truth.values, atol=0.20)
    assert placed.values[0] < 0.0 and placed.values[1] < 0.0 < placed.values[2]


def test_coordinates_are_the_first_right_singular_vector_of_the_widest_days() -> None:
    panel = panel_of(planted_moves(2))
    wide = panel.values[np.argsort(panel.basket_returns.std(axis=1))[-51:], 1:]
    vector = np.linalg.svd(wide - wide.mean(axis=0))[2][0]
    expected = vector / np.abs(vector).max() * -np.sign(vector[0])
    np.testing.assert_allclose(place_tiers(panel, seed=SEED, draws=10).values, expected, atol=1e-12)


@given(seed=st.integers(0, 10_000), noise=st.floats(0.001, 0.05))
def test_the_first_tier_is_below_zero_and_the_largest_coordinate_is_one(seed: int, noise: float) -> None:
    placed = place_tiers(panel_of(planted_moves(seed, 120, noise)), seed=SEED, draws=50)
    assert placed.values[0] < 0.0
    assert np.abs(placed.values).max() == 1.0
    assert (placed.low <= placed.values).all() and (placed.values <= placed.high).all()
    assert (placed.low >= -1.0).all() and (placed.high <= 1.0).all()


@given(seed=st.integers(0, 10_000), power=st.integers(-6, 3), sign=st.sampled_from([-1.0, 1.0]))
def test_neither_the_unit_nor_the_sign_of_the_returns_moves_a_coordinate(seed: int, power: int, sign: float) -> None:
    moves = planted_moves(seed, 150)
    first, second = (place_tiers(panel_of(m), seed=SEED, draws=50) for m in (moves, sign * 2.0**power * moves))
    np.testing.assert_allclose(first.values, second.values, atol=1e-9)
    np.testing.assert_allclose(first.low, second.low, atol=1e-9)


def test_the_order_of_the_tiers_is_not_imposed() -> None:
    moves = planted_moves(3)
    order = [0, 3, 1, 2]
    plain, mixed = (place_tiers(panel_of(m), seed=SEED) for m in (moves, moves[:, order]))
    np.testing.assert_allclose(mixed.values, plain.values[order], atol=1e-12)
    assert mixed.values[1] > mixed.values[2]


def test_two_tiers_that_move_by_opposite_amounts_lie_at_the_ends() -> None:
    move = np.random.default_rng(1).normal(0.0, 0.01, 200)
    placed = place_tiers(panel_of(np.column_stack([move, -move])), seed=SEED)
    np.testing.assert_allclose(placed.values, [-1.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(placed.high - placed.low, 0.0, atol=1e-12)


def test_the_same_seed_gives_the_same_interval_to_the_bit_and_another_seed_another() -> None:
    panel = panel_of(planted_moves(4))
    first, again, other = (place_tiers(panel, seed=seed) for seed in (SEED, SEED, SEED + 1))
    np.testing.assert_array_equal(first.low, again.low)
    np.testing.assert_array_equal(first.high, again.high)
    np.testing.assert_array_equal(first.values, other.values)
    assert (first.low != other.low).any()
    np.testing.assert_allclose(first.low, other.low, atol=4.0 / np.sqrt(DRAWS))


@pytest.mark.parametrize(
    "moves",
    [planted_moves(5, 10 * FEWEST_WIDE_DAYS - 10), np.zeros((504, 4)), planted_moves(5, 2)],
    ids=["ninety days", "nothing moves", "two days"],
)
def test_too_few_days_leave_the_coordinates_unknown_never_zero(moves: np.ndarray) -> None:
    placed = place_tiers(panel_of(moves), seed=SEED)
    assert not placed.known
    assert np.isnan([*placed.values, *placed.low, *placed.high]).all()


def test_unknown_coordinates_are_null_in_the_table_and_survive_it(calibration: Calibration) -> None:
    bare = replace(calibration.curve, coordinates=None)
    assert bare.frame.select("coordinate", "low", "high").null_count().row(0) == (3, 3, 3)
    assert Curve.from_frames(bare.frame, bare.memberships, "test").coordinates is None
    again = Curve.from_frames(calibration.curve.frame, bare.memberships, "test").coordinates
    assert again is not None and calibration.curve.coordinates is not None
    for name in ("values", "low", "high"):
        np.testing.assert_array_equal(getattr(again, name), getattr(calibration.curve.coordinates, name))


@pytest.mark.parametrize("n_tiers", [2, 3, 4, 5, 7])
def test_contrasts_are_orthonormal_under_the_names_and_meet_any_tier_moves(n_tiers: int) -> None:
    random = np.random.default_rng(n_tiers)
    x = np.append(-1.0, random.permutation(np.linspace(-0.8, 0.9, n_tiers - 1)))
    names = random.integers(2, 12, n_tiers).astype(float)
    contrasts = curve_contrasts(at(x), names)
    assert contrasts is not None
    gram = contrasts.values.T @ np.diag(names / names.sum()) @ contrasts.values
    np.testing.assert_allclose(gram, np.eye(n_tiers), atol=1e-12)
    moves = random.normal(0.0, 0.1, n_tiers)
    np.testing.assert_allclose(contrasts.values @ contrasts.decompose(moves), moves, atol=1e-13)
    assert contrasts.names[:2] == ("level", "slope") and len(set(contrasts.names)) == n_tiers
    np.testing.assert_allclose(contrasts.values[:, 0], 1.0, atol=1e-14)
    for degree in range(n_tiers):
        fitted = np.polynomial.Polynomial.fit(x, contrasts.values[:, degree], n_tiers - 1).convert().coef
        assert fitted[degree] > 0.0
        np.testing.assert_allclose(fitted[degree + 1 :], 0.0, atol=1e-9 * np.abs(fitted).max())


def test_two_equal_tiers_at_the_ends_have_the_contrasts_one_can_write_down() -> None:
    contrasts = curve_contrasts(at([-1.0, 1.0]), np.array([5.0, 5.0]))
    assert contrasts is not None
    np.testing.assert_allclose(contrasts.values, [[1.0, -1.0], [1.0, 1.0]], atol=1e-15)
    np.testing.assert_allclose(contrasts.decompose(np.array([-0.10, -0.04])), [-0.07, 0.03], atol=1e-15)


@pytest.mark.parametrize("x", [[-1.0, 0.3, 0.3 + COINCIDENCE / 2], [-1.0, np.nan, 0.5]])
def test_no_contrasts_where_coordinates_coincide_or_are_unknown(x: list[float]) -> None:
    assert curve_contrasts(at(x), np.ones(3)) is None
    assert curve_contrasts(None, np.ones(3)) is None


@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 50.0))
def test_a_position_does_not_depend_on_size_turns_with_the_sign_and_stays_on_the_curve(seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    exposures = random.normal(0.0, 1.0, (4, 4)) + 0.5
    found = book_positions(exposures, at(PLANTED))
    np.testing.assert_allclose(book_positions(scale * exposures, at(PLANTED)), found, atol=1e-12)
    np.testing.assert_allclose(book_positions(-exposures, at(PLANTED)), -found, atol=1e-12)
    assert (np.abs(found) <= 1.0).all()


def test_a_book_on_one_tier_is_where_the_tier_is() -> None:
    np.testing.assert_allclose(book_positions(0.3 * np.eye(4), at(PLANTED)), PLANTED)
    mixed = np.array([[0.5, 0.0, 0.0, 0.5], [0.5, -0.5, 0.0, 0.0]])
    np.testing.assert_allclose(book_positions(mixed, at(PLANTED)), [(-1.0 + 0.7) / 2, (-1.0 + 0.6) / 2])


def test_a_book_with_hardly_any_tier_exposure_has_no_position() -> None:
    exposures = np.array([[0.04, 0.0, -0.009, 0.0], [0.05, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert np.isnan(book_positions(exposures, at(PLANTED))).tolist() == [True, False, True]
    assert np.isnan(book_positions(np.ones((2, 4)), None)).all()


def test_sensitivities_to_the_curve_s_moves_give_the_tier_pnl_exactly() -> None:
    random = np.random.default_rng(8)
    contrasts = curve_contrasts(at(PLANTED), np.array([9.0, 9.0, 5.0, 8.0]))
    exposures, moves = random.normal(0.0, 1.0, (5, 4)), random.normal(0.0, 0.1, 4)
    assert contrasts is not None
    pnl = curve_sensitivities(exposures, contrasts) @ contrasts.decompose(moves)
    np.testing.assert_allclose(pnl, exposures @ moves, atol=1e-14)


def test_the_summary_of_a_stress_holds_each_book_s_position(written: Path, calibration: Calibration) -> None:
    result = stress_portfolios(load_universe(str(written)))
    summary = dict(result.tables["portfolio_summary"].select("portfolio_id", "curve_position").iter_rows())
    exposures = result.tables["portfolio_exposures"]
    assert calibration.curve.coordinates is not None
    for book, found in summary.items():
        rows = dict(exposures.filter(pl.col("portfolio_id") == book).select("factor", "exposure").iter_rows())
        e = np.array([rows[tier] for tier in TIERS])
        assert found == pytest.approx(e @ calibration.curve.coordinates.values / np.abs(e).sum(), abs=1e-12)
    assert summary["growth"] < 0.0 < summary["soft"]


def test_the_sensitivities_of_a_stress_times_the_contrasts_are_the_tier_pnl(written: Path) -> None:
    loaded = load_universe(str(written))
    result = stress_portfolios(loaded)
    coordinates = loaded.curve.coordinates
    assert coordinates is not None
    # Gram-Schmidt by hand: three tiers of six core names each.
    columns: list[np.ndarray] = []
    for power in range(3):
        column = coordinates.values**power
        for done in columns:
            column = column - (done @ column / 3.0) * done
        columns.append(column / np.sqrt(column @ column / 3.0))
    moves = np.array([-0.09, -0.15, 0.04])
    contrasts = np.array([column @ moves / 3.0 for column in columns])
    table = result.tables["portfolio_curve"]
    assert table["stage"].unique().to_list() == ["before"] and table.height == 3 * 4
    for book in ("growth", "income", "soft", "house"):
        rows = result.tables["portfolio_exposures"].filter(pl.col("portfolio_id") == book)
        exposure = dict(rows.select("factor", "exposure").iter_rows())
        e = np.array([exposure[tier] for tier in TIERS])
        rows = table.filter(pl.col("portfolio_id") == book)
        found = dict(rows.select("contrast", "sensitivity").iter_rows())
        sensitivities = np.array([found[name] for name in ("level", "slope", "curvature")])
        np.testing.assert_allclose(sensitivities, [e @ column for column in columns], atol=1e-13)
        assert sensitivities @ contrasts == pytest.approx(e @ moves, abs=1e-15)


def test_a_rebalance_has_the_sensitivities_before_and_after(bundled: LoadedUniverse) -> None:
    result = rebalance_portfolios(bundled, only=["ai_infrastructure"])
    table = result.tables["portfolio_curve"]
    assert table.group_by("stage").len().sort("stage").rows() == [("after", 4), ("before", 4)]
    exposures = result.tables["portfolio_exposures"].filter(pl.col("factor") == "ai_semis")
    slopes = table.filter(pl.col("contrast") == "slope")
    assert exposures["exposure"].n_unique() == slopes["sensitivity"].n_unique() == 2


def test_no_sensitivities_without_coordinates(written: Path) -> None:
    loaded = load_universe(str(written))
    unplaced = replace(loaded, curve=replace(loaded.curve, coordinates=None))
    table = stress_portfolios(unplaced).tables["portfolio_curve"]
    assert table.is_empty() and list(table.columns) == ["portfolio_id", "stage", "contrast", "sensitivity"]


PURE_NAMES = 300
COPIES = 12
LOOKALIKES = {
    "LIKE-CHIPS": (1.3, 0.7, 0.0, 0.0),
    "LIKE-GRID": (1.1, 0.0, 0.5, 0.0),
    "LIKE-APPS": (1.0, 0.0, 0.0, 0.6),
    "LIKE-BOTH": (1.2, 0.5, 0.0, 0.45),
    "LIKE-MUCH": (1.5, 1.8, 0.0, 0.0),
}
DEFECTOR = "DEFECTOR"
INDEX = "INDEX"


@pytest.fixture(scope="module")
def crowd(market: Market) -> tuple[Calibration, MembershipEvidence]:
    """The market with 300 undeclared names that only follow it, 60 that follow tiers, one declared amiss.

    An index that is the planted market is its proxy: a market measured from 80 names has noise
    of its own, which every exposure would share.
    """
    random = np.random.default_rng(11)
    truth = {f"PURE-{n:03}": (beta, 0.0, 0.0, 0.0) for n, beta in enumerate(random.uniform(0.4, 1.6, PURE_NAMES))}
    truth |= {f"{name}-{n}": row for name, row in LOOKALIKES.items() for n in range(COPIES)}
    truth |= {DEFECTOR: (1.4, 0.8, 0.0, 0.0)}
    truth[INDEX] = (1.0, 0.0, 0.0, 0.0)
    noise = random.standard_normal((DAYS, len(truth))) * np.append(random.uniform(0.006, 0.02, len(truth) - 1), 0.0)
    close = 50.0 * np.cumprod(1.0 + market.factor_returns @ np.array(list(truth.values())).T + noise, axis=0)
    dates = sorted(market.prices["date"].unique().to_list())
    dates = [day for day in dates if day <= market.as_of][-DAYS - 1 :]
    wide = pl.DataFrame(np.vstack([np.full(len(truth), 50.0), close]), schema=list(truth))
    long = wide.with_columns(pl.Series("date", dates)).unpivot(index="date", variable_name="security_id")
    prices = pl.concat([market.prices, long.select("security_id", "date", pl.col("value").alias("close"))])
    listed = pl.DataFrame({"security_id": list(truth)}).with_columns(
        kind=pl.lit("stock"),
        currency=pl.lit("USD"),
        membership=pl.when(pl.col("security_id") == DEFECTOR).then(pl.lit("apps:1")),
    )
    securities = pl.concat([market.securities, listed], how="diagonal")
    settings = UniverseSettings.model_validate({**market.settings.model_dump(), "market": {"proxy": INDEX}})
    result = calibrate(prices, build_universe(settings, securities, "securities"), as_of=market.as_of)
    return result, weigh_evidence(result.tables["exposures"], result.curve)


def test_estimated_membership_finds_the_planted_names_and_their_shares(
    crowd: tuple[Calibration, MembershipEvidence],
) -> None:
    found, strangers = crowd[1].estimated, 0
    for name, (_, *exposures) in LOOKALIKES.items():
        truth = dict(zip(TIERS, np.array(exposures) / max(sum(exposures), 1.0), strict=True))
        rows = found.filter(pl.col("security_id").str.starts_with(name))
        for tier, share in truth.items():
            shares = rows.filter(pl.col("tier") == tier)["weight"]
            strangers += 0 if share else len(shares)
            assert not share or len(shares) == COPIES, (name, tier)
            # Shrunk towards no membership, most where few names follow a tier.
            assert not share or 0.6 * share < shares.mean() < share + 0.05, (name, tier)
    assert strangers <= 0.05 * 9 * COPIES  # of the tiers on which a follower has no exposure
    both = crowd[1].straddlers.filter(pl.col("security_id") == "LIKE-BOTH-0")
    assert both["tier"].to_list() == ["apps", "chips"]


def test_names_that_only_follow_the_market_are_given_a_tier_no_more_often_than_stated(
    crowd: tuple[Calibration, MembershipEvidence],
) -> None:
    flagged = crowd[1].estimated.filter(pl.col("security_id").str.starts_with("PURE-"))["security_id"].n_unique()
    assert flagged <= FALSE_POSITIVES * PURE_NAMES


def test_the_t_statistic_of_a_name_that_only_follows_the_market_is_at_most_normal(
    crowd: tuple[Calibration, MembershipEvidence],
) -> None:
    pure = crowd[1].frame.filter(pl.col("security_id").str.starts_with("PURE-"))["t_statistic"].to_numpy()
    assert 0.5 < pure.std() < 1.05
    assert abs(pure.mean()) < 0.15


def test_a_declared_name_that_follows_another_tier_is_named_and_its_membership_stays(
    crowd: tuple[Calibration, MembershipEvidence],
) -> None:
    calibration, evidence = crowd
    assert evidence.unlike.select("security_id", "tier").rows() == [(DEFECTOR, "apps")]
    rows = {row["tier"]: row for row in evidence.of([DEFECTOR]).iter_rows(named=True)}
    assert rows["apps"]["confidence"] < 0.05 and rows["apps"]["declared"] == 1.0
    assert rows["chips"]["weight"] > 0.5 and rows["chips"]["source"] is None
    kept = calibration.curve.memberships.filter(pl.col("security_id") == DEFECTOR)
    assert kept.select("tier", "weight", "source").rows() == [("apps", 1.0, "declared")]
    assert set(calibration.tables["memberships"]["source"]) == {"core", "declared"}


def test_estimates_lie_on_the_simplex_and_only_where_nothing_is_declared(
    crowd: tuple[Calibration, MembershipEvidence],
) -> None:
    calibration, evidence = crowd
    sums = evidence.frame.group_by("security_id").agg(pl.col("weight").sum(), pl.col("off_curve").first())
    np.testing.assert_allclose(sums["weight"] + sums["off_curve"], 1.0, atol=1e-12)
    assert evidence.frame["weight"].min() >= 0.0 and evidence.frame["off_curve"].min() >= -1e-12
    assert evidence.estimated["weight"].min() >= MATERIAL_SHARE / 2
    assert evidence.frame["confidence"].drop_nulls().is_between(0.0, 1.0).all()
    declared = set(calibration.curve.memberships["security_id"])
    assert not declared & set(evidence.estimated["security_id"])


def test_a_standard_error_is_the_ridge_s_posterior_deviation(calibration: Calibration) -> None:
    exposures = calibration.exposures
    names = exposures.securities.labels
    i = names.index("REST-00")
    y, x = calibration.panel.values[:, i], calibration.factors.values
    weights = 0.5 ** (np.arange(DAYS)[::-1] / 252.0)
    weights /= weights.sum()
    centred, response = x - weights @ x, y - weights @ y
    gram = (centred * weights[:, None]).T @ centred
    slope = np.linalg.solve(gram, (centred * weights[:, None]).T @ response)
    effective = 1.0 / (weights**2).sum()
    noise = weights @ (response - centred @ slope) ** 2 / (effective - len(FACTORS) - 1)
    posterior = noise * np.linalg.inv(gram + noise * np.diag(1.0 / exposures.prior_variance))
    np.testing.assert_allclose(exposures.standard_error[i], np.sqrt(np.diag(posterior)), rtol=1e-9)
    assert np.isnan(exposures.standard_error[names.index(YOUNG)]).all()
    table = calibration.tables["exposures"].filter(pl.col("security_id") == YOUNG)
    assert table["standard_error"].is_null().all()


def test_a_name_that_kept_its_prior_has_no_statistic_and_no_verdict(calibration: Calibration) -> None:
    young = weigh_evidence(calibration.tables["exposures"], calibration.curve).of([YOUNG])
    assert young["t_statistic"].is_null().all() and young["confidence"].is_null().all()
    assert not young["unlike"].any() and (young["weight"] == 0.0).all()


def test_the_report_counts_members_straddlers_and_core(written: Path) -> None:
    report = describe_tiers(load_universe(str(written)))
    assert report.notices == ()
    assert report.tiers["tier"].to_list() == list(TIERS)
    assert report.tiers["core"].to_list() == [len(core_names(tier)) for tier in TIERS]
    assert report.contrasts is not None and report.contrasts.names == ("level", "slope", "curvature")
    declared = report.evidence.straddlers.filter(pl.col("source") != "estimated")
    assert set(declared["security_id"]) == {STRADDLER}
    assert "FUND" in report.evidence.lookalikes["security_id"].to_list()


def test_a_model_without_standard_errors_still_reads_and_says_what_is_missing(folder: Path) -> None:
    path = folder / "model" / "exposures.parquet"
    pl.read_parquet(path).drop("standard_error").write_parquet(path)
    card = json.loads((folder / "model" / "model.json").read_text())
    card["tables"]["exposures"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "model" / "model.json").write_text(json.dumps(card))
    report = describe_tiers(load_universe(str(folder)))
    assert [notice.code for notice in report.notices] == ["model.standard_error"]
    assert report.evidence.estimated.height == 0 and report.evidence.unlike.height == 0
    answer = CliRunner().invoke(cli, ["tiers", "--universe", str(folder)])
    assert answer.exit_code == 0 and "run engine calibrate again" in answer.output


def test_a_universe_loaded_without_its_files_is_refused(bundled: LoadedUniverse) -> None:
    with pytest.raises(InputFileError, match="model/exposures: the universe was loaded without it"):
        describe_tiers(replace(bundled, sources=()))


def test_tiers_without_options_describe_the_bundled_curve(bundled: LoadedUniverse) -> None:
    answer = CliRunner().invoke(cli, ["tiers", "--format", "json"])
    assert answer.exit_code == 0, answer.output
    document = json.loads(answer.stdout)
    tiers = [row["tier"] for row in document["tiers"]]
    assert tiers == list(bundled.curve.tiers.labels)
    places = [row["coordinate"] for row in document["tiers"]]
    assert places[0] < 0.0 and max(map(abs, places)) == 1.0
    assert all(row["low"] <= row["coordinate"] <= row["high"] for row in document["tiers"])
    assert set(document["contrasts"]) == {"level", "slope", "curvature", "shoulder"}
    assert {row["security_id"] for row in document["lookalikes"]} >= {"SMH", "SOXX", "QCOM"}
    assert {row["source"] for row in document["memberships"]} == {"estimated"}
    for name in ("members", "straddlers", "lookalikes", "unlike"):
        assert document[name]
        assert all(set(row) >= {"exposure", "t_statistic", "confidence"} for row in document[name])


def test_tiers_as_csv_hold_every_share() -> None:
    answer = CliRunner().invoke(cli, ["tiers", "--format", "csv", "--quiet"])
    rows = list(csv.DictReader(io.StringIO(answer.stdout)))
    assert answer.exit_code == 0 and {row["source"] for row in rows} == {"core", "declared", "estimated"}
    assert len({(row["security_id"], row["tier"]) for row in rows}) == len(rows)


def test_the_curve_is_readable_at_eighty_columns(bundled: LoadedUniverse) -> None:
    report = describe_tiers(bundled)
    paper = io.StringIO()
    show_tiers(Console(file=paper, width=80, highlight=False), report.as_of, report.tiers, report.evidence)
    text = paper.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "\u2026" not in text
    for words in (
        *bundled.curve.tiers.labels,
        "members (",
        "straddlers (",
        "off the curve, yet",
        "declared, yet",
        "NVDA",
    ):
        assert words in text
