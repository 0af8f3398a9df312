"""The embedded stack: a Kafka broker, the ClickHouse engine and workers, as one thing.

Everything runs as a process of its own, listens on the loopback interface only and ends with the
process that started it. A part that dies is started again; a part that keeps dying stops the stack.
What `gatewatch up` runs is a :class:`Stack`, and so are the demonstration, the benchmarks and the
end-to-end tests.
"""

from __future__ import annotations

import datetime
import http.client
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from gatewatch.events import EVENTS_TOPIC
from streams import lock
from streams.artifact import ArtifactError
from streams.broker import Broker, BrokerError
from streams.process import LOOPBACK, STOPPED_FOR_GOOD, end, free_port, port_is_free, spawn, tail, wait_until
from streams.setting import PREFIX
from streams.topic import TopicError, create_topics, pipeline_topics

__all__ = ["Commands", "Stack", "StackError", "running_stack"]

DEATHS: Final = 5
DEATHS_WITHIN_S: Final = 60.0
_START_S: Final = 60.0
_POLL_S: Final = 0.1
_BACKOFF_S: Final = 0.25
_BACKOFF_MOST_S: Final = 5.0
_LOG_BYTES: Final = 16 << 20
"""A log longer than this is put aside by the next start, and the one put aside before is lost."""

WORKER_STOP_S: Final = 30.0
ENGINE_STOP_S: Final = 15.0
BROKER_STOP_S: Final = 30.0


class StackError(RuntimeError):
    """The stack cannot run; the message says why and what to do."""


@dataclass(frozen=True)
class Commands:
    """What the stack runs beside the broker. Each is configured by its environment (docs/settings.md)."""

    engine: Sequence[str] = (sys.executable, "-P", "-m", "sinks.engine")
    """Is given ``--data DIR --port PORT``; ready when ``/ping`` answers 200."""
    migrate: Sequence[str] = (sys.executable, "-P", "-m", "gatewatch.cli", "migrate")
    """Runs once before the workers, and ends with 0."""
    worker: Sequence[str] = (sys.executable, "-P", "-m", "gatewatch.cli", "worker")
    """Ready when ``/healthz`` on its metrics port answers 200."""


class _Part(ABC):
    """One supervised process."""

    def __init__(self, name: str, log: Path, stop_s: float) -> None:
        self.name = name
        self.log = log
        self.stop_s = stop_s
        self.ready = threading.Event()
        self.retired = threading.Event()
        """It is being stopped: its end is no death."""
        self.killed = threading.Event()
        """Somebody asked for its death: it counts for nothing."""
        self.deaths: deque[float] = deque()
        self.supervisor: threading.Thread | None = None
        self._busy = threading.Lock()

    def launch(self, timeout_s: float) -> None:
        """:meth:`start`, which :meth:`halt` may cut short."""
        with self._busy:
            if self.retired.is_set():
                raise StackError(f"{self.name} was stopped before it started")
            self.start(timeout_s)

    def halt(self) -> None:
        """Stop it for good, also while it is starting: then it has nothing to lose and is killed."""
        self.retired.set()
        self.ready.clear()
        while not self._busy.acquire(timeout=_POLL_S):
            self.kill()
        try:
            self.stop()
        finally:
            self._busy.release()

    @abstractmethod
    def start(self, timeout_s: float) -> None:
        """Start it, and return when it is ready. Raises StackError, after which it does not run."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it cleanly, or kill it when that takes longer than ``stop_s`` seconds."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL, without waiting."""

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """Its process, while that runs."""

    @property
    @abstractmethod
    def exit_code(self) -> int | None:
        """How it ended, if it did."""


class _BrokerPart(_Part):
    def __init__(self, broker: Broker) -> None:
        super().__init__("kafka", broker.log, BROKER_STOP_S)
        self.broker = broker
        self._started = False

    def start(self, timeout_s: float) -> None:
        try:
            if self._started:
                # Clients know its port: it may not choose another one.
                self.broker.restart(timeout_s)
            else:
                self.broker.start(timeout_s)
        except (BrokerError, ArtifactError) as error:
            raise StackError(str(error)) from error
        self._started = True

    def stop(self) -> None:
        self.broker.stop(self.stop_s)

    def kill(self) -> None:
        process = self.broker.pid
        if process is not None:
            os.kill(process, 9)

    @property
    def pid(self) -> int | None:
        return self.broker.pid

    @property
    def exit_code(self) -> int | None:
        return self.broker.exit_code


class _ServerPart(_Part):
    """A process that says over HTTP whether it is ready."""

    def __init__(
        self,
        name: str,
        log: Path,
        stop_s: float,
        *,
        path: str,
        port: int | None,
        keep_port: bool,
        launch: Callable[[int, Path], subprocess.Popen[bytes]],
    ) -> None:
        super().__init__(name, log, stop_s)
        self.port = port
        self._path = path
        self._chosen = port is not None
        self._keep_port = keep_port
        self._launch = launch
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        for _ in range(3):
            if self.port is None or not (self._chosen or self._keep_port):
                self.port = free_port()
            if self._chosen and not port_is_free(self.port):
                raise StackError(
                    f"port {self.port} on {LOOPBACK} is taken; choose another one for the {self.name}"
                )
            process = self._process = self._launch(self.port, self.log)
            while not _answers(self.port, self._path):
                if not wait_until(deadline, process):
                    break
            else:
                if process.poll() is None:
                    # From now on its address is known to others.
                    self._chosen = self._chosen or self._keep_port
                    return
            if process.poll() is None:
                end(process, 1.0)
                raise StackError(
                    f"the {self.name} was not ready within {timeout_s:g} s; the end of {self.log}:\n"
                    f"{tail(self.log)}"
                )
            # Somebody took the free port before it could: another one is tried.
            if self._chosen or self.retired.is_set() or port_is_free(self.port):
                break
            self.port = None
        raise StackError(
            f"the {self.name} ended while starting ({_ending(self.exit_code)}); the end of {self.log}:\n"
            f"{tail(self.log)}"
        )

    def stop(self) -> None:
        if self._process is not None:
            end(self._process, self.stop_s)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()


class Stack:
    """A broker, an engine and workers over one data directory.

    Parameters
    ----------
    data
        Directory of its own; made when it is not there. Holds ``kafka``, ``engine``,
        ``engine.token``, ``workers``, ``logs`` and, while the stack runs, ``stack.json``.
    workers
        How many workers.
    kafka_port, engine_port
        Ports on 127.0.0.1; free ones when absent.
    partitions
        Of the events topic, when it is made.
    environment
        Settings of the workers beside this process' own (docs/settings.md). Addresses and
        passwords are the stack's.
    commands
        What to run; other commands are for tests.
    report
        Is told in a line what happens: a part died, a part is back.

    Examples
    --------
    >>> with Stack(Path("data"), workers=2) as stack:  # doctest: +SKIP
    ...     print(stack.bootstrap, stack.engine_url)
    127.0.0.1:24317 http://127.0.0.1:28123
    """

    def __init__(
        self,
        data: Path,
        workers: int = 1,
        *,
        kafka_port: int | None = None,
        engine_port: int | None = None,
        partitions: int = 4,
        environment: Mapping[str, str] | None = None,
        commands: Commands | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        if workers < 0:
            raise ValueError("workers must not be negative")
        self.data = Path(data).absolute()
        self.logs = self.data / "logs"
        self.failure: str | None = None
        """Why the stack stopped by itself, if it did."""
        self._commands = commands or Commands()
        self._environment = dict(environment or {})
        self._partitions = partitions
        self._report = report or (lambda line: None)
        self._lock: int | None = None
        self._password = ""
        self._started_at = ""
        self._changed = threading.RLock()
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._stopped.set()
        self._threads: list[threading.Thread] = []
        self._broker = _BrokerPart(Broker(self.data / "kafka", kafka_port, self.logs / "kafka.log"))
        self._engine = _ServerPart(
            "engine",
            self.logs / "engine.log",
            ENGINE_STOP_S,
            path="/ping",
            port=engine_port,
            keep_port=True,
            launch=self._launch_engine,
        )
        self._first_workers = workers
        self._workers: list[_ServerPart] = []

    # Addresses

    @property
    def bootstrap(self) -> str:
        """Kafka's address, ``127.0.0.1:PORT``."""
        return self._broker.broker.bootstrap

    @property
    def engine_url(self) -> str:
        """The engine's HTTP interface."""
        if self._engine.port is None:
            raise StackError("the engine has no port yet; start the stack")
        return f"http://{LOOPBACK}:{self._engine.port}"

    @property
    def writer_password(self) -> str:
        """Password of the ClickHouse user ``writer``; the user ``reader`` has none."""
        return self._password

    @property
    def metrics_urls(self) -> dict[str, str]:
        """The address of each worker's ``/metrics`` and ``/healthz``, by the worker's name."""
        return {
            part.name: f"http://{LOOPBACK}:{part.port}" for part in self._workers if not part.retired.is_set()
        }

    @property
    def pids(self) -> dict[str, int]:
        """The process of each part that runs: ``kafka``, ``engine``, ``worker-0``, ..."""
        return {part.name: pid for part in self._parts() if (pid := part.pid) is not None}

    @property
    def running(self) -> bool:
        """Whether it was started and has not been stopped, by itself or by anybody."""
        return not self._stopped.is_set()

    # Start and stop

    def start(self, timeout_s: float = _START_S) -> None:
        """Start everything, and return when all of it is ready.

        Raises
        ------
        StackError
            The directory is in use, or a part cannot be started. Nothing is left running then.
        """
        if self.running:
            return
        with self._changed:
            self._acquire()
            self._stopping.clear()
            self._stopped.clear()
            self.failure = None
        try:
            self._prepare()
            self._password = _token(self.data / "engine.token")
            self._start_parts(time.monotonic() + timeout_s)
        except OSError as error:
            self.stop()
            raise StackError(f"the stack cannot be started over {self.data}: {error}") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the workers, then the engine, then the broker.

        Idempotent. May be called from any thread, also while :meth:`start` runs in another one, which
        then raises StackError.
        """
        self._stopping.set()
        for part in self._parts():
            part.retired.set()
        with self._changed:
            if self._lock is not None:
                workers = list(self._workers)
                if workers:
                    with ThreadPoolExecutor(len(workers)) as pool:
                        list(pool.map(lambda part: part.halt(), workers))
                self._engine.halt()
                self._broker.halt()
                (self.data / "stack.json").unlink(missing_ok=True)
                lock.release(self._lock)
                self._lock = None
            threads, self._threads = self._threads, []
        for thread in threads:
            thread.join()
        self._stopped.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the stack has stopped, by itself or by :meth:`stop`; whether it has."""
        return self._stopped.wait(timeout_s)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # What tests and operators do to a running stack

    def kill(self, name: str) -> None:
        """SIGKILL one part (``kafka``, ``engine``, ``worker-0``, ...), which is then started again.

        Returns when the process is gone. A death that was asked for does not count towards the
        limit of deaths.
        """
        part = self._part(name)
        pid = part.pid
        if pid is None:
            raise StackError(f"{name} does not run at the moment")
        part.ready.clear()
        part.killed.set()
        part.kill()
        deadline = time.monotonic() + 10.0
        while part.pid == pid:
            if time.monotonic() >= deadline:
                raise StackError(f"{name} (process {pid}) cannot be killed")
            time.sleep(0.005)

    def kill_worker(self, index: int) -> None:
        """SIGKILL a worker; see :meth:`kill`."""
        self.kill(f"worker-{index}")

    def suspend(self, name: str) -> None:
        """Stop one part cleanly and leave it down until :meth:`resume`: an outage."""
        part = self._part(name)
        part.halt()
        if part.supervisor is not None:
            part.supervisor.join()  # or a resume could be too soon for it to notice
        self._write_state()

    def resume(self, name: str, timeout_s: float = _START_S) -> None:
        """Start a part that was suspended, at the address that it had, and return when it is ready."""
        part = self._part(name)
        with self._changed:
            if self._lock is None or self._stopping.is_set():
                raise StackError("the stack does not run")
            if not part.retired.is_set():
                raise StackError(f"{name} is not suspended")
            part.retired.clear()
        part.launch(timeout_s)
        self._watch(part)
        self._write_state()

    def add_worker(self, timeout_s: float = _START_S) -> int:
        """Start one more worker; its number."""
        with self._changed:
            if self._lock is None or self._stopping.is_set():
                raise StackError("the stack does not run")
            part = self._new_worker()
        part.launch(timeout_s)
        self._watch(part)
        self._write_state()
        return int(part.name.removeprefix("worker-"))

    def stop_worker(self, index: int) -> None:
        """Stop a worker cleanly, and for good."""
        part = self._part(f"worker-{index}")
        part.halt()
        self._write_state()

    def await_ready(self, timeout_s: float = _START_S) -> bool:
        """Wait until every part is ready, after a kill for example; whether all are."""
        deadline = time.monotonic() + timeout_s
        for part in self._parts():
            if not part.retired.is_set() and not part.ready.wait(max(0.0, deadline - time.monotonic())):
                return False
        return self.running

    # Inside

    def _parts(self) -> list[_Part]:
        return [self._broker, self._engine, *self._workers]

    def _part(self, name: str) -> _Part:
        for part in self._parts():
            if part.name == name:
                return part
        raise StackError(f"there is no {name}; there are {', '.join(part.name for part in self._parts())}")

    def _acquire(self) -> None:
        try:
            self._lock = lock.acquire(self.data / "stack.lock")
        except lock.InUseError as error:
            raise StackError(
                f"{self.data} is in use by another stack (process {error.pid or 'unknown'}); "
                "stop that one, or choose another directory with --data"
            ) from None
        except OSError as error:
            raise StackError(
                f"{self.data} cannot be used: {error.strerror}; choose another directory with --data"
            ) from error
        self._started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

    def _prepare(self) -> None:
        self._broker.retired.clear()
        self._engine.retired.clear()
        self.logs.mkdir(parents=True, exist_ok=True)
        for log in self.logs.glob("*.log"):
            if log.stat().st_size > _LOG_BYTES:
                log.replace(log.with_suffix(".log.1"))
        self._workers[:] = []
        for _ in range(self._first_workers):
            self._new_worker()

    def _start_parts(self, deadline: float) -> None:
        # Broker and engine know nothing of each other; each is followed by its own preparation.
        _together(
            [
                lambda: self._start_broker(deadline),
                lambda: self._start_engine(deadline),
            ]
        )
        _together([lambda part=part: part.launch(_left_s(deadline)) for part in self._workers])  # type: ignore[misc]
        for part in self._parts():
            self._watch(part)
        self._write_state()

    def _start_broker(self, deadline: float) -> None:
        self._broker.launch(_left_s(deadline))
        try:
            create_topics(self.bootstrap, pipeline_topics(self._partitions, self._events_topic()))
        except TopicError as error:
            raise StackError(str(error)) from error

    def _start_engine(self, deadline: float) -> None:
        self._engine.launch(_left_s(deadline))
        log = self.logs / "migrate.log"
        process = spawn(self._commands.migrate, log=log, environment=self._child_environment())
        try:
            code = process.wait(_left_s(deadline))
        except subprocess.TimeoutExpired:
            end(process, 1.0)
            raise StackError(f"the migrations took too long; the end of {log}:\n{tail(log)}") from None
        if code:
            raise StackError(f"the migrations failed ({_ending(code)}); the end of {log}:\n{tail(log)}")

    def _new_worker(self) -> _ServerPart:
        number = len(self._workers)
        part = _ServerPart(
            f"worker-{number}",
            self.logs / f"worker-{number}.log",
            WORKER_STOP_S,
            path="/healthz",
            port=None,
            keep_port=False,
            launch=lambda port, log: self._launch_worker(number, port, log),
        )
        self._workers.append(part)
        return part

    def _launch_engine(self, port: int, log: Path) -> subprocess.Popen[bytes]:
        return self._launch(
            [*self._commands.engine, "--data", str(self.data), "--port", str(port)],
            log,
            {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)},
        )

    def _launch_worker(self, number: int, port: int, log: Path) -> subprocess.Popen[bytes]:
        directory = self.data / "workers" / str(number)
        directory.mkdir(parents=True, exist_ok=True)
        environment = self._child_environment()
        environment["GATEWATCH_METRICS_HOST"] = LOOPBACK
        environment["GATEWATCH_METRICS_PORT"] = str(port)
        environment["GATEWATCH_DATA_DIR"] = str(directory)
        return self._launch(list(self._commands.worker), log, environment)

    def _launch(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        lock_held = self._lock
        assert lock_held is not None
        return spawn(command, log=log, environment=environment, keep=(lock_held,))

    def _child_environment(self) -> dict[str, str]:
        environment = {**os.environ, **self._environment}
        if self._broker.pid is not None:
            environment["GATEWATCH_KAFKA"] = self.bootstrap
        environment["GATEWATCH_CLICKHOUSE_URL"] = self.engine_url
        environment["GATEWATCH_CLICKHOUSE_USER"] = "writer"
        environment["GATEWATCH_CLICKHOUSE_PASSWORD"] = self._password
        environment["GATEWATCH_DATA_DIR"] = str(self.data)
        return environment

    def _events_topic(self) -> str:
        settings = {**os.environ, **self._environment}
        return settings.get("GATEWATCH_EVENTS_TOPIC") or EVENTS_TOPIC

    # Supervision: a thread for each part

    def _watch(self, part: _Part) -> None:
        part.ready.set()
        part.killed.clear()
        part.deaths.clear()
        thread = threading.Thread(
            target=self._supervise, args=(part,), name=f"gatewatch-{part.name}", daemon=True
        )
        part.supervisor = thread
        with self._changed:
            self._threads.append(thread)
        thread.start()

    def _supervise(self, part: _Part) -> None:
        while not self._over(part):
            if part.exit_code is None:
                self._stopping.wait(_POLL_S)
                continue
            part.ready.clear()
            if self._over(part):
                return
            problem = f"{part.name} ended by itself ({_ending(part.exit_code)})"
            while not self._over(part):
                if part.killed.is_set():
                    part.killed.clear()
                elif not self._count(part, problem):
                    return
                if not self._await_dependencies(part):
                    return
                try:
                    part.launch(_START_S)
                except (StackError, OSError) as error:
                    problem = str(error)
                    continue
                break
            if self._over(part):
                return
            part.ready.set()
            self._write_state()
            self._report(f"{part.name} runs again (process {part.pid})")

    def _over(self, part: _Part) -> bool:
        return self._stopping.is_set() or part.retired.is_set()

    def _count(self, part: _Part, problem: str) -> bool:
        """Count a death and wait a little; whether to start the part again."""
        if part in self._workers and part.exit_code == STOPPED_FOR_GOOD:
            self._fail(f"{part.name} stopped for good, so the stack stops: {_last_line(part.log)}")
            return False
        now = time.monotonic()
        # A worker without its broker or its engine cannot live, and is not to blame.
        if part in self._workers and not (self._broker.ready.is_set() and self._engine.ready.is_set()):
            self._report(f"{problem.splitlines()[0]}; it is started again when Kafka and the engine are back")
            return not self._stopping.wait(_BACKOFF_S)
        part.deaths.append(now)
        while now - part.deaths[0] > DEATHS_WITHIN_S:
            part.deaths.popleft()
        if len(part.deaths) >= DEATHS:
            excerpt = tail(part.log)
            text = problem if excerpt and excerpt in problem else f"{problem}\n{excerpt}"
            self._fail(
                f"{part.name} died {DEATHS} times within {DEATHS_WITHIN_S:g} s, so the stack stops. "
                f"The last time: {text}\nIts log is {part.log}"
            )
            return False
        delay_s = min(_BACKOFF_MOST_S, _BACKOFF_S * 2 ** (len(part.deaths) - 1))
        self._report(f"{problem.splitlines()[0]}; starting it again in {delay_s:g} s")
        return not self._stopping.wait(delay_s)

    def _await_dependencies(self, part: _Part) -> bool:
        if part in self._workers:
            for other in (self._broker, self._engine):
                while not other.ready.wait(_POLL_S):
                    if self._over(part):
                        return False
        return not self._over(part)

    def _fail(self, message: str) -> None:
        self.failure = message
        self._stopping.set()
        # This thread is one of those that stop() waits for.
        threading.Thread(target=self.stop, name="gatewatch-stop", daemon=True).start()

    def _write_state(self) -> None:
        with self._changed:
            if self._lock is None or self._stopping.is_set():
                return
            state = {
                "pid": os.getpid(),
                "started_at": self._started_at,
                "bootstrap": self.bootstrap,
                "engine_url": self.engine_url,
                "metrics_urls": self.metrics_urls,
                "pids": self.pids,
            }
            path = self.data / "stack.json"
            scratch = path.with_suffix(".json.new")
            scratch.write_text(json.dumps(state, indent=2) + "\n", "utf-8")
            scratch.replace(path)


def running_stack(data: Path) -> dict[str, Any] | None:
    """What ``stack.json`` says of the stack that runs over a directory; absent when none does.

    Returns
    -------
    ``pid``, ``started_at``, ``bootstrap``, ``engine_url``, ``metrics_urls`` (by worker) and ``pids``
    (by part). A file that a killed stack left behind does not count.
    """
    if not lock.held(Path(data) / "stack.lock"):
        return None
    try:
        state = json.loads((Path(data) / "stack.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def _token(path: Path) -> str:
    """The writer's password: made once, readable by its owner only."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        token = path.read_text("ascii").strip()
        if not token:
            raise StackError(f"{path} is empty; delete it, and a new one is made") from None
        return token
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        token = secrets.token_urlsafe(32)
        file.write(token + "\n")
    return token


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _last_line(log: Path) -> str:
    """What a process said last: why it ended, when it ended in order."""
    return tail(log).rpartition("\n")[2].removeprefix("gatewatch worker: ")


def _ending(code: int | None) -> str:
    if code is None:
        return "still running"
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _left_s(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _together(steps: Sequence[Callable[[], None]]) -> None:
    """Do all at the same time; raise the first error once all are done."""
    if not steps:
        return
    with ThreadPoolExecutor(len(steps)) as pool:
        for future in [pool.submit(step) for step in steps]:
            future.result()
