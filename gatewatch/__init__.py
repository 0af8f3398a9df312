"""gatewatch: streaming observability for LLM inference gateways.

This package is what a gateway imports: the event contract, the emitter and the reading of
providers' usage objects. It needs msgspec and a Kafka client, nothing else.

    >>> import gatewatch
    >>> gatewatch.Call.__name__
    'Call'
"""

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
]
