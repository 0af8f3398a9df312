"""The event contract: what a gateway tells gatewatch about one call.

A Kafka record on ``gatewatch.events.v1`` holds one or many events as NDJSON: one JSON
object a line. The ``kind`` of each tells what it is. Everything here is pure data and
decoding; sending is :mod:`gatewatch.emitter`, aggregation is the ``signals`` package.

Decoding is total. Any bytes become events or rejects, never an exception, and one bad
line costs that line only. Version 1 accepts fields that it does not know and ignores
them, so that a newer emitter can run beside an older worker; ``v`` above
:data:`VERSION` is a reject, because then known fields may have changed their meaning.

Names follow the OpenTelemetry GenAI conventions where these have one. Usage is
inclusive: ``input_tokens`` contains cache reads and writes, ``output_tokens`` contains
reasoning. Unknown is ``null`` or absent, never zero.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

__all__ = [
    "EVENTS_TOPIC",
    "KINDS",
    "LIMITS",
    "VERSION",
    "Call",
    "CallEvent",
    "Evaluation",
    "Event",
    "Feedback",
    "Latency",
    "Limits",
    "Outcome",
    "Reject",
    "Request",
    "Resource",
    "Response",
    "Token",
    "decode_line",
    "decode_record",
    "encode",
    "json_schema",
    "split_record",
]

VERSION: Final = 1
EVENTS_TOPIC: Final = "gatewatch.events.v1"


class Limits(Struct, frozen=True):
    """What a line may hold before it is refused; the types below carry all but its length."""

    line_bytes: int = 1 << 20
    """A longer line is a reject, and not decoded. The broker's own default limit for a record is 1 MiB."""
    token_count: int = 1_000_000_000
    """More tokens in one call are absurd: the largest context windows are some 10 million."""
    duration_ms: float = 7 * 86_400_000.0
    """Longer durations are refused: no call lasts more than a week."""
    text_chars: int = 1 << 18
    """Longer prompts and answers are refused; senders cut them."""


LIMITS: Final = Limits()

# Bounds are part of the contract, so they stand in the types: msgspec checks them while it
# decodes, and the JSON Schema that is published carries them.
Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
Name: TypeAlias = Annotated[str, Meta(max_length=256)]
Text: TypeAlias = Annotated[str, Meta(max_length=LIMITS.text_chars)]
Tokens: TypeAlias = Annotated[int, Meta(ge=0, le=LIMITS.token_count)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=1_000_000_000_000)]
Bytes: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 53)]
Millis: TypeAlias = Annotated[float, Meta(ge=0, le=LIMITS.duration_ms)]
# Year 2262 is where signed nanoseconds end; real bounds on event time are set by the
# worker against the record's append time (``signals.lane``).
EpochMs: TypeAlias = Annotated[int, Meta(ge=0, le=9_223_372_036_854)]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Score: TypeAlias = Annotated[float, Meta(ge=-1e15, le=1e15)]
Gauge: TypeAlias = Annotated[float, Meta(ge=0, le=1e15)]
Seq: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 47) - 1)]
Sha: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]

UsageSource: TypeAlias = Literal["provider", "estimated", "missing"]
StreamEnd: TypeAlias = Literal["complete", "client_disconnect", "upstream_error", "timeout"]
ErrorClass: TypeAlias = Literal[
    "rate_limit",
    "quota",
    "context_length",
    "content_filter",
    "authentication",
    "overload",
    "timeout",
    "invalid_request",
    "server",
    "cancelled",
    "other",
]


class _Base(Struct, kw_only=True, omit_defaults=True, tag_field="kind", gc=False):
    """What every event carries."""

    at_ms: EpochMs
    """The event's own time, milliseconds since 1970 UTC. Windows are cut by it."""
    gateway: Id
    """The gateway (or its instance, region or cluster) that speaks."""
    environment: Name = ""
    """``production``, ``staging``, ..."""
    emitter_id: Name = ""
    """One running emitter: a new one for every process start and fork."""
    seq: Seq | None = None
    """Counts up by one for each event of ``emitter_id``, from 0: a gap is a loss."""
    v: Literal[1] = VERSION
    """Version of this contract."""


class CallEvent(_Base, kw_only=True, omit_defaults=True, tag_field="kind", gc=False):
    """What the events that describe one inference call have in common."""

    call_id: Id
    """Joins the parts of one call. Unique for the call, the same in all of its parts."""
    started_at_ms: EpochMs
    """When the call started; the same in all parts of the call (it is the storage key)."""
    provider: Id
    """``openai``, ``anthropic``, ``aws.bedrock``, ``gcp.vertex_ai``, ``azure.ai.openai``, ..."""
    model: Id
    """The model that was asked for (``gen_ai.request.model``)."""
    operation: Name = "chat"
    """``chat``, ``text_completion``, ``embeddings``, ``generate_content``, ..."""
    deployment: Name = ""
    """Deployment, route or version that served the call."""
    tenant: Name = ""
    """Customer, organisation or business unit that is charged."""
    team: Name = ""
    """Team within the tenant."""
    key_alias: Name = ""
    """The API key's alias; never the key."""
    user_hash: Name = ""
    """A keyed hash of the end user; never a name or an address."""
    conversation_id: Name = ""
    """Conversation, session or trace that the call belongs to."""
    tags: dict[Name, Name] = {}
    """Free labels, stored with the call."""


class Request(CallEvent, tag="request", kw_only=True, omit_defaults=True, tag_field="kind", gc=False):
    """The gateway has accepted a call."""

    stream: bool | None = None
    """Whether the client asked for a stream."""
    max_output_tokens: Tokens | None = None
    """The most output tokens that the caller allows."""
    message_count: Count | None = None
    """Messages in the prompt."""
    input_chars: Count | None = None
    """Characters of the prompt, for gateways that count no tokens."""
    prefix_hashes: list[Sha] | None = None
    """Hashes of the prompt's blocks from its start, for finding prompts that repeat."""
    input_text: Text | None = None
    """The prompt, only where somebody asked for it to be sent."""


class Token(CallEvent, tag="token", kw_only=True, omit_defaults=True, tag_field="kind", gc=False):
    """Progress of a stream."""

    ttft_ms: Millis | None = None
    """From the call's start to the first generated token of any channel; role-only chunks do not count."""
    output_tokens_so_far: Tokens | None = None
    """Output tokens that the stream has brought up to now."""


class _Timed(CallEvent, kw_only=True, omit_defaults=True, tag_field="kind", gc=False):
    """How long a call took."""

    total_ms: Millis | None = None
    """From the call's start to its end as the caller saw it."""
    ttft_ms: Millis | None = None
    """From the call's start to the first generated token of any channel; role-only chunks do not count."""
    ttfat_ms: Millis | None = None
    """From the call's start to the first token of the answer itself, after any reasoning."""
    tpot_ms: Millis | None = None
    """Time per output token: (total - ttft) / (output tokens - 1)."""
    max_gap_ms: Millis | None = None
    """The longest silence between two chunks of a stream."""
    queue_ms: Millis | None = None
    """Waiting in the gateway before the provider was asked."""
    upstream_ms: Millis | None = None
    """The provider's share of ``total_ms``."""


class Outcome(_Timed, kw_only=True, omit_defaults=True, tag_field="kind", gc=False):
    """How a call ended and what it used: the shared part of ``response`` and ``call``."""

    stream: bool | None = None
    """Whether the answer was streamed."""
    stream_end: StreamEnd | None = None
    """How a stream ended; absent where there was none."""
    status_code: Annotated[int, Meta(ge=0, le=999)] | None = None
    """HTTP status that the caller got."""
    error_class: ErrorClass | None = None
    """Absent on success."""
    error_type: Name = ""
    """The provider's code, or the exception's class name (``error.type``)."""
    finish_reason: Name = ""
    """Why the model stopped, in the provider's words."""
    response_model: Name = ""
    """The model that answered, as the provider names it."""
    response_id: Name = ""
    """The provider's own id of the answer."""
    service_tier: Name = ""
    """``default``, ``batch``, ``flex``, ``priority``, ..."""
    attempt: Annotated[int, Meta(ge=0, le=1000)] | None = None
    """0 for the first attempt, counting the gateway's retries."""
    usage_source: UsageSource | None = None
    """Where the token counts come from; counts that come without it are taken as the provider's."""
    input_tokens: Tokens | None = None
    """All input tokens, cached ones included."""
    cache_read_tokens: Tokens | None = None
    """Input tokens that came from the provider's prompt cache."""
    cache_write_tokens: Tokens | None = None
    """All cache writes, whatever their lifetime."""
    cache_write_5m_tokens: Tokens | None = None
    """Cache writes that live for five minutes; part of ``cache_write_tokens``."""
    cache_write_1h_tokens: Tokens | None = None
    """Cache writes that live for an hour; part of ``cache_write_tokens``."""
    output_tokens: Tokens | None = None
    """All output tokens, reasoning included."""
    output_reasoning_tokens: Tokens | None = None
    """Reasoning tokens; part of ``output_tokens``."""
    input_audio_tokens: Tokens | None = None
    """Audio input; part of ``input_tokens``."""
    cache_audio_read_tokens: Tokens | None = None
    """Cached audio input: part of both ``cache_read_tokens`` and ``input_audio_tokens``."""
    output_audio_tokens: Tokens | None = None
    """Audio output; part of ``output_tokens``."""
    input_image_tokens: Tokens | None = None
    """Image input; part of ``input_tokens``."""
    output_image_tokens: Tokens | None = None
    """Image output; part of ``output_tokens``."""
    tool_use_tokens: Tokens | None = None
    """Input tokens that built-in tools added; contained in ``input_tokens``."""
    web_searches: Count | None = None
    """Requests of the provider's web search tool."""
    tool_requests: dict[Name, Count] = {}
    """Requests of the provider's other built-in tools, by name."""
    provider_usage: dict[str, Any] | None = None
    """The provider's own usage object, for gateways that do not normalise it; the worker then does."""
    reported_cost_usd: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    """What the gateway itself believes the call cost."""
    gateway_cache_hit: bool | None = None
    """The gateway answered from a cache of its own, so no provider was paid."""
    output_text: Text | None = None
    """The answer, only where somebody asked for it to be sent."""


class Response(Outcome, tag="response", kw_only=True, omit_defaults=True, tag_field="kind", gc=False):
    """A call has ended: outcome, usage and, where its sender knows them, times."""


class Latency(_Timed, tag="latency", kw_only=True, omit_defaults=True, tag_field="kind", gc=False):
    """A call's times, where something else than the response's sender knows them."""


class Call(Outcome, tag="call", kw_only=True, omit_defaults=True, tag_field="kind", gc=False):
    """Everything about one call in one event, for gateways that log once.

    Send either this or ``request``, ``token``, ``response`` and ``latency``, not both, and each
    number once: aggregates count what each event carries, storage merges parts by ``call_id``.
    """

    max_output_tokens: Tokens | None = None
    """The most output tokens that the caller allowed."""
    message_count: Count | None = None
    """Messages in the prompt."""
    input_chars: Count | None = None
    """Characters of the prompt, for gateways that count no tokens."""
    prefix_hashes: list[Sha] | None = None
    """Hashes of the prompt's blocks from its start, for finding prompts that repeat."""
    input_text: Text | None = None
    """The prompt, only where somebody asked for it to be sent."""


class Feedback(_Base, tag="feedback", kw_only=True, omit_defaults=True, tag_field="kind", gc=False):
    """What a user thinks of a call."""

    call_id: Id
    """The call that is judged."""
    name: Id
    """What is judged: ``thumbs``, ``resolved``, ..."""
    score: Score | None = None
    """A boolean is sent as 0 or 1."""
    label: Name = ""
    """The verdict in a word, where it is no number."""
    comment: Text | None = None
    """Free text, only where somebody asked for it to be sent."""
    tenant: Name = ""
    """Customer, organisation or business unit of the call."""
    user_hash: Name = ""
    """A keyed hash of who judges; never a name or an address."""


class Evaluation(_Base, tag="evaluation", kw_only=True, omit_defaults=True, tag_field="kind", gc=False):
    """What a judge or a guardrail thinks of a call (``gen_ai.evaluation.result``)."""

    call_id: Id
    """The call that is judged."""
    name: Id
    """What is judged: ``toxicity``, ``faithfulness``, ..."""
    score: Score | None = None
    """The verdict as a number, on the judge's own scale."""
    label: Name = ""
    """The verdict in a word, where it is no number."""
    evaluator: Name = ""
    """The judge: a model, a guardrail, a person's role."""
    tenant: Name = ""
    """Customer, organisation or business unit of the call."""


class Resource(_Base, tag="resource", kw_only=True, omit_defaults=True, tag_field="kind", gc=False):
    """The state of something that serves calls: a GPU, an engine, a queue, an emitter."""

    resource: Id
    """Which one: ``gpu:0``, ``vllm:llama-70b``, ``emitter``, ..."""
    deployment: Name = ""
    """Deployment that it belongs to."""
    model: Name = ""
    """Model that it serves."""
    gpu_utilization: Share | None = None
    """Share of the time in which the GPU was busy, 0 to 1."""
    gpu_memory_used_bytes: Bytes | None = None
    """GPU memory in use."""
    gpu_power_watts: Gauge | None = None
    """Power that the GPU draws."""
    kv_cache_utilization: Share | None = None
    """Share of the KV cache in use, 0 to 1."""
    running_requests: Count | None = None
    """Requests that are being served."""
    queued_requests: Count | None = None
    """Requests that wait to be served."""
    cpu_utilization: Share | None = None
    """Share of the CPU time in use, 0 to 1."""
    memory_used_bytes: Bytes | None = None
    """Main memory in use."""
    gpu_count: Gauge | None = None
    """How many devices this report stands for; with ``interval_s`` it gives GPU-hours."""
    interval_s: Gauge | None = None
    """The span of time that this report stands for."""
    emitter_dropped_total: Count | None = None
    """Events that this emitter has dropped since it started."""
    emitter_queued: Count | None = None
    """Events that wait in this emitter's queue."""


Event: TypeAlias = Request | Token | Response | Latency | Call | Feedback | Evaluation | Resource

KINDS: Final[dict[str, type[Event]]] = {
    "request": Request,
    "token": Token,
    "response": Response,
    "latency": Latency,
    "call": Call,
    "feedback": Feedback,
    "evaluation": Evaluation,
    "resource": Resource,
}


class Reject(Struct, frozen=True, gc=False):
    """A line that is no event, and why.

    ``reason`` is a short stable code to count and filter by; ``detail`` says what was wrong
    and what to do. Neither ever quotes the line: it may hold a prompt or a secret.
    """

    reason: str
    detail: str


event_decoder: Final[msgspec.json.Decoder[Event]] = msgspec.json.Decoder(Event)
_encoder: Final = msgspec.json.Encoder()


def encode(event: Event) -> bytes:
    """One event as one line of JSON, without the newline.

    Raises
    ------
    TypeError, UnicodeEncodeError
        The event holds a value that JSON cannot carry.
    """
    return _encoder.encode(event)


def decode_line(line: bytes) -> Event | Reject:
    """What one line of a record says.

    Parameters
    ----------
    line
        The bytes of one JSON object, without its newline.

    Returns
    -------
    An event, or a :class:`Reject`. Never raises.
    """
    if len(line) > LIMITS.line_bytes:
        return Reject(
            "line_too_long",
            f"the line has {len(line)} bytes, at most {LIMITS.line_bytes} are read; "
            "leave texts out or send them truncated",
        )
    try:
        return event_decoder.decode(line)
    except msgspec.ValidationError as error:
        if str(error).endswith("`$.v`"):
            return Reject(
                "unsupported_version",
                f"the event's version v is not {VERSION}, the one this worker reads; upgrade the worker",
            )
        return Reject("invalid_event", _without_values(str(error)))
    except UnicodeDecodeError:
        return Reject("invalid_utf8", "the line is not UTF-8; encode JSON as UTF-8")
    except msgspec.DecodeError as error:
        return Reject("invalid_json", _without_values(str(error)))
    except RecursionError:
        return Reject("nested_too_deep", "the line nests too deep; events are flat objects")
    except (ValueError, OverflowError) as error:
        return Reject("invalid_json", f"the line cannot be read as JSON ({type(error).__name__})")


def split_record(value: bytes) -> list[bytes]:
    """The lines of a Kafka record's value, as they are numbered from 0: those that are not blank."""
    return [line for line in value.split(b"\n") if line and not line.isspace()]


def decode_record(value: bytes) -> list[Event | Reject]:
    """What a Kafka record's value says, in the order of its lines. Blank lines are skipped."""
    lines = split_record(value)
    if not lines:
        return [Reject("empty_record", "the record holds no event; send one JSON object a line")]
    return [decode_line(line) for line in lines]


def _without_values(message: str) -> str:
    """An error of msgspec without values of the line, which could be text of a prompt.

    msgspec quotes input in one case only: an unknown enumeration or tag value.
    """
    head, quote, _ = message.partition("Invalid enum value ")
    if quote:
        path = message.rpartition(" - at ")[2] if " - at " in message else "`$`"
        return f"{head}a value that is not one of the allowed names - at {path}"
    head, quote, _ = message.partition("Invalid value ")
    if quote:
        path = message.rpartition(" - at ")[2] if " - at " in message else "`$`"
        return f"{head}unknown kind, known are {', '.join(KINDS)} - at {path}"
    return message


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of one line, with one definition for each kind."""
    schema = msgspec.json.schema(Event)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gatewatch event, version 1",
        **schema,
    }
