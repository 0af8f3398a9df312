"""The declared schema is the migrated database's."""

from __future__ import annotations

import re

import pytest

from signals.column import CALL_COLUMNS
from signals.cost import COLUMNS
from sinks.clickhouse import Sink
from sinks.schema import STORE, TABLES, VIEWS, Table, create_table
from sinks.views import ALL_VIEWS

NAMES = [table.name for table in TABLES]


def plain(expression: str) -> str:
    """An expression without spaces and outer brackets, as declaration and engine may differ in these."""
    text = re.sub(r"\s+", "", expression)
    return text[1:-1] if text.startswith("(") and text.endswith(")") else text


@pytest.mark.parametrize("table", TABLES, ids=NAMES)
def test_columns_are_the_declared_ones(sink: Sink, table: Table) -> None:
    found = sink.rows(
        "SELECT name, type FROM system.columns WHERE database = {db:String} AND table = {name:String} "
        "ORDER BY position",
        {"db": STORE, "name": table.name},
    )
    assert [tuple(row) for row in found] == [(column.name, column.type) for column in table.columns]


@pytest.mark.parametrize("table", TABLES, ids=NAMES)
def test_engines_keys_and_partitions_are_the_declared_ones(sink: Sink, table: Table) -> None:
    ((engine, sorting, partition, full),) = sink.rows(
        "SELECT engine, sorting_key, partition_key, engine_full FROM system.tables "
        "WHERE database = {db:String} AND name = {name:String}",
        {"db": STORE, "name": table.name},
    )
    assert engine == table.engine.partition("(")[0]
    assert plain(sorting) == plain(table.order_by)
    assert plain(partition) == plain(table.partition_by)
    # The engine's version column, then its TTL, stand only here.
    assert full.startswith(table.engine + " ")
    assert plain(full.partition(" TTL ")[2].partition(" SETTINGS")[0]) == plain(table.ttl)


@pytest.mark.parametrize("table", TABLES, ids=NAMES)
def test_indexes_are_the_declared_ones(sink: Sink, table: Table) -> None:
    found = sink.rows(
        "SELECT name, type_full, expr FROM system.data_skipping_indices "
        "WHERE database = {db:String} AND table = {name:String}",
        {"db": STORE, "name": table.name},
    )
    declared = [re.match(r"INDEX (\w+) (\w+) TYPE (.+) GRANULARITY", index) for index in table.indexes]
    assert [tuple(row) for row in found] == [(m[1], m[3], m[2]) for m in declared if m]


def test_the_store_holds_the_declared_tables_and_the_ledger_and_nothing_else(sink: Sink) -> None:
    found = sink.rows("SELECT name, engine FROM system.tables WHERE database = {db:String}", {"db": STORE})
    assert {row[0] for row in found} == {*NAMES, "migrations"}


def test_the_readers_database_holds_views_only(sink: Sink) -> None:
    found = sink.rows("SELECT name, engine FROM system.tables WHERE database = {db:String}", {"db": VIEWS})
    assert sorted(tuple(row) for row in found) == sorted((view.name, "View") for view in ALL_VIEWS)


def test_a_table_expires_by_a_column_of_its_key_only() -> None:
    """By another one ClickHouse brings an older version of a row back."""
    for table in TABLES:
        if table.ttl:
            column = re.search(r"\((\w+)\)|^(\w+)", table.ttl.replace("toDateTime", ""))
            assert column
            assert (column[1] or column[2]) in re.findall(r"\w+", table.order_by)


def test_every_column_of_calls_outside_the_key_merges_by_content() -> None:
    calls = next(table for table in TABLES if table.name == "calls")
    merged = {column.name for column in calls.columns if column.type.startswith("SimpleAggregateFunction(")}
    priced = {*COLUMNS, "price", "cost_details", "cost_minute", "repriced"}
    assert merged == {column.name for column in CALL_COLUMNS} - {"started_at", "call_id"} | {"parts"} | priced


def test_statements_are_safe_to_repeat(sink: Sink) -> None:
    for table in TABLES:
        sink.command(create_table(table).rstrip(";"))
