"""Closing windows: chunks merged into measures, recomputed whole whenever they are recomputed.

Both statements run inside the engine: merging 60 chunks' sketches takes it some 70 ms, Python ten
times that (``docs/delivery.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from signals.signal import SHARDS
from sinks.clickhouse import Sink
from sinks.schema import STORE
from sinks.views.measure import dimension_columns

__all__ = ["checkpoints", "close_windows", "save_checkpoint"]

# The version of a window's rows grows with every record that counts in it, whoever computes it: a
# stale owner of the shard cannot replace what a later one has seen. Series that are there and no
# longer in the chunks (a deploy changed what a chunk yields) are set to zero: each adds a nothing of its own.
_CLOSE: Final = f"""\
INSERT INTO {STORE}.measures
WITH
    toDateTime({{from_s:UInt32}}, 'UTC') AS from_window,
    toDateTime({{until_s:UInt32}}, 'UTC') AS until_window,
    versions AS
    (
        SELECT w, sum(last_offset + 1) AS version
        FROM
        (
            SELECT last_offset, arrayJoin(arrayDistinct(window)) AS w FROM {STORE}.chunks FINAL
            WHERE window_to >= from_window AND window_from < until_window
        )
        GROUP BY w
    ),
    entries AS
    (
        SELECT signal, label, series, window, chunk_n, chunk_sum, chunk_buckets,
            arrayMap(x -> toUInt64(x), chunk_counts) AS chunk_counts
        FROM {STORE}.chunks FINAL
        ARRAY JOIN
            signal, label, series, window,
            n AS chunk_n, sum AS chunk_sum, buckets AS chunk_buckets, counts AS chunk_counts
        WHERE window_to >= from_window AND window_from < until_window
            AND window >= from_window AND window < until_window
            AND (empty({{only:Array(UInt32)}}) OR has({{only:Array(UInt32)}}, toUnixTimestamp(window)))
            AND has({{shards:Array(UInt8)}}, toUInt8(cityHash64(series) % {SHARDS}))
            AND (empty({{family:String}}) OR family = {{family:String}})
        UNION ALL
        SELECT signal, label, series, window, toUInt64(0), toInt64(0), CAST([], 'Array(Int16)'),
            CAST([], 'Array(UInt64)')
        FROM {STORE}.measures FINAL
        WHERE window >= from_window AND window < until_window AND (n > 0 OR sum != 0)
            AND (empty({{only:Array(UInt32)}}) OR has({{only:Array(UInt32)}}, toUnixTimestamp(window)))
            AND has({{shards:Array(UInt8)}}, shard)
            AND startsWith(signal, {{family:String}})
    )
SELECT
    signal, label, series, window, shard,
    {dimension_columns("parts")},
    total_n AS n, total_sum AS sum, sketch.1 AS buckets, sketch.2 AS counts, version
FROM
(
    SELECT
        signal, label, series, window, toUInt8(cityHash64(series) % {SHARDS}) AS shard,
        JSONExtract(series, 'Array(String)') AS parts,
        sum(chunk_n) AS total_n, sum(chunk_sum) AS total_sum, sumMap(chunk_buckets, chunk_counts) AS sketch
    FROM entries
    GROUP BY signal, label, series, window
) AS rows
INNER JOIN versions ON versions.w = rows.window"""


def close_windows(
    sink: Sink,
    from_s: int,
    until_s: int,
    shards: Sequence[int],
    only: Sequence[int] = (),
    *,
    family: str = "",
) -> None:
    """Merge windows that start in [from_s, until_s) into ``measures``; safe to repeat at any time.

    Parameters
    ----------
    only
        Starts of the windows of that range to merge, all of them when empty.
    family
        The one family of signals to merge, all of them when empty. Sketches are what takes time, and the
        costs have none.

    Raises
    ------
    SinkError
    """
    parameters = {
        "from_s": from_s,
        "until_s": until_s,
        "shards": list(shards),
        "only": list(only),
        "family": family,
    }
    sink.command(_CLOSE, parameters)


def save_checkpoint(sink: Sink, until_s: int, shards: Sequence[int]) -> None:
    """Say that the windows of these shards are closed up to ``until_s``: readers then use ``measures``."""
    sink.command(
        f"INSERT INTO {STORE}.checkpoints "
        "SELECT arrayJoin({shards:Array(UInt8)}), toDateTime({until_s:UInt32}, 'UTC')",
        {"until_s": until_s, "shards": list(shards)},
    )


def checkpoints(sink: Sink) -> dict[int, int]:
    """Up to when, in seconds, each shard has closed its windows."""
    rows = sink.rows(f"SELECT shard, toUnixTimestamp(closed_until) FROM {STORE}.checkpoints FINAL")
    return {int(shard): int(until) for shard, until in rows}
