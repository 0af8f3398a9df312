"""The demonstration's traffic: synthetic calls mixed with a recorded trace, in real time.

Each source is a replay in a thread with an emitter of its own, exactly what ``gatewatch traffic``
and ``gatewatch replay`` do. What is given to the emitters is counted on the way, so that at the end
it can be held against what is stored (:mod:`streams.proof`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Final

from msgspec import Struct

from gatewatch.events import EVENTS_TOPIC, Event
from signals.budget import Budget, Scope
from streams.proof import EmitterCount, Sent, Tally
from traffic.incident import parse_incident
from traffic.replay import KafkaSender, Pace, Summary, replay
from traffic.synthetic import Traffic
from traffic.trace import Timed, Trace

__all__ = ["ENVIRONMENT", "EXAMPLES", "TRACE", "Demo", "Example", "budget"]

TRACE: Final = (
    Path(__file__).resolve().parents[2]
    / "shared/data/traces/azure_llm_2023/AzureLLMInferenceTrace_conv.csv.gz"
)
"""A minute of a real service, where the recorded data lies beside the checkout."""

ENVIRONMENT: Final = {
    # Of a minute's traffic; at 1,000 records a chunk, none would be complete and acknowledged in it.
    "GATEWATCH_CHUNK_RECORDS": "100",
    # So that a window that ends in the demonstration is also closed in it.
    "GATEWATCH_GRACE_S": "5",
    # A worker that is killed is replaced at once, but its partitions are free only after this.
    "GATEWATCH_SESSION_TIMEOUT_S": "6",
    "GATEWATCH_EVENTS_TOPIC": EVENTS_TOPIC,
}
"""Settings of the workers that differ from their defaults."""

_BUDGET_TENANT: Final = "tenant-01"
_BUDGET_USD_PER_CALL: Final = Decimal("0.0115")
"""Somewhat less than what the tenant spends for each synthetic call of any tenant: a day's budget of so much
for all calls of the demonstration bursts shortly before its end."""

_CLOSE_S: Final = 30.0


def budget(seconds: float, rate_per_s: float) -> Budget:
    """A budget that the demonstration's traffic bursts."""
    usd = (Decimal(seconds) * Decimal(rate_per_s) * _BUDGET_USD_PER_CALL).quantize(Decimal("0.01"))
    return Budget(
        budget_id=f"{_BUDGET_TENANT}-day",
        scope=Scope(tenant=_BUDGET_TENANT),
        period="daily",
        time_zone="UTC",
        amount_usd=max(usd, Decimal("0.01")),
    )


class Example(Struct, frozen=True):
    """A question and the query that answers it."""

    question: str
    sql: str


EXAMPLES: Final = (
    Example(
        "Which models keep their users waiting for the first token?",
        """\
SELECT provider, model, count() AS streams,
    round(quantile(0.5)(ttft_ms)) AS p50_ms, round(quantile(0.95)(ttft_ms)) AS p95_ms
FROM gatewatch.calls
WHERE ttft_ms IS NOT NULL
GROUP BY provider, model
ORDER BY p95_ms DESC
LIMIT 5""",
    ),
    Example(
        "Which tenants cost most, and how often do their calls fail? (from the aggregates)",
        """\
SELECT tenant,
    sumIf(sum, signal = 'cost_spend_sum') / 1e9 AS usd,
    sumIf(sum, signal = 'performance_input_tokens_sum') AS input_tokens,
    sumIf(sum, signal = 'performance_output_tokens_sum') AS output_tokens,
    sumIf(n, signal = 'performance_calls_count') AS calls,
    round(100 * sumIf(n, signal = 'performance_errors_count') / calls, 2) AS failed_percent
FROM gatewatch.measures
WHERE cut = 'tenant'
GROUP BY tenant
ORDER BY usd DESC
LIMIT 5""",
    ),
    Example(
        "Which streams were cut, by whom, and after how long?",
        """\
SELECT stream_end, provider, count() AS streams,
    round(avg(total_ms) / 1000, 1) AS mean_s, sum(output_tokens) AS tokens_shown
FROM gatewatch.calls
WHERE stream_end NOT IN ('', 'complete')
GROUP BY stream_end, provider
ORDER BY streams DESC
LIMIT 6""",
    ),
)


class _CountingSender:
    """Counts each event, then hands it on."""

    def __init__(self, inner: KafkaSender) -> None:
        self.inner = inner
        self.tally = Tally()
        self.broken_lines = 0

    @property
    def dropped_total(self) -> int:
        return self.inner.dropped_total

    def send(self, event: Event) -> None:
        self.tally.count(event)
        self.inner.send(event)

    def send_raw(self, line: bytes) -> None:
        self.broken_lines += 1
        self.inner.send_raw(line)

    def flush(self) -> None:
        self.inner.flush()

    def close(self, timeout_s: float) -> bool:
        return self.inner.close(timeout_s)


class _Source(threading.Thread):
    """One replay in a thread; ends early when told to."""

    def __init__(
        self, name: str, items: Iterable[Timed], sender: KafkaSender, pace: Pace, origin_s: float | None
    ) -> None:
        super().__init__(name=f"gatewatch-{name}", daemon=True)
        self.sender = _CountingSender(sender)
        self.failure: BaseException | None = None
        self.summary: Summary | None = None
        self._items = items
        self._pace = pace
        self._origin_s = origin_s
        self._told = threading.Event()

    def run(self) -> None:
        try:
            self.summary = replay(
                self._items,
                self.sender,
                self._pace,
                origin_s=self._origin_s,
                close_timeout_s=_CLOSE_S,
                wait=self._wait,
            )
        except Exception as error:
            self.failure = error

    def _wait(self, seconds: float) -> None:
        if self._told.wait(seconds):
            raise KeyboardInterrupt  # how a replay is ended early, and well

    def tell(self) -> None:
        """End soon; what was taken is still delivered."""
        self._told.set()


class Demo:
    """The traffic of the demonstration.

    Parameters
    ----------
    bootstrap
        Kafka's address.
    seconds
        How long it lasts, in real time.
    rate_per_s
        Synthetic calls a second.
    trace
        A trace of format ``azure`` to mix in at its own pace; None for synthetic traffic only.
    seed
        Of the synthetic traffic.

    Notes
    -----
    Three things go wrong on purpose, so that there is something to see: :attr:`incidents`.
    """

    def __init__(
        self, bootstrap: str, *, seconds: float, rate_per_s: float, trace: Path | None, seed: int = 7
    ) -> None:
        at, until = round(seconds * 0.35, 1), round(seconds * 0.7, 1)
        self.incidents = (
            f"latency:at={at:g}s,duration={seconds / 4:g}s,provider=openai,factor=4",
            f"outage:at={until:g}s,duration={seconds / 4:g}s,provider=anthropic,error=overload,share=0.3",
            f"broken-telemetry:at={seconds / 10:g}s,duration={seconds:g}s,share=0.002",
        )
        start_ms = round(time.time() * 1000)
        self._traffic = Traffic(
            seed,
            start_ms=start_ms,
            rate_per_s=rate_per_s,
            duration_s=seconds,
            rhythm=False,
            incidents=[parse_incident(text) for text in self.incidents],
        )
        self._sources = [
            _Source(
                "synthetic",
                self._traffic,
                KafkaSender(bootstrap, gateway="gateway-1"),
                Pace(start_ms=start_ms, keep_time=True),
                start_ms / 1000,
            )
        ]
        if trace is not None:
            self._sources.append(
                _Source(
                    "trace",
                    _first(seconds, Trace("azure", [str(trace)], run=f"{start_ms:x}", gateway="trace-azure")),
                    KafkaSender(bootstrap, gateway="trace-azure"),
                    Pace(),
                    None,
                )
            )

    def start(self) -> None:
        """Begin to send."""
        for source in self._sources:
            source.start()

    def stop(self) -> None:
        """Send no more. What was taken is still delivered."""
        for source in self._sources:
            source.tell()

    def wait(self, timeout_s: float) -> bool:
        """Wait until everything is sent and acknowledged; whether it is."""
        deadline = time.monotonic() + timeout_s
        for source in self._sources:
            source.join(max(0.0, deadline - time.monotonic()))
        return not self.running

    @property
    def running(self) -> bool:
        """Whether a source still sends, or waits for the broker's acknowledgement."""
        return any(source.is_alive() for source in self._sources)

    @property
    def trouble(self) -> str | None:
        """Why not everything could be sent; None when it could."""
        for source in self._sources:
            if source.failure is not None:
                return str(source.failure) or type(source.failure).__name__
            if source.summary is not None and source.summary.ended_by:
                return source.summary.ended_by
        return None

    @property
    def emitted(self) -> int:
        """Events given to emitters so far."""
        return sum(source.sender.inner.emitted_total for source in self._sources)

    @property
    def broken_lines(self) -> int:
        """Lines sent so far that are no events."""
        return sum(source.sender.broken_lines for source in self._sources)

    @property
    def traced(self) -> int:
        """Calls of the recorded trace that ended so far."""
        return sum(source.sender.tally.ended for source in self._sources[1:])

    def sent(self) -> Sent:
        """What was sent; complete once nothing runs."""
        tally = Tally()
        for source in self._sources:
            tally.add(source.sender.tally)
        senders = [source.sender.inner for source in self._sources]
        return Sent(
            emitters=[
                EmitterCount(sender.emitter_id, sender.emitted_total, sender.dropped_total)
                for sender in senders
            ],
            tally=tally,
            broken_lines=self.broken_lines,
        )


def _first(seconds: float, items: Iterable[Timed]) -> Iterator[Timed]:
    """The items of the first seconds of a trace."""
    until_s: float | None = None
    for item in items:
        if until_s is None:
            until_s = item.offset_s + seconds
        if item.offset_s >= until_s:
            return
        yield item
