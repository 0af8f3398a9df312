"""The real stack: `gatewatch up` with the real engine, migrations and workers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest

from gatewatch import Emitter
from gatewatch.events import Call
from streams.broker import Broker
from streams.stack import Stack, running_stack

pytestmark = [pytest.mark.slow, pytest.mark.kafka, pytest.mark.engine]


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)
    return True


def send(bootstrap: str, first: int, count: int) -> None:
    """Calls that end now; their ids count up from ``first``."""
    emitter = Emitter(bootstrap, gateway="eu-1")
    try:
        for number in range(first, first + count):
            at_ms = time.time_ns() // 1_000_000
            emitter.emit(
                Call(
                    at_ms=at_ms,
                    gateway="eu-1",
                    call_id=f"call-{number}",
                    started_at_ms=at_ms - 500,
                    provider="openai",
                    model="gpt-4o",
                    total_ms=500.0,
                )
            )
        assert emitter.flush(20)
        assert emitter.dropped_total == 0
    finally:
        assert emitter.close(10)


class Reader:
    """Reads as analysts do: as `reader`, who has no password, from the views."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._client = clickhouse_connect.get_client(host=host, port=int(port), username="reader")

    def calls(self) -> tuple[int, int]:
        """Rows of the view, and different calls among them."""
        row = self._client.query("SELECT count(), uniqExact(call_id) FROM gatewatch.calls").result_rows[0]
        return int(row[0]), int(row[1])

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def read() -> Iterator[Callable[[str], Reader]]:
    readers: list[Reader] = []

    def connect(url: str) -> Reader:
        readers.append(Reader(url))
        return readers[-1]

    yield connect
    for reader in readers:
        reader.close()


def doctor(data: Path, environment: Mapping[str, str] | None = None) -> tuple[int, list[dict[str, Any]]]:
    run = subprocess.run(
        [sys.executable, "-P", "-m", "gatewatch.cli", "doctor", "--data", str(data), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return run.returncode, [json.loads(line) for line in run.stdout.splitlines()]


def test_calls_reach_the_reader_through_two_workers_and_every_kill(
    broker: Broker, tmp_path: Path, read: Callable[[str], Reader]
) -> None:
    with Stack(tmp_path / "data", workers=2, environment={"GATEWATCH_FLUSH_INTERVAL_S": "0.2"}) as stack:
        reader = read(stack.engine_url)
        send(stack.bootstrap, 0, 500)
        assert until(lambda: reader.calls() == (500, 500)), reader.calls()

        stack.kill_worker(0)
        send(stack.bootstrap, 500, 500)
        assert stack.await_ready(60)
        assert until(lambda: reader.calls() == (1000, 1000), 60), reader.calls()

        stack.kill("engine")
        send(stack.bootstrap, 1000, 500)
        assert stack.await_ready(60)
        assert until(lambda: reader.calls() == (1500, 1500), 60), reader.calls()
        assert stack.failure is None

        code, findings = doctor(stack.data)
        assert code == 0, findings
        assert {finding["subject"] for finding in findings} >= {
            "Kafka",
            "ClickHouse",
            "migrations",
            "worker-0",
            "worker-1",
            "topic gatewatch.events.v1",
        }


def test_up_serves_until_sigterm_and_again_after(
    broker: Broker, tmp_path: Path, read: Callable[[str], Reader]
) -> None:
    data = tmp_path / "data"
    command = [sys.executable, "-P", "-m", "gatewatch.cli", "up", "--data", str(data)]
    for calls in (100, 200):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stdout.readline().startswith("ready in ")
            state = running_stack(data)
            assert state is not None
            reader = read(state["engine_url"])
            send(state["bootstrap"], calls - 100, 100)
            assert until(lambda r=reader, n=calls: r.calls() == (n, n)), reader.calls()  # type: ignore[misc]
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
            err = process.stderr.read()
            assert code == 0, err
            assert "stopping" in err
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    code, findings = doctor(data)
    assert code == 1
    assert findings[-1]["subject"] == "stack"
