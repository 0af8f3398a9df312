"""genai-prices' published data as the list that gatewatch prices from.

genai-prices (MIT) keeps the prices of most providers, with dates, times of day, context tiers and service
tiers, and publishes them as ``prices/data.json``. The package's list is made here from the data of its Python
package (``docs/price_source.py``), and `gatewatch prices import` makes one from the published file.

Money becomes whole pico-USD per unit here, and a price that is finer than that is refused: the list names it
under ``refused``, and a call that would need it says so.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from typing import Any, Final, NoReturn, TypeVar

from gatewatch.price_table import PriceError, read_tables

__all__ = ["clause_of", "import_list", "list_document", "model_of"]

T = TypeVar("T")

_PICO_USD: Final = Decimal(10) ** 12
_TOKENS: Final = Decimal(1_000_000)
_THOUSAND: Final = Decimal(1_000)
_MOST: Final = Decimal(10) ** 18
"""Pico-USD of a rate: a million dollars a token is no price."""

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

_CLAUSES: Final = {"equals": "=", "starts_with": "^", "ends_with": "$", "contains": "~", "regex": "/"}


def list_document(providers: Sequence[Mapping[str, Any]], version: str) -> str:
    """The list, a model a line, so that a change of prices can be read.

    Parameters
    ----------
    providers
        As published, numbers as ``int`` or ``Decimal``.
    version
        What the list is called in explanations, behind ``genai-prices``.

    Raises
    ------
    PriceError
        Something is not as genai-prices publishes it; the message names provider and model.
    """
    about = {
        "name": "genai-prices",
        "version": version,
        "licence": "MIT",
        "url": "https://github.com/pydantic/genai-prices",
        "money": "whole pico-USD per token or request; 1 USD per million tokens is 1000000",
        "rates": "[rate, above input tokens, rate, ...]: the rate of all tokens of a call by its input",
        "match": "=equals ^starts with $ends with ~contains /regular expression; a list is any, {all} is all",
    }
    lines = ["{", f'"about": {_json(about)},', '"providers": [']
    ordered = sorted(providers, key=lambda provider: str(provider["id"]))
    for number, provider in enumerate(ordered, 1):
        lines.append(_json(_provider_of(provider))[:-1] + ', "models": [')
        models = provider.get("models") or []
        for place, model in enumerate(models, 1):
            made = _named(f"{provider['id']}/{model.get('id')}", model_of, model)
            lines.append(_json(made) + ("," if place < len(models) else ""))
        lines.append("]}" + ("," if number < len(ordered) else ""))
    lines += ["]", "}"]
    return "\n".join(lines) + "\n"


def import_list(data: bytes, declared: bytes) -> bytes:
    """The list from ``prices/data.json`` as genai-prices publishes it, usable with a declared table.

    Raises
    ------
    PriceError
        It is not such a file, or one of its prices cannot be.
    """
    try:
        found = json.loads(data, parse_float=Decimal, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise PriceError(f"it is no JSON: {error}") from error
    providers = found.get("providers") if isinstance(found, dict) else found
    if not isinstance(providers, list) or not providers:
        raise PriceError("it is no list of providers, as genai-prices' prices/data.json is")
    seen: set[str] = set()
    for row, provider in enumerate(providers, 1):
        if not isinstance(provider, dict) or not isinstance(provider.get("id"), str):
            raise PriceError(f"provider {row} has no id")
        if provider["id"] in seen:
            raise PriceError(f"provider {row}: {provider['id']} is there twice")
        seen.add(provider["id"])
        for place, model in enumerate(provider.get("models") or [], 1):
            if not isinstance(model, dict) or not isinstance(model.get("id"), str) or not model["id"]:
                raise PriceError(f"model {place} of provider {provider['id']} has no id")
    version = f"data {hashlib.sha256(data).hexdigest()[:12]}"
    document = list_document(providers, version).encode()
    read_tables(document, declared)
    return document


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _named(what: str, make: Callable[[Mapping[str, Any]], T], value: Mapping[str, Any]) -> T:
    """What is made of a provider or model, with its name in front of what is wrong with it."""
    try:
        return make(value)
    except PriceError as error:
        raise PriceError(f"{what}: {error}") from error
    except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError, re.error) as error:
        raise PriceError(f"{what} is not as genai-prices publishes it ({error!r})") from error


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _provider_of(provider: Mapping[str, Any]) -> dict[str, Any]:
    def made(of: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {"id": of["id"], "host": of.get("api_pattern") or ""}
        re.compile(found["host"])
        if of.get("provider_match") is not None:
            found["match"] = clause_of(of["provider_match"])
        if of.get("fallback_model_providers"):
            found["fallback"] = of["fallback_model_providers"]
        found["sources"] = of.get("pricing_urls") or []
        return found

    return _named(str(provider["id"]), made, provider)


def model_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model of the list."""
    prices = model["prices"] if isinstance(model["prices"], list) else [{"prices": model["prices"]}]
    if not prices:
        raise PriceError("it has no prices")
    found: dict[str, Any] = {
        "id": model["id"],
        "match": clause_of(model["match"]),
        "prices": _dated([_price_of(row.get("constraint"), row["prices"]) for row in prices]),
    }
    tiers = [
        {"tier": value, **_price_of(variant.get("constraint"), variant["prices"])}
        for variant in model.get("price_variants") or ()
        for name, value in variant["when"].items()
        if len(variant["when"]) == 1 and value in _TIERS.get(name, ())
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


def _price_of(constraint: Mapping[str, Any] | None, price: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if constraint and constraint.get("start_date") is not None:
        found["from"] = date.fromisoformat(constraint["start_date"]).isoformat()
    elif constraint and constraint.get("start_time") is not None:
        found["daily"] = [_minute(constraint["start_time"]), _minute(constraint["end_time"])]
    elif constraint:
        raise PriceError(f"a price is under a condition that gatewatch does not know: {sorted(constraint)}")
    rates: dict[str, int | list[int]] = {}
    refused = []
    for key, value in price.items():
        if value is None:
            continue
        if key not in _RATES:
            raise PriceError(f"gatewatch does not know what {key!r} is a price of; a later release may")
        name, units = _RATES[key]
        tiers = value["tiers"] if isinstance(value, Mapping) else []
        steps = [value["base"] if isinstance(value, Mapping) else value, *(tier["price"] for tier in tiers)]
        starts = [tier["start"] for tier in tiers]
        picos = [_decimal(key, step) * _PICO_USD / units for step in steps]
        if any(not isinstance(start, int) or start < 0 for start in starts) or starts != sorted(set(starts)):
            raise PriceError(f"{key}: thresholds must be whole numbers that rise, not {starts}")
        if any(not 0 <= pico <= _MOST for pico in picos):
            raise PriceError(f"{key}: a rate is below zero, or more than anything costs")
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


def _decimal(key: str, value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise PriceError(f"{key}: {value!r} is no number")
    return Decimal(value)


def _minute(text: str) -> str:
    at = time.fromisoformat(text)
    if at.utcoffset() or at.second or at.microsecond:
        raise PriceError(f"a time of day that is not a minute in UTC: {text}")
    return f"{at:%H:%M}"


def clause_of(clause: Mapping[str, Any]) -> Any:
    """A match of genai-prices in our notation."""
    if len(clause) == 1:
        ((kind, value),) = clause.items()
        if kind in _CLAUSES and isinstance(value, str) and value:
            if kind == "regex":
                re.compile(value)
                return _CLAUSES[kind] + value
            return _CLAUSES[kind] + value.lower()
        if kind == "or":
            return [clause_of(part) for part in value]
        if kind == "and":
            return {"all": [clause_of(part) for part in value]}
    raise PriceError(f"a kind of match that gatewatch does not know: {_json(clause)[:200]}")
