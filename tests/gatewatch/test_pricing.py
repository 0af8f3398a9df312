"""What a call costs: the providers' published rules by hand, and what must hold for any call."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gatewatch
from gatewatch.charge import PARTS
from gatewatch.contract import Contract
from gatewatch.money import half_even, nano_parts
from gatewatch.price_book import Price, PriceBook, default_book
from gatewatch.pricing import (
    MAX_PICO,
    UNKNOWN_CACHED_AUDIO,
    Cost,
    evaluate,
    fields_of,
    price,
    reasons_of,
)
from gatewatch.usage import Usage, UsageError


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


NOON: Final = at("2026-11-20T12:00")


def cost(provider: str, model: str, usage: Usage | dict[str, Any], tier: str = "", **more: Any) -> Cost:
    options: dict[str, Any] = {"at_ms": NOON, "service_tier": tier} | more
    return price(provider, model, usage, **options)


def dollars(amount: str) -> Decimal:
    return Decimal(amount)


# Every expected value is computed by hand from the rates of the page that is named.
@pytest.mark.parametrize(
    ("provider", "model", "usage", "tier", "expected", "parts"),
    [
        pytest.param(
            # developers.openai.com/api/docs/pricing: $2.50 in, $1.25 cached, $10 out.
            "openai",
            "gpt-4o",
            {
                "prompt_tokens": 2000,
                "completion_tokens": 500,
                "prompt_tokens_details": {"cached_tokens": 1024},
            },
            "",
            "0.00872",  # 976 x 2.5 + 1024 x 1.25 + 500 x 10 = 2440 + 1280 + 5000
            {"input": "0.00244", "cache_read": "0.00128", "output": "0.005"},
            id="cached input is charged once",
        ),
        pytest.param(
            # platform.claude.com, Sonnet 4.5: $3, writes $3.75 (5m) and $6 (1h), reads $0.30, $15 out.
            "anthropic",
            "claude-sonnet-4-5",
            {
                "input_tokens": 100,
                "cache_read_input_tokens": 10_000,
                "cache_creation_input_tokens": 3000,
                "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 2000},
                "output_tokens": 200,
            },
            "",
            "0.02205",  # 300 + 3000 + 3750 + 12000 + 3000 = 22050
            {
                "input": "0.0003",
                "cache_read": "0.003",
                "cache_write_5m": "0.00375",
                "cache_write_1h": "0.012",
                "output": "0.003",
            },
            id="cache writes by lifetime",
        ),
        pytest.param(
            # The same above 200K input tokens, cached ones counted: $6, $0.60, $22.50.
            "anthropic",
            "claude-sonnet-4-5",
            {"input_tokens": 1000, "cache_read_input_tokens": 199_001, "output_tokens": 100},
            "",
            "0.1276506",  # 1000 x 6 + 199001 x 0.6 + 100 x 22.5 = 6000 + 119400.6 + 2250
            {"input": "0.006", "cache_read": "0.1194006", "output": "0.00225"},
            id="200k counts cached tokens",
        ),
        pytest.param(
            # Exactly 200,000 is not above.
            "anthropic",
            "claude-sonnet-4-5",
            {"input_tokens": 1000, "cache_read_input_tokens": 199_000, "output_tokens": 100},
            "",
            "0.0642",  # 3000 + 59700 + 1500
            {"input": "0.003", "cache_read": "0.0597", "output": "0.0015"},
            id="200k is not above 200k",
        ),
        pytest.param(
            # ai.google.dev, Gemini 1.5 Pro: prompts up to 128k $1.25 and $5, longer $2.50 and $10.
            "google",
            "gemini-1.5-pro",
            {"promptTokenCount": 128_001, "candidatesTokenCount": 1000, "totalTokenCount": 129_001},
            "",
            "0.3300025",  # 128001 x 2.5 + 1000 x 10
            {"input": "0.3200025", "output": "0.01"},
            id="128k",
        ),
        pytest.param(
            # developers.openai.com, GPT-5.4: above 272K input $5 and $22.50.
            "openai",
            "gpt-5.4",
            {"input_tokens": 300_000, "output_tokens": 2000, "total_tokens": 302_000},
            "",
            "1.545",  # 300000 x 5 + 2000 x 22.5 = 1500000 + 45000
            {"input": "1.5", "output": "0.045"},
            id="272k",
        ),
        pytest.param(
            # docs.x.ai, Grok 4.5: "at or above 200k" $4 and $12.
            "xai",
            "grok-4.5",
            {"input_tokens": 200_000, "output_tokens": 100, "total_tokens": 200_100},
            "",
            "0.8012",
            {"input": "0.8", "output": "0.0012"},
            id="xAI's tier begins at 200k",
        ),
        pytest.param(
            # developers.openai.com, o3 on flex: half of $2 and $8.
            "openai",
            "o3",
            {
                "prompt_tokens": 1000,
                "completion_tokens": 3000,
                "completion_tokens_details": {"reasoning_tokens": 2500},
            },
            "flex",
            "0.013",  # 1000 x 1 + 500 x 4 + 2500 x 4
            {"input": "0.001", "output": "0.002", "reasoning": "0.01"},
            id="flex, reasoning is output",
        ),
        pytest.param(
            # GPT-4.1 on priority: $3.50 and $14.
            "openai",
            "gpt-4.1",
            {"prompt_tokens": 1000, "completion_tokens": 1000},
            "priority",
            "0.0175",
            {"input": "0.0035", "output": "0.014"},
            id="priority",
        ),
        pytest.param(
            # Message Batches: half of $1 and $5; cache reads half of $0.10.
            "anthropic",
            "claude-haiku-4-5",
            {"input_tokens": 1000, "cache_read_input_tokens": 1000, "output_tokens": 1000},
            "batch",
            "0.00305",  # 500 + 50 + 2500
            {"input": "0.0005", "cache_read": "0.00005", "output": "0.0025"},
            id="batch, multipliers stack",
        ),
        pytest.param(
            # platform.claude.com: $10 for 1,000 searches; fetched pages cost their tokens only.
            "anthropic",
            "claude-haiku-4-5",
            {
                "input_tokens": 1000,
                "output_tokens": 100,
                "server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 2},
            },
            "",
            "0.0315",  # 1000 + 500 + 30000
            {"input": "0.001", "output": "0.0005", "tools": "0.03"},
            id="web search fee",
        ),
        pytest.param(
            # docs.x.ai: tools at $5 for 1,000 calls.
            "xai",
            "grok-4.5",
            {
                "input_tokens": 1000,
                "output_tokens": 100,
                "server_side_tool_usage_details": {"web_search_calls": 2, "x_search_calls": 1},
            },
            "",
            "0.0176",  # 2000 + 600 + 15000
            {"input": "0.002", "output": "0.0006", "tools": "0.015"},
            id="xAI tools",
        ),
        pytest.param(
            # docs.perplexity.ai, Sonar Pro with medium context: $3, $15, $10 for 1,000 requests.
            "perplexity",
            "sonar-pro",
            {
                "prompt_tokens": 100,
                "completion_tokens": 400,
                "total_tokens": 500,
                "search_context_size": "medium",
            },
            "",
            "0.0163",  # 300 + 6000 + 10000
            {"input": "0.0003", "output": "0.006", "request": "0.01"},
            id="a fee by request",
        ),
        pytest.param(
            # ai.google.dev, Gemini 2.5 Flash: text $0.30, audio $1, cached $0.03 and audio $0.10, out $2.50.
            "google",
            "gemini-2.5-flash",
            {
                "promptTokenCount": 1000,
                "cachedContentTokenCount": 500,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 400},
                    {"modality": "AUDIO", "tokenCount": 600},
                ],
                "cacheTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 200},
                    {"modality": "AUDIO", "tokenCount": 300},
                ],
                "candidatesTokenCount": 10,
            },
            "",
            "0.000421",  # 200 x 0.3 + 200 x 0.03 + 300 x 1 + 300 x 0.1 + 10 x 2.5 = 60 + 6 + 300 + 30 + 25
            {
                "input": "0.00006",
                "cache_read": "0.000006",
                "output": "0.000025",
                "input_audio": "0.0003",
                "cache_audio_read": "0.00003",
            },
            id="audio split, cached audio taken out once",
        ),
        pytest.param(
            # Thoughts are output, and tokens of built-in tools are input.
            "google",
            "gemini-2.5-flash",
            {
                "promptTokenCount": 100,
                "toolUsePromptTokenCount": 900,
                "candidatesTokenCount": 20,
                "thoughtsTokenCount": 80,
                "totalTokenCount": 1100,
            },
            "",
            "0.00055",  # 1000 x 0.3 + 20 x 2.5 + 80 x 2.5
            {"input": "0.0003", "output": "0.00005", "reasoning": "0.0002"},
            id="Gemini tool-use tokens",
        ),
        pytest.param(
            # developers.openai.com, gpt-realtime: text $4/$16, audio $32/$64, cached $0.40.
            "openai",
            "gpt-realtime",
            {
                "input_tokens": 300,
                "output_tokens": 150,
                "input_token_details": {"text_tokens": 100, "audio_tokens": 200, "cached_tokens": 0},
                "output_token_details": {"text_tokens": 50, "audio_tokens": 100},
            },
            "",
            "0.014",  # 100 x 4 + 200 x 32 + 50 x 16 + 100 x 64 = 400 + 6400 + 800 + 6400
            {"input": "0.0004", "output": "0.0008", "input_audio": "0.0064", "output_audio": "0.0064"},
            id="realtime audio",
        ),
        pytest.param(
            # ai.google.dev, Gemini 2.5 Flash Image: images out $30.
            "google",
            "gemini-2.5-flash-image",
            {
                "promptTokenCount": 10,
                "candidatesTokenCount": 1300,
                "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
            },
            "",
            "0.038728",  # 10 x 0.3 + 10 x 2.5 + 1290 x 30 = 3 + 25 + 38700
            {"input": "0.000003", "output": "0.000025", "output_image": "0.0387"},
            id="images out",
        ),
        pytest.param(
            # ai.google.dev, Gemini Embedding 2: text $0.20, images $0.45, video $12.
            "google",
            "gemini-embedding-2",
            {
                "promptTokenCount": 1258,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 1000},
                    {"modality": "VIDEO", "tokenCount": 258},
                ],
            },
            "",
            "0.003296",  # 1000 x 0.2 + 258 x 12
            {"input": "0.003296"},
            id="video",
        ),
        pytest.param(
            # platform.claude.com: US-only inference costs 1.1 times, on every kind of token.
            "anthropic",
            "claude-opus-4-6",
            {"input_tokens": 1000, "output_tokens": 100, "inference_geo": "us"},
            "",
            "0.00825",  # 1000 x 5.5 + 100 x 27.5
            {"input": "0.0055", "output": "0.00275"},
            id="data residency",
        ),
        pytest.param(
            # Older models have no such price.
            "anthropic",
            "claude-sonnet-4-5",
            {"input_tokens": 1000, "output_tokens": 100, "inference_geo": "us"},
            "",
            "0.0045",
            {"input": "0.003", "output": "0.0015"},
            id="data residency, older model",
        ),
        pytest.param(
            # Fast mode of Opus 4.8, which usage names: $10 and $50.
            "anthropic",
            "claude-opus-4-8",
            {"input_tokens": 1000, "output_tokens": 100, "speed": "fast", "service_tier": "standard"},
            "",
            "0.015",
            {"input": "0.01", "output": "0.005"},
            id="fast mode",
        ),
        pytest.param(
            # api-docs.deepseek.com, V4 Flash in a peak hour (noon is none): see the book's tests for hours.
            "deepseek",
            "deepseek-v4-flash",
            {"prompt_tokens": 1000, "completion_tokens": 100, "prompt_cache_hit_tokens": 400},
            "",
            "0.0001512",  # 600 x 0.15 + 400 x 0.003 + 100 x 0.6 = 90 + 1.2 + 60
            {"input": "0.00009", "cache_read": "0.0000012", "output": "0.00006"},
            id="DeepSeek off-peak",
        ),
    ],
)
def test_published_rules(
    provider: str, model: str, usage: dict[str, Any], tier: str, expected: str, parts: dict[str, str]
) -> None:
    found = cost(provider, model, usage, tier)
    assert (found.cost_usd, found.parts_usd) == (expected, parts)
    assert (found.cost_status, found.reasons) == ("priced", ())
    assert sum(map(dollars, parts.values())) == dollars(expected)


def test_the_usage_names_its_tier_unless_the_call_does() -> None:
    usage = {"input_tokens": 1000, "output_tokens": 0, "service_tier": "batch"}
    assert cost("anthropic", "claude-haiku-4-5", usage).cost_usd == "0.0005"
    assert cost("anthropic", "claude-haiku-4-5", usage, "default").cost_usd == "0.0005"
    vertex = {"promptTokenCount": 1000, "candidatesTokenCount": 0, "trafficType": "ON_DEMAND_FLEX"}
    assert cost("google", "gemini-2.5-pro", vertex).cost_usd == "0.000625"
    assert cost("google", "gemini-2.5-pro", vertex, "priority").cost_usd == "0.00225"


@pytest.mark.parametrize(
    ("provider", "model", "usage", "tier", "expected", "reason"),
    [
        (
            "openai",
            "gpt-3.5-turbo",
            Usage(input_tokens=1000, output_tokens=0, web_searches=2),
            "",
            "0.0005",
            "no fee is known for web searches of openai; 2 left out",
        ),
        (
            "xai",
            "grok-4.5",
            Usage(input_tokens=10, output_tokens=0, tool_requests={"view_image": 3}),
            "",
            "0.00002",
            "no fee is known for requests of view_image; 3 left out",
        ),
        ("openai", "gpt-4o", Usage(input_tokens=1000), "", "0.0025", "did not say output tokens"),
        ("openai", "gpt-5", Usage(input_tokens=8, output_tokens=0), "scale", "0.00001", "capacity that was"),
        (
            "aws",
            "anthropic.claude-sonnet-4-20250514-v1:0",
            Usage(input_tokens=10, output_tokens=0, cache_write_tokens=9, cache_write_1h_tokens=9),
            "",
            "0.000003",
            "no price is known for cache writes that live for an hour; 9 left out",
        ),
        (
            "openrouter",
            "google/gemini-2.5-flash",
            Usage(input_tokens=1000, output_tokens=0, cache_write_tokens=400),
            "",
            "0.00018",
            "finer than a pico-USD; 400 left out",
        ),
        (
            "google",
            "gemini-2.5-flash",
            Usage(input_tokens=1000, output_tokens=0, cache_read_tokens=600, input_audio_tokens=900),
            "",
            # At least 500 of the cached tokens are audio: 100 x 0.03 + 400 x 1 + 500 x 0.1.
            "0.000453",
            "which of the cached tokens are audio",
        ),
        (
            "perplexity",
            "sonar",
            Usage(input_tokens=10, output_tokens=0),
            "",
            "0.01201",
            "depends on its search context size, which was not said",
        ),
    ],
)
def test_what_has_no_price_makes_a_cost_partial_and_is_named(
    provider: str, model: str, usage: Usage, tier: str, expected: str, reason: str
) -> None:
    found = cost(provider, model, usage, tier)
    assert (found.cost_status, found.cost_usd) == ("partial", expected)
    assert any(reason in said for said in found.reasons), found.reasons
    assert reason in found.explanation


def test_an_unknown_model_has_no_cost_and_names_that_are_near() -> None:
    found = cost("openai", "gpt-4-turbos", {"prompt_tokens": 10, "completion_tokens": 1})
    assert (found.cost_status, found.cost_usd, found.parts_usd) == ("unpriced", None, {})
    assert "gpt-4-turbo" in found.nearest
    assert found.usage == Usage(input_tokens=10, output_tokens=1)


def test_nothing_that_could_be_charged_is_unpriced_and_not_zero() -> None:
    found = cost("openai", "gpt-3.5-turbo", Usage(web_searches=2))
    assert (found.cost_status, found.cost_usd) == ("unpriced", None)


def test_a_reported_cost_is_taken_only_where_asked_for_and_where_there_is_no_price() -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 0}
    assert cost("openai", "nope", usage).cost_status == "unpriced"
    found = cost("openai", "nope", usage, reported_cost_usd="0.0123")
    assert (found.cost_status, found.cost_usd) == ("provider_reported", "0.0123")
    assert cost("openai", "gpt-4o", usage, reported_cost_usd="0.0123").cost_usd == "0.0025"
    for wrong in ("-1", "1e7", "nan", "1e-13", "one"):
        with pytest.raises(UsageError, match="reported cost"):
            cost("openai", "nope", usage, reported_cost_usd=wrong)


def test_free_is_said_and_not_just_zero() -> None:
    found = cost("openrouter", "openai/gpt-oss-20b:free", {"prompt_tokens": 1000, "completion_tokens": 10})
    assert (found.cost_status, found.cost_usd) == ("free", "0")
    book = PriceBook([Contract(contract_id="own", provider="vllm", free=True)])
    assert cost("vllm", "llama", Usage(input_tokens=5), book=book).cost_status == "free"


@pytest.mark.parametrize(
    ("usage", "message"),
    [
        ({"prompt_tokens": -1, "completion_tokens": 1}, "negative"),
        ({"prompt_tokens": 1.5, "completion_tokens": 1}, "fractional"),
        ({"prompt_tokens": 10**12, "completion_tokens": 1}, "more than any call can use"),
        (
            {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 6}},
            "exceed",
        ),
        (Usage(input_tokens=5, cache_read_tokens=6, output_tokens=1), "exceed the input tokens"),
        (Usage(output_tokens=5, output_reasoning_tokens=4, output_audio_tokens=4), "exceed"),
        (Usage(cache_read_tokens=6), "exceed"),
        (Usage(input_tokens=1, output_tokens=1, web_searches=10**9), "half a million dollars"),
        ({}, "no known token counts"),
    ],
)
def test_usage_that_cannot_be_is_refused(usage: Usage | dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        speaks = isinstance(usage, Usage) and usage.output_audio_tokens
        cost("openai", "gpt-realtime" if speaks else "gpt-4o", usage)


def test_a_time_that_cannot_be_is_refused() -> None:
    for wrong in (-1, 10**16):
        with pytest.raises(UsageError, match="time of the call"):
            cost("openai", "gpt-4o", Usage(input_tokens=1), at_ms=wrong)


def test_the_explanation_can_be_checked_with_a_pocket_calculator() -> None:
    found = cost(
        "anthropic",
        "claude-sonnet-4-5",
        {"input_tokens": 3, "cache_read_input_tokens": 1111, "output_tokens": 33},
    )
    assert found.explanation == (
        "input 3 × $3/M + cache_read 1,111 × $0.3/M + output 33 × $15/M = $0.0008373; "
        "1,114 input tokens, rates up to 200,000; standard rates; anthropic/claude-sonnet-4-5, "
        "valid from the list's beginning; genai-prices 0.2.3, https://www.anthropic.com/pricing#api"
    )


def test_it_is_the_package_s_public_function() -> None:
    assert gatewatch.price is price
    assert gatewatch.price("openai", "gpt-4o", {"prompt_tokens": 4, "completion_tokens": 0}).cost_usd
    with pytest.raises(AttributeError, match="no attribute 'prise'"):
        gatewatch.prise  # noqa: B018


# --- what holds for any call

MODELS: Final = (
    ("anthropic", "claude-sonnet-4-5", ""),
    ("anthropic", "claude-haiku-5-5", "batch"),
    ("openai", "gpt-4o", ""),
    ("openai", "gpt-5.6-sol", "flex"),
    ("openai", "gpt-realtime", ""),
    ("google", "gemini-2.5-flash", ""),
    ("google", "gemini-2.5-pro", "priority"),
    ("google", "gemini-3-pro-image-preview", ""),
    ("xai", "grok-4.5", ""),
    ("aws", "us.amazon.nova-lite-v1:0", ""),
    ("perplexity", "sonar", ""),
    ("openrouter", "google/gemini-2.5-flash", ""),
)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Usage that adds up, with parts that overlap as providers' do."""

    def part(most: int) -> int | None:
        return draw(st.none() | st.integers(0, most))

    total = draw(st.integers(0, 600_000))
    read = part(total)
    write = part(total - (read or 0))
    write_5m = part(write or 0)
    write_1h = part((write or 0) - (write_5m or 0))
    audio = part(total - (write or 0))
    image = part(total - (write or 0) - (audio or 0))
    read_audio = part(min(read or 0, audio or 0))
    # Cached, written, and of a kind: together no more than there is.
    if (read or 0) + (write or 0) + (audio or 0) + (image or 0) - (read_audio or 0) > total:
        image = 0
        if (read or 0) + (write or 0) + (audio or 0) - (read_audio or 0) > total:
            read_audio = None
    out = draw(st.integers(0, 100_000))
    reasoning = part(out)
    out_audio = part(out - (reasoning or 0))
    out_image = part(out - (reasoning or 0) - (out_audio or 0))
    return Usage(
        input_tokens=total,
        cache_read_tokens=read,
        cache_write_tokens=write,
        cache_write_5m_tokens=write_5m if write else None,
        cache_write_1h_tokens=write_1h if write else None,
        output_tokens=out,
        output_reasoning_tokens=reasoning,
        input_audio_tokens=audio,
        cache_audio_read_tokens=read_audio,
        output_audio_tokens=out_audio,
        input_image_tokens=image,
        output_image_tokens=out_image,
        web_searches=draw(st.none() | st.integers(0, 50)),
        tool_requests=draw(st.dictionaries(st.sampled_from(["x_search", "file_search"]), st.integers(1, 9))),
    )


models = st.sampled_from(MODELS)


@given(models, usages())
def test_parts_add_up_and_are_never_negative(model: tuple[str, str, str], usage: Usage) -> None:
    found = cost(*model[:2], usage, model[2])
    assert found.cost_pico_usd == sum(found.parts_pico_usd.values())
    assert all(pico > 0 for pico in found.parts_pico_usd.values())
    assert list(found.parts_pico_usd) == [part for part in PARTS if part in found.parts_pico_usd]
    nano = found.parts_nano_usd
    assert sum(nano.values()) == half_even(found.cost_pico_usd, 1000)
    assert min(nano.values()) >= 0
    assert sum(map(Decimal, found.parts_usd.values())) == Decimal(found.cost_usd or "nan")


@given(models, usages())
def test_the_explanation_says_the_sum(model: tuple[str, str, str], usage: Usage) -> None:
    found = cost(*model[:2], usage, model[2])
    terms, _, total = found.explanation.partition(" = $")
    total = total.partition(";")[0]
    assert total == found.cost_usd
    if not terms.startswith("nothing"):
        exact = Decimal(0)
        for term in terms.split(" + "):
            count, rate = term.rsplit(" × $", 1)
            number = Decimal(count.rsplit(" ", 1)[1].replace(",", ""))
            exact += number * (Decimal(rate[:-2]) / 10**6 if rate.endswith("/M") else Decimal(rate))
        assert exact == Decimal(total)


@given(models, st.lists(usages(), max_size=12), st.integers(0, 12))
def test_costs_are_additive_over_any_split_of_calls(
    model: tuple[str, str, str], calls: list[Usage], where: int
) -> None:
    def spent(some: list[Usage]) -> Counter[str]:
        total: Counter[str] = Counter()
        for usage in some:
            found = cost(*model[:2], usage, model[2])
            total.update(found.parts_pico_usd)
            total["all"] += found.cost_pico_usd or 0
        return total

    assert spent(calls) == spent(calls[:where]) + spent(calls[where:])


@given(models, st.lists(usages(), min_size=1, max_size=30))
def test_columns_are_charged_as_single_calls_are(model: tuple[str, str, str], calls: list[Usage]) -> None:
    found = default_book().resolve(*model[:2], NOON, model[2])
    assert isinstance(found, Price)
    rows = [fields_of(usage) for usage in calls]
    names = sorted({name for row in rows for name in row} | {"input_tokens"})
    columns = {name: np.array([row.get(name, 0) for row in rows], dtype=np.int64) for name in names}
    by_column = evaluate(found, columns)
    refused = np.broadcast_to(by_column.refused, len(rows))
    unsure = np.broadcast_to(by_column.unsure, len(rows))
    nano = nano_parts([np.broadcast_to(by_column.parts.get(part, np.int64(0)), len(rows)) for part in PARTS])
    for index, (usage, row) in enumerate(zip(calls, rows, strict=True)):
        single = evaluate(found, row)
        assert bool(refused[index]) == bool(single.refused)
        assert bool(unsure[index]) == bool(single.unsure)
        if single.refused:
            continue
        for part in PARTS:
            pico = by_column.parts.get(part, np.int64(0))
            assert int(np.broadcast_to(pico, len(rows))[index]) == single.parts.get(part, 0)
        whole = cost(*model[:2], usage, model[2])
        assert [int(part[index]) for part in nano] == list(whole.parts_nano_usd.values())


def test_a_column_refuses_what_a_single_call_refuses_and_does_not_overflow() -> None:
    found = default_book().resolve("openai", "gpt-4o", NOON)
    assert isinstance(found, Price)
    columns = {
        "input_tokens": np.array([10, 10, 10**9, 10]),
        "cache_read_tokens": np.array([3, 11, 0, 0]),
        "web_searches": np.array([0, 0, 0, 10**9]),
    }
    result = evaluate(found, columns)
    assert result.refused.tolist() == [False, True, False, True]
    assert all(abs(int(pico)) <= MAX_PICO for part in result.parts.values() for pico in part)


def test_an_unsure_split_is_the_least_that_is_possible() -> None:
    found = default_book().resolve("google", "gemini-2.5-flash", NOON)
    assert isinstance(found, Price)
    usage = Usage(input_tokens=100, cache_read_tokens=60, input_audio_tokens=70, output_tokens=0)
    fields = fields_of(usage)
    assert fields[UNKNOWN_CACHED_AUDIO] == 1
    result = evaluate(found, fields)
    counts = {charge.name: count for charge, count in zip(found.charges, result.counts, strict=True)}
    assert (counts["cache_audio_read"], counts["input_audio"], counts["cache_read"]) == (30, 40, 30)
    assert "input" not in counts or counts["input"] == 0
    assert reasons_of(found, usage, fields, bool(result.unsure))


# --- recorded bodies


def test_gold_cases_cost_what_two_calculators_agree_on(shared_data: Path) -> None:
    path = shared_data / "cost" / "recorded_usage" / "gold_dev.jsonl"
    checked = 0
    for line in path.read_text("utf-8").splitlines():
        case = json.loads(line)
        if not case["expected"].get("oracles_agree"):
            continue
        found = price(case["provider"], case["model"], case["usage"], service_tier=case["service_tier"] or "")
        expected = Decimal(case["expected"]["genai_prices"]["total"])
        assert found.cost_usd is not None, case["case_id"]
        assert abs(Decimal(found.cost_usd) - expected) <= Decimal("1e-9"), (
            case["case_id"],
            found.explanation,
        )
        checked += 1
    assert checked == 92
