"""A handful of prints becomes the likely return of every security and book so far."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from jaxtyping import Float
from scipy.special import ndtri

from engine.conventions import MARKET, TRADING_DAYS
from engine.errors import DataError
from engine.risk.model import RiskModel
from engine.risk.portfolios import Portfolios
from engine.stress.outcome import Outcome
from engine.stress.propagation import ILL_CONDITIONED, REPEATED
from engine.stress.reweighting import reweigh
from engine.stress.tape import Tape


@dataclass(frozen=True, slots=True)
class Nowcast:
    """The conditional distribution of all returns given a tape.

    Args:
        model: The model it was worked out on, the printed issuers at their specific variance of today.
        tape: The prints.
        on_factors: ``A``, ``(n_views, n_factors)``; a view is an issuer's prints or the market's.
        specific_gain: ``D_h C'`` with the D of today, ``(n_securities, n_views)``.
        scales: Volatility multipliers of factors and of specifics, from the tails and ``D^2``.
        open_gain: ``M^-1`` with F and D at those scales, ``(n_views, n_views)``; the bands rest on it.
        factors: ``E[f]``, ``(n_factors,)``, moves so far.
        specifics: ``E[eps]``, ``(n_securities,)``.
        surprises: ``(n_prints,)``, each print against what the others say, in volatilities.
        distance_squared: ``v' M^-1 v``.
        ridged: The prints nearly repeat each other, so a ridge was added.
    """

    model: RiskModel
    tape: Tape
    on_factors: Float[np.ndarray, "n_views n_factors"]
    specific_gain: Float[np.ndarray, "n_securities n_views"]
    scales: tuple[float, float]
    open_gain: Float[np.ndarray, "n_views n_views"]
    factors: Float[np.ndarray, " n_factors"]
    specifics: Float[np.ndarray, " n_securities"]
    surprises: Float[np.ndarray, " n_prints"]
    distance_squared: float
    ridged: bool

    @property
    def years(self) -> float:
        """The elapsed share of a trading day, in years."""
        return self.tape.elapsed / TRADING_DAYS

    @property
    def returns(self) -> Float[np.ndarray, " n_securities"]:
        """``B E[f] + E[eps]``, the estimated return of each security so far."""
        estimated: Float[np.ndarray, " n_securities"] = self.model.exposures @ self.factors + self.specifics
        return estimated


def nowcast(tape: Tape, model: RiskModel) -> Nowcast:
    """Condition the model on a tape.

    A print of security i is the row ``B_i`` on the factors and 1 on its specific return, one
    of ``market`` the market factor. Lines of one issuer share a specific return, so their
    difference would be read as a move of the factors: they count as one view, their mean.
    With ``F_h = h / 252 F`` for the elapsed share h of the day, ``D_h`` likewise and
    ``M = A F_h A' + C D_h C'``: ``E[f] = F_h A' M^-1 v``, ``E[eps] = D_h C' M^-1 v``, where D
    has each printed issuer's variance times the weight of ``stress/reweighting``: a print that the
    others do not bear out is taken for the issuer's own. ``D^2`` and the surprise of a view,
    ``(M^-1 v)_j / sqrt((M^-1)_jj)``, its distance from its mean given the other views in
    standard deviations, are of the model's own variances, before the weights.

    The weights compare the moves so far with a whole day, whatever the hour: most of an early
    move came overnight.

    Args:
        tape: Prints of securities of the model.
        model: Risk model with any number of factors.

    Raises:
        AlignmentError: a print of a security that the model does not have.
        DataError: the prints repeat each other, or have no risk in the model.

    References:
        MATH.md 4. Oracle: the dense conditional Gaussian at the variances of today,
        tests/test_nowcast.py; their fixed point by dense algebra, tests/test_reweighting.py.
    """
    years = tape.elapsed / TRADING_DAYS
    a, c, average = _rows(tape, model)
    values = average @ tape.returns
    factor_covariance = model.factor_covariance * years
    by_factor, by_name = a @ factor_covariance @ a.T, c @ model.specific_times(c.T) * years
    m = by_factor + by_name
    condition = float(np.linalg.cond(m))
    if not condition < REPEATED or (np.diag(m) <= 0.0).any():
        raise DataError(f"tape: prints {', '.join(tape.names)} repeat each other or have no risk in the model")
    ridge = np.eye(len(m)) * (np.trace(m) / len(m) / ILL_CONDITIONED if condition > ILL_CONDITIONED else 0.0)
    gain = np.linalg.inv(m + ridge)
    gain = (gain + gain.T) / 2.0
    pull = gain @ values
    distance_squared = float(values @ pull)
    scales = (
        model.tails.factor_scale(distance_squared, len(values)),
        model.tails.specific_scale(distance_squared, len(values)),
    )
    surprises = pull / np.sqrt(np.diag(gain))

    weights = reweigh(
        (by_factor + ridge) / tape.elapsed, np.diag(by_name) / tape.elapsed, values, degrees=model.tails.degrees
    )
    today = _at_weights(model, c, weights)
    specific_gain = today.specific_times(c.T) * years
    by_name = c @ specific_gain
    pull = np.linalg.solve(by_factor + by_name + ridge, values)
    return Nowcast(
        model=today,
        tape=tape,
        on_factors=a,
        specific_gain=specific_gain,
        scales=scales,
        open_gain=np.linalg.inv(scales[0] ** 2 * by_factor + scales[1] ** 2 * by_name + ridge),
        factors=factor_covariance @ a.T @ pull,
        specifics=specific_gain @ pull,
        surprises=(average > 0.0).T @ surprises,
        distance_squared=distance_squared,
        ridged=condition > ILL_CONDITIONED,
    )


def _rows(
    tape: Tape, model: RiskModel
) -> tuple[
    Float[np.ndarray, "n_views n_factors"],
    Float[np.ndarray, "n_views n_securities"],
    Float[np.ndarray, "n_views n_prints"],
]:
    """``A``, ``C``, and the prints that each view is the mean of."""
    is_market = np.array([name == MARKET for name in tape.names])
    at = model.securities.positions([name for name in tape.names if name != MARKET], "tape")
    owner = np.full(len(tape.names), -1)
    owner[~is_market] = model.issuers[at]
    _, view = np.unique(owner, return_inverse=True)
    average = np.zeros((int(view.max()) + 1, len(tape.names)))
    average[view, np.arange(len(tape.names))] = 1.0
    average /= average.sum(axis=1, keepdims=True)
    prints_on_factors = np.zeros((len(tape.names), len(model.factors)))
    prints_on_factors[~is_market] = model.exposures[at]
    prints_on_factors[is_market, model.factors.labels.index(MARKET)] = 1.0
    on_specifics = np.zeros((len(average), len(model.securities)))
    on_specifics[:, at] = average[:, ~is_market]
    return average @ prints_on_factors, on_specifics, average


def _at_weights(
    model: RiskModel, c: Float[np.ndarray, "n_views n_securities"], weights: Float[np.ndarray, " n_views"]
) -> RiskModel:
    """The model with the specific variance of each printed issuer, all its lines, times its view's weight."""
    scale = np.ones(int(model.issuers.max(initial=-1)) + 1)
    view, at = np.nonzero(c)
    scale[model.issuers[at]] = weights[view]
    return replace(model, specific_variance=model.specific_variance * scale[model.issuers])


def nowcast_names(now: Nowcast, band: float) -> pl.DataFrame:
    """The table ``nowcast_names``: estimate and bands of every security, with its print.

    Args:
        now: From ``nowcast``.
        band: Probability of the bands.
    """
    model, tape = now.model, now.tape
    b = model.exposures
    own = np.einsum("nk,kl,nl->n", b, model.factor_covariance, b), model.specific_variance
    moved = b @ (model.factor_covariance * now.years) @ now.on_factors.T, now.specific_gain
    prints = pl.DataFrame({"security_id": tape.names, "printed": tape.returns, "surprise": now.surprises})
    frame = pl.DataFrame({"security_id": model.securities.labels, "estimated": now.returns})
    return (
        frame.with_columns(**_bands(now, now.returns, own, moved, band))
        .join(prints, on="security_id", how="left", validate="1:1")
        .sort("security_id")
    )


def nowcast_books(now: Nowcast, portfolios: Portfolios, band: float) -> pl.DataFrame:
    """Estimated P&L and bands of every portfolio, on the model of the nowcast.

    Args:
        now: From ``nowcast``, on the portfolios' model.
        portfolios: Weights.
        band: Probability of the bands.
    """
    model, b = now.model, portfolios.exposures
    own = np.einsum("pk,kl,pl->p", b, model.factor_covariance, b), model.specific_variances(portfolios.weights)
    moved = (
        b @ (model.factor_covariance * now.years) @ now.on_factors.T,
        np.asarray(portfolios.weights @ now.specific_gain),
    )
    pnl = portfolios.weights @ now.returns
    return pl.DataFrame(
        {
            "portfolio_id": portfolios.ids.labels,
            "nav_base": portfolios.nav,
            "pnl_frac": pnl,
            "pnl_base": pnl * portfolios.nav,
            **_bands(now, pnl, own, moved, band),
        }
    )


def _bands(
    now: Nowcast,
    centre: Float[np.ndarray, " n"],
    own: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]],
    moved: tuple[Float[np.ndarray, "n n_views"], Float[np.ndarray, "n n_views"]],
    band: float,
) -> dict[str, pl.Series]:
    """Band of what happened so far, and of where the close may be.

    So far: the conditional variance given the prints, ``own - moved M^-1 moved'``, with F and
    D first widened by their own tails, so that what was printed has no band. Until the close
    the rest of the day is added, independent of what has been, at the tails of ``h D^2``: what
    the moves so far are against a whole day, since most of an early move came overnight.

    Args:
        now: The nowcast.
        centre: Estimates.
        own: Factor and specific variance, a year.
        moved: Covariance with the views, by factors and by specifics, over the elapsed time.
        band: Probability.
    """
    by_factor, by_name = now.scales[0] ** 2, now.scales[1] ** 2
    annual = by_factor * own[0] + by_name * own[1]
    known = by_factor * moved[0] + by_name * moved[1]
    variance = np.maximum(annual * now.years - np.einsum("nv,vw,nw->n", known, now.open_gain, known), 0.0)
    tails, views, whole_day = now.model.tails, len(now.open_gain), now.distance_squared * now.tape.elapsed
    coming = tails.factor_scale(whole_day, views) ** 2 * own[0] + tails.specific_scale(whole_day, views) ** 2 * own[1]
    rest = coming * (1.0 / TRADING_DAYS - now.years)
    z = float(ndtri(0.5 + band / 2.0))
    so_far, close = z * np.sqrt(variance), z * np.sqrt(variance + np.maximum(rest, 0.0))
    return {
        "band_low": pl.Series(centre - so_far),
        "band_high": pl.Series(centre + so_far),
        "close_low": pl.Series(centre - close),
        "close_high": pl.Series(centre + close),
    }


def compare_scenarios(now: Nowcast, outcomes: tuple[Outcome, ...]) -> pl.DataFrame:
    """The table ``nowcast_scenarios``: how alike the estimated factor move and each scenario's are.

    ``similarity = f'F^-1 g / sqrt(f'F^-1 f g'F^-1 g)``, the cosine in whitened factor space:
    1 is the same move at some size, -1 its reverse. ``scale = f'F^-1 g / g'F^-1 g`` is the size
    of the scenario that comes closest. A scenario that moves no factor, or a tape that does
    not, is like nothing: 0.

    Args:
        now: The nowcast.
        outcomes: Scenarios of the library on the same factors.
    """
    covariance = now.model.factor_covariance
    moves = np.array([one.factors for one in outcomes]).reshape(len(outcomes), len(covariance))
    both = np.vstack([now.factors, moves])
    products = both @ np.linalg.lstsq(covariance, both.T, rcond=None)[0]
    squares, shared = np.diag(products)[1:], products[0, 1:]
    sizes = np.sqrt(np.maximum(squares * products[0, 0], 0.0))
    nothing = np.zeros(len(outcomes))
    return pl.DataFrame(
        {
            "scenario_id": [one.scenario.id for one in outcomes],
            "title": [one.scenario.body.title for one in outcomes],
            "similarity": np.clip(np.divide(shared, sizes, out=nothing.copy(), where=sizes > 0.0), -1.0, 1.0),
            "scale": np.divide(shared, squares, out=nothing.copy(), where=squares > 0.0),
        },
        schema_overrides={"scenario_id": pl.String, "title": pl.String},
    ).sort("scenario_id")
