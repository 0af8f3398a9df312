"""What a worker says of itself: Prometheus ``/metrics``, ``/healthz``, and samples for ClickHouse.

``/healthz`` follows progress, not the process: it fails while records wait and none is being stored.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pyarrow as pa
from aiohttp import web
from msgspec import Struct
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sinks.clickhouse import Sink
    from streams.worker import Worker

__all__ = ["EmitterTotals", "Health", "read_emitters"]

_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# The writer's thread waits for it, so rows wait too: it is given up rather than let them wait long.
_EMITTERS: Final = """\
SELECT sum(gaps), sum(duplicates), sum(reported_drops), sum(lost) FROM gatewatch.emitters
SETTINGS max_execution_time = 5"""


class EmitterTotals(Struct, frozen=True):
    """The view ``emitters``, added up over all emitters: whatever worker is asked, the same."""

    gaps: int
    duplicates: int
    reported_drops: int
    lost: int


def read_emitters(sink: Sink) -> EmitterTotals:
    """Read the totals; the query goes over every chunk that is kept.

    Raises
    ------
    SinkError
        The store does not answer, or not within five seconds.
    """
    gaps, duplicates, reported_drops, lost = (int(value or 0) for value in sink.rows(_EMITTERS)[0])
    return EmitterTotals(gaps, duplicates, reported_drops, lost)


class Health(Collector):
    """Reads a worker's state when asked; keeps none but the time of the last progress."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._runner: web.AppRunner | None = None
        self._moved: dict[int, tuple[int, float]] = {}
        self.port = 0
        self.emitters: EmitterTotals | None = None
        """As last read; None before the first time."""

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 is off."""
        if not port:
            return
        app = web.Application()
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_get("/healthz", self._serve_health)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self.port = port

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": _CONTENT_TYPE})

    async def _serve_health(self, _: web.Request) -> web.Response:
        trouble = self.trouble()
        return web.Response(text=f"{trouble or 'ok'}\n", status=503 if trouble else 200)

    def lag(self, number: int) -> int:
        """Records of a partition that are not stored yet, counted from the stored offset."""
        end = self._worker.log_end(number)
        if end is None:
            return 0
        return max(0, end[0] - 1 - self._worker.partitions[number].flushed_offset)

    def trouble(self) -> str | None:
        """Why the worker is not healthy; None when it is."""
        worker = self._worker
        if not worker.begun:
            return "no partitions are read yet"
        now = time.monotonic()
        stalled_s = worker.settings.stalled_s
        waiting_since_s = worker.waiting_since_s
        if waiting_since_s is not None and now - waiting_since_s > stalled_s:
            return f"partitions are being handed over for {now - waiting_since_s:.0f} s"
        for number, partition in worker.partitions.items():
            offset, since = self._moved.get(number, (-2, now))
            if offset != partition.flushed_offset or not self.lag(number):
                self._moved[number] = (partition.flushed_offset, now)
            elif now - since > stalled_s:
                waiting = self.lag(number)
                return f"partition {number}: {waiting} records wait, none stored for {now - since:.0f} s"
        return None

    def sample(self) -> pa.Table | None:
        """A row for each partition, as the ``workers`` table has them."""
        worker = self._worker
        partitions = list(worker.partitions.values())
        if not partitions or worker.identity is None:
            return None
        identity = worker.identity
        now_ms = int(time.time() * 1000)
        n = len(partitions)
        rows_written = sum(worker.writer.rows_written_total.values())

        def unsigned(values: Iterable[int]) -> pa.Array:
            return pa.array(list(values), pa.uint64())

        return pa.table(
            {
                "at": pa.array([now_ms] * n, pa.int64()).cast(pa.timestamp("ms", "UTC")),
                "worker": pa.array([worker.name] * n, pa.string()),
                "source": unsigned(identity.source(partition.number) for partition in partitions),
                "partition": pa.array([partition.number for partition in partitions], pa.uint32()),
                "flushed_offset": pa.array(
                    [partition.flushed_offset for partition in partitions], pa.int64()
                ),
                "lag_records": unsigned(self.lag(partition.number) for partition in partitions),
                "oldest_unacknowledged_ms": unsigned(
                    max(0, now_ms - (partition.oldest_unacknowledged_ms or now_ms))
                    for partition in partitions
                ),
                "events_total": unsigned([worker.events_total] * n),
                "rejects_total": unsigned([worker.rejects_total] * n),
                "rows_written_total": unsigned([rows_written] * n),
                "insert_errors_total": unsigned([worker.writer.insert_errors_total] * n),
                "headless_chunks_total": unsigned([worker.headless_chunks_total] * n),
            }
        )

    def collect(self) -> Iterable[Metric]:
        """The metrics of ``/metrics``."""
        worker = self._worker
        now_ms = time.time() * 1000
        for name, help_text, value in (
            ("events", "Events taken in and stored.", worker.events_total),
            ("rejects", "Lines that were no events, stored as dead letters.", worker.rejects_total),
            ("late_events", "Events that came later than the grace period.", worker.late_events_total),
            (
                "duplicate_events",
                "Events that their chunk had seen before; aggregates leave them out.",
                worker.duplicate_events_total,
            ),
            ("insert_errors", "Statements that ClickHouse did not take.", worker.writer.insert_errors_total),
            (
                "records_expired",
                "Offsets that were deleted before they could be read.",
                worker.records_expired_total,
            ),
            ("headless_chunks", "Chunks whose start could no longer be read.", worker.headless_chunks_total),
            (
                "price_read_errors",
                "Looks for new versions of the prices that failed.",
                worker.price_read_errors_total,
            ),
            ("windows_closed", "Closings of windows, corrections included.", worker.windows_closed_total),
        ):
            metric = CounterMetricFamily(f"gatewatch_{name}", help_text)
            metric.add_metric([], value)
            yield metric
        rows = CounterMetricFamily("gatewatch_rows_written", "Rows inserted.", labels=["table"])
        for table, count in worker.writer.rows_written_total.items():
            rows.add_metric([table], count)
        yield rows
        lag = GaugeMetricFamily("gatewatch_lag_records", "Records not stored yet.", labels=["partition"])
        age = GaugeMetricFamily(
            "gatewatch_oldest_unacknowledged_seconds",
            "Age of the oldest record that is not acknowledged.",
            labels=["partition"],
        )
        offset = GaugeMetricFamily("gatewatch_flushed_offset", "Last offset stored.", labels=["partition"])
        for number, partition in worker.partitions.items():
            label = [str(number)]
            lag.add_metric(label, self.lag(number))
            oldest = partition.oldest_unacknowledged_ms
            age.add_metric(label, max(0.0, (now_ms - oldest) / 1000) if oldest is not None else 0.0)
            offset.add_metric(label, partition.flushed_offset)
        yield from (lag, age, offset)
        if self.emitters is not None:
            for name, help_text, value in (
                (
                    "gaps",
                    "Numbers between an emitter's first and last that did not arrive.",
                    self.emitters.gaps,
                ),
                ("duplicates", "Arrivals beyond the first of a number.", self.emitters.duplicates),
                (
                    "reported_drops",
                    "Events that emitters say they dropped.",
                    self.emitters.reported_drops,
                ),
                ("lost", "Numbers that neither arrived nor were reported as dropped.", self.emitters.lost),
            ):
                # Not a counter: late events fill gaps, and chunks expire.
                gauge = GaugeMetricFamily(f"gatewatch_emitter_{name}", f"{help_text} All emitters together.")
                gauge.add_metric([], value)
                yield gauge
        prices = GaugeMetricFamily("gatewatch_price_version", "Newest version of the prices that is known.")
        prices.add_metric([], worker.prices.newest)
        yield prices
        sink = GaugeMetricFamily("gatewatch_sink_up", "Whether ClickHouse took the last statement.")
        sink.add_metric([], 1 if worker.writer.answering else 0)
        yield sink
