"""Bad lines among good ones through the real stack, and a topic that holds next to nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer
from kafka.errors import CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError

from gatewatch.events import EVENTS_TOPIC, Call, encode
from sinks.clickhouse import Sink
from sinks.schema import STORE
from streams.setting import PREFIX
from streams.stack import Stack
from streams.topic import admin_client
from tests.end_to_end.pipeline import CHUNK_RECORDS, ENVIRONMENT, Pipeline, until
from tests.event import call, record

pytestmark = [pytest.mark.kafka, pytest.mark.engine, pytest.mark.slow]

_STILL_STARTING = (CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError)
SECRET = "sk-SECRET-of-somebody"


def fresh(number: int, **fields: Any) -> Call:
    return call(number, at_ms=time.time_ns() // 1_000_000, **fields)


def send(stack: Stack, *values: bytes, partition: int = 0) -> None:
    producer = KafkaProducer(bootstrap_servers=stack.bootstrap)
    try:
        for future in [producer.send(EVENTS_TOPIC, value, partition=partition) for value in values]:
            future.get(timeout=20)
    finally:
        producer.close()


def dead_letters(
    stack: Stack, *arguments: str, stdin: bytes | None = None, expect: int = 0
) -> subprocess.CompletedProcess[bytes]:
    """Run `gatewatch dead-letters` on the stack's directory, as a person would."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "gatewatch.cli", "dead-letters", *arguments, "--data", str(stack.data)],
        input=stdin,
        capture_output=True,
        timeout=60,
        env={name: value for name, value in os.environ.items() if not name.startswith(PREFIX)},
    )
    assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
    return done


def json_lines(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.timeout(240)
def test_bad_lines_are_listed_shown_repaired_and_counted_once(start: Callable[..., Pipeline]) -> None:
    pipeline = start(workers=1, partitions=1)
    stack = pipeline.stack
    broken = encode(fresh(9))[:-1] + f',"input_tokens":"{SECRET}"}}'.encode()
    lines = [
        encode(fresh(0)),
        broken,
        b"\xff\xfe\x1b[2J",
        encode(fresh(1)),
        b"{" * 5,
        encode(call(2, at_ms=86_400_000)),
        encode(fresh(3))[:-1] + b',"v":2}',
    ]
    send(stack, record(*lines), b"", record(encode(fresh(4))))
    assert until(lambda: pipeline.stored() == 9, 60)
    assert pipeline.sink.rows("SELECT sum(events), sum(rejects) FROM gatewatch.delivery") == [(3, 6)]

    listed = dead_letters(stack, "list")
    assert SECRET.encode() not in listed.stdout + listed.stderr
    found = {entry["id"]: entry["reason"] for entry in json_lines(listed.stdout)}
    place = f"{EVENTS_TOPIC}/0"
    assert found == {
        f"{place}/0/1": "invalid_event",
        f"{place}/0/2": "invalid_json",
        f"{place}/0/4": "invalid_json",
        f"{place}/0/5": "event_too_old",
        f"{place}/0/6": "unsupported_version",
        f"{place}/1/0": "empty_record",
    }
    summary = json_lines(dead_letters(stack, "list", "--summary").stdout)
    assert {entry["reason"]: entry["letters"] for entry in summary}["invalid_json"] == 2
    assert len(json_lines(dead_letters(stack, "list", "--reason", "invalid_json").stdout)) == 2
    assert b"reason" in dead_letters(stack, "list", "--format", "table").stdout.splitlines()[0]

    shown = dead_letters(stack, "show", f"{place}/0/1", f"{place}/0/2").stdout
    assert SECRET.encode() in shown
    assert b"\\xff\\xfe\\x1b[2J" in shown
    assert b"\x1b" not in shown
    assert dead_letters(stack, "show", "--raw", f"{place}/0/2").stdout == b"\xff\xfe\x1b[2J"
    dead_letters(stack, "show", f"{place}/0/0", expect=1)
    dead_letters(stack, "show", "what", expect=2)

    # show --json, edit, replay --file: and one that is not repaired.
    entries = json_lines(dead_letters(stack, "show", "--json", *found).stdout)
    by_id = {entry["id"]: entry for entry in entries}
    by_id[f"{place}/0/1"]["line"]["input_tokens"] = 5
    edited = b"\n".join(json.dumps(by_id[f"{place}/0/{line}"]).encode() for line in (1, 2))
    assert (
        b"1 would be sent"
        in dead_letters(stack, "replay", "--dry-run", "--file", "-", stdin=edited, expect=1).stdout
    )
    replayed = dead_letters(stack, "replay", "--json", "--file", "-", stdin=edited, expect=1)
    assert {entry["id"]: entry["result"] for entry in json_lines(replayed.stdout)} == {
        f"{place}/0/1": "sent",
        f"{place}/0/2": "refused",
    }
    again = dead_letters(stack, "replay", "--file", "-", stdin=edited, expect=1)
    assert b"already_replayed" in again.stderr
    assert SECRET.encode() not in again.stdout + again.stderr

    assert until(lambda: pipeline.stored() == 10, 60)
    assert pipeline.sink.rows("SELECT sum(events), sum(rejects) FROM gatewatch.delivery") == [(4, 6)]
    assert pipeline.sink.rows(
        "SELECT call_id, input_tokens FROM gatewatch.calls WHERE call_id = 'call-9'"
    ) == [("call-9", 5)]
    assert pipeline.one("SELECT count() FROM gatewatch.calls") == 4
    assert pipeline.one("SELECT sum(lost) + sum(duplicates) FROM gatewatch.emitters") == 0
    assert f"{place}/0/1" not in {entry["id"] for entry in json_lines(dead_letters(stack, "list").stdout)}


def committed(stack: Stack) -> dict[int, int]:
    """The group's offset of each partition, once the broker that has just started has read them."""
    found: list[dict[int, int]] = []

    def answered() -> bool:
        with (
            contextlib.suppress(*_STILL_STARTING),
            admin_client(stack.bootstrap, 20) as admin,
        ):
            offsets = admin.list_group_offsets({"gatewatch": None})["gatewatch"]
            found.append(
                {
                    tp.partition: entry.offset
                    for tp, entry in offsets.items()
                    if tp.topic == EVENTS_TOPIC and entry.offset >= 0
                }
            )
        return bool(found)

    assert until(answered, 30)
    return found[0]


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Stack]:
    """A stack without workers, which may stop by itself."""
    environment = ENVIRONMENT | {"GATEWATCH_FLUSH_INTERVAL_S": "5"}
    stack = Stack(tmp_path / "stack", 0, partitions=1, environment=environment)
    stack.start()
    yield stack
    stack.stop()


@pytest.mark.timeout(180)
def test_a_topic_of_next_to_nothing_but_bad_lines_stops_worker_and_stack(idle: Stack) -> None:
    # The first flush holds all of them and decides; together they are more than a chunk, so that something
    # could be acknowledged.
    bad = record(*[f'{{"prompt":"{SECRET}"}}'.encode()] * 2500)
    send(idle, *[bad] * (CHUNK_RECORDS + 5), record(encode(fresh(1))))
    shown = dead_letters(idle, "show", f"{EVENTS_TOPIC}/0/0/2499").stdout
    assert b"not by any worker: read from Kafka" in shown

    idle.add_worker()
    assert idle.wait(90)
    assert idle.failure is not None
    assert "worker-0 stopped for good" in idle.failure
    assert "lines of gatewatch.events.v1 are no events (invalid_event)" in idle.failure
    assert f"gatewatch dead-letters show {EVENTS_TOPIC}/0/0/0`" in idle.failure
    log = (idle.logs / "worker-0.log").read_text()
    # Once: it was not started again. And it says no word of what the lines held.
    assert log.count("gatewatch worker: ") == 1
    assert SECRET not in log + idle.failure

    # Nothing of it was stored or acknowledged: the topic stands as it did.
    idle.start()
    assert committed(idle) == {}
    sink = Sink(idle.engine_url, "writer", idle.writer_password)
    try:
        for table in ("calls", "rejects", "chunks"):
            assert sink.rows(f"SELECT count() FROM {STORE}.{table}") == [(0,)]
    finally:
        sink.close()
