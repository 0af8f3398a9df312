from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from gatewatch.cli import doctor
from streams import diagnosis
from streams.broker import Broker
from streams.diagnosis import Finding, diagnose
from streams.process import free_port
from streams.topic import create_topics, pipeline_topics


def nowhere() -> dict[str, str]:
    return {
        "GATEWATCH_KAFKA": f"127.0.0.1:{free_port()}",
        "GATEWATCH_CLICKHOUSE_URL": f"http://127.0.0.1:{free_port()}",
    }


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_TIMEOUT_S", 1.0)


def by_subject(environment: Mapping[str, str], data: Path | None = None) -> dict[str, Finding]:
    return {finding.subject: finding for finding in diagnose(environment, data)}


@pytest.fixture
def worker() -> Iterator[Callable[[int, bytes], str]]:
    """Start a server that answers /healthz like a worker; gives its address."""
    servers = []

    def start(status: int, body: bytes) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        return str(server.server_address[1])

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def test_what_does_not_answer_is_a_failure_with_advice() -> None:
    found = by_subject(nowhere())
    assert found["Kafka"].level == "fail"
    assert "GATEWATCH_KAFKA" in found["Kafka"].advice
    assert found["ClickHouse"].level == "fail"
    assert "GATEWATCH_CLICKHOUSE_URL" in found["ClickHouse"].advice
    assert found["workers"].level == "warn"
    assert found["Python"].level == "ok"
    assert not [name for name in found if name.startswith("topic")]


def test_settings_that_cannot_be_read_are_a_failure_and_nothing_else_is_asked() -> None:
    findings = list(diagnose({"GATEWATCH_SERIES_LIMIT": "soon"}))
    assert findings[-1].level == "fail"
    assert "GATEWATCH_SERIES_LIMIT" in findings[-1].text
    assert "Kafka" not in [finding.subject for finding in findings]


def test_a_directory_over_which_nothing_runs_is_a_failure(tmp_path: Path) -> None:
    found = by_subject({}, tmp_path)
    assert found["stack"].level == "fail"
    assert f"gatewatch up --data {tmp_path}" in found["stack"].advice


def test_missing_packages_are_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_EMBEDDED", ("jgo", "surely_not_installed"))
    found = by_subject(nowhere())["packages: embedded"]
    assert found.level == "warn"
    assert "surely_not_installed" in found.text
    assert "jgo" not in found.text
    assert "[embedded]" in found.advice


def test_an_empty_cache_is_a_warning(tmp_path: Path) -> None:
    found = by_subject({**nowhere(), "GATEWATCH_CACHE": str(tmp_path)})["cache of downloads"]
    assert found.level == "warn"
    assert str(tmp_path) in found.text


def test_topics_are_checked_one_by_one(broker: Broker, topic_name: Callable[[], str]) -> None:
    name = topic_name()
    environment = {**nowhere(), "GATEWATCH_KAFKA": broker.bootstrap, "GATEWATCH_EVENTS_TOPIC": name}
    found = by_subject(environment)
    assert found["Kafka"].level == "ok"
    assert found[f"topic {name}"].level == "fail"
    assert "python -m streams.topic" in found[f"topic {name}"].advice
    create_topics(broker.bootstrap, pipeline_topics(2, name))
    found = by_subject(environment)
    assert found[f"topic {name}"].level == "ok"
    assert found["topic gatewatch.progress.v1"].level == "ok"


def test_lag_is_what_the_group_has_not_acknowledged(
    broker: Broker, make_topic: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition

    name = make_topic(2)
    environment = {
        **nowhere(),
        "GATEWATCH_KAFKA": broker.bootstrap,
        "GATEWATCH_EVENTS_TOPIC": name,
        "GATEWATCH_CONSUMER_GROUP": name,
    }
    subject = f"consumer group {name}"
    found = by_subject(environment)[subject]
    assert (found.level, found.text.split()[0]) == ("ok", "0")

    producer = KafkaProducer(bootstrap_servers=broker.bootstrap)
    try:
        for number in range(7):
            producer.send(name, b"x", partition=number % 2).get(timeout=10)
    finally:
        producer.close(timeout=5)
    found = by_subject(environment)[subject]
    assert found.level == "warn"
    assert "7 records wait" in found.text

    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=name, enable_auto_commit=False)
    try:
        partition = TopicPartition(name, 0)
        consumer.assign([partition])
        consumer.commit({partition: OffsetAndMetadata(3, "", -1)})
    finally:
        consumer.close()
    found = by_subject(environment)[subject]
    assert (found.level, found.text.split()[0]) == ("ok", "4")

    monkeypatch.setattr(diagnosis, "_LAG_RECORDS", 3)
    found = by_subject(environment)[subject]
    assert found.level == "warn"
    assert "add workers" in found.advice


def test_workers_are_asked_for_their_health(worker: Callable[[int, bytes], str]) -> None:
    healthy = by_subject({**nowhere(), "GATEWATCH_METRICS_PORT": worker(200, b"ok")})["worker"]
    assert healthy.level == "ok"
    stalled = by_subject(
        {**nowhere(), "GATEWATCH_METRICS_PORT": worker(503, b"partition 3 is stalled\nmore")}
    )["worker"]
    assert stalled.level == "fail"
    assert stalled.text.endswith("says 503: partition 3 is stalled")
    gone = by_subject({**nowhere(), "GATEWATCH_METRICS_PORT": str(free_port())})["worker"]
    assert gone.level == "fail"


def test_something_else_on_clickhouses_port_is_a_failure(worker: Callable[[int, bytes], str]) -> None:
    environment = {
        **nowhere(),
        "GATEWATCH_CLICKHOUSE_URL": f"http://127.0.0.1:{worker(200, b'hello')}",
        "GATEWATCH_CLICKHOUSE_PASSWORD": "hunter2",
    }
    findings = [finding for finding in diagnose(environment) if "ClickHouse" in finding.subject]
    assert [finding.level for finding in findings] == ["fail"]
    assert not [finding for finding in diagnose(environment) if "hunter2" in str(finding)]


def test_the_command_prints_a_line_each_and_fails_when_a_check_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in nowhere().items():
        monkeypatch.setenv(name, value)
    app = typer.Typer()
    app.command()(doctor.command)
    plain = CliRunner().invoke(app, [])
    assert plain.exit_code == 1
    assert "fail  Kafka: " in plain.stdout
    assert "ok    Python: " in plain.stdout
    assert "2 checks failed" in plain.stderr
    lines = CliRunner().invoke(app, ["--json"])
    assert lines.exit_code == 1
    found = {line["subject"]: line["level"] for line in map(json.loads, lines.stdout.splitlines())}
    assert found["ClickHouse"] == "fail"
