"""genai-prices' table as the data file that gatewatch prices from.

genai-prices (MIT) keeps the prices of most providers, with dates, times of day, context tiers and
service tiers. It is needed to make ``gatewatch/price_data/genai_prices.json`` and nowhere else:
neither the worker nor the wheel imports it, and nothing is fetched. Upgrading prices is raising its
version in ``pyproject.toml``, ``make lock generate``, and reading the difference of that file.

Money becomes whole pico-USD per unit here, and a price that is finer than that is refused: the
file lists it under ``refused``, and a call that would need it says so.
"""

from __future__ import annotations

import importlib.metadata
import json
from decimal import Decimal
from typing import Any, Final

from genai_prices.data import providers
from genai_prices.types import (
    ClauseAnd,
    ClauseContains,
    ClauseEndsWith,
    ClauseEquals,
    ClauseOr,
    ClauseRegex,
    ClauseStartsWith,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)

__all__ = ["price_file"]

_PICO_USD: Final = Decimal(10) ** 12
_TOKENS: Final = Decimal(1_000_000)
_THOUSAND: Final = Decimal(1_000)

# genai-prices' key -> our rate, and how many units its price is for. Hours, pages and characters
# stay as they are sold: no usage object of ours counts them, so nothing is ever multiplied by them.
_RATES: Final[dict[str, tuple[str, Decimal]]] = {
    "input_mtok": ("input", _TOKENS),
    "cache_read_mtok": ("cache_read", _TOKENS),
    "cache_write_mtok": ("cache_write", _TOKENS),
    "cache_write_5m_mtok": ("cache_write_5m", _TOKENS),
    "cache_write_1h_mtok": ("cache_write_1h", _TOKENS),
    "output_mtok": ("output", _TOKENS),
    "output_reasoning_mtok": ("reasoning", _TOKENS),
    "output_citation_mtok": ("citation", _TOKENS),
    "input_audio_mtok": ("input_audio", _TOKENS),
    "cache_audio_read_mtok": ("cache_audio_read", _TOKENS),
    "output_audio_mtok": ("output_audio", _TOKENS),
    "input_image_mtok": ("input_image", _TOKENS),
    "cache_image_read_mtok": ("cache_image_read", _TOKENS),
    "output_image_mtok": ("output_image", _TOKENS),
    "input_video_mtok": ("input_video", _TOKENS),
    "output_video_mtok": ("output_video", _TOKENS),
    "web_searches_kcount": ("web_search", _THOUSAND),
    "storage_searches_kcount": ("storage_search", _THOUSAND),
    "social_searches_kcount": ("social_search", _THOUSAND),
    "code_executions_kcount": ("code_execution", _THOUSAND),
    "rerank_searches_kcount": ("rerank_search", _THOUSAND),
    "requests_kcount": ("request", _THOUSAND),
    "input_text_messages_kcount": ("input_message", _THOUSAND),
    "input_document_kpages": ("document_page", _THOUSAND),
    "input_annotated_document_kpages": ("annotated_page", _THOUSAND),
    "audio_hours": ("audio_hour", Decimal(1)),
    "input_audio_hours": ("input_audio_hour", Decimal(1)),
    "output_audio_hours": ("output_audio_hour", Decimal(1)),
    "input_mchars": ("input_million_characters", Decimal(1)),
    "input_gpixels": ("input_gigapixel", Decimal(1)),
}

# The conditions of a variant that are service tiers. Others (a route, a kind of search) are not
# known from an event; the standard price stands.
_TIERS: Final = {"processing": ("batch",), "service_tier": ("flex", "priority", "fast"), "speed": ("fast",)}


def price_file() -> str:
    """``gatewatch/price_data/genai_prices.json``: a model a line, so that a change of prices can be read."""
    about = {
        "name": "genai-prices",
        "version": importlib.metadata.version("genai-prices"),
        "licence": "MIT",
        "url": "https://github.com/pydantic/genai-prices",
        "money": "whole pico-USD per token or request; 1 USD per million tokens is 1000000",
        "rates": "[rate, above input tokens, rate, ...]: the rate of all tokens of a call by its input",
        "match": "=equals ^starts with $ends with ~contains /regular expression; a list is any, {all} is all",
    }
    lines = ["{", f'"about": {_json(about)},', '"providers": [']
    for last, provider in _marked(sorted(providers, key=lambda provider: provider.id)):
        lines.append(_json(_provider(provider))[:-1] + ', "models": [')
        for last_model, model in _marked(provider.models):
            lines.append(_json(_model(model)) + ("" if last_model else ","))
        lines.append("]}" + ("" if last else ","))
    lines += ["]", "}"]
    return "\n".join(lines) + "\n"


def _marked(items: list[Any]) -> list[tuple[bool, Any]]:
    return [(index == len(items) - 1, item) for index, item in enumerate(items)]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _provider(provider: Provider) -> dict[str, Any]:
    found: dict[str, Any] = {"id": provider.id, "host": provider.api_pattern}
    if provider.provider_match is not None:
        found["match"] = _clause(provider.provider_match)
    if provider.fallback_model_providers:
        found["fallback"] = provider.fallback_model_providers
    found["sources"] = provider.pricing_urls or []
    return found


def _model(model: ModelInfo) -> dict[str, Any]:
    prices = model.prices if isinstance(model.prices, list) else [ConditionalPrice(prices=model.prices)]
    found: dict[str, Any] = {
        "id": model.id,
        "match": _clause(model.match),
        "prices": _dated([_price(conditional.constraint, conditional.prices) for conditional in prices]),
    }
    tiers = [
        {"tier": value, **_price(variant.constraint, variant.prices)}
        for variant in model.price_variants or ()
        for name, value in variant.when.items()
        if len(variant.when) == 1 and value in _TIERS.get(name, ())
    ]
    if tiers:
        found["tiers"] = tiers
    return found


def _dated(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with a date at each time of day: that of the dated row above it, to which it belongs.

    genai-prices gives times of day no date, and so has them hold before their price began.
    """
    since = ""
    for row in rows:
        since = row.get("from", since)
        if "daily" in row and since:
            row["from"] = since
    return rows


def _price(
    constraint: StartDateConstraint | TimeOfDateConstraint | None, price: ModelPrice
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if isinstance(constraint, StartDateConstraint):
        found["from"] = constraint.start_date.isoformat()
    elif isinstance(constraint, TimeOfDateConstraint):
        for bound in (constraint.start_time, constraint.end_time):
            if bound.utcoffset() or bound.second or bound.microsecond:
                raise ValueError(f"a time of day that is not a minute in UTC: {bound}")
        found["daily"] = [f"{constraint.start_time:%H:%M}", f"{constraint.end_time:%H:%M}"]
    rates: dict[str, int | list[int]] = {}
    refused = []
    for key, value in price.__dict__.items():
        if value is None:
            continue
        name, units = _RATES[key]
        steps = [value.base] if isinstance(value, TieredPrices) else [value]
        starts = []
        if isinstance(value, TieredPrices):
            steps += [tier.price for tier in value.tiers]
            starts = [tier.start for tier in value.tiers]
        picos = [step * _PICO_USD / units for step in steps]
        if any(pico != int(pico) for pico in picos):
            refused.append(name)
        elif starts:
            rate = [int(picos[0])]
            for start, pico in zip(starts, picos[1:], strict=True):
                rate += [start, int(pico)]
            rates[name] = rate
        else:
            rates[name] = int(picos[0])
    found["rates"] = dict(sorted(rates.items()))
    if refused:
        found["refused"] = refused
    return found


def _clause(clause: object) -> Any:
    match clause:
        case ClauseEquals(equals=text):
            return "=" + text.lower()
        case ClauseStartsWith(starts_with=text):
            return "^" + text.lower()
        case ClauseEndsWith(ends_with=text):
            return "$" + text.lower()
        case ClauseContains(contains=text):
            return "~" + text.lower()
        case ClauseRegex(regex=text):
            return "/" + text
        case ClauseOr(or_=parts):
            return [_clause(part) for part in parts]
        case ClauseAnd(and_=parts):
            return {"all": [_clause(part) for part in parts]}
    raise TypeError(f"a kind of match that gatewatch does not know: {clause!r}")
