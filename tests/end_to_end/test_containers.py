"""docker-compose.yml as it is, on a Docker engine: Kafka, a ClickHouse server and two workers."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError

from gatewatch import Emitter
from gatewatch.events import Call
from streams.process import free_port
from streams.topic import inspect_topics, pipeline_topics

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]


class Deployment(NamedTuple):
    kafka: str
    clickhouse_port: int
    writer_password: str
    reader_password: str


def until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.2)
    return True


def without_engine() -> str | None:
    """Why no containers can be started here; absent when they can."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if run.returncode:
            return f"`{' '.join(command)}` fails: {(run.stderr or run.stdout).strip().splitlines()[0]}"
    return None


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    reason = without_engine()
    if reason:
        pytest.skip(f"no Docker engine: {reason}")
    from testcontainers.compose import DockerCompose

    kafka_port = free_port()
    found = Deployment(
        f"localhost:{kafka_port}",
        free_port(avoid=(kafka_port,)),
        secrets.token_urlsafe(16),
        secrets.token_urlsafe(16),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPOSE_PROJECT_NAME", f"gatewatch-test-{secrets.token_hex(4)}")
        patch.setenv("GATEWATCH_KAFKA_PORT", str(kafka_port))
        patch.setenv("GATEWATCH_CLICKHOUSE_PORT", str(found.clickhouse_port))
        patch.setenv("GATEWATCH_WRITER_PASSWORD", found.writer_password)
        patch.setenv("GATEWATCH_READER_PASSWORD", found.reader_password)
        # Waiting for the worker alone: those it depends on may have ended, as they should.
        with DockerCompose(ROOT, build=True, wait=True, services=["worker"]):
            yield found


def client(deployment: Deployment, user: str, password: str) -> clickhouse_connect.driver.Client:
    return clickhouse_connect.get_client(
        host="localhost", port=deployment.clickhouse_port, username=user, password=password
    )


def test_topics_are_made_as_the_pipeline_needs_them(deployment: Deployment) -> None:
    complaints = inspect_topics(deployment.kafka, pipeline_topics())
    assert not [complaint for found in complaints.values() for complaint in found]


def test_every_call_is_counted_once_by_two_workers(deployment: Deployment) -> None:
    reader = client(deployment, "reader", deployment.reader_password)
    emitter = Emitter(deployment.kafka, gateway="containers")
    try:
        for number in range(5_000):
            at_ms = time.time_ns() // 1_000_000
            emitter.emit(
                Call(
                    at_ms=at_ms,
                    gateway="containers",
                    call_id=f"call-{number}",
                    started_at_ms=at_ms - 500,
                    provider="openai",
                    model="gpt-4o",
                    total_ms=500.0,
                )
            )
        assert emitter.flush(30)
        assert emitter.dropped_total == 0

        def counts() -> tuple[int, int]:
            row = reader.query(
                "SELECT count(), uniqExact(call_id) FROM gatewatch.calls WHERE gateway = 'containers'"
            ).result_rows[0]
            return int(row[0]), int(row[1])

        assert until(lambda: counts() == (5_000, 5_000), 60), counts()
    finally:
        emitter.close(10)
        reader.close()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT count() FROM gatewatch_store.calls",
        "INSERT INTO gatewatch_store.calls (call_id) VALUES ('x')",
        "CREATE TABLE gatewatch.t (x UInt8) ENGINE = Memory",
        "DROP VIEW gatewatch.calls",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1:8123/ping', 'LineAsString')",
        "SELECT * FROM merge('gatewatch_store', 'calls')",
        "SET readonly = 0",
        "SELECT 1 SETTINGS max_memory_usage = 0",
        "SELECT 1 SETTINGS max_execution_time = 3600",
    ],
)
def test_the_reader_reads_views_and_can_do_nothing_else(deployment: Deployment, statement: str) -> None:
    reader = client(deployment, "reader", deployment.reader_password)
    try:
        with pytest.raises(ClickHouseError):
            reader.command(statement)
    finally:
        reader.close()


@pytest.mark.parametrize(
    ("user", "password"), [("default", ""), ("reader", ""), ("writer", ""), ("reader", "wrong")]
)
def test_nobody_comes_in_over_the_network_without_the_right_password(
    deployment: Deployment, user: str, password: str
) -> None:
    with pytest.raises(ClickHouseError):
        client(deployment, user, password)
