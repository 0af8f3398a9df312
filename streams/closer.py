"""The closers: shards of series that this worker closes the windows of.

They hear on the progress topic how far every partition has come. Windows that are complete, and
closed ones that got late events, are merged into ``measures``; only then is what was heard
acknowledged, so that whoever takes a shard over hears it again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any

from signals.chunk import WINDOW_S
from sinks.clickhouse import Sink, SinkError
from sinks.closing import close_windows, save_checkpoint
from streams.progress import Closing, Progress, ShardProgress

__all__ = ["Closers", "store_closing"]

log = logging.getLogger(__name__)


class Closers:
    """The shards of one assignment; a rebalance makes new ones.

    Parameters
    ----------
    shards
        Numbers of the shards.
    closed_until_s
        Up to where each has closed its windows, from the checkpoints.
    acknowledge
        Marks one record of the progress topic as done.
    """

    def __init__(
        self,
        shards: Iterable[int],
        closed_until_s: Mapping[int, int],
        grace_ms: int,
        acknowledge: Callable[[Any], object],
    ) -> None:
        self.shards = {number: ShardProgress(grace_ms, closed_until_s.get(number, 0)) for number in shards}
        self.live = True
        self._acknowledge = acknowledge
        self._heard: list[Any] = []

    def hear(self, shard: int, progress: Progress | None, record: object) -> None:
        """Take note of a record of the progress topic; None is one that is no progress."""
        if progress is not None:
            self.shards[shard].hear(progress)
        self._heard.append(record)

    async def close(self, once: Callable[[Callable[[Sink], None]], Awaitable[None]]) -> int:
        """Close what is due; how many closings succeeded.

        Parameters
        ----------
        once
            Runs work on the sink, once: what fails is due again the next time.
        """
        heard, self._heard = self._heard, []
        together: dict[Closing, list[int]] = {}
        for number, shard in self.shards.items():
            closing = shard.take()
            if closing is not None:
                together.setdefault(closing, []).append(number)
        closed = 0
        failed = False
        for closing, numbers in together.items():
            try:
                await once(partial(store_closing, closing, numbers))
            except SinkError as error:
                log.warning("windows cannot be closed, trying again: %s", error)
                failed = True
                for number in numbers:
                    self.shards[number].failed(closing)
                continue
            for number in numbers:
                self.shards[number].done(closing)
            closed += 1
        if failed:
            self._heard = heard + self._heard
        elif self.live:
            for record in heard:
                self._acknowledge(record)
        return closed


def store_closing(closing: Closing, shards: list[int], sink: Sink) -> None:
    """Merge windows, then say that they are merged: readers change over by the checkpoint."""
    if closing.until_s > closing.from_s:
        close_windows(sink, closing.from_s, closing.until_s, shards)
        save_checkpoint(sink, closing.until_s, shards)
    if closing.corrected:
        last = closing.corrected[-1]
        close_windows(sink, closing.corrected[0], last + WINDOW_S, shards, closing.corrected)
