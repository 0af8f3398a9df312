"""`gatewatch reprice` on an engine with calls, and what it says to wrong usage."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from msgspec.json import encode

from gatewatch.contract import Contract
from gatewatch.price_ledger import PriceDocuments, ledger_of
from signals.lane import Lane, Rules
from sinks.price import make_version
from sinks.schema import STORE
from streams.process import end
from tests.event import call, record
from tests.sinks.conftest import RunningEngine, start_store
from tests.stored import flush

HOUR_MS: Final = 3_600_000
NOW_MS: Final = int(time.time()) // 3600 * HOUR_MS - 24 * HOUR_MS
WRONG: Final = ledger_of(
    [PriceDocuments.of_package(encode([Contract(contract_id="wrong", model="gpt-4o", adjust_bp=10_000)]))]
)
"""Twice what the list says."""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    """Six calls of a day ago, priced too dear: four of gpt-4o and two of a model that nobody knows."""
    running = start_store(tmp_path_factory.mktemp("reprice"))
    sink = running.sink()
    lane = Lane(1, 0, Rules(), prices=WRONG)
    calls = [
        call(
            number,
            at_ms=NOW_MS + number * 1000,
            model="gpt-4o" if number < 4 else "gpt-x",
            tenant="acme" if number % 2 else "beta\x1b[31m",
            input_tokens=1000,
            output_tokens=100,
        )
        for number in range(6)
    ]
    lane.feed(0, NOW_MS + 10_000, record(*calls))
    flush(sink, lane)
    sink.close()
    yield running
    assert end(running.process, 30)


def reprice(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith("GATEWATCH_")}
    return subprocess.run(
        [sys.executable, "-m", "gatewatch.cli", "reprice", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=own | variables,
    )


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.engine
def test_the_difference_is_shown_and_stored_once(filled: RunningEngine) -> None:
    where = ("--data", str(filled.data))
    dry = reprice("--from", "48h", "--dry-run", *where)
    # 1,000 tokens at $2.50 and 100 at $10 a million, and twice that before.
    acme = {
        "total": False,
        "tenant": "acme",
        "provider": "openai",
        "model": "gpt-4o",
        "calls": 2,
        "changed": 2,
        "before_usd": "0.014000000",
        "after_usd": "0.007000000",
        "change_usd": "-0.007000000",
        "unpriced_before": 0,
        "unpriced_after": 0,
    }
    assert acme in rows(dry)
    assert rows(dry)[-1] == acme | {
        "total": True,
        "tenant": None,
        "provider": None,
        "model": None,
        "calls": 6,
        "changed": 4,
        "before_usd": "0.028000000",
        "after_usd": "0.014000000",
        "change_usd": "-0.014000000",
        "unpriced_before": 2,
        "unpriced_after": 2,
    }
    assert dry.stderr == (
        "gatewatch reprice: 4 of 6 calls would change, prices of version 1; nothing was written\n"
    )
    assert filled.read("SELECT sum(cost_usd), countIf(repriced_at IS NOT NULL) FROM calls") == "0.028\t0\n"

    wet = reprice("--from", "48h", "--format", "table", *where)
    lines = [line.split() for line in wet.stdout.splitlines()]
    assert lines[0][:4] == ["tenant", "provider", "model", "calls"]
    assert lines[2][0] == "beta\\x1b[31m"
    assert lines[3][:2] == ["(unchanged)", "2"]
    assert lines[4] == ["total", "6", "4", "0.028000000", "0.014000000", "-0.014000000", "2", "2"]
    assert wet.stderr == "gatewatch reprice: 4 of 6 calls changed, prices of version 1\n"
    reported = "SELECT sum(cost_usd), sum(cost_as_reported_usd) FROM calls"
    assert filled.read(reported) == "0.014\t0.028\n"
    measured = "SELECT sum(sum) FROM measures WHERE signal = 'cost_spend_sum' AND cut = 'gateway'"
    assert filled.read(measured) == "14000000\n"

    again = rows(reprice("--from", "48h", "--to", "2099-12-31", *where))
    assert (again[-1]["changed"], again[-1]["before_usd"]) == (0, "0.014000000")
    assert filled.read("SELECT countIf(finished_at IS NULL), count() FROM reprices") == "0\t2\n"


@pytest.mark.engine
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "yesterday"], "--from 'yesterday' is no time; write 7d, 12h, 2026-11-01"),
        (["--from", "2h", "--to", "2026-13-01"], "--to '2026-13-01' is no time"),
        (["--from", "2026-11-02", "--to", "2026-11-01"], "--from 2026-11-02 is not before --to 2026-11-01"),
        (
            ["--from", "2098-01-01", "--to", "2099-01-01"],
            "--from 2098-01-01 is not before --to 2099-01-01",
        ),
        (["--from", "2020-01-01"], "--from 2020-01-01 is more than 380 days ago"),
        (
            ["--from", "48h", "--model", "gpt4o"],
            "no call of that time has the model 'gpt4o'; near are: gpt-4o",
        ),
        (["--from", "48h", "--tenant", "zzz"], "no call of that time has the tenant 'zzz'\n"),
        (["--from", "48h", "--tenant", "beta\x1b"], "near are: beta\\x1b[31m\n"),
        (
            ["--from", "48h", "--provider", "OpenAI"],
            "no call of that time has the provider 'OpenAI'; near are: openai",
        ),
    ],
)
def test_wrong_usage_says_what_is_wrong(filled: RunningEngine, arguments: list[str], said: str) -> None:
    done = reprice(*arguments, "--data", str(filled.data))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.engine
def test_versions_that_do_not_hold_yet_or_cannot_be_read_are_said(filled: RunningEngine) -> None:
    where = ("--data", str(filled.data))
    sink = filled.sink()
    made = make_version(sink, PriceDocuments.of_package(), note="", based_on=None)
    later_ms = int(time.time() * 1000) + 3 * 86_400_000
    halved = encode([Contract(contract_id="half", adjust_bp=-5000)])
    documents = PriceDocuments.of_package(halved)
    make_version(sink, documents, note="", based_on=made.version, takes_effect_ms=later_ms)
    done = reprice("--from", "48h", "--dry-run", *where)
    assert rows(done)[-1]["after_usd"] == "0.007000000"
    assert re.search(r"version 2 takes effect in 259,\d{3} s: .* run it again afterwards\n$", done.stderr)

    sink.command(
        f"INSERT INTO {STORE}.price_versions (version, made_at, takes_effect_at, list, declared, contracts) "
        "SELECT 3, now64(3), now64(3) + INTERVAL 9 DAY, '{}', '', '[]'"
    )
    sink.close()
    done = reprice("--from", "48h", "--dry-run", *where)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gatewatch reprice: ")
    assert done.stderr.endswith("; a later release may have made this version of the prices\n")


def test_without_an_engine_it_says_what_to_do(tmp_path: Path) -> None:
    done = reprice("--from", "1h", "--data", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{tmp_path} holds no data of an engine" in done.stderr
    done = reprice("--from", "1h", GATEWATCH_CLICKHOUSE_URL="http://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot connect to http://127.0.0.1:1" in done.stderr
