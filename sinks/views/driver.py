"""The view ``cost_drivers``: why a week cost more or less than the week before.

The cost of a series ``i`` (a model, or a tenant) is a product of four factors::

    cost = N * s[i] * k[i] * p[i]
           all calls * its share of them * its tokens per call * its USD per token

From the week before to this one they are replaced in that order, one after the other (chain substitution,
one of the 24 equivalent decompositions that Dietzenbacher and Los compare: "Structural decomposition
techniques: sense and sensitivity", Economic Systems Research 10(4), 1998). Each step is a driver. So volume,
mix and tokens are valued at the old price and the price at the new tokens, and what two factors change
together belongs to the later one.

The costs between the steps are rounded to the nano-dollar and a driver is the difference of two of them,
so that the four add up to the change exactly, for each series and for any sum of series.
"""

from __future__ import annotations

from typing import Final

from sinks.schema import VIEWS as DATABASE
from sinks.view import View

__all__ = ["VIEWS"]

_NUMBERS: Final = ("calls", "tokens", "nano", "without_cost")


def _week(shift_days: int) -> str:
    """Numbers of each week, model and tenant; as those of a later week's past where shifted.

    The week is an expression of ``started_at`` that keeps its order, in each branch of the union, so that
    a condition on it reads only the calls of those weeks.
    """
    shift = f" + {shift_days}" if shift_days else ""
    known = "c.cost_usd IS NOT NULL"
    tokens = "ifNull(c.input_tokens, 0) + ifNull(c.output_tokens, 0)"
    numbers = {
        "calls": f"countIf({known})",
        "tokens": f"sumIf({tokens}, {known})",
        "nano": "toInt256(ifNull(sum(c.cost_usd), 0) * 1000000000)",
        "without_cost": f"countIf(NOT {known})",
    }
    zero = {name: "toInt256(0)" if name == "nano" else "toUInt64(0)" for name in numbers}
    now, before = (zero, numbers) if shift_days else (numbers, zero)
    columns = [f"{now[name]} AS {name}, {before[name]} AS {name}_before" for name in _NUMBERS]
    return f"""SELECT
                    toMonday(c.started_at){shift} AS week, c.provider AS provider, c.model AS model,
                    c.tenant AS tenant,
                    {", ".join(columns)}
                FROM {DATABASE}.calls AS c
                WHERE c.is_ended
                GROUP BY week, provider, model, tenant"""


def _quotient(numerator: str, denominator: str) -> str:
    """A quotient of numbers that are not negative, to the nearest whole one, half up."""
    return f"intDiv(2 * ({numerator}) + {denominator}, 2 * {denominator})"


def _usd(nano: str) -> str:
    # 76 digits on the way: a product of the sum of a year's costs and a scale does not fit into 38.
    return f"CAST(toDecimal256({nano}, 9) / 1000000000, 'Decimal(38, 9)')"


_SUMS: Final = ", ".join(
    f"sum({name}{when}) AS {name}{when}" for name in _NUMBERS for when in ("", "_before")
)
_BOTH: Final = [f"{name}{when}" for name in _NUMBERS for when in ("", "_before")]

_DRIVERS: Final = f"""\
WITH
    -- The cost if only the number of all calls had changed; where there were none, that is all there is.
    if(all_before = 0, nano,
        {_quotient("nano_before * all_calls", "toInt256(all_before)")}) AS at_volume,
    -- And the series' share of them. A series that is new has no past price: it is all mix.
    if(calls_before = 0, nano,
        {_quotient("nano_before * calls", "toInt256(calls_before)")}) AS at_mix,
    -- And its tokens per call. Without tokens there was no price of one: the present price values them.
    multiIf(calls_before = 0, nano,
        tokens_before = 0, if(nano_before = 0 AND tokens > 0, nano, at_mix),
        {_quotient("nano_before * tokens", "toInt256(tokens_before)")}) AS at_tokens
SELECT
    week, cut, provider, model, tenant, calls, calls_before, tokens, tokens_before,
    if(calls = 0 AND without_cost > 0, NULL, {_usd("nano")}) AS cost_usd,
    if(calls_before = 0 AND without_cost_before > 0, NULL, {_usd("nano_before")}) AS cost_before_usd,
    {_usd("nano - nano_before")} AS change_usd,
    {_usd("at_volume - nano_before")} AS by_volume_usd,
    {_usd("at_mix - at_volume")} AS by_mix_usd,
    {_usd("at_tokens - at_mix")} AS by_tokens_usd,
    {_usd("nano - at_tokens")} AS by_price_usd,
    without_cost AS calls_without_cost, without_cost_before AS calls_without_cost_before
FROM
(
    SELECT
        week, cut, all_calls, all_before, series.1 AS provider, series.2 AS model, series.3 AS tenant,
        {", ".join(f"series.{i} AS {name}" for i, name in enumerate(_BOTH, 4))}
    FROM
    (
        -- Not a window function: a condition on the week would not reach the calls through one.
        SELECT
            week, cut, sum(calls) AS all_calls, sum(calls_before) AS all_before,
            groupArray((provider, model, tenant, {", ".join(_BOTH)})) AS every
        FROM
        (
            SELECT
                week, cut,
                if(cut = 'model', p.provider, '') AS provider, if(cut = 'model', p.model, '') AS model,
                if(cut = 'tenant', p.tenant, '') AS tenant, {_SUMS}
            FROM
            (
                {_week(0)}
                UNION ALL
                {_week(7)}
            ) AS p
            ARRAY JOIN ['model', 'tenant'] AS cut
            WHERE week <= toMonday(now('UTC'))
            GROUP BY week, cut, provider, model, tenant
        )
        GROUP BY week, cut
    )
    ARRAY JOIN every AS series
)"""

VIEWS: Final = (
    View(
        "cost_drivers",
        "One row for each week and model (or tenant): what it cost more than the week before, and why.",
        _DRIVERS,
    ),
)
