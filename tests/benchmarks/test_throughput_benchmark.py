"""What the throughput benchmark reports, and that it reports nothing when events were lost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks import throughput
from benchmarks.throughput import LostError

EVENTS = 10
WHOLE = {
    "calls": (EVENTS, EVENTS),
    "delivery": (EVENTS, 0, 0),
    "measures": (EVENTS,),
    "emitters": (0, 0, 0),
}
WORKER = {
    "events_per_s": 200_000,
    "events_per_cpu_s": 100_000,
    "worker_events_per_cpu_s": 150_000,
    "worker_us": 6.67,
    "engine_us": 3.33,
    "worker_rss_mib": 200,
    "engine_rss_mib": 400,
}


class Sink:
    """Answers by the view that is asked."""

    def __init__(self, **changed: tuple[int, ...]) -> None:
        self.answers = WHOLE | changed

    def rows(self, sql: str) -> Sequence[Sequence[int]]:
        (view,) = [view for view in self.answers if f"gatewatch.{view}" in sql]
        return [self.answers[view]]


class Stack:
    """Starts nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        self.pids = {"kafka": 1, "engine": 2, "worker-0": 3}
        self.stopped: list[int] = []

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.stopped == [0]  # else the empty agent would share the processors with it

    def stop_worker(self, number: int) -> None:
        self.stopped.append(number)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "Stack", Stack)
    monkeypatch.setattr(throughput, "measure_worker", lambda *_: dict(WORKER))
    monkeypatch.setattr(throughput, "_measure_empty_agent", lambda *args: 400_000.0 * (len(args) - 2))
    monkeypatch.setattr(throughput, "_measure_engine", lambda path, _: {"naive": 5e4, "tuned": 2e5}[path])


def test_a_run_that_stored_every_event_once_is_accepted() -> None:
    throughput._check(Sink(), EVENTS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("view", "answer"),
    [
        ("calls", (EVENTS - 1, EVENTS - 1)),
        ("calls", (EVENTS + 1, EVENTS)),
        ("delivery", (EVENTS - 1, 0, 0)),
        ("delivery", (EVENTS, 1, 0)),
        ("delivery", (EVENTS, 0, 1)),
        ("measures", (EVENTS - 1,)),
        ("measures", (EVENTS + 1,)),
        ("emitters", (1, 0, 0)),
        ("emitters", (0, 1, 0)),
        ("emitters", (0, 0, 1)),
    ],
)
def test_a_run_that_lost_or_repeated_an_event_is_refused(view: str, answer: tuple[int, ...]) -> None:
    with pytest.raises(LostError, match="of 10 events"):
        throughput._check(Sink(**{view: answer}), EVENTS)  # type: ignore[arg-type]


@pytest.mark.usefixtures("measured")
def test_the_last_line_has_the_figures_of_each_envelope(capsys: pytest.CaptureFixture[str]) -> None:
    assert throughput.main(["--envelopes", "1", "100", "--share", "0.01"]) == 0
    figures: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["rss_mib"] == WORKER["worker_rss_mib"]
    assert figures["by_envelope"].keys() == {"1", "100"}
    for found in figures["by_envelope"].values():
        ratios = ("engine_ratio", "tuned_ratio", "empty_agent_ratio", "own_consumer_ratio")
        assert found.keys() >= {*WORKER, *ratios}
        assert tuple(found[ratio] for ratio in ratios) == (2.0, 0.5, 0.5, 0.25)


@pytest.mark.usefixtures("measured")
def test_a_lost_event_leaves_no_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose(*_: object) -> None:
        raise LostError("of 10 events the views say 9")

    monkeypatch.setattr(throughput, "measure", lose)
    assert throughput.main(["--envelopes", "1"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no speed is reported: of 10 events" in captured.err
