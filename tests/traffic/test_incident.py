from __future__ import annotations

import math

import pytest

from gatewatch.events import Call, Event, Feedback, Reject, Request, decode_line
from traffic.incident import (
    BREAKAGES,
    BrokenTelemetry,
    Flood,
    Incident,
    IncidentError,
    LatencyIncident,
    Outage,
    broken_line,
    parse_incident,
    seconds,
)

EVENTS: list[Event] = [
    Call(at_ms=5, started_at_ms=1, gateway="g", call_id="c", provider="p", model="m", output_tokens=3),
    Request(at_ms=5, started_at_ms=1, gateway="g", call_id="c", provider="p", model="m"),
    Feedback(at_ms=5, gateway="g", call_id="c", name="thumbs", score=1.0),
]


@pytest.mark.parametrize(
    ("text", "expected"), [("250ms", 0.25), ("30s", 30), ("1.5m", 90), ("2h", 7200), ("1d", 86_400), ("7", 7)]
)
def test_durations_have_units(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "s", "-3s", "3 w", "1e3s", "nan", "inf", "3s3"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "incident"),
    [
        (
            "latency:at=30s,duration=20s,provider=openai,factor=5",
            LatencyIncident(at_s=30, duration_s=20, provider="openai", factor=5),
        ),
        ("outage", Outage()),
        (" outage: share=0.5, error=overload ,", Outage(share=0.5, error="overload")),
        ("flood:tenant=tenant-03,factor=10", Flood(tenant="tenant-03", factor=10)),
        ("broken-telemetry:share=0.2,at=1m", BrokenTelemetry(share=0.2, at_s=60)),
    ],
)
def test_incidents_are_read(text: str, incident: Incident) -> None:
    assert parse_incident(text) == incident


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fire", "known are latency, outage, flood, broken-telemetry"),
        ("latency:speed=3", "takes at, duration, factor, provider"),
        ("latency:factor", "as key=value"),
        ("latency:factor=fast", "factor"),
        ("latency:factor=nan", "factor must be above 0"),
        ("latency:factor=0", "factor must be above 0"),
        ("latency:at=soon", "at: 'soon' is not a duration"),
        ("latency:at=1s,at=2s", "at twice"),
        ("outage:duration=0s", "duration must be above zero"),
        ("outage:error=cancelled", "error must be one of rate_limit"),
        ("outage:share=1.5", "share must be from 0 to 1"),
        ("flood:factor=3", "needs the tenant"),
        ("flood:tenant=tenant-01,factor=0.5", "takes none away"),
        ("flood:tenant=tenant-01,factor=100000", "at most 1000"),
        ("broken-telemetry:share=nan", "share must be from 0 to 1"),
    ],
)
def test_a_wrong_incident_says_what_would_be_right(text: str, message: str) -> None:
    with pytest.raises(IncidentError, match=message):
        parse_incident(text)


def test_an_incident_without_an_end_lasts() -> None:
    assert parse_incident("outage:at=5s").until_s == math.inf


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("way", range(len(BREAKAGES)), ids=list(BREAKAGES))
def test_broken_lines_are_refused_by_the_contract(event: Event, way: int) -> None:
    line = broken_line(event, way)
    assert b"\n" not in line
    assert isinstance(decode_line(line), Reject)


def test_broken_lines_are_broken_in_different_ways() -> None:
    reasons = set()
    for way in range(len(BREAKAGES)):
        verdict = decode_line(broken_line(EVENTS[0], way))
        assert isinstance(verdict, Reject)
        reasons.add(verdict.reason)
    assert reasons >= {"invalid_json", "invalid_event", "invalid_utf8"}
