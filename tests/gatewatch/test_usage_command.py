"""`gatewatch usage`: one answer a line, in order, whatever the line holds."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from gatewatch.cli.usage import answers, command

app = typer.Typer()
app.command()(command)


def run(lines: bytes, *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    result = CliRunner().invoke(app, list(arguments), input=lines)
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()], result.stderr


ANTHROPIC = (
    b'{"provider": "anthropic", "model": "claude", "call": 7, '
    b'"usage": {"input_tokens": 3, "cache_read_input_tokens": 1111, "output_tokens": 33}}'
)


def test_usage_becomes_inclusive_and_other_keys_pass() -> None:
    assert run(ANTHROPIC + b"\n") == (
        0,
        [
            {
                "provider": "anthropic",
                "model": "claude",
                "call": 7,
                "usage": {"input_tokens": 1114, "cache_read_tokens": 1111, "output_tokens": 33},
            }
        ],
        "",
    )


BAD: dict[bytes, str] = {
    b"nonsense": "the line is not JSON",
    b"\xff\xfe": "the line is not JSON",
    b"[" * 5000: "the line is not JSON",
    b"[1]": "no object",
    b'{"provider": 3, "usage": {}}': '"provider" is no string',
    b'{"provider": "openai"}': 'the line has no "usage"',
    b'{"provider": "openai", "usage": [1]}': 'the line has no "usage"',
    b'{"provider": "openai", "model": 3, "usage": {}}': '"model" is no string',
    b'{"provider": "openai", "usage": {"prompt_tokens": -1}}': "prompt_tokens is negative",
    b'{"provider": "openai", "usage": {"x": "' + b"x" * (1 << 20) + b'"}}': "longer than 1048576 bytes",
}


@pytest.mark.parametrize("line", BAD, ids=list(BAD.values()))
def test_bad_line_is_answered_with_its_error_and_costs_that_line_only(line: bytes) -> None:
    code, lines, errors = run(ANTHROPIC + b"\n" + line + b"\n" + ANTHROPIC)
    assert (code, errors) == (0, "")
    assert [("error" in answer) for answer in lines] == [False, True, False]
    assert BAD[line] in lines[1]["error"]


def test_what_was_refused_is_kept_as_it_was() -> None:
    line = b'{"provider": "openai", "usage": {"prompt_tokens": -1, "x": "y"}}'
    (answer,) = run(line)[1]
    assert answer["usage"] == {"prompt_tokens": -1, "x": "y"}
    assert answer["provider"] == "openai"


def test_unparsed_text_is_never_repeated() -> None:
    _, lines, errors = run(b'{"usage": sk-secret}\n')
    assert "sk-secret" not in json.dumps(lines) + errors


def test_provider_may_be_unknown() -> None:
    (answer,) = run(b'{"provider": null, "usage": {"prompt_tokens": 2}}')[1]
    assert answer["usage"] == {"input_tokens": 2}


def test_strict_exits_with_one_where_a_line_was_refused() -> None:
    assert run(ANTHROPIC, "--strict")[0] == 0
    code, lines, errors = run(b"nonsense\n" + ANTHROPIC, "--strict")
    assert (code, len(lines)) == (1, 2)
    assert "1 lines could not be counted" in errors


def test_nothing_in_nothing_out() -> None:
    assert run(b"\n  \n") == (0, [], "")


def test_wrong_option_exits_with_two() -> None:
    assert run(b"", "--wrong")[0] == 2


def test_command_answers_each_line_at_once() -> None:
    program = "import typer; from gatewatch.cli.usage import command; typer.run(command)"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    with process:
        for _ in range(3):
            process.stdin.write(ANTHROPIC + b"\n")
            process.stdin.flush()
            # Blocks for ever if the answer waits for more input; then the test's timeout strikes.
            assert json.loads(process.stdout.readline())["usage"]["input_tokens"] == 1114
        process.stdin.close()
        assert process.stdout.read() == b""
        assert process.wait(timeout=30) == 0


@given(st.lists(st.binary(max_size=60) | st.sampled_from([ANTHROPIC, b'{"usage": {}}', b"{}"]), max_size=5))
def test_every_line_that_is_not_blank_has_one_answer(lines: list[bytes]) -> None:
    found = list(answers(lines))
    assert len(found) == len([line for line in lines if line.strip()])
    for answer in found:
        assert ("error" in answer) or isinstance(answer["usage"]["input_tokens"], int)
