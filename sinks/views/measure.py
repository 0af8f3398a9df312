"""The view ``measures``: aggregates by window and series, over the seam of closed and open windows."""

from __future__ import annotations

from typing import Final

from signals.signal import CUTS, DIMENSIONS, SHARDS
from signals.sketch import GAMMA
from sinks.schema import STORE
from sinks.view import View

__all__ = ["VIEWS", "dimension_columns"]


def dimension_columns(parts: str) -> str:
    """SQL for ``cut`` and each dimension, from a series decoded to an array of strings."""
    columns = [f"{parts}[1] AS cut"]
    for dimension in DIMENSIONS:
        places: dict[int, list[str]] = {}
        for cut in CUTS:
            if dimension in cut.dimensions:
                places.setdefault(cut.dimensions.index(dimension) + 2, []).append(f"'{cut.name}'")
        cases = ", ".join(
            f"{parts}[1] IN ({', '.join(names)}), {parts}[{place}]" for place, names in sorted(places.items())
        )
        columns.append(f"multiIf({cases}, '') AS {dimension}")
    return ",\n        ".join(columns)


def _quantile(q: float) -> str:
    index = f"arrayFirstIndex(seen -> seen > floor({q} * arraySum(m.counts)), arrayCumSum(m.counts))"
    return f"if(empty(m.counts), NULL, 2 * pow({GAMMA!r}, m.buckets[{index}]) / {GAMMA + 1!r} / 1000)"


_CLOSED_UNTIL: Final = f"""(
        SELECT mapFromArrays(groupArray(shard), groupArray(closed_until)) FROM {STORE}.checkpoints FINAL)"""

_DIMENSIONS: Final = ", ".join(DIMENSIONS)

_MEASURES: Final = f"""\
SELECT
    signal, label, window AS window_start, cut, {_DIMENSIONS},
    -- A correction can be below zero, where a lane had counted under another name.
    toInt64(m.n) AS n, sum,
    if(n = 0, NULL, sum / n) AS mean,
    {_quantile(0.5)} AS p50_ms,
    {_quantile(0.95)} AS p95_ms,
    {_quantile(0.99)} AS p99_ms,
    buckets, counts, is_closed
FROM
(
    SELECT signal, label, window, cut, {_DIMENSIONS}, n, sum, buckets, counts, true AS is_closed
    FROM {STORE}.measures FINAL
    WHERE window < {_CLOSED_UNTIL}[shard] AND (n > 0 OR sum != 0)
    UNION ALL
    SELECT
        signal, label, window,
        {dimension_columns("parts")},
        total_n AS n, total_sum AS sum, merged.1 AS buckets, merged.2 AS counts, false AS is_closed
    FROM
    (
        SELECT
            signal, label, window, JSONExtract(series, 'Array(String)') AS parts,
            sum(chunk_n) AS total_n, sum(chunk_sum) AS total_sum,
            sumMap(chunk_buckets, arrayMap(x -> toUInt64(x), chunk_counts)) AS merged
        FROM {STORE}.chunks FINAL
        ARRAY JOIN
            signal, label, series, window,
            n AS chunk_n, sum AS chunk_sum, buckets AS chunk_buckets, counts AS chunk_counts
        WHERE window_to >= if(length({_CLOSED_UNTIL}) < {SHARDS}, toDateTime(0, 'UTC'),
                              arrayMin(mapValues({_CLOSED_UNTIL})))
            AND window >= {_CLOSED_UNTIL}[toUInt8(cityHash64(series) % {SHARDS})]
        GROUP BY signal, label, window, series
        HAVING total_n != 0 OR total_sum != 0
    )
) AS m"""

VIEWS: Final = (
    View(
        "measures",
        "One row for each signal, label, window of a minute and series, in closed and open windows alike.",
        _MEASURES,
    ),
)
