"""Events as a worker stores them, for tests of what is read from the store."""

from __future__ import annotations

from collections.abc import Iterable

from gatewatch.events import Event
from signals.lane import Lane, Rules
from sinks.clickhouse import Sink
from sinks.row import blocks
from sinks.schema import STORE
from tests.event import record

__all__ = ["keep_only"]

_TABLES = ("calls", "rejects", "feedback")


def keep_only(sink: Sink, events: Iterable[Event | bytes], *, source: int = 1) -> None:
    """Empty the tables of calls, rejects and feedback, and store these events, each when it happened."""
    for table in _TABLES:
        sink.command(f"TRUNCATE TABLE {STORE}.{table}")
    lane = Lane(source, 0, Rules(chunk_records=1_000_000))
    appended_ms = 0
    for offset, event in enumerate(events):
        appended_ms = appended_ms if isinstance(event, bytes) else event.at_ms
        lane.feed(offset, appended_ms, record(event))
    rows = lane.flush()
    if rows is not None:
        for name, block in blocks([rows]).items():
            if name in _TABLES:
                sink.insert(f"{STORE}.{name}", block)
