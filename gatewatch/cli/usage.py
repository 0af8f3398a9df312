"""`gatewatch usage`: a filter that makes providers' usage objects inclusive."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec
import typer

from gatewatch.usage import UsageError, read_usage

# Longer lines are no usage objects; reading one whole must not need unbounded memory.
MAX_LINE_BYTES = 1 << 20


def command(
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if any line could not be counted.")
    ] = False,
) -> None:
    """Read providers' usage objects as JSON lines, write them as inclusive counts.

    In, one object a line: {"provider": "...", "model": "..." (may be left out), "usage": {...}},
    where "usage" is the object exactly as the provider sent it. Its shape tells whose it is; the
    provider's name helps where it does not. Out, for each line in the same order:
    the same object with "usage" replaced by inclusive counts (input_tokens, cache_read_tokens,
    output_tokens, ...), or with an "error" that says why it could not be counted.
    Other keys of a line pass through.

    Example: echo '{"provider": "anthropic", "usage": {"input_tokens": 3, "cache_read_input_tokens": 1111,
    "output_tokens": 33}}' | gatewatch usage
    """
    refused = 0
    out = sys.stdout.buffer
    for answer in answers(_lines()):
        refused += "error" in answer
        out.write(msgspec.json.encode(answer) + b"\n")
        out.flush()
    if refused and strict:
        print(f"gatewatch usage: {refused} lines could not be counted; see their errors", file=sys.stderr)
        raise typer.Exit(1)


def answers(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """For each line that is not blank, what `gatewatch usage` answers.

    An ``error`` in the input would be taken for ours, so it is dropped where the line counts.
    """
    for line in lines:
        if line and not line.isspace():
            yield _answer(line)


def _answer(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        return {"error": f"the line is longer than {MAX_LINE_BYTES} bytes"}
    try:
        call = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        # msgspec's message may quote the line, which may hold anything.
        return {"error": "the line is not JSON; send one object a line"}
    if not isinstance(call, dict):
        return {"error": "the line is JSON but no object; send one object a line"}
    provider, usage, model = call.get("provider"), call.get("usage"), call.get("model")
    if provider is not None and not isinstance(provider, str):
        return call | {"error": '"provider" is no string'}
    if not isinstance(usage, dict):
        return call | {"error": 'the line has no "usage", an object'}
    if model is not None and not isinstance(model, str):
        return call | {"error": '"model" is no string'}
    try:
        counted = read_usage(provider or "", usage, model)
    except UsageError as error:
        return call | {"error": str(error)}
    call.pop("error", None)
    return call | {"usage": msgspec.to_builtins(counted)}


def _lines() -> Iterator[bytes]:
    """Standard input's lines; one that is too long is cut just beyond the limit, its rest skipped."""
    source = sys.stdin.buffer
    while line := source.readline(MAX_LINE_BYTES + 2):
        yield line
        while line and not line.endswith(b"\n"):
            line = source.readline(MAX_LINE_BYTES)
