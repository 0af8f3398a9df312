"""The engine process speaks ClickHouse's HTTP interface, to a writer and to a reader."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import importlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import clickhouse_connect
import psutil
import pyarrow as pa
import pytest
from backports import zstd
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError

from streams.process import end
from tests.sinks.conftest import Answer, RunningEngine, start_engine, wait_for

Client = Any


@pytest.fixture(scope="module", autouse=True)
def tables(engine: RunningEngine) -> None:
    engine.write("CREATE DATABASE IF NOT EXISTS gatewatch_store")
    engine.write("CREATE DATABASE IF NOT EXISTS gatewatch")


@pytest.fixture
def table(engine: RunningEngine) -> Iterator[str]:
    """A table `gatewatch_store.x` of its own, with a view `gatewatch.x` over it."""
    name = f"t{uuid.uuid4().hex}"
    engine.write(f"CREATE TABLE gatewatch_store.{name} (a UInt64, s String) ENGINE = MergeTree ORDER BY a")
    engine.write(f"CREATE VIEW gatewatch.{name} AS SELECT a, s FROM gatewatch_store.{name}")
    yield name
    engine.write(f"DROP VIEW gatewatch.{name}")
    engine.write(f"DROP TABLE gatewatch_store.{name} SYNC")


@pytest.fixture
def writer(engine: RunningEngine) -> Iterator[Client]:
    client = clickhouse_connect.get_client(
        host=engine.host, port=engine.port, username="writer", password=engine.writer_password
    )
    yield client
    client.close()


@pytest.fixture
def reader(engine: RunningEngine) -> Iterator[Client]:
    client = clickhouse_connect.get_client(
        host=engine.host, port=engine.port, username="reader", database="gatewatch"
    )
    yield client
    client.close()


# ---- clickhouse-connect and curl ------------------------------------------------------------------


def test_rows_go_both_ways_in_native_and_arrow(table: str, writer: Client, reader: Client) -> None:
    writer.insert(f"gatewatch_store.{table}", [[1, "x"], [2, "y"]], column_names=["a", "s"])
    rows = pa.table({"a": pa.array([3], pa.uint64()), "s": ["z"]})
    summary = writer.insert_arrow(f"gatewatch_store.{table}", rows)
    assert summary.written_rows == 1
    for client in (writer, reader):
        answer = client.query(f"SELECT * FROM gatewatch.{table} ORDER BY a")
        assert answer.result_rows == [(1, "x"), (2, "y"), (3, "z")]
        arrow = client.query_arrow(f"SELECT * FROM gatewatch.{table} ORDER BY a")
        assert arrow.column("a").to_pylist() == [1, 2, 3]
    assert reader.command(f"SELECT count() FROM {table}") == 3


def test_parameters_are_bound_by_the_engine(table: str, writer: Client, reader: Client) -> None:
    hostile = "a' OR 1=1 --\n\t\\"
    writer.insert(f"gatewatch_store.{table}", [[1, "x"], [2, hostile]], column_names=["a", "s"])
    sql = f"SELECT a FROM {table} WHERE s = {{s:String}}"
    assert reader.query(sql, parameters={"s": hostile}).result_rows == [(2,)]


@pytest.mark.parametrize("compression", ["lz4", "zstd", "gzip"])
def test_bodies_are_compressed_both_ways(engine: RunningEngine, table: str, compression: str) -> None:
    with clickhouse_connect.get_client(
        host=engine.host,
        port=engine.port,
        username="writer",
        password=engine.writer_password,
        compress=compression,
    ) as client:
        client.insert(
            f"gatewatch_store.{table}", [[n, "x" * 50] for n in range(5000)], column_names=["a", "s"]
        )
        answer = client.query(f"SELECT sum(a), sum(length(s)) FROM gatewatch.{table}")
        assert answer.result_rows == [(12497500, 250000)]
        assert client.query(f"SELECT a FROM gatewatch.{table} ORDER BY a").row_count == 5000
    asked = engine.ask(
        f"SELECT a, s FROM gatewatch.{table} ORDER BY a FORMAT CSV",
        "writer",
        {"Accept-Encoding": compression},
        enable_http_compression="1",
    )
    assert asked.headers["Content-Encoding"] == compression
    unpack: Callable[[bytes], bytes] = {
        "lz4": importlib.import_module("lz4.frame").decompress,
        "zstd": zstd.decompress,
        "gzip": gzip.decompress,
    }[compression]
    assert unpack(asked.body).count(b"\n") == 5000


@pytest.mark.parametrize(
    ("input_format", "rows"),
    [
        ("JSONEachRow", b'{"a":1,"s":"x"}\n{"a":2,"s":"FORMAT y"}\n'),
        ("CSV", b'1,"x"\n2,"FORMAT y"\n'),
        ("TabSeparated", b"1\tx\n2\tFORMAT y\n"),
        ("Values", b"(1, 'x'), (2, 'FORMAT y')"),
    ],
)
@pytest.mark.parametrize("place", ["body", "url", "chunks", "gzip"])
def test_raw_inserts(engine: RunningEngine, table: str, input_format: str, rows: bytes, place: str) -> None:
    statement = f"INSERT INTO gatewatch_store.{table} (a, s) SETTINGS async_insert = 0 FORMAT {input_format}"
    if place == "body":
        engine.write(statement.encode() + b"\n" + rows)
    elif place == "url":
        engine.write(rows, query=statement)
    elif place == "gzip":
        answer = engine.ask(gzip.compress(rows), "writer", {"Content-Encoding": "gzip"}, query=statement)
        assert answer.status == 200, answer.text
    else:
        connection = http.client.HTTPConnection(engine.host, engine.port, timeout=30)
        parts = (rows[at : at + 5] for at in range(0, len(rows), 5))
        address = "/?" + urllib.parse.urlencode({"query": statement})
        connection.request("POST", address, parts, engine.credentials("writer"), encode_chunked=True)
        assert connection.getresponse().status == 200
        connection.close()
    assert engine.read(f"SELECT * FROM {table} ORDER BY a") == "1\tx\n2\tFORMAT y\n"


def test_insert_select_and_values_in_the_statement(engine: RunningEngine, table: str) -> None:
    engine.write(f"INSERT INTO gatewatch_store.{table} VALUES (1, 'FORMAT JSONEachRow')")
    engine.write(f"INSERT INTO gatewatch_store.{table} SELECT number + 10, 'FORMAT x' FROM numbers(2)")
    assert engine.read(f"SELECT a FROM {table} ORDER BY a") == "1\n10\n11\n"


def test_curl_sends_a_large_body_after_asking(engine: RunningEngine, table: str, tmp_path: Path) -> None:
    """Curl waits a second for `100 Continue` when a body is large; the engine says it at once."""
    rows = tmp_path / "rows.json"
    rows.write_text("".join(f'{{"a":{n},"s":"{"x" * 40}"}}\n' for n in range(40_000)))
    command = [
        "curl",
        "-sS",
        "--user",
        f"writer:{engine.writer_password}",
        "--header",
        "Expect: 100-continue",
        "--data-binary",
        f"@{rows}",
        f"{engine.url}/?query=INSERT+INTO+gatewatch_store.{table}+FORMAT+JSONEachRow",
    ]
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    except FileNotFoundError:
        pytest.skip("no curl here")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert engine.read(f"SELECT count() FROM {table}") == "40000\n"
    asked = subprocess.run(
        ["curl", "-sS", f"{engine.url}/?query=SELECT+count()+FROM+{table}"], capture_output=True, check=True
    )
    assert asked.stdout == b"40000\n"


def test_long_parameters_come_as_a_form(engine: RunningEngine) -> None:
    with clickhouse_connect.get_client(
        host=engine.host, port=engine.port, username="reader", form_encode_query_params=True
    ) as client:
        answer = client.query("SELECT length({s:String})", parameters={"s": "x" * 100_000})
        assert answer.result_rows == [(100_000,)]


# ---- answers ----------------------------------------------------------------------------------------


def test_answers_say_what_they_are(engine: RunningEngine) -> None:
    answer = engine.ask("SELECT 1 AS a", query_id="mine", default_format="JSON")
    assert json.loads(answer.text)["data"] == [{"a": 1}]
    assert answer.headers["X-ClickHouse-Query-Id"] == "mine"
    assert answer.headers["X-ClickHouse-Format"] == "JSON"
    assert answer.headers["X-ClickHouse-Timezone"]
    assert json.loads(answer.headers["X-ClickHouse-Summary"])["result_rows"] == "1"
    assert engine.ask("SELECT 1 FORMAT CSV", default_format="JSON").headers["X-ClickHouse-Format"] == "CSV"


@pytest.mark.parametrize(
    ("user", "sql", "status", "code"),
    [
        ("reader", "SELEKT 1", 400, 62),
        ("writer", "SELEKT 1", 400, 62),
        ("reader", "SELECT * FROM gatewatch.absent", 404, 60),
        ("writer", "SELECT * FROM gatewatch_store.absent", 404, 60),
        ("reader", "SELECT absent", 404, 47),
        ("writer", "SELECT 1; SELECT 2", 400, 62),
        ("reader", "SELECT throwIf(1)", 500, 395),
        ("reader", "SELECT * FROM gatewatch_store.x", 403, 497),
        ("writer", "", 400, 62),
        ("writer", "SELECT {x:UInt8}", 400, 456),
    ],
)
def test_errors_have_clickhouses_codes(
    engine: RunningEngine, user: str, sql: str, status: int, code: int
) -> None:
    answer = engine.ask(sql, user)
    assert (answer.status, answer.code) == (status, code), answer.text
    assert answer.text.startswith(f"Code: {code}. DB::Exception: ")


def test_a_failed_insert_says_so_stores_nothing_and_shows_no_row(engine: RunningEngine) -> None:
    engine.write("CREATE TABLE gatewatch_store.checked (a UInt64, s String, CONSTRAINT small CHECK a < 10) "
                 "ENGINE = MergeTree ORDER BY a")  # fmt: skip
    try:
        for rows, code in (
            (b'{"a":1,"s":"private"}\n{"a":50,"s":"private"}', 469),
            (b'{"a":1,"s":"private"}\n{"a":private}', 0),
        ):
            answer = engine.ask(b"INSERT INTO gatewatch_store.checked FORMAT JSONEachRow\n" + rows, "writer")
            assert answer.status == 400, answer.text
            assert code in (0, answer.code)
            assert "private" not in answer.text
        assert engine.write("SELECT count() FROM gatewatch_store.checked") == "0\n"
    finally:
        engine.write("DROP TABLE gatewatch_store.checked")


@pytest.mark.parametrize(
    "output",
    [
        "CSV",
        "CSVWithNames",
        "TabSeparated",
        "TabSeparatedWithNames",
        "JSONEachRow",
        "JSONCompactEachRowWithNames",
        "JSONCompactStringsEachRowWithNamesAndTypes",
        "Native",
        "RowBinary",
        "ArrowStream",
        "JSON",
        "Parquet",
    ],
)
def test_a_streamed_result_is_one_document(engine: RunningEngine, output: str) -> None:
    """Blocks come from the engine as documents of their own; the client sees one."""
    sql = "SELECT number AS a, toLowCardinality(toString(number % 7)) AS s FROM numbers(200000)"
    answer = engine.ask(f"{sql} FORMAT {output}", "reader")
    assert answer.status == 200, answer.text[:500]
    if output == "ArrowStream":
        rows = pa.ipc.open_stream(answer.body).read_all()
        assert rows.num_rows == 200_000
        assert rows.column("a").to_pylist() == list(range(200_000))
        assert [str(value) for value in rows.column("s").to_pylist()[:8]] == [*"0123456", "0"]
    elif output == "JSON":
        assert len(json.loads(answer.body)["data"]) == 200_000
    elif output in ("Native", "RowBinary", "Parquet"):
        assert len(answer.body) > 100_000
    else:
        headers = {"CSVWithNames": 1, "TabSeparatedWithNames": 1, "JSONCompactEachRowWithNames": 1}.get(
            output, 0
        )
        headers = 2 if output.endswith("AndTypes") else headers
        lines = answer.body.splitlines()
        assert len(lines) == 200_000 + headers
        assert lines.count(lines[0]) == 1
    empty = engine.ask(f"SELECT number AS a FROM numbers(0) FORMAT {output}", "reader")
    assert empty.status == 200


def test_an_error_among_the_rows_is_not_taken_for_their_end(engine: RunningEngine, reader: Client) -> None:
    sql = "SELECT throwIf(number = 3000000, 'too far') FROM numbers(5000000)"
    with pytest.raises(StreamFailureError, match="too far"):
        _ = reader.query(sql).result_rows  # a result is read when it is asked for
    with pytest.raises(DatabaseError, match="too far"):
        reader.query_arrow(sql)
    with pytest.raises(http.client.IncompleteRead):
        engine.ask(sql)


def test_a_connection_serves_many_requests(engine: RunningEngine) -> None:
    connection = http.client.HTTPConnection(engine.host, engine.port, timeout=30)
    connection.connect()
    own = connection.sock
    for sql, status in (
        ("SELECT 1", 200),
        ("SELEKT", 400),
        ("SELECT 2 FORMAT JSON", 200),
        ("SELECT absent", 404),
    ):
        connection.request("POST", "/", sql)
        response = connection.getresponse()
        response.read()
        assert response.status == status
        assert connection.sock is own, "the connection was closed"
    connection.close()


def test_ping(engine: RunningEngine) -> None:
    connection = http.client.HTTPConnection(engine.host, engine.port, timeout=30)
    for method, path in (("GET", "/ping"), ("GET", "/"), ("HEAD", "/")):
        connection.request(method, path)
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"" if method == "HEAD" else b"Ok.\n")
    connection.close()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + b"x" * (2 << 20), 413),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"h%d: x\r\n" % n for n in range(200)) + b"\r\n", 431),
        (b"DELETE / HTTP/1.1\r\n\r\n", 405),
        (b"GET /elsewhere HTTP/1.1\r\n\r\n", 404),
        (b"GET /?query=SELECT+1 HTTP/1.1\r\nAuthorization: Basic !!!\r\n\r\n", 400),
    ],
)
def test_what_is_not_http_is_answered_and_dropped(
    engine: RunningEngine, request_bytes: bytes, status: int
) -> None:
    with socket.create_connection((engine.host, engine.port), timeout=30) as connection:
        # A request can be refused before all of it was sent.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request_bytes)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(1 << 16):
                received += piece
    assert received.startswith(b"HTTP/1.1 %d " % status), received[:200]
    assert engine.read("SELECT 1") == "1\n"


# ---- users --------------------------------------------------------------------------------------------


def credentials(user: str, password: str) -> list[tuple[dict[str, str], dict[str, str]]]:
    basic = base64.b64encode(f"{user}:{password}".encode()).decode()
    return [
        ({"X-ClickHouse-User": user, "X-ClickHouse-Key": password}, {}),
        ({"Authorization": f"Basic {basic}"}, {}),
        ({}, {"user": user, "password": password}),
    ]


def ask_as(engine: RunningEngine, headers: dict[str, str], parameters: dict[str, str], sql: str) -> Answer:
    connection = http.client.HTTPConnection(engine.host, engine.port, timeout=30)
    connection.request("POST", "/?" + urllib.parse.urlencode(parameters), sql, headers)
    response = connection.getresponse()
    answer = Answer(response.status, dict(response.headers.items()), response.read())
    connection.close()
    return answer


@pytest.mark.parametrize("way", range(3))
def test_users_authenticate(engine: RunningEngine, way: int) -> None:
    write = "CREATE DATABASE IF NOT EXISTS gatewatch_store"
    assert ask_as(engine, *credentials("writer", engine.writer_password)[way], write).status == 200
    assert ask_as(engine, *credentials("reader", "")[way], "SELECT 1").text == "1\n"
    for user, password in (
        ("writer", "wrong"),
        ("writer", ""),
        ("writer", engine.writer_password[:-1]),
        ("default", ""),
        ("admin", engine.writer_password),
    ):
        answer = ask_as(engine, *credentials(user, password)[way], write)
        assert (answer.status, answer.code) == (403, 516)
        assert engine.writer_password not in answer.text
    assert ask_as(engine, *credentials("reader", "")[way], write).code == 497


def test_no_user_is_the_reader(engine: RunningEngine) -> None:
    assert ask_as(engine, {}, {}, "SELECT 1").text == "1\n"
    assert ask_as(engine, {}, {}, "CREATE DATABASE x").code == 497


def test_the_token_is_its_owners_alone(engine: RunningEngine) -> None:
    assert stat.S_IMODE((engine.data / "engine.token").stat().st_mode) == 0o600


def test_a_name_that_points_here_is_not_ours(engine: RunningEngine) -> None:
    """A web page can make a browser call 127.0.0.1 by a name of its own; it gets nothing."""
    answer = ask_as(engine, {"Host": f"evil.example:{engine.port}"}, {}, "SELECT 1")
    assert (answer.status, answer.code) == (403, 516)
    assert ask_as(engine, {"Host": f"localhost:{engine.port}"}, {}, "SELECT 1").status == 200


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("SELECT count() FROM TABLE", {"database": "gatewatch_store"}),
        ("INSERT INTO gatewatch_store.TABLE FORMAT JSONEachRow\n{\"a\":1}", {}),
        ("{\"a\":1}", {"query": "INSERT INTO gatewatch_store.TABLE FORMAT JSONEachRow"}),
        ("SELECT 1", {"readonly": "0"}),
        ("SELECT 1", {"max_threads": "8"}),
        ("SELECT 1", {"allow_ddl": "1"}),
        ("SELECT 1", {"output_format_schema": "/tmp/x"}),
        ("SELECT 1", {"default_format": "CSV INTO OUTFILE '/tmp/x'"}),
        ("SELECT 1", {"additional_table_filters": "{}"}),
        ("file('/etc/hostname')", {"query": "SELECT "}),
        ("; DROP VIEW gatewatch.TABLE", {"query": "SELECT 1"}),
        ("SELECT {x:Identifier} FROM {t:Identifier}", {"param_x": "s", "param_t": "gatewatch_store.TABLE"}),
        ("SELECT * FROM gatewatch_store.TABLE", {"user": "reader", "query_id": "x"}),
    ],
)  # fmt: skip
def test_the_url_opens_nothing_to_the_reader(
    engine: RunningEngine, table: str, sql: str, parameters: dict[str, str]
) -> None:
    engine.write(f"INSERT INTO gatewatch_store.{table} VALUES (1, 'secret')")
    parameters = {key: value.replace("TABLE", table) for key, value in parameters.items()}
    headers = {} if "user" in parameters else {"X-ClickHouse-User": "reader"}
    answer = ask_as(engine, headers, parameters, sql.replace("TABLE", table))
    assert answer.code in (62, 73, 164, 497), answer.text
    assert "secret" not in answer.text
    assert engine.read(f"SELECT count() FROM {table}") == "1\n"


def test_what_a_request_sets_ends_with_it(engine: RunningEngine) -> None:
    connection = http.client.HTTPConnection(engine.host, engine.port, timeout=30)

    def ask(sql: str, parameters: str = "") -> str:
        connection.request("POST", f"/?{parameters}", sql, engine.credentials("writer"))
        return connection.getresponse().read().decode()

    before = ask("SELECT currentDatabase(), getSetting('max_threads')")
    ask("USE gatewatch_store")
    ask("SET max_threads = 7")
    assert ask("SELECT getSetting('max_threads')", "max_threads=3") == "3\n"
    assert ask("SELECT currentDatabase()", "database=gatewatch_store") == "gatewatch_store\n"
    assert ask("SELECT currentDatabase(), getSetting('max_threads')") == before
    connection.close()


# ---- limits and cancelling ------------------------------------------------------------------------------

HEAVY = "SELECT sum(sipHash64(number)) FROM numbers(100000000000)"


def running(engine: RunningEngine, text: str) -> int:
    sql = "SELECT count() FROM system.processes WHERE query LIKE {p:String} AND query NOT LIKE '%processes%'"
    return int(engine.write(sql, param_p=f"%{text}%"))


def test_a_long_query_is_limited(engine: RunningEngine) -> None:
    answer = engine.ask(HEAVY, max_execution_time="1")
    assert (answer.status, answer.code) == (408, 159)


def test_a_huge_result_is_limited(engine: RunningEngine) -> None:
    with pytest.raises(http.client.IncompleteRead):
        engine.ask("SELECT number FROM numbers(20000000) FORMAT Native")
    answer = engine.ask("SELECT number FROM numbers(20000000) FORMAT JSON")
    assert answer.code in (396, 241), answer.text


def test_memory_is_limited(engine: RunningEngine) -> None:
    answer = engine.ask("SELECT length(groupArray(repeat('x', 1000))) FROM numbers(10000000)")
    assert answer.code == 241, answer.text


def test_a_reader_cancels_its_query_by_its_identifier(engine: RunningEngine) -> None:
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(engine.ask, f"{HEAVY} -- by id", "reader", None, query_id="to-cancel")
        wait_for("the query runs", 10, lambda: running(engine, "100000000000"))
        assert engine.read("KILL QUERY WHERE query_id = 'another'") == ""
        killed = engine.read("KILL QUERY WHERE query_id = 'to-cancel'")
        assert killed == "finished\tto-cancel\treader\n"
        assert asked.result(10).code == 394
    assert engine.read("KILL QUERY WHERE query_id = 'to-cancel'") == ""


def test_a_reader_cannot_cancel_the_writers_query_and_the_writer_can_cancel_any(
    engine: RunningEngine,
) -> None:
    with ThreadPoolExecutor(2) as pool:
        written = pool.submit(engine.ask, HEAVY, "writer", None, query_id="the-writers")
        asked = pool.submit(engine.ask, HEAVY, "reader", None, query_id="the-readers")
        wait_for("the queries run", 10, lambda: running(engine, "100000000000") == 2)
        assert engine.ask(HEAVY, "reader", None, query_id="the-readers").code == 216
        assert engine.read("KILL QUERY WHERE query_id = 'the-writers'") == ""
        assert running(engine, "100000000000") == 2
        assert engine.write("KILL QUERY WHERE query_id = 'the-readers' SYNC").startswith("finished")
        assert asked.result(10).code == 394
        assert engine.write("KILL QUERY WHERE query_id = 'the-writers' SYNC").startswith("finished")
        assert written.result(10).code == 394


@pytest.mark.parametrize("sql", [HEAVY, "SELECT number, repeat('x', 100) FROM numbers(9000000)"])
def test_a_client_that_leaves_cancels_its_query(engine: RunningEngine, sql: str) -> None:
    connection = http.client.HTTPConnection(engine.host, engine.port, timeout=30)
    connection.request("POST", "/", sql)
    wait_for("the query runs", 10, lambda: running(engine, sql[7:40]))
    connection.close()
    wait_for("the query is cancelled", 10, lambda: not running(engine, sql[7:40]))


def test_a_large_result_streams_in_bounded_memory(engine: RunningEngine) -> None:
    """700 MB go through while the client reads slower than the engine could."""
    process = psutil.Process(engine.process.pid)
    before = process.memory_info().rss
    connection = http.client.HTTPConnection(engine.host, engine.port, timeout=60)
    connection.request("POST", "/", "SELECT number, repeat('x', 62) FROM numbers(9900000) FORMAT RowBinary")
    response = connection.getresponse()
    received = highest = 0
    while piece := response.read(4 << 20):
        received += len(piece)
        highest = max(highest, process.memory_info().rss)
    connection.close()
    assert received == 9_900_000 * (8 + 63)
    assert highest - before < 256 << 20, f"{(highest - before) >> 20} MiB more"


def test_inserts_go_on_under_heavy_reading(engine: RunningEngine, table: str) -> None:
    """Readers at work cost the writer CPU, never its turn: no insert waits for a query's end."""
    rows = "".join(f'{{"a":{n},"s":"x"}}\n' for n in range(1000)).encode()
    statement = f"INSERT INTO gatewatch_store.{table} FORMAT JSONEachRow\n".encode()
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(engine.ask, HEAVY, "reader", None, query_id=f"heavy-{n}", max_execution_time="20")
            for n in range(3)
        ]
        try:
            wait_for("the queries run", 10, lambda: running(engine, "100000000000") == 3)
            took = []
            for _ in range(10):
                started = time.monotonic()
                engine.write(statement + rows)
                took.append(time.monotonic() - started)
            assert running(engine, "100000000000") == 3, "the readers ended before the inserts did"
        finally:
            for n in range(3):
                engine.write(f"KILL QUERY WHERE query_id = 'heavy-{n}' SYNC")
        assert all(future.result(10).code == 394 for future in asked)
    assert max(took) < 2, took


@pytest.mark.own_engine
def test_readers_beyond_the_limit_wait_and_are_refused(tmp_path: Path) -> None:
    from sinks.engine import Engine, Options

    server = Engine(tmp_path / "data", Options(port=0, readers_max=1, reader_wait_s=0.1))
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        small = RunningEngine(None, tmp_path, server.port, server.token)  # type: ignore[arg-type]
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(small.ask, HEAVY, "reader", None, query_id="first")
            wait_for("the query runs", 10, lambda: running(small, "100000000000"))
            refused = small.ask("SELECT 1")
            assert (refused.status, refused.code) == (503, 202)
            assert small.write("SELECT 1") == "1\n"
            small.read("KILL QUERY WHERE query_id = 'first'")
            assert asked.result(10).code == 394
        assert small.read("SELECT 1") == "1\n"
    finally:
        server.stop()
        thread.join(10)
    assert not thread.is_alive()


# ---- the process ------------------------------------------------------------------------------------------


def test_a_directory_in_use_is_a_clear_error(engine: RunningEngine) -> None:
    command = [sys.executable, "-m", "sinks.engine", "--data", str(engine.data), "--port", "0"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert second.stdout == ""
    assert f"process {engine.process.pid} owns {engine.data / 'engine'}" in second.stderr
    assert engine.url in second.stderr


def test_a_port_in_use_is_a_clear_error(engine: RunningEngine, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sinks.engine", "--data", str(tmp_path), "--port", str(engine.port)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert f"cannot listen on 127.0.0.1:{engine.port}" in second.stderr


def test_other_machines_need_a_password(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sinks.engine",
        "--data",
        str(tmp_path),
        "--port",
        "0",
        "--host",
        "0.0.0.0",
    ]
    environment = {key: value for key, value in os.environ.items() if key != "GATEWATCH_READER_PASSWORD"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 2
    assert "GATEWATCH_READER_PASSWORD" in done.stderr


def test_sigterm_finishes_an_insert_and_what_was_acknowledged_outlives_a_kill(tmp_path: Path) -> None:
    first = start_engine(tmp_path)
    try:
        first.write("CREATE DATABASE gatewatch_store")
        first.write("CREATE TABLE gatewatch_store.t (a UInt64) ENGINE = MergeTree ORDER BY a")
        settings = (
            "SELECT name, value FROM system.merge_tree_settings WHERE name LIKE 'fsync_%' ORDER BY name"
        )
        assert first.write(settings) == "fsync_after_insert\t1\nfsync_part_directory\t1\n"
        statement = b"INSERT INTO gatewatch_store.t FORMAT TabSeparated\n"
        with ThreadPoolExecutor(2) as pool:
            rows = "SELECT number + sleepEachRow(0.2) FROM numbers(10) SETTINGS max_block_size = 1"
            slow = f"INSERT INTO gatewatch_store.t {rows}"
            inserted = pool.submit(first.ask, slow, "writer")
            asked = pool.submit(first.ask, HEAVY, "reader")
            wait_for(
                "both run", 10, lambda: running(first, "sleepEachRow") and running(first, "100000000000")
            )
            first.process.send_signal(signal.SIGTERM)
            assert inserted.result(20).status == 200
            assert asked.result(20).code == 394
        assert first.process.wait(20) == 0
    finally:
        end(first.process, 5)
    assert (tmp_path / "engine.log").read_text() == ""
    second = start_engine(tmp_path)
    try:
        assert second.writer_password == first.writer_password
        assert second.write("SELECT count() FROM gatewatch_store.t") == "10\n"
        second.write(statement + b"100\n")
        second.process.kill()
        second.process.wait(10)
    finally:
        end(second.process, 5)
    third = start_engine(tmp_path)
    try:
        assert third.write("SELECT count(), max(a) FROM gatewatch_store.t") == "11\t100\n"
    finally:
        assert end(third.process, 20)


def test_an_unacknowledged_error_is_never_a_success(writer: Client, table: str) -> None:
    with pytest.raises(DatabaseError):
        writer.raw_insert(f"gatewatch_store.{table}", ["a", "s"], b"not arrow at all", fmt="ArrowStream")
    assert writer.command(f"SELECT count() FROM gatewatch_store.{table}") == 0
