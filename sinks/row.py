"""Rows of lanes as the blocks that are inserted: one Arrow table for each table of the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import pyarrow as pa

from gatewatch.events import Evaluation, Feedback, Resource
from signals.column import CALL_COLUMNS
from signals.lane import ChunkVersion, LaneRows

__all__ = ["blocks", "call_block"]

_TIME: Final = pa.timestamp("ms", "UTC")
_VALUE_BYTES: Final = 65_536
"""So much of a rejected line is kept."""
_LOW_CARDINALITY: Final = frozenset(
    ["price", *(column.name for column in CALL_COLUMNS if column.low_cardinality)]
)
_PLACED: Final = {Feedback: "feedback", Evaluation: "evaluations", Resource: "resources"}
_PLACED_COLUMNS: Final = {
    Feedback: (
        "call_id",
        "gateway",
        "environment",
        "name",
        "score",
        "label",
        "comment",
        "tenant",
        "user_hash",
    ),
    Evaluation: ("call_id", "gateway", "environment", "name", "score", "label", "evaluator", "tenant"),
    Resource: (
        "gateway",
        "environment",
        "emitter_id",
        *(
            name
            for name in Resource.__struct_fields__
            if name not in ("at_ms", "gateway", "environment", "emitter_id", "seq", "v")
        ),
    ),
}


def blocks(flushed: Sequence[LaneRows]) -> dict[str, pa.Table]:
    """One block for each table that has rows, in the order in which they are inserted.

    ``chunks`` comes last: once it holds a chunk's version, everything else of that version is stored.
    """
    made = {
        "calls": call_block([table for rows in flushed for table in rows.calls]),
        "texts": _texts(flushed),
        "rejects": _rejects(flushed),
        **_placed(flushed),
        "chunks": _chunks(flushed),
    }
    return {name: table for name, table in made.items() if table is not None and table.num_rows}


def call_block(tables: list[pa.Table]) -> pa.Table | None:
    """Call columns of many batches in one block, low-cardinality text as dictionaries."""
    if not tables:
        return None
    table = pa.concat_tables(tables, promote_options="default").combine_chunks()
    columns: dict[str, pa.Array] = {}
    for name in table.column_names:
        column = table[name]
        if name in _LOW_CARDINALITY:
            column = column.combine_chunks().dictionary_encode()
        elif name in ("started_at", "last_at"):
            column = column.cast(_TIME)
        columns[name] = column
    return pa.table(columns)


def _times(values: Iterable[int]) -> pa.Array:
    return pa.array(list(values), pa.int64()).cast(_TIME)


def _texts(flushed: Sequence[LaneRows]) -> pa.Table | None:
    texts = [text for rows in flushed for text in rows.texts]
    if not texts:
        return None
    return pa.table(
        {
            "started_at": _times(text.started_at_ms for text in texts),
            "call_id": pa.array([text.call_id for text in texts], pa.string()),
            "input_text": pa.array([text.input_text or "" for text in texts], pa.string()),
            "output_text": pa.array([text.output_text or "" for text in texts], pa.string()),
        }
    )


def _rejects(flushed: Sequence[LaneRows]) -> pa.Table | None:
    found = [(rows.source, letter) for rows in flushed for letter in rows.dead_letters]
    if not found:
        return None
    return pa.table(
        {
            "appended_at": _times(letter.appended_ms for _, letter in found),
            "source": pa.array([source for source, _ in found], pa.uint64()),
            "offset": pa.array([letter.offset for _, letter in found], pa.uint64()),
            "line": pa.array([letter.line for _, letter in found], pa.uint32()),
            "reason": pa.array([letter.reason for _, letter in found], pa.string()),
            "detail": pa.array([letter.detail for _, letter in found], pa.string()),
            "size": pa.array([len(letter.value) for _, letter in found], pa.uint64()),
            "value": pa.array([letter.value[:_VALUE_BYTES] for _, letter in found], pa.binary()),
        }
    )


def _placed(flushed: Sequence[LaneRows]) -> dict[str, pa.Table]:
    made: dict[str, pa.Table] = {}
    for kind, table in _PLACED.items():
        found = [
            (rows.source, placed)
            for rows in flushed
            for placed in rows.placed
            if isinstance(placed.event, kind)
        ]
        if not found:
            continue
        columns: dict[str, pa.Array] = {
            "at": _times(placed.event.at_ms for _, placed in found),
            "source": pa.array([source for source, _ in found], pa.uint64()),
            "offset": pa.array([placed.offset for _, placed in found], pa.uint64()),
            "line": pa.array([placed.line for _, placed in found], pa.uint32()),
        }
        for name in _PLACED_COLUMNS[kind]:
            values: list[Any] = [getattr(placed.event, name) for _, placed in found]
            if values.count(None) < len(values):
                columns[name] = pa.array(values)
        made[table] = pa.table(columns)
    return made


_FAMILY_ARRAYS: Final = ("signal", "label", "series", "window", "n", "sum", "buckets", "counts")


def _chunks(flushed: Sequence[LaneRows]) -> pa.Table | None:
    found = [
        (rows.source, chunk, family, arrays)
        for rows in flushed
        for chunk in rows.chunks
        for family, arrays in chunk.families.items()
    ]
    if not found:
        return None
    chunks = [chunk for _, chunk, _, _ in found]
    # Sequence ranges and totals stand once, in the pipeline family's row.
    own = [family == "pipeline" for _, _, family, _ in found]
    columns: dict[str, pa.Array] = {
        "source": pa.array([source for source, _, _, _ in found], pa.uint64()),
        "first_offset": _unsigned(chunk.first_offset for chunk in chunks),
        "family": pa.array([family for _, _, family, _ in found], pa.string()),
        "opened_at": _times(chunk.appended_from_ms for chunk in chunks),
        "last_offset": _unsigned(chunk.last_offset for chunk in chunks),
        "records": pa.array([chunk.records for chunk in chunks], pa.uint32()),
        "appended_to": _times(chunk.appended_to_ms for chunk in chunks),
    }
    for name in ("events", "duplicates", "late", "rejects", "untracked"):
        totals = [getattr(chunk.totals, name) for chunk in chunks]
        columns[name] = _unsigned(total if here else 0 for total, here in zip(totals, own, strict=True))
    windows = [arrays["window"].to_numpy() for _, _, _, arrays in found]
    columns["window_from"] = _seconds(int(window.min()) if len(window) else 0 for window in windows)
    columns["window_to"] = _seconds(int(window.max()) if len(window) else 0 for window in windows)
    for name in _FAMILY_ARRAYS:
        columns[name] = _lists([arrays[name] for _, _, _, arrays in found])
    ranges = [_sequence_lists(chunk, here) for chunk, here in zip(chunks, own, strict=True)]
    for i, (name, kind) in enumerate(_SEQUENCE_COLUMNS):
        columns[name] = pa.array([lists[i] for lists in ranges], pa.list_(kind))
    return pa.table(columns)


_SEQUENCE_COLUMNS: Final = (
    ("seq_emitter_id", pa.string()),
    ("seq_first", pa.uint64()),
    ("seq_last", pa.uint64()),
    ("dup_emitter_id", pa.string()),
    ("dup_n", pa.uint64()),
)


def _sequence_lists(chunk: ChunkVersion, here: bool) -> tuple[list[Any], ...]:
    if not here:
        return ([], [], [], [], [])
    seen = chunk.sequences
    return (seen.emitter_id, seen.first, seen.last, list(seen.duplicates), list(seen.duplicates.values()))


def _unsigned(values: Iterable[int]) -> pa.Array:
    return pa.array(list(values), pa.uint64())


def _seconds(values: Iterable[int]) -> pa.Array:
    return pa.array(list(values), pa.uint32())


def _lists(arrays: Sequence[pa.Array]) -> pa.Array:
    offsets = [0]
    for array in arrays:
        offsets.append(offsets[-1] + len(array))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.concat_arrays(arrays))
