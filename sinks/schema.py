"""The tables, declared once: migrations are checked against this, inserts are typed by it.

Tables live in the database ``gatewatch_store`` and are nobody's interface; people read the views of
the database ``gatewatch`` (``sinks/views``). Every table takes repeated, reordered and stale inserts
without harm (``docs/delivery.md``):

- merged by content: ``calls`` and ``texts`` keep the maximum of each column;
- replaced as a whole by a higher version: ``chunks``, ``measures``, ``checkpoints``, ``sources``;
- keyed by the id of a change, all of which are kept: ``budgets``;
- keyed by place in the log, where a repeat is the same row: the rest.

A table expires by a column of its key only: ClickHouse brings older versions of a row back when it
expires by another one.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from signals import cost
from signals.column import CALL_COLUMNS, Column
from signals.signal import DIMENSIONS

__all__ = ["STORE", "TABLES", "VIEWS", "StoredColumn", "Table", "create_table"]

STORE: Final = "gatewatch_store"
VIEWS: Final = "gatewatch"


COMPACT_PARTS: Final = "min_bytes_for_wide_part = 268435456"
"""One file for all columns of a part up to 256 MiB: with 56 of them, writing and merging a file each is
what costs (docs/decisions/compact-parts.md)."""


FIRST_INSERT: Final = "non_replicated_deduplication_window = 10000"
"""Of several inserts with the same token the engine keeps the first, whoever sends it: more tokens than there
can be versions. Replicated tables do so by themselves."""


class StoredColumn(Struct, frozen=True):
    """A column and its ClickHouse type, exactly as ``system.columns`` prints it."""

    name: str
    type: str


class Table(Struct, frozen=True, kw_only=True):
    """A table of the store."""

    name: str
    columns: tuple[StoredColumn, ...]
    engine: str
    order_by: str
    partition_by: str = ""
    ttl: str = ""
    indexes: tuple[str, ...] = ()
    settings: str = ""
    purpose: str

    @property
    def qualified(self) -> str:
        """``database.table``."""
        return f"{STORE}.{self.name}"


_WIDTH: Final = {"status_code": "UInt16", "attempt": "UInt16"}


def _call_type(column: Column) -> str:
    match column.encoding:
        case "text":
            inner = "LowCardinality(String)" if column.low_cardinality else "String"
        case "json":
            inner = "String"
        case "flag":
            inner = "UInt8"
        case "time":
            inner = "DateTime64(3, 'UTC')"
        case "hashes":
            inner = "Array(UInt64)"
        case "maybe" | "micros" | "tokens" | "nano":
            inner = _WIDTH.get(column.name, "UInt64")
    if column.name in ("started_at", "call_id"):
        return inner
    return f"SimpleAggregateFunction(max, {inner})"


def _columns(text: str) -> tuple[StoredColumn, ...]:
    """Columns written one a line: name, then type."""
    rows = [line.strip().split(" ", 1) for line in text.strip().splitlines()]
    return tuple(StoredColumn(name, kind.strip()) for name, kind in rows)


_PLACE: Final = """
    source UInt64
    offset UInt64
    line UInt32
"""

TABLES: Final = (
    Table(
        name="calls",
        columns=(
            *(StoredColumn(column.name, _call_type(column)) for column in CALL_COLUMNS),
            StoredColumn("parts", "SimpleAggregateFunction(groupBitOr, UInt8)"),
            *(StoredColumn(column, "SimpleAggregateFunction(max, UInt64)") for column in cost.COLUMNS),
            StoredColumn("price", "SimpleAggregateFunction(max, LowCardinality(String))"),
            StoredColumn("cost_details", "SimpleAggregateFunction(max, String)"),
            StoredColumn("cost_minute", "SimpleAggregateFunction(max, UInt32)"),
            StoredColumn("repriced", "SimpleAggregateFunction(max, String)"),
        ),
        engine="AggregatingMergeTree",
        order_by="(started_at, call_id)",
        partition_by="toDate(started_at)",
        ttl="toDateTime(started_at) + toIntervalDay(400)",
        indexes=("INDEX by_call_id call_id TYPE bloom_filter(0.01) GRANULARITY 1",),
        settings=COMPACT_PARTS,
        purpose="One row a call once merged; encodings as signals/column.py, cost.py and repricing.py say.",
    ),
    Table(
        name="texts",
        columns=_columns("""
            started_at DateTime64(3, 'UTC')
            call_id String
            input_text SimpleAggregateFunction(max, String)
            output_text SimpleAggregateFunction(max, String)
        """),
        engine="AggregatingMergeTree",
        order_by="(started_at, call_id)",
        partition_by="toDate(started_at)",
        ttl="toDateTime(started_at) + toIntervalDay(7)",
        purpose="Prompts and answers that somebody asked to be sent. No view shows them.",
    ),
    Table(
        name="chunks",
        columns=_columns("""
            source UInt64
            first_offset UInt64
            family LowCardinality(String)
            opened_at DateTime64(3, 'UTC')
            last_offset UInt64
            records UInt32
            appended_to DateTime64(3, 'UTC')
            events UInt64
            duplicates UInt64
            late UInt64
            rejects UInt64
            untracked UInt64
            window_from DateTime('UTC')
            window_to DateTime('UTC')
            signal Array(LowCardinality(String))
            label Array(LowCardinality(String))
            series Array(String)
            window Array(DateTime('UTC'))
            n Array(UInt64)
            sum Array(Int64)
            buckets Array(Array(Int16))
            counts Array(Array(UInt32))
            seq_emitter_id Array(String)
            seq_first Array(UInt64)
            seq_last Array(UInt64)
            dup_emitter_id Array(String)
            dup_n Array(UInt64)
        """),
        engine="ReplacingMergeTree(last_offset)",
        order_by="(opened_at, source, first_offset, family)",
        partition_by="toDate(opened_at)",
        ttl="toDateTime(opened_at) + toIntervalDay(400)",
        indexes=("INDEX by_window window_to TYPE minmax GRANULARITY 1",),
        purpose="The aggregates' source of truth: one row a chunk and family, replaced as a whole.",
    ),
    Table(
        name="measures",
        columns=(
            *_columns("""
                signal LowCardinality(String)
                label LowCardinality(String)
                series String
                window DateTime('UTC')
                shard UInt8
                cut LowCardinality(String)
            """),
            *(StoredColumn(name, "LowCardinality(String)") for name in DIMENSIONS),
            *_columns("""
                n UInt64
                sum Int64
                buckets Array(Int16)
                counts Array(UInt64)
                version UInt64
            """),
        ),
        engine="ReplacingMergeTree(version)",
        order_by="(window, signal, series, label)",
        partition_by="toYYYYMM(window)",
        ttl="window + toIntervalYear(5)",
        purpose="Windows that have closed, merged from the chunks.",
    ),
    Table(
        name="checkpoints",
        columns=_columns("""
            shard UInt8
            closed_until DateTime('UTC')
        """),
        engine="ReplacingMergeTree(closed_until)",
        order_by="shard",
        purpose="Up to where each shard of series has closed its windows.",
    ),
    Table(
        name="rejects",
        columns=_columns(f"""
            appended_at DateTime64(3, 'UTC')
            {_PLACE.strip()}
            reason LowCardinality(String)
            detail String
            size UInt64
            value String
        """),
        engine="ReplacingMergeTree",
        order_by="(appended_at, source, offset, line)",
        partition_by="toDate(appended_at)",
        ttl="toDateTime(appended_at) + toIntervalDay(30)",
        purpose="Lines that are no events, with their bytes (the first 64 KiB).",
    ),
    Table(
        name="replays",
        columns=_columns(f"""
            {_PLACE.strip()}
            state UInt8
            replayed_at DateTime64(3, 'UTC')
        """),
        engine="ReplacingMergeTree(state)",
        order_by="(source, offset, line)",
        purpose="Dead letters that have been sent again: state 1 is about to be sent, 2 is sent.",
    ),
    Table(
        name="feedback",
        columns=_columns(f"""
            at DateTime64(3, 'UTC')
            {_PLACE.strip()}
            call_id String
            gateway LowCardinality(String)
            environment LowCardinality(String)
            name LowCardinality(String)
            score Nullable(Float64)
            label String
            comment String
            tenant LowCardinality(String)
            user_hash String
        """),
        engine="ReplacingMergeTree",
        order_by="(at, source, offset, line)",
        partition_by="toYYYYMM(at)",
        ttl="toDateTime(at) + toIntervalDay(400)",
        purpose="What users think of calls.",
    ),
    Table(
        name="evaluations",
        columns=_columns(f"""
            at DateTime64(3, 'UTC')
            {_PLACE.strip()}
            call_id String
            gateway LowCardinality(String)
            environment LowCardinality(String)
            name LowCardinality(String)
            score Nullable(Float64)
            label String
            evaluator LowCardinality(String)
            tenant LowCardinality(String)
        """),
        engine="ReplacingMergeTree",
        order_by="(at, source, offset, line)",
        partition_by="toYYYYMM(at)",
        ttl="toDateTime(at) + toIntervalDay(400)",
        purpose="What judges and guardrails think of calls.",
    ),
    Table(
        name="resources",
        columns=_columns(f"""
            at DateTime64(3, 'UTC')
            {_PLACE.strip()}
            gateway LowCardinality(String)
            environment LowCardinality(String)
            emitter_id String
            resource LowCardinality(String)
            deployment LowCardinality(String)
            model LowCardinality(String)
            gpu_utilization Nullable(Float64)
            gpu_memory_used_bytes Nullable(UInt64)
            gpu_power_watts Nullable(Float64)
            kv_cache_utilization Nullable(Float64)
            running_requests Nullable(UInt64)
            queued_requests Nullable(UInt64)
            cpu_utilization Nullable(Float64)
            memory_used_bytes Nullable(UInt64)
            gpu_count Nullable(Float64)
            interval_s Nullable(Float64)
            emitter_dropped_total Nullable(UInt64)
            emitter_queued Nullable(UInt64)
        """),
        engine="ReplacingMergeTree",
        order_by="(at, source, offset, line)",
        partition_by="toYYYYMM(at)",
        ttl="toDateTime(at) + toIntervalDay(400)",
        purpose="The state of GPUs, engines, queues and emitters.",
    ),
    Table(
        name="sources",
        columns=_columns("""
            source UInt64
            cluster String
            topic LowCardinality(String)
            incarnation String
            partition UInt32
            chunk_records UInt32
            registered_at DateTime64(3, 'UTC')
        """),
        engine="ReplacingMergeTree",
        order_by="source",
        purpose="Which partition of which incarnation of a topic a source id means.",
    ),
    Table(
        name="workers",
        columns=_columns("""
            at DateTime64(3, 'UTC')
            worker String
            source UInt64
            partition UInt32
            flushed_offset Int64
            lag_records UInt64
            oldest_unacknowledged_ms UInt64
            events_total UInt64
            rejects_total UInt64
            rows_written_total UInt64
            insert_errors_total UInt64
            headless_chunks_total UInt64
        """),
        engine="ReplacingMergeTree",
        order_by="(at, worker, source)",
        partition_by="toDate(at)",
        ttl="toDateTime(at) + toIntervalDay(14)",
        purpose="What each worker says of itself and its partitions, every few seconds.",
    ),
    Table(
        name="gpu_rates",
        columns=_columns("""
            rate_id String
            valid_from DateTime('UTC')
            revision UInt64
            valid_to DateTime('UTC')
            gateway String
            deployment String
            model String
            resource String
            any_gateway UInt8
            nano_usd_per_gpu_hour UInt64
            output_weight_permille UInt32
            cache_read_weight_permille UInt32
            source String
            removed UInt8
        """),
        engine="ReplacingMergeTree",
        order_by="(rate_id, valid_from, revision)",
        purpose="What a GPU-hour costs, with dates: every revision, of which the last one counts.",
    ),
    Table(
        name="budgets",
        columns=_columns("""
            budget_id String
            version UInt64
            change_id String
            changed_at DateTime64(3, 'UTC')
            changed_by String
            valid_from DateTime64(3, 'UTC')
            is_removed UInt8
            tenant LowCardinality(String)
            team LowCardinality(String)
            key_alias LowCardinality(String)
            provider LowCardinality(String)
            model LowCardinality(String)
            gateway LowCardinality(String)
            environment LowCardinality(String)
            period LowCardinality(String)
            time_zone LowCardinality(String)
            amount_usd Decimal(38, 9)
            warn_shares Array(Decimal(9, 4))
        """),
        engine="ReplacingMergeTree",
        order_by="(budget_id, version, change_id)",
        purpose="Every change of a budget, removals too: the highest version that holds at a time counts.",
    ),
    Table(
        name="price_versions",
        columns=_columns("""
            version UInt32
            made_at DateTime64(3, 'UTC')
            takes_effect_at DateTime64(3, 'UTC')
            digest String
            list_digest String
            source LowCardinality(String)
            contract_count UInt32
            note String
            list String
            declared String
            contracts String
        """),
        engine="ReplacingMergeTree",
        order_by="(version, made_at, digest)",
        settings=FIRST_INSERT,
        purpose="The ledger of prices: each version a complete price book, as JSON documents; never changed.",
    ),
    Table(
        name="prices",
        columns=_columns("""
            version UInt32
            provider LowCardinality(String)
            model String
            service_tier LowCardinality(String)
            component LowCardinality(String)
            unit LowCardinality(String)
            usd_per_unit Nullable(Decimal(38, 12))
            above_input_tokens UInt64
            daily LowCardinality(String)
            valid_from DateTime64(3, 'UTC')
            valid_to Nullable(DateTime64(3, 'UTC'))
            tenant LowCardinality(String)
            deployment LowCardinality(String)
            contract_id String
            adjust_bp Int32
            same_as String
            kind LowCardinality(String)
            source String
            source_date String
        """),
        engine="ReplacingMergeTree",
        order_by="(version, provider, model, service_tier, component, tenant, deployment, contract_id, "
        "daily, valid_from, above_input_tokens)",
        purpose="Each version's rates as rows, for people; made from the documents, and priced by nobody.",
    ),
    Table(
        name="reprices",
        columns=_columns("""
            started_at DateTime64(3, 'UTC')
            run UUID
            range_from DateTime64(3, 'UTC')
            range_until DateTime64(3, 'UTC')
            providers Array(String)
            models Array(String)
            tenants Array(String)
            price_version UInt64
            state UInt8
            finished_at DateTime64(3, 'UTC')
            calls UInt64
            changed UInt64
            before_nano_usd Int64
            after_nano_usd Int64
        """),
        engine="ReplacingMergeTree(state)",
        order_by="(started_at, run)",
        partition_by="toYYYYMM(started_at)",
        ttl="toDateTime(started_at) + toIntervalDay(400)",
        purpose="Runs of `gatewatch reprice`: state 1 has begun, 2 is finished.",
    ),
)


def create_table(table: Table) -> str:
    """The statement that creates a table.

    >>> print(create_table(TABLES[4]))
    CREATE TABLE IF NOT EXISTS gatewatch_store.checkpoints
    (
        shard UInt8,
        closed_until DateTime('UTC')
    )
    ENGINE = ReplacingMergeTree(closed_until)
    ORDER BY shard;
    """
    body = [f"    {column.name} {column.type}" for column in table.columns]
    body += [f"    {index}" for index in table.indexes]
    lines = [
        f"CREATE TABLE IF NOT EXISTS {table.qualified}",
        "(",
        ",\n".join(body),
        ")",
        f"ENGINE = {table.engine}",
        *([f"PARTITION BY {table.partition_by}"] if table.partition_by else []),
        f"ORDER BY {table.order_by}",
        *([f"TTL {table.ttl}"] if table.ttl else []),
        *([f"SETTINGS {table.settings}"] if table.settings else []),
    ]
    return "\n".join(lines) + ";"
