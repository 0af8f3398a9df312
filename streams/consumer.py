"""Faust's consumer with five habits changed: where it starts, what it waits for and how, how it checks.

Everything here leans on names that Faust 0.15.3 does not publish; that is why its version is pinned, and
why nothing else of the worker touches them (``docs/decisions/faust-consumer.md``).
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Final

import aiokafka
import aiokafka.conn
import aiokafka.consumer.fetcher
import faust
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.record.memory_records import MemoryRecords
from crc32c import crc32c
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer
from mode.services import WaitResults

__all__ = ["FETCH_BYTES", "checksums_hold", "install"]

FETCH_BYTES: Final = 2 << 20
"""Of one partition in one fetch; what is buffered must last longer than a fetch that finds nothing."""

_FETCH_WAIT_MS: Final = 50
_SOCKET_BUFFER_BYTES: Final = 1 << 20
_BUFFER_FULL_S: Final = 0.01


class _Thread(AIOKafkaConsumerThread):
    """The thread that talks to Kafka."""

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # One fetch at a time is under way to a broker, and it asks only for partitions of which nothing
        # is buffered. While events are buffered that is the quiet progress topic alone, and Faust's
        # 1.5 s of waiting for something new there kept every event waiting, too.
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS
        return consumer


class _Consumer(Consumer):
    """The worker's consumer."""

    on_seek: Callable[[Any], Awaitable[None]]

    def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    async def perform_seek(self) -> None:
        await super().perform_seek()
        await type(self).on_seek(self)

    async def _wait_next_records(self, timeout: float) -> Any:
        # While the agent's buffer is full Faust stops fetching, and then sleeps a whole second although
        # the buffer is empty again after a tenth of one.
        if self.flow_active and not self._get_active_partitions():
            await asyncio.sleep(_BUFFER_FULL_S)
            return None, None
        return await super()._wait_next_records(timeout)

    async def wait_first(self, *coros: Any, timeout: Any = None) -> WaitResults:
        # Faust hands a record over in a task of its own, beside three more that may interrupt it, and cancels
        # those again: most of what a record costs. The hand-over waits only where a buffer is full.
        if len(coros) != 2 or timeout is not None or not isinstance(coros[0], types.CoroutineType):
            return await super().wait_first(*coros, timeout=timeout)
        hand_over, interruption = coros
        try:
            waits_for = hand_over.send(None)
        except StopIteration as ended:
            interruption.close()
            # The agent's turn: what it does not take at once fills its buffer, and that pauses the fetching.
            await asyncio.sleep(0)
            return WaitResults([hand_over], [ended.value], False)
        except BaseException:
            interruption.close()
            raise
        return await super().wait_first(_finish(hand_over, waits_for), interruption)


async def _finish(begun: Coroutine[Any, Any, Any], waits_for: Any) -> Any:
    """Go on with a coroutine that has been begun and waits."""
    return await _rest_of(begun, waits_for)


@types.coroutine
def _rest_of(begun: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    while True:
        try:
            try:
                answer = yield waits_for
            except BaseException as error:
                waits_for = begun.throw(error)
            else:
                waits_for = begun.send(answer)
        except StopIteration as ended:
            return ended.value


def checksums_hold(fetched: bytes) -> bool:
    """Whether the checksum of every whole batch is right; False too for the formats before Kafka 0.11.

    Source: Kafka's protocol, *Record Batch*: from ``attributes`` on, a batch is covered by its CRC-32C.
    """
    view = memoryview(fetched)
    at = 0
    while at + _BATCH_HEAD <= len(view):
        end = at + _LENGTH_END + int.from_bytes(view[at + _LENGTH_END - 4 : at + _LENGTH_END])
        if end > len(view):
            break  # the fetch ended in the middle of it
        if view[at + _MAGIC] != 2 or crc32c(view[at + _BATCH_HEAD : end]) != int.from_bytes(
            view[at + _MAGIC + 1 : at + _BATCH_HEAD]
        ):
            return False
        at = end
    return True


_LENGTH_END: Final = 12
_MAGIC: Final = 16
_BATCH_HEAD: Final = 21


class _Fetched(MemoryRecords):  # type: ignore[misc]  # aiokafka has no types
    """What a fetch brought, which can still be looked at as bytes."""

    def __init__(self, fetched: bytes) -> None:
        super().__init__(fetched)
        self.fetched = fetched


class _Checked(PartitionRecords):  # type: ignore[misc]  # aiokafka has no types
    """Records of a fetch whose checksums are computed by the processor's own instruction.

    aiokafka computes them in portable C, at a tenth of the speed. Whatever is wrong is left to it: it hands
    over what comes before, and says which batch it is.
    """

    _check_crcs: bool

    def _unpack_records(self) -> Any:
        if self._check_crcs and checksums_hold(self._records.fetched):
            self._check_crcs = False
        return super()._unpack_records()


def install(app: faust.App, on_seek: Callable[[Any], Awaitable[None]]) -> None:
    """Give an app this consumer.

    Parameters
    ----------
    on_seek
        Called with the consumer on every assignment, after it went to the committed offsets and before
        records flow.
    """
    # A fetch is megabytes; in buffers of aiokafka's 64 KiB it is read in hundreds of stops and starts.
    aiokafka.conn.READER_LIMIT = _SOCKET_BUFFER_BYTES
    aiokafka.consumer.fetcher.MemoryRecords = _Fetched
    aiokafka.consumer.fetcher.PartitionRecords = _Checked
    transport: Any = app.transport
    transport.Consumer = type("Consumer", (_Consumer,), {"on_seek": staticmethod(on_seek)})
