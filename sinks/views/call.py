"""The view ``calls``: one row a call, decoded."""

from __future__ import annotations

from typing import Final

from signals.column import CALL_COLUMNS, RANK_SHIFT, Column
from signals.cost import AMOUNT_BITS, COLUMNS, HEAD_DIGITS, STATUSES, VERSION_BITS
from signals.repricing import HEAD_BYTES, NUMBER_BYTES, NUMBERS
from sinks.schema import STORE
from sinks.view import View, usd

__all__ = ["VIEWS"]


_RANK: Final = f"bitShiftRight(greatest(c.input_tokens, c.output_tokens), {RANK_SHIFT})"
# What a worse source has said is no part of the usage, as it is none of the cost: an estimate's cached
# tokens, or what a stream had brought, beside the provider's own counts.
_LEAST: Final = f"greatest(1, bitShiftLeft({_RANK}, {RANK_SHIFT}))"


def _decoded(column: Column) -> str:
    name = column.name
    match column.encoding:
        case "time" if name == "last_at":
            return "last_at AS ended_at"
        case "text" | "time":
            return name
        case "hashes":
            return name
        case "json":
            values = "String" if name == "tags" else "UInt64"
            return f"JSONExtract(c.{name}, 'Map(String, {values})') AS {name}"
        case "flag":
            return f"if(c.{name} = 0, NULL, c.{name} = 2) AS {name}"
        case "tokens":
            mask = (1 << RANK_SHIFT) - 1
            return f"if(c.{name} < {_LEAST}, NULL, bitAnd(c.{name}, {mask})) AS {name}"
        case "micros":
            decoded = name.removesuffix("_us") + "_ms"
            return f"if(c.{name} = 0, NULL, (c.{name} - 1) / 1000) AS {decoded}"
        case "nano":
            decoded = name.removesuffix("_nano_usd") + "_usd"
            return f"if(c.{name} = 0, NULL, {usd(f'c.{name} - 1')}) AS {decoded}"
        case "maybe":
            return f"if(c.{name} = 0, NULL, c.{name} - 1) AS {name}"


def _number(name: str) -> str:
    """One of the numbers at the beginning of ``repriced``; the largest byte comes first there."""
    first = NUMBERS.index(name) * NUMBER_BYTES + 1
    return f"reinterpretAsUInt64(reverse(substring(c.repriced, {first}, {NUMBER_BYTES})))"


_HEAD: Final = f"bitShiftRight(c.cost_input, {AMOUNT_BITS})"
_VERSION: Final = f"bitAnd({_HEAD}, {(1 << VERSION_BITS) - 1})"
# A cost that was computed again counts, unless the lane knew better usage, or newer prices.
_AGAIN: Final = (
    f"c.repriced != '' AND ({_number('rank')}, {_number('version')}) "
    f">= (bitShiftRight({_HEAD}, {VERSION_BITS}), {_VERSION})"
)


def _cost_columns() -> list[str]:
    """What the columns of :mod:`signals.cost` and :mod:`signals.repricing` say."""
    reported = {column: f"bitAnd(c.{column}, {(1 << AMOUNT_BITS) - 1})" for column in COLUMNS}
    amounts = {column: f"if(again, {_number(column)}, {amount})" for column, amount in reported.items()}
    statuses = ", ".join(f"'{status}'" for status in STATUSES)
    # <status><price id> NUL <reason>, and behind another NUL the details of what was computed again.
    said = f"if(again, substring(c.repriced, {HEAD_BYTES + 1}), substring(c.price, {HEAD_DIGITS + 1}))"
    details = (
        f"if(again, splitByChar(char(0), {said})[3], "
        f"if(startsWith(c.cost_details, substring(c.price, 1, {HEAD_DIGITS})), "
        f"substring(c.cost_details, {HEAD_DIGITS + 1}), ''))"
    )
    # One number to decode instead of six, for every call of a sum.
    total = f"if(again, {_number('total')}, {' + '.join(reported.values())})"
    unknown = "cost_status IN ('', 'unpriced')"
    return [
        f"[{statuses}][toUInt8OrZero(substring({said}, 1, 1))] AS cost_status",
        f"if({unknown}, NULL, {usd(total)}) AS cost_usd",
        *(f"if({unknown}, NULL, {usd(amount)}) AS {column}_usd" for column, amount in amounts.items()),
        f"mapApply((part, nano) -> (part, {usd('nano')}), "
        f"JSONExtract({details}, 'Map(String, UInt64)')) AS cost_details_usd",
        f"splitByChar(char(0), substring({said}, 2))[1] AS price_id",
        f"splitByChar(char(0), substring({said}, 2))[2] AS cost_reason",
        f"if(again, {_number('version')}, {_VERSION}) AS price_version",
        f"if(substring(c.price, {HEAD_DIGITS + 1}, 1) IN ('', '{STATUSES.index('unpriced') + 1}'), NULL, "
        f"{usd(' + '.join(reported.values()))}) AS cost_as_reported_usd",
        f"if(again, fromUnixTimestamp64Milli(toInt64({_number('read_ms')}), 'UTC'), NULL) AS repriced_at",
    ]


_CALLS: Final = """\
WITH {again} AS again
SELECT
    {columns},
    {cost},
    multiIf(
        {rank} = 3, 'provider',
        {rank} = 2, 'estimated',
        {rank} = 1, 'progress',
        'missing') AS usage_source,
    c.error_class != '' AS is_error,
    bitAnd(c.parts, 20) != 0 AS is_ended,
    arrayFilter((part, bit) -> bitAnd(c.parts, bit) != 0,
        ['request', 'token', 'response', 'latency', 'call'], [1, 2, 4, 8, 16]) AS parts_seen
FROM {store}.calls AS c FINAL""".format(
    columns=",\n    ".join(_decoded(column) for column in CALL_COLUMNS),
    again=_AGAIN,
    cost=",\n    ".join(_cost_columns()),
    rank=_RANK,
    store=STORE,
)

VIEWS: Final = (View("calls", "One row a call, whichever events it came in.", _CALLS),)
