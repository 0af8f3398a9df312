"""A lane: one partition of the events topic, records in, rows out.

A plain object without I/O or clock. Records are fed in offset order; they are decoded in slices of
about a thousand events and aggregated by chunk (:mod:`signals.chunk`). ``flush`` gives the rows of
everything fed so far. What may be acknowledged, and when, is the caller's business
(``streams.partition``); the lane says which chunks are complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from msgspec import Struct
from msgspec.structs import asdict
from numpy.typing import NDArray

from gatewatch.events import (
    KINDS,
    CallEvent,
    Evaluation,
    Event,
    Feedback,
    Outcome,
    Reject,
    Resource,
    decode_record,
    split_record,
)
from gatewatch.usage import UsageError, read_usage
from signals.chunk import FAMILIES, WINDOW_S, Chunk, ChunkTotals, Measured
from signals.column import CallBatch, read_fields
from signals.decoder import FULL_KIND, decode_values
from signals.sequence import SequenceRanges

__all__ = ["DeadLetter", "Lane", "LaneRows", "Rules"]

_SLICE_BYTES: Final = 512 * 1024
_KIND_CODE: Final[dict[type[Event], int]] = {struct: code for code, struct in enumerate(KINDS.values())}
_KIND_NAMES: Final = list(KINDS)


class Rules(Struct, frozen=True):
    """What a lane holds events against; the same for every worker of a source."""

    chunk_records: int = 1000
    """Records of a chunk. A constant of the source: changing it counts events twice."""
    grace_ms: int = 60_000
    """An event that reaches the broker later than this after its own time is late. Real traces are up
    to 58 s out of order."""
    max_age_ms: int = 7 * 86_400_000
    """Older events are refused; it bounds how many storage partitions one insert can touch."""
    max_skew_ms: int = 300_000
    """Events from further in the future are refused: the gateway's clock is wrong."""
    series_limit: int = 2000
    """Series of a cut that a chunk keeps apart."""


class DeadLetter(Struct, frozen=True):
    """A line that is no event. ``source``, ``offset`` and ``line`` identify it for ever."""

    offset: int
    line: int
    appended_ms: int
    reason: str
    detail: str
    value: bytes


class Placed(Struct, frozen=True):
    """An event that is stored by its place in the log."""

    offset: int
    line: int
    event: Feedback | Evaluation | Resource


class Text(Struct, frozen=True):
    """Texts of a call, where somebody asked for them to be sent."""

    call_id: str
    started_at_ms: int
    input_text: str | None
    output_text: str | None


class ChunkVersion(Struct, frozen=True):
    """One chunk's aggregates as of ``last_offset``; a later version replaces all of it."""

    first_offset: int
    last_offset: int
    records: int
    appended_from_ms: int
    appended_to_ms: int
    totals: ChunkTotals
    sequences: SequenceRanges
    families: dict[str, dict[str, pa.Array]]
    """The arrays of ``chunks`` by family (:meth:`signals.chunk.Chunk.family`)."""


class LaneRows(Struct, frozen=True):
    """What a flush gives."""

    source: int
    through: int
    """Offset of the last record that these rows, with the earlier ones, cover."""
    complete_through: int
    """Offset of the last record of the last complete chunk, or -1: what may be acknowledged."""
    reached_ms: int
    """Append time of the last record."""
    events: int
    rejected: int
    calls: list[pa.Table]
    texts: list[Text]
    placed: list[Placed]
    dead_letters: list[DeadLetter]
    chunks: list[ChunkVersion]
    reopened: list[int]
    """Starts, in seconds, of windows that may have been closed before these events came."""


class _Open:
    """The chunk that is being filled."""

    def __init__(self, first_offset: int, headless: bool, rules: Rules) -> None:
        self.first_offset = first_offset
        self.end = first_offset + rules.chunk_records
        self.headless = headless
        self.chunk = Chunk(rules.series_limit)
        self.records = 0
        self.last_offset = first_offset - 1
        self.appended_from_ms = 0
        self.appended_to_ms = 0
        self.reset()

    def reset(self) -> None:
        """Forget what has been flushed."""
        self.positions = 0
        self.calls = CallBatch()
        self.at: list[NDArray[np.int64]] = []
        self.appended: list[NDArray[np.int64]] = []
        self.kind: list[NDArray[np.int64]] = []
        self.seq: list[NDArray[np.int64]] = []
        self.gateway: list[pa.Array] = []
        self.emitter: list[pa.Array] = []
        self.accepted: list[NDArray[np.bool_]] = []
        self.rejected: list[tuple[str, int]] = []


class Lane:
    """Turns the records of one partition into rows.

    Parameters
    ----------
    source
        Id of the (cluster, topic, incarnation, partition).
    start
        Offset of the first record to come. Must be a chunk's start, unless what lies before it in the
        chunk can no longer be read: then that chunk gets no aggregates (its calls and dead letters are
        written), because a chunk's row is a function of all its records.
    closed_until_s
        Windows that start before this were closed before the lane began: by closers that may not have
        known of this partition yet.
    """

    def __init__(self, source: int, start: int, rules: Rules, closed_until_s: int = 0) -> None:
        self.source = source
        self.rules = rules
        self._closed_until_s = closed_until_s
        floor = start - start % rules.chunk_records
        self.headless = start != floor
        self.through = start - 1
        self._open = _Open(floor, self.headless, rules)
        self._pending: list[tuple[int, int, bytes]] = []
        self.pending_bytes = 0
        self._reached_ms = 0
        self._begin()

    def _begin(self) -> None:
        self._complete_through = -1
        self._calls: list[pa.Table] = []
        self._versions: list[ChunkVersion] = []
        self._texts: list[Text] = []
        self._placed: list[Placed] = []
        self._dead: list[DeadLetter] = []
        self._reopened: set[int] = set()
        self._events = 0
        self._fed = False

    def claim(self, reached_ms: int) -> None:
        """Take note that closers were told that everything appended before ``reached_ms`` is stored.

        A worker says so of a lane at its log's end, by its own clock. Should that be ahead of the
        broker's, windows close early, and what comes for them afterwards must be named as reopened.
        """
        self._reached_ms = max(self._reached_ms, reached_ms)

    def feed(self, offset: int, appended_ms: int, value: bytes | None) -> None:
        """Take one record. Offsets grow; gaps between them are harmless.

        Raises
        ------
        ValueError
            The offset is not past the last one: the caller has lost its place.
        """
        if offset <= self.through:
            raise ValueError(f"offset {offset} after {self.through}: records must come in order")
        if offset >= self._open.end:
            self._close_chunk()
            self._open = _Open(offset - offset % self.rules.chunk_records, False, self.rules)
        self._fed = True
        self.through = offset
        self._pending.append((offset, appended_ms, value or b""))
        self.pending_bytes += len(value or b"")
        if self.pending_bytes >= _SLICE_BYTES:
            self._decode()
        if offset == self._open.end - 1:
            self._close_chunk()
            self._open = _Open(self._open.end, False, self.rules)

    def lose(self, until: int) -> None:
        """Records before ``until`` were deleted before they could be read.

        What the current chunk has counted stays as it is; a chunk of which records are missing gets no
        further aggregates, because a later version of its row would say less than an earlier one.
        """
        before = self._open.first_offset
        self._decode()
        if self._open.records:
            self._aggregate()
        floor = until - until % self.rules.chunk_records
        if floor != before and self._open.records:
            self._complete_through = self._open.last_offset
        self._open = _Open(floor, until != floor, self.rules)
        self.headless = until != floor
        self.through = until - 1
        self._fed = True

    def flush(self) -> LaneRows | None:
        """Rows of everything fed since the last flush; None when nothing was."""
        if not self._fed:
            return None
        self._decode()
        if self._open.records:
            self._aggregate()
        rows = LaneRows(
            source=self.source,
            through=self.through,
            complete_through=self._complete_through,
            reached_ms=self._reached_ms,
            events=self._events,
            rejected=len(self._dead),
            calls=self._calls,
            texts=self._texts,
            placed=self._placed,
            dead_letters=self._dead,
            chunks=self._versions,
            reopened=sorted(self._reopened),
        )
        self._begin()
        return rows

    # -- decoding ------------------------------------------------------------------------------

    def _decode(self) -> None:
        pending, self._pending, self.pending_bytes = self._pending, [], 0
        if not pending:
            return
        open_ = self._open
        if not open_.records:
            open_.appended_from_ms = pending[0][1]
        open_.records += len(pending)
        open_.last_offset = pending[-1][0]
        open_.appended_to_ms = max(open_.appended_to_ms, max(record[1] for record in pending))
        values = [record[2] for record in pending]
        counts, events = decode_values(values)
        if events is None:
            self._decode_slowly(pending)
            return
        offsets = [record[0] for record in pending]
        appended = np.repeat(np.array([record[1] for record in pending], dtype=np.int64), counts)
        self._take(events, appended, offsets, counts, values)

    def _decode_slowly(self, pending: Sequence[tuple[int, int, bytes]]) -> None:
        """Record by record, and line by line in the records that hold something else than events."""
        for offset, appended_ms, value in pending:
            counts, events = decode_values([value])
            if events is not None:
                self._take(events, np.full(len(events), appended_ms), [offset], counts, [value])
                continue
            good: list[Event] = []
            lines: list[int] = []
            raw = split_record(value)
            for line, decoded in enumerate(decode_record(value)):
                if isinstance(decoded, Reject):
                    body = raw[line] if raw else value
                    self._dead_letter(offset, line, appended_ms, decoded, body)
                else:
                    good.append(decoded)
                    lines.append(line)
            if good:
                kept = [raw[line] for line in lines]
                self._take(good, np.full(len(good), appended_ms), [offset], [len(good)], kept, lines)

    def _dead_letter(self, offset: int, line: int, appended_ms: int, reject: Reject, value: bytes) -> None:
        self._dead.append(DeadLetter(offset, line, appended_ms, reject.reason, reject.detail, value))
        self._open.rejected.append((reject.reason, appended_ms))

    def _take(
        self,
        events: list[Event],
        appended: NDArray[np.int64],
        offsets: list[int],
        counts: Sequence[int],
        values: list[bytes],
        lines: list[int] | None = None,
    ) -> None:
        """Take decoded events: ``counts[i]`` of them stood in the record at ``offsets[i]``."""
        ends = np.cumsum(counts)
        split: dict[int, list[bytes]] = {}

        def place(index: int) -> tuple[int, int]:
            if lines is not None:
                return offsets[0], lines[index]
            record = int(np.searchsorted(ends, index, side="right"))
            return offsets[record], index - int(ends[record] - counts[record])

        def raw_line(index: int) -> bytes:
            if lines is not None:
                return values[index]
            record = int(np.searchsorted(ends, index, side="right"))
            if record not in split:
                split[record] = split_record(values[record])
            return split[record][index - int(ends[record] - counts[record])]

        open_ = self._open
        fields = _Fields(events)
        open_.seq.append(fields.numbers("seq", otherwise=-1))
        open_.emitter.append(fields.strings("emitter_id"))
        accepted = np.ones(len(events), dtype=np.bool_)
        open_.accepted.append(accepted)
        refused, changed = self._refusals(events, fields, appended)
        if refused:
            # They did arrive, so their numbers stay: a refused event is no gap.
            accepted[list(refused)] = False
            for index, reject in refused.items():
                self._dead_letter(*place(index), int(appended[index]), reject, raw_line(index))
            kept = np.flatnonzero(accepted).tolist()
            places = [place(index) for index in kept]
            events = [events[index] for index in kept]
            appended = appended[kept]
            if not events:
                return
        if refused or changed:
            fields = _Fields(events)
        n = len(events)
        self._events += n
        open_.kind.append(fields.kind)
        open_.at.append(fields.numbers("at_ms"))
        open_.appended.append(appended)
        open_.gateway.append(fields.strings("gateway"))
        for struct, at, same in fields.by_kind():
            if issubclass(struct, CallEvent):
                lists, arrays = fields.of(struct, same)
                open_.calls.add(struct, lists, at + open_.positions, arrays)
                self._texts.extend(_texts(lists))
            else:
                for i, event in zip(at.tolist(), same, strict=True):
                    offset, line = places[i] if refused else place(i)
                    self._placed.append(Placed(offset, line, event))
        open_.positions += n

    def _refusals(
        self, events: list[Event], fields: _Fields, appended: NDArray[np.int64]
    ) -> tuple[dict[int, Reject], bool]:
        """Events that are well-formed and still cannot be taken: impossible times, contradictory usage.

        Returns
        -------
        The refusals by index, and whether events were changed: usage that a gateway sent as its provider
        gave it is read into the event's counts here.
        """
        refused: dict[int, Reject] = {}
        changed = False
        at = fields.numbers("at_ms")
        started = fields.numbers("started_at_ms", otherwise=-1)
        earliest = np.where(started < 0, at, np.minimum(at, started))
        latest = np.maximum(at, started)
        old = earliest < appended - self.rules.max_age_ms
        ahead = latest > appended + self.rules.max_skew_ms
        if old.any() or ahead.any():
            for index in np.flatnonzero(old).tolist():
                days = self.rules.max_age_ms / 86_400_000
                refused[index] = Reject(
                    "event_too_old",
                    f"the event's time is more than {days:g} days before it reached the broker; "
                    "check the gateway's clock and that times are milliseconds since 1970",
                )
            for index in np.flatnonzero(ahead).tolist():
                refused[index] = Reject(
                    "event_in_future",
                    f"the event's time is more than {self.rules.max_skew_ms / 1000:g} s after it reached the "
                    "broker; check the gateway's clock and that times are milliseconds since 1970",
                )
        raw = fields.read("provider_usage")
        if raw.count(None) < len(raw):
            # Usage is read into fields that a lean struct may not have (signals.decoder).
            events[:] = [_in_full(event) for event in events]
            for index, usage in enumerate(raw):
                if usage is not None:
                    changed = True
                    reject = _normalise_usage(events[index])
                    if reject is not None:
                        refused[index] = reject
        return refused, changed

    # -- aggregation ---------------------------------------------------------------------------

    def _close_chunk(self) -> None:
        self._decode()
        if self._open.records:
            self._aggregate()
            self._complete_through = self._open.last_offset

    def _aggregate(self) -> None:
        open_ = self._open
        chunk = open_.chunk
        for reason, appended_ms in open_.rejected:
            chunk.reject(reason, appended_ms)
        table = open_.calls.table()
        if open_.seq:
            emitter = pa.chunked_array(open_.emitter).combine_chunks().dictionary_encode()
            duplicate = chunk.sequences.see(
                emitter.dictionary.to_pylist(),
                emitter.indices.to_numpy().astype(np.int64),
                np.concatenate(open_.seq),
            )[np.concatenate(open_.accepted)]
        if open_.at:
            at = np.concatenate(open_.at)
            appended = np.concatenate(open_.appended)
            chunk.add(
                Measured(
                    at_ms=at,
                    late=appended - at > self.rules.grace_ms,
                    duplicate=duplicate,
                    gateway=pa.chunked_array(open_.gateway).combine_chunks(),
                    kind=np.concatenate(open_.kind),
                    kinds=_KIND_NAMES,
                    calls=table,
                )
            )
        # Rejects count in the windows of their records.
        counted = [*open_.at, np.array([appended_ms for _, appended_ms in open_.rejected], dtype=np.int64)]
        windows = np.unique(np.concatenate(counted) // 1000 // WINDOW_S) * WINDOW_S
        reached = max(self._reached_ms, open_.appended_to_ms)
        passed = (windows + WINDOW_S) * 1000 + self.rules.grace_ms <= reached
        self._reopened.update(windows[passed | (windows < self._closed_until_s)].tolist())
        if table is not None:
            self._calls.append(table.drop_columns(["position"]))
        self._reached_ms = max(self._reached_ms, open_.appended_to_ms)
        if not open_.headless:
            self._versions.append(
                ChunkVersion(
                    first_offset=open_.first_offset,
                    last_offset=open_.last_offset,
                    records=open_.records,
                    appended_from_ms=open_.appended_from_ms,
                    appended_to_ms=open_.appended_to_ms,
                    totals=chunk.totals,
                    sequences=chunk.sequences.ranges(),
                    families={name: chunk.family(name) for name in FAMILIES},
                )
            )
        open_.reset()


class _Fields:
    """Fields of many events, each read once: reading a field costs as much as decoding it."""

    def __init__(self, events: list[Event]) -> None:
        self._events = events
        types = set(map(type, events))
        self._lists: dict[str, list[Any]] = {}
        self._arrays: dict[str, pa.Array] = {}
        self._all_read = False
        self._only: type[Event] | None = None
        if len(types) == 1:
            self._only = only = FULL_KIND[next(iter(types))]
            self.kind = np.full(len(events), _KIND_CODE[only], dtype=np.int64)
            self._all_read = issubclass(only, CallEvent)
            if self._all_read:
                self._lists = read_fields(events)
        else:
            code = {struct: _KIND_CODE[FULL_KIND[struct]] for struct in types}
            self.kind = np.fromiter((code[type(event)] for event in events), np.int64, len(events))

    def read(self, field: str) -> list[Any]:
        """A field of every event; None where the kind has none such."""
        found = self._lists.get(field)
        if found is None:
            if self._all_read:
                return [None] * len(self._events)
            found = self._lists[field] = [getattr(event, field, None) for event in self._events]
        return found

    def numbers(self, field: str, otherwise: int = 0) -> NDArray[np.int64]:
        """A field of integers; ``otherwise`` where an event has none."""
        array = self._arrays.get(field)
        if array is None:
            values = self.read(field)
            if None in values:
                values = [otherwise if value is None else value for value in values]
                return np.array(values, dtype=np.int64)
            array = self._arrays[field] = pa.array(values, pa.int64())
        numbers: NDArray[np.int64] = array.to_numpy()
        return numbers

    def strings(self, field: str) -> pa.Array:
        """A field of text."""
        array = self._arrays.get(field)
        if array is None:
            array = self._arrays[field] = _strings(self.read(field))
        return array

    def by_kind(self) -> Iterator[tuple[type[Event], NDArray[np.int64], list[Any]]]:
        """The events of each kind, with their places."""
        if self._only is not None:
            yield self._only, np.arange(len(self._events)), self._events
            return
        for struct, code in _KIND_CODE.items():
            at = np.flatnonzero(self.kind == code)
            if len(at):
                yield struct, at, [self._events[i] for i in at.tolist()]

    def of(
        self, struct: type[CallEvent], events: list[CallEvent]
    ) -> tuple[dict[str, list[Any]], dict[str, pa.Array]]:
        """All fields of the events of one kind, and those of them that are arrays already."""
        return (self._lists, self._arrays) if self._only is struct else (read_fields(events), {})


def _strings(values: list[str]) -> pa.Array:
    if values[0] == values[-1] and values.count(values[0]) == len(values):
        return pa.repeat(pa.scalar(values[0], pa.string()), len(values))
    return pa.array(values, pa.string())


def _in_full(event: Event) -> Event:
    """An event as the contract's own struct, with every field of its kind."""
    kind = FULL_KIND[type(event)]
    return event if type(event) is kind else kind(**asdict(event))


def _normalise_usage(event: Event) -> Reject | None:
    """Read the provider's own usage object into the event's counts, unless it has counts already."""
    if not isinstance(event, Outcome) or event.provider_usage is None or event.input_tokens is not None:
        return None
    try:
        usage = read_usage(event.provider, event.provider_usage, event.model)
    except UsageError as error:
        return Reject("invalid_usage", str(error))
    for name in usage.__struct_fields__:
        value = getattr(usage, name)
        if value is not None:
            setattr(event, name, value)
    return None


def _texts(lists: dict[str, list[Any]]) -> list[Text]:
    call_ids = lists["call_id"]
    nothing = [None] * len(call_ids)
    before, after = lists.get("input_text", nothing), lists.get("output_text", nothing)
    if before.count(None) == after.count(None) == len(call_ids):
        return []
    return [
        Text(call_id, started_at_ms, asked, answered)
        for call_id, started_at_ms, asked, answered in zip(
            call_ids, lists["started_at_ms"], before, after, strict=True
        )
        if asked is not None or answered is not None
    ]
