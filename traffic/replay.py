"""Sending timed events at their times: pacing, rebasing of times, back-pressure.

Pacing is open loop: an item is due at a moment that does not depend on how fast earlier ones
went, so that a slow receiver shows as lateness (:attr:`Summary.late_max_s`) and never as a lower
load that nobody asked for. Nothing is dropped: where the emitter would drop, the replay waits.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, Self

from msgspec import Struct

from gatewatch.events import EVENTS_TOPIC, Call, CallEvent, Event, Request, encode
from traffic.trace import Timed, TraceError

if TYPE_CHECKING:
    from gatewatch.emitter import Emitter

__all__ = [
    "DrySender",
    "Interruption",
    "KafkaSender",
    "LineSender",
    "Pace",
    "Sender",
    "StalledError",
    "Summary",
    "replay",
]


CLOSE_TIMEOUT_S = 60.0
"""How long the last events of a replay may take to be acknowledged."""

STALL_TIMEOUT_S = 60.0
"""How long a broker may take nothing while a replay waits for room."""


class StalledError(RuntimeError):
    """The broker has taken nothing for too long."""


class Pace(Struct, frozen=True, kw_only=True):
    """When items are sent, and which times they get.

    ========================  ==================================  ===============================
    given                     sent                                event time
    ========================  ==================================  ===============================
    nothing                   at its offset divided by ``speed``  the moment at which it is due
    ``start_ms``              the same                            ``start_ms`` + offset / ``speed``
    ``flat_out``              at once                             the moment of sending
    ``flat_out, start_ms``    at once                             ``start_ms`` + offset / ``speed``
    ``keep_time``             as above                            its own
    ========================  ==================================  ===============================

    Offsets count from the first item unless an origin is given. Durations within an event are never scaled.
    """

    speed: float = 1.0
    """Seconds of the trace that pass in one second."""
    flat_out: bool = False
    start_ms: int | None = None
    keep_time: bool = False


class Summary(Struct, kw_only=True):
    """What a replay did."""

    events: int = 0
    """Events and raw lines given to the sender."""
    raw_lines: int = 0
    """Those of them that were sent as bytes."""
    seconds: float = 0.0
    """From the first item to the last one acknowledged."""
    events_per_s: float = 0.0
    skipped: int = 0
    """Lines of the trace that became no event."""
    dropped: int = 0
    """Events that the emitter gave up; 0 unless the broker failed."""
    delivered: bool = False
    """Whether everything was acknowledged before the sender closed."""
    late_max_s: float = 0.0
    """How far behind its time the latest item was sent; 0 for flat out."""
    ended_by: str = ""
    """Why a trace ended before its end; empty if it did not."""
    first_at_ms: int | None = None
    last_at_ms: int | None = None
    """The smallest and largest event time sent."""


class Sender(Protocol):
    """Where events go."""

    def send(self, event: Event) -> None:
        """Take an event; may wait, never drops."""

    def send_raw(self, line: bytes) -> None:
        """Take the bytes of one line, which may be no event."""

    def flush(self) -> None:
        """Pass on what is held back; called before waiting."""

    def close(self, timeout_s: float) -> bool:
        """Pass on everything; whether all of it arrived."""

    @property
    def dropped_total(self) -> int:
        """How many events were given up."""


class DrySender:
    """Sends nothing; for reading a trace to see what is in it."""

    dropped_total = 0

    def send(self, event: Event) -> None:
        """Encode it, as sending would."""
        encode(event)

    def send_raw(self, line: bytes) -> None:
        """Nothing to do."""

    def flush(self) -> None:
        """Nothing to do."""

    def close(self, timeout_s: float) -> bool:
        """Everything arrived where it should: nowhere."""
        return True


class LineSender:
    """Writes NDJSON to a binary stream."""

    dropped_total = 0

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def send(self, event: Event) -> None:
        """Write the event as a line."""
        self._stream.write(encode(event) + b"\n")

    def send_raw(self, line: bytes) -> None:
        """Write the line as it is."""
        self._stream.write(line + b"\n")

    def flush(self) -> None:
        """Pass the stream's buffer on."""
        self._stream.flush()

    def close(self, timeout_s: float) -> bool:
        """Flush; the stream stays open for its owner."""
        self._stream.flush()
        return True


class KafkaSender:
    """Sends events through an emitter, and raw lines through a plain producer.

    The emitter takes events only, so lines that are none go beside it: up to ``batch_events`` of
    them to a record, as the emitter does.

    Parameters
    ----------
    bootstrap
        The brokers, ``host:port,...``.
    gateway
        The emitter's gateway, for events that name none.
    topic
        Where they go.
    batch_events
        Most events to a record.
    stall_timeout_s
        How long the broker may take nothing before :class:`StalledError`; :data:`STALL_TIMEOUT_S`
        unless given.
    """

    # The queue is looked at this often: a look costs more than an emit.
    _LOOK_EVERY: Final = 64
    # A record of raw lines stays under the broker's default limit of 1 MiB.
    _RAW_BYTES: Final = 900_000
    # kafka-python 3 bounds its memory no longer.
    _RAW_INFLIGHT_BYTES: Final = 8 << 20

    def __init__(
        self,
        bootstrap: str,
        *,
        gateway: str,
        topic: str = EVENTS_TOPIC,
        batch_events: int = 100,
        stall_timeout_s: float | None = None,
    ) -> None:
        from gatewatch.emitter import Emitter

        self._bootstrap = bootstrap
        self._topic = topic
        self._batch_events = batch_events
        self._stall_timeout_s = STALL_TIMEOUT_S if stall_timeout_s is None else stall_timeout_s
        self._emitter: Emitter = Emitter(
            bootstrap,
            gateway=gateway,
            topic=topic,
            batch_events=batch_events,
            # A stall ends the replay before records expire, so that none is lost to a slow broker.
            delivery_timeout_s=2 * self._stall_timeout_s,
        )
        self._sent = 0
        self._producer: Any = None
        self._raw: list[bytes] = []
        self._raw_bytes = 0
        self._raw_dropped_total = 0
        # Each written by one thread only: the caller's, the Kafka client's.
        self._raw_handed_bytes = 0
        self._raw_settled_bytes = 0

    @property
    def emitter_id(self) -> str:
        """The identity under which the events are numbered."""
        return self._emitter.emitter_id

    @property
    def emitted_total(self) -> int:
        """Events that the emitter has numbered, its own reports included."""
        return self._emitter.emitted_total

    @property
    def dropped_total(self) -> int:
        """Events that the emitter gave up, and raw lines that the broker refused."""
        return self._emitter.dropped_total + self._raw_dropped_total

    def send(self, event: Event) -> None:
        """Queue the event; waits while the emitter's queue is more than half full."""
        if self._sent % self._LOOK_EVERY == 0:
            self._wait_for_room()
        self._sent += 1
        self._emitter.emit(event)

    def _wait_for_room(self) -> None:
        emitter = self._emitter
        self._wait_while(
            lambda: (
                emitter.queued > emitter.queue_events // 2 or emitter.queued_bytes > emitter.queue_bytes // 2
            ),
            lambda: emitter.delivered_total,
        )

    def _wait_while(self, full: Callable[[], bool], progress: Callable[[], int]) -> None:
        """Wait for room, as long as there is progress."""
        if not full():
            return
        seen = progress()
        patience = time.monotonic() + self._stall_timeout_s
        while full():
            time.sleep(0.002)
            if progress() != seen:
                seen = progress()
                patience = time.monotonic() + self._stall_timeout_s
            elif time.monotonic() > patience:
                raise StalledError(
                    f"the broker at {self._bootstrap} has taken nothing for {self._stall_timeout_s:g} s; "
                    "see whether it runs with `gatewatch doctor`"
                )

    def send_raw(self, line: bytes) -> None:
        """Hold the line for the next record of raw lines."""
        if self._raw and self._raw_bytes + len(line) + 1 > self._RAW_BYTES:
            self._flush_raw()
        self._raw.append(line)
        self._raw_bytes += len(line) + 1
        if len(self._raw) >= self._batch_events:
            self._flush_raw()

    def flush(self) -> None:
        """Send the raw lines that are held; the emitter has a linger of its own."""
        self._flush_raw()

    def _flush_raw(self) -> None:
        if not self._raw:
            return
        from kafka import KafkaProducer
        from kafka.errors import KafkaError

        if self._producer is None:
            try:
                self._producer = KafkaProducer(
                    bootstrap_servers=[server.strip() for server in self._bootstrap.split(",")],
                    bootstrap_timeout_ms=int(self._stall_timeout_s * 1000),
                    max_block_ms=int(self._stall_timeout_s * 1000),
                    linger_ms=5,
                    allow_auto_create_topics=False,
                )
            except KafkaError:
                raise StalledError(
                    f"no broker answers at {self._bootstrap}; see whether it runs with `gatewatch doctor`"
                ) from None
        lines = len(self._raw)
        value = b"\n".join(self._raw)
        self._raw.clear()
        self._raw_bytes = 0
        self._wait_while(
            lambda: self._raw_handed_bytes - self._raw_settled_bytes > self._RAW_INFLIGHT_BYTES,
            lambda: self._raw_settled_bytes,
        )

        def arrived(_metadata: object) -> None:
            self._raw_settled_bytes += len(value)

        def refused(_error: BaseException) -> None:
            self._raw_settled_bytes += len(value)
            self._raw_dropped_total += lines

        try:
            future = self._producer.send(self._topic, value)
        except KafkaError:
            # Larger than a record may be, or no metadata in the client's own time.
            self._raw_dropped_total += lines
        else:
            self._raw_handed_bytes += len(value)
            future.add_callback(arrived).add_errback(refused)

    def close(self, timeout_s: float) -> bool:
        """Wait until everything is acknowledged, at most ``timeout_s``."""
        end = time.monotonic() + timeout_s
        self._flush_raw()
        raw_arrived = True
        if self._producer is not None:
            from kafka.errors import KafkaError

            try:
                self._producer.flush(timeout=timeout_s)
            except KafkaError:
                raw_arrived = False
            self._producer.close(timeout=max(0.0, end - time.monotonic()))
        arrived = self._emitter.close(max(0.0, end - time.monotonic()))
        return arrived and raw_arrived and self._raw_dropped_total == 0


class Interruption:
    """Makes SIGINT and SIGTERM end a replay, but not between sending an event and counting it.

    A context manager for the main thread. While shielded, the first signal waits; a second one
    does not, so that a sender that hangs can be left.
    """

    def __init__(self) -> None:
        self._shielded = False
        self._asked = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: object) -> None:
        again, self._asked = self._asked, True
        if again or not self._shielded:
            raise KeyboardInterrupt

    def shield(self) -> None:
        """From here on an interruption waits."""
        self._shielded = True

    def unshield(self) -> None:
        """From here on it does not; one that has waited is raised now.

        Raises
        ------
        KeyboardInterrupt
            One has waited.
        """
        self._shielded = False
        if self._asked:
            raise KeyboardInterrupt


class _Clockwork:
    """Gives events new times, so that the parts of a call agree on when it started."""

    # So many calls' starts a flat-out replay remembers; a call with more between its parts starts twice.
    _CALLS_MOST: Final = 200_000

    def __init__(self, pace: Pace, first_s: float, now_s: float) -> None:
        self._speed = pace.speed
        self._first_ms = first_s * 1000
        self._start_ms = now_s * 1000 if pace.start_ms is None else pace.start_ms
        self._by_sending = pace.flat_out and pace.start_ms is None
        self._starts: OrderedDict[str, int] = OrderedDict()

    def _moved(self, at_ms: int) -> int:
        return max(0, round(self._start_ms + (at_ms - self._first_ms) / self._speed))

    def set(self, event: Event, now_ms: int) -> None:
        old_ms = event.at_ms
        event.at_ms = now_ms if self._by_sending else self._moved(old_ms)
        if not isinstance(event, CallEvent):
            return
        if isinstance(event, Call):
            event.started_at_ms = max(0, event.at_ms - (old_ms - event.started_at_ms))
        elif not self._by_sending:
            # One function of the old start, whichever part it is read from.
            event.started_at_ms = self._moved(event.started_at_ms)
        else:
            start_ms = self._starts.get(event.call_id)
            if start_ms is None:
                elapsed_ms = 0 if isinstance(event, Request) else old_ms - event.started_at_ms
                start_ms = max(0, now_ms - elapsed_ms)
                self._starts[event.call_id] = start_ms
                if len(self._starts) > self._CALLS_MOST:
                    self._starts.popitem(last=False)
            event.started_at_ms = start_ms


def replay(
    items: Iterable[Timed],
    sender: Sender,
    pace: Pace,
    *,
    origin_s: float | None = None,
    close_timeout_s: float | None = None,
    on_progress: Callable[[Summary], None] | None = None,
    interruption: Interruption | None = None,
    clock: Callable[[], float] = time.time,
    wait: Callable[[float], None] = time.sleep,
) -> Summary:
    """Send items at their times.

    Parameters
    ----------
    items
        In order of their offsets; one that comes late is sent at once.
    sender
        Closed at the end, also after an interruption.
    pace
        When, and with which times.
    origin_s
        The offset that is due when the replay begins; the first item's unless given.
    close_timeout_s
        How long the last events may take to be acknowledged; :data:`CLOSE_TIMEOUT_S` unless given.
    on_progress
        Called about once a second with the counts so far.
    interruption
        What makes an interruption wait until an event is sent and counted.
    clock, wait
        The time (seconds since 1970) and how to wait some seconds; for tests.

    Returns
    -------
    The counts. A ``KeyboardInterrupt`` ends the replay early and well: what was sent is flushed and counted.

    Raises
    ------
    ValueError
        ``pace.speed`` is not above zero.
    StalledError
        The broker took nothing for too long.
    """
    if not 0 < pace.speed < float("inf"):
        raise ValueError(f"speed must be above zero, got {pace.speed}")
    if close_timeout_s is None:
        close_timeout_s = CLOSE_TIMEOUT_S
    summary = Summary()
    began_s = clock()
    looked_s = began_s
    first_s: float | None = None
    clockwork = _Clockwork(pace, 0.0, began_s)
    try:
        for offset_s, payload in items:
            if first_s is None:
                began_s = looked_s = clock()
                first_s = offset_s if origin_s is None else origin_s
                clockwork = _Clockwork(pace, first_s, began_s)
            # Reading the clock and reporting cost time: flat out, once in 64 events is enough.
            if not pace.flat_out or summary.events % 64 == 0:
                now_s = clock()
                if now_s - looked_s >= 1.0:
                    looked_s = now_s
                    summary.seconds = now_s - began_s
                    summary.events_per_s = summary.events / summary.seconds
                    if on_progress:
                        on_progress(summary)
            if not pace.flat_out:
                due_s = began_s + (offset_s - first_s) / pace.speed
                if due_s > now_s:
                    sender.flush()
                    # In short steps: an interruption is seen soon, and progress moves.
                    while (left_s := due_s - clock()) > 0:
                        wait(min(left_s, 0.5))
                else:
                    summary.late_max_s = max(summary.late_max_s, now_s - due_s)
            if interruption is not None:
                interruption.shield()
            if isinstance(payload, bytes):
                sender.send_raw(payload)
                summary.raw_lines += 1
            else:
                if not pace.keep_time:
                    clockwork.set(payload, round(now_s * 1000))
                at_ms = payload.at_ms
                if summary.first_at_ms is None or summary.last_at_ms is None:
                    summary.first_at_ms = summary.last_at_ms = at_ms
                elif at_ms > summary.last_at_ms:
                    summary.last_at_ms = at_ms
                elif at_ms < summary.first_at_ms:
                    summary.first_at_ms = at_ms
                sender.send(payload)
            summary.events += 1
            if interruption is not None:
                interruption.unshield()
    except KeyboardInterrupt:
        # How a run for ever ends.
        pass
    except TraceError as error:
        summary.ended_by = str(error)
    except BaseException as error:
        # What was taken is still delivered, unless nothing is taken any more.
        with contextlib.suppress(OSError):
            sender.close(0.0 if isinstance(error, StalledError) else close_timeout_s)
        raise
    summary.delivered = sender.close(close_timeout_s)
    summary.dropped = sender.dropped_total
    summary.seconds = max(0.0, clock() - began_s)
    summary.events_per_s = summary.events / summary.seconds if summary.seconds else 0.0
    return summary
