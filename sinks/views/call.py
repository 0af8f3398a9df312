"""The view ``calls``: one row a call, decoded."""

from __future__ import annotations

from typing import Final

from signals.column import CALL_COLUMNS, RANK_SHIFT, Column
from signals.cost import AMOUNT_BITS, COLUMNS, HEAD_DIGITS, STATUSES
from sinks.schema import STORE
from sinks.view import View, usd

__all__ = ["VIEWS"]


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
            return f"if(c.{name} = 0, NULL, bitAnd(c.{name}, {mask})) AS {name}"
        case "micros":
            decoded = name.removesuffix("_us") + "_ms"
            return f"if(c.{name} = 0, NULL, (c.{name} - 1) / 1000) AS {decoded}"
        case "nano":
            decoded = name.removesuffix("_nano_usd") + "_usd"
            return f"if(c.{name} = 0, NULL, {usd(f'c.{name} - 1')}) AS {decoded}"
        case "maybe":
            return f"if(c.{name} = 0, NULL, c.{name} - 1) AS {name}"


def _cost_columns() -> list[str]:
    """What the columns of :mod:`signals.cost` say."""
    amounts = {column: f"bitAnd(c.{column}, {(1 << AMOUNT_BITS) - 1})" for column in COLUMNS}
    statuses = ", ".join(f"'{status}'" for status in STATUSES)
    said = f"substring(c.price, {HEAD_DIGITS + 2})"
    details = (
        f"if(startsWith(c.cost_details, substring(c.price, 1, {HEAD_DIGITS})), "
        f"JSONExtract(substring(c.cost_details, {HEAD_DIGITS + 1}), 'Map(String, UInt64)'), map())"
    )
    status = f"toUInt8OrZero(substring(c.price, {HEAD_DIGITS + 1}, 1))"
    return [
        f"if(c.price = '', '', [{statuses}][{status}]) AS cost_status",
        f"if(cost_status IN ('', 'unpriced'), NULL, {usd(' + '.join(amounts.values()))}) AS cost_usd",
        *(
            f"if(cost_status IN ('', 'unpriced'), NULL, {usd(amount)}) AS {column}_usd"
            for column, amount in amounts.items()
        ),
        f"mapApply((part, nano) -> (part, {usd('nano')}), {details}) AS cost_details_usd",
        f"splitByChar(char(0), {said})[1] AS price_id",
        f"splitByChar(char(0), {said})[2] AS cost_reason",
        f"bitShiftRight(c.cost_input, {AMOUNT_BITS + 2}) AS price_version",
    ]


_CALLS: Final = """\
SELECT
    {columns},
    {cost},
    multiIf(
        bitShiftRight(greatest(c.input_tokens, c.output_tokens), {shift}) = 3, 'provider',
        bitShiftRight(greatest(c.input_tokens, c.output_tokens), {shift}) = 2, 'estimated',
        bitShiftRight(greatest(c.input_tokens, c.output_tokens), {shift}) = 1, 'progress',
        'missing') AS usage_source,
    c.error_class != '' AS is_error,
    bitAnd(c.parts, 20) != 0 AS is_ended,
    arrayFilter((part, bit) -> bitAnd(c.parts, bit) != 0,
        ['request', 'token', 'response', 'latency', 'call'], [1, 2, 4, 8, 16]) AS parts_seen
FROM {store}.calls AS c FINAL""".format(
    columns=",\n    ".join(_decoded(column) for column in CALL_COLUMNS),
    cost=",\n    ".join(_cost_columns()),
    shift=RANK_SHIFT,
    store=STORE,
)

VIEWS: Final = (View("calls", "One row a call, whichever events it came in.", _CALLS),)
