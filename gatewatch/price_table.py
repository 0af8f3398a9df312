"""The price tables, as they are read from their two documents.

The list is JSON, made from genai-prices (MIT), a model a line; the declared table is what is kept by hand for
what the list lacks. The package has one of each: ``price_data/genai_prices.json``, made by ``make generate``,
and ``price_data/declared.toml``. The ledger of prices (:mod:`gatewatch.price_ledger`) has others. Fields that
this release does not know are ignored: a list may come from a later one.
"""

from __future__ import annotations

import re
import tomllib
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct

from gatewatch.charge import TOKEN_RATES, Rate

__all__ = [
    "DAY_MS",
    "Clause",
    "Declared",
    "Model",
    "PriceError",
    "Provider",
    "Row",
    "Table",
    "day_ms",
    "exact_names",
    "fixed_rate",
    "holds",
    "is_match",
    "is_weekend",
    "minute_ms",
    "package_documents",
    "pattern",
    "per_thousand",
    "read_tables",
    "row_at",
    "tables",
    "within",
]

DAY_MS: Final = 86_400_000

Clause: TypeAlias = Any
"""A text with its kind in front (``=equals ^starts $ends ~contains /expression``), a list of clauses of which
any is enough, or ``{"all": [...]}``."""


class PriceError(ValueError):
    """A row of prices that cannot be used; the message says which and why."""


class Row(Struct, frozen=True):
    """Rates within a span of time; of several, the last that holds is taken."""

    rates: dict[str, Rate]
    from_: str = msgspec.field(name="from", default="")
    daily: list[str] = []
    refused: list[str] = []
    tier: str = ""
    weekdays: bool = False
    source: str = ""


class Model(Struct):
    """A model and its prices; those of a tier name the rates that differ from the standard ones."""

    id: str
    match: Clause
    prices: list[Row]
    tiers: list[Row] = []
    source: str = ""
    source_date: str = ""


class Provider(Struct):
    """A provider, the names and hosts that it goes by, and others whose models it sells."""

    id: str
    models: list[Model]
    host: str = ""
    match: Clause = None
    fallback: list[str] = []
    sources: list[str] = []


class About(Struct):
    name: str
    version: str
    licence: str
    url: str


class Table(Struct):
    """``genai_prices.json``."""

    about: About
    providers: list[Provider]


class Tier(Struct, frozen=True):
    """What a service tier costs where genai-prices does not say: a share of the standard rates."""

    provider: str
    tier: str
    models: Clause
    share: str
    source: str
    date: str
    rates: list[str] = []
    """The rates that it applies to; empty for all rates of tokens."""
    fixed: dict[str, list[str]] = {}
    """Rates published otherwise: dollars for a million, as ``[rate, above input tokens, rate, ...]``."""
    from_: str = msgspec.field(name="from", default="")
    to: str = ""
    except_: list[str] = msgspec.field(name="except", default_factory=list)


class Fee(Struct, frozen=True):
    """A fee of a built-in tool, by its name in ``tool_requests``; ``web_search`` is ``web_searches``."""

    provider: str
    tool: str
    usd_per_thousand: str
    source: str
    date: str
    models: Clause = None
    from_: str = msgspec.field(name="from", default="")
    to: str = ""


class Lifetime(Struct, frozen=True):
    """What a cache write of one hour costs, as a share of the input rate."""

    provider: str
    models: Clause
    share: str
    source: str
    date: str


class Place(Struct, frozen=True):
    """What tokens cost where a call asks to be processed in one place, as a share of the rates."""

    provider: str
    place: str
    models: Clause
    share: str
    source: str
    date: str


class Weekdays(Struct, frozen=True):
    """Models whose times of day hold from Monday to Friday only."""

    provider: str
    models: Clause
    source: str
    date: str


class AddedRow(Struct, frozen=True):
    """A price that a model of the list lacks; dollars for a million tokens."""

    provider: str
    model: str
    rates: dict[str, str]
    source: str
    date: str
    from_: str = msgspec.field(name="from", default="")
    daily: list[str] = []


class Free(Struct, frozen=True):
    provider: str
    models: Clause
    source: str
    date: str


class Added(Struct, frozen=True):
    """A model that genai-prices does not list; dollars for a million tokens."""

    provider: str
    model: str
    match: Clause
    rates: dict[str, str]
    source: str
    date: str
    from_: str = msgspec.field(name="from", default="")


class RequestFee(Struct, frozen=True):
    """A fee by request that depends on how much was searched."""

    provider: str
    models: Clause
    usd_per_thousand: dict[str, str]
    source: str
    date: str


class Declared(Struct, frozen=True):
    """``declared.toml``."""

    tier: list[Tier] = []
    fee: list[Fee] = []
    lifetime: list[Lifetime] = []
    free: list[Free] = []
    model: list[Added] = []
    place: list[Place] = []
    weekdays: list[Weekdays] = []
    row: list[AddedRow] = []
    request: list[RequestFee] = []


def is_match(clause: Clause, name: str) -> bool:
    """Whether a name, in lower case, meets a clause; no clause is met by all."""
    if clause is None:
        return True
    if isinstance(clause, str):
        kind, text = clause[0], clause[1:]
        match kind:
            case "=":
                return name == text
            case "^":
                return name.startswith(text)
            case "$":
                return name.endswith(text)
            case "~":
                return text in name
            case "/":
                return pattern(text).search(name) is not None
        raise PriceError(f"a match starts with one of = ^ $ ~ /, not as {clause!r} does")
    if isinstance(clause, list):
        return any(is_match(part, name) for part in clause)
    return all(is_match(part, name) for part in clause["all"])


@cache
def pattern(text: str) -> re.Pattern[str]:
    """A regular expression of the tables, compiled once."""
    return re.compile(text)


def exact_names(clause: Clause) -> list[str]:
    """The whole names that a clause lists: what a person may have meant."""
    if isinstance(clause, str):
        return [clause[1:]] if clause[0] == "=" else []
    parts = clause if isinstance(clause, list) else []
    return [name for part in parts for name in exact_names(part)]


def day_ms(day: str) -> int:
    """The beginning of a day, UTC, in milliseconds since 1970."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1000


def minute_ms(text: str) -> int:
    """A time of day in milliseconds since midnight."""
    hours, minutes = text.split(":")
    return (int(hours) * 60 + int(minutes)) * 60_000


def holds(row: Row, at_ms: int) -> bool:
    """Whether a price holds at a time."""
    if row.from_ and at_ms < day_ms(row.from_):
        return False
    if not row.daily:
        return True
    if row.weekdays and is_weekend(at_ms):
        return False
    start, end = (minute_ms(text) for text in row.daily)
    now = at_ms % DAY_MS
    return start <= now < end if start <= end else now >= start or now < end


def is_weekend(at_ms: int) -> bool:
    """Whether a time is on a Saturday or Sunday, UTC."""
    return (at_ms // DAY_MS + 3) % 7 >= 5  # 1970 began on a Thursday


def row_at(rows: list[Row], at_ms: int) -> Row:
    """The last row that holds; the first where none does."""
    return next((row for row in reversed(rows) if holds(row, at_ms)), rows[0])


def within(from_: str, to: str, at_ms: int) -> bool:
    """Whether a time is in a span of days, of which either end may be open."""
    return (not from_ or at_ms >= day_ms(from_)) and (not to or at_ms < day_ms(to))


def fixed_rate(steps: list[str]) -> tuple[int, ...]:
    """Pico-USD a token, from dollars for a million, with thresholds between them."""
    values = [Decimal(step) * (10**6 if index % 2 == 0 else 1) for index, step in enumerate(steps)]
    if any(value != int(value) or value < 0 for value in values) or len(values) % 2 == 0:
        raise PriceError(f"{steps} are no whole pico-USD with thresholds between them")
    return tuple(map(int, values))


def per_thousand(amount: str) -> int:
    """Pico-USD for one, from dollars for a thousand."""
    exact = Decimal(amount) * 10**9
    if exact != int(exact) or exact < 0:
        raise PriceError(f"{amount} USD a thousand is negative or finer than a pico-USD each")
    return int(exact)


@cache
def package_documents() -> tuple[bytes, bytes]:
    """The list and the declared table of the package, both as JSON."""
    folder = resources.files("gatewatch").joinpath("price_data")
    declared = tomllib.loads(folder.joinpath("declared.toml").read_text("utf-8"))
    return folder.joinpath("genai_prices.json").read_bytes(), msgspec.json.encode(declared)


@cache
def tables() -> tuple[Table, Declared]:
    """The two tables of the package, read once."""
    return read_tables(*package_documents())


def read_tables(listed: bytes, declared_json: bytes) -> tuple[Table, Declared]:
    """A list and a declared table, the second's models and rows put among those of the first.

    What the declared table says of a provider or model that the list does not have is left out: its calls are
    unpriced, and say so.

    Raises
    ------
    PriceError
        A document is not what it should be; the message says where.
    """
    try:
        table = msgspec.json.decode(listed, type=Table)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PriceError(f"the price list cannot be read: {error}") from error
    try:
        declared = msgspec.json.decode(declared_json, type=Declared)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PriceError(f"the declared table cannot be read: {error}") from error
    providers = {provider.id: provider for provider in table.providers}
    for provider in table.providers:
        provider.fallback = [other for other in provider.fallback if other in providers]
    for added in declared.model:
        row = Row(_declared_rates(added), from_=added.from_)
        if added.provider in providers:
            # First, so that it is not taken by a wider match of the list.
            providers[added.provider].models.insert(
                0, Model(added.model, added.match, [row], source=added.source, source_date=added.date)
            )
    for extra in declared.row:
        model = _model_of(providers, extra)
        if model is None:
            continue
        # Behind what began before, in front of what begins later: the last row that holds is taken.
        place = sum(not known.from_ or known.from_ <= extra.from_ for known in model.prices)
        source = f"{extra.source} ({extra.date})"
        model.prices.insert(
            place, Row(_declared_rates(extra), from_=extra.from_, daily=extra.daily, source=source)
        )
    for entry in declared.weekdays:
        for model in providers[entry.provider].models if entry.provider in providers else ():
            if is_match(entry.models, model.id):
                model.prices = [
                    msgspec.structs.replace(row, weekdays=True) if row.daily else row for row in model.prices
                ]
    return table, declared


def _model_of(providers: dict[str, Provider], row: AddedRow) -> Model | None:
    models = providers[row.provider].models if row.provider in providers else []
    return next((model for model in models if model.id == row.model), None)


def _declared_rates(entry: Added | AddedRow) -> dict[str, Rate]:
    rates: dict[str, Rate] = {}
    for name, amount in entry.rates.items():
        exact = Decimal(amount) * 10**6
        if name not in TOKEN_RATES or exact != int(exact):
            raise PriceError(f"{entry.provider}/{entry.model}: {name} is no rate, or finer than a pico-USD")
        rates[name] = int(exact)
    return rates
