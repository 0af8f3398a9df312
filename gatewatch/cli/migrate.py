"""`gatewatch migrate`: bring ClickHouse's tables and views up to date."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer


def command(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Create or update tables and views on the ClickHouse that GATEWATCH_CLICKHOUSE_URL names."""
    import logging

    from sinks.clickhouse import Sink, SinkError
    from sinks.migration import migrate, pending, statements
    from sinks.views import ALL_VIEWS
    from streams.setting import SettingError, Settings

    # What its client has to say about an address that does not answer is said by the error.
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
    try:
        settings = Settings.from_environment()
        with contextlib.closing(
            Sink(settings.clickhouse_url, settings.clickhouse_user, settings.clickhouse_password.reveal())
        ) as sink:
            if dry_run:
                for migration in pending(sink):
                    print(f"-- {migration.number:04} {migration.name}")
                    for statement in statements(migration.sql):
                        print(f"{statement};\n")
                print(f"-- then {len(ALL_VIEWS)} views are created or replaced")
                return
            for migration in migrate(sink):
                print(f"applied {migration.number:04} {migration.name}")
            print(f"up to date, {len(ALL_VIEWS)} views")
    except SettingError as error:
        print(f"gatewatch migrate: {error}", file=sys.stderr)
        sys.exit(2)
    except SinkError as error:
        print(f"gatewatch migrate: {error}", file=sys.stderr)
        sys.exit(1)
