"""`gatewatch demo` on the real stack: it ends with 0 when its proof holds, and only then."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from gatewatch.events import EVENTS_TOPIC
from streams.setting import PREFIX
from streams.stack import running_stack

pytestmark = [pytest.mark.slow, pytest.mark.kafka, pytest.mark.engine, pytest.mark.timeout(300)]

_START_S = 90.0


Demo = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def demo() -> Iterator[Demo]:
    """Start `gatewatch demo` with these options and no settings of this shell; it ends with the test."""
    started: list[subprocess.Popen[str]] = []
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(PREFIX) or name == "GATEWATCH_CACHE"
    }

    def start(*options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "gatewatch.cli", "demo", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def claims(output: str) -> dict[str, tuple[int, int, bool]]:
    """The proof's table: what was sent, what is stored, and whether it says that they are equal."""
    rows = re.findall(r"^ *(\S.*?)  +([\d,]+)  +([\d,]+)  +(equal|DIFFERENT)\s*$", output, re.M)
    return {
        subject: (int(sent.replace(",", "")), int(stored.replace(",", "")), mark == "equal")
        for subject, sent, stored, mark in rows
    }


def test_the_proof_holds_for_what_was_sent_and_the_questions_are_answered(demo: Demo, tmp_path: Path) -> None:
    data, picture = tmp_path / "data", tmp_path / "live.svg"
    process = demo("--seconds", "12", "--rate", "60", "--data", str(data), "--picture", str(picture))
    output, errors = process.communicate(timeout=_START_S + 60)
    assert process.returncode == 0, output + errors
    proof = claims(output)
    assert all(equal and sent == stored for sent, stored, equal in proof.values())
    assert proof["events"][0] > 12 * 60  # some calls have several events
    assert proof["calls ended, one row each"][0] > 300
    assert proof["gaps in emitters' numbers"] == proof["events stored twice"] == (0, 0, True)
    assert proof["dead letters"][0] >= 1
    assert "The proof holds" in output
    assert len(re.findall(r"^SELECT ", output, re.M)) == 3
    assert "tenant-01" in output
    assert re.search(r"^ *\d+ s  emitted ", output, re.M)
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    assert running_stack(data) is None


def test_a_record_that_is_delivered_twice_breaks_the_proof(demo: Demo, tmp_path: Path) -> None:
    data = tmp_path / "data"
    process = demo("--seconds", "10", "--rate", "40", "--data", str(data))
    deadline = time.monotonic() + _START_S
    while (state := running_stack(data)) is None or "worker-0" not in state["pids"]:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    _repeat_first_record(state["bootstrap"], deadline)
    output, errors = process.communicate(timeout=90)
    assert process.returncode == 1, output + errors
    assert "The proof does not hold" in output
    proof = claims(output)
    sent, stored, equal = proof["events"]
    assert stored > sent and not equal
    assert proof["events stored twice"][1] == stored - sent
    # Calls merge, so the repeated record has changed none of them.
    assert proof["calls ended, one row each"][2]


def test_a_killed_worker_is_replaced_and_an_interruption_ends_with_the_proof(
    demo: Demo, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    process = demo("--seconds", "600", "--rate", "40", "--data", str(data))
    deadline = time.monotonic() + _START_S
    assert process.stdout is not None
    lines: list[str] = []
    while not (lines and " emitted " in lines[-1]):
        assert time.monotonic() < deadline
        lines.append(process.stdout.readline())
        assert lines[-1], "it ended before there was traffic"
    state = running_stack(data)
    assert state is not None
    killed = state["pids"]["worker-0"]
    os.kill(killed, signal.SIGKILL)
    while (state := running_stack(data)) is None or state["pids"].get("worker-0", killed) == killed:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=90)
    assert process.returncode == 0, output + errors
    assert "The proof holds" in output
    assert claims(output)["events"][0] > 100
    assert running_stack(data) is None


def _repeat_first_record(bootstrap: str, deadline: float) -> None:
    """Produce the first record of events once more, as a producer without idempotence might."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    try:
        partitions = [TopicPartition(EVENTS_TOPIC, number) for number in range(4)]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        found: bytes | None = None
        while found is None:
            assert time.monotonic() < deadline
            for records in consumer.poll(timeout_ms=200).values():
                found = next((record.value for record in records if b'"emitter_id"' in record.value), found)
        producer.send(EVENTS_TOPIC, found).get(10)
    finally:
        consumer.close()
        producer.close()


def test_a_directory_that_holds_something_is_refused(demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    process = demo("--data", str(tmp_path))
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "not empty" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
