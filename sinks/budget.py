"""Budgets as they are stored: set, removed, read, and how each is going.

Every change is a row, so nothing is forgotten: who changed what, and when. What a budget has cost is never
stored: :func:`status` adds up the rows of the view ``calls`` whenever it is asked.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from msgspec import Struct

from signals.budget import (
    BURN_WINDOWS,
    Budget,
    BudgetStatus,
    Hour,
    Scope,
    amount,
    assess,
    at_utc,
    history_start,
    shares,
)
from signals.period import Period
from sinks import schema
from sinks.clickhouse import Sink
from sinks.schema import STORE
from sinks.views.budget import SCOPE, begin, first_day, local, next_day

__all__ = ["Change", "budgets_at", "changes", "remove_budget", "set_budget", "status"]


class Change(Struct, frozen=True, kw_only=True):
    """One change of a budget, and since when and until when it holds."""

    version: int
    changed_at: datetime
    changed_by: str
    is_removed: bool
    valid_from: datetime
    valid_until: datetime | None
    """None: until further notice. Not after ``valid_from``: a later change came before it held."""
    budget: Budget
    """As set; for a removal, as it was."""


_COLUMNS: Final = ", ".join(SCOPE)
_QUARTER_MS: Final = 900_000

# The version is read and written in one statement. Should two people still get the same one, the id of
# the change decides, for all readers alike, and both rows stay.
_INSERT: Final = f"""\
INSERT INTO {STORE}.budgets
SELECT {{budget_id:String}},
    (SELECT max(version) + 1 FROM {STORE}.budgets WHERE budget_id = {{budget_id:String}}),
    {{change_id:String}}, now64(3), {{changed_by:String}},
    if({{valid_from_ms:Int64}} < 0, now64(3), fromUnixTimestamp64Milli({{valid_from_ms:Int64}}, 'UTC')),
    {{is_removed:UInt8}}, {", ".join(f"{{{name}:String}}" for name in SCOPE)},
    {{period:String}}, {{time_zone:String}}, CAST({{amount_usd:String}}, 'Decimal(38, 9)'),
    arrayMap(share -> CAST(share, 'Decimal(9, 4)'), {{warn_shares:Array(String)}})"""

_BUDGET: Final = f"budget_id, {_COLUMNS}, period, time_zone, amount_usd, warn_shares"
_CHANGES: Final = f"""\
SELECT version, changed_at, changed_by, is_removed, valid_from, valid_until, {_BUDGET}
FROM {schema.VIEWS}.budget_changes"""

_HELD: Final = f"""\
SELECT at, {begin("first_day")}, {begin(next_day("first_day"))}, {_BUDGET}
FROM
(
    SELECT * REPLACE (toString(period) AS period, toString(time_zone) AS time_zone),
        if({{at_ms:Int64}} < 0, now64(3, 'UTC'), fromUnixTimestamp64Milli({{at_ms:Int64}}, 'UTC')) AS at,
        {first_day("toDate(" + local("toDateTime(at)") + ")")} AS first_day
    FROM {schema.VIEWS}.budget_changes
    WHERE NOT is_removed AND valid_from <= at AND (valid_until IS NULL OR valid_until > at)
        AND ({{budget_id:String}} = '' OR budget_id = {{budget_id:String}})
)
ORDER BY budget_id"""

_TIMES: Final = """\
started_at >= fromUnixTimestamp64Milli({since_ms:Int64}, 'UTC')
        AND started_at < fromUnixTimestamp64Milli({at_ms:Int64}, 'UTC')"""


def _by_budget(columns: str, added: str, limited: Sequence[str], by: str = "") -> str:
    """Calls added up by what budgets are limited to, and then for each budget: one pass for all of them.

    Parameters
    ----------
    columns
        Aggregates of calls.
    added
        Aggregates of these.
    limited
        The dimensions that some budget is limited to; the others are not told apart.
    by
        What to tell apart besides.
    """
    keys = ", ".join([*([by.rpartition(" ")[2]] if by else []), *limited]) or "()"
    matches = [f"{{{name}:Array(String)}}[n] IN ('', {name})" for name in limited]
    outer = f"b, {by.rpartition(' ')[2]}" if by else "b"
    return f"""\
SELECT {outer}, {added}
FROM
(
    SELECT {", ".join([*([by] if by else []), *limited, columns])}
    FROM {schema.VIEWS}.calls
    WHERE {_TIMES}
    GROUP BY {keys}
)
ARRAY JOIN arrayFilter(n -> {" AND ".join(matches) or "1"}, range(1, {{budgets:UInt32}} + 1)) AS b
GROUP BY {outer}"""


# Hours count from the start of a budget's own period, which need not be a whole hour of UTC, but is a
# multiple of 15 minutes.
_QUARTER: Final = f"intDiv(toUnixTimestamp64Milli(started_at), {_QUARTER_MS}) AS quarter"
_CALLS: Final = """\
sum(cost_usd) AS spent, min(started_at) AS first, count() AS calls,
    countIf(cost_usd IS NULL AND is_ended) AS without_cost, countIf(cost_status = 'partial') AS in_part"""
_QUARTERS: Final = """\
ifNull(sum(spent), 0), toUnixTimestamp64Milli(min(first)), sum(calls), sum(without_cost), sum(in_part)"""
_WINDOWS: Final = ",\n    ".join(
    f"sumIf(cost_usd, toUnixTimestamp64Milli(started_at) >= {{at_ms:Int64}} "
    f"- {window // timedelta(milliseconds=1)}) AS in_{name}"
    for name, window in BURN_WINDOWS.items()
)
_IN_WINDOWS: Final = ", ".join(f"ifNull(sum(in_{name}), 0)" for name in BURN_WINDOWS)


def set_budget(sink: Sink, budget: Budget, by: str, valid_from: datetime | None = None) -> bool:
    """Set a budget, or change it from a time on; as writer.

    Parameters
    ----------
    by
        Who does.
    valid_from
        Now, when it is not given. What holds at a period's end, or now, counts for the whole period.

    Returns
    -------
    bool
        False when the budget is like that already, and nothing was written.

    Raises
    ------
    ValueError
        The engine does not know the time zone.
    SinkError
        It may or may not have been stored: set it again.
    """
    known = sink.rows(
        "SELECT count() FROM system.time_zones WHERE time_zone = {zone:String}", {"zone": budget.time_zone}
    )
    if not known[0][0]:
        raise ValueError(f"ClickHouse's own database of time zones has no {budget.time_zone!r}: update it")
    last = _last(sink, budget.budget_id)
    if last is not None and not last.is_removed and last.budget == budget and valid_from is None:
        return False
    _write(sink, budget, by, valid_from, removed=False)
    return True


def remove_budget(sink: Sink, budget_id: str, by: str) -> bool:
    """Remove a budget from now on; False if there is none. Its history stays.

    Raises
    ------
    SinkError
        It may or may not have been stored: remove it again.
    """
    last = _last(sink, budget_id)
    if last is None or last.is_removed:
        return False
    _write(sink, last.budget, by, None, removed=True)
    return True


def changes(sink: Sink, budget_id: str | None = None) -> list[Change]:
    """Every change of a budget, or of all, in the order in which they were made.

    Raises
    ------
    SinkError
    """
    where = "" if budget_id is None else " WHERE budget_id = {budget_id:String}"
    rows = sink.rows(
        f"{_CHANGES}{where} ORDER BY budget_id, version, change_id",
        {} if budget_id is None else {"budget_id": budget_id},
    )
    return [_change(row) for row in rows]


def budgets_at(sink: Sink, at: datetime, budget_id: str | None = None) -> list[Budget]:
    """The budgets that hold at a moment, by id.

    Raises
    ------
    SinkError
    """
    return [budget for _, budget, _ in _held(sink, at, budget_id)]


def _held(sink: Sink, at: datetime | None, budget_id: str | None) -> list[tuple[datetime, Budget, Period]]:
    """The budgets that hold at a moment, or now, each with that moment and its period."""
    rows = sink.rows(_HELD, {"at_ms": -1 if at is None else _ms(at), "budget_id": budget_id or ""})
    return [(_utc(row[0]), _budget(row[3:]), Period(_utc(row[1]), _utc(row[2]))) for row in rows]


def status(sink: Sink, at: datetime | None = None, budget_id: str | None = None) -> list[BudgetStatus]:
    """How every budget that holds is going, those in most trouble first. Reads views only.

    One pass over the calls of the last eight weeks answers for all budgets.

    Parameters
    ----------
    at
        As of when, by what is stored now; by default the engine's present.
    budget_id
        Only this one.

    Raises
    ------
    SinkError
    """
    found = _held(sink, None if at is None else at_utc(at), budget_id)
    if not found:
        return []
    moment = found[0][0]
    held = [budget for _, budget, _ in found]
    periods = [period for _, _, period in found]
    limited = [name for name in SCOPE if any(getattr(budget.scope, name) for budget in held)]
    known: dict[str, Any] = {"at_ms": _ms(moment), "budgets": len(held)}
    known |= {name: [getattr(budget.scope, name) for budget in held] for name in limited}
    rows: list[list[Sequence[Any]]] = [[] for _ in held]
    since = min(history_start(period, moment) for period in periods)
    for row in sink.rows(_by_budget(_CALLS, _QUARTERS, limited, _QUARTER), known | {"since_ms": _ms(since)}):
        rows[int(row[0]) - 1].append(row)
    since = moment - max(BURN_WINDOWS.values())
    windows = {
        int(row[0]) - 1: dict(zip(BURN_WINDOWS, map(Decimal, row[1:]), strict=True))
        for row in sink.rows(_by_budget(_WINDOWS, _IN_WINDOWS, limited), known | {"since_ms": _ms(since)})
    }
    told = [
        _assess(budget, periods[place], moment, rows[place], windows.get(place, {}))
        for place, budget in enumerate(held)
    ]
    order = ("exceeded", "will_exceed", "warning", "ok")
    return sorted(told, key=lambda one: (order.index(one.state), -one.share, one.budget.budget_id))


def _assess(
    budget: Budget,
    period: Period,
    at: datetime,
    quarters: list[Sequence[Any]],
    windows: Mapping[str, Decimal],
) -> BudgetStatus:
    start = _ms(period.start) // _QUARTER_MS
    within = [row for row in quarters if int(row[1]) >= start]
    spent: dict[int, Decimal] = {}
    for row in quarters:
        hour = (int(row[1]) - start) // 4
        spent[hour] = spent.get(hour, Decimal(0)) + Decimal(row[2])
    return assess(
        budget,
        period,
        at,
        [Hour(period.start + timedelta(hours=hour), usd) for hour, usd in spent.items()],
        windows,
        calls=sum(int(row[4]) for row in within),
        calls_without_cost=sum(int(row[5]) for row in within),
        calls_in_part=sum(int(row[6]) for row in within),
        first_call=min((_from_ms(int(row[3])) for row in quarters), default=None),
    )


def _last(sink: Sink, budget_id: str) -> Change | None:
    found = changes(sink, budget_id)
    return found[-1] if found else None


def _write(sink: Sink, budget: Budget, by: str, valid_from: datetime | None, *, removed: bool) -> None:
    sink.command(
        _INSERT,
        {
            "budget_id": budget.budget_id,
            "change_id": str(uuid.uuid4()),
            "changed_by": by,
            "valid_from_ms": -1 if valid_from is None else _ms(valid_from),
            "is_removed": int(removed),
            "period": budget.period,
            "time_zone": budget.time_zone,
            "amount_usd": f"{budget.amount_usd:f}",
            "warn_shares": [f"{share:f}" for share in budget.warn_shares],
        }
        | {name: getattr(budget.scope, name) for name in SCOPE},
    )


def _change(row: Sequence[Any]) -> Change:
    version, changed_at, changed_by, is_removed, valid_from, valid_until = row[:6]
    return Change(
        version=int(version),
        changed_at=_utc(changed_at),
        changed_by=str(changed_by),
        is_removed=bool(is_removed),
        valid_from=_utc(valid_from),
        valid_until=None if valid_until is None else _utc(valid_until),
        budget=_budget(row[6:]),
    )


def _budget(row: Sequence[Any]) -> Budget:
    period, time_zone, amount_usd, warn_shares = row[1 + len(SCOPE) :]
    return Budget(
        budget_id=str(row[0]),
        scope=Scope(**dict(zip(SCOPE, map(str, row[1:]), strict=False))),
        period=period,
        time_zone=str(time_zone),
        amount_usd=amount(amount_usd),
        warn_shares=shares(warn_shares),
    )


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _ms(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _from_ms(at_ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)
