"""What `gatewatch replay` and `gatewatch traffic` share: from timed items to a broker, a file or nothing."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import typer

from gatewatch.cli.message import say, wrong_usage

if TYPE_CHECKING:
    from traffic.replay import Pace, Sender, Summary
    from traffic.trace import Timed


def check_speed(command: str, speed: float) -> None:
    """End with 2 unless the speed is above zero."""
    if not 0 < speed < float("inf"):
        wrong_usage(command, f"--speed must be above zero, got {speed:g}")


def start_ms(command: str, text: str, now_ms: int) -> int | None:
    """When the first event happens, in milliseconds since 1970; ``None`` for now.

    ``now``, a date (UTC unless it names a zone), or an age such as ``-24h``.
    """
    from traffic.incident import seconds

    if text == "now":
        return None
    try:
        if text.startswith("-"):
            at_ms = now_ms - round(seconds(text[1:]) * 1000)
        else:
            moment = datetime.fromisoformat(text)
            at_ms = round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        at_ms = -1
    if not 0 <= at_ms < 9_000_000_000_000:
        wrong_usage(
            command,
            f"--start {text!r} is no time; write now, a date like 2026-01-31T12:00, or an age like -24h",
        )
    return at_ms


def run(
    command: str,
    items: Iterable[Timed],
    pace: Pace,
    *,
    output: str | None,
    dry_run: bool,
    bootstrap: str | None,
    gateway: str,
    batch_events: int,
    json_summary: bool,
    details: Callable[[Summary], dict[str, Any]],
    origin_s: float | None = None,
) -> Summary:
    """Send the items, show progress on a terminal, and say at the end what was sent.

    ``details`` completes the summary and returns what the command adds to its JSON form.
    Ends with 1 if anything did not arrive.
    """
    from traffic.replay import Interruption, StalledError, replay

    check_speed(command, pace.speed)
    if json_summary and output == "-":
        wrong_usage(
            command, "--json and --output - both write on standard output; write the events to a file"
        )
    if dry_run and output:
        wrong_usage(command, "--dry-run sends nothing, so --output has nothing to write; give one of them")
    if not 1 <= batch_events <= 500:
        wrong_usage(command, f"--batch-events must be from 1 to 500, got {batch_events}")

    on_terminal = sys.stderr.isatty()

    def show(summary: Summary) -> None:
        details(summary)
        print(f"\r\033[K{_line(summary)}", end="", file=sys.stderr, flush=True)

    with contextlib.ExitStack() as stack:
        sender, where = _sender(command, stack, output, dry_run, bootstrap, gateway, batch_events)
        interruption = stack.enter_context(Interruption())
        try:
            summary = replay(
                items,
                sender,
                pace,
                origin_s=origin_s,
                on_progress=show if on_terminal else None,
                interruption=interruption,
            )
        except StalledError as error:
            print(f"{chr(10) if on_terminal else ''}gatewatch {command}: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        except BrokenPipeError:
            # Whoever read our output has enough. Python would complain again when it closes standard output.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
    added = details(summary)
    print(f"{chr(13) + chr(27) + '[K' if on_terminal else ''}{_line(summary)}, to {where}", file=sys.stderr)
    if json_summary:
        print(msgspec.json.encode(msgspec.to_builtins(summary) | added).decode(), flush=True)
    if summary.ended_by:
        say(command, f"{summary.ended_by}; what came before it was sent")
    if summary.dropped or not summary.delivered:
        say(
            command,
            f"not everything was acknowledged by {where} ({summary.dropped} given up); "
            "see whether it runs with `gatewatch doctor`",
        )
    if summary.ended_by or summary.dropped or not summary.delivered:
        raise typer.Exit(1)
    return summary


def _line(summary: Summary) -> str:
    parts = [
        f"{summary.events:,} events in {summary.seconds:,.1f} s ({summary.events_per_s:,.0f} events/s)",
        f"{summary.skipped:,} skipped",
    ]
    if summary.raw_lines:
        parts.append(f"{summary.raw_lines:,} as raw lines")
    if summary.late_max_s >= 1:
        parts.append(f"up to {summary.late_max_s:,.1f} s late")
    return ", ".join(parts)


def _sender(
    command: str,
    stack: contextlib.ExitStack,
    output: str | None,
    dry_run: bool,
    bootstrap: str | None,
    gateway: str,
    batch_events: int,
) -> tuple[Sender, str]:
    from streams.setting import SettingError, Settings
    from traffic.replay import DrySender, KafkaSender, LineSender

    if dry_run:
        return DrySender(), "nowhere (dry run)"
    if output == "-":
        return LineSender(sys.stdout.buffer), "standard output"
    if output is not None:
        try:
            return LineSender(stack.enter_context(Path(output).open("wb"))), output
        except OSError as error:
            wrong_usage(command, f"cannot write {output}: {error.strerror}")
    try:
        settings = Settings.from_environment()
    except SettingError as error:
        wrong_usage(command, str(error))
    servers = bootstrap or settings.kafka
    try:
        sender = KafkaSender(servers, gateway=gateway, topic=settings.events_topic, batch_events=batch_events)
    except ValueError as error:
        wrong_usage(command, str(error))
    return sender, f"{settings.events_topic} at {servers}"


def now_ms() -> int:
    """The time, in milliseconds since 1970."""
    return round(time.time() * 1000)
