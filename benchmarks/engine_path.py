"""What the engine does alone with the same bytes: the yardsticks of the throughput benchmark.

- ``naive``: ``INSERT ... FORMAT JSONEachRow`` into a table with the columns, engine, order, index and
  settings of ``calls``, and one materialised view for each cut that makes the same measures, with the
  engine's own sketch of the same error (``quantilesDD(0.01)``). What one would write first, and at best
  what ClickHouse's Kafka engine reaches, without its Kafka part.
- ``tuned``: a Null table of plain strings in front, a view that casts, and all cuts in one view with
  GROUPING SETS: JSON straight into LowCardinality columns is what is slow in the engine.
"""

from __future__ import annotations

from typing import Final

from signals.column import CALL_COLUMNS
from signals.signal import CUTS, DIMENSIONS
from sinks.schema import COMPACT_PARTS

__all__ = ["INPUT", "statements"]

INPUT: Final = {"naive": "bench.calls", "tuned": "bench.input"}
"""Where JSONEachRow is inserted."""

_TEXT: Final = [column for column in CALL_COLUMNS if column.encoding in ("text", "json")]
_NUMBERS: Final = {
    column.field: "Float64" if column.encoding in ("micros", "nano") else "UInt64"
    for column in CALL_COLUMNS
    if column.encoding in ("maybe", "tokens", "micros", "nano")
}
_TIMES: Final = ("total_ms", "ttft_ms", "tpot_ms")
_WINDOW: Final = "toStartOfMinute(fromUnixTimestamp64Milli(toInt64(at_ms)))"


def _columns(*, stored: bool) -> str:
    def kept(inner: str) -> str:
        return f"SimpleAggregateFunction(max, {inner})" if stored else inner

    columns = ["started_at_ms Int64", "call_id String", f"at_ms {kept('UInt64')}"]
    for column in _TEXT:
        if column.name != "call_id":
            low = column.low_cardinality and stored
            columns.append(f"{column.name} {kept('LowCardinality(String)' if low else 'String')}")
    columns += [f"{name} {kept(kind)}" for name, kind in _NUMBERS.items()]
    columns += [f"{name} {kept('UInt8')}" for name in ("stream", "gateway_cache_hit")]
    return ", ".join(columns)


_MEASURES: Final = ", ".join(
    [
        "count() AS n",
        "sum(input_tokens) AS input",
        "sum(output_tokens) AS output",
        "sumMap([toString(error_class)], [toUInt64(error_class != '')]) AS errors",
        "sumMap([toString(stream_end)], [toUInt64(stream_end NOT IN ('', 'complete'))]) AS cut",
        *(f"sum({name}) AS sum_{name}" for name in _TIMES),
        *(f"quantilesDDStateIf(0.01, 0.5)({name}, {name} > 0) AS sketch_{name}" for name in _TIMES),
    ]
)


def _target(name: str, dimensions: tuple[str, ...]) -> str:
    columns = [f"{dimension} LowCardinality(String)" for dimension in dimensions]
    columns += [
        "window DateTime",
        *(f"{c} SimpleAggregateFunction(sum, UInt64)" for c in ("n", "input", "output")),
    ]
    columns += [
        f"{c} SimpleAggregateFunction(sumMap, Tuple(Array(String), Array(UInt64)))" for c in ("errors", "cut")
    ]
    columns += [f"sum_{c} SimpleAggregateFunction(sum, Float64)" for c in _TIMES]
    columns += [f"sketch_{c} AggregateFunction(quantilesDD(0.01, 0.5), Float64)" for c in _TIMES]
    return (
        f"CREATE TABLE bench.{name} ({', '.join(columns)}) ENGINE = AggregatingMergeTree "
        f"ORDER BY ({', '.join(dimensions)}, window)"
    )


def statements(path: str) -> list[str]:
    """What makes the tables and views of a path, ``naive`` or ``tuned``."""
    made = [
        "CREATE DATABASE bench",
        f"CREATE TABLE bench.calls ({_columns(stored=True)}, "
        "INDEX by_call_id call_id TYPE bloom_filter(0.01) GRANULARITY 1) ENGINE = AggregatingMergeTree "
        "PARTITION BY toDate(fromUnixTimestamp64Milli(started_at_ms)) ORDER BY (started_at_ms, call_id) "
        "TTL toDateTime(fromUnixTimestamp64Milli(started_at_ms)) + toIntervalDay(400) "
        f"SETTINGS {COMPACT_PARTS}",
    ]
    source = INPUT[path]
    if path == "tuned":
        made += [
            f"CREATE TABLE bench.input ({_columns(stored=False)}) ENGINE = Null",
            "CREATE MATERIALIZED VIEW bench.casting TO bench.calls AS SELECT * FROM bench.input",
            _target("measures", DIMENSIONS),
            f"CREATE MATERIALIZED VIEW bench.measuring TO bench.measures AS SELECT {', '.join(DIMENSIONS)}, "
            f"{_WINDOW} AS window, {_MEASURES} FROM {source} GROUP BY GROUPING SETS ("
            + ", ".join(f"({', '.join(cut.dimensions)}, window)" for cut in CUTS)
            + ")",
        ]
        return made
    for cut in CUTS:
        keys = ", ".join(cut.dimensions)
        made += [
            _target(f"by_{cut.name}", cut.dimensions),
            f"CREATE MATERIALIZED VIEW bench.measuring_{cut.name} TO bench.by_{cut.name} AS SELECT {keys}, "
            f"{_WINDOW} AS window, {_MEASURES} FROM {source} GROUP BY {keys}, window",
        ]
    return made
