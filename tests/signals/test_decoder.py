"""Columns of decoded events say what decoding line by line says, however a sender writes its JSON."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gatewatch.events import (
    KINDS,
    CallEvent,
    Event,
    Reject,
    decode_line,
    decode_record,
    encode,
    split_record,
)
from signals import decoder, scan
from signals.decoder import KIND_NAMES, OPTIONS, Piece, decode_values
from tests.event import T0_MS, call

ELSEWHERE = {"prefix_hashes", "provider_usage", "input_text", "output_text", "v"}
FIELDS = {
    kind: [f for f in msgspec.structs.fields(kind) if f.name not in ELSEWHERE] for kind in KINDS.values()
}
CALL_KINDS = [kind for kind in KINDS.values() if issubclass(kind, CallEvent)]


def cell(piece: Piece, field: str, row: int) -> Any:
    """What a column says of an event, as its struct would."""
    if field in piece.texts:
        text = piece.texts[field][row].as_py()
        return (json.loads(text) if text else {}) if field in ("tags", "tool_requests") else text
    numbers = piece.numbers.get(field)
    if numbers is None or not numbers.present[row]:
        return None
    value = numbers.values[row].item()
    return OPTIONS[field][value] if field in OPTIONS else value


def rows(values: list[bytes]) -> list[tuple[int, int, type[Event], dict[str, Any]]]:
    """Every decoded event: its record, its line, its kind, its fields."""
    found = []
    for piece in decode_values(values):
        for row in range(len(piece)):
            kind = KINDS[KIND_NAMES[piece.kind[row]]]
            names = {field.name for field in msgspec.structs.fields(decoder_base(kind))} - ELSEWHERE
            said = {name: cell(piece, name, row) for name in names}
            found.append((int(piece.record[row]), piece.line(row)[0], kind, said))
    return found


def decoder_base(kind: type[Event]) -> type[Any]:
    """The part of an event that is columns: of events that are no calls only what all events have."""
    return kind if issubclass(kind, CallEvent) else kind.__mro__[1]


def expected(values: list[bytes]) -> list[tuple[int, int, type[Event], dict[str, Any]]]:
    """The same by the reference."""
    found = []
    for record, value in enumerate(values):
        for line, event in enumerate(decode_record(value)):
            if isinstance(event, Reject):
                continue
            names = {field.name for field in msgspec.structs.fields(decoder_base(type(event)))} - ELSEWHERE
            said = {name: getattr(event, name) for name in names}
            found.append((record, line, type(event), said))
    return found


def same(left: list[Any], right: list[Any]) -> None:
    """Equal but for what storage does not tell apart: empty text and none, no tags and none."""

    def plain(found: list[Any]) -> list[Any]:
        return [
            (
                record,
                line,
                kind.__name__,
                {k: v for k, v in said.items() if v not in ("", {}, None) or v == 0},
            )
            for record, line, kind, said in found
        ]

    assert plain(left) == plain(right)


TEXTS = st.one_of(
    st.sampled_from(
        ["", "a", "gpt-4o", "ä", "日本語", "a b", "\x7f", "𝛼", "x" * 256, "é" * 256, "x" * 257, "é" * 257]
    ),
    st.text(max_size=12),
)
NUMBERS = st.one_of(
    st.integers(-2, 5),
    st.sampled_from(
        [10**9, 10**9 + 1, 10**12, 10**12 + 1, 2**53, 2**53 + 1, 10**17, 10**18, 10**19, 10**400]
    ),
    st.integers(0, 2**64),
    st.floats(0, 1e10, allow_nan=False),
    st.sampled_from([0.1, 1e-7, 123456789.123456789, 604_800_000.0, 604_800_000.1, 1e22, 5e-324, 0.0, -0.0]),
)
VALUES = st.one_of(
    TEXTS,
    NUMBERS,
    st.booleans(),
    st.none(),
    st.just([]),
    st.just([1]),
    st.dictionaries(TEXTS, TEXTS, max_size=3),
)


@st.composite
def fitting(draw: st.DrawFn, kind: type[Event]) -> dict[str, Any]:
    """An event with any of its fields, most of them of the type that they have."""
    said: dict[str, Any] = {
        "at_ms": T0_MS,
        "gateway": "eu-1",
        "call_id": "c",
        "started_at_ms": T0_MS,
        "provider": "openai",
        "model": "m",
        "name": "n",
        "resource": "r",
    }
    fields = msgspec.structs.fields(kind)
    said = {field.name: said[field.name] for field in fields if field.required}
    for field in draw(st.lists(st.sampled_from(fields), max_size=8)):
        known = str(field.type)
        options = OPTIONS.get(field.name)
        if options and draw(st.integers(0, 5)):
            said[field.name] = draw(st.sampled_from(options))
        elif "str" in known and "dict" not in known:
            said[field.name] = draw(TEXTS)
        elif "dict" in known:
            said[field.name] = draw(st.dictionaries(TEXTS, TEXTS, max_size=3))
        elif "bool" in known:
            said[field.name] = draw(st.booleans() | st.none())
        else:
            said[field.name] = draw(NUMBERS)
    if draw(st.integers(0, 5)) == 0:
        said[draw(st.sampled_from(["new_field", *said, "kind"]))] = draw(VALUES)
    return said


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """An event as some sender writes it: its order of fields, its spaces, its escapes."""
    kind = draw(st.sampled_from(list(KINDS.values())) | st.sampled_from(CALL_KINDS))
    said = draw(fitting(kind))
    items = list(said.items())
    if draw(st.booleans()):
        items = draw(st.permutations(items))
    tag = ("kind", kind.__struct_config__.tag)
    items.insert(draw(st.sampled_from([0, 0, 0, 0, len(items)])), tag)
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : "), (",\t", ":")]))
    text = json.dumps(dict(items), ensure_ascii=draw(st.booleans()), separators=separators)
    if draw(st.integers(0, 9)) == 0:  # a field twice
        text = text[:-1] + "," + json.dumps(dict([draw(st.sampled_from(items))]), separators=separators)[1:]
    return text.encode("utf-8", "surrogatepass")


@settings(max_examples=400)
@given(st.lists(st.lists(lines(), max_size=5).map(b"\n".join), min_size=1, max_size=3))
@example([b"", b"\n\n", b" \n" + encode(call(1)), encode(call(2)) + b"\n"])
def test_columns_say_what_decoding_line_by_line_says(values: list[bytes]) -> None:
    same(rows(values), expected(values))


@pytest.mark.parametrize(
    "text", ["0.1", "1.1", "0.30000000000000004", "123456789.123456789", "9007199254740991"]
)
def test_decimals_are_read_to_the_last_bit(text: str) -> None:
    line = encode(call(1)).replace(b'"total_ms":500.0', b'"total_ms":' + text.encode())
    event = decode_line(line)
    if isinstance(event, Reject):
        assert rows([line]) == []
    else:
        ((_, _, _, said),) = rows([line])
        assert said["total_ms"] == float(text) == event.total_ms  # type: ignore[union-attr]


def scanned(line: bytes) -> int:
    """What the scan alone makes of a line."""
    (status,) = statuses(line)
    return status


def statuses(text: bytes) -> list[int]:
    n = text.count(b"\n") + 1
    fields = len(decoder._FIELDS)
    value, present = np.empty((fields, n), np.int64), np.zeros((fields, n), np.bool_)
    status, starts = np.empty(n, np.int8), np.empty(n + 1, np.int64)
    view = np.frombuffer(text + scan.PADDING, np.uint8)
    columns = (value, value.view(np.float64), present, status, starts)
    assert scan.scan(view, 0, 1 << 20, *decoder._PLAN, *columns) == (n, len(text) + 1)
    return status.tolist()


PLAIN = encode(
    call(1, tags={"a": "b"}, seq=3, stream=True, stream_end="complete", input_tokens=5, ttft_ms=1.25)
)


@pytest.mark.parametrize(
    "line",
    [
        PLAIN,
        json.dumps(json.loads(PLAIN)).encode(),  # Python's own spaces
        PLAIN.replace(b"gpt-4o", "größe".encode()),
        PLAIN.replace(b'"total_ms"', b'"new_field":"x","total_ms"'),
        PLAIN.replace(b'"seq":3', b'"seq":null'),
    ],
    ids=["ours", "spaces", "utf-8", "newer", "null"],
)
def test_what_senders_usually_write_is_scanned(line: bytes) -> None:
    """Or the fast way would not be taken, and nothing else would show it."""
    assert isinstance(decode_line(line), CallEvent)
    assert scanned(line) == scan.EVENT


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"gpt-4o", b"gpt\\u002d4o"),
        (b'"seq":3', b'"seq":3.0'),
        (b'"seq":3', b'"seq":03'),
        (b'"seq":3', b'"seq":-3'),
        (b'"ttft_ms":1.25', b'"ttft_ms":1.25e0'),
        (b'"ttft_ms":1.25', b'"ttft_ms":1.'),
        (b'"ttft_ms":1.25', b'"ttft_ms":0.10000000000000000000001'),
        (b'"seq":3', b'"seq":3,"seq":3'),
        (b"gpt-4o", b"gpt\xc0\xaf"),
        (b"gpt-4o", b"gpt\xed\xa0\x80"),
        (b"gpt-4o", b"gpt\xf4\x90\x80\x80"),
        (b"gpt-4o", b"gpt\xe2\x82"),
        (b"gpt-4o", b"gpt\x1f"),
        (b'"complete"', b'"completed"'),
        (b'"model"', b'"modell"'),
        (b'"tags":{"a":"b"}', b'"tags":{"a":1}'),
        (b'"tags":{"a":"b"}', b'"tags":{"a":{}}'),
        (b"}", b"},"),
        (b"{", b" {"),
    ],
)
def test_what_the_scan_is_not_certain_of_is_left_to_the_reference(old: bytes, new: bytes) -> None:
    assert old in PLAIN
    assert scanned(PLAIN.replace(old, new, 1)) == scan.UNCERTAIN


def test_every_byte_that_can_go_missing_is_noticed() -> None:
    """Cut anywhere, a line is uncertain or blank: the scan never reads on behind its end."""
    for end in range(len(PLAIN)):
        assert scanned(PLAIN[:end]) == (scan.UNCERTAIN if end else scan.BLANK)
    assert statuses(PLAIN[:-1] + b"\n" + PLAIN) == [scan.UNCERTAIN, scan.EVENT]


def test_more_lines_than_a_piece_holds_are_all_decoded_and_numbered() -> None:
    line = encode(call(1))
    value = b"\n\n".join([line] * 5000 + [b"{", line])
    pieces = list(decode_values([value]))
    assert len(pieces) > 1
    assert sum(map(len, pieces)) == 5001
    assert [reject[:3] for piece in pieces for reject in piece.rejects] == [(0, 5000, b"{")]
    assert pieces[-1].line(len(pieces[-1]) - 1) == (5001, line)


def test_numbering_lines_reads_a_record_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece's lines are numbered in more than one pass; none may begin at the record's start."""
    read = 0

    def counted(value: bytes) -> list[bytes]:
        nonlocal read
        read += len(value)
        return split_record(value)

    monkeypatch.setattr(decoder, "split_record", counted)
    good = encode(call(1))
    value = (good + b"\n" * 300 + b"{\n" + b"\n" * 300) * 400
    found = []
    for piece in decode_values([value]):
        found += [reject[1] for reject in piece.rejects]
        found += [piece.line(row)[0] for row in range(len(piece))]
    assert sorted(found) == list(range(800))
    assert read < 6 * len(value)
