"""An INSERT whose rows follow it: split from them, and given them as a file."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_INSERT: Final = re.compile(rb"(\s|--[^\n]*\n|/\*.*?\*/)*INSERT\b", re.IGNORECASE | re.DOTALL)


# Everything that can hide a keyword from a reader of SQL: strings, quoted names, comments.
_TOKEN: Final = re.compile(
    rb"""'(?:[^'\\]|\\.)*' | `(?:[^`\\]|\\.)*` | "(?:[^"\\]|\\.)*"
    | --[^\n]* | /\*.*?\*/ | \w+ | [()] | .""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Insert:
    """An INSERT whose rows follow it in a format.

    Attributes
    ----------
    target:
        The statement up to its settings and format.
    settings:
        Its SETTINGS clause, or nothing.
    input_format:
        The format of the rows.
    data_at:
        Where in the text the rows begin.
    """

    target: str
    settings: str
    input_format: str
    data_at: int

    @classmethod
    def parse(cls, text: bytes) -> Insert | None:
        """Split `INSERT INTO t (a, b) SETTINGS ... FORMAT X` from its rows; None for anything else."""
        begin = _INSERT.match(text)
        if begin is None:
            return None
        depth = 0
        settings_at = None
        for token in _TOKEN.finditer(text, begin.end()):
            word = token[0]
            if word == b"(":
                depth += 1
            elif word == b")":
                depth -= 1
            elif depth == 0:
                keyword = word.upper()
                if keyword in (b"SELECT", b"WITH", b"VALUES", b"INFILE", b"WATCH"):
                    return None
                if keyword == b"SETTINGS":
                    settings_at = token.start()
                elif keyword == b"FORMAT":
                    named = re.compile(rb"\s+(\w+)[ \t\r]*\n?").match(text, token.end())
                    if named is None:
                        return None
                    if named[1].upper() == b"VALUES":
                        return None  # the engine reads values from the statement itself
                    split = settings_at if settings_at is not None else token.start()
                    return cls(
                        text[:split].decode().strip(),
                        text[split : token.start()].decode().strip(),
                        named[1].decode(),
                        named.end(),
                    )
        return None

    def from_file(self, path: str) -> str:
        """The same statement with its rows in a file."""
        file = f"FROM INFILE '{path}' COMPRESSION 'none'"
        return f"{self.target} {file} {self.settings} FORMAT {self.input_format}"


@contextlib.contextmanager
def memory_file() -> Iterator[int]:
    """A file without a name, in memory where the system has that."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("insert", os.MFD_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    else:
        import tempfile

        with tempfile.TemporaryFile(buffering=0) as file:
            yield file.fileno()


def write_all(file: int, data: bytes | memoryview) -> None:
    """Write all of it; a single write may take less."""
    view = memoryview(data)
    while len(view):
        view = view[os.write(file, view) :]
