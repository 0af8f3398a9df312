"""The ledger of sources: which partition of which topic's incarnation an id means, and its chunk size."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from sinks.clickhouse import Sink
from sinks.schema import STORE

__all__ = ["RegisteredSource", "add_source", "chunk_sizes", "registered_sources"]


class RegisteredSource(Struct, frozen=True):
    """A partition of one incarnation of a topic."""

    source: int
    topic: str
    partition: int


def registered_sources(sink: Sink) -> list[RegisteredSource]:
    """All sources that were ever read, in the order in which they were first read."""
    rows = sink.rows(
        f"SELECT source, topic, partition FROM {STORE}.sources FINAL ORDER BY registered_at, source"
    )
    return [RegisteredSource(int(source), str(topic), int(partition)) for source, topic, partition in rows]


def chunk_sizes(sink: Sink, sources: Sequence[int]) -> dict[int, int]:
    """Records of a chunk for each source that is known."""
    rows = sink.rows(
        f"SELECT source, chunk_records FROM {STORE}.sources FINAL "
        "WHERE has({sources:Array(UInt64)}, source)",
        {"sources": list(sources)},
    )
    return {int(source): int(size) for source, size in rows}


def add_source(
    sink: Sink, source: int, *, cluster: str, topic: str, incarnation: str, partition: int, chunk_records: int
) -> None:
    """Make a source known."""
    sink.command(
        f"INSERT INTO {STORE}.sources SELECT {{source:UInt64}}, {{cluster:String}}, {{topic:String}}, "
        "{incarnation:String}, {partition:UInt32}, {chunk_records:UInt32}, now64(3)",
        {
            "source": source,
            "cluster": cluster,
            "topic": topic,
            "incarnation": incarnation,
            "partition": partition,
            "chunk_records": chunk_records,
        },
    )
