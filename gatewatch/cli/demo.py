"""`gatewatch demo`: the whole pipeline, a minute of traffic, a live view, and the proof."""

from __future__ import annotations

import contextlib
import logging
import math
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gatewatch.cli.interruption import asked_to_stop, start

if TYPE_CHECKING:
    from rich.console import Console

    from gatewatch.cli.live import Status
    from sinks.clickhouse import Sink
    from streams.demo import Demo
    from streams.overview import Overview
    from streams.proof import Claim
    from streams.stack import Stack

_TICK_S: Final = 1.0
_LINE_EVERY_S: Final = 10.0
_SETTLE_S: Final = 30.0
"""How long the last events may take to be stored before the proof is given up."""


class DemoError(Exception):
    """The demonstration cannot go on; the message says why and what to do."""


def command(
    seconds: Annotated[float, typer.Option(help="How long traffic flows.", min=5, max=86_400)] = 60.0,
    rate: Annotated[float, typer.Option(help="Synthetic calls per second.", min=1, max=5000)] = 200.0,
    workers: Annotated[int, typer.Option(help="How many workers.", min=1, max=4)] = 1,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Azure trace to mix in at its own pace; unless given, one of ../shared where that is.",
            show_default=False,
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Directory for the data, new or empty; it is kept.", show_default="one that is removed"
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the data, and say where.")] = False,
    picture: Annotated[
        Path | None,
        typer.Option(help="Write the live view's last screen to this file as SVG.", show_default=False),
    ] = None,
) -> None:
    """Run a broker, the engine and a worker, send a minute of traffic, and prove that all of it is stored.

    Shows a live view on a terminal and a line every ten seconds elsewhere, then holds what was sent
    against what is stored, and answers three questions in SQL. Ends with 0 only if the proof holds.
    Ctrl-C ends the traffic early; the proof is still made. A second Ctrl-C ends everything at once.
    """
    from rich.console import Console

    from streams.artifact import ArtifactError, jars
    from streams.demo import ENVIRONMENT, TRACE
    from streams.stack import Stack, StackError

    # The client's own words on a connection that broke would stand in the middle of the live view.
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    if data is not None and data.is_dir() and any(data.iterdir()):
        _say(f"{data} is not empty, and the proof needs a store of its own; choose a new directory")
        raise typer.Exit(2)
    recorded = trace or (TRACE if TRACE.is_file() else None)
    notes: list[str] = []
    try:
        jars()
        with _directory(data, keep) as directory, asked_to_stop() as asked:
            stack = Stack(directory, workers, environment=ENVIRONMENT, report=notes.append)
            began = time.monotonic()
            console.print("gatewatch demo: starting Kafka, the ClickHouse engine and the worker")
            if not start(stack, asked):
                raise DemoError("interrupted before it was ready")
            try:
                console.print(
                    f"ready in {time.monotonic() - began:.1f} s: Kafka at {stack.bootstrap}, ClickHouse at "
                    f"{stack.engine_url} (user reader), workers {workers}"
                )
                held = _show(stack, console, asked, notes, seconds, rate, recorded, picture)
                if (keep or data) and held:
                    console.print(
                        f"\nThe data stays: gatewatch query --data {shlex.quote(str(directory))} SQL"
                    )
            finally:
                stack.stop()
            if stack.failure:
                raise DemoError(stack.failure)
    except (DemoError, ArtifactError, StackError) as error:
        _say(str(error))
        raise typer.Exit(1) from None
    if not held:
        raise typer.Exit(1)


def _say(text: str) -> None:
    print(f"gatewatch demo: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _directory(data: Path | None, keep: bool) -> Iterator[Path]:
    if data is not None:
        yield data
    elif keep:
        yield Path(tempfile.mkdtemp(prefix="gatewatch-demo-"))
    else:
        with tempfile.TemporaryDirectory(prefix="gatewatch-demo-", ignore_cleanup_errors=True) as made:
            yield Path(made)


def _show(
    stack: Stack,
    console: Console,
    asked: threading.Event,
    notes: list[str],
    seconds: float,
    rate: float,
    trace: Path | None,
    picture: Path | None,
) -> bool:
    """Send, show, prove, query; whether the proof holds."""
    from gatewatch.cli.live import Status
    from gatewatch.cli.live import picture as draw_picture
    from sinks.budget import set_budget
    from sinks.clickhouse import Sink, SinkError
    from streams.demo import ENVIRONMENT, Demo, budget
    from streams.proof import await_proof

    demo = Demo(stack.bootstrap, seconds=seconds, rate_per_s=rate, trace=trace)
    about = f"{rate:g} synthetic calls/s" + (f", and the trace {trace.name}" if trace else "")
    console.print(
        f"{seconds:g} s of real-time traffic: {about}"
        + ("" if trace else " (no ../shared beside this checkout: no recorded trace)")
    )
    console.print("on purpose: " + "\n            ".join(demo.incidents))
    console.print(f"windows close {ENVIRONMENT['GATEWATCH_GRACE_S']} s after their minute, by default 60 s")
    limit = budget(seconds, rate)
    console.print(f"{limit.scope} has a budget of ${limit.amount_usd:,.2f} a day, too little for this\n")
    status = Status(seconds, f"{rate:g} synthetic calls/s" + (" and a recorded trace" if trace else ""))
    try:
        with contextlib.closing(Sink(stack.engine_url, "writer", stack.writer_password)) as writer:
            set_budget(writer, limit, "gatewatch demo")
        sink = Sink(stack.engine_url, "reader")
        try:
            demo.start()
            last = _watch(console, stack, sink, demo, status, asked, notes)
            if last is not None and picture is not None:
                picture.parent.mkdir(parents=True, exist_ok=True)
                picture.write_text(draw_picture(status, last, "gatewatch demo"), "utf-8")
            if not demo.wait(_SETTLE_S) or demo.trouble:
                raise DemoError(
                    f"not everything could be sent: {demo.trouble or 'the broker does not answer'}"
                )
            claims = await_proof(sink, demo.sent(), _SETTLE_S, while_=lambda: stack.running)
            held = all(claim.holds for claim in claims)
            _print_proof(console, claims, demo.traced if trace else None)
            if held:
                _print_examples(console, sink)
        finally:
            demo.stop()
            sink.close()
    except SinkError as error:
        raise DemoError(f"{error}; the engine's log is {stack.logs / 'engine.log'}") from None
    return held


def _watch(
    console: Console,
    stack: Stack,
    sink: Sink,
    demo: Demo,
    status: Status,
    asked: threading.Event,
    notes: list[str],
) -> Overview | None:
    """Show how it goes until everything is sent; the last state with traffic in it."""
    from rich.live import Live

    from gatewatch.cli.live import draw, line
    from sinks.clickhouse import SinkError
    from streams.overview import read_overview

    began = time.monotonic()
    end = began + status.total_s + _SETTLE_S
    last: Overview | None = None
    with contextlib.ExitStack() as exits:
        live = (
            exits.enter_context(Live(console=console, screen=True, auto_refresh=False))
            if console.is_terminal
            else None
        )
        next_line = _LINE_EVERY_S
        while demo.running and stack.running and time.monotonic() < end:
            if asked.is_set():
                demo.stop()
            tick = time.monotonic()
            try:
                overview = read_overview(sink, tick - began)
            except SinkError as error:
                # The engine may be on its way back; the last state stays, and says how old it is.
                status.notes.append(str(error))
                demo.wait(_TICK_S)
                continue
            status.update(tick - began, demo.emitted, overview.events)
            status.notes.extend(notes)
            if live is not None:
                live.update(draw(status, overview, console.width, console.height), refresh=True)
            elif status.running_s >= next_line:
                console.print(line(status, overview), markup=False)
                next_line += _LINE_EVERY_S
            for note in notes:
                if live is None:
                    console.print(note, markup=False)
            notes.clear()
            if status.running_s < status.total_s or last is None:
                last = overview
            wait_s = max(0.0, _TICK_S - (time.monotonic() - tick))
            if asked.is_set():
                demo.wait(wait_s)
            else:
                asked.wait(wait_s)
    if live is not None and last is not None:
        console.print(draw(status, last, console.width, console.height))
    return last


def _print_proof(console: Console, claims: Sequence[Claim], traced: int | None) -> None:
    from rich import box
    from rich.table import Table

    held = all(claim.holds for claim in claims)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("proof")
    table.add_column("sent", justify="right")
    table.add_column("stored", justify="right")
    table.add_column("")
    for claim in claims:
        mark = "[green]equal[/]" if claim.holds else "[bold red]DIFFERENT[/]"
        table.add_row(claim.subject, f"{claim.sent:,}", f"{claim.stored:,}", mark)
    console.print(table)
    if traced is not None:
        console.print(f"{traced:,} of the calls are from the recorded trace.")
    if held:
        console.print(
            "[bold green]The proof holds[/]: every event is counted exactly once, in the calls and in each "
            "aggregate."
        )
    else:
        failed = [claim.subject for claim in claims if not claim.holds]
        console.print(f"[bold red]The proof does not hold[/]: {'; '.join(failed)}")


def _print_examples(console: Console, sink: Sink) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from streams.demo import EXAMPLES

    for example in EXAMPLES:
        console.print(f"\n[bold]{example.question}[/]")
        console.print(example.sql, style="dim", markup=False)
        answer = sink.table(example.sql)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for field in answer.schema:
            numeric = not str(field.type).startswith(("string", "dictionary"))
            table.add_column(field.name, justify="right" if numeric else "left")
        for row in answer.to_pylist():
            table.add_row(*(Text(_cell(value)) for value in row.values()))
        console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:,.6g}" if value < 1e6 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else str(value)
