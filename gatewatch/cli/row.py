"""Rows as commands write them: a table for people, JSON lines for programs, and a bar meanwhile."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

__all__ = [
    "CsvFormat",
    "CsvOutput",
    "Format",
    "Output",
    "PipeOutput",
    "decimal_text",
    "encoded",
    "is_json",
    "iso_text",
    "nano_text",
    "print_rows",
    "progress",
    "visible",
]

# A number, dollars (perhaps for something), or a percentage.
_NUMERIC: Final = re.compile(r"-?(\d+(\.\d+)?%?|\$\d.*)")
_PIPE_HELP: Final = "Default: table on a terminal, json (one object a line) in a pipe."


class Format(StrEnum):
    """How rows are written."""

    TABLE = "table"
    JSON = "json"


class CsvFormat(StrEnum):
    """How rows are written, for spreadsheets too."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


Output = Annotated[Format, typer.Option("--format", help="json is one object a line.")]
PipeOutput = Annotated[Format | None, typer.Option("--format", help=_PIPE_HELP)]
CsvOutput = Annotated[CsvFormat | None, typer.Option("--format", help=_PIPE_HELP)]


def is_json(output: Format | None) -> bool:
    """Whether JSON was chosen, or nothing was and a program reads."""
    return not sys.stdout.isatty() if output is None else output is Format.JSON


@contextlib.contextmanager
def progress(begin_ms: int, end_ms: int) -> Iterator[Callable[[str, int], None]]:
    """A bar over a span of time on a terminal's standard error, and nothing elsewhere.

    Yields a function to call with what is done and up to when.
    """
    if not sys.stderr.isatty():
        yield lambda what, until_ms: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=end_ms - begin_ms)
        yield lambda what, until_ms: bar.update(task, description=what, completed=until_ms - begin_ms)


def nano_text(nano: int) -> str:
    """Nano-USD as an exact decimal number of dollars.

    >>> nano_text(-1_500_000_000)
    '-1.5'
    """
    from gatewatch.money import PICO_PER_NANO, usd

    return usd(nano * PICO_PER_NANO)


def decimal_text(amount: Decimal) -> str:
    """A decimal number without the zeros at its end.

    >>> decimal_text(Decimal("2.500"))
    '2.5'
    """
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def iso_text(at: datetime | int) -> str:
    """A time, or milliseconds since 1970, in UTC to the millisecond.

    >>> iso_text(1_760_000_040_000)
    '2025-10-09T08:54:00.000Z'
    """
    moment = datetime.fromtimestamp(at / 1000, UTC) if isinstance(at, int) else at.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def visible(value: object) -> str:
    """A value as text without anything that a terminal would obey: it is shown as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(value))


def encoded(value: Any) -> str:
    """A value as one line of JSON."""
    import msgspec

    return msgspec.json.encode(value).decode()


def print_rows(rows: Sequence[dict[str, Any]], as_json: bool, nothing: str) -> None:
    """Rows with the same keys: one JSON object a line, or columns of text. None is NULL, or ``-``.

    A table leaves out columns in which every text is empty. Of no rows, it is the text ``nothing``.
    """
    if as_json:
        for row in rows:
            print(encoded(row))
    elif not rows:
        print(nothing)
    else:
        names = [name for name in rows[0] if any(row[name] != "" for row in rows)]
        texts = [names, *([_shown(row[name]) for name in names] for row in rows)]
        wide = [max(len(line[column]) for line in texts) for column in range(len(names))]
        numeric = [
            all(_is_number(row[name]) for row in rows) and any(row[name] is not None for row in rows)
            for name in names
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
    if value is None or isinstance(value, int | float | Decimal):
        return True
    return isinstance(value, str) and _NUMERIC.fullmatch(value) is not None


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:,}" if type(value) is int else visible(value)
