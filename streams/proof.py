"""The proof that what was sent is what is stored: every event counted once, none lost, none twice.

Senders count what they send before anything can happen to it. The proof asks the views, as any
analyst could, and holds their answers against those counts: the numbering of each emitter, the
partitions' totals, the calls, the aggregates in each cut, and what everything cost. It is exact, so it
needs a store that holds nothing else than what was sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from gatewatch.events import Event, Outcome
from gatewatch.pricing import price
from gatewatch.usage import Usage, UsageError
from signals.signal import CUTS
from sinks.clickhouse import Sink, SinkError

__all__ = ["Claim", "EmitterCount", "Sent", "Tally", "await_proof", "prove"]

_POLL_S: Final = 0.5


class EmitterCount(Struct, frozen=True):
    """What one emitter says of itself."""

    emitter_id: str
    events: int
    """Everything that it numbered, its own reports included."""
    dropped: int


class Tally(Struct):
    """What was given to emitters, counted event by event."""

    ended: int = 0
    """Calls that ended: ``response`` and ``call`` events."""
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    with_cost: int = 0
    """Calls whose cost is known, be it in part."""
    cost_nano_usd: int = 0

    def count(self, event: Event) -> None:
        """Count an event."""
        if not isinstance(event, Outcome):
            return
        self.ended += 1
        self.errors += event.error_class is not None
        if event.usage_source != "missing":
            self.input_tokens += event.input_tokens or 0
            self.output_tokens += event.output_tokens or 0
        cost = _cost_nano_usd(event)
        if cost is not None:
            self.with_cost += 1
            self.cost_nano_usd += cost

    def add(self, other: Tally) -> None:
        """Add what was counted elsewhere."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def _cost_nano_usd(event: Outcome) -> int | None:
    """What a call costs, worked out for this call alone; None where that is not known."""
    if event.gateway_cache_hit:
        return 0
    said = {name: getattr(event, name) for name in Usage.__struct_fields__}
    if any(value is not None and value != {} for value in said.values()):
        try:
            cost = price(
                event.provider,
                event.model,
                Usage(**said),
                at_ms=event.started_at_ms,
                service_tier=event.service_tier or "",
                deployment=event.deployment or "",
                tenant=event.tenant or "",
            )
        except UsageError:
            pass
        else:
            if cost.cost_usd is not None:
                return sum(cost.parts_nano_usd.values())
    return None if event.reported_cost_usd is None else round(event.reported_cost_usd * 1e9)


class Sent(Struct, frozen=True):
    """Everything that was sent, as the senders know it."""

    emitters: Sequence[EmitterCount]
    tally: Tally
    broken_lines: int = 0
    """Lines sent that are no events."""

    @property
    def events(self) -> int:
        """Events that were not dropped."""
        return sum(emitter.events - emitter.dropped for emitter in self.emitters)


class Claim(Struct, frozen=True):
    """One thing that must be equal on both sides."""

    subject: str
    sent: int
    stored: int

    @property
    def holds(self) -> bool:
        """Whether it is."""
        return self.sent == self.stored


def prove(sink: Sink, sent: Sent) -> list[Claim]:
    """Hold what is stored against what was sent; the proof holds if every claim does.

    Parameters
    ----------
    sink
        Only views are read, so the user ``reader`` is enough.
    sent
        Complete: nothing is being sent any more.

    Raises
    ------
    SinkError
        The store does not answer.
    """
    stored, rejected, twice, untracked = _numbers(
        sink, "SELECT sum(events), sum(rejects), sum(duplicates), sum(untracked) FROM gatewatch.delivery"
    )
    found = {
        str(emitter): tuple(int(value) for value in values)
        for emitter, *values in sink.rows(
            "SELECT emitter_id, received, gaps, duplicates, lost FROM gatewatch.emitters"
        )
    }
    ours = {emitter.emitter_id: emitter for emitter in sent.emitters}
    nothing = (0, 0, 0, 0)
    exact = sum(
        found.get(name, nothing) == (emitter.events - emitter.dropped, 0, 0, 0)
        for name, emitter in ours.items()
    )
    (letters,) = _numbers(sink, "SELECT count() FROM gatewatch.dead_letters")
    ended, errors, input_tokens, output_tokens, with_cost, cost = _numbers(
        sink,
        # What streams that have not ended show so far is in the calls, and in no aggregate.
        "SELECT countIf(is_ended), countIf(is_error), sumIf(input_tokens, usage_source != 'progress'), "
        "sumIf(output_tokens, usage_source != 'progress'), count(cost_usd), "
        "toInt64(sum(cost_usd) * 1000000000) FROM gatewatch.calls",
    )
    by_cut = {
        str(cut): tuple(int(value) for value in values)
        for cut, *values in sink.rows(
            "SELECT cut, sumIf(n, signal = 'performance_calls_count'), "
            "sumIf(n, signal = 'performance_errors_count'), "
            "sumIf(sum, signal = 'performance_input_tokens_sum'), "
            "sumIf(sum, signal = 'performance_output_tokens_sum'), "
            "sumIf(n, signal = 'cost_spend_sum'), sumIf(sum, signal = 'cost_spend_sum') "
            "FROM gatewatch.measures GROUP BY cut"
        )
    }
    tally = sent.tally
    return [
        Claim("events", sent.events, stored),
        Claim("events dropped by emitters", 0, sum(emitter.dropped for emitter in sent.emitters)),
        Claim("gaps in emitters' numbers", 0, sum(values[1] for values in found.values())),
        Claim("events stored twice", 0, max(twice, sum(values[2] for values in found.values()))),
        Claim("events whose number was not followed", 0, untracked),
        Claim("emitters", len(ours), len(found)),
        Claim("emitters with every number once", len(ours), exact),
        Claim("lines that are no events", sent.broken_lines, rejected),
        Claim("dead letters", sent.broken_lines, letters),
        Claim("calls ended, one row each", tally.ended, ended),
        Claim("failed calls", tally.errors, errors),
        Claim("input tokens of the calls", tally.input_tokens, input_tokens),
        Claim("output tokens of the calls", tally.output_tokens, output_tokens),
        Claim("calls whose cost is known", tally.with_cost, with_cost),
        Claim("cost of the calls, in nano-USD", tally.cost_nano_usd, cost),
        *(
            _aggregated(subject, sent, [by_cut.get(cut.name, (0,) * 6)[place] for cut in CUTS])
            for place, (subject, sent) in enumerate(
                (
                    ("calls ended", tally.ended),
                    ("failed calls", tally.errors),
                    ("input tokens", tally.input_tokens),
                    ("output tokens", tally.output_tokens),
                    ("calls whose cost is known", tally.with_cost),
                    ("cost in nano-USD", tally.cost_nano_usd),
                )
            )
        ),
    ]


def await_proof(
    sink: Sink, sent: Sent, timeout_s: float, *, while_: Callable[[], bool] = lambda: True
) -> list[Claim]:
    """The proof as soon as it holds, or as it stands when time is up.

    Rows are on their way for about a flush interval after the last event, so a claim that fails at
    first says nothing yet; nor does a store that is just being started again. ``while_`` ends the wait
    early.

    Raises
    ------
    SinkError
        The store did not answer when time was up.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        over = time.monotonic() >= deadline or not while_()
        try:
            claims = prove(sink, sent)
        except SinkError:
            if over:
                raise
        else:
            if over or all(claim.holds for claim in claims):
                return claims
        time.sleep(_POLL_S)


def _aggregated(subject: str, sent: int, cuts: Sequence[int]) -> Claim:
    """One claim over all cuts: the first cut that differs, or any."""
    stored = next((stored for stored in cuts if stored != sent), sent)
    return Claim(f"{subject}, in each of {len(cuts)} aggregates", sent, stored)


def _numbers(sink: Sink, sql: str) -> list[int]:
    return [int(value or 0) for value in sink.rows(sql)[0]]
