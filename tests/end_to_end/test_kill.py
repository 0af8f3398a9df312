"""SIGKILL at random moments: no event is lost, none is counted twice."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest
from kafka import KafkaProducer

from tests.end_to_end.pipeline import CHUNK_RECORDS, Pipeline, traffic, until

pytestmark = [pytest.mark.kafka, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(300)]

KILLS = 5
EVENTS = 200_000


def test_five_kills_lose_nothing_and_count_nothing_twice(
    start: Callable[..., Pipeline], in_background: Callable[[Callable[[], None]], threading.Thread]
) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")  # shown when the test fails; the moments cannot be the same again, the draws can
    draw = random.Random(seed)
    pipeline = start(workers=1)
    stack = pipeline.stack
    committed: list[dict[int, int]] = []
    stored: list[tuple[int, int]] = []
    events = traffic(seed)
    with pipeline.emitter() as emitter:
        for kill in range(KILLS + 1):
            portion = EVENTS // (KILLS + 1) + (EVENTS % (KILLS + 1) if kill == KILLS else 0)
            sending = in_background(lambda n=portion: pipeline.emit(emitter, events, n, per_s=12_000))  # type: ignore[misc]
            if kill < KILLS:
                before = pipeline.stored()
                if kill % 2:
                    assert until(lambda least=before: pipeline.stored() > least, 30)  # type: ignore[misc]
                # From the worker's first second, while it joins its group and reads again, to full work.
                threading.Event().wait(draw.uniform(0.0, 3.0))
                stored.append((pipeline.stored(), emitter.emitted_total))
                stack.kill_worker(0)
                committed.append(pipeline.committed())
            sending.join()
            assert stack.await_ready(60)
        _send_broken_lines(pipeline)
        assert emitter.flush(60)
        assert (emitter.emitted_total, emitter.dropped_total) == (EVENTS, 0)
    expected = pipeline.assert_exact()
    assert expected.events == EVENTS
    assert expected.rejects == 3
    # The kills struck a worker that had work in hand.
    assert any(0 < before < emitted for before, emitted in stored), stored
    committed.append(pipeline.committed())
    assert all(offset % CHUNK_RECORDS == 0 for offsets in committed for offset in offsets.values()), committed
    assert until(lambda: sum(pipeline.committed().values()) > 1500, 10)
    (emitters,) = pipeline.sink.rows("SELECT received, gaps, duplicates, lost FROM gatewatch.emitters")
    assert emitters == (EVENTS, 0, 0, 0)


def _send_broken_lines(pipeline: Pipeline) -> None:
    """Three lines that are no events, among none that are."""
    producer = KafkaProducer(bootstrap_servers=pipeline.stack.bootstrap)
    try:
        producer.send(pipeline.topic, value=b'{"kind":"call"', partition=0)
        producer.send(pipeline.topic, value=b"not json\n{]", partition=1)
        producer.flush(20)
    finally:
        producer.close()
