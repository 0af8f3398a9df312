"""`gatewatch query`: SQL against a server, the embedded engine, or a data directory at rest."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import sys
import uuid
from collections.abc import Iterator
from typing import IO, Annotated, Any, Final
from urllib.parse import urlencode, urlsplit

import typer

from gatewatch.cli.connection import Data, Url, failures_said, password_of, served_address
from gatewatch.cli.message import CommandError, wrong_usage
from gatewatch.cli.row import CsvFormat, CsvOutput, visible

_TABLE_ROWS: Final = 1000
_HELD_BACK_BYTES: Final = 1 << 14  # an error in the middle of an answer is shorter
_CONNECT_TIMEOUT_S: Final = 10


_CLICKHOUSE: Final = {
    CsvFormat.TABLE: "JSONCompactStringsEachRowWithNamesAndTypes",
    CsvFormat.JSON: "JSONEachRow",
    CsvFormat.CSV: "CSVWithNames",
}


def command(
    sql: Annotated[str, typer.Argument(help="One statement; - reads it from standard input.")],
    output: CsvOutput = None,
    url: Url = None,
    data: Data = None,
    user: Annotated[str, typer.Option("--user", help="reader or writer, or a server's user.")] = "reader",
    password: Annotated[
        str | None, typer.Option("--password", help="Better by environment, see below.", show_default=False)
    ] = None,
) -> None:
    """Run one SQL statement and print its rows.

    Asks --url; or the engine that serves --data, and when none does, opens the directory itself
    for the time of the query; or GATEWATCH_CLICKHOUSE_URL; or the directory GATEWATCH_DATA_DIR.
    The user reader reads the views of database gatewatch. Passwords: GATEWATCH_READER_PASSWORD for
    reader, GATEWATCH_CLICKHOUSE_PASSWORD for other users, engine.token of --data for writer.
    Ctrl-C cancels the query.

    Example: gatewatch query "SELECT model, count() FROM calls GROUP BY model" --format csv
    """
    text = sys.stdin.read() if sql == "-" else sql
    if not text.strip():
        wrong_usage("query", "no SQL: give a statement, or - and a statement on standard input")
    chosen = output or (CsvFormat.TABLE if sys.stdout.isatty() else CsvFormat.JSON)
    with failures_said("query", "cancelled"), served_address(url, data, "query") as (address, directory):
        secret = password if password is not None else password_of(user, directory)
        _Query(address, user, secret, text).run(chosen)


class _Query:
    """One query over HTTP."""

    def __init__(self, url: str, user: str, password: str, sql: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CommandError(f"{url!r} is no address of a server: http://HOST:PORT is wanted")
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._url = url.rstrip("/")
        self._headers = {"X-ClickHouse-User": user, "X-ClickHouse-Key": password}
        self._sql = sql
        self._query_id = f"gatewatch-query-{uuid.uuid4()}"

    def run(self, output: CsvFormat) -> None:
        """Send the query, write its rows to standard output."""
        wanted = _CLICKHOUSE[output]
        parameters = {
            "query_id": self._query_id,
            "database": "gatewatch",
            "default_format": wanted,
        }
        if self._headers["X-ClickHouse-User"] != "reader":
            parameters["cancel_http_readonly_queries_on_client_close"] = "1"
        connection = self._connect()
        try:
            connection.request("POST", "/?" + urlencode(parameters), self._sql.encode(), self._headers)
            assert connection.sock is not None
            connection.sock.settimeout(None)  # a query takes its time; Ctrl-C ends it
            response = connection.getresponse()
            if response.status != 200:
                raise CommandError(_error(response.read().decode("utf-8", "replace")))
            pieces = _pieces(response)
            # A FORMAT clause in the statement wins, and its bytes are passed on as they are.
            if output is CsvFormat.TABLE and response.headers.get("X-ClickHouse-Format", wanted) == wanted:
                _print_table(pieces)
            else:
                _copy(pieces, sys.stdout.buffer)
        except KeyboardInterrupt:
            self._cancel()
            raise
        except (http.client.HTTPException, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise CommandError(
                f"{self._url} does not answer ({reason}): is it running? see --url and --data"
            ) from None
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=_CONNECT_TIMEOUT_S)

    def _cancel(self) -> None:
        connection = self._connect()
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request(
                "POST", "/", f"KILL QUERY WHERE query_id = '{self._query_id}' ASYNC".encode(), self._headers
            )
            connection.getresponse().read()
        connection.close()


def _pieces(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the answer as it comes; an error in its middle is an error, and no row."""
    tag = response.headers.get("X-ClickHouse-Exception-Tag", "")
    marker = f"\r\n__exception__\r\n{tag}\r\n".encode()
    held = b""
    try:
        while piece := response.read1(1 << 16):
            held += piece
            if len(held) > _HELD_BACK_BYTES:
                yield held[:-_HELD_BACK_BYTES]
                held = held[-_HELD_BACK_BYTES:]
    except http.client.IncompleteRead as error:
        held += error.partial
        rows, found, rest = held.partition(marker)
        yield rows
        raise CommandError(
            _error(rest.decode("utf-8", "replace")) if found else "the answer was cut off"
        ) from None
    rows, found, rest = held.partition(marker) if tag else (held, b"", b"")
    yield rows
    if found:
        raise CommandError(_error(rest.decode("utf-8", "replace")))


def _error(text: str) -> str:
    """Shorten ClickHouse's message to what a person needs."""
    found = re.match(r"(?s)\s*Code: (\d+)\. DB::Exception: (.*?) ?\(([A-Z_0-9]+)\)", text)
    message = f"{found[2]} ({found[3]}, code {found[1]})" if found else text.strip() or "no reason was given"
    message, found_list, _ = message.partition(" Expected one of: ")
    return message + (f" ({found[3]})" if found and found_list else "")


def _copy(pieces: Iterator[bytes], target: IO[bytes]) -> None:
    for piece in pieces:
        target.write(piece)
        target.flush()


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _print_table(pieces: Iterator[bytes]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    lines = _lines(pieces)
    names: list[str] = json.loads(next(lines, b"[]"))
    types: list[str] = json.loads(next(lines, b"[]"))
    if not names:
        for _ in lines:
            raise CommandError("the answer is no table: choose --format json or csv")
        console.print("Done.", style="dim")
        return
    table = Table()
    for name, kind in zip(names, types, strict=True):
        numeric = re.search(
            r"\b(U?Int|Float|Decimal|BFloat)\d*", kind
        ) is not None and "(" not in kind.replace("Nullable(", "").replace("LowCardinality(", "")
        table.add_column(
            Text(visible(name)), justify="right" if numeric or kind.startswith("Decimal") else "left"
        )
    shown = more = 0
    for line in lines:
        if shown == _TABLE_ROWS:
            more += 1
            continue
        row: list[Any] = json.loads(line)
        table.add_row(*(_cell(value, kind) for value, kind in zip(row, types, strict=True)))
        shown += 1
    console.print(table)
    if more:
        print(f"{more} more rows are not shown: add LIMIT, or use --format csv", file=sys.stderr)
    else:
        console.print(f"{shown} row{'' if shown == 1 else 's'}", style="dim")


def _cell(value: object, kind: str) -> Any:
    from rich.text import Text

    # The formats of strings write NULL so; a text that looks the same is of another type.
    if value is None or (value == "ᴺᵁᴸᴸ" and "Nullable(" in kind):
        return Text("NULL", style="dim")
    return Text(visible(value))
