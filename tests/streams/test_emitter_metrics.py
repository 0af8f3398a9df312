"""Emitters on ``/metrics``: gaps, duplicates, drops and losses, as the view has them, at a bounded cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gatewatch.events import Resource
from signals.lane import Lane, Rules
from sinks.clickhouse import Sink, SinkError
from sinks.row import blocks
from sinks.schema import STORE
from streams.health import EmitterTotals, read_emitters
from streams.setting import Settings
from streams.worker import Worker
from tests.event import T0_MS, call, record


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(Settings(data_dir=tmp_path))
    yield worker
    worker.writer.close()


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


class Asked:
    """A writer that answers at once, fails, or takes its time."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.times = 0
        self.answer: EmitterTotals | None = EmitterTotals(0, 0, 0, 0)
        self.takes_s = 0.0

    async def once(self, work: Callable[[Sink], Any]) -> Any:
        assert work is read_emitters
        self.times += 1
        self.clock.now_s += self.takes_s
        if self.answer is None:
            raise SinkError("no answer")
        return self.answer


def emitter_metrics(worker: Worker) -> dict[str, float]:
    samples = [sample for metric in worker.health.collect() for sample in metric.samples]
    return {sample.name: sample.value for sample in samples if sample.name.startswith("gatewatch_emitter_")}


def test_totals_are_those_of_the_view(sink: Sink, worker: Worker) -> None:
    assert read_emitters(sink) == EmitterTotals(0, 0, 0, 0)
    drops = Resource(
        at_ms=T0_MS, gateway="eu-1", resource="emitter", emitter_id="e", seq=5, emitter_dropped_total=1
    )
    numbered = [call(seq, emitter_id="e", seq=seq) for seq in (0, 1, 1)]
    others = [call(seq, emitter_id="f", seq=seq) for seq in (2, 4)]
    lane = Lane(1, 0, Rules())
    lane.feed(0, T0_MS, record(*numbered, *others, drops))
    rows = lane.flush()
    assert rows is not None
    for name, block in blocks([rows]).items():
        sink.insert(f"{STORE}.{name}", block)
    # Of e 2, 3 and 4 are missing, of which one was dropped; of f 0, 1 and 3 are, of which 3 is a gap.
    worker.health.emitters = read_emitters(sink)
    assert emitter_metrics(worker) == {
        "gatewatch_emitter_gaps": 4,
        "gatewatch_emitter_duplicates": 1,
        "gatewatch_emitter_reported_drops": 1,
        "gatewatch_emitter_lost": 5,
    }


@pytest.fixture
def asked(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Asked:
    clock = Clock()
    asked = Asked(clock)
    monkeypatch.setattr("streams.worker.time", clock)
    monkeypatch.setattr(worker.writer, "once", asked.once)
    return asked


def test_they_are_read_every_half_minute_at_most(worker: Worker, asked: Asked) -> None:
    assert emitter_metrics(worker) == {}  # unknown is not nothing
    for times, waited_s in ((1, 0.0), (1, 5.0), (1, 24.0), (2, 1.0)):
        asked.clock.now_s += waited_s
        asyncio.run(worker.sample_emitters())
        assert asked.times == times


def test_a_slow_query_is_asked_less_often(worker: Worker, asked: Asked) -> None:
    asked.takes_s = 2.0
    asyncio.run(worker.sample_emitters())
    asked.clock.now_s += 99.0
    asyncio.run(worker.sample_emitters())
    assert asked.times == 1
    asked.clock.now_s += 1.0
    asyncio.run(worker.sample_emitters())
    assert asked.times == 2


def test_when_the_store_does_not_answer_the_last_values_stay(worker: Worker, asked: Asked) -> None:
    asked.answer = EmitterTotals(1, 2, 3, 4)
    asyncio.run(worker.sample_emitters())
    asked.answer = None
    asked.clock.now_s += 30.0
    with pytest.raises(SinkError):
        asyncio.run(worker.sample_emitters())
    assert asked.times == 2
    assert emitter_metrics(worker)["gatewatch_emitter_lost"] == 4
    asyncio.run(worker.sample_emitters())
    assert asked.times == 2  # a failure counts as a time
