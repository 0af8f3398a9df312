"""Decoding many records at once, into columns.

The reference is :func:`gatewatch.events.decode_line`, line by line. :mod:`signals.scan` reads the lines that
it is certain of, which are nearly all, straight into columns; the reference reads the others, and what they
say is put into the same columns, field by field for all of them at once. So everything after this is columns,
and both ways give the same (a property test holds them against each other on mutated lines).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import GenericAlias
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct, inspect
from numpy.typing import NDArray

from gatewatch.events import (
    KINDS,
    LIMITS,
    Call,
    CallEvent,
    Evaluation,
    Feedback,
    Outcome,
    Reject,
    Request,
    Resource,
    decode_line,
    encode,
    split_record,
)
from gatewatch.usage import Usage, UsageError, read_usage
from signals import scan

__all__ = ["KIND_NAMES", "OPTIONS", "Numbers", "Piece", "decode_values", "prepare"]

KIND_NAMES: Final = list(KINDS)
"""What ``Piece.kind`` points into."""

_LINES_MOST: Final = 4096
"""Lines of a piece: bounds the memory that a record of empty lines can take."""
_LINE_BYTES: Final = 256
"""Room is made for so short lines; where they are shorter there are more pieces."""

_TAGS: Final = [tag for tag, kind in KINDS.items() if issubclass(kind, CallEvent)]
_json_encode: Final = msgspec.json.Encoder().encode


class _Field(Struct, frozen=True):
    """What the scan needs to know of a field; see :func:`signals.scan.scan`."""

    name: str
    holds: int
    low: int = 0
    high: int = 0
    real_low: float = 0.0
    real_high: float = 0.0
    nullable: bool = False
    options: tuple[str, ...] = ()
    default: str = ""


def _field(field: msgspec.structs.FieldInfo) -> _Field:
    """A field of the contract, from its type and bounds there."""
    declared = inspect.type_info(field.type)
    nullable = False
    if isinstance(declared, inspect.UnionType):
        nullable = any(isinstance(kind, inspect.NoneType) for kind in declared.types)
        (declared,) = (kind for kind in declared.types if not isinstance(kind, inspect.NoneType))
    name = field.name
    match declared:
        case inspect.StrType(max_length=int(most)):
            default = field.default if isinstance(field.default, str) else ""
            least = declared.min_length or 0
            return _Field(name, scan.TEXT, low=least, high=most, nullable=nullable, default=default)
        case inspect.IntType(ge=int(low), le=int(high)):
            return _Field(name, scan.INTEGER, low=low, high=high, nullable=nullable)
        case inspect.FloatType(ge=low, le=high) if low is not None and high is not None:
            return _Field(name, scan.REAL, real_low=low, real_high=high, nullable=nullable)
        case inspect.LiteralType(values=[int(only)]):
            return _Field(name, scan.INTEGER, low=only, high=only, nullable=nullable)
        case inspect.LiteralType(values=values):
            return _Field(name, scan.CODE, nullable=nullable, options=tuple(map(str, values)))
        case inspect.BoolType():
            return _Field(name, scan.FLAG, nullable=nullable)
        case inspect.DictType(key_type=inspect.StrType(max_length=int(most)), value_type=inspect.StrType()):
            return _Field(name, scan.OBJECT, high=most, nullable=nullable)
        case inspect.DictType() | inspect.ListType():
            return _Field(name, scan.NESTED, nullable=nullable)
        case _:
            raise TypeError(f"signals.scan cannot read a field of this type: {name}: {field.type}")


_FIELDS: Final = [
    _Field("kind", scan.CODE, options=tuple(_TAGS)),
    *{field.name: _field(field) for tag in _TAGS for field in msgspec.structs.fields(KINDS[tag])}.values(),
]
_AT: Final = {field.name: i for i, field in enumerate(_FIELDS)}

OPTIONS: Final = {field.name: field.options for field in _FIELDS if field.holds == scan.CODE}
"""The names that a column of codes points into."""


def _blob(names: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    encoded = [name.encode() for name in names]
    text = np.frombuffer(b"".join(encoded) + scan.PADDING, dtype=np.uint8)
    return text, np.cumsum([0, *map(len, encoded)], dtype=np.int64)


def _per_kind() -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    allowed = np.zeros((len(_TAGS), len(_FIELDS)), dtype=np.bool_)
    required: list[list[int]] = []
    for row, tag in zip(allowed, _TAGS, strict=True):
        fields = msgspec.structs.fields(KINDS[tag])
        row[[_AT[field.name] for field in fields]] = True
        required.append([_AT[field.name] for field in fields if field.required])
    most = max(map(len, required))
    filled = [[*some, *[0] * (most - len(some))] for some in required]
    return allowed, np.array(filled, dtype=np.int64)


_NAMES: Final = _blob([f'"{field.name}":' for field in _FIELDS])
_OPTIONS: Final = _blob([f'"{option}"' for field in _FIELDS for option in field.options])
_ALLOWED, _REQUIRED = _per_kind()
_PLAN: Final = (
    *_NAMES,
    *_OPTIONS,
    np.cumsum([0, *(len(field.options) for field in _FIELDS)], dtype=np.int64),
    np.array([field.holds for field in _FIELDS], dtype=np.int64),
    np.array([field.low for field in _FIELDS], dtype=np.int64),
    np.array([field.high for field in _FIELDS], dtype=np.int64),
    np.array([field.real_low for field in _FIELDS], dtype=np.float64),
    np.array([field.real_high for field in _FIELDS], dtype=np.float64),
    np.array([field.nullable for field in _FIELDS], dtype=np.bool_),
    _ALLOWED,
    _REQUIRED,
    # Which field follows which is learned from the traffic; a wrong guess costs time only.
    np.zeros(len(_FIELDS) + 1, dtype=np.int64),
)
_NESTED: Final = {
    field.name: msgspec.json.Decoder(GenericAlias(list, (field.type,)))
    for tag in _TAGS
    for field in msgspec.structs.fields(KINDS[tag])
    if _FIELDS[_AT[field.name]].holds == scan.NESTED
}
"""Readers of what the scan has not read, for many values at once."""
_KIND_CODE: Final = {kind: code for code, kind in enumerate(KINDS.values())}
_KIND_OF_TAG: Final = np.array([KIND_NAMES.index(tag) for tag in _TAGS])
_DEFAULTS: Final = {field.name: (i, field.default) for i, field in enumerate(_FIELDS) if field.default}
# These two are read, and no text of theirs is kept.
_NO_COLUMNS: Final = frozenset({"prefix_hashes", "provider_usage"})
_MAPPINGS: Final = (scan.OBJECT, scan.NESTED)
_SPANS: Final = (scan.TEXT, *_MAPPINGS)
_CODES: Final = {
    i: {option: code for code, option in enumerate(field.options)} for i, field in enumerate(_FIELDS)
}
_COLUMNS_OF: Final = {
    kind: [None if name in _NO_COLUMNS else _AT.get(name) for name in kind.__struct_fields__]
    for kind in (*KINDS.values(), Usage)
}
"""For each field of a struct, the column that it goes to."""


class Numbers(Struct, frozen=True):
    """A column of numbers; both arrays have shape (n,)."""

    values: NDArray[Any]
    """float64 of fields that are no integers, otherwise int64; anything where not ``present``."""
    present: NDArray[np.bool_]


class Text:
    """Lines of many records, one after the other."""

    def __init__(self, values: Sequence[bytes]) -> None:
        bodies = [value.removesuffix(b"\n") for value in values]
        self.joined = b"\n".join(bodies)
        self._begins = np.cumsum([0, *(len(body) + 1 for body in bodies[:-1])])
        self._counted = self._marked = (-1, 0, 0)

    def records(self, begins: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index of the record of each line, by where the line begins."""
        return np.searchsorted(self._begins, begins, side="right") - 1

    def number(self, record: int, begin: int) -> int:
        """The number within its record of the line that begins there; blank lines are not numbered."""
        counted, upto, lines = self._counted
        if counted != record or upto > begin:
            counted, upto, lines = self._marked
        if counted != record or upto > begin:
            upto, lines = int(self._begins[record]), 0
        lines += len(split_record(self.joined[upto:begin]))
        self._counted = (record, begin, lines)
        return lines

    def mark(self) -> None:
        """Remember how far lines are numbered: a piece's lines are numbered more than once."""
        self._marked = self._counted


class Piece(Struct, frozen=True):
    """Decoded events in the order of their lines, as columns of n rows."""

    kind: NDArray[np.int64]
    """Index into :data:`KIND_NAMES`; shape (n,)."""
    record: NDArray[np.int64]
    """Index of each event's record; shape (n,)."""
    text: Text
    place: NDArray[np.int64]
    """Where each event's line begins and ends in ``text``; shape (n, 2)."""
    numbers: dict[str, Numbers]
    """By field: integers, decimals, flags as 0 and 1, names that the contract lists as indexes into
    :data:`OPTIONS`. Fields that no event has are absent."""
    texts: dict[str, pa.Array]
    """By field: strings, and objects as JSON; empty for an event that has none, or null in fields that may
    be null (prompts and answers). Fields that no event has are absent."""
    hashes: dict[int, list[int]]
    """By row: ``prefix_hashes`` of the events that have any."""
    placed: dict[int, Feedback | Evaluation | Resource]
    """By row: events that are of no call. Columns say of these what they have in common with calls."""
    refused: dict[int, Reject]
    """By row: events whose usage cannot be."""
    rejects: list[tuple[int, int, bytes, Reject]]
    """Lines that are no event: index of the record, number of the line in it, the line, why."""

    def __len__(self) -> int:
        return len(self.kind)

    def line(self, row: int) -> tuple[int, bytes]:
        """The number of an event's line within its record, and the line."""
        begin, end = self.place[row].tolist()
        return self.text.number(int(self.record[row]), begin), self.text.joined[begin:end]

    def take(self, rows: NDArray[np.bool_]) -> Piece:
        """Only some of the rows."""
        row = np.cumsum(rows) - 1
        mask = pa.array(rows)
        return Piece(
            kind=self.kind[rows],
            record=self.record[rows],
            text=self.text,
            place=self.place[rows],
            numbers={name: Numbers(x.values[rows], x.present[rows]) for name, x in self.numbers.items()},
            texts={name: text.filter(mask) for name, text in self.texts.items()},
            hashes={int(row[old]): found for old, found in self.hashes.items() if rows[old]},
            placed={int(row[old]): event for old, event in self.placed.items() if rows[old]},
            refused={int(row[old]): reject for old, reject in self.refused.items() if rows[old]},
            rejects=self.rejects,
        )


def decode_values(values: Sequence[bytes]) -> Iterator[Piece]:
    """Events of many records, some thousands at a time."""
    text = Text(values)
    source = text.joined + scan.PADDING
    view = np.frombuffer(source, dtype=np.uint8)
    # Not a multiple of 4096 bytes from column to column, or all of them share a few lines of the cache.
    room = min(len(text.joined) // _LINE_BYTES, _LINES_MOST) // 512 * 512 + 520
    at = 0
    while at <= len(text.joined):
        value = np.empty((len(_FIELDS), room), dtype=np.int64)
        present = np.zeros((len(_FIELDS), room), dtype=np.bool_)
        status = np.empty(room, dtype=np.int8)
        starts = np.empty(room + 1, dtype=np.int64)
        columns = (value, value.view(np.float64), present, status, starts)
        n, at = scan.scan(view, at, LIMITS.line_bytes, *_PLAN, *columns)
        text.mark()
        record = text.records(starts[:n])
        lines = _Lines(record, status[:n], starts[: n + 1], value[:, :n], present[:, :n])
        yield _piece(text, source, lines)


class _Lines(Struct, frozen=True):
    """What a scan gives, line by line (:func:`signals.scan.scan`)."""

    record: NDArray[np.int64]
    status: NDArray[np.int8]
    starts: NDArray[np.int64]
    value: NDArray[np.int64]
    present: NDArray[np.bool_]


class _Source:
    """What texts of columns point into: the lines, and what is not in these as it is."""

    def __init__(self, lines: bytes) -> None:
        self._parts = [lines]
        self._size = len(lines)

    def add(self, texts: pa.Array) -> NDArray[np.int64]:
        """Add strings; gives where each stands, as the scan does."""
        _, offsets, text = texts.buffers()
        at = np.frombuffer(offsets, dtype=np.int32)[: len(texts) + 1].astype(np.int64)
        spans: NDArray[np.int64] = (self._size + at[:-1]) << 32 | np.diff(at)
        if at[-1]:
            self._parts.append(text.to_pybytes()[: at[-1]])
            self._size += int(at[-1])
        return spans

    def view(self) -> NDArray[np.uint8]:
        """All of it, padded as the scan demands."""
        if len(self._parts) > 1:
            self._parts = [b"".join(self._parts) + scan.PADDING]
            self._size = len(self._parts[0])
        return np.frombuffer(self._parts[0], dtype=np.uint8)


class _Reported(Struct, frozen=True):
    """A provider's usage object that has to be read into counts."""

    row: int
    provider: str
    model: str
    usage: dict[str, Any]


def _piece(text: Text, source: bytes, lines: _Lines) -> Piece:
    """Events of the lines that were scanned, and of those that the scan was uncertain of."""
    nested = _nested(text, lines)
    well = lines.status == scan.EVENT
    kind = _KIND_OF_TAG[np.where(well, lines.value[0], 0)]
    texts = _Source(source)
    reported = _reported(texts.view(), lines, nested.get("provider_usage", {}))
    hashes = {row: found for row, found in nested.get("prefix_hashes", {}).items() if found}
    placed: dict[int, Feedback | Evaluation | Resource] = {}
    rejects: list[tuple[int, int, bytes, Reject]] = []
    uncertain = np.flatnonzero(lines.status == scan.UNCERTAIN).tolist()
    begins, record_of = (lines.starts.tolist(), lines.record.tolist()) if uncertain else ([], [])
    alike: dict[type[Any], tuple[list[int], list[Any]]] = {}
    for i in uncertain:
        begin, end = begins[i], begins[i + 1] - 1
        line = text.joined[begin:end]
        event = decode_line(line)
        if isinstance(event, Reject):
            rejects.append((record_of[i], text.number(record_of[i], begin), line, event))
            continue
        rows, events = alike.setdefault(type(event), ([], []))
        rows.append(i)
        events.append(event)
    for of, (rows, events) in alike.items():
        kind[rows] = _KIND_CODE[of]
        well[rows] = True
        _write(of, rows, events, lines, texts)
        said = list(zip(rows, events, strict=True))
        if not issubclass(of, CallEvent):
            placed.update(said)
        if issubclass(of, Outcome):
            reported += [
                _Reported(row, event.provider, event.model, event.provider_usage)
                for row, event in said
                if event.provider_usage is not None and event.input_tokens is None
            ]
        if issubclass(of, Request | Call):
            hashes.update((row, event.prefix_hashes) for row, event in said if event.prefix_hashes)
    refused = _normalise_usage(reported, lines, texts)
    numbers, strings = _columns(texts.view(), lines)
    place = np.stack([lines.starts[:-1], lines.starts[1:] - 1], axis=1)
    columns = (kind, lines.record, text, place, numbers, strings)
    piece = Piece(*columns, hashes, dict(sorted(placed.items())), refused, rejects)
    return piece if well.all() else piece.take(well)


def _nested(text: Text, lines: _Lines) -> dict[str, dict[int, Any]]:
    """Read what the scan has found the end of only: by field, the values by row.

    Lines of which it is wrong become uncertain. So do, for simplicity, all lines that were read with them.
    """
    found: dict[str, dict[int, Any]] = {}
    for name, decoder in _NESTED.items():
        field = _AT[name]
        present = lines.present[field]
        if not present.any():
            continue
        rows = np.flatnonzero(present)
        spans = lines.value[field, rows]
        begins = spans >> 32
        ends = begins + (spans & scan.LENGTH)
        places = zip(begins.tolist(), ends.tolist(), strict=True)
        values = b"[" + b",".join([text.joined[begin:end] for begin, end in places]) + b"]"
        try:
            found[name] = dict(zip(rows.tolist(), decoder.decode(values), strict=True))
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
            lines.status[rows] = scan.UNCERTAIN
            lines.present[:, rows] = False
    return {
        name: {row: value for row, value in of.items() if lines.status[row] == scan.EVENT}
        for name, of in found.items()
    }


def _reported(source: NDArray[np.uint8], lines: _Lines, usages: dict[int, Any]) -> list[_Reported]:
    """Usage objects of lines that were scanned and that say no counts of their own."""
    rows = np.array(list(usages), dtype=np.int64)
    rows = rows[~lines.present[_AT["input_tokens"], rows]]
    if not len(rows):
        return []
    provider, model = (
        _gathered(source, lines.value[_AT[name], rows], lines.present[_AT[name], rows]).to_pylist()
        for name in ("provider", "model")
    )
    return [
        _Reported(row, of, asked, usages[row])
        for row, of, asked in zip(rows.tolist(), provider, model, strict=True)
    ]


def _normalise_usage(reported: list[_Reported], lines: _Lines, texts: _Source) -> dict[int, Reject]:
    """Read the providers' own usage objects into counts; gives the rows of which these cannot be."""
    refused: dict[int, Reject] = {}
    rows: list[int] = []
    usages: list[Usage] = []
    for one in reported:
        try:
            usages.append(read_usage(one.provider, one.usage, one.model))
        except UsageError as error:
            refused[one.row] = Reject("invalid_usage", str(error))
        else:
            rows.append(one.row)
    if rows:
        # What the provider says of its tools replaces what the event says, even where it is nothing.
        lines.present[_AT["tool_requests"], rows] = False
        _write(Usage, rows, usages, lines, texts)
    return refused


def _write(of: type[Any], rows: list[int], structs: Sequence[Any], lines: _Lines, texts: _Source) -> None:
    """Write what structs of one type say into the columns, field by field."""
    at = np.array(rows)
    columns = zip(*map(msgspec.structs.astuple, structs), strict=True)
    for i, said in zip(_COLUMNS_OF[of], columns, strict=True):
        if i is None:
            continue
        field = _FIELDS[i]
        nothing_is_none = field.holds in _MAPPINGS or (
            field.holds == scan.TEXT and not field.nullable and not field.default
        )
        if not any(said) and (nothing_is_none or said.count(None) == len(said)):
            continue
        array = _arrow(i, said)
        if field.holds in _SPANS:
            values = texts.add(array)
        else:
            values = np.frombuffer(array.buffers()[1], dtype=np.int64)[: len(said)]
        if array.null_count:
            here = array.is_valid().to_numpy(zero_copy_only=False)
            lines.value[i, at[here]] = values[here]
            lines.present[i, at[here]] = True
        else:
            lines.value[i, at] = values
            lines.present[i, at] = True


def _arrow(i: int, said: Sequence[Any]) -> pa.Array:
    """Values of a field, as they are decoded: text, or numbers of eight bytes."""
    match _FIELDS[i].holds:
        case scan.TEXT:
            return pa.array(said, pa.string())
        case scan.OBJECT | scan.NESTED:
            return pa.array([_json_encode(one).decode() if one else None for one in said], pa.string())
        case scan.CODE:
            return pa.array(list(map(_CODES[i].get, said)), pa.int64())
        case scan.FLAG:
            return pa.array(said, pa.bool_()).cast(pa.int64())
        case scan.INTEGER:
            return pa.array(said, pa.int64())
        case _:
            return pa.array(said, pa.float64())


def _columns(source: NDArray[np.uint8], lines: _Lines) -> tuple[dict[str, Numbers], dict[str, pa.Array]]:
    numbers: dict[str, Numbers] = {}
    texts: dict[str, pa.Array] = {}
    for i in np.flatnonzero(lines.present.any(axis=1)).tolist():
        # Copied: what is kept for long must not keep the columns of every field that there is.
        field, value, present = _FIELDS[i], lines.value[i].copy(), lines.present[i].copy()
        match field.holds:
            case scan.TEXT:
                texts[field.name] = _gathered(source, value, present, nulls=field.nullable)
            case scan.OBJECT | scan.NESTED:
                if field.name in _NO_COLUMNS:
                    continue
                encoded = _gathered(source, value, present).dictionary_encode()
                # Senders differ in spaces, and an object may say a name twice.
                plain = [_plain_object(json) for json in encoded.dictionary.to_pylist()]
                texts[field.name] = pa.array(plain, pa.string()).take(encoded.indices)
            case scan.REAL:
                numbers[field.name] = Numbers(value.view(np.float64), present)
            case _:
                numbers[field.name] = Numbers(value, present)
    for name, (i, default) in _DEFAULTS.items():
        if not lines.present[i].all():
            said = texts.get(name, pa.scalar("", pa.string()))
            texts[name] = pc.if_else(pa.array(lines.present[i]), said, default)
    return numbers, texts


def _gathered(
    source: NDArray[np.uint8], spans: NDArray[np.int64], present: NDArray[np.bool_], nulls: bool = False
) -> pa.Array:
    """Texts by where they stand; what is not present is empty, or null."""
    offsets = np.empty(len(spans) + 1, dtype=np.int32)
    out = np.empty(int((spans & scan.LENGTH).sum(where=present)) + 8, dtype=np.uint8)
    scan.gather(source, spans, present, offsets, out)
    valid = pa.py_buffer(np.packbits(present, bitorder="little")) if nulls else None
    return pa.StringArray.from_buffers(len(spans), pa.py_buffer(offsets), pa.py_buffer(out), valid)


def _plain_object(json: str) -> str:
    """An object of text or counts as we write it; nothing for one that holds nothing."""
    value = msgspec.json.decode(json) if json else {}
    return _json_encode(value).decode() if value else ""


def prepare() -> None:
    """Compile, or load what was compiled, so that the first events need not wait for it."""
    first = Call(at_ms=0, gateway="g", call_id="c", started_at_ms=0, provider="p", model="m")
    for _ in decode_values([encode(first)]):
        pass


if __name__ == "__main__":
    prepare()
