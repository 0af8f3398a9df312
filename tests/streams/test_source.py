"""Source ids, and what the sink's ledger of sources guards against."""

from __future__ import annotations

import itertools
import time

import pytest

from sinks.clickhouse import Sink
from streams.broker import Broker
from streams.source import SourceError, TopicIdentity, identify, known_sources, register, source_id
from streams.topic import TopicError, admin_client, create_topics

TOPIC = TopicIdentity("cluster", "events", "incarnation", 3)


def test_every_part_of_a_source_makes_another_id() -> None:
    parts = [("c", "d"), ("t", "u"), ("i", "j"), (0, 1)]
    ids = {source_id(*each) for each in itertools.product(*parts)}  # type: ignore[arg-type]
    assert len(ids) == 16
    assert source_id("a", "bc", "i", 0) != source_id("ab", "c", "i", 0)


def test_ids_fit_sixty_three_bits() -> None:
    assert all(0 <= source_id("c", "t", "i", partition) < 1 << 63 for partition in range(100))


def test_a_source_is_known_once_it_is_registered(sink: Sink) -> None:
    assert known_sources(sink, TOPIC, [0, 1], 1000) == {0: False, 1: False}
    register(sink, TOPIC, [0], 1000)
    assert known_sources(sink, TOPIC, [0, 1], 1000) == {0: True, 1: False}


def test_another_incarnation_is_another_source(sink: Sink) -> None:
    register(sink, TOPIC, [0, 1, 2], 1000)
    again = TopicIdentity("cluster", "events", "made again", 3)
    assert known_sources(sink, again, [0, 1, 2], 1000) == {0: False, 1: False, 2: False}


def test_another_chunk_size_is_refused_and_the_message_says_what_to_set(sink: Sink) -> None:
    register(sink, TOPIC, [0], 1000)
    with pytest.raises(SourceError, match="GATEWATCH_CHUNK_RECORDS=1000"):
        known_sources(sink, TOPIC, [0, 1], 500)


def test_a_topic_that_is_made_again_has_another_incarnation(broker: Broker, topic_name: object) -> None:
    assert callable(topic_name)
    name = topic_name()
    create_topics(broker.bootstrap, {name: 2})
    before = identify(broker.bootstrap, name)
    assert (before.topic, before.partitions) == (name, 2)
    assert identify(broker.bootstrap, name) == before
    with admin_client(broker.bootstrap, 30) as admin:
        admin.delete_topics([name])
    # The broker answers before it has forgotten the topic.
    deadline = time.monotonic() + 30
    with pytest.raises(TopicError, match="does not exist"):
        while time.monotonic() < deadline:
            identify(broker.bootstrap, name)
    create_topics(broker.bootstrap, {name: 2})
    after = identify(broker.bootstrap, name)
    assert after.cluster == before.cluster
    assert after.incarnation != before.incarnation
