"""`gatewatch dead-letters`: what is asked wrongly is said before anything is looked at or sent."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from gatewatch.cli.connection import moment_ms
from gatewatch.cli.dead_letters import _read_repaired, commands
from gatewatch.cli.row import visible

NOW_MS = 1_790_000_000_000
ID = "gatewatch.events.v1/0/17/3"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["replay"], "say which to send, in one way"),
        (["replay", "--all", ID], "say which to send, in one way"),
        (["replay", "--all", "--reason", "invalid_json"], "say which to send, in one way"),
        (["replay", "--all", "--file", "-"], "say which to send, in one way"),
        (["replay", "--since", "1h", ID], "--since goes with --reason or --all"),
        (["replay", "--file", "/there/is/none"], "cannot read /there/is/none"),
        (["list", "--since", "yesterday"], "--since 'yesterday' is no time"),
        (["show", "--raw", ID, ID], "give one ID"),
        (["show", "--raw", "--json", ID], "give one ID"),
        (["show", ID, "17"], "'17' is no dead letter's id"),
    ],
)
def test_wrong_usage_ends_with_two_and_says_what_to_write(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(commands, arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_a_directory_over_which_nothing_runs_is_said_to_be_one(tmp_path: Path) -> None:
    done = CliRunner().invoke(commands, ["list", "--data", str(tmp_path)])
    assert done.exit_code == 2
    assert "nothing runs over" in done.stderr


def test_a_server_that_does_not_answer_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWATCH_CLICKHOUSE_URL", "http://127.0.0.1:9")
    done = CliRunner().invoke(commands, ["list"])
    assert done.exit_code == 1
    assert "gatewatch doctor" in done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "no JSON",
        "[]",
        "{}",
        f'{{"id": "{ID}"}}',
        '{"line": {}}',
        '{"id": 5, "line": {}}',
        f'{{"id": "{ID}", "line_base64": "%"}}',
        "[" * 100_000,
    ],
)
def test_a_file_with_a_bad_line_is_refused_as_a_whole(tmp_path: Path, line: str) -> None:
    file = tmp_path / "repaired.ndjson"
    file.write_text(f'{{"id": "{ID}", "line": {{}}}}\n\n{line}\n')
    done = CliRunner().invoke(commands, ["replay", "--file", str(file)])
    assert done.exit_code == 2
    assert f"line 3 of {file}" in done.stderr
    assert "Nothing was sent" in done.stderr


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            f'{{"id": "{ID}", "line": {{"a": 1.0,  "a": 12345678901234567890123}}}}',
            b'{"a": 1.0,  "a": 12345678901234567890123}',
        ),
        (f'{{"id": "{ID}", "line": "{{\\"a\\":\\"\\u00e9\\"}}"}}', '{"a":"é"}'.encode()),
        (f'{{"id": "{ID}", "reason": "x", "line_base64": "//4="}}', b"\xff\xfe"),
        (f'{{"id": "{ID}", "line": {{}}, "line_base64": "//4="}}', b"{}"),
    ],
)
def test_the_repaired_line_is_taken_as_it_stands(text: str, line: bytes) -> None:
    assert _read_repaired(text.encode(), "line 1") == (ID, line)


def test_a_moment_is_an_age_or_a_date() -> None:
    def read(text: str) -> int:
        return moment_ms("dead-letters", "--since", text, NOW_MS)

    assert read("2h") == read("-2h") == NOW_MS - 7_200_000
    date = datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp() * 1000
    assert read("2026-01-31T12:00") == read("2026-01-31T13:00+01:00") == read("2026-01-31T12:00Z") == date
    with pytest.raises(typer.Exit):
        read("2026-31-01")


def test_nothing_that_a_terminal_obeys_is_printed() -> None:
    told = visible("a\x1b[2J\u202e\u2028\x9b\r\n\x00 é 日本")
    assert told.isprintable()
    assert told == "a\\x1b[2J\\u202e\\u2028\\x9b\\r\\n\\x00 é 日本"
