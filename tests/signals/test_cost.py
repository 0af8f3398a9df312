"""Costs on columns are those of one call at a time, and are stored so that the better one wins."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewatch.contract import Contract
from gatewatch.events import Call, CallEvent, Latency, Request, Response, Token
from gatewatch.price_book import PriceBook, default_book
from gatewatch.price_ledger import VERSION_MOST
from signals.column import CallBatch
from signals.cost import AMOUNT_BITS, COLUMNS, HEAD_DIGITS, STATUSES, VERSION_BITS, costs
from tests.event import T0_MS, pieces
from tests.priced_call import BOOKS, FIELDS, calls, expected

BASE: dict[str, Any] = {"at_ms": T0_MS, "gateway": "eu-1", "call_id": "c", "started_at_ms": T0_MS - 500}
HAIKU: dict[str, Any] = {"provider": "anthropic", "model": "claude-haiku-4-5"}


Row: TypeAlias = dict[str, Any]


class Stored:
    """A stored cost, taken apart."""

    def __init__(self, row: Row) -> None:
        price, details = row["price"], row.get("cost_details", "")
        heads = {row[column] >> AMOUNT_BITS for column in COLUMNS}
        (head,) = heads  # all of one computation
        assert head == int(price[0]) << VERSION_BITS | int(price[1:5], 16)
        self.rank, self.status = head >> VERSION_BITS, STATUSES[int(price[5]) - 1]
        self.amounts = {column: row[column] & (1 << AMOUNT_BITS) - 1 for column in COLUMNS}
        self.total = sum(self.amounts.values())
        self.price_id, self.reason = price[HEAD_DIGITS + 1 :].split("\0")
        assert not details or details[:HEAD_DIGITS] == price[:HEAD_DIGITS]
        self.details = json.loads(details[HEAD_DIGITS:] or "{}")


def stored(*events: CallEvent, book: PriceBook | None = None) -> list[Row]:
    batch = CallBatch()
    for piece in pieces(*events):
        batch.add(piece, np.arange(len(piece)))
    table = batch.table()
    assert table is not None
    rows = pa.table(costs(table, book or default_book())).to_pylist()
    assert len(rows) == len(events)
    return [{name: value for name, value in row.items() if value != ""} for row in rows]


def one(event: CallEvent, book: PriceBook | None = None) -> Stored:
    (row,) = stored(event, book=book)
    return Stored(row)


@settings(max_examples=300)
@given(st.lists(calls(), min_size=1, max_size=8), st.sampled_from(BOOKS))
def test_columns_cost_what_single_calls_cost(events: list[Call], book: PriceBook) -> None:
    for event, value in zip(events, stored(*events, book=book), strict=True):
        found, want = Stored(value), expected(event, book)
        said = {name: getattr(event, name) for name in FIELDS}
        if all(count is None for count in said.values()) and not event.tool_requests:
            assert (found.status, found.reason) == ("unpriced", "no usage came with the call")
            continue
        if want is None:
            assert found.status == "unpriced"
            continue
        assert found.status == want.cost_status
        assert found.price_id == want.price_id
        assert found.total == sum(want.parts_nano_usd.values())
        nano = want.parts_nano_usd
        assert found.amounts == {c: sum(nano[part] for part in parts) for c, parts in COLUMNS.items()}
        rare = [part for parts in COLUMNS.values() if len(parts) > 1 for part in parts]
        assert found.details == {part: nano[part] for part in rare if nano[part]}
        assert bool(found.reason) == bool(want.reasons)


@given(st.lists(calls(), min_size=2, max_size=8))
def test_what_a_call_costs_does_not_depend_on_what_it_is_stored_with(events: list[Call]) -> None:
    assert stored(*events) == [value for event in events for value in stored(event)]


def test_only_what_tells_how_a_call_ended_has_a_cost() -> None:
    parts = [
        Request(**BASE, **HAIKU),
        Token(**BASE, **HAIKU, output_tokens_so_far=5),
        Latency(**BASE, **HAIKU),
    ]
    assert stored(*parts) == [dict.fromkeys([*COLUMNS, "cost_minute"], 0)] * 3
    (row,) = stored(Response(**BASE, **HAIKU))
    assert row["cost_minute"] == T0_MS // 60_000
    assert one(Response(**BASE, **HAIKU, input_tokens=1000, output_tokens=100)).total == 1_500_000


def test_a_call_without_usage_is_unpriced_and_not_free() -> None:
    found = one(Call(**BASE, **HAIKU))
    assert (found.status, found.total, found.reason) == ("unpriced", 0, "no usage came with the call")


def test_what_the_gateway_answered_itself_is_free() -> None:
    found = one(Call(**BASE, **HAIKU, input_tokens=1000, output_tokens=100, gateway_cache_hit=True))
    assert (found.status, found.total) == ("free", 0)
    assert "cache" in found.reason


def test_a_reported_cost_stands_in_where_there_is_no_price_and_says_so() -> None:
    unknown: dict[str, Any] = {
        "provider": "openai",
        "model": "no-such-model",
        "input_tokens": 5,
        "output_tokens": 5,
    }
    found = one(Call(**BASE, **unknown, reported_cost_usd=0.25))
    assert (found.status, found.total, found.details) == ("provider_reported", 250_000_000, {})
    assert "no-such-model" in found.reason
    priced = one(Call(**BASE, **HAIKU, input_tokens=1000, output_tokens=100, reported_cost_usd=0.25))
    assert (priced.status, priced.total) == ("priced", 1_500_000)


@pytest.mark.parametrize(
    "counts",
    [
        {"input_tokens": 5, "cache_read_tokens": 6},
        {"input_tokens": 5, "tool_use_tokens": 6},
        {"output_tokens": 5, "output_reasoning_tokens": 6},
        {"cache_write_tokens": 5, "cache_write_5m_tokens": 3, "cache_write_1h_tokens": 3},
        {"cache_audio_read_tokens": 1},
        {"input_tokens": 9, "cache_read_tokens": 5, "input_audio_tokens": 1, "cache_audio_read_tokens": 2},
    ],
)
def test_counts_that_contradict_each_other_have_no_price_and_say_why(counts: dict[str, Any]) -> None:
    found = one(Call(**BASE, **HAIKU, **counts))
    assert (found.status, found.total) == ("unpriced", 0)
    assert "contradict" in found.reason


def test_the_larger_value_is_the_better_cost() -> None:
    """Storage keeps it: the provider's usage beats an estimate, a price beats none."""
    usage: dict[str, Any] = {"input_tokens": 1000, "output_tokens": 100}
    ranked = stored(
        Call(**BASE, **HAIKU),
        Call(**BASE, **HAIKU, **usage, usage_source="estimated"),
        Call(**BASE, provider="nobody", model="m", **usage),
        Call(**BASE, **HAIKU, **usage),
    )
    for worse, better in pairwise(ranked):
        assert worse["price"] < better["price"]
        assert all(worse[column] <= better[column] for column in COLUMNS)


def test_counts_as_the_store_gives_them_cost_the_same() -> None:
    """They are unsigned there, and an unsigned and a signed integer make a float in numpy."""
    batch = CallBatch()
    usage: dict[str, Any] = {"input_tokens": 999_999_999, "output_tokens": 77_777_777, "cache_read_tokens": 3}
    for piece in pieces(Call(**BASE, **HAIKU, **usage, reported_cost_usd=0.25)):
        batch.add(piece, np.arange(len(piece)))
    table = batch.table()
    assert table is not None
    unsigned = table
    for name in ("input_tokens", "output_tokens"):
        unsigned = unsigned.set_column(unsigned.column_names.index(name), name, table[name].cast(pa.uint64()))
    for version in (1, VERSION_MOST):
        made = pa.table(costs(unsigned, default_book(), version))
        assert made.equals(pa.table(costs(table, default_book(), version)))


def test_better_usage_wins_over_newer_prices() -> None:
    """An estimate that comes after a change of prices does not replace what the provider counted before."""
    batch = CallBatch()
    usage: dict[str, Any] = {"input_tokens": 1000, "output_tokens": 100}
    for piece in pieces(
        Call(**BASE, **HAIKU, **usage), Call(**BASE, **HAIKU, **usage, usage_source="estimated")
    ):
        batch.add(piece, np.arange(len(piece)))
    table = batch.table()
    assert table is not None
    counted, _ = pa.table(costs(table, default_book(), 1)).to_pylist()
    _, estimated = pa.table(costs(table, default_book(), 2)).to_pylist()
    assert estimated["price"] < counted["price"]
    assert all(estimated[column] < counted[column] for column in COLUMNS)


def test_the_largest_amount_is_not_rounded_into_the_version() -> None:
    for rate, expected_status in (("281474.976710655499", "priced"), ("281474.976710655500", "unpriced")):
        row = Contract(contract_id="r", provider="p", rates={"input": ["0"], "request": [rate]})
        found = one(Call(**BASE, provider="p", model="m", input_tokens=1), PriceBook([row]))
        assert found.status == expected_status
        assert found.total == ((1 << AMOUNT_BITS) - 1 if expected_status == "priced" else 0)


def test_amounts_of_any_size_are_kept() -> None:
    dear: dict[str, Any] = {
        "provider": "openai",
        "model": "no-such-model",
        "input_tokens": 1,
        "output_tokens": 1,
    }
    for usd in (1099.0, 281_474.0):
        found = one(Call(**BASE, **dear, reported_cost_usd=usd))
        assert found.total == int(usd * 10**9)
    found = one(Call(**BASE, **dear, reported_cost_usd=400_000.0))
    assert (found.status, found.total) == ("unpriced", 0)
    assert "reported cost" in found.reason
