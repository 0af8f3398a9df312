-- The ledger of prices: versions with their documents, and their rates as rows (gatewatch/price_ledger.py).

CREATE TABLE IF NOT EXISTS gatewatch_store.price_versions
(
    version UInt32,
    made_at DateTime64(3, 'UTC'),
    takes_effect_at DateTime64(3, 'UTC'),
    digest String,
    list_digest String,
    source LowCardinality(String),
    contract_count UInt32,
    note String,
    list String,
    declared String,
    contracts String
)
ENGINE = ReplacingMergeTree
ORDER BY (version, made_at, digest)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS gatewatch_store.prices
(
    version UInt32,
    provider LowCardinality(String),
    model String,
    service_tier LowCardinality(String),
    component LowCardinality(String),
    unit LowCardinality(String),
    usd_per_unit Nullable(Decimal(38, 12)),
    above_input_tokens UInt64,
    daily LowCardinality(String),
    valid_from DateTime64(3, 'UTC'),
    valid_to Nullable(DateTime64(3, 'UTC')),
    tenant LowCardinality(String),
    deployment LowCardinality(String),
    contract_id String,
    adjust_bp Int32,
    same_as String,
    kind LowCardinality(String),
    source String,
    source_date String
)
ENGINE = ReplacingMergeTree
ORDER BY (version, provider, model, service_tier, component, tenant, deployment, contract_id, daily, valid_from, above_input_tokens);
