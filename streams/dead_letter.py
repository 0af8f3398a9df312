"""Dead letters: shown with their bytes, and sent again once they are events.

Sent again means once. A letter is marked before it is produced and again after Kafka has it; what lies
between the two marks when a process dies is found out from the topic: every record that is sent again
carries the place of its letter in the header :data:`HEADER`. ``docs/dead-letters.md`` says what that
does and does not promise.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct

from gatewatch.events import Event, Reject, decode_line, encode, split_record
from signals.lane import Lane, Rules
from sinks.clickhouse import Sink
from sinks.dead_letter import (
    SENDING,
    SENT,
    DeadLetterFilter,
    Place,
    StoredLetter,
    find_letters,
    letters_at,
    mark,
    marks_at,
    read_values,
    server_time_ms,
)
from sinks.source import RegisteredSource, registered_sources
from streams.setting import Settings
from streams.source import TopicIdentity, identify
from streams.topic import TopicError, await_listener, describe_error

__all__ = [
    "HEADER",
    "Address",
    "DeadLetterError",
    "DeadLetters",
    "Outcome",
    "Shown",
    "parse_address",
]

HEADER: Final = "gatewatch-replay"
"""Kafka header of a record that was sent again: its letter's ``source/offset/line``."""

_BATCH: Final = 200
"""Letters that are marked, sent and marked again together."""
_SETTLE_MS: Final = 60_000
"""So old must a mark be before somebody else judges whether the record was sent. The producer gives up
after half of it, so nothing is under way any more."""
_DELIVERY_TIMEOUT_MS: Final = 30_000
_CLOCK_MARGIN_MS: Final = 3_600_000
"""Between ClickHouse's clock, which stamps the mark, and Kafka's, which stamps records."""
_KAFKA_TIMEOUT_S: Final = 15.0
_OVERHEAD_BYTES: Final = 512
"""Of a record beside its line."""
_RECORD_BYTES: Final = 1 << 20
"""Kafka's default limit for a record."""

_ADDRESS: Final = re.compile(r"([A-Za-z0-9._-]{1,249})/(\d{1,10})/(\d{1,19})/(\d{1,10})(?:@(\d{1,19}))?")


class DeadLetterError(RuntimeError):
    """It cannot be done; the message says why and what to do."""


class Address(Struct, frozen=True):
    """How people name a letter: ``TOPIC/PARTITION/OFFSET/LINE``.

    ``@SOURCE`` follows where the topic was deleted and made again since, because offsets then started
    over and one address would mean two lines.
    """

    topic: str
    partition: int
    offset: int
    line: int
    source: int | None = None

    def __str__(self) -> str:
        tail = "" if self.source is None else f"@{self.source}"
        return f"{self.topic}/{self.partition}/{self.offset}/{self.line}{tail}"


def parse_address(text: str) -> Address:
    """An address as it is written.

    >>> parse_address("gatewatch.events.v1/3/1024/0").offset
    1024

    Raises
    ------
    ValueError
        It is written in another way.
    """
    match = _ADDRESS.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:300]!r} is no dead letter's id; write TOPIC/PARTITION/OFFSET/LINE")
    topic, partition, offset, line, source = match.groups()
    address = Address(topic, int(partition), int(offset), int(line), None if source is None else int(source))
    if max(address.offset, address.source or 0) >= 1 << 63 or max(address.partition, address.line) >= 1 << 31:
        raise ValueError(f"{text[:300]!r} is no dead letter's id; its numbers are too large")
    return address


class Shown(Struct, frozen=True):
    """A letter with its bytes."""

    address: Address
    reason: str
    detail: str
    appended_ms: int
    size: int
    """Bytes of the line."""
    value: bytes
    """The line; only its beginning where :attr:`missing` says why."""
    missing: str = ""
    """Why there is no more of the line; empty when all of it is here."""
    sent_ms: int = 0
    """When it was sent again; 0 when it was not."""
    is_stored: bool = True
    """Whether the worker has stored it; a record can be shown straight from Kafka as well."""


Result: TypeAlias = Literal["sent", "sent_before", "would_send", "refused", "unknown", "failed"]


class Outcome(Struct, frozen=True):
    """What became of one letter that was to be sent again.

    ``sent``: now. ``sent_before``: an earlier replay that was interrupted had sent it; it is marked now.
    ``would_send``: in a dry run. ``refused``: it was not sent, for ``reason``. ``unknown``: whether it was
    sent cannot be told, so it was not sent. ``failed``: Kafka did not acknowledge it.
    """

    id: str
    result: Result
    reason: str = ""
    detail: str = ""

    @property
    def is_well(self) -> bool:
        """Whether the letter is on its way, as it was asked for."""
        return self.result in ("sent", "sent_before", "would_send")


class _Candidate(Struct):
    address: Address
    letter: StoredLetter
    event: Event | None = None


class DeadLetters:
    """The dead letters of one sink, and the Kafka that their records came from.

    Kafka is asked only where it must be: for lines longer than what is stored, and to send.

    Parameters
    ----------
    sink
        As a user who may read and write the store: views leave the bytes out.
    settings
        Kafka's address, the worker's limits.
    """

    def __init__(self, sink: Sink, settings: Settings) -> None:
        self._sink = sink
        self._kafka = settings.kafka
        self._rules = Rules(
            max_age_ms=int(settings.max_event_age_days * 86_400_000),
            max_skew_ms=int(settings.max_clock_skew_s * 1000),
        )
        self._identities: dict[str, TopicIdentity] = {}
        registered = registered_sources(sink)
        self._sources: dict[int, RegisteredSource] = {source.source: source for source in registered}
        # The last one is what the topic is now; earlier ones are incarnations that were deleted.
        self._newest = {(source.topic, source.partition): source.source for source in registered}

    # -- looking -------------------------------------------------------------------------------

    def address(self, place: Place) -> Address:
        """How people name a place."""
        known = self._sources.get(place.source)
        if known is None:
            raise DeadLetterError(
                f"source {place.source} is not in gatewatch.sources: the store's tables do not belong "
                "together; restore them from one backup"
            )
        newest = self._newest[known.topic, known.partition] == place.source
        return Address(
            known.topic, known.partition, place.offset, place.line, None if newest else place.source
        )

    def place(self, address: Address) -> Place | None:
        """The place that an address names, or None when nothing was ever read there."""
        source = address.source or self._newest.get((address.topic, address.partition))
        known = None if source is None else self._sources.get(source)
        if known is None or (known.topic, known.partition) != (address.topic, address.partition):
            return None
        return Place(known.source, address.offset, address.line)

    def find(
        self, wanted: DeadLetterFilter, *, limit: int | None = None, newest_first: bool = False
    ) -> list[tuple[Address, StoredLetter]]:
        """Stored letters without their bytes.

        Raises
        ------
        SinkError
        DeadLetterError
        """
        letters = find_letters(self._sink, wanted, limit=limit, newest_first=newest_first)
        return [(self.address(letter.place), letter) for letter in letters]

    def show(self, address: Address) -> Shown:
        """A letter with all of its bytes, where they can still be had.

        A line that no worker has stored is read from Kafka and judged here: that is how one looks at
        what a worker refused to go on with.

        Raises
        ------
        DeadLetterError
            There is no such letter.
        SinkError
        """
        place = self.place(address)
        letter = letters_at(self._sink, [place]).get(place) if place is not None else None
        if letter is None:
            return self._show_record(address)
        value, missing = self._body(address, letter)
        return Shown(
            address=address,
            reason=letter.reason,
            detail=letter.detail,
            appended_ms=letter.appended_ms,
            size=letter.size,
            value=value,
            missing=missing,
            sent_ms=letter.marked_ms if letter.state == SENT else 0,
        )

    def _show_record(self, address: Address) -> Shown:
        unknown = f"no dead letter {address} is stored"
        if address.source is not None and address.source != self._newest.get(
            (address.topic, address.partition)
        ):
            raise DeadLetterError(f"{unknown}; letters are kept for 30 days")
        try:
            found = self._record(address)
        except (DeadLetterError, TopicError) as error:
            raise DeadLetterError(f"{unknown}, and its record cannot be read: {error}") from None
        appended_ms, value = found
        lines = split_record(value) or [value]
        if address.line >= len(lines):
            raise DeadLetterError(f"{unknown}; that record has {len(lines)} lines, counted from 0")
        line = lines[address.line]
        reject = self._judge([(line, appended_ms)])[0]
        if not isinstance(reject, Reject):
            raise DeadLetterError(f"{unknown}: that line is a valid event")
        return Shown(address, reject.reason, reject.detail, appended_ms, len(line), line, is_stored=False)

    def _body(self, address: Address, letter: StoredLetter) -> tuple[bytes, str]:
        """A letter's line, and why it is not all of it."""
        stored = read_values(self._sink, [letter.place]).get(letter.place, b"")
        return self._whole(address, letter, stored)

    def _whole(self, address: Address, letter: StoredLetter, stored: bytes) -> tuple[bytes, str]:
        if len(stored) >= letter.size:
            return stored, ""
        cut = f"{len(stored)} of {letter.size} bytes are stored"
        try:
            if self._identity(address.topic).source(address.partition) != letter.place.source:
                return stored, f"{cut}, and the topic was deleted and made again since"
            _, value = self._record(address)
        except (DeadLetterError, TopicError) as error:
            return stored, f"{cut}, and the record cannot be read: {error}"
        lines = split_record(value) or [value]
        line = lines[address.line] if address.line < len(lines) else b""
        if len(line) != letter.size or not line.startswith(stored):
            return stored, f"{cut}, and Kafka holds something else at that place now"
        return line, ""

    # -- Kafka ---------------------------------------------------------------------------------

    def _identity(self, topic: str) -> TopicIdentity:
        if topic not in self._identities:
            self._identities[topic] = identify(self._kafka, topic, _KAFKA_TIMEOUT_S)
        return self._identities[topic]

    def _record(self, address: Address) -> tuple[int, bytes]:
        """A record's append time in milliseconds and its value."""
        if address.partition >= self._identity(address.topic).partitions:
            raise DeadLetterError(f"{address.topic} has no partition {address.partition}")
        with self._reading(address.topic, address.partition) as (consumer, tp, first, end):
            if not first <= address.offset < end:
                raise DeadLetterError(
                    f"Kafka holds offsets {first} to {end - 1} of partition {address.partition}, "
                    f"{address.offset} is not among them"
                    + ("; it has expired" if address.offset < first else "")
                )
            for record in _records(consumer, tp, address.offset, address.offset + 1):
                if record.offset == address.offset:
                    return int(record.timestamp), record.value or b""
        raise DeadLetterError(f"Kafka holds no record at offset {address.offset}")

    @contextlib.contextmanager
    def _reading(self, topic: str, partition: int) -> Iterator[tuple[Any, Any, int, int]]:
        """A consumer of one partition, the first offset that is retained, and the log's end."""
        from kafka import KafkaConsumer, TopicPartition
        from kafka.errors import KafkaError

        if not await_listener(self._kafka, _KAFKA_TIMEOUT_S):
            raise DeadLetterError(f"nothing listens on {self._kafka}; is Kafka running there?")
        tp = TopicPartition(topic, partition)
        try:
            consumer = KafkaConsumer(
                bootstrap_servers=self._kafka.split(","),
                client_id="gatewatch-dead-letters",
                group_id=None,
                enable_auto_commit=False,
                allow_auto_create_topics=False,
                bootstrap_timeout_ms=int(_KAFKA_TIMEOUT_S * 1000),
            )
        except KafkaError as error:
            raise DeadLetterError(f"{self._kafka} does not answer: {describe_error(error)}") from None
        try:
            consumer.assign([tp])
            timeout_ms = int(_KAFKA_TIMEOUT_S * 1000)
            first = int(consumer.beginning_offsets([tp], timeout_ms=timeout_ms)[tp])
            end = int(consumer.end_offsets([tp], timeout_ms=timeout_ms)[tp])
            yield consumer, tp, first, end
        except KafkaError as error:
            raise DeadLetterError(f"{self._kafka} does not answer: {describe_error(error)}") from None
        finally:
            consumer.close()

    # -- sending again -------------------------------------------------------------------------

    def replay(
        self, wanted: Iterable[tuple[str, bytes | None]], *, dry_run: bool = False
    ) -> Iterator[Outcome]:
        """Send letters again, each once.

        A letter goes to the partition that it came from, as a record of its own, numbered by an emitter
        of this replay: the number that the line may have had counts as missing or as arrived already.

        Parameters
        ----------
        wanted
            Ids, each with the line that is sent instead, or None for the line as it is.
        dry_run
            Do everything but send and mark.

        Yields
        ------
        One outcome for each letter, in their order within a batch's kinds.

        Raises
        ------
        DeadLetterError
            Kafka does not work, so the rest is not tried.
        SinkError
            Run it again: what was sent is found out first.
        """
        seen: set[Place] = set()
        run = uuid.uuid4().hex
        numbers: dict[tuple[str, int], int] = {}
        with contextlib.ExitStack() as stack:
            producer: Any = None
            pending = iter(wanted)
            while batch := list(itertools.islice(pending, _BATCH)):
                outcomes, candidates = self._prepare(batch, seen, dry_run)
                yield from outcomes
                if dry_run:
                    yield from (Outcome(str(one.address), "would_send") for one in candidates)
                    continue
                if not candidates:
                    continue
                if producer is None:
                    producer = stack.enter_context(self._producing())
                outcomes = self._send(producer, candidates, run, numbers)
                yield from outcomes
                failed = [outcome for outcome in outcomes if outcome.result == "failed"]
                if failed:
                    raise DeadLetterError(
                        f"Kafka did not acknowledge {len(failed)} letters ({failed[0].detail}), so the rest "
                        f"was not tried. In a minute run the same again: it first finds out what was sent"
                    )

    def _prepare(
        self, batch: Sequence[tuple[str, bytes | None]], seen: set[Place], dry_run: bool
    ) -> tuple[list[Outcome], list[_Candidate]]:
        """What can be sent, and why the rest cannot."""
        outcomes: list[Outcome] = []
        named: list[tuple[Address, Place, bytes | None]] = []
        for text, line in batch:
            try:
                address = parse_address(text)
            except ValueError as error:
                outcomes.append(Outcome(text[:300], "refused", "invalid_id", str(error)))
                continue
            place = self.place(address)
            if place is None:
                outcomes.append(_refused(address, "not_found", "no dead letter with this id is stored"))
            elif place in seen:
                outcomes.append(_refused(address, "named_twice", "the same letter was named before"))
            else:
                seen.add(place)
                named.append((address, place, line))
        letters = letters_at(self._sink, [place for _, place, _ in named])
        own = [place for _, place, line in named if line is None and place in letters]
        values = read_values(self._sink, own) if own else {}
        candidates: list[_Candidate] = []
        lines: list[bytes] = []
        for address, place, line in named:
            letter = letters.get(place)
            if letter is None:
                outcomes.append(_refused(address, "not_found", "no dead letter with this id is stored"))
                continue
            if letter.state == SENT:
                outcomes.append(
                    _refused(
                        address,
                        "already_replayed",
                        f"it was sent again at {_iso(letter.marked_ms)}; a letter is sent again once",
                    )
                )
                continue
            missing = ""
            if line is None:
                line, missing = self._whole(address, letter, values.get(place, b""))
            if missing:
                outcomes.append(_refused(address, "incomplete", missing))
                continue
            candidates.append(_Candidate(address, letter))
            lines.append(line)
        now_ms = time.time_ns() // 1_000_000
        judged = self._judge([(line, now_ms) for line in lines])
        kept: list[_Candidate] = []
        for candidate, found in zip(candidates, judged, strict=True):
            if isinstance(found, Reject):
                outcomes.append(_refused(candidate.address, found.reason, self._explain(found)))
            else:
                candidate.event = found
                kept.append(candidate)
        settled, kept = self._settle(kept, dry_run)
        return outcomes + settled, kept

    def _judge(self, lines: Sequence[tuple[bytes, int]]) -> list[Event | Reject]:
        """What the worker would make of lines that Kafka receives at these times."""
        found: list[Event | Reject] = []
        lane = Lane(0, 0, self._rules)
        for index, (line, appended_ms) in enumerate(lines):
            event = decode_line(line)
            if not isinstance(event, Reject):
                # Encoded again it is one line, whatever white space it had.
                try:
                    encoded = encode(event)
                except RecursionError:
                    event = Reject("nested_too_deep", "the line nests too deep; events are flat objects")
                else:
                    event = _too_large(encoded) or event
                if not isinstance(event, Reject):
                    lane.feed(index, appended_ms, encoded)
            found.append(event)
        rows = lane.flush()
        for letter in rows.dead_letters if rows is not None else ():
            found[letter.offset] = Reject(letter.reason, letter.detail)
        return found

    def _explain(self, reject: Reject) -> str:
        if reject.reason != "event_too_old":
            return reject.detail
        days = self._rules.max_age_ms / 86_400_000
        return (
            f"the event's time is more than {days:g} days ago, and an event is held against the time at "
            "which it reaches Kafka: it cannot be sent again with its own time. Raise "
            "GATEWATCH_MAX_EVENT_AGE_DAYS for the workers and here, or leave it"
        )

    def _settle(self, candidates: list[_Candidate], dry_run: bool) -> tuple[list[Outcome], list[_Candidate]]:
        """Find out what became of letters that were about to be sent when something ended."""
        begun = [one for one in candidates if one.letter.state == SENDING]
        if not begun:
            return [], candidates
        now_ms = server_time_ms(self._sink)
        outcomes: list[Outcome] = []
        kept = [one for one in candidates if one.letter.state != SENDING]
        by_partition: dict[tuple[str, int], list[_Candidate]] = {}
        for one in begun:
            left_ms = one.letter.marked_ms + _SETTLE_MS - now_ms
            if left_ms > 0:
                outcomes.append(
                    _refused(
                        one.address,
                        "being_replayed",
                        f"another replay is sending it, or was interrupted; try again in "
                        f"{left_ms // 1000 + 1} s",
                    )
                )
            else:
                by_partition.setdefault((one.address.topic, one.address.partition), []).append(one)
        found_sent: dict[Place, int] = {}
        for (topic, partition), group in by_partition.items():
            headers, unknown = self._sent_since(topic, partition, group)
            for one in group:
                if _header(one.letter.place) in headers:
                    found_sent[one.letter.place] = SENT
                    outcomes.append(
                        Outcome(
                            str(one.address),
                            "sent_before",
                            detail="an earlier replay that was interrupted had sent it; nothing is sent now",
                        )
                    )
                elif unknown:
                    outcomes.append(Outcome(str(one.address), "unknown", "cannot_tell", unknown))
                else:
                    kept.append(one)
        if not dry_run:
            mark(self._sink, found_sent, now_ms)
        return outcomes, kept

    def _sent_since(self, topic: str, partition: int, group: Sequence[_Candidate]) -> tuple[set[bytes], str]:
        """Headers of what was sent again since the first of the marks.

        Returns
        -------
        The headers, and why they may not be all of them.
        """
        from_ms = max(0, min(one.letter.marked_ms for one in group) - _CLOCK_MARGIN_MS)
        interrupted = "a replay was interrupted while it sent this, and whether Kafka got it cannot be told"
        if {one.letter.place.source for one in group} != {self._identity(topic).source(partition)}:
            return set(), f"{interrupted}: the topic was deleted and made again"
        with self._reading(topic, partition) as (consumer, tp, first, end):
            found = consumer.offsets_for_times({tp: from_ms}, timeout_ms=int(_KAFKA_TIMEOUT_S * 1000))[tp]
            # What is sent again stands behind its letter, whatever the clocks say.
            after = min(one.letter.place.offset for one in group) + 1
            start = max(after, end if found is None else int(found.offset))
            headers = {
                bytes(value)
                for record in _records(consumer, tp, max(start, first), end)
                for key, value in record.headers or ()
                if key == HEADER
            }
        # Retention may have taken records of that time if the first one left is of that time.
        gone = first > after and start <= first
        return headers, f"{interrupted}: Kafka has deleted records of that time" if gone else ""

    @contextlib.contextmanager
    def _producing(self) -> Iterator[Any]:
        from kafka import KafkaProducer
        from kafka.errors import KafkaError

        if not await_listener(self._kafka, _KAFKA_TIMEOUT_S):
            raise DeadLetterError(f"nothing listens on {self._kafka}; is Kafka running there?")
        try:
            # Idempotent, so in order within a partition: what fails leaves no gap in the numbers.
            producer = KafkaProducer(
                bootstrap_servers=self._kafka.split(","),
                client_id="gatewatch-dead-letters",
                acks="all",
                enable_idempotence=True,
                linger_ms=5,
                request_timeout_ms=_DELIVERY_TIMEOUT_MS // 3,
                delivery_timeout_ms=_DELIVERY_TIMEOUT_MS,
                max_block_ms=int(_KAFKA_TIMEOUT_S * 1000),
                bootstrap_timeout_ms=int(_KAFKA_TIMEOUT_S * 1000),
                max_request_size=_RECORD_BYTES,
                allow_auto_create_topics=False,
            )
        except KafkaError as error:
            raise DeadLetterError(f"{self._kafka} does not answer: {describe_error(error)}") from None
        try:
            yield producer
        finally:
            producer.close(timeout=5)

    def _send(
        self,
        producer: Any,
        candidates: Sequence[_Candidate],
        run: str,
        numbers: dict[tuple[str, int], int],
    ) -> list[Outcome]:
        """Mark, send, mark again."""
        from kafka.errors import KafkaError

        for topic in {one.address.topic for one in candidates}:
            try:
                self._identity(topic)
            except TopicError as error:
                raise DeadLetterError(str(error)) from None
        outcomes, claimed = self._claim(candidates)
        futures: list[tuple[_Candidate, Any]] = []
        for one in claimed:
            address = one.address
            where = address.topic, address.partition % self._identity(address.topic).partitions
            try:
                future = producer.send(
                    where[0],
                    value=_stamped(one.event, run, where[1], numbers.get(where, 0)),
                    partition=where[1],
                    headers=[(HEADER, _header(one.letter.place))],
                )
            except KafkaError as error:
                outcomes.append(Outcome(str(address), "failed", "not_sent", describe_error(error)))
            else:
                numbers[where] = numbers.get(where, 0) + 1
                futures.append((one, future))
        sent: dict[Place, int] = {}
        deadline = time.monotonic() + _DELIVERY_TIMEOUT_MS / 1000 + 5
        for one, future in futures:
            try:
                future.get(timeout=max(0.1, deadline - time.monotonic()))
            except KafkaError as error:
                outcomes.append(
                    Outcome(str(one.address), "failed", "not_acknowledged", describe_error(error))
                )
            else:
                sent[one.letter.place] = SENT
                outcomes.append(Outcome(str(one.address), "sent"))
        mark(self._sink, sent, server_time_ms(self._sink))
        return outcomes

    def _claim(self, candidates: Sequence[_Candidate]) -> tuple[list[Outcome], list[_Candidate]]:
        """Mark letters as about to be sent; whoever finds another's mark beside their own leaves it.

        ClickHouse has no compare-and-set. Two replays that mark the same letter within the
        milliseconds between these statements both leave it (then it can be sent in a minute); only a
        merge of the two marks in just that time could hide one from the other.
        """
        places = [one.letter.place for one in candidates]
        before = {(known.place, known.state, known.marked_ms) for known in marks_at(self._sink, places)}
        now_ms = server_time_ms(self._sink)
        mark(self._sink, dict.fromkeys(places, SENDING), now_ms)
        old = {one.letter.place: one.letter.marked_ms for one in candidates}
        others = {
            known.place
            for known in marks_at(self._sink, places)
            # One that came between reading the letter and marking it is as much another's.
            if known.marked_ms not in (now_ms, old[known.place])
            or (known.marked_ms == now_ms and (known.place, known.state, now_ms) in before)
        }
        detail = "another replay began to send it at the same time; try again in a minute"
        return (
            [
                _refused(one.address, "being_replayed", detail)
                for one in candidates
                if one.letter.place in others
            ],
            [one for one in candidates if one.letter.place not in others],
        )


def _records(consumer: Any, tp: Any, start: int, end: int) -> Iterator[Any]:
    """The records of ``[start, end)``; gives up when Kafka stops answering."""
    if start >= end:
        return
    consumer.seek(tp, start)
    deadline = time.monotonic() + _KAFKA_TIMEOUT_S
    while (position := int(consumer.position(tp))) < end:
        for record in consumer.poll(timeout_ms=500).get(tp, []):
            if record.offset < end:
                yield record
        if int(consumer.position(tp)) > position:
            deadline = time.monotonic() + _KAFKA_TIMEOUT_S
        elif time.monotonic() >= deadline:
            raise DeadLetterError(f"Kafka does not send the records from offset {position} on; try again")


def _stamped(event: Event | None, run: str, partition: int, seq: int) -> bytes:
    """An event with a replay's own numbering: one emitter for each partition, so that it has no gaps."""
    assert event is not None
    event.emitter_id = f"replay-{run}-{partition}"
    event.seq = seq
    return encode(event)


def _too_large(encoded: bytes) -> Reject | None:
    if len(encoded) + _OVERHEAD_BYTES <= _RECORD_BYTES:
        return None
    return Reject(
        "record_too_large", f"the line has {len(encoded)} bytes, more than a record takes; shorten it"
    )


def _header(place: Place) -> bytes:
    return f"{place.source}/{place.offset}/{place.line}".encode()


def _refused(address: Address, reason: str, detail: str) -> Outcome:
    return Outcome(str(address), "refused", reason, detail)


def _iso(at_ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_ms / 1000))
