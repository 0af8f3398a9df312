"""A connection to ClickHouse for commands: where it is, as whom, and what is said when there is none."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from sinks.clickhouse import Sink

__all__ = ["Data", "connected", "print_rows", "say", "wrong_usage"]

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Data directory, running or at rest.", show_default=False),
]


@contextlib.contextmanager
def connected(command: str, data: Path | None) -> Iterator[Sink]:
    """Connect as the writer: to the engine of a data directory, or to what the environment names.

    Ends the command, with what to do on standard error, where nothing answers or a statement is refused.
    """
    import logging

    from gatewatch.cli.query import QueryError, password_of, served_address
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


def print_rows(rows: list[dict[str, Any]], as_json: bool, nothing: str) -> None:
    """Rows with the same keys: one JSON object a line, or columns of text. None is NULL, or ``-``."""
    if as_json:
        import msgspec

        for row in rows:
            print(msgspec.json.encode(row).decode())
    elif not rows:
        print(nothing)
    else:
        texts = [list(rows[0]), *([_shown(value) for value in row.values()] for row in rows)]
        wide = [max(len(line[column]) for line in texts) for column in range(len(texts[0]))]
        numeric = [
            all(_is_number(row[name]) for row in rows) and any(row[name] is not None for row in rows)
            for name in rows[0]
        ]
        for line in texts:
            cells = [
                f"{text:>{width}}" if right else f"{text:<{width}}"
                for text, width, right in zip(line, wide, numeric, strict=True)
            ]
            print("  ".join(cells).rstrip())
    sys.stdout.flush()


def _is_number(value: Any) -> bool:
    """Whether it is a number, or an exact one as text, or unknown."""
    if value is None or isinstance(value, int | float):
        return True
    return isinstance(value, str) and value.lstrip("-").replace(".", "", 1).isdigit()


def _shown(value: Any) -> str:
    """A value without anything that a terminal would obey."""
    text = "-" if value is None else f"{value:,}" if type(value) is int else str(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
