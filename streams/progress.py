"""What lanes tell the closers of windows: how far their rows have come in event time."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from signals.chunk import WINDOW_S

__all__ = ["Closing", "Progress", "ShardProgress", "decode_progress", "encode_progress"]


_CORRECTED_AT_ONCE: Final = 60
"""Windows merged again by one statement: inserts wait for it."""


class Progress(Struct, frozen=True, kw_only=True):
    """A lane's rows are stored up to here. Sent to every partition of the progress topic.

    It is written only after the rows that it speaks of are stored. A lane that stands at its log's
    end says so itself (``reached_ms`` then grows without records); silence says nothing, because a
    dead worker is silent too.
    """

    topic: str
    incarnation: str
    partition: int
    partitions: int
    """How many partitions the topic has: a window waits for each of them, heard of or not."""
    flushed_offset: int
    reached_ms: int
    """Every record that the broker appended before this time is stored."""
    reopened: list[int] = []
    """Starts, in seconds, of windows that got events after they may have been closed."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Progress)


def encode_progress(progress: Progress) -> bytes:
    """A record's value."""
    return _encoder.encode(progress)


def decode_progress(value: bytes) -> Progress | None:
    """What a record says; None when it is no progress (nobody else should write to the topic)."""
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class Closing(Struct, frozen=True):
    """Windows to merge: those that start in [from_s, until_s), and single ones that got late events."""

    from_s: int
    until_s: int
    corrected: tuple[int, ...]


class ShardProgress:
    """What one shard of series has heard, and what of its windows is due.

    Parameters
    ----------
    grace_ms
        A window is complete when every partition has come so far past its end.
    closed_until_s
        Windows that start before this are closed; from the shard's checkpoint.
    """

    def __init__(self, grace_ms: int, closed_until_s: int) -> None:
        self._grace_ms = grace_ms
        self._reached: dict[int, int] = {}
        self._identity: tuple[str, str] | None = None
        self._partitions = 0
        self._reopened: set[int] = set()
        self.closed_until_s = closed_until_s

    def hear(self, progress: Progress) -> None:
        """Take note. Progress that goes backwards, after a restart from a chunk's start, only delays."""
        identity = (progress.topic, progress.incarnation)
        if identity != self._identity:
            self._identity = identity
            self._reached.clear()
            self._partitions = 0
        self._partitions = max(self._partitions, progress.partitions)
        self._reached[progress.partition] = progress.reached_ms
        self._reopened.update(progress.reopened)

    @property
    def complete_until_s(self) -> int:
        """Windows that end by then are complete on every partition that exists; 0 while one is unknown."""
        if not self._partitions or len(self._reached) < self._partitions:
            return 0
        return max(0, (min(self._reached.values()) - self._grace_ms) // 1000 // WINDOW_S * WINDOW_S)

    def take(self) -> Closing | None:
        """What is to be closed and corrected now; give it to :meth:`done` or :meth:`failed` afterwards."""
        until = max(self.complete_until_s, self.closed_until_s)
        # A window that is still open needs no correction: it is closed later with everything in it.
        due = sorted(window for window in self._reopened if window < self.closed_until_s)
        corrected = tuple(due[:_CORRECTED_AT_ONCE])
        # What is heard while the sink works may have missed its snapshot, so it counts for the next time.
        self._reopened = set(due[_CORRECTED_AT_ONCE:])
        if until == self.closed_until_s and not corrected:
            return None
        return Closing(self.closed_until_s, until, corrected)

    def done(self, closing: Closing) -> None:
        """The windows are stored in ``measures``."""
        self.closed_until_s = max(self.closed_until_s, closing.until_s)

    def failed(self, closing: Closing) -> None:
        """They are not: they are due again."""
        self._reopened.update(closing.corrected)
