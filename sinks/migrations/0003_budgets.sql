-- Budgets: what somebody may spend. Every change is a row of its own, removals too.

CREATE TABLE IF NOT EXISTS gatewatch_store.budgets
(
    budget_id String,
    version UInt64,
    change_id String,
    changed_at DateTime64(3, 'UTC'),
    changed_by String,
    valid_from DateTime64(3, 'UTC'),
    is_removed UInt8,
    tenant LowCardinality(String),
    team LowCardinality(String),
    key_alias LowCardinality(String),
    provider LowCardinality(String),
    model LowCardinality(String),
    gateway LowCardinality(String),
    environment LowCardinality(String),
    period LowCardinality(String),
    time_zone LowCardinality(String),
    amount_usd Decimal(38, 9),
    warn_shares Array(Decimal(9, 4))
)
ENGINE = ReplacingMergeTree
ORDER BY (budget_id, version, change_id);
