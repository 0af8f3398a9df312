"""Late and out-of-order events: every window is right in the end, and what was late is known."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gatewatch.events import Call, Event
from tests.end_to_end.pipeline import Pipeline, traffic, until
from tests.event import call
from traffic.trace import Trace

pytestmark = [pytest.mark.kafka, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(180)]


def test_late_events_correct_windows_that_were_closed(start: Callable[..., Pipeline]) -> None:
    pipeline = start()
    # A window that ended long ago, so that it is closed as soon as the pipeline knows of it.
    window_s = int(time.time()) // 60 * 60 - 600
    numbers = itertools.count()

    def slow(count: int, total_ms: float) -> Iterator[Event]:
        for _ in range(count):
            number = next(numbers)
            yield call(number, at_ms=window_s * 1000 + number % 60_000, total_ms=total_ms)

    def measured() -> list[tuple[object, ...]]:
        return [
            tuple(row)
            for row in pipeline.sink.rows(
                "SELECT n, round(p50_ms), is_closed FROM gatewatch.measures "
                "WHERE signal = 'performance_latency_us' AND cut = 'gateway' "
                f"AND window_start = toDateTime({window_s}, 'UTC')"
            )
        ]

    with pipeline.emitter() as emitter:
        pipeline.emit(emitter, slow(1000, 100.0), 1000)
        assert emitter.flush(20)
        assert until(lambda: [row[::2] for row in measured()] == [(1000, True)], 40), measured()
        (first,) = measured()
        assert first[1] == pytest.approx(100, rel=0.011)

        # Twice as many, ten minutes late and ten times as slow: the median moves, the window stays closed.
        pipeline.emit(emitter, slow(2000, 1000.0), 2000)
        assert emitter.flush(20)
        assert until(lambda: [row[::2] for row in measured()] == [(3000, True)], 40), measured()
        (second,) = measured()
        assert second[1] == pytest.approx(1000, rel=0.011)
        # And of every kind, all at once.
        pipeline.emit(emitter, traffic(3), 4000)
        assert emitter.flush(20)
    expected = pipeline.assert_exact()
    assert expected.late > 3000
    assert expected.events == 7000


def test_58_s_out_of_order_is_not_late_and_a_real_trace_in_any_order_is_right(
    start: Callable[..., Pipeline], shared_data: Path
) -> None:
    # The default grace: real gateways' logs are up to 58 s out of order.
    pipeline = start(environment={"GATEWATCH_GRACE_S": "60"})
    with pipeline.emitter() as emitter:
        pipeline.emit(emitter, traffic(13, spread_s=55.0), 6000)
        assert emitter.flush(20)
    expected = pipeline.assert_exact(grace_s=60)
    assert (expected.events, expected.late) == (6000, 0)

    # A real trace as if it had ended now, each event up to 58 s after its turn: most of it is late.
    draw = random.Random(13)
    path = shared_data / "traces" / "azure_llm_2023" / "AzureLLMInferenceTrace_conv.csv.gz"
    trace = itertools.islice(Trace("azure", [path], run="late"), 10_000)
    calls = [item.payload for item in trace if isinstance(item.payload, Call)]
    calls.sort(key=lambda event: event.at_ms + draw.uniform(0, 58_000))
    shift_ms = int(time.time() * 1000) - max(event.at_ms for event in calls)
    with pipeline.emitter() as emitter:
        for event in calls:
            event.at_ms += shift_ms
            event.started_at_ms += shift_ms
        pipeline.emit(emitter, iter(calls), len(calls))
        assert emitter.flush(20)
    expected = pipeline.assert_exact(grace_s=60)
    assert expected.events == 16_000
    assert expected.late > 5_000
