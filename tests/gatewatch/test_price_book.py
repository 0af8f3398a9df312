"""Names resolve as gateways send them, or are unpriced with a reason; contracts override."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewatch.contract import Contract
from gatewatch.price_book import Price, PriceBook, PriceError, Unpriced, default_book, standard_tier


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


NOON = at("2026-11-20T12:00")
BOOK = default_book()


def resolve(provider: str, model: str, tier: str = "", at_ms: int = NOON, **more: str) -> Price:
    found = BOOK.resolve(provider, model, at_ms, tier, **more)
    assert isinstance(found, Price), found
    return found


def unpriced(provider: str, model: str) -> Unpriced:
    found = BOOK.resolve(provider, model, NOON)
    assert isinstance(found, Unpriced), found
    return found


def rates(price: Price | Unpriced) -> dict[str, tuple[int, ...]]:
    assert isinstance(price, Price), price
    return {charge.name: charge.rates for charge in price.charges}


SONNET = "anthropic.claude-sonnet-4-5-20250929-v1:0"
ARN = "arn:aws:bedrock:us-east-1:123456789012"


@pytest.mark.parametrize(
    ("provider", "model", "price_id"),
    [
        ("openai", "gpt-4o", "openai/gpt-4o"),
        ("openai", "gpt-4o-2024-11-20", "openai/gpt-4o"),
        ("openai", "openai/gpt-4o", "openai/gpt-4o"),
        ("OpenAI", " GPT-4o ", "openai/gpt-4o"),
        ("openai", "GPT 4o", "openai/gpt-4o"),
        ("api.openai.com", "gpt-4o", "openai/gpt-4o"),
        ("openai", "gpt-5.2-20251211", "openai/gpt-5.2"),
        ("openai", "ft:gpt-4o-mini-2024-07-18:org::id", "openai/ft:gpt-4o-mini"),
        ("openai", "ft:gpt-4.1-2025-04-14:acme:support:AbC", "openai/ft:gpt-4.1"),
        ("aws.bedrock", f"us.{SONNET}", f"aws/regional.{SONNET}"),
        ("bedrock", f"{ARN}:inference-profile/us.{SONNET}", f"aws/regional.{SONNET}"),
        ("bedrock", f"{ARN}:inference-profile/global.{SONNET}", f"aws/global.{SONNET}"),
        ("AWS Bedrock", f"arn:aws:bedrock:eu-west-1::foundation-model/{SONNET}", f"aws/regional.{SONNET}"),
        ("bedrock", f"bedrock/converse/global.{SONNET}", f"aws/global.{SONNET}"),
        ("aws", "eu.meta.llama3-2-1b-instruct-v1:0", "aws/meta.llama3-2-1b-instruct-v1:0"),
        ("azure.ai.openai", "gpt-4o", "azure/openai/gpt-4o"),
        ("azure_ai", "claude-sonnet-4-5", "azure/anthropic/claude-sonnet-4-5"),
        ("gcp.vertex_ai", "publishers/google/models/gemini-2.5-pro", "google/gemini-2.5-pro"),
        (
            "vertex_ai",
            "projects/p/locations/us/publishers/anthropic/models/claude-sonnet-4-5@20250929",
            "google/claude-sonnet-4-5",
        ),
        ("vertex_ai", "claude-3-5-sonnet@20240620", "google/claude-3-5-sonnet"),
        ("gcp.gemini", "models/gemini-2.5-flash", "google/gemini-2.5-flash"),
        ("openrouter", "anthropic/claude-3.5-sonnet:beta", "openrouter/anthropic/claude-3.5-sonnet"),
        ("openrouter", "openrouter/anthropic/claude-3.7-sonnet", "openrouter/anthropic/claude-3.7-sonnet"),
        ("openrouter", "anthropic/claude-3.7-sonnet:thinking", "openrouter/anthropic/claude-3.7-sonnet"),
        ("mistral_ai", "mistral-large-latest", "mistral/mistral-large"),
        ("x_ai", "grok-4.5", "x-ai/grok-4.5"),
        ("xai", "xai/grok-4.5", "x-ai/grok-4.5"),
        ("litellm", "anthropic/claude-haiku-4-5", "anthropic/claude-haiku-4-5"),
        ("cohere_chat", "command-r-plus", "cohere/command-r-plus"),
        ("amazon-bedrock-eu", f"global.{SONNET}", f"aws/global.{SONNET}"),
        (
            "azure",
            "gpt-4o-mini-2024-07-18.ft-0123",
            "azure/openai/gpt-4o-mini-2024-07-18.ft-",
        ),
    ],
)
def test_names_as_gateways_send_them_resolve(provider: str, model: str, price_id: str) -> None:
    assert resolve(provider, model).price_id == price_id


@pytest.mark.parametrize(
    ("provider", "model", "reason", "near"),
    [
        ("openai", "gpt-4-turbos", "openai has no model 'gpt-4-turbos'", "gpt-4-turbo"),
        ("anthropic", "opus-claude-9", "anthropic has no model", ""),
        ("opnai", "gpt-4o", "the provider 'opnai' is not known", "openai"),
        ("openai", "ft:gpt-9-2030-01-01:org::id", "openai has no model", ""),
        ("openai", "azure/gpt-4o", "openai has no model 'azure/gpt-4o'", ""),
        ("", "gpt-4o", "no provider is named", ""),
        ("openai", "", "no model is named", ""),
        ("openai", "x" * 600, "longer than 512 characters", ""),
        ("azure", "prod-chat", "needs a contract row that says which model it is", ""),
        ("bedrock", f"{ARN}:application-inference-profile/abc", "names a resource of the account's own", ""),
        ("vertex_ai", "projects/p/locations/l/endpoints/7", "tuned model of the project's own", ""),
        ("hosted_vllm", "llama-70b", "is a server that somebody runs", ""),
        ("openai-compatible", "gpt-4o", "is a server that somebody runs", ""),
        ("litellm", "gpt-4o", "does not begin with a provider's name", ""),
        ("multimodal-gateway", "gpt-4o", "the provider 'multimodal-gateway' is not known", ""),
        ("azure", "o4-mini-2025-04-16.ft-0123", "azure has no model", ""),
        ("openai", "whisper-1", "sold by hours of audio", ""),
        ("cerebras", "qwen-3-coder-480b", "without a price", ""),
        ("huggingface_together", "deepseek-ai/DeepSeek-V4-Flash-0731", "finer than a pico-USD", ""),
    ],
)
def test_what_is_not_known_is_unpriced_with_a_reason_and_never_guessed(
    provider: str, model: str, reason: str, near: str
) -> None:
    found = unpriced(provider, model)
    assert reason in found.reason
    if near:
        assert near in BOOK.nearest(found)


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=20), st.integers(0, 4 * 10**12))
def test_any_names_get_an_answer(provider: str, model: str, tier: str, at_ms: int) -> None:
    for name in (provider, "openrouter", "aws.bedrock"):
        assert isinstance(BOOK.resolve(name, model, at_ms, tier), Price | Unpriced)


def test_a_route_that_may_be_dearer_is_partial() -> None:
    assert "dearer provider" in resolve("openrouter", "openai/gpt-4o:nitro").notes[0]
    assert "fee for web results" in resolve("openrouter", "openai/gpt-4o:online").notes[0]
    assert resolve("openrouter", "openai/gpt-oss-20b:free").free


# Hand-copied from the providers' pages; dollars for a million tokens are pico-USD a token times 10**-6.
def test_prices_change_on_their_day() -> None:
    # OpenAI cut o3 from $10/$40 to $2/$8 on 2025-06-10.
    assert rates(resolve("openai", "o3", at_ms=at("2025-06-09T23:59")))["input"] == (10_000_000,)
    assert rates(resolve("openai", "o3", at_ms=at("2025-06-10T00:00")))["output"] == (8_000_000,)
    before = resolve("openai", "o3", at_ms=at("2025-06-09T00:00"))
    assert (before.valid_from, before.valid_to) == ("", "2025-06-10")


@pytest.mark.parametrize(
    ("when", "rate"),
    [
        ("2026-11-20T00:59", 150_000),  # a Friday, off-peak
        ("2026-11-20T01:00", 300_000),
        ("2026-11-20T03:59", 300_000),
        ("2026-11-20T04:00", 150_000),
        ("2026-11-20T09:59", 300_000),
        ("2026-11-20T10:00", 150_000),
        ("2026-11-21T01:00", 150_000),  # a Saturday has no peak
        ("2026-08-18T01:00", 440_000),  # the first weeks of peak hours
        ("2026-08-18T05:00", 220_000),
        ("2026-07-01T01:00", 140_000),  # before there were any
    ],
)
def test_deepseek_is_dearer_in_peak_hours_of_weekdays(when: str, rate: int) -> None:
    assert rates(resolve("deepseek", "deepseek-v4-flash", at_ms=at(when)))["input"] == (rate,)


@pytest.mark.parametrize(
    ("model", "threshold", "below", "above"),
    [
        ("gemini-1.5-pro", 128_000, 1_250_000, 2_500_000),  # ai.google.dev: prompts > 128k
        ("gemini-2.5-pro", 200_000, 1_250_000, 2_500_000),  # ai.google.dev: prompts > 200k
        ("claude-sonnet-4-5", 200_000, 3_000_000, 6_000_000),  # platform.claude.com: > 200K input tokens
        ("gpt-5.4", 272_000, 2_500_000, 5_000_000),  # developers.openai.com: > 272K input tokens
        ("grok-4.5", 199_999, 2_000_000, 4_000_000),  # docs.x.ai: "at or above 200k"
        ("claude-haiku-5-5", 100_000, 100_000, 500_000),
    ],
)
def test_context_tiers_of_the_providers_lists(model: str, threshold: int, below: int, above: int) -> None:
    provider = {"gem": "google", "cla": "anthropic", "gpt": "openai", "gro": "xai"}[model[:3]]
    price = resolve(provider, model)
    assert price.thresholds == (threshold,)
    assert rates(price)["input"] == (below, above)


@pytest.mark.parametrize(
    ("provider", "model", "tier", "when", "expected"),
    [
        # https://developers.openai.com/api/docs/pricing: gpt-5 $1.25/$0.125/$10, flex half, priority twice.
        (
            "openai",
            "gpt-5",
            "flex",
            "2026-11-20",
            {"input": 625_000, "cache_read": 62_500, "output": 5_000_000},
        ),
        (
            "openai",
            "gpt-5",
            "flex",
            "2025-11-20",
            {"input": 625_000, "cache_read": 62_500, "output": 5_000_000},
        ),
        ("openai", "gpt-5", "priority", "2026-11-20", {"input": 2_500_000, "output": 20_000_000}),
        ("openai", "gpt-5", "priority", "2025-11-20", {"input": 2_500_000, "output": 20_000_000}),
        ("openai", "gpt-4o-mini", "priority", "2025-11-20", {"input": 250_000, "output": 1_000_000}),
        ("openai", "o4-mini", "priority", "2025-11-20", {"input": 2_000_000, "cache_read": 500_000}),
        ("openai", "gpt-4o", "batch", "2025-01-20", {"input": 1_250_000, "output": 5_000_000}),
        # https://platform.claude.com/docs/en/build-with-claude/batch-processing: half of everything.
        (
            "anthropic",
            "claude-sonnet-4-5",
            "batch",
            "2025-11-20",
            {"input": 1_500_000, "cache_read": 150_000, "cache_write_1h": 3_000_000, "output": 7_500_000},
        ),
        # https://ai.google.dev/gemini-api/docs/optimization: flex at 50 %, priority at 75 to 100 % more.
        ("google", "gemini-2.5-pro", "flex", "2026-11-20", {"input": 625_000, "cache_read": 125_000}),
        (
            "google",
            "gemini-2.5-pro",
            "ON_DEMAND_PRIORITY",
            "2026-11-20",
            {"input": 2_250_000, "output": 18_000_000},
        ),
        # Bedrock since 2025-11-18: flex half, priority 1.75 times.
        ("aws", "us.amazon.nova-pro-v1:0", "flex", "2025-12-01", {"input": 400_000, "output": 1_600_000}),
        ("aws", "us.amazon.nova-pro-v1:0", "priority", "2025-12-01", {"input": 1_400_000}),
        ("aws", f"us.{SONNET}", "batch", "2025-12-01", {"input": 1_650_000, "output": 8_250_000}),
        # https://learn.microsoft.com: global batch at 50 % of global standard.
        ("azure", "gpt-4o", "batch", "2026-11-20", {"input": 1_250_000, "output": 5_000_000}),
        # https://console.groq.com/docs/flex-processing: "Pricing matches the on-demand tier."
        ("groq", "llama-3.3-70b-versatile", "flex", "2026-11-20", {"input": 590_000}),
    ],
)
def test_service_tiers(provider: str, model: str, tier: str, when: str, expected: dict[str, int]) -> None:
    price = resolve(provider, model, tier, at(when))
    assert {name: rates(price)[name][0] for name in expected} == expected
    assert price.notes == ()
    assert price.tier_reason


@pytest.mark.parametrize(
    ("provider", "model", "tier"),
    [
        ("anthropic", "claude-sonnet-4-5", "priority"),
        ("openai", "gpt-5", "scale"),
        ("cohere", "command-r", "batch"),
        ("aws", "us.amazon.nova-pro-v1:0", "made-up"),
    ],
)
def test_a_tier_without_a_known_price_is_partial_at_standard_rates(
    provider: str, model: str, tier: str
) -> None:
    price = resolve(provider, model, tier)
    assert "these are the standard rates" in price.notes[0]
    assert rates(price) == rates(resolve(provider, model))


@pytest.mark.parametrize(
    "name", ["", "default", "STANDARD", "auto", "on-demand", "not_available", "ON_DEMAND", "standard_only"]
)
def test_names_of_the_standard_tier(name: str) -> None:
    assert standard_tier(name) == "standard"


@given(st.integers(0, 2 * 10**12))
def test_within_a_segment_nothing_changes(at_ms: int) -> None:
    book = default_book()
    day = 86_400_000
    column = np.array([at_ms])
    by_column = (
        np.searchsorted(book.changes_ms, column, "right") * (len(book.daily_changes_ms) + 1)
        + np.searchsorted(book.daily_changes_ms, column % day, "right")
    ) * 2 + ((column // day + 3) % 7 >= 5)
    assert book.segment(at_ms) == int(by_column[0])


def test_a_price_is_resolved_once_for_a_segment() -> None:
    book = PriceBook()
    first = book.resolve("openai", "gpt-4o", NOON)
    assert book.resolve("openai", "gpt-4o", NOON + 3_600_000) is first


# --- contracts


def book(*rows: dict[str, Any]) -> PriceBook:
    return PriceBook([Contract(**{"contract_id": f"c{index}", **row}) for index, row in enumerate(rows)])


def own_rates(rows: PriceBook, provider: str, model: str, **more: str) -> dict[str, tuple[int, ...]]:
    return rates(rows.resolve(provider, model, NOON, **more))


def test_an_azure_deployment_is_the_model_that_a_contract_says() -> None:
    rows = book({"provider": "azure", "deployment": "prod-chat", "same_as_model": "gpt-4o"})
    found = rows.resolve("azure.ai.openai", "prod-chat", NOON)
    assert isinstance(found, Price)
    assert found.price_id == "azure/openai/gpt-4o"
    assert isinstance(rows.resolve("azure", "other", NOON), Unpriced)
    assert rows.resolve("azure", "whatever", NOON, deployment="prod-chat") == found


def test_a_bedrock_profile_is_the_model_that_a_contract_says() -> None:
    arn = f"{ARN}:application-inference-profile/abc"
    rows = book({"model": arn, "same_as_model": f"us.{SONNET}"})
    assert own_rates(rows, "aws.bedrock", arn)["input"] == (3_300_000,)


def test_a_self_hosted_deployment_is_free_or_has_a_price_of_its_own() -> None:
    rows = book(
        {"provider": "vllm", "free": True},
        {"provider": "vllm", "model": "llama-70b", "rates": {"input": ["0.2"], "output": ["0.6"]}},
    )
    free = rows.resolve("vllm", "mistral-7b", NOON)
    assert isinstance(free, Price) and free.free
    assert own_rates(rows, "vllm", "llama-70b") == {
        "input": (200_000,),
        "output": (600_000,),
        "reasoning": (600_000,),
    }


def test_a_discount_and_a_mark_up_follow_each_other() -> None:
    rows = book(
        {"provider": "openai", "adjust_bp": -1000},
        {"provider": "openai", "model": "gpt-4o", "adjust_bp": -2000},
        {"tenant": "acme", "adjust_bp": 500},
    )
    assert own_rates(rows, "openai", "gpt-4o-mini")["input"] == (135_000,)
    assert own_rates(rows, "openai", "gpt-4o-2024-08-06")["input"] == (
        2_000_000,
    )  # the model's row says more
    assert own_rates(rows, "openai", "gpt-4o", tenant="acme")["input"] == (2_100_000,)
    assert own_rates(rows, "openai", "gpt-4o", tenant="other")["input"] == (2_000_000,)
    assert own_rates(rows, "anthropic", "claude-haiku-4-5")["input"] == (1_000_000,)
    found = rows.resolve("openai", "gpt-4o", NOON, tenant="acme")
    assert isinstance(found, Price)
    assert found.price_id == "openai/gpt-4o*c1*c2"
    assert found.source.endswith("-20 % by contract c1, +5 % by contract c2")


def test_a_currency_has_a_rate_and_a_date() -> None:
    rows = book(
        {
            "provider": "mistral",
            "model": "mistral-large-latest",
            "rates": {"input": ["2"], "output": ["6", "128000", "9"]},
            "currency": "EUR",
            "usd_per_unit": "1.0842",
            "rate_date": "2026-11-01",
        }
    )
    found = rows.resolve("mistral", "mistral-large-latest", NOON)
    assert isinstance(found, Price)
    assert rates(found)["input"] == (2_168_400, 2_168_400)
    assert rates(found)["output"] == (6_505_200, 9_757_800)
    assert found.thresholds == (128_000,)
    assert "1.0842 USD a EUR (2026-11-01)" in found.source


def test_a_contract_holds_from_and_to_its_time() -> None:
    rows = book({"provider": "openai", "adjust_bp": -5000, "valid_from_ms": NOON, "valid_to_ms": NOON + 1000})
    seen = [
        rates(rows.resolve("openai", "gpt-4o", when))["input"][0]
        for when in (NOON - 1, NOON, NOON + 999, NOON + 1000)
    ]
    assert seen == [2_500_000, 1_250_000, 1_250_000, 2_500_000]


def test_a_contract_can_be_for_one_service_tier() -> None:
    rows = book(
        {"provider": "openai", "service_tier": "scale", "rates": {"input": ["1"], "output": ["4"]}},
    )
    assert own_rates(rows, "openai", "gpt-4o", service_tier="Scale")["input"] == (1_000_000,)
    assert own_rates(rows, "openai", "gpt-4o")["input"] == (2_500_000,)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "says nothing"),
        ({"free": True, "rates": {"input": ["1"]}}, "is free and has rates"),
        ({"rates": {"inputs": ["1"]}}, "'inputs' is no rate"),
        ({"rates": {"input": ["0.0000001"]}}, "finer than a pico-USD"),
        ({"rates": {"input": ["-1"]}}, "is negative"),
        ({"rates": {"input": ["one"]}}, "no number"),
        ({"rates": {"input": ["1", "5"]}}, "is not rate, threshold, rate"),
        ({"rates": {"input": ["1", "200", "2", "100", "3"]}}, "thresholds do not rise"),
        ({"rates": {"input": ["1"]}, "currency": "EUR"}, "without a rate_date|without rates"),
        ({"rates": {"input": ["1"]}, "usd_per_unit": "0"}, "not above zero"),
        ({"adjust_bp": -10_001}, "more than the whole price"),
        ({"free": True, "valid_from_ms": 5, "valid_to_ms": 5}, "ends before it begins"),
        ({"contract_id": "", "free": True}, "no contract_id"),
    ],
)
def test_a_contract_that_cannot_be_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(PriceError, match=message):
        book(row)


def test_contracts_have_names_of_their_own() -> None:
    with pytest.raises(PriceError, match="same contract_id"):
        PriceBook([Contract(contract_id="a", free=True), Contract(contract_id="a", free=True)])


def test_every_price_of_the_list_can_be_charged() -> None:
    """Whatever model and tier: charges have a rate for each context tier, whole and not negative."""
    for provider in BOOK._table.providers:
        for model in provider.models:
            for tier in ("", *{row.tier for row in model.tiers}):
                found = BOOK.resolve(provider.id, model.id, NOON, tier)
                for charge in found.charges if isinstance(found, Price) else ():
                    assert len(charge.rates) == len(found.thresholds) + 1  # type: ignore[union-attr]
                    assert all(type(rate) is int and rate >= 0 for rate in charge.rates)


def test_every_declared_price_says_where_it_comes_from() -> None:
    declared = BOOK._declared
    entries = [entry for name in declared.__struct_fields__ for entry in getattr(declared, name)]
    assert len(entries) > 40
    for entry in entries:
        assert "." in entry.source and entry.date, msgspec.to_builtins(entry)
