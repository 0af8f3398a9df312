"""What the tables must say, worked out from the topic's bytes alone.

Plain Python that knows the event contract and the catalogue of signals by heart: nothing of
``signals``, ``streams`` or ``sinks`` is used, so that a mistake there cannot hide here. Costs are those of
:func:`gatewatch.price`, one call at a time. Slow and simple:
every value of every series is kept, and quantiles are read off sorted lists.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import gatewatch
from gatewatch.pricing import Cost
from gatewatch.usage import Usage, UsageError

__all__ = ["Aggregate", "Key", "Recomputed", "TopicRecord", "differences", "recompute"]

_DIMENSIONS: Final = ("gateway", "provider", "model", "deployment", "operation", "tenant", "team")
_CUTS: Final[Mapping[str, tuple[str, ...]]] = {
    "gateway": ("gateway",),
    "model": ("provider", "model"),
    "deployment": ("provider", "model", "deployment"),
    "operation": ("operation",),
    "tenant": ("tenant",),
    "team": ("tenant", "team"),
    "tenant_model": ("tenant", "provider", "model"),
}
_CALL_KINDS: Final = frozenset(("request", "token", "response", "latency", "call"))
_TIMES: Final = {
    "performance_ttft_us": "ttft_ms",
    "performance_tpot_us": "tpot_ms",
    "performance_latency_us": "total_ms",
}
_OWNERS: Final = frozenset(("gateway", "model", "tenant", "team"))
"""Cuts of the cost family, but for the spend itself, which has all."""
_PLAIN_PARTS: Final = ("input", "cache_read", "output", "reasoning")
_TOKENS: Final = {
    "performance_input_tokens_sum": "input_tokens",
    "performance_output_tokens_sum": "output_tokens",
}


class TopicRecord(NamedTuple):
    """A record as the broker has it."""

    partition: int
    offset: int
    appended_ms: int
    value: bytes


class Key(NamedTuple):
    """One series of one signal in one window, as the ``measures`` view names it."""

    signal: str
    label: str
    window_s: int
    cut: str
    dimensions: tuple[str, ...]


class Aggregate(NamedTuple):
    """What is known of a series: quantiles in ms, where the signal has them."""

    n: int
    sum: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


@dataclass
class Recomputed:
    """All that the views must say."""

    records: int = 0
    events: int = 0
    rejects: int = 0
    late: int = 0
    measures: dict[Key, Aggregate] = field(default_factory=dict)
    call_ids: set[str] = field(default_factory=set)
    input_tokens: int = 0
    """Over all calls; each call has them once."""
    placed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Events that are stored by their place in the log, by kind."""
    seqs: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Numbers that arrived of each emitter."""


def recompute(records: Iterable[TopicRecord], *, grace_ms: int) -> Recomputed:
    """Aggregate a topic from its first to its last record.

    Raises
    ------
    AssertionError
        The topic itself holds an event twice: then nothing can be said about who counted twice.
    """
    found = Recomputed()
    samples: dict[Key, list[int]] = defaultdict(list)
    for record in records:
        found.records += 1
        for line in record.value.split(b"\n"):
            try:
                event = json.loads(line)
            except ValueError:
                found.rejects += 1
                window_s = record.appended_ms // 60_000 * 60
                samples[_key("pipeline_rejects_count", "invalid_json", window_s, "all", {})].append(0)
                continue
            _count(event, record.appended_ms - event["at_ms"] > grace_ms, found, samples)
    for key, values in samples.items():
        found.measures[key] = _aggregate(key.signal, values)
    return found


def differences(expected: Mapping[Key, Aggregate], actual: Mapping[Key, Aggregate]) -> list[str]:
    """What is not as it should be, in words; quantiles may be off by the sketch's 1 %."""
    found = []
    for key in expected.keys() | actual.keys():
        wanted, got = expected.get(key), actual.get(key)
        if wanted is None or got is None:
            found.append(f"{key}: expected {wanted}, got {got}")
        elif wanted[:2] != got[:2]:
            found.append(f"{key}: expected n, sum {wanted[:2]}, got {got[:2]}")
        else:
            for name, exact, sketched in zip(Aggregate._fields[2:], wanted[2:], got[2:], strict=True):
                if not _close(exact, sketched):
                    found.append(f"{key}: {name} is {sketched}, exactly it is {exact}")
    return sorted(found)


def _close(exact: object, sketched: object) -> bool:
    if not isinstance(exact, float) or not isinstance(sketched, float):
        return exact is sketched
    # A microsecond for the rounding of the stored value, on top of the sketch's relative error.
    return math.isclose(exact, sketched, rel_tol=0.0101, abs_tol=0.001)


def _count(event: dict[str, Any], late: bool, found: Recomputed, samples: dict[Key, list[int]]) -> None:
    found.events += 1
    if "seq" in event:
        arrived = found.seqs[event["emitter_id"]]
        assert event["seq"] not in arrived, f"the topic holds event {event['seq']} twice"
        arrived.add(event["seq"])
    window_s = event["at_ms"] // 60_000 * 60
    gateway = {"gateway": event["gateway"]}
    samples[_key("pipeline_events_count", event["kind"], window_s, "gateway", gateway)].append(0)
    if late:
        found.late += 1
        samples[_key("pipeline_late_events_count", "", window_s, "gateway", gateway)].append(0)
    if event["kind"] not in _CALL_KINDS:
        found.placed[event["kind"]] += 1
        return
    found.call_ids.add(event["call_id"])
    measured: list[tuple[str, str, int]] = []
    if event["kind"] in ("response", "call"):
        measured.append(("performance_calls_count", "", 0))
    if event.get("error_class"):
        measured.append(("performance_errors_count", event["error_class"], 0))
    if event.get("stream_end", "complete") != "complete":
        measured.append(("performance_streams_cut_count", event["stream_end"], 0))
    if event.get("usage_source", "provider") != "missing":
        measured += [(signal, "", event[name]) for signal, name in _TOKENS.items() if name in event]
        found.input_tokens += event.get("input_tokens", 0)
    measured += [(signal, "", round(event[name] * 1000)) for signal, name in _TIMES.items() if name in event]
    measured += _costs(event)
    of_event = {"operation": "chat"} | event
    for cut in _CUTS:
        for signal, label, value in measured:
            if signal.startswith("cost_") and signal != "cost_spend_sum" and cut not in _OWNERS:
                continue
            samples[_key(signal, label, window_s, cut, of_event)].append(value)


def _costs(event: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """What the cost family counts of an event."""
    if event["kind"] not in ("response", "call"):
        return []
    said = {name: event[name] for name in Usage.__struct_fields__ if event.get(name) is not None}
    tokens = sum(event.get(name, 0) for name in ("input_tokens", "output_tokens"))
    source = event.get("usage_source", "provider") if tokens or said else "missing"
    found = [("cost_usage_count", source, 0)]
    cost = None if event.get("gateway_cache_hit") or not said else _cost(event, said)
    reported = event.get("reported_cost_usd")
    nano: int | None
    if event.get("gateway_cache_hit"):
        status, nano, parts = "free", 0, {}
    elif cost is not None and cost.cost_usd is not None:
        status, nano, parts = cost.cost_status, sum(cost.parts_nano_usd.values()), cost.parts_nano_usd
    elif reported is not None:
        status, nano = "provider_reported", round(reported * 1e9)
        parts = {"request": nano}
    else:
        status, nano, parts = "unpriced", None, {}
    found.append(("cost_status_count", status, 0))
    if said and cost is None and not event.get("gateway_cache_hit"):
        found.append(("cost_contradictory_count", "", 0))
    if nano is None:
        return [*found, ("cost_unpriced_tokens_sum", "", tokens)] if tokens else found
    by_label: dict[str, int] = defaultdict(int)
    for part, amount in parts.items():
        by_label["cache_write" if "write" in part else part if part in _PLAIN_PARTS else "other"] += amount
    found += [("cost_parts_sum", label, amount) for label, amount in by_label.items() if amount]
    if status in ("priced", "partial") and not nano and tokens:
        found.append(("cost_zero_count", "", 0))
    if reported is not None and status != "provider_reported":
        found += [
            ("cost_reported_sum", "", round(reported * 1e9)),
            ("cost_reported_ours_sum", "", nano),
        ]
    return [*found, ("cost_spend_sum", "", nano)]


def _cost(event: Mapping[str, Any], said: dict[str, Any]) -> Cost | None:
    try:
        return gatewatch.price(
            event["provider"],
            event["model"],
            Usage(**said),
            at_ms=event["started_at_ms"],
            service_tier=event.get("service_tier", ""),
        )
    except UsageError:
        return None


def _key(signal: str, label: str, window_s: int, cut: str, event: Mapping[str, Any]) -> Key:
    within = _CUTS.get(cut, ())
    values = tuple(event.get(name, "") if name in within else "" for name in _DIMENSIONS)
    return Key(signal, label, window_s, cut, values)


def _aggregate(signal: str, values: list[int]) -> Aggregate:
    if signal not in _TIMES:
        return Aggregate(len(values), sum(values), None, None, None)
    ordered = sorted(values)

    def quantile_ms(q: float) -> float:
        return ordered[min(int(q * len(ordered)), len(ordered) - 1)] / 1000

    return Aggregate(len(values), sum(values), quantile_ms(0.5), quantile_ms(0.95), quantile_ms(0.99))
