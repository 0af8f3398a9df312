"""Writes flushed rows to the sink: one block for each table, again and again until it is stored.

Kafka is the buffer while ClickHouse is down. Nothing is dropped and nothing is given up; the worker
stops reading when what it holds has reached its bound.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

import pyarrow as pa

from signals.lane import LaneRows
from sinks.clickhouse import Sink, SinkError
from sinks.row import blocks
from sinks.schema import STORE

__all__ = ["Writer", "insert"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_MOST_S: Final = 5.0
_SILENT_S: Final = 5.0


class Writer:
    """The worker's one connection to the sink, in a thread of its own.

    Parameters
    ----------
    connect
        Makes a connection; called in the writer's thread, again after every failure.
    """

    def __init__(self, connect: Callable[[], Sink]) -> None:
        self._connect = connect
        self._sink: Sink | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gatewatch-writer")
        self.rows_written_total: dict[str, int] = {}
        self.insert_errors_total = 0
        self.failing = False
        self._busy_since: float | None = None

    @property
    def answering(self) -> bool:
        """Whether ClickHouse took the last statement, and is not silent over the one that runs."""
        waited_s = 0.0 if self._busy_since is None else time.monotonic() - self._busy_since
        return not self.failing and waited_s < _SILENT_S

    async def write(self, flushed: Sequence[LaneRows]) -> None:
        """Store all rows; returns when every table has them."""
        made = await self._in_thread(partial(blocks, flushed))
        for name, table in made.items():
            await self.persistently(partial(insert, f"{STORE}.{name}", table))
            self.rows_written_total[name] = self.rows_written_total.get(name, 0) + table.num_rows

    async def persistently(self, work: Callable[[Sink], T]) -> T:
        """Run work on the sink until it succeeds.

        Raises
        ------
        asyncio.CancelledError
            The worker gave up waiting; the work may or may not have been done.
        """
        backoff_s = _BACKOFF_FIRST_S
        said = ""
        while True:
            try:
                result = await self.once(work)
            except SinkError as error:
                self.insert_errors_total += 1
                if not self.failing or str(error) != said:
                    log.error("ClickHouse does not take rows, trying again until it does: %s", error)
                    said = str(error)
                self.failing = True
                await self._back_off(backoff_s)
                backoff_s = min(backoff_s * 2, _BACKOFF_MOST_S)
            else:
                if self.failing:
                    log.warning("ClickHouse takes rows again")
                self.failing = False
                return result

    async def once(self, work: Callable[[Sink], T]) -> T:
        """Run work on the sink once.

        Raises
        ------
        SinkError
            It failed; the connection is closed, and the next work gets another one.
        """

        def run() -> T:
            if self._sink is None:
                self._sink = self._connect()
            try:
                return work(self._sink)
            except SinkError:
                self._sink.close()
                self._sink = None
                raise

        return await self._in_thread(run)

    async def _in_thread(self, run: Callable[[], T]) -> T:
        self._busy_since = time.monotonic()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, run)
        finally:
            self._busy_since = None

    async def _back_off(self, most_s: float) -> None:
        # Full jitter: workers that failed together must not come back together.
        await asyncio.sleep(random.uniform(0, most_s))  # noqa: S311 - no secret

    def close(self) -> None:
        """Close the connection; waits for the statement that is running."""
        self._thread.shutdown(wait=True)
        if self._sink is not None:
            self._sink.close()
            self._sink = None


def insert(table: str, rows: pa.Table, sink: Sink) -> None:
    """Insert a block; as a function, so that the writer's thread can be given it."""
    sink.insert(table, rows)
