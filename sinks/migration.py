"""Numbered, forward-only migrations, then the views, which are replaced each time.

A migration is a file ``NNNN_what.sql`` in ``sinks/migrations``; its statements are separated by a
semicolon at a line's end and must be safe to run twice, since a crash can fall between a statement
and its record.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

from sinks.clickhouse import Sink
from sinks.schema import STORE
from sinks.view import create_view
from sinks.views import ALL_VIEWS

__all__ = ["Migration", "migrate", "pending", "read_migrations", "statements"]

_FOLDER: Final = Path(__file__).with_name("migrations")
_NAME: Final = re.compile(r"(\d{4})_(\w+)\.sql")
_LEDGER: Final = f"""\
CREATE TABLE IF NOT EXISTS {STORE}.migrations
(
    number UInt32,
    name String,
    applied_at DateTime DEFAULT now()
)
ENGINE = ReplacingMergeTree ORDER BY number"""


class Migration(Struct, frozen=True):
    """One migration file."""

    number: int
    name: str
    sql: str


def read_migrations(folder: Path = _FOLDER) -> list[Migration]:
    """All migrations in order.

    Raises
    ------
    ValueError
        A file is not named ``NNNN_what.sql``, or numbers do not count up from 1.
    """
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise ValueError(f"{path.name}: migrations are named NNNN_what.sql")
        found.append(Migration(int(match[1]), match[2], path.read_text()))
    numbers = [migration.number for migration in found]
    if numbers != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations count up from 1 without a gap, found {numbers}")
    return found


def statements(sql: str) -> Iterator[str]:
    """The statements of a migration, without comment lines."""
    lines = [line for line in sql.splitlines() if not line.lstrip().startswith("--")]
    for statement in "\n".join(lines).split(";\n"):
        text = statement.strip().removesuffix(";").strip()
        if text:
            yield text


def pending(sink: Sink) -> list[Migration]:
    """Migrations that the database has not had; reads only."""
    known = sink.rows(
        "SELECT count() FROM system.tables WHERE database = {db:String} AND name = 'migrations'",
        {"db": STORE},
    )
    applied = (
        {row[0] for row in sink.rows(f"SELECT number FROM {STORE}.migrations")} if known[0][0] else set()
    )
    return [migration for migration in read_migrations() if migration.number not in applied]


def migrate(sink: Sink) -> list[Migration]:
    """Bring the database up to date; returns what was applied. Safe to run by several at once."""
    sink.command(f"CREATE DATABASE IF NOT EXISTS {STORE}")
    sink.command(_LEDGER)
    applied = pending(sink)
    for migration in applied:
        for statement in statements(migration.sql):
            sink.command(statement)
        sink.command(
            f"INSERT INTO {STORE}.migrations (number, name) SELECT {{number:UInt32}}, {{name:String}}",
            {"number": migration.number, "name": migration.name},
        )
    for view in ALL_VIEWS:
        sink.command(create_view(view))
    return applied
