"""Random calls of models with all kinds of prices, what one of them costs alone, and ledgers of prices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import strategies as st

from gatewatch.contract import Contract
from gatewatch.events import Call
from gatewatch.price_book import PriceBook, default_book
from gatewatch.price_ledger import PriceDocuments, PriceLedger, ledger_of
from gatewatch.pricing import Cost, price
from gatewatch.usage import Usage, UsageError
from tests.event import T0_MS

__all__ = ["BOOKS", "FIELDS", "calls", "expected", "ledger"]

MODELS = st.sampled_from(
    [
        ("openai", "gpt-4o-2024-08-06"),
        ("openai", "gpt-4o-audio-preview"),
        ("openai", "o3"),
        ("anthropic", "claude-sonnet-4-5"),
        ("aws.bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("gcp.gemini", "gemini-2.5-pro"),
        ("gcp.gemini", "gemini-2.5-flash"),
        ("deepseek", "deepseek-chat"),
        ("perplexity", "sonar-pro"),
        ("openrouter", "anthropic/claude-3.7-sonnet"),
        ("openai", "no-such-model"),
        ("nobody", "m"),
    ]
)
COUNTS = st.none() | st.integers(0, 50) | st.sampled_from([0, 1, 127_999, 200_000, 200_001, 272_001, 10**9])
FIELDS = [name for name in Usage.__struct_fields__ if name != "tool_requests"]


@st.composite
def usages(draw: st.DrawFn) -> dict[str, Any]:
    """Counts that mostly fit into each other."""
    said: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(FIELDS), unique=True, max_size=7)):
        said[name] = draw(COUNTS)
    if draw(st.integers(0, 3)):
        said["input_tokens"] = draw(st.sampled_from([100, 200_001, 300_000]))
        said["output_tokens"] = draw(st.sampled_from([0, 60, 4_000]))
        for name in said:
            if name not in ("input_tokens", "output_tokens") and said[name]:
                said[name] %= 20
    if draw(st.integers(0, 4)) == 0:
        tools = st.sampled_from(["file_search", "x_search", "code_execution", "tool_calls_executed", "odd"])
        said["tool_requests"] = draw(st.dictionaries(tools, st.integers(0, 5), max_size=2))
    return said


@st.composite
def calls(draw: st.DrawFn) -> Call:
    provider, model = draw(MODELS)
    started = draw(st.sampled_from([T0_MS, T0_MS + 43_200_000, T0_MS - 200 * 86_400_000, T0_MS + 3_600_000]))
    return Call(
        at_ms=started + 1,
        gateway="g",
        call_id="c",
        started_at_ms=started,
        provider=provider,
        model=model,
        tenant=draw(st.sampled_from(["", "acme"])),
        deployment=draw(st.sampled_from(["", "prod-chat", "own-gpus"])),
        service_tier=draw(st.sampled_from(["", "default", "batch", "flex", "priority", "odd"])),
        **draw(usages()),
    )


BOOKS = [
    default_book(),
    PriceBook([Contract(contract_id="acme", tenant="acme", provider="anthropic", adjust_bp=-1500)]),
    PriceBook(
        [
            Contract(
                contract_id="map", deployment="prod-chat", same_as_provider="openai", same_as_model="o3"
            ),
            Contract(contract_id="own", deployment="own-gpus", rates={"input": ["1", "200000", "2"]}),
            Contract(contract_id="acme-own", deployment="own-gpus", tenant="acme", free=True),
            Contract(contract_id="cut", provider="openai", adjust_bp=-333, valid_from_ms=T0_MS),
            Contract(contract_id="markup", tenant="acme", adjust_bp=777),
        ]
    ),
]


def expected(event: Call, book: PriceBook) -> Cost | None:
    """The cost of the one call; None where its usage is refused."""
    counts = {name: getattr(event, name) for name in Usage.__struct_fields__}
    try:
        return price(
            event.provider,
            event.model,
            Usage(**counts),
            at_ms=event.started_at_ms,
            service_tier=event.service_tier,
            tenant=event.tenant,
            deployment=event.deployment,
            book=book,
        )
    except UsageError:
        return None


def ledger(contracts: Sequence[Contract]) -> PriceLedger:
    """The package's prices and contracts, as a lane is given them."""
    return ledger_of([PriceDocuments.of_package(msgspec.json.encode(contracts))])
