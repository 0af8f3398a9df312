"""A second list against our prices: what is compared, what disagrees, and which calls that touches."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest

from gatewatch.price_book import default_book
from gatewatch.price_table import PriceError, day_ms
from gatewatch.second_source import Comparison, Disagreement, compare, read_quotes

AT_MS: Final = day_ms("2026-11-20")
# (model, tier, rate): the lists disagree, and genai-prices is the first.
KNOWN: Final = {
    ("gemini-3.5-flash-lite", "batch", "cache_read"),
    ("vertex_ai/gemini-3.5-flash-lite", "batch", "cache_read"),
}
COMPARED: Final = {
    "openai",
    "azure",
    "gemini",
    "vertex_ai-language-models",
    "vertex_ai-anthropic_models",
    "anthropic",
    "bedrock_converse",
    "mistral",
}


@pytest.mark.parametrize(
    # Before genai-prices has rates of tiers they come from our own table, after that from genai-prices.
    ("day", "least"),
    [("2025-12-01", 700), ("2026-11-20", 900)],
)
def test_tiers_cost_what_a_second_list_says(shared_data: Path, day: str, least: int) -> None:
    path = shared_data / "cost" / "litellm" / "model_prices_and_context_window_backup.json.gz"
    at_ms = int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1000
    book = default_book()
    quotes = [
        quote
        for quote in read_quotes(gzip.decompress(path.read_bytes()), at_ms)
        if quote.provider in COMPARED
        and quote.above_input_tokens == 0
        and quote.component in ("input", "output", "cache_read")
    ]
    standard = [quote for quote in quotes if quote.service_tier == "standard"]
    # Only where the lists agree on the standard rate: they are of different days.
    usual = {
        (quote.provider, quote.model, quote.component)
        for quote in standard
        if compare(book, [quote], at_ms).equal
    }
    seen: Counter[bool] = Counter()
    different = set()
    for quote in quotes:
        if quote.service_tier == "standard" or (quote.provider, quote.model, quote.component) not in usual:
            continue
        found = compare(book, [quote], at_ms)
        seen[True] += found.equal
        seen[False] += found.different
        if found.different:
            different.add((quote.model, quote.service_tier, quote.component))
    assert different <= KNOWN
    assert seen[True] > least


def against(listed: Any, tolerance: str = "0") -> Comparison:
    data = json.dumps(listed).encode()
    return compare(default_book(), read_quotes(data, AT_MS), AT_MS, Decimal(tolerance))


def litellm(name: str, provider: str = "openai", **costs: float) -> dict[str, Any]:
    return {name: {"litellm_provider": provider, **costs}}


def test_equal_rates_are_counted_and_others_named() -> None:
    found = against(
        litellm("gpt-4o", input_cost_per_token=2.5e-06, output_cost_per_token=1.2e-05)
        | litellm("no-such-model", input_cost_per_token=1e-06)
    )
    assert (found.equal, found.different, found.unknown_models) == (1, 1, 1)
    (item,) = found.disagreements
    assert (item.price_id, item.component, item.service_tier) == ("openai/gpt-4o", "output", "standard")
    assert (item.ours_pico_usd, item.theirs_pico_usd) == (10**7, Decimal(12 * 10**6))
    assert item.change == Decimal("0.2")
    assert item.names == ("gpt-4o",)


@pytest.mark.parametrize(("tolerance", "different"), [("0", 1), ("0.00099", 1), ("0.001", 0), ("0.01", 0)])
def test_the_tolerance_is_a_share_of_our_rate_and_just_reached_is_within(
    tolerance: str, different: int
) -> None:
    listed = litellm("gpt-4o", input_cost_per_token=2.5025e-06)
    assert against(listed, tolerance).different == different


def test_context_tiers_and_lifetimes_are_compared_as_such() -> None:
    sonnet: dict[str, float] = {
        "input_cost_per_token": 3e-06,
        "input_cost_per_token_above_200k_tokens": 7e-06,
        "cache_creation_input_token_cost_above_1hr": 6e-06,
        "cache_read_input_token_cost_above_200k_tokens": 6e-07,
    }
    found = against(litellm("claude-sonnet-4-5", "anthropic", **sonnet))
    assert (found.equal, found.different) == (3, 1)
    (item,) = found.disagreements
    assert (item.above_input_tokens, item.to_input_tokens, item.ours_pico_usd) == (200_000, None, 6_000_000)
    base = against(litellm("claude-sonnet-4-5", "anthropic", **sonnet | {"input_cost_per_token": 4e-06}))
    assert [(item.above_input_tokens, item.to_input_tokens) for item in base.disagreements] == [
        (0, 200_000),
        (200_000, None),
    ]


def test_what_is_dearer_in_a_region_touches_the_calls_that_name_the_region() -> None:
    listed = litellm("amazon.nova-lite-v1:0", "bedrock_converse", input_cost_per_token=6e-08)
    listed |= litellm("eu.amazon.nova-lite-v1:0", "bedrock_converse", input_cost_per_token=7.8e-08)
    (item,) = against(listed).disagreements
    assert item.price_id == "aws/amazon.nova-lite-v1:0"
    assert item.touches("EU.amazon.nova-lite-v1:0")
    assert not item.touches("amazon.nova-lite-v1:0")
    assert not item.touches("us.amazon.nova-lite-v1:0")


def test_other_spellings_of_a_model_are_touched_where_the_second_list_has_one_rate() -> None:
    (item,) = against(litellm("gpt-4o", input_cost_per_token=1e-06)).disagreements
    assert item.touches("gpt-4o")
    assert item.touches("openai/gpt-4o")


def test_a_rate_that_is_nothing_with_us_has_no_change_in_per_cent() -> None:
    item = Disagreement(
        price_id="p", provider="p", model="m", service_tier="standard", component="input",
        above_input_tokens=0, to_input_tokens=None, ours_pico_usd=0, theirs_pico_usd=Decimal(5),
        names=("m",), other_names=(),
    )  # fmt: skip
    assert item.change is None


def test_llm_prices_has_histories_and_context_tiers_in_names() -> None:
    def row(name: str, rate: float, **dates: str) -> dict[str, Any]:
        return {"id": name, "price_history": [{"input": rate, "output": None, "input_cached": None, **dates}]}

    luna = {
        "id": "gpt-5.6-luna",
        "price_history": [
            {"input": 9.0, "output": 6.0, "from_date": None, "to_date": "2026-07-30", "input_cached": 0.1},
            {"input": 0.2, "output": 1.2, "from_date": "2026-07-30", "to_date": None, "input_cached": 0.02},
        ],
    }
    models = [luna, row("gpt-5.6-luna-272k", 0.5), row("gpt-4o", 2.5, to_date="2026-11-20")]
    found = against({"vendor": "openai", "models": models})
    assert found.equal == 3
    (item,) = found.disagreements
    assert (item.component, item.above_input_tokens, item.ours_pico_usd) == ("input", 272_000, 400_000)
    combined = [{"id": "gpt-4o", "vendor": "openai", "input": 2.5, "output": 10, "input_cached": 1.25}]
    assert against({"updated_at": "2026-11-20", "prices": combined}).equal == 3


def test_the_lists_at_hand_are_read_whole(shared_data: Path) -> None:
    path = shared_data / "cost" / "litellm" / "model_prices_and_context_window_backup.json.gz"
    quotes = read_quotes(gzip.decompress(path.read_bytes()), AT_MS)
    found = compare(default_book(), quotes, AT_MS, Decimal("0.001"))
    assert found.equal > 5000
    assert found.different < found.equal / 8
    for file in sorted((shared_data / "cost" / "llm_prices_simonw" / "data").glob("*.json")):
        assert read_quotes(file.read_bytes(), AT_MS)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is no JSON"),
        (b"\xff\xfe\xff", "it is no JSON"),
        (b"[" * 100_000, "it is no JSON"),
        (b'{"gpt-4o": {"input_cost_per_token": NaN, "litellm_provider": "openai"}}', "NaN is no number"),
        (b"[]", "it is neither LiteLLM"),
        (b'[{"id": "openai", "models": []}]', "genai-prices' data is imported, not checked"),
        (b'{"gpt-4o": {"input_cost_per_token": 1}}', "it is neither LiteLLM"),
        (
            b'{"m": {"litellm_provider": "o", "input_cost_per_token": -1}}',
            r"m: input_cost_per_token is below zero",
        ),
        (b'{"m": {"litellm_provider": "o", "input_cost_per_token": "1"}}', "m: input_cost_per_token is '1'"),
        (b'{"m": {"litellm_provider": "o"}}', "it holds no price"),
        (b'{"vendor": "o", "models": [{"id": "m"}]}', "model 1 of o has no price_history"),
        (b'{"prices": [{"input": 1}]}', "price 1 has no id"),
        (b'{"prices": [{"id": "m", "input": 1, "from_date": "soon"}]}', "m: 'soon' is no day"),
    ],
)
def test_a_file_that_is_no_second_list_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(PriceError, match=reason):
        read_quotes(data, AT_MS)
