"""GPU-hours become costs, and these the calls' shares: by hand, by an oracle, and to the nano-dollar."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatewatch.contract import Contract
from gatewatch.events import Call, Event, Resource
from gatewatch.price_book import PriceBook
from gatewatch.pricing import price
from sinks.clickhouse import Sink
from sinks.gpu_rate import (
    MOST_NANO_USD,
    GpuRate,
    RateError,
    check_rate,
    free_contract,
    nano_usd,
    parse_hour,
    permille,
    read_rates,
    save_rate,
)
from sinks.schema import STORE
from tests.stored import store

HOUR_MS: Final = 3_600_000
H0_MS: Final = 1_760_000_400_000 - 1_760_000_400_000 % HOUR_MS
POOL: Final[dict[str, Any]] = {"gateway": "vllm-1", "model": "llama"}
RATE: Final = GpuRate(rate_id="h100", nano_usd_per_gpu_hour=2_490_000_000, valid_from_s=0, model="llama")


def report(end_s: float, interval_s: float | None = 600.0, **fields: Any) -> Resource:
    """A report of one GPU that ends so many seconds after the hour."""
    known: dict[str, Any] = {"at_ms": H0_MS + round(end_s * 1000), "resource": "gpu:0", "gpu_count": 1.0}
    return Resource(**POOL | known | {"interval_s": interval_s} | fields)


def served(number: int, **fields: Any) -> Call:
    """A call to the pool that starts so many seconds after the hour."""
    started_ms = fields.pop("started_ms", H0_MS + 1000 * number)
    known: dict[str, Any] = {
        "at_ms": started_ms + 1000,
        "started_at_ms": started_ms,
        "call_id": f"call-{number:03d}",
        "provider": "vllm",
        "usage_source": "provider",
    }
    return Call(**POOL | known | fields)


def view(sink: Sink, name: str, order: str = "ALL") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = sink.table(f"SELECT * FROM gatewatch.{name} ORDER BY {order}").to_pylist()
    return rows


def one(sink: Sink, name: str) -> dict[str, Any]:
    (row,) = view(sink, name)
    return row


def amounts(row: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(
        None if row[f"{name}_usd"] is None else str(row[f"{name}_usd"].normalize()) for name in names
    )


def test_an_hour_is_what_was_used_by_calls_and_what_was_idle(sink: Sink) -> None:
    save_rate(sink, RATE)
    store(
        sink,
        *(report(600 * i, gpu_count=2.0, gpu_utilization=0.4) for i in range(1, 7)),
        # 1000 + 2 x 100 = 1200 and 0.1 x 800 + 200 + 2 x 460 = 1200 weighted tokens.
        served(1, input_tokens=1000, output_tokens=100),
        served(2, input_tokens=1000, cache_read_tokens=800, output_tokens=460),
    )
    row = one(sink, "infrastructure")
    assert row["gpu_hours"] == 2
    assert amounts(row, "cost", "used", "idle", "attributed", "unattributed") == (
        *("4.98", "1.992", "2.988", "1.992", "0"),
    )
    assert (row["calls"], row["state"], row["gap_gpu_hours"], row["overlap_gpu_hours"]) == (
        *(2, "complete", 0, 0),
    )
    shares = view(sink, "infrastructure_calls", "call_id")
    assert [(call["weighted_tokens"], call["infrastructure_usd"]) for call in shares] == [
        (1200.0, Decimal("0.996")),
        (1200.0, Decimal("0.996")),
    ]


def test_shares_that_do_not_divide_add_up_to_the_nano_dollar(sink: Sink) -> None:
    save_rate(sink, RATE)
    store(sink, report(600, 600.0), *(served(n, input_tokens=7, output_tokens=n) for n in range(1, 8)))
    shares = [row["infrastructure_usd"] for row in view(sink, "infrastructure_calls")]
    assert sum(shares) == one(sink, "infrastructure")["used_usd"] == Decimal("0.415")
    assert min(shares) > 0


def test_what_no_call_used_is_unattributed_and_not_nothing(sink: Sink) -> None:
    save_rate(sink, RATE)
    store(sink, report(3600, 3600.0, gpu_utilization=0.5), served(1, error_class="overload"))
    row = one(sink, "infrastructure")
    assert amounts(row, "cost", "used", "idle", "attributed", "unattributed") == (
        *("2.49", "1.245", "1.245", "0", "1.245"),
    )
    assert (row["calls"], row["calls_without_usage"]) == (1, 1)
    (call,) = view(sink, "infrastructure_calls")
    assert (call["reason"], call["infrastructure_usd"]) == ("no usage", 0)


def test_a_report_counts_once_however_often_and_overlapping_it_comes(sink: Sink) -> None:
    save_rate(sink, RATE)
    store(
        sink,
        report(600, 600.0),
        report(600, 600.0),  # sent again
        report(900, 600.0),  # half of it is new
        report(700, 50.0),  # within what others cover
        report(1800, 600.0),  # after a gap of 300 s
    )
    row = one(sink, "gpu_hours")
    # 600 + 300 + 600 s of one GPU; 600 + 300 + 50 s came twice; 300 s are missing.
    assert row["gpu_hours"] == Decimal("0.416667")
    assert row["overlap_gpu_hours"] == Decimal("0.263889")
    assert row["gap_gpu_hours"] == Decimal("0.083333")
    assert row["reports"] == 5


def test_of_two_reports_that_begin_together_the_longer_one_counts(sink: Sink) -> None:
    save_rate(sink, RATE)
    store(sink, report(300, 300.0, gpu_utilization=0.0), report(600, 600.0, gpu_utilization=1.0))
    assert amounts(one(sink, "infrastructure"), "used", "idle") == ("0.415", "0")


def test_a_longer_silence_is_no_gap(sink: Sink) -> None:
    save_rate(sink, RATE)
    store(sink, report(600, 600.0), report(4800, 600.0), report(9001, 600.0))
    # An hour, and a second more than that.
    assert sum(row["gap_gpu_hours"] for row in view(sink, "infrastructure")) == 1


def test_a_report_is_split_where_the_hour_ends(sink: Sink) -> None:
    save_rate(sink, RATE)
    store(sink, report(3600, 600.0), report(7260, 600.0, gpu_utilization=0.25))
    rows = view(sink, "infrastructure", "hour")
    assert [str(row["gpu_hours"]) for row in rows] == ["0.166667", "0.150000", "0.016667"]
    assert [amounts(row, "cost", "used") for row in rows] == [
        ("0.415", "0.415"),
        ("0.3735", "0.093375"),
        ("0.0415", "0.010375"),
    ]


def test_reports_that_cannot_be_counted_are_shown(sink: Sink) -> None:
    save_rate(sink, RATE)
    store(
        sink,
        report(600, None),
        report(700, 0.0),
        report(800, 86_401.0),
        report(900, 600.0, gpu_count=None, gpu_utilization=0.5),
        report(1000, 600.0, gpu_count=1e15),
        report(3600, 600.0, resource="emitter", gpu_count=None, emitter_queued=3),  # of no GPU
    )
    row = one(sink, "infrastructure")
    assert (row["gpu_hours"], row["unusable_reports"], row["state"]) == (0, 5, "unusable reports")
    assert row["cost_usd"] is None  # which is not zero
    store(sink, report(1800, 600.0), source=2)
    row = one(sink, "infrastructure")
    assert (row["unusable_reports"], row["state"], row["cost_usd"]) == (5, "partial", Decimal("0.415"))


def test_a_deployment_that_is_scaled_to_nothing_costs_nothing(sink: Sink) -> None:
    save_rate(sink, RATE)
    store(sink, report(3600, 3600.0, gpu_count=0.0))
    assert (one(sink, "infrastructure")["state"], one(sink, "infrastructure")["cost_usd"]) == ("complete", 0)


def test_utilisation_that_is_not_said_counts_as_used_and_is_shown(sink: Sink) -> None:
    save_rate(sink, RATE)
    store(sink, report(1800, 1800.0), report(3600, 1800.0, gpu_utilization=0.0))
    row = one(sink, "infrastructure")
    assert amounts(row, "used", "idle") == ("1.245", "1.245")
    assert row["unmeasured_gpu_hours"] == Decimal("0.5")


def test_calls_without_reports_and_reports_without_a_rate_are_visible(sink: Sink) -> None:
    save_rate(sink, RATE)
    store(
        sink,
        served(1, input_tokens=10, output_tokens=1),
        report(600, 600.0, model="other", resource="gpu:1"),
        report(600, 600.0, model="mixed", resource="gpu:2"),
        report(600, 600.0, model="mixed", resource="gpu:3"),
    )
    save_rate(sink, GpuRate(rate_id="a", nano_usd_per_gpu_hour=1, valid_from_s=0, resource="gpu:2"))
    rows = {row["model"]: row for row in view(sink, "infrastructure")}
    assert {model: row["state"] for model, row in rows.items()} == {
        "llama": "no reports",
        "other": "no rate",
        "mixed": "partial",
    }
    assert rows["llama"]["calls"] == 1
    assert rows["llama"]["cost_usd"] is None
    assert rows["other"]["cost_usd"] is None
    assert rows["other"]["gpu_hours"] == rows["other"]["unrated_gpu_hours"] == Decimal("0.166667")
    (call,) = view(sink, "infrastructure_calls")
    assert (call["reason"], call["infrastructure_usd"], call["weighted_tokens"]) == ("no reports", None, None)


def test_a_call_belongs_to_the_pool_that_says_most_and_never_if_a_provider_bills_it(sink: Sink) -> None:
    save_rate(sink, RATE)
    save_rate(sink, GpuRate(rate_id="any", nano_usd_per_gpu_hour=10**9, valid_from_s=0, any_gateway=True))
    store(
        sink,
        report(600, 600.0),
        report(600, 600.0, gateway="host-2", model="", deployment="blue", resource="gpu:5"),
        report(600, 600.0, gateway="host-3", model="", resource="gpu:6"),  # says neither
        served(1, input_tokens=10),
        served(2, input_tokens=10, deployment="blue"),
        served(3, input_tokens=10, gateway="litellm", model="x", deployment="blue"),
        served(4, input_tokens=10, gateway="litellm"),
        served(5, input_tokens=10, output_tokens=1, provider="openai", model="gpt-4o", deployment="blue"),
        served(6, input_tokens=10, gateway_cache_hit=True),
    )
    found = {row["call_id"][-1]: row for row in view(sink, "infrastructure_calls")}
    pools = {
        key: tuple(row[f"pool_{n}"] for n in ("gateway", "deployment", "model")) for key, row in found.items()
    }
    assert pools == {
        "1": ("vllm-1", "", "llama"),
        "2": ("*", "blue", ""),
        "3": ("*", "blue", ""),
        # Of the pool that the rate itself names: nobody reports it.
        "4": ("*", "", "llama"),
    }
    assert found["4"]["reason"] == "no reports"
    spent = sum(row["infrastructure_usd"] or 0 for row in found.values())
    assert spent == sum(row["attributed_usd"] or 0 for row in view(sink, "infrastructure"))
    unattributed = {
        row["gateway"]: row["unattributed_usd"] for row in view(sink, "infrastructure", "gateway")
    }
    assert unattributed["vllm-1"] == 0


def test_rates_have_dates_and_the_one_that_says_most_holds(sink: Sink) -> None:
    later_s = H0_MS // 1000 + 3600
    save_rate(sink, RATE)
    save_rate(sink, GpuRate(rate_id="h100", nano_usd_per_gpu_hour=10**9, valid_from_s=later_s, model="llama"))
    exact = GpuRate(
        rate_id="z", nano_usd_per_gpu_hour=5 * 10**9, valid_from_s=0, model="llama", resource="gpu:7"
    )
    save_rate(sink, exact)
    store(
        sink,
        report(3600, 3600.0),
        report(7200, 3600.0),
        report(3600, 3600.0, resource="gpu:7"),
    )
    found = [
        (row["resource"], row["rate_id"], str(row["cost_usd"].normalize())) for row in view(sink, "gpu_hours")
    ]
    assert found == [("gpu:0", "h100", "2.49"), ("gpu:7", "z", "5"), ("gpu:0", "h100", "1")]
    rates = view(sink, "gpu_rates", "rate_id, valid_from")
    assert [(row["rate_id"], row["state"], row["valid_to"] is None) for row in rates] == [
        ("h100", "in_use", False),
        ("h100", "in_use", True),
        ("z", "in_use", True),
    ]
    assert rates[0]["valid_to"] == later_s


def test_a_rate_is_corrected_and_removed_and_every_revision_is_kept(sink: Sink) -> None:
    save_rate(sink, GpuRate(**{**as_fields(RATE), "revision": 2, "nano_usd_per_gpu_hour": 3}))
    save_rate(sink, GpuRate(**{**as_fields(RATE), "revision": 1}))  # late: the larger revision counts
    store(sink, report(3600, 3600.0))
    assert one(sink, "infrastructure")["cost_usd"] == Decimal("0.000000003")
    assert [row["state"] for row in view(sink, "gpu_rates", "set_at")] == ["superseded", "in_use"]
    save_rate(sink, GpuRate(**{**as_fields(RATE), "revision": 3, "removed": True}))
    save_rate(sink, GpuRate(**{**as_fields(RATE), "revision": 3, "removed": True}))
    assert [row["state"] for row in view(sink, "gpu_rates", "set_at")] == [
        "superseded",
        "superseded",
        "removed",
    ]
    assert one(sink, "infrastructure")["state"] == "no rate"
    assert [rate.removed for rate in read_rates(sink)] == [True]


def as_fields(rate: GpuRate) -> dict[str, Any]:
    return {name: getattr(rate, name) for name in rate.__struct_fields__}


def test_the_largest_amounts_do_not_overflow(sink: Sink) -> None:
    save_rate(sink, GpuRate(rate_id="x", nano_usd_per_gpu_hour=MOST_NANO_USD, valid_from_s=0))
    store(
        sink,
        report(3600, 3600.0, gpu_count=1e6, gpu_utilization=0.999999),
        *(served(n, input_tokens=10**9, output_tokens=10**9) for n in range(3)),
    )
    row = one(sink, "infrastructure")
    assert amounts(row, "cost", "used", "idle") == ("1E+11", "9.99999E+10", "1E+5")
    assert row["attributed_usd"] == row["used_usd"]
    shares = [call["infrastructure_usd"] for call in view(sink, "infrastructure_calls")]
    assert shares == [Decimal("33333300000")] * 3


def test_the_providers_bill_and_the_infrastructure_add_up(sink: Sink) -> None:
    save_rate(sink, RATE)
    store(
        sink,
        report(3600, 3600.0, gpu_utilization=0.5),
        served(1, input_tokens=10, output_tokens=1),
        served(2, input_tokens=1000, output_tokens=100, provider="openai", model="gpt-4o"),
        served(3, input_tokens=1000, output_tokens=100, provider="openai", model="gpt-no"),
    )
    rows = {
        (row["provider"], row["category"], row["item"]): (row["usd"], row["calls"])
        for row in view(sink, "total_cost")
    }
    assert rows == {
        ("openai", "tokens", "input"): (Decimal("0.0025"), 1),
        ("openai", "tokens", "output"): (Decimal("0.001"), 1),
        ("openai", "unknown", "unpriced"): (None, 1),
        ("vllm", "unknown", "unpriced"): (None, 1),
        ("", "infrastructure", "calls"): (Decimal("1.245"), 1),
        ("", "infrastructure", "unattributed"): (Decimal(0), 0),
        ("", "infrastructure", "idle"): (Decimal("1.245"), 0),
    }


def test_a_contract_makes_the_calls_free_at_the_providers_and_says_where_their_cost_is(sink: Sink) -> None:
    contract = free_contract("vllm", model="llama")
    book = PriceBook([contract])
    save_rate(sink, RATE)
    store(sink, report(3600, 3600.0), served(1, input_tokens=10, output_tokens=1), contracts=[contract])
    (row,) = sink.rows("SELECT cost_status, cost_reason, cost_usd FROM gatewatch.calls")
    assert tuple(row) == ("free", contract.source, 0)
    assert one(sink, "infrastructure_calls")["infrastructure_usd"] == Decimal("2.49")
    answer = price("vllm", "llama", {"prompt_tokens": 10, "completion_tokens": 1}, book=book)
    assert (answer.cost_status, answer.reasons) == ("free", (contract.source,))
    silent = PriceBook([Contract(contract_id="own", provider="vllm", free=True)])
    assert price("vllm", "llama", {"prompt_tokens": 10}, book=silent).reasons == ()


REPORTS = st.lists(
    st.tuples(
        st.integers(1, 7200),  # its end, seconds
        st.integers(1, 4000),  # what it stands for
        st.integers(0, 3_000_000),  # millionths of a GPU
        st.none() | st.integers(0, 1_000_000),
        st.sampled_from(["gpu:0", "gpu:1"]),
    ),
    max_size=12,
)
CALLS = st.lists(
    st.tuples(st.integers(0, 7199), st.none() | st.integers(0, 10**9), st.none() | st.integers(0, 10**9)),
    max_size=12,
)


def expected(reports: Sequence[tuple[Any, ...]], nano: int) -> dict[tuple[str, int], tuple[int, int]]:
    """Cost and used nano-USD of each device and hour, second by second."""
    found: dict[tuple[str, int], list[Fraction]] = {}
    for device in {row[4] for row in reports}:
        order = [row for row in reports if row[4] == device]
        order.sort(key=lambda r: (r[0] - r[1], -r[0], r[2], 1_000_001 if r[3] is None else r[3]))
        taken: set[int] = set()
        for end, interval, micro, busy, _ in order:
            for second in set(range(end - interval, end)) - taken:
                amounts = found.setdefault((device, second // 3600), [Fraction(0), Fraction(0)])
                amounts[0] += Fraction(micro * nano, 10**6 * 3600)
                amounts[1] += Fraction(micro * nano * (10**6 if busy is None else busy), 10**12 * 3600)
            taken |= set(range(end - interval, end))
    half = Fraction(1, 2)
    return {key: (int(cost + half), int(used + half)) for key, (cost, used) in found.items()}


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reports=REPORTS, calls=CALLS, nano=st.integers(0, 10**11))
def test_everything_adds_up_exactly_whatever_is_reported(
    sink: Sink, reports: list[Any], calls: list[Any], nano: int
) -> None:
    for table in ("calls", "chunks", "resources", "gpu_rates"):
        sink.command(f"TRUNCATE TABLE {STORE}.{table}")
    save_rate(sink, GpuRate(rate_id="r", nano_usd_per_gpu_hour=nano, valid_from_s=0, model="llama"))
    events: list[Event] = [
        report(
            end,
            float(interval),
            gpu_count=micro / 10**6,
            gpu_utilization=None if busy is None else busy / 10**6,
            resource=device,
        )
        for end, interval, micro, busy, device in reports
    ]
    events += [
        served(n, started_ms=H0_MS + 1000 * at, input_tokens=given, output_tokens=made)
        for n, (at, given, made) in enumerate(calls)
    ]
    if events:
        store(sink, *events)
    wanted = expected(reports, nano)
    hours = view(sink, "gpu_hours")
    start_s = H0_MS // 1000
    found = {
        (row["resource"], (int(row["hour"]) - start_s) // 3600): (
            int(row["cost_usd"] * 10**9),
            int(row["used_usd"] * 10**9),
        )
        for row in hours
    }
    assert {key: value for key, value in found.items() if key in wanted} == wanted
    assert all(found[key] == (0, 0) for key in found.keys() - wanted.keys())
    rows = view(sink, "infrastructure")
    assert sum(row["cost_usd"] or 0 for row in rows) == sum(row["cost_usd"] for row in hours)
    for row in rows:
        if row["cost_usd"] is not None:
            assert row["attributed_usd"] + row["unattributed_usd"] + row["idle_usd"] == row["cost_usd"]
            assert min(row["attributed_usd"], row["unattributed_usd"], row["idle_usd"]) >= 0
    shares = view(sink, "infrastructure_calls")
    assert len(shares) == len(calls)
    assert sum(row["infrastructure_usd"] or 0 for row in shares) == sum(
        row["attributed_usd"] or 0 for row in rows
    )
    total = sum(row["usd"] or 0 for row in view(sink, "total_cost"))
    assert total == sum(row["cost_usd"] for row in hours)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rate_id": " "}, "needs an id"),
        ({"rate_id": "a\nb"}, "needs an id"),
        ({"resource": "g*u"}, "trailing"),
        ({"resource": "*"}, "trailing"),
        ({"model": "llama*"}, "named in full"),
        ({"valid_from_s": 1}, "whole hour"),
        ({"valid_from_s": -3600}, "whole hour"),
        ({"valid_from_s": 7200, "valid_to_s": 3600}, "ends after"),
        ({"source": "s" * 257}, "more than 256"),
    ],
)
def test_a_rate_that_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RateError, match=said):
        check_rate(GpuRate(**as_fields(RATE) | change))


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "free", "100001", "0.0000000001", ""])
def test_an_amount_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RateError):
        nano_usd(text)


@pytest.mark.parametrize("text", ["-1", "nan", "0.0001", "1001", "x"])
def test_a_weight_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RateError):
        permille(text)


def test_amounts_weights_and_hours_are_read_exactly() -> None:
    assert (nano_usd("2.49"), nano_usd("0"), nano_usd("1e5")) == (2_490_000_000, 0, MOST_NANO_USD)
    assert (permille("2"), permille("0.1")) == (2000, 100)
    assert parse_hour("2026-11-01", 0) == 1793491200
    assert parse_hour("2026-11-01T05:00+01:00", 0) == 1793491200 + 4 * 3600
    assert parse_hour("now", 7201) == 7200
    for text in ("yesterday", "2026-11-01T05:30", "2026-11-01T05:00:00.5"):
        with pytest.raises(RateError):
            parse_hour(text, 0)
