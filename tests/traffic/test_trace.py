from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from gatewatch.events import Call, Event, Feedback, Reject, Request, decode_line, encode
from traffic.trace import FORMATS, Skip, Timed, Trace, TraceError, UnknownFormatError

GOOD_LINES = {
    "azure": b"2023-11-16 18:15:46.6805900,374,44",
    "mooncake": b'{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}',
    "ragpulse": b'{"timestamp": "82", "input_length": 3112, "output_length": 192, "hash_ids": '
    b'{"sys_prompt": [1, 2], "passages_ids": [3], "history": [4], "web_search": [], "user_input": [5]}, '
    b'"session_id": "1757476916095-afhw"}',
    "coding-agent": b'{"session_id": "s-1", "turn_index": 3, "model_id": "claude-opus-4-7", '
    b'"input_tokens": 32701, "output_tokens": 161, "request_arrival_delta_s": 10.0, "api_time_s": 6.6, '
    b'"ttft_s": 5.0, "request_type": "s"}',
    "tensorzero": b'{"id": "01965ac6-bd5a-7260-b680-85ac6566ee63", "function_name": "write_haiku", '
    b'"variant_name": "initial_prompt_gpt4o_mini", "episode_id": "e-1", "processing_time_ms": 7105, '
    b'"input": "{\\"messages\\":[{\\"role\\":\\"user\\",\\"content\\":\\"abc\\"}]}", "output": "[]"}',
    "ndjson": b'{"kind":"request","at_ms":1000,"started_at_ms":1000,"gateway":"g","call_id":"c",'
    b'"provider":"p","model":"m"}',
}

BAD_LINES = {
    "azure": [
        b"2023-11-16 18:15:46,374",
        b"yesterday,1,2",
        b"2023-11-16 18:15:46,-1,2",
        b"2023-11-16 18:15:46,1.5,2",
        b"2023-11-16 18:15:46,1,99999999999",
        b"\xff\xfe,1,2",
    ],
    "mooncake": [
        b"{",
        b"[]",
        b'{"timestamp": 1, "input_length": 2}',
        b'{"timestamp": -1, "input_length": 2, "output_length": 3}',
        b'{"timestamp": 1, "input_length": -2, "output_length": 3}',
        b'{"timestamp": 1, "input_length": 2, "output_length": 3, "hash_ids": [-1]}',
        b'{"timestamp": 1, "input_length": "\xff", "output_length": 3}',
    ],
    "ragpulse": [
        b'{"timestamp": "noon", "input_length": 1, "output_length": 1, "hash_ids": {}, "session_id": ""}',
        b'{"timestamp": "nan", "input_length": 1, "output_length": 1, "hash_ids": {}, "session_id": ""}',
        b'{"timestamp": "1", "input_length": 1, "output_length": 1, "hash_ids": []}',
    ],
    "coding-agent": [
        GOOD_LINES["coding-agent"].replace(b"6.6", b"-6.6"),
        GOOD_LINES["coding-agent"].replace(b'"ttft_s": 5.0', b'"ttft_s": 7.0'),
        GOOD_LINES["coding-agent"].replace(b'"s-1"', b'""'),
    ],
    "tensorzero": [
        b"{}",
        GOOD_LINES["tensorzero"].replace(b"-7260-", b"-4260-"),
        GOOD_LINES["tensorzero"].replace(b"7105", b"-1"),
        GOOD_LINES["tensorzero"].replace(b"{\\", b"\\"),
        b'{"id": "01965ac6-bd5a-7260-b680-85ac6566ee63", "target_id": "", "value": true}',
        b'{"long_cache_key": "k", "timestamp": "2025-12-10 21:58:39", "raw_response": "{}"}',
        b'{"long_cache_key": "k", "timestamp": "2025-12-10 21:58:39", "raw_response": '
        b'"{\\"model\\": \\"gpt-4o\\", \\"usage\\": {\\"prompt_tokens\\": -1, \\"completion_tokens\\": 1}}"}',
    ],
    "ndjson": [b"secret words", GOOD_LINES["ndjson"][:-1], GOOD_LINES["ndjson"].replace(b"request", b"span")],
}


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def read(name: str, *paths: Path | str, **options: Any) -> tuple[list[Timed], list[Skip], Trace]:
    skips: list[Skip] = []
    trace = Trace(name, paths, run="run", on_skip=skips.append, **options)
    return list(trace), skips, trace


def events(items: list[Timed]) -> list[Event]:
    assert all(not isinstance(item.payload, bytes) for item in items)
    return [item.payload for item in items if not isinstance(item.payload, bytes)]


def event_of(name: str, tmp_path: Path, **options: Any) -> Event:
    items, skips, _ = read(name, write(tmp_path / "trace.jsonl", GOOD_LINES[name]), **options)
    assert not skips
    (event,) = events(items)
    return event


@pytest.mark.parametrize("name", FORMATS)
def test_a_good_line_becomes_a_valid_event(name: str, tmp_path: Path) -> None:
    assert not isinstance(decode_line(encode(event_of(name, tmp_path))), Reject)


@pytest.mark.parametrize(("name", "bad"), [(name, bad) for name, lines in BAD_LINES.items() for bad in lines])
def test_a_bad_line_costs_that_line_and_says_where_and_why(name: str, bad: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "trace", GOOD_LINES[name], bad, GOOD_LINES[name])
    items, skips, trace = read(name, path)
    assert len(items) == 2
    assert [(skip.path, skip.line) for skip in skips] == [(str(path), 2)]
    assert skips[0].reason
    assert (trace.lines_total, trace.skipped_total) == (3, 1)


@pytest.mark.parametrize("name", FORMATS)
def test_a_reason_never_quotes_the_line(name: str, tmp_path: Path) -> None:
    secret = b"sk-hush"
    lines = [
        GOOD_LINES[name].replace(value, secret) for value in (b"374", b"6955", b"3112", b"32701", b"7105")
    ]
    lines += [b'{"timestamp": "sk-hush", "kind": "sk-hush", "id": "sk-hush", "target_id": "sk-hush"}']
    lines += [line.replace(b"request", secret) for line in lines]
    _, skips, _ = read(name, write(tmp_path / "trace", *lines))
    assert skips
    assert not any("hush" in skip.reason for skip in skips)


@pytest.mark.parametrize("name", FORMATS)
def test_readers_are_total(name: str, tmp_path: Path) -> None:
    good = GOOD_LINES[name]
    lines = [good[:cut] for cut in range(1, len(good))]
    lines += [good[:cut] + b"\xff" + good[cut + 1 :] for cut in range(len(good))]
    lines += [b"[" * 100_000, b'{"a":' * 5000]
    items, skips, trace = read(name, write(tmp_path / "trace", *lines))
    assert len(items) + len(skips) == trace.lines_total
    for event in events(items):
        assert not isinstance(decode_line(encode(event)), Reject)


def test_gzip_is_read_by_content_and_headers_and_blank_lines_are_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "packed"
    path.write_bytes(
        gzip.compress(b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n\r\n" + GOOD_LINES["azure"] + b"\r\n")
    )
    items, skips, trace = read("azure", path)
    assert (len(items), skips, trace.lines_total) == (1, [], 1)


def test_a_damaged_file_ends_the_trace_with_a_reason(tmp_path: Path) -> None:
    packed = gzip.compress(b"\n".join([GOOD_LINES["mooncake"]] * 20_000))
    path = tmp_path / "trace.gz"
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(TraceError, match="cannot be read further"):
        read("mooncake", path)
    with pytest.raises(TraceError, match="No such file"):
        read("mooncake", tmp_path / "none")


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(UnknownFormatError, match="known are azure"):
        Trace("csv", [], run="run")
    with pytest.raises(UnknownFormatError, match="only ndjson"):
        Trace("azure", [], run="run", raw=True)


def test_azure_rows_are_calls_of_unknown_speed(tmp_path: Path) -> None:
    event = event_of("azure", tmp_path)
    assert isinstance(event, Call)
    assert event.at_ms == event.started_at_ms == 1_700_158_546_681
    assert (event.input_tokens, event.output_tokens, event.usage_source) == (374, 44, "provider")
    assert (event.total_ms, event.ttft_ms, event.status_code, event.stream) == (None, None, None, None)
    assert event.tags == {"trace": "azure"}


def test_mooncake_rows_keep_their_prefixes(tmp_path: Path) -> None:
    event = event_of("mooncake", tmp_path)
    assert isinstance(event, Call)
    assert (event.at_ms, event.prefix_hashes, event.cache_read_tokens) == (27_482, [46, 47], None)


def test_ragpulse_rows_keep_session_and_blocks(tmp_path: Path) -> None:
    event = event_of("ragpulse", tmp_path)
    assert isinstance(event, Call)
    assert (event.at_ms, event.conversation_id) == (82_000, "1757476916095-afhw")
    assert event.prefix_hashes == [1, 2, 3, 4, 5]


def test_coding_agent_rows_are_told_at_their_end_with_their_times(tmp_path: Path) -> None:
    event = event_of("coding-agent", tmp_path)
    assert isinstance(event, Call)
    assert (event.started_at_ms, event.at_ms) == (10_000, 16_600)
    assert (event.total_ms, event.ttft_ms, event.stream) == (6600, 5000, True)
    assert event.tpot_ms == pytest.approx(1600 / 160)


def test_tensorzero_rows_send_texts_only_when_asked(tmp_path: Path) -> None:
    event = event_of("tensorzero", tmp_path)
    assert isinstance(event, Call)
    assert (event.input_text, event.output_text, event.input_chars, event.message_count) == (None, None, 3, 1)
    assert (event.model, event.provider) == ("gpt-4o-mini-2024-07-18", "openai")
    assert (event.total_ms, event.at_ms - event.started_at_ms) == (7105, 7105)
    asked = event_of("tensorzero", tmp_path, texts=True)
    assert isinstance(asked, Call)
    assert asked.input_text == "abc"


def test_what_is_made_up_depends_on_the_line_only(tmp_path: Path) -> None:
    path = write(tmp_path / "trace", *[GOOD_LINES["azure"]] * 200)
    first, second = (events(read("azure", path)[0]) for _ in range(2))
    assert first == second
    calls = [event for event in first if isinstance(event, Call)]
    assert len({call.call_id for call in calls}) == 200
    assert len({call.tenant for call in calls}) > 10
    assert all(call.key_alias.startswith(f"key-{call.tenant[-2:]}-") for call in calls)


def test_files_are_merged_by_time(tmp_path: Path) -> None:
    rows = [GOOD_LINES["mooncake"].replace(b"27482", str(at).encode()) for at in range(10)]
    items, _, _ = read("mooncake", write(tmp_path / "a", *rows[::2]), write(tmp_path / "b", *rows[1::2]))
    assert [item.offset_s for item in items] == [at / 1000 for at in range(10)]
    assert len({event.call_id for event in events(items) if isinstance(event, Call)}) == 10


def test_ragpulse_is_sorted_because_its_file_is_two_passes(tmp_path: Path) -> None:
    rows = [GOOD_LINES["ragpulse"].replace(b'"82"', b'"%d"' % at) for at in (5, 9, 1, 7)]
    items, _, _ = read("ragpulse", write(tmp_path / "a", *rows))
    assert [item.offset_s for item in items] == [1, 5, 7, 9]


def test_ndjson_events_lose_their_numbers(tmp_path: Path) -> None:
    line = GOOD_LINES["ndjson"][:-1] + b',"emitter_id":"e","seq":7}'
    items, _, _ = read("ndjson", write(tmp_path / "a", line))
    (event,) = events(items)
    assert isinstance(event, Request)
    assert (event.emitter_id, event.seq, event.call_id) == ("", None, "c")


def test_raw_ndjson_is_every_line_byte_for_byte(tmp_path: Path) -> None:
    lines = [b"not json\r", GOOD_LINES["ndjson"], b"\xff", b' {"kind": "span"} ']
    items, skips, _ = read("ndjson", write(tmp_path / "a", *lines), raw=True)
    assert [item.payload for item in items] == lines
    assert [item.offset_s for item in items] == [0, 1, 1, 1]
    assert not skips


TRACES: dict[str, tuple[str, str, int, int, int, int]] = {
    # The counts and sums that the traces' own READMEs state, and those recomputed with csv and json alone.
    "azure conv": (
        "azure",
        "azure_llm_2023/AzureLLMInferenceTrace_conv.csv.gz",
        19_366,
        0,
        22_361_870,
        4_088_665,
    ),
    "azure code": ("azure", "azure_llm_2023/AzureLLMInferenceTrace_code.csv", 8_819, 0, 18_059_974, 245_896),
    "mooncake": (
        "mooncake",
        "mooncake_fast25/conversation_trace.jsonl.gz",
        12_031,
        0,
        144_793_823,
        4_122_048,
    ),
    "mooncake synthetic": (
        "mooncake",
        "mooncake_fast25/synthetic_trace.jsonl.gz",
        3_993,
        0,
        61_194_628,
        595_432,
    ),
    "ragpulse": ("ragpulse", "ragpulse/data/0_trace.jsonl.gz", 7_106, 0, 20_917_099, 2_012_676),
    "coding agent": (
        "coding-agent",
        "cc_traces_semianalysis/normalized_sample.jsonl.gz",
        5_000,
        0,
        1_262_069_076,
        3_244_702,
    ),
    "tensorzero": ("tensorzero", "tensorzero_gateway/chat_inference_examples.jsonl.gz", 1_580, 0, 0, 0),
    "tensorzero boolean": (
        "tensorzero",
        "tensorzero_gateway/boolean_metric_feedback_examples.jsonl.gz",
        2_483,
        0,
        0,
        0,
    ),
    # One row has a UUIDv6, which TensorZero's loader made and which has no time that we read.
    "tensorzero float": (
        "tensorzero",
        "tensorzero_gateway/float_metric_feedback_examples.jsonl",
        1_545,
        1,
        0,
        0,
    ),
    "tensorzero comment": ("tensorzero", "tensorzero_gateway/comment_feedback_examples.jsonl", 27, 0, 0, 0),
    "tensorzero cache": (
        "tensorzero",
        "tensorzero_gateway/model_inference_cache_e2e.jsonl",
        101,
        0,
        85_312,
        3_253,
    ),
}


@pytest.mark.parametrize("case", TRACES)
def test_published_traces_are_read_whole(case: str, shared_data: Path) -> None:
    name, file, count, skipped, input_tokens, output_tokens = TRACES[case]
    items, skips, trace = read(name, shared_data / "traces" / file)
    assert (len(items), len(skips), trace.lines_total) == (count, skipped, count + skipped)
    calls = [event for event in events(items) if isinstance(event, Call)]
    assert sum(call.input_tokens or 0 for call in calls) == input_tokens
    assert sum(call.output_tokens or 0 for call in calls) == output_tokens
    assert len({call.call_id for call in calls}) == len(calls)
    assert [item.offset_s for item in items] == sorted(item.offset_s for item in items)
    for event in events(items):
        assert not isinstance(decode_line(encode(event)), Reject)


def test_coding_agent_times_are_the_traces_own(shared_data: Path) -> None:
    path = shared_data / "traces/cc_traces_semianalysis/normalized_sample.jsonl.gz"
    calls = [event for event in events(read("coding-agent", path)[0]) if isinstance(event, Call)]
    assert sum(call.total_ms or 0 for call in calls) == pytest.approx(55_119_251)
    assert sum(call.ttft_ms is None for call in calls) == 23
    assert {call.model for call in calls} == {"claude-opus-4-7", "claude-opus-4-6", "claude-sonnet-4-6"}


def test_tensorzero_feedback_finds_its_calls(shared_data: Path) -> None:
    folder = shared_data / "traces/tensorzero_gateway"
    items, _, _ = read(
        "tensorzero",
        folder / "chat_inference_examples.jsonl.gz",
        folder / "boolean_metric_feedback_examples.jsonl.gz",
    )
    calls = {event.call_id: event for event in events(items) if isinstance(event, Call)}
    episodes = {call.conversation_id for call in calls.values()}
    judged = [event for event in events(items) if isinstance(event, Feedback)]
    assert sum(event.call_id in calls for event in judged) == 1111
    assert sum(event.call_id in episodes for event in judged) == 99
    assert {event.score for event in judged} == {0.0, 1.0}
    models = {call.model for call in calls.values() if call.deployment.startswith("write_haiku")}
    assert models == {"gpt-4o-mini-2024-07-18", "claude-3-5-haiku-20241022"}


def test_standard_input_is_a_file_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with write(tmp_path / "stdin", GOOD_LINES["ndjson"], b"bad").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        items, skips, _ = read("ndjson", "-")
    assert len(items) == 1
    assert str(skips[0]).startswith("-:2: invalid_json")
