"""Views of who pays: ``chargeback``, what a unit costs, and what a cost is made of.

All of them read the view ``calls``, so a cost that is corrected there is corrected here. They filter by a
function of ``started_at`` that keeps its order, so a condition on the hour or day reads only those calls.
"""

from __future__ import annotations

from typing import Final

from gatewatch.charge import PARTS
from signals.cost import COLUMNS, STATUSES
from sinks.schema import VIEWS as DATABASE
from sinks.view import View

__all__ = ["LIKES", "VIEWS"]

# Not added up by hour: with users and tags such a row is a call or two, and a query would pay for every
# dimension, whichever it asks for (docs/spend.md has the measurement).
_CHARGEBACK: Final = """\
SELECT
    toStartOfHour(started_at) AS hour,
    started_at, tenant, team, key_alias, user_hash, provider, model, deployment, gateway, environment,
    conversation_id, tags,
    toUInt8(1) AS calls,
    toUInt8(is_error) AS failed_calls,
    {statuses},
    cost_status = '' AS open_calls,
    input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, output_reasoning_tokens,
    cost_usd,
    {parts},
    reported_cost_usd
FROM {database}.calls""".format(
    statuses=",\n    ".join(f"cost_status = '{status}' AS {status}_calls" for status in reversed(STATUSES)),
    parts=", ".join(f"{column}_usd" for column in COLUMNS),
    database=DATABASE,
)

LIKES: Final = ("thumbs", "resolved")
"""Names of feedback that says yes or no: a score above 0 is a yes. A score of stars has no such zero."""

_LIKED: Final = f"""\
SELECT call_id
        FROM
        (
            SELECT call_id, argMax(score > 0, (at, score > 0)) AS likes
            FROM {DATABASE}.feedback
            WHERE name IN ({", ".join(f"'{name}'" for name in LIKES)}) AND score IS NOT NULL
            GROUP BY call_id, name, user_hash
        )
        WHERE likes"""

_UNIT_COSTS: Final = f"""\
SELECT
    day, tenant, team, key_alias, provider, model, gateway, environment,
    calls, calls_without_cost, partial_calls, cost_usd,
    successful_calls, output_tokens, conversations, conversation_cost_usd, positive_feedback,
    cost_usd / nullIf(successful_calls, 0) AS cost_per_successful_call_usd,
    cost_usd * 1000 / nullIf(output_tokens, 0) AS cost_per_1000_output_tokens_usd,
    conversation_cost_usd / nullIf(conversations, 0) AS cost_per_conversation_usd,
    cost_usd / nullIf(positive_feedback, 0) AS cost_per_positive_feedback_usd
FROM
(
    SELECT
        toDate(c.started_at) AS day, c.tenant AS tenant, c.team AS team, c.key_alias AS key_alias,
        c.provider AS provider, c.model AS model, c.gateway AS gateway, c.environment AS environment,
        count() AS calls,
        countIf(c.cost_usd IS NULL) AS calls_without_cost,
        countIf(c.cost_status = 'partial') AS partial_calls,
        sum(c.cost_usd) AS cost_usd,
        countIf(c.cost_usd IS NOT NULL AND NOT c.is_error) AS successful_calls,
        sumIf(ifNull(c.output_tokens, 0), c.cost_usd IS NOT NULL) AS output_tokens,
        uniqExactIf(c.conversation_id, c.cost_usd IS NOT NULL AND c.conversation_id != '') AS conversations,
        sumIf(c.cost_usd, c.conversation_id != '') AS conversation_cost_usd,
        countIf(c.cost_usd IS NOT NULL AND c.call_id IN
        (
        {_LIKED}
        )) AS positive_feedback
    FROM {DATABASE}.calls AS c
    WHERE c.is_ended
    GROUP BY day, tenant, team, key_alias, provider, model, gateway, environment
)"""

_WHOLE: Final = tuple(column for column, parts in COLUMNS.items() if len(parts) == 1)
_SPLIT: Final = tuple(column for column, parts in COLUMNS.items() if len(parts) > 1)
_REQUESTS: Final = ("tools", "request")
_TOKENS: Final = tuple(part for part in PARTS if part not in _REQUESTS)


def _items() -> str:
    """Each row's amounts by item, as ``(category, item, usd, calls)``."""
    whole = ", ".join(
        f"('tokens', '{COLUMNS[column][0]}', sums.{i}, counts.{i})" for i, column in enumerate(_WHOLE, 1)
    )
    tokens = ", ".join(f"'{part}'" for part in _TOKENS)
    return f"""arrayConcat(
            arrayFilter(entry -> entry.3 != 0, arrayConcat(
                [{whole},
                 (if(is_reported, 'reported', 'other'), if(is_reported, 'reported', 'other'),
                  split - arraySum(mapValues(details)), unexplained)],
                arrayMap((part, usd) -> (if(part IN ({tokens}), 'tokens', 'requests'), part, usd,
                        details_calls[part]),
                    mapKeys(details), mapValues(details)))),
            arrayFilter(entry -> entry.4 != 0,
                [('unknown', 'unpriced', NULL, unpriced), ('unknown', 'open', NULL, open)]))"""


_DETAILED: Final = " + ".join(f"c.{column}_usd" for column in _SPLIT)

# Aggregated first: what the amounts are called is then decided for a few rows, not for every call.
_BREAKDOWN: Final = f"""\
SELECT
    day, provider, model, entry.1 AS category, entry.2 AS item,
    CAST(entry.3, 'Nullable(Decimal(38, 9))') AS usd, entry.4 AS calls
FROM
(
    SELECT day, provider, model, arrayJoin({_items()}) AS entry
    FROM
    (
        SELECT
            toDate(c.started_at) AS day, c.provider AS provider, c.model AS model,
            c.cost_status = 'provider_reported' AS is_reported,
            ({", ".join(f"ifNull(sum(c.{column}_usd), 0)" for column in _WHOLE)}) AS sums,
            ({", ".join(f"countIf(c.{column}_usd != 0)" for column in _WHOLE)}) AS counts,
            ifNull(sum({_DETAILED}), 0) AS split,
            sumMapIf(c.cost_details_usd, c.cost_usd IS NOT NULL) AS details,
            sumMapIf(mapApply((part, usd) -> (part, toUInt64(1)), c.cost_details_usd),
                c.cost_usd IS NOT NULL) AS details_calls,
            countIf({_DETAILED} != arraySum(mapValues(c.cost_details_usd))) AS unexplained,
            countIf(c.cost_status = 'unpriced') AS unpriced, countIf(c.cost_status = '') AS open
        FROM {DATABASE}.calls AS c
        GROUP BY day, provider, model, is_reported
    )
)"""

VIEWS: Final = (
    View(
        "chargeback",
        "One row a call with its hour, its owners and numbers to add up: any grouping adds up to the total.",
        _CHARGEBACK,
    ),
    View(
        "unit_costs",
        "One row for each day and combination of owners: what a unit cost, with numerators and denominators.",
        _UNIT_COSTS,
    ),
    View(
        "cost_breakdown",
        "One row for each day, model and item of the bill; its sum over any rows is what they cost.",
        _BREAKDOWN,
    ),
)
