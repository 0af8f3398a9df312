"""What a worker says of itself: `/healthz` follows progress, `/metrics` and views agree with the topic."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kafka import KafkaProducer

from tests.end_to_end.pipeline import Pipeline, traffic, until

pytestmark = [pytest.mark.kafka, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(180)]

STALLED_S = 3


def test_health_follows_progress_and_the_numbers_agree(start: Callable[..., Pipeline]) -> None:
    pipeline = start(environment={"GATEWATCH_STALLED_S": str(STALLED_S)})
    stack, events = pipeline.stack, traffic(5)
    assert pipeline.health(0) == (200, "ok")
    # The queue holds less than is emitted before anybody takes anything: drops, counted and reported.
    with pipeline.emitter(queue_events=2_000) as emitter:
        for event in (next(events) for _ in range(30_000)):
            emitter.emit(event)
        assert emitter.flush(30)
        assert emitter.dropped_total > 0
        producer = KafkaProducer(bootstrap_servers=stack.bootstrap)
        producer.send(pipeline.topic, value=b"no event\nnor this").get(20)
        producer.close()
    assert emitter.emitted_total == emitter.delivered_total + emitter.dropped_total
    expected = pipeline.assert_exact()
    assert expected.events == emitter.delivered_total
    assert expected.late > 0

    def of_all(name: str, metrics: dict[str, float]) -> float:
        return sum(value for sample, value in metrics.items() if sample.partition("{")[0] == name)

    metrics = pipeline.metrics(0)
    assert metrics["gatewatch_events_total"] == expected.events
    assert metrics["gatewatch_rejects_total"] == expected.rejects == 2
    assert metrics["gatewatch_late_events_total"] == expected.late
    assert metrics["gatewatch_duplicate_events_total"] == 0
    assert metrics["gatewatch_insert_errors_total"] == 0
    assert metrics["gatewatch_sink_up"] == 1
    assert of_all("gatewatch_lag_records", metrics) == 0
    assert metrics['gatewatch_rows_written_total{table="rejects"}'] == 2
    assert metrics['gatewatch_rows_written_total{table="calls"}'] >= len(expected.call_ids)
    # Some record of a chunk that is not complete waits to be acknowledged.
    assert of_all("gatewatch_oldest_unacknowledged_seconds", metrics) > 0
    assert pipeline.sink.rows(
        "SELECT gaps, duplicates, reported_drops, lost FROM gatewatch.emitters "
        "WHERE emitter_id = {id:String}",
        {"id": emitter.emitter_id},
    ) == [(gaps(expected.seqs[emitter.emitter_id]), 0, emitter.dropped_total, 0)]
    samples = "SELECT max(events_total), max(rejects_total), min(lag_records) FROM gatewatch.workers"
    assert until(lambda: pipeline.sink.rows(samples) == [(expected.events, 2, 0)], 20)

    # Without the engine nothing progresses: the process is up, and not healthy.
    stack.suspend("engine")
    with pipeline.emitter() as emitter:
        pipeline.emit(emitter, events, 5_000)
        assert emitter.flush(30)
        pid = stack.pids["worker-0"]
        assert until(lambda: pipeline.health(0)[0] == 503, STALLED_S + 20, 0.25)
        assert "records wait, none stored for" in pipeline.health(0)[1]
        # A statement may be waiting for its own limit first.
        assert until(lambda: pipeline.metrics(0)["gatewatch_insert_errors_total"] > 0, 30)
        failing = pipeline.metrics(0)
        assert failing["gatewatch_sink_up"] == 0
        assert of_all("gatewatch_lag_records", failing) > 0
        stack.resume("engine")
        assert until(lambda: pipeline.health(0) == (200, "ok"), 30)
    assert stack.pids["worker-0"] == pid
    pipeline.assert_exact()
    assert pipeline.metrics(0)["gatewatch_sink_up"] == 1


def gaps(seqs: set[int]) -> int:
    return max(seqs) - min(seqs) + 1 - len(seqs)
