"""Leaves each rule of delivery out in turn: do the histories of ``test_delivery`` notice?

    python -m tests.streams.mutation            all rules, a table in Markdown (docs/delivery.md)
    python -m tests.streams.mutation zombie     those whose name holds a word

Exit code 1 when a rule can be left out and nobody notices.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final, TypeAlias
from unittest.mock import patch

import msgspec
import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, Phase, given, settings
from msgspec import Struct

from signals.chunk import WINDOW_S, Chunk
from signals.chunk import _Tally as Tally
from signals.lane import Lane, LaneRows, Rules
from signals.sketch import bucket_of
from sinks import closing as closing_statement
from sinks.clickhouse import Sink, SinkError
from sinks.closing import close_windows, save_checkpoint
from sinks.migration import migrate
from sinks.row import blocks
from sinks.schema import TABLES, Table, create_table
from streams.partition import Partition
from streams.progress import Closing, Progress, ShardProgress
from streams.source import known_sources, source_id
from streams.writer import Writer
from tests.streams.delivery_model import CHUNK_RECORDS, Step, World
from tests.streams.delivery_oracle import Mismatch
from tests.streams.test_delivery import EXACT, histories, play, smallest

__all__ = ["MUTATIONS", "Caught", "Mutation", "hunt"]

Planted: TypeAlias = Callable[[Sink], Any]
"""A context manager in which the rule is left out."""
_MOST_HISTORIES: Final = 40
_TRIES: Final = 30


class Mutation(Struct, frozen=True):
    """One rule, left out."""

    name: str
    plant: Planted
    world: type[World] = World


class Caught(Struct, frozen=True):
    """The history that noticed."""

    histories: str
    """How many had been played, or ``exact`` for one of those that are written out."""
    steps: int
    """Of the history, after what it did not need was taken away."""
    mismatch: str


def _patched(**targets: Any) -> Planted:
    """Replace attributes; ``streams__source__source_id`` stands for ``streams.source.source_id``."""

    @contextmanager
    def plant(_: Sink) -> Iterator[None]:
        with ExitStack() as stack:
            for target, replacement in targets.items():
                stack.enter_context(patch(target.replace("__", "."), replacement))
            yield

    return plant


_MODEL: Final = "tests__streams__delivery_model__"


def _table(name: str, **changes: str) -> Planted:
    """Another declaration of a table."""
    table = next(table for table in TABLES if table.name == name)

    def declare(sink: Sink, declared: Table) -> None:
        sink.command(f"DROP TABLE {table.qualified} SYNC")
        sink.command(create_table(declared).rstrip(";"))
        sink.command("SYSTEM STOP TTL MERGES")

    @contextmanager
    def plant(sink: Sink) -> Iterator[None]:
        declare(sink, msgspec.structs.replace(table, **changes))
        try:
            yield
        finally:
            declare(sink, table)

    return plant


def _closing(old: str, new: str) -> Planted:
    """Another closing statement."""
    statement = closing_statement._CLOSE
    assert old in statement
    return _patched(sinks__closing___CLOSE=statement.replace(old, new))


def _nothing(_: Sink) -> Any:
    return ExitStack()


# -- stage 1: lanes, start, acknowledgement ---------------------------------------------------------


def _without_incarnation(cluster: str, topic: str, _: str, partition: int) -> int:
    return source_id(cluster, topic, "incarnation-0", partition)


def _all_known(sink: Sink, identity: Any, partitions: list[int], chunk_records: int) -> dict[int, bool]:
    return dict.fromkeys(known_sources(sink, identity, partitions, chunk_records), True)


def _any_chunk_size(sink: Sink, identity: Any, partitions: list[int], _: int) -> dict[int, bool]:
    return known_sources(sink, identity, partitions, CHUNK_RECORDS)


def _start_where_committed(*, committed: int | None, earliest: int, known: bool, **_: int) -> int:
    return earliest if committed is None or not known else max(committed, earliest)


def _stored_in_part(partition: Partition, rows: LaneRows) -> None:
    _stored(partition, msgspec.structs.replace(rows, complete_through=rows.through))


_stored: Final = Partition.stored
Flushed: TypeAlias = Sequence[tuple[Partition, LaneRows]]
Write: TypeAlias = Callable[[Sequence[LaneRows]], Awaitable[None]]
Publish: TypeAlias = Callable[[Partition, LaneRows], Awaitable[None]]


async def _acknowledge_first(flushed: Flushed, write: Write, publish: Publish) -> None:
    for partition, rows in flushed:
        partition.stored(rows)
    if flushed:
        await write([rows for _, rows in flushed])
    for partition, rows in flushed:
        await publish(partition, rows)


async def _publish_first(flushed: Flushed, write: Write, publish: Publish) -> None:
    for partition, rows in flushed:
        await publish(partition, rows)
    if flushed:
        await write([rows for _, rows in flushed])
    for partition, rows in flushed:
        partition.stored(rows)


async def _publish_last(flushed: Flushed, write: Write, publish: Publish) -> None:
    if flushed:
        await write([rows for _, rows in flushed])
    for partition, rows in flushed:
        partition.stored(rows)
        await publish(partition, rows)


class _Overlapping(World):
    flushes_overlap = True


class _Headful(World):
    @staticmethod
    def make_lane(source: int, start: int, rules: Rules, closed_until_s: int) -> Lane:
        lane = Lane(source, start, rules, closed_until_s)
        lane._open.headless = False
        return lane


class _Carrying(Lane):
    """Hands something of each chunk to the next one."""

    def carry(self, before: Chunk, after: Chunk) -> None:
        raise NotImplementedError

    def feed(self, offset: int, appended_ms: int, value: bytes | None) -> None:
        before = self._open
        super().feed(offset, appended_ms, value)
        if self._open is not before:
            self.carry(before.chunk, self._open.chunk)


class _CarryingSeries(_Carrying):
    def carry(self, before: Chunk, after: Chunk) -> None:
        after._series, after._series_names = before._series, before._series_names
        after._in_cut = before._in_cut


class _CarryingSequences(_Carrying):
    def carry(self, before: Chunk, after: Chunk) -> None:
        after.sequences._index = dict(before.sequences._index)
        after.sequences._low, after.sequences._high = before.sequences._low, before.sequences._high


class _SeriesWorld(World):
    make_lane = staticmethod(_CarryingSeries)


class _SequencesWorld(World):
    make_lane = staticmethod(_CarryingSequences)


class _ClockWorld(World):
    """Lanes hold event time against the time at which they read it."""

    def __init__(self, sink: Sink) -> None:
        world = self

        class Clocked(Lane):
            def _impossible_times(self, piece: Any, appended: Any) -> Any:
                return super()._impossible_times(piece, np.full_like(appended, world.now_ms))

        self.make_lane = Clocked
        super().__init__(sink)


async def _once(writer: Writer, work: Callable[[Sink], Any]) -> Any:
    try:
        return await writer.once(work)
    except SinkError:
        return None


class _FloatTally:
    """Sums as 32-bit floats."""

    def __init__(self, width: int) -> None:
        self._tally = Tally(width)
        self.add = self._tally.add

    def sums(self) -> tuple[Any, Any]:
        keys, values = self._tally.sums()
        return keys, values.astype(np.float32).astype(np.int64)


def _buckets_of_a_batch(values: Any) -> Any:
    return bucket_of(np.full_like(values, values.max()))


def _many_rows(flushed: Sequence[LaneRows]) -> dict[str, pa.Table]:
    """Aggregates as one row for each signal, label, series and window, keyed by these."""
    made = blocks(flushed)
    if "chunks" in made:
        made["chunks"] = pa.Table.from_pylist(
            [one for row in made["chunks"].to_pylist() for one in _single_rows(row)],
            schema=made["chunks"].schema,
        )
    return made


def _single_rows(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    names = ("signal", "label", "series", "window", "n", "sum", "buckets", "counts")
    yield row | {name: [] for name in names}
    empty: dict[str, Any] = {name: [] for name in row if name.startswith(("seq_", "dup_"))}
    for values in zip(*(row[name] for name in names), strict=True):
        key = "|".join([row["family"], *map(str, values[:4])])
        yield (
            row | empty | {name: [value] for name, value in zip(names, values, strict=True)} | {"family": key}
        )


# -- stage 2: progress and closing ------------------------------------------------------------------


def _reach_in_silence(partition: Partition, rows: LaneRows | None, log_end: tuple[int, int] | None) -> int:
    reached = rows.reached_ms if rows is not None else log_end[1] if log_end is not None else 0
    partition.reached_ms = max(partition.reached_ms, reached)
    return partition.reached_ms


def _complete_where_heard_of(shard: ShardProgress) -> int:
    if not shard._reached:
        return 0
    return max(0, (min(shard._reached.values()) - shard._grace_ms) // 1000 // WINDOW_S * WINDOW_S)


def _progress_without_windows(**fields: Any) -> Progress:
    return Progress(**fields | {"reopened": []})


def _checkpoint_first(closing: Closing, shards: list[int], sink: Sink) -> None:
    if closing.until_s > closing.from_s:
        save_checkpoint(sink, closing.until_s, shards)
        close_windows(sink, closing.from_s, closing.until_s, shards)
    for window in closing.corrected:
        close_windows(sink, window, window + WINDOW_S, shards)


class _Hearing(World):
    hearing_is_done = True


class _Unaware(World):
    @staticmethod
    def make_lane(source: int, start: int, rules: Rules, _: int) -> Lane:
        return Lane(source, start, rules)


MUTATIONS: Final = (
    Mutation(
        "1 the source's id leaves the incarnation out",
        _patched(streams__source__source_id=_without_incarnation),
    ),
    Mutation(
        "1 what is committed for a deleted topic is believed",
        _patched(**{_MODEL + "known_sources": _all_known}),
    ),
    Mutation(
        "3 chunks are acknowledged in parts and read from where they were committed",
        _patched(
            **{_MODEL + "start_offset": _start_where_committed},
            streams__partition__Partition__stored=_stored_in_part,
        ),
    ),
    Mutation(
        "3 acknowledged before the rows are stored", _patched(**{_MODEL + "deliver": _acknowledge_first})
    ),
    Mutation("3 a flush begins before the last one has ended", _nothing, _Overlapping),
    Mutation("4 a chunk without its start gives aggregates", _nothing, _Headful),
    Mutation("5 series limits do not start afresh in each chunk", _nothing, _SeriesWorld),
    Mutation("5 sequence numbers do not start afresh in each chunk", _nothing, _SequencesWorld),
    Mutation("6 event time is held against the clock", _nothing, _ClockWorld),
    Mutation("7 a failed insert is abandoned", _patched(streams__writer__Writer__persistently=_once)),
    Mutation("8 the chunk size can be changed", _patched(**{_MODEL + "known_sources": _any_chunk_size})),
    Mutation("10 sums are floats", _patched(signals__chunk___Tally=_FloatTally)),
    Mutation("10 sketches depend on the batch", _patched(signals__chunk__bucket_of=_buckets_of_a_batch)),
    Mutation(
        "11 the key of dead letters leaves the line out",
        _table("rejects", order_by="(appended_at, source, offset)"),
    ),
    Mutation("one row a chunk: aggregates are many rows", _patched(streams__writer__blocks=_many_rows)),
    Mutation("one row a chunk: the last insert wins (zombie)", _table("chunks", engine="ReplacingMergeTree")),
    Mutation("calls: the last insert wins", _table("calls", engine="ReplacingMergeTree")),
    Mutation(
        "stage 2: progress is written before the rows", _patched(**{_MODEL + "deliver": _publish_first})
    ),
    Mutation(
        "stage 2: silence is taken for idleness",
        _patched(streams__partition__Partition__reach=_reach_in_silence),
    ),
    Mutation(
        "stage 2: only partitions that were heard of are waited for",
        _patched(streams__progress__ShardProgress__complete_until_s=property(_complete_where_heard_of)),
    ),
    Mutation(
        "stage 2: late windows are not named", _patched(**{_MODEL + "Progress": _progress_without_windows})
    ),
    Mutation(
        "stage 2: late windows are named after the acknowledgement",
        _patched(**{_MODEL + "deliver": _publish_last}),
    ),
    Mutation("stage 2: windows that were closed before a lane began are not named", _nothing, _Unaware),
    Mutation("stage 2: progress is acknowledged before its windows are stored", _nothing, _Hearing),
    Mutation(
        "stage 2: the checkpoint is written before the windows",
        _patched(streams__closer__store_closing=_checkpoint_first),
    ),
    Mutation(
        "stage 2: versions of measures do not grow (zombie)",
        _closing("sum(last_offset + 1) AS version", "toUInt64(1) AS version"),
    ),
    Mutation(
        "stage 2: series that vanished keep their numbers",
        _closing("AND (n > 0 OR sum != 0)\n", "AND (n > 0 OR sum != 0) AND 1 = 0\n"),
    ),
)


def hunt(sink: Sink, mutation: Mutation, most: int = _MOST_HISTORIES, tries: int = _TRIES) -> Caught | None:
    """Play histories until one notices that a rule is left out; None when none does."""
    played = 0
    caught: list[Step] = []
    mismatch = ""

    @settings(
        max_examples=most,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
        deadline=None,
    )
    @given(history=histories)
    def every(history: list[Step]) -> None:
        nonlocal played, mismatch
        # Hypothesis plays the history that failed again; what it finds further on is of no interest.
        if caught:
            raise Mismatch(mismatch)
        played += 1
        try:
            play(sink, history, mutation.world)
        except Mismatch as error:
            caught.extend(history)
            mismatch = str(error)
            raise

    with mutation.plant(sink):
        try:
            every()
        except Mismatch:
            short = smallest(sink, caught, mutation.world, tries) if tries else caught
            return Caught(str(played), len(short), mismatch)
        for history in EXACT.values():
            try:
                play(sink, history, mutation.world)
            except Mismatch as error:
                return Caught("exact", len(history), str(error))
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.streams.mutation", description=__doc__)
    parser.add_argument("words", nargs="*", help="only mutations whose names hold one of these")
    parser.add_argument("--histories", type=int, default=_MOST_HISTORIES, help="played at most for each")
    options = parser.parse_args(arguments)
    chosen = [m for m in MUTATIONS if not options.words or any(word in m.name for word in options.words)]
    logging.disable(logging.ERROR)
    missed = 0
    with tempfile.TemporaryDirectory() as directory:
        sink = Sink(f"chdb://{directory}")
        migrate(sink)
        sink.command("SYSTEM STOP TTL MERGES")
        print("| rule left out | caught by history | steps it needs | seconds |\n|---|---|---|---|")
        for mutation in chosen:
            began = time.monotonic()
            caught = hunt(sink, mutation, options.histories)
            seconds = time.monotonic() - began
            missed += caught is None
            found = f"{caught.histories} | {caught.steps}" if caught else "**not caught** | "
            print(f"| {mutation.name} | {found} | {seconds:.0f} |", flush=True)
            if caught and sys.stderr.isatty():
                print(f"    {caught.mismatch[:200]}", file=sys.stderr)
        sink.close()
    print(f"\n{len(chosen) - missed} of {len(chosen)} caught.")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
