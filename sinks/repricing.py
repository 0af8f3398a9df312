"""Repricing: the costs of stored calls computed again, and the aggregates corrected by the difference.

Hour by hour of the calls' start, in three steps:

1. The calls are read merged and priced (:mod:`signals.repricing`), and for those whose cost is another one
   now, it is inserted beside what was reported.
2. What the aggregates lack, costs that count less costs that lanes reported, is written as chunks of a
   source of their own: one for each minute in which such a cost arose, absolute and replaced as a whole. Its
   version is when the calls were read, by the store's clock.
3. The minutes are merged into the measures again. Those that are still open would follow by themselves; a
   closer that has read them before step 2 and says so after it would not, so that all are merged.

Each step is a function of what the one before it has stored. So a run that breaks off is repaired by
running it again, a second run changes nothing, and of several at the same time each finds, in step 2, what
the others have stored before it read; the last to read has read it all. A call that arrives meanwhile keeps
its lane's cost until the next run.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from msgspec import Struct

from gatewatch.price_book import PriceBook, default_book
from signals.chunk import WINDOW_S
from signals.repricing import MEASURED_BY, PRICED_BY, Correction, Costs, Repriced, reprice
from signals.signal import SHARDS
from sinks.clickhouse import Sink
from sinks.closing import close_windows
from sinks.price import read_version, read_versions
from sinks.schema import STORE

__all__ = [
    "CORRECTIONS",
    "Change",
    "Outcome",
    "Scope",
    "count_calls",
    "known_names",
    "newest_prices",
    "reprice_calls",
]

CORRECTIONS: Final = 1 << 63
"""The source of chunks that correct others. Ids of partitions have 63 bits."""

_HOUR_MS: Final = 3_600_000
_SLICE_CALLS: Final = 210_000
"""About so many calls are in memory at a time, unless more of them started within a second."""
_TIMES: Final = ("started_at", "last_at")
_BEGUN: Final = 1
_FINISHED: Final = 2


class Scope(Struct, frozen=True, kw_only=True):
    """Which calls are priced again."""

    from_ms: int
    """Calls that started then or later, milliseconds since 1970 UTC."""
    until_ms: int
    """And before this."""
    providers: tuple[str, ...] = ()
    """As gateways name them; empty is all, likewise below."""
    models: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()

    @property
    def is_all(self) -> bool:
        """Whether all calls of the time are meant."""
        return not (self.providers or self.models or self.tenants)


class Change(Struct, frozen=True, kw_only=True):
    """What repricing did to the calls of a tenant and a model; money in nano-USD."""

    tenant: str
    provider: str
    model: str
    calls: int
    changed: int
    """Calls whose cost, price or status is another one now."""
    before_nano_usd: int
    """Of calls whose cost is known, likewise after."""
    after_nano_usd: int
    unpriced_before: int
    """Calls that ended and whose cost is not known."""
    unpriced_after: int


class Outcome(Struct, frozen=True, kw_only=True):
    """What a run did, or would do."""

    price_version: int
    calls: int
    changed: int
    newer: int
    """Calls that stay as they are because they were priced by a later version."""
    before_nano_usd: int
    after_nano_usd: int
    changes: tuple[Change, ...]
    """By tenant, provider and model, all calls of the scope."""


def newest_prices(sink: Sink) -> tuple[int, PriceBook, int]:
    """The newest version of the prices, in effect or not; the package's where the ledger holds none.

    Returns
    -------
    Its number, its book, and in how many milliseconds, by the store's clock, it takes effect; 0 if it has.

    Raises
    ------
    PriceError
        A later release has made it.
    SinkError
    """
    versions = read_versions(sink)
    for version in reversed(versions):
        documents = read_version(sink, version.version)
        if documents is not None:
            # The first version holds before its time, too.
            ahead_ms = version.takes_effect_ms - _now_ms(sink) if version is not versions[0] else 0
            return version.version, documents.book(), max(0, ahead_ms)
    return 1, default_book(), 0


def count_calls(sink: Sink, scope: Scope) -> int:
    """About how many calls started in the scope's time; parts that have not merged yet count by themselves.

    Raises
    ------
    SinkError
    """
    return sum(calls for _, calls in _counts(sink, scope.from_ms, scope.until_ms, _HOUR_MS))


def known_names(sink: Sink, scope: Scope, column: str) -> list[str]:
    """What is there of ``provider``, ``model`` or ``tenant`` among the calls of the scope's time.

    Raises
    ------
    SinkError
    """
    rows = sink.rows(
        f"SELECT DISTINCT {column} FROM {STORE}.calls WHERE {_BETWEEN} AND {column} != '' ORDER BY 1",
        {"from_ms": scope.from_ms, "until_ms": scope.until_ms},
    )
    return [str(name) for (name,) in rows]


def reprice_calls(
    sink: Sink,
    scope: Scope,
    version: int,
    book: PriceBook,
    *,
    dry_run: bool = False,
    on_progress: Callable[[int], object] = lambda calls: None,
) -> Outcome:
    """Compute the costs of stored calls again, keep those that changed, correct the aggregates.

    Parameters
    ----------
    sink
        Of the user ``writer``.
    scope
        Of a time whose chunks are all there: they are kept for 400 days from when each was begun.
    version, book
        The prices, and their number in the ledger.
    dry_run
        Only compute.
    on_progress
        Told of each slice how many calls it held, as :func:`count_calls` counts them.

    Raises
    ------
    SinkError
        What is stored until then stays, and is right as far as it goes; running it again completes it.
    """
    total = _Total(version)
    run = None if dry_run else _Run(sink, scope, version)
    columns = PRICED_BY if run is None else tuple(dict.fromkeys((*PRICED_BY, *MEASURED_BY)))
    for hour_ms, calls in _counts(sink, scope.from_ms, scope.until_ms, _HOUR_MS):
        begin, end = max(hour_ms, scope.from_ms), min(hour_ms + _HOUR_MS, scope.until_ms)
        whole = run is not None and scope.is_all and end - begin == _HOUR_MS
        began_ms = _now_ms(sink)
        seen = Correction()
        for from_ms, until_ms, held in _slices(sink, begin, end, calls):
            read_ms = _now_ms(sink)
            table = _read(sink, columns, from_ms, until_ms, scope)
            if table.num_rows:
                found = reprice(table, book, version, read_ms)
                total.add(table, found)
                if run is not None:
                    if found.rows.num_rows:
                        sink.insert(f"{STORE}.calls", found.rows)
                    if whole:
                        seen.add_priced(table, found)
            on_progress(held)
        if run is not None:
            read_ms = _now_ms(sink)
            # Where all calls of the hour have been seen and nobody else can have changed their costs, what
            # is stored is known. Otherwise it is read again.
            known = whole and run.is_alone(began_ms)
            _correct(sink, hour_ms, read_ms, seen if known else _stored(sink, hour_ms))
    outcome = total.outcome()
    if run is not None:
        run.finish(outcome)
    return outcome


# -- the aggregates ------------------------------------------------------------------------------


def _stored(sink: Sink, hour_ms: int) -> Correction:
    """What the aggregates lack of the costs of an hour's calls, as they are stored."""
    correction = Correction()
    until_ms, only = hour_ms + _HOUR_MS, "repriced != ''"
    repriced = sum(calls for _, calls in _counts(sink, hour_ms, until_ms, _HOUR_MS, only))
    if repriced:
        for begin, end, _ in _slices(sink, hour_ms, until_ms, repriced, only):
            correction.add(_read(sink, MEASURED_BY, begin, end, only=only))
    return correction


def _correct(sink: Sink, hour_ms: int, read_ms: int, correction: Correction) -> None:
    """Write what the aggregates lack of the costs of an hour's calls, and merge those minutes again."""
    if not correction.calls:
        return
    written = sink.rows(
        f"SELECT DISTINCT first_offset FROM {STORE}.chunks "
        "WHERE opened_at = fromUnixTimestamp64Milli({hour_ms:Int64}) AND source = {source:UInt64}",
        {"hour_ms": hour_ms, "source": CORRECTIONS},
    )
    chunks = _chunks(correction.differences(), {int(window) for (window,) in written}, hour_ms, read_ms)
    if not chunks.num_rows:
        return
    sink.insert(f"{STORE}.chunks", chunks)
    windows = chunks["first_offset"].to_pylist()
    close_windows(sink, windows[0], windows[-1] + WINDOW_S, list(range(SHARDS)), only=windows, family="cost")


_NOTHING: Final = ("cost_spend_sum", "", '["gateway",""]')
"""What a chunk holds, with zeros, when nothing differs any more: it replaces one in which something did."""


def _chunks(differences: pa.Table, written: set[int], hour_ms: int, read_ms: int) -> pa.Table:
    """A chunk for each minute in which something differs, or did when the hour was last corrected."""
    window = differences["window"].to_numpy().astype(np.int64)
    windows = sorted(written.union(window.tolist()))
    gone = sorted(written.difference(window.tolist()))
    nothing = {
        **{
            name: pa.array([value] * len(gone), pa.string())
            for name, value in zip(_KEYS, _NOTHING, strict=True)
        },
        "window": pa.array(gone, pa.uint32()),
        "n": pa.array([0] * len(gone), pa.int64()),
        "sum": pa.array([0] * len(gone), pa.int64()),
    }
    entries = pa.concat_tables([differences.select(list(nothing)), pa.table(nothing)])
    order = [(name, "ascending") for name in ("window", *_KEYS)]
    entries = entries.sort_by(order).combine_chunks()
    place = entries["window"].to_numpy().astype(np.int64)
    offsets = pa.array(np.r_[np.searchsorted(place, windows), len(place)].astype(np.int32))

    def lists(column: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, column)

    # n is unsigned where it is stored. A difference below zero is stored modulo 2**64, and so is what the
    # engine adds it to: sums come out right.
    n = entries["n"].to_numpy().astype(np.int64).view(np.uint64)
    empty = pa.ListArray.from_arrays(pa.array(np.zeros(len(place) + 1, np.int32)), pa.array([], pa.int16()))
    counts = empty.cast(pa.list_(pa.uint32()))
    each = len(windows)
    return pa.table(
        {
            "source": pa.array([CORRECTIONS] * each, pa.uint64()),
            "first_offset": pa.array(windows, pa.uint64()),
            "family": pa.array(["cost"] * each, pa.string()),
            "opened_at": pa.array([hour_ms] * each, pa.int64()).cast(pa.timestamp("ms", "UTC")),
            "last_offset": pa.array([read_ms] * each, pa.uint64()),
            "appended_to": pa.array([read_ms] * each, pa.int64()).cast(pa.timestamp("ms", "UTC")),
            "window_from": pa.array(windows, pa.uint32()),
            "window_to": pa.array(windows, pa.uint32()),
            **{name: lists(_whole(entries[name])) for name in (*_KEYS, "window")},
            "n": lists(pa.array(n)),
            "sum": lists(_whole(entries["sum"])),
            "buckets": lists(empty),
            "counts": lists(counts),
        }
    )


_KEYS: Final = ("signal", "label", "series")


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0)


# -- reading -------------------------------------------------------------------------------------

_BETWEEN: Final = (
    "started_at >= fromUnixTimestamp64Milli({from_ms:Int64}) "
    "AND started_at < fromUnixTimestamp64Milli({until_ms:Int64})"
)


def _counts(
    sink: Sink, from_ms: int, until_ms: int, step_ms: int, only: str = "true"
) -> list[tuple[int, int]]:
    """How many rows started in each step that has some, by its begin in milliseconds."""
    rows = sink.rows(
        f"SELECT intDiv(toUnixTimestamp64Milli(started_at), {step_ms}) * {step_ms} AS begin, count() "
        f"FROM {STORE}.calls WHERE {_BETWEEN} AND {only} GROUP BY begin ORDER BY begin",
        {"from_ms": from_ms, "until_ms": until_ms},
    )
    return [(int(begin), int(rows)) for begin, rows in rows]


def _slices(
    sink: Sink, from_ms: int, until_ms: int, calls: int, only: str = "true"
) -> Iterator[tuple[int, int, int]]:
    """Spans of time that hold few calls each and leave none out, with how many they hold now."""
    begin, held = from_ms, 0
    if calls > _SLICE_CALLS:
        # Of like size: every slice is an insert, and a small one costs as many merges as a large one.
        slices = -(-calls // _SLICE_CALLS)
        most = (calls + calls // 20) // slices
        for second_ms, rows in _counts(sink, from_ms, until_ms, 1000, only):
            if held and held + rows > most:
                yield begin, second_ms, held
                begin, held = second_ms, 0
            held += rows
    yield begin, until_ms, held or calls


def _read(
    sink: Sink,
    columns: Sequence[str],
    from_ms: int,
    until_ms: int,
    scope: Scope | None = None,
    only: str = "true",
) -> pa.Table:
    """Merged calls that started within a span of time, as lanes have them, times as milliseconds."""
    parameters: dict[str, Any] = {"from_ms": from_ms, "until_ms": until_ms}
    wanted = [_BETWEEN, only]
    for column in ("provider", "model", "tenant"):
        names = getattr(scope, f"{column}s") if scope is not None else ()
        if names:
            parameters[column] = list(names)
            wanted.append(f"has({{{column}:Array(String)}}, {column})")
    selected = [
        f"toUnixTimestamp64Milli({name}) AS {name}_ms" if name in _TIMES else name for name in columns
    ]
    table = sink.table(
        f"SELECT {', '.join(selected)} FROM {STORE}.calls FINAL WHERE {' AND '.join(wanted)} "
        "SETTINGS output_format_arrow_low_cardinality_as_dictionary = 1",
        parameters,
    )
    return table.rename_columns(list(columns)).combine_chunks()


def _now_ms(sink: Sink) -> int:
    """The store's clock: of several runs, wherever they are, the order in which they read is known."""
    return int(sink.rows("SELECT toUnixTimestamp64Milli(now64(3))")[0][0])


# -- what is told --------------------------------------------------------------------------------


class _Total:
    """Sums by tenant, provider and model."""

    def __init__(self, version: int) -> None:
        self._version = version
        self._sums: dict[tuple[str, str, str], list[int]] = {}
        self._newer = 0

    def add(self, table: pa.Table, found: Repriced) -> None:
        self._newer += int(np.count_nonzero(found.newer))
        columns: dict[str, Any] = {name: table[name] for name in ("tenant", "provider", "model")}
        columns |= {
            "calls": pa.array(np.ones(table.num_rows, dtype=np.int64)),
            "changed": pa.array(found.changed.astype(np.int64)),
            "before": pa.array(found.before.total()),
            "after": pa.array(found.after.total()),
            "unpriced_before": pa.array(_unpriced(found.before)),
            "unpriced_after": pa.array(_unpriced(found.after)),
        }
        names = list(columns)
        grouped = pa.table(columns).group_by(names[:3]).aggregate([(name, "sum") for name in names[3:]])
        grouped = grouped.select([*names[:3], *(f"{name}_sum" for name in names[3:])])
        for *of, calls, changed, before, after, unpriced_before, unpriced_after in zip(
            *(column.to_pylist() for column in grouped.columns), strict=True
        ):
            sums = self._sums.setdefault((of[0], of[1], of[2]), [0] * 6)
            for place, value in enumerate((calls, changed, before, after, unpriced_before, unpriced_after)):
                sums[place] += value

    def outcome(self) -> Outcome:
        changes = tuple(
            Change(
                tenant=tenant,
                provider=provider,
                model=model,
                calls=sums[0],
                changed=sums[1],
                before_nano_usd=sums[2],
                after_nano_usd=sums[3],
                unpriced_before=sums[4],
                unpriced_after=sums[5],
            )
            for (tenant, provider, model), sums in sorted(self._sums.items())
        )
        return Outcome(
            price_version=self._version,
            calls=sum(change.calls for change in changes),
            changed=sum(change.changed for change in changes),
            newer=self._newer,
            before_nano_usd=sum(change.before_nano_usd for change in changes),
            after_nano_usd=sum(change.after_nano_usd for change in changes),
            changes=changes,
        )


def _unpriced(costs: Costs) -> Any:
    return costs.unpriced().astype(np.int64)


class _Run:
    """The record of a run: begun, and once all is done, finished."""

    def __init__(self, sink: Sink, scope: Scope, version: int) -> None:
        self._sink = sink
        self._row: dict[str, Any] = {
            "started_at": _now_ms(sink),
            "run": str(uuid.uuid4()),
            "range_from": scope.from_ms,
            "range_until": scope.until_ms,
            "providers": list(scope.providers),
            "models": list(scope.models),
            "tenants": list(scope.tenants),
            "price_version": version,
        }
        self._write(_BEGUN, 0, 0, 0, 0, 0)

    def is_alone(self, since_ms: int) -> bool:
        """Whether no other run can have stored anything since then.

        Asked after something was stored: a run that begins afterwards reads it.
        """
        others = self._sink.rows(
            f"SELECT count() FROM {STORE}.reprices FINAL WHERE run != {{run:UUID}} "
            f"AND (state = {_BEGUN} OR toUnixTimestamp64Milli(finished_at) >= {{since_ms:Int64}})",
            {"run": self._row["run"], "since_ms": since_ms},
        )
        return not others[0][0]

    def finish(self, outcome: Outcome) -> None:
        self._write(
            _FINISHED,
            _now_ms(self._sink),
            outcome.calls,
            outcome.changed,
            outcome.before_nano_usd,
            outcome.after_nano_usd,
        )

    def _write(self, state: int, finished_ms: int, calls: int, changed: int, before: int, after: int) -> None:
        values = self._row | {
            "state": state,
            "finished_at": finished_ms,
            "calls": calls,
            "changed": changed,
            "before_nano_usd": before,
            "after_nano_usd": after,
        }
        typed = [
            f"fromUnixTimestamp64Milli({{{name}:Int64}}, 'UTC')"
            if name in ("started_at", "finished_at", "range_from", "range_until")
            else f"{{{name}:{_TYPES[name]}}}"
            for name in values
        ]
        self._sink.command(
            f"INSERT INTO {STORE}.reprices ({', '.join(values)}) SELECT {', '.join(typed)}", values
        )


_TYPES: Final = {
    "run": "UUID",
    "providers": "Array(String)",
    "models": "Array(String)",
    "tenants": "Array(String)",
    "price_version": "UInt64",
    "state": "UInt8",
    "calls": "UInt64",
    "changed": "UInt64",
    "before_nano_usd": "Int64",
    "after_nano_usd": "Int64",
}
