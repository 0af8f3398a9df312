"""The topic changes under the worker: made again, more partitions, records deleted, offsets moved."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from gatewatch.events import encode
from streams.stack import Stack, StackError
from streams.topic import admin_client, create_topics
from tests.end_to_end.pipeline import CHUNK_RECORDS, ENVIRONMENT, Pipeline, until
from tests.event import call

pytestmark = [pytest.mark.kafka, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(240)]

EVENTS_A_RECORD = 5


class Log:
    """Writes numbered records of five events each, so that offsets are known."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._number = 0

    def append(self, records: int, partition: int = 0) -> None:
        """Append records to a partition; returns when the broker has them."""
        producer = KafkaProducer(bootstrap_servers=self._pipeline.stack.bootstrap)
        try:
            for _ in range(records):
                now_ms = int(time.time() * 1000)
                events = []
                for _ in range(EVENTS_A_RECORD):
                    events.append(encode(call(self._number, at_ms=now_ms, usage_source="missing")))
                    self._number += 1
                producer.send(self._pipeline.topic, value=b"\n".join(events), partition=partition)
            producer.flush(30)
        finally:
            producer.close()


def remake(pipeline: Pipeline, partitions: int) -> None:
    """Delete the topic and make it again."""
    with admin_client(pipeline.stack.bootstrap, 20) as admin:
        admin.delete_topics([pipeline.topic])
        assert until(lambda: pipeline.topic not in admin.list_topics(), 20)
    create_topics(pipeline.stack.bootstrap, {pipeline.topic: partitions})


def test_a_topic_that_is_made_again_is_another_source(start: Callable[..., Pipeline]) -> None:
    # Long enough for a worker that hangs to keep its partitions: nobody tells it to begin anew.
    pipeline = start(partitions=2, environment={"GATEWATCH_SESSION_TIMEOUT_S": "12"})
    stack, log = pipeline.stack, Log(pipeline)
    # Partition 1 is empty when the topic goes: nothing but the topic's own id tells the new one apart.
    log.append(45)
    before = pipeline.read_topic()
    pipeline.assert_exact()

    # While the worker does not look. The new topic holds more than it has read of the old one, so that
    # nothing is wrong with the offset at which it would go on.
    hung = stack.pids["worker-0"]
    os.kill(hung, signal.SIGSTOP)
    try:
        remake(pipeline, 2)
        log.append(90)
        log.append(70, partition=1)
        threading.Event().wait(6)
    finally:
        os.kill(hung, signal.SIGCONT)
    second = pipeline.read_topic()
    assert len(second) == 160
    pipeline.assert_exact(before=before)
    assert stack.await_ready(60)
    assert pipeline.one("SELECT count() FROM gatewatch.sources") == 4
    assert "was deleted and made again" in pipeline.log(0)

    # While no worker runs.
    stack.stop_worker(0)
    remake(pipeline, 2)
    log.append(50)
    log.append(30, partition=1)
    stack.add_worker()
    pipeline.assert_exact(before=before + second)
    assert pipeline.one("SELECT count() FROM gatewatch.sources") == 6

    # More partitions: the worker notices by itself.
    with admin_client(stack.bootstrap, 20) as admin:
        admin.create_partitions({pipeline.topic: 3})
    log.append(25, partition=2)
    assert until(lambda: sorted(pipeline.partitions(1)) == [0, 1, 2], 60)
    pipeline.assert_exact(before=before + second)


def test_what_cannot_be_read_or_must_not_be_is_refused_aloud(start: Callable[..., Pipeline]) -> None:
    pipeline = start(partitions=1)
    stack, log = pipeline.stack, Log(pipeline)
    partition = TopicPartition(pipeline.topic, 0)
    log.append(CHUNK_RECORDS + 5)
    pipeline.assert_exact()
    stack.stop_worker(0)
    assert pipeline.committed() == {0: CHUNK_RECORDS}

    # Retention has reached into a chunk: what is left of it cannot be aggregated as a whole.
    log.append(40)
    with admin_client(stack.bootstrap, 20) as admin:
        admin.delete_records({partition: CHUNK_RECORDS + 10})
    worker = stack.add_worker()
    end = CHUNK_RECORDS + 5 + 40
    assert until(lambda: pipeline.partitions(worker) == {0: end - 1}, 30)
    assert pipeline.metrics(worker)["gatewatch_headless_chunks_total"] == 1
    assert "can no longer be read" in pipeline.log(worker)
    # Five records were lost to retention. Of the chunk that they are part of the calls are stored and the
    # aggregates stay as they were; whole chunks behind it have both.
    assert pipeline.one("SELECT count() FROM gatewatch.calls") == (end - 5) * EVENTS_A_RECORD
    behind = end - 2 * CHUNK_RECORDS
    aggregated = (CHUNK_RECORDS + 5 + behind) * EVENTS_A_RECORD
    assert pipeline.stored() == aggregated

    def measured() -> int:
        return int(
            pipeline.one(
                "SELECT sum(n) FROM gatewatch.measures "
                "WHERE signal = 'performance_calls_count' AND cut = 'gateway'"
            )
        )

    assert until(lambda: measured() == aggregated, 20), (measured(), aggregated)
    stack.stop_worker(worker)

    # The broker has lost what this group has read.
    committed = pipeline.committed()[0]
    move(pipeline, partition, 10_000)
    with pytest.raises(StackError, match=r"ends? at offset 65, but .*10000"):
        stack.add_worker()
    move(pipeline, partition, committed)

    # Another chunk size would count every event of a stored chunk twice.
    pipeline.close()
    stack.stop()
    with pytest.raises(StackError, match=f"Set GATEWATCH_CHUNK_RECORDS={CHUNK_RECORDS}"):
        Stack(stack.data, 1, environment=ENVIRONMENT | {"GATEWATCH_CHUNK_RECORDS": "30"}).start()


def move(pipeline: Pipeline, partition: TopicPartition, offset: int) -> None:
    """Move the group's offset; the group must have no member."""
    with admin_client(pipeline.stack.bootstrap, 20) as admin:

        def moved() -> bool:
            # A worker that died takes a moment to be forgotten.
            try:
                admin.alter_group_offsets("gatewatch", {partition: OffsetAndMetadata(offset, "", -1)})
            except Exception:
                return False
            return pipeline.committed().get(0) == offset

        assert until(moved, 20, 0.5)
