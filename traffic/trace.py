"""Readers of recorded traces: from a published file to events of the contract.

A :class:`Trace` is an iterator of :class:`Timed` items: an event whose times are the trace's own,
and the second of the trace at which it is due. Rebasing those times and waiting for them is
:mod:`traffic.replay`.

Traces are poor: most have token counts and arrival times and nothing else. What a trace lacks and
the contract requires (tenant, team, key, often provider and model) is filled from the number of
the line, so that two runs agree; ``docs/traffic.md`` says for each format which fields are made
up. What the contract does not require stays unknown: no latency, status or cache hit is invented.

No line is dropped without a word: a line that cannot be read becomes a :class:`Skip` with its
file, number and reason. A reason never quotes the line, which may hold a prompt.
"""

from __future__ import annotations

import gzip
import hashlib
import heapq
import operator
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from gatewatch.events import LIMITS, Call, Event, Feedback, Reject, decode_line
from gatewatch.usage import UsageError, read_usage

__all__ = ["FORMATS", "Skip", "Timed", "Trace", "TraceError", "TraceFormat", "UnknownFormatError"]

TENANTS: Final = 20
"""How many tenants the calls of a trace without tenants are spread over."""


class Timed(NamedTuple):
    """Something to send, and when."""

    offset_s: float
    """When it is due, in seconds on the trace's own clock (not from its first event)."""
    payload: Event | bytes
    """An event with the trace's own times, or the bytes of a line to send as they are."""


class Skip(NamedTuple):
    """A line that became no event."""

    path: str
    line: int
    """From 1, the header included."""
    reason: str
    """What was wrong; never the line itself."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


class UnknownFormatError(ValueError):
    """There is no reader of that name."""


class TraceError(RuntimeError):
    """A file cannot be read to its end; the message says which and why."""


class _BadLineError(ValueError):
    """A line cannot be read; its text is the reason."""


class _Context(NamedTuple):
    """What a line's reader may use besides the line."""

    run: str
    gateway: str
    texts: bool
    stem: str
    raw: bool


class _Untimed(NamedTuple):
    """A line whose time cannot be known."""

    offset_s: None
    payload: bytes


_Reader: TypeAlias = Callable[[bytes, int, _Context], Timed | _Untimed | None]


class TraceFormat(NamedTuple):
    """How one format is read."""

    reader: _Reader
    """From a line, its number and its file to an item; ``None`` for a header."""
    absolute: bool
    """Whether the trace's times are dates. Otherwise they are seconds since its start."""
    in_order: bool
    """Whether its files are in order of time. Otherwise they are read whole and sorted."""
    summary: str


def _finite(value: float, name: str) -> float:
    if not 0 <= value <= 1e10:
        raise _BadLineError(f"{name} is not a time from 0 to 10,000,000,000 s")
    return value


def _made_up(line: int) -> tuple[str, str, str]:
    """Tenant, team and key alias for a line: the same for the same number, some tenants much larger.

    The square of a uniform number gives the first of 20 tenants 22 % and the last 3 % of the calls.
    """
    digest = hashlib.blake2b(line.to_bytes(8, "little"), digest_size=8).digest()
    uniform = int.from_bytes(digest[:6], "little") / 2**48
    tenant = int(uniform * uniform * TENANTS) + 1
    team = digest[6] % 3 + 1
    return f"tenant-{tenant:02d}", f"team-{team}", f"key-{tenant:02d}-{team}-{digest[7] % 2 + 1}"


# --- Azure: TIMESTAMP,ContextTokens,GeneratedTokens ------------------------------------------------

_AZURE_HEADER: Final = b"TIMESTAMP,ContextTokens,GeneratedTokens"
_TOKENS_MOST: Final = 1_000_000_000


def _tokens(text: bytes, name: str) -> int:
    if not text.isdigit() or int(text) > _TOKENS_MOST:
        raise _BadLineError(f"{name} is not a count from 0 to {_TOKENS_MOST}")
    return int(text)


def _utc_s(text: str, name: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _BadLineError(f"{name} is not a date like 2023-11-16 18:15:46.6805900") from None
    # The dates carry no zone in 2023 and +00:00 in 2024.
    return _finite((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp(), name)


def _azure(line: bytes, number: int, context: _Context) -> Timed | None:
    if number == 1 and line.removeprefix(b"\xef\xbb\xbf") == _AZURE_HEADER:
        return None
    cells = line.split(b",")
    if len(cells) != 3:
        raise _BadLineError(f"{len(cells)} columns, expected TIMESTAMP,ContextTokens,GeneratedTokens")
    at_s = _utc_s(cells[0].decode("ascii", "replace"), "TIMESTAMP")
    tenant, team, key = _made_up(number)
    return Timed(
        at_s,
        Call(
            at_ms=round(at_s * 1000),
            started_at_ms=round(at_s * 1000),
            gateway=context.gateway,
            call_id=f"{context.run}-{context.stem}-{number}",
            provider="azure.ai.openai",
            model="gpt-4o-mini",
            operation="text_completion" if "code" in context.stem.lower() else "chat",
            tenant=tenant,
            team=team,
            key_alias=key,
            usage_source="provider",
            input_tokens=_tokens(cells[1], "ContextTokens"),
            output_tokens=_tokens(cells[2], "GeneratedTokens"),
            tags={"trace": "azure"},
        ),
    )


# --- Mooncake --------------------------------------------------------------------------------------


class _MooncakeRow(Struct):
    timestamp: float  # ms since the start
    input_length: int
    output_length: int
    hash_ids: list[int] = []


_mooncake_decoder: Final = msgspec.json.Decoder(_MooncakeRow)


def _counts(*counts: int) -> None:
    if any(not 0 <= count <= _TOKENS_MOST for count in counts):
        raise _BadLineError(f"a token count is not from 0 to {_TOKENS_MOST}")


def _hashes(hashes: list[int]) -> list[int] | None:
    if any(not 0 <= block < 1 << 63 for block in hashes):
        raise _BadLineError("a block hash is not from 0 to 2^63 - 1")
    return hashes or None


def _mooncake(line: bytes, number: int, context: _Context) -> Timed:
    row = _mooncake_decoder.decode(line)
    _counts(row.input_length, row.output_length)
    at_s = _finite(row.timestamp / 1000, "timestamp")
    tenant, team, key = _made_up(number)
    return Timed(
        at_s,
        Call(
            at_ms=round(at_s * 1000),
            started_at_ms=round(at_s * 1000),
            gateway=context.gateway,
            call_id=f"{context.run}-{context.stem}-{number}",
            provider="moonshot",
            model="kimi-k2",
            tenant=tenant,
            team=team,
            key_alias=key,
            usage_source="provider",
            input_tokens=row.input_length,
            output_tokens=row.output_length,
            prefix_hashes=_hashes(row.hash_ids),
            tags={"trace": "mooncake"},
        ),
    )


# --- RAGPulse --------------------------------------------------------------------------------------


class _RagBlocks(Struct):
    sys_prompt: list[int] = []
    passages_ids: list[int] = []
    history: list[int] = []
    web_search: list[int] = []
    user_input: list[int] = []


class _RagRow(Struct):
    timestamp: float  # s since the start, written as text
    input_length: int
    output_length: int
    session_id: str
    hash_ids: _RagBlocks


# Not strict: the trace writes its timestamps as strings.
_ragpulse_decoder: Final = msgspec.json.Decoder(_RagRow, strict=False)


def _ragpulse(line: bytes, number: int, context: _Context) -> Timed:
    row = _ragpulse_decoder.decode(line)
    _counts(row.input_length, row.output_length)
    at_s = _finite(row.timestamp, "timestamp")
    blocks = row.hash_ids
    tenant, team, key = _made_up(number)
    return Timed(
        at_s,
        Call(
            at_ms=round(at_s * 1000),
            started_at_ms=round(at_s * 1000),
            gateway=context.gateway,
            call_id=f"{context.run}-{context.stem}-{number}",
            provider="vllm",
            model="Qwen2.5-14B-Instruct",
            tenant=tenant,
            team=team,
            key_alias=key,
            conversation_id=row.session_id[:256],
            usage_source="provider",
            input_tokens=row.input_length,
            output_tokens=row.output_length,
            prefix_hashes=_hashes(
                blocks.sys_prompt
                + blocks.passages_ids
                + blocks.history
                + blocks.web_search
                + blocks.user_input
            ),
            tags={"trace": "ragpulse"},
        ),
    )


# --- Coding agent ----------------------------------------------------------------------------------


class _AgentRow(Struct):
    session_id: str
    turn_index: int
    model_id: str
    input_tokens: int
    output_tokens: int
    request_arrival_delta_s: float  # since the start of the session
    api_time_s: float
    request_type: str = ""
    ttft_s: float | None = None


_agent_decoder: Final = msgspec.json.Decoder(_AgentRow)
_DURATION_MOST_S: Final = 604_800


def _coding_agent(line: bytes, number: int, context: _Context) -> Timed:
    row = _agent_decoder.decode(line)
    _counts(row.input_tokens, row.output_tokens)
    if not 0 <= row.api_time_s <= _DURATION_MOST_S or not 0 <= (row.ttft_s or 0) <= row.api_time_s:
        raise _BadLineError("api_time_s or ttft_s is negative, longer than a week or contradictory")
    if not row.session_id or not row.model_id:
        raise _BadLineError("session_id or model_id is empty")
    started_s = _finite(row.request_arrival_delta_s, "request_arrival_delta_s")
    ended_ms = round((started_s + row.api_time_s) * 1000)
    total_ms = row.api_time_s * 1000
    ttft_ms = None if row.ttft_s is None else row.ttft_s * 1000
    tpot_ms = None
    if ttft_ms is not None and row.output_tokens > 1:
        tpot_ms = (total_ms - ttft_ms) / (row.output_tokens - 1)
    # A session belongs to one customer, so that its calls stay together.
    digest = hashlib.blake2b(row.session_id.encode(), digest_size=6).digest()
    tenant, team, key = _made_up(int.from_bytes(digest, "little"))
    return Timed(
        ended_ms / 1000,
        Call(
            at_ms=ended_ms,
            started_at_ms=round(started_s * 1000),
            gateway=context.gateway,
            call_id=f"{context.run}-{row.session_id[:64]}-{row.turn_index}",
            provider="anthropic",
            model=row.model_id[:256],
            tenant=tenant,
            team=team,
            key_alias=key,
            conversation_id=row.session_id[:256],
            stream={"s": True, "n": False}.get(row.request_type),
            total_ms=total_ms,
            ttft_ms=ttft_ms,
            tpot_ms=tpot_ms,
            usage_source="provider",
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
            tags={"trace": "coding-agent"},
        ),
    )


# --- TensorZero ------------------------------------------------------------------------------------


class _InferenceRow(Struct):
    id: str
    function_name: str
    variant_name: str
    episode_id: str
    input: str
    output: str
    processing_time_ms: float | None = None


class _FeedbackRow(Struct):
    id: str
    target_id: str
    value: bool | float | str
    metric_name: str = "comment"


class _CacheRow(Struct):
    long_cache_key: str
    timestamp: str
    raw_response: str
    output: str = ""


class _Keys(Struct):
    """The keys that tell TensorZero's tables apart."""

    function_name: msgspec.Raw = msgspec.Raw()
    target_id: msgspec.Raw = msgspec.Raw()
    raw_response: msgspec.Raw = msgspec.Raw()


_keys_decoder: Final = msgspec.json.Decoder(_Keys)
_inference_decoder: Final = msgspec.json.Decoder(_InferenceRow)
_feedback_decoder: Final = msgspec.json.Decoder(_FeedbackRow)
_cache_decoder: Final = msgspec.json.Decoder(_CacheRow)

# The table says function and variant; which model a variant calls stands in the configuration
# that the rows were made with (tensorzero/tensorzero, ui/fixtures/config/tensorzero.toml).
_VARIANT_MODELS: Final[dict[tuple[str, str], tuple[str, str]]] = {
    ("answer_question", "baseline"): ("openai", "gpt-4o-mini-2024-07-18"),
    ("write_haiku", "initial_prompt_gpt4o_mini"): ("openai", "gpt-4o-mini-2024-07-18"),
    ("write_haiku", "better_prompt_haiku_3_5"): ("anthropic", "claude-3-5-haiku-20241022"),
    ("image_judger", "honest_answer"): ("openai", "gpt-4o-mini-2024-07-18"),
}


def _variant_model(function: str, variant: str) -> tuple[str, str]:
    """Provider and model of a variant; a dynamic variant is named ``provider::model``."""
    known = _VARIANT_MODELS.get((function, variant))
    if known:
        return known
    provider, separator, model = variant.partition("::")
    return (provider, model) if separator and provider and model else ("unknown", "unknown")


def _uuid7_s(text: str) -> float:
    """The time in a UUIDv7: its first 48 bits are milliseconds since 1970 (RFC 9562, 5.7)."""
    digits = text.replace("-", "")
    if len(digits) != 32 or digits[12] != "7":
        raise _BadLineError("id is not a UUIDv7, so it has no time")
    try:
        return int(digits[:12], 16) / 1000
    except ValueError:
        raise _BadLineError("id is not a UUIDv7, so it has no time") from None


def _text_blocks(content: Any) -> Iterator[str]:
    """The texts in a message's content: a string, or blocks of which some hold text."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for block in content:
            if isinstance(block, dict):
                text = block.get("text") or block.get("value")
                yield text if isinstance(text, str) else ""


def _parts(document: str, name: str) -> Any:
    """A JSON document that TensorZero stores as a string in a column."""
    try:
        return msgspec.json.decode(document)
    except msgspec.DecodeError:
        raise _BadLineError(f"{name} does not hold a JSON document") from None


def _inference(line: bytes, context: _Context) -> Timed:
    row = _inference_decoder.decode(line)
    started_s = _finite(_uuid7_s(row.id), "id")
    took_ms = row.processing_time_ms
    if took_ms is not None and not 0 <= took_ms <= _DURATION_MOST_S * 1000:
        raise _BadLineError("processing_time_ms is negative or longer than a week")
    given = _parts(row.input, "input")
    if not isinstance(given, dict) or not isinstance(given.get("messages", []), list):
        raise _BadLineError("input is not an object with a list of messages")
    messages = given.get("messages", [])
    system = given.get("system")
    texts = [system] if isinstance(system, str) else []
    for message in messages:
        if isinstance(message, dict):
            texts += _text_blocks(message.get("content"))
    provider, model = _variant_model(row.function_name, row.variant_name)
    tenant, team, key = _made_up(sum(row.episode_id.encode()))
    started_ms = round(started_s * 1000)
    ended_ms = started_ms + round(took_ms or 0)
    return Timed(
        ended_ms / 1000,
        Call(
            at_ms=ended_ms,
            started_at_ms=started_ms,
            gateway=context.gateway,
            # Not the run's: feedback names its call by this id.
            call_id=row.id,
            provider=provider[:256],
            model=model[:256],
            deployment=f"{row.function_name}/{row.variant_name}"[:256],
            tenant=tenant,
            team=team,
            key_alias=key,
            conversation_id=row.episode_id[:256],
            total_ms=took_ms,
            usage_source="missing",
            message_count=len(messages) + bool(system),
            input_chars=sum(map(len, texts)),
            input_text="\n".join(texts)[: LIMITS.text_chars] if context.texts else None,
            output_text=(
                "\n".join(_text_blocks(_parts(row.output, "output")))[: LIMITS.text_chars]
                if context.texts
                else None
            ),
            tags={"trace": "tensorzero"},
        ),
    )


def _feedback(line: bytes, context: _Context) -> Timed:
    row = _feedback_decoder.decode(line)
    at_s = _finite(_uuid7_s(row.id), "id")
    if not row.target_id or not row.metric_name:
        raise _BadLineError("target_id or metric_name is empty")
    is_text = isinstance(row.value, str)
    return Timed(
        at_s,
        Feedback(
            at_ms=round(at_s * 1000),
            gateway=context.gateway,
            call_id=row.target_id[:256],
            name=row.metric_name[:256],
            score=None if is_text else float(row.value),
            comment=str(row.value)[: LIMITS.text_chars] if is_text and context.texts else None,
        ),
    )


def _cached_response(line: bytes, number: int, context: _Context) -> Timed:
    row = _cache_decoder.decode(line)
    at_s = _utc_s(row.timestamp, "timestamp")
    answer = _parts(row.raw_response, "raw_response")
    if not isinstance(answer, dict):
        raise _BadLineError("raw_response is not an object")
    provider = "anthropic" if answer.get("type") == "message" else "openai"
    model = answer.get("model")
    usage = answer.get("usage")
    if not isinstance(model, str) or not model:
        raise _BadLineError("raw_response names no model")
    if not isinstance(usage, Mapping):
        raise _BadLineError("raw_response holds no usage")
    try:
        counts = read_usage(provider, usage, model)
    except UsageError as error:
        raise _BadLineError(f"usage refused: {error}") from None
    choices = answer.get("choices")
    finish = answer.get("stop_reason")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        finish = choices[0].get("finish_reason")
    tier = answer.get("service_tier") or usage.get("service_tier")
    response_id = answer.get("id")
    tenant, team, key = _made_up(number)
    return Timed(
        at_s,
        Call(
            at_ms=round(at_s * 1000),
            started_at_ms=round(at_s * 1000),
            gateway=context.gateway,
            call_id=f"{context.run}-{row.long_cache_key[:64]}",
            provider=provider,
            model=model[:256],
            response_model=model[:256],
            response_id=response_id[:256] if isinstance(response_id, str) else "",
            service_tier=tier[:256] if isinstance(tier, str) else "",
            finish_reason=finish[:256] if isinstance(finish, str) else "",
            stream=False,
            tenant=tenant,
            team=team,
            key_alias=key,
            usage_source="provider",
            output_text=(
                "\n".join(_text_blocks(_parts(row.output, "output")))[: LIMITS.text_chars]
                if context.texts
                else None
            ),
            tags={"trace": "tensorzero"},
            **{name: value for name, value in msgspec.structs.asdict(counts).items() if value is not None},
        ),
    )


def _tensorzero(line: bytes, number: int, context: _Context) -> Timed:
    keys = _keys_decoder.decode(line)
    if bytes(keys.function_name):
        return _inference(line, context)
    if bytes(keys.target_id):
        return _feedback(line, context)
    if bytes(keys.raw_response):
        return _cached_response(line, number, context)
    raise _BadLineError(
        "not a row of chat_inference (function_name), feedback (target_id) "
        "or model_inference_cache (raw_response)"
    )


# --- Our own NDJSON --------------------------------------------------------------------------------


def _ndjson(line: bytes, number: int, context: _Context) -> Timed | _Untimed:
    event = decode_line(line)
    if isinstance(event, Reject):
        if context.raw:
            return _Untimed(None, line)
        raise _BadLineError(f"{event.reason}: {event.detail}")
    offset_s = event.at_ms / 1000
    if context.raw:
        return Timed(offset_s, line)
    # A replay is another emitter's: its numbers are the replay's own.
    event.emitter_id = ""
    event.seq = None
    return Timed(offset_s, event)


FORMATS: Final[dict[str, TraceFormat]] = {
    "azure": TraceFormat(
        _azure, True, True, "Azure LLM inference traces: TIMESTAMP,ContextTokens,GeneratedTokens (csv)"
    ),
    "mooncake": TraceFormat(_mooncake, False, True, "Mooncake FAST'25 traces (jsonl)"),
    # The published file is two samples of the same week, one after the other.
    "ragpulse": TraceFormat(_ragpulse, False, False, "RAGPulse 0_trace.jsonl"),
    # Sessions one after the other, each on a clock of its own.
    "coding-agent": TraceFormat(_coding_agent, False, False, "coding agent sessions, normalised (jsonl)"),
    "tensorzero": TraceFormat(
        _tensorzero, True, False, "TensorZero chat_inference, feedback and model_inference_cache rows (jsonl)"
    ),
    "ndjson": TraceFormat(_ndjson, True, True, "gatewatch events, one a line; - is standard input"),
}


class Trace:
    """The events of one or many files of one format, in the order of their times.

    Parameters
    ----------
    name
        One of :data:`FORMATS`.
    paths
        Files, ``.gz`` decompressed on the way; ``-`` is standard input. Several are merged by time.
    run
        Goes into the ids of calls that the trace does not name, so that two replays are two sets of calls.
    gateway
        The gateway of the events; ``trace-<format>`` unless given. Our own NDJSON keeps its own.
    texts
        Whether prompts, answers and comments that a trace holds are put into the events.
    raw
        For ``ndjson``: every line goes on byte for byte, those that are no event as well.
    on_skip
        Called for each line that became no event.

    Attributes
    ----------
    lines_total, skipped_total
        Counted while iterating: lines that hold something, and those of them that became no event.
    absolute
        Whether the items' times are dates (seconds since 1970), not seconds since the trace's start.

    Raises
    ------
    UnknownFormatError
        There is no such format, or ``raw`` was asked of another than ``ndjson``.
    TraceError
        While iterating: a file cannot be read, or is damaged.
    """

    def __init__(
        self,
        name: str,
        paths: Iterable[str | Path],
        *,
        run: str,
        gateway: str | None = None,
        texts: bool = False,
        raw: bool = False,
        on_skip: Callable[[Skip], None] | None = None,
    ) -> None:
        if name not in FORMATS:
            raise UnknownFormatError(f"no format {name!r}; known are {', '.join(FORMATS)}")
        if raw and name != "ndjson":
            raise UnknownFormatError(f"only ndjson can be sent byte for byte, not {name}")
        self.name = name
        self.absolute = FORMATS[name].absolute
        self.lines_total = 0
        self.skipped_total = 0
        self._format = FORMATS[name]
        self._paths = [str(path) for path in paths]
        self._run = run
        self._gateway = gateway or f"trace-{name}"
        self._texts = texts
        self._raw = raw
        self._on_skip = on_skip

    def __iter__(self) -> Iterator[Timed]:
        streams = [self._items(path) for path in self._paths]
        due = operator.attrgetter("offset_s")
        if not self._format.in_order:
            return iter(sorted((item for stream in streams for item in stream), key=due))
        return streams[0] if len(streams) == 1 else heapq.merge(*streams, key=due)

    def _items(self, path: str) -> Iterator[Timed]:
        stem = "stdin" if path == "-" else Path(path).name.split(".")[0]
        context = _Context(self._run, self._gateway, self._texts, stem[:64], self._raw)
        read = self._format.reader
        last_s = 0.0
        for number, ended in enumerate(_lines(path), start=1):
            line = ended.removesuffix(b"\n") if self._raw else ended.rstrip(b"\r\n")
            if not line.strip():
                continue
            try:
                item = read(line, number, context)
            except _BadLineError as error:
                self._skip(path, number, str(error))
            except UnicodeDecodeError:
                self._skip(path, number, "not UTF-8")
            except RecursionError:
                self._skip(path, number, "nests too deep")
            except msgspec.DecodeError as error:
                # Of msgspec's messages only those about enumerations quote the input; no row has any.
                self._skip(path, number, str(error))
            else:
                if item is None:
                    continue
                self.lines_total += 1
                # A raw line that is no event has no time: it goes with its neighbour before it.
                last_s = last_s if item.offset_s is None else item.offset_s
                yield Timed(last_s, item.payload)

    def _skip(self, path: str, line: int, reason: str) -> None:
        self.lines_total += 1
        self.skipped_total += 1
        if self._on_skip:
            self._on_skip(Skip(path, line, reason))


def _lines(path: str) -> Iterator[bytes]:
    """A file's lines with their ends, decompressed if it is gzip; ``-`` is standard input."""
    try:
        if path == "-":
            yield from sys.stdin.buffer
            return
        with Path(path).open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if packed:
                with gzip.open(file, "rb") as unpacked:
                    yield from unpacked
            else:
                yield from file
    except (OSError, EOFError, zlib.error) as error:
        # A gzip file that ends too early, or is damaged, says so in three ways.
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TraceError(f"{path} cannot be read further: {why}") from error
