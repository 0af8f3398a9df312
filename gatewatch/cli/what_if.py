"""`gatewatch what-if`: what the same calls would have cost at another model."""

from __future__ import annotations

import time
from typing import Annotated, Final

import typer

from gatewatch.cli.connection import Data, Moment, connected, moment_ms
from gatewatch.cli.message import say, wrong_usage
from gatewatch.cli.row import Format, Output, nano_text, print_rows, progress

_NAME: Final = "what-if"
_ASSUMPTION: Final = (
    "the same token counts (tokenizers differ, and another model may answer at another length), at the "
    "prices of each call's own time, tenant and service tier"
)


def command(
    as_: Annotated[str, typer.Option("--as", metavar="PROVIDER/MODEL", help="The model to price at.")],
    from_: Moment = "7d",
    to: Annotated[str, typer.Option("--to", help="Likewise; calls before it.")] = "now",
    provider: Annotated[str, typer.Option(help="Only calls to this provider, as it was sent.")] = "",
    model: Annotated[str, typer.Option(help="Only calls to this model, as it was sent.")] = "",
    tenant: Annotated[str, typer.Option(help="Only calls of this tenant.")] = "",
    output: Output = Format.TABLE,
    data: Data = None,
) -> None:
    """Price the calls that were made at another model, by tenant and model, and say what that assumes.

    Example: gatewatch what-if --from 30d --model gpt-4o --as anthropic/claude-haiku-4-5
    """
    from gatewatch.price_book import Unpriced
    from sinks.price import documents_in_effect
    from sinks.saving import what_if

    now_ms = time.time_ns() // 1_000_000
    begin_ms, end_ms = moment_ms(_NAME, "--from", from_, now_ms), moment_ms(_NAME, "--to", to, now_ms)
    if begin_ms >= end_ms:
        wrong_usage(_NAME, "--to is not after --from")
    target_provider, _, target_model = as_.partition("/")
    if not target_provider.strip() or not target_model.strip():
        wrong_usage(_NAME, f"--as {as_!r} is no PROVIDER/MODEL; write for example openai/gpt-4o-mini")
    with connected(_NAME, data) as sink:
        book = documents_in_effect(sink).book()
        found = book.resolve(target_provider, target_model, end_ms - 1)
        if isinstance(found, Unpriced):
            near = ", ".join(book.nearest(found))
            wrong_usage(_NAME, found.reason + (f"; known names that are near: {near}" if near else ""))
        with progress(begin_ms, end_ms) as on_day:
            rows, reasons = what_if(
                sink,
                book,
                begin_ms,
                end_ms,
                (target_provider, target_model),
                provider=provider,
                model=model,
                tenant=tenant,
                on_day=lambda until_ms: on_day("calls", until_ms),
            )
        shown = [
            {
                "tenant": row.tenant,
                "provider": row.provider,
                "model": row.model,
                "calls": row.calls,
                "partial": row.partial_calls,
                "left_out": row.left_out,
                "paid_usd": nano_text(row.paid_nano_usd),
                "would_usd": nano_text(row.would_nano_usd),
                "difference_usd": nano_text(row.would_nano_usd - row.paid_nano_usd),
            }
            for row in rows
        ]
        print_rows(shown, output is Format.JSON, "no calls")
        if rows:
            paid = sum(row.paid_nano_usd for row in rows)
            would = sum(row.would_nano_usd for row in rows)
            calls = sum(row.calls for row in rows)
            say(
                _NAME,
                f"{calls:,} calls cost ${nano_text(paid)} and would cost ${nano_text(would)} "
                f"({nano_text(would - paid)}) at {found.provider}/{found.model}",
            )
            say(_NAME, f"assumed: {_ASSUMPTION}")
        for reason, count in reasons.items():
            say(_NAME, f"partial or left out, {count:,} calls: {reason}")
