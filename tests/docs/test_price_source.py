"""The price file is what genai-prices says, in whole pico-USD, and what is finer is refused."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest
from genai_prices import Usage, calc_price
from genai_prices.types import (
    ClauseEquals,
    ClauseOr,
    ClauseRegex,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)

from docs import price_source
from docs.generate import GENERATED, ROOT
from docs.price_source import published
from gatewatch.price_list import clause_of, model_of
from gatewatch.price_table import PriceError
from gatewatch.pricing import price

NAME = "gatewatch/price_data/genai_prices.json"


def model(**more: Any) -> dict[str, Any]:
    return model_of(published(ModelInfo(id="m", match=ClauseEquals("M"), **more)))


def test_the_file_is_generated_and_fresh() -> None:
    assert (ROOT / NAME).read_text("utf-8") == GENERATED[NAME]() == price_source.price_file()


def test_it_names_its_source_and_licence() -> None:
    about = json.loads((ROOT / NAME).read_text("utf-8"))["about"]
    assert (about["name"], about["version"], about["licence"]) == ("genai-prices", "0.2.3", "MIT")


def test_rates_are_whole_pico_dollars_by_tier() -> None:
    tiered = TieredPrices(base=Decimal("0.15"), tiers=[Tier(start=200_000, price=Decimal("0.3"))])
    found = model(prices=ModelPrice(input_mtok=tiered, web_searches_kcount=Decimal(10)))
    assert found == {
        "id": "m",
        "match": "=m",
        "prices": [{"rates": {"input": [150_000, 200_000, 300_000], "web_search": 10_000_000_000}}],
    }


def test_a_rate_that_is_finer_than_a_pico_dollar_is_refused() -> None:
    (row,) = model(prices=ModelPrice(input_mtok=Decimal("0.0833333333333"), output_mtok=Decimal(1)))["prices"]
    assert row == {"rates": {"output": 1_000_000}, "refused": ["input"]}


def test_a_time_of_day_gets_the_date_of_the_price_that_it_belongs_to() -> None:
    rows = model(
        prices=[
            ConditionalPrice(prices=ModelPrice(input_mtok=Decimal(1))),
            ConditionalPrice(
                StartDateConstraint(date(2026, 9, 10)), prices=ModelPrice(input_mtok=Decimal(2))
            ),
            ConditionalPrice(
                TimeOfDateConstraint(time(1, tzinfo=UTC), time(4, tzinfo=UTC)),
                prices=ModelPrice(input_mtok=Decimal(4)),
            ),
        ]
    )["prices"]
    assert rows[2] == {"daily": ["01:00", "04:00"], "rates": {"input": 4_000_000}, "from": "2026-09-10"}
    assert "from" not in rows[0]


def test_service_tiers_come_along_and_other_variants_do_not() -> None:
    half = ModelPrice(input_mtok=Decimal("0.5"))
    found = model(
        prices=ModelPrice(input_mtok=Decimal(1)),
        price_variants=[
            PriceVariant({"processing": "batch"}, half, StartDateConstraint(date(2026, 10, 14))),
            PriceVariant({"speed": "fast"}, half),
            PriceVariant({"route": "eu"}, half),
        ],
    )
    assert [(row["tier"], row.get("from")) for row in found["tiers"]] == [
        ("batch", "2026-10-14"),
        ("fast", None),
    ]


def test_matches_keep_their_meaning() -> None:
    clause = ClauseOr([ClauseEquals("GPT-4o"), ClauseRegex(r"^o[134]")])
    assert clause_of(published(clause)) == ["=gpt-4o", "/^o[134]"]
    with pytest.raises(PriceError, match="does not know"):
        clause_of({"sounds_like": "gpt-4o"})


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        ("openai", "gpt-4o"),
        ("openai", "gpt-5.6-sol"),
        ("anthropic", "claude-sonnet-4-5"),
        ("google", "gemini-2.5-pro"),
        ("azure", "gpt-4o"),
        ("aws", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("mistral", "mistral-medium-latest"),
        ("x-ai", "grok-4.5"),
        ("openrouter", "anthropic/claude-3.7-sonnet"),
    ],
)
@pytest.mark.parametrize(
    "when", [datetime(2025, 3, 1, 12, tzinfo=UTC), datetime(2026, 11, 20, 12, tzinfo=UTC)]
)
@pytest.mark.parametrize("total", [1_000, 300_000])
def test_genai_prices_itself_computes_the_same(provider: str, name: str, when: datetime, total: int) -> None:
    counts = {"input_tokens": total, "cache_read_tokens": total // 3, "output_tokens": 777}
    theirs = calc_price(Usage(**counts), name, provider_id=provider, genai_request_timestamp=when)
    payload = {
        "prompt_tokens": total,
        "completion_tokens": 777,
        "prompt_tokens_details": {"cached_tokens": total // 3},
    }
    ours = price(provider, name, payload, at_ms=int(when.timestamp()) * 1000)
    assert ours.cost_usd is not None
    assert Decimal(ours.cost_usd) == theirs.total_price
