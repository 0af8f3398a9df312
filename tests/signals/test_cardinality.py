"""Invented names: 100,000 tenants or models do not grow a lane, and no total is lost to the overflow."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Final

import pytest

from gatewatch.events import Call, encode
from signals.lane import Lane, LaneRows, Rules
from signals.signal import OTHER
from sinks.clickhouse import Sink
from sinks.row import blocks
from sinks.schema import STORE
from sinks.source import add_source
from tests.event import T0_MS, call, record

NAMES: Final = 100_000
EVENTS_A_RECORD: Final = 100
RECORDS: Final = NAMES // EVENTS_A_RECORD
FLUSH_RECORDS: Final = 50
LIMIT: Final = 200
RULES: Final = Rules(chunk_records=100, series_limit=LIMIT)
"""Ten chunks of 10,000 names each."""

INVENTED: Final[dict[str, Callable[[int], Call]]] = {
    "tenants": lambda i: call(i % 60_000, tenant=f"tenant-{i:06}", input_tokens=2, emitter_id="e", seq=i),
    "models": lambda i: call(i % 60_000, model=f"model-{i:06}", input_tokens=2, emitter_id="e", seq=i),
    "emitters": lambda i: call(i % 60_000, emitter_id=f"emitter-{i:06}", seq=0, input_tokens=2),
}


def flushed(invent: Callable[[int], Call], take: Callable[[LaneRows], object]) -> None:
    """Feed every name once, in small flushes as a worker makes them."""
    lane = Lane(1, 0, RULES)
    for offset in range(RECORDS):
        events = [invent(offset * EVENTS_A_RECORD + i) for i in range(EVENTS_A_RECORD)]
        lane.feed(offset, T0_MS + 60_000, record(*map(encode, events)))
        if (offset + 1) % FLUSH_RECORDS == 0:
            rows = lane.flush()
            assert rows is not None
            take(rows)


@pytest.mark.slow
@pytest.mark.parametrize("invent", INVENTED.values(), ids=INVENTED)
def test_the_second_half_of_invented_names_does_not_grow_the_lane(invent: Callable[[int], Call]) -> None:
    held: list[int] = []

    def measure(rows: LaneRows) -> None:
        if rows.complete_through == rows.through:  # between two chunks: nothing is open
            del rows
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        flushed(invent, measure)
    finally:
        tracemalloc.stop()
    assert len(held) == 10
    # The first chunk warms caches; a single string for each name of a chunk would be 600 KB.
    assert max(held[5:]) - max(held[1:5]) < 200_000, held


@pytest.mark.parametrize("invent", INVENTED.values(), ids=INVENTED)
def test_a_chunk_keeps_no_more_series_than_its_limit(invent: Callable[[int], Call]) -> None:
    series: list[int] = []
    intervals: list[int] = []

    def count(rows: LaneRows) -> None:
        for version in rows.chunks:
            for arrays in version.families.values():
                found = {name for name in arrays["series"].to_pylist() if f'"{OTHER}"' not in name}
                cuts = {name.split(",")[0] for name in found}
                series.append(max(sum(name.split(",")[0] == cut for name in found) for cut in cuts))
            intervals.append(len(version.sequences.emitter_id))

    flushed(invent, count)
    assert max(series) <= LIMIT
    assert max(intervals) <= LIMIT


@pytest.mark.parametrize(("what", "cut"), [("tenants", "tenant"), ("models", "model")])
def test_what_overflows_is_shown_and_no_total_is_lost(sink: Sink, what: str, cut: str) -> None:
    add_source(
        sink, 1, cluster="c", topic="t", incarnation="i", partition=0, chunk_records=RULES.chunk_records
    )

    def store(rows: LaneRows) -> None:
        for name, table in blocks([rows]).items():
            if name != "calls":  # 100,000 rows that this test does not read
                sink.insert(f"{STORE}.{name}", table)

    flushed(INVENTED[what], store)
    ((total, other, kept),) = sink.rows(
        f"SELECT sum(n), sumIf(n, {cut} = '{OTHER}'), uniqExactIf({cut}, {cut} != '{OTHER}') "
        "FROM gatewatch.measures WHERE cut = {cut:String} AND signal = 'performance_calls_count'",
        {"cut": cut},
    )
    assert total == NAMES
    assert other == NAMES - 10 * LIMIT
    assert kept == 10 * LIMIT
    ((tokens,),) = sink.rows(
        "SELECT sum(sum) FROM gatewatch.measures WHERE cut = {cut:String} "
        "AND signal = 'performance_input_tokens_sum'",
        {"cut": cut},
    )
    assert tokens == 2 * NAMES
    assert sink.rows("SELECT events, duplicates FROM gatewatch.delivery") == [(NAMES, 0)]


def test_events_of_emitters_past_the_limit_are_counted_as_untracked(sink: Sink) -> None:
    def store(rows: LaneRows) -> None:
        for version in rows.chunks:
            untracked[version.first_offset] = version.totals.untracked
        sink.insert(f"{STORE}.chunks", blocks([rows])["chunks"])

    untracked: dict[int, int] = {}
    flushed(INVENTED["emitters"], store)
    assert sum(untracked.values()) == NAMES - 10 * LIMIT
    assert sink.rows("SELECT untracked FROM gatewatch.delivery") == [(NAMES - 10 * LIMIT,)]
