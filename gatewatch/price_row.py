"""A price book as rows that people read: one for each rate, with its dates and where it comes from.

The rates are those that calls are charged, asked of the book for each model, tier and span of time. So a
rate that is another one's (reasoning at the output rate, writes of five minutes at the rate for writes) has a
row of its own. A model that another provider sells under its own name has rows with its owner only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from msgspec import Struct, structs

from gatewatch.charge import TOKEN_RATES
from gatewatch.contract import Contract, contract_rates
from gatewatch.price_book import Price, PriceBook
from gatewatch.price_table import DAY_MS, Model, Provider, is_weekend, minute_ms

__all__ = ["ADJUSTMENT", "FREE", "SAME_AS", "PriceRow", "price_rows"]

FREE: Final = "free"
ADJUSTMENT: Final = "adjustment"
SAME_AS: Final = "same_as"
_MILLION: Final = "million tokens"
_REQUEST: Final = "request"
_DATED: Final = re.compile(r"(\d{4}-\d{2}-\d{2})\)$")
"""The day at the end of a source that our own table names."""


class PriceRow(Struct, frozen=True, kw_only=True):
    """One rate."""

    provider: str
    model: str
    service_tier: str
    """Empty for a contract that is for all of them."""
    component: str
    """What is charged: ``input``, ``cache_read``, ..., ``request``, ``tool:web_search``; or ``free``; or, of
    a contract, ``adjustment`` or ``same_as``."""
    unit: str = ""
    """``million tokens`` or ``request``."""
    usd_per_unit: Decimal | None = None
    above_input_tokens: int = 0
    """The rate of calls with more input tokens than this."""
    daily: str = ""
    """The time of day (UTC) in which it holds, where the price depends on it."""
    valid_from_ms: int | None = None
    valid_to_ms: int | None = None
    tenant: str = ""
    deployment: str = ""
    contract_id: str = ""
    adjust_bp: int = 0
    """Basis points on top of the price: -1500 is 15 % off."""
    same_as: str = ""
    kind: str
    """``list``, ``declared`` or ``contract``."""
    source: str = ""
    source_date: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """What tells the rate from all others of its book."""
        return (
            self.provider, self.model, self.service_tier, self.component, self.tenant, self.deployment,
            self.contract_id, self.daily, f"{self.valid_from_ms or 0:020}", f"{self.above_input_tokens:020}",
        )  # fmt: skip


def price_rows(book: PriceBook) -> list[PriceRow]:
    """All rates of a book, contracts last; within both in the order of their keys."""
    listed = [
        row
        for provider in book.providers
        for model in provider.models
        for tier in book.listed_tiers(provider, model)
        for row in _listed(book, provider, model, tier)
    ]
    own = [row for contract in book.contracts for row in _contracted(contract)]
    # A list may name a model twice; calls get the first.
    unique = {row.key: row for row in reversed(listed)}
    return [unique[key] for key in sorted(unique)] + sorted(own, key=lambda row: row.key)


def _listed(book: PriceBook, provider: Provider, model: Model, tier: str) -> Iterator[PriceRow]:
    """The rates of one tier: of each, the spans of time in which it stays the same."""
    changes = book.listed_changes(provider, model)
    going: dict[tuple[str, int, str], PriceRow] = {}
    for start, end in zip((None, *changes), (*changes, None), strict=True):
        now: dict[tuple[str, int, str], PriceRow] = {}
        for at_ms in _moments(model, start, end):
            price = book.listed_price(provider, model, at_ms, tier)
            if isinstance(price, Price) and (tier == "standard" or price.tier_reason != "standard rates"):
                for row in _rates(price, book.source, start, model):
                    now[row.component, row.above_input_tokens, row.daily] = row
        for place, row in going.items():
            if place not in now or not _same(row, now[place]):
                yield structs.replace(row, valid_to_ms=start)
        going = {
            place: going[place] if place in going and _same(going[place], row) else row
            for place, row in now.items()
        }
    yield from going.values()


def _same(row: PriceRow, other: PriceRow) -> bool:
    return (row.usd_per_unit, row.kind, row.source) == (other.usd_per_unit, other.kind, other.source)


def _moments(model: Model, start: int | None, end: int | None) -> list[int]:
    """A moment for each time of day that a model's prices tell apart, in a span that begins at midnight."""
    slots = [[minute_ms(text) for text in row.daily] for row in model.prices if row.daily]
    first = start if start is not None else end - 7 * DAY_MS if end is not None else 0
    if not slots:
        return [first]
    days = [first + number * DAY_MS for number in range(7)]
    weekdays = [day for day in days if not is_weekend(day) and (end is None or day < end)]
    day = weekdays[0] if weekdays else first
    # The others are at the end of one of them, unless they leave no others.
    times = dict.fromkeys([begin for begin, _ in slots] + [close for _, close in slots])
    return [day + time for time in times]


def _rates(price: Price, listed: str, start: int | None, model: Model) -> Iterator[PriceRow]:
    of_list = price.source.startswith(listed)
    source = price.source
    if price.tier_reason:
        of_list = price.tier_reason.startswith(f"{price.service_tier} rates of {listed}")
        source = price.source if of_list else price.tier_reason
    daily = price.daily
    if daily[:1].isdigit() and any(row.weekdays for row in model.prices):
        daily += " Mon-Fri"

    def row(component: str, unit: str, usd: Decimal, above: int, own: str) -> PriceRow:
        named = own or source
        dated = _DATED.search(named)
        return PriceRow(
            provider=price.provider,
            model=price.model,
            service_tier=price.service_tier,
            component=component,
            unit=unit,
            usd_per_unit=usd,
            above_input_tokens=above,
            daily=daily,
            valid_from_ms=start,
            kind="list" if of_list and not own else "declared",
            source=named,
            source_date=dated[1] if dated else price.source_date,
        )

    if price.free:
        yield row(FREE, _REQUEST, Decimal(0), 0, "")
        return
    for charge in price.charges:
        by_request = charge.part in ("tools", "request")
        component = f"tool:{charge.name}" if charge.part == "tools" else charge.name
        before = None
        for above, pico in zip((0, *price.thresholds), charge.rates, strict=True):
            if pico != before:
                yield row(component, *_unit(pico, by_request), above, charge.source)
            before = pico


def _unit(pico: int, by_request: bool) -> tuple[str, Decimal]:
    """A rate in pico-USD for one as its unit and the exact dollars for that."""
    return (_REQUEST, Decimal(pico).scaleb(-12)) if by_request else (_MILLION, Decimal(pico).scaleb(-6))


def _contracted(contract: Contract) -> Iterator[PriceRow]:
    currency = "" if contract.currency == "USD" else (
        f" at {contract.usd_per_unit} USD a {contract.currency} ({contract.rate_date})"
    )  # fmt: skip
    base = PriceRow(
        provider=contract.provider,
        model=contract.model,
        service_tier=contract.service_tier,
        component="",
        valid_from_ms=contract.valid_from_ms,
        valid_to_ms=contract.valid_to_ms,
        tenant=contract.tenant,
        deployment=contract.deployment,
        contract_id=contract.contract_id,
        kind="contract",
        source=(contract.source or f"contract {contract.contract_id}") + currency,
        source_date=contract.source_date,
    )
    for name, steps in contract_rates(contract).items():
        component = f"tool:{name}" if name == "web_search" else name
        for above, pico in zip((0, *steps[1::2]), steps[::2], strict=True):
            unit, usd = _unit(pico, name not in TOKEN_RATES)
            yield structs.replace(
                base, component=component, unit=unit, usd_per_unit=usd, above_input_tokens=above
            )
    if contract.free:
        yield structs.replace(base, component=FREE, unit=_REQUEST, usd_per_unit=Decimal(0))
    if contract.adjust_bp:
        yield structs.replace(base, component=ADJUSTMENT, adjust_bp=contract.adjust_bp)
    if contract.same_as_model:
        named = "/".join(name for name in (contract.same_as_provider, contract.same_as_model) if name)
        yield structs.replace(base, component=SAME_AS, same_as=named)
