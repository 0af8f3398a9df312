"""One assigned partition: its lane, and the records that it has not acknowledged yet.

The rule (``docs/delivery.md``): only whole chunks are acknowledged, after all of their rows are
stored, strictly in order. Faust commits up to the first record that is not acknowledged, and with
gaps among acknowledged ones it can commit past a record that is not (faust#606).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from signals.lane import Lane, LaneRows

__all__ = ["Partition", "deliver", "flush_lanes"]

_CLOCK_MARGIN_MS: Final = 1000
"""Between this machine's clock and the broker's, when a lane says that it stands at its log's end."""


class Partition:
    """A partition while it is assigned to this worker; a rebalance makes a new one.

    Parameters
    ----------
    acknowledge
        Marks one record, as it was fed, as done.
    """

    def __init__(self, number: int, lane: Lane, acknowledge: Callable[[Any], object]) -> None:
        self.number = number
        self._acknowledge = acknowledge
        self.lane = lane
        self.live = True
        self.flushed_offset = lane.through
        self.reached_ms = 0
        self.events_total = 0
        self.rejects_total = 0
        self._unacknowledged: deque[tuple[int, int, Any]] = deque()
        self._counted = (-1, 0, 0)

    def feed(self, offset: int, appended_ms: int, value: bytes | None, record: object) -> None:
        """Take one record."""
        self.lane.feed(offset, appended_ms, value)
        self._unacknowledged.append((offset, appended_ms, record))

    def stored(self, rows: LaneRows) -> None:
        """All rows of a flush are stored: acknowledge the chunks that are complete."""
        self.flushed_offset = rows.through
        self.reached_ms = max(self.reached_ms, rows.reached_ms)
        self.events_total += rows.events
        self.rejects_total += rows.rejected
        if not self.live:
            return  # revoked meanwhile: whoever owns it now reads from the last acknowledged chunk
        while self._unacknowledged and self._unacknowledged[0][0] <= rows.complete_through:
            self._acknowledge(self._unacknowledged.popleft()[2])

    def count(self, rows: LaneRows) -> tuple[int, int]:
        """Late and duplicate events that a flush adds; a chunk's totals say all of its events so far."""
        late = duplicates = 0
        for chunk in rows.chunks:
            first, late_before, duplicates_before = self._counted
            if chunk.first_offset != first:
                late_before = duplicates_before = 0
            late += chunk.totals.late - late_before
            duplicates += chunk.totals.duplicates - duplicates_before
            self._counted = (chunk.first_offset, chunk.totals.late, chunk.totals.duplicates)
        return late, duplicates

    def reach(self, rows: LaneRows | None, log_end: tuple[int, int] | None) -> int:
        """Up to which append time every record is stored, in ms; 0 when that is not known.

        Parameters
        ----------
        rows
            Rows that have just been stored, if any were.
        log_end
            The log's end and when that was, in ms. A lane that has stored everything up to it knows that
            nothing else was appended until then. Silence would say nothing: a dead worker is silent too.
        """
        reached = 0
        if rows is not None:
            reached = rows.reached_ms
        elif log_end is not None and self.flushed_offset + 1 >= log_end[0]:
            reached = log_end[1] - _CLOCK_MARGIN_MS
        self.reached_ms = max(self.reached_ms, reached)
        self.lane.claim(self.reached_ms)
        return self.reached_ms

    @property
    def oldest_unacknowledged_ms(self) -> int | None:
        """Append time of the oldest record that is not acknowledged."""
        return self._unacknowledged[0][1] if self._unacknowledged else None


def flush_lanes(partitions: Iterable[Partition]) -> list[tuple[Partition, LaneRows]]:
    """What the lanes have that is not stored."""
    flushed = ((partition, partition.lane.flush()) for partition in partitions)
    return [(partition, rows) for partition, rows in flushed if rows is not None]


async def deliver(
    flushed: Sequence[tuple[Partition, LaneRows]],
    write: Callable[[Sequence[LaneRows]], Awaitable[None]],
    publish: Callable[[Partition, LaneRows], Awaitable[None]],
) -> None:
    """Store rows, then say how far they go, then acknowledge: the order that delivery rests on.

    Call it again only after it has returned: an acknowledgement covers all earlier records.

    Parameters
    ----------
    write
        Returns when all tables have the rows.
    publish
        Returns when the closers will hear of it. Progress speaks of rows that are stored; and late windows
        must be named again if this process dies before it has named them, so the acknowledgement waits.
    """
    if flushed:
        await write([rows for _, rows in flushed])
    for partition, rows in flushed:
        await publish(partition, rows)
        partition.stored(rows)
