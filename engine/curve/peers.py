"""What a security's peers say about its exposures, before its own history is asked."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from engine.axes import Axis


def lean_on_peers(
    prior: Float[np.ndarray, "n k"],
    *,
    slopes: Float[np.ndarray, "n k"],
    variance: Float[np.ndarray, "n k"],
    voters: Bool[np.ndarray, " n"],
    levels: Sequence[Int[np.ndarray, " n"]],
) -> Float[np.ndarray, "n k"]:
    """The prior, moved by what the other members of a security's group deviate from theirs.

    Level by level (sector, then sub-industry) and factor by factor, a random-effects mean:
    with ``z = slopes - prior`` so far, ``t^2 = mean(z^2 - variance)`` over the voters and
    weights ``1 / (variance + t^2)``, a group's mean of z without the security itself is
    shrunk by ``T^2 / (T^2 + 1 / sum of weights)``, ``T^2`` the spread of the group means
    beyond their noise, and added. A security alone in its group, or in none, keeps its prior.

    Args:
        prior: ``b0`` of the declared memberships, ``(n, k)``.
        slopes: Unshrunk exposures; only the voters' are read.
        variance: Squared standard errors of ``slopes``.
        voters: Securities whose slopes count: stocks with enough history.
        levels: Group code of each security by level, -1 where it has none.

    Returns:
        The moved prior, ``(n, k)``.

    References:
        DerSimonian and Laird (1986), the method of moments. Planted groups: tests/test_peers.py.
    """
    moved = prior.copy()
    for codes in levels:
        if not (voters & (codes >= 0)).any():
            continue
        gap = np.where(voters[:, None], slopes - moved, 0.0)
        within = np.maximum((gap[voters] ** 2 - variance[voters]).mean(axis=0), 1e-6)
        counted = voters & (codes >= 0)
        weight = np.where(counted[:, None], 1.0 / (np.where(counted[:, None], variance, 1.0) + within), 0.0)
        groups = int(codes.max()) + 1
        total, mean = np.zeros((groups, prior.shape[1])), np.zeros((groups, prior.shape[1]))
        np.add.at(total, codes[counted], weight[counted])
        np.add.at(mean, codes[counted], (weight * gap)[counted])
        held = total > 0.0
        centre = np.divide(mean, total, out=np.zeros_like(mean), where=held)
        noise = np.divide(1.0, total, out=np.zeros_like(total), where=held)
        count = np.maximum(held.sum(axis=0), 1)
        between = np.maximum(
            (total * centre**2).sum(axis=0) / np.maximum(total.sum(axis=0), 1e-300) - noise.sum(axis=0) / count, 0.0
        )
        inside = codes >= 0
        rest = np.where(inside[:, None], total[np.maximum(codes, 0)] - weight, 0.0)
        pulled = np.where(inside[:, None], mean[np.maximum(codes, 0)] - weight * gap, 0.0)
        enough = rest > 1e-9 * np.maximum(total.max(axis=0), 1e-300)
        others = np.divide(pulled, rest, out=np.zeros_like(rest), where=enough)
        trust = np.divide(between * rest, between * rest + 1.0, out=np.zeros_like(rest), where=enough)
        moved = moved + trust * others
    return moved


def group_codes(securities: pl.DataFrame, axis: Axis, level: str) -> Int[np.ndarray, " n"]:
    """Code of each security's group at one level; -1 where the column is null.

    Args:
        securities: Table ``securities``.
        axis: Securities in order.
        level: A column, ``gics_sector`` or ``gics_sub_industry``.
    """
    held = securities.select("security_id", level).drop_nulls()
    groups = Axis.of("group", held[level].to_list())
    codes = held.with_columns(pl.Series("code", groups.positions(held[level], "securities").astype(np.float64)))
    return axis.vector(codes, "code", label="security_id", source="securities", fill=-1.0).astype(np.int64)
