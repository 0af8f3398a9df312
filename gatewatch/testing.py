"""A test double for a gateway's own tests: an emitter that keeps its events in a list.

>>> from gatewatch.testing import RecordingEmitter
>>> emitter = RecordingEmitter()
>>> with emitter.call(provider="openai", model="gpt-4o") as call:
...     call.set(status_code=200)
>>> [event.model for event in emitter.calls]
['gpt-4o']
"""

from __future__ import annotations

import itertools
import threading
import time
from typing import Self, TypeVar, Unpack

from gatewatch.call import CallOptions, OpenCall
from gatewatch.events import EVENTS_TOPIC, Call, Event, Reject, decode_line, encode

__all__ = ["RecordingEmitter"]

_Kind = TypeVar("_Kind")


class RecordingEmitter:
    """Has the surface of :class:`gatewatch.Emitter`, and no Kafka.

    Events are kept as the worker would read them: stamped, encoded and decoded again.

    Unlike the real one, ``emit()`` raises: ``ValueError`` for an event that the worker would
    refuse, ``TypeError`` for one that JSON cannot carry. In a test one wants to know.
    """

    # Nothing waits here, so these are what they are by default in the real one, and bound nothing.
    topic = EVENTS_TOPIC
    batch_events = 100
    batch_bytes = 256 * 1024
    linger_ms: float = 50
    queue_events = 100_000
    queue_bytes = 64 * 1024 * 1024
    inflight_bytes = 8 * 1024 * 1024
    delivery_timeout_s: float = 120
    close_timeout_s: float = 5

    def __init__(self, gateway: str = "test", *, environment: str = "") -> None:
        self.gateway = gateway
        self.environment = environment
        self.emitter_id = "recording"
        self.events: list[Event] = []
        self.closed = False
        self.queued = 0
        self.queued_bytes = 0
        self._dropped = {"queue_full": 0, "invalid": 0, "expired": 0, "refused": 0, "closed": 0}
        self._next_seq = itertools.count()
        self._lock = threading.RLock()

    def emit(self, event: Event) -> None:
        """Keep one event."""
        with self._lock:
            stamped: Event = event.__copy__()  # type: ignore[union-attr]  # msgspec's stubs leave it out
            stamped.emitter_id = self.emitter_id
            stamped.seq = next(self._next_seq)
            stamped.gateway = stamped.gateway or self.gateway
            stamped.environment = stamped.environment or self.environment
            stamped.at_ms = stamped.at_ms or time.time_ns() // 1_000_000
            if self.closed:
                self._dropped["closed"] += 1
                return
            try:
                read = decode_line(encode(stamped))
            except Exception:
                self._dropped["invalid"] += 1
                raise
            if isinstance(read, Reject):
                self._dropped["invalid"] += 1
                raise ValueError(f"the worker would refuse this event: {read.reason}: {read.detail}")
            self.events.append(read)

    def call(self, **options: Unpack[CallOptions]) -> OpenCall:
        """As :meth:`gatewatch.Emitter.call`."""
        return OpenCall(self.emit, options)

    def of(self, kind: type[_Kind]) -> list[_Kind]:
        """The events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def calls(self) -> list[Call]:
        """The ``call`` events, in order."""
        return self.of(Call)

    @property
    def emitted_total(self) -> int:
        """Calls of ``emit()``."""
        return len(self.events) + self.dropped_total

    @property
    def delivered_total(self) -> int:
        """Events that were kept."""
        return len(self.events)

    @property
    def dropped_by_reason(self) -> dict[str, int]:
        """Events that were not kept, by :data:`gatewatch.emitter.DROP_REASONS`."""
        return dict(self._dropped)

    @property
    def dropped_total(self) -> int:
        """Events that were not kept."""
        return sum(self._dropped.values())

    def flush(self, timeout_s: float = 10) -> bool:
        """Nothing waits, so it is always done."""
        return True

    def close(self, timeout_s: float = 10) -> bool:
        """Later events are dropped and counted, as by the real one."""
        self.closed = True
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
