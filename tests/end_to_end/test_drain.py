"""SIGTERM: what was read is stored and acknowledged, quickly, also while the engine is down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from streams.broker import Broker
from streams.process import end, free_port, spawn
from streams.topic import create_topics, pipeline_topics
from tests.end_to_end.pipeline import CHUNK_RECORDS, Pipeline, traffic, until

pytestmark = [pytest.mark.kafka, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(240)]

KUBERNETES_KILLS_AFTER_S = 30.0


def test_sigterm_drains_and_an_engine_that_is_down_does_not_hold_it_up(
    start: Callable[..., Pipeline],
) -> None:
    # So long nothing is stored, unless a worker is told to stop.
    pipeline = start(environment={"GATEWATCH_FLUSH_INTERVAL_S": "10"})
    stack, events = pipeline.stack, traffic(11)

    def read() -> bool:
        age = 'gatewatch_oldest_unacknowledged_seconds{{partition="{}"}}'
        try:
            metrics = pipeline.metrics(0)
        except (OSError, KeyError):
            return False  # between two processes
        return all(metrics.get(age.format(number), 0) > 0.5 for number in range(4))

    with pipeline.emitter() as emitter:
        pipeline.emit(emitter, events, 12_000)
        assert emitter.flush(30)
        assert until(read, 20)
        assert pipeline.stored() == 0
        assert pipeline.committed() == {}
        assert terminate(pipeline) < 10
        drained: dict[int, int] = {
            int(number): int(last)
            for number, last in pipeline.sink.rows(
                "SELECT partition, max(last_offset) FROM gatewatch.delivery GROUP BY partition"
            )
        }
        # Everything that was read is stored, and the whole chunks of it are acknowledged.
        assert sum(last + 1 for last in drained.values()) >= 120, drained
        assert pipeline.committed() == {
            number: (last + 1) // CHUNK_RECORDS * CHUNK_RECORDS
            for number, last in drained.items()
            if last + 1 >= CHUNK_RECORDS
        }

        # While the engine is away nothing can be stored. The worker ends in time all the same.
        assert stack.await_ready(60)
        pipeline.emit(emitter, events, 4_000)
        assert emitter.flush(30)
        assert until(read, 20)
        stack.suspend("engine")
        assert terminate(pipeline) < KUBERNETES_KILLS_AFTER_S
        stack.resume("engine")
        emitted = emitter.emitted_total
    assert stack.await_ready(60)
    assert [line for line in pipeline.reports if "exit code" in line and "exit code 0" not in line] == []
    expected = pipeline.assert_exact()
    assert expected.events == emitted


def test_sigterm_ends_a_worker_that_waits_for_its_engine(
    broker: Broker, topic_name: Callable[[], str], tmp_path: Path
) -> None:
    topic, port = topic_name(), free_port()
    create_topics(broker.bootstrap, pipeline_topics(2, topic))
    log = tmp_path / "worker.log"
    process = spawn(
        [sys.executable, "-P", "-m", "gatewatch.cli", "worker"],
        log=log,
        environment={name: value for name, value in os.environ.items() if not name.startswith("GATEWATCH_")}
        | {
            "GATEWATCH_KAFKA": broker.bootstrap,
            "GATEWATCH_EVENTS_TOPIC": topic,
            "GATEWATCH_CONSUMER_GROUP": topic,
            "GATEWATCH_CLICKHOUSE_URL": f"http://127.0.0.1:{free_port()}",
            "GATEWATCH_METRICS_PORT": str(port),
            "GATEWATCH_DATA_DIR": str(tmp_path / "data"),
        },
    )
    try:
        assert until(lambda: "ClickHouse does not take rows" in log.read_text(), 30), log.read_text()
        with pytest.raises(urllib.error.HTTPError) as unhealthy:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5)
        with unhealthy.value as answer:
            assert answer.code == 503
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(KUBERNETES_KILLS_AFTER_S) == 0, log.read_text()
        except subprocess.TimeoutExpired:
            pytest.fail(f"the worker does not end:\n{log.read_text()}")
    finally:
        end(process, 0.1)


def terminate(pipeline: Pipeline) -> float:
    """Send SIGTERM to the worker; the seconds until it has ended."""
    process = psutil.Process(pipeline.stack.pids["worker-0"])
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 60, 0.02)
    return time.monotonic() - began
