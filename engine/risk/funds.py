"""Funds become what is in them: compositions as shares of the names that the model knows."""

import datetime as dt
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl
from jaxtyping import Bool
from scipy.sparse import csr_array, eye_array

from engine.axes import Axis
from engine.contracts import cash_row, empty
from engine.conventions import NAV_REFUSAL, NAV_WARNING, is_percent
from engine.curve.tiers import Curve
from engine.curve.universe import Universe
from engine.intake import Notice, screen
from engine.risk.model import RiskModel

SOURCE: Final = "compositions"
KINDS: Final = ("etf", "index")


@dataclass(frozen=True, slots=True)
class Funds:
    """Funds whose composition is known, resolved down to names that are not such funds.

    Args:
        names: The funds, in order; one that holds cash alone has no shares.
        shares: Columns ``security_id`` (the fund), ``constituent_id``, ``weight``; without cash,
            and with the share of unknown constituents on the fund itself. Sorted by both ids.
    """

    names: tuple[str, ...]
    shares: pl.DataFrame

    def matrix(self, securities: Axis) -> csr_array:
        """``L``, ``(n, n)``: row i says what one unit of name i holds; itself where it is no fund."""
        at = securities.positions(self.shares["security_id"], SOURCE)
        to = securities.positions(self.shares["constituent_id"], SOURCE)
        plain = np.ones(len(securities))
        plain[securities.positions(self.names, SOURCE)] = 0.0
        n = len(securities)
        return csr_array((self.shares["weight"].to_numpy(), (at, to)), shape=(n, n)) + csr_array(
            (plain, (np.arange(n), np.arange(n))), shape=(n, n)
        )


def resolve_funds(universe: Universe, known: Axis, day: dt.date | None) -> tuple[Funds, tuple[Notice, ...]]:
    """The compositions of the day, funds inside funds resolved.

    With ``C`` the weights of the funds in names and ``N`` those in other funds, the shares
    are ``(I + N + N^2 + ...) C``; the sum ends because no fund holds itself. A fund keeps
    its own estimated exposures, with a warning, where its latest weights on or before the
    day do not sum to 1 within a percent, where it leads back to itself, or where the model
    does not know more than the universe's ``unmapped_share`` of it. Up to that share, the
    unknown part stays on the fund itself. Nothing is normalised: weights count as given.

    Args:
        universe: Compositions as read, kinds of securities, ``unmapped_share``.
        known: Securities of the model.
        day: Date of the holdings; no fund is resolved without one.

    Raises:
        ContractError: the table as a whole cannot be used.

    References:
        Oracle: plain recursion, tests/test_funds.py.
    """
    table = universe.compositions
    if day is None or not table.height:
        return Funds((), empty(SOURCE).select("security_id", "constituent_id", "weight")), ()
    screened = screen(table, SOURCE, SOURCE, by="security_id")
    notices = [replace(notice, severity="warn") for notice in screened.notices]
    rows = screened.frame.filter(pl.col("as_of") <= day)
    rows = rows.filter(pl.col("as_of") == pl.col("as_of").max().over("security_id"))
    rows, faults = _sound(rows, universe)
    shares, nested = _resolved(rows)
    notices += [*faults, *nested]
    lacking = ~pl.col("constituent_id").is_in(list(known.labels)) & ~cash_row("constituent_id")
    doubts, opaque = _unknown(shares.filter(lacking), universe.settings.unmapped_share)
    own = shares.filter(lacking).with_columns(pl.col("security_id").alias("constituent_id"))
    parts = pl.concat([shares.filter(~lacking & ~cash_row("constituent_id")), own])
    names = sorted(set(shares["security_id"].to_list()) - set(opaque))
    parts = parts.filter(pl.col("security_id").is_in(names)).sort("security_id", "constituent_id", "weight")
    sums = parts.group_by("security_id", "constituent_id").agg(pl.col("weight").sum())
    return Funds(tuple(names), sums.sort("security_id", "constituent_id")), (*notices, *doubts)


def traded_model(model: RiskModel, matrix: csr_array) -> RiskModel:
    """The model in which a fund is one name with the exposures of what it holds.

    Exposures ``L B``; specific variance ``sum over issuers of (share of the issuer)^2 d``, the
    fund an issuer of its own. So a program that trades the fund knows its risk; what it
    shares with constituents held directly is left out here, and only here.

    Args:
        model: Risk model.
        matrix: ``L`` on the model's axis.
    """
    funds = funds_in(matrix)
    shares = matrix[funds]
    variance = np.array(model.specific_variance)
    m = int(model.issuers.max(initial=-1)) + 1
    n = len(model.securities)
    belongs = csr_array((np.ones(n), (np.arange(n), model.issuers)), shape=(n, m))
    per_issuer = np.zeros(m)
    per_issuer[model.issuers] = model.specific_variance
    sums = shares @ belongs
    variance[funds] = sums.multiply(sums) @ per_issuer
    issuers = np.array(model.issuers)
    issuers[funds] = m + np.arange(int(funds.sum()))
    return replace(model, exposures=matrix @ model.exposures, specific_variance=variance, issuers=issuers)


def traded_curve(curve: Curve, securities: Axis, matrix: csr_array) -> Curve:
    """The curve in which a fund belongs to the tiers of what it holds: ``L`` times the shares."""
    funds = funds_in(matrix)
    labels = [securities.labels[i] for i in np.flatnonzero(funds)]
    shares = (matrix[funds] @ curve.shares(securities))[:, : len(curve.tiers)]
    at, tier = np.nonzero(shares)
    rows = pl.DataFrame(
        {
            "security_id": [labels[i] for i in at],
            "tier": [curve.tiers.labels[j] for j in tier],
            "weight": shares[at, tier],
            "confidence": pl.Series([None] * len(at), dtype=pl.Float64),
            "source": ["declared"] * len(at),
        },
        schema=curve.memberships.schema,
    )
    others = curve.memberships.filter(~pl.col("security_id").is_in(labels))
    return replace(curve, memberships=pl.concat([others, rows]).sort("security_id", "tier"))


def funds_in(matrix: csr_array) -> Bool[np.ndarray, " n"]:
    """True for the names that ``L`` replaces by others."""
    difference = (matrix - eye_array(matrix.shape[0], format="csr")).tocsr()
    return np.asarray(abs(difference).sum(axis=1) > 0.0).ravel()


def _sound(rows: pl.DataFrame, universe: Universe) -> tuple[pl.DataFrame, list[Notice]]:
    """The rows of funds whose weights can be used as given, and a warning for each other fund."""
    kinds = dict(universe.securities.select("security_id", "kind").iter_rows())
    notices, refused = [], []
    for fund, total in rows.group_by("security_id").agg(pl.col("weight").sum()).sort("security_id").iter_rows():
        if kinds.get(fund) not in KINDS:
            what = f"of kind {kinds[fund]}" if fund in kinds else "not listed"
            words = f"{fund}: it is {what}; only an etf or an index has a composition"
        elif is_percent(total):
            words = f"{fund}: its weights add up to {total:.1f}: percent? divide by 100; its own exposures are used"
        elif not abs(total - 1.0) <= NAV_REFUSAL:
            words = f"{fund}: its weights sum to {total:g}, expected 1; its own exposures are used"
        else:
            if abs(total - 1.0) > NAV_WARNING:
                words = f"{fund}: its weights sum to {total:g}; they count as given"
                notices.append(Notice("compositions.sum", "warn", words, SOURCE))
            continue
        refused.append(fund)
        notices.append(Notice("compositions.unusable", "warn", words, SOURCE))
    return rows.filter(~pl.col("security_id").is_in(refused)), notices


def _unknown(lacking: pl.DataFrame, allowed: float) -> tuple[list[Notice], list[str]]:
    """A warning for each fund with unknown constituents, and the funds that have too many."""
    sums = lacking.sort("constituent_id").group_by("security_id")
    table = sums.agg(pl.col("weight").abs().sum().alias("size"), "constituent_id").sort("security_id")
    notices, opaque = [], []
    for fund, size, names in table.iter_rows():
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        words = f"{fund}: the model does not know {size:.2%} of its constituents ({shown})"
        if size <= allowed:
            words += "; for them its own exposures are used"
        else:
            words += f", at most {allowed:.2%} may be; its own exposures are used for all of it"
            opaque.append(fund)
        notices.append(Notice("compositions.unmapped", "warn", words, SOURCE))
    return notices, opaque


def _resolved(rows: pl.DataFrame) -> tuple[pl.DataFrame, list[Notice]]:
    """Shares of the funds in names that are no funds, and a warning for each circle of funds."""
    nodes = Axis.of("security", [*rows["security_id"].to_list(), *rows["constituent_id"].to_list()])
    n = len(nodes)
    at = nodes.positions(rows["security_id"], SOURCE)
    to = nodes.positions(rows["constituent_id"], SOURCE)
    weights = csr_array((rows["weight"].to_numpy(), (at, to)), shape=(n, n))
    circles = _circles(weights, nodes)
    notices = [
        Notice(
            "compositions.circle",
            "warn",
            f"{', '.join(circle)}: the composition leads back to the fund itself; its own exposures are used",
            SOURCE,
        )
        for circle in circles
    ]
    is_fund = np.zeros(n)
    is_fund[at] = 1.0
    is_fund[nodes.positions([name for circle in circles for name in circle], SOURCE)] = 0.0
    used = weights.multiply(is_fund[:, None]).tocsr()
    inside = csr_array(used.multiply(is_fund[None, :]))
    step = total = csr_array(used.multiply(1.0 - is_fund[None, :]))
    while inside.nnz and step.nnz:
        step = inside @ step
        total = total + step
    held = total.tocoo()
    fund, constituent = held.coords
    labels = np.array(nodes.labels, dtype=object)
    frame = pl.DataFrame(
        {
            "security_id": labels[fund].tolist(),
            "constituent_id": labels[constituent].tolist(),
            "weight": held.data,
        },
        schema={"security_id": pl.String, "constituent_id": pl.String, "weight": pl.Float64},
    )
    return frame, notices


def _circles(weights: csr_array, nodes: Axis) -> list[list[str]]:
    """Names that reach themselves through compositions, by circle."""
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415 - loads scipy.linalg; few need it

    _, circle = connected_components(weights, directed=True, connection="strong")
    alone = np.bincount(circle)[circle] == 1
    closed = ~alone | (weights.diagonal() != 0.0)
    names: dict[int, list[str]] = {}
    for i in np.flatnonzero(closed):
        names.setdefault(int(circle[i]), []).append(nodes.labels[i])
    return sorted(names.values())
