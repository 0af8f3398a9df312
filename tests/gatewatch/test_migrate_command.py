"""`gatewatch migrate` against an engine process of its own, and against nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sinks.migration import read_migrations
from sinks.views import ALL_VIEWS
from streams.process import end, free_port
from tests.sinks.conftest import RunningEngine, start_engine


@pytest.fixture
def fresh_engine(tmp_path: Path) -> Iterator[RunningEngine]:
    """An engine without tables."""
    running = start_engine(tmp_path)
    yield running
    assert end(running.process, 30)


def migrate(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith("GATEWATCH_")}
    return subprocess.run(
        [sys.executable, "-m", "gatewatch.cli", "migrate", *options],
        capture_output=True,
        text=True,
        timeout=60,
        env=own | variables,
    )


@pytest.mark.engine
def test_a_dry_run_prints_and_changes_nothing_and_a_second_run_has_nothing_to_do(
    fresh_engine: RunningEngine,
) -> None:
    address = {
        "GATEWATCH_CLICKHOUSE_URL": fresh_engine.url,
        "GATEWATCH_CLICKHOUSE_PASSWORD": fresh_engine.writer_password,
    }
    everything = "SELECT database, name FROM system.tables WHERE database LIKE 'gatewatch%'"
    before = fresh_engine.write(everything)
    shown = migrate("--dry-run", **address)
    assert (shown.returncode, shown.stderr) == (0, "")
    for migration in read_migrations():
        assert f"-- {migration.number:04} {migration.name}\n" in shown.stdout
    assert "CREATE TABLE" in shown.stdout
    assert shown.stdout.endswith(f"-- then {len(ALL_VIEWS)} views are created or replaced\n")
    assert fresh_engine.write(everything) == before

    done = migrate(**address)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("applied 0001 ")
    after = fresh_engine.write(everything)
    assert "calls" in after
    assert after != before

    again = migrate(**address)
    assert (again.returncode, again.stdout) == (0, f"up to date, {len(ALL_VIEWS)} views\n")
    nothing = migrate("--dry-run", **address)
    assert nothing.stdout == f"-- then {len(ALL_VIEWS)} views are created or replaced\n"


def test_a_server_that_does_not_answer_is_1_and_a_wrong_setting_2() -> None:
    silent = migrate(GATEWATCH_CLICKHOUSE_URL=f"http://127.0.0.1:{free_port()}")
    assert (silent.returncode, silent.stdout) == (1, "")
    assert silent.stderr.startswith("gatewatch migrate: cannot connect to http://127.0.0.1:")
    wrong = migrate(GATEWATCH_CLICKHOUSE_URL="ftp://there")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("gatewatch migrate: ")
    assert "GATEWATCH_CLICKHOUSE_URL" in wrong.stderr
