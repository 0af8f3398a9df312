"""Handing a record over: at once where that goes, like Faust where it has to wait."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from mode import Service
from mode.utils.locks import Event

from streams.consumer import _Checked, _Consumer, _Fetched, checksums_hold


def handing_over(test: Callable[[_Consumer, Event], Coroutine[Any, Any, None]]) -> None:
    """Run with a consumer that is only a service, and the event that interrupts it."""

    async def run() -> None:
        consumer = _Consumer.__new__(_Consumer)
        Service.__init__(consumer)
        await asyncio.wait_for(test(consumer, Event()), 10)

    asyncio.run(run())


def test_what_need_not_wait_is_handed_over_at_once() -> None:
    async def test(consumer: _Consumer, suspended: Event) -> None:
        async def hand_over() -> int:
            return 7

        assert (await consumer.wait_first(hand_over(), suspended.wait())).results == [7]

    handing_over(test)


def test_a_hand_over_that_waits_goes_on_where_it_was() -> None:
    async def test(consumer: _Consumer, suspended: Event) -> None:
        steps: list[str] = []
        room: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def hand_over() -> str:
            steps.append("begun")
            steps.append(await room)
            await asyncio.sleep(0)
            return "done"

        asyncio.get_running_loop().call_soon(room.set_result, "room")
        assert (await consumer.wait_first(hand_over(), suspended.wait())).results == ["done"]
        assert steps == ["begun", "room"]

    handing_over(test)


@pytest.mark.parametrize("interrupt", ["suspend", "stop", "cancel"])
def test_a_hand_over_that_waits_can_be_interrupted(interrupt: str) -> None:
    async def test(consumer: _Consumer, suspended: Event) -> None:
        ended = asyncio.Event()

        async def hand_over() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        waiting = asyncio.ensure_future(consumer.wait_first(hand_over(), suspended.wait()))
        await asyncio.sleep(0)
        if interrupt == "cancel":
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        else:
            (suspended if interrupt == "suspend" else consumer._stopped).set()
            assert (await waiting).stopped == (interrupt == "stop")
        await ended.wait()

    handing_over(test)


@pytest.mark.parametrize("waits", [False, True])
def test_what_a_hand_over_raises_is_raised_and_nothing_is_left_behind(
    waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", left.append)

    async def test(consumer: _Consumer, suspended: Event) -> None:
        async def hand_over() -> None:
            if waits:
                await asyncio.sleep(0)
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await consumer.wait_first(hand_over(), suspended.wait())

    handing_over(test)
    gc.collect()
    assert not left  # a coroutine that was never awaited


def batch(offset: int, *values: bytes) -> bytes:
    """A batch as a broker has it."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 16,
    )
    for number, value in enumerate(values):
        assert builder.append(number, timestamp=1, key=None, value=value, headers=[])
    built = bytes(builder.build())
    return offset.to_bytes(8) + built[8:]


def records(fetched: bytes) -> list[Any]:
    """What the worker's consumer makes of a fetch."""
    return list(_Checked(TopicPartition("t", 0), _Fetched(fetched), [], 0, None, None, True, 0))


def test_a_fetch_is_read_with_its_checksums_checked_by_us() -> None:
    fetched = batch(0, b"a", b"b") + batch(2, b"c")
    assert checksums_hold(fetched) and checksums_hold(b"")
    assert checksums_hold(fetched + batch(3, b"d")[:-1])  # cut off by the fetch's size
    assert [record.value for record in records(fetched)] == [b"a", b"b", b"c"]


def test_every_damaged_byte_that_a_checksum_covers_is_noticed() -> None:
    good = batch(0, b"a", b"b")
    for at in range(16, len(good)):
        damaged = bytearray(good)
        damaged[at] ^= 0x40
        assert not checksums_hold(bytes(damaged)), at


def test_what_comes_before_a_damaged_batch_is_handed_over_and_the_damage_is_named() -> None:
    damaged = bytearray(batch(0, b"a") + batch(1, b"b"))
    damaged[-2] ^= 1
    found = _Checked(TopicPartition("t", 0), _Fetched(bytes(damaged)), [], 0, None, None, True, 0)
    assert next(found).value == b"a"
    with pytest.raises(CorruptRecordException):
        next(found)
