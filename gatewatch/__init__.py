"""gatewatch: streaming observability for LLM inference gateways.

This package is what a gateway imports: the event contract, the emitter and the reading of
providers' usage objects. It needs msgspec and a Kafka client, nothing else.

    >>> import gatewatch
    >>> gatewatch.Call.__name__
    'Call'

``gatewatch.price`` and what it needs are read when it is first used, not before.
"""

from typing import TYPE_CHECKING, Any

from gatewatch.emitter import Emitter
from gatewatch.events import (
    Call,
    Evaluation,
    Event,
    Feedback,
    Latency,
    Reject,
    Request,
    Resource,
    Response,
    Token,
    decode_line,
    decode_record,
    encode,
)

if TYPE_CHECKING:
    from gatewatch.pricing import price

__all__ = [
    "Call",
    "Emitter",
    "Evaluation",
    "Event",
    "Feedback",
    "Latency",
    "Reject",
    "Request",
    "Resource",
    "Response",
    "Token",
    "decode_line",
    "decode_record",
    "encode",
    "price",
]


def __getattr__(name: str) -> Any:
    if name == "price":
        from gatewatch.pricing import price

        globals()["price"] = price
        return price
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
