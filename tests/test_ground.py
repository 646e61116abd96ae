"""The ground floor: errors, axes, contracts, intake, documents."""

import datetime as dt
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import Field
from ruamel.yaml import YAML

from engine import errors
from engine.axes import Axis
from engine.contracts import CONTRACTS, cash_row, empty
from engine.conventions import is_cash
from engine.documents import MAX_CHARACTERS, MAX_DEPTH, Strict, load_document, parse_document, suggestion
from engine.errors import AlignmentError, ConfigurationError, ContractError, EngineError
from engine.intake import Notice, admit, notices_frame, screen

DAY = dt.date(2025, 1, 24)
FILES = (Path(__file__).resolve().parents[1] / "universes").rglob("*.yaml")


def holdings(**changes: object) -> pl.DataFrame:
    """Two sound lines of the book A and one of B."""
    columns = {
        "as_of": [DAY] * 3,
        "portfolio_id": ["B", "A", "A"],
        "security_id": ["NVDA", "NVDA", "CASH:USD"],
        "quantity": [10.0, 20.0, 5.0],
        "price": [100.0, 100.0, 1.0],
        "currency": ["USD"] * 3,
        "market_value_base": [1000.0, 2000.0, 5.0],
    }
    return pl.DataFrame({**columns, **changes})


def test_every_error_leaf_has_the_exit_code_that_the_tree_draws() -> None:
    leaves = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, EngineError)]
    codes = {kind.__name__: kind.exit_code for kind in leaves}
    assert codes == {
        "EngineError": 70,
        "UsageError": 2,
        "DataError": 65,
        "InputFileError": 65,
        "ContractError": 65,
        "AlignmentError": 65,
        "ModelError": 65,
        "CalibrationError": 65,
        "StorageError": 74,
        "ConfigurationError": 78,
    }
    drawn = (errors.__doc__ or "").split('"""')[0]
    assert all(name in drawn for name in codes)


def test_an_axis_over_labels_depends_on_no_order() -> None:
    assert Axis.of("security", ["B", "A", "B"]).labels == Axis.of("security", ["A", "B"]).labels == ("A", "B")


def test_a_vector_is_aligned_by_key_and_never_by_position() -> None:
    frame = pl.DataFrame({"name": ["C", "A", "B", "X"], "value": [3.0, 1.0, 2.0, 9.0]})
    axis = Axis("security", ("B", "C", "A"))
    assert axis.vector(frame, "value", label="name", source="test").tolist() == [2.0, 3.0, 1.0]


def test_a_label_without_a_row_is_filled_only_when_asked() -> None:
    frame = pl.DataFrame({"name": ["A"], "value": [1.0]})
    axis = Axis("security", ("A", "B"))
    assert axis.vector(frame, "value", label="name", source="test", fill=0.0).tolist() == [1.0, 0.0]
    with pytest.raises(AlignmentError, match=r"^caps: 1 security label is unknown: B$"):
        axis.vector(frame, "value", label="name", source="caps")


def test_a_matrix_is_filled_by_both_keys_whatever_the_row_order() -> None:
    rows, columns = Axis("security", ("B", "A")), Axis("factor", ("f", "g"))
    frame = pl.DataFrame({"s": ["A", "B", "A", "B"], "k": ["g", "f", "f", "g"], "v": [4.0, 1.0, 3.0, 2.0]})
    for shuffled in (frame, frame.reverse()):
        matrix = rows.matrix(shuffled, columns, "v", keys=("s", "k"), source="test")
        assert matrix.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(AlignmentError, match=r"^test: 1 security x factor label is unknown: A$"):
        rows.matrix(frame.slice(1), columns, "v", keys=("s", "k"), source="test")


def test_a_key_that_appears_twice_never_fans_out() -> None:
    frame = pl.DataFrame({"name": ["A", "A"], "value": [1.0, 2.0]})
    with pytest.raises(ContractError, match=r"1 keys \(name\) appear twice: A"):
        Axis("security", ("A",)).vector(frame, "value", label="name", source="caps")
    with pytest.raises(ContractError, match="labels appear twice: A"):
        Axis("security", ("A", "B", "A"))


def test_positions_name_every_missing_label_at_once() -> None:
    with pytest.raises(AlignmentError) as caught:
        Axis("security", ("A",)).positions(["C", "A", "B", "C"], "holdings")
    assert caught.value.missing == ("B", "C")


def test_only_the_cash_prefix_is_cash() -> None:
    assert is_cash("CASH:USD") and not is_cash("CASHX") and not is_cash("cash:USD")
    frame = pl.DataFrame({"security_id": ["CASH:USD", "CASH"]})
    assert frame.filter(cash_row())["security_id"].to_list() == ["CASH:USD"]


@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_every_contract_has_a_key_a_version_and_an_empty_table_that_keeps_it(name: str) -> None:
    contract = CONTRACTS[name]
    assert contract.version >= 1
    assert set(contract.key) <= set(contract.columns) - contract.nullable
    assert empty(name).schema == pl.Schema(contract.columns)


def test_admission_widens_integers_fills_nullable_columns_and_sorts_by_key() -> None:
    admitted = admit(holdings(quantity=[10, 20, 5]).with_columns(pl.lit("x").alias("note")), "holdings", "h")
    assert admitted.frame["portfolio_id"].to_list() == ["A", "A", "B"]
    assert admitted.frame["security_id"].to_list() == ["CASH:USD", "NVDA", "NVDA"]
    assert admitted.frame["quantity"].to_list() == [5.0, 20.0, 10.0]
    assert admitted.frame["exposure_base"].null_count() == 3
    assert [(n.code, n.severity, n.message) for n in admitted.notices] == [
        ("holdings.extra_columns", "warn", "ignored columns: note")
    ]


def test_refusal_names_all_faults_of_a_table_at_once() -> None:
    bad = holdings(price=["a", "b", "c"]).drop("currency").rename({"quantity": "Quantity"})
    with pytest.raises(ContractError) as caught:
        admit(bad, "holdings", "h.parquet")
    assert caught.value.faults == (
        "missing columns quantity (found 'Quantity': rename it), currency; found "
        "as_of, portfolio_id, security_id, Quantity, price, market_value_base",
        "column 'price' is String, expected Float64",
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quantity": [np.nan, 1.0, 1.0]}, "1 row breaks 'quantity is a number'; first: 2025-01-24/B/NVDA; found nan"),
        ({"price": [np.inf, 1.0, 1.0]}, "1 row breaks 'price is finite'; first: 2025-01-24/B/NVDA; found inf"),
        ({"price": [0.0, 1.0, -1.0]}, "2 rows break 'price > 0'; first: "),
        (
            {"currency": ["USD", None, "USD"]},
            "1 row breaks 'currency is present'; first: 2025-01-24/A/NVDA; found noth",
        ),
        ({"security_id": ["../x", "A", "B"]}, "'security_id is plain ASCII: letters, digits and . _ : - only'"),
        ({"security_id": ["N\u200bVDA", "A", "B"]}, "'security_id is plain ASCII"),
        ({"security_id": ["A" * 65, "A", "B"]}, "'security_id has at most 64 characters'"),
        ({"portfolio_id": ["A", "A", "A"]}, "2 rows break 'one row for each as_of, portfolio_id, security_id'"),
    ],
)
def test_a_row_that_breaks_a_rule_is_shown_with_its_key_and_value(change: dict[str, object], words: str) -> None:
    with pytest.raises(ContractError) as caught:
        admit(holdings(**change), "holdings", "h")
    assert words in str(caught.value)


def test_screening_sets_aside_the_book_at_fault_and_keeps_the_rest() -> None:
    screened = screen(holdings(quantity=[np.nan, 20.0, 5.0]), "holdings", "h")
    assert screened.frame["portfolio_id"].unique().to_list() == ["A"]
    (notice,) = screened.notices
    assert (notice.portfolio_id, notice.severity, notice.code) == ("B", "quarantine", "holdings.quantity.nan")


def test_screening_refuses_the_file_when_an_id_is_unusable() -> None:
    with pytest.raises(ContractError, match="portfolio_id is plain ASCII"):
        screen(holdings(portfolio_id=["-rf", "A", "A"]), "holdings", "h")


def test_notices_come_worst_first_and_once() -> None:
    warn = Notice("a", "warn", "m", "s")
    reject = Notice("b", "reject", "m", "s", "BOOK", 3)
    frame = notices_frame([warn, reject, warn])
    assert frame["severity"].to_list() == ["reject", "warn"]
    assert admit(frame, "exceptions", "test").frame.height == 2
    assert notices_frame([]).schema == empty("exceptions").schema


class Leaf(Strict):
    """One level below."""

    share: float = Field(ge=0.0, le=1.0)


class Document(Strict):
    """A document of two keys."""

    title: str
    leaves: tuple[Leaf, ...] = ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: x\nleafs: []\n", "d.yaml:2:1: unknown key 'leafs'; did you mean 'leaves'?"),
        ("leaves: []\n", "d.yaml:1:1: missing key 'title'"),
        ("title: 3\n", "d.yaml:1:8: title: input should be a valid string; found 3"),
        (
            "title: x\nleaves:\n  - {share: 1.5}\n",
            "d.yaml:3:13: share: input should be less than or equal to 1; found 1.5",
        ),
        ("title: x\nleaves:\n  - {share: .nan}\n", "d.yaml:3:13: share: input should be a finite number; found nan"),
        ("title: x\ntitle: y\n", "d.yaml:2:1: not valid YAML: found duplicate key"),
        ("title: &a x\n", "d.yaml:1:8: anchors and aliases are not read; write the value out"),
        ("title: !!str x\n", "d.yaml:1:8: the tag tag:yaml.org,2002:str is not read; remove it"),
        ("\ufefftitle: x\n", "d.yaml:1:1: not plain UTF-8 (byte order mark, NUL, broken character); save it as UTF-8"),
        ("title: [x\n", "d.yaml:2:1: not valid YAML:"),
        ("title:\tx\n  bad: 1\n", "not valid YAML"),
        ("- title\n", "d.yaml:1:1: expected keys and values, found a list"),
        ("", "d.yaml:1:1: expected keys and values, found nothing"),
        ("title: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"nested deeper than {MAX_DEPTH} levels"),
        ("#" * (MAX_CHARACTERS + 1), "d.yaml:1:1: 1,000,001 characters; at most 1,000,000 are read"),
    ],
)
def test_a_document_at_fault_says_where_and_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_document(text, "d.yaml", Document)
    assert message in caught.value.faults[0]


def test_a_document_names_all_its_faults_in_the_order_of_its_lines() -> None:
    text = "leaves:\n  - {share: -1}\n  - {share: 2, colour: red}\n"
    with pytest.raises(ConfigurationError) as caught:
        parse_document(text, "d.yaml", Document)
    assert [fault.split(": ")[0] for fault in caught.value.faults] == [
        "d.yaml:1:1",
        "d.yaml:2:13",
        "d.yaml:3:13",
        "d.yaml:3:24",
    ]


def test_yaml_words_are_read_as_yaml_1_2_says() -> None:
    assert parse_document("title: no\n", "d.yaml", Document).title == "no"
    assert parse_document("title: x\nleaves: [{share: 1e-4}]\n", "d.yaml", Document).leaves[0].share == 1e-4


READ_ALIKE = """\
# a comment before
words: [no, "012", 'on', ~, plain text]
numbers: {whole: 012, hex: 0x1F, octal: 0o14, small: 1.0e-4, large: 1_000, none: .nan, all: -.inf}
days:
  - 2026-01-02
  - {day: 2026-01-03, of: [1, [2, 3]]}
1: an integer as key  # after
folded: >
  one
  # not a comment

  two
literal: |-
  first
    second
empty:
flow: {a: {b: [c, d: e]}, f: []}
"""


def plain(node: object) -> object:
    """What the round-trip reader keeps beside a value is taken off."""
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return tuple(map(plain, node))
    if isinstance(node, bool) or node is None:
        return node
    return next((kind(node) for kind in (int, float, str) if isinstance(node, kind)), node)


def places(node: Any, above: tuple[Any, ...] = (), at: tuple[int, int] = (0, 0)) -> Iterator[tuple[Any, ...]]:
    """Path, line and column of everything that the round-trip reader has read."""
    yield above, at[0] + 1, at[1] + 1
    for step, below in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        nested = isinstance(below, dict | list)
        mark = node.lc.item if isinstance(node, list) else node.lc.key if nested else node.lc.value
        yield from places(below, (*above, step), mark(step))


@pytest.mark.parametrize(
    "text",
    [READ_ALIKE, f"%YAML 1.1\n---\n{READ_ALIKE}...\n", *(path.read_text("utf-8") for path in sorted(FILES))],
)
def test_a_document_has_the_values_and_places_of_the_round_trip_reader(text: str) -> None:
    document, oracle = load_document(text, "d.yaml"), YAML(typ="rt").load(text)
    assert repr(document.values) == repr(plain(oracle))  # tells 1 from 1.0 and true, and nan from itself
    found = list(places(oracle))
    assert [document.place(path) for path, _, _ in found] == [("d.yaml", line, column) for _, line, column in found]


def test_a_suggestion_is_the_closest_word_or_the_allowed_ones() -> None:
    assert suggestion("hyperscaler", ["hyperscalers", "software"]) == "; did you mean 'hyperscalers'?"
    assert suggestion("zzz", ["a", "b"]) == "; allowed: a, b"
    assert suggestion("zzz", []) == ""
