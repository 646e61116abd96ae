"""The only bridge between labelled frames and bare arrays."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from engine.errors import AlignmentError, ContractError


@dataclass(frozen=True, slots=True)
class Axis:
    """Ordered unique labels of one dimension; aligns by key and never by position.

    Args:
        name: What the labels are, e.g. ``security``.
        labels: The labels in order, without repetition.

    Raises:
        ContractError: a label appears twice.
    """

    name: str
    labels: tuple[str, ...]
    _index: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index = {label: position for position, label in enumerate(self.labels)}
        if len(index) != len(self.labels):
            twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
            raise ContractError(f"{self.name} axis", [f"labels appear twice: {', '.join(twice[:5])}"])
        object.__setattr__(self, "_index", MappingProxyType(index))

    @classmethod
    def of(cls, name: str, labels: Iterable[str]) -> "Axis":
        """Axis over the distinct labels, sorted, so that it depends on no row order."""
        return cls(name, tuple(sorted(set(labels))))

    def __len__(self) -> int:
        return len(self.labels)

    def __contains__(self, label: object) -> bool:
        return label in self._index

    def missing(self, labels: Iterable[str]) -> list[str]:
        """The labels this axis does not have, sorted."""
        return sorted({label for label in labels if label not in self._index})

    def positions(self, labels: Iterable[str], source: str) -> Int[np.ndarray, " n"]:
        """Position of each label.

        Args:
            labels: Labels in any order, repetition allowed.
            source: Who asks, for the message.

        Raises:
            AlignmentError: a label is not on the axis; names all of them.
        """
        if not isinstance(labels, pl.Series):
            # The labels of one book are found sooner one by one than through a column.
            wanted = list(labels)
            found = np.array([self._index.get(label, -1) for label in wanted], dtype=np.int64)
            if (found < 0).any():
                raise AlignmentError(self.name, self.missing(wanted), source)
            return found
        codes = labels.cast(pl.Enum(list(self.labels)), strict=False).to_physical()
        if codes.null_count():
            raise AlignmentError(self.name, self.missing(labels.unique().drop_nulls().to_list()), source)
        return codes.to_numpy().astype(np.int64)

    def vector(
        self, frame: pl.DataFrame, value: str, *, label: str, source: str, fill: float | None = None
    ) -> Float[np.ndarray, " n"]:
        """One number a label, from a long frame, aligned by key.

        Args:
            frame: Holds the columns ``label`` and ``value``.
            value: Column of the numbers.
            label: Column of the labels; rows whose label is not on the axis are left out.
            source: Who asks, for the message.
            fill: Number for labels without a row; without it they are an error.

        Raises:
            AlignmentError: a label of the axis has no row and there is no ``fill``.
            ContractError: a label has two rows.
        """
        rows = frame.filter(pl.col(label).is_in(list(self.labels)))
        _refuse_repeated(rows, [label], source)
        found = set(rows[label].to_list())
        absent = [name for name in self.labels if name not in found]
        if absent and fill is None:
            raise AlignmentError(self.name, absent, source)
        out = np.full(len(self), np.nan if fill is None else fill)
        out[self.positions(rows[label], source)] = rows[value].to_numpy()
        return out

    def matrix(
        self, frame: pl.DataFrame, columns: "Axis", value: str, *, keys: tuple[str, str], source: str
    ) -> Float[np.ndarray, "n m"]:
        """A full table of numbers from a long frame, aligned by both keys.

        Args:
            frame: Long frame with one row a cell.
            columns: Axis of the second key.
            value: Column of the numbers.
            keys: The columns of the row label and of the column label.
            source: Who asks, for the message.

        Raises:
            AlignmentError: a cell has no row (its row label is named), or a row a foreign label.
            ContractError: a cell has two rows.
        """
        _refuse_repeated(frame, list(keys), source)
        rows = self.positions(frame[keys[0]], source)
        cols = columns.positions(frame[keys[1]], source)
        out = np.full((len(self), len(columns)), np.nan)
        filled = np.zeros(out.shape, dtype=bool)
        out[rows, cols] = frame[value].to_numpy()
        filled[rows, cols] = True
        if not filled.all():
            absent = [self.labels[i] for i in np.flatnonzero(~filled.all(axis=1))]
            raise AlignmentError(f"{self.name} x {columns.name}", absent, source)
        return out


def _refuse_repeated(frame: pl.DataFrame, keys: list[str], source: str) -> None:
    twice = frame.filter(pl.struct(keys).is_duplicated()).select(keys).unique().sort(keys)
    if twice.height:
        shown = "; ".join("/".join(map(str, row)) for row in twice.head(3).iter_rows())
        raise ContractError(source, [f"{twice.height} keys ({', '.join(keys)}) appear twice: {shown}"])
