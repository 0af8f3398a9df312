"""Call events as columns: what one row of ``calls`` holds, and how events become it.

The parts of one call reach storage through different partitions, in any order, more than once; they
are merged there by ``max`` of each column. So every column is encoded such that *unknown is the
smallest value* and ``max`` is right (``docs/delivery.md``):

- ``text``: the empty string is unknown.
- ``maybe``: 0 is unknown, a number ``x`` is stored as ``x + 1``. Plain integers merge three times
  faster than nullable ones.
- ``micros``: milliseconds become whole microseconds, then as ``maybe``.
- ``tokens``: ``rank << 48 | count``, so a better source of usage wins over a larger count.
- ``flag``: 0 unknown, 1 false, 2 true.

Views decode all of this (``sinks/views``); nobody else reads the encodings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from gatewatch.events import Call, CallEvent, Latency, Request, Response, Token

__all__ = ["CALL_COLUMNS", "CALL_KINDS", "RANK_SHIFT", "CallBatch", "Column", "Encoding"]

Encoding: TypeAlias = Literal["text", "maybe", "micros", "tokens", "flag", "json", "nano", "time", "hashes"]

RANK_SHIFT: Final = 48
RANK_PROGRESS: Final = 1
RANK_ESTIMATED: Final = 2
RANK_PROVIDER: Final = 3


class Column(Struct, frozen=True):
    """A column of ``calls`` and the event field that it comes from."""

    name: str
    field: str
    encoding: Encoding
    low_cardinality: bool = False


def _text(*names: str, low_cardinality: bool = False) -> list[Column]:
    return [Column(name, name, "text", low_cardinality) for name in names]


def _of(encoding: Encoding, *names: str, suffix: tuple[str, str] = ("", "")) -> list[Column]:
    old, new = suffix
    return [Column(name.removesuffix(old) + new if old else name, name, encoding) for name in names]


CALL_COLUMNS: Final = (
    Column("started_at", "started_at_ms", "time"),
    *_text("call_id"),
    Column("last_at", "at_ms", "time"),
    *_text("gateway", "environment", "provider", "model", "operation", low_cardinality=True),
    *_text("deployment", "tenant", "team", "key_alias", low_cardinality=True),
    *_text("user_hash", "conversation_id"),
    Column("tags", "tags", "json"),
    *_of("flag", "stream", "gateway_cache_hit"),
    *_text("stream_end", "error_class", "error_type", low_cardinality=True),
    *_text("finish_reason", "response_model", "service_tier", low_cardinality=True),
    *_text("response_id"),
    *_of("maybe", "status_code", "attempt", "max_output_tokens", "message_count", "input_chars"),
    *_of(
        "tokens",
        "input_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "cache_write_5m_tokens",
        "cache_write_1h_tokens",
        "output_tokens",
        "output_reasoning_tokens",
        "input_audio_tokens",
        "cache_audio_read_tokens",
        "output_audio_tokens",
        "input_image_tokens",
        "output_image_tokens",
        "tool_use_tokens",
        "web_searches",
    ),
    Column("tool_requests", "tool_requests", "json"),
    *_of(
        "micros",
        "total_ms",
        "ttft_ms",
        "ttfat_ms",
        "tpot_ms",
        "max_gap_ms",
        "queue_ms",
        "upstream_ms",
        suffix=("_ms", "_us"),
    ),
    Column("reported_cost_nano_usd", "reported_cost_usd", "nano"),
    Column("prefix_hashes", "prefix_hashes", "hashes"),
)

CALL_KINDS: Final[dict[type[CallEvent], int]] = {Request: 1, Token: 2, Response: 4, Latency: 8, Call: 16}
"""The bit that each kind sets in ``calls.parts``."""

_ARROW: Final[dict[Encoding, pa.DataType]] = {
    "text": pa.string(),
    "maybe": pa.int64(),
    "micros": pa.float64(),
    "tokens": pa.int64(),
    "flag": pa.bool_(),
    "json": pa.string(),
    "nano": pa.float64(),
    "time": pa.int64(),
    "hashes": pa.list_(pa.int64()),
}
_UNKNOWN: Final[dict[Encoding, Any]] = {"text": "", "json": {}}
_json_encode: Final = msgspec.json.Encoder().encode

_Extract: TypeAlias = Callable[[Sequence[CallEvent]], tuple[list[Any], ...]]


def _compile(fields: Sequence[str]) -> _Extract:
    """A function that reads fields of many events into one list each.

    Written out as source, because that is twice as fast as ``getattr`` or ``attrgetter`` for each
    field, and reading fields costs as much as decoding them (as namedtuple and dataclasses do).
    """
    body = ", ".join(f"[e.{field} for e in events]" for field in fields)
    extract: _Extract = eval(f"lambda events: ({body},)", {"__builtins__": {}})  # noqa: S307 - names are our own
    return extract


class _Kind(Struct, frozen=True):
    columns: tuple[Column, ...]
    extract: _Extract
    ranked: bool


def _kind_of(struct: type[CallEvent]) -> _Kind:
    fields = {field.name for field in msgspec.structs.fields(struct)}
    columns = tuple(column for column in CALL_COLUMNS if column.field in fields)
    if struct is Token:
        # What a stream has produced so far is output, of the lowest rank.
        columns += (Column("output_tokens", "output_tokens_so_far", "tokens"),)
    names = [column.field for column in columns]
    ranked = "usage_source" in fields
    return _Kind(columns, _compile([*names, "usage_source"] if ranked else names), ranked)


_KINDS: Final = {struct: _kind_of(struct) for struct in CALL_KINDS}
_RANKS: Final[dict[str | None, int]] = {
    None: RANK_PROVIDER,
    "provider": RANK_PROVIDER,
    "estimated": RANK_ESTIMATED,
}


class CallBatch:
    """Columns of call events, built slice by slice.

    Add slices of about a thousand events: decoded events are then still in the processor's cache when
    their fields are read, which makes decoding and reading twice as fast (``docs/decisions``).
    """

    def __init__(self) -> None:
        self._slices: list[pa.Table] = []

    def __len__(self) -> int:
        return sum(table.num_rows for table in self._slices)

    def add(self, kind: type[CallEvent], events: Sequence[CallEvent], position: Sequence[int] | None) -> None:
        """Append events of one kind; ``position`` is each one's place among all events of the chunk."""
        known = _KINDS[kind]
        n = len(events)
        lists = known.extract(events)
        rank = _rank_of(lists[-1], n) if known.ranked else None
        arrays: dict[str, pa.Array] = {}
        for column, values in zip(known.columns, lists, strict=False):
            unknown = _UNKNOWN.get(column.encoding)
            if values[0] == unknown and values.count(unknown) == n:
                continue
            arrays[column.name] = _encode(column.encoding, values, rank)
        arrays["parts"] = pa.array(np.full(n, CALL_KINDS[kind], dtype=np.uint8))
        if position is not None:
            arrays["position"] = pa.array(np.asarray(position, dtype=np.int64))
        self._slices.append(pa.table(arrays))

    def table(self) -> pa.Table | None:
        """All rows in one table, text as plain strings; a column that no event speaks of is absent."""
        if not self._slices:
            return None
        if len(self._slices) == 1:
            return self._slices[0]
        table = pa.concat_tables(self._slices, promote_options="default")
        return table.combine_chunks()


def _rank_of(sources: list[str | None], n: int) -> Any:
    """The rank, in its place above the count, of each event's usage; one number when all are equal."""
    first = sources[0]
    if sources.count(first) == n:
        return _RANKS.get(first, RANK_PROGRESS) << RANK_SHIFT
    return pa.array([_RANKS.get(source, RANK_PROGRESS) << RANK_SHIFT for source in sources], pa.int64())


def _encode(encoding: Encoding, values: list[Any], rank: Any) -> pa.Array:
    if encoding == "json":
        return pa.array([_json_encode(value).decode() if value else "" for value in values], pa.string())
    array = pa.array(values, _ARROW[encoding])
    match encoding:
        case "maybe":
            return pc.add(array, 1)
        case "tokens":
            return pc.add(array, RANK_PROGRESS << RANK_SHIFT if rank is None else rank)
        case "micros":
            return pc.add(pc.round(pc.multiply(array, 1000.0)).cast(pa.int64()), 1)
        case "nano":
            return pc.add(pc.round(pc.multiply(array, 1e9)).cast(pa.int64()), 1)
        case "flag":
            return pc.add(array.cast(pa.int64()), 1)
        case "hashes":
            return pc.fill_null(array, pa.scalar([], pa.list_(pa.int64())))
        case "text" | "time":
            return array
