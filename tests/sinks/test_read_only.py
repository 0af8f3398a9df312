"""The user `reader` reads views and reaches nothing else, whatever it sends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sinks.embedded import Embedded, EngineError
from sinks.read_only import Guard, limits, parse_tree, reader_settings

pytestmark = pytest.mark.own_engine

SECRET = "the secret of another table"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("read_only"), durable=False) as embedded:
        for statement in (
            "CREATE DATABASE gatewatch",
            "CREATE DATABASE gatewatch_store",
            "CREATE TABLE gatewatch_store.calls (id UInt64, name String) ENGINE = MergeTree ORDER BY id",
            f"INSERT INTO gatewatch_store.calls VALUES (1, '{SECRET}'), (2, 'b')",
            "CREATE TABLE gatewatch.stray (id UInt64) ENGINE = MergeTree ORDER BY id",
            "CREATE VIEW gatewatch.calls AS SELECT id FROM gatewatch_store.calls",
            "CREATE VIEW gatewatch.above AS SELECT id FROM gatewatch_store.calls WHERE id > {least:UInt64}",
            "CREATE FUNCTION sneaky AS (x) -> file(x)",
        ):
            embedded.administer(statement)
        yield embedded


@pytest.fixture(scope="module")
def guard(embedded: Embedded) -> Guard:
    return Guard(embedded)


def run(embedded: Embedded, guard: Guard, sql: str, **bindings: str) -> str:
    """Check and run a query as the engine does for `reader`."""
    permitted = guard.check(sql, bindings)
    session = embedded.session(reader_settings({}, streams=permitted.streams), database="gatewatch")
    try:
        return session.text(permitted.sql, bindings)
    finally:
        session.close()


ALLOWED = {
    "a view": ("SELECT id FROM gatewatch.calls ORDER BY id", "1\n2\n"),
    "a view of the current database": ("SELECT count() FROM calls", "2\n"),
    "quoted names": ("SELECT `id` FROM `gatewatch`.`calls` ORDER BY 1 LIMIT 1", "1\n"),
    "a parameterised view": ("SELECT * FROM gatewatch.above(least = 1)", "2\n"),
    "a parameterised view of the current database": ("SELECT * FROM above(least = 1)", "2\n"),
    "a common table expression": ("WITH c AS (SELECT id FROM calls) SELECT max(id) FROM c", "2\n"),
    "a recursive one": (
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 4) SELECT sum(n) FROM r",
        "10\n",
    ),
    "IN a view": ("SELECT 2 IN gatewatch.calls, 7 IN calls", "1\t0\n"),
    "IN a subquery": ("SELECT 1 IN (SELECT id FROM calls)", "1\n"),
    "a union": ("SELECT 1 UNION ALL SELECT 1", "1\n1\n"),
    "intersection": ("(SELECT 1) INTERSECT (SELECT 1)", "1\n"),
    "a join": ("SELECT count() FROM calls AS a INNER JOIN gatewatch.calls AS b ON a.id = b.id", "2\n"),
    "windows": ("SELECT sum(id) OVER (ORDER BY id) FROM calls", "1\n3\n"),
    "combinators": ("SELECT countIf(id > 1), uniqExactIf(id, 1), sumOrNull(id) FROM calls", "1\t2\t3\n"),
    "parametric aggregates": (
        "SELECT quantileExact(0.5)(id), quantilesExact(0.1, 0.9)(id) FROM calls",
        "2\t[1,2]\n",
    ),
    "higher-order functions": ("SELECT arrayMap(x -> x + 1, [1, 2])", "[2,3]\n"),
    "functions whatever their case": ("SELECT SUM(id), Max(id), COALESCE(NULL, 3) FROM calls", "3\t2\t3\n"),
    "casts and dates": ("SELECT '3'::UInt8, toDate('2026-01-02') + INTERVAL 1 DAY", "3\t2026-01-03\n"),
    "CASE": ("SELECT CASE WHEN 1 THEN 'a' ELSE 'b' END, CASE 2 WHEN 2 THEN 'x' END", "a\tx\n"),
    "EXISTS": ("SELECT EXISTS(SELECT 1 FROM calls)", "1\n"),
    "columns with exceptions": ("SELECT * EXCEPT (id), id FROM calls WHERE id = 1", "1\n"),
    "filling gaps": ("SELECT number FROM numbers(2) ORDER BY number WITH FILL TO 3", "0\n1\n2\n"),
    "generated rows": ("SELECT count() FROM numbers(10) AS a, generateSeries(1, 3) AS b", "30\n"),
    "values": ("SELECT * FROM values('a UInt8, b String', (1, 'x'))", "1\tx\n"),
    "a subquery as a view": ("SELECT * FROM view(SELECT max(id) FROM calls)", "2\n"),
    "comments": ("SELECT /* INTO OUTFILE */ 1 -- file('x')\n", "1\n"),
    "harmless strings": ("SELECT 'INTO OUTFILE ''x'' APPLY; SETTINGS a = 1'", None),
    "a string of several lines": ("SELECT 'Function file\n (children 1)'", None),
    "a semicolon at the end": ("SELECT 1;", "1\n"),
    "a format": ("SELECT 1 AS a FORMAT JSONEachRow", '{"a":1}\n'),
    "FROM first": ("FROM calls SELECT max(id)", "2\n"),
    "SHOW TABLES": ("SHOW TABLES FROM gatewatch LIKE 'ca%'", "calls\n"),
    "SHOW CREATE": ("SHOW CREATE VIEW gatewatch.calls", None),
    "SHOW DATABASES": ("SHOW DATABASES LIKE 'gatewatch'", "gatewatch\n"),
    "SHOW COLUMNS": ("SHOW COLUMNS FROM calls FROM gatewatch", None),
    "DESCRIBE": ("DESCRIBE gatewatch.calls", "id\tUInt64\t\t\t\t\t\n"),
    "EXISTS TABLE": ("EXISTS gatewatch.calls", "1\n"),
    "EXPLAIN": ("EXPLAIN indexes = 1 SELECT * FROM calls", None),
    "EXPLAIN SYNTAX": ("EXPLAIN SYNTAX SELECT 1", None),
    "system tables that describe": ("SELECT count() > 10 FROM system.settings", "1\n"),
    "the information schema": ("SELECT count() > 0 FROM information_schema.tables", "1\n"),
    "what clients ask first": ("SELECT version(), timezone(), currentUser() != ''", None),
}


@pytest.mark.engine
@pytest.mark.parametrize("name", ALLOWED)
def test_reader_may_ask(embedded: Embedded, guard: Guard, name: str) -> None:
    sql, expected = ALLOWED[name]
    answer = run(embedded, guard, sql)
    assert expected is None or answer == expected


FILE = "file('/etc/hostname')"
REFUSED = {
    # writing, defining, controlling
    "INSERT": "INSERT INTO gatewatch_store.calls VALUES (9, 'x')",
    "INSERT SELECT": "INSERT INTO gatewatch_store.calls SELECT 9, 'x'",
    "INSERT into a function": "INSERT INTO FUNCTION file('/tmp/x', 'CSV', 'a Int8') VALUES (1)",
    "CREATE": "CREATE TABLE gatewatch.x (a Int8) ENGINE = Memory",
    "CREATE TEMPORARY": "CREATE TEMPORARY TABLE x (a Int8)",
    "DROP": "DROP VIEW gatewatch.calls",
    "ALTER": "ALTER TABLE gatewatch_store.calls DELETE WHERE 1",
    "DELETE": "DELETE FROM gatewatch_store.calls WHERE 1",
    "TRUNCATE": "TRUNCATE TABLE gatewatch_store.calls",
    "RENAME": "RENAME TABLE gatewatch.calls TO gatewatch.d",
    "OPTIMIZE": "OPTIMIZE TABLE gatewatch_store.calls",
    "SYSTEM": "SYSTEM FLUSH LOGS",
    "SET": "SET readonly = 0",
    "USE": "USE gatewatch_store",
    "KILL of others": "KILL QUERY WHERE 1",
    "KILL by a subquery": "KILL QUERY WHERE query_id IN (SELECT query_id FROM system.processes)",
    "GRANT": "GRANT ALL ON *.* TO reader",
    "BACKUP": "BACKUP DATABASE gatewatch_store TO File('/tmp/b')",
    "ATTACH": "ATTACH TABLE gatewatch.x FROM '/tmp' (a Int8) ENGINE = MergeTree ORDER BY a",
    "CHECK": "CHECK TABLE gatewatch_store.calls",
    "EXECUTE AS": "EXECUTE AS default SELECT 1",
    "a transaction": "BEGIN TRANSACTION",
    "PARALLEL WITH": "SELECT 1 PARALLEL WITH SELECT 2",
    "COPY": "COPY (SELECT 1) TO '/tmp/x'",
    # several statements
    "two statements": "SELECT 1; DROP VIEW gatewatch.calls",
    "two behind a comment": "SELECT 1 /* */; -- \nINSERT INTO gatewatch_store.calls VALUES (9, 'x')",
    # files
    "the function file": f"SELECT {FILE}",
    "file in a filter": f"SELECT 1 WHERE {FILE} != ''",
    "file in a common table expression": f"WITH {FILE} AS x SELECT x",
    "file in a lambda": f"SELECT arrayMap(x -> {FILE}, [1])",
    "file as an argument": "SELECT arrayMap(file, ['/etc/hostname'])",
    "file as an argument by another name": "WITH file AS f SELECT arrayMap(f, ['/etc/hostname'])",
    "file in an alias": f"SELECT 1 AS x, {FILE} AS y",
    "file by APPLY": "SELECT * APPLY file FROM (SELECT '/etc/hostname')",
    "file by APPLY of a lambda": "SELECT * APPLY (x -> file(x)) FROM (SELECT '/etc/hostname')",
    "file by COLUMNS and APPLY": "SELECT COLUMNS('.*') APPLY(file) FROM (SELECT '/etc/hostname')",
    "file by REPLACE": f"SELECT * REPLACE ({FILE} AS id) FROM calls",
    "file in INTERPOLATE": f"SELECT id, 'x' AS s FROM calls ORDER BY id WITH FILL INTERPOLATE (s AS {FILE})",
    "file in LIMIT": f"SELECT 1 LIMIT length({FILE})",
    "file in OFFSET": f"SELECT 1 LIMIT 1 OFFSET length({FILE})",
    "file in LIMIT BY": f"SELECT 1 LIMIT 1 BY {FILE}",
    "file in a window": f"SELECT sum(1) OVER (PARTITION BY {FILE}) FROM calls",
    "file in a named window": f"SELECT 1 FROM calls WINDOW w AS (ORDER BY {FILE})",
    "file in a window's frame": (
        f"SELECT sum(1) OVER (ROWS BETWEEN length({FILE}) PRECEDING AND CURRENT ROW) FROM calls"
    ),
    "file in GROUPING SETS": f"SELECT 1 FROM calls GROUP BY GROUPING SETS (({FILE}), (id))",
    "file in ON": f"SELECT 1 FROM calls AS a INNER JOIN calls AS b ON a.id = b.id AND {FILE} != ''",
    "file in ARRAY JOIN": f"SELECT 1 FROM calls ARRAY JOIN [{FILE}] AS x",
    "file in QUALIFY": f"SELECT id FROM calls QUALIFY {FILE} != ''",
    "file in PREWHERE": f"SELECT id FROM calls PREWHERE {FILE} != ''",
    "file in a parameter of a function": f"SELECT quantile({FILE})(id) FROM calls",
    "file in an argument of a table function": f"SELECT * FROM numbers(length({FILE}))",
    "file in an argument of a view": f"SELECT * FROM above(least = length({FILE}))",
    "file in DESCRIBE": f"DESCRIBE (SELECT {FILE})",
    "file in EXPLAIN": f"EXPLAIN SELECT {FILE}",
    "file in EXPLAIN of a tree": f"EXPLAIN QUERY TREE SELECT {FILE}",
    "file in SHOW": f"SHOW TABLES WHERE {FILE} != ''",
    "file in SHOW LIMIT": f"SHOW TABLES LIMIT length({FILE})",
    "file in capitals": "SELECT FILE('/etc/hostname')",
    "file in quotes": "SELECT `file`('/etc/hostname')",
    "file in double quotes": "SELECT \"file\"('/etc/hostname')",
    "file behind comments": "SELECT file/**/('/etc/hostname')",
    "file in a union": f"SELECT 1 UNION ALL SELECT {FILE}",
    "file in EXCEPT": f"SELECT '1' EXCEPT SELECT {FILE}",
    "a function of SQL": "SELECT sneaky('/etc/hostname')",
    "the table function file": "SELECT * FROM file('/etc/hostname', 'LineAsString')",
    "its DESCRIBE": "DESCRIBE file('/etc/hostname')",
    "a file as a table name": "SELECT * FROM '/etc/hostname'",
    "a file as a quoted table name": "SELECT * FROM `/etc/hostname`",
    "a directory": "SELECT * FROM filesystem('/etc')",
    "INTO OUTFILE": "SELECT 1 INTO OUTFILE '{tmp}'",
    "INTO OUTFILE with a format": "SELECT 1 INTO OUTFILE '{tmp}' TRUNCATE FORMAT CSV",
    "EXPLAIN INTO OUTFILE": "EXPLAIN SELECT 1 INTO OUTFILE '{tmp}'",
    "SHOW INTO OUTFILE": "SHOW TABLES INTO OUTFILE '{tmp}'",
    "DESCRIBE INTO OUTFILE": "DESCRIBE calls INTO OUTFILE '{tmp}'",
    "a structure with a default": "SELECT * FROM values('a String DEFAULT file(''/etc/hostname'')', ('x'))",
    "SQLite": "SELECT * FROM sqlite('/tmp/x.db', 't')",
    # the network and other processes
    "url": "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')",
    "s3": "SELECT * FROM s3('http://127.0.0.1:1/b/k', 'CSV', 'a String')",
    "remote": "SELECT * FROM remote('127.0.0.1', gatewatch_store.calls)",
    "mysql": "SELECT * FROM mysql('127.0.0.1:1', 'd', 't', 'u', 'p')",
    "executable": "SELECT * FROM executable('id', 'CSV', 'a String')",
    "python": "SELECT * FROM python('x')",
    "hasColumnInTable": "SELECT hasColumnInTable('127.0.0.1', 'u', 'p', 'd', 't', 'c')",
    "an AI": "SELECT aiGenerate('x')",
    # other tables
    "a table": "SELECT * FROM gatewatch_store.calls",
    "a table in quotes": "SELECT * FROM `gatewatch_store`.`calls`",
    "a table under an alias": "SELECT * FROM gatewatch_store.calls AS calls",
    "a table in a join": "SELECT 1 FROM calls INNER JOIN gatewatch_store.calls AS t USING (id)",
    "a table in a subquery": "SELECT (SELECT any(name) FROM gatewatch_store.calls)",
    "a table in EXISTS": "SELECT EXISTS(SELECT 1 FROM gatewatch_store.calls)",
    "a table in a union": "SELECT id FROM calls UNION ALL SELECT id FROM gatewatch_store.calls",
    "IN a table": "SELECT (1, 'b') IN gatewatch_store.calls",
    "IN a table, as a function": "SELECT in((1, 'b'), gatewatch_store.calls)",
    "GLOBAL NOT IN a table": "SELECT (1, 'b') GLOBAL NOT IN gatewatch_store.calls",
    "a table that is no view": "SELECT * FROM gatewatch.stray",
    "the same without its database": "SELECT * FROM stray",
    "a common table expression with the name of a table": "WITH stray AS (SELECT 1) SELECT * FROM stray",
    "a table through merge": "SELECT * FROM merge('gatewatch_store', '.*')",
    "a table through nested merge": "SELECT * FROM view(SELECT * FROM merge('gatewatch_store', 'calls'))",
    "a table through cluster": "SELECT * FROM cluster('default', gatewatch_store.calls)",
    "a table through loop": "SELECT * FROM loop('gatewatch_store', 'calls') LIMIT 1",
    "a table's index": "SELECT * FROM mergeTreeIndex('gatewatch_store', 'calls')",
    "a table through viewIfPermitted": "SELECT * FROM viewIfPermitted(SELECT 1 ELSE null('a Int8'))",
    "a table in view()": "SELECT * FROM view(SELECT * FROM gatewatch_store.calls)",
    "a dictionary": "SELECT dictGet('gatewatch_store.d', 'name', 1)",
    "a dictionary as a table": "SELECT * FROM dictionary('gatewatch_store.d')",
    "joinGet": "SELECT joinGet('gatewatch_store.j', 'name', 1)",
    "eval": "SELECT * FROM eval('SELECT * FROM gatewatch_store.calls')",
    "DESCRIBE of a table": "DESCRIBE gatewatch_store.calls",
    "SHOW CREATE of a table": "SHOW CREATE TABLE gatewatch_store.calls",
    "SHOW TABLES of the store": "SHOW TABLES FROM gatewatch_store",
    "SHOW COLUMNS of a table": "SHOW COLUMNS FROM calls FROM gatewatch_store",
    "EXPLAIN of a table": "EXPLAIN SELECT * FROM gatewatch_store.calls",
    "EXPLAIN of an INSERT": "EXPLAIN PIPELINE INSERT INTO gatewatch_store.calls SELECT 1, 'x'",
    "EXPLAIN as a subquery": "SELECT * FROM (EXPLAIN SELECT * FROM gatewatch_store.calls)",
    "EXPLAIN of an override": "EXPLAIN TABLE OVERRIDE mysql('127.0.0.1', 'd', 't', 'u', 'p') PARTITION BY 1",
    "what others ask": "SELECT query FROM system.processes",
    "what others asked": "SELECT query FROM system.query_log",
    "stacks": "SELECT * FROM system.stack_trace",
    "certificates": "SELECT * FROM system.certificates",
    "SHOW PROCESSLIST": "SHOW PROCESSLIST",
    "SHOW CREATE USER": "SHOW CREATE USER default",
    # settings
    "SETTINGS": "SELECT 1 SETTINGS readonly = 0",
    "SETTINGS in a subquery": "SELECT * FROM (SELECT 1 SETTINGS max_execution_time = 0)",
    "SETTINGS in a union": "SELECT 1 UNION ALL (SELECT 2 SETTINGS max_threads = 8)",
    "SETTINGS after the format": "SELECT 1 FORMAT CSV SETTINGS max_threads = 8",
    "filters by setting": "SELECT * FROM calls SETTINGS additional_table_filters = {'a': 'b'}",
    # hiding
    "a name of two lines": "SELECT 1 AS `a\n  Literal UInt64_1`, file('/etc/hostname')",
    "a name with a line break": "SELECT 1 AS `a\\nb`",
    "a name that looks like the tree": "SELECT 1 AS `x (children 4)`",
    "a table in a name of two lines to Python": "SELECT 1 FROM `gatewatch_store\u2028`.`calls`",
    "a name with an alias inside": "SELECT * FROM `gatewatch`.`calls (alias x)`",
    "a heredoc around a quote": "SELECT $x$'$x$, file('/etc/hostname') -- '",
    "sleeping": "SELECT sleep(3)",
    "sleeping for each row": "SELECT sleepEachRow(1) FROM numbers(3)",
    "random tables": "SELECT * FROM generateRandom('a String')",
    "a column of another database": "SELECT gatewatch_store.calls.name FROM calls",
    "what does not parse": "SELEKT 1",
    "nothing but a comment": "-- SELECT 1",
}


@pytest.mark.engine
@pytest.mark.parametrize("name", REFUSED)
def test_reader_may_not_ask(embedded: Embedded, guard: Guard, tmp_path: Path, name: str) -> None:
    target = tmp_path / "written"
    with pytest.raises(EngineError) as refusal:
        guard.check(REFUSED[name].replace("{tmp}", str(target)))
    assert refusal.value.code in (62, 164, 497), refusal.value
    assert not target.exists()
    assert embedded.administer("SELECT count() FROM gatewatch_store.calls") == "2\n"


# Every clause that can hold an expression: a kind of node that hid its children would show here.
CLAUSES = [
    "SELECT id FROM calls ORDER BY id WITH FILL FROM length({X})",
    "SELECT id FROM calls ORDER BY id WITH FILL TO length({X})",
    "SELECT id FROM calls ORDER BY id WITH FILL STEP length({X})",
    "SELECT id FROM calls ORDER BY id WITH FILL STALENESS length({X})",
    "SELECT DISTINCT ON ({X}) id FROM calls",
    "SELECT id FROM calls ORDER BY id COLLATE 'en', {X}",
    "SELECT count() FILTER (WHERE {X} != '') FROM calls",
    "SELECT TRIM(BOTH {X} FROM 'a')",
    "SELECT EXTRACT(YEAR FROM toDate({X}))",
    "SELECT SUBSTRING({X} FROM 1 FOR 2)",
    "SELECT POSITION({X} IN 'a')",
    "SELECT DATE_ADD(DAY, length({X}), now())",
    "SELECT INTERVAL length({X}) DAY",
    "SELECT 1 ? {X} : 'b'",
    "SELECT [{X}], ({X}, 1), map('a', {X})",
    "SELECT ({X})[1]",
    "SELECT {X}.1",
    "SELECT CAST({X} AS String)",
    "SELECT {X}::String",
    "SELECT 1 BETWEEN 1 AND length({X})",
    "SELECT 'a' LIKE {X}",
    "SELECT 'a' IN ({X})",
    "SELECT NOT ({X} = '')",
    "SELECT sum(1) OVER w FROM calls WINDOW w AS (PARTITION BY id ORDER BY {X})",
    "SELECT sum(1) OVER (ORDER BY id RANGE BETWEEN UNBOUNDED PRECEDING AND length({X}) FOLLOWING) FROM calls",
    "SELECT 1 FROM calls GROUP BY ROLLUP({X})",
    "SELECT 1 FROM calls GROUP BY CUBE({X})",
    "SELECT 1 FROM calls GROUP BY id WITH TOTALS HAVING {X} != ''",
    "SELECT 1 FROM calls AS a ASOF JOIN calls AS b ON a.id=b.id AND a.id >= b.id + length({X})",
    "SELECT 1 FROM (SELECT 1 WHERE {X} != '')",
    "SELECT 1 FROM calls PASTE JOIN (SELECT {X})",
    "SELECT COLUMNS(id) REPLACE ({X} AS id) FROM calls",
    "SELECT calls.* REPLACE ({X} AS id) FROM calls",
    "SELECT calls.COLUMNS('i') REPLACE ({X} AS id) FROM calls",
    "SELECT * EXCEPT STRICT id, {X} FROM calls",
    "SELECT arrayMap((x, y) -> {X}, [1], [2])",
    "SELECT arrayFold((a, x) -> a + length({X}), [1], toInt64(0))",
    "SELECT quantiles(0.5, length({X}))(id) FROM calls",
    "WITH (SELECT {X}) AS q SELECT q",
    "WITH q AS MATERIALIZED (SELECT {X}) SELECT * FROM q",
    "WITH RECURSIVE q AS (SELECT {X} AS a UNION ALL SELECT a FROM q) SELECT * FROM q",
    "SELECT 1 UNION DISTINCT SELECT {X}",
    "SELECT 1 INTERSECT DISTINCT SELECT {X}",
    "EXPLAIN ESTIMATE SELECT {X}",
    "EXPLAIN AST SELECT {X}",
    "EXPLAIN SYNTAX SELECT {X}",
    "EXPLAIN PIPELINE graph = 1 SELECT {X}",
    "DESCRIBE TABLE (SELECT {X})",
    "DESCRIBE SELECT {X}",
    "SELECT * FROM numbers(1, length({X}))",
    "SELECT * FROM generateSeries(1, length({X}))",
    "SELECT * FROM values('a String', ({X}))",
    "SELECT 1 QUALIFY {X} != ''",
    "SELECT 1 FROM calls LIMIT 1 OFFSET length({X}) BY id",
    "SELECT CASE {X} WHEN 'a' THEN 1 END",
    "SELECT EXISTS(SELECT {X})",
    "SELECT 1 = ANY (SELECT {X})",
    "SELECT {X} IS DISTINCT FROM 'a'",
    "SELECT 1 FROM calls ARRAY JOIN arrayMap(z -> {X}, [1]) AS q",
    "FROM calls |> WHERE {X} != ''",
]


@pytest.mark.engine
@pytest.mark.parametrize("clause", CLAUSES)
def test_no_clause_hides_what_it_holds(guard: Guard, clause: str) -> None:
    guard.check(clause.replace("{X}", "toString(1)"))  # the clause itself is fine
    for hidden in (
        "file('/etc/hostname')",
        "toString((SELECT count() FROM gatewatch_store.calls))",
        "toString(1 IN (SELECT id FROM gatewatch_store.calls))",
    ):
        with pytest.raises(EngineError) as refusal:
            guard.check(clause.replace("{X}", hidden))
        assert refusal.value.code == 497, refusal.value


@pytest.mark.engine
@pytest.mark.parametrize(
    ("sql", "bindings", "expected"),
    [
        ("SELECT {n:UInt8} + 1", {"n": "4"}, "5\n"),
        ("SELECT {s:String}", {"s": "a' OR 1=1 --"}, "a' OR 1=1 --\n"),
        ("SELECT max(id) FROM {t:Identifier}", {"t": "calls"}, "2\n"),
    ],
)
def test_parameters_are_bound_as_values(
    embedded: Embedded, guard: Guard, sql: str, bindings: dict[str, str], expected: str
) -> None:
    assert run(embedded, guard, sql, **bindings) == expected


@pytest.mark.engine
@pytest.mark.parametrize(
    "bindings",
    [
        {"d": "gatewatch_store", "t": "calls"},
        {"d": "gatewatch", "t": "stray"},
        {"d": "gatewatch", "t": "calls\n TableIdentifier x"},
        {"d": "gatewatch"},
    ],
)
def test_an_identifier_parameter_reaches_no_table(guard: Guard, bindings: dict[str, str]) -> None:
    with pytest.raises(EngineError) as refusal:
        guard.check("SELECT * FROM {d:Identifier}.{t:Identifier}", bindings)
    assert refusal.value.code in (456, 497)


@pytest.mark.engine
def test_only_the_views_database_is_current(guard: Guard) -> None:
    assert guard.check("SELECT 1", {}, "gatewatch").sql == "SELECT 1"
    for database in ("gatewatch_store", "system", "x`; DROP"):
        with pytest.raises(EngineError, match="Not available to reader: database"):
            guard.check("SELECT 1", {}, database)


@pytest.mark.engine
def test_what_was_permitted_is_forgotten_when_the_schema_changes(embedded: Embedded, guard: Guard) -> None:
    sql = "SELECT * FROM gatewatch.changing"
    embedded.administer("CREATE VIEW gatewatch.changing AS SELECT 1")
    guard.forget()
    assert guard.check(sql).streams
    embedded.administer("DROP VIEW gatewatch.changing")
    embedded.administer("CREATE TABLE gatewatch.changing (a Int8) ENGINE = Memory")
    guard.forget()
    try:
        with pytest.raises(EngineError, match="Not available to reader"):
            guard.check(sql)
    finally:
        embedded.administer("DROP TABLE gatewatch.changing")
        guard.forget()


@pytest.mark.engine
def test_the_engine_itself_keeps_reader_from_writing(embedded: Embedded) -> None:
    """The second line of defence: what slipped through a check still runs read-only."""
    session = embedded.session(limits(), database="gatewatch")
    try:
        for sql in (
            "INSERT INTO gatewatch_store.calls VALUES (9, 'x')",
            "SET readonly = 0",
            "SET max_threads = 8",
        ):
            with pytest.raises(EngineError) as refusal:
                session.text(sql)
            assert refusal.value.code == 164
    finally:
        session.close()


def test_readers_tighten_limits_and_never_widen_them() -> None:
    settings = reader_settings({"max_execution_time": "5", "max_result_rows": "999999999999"}, streams=True)
    assert settings["max_execution_time"] == "5"
    assert settings["max_result_rows"] == limits()["max_result_rows"]
    assert reader_settings({"max_execution_time": "0"}, streams=True)["max_execution_time"] == "30"
    assert reader_settings({"max_block_size": "10"}, streams=True)["max_block_size"] == "10"
    assert list(settings)[-1] == "readonly"


@pytest.mark.parametrize(
    "setting",
    [
        {"readonly": "0"},
        {"max_threads": "64"},
        {"additional_table_filters": "{}"},
        {"output_format_schema": "/tmp/x"},
        {"format_schema": "/etc/passwd"},
        {"allow_introspection_functions": "1"},
        {"implicit_select": "1"},
        {"max_execution_time": "1e9"},
        {"max_memory_usage": "-1"},
    ],
)
def test_readers_change_no_other_setting(setting: dict[str, str]) -> None:
    with pytest.raises(EngineError) as refusal:
        reader_settings(setting, streams=True)
    assert refusal.value.code in (26, 164)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SelectQuery (children 1)\n",
        "SelectQuery\n Literal 1\n",
        "SelectQuery (children 1)\n  Literal 1\n",
        "A\nB\n",
    ],
)
def test_a_tree_that_contradicts_itself_is_refused(text: str) -> None:
    with pytest.raises(EngineError, match="cannot be read"):
        parse_tree(text)


def test_only_a_line_feed_ends_a_line_of_the_tree() -> None:
    for separator in "\u2028\u2029\x85\x0b\x0c\x1c":
        tree = parse_tree(f"A (children 1)\n Identifier a{separator} Literal 1\n")
        assert [child.text for child in tree.children] == [f"Identifier a{separator} Literal 1"]


def test_a_tree_is_read() -> None:
    tree = parse_tree("A (children 2)\n B x (children 1)\n  C\n D\n")
    shape: Any = [tree.text, [(child.text, [c.text for c in child.children]) for child in tree.children]]
    assert shape == ["A", [("B x", ["C"]), ("D", [])]]
