-- What a GPU-hour of one's own costs, with dates; every revision is kept (sinks/gpu_rate.py).

CREATE TABLE IF NOT EXISTS gatewatch_store.gpu_rates
(
    rate_id String,
    valid_from DateTime('UTC'),
    revision UInt64,
    valid_to DateTime('UTC'),
    gateway String,
    deployment String,
    model String,
    resource String,
    any_gateway UInt8,
    nano_usd_per_gpu_hour UInt64,
    output_weight_permille UInt32,
    cache_read_weight_permille UInt32,
    source String,
    removed UInt8
)
ENGINE = ReplacingMergeTree
ORDER BY (rate_id, valid_from, revision);
