"""The pricing benchmark reports no speed for costs that differ."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks import pricing as benchmark


def test_a_short_run_reports_its_figures_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "ROUNDS", 1)
    monkeypatch.setattr(benchmark, "FLUSH", 500)
    assert benchmark.main(["--calls", "200", "--batches", "2"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(figures) == {
        "filter_calls_per_s",
        "function_us_per_call",
        "columns_ns_per_call",
        "lane_ns_per_event",
        "unknown_us_per_call",
    }
    assert all(figure > 0 for figure in figures.values())


def test_columns_that_cost_something_else_report_no_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = benchmark.nano_of

    def wrong(*arguments: Any) -> list[Any]:
        first, *rest = right(*arguments)
        return [first + 1, *rest]

    monkeypatch.setattr(benchmark, "nano_of", wrong)
    assert benchmark.main(["--calls", "10", "--batches", "1"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "benchmarks.pricing: ('openai'" in output.err


def test_lines_have_unique_usage() -> None:
    calls = [json.loads(benchmark.line(number)) for number in range(500)]
    assert len({json.dumps(call["usage"]) for call in calls}) == 500
