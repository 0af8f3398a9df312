-- What each call cost, encoded as signals/cost.py says: a larger value is a better one.

ALTER TABLE gatewatch_store.calls
    ADD COLUMN IF NOT EXISTS cost_input SimpleAggregateFunction(max, UInt64),
    ADD COLUMN IF NOT EXISTS cost_cache_read SimpleAggregateFunction(max, UInt64),
    ADD COLUMN IF NOT EXISTS cost_cache_write SimpleAggregateFunction(max, UInt64),
    ADD COLUMN IF NOT EXISTS cost_output SimpleAggregateFunction(max, UInt64),
    ADD COLUMN IF NOT EXISTS cost_reasoning SimpleAggregateFunction(max, UInt64),
    ADD COLUMN IF NOT EXISTS cost_other SimpleAggregateFunction(max, UInt64),
    ADD COLUMN IF NOT EXISTS price SimpleAggregateFunction(max, LowCardinality(String)),
    ADD COLUMN IF NOT EXISTS cost_details SimpleAggregateFunction(max, String);
