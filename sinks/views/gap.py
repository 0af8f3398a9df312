"""The view ``cost_gaps``: where a cost is missing, doubtful, or not what the gateway says."""

from __future__ import annotations

from typing import Final

from gatewatch.usage import WHOLES, Usage
from sinks.schema import VIEWS as DATABASE
from sinks.view import View

__all__ = ["VIEWS"]


def _contradicts() -> str:
    """Whether a part is larger than its whole, by the rules by which usage is refused."""
    broken = []
    for rule in WHOLES:
        together = " + ".join(f"ifNull(c.{part}, 0)" for part in rule.parts)
        whole = f"ifNull(c.{rule.whole}, 0)"
        known = "" if rule.unknown_is_zero else f" AND c.{rule.whole} IS NOT NULL"
        broken.append(f"({together} > {whole}{known})")
    return "\n            OR ".join(broken)


_TOKENS: Final = "ifNull(c.input_tokens, 0) + ifNull(c.output_tokens, 0)"
_CUT: Final = "c.stream_end NOT IN ('', 'complete')"
_ZERO: Final = "ifNull(c.cost_usd = 0, 0) AND c.cost_status != 'free'"
# What the gateway reported stands in where there is no price: comparing it with itself says nothing.
_BOTH: Final = (
    "c.cost_usd IS NOT NULL AND c.reported_cost_usd IS NOT NULL AND c.cost_status != 'provider_reported'"
)
_DIFFERS: Final = "ifNull(abs(c.cost_usd - c.reported_cost_usd) * 1000 > c.reported_cost_usd, 0)"
_NO_CACHE_HIT: Final = "ifNull(c.gateway_cache_hit, 0) = 0"

# The contract refuses counts of its own that are negative, fractional or huge, and names the field.
_COUNTED: Final = ", ".join(f"'{name}'" for name in (*Usage.__struct_fields__, "reported_cost_usd"))
_REFUSED: Final = (
    "(d.reason = 'invalid_usage' "
    rf"OR d.reason = 'invalid_event' AND extract(d.detail, '`[$][.](\\w+)') IN ({_COUNTED}))"
)

_COLUMNS: Final = {
    "calls": "count()",
    "calls_without_cost": "countIf(c.cost_usd IS NULL)",
    "tokens": f"sum({_TOKENS})",
    "unpriced_tokens": f"sumIf({_TOKENS}, c.cost_usd IS NULL)",
    "partial_calls": "countIf(c.cost_status = 'partial')",
    "partial_tokens": f"sumIf({_TOKENS}, c.cost_status = 'partial')",
    "provider_reported_calls": "countIf(c.cost_status = 'provider_reported')",
    "provider_reported_usd": "sumIf(c.cost_usd, c.cost_status = 'provider_reported')",
    "usage_missing_calls": f"countIf(c.usage_source = 'missing' AND {_NO_CACHE_HIT})",
    "usage_missing_successes": f"countIf(c.usage_source = 'missing' AND NOT c.is_error AND {_NO_CACHE_HIT})",
    "usage_progress_calls": "countIf(c.usage_source = 'progress')",
    "usage_estimated_calls": "countIf(c.usage_source = 'estimated')",
    "usage_estimated_usd": "sumIf(c.cost_usd, c.usage_source = 'estimated')",
    "cut_streams": f"countIf({_CUT})",
    "cut_streams_without_cost": f"countIf({_CUT} AND c.cost_usd IS NULL)",
    "cut_streams_usd": f"sumIf(c.cost_usd, {_CUT})",
    "contradictory_calls": f"countIf({_contradicts()})",
    "zero_cost_calls": f"countIf({_ZERO})",
    "zero_cost_tokens": f"sumIf({_TOKENS}, {_ZERO})",
    "compared_calls": f"countIf({_BOTH})",
    "compared_usd": f"sumIf(c.cost_usd, {_BOTH})",
    "compared_reported_usd": f"sumIf(c.reported_cost_usd, {_BOTH})",
    "differing_calls": f"countIf({_BOTH} AND {_DIFFERS})",
}
_MONEY: Final = tuple(name for name in _COLUMNS if name.endswith("_usd"))
_NONE: Final = {
    name: "CAST(NULL, 'Nullable(Decimal(38, 9))')" if name in _MONEY else "toUInt64(0)" for name in _COLUMNS
}


def _select(columns: dict[str, str]) -> str:
    return ",\n        ".join(f"{expression} AS {name}" for name, expression in columns.items())


_GAPS: Final = f"""\
SELECT
    hour, provider, model, tenant, gateway,
    {", ".join(_COLUMNS)},
    toDecimal128(unpriced_tokens, 9) / nullIf(tokens, 0) AS unpriced_tokens_share,
    compared_usd - compared_reported_usd AS difference_usd,
    toDecimal128(differing_calls, 9) / nullIf(compared_calls, 0) AS differing_share,
    refused_lines
FROM
(
    SELECT
        toStartOfHour(c.started_at) AS hour, c.provider AS provider, c.model AS model,
        c.tenant AS tenant, c.gateway AS gateway,
        {_select(_COLUMNS)},
        toUInt64(0) AS refused_lines
    FROM {DATABASE}.calls AS c
    WHERE c.is_ended
    GROUP BY hour, provider, model, tenant, gateway
    UNION ALL
    -- A line that was refused has no dimensions: nobody could read them.
    SELECT
        toStartOfHour(d.appended_at) AS hour, '' AS provider, '' AS model, '' AS tenant, '' AS gateway,
        {_select(_NONE)},
        count() AS refused_lines
    FROM {DATABASE}.dead_letters AS d
    WHERE {_REFUSED} AND d.replayed_at IS NULL
    GROUP BY hour
)"""

VIEWS: Final = (
    View(
        "cost_gaps",
        "One row for each hour, model, tenant and gateway: what is not priced, doubtful or disputed.",
        _GAPS,
    ),
)
