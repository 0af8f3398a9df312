"""The forecast benchmark: figures come last, forecasts know nothing of the future, and beat the run rate."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from benchmarks import forecast as benchmark
from signals.period import Period


def test_a_short_run_reports_its_figures_last_and_beats_the_run_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "SHARES", (0.25, 0.5))
    assert benchmark.main(["--trace", "/there/is/none", "--days", "62", "--seeds", "1"]) == 0
    output = capsys.readouterr()
    assert "RAGPulse is left out" in output.err
    figures = json.loads(output.out.splitlines()[-1])
    assert set(figures) == {"synthetic"}
    assert {kind: set(told) for kind, told in figures["synthetic"].items()} == {
        kind: {"0.25", "0.5"} for kind in ("daily", "weekly", "monthly")
    }
    for kind, forecasts in (("daily", 13), ("weekly", 8), ("monthly", 2)):
        for share in ("0.25", "0.5"):
            told = figures["synthetic"][kind][share]
            assert told["forecasts"] == forecasts
            assert 0 < told["ours"] < 1
            if kind != "monthly":
                assert told["ours"] < told["run_rate"]


def test_a_forecast_knows_nothing_of_what_comes_after_it() -> None:
    series = benchmark.synthetic(1, 60)
    (_, (budget, start, end)) = list(benchmark.periods(series, "weekly", 1))[:2]
    at = start + timedelta(hours=60)
    changed = series.nano_usd.copy()
    changed[series.place(at) :] = 7
    other = benchmark.Series(series.start, changed)
    assert benchmark.guess(series, budget, Period(start, end), at) == benchmark.guess(
        other, budget, Period(start, end), at
    )


def test_baselines_are_what_they_say() -> None:
    known = np.arange(1, 401, dtype=np.int64)
    assert benchmark.naive(known, 3) == 233 + 234 + 235
    assert benchmark.naive(known[:30], 25) == sum(range(7, 31)) + 7
    assert benchmark.naive(known[:2], 4) == 6
    assert benchmark.naive(known, 0) == 0


def test_the_trace_is_priced_exactly(shared_data: Path) -> None:
    path = shared_data / "traces/ragpulse/data/0_trace.jsonl.gz"
    week = benchmark.ragpulse(path, datetime(2025, 1, 6, tzinfo=UTC))
    assert len(week.hours) == 168
    # 20,917,099 tokens of input at $0.15 a million and 2,012,676 of output at $0.60.
    assert sum(hour.spent_usd for hour in week.hours) == Decimal("4.34517045")
