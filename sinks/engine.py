"""ClickHouse's HTTP interface over the embedded engine: a process that owns a data directory.

Workers, `gatewatch query`, Grafana, clickhouse-connect and curl speak to it as to a ClickHouse
server. Two users: `writer`, who may do everything and needs the token in `DATA/engine.token`, and
`reader`, who may read the views (`sinks/read_only.py` says how that is kept) and needs no
password on loopback. docs/engine.md says what is served and what is not.

One thread serves one client connection and keeps its engine sessions; chDB releases the
interpreter while a query runs, so a long query holds up neither other clients nor inserts. An
insert's body goes into an anonymous file in memory that the engine maps: chDB's own streaming
insert swallows errors after parsing, an insert from a file raises them.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hmac
import ipaddress
import json
import os
import re
import secrets
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from sinks.compression import Encoder, accepted_encoder
from sinks.embedded import Embedded, EngineError, EngineInUseError, Session
from sinks.insert import Insert, memory_file, write_all
from sinks.output_format import CONTENT_TYPES, STREAMABLE, joined, trailing_format
from sinks.read_only import DATABASE, Guard, Permitted, reader_settings
from sinks.request import Body, HttpError, Request, form, is_true
from sinks.running_query import WRITER, Queries

READER: Final = "reader"

_MAX_SQL_BYTES: Final = 1 << 20
_HEAD_BYTES: Final = 1 << 18  # how far into a body an INSERT's data may begin (max_query_size)
# One block on one thread, stored when it is answered; readers' queries (priority 10) give way to it.
_INSERT_SETTINGS: Final = {
    "input_format_parallel_parsing": "0",
    "max_threads": "1",
    "async_insert": "0",
    "priority": "1",
}
_SESSIONS_KEPT: Final = 4
_SEND_TIMEOUT_S: Final = 60.0
_IDLE_TIMEOUT_S: Final = 300.0

# ClickHouse's src/Server/HTTP/exceptionCodeToHTTPStatus.cpp, for the codes met here.
_STATUS: Final = (
    {194: 401, 192: 403, 193: 403, 516: 403, 497: 403, 48: 501, 411: 411, 159: 408, 202: 503, 745: 503}
    | dict.fromkeys(
        (6, 26, 27, 28, 33, 36, 38, 41, 43, 50, 53, 62, 69, 70, 72, 108, 117, 130, 131, 167, 168), 400
    )
    | dict.fromkeys((306, 307, 386, 456, 457, 469), 400)
    | dict.fromkeys((46, 47, 60, 81, 115, 141, 16, 218), 404)
)
_REASON: Final = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}


@dataclass(frozen=True)
class Options:
    """How an engine serves.

    Attributes
    ----------
    host, port:
        Where it listens; port 0 takes a free one.
    reader_password:
        Needed as soon as the host is not loopback; None lets `reader` in without one.
    durable:
        Inserts reach the disk before they are acknowledged.
    connections_max, readers_max:
        Clients served at a time, and queries of `reader` running at a time.
    body_max_bytes:
        Largest body of an insert, after decompression: it is held in memory.
    """

    host: str = "127.0.0.1"
    port: int = 8123
    reader_password: str | None = None
    durable: bool = True
    connections_max: int = 128
    readers_max: int = 4
    reader_wait_s: float = 10.0
    body_max_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        if not self.loopback and not self.reader_password:
            raise ValueError(
                f"{self.host} can be reached from other machines: give the reader a password "
                "(GATEWATCH_READER_PASSWORD) or listen on 127.0.0.1"
            )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def writer_token(data: Path) -> str:
    """Read the writer's password from `data/engine.token`, or make one (mode 0600)."""
    path = data / "engine.token"
    with contextlib.suppress(FileNotFoundError):
        token = path.read_text().strip()
        if token:
            return token
    token = secrets.token_urlsafe(32)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
    partial.replace(path)
    return token


class Engine:
    """The server: listens, hands every connection to a thread, drains when told to stop."""

    def __init__(self, data: Path, options: Options | None = None) -> None:
        self.options = options or Options()
        self.embedded = Embedded(data, durable=self.options.durable)
        self.token = writer_token(data)
        # Where views will be: a reader may come before the first migration.
        self.embedded.administer(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")
        self.queries = Queries(self.embedded)
        self.guard = Guard(self.embedded)
        self.readers = threading.BoundedSemaphore(self.options.readers_max)
        self.draining = threading.Event()
        self._clients: dict[Client, threading.Thread] = {}
        self._lock = threading.Lock()
        family = socket.AF_INET6 if ":" in self.options.host else socket.AF_INET
        self._listener = socket.create_server(
            (self.options.host, self.options.port), family=family, backlog=128, reuse_port=False
        )
        self.port: int = self._listener.getsockname()[1]
        self.embedded.announce(self.url)

    @property
    def url(self) -> str:
        """Where the server listens."""
        host = f"[{self.options.host}]" if ":" in self.options.host else self.options.host
        return f"http://{host}:{self.port}"

    def serve(self) -> None:
        """Accept connections until `stop`."""
        while not self.draining.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                break
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = Client(self, connection)
            with self._lock:
                if len(self._clients) >= self.options.connections_max:
                    client.refuse()
                    continue
                thread = threading.Thread(target=self._serve_one, args=(client,), name="client", daemon=True)
                self._clients[client] = thread
            thread.start()

    def _serve_one(self, client: Client) -> None:
        try:
            client.serve()
        finally:
            with self._lock:
                self._clients.pop(client, None)

    def stop(self, timeout_s: float = 30.0) -> None:
        """Refuse new work, cancel reads, finish running inserts, close the engine."""
        self.draining.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.queries.kill_all(READER)
        deadline = time.monotonic() + timeout_s
        with self._lock:
            clients = dict(self._clients)
        for client in clients:
            client.hang_up_if_idle()
        for thread in clients.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        self.guard.close()
        self.embedded.close()


class Client:
    """One connection: reads requests, runs them, answers; keeps engine sessions between them."""

    def __init__(self, engine: Engine, connection: socket.socket) -> None:
        self._engine = engine
        self._connection = connection
        self._stream = BufferedReader(socket.SocketIO(connection, "r"), 1 << 16)
        self._sessions: dict[tuple[Any, ...], Session] = {}
        self._idle = True
        self._answered = False

    def refuse(self) -> None:
        """Answer that there are too many connections, and close."""
        with contextlib.suppress(OSError):
            self._connection.settimeout(1.0)
            self._answer(503, b"Code: 202. DB::Exception: Too many connections.\n", {"Connection": "close"})
        self._close()

    def hang_up_if_idle(self) -> None:
        """End a connection that waits for its next request."""
        if self._idle:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def serve(self) -> None:
        """Serve requests until the client leaves or the engine drains."""
        try:
            while not self._engine.draining.is_set():
                self._idle = True
                self._connection.settimeout(_IDLE_TIMEOUT_S)
                request = Request.receive(self._stream)
                if request is None or self._engine.draining.is_set():
                    return
                self._idle = False
                self._connection.settimeout(_SEND_TIMEOUT_S)
                if not self._handle(request):
                    return
        except HttpError as error:
            with contextlib.suppress(OSError):
                self._answer(error.status, f"{error}\n".encode(), {"Connection": "close"})
        except (OSError, ValueError):
            pass  # the client has left, or stopped reading
        finally:
            self._close()

    def _close(self) -> None:
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        with contextlib.suppress(OSError):
            self._stream.close()
        # A client that is still sending would lose our answer to a reset.
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
        self._connection.close()

    # ---- one request ---------------------------------------------------------------------------

    def _handle(self, request: Request) -> bool:
        """Answer a request; False when the connection must end."""
        self._answered = False
        if request.method not in ("GET", "POST", "HEAD", "PUT"):
            raise HttpError(405, f"{request.method} is not served: use GET or POST")
        if request.path == "/ping" or (request.path == "/" and request.method == "HEAD"):
            self._answer(
                200, b"Ok.\n", {"Content-Type": "text/html; charset=UTF-8"}, head=request.method == "HEAD"
            )
            return request.keep_alive
        if request.path not in ("/", "/query"):
            self._answer(404, b"There is no handle here: send queries to /\n", {})
            return False
        limit = self._engine.options.body_max_bytes
        request.query_id = request.parameters.get("query_id") or str(uuid.uuid4())
        body: Body | None = None
        try:
            request.user = self._authenticate(request)
            self._check_origin(request)
            body = Body(self._stream, request.headers, limit if request.user == WRITER else _MAX_SQL_BYTES)
            if request.headers.get("expect", "").lower() == "100-continue":
                self._connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            if request.user == WRITER:
                self._write(request, body)
            else:
                self._read(request, body)
        except EngineError as error:
            return self._fail(request, error) and (body is not None and body.drain()) and request.keep_alive
        return body.drain() and request.keep_alive

    def _authenticate(self, request: Request) -> str:
        headers, parameters = request.headers, request.parameters
        user, password = parameters.pop("user", None), parameters.pop("password", None)
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if "x-clickhouse-user" in headers or "x-clickhouse-key" in headers:
            user, password = headers.get("x-clickhouse-user"), headers.get("x-clickhouse-key")
        elif scheme.lower() == "basic":
            try:
                user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
            except ValueError:
                raise HttpError(400, "the Authorization header cannot be read") from None
        user = user or READER
        given = (password or "").encode()
        if user == WRITER:
            allowed = hmac.compare_digest(given, self._engine.token.encode())
        elif user == READER:
            expected = (self._engine.options.reader_password or "").encode()
            allowed = not expected or hmac.compare_digest(given, expected)
        else:
            allowed = False
        if not allowed:
            raise EngineError(
                516,
                "AUTHENTICATION_FAILED",
                f"{user[:60]}: Authentication failed: wrong password, or no such user. "
                "(Users are reader and writer; the writer's password is in engine.token of the data.)",
            )
        return user

    def _check_origin(self, request: Request) -> None:
        """Refuse a web page's request: a name that an attacker points at 127.0.0.1 is not ours."""
        if request.user != READER or self._engine.options.reader_password:
            return
        host = urlsplit("//" + request.headers.get("host", "localhost")).hostname or ""
        if host != "localhost":
            try:
                if ipaddress.ip_address(host).is_loopback:
                    return
            except ValueError:
                pass
            raise EngineError(516, "AUTHENTICATION_FAILED", "reader connects by 127.0.0.1 or localhost")

    # ---- writer --------------------------------------------------------------------------------

    def _write(self, request: Request, body: Body) -> None:
        pieces = body.pieces()
        statement = request.parameters.get("query", "").encode()
        head = bytearray(statement + b"\n" if statement else b"")
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            for piece in pieces:
                head += piece
            head = bytearray(form(request, bytes(head)).encode())
        else:
            for piece in pieces:
                head += piece
                if len(head) >= _HEAD_BYTES:
                    break
        insert = Insert.parse(bytes(head[: _HEAD_BYTES + len(statement)]))
        if insert is not None:
            with memory_file() as file:
                write_all(file, memoryview(head)[insert.data_at :])
                for piece in pieces:
                    write_all(file, piece)
                self._insert(request, insert, file)
            return
        for piece in pieces:
            head += piece
        if not head.strip():
            if request.method == "GET":
                self._answer(200, b"Ok.\n", {"Content-Type": "text/html; charset=UTF-8"})
                return
            raise EngineError(62, "SYNTAX_ERROR", "Empty query")
        sql = head.decode("utf-8", "surrogateescape")
        self._statement(request, sql)

    def _insert(self, request: Request, insert: Insert, file: int) -> None:
        settings = _INSERT_SETTINGS | request.settings
        session = self._session(WRITER, settings, request.parameters.get("database"))
        sql = insert.from_file(f"/proc/self/fd/{file}" if sys.platform == "linux" else f"/dev/fd/{file}")
        running = self._engine.queries.start(request.query_id, WRITER, session, None)
        started = time.monotonic_ns()
        try:
            result = session.query(sql, "TabSeparated", request.bindings)
        except EngineError as error:
            raise error.without_input() from None
        finally:
            self._engine.queries.finish(running, None)
        self._answer(200, b"", self._headers(request, "TabSeparated", _summary(result, started)))

    def _statement(self, request: Request, sql: str) -> None:
        session = self._session(WRITER, request.settings, request.parameters.get("database"))
        kind, statements = session.classify(sql)
        if statements > 1 and kind != "UNKNOWN":
            raise EngineError(62, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)")
        killed = _KILL.fullmatch(sql)
        if killed:
            self._kill(request, killed["id"], killed["mode"])
            return
        output = trailing_format(sql) or self._default_format(request)
        watch = kind == "READ_ONLY" and is_true(
            request.parameters.get("cancel_http_readonly_queries_on_client_close")
        )
        if kind != "READ_ONLY":
            self._engine.guard.forget()
        selects = re.match(r"\s*\(*\s*(SELECT|WITH)\b", sql, re.IGNORECASE) is not None
        try:
            self._run(request, session, sql, output, watch=watch, streams=selects and output in STREAMABLE)
        finally:
            if kind != "READ_ONLY":
                self._engine.guard.forget()
            if kind in ("CONTROL", "UNKNOWN"):
                self._forget(session)  # USE and SET last for their request only

    # ---- reader --------------------------------------------------------------------------------

    def _read(self, request: Request, body: Body) -> None:
        statement = request.parameters.get("query", "")
        text = body.read()
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            sql = form(request, text)
        else:
            sql = "\n".join(part for part in (statement, text.decode("utf-8", "replace")) if part)
        if not sql.strip():
            if request.method == "GET":
                self._answer(200, b"Ok.\n", {"Content-Type": "text/html; charset=UTF-8"})
                return
            raise EngineError(62, "SYNTAX_ERROR", "Empty query")
        permitted = self._engine.guard.check(sql, request.bindings, request.parameters.get("database"))
        if permitted.kill is not None:
            self._kill(request, permitted.kill, "SYNC")
            return
        self._run_permitted(request, permitted)

    def _run_permitted(self, request: Request, permitted: Permitted) -> None:
        output = permitted.output_format or self._default_format(request)
        streams = permitted.streams and output in STREAMABLE
        settings = reader_settings(request.settings, streams=streams)
        session = self._session(READER, settings, DATABASE)
        if not self._engine.readers.acquire(timeout=self._engine.options.reader_wait_s):
            raise EngineError(
                202,
                "TOO_MANY_SIMULTANEOUS_QUERIES",
                f"Too many simultaneous queries of reader. Maximum: {self._engine.options.readers_max}",
            )
        try:
            self._run(request, session, permitted.sql, output, watch=True, streams=streams)
        finally:
            self._engine.readers.release()

    # ---- both ----------------------------------------------------------------------------------

    def _run(
        self, request: Request, session: Session, sql: str, output: str, *, watch: bool, streams: bool
    ) -> None:
        client = self._connection if watch else None
        running = self._engine.queries.start(request.query_id, request.user, session, client)
        started = time.monotonic_ns()
        completed = False
        try:
            if streams:
                self._send_stream(request, session.stream(sql, output, request.bindings), output)
            else:
                result = session.query(sql, output, request.bindings)
                wrapper = result.get_memview()
                headers = self._headers(request, output, _summary(result, started))
                self._send_whole(request, memoryview(wrapper.view()), headers)
            completed = True
        finally:
            if not completed and streams:
                self._engine.embedded.cancel(session)
                self._forget(session)
            self._engine.queries.finish(running, client)

    def _kill(self, request: Request, query_id: str, mode: str | None) -> None:
        killed = self._engine.queries.kill(query_id, request.user)
        for running in killed:
            if (mode or "ASYNC").upper() != "ASYNC":
                running.done.wait(30.0)
        lines = [
            f"{'finished' if running.done.is_set() else 'waiting'}\t{running.query_id}\t{running.user}"
            for running in killed
        ]
        body = "".join(line + "\n" for line in lines).encode()
        self._answer(200, body, self._headers(request, "TabSeparated", "{}"))

    def _session(self, user: str, settings: Mapping[str, str], database: str | None) -> Session:
        """A session with these settings: one that this connection has, or a new one."""
        name = "default" if database in (None, "", "__default__") else str(database)
        key = (user, name, *sorted(settings.items()))
        session = self._sessions.pop(key, None)
        if session is None:
            if len(self._sessions) >= _SESSIONS_KEPT:
                self._sessions.pop(next(iter(self._sessions))).close()
            session = self._engine.embedded.session(settings, database=name)
        self._sessions[key] = session
        return session

    def _forget(self, session: Session) -> None:
        for key, kept in list(self._sessions.items()):
            if kept is session:
                del self._sessions[key]
                session.close()

    @staticmethod
    def _default_format(request: Request) -> str:
        output = (
            request.parameters.get("default_format")
            or request.headers.get("x-clickhouse-format")
            or "TabSeparated"
        )
        if not re.fullmatch(r"\w+", output):
            raise EngineError(73, "UNKNOWN_FORMAT", f"Unknown format {output[:60]!r}")
        return output

    # ---- answers -------------------------------------------------------------------------------

    def _headers(self, request: Request, output: str, summary: str) -> dict[str, str]:
        return {
            "Content-Type": CONTENT_TYPES.get(output, "text/plain; charset=UTF-8"),
            "X-ClickHouse-Server-Display-Name": "gatewatch",
            "X-ClickHouse-Query-Id": _header_text(request.query_id),
            "X-ClickHouse-Format": output,
            "X-ClickHouse-Timezone": self._engine.embedded.timezone,
            "X-ClickHouse-Summary": summary,
        }

    def _send_whole(self, request: Request, data: memoryview, headers: dict[str, str]) -> None:
        encoder = _encoder(request)
        if encoder is None or len(data) < 1024:
            self._answer(200, data, headers, head=request.method == "HEAD")
        else:
            self._answer(
                200, encoder.compress(data) + encoder.flush(), headers | {"Content-Encoding": encoder.name}
            )

    def _send_stream(self, request: Request, blocks: Iterator[memoryview], output: str) -> None:
        """Send blocks as they come; the first one decides whether the answer is an error."""
        encoder = _encoder(request)
        blocks = joined(blocks, output)
        first = next(blocks, memoryview(b""))
        tag = secrets.token_hex(8)
        headers = self._headers(request, output, "{}") | {
            "Transfer-Encoding": "chunked",
            "X-ClickHouse-Exception-Tag": tag,
        }
        if encoder is not None:
            headers["Content-Encoding"] = encoder.name
        pending: memoryview | None = first
        started = False
        try:
            while pending is not None:
                data: Any = encoder.compress(pending) if encoder else pending
                start = b"" if started else self._start(200, headers)
                started = self._answered = True
                self._send_chunk(start, data)
                pending = next(blocks, None)
            self._send_chunk(b"", encoder.flush() if encoder else b"")
            self._connection.sendall(b"0\r\n\r\n")
        except EngineError as error:
            # Too late for a status: the error follows the rows, between markers; the body stays open.
            text = f"Code: {error.code}. DB::Exception: {error} ({error.name})".encode()[:4096]
            tail = b"\r\n__exception__\r\n%b\r\n%b\r\n%d %b\r\n__exception__\r\n" % (
                tag.encode(),
                text,
                len(text),
                tag.encode(),
            )
            self._send_chunk(b"", encoder.compress(tail) + encoder.flush() if encoder else tail)
            raise ConnectionError("the answer was cut off by an error") from error

    def _send_chunk(self, start: bytes, data: Any) -> None:
        size = len(data)
        if size == 0:
            if start:
                self._connection.sendall(start)
            return
        self._connection.sendall(b"%b%x\r\n" % (start, size))
        self._connection.sendall(data)
        self._connection.sendall(b"\r\n")

    def _fail(self, request: Request, error: EngineError) -> bool:
        """Answer an error; False when an answer had begun."""
        if self._answered:
            return False
        status = _STATUS.get(error.code, 500)
        version = self._engine.embedded.version
        text = f"Code: {error.code}. DB::Exception: {error} ({error.name}) (version {version})\n"
        headers = self._headers(request, "TabSeparated", "{}") | {
            "X-ClickHouse-Exception-Code": str(error.code)
        }
        if not request.user:
            headers |= {"Connection": "close"}
        self._answer(status, text.encode("utf-8", "replace"), headers)
        return True

    def _start(self, status: int, headers: Mapping[str, str]) -> bytes:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {status} {_REASON.get(status, 'Error')}\r\n{lines}\r\n".encode("latin-1", "replace")

    def _answer(self, status: int, data: Any, headers: Mapping[str, str], *, head: bool = False) -> None:
        self._answered = True
        start = self._start(status, {**headers, "Content-Length": str(len(data))})
        if head or len(data) == 0:
            self._connection.sendall(start)
        elif len(data) < 1 << 14:
            self._connection.sendall(start + bytes(data))
        else:
            self._connection.sendall(start)
            self._connection.sendall(data)


# ---- statements -------------------------------------------------------------------------------

_KILL: Final = re.compile(
    r"\s*KILL\s+QUERY\s+WHERE\s+`?query_id`?\s*=\s*'(?P<id>[^'\\]*)'\s*(?P<mode>SYNC|ASYNC)?\s*;?\s*",
    re.IGNORECASE,
)


def _summary(result: Any, started_ns: int) -> str:
    return json.dumps(
        {
            "read_rows": str(result.storage_rows_read()),
            "read_bytes": str(result.storage_bytes_read()),
            "written_rows": str(result.rows_written()),
            "written_bytes": str(result.bytes_written()),
            "total_rows_to_read": "0",
            "result_rows": str(result.rows_read()),
            "result_bytes": str(result.bytes_read()),
            "elapsed_ns": str(time.monotonic_ns() - started_ns),
        },
        separators=(",", ":"),
    )


# ---- bytes --------------------------------------------------------------------------------------


def _encoder(request: Request) -> Encoder | None:
    """Compress when the client asks for it, as ClickHouse does, and not because it could."""
    if not is_true(request.parameters.get("enable_http_compression")):
        return None
    return accepted_encoder(request.headers.get("accept-encoding", ""))


def _header_text(text: str) -> str:
    return re.sub(r"[^\x20-\x7e]", "?", text)[:200]


# ---- the process ----------------------------------------------------------------------------------


def run(data: Path, options: Options) -> int:
    """Serve until SIGTERM or SIGINT. Prints `ready URL` when it listens.

    Returns
    -------
    int
        Exit code: 0 after a clean stop, 1 when the directory or the port is in use.
    """
    try:
        engine = Engine(data, options)
    except EngineInUseError as error:
        print(f"gatewatch engine: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"gatewatch engine: cannot listen on {options.host}:{options.port}: {error.strerror}",
            file=sys.stderr,
        )
        return 1
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = threading.Thread(target=engine.serve, name="listener", daemon=True)
    server.start()
    print(f"ready {engine.url}", flush=True)
    stop.wait()
    engine.stop()
    return 0


def main(arguments: list[str] | None = None) -> int:
    """`python -m sinks.engine --data DIR --port N`."""
    parser = argparse.ArgumentParser(
        prog="python -m sinks.engine", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="data directory")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8123, help="port to listen on; 0 takes a free one")
    parser.add_argument("--no-fsync", action="store_true", help="do not wait for the disk after an insert")
    given = parser.parse_args(arguments)
    try:
        options = Options(
            host=given.host,
            port=given.port,
            reader_password=os.environ.get("GATEWATCH_READER_PASSWORD") or None,
            durable=not given.no_fsync,
        )
    except ValueError as error:
        print(f"gatewatch engine: {error}", file=sys.stderr)
        return 2
    return run(given.data, options)


if __name__ == "__main__":
    sys.exit(main())
