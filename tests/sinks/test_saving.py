"""What could be saved: each kind by hand, with its calls; and sums that are exact."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatewatch.events import Call, Event, Token
from gatewatch.price_book import default_book
from gatewatch.pricing import price
from gatewatch.usage import Usage
from signals.column import RANK_PROVIDER, RANK_SHIFT
from signals.saving import at_model, reprice, with_caching
from sinks.clickhouse import Sink
from sinks.gpu_rate import GpuRate, save_rate
from sinks.saving import KINDS, Saving, proofs, savings, what_if
from sinks.schema import STORE
from tests.sinks.test_infrastructure import HOUR_MS, report, view
from tests.stored import store
from traffic.trace import Trace

# A week day, after the last price change that matters here.
T0_MS: Final = 1_795_262_400_000
BOOK: Final = default_book()
GPT: Final[dict[str, Any]] = {"provider": "openai", "model": "gpt-4o"}
CLAUDE: Final[dict[str, Any]] = {"provider": "anthropic", "model": "claude-sonnet-4-5"}


def made(number: int, at_s: float = 0, **fields: Any) -> Call:
    known: dict[str, Any] = {
        "started_at_ms": T0_MS + round(at_s * 1000),
        "at_ms": T0_MS + round(at_s * 1000) + 1000,
        "gateway": "eu-1",
        "call_id": f"call-{number}",
        "tenant": "acme",
        "usage_source": "provider",
        "input_tokens": 1000,
        "output_tokens": 100,
    }
    return Call(**known | GPT | fields)


def found(sink: Sink, kind: str) -> list[Saving]:
    return savings(sink, BOOK, T0_MS - HOUR_MS, T0_MS + 24 * HOUR_MS, [kind])


def one(sink: Sink, kind: str) -> tuple[int, int, str, str]:
    """Calls, those left out, paid and what could be saved, in dollars."""
    (row,) = found(sink, kind)
    return row.calls, row.left_out, dollars(row.paid_nano_usd), dollars(row.could_save_nano_usd)


def dollars(nano: int) -> str:
    return f"{Decimal(nano).scaleb(-9).normalize():f}"


def proved(sink: Sink, kind: str) -> list[tuple[str, str, int | None]]:
    rows = proofs(sink, BOOK, T0_MS - HOUR_MS, T0_MS + 24 * HOUR_MS, kind)
    return [(row["call_id"], row["what"], row["could_save_nano_usd"]) for row in rows]


def test_calls_that_failed_or_were_left_are_listed_with_what_was_paid(sink: Sink) -> None:
    store(
        sink,
        made(0),
        made(1, 1, error_class="timeout", stream_end="timeout"),
        made(2, 2, stream=True, stream_end="client_disconnect", output_tokens=50),
        made(3, 3, error_class="cancelled"),
        made(4, 4, error_class="rate_limit", input_tokens=None, output_tokens=None),
        made(5, 5, stream_end="upstream_error", gateway_cache_hit=True),
    )
    # 1000 x $2.5/M + 100 x $10/M = $0.0035
    assert one(sink, "failed") == (1, 1, "0.0035", "0.0035")
    assert one(sink, "abandoned") == (2, 0, "0.0065", "0.0065")
    assert proved(sink, "failed") == [("call-1", "timeout", 3_500_000), ("call-4", "rate_limit", None)]
    assert proved(sink, "abandoned") == [
        ("call-2", "client_disconnect", 3_000_000),
        ("call-3", "cancelled", 3_500_000),
    ]


def test_a_retry_is_linked_to_what_failed_before_it_and_never_guessed(sink: Sink) -> None:
    store(
        sink,
        made(1, 0, input_chars=10, error_class="timeout"),
        made(2, 5, input_chars=10, attempt=1, model="gpt-4o-mini"),  # the gateway fell back
        made(3, 100, prefix_hashes=[1, 2], error_class="overload"),
        made(4, 110, prefix_hashes=[1, 2]),  # the caller came again
        made(5, 120, prefix_hashes=[1, 2]),  # and again, after it had gone well
        made(6, 200, attempt=1),  # of what?
        made(7, 300, input_chars=11, error_class="timeout"),
        made(8, 901, input_chars=11),  # too late
        made(9, 1000, error_class="timeout"),
        made(10, 1001),  # nothing says that it is the same prompt
        made(11, 2000, conversation_id="c", error_class="timeout"),
        made(12, 2001, conversation_id="c", attempt=1),
        made(13, 3000, input_chars=10, tenant="other"),
    )
    rows = {row["call_id"]: row for row in view(sink, "retries", "started_at")}
    assert {key: (row["retried_by"], row["previous_call_id"]) for key, row in rows.items()} == {
        "call-2": ("gateway", "call-1"),
        "call-4": ("caller", "call-3"),
        "call-6": ("gateway", ""),
        "call-12": ("gateway", "call-11"),
    }
    assert rows["call-6"]["previous_paid_usd"] is None
    assert [
        (row.model, row.calls, row.left_out, row.could_save_nano_usd) for row in found(sink, "retried")
    ] == [
        ("gpt-4o", 2, 1, 7_000_000),
        ("gpt-4o-mini", 1, 0, 3_500_000),
    ]


def test_prefixes_that_repeat_and_are_not_read_would_be_cheaper_from_the_cache(sink: Sink) -> None:
    blocks_of = {"tags": {"prefix_block_tokens": "512"}, "input_tokens": 2048, "output_tokens": 0}
    store(
        sink,
        made(1, 0, prefix_hashes=[1, 2, 3, 4], **blocks_of),
        made(2, 0, prefix_hashes=[1, 2, 3, 4], **blocks_of),  # at the same instant: nothing to read yet
        made(3, 200, prefix_hashes=[1, 2, 3, 9], **blocks_of),  # 3 blocks: 1536
        made(
            4, 490, prefix_hashes=[1, 2, 3, 4], cache_read_tokens=1024, **blocks_of
        ),  # 3 of 4 are kept alive
        made(5, 800, prefix_hashes=[1, 2, 3, 4], **blocks_of),  # 310 s later: forgotten
        made(6, 801, prefix_hashes=[5, 2, 3, 4], **blocks_of),  # another beginning
        made(7, 802, prefix_hashes=[1, 2, 3, 4], tenant="other", **blocks_of),  # another's cache
        made(
            8, 803, prefix_hashes=[1, 8], input_tokens=1024, tags={"prefix_block_tokens": "512"}
        ),  # too short
    )
    rows = {row["call_id"][-1]: row for row in view(sink, "repeated_prefixes", "started_at")}
    assert {
        key: (row["repeated_blocks"], row["repeated_tokens"], row["missed_tokens"])
        for key, row in rows.items()
    } == {
        "1": (0, 0, 0),
        "2": (0, 0, 0),
        "3": (3, 1536, 1536),
        "4": (3, 1536, 512),
        "5": (0, 0, 0),
        "6": (0, 0, 0),
        "7": (0, 0, 0),
        "8": (1, 0, 0),
    }
    acme = next(row for row in found(sink, "uncached") if row.tenant == "acme")
    # (1536 + 512) x ($2.5 - $1.25)/M: OpenAI charges nothing extra for writing.
    assert dollars(acme.could_save_nano_usd) == "0.00256"
    assert (acme.calls, acme.left_out) == (7, 0)


def test_a_prefix_is_remembered_over_midnight_and_from_before_the_time_that_is_asked_for(sink: Sink) -> None:
    midnight_s = 86_400 - T0_MS // 1000 % 86_400
    usage: dict[str, Any] = {"prefix_hashes": [1, 2], "input_tokens": 2000, "output_tokens": 0}
    store(sink, made(1, midnight_s - 100, **usage), made(2, midnight_s + 100, **usage))
    whole = sum(row.could_save_nano_usd for row in found(sink, "uncached"))
    midnight_ms = T0_MS + midnight_s * 1000
    (later,) = savings(sink, BOOK, midnight_ms, midnight_ms + HOUR_MS, ["uncached"])
    assert whole == later.could_save_nano_usd == 2000 * 1250
    assert later.calls == 1


def test_the_surcharge_for_writes_counts_and_may_cost_more_than_it_saves(sink: Sink) -> None:
    usage = {**CLAUDE, "input_tokens": 4096, "output_tokens": 0, "tags": {"prefix_block_tokens": "1024"}}
    store(
        sink,
        made(1, 0, prefix_hashes=[1, 2, 3, 4], **usage),
        made(2, 9, prefix_hashes=[1, 2, 3, 5], **usage),
        made(3, 0, prefix_hashes=[7, 8, 9, 10], **usage | {"tenant": "once"}),
    )
    rows = {row.tenant: dollars(row.could_save_nano_usd) for row in found(sink, "uncached")}
    # Paid 8192 x $3/M. Cached: 5120 are written at $3.75/M, 3072 read at $0.3/M.
    assert rows["acme"] == "0.0044544"
    # Written, and never read: 4096 x $0.75/M more.
    assert rows["once"] == "-0.003072"


def test_without_a_block_size_the_input_is_spread_and_no_more_than_the_truth_is_claimed(sink: Sink) -> None:
    store(
        sink,
        made(1, 0, prefix_hashes=[1, 2, 3], input_tokens=6000),
        made(2, 1, prefix_hashes=[1, 2, 9], input_tokens=6001),
        made(3, 2, prefix_hashes=[1, 2, 9], input_tokens=6001, tags={"prefix_block_tokens": "no number"}),
    )
    rows = view(sink, "repeated_prefixes", "started_at")
    assert [row["repeated_tokens"] for row in rows] == [0, 4000, 6001]


def test_calls_that_nobody_waits_for_could_run_as_batch(sink: Sink) -> None:
    store(
        sink,
        made(1, stream=False),
        made(2, stream=True),
        made(3, stream=False, conversation_id="c"),
        made(4, stream=False, user_hash="u"),
        made(5),  # whether it was streamed is not known
        made(6, stream=True, user_hash="u", tags={"batch": "true"}),
        made(7, stream=False, tags={"batch": "no"}),
        made(8, stream=False, service_tier="flex"),
        made(9, stream=False, error_class="timeout"),
        made(10, stream=False, gateway_cache_hit=True),
        made(11, stream=False, model="gpt-no"),
        made(12, stream=False, provider="groq", model="no-batch-price", tags={"batch": "yes"}),
        made(13, 9, stream=False, provider="deepseek", model="deepseek-chat", tenant="d"),
    )
    rows = {row["call_id"]: row["basis"] for row in view(sink, "batchable_calls", "started_at")}
    assert rows == {
        "call-1": "not streamed, no conversation, no user",
        "call-6": "tag",
        "call-13": "not streamed, no conversation, no user",
    }
    by_tenant = {row.tenant: row for row in found(sink, "batch")}
    # Half of $0.0035, twice.
    assert dollars(by_tenant["acme"].could_save_nano_usd) == "0.0035"
    # No price of DeepSeek's batch tier is known: nothing is claimed.
    assert (by_tenant["d"].calls, by_tenant["d"].left_out, by_tenant["d"].could_save_nano_usd) == (0, 1, 0)
    last = proved(sink, "batch")[-1]
    assert last[0] == "call-13"
    assert "no price of the tier 'batch'" in last[1]
    assert last[2] is None


def test_idle_gpus_are_a_saving_with_its_hours(sink: Sink) -> None:
    save_rate(sink, GpuRate(rate_id="r", nano_usd_per_gpu_hour=2 * 10**9, valid_from_s=0))
    store(sink, report(0, 3600.0, at_ms=T0_MS, gpu_utilization=0.25))
    assert one(sink, "idle") == (1, 0, "2", "1.5")
    assert proved(sink, "idle") == [("", "complete", 1_500_000_000)]


def test_the_view_says_the_same_as_the_command_where_it_can(sink: Sink) -> None:
    store(
        sink,
        made(1, 0, input_chars=10, error_class="timeout", stream=False),
        made(2, 5, input_chars=10, attempt=1, stream=False),
        made(3, 6, prefix_hashes=[1, 2], input_tokens=3000),
        made(4, 7, prefix_hashes=[1, 2], input_tokens=3000, stream_end="client_disconnect"),
    )
    rows = {row["kind"]: row for row in view(sink, "savings", "kind")}
    assert sorted(rows) == ["abandoned", "batch", "failed", "retried", "uncached"]
    for kind in ("failed", "abandoned", "retried"):
        calls, _, paid, saved = one(sink, kind)
        assert (rows[kind]["calls"], rows[kind]["paid_usd"], rows[kind]["could_save_usd"]) == (
            calls,
            Decimal(paid),
            Decimal(saved),
        )
    # What needs a price that is not stored is unknown here, and not zero.
    assert rows["uncached"]["could_save_usd"] is None
    assert rows["batch"]["could_save_usd"] is None
    assert all(row["assumption"] for row in rows.values())


def test_the_same_traffic_at_another_model(sink: Sink) -> None:
    store(
        sink,
        made(1, cache_read_tokens=400),
        made(2, 3600 * 23, tenant="beta", **CLAUDE),
        made(3, model="gpt-no"),
        made(4, gateway_cache_hit=True),
        made(5, service_tier="flex"),
        made(6, model="o3", web_searches=2),
    )
    rows, reasons = what_if(sink, BOOK, T0_MS, T0_MS + 24 * HOUR_MS, ("anthropic", "claude-haiku-4-5"))
    found = {(row.tenant, row.model): row for row in rows}
    # 600 x $1/M + 400 x $0.1/M + 100 x $5/M, and 1000 x $1/M + 100 x $5/M in a tier that Anthropic lacks.
    assert dollars(found["acme", "gpt-4o"].would_nano_usd) == "0.00264"
    assert dollars(found["acme", "gpt-4o"].paid_nano_usd) == "0.0065"
    assert (found["acme", "gpt-4o"].calls, found["acme", "gpt-4o"].partial_calls) == (2, 1)
    assert (found["acme", "gpt-no"].calls, found["acme", "gpt-no"].left_out) == (0, 1)
    assert dollars(found["beta", "claude-sonnet-4-5"].would_nano_usd) == "0.0015"
    # Anthropic charges for searches: two of them at $0.01.
    assert dollars(found["acme", "o3"].would_nano_usd) == "0.0215"
    assert reasons["the call itself has no cost to compare with"] == 1
    assert any("tier 'flex'" in reason for reason in reasons)
    only, _ = what_if(sink, BOOK, T0_MS, T0_MS + 24 * HOUR_MS, ("openai", "gpt-4o"), tenant="beta")
    assert [row.tenant for row in only] == ["beta"]


COUNT: Final = st.none() | st.integers(0, 300_000)
CALLS: Final = st.lists(
    st.fixed_dictionaries(
        {
            "model": st.sampled_from([GPT, CLAUDE, {"provider": "gcp.gemini", "model": "gemini-2.5-pro"}]),
            "tenant": st.sampled_from(["a", "b"]),
            "input": st.integers(0, 300_000),
            "cached": COUNT,
            "output": COUNT,
            "hashes": st.lists(st.integers(0, 2), max_size=4),
            "at": st.integers(0, 3),
        }
    ),
    min_size=5,
    max_size=25,
)


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CALLS)
def test_sums_are_those_of_the_calls_and_the_same_model_changes_nothing(sink: Sink, drawn: list[Any]) -> None:
    for table in ("calls", "chunks"):
        sink.command(f"TRUNCATE TABLE {STORE}.{table}")
    events: list[Event] = [
        made(
            number,
            100 * one["at"],
            tenant=one["tenant"],
            input_tokens=one["input"],
            cache_read_tokens=None if one["cached"] is None else min(one["cached"], one["input"]),
            output_tokens=one["output"],
            prefix_hashes=one["hashes"],
            **one["model"],
        )
        for number, one in enumerate(drawn)
    ]
    if events:
        store(sink, *events)
    begin, end = T0_MS, T0_MS + HOUR_MS
    for kind in KINDS:
        rows = savings(sink, BOOK, begin, end, [kind])
        proof = list(proofs(sink, BOOK, begin, end, kind))
        for name in ("paid_nano_usd", "could_save_nano_usd"):
            assert sum(getattr(row, name) for row in rows) == sum(row[name] or 0 for row in proof)
        assert sum(row.calls + row.left_out for row in rows) == len(proof)
    for model in (GPT, CLAUDE):
        whole, _ = what_if(sink, BOOK, begin, end, (model["provider"], model["model"]))
        for row in whole:
            if row.model == model["model"]:
                assert row.paid_nano_usd == row.would_nano_usd


def test_what_a_cut_stream_had_brought_is_paid_at_no_model(sink: Sink) -> None:
    """The provider said the input at the stream's beginning, and then the caller left."""
    call = made(1, stream=True, stream_end="client_disconnect", output_tokens=None)
    parts = {name: getattr(call, name) for name in ("gateway", "call_id", "started_at_ms", "tenant")}
    store(sink, Token(at_ms=T0_MS + 500, output_tokens_so_far=50_000, **parts, **GPT), call)
    (row,), _ = what_if(sink, BOOK, T0_MS, T0_MS + HOUR_MS, ("openai", "gpt-4o"))
    assert (row.calls, row.partial_calls) == (1, 1)
    assert row.paid_nano_usd == row.would_nano_usd == 2_500_000


def test_a_call_in_columns_costs_what_it_costs_alone() -> None:
    said = RANK_PROVIDER << RANK_SHIFT
    table = pa.table(
        {
            "started_at": [T0_MS],
            "provider": ["openai"],
            "model": ["gpt-4o"],
            "parts": [16],
            "input_tokens": [said | 5000],
            "output_tokens": [said | 10],
        }
    )
    usage = Usage(input_tokens=5000, output_tokens=10)
    other = price("anthropic", "claude-haiku-4-5", usage, at_ms=T0_MS)
    assert at_model(table, BOOK, "anthropic", "claude-haiku-4-5").nano_usd.tolist() == [
        other.cost_pico_usd // 1000 if other.cost_pico_usd else None
    ]
    cached = with_caching(table, BOOK, pa.array([2000]).to_numpy(), 1024)
    alone = price(
        "openai", "gpt-4o", Usage(input_tokens=5000, cache_read_tokens=2000, output_tokens=10), at_ms=T0_MS
    )
    assert cached.nano_usd[0] * 1000 == alone.cost_pico_usd
    # An image's tokens may or may not repeat: nothing is claimed of it.
    image = table.append_column("input_image_tokens", pa.array([said | 5]))
    assert (
        with_caching(image, BOOK, pa.array([2000]).to_numpy(), 1024).nano_usd == reprice(image, BOOK).nano_usd
    )
    assert with_caching(table, BOOK, pa.array([0]).to_numpy(), 5001).nano_usd == reprice(table, BOOK).nano_usd


def seen_blocks(calls: Iterable[Call], lifetime_ms: int) -> list[int]:
    """How many blocks of each prompt were seen within the lifetime before it, by the plainest code."""
    last: dict[tuple[int, ...], int] = {}
    found = []
    for at_ms, group in groupby(calls, key=lambda call: call.started_at_ms):
        together = [tuple(call.prefix_hashes or ()) for call in group]
        for hashes in together:
            seen = 0
            while seen < len(hashes) and at_ms - last.get(hashes[: seen + 1], -(10**15)) <= lifetime_ms:
                seen += 1
            found.append(seen)
        for hashes in together:
            last |= {hashes[:length]: at_ms for length in range(1, len(hashes) + 1)}
    return found


def test_mooncakes_two_sample_requests_share_twelve_blocks(sink: Sink) -> None:
    """The example in the trace's own documentation: 12 x 512 = 6144 tokens."""
    shared = [*range(46, 58)]
    tags = {"prefix_block_tokens": "512"}
    store(
        sink,
        made(1, 27.482, input_tokens=6955, prefix_hashes=[*shared, 2353, 2354], tags=tags),
        made(2, 30.535, input_tokens=6472, prefix_hashes=[*shared, 2366], tags=tags),
    )
    rows = view(sink, "repeated_prefixes", "started_at")
    assert [(row["repeated_blocks"], row["repeated_tokens"]) for row in rows] == [(0, 0), (12, 6144)]


def test_what_caching_saves_on_a_real_trace_is_what_a_plain_count_says(sink: Sink, shared_data: Path) -> None:
    path = shared_data / "traces" / "mooncake_fast25" / "synthetic_trace.jsonl.gz"
    calls = []
    for item in Trace("mooncake", [path], run="r"):
        assert isinstance(item.payload, Call)
        call = item.payload
        call.at_ms = call.started_at_ms = T0_MS + call.started_at_ms
        call.provider, call.model = "openai", "gpt-4o"
        # One organisation, whose calls share a cache.
        call.tenant = call.team = call.key_alias = ""
        call.tags = {"prefix_block_tokens": "512"}
        calls.append(call)
    store(sink, *calls)
    blocks_seen = seen_blocks(calls, 300_000)
    ((repeated, blocks),) = sink.rows(
        "SELECT sum(repeated_blocks), sum(blocks) FROM gatewatch.repeated_prefixes"
    )
    assert repeated == sum(blocks_seen)
    # Five minutes find most of the 64.0 % that repeat at all.
    assert round(repeated / blocks, 4) == 0.5844
    assert round(sum(seen_blocks(calls, 10**12)) / blocks, 4) == 0.6396
    tokens = [min(512 * seen, call.input_tokens or 0) for seen, call in zip(blocks_seen, calls, strict=True)]
    (row,) = found(sink, "uncached")
    # $2.5 less $1.25 for a million tokens.
    assert row.could_save_nano_usd == 1250 * sum(count for count in tokens if count >= 1024)
    assert row.calls == len(calls) == 3993
