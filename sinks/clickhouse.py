"""The one way to ClickHouse: a server or the embedded engine, over ClickHouse's HTTP interface.

``chdb:///path`` opens the engine in this process instead: for unit tests and offline commands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError

from sinks.native import CALL_TYPES, encode_block
from sinks.schema import STORE

__all__ = ["Sink", "SinkError"]

# One block an insert, in the order given, acknowledged when it is stored: what delivery rests on.
_INSERT: Final = {
    "async_insert": 0,
    "input_format_parallel_parsing": 0,
    "max_insert_threads": 1,
    "min_insert_block_size_rows": 0,
    "min_insert_block_size_bytes": 0,
    "max_insert_block_size": 10_000_000,
    "input_format_null_as_default": 1,
    # A sparse backlog touches many days at once; refused (code 252), it would be tried again for ever.
    "max_partitions_per_insert_block": 0,
    # Rows are merged later anyway; sorting out repeats within a block costs 0.5-0.9 us a row.
    "optimize_on_insert": 0,
}
_SILENT: Final = "the sink did not answer as expected"
_QUOTES_NAMES: Final = frozenset((60, 81))
"""Codes, unknown table and database, whose messages quote a name where others quote a value."""


class SinkError(Exception):
    """ClickHouse refused or did not answer. The message never holds rows or statements' values.

    ``code`` is ClickHouse's error code, or None when there was no answer.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class Sink:
    """A connection. Not for several threads at once: each makes its own.

    Parameters
    ----------
    url
        ``http://host:port``, ``https://...`` or ``chdb:///path``.
    timeout_s
        For one insert or query; a worker's must stay well below ``max.poll.interval``.
    """

    def __init__(
        self, url: str, user: str = "writer", password: str = "", *, timeout_s: float = 60, **settings: Any
    ) -> None:
        self.url = url
        try:
            if url.startswith("chdb:"):
                self._client = clickhouse_connect.get_client(dsn=url)
            else:
                parts = urlsplit(url)
                self._client = clickhouse_connect.get_client(
                    host=parts.hostname or "localhost",
                    port=parts.port or (8443 if parts.scheme == "https" else 8123),
                    interface=parts.scheme or "http",
                    username=user,
                    password=password,
                    connect_timeout=5,
                    send_receive_timeout=timeout_s,
                    compress=False,
                    autogenerate_session_id=False,
                    settings=settings or None,
                )
        except Exception as error:
            raise _sink_error(error, f"cannot connect to {_place(url)}") from None

    def insert(self, table: str, rows: pa.Table, **settings: Any) -> None:
        """Insert one block; ``settings`` are ClickHouse's, for this insert.

        Raises
        ------
        SinkError
            It may or may not have been stored: insert it again.
        """
        body, format_name = _encoded(table, rows)
        try:
            self._client.raw_insert(
                table, rows.column_names, body, settings=_INSERT | settings, fmt=format_name
            )
        except Exception as error:
            raise _sink_error(error, f"insert of {rows.num_rows} rows into {table} failed") from None

    def insert_raw(self, table: str, body: bytes, format_name: str, **settings: Any) -> None:
        """Insert bytes in one of ClickHouse's formats.

        Raises
        ------
        SinkError
            They may or may not have been stored.
        """
        try:
            self._client.raw_insert(table, insert_block=body, settings=_INSERT | settings, fmt=format_name)
        except Exception as error:
            raise _sink_error(error, f"insert of {len(body)} bytes into {table} failed") from None

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        """Rows of a query; ``{name:Type}`` in it are bound from ``parameters``.

        Raises
        ------
        SinkError
            ClickHouse refused the query or did not answer.
        """
        try:
            return self._client.query(sql, parameters=dict(parameters or {})).result_rows
        except Exception as error:
            raise _sink_error(error, "query failed") from None

    def table(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """The same as an Arrow table.

        Raises
        ------
        SinkError
            ClickHouse refused the query or did not answer.
        """
        try:
            return self._client.query_arrow(sql, parameters=dict(parameters or {}))
        except Exception as error:
            raise _sink_error(error, "query failed") from None

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Run a statement that gives no rows.

        Raises
        ------
        SinkError
            ClickHouse refused the statement, or did not answer and may or may not have run it.
        """
        try:
            self._client.command(sql, parameters=dict(parameters or {}))
        except Exception as error:
            raise _sink_error(error, "statement failed") from None

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _encoded(table: str, rows: pa.Table) -> tuple[bytes, str]:
    """Rows as bytes, and their format; nearly all are calls, which are worth an encoding of their own."""
    if table == f"{STORE}.calls":
        return encode_block(rows, CALL_TYPES), "Native"
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=max(rows.num_rows, 1))
    return sink.getvalue().to_pybytes(), "ArrowStream"


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _sink_error(error: Exception, what: str) -> SinkError:
    code = getattr(error, "code", None)
    if code is None and isinstance(error, OperationalError) and error.__cause__ is not None:
        # Its text is that of the HTTP client, which says much about itself.
        return SinkError(f"{what}: {type(error.__cause__).__name__}: no answer")
    if isinstance(error, ClickHouseError) or code is not None:
        # ClickHouse echoes rows that it cannot read: keep the first line up to the first quoted value.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else _SILENT
        marks = ("(at row", "Row 1:", "while processing row", ": While executing", "[query:", " In scope")
        for mark in marks if code in _QUOTES_NAMES else (*marks, "'"):
            reason = reason.partition(mark)[0]
        column = re.search(r"while converting column `(\w+)`", str(error))
        where = f" in column {column[1]}" if column else ""
        message = f"{what}: {reason[:300].rstrip(' :')}{where}"
        return SinkError(message, code if isinstance(code, int) else None)
    return SinkError(f"{what}: {type(error).__name__}: no answer")
