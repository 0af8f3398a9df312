"""`gatewatch price`: a filter that says what calls cost, exactly, and how that came about."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, BinaryIO

import msgspec
import typer

from gatewatch.cli.usage import MAX_LINE_BYTES
from gatewatch.pricing import Cost, price
from gatewatch.usage import UsageError

_BLOCK_BYTES = 1 << 16


def command(
    reported: Annotated[
        bool,
        typer.Option(
            "--reported",
            help='Where there is no price, take "reported_cost_usd"; the status is provider_reported.',
        ),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if any line was refused or has no whole price.")
    ] = False,
) -> None:
    """Read calls as JSON lines, write each with what it cost.

    In, one object a line: {"provider": "...", "model": "...", "usage": {...}}, where "usage" is the object
    exactly as the provider sent it; and, where known, "at" (ISO 8601, an HTTP date, or milliseconds since
    1970; now if left out), "service_tier", "deployment" and "tenant". Out, for each line in the same order,
    the same object with "usage" (inclusive counts), "cost_usd" and "parts" (exact decimal strings; null and
    empty if there is no price), "cost_status" (priced, partial, unpriced, provider_reported, free),
    "price_id", "explanation", a line to check with a pocket calculator, and "error", why a line was refused.

    Example: echo '{"provider": "openai", "model": "gpt-4o", "usage": {"prompt_tokens": 1000,
    "completion_tokens": 100}}' | gatewatch price
    """
    short = 0
    out = sys.stdout.buffer
    encode = msgspec.json.Encoder().encode
    for lines in _batches(sys.stdin.buffer):
        # All that has come is answered before more is waited for, in one write: a pipe that is full is
        # answered a fifth faster so, and a person at a terminal line by line.
        for answer in answers(lines, reported=reported):
            short += answer["cost_status"] not in ("priced", "free")
            out.write(encode(answer) + b"\n")
        out.flush()
    if short and strict:
        print(f"gatewatch price: {short} lines have no whole price; see their explanations", file=sys.stderr)
        raise typer.Exit(1)


def answers(lines: Iterable[bytes], *, reported: bool = False) -> Iterator[dict[str, Any]]:
    """For each line that is not blank, what `gatewatch price` answers: always with all of its keys.

    ``usage`` is a :class:`~gatewatch.usage.Usage`, or None where the line is refused.
    """
    decode = msgspec.json.Decoder().decode
    for line in lines:
        if not line or line.isspace():
            continue
        if len(line) > MAX_LINE_BYTES:
            yield _refused({}, f"the line is longer than {MAX_LINE_BYTES} bytes")
            continue
        try:
            call = decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
            # msgspec's message may quote the line, which may hold anything.
            yield _refused({}, "the line is not JSON; send one object a line")
            continue
        if not isinstance(call, dict):
            yield _refused({}, "the line is JSON but no object; send one object a line")
            continue
        try:
            cost = _cost(call, reported)
        except UsageError as error:
            yield _refused(call, str(error))
        else:
            yield call | {
                "usage": cost.usage,
                "cost_usd": cost.cost_usd,
                "parts": cost.parts_usd,
                "cost_status": cost.cost_status,
                "price_id": cost.price_id,
                "explanation": cost.explanation,
                "error": None,
            }


def _batches(source: BinaryIO) -> Iterator[list[bytes]]:
    """The lines that have come, as often as some come; one that is too long is cut just beyond the limit."""
    read = getattr(source, "read1", source.read)
    rest = b""
    while block := read(_BLOCK_BYTES):
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            lines.append(rest[: MAX_LINE_BYTES + 1])
            yield lines
            while rest and b"\n" not in rest:
                rest = read(_BLOCK_BYTES)
            *lines, rest = rest.partition(b"\n")[2].split(b"\n")
        if lines:
            yield lines
    if rest:
        yield [rest]


def _cost(call: dict[str, Any], reported: bool) -> Cost:
    usage = call.get("usage")
    if not isinstance(usage, dict):
        raise UsageError('the line has no "usage", an object')
    return price(
        _text(call, "provider"),
        _text(call, "model"),
        usage,
        at_ms=_at_ms(call.get("at")),
        service_tier=_text(call, "service_tier"),
        deployment=_text(call, "deployment"),
        tenant=_text(call, "tenant"),
        reported_cost_usd=_reported(call.get("reported_cost_usd")) if reported else None,
    )


def _refused(call: dict[str, Any], error: str) -> dict[str, Any]:
    return call | {
        "usage": None,
        "cost_usd": None,
        "parts": {},
        "cost_status": "unpriced",
        "price_id": "",
        "explanation": "",
        "error": error,
    }


def _text(call: dict[str, Any], key: str) -> str:
    value = call.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UsageError(f'"{key}" is no string')
    return value


def _reported(value: object) -> str | None:
    """Dollars as they stand in the line; a JSON number came through a float, at its shortest spelling."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError('"reported_cost_usd" is no decimal number of dollars')
    return str(value)


def _at_ms(value: object) -> int | None:
    """Milliseconds since 1970 of a time as people and APIs write it; without a zone it is UTC."""
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        for read in (datetime.fromisoformat, parsedate_to_datetime):
            try:
                at = read(value.strip())
            except (ValueError, OverflowError):
                continue
            at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
            return int((at - _EPOCH).total_seconds() * 1000)
    raise UsageError('"at" is neither ISO 8601, nor an HTTP date, nor milliseconds since 1970')


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
