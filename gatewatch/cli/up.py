"""`gatewatch up`: broker, engine and workers, supervised."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gatewatch.cli.interruption import asked_to_stop, start

if TYPE_CHECKING:
    from streams.stack import Stack

_POLL_S: Final = 0.2
_QUERY: Final = "SELECT count() FROM gatewatch.calls"
_PORT: Final = {"min": 1, "max": 65_535, "show_default": False}


def command(
    data: Annotated[Path, typer.Option(help="Directory of its own, made when it is not there.")],
    workers: Annotated[int, typer.Option(help="How many workers share the partitions.", min=0, max=64)] = 1,
    partitions: Annotated[
        int,
        typer.Option(help="Of the events topic, when it is made: the most workers that can share it.", min=1),
    ] = 4,
    kafka_port: Annotated[
        int | None, typer.Option(help="Kafka's port on 127.0.0.1; a free one unless given.", **_PORT)
    ] = None,
    engine_port: Annotated[
        int | None, typer.Option(help="The engine's port on 127.0.0.1; a free one unless given.", **_PORT)
    ] = None,
) -> None:
    """Run the whole pipeline on this machine until Ctrl-C.

    A real Kafka broker, the ClickHouse engine and workers, each a process of its own on the loopback
    interface. A part that dies is started again. The first use downloads Apache Kafka (45 MB). Workers read
    their other settings from GATEWATCH_... variables (docs/settings.md).
    """
    from streams.artifact import ArtifactError, jars
    from streams.stack import Stack, StackError

    try:
        jars()  # here, where Ctrl-C simply ends a download
    except ArtifactError as error:
        _say(str(error))
        raise typer.Exit(1) from None
    stack = Stack(
        data,
        workers,
        kafka_port=kafka_port,
        engine_port=engine_port,
        partitions=partitions,
        report=_say,
    )
    began = time.monotonic()
    with asked_to_stop() as asked:
        try:
            if not start(stack, asked):
                _say("stopped")
                return
        except StackError as error:
            _say(str(error))
            raise typer.Exit(1) from None
        print(_summary(stack, data, time.monotonic() - began), flush=True)
        while not asked.wait(_POLL_S) and stack.running and not stack.failure:
            pass
        if stack.failure:
            _say(stack.failure)
        else:
            _say("stopping: workers finish what they have read")
        stack.stop()
    if stack.failure:
        raise typer.Exit(1)


def _say(line: str) -> None:
    print(f"gatewatch: {line}", file=sys.stderr, flush=True)


def _summary(stack: Stack, data: Path, took_s: float) -> str:
    rows = [
        ("Kafka", stack.bootstrap, ""),
        ("ClickHouse", stack.engine_url, "user reader, no password"),
    ]
    rows += [(name, url, "/metrics and /healthz") for name, url in stack.metrics_urls.items()]
    rows += [("logs", str(stack.logs), "")]
    wide = max(len(address) for _, address, _ in rows)
    lines = [f"ready in {took_s:.1f} s; Ctrl-C stops it", ""]
    lines += [f"  {name:<11} {address:<{wide}}  {remark}".rstrip() for name, address, remark in rows]
    place = shlex.quote(str(data))
    lines += [
        "",
        f"  send    GATEWATCH_KAFKA={stack.bootstrap} gatewatch traffic",
        f"  query   gatewatch query --data {place} '{_QUERY}'",
        f"  check   gatewatch doctor --data {place}",
    ]
    return "\n".join(lines)
