from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from gatewatch.events import EVENTS_TOPIC
from streams.broker import Broker
from streams.process import free_port
from streams.topic import (
    PROGRESS_TOPIC,
    TopicError,
    admin_client,
    create_topics,
    inspect_topics,
    pipeline_topics,
)


def test_pipeline_topics_are_events_and_sixteen_shards_of_progress() -> None:
    assert pipeline_topics(partitions=7) == {EVENTS_TOPIC: 7, PROGRESS_TOPIC: 16}
    assert "other" in pipeline_topics(events_topic="other")


def test_a_made_topic_has_its_partitions_and_the_required_configuration(
    broker: Broker, topic_name: Callable[[], str]
) -> None:
    name = topic_name()
    create_topics(broker.bootstrap, {name: 3})
    with admin_client(broker.bootstrap, 10) as admin:
        (described,) = admin.describe_topics([name])
    assert len(described["partitions"]) == 3
    assert inspect_topics(broker.bootstrap, {name: 3}) == {name: []}


def test_making_topics_twice_keeps_the_partitions_of_the_first_time(
    broker: Broker, topic_name: Callable[[], str]
) -> None:
    name = topic_name()
    create_topics(broker.bootstrap, {name: 2})
    create_topics(broker.bootstrap, {name: 5})
    with admin_client(broker.bootstrap, 10) as admin:
        (described,) = admin.describe_topics([name])
    assert len(described["partitions"]) == 2


@pytest.mark.parametrize(
    ("key", "value"), [("message.timestamp.type", "CreateTime"), ("cleanup.policy", "compact")]
)
def test_a_topic_that_is_configured_otherwise_is_refused_with_the_command_that_helps(
    broker: Broker, topic_name: Callable[[], str], key: str, value: str
) -> None:
    name = topic_name()
    with admin_client(broker.bootstrap, 10) as admin:
        admin.create_topics({name: {"num_partitions": 1, "configs": {key: value}}})
    with pytest.raises(TopicError, match=rf"{key}={value}.*kafka-configs.*--add-config {key}="):
        create_topics(broker.bootstrap, {name: 1})
    (complaint,) = inspect_topics(broker.bootstrap, {name: 1})[name]
    assert f"{key}={value}" in complaint


def test_a_missing_topic_is_reported(broker: Broker, topic_name: Callable[[], str]) -> None:
    name = topic_name()
    (complaint,) = inspect_topics(broker.bootstrap, {name: 1})[name]
    assert "does not exist" in complaint


def test_kafka_that_is_not_there_is_an_error_within_the_time_given() -> None:
    address = f"127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(TopicError, match=f"{address}.*is Kafka running there"):
        create_topics(address, {"t": 1}, timeout_s=0.5)
    with pytest.raises(TopicError, match="does not answer"):
        inspect_topics(address, {"t": 1}, timeout_s=0.5)
    assert time.monotonic() - began < 10
