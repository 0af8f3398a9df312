"""The supervisor, with small stand-ins for the engine, the migrations and the workers.

The stand-ins do what the stack relies on and nothing else: they answer their health check, end on
SIGTERM and write down their environment. The real ones are run by tests/end_to_end.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from streams.broker import Broker, answers
from streams.process import STOPPED_FOR_GOOD, free_port
from streams.stack import Commands, Stack, StackError, running_stack

SERVER = """
import http.server, json, os, signal, sys, threading
role, notes = sys.argv[1], sys.argv[2]
arguments = sys.argv[3:]
fail = os.path.join(notes, f"fail-{role}")
if os.path.exists(fail):
    print(f"{role} cannot run: a reason", flush=True)
    sys.exit(int(open(fail).read() or 9))
port = int(os.environ["GATEWATCH_METRICS_PORT"]) if role == "worker" else int(arguments[3])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == {"worker": "/healthz", "engine": "/ping"}[role] else 404)
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
with open(os.path.join(notes, f"{role}-{os.getpid()}.json"), "w") as file:
    json.dump({"arguments": arguments, "environment": dict(os.environ)}, file)
def stop(*_):
    with open(os.path.join(notes, "stops"), "a") as file:
        file.write(role + "\\n")
    threading.Thread(target=server.shutdown).start()
signal.signal(signal.SIGTERM, stop)
server.serve_forever()
"""

MIGRATE = """
import json, os, sys
notes = sys.argv[2]
if os.path.exists(os.path.join(notes, "fail-migrate")):
    sys.exit("migration 0007 does not apply")
with open(os.path.join(notes, "migrate.json"), "w") as file:
    json.dump(dict(os.environ), file)
"""


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def start_up(data: Path, commands: Commands, directory: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start `gatewatch up` with the stand-ins."""
    stand_ins = [list(command) for command in (commands.engine, commands.migrate, commands.worker)]
    code = (
        "from streams import stack\n"
        "import typer\n"
        "from gatewatch.cli import up\n"
        f"stack.Commands.__init__.__defaults__ = tuple({stand_ins!r})\n"
        "typer.run(up.command)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, "--data", str(data), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=directory,
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes"
    path.mkdir()
    return path


@pytest.fixture
def commands(notes: Path) -> Commands:
    def command(code: str, role: str) -> list[str]:
        return [sys.executable, "-I", "-S", "-c", code, role, str(notes)]

    return Commands(
        engine=command(SERVER, "engine"),
        migrate=command(MIGRATE, "migrate"),
        worker=command(SERVER, "worker"),
    )


@pytest.fixture
def data(tmp_path: Path, broker: Broker) -> Path:
    """`broker` has seen to it that the jars are there."""
    return tmp_path / "data"


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def stack(data: Path, commands: Commands, reports: list[str]) -> Iterator[Stack]:
    stack = Stack(data, workers=2, commands=commands, report=reports.append)
    yield stack
    stack.stop()


def noted(notes: Path, role: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(notes.glob(f"{role}-*.json"))]


@pytest.mark.slow
def test_a_stack_starts_describes_itself_and_leaves_nothing(stack: Stack, data: Path, notes: Path) -> None:
    began = time.monotonic()
    stack.start()
    took_s = time.monotonic() - began
    assert took_s < 20  # generous: the machine may be busy; the target of 10 s is a benchmark's
    pids = stack.pids
    assert list(pids) == ["kafka", "engine", "worker-0", "worker-1"]
    assert answers(int(stack.bootstrap.rpartition(":")[2]))

    state = running_stack(data)
    assert state is not None
    assert state["bootstrap"] == stack.bootstrap
    assert state["engine_url"] == stack.engine_url
    assert state["pids"] == pids
    assert state["metrics_urls"] == stack.metrics_urls
    assert state["pid"] == os.getpid()

    token = data / "engine.token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.read_text().strip() == stack.writer_password
    assert len(stack.writer_password) > 40

    (engine,) = noted(notes, "engine")
    assert engine["arguments"][:2] == ["--data", str(data)]
    assert not [name for name in engine["environment"] if name.startswith("GATEWATCH_")]
    for worker in noted(notes, "worker"):
        environment = worker["environment"]
        assert environment["GATEWATCH_KAFKA"] == stack.bootstrap
        assert environment["GATEWATCH_CLICKHOUSE_URL"] == stack.engine_url
        assert environment["GATEWATCH_CLICKHOUSE_USER"] == "writer"
        assert environment["GATEWATCH_CLICKHOUSE_PASSWORD"] == stack.writer_password
        assert Path(environment["GATEWATCH_DATA_DIR"]).is_relative_to(data)
    assert len({worker["environment"]["GATEWATCH_DATA_DIR"] for worker in noted(notes, "worker")}) == 2
    migrate = json.loads((notes / "migrate.json").read_text())
    assert migrate["GATEWATCH_CLICKHOUSE_URL"] == stack.engine_url

    address = stack.bootstrap, stack.engine_url, stack.writer_password
    stack.stop()
    assert not [pid for pid in pids.values() if alive(pid)]
    assert not (data / "stack.json").exists()
    assert running_stack(data) is None
    assert (notes / "stops").read_text().split() == ["worker", "worker", "engine"]

    stack.start()
    assert (stack.bootstrap, stack.engine_url, stack.writer_password) == address


@pytest.mark.slow
def test_killed_parts_come_back_at_the_same_address(stack: Stack, data: Path, reports: list[str]) -> None:
    stack.start()
    address = stack.bootstrap, stack.engine_url
    before = stack.pids
    for _ in range(6):  # more often than deaths are forgiven: these were asked for
        stack.kill_worker(0)
        assert stack.await_ready(20)
    stack.kill("engine")
    stack.kill("kafka")
    assert stack.await_ready(40)
    after = stack.pids
    assert (stack.bootstrap, stack.engine_url) == address
    assert {name for name in before if before[name] != after[name]} == {"worker-0", "engine", "kafka"}
    assert stack.failure is None
    assert any(line.startswith("worker-0 runs again") for line in reports)
    # The file is written just after a part is ready.
    deadline = time.monotonic() + 10
    while (running_stack(data) or {}).get("pids") != after and time.monotonic() < deadline:
        time.sleep(0.05)
    state = running_stack(data)
    assert state is not None
    assert state["pids"] == after


@pytest.mark.slow
def test_a_part_that_keeps_dying_stops_the_stack_and_says_why(
    stack: Stack, notes: Path, reports: list[str]
) -> None:
    stack.start()
    pids = stack.pids
    (notes / "fail-worker").touch()
    os.kill(pids["worker-1"], signal.SIGKILL)
    assert stack.wait(30)
    assert stack.failure is not None
    assert "worker-1 died 5 times within 60 s" in stack.failure
    assert "worker cannot run: a reason" in stack.failure
    assert "worker-1.log" in stack.failure
    assert any("worker-1 ended by itself (signal 9)" in line for line in reports)
    assert not stack.running
    assert not stack.pids


@pytest.mark.slow
def test_a_worker_that_stopped_for_good_stops_the_stack_at_once(
    stack: Stack, notes: Path, reports: list[str]
) -> None:
    stack.start()
    (notes / "fail-worker").write_text(str(STOPPED_FOR_GOOD))
    os.kill(stack.pids["worker-0"], signal.SIGKILL)
    assert stack.wait(30)
    assert stack.failure is not None
    assert "worker-0 stopped for good" in stack.failure
    assert "worker cannot run: a reason" in stack.failure
    assert len([line for line in reports if "starting it again" in line]) == 1


@pytest.mark.slow
def test_a_suspended_part_stays_down_until_it_is_resumed_at_its_address(stack: Stack) -> None:
    stack.start()
    address = stack.engine_url
    stack.suspend("engine")
    assert "engine" not in stack.pids
    assert not until(lambda: "engine" in stack.pids, timeout_s=1.0)
    stack.resume("engine")
    assert stack.engine_url == address
    assert stack.await_ready(5)
    with pytest.raises(StackError, match="engine is not suspended"):
        stack.resume("engine")


@pytest.mark.slow
def test_a_death_while_kafka_is_away_is_not_held_against_a_worker(stack: Stack, reports: list[str]) -> None:
    stack.start()
    stack.kill("kafka")
    for _ in range(3):
        pid = stack.pids.get("worker-0")
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            assert until(lambda pid=pid: not alive(pid))  # type: ignore[misc]
    assert stack.await_ready(40)
    assert stack.failure is None
    assert any("is started again when Kafka and the engine are back" in line for line in reports)


@pytest.mark.slow
def test_workers_are_added_and_stopped(stack: Stack, notes: Path) -> None:
    stack.start()
    assert stack.add_worker() == 2
    assert "worker-2" in stack.pids
    stack.stop_worker(0)
    assert list(stack.pids) == ["kafka", "engine", "worker-1", "worker-2"]
    assert (notes / "stops").read_text().split() == ["worker"]
    assert set(stack.metrics_urls) == {"worker-1", "worker-2"}
    with pytest.raises(StackError, match="there is no worker-9"):
        stack.kill_worker(9)


@pytest.mark.slow
def test_a_directory_in_use_is_refused_and_the_other_stack_goes_on(
    stack: Stack, data: Path, commands: Commands
) -> None:
    stack.start()
    with pytest.raises(StackError, match=rf"{data} is in use by another stack \(process {os.getpid()}\)"):
        Stack(data, commands=commands).start()
    assert stack.await_ready(1)
    assert running_stack(data) is not None


@pytest.mark.slow
def test_a_port_in_use_is_refused_and_nothing_is_left(data: Path, commands: Commands, broker: Broker) -> None:
    stack = Stack(data, commands=commands, engine_port=broker.port)
    with pytest.raises(StackError, match=f"port {broker.port} on 127.0.0.1 is taken"):
        stack.start()
    assert not stack.running
    assert not stack.pids
    assert running_stack(data) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("role", "message"),
    [
        ("engine", "the engine ended while starting (exit code 9)"),
        ("migrate", "migration 0007 does not apply"),
        ("worker", "worker cannot run: a reason"),
    ],
)
def test_a_part_that_cannot_start_is_an_error_and_nothing_is_left(
    stack: Stack, notes: Path, data: Path, role: str, message: str
) -> None:
    (notes / f"fail-{role}").touch()
    with pytest.raises(StackError) as caught:
        stack.start()
    assert message in str(caught.value)
    assert not stack.running
    assert not stack.pids
    assert running_stack(data) is None


def test_a_directory_that_cannot_be_made_is_an_error_that_says_so(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match=r"cannot be used: .*choose another directory with --data"):
        Stack(tmp_path / "file" / "data", commands=commands).start()
    data = tmp_path / "data"
    data.mkdir()
    (data / "logs").touch()  # where a directory should be
    stack = Stack(data, commands=commands)
    with pytest.raises(StackError, match=r"cannot be started over .*logs"):
        stack.start()
    assert not stack.running
    assert running_stack(data) is None


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_up_leaves_nothing_however_it_ends(
    data: Path, commands: Commands, notes: Path, tmp_path: Path, number: signal.Signals
) -> None:
    port = free_port()
    process = start_up(data, commands, tmp_path, "--kafka-port", str(port))
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith(b"ready in ")
        state = running_stack(data)
        assert state is not None
        assert state["bootstrap"] == f"127.0.0.1:{port}"
        pids = list(state["pids"].values())
        assert all(alive(pid) for pid in pids)
        process.send_signal(number)
        code_ = process.wait(30)
        assert until(lambda: not any(alive(pid) for pid in pids))
        assert code_ == (0 if number is signal.SIGTERM else -signal.SIGKILL)
        assert running_stack(data) is None
    finally:
        finish(process)
    # And the directory can be used at once.
    with Stack(data, commands=commands) as again:
        assert again.pids


@pytest.mark.slow
def test_ctrl_c_while_it_starts_leaves_nothing(
    data: Path, commands: Commands, notes: Path, tmp_path: Path
) -> None:
    process = start_up(data, commands, tmp_path)
    try:
        parent = psutil.Process(process.pid)
        assert until(lambda: len(parent.children()) >= 2)  # the broker and the engine are starting
        children = [child.pid for child in parent.children()]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert until(lambda: not any(alive(pid) for pid in children))
        assert not noted(notes, "worker")
        assert running_stack(data) is None
    finally:
        finish(process)
