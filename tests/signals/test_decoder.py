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
    Outcome,
    Reject,
    decode_line,
    decode_record,
    encode,
    split_record,
)
from gatewatch.usage import UsageError, read_usage
from signals import decoder, scan
from signals.decoder import KIND_NAMES, OPTIONS, Piece, decode_values
from tests.event import T0_MS, call

ELSEWHERE = {"provider_usage", "v"}
PROMPTS = {"input_text", "output_text"}
OBJECTS = {"tags", "tool_requests"}
CALL_KINDS = [kind for kind in KINDS.values() if issubclass(kind, CallEvent)]

Row = tuple[int, int, type[Event], dict[str, Any]]


def cell(piece: Piece, field: str, row: int) -> Any:
    """What a column says of an event, as its struct would."""
    if field == "prefix_hashes":
        return piece.hashes.get(row)
    if field in piece.texts:
        text = piece.texts[field][row].as_py()
        return (json.loads(text) if text else {}) if field in OBJECTS else text
    numbers = piece.numbers.get(field)
    if numbers is None or not numbers.present[row]:
        return None
    value = numbers.values[row].item()
    return OPTIONS[field][value] if field in OPTIONS else value


def found(values: list[bytes]) -> tuple[list[Row], list[Any]]:
    """Every decoded event, with its record, line, kind, fields; and what was refused, in their order."""
    events, refused = [], []
    for piece in decode_values(values):
        for row in range(len(piece)):
            kind = KINDS[KIND_NAMES[piece.kind[row]]]
            names = {field.name for field in msgspec.structs.fields(decoder_base(kind))} - ELSEWHERE
            said = {name: cell(piece, name, row) for name in names}
            at = (int(piece.record[row]), piece.line(row)[0])
            if row in piece.refused:
                refused.append((*at, piece.refused[row]))
            placed = piece.placed.get(row)
            assert (placed is None) == issubclass(kind, CallEvent)
            if placed is not None:
                said["itself"] = encode(placed)
            events.append((*at, kind, said))
        assert list(piece.placed) == sorted(piece.placed)
        refused += [(record, line, reject) for record, line, _, reject in piece.rejects]
    return events, sorted(refused, key=lambda one: one[:2])


def rows(values: list[bytes]) -> list[Row]:
    return found(values)[0]


def decoder_base(kind: type[Event]) -> type[Any]:
    """The part of an event that is columns: of events that are no calls only what all events have."""
    return kind if issubclass(kind, CallEvent) else kind.__mro__[1]


def expected(values: list[bytes]) -> tuple[list[Row], list[Any]]:
    """The same by the reference."""
    events, refused = [], []
    for record, value in enumerate(values):
        if not split_record(value):
            continue  # The lane says of it that it is empty.
        for line, event in enumerate(decode_record(value)):
            if isinstance(event, Reject):
                refused.append((record, line, event))
                continue
            names = {field.name for field in msgspec.structs.fields(decoder_base(type(event)))} - ELSEWHERE
            said = {name: getattr(event, name) for name in names}
            if not isinstance(event, CallEvent):
                said["itself"] = encode(event)
            if said.get("prefix_hashes") == []:
                said["prefix_hashes"] = None
            if isinstance(event, Outcome) and event.provider_usage is not None and event.input_tokens is None:
                try:
                    usage = read_usage(event.provider, event.provider_usage, event.model)
                except UsageError as error:
                    refused.append((record, line, Reject("invalid_usage", str(error))))
                else:
                    stated = msgspec.structs.asdict(usage)
                    said |= {name: count for name, count in stated.items() if count is not None}
            events.append((record, line, type(event), said))
    return events, refused


def same(values: list[bytes]) -> None:
    """Both say the same, but for what storage does not tell apart: empty text and none, no tags and none.

    Of prompts and answers it does: an empty one was asked for.
    """

    def told(name: str, value: Any) -> bool:
        return value not in ("", {}, None) or value == 0 or (name in PROMPTS and value == "")

    def plain(events: list[Row]) -> list[Any]:
        return [
            (
                record,
                line,
                kind.__name__,
                {name: value for name, value in said.items() if told(name, value)},
            )
            for record, line, kind, said in events
        ]

    (events, refused), (expected_events, expected_refused) = found(values), expected(values)
    assert plain(events) == plain(expected_events)
    assert refused == expected_refused


TEXTS = st.one_of(
    st.sampled_from(
        [
            *("", "a", "gpt-4o", "ä", "日本語", "a b", "\x7f", "𝛼", '"\\/\b\f\n\r\t\0'),
            *(letter * length for letter in "xé𝛼\n" for length in (256, 257)),
            'a line\nthat is "quite" long\n',
        ]
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
COUNTS = st.integers(0, 900)
USAGES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.fixed_dictionaries({"prompt_tokens": COUNTS, "completion_tokens": COUNTS}),
    st.fixed_dictionaries(
        {"input_tokens": COUNTS, "output_tokens": COUNTS, "cache_read_input_tokens": COUNTS},
        optional={"server_tool_use": st.fixed_dictionaries({"web_fetch_requests": COUNTS})},
    ),
    st.fixed_dictionaries({"promptTokenCount": COUNTS, "x": st.lists(TEXTS | NUMBERS, max_size=2)}),
    st.just({"prompt_tokens": -1}),
    st.just({"prompt_tokens": {"a": [[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]}}),
)
SHAS = st.lists(st.sampled_from([0, 7, 2**63 - 1]) | st.integers(0, 2**63 - 1), max_size=3)
VALUES = st.one_of(
    TEXTS,
    NUMBERS,
    st.booleans(),
    st.none(),
    st.just([]),
    st.just([1]),
    st.just([-1]),
    st.just({"a": -1}),
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
        if field.name == "v":
            continue
        if field.name in ("provider_usage", "prefix_hashes"):
            said[field.name] = draw(USAGES if field.name == "provider_usage" else SHAS)
            continue
        if options and draw(st.integers(0, 5)):
            said[field.name] = draw(st.sampled_from(options))
        elif "str" in known and "dict" not in known:
            said[field.name] = draw(TEXTS)
        elif "dict" in known:
            of = COUNTS if field.name == "tool_requests" else TEXTS
            said[field.name] = draw(st.dictionaries(TEXTS, of, max_size=3))
        elif "bool" in known:
            said[field.name] = draw(st.booleans() | st.none())
        else:
            said[field.name] = draw(NUMBERS)
    if draw(st.integers(0, 5)) == 0:
        said[draw(st.sampled_from(["new_field", *said, "kind"]))] = draw(VALUES)
    return said


UNEXPECTED = [b"\\", b'"', b"{", b"]", b"e-3", b"0", b".5", b"\\ud83d", b"\\u0061", b"\xc3"]


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
    if draw(st.integers(0, 5)) == 0:  # letters that need not be escaped
        letter = draw(st.sampled_from("aeintu4"))
        text = text.replace(letter, f"\\u{ord(letter):04{draw(st.sampled_from('xX'))}}")
    line = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 5)) == 0:  # something that was not meant
        at = draw(st.integers(0, len(line)))
        line = line[:at] + draw(st.sampled_from(UNEXPECTED)) + line[at + draw(st.integers(0, 2)) :]
    return line


def with_fields(fields: bytes) -> bytes:
    return encode(call(1))[:-1] + b"," + fields + b"}"


@settings(max_examples=400)
@given(st.lists(st.lists(lines(), max_size=5).map(b"\n".join), min_size=1, max_size=3))
@example([b"", b"\n\n", b" \n" + encode(call(1)), encode(call(2)) + b"\n"])
@example(
    [
        with_fields(b'"prefix_hashes":[1,2],"provider_usage":{"prompt_tokens":1}'),
        with_fields(b'"prefix_hashes":[3,-1],"provider_usage":{"prompt_tokens":1}'),
        with_fields(b'"prefix_hashes":[4]],"provider_usage":{"prompt_tokens":1}'),
        with_fields(b'"prefix_hashes":[5,6,7]'),
        with_fields(b'"prefix_hashes":[],"tool_requests":{"a":1.5}'),
        with_fields(b'"tool_requests":{"a":}'),
        with_fields(
            b'"tool_requests":{"a":1},"cache_read_tokens":5,"provider_usage":{"completion_tokens":2}'
        ),
        with_fields(b'"tool_requests":{"a":1},"input_tokens":5,"provider_usage":{"prompt_tokens":2}'),
        with_fields(b'"tool_requests":{"a":1},"provider_usage":{"prompt_tokens":1,"completion_tokens":-2}'),
    ]
)
@example([with_fields(b'"input_text":"' + b"\\n" * 262_144 + b'"')])
@example([with_fields(b'"input_text":"' + b"\\n" * 262_145 + b'"')])
@example([with_fields(b'"input_text":"","output_text":null'), with_fields(b'"output_text":"\\ud83d\\ude00"')])
def test_columns_say_what_decoding_line_by_line_says(values: list[bytes]) -> None:
    same(values)


@given(st.integers(0, 2**63 - 1) | st.integers(10**15, 10**18))
@example(45_035_996_273_704_965)  # with 1 for the power, in the middle between two doubles
def test_long_decimals_are_read_to_the_last_bit_or_not_at_all(number: int) -> None:
    for power in range(61):
        assert scan._fraction(number, power) in (-1.0, number / 10**power)
    assert scan._fraction(45_035_996_273_704_965, 1) == -1.0


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
        pytest.param(PLAIN, id="ours"),
        pytest.param(json.dumps(json.loads(PLAIN)).encode(), id="spaces"),
        pytest.param(json.dumps(json.loads(PLAIN), sort_keys=True).encode(), id="sorted"),
        *(
            pytest.param(PLAIN.replace(old, new), id=name)
            for name, old, new in (
                ("utf-8", b"gpt-4o", "größe".encode()),
                ("escapes", b"gpt-4o", b"gr\\u00f6\\u00dfe \\ud83d\\uDE00 \\n"),
                ("longest", b"gpt-4o", b"\\n\\u00f6" * 128),
                ("newer", b'"model"', b'"new_field":"x","model"'),
                ("null", b'"seq":3', b'"seq":null'),
                ("prompt", b'"model"', b'"input_text":"a\\nprompt","output_text":"","model"'),
                ("hashes", b'"model"', b'"prefix_hashes":[9223372036854775807, 1],"model"'),
                ("usage", b'"model"', b'"provider_usage":{"a": [{"b": -1e5}]},"model"'),
                ("tools", b'"model"', b'"tool_requests":{"a":1},"model"'),
                ("unrounded", b'"ttft_ms":1.25', b'"ttft_ms":523.45719900913543'),
                ("small", b'"ttft_ms":1.25', b'"ttft_ms":0.00016999999999999999'),
                ("exponent", b'"ttft_ms":1.25', b'"ttft_ms":2.25e-05'),
            )
        ),
    ],
)
def test_what_senders_usually_write_is_scanned(line: bytes) -> None:
    """Or the fast way would not be taken, and nothing else would show it."""
    assert isinstance(decode_line(line), CallEvent)
    assert scanned(line) == scan.EVENT


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"model"', b'"mod\\u0065l"'),
        (b'"model"', b'"ten\\u0061nt":"t","model"'),
        (b"gpt-4o", b"\\n" * 257),
        (b"gpt-4o", b"gpt\\ud83d"),
        (b"gpt-4o", b"gpt\\ud83d\\u0020"),
        (b"gpt-4o", b"gpt\\ude00"),
        (b"gpt-4o", b"gpt\\u12g4"),
        (b"gpt-4o", b"gpt\\x"),
        (b'"complete"', b'"c\\u006fmplete"'),
        (b'"kind":"call"', b'"kind" :"call"'),
        (b'"kind":"call"', b'"new":"call"'),
        (b'"kind":"call",', b'"output_tokens_so_far":1,"kind":"call",'),
        (b'"model"', b'"prefix_hashes":[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]],"model"'),
        (b'"model"', b'"prefix_hashes":1,"model"'),
        (b'"seq":3', b'"seq":3.0'),
        (b'"seq":3', b'"seq":03'),
        (b'"seq":3', b'"seq":-3'),
        (b'"ttft_ms":1.25', b'"ttft_ms":1.25e3'),
        (b'"ttft_ms":1.25', b'"ttft_ms":1.25e'),
        (b'"ttft_ms":1.25', b'"ttft_ms":1.25e-'),
        (b'"ttft_ms":1.25', b'"ttft_ms":1.25e-61'),
        (b'"ttft_ms":1.25', b'"ttft_ms":1.25e-9999999999999999999999'),
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
