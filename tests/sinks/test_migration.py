"""Migrations: numbered, in order, run once; running them again does nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sinks.clickhouse import Sink
from sinks.migration import migrate, pending, read_migrations, statements
from sinks.schema import STORE


def test_migrations_of_the_repository_count_up_from_one() -> None:
    numbers = [migration.number for migration in read_migrations()]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0001_a.sql", "0003_c.sql"], "without a gap"),
        (["0002_b.sql"], "without a gap"),
        (["0001_a.sql", "0001_b.sql"], "without a gap"),
        (["first.sql"], "first.sql: migrations are named"),
        (["01_a.sql"], "01_a.sql: migrations are named"),
    ],
)
def test_a_folder_that_is_out_of_order_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).write_text("SELECT 1;\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        read_migrations(tmp_path)


def test_statements_are_separated_by_semicolons_at_a_lines_end() -> None:
    sql = (
        "-- a comment; with a semicolon;\nCREATE TABLE a (b String DEFAULT ';');\n\n  -- more\nSELECT 1\n;\n"
    )
    assert list(statements(sql)) == ["CREATE TABLE a (b String DEFAULT ';')", "SELECT 1"]


def test_a_migrated_database_has_nothing_pending_and_migrating_again_does_nothing(sink: Sink) -> None:
    assert pending(sink) == []
    assert migrate(sink) == []


def test_what_the_ledger_does_not_hold_is_pending_and_safe_to_run_twice(sink: Sink) -> None:
    """As after a crash between a statement and its record."""
    sink.command(f"INSERT INTO {STORE}.checkpoints SELECT 3, toDateTime(60, 'UTC')")
    sink.command(f"TRUNCATE TABLE {STORE}.migrations")
    expected = read_migrations()
    assert pending(sink) == expected
    # Looking is not doing.
    assert pending(sink) == expected
    assert migrate(sink) == expected
    assert pending(sink) == []
    assert [tuple(row) for row in sink.rows(f"SELECT shard FROM {STORE}.checkpoints")] == [(3,)]
    numbers = sink.rows(f"SELECT number, name FROM {STORE}.migrations ORDER BY number")
    assert [tuple(row) for row in numbers] == [(m.number, m.name) for m in expected]
