"""What can go wrong on purpose: incidents that synthetic traffic can carry.

An incident has a span of event time, counted from the start of the traffic. It changes the calls
that start within its span and no other: everything outside is the same, to the byte, as without it.
An exception is broken telemetry, which is about events and not about calls: it strikes events by
their own time.

Incidents are written ``name:key=value,key=value``, as ``--inject`` takes them::

    latency:at=30s,duration=20s,provider=openai,factor=5
    outage:at=1m,duration=30s,provider=anthropic,error=overload
    flood:at=10s,duration=20s,tenant=tenant-03,factor=10
    broken-telemetry:share=0.2,gateway=eu-1
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import ClassVar, Final, TypeAlias

import msgspec
from msgspec import Struct

from gatewatch.events import Event, encode
from traffic.profile import FAILURES

__all__ = [
    "BREAKAGES",
    "INCIDENTS",
    "BrokenTelemetry",
    "Flood",
    "Incident",
    "IncidentError",
    "LatencyIncident",
    "Outage",
    "broken_line",
    "parse_incident",
    "seconds",
]


class IncidentError(ValueError):
    """An incident is written wrongly; the message says what would be right."""


_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}


def seconds(text: str) -> float:
    """A duration such as ``250ms``, ``30s``, ``5m``, ``2h`` or ``1d``; a bare number is seconds.

    >>> seconds("1.5m")
    90.0

    Raises
    ------
    ValueError
        It is written in another way.
    """
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a duration; write 250ms, 30s, 5m, 2h or 1d")
    return float(match[1]) * _UNIT_S[match[2]]


class _Span(Struct, frozen=True, kw_only=True):
    """When an incident is on."""

    name: ClassVar[str]
    at_s: float = 0.0
    """From the start of the traffic."""
    duration_s: float = math.inf

    @property
    def until_s(self) -> float:
        """The first moment after it."""
        return self.at_s + self.duration_s


class LatencyIncident(_Span, frozen=True, kw_only=True):
    """Calls of a slice become slower: ttft and time per output token times ``factor``."""

    name: ClassVar[str] = "latency"
    factor: float = 5.0
    provider: str = ""
    """Empty is every provider; the same for the others."""
    model: str = ""
    gateway: str = ""
    tenant: str = ""


class Outage(_Span, frozen=True, kw_only=True):
    """Calls of a slice fail."""

    name: ClassVar[str] = "outage"
    share: float = 1.0
    """Of the slice's calls."""
    error: str = "server"
    """An error class, one of those of :data:`traffic.profile.FAILURES`."""
    provider: str = ""
    model: str = ""
    gateway: str = ""
    tenant: str = ""


class Flood(_Span, frozen=True, kw_only=True):
    """One tenant sends ``factor`` times its usual calls."""

    name: ClassVar[str] = "flood"
    tenant: str
    factor: float = 10.0


class BrokenTelemetry(_Span, frozen=True, kw_only=True):
    """A share of events becomes lines that are no events, in each of the ways of :data:`BREAKAGES`."""

    name: ClassVar[str] = "broken-telemetry"
    share: float = 0.2
    gateway: str = ""


Incident: TypeAlias = LatencyIncident | Outage | Flood | BrokenTelemetry

INCIDENTS: Final[dict[str, type[Incident]]] = {
    kind.name: kind for kind in (LatencyIncident, Outage, Flood, BrokenTelemetry)
}

_FACTOR_MOST: Final = 1000.0


def parse_incident(text: str) -> Incident:
    """An incident from its written form.

    >>> parse_incident("outage:at=1m,duration=30s,provider=openai").until_s
    90.0

    Raises
    ------
    IncidentError
        An unknown name or key, a value that does not fit, or a key that is missing.
    """
    name, _, rest = text.partition(":")
    kind = INCIDENTS.get(name.strip())
    if kind is None:
        raise IncidentError(f"no incident {name.strip()!r}; known are {', '.join(INCIDENTS)}")
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    keys = ["at", "duration", *(key for key in fields if key not in ("at_s", "duration_s"))]
    values: dict[str, str | float] = {}
    for pair in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or key not in keys:
            raise IncidentError(f"{kind.name} takes {', '.join(keys)} as key=value, not {pair!r}")
        field = f"{key}_s" if key in ("at", "duration") else key
        if field in values:
            raise IncidentError(f"{kind.name} has {key} twice")
        try:
            values[field] = (
                seconds(value) if field != key else float(value) if fields[key].type is float else value
            )
        except ValueError as error:
            raise IncidentError(f"{kind.name}: {key}: {error}") from None
    if kind is Flood and "tenant" not in values:
        raise IncidentError("flood needs the tenant that floods: flood:tenant=tenant-01,factor=10")
    incident = msgspec.convert(values, kind)
    _check(incident)
    return incident


def _check(incident: Incident) -> None:
    if not incident.duration_s > 0:
        raise IncidentError(f"{incident.name}: duration must be above zero")
    factor = getattr(incident, "factor", 1.0)
    # Written so that a value that is no number fails as well.
    if not 0 < factor <= _FACTOR_MOST:
        raise IncidentError(f"{incident.name}: factor must be above 0 and at most {_FACTOR_MOST:g}")
    if isinstance(incident, Flood) and factor < 1:
        raise IncidentError("flood: factor must be 1 or more; it adds calls and takes none away")
    if not 0 <= getattr(incident, "share", 1.0) <= 1:
        raise IncidentError(f"{incident.name}: share must be from 0 to 1")
    errors = [failure.error_class for failure in FAILURES]
    if isinstance(incident, Outage) and incident.error not in errors:
        raise IncidentError(f"outage: error must be one of {', '.join(errors)}")


# --- Broken lines ------------------------------------------------------------------------------------


def _without(line: bytes, event: Event, field: str) -> bytes:
    document = msgspec.json.decode(line)
    document.pop(field, None)
    return msgspec.json.encode(document)


def _with(line: bytes, event: Event, **fields: object) -> bytes:
    document = msgspec.json.decode(line)
    document.update(fields)
    return msgspec.json.encode(document)


# What a token event must have, so that its count is what is refused, whatever event it is made from.
_TOKEN: Final = {
    "kind": "token",
    "call_id": "broken",
    "started_at_ms": 0,
    "provider": "broken",
    "model": "broken",
}

BREAKAGES: Final[dict[str, Callable[[bytes, Event], bytes]]] = {
    "truncated": lambda line, event: line[: len(line) * 2 // 3],
    "not_json": lambda line, event: b"call finished, see log",
    "missing_gateway": lambda line, event: _without(line, event, "gateway"),
    "missing_time": lambda line, event: _without(line, event, "at_ms"),
    "time_as_text": lambda line, event: _with(line, event, at_ms=str(event.at_ms)),
    "negative_tokens": lambda line, event: _with(line, event, **_TOKEN, output_tokens_so_far=-1),
    "fractional_tokens": lambda line, event: _with(line, event, **_TOKEN, output_tokens_so_far=0.5),
    "unknown_kind": lambda line, event: _with(line, event, kind="span"),
    "newer_version": lambda line, event: _with(line, event, v=2),
    # Latin-1 written where UTF-8 was promised.
    "invalid_utf8": lambda line, event: line[:-1] + b',"gateway":"caf\xe9"}',
    "list": lambda line, event: b"[" + line + b"]",
}
"""From an event and its line to a line that the contract refuses, by what is wrong with it."""

_BREAKAGES: Final[Sequence[Callable[[bytes, Event], bytes]]] = tuple(BREAKAGES.values())


def broken_line(event: Event, way: int) -> bytes:
    """The event's line, broken in one of the ways of :data:`BREAKAGES` (``way`` modulo their number)."""
    return _BREAKAGES[way % len(_BREAKAGES)](encode(event), event)
