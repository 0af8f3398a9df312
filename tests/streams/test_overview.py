"""The overview: rates and quantiles of the last seconds, from the views."""

from __future__ import annotations

import time
from decimal import Decimal

import pytest

from gatewatch.events import encode
from signals.lane import Lane, Rules
from sinks.clickhouse import Sink
from sinks.schema import STORE
from sinks.source import add_source
from streams.overview import SPAN_S, DeadLetterCount, TenantSpend, read_overview
from tests.event import call
from tests.stored import flush


def store(sink: Sink, *lines: bytes) -> None:
    add_source(
        sink,
        1,
        cluster="test",
        topic="gatewatch.events.v1",
        incarnation="one",
        partition=0,
        chunk_records=100,
    )
    lane = Lane(1, 0, Rules(chunk_records=100))
    for offset, line in enumerate(lines):
        lane.feed(offset, time.time_ns() // 1_000_000, line)
    flush(sink, lane)


def test_an_empty_store_has_an_overview(sink: Sink) -> None:
    overview = read_overview(sink, 0.0)
    assert (overview.events, overview.rejects, overview.calls_per_s) == (0, 0, 0.0)
    assert overview.lag_records is None
    assert overview.fresh_s is None and overview.ttft_p50_ms is None
    assert not overview.models and not overview.tenants and not overview.dead_letters


def test_rates_are_over_the_last_seconds_that_are_stored(sink: Sink) -> None:
    now_ms = time.time_ns() // 1_000_000
    newest_ms = now_ms - 2000
    old = [call(number, at_ms=newest_ms - round(SPAN_S * 1000) - 1 - number) for number in range(50)]
    fast = [
        call(
            100 + number,
            at_ms=newest_ms - 10 * number,
            tenant="acme",
            ttft_ms=100.0 + number,
            input_tokens=30,
            output_tokens=15,
            error_class="overload" if number < 3 else None,
        )
        for number in range(30)
    ]
    slow = call(200, at_ms=newest_ms - 500, model="slow", tenant="beta", ttft_ms=9000.0, total_ms=9500.0)
    ahead = call(300, at_ms=now_ms + 60_000)
    store(sink, *map(encode, [*old, *fast, slow, ahead]), b"no event")

    overview = read_overview(sink, 3600.0)
    assert overview.events == 82 and overview.rejects == 1
    assert overview.dead_letters == [DeadLetterCount("invalid_json", 1)]
    # What claims to be in the future does not hide how old the newest call is.
    assert overview.fresh_s is not None and 2.0 <= overview.fresh_s < 60.0
    assert overview.calls_per_s == pytest.approx(31 / SPAN_S)
    first, second = overview.models
    assert (first.provider, first.model, second.model) == ("openai", "gpt-4o", "slow")
    assert first.calls_per_s == pytest.approx(30 / SPAN_S)
    assert first.errors == {"overload": 3} and first.error_share == pytest.approx(0.1)
    assert first.ttft_p50_ms == pytest.approx(114.5)
    assert first.input_tokens_per_s == pytest.approx(30 * 30 / SPAN_S)
    assert second.ttft_p95_ms == 9000.0 and second.latency_p95_ms == 9500.0 and second.errors == {}
    assert [tenant.tenant for tenant in overview.tenants] == ["acme", "beta"]
    assert overview.tenants[0].tokens_per_s == pytest.approx(30 * 45 / SPAN_S)
    # 30 input tokens at $2.50 and 15 output tokens at $10 for a million; model "slow" has no price.
    each = Decimal("0.000225")
    assert overview.usd_per_min == pytest.approx(30 * float(each) / SPAN_S * 60)
    assert first.usd_per_min == overview.usd_per_min and second.usd_per_min is None
    assert overview.usd == 30 * each
    assert overview.dearest == [TenantSpend("acme", 30 * each)]


def test_in_the_first_seconds_rates_are_over_the_time_since_the_start(sink: Sink) -> None:
    at_ms = time.time_ns() // 1_000_000 - 1000
    store(sink, *(encode(call(number, at_ms=at_ms - number)) for number in range(12)))
    assert read_overview(sink, 4.0).calls_per_s == pytest.approx(3.0)


def test_lag_is_what_workers_said_lately_and_unknown_when_none_did(sink: Sink) -> None:
    def say(partition: int, lag: int, seconds_ago: int) -> None:
        sink.command(
            f"INSERT INTO {STORE}.workers (at, worker, source, partition, lag_records) "
            f"SELECT now64(3) - INTERVAL {seconds_ago} SECOND, 'w', {partition}, {partition}, {lag}"
        )

    say(0, 99, 60)
    assert read_overview(sink, 60.0).lag_records is None
    say(0, 40, 10)
    say(0, 5, 1)
    say(1, 2, 1)
    assert read_overview(sink, 60.0).lag_records == 7
