-- What each call cost, encoded as signals/cost.py says: a larger value is a better one.

ALTER TABLE gatewatch_store.calls ADD COLUMN IF NOT EXISTS cost SimpleAggregateFunction(max, String);

ALTER TABLE gatewatch_store.calls ADD COLUMN IF NOT EXISTS price SimpleAggregateFunction(max, LowCardinality(String));
