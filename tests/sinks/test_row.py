"""Rows of lanes as blocks: what goes into which table, in which order."""

from __future__ import annotations

from typing import Any

from gatewatch.events import Evaluation, Feedback, Resource
from signals.chunk import FAMILIES
from signals.lane import Lane, LaneRows, Rules
from sinks.row import blocks
from sinks.schema import TABLES
from tests.event import T0_MS, call, record

RULES = Rules(chunk_records=4)


def flushed(*values: bytes, source: int = 1) -> LaneRows:
    lane = Lane(source, 0, RULES)
    for offset, value in enumerate(values):
        lane.feed(offset, T0_MS, value)
    rows = lane.flush()
    assert rows is not None
    return rows


EVERYTHING = record(
    call(1, input_text="a prompt", tenant="acme", emitter_id="e", seq=0),
    Feedback(at_ms=T0_MS, gateway="eu-1", call_id="c", name="thumbs", score=1),
    Evaluation(at_ms=T0_MS, gateway="eu-1", call_id="c", name="toxicity", label="fine"),
    Resource(at_ms=T0_MS, gateway="eu-1", resource="gpu:0", gpu_utilization=0.5),
    b"{",
)


def test_chunks_come_last_so_that_a_stored_version_has_everything_before_it() -> None:
    assert list(blocks([flushed(EVERYTHING)])) == [
        "calls",
        "texts",
        "rejects",
        "feedback",
        "evaluations",
        "resources",
        "chunks",
    ]


def test_blocks_hold_columns_of_their_table_only() -> None:
    declared = {table.name: {column.name for column in table.columns} for table in TABLES}
    for name, table in blocks([flushed(EVERYTHING)]).items():
        assert set(table.column_names) <= declared[name]


def test_one_row_for_each_chunk_and_family() -> None:
    """Aggregates as many rows would leave those behind that a later version no longer has."""
    table = blocks([flushed(*[record(call(i, model=f"m{i}")) for i in range(6)])])["chunks"]
    keys = zip(table["first_offset"].to_pylist(), table["family"].to_pylist(), strict=True)
    assert list(keys) == [(first, family) for first in (0, 4) for family in FAMILIES]


def test_totals_and_sequences_stand_in_one_family_only() -> None:
    table = blocks([flushed(EVERYTHING)])["chunks"].to_pylist()
    events = {row["family"]: (row["events"], row["rejects"], row["seq_emitter_id"]) for row in table}
    assert events == {"performance": (0, 0, []), "cost": (0, 0, []), "pipeline": (4, 1, ["e"])}


def test_the_windows_of_a_row_are_bounded_by_its_window_columns() -> None:
    rows = blocks([flushed(record(call(0), call(60_000), call(200_000)))])["chunks"].to_pylist()
    for row in rows:
        assert row["window_from"] == min(row["window"]) == T0_MS // 1000
        assert row["window_to"] == max(row["window"]) == T0_MS // 1000 + 180


def test_lanes_share_a_block_and_keep_their_source() -> None:
    made = blocks([flushed(record(call(1), b"{"), source=7), flushed(b"}", source=8)])
    rejects = made["rejects"].to_pylist()
    assert [(row["source"], row["offset"], row["line"]) for row in rejects] == [(7, 0, 1), (8, 0, 0)]
    assert made["chunks"]["source"].to_pylist() == [7] * len(FAMILIES) + [8] * len(FAMILIES)


def test_a_dead_letter_keeps_its_size_and_the_first_64_kib() -> None:
    (row,) = blocks([flushed(b"x" * 100_000)])["rejects"].to_pylist()
    assert (row["size"], row["value"]) == (100_000, b"x" * 65_536)


def test_what_no_event_says_is_no_column() -> None:
    made = blocks([flushed(EVERYTHING)])
    assert "score" in made["feedback"].column_names
    assert "score" not in made["evaluations"].column_names


def test_calls_of_batches_with_different_columns_meet_in_one_block() -> None:
    first, second = flushed(record(call(1, tenant="acme"))), flushed(record(call(2, ttft_ms=1.0)))
    rows: list[dict[str, Any]] = blocks([first, second])["calls"].to_pylist()
    assert [(row["tenant"], row["ttft_us"]) for row in rows] == [("acme", None), (None, 1001)]


def test_nothing_gives_no_blocks() -> None:
    assert blocks([]) == {}
