"""Workers that join, leave, hang and come back: every event is still counted once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest

from tests.end_to_end.pipeline import CHUNK_RECORDS, Pipeline, traffic, until

pytestmark = [pytest.mark.kafka, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(240)]


def test_a_second_worker_joins_and_leaves(
    start: Callable[..., Pipeline], in_background: Callable[[Callable[[], None]], threading.Thread]
) -> None:
    pipeline = start(workers=1)
    stack = pipeline.stack
    over = threading.Event()
    with pipeline.emitter() as emitter:
        sending = in_background(lambda: pipeline.emit_until(emitter, traffic(7), over, per_s=1_500))
        try:
            assert until(lambda: pipeline.stored() > 1_500, 30)
            second = stack.add_worker()
            share_the_work(pipeline, 0, second)

            # Leaves in order: its partitions go back at once.
            stack.stop_worker(second)
            assert until(lambda: len(pipeline.partitions(0)) == 4, 30), pipeline.partitions(0)
            progresses(pipeline, 0)

            # Comes again, and now the first one hangs for so long that it is taken for dead.
            third = stack.add_worker()
            share_the_work(pipeline, 0, third)
            hung = stack.pids["worker-0"]
            os.kill(hung, signal.SIGSTOP)
            try:
                assert until(lambda: len(pipeline.partitions(third)) == 4, 30), pipeline.partitions(third)
                progresses(pipeline, third)
            finally:
                os.kill(hung, signal.SIGCONT)
            # It goes on with rows of partitions that are another's by now, and must do no harm.
            share_the_work(pipeline, 0, third)
            assert stack.pids["worker-0"] == hung

            # And one is killed while two are at work; the stack starts it again.
            stack.kill_worker(third)
            assert stack.await_ready(60)
            share_the_work(pipeline, 0, third)
        finally:
            over.set()
            sending.join()
        assert emitter.flush(60)
        assert emitter.dropped_total == 0
        emitted = emitter.emitted_total
    assert stack.await_ready(60)
    expected = pipeline.assert_exact()
    assert expected.events == emitted
    assert pipeline.sink.rows("SELECT received, gaps, duplicates, lost FROM gatewatch.emitters") == [
        (emitted, 0, 0, 0)
    ]
    assert all(offset % CHUNK_RECORDS == 0 for offset in pipeline.committed().values())


def share_the_work(pipeline: Pipeline, *workers: int) -> None:
    """Wait until each partition is at one of the workers, each has some, and all of them progress."""

    def shared() -> bool:
        held = [list(pipeline.partitions(worker)) for worker in workers]
        return all(held) and sorted(number for numbers in held for number in numbers) == [0, 1, 2, 3]

    assert until(shared, 40), [pipeline.partitions(worker) for worker in workers]
    for worker in workers:
        progresses(pipeline, worker)


def progresses(pipeline: Pipeline, worker: int) -> None:
    """Wait until a worker has stored something more of each of its partitions."""
    before = pipeline.partitions(worker)

    def moved() -> bool:
        now = pipeline.partitions(worker)
        return bool(now) and all(offset > before.get(number, -1) for number, offset in now.items())

    assert until(moved, 30), (before, pipeline.partitions(worker))
