"""A running engine process for the tests of this room, and what they say to it."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest

from sinks.clickhouse import Sink
from sinks.migration import migrate
from streams.process import end, spawn, tail


@dataclass(frozen=True)
class Answer:
    """What the engine answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def code(self) -> int:
        """ClickHouse's error code, 0 for none."""
        return int(self.headers.get("X-ClickHouse-Exception-Code", "0"))


@dataclass(frozen=True)
class RunningEngine:
    """An engine process."""

    process: subprocess.Popen[bytes]
    data: Path
    port: int
    writer_password: str
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def sink(self) -> Sink:
        """A connection of the writer's."""
        return Sink(self.url, "writer", self.writer_password)

    def ask(
        self,
        sql: str | bytes,
        user: str = "reader",
        headers: Mapping[str, str] | None = None,
        /,
        **parameters: str,
    ) -> Answer:
        """One request on a connection of its own, the statement in the body."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request(
                "POST",
                "/?" + urlencode(parameters),
                sql.encode() if isinstance(sql, str) else sql,
                self.credentials(user) | dict(headers or {}),
            )
            response = connection.getresponse()
            return Answer(response.status, dict(response.headers.items()), response.read())
        finally:
            connection.close()

    def credentials(self, user: str) -> dict[str, str]:
        password = {"X-ClickHouse-Key": self.writer_password} if user == "writer" else {}
        return {"X-ClickHouse-User": user} | password

    def write(self, sql: str | bytes, **parameters: str) -> str:
        """A statement of the writer's that must succeed."""
        answer = self.ask(sql, "writer", None, **parameters)
        assert answer.status == 200, answer.text
        return answer.text

    def read(self, sql: str, **parameters: str) -> str:
        """A reader's query that must succeed."""
        answer = self.ask(sql, "reader", None, **parameters)
        assert answer.status == 200, answer.text
        return answer.text


def start_engine(directory: Path, *options: str) -> RunningEngine:
    """Start an engine on a free port and wait until it says that it is ready."""
    log = directory / "engine.log"
    data = directory / "data"
    command = [sys.executable, "-m", "sinks.engine", "--data", str(data), "--port", "0", *options]
    process = spawn(command, log=log, capture=True)
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    if not line.startswith("ready http://"):
        end(process, 5)
        raise AssertionError(f"the engine did not start: {line}{tail(log)}")
    port = int(line.strip().rpartition(":")[2])
    return RunningEngine(process, data, port, (data / "engine.token").read_text().strip())


def start_store(directory: Path) -> RunningEngine:
    """Start an engine that has all tables and views, whose rows stay however old they are."""
    running = start_engine(directory)
    with contextlib.closing(running.sink()) as sink:
        migrate(sink)
        sink.command("SYSTEM STOP TTL MERGES")
    return running


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    """One engine process for the whole session, with an empty database `gatewatch`."""
    running = start_engine(tmp_path_factory.mktemp("engine"))
    yield running
    assert end(running.process, 30), "the engine did not stop on SIGTERM"


def wait_for(what: str, seconds: float, ready: object) -> None:
    """Poll a condition until it holds or a deadline passes."""
    assert callable(ready)
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.01)
