"""What one answer, or one chunk of a stream, says about its call, whoever the provider is.

Reads OpenAI's chat completions, completions and responses (and all who speak like them),
Anthropic's messages, Google's generate_content, Bedrock's converse, Cohere's chat and Ollama,
as SDK objects or as parsed JSON. No SDK is imported. Token counts are
:mod:`gatewatch.usage`'s, errors are :mod:`gatewatch.failure`'s.

Providers' stream formats: platform.openai.com/docs/api-reference/chat-streaming and
/responses-streaming, docs.anthropic.com/en/api/messages-streaming,
ai.google.dev/api/generate-content, docs.aws.amazon.com/bedrock (ConverseStream),
docs.cohere.com/v2/docs/streaming, Ollama's docs/api.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct

__all__ = ["Answer", "Chunk", "read_answer", "read_chunk"]

Channel: TypeAlias = Literal["answer", "reasoning"]

_NAME_CHARS: Final = 256  # what the event contract allows; a provider's longer name is cut


class Answer(Struct):
    """Facts about a call beside its usage; empty is what was not said."""

    response_model: str = ""
    response_id: str = ""
    finish_reason: str = ""
    service_tier: str = ""
    error: object | None = None
    """The provider's error object, where the answer is one."""
    text: str = ""
    """The answer's text: only looked for where it is asked for."""


class Chunk(Answer):
    """Facts that one chunk of a stream adds."""

    channel: Channel | None = None
    """What generated text it carries. None for roles, pings, starts, signatures and usage."""
    finished: bool = False
    """The provider has said that the answer is complete."""


def read_answer(response: object, *, with_text: bool = False) -> Answer:
    """What a whole answer says. Never raises for an answer of any shape."""
    facts = Answer()
    _read_names(response, facts)
    facts.finish_reason = _finish_reason(response)
    facts.error = _error_of(response)
    if with_text:
        facts.text = "".join(_texts(response))
    return facts


def read_chunk(chunk: object, *, with_text: bool = False, with_names: bool = True) -> Chunk:
    """What one chunk says. Never raises for a chunk of any shape.

    ``with_names=False`` saves a third of the time where model and id are known already; a chunk
    that ends the answer is read for them in any case.
    """
    facts = Chunk()
    if isinstance(chunk, str | bytes):  # a stream of bare text
        facts.channel = "answer" if chunk else None
        if with_text:
            facts.text = chunk if isinstance(chunk, str) else chunk.decode("utf-8", "replace")
        return facts
    event = _get(chunk, "type") or _get(chunk, "event_type")
    event = event if isinstance(event, str) else ""
    facts.finish_reason = _chunk_finish_reason(chunk, event)
    facts.error = _chunk_error(chunk, event)
    facts.finished = bool(facts.finish_reason) or event in _FINISHED_EVENTS
    if with_names or facts.finished:
        for holder in (chunk, _get(chunk, "response"), _get(chunk, "message")):
            if holder is not None and not isinstance(holder, str):
                _read_names(holder, facts)
    answer, reasoning = _generated(chunk, event)
    if answer:
        facts.channel = "answer"
    elif reasoning:
        facts.channel = "reasoning"
    if with_text:
        facts.text = answer.replace(_NOT_TEXT, "")
    return facts


# --- names ----------------------------------------------------------------------------------------

_FINISHED_EVENTS: Final = frozenset(
    {"message_stop", "response.completed", "response.incomplete", "message-end", "stream-end"}
)


def _read_names(holder: object, facts: Answer) -> None:
    facts.response_model = facts.response_model or _name(
        _get(holder, "model") or _get(holder, "model_version") or _get(holder, "modelVersion")
    )
    facts.response_id = facts.response_id or _name(
        _get(holder, "id") or _get(holder, "response_id") or _get(holder, "responseId")
    )
    facts.service_tier = facts.service_tier or _name(
        _get(holder, "service_tier") or _get(_get(holder, "usage"), "service_tier")
    )


def _finish_reason(response: object) -> str:
    for choice in _items(_get(response, "choices")):
        if reason := _name(_get(choice, "finish_reason")):
            return reason
    for candidate in _items(_get(response, "candidates")):
        if reason := _name(_get(candidate, "finish_reason") or _get(candidate, "finishReason")):
            return reason
    for key in ("stop_reason", "stopReason", "done_reason", "finish_reason"):
        if reason := _name(_get(response, key)):
            return reason
    if _get(response, "object") == "response":  # OpenAI's responses
        why = _get(_get(response, "incomplete_details"), "reason")
        return _name(why or _get(response, "status"))
    return ""


def _chunk_finish_reason(chunk: object, event: str) -> str:
    if reason := _finish_reason(chunk):
        return reason
    delta = _get(chunk, "delta")
    if not isinstance(delta, str) and (reason := _finish_reason(delta)):
        return reason  # Anthropic's message_delta, Cohere's message-end
    if event in ("response.completed", "response.incomplete"):
        return _finish_reason(_get(chunk, "response"))
    stop = _get(chunk, "messageStop")  # Bedrock
    return _name(_get(stop, "stopReason")) if stop is not None else ""


def _error_of(response: object) -> object | None:
    error = _get(response, "error")
    return error if error and not callable(error) else None


def _chunk_error(chunk: object, event: str) -> object | None:
    if event == "error":  # Anthropic nests it, OpenAI's responses put code and message beside it
        return _error_of(chunk) or chunk
    if event == "response.failed":
        return _error_of(_get(chunk, "response")) or chunk
    if isinstance(chunk, Mapping):
        for name in chunk:
            # Bedrock: throttlingException, modelStreamErrorException, internalServerException, ...
            if isinstance(name, str) and name.endswith("Exception"):
                return {"__type": name, "message": _name(_get(chunk[name], "message"))}
    return _error_of(chunk)


# --- generated text -------------------------------------------------------------------------------

_NOT_TEXT: Final = "\0"
"""Stands for something that was generated but is no text of the answer: a tool call, audio."""


def _generated(chunk: object, event: str) -> tuple[str, str]:
    """Text of the answer and of reasoning that a chunk carries."""
    if event:
        return _generated_by_event(chunk, event)
    answer = reasoning = ""
    for choice in _items(_get(chunk, "choices")):
        delta = _get(choice, "delta")
        answer += _text(_get(choice, "text"))  # OpenAI's completions
        if delta is not None:
            more, thought = _of_delta(delta)
            answer += more
            reasoning += thought
    for candidate in _items(_get(chunk, "candidates")):  # Google
        for part in _items(_get(_get(candidate, "content"), "parts")):
            text = _text(_get(part, "text"))
            if _get(part, "thought") is True:
                reasoning += text
            else:
                answer += text or _mark(part, "function_call", "functionCall", "inline_data", "inlineData")
    if not answer and not reasoning:
        block = _get(chunk, "contentBlockDelta")  # Bedrock
        if block is not None:
            delta = _get(block, "delta")
            answer = _text(_get(delta, "text")) or _mark(_get(delta, "toolUse"), "input")
            reasoning = _text(_get(_get(delta, "reasoningContent"), "text"))
            return answer, reasoning
        message = _get(chunk, "message")  # Ollama's chat; its generate puts the text beside it
        answer = _text(_get(message, "content")) or _mark(message, "tool_calls")
        reasoning = _text(_get(message, "thinking")) or _text(_get(chunk, "thinking"))
        answer = answer or _text(_get(chunk, "response"))
    return answer, reasoning


def _of_delta(delta: object) -> tuple[str, str]:
    """OpenAI's chat delta, and what DeepSeek, Mistral, OpenRouter, vLLM and Groq add to it."""
    reasoning = (
        _text(_get(delta, "reasoning_content"))
        or _text(_get(delta, "reasoning"))
        or _text(_get(delta, "thinking"))
    )
    content = _get(delta, "content")
    answer = _text(content)
    if not answer and not isinstance(content, str):
        for part in _items(content):  # Mistral's parts
            if _get(part, "type") == "thinking":
                reasoning += _NOT_TEXT if _get(part, "thinking") else ""
            else:
                answer += _text(_get(part, "text"))
    answer = answer or _text(_get(delta, "refusal"))
    if not answer:
        for call in (*_items(_get(delta, "tool_calls")), _get(delta, "function_call")):
            function = _get(call, "function") or call
            answer = answer or _mark(function, "name", "arguments")
        answer = answer or _mark(_get(delta, "audio"), "data", "transcript")
    return answer, reasoning


def _generated_by_event(chunk: object, event: str) -> tuple[str, str]:
    delta = _get(chunk, "delta")
    if event.startswith("response."):  # OpenAI's responses: response.output_text.delta, ...
        if not event.endswith(".delta") or not delta:
            return "", ""
        if "reasoning" in event:
            return "", _NOT_TEXT
        return (_text(delta) if event == "response.output_text.delta" else _NOT_TEXT), ""
    if event == "content_block_delta":  # Anthropic; signatures and citations are not generated text
        return (
            _text(_get(delta, "text")) or _mark(delta, "partial_json"),
            _text(_get(delta, "thinking")),
        )
    if event == "content-delta":  # Cohere 2
        content = _get(_get(delta, "message"), "content")
        return _text(_get(content, "text")), _text(_get(content, "thinking"))
    if event in ("tool-call-start", "tool-call-delta", "tool-plan-delta"):
        return _NOT_TEXT, ""
    if event == "text-generation":  # Cohere 1
        return _text(_get(chunk, "text")), ""
    return "", ""


def _texts(response: object) -> Iterable[str]:
    """The texts of a whole answer, in order."""
    for choice in _items(_get(response, "choices")):
        yield _text(_get(choice, "text"))
        yield from _content_texts(_get(_get(choice, "message"), "content"))
    yield from _content_texts(_get(response, "content"))
    for item in _items(_get(response, "output")):
        yield from _content_texts(_get(item, "content"))
    for candidate in _items(_get(response, "candidates")):
        yield from _content_texts(_get(_get(candidate, "content"), "parts"))
    yield from _content_texts(_get(_get(response, "message"), "content"))
    yield from _content_texts(_get(_get(_get(response, "output"), "message"), "content"))
    yield _text(_get(response, "response"))


def _content_texts(content: object) -> Iterable[str]:
    if isinstance(content, str):
        yield content
        return
    for part in _items(content):
        if _get(part, "thought") is not True and _get(part, "type") not in ("thinking", "reasoning"):
            yield _text(_get(part, "text"))


# --- access ---------------------------------------------------------------------------------------


def _get(holder: object, name: str) -> Any:
    if holder is None:
        return None
    if isinstance(holder, Mapping):
        return holder.get(name)
    try:
        return getattr(holder, name, None)
    except Exception:  # a property of somebody's SDK may raise anything; then it says nothing
        return None


def _items(value: object) -> tuple[Any, ...]:
    """A list's items; nothing for anything that is no list."""
    if isinstance(value, list | tuple):
        return tuple(value)
    if value is None or isinstance(value, str | bytes | Mapping) or not hasattr(value, "__getitem__"):
        return ()
    try:
        return tuple(value)  # type: ignore[arg-type]  # protobuf's repeated fields
    except Exception:
        return ()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _mark(holder: object, *names: str) -> str:
    return _NOT_TEXT if any(_get(holder, name) for name in names) else ""


def _name(value: object) -> str:
    """A short name from a string or an SDK's enumeration."""
    if isinstance(value, Enum):
        value = value.value
    return value[:_NAME_CHARS] if isinstance(value, str) else ""
