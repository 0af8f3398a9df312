"""`gatewatch engine`: the ClickHouse engine alone, over a data directory."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def command(
    data: Annotated[Path, typer.Option("--data", help="Data directory; made if it is not there.")],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8123,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    fsync: Annotated[
        bool, typer.Option("--fsync/--no-fsync", help="Whether an insert waits for the disk.")
    ] = True,
) -> None:
    """Serve ClickHouse's HTTP interface over the embedded engine, until Ctrl-C or SIGTERM.

    Users: `reader` reads the views of database gatewatch, without a password on loopback;
    `writer` does everything, with the password in DATA/engine.token. On an address that other
    machines reach, the reader needs a password too: set GATEWATCH_READER_PASSWORD.

    Example: gatewatch engine --data ./data, then
    curl http://127.0.0.1:8123/ -d "SELECT count() FROM calls"
    """
    from sinks.engine import Options, run

    try:
        options = Options(
            host=host,
            port=port,
            reader_password=os.environ.get("GATEWATCH_READER_PASSWORD") or None,
            durable=fsync,
        )
    except ValueError as error:
        print(f"gatewatch engine: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    code = run(data, options)
    if code:
        raise typer.Exit(code)
