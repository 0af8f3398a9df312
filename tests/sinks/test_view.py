"""Views: decoded values, emitters' gaps and duplicates, and no seam between open and closed windows."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from gatewatch.events import Call, Event, Feedback, Latency, Request, Resource, Response, Token
from signals.cost import COLUMNS
from signals.lane import Lane, Rules
from signals.signal import CUTS, SHARDS
from sinks.clickhouse import Sink
from sinks.closing import close_windows, save_checkpoint
from sinks.schema import STORE, VIEWS
from sinks.source import add_source
from sinks.views import ALL_VIEWS
from tests.event import T0_MS, call, record
from tests.stored import flush

ALL = list(range(SHARDS))
W0 = T0_MS // 1000
PART: dict[str, Any] = {
    "gateway": "eu-1",
    "call_id": "c",
    "started_at_ms": T0_MS,
    "provider": "openai",
    "model": "gpt-4o",
}


def store(sink: Sink, *values: bytes, source: int = 1, chunk_records: int = 100) -> None:
    lane = Lane(source, 0, Rules(chunk_records=chunk_records))
    for offset, value in enumerate(values):
        lane.feed(offset, T0_MS, value)
    flush(sink, lane)


def view(sink: Sink, name: str, order: str = "1") -> list[dict[str, Any]]:
    table = sink.table(f"SELECT * FROM gatewatch.{name} ORDER BY {order}")
    return table.to_pylist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", [view.name for view in ALL_VIEWS])
def test_every_view_answers_when_there_is_nothing(sink: Sink, name: str) -> None:
    assert view(sink, name) == []


FULL: dict[str, Any] = {
    "environment": "production",
    "tenant": "acme",
    "tags": {"team:x": "y\"'\\"},
    "stream": False,
    "gateway_cache_hit": True,
    "stream_end": "complete",
    "status_code": 200,
    "attempt": 0,
    "input_tokens": 0,
    "output_tokens": 1_000_000_000,
    "tool_requests": {"web": 2},
    "total_ms": 604_800_000.0,
    "ttft_ms": 0.0,
    "tpot_ms": 0.001,
    "reported_cost_usd": 0.123456789,
    "prefix_hashes": [0, (1 << 63) - 1],
}


def test_every_encoding_is_decoded(sink: Sink) -> None:
    store(sink, record(call(1, **FULL)))
    (row,) = view(sink, "calls")
    expected = FULL | {"reported_cost_usd": Decimal("0.123456789"), "call_id": "call-1"}
    expected |= {"is_error": False, "is_ended": True, "parts_seen": ["call"], "usage_source": "provider"}
    expected |= {"tags": list(FULL["tags"].items()), "tool_requests": [("web", 2)]}
    assert {name: row[name] for name in expected} == expected
    assert int(row["started_at"].timestamp() * 1000) == T0_MS + 1 - 500
    assert int(row["ended_at"].timestamp() * 1000) == T0_MS + 1


def test_unknown_is_null_and_never_zero(sink: Sink) -> None:
    store(sink, record(call(1, total_ms=None)))
    (row,) = view(sink, "calls")
    known = {name for name, value in row.items() if value not in (None, "", [])}
    assert known == {
        *("started_at", "call_id", "ended_at", "gateway", "provider", "model", "operation"),
        *("usage_source", "is_error", "is_ended", "parts_seen"),
        *("cost_status", "cost_reason", "price_version"),
    }
    assert row["usage_source"] == "missing"
    assert (row["cost_status"], row["cost_usd"], row["price_version"]) == ("unpriced", None, 1)


PARTS: list[Event] = [
    Request(at_ms=T0_MS, **PART, stream=True, message_count=2),
    Token(at_ms=T0_MS + 10, **PART, ttft_ms=10.0, output_tokens_so_far=50),
    Response(at_ms=T0_MS + 90, **PART, output_tokens=40, usage_source="provider", error_class="overload"),
    Latency(at_ms=T0_MS + 95, **PART, total_ms=95.5),
]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1, 2, 0)])
def test_the_parts_of_a_call_are_one_row_in_any_order_and_number(sink: Sink, order: tuple[int, ...]) -> None:
    for source, part in enumerate(order):
        store(sink, record(PARTS[part]), source=source)
    (row,) = view(sink, "calls")
    merged: dict[str, Any] = {
        "stream": True,
        "message_count": 2,
        "ttft_ms": 10.0,
        "output_tokens": 40,
        "total_ms": 95.5,
    }
    merged |= {"usage_source": "provider", "is_error": True, "is_ended": True, "error_class": "overload"}
    merged |= {"parts_seen": ["request", "token", "response", "latency"]}
    assert {name: row[name] for name in merged} == merged


def test_a_stream_that_runs_is_not_ended_and_its_tokens_are_progress(sink: Sink) -> None:
    store(sink, record(*PARTS[:2]))
    (row,) = view(sink, "calls")
    assert (row["is_ended"], row["output_tokens"], row["usage_source"]) == (False, 50, "progress")


def test_counts_of_a_worse_source_are_neither_shown_nor_priced(sink: Sink) -> None:
    store(
        sink,
        record(
            Token(at_ms=T0_MS + 1, **PART, output_tokens_so_far=50_000),
            Response(at_ms=T0_MS + 2, **PART, usage_source="estimated", input_tokens=9, cache_read_tokens=8),
            Response(at_ms=T0_MS + 3, **PART, usage_source="provider", input_tokens=1000, web_searches=0),
        ),
    )
    (row,) = view(sink, "calls")
    assert (row["input_tokens"], row["web_searches"], row["usage_source"]) == (1000, 0, "provider")
    assert (row["output_tokens"], row["cache_read_tokens"]) == (None, None)
    assert (row["cost_usd"], row["cost_reason"]) == (
        Decimal("0.0025"),
        "the provider did not say output tokens",
    )


def numbered(*seqs: int, emitter_id: str = "e") -> bytes:
    return record(*[call(seq, emitter_id=emitter_id, seq=seq) for seq in seqs])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([(0, 1, 2)], (0, 2, 3, 0, 0)),
        ([(0, 1), (3, 4)], (0, 4, 4, 1, 0)),
        ([(2, 0), (1,)], (0, 2, 3, 0, 0)),
        # The same event in one chunk, then in two.
        ([(0, 1, 1, 2)], (0, 2, 4, 0, 1)),
        ([(0, 1), (), (1, 2)], (0, 2, 4, 0, 1)),
        ([(0, 1, 2, 3), (), (1, 2), (), (2, 3, 9)], (0, 9, 9, 5, 4)),
        # What is missing before the first one that came is lost, and no gap between two.
        ([(5, 6)], (5, 6, 2, 0, 0)),
    ],
)
def test_emitters_show_gaps_and_duplicates(
    sink: Sink, values: list[tuple[int, ...]], expected: tuple[int, ...]
) -> None:
    for source, seqs in enumerate(values):
        if seqs:
            store(sink, numbered(*seqs), source=source)
    (row,) = view(sink, "emitters")
    first, last, received, gaps, duplicates = expected
    assert (row["first_seq"], row["last_seq"], row["received"]) == (first, last, received)
    assert (row["gaps"], row["duplicates"]) == (gaps, duplicates)
    assert row["lost"] == first + gaps


def test_what_an_emitter_says_it_dropped_is_not_lost_on_the_way(sink: Sink) -> None:
    drops = Resource(
        at_ms=T0_MS, gateway="eu-1", resource="emitter", emitter_id="e", seq=4, emitter_dropped_total=2
    )
    store(sink, record(numbered(0), drops))
    (row,) = view(sink, "emitters")
    assert (row["gaps"], row["reported_drops"], row["lost"]) == (3, 2, 1)


def test_emitters_are_told_apart(sink: Sink) -> None:
    store(sink, record(numbered(0, 1), numbered(0, 2, emitter_id="f")))
    assert [(row["emitter_id"], row["gaps"]) for row in view(sink, "emitters")] == [("e", 0), ("f", 1)]


def measures(sink: Sink) -> list[tuple[Any, ...]]:
    return [
        tuple(row)
        for row in sink.rows(
            "SELECT signal, label, window_start, cut, gateway, provider, model, deployment, operation, "
            "tenant, team, n, sum, p50_ms, p95_ms, p99_ms FROM gatewatch.measures ORDER BY ALL"
        )
    ]


def test_closing_a_window_changes_no_number(sink: Sink) -> None:
    for source in (1, 2):
        store(
            sink,
            *[
                record(
                    call(20_000 * i + source, model=f"m{i % 2}", tenant="acme", total_ms=float(i * source))
                )
                for i in range(9)
            ],
            source=source,
            chunk_records=2,
        )
    open_ = measures(sink)
    assert {row[3] for row in open_} == {cut.name for cut in CUTS}
    for until in (W0 + 60, W0 + 120, W0 + 180):
        close_windows(sink, W0, until, ALL)
        save_checkpoint(sink, until, ALL)
        assert measures(sink) == open_


def test_a_window_is_read_from_where_its_shard_has_put_it(sink: Sink) -> None:
    """Shards close on their own: until all have, both sources are read, each for its own series."""
    store(sink, record(*[call(i, model=f"m{i}", tenant=f"t{i}") for i in range(40)]))
    open_ = measures(sink)
    for shard in ALL:
        close_windows(sink, W0, W0 + 60, [shard])
        save_checkpoint(sink, W0 + 60, [shard])
        assert measures(sink) == open_


def test_measures_written_before_the_checkpoint_are_not_counted_twice(sink: Sink) -> None:
    store(sink, record(call(1)))
    open_ = measures(sink)
    close_windows(sink, W0, W0 + 60, ALL)
    assert measures(sink) == open_


def test_series_that_vanished_are_not_shown(sink: Sink) -> None:
    store(sink, record(call(1, model="a")))
    close_windows(sink, W0, W0 + 60, ALL)
    save_checkpoint(sink, W0 + 60, ALL)
    store(sink, record(call(1, model="b")), record(call(2, model="b")))
    close_windows(sink, W0, W0 + 60, ALL)
    assert {row[6] for row in measures(sink) if row[3] == "model"} == {"b"}


def test_quantiles_are_within_one_per_cent(sink: Sink) -> None:
    store(sink, record(*[call(i, total_ms=float(i + 1)) for i in range(100)]))
    ((p50, p95, p99),) = sink.rows(
        "SELECT p50_ms, p95_ms, p99_ms FROM gatewatch.measures "
        "WHERE signal = 'performance_latency_us' AND cut = 'gateway'"
    )
    assert (p50, p95, p99) == (
        pytest.approx(51, rel=0.01),
        pytest.approx(96, rel=0.01),
        pytest.approx(100, rel=0.01),
    )


def test_dead_letters_know_their_topic_and_whether_they_were_sent_again(sink: Sink) -> None:
    add_source(
        sink, 1, cluster="k", topic="gatewatch.events.v1", incarnation="i", partition=3, chunk_records=100
    )
    store(sink, b"{", b"}")
    sink.command(f"INSERT INTO {STORE}.replays SELECT 1, 0, 0, 1, now64(3)")
    sink.command(f"INSERT INTO {STORE}.replays SELECT 1, 1, 0, 1, now64(3)")
    sink.command(f"INSERT INTO {STORE}.replays SELECT 1, 1, 0, 2, now64(3)")
    first, second = view(sink, "dead_letters", "offset")
    assert (first["topic"], first["partition"], first["reason"]) == ("gatewatch.events.v1", 3, "invalid_json")
    assert first["replayed_at"] is None  # about to be sent is not sent
    assert second["replayed_at"] is not None


def test_delivery_adds_up_chunks(sink: Sink) -> None:
    store(sink, *[record(call(i), call(100 + i)) for i in range(5)], b"{", chunk_records=4)
    (row,) = view(sink, "delivery")
    assert (row["records"], row["events"], row["rejects"]) == (6, 10, 1)
    assert (row["first_offset"], row["last_offset"]) == (0, 5)


def test_feedback_is_one_row_however_often_it_is_written(sink: Sink) -> None:
    value = record(Feedback(at_ms=T0_MS, gateway="eu-1", call_id="c", name="thumbs", score=0))
    store(sink, value)
    store(sink, value)
    (row,) = view(sink, "feedback")
    assert (row["name"], row["score"], row["label"]) == ("thumbs", 0.0, "")


def test_texts_are_in_no_view(sink: Sink) -> None:
    store(sink, record(Call(at_ms=T0_MS, **PART, input_text="a-prompt", output_text="an-answer")))
    assert "a-prompt" not in repr([view(sink, each.name) for each in ALL_VIEWS])


@pytest.mark.parametrize("usd", [9.3, 12.5, 1e9, 0.000000001])
def test_money_is_what_the_gateway_said(sink: Sink, usd: float) -> None:
    store(sink, record(call(1, reported_cost_usd=usd)))
    (row,) = view(sink, "calls")
    assert row["reported_cost_usd"] == Decimal(repr(usd)).quantize(Decimal("1e-9"))


HAIKU: dict[str, Any] = {"provider": "anthropic", "model": "claude-haiku-4-5"}


def test_what_a_call_cost_is_shown_with_what_it_is_made_of(sink: Sink) -> None:
    usage = {"input_tokens": 1000, "cache_read_tokens": 400, "output_tokens": 100}
    store(sink, record(call(1, **HAIKU, **usage)))
    (row,) = view(sink, "calls")
    # $1 a million, a tenth of that where it was cached, $5 for output.
    parts = {"input": Decimal("0.0006"), "cache_read": Decimal("0.00004"), "output": Decimal("0.0005")}
    assert {name: row[f"cost_{name}_usd"] for name in parts} == parts
    assert row["cost_other_usd"] == row["cost_reasoning_usd"] == row["cost_cache_write_usd"] == 0
    assert row["cost_details_usd"] == []
    assert (row["cost_status"], row["cost_usd"], row["cost_reason"]) == ("priced", Decimal("0.00114"), "")
    assert "claude-haiku-4-5" in row["price_id"]


def test_the_parts_of_calls_add_up_to_what_they_cost(sink: Sink) -> None:
    """To the nano-dollar, though each of them is rounded."""
    models = ["gpt-4o-mini", "gpt-4.1-nano", "gpt-5-mini"]
    numbers = range(300)
    store(
        sink,
        record(
            *[
                call(
                    number,
                    model=models[number % 3],
                    input_tokens=1 + number * 7,
                    cache_read_tokens=number,
                    output_tokens=number * 3 + 1,
                    output_reasoning_tokens=number,
                )
                for number in numbers
            ]
        ),
    )
    parts = " + ".join(f"sum({column}_usd)" for column in COLUMNS)
    ((calls, usd, by_part),) = sink.rows(
        f"SELECT countIf(cost_status = 'priced'), sum(cost_usd), {parts} FROM {VIEWS}.calls"
    )
    assert calls == len(numbers)
    assert usd == by_part > 0


def test_what_is_rare_is_told_apart(sink: Sink) -> None:
    usage = {
        "input_tokens": 9000,
        "cache_write_tokens": 3000,
        "cache_write_1h_tokens": 1000,
        "web_searches": 2,
    }
    store(sink, record(call(1, **HAIKU, **usage, output_tokens=0)))
    (row,) = view(sink, "calls")
    # Cache writes are $1.25 a million, $2 where they live for an hour; a search is a cent.
    details = {"cache_write": Decimal("0.0025"), "cache_write_1h": Decimal("0.002"), "tools": Decimal("0.02")}
    assert dict(row["cost_details_usd"]) == details
    assert row["cost_cache_write_usd"] == Decimal("0.0045")
    assert row["cost_other_usd"] == Decimal("0.02")


def test_a_call_whose_end_is_unknown_has_no_cost_yet(sink: Sink) -> None:
    store(sink, record(*PARTS[:2]))
    (row,) = view(sink, "calls")
    assert (row["cost_status"], row["cost_usd"], row["price_version"]) == ("", None, 0)


def test_a_better_source_of_usage_gives_the_cost_whatever_comes_last(sink: Sink) -> None:
    ended = PART | HAIKU
    estimated = Response(at_ms=T0_MS, **ended, usage_source="estimated", input_tokens=9000, output_tokens=900)
    counted = Response(
        at_ms=T0_MS + 1, **ended, usage_source="provider", input_tokens=1000, output_tokens=100
    )
    store(sink, record(counted), record(estimated))
    (row,) = view(sink, "calls")
    assert row["cost_usd"] == Decimal("0.0015")
