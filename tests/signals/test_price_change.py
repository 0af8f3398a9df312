"""A change of prices in the middle of a partition: each event by the version of its record, for ever."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gatewatch.contract import Contract
from gatewatch.contract_file import contracts_document
from gatewatch.events import Call
from gatewatch.price_ledger import PriceDocuments, PriceLedger, ledger_of
from gatewatch.pricing import price
from gatewatch.usage import Usage
from signals.cost import AMOUNT_BITS, COLUMNS, HEAD_DIGITS, VERSION_BITS
from signals.lane import Lane, LaneRows, Rules
from tests.event import T0_MS, call, record

CHANGES_MS = (0, T0_MS + 1000, T0_MS + 2000)
CONTRACTS: tuple[list[Contract], ...] = (
    [],
    [Contract(contract_id="ea", provider="openai", adjust_bp=-1000)],
    [
        Contract(contract_id="ea", provider="openai", adjust_bp=-1000),
        Contract(contract_id="acme", tenant="acme", adjust_bp=500),
        Contract(contract_id="gpus", deployment="gpus", rates={"input": ["0.3"], "output": ["0.9"]}),
    ],
)
LEDGER = ledger_of([PriceDocuments.of_package(contracts_document(rows)) for rows in CONTRACTS], CHANGES_MS)


def made(number: int, tenant: str = "", deployment: str = "") -> Call:
    return call(
        number, tenant=tenant, deployment=deployment, input_tokens=1000, cache_read_tokens=number % 3 * 100,
        output_tokens=10,
    )  # fmt: skip


def fed(
    records: list[tuple[int, list[Call]]], flush_after: set[int], prices: PriceLedger = LEDGER
) -> list[LaneRows]:
    lane = Lane(1, 0, Rules(chunk_records=4), 0, prices)
    flushed = []
    for offset, (appended_ms, events) in enumerate(records):
        lane.feed(offset, appended_ms, record(*events))
        if offset in flush_after:
            flushed.append(lane.flush())
    flushed.append(lane.flush())
    return [rows for rows in flushed if rows is not None]


def merged(flushed: list[LaneRows]) -> dict[str, dict[str, Any]]:
    """The calls as they are stored in the end: the largest value of each column."""
    calls: dict[str, dict[str, Any]] = {}
    for rows in flushed:
        for table in rows.calls:
            for row in table.to_pylist():
                into = calls.setdefault(row["call_id"], {})
                for name, value in row.items():
                    if value is not None and value not in ("", []):
                        into[name] = max(into.get(name, value), value)
    return calls


def chunks(flushed: list[LaneRows]) -> dict[int, Any]:
    return {
        version.first_offset: {
            family: {name: array.to_pylist() for name, array in arrays.items()}
            for family, arrays in version.families.items()
        }
        for rows in flushed
        for version in rows.chunks
    }


EVENTS = st.lists(
    st.tuples(
        # Append times need not rise: a broker's clock may be set back.
        st.sampled_from([T0_MS, T0_MS + 999, T0_MS + 1000, T0_MS + 1500, T0_MS + 2000, T0_MS + 9000]),
        st.lists(st.tuples(st.sampled_from(["", "acme"]), st.sampled_from(["", "gpus"])), max_size=3),
    ),
    min_size=1,
    max_size=9,
)


@settings(max_examples=40)
@given(EVENTS, st.sets(st.integers(0, 8)))
def test_each_event_has_the_price_of_its_records_time(
    drawn: list[tuple[int, list[tuple[str, str]]]], flush_after: set[int]
) -> None:
    number = 0
    records = []
    expected = {}
    for appended_ms, asked in drawn:
        events = []
        for tenant, deployment in asked:
            number += 1
            event = made(number, tenant, deployment)
            events.append(event)
            version, book = LEDGER.at(appended_ms)
            usage = Usage(
                input_tokens=1000,
                cache_read_tokens=event.cache_read_tokens,
                output_tokens=event.output_tokens,
            )
            cost = price(
                "openai", "gpt-4o", usage, at_ms=event.started_at_ms, tenant=tenant, deployment=deployment,
                book=book,
            )  # fmt: skip
            expected[event.call_id] = (version, sum(cost.parts_nano_usd.values()), cost.price_id)
        records.append((appended_ms, events))
    flushed = fed(records, flush_after)
    stored = merged(flushed)
    found = {}
    for call_id, row in stored.items():
        heads = {row[column] >> AMOUNT_BITS for column in COLUMNS}
        versions = {head & (1 << VERSION_BITS) - 1 for head in heads} | {int(row["price"][1:5], 16)}
        (version,) = versions
        nano = sum(row[column] & (1 << AMOUNT_BITS) - 1 for column in COLUMNS)
        found[call_id] = (version, nano, row["price"][HEAD_DIGITS + 1 :].partition("\0")[0])
    assert found == expected
    # Whoever reads the records again, all at once or one by one, stores the same.
    for again in (fed(records, set()), fed(records, set(range(9)))):
        assert merged(again) == stored
        assert chunks(again) == chunks(flushed)


def test_a_chunk_that_is_open_for_days_takes_new_prices_at_once() -> None:
    day_ms = 86_400_000
    ledger = ledger_of(
        [PriceDocuments.of_package(contracts_document(rows)) for rows in CONTRACTS[:2]],
        [0, T0_MS + 2 * day_ms],
    )
    days = [
        (T0_MS + day * day_ms, [call(day, at_ms=T0_MS + day * day_ms, input_tokens=1000)]) for day in range(4)
    ]
    prices = [row["price"][1:5] for row in merged(fed(days, set(), ledger)).values()]
    assert prices == ["0001", "0001", "0002", "0002"]


def test_rare_parts_of_a_cost_survive_a_change_within_one_flush() -> None:
    searched = call(1, provider="anthropic", model="claude-haiku-4-5", input_tokens=5, web_searches=3)
    plain = made(2)
    flushed = fed([(T0_MS, [searched, plain]), (T0_MS + 1500, [made(3)])], set())
    stored = merged(flushed)
    assert stored["call-1"]["cost_details"].startswith("30001")
    assert '"tools":30000000' in stored["call-1"]["cost_details"]
    assert "cost_details" not in stored["call-2"]
    assert stored["call-3"]["price"].startswith("30002")
