"""The emitter: from a gateway's process to Kafka, without the gateway noticing.

``emit()`` stamps, encodes and queues one event, a few microseconds of work in the caller's
thread. A background thread cuts the queue into records of many events and hands these to a
Kafka producer. What a gateway can rely on:

* ``emit()`` never blocks on I/O and never raises, whatever the broker does.
* Memory is bounded, in events and in bytes, over everything not yet acknowledged.
* What does not fit is dropped, the newest first, and counted exactly, by reason.
* Every event gets the next ``seq`` of its ``emitter_id``, also one that is then dropped. So
  a reader of the topic can tell apart counted drops, losses and duplicates.
* A forked child starts with an empty queue and an ``emitter_id`` of its own; what was queued
  at the fork is sent by the parent.

It is not a general Kafka client, and it never sends an event twice of its own accord: a
record that the broker did not acknowledge in ``delivery_timeout_s`` is counted as
``expired``, since sending it again could store it twice.

The shape is that of OpenTelemetry's batch processor, except that the newest events are
dropped instead of the oldest: what was accepted keeps its place, and an outage leaves one
gap at its end instead of many in the history before it.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import itertools
import logging
import os
import queue
import random
import secrets
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Self, Unpack

import msgspec

from gatewatch.call import CallOptions, OpenCall
from gatewatch.events import EVENTS_TOPIC, LIMITS, Event, Resource

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["DROP_REASONS", "Emitter"]

DROP_REASONS: Final = ("queue_full", "invalid", "expired", "refused", "closed")
"""Why an event was not delivered.

``queue_full``: too many events or bytes wait for the broker. ``invalid``: the event holds a
value that JSON cannot carry, or is too large for a record. ``expired``: sent, but not
acknowledged in time; it may or may not have arrived. ``refused``: the broker said no for
good. ``closed``: emitted after ``close()``, or still waiting when ``close()`` ran out of time.
"""

RECORD_BYTES_MAX: Final = 1_000_000
"""Largest record: Kafka's default ``max.message.bytes`` is 1,048,588, batch overhead included."""

REPORT_INTERVAL_S: Final = 60.0
"""An emitter that has dropped anything says so this often."""

PARK_AFTER_S: Final = 1.0
"""An emitter with nothing to do stops looking at its queue after this long, until woken."""

_log = logging.getLogger("gatewatch.emitter")


class Emitter:
    """Sends events to Kafka from a background thread.

    Safe to use from many threads, from ``asyncio``, from signal handlers and from destructors.
    The broker may be down when an emitter is made, and may come and go after that.

    Parameters
    ----------
    bootstrap
        ``host:port`` of one or more brokers, separated by commas.
    gateway
        The gateway, or its instance, region or cluster; fills ``event.gateway`` where empty.
    environment
        ``production``, ``staging``, ...; fills ``event.environment`` where empty.
    topic
        Where events go.
    batch_events
        At most so many events in one record, 1 to 500.
    batch_bytes
        At most so many bytes in one record; one larger event gets a record of its own.
    linger_ms
        How long an event may wait for others to fill its record.
    queue_events, queue_bytes
        At most so many events and bytes of JSON are held until the broker acknowledges them.
        What is emitted beyond is dropped and counted.
    inflight_bytes
        Share of ``queue_bytes`` that may be in the Kafka client's hands.
    delivery_timeout_s
        A record that is not acknowledged so long after it was handed to the Kafka client
        counts as ``expired``. Events still in the queue do not expire.
    close_timeout_s
        How long the end of the process may wait for what is queued.
    compression
        ``None``, ``"gzip"``, ``"lz4"``, ``"zstd"`` or ``"snappy"``, as far as installed here and at
        every reader of the topic. ``"auto"`` is none, or gzip where the package crc32c is missing:
        the Kafka client's own checksum in Python costs 75 us an event, five times gzip's work.
    kafka
        More options for ``kafka.KafkaProducer``: ``security_protocol``, ``sasl_mechanism``, ...
        What the emitter's promises stand on (``acks``, ``enable_idempotence``) cannot be set.

    Raises
    ------
    ValueError
        A parameter makes no sense. Nothing else is raised, and the network is not touched.

    Examples
    --------
    >>> emitter = Emitter("127.0.0.1:1", gateway="eu-1")
    >>> emitter.queued, emitter.dropped_total
    (0, 0)
    >>> emitter.close(timeout_s=0)
    True
    """

    # Slots lie side by side: emit() often runs with cold caches, and a dictionary of this size
    # costs it several more misses.
    __slots__ = (
        "__weakref__",
        "_accepted",
        "_accepted_bytes",
        "_bell",
        "_closing",
        "_delivered",
        "_dropped_expired",
        "_dropped_invalid",
        "_dropped_late",
        "_dropped_left",
        "_dropped_queue_full",
        "_dropped_refused",
        "_flush_to",
        "_inflight",
        "_lines",
        "_lock",
        "_next_report_s",
        "_next_seq",
        "_parked",
        "_producer",
        "_producer_options",
        "_progress",
        "_records",
        "_room",
        "_room_bytes",
        "_settled",
        "_settled_bytes",
        "_stop",
        "_taken",
        "_thread",
        "_waiters",
        "batch_bytes",
        "batch_events",
        "close_timeout_s",
        "delivery_timeout_s",
        "emitter_id",
        "environment",
        "gateway",
        "inflight_bytes",
        "linger_ms",
        "queue_bytes",
        "queue_events",
        "topic",
    )

    def __init__(
        self,
        bootstrap: str,
        *,
        gateway: str,
        environment: str = "",
        topic: str = EVENTS_TOPIC,
        batch_events: int = 100,
        batch_bytes: int = 256 * 1024,
        linger_ms: float = 50,
        queue_events: int = 100_000,
        queue_bytes: int = 64 * 1024 * 1024,
        inflight_bytes: int = 8 * 1024 * 1024,
        delivery_timeout_s: float = 120,
        close_timeout_s: float = 5,
        compression: str | None = "auto",
        kafka: Mapping[str, Any] | None = None,
    ) -> None:
        if not bootstrap or not isinstance(bootstrap, str):
            raise ValueError('bootstrap must be "host:port" of one or more brokers, separated by commas')
        if not gateway or len(gateway) > 256:
            raise ValueError("gateway must have 1 to 256 characters: it names who speaks")
        if len(environment) > 256:
            raise ValueError("environment must have at most 256 characters")
        _check_between("batch_events", batch_events, 1, 500)
        _check_between("batch_bytes", batch_bytes, 1, RECORD_BYTES_MAX)
        _check_between("linger_ms", linger_ms, 0, 60_000)
        _check_between("queue_events", queue_events, 1, 1 << 40)
        _check_between("queue_bytes", queue_bytes, 1, 1 << 50)
        _check_between("inflight_bytes", inflight_bytes, 1, 1 << 50)
        _check_between("delivery_timeout_s", delivery_timeout_s, 1, 86_400)
        _check_between("close_timeout_s", close_timeout_s, 0, 86_400)
        self.gateway = gateway
        self.environment = environment
        self.topic = topic
        self.batch_events = batch_events
        self.batch_bytes = batch_bytes
        self.linger_ms = linger_ms
        self.queue_events = queue_events
        self.queue_bytes = queue_bytes
        self.inflight_bytes = inflight_bytes
        self.delivery_timeout_s = delivery_timeout_s
        self.close_timeout_s = close_timeout_s
        self._producer_options = _producer_options(bootstrap, delivery_timeout_s, compression, kafka or {})
        self._begin()
        _emitters.add(self)
        self._start_thread()

    def _begin(self) -> None:
        """Everything that a forked child must have of its own."""
        self.emitter_id: str = secrets.token_hex(8)
        """Names this emitter in this process: a fork gets another one."""
        self._lock = threading.RLock()
        self._progress = threading.Condition(threading.Lock())
        # SimpleQueue.put may be called again while it runs (signal handlers, destructors); the
        # lock inside threading.Event may not.
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._next_seq = itertools.count()
        self._lines: deque[bytes] = deque()
        self._records: dict[int, _Record] = {}
        """Handed to the Kafka client and not settled, by number, in order."""
        # Numbers and bytes of events, all since the start. An event is accepted or dropped, then
        # taken out of the queue, then settled: acknowledged or dropped.
        self._accepted: int = 0
        self._accepted_bytes: int = 0
        self._taken: int = 0
        self._settled: int = 0
        self._settled_bytes: int = 0
        self._delivered: int = 0
        self._room: int = self.queue_events
        """Accept events while fewer than this were accepted: settled ones make room."""
        self._room_bytes: int = self.queue_bytes
        self._inflight: int = 0
        """Bytes in the Kafka client's hands."""
        self._dropped_queue_full: int = 0
        self._dropped_invalid: int = 0
        self._dropped_expired: int = 0
        self._dropped_refused: int = 0
        self._dropped_late: int = 0
        """Emitted after close()."""
        self._dropped_left: int = 0
        """Still waiting when close() ran out of time."""
        self._flush_to: int = 0
        self._waiters: int = 0
        self._closing: bool = False
        self._stop: bool = False
        self._parked: bool = False
        self._thread: threading.Thread | None = None
        self._producer: Any = None
        self._next_report_s = time.monotonic() + REPORT_INTERVAL_S

    # ------------------------------------------------------------------ what a gateway calls

    def emit(self, event: Event) -> None:
        """Queue one event. Never blocks, never raises; what cannot be queued is counted.

        The event itself is not changed and may be used again. ``gateway``, ``environment``
        and ``at_ms`` are filled where empty; ``emitter_id`` and ``seq`` are always this
        emitter's.
        """
        seq = next(self._next_seq)
        line = b""
        try:
            stamped: Event = event.__copy__()  # type: ignore[union-attr]  # msgspec's stubs leave it out
            stamped.emitter_id = self.emitter_id
            stamped.seq = seq
            if not stamped.gateway:
                stamped.gateway = self.gateway
            if not stamped.environment:
                stamped.environment = self.environment
            if not stamped.at_ms:
                stamped.at_ms = time.time_ns() // 1_000_000
            line = _encode(stamped)
        except Exception:  # noqa: S110
            pass  # Not logged: the message could quote a prompt. An empty line is counted as invalid.
        size = len(line)
        # Reentrant, because a signal handler or a destructor may emit while this thread is here.
        # No call stands between reading a number and writing it, so that such an inner emit(),
        # which comes within a call if at all, finds the numbers whole.
        with self._lock:
            accepted_bytes = self._accepted_bytes + size
            if self._accepted < self._room and accepted_bytes <= self._room_bytes and 0 < size <= _LINE_BYTES:
                self._accepted += 1
                self._accepted_bytes = accepted_bytes
                self._lines.append(line)
            elif not 0 < size <= _LINE_BYTES:
                self._dropped_invalid += 1
            elif self._closing:
                self._dropped_late += 1
            else:
                self._dropped_queue_full += 1
        if self._parked:
            self._wake_up()

    def call(self, **options: Unpack[CallOptions]) -> OpenCall:
        """Describe one inference call from its start to its end.

        Use it in a ``with`` or ``async with`` block: it measures the time, reads usage and
        outcome from what is given to ``finish()`` or passes through ``stream()``, records an
        exception that leaves the block, and emits one event at the end.

        Parameters
        ----------
        options
            ``provider`` and ``model``, and what else of :class:`gatewatch.call.CallOptions` is known.

        Raises
        ------
        TypeError
            There is no such field.
        """
        return OpenCall(self.emit, options)

    def flush(self, timeout_s: float = 10) -> bool:
        """Wait until the broker has what was emitted before this call.

        Returns
        -------
        True when all of it was acknowledged; False when time ran out or some of it was dropped
        on the way.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            target = self._accepted
            failed = self._failed
            self._flush_to = target
        self._wake_up()
        with self._progress:
            self._waiters += 1
            try:
                while self._settled_upto() < target:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return False
                    self._progress.wait(left)
            finally:
                self._waiters -= 1
        return self._failed == failed

    @property
    def _failed(self) -> int:
        """Accepted events that were dropped later."""
        return self._dropped_expired + self._dropped_refused + self._dropped_left

    def close(self, timeout_s: float = 10) -> bool:
        """Send what is queued, then stop. Later ``emit()`` calls are dropped and counted.

        Returns
        -------
        True when everything that was queued has been acknowledged. What has not been when
        time is up is counted as dropped, so that afterwards
        ``emitted_total == delivered_total + dropped_total``.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            first = not self._closing
            self._closing = True
            self._room = -1  # so that emit() need not ask whether it is closed
            if first and self.dropped_total:
                self._append_report()
        delivered = self.flush(timeout_s)
        self._abandon()
        self._bell.put(None)
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.1, deadline - time.monotonic()))
        producer, self._producer = self._producer, None
        if producer is not None:
            _shut(producer, force=not delivered)
        return delivered

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ what it counts

    @property
    def emitted_total(self) -> int:
        """Calls of ``emit()``, and the emitter's own reports: the next ``seq``."""
        with self._lock:
            return self._accepted + self._dropped_queue_full + self._dropped_invalid + self._dropped_late

    @property
    def delivered_total(self) -> int:
        """Events that the broker has acknowledged."""
        return self._delivered

    @property
    def dropped_total(self) -> int:
        """Events that were not delivered, for whatever reason."""
        with self._lock:
            return sum(self.dropped_by_reason.values())

    @property
    def dropped_by_reason(self) -> dict[str, int]:
        """Events that were not delivered, by :data:`DROP_REASONS`."""
        with self._lock:
            return {
                "queue_full": self._dropped_queue_full,
                "invalid": self._dropped_invalid,
                "expired": self._dropped_expired,
                "refused": self._dropped_refused,
                "closed": self._dropped_late + self._dropped_left,
            }

    @property
    def queued(self) -> int:
        """Events that were accepted and are neither acknowledged nor dropped yet."""
        with self._lock:
            return self._accepted - self._settled

    @property
    def queued_bytes(self) -> int:
        """Bytes of JSON of these events."""
        with self._lock:
            return self._accepted_bytes - self._settled_bytes

    # ------------------------------------------------------------------ one process's state

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name="gatewatch-emitter", daemon=True)
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:
            # No more threads, or the interpreter is going down: the next emit() tries again.
            self._thread = None
            self._parked = True

    def _begin_in_child(self) -> None:
        """Called in a forked child, where this is the only thread and no lock can be trusted."""
        producer, closed = self._producer, self._closing
        if producer is not None:
            # Its threads stayed in the parent, so closing it, which its destructor and its exit
            # hook do, would wait for nothing. It must only forget.
            producer._closed = True
            with contextlib.suppress(Exception):
                producer._unregister_cleanup()
        self._begin()
        self._closing = self._stop = closed
        if closed:
            self._room = -1
        # A child that never emits needs no thread: the first emit() finds this and starts one.
        self._parked = not closed

    def _wake_up(self) -> None:
        self._parked = False
        if self._thread is None and not self._stop:
            with self._lock:
                if self._thread is None:
                    self._start_thread()
        self._bell.put(None)

    def _settled_upto(self) -> int:
        """Accepted events up to which all are acknowledged or dropped."""
        with self._lock:
            for record in self._records.values():
                return record.first
            return self._taken

    def _append_report(self) -> None:
        """Say in the stream what was dropped, so that the pipeline need not call it lost.

        One small event beyond the queue's bound: it must get through when the queue is full.
        """
        with self._lock:
            line = _encode(
                Resource(
                    at_ms=time.time_ns() // 1_000_000,
                    gateway=self.gateway,
                    environment=self.environment,
                    emitter_id=self.emitter_id,
                    seq=next(self._next_seq),
                    resource="emitter",
                    emitter_dropped_total=self.dropped_total,
                    emitter_queued=self.queued,
                )
            )
            self._accepted += 1
            self._accepted_bytes += len(line)
            self._lines.append(line)

    # ------------------------------------------------------------------ the background thread

    def _run(self) -> None:
        """Cut the queue into records until told to stop.

        It looks twice in ``linger_ms`` and is not woken in between: waking a thread costs the
        caller more than emit() itself. Full records go at once, and what was already there at
        the last look goes in any case.
        """
        look_s = max(0.001, self.linger_ms / 2_000)
        producer = self._connect()
        idle_since = time.monotonic()
        seen = refused = 0
        while producer is not None and not self._stop:
            now = time.monotonic()
            if self._dropped_refused != refused:
                refused = self._dropped_refused
                if _is_beyond_repair(producer):
                    _shut(producer, force=True)
                    self._listen(1.0)
                    producer = self._connect()
                    continue
            if now >= self._next_report_s:
                self._next_report_s = now + REPORT_INTERVAL_S
                if self.dropped_total and not self._closing:
                    self._append_report()
            if self._lines or self._records:
                idle_since = now
            elif now - idle_since >= PARK_AFTER_S:
                self._park(self._next_report_s - now if self.dropped_total else None)
                idle_since = time.monotonic()
            while not self._stop and self._has_record(seen):
                if self._inflight >= self.inflight_bytes:
                    self._listen(look_s / 5)
                    continue
                record = self._take()
                if record is not None:
                    self._send(producer, record)
            seen = self._accepted
            self._listen(look_s)

    def _has_record(self, seen: int) -> bool:
        """Whether to send a record now: a full one, or one that waits long enough or is flushed."""
        waiting = len(self._lines)
        return waiting >= self.batch_events or (waiting > 0 and self._taken < max(seen, self._flush_to))

    def _listen(self, timeout_s: float | None) -> None:
        """Sleep until the bell rings or time is up."""
        with contextlib.suppress(queue.Empty):
            self._bell.get(timeout=timeout_s)
            while True:
                self._bell.get_nowait()

    def _park(self, timeout_s: float | None) -> None:
        """Sleep until somebody emits. The order matters: announce, look again, then sleep."""
        self._parked = True
        if not self._lines and not self._stop:
            self._listen(timeout_s)
        self._parked = False

    def _take(self) -> _Record | None:
        """The next record's worth of lines, in the order of the queue. None when all is over.

        Only this thread takes lines, and a deque's ends are atomic: callers of ``emit()`` need
        not be kept out meanwhile.
        """
        lines = self._lines
        take = lines.popleft
        taken = [take() for _ in range(min(self.batch_events, len(lines)))]
        value = b"\n".join(taken)
        if len(value) > self.batch_bytes and len(taken) > 1:
            # Rare, so measured afterwards: large events make a shorter record.
            size = -1
            for fit, line in enumerate(taken):
                size += 1 + len(line)
                if fit and size > self.batch_bytes:
                    lines.extendleft(reversed(taken[fit:]))
                    del taken[fit:]
                    value = b"\n".join(taken)
                    break
        with self._lock:
            if self._stop:
                return None
            record = _Record(self._taken, len(taken), len(value) - len(taken) + 1, value)
            self._records[record.first] = record
            self._taken += record.events
            self._inflight += record.bytes
        return record

    def _send(self, producer: Any, record: _Record) -> None:
        """Hand one record to the Kafka client, trying until it takes it or we must stop."""
        from kafka.errors import KafkaTimeoutError

        value, record.value = record.value, b""
        while not self._stop:
            try:
                # As a memoryview, because the client's debug log writes repr(value).
                future = producer.send(self.topic, value=memoryview(value))
            except KafkaTimeoutError as error:
                # No metadata yet: nothing was queued in the client, so trying again is safe.
                self._warn("the topic cannot be reached", error)
                continue
            except Exception as error:
                self._warn("a record was refused", error)
                self._settle(record, "refused")
                return
            future.add_callback(self._on_delivered, record)
            future.add_errback(self._on_failed, record)
            return

    def _connect(self) -> Any:
        """A Kafka producer, as soon as there is a broker. None when told to stop before."""
        from kafka import KafkaProducer

        backoff_s = 0.1
        while not self._stop:
            try:
                self._knock()
                producer = KafkaProducer(**self._producer_options)
            except Exception as error:
                self._warn("no broker yet", error)
                self._listen(backoff_s * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
                backoff_s = min(backoff_s * 2, 5.0)
            else:
                _close_before_kafka()
                if self._adopt(producer):
                    return producer
                _shut(producer, force=True)
        return None

    def _knock(self) -> None:
        """See whether a broker listens before a client is made.

        kafka-python logs an error for each try: a gateway without its broker should not shout.

        Raises
        ------
        OSError
            Nobody listens.
        """
        if self._producer_options["proxy_url"] != _DIRECT:
            return  # what cannot be reached directly may be reached through the proxy
        failure = OSError("no bootstrap server")
        for server in self._producer_options["bootstrap_servers"]:
            host, _, port = server.rpartition(":") if ":" in server else (server, "", "9092")
            try:
                with socket.create_connection((host.strip("[]"), int(port)), timeout=1):
                    return
            except OSError as error:
                failure = error
        raise failure

    def _adopt(self, producer: Any) -> bool:
        """Whether the emitter still wants a producer: close() may have come first."""
        with self._lock:
            if not self._stop:
                self._producer = producer
            return not self._stop

    # ------------------------------------------------------------------ the Kafka client's thread

    def _on_delivered(self, record: _Record, _: object) -> None:
        self._settle(record, None)

    def _on_failed(self, record: _Record, error: BaseException) -> None:
        from kafka.errors import IllegalStateError, KafkaTimeoutError, RetriableError

        if self._stop and isinstance(error, IllegalStateError):
            return  # forced to close: counted when that was decided
        if isinstance(error, KafkaTimeoutError | RetriableError):
            self._warn("a record was not acknowledged in time", error)
            self._settle(record, "expired")
        else:
            self._warn("the broker refused a record", error)
            self._settle(record, "refused")

    def _settle(self, record: _Record, dropped: str | None) -> None:
        """Account for a record's end, once."""
        with self._lock:
            if self._records.pop(record.first, None) is None:
                return
            self._settled += record.events
            self._settled_bytes += record.bytes
            if not self._closing:
                self._room = self._settled + self.queue_events
            self._room_bytes = self._settled_bytes + self.queue_bytes
            self._inflight -= record.bytes
            if dropped is None:
                self._delivered += record.events
            elif dropped == "expired":
                self._dropped_expired += record.events
            else:
                self._dropped_refused += record.events
        if self._waiters:
            with self._progress:
                self._progress.notify_all()

    def _abandon(self) -> None:
        """Stop: what has not been settled by now is dropped, and counted."""
        with self._lock:
            self._stop = True
            self._records.clear()
            self._dropped_left += self._accepted - self._settled
            self._taken = self._settled = self._accepted
            self._settled_bytes = self._accepted_bytes
            self._inflight = 0
        with self._progress:
            self._progress.notify_all()

    def _warn(self, what: str, error: BaseException) -> None:
        """Say what is wrong, at most once a minute for each kind, and never what was being sent."""
        now = time.monotonic()
        key = f"{what} {type(error).__name__}"
        if now - _warned_at_s.get(key, -60.0) >= 60.0:
            _warned_at_s[key] = now
            _log.warning(
                "%s (%s); %d events are waiting, %d were dropped so far",
                what,
                type(error).__name__,
                self.queued,
                self.dropped_total,
            )


class _Record:
    """Events that travel together."""

    __slots__ = ("bytes", "events", "first", "value")

    def __init__(self, first: int, events: int, size: int, value: bytes) -> None:
        self.first = first
        """Number of the first event among the accepted ones; identifies the record."""
        self.events = events
        self.bytes = size
        """Bytes of JSON, without the newlines between the lines."""
        self.value = value


_LINE_BYTES: Final = min(RECORD_BYTES_MAX, LIMITS.line_bytes)
_encode: Final = msgspec.json.Encoder().encode

_FIXED_OPTIONS: Final = {
    "bootstrap_servers": "the first parameter",
    "acks": "always all",
    "enable_idempotence": "always on",
    "transactional_id": "not supported",
    "key_serializer": "records have no key",
    "value_serializer": "values are bytes",
    "compression_type": "use compression=",
    "delivery_timeout_ms": "use delivery_timeout_s=",
}


def _producer_options(
    bootstrap: str, delivery_timeout_s: float, compression: str | None, kafka: Mapping[str, Any]
) -> dict[str, Any]:
    from kafka import KafkaProducer

    for name in kafka:
        if name in _FIXED_OPTIONS:
            raise ValueError(f"kafka option {name} cannot be set: {_FIXED_OPTIONS[name]}")
        if name not in KafkaProducer.DEFAULT_CONFIG:
            raise ValueError(f"kafka option {name} is not one of KafkaProducer's")
    if compression == "auto":
        compression = None
        if importlib.util.find_spec("crc32c") is None:
            compression = "gzip"
            _log.warning(
                "the package crc32c is not installed, so records are compressed to spare checksums "
                "in Python; pip install 'gatewatch[fast]' makes the emitter five times cheaper"
            )
    if compression not in KafkaProducer._COMPRESSORS:
        raise ValueError(f"compression {compression!r} is not known")
    if not KafkaProducer._COMPRESSORS[compression][0]():
        raise ValueError(f"compression {compression!r} needs a library that is not installed")
    _adjust_kafka_client()
    servers = [server.strip() for server in bootstrap.split(",") if server.strip()]
    for server in servers:
        _, colon, port = server.rpartition(":")
        if colon and not port.isdigit():
            raise ValueError(f"bootstrap server {server!r} must be host:port")
    return {
        # A record is a batch of its own or shares one with its neighbours; either way
        # `max.message.bytes` of the broker bounds the batch.
        "batch_size": 512 * 1024,
        "linger_ms": 0,  # events have already waited for each other here
        "max_block_ms": 1_000,
        "bootstrap_timeout_ms": 2_000,
        "request_timeout_ms": int(min(30.0, delivery_timeout_s) * 1_000),
        "reconnect_backoff_max_ms": 2_000,
        "metrics_enabled": False,
        "allow_auto_create_topics": False,
        "proxy_url": _DIRECT,
        **kafka,
        "bootstrap_servers": servers,
        "acks": "all",
        "enable_idempotence": True,
        "compression_type": compression,
        "delivery_timeout_ms": int(delivery_timeout_s * 1_000),
    }


_DIRECT: Final = "gatewatch-direct://"


@functools.cache
def _adjust_kafka_client() -> None:
    """Two things that kafka-python 3.0.12 does not do for us, once for the process."""
    from kafka.net.inet import KafkaNetSocket

    class DirectSocket(KafkaNetSocket):  # type: ignore[misc]  # kafka-python has no types
        """A plain connection, registered as a "proxy" scheme, that closes what does not connect.

        The client's own leaves the socket of each refused connection to the garbage collector:
        one every second or two for as long as the broker is down.
        """

        SCHEMES = (_DIRECT.partition(":")[0],)

        async def sock_connect(self, net: Any, sock: Any, sockaddr: Any, timeout_at: Any = None) -> Any:
            try:
                return await super().sock_connect(net, sock, sockaddr, timeout_at=timeout_at)
            except BaseException:
                sock.close()
                raise

    for name in ("kafka.producer.sender", "kafka.net.connection", "kafka.protocol.parser"):
        logging.getLogger(name).addFilter(_without_records)


def _without_records(entry: logging.LogRecord) -> bool:
    """Keep produce requests out of the client's debug log: they hold what is sent, prompts included."""
    arguments = entry.args if isinstance(entry.args, tuple) else (entry.args,)
    return not any(
        isinstance(argument, dict | bytes | bytearray | memoryview)
        or type(argument).__name__.startswith("ProduceRequest")
        for argument in arguments
    )


def _is_beyond_repair(producer: Any) -> bool:
    """Whether a Kafka client will refuse every further record.

    An idempotent one does after an authorisation failure, for instance, even when that has been
    put right; only a new one recovers.
    """
    state = producer._transaction_manager
    return state is not None and bool(state.has_fatal_error())


def _shut(producer: Any, *, force: bool) -> None:
    """Close a Kafka client; ``force`` when what it still holds was counted as dropped."""
    if force:
        # Without this close() would raise when its time is up, and leave its thread sending.
        producer._sender.force_close()
    with contextlib.suppress(Exception):
        producer.close(timeout=0.5)


def _check_between(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name} must be {low} to {high}")


_warned_at_s: dict[str, float] = {}
_emitters: weakref.WeakSet[Emitter] = weakref.WeakSet()


def _for_each_emitter(action: Callable[[Emitter], object]) -> None:
    for emitter in list(_emitters):
        action(emitter)


def _close_all() -> None:
    """At the end of the process: give every emitter its time to send what is queued."""
    _for_each_emitter(lambda emitter: emitter._closing or emitter.close(emitter.close_timeout_s))


def _close_before_kafka() -> None:
    """Run our exit hook before the Kafka client's, which would close it under our feet.

    Hooks run last in, first out, and the client registers its own when it is made.
    """
    atexit.unregister(_close_all)
    atexit.register(_close_all)


def _begin_all_in_child() -> None:
    _warned_at_s.clear()
    _for_each_emitter(Emitter._begin_in_child)


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_begin_all_in_child)
