"""Views of the pipeline itself: what arrived, what was refused, who worked; and events kept one by one."""

from __future__ import annotations

from typing import Final

from sinks.schema import STORE
from sinks.view import View

__all__ = ["VIEWS"]

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


VIEWS: Final = (
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
