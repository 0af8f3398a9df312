"""From ``emit()`` to visible in a query: `python -m benchmarks.freshness`.

First the stack's maximum on this machine, as the throughput benchmark measures it (100 events a
record); then calls are emitted at a steady half of it, open loop: when an event is due depends on the
clock alone, not on how long earlier ones took. Among them a feedback event is emitted twenty times a
second, and the ``feedback`` view is asked as ``reader``, as ``gatewatch query`` asks it, which of them
can be seen. In every flush calls are stored before feedback, so a call is seen no later.

Rows are counted afterwards; a run that lost or dropped anything reports no figure and exits with 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from benchmarks.throughput import LostError, measure_worker
from benchmarks.workload import calls
from gatewatch import Emitter, Feedback
from sinks.clickhouse import Sink
from streams.stack import Stack

__all__ = ["main"]

_TICK_S: Final = 0.01
_MARKERS_PER_S: Final = 20
_PREPARED: Final = 20_000
_POLL_S: Final = 0.02
_SETTLE_S: Final = 5.0
"""Left out at the start: the worker's first assignment and the engine's first queries."""


class _Watcher(threading.Thread):
    """Asks which markers can be seen, and when each was seen first."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._sink = Sink(url, "reader")
        self.seen: dict[str, float] = {}
        self.finished = threading.Event()

    def run(self) -> None:
        since_ms = 0
        while not self.finished.is_set():
            rows = self._sink.rows(
                "SELECT call_id, toUnixTimestamp64Milli(at) FROM gatewatch.feedback "
                "WHERE at >= fromUnixTimestamp64Milli({since:Int64}) AND name = 'marker'",
                {"since": since_ms},
            )
            now = time.monotonic()
            for call_id, at_ms in rows:
                if self.seen.setdefault(call_id, now) is now:
                    # Markers become visible nearly in order; ask again only for the last ten seconds.
                    since_ms = max(since_ms, int(at_ms) - 10_000)
            self.finished.wait(_POLL_S)
        self._sink.close()


def _emit_steadily(emitter: Emitter, rate_per_s: float, seconds: float) -> tuple[int, dict[str, float]]:
    prepared = list(calls(_PREPARED, 0))
    emitted_at: dict[str, float] = {}
    began = time.monotonic()
    sent = markers = 0
    while (elapsed := time.monotonic() - began) < seconds:
        due = int(elapsed * rate_per_s)
        now_ms = int(time.time() * 1000)
        for number in range(sent, due):
            call = prepared[number % _PREPARED]
            call.call_id = f"call-{number}"
            call.emitter_id, call.seq = "", None
            call.at_ms = now_ms
            call.started_at_ms = now_ms - int(call.total_ms or 0)
            emitter.emit(call)
        sent = max(sent, due)
        if elapsed * _MARKERS_PER_S >= markers:
            name = f"marker-{markers}"
            emitted_at[name] = time.monotonic()
            emitter.emit(Feedback(at_ms=now_ms, gateway="bench", call_id=name, name="marker"))
            markers += 1
        time.sleep(max(0.0, _TICK_S - (time.monotonic() - began - elapsed)))
    return sent, emitted_at


def _quantile_ms(sorted_ms: list[float], q: float) -> float:
    return round(sorted_ms[min(int(q * len(sorted_ms)), len(sorted_ms) - 1)], 1)


def measure(seconds: float, calibration_events: int, rate_per_s: float | None = None) -> dict[str, float]:
    """The figures of one run.

    Raises
    ------
    LostError
        Something was dropped, lost or stored twice.
    """
    if rate_per_s is None:
        with tempfile.TemporaryDirectory() as data, Stack(Path(data), workers=0) as stack:
            maximum = measure_worker(stack, calibration_events, 100)["events_per_s"]
        rate_per_s = maximum / 2
        print(f"maximum {maximum} events/s, emitting {rate_per_s:.0f} events/s", flush=True)
    with tempfile.TemporaryDirectory() as data, Stack(Path(data), workers=1) as stack:
        watcher = _Watcher(stack.engine_url)
        watcher.start()
        emitter = Emitter(stack.bootstrap, gateway="bench")
        sent, emitted_at = _emit_steadily(emitter, rate_per_s, seconds + _SETTLE_S)
        if not emitter.close(60) or emitter.dropped_total:
            raise LostError(
                f"the emitter dropped {emitter.dropped_total} events: the rate is too high for it"
            )
        deadline = time.monotonic() + 60
        while len(watcher.seen) < len(emitted_at) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        watcher.finished.set()
        watcher.join()
        sink = Sink(stack.engine_url, "writer", stack.writer_password)
        stored = sink.rows("SELECT count() FROM gatewatch.calls")[0][0]
        lost = sink.rows("SELECT sum(gaps), sum(duplicates), sum(lost) FROM gatewatch.emitters")[0]
        if (stored, *lost) != (sent, 0, 0, 0) or len(watcher.seen) != len(emitted_at):
            raise LostError(f"{sent} calls were emitted, {stored} are stored; gaps, duplicates, lost: {lost}")
    first = min(emitted_at.values()) + _SETTLE_S
    delays = sorted((watcher.seen[name] - at) * 1000 for name, at in emitted_at.items() if at >= first)
    return {
        "events_per_s": round(rate_per_s),
        "p50_ms": _quantile_ms(delays, 0.5),
        "p95_ms": _quantile_ms(delays, 0.95),
        "p99_ms": _quantile_ms(delays, 0.99),
        "max_ms": round(delays[-1], 1),
        "samples": len(delays),
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; 0 when nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.freshness")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--events", type=int, default=600_000, help="to find the maximum with")
    parser.add_argument("--rate", type=float, help="events per second instead of half the maximum")
    options = parser.parse_args(arguments)
    try:
        figures = measure(options.seconds, options.events, options.rate)
    except LostError as error:
        print(f"no figure is reported: {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
