"""The views of budgets: what is set, who changed it, and what each period of a budget has cost.

Everything is computed from the rows of ``calls`` when it is asked for: nothing is counted up anywhere, so
nothing that arrives late, twice or by several workers can make it wrong.

Time zones differ by row, and ClickHouse's functions of time want a constant one, except ``toString``. So a
local time is what ``toString`` says, read as if it were UTC, and the edges of periods are found from it.
The database of time zones is the engine's, here and in ``sinks/budget.py``: no two releases of it are equal.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from signals.budget import BURN_WINDOWS
from sinks import schema
from sinks.schema import STORE
from sinks.view import View

__all__ = ["SCOPE", "VIEWS", "begin", "first_day", "local", "next_day"]

SCOPE: Final = ("tenant", "team", "key_alias", "provider", "model", "gateway", "environment")
"""What a budget can be limited to; an empty value is no limit."""

_SCOPE: Final = ", ".join(SCOPE)

# A change holds from its start on, and replaces what earlier ones said about the time from there.
_CHANGES: Final = f"""\
SELECT
    budget_id, version, change_id, changed_at, changed_by, is_removed = 1 AS is_removed, valid_from,
    if(replaced_at < valid_from, valid_from, replaced_at) AS valid_until,
    {_SCOPE}, period, time_zone, amount_usd, warn_shares
FROM
(
    SELECT *,
        min(toNullable(valid_from)) OVER (PARTITION BY budget_id ORDER BY version, change_id
            ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS replaced_at
    FROM {STORE}.budgets FINAL
)"""

_BUDGETS: Final = f"""\
SELECT
    budget_id, {_SCOPE}, period, time_zone, amount_usd, warn_shares, valid_from, valid_until,
    valid_from <= now64(3) AS is_current, changed_at, changed_by, version
FROM {schema.VIEWS}.budget_changes
WHERE NOT is_removed AND (valid_until IS NULL OR valid_until > greatest(valid_from, now64(3)))"""


def local(moment: str) -> str:
    """Local time in the row's zone, as if it were UTC."""
    return f"toDateTime(toString({moment}, time_zone), 'UTC')"


def first_day(day: str) -> str:
    """The first local day of the row's period that a local day lies in."""
    return f"multiIf(period = 'daily', {day}, period = 'weekly', toMonday({day}), toStartOfMonth({day}))"


def next_day(day: str) -> str:
    """The first local day of the period that follows one which begins with a local day."""
    return (
        f"multiIf(period = 'daily', addDays({day}, 1), period = 'weekly', addDays({day}, 7), "
        f"addMonths({day}, 1))"
    )


def begin(day: str) -> str:
    """The instant at which a local day begins; :func:`signals.period.period_at` says what that means.

    The offset from UTC is the one from before or from after a change that may be near; the right one gives
    the midnight back. Where neither does, there is no midnight, and the day begins with the change.
    """
    midnight = f"toDateTime({day}, 'UTC')"
    before, after = (
        f"({midnight} - dateDiff('second', {probe}, {local(probe)}))"
        for probe in (f"({midnight} - 93600)", f"({midnight} + 93600)")
    )
    return (
        f"multiIf({local(before)} != {midnight} AND {local(after)} = {midnight}, {after}, "
        f"{local(before)} = {midnight} AND {local(after)} = {midnight}, least({before}, {after}), {before})"
    )


# The change that holds at a period's end, or now while it runs, is the one that counts for all of it.
_PERIODS: Final = f"""\
    spans AS
    (
        SELECT change_id, budget_id, {_SCOPE}, toString(period) AS period, toString(time_zone) AS time_zone,
            amount_usd, valid_from, valid_until
        FROM {schema.VIEWS}.budget_changes
        WHERE NOT is_removed AND valid_from <= now64(3) AND (valid_until IS NULL OR valid_until > valid_from)
            {{only}}
    ),
    days AS
    (
        SELECT *,
            toDate({local("toDateTime({since})")}) AS since_day,
            toDate({local("toDateTime(least(now64(3), ifNull(valid_until, now64(3))))")}) AS until_day
        FROM spans
    ),
    firsts AS
    (
        SELECT *,
            arrayJoin(arrayMap(
                n -> multiIf(period = 'daily', addDays({first_day("since_day")}, n),
                    period = 'weekly', addDays({first_day("since_day")}, 7 * n),
                    addMonths({first_day("since_day")}, n)),
                range(toUInt32(multiIf(period = 'daily', until_day - since_day,
                    period = 'weekly', intDiv(until_day - toMonday(since_day), 7),
                    dateDiff('month', since_day, until_day)) + 1)))) AS first_day,
            {next_day("first_day")} AS next_day
        FROM days
    ),
    periods AS
    (
        SELECT change_id, budget_id, {_SCOPE}, period, time_zone, amount_usd,
            {begin("first_day")} AS period_start, {begin("next_day")} AS period_end,
            least(toDateTime64(period_end, 3, 'UTC') - INTERVAL 1 MILLISECOND, now64(3)) AS judged_at
        FROM firsts
        WHERE period_start < period_end AND judged_at >= valid_from
            AND (valid_until IS NULL OR judged_at < valid_until)
            AND period_start <= now64(3) {{running}}
    )"""

# Every edge of a period is a multiple of 15 minutes, as all offsets from UTC are. Dimensions that no budget
# is limited to are left out before calls are added up: what has to be matched with budgets is so much less.
_SPENT: Final = f"""\
    (SELECT tuple({", ".join(f"max({name} != '')" for name in SCOPE)}) FROM spans) AS limited,
    quarters AS
    (
        SELECT toStartOfFifteenMinutes(toDateTime(started_at, 'UTC')) AS quarter,
            {", ".join(f"if(limited.{n} = 1, {name}, '') AS of_{name}" for n, name in enumerate(SCOPE, 1))},
            sum(cost_usd) AS spent, count() AS calls, countIf(cost_usd IS NULL AND is_ended) AS without_cost,
            countIf(cost_status = 'partial') AS in_part{{windows}}
        FROM {schema.VIEWS}.calls
        WHERE started_at >= (SELECT ifNull(min(toNullable(period_start)), now()) FROM periods)
            {{or_in_windows}}
        GROUP BY quarter, {", ".join(f"of_{name}" for name in SCOPE)}
    ),
    matched AS
    (
        SELECT s.change_id AS change_id, q.quarter AS quarter, sum(q.spent) AS spent, sum(q.calls) AS calls,
            sum(q.without_cost) AS without_cost, sum(q.in_part) AS in_part{{in_windows}}
        FROM quarters AS q CROSS JOIN spans AS s
        WHERE {" AND ".join(f"(s.{name} = '' OR s.{name} = q.of_{name})" for name in SCOPE)}
        GROUP BY s.change_id, q.quarter
    ),
    spent AS
    (
        SELECT p.change_id AS change_id, p.period_start AS period_start, sum(m.spent) AS spent,
            sum(m.calls) AS calls, sum(m.without_cost) AS without_cost, sum(m.in_part) AS in_part
        FROM matched AS m
        ASOF INNER JOIN periods AS p ON m.change_id = p.change_id AND m.quarter >= p.period_start
        WHERE m.quarter < p.period_end
        GROUP BY p.change_id, p.period_start
    )"""


_BURN: Final = {name: window // timedelta(seconds=1) for name, window in BURN_WINDOWS.items()}
_IN_WINDOWS: Final = "".join(
    f",\n            sumIf(cost_usd, started_at > now64(3) - INTERVAL {span} SECOND) AS in_{name}"
    for name, span in _BURN.items()
)
_SINCE_WINDOWS: Final = f"OR started_at > now64(3) - INTERVAL {max(_BURN.values())} SECOND"
_MATCHED_WINDOWS: Final = "".join(f", sum(q.in_{name}) AS in_{name}" for name in _BURN)
_BURNT: Final = f""",
    burnt AS
    (
        SELECT change_id, {", ".join(f"ifNull(sum(in_{name}), 0) AS in_{name}" for name in _BURN)}
        FROM matched GROUP BY change_id
    )"""
_BURN_RATES: Final = "".join(
    f",\n    toFloat64(w.in_{name}) * dateDiff('second', p.period_start, p.period_end)"
    f" / ({span} * toFloat64(p.amount_usd)) AS burn_rate_{name}"
    for name, span in _BURN.items()
)


def _spend(since: str, only: str = "", running: str = "", *, burn: bool = False) -> str:
    spent = _SPENT.format(
        windows=_IN_WINDOWS if burn else "",
        or_in_windows=_SINCE_WINDOWS if burn else "",
        in_windows=_MATCHED_WINDOWS if burn else "",
    )
    return f"""\
WITH
{_PERIODS.format(since=since, only=only, running=running)},
{spent}{_BURNT if burn else ""}
SELECT
    p.budget_id AS budget_id,
    {", ".join(f"p.{name} AS {name}" for name in SCOPE)},
    p.period AS period, p.time_zone AS time_zone, p.period_start AS period_start, p.period_end AS period_end,
    p.amount_usd AS amount_usd,
    CAST(ifNull(s.spent, 0), 'Decimal(38, 9)') AS spent_usd,
    p.amount_usd - spent_usd AS remaining_usd,
    toFloat64(spent_usd) / toFloat64(p.amount_usd) AS spent_share,
    least(dateDiff('millisecond', toDateTime64(p.period_start, 3, 'UTC'), now64(3))
        / (1000 * dateDiff('second', p.period_start, p.period_end)), 1) AS elapsed_share,
    s.calls AS calls, s.without_cost AS calls_without_cost, s.in_part AS calls_in_part{
        _BURN_RATES if burn else ""
    }
FROM periods AS p
LEFT JOIN spent AS s ON s.change_id = p.change_id AND s.period_start = p.period_start{
        (chr(10) + "LEFT JOIN burnt AS w ON w.change_id = p.change_id") if burn else ""
    }"""


VIEWS: Final = (
    View("budget_changes", "One row for each change of a budget, removals too: who, when, what.", _CHANGES),
    View("budgets", "One row for each budget that is set, and for each change to come.", _BUDGETS),
    View(
        "budget_spend",
        "One row for each budget: what its running period has cost so far.",
        _spend(
            "now64(3)",
            "AND (valid_until IS NULL OR valid_until > now64(3))",
            "AND period_end > now64(3)",
            burn=True,
        ),
    ),
    View(
        "budget_periods",
        "One row for each period of each budget since it was set, the running one included.",
        # Calls are kept for 400 days: an older period would look cheap.
        _spend(
            "greatest(valid_from, now64(3) - INTERVAL 399 DAY)",
            "AND (valid_until IS NULL OR valid_until > now64(3) - INTERVAL 399 DAY)",
            "AND period_start > now64(3) - INTERVAL 399 DAY",
        ),
    ),
)
