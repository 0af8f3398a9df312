"""Rows as commands write them: a table for people, JSON lines for programs, and a bar meanwhile."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Annotated, Any

import typer

__all__ = ["Format", "Output", "nano_text", "print_rows", "progress"]


class Format(StrEnum):
    """How rows are written."""

    TABLE = "table"
    JSON = "json"


Output = Annotated[Format, typer.Option("--format", help="json is one object a line.")]


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
