"""The state of everything at a glance: rates, latencies, tokens, errors and spend by model, tenants, lag.

What the live view shows, read from the views as any reader could. All rates are over the last
seconds of what is stored, so that a pipeline that falls behind shows as age and not as a drop.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from msgspec import Struct

from signals.budget import BudgetStatus
from sinks import budget
from sinks.clickhouse import Sink

__all__ = [
    "SPAN_S",
    "DeadLetterCount",
    "ModelRate",
    "Overview",
    "TenantRate",
    "TenantSpend",
    "read_overview",
]

SPAN_S: Final = 15.0
"""Rates and quantiles are over so many seconds before the newest call that is stored."""
_LOOK_BACK_S: Final = 1800
"""A call that takes longer than this does not show: it keeps the query on the newest parts."""


class ModelRate(Struct, frozen=True):
    """A model in the last seconds. Quantiles are absent where no call has the time."""

    provider: str
    model: str
    calls_per_s: float
    errors: dict[str, int]
    """Failed calls by class."""
    error_share: float
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    latency_p95_ms: float | None
    input_tokens_per_s: float
    output_tokens_per_s: float
    usd_per_min: float | None
    """Absent where no call has a known cost: that is not nothing."""


class TenantRate(Struct, frozen=True):
    """A tenant in the last seconds."""

    tenant: str
    calls_per_s: float
    error_share: float
    tokens_per_s: float


class TenantSpend(Struct, frozen=True):
    """A tenant and what all of its calls cost."""

    tenant: str
    usd: Decimal


class DeadLetterCount(Struct, frozen=True):
    """Lines that were no events, for one reason."""

    reason: str
    lines: int


class Overview(Struct, frozen=True):
    """What is stored, and what happened in the last seconds of it."""

    events: int
    """Events stored, since the beginning."""
    rejects: int
    duplicates: int
    late: int
    lag_records: int | None
    """Records not stored yet, as the workers last said; absent when none has said so lately."""
    fresh_s: float | None
    """Age of the newest call event that is stored; absent before the first one."""
    windows_closed: int
    windows_open: int
    calls_per_s: float
    error_share: float
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    input_tokens_per_s: float
    output_tokens_per_s: float
    usd_per_min: float
    """What the calls of the last seconds cost."""
    usd: Decimal
    """What all calls cost whose cost is known."""
    models: list[ModelRate]
    """Busiest first."""
    tenants: list[TenantRate]
    """By tokens, five at most."""
    dearest: list[TenantSpend]
    """The three tenants whose calls cost most."""
    budgets: list[BudgetStatus]
    """Worst first."""
    dead_letters: list[DeadLetterCount]
    """By number of lines."""


_TOTALS: Final = "SELECT sum(events), sum(rejects), sum(duplicates), sum(late) FROM gatewatch.delivery"

_LAG: Final = """\
SELECT sum(lag), count() FROM
(
    SELECT argMax(lag_records, at) AS lag FROM gatewatch.workers
    WHERE at > now64(3) - INTERVAL 20 SECOND GROUP BY topic, partition
)"""

_NEWEST: Final = f"""\
SELECT count(), max(ended_at) FROM gatewatch.calls
WHERE started_at > now64(3) - INTERVAL {_LOOK_BACK_S} SECOND AND ended_at <= now64(3)"""  # noqa: S608 - a number of our own

_WINDOWS: Final = """\
SELECT uniqExactIf(window_start, is_closed), uniqExactIf(window_start, NOT is_closed),
    sumIf(sum, signal = 'cost_spend_sum')
FROM gatewatch.measures
WHERE signal IN ('performance_calls_count', 'cost_spend_sum') AND cut = 'gateway'"""

_RECENT: Final = f"""\
FROM gatewatch.calls
WHERE started_at > now64(3) - INTERVAL {_LOOK_BACK_S} SECOND
    AND ended_at > {{from:DateTime64(3, 'UTC')}} AND ended_at <= {{until:DateTime64(3, 'UTC')}}"""

_COUNTED: Final = """\
    countIf(is_ended), countIf(is_error), quantile(0.5)(ttft_ms), quantile(0.95)(ttft_ms),
    quantile(0.95)(total_ms), sum(input_tokens), sum(output_tokens), sum(cost_usd)"""

_MODELS: Final = f"""\
SELECT provider, model,
{_COUNTED},
    sumMapIf(map(toString(error_class), toUInt64(1)), is_error)
{_RECENT}
GROUP BY provider, model ORDER BY countIf(is_ended) DESC, provider, model"""

_TENANTS: Final = f"""\
SELECT tenant, countIf(is_ended), countIf(is_error), sum(ifNull(input_tokens, 0) + ifNull(output_tokens, 0))
{_RECENT}
GROUP BY tenant ORDER BY 4 DESC, tenant LIMIT 5"""

_DEAREST: Final = """\
SELECT tenant, sum(sum) AS nano_usd
FROM gatewatch.measures WHERE signal = 'cost_spend_sum' AND cut = 'tenant'
GROUP BY tenant ORDER BY nano_usd DESC, tenant LIMIT 3"""

_DEAD_LETTERS: Final = (
    "SELECT reason, count() FROM gatewatch.dead_letters GROUP BY reason ORDER BY 2 DESC, reason"
)


def read_overview(sink: Sink, running_s: float) -> Overview:
    """Read everything; some 0.2 s.

    Parameters
    ----------
    running_s
        Since when there is traffic: in the first seconds, rates are over that time.

    Raises
    ------
    SinkError
        The store does not answer.
    """
    events, rejects, duplicates, late = (int(value or 0) for value in sink.rows(_TOTALS)[0])
    lag, speaking = (int(value or 0) for value in sink.rows(_LAG)[0])
    count, newest = sink.rows(_NEWEST)[0]
    closed, still_open, spent = (int(value) for value in sink.rows(_WINDOWS)[0])
    span_s = min(SPAN_S, max(1.0, running_s))
    models: list[ModelRate] = []
    tenants: list[TenantRate] = []
    total: tuple[Any, ...] = (0, 0, None, None, None, 0, 0, 0)
    fresh_s: float | None = None
    if count:
        until = newest if newest.tzinfo else newest.replace(tzinfo=UTC)
        fresh_s = max(0.0, (datetime.now(UTC) - until).total_seconds())
        span = {
            "from": _moment(until.timestamp() - span_s),
            "until": _moment(until.timestamp()),
        }
        total = tuple(sink.rows(f"SELECT\n{_COUNTED}\n{_RECENT}", span)[0])
        models = [_model(row, span_s) for row in sink.rows(_MODELS, span)]
        tenants = [
            TenantRate(str(name), int(ended) / span_s, _share(failed, ended), int(tokens) / span_s)
            for name, ended, failed, tokens in sink.rows(_TENANTS, span)
        ]
    return Overview(
        events=events,
        rejects=rejects,
        duplicates=duplicates,
        late=late,
        lag_records=lag if speaking else None,
        fresh_s=fresh_s,
        windows_closed=closed,
        windows_open=still_open,
        calls_per_s=int(total[0]) / span_s,
        error_share=_share(total[1], total[0]),
        ttft_p50_ms=_time(total[2]),
        ttft_p95_ms=_time(total[3]),
        input_tokens_per_s=int(total[5] or 0) / span_s,
        output_tokens_per_s=int(total[6] or 0) / span_s,
        usd_per_min=_per_min(total[7], span_s),
        usd=_usd(spent),
        models=models,
        tenants=tenants,
        budgets=budget.status(sink),
        dearest=[TenantSpend(str(name), _usd(nano)) for name, nano in sink.rows(_DEAREST)],
        dead_letters=[DeadLetterCount(str(reason), int(lines)) for reason, lines in sink.rows(_DEAD_LETTERS)],
    )


def _model(row: Any, span_s: float) -> ModelRate:
    provider, model, ended, failed, p50, p95, latency, tokens_in, tokens_out, usd, errors = row
    return ModelRate(
        provider=str(provider),
        model=str(model),
        calls_per_s=int(ended) / span_s,
        errors={str(name): int(count) for name, count in errors.items()},
        error_share=_share(failed, ended),
        ttft_p50_ms=_time(p50),
        ttft_p95_ms=_time(p95),
        latency_p95_ms=_time(latency),
        input_tokens_per_s=int(tokens_in or 0) / span_s,
        output_tokens_per_s=int(tokens_out or 0) / span_s,
        usd_per_min=None if usd is None else _per_min(usd, span_s),
    )


def _share(part: int, whole: int) -> float:
    return int(part) / int(whole) if whole else 0.0


def _usd(nano_usd: int) -> Decimal:
    return Decimal(nano_usd).scaleb(-9)


def _per_min(usd: Decimal | None, span_s: float) -> float:
    return float(usd or 0) / span_s * 60


def _time(value: float | None) -> float | None:
    """A quantile over no values is no number."""
    return None if value is None or value != value else float(value)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
