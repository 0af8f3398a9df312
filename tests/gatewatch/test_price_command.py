"""`gatewatch price`: one answer a line, in order, always with all keys, whatever the line holds."""

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

from gatewatch.cli.price import answers, command

app = typer.Typer()
app.command()(command)

KEYS = {"usage", "cost_usd", "parts", "cost_status", "price_id", "explanation", "error"}


def run(lines: bytes, *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    result = CliRunner().invoke(app, list(arguments), input=lines)
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()], result.stderr


def line(**call: Any) -> bytes:
    usual = {
        "provider": "openai",
        "model": "gpt-4o",
        "at": "2026-11-20T12:00:00Z",
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100},
    }
    return json.dumps(usual | call).encode() + b"\n"


def test_a_call_is_priced_beside_its_own_fields() -> None:
    status, (answer,), stderr = run(line(call=7))
    assert (status, stderr) == (0, "")
    assert answer == {
        "provider": "openai",
        "model": "gpt-4o",
        "at": "2026-11-20T12:00:00Z",
        "call": 7,
        "usage": {"input_tokens": 1000, "output_tokens": 100},
        "cost_usd": "0.0035",
        "parts": {"input": "0.0025", "output": "0.001"},
        "cost_status": "priced",
        "price_id": "openai/gpt-4o",
        "explanation": (
            "input 1,000 × $2.5/M + output 100 × $10/M = $0.0035; standard rates; openai/gpt-4o, "
            "valid from the list's beginning; genai-prices 0.2.3, "
            "https://developers.openai.com/api/docs/pricing"
        ),
        "error": None,
    }


BAD: dict[bytes, str] = {
    b"nonsense": "the line is not JSON",
    b"\xff\xfe": "the line is not JSON",
    b"[" * 5000: "the line is not JSON",
    b"[1]": "no object",
    b"{}": 'the line has no "usage"',
    line(provider=3).strip(): '"provider" is no string',
    line(model=["gpt"]).strip(): '"model" is no string',
    line(tenant=1).strip(): '"tenant" is no string',
    line(usage=[1]).strip(): 'the line has no "usage"',
    line(usage={"prompt_tokens": -1}).strip(): "prompt_tokens is negative",
    line(usage={"prompt_tokens": 1, "completion_tokens": 1, "num_cached_tokens": 2}).strip(): "exceed",
    line(at="yesterday").strip(): '"at" is neither',
    line(at=1.5).strip(): '"at" is neither',
    line(at=-5).strip(): "time of the call",
    b'{"usage": {"x": "' + b"x" * (1 << 20) + b'"}}': "longer than 1048576 bytes",
}


@pytest.mark.parametrize("bad", BAD, ids=list(BAD.values()))
def test_a_bad_line_costs_that_line_only(bad: bytes) -> None:
    status, (refused, good), _ = run(bad + b"\n\n" + line())
    assert status == 0
    assert refused.keys() >= KEYS
    assert BAD[bad] in refused["error"]
    assert (refused["cost_usd"], refused["usage"], refused["cost_status"]) == (None, None, "unpriced")
    assert good["cost_usd"] == "0.0035"


def test_what_follows_a_line_that_is_too_long_is_answered() -> None:
    long = b"x" * (3 << 20)
    _, found, _ = run(line(call=1) + long + b"\n" + line(call=2) + line(call=3) + long)
    assert [answer.get("call") for answer in found] == [1, None, 2, 3, None]
    assert [bool(answer["error"]) for answer in found] == [False, True, False, False, True]


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_any_lines_get_one_answer_each(lines: list[bytes]) -> None:
    found = list(answers(lines))
    assert len(found) == sum(bool(text.strip(b" \t\n\r\x0b\f")) for text in lines)
    assert all(answer.keys() >= KEYS for answer in found)


@pytest.mark.parametrize(
    "when",
    [
        "2025-06-09T23:59:59Z",
        "2025-06-09 23:59:59",
        "2025-06-10T01:59:59+02:00",
        "Mon, 09 Jun 2025 23:59:59 GMT",
        1749513599000,
    ],
)
def test_times_are_read_as_people_and_apis_write_them(when: object) -> None:
    before = json.loads(line(model="o3", at=when))
    (answer,) = answers([json.dumps(before).encode()])
    assert answer["cost_usd"] == "0.014"  # $10 and $40 until 2025-06-10
    (answer,) = answers([line(model="o3", at="2025-06-10")])
    assert answer["cost_usd"] == "0.0028"


def test_without_a_time_it_is_now() -> None:
    (answer,) = answers([line(at=None)])
    assert answer["cost_usd"] == "0.0035"


def test_a_reported_cost_is_taken_where_asked_for() -> None:
    unknown = line(model="nope", reported_cost_usd=0.0123)
    assert run(unknown)[1][0]["cost_status"] == "unpriced"
    (answer,) = run(unknown, "--reported")[1]
    assert (answer["cost_status"], answer["cost_usd"]) == ("provider_reported", "0.0123")
    (answer,) = run(line(model="nope", reported_cost_usd="0.1"), "--reported")[1]
    assert answer["cost_usd"] == "0.1"
    (answer,) = run(line(model="nope", reported_cost_usd=True), "--reported")[1]
    assert "reported_cost_usd" in answer["error"]


def test_strict_exits_with_1_where_a_price_is_missing() -> None:
    assert run(line(), "--strict")[0] == 0
    status, _, stderr = run(line() + line(model="nope"), "--strict")
    assert (status, stderr) == (1, "gatewatch price: 1 lines have no whole price; see their explanations\n")


def test_a_secret_in_a_bad_line_is_not_repeated() -> None:
    (answer,) = answers([b'{"usage": "sk-secret'])
    assert "secret" not in json.dumps(answer)


def test_it_answers_while_its_input_is_open() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "from gatewatch.cli import main; main()", "price"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdin is not None and process.stdout is not None
        for _ in range(2):
            process.stdin.write(line())
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["cost_usd"] == "0.0035"
    finally:
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_importing_the_package_reads_no_prices() -> None:
    code = (
        "import sys, gatewatch\n"
        "before = [name for name in sys.modules if 'gatewatch.pri' in name or name == 'tomllib']\n"
        "assert not before, before\n"
        "gatewatch.price\n"
        "assert 'gatewatch.pricing' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
