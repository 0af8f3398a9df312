-- The tables of gatewatch, as sinks/schema.py declared them at version 1.
-- Migrations are numbered, run once, in order, and are never edited after a release.

CREATE DATABASE IF NOT EXISTS gatewatch_store;

CREATE DATABASE IF NOT EXISTS gatewatch;

CREATE TABLE IF NOT EXISTS gatewatch_store.calls
(
    started_at DateTime64(3, 'UTC'),
    call_id String,
    last_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')),
    gateway SimpleAggregateFunction(max, LowCardinality(String)),
    environment SimpleAggregateFunction(max, LowCardinality(String)),
    provider SimpleAggregateFunction(max, LowCardinality(String)),
    model SimpleAggregateFunction(max, LowCardinality(String)),
    operation SimpleAggregateFunction(max, LowCardinality(String)),
    deployment SimpleAggregateFunction(max, LowCardinality(String)),
    tenant SimpleAggregateFunction(max, LowCardinality(String)),
    team SimpleAggregateFunction(max, LowCardinality(String)),
    key_alias SimpleAggregateFunction(max, LowCardinality(String)),
    user_hash SimpleAggregateFunction(max, String),
    conversation_id SimpleAggregateFunction(max, String),
    tags SimpleAggregateFunction(max, String),
    stream SimpleAggregateFunction(max, UInt8),
    gateway_cache_hit SimpleAggregateFunction(max, UInt8),
    stream_end SimpleAggregateFunction(max, LowCardinality(String)),
    error_class SimpleAggregateFunction(max, LowCardinality(String)),
    error_type SimpleAggregateFunction(max, LowCardinality(String)),
    finish_reason SimpleAggregateFunction(max, LowCardinality(String)),
    response_model SimpleAggregateFunction(max, LowCardinality(String)),
    service_tier SimpleAggregateFunction(max, LowCardinality(String)),
    response_id SimpleAggregateFunction(max, String),
    status_code SimpleAggregateFunction(max, UInt16),
    attempt SimpleAggregateFunction(max, UInt16),
    max_output_tokens SimpleAggregateFunction(max, UInt64),
    message_count SimpleAggregateFunction(max, UInt64),
    input_chars SimpleAggregateFunction(max, UInt64),
    input_tokens SimpleAggregateFunction(max, UInt64),
    cache_read_tokens SimpleAggregateFunction(max, UInt64),
    cache_write_tokens SimpleAggregateFunction(max, UInt64),
    cache_write_5m_tokens SimpleAggregateFunction(max, UInt64),
    cache_write_1h_tokens SimpleAggregateFunction(max, UInt64),
    output_tokens SimpleAggregateFunction(max, UInt64),
    output_reasoning_tokens SimpleAggregateFunction(max, UInt64),
    input_audio_tokens SimpleAggregateFunction(max, UInt64),
    cache_audio_read_tokens SimpleAggregateFunction(max, UInt64),
    output_audio_tokens SimpleAggregateFunction(max, UInt64),
    input_image_tokens SimpleAggregateFunction(max, UInt64),
    output_image_tokens SimpleAggregateFunction(max, UInt64),
    tool_use_tokens SimpleAggregateFunction(max, UInt64),
    web_searches SimpleAggregateFunction(max, UInt64),
    tool_requests SimpleAggregateFunction(max, String),
    total_us SimpleAggregateFunction(max, UInt64),
    ttft_us SimpleAggregateFunction(max, UInt64),
    ttfat_us SimpleAggregateFunction(max, UInt64),
    tpot_us SimpleAggregateFunction(max, UInt64),
    max_gap_us SimpleAggregateFunction(max, UInt64),
    queue_us SimpleAggregateFunction(max, UInt64),
    upstream_us SimpleAggregateFunction(max, UInt64),
    reported_cost_nano_usd SimpleAggregateFunction(max, UInt64),
    prefix_hashes SimpleAggregateFunction(max, Array(UInt64)),
    parts SimpleAggregateFunction(groupBitOr, UInt8),
    INDEX by_call_id call_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = AggregatingMergeTree
PARTITION BY toDate(started_at)
ORDER BY (started_at, call_id)
TTL toDateTime(started_at) + toIntervalDay(400)
SETTINGS min_bytes_for_wide_part = 268435456;

CREATE TABLE IF NOT EXISTS gatewatch_store.texts
(
    started_at DateTime64(3, 'UTC'),
    call_id String,
    input_text SimpleAggregateFunction(max, String),
    output_text SimpleAggregateFunction(max, String)
)
ENGINE = AggregatingMergeTree
PARTITION BY toDate(started_at)
ORDER BY (started_at, call_id)
TTL toDateTime(started_at) + toIntervalDay(7);

CREATE TABLE IF NOT EXISTS gatewatch_store.chunks
(
    source UInt64,
    first_offset UInt64,
    family LowCardinality(String),
    opened_at DateTime64(3, 'UTC'),
    last_offset UInt64,
    records UInt32,
    appended_to DateTime64(3, 'UTC'),
    events UInt64,
    duplicates UInt64,
    late UInt64,
    rejects UInt64,
    untracked UInt64,
    window_from DateTime('UTC'),
    window_to DateTime('UTC'),
    signal Array(LowCardinality(String)),
    label Array(LowCardinality(String)),
    series Array(String),
    window Array(DateTime('UTC')),
    n Array(UInt64),
    sum Array(Int64),
    buckets Array(Array(Int16)),
    counts Array(Array(UInt32)),
    seq_emitter_id Array(String),
    seq_first Array(UInt64),
    seq_last Array(UInt64),
    dup_emitter_id Array(String),
    dup_n Array(UInt64),
    INDEX by_window window_to TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(last_offset)
PARTITION BY toDate(opened_at)
ORDER BY (opened_at, source, first_offset, family)
TTL toDateTime(opened_at) + toIntervalDay(400);

CREATE TABLE IF NOT EXISTS gatewatch_store.measures
(
    signal LowCardinality(String),
    label LowCardinality(String),
    series String,
    window DateTime('UTC'),
    shard UInt8,
    cut LowCardinality(String),
    gateway LowCardinality(String),
    provider LowCardinality(String),
    model LowCardinality(String),
    deployment LowCardinality(String),
    operation LowCardinality(String),
    tenant LowCardinality(String),
    team LowCardinality(String),
    n UInt64,
    sum Int64,
    buckets Array(Int16),
    counts Array(UInt64),
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(window)
ORDER BY (window, signal, series, label)
TTL window + toIntervalYear(5);

CREATE TABLE IF NOT EXISTS gatewatch_store.checkpoints
(
    shard UInt8,
    closed_until DateTime('UTC')
)
ENGINE = ReplacingMergeTree(closed_until)
ORDER BY shard;

CREATE TABLE IF NOT EXISTS gatewatch_store.rejects
(
    appended_at DateTime64(3, 'UTC'),
    source UInt64,
    offset UInt64,
    line UInt32,
    reason LowCardinality(String),
    detail String,
    size UInt64,
    value String
)
ENGINE = ReplacingMergeTree
PARTITION BY toDate(appended_at)
ORDER BY (appended_at, source, offset, line)
TTL toDateTime(appended_at) + toIntervalDay(30);

CREATE TABLE IF NOT EXISTS gatewatch_store.replays
(
    source UInt64,
    offset UInt64,
    line UInt32,
    state UInt8,
    replayed_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(state)
ORDER BY (source, offset, line);

CREATE TABLE IF NOT EXISTS gatewatch_store.feedback
(
    at DateTime64(3, 'UTC'),
    source UInt64,
    offset UInt64,
    line UInt32,
    call_id String,
    gateway LowCardinality(String),
    environment LowCardinality(String),
    name LowCardinality(String),
    score Nullable(Float64),
    label String,
    comment String,
    tenant LowCardinality(String),
    user_hash String
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (at, source, offset, line)
TTL toDateTime(at) + toIntervalDay(400);

CREATE TABLE IF NOT EXISTS gatewatch_store.evaluations
(
    at DateTime64(3, 'UTC'),
    source UInt64,
    offset UInt64,
    line UInt32,
    call_id String,
    gateway LowCardinality(String),
    environment LowCardinality(String),
    name LowCardinality(String),
    score Nullable(Float64),
    label String,
    evaluator LowCardinality(String),
    tenant LowCardinality(String)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (at, source, offset, line)
TTL toDateTime(at) + toIntervalDay(400);

CREATE TABLE IF NOT EXISTS gatewatch_store.resources
(
    at DateTime64(3, 'UTC'),
    source UInt64,
    offset UInt64,
    line UInt32,
    gateway LowCardinality(String),
    environment LowCardinality(String),
    emitter_id String,
    resource LowCardinality(String),
    deployment LowCardinality(String),
    model LowCardinality(String),
    gpu_utilization Nullable(Float64),
    gpu_memory_used_bytes Nullable(UInt64),
    gpu_power_watts Nullable(Float64),
    kv_cache_utilization Nullable(Float64),
    running_requests Nullable(UInt64),
    queued_requests Nullable(UInt64),
    cpu_utilization Nullable(Float64),
    memory_used_bytes Nullable(UInt64),
    gpu_count Nullable(Float64),
    interval_s Nullable(Float64),
    emitter_dropped_total Nullable(UInt64),
    emitter_queued Nullable(UInt64)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (at, source, offset, line)
TTL toDateTime(at) + toIntervalDay(400);

CREATE TABLE IF NOT EXISTS gatewatch_store.sources
(
    source UInt64,
    cluster String,
    topic LowCardinality(String),
    incarnation String,
    partition UInt32,
    chunk_records UInt32,
    registered_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY source;

CREATE TABLE IF NOT EXISTS gatewatch_store.workers
(
    at DateTime64(3, 'UTC'),
    worker String,
    source UInt64,
    partition UInt32,
    flushed_offset Int64,
    lag_records UInt64,
    oldest_unacknowledged_ms UInt64,
    events_total UInt64,
    rejects_total UInt64,
    rows_written_total UInt64,
    insert_errors_total UInt64,
    headless_chunks_total UInt64
)
ENGINE = ReplacingMergeTree
PARTITION BY toDate(at)
ORDER BY (at, worker, source)
TTL toDateTime(at) + toIntervalDay(14);
