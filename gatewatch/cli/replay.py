"""`gatewatch replay`: recorded traces as if they happened now."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatewatch.cli import sending
from gatewatch.cli.message import wrong_usage

if TYPE_CHECKING:
    from traffic.replay import Summary
    from traffic.trace import Skip

# More are counted and not shown: a file of the wrong format would fill the screen.
_SHOWN = 20


def command(
    format_: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT", help="azure, mooncake, ragpulse, coding-agent, tensorzero or ndjson (our own)."
        ),
    ],
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Traces, also .gz; - is standard input. Several files of one format are merged by time.",
        ),
    ],
    speed: Annotated[float, typer.Option(help="Seconds of the trace to a second.")] = 1.0,
    flat_out: Annotated[
        bool, typer.Option("--flat-out", help="As fast as possible; events happen when they are sent.")
    ] = False,
    start: Annotated[
        str, typer.Option(help="When the first event happens: now, a date (UTC), or an age such as -24h.")
    ] = "now",
    keep_time: Annotated[
        bool, typer.Option("--keep-time", help="Leave the trace's own dates in the events.")
    ] = False,
    bootstrap: Annotated[
        str | None, typer.Option(help="Kafka's host:port; GATEWATCH_KAFKA unless given.", show_default=False)
    ] = None,
    gateway: Annotated[
        str | None, typer.Option(help="Name of the gateway in the events.", show_default="trace-FORMAT")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            help="Goes into the ids of the calls: replays with the same RUN are the same calls.",
            show_default="the time",
        ),
    ] = None,
    texts: Annotated[
        bool, typer.Option("--texts", help="Also send the prompts and answers that a trace holds.")
    ] = False,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw", help="ndjson only: send every line byte for byte, those that are no event as well."
        ),
    ] = False,
    batch_events: Annotated[int, typer.Option(help="Events to a Kafka record, 1 to 500.")] = 100,
    output: Annotated[
        str | None, typer.Option(help="Write JSON lines to this file instead, - for standard output.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read everything at once, send nothing.")
    ] = False,
    json_summary: Annotated[
        bool, typer.Option("--json", help="Write the summary as JSON on standard output.")
    ] = False,
) -> None:
    """Send a recorded trace to Kafka as events, at its own pace from now on.

    What a trace lacks and events need, such as tenants, is made up from the number of the line;
    docs/traffic.md says what, for each format. Lines that cannot be read are reported and counted.

    Example: gatewatch replay azure AzureLLMInferenceTrace_conv.csv.gz --speed 60
    """
    from traffic.replay import Pace
    from traffic.trace import Trace, UnknownFormatError

    started_ms = sending.now_ms()
    start_ms = sending.start_ms("replay", start, started_ms)
    shown = 0

    def report(skip: Skip) -> None:
        nonlocal shown
        shown += 1
        if shown <= _SHOWN:
            print(f"gatewatch replay: {skip}", file=sys.stderr)
        elif shown == _SHOWN + 1:
            print("gatewatch replay: more lines cannot be read; they are counted", file=sys.stderr)

    try:
        trace = Trace(
            format_,
            files,
            run=run if run is not None else f"{started_ms:x}",
            gateway=gateway,
            texts=texts,
            raw=raw,
            on_skip=report,
        )
    except UnknownFormatError as error:
        wrong_usage("replay", str(error))
    if (keep_time or raw) and start_ms is not None:
        wrong_usage("replay", "--start cannot apply: --keep-time and --raw leave times as they are")
    if keep_time and not trace.absolute:
        wrong_usage("replay", f"{format_} traces hold no dates to keep; give --start instead")
    if run is not None and not 1 <= len(run) <= 64:
        wrong_usage("replay", "--run must have 1 to 64 characters")
    if gateway is not None and not 1 <= len(gateway) <= 256:
        wrong_usage("replay", "--gateway must have 1 to 256 characters")
    for file in files:
        if file != "-" and not Path(file).is_file():
            wrong_usage("replay", f"there is no file {file}")

    def details(summary: Summary) -> dict[str, Any]:
        summary.skipped = trace.skipped_total
        return {"format": format_, "lines": trace.lines_total}

    summary = sending.run(
        "replay",
        trace,
        Pace(speed=speed, flat_out=flat_out or dry_run, start_ms=start_ms, keep_time=keep_time),
        output=output,
        dry_run=dry_run,
        bootstrap=bootstrap,
        gateway=gateway or f"trace-{format_}",
        batch_events=batch_events,
        json_summary=json_summary,
        details=details,
    )
    if not summary.events:
        print(
            f"gatewatch replay: no event in {trace.lines_total} lines; is this a file of format {format_}?",
            file=sys.stderr,
        )
        raise typer.Exit(1)
