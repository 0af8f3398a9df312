"""The benchmark of repricing reports no speed for sums that differ."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks import reprice as benchmark


@pytest.mark.engine
def test_a_short_run_reports_its_figures_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "_HOURS", 2)
    assert benchmark.main(["--calls", "400"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["calls"] == 400
    assert all(figures[name] > 0 for name in ("unchanged_s", "changed_s"))
    assert all(figures[name] > 100 for name in ("peak_mib_unchanged", "peak_mib_changed"))


@pytest.mark.engine
def test_costs_that_differ_report_no_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = benchmark.rate_nano

    def wrong(*arguments: Any) -> int:
        return right(*arguments) + 1

    monkeypatch.setattr(benchmark, "rate_nano", wrong)
    monkeypatch.setattr(benchmark, "_HOURS", 1)
    assert benchmark.main(["--calls", "20"]) == 1
    output = capsys.readouterr()
    assert "no speed is reported" in output.err
    assert "{" not in output.out
