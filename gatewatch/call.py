"""One call from its start to its end: what ``emitter.call(...)`` gives to a gateway.

It measures, reads usage and outcome from what the provider returned, and emits one ``call``
event (or, with ``split=True``, ``request``, ``token``, ``response`` and ``latency``). It does not
change what passes through it: answers and chunks are handed on as they are, exceptions pass
unchanged, and nothing of its own ever raises into the caller's code, except for a field name
that does not exist.

When a call ends:

====================================  ==============================================
``finish(response)``                  a whole answer
the wrapped stream is exhausted       ``stream_end`` ``complete``
closed or collected before its end    ``client_disconnect``
the provider's iterator raises        ``upstream_error``, or ``timeout`` for a timeout
the block is cancelled or closed      ``client_disconnect`` where a stream is open
the block raises                      the exception's class; a stream that is open then
                                      ends as ``timeout`` or ``client_disconnect``
====================================  ==============================================

The event is emitted when the ``with`` block ends, or, for a stream that outlives the block,
with the stream.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, Required, Self, TypedDict, TypeVar, cast, overload

from gatewatch.chunk import Answer, read_answer, read_chunk
from gatewatch.events import LIMITS, Call, Event, Latency, Request, Response, Token
from gatewatch.failure import classify
from gatewatch.usage import Usage, UsageError, usage_of, usage_of_chunk

if TYPE_CHECKING:
    from types import TracebackType

    from gatewatch.events import ErrorClass, StreamEnd

__all__ = ["AsyncCallStream", "CallOptions", "CallStream", "OpenCall"]

_log = logging.getLogger("gatewatch.emitter")
_Chunk = TypeVar("_Chunk")
_Response = TypeVar("_Response")

_TEXT_CHARS: Final = LIMITS.text_chars


class CallOptions(TypedDict, total=False):
    """What a gateway knows when a call starts; see :class:`gatewatch.events.CallEvent`."""

    provider: Required[str]
    model: Required[str]
    call_id: str
    operation: str
    deployment: str
    tenant: str
    team: str
    key_alias: str
    user_hash: str
    conversation_id: str
    tags: dict[str, str]
    stream: bool
    max_output_tokens: int
    message_count: int
    input_chars: int
    prefix_hashes: list[int]
    input_text: str
    """The prompt: only sent because it is given here."""
    attempt: int
    queue_ms: float
    record_output: bool
    """Send the answer's text too. Off unless asked for."""
    split: bool
    """Send ``request``, ``token``, ``response`` and ``latency`` instead of one ``call``."""


_IDENTITY: Final = frozenset(
    {
        *("at_ms", "gateway", "environment", "emitter_id", "seq", "v"),
        *("call_id", "started_at_ms", "provider", "model", "operation", "deployment", "tenant"),
        *("team", "key_alias", "user_hash", "conversation_id", "tags"),
    }
)
_REQUEST_FIELDS: Final = frozenset(Request.__struct_fields__) - _IDENTITY
_LATENCY_FIELDS: Final = frozenset(Latency.__struct_fields__) - _IDENTITY
_RESPONSE_FIELDS: Final = frozenset(Response.__struct_fields__) - _IDENTITY - _LATENCY_FIELDS
_FIELDS: Final = (frozenset(Call.__struct_fields__) | _REQUEST_FIELDS) - {"emitter_id", "seq", "v", "at_ms"}
_OUTCOME_FIELDS: Final = _RESPONSE_FIELDS | _LATENCY_FIELDS
_USAGE_FIELDS: Final = tuple(Usage.__struct_fields__)


class OpenCall:
    """A call under way. Use it in a ``with`` or ``async with`` block.

    Examples
    --------
    >>> from gatewatch.testing import RecordingEmitter
    >>> emitter = RecordingEmitter(gateway="eu-1")
    >>> with emitter.call(provider="openai", model="gpt-4o", tenant="acme") as call:
    ...     usage = {"prompt_tokens": 9, "completion_tokens": 2}
    ...     answer = call.finish({"model": "gpt-4o-2024", "usage": usage})
    >>> emitter.calls[0].input_tokens, emitter.calls[0].response_model
    (9, 'gpt-4o-2024')
    """

    def __init__(self, emit: Callable[[Event], None], options: CallOptions) -> None:
        fields: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        self._record_output = bool(fields.pop("record_output", False))
        self._split = bool(fields.pop("split", False))
        _check_names(fields)
        # An event without these would be refused by the worker, and the call not counted.
        for name in ("provider", "model"):
            fields[name] = fields.get(name) or "unknown"
        fields["call_id"] = fields.get("call_id") or os.urandom(16).hex()
        self._emit = emit
        self._fields = fields
        self._said = set(fields)
        """Names of what the gateway has set: nothing measured or read replaces it."""
        self._began_s = time.perf_counter()
        fields.setdefault("started_at_ms", time.time_ns() // 1_000_000)
        self._in_block = False
        self._streams = 0
        self._sent = False
        self._forget()

    def _forget(self) -> None:
        """Start anew: a gateway that tries again within the block means the last try."""
        for name in _OUTCOME_FIELDS - self._said:
            self._fields.pop(name, None)
        self._ended_s: float | None = None
        self._stream_open = False
        self._finished = False
        self._usage: Usage | None = None
        self._usage_broken = False
        self._first_s: float | None = None
        self._last_s = 0.0
        self._gap_s: float | None = None
        self._texts: list[str] = []
        self._text_chars = 0

    # ------------------------------------------------------------------ what a gateway calls

    @property
    def call_id(self) -> str:
        """Joins everything that is said about this call; give it to feedback and evaluations."""
        call_id: str = self._fields["call_id"]
        return call_id

    def set(self, **fields: Any) -> None:
        """Say what only the gateway knows; any field of :class:`gatewatch.events.Call`.

        What is set here wins over what is measured or read.

        Raises
        ------
        TypeError
            There is no such field.
        """
        _check_names(fields)
        self._fields.update(fields)
        self._said.update(fields)

    def finish(self, response: _Response, *, status_code: int | None = None) -> _Response:
        """The provider has answered. Reads usage and outcome, and returns ``response`` unchanged."""
        self._forget()
        self._end()
        if status_code is not None:
            self._fields.setdefault("status_code", status_code)
        try:
            self._usage = usage_of(response)
        except UsageError as error:
            self._complain(error)
        except Exception as error:
            self._puzzled(error)
        try:
            facts = read_answer(response, with_text=self._record_output)
            self._note(facts)
            if facts.text:
                self._texts.append(facts.text[:_TEXT_CHARS])
            if facts.error is not None:
                self._note_error(status_code, response, None)
        except Exception as error:
            self._puzzled(error)
        return response

    def fail(
        self, error: BaseException | None = None, *, status_code: int | None = None, body: object = None
    ) -> None:
        """The call has failed without an exception that leaves the block.

        Parameters
        ----------
        error
            The exception that was handled, if any.
        status_code
            The provider's HTTP status.
        body
            The provider's answer, as bytes, text or parsed JSON. Only its class is sent.
        """
        self._end()
        if self._stream_open:
            self._end_stream(_stream_end(error, upstream=True))
        self._note_error(status_code, body, error)

    @overload
    def stream(self, source: AsyncIterable[_Chunk]) -> AsyncCallStream[_Chunk]: ...

    @overload
    def stream(self, source: Iterable[_Chunk]) -> CallStream[_Chunk]: ...

    def stream(
        self, source: Iterable[_Chunk] | AsyncIterable[_Chunk]
    ) -> CallStream[_Chunk] | AsyncCallStream[_Chunk]:
        """Wrap a provider's stream: the same chunks, measured.

        The wrapper has the attributes of ``source`` and can be returned from the block: the call
        then ends with the stream.
        """
        self._forget()
        self._fields["stream"] = True
        self._stream_open = True
        self._streams += 1
        if not isinstance(source, AsyncIterable):
            return CallStream(self, source)
        if not isinstance(source, Iterable):
            return AsyncCallStream(self, source)
        return _EitherCallStream(self, source)  # LiteLLM's streams can be read both ways

    def __enter__(self) -> Self:
        self._in_block = True
        if self._split:
            self._send(Request, _REQUEST_FIELDS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._in_block = False
        if error is not None:
            if self._stream_open:
                self._end_stream(_stream_end(error, upstream=False))
            self._end()
            self._note_error(None, None, error)
        elif self._stream_open:
            return  # it outlives the block, and ends the call when it ends
        self._close()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)

    # ------------------------------------------------------------------ what streams call

    def _saw(self, chunk: object) -> None:
        now_s = time.perf_counter()
        try:
            # Names come with the first chunks, and the tier that counts with the last.
            names = self._first_s is None or self._finished
            facts = read_chunk(chunk, with_text=self._record_output, with_names=names)
        except Exception as error:
            self._puzzled(error)
            return
        if facts.channel is not None:
            if self._first_s is None:
                self._first_s = now_s
                self._fields.setdefault("ttft_ms", self._ms(now_s))
                if self._split:
                    self._send(Token, frozenset({"ttft_ms"}))
            else:
                self._gap_s = max(self._gap_s or 0.0, now_s - self._last_s)
            self._last_s = now_s
            if facts.channel == "answer":
                self._fields.setdefault("ttfat_ms", self._ms(now_s))
        self._note(facts)
        self._finished = self._finished or facts.finished
        if facts.text and self._text_chars < _TEXT_CHARS:
            self._texts.append(facts.text[: _TEXT_CHARS - self._text_chars])
            self._text_chars += len(self._texts[-1])
        if facts.error is not None:
            self._fields.setdefault("stream_end", "upstream_error")
            self._note_error(None, facts.error, None)
        if not self._usage_broken:
            try:
                self._usage = usage_of_chunk(chunk, self._usage)
            except UsageError as error:
                self._usage_broken = True
                self._complain(error)
            except Exception as error:
                self._puzzled(error)

    def _exhausted(self) -> None:
        if self._stream_open:
            self._end_stream("complete")
        self._close_outside()

    def _broke(self, error: BaseException) -> None:
        """The provider's iterator raised."""
        if isinstance(error, asyncio.CancelledError) and self._in_block:
            return  # asyncio.timeout() within the block turns it into TimeoutError: its end will tell
        if self._stream_open:
            self._end_stream(_stream_end(error, upstream=True))
            self._note_error(None, None, error)
        self._close_outside()

    def _abandoned(self, stream: int) -> None:
        """Closed or collected before its end; after the provider's last word that is its end."""
        if not self._stream_open or stream != self._streams:
            return
        if self._finished:
            self._end_stream("complete")
        else:
            self._end_stream("client_disconnect")
            self._fields.setdefault("error_class", "cancelled")
        self._close_outside()

    # ------------------------------------------------------------------ how it ends

    def _end(self) -> None:
        if self._ended_s is None:
            self._ended_s = time.perf_counter()

    def _end_stream(self, how: StreamEnd) -> None:
        self._end()
        self._stream_open = False
        self._fields.setdefault("stream_end", how)

    def _close_outside(self) -> None:
        if not self._in_block:
            self._close()

    def _ms(self, now_s: float) -> float:
        return round((now_s - self._began_s) * 1_000, 3)

    def _note(self, facts: Answer) -> None:
        fields = self._fields
        # Of names the first counts. Of these the last: OpenAI's responses start with the tier that
        # was asked for ("auto") and end with the one that served.
        for name in ("finish_reason", "service_tier"):
            if (value := getattr(facts, name)) and name not in self._said:
                fields[name] = value
        for name in ("response_model", "response_id"):
            if value := getattr(facts, name):
                fields.setdefault(name, value)

    def _note_error(self, status_code: int | None, body: object, error: BaseException | None) -> None:
        fields = self._fields
        if status_code is None:
            status_code = _status_of(error)
        if status_code is not None:
            fields.setdefault("status_code", status_code)
        error_class: ErrorClass
        if isinstance(error, GeneratorExit | asyncio.CancelledError | KeyboardInterrupt):
            error_class = "cancelled"
        else:
            error_class = classify(status_code, body, error)
        fields.setdefault("error_class", error_class)
        if error is not None:
            fields.setdefault("error_type", type(error).__name__[:256])

    def _close(self) -> None:
        """Emit, once."""
        if self._sent:
            return
        self._sent = True
        self._end()
        try:
            self._complete()
            if self._split:
                self._send(Response, _RESPONSE_FIELDS)
                told = {"ttft_ms"} if self._first_s is not None else set()
                self._send(Latency, _LATENCY_FIELDS - told)
            else:
                self._send(Call, _FIELDS)
        except Exception as error:
            self._puzzled(error)

    def _complete(self) -> None:
        """Fill in what follows from the rest; what the gateway has set stays."""
        fields = self._fields
        total_ms = self._ms(self._ended_s or 0.0)
        if self._usage is not None:
            for name in _USAGE_FIELDS:
                value = getattr(self._usage, name)
                if value is not None and value != {}:
                    fields.setdefault(name, value)
            fields.setdefault("usage_source", "provider")
        # A call that failed has used nothing that anybody tells; a stream that was cut has, untold.
        elif ("error_class" not in fields or "stream_end" in fields) and not any(
            name in fields for name in _USAGE_FIELDS
        ):
            fields.setdefault("usage_source", "missing")
        fields.setdefault("total_ms", total_ms)
        if self._gap_s is not None:
            fields.setdefault("max_gap_ms", round(self._gap_s * 1_000, 3))
        tokens, ttft_ms = fields.get("output_tokens"), fields.get("ttft_ms")
        if isinstance(tokens, int) and tokens > 1 and ttft_ms is not None:
            fields.setdefault("tpot_ms", round(max(0.0, fields["total_ms"] - ttft_ms) / (tokens - 1), 3))
        if self._texts:
            fields.setdefault("output_text", "".join(self._texts))

    def _send(self, kind: type[Call | Request | Token | Response | Latency], names: frozenset[str]) -> None:
        known = set(kind.__struct_fields__)
        values = {
            name: value
            for name, value in self._fields.items()
            if value is not None and name in known and (name in names or name in _IDENTITY)
        }
        values.setdefault("gateway", "")  # the emitter's
        self._emit(kind(at_ms=time.time_ns() // 1_000_000, **values))

    def _complain(self, error: UsageError) -> None:
        # Its message names fields and counts, never texts.
        _log.warning("the provider's usage was not counted: %s", error)

    def _puzzled(self, error: Exception) -> None:
        _log.warning("an answer could not be read (%s); its call is sent without it", type(error).__name__)


class CallStream(Generic[_Chunk]):
    """A provider's stream, measured; made by :meth:`OpenCall.stream`."""

    def __init__(self, call: OpenCall, source: Iterable[_Chunk]) -> None:
        self._source = source
        self._chunks = iter(source)
        self._number = call._streams
        self._call = call

    def __iter__(self) -> Iterator[_Chunk]:
        return self

    def __next__(self) -> _Chunk:
        try:
            chunk = next(self._chunks)
        except StopIteration:
            self._call._exhausted()
            raise
        except BaseException as error:
            self._call._broke(error)
            raise
        self._call._saw(chunk)
        return chunk

    def close(self) -> None:
        """Stop reading: what the client's disconnect does. Closes the provider's stream too."""
        self._call._abandoned(self._number)
        close = getattr(self._source, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_source"], name)

    def __del__(self) -> None:
        if "_call" in self.__dict__:
            self._call._abandoned(self._number)


class AsyncCallStream(Generic[_Chunk]):
    """A provider's asynchronous stream, measured; made by :meth:`OpenCall.stream`."""

    def __init__(self, call: OpenCall, source: AsyncIterable[_Chunk]) -> None:
        self._source = source
        self._chunks = aiter(source)
        self._number = call._streams
        self._call = call

    def __aiter__(self) -> AsyncIterator[_Chunk]:
        return self

    async def __anext__(self) -> _Chunk:
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self._call._exhausted()
            raise
        except BaseException as error:
            self._call._broke(error)
            raise
        self._call._saw(chunk)
        return chunk

    async def aclose(self) -> None:
        """Stop reading: what the client's disconnect does. Closes the provider's stream too."""
        self._call._abandoned(self._number)
        # Generators have aclose(), the SDKs' streams an asynchronous close().
        close = getattr(self._source, "aclose", None) or getattr(self._source, "close", None)
        closing = close() if close is not None else None
        if isinstance(closing, Awaitable):
            await closing

    close = aclose

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_source"], name)

    def __del__(self) -> None:
        if "_call" in self.__dict__:
            self._call._abandoned(self._number)


class _EitherCallStream(AsyncCallStream[_Chunk]):
    """A stream that can be read synchronously too, as its source."""

    def __iter__(self) -> Iterator[_Chunk]:
        sync = CallStream(self._call, cast("Iterable[_Chunk]", self._source))
        self._number = -1  # the other one speaks for the stream now: this one's end is no disconnect
        return sync


def _check_names(fields: Mapping[str, object]) -> None:
    for name in fields:
        if name not in _FIELDS:
            raise TypeError(f"a call has no field {name!r}; see gatewatch.Call")


def _stream_end(error: BaseException | None, *, upstream: bool) -> StreamEnd:
    """How a stream ended that an exception cut, raised by the provider's iterator or around it."""
    if error is None:
        return "upstream_error"
    if isinstance(error, GeneratorExit | asyncio.CancelledError | KeyboardInterrupt | SystemExit):
        return "client_disconnect"
    if classify(None, error=error) == "timeout":
        return "timeout"
    # Around it: the gateway could not, or would not, go on writing to its client.
    return "upstream_error" if upstream else "client_disconnect"


def _status_of(error: BaseException | None) -> int | None:
    """The HTTP status that SDKs' and HTTP clients' exceptions carry."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "status", "code"):
            try:
                status = getattr(holder, name, None)
            except Exception:  # somebody else's property
                status = None
            if isinstance(status, int) and not isinstance(status, bool) and 100 <= status <= 599:
                return status
    return None
