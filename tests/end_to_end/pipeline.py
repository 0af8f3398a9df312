"""A whole stack, real traffic for it, and what its tables say beside what they must say."""

from __future__ import annotations

import itertools
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition

from gatewatch.emitter import Emitter
from gatewatch.events import (
    EVENTS_TOPIC,
    Call,
    Evaluation,
    Event,
    Feedback,
    Latency,
    Request,
    Resource,
    Response,
    Token,
)
from sinks.clickhouse import Sink, SinkError
from streams.stack import Stack
from streams.topic import admin_client
from tests.end_to_end.recompute import Aggregate, Key, Recomputed, TopicRecord, differences, recompute

__all__ = ["CHUNK_RECORDS", "ENVIRONMENT", "GRACE_S", "Pipeline", "traffic", "until"]

GRACE_S: Final = 5
CHUNK_RECORDS: Final = 20
ENVIRONMENT: Final = {
    "GATEWATCH_FLUSH_INTERVAL_S": "0.2",
    "GATEWATCH_GRACE_S": str(GRACE_S),
    # Boundaries are crossed many times in a test's few thousand records.
    "GATEWATCH_CHUNK_RECORDS": str(CHUNK_RECORDS),
    # A killed worker's partitions are free after so long.
    "GATEWATCH_SESSION_TIMEOUT_S": "4",
}


def until(condition: Callable[[], bool], timeout_s: float, every_s: float = 0.1) -> bool:
    """Poll a condition; whether it came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(every_s)
    return True


def traffic(seed: int, *, spread_s: float = 600.0) -> Iterator[Event]:
    """Endless traffic of every kind, out of order: event times lie within the last ``spread_s`` seconds.

    A third of the calls come in parts. All times are relative to now, the rest is the seed's.
    """
    draw = random.Random(seed)
    run = draw.getrandbits(32)
    for number in itertools.count():
        at_ms = int((time.time() - draw.random() ** 2 * spread_s) * 1000)
        total_ms = round(draw.lognormvariate(6.5, 1.0), 3)
        started_at_ms = at_ms - int(total_ms)
        tenant = f"tenant-{draw.randrange(5)}"
        of_call: dict[str, Any] = {
            "gateway": draw.choice(("eu-1", "eu-2", "us-1")),
            "call_id": f"{run}-{number}",
            "started_at_ms": started_at_ms,
            "provider": "openai",
            "model": draw.choice(("gpt-4o", "gpt-4o-mini", "o3")),
            "deployment": draw.choice(("", "blue")),
            "tenant": tenant,
            "team": draw.choice(("search", "chat", "")),
        }
        times: dict[str, Any] = {"total_ms": total_ms, "ttft_ms": round(total_ms * draw.random(), 3)}
        outcome: dict[str, Any] = {
            "usage_source": draw.choice(("provider", "estimated", "missing")),
            "input_tokens": draw.randrange(4000),
            "output_tokens": draw.randrange(500),
            "stream_end": draw.choice(("complete", "complete", "client_disconnect", None)),
        }
        if draw.random() < 0.05:
            outcome["error_class"] = draw.choice(("rate_limit", "timeout", "server"))
        if draw.random() < 0.66:
            yield Call(at_ms=at_ms, **of_call, **outcome, **times, tpot_ms=round(draw.expovariate(0.05), 3))
        else:
            yield Request(at_ms=started_at_ms, **of_call, stream=True)
            yield Token(at_ms=at_ms - 1, **of_call, output_tokens_so_far=3)
            yield Response(at_ms=at_ms, **of_call, **outcome)
            yield Latency(at_ms=at_ms, **of_call, **times)
        if not number % 50:
            judged = {"gateway": "eu-1", "call_id": of_call["call_id"], "at_ms": at_ms}
            yield Feedback(**judged, name="thumbs", score=1.0)
            yield Evaluation(**judged, name="toxicity", score=0.1)
            yield Resource(at_ms=at_ms, gateway="eu-1", resource="gpu:0", gpu_utilization=0.5)


class Pipeline:
    """A running stack and what a test asks of it."""

    def __init__(self, stack: Stack, reports: list[str]) -> None:
        self.stack = stack
        self.reports = reports
        """What the supervisor has said so far."""
        self.topic = EVENTS_TOPIC
        self.sink = Sink(stack.engine_url, "writer", stack.writer_password, timeout_s=20)

    def close(self) -> None:
        self.sink.close()

    # -- sending

    def emitter(self, **options: Any) -> Emitter:
        return Emitter(self.stack.bootstrap, gateway="eu-1", **options)

    def emit(
        self, emitter: Emitter, events: Iterator[Event], count: int, *, per_s: float | None = None
    ) -> None:
        """Emit so many events, no faster than they are taken or than ``per_s``."""
        began = time.monotonic()
        for number in range(count):
            if not number % 100:
                while emitter.queued > emitter.queue_events // 2:
                    time.sleep(0.001)
                if per_s is not None:
                    time.sleep(max(0.0, began + number / per_s - time.monotonic()))
            emitter.emit(next(events))

    def emit_until(
        self, emitter: Emitter, events: Iterator[Event], over: threading.Event, *, per_s: float
    ) -> None:
        """Emit at a steady rate until told to stop."""
        began = time.monotonic()
        for number in itertools.count():
            if over.is_set():
                return
            if not number % 100:
                over.wait(max(0.0, began + number / per_s - time.monotonic()))
            emitter.emit(next(events))

    # -- what the topic holds

    def read_topic(self) -> list[TopicRecord]:
        """All records, from the first to the last that are there now."""
        consumer = KafkaConsumer(
            bootstrap_servers=self.stack.bootstrap,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_bytes=64 << 20,
            max_partition_fetch_bytes=16 << 20,
        )
        try:
            partitions = [
                TopicPartition(self.topic, number)
                for number in sorted(consumer.partitions_for_topic(self.topic) or ())
            ]
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            ends = consumer.end_offsets(partitions)
            found: list[TopicRecord] = []
            deadline = time.monotonic() + 60
            while any(consumer.position(partition) < end for partition, end in ends.items()):
                assert time.monotonic() < deadline, "the topic cannot be read to its end"
                for partition, records in consumer.poll(timeout_ms=500).items():
                    found += [
                        TopicRecord(partition.partition, record.offset, record.timestamp, record.value)
                        for record in records
                    ]
            return found
        finally:
            consumer.close()

    def committed(self) -> dict[int, int]:
        """The group's committed offset of each partition of the events topic."""
        with admin_client(self.stack.bootstrap, 20) as admin:
            offsets = admin.list_group_offsets({"gatewatch": None})["gatewatch"]
        return {
            partition.partition: entry.offset
            for partition, entry in offsets.items()
            if partition.topic == self.topic and entry.offset >= 0
        }

    # -- what the tables say

    def one(self, sql: str) -> Any:
        """The only value of a query."""
        ((value,),) = self.sink.rows(sql)
        return value

    def stored(self) -> int:
        """Events and dead letters that are stored; 0 while the engine does not answer."""
        try:
            return int(self.one("SELECT sum(events) + sum(rejects) FROM gatewatch.delivery"))
        except SinkError:
            return 0

    def measures(self) -> dict[Key, Aggregate]:
        rows = self.sink.rows(
            "SELECT signal, label, toUnixTimestamp(window_start), cut, gateway, provider, model, deployment, "
            "operation, tenant, team, n, sum, p50_ms, p95_ms, p99_ms FROM gatewatch.measures"
        )
        found = {Key(row[0], row[1], row[2], row[3], tuple(row[4:11])): Aggregate(*row[11:]) for row in rows}
        assert len(found) == len(rows), "a series has two rows in one window"
        return found

    def assert_exact(
        self, *, before: Sequence[TopicRecord] = (), grace_s: float = GRACE_S, timeout_s: float = 60.0
    ) -> Recomputed:
        """Every event of the topic is stored once, in every table, and every aggregate is right.

        Waits until everything is stored and windows that got late events have been corrected.

        Parameters
        ----------
        before
            What earlier topics of the same name held.
        grace_s
            That the workers were given.
        """
        expected = recompute([*before, *self.read_topic()], grace_ms=int(grace_s * 1000))
        wanted = expected.events + expected.rejects
        assert until(lambda: self.stored() >= wanted, timeout_s), (
            f"{self.stored()} of {wanted} lines are stored after {timeout_s:g} s"
        )
        wrong: list[str] = []

        def right() -> bool:
            wrong[:] = differences(expected.measures, self.measures())
            return not wrong

        assert until(right, timeout_s, 0.5), "\n".join([f"{len(wrong)} aggregates are wrong:", *wrong[:10]])
        assert self.sink.rows(
            "SELECT sum(records), sum(events), sum(duplicates), sum(late), sum(rejects) "
            "FROM gatewatch.delivery"
        ) == [(expected.records, expected.events, 0, expected.late, expected.rejects)]
        assert self.sink.rows("SELECT count(), uniqExact(call_id) FROM gatewatch.calls") == [
            (len(expected.call_ids), len(expected.call_ids))
        ]
        assert (
            self.one(
                "SELECT ifNull(sum(input_tokens), 0) FROM gatewatch.calls "
                "WHERE usage_source IN ('provider', 'estimated')"
            )
            == expected.input_tokens
        )
        for kind in ("feedback", "evaluation", "resource"):
            table = {"feedback": "feedback", "evaluation": "evaluations", "resource": "resources"}[kind]
            assert self.one(f"SELECT count() FROM gatewatch.{table}") == expected.placed.get(kind, 0), kind
        assert self.one("SELECT count() FROM gatewatch.dead_letters") == expected.rejects
        rows = self.sink.rows("SELECT emitter_id, received, gaps, duplicates, lost FROM gatewatch.emitters")
        assert {row[0]: row[1:3] for row in rows} == {
            name: (len(seqs), max(seqs) - min(seqs) + 1 - len(seqs)) for name, seqs in expected.seqs.items()
        }
        assert all(row[3] == 0 for row in rows)
        return expected

    # -- workers

    def partitions(self, worker: int) -> dict[int, int]:
        """A worker's partitions, each with the last offset that it has stored."""
        label = 'gatewatch_flushed_offset{partition="'
        try:
            samples = self.metrics(worker)
        except (OSError, KeyError):
            return {}  # it does not answer, or is gone
        return {
            int(name.removeprefix(label).removesuffix('"}')): int(value)
            for name, value in samples.items()
            if name.startswith(label)
        }

    def log(self, worker: int) -> str:
        return (self.stack.logs / f"worker-{worker}.log").read_text("utf-8", "replace")

    def metrics(self, worker: int) -> dict[str, float]:
        """The samples of a worker's ``/metrics``, by name and labels as they are written."""
        url = f"{self.stack.metrics_urls[f'worker-{worker}']}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def health(self, worker: int) -> tuple[int, str]:
        """Status and text of a worker's ``/healthz``."""
        url = f"{self.stack.metrics_urls[f'worker-{worker}']}/healthz"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode().strip()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode().strip()
