"""The client: one block an insert, and errors that hold no values."""

from __future__ import annotations

import pyarrow as pa
import pytest

from sinks.clickhouse import Sink, SinkError
from sinks.schema import STORE
from streams.process import free_port

SECRET = "a-prompt-that-nobody-may-see"


def checkpoints(*shards: int) -> pa.Table:
    return pa.table(
        {
            "shard": pa.array(shards, pa.uint8()),
            "closed_until": pa.array([60] * len(shards), pa.uint32()),
        }
    )


def test_an_insert_is_there_when_it_returns(sink: Sink) -> None:
    sink.insert(f"{STORE}.checkpoints", checkpoints(1, 2))
    table = sink.table(f"SELECT shard FROM {STORE}.checkpoints ORDER BY shard")
    assert table["shard"].to_pylist() == [1, 2]


def test_values_are_bound_and_never_part_of_the_statement(sink: Sink) -> None:
    nasty = "'; DROP TABLE x; --\\"
    assert [tuple(row) for row in sink.rows("SELECT {value:String}", {"value": nasty})] == [(nasty,)]


@pytest.mark.parametrize(
    ("table", "column"),
    [("checkpoints", "shard"), ("measures", "window"), ("sources", "chunk_records"), ("chunks", "n")],
)
def test_a_refused_insert_says_what_and_how_many_and_no_value(sink: Sink, table: str, column: str) -> None:
    with pytest.raises(SinkError) as caught:
        sink.insert(f"{STORE}.{table}", pa.table({column: [SECRET, SECRET]}))
    assert f"insert of 2 rows into {STORE}.{table} failed" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_query_that_fails_on_a_value_does_not_repeat_it(sink: Sink) -> None:
    sink.insert(
        f"{STORE}.texts",
        pa.table({"started_at": pa.array([0], pa.timestamp("ms", "UTC")), "call_id": [SECRET]}),
    )
    with pytest.raises(SinkError) as caught:
        sink.rows(f"SELECT toUInt64(call_id) FROM {STORE}.texts")
    assert str(caught.value).startswith("query failed")
    assert SECRET not in str(caught.value)


def test_an_unknown_table_has_clickhouses_code(sink: Sink) -> None:
    with pytest.raises(SinkError) as caught:
        sink.command("INSERT INTO gatewatch_store.nothing SELECT 1")
    assert caught.value.code in (60, None)
    assert str(caught.value).startswith("statement failed")


def test_no_answer_is_an_error_without_a_code_that_names_the_server_and_no_password() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(SinkError) as caught:
        Sink(url, "writer", SECRET, timeout_s=2)
    assert caught.value.code is None
    assert url in str(caught.value)
    assert SECRET not in str(caught.value)
