"""Output formats: which can be sent block by block, and how blocks become one document."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from sinks.embedded import EngineError

# Blocks of these formats can be joined (`joined`); the others have a footer and are answered whole.
STREAMABLE: Final = frozenset(
    {
        "Native",
        "ArrowStream",
        "TabSeparated",
        "TSV",
        "TabSeparatedRaw",
        "TSVRaw",
        "CSV",
        "CSVWithNames",
        "TabSeparatedWithNames",
        "TSVWithNames",
        "RowBinary",
        "JSONEachRow",
        "JSONLines",
        "NDJSON",
        "JSONCompactEachRow",
        "JSONCompactEachRowWithNames",
        "JSONCompactEachRowWithNamesAndTypes",
        "JSONCompactStringsEachRow",
        "JSONCompactStringsEachRowWithNames",
        "JSONCompactStringsEachRowWithNamesAndTypes",
        "JSONStringsEachRow",
        "MsgPack",
        "LineAsString",
        "TSKV",
    }
)


CONTENT_TYPES: Final = {
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TabSeparatedWithNames": "text/tab-separated-values; charset=UTF-8",
    "ArrowStream": "application/vnd.apache.arrow.stream",
    "Native": "application/octet-stream",
}


_FORMAT_AT_END: Final = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)


def trailing_format(sql: str) -> str | None:
    """Give the format that a statement ends with, `FORMAT x`; None without one."""
    found = _FORMAT_AT_END.search(sql)
    return found[1] if found else None


def joined(blocks: Iterator[memoryview], output: str) -> Iterator[memoryview]:
    """Join blocks that are documents of their own into one: the header once, and one end.

    Blocks of a format without a header are passed on.
    """
    header_bytes = _HEADERS.get(output)
    if header_bytes is None:
        yield from blocks
        return
    end = _ARROW_END if output == "ArrowStream" else b""
    header: bytes | None = None
    for block in blocks:
        if header is None:
            header = bytes(block[: header_bytes(block)])
        elif bytes(block[: len(header)]) == header:
            block = block[len(header) :]
        else:
            raise EngineError(49, "LOGICAL_ERROR", f"the header of {output} changed between blocks")
        yield block[: len(block) - len(end)] if end and bytes(block[-len(end) :]) == end else block
    yield memoryview(end)


def _schema_bytes(block: memoryview) -> int:
    """Length of an Arrow stream's schema: a marker, the length of its metadata, the metadata.

    See https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format.
    """
    return 8 + int.from_bytes(block[4:8], "little")


def _lines_bytes(count: int) -> Callable[[memoryview], int]:
    """Length of so many first lines; a line break within CSV's quotes ends none."""
    lines = re.compile(rb'(?:(?:"(?:[^"]|"")*"|[^"\n])*\n){%d}' % count)

    def measure(block: memoryview) -> int:
        found = lines.match(block)
        return found.end() if found else len(block)

    return measure


_ARROW_END: Final = b"\xff\xff\xff\xff\0\0\0\0"


_HEADERS: Final[Mapping[str, Callable[[memoryview], int]]] = {
    "ArrowStream": _schema_bytes,
    "CSVWithNames": _lines_bytes(1),
    "TabSeparatedWithNames": _lines_bytes(1),
    "TSVWithNames": _lines_bytes(1),
    "JSONCompactEachRowWithNames": _lines_bytes(1),
    "JSONCompactEachRowWithNamesAndTypes": _lines_bytes(2),
    "JSONCompactStringsEachRowWithNames": _lines_bytes(1),
    "JSONCompactStringsEachRowWithNamesAndTypes": _lines_bytes(2),
}
