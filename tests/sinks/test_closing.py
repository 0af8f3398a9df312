"""Closing windows: merged whole, replaced whole, and safe against whoever comes too late."""

from __future__ import annotations

import pyarrow as pa

from signals.lane import Lane, Rules
from signals.signal import SHARDS
from sinks.clickhouse import Sink
from sinks.closing import checkpoints, close_windows, save_checkpoint
from sinks.schema import STORE
from tests.event import T0_MS, call, record
from tests.stored import flush

ALL = list(range(SHARDS))
W0 = T0_MS // 1000
RULES = Rules(chunk_records=4)


def store(sink: Sink, source: int, *values: bytes, series_limit: int = 100) -> None:
    """Store a lane's records as far as they go, in the one chunk that they begin."""
    lane = Lane(source, 0, Rules(chunk_records=100, series_limit=series_limit))
    for offset, value in enumerate(values):
        lane.feed(offset, T0_MS, value)
    flush(sink, lane)


def calls(sink: Sink, cut: str = "model") -> dict[tuple[str, int], int]:
    """(model, window) -> calls, of what is in ``measures``, zeros included."""
    rows = sink.rows(
        f"SELECT model, toUnixTimestamp(window), n FROM {STORE}.measures FINAL "
        "WHERE signal = 'performance_calls_count' AND cut = {cut:String} ORDER BY model, window",
        {"cut": cut},
    )
    return {(model, int(window)): int(n) for model, window, n in rows}


def test_chunks_of_all_sources_are_merged(sink: Sink) -> None:
    store(sink, 1, record(call(1), call(2, total_ms=10.0)))
    store(sink, 2, record(call(3)))
    close_windows(sink, W0, W0 + 60, ALL)
    assert calls(sink) == {("gpt-4o", W0): 3}
    ((n, total, counts),) = sink.rows(
        f"SELECT n, sum, counts FROM {STORE}.measures FINAL "
        "WHERE signal = 'performance_latency_us' AND cut = 'gateway'"
    )
    assert (n, total, sorted(counts)) == (3, 1_010_000, [1, 2])


def test_only_the_windows_and_shards_that_were_asked_for(sink: Sink) -> None:
    store(sink, 1, record(call(-1), call(0), call(60_000)))
    close_windows(sink, W0, W0 + 60, ALL)
    assert set(calls(sink)) == {("gpt-4o", W0)}
    sink.command(f"TRUNCATE TABLE {STORE}.measures")
    for shard in ALL:
        close_windows(sink, W0, W0 + 60, [shard])
    one_by_one = calls(sink)
    assert one_by_one == {("gpt-4o", W0): 1}
    assert (
        sink.rows(f"SELECT count() FROM {STORE}.measures WHERE shard != cityHash64(series) % {SHARDS}")[0][0]
        == 0
    )


def test_closing_again_is_the_same(sink: Sink) -> None:
    store(sink, 1, record(call(1), call(2, model="other")))
    close_windows(sink, W0, W0 + 60, ALL)
    before = calls(sink)
    close_windows(sink, W0, W0 + 60, ALL)
    assert calls(sink) == before


def test_a_late_event_replaces_the_window_with_a_higher_version(sink: Sink) -> None:
    store(sink, 1, record(call(1)))
    close_windows(sink, W0, W0 + 60, ALL)
    store(sink, 1, record(call(1)), record(call(2)))
    close_windows(sink, W0, W0 + 60, ALL)
    assert calls(sink) == {("gpt-4o", W0): 2}


def test_a_closer_that_read_earlier_and_writes_later_changes_nothing(sink: Sink) -> None:
    store(sink, 1, record(call(1)))
    close_windows(sink, W0, W0 + 60, ALL)
    stale = sink.table(f"SELECT * FROM {STORE}.measures")
    sink.command(f"TRUNCATE TABLE {STORE}.measures")
    store(sink, 1, record(call(1)), record(call(2)))
    close_windows(sink, W0, W0 + 60, ALL)
    sink.insert(f"{STORE}.measures", pa.table(stale))
    assert calls(sink) == {("gpt-4o", W0): 2}


def test_series_that_a_chunk_no_longer_has_are_set_to_zero(sink: Sink) -> None:
    """As when a deploy changes what a chunk yields: the old series must not count beside the new ones."""
    two_models = record(call(1, model="a"), call(2, model="b"))
    store(sink, 1, two_models, series_limit=2)
    close_windows(sink, W0, W0 + 60, ALL)
    store(sink, 1, two_models, record(call(3, model="a")), series_limit=1)
    close_windows(sink, W0, W0 + 60, ALL)
    assert calls(sink) == {("a", W0): 2, ("b", W0): 0, ("__other__", W0): 1}


def test_checkpoints_only_move_forward(sink: Sink) -> None:
    assert checkpoints(sink) == {}
    save_checkpoint(sink, W0 + 120, [0, 1])
    save_checkpoint(sink, W0 + 60, [1, 2])
    assert checkpoints(sink) == {0: W0 + 120, 1: W0 + 120, 2: W0 + 60}
