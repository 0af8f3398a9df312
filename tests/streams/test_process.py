from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from streams.process import end, free_port, port_is_free, spawn, tail


def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
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


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def test_output_goes_to_the_log_and_is_appended(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "child.log"
    for word in ("one", "two"):
        process = spawn(python(f"import sys; print('{word}'); print('err', file=sys.stderr)"), log=log)
        assert process.wait(20) == 0
    assert sorted(log.read_text().split()) == ["err", "err", "one", "two"]


def test_the_child_is_the_program_itself_with_the_environment_given(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    process = spawn(
        python("import os; print(os.getpid(), os.environ.get('WORD'), os.environ.get('HOME'), os.getcwd())"),
        log=log,
        environment={"WORD": "x"},
        directory=tmp_path,
    )
    assert process.wait(20) == 0
    assert log.read_text().split() == [str(process.pid), "x", "None", str(tmp_path)]


def test_a_program_that_does_not_exist_ends_and_its_log_says_so(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    process = spawn(["/no/such/program"], log=log)
    assert process.wait(20) == 1
    assert "No such file or directory" in tail(log)


def test_a_child_that_stops_when_asked_is_not_killed(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    process = spawn(
        python(
            "import signal, sys\n"
            "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
            "print('ready', flush=True)\n"
            "signal.pause()"
        ),
        log=log,
    )
    assert until(lambda: "ready" in tail(log))
    assert end(process, 20) is True
    assert process.returncode == 7
    assert end(process, 20) is True  # again, after it is gone


def test_a_child_that_does_not_stop_is_killed_with_what_it_started(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    process = spawn(
        python(
            "import os, signal, time\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "pid = os.fork()\n"
            "if pid: print(pid, flush=True)\n"
            "while True: time.sleep(1)"
        ),
        log=log,
    )
    assert until(lambda: tail(log).strip().isdigit())
    grandchild = int(tail(log))
    assert alive(grandchild)
    assert end(process, 0.2) is False
    assert process.returncode == -signal.SIGKILL
    assert until(lambda: not alive(grandchild))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_children_end_with_a_parent_that_is_killed_even_when_another_thread_started_them(
    tmp_path: Path,
) -> None:
    log = tmp_path / "parent.log"
    parent = spawn(
        [
            sys.executable,
            "-c",
            "import sys, threading, time\n"
            "from pathlib import Path\n"
            "from streams.process import spawn\n"
            "def start():\n"
            "    sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
            "    child = spawn(sleep, log=Path(sys.argv[1]))\n"
            "    print(child.pid, flush=True)\n"
            "thread = threading.Thread(target=start)\n"
            "thread.start(); thread.join()\n"
            "time.sleep(600)\n",
            str(tmp_path / "child.log"),
        ],
        log=log,
    )
    try:
        assert until(lambda: tail(log).strip().isdigit())
        child = int(tail(log))
        # The thread that started it has ended; the child has not. It is read from /proc because a
        # child that is about to be killed looks alive for an instant.
        assert not until(lambda: not alive(child), timeout_s=0.5)
        parent.kill()
        parent.wait()
        assert until(lambda: not alive(child))
    finally:
        end(parent, 0)


def test_a_free_port_can_be_listened_on_and_then_is_not_free() -> None:
    port = free_port()
    assert port_is_free(port)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        assert not port_is_free(port)


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail(log) == ""
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(20_000)) + b"\xff end")
    assert tail(log, 2) == "line 19999\n\ufffd end"
    assert os.linesep not in tail(log, 1)
    size = log.stat().st_size
    assert tail(log, start=size) == ""
    with log.open("ab") as file:
        file.write(b"more\n")
    assert tail(log, start=size) == "more"
