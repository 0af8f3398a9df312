"""The emitter with a real broker: every event once, outages, forks, the end of a process."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gatewatch import Call, Emitter, Event, Reject, Resource, decode_record
from streams.broker import Broker
from streams.topic import create_topics

PARTITIONS = 4


def call_event(**fields: Any) -> Call:
    values: dict[str, Any] = {"at_ms": 0, "gateway": "", "call_id": "c", "started_at_ms": 1}
    return Call(**(values | {"provider": "p", "model": "m"} | fields))


def read(bootstrap: str, topic: str) -> list[Event]:
    """Everything in a topic."""
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, consumer_timeout_ms=20_000
    )
    events: list[Event] = []
    try:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        left = {partition: end for partition, end in consumer.end_offsets(partitions).items() if end}
        for record in consumer if left else ():
            for event in decode_record(record.value):
                assert not isinstance(event, Reject)
                events.append(event)
            partition = TopicPartition(topic, record.partition)
            if record.offset + 1 >= left.get(partition, 0):
                left.pop(partition, None)
                if not left:
                    break
    finally:
        consumer.close()
    return events


def prove(bootstrap: str, topic: str, emitter: Emitter) -> list[Event]:
    """What arrived, each once, and what was dropped is what was emitted."""
    events = [event for event in read(bootstrap, topic) if event.emitter_id == emitter.emitter_id]
    seen = Counter(event.seq for event in events)
    assert set(seen.values()) <= {1}
    assert len(events) == emitter.delivered_total
    assert len(events) + emitter.dropped_total == emitter.emitted_total
    return events


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that the test may stop."""
    with Broker(tmp_path / "kafka") as broker:
        create_topics(broker.bootstrap, {"events": PARTITIONS})
        yield broker


@pytest.fixture
def make_emitter() -> Iterator[Callable[..., Emitter]]:
    """Emitters that a failing test leaves no thread of: one would disturb the tests after it."""
    with ExitStack() as emitters:

        def make(bootstrap: str, **options: Any) -> Emitter:
            emitter = Emitter(bootstrap, gateway="eu-1", **options)
            emitters.callback(emitter.close, 0)
            return emitter

        yield make


def test_many_threads_deliver_every_event_once(
    broker: Broker, make_topic: Callable[[int], str], make_emitter: Callable[..., Emitter]
) -> None:
    topic = make_topic(PARTITIONS)
    emitter = make_emitter(broker.bootstrap, topic=topic)

    def emit_many() -> None:
        for _ in range(2_500):
            emitter.emit(call_event())

    threads = [threading.Thread(target=emit_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert emitter.flush(30)
    assert emitter.close(10)
    assert emitter.delivered_total == 10_000
    prove(broker.bootstrap, topic, emitter)


@pytest.mark.parametrize("compression", ["gzip", "lz4"])
def test_compressed_records_arrive(
    broker: Broker, make_topic: Callable[[int], str], compression: str
) -> None:
    topic = make_topic(PARTITIONS)
    with Emitter(broker.bootstrap, gateway="eu-1", topic=topic, compression=compression) as emitter:
        for _ in range(500):
            emitter.emit(call_event())
    assert emitter.delivered_total == 500
    prove(broker.bootstrap, topic, emitter)


def test_large_events_arrive(broker: Broker, make_topic: Callable[[int], str]) -> None:
    topic = make_topic(PARTITIONS)
    with Emitter(broker.bootstrap, gateway="eu-1", topic=topic) as emitter:
        for _ in range(5):
            emitter.emit(call_event(input_text="x" * 262_144, output_text="y" * 262_144))
    assert emitter.delivered_total == 5
    prove(broker.bootstrap, topic, emitter)


def test_no_log_of_any_level_holds_what_is_sent(
    broker: Broker, make_topic: Callable[[int], str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="kafka")  # commands quieten it, and tests run commands
    topic = make_topic(PARTITIONS)
    with Emitter(broker.bootstrap, gateway="eu-1", topic=topic) as emitter:
        emitter.emit(call_event(input_text="the-secret-prompt", key_alias="the-secret-key"))
        emitter.emit(call_event(input_text="the-secret-prompt", model=object()))
    assert emitter.delivered_total >= 1
    assert caplog.records  # the Kafka client does log
    assert "the-secret" not in caplog.text


def test_a_topic_that_comes_later_gets_what_waited(
    broker: Broker, topic_name: Callable[[], str], make_emitter: Callable[..., Emitter]
) -> None:
    topic = topic_name()
    emitter = make_emitter(broker.bootstrap, topic=topic)
    for _ in range(10):
        emitter.emit(call_event())
    assert not emitter.flush(0.5)
    create_topics(broker.bootstrap, {topic: PARTITIONS})
    assert emitter.flush(30)
    assert emitter.close(10)
    prove(broker.bootstrap, topic, emitter)


def outage(broker: Broker, emitter: Emitter, seconds: float, stop: Callable[[], None]) -> None:
    """Emit before, during and after an outage; check speed, counts and that all flows again.

    The emitter's queue holds 500 events.
    """
    for _ in range(200):
        emitter.emit(call_event())
    assert emitter.flush(30)
    stop()
    took_s: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(5):
            begin = time.perf_counter()
            emitter.emit(call_event())
            took_s.append(time.perf_counter() - begin)
        time.sleep(0.005)
    # Median: how long the slowest takes on a busy machine is the benchmark's business.
    assert sorted(took_s)[len(took_s) // 2] < 0.001
    assert emitter.queued == 500
    assert emitter.dropped_by_reason["queue_full"] == len(took_s) - 500 > 0
    broker.restart()
    assert emitter.flush(60)
    for _ in range(200):
        emitter.emit(call_event())
    assert emitter.flush(30)
    assert emitter.close(30)
    assert emitter.dropped_total == emitter.dropped_by_reason["queue_full"]
    events = prove(broker.bootstrap, "events", emitter)
    (report,) = (event for event in events if isinstance(event, Resource))
    assert report.emitter_dropped_total == emitter.dropped_total


@pytest.fixture
def small_emitter(own_broker: Broker, make_emitter: Callable[..., Emitter]) -> Emitter:
    return make_emitter(own_broker.bootstrap, topic="events", queue_events=500)


@pytest.mark.kafka
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_an_outage_drops_what_does_not_fit_and_loses_nothing_else(
    own_broker: Broker, small_emitter: Emitter, how: str
) -> None:
    outage(own_broker, small_emitter, 2, getattr(own_broker, how))


@pytest.mark.kafka
@pytest.mark.slow
def test_an_outage_of_half_a_minute(own_broker: Broker, small_emitter: Emitter) -> None:
    outage(own_broker, small_emitter, 30, own_broker.stop)


@pytest.mark.kafka
def test_what_is_not_acknowledged_in_time_has_expired(
    own_broker: Broker, make_emitter: Callable[..., Emitter]
) -> None:
    emitter = make_emitter(own_broker.bootstrap, topic="events", delivery_timeout_s=1, batch_events=10)
    emitter.emit(call_event())
    assert emitter.flush(30)
    own_broker.stop()
    for _ in range(10):
        emitter.emit(call_event())
    deadline = time.monotonic() + 30
    while emitter.queued and time.monotonic() < deadline:
        time.sleep(0.02)
    assert emitter.dropped_by_reason["expired"] == 10
    delivered = emitter.delivered_total
    own_broker.restart()
    # Until the client has connected anew, a second may pass, and with it what waits for that.
    deadline = time.monotonic() + 60
    while emitter.delivered_total == delivered and time.monotonic() < deadline:
        emitter.emit(call_event())
        emitter.flush(5)
    assert emitter.delivered_total > delivered
    assert emitter.close(10)
    # What expired may have arrived all the same: only its answer was late.
    assert len(read(own_broker.bootstrap, "events")) >= emitter.delivered_total


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


PREAMBLE = """
import os, sys
from gatewatch import Call, Emitter
bootstrap, topic = sys.argv[1:]
event = Call(at_ms=0, gateway="", call_id="c", started_at_ms=1, provider="p", model="m")
emitter = Emitter(bootstrap, gateway="eu-1", topic=topic)
"""


def test_a_process_that_ends_sends_what_is_queued(broker: Broker, make_topic: Callable[[int], str]) -> None:
    topic = make_topic(PARTITIONS)
    done = run(PREAMBLE + "for _ in range(250): emitter.emit(event)", broker.bootstrap, topic)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(event.seq or 0 for event in read(broker.bootstrap, topic)) == list(range(250))


def test_a_process_without_a_broker_ends_in_time_and_without_noise() -> None:
    code = PREAMBLE.replace('gateway="eu-1"', 'gateway="eu-1", close_timeout_s=0.5') + "emitter.emit(event)"
    begin = time.monotonic()
    done = run(code, "127.0.0.1:1", "events")
    assert time.monotonic() - begin < 20
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_parent_and_children_of_a_fork_deliver_their_own(
    broker: Broker, make_topic: Callable[[int], str]
) -> None:
    topic = make_topic(PARTITIONS)
    code = """
    emitter.emit(event)
    assert emitter.flush(30)
    for _ in range(50):
        emitter.emit(event)          # some are in the queue when the process forks
    children = []
    for _ in range(2):
        child = os.fork()
        if not child:
            for _ in range(100):
                emitter.emit(event)
            sys.exit(0)              # the end of the child sends them
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    emitter.emit(event)
    """
    begin = time.monotonic()
    done = run(PREAMBLE + textwrap.dedent(code), broker.bootstrap, topic)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - begin < 30
    seen: dict[str, list[int]] = {}
    for event in read(broker.bootstrap, topic):
        seen.setdefault(event.emitter_id, []).append(event.seq or 0)
    assert sorted(sorted(numbers) for numbers in seen.values()) == sorted(
        [list(range(52)), list(range(100)), list(range(100))]
    )
