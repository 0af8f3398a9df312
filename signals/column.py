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

from typing import Final, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from msgspec import Struct
from numpy.typing import NDArray

from gatewatch.events import Call, CallEvent, Latency, Request, Response, Token
from signals.decoder import KIND_NAMES, OPTIONS, Numbers, Piece

__all__ = ["CALL_COLUMNS", "CALL_KINDS", "RANK_SHIFT", "CallBatch", "Column", "Encoding", "coded", "numbers"]

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

_TEXTS: Final = frozenset(column.field for column in CALL_COLUMNS if column.encoding in ("text", "json"))

CALL_KINDS: Final[dict[type[CallEvent], int]] = {Request: 1, Token: 2, Response: 4, Latency: 8, Call: 16}
"""The bit that each kind sets in ``calls.parts``."""

_BITS: Final = {kind.__struct_config__.tag: bit for kind, bit in CALL_KINDS.items()}
_PARTS: Final = np.array([_BITS.get(name, 0) for name in KIND_NAMES], dtype=np.uint8)
_TOKEN: Final = KIND_NAMES.index("token")
_RANKS: Final = {"provider": RANK_PROVIDER, "estimated": RANK_ESTIMATED, "missing": RANK_PROGRESS}
_SOURCE_RANKS: Final = np.array([_RANKS[source] for source in OPTIONS["usage_source"]])
_SCALES: Final[dict[Encoding, float]] = {"micros": 1e3, "nano": 1e9}


def coded(table: pa.Table, column: str) -> tuple[NDArray[np.int64], list[str]]:
    """A column of text as codes, shape (n,), and the names that they stand for."""
    if column not in table.column_names:
        return np.zeros(table.num_rows, dtype=np.int64), [""]
    found = table[column].combine_chunks().dictionary_encode()
    return found.indices.to_numpy().astype(np.int64), found.dictionary.to_pylist()


def numbers(table: pa.Table, column: str) -> NDArray[np.int64]:
    """A column of numbers as they are stored, all unknown where no event speaks of it; shape (n,)."""
    if column not in table.column_names:
        return np.zeros(table.num_rows, dtype=np.int64)
    # The store's are unsigned; together with signed ones numpy would make floats of them.
    found: NDArray[np.int64] = table[column].to_numpy().astype(np.int64, copy=False)
    return found


class _Slice(Struct, frozen=True):
    """What is kept of a piece: not its lines, and neither prompts nor answers."""

    kind: NDArray[np.int64]
    numbers: dict[str, Numbers]
    texts: dict[str, pa.Array]
    hashes: dict[int, list[int]]
    position: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.kind)


class CallBatch:
    """Columns of call events, piece by piece."""

    def __init__(self) -> None:
        self._slices: list[_Slice] = []

    def add(self, piece: Piece, position: NDArray[np.int64]) -> None:
        """Append call events.

        Parameters
        ----------
        position
            Each event's place among all events of the chunk; shape (n,), ascending.
        """
        texts = {name: text for name, text in piece.texts.items() if name in _TEXTS}
        self._slices.append(_Slice(piece.kind, piece.numbers, texts, piece.hashes, position))

    def table(self) -> pa.Table | None:
        """All rows in one table, as ``calls`` stores them.

        Text of low cardinality is a dictionary, which may hold names that no row has; other text is plain.
        A column that no event speaks of is absent. Beside the columns of ``calls`` it has ``parts``, the bit
        of the event's kind, and ``position``.
        """
        if not self._slices:
            return None
        kind = np.concatenate([part.kind for part in self._slices])
        rank = np.concatenate([_rank(part) for part in self._slices])
        columns: dict[str, pa.Array] = {}
        for column in CALL_COLUMNS:
            if column.low_cardinality:
                array = self._coded(column.field)
            elif column.encoding in ("text", "json"):
                array = self._text(column.field)
            elif column.encoding == "hashes":
                array = self._hashes()
            else:
                array = self._numbers(column, rank)
            if array is not None:
                columns[column.name] = array
        columns["parts"] = pa.array(_PARTS[kind])
        columns["position"] = pa.array(np.concatenate([part.position for part in self._slices]))
        return pa.table(columns)

    def _text(self, field: str) -> pa.Array | None:
        found = [part.texts.get(field) for part in self._slices]
        if all(text is None for text in found):
            return None
        nothing = pa.scalar("", pa.string())
        return pa.concat_arrays(
            [
                pa.repeat(nothing, len(part)) if text is None else text
                for text, part in zip(found, self._slices, strict=True)
            ]
        )

    def _coded(self, field: str) -> pa.DictionaryArray | None:
        if field not in OPTIONS:
            text = self._text(field)
            return None if text is None else text.dictionary_encode()
        found = [part.numbers.get(field) for part in self._slices]
        if all(codes is None for codes in found):
            return None
        names = [*OPTIONS[field], ""]
        codes = [
            np.full(len(part), len(names) - 1, dtype=np.int64)
            if said is None
            else np.where(said.present, said.values, len(names) - 1)
            for said, part in zip(found, self._slices, strict=True)
        ]
        return pa.DictionaryArray.from_arrays(
            pa.array(np.concatenate(codes).astype(np.int32)), pa.array(names)
        )

    def _hashes(self) -> pa.Array | None:
        if not any(part.hashes for part in self._slices):
            return None
        hashes = [part.hashes.get(row, []) for part in self._slices for row in range(len(part))]
        return pa.array(hashes, pa.list_(pa.int64()))

    def _numbers(self, column: Column, rank: NDArray[np.int64]) -> pa.Array | None:
        found = [_stated(part, column.field) for part in self._slices]
        if all(numbers is None for numbers in found):
            return None
        nothing = [np.zeros(len(part), dtype=np.int64) for part in self._slices]
        values = np.concatenate(
            [
                none if numbers is None else numbers.values
                for numbers, none in zip(found, nothing, strict=True)
            ]
        )
        present = np.concatenate(
            [
                none != 0 if numbers is None else numbers.present
                for numbers, none in zip(found, nothing, strict=True)
            ]
        )
        scale = _SCALES.get(column.encoding)
        if scale is not None:
            values = np.rint(np.where(present, values, 0) * scale).astype(np.int64)
        if column.encoding == "tokens":
            values = values | rank
        elif column.encoding != "time":
            values = values + 1
        return pa.array(np.where(present, values, 0))


def _stated(part: _Slice, field: str) -> Numbers | None:
    """A field's numbers. What a stream has produced so far is output, of the lowest rank."""
    numbers = part.numbers.get(field)
    if field != "output_tokens":
        return numbers
    so_far = part.numbers.get("output_tokens_so_far")
    if numbers is None or so_far is None:
        return numbers or so_far
    return Numbers(np.where(so_far.present, so_far.values, numbers.values), numbers.present | so_far.present)


def _rank(part: _Slice) -> NDArray[np.int64]:
    """The rank, in its place above the count, of each event's usage; shape (n,)."""
    sources = part.numbers.get("usage_source")
    rank = np.full(len(part), RANK_PROVIDER, dtype=np.int64)
    if sources is not None:
        rank[sources.present] = _SOURCE_RANKS[sources.values[sources.present]]
    rank[part.kind == _TOKEN] = RANK_PROGRESS
    return rank << RANK_SHIFT
