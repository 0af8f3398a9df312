"""`gatewatch export focus` as its user meets it: a running engine, files, and what is said about them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gatewatch.cli.export import commands
from streams.process import end
from tests import focus
from tests.event import call
from tests.sinks.conftest import RunningEngine, start_store
from tests.stored import store

USAGE: dict[str, Any] = {"input_tokens": 1000, "output_tokens": 100}
MONTH = ("--month", "2025-10")
DAY = ("--from", "2025-10-09", "--to", "2025-10-10")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    """An engine with four priced calls, and three of a model that nobody knows."""
    running = start_store(tmp_path_factory.mktemp("export"))
    sink = running.sink()
    priced = [call(n, tenant=f"tenant {n % 2}", **USAGE) for n in range(4)]
    store(sink, *priced, *(call(10 + n, model="m\x1b[31m", **USAGE) for n in range(3)))
    sink.close()
    yield running
    assert end(running.process, 30)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gatewatch.cli", "export", "focus", *arguments]


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("GATEWATCH_")}


def export(*arguments: str) -> Result:
    return CliRunner().invoke(commands, ["focus", *arguments], env={"GATEWATCH_CLICKHOUSE_URL": None})


@pytest.mark.engine
def test_a_month_becomes_a_file_and_what_is_not_in_it_is_said(served: RunningEngine, tmp_path: Path) -> None:
    path, beside = tmp_path / "a.parquet", tmp_path / "a.json"
    done = export(*MONTH, "--data", str(served.data), "--output", str(path), "--metadata", str(beside))
    assert (done.exit_code, done.stdout) == (0, "")
    # $2.5 a million for input and $10 for output.
    first, second = done.stderr.splitlines()
    assert first == "gatewatch export: 4 rows of 4 calls, 0.014 USD"
    assert "3 calls with 3300 tokens have no price and are in no row: openai/m\\x1b[31m (3)" in second
    rows = focus.read(path)
    assert focus.faults(list(rows[0]), rows) == set()
    assert sum(Decimal(row["BilledCost"] or "") for row in rows) == Decimal("0.014")
    assert {row["SubAccountId"] for row in rows} == {"tenant 0", "tenant 1"}
    assert json.loads(beside.read_bytes())["Schema"]["FocusVersion"] == "1.4"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.json", "a.parquet"]


@pytest.mark.engine
def test_standard_output_gets_the_same_rows(served: RunningEngine, tmp_path: Path) -> None:
    where = ("--url", served.url)
    streamed = export(*DAY, *where, "--issuer", "Platform", "--billing-account", "42")
    (tmp_path / "a.csv").write_text(streamed.stdout)
    rows = focus.read(tmp_path / "a.csv")
    assert {(row["InvoiceIssuerName"], row["BillingAccountId"]) for row in rows} == {("Platform", "42")}
    assert sum(Decimal(row["BilledCost"] or "") for row in rows) == Decimal("0.014")
    none = export("--from", "2025-10-10", "--to", "2025-10-11", *where)
    assert none.stdout == streamed.stdout.splitlines()[0] + "\n"
    assert none.stderr == "gatewatch export: 0 rows of 0 calls, 0 USD\n"


@pytest.mark.engine
def test_a_file_that_is_there_stays(served: RunningEngine, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("mine")
    refused = export(*DAY, "--url", served.url, "--output", str(path))
    assert refused.exit_code == 1
    assert "a.csv is there already: choose another name, or --force" in refused.stderr
    assert path.read_text() == "mine"
    assert export(*DAY, "--url", served.url, "--output", str(path), "--force").exit_code == 0
    assert path.read_text().startswith("BilledCost,")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.engine
def test_calls_without_a_price_can_be_refused(served: RunningEngine, tmp_path: Path) -> None:
    done = export(*DAY, "--url", served.url, "--output", str(tmp_path / "a.csv"), "--fail-on-unpriced")
    assert done.exit_code == 1
    assert "3 calls with 3300 tokens have no price" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say which time"),
        (["--month", "2025-10", "--from", "2025-10-01", "--to", "2025-10-02"], "say which time"),
        (["--month", "2025-13"], "is no day"),
        (["--month", "October"], "is no month"),
        (["--from", "2025-10-01"], "go together"),
        (["--from", "2025-10-02", "--to", "2025-10-02"], "is not before"),
        (["--month", "0001-01"], "is not between 1970 and 2100"),
        (["--month", "2025-10", "--issuer", " "], "--issuer is empty"),
        (["--month", "2025-10", "--output", "x", "--metadata", "./x"], "name the same file"),
    ],
)
def test_wrong_usage_says_what_is_right(arguments: list[str], said: str) -> None:
    done = export(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr


def test_nothing_is_left_behind_when_nobody_answers(tmp_path: Path) -> None:
    done = export(*DAY, "--url", "http://127.0.0.1:1", "--output", str(tmp_path / "a.csv"))
    assert done.exit_code == 1
    assert done.stderr.startswith("gatewatch export: cannot connect to http://127.0.0.1:1")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
    nowhere = export(*DAY, "--url", "http://127.0.0.1:1", "--output", str(tmp_path / "none" / "a.csv"))
    assert nowhere.exit_code == 1
    assert "cannot write" in nowhere.stderr


@pytest.mark.engine
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_nothing_is_left_behind_when_it_is_stopped(
    served: RunningEngine, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    time = ("--from", "2025-10-01", "--to", "2045-10-01", "--grain", "hour")
    path = tmp_path / "a.csv"
    asked = subprocess.Popen(
        command(*time, "--url", served.url, "--output", str(path)), stderr=subprocess.PIPE, env=environment()
    )
    try:
        # It writes once its unfinished file is there.
        while not list(tmp_path.iterdir()):
            assert asked.poll() is None
        asked.send_signal(number)
        _, said = asked.communicate(timeout=30)
    finally:
        asked.kill()
        asked.wait()
    assert asked.returncode == status, said
    assert b"Traceback" not in said
    assert list(tmp_path.iterdir()) == []
