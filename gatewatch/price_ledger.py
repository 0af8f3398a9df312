"""The prices as they were at every time: numbered versions, each a complete price book.

A version is three documents (:class:`PriceDocuments`): the list, the declared table and the contracts. It
never changes once it is made, and versions only grow. Which one prices a record is a pure function of the
record and the ledger: of the versions that have taken effect when the record was appended, the one that did
so last; before the first one's time, the first. So whoever reads a record again, however late, prices it
alike. It goes by record, not by chunk: a chunk of a quiet partition is open for days.

That needs every worker to know a version before it takes effect. A version takes effect :data:`LEAD_MS` after
it is made, at the earliest, and a worker that has last read the ledger at some time may price records that
were appended up to :data:`TRUST_MS` after that time; for later ones it reads the ledger again first. The
difference is what an insert into the ledger may take. Both times are the store's own: no clock needs to be
right.
"""

from __future__ import annotations

import hashlib
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Final

import msgspec
from msgspec import Struct

from gatewatch.contract import Contract
from gatewatch.price_book import PriceBook, default_book
from gatewatch.price_table import Declared, PriceError, Table, package_documents, read_tables, tables

__all__ = [
    "LEAD_MS",
    "TRUST_MS",
    "VERSION_MOST",
    "PriceDocuments",
    "PriceLedger",
    "PriceVersion",
    "in_effect",
    "ledger_of",
    "package_ledger",
]

LEAD_MS: Final = 60_000
TRUST_MS: Final = 30_000
VERSION_MOST: Final = 8191
"""A stored cost has 13 bits for the version (:mod:`signals.cost`)."""

_BOOKS_KEPT: Final = 3
"""Books in memory at a time: some megabytes each, and more than two are needed only while old records are
read again."""


class PriceDocuments(Struct, frozen=True):
    """What a version holds, each as JSON."""

    listed: bytes
    declared: bytes
    contracts: bytes = b"[]"
    """An array of :class:`~gatewatch.contract.Contract` rows."""

    @classmethod
    def of_package(cls, contracts: bytes = b"[]") -> PriceDocuments:
        """The package's list and declared table, with contracts."""
        return cls(*package_documents(), contracts)

    @property
    def digest(self) -> str:
        """It identifies the content: equal for equal documents, and for no others."""
        return _digest(self.listed, self.declared, self.contracts)

    @property
    def list_digest(self) -> str:
        """The same of the list and the declared table, whatever the contracts are."""
        return _digest(self.listed, self.declared)

    def rows(self) -> tuple[Contract, ...]:
        """The contracts.

        Raises
        ------
        PriceError
            The document cannot be read.
        """
        try:
            return tuple(msgspec.json.decode(self.contracts, type=list[Contract]))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PriceError(f"the contracts cannot be read: {error}") from error

    def tables(self) -> tuple[Table, Declared]:
        """The list and the declared table, as they are read.

        Raises
        ------
        PriceError
            A document cannot be read.
        """
        if (self.listed, self.declared) == package_documents():
            return tables()
        return _tables_of(self.listed, self.declared)

    def book(self) -> PriceBook:
        """The price book that the documents make.

        Raises
        ------
        PriceError
            A document cannot be read, or a contract cannot be computed.
        """
        rows, read = self.rows(), self.tables()
        return default_book() if not rows and read is tables() else PriceBook(rows, read)


# Most versions differ in their contracts only.
_tables_of: Final = lru_cache(maxsize=2)(read_tables)


def _digest(*documents: bytes) -> str:
    # A digest of digests: no document can run over into the next one.
    whole = b"".join(hashlib.sha256(document).digest() for document in documents)
    return hashlib.sha256(whole).hexdigest()


class PriceVersion(Struct, frozen=True, kw_only=True):
    """A version as the ledger lists it, without its documents."""

    version: int
    """From 1."""
    made_ms: int
    takes_effect_ms: int
    """Append time of the first records that it prices; it grows with the version."""
    digest: str = ""
    list_digest: str = ""
    source: str = ""
    """The list and its version, such as ``genai-prices 0.2.3``."""
    contract_count: int = 0
    note: str = ""


def in_effect(versions: Sequence[PriceVersion], at_ms: int) -> PriceVersion:
    """The version that prices a record that is appended then; of at least one."""
    begun = [version for version in versions if version.takes_effect_ms <= at_ms]
    if begun:
        return max(begun, key=lambda version: (version.takes_effect_ms, version.version))
    return min(versions, key=lambda version: version.version)


class PriceLedger:
    """The versions that are known. Not for several threads at once.

    Documents are kept compressed, those that are equal once; books are made when they are needed, and only
    the few that were used last are kept.
    """

    def __init__(self) -> None:
        self._versions: dict[int, PriceVersion] = {}
        self._order: list[tuple[int, int]] = []
        self._documents: dict[int, tuple[bytes, bytes, bytes]] = {}
        self._compressed: dict[bytes, bytes] = {}
        self._books: dict[int, PriceBook] = {}

    @property
    def versions(self) -> tuple[PriceVersion, ...]:
        """All that are known, in their order."""
        return tuple(self._versions[number] for number in sorted(self._versions))

    @property
    def newest(self) -> int:
        """The highest version, 0 where there is none."""
        return max(self._versions, default=0)

    def add(self, version: PriceVersion, documents: PriceDocuments) -> None:
        """Make a version known; one that is known already stays as it is.

        Raises
        ------
        PriceError
            Its documents make no price book, or its number is out of bounds.
        """
        number = version.version
        if number in self._versions:
            return
        if not 1 <= number <= VERSION_MOST:
            raise PriceError(f"version {number} of the prices is not within 1 and {VERSION_MOST}")
        try:
            book = documents.book()
        except PriceError as error:
            raise PriceError(f"version {number} of the prices: {error}") from error
        self._keep(number, book)
        self._documents[number] = (
            self._compress(documents.listed),
            self._compress(documents.declared),
            self._compress(documents.contracts),
        )
        self._versions[number] = version
        self._order = sorted((known.takes_effect_ms, known.version) for known in self._versions.values())

    def version_at(self, appended_ms: int) -> int:
        """The version that prices a record.

        Raises
        ------
        LookupError
            No version is known.
        """
        if not self._order:
            raise LookupError("the ledger of prices holds no version")
        place = bisect_right(self._order, (appended_ms, VERSION_MOST))
        return self._order[place - 1][1] if place else min(self._versions)

    def at(self, appended_ms: int) -> tuple[int, PriceBook]:
        """The version that prices a record, and its book."""
        number = self.version_at(appended_ms)
        return number, self.book(number)

    def book(self, number: int) -> PriceBook:
        """The book of a known version."""
        book = self._books.pop(number, None)
        if book is None:
            book = self.documents(number).book()
        return self._keep(number, book)

    def documents(self, number: int) -> PriceDocuments:
        """The documents of a known version."""
        return PriceDocuments(*(zlib.decompress(self._compressed[key]) for key in self._documents[number]))

    def _keep(self, number: int, book: PriceBook) -> PriceBook:
        self._books[number] = book
        while len(self._books) > _BOOKS_KEPT:
            del self._books[next(iter(self._books))]  # the one that was used longest ago
        return book

    def _compress(self, document: bytes) -> bytes:
        key = hashlib.sha256(document).digest()
        if key not in self._compressed:
            self._compressed[key] = zlib.compress(document)
        return key


@cache
def package_ledger() -> PriceLedger:
    """The package's own prices, without contracts, as the only version. Nothing may be added to it."""
    return ledger_of([PriceDocuments.of_package()])


def ledger_of(documents: Sequence[PriceDocuments], takes_effect_ms: Sequence[int] = ()) -> PriceLedger:
    """A ledger of versions that take effect then, from 1; all at once where no times are given."""
    ledger = PriceLedger()
    times = takes_effect_ms or [0] * len(documents)
    for number, (content, at_ms) in enumerate(zip(documents, times, strict=True), 1):
        ledger.add(PriceVersion(version=number, made_ms=at_ms, takes_effect_ms=at_ms), content)
    return ledger
