"""The ledger of sources: which partition of which topic's incarnation an id means, and its chunk size."""

from __future__ import annotations

from collections.abc import Sequence

from sinks.clickhouse import Sink
from sinks.schema import STORE

__all__ = ["add_source", "chunk_sizes"]


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
