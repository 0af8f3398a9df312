"""A worker and the ledger of prices: it never prices a record with versions missing that may hold for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gatewatch.contract import Contract
from gatewatch.contract_file import contracts_document
from gatewatch.price_ledger import TRUST_MS, PriceDocuments, PriceVersion
from signals.lane import Lane
from sinks import price as sinks_price
from sinks.clickhouse import Sink, SinkError
from sinks.price import fill_rows, make_version, read_versions, register_package
from sinks.row import blocks
from sinks.schema import STORE
from streams import worker as streams_worker
from streams.partition import Partition, flush_lanes
from streams.setting import Settings
from streams.worker import Worker, WorkerError
from streams.writer import Writer
from tests.event import call, record

CHUNK = 4


class Store:
    """The engine, which can be down."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.down = False
        self.asked = 0

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        self.asked += 1
        if self.down:
            raise SinkError("query failed: no answer")
        return self.sink.rows(sql, parameters)

    def close(self) -> None:
        """It is shared."""


@pytest.fixture
def store(sink: Sink) -> Store:
    return Store(sink)


@pytest.fixture
def worker(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    worker = Worker(Settings(data_dir=tmp_path, chunk_records=CHUNK))
    worker.writer.close()
    worker.writer = Writer(lambda: cast(Sink, store))

    async def unchanged() -> None:
        """There is no Kafka here to ask whether the topic is still the same."""

    monkeypatch.setattr(worker, "_check_incarnation", unchanged)
    worker.partitions[0] = Partition(0, Lane(1, CHUNK, worker.rules, 0, worker.prices), lambda message: None)
    yield worker
    worker.writer.close()


class Stream:
    """What Faust's agent is given: records of one partition."""

    def __init__(self, appended_ms: Sequence[int]) -> None:
        self._appended_ms = appended_ms

    def noack(self) -> Stream:
        return self

    async def events(self) -> AsyncIterator[Any]:
        for number, appended_ms in enumerate(self._appended_ms):
            event = call(number, at_ms=appended_ms - 1, input_tokens=1_000_000, output_tokens=0)
            message = SimpleNamespace(
                partition=0, offset=CHUNK + number, timestamp=appended_ms / 1000, value=record(event),
                tp=None, key=None, headers=None,
            )  # fmt: skip
            yield SimpleNamespace(message=message, value=message.value, key=None, headers=None)


def half_price(sink: Sink) -> PriceVersion:
    row = Contract(contract_id="half", provider="openai", adjust_bp=-5000)
    documents = PriceDocuments.of_package(contracts_document([row]))
    return make_version(sink, documents, note="", based_on=read_versions(sink)[-1]).version


def store_rows(worker: Worker, sink: Sink) -> None:
    flushed = [rows for _, rows in flush_lanes(worker.partitions.values())]
    for name, block in blocks(flushed).items():
        sink.insert(f"{STORE}.{name}", block)


def stored(sink: Sink) -> list[tuple[int, str]]:
    rows = sink.rows(
        "SELECT price_version, toString(cost_usd) FROM gatewatch.calls ORDER BY started_at, call_id"
    )
    return [(int(version), str(usd)) for version, usd in rows]


def test_a_running_worker_prices_by_a_version_from_its_time_on(
    worker: Worker, store: Store, sink: Sink
) -> None:
    register_package(sink)

    async def play() -> None:
        await worker.read_prices()
        version = half_price(sink)
        known_ms = worker._priced_until_ms
        # Such a worker looked last some time ago, and these records are later than what it may price.
        worker._prices_read_at_s = time.monotonic() - 20
        begins = version.takes_effect_ms
        await worker._feed(Stream([begins - 60_000, begins - 1, begins, begins + 1]))
        assert known_ms < begins <= worker.prices.versions[-1].takes_effect_ms

    asyncio.run(play())
    store_rows(worker, sink)
    assert stored(sink) == [(1, "2.5"), (1, "2.5"), (2, "1.25"), (2, "1.25")]
    assert worker.prices.newest == 2


def test_a_worker_that_cannot_read_the_ledger_waits_rather_than_price_with_an_old_one(
    worker: Worker, store: Store, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_package(sink)
    waited: list[int] = []

    async def play() -> None:
        await worker.read_prices()
        begins = half_price(sink).takes_effect_ms
        store.down = True

        async def back_off(most_s: float) -> None:
            waited.append(worker.partitions[0].lane.through)
            store.down = len(waited) < 3

        monkeypatch.setattr(worker.writer, "_back_off", back_off)
        worker._prices_read_at_s = time.monotonic() - 20
        await worker._feed(Stream([worker._priced_until_ms, begins]))

    asyncio.run(play())
    # The first record was known to be priced by version 1; the second waited until the ledger was read.
    assert waited == [CHUNK, CHUNK, CHUNK]
    store_rows(worker, sink)
    assert stored(sink) == [(1, "2.5"), (2, "1.25")]


def test_old_records_are_priced_without_asking_again(worker: Worker, store: Store, sink: Sink) -> None:
    register_package(sink)

    async def play() -> None:
        await worker.read_prices()
        asked = store.asked
        now_ms = int(time.time() * 1000)
        worker._prices_read_at_s = time.monotonic() - 20
        await worker._feed(Stream([now_ms - 86_400_000, now_ms - 60_000, now_ms]))
        assert store.asked == asked
        assert worker._priced_until_ms >= now_ms + TRUST_MS - 10_000

    asyncio.run(play())


def test_a_broker_far_ahead_costs_a_look_a_second_and_no_more(
    worker: Worker, store: Store, sink: Sink
) -> None:
    register_package(sink)

    async def play() -> None:
        await worker.read_prices()
        worker._prices_read_at_s = time.monotonic() - 20
        asked = store.asked
        ahead_ms = worker._priced_until_ms + 3_600_000
        await worker._feed(Stream([ahead_ms + number for number in range(50)]))
        assert store.asked - asked <= 2

    asyncio.run(play())


def test_a_look_at_the_ledger_that_fails_is_counted_and_stops_nothing(
    worker: Worker, store: Store, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_package(sink)
    monkeypatch.setattr(streams_worker, "_PRICES_EVERY_S", 0)
    real = store.rows

    def rows(sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        store.down = store.asked < 3
        worker._stopping = not store.down
        return real(sql, parameters)

    monkeypatch.setattr(store, "rows", rows)
    asyncio.run(worker._read_prices_for_ever())
    assert worker.price_read_errors_total == 3
    assert worker.prices.newest == 1
    metrics = {metric.name: metric.samples[0].value for metric in worker.health.collect() if metric.samples}
    assert metrics["gatewatch_price_read_errors"] == 3
    assert metrics["gatewatch_price_version"] == 1


def test_a_long_ledger_is_read_page_by_page(
    worker: Worker, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_package(sink)
    for number in range(2, 8):
        sink.command(
            f"INSERT INTO {STORE}.price_versions SELECT * REPLACE ({number} AS version) "
            f"FROM (SELECT * FROM {STORE}.price_versions WHERE version = 1)"
        )
    for module in (streams_worker, sinks_price):
        monkeypatch.setattr(module, "PAGE", 3)
    asyncio.run(worker.read_prices())
    assert [version.version for version in worker.prices.versions] == [1, 2, 3, 4, 5, 6, 7]


def test_a_version_that_this_release_cannot_read_ends_the_worker(
    worker: Worker, store: Store, sink: Sink
) -> None:
    register_package(sink)
    sink.command(
        f'INSERT INTO {STORE}.price_versions SELECT * REPLACE (2 AS version, \'{{"shape": "new"}}\' AS list) '
        f"FROM (SELECT * FROM {STORE}.price_versions)"
    )
    with pytest.raises(WorkerError, match=r"version 2 of the prices: .* start workers of that one"):
        asyncio.run(worker.read_prices())


def test_a_worker_registers_its_list_and_mends_what_a_maker_left_undone(sink: Sink) -> None:
    streams_worker._register_prices(sink)
    sink.command(f"TRUNCATE TABLE {STORE}.prices")
    streams_worker._register_prices(sink)
    assert [version.version for version in read_versions(sink)] == [1]
    assert fill_rows(sink) == []
    assert sink.rows("SELECT count() > 10000 FROM gatewatch.prices") == [(1,)]
