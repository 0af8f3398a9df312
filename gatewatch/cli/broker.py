"""`gatewatch broker`: the embedded Kafka broker alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    data: Annotated[Path, typer.Option(help="Directory of its own, made when it is not there.")],
    port: Annotated[
        int | None,
        typer.Option(
            help="Port on 127.0.0.1; a free one unless given.", min=1, max=65_535, show_default=False
        ),
    ] = None,
) -> None:
    """Run a real Kafka broker until Ctrl-C.

    Prints `ready HOST:PORT` once it answers. The first use downloads Apache Kafka (45 MB). It listens on the
    loopback interface only and asks for no password: it is for development, not for production.
    """
    from streams.broker import run

    raise typer.Exit(run(data, port))
