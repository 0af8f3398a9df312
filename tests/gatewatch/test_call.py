"""One call from its start to its end: what ``emitter.call()`` measures, reads and lets through."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from gatewatch import Latency, Request, Response, Token
from gatewatch.call import CallStream
from gatewatch.testing import RecordingEmitter

EPOCH_MS = 1_760_000_000_000


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s

    def time_ns(self) -> int:
        return EPOCH_MS * 1_000_000 + round(self.now_s * 1e9)

    def pass_ms(self, ms: float) -> None:
        self.now_s += ms / 1_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("gatewatch.call.time", clock)
    return clock


@pytest.fixture
def emitter() -> RecordingEmitter:
    return RecordingEmitter(gateway="eu-1")


def chat(**delta: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "model": "gpt-4o-2024", "choices": [{"index": 0, "delta": delta}]}


ROLE = chat(role="assistant", content="")
STOP = {**chat(), "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USAGE = {
    **chat(),
    "choices": [],
    "service_tier": "default",
    "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13},
}


def objects(value: Any) -> Any:
    """The same as an SDK's objects."""
    if isinstance(value, dict):
        return SimpleNamespace(**{key: objects(item) for key, item in value.items()})
    return [objects(item) for item in value] if isinstance(value, list) else value


def timed(clock: Clock, *steps: tuple[float, Any]) -> Iterator[Any]:
    """Chunks, or exceptions, each so many milliseconds after the one before."""
    for wait_ms, chunk in steps:
        clock.pass_ms(wait_ms)
        if isinstance(chunk, BaseException):
            raise chunk
        yield chunk


async def timed_async(clock: Clock, *steps: tuple[float, Any]) -> AsyncIterator[Any]:
    for chunk in timed(clock, *steps):
        await asyncio.sleep(0)
        yield chunk


# --- whole answers --------------------------------------------------------------------------------


def test_a_finished_call_has_usage_outcome_and_time(emitter: RecordingEmitter, clock: Clock) -> None:
    answer = {
        "id": "chatcmpl-1",
        "model": "gpt-4o-2024",
        "service_tier": "default",
        "choices": [{"message": {"content": "secret answer"}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }
    with emitter.call(provider="openai", model="gpt-4o", tenant="acme", tags={"a": "b"}) as call:
        clock.pass_ms(250)
        assert call.finish(answer, status_code=200) is answer
        clock.pass_ms(1_000)  # what the gateway does afterwards is not the call's time
    (event,) = emitter.calls
    assert (event.gateway, event.provider, event.model, event.tenant) == ("eu-1", "openai", "gpt-4o", "acme")
    assert event.started_at_ms == EPOCH_MS
    assert event.total_ms == 250
    assert (event.input_tokens, event.cache_read_tokens, event.output_tokens) == (10, 4, 3)
    assert event.usage_source == "provider"
    assert (event.response_model, event.response_id) == ("gpt-4o-2024", "chatcmpl-1")
    assert (event.finish_reason, event.service_tier, event.status_code) == ("stop", "default", 200)
    assert event.error_class is None
    assert event.stream_end is None
    assert event.output_text is None
    assert event.tags == {"a": "b"}


def test_text_is_sent_only_where_asked_for(emitter: RecordingEmitter) -> None:
    answer = {"choices": [{"message": {"content": "the answer"}}]}
    with emitter.call(provider="openai", model="m") as call:
        call.finish(answer)
    with emitter.call(provider="openai", model="m", record_output=True, input_text="the prompt") as call:
        call.finish(answer)
    with emitter.call(provider="openai", model="m", record_output=True) as call:
        list(call.stream([ROLE, chat(content="the "), chat(reasoning_content="hm"), chat(content="answer")]))
    assert [(event.input_text, event.output_text) for event in emitter.calls] == [
        (None, None),
        ("the prompt", "the answer"),
        (None, "the answer"),
    ]


def test_an_answer_without_usage_says_that_it_is_missing(emitter: RecordingEmitter) -> None:
    with emitter.call(provider="openai", model="m") as call:
        call.finish({"choices": []})
    assert emitter.calls[0].usage_source == "missing"


def test_usage_that_contradicts_itself_is_missing_not_wrong(
    emitter: RecordingEmitter, caplog: pytest.LogCaptureFixture
) -> None:
    with emitter.call(provider="openai", model="m") as call:
        call.finish({"usage": {"prompt_tokens": -1, "completion_tokens": 2}})
    assert emitter.calls[0].usage_source == "missing"
    assert emitter.calls[0].input_tokens is None
    assert "usage was not counted" in caplog.text


def test_what_the_gateway_sets_wins(emitter: RecordingEmitter) -> None:
    with emitter.call(provider="openai", model="m") as call:
        call.set(input_tokens=7, usage_source="estimated", finish_reason="mine")
        call.finish(
            {"usage": {"prompt_tokens": 10, "completion_tokens": 3}, "choices": [{"finish_reason": "x"}]}
        )
        call.set(total_ms=1.5, upstream_ms=1.25)
    event = emitter.calls[0]
    assert (event.input_tokens, event.output_tokens, event.usage_source) == (7, 3, "estimated")
    assert (event.finish_reason, event.total_ms, event.upstream_ms) == ("mine", 1.5, 1.25)


def test_a_field_that_does_not_exist_is_an_error_at_once(emitter: RecordingEmitter) -> None:
    with pytest.raises(TypeError, match="no field 'tennant'"):
        emitter.call(provider="openai", model="m", tennant="acme")  # type: ignore[call-arg]
    with (
        emitter.call(provider="openai", model="m") as call,
        pytest.raises(TypeError, match="no field 'cost'"),
    ):
        call.set(cost=1)


def test_a_call_without_provider_or_model_is_still_counted(emitter: RecordingEmitter) -> None:
    with emitter.call(provider="", model=None):  # type: ignore[arg-type]
        pass
    assert (emitter.calls[0].provider, emitter.calls[0].model) == ("unknown", "unknown")


def test_a_name_too_long_for_the_contract_is_cut(emitter: RecordingEmitter) -> None:
    with emitter.call(provider="openai", model="m") as call:
        call.finish({"id": "i" * 1_000, "model": "m" * 1_000})
    assert len(emitter.calls[0].response_id) == len(emitter.calls[0].response_model) == 256


class Hostile:
    """Every look at it raises."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


ODD: dict[str, Any] = {
    "none": None,
    "number": 5,
    "text": "text",
    "bytes": b"\xff",
    "list": [],
    "wrong types": {"usage": 3, "choices": "x"},
    "hostile": Hostile(),
}


@pytest.mark.parametrize("name", ODD)
def test_an_answer_of_any_shape_passes_through(emitter: RecordingEmitter, name: str) -> None:
    answer = ODD[name]
    with emitter.call(provider="openai", model="m") as call:
        assert call.finish(answer) is answer
    with emitter.call(provider="openai", model="m", record_output=True) as call:
        assert list(call.stream([answer])) == [answer]
    assert len(emitter.calls) == 2


def test_an_answer_that_is_an_error_is_one(emitter: RecordingEmitter) -> None:
    with emitter.call(provider="openai", model="m") as call:
        call.finish({"error": {"code": "rate_limit_exceeded", "message": "slow down"}}, status_code=429)
    assert (emitter.calls[0].error_class, emitter.calls[0].status_code) == ("rate_limit", 429)


# --- exceptions -----------------------------------------------------------------------------------


class RateLimitError(Exception):
    status_code = 429


class WithResponse(Exception):
    response = SimpleNamespace(status_code=503)


@pytest.mark.parametrize(
    ("error", "error_class", "error_type", "status_code"),
    [
        (ValueError("the prompt: secret"), "other", "ValueError", None),
        (RateLimitError(), "rate_limit", "RateLimitError", 429),
        (WithResponse(), "overload", "WithResponse", 503),
        (TimeoutError(), "timeout", "TimeoutError", None),
        (GeneratorExit(), "cancelled", "GeneratorExit", None),
        (asyncio.CancelledError(), "cancelled", "CancelledError", None),
    ],
)
def test_an_exception_is_recorded_and_passes_unchanged(
    emitter: RecordingEmitter,
    error: BaseException,
    error_class: str,
    error_type: str,
    status_code: int | None,
) -> None:
    with pytest.raises(type(error)) as raised, emitter.call(provider="openai", model="m"):
        raise error
    assert raised.value is error
    assert error.__context__ is None
    (event,) = emitter.calls
    assert (event.error_class, event.error_type, event.status_code) == (error_class, error_type, status_code)
    assert "secret" not in str(event)


def test_a_failure_that_was_handled_is_told(emitter: RecordingEmitter) -> None:
    with emitter.call(provider="anthropic", model="m") as call:
        call.fail(
            status_code=529, body={"type": "error", "error": {"type": "overloaded_error", "message": "x"}}
        )
    assert (emitter.calls[0].error_class, emitter.calls[0].status_code) == ("overload", 529)


def test_a_second_try_within_the_block_is_what_counts(emitter: RecordingEmitter, clock: Clock) -> None:
    with emitter.call(provider="openai", model="m") as call:
        with pytest.raises(ConnectionError):
            list(call.stream(timed(clock, (5, chat(content="a")), (5, ConnectionError()))))
        call.set(attempt=1)
        list(call.stream(timed(clock, (10, chat(content="a")), (5, STOP), (0, USAGE))))
    (event,) = emitter.calls
    assert (event.stream_end, event.error_class, event.error_type, event.attempt) == ("complete", None, "", 1)
    assert event.ttft_ms == 20  # from the start of the call: the client waited for both


# --- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [dict, objects])
def test_a_stream_is_measured_from_its_tokens(
    emitter: RecordingEmitter, clock: Clock, shape: Callable[[Any], Any]
) -> None:
    steps = [
        (100, ROLE),
        (200, chat(reasoning_content="hm")),
        (50, chat(content="a")),
        (80, chat(content="b")),
        (10, STOP),
        (5, USAGE),
    ]
    with emitter.call(provider="openai", model="gpt-4o") as call:
        chunks = [shape(chunk) for _, chunk in steps]
        got = list(
            call.stream(timed(clock, *((ms, chunk) for (ms, _), chunk in zip(steps, chunks, strict=True))))
        )
    assert all(a is b for a, b in zip(got, chunks, strict=True))
    (event,) = emitter.calls
    assert (event.stream, event.stream_end, event.error_class) == (True, "complete", None)
    assert event.ttft_ms == 300  # the role at 100 ms is no token
    assert event.ttfat_ms == 350
    assert event.max_gap_ms == 80
    assert event.total_ms == 445
    assert event.tpot_ms == pytest.approx((445 - 300) / 2)
    assert (event.input_tokens, event.output_tokens, event.usage_source) == (10, 3, "provider")
    assert (event.finish_reason, event.service_tier) == ("stop", "default")
    assert (event.response_id, event.response_model) == ("chatcmpl-1", "gpt-4o-2024")


ANTHROPIC: list[tuple[dict[str, Any], bool]] = [
    (
        {
            "type": "message_start",
            "message": {
                "id": "msg_1",
                "model": "claude-x",
                "role": "assistant",
                "usage": {"input_tokens": 5, "cache_read_input_tokens": 20, "output_tokens": 1},
            },
        },
        False,
    ),
    ({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}, False),
    ({"type": "ping"}, False),
    ({"type": "content_block_delta", "delta": {"type": "signature_delta", "signature": "x"}}, False),
    ({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi"}}, True),
    ({"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{"}}, True),
    ({"type": "content_block_stop", "index": 0}, False),
    ({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}}, False),
    ({"type": "message_stop"}, False),
]
RESPONSES: list[tuple[dict[str, Any], bool]] = [
    (
        {"type": "response.created", "response": {"id": "resp_1", "model": "gpt-5", "service_tier": "auto"}},
        False,
    ),
    ({"type": "response.output_item.added", "item": {"type": "message"}}, False),
    ({"type": "response.output_text.delta", "delta": "hi"}, True),
    ({"type": "response.function_call_arguments.delta", "delta": "{"}, True),
    ({"type": "response.output_text.done", "text": "hi"}, False),
    (
        {
            "type": "response.completed",
            "response": {
                "id": "resp_1",
                "object": "response",
                "model": "gpt-5",
                "status": "completed",
                "service_tier": "default",
                "usage": {"input_tokens": 25, "output_tokens": 7, "total_tokens": 32},
            },
        },
        False,
    ),
]
GEMINI: list[tuple[dict[str, Any], bool]] = [
    (
        {
            "responseId": "g1",
            "modelVersion": "gemini-x",
            "candidates": [{"content": {"parts": [{"text": "hi"}], "role": "model"}}],
            "usageMetadata": {"promptTokenCount": 25, "totalTokenCount": 25},
        },
        True,
    ),
    (
        {
            "responseId": "g1",
            "modelVersion": "gemini-x",
            "candidates": [{"content": {"parts": [{"functionCall": {"name": "f"}}]}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 25, "candidatesTokenCount": 7, "totalTokenCount": 32},
        },
        True,
    ),
]
BEDROCK: list[tuple[dict[str, Any], bool]] = [
    ({"messageStart": {"role": "assistant"}}, False),
    ({"contentBlockDelta": {"delta": {"text": "hi"}, "contentBlockIndex": 0}}, True),
    ({"contentBlockStop": {"contentBlockIndex": 0}}, False),
    ({"messageStop": {"stopReason": "end_turn"}}, False),
    ({"metadata": {"usage": {"inputTokens": 25, "outputTokens": 7, "totalTokens": 32}}}, False),
]
OLLAMA: list[tuple[dict[str, Any], bool]] = [
    ({"model": "llama", "message": {"role": "assistant", "content": ""}, "done": False}, False),
    ({"model": "llama", "message": {"role": "assistant", "content": "hi"}, "done": False}, True),
    (
        {
            "model": "llama",
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": "stop",
            "prompt_eval_count": 25,
            "eval_count": 7,
        },
        False,
    ),
]
COHERE: list[tuple[dict[str, Any], bool]] = [
    ({"type": "message-start", "id": "c1", "delta": {"message": {"role": "assistant"}}}, False),
    ({"type": "content-start", "delta": {"message": {"content": {"type": "text", "text": ""}}}}, False),
    ({"type": "content-delta", "delta": {"message": {"content": {"text": "hi"}}}}, True),
    (
        {
            "type": "message-end",
            "delta": {
                "finish_reason": "COMPLETE",
                "usage": {
                    "billed_units": {"input_tokens": 25, "output_tokens": 7},
                    "tokens": {"input_tokens": 25, "output_tokens": 7},
                },
            },
        },
        False,
    ),
]
TOOLS: list[tuple[dict[str, Any], bool]] = [
    (ROLE, False),
    (chat(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": ""}}]), True),
    (chat(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]), True),
    (chat(refusal="no"), True),
    (STOP, False),
    ({**USAGE, "usage": {"prompt_tokens": 25, "completion_tokens": 7}}, False),
]
STREAMS: dict[str, tuple[list[tuple[dict[str, Any], bool]], str]] = {
    "anthropic": (ANTHROPIC, "end_turn"),
    "responses": (RESPONSES, "completed"),
    "gemini": (GEMINI, "STOP"),
    "bedrock": (BEDROCK, "end_turn"),
    "ollama": (OLLAMA, "stop"),
    "cohere": (COHERE, "COMPLETE"),
    "tools": (TOOLS, "stop"),
}


@pytest.mark.parametrize("shape", [dict, objects])
@pytest.mark.parametrize("name", STREAMS)
def test_every_providers_tokens_usage_and_end_are_seen(
    emitter: RecordingEmitter, clock: Clock, name: str, shape: Callable[[Any], Any]
) -> None:
    steps, finish_reason = STREAMS[name]
    with emitter.call(provider=name, model="m") as call:
        list(call.stream(timed(clock, *((100, shape(chunk)) for chunk, _ in steps))))
    (event,) = emitter.calls
    token_ms = [100 * (number + 1) for number, (_, token) in enumerate(steps) if token]
    gaps_ms = [later - earlier for earlier, later in pairwise(token_ms)]
    assert event.ttft_ms == token_ms[0]
    assert event.max_gap_ms == (max(gaps_ms) if gaps_ms else None)
    assert (event.input_tokens, event.output_tokens) == (25, 7)
    assert (event.stream_end, event.finish_reason, event.error_class) == ("complete", finish_reason, None)
    if name == "responses":
        assert event.service_tier == "default"


@pytest.mark.parametrize("how", ["close", "collect", "break", "block"])
def test_a_client_that_leaves_is_recorded_with_the_usage_so_far(
    emitter: RecordingEmitter, clock: Clock, how: str
) -> None:
    def serve() -> Iterator[Any]:
        with emitter.call(provider="anthropic", model="m") as call:
            source = timed(clock, *((10, chunk) for chunk, _ in ANTHROPIC))
            if how == "block":
                yield from call.stream(source)
            else:
                stream = call.stream(source)
                for chunk in stream:
                    yield chunk
                    if chunk["type"] == "content_block_delta":
                        break
                if how == "close":
                    stream.close()

    served = serve()
    if how == "block":
        for chunk in served:
            if chunk["type"] == "content_block_delta":
                break
        served.close()  # type: ignore[attr-defined]
    else:
        list(served)
    del served
    gc.collect()
    (event,) = emitter.calls
    assert (event.stream_end, event.error_class) == ("client_disconnect", "cancelled")
    assert (event.input_tokens, event.cache_read_tokens, event.output_tokens) == (25, 20, None)
    assert event.usage_source == "provider"


@pytest.mark.parametrize("error", [None, TimeoutError(), ConnectionError()])
def test_the_usage_of_a_stream_that_is_cut_before_it_came_is_missing(
    emitter: RecordingEmitter, error: Exception | None
) -> None:
    def source() -> Iterator[Any]:
        yield chat(content="a")
        if error is not None:
            raise error
        yield chat(content="b")

    with suppress(OSError), emitter.call(provider="openai", model="m") as call:
        stream = call.stream(source())
        next(stream)
        if error is not None:
            next(stream)
        stream.close()
    (event,) = emitter.calls
    assert event.stream_end in ("client_disconnect", "timeout", "upstream_error")
    assert event.error_class is not None
    assert (event.usage_source, event.output_tokens) == ("missing", None)


def test_a_call_that_failed_before_any_answer_misses_no_usage(emitter: RecordingEmitter) -> None:
    with emitter.call(provider="openai", model="m") as call:
        call.fail(status_code=429)
    assert (emitter.calls[0].error_class, emitter.calls[0].usage_source) == ("rate_limit", None)


def test_leaving_after_the_providers_last_word_is_no_disconnect(emitter: RecordingEmitter) -> None:
    with emitter.call(provider="openai", model="m") as call:
        for chunk in call.stream([chat(content="a"), STOP, USAGE]):
            if chunk is STOP:
                break
    gc.collect()
    assert (emitter.calls[0].stream_end, emitter.calls[0].error_class) == ("complete", None)


class ReadTimeout(Exception):
    """As HTTP clients name theirs."""


@pytest.mark.parametrize(
    ("error", "stream_end", "error_class"),
    [
        (ConnectionResetError(), "upstream_error", None),
        (RuntimeError(), "upstream_error", None),
        (TimeoutError(), "timeout", "timeout"),
        (ReadTimeout(), "timeout", "timeout"),
    ],
)
@pytest.mark.parametrize("swallowed", [False, True])
def test_a_provider_that_fails_within_a_stream_is_recorded(
    emitter: RecordingEmitter,
    clock: Clock,
    error: Exception,
    stream_end: str,
    error_class: str | None,
    swallowed: bool,
) -> None:
    def read() -> None:
        with emitter.call(provider="openai", model="m") as call:
            stream = call.stream(timed(clock, (10, chat(content="a")), (20, error)))
            if swallowed:
                with pytest.raises(type(error)):
                    list(stream)
            else:
                list(stream)

    if swallowed:
        read()
    else:
        with pytest.raises(type(error)) as raised:
            read()
        assert raised.value is error
    (event,) = emitter.calls
    assert (event.stream_end, event.error_type) == (stream_end, type(error).__name__)
    assert event.error_class is not None
    assert event.error_class == (error_class or event.error_class)
    assert (event.ttft_ms, event.total_ms) == (10, 30)


@pytest.mark.parametrize(
    ("chunk", "error_class"),
    [
        ({"type": "error", "error": {"type": "overloaded_error", "message": "secret"}}, "overload"),
        ({"error": {"code": "rate_limit_exceeded", "message": "secret"}}, "rate_limit"),
        ({"throttlingException": {"message": "secret"}}, "rate_limit"),
        (
            {"type": "response.failed", "response": {"error": {"code": "server_error", "message": "secret"}}},
            "server",
        ),
    ],
)
def test_an_error_within_a_stream_is_recorded(
    emitter: RecordingEmitter, chunk: dict[str, Any], error_class: str
) -> None:
    with emitter.call(provider="p", model="m") as call:
        list(call.stream([chat(content="a"), chunk]))
    (event,) = emitter.calls
    assert (event.stream_end, event.error_class) == ("upstream_error", error_class)
    assert "secret" not in str(event)


def test_a_client_that_cannot_be_written_to_has_left(emitter: RecordingEmitter) -> None:
    with pytest.raises(BrokenPipeError), emitter.call(provider="openai", model="m") as call:
        for _ in call.stream([chat(content="a"), chat(content="b")]):
            raise BrokenPipeError
    assert (emitter.calls[0].stream_end, emitter.calls[0].error_type) == (
        "client_disconnect",
        "BrokenPipeError",
    )


def test_a_stream_may_outlive_its_block(emitter: RecordingEmitter, clock: Clock) -> None:
    def handler() -> CallStream[Any]:
        with emitter.call(provider="openai", model="m") as call:
            return call.stream(timed(clock, (10, chat(content="a")), (10, STOP), (0, USAGE)))

    stream = handler()
    assert emitter.calls == []
    list(stream)
    del stream
    (event,) = emitter.calls
    assert (event.stream_end, event.total_ms, event.output_tokens) == ("complete", 20, 3)


def test_a_stream_keeps_the_attributes_of_its_source(emitter: RecordingEmitter) -> None:
    class Source:
        response = "headers"
        closed = False

        def __iter__(self) -> Iterator[Any]:
            return iter([STOP])

        def close(self) -> None:
            self.closed = True

    source = Source()
    with emitter.call(provider="openai", model="m") as call, call.stream(source) as stream:
        assert stream.response == "headers"
        with pytest.raises(AttributeError):
            stream.nothing  # noqa: B018
    assert source.closed


def test_a_call_can_be_split_into_its_parts_each_number_once(emitter: RecordingEmitter, clock: Clock) -> None:
    with emitter.call(provider="openai", model="m", tenant="acme", split=True, message_count=2) as call:
        list(call.stream(timed(clock, (10, ROLE), (10, chat(content="a")), (10, STOP), (0, USAGE))))
    assert [type(event) for event in emitter.events] == [Request, Token, Response, Latency]
    request, token, response, latency = emitter.events
    assert isinstance(request, Request)
    assert isinstance(token, Token)
    assert isinstance(response, Response)
    assert isinstance(latency, Latency)
    assert {event.call_id for event in (request, token, response, latency)} == {call.call_id}
    assert {event.started_at_ms for event in (request, token, response, latency)} == {EPOCH_MS}
    assert {event.tenant for event in (request, token, response, latency)} == {"acme"}
    assert request.message_count == 2
    assert (token.ttft_ms, response.ttft_ms, latency.ttft_ms) == (20, None, None)
    assert (response.total_ms, latency.total_ms) == (None, 30)
    assert (response.output_tokens, response.stream_end) == (3, "complete")


# --- asynchronous ---------------------------------------------------------------------------------


def test_an_async_stream_is_measured(emitter: RecordingEmitter, clock: Clock) -> None:
    async def main() -> None:
        async with emitter.call(provider="openai", model="m") as call:
            source = timed_async(
                clock, (10, ROLE), (10, chat(content="a")), (30, chat(content="b")), (0, USAGE)
            )
            chunks = [chunk async for chunk in call.stream(source)]
        assert chunks[0] is ROLE

    asyncio.run(main())
    (event,) = emitter.calls
    assert (event.ttft_ms, event.max_gap_ms, event.stream_end, event.output_tokens) == (20, 30, "complete", 3)


async def forever() -> AsyncIterator[Any]:
    yield chat(content="a")
    await asyncio.Event().wait()


def test_a_cancelled_task_is_a_client_that_left(emitter: RecordingEmitter) -> None:
    async def main() -> None:
        reading = asyncio.Event()

        async def serve() -> None:
            async with emitter.call(provider="openai", model="m") as call:
                async for _ in call.stream(forever()):
                    reading.set()

        task = asyncio.create_task(serve())
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    (event,) = emitter.calls
    assert (event.stream_end, event.error_class, event.error_type) == (
        "client_disconnect",
        "cancelled",
        "CancelledError",
    )


def test_a_timeout_within_the_block_is_a_timeout(emitter: RecordingEmitter) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with emitter.call(provider="openai", model="m") as call:
                async with asyncio.timeout(0.01):
                    async for _ in call.stream(forever()):
                        pass

    asyncio.run(main())
    (event,) = emitter.calls
    assert (event.stream_end, event.error_class, event.error_type) == ("timeout", "timeout", "TimeoutError")


def test_an_async_provider_that_fails_is_recorded(emitter: RecordingEmitter, clock: Clock) -> None:
    async def main() -> None:
        async with emitter.call(provider="openai", model="m") as call:
            async for _ in call.stream(timed_async(clock, (1, chat(content="a")), (1, ConnectionError()))):
                pass

    with pytest.raises(ConnectionError):
        asyncio.run(main())
    assert emitter.calls[0].stream_end == "upstream_error"


@pytest.mark.parametrize("how", ["aclose", "collect", "generator"])
def test_an_async_client_that_leaves_is_recorded(emitter: RecordingEmitter, clock: Clock, how: str) -> None:
    async def serve() -> AsyncIterator[Any]:
        async with emitter.call(provider="openai", model="m") as call:
            async for chunk in call.stream(timed_async(clock, (1, chat(content="a")), (1, STOP))):
                yield chunk

    async def main() -> None:
        if how == "generator":
            served = serve()
            await anext(served)
            await served.aclose()  # type: ignore[attr-defined]
            return
        async with emitter.call(provider="openai", model="m") as call:
            stream = call.stream(timed_async(clock, (1, chat(content="a")), (1, STOP)))
            await anext(stream)
            if how == "aclose":
                await stream.aclose()
            del stream

    asyncio.run(main())
    (event,) = emitter.calls
    assert (event.stream_end, event.error_class) == ("client_disconnect", "cancelled")


def test_a_stream_that_can_be_read_both_ways_is_measured_both_ways(emitter: RecordingEmitter) -> None:
    class Both:
        def __iter__(self) -> Iterator[Any]:
            return iter([chat(content="a"), STOP])

        async def __aiter__(self) -> AsyncIterator[Any]:
            for chunk in self:
                yield chunk

    async def main() -> None:
        async with emitter.call(provider="openai", model="m") as call:
            assert len([chunk async for chunk in call.stream(Both())]) == 2

    with emitter.call(provider="openai", model="m") as call:
        assert len(list(call.stream(Both()))) == 2
    asyncio.run(main())
    assert [event.stream_end for event in emitter.calls] == ["complete", "complete"]
