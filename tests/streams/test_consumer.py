"""Handing a record over: at once where that goes, like Faust where it has to wait."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from mode import Service
from mode.utils.locks import Event

from streams.consumer import _Consumer


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
