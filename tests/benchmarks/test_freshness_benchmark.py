"""What the freshness benchmark reports, and that it reports nothing when events were lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence

import pytest

from benchmarks import freshness
from benchmarks.throughput import LostError

MARKERS = 1000


class Stack:
    """Starts nothing."""

    engine_url = bootstrap = writer_password = ""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *_: object) -> None: ...


class Emitter:
    """Has delivered all but what is said to be dropped."""

    dropped_total = 0

    def __init__(self, *_: object, **__: object) -> None: ...

    def close(self, timeout_s: float) -> bool:
        return True


class Sink:
    """Has stored what is said."""

    calls = 50
    lost = (0, 0, 0)

    def __init__(self, *_: object) -> None: ...

    def rows(self, sql: str) -> Sequence[Sequence[int]]:
        return [(self.calls,)] if "gatewatch.calls" in sql else [self.lost]


class Watcher:
    """Saw the n-th marker n milliseconds after it was emitted."""

    def __init__(self, _: str) -> None:
        self.finished = threading.Event()
        self.seen = {f"marker-{number}": 100.0 + number / 1000 for number in range(MARKERS)}

    def start(self) -> None: ...

    def join(self) -> None:
        assert self.finished.is_set()


@pytest.fixture(autouse=True)
def stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    for stub in (Stack, Emitter, Sink):
        monkeypatch.setattr(freshness, stub.__name__, stub)
    monkeypatch.setattr(freshness, "_Watcher", Watcher)
    monkeypatch.setattr(freshness, "_SETTLE_S", 0.0)
    emitted = {f"marker-{number}": 100.0 for number in range(MARKERS)}
    monkeypatch.setattr(freshness, "_emit_steadily", lambda *_: (50, emitted))


def test_the_figures_are_quantiles_of_what_was_seen(capsys: pytest.CaptureFixture[str]) -> None:
    assert freshness.main(["--rate", "1000", "--seconds", "1"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {
        "events_per_s": 1000,
        "p50_ms": 500.0,
        "p95_ms": 950.0,
        "p99_ms": 990.0,
        "max_ms": 999.0,
        "samples": MARKERS,
    }


def test_without_a_rate_it_is_half_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "measure_worker", lambda *_: {"events_per_s": 300_000})
    assert freshness.measure(1, 10)["events_per_s"] == 150_000


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (Emitter, "dropped_total", 1),
        (Sink, "calls", 49),
        (Sink, "calls", 51),
        (Sink, "lost", (1, 0, 0)),
        (Sink, "lost", (0, 1, 0)),
        (Sink, "lost", (0, 0, 1)),
    ],
)
def test_a_loss_leaves_no_figure(
    owner: type,
    name: str,
    value: object,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(owner, name, value)
    with pytest.raises(LostError):
        freshness.measure(1, 10, 1000.0)
    assert freshness.main(["--rate", "1000"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no figure is reported" in captured.err


def test_a_quantile_is_one_of_the_values() -> None:
    values = [float(number) for number in range(100)]
    assert [freshness._quantile_ms(values, q) for q in (0, 0.5, 0.95, 1)] == [0, 50, 95, 99]
    assert freshness._quantile_ms([7.0], 0.99) == 7.0
