"""Calls as they are stored, in columns, for those who price them again: read through the view ``calls``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import pyarrow as pa

from gatewatch.usage import Usage
from signals.column import CALL_KINDS, RANK_PROVIDER, RANK_SHIFT
from sinks.clickhouse import Sink
from sinks.schema import VIEWS

__all__ = ["DAY_MS", "call_tables", "days"]

DAY_MS: Final = 86_400_000
_CALL: Final = max(CALL_KINDS.values())
_TOKENS: Final = tuple(name for name in Usage.__struct_fields__ if name != "tool_requests")
_SAID: Final = RANK_PROVIDER << RANK_SHIFT

_COLUMNS: Final = ", ".join(
    [
        "toUnixTimestamp64Milli(c.started_at) AS started_at",
        "c.call_id AS call_id",
        *(
            f"toString(c.{name}) AS {name}"
            for name in ("provider", "model", "service_tier", "deployment", "tenant", "cost_status")
        ),
        f"toInt64({_CALL}) AS parts",
        "toInt64(ifNull(c.gateway_cache_hit, 0) * 2) AS gateway_cache_hit",
        *(f"if(c.{name} IS NULL, 0, toInt64({_SAID} + c.{name})) AS {name}" for name in _TOKENS),
        "if(empty(c.tool_requests), '', toJSONString(c.tool_requests)) AS tool_requests",
        # Unknown is -1: no cost is negative.
        "if(c.cost_usd IS NULL, -1, toInt64(c.cost_usd * 1000000000)) AS paid_nano_usd",
    ]
)


def days(begin_ms: int, end_ms: int) -> Iterator[tuple[int, int]]:
    """The days (UTC), or parts of days, that a span of time consists of."""
    while begin_ms < end_ms:
        until = min(end_ms, begin_ms - begin_ms % DAY_MS + DAY_MS)
        yield begin_ms, until
        begin_ms = until


def call_tables(
    sink: Sink,
    begin_ms: int,
    end_ms: int,
    *,
    where: str = "1",
    parameters: Mapping[str, Any] | None = None,
    on_day: Callable[[int], None] = lambda until_ms: None,
) -> Iterator[pa.Table]:
    """Calls that have ended and began from ``begin_ms`` to before ``end_ms``, a day at a time.

    Parameters
    ----------
    where
        A condition of our own on the columns of the view, with its parameters.
    on_day
        Called with the end of each day that has been read, and whose table has been taken.

    Yields
    ------
    Tables as :func:`signals.cost.costs` takes them, with ``call_id``, ``cost_status`` and ``paid_nano_usd``
    (-1 where the cost is not known). Days without calls are left out.
    """
    for at, until in days(begin_ms, end_ms):
        table = sink.table(
            f"SELECT {_COLUMNS} FROM (SELECT * FROM {VIEWS}.calls "
            "WHERE started_at >= fromUnixTimestamp64Milli({begin:Int64}, 'UTC') "
            "AND started_at < fromUnixTimestamp64Milli({end:Int64}, 'UTC') "
            f"AND is_ended AND {where}) AS c ORDER BY c.started_at, c.call_id",
            {"begin": at, "end": until, **(parameters or {})},
        )
        if table.num_rows:
            yield table.combine_chunks()
        on_day(until)
