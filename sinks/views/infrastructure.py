"""Views of what one's own GPUs cost: reports of GPU-hours times rates, and the calls that used them.

From the reports to the calls in three steps, each of integers, so that they add up exactly:

1. ``gpu_hours``: an hour of one device. Its cost and the used part of it are rounded here, once, to nano-USD.
2. ``infrastructure_calls``: a call's share of what was used in its hour, by cumulative rounding, so that
   the shares of an hour add up to what was used in it.
3. ``infrastructure``: an hour of one pool: what calls used, what was used by no call, and what was idle.

A *pool* is what reports name together: gateway, deployment and model. The policies are explained in
``docs/spend.md``.
"""

from __future__ import annotations

from typing import Final

from sinks.schema import STORE
from sinks.schema import VIEWS as DATABASE
from sinks.view import View, usd

__all__ = ["LONGEST_GAP_S", "LONGEST_INTERVAL_S", "MOST_GPUS", "VIEWS"]

LONGEST_INTERVAL_S: Final = 86_400
"""A report that stands for more than a day is not believed."""
LONGEST_GAP_S: Final = 3_600
"""A device that is silent for longer was switched off, as far as anybody knows."""
MOST_GPUS: Final = 1_000_000

_HOUR_MS: Final = 3_600_000
_FULL: Final = 1_000_000
"""A GPU, and all of the time, in the millionths in which counts and utilisation are taken."""

_LAST: Final = f"""\
SELECT * FROM {STORE}.gpu_rates FINAL ORDER BY revision DESC LIMIT 1 BY rate_id, valid_from"""

_IN_USE: Final = f"""\
SELECT *,
    leadInFrame(valid_from, 1, toDateTime(0, 'UTC')) OVER (PARTITION BY rate_id ORDER BY valid_from
        ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS next_from,
    multiIf(toUnixTimestamp(valid_to) = 0, next_from, toUnixTimestamp(next_from) = 0, valid_to,
        least(valid_to, next_from)) AS ends
FROM ({_LAST}) WHERE removed = 0"""

_GPU_RATES: Final = f"""\
SELECT
    r.rate_id AS rate_id, r.valid_from AS valid_from,
    if(toUnixTimestamp(if(u.rate_id = '', r.valid_to, u.ends)) = 0, NULL,
        if(u.rate_id = '', r.valid_to, u.ends)) AS valid_to,
    r.gateway AS gateway, r.deployment AS deployment, r.model AS model, r.resource AS resource,
    toBool(r.any_gateway) AS is_any_gateway,
    {usd("r.nano_usd_per_gpu_hour")} AS usd_per_gpu_hour,
    toDecimal64(r.output_weight_permille, 3) / 1000 AS output_weight,
    toDecimal64(r.cache_read_weight_permille, 3) / 1000 AS cache_read_weight,
    r.source AS source,
    fromUnixTimestamp64Milli(toInt64(r.revision), 'UTC') AS set_at,
    multiIf(u.rate_id != '', 'in_use', r.removed = 1, 'removed', 'superseded') AS state
FROM {STORE}.gpu_rates AS r FINAL
LEFT JOIN ({_IN_USE}) AS u
    ON u.rate_id = r.rate_id AND u.valid_from = r.valid_from AND u.revision = r.revision"""

# The rates in use, the one that says most first: arrayFirst finds the one that holds.
_RATES: Final = f"""(
    SELECT groupArray(rate) FROM
    (
        SELECT
            tuple(rate_id, gateway, deployment, model, resource, any_gateway, nano_usd_per_gpu_hour,
                output_weight_permille, cache_read_weight_permille,
                toInt64(toUnixTimestamp(valid_from)), toInt64(toUnixTimestamp(ends))) AS rate
        FROM ({_IN_USE})
        ORDER BY deployment != '' DESC, model != '' DESC, resource != '' DESC,
            endsWith(resource, '*'), length(resource) DESC, gateway != '' DESC, valid_from DESC, rate_id
    )
)"""


def _selects(rate: str) -> str:
    """Whether a rate is for a device, whenever."""
    return (
        f"({rate}.2 = '' OR {rate}.2 = gateway) AND ({rate}.3 = '' OR {rate}.3 = deployment) "
        f"AND ({rate}.4 = '' OR {rate}.4 = model) AND ({rate}.5 = '' OR {rate}.5 = resource "
        f"OR (endsWith({rate}.5, '*') "
        f"AND startsWith(resource, substring({rate}.5, 1, length({rate}.5) - 1))))"
    )


_OF_GPUS: Final = (
    "gpu_count IS NOT NULL OR gpu_utilization IS NOT NULL OR gpu_memory_used_bytes IS NOT NULL "
    "OR gpu_power_watts IS NOT NULL"
)

# Each report of a GPU with the time that it alone stands for: after everything that earlier ones cover.
_REPORTS: Final = f"""\
SELECT
    gateway, deployment, model, resource, end_ms, is_usable, micro_gpus, busy_ppm,
    ifNull(max(if(is_usable, end_ms, NULL)) OVER (PARTITION BY gateway, deployment, model, resource
        ORDER BY start_ms, end_ms DESC, micro_gpus, ifNull(busy_ppm, {_FULL + 1})
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS covered_until_ms,
    greatest(start_ms, covered_until_ms) AS from_ms,
    is_usable AND end_ms > from_ms AS counts,
    if(is_usable, least(end_ms, from_ms) - start_ms, 0) AS overlap_ms,
    if(counts AND covered_until_ms > 0 AND from_ms - covered_until_ms <= {LONGEST_GAP_S * 1000},
        from_ms - covered_until_ms, 0) AS gap_ms
FROM
(
    SELECT
        gateway, deployment, model, resource,
        toUnixTimestamp64Milli(at) AS end_ms,
        ifNull(gpu_count <= {MOST_GPUS} AND interval_s > 0 AND interval_s <= {LONGEST_INTERVAL_S}, 0)
            AS is_usable,
        if(is_usable, toInt64(round(assumeNotNull(gpu_count) * {_FULL})), 0) AS micro_gpus,
        greatest(0, end_ms - if(is_usable, toInt64(round(assumeNotNull(interval_s) * 1000)), 0)) AS start_ms,
        if(gpu_utilization IS NULL, NULL, toInt64(round(assumeNotNull(gpu_utilization) * {_FULL})))
            AS busy_ppm
    FROM {STORE}.resources FINAL
    WHERE {_OF_GPUS}
)"""


def _rounded(amount: str, unit: int) -> str:
    """An Int256 divided by a unit, to the nearest, as an Int128."""
    return f"toInt128(intDiv({amount} + {unit // 2}, toInt256('{unit}')))"


def _hours(micro_ms: str) -> str:
    """GPU-hours, to six decimals, from millionths of a GPU times milliseconds."""
    return f"CAST(toDecimal128({_rounded(f'toInt256({micro_ms})', _HOUR_MS)}, 6) / {_FULL}, 'Decimal(38, 6)')"


_GPU_HOURS: Final = f"""\
WITH {_RATES} AS rates
SELECT
    toDateTime(hour_number * 3600, 'UTC') AS hour, gateway, deployment, model, resource,
    {_hours("gpu_ms")} AS gpu_hours,
    {_hours("unmeasured")} AS unmeasured_gpu_hours,
    {_hours("overlap")} AS overlap_gpu_hours,
    {_hours("gap")} AS gap_gpu_hours,
    reports, unusable_reports,
    rate.1 AS rate_id,
    if(rate_id = '', gateway, if(rate.6 = 1, '*', gateway)) AS pool_gateway,
    if(is_unknown, NULL, {usd(_rounded("toInt256(gpu_ms) * rate.7", _FULL * _HOUR_MS))}) AS cost_usd,
    if(is_unknown, NULL, {usd(_rounded("toInt256(busy) * rate.7", _FULL * _FULL * _HOUR_MS))}) AS used_usd,
    cost_usd - used_usd AS idle_usd,
    if(rate_id = '', NULL, toDecimal64(rate.8, 3) / 1000) AS output_weight,
    if(rate_id = '', NULL, toDecimal64(rate.9, 3) / 1000) AS cache_read_weight
FROM
(
    SELECT
        gateway, deployment, model, resource, hour_number,
        sum(covered_ms * toInt128(micro_gpus)) AS gpu_ms,
        sum(covered_ms * toInt128(micro_gpus) * ifNull(busy_ppm, {_FULL})) AS busy,
        sum(if(busy_ppm IS NULL, covered_ms * toInt128(micro_gpus), 0)) AS unmeasured,
        sum(if(is_last, overlap_ms * toInt128(micro_gpus), 0)) AS overlap,
        sum(if(is_last, gap_ms * toInt128(micro_gpus), 0)) AS gap,
        countIf(is_last AND is_usable) AS reports,
        countIf(is_last AND NOT is_usable) AS unusable_reports,
        arrayFirst(r -> r.10 <= hour_number * 3600 AND (r.11 = 0 OR hour_number * 3600 < r.11)
            AND {_selects("r")}, rates) AS rate,
        -- Reports of which none can be counted are no evidence of no cost.
        rate.1 = '' OR (gpu_ms = 0 AND reports = 0 AND unusable_reports > 0) AS is_unknown
    FROM
    (
        SELECT
            *, hour_number,
            -- A report that ends with the hour belongs to the hour that ends.
            intDiv(greatest(end_ms - 1, 0), {_HOUR_MS}) AS last_hour,
            hour_number = last_hour AS is_last,
            if(counts, greatest(0, least(end_ms, (hour_number + 1) * {_HOUR_MS})
                - greatest(from_ms, hour_number * {_HOUR_MS})), 0) AS covered_ms
        FROM ({_REPORTS})
        ARRAY JOIN if(counts, range(intDiv(from_ms, {_HOUR_MS}),
            intDiv(greatest(end_ms - 1, 0), {_HOUR_MS}) + 1),
            [intDiv(greatest(end_ms - 1, 0), {_HOUR_MS})]) AS hour_number
    )
    GROUP BY gateway, deployment, model, resource, hour_number
)"""

# The pools that calls can belong to, the one that says most first. A pool without a deployment and a model
# could be anybody's.
_POOLS: Final = f"""(
    SELECT groupArray(pool) FROM
    (
        SELECT DISTINCT tuple(pool_gateway, deployment, model) AS pool FROM
        (
            SELECT
                arrayJoin(arrayDistinct(arrayMap(r -> if(r.6 = 1, '*', toString(gateway)),
                    arrayFilter(r -> {_selects("r")}, rates)))) AS pool_gateway,
                toString(deployment) AS deployment, toString(model) AS model
            FROM
            (
                SELECT DISTINCT gateway, deployment, model, resource FROM {STORE}.resources
                WHERE {_OF_GPUS}
            )
            UNION ALL
            SELECT if(any_gateway = 1 OR gateway = '', '*', gateway), deployment, model FROM ({_IN_USE})
        )
        WHERE deployment != '' OR model != ''
        ORDER BY deployment != '' DESC, model != '' DESC, pool_gateway != '*' DESC, pool
    )
)"""

_POOL_HOURS: Final = f"""\
SELECT
    hour, pool_gateway, deployment, model,
    toInt256(toInt128(sum(used_usd) * 1000000000)) AS used_nano,
    toInt64(assumeNotNull(argMax(output_weight, (used_usd, rate_id))) * 1000) AS output_permille,
    toInt64(assumeNotNull(argMax(cache_read_weight, (used_usd, rate_id))) * 1000) AS cache_permille,
    1 AS is_reported
FROM {DATABASE}.gpu_hours
WHERE cost_usd IS NOT NULL
GROUP BY hour, pool_gateway, deployment, model"""

_INFRASTRUCTURE_CALLS: Final = f"""\
WITH {_RATES} AS rates, {_POOLS} AS pools
SELECT
    started_at, call_id, hour, gateway, environment, provider, model, deployment,
    tenant, team, key_alias, user_hash, tags, cost_status,
    pool_gateway, pool_deployment, pool_model,
    if(is_reported = 0, NULL, toFloat64(weight) / 1000) AS weighted_tokens,
    multiIf(is_reported = 0, 'no reports', no_usage, 'no usage', '') AS reason,
    if(is_reported = 0, NULL, {
    usd(
        "toInt128(if(total = 0, 0, intDiv(used_nano * reached * 2 + total, total * 2) "
        "- intDiv(used_nano * (reached - weight) * 2 + total, total * 2)))"
    )
}) AS infrastructure_usd
FROM
(
    SELECT
        *,
        sum(toInt256(weight)) OVER (PARTITION BY hour, pool_gateway, pool_deployment, pool_model
            ORDER BY started_at, call_id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS reached,
        sum(toInt256(weight)) OVER (PARTITION BY hour, pool_gateway, pool_deployment, pool_model) AS total
    FROM
    (
        SELECT
            c.started_at AS started_at, c.call_id AS call_id, c.hour AS hour, c.gateway AS gateway,
            c.environment AS environment, c.provider AS provider, c.model AS model,
            c.deployment AS deployment, c.tenant AS tenant, c.team AS team, c.key_alias AS key_alias,
            c.user_hash AS user_hash, c.tags AS tags, c.cost_status AS cost_status,
            c.pool.1 AS pool_gateway, c.pool.2 AS pool_deployment, c.pool.3 AS pool_model,
            c.input_tokens IS NULL AND c.output_tokens IS NULL AS no_usage,
            h.is_reported AS is_reported, h.used_nano AS used_nano,
            -- Cached tokens that exceed the input contradict it: then all of the input weighs in full.
            toInt256(ifNull(c.input_tokens, 0)) * 1000
                + if(c.cache_read_tokens <= c.input_tokens,
                    toInt256(assumeNotNull(c.cache_read_tokens)) * (h.cache_permille - 1000), 0)
                + toInt256(ifNull(c.output_tokens, 0)) * h.output_permille AS weight
        FROM
        (
            SELECT
                *, toStartOfHour(started_at) AS hour,
                arrayFirst(p -> p.1 IN ('*', gateway) AND p.2 IN ('', deployment)
                    AND p.3 IN ('', model, response_model), pools) AS pool
            FROM {DATABASE}.calls
            WHERE is_ended AND cost_status IN ('free', 'unpriced') AND ifNull(gateway_cache_hit, 0) = 0
        ) AS c
        LEFT JOIN ({_POOL_HOURS}) AS h
            ON h.hour = c.hour AND h.pool_gateway = c.pool.1 AND h.deployment = c.pool.2
                AND h.model = c.pool.3
        WHERE c.pool.2 != '' OR c.pool.3 != ''
    )
)"""

_INFRASTRUCTURE: Final = f"""\
SELECT
    hour, gateway, deployment, model,
    sum(p.gpu_hours) AS gpu_hours,
    sum(p.unrated_gpu_hours) AS unrated_gpu_hours,
    sum(p.unmeasured_gpu_hours) AS unmeasured_gpu_hours,
    sum(p.overlap_gpu_hours) AS overlap_gpu_hours,
    sum(p.gap_gpu_hours) AS gap_gpu_hours,
    sum(p.unusable_reports) AS unusable_reports,
    sum(p.calls) AS calls,
    sum(p.calls_without_usage) AS calls_without_usage,
    sum(p.cost_usd) AS cost_usd,
    sum(p.used_usd) AS used_usd,
    sum(p.idle_usd) AS idle_usd,
    if(used_usd IS NULL, NULL, ifNull(sum(p.attributed_usd), 0)) AS attributed_usd,
    used_usd - attributed_usd AS unattributed_usd,
    multiIf(sum(p.reports) = 0 AND sum(p.unusable_reports) = 0, 'no reports',
        cost_usd IS NULL, if(unrated_gpu_hours = 0 AND unusable_reports > 0, 'unusable reports', 'no rate'),
        unrated_gpu_hours > 0 OR unusable_reports > 0, 'partial', 'complete') AS state
FROM
(
    SELECT
        hour, toString(pool_gateway) AS gateway, toString(deployment) AS deployment,
        toString(model) AS model, gpu_hours,
        if(rate_id = '', gpu_hours, 0) AS unrated_gpu_hours, unmeasured_gpu_hours, overlap_gpu_hours,
        gap_gpu_hours, reports, unusable_reports, 0 AS calls, 0 AS calls_without_usage,
        cost_usd, used_usd, idle_usd, CAST(NULL, 'Nullable(Decimal(38, 9))') AS attributed_usd
    FROM {DATABASE}.gpu_hours
    UNION ALL
    SELECT
        hour, pool_gateway, pool_deployment, pool_model, 0, 0, 0, 0, 0, 0, 0,
        1, reason = 'no usage', NULL, NULL, NULL, infrastructure_usd
    FROM {DATABASE}.infrastructure_calls
) AS p
GROUP BY hour, gateway, deployment, model"""

_TOTAL_COST: Final = f"""\
SELECT day, provider, model, category, item, sum(usd_or_null) AS usd, sum(found) AS calls
FROM
(
    SELECT day, toString(provider) AS provider, toString(model) AS model, category, item,
        usd AS usd_or_null, calls AS found
    FROM {DATABASE}.cost_breakdown
    UNION ALL
    SELECT toDate(hour), '', model, 'infrastructure', part.1, part.2, if(part.1 = 'calls', calls, 0)
    FROM {DATABASE}.infrastructure
    ARRAY JOIN [('calls', attributed_usd), ('unattributed', unattributed_usd), ('idle', idle_usd)] AS part
)
GROUP BY day, provider, model, category, item"""

VIEWS: Final = (
    View("gpu_rates", "One row for each revision of a rate of one's own GPUs.", _GPU_RATES),
    View("gpu_hours", "One row for each hour of each device that reported.", _GPU_HOURS),
    View(
        "infrastructure_calls",
        "One row for each call to a pool of one's own GPUs, with its share of what was used in its hour.",
        _INFRASTRUCTURE_CALLS,
    ),
    View("infrastructure", "One row for each hour of each pool: cost, used, idle.", _INFRASTRUCTURE),
    View(
        "total_cost",
        "One row for each day, model and item of the providers' bill and of the infrastructure's cost.",
        _TOTAL_COST,
    ),
)
