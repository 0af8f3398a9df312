"""The views that people read: plain names, decoded values, one row a thing.

They hide how rows are stored: encodings, versions, the parts of a call, and the seam between windows
that have closed (``measures``) and windows that are still open (merged from ``chunks``). Panels,
alert rules and documentation use views only; their names and columns are stable.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from signals.column import CALL_COLUMNS, RANK_SHIFT, Column
from signals.cost import AMOUNT_BITS, COLUMNS, HEAD_DIGITS, STATUSES
from signals.signal import CUTS, DIMENSIONS, SHARDS
from signals.sketch import GAMMA
from sinks.schema import STORE, VIEWS

__all__ = ["ALL_VIEWS", "SHARDS", "View", "create_view", "dimension_columns"]


class View(Struct, frozen=True):
    """A view: its query and, for the catalogue, what a row of it is."""

    name: str
    purpose: str
    query: str


def create_view(view: View) -> str:
    """The statement that creates or replaces a view."""
    return f"CREATE OR REPLACE VIEW {VIEWS}.{view.name} AS\n{view.query}"


def _decoded(column: Column) -> str:
    name = column.name
    match column.encoding:
        case "time" if name == "last_at":
            return "last_at AS ended_at"
        case "text" | "time":
            return name
        case "hashes":
            return name
        case "json":
            values = "String" if name == "tags" else "UInt64"
            return f"JSONExtract(c.{name}, 'Map(String, {values})') AS {name}"
        case "flag":
            return f"if(c.{name} = 0, NULL, c.{name} = 2) AS {name}"
        case "tokens":
            mask = (1 << RANK_SHIFT) - 1
            return f"if(c.{name} = 0, NULL, bitAnd(c.{name}, {mask})) AS {name}"
        case "micros":
            decoded = name.removesuffix("_us") + "_ms"
            return f"if(c.{name} = 0, NULL, (c.{name} - 1) / 1000) AS {decoded}"
        case "nano":
            decoded = name.removesuffix("_nano_usd") + "_usd"
            return f"if(c.{name} = 0, NULL, {_usd(f'c.{name} - 1')}) AS {decoded}"
        case "maybe":
            return f"if(c.{name} = 0, NULL, c.{name} - 1) AS {name}"


def _usd(nano: str) -> str:
    """Nano-USD as dollars, exactly."""
    return f"CAST(toDecimal128({nano}, 9) / 1000000000, 'Decimal(38, 9)')"


def _cost_columns() -> list[str]:
    """What the columns of :mod:`signals.cost` say."""
    amounts = {column: f"bitAnd(c.{column}, {(1 << AMOUNT_BITS) - 1})" for column in COLUMNS}
    statuses = ", ".join(f"'{status}'" for status in STATUSES)
    said = f"substring(c.price, {HEAD_DIGITS + 2})"
    details = (
        f"if(startsWith(c.cost_details, substring(c.price, 1, {HEAD_DIGITS})), "
        f"JSONExtract(substring(c.cost_details, {HEAD_DIGITS + 1}), 'Map(String, UInt64)'), map())"
    )
    status = f"toUInt8OrZero(substring(c.price, {HEAD_DIGITS + 1}, 1))"
    return [
        f"if(c.price = '', '', [{statuses}][{status}]) AS cost_status",
        f"if(cost_status IN ('', 'unpriced'), NULL, {_usd(' + '.join(amounts.values()))}) AS cost_usd",
        *(
            f"if(cost_status IN ('', 'unpriced'), NULL, {_usd(amount)}) AS {column}_usd"
            for column, amount in amounts.items()
        ),
        f"mapApply((part, nano) -> (part, {_usd('nano')}), {details}) AS cost_details_usd",
        f"splitByChar(char(0), {said})[1] AS price_id",
        f"splitByChar(char(0), {said})[2] AS cost_reason",
        f"bitShiftRight(c.cost_input, {AMOUNT_BITS + 2}) AS price_version",
    ]


_CALLS: Final = """\
SELECT
    {columns},
    {cost},
    multiIf(
        bitShiftRight(greatest(c.input_tokens, c.output_tokens), {shift}) = 3, 'provider',
        bitShiftRight(greatest(c.input_tokens, c.output_tokens), {shift}) = 2, 'estimated',
        bitShiftRight(greatest(c.input_tokens, c.output_tokens), {shift}) = 1, 'progress',
        'missing') AS usage_source,
    c.error_class != '' AS is_error,
    bitAnd(c.parts, 20) != 0 AS is_ended,
    arrayFilter((part, bit) -> bitAnd(c.parts, bit) != 0,
        ['request', 'token', 'response', 'latency', 'call'], [1, 2, 4, 8, 16]) AS parts_seen
FROM {store}.calls AS c FINAL""".format(
    columns=",\n    ".join(_decoded(column) for column in CALL_COLUMNS),
    cost=",\n    ".join(_cost_columns()),
    shift=RANK_SHIFT,
    store=STORE,
)


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
    signal, label, window AS window_start, cut, {_DIMENSIONS}, n, sum,
    if(n = 0, NULL, sum / n) AS mean,
    {_quantile(0.5)} AS p50_ms,
    {_quantile(0.95)} AS p95_ms,
    {_quantile(0.99)} AS p99_ms,
    buckets, counts, is_closed
FROM
(
    SELECT signal, label, window, cut, {_DIMENSIONS}, n, sum, buckets, counts, true AS is_closed
    FROM {STORE}.measures FINAL
    WHERE window < {_CLOSED_UNTIL}[shard] AND n > 0
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
    )
) AS m"""

_PLACED: Final = "s.topic AS topic, s.partition AS partition"

_DEAD_LETTERS: Final = f"""\
SELECT
    r.appended_at AS appended_at, {_PLACED}, r.offset AS offset, r.line AS line,
    r.reason AS reason, r.detail AS detail, r.size AS size,
    if(p.state = 2, p.replayed_at, NULL) AS replayed_at, r.source AS source
FROM {STORE}.rejects AS r FINAL
LEFT JOIN (SELECT source, topic, partition FROM {STORE}.sources FINAL) AS s ON s.source = r.source
LEFT JOIN (SELECT source, offset, line, state, replayed_at FROM {STORE}.replays FINAL) AS p
    ON p.source = r.source AND p.offset = r.offset AND p.line = r.line"""

_EMITTERS: Final = f"""\
SELECT
    e.emitter_id AS emitter_id,
    e.first_seq AS first_seq,
    e.last_seq AS last_seq,
    e.received + ifNull(d.suppressed, 0) AS received,
    e.last_seq - e.first_seq + 1 - e.covered AS gaps,
    e.received - e.covered + ifNull(d.suppressed, 0) AS duplicates,
    ifNull(x.dropped, 0) AS reported_drops,
    -- An emitter counts from 0. Where its first chunks may have expired, what it sent first is unknown.
    greatest(e.last_seq + 1
        - if(e.opened_at > (SELECT max(opened_at) FROM {STORE}.chunks) - INTERVAL 390 DAY, 0, e.first_seq)
        - e.covered - ifNull(x.dropped, 0), 0) AS lost
FROM
(
    SELECT
        emitter_id, toInt64(min(low)) AS first_seq, toInt64(max(high)) AS last_seq, min(opened) AS opened_at,
        sum(high - low + 1) AS received, sum(greatest(high - greatest(low, before + 1) + 1, 0)) AS covered
    FROM
    (
        SELECT
            emitter_id, low, high, opened,
            ifNull(max(toNullable(high)) OVER (PARTITION BY emitter_id ORDER BY low, high
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), -1) AS before
        FROM
        (
            SELECT emitter_id, toInt64(f) AS low, toInt64(l) AS high, opened_at AS opened
            FROM {STORE}.chunks FINAL
            ARRAY JOIN seq_emitter_id AS emitter_id, seq_first AS f, seq_last AS l
            WHERE family = 'pipeline'
        )
    )
    GROUP BY emitter_id
) AS e
LEFT JOIN
(
    SELECT id, sum(k) AS suppressed FROM {STORE}.chunks FINAL
    ARRAY JOIN dup_emitter_id AS id, dup_n AS k WHERE family = 'pipeline' GROUP BY id
) AS d ON d.id = e.emitter_id
LEFT JOIN
(
    SELECT emitter_id AS id, toInt64(max(emitter_dropped_total)) AS dropped
    FROM {STORE}.resources FINAL WHERE resource = 'emitter' GROUP BY emitter_id
) AS x ON x.id = e.emitter_id"""

_DELIVERY: Final = f"""\
SELECT
    s.topic AS topic, s.partition AS partition, c.source AS source,
    toUInt64(sum(c.records)) AS records, sum(c.events) AS events, sum(c.duplicates) AS duplicates,
    sum(c.late) AS late, sum(c.rejects) AS rejects,
    sum(c.untracked) AS untracked,
    min(c.first_offset) AS first_offset, max(c.last_offset) AS last_offset,
    max(c.appended_to) AS appended_to
FROM {STORE}.chunks AS c FINAL
LEFT JOIN (SELECT source, topic, partition FROM {STORE}.sources FINAL) AS s ON s.source = c.source
WHERE c.family = 'pipeline'
GROUP BY c.source, s.topic, s.partition"""

_WORKERS: Final = f"""\
SELECT w.at AS at, w.worker AS worker, s.topic AS topic, w.partition AS partition,
    w.flushed_offset AS flushed_offset, w.lag_records AS lag_records,
    w.oldest_unacknowledged_ms AS oldest_unacknowledged_ms,
    w.events_total AS events_total, w.rejects_total AS rejects_total,
    w.rows_written_total AS rows_written_total, w.insert_errors_total AS insert_errors_total,
    w.headless_chunks_total AS headless_chunks_total
FROM {STORE}.workers AS w FINAL
LEFT JOIN (SELECT source, topic FROM {STORE}.sources FINAL) AS s ON s.source = w.source"""


def _plain(table: str, columns: str) -> str:
    return f"SELECT {columns} FROM {STORE}.{table} FINAL"


ALL_VIEWS: Final = (
    View("calls", "One row a call, whichever events it came in.", _CALLS),
    View(
        "measures",
        "One row for each signal, label, window of a minute and series, in closed and open windows alike.",
        _MEASURES,
    ),
    View("dead_letters", "One row for each line that was no event, with the reason.", _DEAD_LETTERS),
    View(
        "emitters",
        "One row for each emitter: what arrived of its numbered events, what is missing, what came twice.",
        _EMITTERS,
    ),
    View(
        "delivery", "One row for each partition: how many records, events and rejects are stored.", _DELIVERY
    ),
    View("workers", "One row for each worker and partition every few seconds: lag, age, totals.", _WORKERS),
    View(
        "feedback",
        "One row for each piece of feedback.",
        _plain(
            "feedback", "at, call_id, gateway, environment, name, score, label, comment, tenant, user_hash"
        ),
    ),
    View(
        "evaluations",
        "One row for each score of a judge or guardrail.",
        _plain("evaluations", "at, call_id, gateway, environment, name, score, label, evaluator, tenant"),
    ),
    View(
        "resources",
        "One row for each report of a GPU, engine, queue or emitter.",
        _plain("resources", "* EXCEPT (source, offset, line)"),
    ),
    View(
        "sources",
        "Which partition of which incarnation of a topic a source id means.",
        _plain("sources", "*"),
    ),
)
