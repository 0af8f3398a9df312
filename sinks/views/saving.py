"""Views of what could be saved: each a list of calls that proves it, and ``savings``, which sums them up.

Whatever needs prices that are not stored (the rate of cached input, the batch tier, another model) has its
calls here, and its amount from ``gatewatch savings`` and ``gatewatch what-if``, which ask the price book. The
assumptions stand in ``docs/spend.md`` and, in short, beside each sum.
"""

from __future__ import annotations

from typing import Final

from sinks.schema import VIEWS as DATABASE
from sinks.view import View

__all__ = [
    "ASSUMPTIONS",
    "BATCHABLE",
    "BATCH_TAG",
    "BLOCK_TAG",
    "CACHE_LIFETIME_S",
    "LEAST_CACHED_TOKENS",
    "VIEWS",
    "repeated_prefixes",
]

CACHE_LIFETIME_S: Final = 300
"""How long a provider keeps a prefix since it was last used: Anthropic's default
(https://platform.claude.com/docs/en/build-with-claude/prompt-caching); OpenAI's is five to ten minutes
(https://developers.openai.com/api/docs/guides/prompt-caching)."""
LEAST_CACHED_TOKENS: Final = 1024
"""Shorter prefixes are not cached: OpenAI, and most models of Anthropic (the same pages)."""
RETRY_WITHIN_S: Final = 600
"""The same prompt, later than this after it failed, is another request."""
BATCH_TAG: Final = "batch"
"""The tag by which a caller says whether a call may run as batch."""
BLOCK_TAG: Final = "prefix_block_tokens"
"""The tag that says how many tokens a block of ``prefix_hashes`` has."""

ASSUMPTIONS: Final = {
    "failed": "nothing would have been paid for a call that failed",
    "abandoned": "nothing would have been paid for a call whose caller left",
    "retried": "the attempt that failed, and was repeated, is not paid; part of failed and abandoned",
    "uncached": "prefixes seen within 5 minutes are read from the cache; gatewatch savings has the amount",
    "batch": "calls that nobody waits for run at the batch tier; gatewatch savings has the amount",
    "idle": "no GPU is idle",
}
"""What each kind of ``savings`` takes for granted."""

_WHO: Final = "gateway, environment, provider, model, deployment, tenant, team, key_alias, user_hash"

_FAILED: Final = "(is_error OR stream_end NOT IN ('', 'complete'))"

_WASTED: Final = f"""\
SELECT
    started_at, call_id, {_WHO},
    if(stream_end = 'client_disconnect' OR error_class = 'cancelled', 'abandoned', 'failed') AS kind,
    if(error_class != '', error_class, stream_end) AS what,
    attempt, input_tokens, output_tokens, cost_status, cost_usd AS paid_usd
FROM {DATABASE}.calls
WHERE is_ended AND {_FAILED} AND (cost_usd IS NULL OR cost_usd > 0)"""

# lagInFrame gives the default of the type where there is no earlier row, so a call_id says whether there is.
_RETRIES: Final = f"""\
SELECT
    started_at, call_id, {_WHO}, conversation_id,
    if(attempt >= 1, 'gateway', 'caller') AS retried_by, attempt,
    if(is_linked, before_id, '') AS previous_call_id,
    if(is_linked, before_what, '') AS previous_what,
    if(is_linked, before_usd, NULL) AS previous_paid_usd,
    cost_usd AS paid_usd
FROM
(
    SELECT
        started_at, call_id, {_WHO}, conversation_id, attempt, cost_usd,
        lagInFrame(call_id) OVER same AS before_id,
        lagInFrame(started_at) OVER same AS before_at,
        lagInFrame(has_failed) OVER same AS before_failed,
        lagInFrame(what) OVER same AS before_what,
        lagInFrame(cost_usd) OVER same AS before_usd,
        before_id != '' AND before_failed AND started_at <= before_at + INTERVAL {RETRY_WITHIN_S} SECOND
            AND (has_prompt OR (ifNull(attempt, 0) >= 1 AND conversation_id != '')) AS is_linked
    FROM
    (
        SELECT
            *, {_FAILED} AS has_failed, if(error_class != '', error_class, stream_end) AS what,
            notEmpty(prefix_hashes) OR input_chars IS NOT NULL AS has_prompt,
            sipHash128(gateway, tenant, team, key_alias, user_hash, conversation_id, operation, prefix_hashes,
                ifNull(input_chars, -1), ifNull(message_count, -1)) AS request
        FROM {DATABASE}.calls WHERE is_ended
    )
    WINDOW same AS (PARTITION BY request ORDER BY started_at, call_id
        ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
)
WHERE attempt >= 1 OR is_linked"""


def repeated_prefixes(where: str = "1") -> str:
    """The query of the view ``repeated_prefixes`` over the calls for which a condition holds.

    A prefix can have been seen as long as :data:`CACHE_LIFETIME_S` before the first call of interest.
    """
    return f"""\
SELECT
    started_at, call_id, {_WHO}, service_tier, input_tokens, cache_read_tokens,
    blocks, repeated_blocks,
    -- The call may state a block's tokens; else the input is spread evenly, a little too few.
    if(tokens < {LEAST_CACHED_TOKENS}, 0, tokens) AS repeated_tokens,
    toUInt64(repeated_tokens - least(repeated_tokens, ifNull(cache_read_tokens, 0))) AS missed_tokens,
    cost_status, cost_usd AS paid_usd
FROM
(
    SELECT
        started_at, call_id, {", ".join(f"any({name}) AS {name}" for name in _WHO.split(", "))},
        any(service_tier) AS service_tier, assumeNotNull(any(input)) AS input_tokens,
        any(cached) AS cache_read_tokens, any(cost_status) AS cost_status, any(cost) AS cost_usd,
        any(block_tokens) AS block_tokens, count() AS blocks,
        if(countIf(seen = 0) = 0, blocks, toUInt64(minIf(place, seen = 0) - 1)) AS repeated_blocks,
        if(block_tokens > 0, least(input_tokens, repeated_blocks * block_tokens),
            intDiv(input_tokens * repeated_blocks, blocks)) AS tokens
    FROM
    (
        SELECT
            *,
            -- Within the lifetime, and strictly before: what begins at the same instant cannot be read yet.
            count() OVER (PARTITION BY provider, model, tenant, key_alias, prefix ORDER BY at_ms
                RANGE BETWEEN {CACHE_LIFETIME_S * 1000} PRECEDING AND 1 PRECEDING) AS seen
        FROM
        (
            SELECT
                started_at, toUnixTimestamp64Milli(started_at) AS at_ms, call_id, {_WHO}, service_tier,
                input_tokens AS input, cache_read_tokens AS cached, cost_status, cost_usd AS cost,
                toUInt32OrZero(tags['{BLOCK_TAG}']) AS block_tokens, place, prefix
            FROM {DATABASE}.calls
            -- A block repeats if all blocks before it do, too.
            ARRAY JOIN
                arrayMap(n -> sipHash64(arraySlice(prefix_hashes, 1, n)), range(1, length(prefix_hashes) + 1))
                    AS prefix,
                arrayEnumerate(prefix_hashes) AS place
            WHERE is_ended AND input_tokens IS NOT NULL AND ifNull(gateway_cache_hit, 0) = 0 AND {where}
        )
    )
    GROUP BY started_at, call_id
)"""


BATCHABLE: Final = f"""(
    NOT {_FAILED} AND ifNull(gateway_cache_hit, 0) = 0
    AND lower(service_tier) IN ('', 'default', 'standard', 'auto', 'on_demand', 'standard_only')
    AND cost_status IN ('priced', 'partial')
    AND multiIf(lower(tags['{BATCH_TAG}']) IN ('1', 'true', 'yes'), 1, tags['{BATCH_TAG}'] != '', 0,
        stream = 0 AND conversation_id = '' AND user_hash = '')
)"""
"""Whether a call could have run as batch: nobody waited for it, as far as the event says."""

_BATCHABLE: Final = f"""\
SELECT
    started_at, call_id, {_WHO}, operation, service_tier,
    if(tags['{BATCH_TAG}'] != '', 'tag', 'not streamed, no conversation, no user') AS basis,
    input_tokens, output_tokens, cost_status, cost_usd AS paid_usd
FROM {DATABASE}.calls
WHERE is_ended AND {BATCHABLE}"""


def _kind(kind: str, view: str, where: str, paid: str, could_save: str) -> str:
    label = "kind" if view == "wasted_calls" else f"'{kind}'"
    said = (
        f"if(kind = 'failed', '{ASSUMPTIONS['failed']}', '{ASSUMPTIONS['abandoned']}')"
        if view == "wasted_calls"
        else f"'{ASSUMPTIONS[kind]}'"
    )
    return f"""\
SELECT toDate(started_at) AS day, {label} AS kind, toString(tenant) AS tenant,
    toString(provider) AS provider, toString(model) AS model,
    countIf({paid} IS NOT NULL) AS calls, countIf({paid} IS NULL) AS calls_without_cost,
    sum({paid}) AS paid_usd, {could_save} AS could_save_usd, {said} AS assumption
FROM {DATABASE}.{view} AS s {where}
GROUP BY day, kind, tenant, provider, model"""


_UNKNOWN: Final = "CAST(NULL, 'Nullable(Decimal(38, 9))')"

_SAVINGS: Final = "\nUNION ALL\n".join(
    [
        _kind("", "wasted_calls", "", "s.paid_usd", "sum(s.paid_usd)"),
        _kind("retried", "retries", "", "s.previous_paid_usd", "sum(s.previous_paid_usd)"),
        _kind("uncached", "repeated_prefixes", "WHERE missed_tokens > 0", "s.paid_usd", _UNKNOWN),
        _kind("batch", "batchable_calls", "", "s.paid_usd", _UNKNOWN),
        f"""\
SELECT toDate(hour), 'idle', '', '', model, 0, 0, sum(cost_usd), sum(idle_usd), '{ASSUMPTIONS["idle"]}'
FROM {DATABASE}.infrastructure
WHERE cost_usd IS NOT NULL
GROUP BY toDate(hour), model""",
    ]
)

VIEWS: Final = (
    View("wasted_calls", "One row for each call that failed or was abandoned and was not free.", _WASTED),
    View("retries", "One row for each call that repeats one that had failed.", _RETRIES),
    View("repeated_prefixes", "One row for each call whose prompt's blocks are known.", repeated_prefixes()),
    View("batchable_calls", "One row for each call at the standard tier that nobody waits for.", _BATCHABLE),
    View("savings", "What could be saved by day, kind, tenant and model. Kinds overlap.", _SAVINGS),
)
