"""The ledger of prices in the store: reading versions, making one, and their rates as rows.

Making version n is an insert that carries the number as its token: of two importers the engine keeps the
first one's row, and the other finds it there when it reads back. Nothing is ever changed or deleted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
from msgspec import Struct

from gatewatch.price_ledger import LEAD_MS, VERSION_MOST, PriceDocuments, PriceVersion
from gatewatch.price_row import PriceRow, price_rows
from gatewatch.price_table import PriceError
from sinks.clickhouse import Sink
from sinks.schema import STORE, VIEWS

__all__ = [
    "AHEAD_MOST_MS",
    "IMPORT_MOST",
    "PAGE",
    "Made",
    "PriceRaceError",
    "PriceUse",
    "documents_in_effect",
    "fill_rows",
    "ledger_clock",
    "make_version",
    "price_table",
    "price_uses",
    "read_version",
    "read_versions",
    "refresh",
    "register_package",
    "store_prices",
]

IMPORT_MOST: Final = 8000
"""Imports end here, so that releases with lists of their own still find numbers (up to VERSION_MOST)."""
AHEAD_MOST_MS: Final = 7 * 86_400_000
"""A version takes effect this much after it is made, at most: until then no other one can."""

PAGE: Final = 16
"""So many versions are read at a time, with their documents."""

_INSERT_S: Final = 20
"""The engine gives an insert up after this; the ledger reckons with what LEAD_MS leaves to TRUST_MS, 30 s."""
_BROKER_AHEAD_MS: Final = 600_000
_TRIES: Final = 10
_TIME: Final = pa.timestamp("ms", "UTC")

# Both from the beginning of the query: what is inserted after that is not among the versions.
_CLOCK: Final = f"""\
SELECT toUnixTimestamp64Milli(now64(3)), (SELECT max(version) FROM {STORE}.price_versions)"""
# Append times are the broker's. Where its clock is ahead, what has been appended counts, within reason.
_LOG_CLOCK: Final = f"""\
SELECT toUnixTimestamp64Milli(now64(3)), toUnixTimestamp64Milli(max(appended_to)) FROM {STORE}.chunks"""
_HEAD: Final = """\
version, toUnixTimestamp64Milli(made_at), toUnixTimestamp64Milli(takes_effect_at),
    digest, list_digest, source, contract_count, note"""
_FIRST: Final = "ORDER BY version, made_at, digest LIMIT 1 BY version"


class PriceRaceError(Exception):
    """Somebody else made a version at the same time; nothing of ours was stored."""


class Made(Struct, frozen=True):
    """A version, and whether it is new: equal content makes no other one."""

    version: PriceVersion
    is_new: bool


def _version(row: Sequence[Any]) -> PriceVersion:
    number, made_ms, takes_effect_ms, digest, list_digest, source, contracts, note = row[:8]
    return PriceVersion(
        version=int(number),
        made_ms=int(made_ms),
        takes_effect_ms=int(takes_effect_ms),
        digest=str(digest),
        list_digest=str(list_digest),
        source=str(source),
        contract_count=int(contracts),
        note=str(note),
    )


def read_versions(sink: Sink) -> list[PriceVersion]:
    """All versions in their order, without documents."""
    return [_version(row) for row in sink.rows(f"SELECT {_HEAD} FROM {STORE}.price_versions {_FIRST}")]


def read_version(sink: Sink, number: int) -> PriceDocuments | None:
    """The documents of a version."""
    rows = sink.rows(
        f"SELECT list, declared, contracts FROM {STORE}.price_versions "
        "WHERE version = {number:UInt32} ORDER BY made_at, digest LIMIT 1",
        {"number": number},
    )
    return PriceDocuments(*(str(text).encode() for text in rows[0])) if rows else None


def documents_in_effect(sink: Sink) -> PriceDocuments:
    """The documents of the version that holds now; the package's where the store has none. Reads views only.

    Raises
    ------
    SinkError
    """
    rows = sink.rows(f"SELECT list, declared, contracts FROM {VIEWS}.price_documents WHERE is_in_effect")
    return PriceDocuments(*(str(text).encode() for text in rows[0])) if rows else PriceDocuments.of_package()


def ledger_clock(sink: Sink) -> tuple[int, int]:
    """The store's time in ms, and the highest version that there was then."""
    now_ms, newest = sink.rows(_CLOCK)[0]
    return int(now_ms), int(newest)


def refresh(known: int, sink: Sink) -> tuple[int, list[tuple[PriceVersion, PriceDocuments]]]:
    """What is above a known version, and the store's time up to which that is complete.

    It is not complete where :data:`PAGE` versions come: their documents are not small, so there may be more.

    Raises
    ------
    SinkError
    """
    read_ms, newest = ledger_clock(sink)
    if newest <= known:
        return read_ms, []
    rows = sink.rows(
        f"SELECT {_HEAD}, list, declared, contracts FROM {STORE}.price_versions "
        f"WHERE version > {{known:UInt32}} {_FIRST} LIMIT {PAGE}",
        {"known": known},
    )
    return read_ms, [
        (_version(row), PriceDocuments(*(str(text).encode() for text in row[8:]))) for row in rows
    ]


def register_package(sink: Sink) -> PriceVersion | None:
    """Make the package's own list a version, with the newest contracts, if it has never been one.

    So a release that is rolled back, or runs beside a later one, changes nothing. None where it has been one,
    or where the ledger has no number left.

    Raises
    ------
    SinkError
    """
    own = PriceDocuments.of_package()
    for _ in range(_TRIES):
        versions = read_versions(sink)
        if any(version.list_digest == own.list_digest for version in versions):
            return None
        newest = versions[-1] if versions else None
        if newest is not None and newest.version >= VERSION_MOST:
            return None
        before = read_version(sink, newest.version) if newest is not None else None
        documents = PriceDocuments.of_package(before.contracts if before is not None else b"[]")
        try:
            return make_version(
                sink, documents, note="the list of this release", based_on=newest, most=VERSION_MOST
            ).version
        except PriceRaceError:
            continue  # whoever was first may have registered the same list
    raise PriceRaceError("others kept making versions of the prices at the same time; try again")


def make_version(
    sink: Sink,
    documents: PriceDocuments,
    *,
    note: str,
    based_on: PriceVersion | None,
    takes_effect_ms: int | None = None,
    most: int = IMPORT_MOST,
) -> Made:
    """Make documents the next version; what the newest version holds already makes none.

    Parameters
    ----------
    based_on
        The newest version when the documents were put together, None where there was none.
    takes_effect_ms
        By default as soon as possible.

    Raises
    ------
    PriceError
        The documents make no book, the time is not possible, or the ledger is full.
    PriceRaceError
        Another version was made since ``based_on`` was the newest.
    SinkError
    """
    if based_on is not None and based_on.digest == documents.digest:
        return Made(based_on, False)
    number = 1 if based_on is None else based_on.version + 1
    if number > most:
        raise PriceError(
            f"version {number} of the prices cannot be made: costs are stored with versions up to "
            f"{VERSION_MOST}, and imports end at {IMPORT_MOST}. Import changes together, not one by one"
        )
    book = documents.book()
    now_ms, appended_ms = (int(value) for value in sink.rows(_LOG_CLOCK)[0])
    base_ms = max(now_ms, min(appended_ms, now_ms + _BROKER_AHEAD_MS))
    version = PriceVersion(
        version=number,
        made_ms=now_ms,
        takes_effect_ms=_takes_effect(base_ms, based_on, takes_effect_ms),
        digest=documents.digest,
        list_digest=documents.list_digest,
        source=book.source,
        contract_count=len(book.contracts),
        note=note,
    )
    sink.insert(
        f"{STORE}.price_versions",
        _version_block(version, documents),
        insert_deduplication_token=f"version {number}",
        max_execution_time=_INSERT_S,
    )
    stored = next(found for found in read_versions(sink) if found.version == number)
    if stored.digest != version.digest:
        raise PriceRaceError(
            f"another import made version {number} of the prices ({stored.note or 'without a note'}) at the "
            "same time; nothing of this one was stored. Look at it with `gatewatch prices diff`, then import "
            "again"
        )
    store_prices(sink, number, price_rows(book))
    return Made(stored, True)


def _takes_effect(base_ms: int, based_on: PriceVersion | None, asked_ms: int | None) -> int:
    if based_on is None:
        if asked_ms is not None:
            raise PriceError("the first version of the prices holds for all times; leave --takes-effect out")
        return base_ms
    # A record must not be priced by a lower version than an earlier record.
    earliest = max(base_ms + LEAD_MS, based_on.takes_effect_ms + 1)
    if asked_ms is None:
        return earliest
    if asked_ms < earliest:
        raise PriceError(
            f"a version that is made now takes effect {-(-(earliest - base_ms) // 1000)} s from now at the "
            f"earliest: workers get {LEAD_MS // 1000} s to learn of it, and version {based_on.version} comes "
            "before. What should have held earlier is repaired by `gatewatch reprice`"
        )
    if asked_ms > base_ms + AHEAD_MOST_MS:
        raise PriceError(
            "a version takes effect within 7 days, since none that is made after it can do so before; for "
            "a price that begins later, import it now with a date of its own (valid_from of a contract)"
        )
    return asked_ms


def _version_block(version: PriceVersion, documents: PriceDocuments) -> pa.Table:
    return pa.table(
        {
            "version": pa.array([version.version], pa.uint32()),
            "made_at": pa.array([version.made_ms], pa.int64()).cast(_TIME),
            "takes_effect_at": pa.array([version.takes_effect_ms], pa.int64()).cast(_TIME),
            "digest": [version.digest],
            "list_digest": [version.list_digest],
            "source": [version.source],
            "contract_count": pa.array([version.contract_count], pa.uint32()),
            "note": [version.note],
            "list": pa.array([documents.listed], pa.binary()),
            "declared": pa.array([documents.declared], pa.binary()),
            "contracts": pa.array([documents.contracts], pa.binary()),
        }
    )


def store_prices(sink: Sink, version: int, rows: Sequence[PriceRow]) -> None:
    """Store a version's rates, all in one block; safe to repeat."""
    if rows:
        sink.insert(f"{STORE}.prices", price_table(version, rows))


def price_table(version: int, rows: Sequence[PriceRow]) -> pa.Table:
    """Rates as the table ``prices`` has them."""

    def column(name: str, kind: pa.DataType) -> pa.Array:
        return pa.array([getattr(row, name) for row in rows], kind)

    texts = ("provider", "model", "service_tier", "component", "unit", "daily", "tenant", "deployment",
             "contract_id", "same_as", "kind", "source", "source_date")  # fmt: skip
    return pa.table(
        {name: column(name, pa.string()) for name in texts}
        | {
            "version": pa.array([version] * len(rows), pa.uint32()),
            "usd_per_unit": column("usd_per_unit", pa.decimal128(38, 12)),
            "above_input_tokens": column("above_input_tokens", pa.uint64()),
            "valid_from": pa.array([row.valid_from_ms or 0 for row in rows], pa.int64()).cast(_TIME),
            "valid_to": column("valid_to_ms", pa.int64()).cast(_TIME),
            "adjust_bp": column("adjust_bp", pa.int32()),
        }
    )


class PriceUse(Struct, frozen=True):
    """What was charged of one part of a price, of calls with one name of the model and context."""

    price_id: str
    """Without a contract's adjustment."""
    model: str
    """As the gateway sent it."""
    context: int
    """How many of the thresholds the calls' input tokens exceed."""
    calls: int
    part_calls: dict[str, int]
    """Calls that the part was charged for, by part of the cost."""
    part_usd: dict[str, Decimal]


def price_uses(sink: Sink, days: int, thresholds: Sequence[int]) -> list[PriceUse]:
    """What the stored calls of the last days were charged, for each price.

    Parameters
    ----------
    thresholds
        Input tokens, ascending: calls on either side of each are told apart.

    Raises
    ------
    SinkError
    """
    rows = sink.rows(_USES, {"days": days, "thresholds": list(thresholds)})
    return [
        PriceUse(
            price_id=str(price_id),
            model=str(model),
            context=int(context),
            calls=int(calls),
            part_calls={str(part): int(n) for part, n in part_calls.items()},
            part_usd={str(part): Decimal(usd) for part, usd in part_usd.items()},
        )
        for price_id, model, context, calls, part_calls, part_usd in rows
    ]


_USES: Final = f"""\
SELECT price, model, context, count() AS calls,
    sumMap(mapApply((part, usd) -> (part, toUInt64(usd > 0)), spent)) AS part_calls,
    sumMap(spent) AS part_usd
FROM
(
    SELECT splitByChar('*', price_id)[1] AS price, model,
        arrayCount(threshold -> ifNull(input_tokens, 0) > threshold, {{thresholds:Array(UInt64)}}) AS context,
        mapUpdate(
            map('input', ifNull(cost_input_usd, 0), 'cache_read', ifNull(cost_cache_read_usd, 0),
                'cache_write', ifNull(cost_cache_write_usd, 0), 'output', ifNull(cost_output_usd, 0),
                'reasoning', ifNull(cost_reasoning_usd, 0)),
            cost_details_usd) AS spent
    FROM {VIEWS}.calls
    WHERE started_at >= now64(3) - toIntervalDay({{days:UInt32}})
        AND cost_status IN ('priced', 'partial') AND price_id != ''
)
GROUP BY price, model, context"""


def fill_rows(sink: Sink) -> list[int]:
    """Store the rates of versions whose maker died before it had stored them; gives these versions."""
    missing = sink.rows(
        f"SELECT DISTINCT version FROM {STORE}.price_versions "
        f"WHERE version NOT IN (SELECT version FROM {STORE}.prices) ORDER BY version"
    )
    filled = []
    for (number,) in missing:
        documents = read_version(sink, int(number))
        if documents is not None:
            # One that this release cannot read is its own release's business.
            with contextlib.suppress(PriceError):
                store_prices(sink, int(number), price_rows(documents.book()))
                filled.append(int(number))
    return filled
