"""One assigned partition: its lane, and the records that it has not acknowledged yet.

The rule (``docs/delivery.md``): only whole chunks are acknowledged, after all of their rows are
stored, strictly in order. Faust commits up to the first record that is not acknowledged, and with
gaps among acknowledged ones it can commit past a record that is not (faust#606).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from signals.lane import Lane, LaneRows

__all__ = ["Partition"]


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

    @property
    def oldest_unacknowledged_ms(self) -> int | None:
        """Append time of the oldest record that is not acknowledged."""
        return self._unacknowledged[0][1] if self._unacknowledged else None
