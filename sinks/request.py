"""A request of ClickHouse's HTTP interface: its line and headers, its body, its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from sinks.compression import Decoder, decoder
from sinks.embedded import EngineError

MAX_LINE_BYTES: Final = 1 << 20  # a GET carries its query in the request line


MAX_HEADERS: Final = 100


_PIECE: Final = 1 << 20


# Parameters of the interface itself, as far as they mean nothing here.
_TRANSPORT: Final = frozenset(
    {
        "buffer_size",
        "wait_end_of_query",
        "session_id",
        "session_timeout",
        "session_check",
        "quota_key",
        "client_protocol_version",
        "send_progress_in_http_headers",
        "http_headers_progress_interval_ms",
        "role",
        "compress",
        "decompress",
        "log_comment",
        "close_session",
        "http_write_exception_in_output_format",
        "add_http_cors_header",
    }
)


class HttpError(Exception):
    """A request that is not understood as HTTP; the connection ends with it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Body:
    """A request's body: by length or in chunks, decompressed, never beyond its limit."""

    def __init__(self, stream: BufferedReader[Any], headers: Mapping[str, str], limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._taken = 0
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        length = headers.get("content-length", "0").strip()
        if not length.isascii() or not length.isdigit():
            raise HttpError(400, "Content-Length is not a number")
        if self._chunked and "content-length" in headers:
            raise HttpError(400, "a body has a length or comes in chunks, not both")
        self._left = 0 if self._chunked else int(length)
        self._ended = not self._chunked and self._left == 0
        self._decoder: Decoder | None = decoder(headers.get("content-encoding", ""))
        self.size_hint = self._left

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Yield the plain body; a piece is valid until the next one is asked for."""
        for piece in self._raw():
            plain = self._decoder.decompress(piece) if self._decoder else piece
            self._taken += len(plain)
            if self._taken > self._limit:
                raise HttpError(413, f"the body is larger than {self._limit} bytes")
            if len(plain):
                yield plain

    def read(self) -> bytes:
        """Read the whole plain body."""
        return b"".join(bytes(piece) for piece in self.pieces())

    def _raw(self) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(min(_PIECE, max(self._left, 1 << 16))))
        while not self._ended:
            if self._chunked and self._left == 0:
                size = self._stream.readline(64).split(b";")[0].strip()
                try:
                    self._left = int(size, 16)
                except ValueError:
                    raise HttpError(400, "a chunk of the body has no length") from None
                if self._left < 0:
                    raise HttpError(400, "a chunk of the body has a negative length")
                if self._left == 0:
                    while self._stream.readline(MAX_LINE_BYTES).strip():
                        pass
                    self._ended = True
                    return
            taken = self._stream.readinto(buffer[: min(len(buffer), self._left)])
            if not taken:
                raise ConnectionError("the client left in the middle of a body")
            self._left -= taken
            if self._left == 0:
                if self._chunked:
                    self._stream.readline(8)
                else:
                    self._ended = True
            yield buffer[:taken]

    def drain(self, limit: int = 1 << 20) -> bool:
        """Skip what is left of the body; False when that is too much to be worth it."""
        skipped = 0
        try:
            for piece in self._raw():
                skipped += len(piece)
                if skipped > limit:
                    return False
        except (HttpError, OSError):
            return False
        return True


@dataclass
class Request:
    """One request, its parameters and who asks."""

    method: str
    path: str
    headers: dict[str, str]
    parameters: dict[str, str]
    keep_alive: bool
    query_id: str = ""
    user: str = ""

    @classmethod
    def receive(cls, stream: BufferedReader[Any]) -> Request | None:
        """Read a request up to its body; None when the client has left.

        Raises
        ------
        HttpError
            It is not HTTP, or larger than any request of ours.
        """
        line = stream.readline(MAX_LINE_BYTES + 1)
        if not line:
            return None
        if len(line) > MAX_LINE_BYTES:
            raise HttpError(400, "the request line is too long: send the query in the body")
        try:
            method, target, version = line.decode("latin-1").split()
        except ValueError:
            raise HttpError(400, "this is not an HTTP request") from None
        headers: dict[str, str] = {}
        while True:
            line = stream.readline(1 << 16)
            if line in (b"\r\n", b"\n"):
                break
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon or not line.endswith(b"\n"):
                raise HttpError(400, "a header has no colon")
            key = name.lower()
            if key in headers and key in ("content-length", "transfer-encoding", "host"):
                raise HttpError(400, f"two headers {name}")
            headers[key] = value.strip()
            if len(headers) > MAX_HEADERS:
                raise HttpError(431, "too many headers")
        address = urlsplit(target)
        parameters = dict(parse_qsl(address.query, keep_blank_values=True, max_num_fields=1000))
        keep_alive = headers.get("connection", "").lower() != "close" and version == "HTTP/1.1"
        return cls(method, address.path, headers, parameters, keep_alive)

    @property
    def bindings(self) -> dict[str, str]:
        """Values of the query's `{name:Type}` parameters."""
        return {key[6:]: value for key, value in self.parameters.items() if key.startswith("param_")}

    @property
    def settings(self) -> dict[str, str]:
        """Engine settings of the query."""
        own = {
            "query",
            "query_id",
            "user",
            "password",
            "database",
            "default_format",
            "enable_http_compression",
        }
        return {
            key: value
            for key, value in self.parameters.items()
            if key not in own
            and key not in _TRANSPORT
            and not key.startswith("param_")
            and key != "cancel_http_readonly_queries_on_client_close"
        }


def form(request: Request, body: bytes) -> str:
    """Read a multipart form: the query and its parameters, as clickhouse-connect sends long ones."""
    from email import message_from_bytes, policy

    message = message_from_bytes(
        b"Content-Type: " + request.headers["content-type"].encode("latin-1") + b"\r\n\r\n" + body,
        policy=policy.HTTP,
    )
    query = request.parameters.get("query", "")
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        if part.get_filename() is not None:
            raise EngineError(48, "NOT_IMPLEMENTED", "External tables are not served here")
        payload = part.get_payload(decode=True)
        value = payload.decode("utf-8", "replace") if isinstance(payload, bytes) else ""
        if name == "query":
            query += value
        elif isinstance(name, str):
            request.parameters[name] = value
    return query


def is_true(value: str | None) -> bool:
    """Whether a parameter is switched on."""
    return (value or "").lower() in ("1", "true")
