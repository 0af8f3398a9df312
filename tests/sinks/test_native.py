"""Blocks in the Native format: the engine reads the same rows from them as from Arrow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sinks.clickhouse import Sink
from sinks.native import CALL_TYPES, encode_block

TYPES: Final = {
    "id": "UInt64",
    "name": "LowCardinality(String)",
    "text": "String",
    "flag": "UInt8",
    "status": "UInt16",
    "minute": "UInt32",
    "at": "DateTime64(3, 'UTC')",
    "hashes": "Array(UInt64)",
}
KINDS: Final = {
    "id": pa.int64(),
    "name": pa.dictionary(pa.int32(), pa.string()),
    "text": pa.string(),
    "flag": pa.int64(),
    "status": pa.int64(),
    "minute": pa.uint32(),
    "at": pa.timestamp("ms", "UTC"),
    "hashes": pa.list_(pa.int64()),
}
TABLE: Final = "gatewatch_store.native"
TEXTS: Final = st.text(max_size=6) | st.sampled_from(["", "é" * 64, "x" * 127, "x" * 128, "y" * 20_000])


@st.composite
def rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    row = st.fixed_dictionaries(
        {
            "name": st.none() | TEXTS,
            "text": st.none() | TEXTS,
            "flag": st.none() | st.integers(0, 255),
            "status": st.none() | st.integers(0, 65_535),
            "minute": st.none() | st.integers(0, 2**32 - 1),
            "at": st.none() | st.integers(0, 4_102_444_800_000),
            "hashes": st.none() | st.lists(st.integers(0, 2**63 - 1), max_size=3),
        }
    )
    found = draw(st.lists(row, min_size=1, max_size=6))
    return [{"id": number, **row} for number, row in enumerate(found)]


def table(found: list[dict[str, Any]]) -> pa.Table:
    return pa.table({name: pa.array([row[name] for row in found], kind) for name, kind in KINDS.items()})


def read_back(sink: Sink, insert: Callable[[str], None]) -> list[Any]:
    """What the engine has of rows that are inserted into a table of its own."""
    columns = ", ".join(f"{name} {kind}" for name, kind in TYPES.items())
    sink.command(f"CREATE OR REPLACE TABLE {TABLE} ({columns}) ENGINE = MergeTree ORDER BY id")
    try:
        insert(TABLE)
        return [list(row) for row in sink.rows(f"SELECT * FROM {TABLE} ORDER BY id")]
    finally:
        sink.command(f"DROP TABLE {TABLE}")


def stored(sink: Sink, block: pa.Table) -> list[Any]:
    """What the engine has of a block that is inserted as Native."""
    body = encode_block(block, TYPES)
    return read_back(sink, lambda name: sink.insert_raw(name, body, "Native"))


def expected(found: list[dict[str, Any]], sink: Sink) -> list[Any]:
    """The same by way of Arrow, where null is the default."""
    return read_back(sink, lambda name: sink.insert(name, table(found)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=rows(), cut=st.integers(0, 3))
def test_the_engine_reads_the_same_rows_as_from_arrow(
    sink: Sink, found: list[dict[str, Any]], cut: int
) -> None:
    whole = table(found)
    kept = whole.slice(min(cut, whole.num_rows - 1))  # columns that begin in the middle of their memory
    assert stored(sink, kept) == expected(found[min(cut, whole.num_rows - 1) :], sink)


@pytest.mark.parametrize("names", [1, 255, 256, 257, 70_000])
def test_any_number_of_names_is_told_apart(sink: Sink, names: int) -> None:
    found = [
        {"id": n, "name": f"name-{n % names}", "text": "", "flag": 0, "status": 0, "minute": 0, "at": 0}
        | {"hashes": []}
        for n in range(max(names, 300))
    ]
    assert [row[:2] for row in stored(sink, table(found))] == [[row["id"], row["name"]] for row in found]


def test_every_type_of_calls_is_known() -> None:
    kinds = {"String": pa.string(), "LowCardinality(String)": pa.dictionary(pa.int32(), pa.string())}
    for name, kind in CALL_TYPES.items():
        arrow = kinds.get(kind, pa.list_(pa.int64()) if kind.startswith("Array") else pa.int64())
        if kind.startswith("DateTime64"):
            arrow = pa.timestamp("ms", "UTC")
        assert encode_block(pa.table({name: pa.array([None], arrow)}), CALL_TYPES)


def test_a_type_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="no encoding is known for Nullable"):
        encode_block(pa.table({"x": [1]}), {"x": "Nullable(UInt8)"})
