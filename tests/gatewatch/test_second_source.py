"""Service tiers against a second list, LiteLLM's: where both know a rate, they say the same."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

import pytest

from gatewatch.price_book import Price, default_book

PROVIDERS: Final = {
    "openai": "openai",
    "azure": "azure",
    "gemini": "google",
    "vertex_ai-language-models": "google",
    "vertex_ai-anthropic_models": "google",
    "anthropic": "anthropic",
    "bedrock_converse": "aws",
    "mistral": "mistral",
}
TIERS: Final = {"batch": "batches", "flex": "flex", "priority": "priority"}
RATES: Final = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_read": "cache_read_input_token_cost",
}
# (model, tier, rate): the lists disagree, and genai-prices is the first.
KNOWN: Final = {
    ("gemini-3.5-flash-lite", "batch", "cache_read"),
    ("vertex_ai/gemini-3.5-flash-lite", "batch", "cache_read"),
}


@pytest.mark.parametrize(
    # Before genai-prices has rates of tiers they come from our own table, after that from genai-prices.
    ("day", "least"),
    [("2025-12-01", 700), ("2026-11-20", 900)],
)
def test_tiers_cost_what_a_second_list_says(shared_data: Path, day: str, least: int) -> None:
    path = shared_data / "cost" / "litellm" / "model_prices_and_context_window_backup.json.gz"
    listed = json.loads(gzip.decompress(path.read_bytes()), parse_float=Decimal)
    book = default_book()
    at_ms = int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1000
    seen: Counter[bool] = Counter()
    different = set()
    for name, entry in listed.items():
        provider = PROVIDERS.get(entry.get("litellm_provider"))
        if provider is None or name.startswith(("azure/eu", "azure/us")):
            continue
        standard = book.resolve(provider, name, at_ms)
        for tier, suffix in TIERS.items():
            found = book.resolve(provider, name, at_ms, tier)
            if not isinstance(found, Price) or not isinstance(standard, Price) or found.notes:
                continue
            ours = {charge.name: charge.rates[0] for charge in found.charges}
            base = {charge.name: charge.rates[0] for charge in standard.charges}
            for rate, key in RATES.items():
                theirs, usual = entry.get(f"{key}_{suffix}"), entry.get(key)
                # Only where the lists agree on the standard rate: they are of different days.
                if rate in ours and theirs is not None and usual is not None and usual * 10**12 == base[rate]:
                    equal = theirs * 10**12 == ours[rate]
                    seen[equal] += 1
                    if not equal:
                        different.add((name, tier, rate))
    assert different <= KNOWN
    assert seen[True] > least
