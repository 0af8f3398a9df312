"""The charging policy: which counts of a call are charged at which rate.

It is the one place where that is decided. :func:`charges_of` turns the rates of a price into
:class:`Charge` rows, which say as data how each count follows from the fields of usage, so that one
call and a column of calls are charged alike (:func:`gatewatch.pricing.evaluate`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Final, TypeAlias

from msgspec import Struct

__all__ = [
    "PARTS",
    "RATE_FIELDS",
    "SUMS",
    "TOKEN_RATES",
    "UNCOUNTED",
    "Charge",
    "Gap",
    "Rate",
    "Rates",
    "charges_of",
    "scaled",
    "steps_of",
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

Rate: TypeAlias = int | list[int]
"""A rate of the tables: pico-USD, or ``[rate, above input tokens, rate, ...]``."""
Rates: TypeAlias = dict[str, tuple[int, ...]]
"""Rates by name, each as ``(rate, above input tokens, rate, ...)``."""


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
    source: str = ""
    """Where the rate comes from, where that is not the price's own source."""


class Gap(Struct, frozen=True):
    """A count that has no price here: where it is above zero, a cost is partial and leaves it out."""

    field: str
    reason: str


TOKEN_RATES: Final = (
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
UNCOUNTED: Final = {
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
SUMS: Final = ("tool_calls_executed",)
RATE_FIELDS: Final = {
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


def steps_of(rate: Rate) -> tuple[int, ...]:
    """A rate of the tables as steps: one rate, or rate, threshold, rate, ..."""
    return (rate,) if isinstance(rate, int) else tuple(rate)


def scaled(rate: tuple[int, ...], share: Fraction) -> tuple[int, ...]:
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


def charges_of(
    rates: Rates, refused: Iterable[str], provider: str
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
