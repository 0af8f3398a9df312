"""A lane: any batches and flushes give the same rows, and every line is an event or a dead letter."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gatewatch.events import LIMITS, Feedback, Reject, Resource, Response, Token, decode_record
from signals.lane import ChunkVersion, Lane, LaneRows, Rules
from tests.event import T0_MS, call, record

RULES = Rules(chunk_records=4, series_limit=3, grace_ms=60_000)
GATEWAY = '["gateway","eu-1"]'


def fed(
    records: list[bytes | None], rules: Rules = RULES, start: int = 0, every: int = 1000
) -> list[LaneRows]:
    """Rows of records that were appended a second apart, flushed after every so many."""
    lane = Lane(1, start, rules)
    flushed = []
    for i, value in enumerate(records):
        lane.feed(start + i, T0_MS + 1000 * i, value)
        if (i + 1) % every == 0:
            flushed.append(lane.flush())
    flushed.append(lane.flush())
    return [rows for rows in flushed if rows is not None]


def aggregates(version: ChunkVersion) -> dict[str, Any]:
    return {
        family: {name: array.to_pylist() for name, array in arrays.items()}
        for family, arrays in version.families.items()
    }


def final_chunks(flushed: list[LaneRows]) -> dict[int, Any]:
    """The last version of every chunk, with everything that is stored of it."""
    return {
        version.first_offset: (
            version.last_offset,
            version.records,
            version.appended_from_ms,
            version.appended_to_ms,
            version.totals,
            version.sequences,
            aggregates(version),
        )
        for rows in flushed
        for version in rows.chunks
    }


def stored_calls(flushed: list[LaneRows]) -> list[dict[str, Any]]:
    """Rows of calls without their unknown values, in an order of their own."""
    rows = [row for lane_rows in flushed for table in lane_rows.calls for row in table.to_pylist()]
    known = [{name: value for name, value in row.items() if value not in (0, "", [])} for row in rows]
    return sorted(known, key=repr)


def dead_letters(flushed: list[LaneRows]) -> list[tuple[int, int, str, bytes]]:
    return [
        (letter.offset, letter.line, letter.reason, letter.value)
        for rows in flushed
        for letter in rows.dead_letters
    ]


def places(flushed: list[LaneRows]) -> list[tuple[int, int, Any]]:
    found = [(placed.offset, placed.line, placed.event) for rows in flushed for placed in rows.placed]
    return sorted(found, key=lambda placed: placed[:2])


def _part(kind: type[Any], **fields: Any) -> Any:
    whole = {"at_ms": T0_MS, "gateway": "eu-2", "call_id": "p", "started_at_ms": T0_MS - 9}
    return kind(**whole | {"provider": "openai", "model": "gpt-4o"} | fields)


lines = st.one_of(
    st.builds(
        lambda number, model, seq, ttft_ms: call(
            number, model=model, emitter_id="e", seq=seq, ttft_ms=ttft_ms, input_tokens=seq
        ),
        st.integers(-90_000, 5000),
        st.sampled_from("abcdef"),
        st.one_of(st.none(), st.integers(0, 9)),
        st.one_of(st.none(), st.floats(0, 1e4)),
    ),
    st.builds(
        lambda model, seq: _part(Token, model=model, ttft_ms=3.0, emitter_id="f", seq=seq),
        st.sampled_from("abcdef"),
        st.integers(0, 3),
    ),
    st.builds(lambda model: _part(Response, model=model, error_class="other"), st.sampled_from("xyz")),
    st.builds(Feedback, at_ms=st.just(T0_MS), gateway=st.just("g"), call_id=st.just("c"), name=st.just("t")),
    st.just(call(0, at_ms=T0_MS - 8 * 86_400_000, emitter_id="e", seq=4)),
    st.sampled_from([b"{", b"[]", b'{"kind":"call"}', b"\xff", b" "]),
)
records = st.lists(
    st.one_of(st.lists(lines, min_size=1, max_size=4).map(lambda some: record(*some)), st.just(b"")),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60)
@given(records, st.integers(1, 6))
def test_any_flushes_give_the_same_chunks_calls_and_dead_letters(values: list[bytes], every: int) -> None:
    whole, split = fed(list(values)), fed(list(values), every=every)
    assert final_chunks(split) == final_chunks(whole)
    assert stored_calls(split) == stored_calls(whole)
    assert dead_letters(split) == dead_letters(whole)
    assert places(split) == places(whole)


@settings(max_examples=40)
@given(records)
def test_a_chunk_depends_on_its_own_records_only(values: list[bytes]) -> None:
    """A lane that starts at a later chunk gives that chunk the same row."""
    values = (values * 12)[:12]
    whole = final_chunks(fed(list(values)))
    lane = Lane(1, 8, RULES)
    for offset in range(8, 12):
        lane.feed(offset, T0_MS + 1000 * offset, values[offset])
    rows = lane.flush()
    assert rows is not None
    assert final_chunks([rows]) == {8: whole[8]}


def test_slices_within_a_flush_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values: list[bytes | None] = [
        record(*[call(10 * i + j, model=f"m{j}") for j in range(5)]) for i in range(7)
    ]
    whole = fed(values)
    monkeypatch.setattr("signals.lane._SLICE_BYTES", 1)
    sliced = fed(values)
    assert final_chunks(sliced) == final_chunks(whole)
    assert stored_calls(sliced) == stored_calls(whole)


VALID = record(
    call(1, tags={"a": "}\n{"}, model='m"\\'),
    call(2, provider_usage={"input_tokens": 1, "output_tokens": 2}),
    Feedback(at_ms=T0_MS, gateway="eu-1", call_id="c", name="thumbs", comment="{}"),
)
PIECES = [
    *(b"", b"\n", b"{", b"}", b" ", b"\r", b"\n\n", b"}\n{", b"{}", b"}{", b'"', b"\xff", b",", b"0"),
    *(b"\x00", b"]", VALID, VALID + b"\n"),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid record with some bytes replaced by what decoders disagree about."""
    value = VALID
    for _ in range(draw(st.integers(0, 3))):
        newlines = [i for i, byte in enumerate(value) if byte == 10] or [0]
        near = draw(st.sampled_from([0, len(value), *newlines, *[i + 1 for i in newlines]]))
        start = draw(st.one_of(st.just(near), st.integers(0, len(value))))
        stop = min(len(value), start + draw(st.integers(0, 3)))
        value = value[:start] + draw(st.sampled_from(PIECES)) + value[stop:]
    return value


@settings(max_examples=600)
@given(st.lists(mutated(), min_size=1, max_size=3))
@example([VALID.replace(b"\n", b" \n")])
@example([VALID.replace(b"\n", b"")])
@example([VALID + b"\n"])
@example([VALID + b"\n\n"])
@example([b"\n" + VALID])
@example([b"{}\n{}".join([VALID, VALID])])
@example([VALID, b"", VALID])
@example([VALID[:-1], b"}" + VALID])
def test_fast_decoding_accepts_what_decoding_line_by_line_accepts(values: list[bytes]) -> None:
    rules = Rules(chunk_records=1000)
    lane = Lane(1, 0, rules)
    for offset, value in enumerate(values):
        lane.feed(offset, T0_MS, value)
    rows = lane.flush()
    assert rows is not None
    # A digit of a time may have gone: such an event is refused after decoding, by rules of its own.
    refused = {
        (letter.offset, letter.line)
        for letter in rows.dead_letters
        if letter.reason in ("event_too_old", "event_in_future", "invalid_usage")
    }
    expected = [
        (offset, line, decoded)
        for offset, value in enumerate(values)
        for line, decoded in enumerate(decode_record(value))
        if (offset, line) not in refused
    ]
    rejects = [(offset, line, d.reason) for offset, line, d in expected if isinstance(d, Reject)]
    letters = [(letter.offset, letter.line, letter.reason) for letter in rows.dead_letters]
    assert [letter for letter in letters if letter[:2] not in refused] == rejects
    assert rows.events == len(expected) - len(rejects)
    feedback = [(offset, line, d) for offset, line, d in expected if isinstance(d, Feedback)]
    assert places([rows]) == feedback
    ids = sorted(d.call_id for _, _, d in expected if hasattr(d, "call_id") and not isinstance(d, Feedback))
    assert sorted(row["call_id"] for row in stored_calls([rows])) == ids


def test_a_line_that_is_too_long_is_refused_though_it_would_decode() -> None:
    long = record(call(1, tags={str(i): "x" * 200 for i in range(6000)}))
    assert len(long) > LIMITS.line_bytes
    assert [letter[2] for letter in dead_letters(fed([record(call(2), long, call(3))]))] == ["line_too_long"]


def test_a_bad_line_costs_that_line_only_and_keeps_its_bytes() -> None:
    flushed = fed([record(call(1), b"{nonsense", call(2))])
    assert dead_letters(flushed) == [(0, 1, "invalid_json", b"{nonsense")]
    assert [row["call_id"] for row in stored_calls(flushed)] == ["call-1", "call-2"]


@pytest.mark.parametrize("value", [None, b"", b"\n", b"  \n "])
def test_a_record_without_lines_is_a_dead_letter(value: bytes | None) -> None:
    assert dead_letters(fed([value])) == [(0, 0, "empty_record", value or b"")]


@pytest.mark.parametrize(
    ("at_ms", "started_at_ms", "reason"),
    [
        (T0_MS - RULES.max_age_ms, T0_MS - RULES.max_age_ms, None),
        (T0_MS - RULES.max_age_ms - 1, T0_MS, "event_too_old"),
        (T0_MS, T0_MS - RULES.max_age_ms - 1, "event_too_old"),
        (T0_MS + RULES.max_skew_ms, T0_MS, None),
        (T0_MS + RULES.max_skew_ms + 1, T0_MS, "event_in_future"),
        (T0_MS, T0_MS + RULES.max_skew_ms + 1, "event_in_future"),
    ],
)
def test_times_are_bounded_against_the_records_append_time(
    at_ms: int, started_at_ms: int, reason: str | None
) -> None:
    flushed = fed([record(call(1, at_ms=at_ms, started_at_ms=started_at_ms, emitter_id="e", seq=0))])
    assert [letter[2] for letter in dead_letters(flushed)] == ([reason] if reason else [])
    # Refused or not, it has arrived: its number is no gap.
    assert flushed[0].chunks[0].sequences.first == [0]


def test_refused_events_name_their_line_among_good_ones() -> None:
    old = call(7, at_ms=T0_MS - 8 * 86_400_000)
    usage = call(8, provider_usage={"input_tokens": -1})
    good = Feedback(at_ms=T0_MS, gateway="eu-1", call_id="c", name="t")
    first, second = record(call(1), old, good), record(usage, call(2), good)
    flushed = fed([first, second])
    assert dead_letters(flushed) == [
        (0, 1, "event_too_old", record(old)),
        (1, 0, "invalid_usage", record(usage)),
    ]
    assert [placed[:2] for placed in places(flushed)] == [(0, 2), (1, 2)]
    assert [row["call_id"] for row in stored_calls(flushed)] == ["call-1", "call-2"]


def test_an_event_that_is_refused_twice_over_is_refused_for_its_usage() -> None:
    """A chunk's rows say the reason: whoever computes them again must give the same one."""
    both = call(7, at_ms=T0_MS - 8 * 86_400_000, provider_usage={"input_tokens": -1})
    assert dead_letters(fed([record(both)])) == [(0, 0, "invalid_usage", record(both))]


def test_lines_are_counted_before_they_are_decoded() -> None:
    """Or what waits for a flush would not count as memory that the flush will take."""
    lane = Lane(7, 0, RULES)
    for offset, value in enumerate([b"{\n" * 1000, None, b"\n{"]):
        lane.feed(offset, T0_MS, value)
    assert lane.pending_bytes
    assert lane.lines == 1001 + 1 + 2


def test_refused_events_name_their_line_beside_a_line_that_is_none() -> None:
    old = call(7, at_ms=T0_MS - 8 * 86_400_000)
    flushed = fed([record(b"{", old, call(1))])
    assert dead_letters(flushed) == [(0, 0, "invalid_json", b"{"), (0, 1, "event_too_old", record(old))]


def test_the_providers_own_usage_is_read_into_counts() -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
    (row,) = stored_calls(fed([record(call(1, provider_usage=usage, usage_source="provider"))]))
    assert row["input_tokens"] & 0xFFFF == 12
    assert row["output_tokens"] & 0xFFFF == 3


def test_counts_without_a_source_are_the_providers_whatever_else_is_in_the_batch() -> None:
    alone = fed([record(call(1, input_tokens=5))])
    mixed = fed([record(call(1, input_tokens=5), call(2, input_tokens=5, usage_source="missing"))])
    assert [row["input_tokens"] >> 48 for row in stored_calls(alone)] == [3]
    assert [row["input_tokens"] >> 48 for row in stored_calls(mixed)] == [3, 1]
    for flushed in (alone, mixed):
        assert (
            "performance_input_tokens_sum"
            in flushed[0].chunks[0].families["performance"]["signal"].to_pylist()
        )


def test_a_chunk_is_complete_at_its_last_offset_and_not_before() -> None:
    lane = Lane(1, 0, RULES)
    complete = []
    for offset in range(5):
        lane.feed(offset, T0_MS, record(call(offset)))
        rows = lane.flush()
        assert rows is not None
        complete.append(rows.complete_through)
    assert complete == [-1, -1, -1, 3, -1]


def test_a_gap_in_offsets_over_a_chunks_end_completes_it() -> None:
    lane = Lane(1, 0, RULES)
    for offset in (0, 2, 9):
        lane.feed(offset, T0_MS, record(call(offset)))
    rows = lane.flush()
    assert rows is not None
    assert rows.complete_through == 2
    assert [(v.first_offset, v.last_offset, v.records) for v in rows.chunks] == [(0, 2, 2), (8, 9, 1)]


def test_a_headless_chunk_gives_calls_and_dead_letters_and_no_aggregates() -> None:
    flushed = fed([record(call(2)), record(b"{"), record(call(4))], start=2)
    assert [version.first_offset for rows in flushed for version in rows.chunks] == [4]
    assert [row["call_id"] for row in stored_calls(flushed)] == ["call-2", "call-4"]
    assert dead_letters(flushed) == [(3, 0, "invalid_json", b"{")]
    assert flushed[-1].complete_through == 3


def test_series_limits_start_afresh_in_each_chunk() -> None:
    rules = Rules(chunk_records=2, series_limit=1)
    chunks = final_chunks(fed([record(call(i, model=f"m{i}")) for i in range(4)], rules))
    kept = [
        {s for s in chunk[-1]["performance"]["series"] if s.startswith('["model"')}
        for chunk in chunks.values()
    ]
    other = '["model","__other__","__other__"]'
    assert kept == [{'["model","openai","m0"]', other}, {'["model","openai","m2"]', other}]


def test_an_event_that_comes_twice_in_a_chunk_counts_once_and_in_two_chunks_twice() -> None:
    twice = record(call(1, emitter_id="e", seq=5))
    chunks = final_chunks(fed([twice, twice, record(call(2)), record(call(3)), twice]))
    counted = {
        first: sum(
            n
            for signal, series, n in zip(
                *(chunk[-1]["performance"][name] for name in ("signal", "series", "n")), strict=True
            )
            if signal == "performance_calls_count" and series == GATEWAY
        )
        for first, chunk in chunks.items()
    }
    assert counted == {0: 3, 4: 1}
    assert chunks[0][5].duplicates == {"e": 1}


def test_windows_that_may_have_been_closed_are_named() -> None:
    lane = Lane(1, 0, RULES)
    minute = 60_000
    lane.feed(0, T0_MS + 10 * minute, record(call(0, at_ms=T0_MS + 10 * minute)))
    first = lane.flush()
    lane.feed(
        1, T0_MS + 11 * minute, record(call(1, at_ms=T0_MS + 8 * minute), call(2, at_ms=T0_MS + 9 * minute))
    )
    lane.feed(2, T0_MS + 11 * minute, record(call(3, at_ms=T0_MS + 10 * minute)))
    second = lane.flush()
    assert first is not None and second is not None
    assert first.reopened == []
    # A minute of grace after a window's end: the ninth ended at minute 10, and it is minute 11.
    assert second.reopened == [T0_MS // 1000 + 8 * 60, T0_MS // 1000 + 9 * 60]


def test_texts_are_kept_apart_and_only_where_they_were_sent() -> None:
    asked = (call(2, input_text="a\nprompt"), call(3, output_text="an answer"), call(4, input_text=""))
    flushed = fed([record(call(1), *asked)])
    texts = [(text.call_id, text.input_text, text.output_text) for text in flushed[0].texts]
    assert texts == [("call-2", "a\nprompt", None), ("call-3", None, "an answer"), ("call-4", "", None)]


def test_resources_know_their_place() -> None:
    gpu = Resource(at_ms=T0_MS, gateway="eu-1", resource="gpu:0", gpu_utilization=0.5)
    assert places(fed([record(call(1), gpu), record(gpu)])) == [(0, 1, gpu), (1, 0, gpu)]


def test_offsets_must_grow() -> None:
    lane = Lane(1, 0, RULES)
    lane.feed(3, T0_MS, record(call(1)))
    with pytest.raises(ValueError, match="records must come in order"):
        lane.feed(3, T0_MS, record(call(1)))
    with pytest.raises(ValueError, match="records must come in order"):
        Lane(1, 8, RULES).feed(7, T0_MS, record(call(1)))


def test_a_flush_of_nothing_is_none() -> None:
    lane = Lane(1, 0, RULES)
    assert lane.flush() is None
    lane.feed(0, T0_MS, record(call(1)))
    assert lane.flush() is not None
    assert lane.flush() is None


def test_a_window_that_an_idle_lane_let_close_is_reopened_by_what_comes_later() -> None:
    window_s = 1_760_000_040
    lane = Lane(1, 0, Rules(grace_ms=60_000))
    lane.claim((window_s + 60) * 1000 + 60_000)
    lane.feed(0, window_s * 1000 + 30_000, record(call(1, at_ms=window_s * 1000 + 20_000)))
    rows = lane.flush()
    assert rows is not None
    assert rows.reopened == [window_s]


def test_records_that_were_deleted_before_they_were_read_do_not_make_a_chunk_say_less() -> None:
    lane = Lane(1, 0, Rules(chunk_records=10))
    for offset in range(3):
        lane.feed(offset, T0_MS, record(call(offset)))
    lane.lose(6)
    for offset in range(6, 12):
        lane.feed(offset, T0_MS, record(call(offset)))
    rows = lane.flush()
    assert rows is not None
    assert [(chunk.first_offset, chunk.last_offset, chunk.records) for chunk in rows.chunks] == [
        (0, 2, 3),
        (10, 11, 2),
    ]
    assert rows.complete_through == 9
    assert sum(table.num_rows for table in rows.calls) == 9


def test_a_whole_chunk_that_was_deleted_is_acknowledged_with_the_one_before() -> None:
    lane = Lane(1, 0, Rules(chunk_records=10))
    lane.feed(0, T0_MS, record(call(0)))
    lane.lose(25)
    lane.feed(25, T0_MS, record(call(25)))
    rows = lane.flush()
    assert rows is not None
    assert [chunk.first_offset for chunk in rows.chunks] == [0]
    assert rows.complete_through == 0
