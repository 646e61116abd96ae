"""Holds a table against its contract: every fault of the file, in words, at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from engine.contracts import CONTRACTS, ROW_NUMBER, Contract, empty
from engine.errors import ContractError

Severity = Literal["reject", "quarantine", "warn"]

_SHOWN = 3
_ROW = "__row__"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the desk should know about an input; a row of the table ``exceptions``."""

    code: str
    severity: Severity
    message: str
    source: str
    portfolio_id: str | None = None
    row: int | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """A table that keeps its contract, sorted by key, and what was noticed on the way."""

    frame: pl.DataFrame
    notices: tuple[Notice, ...] = ()


def check_columns(frame: pl.DataFrame, table: str, source: str) -> None:
    """Refuse a file whose columns or types are not its contract's, before its rows are looked at.

    Raises:
        ContractError: every fault of the columns, naming the file.
    """
    _conform(frame, CONTRACTS[table], source)


def admit(frame: pl.DataFrame, table: str, source: str) -> Admitted:
    """Accept a table whole or refuse it with every fault.

    Columns of the contract are taken in its order; integers are widened to float; nullable
    columns that are absent become null; columns the contract does not know are left out
    with a warning. Nothing else is changed, and no value is ever repaired.

    Args:
        frame: The table as read.
        table: Name of the contract.
        source: File or place it came from, for the messages.

    Raises:
        ContractError: missing columns, wrong types, or rows that break a rule.
    """
    contract = CONTRACTS[table]
    conformed, notices = _conform(frame, contract, source)
    if faults := [_phrase(contract, rule, bad) for rule, bad in _broken_rules(conformed, contract)]:
        raise ContractError(f"{table} ({source})", faults)
    return Admitted(conformed.drop(_ROW).sort(contract.key), notices)


def screen(frame: pl.DataFrame, table: str, source: str, *, by: str = "portfolio_id") -> Admitted:
    """Accept a table of many portfolios (or securities), setting aside those with a bad row.

    Missing columns, wrong types and unusable ids refuse the file; any other fault
    quarantines its portfolio and leaves the rest.

    Args:
        frame: The table as read.
        table: Name of the contract.
        source: File or place it came from, for the messages.
        by: Key column whose values stand or fall together.

    Returns:
        The rows of those without fault; one quarantine notice a fault and portfolio.

    Raises:
        ContractError: the file as a whole cannot be used.
    """
    contract = CONTRACTS[table]
    conformed, notices = _conform(frame, contract, source)
    fatal: list[str] = []
    quarantined: list[Notice] = []
    set_aside: set[str] = set()
    for rule, bad in _broken_rules(conformed, contract):
        column = rule.split("|")[0]
        if column in contract.key and "|" in rule:
            fatal.append(_phrase(contract, rule, bad))
            continue
        for (owner,), rows in sorted(bad.group_by(by), key=lambda item: str(item[0][0])):
            set_aside.add(str(owner))
            quarantined.append(
                Notice(
                    code=f"{table}.{rule.replace('|', '.')}",
                    severity="quarantine",
                    message=_phrase(contract, rule, rows.sort(_ROW)),
                    source=source,
                    portfolio_id=str(owner) if by == "portfolio_id" else None,
                    row=int(rows[_ROW].min()),  # type: ignore[arg-type]
                )
            )
    if fatal:
        raise ContractError(f"{table} ({source})", fatal)
    good = conformed.filter(~pl.col(by).is_in(sorted(set_aside))).drop(_ROW).sort(contract.key)
    return Admitted(good, (*notices, *quarantined))


def notices_frame(notices: Sequence[Notice]) -> pl.DataFrame:
    """The notices as the table ``exceptions``, worst first."""
    if not notices:
        return empty("exceptions")
    rank = {"reject": 0, "quarantine": 1, "warn": 2}
    ordered = sorted(
        set(notices), key=lambda n: (rank[n.severity], n.portfolio_id or "", n.code, n.row or 0, n.message)
    )
    columns = CONTRACTS["exceptions"].columns
    return pl.DataFrame([{name: getattr(n, name) for name in columns} for n in ordered], schema=columns)


def _conform(frame: pl.DataFrame, contract: Contract, source: str) -> tuple[pl.DataFrame, tuple[Notice, ...]]:
    faults: list[str] = []
    wanted = contract.columns
    if absent := [name for name in wanted if name not in frame.columns and name not in contract.nullable]:
        close = {name.lower(): name for name in frame.columns}
        hints = [
            f"{name} (found {close[name.lower()]!r}: rename it)" if name.lower() in close else name for name in absent
        ]
        faults.append(
            f"missing column{'s' if len(absent) > 1 else ''} {', '.join(hints)}; found {', '.join(frame.columns)}"
        )
    columns: list[pl.Expr] = []
    for name, dtype in wanted.items():
        if name not in frame.columns:
            columns.append(pl.lit(None, dtype=dtype).alias(name))
        elif _widens(frame.schema[name], dtype):
            columns.append(pl.col(name).cast(dtype))
        else:
            faults.append(f"column '{name}' is {frame.schema[name]}, expected {dtype}")
    if not frame.height and contract.name in {"holdings", "prices", "securities", "portfolios"}:
        faults.append("the table has no rows")
    if faults:
        raise ContractError(f"{contract.name} ({source})", faults)
    extra = [name for name in frame.columns if name not in wanted]
    notices = (
        (Notice(f"{contract.name}.extra_columns", "warn", f"ignored columns: {', '.join(extra)}", source),)
        if extra
        else ()
    )
    return frame.with_row_index(_ROW).select(*columns, _ROW), notices


def _widens(found: pl.DataType, wanted: pl.DataType) -> bool:
    if found in (wanted, pl.Null):
        return True
    if wanted == pl.Float64:
        return found.is_integer() or found == pl.Float32
    if wanted == pl.Int64:
        return found.is_integer() and found != pl.UInt64
    return wanted == pl.String and found in (pl.Categorical, pl.Enum)


def _broken_rules(frame: pl.DataFrame, contract: Contract) -> list[tuple[str, pl.DataFrame]]:
    """Each broken rule with the rows that break it, in the order of the columns."""
    _, failures = contract.numbered_schema.filter(frame.rename({_ROW: ROW_NUMBER}))
    if not failures.counts():
        return []
    details = failures.details().rename({ROW_NUMBER: _ROW})
    found = [(rule, details.filter(_breaks(rule, details.columns))) for rule in failures.counts()]
    order = {rule: position for position, rule in enumerate(details.columns)}
    return sorted(((rule, bad) for rule, bad in found if bad.height), key=lambda item: order[item[0]])


def _breaks(rule: str, columns: list[str]) -> pl.Expr:
    """Rows that break a rule; what is no number breaks its bounds too, which nobody need read."""
    column, _, check = rule.partition("|")
    broken = pl.col(rule).cast(pl.String) == "invalid"
    for worse in ("nan", "inf") if check in ("min", "max", "min_exclusive") else ():
        if f"{column}|{worse}" in columns:
            broken &= pl.col(f"{column}|{worse}").cast(pl.String) != "invalid"
    return broken


def _phrase(contract: Contract, rule: str, bad: pl.DataFrame) -> str:
    shown = "; ".join("/".join(str(value) for value in row) for row in bad.select(contract.key).head(_SHOWN).rows())
    ellipsis = "; ..." if bad.height > _SHOWN else ""
    column, _, check = rule.partition("|")
    found = ""
    if check:
        values = [_value(value) for value in bad[column].head(_SHOWN).to_list()]
        found = f"; found {', '.join(values)}{ellipsis and ', ...'}"
    rows = f"{bad.height} row{'s break' if bad.height != 1 else ' breaks'}"
    return f"{rows} '{_claim(contract, column, check)}'; first: {shown}{ellipsis}{found}"


def _value(value: object) -> str:
    return "nothing" if value is None else repr(value)[:80]


def _claim(contract: Contract, column: str, check: str) -> str:
    if not check:
        return f"one row for each {', '.join(contract.key)}"
    rules = contract.schema.columns().get(column)
    bound = getattr(rules, check, None)
    words = {
        "nullability": "is present",
        "nan": "is a number",
        "inf": "is finite",
        "min": f">= {bound:g}" if isinstance(bound, float) else "is not negative",
        "min_exclusive": f"> {bound:g}" if isinstance(bound, float) else "",
        "max": f"<= {bound:g}" if isinstance(bound, float) else "",
        "min_length": "is not empty",
        "max_length": f"has at most {bound} characters",
        "regex": "is plain ASCII: letters, digits and . _ : - only",
    }
    return f"{column} {words.get(check) or check.removeprefix('check__')}"
