"""Events as a worker stores them, for tests of what is read from the store."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from gatewatch.contract import Contract
from gatewatch.events import Event
from signals.lane import Lane, LaneRows, Rules
from sinks.clickhouse import Sink
from sinks.row import blocks
from sinks.schema import STORE
from tests.event import record
from tests.priced_call import ledger

__all__ = ["flush", "keep_only", "store"]

_TABLES: Final = ("calls", "rejects", "feedback")
_EVENTS_A_RECORD: Final = 500


def flush(sink: Sink, lane: Lane, tables: Collection[str] | None = None) -> LaneRows:
    """Insert what a lane has read, or what of it belongs into these tables, and say what it was."""
    rows = lane.flush()
    assert rows is not None
    for name, block in blocks([rows]).items():
        if tables is None or name in tables:
            sink.insert(f"{STORE}.{name}", block)
    return rows


def store(sink: Sink, *events: Event, contracts: Sequence[Contract] = (), source: int = 1) -> None:
    """Store events, all of them when the newest happened. None is refused, for its age or otherwise."""
    rules = Rules(chunk_records=1_000_000, max_age_ms=1 << 40)
    lane = Lane(source, 0, rules, prices=ledger(contracts))
    newest_ms = max(event.at_ms for event in events)
    for offset in range(0, len(events), _EVENTS_A_RECORD):
        lane.feed(offset, newest_ms, record(*events[offset : offset + _EVENTS_A_RECORD]))
    assert flush(sink, lane).rejected == 0


def keep_only(sink: Sink, events: Iterable[Event | bytes], *, source: int = 1) -> None:
    """Empty the tables of calls, rejects and feedback, and store these events, each when it happened."""
    for table in _TABLES:
        sink.command(f"TRUNCATE TABLE {STORE}.{table}")
    lane = Lane(source, 0, Rules(chunk_records=1_000_000))
    appended_ms = 0
    for offset, event in enumerate(events):
        appended_ms = appended_ms if isinstance(event, bytes) else event.at_ms
        lane.feed(offset, appended_ms, record(event))
    if lane.through >= 0:
        flush(sink, lane, _TABLES)
