from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from streams import artifact
from streams.artifact import ArtifactError, HashError, jars, locked, missing
from streams.broker import Broker, BrokerError, answers
from streams.process import free_port
from streams.topic import create_topics


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def produce(bootstrap: str, topic: str, values: list[bytes]) -> None:
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=5)
    try:
        for future in [producer.send(topic, value) for value in values]:
            future.get(timeout=20)
    finally:
        producer.close(timeout=10)


def consume(bootstrap: str, topic: str, count: int) -> list[bytes]:
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=10_000
    )
    try:
        found = []
        for record in consumer:
            found.append(record.value)
            if len(found) == count:
                break
        return found
    finally:
        consumer.close()


@pytest.fixture
def own(broker: Broker, tmp_path: Path) -> Broker:
    """A broker that a test may kill; `broker` has seen to it that the jars are there."""
    return Broker(tmp_path / "kafka")


@pytest.mark.slow
def test_acknowledged_records_outlive_a_kill_and_the_port_stays(own: Broker) -> None:
    with own:
        create_topics(own.bootstrap, {"t": 1})
        produce(own.bootstrap, "t", [b"before"])
        address, first = own.bootstrap, own.pid
        own.kill()
        assert not own.running
        own.restart()
        assert own.bootstrap == address
        assert own.pid not in (None, first)
        produce(own.bootstrap, "t", [b"after"])
        assert consume(own.bootstrap, "t", 2) == [b"before", b"after"]
    assert not answers(own.port)


@pytest.mark.slow
def test_a_directory_in_use_is_refused_and_free_again_after_a_stop(own: Broker) -> None:
    with own:
        own.start()  # runs already: nothing happens
        with pytest.raises(
            BrokerError, match=rf"in use by another broker \(started by process {os.getpid()}\)"
        ):
            Broker(own.data).start()
        assert answers(own.port)
    with Broker(own.data) as again:
        assert answers(again.port)


def test_a_port_in_use_is_refused_at_once(broker: Broker, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(BrokerError, match=f"port {port} on 127.0.0.1 is taken"):
            Broker(tmp_path / "kafka", port=port).start()


def test_the_broker_listens_on_loopback_only(broker: Broker) -> None:
    assert broker.pid is not None
    listening = [
        connection.laddr.ip.removeprefix("::ffff:")
        for connection in psutil.Process(broker.pid).net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) == 2
    assert set(listening) == {"127.0.0.1"}


def test_a_topic_that_nobody_made_is_not_made_by_asking_for_it(
    broker: Broker, topic_name: Callable[[], str]
) -> None:
    from kafka import KafkaProducer
    from kafka.errors import KafkaError

    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, max_block_ms=1500)
    try:
        with pytest.raises(KafkaError):
            producer.send(topic_name(), b"x").get(timeout=5)
    finally:
        producer.close(timeout=5)


def test_the_append_time_is_the_brokers_whatever_the_sender_says(
    broker: Broker, make_topic: Callable[[int], str]
) -> None:
    from kafka import KafkaProducer

    topic = make_topic(1)
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap)
    before_ms = time.time_ns() // 1_000_000
    try:
        sent = producer.send(topic, b"x", timestamp_ms=1_000).get(timeout=10)
    finally:
        producer.close(timeout=5)
    assert before_ms - 2_000 <= sent.timestamp <= time.time_ns() // 1_000_000 + 2_000


@pytest.mark.slow
def test_the_broker_dies_with_a_process_that_is_killed(broker: Broker, tmp_path: Path) -> None:
    code = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from streams.broker import Broker\n"
        "broker = Broker(Path(sys.argv[1]))\n"
        # The thread that started it ends long before the process: the broker must not end with it.
        "starter = threading.Thread(target=broker.start)\n"
        "starter.start()\n"
        "starter.join()\n"
        "print(broker.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "kafka")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    try:
        child = int(parent.stdout.readline())
        assert psutil.pid_exists(child)
        parent.kill()
        parent.wait()
        assert until(lambda: not _alive(child))
    finally:
        parent.kill()
        parent.wait()
        parent.stdin.close()
        parent.stdout.close()


@pytest.mark.slow
def test_the_module_runs_a_broker_until_it_is_asked_to_stop(broker: Broker, tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "streams.broker", "--data", str(tmp_path / "kafka"), "--port", str(port)],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline().decode() == f"ready 127.0.0.1:{port}\n"
        assert answers(port)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not answers(port)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_process_that_ends_while_starting_is_an_error_with_the_end_of_its_log(
    broker: Broker, tmp_path: Path
) -> None:
    own = Broker(tmp_path / "kafka")
    (own.data / "log").mkdir(parents=True)
    (own.data / "log" / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=x\n")
    own.log.parent.mkdir(parents=True, exist_ok=True)
    own.log.write_text("java.net.BindException: Address already in use\n")  # of an earlier start
    with pytest.raises(BrokerError, match=r"ended while starting(.|\n)*node id") as caught:
        own.start()
    assert "BindException" not in str(caught.value)
    assert not own.running


def test_the_lock_names_every_jar_once_with_its_hash() -> None:
    found = locked()
    assert len({jar.file for jar in found}) == len(found) > 40
    assert all(len(jar.sha256) == 64 for jar in found)
    assert any(jar.artifact == "kafka_2.13" and jar.version == artifact.KAFKA for jar in found)


def test_an_empty_cache_without_a_network_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A proxy that refuses every connection is a machine without a network.
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ArtifactError, match=r"cannot be downloaded .*GATEWATCH_CACHE"):
        jars(tmp_path)
    assert len(missing(tmp_path)) == len(locked())
    assert "downloading Apache Kafka" in capsys.readouterr().err


def test_a_file_that_is_not_the_locked_one_never_enters_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(context: object, jar: artifact.Jar) -> Path:
        path = tmp_path / jar.file
        path.write_bytes(b"not a jar")
        return path

    monkeypatch.setattr(artifact, "_fetch", fetch)
    cache = tmp_path / "cache"
    with pytest.raises(HashError, match="is not the file that gatewatch was built against"):
        jars(cache)
    assert len(missing(cache)) == len(locked())
    assert not list(cache.rglob("*.jar"))


def test_a_full_cache_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = artifact.directory(tmp_path)
    home.mkdir(parents=True)
    for jar in locked():
        (home / jar.file).touch()

    def refuse(*_: object) -> Path:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(artifact, "_fetch", refuse)
    assert [path.name for path in jars(tmp_path)] == [jar.file for jar in locked()]


def test_the_cache_is_where_the_environment_says() -> None:
    assert artifact.cache_directory({"GATEWATCH_CACHE": "/a"}) == Path("/a")
    assert artifact.cache_directory({"XDG_CACHE_HOME": "/b"}) == Path("/b/gatewatch")
    assert artifact.cache_directory({}) == Path.home() / ".cache" / "gatewatch"


def _alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
