"""What the views of own GPUs say, as rows for people: rates, pools, and what is missing."""

from __future__ import annotations

from typing import Any, Final

from sinks.clickhouse import Sink
from sinks.schema import VIEWS

__all__ = ["listed_rates", "pools", "unpriced_pools"]

_POOL: Final = {
    "gateway": "gateway",
    "deployment": "deployment",
    "model": "model",
    "gpu_hours": "toString(sum(i.gpu_hours))",
    "cost_usd": "toString(sum(i.cost_usd))",
    "calls_usd": "toString(sum(i.attributed_usd))",
    "unattributed_usd": "toString(sum(i.unattributed_usd))",
    "idle_usd": "toString(sum(i.idle_usd))",
    "calls": "sum(i.calls)",
    "hours_without_reports": "countIf(i.state = 'no reports')",
    "unrated_gpu_hours": "toString(sum(i.unrated_gpu_hours))",
    "gap_gpu_hours": "toString(sum(i.gap_gpu_hours))",
    "overlap_gpu_hours": "toString(sum(i.overlap_gpu_hours))",
    "unmeasured_gpu_hours": "toString(sum(i.unmeasured_gpu_hours))",
    "unusable_reports": "sum(i.unusable_reports)",
}
_RATE: Final = {
    "rate_id": "rate_id",
    "usd": "toString(usd_per_gpu_hour)",
    "gateway": "gateway",
    "deployment": "deployment",
    "model": "model",
    "resource": "resource",
    "any_gateway": "is_any_gateway",
    "output_weight": "toString(output_weight)",
    "cache_weight": "toString(cache_read_weight)",
    "begins": "formatDateTime(valid_from, '%FT%RZ')",
    "ends": "ifNull(formatDateTime(valid_to, '%FT%RZ'), 'open')",
    "source": "source",
    "state": "state",
}


def pools(sink: Sink, begin_s: int, end_s: int) -> list[dict[str, Any]]:
    """Each pool's sums over the hours from ``begin_s`` to before ``end_s``; amounts as decimal text."""
    rows = sink.rows(
        f"SELECT {', '.join(_POOL.values())} FROM {VIEWS}.infrastructure AS i "
        "WHERE hour >= toDateTime({begin:UInt32}, 'UTC') AND hour < toDateTime({end:UInt32}, 'UTC') "
        "GROUP BY gateway, deployment, model ORDER BY gateway, deployment, model",
        {"begin": begin_s, "end": end_s},
    )
    return [dict(zip(_POOL, row, strict=True)) for row in rows]


def unpriced_pools(sink: Sink, begin_s: int, end_s: int) -> list[tuple[str, str, str, int]]:
    """Provider, the pool's deployment and model, and how many of its calls are ``unpriced``."""
    rows = sink.rows(
        "SELECT provider, pool_deployment, pool_model, count() "
        f"FROM {VIEWS}.infrastructure_calls WHERE cost_status = 'unpriced' "
        "AND hour >= toDateTime({begin:UInt32}, 'UTC') AND hour < toDateTime({end:UInt32}, 'UTC') "
        "GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        {"begin": begin_s, "end": end_s},
    )
    return [(str(row[0]), str(row[1]), str(row[2]), int(row[3])) for row in rows]


def listed_rates(sink: Sink, *, all_revisions: bool = False, rate_id: str = "") -> list[dict[str, Any]]:
    """Rates in use, or every revision; all, or those of one id."""
    rows = sink.rows(
        f"SELECT {', '.join(_RATE.values())} FROM {VIEWS}.gpu_rates "
        "WHERE (state = 'in_use' OR {all:UInt8} = 1) AND ({id:String} = '' OR rate_id = {id:String}) "
        "ORDER BY gpu_rates.rate_id, valid_from, set_at",
        {"all": int(all_revisions), "id": rate_id},
    )
    return [dict(zip(_RATE, row, strict=True)) for row in rows]
