"""`gatewatch doctor`: what is reachable, what is not, and what to do."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

_STYLES: Final = {"ok": "green", "warn": "yellow", "fail": "red"}


def command(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Look at the `gatewatch up` of this directory, not at the GATEWATCH_... variables.",
            show_default=False,
        ),
    ] = None,
    json_lines: Annotated[bool, typer.Option("--json", help="Write JSON lines.")] = False,
) -> None:
    """Check this installation, Kafka, ClickHouse and the workers; a line for each.

    Reads only. Ends with 1 when something that the pipeline needs is missing or does not answer.
    """
    import logging

    import msgspec

    from streams.diagnosis import diagnose

    # What a client has to say about an address that does not answer is said by the finding.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
    failed = 0
    for finding in diagnose(os.environ, data):
        failed += finding.level == "fail"
        if json_lines:
            print(msgspec.json.encode(finding._asdict()).decode(), flush=True)
        else:
            mark = f"{finding.level:<4}"
            if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
                mark = typer.style(mark, fg=_STYLES[finding.level], bold=finding.level == "fail")
            print(f"{mark}  {finding.subject}: {finding.text}", flush=True)
            if finding.advice:
                print(f"      {finding.advice}", flush=True)
    if failed:
        what = "one check" if failed == 1 else f"{failed} checks"
        print(f"gatewatch doctor: {what} failed", file=sys.stderr)
        raise typer.Exit(1)
