"""`gatewatch infrastructure`, `savings` and `what-if` on a running engine, and asked wrongly."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from gatewatch.cli import infrastructure, savings, what_if
from gatewatch.price_ledger import PriceDocuments
from sinks.price import make_version
from sinks.schema import STORE, TABLES
from streams.process import end
from tests.sinks.conftest import RunningEngine, start_store
from tests.sinks.test_infrastructure import report, served
from tests.sinks.test_saving import made
from tests.stored import store

COMMANDS = typer.Typer()
COMMANDS.add_typer(infrastructure.commands, name="infrastructure")
COMMANDS.command("savings")(savings.command)
COMMANDS.command("what-if")(what_if.command)

HOUR_MS = int(time.time()) // 3600 * 3_600_000 - 3_600_000
"""The last whole hour."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    engine = start_store(tmp_path_factory.mktemp("infrastructure"))
    yield engine
    assert end(engine.process, 30)


@pytest.fixture
def filled(running: RunningEngine) -> RunningEngine:
    sink = running.sink()
    for table in TABLES:
        sink.command(f"TRUNCATE TABLE {STORE}.{table.name}")
    at: dict[str, Any] = {"started_at_ms": HOUR_MS, "at_ms": HOUR_MS + 1000}
    store(
        sink,
        made(1, **at, error_class="timeout"),
        made(2, **at, tenant="beta", model="gpt-4-turbos"),
        served(3, started_ms=HOUR_MS, input_tokens=10, output_tokens=1),
        report(0, 3600.0, at_ms=HOUR_MS + 3_600_000 - 1000, gpu_utilization=0.5),
    )
    sink.close()
    return running


def run(engine: RunningEngine | None, *arguments: str) -> Result:
    data = ["--data", str(engine.data)] if engine else []
    return CliRunner().invoke(COMMANDS, [*arguments, *data])


def rows(done: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_rate_is_set_shown_used_corrected_and_removed(filled: RunningEngine) -> None:
    missing = run(filled, "infrastructure", "status", "--format", "json")
    assert missing.exit_code == 1
    assert "GPU-hours without a rate" in missing.stderr
    done = run(filled, "infrastructure", "set", "h100", "2.49", "--model", "llama", "--from", "2026-01-01")
    assert done.exit_code == 0
    assert "2.49" in done.stdout
    again = run(filled, "infrastructure", "set", "h100", "2", "--model", "llama", "--from", "2026-01-01")
    assert again.exit_code == 0
    (rate,) = rows(run(filled, "infrastructure", "list", "--format", "json"))
    assert (rate["usd"], rate["begins"], rate["ends"], rate["any_gateway"]) == (
        *("2", "2026-01-01T00:00Z", "open", False),
    )
    status = run(filled, "infrastructure", "status", "--format", "json")
    (pool,) = [row for row in rows(status) if row["model"] == "llama"]
    # 3,599 s of the hour and 1 s of the one before.
    assert (pool["cost_usd"], pool["idle_usd"], pool["calls"]) == ("2", "1", 1)
    assert status.exit_code == 1
    assert (
        '{"contract_id":"own-gpus:vllm:llama","provider":"vllm","model":"llama","free":true' in status.stderr
    )
    removed = run(filled, "infrastructure", "remove", "h100")
    assert (removed.exit_code, removed.stdout.split()[0]) == (0, "1")
    everything = rows(run(filled, "infrastructure", "list", "--all", "--format", "json"))
    assert [row["state"] for row in everything] == ["superseded", "superseded", "removed"]
    unknown = run(filled, "infrastructure", "remove", "h100")
    assert unknown.exit_code == 1
    assert "in use: none" in unknown.stderr


def test_savings_are_listed_and_proved(filled: RunningEngine) -> None:
    (row,) = rows(run(filled, "savings", "--from", "1d", "--kind", "failed", "--format", "json"))
    assert (row["tenant"], row["calls"], row["paid_usd"], row["could_save_usd"]) == (
        *("acme", 1, "0.0035", "0.0035"),
    )
    (proof,) = rows(run(filled, "savings", "--from", "1d", "--kind", "failed", "--calls", "--format", "json"))
    assert (proof["call_id"], proof["what"], proof["could_save_usd"]) == ("call-1", "timeout", "0.0035")
    table = run(filled, "savings", "--from", "1d")
    assert "failed assumes: nothing would have been paid" in table.stderr
    nothing = run(filled, "savings", "--from", "2026-01-01", "--to", "2026-01-02")
    assert nothing.stdout.strip() == "nothing that could have been saved"


def test_what_if_prices_the_same_calls_and_says_what_it_left_out(filled: RunningEngine) -> None:
    done = run(filled, "what-if", "--from", "1d", "--as", "anthropic/claude-haiku-4-5", "--format", "json")
    assert done.exit_code == 0
    first = rows(done)[0]
    assert (first["paid_usd"], first["would_usd"], first["difference_usd"]) == ("0.0035", "0.0015", "-0.002")
    assert "assumed: the same token counts" in done.stderr
    assert "2 calls: the call itself has no cost to compare with" in done.stderr
    none = run(filled, "what-if", "--from", "1d", "--as", "openai/o3", "--tenant", "nobody")
    assert none.stdout.strip() == "no calls"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["infrastructure", "set", "a", "free"], "no number of dollars"),
        (["infrastructure", "set", "a", "1e6"], "not from 0 to 100,000 dollars"),
        (["infrastructure", "set", "a", "1", "--from", "2026-01-01T00:30"], "whole hour"),
        (["infrastructure", "set", "a", "1", "--from", "2026-01-02", "--to", "2026-01-01"], "ends after"),
        (["infrastructure", "set", "a", "1", "--output-weight", "many"], "no weight"),
        (["infrastructure", "set", "a", "1", "--resource", "*"], "trailing"),
        (["infrastructure", "set", " ", "1"], "needs an id"),
        (["infrastructure", "status", "--from", "2026-01-02", "--to", "2026-01-01"], "--to is not after"),
        (["infrastructure", "status", "--from", "soon"], "is no time"),
        (["savings", "--calls"], "one --kind"),
        (["savings", "--from", "2026"], "is no time"),
        (["savings", "--to", "2300-01-01"], "is no time"),
        (["savings", "--from", "1h", "--to", "2h"], "--to is not after"),
        (["what-if", "--as", "gpt-4o"], "is no PROVIDER/MODEL"),
        (["what-if", "--as", "openai/"], "is no PROVIDER/MODEL"),
    ],
)
def test_wrong_usage_ends_with_two_before_anything_is_asked(arguments: list[str], said: str) -> None:
    done = run(None, *arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("openai/gpt-4-turbos", "names that are near: gpt-4-turbo"),
        ("opnai/gpt-4o", "names that are near: openai"),
    ],
)
def test_a_target_that_nobody_knows_is_refused_with_names_that_are_near(
    filled: RunningEngine, target: str, said: str
) -> None:
    done = run(filled, "what-if", "--as", target)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_a_target_of_a_contract_in_the_store_is_known(filled: RunningEngine) -> None:
    own = b'[{"contract_id":"own","provider":"house","model":"m","rates":{"input":["1"],"output":["1"]}}]'
    sink = filled.sink()
    assert make_version(sink, PriceDocuments.of_package(own), note="test", based_on=None).is_new
    sink.close()
    (row, *_) = rows(run(filled, "what-if", "--from", "1d", "--as", "house/m", "--format", "json"))
    assert row["would_usd"] is not None


def test_a_directory_without_an_engine_is_said_to_be_one(tmp_path: Path) -> None:
    done = CliRunner().invoke(COMMANDS, ["savings", "--data", str(tmp_path)])
    assert done.exit_code == 1
    assert "holds no data of an engine" in done.stderr


def test_nothing_that_a_terminal_would_obey_is_printed(filled: RunningEngine) -> None:
    sink = filled.sink()
    at: dict[str, Any] = {"started_at_ms": HOUR_MS, "at_ms": HOUR_MS + 1000}
    store(sink, made(9, **at, tenant="\x1b[31mred", error_class="timeout"))
    sink.close()
    done = run(filled, "savings", "--from", "1d", "--kind", "failed")
    assert "\x1b" not in done.stdout
    assert "\\x1b[31mred" in done.stdout
