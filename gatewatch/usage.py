"""What a provider says a call used, as one inclusive :class:`Usage`.

Every provider counts in its own words, and the words mean different things. Anthropic's
``input_tokens`` exclude cached tokens, OpenAI's include them; Gemini's candidates exclude
thoughts, OpenAI's completions include reasoning, xAI's exclude it. Here all of them become
the same: ``input_tokens`` holds everything that went in (cached and tool-made tokens too),
``output_tokens`` everything that came out (reasoning too), and every other count is a part
of one of the two. ``docs/usage.md`` says field by field what is read and why.

The invariant: what is returned adds up, or nothing is returned. A count that is negative,
fractional or absurd, and a part that is larger than its whole, is a :class:`UsageError`;
nothing is clamped, because a clamped count is a wrong price that nobody sees. ``None`` means
that the provider did not say; it never means zero.

The dialect is told by the object's shape. The provider's name only decides where the shape
cannot, because gateways spell names in many ways and OpenAI-compatible servers carry any.
Keys that are not known are ignored: providers add them every month.

This is not a tokenizer, a price or a client: it imports no SDK and does no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from gatewatch.events import LIMITS

__all__ = ["WHOLES", "Usage", "UsageError", "check_usage", "read_usage", "usage_of", "usage_of_chunk"]

Payload: TypeAlias = Mapping[str, Any]

_MAX: Final = LIMITS.token_count


class UsageError(ValueError):
    """A usage object that cannot be counted; the message says what was wrong with it.

    Messages name fields and counts, never texts of the object.
    """


class _NoCounts(UsageError):
    """The object holds no count at all: in a stream, that is no error."""

    def __init__(self) -> None:
        super().__init__("no known token counts in the usage object")


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one call used, inclusive; ``None`` is what the provider did not say.

    Fields are named as in :class:`gatewatch.events.Response`, counts of tokens as in genai-prices.
    """

    input_tokens: int | None = None
    """All input tokens: cached, written to a cache and made by tools too."""
    cache_read_tokens: int | None = None
    """Input tokens that came from a cache."""
    cache_write_tokens: int | None = None
    """Input tokens that were written to a cache, whatever their lifetime."""
    cache_write_5m_tokens: int | None = None
    cache_write_1h_tokens: int | None = None
    output_tokens: int | None = None
    """All output tokens: reasoning too."""
    output_reasoning_tokens: int | None = None
    input_audio_tokens: int | None = None
    cache_audio_read_tokens: int | None = None
    """Cached audio: part of both ``cache_read_tokens`` and ``input_audio_tokens``."""
    output_audio_tokens: int | None = None
    input_image_tokens: int | None = None
    """Images, and documents where the provider counts these apart from text (Gemini)."""
    output_image_tokens: int | None = None
    tool_use_tokens: int | None = None
    """Input tokens that built-in tools added; contained in ``input_tokens``."""
    web_searches: int | None = None
    """Requests of the provider's web search."""
    tool_requests: dict[str, int] = {}
    """Requests of other built-in tools and units billed by request, by name; only those above zero."""


_NOTHING_SAID: Final = Usage()
_FIELDS: Final = tuple(name for name in Usage.__struct_fields__ if name != "tool_requests")


def read_usage(provider: str, usage: Payload, model: str | None = None) -> Usage:
    """One inclusive usage from the provider's own usage object.

    Parameters
    ----------
    provider
        The provider's name in any spelling (``openai``, ``aws.bedrock``, ``vertex_ai``, a host
        name, ...); used only where the object's shape leaves a question open.
    usage
        The object as the provider sent it: the value of ``usage``, ``usageMetadata``, ``meta``
        (Cohere) or, where counts stand beside the answer (Ollama), the answer itself.
    model
        The model's name; used like ``provider``.

    Raises
    ------
    UsageError
        The object holds no token counts, or counts that cannot be true. Nothing else is raised
        for any JSON object.
    """
    if type(usage) is not dict and not isinstance(usage, Mapping):
        raise UsageError(f"usage is {_kind_of(usage)}, not an object")
    if "prompt_tokens" in usage or "completion_tokens" in usage:
        result = _read_chat(provider, usage, model)
    elif "input_tokens" in usage or "output_tokens" in usage:
        result = _read_messages_or_responses(provider, usage)
    else:
        for keys, read in _DIALECTS:
            if not keys.isdisjoint(usage):
                result = read(provider, usage)
                break
        else:
            result = _read_total_only(provider, usage)
    check_usage(result)
    if result == _NOTHING_SAID:
        raise _NoCounts
    return result


# --- counts ---------------------------------------------------------------------------------------


def _count(usage: Payload, key: str) -> int | None:
    value = usage.get(key)
    if value is None:
        return None
    if type(value) is int and 0 <= value <= _MAX:
        return value
    return _unusual_count(key, value)


def _unusual_count(key: str, value: object) -> int:
    """A count that is no plain small integer: a whole float passes, all else is refused.

    Cohere's schema types counts as numbers, and protobuf's Struct turns every number into a
    double, so ``12.0`` is twelve.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{key} is {_kind_of(value)}, not a count")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{key} is not a finite number")
    if value < 0:
        raise UsageError(f"{key} is negative")
    if value > _MAX:
        raise UsageError(f"{key} is above {_MAX}, more than any call can use")
    if value != int(value):
        raise UsageError(f"{key} is fractional: {value}")
    return int(value)


_NOTHING: Final[Payload] = {}


def _part(usage: Payload, key: str) -> Payload:
    """A nested object; absent and null are the same."""
    value = usage.get(key)
    if value is None:
        return _NOTHING
    if type(value) is dict or isinstance(value, Mapping):  # the first is free, the second half a microsecond
        return value
    raise UsageError(f"{key} is {_kind_of(value)}, not an object")


def _first_part(usage: Payload, *keys: str) -> Payload:
    for key in keys:
        part = _part(usage, key)
        if part:
            return part
    return _NOTHING


def _agreed(name: str, count: int | None, other_name: str, other: int | None) -> int | None:
    """The count that two fields may state; they must not disagree."""
    if count is None:
        return other
    if other is not None and other != count:
        raise UsageError(f"{name} is {count} but {other_name}, which counts the same, is {other}")
    return count


def _plus(*counts: int | None) -> int | None:
    """The sum of what was said; None where nothing was."""
    said = [count for count in counts if count is not None]
    return sum(said) if said else None


def _kind_of(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "an array"
    return f"a {type(value).__name__}"


def _says(provider: object, *words: str) -> bool:
    """Whether the provider's name holds one of the words, however it is spelled."""
    name = _letters(str(provider))
    return any(word in name for word in words)


@lru_cache(maxsize=256)
def _letters(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(".", "")


class Whole(NamedTuple):
    """Counts that are part of another one and cannot exceed it."""

    parts: tuple[str, ...]
    whole: str
    unknown_is_zero: bool
    """Whether an unknown whole contains nothing; otherwise nothing is said against its parts."""
    words: str


WHOLES: Final = (
    Whole(
        ("cache_read_tokens", "cache_write_tokens"),
        "input_tokens",
        False,
        "cache reads ({0}) and cache writes ({1}) together exceed the input tokens ({whole})",
    ),
    Whole(
        ("input_audio_tokens", "input_image_tokens"),
        "input_tokens",
        False,
        "audio and image input tokens ({sum}) exceed the input tokens ({whole})",
    ),
    Whole(
        ("tool_use_tokens",),
        "input_tokens",
        False,
        "tool-use tokens ({sum}) exceed the input tokens ({whole})",
    ),
    Whole(
        ("output_reasoning_tokens",),
        "output_tokens",
        False,
        "reasoning tokens ({sum}) exceed the output tokens ({whole})",
    ),
    Whole(
        ("output_audio_tokens", "output_image_tokens"),
        "output_tokens",
        False,
        "audio and image output tokens ({sum}) exceed the output tokens ({whole})",
    ),
    Whole(
        ("cache_write_5m_tokens", "cache_write_1h_tokens"),
        "cache_write_tokens",
        True,
        "cache writes by lifetime ({sum}) exceed all cache writes ({whole})",
    ),
    Whole(
        ("cache_audio_read_tokens",),
        "cache_read_tokens",
        True,
        "cached audio ({sum}) exceeds all cache reads ({whole})",
    ),
    Whole(
        ("cache_audio_read_tokens",),
        "input_audio_tokens",
        False,
        "cached audio ({sum}) exceeds the audio input ({whole})",
    ),
)
"""Every part that must fit into its whole: for one call here, for columns in ``signals.cost``."""


def check_usage(usage: Usage) -> None:
    """Raise :class:`UsageError` for a part that is larger than its whole."""
    for name, count in (("input", usage.input_tokens), ("output", usage.output_tokens)):
        if count is not None and count > _MAX:
            raise UsageError(f"{name} tokens add up to {count}, more than any call can use")
    for rule in WHOLES:
        whole = getattr(usage, rule.whole)
        if whole is None and not rule.unknown_is_zero:
            continue
        together = 0
        for part in rule.parts:  # a list and its sum take twice as long
            together += getattr(usage, part) or 0
        if together > (whole or 0):
            counts = [getattr(usage, part) or 0 for part in rule.parts]
            raise UsageError(rule.words.format(*counts, sum=together, whole=whole or 0))


# --- OpenAI chat, embeddings, and everybody who speaks it -----------------------------------------


def _read_chat(provider: str, usage: Payload, model: str | None) -> Usage:
    """OpenAI's chat, completions and embeddings, which most speak: inclusive, with exceptions for reasoning.

    Azure, Mistral, Groq, DeepSeek, OpenRouter, xAI, Together, vLLM and many more.
    """
    input_tokens = _count(usage, "prompt_tokens")
    output_tokens = _count(usage, "completion_tokens")
    total = _count(usage, "total_tokens")
    # OpenAI's assistants and Mistral's embeddings spell it without the plural.
    inputs = _first_part(usage, "prompt_tokens_details", "prompt_token_details")
    outputs = _part(usage, "completion_tokens_details")

    cache_read = _count(inputs, "cached_tokens")
    for key in _CACHE_READS:
        if key in usage:
            cache_read = _agreed("cached input", cache_read, key, _count(usage, key))
    hit, miss = usage.get("prompt_cache_hit_tokens"), usage.get("prompt_cache_miss_tokens")
    if hit is not None and miss is not None:
        split = (_count(usage, "prompt_cache_hit_tokens") or 0) + (
            _count(usage, "prompt_cache_miss_tokens") or 0
        )
        if input_tokens is not None and split != input_tokens:
            raise UsageError(f"cache hits and misses ({split}) are not the prompt tokens ({input_tokens})")

    reasoning = _agreed(
        "completion_tokens_details.reasoning_tokens",
        _count(outputs, "reasoning_tokens"),
        "reasoning_tokens",
        _count(usage, "reasoning_tokens"),
    )
    if _count(usage, "citation_tokens"):
        raise UsageError(
            "citation_tokens are billed at a rate of their own, for which the event contract has no field"
        )
    if reasoning and _excludes_reasoning(provider, input_tokens, output_tokens, reasoning, total):
        output_tokens = (output_tokens or 0) + reasoning
    elif total is not None:
        said = (input_tokens or 0) + (output_tokens or 0)
        if total < said:
            raise UsageError(f"total_tokens ({total}) is less than prompt and completion tokens ({said})")
        if total > said and not reasoning and output_tokens is not None and _is_google(provider, model):
            # Gemini behind its OpenAI-compatible endpoint: the total holds the thoughts, the
            # completion does not, and nothing else names them. They are billed as output.
            reasoning = total - said
            output_tokens += reasoning

    web_searches, tool_requests = _tool_requests(usage)
    return Usage(
        input_tokens=input_tokens,
        cache_read_tokens=cache_read,
        cache_write_tokens=_agreed(
            "cache_write_tokens",
            _count(inputs, "cache_write_tokens"),
            "cache_creation_input_tokens",
            _count(usage, "cache_creation_input_tokens"),
        ),
        output_tokens=output_tokens,
        output_reasoning_tokens=reasoning,
        input_audio_tokens=_count(inputs, "audio_tokens"),
        output_audio_tokens=_count(outputs, "audio_tokens"),
        input_image_tokens=_agreed(
            "image_tokens",
            _count(inputs, "image_tokens"),
            "prompt_image_tokens",
            _count(usage, "prompt_image_tokens"),
        ),
        output_image_tokens=_count(outputs, "image_tokens"),
        web_searches=web_searches,
        tool_requests=tool_requests,
    )


# Where cached input stands beside the counts: DeepSeek; Mistral; Together and Moonshot; xAI's own
# protocol; Databricks and LiteLLM, which keep Anthropic's name but count inclusively.
_CACHE_READS: Final = (
    "prompt_cache_hit_tokens",
    "num_cached_tokens",
    "cached_tokens",
    "cached_prompt_text_tokens",
    "cache_read_input_tokens",
)


def _excludes_reasoning(
    provider: str, input_tokens: int | None, output_tokens: int | None, reasoning: int, total: int | None
) -> bool:
    """Whether reasoning is counted beside the output, not in it.

    The total tells. Where there is none, or where it leaves reasoning out altogether
    (Perplexity), the provider's name does.
    """
    said = (input_tokens or 0) + (output_tokens or 0)
    if total == said + reasoning:
        return True
    if _says(provider, "perplexity"):
        return True
    return total is None and _says(provider, "xai", "grok")


def _is_google(provider: str, model: str | None) -> bool:
    return _says(provider, "google", "gemini", "vertex", "gcp") and (
        model is None or "gemini" in model.lower()
    )


# --- Anthropic messages; OpenAI responses, realtime, images and audio -----------------------------


def _read_messages_or_responses(provider: str, usage: Payload) -> Usage:
    if (
        "cache_read_input_tokens" in usage
        or "cache_creation_input_tokens" in usage
        or "cache_creation" in usage
    ):
        return _read_messages(usage)
    return _read_responses(provider, usage)


def _read_messages(usage: Payload) -> Usage:
    """Anthropic's messages, wherever they are served: input excludes what the cache gave and took.

    ``iterations`` is left alone: see docs/usage.md.
    """
    fresh = _count(usage, "input_tokens")
    cache_read = _count(usage, "cache_read_input_tokens")
    cache_write = _count(usage, "cache_creation_input_tokens")
    write_5m: int | None = None
    write_1h: int | None = None
    if lifetimes := _part(usage, "cache_creation"):
        write_5m = _count(lifetimes, "ephemeral_5m_input_tokens")
        write_1h = _count(lifetimes, "ephemeral_1h_input_tokens")
        if cache_write is None:
            cache_write = _plus(write_5m, write_1h)
    web_searches, tool_requests = _tool_requests(usage)
    return Usage(
        input_tokens=None if fresh is None else fresh + (cache_read or 0) + (cache_write or 0),
        cache_read_tokens=cache_read,
        cache_write_tokens=cache_write,
        cache_write_5m_tokens=write_5m,
        cache_write_1h_tokens=write_1h,
        output_tokens=_count(usage, "output_tokens"),
        output_reasoning_tokens=_count(_part(usage, "output_tokens_details"), "thinking_tokens"),
        web_searches=web_searches,
        tool_requests=tool_requests,
    )


def _read_responses(provider: str, usage: Payload) -> Usage:
    """OpenAI's responses, realtime, images and transcriptions, and Anthropic's messages without a cache."""
    input_tokens = _count(usage, "input_tokens")
    output_tokens = _count(usage, "output_tokens")
    total = _count(usage, "total_tokens")
    # Realtime and transcriptions spell the details without the plural.
    inputs = _first_part(usage, "input_tokens_details", "input_token_details")
    outputs = _first_part(usage, "output_tokens_details", "output_token_details")
    reasoning = _agreed(
        "reasoning_tokens",
        _count(outputs, "reasoning_tokens"),
        "thinking_tokens",
        _count(outputs, "thinking_tokens"),
    )
    if reasoning and _excludes_reasoning(provider, input_tokens, output_tokens, reasoning, total):
        output_tokens = (output_tokens or 0) + reasoning
    elif total is not None:
        said = (input_tokens or 0) + (output_tokens or 0)
        if total < said:
            raise UsageError(f"total_tokens ({total}) is less than input and output tokens ({said})")
    web_searches, tool_requests = _tool_requests(usage)
    return Usage(
        input_tokens=input_tokens,
        cache_read_tokens=_agreed(
            "cached_tokens",
            _count(inputs, "cached_tokens"),
            "cache_read_input_tokens",
            _count(inputs, "cache_read_input_tokens"),
        ),
        cache_write_tokens=_count(inputs, "cache_write_tokens"),
        output_tokens=output_tokens,
        output_reasoning_tokens=reasoning,
        input_audio_tokens=_count(inputs, "audio_tokens"),
        cache_audio_read_tokens=_count(_part(inputs, "cached_tokens_details"), "audio_tokens"),
        output_audio_tokens=_count(outputs, "audio_tokens"),
        input_image_tokens=_count(inputs, "image_tokens"),
        output_image_tokens=_count(outputs, "image_tokens"),
        web_searches=web_searches,
        tool_requests=tool_requests,
    )


# --- Gemini and Vertex ----------------------------------------------------------------------------


def _read_gemini(provider: str, usage: Payload) -> Usage:
    """``usageMetadata`` of generateContent, embedContent and live: thoughts and tool use stand apart."""
    prompt = _count(usage, "promptTokenCount")
    tool_use = _count(usage, "toolUsePromptTokenCount")
    # The live API says response where generateContent says candidates.
    answer = _agreed(
        "candidatesTokenCount",
        _count(usage, "candidatesTokenCount"),
        "responseTokenCount",
        _count(usage, "responseTokenCount"),
    )
    thoughts = _count(usage, "thoughtsTokenCount")
    total = _count(usage, "totalTokenCount")
    said = (prompt or 0) + (answer or 0)
    if total is not None and total < said:
        # The API reference defines the total as prompt and candidates; today's servers add
        # thoughts and tool use. Less than the former is neither.
        raise UsageError(f"totalTokenCount ({total}) is less than prompt and candidates ({said})")
    inputs = _by_modality(usage, "promptTokensDetails", "tokenCount")
    tools = _by_modality(usage, "toolUsePromptTokensDetails", "tokenCount")
    outputs = _by_modality(usage, "candidatesTokensDetails", "tokenCount") or _by_modality(
        usage, "responseTokensDetails", "tokenCount"
    )
    cached = _by_modality(usage, "cacheTokensDetails", "tokenCount")
    return Usage(
        input_tokens=_plus(prompt, tool_use),
        cache_read_tokens=_count(usage, "cachedContentTokenCount"),
        output_tokens=_plus(answer, thoughts),
        output_reasoning_tokens=thoughts,
        input_audio_tokens=_plus(inputs.get("AUDIO"), tools.get("AUDIO")),
        # A list of what was cached that names no audio says that none was.
        cache_audio_read_tokens=cached.get("AUDIO", 0 if cached and inputs.get("AUDIO") else None),
        output_audio_tokens=outputs.get("AUDIO"),
        # genai-prices counts documents as images, whose price they share.
        input_image_tokens=_plus(
            inputs.get("IMAGE"), inputs.get("DOCUMENT"), tools.get("IMAGE"), tools.get("DOCUMENT")
        ),
        output_image_tokens=_plus(outputs.get("IMAGE"), outputs.get("DOCUMENT")),
        tool_use_tokens=tool_use,
    )


# google.cloud.aiplatform's protobuf enum Modality, which its JSON writes as numbers.
_MODALITIES: Final = {1: "TEXT", 2: "IMAGE", 3: "VIDEO", 4: "AUDIO", 5: "DOCUMENT"}


def _by_modality(usage: Payload, key: str, count_key: str) -> dict[str, int]:
    """Counts by modality from a list of ``{"modality": ..., count_key: ...}``; one modality may repeat."""
    entries = usage.get(key)
    if entries is None:
        return {}
    if not isinstance(entries, list | tuple):
        raise UsageError(f"{key} is {_kind_of(entries)}, not an array")
    counts: dict[str, int] = {}
    for entry in entries:
        if type(entry) is not dict and not isinstance(entry, Mapping):
            raise UsageError(f"{key} holds {_kind_of(entry)}, not objects only")
        modality = entry.get("modality")
        if type(modality) is int:
            modality = _MODALITIES.get(modality)
        count = _count(entry, count_key)
        if count is not None and isinstance(modality, str):
            name = modality.upper()
            counts[name] = counts.get(name, 0) + count
    return counts


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


_GEMINI_NAMES: Final = {
    name: _camel(name)
    for name in (
        "prompt_token_count",
        "tool_use_prompt_token_count",
        "candidates_token_count",
        "response_token_count",
        "thoughts_token_count",
        "total_token_count",
        "cached_content_token_count",
        "prompt_tokens_details",
        "tool_use_prompt_tokens_details",
        "candidates_tokens_details",
        "response_tokens_details",
        "cache_tokens_details",
    )
}


def _read_gemini_sdk(provider: str, usage: Payload) -> Usage:
    """The same as Google's Python SDKs spell it; Llama on Bedrock shares its first name."""
    if "generation_token_count" in usage:
        return Usage(
            input_tokens=_count(usage, "prompt_token_count"),
            output_tokens=_count(usage, "generation_token_count"),
        )
    return _read_gemini(provider, _spelled_as_json(usage))


def _spelled_as_json(usage: Payload) -> dict[str, Any]:
    """Google's usage with the names of its JSON, whichever it came with."""
    spelled: dict[str, Any] = {}
    for name, value in usage.items():
        if name in _GEMINI_NAMES and isinstance(value, list | tuple):
            value = [
                {**entry, "tokenCount": entry.get("token_count", entry.get("tokenCount"))}
                if isinstance(entry, Mapping)
                else entry
                for entry in value
            ]
        spelled[_GEMINI_NAMES.get(name, name)] = value
    return spelled


def _read_interactions(provider: str, usage: Payload) -> Usage:
    """Gemini's interactions API: its totals of output leave thoughts out, those of input tool use."""
    tool_use = _count(usage, "total_tool_use_tokens")
    thoughts = _count(usage, "total_thought_tokens")
    inputs = _by_modality(usage, "input_tokens_by_modality", "tokens")
    tools = _by_modality(usage, "tool_use_tokens_by_modality", "tokens")
    outputs = _by_modality(usage, "output_tokens_by_modality", "tokens")
    cached = _by_modality(usage, "cached_tokens_by_modality", "tokens")
    return Usage(
        input_tokens=_plus(_count(usage, "total_input_tokens"), tool_use),
        cache_read_tokens=_count(usage, "total_cached_tokens"),
        output_tokens=_plus(_count(usage, "total_output_tokens"), thoughts),
        output_reasoning_tokens=thoughts,
        input_audio_tokens=_plus(inputs.get("AUDIO"), tools.get("AUDIO")),
        cache_audio_read_tokens=cached.get("AUDIO"),
        output_audio_tokens=outputs.get("AUDIO"),
        input_image_tokens=_plus(
            inputs.get("IMAGE"), inputs.get("DOCUMENT"), tools.get("IMAGE"), tools.get("DOCUMENT")
        ),
        output_image_tokens=_plus(outputs.get("IMAGE"), outputs.get("DOCUMENT")),
        tool_use_tokens=tool_use,
    )


# --- Bedrock --------------------------------------------------------------------------------------


def _read_converse(provider: str, usage: Payload) -> Usage:
    """Bedrock's converse, and Nova's own answers: input excludes what the cache gave and took."""
    fresh = _count(usage, "inputTokens")
    output_tokens = _count(usage, "outputTokens")
    # Bedrock sends each cache count under two names, older recordings under the second only.
    cache_read = _agreed(
        "cacheReadInputTokens",
        _count(usage, "cacheReadInputTokens"),
        "cacheReadInputTokenCount",
        _count(usage, "cacheReadInputTokenCount"),
    )
    cache_write = _agreed(
        "cacheWriteInputTokens",
        _count(usage, "cacheWriteInputTokens"),
        "cacheWriteInputTokenCount",
        _count(usage, "cacheWriteInputTokenCount"),
    )
    total = _count(usage, "totalTokens")
    if total is not None and total < (fresh or 0) + (output_tokens or 0):
        raise UsageError(
            f"totalTokens ({total}) is less than input and output tokens "
            f"({(fresh or 0) + (output_tokens or 0)})"
        )
    lifetimes = _writes_by_lifetime(usage)
    tool_requests: dict[str, int] = {}
    for name in _part(usage, "serverToolUsage"):
        requests = _count(_part(usage, "serverToolUsage"), name)
        if requests:
            tool_requests[_tool_name(name)] = requests
    return Usage(
        input_tokens=None if fresh is None else fresh + (cache_read or 0) + (cache_write or 0),
        cache_read_tokens=cache_read,
        cache_write_tokens=cache_write,
        cache_write_5m_tokens=lifetimes.get("5m"),
        cache_write_1h_tokens=lifetimes.get("1h"),
        output_tokens=output_tokens,
        tool_requests=tool_requests,
    )


def _writes_by_lifetime(usage: Payload) -> dict[str, int]:
    entries = usage.get("cacheDetails")
    if entries is None:
        return {}
    if not isinstance(entries, list | tuple):
        raise UsageError(f"cacheDetails is {_kind_of(entries)}, not an array")
    counts: dict[str, int] = {}
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise UsageError(f"cacheDetails holds {_kind_of(entry)}, not objects only")
        lifetime = entry.get("ttl")
        count = _count(entry, "inputTokens")
        if count is not None and isinstance(lifetime, str):
            counts[lifetime] = counts.get(lifetime, 0) + count
    return counts


def _read_invocation(provider: str, usage: Payload) -> Usage:
    """Bedrock's invocation metrics and Titan's embeddings."""
    fresh = _agreed(
        "inputTokenCount",
        _count(usage, "inputTokenCount"),
        "inputTextTokenCount",
        _count(usage, "inputTextTokenCount"),
    )
    cache_read = _count(usage, "cacheReadInputTokenCount")
    cache_write = _count(usage, "cacheWriteInputTokenCount")
    return Usage(
        input_tokens=None if fresh is None else fresh + (cache_read or 0) + (cache_write or 0),
        cache_read_tokens=cache_read,
        cache_write_tokens=cache_write,
        output_tokens=_count(usage, "outputTokenCount"),
    )


# --- Cohere, Ollama, and what only has a total ----------------------------------------------------


def _read_cohere(provider: str, usage: Payload) -> Usage:
    """Cohere reports what it billed and what it processed; billable tokens are the usage.

    Its ``cached_tokens`` are a part of the processed tokens, which hold Cohere's own prompt
    template as well, and not of the billed ones, so they are read with the former only.
    """
    billed = _part(usage, "billed_units")
    tool_requests: dict[str, int] = {}
    for unit in ("search_units", "classifications"):
        requests = _count(billed, unit)
        if requests:
            tool_requests[unit] = requests
    image = _count(billed, "image_tokens")
    text = _count(billed, "input_tokens")
    output_tokens = _count(billed, "output_tokens")
    if text is not None or image is not None or output_tokens is not None or tool_requests:
        return Usage(
            # embed-v4 bills images beside texts, not within them.
            input_tokens=_plus(text, image),
            input_image_tokens=image,
            output_tokens=output_tokens,
            tool_requests=tool_requests,
        )
    processed = _part(usage, "tokens")
    return Usage(
        input_tokens=_count(processed, "input_tokens"),
        cache_read_tokens=_count(usage, "cached_tokens"),
        output_tokens=_count(processed, "output_tokens"),
    )


def _read_ollama(provider: str, usage: Payload) -> Usage:
    return Usage(input_tokens=_count(usage, "prompt_eval_count"), output_tokens=_count(usage, "eval_count"))


# Embeddings and reranking only: everything that they count went in.
_INPUT_ONLY: Final = ("voyage", "jina", "mixedbread", "nomic")


def _read_total_only(provider: str, usage: Payload) -> Usage:
    total = _count(usage, "total_tokens")
    if total is not None and _says(provider, *_INPUT_ONLY):
        return Usage(input_tokens=total)
    if total is not None or _count(usage, "totalTokenCount") is not None:
        raise UsageError("only a total is given; how much of it is input and output is not said")
    if usage.get("seconds") is not None or usage.get("prompt_audio_seconds") is not None:
        raise UsageError("usage is in seconds of audio; only tokens are counted")
    raise _NoCounts


_GEMINI_COUNTS: Final = frozenset(
    {"promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "responseTokenCount"}
)
_DIALECTS: Final[tuple[tuple[frozenset[str], Callable[[str, Payload], Usage]], ...]] = (
    (_GEMINI_COUNTS, _read_gemini),
    (frozenset({"inputTokens", "outputTokens"}), _read_converse),
    (
        frozenset(
            {
                "prompt_token_count",
                "candidates_token_count",
                "thoughts_token_count",
                "response_token_count",
                "generation_token_count",
            }
        ),
        _read_gemini_sdk,
    ),
    (frozenset({"billed_units", "tokens"}), _read_cohere),
    (frozenset({"prompt_eval_count", "eval_count"}), _read_ollama),
    (frozenset({"total_input_tokens", "total_output_tokens"}), _read_interactions),
    (frozenset({"inputTokenCount", "outputTokenCount", "inputTextTokenCount"}), _read_invocation),
)


# --- requests of built-in tools -------------------------------------------------------------------


def _tool_name(name: object) -> str:
    if not isinstance(name, str) or len(name) > 128:
        raise UsageError("a built-in tool's name is longer than 128 characters or no string")
    return name


def _tool_requests(usage: Payload) -> tuple[int | None, dict[str, int]]:
    """Web searches, and requests of other built-in tools by name.

    Anthropic and OpenRouter count ``<tool>_requests``, xAI ``<tool>_calls``; Perplexity counts
    search queries and, in responses, invocations.
    """
    if _TOOL_KEYS.isdisjoint(usage):
        return None, {}
    searches: int | None = None
    requests: dict[str, int] = {}
    for key, suffix in _TOOL_PARTS:
        part = _part(usage, key)
        for field in part:
            if not isinstance(field, str) or not field.endswith(suffix):
                continue
            count = _count(part, field)
            name = _tool_name(field.removesuffix(suffix))
            if name == "web_search":
                searches = _agreed("web searches", searches, field, count)
            elif count:
                requests[name] = count
    if executed := _count(_part(usage, "server_tool_use_details"), "tool_calls_executed"):
        # OpenRouter's count of all its tools, searches included.
        requests["tool_calls_executed"] = executed
    if sources := _count(usage, "num_sources_used"):
        # xAI's live search bills by source.
        requests["sources_used"] = sources
    invocation = _count(_part(_part(usage, "tool_calls_details"), "search_web"), "invocation")
    searches = _agreed(
        "web searches",
        _agreed("web searches", searches, "num_search_queries", _count(usage, "num_search_queries")),
        "invocation",
        invocation,
    )
    return searches, requests


_TOOL_PARTS: Final = (
    ("server_tool_use", "_requests"),
    ("server_tool_use_details", "_requests"),
    ("server_side_tool_usage_details", "_calls"),
)
_TOOL_KEYS: Final = frozenset(
    {*(key for key, _ in _TOOL_PARTS), "num_sources_used", "num_search_queries", "tool_calls_details"}
)


# --- what an SDK returned -------------------------------------------------------------------------


def usage_of(response: object, provider: str = "") -> Usage | None:
    """The usage of what an SDK (or ``json.loads``) returned, or None where it holds none.

    Takes OpenAI's chat completions, responses and embeddings, Anthropic's messages, Google's
    generate_content, Bedrock's converse and invoke_model bodies, and the answers of Cohere,
    Mistral, Ollama and all who speak like one of these: objects or dicts. No SDK is imported.
    ``provider`` decides what the shape leaves open, as in :func:`read_usage`.

    Raises
    ------
    UsageError
        There is a usage object, and it cannot be counted.
    """
    payload = _payload_of(response)
    if payload is None:
        return None
    try:
        return read_usage(provider, payload, _model_of(response))
    except _NoCounts:
        return None


def usage_of_chunk(chunk: object, so_far: Usage | None, provider: str = "") -> Usage | None:
    """The usage of a stream after one more chunk.

    All providers' streams count cumulatively: a later chunk replaces what an earlier one said,
    and what a chunk leaves out stays. OpenAI sends usage with the last chunk, Gemini with every
    one. Anthropic's ``message_start`` carries the input and a placeholder for the output, which
    is dropped; its ``message_delta`` carries the output so far and, at times, the input again.

    Parameters
    ----------
    chunk
        What the SDK's iterator gave, or the parsed JSON of one server-sent event.
    so_far
        The value of the call before; None at first.
    provider
        Decides what the shape leaves open, as in :func:`read_usage`.

    Raises
    ------
    UsageError
        The chunk's usage cannot be counted, or contradicts the usage so far.
    """
    payload = _payload_of(chunk)
    if payload is None:
        return so_far
    event = _get(chunk, "type")
    if event == "message_start":
        payload = {key: value for key, value in payload.items() if key != "output_tokens"}
    elif event == "message_delta" and so_far is not None:
        payload = _with_earlier_input(payload, so_far)
    elif so_far is not None:
        payload = _with_earlier_gemini(payload, so_far)
    try:
        new = read_usage(provider, payload, _model_of(chunk))
    except _NoCounts:  # such as nulls, or metadata without a count, before the last chunk
        return so_far
    if so_far is None:
        return new
    merged = _merge(so_far, new)
    check_usage(merged)
    return merged


def _with_earlier_input(payload: Payload, so_far: Usage) -> Payload:
    """Anthropic's delta, with the input counts that it left out, in Anthropic's exclusive sense."""
    full = {key: value for key, value in payload.items() if value is not None}
    cache_read, cache_write = so_far.cache_read_tokens, so_far.cache_write_tokens
    if so_far.input_tokens is not None:
        full.setdefault("input_tokens", so_far.input_tokens - (cache_read or 0) - (cache_write or 0))
    if cache_read is not None:
        full.setdefault("cache_read_input_tokens", cache_read)
    if cache_write is not None and "cache_creation" not in full:
        full.setdefault("cache_creation_input_tokens", cache_write)
    return full


def _with_earlier_gemini(payload: Payload, so_far: Usage) -> Payload:
    """Gemini's chunk, with the parts of its two sums that it left out; other dialects as they are."""
    full = {key: value for key, value in _spelled_as_json(payload).items() if value is not None}
    if _GEMINI_COUNTS.isdisjoint(full) or "generation_token_count" in full:
        return payload
    for whole, part, rest, rest_name in (
        (so_far.output_tokens, so_far.output_reasoning_tokens, "thoughtsTokenCount", "candidatesTokenCount"),
        (so_far.input_tokens, so_far.tool_use_tokens, "toolUsePromptTokenCount", "promptTokenCount"),
    ):
        if part is not None:
            full.setdefault(rest, part)
        if whole is not None and whole > (part or 0) and "responseTokenCount" not in full:
            full.setdefault(rest_name, whole - (part or 0))
    return full


def _merge(so_far: Usage, new: Usage) -> Usage:
    values = {name: getattr(new, name) for name in _FIELDS}
    for name, value in values.items():
        if value is None:
            values[name] = getattr(so_far, name)
    if new.cache_write_tokens is not None and new.cache_write_tokens != so_far.cache_write_tokens:
        # Lifetimes belong to the total that they split.
        values["cache_write_5m_tokens"] = new.cache_write_5m_tokens
        values["cache_write_1h_tokens"] = new.cache_write_1h_tokens
    return Usage(**values, tool_requests=new.tool_requests or so_far.tool_requests)


_USAGE_NAMES: Final = ("usage", "usage_metadata", "usageMetadata")
# Where a usage stands one level down: OpenAI's response.completed, Anthropic's message_start,
# Cohere's message-end, Bedrock's metadata event, Groq's last chunk, Gemini's interactions.
_HOLDERS: Final = ("response", "message", "delta", "metadata", "x_groq", "interaction")
# Counts that stand beside the answer: Ollama; Llama and Titan on Bedrock.
_FLAT_NAMES: Final = ("eval_count", "prompt_eval_count", "generation_token_count", "inputTextTokenCount")
_MAX_DEPTH: Final = 5


def _payload_of(response: object) -> Payload | None:
    if response is None:
        return None
    if (found := _usage_in(response)) is not None:
        return found
    for name in _HOLDERS:
        holder = _get(response, name)
        if (
            holder is not None
            and not isinstance(holder, str | int)
            and (found := _usage_in(holder)) is not None
        ):
            return found
    metrics = _get(response, "amazon-bedrock-invocationMetrics")
    if isinstance(metrics, Mapping):
        return metrics
    flat = {
        name: value
        for name in (*_FLAT_NAMES, "prompt_token_count")
        if (value := _get(response, name)) is not None
    }
    return flat if any(name in flat for name in _FLAT_NAMES) else None


def _usage_in(holder: object) -> Payload | None:
    for name in _USAGE_NAMES:
        usage = _plain(_get(holder, name), _MAX_DEPTH)
        if isinstance(usage, Mapping) and usage:
            return usage
    meta = _get(holder, "meta")
    if meta is not None:
        meta = _plain(meta, _MAX_DEPTH)
        if isinstance(meta, Mapping) and ("billed_units" in meta or "tokens" in meta):
            return meta
    return None


def _model_of(response: object) -> str | None:
    model = _get(response, "model")
    return model if isinstance(model, str) else None


def _get(holder: object, name: str) -> Any:
    if isinstance(holder, Mapping):
        return holder.get(name)
    try:
        return getattr(holder, name, None)
    except Exception:  # a property of somebody's SDK may raise anything; then it says no usage
        return None


def _plain(value: object, depth: int) -> Any:
    """An SDK's object as dicts, lists and scalars; None for its sentinels (NotGiven, UNSET)."""
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if depth == 0:
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth - 1) for item in value]
    fields = _fields_of(value)
    return {key: _plain(item, depth - 1) for key, item in fields.items()} if fields else None


def _fields_of(value: object) -> dict[str, Any]:
    """Fields of a pydantic model (with those that its class does not know), dataclass, or struct."""
    fields: dict[str, Any] = {}
    slots: Any = getattr(type(value), "__struct_fields__", ()) or getattr(type(value), "__slots__", ())
    for name in (slots,) if isinstance(slots, str) else tuple(slots):
        if not name.startswith("_") and (item := _get(value, name)) is not None:
            fields[name] = item
    own = getattr(value, "__dict__", None)
    if isinstance(own, dict):
        fields.update({key: item for key, item in own.items() if not key.startswith("_")})
    extra = getattr(value, "__pydantic_extra__", None)
    if isinstance(extra, dict):
        fields.update(extra)
    if not fields:
        # Protobuf messages have neither: ask for the names that Google's SDKs know.
        for name in (*_GEMINI_NAMES, "modality", "token_count"):
            if (item := _get(value, name)) is not None:
                fields[name] = item if isinstance(item, int | str) else _as_list(item)
    return fields


def _as_list(value: object) -> list[Any] | None:
    try:
        return list(value)  # type: ignore[call-overload, no-any-return]
    except TypeError:
        return None
