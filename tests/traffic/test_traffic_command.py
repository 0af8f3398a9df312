from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from gatewatch.cli import traffic
from gatewatch.events import Call, CallEvent, Reject, decode_line

START = ["--start", "2026-01-01T12:00"]

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("traffic")(traffic.command)

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments)

    return invoke


def test_the_same_seed_and_start_write_the_same_bytes(run: Run) -> None:
    arguments = [*START, "--rate", "100", "--duration", "20s", "--flat-out", "--output", "-"]
    first, second = run(*arguments, "--seed", "3"), run(*arguments, "--seed", "3")
    assert first.exit_code == 0
    assert first.stdout_bytes == second.stdout_bytes
    assert first.stdout_bytes != run(*arguments, "--seed", "4").stdout_bytes
    found = [decode_line(line) for line in first.stdout_bytes.splitlines()]
    assert len(found) > 2000
    assert not any(isinstance(event, Reject) for event in found)


def test_the_summary_counts_what_was_sent(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "events"
    result = run(
        *START,
        *("--rate", "100", "--duration", "30s", "--flat-out", "--json", "--output", str(path)),
        *("--inject", "broken-telemetry:at=10s,duration=10s,share=0.5"),
        *("--inject", "latency:at=5s,provider=openai"),
    )
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    lines = path.read_bytes().splitlines()
    rejected = sum(isinstance(decode_line(line), Reject) for line in lines)
    assert summary["events"] == len(lines)
    assert summary["broken"] == summary["raw_lines"] == rejected > 100
    assert summary["delivered"] is True
    assert summary["first_at_ms"] >= summary["start_ms"] == 1_767_268_800_000


def test_a_rush_from_now_covers_the_time_until_now(run: Run) -> None:
    result = run("--rate", "10", "--duration", "30m", "--flat-out", "--output", "-")
    times = [
        event.at_ms
        for line in result.stdout_bytes.splitlines()
        if not isinstance(event := decode_line(line), Reject)
    ]
    assert times[-1] - times[0] == pytest.approx(30 * 60_000, rel=0.02)
    assert times == sorted(times)
    summary = json.loads(run("--rate", "1", "--duration", "2s", "--dry-run", "--json").stdout)
    assert times[-1] <= summary["start_ms"]


def test_a_rhythm_shows_from_an_hour_on(run: Run) -> None:
    night = ["--start", "2026-01-01T03:30", "--rate", "10", "--dry-run", "--json"]

    def calls(*arguments: str) -> int:
        return int(json.loads(run(*night, *arguments).stdout)["calls"])

    assert calls("--duration", "59m") == pytest.approx(59 * 600, rel=0.05)
    assert calls("--duration", "60m") < 60 * 600 / 8
    assert calls("--duration", "59m", "--rhythm", "daily") < 59 * 600 / 8
    assert calls("--duration", "60m", "--rhythm", "flat") == pytest.approx(60 * 600, rel=0.05)


def test_a_day_passes_faster_with_speed(run: Run) -> None:
    result = run(*START, *("--rate", "5", "--duration", "50s", "--speed", "100", "--output", "-"))
    events = [decode_line(line) for line in result.stdout_bytes.splitlines()]
    starts: dict[str, set[int]] = {}
    for event in events:
        if isinstance(event, CallEvent) and not isinstance(event, Call):
            starts.setdefault(event.call_id, set()).add(event.started_at_ms)
    assert starts
    assert all(len(found) == 1 for found in starts.values())
    times = [event.at_ms - 1_767_268_800_000 for event in events if not isinstance(event, Reject)]
    assert 0 <= min(times) < max(times) <= 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--inject", "fire"], "no incident 'fire'; known are latency"),
        (["--inject", "flood:tenant=nobody"], "this traffic has no tenant 'nobody'"),
        (["--duration", "soon"], "--duration: 'soon' is not a duration"),
        (["--rate", "0"], "rate must be from"),
        (["--rhythm", "jazz"], "--rhythm must be auto, daily or flat"),
        (["--forever", "--flat-out"], "--forever needs a clock"),
        (["--speed", "-1", "--dry-run"], "--speed must be above zero"),
        (["--start", "noon"], "is no time"),
        (["--json", "--output", "-"], "both write on standard output"),
    ],
)
def test_wrong_usage_says_what_would_be_right(run: Run, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


PROGRAM = """
import typer
from gatewatch.cli import traffic
app = typer.Typer(pretty_exceptions_enable=False)
app.command()(traffic.command)
app()
"""


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_endless_traffic_ends_well_when_asked_to(number: signal.Signals) -> None:
    with start("--forever", "--rate", "500", "--output", "-") as process:
        assert process.stdout is not None
        head = process.stdout.readline()
        process.send_signal(number)
        rest, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert not isinstance(decode_line(head.strip()), Reject)
    assert f"{1 + len(rest.splitlines())} events in" in errors.decode()


def test_a_reader_that_has_enough_is_no_error() -> None:
    with start("--rate", "5000", "--duration", "20s", "--flat-out", "--output", "-") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(timeout=30) == 0
    assert errors == b""
