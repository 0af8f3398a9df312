"""What a worker logs: its own words, and of its libraries' what somebody can act on, not too often."""

from __future__ import annotations

import logging
import sys
import time
from typing import Final

__all__ = ["Seldom", "configure"]

_WARNINGS_OF: Final = ("faust", "mode", "aiokafka", "kafka")
# A sink that does not answer is the writer's to report, once: these two report every attempt.
_ERRORS_OF: Final = ("urllib3", "clickhouse_connect")


class Seldom(logging.Filter):
    """Lets a message of a library through once in a while, and says how many it held back.

    aiokafka logs some 100 errors a second while its broker is down. Messages are told apart by logger
    and text before values are put in, so their number is bounded.

    Parameters
    ----------
    every_s
        The least time between two of the same.
    """

    def __init__(self, every_s: float = 10.0) -> None:
        super().__init__()
        self._every_s = every_s
        self._last: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write a message."""
        if record.name.partition(".")[0] not in _WARNINGS_OF:
            return True
        key = record.name, str(record.msg)
        now = time.monotonic()
        since, held_back = self._last.get(key, (-self._every_s, 0))
        if now - since < self._every_s:
            self._last[key] = since, held_back + 1
            return False
        self._last[key] = now, 0
        if held_back:
            record.msg = f"{record.msg} (and {held_back} more like it)"
        return True


def configure() -> None:
    """Log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Seldom())
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=[handler],
    )
    for name in _WARNINGS_OF:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _ERRORS_OF:
        logging.getLogger(name).setLevel(logging.ERROR)
