"""Nothing is silently zero: each way in which a cost can be missing or doubtful shows in ``cost_gaps``."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gatewatch.events import Call, Request, encode
from gatewatch.usage import WHOLES, Usage, UsageError, check_usage
from sinks.clickhouse import Sink
from tests.event import T0_MS, call
from tests.stored import keep_only

pytestmark = pytest.mark.engine

# 60 plain tokens at $2.50, 40 cached at $1.25 and 10 of output at $10 a million.
USAGE: Final[dict[str, Any]] = {"input_tokens": 100, "cache_read_tokens": 40, "output_tokens": 10}
COST: Final = Decimal("0.0003")
UNKNOWN: Final[dict[str, Any]] = {"model": "nobody-knows"}


def gaps(sink: Sink) -> dict[str, Any]:
    """The columns of the only row that are neither zero nor unknown, without its dimensions."""
    (row,) = sink.table("SELECT * FROM gatewatch.cost_gaps").to_pylist()
    return {
        name: value
        for name, value in row.items()
        if name not in ("hour", "provider", "model", "tenant", "gateway") and value
    }


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (USAGE, {"calls": 1, "tokens": 110}),
        # No price: the tokens are counted, and the cost is unknown.
        (
            USAGE | UNKNOWN,
            {
                "calls": 1,
                "calls_without_cost": 1,
                "tokens": 110,
                "unpriced_tokens": 110,
                "unpriced_tokens_share": Decimal(1),
            },
        ),
        (
            USAGE | {"output_tokens": None},
            {"calls": 1, "tokens": 100, "partial_calls": 1, "partial_tokens": 100},
        ),
        # No usage: of a call that failed that is nothing new, of one that did not it is.
        (
            {"error_class": "overload"},
            {"calls": 1, "calls_without_cost": 1, "usage_missing_calls": 1},
        ),
        (
            {},
            {
                "calls": 1,
                "calls_without_cost": 1,
                "usage_missing_calls": 1,
                "usage_missing_successes": 1,
            },
        ),
        ({"gateway_cache_hit": True}, {"calls": 1}),
        (
            USAGE | {"usage_source": "estimated"},
            {"calls": 1, "tokens": 110, "usage_estimated_calls": 1, "usage_estimated_usd": COST},
        ),
        (
            USAGE | {"usage_source": "missing"},
            {"calls": 1, "tokens": 110, "usage_progress_calls": 1},
        ),
        # A stream that was cut: with usage it costs, without it its cost is unknown.
        (
            USAGE | {"stream_end": "client_disconnect"},
            {"calls": 1, "tokens": 110, "cut_streams": 1, "cut_streams_usd": COST},
        ),
        (
            {"stream_end": "timeout", "error_class": "timeout"},
            {
                "calls": 1,
                "calls_without_cost": 1,
                "usage_missing_calls": 1,
                "cut_streams": 1,
                "cut_streams_without_cost": 1,
            },
        ),
        (USAGE | {"stream_end": "complete"}, {"calls": 1, "tokens": 110}),
        # Zero that nobody said is free; it counts as a doubt only where something was used.
        (
            {"input_tokens": 0, "output_tokens": 0},
            {"calls": 1, "zero_cost_calls": 1},
        ),
        (
            USAGE | UNKNOWN | {"reported_cost_usd": 0.0},
            {
                "calls": 1,
                "tokens": 110,
                "provider_reported_calls": 1,
                "zero_cost_calls": 1,
                "zero_cost_tokens": 110,
            },
        ),
        (
            USAGE | {"provider": "openrouter", "model": "openai/gpt-oss-20b:free"},
            {"calls": 1, "tokens": 110},
        ),
        (
            USAGE | UNKNOWN | {"reported_cost_usd": 0.5},
            {
                "calls": 1,
                "tokens": 110,
                "provider_reported_calls": 1,
                "provider_reported_usd": Decimal("0.5"),
            },
        ),
        # The gateway's figure: a thousandth is not a difference, a nano-dollar more is.
        (
            USAGE | {"reported_cost_usd": 0.0003},
            {
                "calls": 1,
                "tokens": 110,
                "compared_calls": 1,
                "compared_usd": COST,
                "compared_reported_usd": COST,
            },
        ),
        (
            {"input_tokens": 400_400, "output_tokens": 0, "reported_cost_usd": 1.0},
            {
                "calls": 1,
                "tokens": 400_400,
                "compared_calls": 1,
                "compared_usd": Decimal("1.001"),
                "compared_reported_usd": Decimal(1),
                "difference_usd": Decimal("0.001"),
            },
        ),
        (
            {"input_tokens": 400_400, "output_tokens": 0, "reported_cost_usd": 0.999999999},
            {
                "calls": 1,
                "tokens": 400_400,
                "compared_calls": 1,
                "compared_usd": Decimal("1.001"),
                "compared_reported_usd": Decimal("0.999999999"),
                "difference_usd": Decimal("0.001000001"),
                "differing_calls": 1,
                "differing_share": Decimal(1),
            },
        ),
        (
            USAGE | {"reported_cost_usd": 0.0},
            {
                "calls": 1,
                "tokens": 110,
                "compared_calls": 1,
                "compared_usd": COST,
                "difference_usd": COST,
                "differing_calls": 1,
                "differing_share": Decimal(1),
            },
        ),
        # More cached than there was input.
        (
            USAGE | {"cache_read_tokens": 101},
            {
                "calls": 1,
                "calls_without_cost": 1,
                "tokens": 110,
                "unpriced_tokens": 110,
                "unpriced_tokens_share": Decimal(1),
                "contradictory_calls": 1,
            },
        ),
    ],
)
def test_each_doubt_is_counted_and_no_other(
    sink: Sink, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    keep_only(sink, [call(1, **fields)])
    assert gaps(sink) == expected


def test_a_call_that_goes_on_is_no_gap(sink: Sink) -> None:
    begun = Request(
        at_ms=T0_MS, gateway="g", call_id="c", started_at_ms=T0_MS, provider="openai", model="gpt-4o"
    )
    keep_only(sink, [begun])
    assert sink.rows("SELECT * FROM gatewatch.cost_gaps") == []


def test_usage_that_was_refused_shows_until_it_is_sent_again(sink: Sink) -> None:
    sink.command("TRUNCATE TABLE gatewatch_store.replays")
    refused = call(1, provider_usage={"prompt_tokens": -5, "completion_tokens": 1})
    keep_only(sink, [refused, b"no event"])
    assert gaps(sink) == {"refused_lines": 1}
    ((hour,),) = sink.rows("SELECT hour FROM gatewatch.cost_gaps")
    assert hour.timestamp() == (T0_MS + 1) // 3_600_000 * 3600
    sink.command("INSERT INTO gatewatch_store.replays SELECT 1, 0, 0, 2, now64(3)")
    assert sink.rows("SELECT * FROM gatewatch.cost_gaps") == []


counted: Final = st.fixed_dictionaries(
    {
        name: st.one_of(st.none(), st.integers(0, 3))
        for name in sorted({name for rule in WHOLES for name in (rule.whole, *rule.parts)})
    }
)


@settings(
    max_examples=5,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(counted, min_size=1, max_size=60))
def test_contradictions_are_those_that_usage_is_refused_for(sink: Sink, counts: list[dict[str, Any]]) -> None:
    def contradicts(said: dict[str, Any]) -> bool:
        try:
            check_usage(Usage(**said))
        except UsageError:
            return True
        return False

    calls: list[Call] = [call(number, tenant=str(number), **said) for number, said in enumerate(counts)]
    keep_only(sink, calls)
    found = sink.rows("SELECT tenant, contradictory_calls FROM gatewatch.cost_gaps")
    assert {int(tenant) for tenant, n in found if n} == {
        number for number, said in enumerate(counts) if contradicts(said)
    }


def test_big_numbers_do_not_overflow(sink: Sink) -> None:
    dear = [
        call(
            n,
            input_tokens=1_000_000_000,
            output_tokens=1_000_000_000,
            reported_cost_usd=1e9,
        )
        for n in range(1000)
    ]
    keep_only(sink, dear)
    found = gaps(sink)
    # $2.50 for a million of input and $10 for one of output are $12,500 a call.
    assert found["difference_usd"] == 1000 * (Decimal(12_500) - 10**9)
    assert (found["differing_calls"], found["differing_share"]) == (1000, Decimal(1))


def test_counts_that_the_contract_refuses_show_too(sink: Sink) -> None:
    plain = encode(call(1, input_tokens=7, reported_cost_usd=0.5))
    for wrong in (b'"input_tokens":-7', b'"input_tokens":7.5', b'"input_tokens":70000000000'):
        keep_only(sink, [plain.replace(b'"input_tokens":7', wrong)])
        assert gaps(sink) == {"refused_lines": 1}
    keep_only(
        sink,
        [
            plain.replace(b'"reported_cost_usd":0.5', b'"reported_cost_usd":-1'),
            plain.replace(b'"input_tokens":7', b'"tool_requests":{"x":-1}'),
            plain.replace(b'"total_ms":500.0', b'"total_ms":-1'),  # not for its usage
        ],
    )
    assert gaps(sink) == {"refused_lines": 2}
