"""Acknowledgements against Faust's own bookkeeping: what it would commit (no broker is needed for that).

Faust commits up to the first record that is not acknowledged, and where acknowledgements leave a gap of
one it commits past the record in the gap (faust#606). The pipeline rests on never giving it the chance.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from signals.lane import Lane
from streams.partition import Partition
from streams.setting import Settings
from streams.worker import Worker
from tests.event import T0_MS, call, record

CHUNK = 4


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(Settings(data_dir=tmp_path, chunk_records=CHUNK))
    yield worker
    worker.writer.close()


class Faust:
    """The consumer of a worker's application, at a committed offset."""

    def __init__(self, worker: Worker, committed: int) -> None:
        self.tp = TP(worker.settings.events_topic, 0)
        consumer: Any = worker.app.consumer
        self.consumer = consumer
        topics: Any = worker.app.topics
        topics._acking_topics.add(self.tp.topic)
        # As the worker does where it begins: 0 would be a falsehood to Faust.
        consumer._committed_offset[self.tp] = committed or None

    def message(self, offset: int) -> Any:
        message = ConsumerMessage(
            self.tp.topic,
            0,
            offset,
            time.time(),
            0,
            [],
            None,
            record(call(offset)),
            None,
            tp=self.tp,
        )
        self.consumer.track_message(message)
        message.incref()  # one agent has it
        return message

    @property
    def would_commit(self) -> int | None:
        """The offset that the next commit would write; None when it would write none."""
        return self.consumer._new_offset(self.tp)  # type: ignore[no-any-return]


def test_faust_commits_past_a_record_that_is_not_acknowledged(worker: Worker) -> None:
    """Why acknowledgements must be in order. When this fails, Faust is repaired and the rule may be eased."""
    faust = Faust(worker, committed=3)
    faust.message(3)
    four = faust.message(4)
    assert faust.consumer.ack(four)
    assert faust.would_commit == 5


@pytest.mark.parametrize("start", [0, CHUNK, 5 * CHUNK])
def test_only_the_ends_of_whole_chunks_are_ever_committed(worker: Worker, start: int) -> None:
    faust = Faust(worker, committed=start)
    partition = Partition(0, Lane(1, start, worker.rules), worker._acknowledge)
    seen = []
    for offset in range(start, start + 3 * CHUNK + 2):
        message = faust.message(offset)
        partition.feed(offset, T0_MS + 1000, message.value, message)
        # Stored after every record: the most occasions to acknowledge too much.
        rows = partition.lane.flush()
        assert rows is not None
        partition.stored(rows)
        commit = faust.would_commit
        if commit is not None:
            faust.consumer._committed_offset[faust.tp] = commit
            seen.append((offset, commit))
    assert seen == [(start + n * CHUNK - 1, start + n * CHUNK) for n in (1, 2, 3)]
