-- Costs that were computed again, encoded as signals/repricing.py says, and the minute in which each cost arose.

ALTER TABLE gatewatch_store.calls
    ADD COLUMN IF NOT EXISTS cost_minute SimpleAggregateFunction(max, UInt32),
    ADD COLUMN IF NOT EXISTS repriced SimpleAggregateFunction(max, String);

CREATE TABLE IF NOT EXISTS gatewatch_store.reprices
(
    started_at DateTime64(3, 'UTC'),
    run UUID,
    range_from DateTime64(3, 'UTC'),
    range_until DateTime64(3, 'UTC'),
    providers Array(String),
    models Array(String),
    tenants Array(String),
    price_version UInt64,
    state UInt8,
    finished_at DateTime64(3, 'UTC'),
    calls UInt64,
    changed UInt64,
    before_nano_usd Int64,
    after_nano_usd Int64
)
ENGINE = ReplacingMergeTree(state)
PARTITION BY toYYYYMM(started_at)
ORDER BY (started_at, run)
TTL toDateTime(started_at) + toIntervalDay(400);
