from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest

from gatewatch.events import (
    Call,
    CallEvent,
    Event,
    Feedback,
    Latency,
    Reject,
    Request,
    Response,
    Token,
    decode_line,
    encode,
)
from traffic.incident import BrokenTelemetry, Flood, Incident, LatencyIncident, Outage
from traffic.profile import ASSUMED, CACHED_SHARE, FAILURES, HOURLY_CALLS, ROUTES, WORKLOADS
from traffic.synthetic import Traffic, TrafficError

MIDNIGHT_MS = 1_800_057_600_000 - 1_800_057_600_000 % 86_400_000
MINUTE: dict[str, Any] = {"rate_per_s": 200, "duration_s": 60, "rhythm": False, "start_ms": MIDNIGHT_MS}


def payloads(seed: int = 7, **options: Any) -> list[Event | bytes]:
    return [item.payload for item in Traffic(seed, **(MINUTE | options))]


def events(seed: int = 7, **options: Any) -> list[Event]:
    return [payload for payload in payloads(seed, **options) if not isinstance(payload, bytes)]


def calls(seed: int = 7, **options: Any) -> list[Call]:
    found = events(seed, **({"split_share": 0.0, "drain": True} | options))
    return [event for event in found if isinstance(event, Call)]


@pytest.fixture(scope="module")
def many() -> list[Call]:
    """Some 60,000 calls."""
    return calls(duration_s=300)


def lines(found: list[Event | bytes]) -> list[bytes]:
    return [payload if isinstance(payload, bytes) else encode(payload) for payload in found]


# --- What holds for every event ------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second, other = (lines(payloads(seed)) for seed in (7, 7, 8))
    assert first == second
    assert first != other
    traffic = Traffic(7, **MINUTE)
    assert lines([item.payload for item in traffic]) == lines([item.payload for item in traffic]) == first


def test_every_event_is_valid_and_in_order_of_time() -> None:
    last_ms = 0
    for item in Traffic(7, **MINUTE):
        event = item.payload
        assert not isinstance(event, bytes)
        assert not isinstance(decode_line(encode(event)), Reject)
        assert item.offset_s == event.at_ms / 1000
        assert last_ms <= event.at_ms < MIDNIGHT_MS + 60_000
        last_ms = event.at_ms


def test_blocks_leave_no_seam() -> None:
    # At this rate a block ends every 41 s; arrivals on both sides of it are as on any other second.
    starts = [call.started_at_ms for call in calls(rate_per_s=100, duration_s=600)]
    per_second = np.bincount((np.array(starts) - MIDNIGHT_MS) // 1000, minlength=600)
    # Poisson: mean 100, standard deviation 10.
    assert 60 < per_second.min() <= per_second.max() < 145
    assert per_second.var() == pytest.approx(100, rel=0.25)


def test_usage_is_inclusive_and_times_are_consistent(many: list[Call]) -> None:
    for call in many:
        cached = (call.cache_read_tokens or 0) + (call.cache_write_tokens or 0)
        assert cached <= (call.input_tokens or 0)
        assert (call.output_reasoning_tokens or 0) <= (call.output_tokens or 0)
        assert call.total_ms is not None
        assert call.total_ms <= call.at_ms - call.started_at_ms + 0.001 <= call.total_ms + 1.002
        assert (call.ttft_ms or 0) <= (call.ttfat_ms or call.total_ms) <= call.total_ms
        if call.ttft_ms is not None and call.tpot_ms is not None:
            assert call.output_tokens is not None
            decoding_ms = call.tpot_ms * (call.output_tokens - 1)
            assert call.ttft_ms + decoding_ms == pytest.approx(call.total_ms, rel=0.01, abs=1)


def test_ids_are_unique_and_belong_to_seed_and_start() -> None:
    def ids(seed: int, **options: Any) -> set[str]:
        return {call.call_id for call in calls(seed, **options)}

    one, other, later = ids(7), ids(8), ids(7, start_ms=MIDNIGHT_MS + 1)
    assert len(one) == len(calls(7))
    assert not one & other
    assert not one & later


# --- Distributions -------------------------------------------------------------------------------------


def test_rate_is_poisson_with_the_asked_mean(many: list[Call]) -> None:
    assert len(many) == pytest.approx(60_000, abs=4 * 60_000**0.5)
    gaps = np.diff([call.started_at_ms for call in sorted(many, key=lambda call: call.started_at_ms)])
    # Exponential gaps: the standard deviation equals the mean, here 5 ms.
    assert gaps.mean() == pytest.approx(5, rel=0.02)
    assert gaps.std() == pytest.approx(5, rel=0.05)


@pytest.mark.parametrize("name", WORKLOADS)
def test_lengths_and_times_have_the_traces_medians(name: str, many: list[Call]) -> None:
    workload = WORKLOADS[name]
    whole = [call for call in many if call.tags["workload"] == name and call.usage_source == "provider"]
    inputs = [call.input_tokens for call in whole if call.input_tokens is not None]
    outputs = [call.output_tokens for call in whole if call.output_tokens is not None]
    ttfts = [call.ttft_ms - (call.queue_ms or 0) for call in whole if call.ttft_ms is not None]
    assert len(whole) > 3000
    assert np.median(inputs) == pytest.approx(workload.input_tokens.median, rel=0.1)
    assert np.median(outputs) == pytest.approx(workload.output_tokens.median, rel=0.1)
    assert np.median(ttfts) == pytest.approx(workload.ttft_ms.median, rel=0.05)
    assert np.quantile(inputs, 0.95) == pytest.approx(workload.input_tokens.values[8], rel=0.1)
    assert np.quantile(ttfts, 0.95) == pytest.approx(workload.ttft_ms.values[8], rel=0.1)
    tpots = [call.tpot_ms for call in whole if call.tpot_ms is not None]
    assert np.median(tpots) == pytest.approx(workload.tpot_ms.median, rel=0.05)


def test_agents_take_as_long_as_the_trace_says(many: list[Call]) -> None:
    # api_time_s of the trace, which the generator does not use: it makes totals from ttft, tpot and length.
    agents = [call for call in many if call.tags["workload"] == "agent" and call.usage_source == "provider"]
    totals_s = [call.total_ms / 1000 for call in agents if call.total_ms is not None]
    for probability, api_time_s in ((0.25, 4.135), (0.5, 6.487), (0.9, 22.0), (0.99, 72.5)):
        assert np.quantile(totals_s, probability) == pytest.approx(api_time_s, rel=0.25)


def test_longer_prompts_take_longer_to_answer(many: list[Call]) -> None:
    agents = [call for call in many if call.tags["workload"] == "agent" and call.ttft_ms is not None]
    table = np.array([[call.input_tokens, call.ttft_ms] for call in agents], dtype=float)
    ranks = table.argsort(axis=0).argsort(axis=0)
    correlations = np.asarray(np.corrcoef(ranks.T))
    assert correlations[0, 1] == pytest.approx(0.62, abs=0.06)


def test_caches_are_read_as_the_trace_says(many: list[Call]) -> None:
    kimi = [call for call in many if call.model == "kimi-k2" and call.usage_source == "provider"]
    shares = [
        (call.cache_read_tokens or 0) / call.input_tokens
        for call in kimi
        if call.input_tokens and call.input_tokens >= ASSUMED.cache_minimum_tokens
    ]
    assert np.median(shares) == pytest.approx(CACHED_SHARE.median, abs=0.04)
    assert all(call.cache_read_tokens is None for call in many if call.provider == "vllm")
    assert all(call.cache_write_tokens is None for call in many if call.provider != "anthropic")
    assert sum(call.cache_write_tokens or 0 for call in many) > 0


def test_routes_tenants_and_gateways_have_their_shares(many: list[Call]) -> None:
    routes = Counter((call.tags["workload"], call.provider, call.model) for call in many)
    for route in ROUTES:
        found = routes[route.workload, route.provider, route.model] / len(many)
        assert found == pytest.approx(route.weight, rel=0.1, abs=0.0007)
    tenants = Counter(call.tenant for call in many)
    assert len(tenants) == 20
    assert tenants["tenant-01"] / tenants["tenant-02"] == pytest.approx(2, rel=0.1)
    assert tenants["tenant-01"] / tenants["tenant-10"] == pytest.approx(10, rel=0.15)
    assert set(Counter(call.gateway for call in many)) == {"gateway-1", "gateway-2", "gateway-3"}
    conversations = {(call.tenant, call.conversation_id) for call in many}
    assert 1.3 < len(many) / len(conversations) < 3


def test_failures_and_cut_streams_have_their_shares(many: list[Call]) -> None:
    classes = Counter(call.error_class for call in many)
    for failure in FAILURES:
        # Streams that the provider broke count as server errors too.
        extra = 0.001 if failure.error_class == "server" else 0.0
        expected = (failure.share + extra) * len(many)
        assert abs(classes[failure.error_class] - expected) < 5 * expected**0.5 + 5  # type: ignore[index]
    ends = Counter(call.stream_end for call in many if call.stream)
    streams = sum(ends.values())
    assert ends["client_disconnect"] / streams == pytest.approx(0.02, rel=0.15)
    assert classes["cancelled"] == ends["client_disconnect"]
    for call in many:
        assert (call.usage_source == "estimated") == (
            call.stream_end in ("client_disconnect", "upstream_error")
        )
        assert (call.usage_source == "missing") == (call.status_code != 200)


def test_a_day_has_its_rhythm() -> None:
    found = calls(rate_per_s=1, duration_s=86_400, rhythm=True)
    assert len(found) == pytest.approx(86_400, rel=0.02)
    hours = Counter((call.started_at_ms - MIDNIGHT_MS) // 3_600_000 for call in found)
    shares = [hours[hour] / len(found) for hour in range(24)]
    wanted = [count / sum(HOURLY_CALLS) for count in HOURLY_CALLS]
    # Between the middles of hours the rate is a line, so that hours at a turn are smoothed.
    assert np.corrcoef(shares, wanted)[0, 1] > 0.99
    assert max(abs(np.subtract(shares, wanted))) < 0.008
    assert hours[15] > 10 * hours[4]


def test_the_rhythm_is_that_of_the_clock() -> None:
    night = calls(rate_per_s=20, duration_s=600, rhythm=True, start_ms=MIDNIGHT_MS + 4 * 3_600_000)
    noon = calls(rate_per_s=20, duration_s=600, rhythm=True, start_ms=MIDNIGHT_MS + 15 * 3_600_000)
    assert len(noon) > 10 * len(night) > 0


# --- Calls in parts --------------------------------------------------------------------------------------


def test_split_calls_tell_the_same_as_whole_ones() -> None:
    whole = {call.call_id: call for call in calls()}
    split: dict[str, list[CallEvent]] = defaultdict(list)
    for event in events(split_share=1.0, drain=True):
        assert not isinstance(event, Call)
        if isinstance(event, CallEvent):
            split[event.call_id].append(event)
    assert split.keys() == whole.keys()
    names = {name for kind in (Request, Token, Response, Latency) for name in kind.__struct_fields__}
    names -= {"at_ms", "output_tokens_so_far"}
    for call_id, parts in split.items():
        merged: dict[str, Any] = {}
        numbers: Counter[str] = Counter()
        for part in parts:
            for name in part.__struct_fields__:
                value = getattr(part, name)
                if name in names and value is not None and value != "":
                    assert merged.setdefault(name, value) == value
                    numbers[name] += isinstance(value, int | float) and not isinstance(value, bool)
        told = {name: getattr(whole[call_id], name) for name in names}
        assert merged == {name: value for name, value in told.items() if value is not None and value != ""}
        # Each number once, because aggregates count what each event carries.
        assert all(numbers[name] <= 1 for name in numbers.keys() - {"started_at_ms", "v"})


def test_parts_come_in_the_order_of_time_and_ends_in_either_order() -> None:
    parts: dict[str, list[CallEvent]] = defaultdict(list)
    for event in events(split_share=1.0, drain=True):
        if isinstance(event, CallEvent):
            parts[event.call_id].append(event)
    orders = Counter(tuple(type(part).__name__ for part in found[-2:]) for found in parts.values())
    assert set(orders) == {("Latency", "Response"), ("Response", "Latency")}
    for found in parts.values():
        assert isinstance(found[0], Request)
        tokens = [part for part in found if isinstance(part, Token)]
        progress = [token.output_tokens_so_far or 0 for token in tokens]
        assert progress == sorted(progress)
        assert len({part.started_at_ms for part in found}) == 1


def test_the_share_of_split_calls_is_as_asked() -> None:
    traffic = Traffic(7, **MINUTE, split_share=0.3, drain=True)
    found = [item.payload for item in traffic]
    split = sum(isinstance(event, Request) for event in found)
    whole = sum(isinstance(event, Call) for event in found)
    assert split / (split + whole) == pytest.approx(0.3, abs=0.02)
    assert traffic.calls_total == split + whole


def test_feedback_comes_after_its_call() -> None:
    found = events(feedback_share=0.1, drain=True, split_share=0.0)
    whole = {event.call_id: event for event in found if isinstance(event, Call)}
    judged = [event for event in found if isinstance(event, Feedback)]
    assert len(judged) / len(whole) == pytest.approx(0.1, abs=0.015)
    for event in judged:
        call = whole[event.call_id]
        assert event.at_ms >= call.at_ms
        assert call.error_class is None
        assert (event.tenant, event.user_hash) == (call.tenant, call.user_hash)


def test_without_draining_the_traffic_ends_with_its_duration() -> None:
    cut = events(drain=False)
    whole = events(drain=True)
    assert [event for event in whole if event.at_ms < MIDNIGHT_MS + 60_000] == cut
    assert max(event.at_ms for event in whole) > MIDNIGHT_MS + 60_000


def test_endless_traffic_is_endless() -> None:
    traffic = Traffic(7, start_ms=MIDNIGHT_MS, rate_per_s=1000)
    assert len(list(itertools.islice(traffic, 50_000))) == 50_000


# --- Incidents -------------------------------------------------------------------------------------------

SPAN: dict[str, Any] = {"at_s": 20, "duration_s": 15}


def split_by(
    incident: Incident, hit: Any, **options: Any
) -> tuple[list[tuple[Call, Call]], list[Call], list[Call]]:
    """Calls that should be struck, as (without, with); the others without and with."""
    before = {call.call_id: call for call in calls(**options)}
    after = {call.call_id: call for call in calls(incidents=[incident], **options)}
    assert before.keys() == after.keys()

    def struck(call: Call) -> bool:
        return 20_000 <= call.started_at_ms - MIDNIGHT_MS < 35_000 and hit(call)

    pairs = [(call, after[call_id]) for call_id, call in before.items() if struck(call)]
    spared = [call for call in before.values() if not struck(call)]
    assert len(pairs) > 100
    return pairs, spared, [after[call.call_id] for call in spared]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("provider", "openai"),
        ("model", "gpt-4o"),
        ("gateway", "gateway-2"),
        ("tenant", "tenant-03"),
        ("provider", ""),
    ],
)
def test_a_latency_incident_slows_its_slice_and_nothing_else(name: str, value: str) -> None:
    place: dict[str, Any] = {name: value}
    incident = LatencyIncident(**SPAN, **place, factor=5)
    pairs, before, after = split_by(incident, lambda call: value in ("", getattr(call, name)))
    assert before == after
    slower = [(b, a) for b, a in pairs if b.status_code == 200 and (b.total_ms or 0) > 200]
    for call, slow in slower:
        assert call.total_ms is not None
        assert slow.total_ms is not None
        assert 4 < slow.total_ms / call.total_ms <= 5.001
        assert slow.input_tokens == call.input_tokens


def test_an_outage_fails_its_slice_and_nothing_else() -> None:
    incident = Outage(**SPAN, provider="openai", error="overload")
    pairs, before, after = split_by(incident, lambda call: call.provider == "openai")
    assert before == after
    assert {(call.error_class, call.status_code, call.output_tokens) for _, call in pairs} == {
        ("overload", 529, None)
    }


def test_a_partial_outage_fails_its_share() -> None:
    pairs, before, after = split_by(Outage(**SPAN, share=0.4), lambda call: True)
    assert before == after
    failed = sum(call.error_class is not None for _, call in pairs) / len(pairs)
    assert failed == pytest.approx(0.41, abs=0.03)


def test_a_flood_adds_calls_of_its_tenant_and_changes_none() -> None:
    before = {call.call_id: call for call in calls()}
    after = {call.call_id: call for call in calls(incidents=[Flood(**SPAN, tenant="tenant-02", factor=8)])}
    assert {call_id: after[call_id] for call_id in before} == before
    added = [call for call_id, call in after.items() if call_id not in before]
    assert {call.tenant for call in added} == {"tenant-02"}
    assert all(20_000 <= call.started_at_ms - MIDNIGHT_MS < 35_000 for call in added)
    share = 1 / 2 / sum(1 / rank for rank in range(1, 21))
    expected = 7 * 15 * 200 * share
    assert abs(len(added) - expected) < 4 * expected**0.5


def test_broken_telemetry_breaks_its_share_of_events_in_its_span() -> None:
    incident = BrokenTelemetry(**SPAN, share=0.25)
    traffic = Traffic(7, **MINUTE, incidents=[incident])
    items = list(traffic)
    clean = list(Traffic(7, **MINUTE))
    assert [item.offset_s for item in items] == [item.offset_s for item in clean]
    in_span = 0
    for item, whole in zip(items, clean, strict=True):
        inside = 20 <= item.offset_s - MIDNIGHT_MS / 1000 < 35
        in_span += inside
        if isinstance(item.payload, bytes):
            assert inside
            assert isinstance(decode_line(item.payload), Reject)
        else:
            assert item == whole
    broken = sum(isinstance(item.payload, bytes) for item in items)
    assert traffic.broken_total == broken
    assert broken / in_span == pytest.approx(0.25, abs=0.02)


def test_broken_telemetry_can_be_one_gateways() -> None:
    found = payloads(incidents=[BrokenTelemetry(share=1.0, gateway="gateway-1")])
    gateways = {event.gateway for event in found if not isinstance(event, bytes)}
    assert gateways == {"gateway-2", "gateway-3"}


def test_incidents_add_up() -> None:
    incidents = [
        Outage(**SPAN, provider="anthropic"),
        LatencyIncident(**SPAN, provider="openai"),
        Flood(**SPAN, tenant="tenant-01", factor=2),
        Flood(**SPAN, tenant="tenant-01", factor=3),
    ]
    found = calls(incidents=incidents)
    assert len({call.call_id for call in found}) == len(found)
    inside = [call for call in found if 20_000 <= call.started_at_ms - MIDNIGHT_MS < 35_000]
    assert {call.error_class for call in inside if call.provider == "anthropic"} == {"server"}


# --- Wrong parameters --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed"),
        ({"rate_per_s": 0}, "rate"),
        ({"rate_per_s": float("nan")}, "rate"),
        ({"tenants": 0}, "tenants"),
        ({"gateways": 0}, "gateways"),
        ({"split_share": 1.1}, "split share"),
        ({"feedback_share": -0.1}, "feedback share"),
        ({"duration_s": 0}, "duration"),
        ({"start_ms": -1}, "start"),
        ({"incidents": [Flood(tenant="nobody")]}, "no tenant 'nobody'; it has tenant-01"),
        ({"incidents": [Outage(provider="nobody")]}, "no provider 'nobody'; it has anthropic"),
        ({"incidents": [Outage(model="nothing")]}, "no model"),
        ({"incidents": [BrokenTelemetry(gateway="eu-1")]}, "no gateway 'eu-1'; it has gateway-1"),
    ],
)
def test_wrong_parameters_say_what_would_be_right(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrafficError, match=message):
        Traffic(**({"seed": 7, "start_ms": MIDNIGHT_MS} | options))
