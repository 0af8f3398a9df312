"""What could be saved, and what the same calls would cost at another model, with prices from the price book.

Kinds whose amounts are stored come from the views (``sinks/views/saving.py``); the others are computed here,
in columns, a day of calls at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
from msgspec import Struct
from numpy.typing import NDArray

from gatewatch.price_book import PriceBook
from signals.saving import Repriced, as_batch, at_model, reprice, with_caching
from sinks.clickhouse import Sink
from sinks.schema import VIEWS
from sinks.stored_call import call_tables, days
from sinks.views.saving import BATCHABLE, CACHE_LIFETIME_S, LEAST_CACHED_TOKENS, repeated_prefixes

__all__ = ["KINDS", "Saving", "WhatIf", "proofs", "savings", "what_if"]

_OnDay: TypeAlias = Callable[[int], None]

KINDS: Final = ("failed", "abandoned", "retried", "uncached", "batch", "idle")
_PROOFS: Final = {
    "failed": ("wasted_calls", "kind = 'failed'", "what", "paid_usd", "paid_usd"),
    "abandoned": ("wasted_calls", "kind = 'abandoned'", "what", "paid_usd", "paid_usd"),
    "retried": ("retries", "1", "previous_what", "previous_paid_usd", "previous_paid_usd"),
    "idle": ("infrastructure", "cost_usd IS NOT NULL", "state", "cost_usd", "idle_usd"),
}
"""By kind: the view, its condition, and its columns for what, paid and could save."""


class Saving(Struct, frozen=True, kw_only=True):
    """A kind of saving for one tenant and model."""

    kind: str
    tenant: str
    provider: str
    model: str
    calls: int
    """Calls (of ``idle``: hours of a pool) that the amounts are of."""
    left_out: int
    """Calls of the kind without an amount: no cost is known, or no price to compare with."""
    paid_nano_usd: int
    could_save_nano_usd: int
    """Negative where it would cost more."""


class WhatIf(Struct, frozen=True, kw_only=True):
    """The calls of one tenant and model, and what they would cost at another model."""

    tenant: str
    provider: str
    model: str
    calls: int
    """Calls that have a cost at both."""
    partial_calls: int
    """Of these, calls for which the other model has no price for a part of what was used."""
    left_out: int
    """Calls without a cost, or without a price at the other model."""
    paid_nano_usd: int
    would_nano_usd: int


class _Compared(Struct, frozen=True):
    """Calls, what they cost as stored, and what they could save; arrays of shape (n,), nano-USD."""

    table: pa.Table
    paid: NDArray[np.int64]
    saved: NDArray[np.int64]
    known: NDArray[np.bool_]
    """Both are known, and can be compared."""
    what: list[str]


def savings(
    sink: Sink,
    book: PriceBook,
    begin_ms: int,
    end_ms: int,
    kinds: Sequence[str],
    on_day: Callable[[str, int], None] = lambda kind, until_ms: None,
) -> list[Saving]:
    """What calls that began from ``begin_ms`` to before ``end_ms`` could have saved; the most first.

    Parameters
    ----------
    kinds
        Of :data:`KINDS`.
    on_day
        Called with the kind that is computed, and up to when it has come.

    Raises
    ------
    SinkError
        ClickHouse did not answer.
    """
    found: list[Saving] = []
    for kind in kinds:
        if kind in _PROOFS:
            found += _stored(sink, kind, begin_ms, end_ms)
        else:
            found += _summed(kind, _COMPUTED[kind](sink, book, begin_ms, end_ms, partial(on_day, kind)))
    return sorted(
        found, key=lambda row: (-row.could_save_nano_usd, KINDS.index(row.kind), row.tenant, row.model)
    )


def proofs(sink: Sink, book: PriceBook, begin_ms: int, end_ms: int, kind: str) -> Iterator[dict[str, Any]]:
    """The calls (of ``idle``: the hours of a pool) that a kind of saving consists of, by time.

    Amounts are nano-USD, None where they are not known.
    """
    if kind in _PROOFS:
        view, where, what, paid, could_save = _PROOFS[kind]
        at, call_id = ("hour", "''") if kind == "idle" else ("started_at", "call_id")
        tenant, provider = ("''", "gateway") if kind == "idle" else ("tenant", "provider")
        rows = sink.rows(
            f"SELECT toUnixTimestamp64Milli(toDateTime64({at}, 3, 'UTC')), {call_id}, {tenant}, {provider}, "
            f"model, {what}, {_nano(paid)}, {_nano(could_save)} FROM {VIEWS}.{view} "
            f"WHERE {where} AND {_within(at)} ORDER BY 1, 2",
            {"begin": begin_ms, "end": end_ms},
        )
        for started_ms, call, of, by, model, said, paid_nano, saved in rows:
            yield _proof(started_ms, call, of, by, model, said, paid_nano, saved)
        return
    for compared in _COMPUTED[kind](sink, book, begin_ms, end_ms, lambda until_ms: None):
        columns = [compared.table[name].to_pylist() for name in _NAMED]
        for i, values in enumerate(zip(*columns, strict=True)):
            known = bool(compared.known[i])
            paid_nano = int(compared.paid[i]) if known else None
            saved = int(compared.saved[i]) if known else None
            yield _proof(*values, compared.what[i], paid_nano, saved)


_NAMED: Final = ("started_at", "call_id", "tenant", "provider", "model")


def _proof(*values: Any) -> dict[str, Any]:
    names = (
        *("started_ms", "call_id", "tenant", "provider", "model", "what"),
        "paid_nano_usd",
        "could_save_nano_usd",
    )
    return dict(zip(names, values, strict=True))


def _within(column: str) -> str:
    return (
        f"toDateTime64({column}, 3, 'UTC') >= fromUnixTimestamp64Milli({{begin:Int64}}, 'UTC') "
        f"AND toDateTime64({column}, 3, 'UTC') < fromUnixTimestamp64Milli({{end:Int64}}, 'UTC')"
    )


def _nano(column: str) -> str:
    return f"toInt64({column} * 1000000000)"


def _stored(sink: Sink, kind: str, begin_ms: int, end_ms: int) -> list[Saving]:
    view, where, _, paid, could_save = _PROOFS[kind]
    at, tenant, provider = ("hour", "''", "''") if kind == "idle" else ("started_at", "tenant", "provider")
    rows = sink.rows(
        f"SELECT {tenant} AS of, {provider} AS by, model, "
        f"countIf({paid} IS NOT NULL), countIf({paid} IS NULL), "
        f"ifNull({_nano(f'sum({paid})')}, 0), ifNull({_nano(f'sum({could_save})')}, 0) "
        f"FROM {VIEWS}.{view} WHERE {where} AND {_within(at)} GROUP BY of, by, model",
        {"begin": begin_ms, "end": end_ms},
    )
    return [
        Saving(
            kind=kind,
            tenant=row[0],
            provider=row[1],
            model=row[2],
            calls=row[3],
            left_out=row[4],
            paid_nano_usd=row[5],
            could_save_nano_usd=row[6],
        )
        for row in rows
    ]


def _batch(sink: Sink, book: PriceBook, begin_ms: int, end_ms: int, on_day: _OnDay) -> Iterator[_Compared]:
    for table in call_tables(sink, begin_ms, end_ms, where=BATCHABLE, on_day=on_day):
        now, would = reprice(table, book), as_batch(table, book)
        # Where no price of the tier is known, the book answers with standard rates and says so.
        no_tier = np.array(["the tier 'batch'" in reason for reason in would.reason], dtype=np.bool_)
        what = [reason if none else "" for reason, none in zip(would.reason, no_tier.tolist(), strict=True)]
        yield _compared(table, now, would, ~no_tier, what)


def _uncached(sink: Sink, book: PriceBook, begin_ms: int, end_ms: int, on_day: _OnDay) -> Iterator[_Compared]:
    seen = "started_at >= fromUnixTimestamp64Milli({begin:Int64}, 'UTC') "
    seen += "AND started_at < fromUnixTimestamp64Milli({end:Int64}, 'UTC')"
    for at, until in days(begin_ms, end_ms):
        repeated = sink.table(
            "SELECT toUnixTimestamp64Milli(started_at) AS started_at, call_id, "
            "toInt64(repeated_tokens) AS repeated_tokens, toInt64(missed_tokens) AS missed_tokens "
            f"FROM ({repeated_prefixes(seen)})",
            {"begin": at - CACHE_LIFETIME_S * 1000, "end": until},
        )
        if repeated.num_rows:
            yield from _cached_day(
                call_tables(sink, at, until, where="notEmpty(prefix_hashes)"), repeated, book
            )
        on_day(until)


def _cached_day(tables: Iterator[pa.Table], repeated: pa.Table, book: PriceBook) -> Iterator[_Compared]:
    for table in tables:
        joined = table.join(repeated, ["started_at", "call_id"], join_type="inner").sort_by(
            [("started_at", "ascending"), ("call_id", "ascending")]
        )
        if not joined.num_rows:
            continue
        joined = joined.combine_chunks()
        tokens = joined["repeated_tokens"].to_numpy()
        now = reprice(joined, book)
        would = with_caching(joined, book, tokens, LEAST_CACHED_TOKENS)
        missed = joined["missed_tokens"].to_pylist()
        what = [f"{count:,} tokens repeated and were not read" if count else "" for count in missed]
        yield _compared(joined, now, would, np.ones(joined.num_rows, dtype=np.bool_), what)


_COMPUTED: Final[dict[str, Callable[[Sink, PriceBook, int, int, _OnDay], Iterator[_Compared]]]] = {
    "uncached": _uncached,
    "batch": _batch,
}


def _compared(
    table: pa.Table, now: Repriced, would: Repriced, comparable: NDArray[np.bool_], what: list[str]
) -> _Compared:
    # Both by the same prices: what was paid may have been at a contract's.
    paid = table["paid_nano_usd"].to_numpy()
    known = comparable & (paid >= 0) & now.is_known & would.is_known
    return _Compared(table, paid, now.nano_usd - would.nano_usd, known, what)


def _summed(kind: str, compared: Iterator[_Compared]) -> list[Saving]:
    sums: dict[tuple[str, str, str], list[int]] = {}
    for part in compared:
        for key, rows in _groups(part.table):
            total = sums.setdefault(key, [0, 0, 0, 0])
            known = part.known[rows]
            total[0] += int(known.sum())
            total[1] += int((~known).sum())
            total[2] += int(part.paid[rows][known].sum())
            total[3] += int(part.saved[rows][known].sum())
    return [
        Saving(
            kind=kind,
            tenant=tenant,
            provider=provider,
            model=model,
            calls=total[0],
            left_out=total[1],
            paid_nano_usd=total[2],
            could_save_nano_usd=total[3],
        )
        for (tenant, provider, model), total in sums.items()
    ]


def _groups(table: pa.Table) -> Iterator[tuple[tuple[str, str, str], NDArray[np.intp]]]:
    """Rows of each tenant, provider and model."""
    key = np.zeros(table.num_rows, dtype=np.int64)
    names = []
    for column in ("tenant", "provider", "model"):
        encoded = table[column].combine_chunks().dictionary_encode()
        values = encoded.dictionary.to_pylist()
        key = key * len(values) + encoded.indices.to_numpy()
        names.append(values)
    for code in np.unique(key).tolist():
        rest, model = divmod(code, len(names[2]))
        tenant, provider = divmod(rest, len(names[1]))
        yield (names[0][tenant], names[1][provider], names[2][model]), np.flatnonzero(key == code)


def what_if(
    sink: Sink,
    book: PriceBook,
    begin_ms: int,
    end_ms: int,
    target: tuple[str, str],
    *,
    provider: str = "",
    model: str = "",
    tenant: str = "",
    on_day: _OnDay = lambda until_ms: None,
) -> tuple[list[WhatIf], dict[str, int]]:
    """What calls would have cost at another model, by tenant and model, the largest first.

    Parameters
    ----------
    target
        Provider and model at whose prices the same usage is priced.
    provider, model, tenant
        Only calls of these, as they were sent; empty for all.
    on_day
        Called with up to when calls have been priced.

    Returns
    -------
    The rows; and how many calls each reason made partial or left out.
    """
    chosen = [("provider", provider), ("model", model), ("tenant", tenant)]
    where = " AND ".join(["1", *(f"{name} = {{{name}:String}}" for name, value in chosen if value)])
    sums: dict[tuple[str, str, str], list[int]] = {}
    reasons: dict[str, int] = {}
    for table in call_tables(sink, begin_ms, end_ms, where=where, parameters=dict(chosen), on_day=on_day):
        would = at_model(table, book, *target)
        paid = table["paid_nano_usd"].to_numpy()
        # A call that the gateway answered costs nothing anywhere, and says nothing of a model.
        hit = table["gateway_cache_hit"].to_numpy() == 2
        known = (paid >= 0) & would.is_known & ~hit
        partial = known & (would.status == "partial")
        for i in np.flatnonzero(~hit & (partial | ~would.is_known)).tolist():
            reasons[would.reason[i]] = reasons.get(would.reason[i], 0) + 1
        unknown = int((~hit & (paid < 0)).sum())
        if unknown:
            reasons[_NO_COST] = reasons.get(_NO_COST, 0) + unknown
        for key, rows in _groups(table):
            total = sums.setdefault(key, [0, 0, 0, 0, 0])
            here = known[rows]
            total[0] += int(here.sum())
            total[1] += int(partial[rows].sum())
            total[2] += int((~here & ~hit[rows]).sum())
            total[3] += int(paid[rows][here].sum())
            total[4] += int(would.nano_usd[rows][here].sum())
    made = [
        WhatIf(
            tenant=of,
            provider=by,
            model=name,
            calls=total[0],
            partial_calls=total[1],
            left_out=total[2],
            paid_nano_usd=total[3],
            would_nano_usd=total[4],
        )
        for (of, by, name), total in sums.items()
    ]
    made.sort(key=lambda row: (-row.paid_nano_usd, row.tenant, row.provider, row.model))
    return made, dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


_NO_COST: Final = "the call itself has no cost to compare with"
