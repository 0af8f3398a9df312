"""Prices as data: which price a call has, by provider, model, service tier, time and contract.

A :class:`PriceBook` holds two tables that ship with the package, and rows of the owner's own:

- ``price_data/genai_prices.json``, made from genai-prices (MIT) by ``make generate``;
- ``price_data/declared.toml``, kept by hand for what genai-prices lacks, every entry with its source and date;
- :class:`Contract` rows: negotiated prices, discounts, mark-ups, currencies, free deployments, and what an
  Azure deployment or a Bedrock profile really is.

:meth:`PriceBook.resolve` gives a :class:`Price`, in which everything is a plain integer, or an
:class:`Unpriced` with the reason and the nearest known names. A name that is not known is never
guessed. Nothing is fetched, and nothing here reads a clock.

For columns, resolve once for each distinct (provider, model, service tier, deployment, tenant,
segment) and evaluate ``Price.charges`` on the rows of each; :mod:`gatewatch.pricing` says how. Within a segment
(:meth:`PriceBook.segment`) no price of any model changes.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from functools import cache
from importlib import resources
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct

from gatewatch.model_name import SELF_HOSTED, fold, provider_alias, spellings, unresolvable

__all__ = [
    "PARTS",
    "Charge",
    "Contract",
    "Gap",
    "Price",
    "PriceBook",
    "PriceError",
    "Unpriced",
    "default_book",
    "standard_tier",
]

PARTS: Final = (
    "input",
    "cache_read",
    "cache_write",
    "cache_write_5m",
    "cache_write_1h",
    "output",
    "reasoning",
    "input_audio",
    "cache_audio_read",
    "output_audio",
    "input_image",
    "output_image",
    "tools",
    "request",
)
"""The parts of a cost, in the order in which :func:`gatewatch.money.nano_parts` rounds them."""

_DAY_MS: Final = 86_400_000
_MAX_NAME: Final = 512
_MEMO: Final = 1 << 14


class PriceError(ValueError):
    """A row of prices that cannot be used; the message says which and why."""


class Charge(Struct, frozen=True):
    """One line of a bill: a count, and what one of it costs."""

    part: str
    """The part of the cost that it belongs to, one of :data:`PARTS`."""
    name: str
    """What is counted, in words of :data:`PARTS`, or the name of a tool."""
    plus: tuple[str, ...]
    """The fields of usage whose sum, less those of ``minus``, is the count."""
    minus: tuple[str, ...] = ()
    constant: int = 0
    """Added to the count; 1 for what is charged by request."""
    rates: tuple[int, ...] = (0,)
    """Pico-USD for one, by context tier: as many as the price has thresholds, and one."""


class Gap(Struct, frozen=True):
    """A count that has no price here: where it is above zero, a cost is partial and leaves it out."""

    field: str
    reason: str


class Price(Struct, frozen=True, kw_only=True):
    """What the calls of one model cost, in one tier, within one span of time."""

    price_id: str
    provider: str
    model: str
    service_tier: str
    """``standard``, ``batch``, ``flex``, ``priority``, ..., as asked for."""
    tier_reason: str = ""
    """Where the tier's rates come from, where it is not the standard one."""
    thresholds: tuple[int, ...] = ()
    """Input tokens, cached ones included: a call with *more* pays the next tier's rate for all of its tokens."""
    charges: tuple[Charge, ...] = ()
    gaps: tuple[Gap, ...] = ()
    notes: tuple[str, ...] = ()
    """Why every cost at this price is partial, whatever was used."""
    tools: tuple[str, ...] = ()
    """Names of ``tool_requests`` that a charge or the fact that they are free covers."""
    expects: tuple[str, ...] = ()
    """Of ``input_tokens`` and ``output_tokens``, those that are charged: a cost without them is partial."""
    free: bool = False
    valid_from: str = ""
    """The day from which it holds (UTC), empty where the list does not say."""
    valid_to: str = ""
    """The day on which another price begins, empty where none is known."""
    daily: str = ""
    """The time of day in which it holds, UTC, where the price depends on it."""
    source: str = ""
    source_date: str = ""


class Unpriced(Struct, frozen=True):
    """No price, why, and the known names that are nearest."""

    reason: str
    nearest: tuple[str, ...] = ()


class Contract(Struct, frozen=True, kw_only=True):
    """A row of the owner's own. What is left empty holds for all.

    Four kinds of facts, each decided by the row that says most (tenant before deployment before model
    before provider before tier), and between equals by the row that begins or stands later:

    - ``same_as_model`` (and ``same_as_provider``): what a deployment, profile or alias really is;
    - ``free`` or ``rates``: a price of its own, for a self-hosted model or a negotiated one;
    - ``adjust_bp`` without a tenant: the provider's discount; then
    - ``adjust_bp`` with a tenant: the mark-up or discount that this tenant is charged.

    A rate that a currency or an adjustment makes finer than a pico-USD is rounded to the nearest whole
    one, half to even: at most half a millionth of a dollar in a million tokens.
    """

    contract_id: str
    tenant: str = ""
    provider: str = ""
    model: str = ""
    """The model as sent, or as the price list names it; a trailing ``*`` is any ending."""
    deployment: str = ""
    service_tier: str = ""
    valid_from_ms: int | None = None
    valid_to_ms: int | None = None
    same_as_model: str = ""
    same_as_provider: str = ""
    free: bool = False
    rates: dict[str, list[str]] = {}
    """Rate by name (``input``, ``cache_read``, ..., ``web_search``, ``request``): decimal strings, for a
    million tokens or for one request or search, as ``[rate]`` or ``[rate, above input tokens, rate, ...]``."""
    adjust_bp: int = 0
    """Basis points: -1500 is 15 % off, 500 is 5 % on top."""
    currency: str = "USD"
    usd_per_unit: str = "1"
    """What one unit of the currency costs, with ``rate_date``, the day of that rate."""
    rate_date: str = ""
    source: str = ""
    source_date: str = ""


# --- tables as they are read ----------------------------------------------------------------------

_Rate: TypeAlias = int | list[int]
_Clause: TypeAlias = Any  # a string, a list of clauses (any of them), or {"all": [...]}
_Rates: TypeAlias = dict[str, tuple[int, ...]]  # (rate, threshold, rate, ...)


class _Row(Struct, frozen=True):
    """Rates within a span of time; of several, the last that holds is taken."""

    rates: dict[str, _Rate]
    from_: str = msgspec.field(name="from", default="")
    daily: list[str] = []
    refused: list[str] = []
    tier: str = ""
    weekdays: bool = False
    source: str = ""


class _Model(Struct):
    id: str
    match: _Clause
    prices: list[_Row]
    tiers: list[_Row] = []
    source: str = ""
    source_date: str = ""


class _Provider(Struct):
    id: str
    models: list[_Model]
    host: str = ""
    match: _Clause = None
    fallback: list[str] = []
    sources: list[str] = []


class _About(Struct):
    name: str
    version: str
    licence: str
    url: str


class _Table(Struct):
    about: _About
    providers: list[_Provider]


class _Tier(Struct, frozen=True):
    """What a service tier costs where genai-prices does not say: a share of the standard rates."""

    provider: str
    tier: str
    models: _Clause
    share: str
    source: str
    date: str
    rates: list[str] = []
    """The rates that it applies to; empty for all rates of tokens."""
    from_: str = msgspec.field(name="from", default="")
    to: str = ""
    except_: list[str] = msgspec.field(name="except", default_factory=list)


class _Fee(Struct, frozen=True):
    """A fee of a built-in tool, by the name that it has in ``tool_requests``; ``web_search`` is ``web_searches``."""

    provider: str
    tool: str
    usd_per_thousand: str
    source: str
    date: str
    models: _Clause = None
    from_: str = msgspec.field(name="from", default="")
    to: str = ""


class _Lifetime(Struct, frozen=True):
    """What a cache write of one hour costs, as a share of the input rate."""

    provider: str
    models: _Clause
    share: str
    source: str
    date: str


class _Place(Struct, frozen=True):
    """What tokens cost where a call asks to be processed in one place, as a share of the rates."""

    provider: str
    place: str
    models: _Clause
    share: str
    source: str
    date: str


class _Weekdays(Struct, frozen=True):
    """Models whose times of day hold from Monday to Friday only."""

    provider: str
    models: _Clause
    source: str
    date: str


class _AddedRow(Struct, frozen=True):
    """A price that a model of the list lacks; dollars for a million tokens."""

    provider: str
    model: str
    rates: dict[str, str]
    source: str
    date: str
    from_: str = msgspec.field(name="from", default="")
    daily: list[str] = []


class _Free(Struct, frozen=True):
    provider: str
    models: _Clause
    source: str
    date: str


class _Added(Struct, frozen=True):
    """A model that genai-prices does not list; dollars for a million tokens."""

    provider: str
    model: str
    match: _Clause
    rates: dict[str, str]
    source: str
    date: str
    from_: str = msgspec.field(name="from", default="")


class _RequestFee(Struct, frozen=True):
    """A fee by request that depends on how much was searched."""

    provider: str
    models: _Clause
    usd_per_thousand: dict[str, str]
    source: str
    date: str


class _Declared(Struct, frozen=True):
    tier: list[_Tier] = []
    fee: list[_Fee] = []
    lifetime: list[_Lifetime] = []
    free: list[_Free] = []
    model: list[_Added] = []
    place: list[_Place] = []
    weekdays: list[_Weekdays] = []
    row: list[_AddedRow] = []
    request: list[_RequestFee] = []


def _is_match(clause: _Clause, name: str) -> bool:
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
                return _pattern(text).search(name) is not None
        raise PriceError(f"a match starts with one of = ^ $ ~ /, not as {clause!r} does")
    if isinstance(clause, list):
        return any(_is_match(part, name) for part in clause)
    return all(_is_match(part, name) for part in clause["all"])


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


def _exact_names(clause: _Clause) -> list[str]:
    if isinstance(clause, str):
        return [clause[1:]] if clause[0] == "=" else []
    parts = clause if isinstance(clause, list) else []
    return [name for part in parts for name in _exact_names(part)]


# --- rates ----------------------------------------------------------------------------------------

_TOKEN_RATES: Final = (
    "input",
    "cache_read",
    "cache_write",
    "cache_write_5m",
    "cache_write_1h",
    "output",
    "reasoning",
    "input_audio",
    "cache_audio_read",
    "output_audio",
    "input_image",
    "cache_image_read",
    "output_image",
    "input_video",
    "output_video",
)
# What a rate of genai-prices is called in usage.tool_requests by those who report it.
_TOOL_NAMES: Final = {
    "storage_search": ("file_search", "storage_search"),
    "social_search": ("x_search", "social_search"),
    "code_execution": ("code_execution", "code_interpreter"),
    "rerank_search": ("search_units", "rerank_search"),
}
# Sold by a unit that usage does not count.
_UNCOUNTED: Final = {
    "audio_hour": "hours of audio",
    "input_audio_hour": "hours of audio",
    "output_audio_hour": "hours of audio",
    "document_page": "pages",
    "annotated_page": "pages",
    "input_million_characters": "characters",
    "input_gigapixel": "pixels",
    "input_message": "messages",
}
# Sums of other tools' requests, which are charged by themselves or not at all.
_SUMS: Final = ("tool_calls_executed",)
_FIELD: Final = {
    "input": "input_tokens",
    "cache_read": "cache_read_tokens",
    "cache_write": "cache_write_tokens",
    "cache_write_5m": "cache_write_5m_tokens",
    "cache_write_1h": "cache_write_1h_tokens",
    "output": "output_tokens",
    "reasoning": "output_reasoning_tokens",
    "input_audio": "input_audio_tokens",
    "cache_audio_read": "cache_audio_read_tokens",
    "output_audio": "output_audio_tokens",
    "input_image": "input_image_tokens",
    "cache_image_read": "cache_image_read_tokens",
    "output_image": "output_image_tokens",
    "input_video": "input_video_tokens",
    "output_video": "output_video_tokens",
    "web_search": "web_searches",
}


def _steps(rate: _Rate) -> tuple[int, ...]:
    return (rate,) if isinstance(rate, int) else tuple(rate)


def _scaled(rate: tuple[int, ...], share: Fraction) -> tuple[int, ...]:
    """Every rate of the steps times a share, to the nearest whole pico-USD, half to even."""
    return tuple(round(value * share) if index % 2 == 0 else value for index, value in enumerate(rate))


def _by_tier(rate: tuple[int, ...], thresholds: Sequence[int]) -> tuple[int, ...]:
    """The rate in each of the price's context tiers."""
    found = [rate[0]]
    for threshold in thresholds:
        above = rate[0]
        for start, value in zip(rate[1::2], rate[2::2], strict=True):
            if start <= threshold:
                above = value
        found.append(above)
    return tuple(found)


def _charges(
    rates: _Rates, refused: Iterable[str], provider: str
) -> tuple[tuple[int, ...], list[Charge], list[Gap], list[str]]:
    """The charging policy: which counts are charged at which rate.

    Every token is charged once, at the rate of the most specific kind that it is and that has a rate of
    its own: a count without a rate is charged with the count that contains it. So a cache write costs
    what input costs where a provider charges nothing extra for it, and reasoning what output costs.
    ``docs/cost.md`` explains each.
    """
    rates = dict(rates)
    refused = set(refused)
    thresholds = tuple(sorted({start for rate in rates.values() for start in rate[1::2]}))
    charges: list[Charge] = []
    gaps: list[Gap] = []
    tools: list[str] = []

    def charge(part: str, name: str, plus: list[str], minus: list[str], rate: str) -> None:
        charges.append(Charge(part, name, tuple(plus), tuple(minus), 0, _by_tier(rates[rate], thresholds)))

    def gap(field: str, reason: str) -> None:
        gaps.append(Gap(field, reason))

    # --- input: what is taken out of it is charged elsewhere; what two kinds share was taken out twice.
    plus, minus = ["input_tokens"], []
    if "cache_read" in rates:
        minus.append("cache_read_tokens")
        own_reads = []
        if "input_audio" in rates:
            own_reads.append("cache_audio_read_tokens")
            rates.setdefault("cache_audio_read", rates["cache_read"])
            charge("cache_audio_read", "cache_audio_read", own_reads[-1:], [], "cache_audio_read")
        if "input_image" in rates:
            own_reads.append("cache_image_read_tokens")
            rates.setdefault("cache_image_read", rates["cache_read"])
            charge("cache_read", "cache_image_read", own_reads[-1:], [], "cache_image_read")
        charge("cache_read", "cache_read", ["cache_read_tokens"], own_reads, "cache_read")
        plus += own_reads
    elif "cache_read" in refused:
        minus.append("cache_read_tokens")
        gap("cache_read_tokens", "the price list's rate for cached input is finer than a pico-USD")
    for modality in ("audio", "image", "video"):
        if f"input_{modality}" in rates:
            field = f"input_{modality}_tokens"
            shared = f"cache_{modality}_read_tokens"
            minus.append(field)
            cached = [shared] if "cache_read" in rates and modality != "video" else []
            part = f"input_{modality}" if modality != "video" else "input"
            charge(part, f"input_{modality}", [field], cached, f"input_{modality}")
    if "cache_write" in rates or "cache_write" in refused:
        minus.append("cache_write_tokens")
        write_minus = []
        for lifetime in ("5m", "1h"):
            rate, field = f"cache_write_{lifetime}", f"cache_write_{lifetime}_tokens"
            # Five minutes are what a cache write is where the list does not say.
            if lifetime == "5m" and "cache_write" in rates:
                rates.setdefault(rate, rates["cache_write"])
            write_minus.append(field)
            if rate in rates:
                charge(rate, rate, [field], [], rate)
            else:
                gap(field, f"no price is known for cache writes that live for {_LIFETIMES[lifetime]}")
        if "cache_write" in rates:
            charge("cache_write", "cache_write", ["cache_write_tokens"], write_minus, "cache_write")
        else:
            gap("cache_write_tokens", "the price list's rate for cache writes is finer than a pico-USD")
    if "input" in rates:
        charge("input", "input", plus, minus, "input")
    else:
        finer = "is finer than a pico-USD" if "input" in refused else "is not known"
        gap("input_tokens", f"the price of input tokens {finer}")

    # --- output
    minus = ["output_reasoning_tokens"]
    for modality in ("audio", "image", "video"):
        if f"output_{modality}" in rates:
            field = f"output_{modality}_tokens"
            minus.append(field)
            part = f"output_{modality}" if modality != "video" else "output"
            charge(part, f"output_{modality}", [field], [], f"output_{modality}")
    if "output" in rates:
        rates.setdefault("reasoning", rates["output"])
        charge("output", "output", ["output_tokens"], minus, "output")
        charge("reasoning", "reasoning", ["output_reasoning_tokens"], [], "reasoning")
    else:
        finer = "is finer than a pico-USD" if "output" in refused else "is not known"
        gap("output_tokens", f"the price of output tokens {finer}")

    # --- by request
    if "web_search" in rates:
        charge("tools", "web_search", ["web_searches"], [], "web_search")
    else:
        gap("web_searches", f"no fee is known for web searches of {provider}")
    for rate in sorted(rates):
        if rate in _TOOL_NAMES or rate.startswith("tool:"):
            for tool in _TOOL_NAMES.get(rate, (rate[5:],)):
                if tool not in tools:
                    tools.append(tool)
                    charge("tools", tool, [f"tool_requests.{tool}"], [], rate)
    if "request" in rates:
        steps = _by_tier(rates["request"], thresholds)
        charges.append(Charge("request", "request", (), (), 1, steps))
    order = {part: index for index, part in enumerate(PARTS)}
    charges.sort(key=lambda line: order[line.part])
    return thresholds, charges, gaps, tools


_LIFETIMES: Final = {"5m": "five minutes", "1h": "an hour"}


# --- service tiers --------------------------------------------------------------------------------

_STANDARD: Final = frozenset(
    # "auto" is what a request may say; where an answer does not say more, the project's default served it.
    {"", "default", "standard", "auto", "on_demand", "ondemand", "standard_only", "none", "null"}
    | {"not_available", "traffic_type_unspecified", "unspecified", "service_tier_unspecified", "regular"}
)
_TIER_NAMES: Final = {
    "on_demand_flex": "flex",
    "on_demand_priority": "priority",
    "global_batch": "batch",
    "batch_api": "batch",
    "batches": "batch",
    "provisioned_throughput": "provisioned",
    "reserved": "provisioned",
}


def standard_tier(service_tier: str) -> str:
    """One name for a service tier: ``standard``, or ``batch``, ``flex``, ``priority``, ``scale``, ..."""
    name = re.sub(r"[\s-]+", "_", service_tier.strip().lower())
    return "standard" if name in _STANDARD else _TIER_NAMES.get(name, name)


_BOUGHT: Final = frozenset({"scale", "provisioned"})


# --- the book -------------------------------------------------------------------------------------


def _day_ms(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1000


def _minute_ms(text: str) -> int:
    hours, minutes = text.split(":")
    return (int(hours) * 60 + int(minutes)) * 60_000


def _holds(row: _Row, at_ms: int) -> bool:
    if row.from_ and at_ms < _day_ms(row.from_):
        return False
    if not row.daily:
        return True
    if row.weekdays and _is_weekend(at_ms):
        return False
    start, end = (_minute_ms(text) for text in row.daily)
    now = at_ms % _DAY_MS
    return start <= now < end if start <= end else now >= start or now < end


def _is_weekend(at_ms: int) -> bool:
    return (at_ms // _DAY_MS + 3) % 7 >= 5  # 1970 began on a Thursday


def _row_at(rows: list[_Row], at_ms: int) -> _Row:
    """The last row that holds; the first where none does."""
    return next((row for row in reversed(rows) if _holds(row, at_ms)), rows[0])


def _within(from_: str, to: str, at_ms: int) -> bool:
    return (not from_ or at_ms >= _day_ms(from_)) and (not to or at_ms < _day_ms(to))


class _Found(Struct, frozen=True):
    """A model of the price list."""

    provider: _Provider
    owner: _Provider
    model: _Model
    name: str
    route: str


class PriceBook:
    """All prices, and the rows of the owner's own.

    Parameters
    ----------
    contracts
        Rows that override, in the order in which they were made.

    Raises
    ------
    PriceError
        A contract that says nothing, or that cannot be computed.
    """

    def __init__(self, contracts: Sequence[Contract] = ()) -> None:
        table, declared = _tables()
        self._table = table
        self._declared = declared
        self._providers = {provider.id: provider for provider in table.providers}
        self._contracts = tuple(contracts)
        self._contract_rates = {row.contract_id: _contract_rates(row) for row in self._contracts}
        if len(self._contract_rates) != len(self._contracts):
            raise PriceError("two contracts have the same contract_id")
        for row in self._contracts:
            _check_contract(row)
        self._by_tenant = any(row.tenant for row in self._contracts)
        self._by_deployment = any(row.deployment for row in self._contracts)
        self.changes_ms, self.daily_changes_ms = self._changes()
        """Instants at which some price begins or ends, and times of day (from midnight, UTC) likewise."""
        self._memo: dict[tuple[str, str, str, str, str, int], Price | Unpriced] = {}
        self._found: dict[tuple[str, str], _Found | Unpriced] = {}
        self._placed: dict[tuple[str, str, str], tuple[Price, Price]] = {}

    @property
    def source(self) -> str:
        """The price list and its version, such as ``genai-prices 0.2.3``."""
        return f"{self._table.about.name} {self._table.about.version}"

    def segment(self, at_ms: int) -> int:
        """A number that is the same for all times between which no price changes.

        For a column, with ``day = 86_400_000``: ``(np.searchsorted(book.changes_ms, at_ms, "right") *
        (len(book.daily_changes_ms) + 1) + np.searchsorted(book.daily_changes_ms, at_ms % day, "right")) * 2
        + ((at_ms // day + 3) % 7 >= 5)``. Any time of a segment may stand for all of them.
        """
        daily = self.daily_changes_ms
        date_and_time = bisect_right(self.changes_ms, at_ms) * (len(daily) + 1) + bisect_right(
            daily, at_ms % _DAY_MS
        )
        return date_and_time * 2 + _is_weekend(at_ms)

    def resolve(
        self,
        provider: str,
        model: str,
        at_ms: int,
        service_tier: str = "",
        *,
        deployment: str = "",
        tenant: str = "",
    ) -> Price | Unpriced:
        """The price of a call.

        Parameters
        ----------
        provider, model
            As the gateway sends them, in any spelling that is in use.
        at_ms
            When the call was made, milliseconds since 1970 UTC: prices have dates and times of day.
        service_tier
            The tier that served the call, as the provider or the gateway names it; empty is standard.
        deployment, tenant
            For contracts only.

        Returns
        -------
        A price or the reason why there is none. Never raises for any strings. Memoised: the same arguments
        within a segment cost a look-up in a dictionary.
        """
        key = (
            provider,
            model,
            service_tier,
            deployment if self._by_deployment else "",
            tenant if self._by_tenant else "",
            self.segment(at_ms),
        )
        found = self._memo.get(key)
        if found is None:
            if len(self._memo) >= _MEMO:
                self._memo.clear()  # names come from outside: memory must not grow with them
            found = self._memo[key] = self._resolve(provider, model, at_ms, service_tier, deployment, tenant)
        return found

    def models(self, provider: str) -> list[str]:
        """The names of a provider's models in the price list; empty for a provider that is not known."""
        found = self._provider(provider)
        return [model.id for model in found.models] if isinstance(found, _Provider) else []

    # --- names

    def _provider(self, name: str) -> _Provider | str:
        """The provider who bills, or why it is not known."""
        text = name.strip().lower()
        if not text:
            return "no provider is named"
        if text in self._providers:
            return self._providers[text]
        alias = provider_alias(name)
        if alias is not None and alias in self._providers:
            return self._providers[alias]
        folded = fold(name)
        for provider in self._providers.values():
            if fold(provider.id) == folded:
                return provider
        if SELF_HOSTED.search(folded):
            return f"{name!r} is a server that somebody runs: a contract row can give it a price, or make it free"
        if "." in text:
            url = text if "://" in text else f"https://{text}"
            for provider in self._providers.values():
                if provider.host and _pattern(provider.host).match(url):
                    return provider
        for provider in self._providers.values():
            if provider.match is not None and _is_match(provider.match, text):
                return provider
        return f"the provider {name!r} is not known"

    def _find(self, provider_name: str, model_name: str) -> _Found | Unpriced:
        key = (provider_name, model_name)
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= _MEMO:
                self._found.clear()
            found = self._found[key] = self._look_up(provider_name, model_name)
        return found

    def _look_up(self, provider_name: str, model_name: str) -> _Found | Unpriced:
        if len(model_name) > _MAX_NAME or len(provider_name) > _MAX_NAME:
            return Unpriced(f"a name is longer than {_MAX_NAME} characters")
        if not model_name.strip():
            return Unpriced("no model is named")
        head, slash, rest = model_name.strip().partition("/")
        if fold(provider_name) in _ROUTERS:
            # The gateway is named, and the provider stands in the model's name.
            if not slash or isinstance(self._provider(head), str):
                return Unpriced(
                    f"{provider_name!r} is a gateway and {model_name!r} does not begin with a provider's name"
                )
            provider_name, model_name = head, rest
        provider = self._provider(provider_name)
        if isinstance(provider, str):
            near = difflib.get_close_matches(provider_name.strip().lower(), list(self._providers), 3, 0.5)
            return Unpriced(provider, tuple(near))
        private = unresolvable(model_name)
        if private is not None:
            return Unpriced(private)
        owners = {provider.id, *provider.fallback}

        def is_owner(prefix: str) -> bool:
            named = self._provider(prefix)
            return not isinstance(named, str) and named.id in owners

        names = spellings(model_name, is_owner)
        for name, route in names:
            for owner in (provider, *(self._providers[other] for other in provider.fallback)):
                for model in owner.models:
                    if _is_match(model.match, name):
                        return _Found(provider, owner, model, name, route)
        known = [model.id for model in provider.models]
        known += [name for model in provider.models for name in _exact_names(model.match)]
        for other in provider.fallback:
            known += [model.id for model in self._providers[other].models]
        hint = ""
        if provider.id == "azure":
            hint = "; a deployment's name needs a contract row that says which model it is"
        return Unpriced(
            f"{provider.id} has no model {model_name!r} in {self.source}{hint}",
            tuple(difflib.get_close_matches(names[-1][0], list(dict.fromkeys(known)), 3, 0.6)),
        )

    # --- prices

    def _resolve(
        self, provider: str, model: str, at_ms: int, service_tier: str, deployment: str, tenant: str
    ) -> Price | Unpriced:
        tier = standard_tier(service_tier)
        asked = {model.strip().lower(), *(name for name, _ in spellings(model, lambda _: False))}
        rows = [
            row
            for row in self._contracts
            if (row.valid_from_ms is None or at_ms >= row.valid_from_ms)
            and (row.valid_to_ms is None or at_ms < row.valid_to_ms)
            and (not row.tenant or row.tenant == tenant)
            and (not row.deployment or row.deployment in (deployment, model))
            and (not row.service_tier or standard_tier(row.service_tier) == tier)
            and (not row.provider or self._same_provider(row.provider, provider))
        ]
        alias = _best(rows, lambda row: bool(row.same_as_model) and _names(row, asked))
        if alias is not None:
            provider = alias.same_as_provider or provider
            model = alias.same_as_model
            asked |= {model.strip().lower()}
        found = self._find(provider, model)
        if isinstance(found, _Found):
            asked |= {found.name, found.model.id.lower()}
        own = _best(rows, lambda row: bool(row.free or row.rates) and _names(row, asked))
        if own is not None:
            price: Price | Unpriced = self._own_price(own, provider, model, tier)
        elif isinstance(found, Unpriced):
            return found
        else:
            price = self._listed_price(found, tier, at_ms)
        if isinstance(price, Unpriced):
            return price
        for with_tenant in (False, True):
            adjust = _best(
                rows, lambda row, w=with_tenant: bool(row.adjust_bp) and bool(row.tenant) == w and _names(row, asked)
            )
            if adjust is not None:
                price = _adjusted(price, adjust)
        return price

    def _same_provider(self, wanted: str, sent: str) -> bool:
        if fold(wanted) == fold(sent):
            return True
        one, other = self._provider(wanted), self._provider(sent)
        return isinstance(one, _Provider) and isinstance(other, _Provider) and one.id == other.id

    def _own_price(self, row: Contract, provider: str, model: str, tier: str) -> Price:
        rates = self._contract_rates[row.contract_id]
        thresholds, charges, gaps, tools = _charges(rates, (), provider)
        currency = "" if row.currency == "USD" else f" at {row.usd_per_unit} USD a {row.currency} ({row.rate_date})"
        return Price(
            price_id=f"contract:{row.contract_id}",
            provider=provider,
            model=model,
            service_tier=tier,
            thresholds=thresholds,
            charges=() if row.free else tuple(charges),
            gaps=() if row.free else tuple(gaps),
            tools=tuple(tools),
            expects=() if row.free else _expects(rates),
            free=row.free,
            valid_from=_day_of(row.valid_from_ms),
            valid_to=_day_of(row.valid_to_ms),
            source=(row.source or f"contract {row.contract_id}") + currency,
            source_date=row.source_date,
        )

    def _listed_price(self, found: _Found, tier: str, at_ms: int) -> Price | Unpriced:
        provider, owner, model = found.provider, found.owner, found.model
        price_id = f"{provider.id}/{model.id}" if provider is owner else f"{provider.id}/{owner.id}/{model.id}"
        row = _row_at(model.prices, at_ms)
        rates = {name: _steps(rate) for name, rate in row.rates.items()}
        refused = list(row.refused)
        notes = []
        tier_reason = ""
        listed = f"{self.source}, {owner.sources[0]}" if owner.sources else self.source
        source = row.source or model.source or listed
        free = next(
            (
                entry
                for entry in self._declared.free
                if entry.provider == provider.id and _is_match(entry.models, found.name)
            ),
            None,
        )
        if free is not None:
            return Price(
                price_id=price_id,
                provider=provider.id,
                model=model.id,
                service_tier=tier,
                free=True,
                source=free.source,
                source_date=free.date,
            )
        self._add_declared(found, rates, at_ms)
        if tier != "standard":
            tier_reason, tier_rates, tier_refused = self._tier_rates(found, tier, at_ms, rates)
            if tier_rates is None:
                notes.append(tier_reason)
                tier_reason = ""
            else:
                rates |= tier_rates
                refused = [name for name in refused if name not in tier_rates] + tier_refused
                for name in tier_refused:
                    rates.pop(name, None)
        if not any(name in rates for name in ("input", "output", "request", *_TOKEN_RATES)):
            units = sorted({_UNCOUNTED[name] for name in rates if name in _UNCOUNTED})
            if refused:
                return Unpriced(f"{price_id}: the rates in {self.source} are finer than a pico-USD")
            if units:
                return Unpriced(f"{price_id} is sold by {', '.join(units)}, which usage does not count")
            return Unpriced(f"{price_id} is in {self.source} without a price")
        units = sorted({_UNCOUNTED[name] for name in rates if name in _UNCOUNTED})
        notes += [f"it is also sold by {unit}, which usage does not count" for unit in units]
        if found.route in _OPEN_ROUTES:
            notes.append(f"the route :{found.route} {_OPEN_ROUTES[found.route]}")
        thresholds, charges, gaps, tools = _charges(rates, refused, provider.id)
        if row.from_:
            price_id += f"@{row.from_}"
        if tier != "standard" and not notes:
            price_id += f"+{tier}"
        if row.daily or any(other.daily for other in model.prices):
            price_id += f"~{'-'.join(row.daily) if row.daily else 'other hours'}"
        begins = [r.from_ for r in model.prices if r.from_] + [r.from_ for r in model.tiers if r.from_ and r.tier == tier]
        later = [day for day in begins if _day_ms(day) > at_ms]
        earlier = [day for day in begins if _day_ms(day) <= at_ms]
        return Price(
            price_id=price_id,
            provider=provider.id,
            model=model.id,
            service_tier=tier,
            tier_reason=tier_reason,
            thresholds=thresholds,
            charges=tuple(charges),
            gaps=tuple(gaps),
            notes=tuple(notes),
            tools=tuple(tools),
            expects=_expects(rates),
            valid_from=max(earlier, default=""),
            valid_to=min(later, default=""),
            daily="-".join(row.daily) if row.daily else ("other hours" if "~" in price_id else ""),
            source=source,
            source_date=model.source_date,
        )

    def _add_declared(self, found: _Found, rates: _Rates, at_ms: int) -> None:
        """What our own table knows of the model's standard price."""
        for life in self._declared.lifetime:
            if (
                life.provider == found.provider.id
                and "cache_write" in rates
                and "cache_write_1h" not in rates
                and _is_match(life.models, found.name)
            ):
                rates["cache_write_1h"] = _scaled(rates["input"], Fraction(life.share))
        for fee in self._declared.fee:
            name = "web_search" if fee.tool == "web_search" else f"tool:{fee.tool}"
            if (
                fee.provider == found.provider.id
                and name not in rates
                and _is_match(fee.models, found.name)
                and _within(fee.from_, fee.to, at_ms)
            ):
                rates[name] = (_per_thousand(fee.usd_per_thousand),)

    def _tier_rates(
        self, found: _Found, tier: str, at_ms: int, rates: _Rates
    ) -> tuple[str, _Rates | None, list[str]]:
        """A tier's rates, with where they come from, or why there are none."""
        if found.provider is found.owner:
            own: _Rates = {}
            refused: list[str] = []
            rows = [row for row in found.model.tiers if row.tier == tier and _holds(row, at_ms)]
            for row in rows:
                for name, rate in row.rates.items():
                    own.setdefault(name, _steps(rate))
                refused += row.refused
            if rows:
                since = f" from {rows[0].from_}" if rows[0].from_ else ""
                return f"{tier} rates of {self.source}{since}", own, refused
        for entry in self._declared.tier:
            if (
                entry.provider == found.provider.id
                and entry.tier == tier
                and _is_match(entry.models, found.name)
                and found.name not in entry.except_
                and _within(entry.from_, entry.to, at_ms)
            ):
                share = Fraction(entry.share)
                wanted = entry.rates or _TOKEN_RATES
                scaled = {name: _scaled(rate, share) for name, rate in rates.items() if name in wanted}
                return f"{tier}, {entry.share} of standard rates ({entry.source}, {entry.date})", scaled, []
        if tier in _BOUGHT:
            reason = f"the tier {tier!r} is capacity that was bought, not tokens; these are the standard rates"
        else:
            reason = (
                f"no price of the tier {tier!r} is known for {found.provider.id}/{found.model.id} at that time; "
                "these are the standard rates"
            )
        return reason, None, []

    def at_place(self, price: Price, model: str, place: str) -> Price:
        """The price where the call was processed in one place at the caller's wish (Anthropic's ``inference_geo``)."""
        key = (price.price_id, model, place)
        found = self._placed.get(key)
        if found is not None and found[0] is price:
            return found[1]
        placed = price
        for entry in self._declared.place:
            if entry.provider == price.provider and entry.place == place and _is_match(entry.models, model):
                reason = f"{entry.share} of it in {place} ({entry.source}, {entry.date})"
                placed = _multiplied(price, Fraction(entry.share), f"{price.price_id}/{place}", price.source)
                placed = msgspec.structs.replace(
                    placed, tier_reason=f"{price.tier_reason or price.service_tier + ' rates'}, {reason}"
                )
                break
        if len(self._placed) >= _MEMO:
            self._placed.clear()
        self._placed[key] = (price, placed)
        return placed

    def request_fee(self, price: Price, search_context: str) -> int | None:
        """Pico-USD of a request whose fee depends on how much was searched, where it is known."""
        for entry in self._declared.request:
            if entry.provider == price.provider and _is_match(entry.models, price.model):
                fee = entry.usd_per_thousand.get(search_context)
                return None if fee is None else _per_thousand(fee)
        return None

    def fee_depends(self, price: Price) -> bool:
        """Whether the fee of a request depends on how much was searched."""
        return any(
            entry.provider == price.provider and _is_match(entry.models, price.model)
            for entry in self._declared.request
        )

    def _changes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        days: set[str] = set()
        minutes: set[str] = set()
        for provider in self._table.providers:
            for model in provider.models:
                for row in (*model.prices, *model.tiers):
                    days.add(row.from_)
                    minutes.update(row.daily)
        for entry in (*self._declared.tier, *self._declared.fee):
            days |= {entry.from_, entry.to}
        days.discard("")
        at = {_day_ms(day) for day in days}
        for row in self._contracts:
            at |= {bound for bound in (row.valid_from_ms, row.valid_to_ms) if bound is not None}
        return tuple(sorted(at)), tuple(sorted(map(_minute_ms, minutes)))


_ROUTERS: Final = frozenset({"litellm", "litellm.proxy", "portkey", "helicone", "bifrost", "envoy", "gatewatch"})

_OPEN_ROUTES: Final = {
    "nitro": "may be served by a dearer provider than the list's",
    "floor": "may be served by a cheaper provider than the list's",
    "exacto": "may be served by a dearer provider than the list's",
    "online": "adds a fee for web results, which usage does not count",
}


def _expects(rates: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(f"{side}_tokens" for side in ("input", "output") if side in rates)


def _per_thousand(amount: str) -> int:
    exact = Decimal(amount) * 10**9
    if exact != int(exact) or exact < 0:
        raise PriceError(f"{amount} USD a thousand is negative or finer than a pico-USD each")
    return int(exact)


def _day_of(at_ms: int | None) -> str:
    return "" if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()


# --- contracts ------------------------------------------------------------------------------------


def _names(row: Contract, asked: set[str]) -> bool:
    wanted = row.model.strip().lower()
    if not wanted:
        return True
    if wanted.endswith("*"):
        return any(name.startswith(wanted[:-1]) for name in asked)
    return wanted in asked


def _best(rows: Iterable[Contract], wanted: Callable[[Contract], bool]) -> Contract | None:
    best: Contract | None = None
    best_key: tuple[object, ...] = ()
    for index, row in enumerate(rows):
        if wanted(row):
            key = (
                bool(row.tenant),
                bool(row.deployment),
                bool(row.model),
                not row.model.endswith("*"),
                bool(row.provider),
                bool(row.service_tier),
                row.valid_from_ms or 0,
                index,
            )
            if best is None or key > best_key:
                best, best_key = row, key
    return best


def _check_contract(row: Contract) -> None:
    if not row.contract_id:
        raise PriceError("a contract has no contract_id")
    says = (row.same_as_model, row.free, row.rates, row.adjust_bp)
    if not any(says):
        raise PriceError(f"contract {row.contract_id} says nothing: no rates, adjustment, model or free")
    if row.free and row.rates:
        raise PriceError(f"contract {row.contract_id} is free and has rates")
    if row.adjust_bp < -10_000:
        raise PriceError(f"contract {row.contract_id} takes more than the whole price off")
    if row.currency != "USD" and not (row.rate_date and row.rates):
        raise PriceError(f"contract {row.contract_id} is in {row.currency} without rates or without a rate_date")
    if row.valid_from_ms is not None and row.valid_to_ms is not None and row.valid_from_ms >= row.valid_to_ms:
        raise PriceError(f"contract {row.contract_id} ends before it begins")


def _contract_rates(row: Contract) -> _Rates:
    """A contract's rates in pico-USD; a rate in USD that is finer is refused."""
    try:
        exchange = Fraction(row.usd_per_unit)
    except (ValueError, ZeroDivisionError) as error:
        raise PriceError(f"contract {row.contract_id}: usd_per_unit is no decimal number") from error
    if exchange <= 0:
        raise PriceError(f"contract {row.contract_id}: usd_per_unit is not above zero")
    rates: _Rates = {}
    for name, steps in row.rates.items():
        if name not in _FIELD and name != "request" and not name.startswith("tool:"):
            raise PriceError(
                f"contract {row.contract_id}: {name!r} is no rate; there are {', '.join(_FIELD)}, request, tool:<name>"
            )
        if len(steps) % 2 == 0:
            raise PriceError(f"contract {row.contract_id}: {name} is not rate, threshold, rate, ...")
        each = 10**6 if name in _TOKEN_RATES else 10**12
        found: list[int] = []
        for index, step in enumerate(steps):
            try:
                value = Fraction(step) * (each * exchange if index % 2 == 0 else 1)
            except (ValueError, ZeroDivisionError) as error:
                raise PriceError(f"contract {row.contract_id}: {name} holds {step!r}, no number") from error
            if value < 0 or (index % 2 and (value != int(value) or (index > 1 and value <= found[-2]))):
                raise PriceError(f"contract {row.contract_id}: {name} is negative or its thresholds do not rise")
            if row.currency == "USD" and exchange == 1 and value != int(value):
                raise PriceError(f"contract {row.contract_id}: {name} is finer than a pico-USD")
            found.append(round(value))
        rates[name] = tuple(found)
    return rates


def _adjusted(price: Price, row: Contract) -> Price:
    share = Fraction(10_000 + row.adjust_bp, 10_000)
    percent = Decimal(row.adjust_bp) / 100
    source = f"{price.source}, {percent:+f} % by contract {row.contract_id}"
    return _multiplied(price, share, f"{price.price_id}*{row.contract_id}", source, tools=True)


def _multiplied(price: Price, share: Fraction, price_id: str, source: str, *, tools: bool = False) -> Price:
    """A price with all rates of tokens times a share, and those of tools and requests where asked for."""
    charges = tuple(
        msgspec.structs.replace(charge, rates=tuple(round(rate * share) for rate in charge.rates))
        if tools or charge.part not in ("tools", "request")
        else charge
        for charge in price.charges
    )
    return msgspec.structs.replace(price, price_id=price_id, charges=charges, source=source)


# --- loading --------------------------------------------------------------------------------------


@cache
def _tables() -> tuple[_Table, _Declared]:
    """The two tables of the package, read once."""
    folder = resources.files("gatewatch").joinpath("price_data")
    table = msgspec.json.decode(folder.joinpath("genai_prices.json").read_bytes(), type=_Table)
    declared = msgspec.convert(
        tomllib.loads(folder.joinpath("declared.toml").read_text("utf-8")), type=_Declared
    )
    providers = {provider.id: provider for provider in table.providers}
    for added in declared.model:
        row = _Row(_declared_rates(added), from_=added.from_)
        # First, so that it is not taken by a wider match of the list.
        providers[added.provider].models.insert(
            0, _Model(added.model, added.match, [row], source=added.source, source_date=added.date)
        )
    for extra in declared.row:
        model = next(model for model in providers[extra.provider].models if model.id == extra.model)
        # Behind what began before, in front of what begins later: the last row that holds is taken.
        place = sum(not known.from_ or known.from_ <= extra.from_ for known in model.prices)
        source = f"{extra.source} ({extra.date})"
        model.prices.insert(
            place, _Row(_declared_rates(extra), from_=extra.from_, daily=extra.daily, source=source)
        )
    for entry in declared.weekdays:
        for model in providers[entry.provider].models:
            if _is_match(entry.models, model.id):
                model.prices = [
                    msgspec.structs.replace(row, weekdays=True) if row.daily else row for row in model.prices
                ]
    return table, declared


def _declared_rates(entry: _Added | _AddedRow) -> dict[str, _Rate]:
    rates: dict[str, _Rate] = {}
    for name, amount in entry.rates.items():
        exact = Decimal(amount) * 10**6
        if name not in _TOKEN_RATES or exact != int(exact):
            raise PriceError(f"{entry.provider}/{entry.model}: {name} is no rate, or finer than a pico-USD")
        rates[name] = int(exact)
    return rates


@cache
def default_book() -> PriceBook:
    """The book without contracts, made once."""
    return PriceBook()
