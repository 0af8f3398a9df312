"""Sources: which partition, of which incarnation of a topic, on which cluster, records come from.

Chunks are keyed by a source's id. A topic that is deleted and made again starts over at offset 0; its
new incarnation has an id of its own, so its rows cannot replace those of the old one.
"""

from __future__ import annotations

import hashlib

from msgspec import Struct

from sinks.clickhouse import Sink
from sinks.source import add_source, chunk_sizes
from streams.topic import TopicError, admin_client, describe_error

__all__ = ["SourceError", "TopicIdentity", "identify", "known_sources", "register", "source_id"]


class SourceError(RuntimeError):
    """The worker must not read this source; the message says why and what to do."""


class TopicIdentity(Struct, frozen=True):
    """A topic as it is now. ``incarnation`` changes when it is deleted and made again."""

    cluster: str
    topic: str
    incarnation: str
    partitions: int

    def source(self, partition: int) -> int:
        """The id of one of its partitions."""
        return source_id(self.cluster, self.topic, self.incarnation, partition)


def source_id(cluster: str, topic: str, incarnation: str, partition: int) -> int:
    """63 bits that identify a source; the same for every worker without asking anybody.

    >>> source_id("c", "t", "i", 0) == source_id("c", "t", "i", 0) != source_id("c", "t", "i", 1)
    True
    """
    text = "\0".join((cluster, topic, incarnation, str(partition)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def identify(bootstrap: str, topic: str, timeout_s: float = 30.0) -> TopicIdentity:
    """Ask Kafka what a topic is.

    Raises
    ------
    TopicError
        Kafka did not answer, or the topic does not exist.
    """
    from kafka.errors import KafkaError

    try:
        with admin_client(bootstrap, timeout_s) as admin:
            cluster = str(admin.describe_cluster()["cluster_id"])
            described = [entry for entry in admin.describe_topics() if entry["name"] == topic]
    except KafkaError as error:
        raise TopicError(f"{bootstrap} does not answer: {describe_error(error)}") from error
    if not described:
        raise TopicError(
            f"topic {topic} does not exist on {bootstrap}; make it with `python -m streams.topic`"
        )
    return TopicIdentity(cluster, topic, str(described[0]["topic_id"]), len(described[0]["partitions"]))


def known_sources(
    sink: Sink, identity: TopicIdentity, partitions: list[int], chunk_records: int
) -> dict[int, bool]:
    """Which sources the sink knows.

    Returns
    -------
    For each partition whether its source is known: offsets that are committed for a source that is
    not belong to an earlier incarnation of the topic.

    Raises
    ------
    SourceError
        A source was written with another chunk size.
    SinkError
        The sink did not answer.
    """
    ids = {identity.source(partition): partition for partition in partitions}
    known = chunk_sizes(sink, list(ids))
    for source, size in known.items():
        if size != chunk_records:
            raise SourceError(
                f"partition {ids[source]} of {identity.topic} is stored in chunks of {size} records and this "
                f"worker is set to {chunk_records}: events would be counted twice. "
                f"Set GATEWATCH_CHUNK_RECORDS={size}"
            )
    return {partition: source in known for source, partition in ids.items()}


def register(sink: Sink, identity: TopicIdentity, partitions: list[int], chunk_records: int) -> None:
    """Make sources known, once no offset of an earlier incarnation is committed for them any more.

    Raises
    ------
    SinkError
        The sink did not answer.
    """
    for partition in partitions:
        add_source(
            sink,
            identity.source(partition),
            cluster=identity.cluster,
            topic=identity.topic,
            incarnation=identity.incarnation,
            partition=partition,
            chunk_records=chunk_records,
        )
