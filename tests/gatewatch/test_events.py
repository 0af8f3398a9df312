"""The event contract: what is an event, what is not, and what a reason may say."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewatch.events import (
    KINDS,
    LIMITS,
    VERSION,
    Event,
    Reject,
    decode_line,
    decode_record,
    encode,
    json_schema,
    split_record,
)

SECRET = "sk-SECRET-of-somebody"
CALL: dict[str, Any] = {
    "kind": "call",
    "at_ms": 1_760_000_000_000,
    "gateway": "eu-1",
    "call_id": "c1",
    "started_at_ms": 1_759_999_999_000,
    "provider": "openai",
    "model": "gpt-4o",
}


def line(**changes: Any) -> bytes:
    """A valid call with changes; a field set to ``...`` is left out."""
    return json.dumps({name: value for name, value in (CALL | changes).items() if value is not ...}).encode()


def rejected(value: bytes) -> Reject:
    found = decode_line(value)
    assert isinstance(found, Reject)
    return found


def accepted(value: bytes) -> Event:
    found = decode_line(value)
    assert not isinstance(found, Reject), found
    return found


def full(kind: type[Event], upper: bool) -> Event:
    """An event that says everything, each field at a bound of what it may be."""
    values = {
        field.encode_name: _bound(field.type, upper)
        for field in msgspec.structs.fields(kind)
        if field.name != "v"
    }
    return msgspec.convert(values | {"kind": kind.__struct_config__.tag}, kind)


def _bound(annotation: Any, upper: bool) -> Any:
    kind = msgspec.inspect.type_info(annotation)
    while isinstance(kind, msgspec.inspect.UnionType):
        kind = next(part for part in kind.types if not isinstance(part, msgspec.inspect.NoneType))
    match kind:
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            return kind.le if upper else kind.ge
        case msgspec.inspect.StrType():
            length = kind.max_length if upper else (kind.min_length or 0)
            # Two texts of so many letters that take two bytes each would be too long for a line.
            return ("é" if (length or 0) <= 256 else "e") * (length or 0)
        case msgspec.inspect.LiteralType():
            return kind.values[-1 if upper else 0]
        case msgspec.inspect.BoolType():
            return upper
        case msgspec.inspect.ListType():
            return [1] * 3 if upper else []
        case msgspec.inspect.DictType():
            return {"a": 1 if isinstance(kind.value_type, msgspec.inspect.IntType) else "b"} if upper else {}
        case _:
            raise AssertionError(f"a field of a type that this test does not know: {kind}")


@pytest.mark.parametrize("upper", [False, True], ids=["least", "most"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_kind_survives_encoding_at_the_bounds_of_every_field(kind: type[Event], upper: bool) -> None:
    event = full(kind, upper)
    encoded = encode(event)
    assert b"\n" not in encoded
    assert decode_line(encoded) == event
    assert type(decode_line(encoded)) is kind


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_published_schema_accepts_what_is_encoded(kind: type[Event]) -> None:
    jsonschema.validate(json.loads(encode(full(kind, True))), json_schema())


def test_only_the_required_fields_are_required() -> None:
    assert encode(accepted(line())) == line().replace(b", ", b",").replace(b": ", b":")


def test_a_newer_emitters_fields_are_ignored() -> None:
    assert accepted(line(invented_later={"deep": [1]})) == accepted(line())


def test_the_last_of_a_repeated_field_counts() -> None:
    twice = line()[:-1] + b', "model": "o3"}'
    assert getattr(accepted(twice), "model") == "o3"  # noqa: B009 - an event of any kind


@pytest.mark.parametrize("version", [0, 2, -1, 1.5, "1", "2", None, 10**30, [], True])
def test_another_version_is_refused_as_that(version: Any) -> None:
    found = rejected(line(v=version))
    assert found.reason == "unsupported_version"
    assert f"is not {VERSION}" in found.detail
    assert "upgrade the worker" in found.detail


def test_this_version_may_be_said() -> None:
    assert accepted(line(v=VERSION)) == accepted(line())


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"at_ms": -1}, "$.at_ms"),
        ({"at_ms": 9_223_372_036_855}, "$.at_ms"),
        ({"at_ms": 1.5}, "$.at_ms"),
        ({"at_ms": "2026-01-31T12:00:00Z"}, "$.at_ms"),
        ({"at_ms": None}, "$.at_ms"),
        ({"gateway": ""}, "$.gateway"),
        ({"gateway": "g" * 257}, "$.gateway"),
        ({"call_id": 7}, "$.call_id"),
        ({"input_tokens": -1}, "$.input_tokens"),
        ({"input_tokens": LIMITS.token_count + 1}, "$.input_tokens"),
        ({"output_tokens": 10**40}, "$.output_tokens"),
        ({"total_ms": -0.001}, "$.total_ms"),
        ({"ttft_ms": LIMITS.duration_ms * 1.001}, "$.ttft_ms"),
        ({"output_text": "x" * (LIMITS.text_chars + 1)}, "$.output_text"),
        ({"status_code": 1000}, "$.status_code"),
        ({"tags": {"a": 1}}, "$.tags"),
        ({"tags": {"a" * 257: "b"}}, "tags"),
        ({"tool_requests": {"search": -1}}, "$.tool_requests"),
        ({"prefix_hashes": [1 << 63]}, "$.prefix_hashes"),
        ({"stream": "yes"}, "$.stream"),
        ({"reported_cost_usd": -0.01}, "$.reported_cost_usd"),
        ({"seq": 1 << 47}, "$.seq"),
        ({"model": ...}, "model"),
        ({"at_ms": ...}, "at_ms"),
    ],
)
def test_what_is_out_of_bounds_is_refused_and_the_field_named(changes: dict[str, Any], path: str) -> None:
    found = rejected(line(**changes))
    assert found.reason == "invalid_event"
    assert path in found.detail


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"\x00\x01\x02", "invalid_json"),
        (b"\xef\xbb\xbf" + line(), "invalid_json"),  # a byte order mark
        (line() + line(), "invalid_json"),
        (line() + b" x", "invalid_json"),
        (line(total_ms=float("nan")), "invalid_json"),
        (line(total_ms=float("inf")), "invalid_json"),
        (line(total_ms=float("-inf")), "invalid_json"),
        (line(call_id="\x01").replace(b"\\u0001", b"\x01"), "invalid_json"),
        (line(call_id="@").replace(b"@", b"\\ud800"), "invalid_json"),  # half of a surrogate pair
        (line(call_id="@").replace(b"@", b"\xff"), "invalid_utf8"),
        (line(call_id="@").replace(b"@", b"\xed\xa0\x80"), "invalid_utf8"),
        (line(total_ms=1).replace(b'"total_ms": 1', b'"total_ms": 1e999'), "invalid_event"),
        (b"null", "invalid_event"),
        (b"[]", "invalid_event"),
        (b"[" * 100_000, "invalid_event"),
        (b"{}", "invalid_event"),
        (line(kind="invented"), "invalid_event"),
        (line(kind=None), "invalid_event"),
        (line(kind=...), "invalid_event"),
        (b" " * (LIMITS.line_bytes + 1), "line_too_long"),
        (line(input_text="x" * (10 << 20)), "line_too_long"),
        (b'{"kind":"call","provider_usage":' + b'{"a":' * 150_000, "nested_too_deep"),
        (b'{"kind":"call","unknown":' + b"[" * 150_000, "nested_too_deep"),
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) else value,
)
def test_what_is_no_event_is_refused_for_its_reason(value: bytes, reason: str) -> None:
    assert rejected(value).reason == reason


def test_a_line_may_have_just_so_many_bytes() -> None:
    room = LIMITS.line_bytes - len(line())
    assert isinstance(decode_line(line() + b" " * room), KINDS["call"])
    assert rejected(line() + b" " * (room + 1)).reason == "line_too_long"


def test_an_unknown_kind_is_answered_with_the_known_ones() -> None:
    detail = rejected(line(kind=SECRET)).detail
    assert all(kind in detail for kind in KINDS)
    assert SECRET not in detail


@given(
    field=st.sampled_from(sorted({name for kind in KINDS.values() for name in kind.__struct_fields__})),
    kind=st.sampled_from(sorted(KINDS)),
    wrong=st.sampled_from(
        [SECRET, [SECRET], {SECRET: SECRET}, {SECRET: {SECRET: [SECRET]}}, SECRET * 20_000, None, -1, 1e300]
    ),
    cut=st.integers(0, 60),
)
def test_no_reason_quotes_the_line(field: str, kind: str, wrong: Any, cut: int) -> None:
    value = json.dumps(CALL | {"kind": kind, "input_text": SECRET, SECRET: SECRET, field: wrong}).encode()
    for sent in (
        value,
        value[: len(value) - cut],
        value.replace(b'"', b"'", cut),
        value.replace(b"SEC", b"\xff"),
    ):
        found = decode_line(sent)
        if isinstance(found, Reject):
            assert "SECRET" not in found.reason + found.detail
            assert len(found.detail) < 300


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_a_reject(value: bytes) -> None:
    found = decode_line(value)
    assert isinstance(found, (Reject, *KINDS.values()))


def test_a_bad_line_costs_that_line_only() -> None:
    found = decode_record(b"\n".join([line(call_id="a"), b"{", line(call_id="b"), b"", line(v=2), b" \r"]))
    assert [getattr(one, "call_id", getattr(one, "reason", None)) for one in found] == [
        "a",
        "invalid_json",
        "b",
        "unsupported_version",
    ]


def test_lines_may_end_as_on_windows() -> None:
    assert decode_record(line() + b"\r\n" + line() + b"\r\n") == [accepted(line())] * 2


@pytest.mark.parametrize("value", [b"", b"\n", b" \r\n\t\n"])
def test_a_record_without_lines_is_one_reject(value: bytes) -> None:
    (found,) = decode_record(value)
    assert isinstance(found, Reject)
    assert found.reason == "empty_record"


@given(st.lists(st.binary(max_size=20)))
def test_lines_are_those_that_are_not_blank(lines: list[bytes]) -> None:
    expected = [part for one in lines for part in one.split(b"\n") if part.strip()]
    assert split_record(b"\n".join(lines)) == expected
