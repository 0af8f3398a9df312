"""The emitter without a broker: bounds, counts, order, threads, signals and forks.

A Kafka client that tests can steer stands where kafka-python's would; the real one and a real
broker are in ``test_emitter_kafka.py``.
"""

from __future__ import annotations

import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import kafka
import msgspec
import pytest
from kafka.errors import ClusterAuthorizationFailedError, KafkaTimeoutError, MessageSizeTooLargeError

import gatewatch.emitter
from gatewatch import Call, Emitter, Event, Resource, decode_record
from gatewatch.emitter import DROP_REASONS

NOWHERE = "127.0.0.1:1"


def call_event(**fields: Any) -> Call:
    values: dict[str, Any] = {"at_ms": 0, "gateway": "", "call_id": "c", "started_at_ms": 1}
    return Call(**(values | {"provider": "p", "model": "m"} | fields))


class Future:
    """What a Kafka client's send() returns, settled by the test; what comes later is told at once."""

    def __init__(self, value: bytes) -> None:
        self.value = value
        self.succeeded = False
        self._callbacks: list[Callable[[], object]] = []
        self._errbacks: list[Callable[[BaseException], object]] = []

    def add_callback(self, action: Callable[..., object], *arguments: object) -> None:
        if self.succeeded:
            action(*arguments, None)
        self._callbacks.append(lambda: action(*arguments, None))

    def add_errback(self, action: Callable[..., object], *arguments: object) -> None:
        self._errbacks.append(lambda error: action(*arguments, error))

    def succeed(self) -> None:
        self.succeeded = True
        for action in self._callbacks:
            action()

    def fail(self, error: BaseException) -> None:
        for action in self._errbacks:
            action(error)


class SteeredProducer:
    """A Kafka client that takes records, and settles them when the test says so."""

    DEFAULT_CONFIG: ClassVar = kafka.KafkaProducer.DEFAULT_CONFIG
    _COMPRESSORS: ClassVar = kafka.KafkaProducer._COMPRESSORS
    made: ClassVar[list[SteeredProducer]] = []
    acknowledge: ClassVar[bool] = True
    send_error: ClassVar[Exception | None] = None

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.futures: list[Future] = []
        self._sender = self._transaction_manager = self
        self.forced = self.closed = self.fatal = False
        SteeredProducer.made.append(self)

    def send(self, topic: str, value: memoryview) -> Future:
        if (error := SteeredProducer.send_error) is not None:
            SteeredProducer.send_error = None
            raise error
        future = Future(bytes(value))
        self.futures.append(future)
        if SteeredProducer.acknowledge:
            future.succeed()
        return future

    def has_fatal_error(self) -> bool:
        return self.fatal

    def force_close(self) -> None:
        self.forced = True

    def close(self, timeout: float | None = None) -> None:
        self.closed = True


@pytest.fixture
def producers(monkeypatch: pytest.MonkeyPatch) -> list[SteeredProducer]:
    monkeypatch.setattr(kafka, "KafkaProducer", SteeredProducer)
    monkeypatch.setattr(Emitter, "_knock", lambda emitter: None)
    monkeypatch.setattr(SteeredProducer, "made", [])
    monkeypatch.setattr(SteeredProducer, "acknowledge", True)
    monkeypatch.setattr(SteeredProducer, "send_error", None)
    return SteeredProducer.made


@pytest.fixture
def emitters() -> Iterator[Callable[..., Emitter]]:
    """Make emitters that are closed at the end of the test."""
    made: list[Emitter] = []

    def make(bootstrap: str = NOWHERE, **options: Any) -> Emitter:
        made.append(Emitter(bootstrap, **({"gateway": "eu-1"} | options)))
        return made[-1]

    yield make
    for emitter in made:
        emitter.close(timeout_s=0)


def wait_until(condition: Callable[[], object], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.002)


def sent(producers: list[SteeredProducer]) -> list[list[Any]]:
    """Events of each record that was handed to the Kafka client."""
    return [decode_record(future.value) for producer in producers for future in producer.futures]


def balanced(emitter: Emitter) -> bool:
    return emitter.emitted_total == emitter.delivered_total + emitter.dropped_total + emitter.queued


# --- making one -----------------------------------------------------------------------------------


def test_an_emitter_is_made_at_once_where_no_broker_is(emitters: Callable[..., Emitter]) -> None:
    begin = time.monotonic()
    emitter = emitters("no-such-host.invalid:9092,127.0.0.1:1")
    emitter.emit(call_event())
    assert time.monotonic() - begin < 2  # importing the Kafka client included
    assert emitter.queued == 1


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"bootstrap": ""}, "bootstrap"),
        ({"bootstrap": "kafka:port"}, "must be host:port"),
        ({"gateway": ""}, "gateway"),
        ({"gateway": "g" * 257}, "gateway"),
        ({"environment": "e" * 257}, "environment"),
        ({"batch_events": 0}, "batch_events"),
        ({"batch_events": 501}, "batch_events"),
        ({"batch_events": True}, "batch_events"),
        ({"batch_bytes": 2_000_000}, "batch_bytes"),
        ({"linger_ms": -1}, "linger_ms"),
        ({"queue_events": "many"}, "queue_events"),
        ({"compression": "rot13"}, "compression"),
        ({"kafka": {"acks": 0}}, "acks cannot be set"),
        ({"kafka": {"enable_idempotence": False}}, "enable_idempotence cannot be set"),
        ({"kafka": {"buffer_memory": 1}}, "buffer_memory is not one of"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Emitter(**({"bootstrap": NOWHERE, "gateway": "eu-1"} | options))


def test_importing_gatewatch_imports_no_kafka_client() -> None:
    code = "import sys, gatewatch; sys.exit('kafka' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_the_kafka_client_is_told_to_keep_every_promise(
    producers: list[SteeredProducer], emitters: Callable[..., Emitter]
) -> None:
    emitters("a:1, b:2", compression="gzip", delivery_timeout_s=60, kafka={"client_id": "mine"})
    wait_until(lambda: producers)
    options = producers[0].options
    assert options["bootstrap_servers"] == ["a:1", "b:2"]
    assert (options["acks"], options["enable_idempotence"]) == ("all", True)
    assert (options["compression_type"], options["delivery_timeout_ms"]) == ("gzip", 60_000)
    assert options["client_id"] == "mine"


@pytest.mark.parametrize(("found", "compression"), [(True, None), (False, "gzip")])
def test_records_are_compressed_where_their_checksum_would_cost_more(
    emitters: Callable[..., Emitter],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    found: bool,
    compression: str | None,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if found else None)
    assert emitters()._producer_options["compression_type"] == compression
    assert ("gatewatch[fast]" in caplog.text) is not found


# --- stamping -------------------------------------------------------------------------------------


def test_an_event_is_stamped_and_itself_left_alone(
    producers: list[SteeredProducer], emitters: Callable[..., Emitter]
) -> None:
    emitter = emitters(environment="production")
    event = call_event(tags={"a": "b"})
    emitter.emit(event)
    assert event == call_event(tags={"a": "b"})
    event.tags["a"] = "changed after it was emitted"
    emitter.emit(call_event(gateway="other", environment="staging", at_ms=5, emitter_id="forged", seq=99))
    assert emitter.flush(10)
    first, second = (event for record in sent(producers) for event in record)
    assert (first.gateway, first.environment, first.tags) == ("eu-1", "production", {"a": "b"})
    assert abs(first.at_ms - time.time_ns() // 1_000_000) < 60_000
    assert (second.gateway, second.environment, second.at_ms) == ("other", "staging", 5)
    assert (first.emitter_id, first.seq) == (emitter.emitter_id, 0)
    assert (second.emitter_id, second.seq) == (emitter.emitter_id, 1)


def test_two_emitters_have_different_ids(emitters: Callable[..., Emitter]) -> None:
    assert emitters().emitter_id != emitters().emitter_id


# --- records --------------------------------------------------------------------------------------


def test_records_hold_at_most_so_many_events_in_order(
    producers: list[SteeredProducer], emitters: Callable[..., Emitter]
) -> None:
    emitter = emitters(batch_events=7, linger_ms=1_000)
    for _ in range(30):
        emitter.emit(call_event())
    wait_until(lambda: len(sent(producers)) >= 4)
    assert [len(record) for record in sent(producers)] == [7, 7, 7, 7]  # the rest still lingers
    assert emitter.flush(10)
    assert [event.seq for record in sent(producers) for event in record] == list(range(30))


def test_records_hold_at_most_so_many_bytes(
    producers: list[SteeredProducer], emitters: Callable[..., Emitter]
) -> None:
    emitter = emitters(batch_bytes=1_000)
    sizes = [10, 700, 10, 5_000, 10, 10, 400, 400, 400]
    for size in sizes:
        emitter.emit(call_event(input_text="x" * size))
    assert emitter.flush(10)
    records = [future.value for producer in producers for future in producer.futures]
    assert all(len(value) <= 1_000 or value.count(b"\n") == 0 for value in records)
    assert [len(event.input_text or "") for record in sent(producers) for event in record] == sizes
    assert len(records) < len(sizes)


def test_an_event_does_not_linger_longer_than_told(
    producers: list[SteeredProducer], emitters: Callable[..., Emitter]
) -> None:
    emitter = emitters(linger_ms=20)
    emitter.emit(call_event())
    wait_until(lambda: emitter.delivered_total == 1)


def test_an_idle_emitter_wakes_up_for_the_next_event(
    producers: list[SteeredProducer], emitters: Callable[..., Emitter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gatewatch.emitter, "PARK_AFTER_S", 0.0)
    emitter = emitters(linger_ms=2)
    for number in range(1, 20):
        wait_until(lambda: emitter._parked)
        emitter.emit(call_event())
        wait_until(lambda number=number: emitter.delivered_total == number)  # type: ignore[misc]


def test_what_the_kafka_client_holds_is_bounded(
    producers: list[SteeredProducer], emitters: Callable[..., Emitter]
) -> None:
    SteeredProducer.acknowledge = False
    emitter = emitters(batch_events=1, inflight_bytes=1_000, linger_ms=1)
    for _ in range(100):
        emitter.emit(call_event())
    wait_until(lambda: producers and producers[0].futures)
    assert not emitter.flush(0.2)
    held = producers[0].futures
    assert 1_000 <= sum(len(future.value) for future in held) < 1_000 + len(held[0].value)
    SteeredProducer.acknowledge = True
    for future in list(held):
        future.succeed()
    assert emitter.flush(10)
    assert emitter.delivered_total == 100


# --- dropping -------------------------------------------------------------------------------------


def test_the_newest_is_dropped_when_the_queue_is_full(
    producers: list[SteeredProducer], emitters: Callable[..., Emitter]
) -> None:
    SteeredProducer.acknowledge = False
    emitter = emitters(queue_events=10)
    for _ in range(25):
        emitter.emit(call_event())
    assert (emitter.queued, emitter.dropped_total) == (10, 15)
    assert emitter.dropped_by_reason["queue_full"] == 15
    assert not emitter.flush(0.2)
    assert [event.seq for record in sent(producers) for event in record] == list(range(10))
    SteeredProducer.acknowledge = True
    for future in producers[0].futures:
        future.succeed()
    assert emitter.queued == 0
    emitter.emit(call_event())
    assert emitter.flush(10)
    assert sent(producers)[-1][0].seq == 25  # dropped ones keep their numbers: the gap shows them


def test_the_queue_is_bounded_in_bytes(emitters: Callable[..., Emitter]) -> None:
    emitter = emitters(queue_bytes=10_000)
    for _ in range(100):
        emitter.emit(call_event(input_text="x" * 1_000))
    assert emitter.queued_bytes <= 10_000
    assert 7 <= emitter.queued <= 9
    assert emitter.queued + emitter.dropped_total == 100


@pytest.mark.parametrize(
    "event",
    [
        call_event(model=object()),
        call_event(model="\ud800"),
        call_event(provider_usage={"deep": object()}),
        call_event(input_text="x" * 1_100_000),
        {"kind": "call"},
        None,
    ],
    ids=["object", "surrogate", "nested", "huge", "dict", "none"],
)
def test_what_is_no_event_is_counted_and_does_not_raise(
    producers: list[SteeredProducer], emitters: Callable[..., Emitter], event: Any
) -> None:
    emitter = emitters()
    emitter.emit(event)
    emitter.emit(call_event())
    assert emitter.flush(10)
    assert (emitter.emitted_total, emitter.delivered_total) == (2, 1)
    assert emitter.dropped_by_reason == dict.fromkeys(DROP_REASONS, 0) | {"invalid": 1}


@pytest.mark.parametrize(
    ("error", "reason"),
    [(KafkaTimeoutError("too late"), "expired"), (MessageSizeTooLargeError("too large"), "refused")],
)
def test_a_record_that_fails_is_counted_once_and_never_sent_again(
    producers: list[SteeredProducer], emitters: Callable[..., Emitter], error: Exception, reason: str
) -> None:
    SteeredProducer.acknowledge = False
    emitter = emitters(batch_events=5)
    for _ in range(5):
        emitter.emit(call_event())
    wait_until(lambda: producers and producers[0].futures)
    flushed: list[bool] = []
    waiting = threading.Thread(target=lambda: flushed.append(emitter.flush(10)))
    waiting.start()
    wait_until(lambda: emitter._waiters)
    (future,) = producers[0].futures
    future.fail(error)
    future.fail(error)
    future.succeed()
    waiting.join(10)
    assert flushed == [False]
    assert emitter.dropped_by_reason == dict.fromkeys(DROP_REASONS, 0) | {reason: 5}
    assert (emitter.queued, emitter.queued_bytes, emitter.delivered_total) == (0, 0, 0)
    assert len(producers[0].futures) == 1
    assert balanced(emitter)


def test_a_record_that_the_client_did_not_take_is_tried_again_where_that_is_safe(
    producers: list[SteeredProducer], emitters: Callable[..., Emitter]
) -> None:
    SteeredProducer.send_error = KafkaTimeoutError("no metadata")
    emitter = emitters()
    emitter.emit(call_event())
    assert emitter.flush(10)
    SteeredProducer.send_error = MessageSizeTooLargeError("too large")
    emitter.emit(call_event())
    assert not emitter.flush(10)
    assert emitter.dropped_by_reason["refused"] == 1
    assert balanced(emitter)


def test_a_client_beyond_repair_is_replaced(
    producers: list[SteeredProducer], emitters: Callable[..., Emitter]
) -> None:
    SteeredProducer.acknowledge = False
    emitter = emitters()
    emitter.emit(call_event())
    wait_until(lambda: producers and producers[0].futures)
    producers[0].fatal = True
    producers[0].futures[0].fail(ClusterAuthorizationFailedError("no idempotent writes"))
    wait_until(lambda: len(producers) == 2)
    assert producers[0].forced
    SteeredProducer.acknowledge = True
    emitter.emit(call_event())
    assert emitter.flush(10)
    assert (emitter.dropped_by_reason["refused"], emitter.delivered_total) == (1, 1)


def test_an_emitter_that_gets_no_thread_tries_again_with_the_next_event(
    producers: list[SteeredProducer], emitters: Callable[..., Emitter], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        emitter = emitters()
        emitter.emit(call_event())
    emitter.emit(call_event())
    assert emitter.flush(10)
    assert emitter.delivered_total == 2


def test_an_emitter_that_dropped_something_says_so(
    producers: list[SteeredProducer], emitters: Callable[..., Emitter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gatewatch.emitter, "REPORT_INTERVAL_S", 0.05)
    emitter = emitters(environment="production")
    emitter.emit(call_event())
    assert emitter.flush(10)
    emitter.emit(call_event(model=object()))
    wait_until(lambda: len(sent(producers)) >= 3)
    events = [event for record in sent(producers) for event in record]
    assert [event.seq for event in events][:3] == [0, 2, 3]
    for report in events[1:]:
        assert isinstance(report, Resource)
        assert (report.resource, report.emitter_dropped_total) == ("emitter", 1)
        assert (report.gateway, report.environment) == ("eu-1", "production")
        assert report.emitter_id == emitter.emitter_id


def test_an_emitter_that_dropped_nothing_sends_nothing_of_its_own(
    producers: list[SteeredProducer], emitters: Callable[..., Emitter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gatewatch.emitter, "REPORT_INTERVAL_S", 0.01)
    emitter = emitters()
    for number in range(1, 6):
        emitter.emit(call_event())
        wait_until(lambda number=number: emitter.delivered_total == number)  # type: ignore[misc]
    assert emitter.close(10)
    assert emitter.emitted_total == 5


# --- closing --------------------------------------------------------------------------------------


def test_close_sends_what_is_queued_and_reports_drops(
    producers: list[SteeredProducer], emitters: Callable[..., Emitter]
) -> None:
    emitter = emitters(queue_events=3, linger_ms=10_000)
    for _ in range(5):
        emitter.emit(call_event())
    assert emitter.close(10)
    events = [event for record in sent(producers) for event in record]
    assert [event.seq for event in events] == [0, 1, 2, 5]
    assert isinstance(events[-1], Resource)
    assert events[-1].emitter_dropped_total == 2
    assert producers[0].closed
    assert not producers[0].forced
    assert not emitter._thread or not emitter._thread.is_alive()
    emitter.emit(call_event())
    assert emitter.dropped_by_reason["closed"] == 1
    assert emitter.close(10)
    assert emitter.emitted_total == emitter.delivered_total + emitter.dropped_total == 7


def test_close_counts_what_it_could_not_send(
    producers: list[SteeredProducer], emitters: Callable[..., Emitter]
) -> None:
    SteeredProducer.acknowledge = False
    emitter = emitters(batch_events=2, linger_ms=1)
    for _ in range(5):
        emitter.emit(call_event())
    wait_until(lambda: producers and len(producers[0].futures) == 3)
    begin = time.monotonic()
    assert not emitter.close(0.1)
    assert time.monotonic() - begin < 5
    assert producers[0].forced
    for future in producers[0].futures:  # too late: it has been counted
        future.succeed()
    assert emitter.dropped_by_reason == dict.fromkeys(DROP_REASONS, 0) | {"closed": 5}
    assert (emitter.emitted_total, emitter.delivered_total, emitter.queued) == (5, 0, 0)


def test_flush_and_close_keep_to_their_time_without_a_broker(emitters: Callable[..., Emitter]) -> None:
    emitter = emitters()
    emitter.emit(call_event())
    begin = time.monotonic()
    assert not emitter.flush(0.2)
    assert not emitter.close(0.2)
    assert time.monotonic() - begin < 5
    assert emitter.dropped_by_reason["closed"] == 1


def test_flush_does_not_linger(producers: list[SteeredProducer], emitters: Callable[..., Emitter]) -> None:
    emitter = emitters(linger_ms=60_000)
    for number in range(1, 4):
        emitter.emit(call_event())
        assert emitter.flush(10)
        assert emitter.delivered_total == number


def test_flush_waits_only_for_what_was_emitted_before(
    producers: list[SteeredProducer], emitters: Callable[..., Emitter]
) -> None:
    emitter = emitters(linger_ms=1)
    stop = threading.Event()

    def emit_for_ever() -> None:
        while not stop.is_set():
            emitter.emit(call_event())
            stop.wait(0.0005)

    thread = threading.Thread(target=emit_for_ever)
    thread.start()
    try:
        for _ in range(5):
            assert emitter.flush(10)
    finally:
        stop.set()
        thread.join()


def test_a_with_block_closes(producers: list[SteeredProducer]) -> None:
    with Emitter(NOWHERE, gateway="eu-1") as emitter:
        emitter.emit(call_event())
    assert emitter.delivered_total == 1
    assert producers[0].closed


# --- threads, signals, destructors, forks ---------------------------------------------------------


def test_counts_are_exact_under_many_threads(
    producers: list[SteeredProducer], emitters: Callable[..., Emitter]
) -> None:
    SteeredProducer.acknowledge = False
    emitter = emitters(queue_events=5_000, inflight_bytes=1)

    def emit_many() -> None:
        for _ in range(2_000):
            emitter.emit(call_event())

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=emit_many) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval_s)
    assert emitter.emitted_total == 16_000
    assert (emitter.queued, emitter.dropped_by_reason["queue_full"]) == (5_000, 11_000)
    lines = list(emitter._lines)
    for producer in producers:
        lines += [line for future in producer.futures for line in future.value.split(b"\n")]
    numbers = [msgspec.json.decode(line)["seq"] for line in lines]
    assert len(set(numbers)) == len(numbers) == 5_000
    assert sum(map(len, lines)) == emitter.queued_bytes


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers on this system")
def test_a_signal_handler_may_emit_in_the_middle_of_emit(emitters: Callable[..., Emitter]) -> None:
    emitter = emitters(queue_events=1_000_000, queue_bytes=1 << 40)
    inner = 0

    def handler(*_: object) -> None:
        nonlocal inner
        inner += 1
        emitter.emit(call_event())

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    outer = 0
    try:
        deadline = time.monotonic() + 20
        while inner < 200 and time.monotonic() < deadline:
            emitter.emit(call_event())
            outer += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert inner >= 200
    assert emitter.emitted_total == inner + outer == emitter.queued


def test_a_destructor_may_emit_in_the_middle_of_emit(emitters: Callable[..., Emitter]) -> None:
    emitter = emitters(queue_events=1_000_000, queue_bytes=1 << 40)
    deleted = 0

    class Stream:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            nonlocal deleted
            deleted += 1
            emitter.emit(call_event())

    threshold = gc.get_threshold()
    gc.set_threshold(3)
    try:
        for _ in range(2_000):
            Stream()
            emitter.emit(call_event(tags={"a": "b"}))
    finally:
        gc.set_threshold(*threshold)
        gc.collect()
    assert deleted == 2_000
    assert emitter.emitted_total == emitter.queued == 4_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_starts_afresh(
    producers: list[SteeredProducer], emitters: Callable[..., Emitter]
) -> None:
    SteeredProducer.acknowledge = False
    emitter = emitters(linger_ms=1)
    for _ in range(3):
        emitter.emit(call_event())
    wait_until(lambda: producers and producers[0].futures)
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: forking with threads, as gateways do
        child = os.fork()
    if not child:  # pragma: no cover - another process
        status = 1
        try:
            assert (emitter.queued, emitter.emitted_total) == (0, 0)
            assert emitter._thread is None
            SteeredProducer.acknowledge = True
            SteeredProducer.made.clear()
            emitter.emit(call_event())
            assert emitter.flush(10)
            (event,) = sent(SteeredProducer.made)[0]
            assert (event.emitter_id, event.seq) == (emitter.emitter_id, 0)
            os.write(writer, emitter.emitter_id.encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as pipe:
        child_id = pipe.read().decode()
    assert os.waitstatus_to_exitcode(status) == 0
    assert child_id
    assert child_id != emitter.emitter_id
    assert emitter.queued == 3
    for future in producers[0].futures:
        future.succeed()
    assert emitter.flush(10)
    assert emitter.delivered_total == 3


# --- the test double ------------------------------------------------------------------------------


def test_the_recording_emitter_has_the_surface_of_the_real_one(
    producers: list[SteeredProducer],
) -> None:
    from gatewatch.testing import RecordingEmitter

    recording, real = RecordingEmitter(), Emitter("127.0.0.1:1", gateway="test")
    real.close(timeout_s=0)
    names = {name for name in dir(real) if not name.startswith("_")}
    assert {"emit", "call", "dropped_by_reason", "queue_events", "linger_ms"} <= names <= set(dir(recording))
    for name in names - {"emitter_id"}:
        ours, theirs = getattr(recording, name), getattr(real, name)
        if callable(theirs):
            assert inspect.signature(ours) == inspect.signature(theirs), name
        else:
            assert ours == theirs, name  # before any event; limits are the real one's defaults
    with recording:
        recording.emit(call_event())
        event: Event = recording.events[0]
        assert (event.gateway, event.seq) == ("test", 0)
        assert event.at_ms > 0
        with pytest.raises(ValueError, match="would refuse"):
            recording.emit(call_event(call_id=""))
    recording.emit(call_event())
    assert (recording.emitted_total, recording.delivered_total, recording.dropped_total) == (3, 1, 2)
    reasons = {name: count for name, count in recording.dropped_by_reason.items() if count}
    assert reasons == {"invalid": 1, "closed": 1}
