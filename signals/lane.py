"""A lane: one partition of the events topic, records in, rows out.

A plain object without I/O or clock. Records are fed in offset order; they are decoded in slices of
about a thousand events and aggregated by chunk (:mod:`signals.chunk`). ``flush`` gives the rows of
everything fed so far. What may be acknowledged, and when, is the caller's business
(``streams.partition``); the lane says which chunks are complete.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct
from numpy.typing import NDArray

from gatewatch.events import (
    Evaluation,
    Feedback,
    Reject,
    Resource,
    decode_record,
)
from gatewatch.price_ledger import PriceLedger, package_ledger
from signals.chunk import FAMILIES, WINDOW_S, Chunk, ChunkTotals, Measured
from signals.column import CallBatch
from signals.cost import costs_by_version
from signals.decoder import KIND_NAMES, Piece, decode_values
from signals.sequence import SequenceRanges

__all__ = ["DeadLetter", "Lane", "LaneRows", "Rules"]

_SLICE_BYTES: Final = 512 * 1024
_NEWLINE: Final = ord("\n")


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
    records: int
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
    prices
        The ledger of prices, by default the package's without contracts. An event is priced by the version of
        the time at which its record was appended. Whoever feeds records makes sure before that all versions
        that may hold for them are known.
    """

    def __init__(
        self,
        source: int,
        start: int,
        rules: Rules,
        closed_until_s: int = 0,
        prices: PriceLedger | None = None,
    ) -> None:
        self.source = source
        self.rules = rules
        self._closed_until_s = closed_until_s
        self._prices = prices or package_ledger()
        floor = start - start % rules.chunk_records
        self.headless = start != floor
        self.through = start - 1
        self._open = _Open(floor, self.headless, rules)
        self._pending: list[tuple[int, int, bytes]] = []
        self.pending_bytes = 0
        self.lines = 0
        """So many lines were fed since the beginning, rejects and blank ones included."""
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
        self._records = 0
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
        value = value or b""
        self._pending.append((offset, appended_ms, value))
        self.pending_bytes += len(value)
        # Not when they are decoded: a flush decodes what is pending of all lanes at once, and two bytes can
        # be a line that takes hundreds. Comparing is five times as fast as ``bytes.count``.
        self.lines += 1 + int(np.count_nonzero(np.frombuffer(value, dtype=np.uint8) == _NEWLINE))
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
            records=self._records,
            events=self._events,
            rejected=len(self._dead),
            calls=self._calls,
            texts=self._texts,
            placed=self._placed,
            dead_letters=sorted(self._dead, key=lambda letter: (letter.offset, letter.line)),
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
        self._records += len(pending)
        open_.last_offset = pending[-1][0]
        open_.appended_to_ms = max(open_.appended_to_ms, max(record[1] for record in pending))
        for offset, appended_ms, value in pending:
            if not value or value.isspace():
                (reject,) = decode_record(value)
                assert isinstance(reject, Reject)
                self._dead_letter(offset, 0, appended_ms, reject, value)
        offsets = [record[0] for record in pending]
        appended = np.array([record[1] for record in pending], dtype=np.int64)
        for piece in decode_values([record[2] for record in pending]):
            for record, line, value, reject in piece.rejects:
                self._dead_letter(offsets[record], line, int(appended[record]), reject, value)
            if len(piece):
                self._take(piece, appended[piece.record], offsets)

    def _dead_letter(self, offset: int, line: int, appended_ms: int, reject: Reject, value: bytes) -> None:
        self._dead.append(DeadLetter(offset, line, appended_ms, reject.reason, reject.detail, value))
        self._open.rejected.append((reject.reason, appended_ms))

    def _take(self, piece: Piece, appended: NDArray[np.int64], offsets: list[int]) -> None:
        """Take decoded events, of records that were appended then and stand at ``offsets``."""
        open_ = self._open
        open_.seq.append(_numbers(piece, "seq"))
        open_.emitter.append(_strings(piece, "emitter_id"))
        refused = self._impossible_times(piece, appended) | piece.refused
        accepted = np.ones(len(piece), dtype=np.bool_)
        open_.accepted.append(accepted)
        if refused:
            # They did arrive, so their numbers stay: a refused event is no gap.
            accepted[list(refused)] = False
            for row in sorted(refused):
                line, value = piece.line(row)
                self._dead_letter(offsets[piece.record[row]], line, int(appended[row]), refused[row], value)
            piece, appended = piece.take(accepted), appended[accepted]
            if not len(piece):
                return
        n = len(piece)
        self._events += n
        open_.kind.append(piece.kind)
        open_.at.append(_numbers(piece, "at_ms"))
        open_.appended.append(appended)
        open_.gateway.append(_strings(piece, "gateway"))
        calls = np.ones(n, dtype=np.bool_)
        self._texts.extend(_texts(piece))
        for row, event in piece.placed.items():
            calls[row] = False
            self._placed.append(Placed(offsets[piece.record[row]], piece.line(row)[0], event))
        position = np.arange(open_.positions, open_.positions + n)
        if calls.all():
            open_.calls.add(piece, position)
        elif calls.any():
            open_.calls.add(piece.take(calls), position[calls])
        open_.positions += n

    def _impossible_times(self, piece: Piece, appended: NDArray[np.int64]) -> dict[int, Reject]:
        """Events, by row, whose times cannot be, seen from when they reached the broker."""
        refused: dict[int, Reject] = {}
        at = _numbers(piece, "at_ms")
        started = _numbers(piece, "started_at_ms")
        earliest = np.where(started < 0, at, np.minimum(at, started))
        old = earliest < appended - self.rules.max_age_ms
        ahead = np.maximum(at, started) > appended + self.rules.max_skew_ms
        if old.any() or ahead.any():
            for row in np.flatnonzero(old).tolist():
                days = self.rules.max_age_ms / 86_400_000
                refused[row] = Reject(
                    "event_too_old",
                    f"the event's time is more than {days:g} days before it reached the broker; "
                    "check the gateway's clock and that times are milliseconds since 1970",
                )
            for row in np.flatnonzero(ahead).tolist():
                refused[row] = Reject(
                    "event_in_future",
                    f"the event's time is more than {self.rules.max_skew_ms / 1000:g} s after it reached the "
                    "broker; check the gateway's clock and that times are milliseconds since 1970",
                )
        return refused

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
        if table is not None:
            appended = np.concatenate(open_.appended)[table["position"].to_numpy()]
            for name, column in costs_by_version(table, appended, self._prices).items():
                table = table.append_column(name, column)
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
                    kinds=KIND_NAMES,
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


def _numbers(piece: Piece, field: str) -> NDArray[np.int64]:
    """A field of integers; -1 where an event has none."""
    numbers = piece.numbers.get(field)
    if numbers is None:
        return np.full(len(piece), -1, dtype=np.int64)
    return np.where(numbers.present, numbers.values, -1)


def _strings(piece: Piece, field: str) -> pa.Array:
    """A field of text."""
    strings = piece.texts.get(field)
    return pa.repeat(pa.scalar("", pa.string()), len(piece)) if strings is None else strings


def _texts(piece: Piece) -> list[Text]:
    """The texts of events, where somebody asked for them to be sent."""
    asked, answered = piece.texts.get("input_text"), piece.texts.get("output_text")
    if asked is None and answered is None:
        return []
    nothing = pa.nulls(len(piece), pa.string())
    asked, answered = nothing if asked is None else asked, nothing if answered is None else answered
    said = pc.or_(asked.is_valid(), answered.is_valid())
    columns = (piece.texts["call_id"], pa.array(_numbers(piece, "started_at_ms")), asked, answered)
    return list(map(Text, *(column.filter(said).to_pylist() for column in columns)))
