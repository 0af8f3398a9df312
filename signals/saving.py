"""What the same calls would have cost otherwise: at another model, as batch, or with prompts cached.

The arithmetic is that of every other cost: :func:`signals.cost.costs` on the calls' stored usage, with one
thing changed. So what is compared is exact; what is assumed is that nothing else would have changed.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
from msgspec import Struct
from numpy.typing import NDArray

from gatewatch.price_book import PriceBook
from signals.column import RANK_PROVIDER, RANK_SHIFT, numbers
from signals.cost import AMOUNT_BITS, COLUMNS, HEAD_DIGITS, STATUSES, costs

__all__ = ["Repriced", "as_batch", "at_model", "reprice", "with_caching"]

_AMOUNT: Final = (1 << AMOUNT_BITS) - 1
_COUNT: Final = (1 << RANK_SHIFT) - 1
_SAID: Final = RANK_PROVIDER << RANK_SHIFT
_MODALITIES: Final = ("input_audio_tokens", "cache_audio_read_tokens", "input_image_tokens")

Ints = NDArray[np.int64]


class Repriced(Struct, frozen=True):
    """Costs of calls; each of shape (n,)."""

    nano_usd: Ints
    """0 where there is no price: look at ``is_known``."""
    status: NDArray[np.str_]
    """One of :data:`signals.cost.STATUSES`, or empty for a call that has not ended."""
    reason: list[str]
    """Why the cost is not whole, or missing."""

    @property
    def is_known(self) -> NDArray[np.bool_]:
        """Whether the cost is that of a price, in part or whole."""
        known: NDArray[np.bool_] = np.isin(self.status, ("priced", "partial", "free"))
        return known


def reprice(table: pa.Table, book: PriceBook) -> Repriced:
    """What calls cost at a book's prices.

    Parameters
    ----------
    table
        Columns as :func:`signals.cost.costs` takes them.
    """
    found = costs(table, book)
    nano = np.zeros(table.num_rows, dtype=np.int64)
    for column in COLUMNS:
        nano += found[column].to_numpy() & _AMOUNT
    texts = found["price"]
    codes = texts.indices.to_numpy()
    names = [
        (STATUSES[int(text[HEAD_DIGITS]) - 1], text.partition("\0")[2]) if text else ("", "")
        for text in texts.dictionary.to_pylist()
    ]
    statuses = np.array([status for status, _ in names], dtype=np.str_)
    return Repriced(nano, statuses[codes], [names[code][1] for code in codes.tolist()])


def at_model(table: pa.Table, book: PriceBook, provider: str, model: str) -> Repriced:
    """The same usage at another model's prices, of the same time, service tier and tenant."""
    changed = _with_text(_with_text(table, "provider", provider), "model", model)
    return reprice(_with_text(changed, "deployment", ""), book)


def as_batch(table: pa.Table, book: PriceBook) -> Repriced:
    """The same calls at the batch tier; ``partial`` where no price of it is known."""
    return reprice(_with_text(table, "service_tier", "batch"), book)


def with_caching(table: pa.Table, book: PriceBook, repeated_tokens: Ints, least_tokens: int) -> Repriced:
    """The same calls with every prompt cached: what repeats is read, all else is written.

    Parameters
    ----------
    repeated_tokens
        Tokens of each prompt's prefix that the cache would have held; shape (n,).
    least_tokens
        Shorter prompts are neither read nor written.

    Notes
    -----
    A read that took place stays one. A provider that charges for writes charges for those that nobody reads,
    too, so that the whole can cost more than it did. Calls with audio or images keep their cost: it is not
    known which of their tokens repeat.
    """
    n = table.num_rows
    given = _counts(table, "input_tokens")
    read = np.minimum(np.maximum(_counts(table, "cache_read_tokens"), repeated_tokens), given)
    written = given - read
    stays = given < least_tokens
    for column in _MODALITIES:
        stays |= _counts(table, column) > 0
    changed = table
    for column, counts in (
        ("cache_read_tokens", read),
        ("cache_write_tokens", written),
        ("cache_write_5m_tokens", np.zeros(n, dtype=np.int64)),
        ("cache_write_1h_tokens", np.zeros(n, dtype=np.int64)),
    ):
        before = numbers(table, column)
        changed = _with(changed, column, pa.array(np.where(stays, before, _SAID | counts)))
    return reprice(changed, book)


def _counts(table: pa.Table, column: str) -> Ints:
    counts: Ints = numbers(table, column) & _COUNT
    return counts


def _with_text(table: pa.Table, column: str, text: str) -> pa.Table:
    return _with(table, column, pa.array([text] * table.num_rows, pa.string()))


def _with(table: pa.Table, column: str, values: Any) -> pa.Table:
    if column in table.column_names:
        return table.set_column(table.schema.get_field_index(column), column, values)
    return table.append_column(column, values)
