"""Bad input through the real lane and the real engine: nothing raises, nothing is lost, all is listed."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from typing import Final

import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gatewatch.events import LIMITS, Reject, decode_record, encode
from signals.lane import Lane, LaneRows, Rules
from sinks.clickhouse import Sink
from sinks.dead_letter import DeadLetterFilter, Place, find_letters, read_values
from sinks.row import blocks
from sinks.schema import STORE
from tests.event import T0_MS, call, record

MARKER: Final = "sk-marker-of-a-secret"
SOURCE: Final = 7
YEAR_1970_MS: Final = 86_400_000
YEAR_2300_MS: Final = 10_413_792_000_000

Mutation = Callable[[bytes, random.Random], bytes]


def _flip(line: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(line))
    return line[:at] + bytes([line[at] ^ (1 << draw.randrange(8))]) + line[at + 1 :]


def _swap_type(line: bytes, draw: random.Random) -> bytes:
    fields = json.loads(line)
    name = draw.choice(sorted(fields))
    fields[name] = draw.choice([None, [], {}, [MARKER], {MARKER: MARKER}, MARKER, "", 0.5, -1, 10**30, True])
    return json.dumps(fields).encode()


def _number(line: bytes, draw: random.Random) -> bytes:
    number = draw.choice(
        ["NaN", "Infinity", "-Infinity", "1e400", "-1", "9" * 400, "1E5", "0x10", "1_000", "-0"]
    )
    return line.replace(b'"total_ms":500.0', f'"total_ms":{number}'.encode())


def _nested(line: bytes, draw: random.Random) -> bytes:
    deep = draw.choice([50, 2_000, 100_000])
    open_, close = draw.choice([("[", "]"), ('{"a":', "}")])
    inner = open_ * deep + "1" + close * deep
    return line[:-1] + f',"{draw.choice(["provider_usage", "unknown", "tags"])}":{inner}}}'.encode()


def _usage(line: bytes, draw: random.Random) -> bytes:
    usage = draw.choice(
        [
            {"prompt_tokens": -5, "completion_tokens": 1},
            {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 3},
            {"input_tokens": MARKER, "output_tokens": [MARKER]},
            {"prompt_tokens": 1e300, "completion_tokens": 2},
            {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 9}},
            {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": MARKER},
            {"usageMetadata": MARKER},
            {MARKER: MARKER},
            {},
        ]
    )
    return json.dumps(json.loads(line) | {"provider_usage": usage}).encode()


def _year(line: bytes, draw: random.Random) -> bytes:
    at_ms = draw.choice([0, YEAR_1970_MS, YEAR_2300_MS, 9_223_372_036_854, 9_223_372_036_855])
    return json.dumps(json.loads(line) | {draw.choice(["at_ms", "started_at_ms"]): at_ms}).encode()


MUTATIONS: Final[dict[str, Mutation]] = {
    "bits flipped": _flip,
    "cut off": lambda line, draw: line[: draw.randrange(len(line))],
    "twice on a line": lambda line, draw: line + draw.choice([b"", b" ", b","]) + line,
    "over two lines": lambda line, draw: line.replace(b",", b",\n", draw.randrange(1, 4)),
    "pretty": lambda line, draw: json.dumps(json.loads(line), indent=draw.randrange(3)).encode(),
    "of another type": _swap_type,
    "absurd numbers": _number,
    "nested": _nested,
    "contradictory usage": _usage,
    "impossible years": _year,
    "huge text": lambda line, draw: (
        line[:-1] + b',"input_text":"' + b"x" * draw.choice([70_000, 300_000]) + b'"}'
    ),
    "half a surrogate": lambda line, draw: line.replace(
        b"eu-1", draw.choice([b"\\ud800", b"\\udfff", b"\xed\xa0\x80"])
    ),
    "control characters": lambda line, draw: line.replace(
        b"eu-1", draw.choice([b"\\u0000", b"\x00", b"\x1b[2J"])
    ),
    "not UTF-8": lambda line, draw: line.replace(
        b"eu-1", draw.choice([b"\xff", b"\xc0\xaf", b"\xf5\x80\x80\x80"])
    ),
    "byte order mark": lambda line, draw: draw.choice([b"\xef\xbb\xbf", b"\xff\xfe"]) + line,
    "windows line end": lambda line, draw: line + b"\r",
    "unknown kind": lambda line, draw: line.replace(b'"kind":"call"', f'"kind":"{MARKER}"'.encode()),
    "another version": lambda line, draw: line[:-1] + b',"v":' + draw.choice([b"2", b"0", b'"x"']) + b"}",
    "blank": lambda line, draw: draw.choice([b"", b" ", b"\t\r", b"\n\n"]),
    "binary": lambda line, draw: draw.randbytes(draw.randrange(1, 80)),
    "valid": lambda line, draw: line,
}


@st.composite
def topics(draw: st.DrawFn) -> list[bytes]:
    """Records in which valid lines stand among mutated ones, in any order."""
    number = itertools.count()
    lines: list[bytes] = []
    for name in draw(st.lists(st.sampled_from(sorted(MUTATIONS)), min_size=1, max_size=25)):
        whole = encode(call(next(number), conversation_id=MARKER, team=MARKER))
        lines.append(MUTATIONS[name](whole, draw(st.randoms(use_true_random=False))))
        if draw(st.booleans()):
            lines.append(encode(call(next(number), conversation_id="untouched")))
    cuts = sorted(draw(st.lists(st.integers(0, len(lines)), max_size=6)))
    return [record(*lines[a:b]) for a, b in itertools.pairwise([0, *cuts, len(lines)])]


def fed(values: list[bytes]) -> LaneRows:
    """Rows of records that were appended shortly after their events happened."""
    lane = Lane(SOURCE, 0, Rules(chunk_records=5))
    for offset, value in enumerate(values):
        lane.feed(offset, T0_MS + 1000, value)
    rows = lane.flush()
    assert rows is not None
    return rows


def stored(sink: Sink, rows: LaneRows) -> None:
    for table in ("rejects", "calls", "chunks", "texts"):
        sink.command(f"TRUNCATE TABLE {STORE}.{table}")
    for name, table in blocks([rows]).items():
        sink.insert(f"{STORE}.{name}", table)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(topics())
@example([b"", b"\n", b" \r\n"])
@example([record(b"{", b"}", encode(call(1)), b"\xff")])
def test_every_line_is_counted_or_listed_and_no_reason_tells_a_value(sink: Sink, values: list[bytes]) -> None:
    rows = fed(values)
    lines = [line for value in values for line in value.split(b"\n") if line.strip()]
    empty = [offset for offset, value in enumerate(values) if not value.strip()]
    assert rows.events + rows.rejected == len(lines) + len(empty)

    stored(sink, rows)
    letters = find_letters(sink, DeadLetterFilter())
    assert len(letters) == rows.rejected == len(rows.dead_letters)
    sent = read_values(sink, [letter.place for letter in letters])
    for letter in letters:
        assert MARKER not in letter.reason + letter.detail
        assert letter.reason and letter.detail
        at = [line for line in values[letter.place.offset].split(b"\n") if line.strip()]
        line = at[letter.place.line] if at else values[letter.place.offset]
        assert letter.size == len(line)
        assert sent[letter.place] == line[:65_536]

    untouched = sum(line.count(b'"untouched"') for line in lines)
    counted = sink.rows("SELECT count() FROM gatewatch.calls WHERE conversation_id = 'untouched'")
    assert counted[0][0] == untouched
    totals = sink.rows("SELECT sum(events), sum(rejects) FROM gatewatch.delivery")
    assert tuple(totals[0]) == (rows.events, rows.rejected)


@settings(max_examples=150)
@given(topics())
def test_a_lane_agrees_with_decoding_line_by_line(values: list[bytes]) -> None:
    rows = fed(values)
    refused_later = {"event_too_old", "event_in_future", "invalid_usage"}
    undecodable = [
        (offset, line, found.reason)
        for offset, value in enumerate(values)
        for line, found in enumerate(decode_record(value))
        if isinstance(found, Reject)
    ]
    assert undecodable == [
        (letter.offset, letter.line, letter.reason)
        for letter in sorted(rows.dead_letters, key=lambda letter: (letter.offset, letter.line))
        if letter.reason not in refused_later
    ]


def test_every_mutation_is_refused_at_least_once_and_these_are_all_the_reasons() -> None:
    """Or the fuzzing above would be of valid lines only."""
    draw = random.Random(1)
    reasons: dict[str, set[str]] = {}
    for name, mutate in MUTATIONS.items():
        for number in range(60):
            rows = fed([mutate(encode(call(number, team=MARKER)), draw)])
            reasons.setdefault(name, set()).update(letter.reason for letter in rows.dead_letters)
    harmless = {name for name, found in reasons.items() if not found}
    assert harmless == {"valid", "windows line end"}
    assert set().union(*reasons.values()) == {
        "empty_record",
        "event_in_future",
        "event_too_old",
        "invalid_event",
        "invalid_json",
        "invalid_usage",
        "invalid_utf8",
        "nested_too_deep",
        "unsupported_version",
    }


def test_a_line_of_ten_megabytes_is_listed_and_its_neighbours_are_counted(sink: Sink) -> None:
    long = encode(call(1, input_text="x"))[:-2] + b"x" * (10 << 20) + b'"}'
    rows = fed([record(encode(call(0)), long, encode(call(2)))])
    stored(sink, rows)
    (letter,) = find_letters(sink, DeadLetterFilter())
    assert (letter.place, letter.reason, letter.size) == (Place(SOURCE, 0, 1), "line_too_long", len(long))
    assert str(LIMITS.line_bytes) in letter.detail
    assert read_values(sink, [letter.place])[letter.place] == long[:65_536]
    assert sink.rows("SELECT count() FROM gatewatch.calls")[0][0] == 2


def test_years_that_cannot_be_are_listed_as_such(sink: Sink) -> None:
    times = [0, YEAR_1970_MS, YEAR_2300_MS]
    stored(sink, fed([record(*[call(at_ms, at_ms=at_ms, started_at_ms=at_ms) for at_ms in times])]))
    assert [letter.reason for letter in find_letters(sink, DeadLetterFilter())] == [
        "event_too_old",
        "event_too_old",
        "invalid_event",  # it does not even fit the contract, which ends with signed nanoseconds
    ]
    assert sink.rows("SELECT count() FROM gatewatch.calls")[0][0] == 0


def test_usage_is_read_or_refused_beside_calls_that_have_none() -> None:
    good = call(1, provider_usage={"prompt_tokens": 12, "completion_tokens": 3})
    bad = call(2, provider_usage={"prompt_tokens": -1, "completion_tokens": 3})
    rows = fed([record(call(0), good, bad)])
    assert [(letter.line, letter.reason) for letter in rows.dead_letters] == [(2, "invalid_usage")]
    (table,) = rows.calls
    assert [tokens & 0xFFFF for tokens in table["input_tokens"].to_pylist()] == [0, 12]


def test_what_is_listed_can_be_told_from_what_would_be_an_event_again(sink: Sink) -> None:
    """A refused event is kept with the bytes that it came with, down to its white space."""
    line = json.dumps(msgspec.to_builtins(call(1, at_ms=YEAR_1970_MS)) | {"kind": "call"}).encode() + b" "
    stored(sink, fed([record(encode(call(2)), line)]))
    (letter,) = find_letters(sink, DeadLetterFilter())
    assert read_values(sink, [letter.place]) == {Place(SOURCE, 0, 1): line}
