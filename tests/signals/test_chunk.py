"""One chunk's aggregates: limits, labels, what counts, and the order of rows."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gatewatch.events import Call, CallEvent, Token
from signals.chunk import FAMILIES, SIGNALS, Chunk, Measured, series_name
from signals.column import CallBatch
from signals.signal import CUTS
from signals.sketch import bucket_of
from tests.event import T0_MS, call, pieces

WINDOW = T0_MS // 1000


def add(
    chunk: Chunk, *events: CallEvent, late: Set[int] = frozenset(), duplicate: Set[int] = frozenset()
) -> None:
    """Add events; ``late`` and ``duplicate`` name some by their place."""
    batch = CallBatch()
    for piece in pieces(*events):
        batch.add(piece, np.arange(len(piece)))
    n = len(events)
    kinds = sorted({str(type(event).__struct_config__.tag) for event in events})
    chunk.add(
        Measured(
            at_ms=np.array([event.at_ms for event in events], dtype=np.int64),
            late=np.isin(np.arange(n), list(late)),
            duplicate=np.isin(np.arange(n), list(duplicate)),
            gateway=pa.array([event.gateway for event in events], pa.string()),
            kind=np.array([kinds.index(str(type(event).__struct_config__.tag)) for event in events]),
            kinds=kinds,
            calls=batch.table(),
        )
    )


def measured(chunk: Chunk, family: str = "performance") -> dict[tuple[str, str, str, int], tuple[int, int]]:
    """(signal, label, series, window) -> (n, sum)."""
    arrays = {name: array.to_pylist() for name, array in chunk.family(family).items()}
    keys = zip(arrays["signal"], arrays["label"], arrays["series"], arrays["window"], strict=True)
    return dict(zip(keys, zip(arrays["n"], arrays["sum"], strict=True), strict=True))


def test_a_series_is_a_json_array_whatever_its_values_hold() -> None:
    assert series_name("model", ['a"b', "c,d"]) == '["model","a\\"b","c,d"]'
    assert series_name("all", ()) == '["all"]'


def test_every_cut_counts_every_call_once() -> None:
    chunk = Chunk(100)
    add(chunk, *[call(i, model=f"m{i % 3}", tenant=f"t{i % 2}", deployment="d") for i in range(12)])
    by_cut: dict[str, int] = {}
    for (signal, _, series, _), (n, _) in measured(chunk).items():
        if signal == "performance_calls_count":
            cut = series.split('"')[1]
            by_cut[cut] = by_cut.get(cut, 0) + n
    assert by_cut == {cut.name: 12 for cut in CUTS}


def test_series_past_the_limit_are_counted_together_in_the_order_of_their_first_event() -> None:
    chunk = Chunk(2)
    add(chunk, *[call(i, model=model) for i, model in enumerate("baabcdc")])
    got = {
        series: n
        for (signal, _, series, _), (n, _) in measured(chunk).items()
        if signal == "performance_calls_count" and series.startswith('["model"')
    }
    assert got == {
        '["model","openai","b"]': 2,
        '["model","openai","a"]': 2,
        '["model","__other__","__other__"]': 3,
    }


def test_the_limit_counts_events_in_their_order_whatever_their_kinds() -> None:
    common: dict[str, Any] = {"gateway": "eu-1", "provider": "openai", "started_at_ms": T0_MS - 500}
    chunk = Chunk(1)
    add(
        chunk,
        Token(at_ms=T0_MS, call_id="t", model="first", ttft_ms=5.0, **common),
        Call(at_ms=T0_MS, call_id="c", model="second", ttft_ms=5.0, **common),
    )
    models = {series for _, _, series, _ in measured(chunk) if series.startswith('["model"')}
    assert models == {'["model","openai","first"]', '["model","__other__","__other__"]'}


def test_a_duplicate_is_counted_and_left_out_of_the_aggregates() -> None:
    chunk = Chunk(10)
    add(chunk, call(1), call(1), duplicate={1})
    assert measured(chunk)["performance_calls_count", "", '["gateway","eu-1"]', WINDOW] == (1, 0)
    assert measured(chunk, "pipeline")[
        "pipeline_duplicate_events_count", "", '["gateway","eu-1"]', WINDOW
    ] == (1, 0)
    assert chunk.totals.events == 2
    assert chunk.totals.duplicates == 1


def test_late_events_and_rejects_are_counted_and_late_events_still_count() -> None:
    chunk = Chunk(10)
    add(chunk, call(1), call(2), late={0})
    chunk.reject("invalid_json", T0_MS + 60_000)
    chunk.reject("invalid_json", T0_MS + 60_001)
    pipeline = measured(chunk, "pipeline")
    assert pipeline["pipeline_late_events_count", "", '["gateway","eu-1"]', WINDOW] == (1, 0)
    assert pipeline["pipeline_rejects_count", "invalid_json", '["all"]', WINDOW + 60] == (2, 0)
    assert measured(chunk)["performance_calls_count", "", '["gateway","eu-1"]', WINDOW] == (2, 0)
    assert (chunk.totals.late, chunk.totals.rejects) == (1, 2)


def test_windows_are_cut_by_the_events_own_time() -> None:
    chunk = Chunk(10)
    add(chunk, call(-1), call(0), call(59_999), call(60_000))
    counts = {
        window: n
        for (signal, _, series, window), (n, _) in measured(chunk).items()
        if signal == "performance_calls_count" and series == '["gateway","eu-1"]'
    }
    assert counts == {WINDOW - 60: 1, WINDOW: 2, WINDOW + 60: 1}


def test_labels_name_errors_and_streams_that_were_cut() -> None:
    chunk = Chunk(10)
    add(
        chunk,
        call(1, error_class="overload"),
        call(2, error_class="rate_limit", stream_end="upstream_error"),
        call(3, stream_end="complete"),
        call(4, error_class="overload", stream_end="timeout"),
    )
    gateway = '["gateway","eu-1"]'
    got = {key[:2]: n for key, (n, _) in measured(chunk).items() if key[2] == gateway and key[1]}
    assert got == {
        ("performance_errors_count", "overload"): 2,
        ("performance_errors_count", "rate_limit"): 1,
        ("performance_streams_cut_count", "upstream_error"): 1,
        ("performance_streams_cut_count", "timeout"): 1,
    }


def test_sums_of_large_numbers_are_exact() -> None:
    chunk = Chunk(10)
    add(chunk, *[call(i, input_tokens=999_999_999, total_ms=604_799_999.999) for i in range(3)])
    gateway = '["gateway","eu-1"]'
    assert measured(chunk)["performance_input_tokens_sum", "", gateway, WINDOW] == (3, 2_999_999_997)
    assert measured(chunk)["performance_latency_us", "", gateway, WINDOW] == (3, 1_814_399_999_997)


def test_tokens_of_a_running_stream_are_no_total() -> None:
    chunk = Chunk(10)
    running = Token(
        at_ms=T0_MS,
        gateway="eu-1",
        call_id="c",
        started_at_ms=T0_MS,
        provider="openai",
        model="gpt-4o",
        output_tokens_so_far=7,
    )
    add(chunk, running, call(1, output_tokens=10, usage_source="estimated"))
    gateway = '["gateway","eu-1"]'
    assert measured(chunk)["performance_output_tokens_sum", "", gateway, WINDOW] == (1, 10)


def test_sketches_stand_beside_their_series_and_add_up_to_n() -> None:
    chunk = Chunk(10)
    add(chunk, *[call(i, model=f"m{i % 2}", total_ms=float(10**i)) for i in range(6)])
    arrays = {name: array.to_pylist() for name, array in chunk.family("performance").items()}
    for i, signal in enumerate(arrays["signal"]):
        assert sum(arrays["counts"][i]) == (arrays["n"][i] if SIGNALS[signal].stat == "sketch" else 0)
    at = [
        i
        for i, signal in enumerate(arrays["signal"])
        if signal == "performance_latency_us" and arrays["series"][i] == '["model","openai","m1"]'
    ]
    expected = bucket_of(np.array([10_000, 1_000_000, 100_000_000])).tolist()
    assert [arrays["buckets"][i] for i in at] == [expected]
    assert [arrays["counts"][i] for i in at] == [[1, 1, 1]]


def test_rows_are_ordered_by_signal_label_series_and_window() -> None:
    chunk = Chunk(10)
    add(chunk, *[call(61_000 * (i % 3), model=f"m{9 - i}", error_class="other") for i in range(9)])
    for family in FAMILIES:
        keys = list(measured(chunk, family))
        assert keys == sorted(keys)


def test_a_chunk_that_has_seen_nothing_has_empty_rows() -> None:
    assert measured(Chunk(10)) == {}
    assert measured(Chunk(10), "pipeline") == {}


def test_a_limit_that_does_not_fit_the_key_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 32767"):
        Chunk(40_000)
