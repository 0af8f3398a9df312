"""The ClickHouse engine inside this process (chDB): one data directory, sessions, cancellation.

chDB lets one process own a data directory. Inside that process every connection is a session of
its own: current database and settings do not leak, queries of different connections run side by
side, and chDB releases the interpreter while a query runs. A query is cancelled from another
connection, by `KILL QUERY`; the engine gives every query an identifier of its own, so a session
is found by its `log_comment`, which it cannot change.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import itertools
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

_SETTING_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ERROR: Final = re.compile(r"Code: (\d+)\. DB::Exception: (.*)", re.DOTALL)
_ERROR_NAME: Final = re.compile(r"\(([A-Z][A-Z0-9_]+)\)\s*$")
_NESTED: Final = re.compile(r"Code: \d+\. DB::Exception: ")
_INPUT_ECHO: Final = re.compile(r"(?s)(Column values:|ERROR:|before: |Row \d+:|Buffer has gone).*")

# The first lines of the tables' defaults: what an insert survives. A crash of the process loses
# nothing either way; a power cut does without these.
_DURABLE: Final = "<fsync_after_insert>1</fsync_after_insert><fsync_part_directory>1</fsync_part_directory>"


class EngineInUseError(RuntimeError):
    """Another process owns the data directory."""


class EngineError(RuntimeError):
    """The engine refused or failed a statement.

    Attributes
    ----------
    code:
        ClickHouse's error code, for example 62 for a syntax error.
    name:
        Its name, for example SYNTAX_ERROR.
    """

    def __init__(self, code: int, name: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.name = name

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what chDB throws: `Code: N. DB::Exception: what. (NAME)`."""
        found = _ERROR.search(text)
        if not found:
            return cls(1002, "UNKNOWN_EXCEPTION", text.strip())
        message = _NESTED.sub("", found[2]).strip()
        named = _ERROR_NAME.search(message)
        name = named[1] if named else "UNKNOWN_EXCEPTION"
        message = re.sub(rf"(\s*\(version [^)]*\)\.?)|(\s*\({name}\))", "", message).strip()
        return cls(int(found[1]), name, message)

    def without_input(self) -> EngineError:
        """Give the same error without the part that quotes the rows of an insert."""
        return EngineError(self.code, self.name, _INPUT_ECHO.sub("(the row is not shown)", str(self)))

    def __str__(self) -> str:
        return str(self.args[0])


class Session:
    """One connection to the engine. Not for concurrent use; any thread may use it in turn."""

    def __init__(self, connection: Any, tag: str) -> None:
        self._connection = connection
        self.tag = tag

    def query(
        self, sql: str, output_format: str = "TabSeparated", parameters: Mapping[str, str] | None = None
    ) -> Any:
        """Run a statement and return chDB's whole result (`get_memview()`, `bytes()`, counts).

        Raises
        ------
        EngineError
            What the engine said.
        """
        try:
            return self._connection.query(sql, output_format, params=dict(parameters or {}))
        except RuntimeError as error:
            raise EngineError.parse(str(error)) from None

    def text(self, sql: str, parameters: Mapping[str, str] | None = None) -> str:
        """Run a statement and return its result as text, values as they are (TSVRaw)."""
        return str(self.query(sql, "TSVRaw", parameters).bytes().decode("utf-8", "replace"))

    def stream(
        self, sql: str, output_format: str, parameters: Mapping[str, str] | None = None
    ) -> Iterator[memoryview]:
        """Run a SELECT and yield its result block by block, each a whole document of the format.

        A result without rows yields what the format has for none (the schema of an Arrow stream,
        for example). A block is valid until the next one is asked for. After closing the generator
        early, `Embedded.cancel` ends the query.
        """
        try:
            running = self._connection.send_query(sql, output_format, params=dict(parameters or {}))
            first = True
            while True:
                block = self._connection.streaming_fetch_result(running)
                ended = block is None or block.rows_read() == 0
                if block is not None and (first or not ended):
                    # The wrapper owns the bytes: it stays referenced while the caller reads them.
                    wrapper = block.get_memview()
                    yield memoryview(wrapper.view())
                if ended:
                    return
                first = False
        except RuntimeError as error:
            raise EngineError.parse(str(error)) from None

    def classify(self, sql: str) -> tuple[str, int]:
        """Say what a text would do without running it: class (READ_ONLY, ...) and statements."""
        verdict = self._connection.classify_query(sql)
        return verdict["query_class"].name, int(verdict["statement_count"])

    def set(self, settings: Mapping[str, str]) -> None:
        """Change settings of this session."""
        if settings:
            self.query(
                "SET " + ", ".join(f"{_name(key)} = {quote(value)}" for key, value in settings.items())
            )

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()


class Embedded:
    """The engine over one data directory, owned by this process until closed.

    Parameters
    ----------
    data:
        The data directory of the stack; the engine lives in `data/engine`.
    durable:
        Inserts reach the disk before they are acknowledged (`fsync_after_insert`).

    Raises
    ------
    EngineInUseError
        Another process owns the directory; the message names it.
    """

    def __init__(self, data: Path, *, durable: bool = True) -> None:
        if "?" in str(data) or "&" in str(data):
            raise ValueError(f"the data directory's name must not contain '?' or '&': {data}")
        data.mkdir(parents=True, exist_ok=True)
        self.path = data.absolute() / "engine"
        self._lock = _lock(data / "engine.lock", self.path)
        self.path.mkdir(exist_ok=True)
        configuration = data.absolute() / "engine.xml"
        configuration.write_text(
            f"<clickhouse><merge_tree>{_DURABLE if durable else ''}</merge_tree></clickhouse>\n"
        )
        _chdb: Any = importlib.import_module("chdb._chdb")
        # The process decides what a signal means, not the engine.
        _chdb.set_signal_handlers_enabled(0)
        self._connect: Callable[[str], Any] = _chdb.connect
        self._address = f"{self.path}?config-file={configuration}"
        self._tags = itertools.count(1)
        self._admin_lock = threading.Lock()
        self._admin = self.session()
        self.version = self._admin.text("SELECT version()").strip()
        self.timezone = self._admin.text("SELECT timezone()").strip()

    def session(self, settings: Mapping[str, str] | None = None, *, database: str | None = None) -> Session:
        """Open a connection with these settings; 0.7 ms.

        Raises
        ------
        EngineError
            An unknown setting or database.
        """
        tag = f"session-{os.getpid()}-{next(self._tags)}"
        session = Session(self._connect(self._address), tag)
        try:
            if database is not None:
                session.query(f"USE {quote_identifier(database)}")
            # ClickHouse's server does not read `VALUES (1)` as SELECT VALUES(1); chDB would.
            session.set({"log_comment": tag, "implicit_select": "0", **(settings or {})})
        except BaseException:
            session.close()
            raise
        return session

    def cancel(self, session: Session) -> None:
        """Cancel what the session runs now; returns at once, the query ends within its block."""
        with self._admin_lock, contextlib.suppress(EngineError):
            self._admin.query(f"KILL QUERY WHERE Settings['log_comment'] = {quote(session.tag)} ASYNC")

    def administer(self, sql: str) -> str:
        """Run a statement of the engine's own, on a connection nobody else uses."""
        with self._admin_lock:
            return self._admin.text(sql)

    def announce(self, url: str) -> None:
        """Write into the directory's lock where this process serves it (`served_at`)."""
        os.pwrite(self._lock, f"{os.getpid()}\n{url}\n".encode(), 0)

    def close(self) -> None:
        """Close the engine and let the directory go."""
        self._admin.close()
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def served_at(data: Path) -> str | None:
    """Where the process that owns a data directory serves it.

    Returns
    -------
    str | None
        Its URL, empty when it does not serve yet, None when no process owns the directory.
    """
    try:
        descriptor = os.open(data / "engine.lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        lines = os.read(descriptor, 512).decode("ascii", "replace").split("\n")
        return lines[1] if len(lines) > 1 else ""
    else:
        return None
    finally:
        os.close(descriptor)


def quote(text: str) -> str:
    """Write a text as a string literal of ClickHouse's SQL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def quote_identifier(name: str) -> str:
    """Write a name as a quoted identifier of ClickHouse's SQL."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _name(setting: str) -> str:
    if not _SETTING_NAME.fullmatch(setting):
        raise EngineError(115, "UNKNOWN_SETTING", f"{setting[:60]!r} is not the name of a setting")
    return setting


def _lock(path: Path, engine: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # Who only looks whether the directory is served (`served_at`) holds the lock for a moment.
    for attempt in range(5):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if attempt < 4:
                time.sleep(0.02)
    else:
        owner, url, *_ = [*os.read(descriptor, 512).decode("ascii", "replace").split("\n"), "", ""]
        os.close(descriptor)
        raise EngineInUseError(
            f"process {owner or 'unknown'} owns {engine}{url and ' and serves it at ' + url}: "
            "stop it, or use another directory"
        )
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
