"""The engine fails, then the broker: nothing is lost, memory is bounded, gateways notice nothing."""

from __future__ import annotations

import itertools
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from gatewatch.events import Call
from tests.end_to_end.pipeline import Pipeline, until

pytestmark = [pytest.mark.kafka, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(300)]

OUTAGE_S = 30.0
PENDING_BYTES = 16 << 20
LIVE_PER_S = 3_000


def calls(run: str) -> Iterator[Call]:
    """Endless calls that are cheap to make and as large as real ones."""
    draw = random.Random(run)
    times = [round(draw.lognormvariate(6.5, 1.0), 3) for _ in range(997)]
    for number in itertools.count():
        at_ms = time.time_ns() // 1_000_000
        yield Call(
            at_ms=at_ms,
            gateway="eu-1",
            call_id=f"{run}-{number:012d}",
            started_at_ms=at_ms - 500,
            provider="anthropic",
            model="claude-sonnet-4-5",
            tenant="acme",
            team="search",
            key_alias="search-prod",
            stream=True,
            stream_end="complete",
            status_code=200,
            finish_reason="end_turn",
            usage_source="provider",
            input_tokens=1,
            output_tokens=17,
            total_ms=times[number % len(times)],
            ttft_ms=50.0,
        )


class Sender:
    """Emits at a steady rate in a thread of its own, and takes the time of every ``emit()``."""

    def __init__(self, pipeline: Pipeline, run: str, **options: int) -> None:
        self.emitter = pipeline.emitter(**options)
        self.per_s = LIVE_PER_S
        self.emit_us: list[float] = []
        self._events = calls(run)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.emitter.close(0)

    def finish(self) -> None:
        """Stop emitting and deliver what is queued."""
        self._over.set()
        self._thread.join()
        assert self.emitter.close(60), "the emitter cannot deliver what it holds"

    def take_times(self) -> list[float]:
        """Microseconds of each ``emit()`` since the last time."""
        taken, self.emit_us = self.emit_us, []
        return taken

    def _run(self) -> None:
        emit, clock = self.emitter.emit, time.perf_counter_ns
        due = time.monotonic()
        while not self._over.is_set():
            due = max(due + 0.01, time.monotonic() - 0.5)
            for event in itertools.islice(self._events, int(self.per_s * 0.01)):
                began = clock()
                emit(event)
                self.emit_us.append((clock() - began) / 1000)
            self._over.wait(max(0.0, due - time.monotonic()))


def rest(seconds: float) -> None:
    """An outage takes its time: this is no synchronisation."""
    threading.Event().wait(seconds)


def test_half_a_minute_without_the_engine_then_without_the_broker(start: Callable[..., Pipeline]) -> None:
    pipeline = start(environment={"GATEWATCH_PENDING_BYTES": str(PENDING_BYTES)})
    with Sender(pipeline, "engine", queue_events=1_000_000, queue_bytes=1 << 30) as sender:
        fail_the_engine(pipeline, sender)
    with Sender(pipeline, "broker", queue_events=20_000) as sender:
        fail_the_broker(pipeline, sender)


def fail_the_engine(pipeline: Pipeline, sender: Sender) -> None:
    stack, emitter = pipeline.stack, sender.emitter
    assert until(lambda: pipeline.stored() > 3 * LIVE_PER_S, 30)
    worker = psutil.Process(stack.pids["worker-0"])
    before_bytes = worker.memory_info().rss

    sender.per_s = 20_000
    began, emitted = time.monotonic(), emitter.emitted_total
    grown: list[int] = []
    # It hangs, dies, and is away.
    os.kill(stack.pids["engine"], signal.SIGSTOP)
    for suspended in (False, True):
        if suspended:
            stack.kill("engine")
            stack.suspend("engine")
        deadline = time.monotonic() + OUTAGE_S / 2
        while time.monotonic() < deadline:
            grown.append(worker.memory_info().rss - before_bytes)
            rest(0.2)
    outage_s = time.monotonic() - began
    outage_per_s = (emitter.emitted_total - emitted) / outage_s
    assert pipeline.stored() == 0, "the engine answers"
    failing = pipeline.metrics(0)
    assert failing["gatewatch_sink_up"] == 0
    assert failing["gatewatch_insert_errors_total"] > 0
    # Twice: one half is being written while the other is read. Rows are larger than lines.
    print(f"worker grew by {max(grown) >> 20} MiB at {outage_per_s:.0f} events/s for {outage_s:.0f} s")
    assert max(grown) < 8 * PENDING_BYTES, f"the worker grew by {max(grown) >> 20} MiB"

    sender.per_s = LIVE_PER_S
    stack.resume("engine")
    resumed, stored = time.monotonic(), pipeline.stored()
    behind = emitter.emitted_total - stored
    # Live events go on meanwhile.
    assert until(lambda: pipeline.stored() > emitter.emitted_total - LIVE_PER_S, 120)
    caught_up_s = time.monotonic() - resumed
    caught_up_per_s = (pipeline.stored() - stored) / caught_up_s
    print(f"{behind} events behind, caught up in {caught_up_s:.1f} s: {caught_up_per_s:.0f} events/s")
    assert worker.is_running(), "the worker did not live through it"
    assert caught_up_per_s > 2 * LIVE_PER_S
    sender.finish()
    total = emitter.emitted_total
    assert (emitter.delivered_total, emitter.dropped_total) == (total, 0)
    assert_stored(pipeline, emitter.emitter_id, total)
    calls_of(pipeline, "engine", total)


def fail_the_broker(pipeline: Pipeline, sender: Sender) -> None:
    stack, emitter = pipeline.stack, sender.emitter
    sender.per_s = 2_000
    assert until(lambda: emitter.delivered_total > 5 * sender.per_s, 30)
    up_us = sender.take_times()
    stack.suspend("kafka")
    down_at = emitter.emitted_total
    sender.take_times()
    rest(OUTAGE_S)
    down_us = sender.take_times()
    assert emitter.emitted_total - down_at > 0.8 * OUTAGE_S * sender.per_s
    dropped = emitter.dropped_by_reason
    assert dropped["queue_full"] > 10_000, dropped
    assert emitter.queued <= emitter.queue_events
    # As fast as ever, whatever else runs on this machine at the moment.
    up, down = statistics.median(up_us), statistics.median(down_us)
    slow = sum(took > 5_000 for took in down_us) / len(down_us)
    print(f"emit() {up:.1f} us with the broker, {down:.1f} us without; {slow:.5%} take over 5 ms")
    assert down < 2 * up + 5
    assert slow < 0.001

    stack.resume("kafka")
    delivered = emitter.delivered_total
    assert until(lambda: emitter.delivered_total > delivered + 30_000, 60), "nothing flows afterwards"
    sender.finish()
    counts = emitter.dropped_by_reason
    assert emitter.emitted_total == emitter.delivered_total + emitter.dropped_total
    assert counts["queue_full"] == emitter.dropped_total, counts
    assert_stored(pipeline, emitter.emitter_id, emitter.delivered_total)
    rows = pipeline.sink.rows(
        "SELECT gaps, duplicates, reported_drops, lost FROM gatewatch.emitters "
        "WHERE emitter_id = {id:String}",
        {"id": emitter.emitter_id},
    )
    assert rows == [(emitter.dropped_total, 0, emitter.dropped_total, 0)]


def assert_stored(pipeline: Pipeline, emitter_id: str, events: int) -> None:
    def received() -> list[tuple[int, int]]:
        return [
            (int(row[0]), int(row[1]))
            for row in pipeline.sink.rows(
                "SELECT received, duplicates FROM gatewatch.emitters WHERE emitter_id = {id:String}",
                {"id": emitter_id},
            )
        ]

    assert until(lambda: received()[0][0] >= events, 90), (received(), events)
    assert received() == [(events, 0)]


def calls_of(pipeline: Pipeline, run: str, calls: int) -> None:
    """Rows and aggregates agree with what was emitted: every call has one input token."""
    where = f"WHERE startsWith(call_id, '{run}-')"
    assert pipeline.sink.rows(
        f"SELECT count(), uniqExact(call_id), sum(input_tokens) FROM gatewatch.calls {where}"
    ) == [(calls, calls, calls)]

    def measured() -> list[tuple[int, int]]:
        return [
            (int(row[0]), int(row[1]))
            for row in pipeline.sink.rows(
                "SELECT sum(n), sum(sum) FROM gatewatch.measures "
                "WHERE signal = 'performance_input_tokens_sum' AND cut = 'gateway'"
            )
        ]

    assert until(lambda: measured() == [(calls, calls)], 30, 0.5), (measured(), calls)
