"""A connection to ClickHouse for commands: where it is, as whom, and what is said when there is none."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

if TYPE_CHECKING:
    from sinks.clickhouse import Sink

__all__ = ["Data", "Moment", "connected", "moment_ms", "say", "wrong_usage"]

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Data directory, running or at rest.", show_default=False),
]

Moment = Annotated[
    str, typer.Option("--from", help="An age such as 7d or 12h, or a time such as 2026-11-01 (UTC).")
]


_LATEST_MS: Final = 4_102_444_800_000  # 2100-01-01


@contextlib.contextmanager
def connected(command: str, data: Path | None) -> Iterator[Sink]:
    """Connect as the writer: to the engine of a data directory, or to what the environment names.

    Ends the command, with what to do on standard error, where nothing answers or a statement is refused.
    """
    import logging

    from gatewatch.cli.query import QueryError, password_of, served_address
    from gatewatch.price_table import PriceError
    from sinks.clickhouse import Sink, SinkError
    from streams.setting import Settings

    # What its client has to say about an address that does not answer is said by the error.
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
    try:
        with served_address(None, data, command) as (address, directory):
            user = "writer" if directory is not None else Settings.from_environment().clickhouse_user
            with contextlib.closing(Sink(address, user, password_of(user, directory))) as sink:
                yield sink
    except (QueryError, SinkError) as error:
        say(command, str(error))
        raise typer.Exit(1) from None
    except PriceError as error:
        say(command, f"{error}; a later release may have made this version of the prices")
        raise typer.Exit(1) from None
    except BrokenPipeError:
        # Whoever reads our output has enough, `| head` for one.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except KeyboardInterrupt:
        say(command, "interrupted")
        raise typer.Exit(130) from None


def say(command: str, message: str) -> None:
    """One line on standard error."""
    print(f"gatewatch {command}: {message}", file=sys.stderr, flush=True)


def wrong_usage(command: str, message: str) -> NoReturn:
    """Say what was wrong, and end with 2."""
    say(command, message)
    raise typer.Exit(2)


def moment_ms(command: str, option: str, text: str, now_ms: int) -> int:
    """A time as milliseconds since 1970: ``now``, an age, or a date with or without a time, else UTC.

    Ends the command with 2 where it is none.
    """
    from traffic.incident import seconds

    if text == "now":
        return now_ms
    if text[-1:].isalpha():
        with contextlib.suppress(ValueError, OverflowError):
            return max(0, now_ms - round(seconds(text) * 1000))
    try:
        moment = datetime.fromisoformat(text)
        at_ms = round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        at_ms = -1
    if not 0 <= at_ms <= _LATEST_MS:
        wrong_usage(command, f"{option} {text!r} is no time; write 7d, 12h, 2026-11-01 or 2026-11-01T09:00")
    return at_ms
