"""The proof: it holds for what was sent, and each kind of loss or repetition breaks it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pytest

from gatewatch.events import Event, Request, Token, encode
from signals.lane import Lane, Rules
from sinks.clickhouse import Sink, SinkError
from sinks.schema import STORE
from sinks.source import add_source
from streams.proof import EmitterCount, Sent, Tally, await_proof, prove
from tests.event import T0_MS, call
from tests.stored import flush

BROKEN: Final = b"no event"


def events() -> list[Event]:
    """Numbers 0 to 9 of one emitter: eight calls, one of which failed, and one that goes on."""
    found: list[Event] = [
        call(
            number,
            emitter_id="e",
            seq=number,
            input_tokens=100,
            output_tokens=10,
            usage_source="provider",
            error_class="overload" if number == 3 else None,
        )
        for number in range(8)
    ]
    begun: dict[str, Any] = {
        "at_ms": T0_MS,
        "started_at_ms": T0_MS,
        "gateway": "eu-1",
        "emitter_id": "e",
        "call_id": "begun",
        "provider": "openai",
        "model": "gpt-4o",
    }
    return [*found, Request(seq=8, **begun), Token(seq=9, output_tokens_so_far=5, **begun)]


def sent(lines: Sequence[Event], *, dropped: int = 0, broken: int = 1) -> Sent:
    tally = Tally()
    for event in lines:
        tally.count(event)
    return Sent([EmitterCount("e", len(lines) + dropped, dropped)], tally, broken)


def store(sink: Sink, lines: Sequence[Event | bytes], source: int = 1, chunk_records: int = 100) -> None:
    """What a worker stores of these lines, one a record."""
    add_source(
        sink,
        source,
        cluster="test",
        topic="gatewatch.events.v1",
        incarnation="one",
        partition=source,
        chunk_records=chunk_records,
    )
    lane = Lane(source, 0, Rules(chunk_records=chunk_records))
    for offset, line in enumerate(lines):
        lane.feed(offset, T0_MS, line if isinstance(line, bytes) else encode(line))
    flush(sink, lane)


def failing(sink: Sink, what: Sent) -> set[str]:
    return {claim.subject for claim in prove(sink, what) if not claim.holds}


def test_it_holds_when_everything_is_stored_once(sink: Sink) -> None:
    store(sink, [*events()[:5], BROKEN], source=1)
    store(sink, events()[5:], source=2)
    claims = {claim.subject: claim.sent for claim in prove(sink, sent(events()))}
    assert failing(sink, sent(events())) == set()
    assert claims["events"] == 10
    assert claims["calls ended, one row each"] == claims["calls ended, in each of 7 aggregates"] == 8
    assert claims["failed calls"] == 1
    assert claims["input tokens of the calls"] == 800


def test_an_event_that_is_not_stored_breaks_it(sink: Sink) -> None:
    lines = events()
    store(sink, [*lines[:4], *lines[5:], BROKEN])
    assert failing(sink, sent(lines)) >= {
        "events",
        "gaps in emitters' numbers",
        "emitters with every number once",
        "calls ended, one row each",
        "calls ended, in each of 7 aggregates",
        "input tokens, in each of 7 aggregates",
    }


def test_a_missing_last_event_breaks_it_although_it_leaves_no_gap(sink: Sink) -> None:
    store(sink, [*events()[:-1], BROKEN])
    assert failing(sink, sent(events())) == {"events", "emitters with every number once"}


@pytest.mark.parametrize("chunk_records", [100, 5])
def test_an_event_that_is_stored_twice_breaks_it(sink: Sink, chunk_records: int) -> None:
    """Within a chunk the aggregates leave it out; over two of them they cannot, and the proof says so."""
    lines = events()
    store(sink, [*lines, lines[0], BROKEN], chunk_records=chunk_records)
    counted_twice = {
        f"{subject}, in each of 7 aggregates"
        for subject in (
            "calls ended",
            "input tokens",
            "output tokens",
            "calls whose cost is known",
            "cost in nano-USD",
        )
    }
    expected = {"events", "events stored twice", "emitters with every number once"}
    assert failing(sink, sent(lines)) == expected | (counted_twice if chunk_records == 5 else set())


def test_a_dropped_event_breaks_it(sink: Sink) -> None:
    store(sink, [*events(), BROKEN])
    assert failing(sink, sent(events(), dropped=1)) == {"events dropped by emitters"}


def test_a_dead_letter_too_many_or_too_few_breaks_it(sink: Sink) -> None:
    store(sink, [*events(), BROKEN])
    for broken in (0, 2):
        assert failing(sink, sent(events(), broken=broken)) == {"lines that are no events", "dead letters"}


def test_an_unknown_emitter_breaks_it(sink: Sink) -> None:
    store(sink, [*events(), call(50, emitter_id="other", seq=0), BROKEN])
    assert {"events", "emitters"} <= failing(sink, sent(events()))


def test_an_event_whose_number_was_not_followed_breaks_it(sink: Sink) -> None:
    """Nobody could have seen it come twice."""
    store(sink, [*events(), BROKEN])
    sink.command(
        f"INSERT INTO {STORE}.chunks SELECT * REPLACE (last_offset + 1 AS last_offset, 1 AS untracked) "
        f"FROM {STORE}.chunks FINAL WHERE family = 'pipeline'"
    )
    assert failing(sink, sent(events())) == {"events whose number was not followed"}


def test_aggregates_that_differ_in_a_single_cut_break_it(sink: Sink) -> None:
    store(sink, [*events(), BROKEN])
    rows = sink.table(f"SELECT * FROM {STORE}.chunks FINAL WHERE family = 'performance'").to_pylist()
    assert len(rows) == 1
    sink.command(
        f"INSERT INTO {STORE}.chunks SELECT * REPLACE (last_offset + 1 AS last_offset, "
        "arrayMap((n, signal, series) -> if(signal = 'performance_calls_count' AND "
        "startsWith(series, '[\"team\"'), n + 1, n), n, signal, series) AS n) "
        f"FROM {STORE}.chunks FINAL WHERE family = 'performance'"
    )
    assert failing(sink, sent(events())) == {"calls ended, in each of 7 aggregates"}


def test_what_was_sent_is_priced_call_by_call() -> None:
    tally = sent(events()).tally
    assert (tally.with_cost, tally.cost_nano_usd) == (8, 8 * (100 * 2_500 + 10 * 10_000))


def test_a_nano_dollar_too_much_in_the_calls_or_in_an_aggregate_breaks_it(sink: Sink) -> None:
    store(sink, [*events(), BROKEN])
    sink.command(
        f"INSERT INTO {STORE}.chunks SELECT * REPLACE (last_offset + 1 AS last_offset, "
        "arrayMap((sum, signal, series) -> if(signal = 'cost_spend_sum' AND "
        "startsWith(series, '[\"tenant\"'), sum + 1, sum), "
        f"sum, signal, series) AS sum) FROM {STORE}.chunks FINAL WHERE family = 'cost'"
    )
    assert failing(sink, sent(events())) == {"cost in nano-USD, in each of 7 aggregates"}
    sink.command(
        f"INSERT INTO {STORE}.calls (started_at, call_id, cost_input) SELECT started_at, call_id, "
        f"cost_input + 1 FROM {STORE}.calls FINAL WHERE call_id = 'call-2'"
    )
    assert "cost of the calls, in nano-USD" in failing(sink, sent(events()))


def test_waiting_ends_when_the_proof_holds_or_the_wait_is_called_off(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(sink, events())
    slept: list[float] = []

    def store_the_rest(seconds: float) -> None:
        slept.append(seconds)
        store(sink, [BROKEN], source=2)

    monkeypatch.setattr("streams.proof.time.sleep", store_the_rest)
    assert all(claim.holds for claim in await_proof(sink, sent(events()), 30))
    assert len(slept) == 1
    claims = await_proof(sink, sent(events(), broken=5), 30, while_=lambda: False)
    assert not all(claim.holds for claim in claims)
    assert len(slept) == 1


def test_a_store_that_is_being_started_again_is_waited_for(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Restarting:
        """Fails twice, then answers."""

        failures = 2

        def rows(self, sql: str) -> Any:
            if self.failures:
                self.failures -= 1
                raise SinkError("no answer")
            return sink.rows(sql)

    monkeypatch.setattr("streams.proof._POLL_S", 0.0)
    store(sink, [*events(), BROKEN])
    restarting: Any = Restarting()
    assert all(claim.holds for claim in await_proof(restarting, sent(events()), 30))
    restarting.failures = 1
    with pytest.raises(SinkError):
        await_proof(restarting, sent(events()), 30, while_=lambda: False)
