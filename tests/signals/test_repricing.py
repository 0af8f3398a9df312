"""Stored calls priced again: what changes, what does not, and which of two costs counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewatch.contract import Contract
from gatewatch.events import Call, CallEvent, Latency, Request, Response, Token, UsageSource
from gatewatch.price_book import PriceBook, default_book
from signals.column import CALL_COLUMNS, CallBatch
from signals.cost import COLUMNS, STATUSES, costs
from signals.repricing import HEAD_BYTES, MEASURED_BY, NUMBERS, PRICED_BY, Repriced, counted, reprice
from tests.event import T0_MS, pieces
from tests.priced_call import FIELDS, calls, expected

BASE: dict[str, Any] = {
    "gateway": "eu-1",
    "call_id": "c",
    "started_at_ms": T0_MS,
    "provider": "anthropic",
    "model": "claude-haiku-4-5",
}
RAISED = PriceBook([Contract(contract_id="raised", adjust_bp=1000)])
LOW = {column.name for column in CALL_COLUMNS if column.low_cardinality} | {"price"}
TEXT = {column.name for column in CALL_COLUMNS if column.encoding in ("text", "json")} | {
    "price",
    "cost_details",
    "repriced",
}


def merged(*events: CallEvent, repriced: Sequence[bytes] = (), version: int = 1) -> dict[str, Any]:
    """One call as the store has it: the largest of each column, events priced one by one."""
    row: dict[str, Any] = {name: "" if name in TEXT else 0 for name in {*PRICED_BY, *MEASURED_BY}}
    row["repriced"] = max([b"", *repriced])
    for event in events:
        batch = CallBatch()
        for piece in pieces(event):
            batch.add(piece, np.arange(len(piece)))
        table = batch.table()
        assert table is not None
        for name, column in costs(table, default_book(), version).items():
            table = table.append_column(name, column)
        (found,) = table.to_pylist()
        for name in row.keys() & found.keys():
            row[name] = row[name] | found[name] if name == "parts" else max(row[name], found[name])
    return row


def stored(*rows: dict[str, Any]) -> pa.Table:
    columns = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name == "repriced":
            columns[name] = pa.array(values, pa.binary())
        elif name in LOW:
            columns[name] = pa.array(values, pa.string()).dictionary_encode()
        else:
            columns[name] = pa.array(values, pa.string() if name in TEXT else pa.int64())
    return pa.table(columns)


def again(*rows: dict[str, Any], book: PriceBook | None = None, version: int = 1, at: int = 7) -> Repriced:
    return reprice(stored(*rows), book or default_book(), version, at)


@given(st.lists(calls(), min_size=1, max_size=6))
@settings(max_examples=30)
def test_at_the_same_prices_nothing_changes_whatever_parts_came(events: list[Call]) -> None:
    rows = []
    for number, event in enumerate(events):
        common = {name: getattr(event, name) for name in BASE} | {"tenant": event.tenant}
        started = Request(at_ms=event.started_at_ms, **common)
        running = Token(at_ms=event.started_at_ms, output_tokens_so_far=50 + number, **common)
        rows.append(merged(started, running, event, Latency(at_ms=event.at_ms + 90_000, **common)))
    found = again(*rows, version=2)
    assert not found.changed.any()
    assert not found.rows.num_rows


@given(st.lists(calls(), min_size=1, max_size=6))
@settings(max_examples=30)
def test_at_other_prices_a_call_costs_what_it_would_have(events: list[Call]) -> None:
    rows = [merged(event) for event in events]
    found = again(*rows, book=RAISED, version=2)
    kept = dict(zip(np.flatnonzero(found.changed).tolist(), found.rows["repriced"].to_pylist(), strict=True))
    after = counted(stored(*[row | {"repriced": kept.get(i, b"")} for i, row in enumerate(rows)]))
    for i, event in enumerate(events):
        said = event.tool_requests or any(getattr(event, name) is not None for name in FIELDS)
        cost = expected(event, RAISED) if said else None
        status = STATUSES[int(after.texts[after.text[i]][0]) - 1]
        assert status == (cost.cost_status if cost else "unpriced")
        assert after.total()[i] == (sum(cost.parts_nano_usd.values()) if cost else 0)
    assert (found.after.total() == after.total()).all()
    assert (found.after.unpriced() == after.unpriced()).all()


def test_what_a_stream_has_brought_so_far_is_no_usage() -> None:
    """It was not when the lane priced the end, which came without any."""
    row = merged(
        Token(at_ms=T0_MS, **BASE, output_tokens_so_far=500),
        Response(at_ms=T0_MS, **BASE, stream_end="client_disconnect"),
    )
    found = again(row, book=RAISED, version=2)
    assert not found.changed.any()
    assert found.before.unpriced().all()


def test_only_the_best_source_of_usage_is_charged() -> None:
    estimated = Response(
        at_ms=T0_MS,
        **BASE,
        usage_source="estimated",
        input_tokens=9000,
        cache_read_tokens=500,
        output_tokens=50,
    )
    said = Response(at_ms=T0_MS, **BASE, usage_source="provider", input_tokens=1000, output_tokens=100)
    found = again(merged(estimated, said), book=RAISED, version=2)
    assert found.before.total().tolist() == [1_500_000]
    assert found.after.total().tolist() == [1_650_000]


def ended(source: UsageSource, tokens: int) -> Response:
    return Response(at_ms=T0_MS, **BASE, usage_source=source, input_tokens=tokens, output_tokens=0)


def kept(row: dict[str, Any], **how: Any) -> bytes:
    (text,) = again(row, **how).rows["repriced"].to_pylist()
    assert isinstance(text, bytes)
    return text


def test_better_usage_counts_before_newer_prices_and_newer_prices_before_older_ones() -> None:
    estimate = merged(ended("estimated", 1000))
    raised = kept(estimate, book=RAISED, version=5)
    assert counted(stored(estimate | {"repriced": raised})).total().tolist() == [1_100_000]
    # The provider's own counts come later, priced by a worker that knows no newer prices.
    late = merged(ended("estimated", 1000), ended("provider", 2000), repriced=[raised])
    assert counted(stored(late)).total().tolist() == [2_000_000]
    # The next run prices these, and a worker with newer prices has the last word.
    anew = kept(late, book=RAISED, version=5, at=8)
    assert counted(stored(late | {"repriced": max(raised, anew)})).total().tolist() == [2_200_000]
    newer = merged(ended("provider", 2000), repriced=[raised, anew], version=6)
    assert counted(stored(newer)).total().tolist() == [2_000_000]
    assert again(newer, book=RAISED, version=5, at=9).newer.all()


def test_of_the_same_prices_what_was_read_later_counts() -> None:
    """A part that comes later can make a call cheaper, and its cost a smaller number."""
    first = merged(Response(at_ms=T0_MS, **BASE, usage_source="provider", input_tokens=1000, output_tokens=9))
    early = kept(first, book=RAISED, version=2, at=7)
    more = Response(at_ms=T0_MS, **BASE, usage_source="provider", cache_read_tokens=900, input_tokens=1000)
    both = merged(ended("provider", 1000), more, repriced=[early])
    later = kept(both, book=RAISED, version=2, at=8)
    assert later > early
    assert later[2 * 8 + 8 :] < early[2 * 8 + 8 :]


def test_a_text_begins_with_its_numbers_largest_byte_first() -> None:
    text = kept(merged(ended("provider", 1000)), book=RAISED, version=300, at=1_795_000_000_000)
    numbers = dict(zip(NUMBERS, np.frombuffer(text[:HEAD_BYTES], ">u8").tolist(), strict=True))
    nothing = dict.fromkeys(COLUMNS, 0)
    wanted = {
        "rank": 3,
        "version": 300,
        "read_ms": 1_795_000_000_000,
        **nothing,
        "cost_input": 1_100_000,
        "total": 1_100_000,
    }
    assert numbers == wanted
    assert text[HEAD_BYTES:].startswith(b"5anthropic/claude-haiku-4-5")
    assert text[HEAD_BYTES:].count(b"\0") == 2


def test_details_are_kept_and_stale_ones_are_not_taken() -> None:
    rare = Response(
        at_ms=T0_MS, **BASE, usage_source="estimated", input_tokens=1000, output_tokens=1, web_searches=2
    )
    row = merged(rare, ended("provider", 1000))
    assert row["cost_details"]  # of the estimate, whose cost has been replaced
    assert not again(row, version=2).changed.any()
    assert b'{"tools":' in kept(merged(rare), book=RAISED, version=2)


@pytest.mark.parametrize("version", [0, 8192])
def test_a_version_is_within_its_bits(version: int) -> None:
    with pytest.raises(ValueError, match="version"):
        again(merged(ended("provider", 1)), version=version)
