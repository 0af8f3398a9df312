"""Events for tests: complete, valid, and told apart by their number."""

from __future__ import annotations

from typing import Any, Final

from gatewatch.events import Call, Event, encode
from signals.decoder import Piece, decode_values

__all__ = ["T0_MS", "call", "pieces", "record"]

T0_MS: Final = 1_760_000_040_000
"""A window's start in October 2025, in milliseconds."""


def call(number: int, **fields: Any) -> Call:
    """A call of 500 ms that ended at ``T0_MS + number`` ms, with whatever else is asked for."""
    at_ms = fields.pop("at_ms", T0_MS + number)
    known: dict[str, Any] = {
        "at_ms": at_ms,
        "gateway": "eu-1",
        "call_id": f"call-{number}",
        "started_at_ms": at_ms - 500,
        "provider": "openai",
        "model": "gpt-4o",
        "total_ms": 500.0,
    }
    return Call(**known | fields)


def record(*events: Event | bytes) -> bytes:
    """A Kafka record's value: one line each; bytes are taken as a line as they are."""
    return b"\n".join(line if isinstance(line, bytes) else encode(line) for line in events)


def pieces(*events: Any) -> list[Piece]:
    """Events as a lane decodes them, from one record."""
    return list(decode_values([record(*events)]))
