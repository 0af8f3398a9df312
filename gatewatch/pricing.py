"""What a call cost, exactly, and how that came about.

A cost is the sum of lines: a count of tokens or requests times a rate, both integers, in pico-USD
(:mod:`gatewatch.money`). Which tokens are charged at which rate is decided in one place,
:mod:`gatewatch.charge`, and stands in ``Price.charges`` as data: each :class:`~gatewatch.charge.Charge`
says which fields of usage are added and subtracted to get its count, and its rate by context tier.

:func:`evaluate` computes that with ``+ - * > <`` only, so it takes integers and columns alike: for
columns, pass a mapping of NumPy ``int64`` arrays, one of each field of :data:`FIELDS` that is not all
zero, for the rows that share one resolved price. It gives an array a part, and a mask of the rows that are
refused. No line exceeds :data:`MAX_PICO`, so nothing overflows. Then :func:`gatewatch.money.nano_parts`
makes nano-USD of the parts.
What makes a cost partial is :func:`reasons_of` for one call; for columns it is ``price.notes``, any row with
``price.gaps`` of a field above zero, any field of ``price.expects`` that was not said, the mask
``Evaluation.unsure``, and tool requests that ``price.tools`` does not name.

Nothing here reads a clock but :func:`price`, and only where no time is given.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from msgspec import Struct

from gatewatch.events import LIMITS
from gatewatch.money import nano_parts, pico_usd, usd, usd_per_million
from gatewatch.price_book import (
    PARTS,
    Charge,
    Price,
    PriceBook,
    Unpriced,
    default_book,
    standard_tier,
)
from gatewatch.usage import Usage, UsageError, check_usage, read_usage

__all__ = [
    "FIELDS",
    "MAX_PICO",
    "TOOL_SUMS",
    "UNKNOWN_CACHED_AUDIO",
    "Cost",
    "CostStatus",
    "Evaluation",
    "evaluate",
    "fields_of",
    "price",
    "reasons_of",
]

CostStatus: TypeAlias = Literal["priced", "partial", "unpriced", "provider_reported", "free"]

MAX_PICO: Final = 5 * 10**17
"""The most that one line of a call can cost, half a million dollars: above is refused as absurd, and
fourteen of them still fit into 64 bits."""

FIELDS: Final = (
    *(name for name in Usage.__struct_fields__ if name != "tool_requests"),
    "cache_image_read_tokens",
    "input_video_tokens",
    "output_video_tokens",
)
"""Fields that charges count, and ``tool_requests.<name>`` for each built-in tool. The last three are in no
event: cached images are never told apart, and video only where the provider's own object is at hand."""

UNKNOWN_CACHED_AUDIO: Final = "cache_audio_read_unknown"
"""1 in a row in which the provider did not say how much of the cached input is audio; 0 otherwise."""


class Evaluation(NamedTuple):
    """What :func:`evaluate` gives: integers, or arrays of them."""

    parts: dict[str, Any]
    """Pico-USD by part, in the order of ``PARTS``; a part that nothing was counted for is absent."""
    counts: list[Any]
    """The count of each of ``price.charges``."""
    refused: Any
    """Whether more specific counts exceed what contains them, or a line costs more than ``MAX_PICO``."""
    unsure: Any
    """Whether it is not known which of the cached tokens are audio or images, and their rates differ."""


def _positive(value: Any) -> Any:
    return value * (value > 0)


def _least(one: Any, other: Any) -> Any:
    return other + (one < other) * (one - other)


def evaluate(price: Price, fields: Mapping[str, Any]) -> Evaluation:
    """The parts of a cost.

    Parameters
    ----------
    price
        From :meth:`PriceBook.resolve`.
    fields
        Counts by field, as :func:`fields_of` gives them, or columns of them; what is absent is zero.
        Every count is at least 0 and at most ``LIMITS.token_count``.

    Notes
    -----
    The rate of a context tier applies to all tokens of a call whose input is above its threshold
    ("more than 200K"). A provider whose tier begins *at* 200,000 has the threshold 199,999.
    """
    fields = dict(fields)
    get = fields.get
    total_input = get("input_tokens", 0)
    unsure: Any = 0 * total_input
    shared = _shared_kinds(price)
    if shared is not None:
        # Cached audio (or images) was taken out of the input twice. Where it is not known how much that is,
        # it is the least that is possible: the rest is charged at the dearer rate, and the cost is partial.
        line, has_audio, has_image = shared
        cached = get("cache_read_tokens", 0)
        audio, image = get("input_audio_tokens", 0), get("input_image_tokens", 0)
        read_audio = get("cache_audio_read_tokens", 0)
        excess = _positive(-_count(line, fields))
        if has_audio:
            unknown = get(UNKNOWN_CACHED_AUDIO, 0)
            more = _positive(_least(_least(excess, audio - read_audio), cached - read_audio)) * unknown
            read_audio = read_audio + more
            excess = excess - more
            fields["cache_audio_read_tokens"] = read_audio
            unsure = unsure + unknown * (audio > 0) * (cached > 0)
        if has_image:
            free_reads = cached - read_audio if has_audio else cached
            fields["cache_image_read_tokens"] = _positive(_least(_least(excess, image), free_reads))
            unsure = unsure + (image > 0) * (cached > 0)
    parts: dict[str, Any] = {}
    counts: list[Any] = []
    refused: Any = 0 * total_input
    tier = bisect_left(price.thresholds, total_input) if type(total_input) is int else None
    used = fields.keys()
    for charge in price.charges:
        if not charge.constant and used.isdisjoint(charge.plus):
            count = 0 if used.isdisjoint(charge.minus) else _count(charge, fields)
            counts.append(count)
            refused = refused | (count < 0)
            continue
        count = _count(charge, fields)
        counts.append(count)
        rates = charge.rates
        dearest = rates[0] if len(rates) == 1 else max(rates)
        wrong = (count < 0) | (count > MAX_PICO // (dearest or 1))
        refused = refused | wrong
        if tier is not None:
            amount = count * rates[tier]
        else:
            count = count * (1 - wrong)
            amount = count * rates[0]
            for threshold, below, above in zip(price.thresholds, rates[:-1], rates[1:], strict=True):
                if above != below:
                    amount = amount + (total_input > threshold) * count * (above - below)
        parts[charge.part] = parts[charge.part] + amount if charge.part in parts else amount
    return Evaluation(parts, counts, refused > 0, unsure > 0)


def _count(charge: Charge, fields: Mapping[str, Any]) -> Any:
    count: Any = charge.constant
    for field in charge.plus:
        count = count + fields.get(field, 0)
    for field in charge.minus:
        count = count - fields.get(field, 0)
    return count


def _shared_kinds(price: Price) -> tuple[Charge, bool, bool] | None:
    """The line for plain input, and whether cached audio and cached images are charged apart."""
    for charge in price.charges:
        if charge.name == "input":
            has_audio = "cache_audio_read_tokens" in charge.plus
            has_image = "cache_image_read_tokens" in charge.plus
            return (charge, has_audio, has_image) if has_audio or has_image else None
    return None


def fields_of(usage: Usage) -> dict[str, int]:
    """The counts of a usage by field, without those that are zero or were not said."""
    fields = {name: count for name in _COUNTS if (count := getattr(usage, name))}
    if usage.tool_requests:
        fields |= {f"tool_requests.{name}": count for name, count in usage.tool_requests.items() if count}
    if usage.cache_audio_read_tokens is None and usage.input_audio_tokens and usage.cache_read_tokens:
        fields[UNKNOWN_CACHED_AUDIO] = 1
    return fields


_COUNTS: Final = tuple(name for name in Usage.__struct_fields__ if name != "tool_requests")


def reasons_of(price: Price, usage: Usage, fields: Mapping[str, int], unsure: bool = False) -> list[str]:
    """Why a cost is partial: what has no price, and what was not said. Empty for a cost that is whole."""
    reasons = list(price.notes)
    reasons += [
        f"{gap.reason}; {fields[gap.field]:,} left out" for gap in price.gaps if fields.get(gap.field, 0) > 0
    ]
    reasons += [
        f"the provider did not say {field.removesuffix('_tokens')} tokens"
        for field in price.expects
        if getattr(usage, field) is None
    ]
    for name, count in usage.tool_requests.items():
        if count and name not in price.tools and name not in TOOL_SUMS and not price.free:
            reasons.append(f"no fee is known for requests of {name}; {count:,} left out")
    if unsure:
        reasons.append("it is not known which of the cached tokens are audio or images; the least is assumed")
    return reasons


TOOL_SUMS: Final = ("tool_calls_executed",)
"""Sums of other tools' requests, which are charged by themselves."""


class Cost(Struct, frozen=True, kw_only=True):
    """What a call cost, and how that came about."""

    usage: Usage
    cost_status: CostStatus
    cost_pico_usd: int | None
    """None where the status is ``unpriced``: that is not zero."""
    parts_pico_usd: dict[str, int]
    """By part, in the order of ``PARTS``, those that were used; they add up to the cost."""
    price_id: str
    explanation: str
    """One line that a person can check with a pocket calculator."""
    reasons: tuple[str, ...] = ()
    """Why the cost is not whole, or missing."""
    nearest: tuple[str, ...] = ()
    """For an unknown model, the known names that are nearest."""

    @property
    def cost_usd(self) -> str | None:
        """The exact cost in dollars, as a decimal string."""
        return None if self.cost_pico_usd is None else usd(self.cost_pico_usd)

    @property
    def parts_usd(self) -> dict[str, str]:
        """The exact parts in dollars, as decimal strings."""
        return {part: usd(pico) for part, pico in self.parts_pico_usd.items()}

    @property
    def parts_nano_usd(self) -> dict[str, int]:
        """Every part in whole nano-USD; they add up to the cost rounded to nano-USD, half to even."""
        nano = nano_parts([self.parts_pico_usd.get(part, 0) for part in PARTS])
        return dict(zip(PARTS, nano, strict=True))


def price(
    provider: str,
    model: str,
    usage: Usage | Mapping[str, Any],
    *,
    at_ms: int | None = None,
    service_tier: str = "",
    deployment: str = "",
    tenant: str = "",
    reported_cost_usd: str | None = None,
    book: PriceBook | None = None,
) -> Cost:
    """What a call cost.

    Parameters
    ----------
    provider, model
        As the gateway sends them.
    usage
        The provider's own usage object, or a :class:`~gatewatch.usage.Usage`. The object may tell the
        service tier (Anthropic, Vertex), the place (Anthropic), the kind of search (Perplexity), and video
        tokens (Gemini).
    at_ms
        When the call was made, milliseconds since 1970 UTC; None is now.
    service_tier
        The tier that served the call; what is empty or ``default`` is looked for in the usage object.
    deployment, tenant
        For the book's contracts.
    reported_cost_usd
        What the gateway itself says the call cost, dollars as a decimal string: taken where there is no
        price, and marked as such. None is not to ask for that.
    book
        Prices; by default those of the package, without contracts.

    Raises
    ------
    UsageError
        The usage cannot be counted, or contradicts itself.

    Examples
    --------
    >>> usage = {"input_tokens": 1000, "output_tokens": 100}
    >>> cost = price("anthropic", "claude-haiku-4-5", usage, at_ms=1_790_000_000_000)
    >>> cost.cost_usd, cost.cost_status
    ('0.0015', 'priced')
    """
    book = book or default_book()
    if at_ms is None:
        at_ms = time.time_ns() // 1_000_000
    elif not 0 <= at_ms <= _MAX_AT_MS:
        raise UsageError("the time of the call is before 1970 or after 2262")
    if isinstance(usage, Usage):
        check_usage(usage)
        payload: Mapping[str, Any] = {}
        counted = usage
    else:
        payload = usage
        counted = read_usage(provider, usage, model)
    tier = service_tier
    if payload and (not tier or standard_tier(tier) == "standard"):
        tier = _tier_in(payload) or tier
    found = book.resolve(provider, model, at_ms, tier, deployment=deployment, tenant=tenant)
    if isinstance(found, Unpriced):
        return _unpriced(counted, found.reason, _near(book, found), "", reported_cost_usd)
    fields = fields_of(counted)
    if payload:
        _add_video(fields, payload)
        place, size = payload.get("inference_geo"), payload.get("search_context_size")
        if isinstance(place, str) and place:
            found = book.at_place(found, place)
        if isinstance(size, str) and size:
            found = book.with_search_context(found, size) or found
    result = evaluate(found, fields)
    if result.refused:
        raise UsageError(_contradiction(found, result))
    reasons = reasons_of(found, counted, fields, result.unsure)
    parts = {part: pico for part, pico in result.parts.items() if pico}
    total = sum(parts.values())
    if reasons and not any(result.counts) and not found.free:
        return _unpriced(counted, "; ".join(reasons), (), found.price_id, reported_cost_usd)
    status: CostStatus = "partial" if reasons else "priced"
    if found.free or (not reasons and not total and not any(any(line.rates) for line in found.charges)):
        status = "free"
    return Cost(
        usage=counted,
        cost_status=status,
        cost_pico_usd=total,
        parts_pico_usd=parts,
        price_id=found.price_id,
        explanation=_explanation(found, fields, result, total, reasons),
        reasons=tuple(reasons),
    )


_NEAR: Final[dict[tuple[str, str], tuple[str, ...]]] = {}


def _near(book: PriceBook, unpriced: Unpriced) -> tuple[str, ...]:
    key = (unpriced.provider, unpriced.name)
    near = _NEAR.get(key)
    if near is None:
        if len(_NEAR) >= 1 << 12:
            _NEAR.clear()
        near = _NEAR[key] = book.nearest(unpriced)
    return near


_MAX_AT_MS: Final = 9_223_372_036_854


def _unpriced(
    usage: Usage, reason: str, nearest: tuple[str, ...], price_id: str, reported: str | None
) -> Cost:
    explanation = f"unpriced: {reason}"
    if nearest:
        explanation += f"; known names that are near: {', '.join(nearest)}"
    status: CostStatus = "unpriced"
    cost = None
    if reported is not None:
        try:
            cost = pico_usd(reported)
        except ValueError as error:
            raise UsageError(f"the reported cost: {error}") from error
        if not 0 <= cost <= MAX_PICO:
            raise UsageError("the reported cost is negative or above half a million dollars")
        status = "provider_reported"
        explanation = f"${usd(cost)} as reported with the call; {explanation}"
    return Cost(
        usage=usage,
        cost_status=status,
        cost_pico_usd=cost,
        parts_pico_usd={},
        price_id=price_id,
        explanation=explanation,
        reasons=(reason,),
        nearest=nearest,
    )


# --- what only the provider's own object says -----------------------------------------------------


def _tier_in(payload: Mapping[str, Any]) -> str:
    """The tier that served the call: Anthropic's ``service_tier`` and ``speed``, Vertex's ``trafficType``."""
    if payload.get("speed") == "fast":
        return "fast"
    for key in ("service_tier", "serviceTier", "trafficType", "traffic_type"):
        tier = payload.get(key)
        if isinstance(tier, str) and tier:
            return tier
    return ""


def _add_video(fields: dict[str, int], payload: Mapping[str, Any]) -> None:
    """Gemini's tokens of video, which have a rate of their own with embeddings and live models."""
    if _VIDEO_KEYS.isdisjoint(payload):
        return
    for key, field in _VIDEO:
        entries = payload.get(key)
        if not isinstance(entries, list | tuple):
            continue
        for entry in entries:
            if isinstance(entry, Mapping) and str(entry.get("modality")).upper() in ("VIDEO", "3"):
                count = entry.get("tokenCount", entry.get("token_count", entry.get("tokens")))
                if isinstance(count, int) and 0 < count <= LIMITS.token_count:
                    fields[field] = fields.get(field, 0) + count


_VIDEO: Final = (
    ("promptTokensDetails", "input_video_tokens"),
    ("prompt_tokens_details", "input_video_tokens"),
    ("toolUsePromptTokensDetails", "input_video_tokens"),
    ("input_tokens_by_modality", "input_video_tokens"),
    ("candidatesTokensDetails", "output_video_tokens"),
    ("candidates_tokens_details", "output_video_tokens"),
    ("output_tokens_by_modality", "output_video_tokens"),
)
_VIDEO_KEYS: Final = frozenset(key for key, _ in _VIDEO)


# --- words ----------------------------------------------------------------------------------------


def _contradiction(price: Price, result: Evaluation) -> str:
    for charge, count in zip(price.charges, result.counts, strict=True):
        if count < 0:
            return (
                f"the parts of {charge.plus[0] if charge.plus else charge.name} ({', '.join(charge.minus)}) "
                f"exceed it by {-count}"
            )
    return "a part of the cost is above half a million dollars, more than any call can cost"


def _explanation(
    price: Price, fields: Mapping[str, int], result: Evaluation, total: int, reasons: list[str]
) -> str:
    if price.free:
        return f"free: {price.price_id}, {_source(price)}"
    total_input = fields.get("input_tokens", 0)
    tier = bisect_left(price.thresholds, total_input)
    lines = []
    own = []
    for charge, count in zip(price.charges, result.counts, strict=True):
        if count:
            lines.append(_line(charge, count, tier))
            if charge.source:
                own.append(f"{charge.name} by {charge.source}")
    text = " + ".join(lines) if lines else "nothing that is charged"
    text = f"{text} = ${usd(total)}"
    if price.thresholds:
        text += f"; {total_input:,} input tokens, {_context(price.thresholds, tier)}"
    return "; ".join([text, _stands(price), *own, *(f"partial: {reason}" for reason in reasons)])


def _line(charge: Charge, count: int, tier: int) -> str:
    rate = charge.rates[tier]
    if charge.part == "tools" or charge.part == "request":
        return f"{charge.name} {count:,} × ${usd(rate)}"
    return f"{charge.name} {count:,} × ${usd_per_million(rate)}/M"


def _context(thresholds: tuple[int, ...], tier: int) -> str:
    if tier == 0:
        return f"rates up to {thresholds[0]:,}"
    upper = f" to {thresholds[tier]:,}" if tier < len(thresholds) else ""
    return f"rates above {thresholds[tier - 1]:,}{upper}"


# By identity, with the price itself, so that no other can come to have the same one: hashing a price
# costs more than pricing a call.
_STANDS: Final[dict[int, tuple[Price, str]]] = {}


def _stands(price: Price) -> str:
    """What is the same for all calls at a price."""
    known = _STANDS.get(id(price))
    if known is None:
        if len(_STANDS) >= 1 << 14:
            _STANDS.clear()
        known = _STANDS[id(price)] = (price, _stand(price))
    return known[1]


def _stand(price: Price) -> str:
    tier = price.tier_reason or f"{price.service_tier} rates"
    valid = f"valid from {price.valid_from}" if price.valid_from else "valid from the list's beginning"
    if price.valid_to:
        valid += f" until {price.valid_to}"
    if price.daily:
        valid += f", {price.daily} UTC" if price.daily[0].isdigit() else f", {price.daily}"
    return f"{tier}; {price.price_id}, {valid}; {_source(price)}"


def _source(price: Price) -> str:
    return f"{price.source} ({price.source_date})" if price.source_date else price.source or "no source"
