"""Charges: what calls of one day or hour cost, as rows of :data:`sinks.focus.column.WRITTEN`.

The engine groups the calls by who made them, what they called and how they were priced. Each group becomes
one row a line of its bill: the price book says which counts are charged at which rate, and the cost that is
stored with the calls says what these lines cost. Both must agree to within the rounding of each call; where
they do not, because the calls were priced by other prices, the stored cost stands, in rows without a unit
price. So the rows always sum to ``cost_usd`` of the view ``calls``, to the nano-dollar.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct, field

from gatewatch.charge import PARTS, Charge
from gatewatch.money import PICO_PER_NANO, half_even
from gatewatch.price_book import Price, PriceBook, Unpriced, standard_tier
from signals.column import CALL_COLUMNS
from signals.cost import COLUMNS as COST_COLUMNS
from sinks.clickhouse import Sink
from sinks.focus.column import TAG_PREFIX, WRITTEN
from sinks.schema import VIEWS

__all__ = ["ALL_TAGS", "ExportError", "Grain", "Row", "Summary", "charges", "periods"]

Grain: TypeAlias = Literal["day", "hour"]
Row: TypeAlias = tuple[Any, ...]
"""Values in the order of :data:`sinks.focus.column.WRITTEN`: text, Decimal, an aware datetime, or None."""

ALL_TAGS: Final = "*"

_EXACT: Final = Context(prec=120)
_GROUPS: Final = 50_000
"""Groups that are read at once; a period with more is read in slices."""
_ROWS: Final = 20_000
"""Rows that are given at once, or a few more."""
_STEP: Final = {"day": timedelta(days=1), "hour": timedelta(hours=1)}
_DAY_MS: Final = 86_400_000
_TOKENS: Final = tuple(column.name for column in CALL_COLUMNS if column.encoding == "tokens")


class ExportError(Exception):
    """The rows would not sum to the calls' cost; nothing that was written may be used."""


class Summary(Struct):
    """What is in the rows, and what is not; costs in nano-USD."""

    rows: int = 0
    cost_nano_usd: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    """By ``cost_status``; the empty one is calls that have not ended."""
    unpriced: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Calls without a price, by provider and model. They are in no row."""
    unpriced_tokens: int = 0
    no_unit_price_nano_usd: int = 0
    """Cost in rows that are priced in dollars, reported costs aside."""


class _Group(Struct, frozen=True):
    """Calls that differ in nothing that a row tells apart."""

    gateway: str
    environment: str
    provider: str
    model: str
    deployment: str
    service_tier: str
    tenant: str
    team: str
    key_alias: str
    tags: str
    cost_status: str
    price_id: str
    segment: int
    context: int
    calls: int
    at: datetime
    cost: Decimal | None
    details: Mapping[str, Decimal]
    tools: Mapping[str, int]
    amounts: tuple[Decimal, ...]
    """By column of :data:`signals.cost.COLUMNS`."""
    tokens: tuple[int, ...]
    """By column of ``_TOKENS``."""


class _Line(Struct, frozen=True):
    """A line of a bill; rates in pico-USD for one of what is counted."""

    meter: str
    unit: Literal["Tokens", "Requests"]
    quantity: int
    nano_usd: int
    rate: int = 0
    listed_rate: int = 0
    condition: str = ""
    """The context tier that the rate holds for, where the price has several."""
    has_rate: bool = True


def periods(start: datetime, end: datetime, grain: Grain) -> list[tuple[datetime, datetime]]:
    """The days or hours of a time, in order.

    >>> len(periods(datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC), "hour"))
    672
    """
    found = []
    while start < end:
        found.append((start, start + _STEP[grain]))
        start += _STEP[grain]
    return found


def charges(
    sink: Sink,
    start: datetime,
    end: datetime,
    *,
    book: PriceBook,
    listed: PriceBook,
    summary: Summary,
    issuer: str = "gatewatch",
    billing_account: str = "gatewatch",
    tags: Sequence[str] = (),
) -> Iterator[list[Row]]:
    """The rows of one charge period, some at a time, always in the same order.

    Parameters
    ----------
    start, end
        One day or hour, UTC; see :func:`periods`.
    book, listed
        The prices with and without contracts: contracted and list unit prices.
    summary
        What was found is added to it.
    tags
        Keys of the calls' tags that rows tell apart, ``*`` for all.

    Raises
    ------
    ExportError
        The rows do not sum to the cost of the calls.
    SinkError
        ClickHouse refused or did not answer.
    """
    source = _Source(sink, start, end, tags, book, listed)
    whose = _Bill(start, end, issuer, billing_account)
    for slice_ in range(source.slices):
        rows: list[Row] = []
        for group in source.groups(slice_):
            summary.calls[group.cost_status] += group.calls
            if group.cost is None:
                if group.cost_status == "unpriced":
                    summary.unpriced[group.provider, group.model] += group.calls
                    summary.unpriced_tokens += sum(
                        count
                        for name, count in zip(_TOKENS, group.tokens, strict=True)
                        if name in ("input_tokens", "output_tokens")
                    )
                continue
            at_ms = int(group.at.replace(tzinfo=UTC).timestamp() * 1000)
            asked = (group.provider, group.model, at_ms, group.service_tier)
            price = book.resolve(*asked, deployment=group.deployment, tenant=group.tenant)
            list_price = listed.resolve(*asked, deployment=group.deployment, tenant=group.tenant)
            cost = _nano(group.cost)
            lines = _LINES.get(group.cost_status, _priced)(group, price, list_price, source.thresholds, cost)
            if sum(line.nano_usd for line in lines) != cost:
                raise ExportError(
                    f"rows of {group.provider}/{group.model} of {start:%Y-%m-%dT%H:%MZ} do not sum to the "
                    "cost of their calls: this is a mistake in gatewatch, please report it"
                )
            rows.extend(whose.rows(group, price, lines))
            if group.cost_status != "provider_reported":
                summary.no_unit_price_nano_usd += sum(line.nano_usd for line in lines if not line.has_rate)
            summary.cost_nano_usd += cost
            if len(rows) >= _ROWS:
                summary.rows += len(rows)
                yield rows
                rows = []
        summary.rows += len(rows)
        if rows:
            yield rows


# -- what is read ------------------------------------------------------------------------------


class _Source:
    """The groups of one period."""

    def __init__(
        self,
        sink: Sink,
        start: datetime,
        end: datetime,
        tags: Sequence[str],
        book: PriceBook,
        listed: PriceBook,
    ) -> None:
        self._sink = sink
        first, last = int(start.timestamp() * 1000), int(end.timestamp() * 1000)
        self._parameters: dict[str, Any] = {
            "first": first,
            "last": last,
            "tags": list(tags),
            "changes": [at for at in book.changes_ms if first < at < last],
            "daily": list(book.daily_changes_ms),
        }
        chosen = (
            "tags"
            if ALL_TAGS in tags
            else "mapFilter((k, v) -> has({tags:Array(String)}, k), tags)"
            if tags
            else "mapFilter((k, v) -> 0, tags)"
        )
        *keys, context = (key.replace("TAGS", chosen) for key in _KEYS)
        self._keys = ", ".join([*keys, context])
        groups = 0
        found: set[int] = set()
        for *asked, at, size in sink.rows(
            "SELECT provider, model, service_tier, deployment, tenant, min(started_at), "
            f"uniq({', '.join(keys)}) FROM {VIEWS}.calls WHERE {_WITHIN} "
            f"GROUP BY provider, model, service_tier, deployment, tenant, {_SEGMENT}",
            self._parameters,
        ):
            groups += int(size)
            provider, model, tier, deployment, tenant = map(str, asked)
            at_ms = int(at.replace(tzinfo=UTC).timestamp() * 1000)
            for prices in (book, listed):
                price = prices.resolve(provider, model, at_ms, tier, deployment=deployment, tenant=tenant)
                if isinstance(price, Price):
                    found.update(price.thresholds)
        self.thresholds: Final = tuple(sorted(found))
        self._parameters["thresholds"] = list(self.thresholds)
        self.slices = -(-groups // _GROUPS)

    def groups(self, slice_: int) -> Iterator[_Group]:
        """One of ``slices`` parts of the groups, in the order of their keys."""
        within = _WITHIN
        if self.slices > 1:
            within += " AND cityHash64(tenant, team, key_alias, model) % {slices:UInt64} = {slice:UInt64}"
        sums = ", ".join(f"sum(toUInt256(ifNull({name}, 0))) AS sum_of_{name}" for name in _TOKENS)
        amounts = ", ".join(f"sum(ifNull({name}_usd, 0)) AS sum_of_{name}" for name in COST_COLUMNS)
        order = ", ".join(str(n + 1) for n in range(len(_KEYS)))
        for row in self._sink.rows(
            f"SELECT {self._keys}, count() AS number, min(started_at) AS earliest, sum(cost_usd) AS cost, "
            "sumMap(cost_details_usd) AS details, sumMap(tool_requests) AS tools, "
            f"{amounts}, {sums} FROM {VIEWS}.calls WHERE {within} GROUP BY {order} ORDER BY {order}",
            self._parameters | {"slices": self.slices, "slice": slice_},
        ):
            scalars = len(_KEYS) + 5
            amount = row[scalars : scalars + len(COST_COLUMNS)]
            tokens = row[scalars + len(COST_COLUMNS) :]
            values: list[Any] = [*row[:scalars], tuple(amount), tuple(map(int, tokens))]
            yield _Group(*values)


_WITHIN: Final = (
    "started_at >= fromUnixTimestamp64Milli({first:Int64}, 'UTC') "
    "AND started_at < fromUnixTimestamp64Milli({last:Int64}, 'UTC')"
)
# As PriceBook.segment: within one of them, no price changes.
_SEGMENT: Final = (
    f"arrayCount(x -> x <= toUnixTimestamp64Milli(started_at), {{changes:Array(Int64)}}) * 1000 "
    f"+ arrayCount(x -> x <= toUnixTimestamp64Milli(started_at) % {_DAY_MS}, {{daily:Array(Int64)}})"
)
_KEYS: Final = (
    *("gateway", "environment", "provider", "model", "deployment", "service_tier"),
    *("tenant", "team", "key_alias"),
    "toJSONString(mapSort(TAGS)) AS chosen_tags",
    *("cost_status", "price_id"),
    f"{_SEGMENT} AS price_segment",
    "arrayCount(x -> ifNull(input_tokens, 0) > x, {thresholds:Array(UInt64)}) AS context",
)


# -- lines of a bill ---------------------------------------------------------------------------


def _priced(
    group: _Group,
    price: Price | Unpriced,
    list_price: Price | Unpriced,
    thresholds: Sequence[int],
    cost: int,
) -> list[_Line]:
    lines = None
    if isinstance(price, Price) and price.price_id == group.price_id:
        lines = _by_price(group, price, list_price, thresholds)
    return _by_cost(group) if lines is None else lines


def _by_price(
    group: _Group, price: Price, list_price: Price | Unpriced, thresholds: Sequence[int]
) -> list[_Line] | None:
    """A line for each count that is charged; None where the price does not explain the cost."""
    stored = _parts(group)
    if stored is None:
        return None
    passed = thresholds[: group.context]
    tier = sum(threshold in passed for threshold in price.thresholds)
    condition = _condition(price, tier)
    listed = _listed_rates(list_price, passed)
    counts = dict(zip(_TOKENS, group.tokens, strict=True))
    counts |= {f"tool_requests.{name}": int(asked) for name, asked in group.tools.items()}
    by_part: dict[str, list[tuple[Charge, int, int]]] = {}
    for charge in price.charges:
        quantity = _quantity(charge, counts, group.calls)
        if quantity < 0:
            return None
        if quantity:
            by_part.setdefault(charge.part, []).append((charge, quantity, charge.rates[tier]))
    lines: list[_Line] = []
    for part in PARTS:
        charged = by_part.get(part, [])
        nano = stored.get(part, 0)
        pico = sum(quantity * rate for _, quantity, rate in charged)
        # The part of each call is less than a nano-dollar from what it is exactly.
        if nano != 0 and not charged:
            return None
        if charged and abs(nano * PICO_PER_NANO - pico) >= group.calls * PICO_PER_NANO:
            return None
        exact = before = 0
        for index, (charge, quantity, rate) in enumerate(charged):
            exact += quantity * rate
            until = nano if index + 1 == len(charged) else min(nano, half_even(exact, PICO_PER_NANO))
            lines.append(
                _Line(
                    meter=_meter(charge.name, charge.part),
                    unit="Requests" if part in ("tools", "request") else "Tokens",
                    quantity=quantity,
                    nano_usd=until - before,
                    rate=rate,
                    listed_rate=listed.get(_counted(charge), rate),
                    condition=condition,
                )
            )
            before = until
    return lines or [_Line("Requests", "Requests", group.calls, 0)]


def _parts(group: _Group) -> dict[str, int] | None:
    """The stored cost by part; None where what is told apart does not sum to its column."""
    details = {part: _nano(amount) for part, amount in group.details.items()}
    stored: dict[str, int] = {}
    for parts, amount in zip(COST_COLUMNS.values(), group.amounts, strict=True):
        if len(parts) == 1:
            stored[parts[0]] = _nano(amount)
        elif sum(details.get(part, 0) for part in parts) != _nano(amount):
            return None
        else:
            stored |= {part: details.get(part, 0) for part in parts}
    return stored


def _by_cost(group: _Group) -> list[_Line]:
    """A line for each stored column of the cost, without a rate."""
    tokens = dict(zip(_TOKENS, group.tokens, strict=True))
    read, written = tokens["cache_read_tokens"], tokens["cache_write_tokens"]
    reasoning = tokens["output_reasoning_tokens"]
    counts = {
        "cost_input": ("Input Tokens", tokens["input_tokens"] - read - written),
        "cost_cache_read": ("Cached Input Tokens", read),
        "cost_cache_write": ("Cache Write Tokens", written),
        "cost_output": ("Output Tokens", tokens["output_tokens"] - reasoning),
        "cost_reasoning": ("Reasoning Tokens", reasoning),
        "cost_other": ("Other", 0),
    }
    lines = []
    for column, amount in zip(COST_COLUMNS, group.amounts, strict=True):
        meter, count = counts[column]
        nano = _nano(amount)
        if nano and count > 0:
            lines.append(_Line(meter, "Tokens", count, nano, has_rate=False))
        elif nano:
            lines.append(_Line(meter, "Requests", group.calls, nano, has_rate=False))
    return lines or [_Line("Requests", "Requests", group.calls, 0)]


def _reported(
    group: _Group, _p: Price | Unpriced, _l: Price | Unpriced, _t: Sequence[int], cost: int
) -> list[_Line]:
    """Nobody said what a reported cost is made of: one line, counted in calls."""
    return [_Line("Reported Cost", "Requests", group.calls, cost, has_rate=False)]


def _free(
    group: _Group, _p: Price | Unpriced, _l: Price | Unpriced, _t: Sequence[int], cost: int
) -> list[_Line]:
    """Tokens of a free model at a rate of zero; of an answer from the gateway's cache, the calls."""
    tokens = dict(zip(_TOKENS, group.tokens, strict=True))
    counts = {"Input Tokens": tokens["input_tokens"], "Output Tokens": tokens["output_tokens"]}
    lines = [_Line(meter, "Tokens", count, 0) for meter, count in counts.items() if count]
    if not group.price_id or not lines:
        return [_Line("Requests", "Requests", group.calls, 0)]
    return lines


_LINES: Final = {"priced": _priced, "partial": _priced, "provider_reported": _reported, "free": _free}


def _quantity(charge: Charge, counts: Mapping[str, int], calls: int) -> int:
    quantity = charge.constant * calls
    for name in charge.plus:
        quantity += counts.get(name, 0)
    for name in charge.minus:
        quantity -= counts.get(name, 0)
    return quantity


def _listed_rates(price: Price | Unpriced, passed: Sequence[int]) -> dict[object, int]:
    """The list's rates by what they count."""
    if not isinstance(price, Price) or price.free:
        return {}
    tier = sum(threshold in passed for threshold in price.thresholds)
    return {_counted(charge): charge.rates[tier] for charge in price.charges}


def _counted(charge: Charge) -> object:
    return charge.name, charge.plus, charge.minus, charge.constant


def _condition(price: Price, tier: int) -> str:
    if not price.thresholds:
        return ""
    return f"above {price.thresholds[tier - 1]}" if tier else f"up to {price.thresholds[0]}"


_METERS: Final = {
    "input": "Input Tokens",
    "cache_read": "Cached Input Tokens",
    "cache_image_read": "Cached Image Input Tokens",
    "cache_write": "Cache Write Tokens",
    "cache_write_5m": "Cache Write Tokens (5 Minutes)",
    "cache_write_1h": "Cache Write Tokens (1 Hour)",
    "output": "Output Tokens",
    "reasoning": "Reasoning Tokens",
    "input_audio": "Audio Input Tokens",
    "cache_audio_read": "Cached Audio Input Tokens",
    "output_audio": "Audio Output Tokens",
    "input_image": "Image Input Tokens",
    "output_image": "Image Output Tokens",
    "input_video": "Video Input Tokens",
    "output_video": "Video Output Tokens",
    "request": "Requests",
}


def _meter(name: str, part: str) -> str:
    if part == "tools":
        return f"{name.replace('_', ' ').title()} Requests"
    return _METERS[name]


# -- rows --------------------------------------------------------------------------------------

_SERVICES: Final = {
    # provider of the price list: its usual name, and its service
    "anthropic": ("Anthropic", "Anthropic API"),
    "aws": ("Amazon Web Services", "Amazon Bedrock"),
    "azure": ("Microsoft", "Azure OpenAI"),
    "cerebras": ("Cerebras", "Cerebras Inference"),
    "cohere": ("Cohere", "Cohere API"),
    "deepseek": ("DeepSeek", "DeepSeek API"),
    "fireworks": ("Fireworks AI", "Fireworks AI"),
    "google": ("Google", "Gemini API"),
    "groq": ("Groq", "GroqCloud"),
    "mistral": ("Mistral AI", "Mistral AI API"),
    "moonshotai": ("Moonshot AI", "Kimi API"),
    "openai": ("OpenAI", "OpenAI API"),
    "openrouter": ("OpenRouter", "OpenRouter"),
    "perplexity": ("Perplexity", "Perplexity API"),
    "together": ("Together AI", "Together AI"),
    "x-ai": ("xAI", "xAI API"),
}


class _Bill(Struct, frozen=True):
    """What all rows of a period have in common."""

    start: datetime
    end: datetime
    issuer: str
    billing_account: str

    def rows(self, group: _Group, price: Price | Unpriced, lines: Sequence[_Line]) -> Iterator[Row]:
        """The lines of one group's bill as rows."""
        provider = price.provider or group.provider
        model = (price.model if isinstance(price, Price) else "") or group.model
        service_provider, service = _SERVICES.get(
            provider, (provider or "Not stated", f"{provider or 'Not stated'} inference")
        )
        tier = standard_tier(group.service_tier)
        daily = group.price_id.partition("~")[2].partition("*")[0]
        month = datetime(self.start.year, self.start.month, 1, tzinfo=UTC)
        shared: dict[str, Any] = {
            "BillingAccountId": self.billing_account,
            "BillingAccountName": self.billing_account,
            "BillingCurrency": "USD",
            "BillingPeriodStart": month,
            "BillingPeriodEnd": (month + timedelta(days=32)).replace(day=1),
            "ChargeCategory": "Usage",
            "ChargeFrequency": "Usage-Based",
            "ChargePeriodStart": self.start,
            "ChargePeriodEnd": self.end,
            "HostProviderName": service_provider,
            "InvoiceIssuerName": self.issuer,
            "ResourceId": group.deployment or None,
            "ResourceName": group.deployment or None,
            "ResourceType": "Model Deployment" if group.deployment else None,
            "ServiceCategory": "AI and Machine Learning",
            "ServiceName": service,
            "ServiceProviderName": service_provider,
            "ServiceSubcategory": "Generative AI",
            "SubAccountId": group.tenant or None,
            "SubAccountName": group.tenant or None,
            "Tags": _tags(group),
            "x_CallCount": Decimal(group.calls),
            "x_CostStatus": group.cost_status,
            "x_Environment": group.environment or None,
            "x_Gateway": group.gateway or None,
            "x_KeyAlias": group.key_alias or None,
            "x_Model": group.model or None,
            "x_PriceId": group.price_id or None,
            "x_ServiceTier": group.service_tier or None,
            "x_Team": group.team or None,
        }
        for line in lines:
            words = (group.model or model, line.meter, tier)
            context = f", {line.condition} input tokens" if line.condition else ""
            values = (
                shared
                | _sku(provider, model, line.meter, tier, line.condition, daily)
                | _amounts(line)
                | {"ChargeDescription": ", ".join(word for word in words if word) + context}
            )
            yield tuple(map(values.get, _NAMES))


_NAMES: Final = tuple(column.name for column in WRITTEN)


def _amounts(line: _Line) -> dict[str, Any]:
    """Quantities, unit prices and costs of a line."""
    nano = _decimal(line.nano_usd, 9)
    found: dict[str, Any] = {
        "BilledCost": nano,
        "EffectiveCost": nano,
        "ConsumedQuantity": Decimal(line.quantity),
        "ConsumedUnit": line.unit,
    }
    if not line.has_rate:
        return found | {
            "ContractedCost": nano,
            "ContractedUnitPrice": Decimal(1),
            "ListCost": nano,
            "ListUnitPrice": Decimal(1),
            "PricingCategory": "Other",
            "PricingQuantity": nano,
            "PricingUnit": "Dollars",
            "x_UnitPriceSource": "cost",
        }
    # A pico-dollar a token is a micro-dollar a million tokens.
    unit, places = ("1000000 Tokens", 6) if line.unit == "Tokens" else ("Requests", 0)
    return found | {
        "ContractedCost": _decimal(line.quantity * line.rate, 12),
        "ContractedUnitPrice": _decimal(line.rate, 12 - places),
        "ListCost": _decimal(line.quantity * line.listed_rate, 12),
        "ListUnitPrice": _decimal(line.listed_rate, 12 - places),
        "PricingCategory": "Standard",
        "PricingQuantity": _decimal(line.quantity, places),
        "PricingUnit": unit,
        "x_UnitPriceSource": "price",
    }


@lru_cache(maxsize=4096)
def _sku(
    provider: str, model: str, meter: str, tier: str, condition: str, daily: str
) -> dict[str, str | None]:
    """The columns that say what was sold."""
    details = {"x_ServiceTier": tier, "x_ContextTier": condition, "x_TimeOfDay": daily}
    details = {key: value for key, value in details.items() if value}
    sku = f"{provider or '-'}/{model}/{_slug(meter)}"
    return {
        "SkuId": sku,
        "SkuMeter": meter,
        "SkuPriceDetails": _json(details),
        "SkuPriceId": "/".join([sku, *map(_slug, details.values())]),
    }


def _tags(group: _Group) -> str | None:
    ours = {
        f"{TAG_PREFIX}{name}": getattr(group, name)
        for name in ("tenant", "team", "key_alias", "gateway", "environment")
        if getattr(group, name)
    }
    # Our prefix is reserved: a call's own tag that has it gives way.
    own = {key: value for key, value in json.loads(group.tags).items() if not key.startswith(TAG_PREFIX)}
    return _json(own | ours) if own or ours else None


def _json(value: Mapping[str, str]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _slug(text: str) -> str:
    return "-".join(text.lower().replace("(", "").replace(")", "").split())


def _decimal(value: int, places: int) -> Decimal:
    return Decimal(value).scaleb(-places, _EXACT)


def _nano(usd: Decimal) -> int:
    return int(_EXACT.scaleb(usd, 9))
