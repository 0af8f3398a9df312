"""`gatewatch query` against a running engine, a directory at rest, and nothing at all."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.process import end
from tests.sinks.conftest import RunningEngine, start_engine

HEAVY = "SELECT sum(sipHash64(number)) FROM numbers(100000000000)"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    running = start_engine(tmp_path_factory.mktemp("query"))
    running.write(
        "CREATE VIEW gatewatch.three AS SELECT number AS n, concat('a\"', toString(n)) AS s FROM numbers(3)"
    )
    yield running
    assert end(running.process, 30)


def environment(**variables: str) -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith("GATEWATCH_")}
    return own | variables


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gatewatch.cli", "query", *arguments]


def query(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment(**variables),
    )


def running_queries(engine: RunningEngine) -> int:
    running = "query LIKE '%sipHash64%' AND query NOT LIKE '%processes%'"
    return int(engine.write(f"SELECT count() FROM system.processes WHERE {running}"))


def poll(what: str, condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


@pytest.mark.engine
def test_json_lines_are_the_default_in_a_pipe(served: RunningEngine) -> None:
    done = query("SELECT * FROM three ORDER BY n", "--data", str(served.data))
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"n": n, "s": f'a"{n}'} for n in range(3)
    ]


@pytest.mark.engine
def test_csv_has_a_header_and_one_only(served: RunningEngine) -> None:
    done = query(
        "SELECT number AS n, 'a\"b' AS s FROM numbers(200000)", "--url", served.url, "--format", "csv"
    )
    rows = list(csv.reader(io.StringIO(done.stdout)))
    assert rows[0] == ["n", "s"]
    assert len(rows) == 200_001
    assert rows[-1] == ["199999", 'a"b']


@pytest.mark.engine
def test_a_table_shows_nulls_and_cannot_steer_the_terminal(served: RunningEngine) -> None:
    sql = "SELECT 7 AS n, NULL AS nothing, '[red]' || char(27) || '[31mx' AS text"
    done = query(sql, "--url", served.url, "--format", "table", COLUMNS="100")
    assert done.returncode == 0
    assert "NULL" in done.stdout
    assert "[red]\\x1b[31mx" in done.stdout
    assert "\x1b" not in done.stdout
    assert "1 row" in done.stdout


@pytest.mark.engine
def test_a_table_says_how_much_it_does_not_show(served: RunningEngine) -> None:
    done = query("SELECT number FROM numbers(1500)", "--url", served.url, "--format", "table")
    assert "500 more rows are not shown" in done.stderr


@pytest.mark.engine
def test_sql_comes_from_standard_input_and_the_url_from_the_environment(served: RunningEngine) -> None:
    done = query("-", stdin="SELECT count() AS c FROM three\n", GATEWATCH_CLICKHOUSE_URL=served.url)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"c": 3})


@pytest.mark.engine
def test_the_writers_token_is_found_in_the_directory_and_never_shown(served: RunningEngine) -> None:
    sql = "CREATE TABLE IF NOT EXISTS default.mine (a Int8) ENGINE = Memory"
    done = query(sql, "--data", str(served.data), "--user", "writer")
    assert (done.returncode, done.stdout) == (0, "")
    wrong = query(
        sql, "--url", served.url, "--user", "writer", GATEWATCH_CLICKHOUSE_PASSWORD="wrong-password"
    )
    assert wrong.returncode == 1
    assert "AUTHENTICATION_FAILED" in wrong.stderr
    assert "wrong-password" not in wrong.stderr


@pytest.mark.engine
@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELEKT 1", "Syntax error"),
        ("SELECT * FROM gatewatch.absent", "UNKNOWN_TABLE"),
        ("SELECT file('/etc/hostname')", "Not available to reader: function file"),
        ("DROP VIEW gatewatch.three", "Not available to reader"),
        ("SELECT throwIf(number = 3000000, 'too far') FROM numbers(5000000)", "too far"),
    ],
)
def test_a_failed_query_says_why(served: RunningEngine, sql: str, said: str) -> None:
    done = query(sql, "--url", served.url)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.startswith("gatewatch query: ")
    assert "Traceback" not in done.stderr
    assert "__exception__" not in done.stdout


def test_no_sql_is_wrong_usage() -> None:
    assert query("-", stdin=" \n").returncode == 2


def test_nothing_to_ask_is_a_clear_error(tmp_path: Path) -> None:
    refused = query("SELECT 1", "--url", "http://127.0.0.1:1")
    assert refused.returncode == 1
    assert "does not answer" in refused.stderr
    empty = query("SELECT 1", "--data", str(tmp_path))
    assert empty.returncode == 1
    assert "holds no data of an engine" in empty.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.engine
def test_interrupting_cancels_the_query(served: RunningEngine) -> None:
    asked = subprocess.Popen(
        command(HEAVY, "--url", served.url), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    try:
        poll("the query runs", lambda: running_queries(served) == 1)
        asked.send_signal(signal.SIGINT)
        _, said = asked.communicate(timeout=20)
    finally:
        asked.kill()
        asked.wait()
    assert asked.returncode == 130
    assert said == b"gatewatch query: cancelled\n"
    poll("the query is cancelled", lambda: running_queries(served) == 0)


@pytest.mark.engine
def test_a_directory_at_rest_is_read_by_the_same_rules(tmp_path: Path) -> None:
    engine = start_engine(tmp_path)
    try:
        engine.write("CREATE TABLE default.t (a UInt64) ENGINE = MergeTree ORDER BY a")
        engine.write("INSERT INTO default.t VALUES (41), (1)")
        engine.write("CREATE VIEW gatewatch.total AS SELECT sum(a) AS a FROM default.t")
    finally:
        assert end(engine.process, 30)
    done = query("SELECT a FROM total", "--data", str(engine.data))
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"a":42}\n', "")
    by_setting = query("SELECT a FROM total", GATEWATCH_DATA_DIR=str(engine.data))
    assert by_setting.stdout == '{"a":42}\n'
    refused = query("SELECT * FROM default.t", "--data", str(engine.data))
    assert refused.returncode == 1
    assert "Not available to reader" in refused.stderr


@pytest.mark.engine
def test_the_engine_command_serves_and_stops(tmp_path: Path) -> None:
    arguments = [
        sys.executable,
        "-m",
        "gatewatch.cli",
        "engine",
        "--data",
        str(tmp_path / "d"),
        "--port",
        "0",
    ]
    served = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    try:
        assert served.stdout is not None
        url = served.stdout.readline().decode().removeprefix("ready ").strip()
        done = query("SELECT 1 AS a", "--url", url)
        assert (done.returncode, done.stdout) == (0, '{"a":1}\n')
        served.send_signal(signal.SIGTERM)
        out, said = served.communicate(timeout=20)
    finally:
        served.kill()
        served.wait()
    assert (served.returncode, out, said) == (0, b"", b"")


def test_a_setting_that_cannot_be_read_is_wrong_usage() -> None:
    done = query("SELECT 1", GATEWATCH_CLICKHOUSE_URL="ftp://there")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gatewatch query: ")
    assert "GATEWATCH_CLICKHOUSE_URL" in done.stderr
