"""A connection to ClickHouse for commands: where it is, as whom, and what is said when there is none."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gatewatch.cli.message import CommandError, fail, say, wrong_usage

if TYPE_CHECKING:
    from sinks.clickhouse import Sink, SinkError

__all__ = [
    "Data",
    "Moment",
    "Url",
    "advised",
    "connected",
    "failures_said",
    "moment_ms",
    "opened",
    "password_of",
    "served_address",
]

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Data directory, running or at rest.", show_default=False),
]

Url = Annotated[str | None, typer.Option("--url", help="ClickHouse's HTTP interface.", show_default=False)]

Moment = Annotated[
    str, typer.Option("--from", help="An age such as 7d or 12h, or a time such as 2026-11-01 (UTC).")
]


_LATEST_MS: Final = 4_102_444_800_000  # 2100-01-01
_OLDER_STORE: Final = (16, 47, 60, 81)  # no such column (in a table, at all), table, database
_INTERRUPTED: Final = 130


@contextlib.contextmanager
def connected(
    command: str, data: Path | None, *, url: str | None = None, user: str | None = None
) -> Iterator[Sink]:
    """Connect to the engine of a data directory, to ``url``, or to what the environment names.

    Ends the command, with what to do on standard error, where nothing answers or a statement is refused.
    ``user`` is as for :func:`opened`.
    """
    with failures_said(command), opened(command, data, url=url, user=user) as sink:
        yield sink


@contextlib.contextmanager
def opened(
    command: str,
    data: Path | None,
    *,
    url: str | None = None,
    user: str | None = None,
    password: str | None = None,
    timeout_s: float = 60,
) -> Iterator[Sink]:
    """The same connection, whose failures are the caller's to say.

    Parameters
    ----------
    user
        By default the writer of a data directory, and elsewhere whom the environment names.
    password
        By default what :func:`password_of` finds.

    Raises
    ------
    CommandError
        There is nothing to ask.
    SinkError
        It does not answer.
    """
    import logging

    from sinks.clickhouse import Sink
    from streams.setting import Settings

    # What its client has to say about an address that does not answer is said by the error.
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
    with served_address(url, data, command) as (address, directory):
        if user is None:
            user = "writer" if directory is not None else Settings.from_environment().clickhouse_user
        secret = password_of(user, directory) if password is None else password
        with contextlib.closing(Sink(address, user, secret, timeout_s=timeout_s)) as sink:
            yield sink


@contextlib.contextmanager
def failures_said(command: str, interrupted: str = "interrupted") -> Iterator[None]:
    """Say in one line what went wrong, with what to do, and end the command: 1, or 130 for Ctrl-C."""
    from gatewatch.price_table import PriceError
    from sinks.clickhouse import SinkError

    try:
        yield
    except CommandError as error:
        fail(command, str(error))
    except PriceError as error:
        fail(command, f"{error}; a later release may have made this version of the prices")
    except SinkError as error:
        fail(command, advised(error))
    except BrokenPipeError:
        # Whoever reads our output has enough, `| head` for one. Python would complain again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except KeyboardInterrupt:
        say(command, interrupted)
        raise typer.Exit(_INTERRUPTED) from None


def advised(error: SinkError) -> str:
    """What the store said, and what to do about it."""
    if error.code in _OLDER_STORE:
        return f"{error}; run `gatewatch migrate`, if a release before this one made the store"
    return f"{error}; see what answers with `gatewatch doctor`"


@contextlib.contextmanager
def served_address(url: str | None, data: Path | None, command: str) -> Iterator[tuple[str, Path | None]]:
    """Where to ask, starting an engine over a directory at rest; and the directory, where there is one.

    Raises
    ------
    CommandError
        There is nothing to ask.
    typer.Exit
        A setting is wrong; that is said in the name of the command.
    """
    from streams.setting import SettingError, Settings

    try:
        settings = Settings.from_environment()
    except SettingError as error:
        wrong_usage(command, str(error))
    if url is None and data is None and "GATEWATCH_CLICKHOUSE_URL" in os.environ:
        url = settings.clickhouse_url
    if url is not None:
        yield url, data
        return
    from sinks.embedded import served_at

    directory = data or settings.data_dir
    served = served_at(directory)
    if served:
        yield served, directory
        return
    if served == "":
        raise CommandError(f"the engine of {directory} is starting or stopping: try again")
    if not (directory / "engine").is_dir():
        raise CommandError(
            f"{directory} holds no data of an engine: name the directory (--data) or a server "
            "(--url or GATEWATCH_CLICKHOUSE_URL), or start one with gatewatch up"
        )
    with _engine_at_rest(directory) as address:
        yield address, directory


@contextlib.contextmanager
def _engine_at_rest(directory: Path) -> Iterator[str]:
    """Serve a directory from this process: the same engine, users and limits as when it runs."""
    from sinks.embedded import EngineInUseError
    from sinks.engine import Engine, Options

    try:
        engine = Engine(
            directory, Options(port=0, reader_password=os.environ.get("GATEWATCH_READER_PASSWORD"))
        )
    except EngineInUseError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"cannot open {directory}: {error.strerror}") from None
    server = threading.Thread(target=engine.serve, name="engine", daemon=True)
    server.start()
    try:
        yield engine.url
    finally:
        engine.stop()
        server.join(5)


def password_of(user: str, directory: Path | None) -> str:
    """The password of a user as the environment or the data directory has it; empty without one."""
    if user == "reader":
        return os.environ.get("GATEWATCH_READER_PASSWORD", "")
    given = os.environ.get("GATEWATCH_CLICKHOUSE_PASSWORD", "")
    if not given and user == "writer" and directory is not None:
        with contextlib.suppress(OSError):
            given = (directory / "engine.token").read_text().strip()
    return given


def moment_ms(command: str, option: str, text: str, now_ms: int) -> int:
    """A time as milliseconds since 1970: ``now``, an age, or a date with or without a time, else UTC.

    Ends the command with 2 where it is none.
    """
    from traffic.incident import seconds

    if text == "now":
        return now_ms
    if text[-1:].isalpha():
        with contextlib.suppress(ValueError, OverflowError):
            return max(0, now_ms - round(seconds(text.removeprefix("-")) * 1000))
    try:
        moment = datetime.fromisoformat(text)
        at_ms = round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        at_ms = -1
    if not 0 <= at_ms <= _LATEST_MS:
        wrong_usage(command, f"{option} {text!r} is no time; write 7d, 12h, 2026-11-01 or 2026-11-01T09:00")
    return at_ms
