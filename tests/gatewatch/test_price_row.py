"""Rows of prices say what calls are charged, at every time and in every context."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import example, given
from hypothesis import strategies as st

from gatewatch.contract import Contract
from gatewatch.price_book import Price, PriceBook, default_book
from gatewatch.price_row import PriceRow, price_rows
from gatewatch.price_table import day_ms

BOOK = default_book()
ROWS = price_rows(BOOK)
BY_MODEL: dict[tuple[str, str, str], list[PriceRow]] = {}
for _row in ROWS:
    BY_MODEL.setdefault((_row.provider, _row.model, _row.service_tier), []).append(_row)


def holds(row: PriceRow, at_ms: int, daily: str) -> bool:
    return (
        (row.valid_from_ms is None or row.valid_from_ms <= at_ms)
        and (row.valid_to_ms is None or at_ms < row.valid_to_ms)
        and row.daily.removesuffix(" Mon-Fri") == daily
    )


@given(
    st.sampled_from(sorted(BY_MODEL)),
    st.integers(day_ms("2024-01-01"), day_ms("2027-01-01")),
    st.sampled_from([0, 1, 127_999, 128_000, 128_001, 200_000, 200_001, 272_001, 10**7]),
)
# Fees of tools begin on days of their own; DeepSeek's times of day, on others than its prices.
@example(("x-ai", "grok-4.5", "standard"), day_ms("2026-05-24") - 1, 1)
@example(("x-ai", "grok-4.5", "standard"), day_ms("2026-05-24"), 1)
@example(("deepseek", "deepseek-v4-flash", "standard"), day_ms("2026-09-10") + 7_200_000, 1)
@example(("anthropic", "claude-sonnet-4-5", "batch"), day_ms("2026-10-14") - 1, 200_001)
def test_a_row_is_what_calls_are_charged(key: tuple[str, str, str], at_ms: int, total: int) -> None:
    provider_id, model_id, tier = key
    provider = next(provider for provider in BOOK.providers if provider.id == provider_id)
    model = next(model for model in provider.models if model.id == model_id)
    price = BOOK.listed_price(provider, model, at_ms, tier)
    charged: dict[str, Decimal] = {}
    if isinstance(price, Price) and price.free:
        charged["free"] = Decimal(0)
    elif isinstance(price, Price) and (tier == "standard" or price.tier_reason != "standard rates"):
        for charge in price.charges:
            rate = Decimal(charge.rates[sum(threshold < total for threshold in price.thresholds)])
            by_request = charge.part in ("tools", "request")
            name = f"tool:{charge.name}" if charge.part == "tools" else charge.name
            charged[name] = rate / (10**12 if by_request else 10**6)
    said: dict[str, PriceRow] = {}
    for row in BY_MODEL[key]:
        if holds(row, at_ms, price.daily if isinstance(price, Price) else "") and (
            row.above_input_tokens == 0 or total > row.above_input_tokens
        ):
            before = said.get(row.component)
            if before is None or before.above_input_tokens < row.above_input_tokens:
                said[row.component] = row
    assert {name: row.usd_per_unit for name, row in said.items()} == charged


def test_an_analysts_question_has_an_answer() -> None:
    """What does claude-sonnet-4-5 cost per million cached tokens, since when, and says who?"""
    found = [
        (row.usd_per_unit, row.unit, row.above_input_tokens, row.valid_from_ms, row.kind, row.source)
        for row in BY_MODEL["anthropic", "claude-sonnet-4-5", "standard"]
        if row.component == "cache_read"
    ]
    source = f"{BOOK.source}, https://www.anthropic.com/pricing#api"
    assert found == [
        (Decimal("0.3"), "million tokens", 0, None, "list", source),
        (Decimal("0.6"), "million tokens", 200_000, None, "list", source),
    ]


def test_our_own_table_is_told_from_the_list_with_its_day() -> None:
    before, since = [row for row in BY_MODEL["openai", "o3", "flex"] if row.component == "cache_read"]
    assert (before.kind, before.source_date, before.valid_to_ms) == (
        "declared",
        "2026-11-21",
        day_ms("2026-10-12"),
    )
    assert before.source.startswith("flex, 1/2 of standard rates (https://")
    assert (since.kind, since.valid_from_ms, since.valid_to_ms) == ("list", day_ms("2026-10-12"), None)


def test_keys_are_unique_and_spans_of_a_rate_do_not_overlap() -> None:
    assert len({row.key for row in ROWS}) == len(ROWS)
    last: dict[tuple[object, ...], PriceRow] = {}
    for row in sorted(ROWS, key=lambda row: row.valid_from_ms or 0):
        place = (row.provider, row.model, row.service_tier, row.component, row.above_input_tokens, row.daily)
        before = last.get(place)
        if before is not None:
            assert before.valid_to_ms is not None
            assert row.valid_from_ms is not None
            assert before.valid_to_ms <= row.valid_from_ms
        last[place] = row


def test_contracts_are_rows_of_what_they_say() -> None:
    rows = [
        Contract(contract_id="map", provider="azure", deployment="prod", same_as_model="gpt-4o"),
        Contract(contract_id="acme", tenant="acme", adjust_bp=-1500, valid_from_ms=5, valid_to_ms=9),
        Contract(contract_id="own", provider="vllm", free=True),
        Contract(
            contract_id="euro",
            model="m",
            rates={"input": ["2", "100", "3"], "web_search": ["0.01"], "request": ["0.5"]},
            currency="EUR",
            usd_per_unit="1.25",
            rate_date="2026-11-01",
        ),
    ]
    found = [row for row in price_rows(PriceBook(rows)) if row.kind == "contract"]
    said = {(row.contract_id, row.component, row.above_input_tokens): row for row in found}
    assert len(said) == len(found) == 7
    assert said["map", "same_as", 0].same_as == "gpt-4o"
    adjusted = said["acme", "adjustment", 0]
    assert (adjusted.adjust_bp, adjusted.usd_per_unit) == (-1500, None)
    assert (adjusted.tenant, adjusted.valid_from_ms, adjusted.valid_to_ms) == ("acme", 5, 9)
    assert said["own", "free", 0].usd_per_unit == 0
    assert (said["euro", "input", 0].usd_per_unit, said["euro", "input", 100].usd_per_unit) == (
        Decimal("2.5"),
        Decimal("3.75"),
    )
    assert said["euro", "tool:web_search", 0].usd_per_unit == Decimal("0.0125")
    assert (said["euro", "request", 0].unit, said["euro", "request", 0].usd_per_unit) == (
        "request",
        Decimal("0.625"),
    )
    assert "at 1.25 USD a EUR (2026-11-01)" in said["euro", "input", 0].source
