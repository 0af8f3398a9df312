"""Rows of a FOCUS export as CSV or Parquet, into a file that is whole or not there."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from decimal import Context, Decimal
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Final, Literal, Protocol, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from sinks.focus.charge import Row
from sinks.focus.column import FOCUS_VERSION, GENERATOR, WRITTEN, Kind, arrow_schema

__all__ = ["CsvFile", "Format", "ParquetFile", "RowFile", "new_file"]

Format: TypeAlias = Literal["csv", "parquet"]

_EXACT: Final = Context(prec=60)


class RowFile(Protocol):
    """Rows go in, some at a time; :meth:`close` makes the file whole, and does not close its target."""

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""

    def close(self) -> None:
        """Write what is still to be written."""


class CsvFile:
    """UTF-8, comma separated, quoted where needed (RFC 4180, but lines end with LF); null is empty."""

    def __init__(self, target: IO[bytes]) -> None:
        self._text = io.TextIOWrapper(target, encoding="utf-8", newline="", write_through=False)
        self._writer = csv.writer(self._text, lineterminator="\n")
        self._writer.writerow([column.name for column in WRITTEN])

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        columns = zip(*rows, strict=True) if rows else ()
        texts = [
            map(_TEXTS[column.kind], values) for column, values in zip(WRITTEN, columns, strict=bool(rows))
        ]
        self._writer.writerows(zip(*texts, strict=True))

    def close(self) -> None:
        """Write what is still to be written."""
        self._text.flush()
        self._text.detach()


class ParquetFile:
    """Decimals of 38 digits, times in UTC; a row group each time rows are written."""

    def __init__(self, target: IO[bytes]) -> None:
        self._schema = arrow_schema().with_metadata(
            {"focus_version": FOCUS_VERSION, "data_generator": GENERATOR}
        )
        self._writer = pq.ParquetWriter(target, self._schema, compression="zstd")

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        columns = zip(*rows, strict=True) if rows else [()] * len(WRITTEN)
        arrays = [
            pa.array([_rescaled(value, column.scale) for value in values], type=field.type)
            if column.kind == "decimal"
            else pa.array(values, type=field.type)
            for column, field, values in zip(WRITTEN, self._schema, columns, strict=True)
        ]
        if rows:
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        """Write what is still to be written."""
        self._writer.close()


@contextlib.contextmanager
def new_file(path: Path, *, force: bool = False) -> Iterator[IO[bytes]]:
    """A file that appears under its name when the block has ended, and not when it has failed.

    Parameters
    ----------
    force
        Take the place of a file that is there.

    Raises
    ------
    FileExistsError
        There is one, and ``force`` was not given; also when it came while this one was written. Or it is no
        file, which nothing takes the place of.
    OSError
        It cannot be written.
    """
    if force:
        path = path.resolve()  # what a link leads to is replaced, not the link
    if (path.exists() or path.is_symlink()) and not (force and path.is_file()):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with unfinished.open("xb") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        if force:
            unfinished.replace(path)
        else:
            path.hardlink_to(unfinished)  # unlike a rename, refuses what is there
    finally:
        unfinished.unlink(missing_ok=True)


def _number(value: Decimal | None) -> str:
    if not value:
        return "" if value is None else "0.0"
    # No exponent, and always a point: readers that guess types would take whole numbers for integers.
    text = format(value, "f")
    if "." not in text:
        return f"{text}.0"
    whole, _, rest = text.partition(".")
    return f"{whole}.{rest.rstrip('0') or 0}"


@lru_cache(maxsize=16)
def _moment(value: datetime) -> str:
    return value.strftime("%Y-%m-%dT%H:%M:%SZ")


def _null_is_empty(value: str | None) -> str:
    return value or ""


_TEXTS: Final[dict[Kind, Callable[[Any], str]]] = {
    "string": _null_is_empty,
    "json": _null_is_empty,
    "decimal": _number,
    "datetime": _moment,
}


def _rescaled(value: Decimal | None, scale: int) -> Decimal | None:
    return None if value is None else value.quantize(Decimal(1).scaleb(-scale), context=_EXACT)
