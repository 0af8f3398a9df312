"""The bodies that genai-prices has priced: equal for every provider and API flavour, or the reason is known.

The list was priced as of the first prices of each model, outside of DeepSeek's discount hours; it does
not say when. ``docs/cost.md`` names each kind of difference that is asserted here.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from gatewatch.pricing import Cost, price
from gatewatch.usage import Usage, UsageError

AT: Final = int(datetime(2025, 11, 1, 12, tzinfo=UTC).timestamp()) * 1000
INPUT: Final = frozenset(
    [
        "input",
        "cache_read",
        "cache_write",
        "cache_write_5m",
        "cache_write_1h",
        "input_audio",
        "cache_audio_read",
        "input_image",
    ]
)
OUTPUT: Final = frozenset({"output", "reasoning", "output_audio", "output_image"})

# (provider, flavour, model): what the list says, which cannot be right, and why.
STALE: Final = {
    ("google", "anthropic", "claude-sonnet-4-5-20250929"): "above 200K input tokens at the rates below",
    ("cerebras", "chat", "qwen-3-coder-480b"): "no price, counted as nothing",
    ("mistral", "default", "ministral-8b-latest"): "output at $1, where genai-prices 0.2.3 has $0.10",
}


def entries(shared_data: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Each priced answer: the body, what the source read in it, and the flavour with its prices."""
    path = shared_data / "cost" / "genai_prices" / "usages.json.gz"
    for body in json.loads(gzip.decompress(path.read_bytes())):
        for extracted in body["extracted"]:
            for flavour in extracted["extractors"]:
                if "input_price" in flavour:
                    yield body, extracted["usage"], flavour


def sides(found: Cost) -> tuple[Decimal, Decimal] | None:
    if found.cost_usd is None:
        return None
    parts = {part: Decimal(amount) for part, amount in found.parts_usd.items()}
    return (
        sum((amount for part, amount in parts.items() if part in INPUT), Decimal(0)),
        sum((amount for part, amount in parts.items() if part in OUTPUT), Decimal(0)),
    )


def expected(flavour: dict[str, Any]) -> tuple[Decimal, Decimal]:
    return Decimal(flavour["input_price"]), Decimal(flavour["output_price"])


def test_the_counts_that_the_source_read_cost_what_it_says(shared_data: Path) -> None:
    differences: Counter[str] = Counter()
    checked = totals = 0
    for body, counts, flavour in entries(shared_data):
        checked += 1
        usage = Usage(**{name: count for name, count in counts.items() if name in Usage.__struct_fields__})
        found = price(flavour["provider_id"], body["model"], usage, at_ms=AT)
        if sides(found) != expected(flavour):
            key = (flavour["provider_id"], flavour["api_flavor"], body["model"])
            if not counts:
                differences["no counts at all, priced as nothing"] += 1
            else:
                differences[STALE[key]] += 1
        elif "total_price" in flavour:
            # Web searches, which are neither input nor output.
            assert found.cost_usd is not None
            assert Decimal(found.cost_usd) == Decimal(flavour["total_price"])
            totals += 1
    assert (checked, totals) == (3474, 7)
    assert differences == {
        "no counts at all, priced as nothing": 3,
        "above 200K input tokens at the rates below": 2,
        "no price, counted as nothing": 2,
        "output at $1, where genai-prices 0.2.3 has $0.10": 1,
    }


def test_bodies_as_they_were_sent_cost_what_the_source_says_or_the_reason_is_known(shared_data: Path) -> None:
    differences: Counter[str] = Counter()
    equal = 0
    for body, counts, flavour in entries(shared_data):
        raw = next(body["body"][key] for key in ("usage", "usageMetadata", "meta") if key in body["body"])
        try:
            found = price(flavour["provider_id"], body["model"], raw, at_ms=AT)
        except UsageError as error:
            assert counts == {}, error
            differences["no counts"] += 1
            continue
        if sides(found) == expected(flavour):
            equal += 1
        else:
            differences[reason(body["model"], counts, raw, flavour, found)] += 1
    assert equal == 3040
    assert differences == {
        "embeddings flavour reads no output": 367,
        "Mistral's num_cached_tokens": 21,
        "flavour of another API loses cached or written input": 38,
        "Gemini's thoughts, in the total only": 2,
        "above 200K input tokens at the rates below": 2,
        "no price, counted as nothing": 2,
        "output at $1, where genai-prices 0.2.3 has $0.10": 1,
        "the tier that the body names": 1,
    }


def reason(
    model: str, counts: dict[str, Any], raw: dict[str, Any], flavour: dict[str, Any], found: Cost
) -> str:
    """Why we disagree; each is a fact of the body, not of the numbers."""
    usage = found.usage
    key = (flavour["provider_id"], flavour["api_flavor"], model)
    if key in STALE:
        return STALE[key]
    if flavour["api_flavor"] == "embeddings" and usage.output_tokens and "output_tokens" not in counts:
        return "embeddings flavour reads no output"
    if raw.get("trafficType") == "ON_DEMAND_FLEX" and "flex" in found.explanation:
        return "the tier that the body names"
    if "num_cached_tokens" in raw:
        return "Mistral's num_cached_tokens"
    cached = (usage.cache_read_tokens or 0) + (usage.cache_write_tokens or 0)
    said = counts.get("cache_read_tokens", 0) + counts.get("cache_write_tokens", 0)
    if cached > said:
        return "flavour of another API loses cached or written input"
    if "gemini" in model and (usage.output_tokens or 0) > counts.get("output_tokens", 0):
        return "Gemini's thoughts, in the total only"
    return f"unknown: {key} {counts} {found.explanation}"
