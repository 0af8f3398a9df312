from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from gatewatch.cli import replay
from gatewatch.events import Call, Reject, decode_line

ROW = '{"timestamp": %d, "input_length": 10, "output_length": 3, "hash_ids": [1]}\n'

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("replay")(replay.command)

    def invoke(*arguments: str | Path, stdin: bytes = b"") -> Result:
        return CliRunner().invoke(app, list(map(str, arguments)), input=stdin)

    return invoke


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(ROW % at for at in (0, 100, 250)))
    return path


def written(result: Result) -> list[Call]:
    found = [decode_line(line) for line in result.stdout_bytes.splitlines()]
    assert all(isinstance(event, Call) for event in found)
    return [event for event in found if isinstance(event, Call)]


def test_events_are_written_with_the_times_of_the_start(run: Run, trace: Path) -> None:
    result = run(
        "mooncake", trace, "--start", "2026-01-01T00:00", "--flat-out", "--output", "-", "--run", "r"
    )
    assert result.exit_code == 0
    assert [call.at_ms - 1_767_225_600_000 for call in written(result)] == [0, 100, 250]
    assert result.stderr.startswith("3 events in ")
    again = run("mooncake", trace, "--start", "2026-01-01", "--flat-out", "--output", "-", "--run", "r")
    assert again.stdout_bytes == result.stdout_bytes


def test_two_replays_are_two_sets_of_calls(run: Run, trace: Path) -> None:
    first, second = (
        written(run("mooncake", trace, "--flat-out", "--output", "-", "--run", run_)) for run_ in "ab"
    )
    assert not {call.call_id for call in first} & {call.call_id for call in second}


def test_a_paced_replay_takes_its_time(run: Run, trace: Path) -> None:
    result = run("mooncake", trace, "--speed", "2", "--output", trace.with_name("out"), "--json")
    assert result.exit_code == 0
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["seconds"] >= 0.125
    assert summary["events"] == summary["lines"] == 3
    assert summary["last_at_ms"] - summary["first_at_ms"] == 125
    assert len(trace.with_name("out").read_bytes().splitlines()) == 3


def test_skipped_lines_are_told_one_by_one_and_counted(run: Run, trace: Path) -> None:
    trace.write_text(trace.read_text() + "bad\n" * 30)
    result = run("mooncake", trace, "--dry-run", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["skipped"] == 30
    assert f"{trace}:4: " in result.stderr
    assert result.stderr.count(str(trace)) == 20
    assert "more lines cannot be read" in result.stderr
    assert "30 skipped" in result.stderr


def test_a_file_of_another_format_is_a_failure(run: Run, trace: Path) -> None:
    result = run("azure", trace, "--dry-run")
    assert result.exit_code == 1
    assert "no event in 3 lines; is this a file of format azure?" in result.stderr


def test_our_own_lines_pass_through_from_standard_input(run: Run) -> None:
    line = (
        b'{"kind":"call","at_ms":9,"started_at_ms":4,"gateway":"g","call_id":"c","provider":"p","model":"m"}'
    )
    result = run("ndjson", "-", "--keep-time", "--flat-out", "--output", "-", stdin=line + b"\nbad\n")
    assert written(result) == [decode_line(line)]
    assert "-:2: invalid_json" in result.stderr
    raw = run("ndjson", "-", "--raw", "--flat-out", "--output", "-", stdin=line + b"\nbad\n\xff\n")
    assert raw.stdout_bytes == line + b"\nbad\n\xff\n"
    assert "3 as raw lines" in raw.stderr
    rebased = run("ndjson", "-", "--flat-out", "--output", "-", stdin=line)
    event = decode_line(rebased.stdout_bytes.strip())
    assert not isinstance(event, Reject)
    assert event.at_ms > 10**12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["csv"], "no format 'csv'; known are azure"),
        (["mooncake", "--keep-time"], "hold no dates to keep; give --start"),
        (["azure", "--keep-time", "--start", "2026-01-01"], "--start cannot apply"),
        (["ndjson", "--raw", "--start", "2026-01-01"], "--start cannot apply"),
        (["azure", "--raw"], "only ndjson"),
        (["mooncake", "--speed", "0"], "--speed must be above zero"),
        (["mooncake", "--start", "tomorrow"], "is no time; write now"),
        (["mooncake", "--start=-3x"], "is no time; write now"),
        (["mooncake", "--json", "--output", "-"], "both write on standard output"),
        (["mooncake", "--dry-run", "--output", "-"], "--dry-run sends nothing"),
        (["mooncake", "--batch-events", "501"], "from 1 to 500"),
        (["mooncake", "--run", ""], "--run must have"),
        (["mooncake", "--gateway", ""], "--gateway must have"),
        (["mooncake", "--output", "/nowhere/at/all"], "cannot write /nowhere/at/all"),
    ],
)
def test_wrong_usage_says_what_would_be_right(
    run: Run, trace: Path, arguments: list[str], message: str
) -> None:
    result = run(arguments[0], trace, *arguments[1:])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_a_file_that_is_not_there_is_wrong_usage(run: Run, tmp_path: Path) -> None:
    result = run("mooncake", tmp_path / "none")
    assert result.exit_code == 2
    assert f"there is no file {tmp_path / 'none'}" in result.stderr


def test_an_age_is_a_start(run: Run, trace: Path) -> None:
    result = run("mooncake", trace, "--start=-1h", "--flat-out", "--output", "-")
    now = run("mooncake", trace, "--flat-out", "--output", "-")
    assert written(now)[0].at_ms - written(result)[0].at_ms == pytest.approx(3_600_000, abs=10_000)
