"""`gatewatch export`: stored calls in the formats of other tools."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from gatewatch.cli.connection import Data, Url, failures_said, opened
from gatewatch.cli.message import CommandError, fail, say, wrong_usage
from gatewatch.cli.row import visible

if TYPE_CHECKING:
    from gatewatch.price_book import PriceBook
    from sinks.clickhouse import Sink
    from sinks.focus.charge import Summary
    from sinks.focus.file import RowFile

commands = typer.Typer(no_args_is_help=True, help="Stored calls in the formats of other tools.")

_NAME: Final = "export"
_TERMINATED: Final = 143
_NAMED: Final = 5
"""Models without a price that are named; the others are counted."""
_TIMEOUT_S: Final = 600
_TOO_MUCH: Final = (159, 241)  # TIMEOUT_EXCEEDED, MEMORY_LIMIT_EXCEEDED


class Format(StrEnum):
    """How a file is written."""

    CSV = "csv"
    PARQUET = "parquet"


class Grain(StrEnum):
    """The time of a row."""

    DAY = "day"
    HOUR = "hour"


@commands.callback()
def _group() -> None:
    """Keep `focus` a name, though it is the only command."""


@commands.command()
def focus(
    month: Annotated[str | None, typer.Option(help="The month, as 2026-11, UTC.", show_default=False)] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="Instead: the first day, as 2026-11-01, UTC.", show_default=False),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", help="The day after the last one.", show_default=False)
    ] = None,
    format_: Annotated[
        Format | None,
        typer.Option("--format", help="Default: parquet for a FILE of that name, else csv."),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", metavar="FILE", help="Where to write; - is standard output.")
    ] = "-",
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    metadata: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the metadata of the specification there, as JSON.", show_default=False
        ),
    ] = None,
    grain: Annotated[Grain, typer.Option(help="What time a row is about.")] = Grain.DAY,
    tag: Annotated[
        list[str] | None,
        typer.Option(
            help="A tag of the calls that rows tell apart; may be repeated, * is all of them.",
            show_default=False,
        ),
    ] = None,
    issuer: Annotated[str, typer.Option(help="InvoiceIssuerName: who charges the tenants.")] = "gatewatch",
    billing_account: Annotated[
        str, typer.Option(help="BillingAccountId: whom all of it is charged to.")
    ] = "gatewatch",
    fail_on_unpriced: Annotated[
        bool, typer.Option("--fail-on-unpriced", help="Write no file when calls have no price; end with 1.")
    ] = False,
    url: Url = None,
    data: Data = None,
    user: Annotated[str, typer.Option("--user", help="reader or writer, or a server's user.")] = "reader",
    password: Annotated[
        str | None, typer.Option("--password", help="Better by environment: see gatewatch query.")
    ] = None,
) -> None:
    """Write what calls cost as FOCUS 1.4, the FinOps Open Cost and Usage Specification.

    A row is a day or hour, who called, the model and the meter, such as cached input tokens. All rows sum
    to the calls' cost, to the nano-dollar. Calls without a price are in no row: they are counted on
    standard error. docs/focus.md explains the columns.

    Example: gatewatch export focus --month 2026-11 --format parquet --output 2026-11.parquet
    """
    start, end = _time(month, from_, to)
    chosen = format_ or (Format.PARQUET if output.endswith(".parquet") else Format.CSV)
    if chosen is Format.PARQUET and output == "-" and sys.stdout.isatty():
        wrong_usage(_NAME, "Parquet is no text for a terminal: name a file with --output")
    for name, value in (("--issuer", issuer), ("--billing-account", billing_account)):
        if not value.strip():
            wrong_usage(_NAME, f"{name} is empty, which the specification does not allow")
    if metadata is not None and output != "-" and metadata.resolve() == Path(output).resolve():
        wrong_usage(_NAME, "--metadata and --output name the same file")
    from sinks.clickhouse import SinkError
    from sinks.focus.charge import ExportError, Summary, charges, periods
    from sinks.focus.column import metadata as metadata_of
    from sinks.focus.file import CsvFile, ParquetFile, new_file

    summary = Summary()
    written_at = datetime.now(UTC)
    with failures_said(_NAME, "cancelled"):
        try:
            with contextlib.ExitStack() as stack:
                # Unfinished files go when it is asked to end, too.
                stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _terminate))
                # What is being done makes room for what went wrong.
                stack.callback(_progress, "")
                target: IO[bytes] = sys.stdout.buffer
                if output != "-":
                    target = stack.enter_context(new_file(Path(output), force=force))
                if metadata is not None:
                    said = metadata_of(written_at=written_at, start=start, end=end, grain=grain.value)
                    beside = stack.enter_context(new_file(metadata, force=force))
                    beside.write(json.dumps(said, indent=2).encode() + b"\n")
                connection = opened(_NAME, data, url=url, user=user, password=password, timeout_s=_TIMEOUT_S)
                sink = stack.enter_context(connection)
                book, listed = _prices(sink)
                file: RowFile = (CsvFile if chosen is Format.CSV else ParquetFile)(target)
                spans = periods(start, end, grain.value)
                for number, (first, last) in enumerate(spans, 1):
                    _progress(f"{first:%Y-%m-%d %H:%M}, {number} of {len(spans)}")
                    for rows in charges(
                        sink,
                        first,
                        last,
                        book=book,
                        listed=listed,
                        summary=summary,
                        issuer=issuer,
                        billing_account=billing_account,
                        tags=tag or (),
                    ):
                        file.write(rows)
                file.close()
                target.flush()
                if fail_on_unpriced and summary.calls["unpriced"]:
                    raise CommandError(f"{_unpriced(summary)}; nothing was written to a file")
        except FileExistsError as error:
            there = error.filename2 or error.filename
            fail(_NAME, f"{there} is there already: choose another name, or --force, which replaces files")
        except ExportError as error:
            fail(_NAME, str(error))
        except SinkError as error:
            if error.code not in _TOO_MUCH:
                raise
            fail(_NAME, f"{error} (--grain hour asks for less at once; --user writer has no limits)")
        except BrokenPipeError:
            raise
        except OSError as error:
            fail(_NAME, f"cannot write {error.filename or output}: {error.strerror}")
    _report(summary)


def _prices(sink: Sink) -> tuple[PriceBook, PriceBook]:
    """The prices in effect: with all contracts, and with those only that say what a deployment is."""
    from msgspec.structs import replace

    from gatewatch.price_book import PriceBook
    from sinks.price import documents_in_effect

    documents = documents_in_effect(sink)
    mapping = [
        replace(row, free=False, rates={}, adjust_bp=0) for row in documents.rows() if row.same_as_model
    ]
    return documents.book(), PriceBook(mapping, documents.tables())


def _time(month: str | None, from_: str | None, to: str | None) -> tuple[datetime, datetime]:
    if (month is None) == (from_ is None and to is None):
        wrong_usage(_NAME, "say which time, in one way: --month, or --from and --to")
    if month is not None:
        if not re.fullmatch(r"\d{4}-\d{2}", month, re.ASCII):
            wrong_usage(_NAME, f"--month {month!r} is no month; write it as 2026-11")
        start = _day("--month", f"{month}-01")
        return start, (start + timedelta(days=32)).replace(day=1)
    if from_ is None or to is None:
        wrong_usage(_NAME, "--from and --to go together")
    start, end = _day("--from", from_), _day("--to", to)
    if start >= end:
        wrong_usage(_NAME, f"--from {from_} is not before --to {to}")
    return start, end


def _day(option: str, text: str) -> datetime:
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        wrong_usage(_NAME, f"{option} {text!r} is no day; write it as 2026-11-01")
    # What the engine's dates can hold, and a year beyond it less.
    if not 1970 <= day.year < 2100:
        wrong_usage(_NAME, f"{option} {text!r} is not between 1970 and 2100")
    return day


def _unpriced(summary: Summary) -> str:
    most = summary.unpriced.most_common(_NAMED)
    names = ", ".join(f"{visible('/'.join(names))} ({calls})" for names, calls in most)
    rest = len(summary.unpriced) - len(most)
    more = f" and {rest} more models" if rest else ""
    return (
        f"{summary.calls['unpriced']} calls with {summary.unpriced_tokens} tokens have no price and are in "
        f"no row: {names}{more}"
    )


def _report(summary: Summary) -> None:
    from gatewatch.money import usd

    priced = sum(calls for status, calls in summary.calls.items() if status not in ("", "unpriced"))
    say(_NAME, f"{summary.rows} rows of {priced} calls, {usd(summary.cost_nano_usd * 1000)} USD")
    if summary.calls["unpriced"]:
        say(_NAME, _unpriced(summary) + " (--fail-on-unpriced refuses such a time)")
    if summary.calls["partial"]:
        say(_NAME, f"{summary.calls['partial']} calls are priced in part; x_CostStatus says which rows")
    if summary.calls[""]:
        say(_NAME, f"{summary.calls['']} calls have not ended, as far as is known, and are in no row")
    if summary.no_unit_price_nano_usd:
        say(
            _NAME,
            f"{usd(summary.no_unit_price_nano_usd * 1000)} USD of it were priced by other prices than those "
            "at hand: their rows have no unit price (x_UnitPriceSource is cost)",
        )


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _terminate(number: int, frame: object) -> NoReturn:
    raise SystemExit(_TERMINATED)
