"""Columns of calls: unknown is the smallest value, so that the maximum of each column merges parts."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewatch.events import Call, CallEvent, Latency, Request, Response, Token
from signals.column import CALL_COLUMNS, CALL_KINDS, RANK_SHIFT, CallBatch
from tests.event import T0_MS, call, pieces

BASE: dict[str, Any] = {
    "at_ms": T0_MS,
    "gateway": "eu-1",
    "call_id": "c",
    "started_at_ms": T0_MS - 500,
    "provider": "openai",
    "model": "gpt-4o",
}


def batch(*events: CallEvent) -> CallBatch:
    made = CallBatch()
    for piece in pieces(*events):
        made.add(piece, np.arange(len(piece)))
    return made


def rows(*events: CallEvent) -> list[dict[str, Any]]:
    table = batch(*events).table()
    assert table is not None
    assert table.num_rows == len(events)
    return table.to_pylist()  # type: ignore[no-any-return]


def row(event: CallEvent) -> dict[str, Any]:
    return rows(event)[0]


def ranked(rank: int, tokens: int) -> int:
    return rank << RANK_SHIFT | tokens


def test_every_field_of_a_call_has_a_column_but_texts_and_what_is_read_into_others() -> None:
    elsewhere = {"emitter_id", "seq", "v", "usage_source", "provider_usage", "input_text", "output_text"}
    fields = {field.name for struct in CALL_KINDS for field in msgspec.structs.fields(struct)}
    assert fields - elsewhere == {column.field for column in CALL_COLUMNS} | {"output_tokens_so_far"}


def test_zero_is_stored_as_known() -> None:
    encoded = row(Call(**BASE, ttft_ms=0.0, attempt=0, input_tokens=0, reported_cost_usd=0.0, stream=False))
    assert encoded["ttft_us"] == 1
    assert encoded["attempt"] == 1
    assert encoded["input_tokens"] == ranked(3, 0)
    assert encoded["reported_cost_nano_usd"] == 1
    assert encoded["stream"] == 1


def test_what_no_event_of_a_batch_says_is_absent_or_null() -> None:
    said = {name for name, value in row(Call(**BASE)).items() if value is not None}
    assert said == {
        "started_at",
        "call_id",
        "last_at",
        "gateway",
        "provider",
        "model",
        "operation",
        "parts",
        "position",
    }


def test_what_one_event_says_is_null_or_empty_in_the_others() -> None:
    first, second = rows(call(1, ttft_ms=1.5, tenant="acme", prefix_hashes=[7], tags={"a": "b"}), call(2))
    assert (first["ttft_us"], second["ttft_us"]) == (1501, 0)
    assert (first["tenant"], second["tenant"]) == ("acme", "")
    assert (first["prefix_hashes"], second["prefix_hashes"]) == ([7], [])
    assert (first["tags"], second["tags"]) == ('{"a":"b"}', "")


def test_hashes_of_events_without_any_are_empty() -> None:
    table = batch(call(1, prefix_hashes=[7]), call(2)).table()
    assert table is not None
    assert table["prefix_hashes"].to_pylist() == [[7], []]


@pytest.mark.parametrize(
    ("ms", "us"), [(0.0004, 1), (0.0006, 2), (1.4999, 1501), (604_800_000.0, 604_800_000_001)]
)
def test_times_are_whole_microseconds(ms: float, us: int) -> None:
    assert row(Call(**BASE, total_ms=ms))["total_us"] == us


def test_money_is_whole_nano_dollars() -> None:
    assert row(Call(**BASE, reported_cost_usd=0.0000004123))["reported_cost_nano_usd"] == 413
    assert row(Call(**BASE, reported_cost_usd=1e9))["reported_cost_nano_usd"] == 10**18 + 1


SOURCES = st.sampled_from([None, "provider", "estimated", "missing"])
RANK = {None: 3, "provider": 3, "estimated": 2, "missing": 1}


@given(st.lists(st.tuples(SOURCES, st.integers(0, 10**9)), min_size=1, max_size=6))
def test_a_better_source_of_usage_wins_over_a_larger_count(parts: list[tuple[Any, int]]) -> None:
    responses = [Response(**BASE, usage_source=source, output_tokens=n) for source, n in parts]
    table = batch(*responses).table()
    assert table is not None
    merged = max(table["output_tokens"].to_pylist())
    rank, tokens = max((RANK[source], n) for source, n in parts)
    assert merged == ranked(rank, tokens)


def test_what_a_stream_has_produced_so_far_gives_way_to_the_total() -> None:
    progress = row(Token(**BASE, output_tokens_so_far=900))
    total = row(Response(**BASE, output_tokens=300))
    assert progress["output_tokens"] == ranked(1, 900)
    assert max(progress["output_tokens"], total["output_tokens"]) == ranked(3, 300)


@pytest.mark.parametrize("kind", [Request, Token, Response, Latency, Call])
def test_each_kind_sets_its_own_bit(kind: type[CallEvent]) -> None:
    assert row(kind(**BASE))["parts"] == CALL_KINDS[kind]


def test_bits_of_kinds_are_distinct() -> None:
    assert sorted(CALL_KINDS.values()) == [1, 2, 4, 8, 16]


def test_positions_are_kept() -> None:
    made = CallBatch()
    for piece in pieces(call(1), call(2)):
        made.add(piece, np.array([3, 5]))
    table = made.table()
    assert table is not None
    assert table["position"].to_pylist() == [3, 5]


def test_an_empty_batch_has_no_table() -> None:
    assert CallBatch().table() is None
