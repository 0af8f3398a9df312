"""What each call cost, for many calls at once: the price book evaluated on columns.

The policy is :mod:`gatewatch.charge`'s and the arithmetic :mod:`gatewatch.pricing`'s; this module only says
which rows share a price, and how a cost is stored. A property test holds it against
:func:`gatewatch.pricing.price` call by call.

The parts of a call are merged by the largest value of each column (:mod:`signals.column`), and the amounts of
a cost must stay those of one computation. So each of :data:`COLUMNS` is a number whose upper bits say which
computation it is of, the same in all of them, zeros included::

    rank of the usage << 61 | version of the prices << 48 | nano-USD

Usage from a better source replaces all of a worse one's, and among equals a higher version (a changed price
list or contract) all of a lower one. Two events of one call that have the same of both merge part by
part, as their counts do. The total is never stored: it is the sum of the parts, in the view.

Two texts stand beside them, which begin with the same rank and version as five hexadecimal digits: ``price``,
with the status, the price's id and the reasons why the cost is not whole; and ``cost_details``, what
``cost_other`` and ``cost_cache_write`` are made of, which is empty for most calls. Zero, or no text, is no
cost: the event says nothing of how the call ended. ``cost_minute`` is the minute, since 1970, of the event
that a cost comes from: aggregates count it there, and so must what corrects them (:mod:`signals.repricing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gatewatch.charge import PARTS
from gatewatch.events import Call, Response
from gatewatch.money import PICO_PER_NANO, nano_parts
from gatewatch.price_book import Price, PriceBook, Unpriced
from gatewatch.price_ledger import VERSION_MOST, PriceLedger
from gatewatch.pricing import FIELDS, TOOL_SUMS, UNKNOWN_CACHED_AUDIO, Evaluation, evaluate
from gatewatch.usage import WHOLES
from signals.column import CALL_KINDS, RANK_SHIFT, coded, numbers

__all__ = [
    "AMOUNT_BITS",
    "COLUMNS",
    "CONTRADICTION",
    "HEAD_DIGITS",
    "STATUSES",
    "VERSION_BITS",
    "costs",
    "costs_by_version",
    "statuses",
]

STATUSES: Final = ("unpriced", "provider_reported", "partial", "free", "priced")
"""Index + 1 is what is stored: of two costs by the same usage, the better status wins."""
COLUMNS: Final = {
    "cost_input": ("input",),
    "cost_cache_read": ("cache_read",),
    "cost_cache_write": ("cache_write", "cache_write_5m", "cache_write_1h"),
    "cost_output": ("output",),
    "cost_reasoning": ("reasoning",),
    "cost_other": (
        "input_audio",
        "cache_audio_read",
        "output_audio",
        "input_image",
        "output_image",
        "tools",
        "request",
    ),
}
"""The parts that each column sums."""
AMOUNT_BITS: Final = 48
"""An amount is below $281,475."""
HEAD_DIGITS: Final = 5

VERSION_BITS: Final = 13
"""The rest of 63 bits is the version's: :data:`gatewatch.price_ledger.VERSION_MOST`."""

_UNPRICED, _REPORTED, _PARTIAL, _FREE, _PRICED = range(1, len(STATUSES) + 1)
_ENDED: Final = CALL_KINDS[Response] | CALL_KINDS[Call]
_COUNT: Final = (1 << RANK_SHIFT) - 1
_DAY_MS: Final = 86_400_000
_MINUTE_MS: Final = 60_000
_PICO_MOST: Final = (PICO_PER_NANO << AMOUNT_BITS) - PICO_PER_NANO // 2
"""From here on, a cost in whole nano-USD has more than AMOUNT_BITS."""
_NO_USAGE: Final = "no usage came with the call"
_CACHE_HIT: Final = "answered by the gateway's own cache"
CONTRADICTION: Final = "the counts contradict each other, or make more than any call can cost"
_ABSURD: Final = "the reported cost is more than any call can cost"

Ints = NDArray[np.int64]
Rows = NDArray[np.intp]


def costs(table: pa.Table, book: PriceBook, version: int = 1) -> dict[str, pa.Array]:
    """What is stored of the cost of each call event, by column; shape (n,).

    Parameters
    ----------
    table
        Call events as :meth:`signals.column.CallBatch.table` gives them.
    version
        Of the prices, from 1; with the same version, the same event has the same cost.
    """
    n = table.num_rows
    parts = table["parts"].to_numpy()
    hits = numbers(table, "gateway_cache_hit") == 2
    counts = {field: numbers(table, field) for field in FIELDS if field in table.column_names}
    requests = table["tool_requests"].to_pylist() if "tool_requests" in table.column_names else None
    known = np.zeros(n, dtype=np.bool_)
    for column in counts.values():
        known |= column != 0
    if requests is not None:
        known |= np.array([bool(json) for json in requests])
    ended = (parts & _ENDED) != 0
    rank = np.maximum(numbers(table, "input_tokens"), numbers(table, "output_tokens")) >> RANK_SHIFT
    reported = numbers(table, "reported_cost_nano_usd")
    found = _Found(n, version)
    found.add(np.flatnonzero(ended & hits), rank, _FREE, {}, "", _CACHE_HIT)
    _unpriced(found, np.flatnonzero(ended & ~hits & ~known), rank, reported, "", _NO_USAGE)
    for rows, price in _priced_alike(table, np.flatnonzero(ended & ~hits & known), book):
        if isinstance(price, Unpriced):
            _unpriced(found, rows, rank, reported, "", price.reason)
            continue
        said = {field: column[rows] for field, column in counts.items()}
        fields = {field: column & _COUNT for field, column in said.items() if column.any()}
        unknown_tools: dict[str, Ints] = {}
        if requests is not None:
            for tool, asked in _tools([requests[row] for row in rows.tolist()]).items():
                fields[f"tool_requests.{tool}"] = asked
                if tool not in price.tools and tool not in TOOL_SUMS and not price.free:
                    unknown_tools[tool] = asked
        if "input_audio_tokens" in fields and "cache_read_tokens" in fields:
            silent = said.get("cache_audio_read_tokens", np.zeros(len(rows), dtype=np.int64)) == 0
            fields[UNKNOWN_CACHED_AUDIO] = silent.astype(np.int64)
        _price_rows(found, rows, rank, reported, price, said, fields, unknown_tools)
    minute = np.where(found.rows(), numbers(table, "last_at") // _MINUTE_MS, 0)
    return found.columns() | {"cost_minute": pa.array(minute.astype(np.uint32))}


def statuses(prices: Sequence[str]) -> tuple[list[int], list[str]]:
    """What distinct values of ``price`` say: the status, as it is stored, 0 for none, and the reason."""
    status = [int(text[HEAD_DIGITS]) if text else 0 for text in prices]
    return status, [text.partition("\0")[2] for text in prices]


def costs_by_version(table: pa.Table, appended_ms: Ints, prices: PriceLedger) -> dict[str, pa.Array]:
    """What is stored of the cost of each call event, each by the version of its record's time; shape (n,).

    Parameters
    ----------
    appended_ms
        When each event's record was appended to the log, shape (n,).
    """
    version, book = prices.at(int(appended_ms.min()))
    if prices.version_at(int(appended_ms.max())) == version:
        return costs(table, book, version)
    # A change of prices within what has come since the last flush: once in a while.
    versions = np.array([prices.version_at(at_ms) for at_ms in appended_ms.tolist()])
    order = np.argsort(versions, kind="stable")
    pieces = []
    for version in np.unique(versions).tolist():
        rows = table.take(pa.array(np.flatnonzero(versions == version)))
        made = costs(rows, prices.book(version), version)
        pieces.append(pa.table(made | {"price": made["price"].cast(pa.string())}))
    whole = pa.concat_tables(pieces, promote_options="default").combine_chunks()
    whole = whole.take(pa.array(np.argsort(order, kind="stable"))).combine_chunks()
    columns = {name: whole[name].combine_chunks() for name in whole.column_names}
    if "cost_details" in columns:
        columns["cost_details"] = columns["cost_details"].fill_null("")
    return columns | {"price": columns["price"].dictionary_encode()}


def _price_rows(
    found: _Found,
    rows: Rows,
    rank: Ints,
    reported: Ints,
    price: Price,
    said: dict[str, Ints],
    fields: dict[str, Ints],
    unknown_tools: dict[str, Ints],
) -> None:
    """Price rows that share a price, by what makes their cost whole or not."""
    zero = np.zeros(len(rows), dtype=np.int64)
    result = evaluate(price, {"input_tokens": zero, **fields})
    refused = np.broadcast_to(result.refused, len(rows)) | _contradicts(said, len(rows))
    refused = refused | (sum(result.parts.values(), zero) >= _PICO_MOST)
    # Every reason that some row has, and which rows.
    reasons: list[tuple[str, NDArray[np.bool_]]] = [(note, zero == 0) for note in price.notes]
    reasons += [(gap.reason, fields[gap.field] > 0) for gap in price.gaps if gap.field in fields]
    reasons += [
        (f"the provider did not say {field.removesuffix('_tokens')} tokens", said.get(field, zero) == 0)
        for field in price.expects
    ]
    reasons += [
        (f"no fee is known for requests of {tool}", asked > 0) for tool, asked in unknown_tools.items()
    ]
    unsure = "it is not known which of the cached tokens are audio or images; the least is assumed"
    reasons.append((unsure, np.broadcast_to(result.unsure, len(rows))))
    reasons = [(text, mask) for text, mask in reasons if mask.any()]
    _unpriced(found, rows[refused], rank, reported, price.price_id, CONTRADICTION)
    counted = zero != 0
    for count in result.counts:
        counted = counted | (count != 0)
    never_charged = not any(any(charge.rates) for charge in price.charges)
    for here, texts in _by_reasons(reasons, ~refused):
        text = "; ".join(texts)
        nothing = here & ~counted if texts and not price.free else zero != 0
        _unpriced(found, rows[nothing], rank, reported, price.price_id, text)
        here = here & ~nothing
        status = _FREE if price.free or (not texts and never_charged) else _PARTIAL if texts else _PRICED
        found.add(rows[here], rank, status, _amounts(result, here), price.price_id, text)


def _contradicts(said: dict[str, Ints], n: int) -> NDArray[np.bool_]:
    """Rows in which a part is larger than its whole; ``said`` holds the counts as they are stored."""
    wrong = np.zeros(n, dtype=np.bool_)
    zero = np.zeros(n, dtype=np.int64)
    for rule in WHOLES:
        if said.keys().isdisjoint(rule.parts):
            continue
        whole = said.get(rule.whole, zero)
        together = sum((said.get(part, zero) & _COUNT for part in rule.parts), zero)
        wrong |= (together > (whole & _COUNT)) & (rule.unknown_is_zero | (whole != 0))
    return wrong


def _by_reasons(
    reasons: list[tuple[str, NDArray[np.bool_]]], among: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.bool_], list[str]]]:
    """Rows that have the same reasons, and which those are."""
    if not reasons:
        yield among, []
        return
    combination = np.zeros(len(among), dtype=np.int64)
    for _, mask in reasons[:62]:
        combination = combination * 2 + mask
    for value in np.unique(combination[among]).tolist():
        here = among & (combination == value)
        first = int(np.argmax(here))
        yield here, [text for text, mask in reasons if mask[first]]


def _amounts(result: Evaluation, here: NDArray[np.bool_]) -> dict[str, Ints]:
    """Nano-USD by part, of the parts that some of the rows have."""
    # A part that is nothing changes no running sum, and most of them are.
    pico = {
        part: np.broadcast_to(result.parts[part], len(here))[here] for part in PARTS if part in result.parts
    }
    pico = {part: amount for part, amount in pico.items() if amount.any()}
    return dict(zip(pico, nano_parts(pico.values()), strict=True))


def _unpriced(found: _Found, rows: Rows, rank: Ints, reported: Ints, price_id: str, reason: str) -> None:
    """Calls without a price: what their gateway says they cost, or nothing, which is not zero."""
    absurd = reported[rows] > 1 << AMOUNT_BITS
    found.add(rows[absurd], rank, _UNPRICED, {}, price_id, f"{reason}; {_ABSURD}")
    rows = rows[~absurd]
    has = reported[rows] > 0
    found.add(rows[~has], rank, _UNPRICED, {}, price_id, reason)
    # What is reported has no parts: nobody said what it is made of.
    found.add(rows[has], rank, _REPORTED, {}, price_id, reason, reported[rows[has]] - 1)


def _priced_alike(table: pa.Table, rows: Rows, book: PriceBook) -> Iterator[tuple[Rows, Price | Unpriced]]:
    """Rows that share a price, and the price."""
    if not len(rows):
        return
    every = len(rows) == table.num_rows
    started = numbers(table, "started_at")[rows]
    day = started // _DAY_MS
    daily = book.daily_changes_ms
    segment = np.searchsorted(np.array(book.changes_ms, dtype=np.int64), started, "right") * (len(daily) + 1)
    segment += np.searchsorted(np.array(daily, dtype=np.int64), started % _DAY_MS, "right")
    key, _ = _coded(pa.array(segment * 2 + ((day + 3) % 7 >= 5)))
    names: list[tuple[Ints, list[str]]] = []
    for column in ("provider", "model", "service_tier", "deployment", "tenant"):
        used = {"deployment": book.by_deployment, "tenant": book.by_tenant}.get(column, True)
        if column in table.column_names and used:
            of_row, values = coded(table, column)
            of_row = of_row if every else of_row[rows]
            names.append((of_row, values))
            key, _ = _coded(pa.array(key * len(values) + of_row))
        else:
            names.append((np.zeros(len(rows), dtype=np.int64), [""]))
    # Few groups are a small type, which is sorted by counting.
    order = np.argsort(key.astype(np.uint16) if key.max() < 1 << 16 else key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order])) + 1
    for group in np.split(order, starts):
        first = group[0]
        provider, model, tier, deployment, tenant = (values[of_row[first]] for of_row, values in names)
        at_ms = int(started[first])
        found = book.resolve(provider, model, at_ms, tier, deployment=deployment, tenant=tenant)
        yield rows[group], found


def _coded(values: pa.Array) -> tuple[Ints, list[Any]]:
    """Values as codes, and what they stand for, in the order of appearance."""
    encoded = values.dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


_decode_tools: Final[Callable[[str], dict[str, int]]] = msgspec.json.Decoder(dict[str, int]).decode


def _tools(requests: list[str]) -> dict[str, Ints]:
    """Requests of built-in tools by name, from a JSON object for each row."""
    found: dict[str, Ints] = {}
    for row, json in enumerate(requests):
        for tool, asked in (_decode_tools(json) if json else {}).items():
            if asked:
                found.setdefault(tool, np.zeros(len(requests), dtype=np.int64))[row] = asked
    return found


class _Found:
    """Stored costs of many rows, piece by piece."""

    def __init__(self, n: int, version: int) -> None:
        if not 1 <= version <= VERSION_MOST:
            raise ValueError(f"version {version} of the prices is not within 1 and {VERSION_MOST}")
        self._version = version
        self._amounts = {column: np.zeros(n, dtype=np.int64) for column in COLUMNS}
        self._prices: dict[str, int] = {"": 0}
        self._price = np.zeros(n, dtype=np.int32)
        self._details: dict[int, str] = {}
        self._n = n

    def add(
        self,
        rows: Rows,
        rank: Ints,
        status: int,
        amounts: dict[str, Ints],
        price_id: str,
        reason: str,
        reported: Ints | None = None,
    ) -> None:
        """Costs of rows that have the same status, price and reasons.

        Parameters
        ----------
        rank
            Of all rows, not only of these.
        amounts
            Nano-USD by part, of these rows.
        reported
            What is not made of parts: it goes with the rest.
        """
        if not len(rows):
            return
        head = rank[rows] << VERSION_BITS | self._version
        for column, parts in COLUMNS.items():
            value = head << AMOUNT_BITS
            for part in parts:
                if part in amounts:
                    value = value + amounts[part]
            if reported is not None and column == "cost_other":
                value = value + reported
            self._amounts[column][rows] = value
        for value in np.unique(rank[rows]).tolist():
            digits = f"{value:x}{self._version:04x}"
            text = f"{digits}{status}{price_id}\0{reason}"
            code = self._prices.setdefault(text, len(self._prices))
            self._price[rows[rank[rows] == value]] = code
        rare = [part for part in amounts if part not in _PLAIN]
        if rare:
            for i in np.flatnonzero(sum(amounts[part] for part in rare)).tolist():
                row = int(rows[i])
                said = {part: int(amounts[part][i]) for part in rare if amounts[part][i]}
                self._details[row] = f"{rank[row]:x}{self._version:04x}{_encode(said)}"

    def rows(self) -> NDArray[np.bool_]:
        """Which rows have a cost, be it that there is none to be known."""
        has: NDArray[np.bool_] = self._price != 0
        return has

    def columns(self) -> dict[str, pa.Array]:
        """All of them, in the order of their rows."""
        made = {column: pa.array(amounts) for column, amounts in self._amounts.items()}
        made["price"] = pa.DictionaryArray.from_arrays(pa.array(self._price), pa.array(list(self._prices)))
        if self._details:
            made["cost_details"] = pa.array(
                [self._details.get(row, "") for row in range(self._n)], pa.string()
            )
        return made


_PLAIN: Final = frozenset(parts[0] for parts in COLUMNS.values() if len(parts) == 1)


def _encode(amounts: dict[str, int]) -> str:
    return msgspec.json.encode(amounts).decode()
