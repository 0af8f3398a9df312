"""Dead letters as they are stored: found, counted, read, and marked when they are sent again.

A dead letter is one line, identified for ever by its place: source, offset, line. ``replays`` says what
became of it since: :data:`SENDING` is written before it is produced, :data:`SENT` once Kafka has it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
from msgspec import Struct

from sinks.clickhouse import Sink
from sinks.schema import STORE

__all__ = [
    "SENDING",
    "SENT",
    "DeadLetterFilter",
    "Mark",
    "Place",
    "ReasonCount",
    "StoredLetter",
    "count_reasons",
    "find_letters",
    "letters_at",
    "mark",
    "marks_at",
    "read_values",
    "server_time_ms",
]

SENDING: Final = 1
SENT: Final = 2
_TIME: Final = pa.timestamp("ms", "UTC")


class Place(Struct, frozen=True, order=True):
    """Where a line stands: the same for ever."""

    source: int
    offset: int
    line: int
    """Counted from 0 over the record's lines that are not blank."""


class StoredLetter(Struct, frozen=True):
    """A dead letter without its bytes."""

    place: Place
    appended_ms: int
    """When Kafka received the record."""
    reason: str
    detail: str
    size: int
    """Bytes of the line; the store keeps the first 64 KiB of them."""
    state: int
    """0, :data:`SENDING` or :data:`SENT`."""
    marked_ms: int
    """When it got that state, by ClickHouse's clock; 0 for state 0."""


class DeadLetterFilter(Struct, frozen=True):
    """Which letters are asked for."""

    reasons: tuple[str, ...] = ()
    """Any of these; all when empty."""
    since_ms: int = 0
    """Received by Kafka at this time or later."""
    sent: bool = False
    """Also those that have been sent again."""

    @property
    def parameters(self) -> dict[str, Any]:
        """Values of the query's parameters."""
        return {"reasons": list(self.reasons), "since": self.since_ms, "sent": int(self.sent)}


class ReasonCount(Struct, frozen=True):
    """How many letters have a reason."""

    reason: str
    letters: int
    bytes: int
    first_ms: int
    last_ms: int


class Mark(Struct, frozen=True):
    """A row of ``replays`` as it was inserted, merged with none."""

    place: Place
    state: int
    marked_ms: int


_LETTERS: Final = f"""\
FROM {STORE}.rejects AS r FINAL
LEFT JOIN
(
    SELECT source, offset, line, state, toUnixTimestamp64Milli(replayed_at) AS marked_ms
    FROM {STORE}.replays FINAL
) AS p ON p.source = r.source AND p.offset = r.offset AND p.line = r.line"""

_WANTED: Final = """\
WHERE toUnixTimestamp64Milli(r.appended_at) >= {since:Int64}
    AND (empty({reasons:Array(String)}) OR has({reasons:Array(String)}, r.reason))
    AND ({sent:UInt8} = 1 OR p.state != 2)"""

_COLUMNS: Final = """\
SELECT r.source, r.offset, r.line, toUnixTimestamp64Milli(r.appended_at), r.reason, r.detail, r.size,
    p.state, p.marked_ms"""

# Bound as three arrays: places are many, and statements must not hold values.
_PLACES: Final = """(
    SELECT arrayJoin(arrayZip({sources:Array(UInt64)}, {offsets:Array(UInt64)}, {lines:Array(UInt32)})))"""


def find_letters(
    sink: Sink, wanted: DeadLetterFilter, *, limit: int | None = None, newest_first: bool = False
) -> list[StoredLetter]:
    """Letters in the order in which Kafka received them, or the other way round.

    Raises
    ------
    SinkError
    """
    way = "DESC" if newest_first else "ASC"
    rows = sink.rows(
        f"{_COLUMNS}\n{_LETTERS}\n{_WANTED}\n"
        f"ORDER BY r.appended_at {way}, r.source {way}, r.offset {way}, r.line {way}"
        + ("" if limit is None else "\nLIMIT {limit:UInt64}"),
        wanted.parameters | ({} if limit is None else {"limit": limit}),
    )
    return [_letter(row) for row in rows]


def letters_at(sink: Sink, places: Iterable[Place]) -> dict[Place, StoredLetter]:
    """Those of the places that are dead letters.

    Raises
    ------
    SinkError
    """
    rows = sink.rows(
        f"{_COLUMNS}\n{_LETTERS}\nWHERE (r.source, r.offset, r.line) IN {_PLACES}", _arrays(places)
    )
    found = [_letter(row) for row in rows]
    return {letter.place: letter for letter in found}


def count_reasons(sink: Sink, wanted: DeadLetterFilter) -> list[ReasonCount]:
    """Letters by reason, the most frequent first.

    Raises
    ------
    SinkError
    """
    rows = sink.rows(
        "SELECT r.reason, count() AS letters, sum(r.size), toUnixTimestamp64Milli(min(r.appended_at)), "
        f"toUnixTimestamp64Milli(max(r.appended_at))\n{_LETTERS}\n{_WANTED}\n"
        "GROUP BY r.reason ORDER BY letters DESC, r.reason",
        wanted.parameters,
    )
    return [ReasonCount(*row) for row in rows]


def read_values(sink: Sink, places: Iterable[Place]) -> dict[Place, bytes]:
    """The bytes that are stored of each line: all of it, or its first 64 KiB.

    Raises
    ------
    SinkError
    """
    # As base64: clients turn text that is not UTF-8 into something else.
    rows = sink.rows(
        "SELECT r.source, r.offset, r.line, base64Encode(r.value) "
        f"FROM {STORE}.rejects AS r FINAL WHERE (r.source, r.offset, r.line) IN {_PLACES}",
        _arrays(places),
    )
    return {Place(*map(int, row[:3])): base64.b64decode(row[3]) for row in rows}


def server_time_ms(sink: Sink) -> int:
    """ClickHouse's clock: the one clock that all who replay share.

    Raises
    ------
    SinkError
    """
    return int(sink.rows("SELECT toUnixTimestamp64Milli(now64(3))")[0][0])


def mark(sink: Sink, states: Mapping[Place, int], at_ms: int) -> None:
    """Say what is about to be done with letters, or what has been done.

    Raises
    ------
    SinkError
        It may or may not have been stored.
    """
    if not states:
        return
    places = list(states)
    sink.insert(
        f"{STORE}.replays",
        pa.table(
            {
                "source": pa.array([place.source for place in places], pa.uint64()),
                "offset": pa.array([place.offset for place in places], pa.uint64()),
                "line": pa.array([place.line for place in places], pa.uint32()),
                "state": pa.array(list(states.values()), pa.uint8()),
                "replayed_at": pa.array([at_ms] * len(places), pa.int64()).cast(_TIME),
            }
        ),
    )


def marks_at(sink: Sink, places: Iterable[Place]) -> list[Mark]:
    """Every mark of letters that has not been merged away yet, also those that others have replaced.

    Raises
    ------
    SinkError
    """
    rows = sink.rows(
        "SELECT source, offset, line, state, toUnixTimestamp64Milli(replayed_at) "
        f"FROM {STORE}.replays WHERE (source, offset, line) IN {_PLACES}",
        _arrays(places),
    )
    return [Mark(Place(*map(int, row[:3])), int(row[3]), int(row[4])) for row in rows]


def _arrays(places: Iterable[Place]) -> dict[str, list[int]]:
    listed = list(places)
    return {
        "sources": [place.source for place in listed],
        "offsets": [place.offset for place in listed],
        "lines": [place.line for place in listed],
    }


def _letter(row: Sequence[Any]) -> StoredLetter:
    return StoredLetter(
        place=Place(int(row[0]), int(row[1]), int(row[2])),
        appended_ms=int(row[3]),
        reason=str(row[4]),
        detail=str(row[5]),
        size=int(row[6]),
        state=int(row[7]),
        marked_ms=int(row[8]),
    )
