"""Child processes that never outlive the one that started them.

On Linux the kernel ends a child with its parent (``PR_SET_PDEATHSIG``), even when the parent gets
SIGKILL. The signal follows the *thread* that forked, not the process, so every child is forked by
one thread that lives as long as the process does. Other systems have no such call: there children
are ended by an ordinary exit only.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

__all__ = ["LOOPBACK", "STOPPED_FOR_GOOD", "end", "free_port", "spawn", "tail"]

LOOPBACK: Final = "127.0.0.1"
STOPPED_FOR_GOOD: Final = 3
"""Exit code of a worker that would only fail again: whoever supervises it must not start it again."""

# Becomes the child by exec, so the child keeps the pid that Popen knows. `preexec_fn` would do the
# same in fewer milliseconds but is unsafe in a process that has threads (subprocess' own manual).
# The parent may have died before the call took effect: then its pid is no longer ours.
_LAUNCHER: Final = """
import os, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class _Forker:
    """The one thread that forks."""

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pid = 0

    def fork(self, request: _Request) -> subprocess.Popen[bytes]:
        with self._lock:
            # A fork of this process has no thread of its parent.
            if self._thread is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._requests = queue.SimpleQueue()
                self._thread = threading.Thread(target=self._run, name="gatewatch-forker", daemon=True)
                self._thread.start()
        self._requests.put(request)
        request.done.wait()
        if request.error is not None:
            raise request.error
        assert request.process is not None
        return request.process

    def _run(self) -> None:
        while True:
            request = self._requests.get()
            try:
                request.process = request.start()
            except BaseException as error:
                request.error = error
            finally:
                request.done.set()
            del request


class _Request:
    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        stdout: int,
        stderr: int,
        keep: Sequence[int],
        directory: Path | None,
    ) -> None:
        self.command = command
        self.environment = environment
        self.stdout = stdout
        self.stderr = stderr
        self.keep = keep
        self.directory = directory
        self.done = threading.Event()
        self.process: subprocess.Popen[bytes] | None = None
        self.error: BaseException | None = None

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *self.command],
            stdin=subprocess.DEVNULL,
            stdout=self.stdout,
            stderr=self.stderr,
            env=dict(self.environment),
            cwd=self.directory,
            pass_fds=tuple(self.keep),
            # Ctrl-C on the terminal must reach the supervisor alone, which stops its children in order.
            start_new_session=True,
        )


_forker: Final = _Forker()


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    keep: Sequence[int] = (),
    directory: Path | None = None,
    capture: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a child that ends with this process.

    Parameters
    ----------
    command
        Program and arguments.
    log
        File that its output is appended to.
    environment
        All of its environment; this process's own when absent.
    keep
        File descriptors that the child inherits. A lock held through one of them lives as long as
        the child does.
    directory
        Its working directory.
    capture
        Leave standard output to the caller as a pipe (``process.stdout``).

    Raises
    ------
    OSError
        The child cannot be started. A program that does not exist ends with code 1 instead, and
        its log says so.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        request = _Request(
            command,
            os.environ if environment is None else environment,
            subprocess.PIPE if capture else output.fileno(),
            output.fileno(),
            keep,
            directory,
        )
        return _forker.fork(request)


def end(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Ask a child to stop (SIGTERM), and kill its process group when it does not.

    Returns
    -------
    Whether it stopped by itself within ``timeout_s`` seconds.
    """
    in_time = True
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            in_time = False
    # The child leads a session of its own: what it may have started goes with it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
    return in_time


def free_port(avoid: Sequence[int] = ()) -> int:
    """A TCP port of the loopback interface that nobody listens on at the moment.

    Ports below Linux' ephemeral range (32768) are tried, since one that the kernel hands out by
    itself may be some outgoing connection's a moment later. Another process may still take the
    port before it is used: who starts a server retries with another one.
    """
    for _ in range(200):
        port = random.randint(20_000, 32_000)  # noqa: S311 - no secret
        if port not in avoid and port_is_free(port):
            return port
    raise OSError("no free port between 20000 and 32000 on 127.0.0.1; stop something or choose a port")


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def tail(log: Path, lines: int = 20, start: int = 0) -> str:
    """The last lines of a log, of those from byte ``start`` on, for an error message."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - 32_768))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def wait_until(deadline: float, process: subprocess.Popen[bytes]) -> bool:
    """One step of a start-up loop: sleep a little; whether to go on waiting.

    Parameters
    ----------
    deadline
        A time of :func:`time.monotonic`.
    process
        What is being waited for; no more waiting once it has ended.
    """
    if process.poll() is not None or time.monotonic() >= deadline:
        return False
    time.sleep(0.02)
    return True
