"""The pipeline's topics: which there are, and how they must be configured."""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

from gatewatch.events import EVENTS_TOPIC
from signals.signal import SHARDS

__all__ = [
    "EVENTS_TOPIC",
    "PROGRESS_PARTITIONS",
    "PROGRESS_TOPIC",
    "REQUIRED",
    "TopicError",
    "create_topics",
    "inspect_topics",
    "pipeline_topics",
]

PROGRESS_TOPIC: Final = "gatewatch.progress.v1"
PROGRESS_PARTITIONS: Final = SHARDS
"""A shard of series is a partition of the progress topic, so this number is part of the format."""

REQUIRED: Final[Mapping[str, str]] = {
    # Event times are bounded against the time a record was appended (signals.lane): with CreateTime a
    # gateway with a wrong clock would have its events refused.
    "message.timestamp.type": "LogAppendTime",
    # Compaction would take records out of chunks that are still to be read again.
    "cleanup.policy": "delete",
}
"""What the pipeline relies on, by the name of Kafka's topic setting."""


class TopicError(RuntimeError):
    """A topic cannot be made, or is not as the pipeline needs it; the message says what to do."""


def pipeline_topics(partitions: int = 4, events_topic: str = EVENTS_TOPIC) -> dict[str, int]:
    """The topics that a worker needs and the number of their partitions."""
    return {events_topic: partitions, PROGRESS_TOPIC: PROGRESS_PARTITIONS}


def create_topics(
    bootstrap: str,
    topics: Mapping[str, int] | None = None,
    *,
    replication_factor: int = -1,
    timeout_s: float = 30.0,
) -> None:
    """Make topics that do not exist yet, and wait until every partition has a leader.

    Parameters
    ----------
    bootstrap
        ``host:port`` of one or more brokers, separated by commas.
    topics
        Number of partitions by name; :func:`pipeline_topics` when absent. A topic that exists keeps
        the partitions it has.
    replication_factor
        Of topics made here; -1 leaves it to the broker.

    Raises
    ------
    TopicError
        Kafka did not answer in time, or a topic that exists is not configured as :data:`REQUIRED`.
    """
    from kafka.errors import KafkaError, TopicAlreadyExistsError

    wanted = dict(pipeline_topics() if topics is None else topics)
    deadline = time.monotonic() + timeout_s
    try:
        with admin_client(bootstrap, timeout_s) as admin:
            existing = set(admin.list_topics())
            for name, partitions in wanted.items():
                if name in existing:
                    continue
                specification = {
                    "num_partitions": partitions,
                    "replication_factor": replication_factor,
                    "configs": dict(REQUIRED),
                }
                # Another process may be quicker than the list above is old.
                with contextlib.suppress(TopicAlreadyExistsError):
                    admin.create_topics({name: specification}, timeout_ms=int(timeout_s * 1000))
            left_ms = max(1, int((deadline - time.monotonic()) * 1000))
            admin.wait_for_topics(list(wanted), timeout_ms=left_ms)
            wrong = _wrong(admin, [name for name in wanted if name in existing])
    except KafkaError as error:
        raise TopicError(
            f"the topics cannot be made on {bootstrap}: {describe_error(error)}; is Kafka running there?"
        ) from error
    if wrong:
        raise TopicError("; ".join(wrong))


def inspect_topics(
    bootstrap: str, topics: Mapping[str, int], *, timeout_s: float = 10.0
) -> dict[str, list[str]]:
    """What is wrong with each topic: an empty list where nothing is.

    Raises
    ------
    TopicError
        Kafka did not answer.
    """
    from kafka.errors import KafkaError

    try:
        with admin_client(bootstrap, timeout_s) as admin:
            existing = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics()}
            found: dict[str, list[str]] = {}
            for name, partitions in topics.items():
                if name not in existing:
                    found[name] = [f"{name} does not exist; make it with `python -m streams.topic`"]
                    continue
                found[name] = _wrong(admin, [name])
                if name == PROGRESS_TOPIC and existing[name] != partitions:
                    found[name].append(
                        f"{name} has {existing[name]} partitions and needs {partitions}; delete it, "
                        "then make it again"
                    )
            return found
    except KafkaError as error:
        raise TopicError(f"{bootstrap} does not answer: {describe_error(error)}") from error


def _wrong(admin: Any, names: list[str]) -> list[str]:
    from kafka.admin import ConfigResource, ConfigResourceType

    if not names:
        return []
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, list(REQUIRED)) for name in names]
    described = admin.describe_configs(resources, config_filter="all")
    wrong = []
    for name in names:
        actual = {key: entry["value"] for key, entry in described["topic"][name].items()}
        for key, value in REQUIRED.items():
            if actual.get(key) != value:
                wrong.append(
                    f"topic {name} has {key}={actual.get(key)} and the pipeline needs {value}; change it: "
                    f"kafka-configs.sh --alter --entity-type topics --entity-name {name} "
                    f"--add-config {key}={value}"
                )
    return wrong


@contextlib.contextmanager
def admin_client(bootstrap: str, timeout_s: float) -> Any:
    """A client of Kafka's administration that gives up after ``timeout_s`` seconds."""
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaTimeoutError

    # A client that cannot connect leaves its thread and its sockets behind (kafka-python 3.0.12).
    if not await_listener(bootstrap, timeout_s):
        raise KafkaTimeoutError(f"nothing listens on {bootstrap}")
    client = KafkaAdminClient(
        bootstrap_servers=bootstrap.split(","),
        client_id="gatewatch",
        request_timeout_ms=int(timeout_s * 1000),
        bootstrap_timeout_ms=int(timeout_s * 1000),
    )
    try:
        yield client
    finally:
        client.close()


def await_listener(bootstrap: str, timeout_s: float) -> bool:
    """Whether one of the brokers accepts a connection, or comes to within ``timeout_s`` seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        for address in bootstrap.split(","):
            host, _, port = address.strip().rpartition(":")
            left_s = deadline - time.monotonic()
            with contextlib.suppress(OSError, ValueError), _connect(host, int(port), max(0.1, left_s)):
                return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)


def _connect(host: str, port: int, timeout_s: float) -> socket.socket:
    return socket.create_connection((host.strip("[]"), port), timeout_s)


def describe_error(error: BaseException) -> str:
    """The first line of a Kafka client's error, with its type."""
    text = str(error).splitlines()[0] if str(error) else ""
    name = type(error).__name__
    text = text.removeprefix(f"{name}: ")
    return f"{name} ({text[:200]})" if text and text != name else name


def main() -> None:
    """Make the pipeline's topics on the Kafka that GATEWATCH_KAFKA names; for deployments."""
    from streams.setting import SettingError, Settings

    parser = argparse.ArgumentParser(
        prog="python -m streams.topic", description="Make the pipeline's topics."
    )
    parser.add_argument("--partitions", type=int, default=4, help="of the events topic (default: 4)")
    parser.add_argument("--replication-factor", type=int, default=-1, help="default: the broker's")
    options = parser.parse_args()
    try:
        settings = Settings.from_environment()
        topics = pipeline_topics(options.partitions, settings.events_topic)
        create_topics(settings.kafka, topics, replication_factor=options.replication_factor)
    except SettingError as error:
        print(f"gatewatch: {error}", file=sys.stderr)
        sys.exit(2)
    except TopicError as error:
        print(f"gatewatch: {error}", file=sys.stderr)
        sys.exit(1)
    for name, partitions in topics.items():
        print(f"{name} is there (made with {partitions} partitions where it was not)")


if __name__ == "__main__":
    main()
