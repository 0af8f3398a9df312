"""Replays into a real broker: everything arrives once, nothing is dropped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from kafka import KafkaConsumer, TopicPartition

from gatewatch.events import Call, Reject, decode_record
from streams.broker import Broker
from traffic.incident import BrokenTelemetry
from traffic.replay import KafkaSender, Pace, replay
from traffic.synthetic import Traffic
from traffic.trace import Timed

PARTITIONS = 3


def records(bootstrap: str, topic: str) -> list[bytes]:
    """Everything in the topic."""
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
    )
    partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    consumer.assign(partitions)
    ends = consumer.end_offsets(partitions)
    found = []
    while any(consumer.position(partition) < ends[partition] for partition in partitions):
        for batch in consumer.poll(timeout_ms=1000).values():
            found += [record.value for record in batch]
    consumer.close()
    return found


def test_a_flat_out_replay_drops_nothing(broker: Broker, make_topic: Callable[[int], str]) -> None:
    topic = make_topic(PARTITIONS)
    sender = KafkaSender(broker.bootstrap, gateway="test", topic=topic, batch_events=200)
    traffic = Traffic(
        7,
        start_ms=1_800_000_000_000,
        rate_per_s=2000,
        duration_s=20,
        rhythm=False,
        incidents=[BrokenTelemetry(share=0.05)],
    )
    summary = replay(traffic, sender, Pace(flat_out=True, keep_time=True))
    assert (summary.delivered, summary.dropped) == (True, 0)
    found = [verdict for record in records(broker.bootstrap, topic) for verdict in decode_record(record)]
    rejected = sum(isinstance(verdict, Reject) for verdict in found)
    assert len(found) == summary.events > 60_000
    assert rejected == summary.raw_lines == traffic.broken_total > 0
    numbers = {
        event.seq
        for event in found
        if not isinstance(event, Reject) and event.emitter_id == sender.emitter_id
    }
    assert numbers == set(range(summary.events - rejected))


def test_more_than_the_emitters_queue_holds_goes_through(
    broker: Broker, make_topic: Callable[[int], str]
) -> None:
    topic = make_topic(PARTITIONS)
    sender = KafkaSender(broker.bootstrap, gateway="test", topic=topic, batch_events=500)
    text = "x" * 2000
    # 200 MB, three times what the emitter may hold.
    events = (
        Timed(
            0,
            Call(
                at_ms=1,
                started_at_ms=1,
                gateway="g",
                call_id=str(number),
                provider="p",
                model="m",
                input_text=text,
            ),
        )
        for number in range(100_000)
    )
    summary = replay(events, sender, Pace(flat_out=True))
    assert (summary.events, summary.delivered, summary.dropped) == (100_000, True, 0)


# Without a broker kafka-python leaks the sockets of each attempt, which would fail whichever test
# comes next: these run in processes of their own.

EVENT = '{"kind":"call","at_ms":9,"started_at_ms":4,"gateway":"g","call_id":"c","provider":"p","model":"m"}\n'

REPLAY = """
import typer
import traffic.replay
from gatewatch.cli import replay
traffic.replay.CLOSE_TIMEOUT_S = 0.3
traffic.replay.STALL_TIMEOUT_S = 1.0
app = typer.Typer(pretty_exceptions_enable=False)
app.command()(replay.command)
app()
"""


def replay_without_broker(lines: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", REPLAY, "ndjson", "-", "--flat-out", "--bootstrap", "127.0.0.1:1", *arguments],
        input=lines,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )


def test_events_that_did_not_arrive_are_a_failure_that_says_what_to_do() -> None:
    result = replay_without_broker(EVENT * 3, "--json")
    assert result.returncode == 1
    assert "not everything was acknowledged by gatewatch.events.v1 at 127.0.0.1:1" in result.stderr
    assert "gatewatch doctor" in result.stderr
    summary = json.loads(result.stdout.splitlines()[-1])
    assert (summary["events"], summary["delivered"]) == (3, False)


def test_a_broker_that_takes_nothing_stops_the_replay() -> None:
    result = replay_without_broker(EVENT * 120_000)
    assert result.returncode == 1
    assert "the broker at 127.0.0.1:1 has taken nothing for 1 s" in result.stderr
    assert "Traceback" not in result.stderr


def test_raw_lines_without_a_broker_stop_the_replay() -> None:
    result = replay_without_broker("bad\n" * 200, "--raw")
    assert result.returncode == 1
    assert "no broker answers at 127.0.0.1:1" in result.stderr
    assert "Traceback" not in result.stderr
