"""Which sequence numbers of which emitters a chunk has seen, as intervals.

Every emitter numbers its events from 0 without a hole. The numbers that reached a chunk are kept as
closed intervals, a handful for a thousand events; added up over all chunks they say exactly how many
events of an emitter were lost (a gap) or delivered twice (an overlap).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

__all__ = ["SequenceRanges", "SequenceTracker"]

_SEQ_BITS: Final = 47


class SequenceRanges(Struct, frozen=True):
    """Closed intervals: ``emitter_id[i]`` has sent ``first[i] .. last[i]``."""

    emitter_id: list[str]
    first: list[int]
    last: list[int]
    duplicates: dict[str, int]
    """Events that the chunk had seen before, by emitter; only emitters that have some."""


class SequenceTracker:
    """The sequence numbers of one chunk.

    Parameters
    ----------
    emitter_limit
        So many emitters are followed in a chunk, in the order of their first event; events of further
        ones are counted in :attr:`untracked`, so that invented ids cannot grow the worker.
    """

    def __init__(self, emitter_limit: int) -> None:
        self._emitter_limit = emitter_limit
        self._index: dict[str, int] = {}
        self._low = np.empty(0, dtype=np.int64)
        self._high = np.empty(0, dtype=np.int64)
        self._duplicates = np.zeros(0, dtype=np.int64)
        self.untracked = 0

    def see(
        self, emitter_ids: Sequence[str], codes: NDArray[np.int64], seqs: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Take note of events, in their order; true where an event has been seen before.

        Parameters
        ----------
        emitter_ids
            Distinct ids in the order of their first event.
        codes, seqs
            Shape (n,): each event's emitter, as an index into ``emitter_ids``, and its number; a
            negative number is an event without one, which is never a duplicate.
        """
        for emitter_id in emitter_ids:
            if emitter_id and emitter_id not in self._index and len(self._index) < self._emitter_limit:
                self._index[emitter_id] = len(self._index)
        emitter = np.array([self._index.get(emitter_id, -1) for emitter_id in emitter_ids], dtype=np.int64)
        duplicate = np.zeros(len(seqs), dtype=np.bool_)
        numbered = seqs >= 0
        tracked = np.flatnonzero(numbered & (emitter[codes] >= 0))
        self.untracked += int(np.count_nonzero(numbered)) - len(tracked)
        if not len(tracked):
            return duplicate
        keys = (emitter[codes[tracked]] << _SEQ_BITS) | seqs[tracked]
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        again = np.zeros(len(ordered), dtype=np.bool_)
        again[1:] = ordered[1:] == ordered[:-1]
        if len(self._low):
            place = np.searchsorted(self._low, ordered, side="right") - 1
            again |= (place >= 0) & (ordered <= self._high[np.maximum(place, 0)])
        duplicate[tracked[order[again]]] = True
        counted = np.bincount(ordered[again] >> _SEQ_BITS, minlength=len(self._index))
        counted[: len(self._duplicates)] += self._duplicates
        self._duplicates = counted
        fresh = ordered[~again]
        if len(fresh):
            breaks = np.flatnonzero(np.diff(fresh) != 1)
            self._merge(fresh[np.r_[0, breaks + 1]], fresh[np.r_[breaks, len(fresh) - 1]])
        return duplicate

    def ranges(self) -> SequenceRanges:
        """All intervals, by emitter in the order of its first event, then by number."""
        names = list(self._index)
        mask = (1 << _SEQ_BITS) - 1
        return SequenceRanges(
            emitter_id=[names[i] for i in (self._low >> _SEQ_BITS).tolist()],
            first=(self._low & mask).tolist(),
            last=(self._high & mask).tolist(),
            duplicates={name: int(n) for name, n in zip(names, self._duplicates.tolist(), strict=False) if n},
        )

    def _merge(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> None:
        low = np.concatenate([self._low, low])
        high = np.concatenate([self._high, high])
        order = np.argsort(low, kind="stable")
        low, high = low[order], high[order]
        # The intervals are disjoint, so neighbours join exactly where one ends just before the next.
        # The numbers of two emitters never join: the largest number is not used (events.Seq).
        starts = np.r_[True, low[1:] != high[:-1] + 1]
        self._low = low[starts]
        self._high = high[np.r_[np.flatnonzero(starts)[1:] - 1, len(high) - 1]]
