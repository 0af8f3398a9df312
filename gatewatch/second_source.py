"""A second list of prices, given as a file, against a price book: where the two disagree.

Read are LiteLLM's ``model_prices_and_context_window.json``, which has service tiers and context tiers, and
llm-prices' files (a vendor's, with a price history, or the combined ones). Only what both have is compared:
a model that a book does not know, a tier for which it has no rates and units that usage does not count say
nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NoReturn

from msgspec import Struct, structs

from gatewatch.price_book import Price, PriceBook
from gatewatch.price_table import PriceError, day_ms

__all__ = ["Comparison", "Disagreement", "Quote", "compare", "read_quotes"]

_PICO_PER_USD: Final = Decimal(10) ** 12
_PICO_PER_MILLION: Final = Decimal(10) ** 6

# LiteLLM's keys, without what stands behind them: context tier, lifetime, service tier.
_LITELLM: Final = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "input_audio",
    "output_cost_per_audio_token": "output_audio",
    "cache_read_input_audio_token_cost": "cache_audio_read",
}
_TIERS: Final = {"": "standard", "batches": "batch", "flex": "flex", "priority": "priority"}
_KEY: Final = re.compile(
    rf"({'|'.join(_LITELLM)})(_above_1hr)?(?:_above_(\d+)k_tokens)?(?:_(batches|flex|priority))?"
)
_LLM_PRICES: Final = {"input": "input", "output": "output", "input_cached": "cache_read"}
_CONTEXT: Final = re.compile(r"(.+)-(\d+)k")


class Quote(Struct, frozen=True):
    """A rate of the second list."""

    provider: str
    """As the second list names it, likewise the model."""
    model: str
    service_tier: str
    component: str
    above_input_tokens: int
    pico_usd: Decimal
    """For one token."""


class Disagreement(Struct, frozen=True):
    """A rate that the lists have differently."""

    price_id: str
    provider: str
    model: str
    service_tier: str
    component: str
    above_input_tokens: int
    """The calls that it touches have more input tokens than this,"""
    to_input_tokens: int | None
    """and no more than this, where another rate begins."""
    ours_pico_usd: int
    theirs_pico_usd: Decimal
    names: tuple[str, ...]
    """What the second list calls the model,"""
    other_names: tuple[str, ...]
    """and what it calls it where it has another rate, for a region perhaps."""

    def touches(self, sent: str) -> bool:
        """Whether a call at this price, by the name that its gateway sent, is one that the rate is for."""
        name = sent.strip().lower()
        own, others = _as_sent(self.names), _as_sent(self.other_names)
        return name in own if name in own | others else self.model.lower() in own or not others

    @property
    def change(self) -> Decimal | None:
        """By how much theirs is above ours, as a share of ours; None where ours is nothing."""
        return (
            (self.theirs_pico_usd - self.ours_pico_usd) / self.ours_pico_usd if self.ours_pico_usd else None
        )


def _as_sent(names: tuple[str, ...]) -> set[str]:
    """Names in lower case, with and without the provider in front."""
    lower = {name.lower() for name in names}
    return lower | {name.partition("/")[2] for name in lower if name.count("/") == 1}


class Comparison(Struct, frozen=True):
    """What came of a comparison; rates of models by whatever name count once for each name."""

    equal: int
    different: int
    unknown_models: int
    """Models of the second list that have no price here."""
    disagreements: list[Disagreement]


def read_quotes(data: bytes, at_ms: int) -> list[Quote]:
    """The rates of a second list that hold at a time.

    Raises
    ------
    PriceError
        It is neither of the two formats, or holds a rate that cannot be.
    """
    try:
        found = json.loads(data, parse_float=Decimal, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise PriceError(f"it is no JSON: {error}") from error
    if isinstance(found, dict) and isinstance(found.get("models"), list):
        quotes = list(_llm_prices(_histories(str(found.get("vendor", "")), found["models"]), at_ms))
    elif isinstance(found, dict) and isinstance(found.get("prices"), list):
        quotes = list(_llm_prices(found["prices"], at_ms))
    elif isinstance(found, dict) and any(
        isinstance(entry, dict) and "litellm_provider" in entry for entry in found.values()
    ):
        quotes = list(_litellm(found))
    else:
        raise PriceError(
            "it is neither LiteLLM's model_prices_and_context_window.json nor a file of llm-prices; "
            "genai-prices' data is imported, not checked: `gatewatch prices import --dry-run`"
        )
    if not quotes:
        raise PriceError("it holds no price that is valid at that time")
    return quotes


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _rate(name: str, key: str, value: object, each: Decimal) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise PriceError(f"{name}: {key} is {value!r}, which is no number")
    if value < 0:
        raise PriceError(f"{name}: {key} is below zero ({value})")
    return value * each


def _litellm(found: Mapping[str, Any]) -> Iterator[Quote]:
    for name, entry in found.items():
        # Regional deployments have names of their own there, and calls to them do not.
        if name == "sample_spec" or not isinstance(entry, dict) or name.startswith(("azure/eu", "azure/us")):
            continue
        provider = str(entry.get("litellm_provider", ""))
        for key, value in entry.items():
            match = _KEY.fullmatch(key)
            if match is None or value is None:
                continue
            component = _LITELLM[match[1]]
            if match[2]:
                component += "_1h"
            above = int(match[3] or 0) * 1000
            rate = _rate(name, key, value, _PICO_PER_USD)
            # A model of which nothing is known has zeros there; one that is free is no price to compare.
            if rate:
                yield Quote(provider, name, _TIERS[match[4] or ""], component, above, rate)


def _histories(vendor: str, models: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    for number, model in enumerate(models, 1):
        if not isinstance(model, dict) or not isinstance(model.get("price_history"), list):
            raise PriceError(f"model {number} of {vendor or 'no vendor'} has no price_history")
        for row in model["price_history"]:
            yield {"vendor": vendor, "id": model.get("id"), **row}


def _llm_prices(rows: Iterator[Mapping[str, Any]] | Sequence[Any], at_ms: int) -> Iterator[Quote]:
    listed = list(rows)
    for number, row in enumerate(listed, 1):
        if not isinstance(row, dict) or not isinstance(row.get("id"), str):
            raise PriceError(f"price {number} has no id")
    names = {row["id"] for row in listed}
    for row in listed:
        name, vendor = row["id"], str(row.get("vendor", ""))
        if (row.get("from_date") and at_ms < _day(name, row["from_date"])) or (
            row.get("to_date") and at_ms >= _day(name, row["to_date"])
        ):
            continue
        context = _CONTEXT.fullmatch(name)
        above = int(context[2]) * 1000 if context and context[1] in names else 0
        model = context[1] if context and above else name
        for key, component in _LLM_PRICES.items():
            if row.get(key):
                rate = _rate(name, key, row[key], _PICO_PER_MILLION)
                yield Quote(vendor, model, "standard", component, above, rate)


def _day(name: str, text: object) -> int:
    try:
        return day_ms(datetime.fromisoformat(str(text)).date().isoformat())
    except ValueError:
        raise PriceError(f"{name}: {text!r} is no day") from None


def compare(
    book: PriceBook, quotes: Sequence[Quote], at_ms: int, tolerance: Decimal = Decimal(0)
) -> Comparison:
    """Hold a second list against a book's listed prices.

    Parameters
    ----------
    book
        Without contracts: what somebody has agreed on is in no list.
    tolerance
        As a share of our rate; a difference of more than that is a disagreement.
    """
    equal = different = 0
    unknown: set[tuple[str, str]] = set()
    rates: dict[tuple[str, str, int], dict[Decimal, list[str]]] = {}
    found: dict[tuple[str, str, int, Decimal], Disagreement] = {}
    starts: dict[tuple[str, str, str], set[int]] = {}
    for quote in quotes:
        starts.setdefault((quote.model, quote.service_tier, quote.component), set()).add(
            quote.above_input_tokens
        )
    for quote in quotes:
        price = book.resolve(_provider(quote.provider), quote.model, at_ms, quote.service_tier)
        if not isinstance(price, Price):
            unknown.add((quote.provider, quote.model))
            continue
        charge = next((charge for charge in price.charges if charge.name == quote.component), None)
        if charge is None or price.notes:
            continue
        above = quote.above_input_tokens
        ours = charge.rates[sum(threshold <= above for threshold in price.thresholds)]
        place = (price.price_id, quote.component, above)
        rates.setdefault(place, {}).setdefault(quote.pico_usd, []).append(quote.model)
        if abs(quote.pico_usd - ours) <= tolerance * ours:
            equal += 1
            continue
        different += 1
        begins = starts[quote.model, quote.service_tier, quote.component].union(price.thresholds)
        found[(*place, quote.pico_usd)] = Disagreement(
            price_id=price.price_id,
            provider=price.provider,
            model=price.model,
            service_tier=price.service_tier,
            component=quote.component,
            above_input_tokens=above,
            to_input_tokens=min((begin for begin in begins if begin > above), default=None),
            ours_pico_usd=ours,
            theirs_pico_usd=quote.pico_usd,
            names=(),
            other_names=(),
        )
    named = []
    for key in sorted(found):
        names = rates[key[:3]]
        others = [name for pico, of_rate in names.items() if pico != key[3] for name in of_rate]
        named.append(structs.replace(found[key], names=tuple(names[key[3]]), other_names=tuple(others)))
    return Comparison(equal, different, len(unknown), named)


def _provider(name: str) -> str:
    """A provider of LiteLLM as the book knows it, where several of its names are of one."""
    for prefix, provider in (("vertex_ai", "google"), ("bedrock", "aws")):
        if name.startswith(prefix):
            return provider
    return name
