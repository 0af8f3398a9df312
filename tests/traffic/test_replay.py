from __future__ import annotations

import io
import signal
from collections.abc import Iterator

import pytest

from gatewatch.events import Call, Event, Latency, Request, decode_line
from traffic.replay import DrySender, Interruption, LineSender, Pace, StalledError, Summary, replay
from traffic.trace import Timed, TraceError

START_S = 1_800_000_000.0


class Clock:
    """A time that passes by waiting only."""

    def __init__(self) -> None:
        self.now_s = START_S

    def __call__(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> None:
        self.now_s += seconds


class Recorder(DrySender):
    """Keeps what it is given, and when."""

    def __init__(self, clock: Clock, takes_s: float = 0.0) -> None:
        self._clock = clock
        self._takes_s = takes_s
        self.sent: list[tuple[float, Event | bytes]] = []
        self.flushes = 0
        self.closed_after: float | None = None

    def send(self, event: Event) -> None:
        self.sent.append((self._clock(), event))
        self._clock.wait(self._takes_s)

    def send_raw(self, line: bytes) -> None:
        self.sent.append((self._clock(), line))

    def flush(self) -> None:
        self.flushes += 1

    def close(self, timeout_s: float) -> bool:
        self.closed_after = timeout_s
        return True


def call(at_ms: int, duration_ms: int = 0) -> Timed:
    return Timed(
        at_ms / 1000,
        Call(
            at_ms=at_ms,
            started_at_ms=at_ms - duration_ms,
            gateway="g",
            call_id=str(at_ms),
            provider="p",
            model="m",
        ),
    )


def parts(call_id: str, start_ms: int, end_ms: int) -> list[Timed]:
    common = {"gateway": "g", "call_id": call_id, "provider": "p", "model": "m", "started_at_ms": start_ms}
    return [
        Timed(start_ms / 1000, Request(at_ms=start_ms, **common)),  # type: ignore[arg-type]
        Timed(end_ms / 1000, Latency(at_ms=end_ms, **common)),  # type: ignore[arg-type]
    ]


def run(
    items: list[Timed], pace: Pace, takes_s: float = 0.0, origin_s: float | None = None
) -> tuple[Recorder, Summary]:
    clock = Clock()
    recorder = Recorder(clock, takes_s)
    summary = replay(items, recorder, pace, clock=clock, wait=clock.wait, origin_s=origin_s)
    return recorder, summary


def sent_events(recorder: Recorder) -> list[Event]:
    return [payload for _, payload in recorder.sent if not isinstance(payload, bytes)]


def offsets(recorder: Recorder) -> list[float]:
    return [round(at_s - START_S, 3) for at_s, _ in recorder.sent]


@pytest.mark.parametrize(("speed", "expected"), [(1.0, [0, 1.0, 4.0]), (2.0, [0, 0.5, 2.0])])
def test_gaps_are_scaled_by_the_speed(speed: float, expected: list[float]) -> None:
    recorder, summary = run([call(5000), call(6000), call(9000)], Pace(speed=speed))
    assert offsets(recorder) == expected
    assert [event.at_ms / 1000 - START_S for event in sent_events(recorder)] == expected
    assert (summary.events, summary.seconds, summary.late_max_s) == (3, expected[-1], 0)
    assert recorder.flushes == 2
    assert recorder.closed_after == 60


def test_durations_are_not_scaled() -> None:
    recorder, _ = run([call(5000, 400), call(9000, 400)], Pace(speed=8))
    assert [
        event.at_ms - event.started_at_ms for event in sent_events(recorder) if isinstance(event, Call)
    ] == [
        400,
        400,
    ]


@pytest.mark.parametrize("pace", [Pace(speed=3), Pace(flat_out=True), Pace(flat_out=True, start_ms=10**12)])
def test_parts_of_a_call_agree_on_its_start(pace: Pace) -> None:
    first, second = parts("a", 1000, 31_000), parts("b", 4000, 20_000)
    # Flat out the clock is read once in 64 events, so that many lie between.
    others = [call(5000 + number) for number in range(200)]
    recorder, _ = run([first[0], second[0], *others, second[1], first[1]], pace, takes_s=0.01)
    starts: dict[str, set[int]] = {}
    ends: dict[str, int] = {}
    for event in sent_events(recorder):
        if isinstance(event, Request | Latency):
            starts.setdefault(event.call_id, set()).add(event.started_at_ms)
            ends[event.call_id] = event.at_ms
    assert {len(found) for found in starts.values()} == {1}
    assert all(ends[call_id] > max(found) for call_id, found in starts.items())


def test_flat_out_sends_at_once_and_happens_when_sent() -> None:
    recorder, summary = run(
        [call(at_ms) for at_ms in range(0, 10_000_000, 10_000)], Pace(flat_out=True), 0.001
    )
    times = [event.at_ms for event in sent_events(recorder)]
    assert times == sorted(times)
    assert START_S * 1000 <= times[0] <= times[-1] <= (START_S + 1.001) * 1000
    assert summary.events_per_s == pytest.approx(1000, rel=1e-3)


def test_flat_out_from_a_start_keeps_the_traces_gaps() -> None:
    recorder, summary = run(
        [call(5000), call(6000), call(9000)], Pace(flat_out=True, start_ms=10**12, speed=0.5)
    )
    assert offsets(recorder) == [0, 0, 0]
    assert [event.at_ms - 10**12 for event in sent_events(recorder)] == [0, 2000, 8000]
    assert (summary.first_at_ms, summary.last_at_ms) == (10**12, 10**12 + 8000)


def test_kept_times_are_the_traces_own() -> None:
    recorder, _ = run([call(5000, 300), call(9000, 300)], Pace(keep_time=True))
    assert [event.at_ms for event in sent_events(recorder)] == [5000, 9000]
    assert offsets(recorder) == [0, 4]


def test_an_origin_says_what_is_due_at_the_beginning() -> None:
    recorder, _ = run([call(5000), call(6000)], Pace(start_ms=10**12), origin_s=3.0)
    assert offsets(recorder) == [2, 3]
    assert [event.at_ms - 10**12 for event in sent_events(recorder)] == [2000, 3000]


def test_late_items_are_sent_at_once_and_lateness_is_told() -> None:
    recorder, summary = run([call(5000), call(5010), call(4000), call(9000)], Pace(), takes_s=0.5)
    assert offsets(recorder) == [0, 0.5, 1.0, 4.0]
    assert summary.late_max_s == pytest.approx(2.0)


def test_raw_lines_are_sent_as_they_are() -> None:
    recorder, summary = run([Timed(1, b"\xff"), call(2000)], Pace())
    assert recorder.sent[0] == (START_S, b"\xff")
    assert (summary.events, summary.raw_lines) == (2, 1)


def test_an_interruption_ends_well() -> None:
    def items() -> Iterator[Timed]:
        yield call(1000)
        raise KeyboardInterrupt

    clock = Clock()
    recorder = Recorder(clock)
    summary = replay(items(), recorder, Pace(), clock=clock, wait=clock.wait)
    assert (summary.events, summary.delivered, recorder.closed_after) == (1, True, 60)


def test_an_interruption_waits_until_an_event_is_counted() -> None:
    class Interrupted(Recorder):
        def send(self, event: Event) -> None:
            signal.raise_signal(signal.SIGTERM)
            super().send(event)

    recorder = Interrupted(Clock())
    with Interruption() as interruption:
        summary = replay([call(1000), call(1000)], recorder, Pace(flat_out=True), interruption=interruption)
    assert (summary.events, len(recorder.sent), summary.delivered) == (1, 1, True)


def test_a_second_interruption_does_not_wait() -> None:
    with Interruption() as interruption:
        interruption.shield()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_damaged_trace_sends_what_came_before_and_says_so() -> None:
    def items() -> Iterator[Timed]:
        yield call(1000)
        raise TraceError("trace.gz cannot be read further")

    recorder = Recorder(Clock())
    summary = replay(items(), recorder, Pace(flat_out=True))
    assert (summary.events, summary.ended_by) == (1, "trace.gz cannot be read further")
    assert recorder.closed_after == 60


def test_a_stall_closes_without_waiting() -> None:
    class Stalled(Recorder):
        def send(self, event: Event) -> None:
            raise StalledError("the broker has taken nothing")

    recorder = Stalled(Clock())
    with pytest.raises(StalledError):
        replay([call(1000)], recorder, Pace())
    assert recorder.closed_after == 0


def test_progress_is_told_about_once_a_second() -> None:
    clock = Clock()
    told: list[int] = []
    replay(
        [call(at_ms) for at_ms in range(0, 10_000, 100)],
        Recorder(clock),
        Pace(),
        clock=clock,
        wait=clock.wait,
        on_progress=lambda summary: told.append(summary.events),
    )
    assert 8 <= len(told) <= 10
    assert told == sorted(told)


def test_a_speed_of_nothing_is_refused() -> None:
    for speed in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="speed"):
            replay([], DrySender(), Pace(speed=speed))


def test_nothing_to_replay_is_no_error() -> None:
    recorder, summary = run([], Pace())
    assert (summary.events, summary.events_per_s, summary.first_at_ms, recorder.sent) == (0, 0, None, [])


def test_lines_are_written_with_their_ends() -> None:
    stream = io.BytesIO()
    replay([call(1000), Timed(1, b"\xffraw")], LineSender(stream), Pace(keep_time=True))
    first, second, end = stream.getvalue().split(b"\n")
    assert decode_line(first) == call(1000).payload
    assert (second, end) == (b"\xffraw", b"")
