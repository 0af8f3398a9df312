"""Whether a topic holds next to nothing but lines that are no events.

Then something else is wrong than a few lines, and the worker stops rather than drain the topic into
the dead letters (``docs/dead-letters.md``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from signals.lane import LaneRows

__all__ = ["JUDGED_LINES", "Spoiled", "Verdict"]

JUDGED_LINES: Final = 2000
"""Fewer lines than these are not judged."""
_MOST_REJECTS: Final = 0.95
"""If of the last 2,000 lines 95 % are no events, something else is wrong than a few lines."""


_SPOILED_RECORDS: Final = 20


class Spoiled(Struct, frozen=True):
    """The last lines are no events, and why."""

    lines: int
    rejects: int
    reasons: list[str]
    """Of all of the rejects, sorted."""
    partition: int
    """With ``offset`` and ``line``, the place of the first of the rejects."""
    offset: int
    line: int


class _Flush(Struct, frozen=True):
    """What one flush held."""

    records: int
    lines: int
    rejects: int
    spoiled: int
    """Records that hold rejects."""
    reasons: frozenset[str]
    first: tuple[int, int, int] | None
    """Partition, offset and line of its first reject."""


class Verdict:
    """Judges the last lines of several flushes together; whole flushes only, so they may be more."""

    def __init__(self) -> None:
        self._flushes: deque[_Flush] = deque()

    def judge(self, flushed: Iterable[tuple[int, LaneRows]]) -> Spoiled | None:
        """Take what one flush gave, by the partition's number; says whether it is too bad to go on."""
        lanes = list(flushed)
        letters = [(number, letter) for number, rows in lanes for letter in rows.dead_letters]
        rejects = sum(rows.rejected for _, rows in lanes)
        self._flushes.append(
            _Flush(
                records=sum(rows.records for _, rows in lanes),
                lines=sum(rows.events for _, rows in lanes) + rejects,
                rejects=rejects,
                spoiled=len({(number, letter.offset) for number, letter in letters}),
                reasons=frozenset(letter.reason for _, letter in letters),
                first=next(((number, letter.offset, letter.line) for number, letter in letters), None),
            )
        )
        lines = sum(flush.lines for flush in self._flushes)
        records = sum(flush.records for flush in self._flushes)
        # Enough of both must stay: with thousands of lines a record, few records make a flush.
        while (
            lines - self._flushes[0].lines >= JUDGED_LINES
            and records - self._flushes[0].records >= _SPOILED_RECORDS
        ):
            lines -= self._flushes[0].lines
            records -= self._flushes.popleft().records
        rejects = sum(flush.rejects for flush in self._flushes)
        first = next((flush.first for flush in self._flushes if flush.first is not None), None)
        spoiled = sum(flush.spoiled for flush in self._flushes)
        if spoiled < _SPOILED_RECORDS:
            return None  # one text file sent by mistake is no reason to stop
        if first is None or lines < JUDGED_LINES or rejects < _MOST_REJECTS * lines:
            return None
        reasons = frozenset[str]().union(*(flush.reasons for flush in self._flushes))
        return Spoiled(lines, rejects, sorted(reasons), *first)
