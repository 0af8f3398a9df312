"""A moment as people write it: an age, or a date with or without a time."""

from __future__ import annotations

import time
from datetime import UTC, datetime

__all__ = ["moment_ms"]


def moment_ms(text: str) -> int:
    """Milliseconds since 1970 UTC of an age such as ``24h``, or of a date such as ``2026-01-31T12:00`` (UTC).

    Raises
    ------
    ValueError
        It is neither; the message says how to write it.
    """
    from traffic.incident import seconds

    try:
        try:
            at_s = time.time() - seconds(text.removeprefix("-"))
        except ValueError:
            moment = datetime.fromisoformat(text)
            at_s = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        return max(0, round(at_s * 1000))
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no time; write an age like 24h or a date like 2026-01-31T12:00"
        ) from None
