"""Blocks in ClickHouse's Native format: columns as the engine keeps them, so that it need not convert them.

Source: ClickHouse's documentation of the format, and for LowCardinality ``SerializationLowCardinality.cpp``.
Only the types of the table ``calls`` are known here; everything else is inserted as Arrow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from signals.scan import compiled
from sinks.schema import TABLES

__all__ = ["CALL_TYPES", "encode_block", "prepare"]

_INNER: Final = re.compile(r"SimpleAggregateFunction\(\w+, (.*)\)")
CALL_TYPES: Final = {
    column.name: inner[1] if (inner := _INNER.fullmatch(column.type)) else column.type
    for table in TABLES
    if table.name == "calls"
    for column in table.columns
}
"""What is sent for each column of ``calls``; how its values are merged makes no difference to them."""

_NUMBERS: Final = {"UInt8": np.uint8, "UInt16": np.uint16, "UInt32": np.uint32, "UInt64": np.uint64}
_CODES: Final = ((np.uint8, 1 << 8), (np.uint16, 1 << 16), (np.uint32, 1 << 32))
"""In the order of their numbers in the format, and how many codes each can tell apart."""
_KEYS_VERSION: Final = 1
_OWN_KEYS: Final = 1 << 9 | 1 << 10
"""The block brings all of its keys, and the dictionary is made anew."""


def encode_block(rows: pa.Table, types: Mapping[str, str]) -> bytes:
    """Rows as one block.

    Parameters
    ----------
    types
        The type of each column: text, text of low cardinality (a dictionary), natural numbers (any integers
        that fit), ``DateTime64(3)`` (timestamps in milliseconds), or arrays of numbers. What is null is sent
        as the type's default.

    Raises
    ------
    ValueError
        A column has a type that is not known here.
    """
    parts: list[Any] = [_varint(rows.num_columns), _varint(rows.num_rows)]
    for name in rows.column_names:
        kind = types[name]
        parts += [_text(name), _text(kind)]
        parts += _encoded(rows[name].combine_chunks(), kind)
    return b"".join(parts)


def _encoded(column: pa.Array, kind: str) -> list[Any]:
    if kind == "LowCardinality(String)":
        return _codes(column)
    if kind == "String":
        return [_texts(column)]
    if kind.startswith("DateTime64(3"):
        return [column.cast(pa.timestamp("ms", "UTC")).view(pa.int64()).fill_null(0).to_numpy().data]
    if kind in _NUMBERS:
        return [_numbers(column, _NUMBERS[kind]).data]
    if kind.startswith("Array(") and kind[6:-1] in _NUMBERS:
        # Nulls have no length; a slice begins somewhere else than at the first value.
        lengths = column.value_lengths().fill_null(0).to_numpy()
        ends = np.cumsum(lengths, dtype=np.uint64)
        return [ends.data, _numbers(column.flatten(), _NUMBERS[kind[6:-1]]).data]
    raise ValueError(f"no encoding is known for {kind}")


def _numbers(column: pa.Array, width: Any) -> NDArray[Any]:
    if column.null_count:
        column = column.fill_null(0)
    return np.ascontiguousarray(column.to_numpy().astype(width, copy=False))


def _codes(column: pa.Array) -> list[Any]:
    coded = column.dictionary_encode()
    names, indices = coded.dictionary, coded.indices
    if indices.null_count:
        indices = indices.fill_null(len(names))
        names = pa.concat_arrays([names, pa.array([""], names.type)])
    width, kind = next((i, kind) for i, (kind, most) in enumerate(_CODES) if len(names) <= most)
    head = np.array([_KEYS_VERSION, width | _OWN_KEYS, len(names)], dtype=np.uint64)
    codes = indices.to_numpy().astype(kind)
    return [head.data, _texts(names), np.array([len(codes)], dtype=np.uint64).data, codes.data]


def _texts(column: pa.Array) -> Any:
    """Each text with its length before it."""
    if column.null_count:
        column = column.fill_null("")
    n = len(column)
    _, offsets, values = column.buffers()
    if not n:
        return b""
    at = np.frombuffer(offsets, dtype=np.int32)[column.offset : column.offset + n + 1]
    data = np.frombuffer(values, dtype=np.uint8) if values else np.empty(0, dtype=np.uint8)
    out = np.empty(int(at[-1] - at[0]) + n * _LENGTH_BYTES, dtype=np.uint8)
    return out[: _prefixed(at, data, out)].data


_LENGTH_BYTES: Final = 5
"""Of a text's length, at most: seven bits in a byte."""


@compiled
def _prefixed(at: NDArray[np.int32], data: NDArray[np.uint8], out: NDArray[np.uint8]) -> int:
    """Write texts that begin and end at ``at`` with their lengths; how many bytes that makes."""
    written = 0
    for i in range(len(at) - 1):
        length = at[i + 1] - at[i]
        rest = length
        while rest >= 128:
            out[written] = rest & 127 | 128
            rest >>= 7
            written += 1
        out[written] = rest
        written += 1
        for k in range(length):
            out[written + k] = data[at[i] + k]
        written += length
    return written


def _varint(number: int) -> bytes:
    made = bytearray()
    while number >= 128:
        made.append(number & 127 | 128)
        number >>= 7
    made.append(number)
    return bytes(made)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _varint(len(encoded)) + encoded


def prepare() -> None:
    """Compile, or load what was compiled, so that the first insert need not wait for it."""
    _texts(pa.array(["a"]))
