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

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct
from numpy.typing import NDArray

from gatewatch.events import Call, CallEvent, Latency, Request, Response, Token

__all__ = ["CALL_COLUMNS", "CALL_KINDS", "RANK_SHIFT", "CallBatch", "Column", "Encoding", "read_fields"]

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

_Extract: TypeAlias = Callable[[Sequence[Any]], tuple[list[Any], ...]]


def _compile(fields: Sequence[str]) -> _Extract:
    """A function that reads fields of many events into one list each.

    Written out as source, because that is twice as fast as ``getattr`` or ``attrgetter`` for each
    field, and reading fields costs as much as decoding them (as namedtuple and dataclasses do).
    """
    body = ", ".join(f"[e.{field} for e in events]" for field in fields)
    extract: _Extract = eval(f"lambda events: ({body},)", {"__builtins__": {}})  # noqa: S307 - names are our own
    return extract


class _Kind(Struct, frozen=True):
    """How events of one kind are read."""

    fields: tuple[str, ...]
    extract: _Extract


def _kind_of(struct: type[Struct]) -> _Kind:
    wanted = {column.field for column in _COLUMNS} | set(_CONTROL_FIELDS)
    fields = tuple(field for field in struct.__struct_fields__ if field in wanted)
    return _Kind(fields, _compile(fields))


# Read along, and no columns: numbering, what ranks usage, what is normalised or kept elsewhere.
_CONTROL_FIELDS: Final = ("emitter_id", "seq", "usage_source", "provider_usage", "input_text", "output_text")
# What a stream has produced so far is output, of the lowest rank.
_COLUMNS: Final = (*CALL_COLUMNS, Column("output_tokens", "output_tokens_so_far", "tokens"))
_KINDS: Final[dict[type[Struct], _Kind]] = {}
_RANKS: Final[dict[str | None, int]] = {
    None: RANK_PROVIDER,
    "provider": RANK_PROVIDER,
    "estimated": RANK_ESTIMATED,
}


def read_fields(events: Sequence[Any]) -> dict[str, list[Any]]:
    """Every field that many events of one struct have, as one list each."""
    struct = type(events[0])
    known = _KINDS.get(struct)
    if known is None:
        known = _KINDS[struct] = _kind_of(struct)
    return dict(zip(known.fields, known.extract(events), strict=True))


class _Slice(Struct, frozen=True):
    n: int
    bit: int
    arrays: dict[str, pa.Array]
    rank: int | NDArray[np.int64]
    position: NDArray[np.int64]


class CallBatch:
    """Columns of call events, built slice by slice.

    Add slices of about a thousand events: decoded events are then still in the processor's cache when
    their fields are read, which makes decoding and reading twice as fast (``docs/decisions``).
    """

    def __init__(self) -> None:
        self._slices: list[_Slice] = []

    def add(
        self,
        kind: type[CallEvent],
        lists: dict[str, list[Any]],
        position: NDArray[np.int64],
        known: Mapping[str, pa.Array] = MappingProxyType({}),
    ) -> None:
        """Append events of one kind.

        Parameters
        ----------
        lists
            What :func:`read_fields` gives.
        position
            Each event's place among all events of the chunk.
        known
            Fields that somebody has made arrays of already: times and text, as they are stored.
        """
        n = len(position)
        arrays: dict[str, pa.Array] = {}
        for column in _COLUMNS:
            values = lists.get(column.field)
            if values is None:
                continue
            array = known.get(column.field)
            if array is not None:
                arrays[column.name] = array
                continue
            unknown = _UNKNOWN.get(column.encoding)
            first = values[0]
            if first == values[n // 2] == values[-1] and values.count(first) == n:
                if first != unknown:
                    arrays[column.name] = _repeat(column.encoding, first, n)
                continue
            arrays[column.name] = _array(column.encoding, values)
        sources = lists.get("usage_source")
        if kind is Token:
            rank: int | NDArray[np.int64] = RANK_PROGRESS << RANK_SHIFT
        else:
            # Read or not, where counts come from is the provider unless an event says otherwise.
            rank = _rank_of([None] * n if sources is None else sources, n)
        self._slices.append(_Slice(n, CALL_KINDS[kind], arrays, rank, position))

    def table(self) -> pa.Table | None:
        """All rows in one table, text as plain strings; a column that no event speaks of is absent.

        Beside the columns of ``calls`` it has ``parts``, the bit of the event's kind, and ``position``.
        """
        slices = self._slices
        if not slices:
            return None
        present = {name for part in slices for name in part.arrays}
        columns: dict[str, pa.Array] = {}
        for column in CALL_COLUMNS:
            if column.name not in present:
                continue
            kind = _ARROW[column.encoding]
            chunks = [part.arrays.get(column.name) for part in slices]
            joined = pa.chunked_array(
                [
                    pa.nulls(part.n, kind) if chunk is None else chunk
                    for chunk, part in zip(chunks, slices, strict=True)
                ],
                kind,
            ).combine_chunks()
            rank = None
            if column.encoding == "tokens":
                rank = pa.array(np.concatenate([np.broadcast_to(part.rank, part.n) for part in slices]))
            columns[column.name] = _encode(column.encoding, joined, rank)
        columns["parts"] = pa.array(np.repeat([part.bit for part in slices], [part.n for part in slices]))
        columns["parts"] = columns["parts"].cast(pa.uint8())
        columns["position"] = pa.array(np.concatenate([part.position for part in slices]))
        return pa.table(columns)


def _rank_of(sources: list[str | None], n: int) -> int | NDArray[np.int64]:
    """The rank, in its place above the count, of each event's usage; one number when all are equal."""
    first = sources[0]
    if sources.count(first) == n:
        return _RANKS.get(first, RANK_PROGRESS) << RANK_SHIFT
    ranks = [_RANKS.get(source, RANK_PROGRESS) << RANK_SHIFT for source in sources]
    return np.array(ranks, dtype=np.int64)


def _array(encoding: Encoding, values: list[Any]) -> pa.Array:
    if encoding == "json":
        values = [_json_encode(value).decode() if value else "" for value in values]
    return pa.array(values, _ARROW[encoding])


def _repeat(encoding: Encoding, value: Any, n: int) -> pa.Array:
    if encoding == "json":
        value = _json_encode(value).decode()
    return pa.repeat(pa.scalar(value, _ARROW[encoding]), n)


def _encode(encoding: Encoding, array: pa.Array, rank: pa.Array | None) -> pa.Array:
    match encoding:
        case "maybe":
            return pc.add(array, 1)
        case "tokens":
            return pc.add(array, rank)
        case "micros":
            return pc.add(pc.round(pc.multiply(array, 1000.0)).cast(pa.int64()), 1)
        case "nano":
            return pc.add(pc.round(pc.multiply(array, 1e9)).cast(pa.int64()), 1)
        case "flag":
            return pc.add(array.cast(pa.int64()), 1)
        case "hashes":
            return pc.fill_null(array, pa.scalar([], pa.list_(pa.int64())))
        case "text" | "time" | "json":
            return array
