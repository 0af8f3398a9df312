"""Aggregates of one chunk: the records of a partition between two multiples of the chunk size.

A chunk's rows are a pure function of its records so far, whatever the batches in which they came
(``docs/delivery.md``): integers only, limits counted from the chunk's start in the order of events,
no clock. They are inserted early for freshness and replaced as a whole by their later versions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import Struct
from numpy.typing import NDArray

from signals import performance, pipeline, spend
from signals.column import coded
from signals.sequence import SequenceTracker
from signals.signal import CUTS, DIMENSIONS, OTHER, SERIES_BITS, SERIES_LIMIT_MOST, Cut, Signal
from signals.sketch import bucket_of

__all__ = [
    "FAMILIES",
    "SERIES_LIMIT_MOST",
    "SIGNALS",
    "WINDOW_S",
    "Chunk",
    "ChunkTotals",
    "Measured",
    "series_name",
]

FAMILIES: Final = ("performance", "cost", "pipeline")
SIGNALS: Final = {signal.name: signal for signal in (*performance.SIGNALS, *spend.SIGNALS, *pipeline.SIGNALS)}
WINDOW_S: Final = 60
"""Length of the windows in event time. One length for all signals: a window closes as a whole."""

# A key holds label, series and window; with a bucket behind it, it still fits 63 bits.
_WINDOW_BITS: Final = 26
_BUCKET_BITS: Final = 11
_MASK_WINDOW: Final = (1 << _WINDOW_BITS) - 1
_MASK_SERIES: Final = (1 << SERIES_BITS) - 1
_MASK_BUCKET: Final = (1 << _BUCKET_BITS) - 1
_DENSE_CELLS: Final = 1 << 21

_ALL: Final = Cut("all", ())
_json_encode: Final = msgspec.json.Encoder().encode

Ints = NDArray[np.int64]


def series_name(cut: str, values: Iterable[str]) -> str:
    """A series as it is stored: a JSON array of the cut's name and its dimensions' values.

    >>> series_name("model", ["openai", "gpt-4o"])
    '["model","openai","gpt-4o"]'
    """
    return _json_encode([cut, *values]).decode()


class Measured(Struct):
    """What a chunk is told of a batch of events, in their order; arrays have shape (n,)."""

    at_ms: Ints
    late: NDArray[np.bool_]
    duplicate: NDArray[np.bool_]
    gateway: pa.Array
    """Strings."""
    kind: Ints
    """Index into ``kinds``."""
    kinds: list[str]
    calls: pa.Table | None
    """The call events among them (:mod:`signals.column`), ``position`` pointing into the arrays."""


class ChunkTotals(Struct, frozen=True):
    """What a chunk has been told, over all windows and series."""

    events: int
    duplicates: int
    late: int
    rejects: int
    untracked: int


class _Tally:
    """Sums of integers by integer key, sorted by key."""

    def __init__(self, width: int) -> None:
        self._keys = [np.empty(0, dtype=np.int64)]
        self._values = [np.empty((width, 0), dtype=np.int64)]

    def add(self, keys: Ints, values: NDArray[np.int64]) -> None:
        """Add ``values`` of shape (width, n) at ``keys`` of shape (n,)."""
        self._keys.append(keys)
        self._values.append(values)

    def sums(self) -> tuple[Ints, NDArray[np.int64]]:
        """Every key, ascending, and its sums of shape (width, keys)."""
        if len(self._keys) > 1:
            keys, values = self._keys[0], self._values[0]
            added = np.concatenate(self._keys[1:])
            # Most pieces are sorted already, which this kind of sorting makes use of.
            order = np.argsort(added, kind="stable")
            added = added[order]
            first = np.flatnonzero(np.r_[len(added) > 0, added[1:] != added[:-1]])
            sums = np.concatenate(self._values[1:], axis=1)[:, order]
            sums = np.add.reduceat(sums, first, axis=1) if len(first) else sums
            added = added[first]
            place = np.searchsorted(keys, added)
            known = np.zeros(len(added), dtype=np.bool_)
            inside = place < len(keys)
            known[inside] = keys[place[inside]] == added[inside]
            values[:, place[known]] += sums[:, known]
            keys = np.insert(keys, place[~known], added[~known])
            values = np.insert(values, place[~known], sums[:, ~known], axis=1)
            self._keys, self._values = [keys], [values]
        return self._keys[0], self._values[0]


class Chunk:
    """Aggregates of one chunk.

    Parameters
    ----------
    series_limit
        So many series of a cut are kept apart, in the order of their first event; what comes later
        is counted in the cut's ``__other__`` series.
    """

    def __init__(self, series_limit: int) -> None:
        if series_limit > SERIES_LIMIT_MOST:
            raise ValueError(f"series_limit {series_limit} is too large, at most {SERIES_LIMIT_MOST}")
        self.sequences = SequenceTracker(series_limit)
        self._limit = series_limit
        self._series: dict[tuple[str, ...], int] = {}
        self._series_names: list[str] = []
        self._in_cut = dict.fromkeys((cut.name for cut in CUTS), 0)
        self._labels: dict[tuple[str, str], int] = {}
        self._tallies = {name: _Tally(2) for name in FAMILIES}
        self._buckets = _Tally(1)
        self._events = 0
        self._duplicates = 0
        self._late = 0
        self._rejects = 0

    @property
    def totals(self) -> ChunkTotals:
        """Counts of the chunk so far; duplicates and late ones are among the events."""
        return ChunkTotals(
            events=self._events,
            duplicates=self._duplicates,
            late=self._late,
            rejects=self._rejects,
            untracked=self.sequences.untracked,
        )

    def reject(self, reason: str, appended_ms: int) -> None:
        """Count a line that is no event, in the window of its record."""
        self._rejects += 1
        signal = SIGNALS["pipeline_rejects_count"]
        key = self._key(signal, reason, self._series_of(_ALL, ()), appended_ms // 1000 // WINDOW_S)
        self._tallies["pipeline"].add(np.array([key]), np.array([[1], [0]]))

    def add(self, measured: Measured) -> None:
        """Add a batch of events."""
        n = len(measured.at_ms)
        self._events += n
        self._duplicates += int(np.count_nonzero(measured.duplicate))
        self._late += int(np.count_nonzero(measured.late))
        self._add_pipeline(measured)
        if measured.calls is not None and measured.calls.num_rows:
            position = measured.calls["position"].to_numpy()
            table = measured.calls
            if measured.duplicate.any():
                keep = ~measured.duplicate[position]
                table = table.filter(pa.array(keep))
            if table.num_rows:
                self.add_calls(table)

    # -- calls: what they did and what they cost -----------------------------------------------

    def add_calls(self, table: pa.Table) -> None:
        """Add call events (:mod:`signals.column`) and what they cost (:mod:`signals.cost`)."""
        at_ms = table["last_at"].to_numpy()
        combination, series, window = self._combine(
            [coded(table, name) for name in DIMENSIONS], at_ms // 1000 // WINDOW_S
        )
        size = len(window)
        for signal, (label, rows, values) in chain(performance.select(table), spend.select(table)):
            if not len(rows):
                continue
            cuts = [i for i, cut in enumerate(CUTS) if cut.name in signal.cuts]
            here = combination[rows]
            n = np.bincount(here, minlength=size)
            total = np.zeros(size, dtype=np.int64)
            if values is not None:
                np.add.at(total, here, values)
            hit = np.flatnonzero(n)
            base = self._label(signal, label) << (SERIES_BITS + _WINDOW_BITS)
            keys = base | (series[hit][:, cuts] << _WINDOW_BITS) | window[hit][:, None]
            repeated = np.repeat(np.vstack([n[hit], total[hit]]), len(cuts), axis=1)
            self._tallies[signal.family].add(keys.ravel(), repeated)
            if signal.stat == "sketch" and values is not None:
                self._add_buckets(base, here, values, series[:, cuts], window)

    def _add_buckets(
        self, base: int, combination: Ints, values: Ints, series: NDArray[np.int64], window: Ints
    ) -> None:
        bucket = bucket_of(values)
        low = int(bucket.min())
        width = int(bucket.max()) - low + 1
        for of_cut in series.T:
            # The series and windows of one cut, numbered without holes, make a table that counting fills
            # in one pass; sorting (series, bucket) pairs instead costs ten times as much.
            keys, row = np.unique((of_cut << _WINDOW_BITS) | window, return_inverse=True)
            if len(keys) * width <= _DENSE_CELLS:
                cell = row[combination] * width + (bucket - low)
                counted = np.bincount(cell, minlength=len(keys) * width)
                hit = np.flatnonzero(counted)
                count = counted[hit]
            else:
                hit, count = np.unique(row[combination] * width + (bucket - low), return_counts=True)
            key = ((base | keys[hit // width]) << _BUCKET_BITS) | (hit % width + low)
            self._buckets.add(key, count[None, :])

    def _combine(
        self, dimensions: list[tuple[Ints, list[str]]], window: Ints
    ) -> tuple[Ints, NDArray[np.int64], Ints]:
        """Distinct combinations of dimensions and window.

        Returns
        -------
        Each event's combination, shape (n,); the series of each combination in each cut, shape
        (combinations, cuts); the window of each combination.
        """
        base = int(window.min())
        span = int(window.max()) - base + 1
        combination, first = _first_come(
            [(window - base, span), *((c, len(names)) for c, names in dimensions)]
        )
        of = {
            dimension: (codes[first], names)
            for dimension, (codes, names) in zip(DIMENSIONS, dimensions, strict=True)
        }
        series = np.empty((len(first), len(CUTS)), dtype=np.int64)
        for place, cut in enumerate(CUTS):
            own = [of[dimension] for dimension in cut.dimensions]
            which, firsts = _first_come([(codes, len(names)) for codes, names in own])
            values = zip(*([names[i] for i in codes[firsts].tolist()] for codes, names in own), strict=True)
            series[:, place] = np.array([self._series_of(cut, value) for value in values])[which]
        return combination, series, window[first]

    def _series_of(self, cut: Cut, values: tuple[str, ...]) -> int:
        key = (cut.name, *values)
        found = self._series.get(key)
        if found is None:
            if cut.dimensions:
                if self._in_cut[cut.name] >= self._limit:
                    key = (cut.name, *[OTHER] * len(values))
                    found = self._series.get(key)
                    if found is not None:
                        return found
                else:
                    self._in_cut[cut.name] += 1
            found = self._series[key] = len(self._series)
            self._series_names.append(series_name(key[0], key[1:]))
        return found

    # -- pipeline ------------------------------------------------------------------------------

    def _add_pipeline(self, measured: Measured) -> None:
        encoded = measured.gateway.dictionary_encode()
        names = encoded.dictionary.to_pylist()
        gateway_cut = CUTS[0]
        series = np.array([self._series_of(gateway_cut, (name,)) for name in names], dtype=np.int64)
        at = (series[encoded.indices.to_numpy()] << _WINDOW_BITS) | (measured.at_ms // 1000 // WINDOW_S)
        for code, kind in enumerate(measured.kinds):
            self._count("pipeline_events_count", kind, at[measured.kind == code])
        self._count("pipeline_late_events_count", "", at[measured.late])
        self._count("pipeline_duplicate_events_count", "", at[measured.duplicate])

    def _count(self, signal: str, label: str, at: Ints) -> None:
        if len(at):
            keys, n = np.unique(at, return_counts=True)
            base = self._label(SIGNALS[signal], label) << (SERIES_BITS + _WINDOW_BITS)
            self._tallies["pipeline"].add(base | keys, np.vstack([n, np.zeros_like(n)]))

    # -- rows ----------------------------------------------------------------------------------

    def _label(self, signal: Signal, label: str) -> int:
        return self._labels.setdefault((signal.name, label), len(self._labels))

    def _key(self, signal: Signal, label: str, series: int, window: int) -> int:
        return (((self._label(signal, label) << SERIES_BITS) | series) << _WINDOW_BITS) | window

    def family(self, name: str) -> dict[str, pa.Array]:
        """The chunk's aggregates of one family, as parallel arrays.

        One element for each (signal, label, series, window), ordered by those four, so that a chunk that
        is computed twice gives the same bytes.
        """
        keys, sums = self._tallies[name].sums()
        bucket_keys, bucket_counts = self._buckets.sums()
        label = keys >> (SERIES_BITS + _WINDOW_BITS)
        series = (keys >> _WINDOW_BITS) & _MASK_SERIES
        window = keys & _MASK_WINDOW
        of_label = list(self._labels)
        order = np.lexsort((window, _rank(self._series_names)[series], _rank(of_label)[label]))
        keys, label, series, window = keys[order], label[order], series[order], window[order]
        n, total = sums[:, order]
        owner = bucket_keys >> _BUCKET_BITS
        if name == "performance":
            start = np.searchsorted(owner, keys, side="left")
            stop = np.searchsorted(owner, keys, side="right")
        else:
            start = stop = np.zeros(len(keys), dtype=np.int64)
        inside = _ranges(start, stop)
        offsets = pa.array(np.r_[0, np.cumsum(stop - start)].astype(np.int32))
        bucket = (bucket_keys[inside] & _MASK_BUCKET).astype(np.int16)
        count = bucket_counts[0][inside].astype(np.uint32)
        signals, labels = zip(*of_label, strict=True) if of_label else ((), ())
        at_label = pa.array(label)
        return {
            "signal": pa.array(signals, pa.string()).take(at_label),
            "label": pa.array(labels, pa.string()).take(at_label),
            "series": pa.array(self._series_names, pa.string()).take(pa.array(series)),
            "window": pa.array((window * WINDOW_S).astype(np.uint32)),
            "n": pa.array(n.astype(np.uint64)),
            "sum": pa.array(total),
            "buckets": pa.ListArray.from_arrays(offsets, pa.array(bucket)),
            "counts": pa.ListArray.from_arrays(offsets, pa.array(count)),
        }


def _rank(values: Sequence[Any]) -> Ints:
    """The place of each value among the sorted ones."""
    rank = np.empty(len(values), dtype=np.int64)
    rank[sorted(range(len(values)), key=values.__getitem__)] = np.arange(len(values))
    return rank


def _first_come(keys: list[tuple[Ints, int]]) -> tuple[Ints, Ints]:
    """Number distinct combinations of keys in the order in which they come: series limits depend on it.

    Parameters
    ----------
    keys
        Keys of shape (n,), and the number of values that each can have.

    Returns
    -------
    Each row's number, shape (n,), and the first row of each number.
    """
    key, size = keys[0]
    for more, values in keys[1:]:
        if size * values >= 1 << 62:
            encoded = pa.array(key).dictionary_encode()
            key, size = encoded.indices.to_numpy().astype(np.int64), len(encoded.dictionary)
        key, size = key * values + more, size * values
    number = pa.array(key).dictionary_encode().indices.to_numpy().astype(np.int64)
    first = np.empty(int(number.max()) + 1, dtype=np.int64)
    first[number[::-1]] = np.arange(len(number) - 1, -1, -1)
    return number, first


def _ranges(start: Ints, stop: Ints) -> Ints:
    """The numbers of all half-open ranges, one after the other."""
    length = stop - start
    total = int(length.sum())
    before = np.cumsum(length) - length
    numbers: Ints = np.arange(total, dtype=np.int64) + np.repeat(start - before, length)
    return numbers
