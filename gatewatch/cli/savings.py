"""`gatewatch savings`: what could have been saved, with the calls that prove it."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from gatewatch.cli.connection import Data, Moment, connected, moment_ms
from gatewatch.cli.message import say, wrong_usage
from gatewatch.cli.row import Format, Output, iso_text, nano_text, print_rows, progress

_NAME: Final = "savings"


class Kind(StrEnum):
    """What could be saved."""

    FAILED = "failed"
    ABANDONED = "abandoned"
    RETRIED = "retried"
    UNCACHED = "uncached"
    BATCH = "batch"
    IDLE = "idle"


def command(
    from_: Moment = "7d",
    to: Annotated[str, typer.Option("--to", help="Likewise; calls before it.")] = "now",
    kind: Annotated[
        list[Kind] | None, typer.Option("--kind", help="Only this kind; may be repeated.", show_default=False)
    ] = None,
    calls: Annotated[
        bool, typer.Option("--calls", help="The calls that prove it, one by one; with one --kind.")
    ] = False,
    output: Output = Format.TABLE,
    data: Data = None,
) -> None:
    """Say what could have been saved, by tenant and model. Kinds overlap: do not add them up.

    Kinds: failed and abandoned calls that were paid; retried, attempts that had to be repeated; uncached,
    prompts whose beginning repeats within five minutes and is not read from the cache; batch, calls at the
    standard tier that nobody waits for; idle, GPUs of one's own. docs/spend.md has the assumptions.

    Example: gatewatch savings --from 2026-11-01 --to 2026-12-01 --kind uncached --calls
    """
    from sinks.price import documents_in_effect
    from sinks.saving import KINDS, proofs, savings
    from sinks.views.saving import ASSUMPTIONS

    now_ms = time.time_ns() // 1_000_000
    begin_ms, end_ms = moment_ms(_NAME, "--from", from_, now_ms), moment_ms(_NAME, "--to", to, now_ms)
    if begin_ms >= end_ms:
        wrong_usage(_NAME, "--to is not after --from")
    chosen = [name for name in KINDS if kind is None or name in kind]
    if calls and len(chosen) != 1:
        wrong_usage(_NAME, "--calls goes with one --kind")
    with connected(_NAME, data) as sink:
        book = documents_in_effect(sink).book()
        as_json = output is Format.JSON
        if calls:
            rows = [_proof(row) for row in proofs(sink, book, begin_ms, end_ms, chosen[0])]
        else:
            with progress(begin_ms, end_ms) as on_day:
                found = savings(sink, book, begin_ms, end_ms, chosen, on_day)
            rows = [
                {
                    "kind": row.kind,
                    "tenant": row.tenant,
                    "provider": row.provider,
                    "model": row.model,
                    "calls": row.calls,
                    "left_out": row.left_out,
                    "paid_usd": nano_text(row.paid_nano_usd),
                    "could_save_usd": nano_text(row.could_save_nano_usd),
                }
                for row in found
            ]
        print_rows(rows, as_json, "nothing that could have been saved")
        if not as_json and rows:
            for name in chosen:
                say(_NAME, f"{name} assumes: {ASSUMPTIONS[name].partition('; gatewatch')[0]}")


def _proof(row: dict[str, Any]) -> dict[str, Any]:
    at = iso_text(int(row.pop("started_ms")))
    paid, saved = row.pop("paid_nano_usd"), row.pop("could_save_nano_usd")
    return {
        "started_at": at,
        **row,
        "paid_usd": None if paid is None else nano_text(paid),
        "could_save_usd": None if saved is None else nano_text(saved),
    }
