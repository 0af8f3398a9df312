"""Acknowledgement: whole chunks, after their rows, in order; and what a lane may say of its progress."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from signals.lane import Lane, LaneRows, Rules
from streams.partition import Partition, deliver, flush_lanes
from streams.start import LogTruncatedError, start_offset
from tests.event import T0_MS, call, record

RULES = Rules(chunk_records=4)


def partition(start: int = 0) -> tuple[Partition, list[int]]:
    """A partition and the offsets that it has acknowledged."""
    acknowledged: list[int] = []
    return Partition(0, Lane(1, start, RULES), acknowledged.append), acknowledged


def feed(to: Partition, *offsets: int) -> None:
    for offset in offsets:
        to.feed(offset, T0_MS + offset, record(call(offset)), offset)


def stored(of: Partition) -> LaneRows:
    ((_, rows),) = flush_lanes([of])
    of.stored(rows)
    return rows


def test_only_whole_chunks_are_acknowledged() -> None:
    made, acknowledged = partition()
    feed(made, 0, 1, 2)
    stored(made)
    assert acknowledged == []
    feed(made, 3, 4, 5)
    stored(made)
    assert acknowledged == [0, 1, 2, 3]


def test_a_chunk_that_was_stored_piece_by_piece_is_acknowledged_with_its_last_record() -> None:
    made, acknowledged = partition()
    for offset in range(9):
        feed(made, offset)
        stored(made)
    assert acknowledged == list(range(8))
    assert made.flushed_offset == 8


def test_a_revoked_partition_acknowledges_nothing() -> None:
    made, acknowledged = partition()
    feed(made, 0, 1, 2, 3)
    made.live = False
    stored(made)
    assert acknowledged == []


def test_the_oldest_unacknowledged_record_is_the_open_chunks_first() -> None:
    made, _ = partition()
    assert made.oldest_unacknowledged_ms is None
    feed(made, 0, 1, 2, 3, 4, 5)
    stored(made)
    assert made.oldest_unacknowledged_ms == T0_MS + 4


def test_rows_come_first_then_progress_then_acknowledgement() -> None:
    made, acknowledged = partition()
    feed(made, 0, 1, 2, 3)
    seen: list[tuple[str, int]] = []

    async def write(rows: Sequence[LaneRows]) -> None:
        seen.append(("write", len(acknowledged)))

    async def publish(_: Partition, rows: LaneRows) -> None:
        seen.append(("publish", len(acknowledged)))

    asyncio.run(deliver(flush_lanes([made]), write, publish))
    assert seen == [("write", 0), ("publish", 0)]
    assert len(acknowledged) == 4


def test_nothing_is_said_and_acknowledged_of_rows_that_were_not_stored() -> None:
    made, acknowledged = partition()
    feed(made, 0, 1, 2, 3)

    async def write(_: Sequence[LaneRows]) -> None:
        raise OSError

    async def publish(_: Partition, __: LaneRows) -> None:
        raise AssertionError("progress speaks of rows that are not stored")

    with pytest.raises(OSError):
        asyncio.run(deliver(flush_lanes([made]), write, publish))
    assert acknowledged == []


def test_a_lane_has_reached_the_append_time_of_what_is_stored() -> None:
    made, _ = partition()
    assert made.reach(None, None) == 0
    feed(made, 0, 1)
    assert made.reach(stored(made), None) == T0_MS + 1


def test_a_lane_at_its_logs_end_knows_that_nothing_else_came() -> None:
    made, _ = partition()
    feed(made, 0, 1)
    rows = stored(made)
    assert made.reach(rows, None) == T0_MS + 1
    # Between two clocks lies a second.
    assert made.reach(None, (2, T0_MS + 50_000)) == T0_MS + 49_000


def test_a_lane_behind_its_logs_end_claims_nothing() -> None:
    made, _ = partition()
    feed(made, 0, 1)
    assert made.reach(stored(made), None) == T0_MS + 1
    assert made.reach(None, (3, T0_MS + 50_000)) == T0_MS + 1


def test_what_a_lane_has_reached_does_not_go_back() -> None:
    made, _ = partition()
    assert made.reach(None, (0, T0_MS + 50_000)) == T0_MS + 49_000
    feed(made, 0)
    assert made.reach(stored(made), None) == T0_MS + 49_000


@pytest.mark.parametrize(
    ("committed", "earliest", "known", "expected"),
    [
        (None, 0, True, 0),
        (None, 700, True, 700),
        (2500, 0, True, 2000),
        (2000, 0, True, 2000),
        (2999, 0, True, 2000),
        # Retention has passed the chunk's start: what is left of it.
        (2500, 2300, True, 2300),
        (2500, 2700, True, 2700),
        # Committed for an earlier incarnation of the topic.
        (2500, 0, False, 0),
        (99_000, 0, False, 0),
    ],
)
def test_reading_starts_at_a_chunks_start(
    committed: int | None, earliest: int, known: bool, expected: int
) -> None:
    start = start_offset(committed=committed, earliest=earliest, end=9000, known=known, chunk_records=1000)
    assert start == expected


def test_a_log_that_ends_before_what_was_committed_is_not_read() -> None:
    with pytest.raises(LogTruncatedError, match="ends at offset 10, but 11 is committed"):
        start_offset(committed=11, earliest=0, end=10, known=True, chunk_records=4)
