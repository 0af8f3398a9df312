"""`gatewatch reprice`: what stored calls cost by the prices of today."""

from __future__ import annotations

import contextlib
import difflib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gatewatch.cli.connection import Data, Moment, connected, moment_ms
from gatewatch.cli.message import say, wrong_usage
from gatewatch.cli.row import PipeOutput, is_json, print_rows

if TYPE_CHECKING:
    from sinks.clickhouse import Sink
    from sinks.repricing import Change, Outcome, Scope


_NAME: Final = "reprice"
_AHEAD_MS: Final = 3_600_000
_OLDEST_DAYS: Final = 380
"""A window is merged again from all of its chunks, and a chunk expires by when it was begun."""


def command(
    from_: Moment,
    to: Annotated[
        str | None, typer.Option("--to", help="And before this; now if left out.", show_default=False)
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="Only this model, as calls name it; may be repeated.", show_default=False
        ),
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            "--provider", help="Only this provider, as calls name it; likewise.", show_default=False
        ),
    ] = None,
    tenant: Annotated[
        list[str] | None, typer.Option("--tenant", help="Only this tenant; likewise.", show_default=False)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the difference; nothing is written.")
    ] = False,
    output: PipeOutput = None,
    data: Data = None,
) -> None:
    """Compute what stored calls cost again, by the newest prices, and show the difference.

    Costs are computed from the usage that is stored. What was reported before is kept
    (cost_as_reported_usd of the view calls); views and aggregates show the new cost. It may run beside
    workers, and be interrupted: run again, it completes what it began, and once all is done it changes
    nothing. Runs are listed by the view reprices.

    Example: gatewatch reprice --from 2026-11-01 --to 2026-12-01 --model gpt-4o --dry-run
    """
    from sinks.clickhouse import SinkError
    from sinks.repricing import Scope, newest_prices, reprice_calls

    now_ms = round(time.time() * 1000)
    from_ms = moment_ms(_NAME, "--from", from_, now_ms)
    # No call starts later than that, and times have bounds where they are stored.
    until_ms = min(moment_ms(_NAME, "--to", to, now_ms), now_ms + _AHEAD_MS) if to is not None else now_ms
    if from_ms >= until_ms:
        wrong_usage(_NAME, f"--from {from_} is not before --to {to or 'now'}, or in the future")
    if from_ms < now_ms - _OLDEST_DAYS * 86_400_000:
        wrong_usage(
            _NAME,
            f"--from {from_} is more than {_OLDEST_DAYS} days ago: what aggregates are made of is kept "
            "for 400 days, and could be there in part",
        )
    scope = Scope(
        from_ms=from_ms,
        until_ms=until_ms,
        providers=tuple(provider or ()),
        models=tuple(model or ()),
        tenants=tuple(tenant or ()),
    )
    with connected(_NAME, data) as sink:
        _check_names(sink, scope)
        version, book, ahead_ms = newest_prices(sink)
        try:
            with _progress(sink, scope) as advance:
                outcome = reprice_calls(sink, scope, version, book, dry_run=dry_run, on_progress=advance)
        except (KeyboardInterrupt, SinkError):
            if not dry_run:
                say(_NAME, "not all is done; running it again completes it")
            raise
    _print(outcome, is_json(output), dry_run)
    if ahead_ms:
        say(
            _NAME,
            f"version {version} takes effect in {-(-ahead_ms // 1000):,} s: calls that come until then have "
            "the prices before it; run it again afterwards",
        )


def _check_names(sink: Sink, scope: Scope) -> None:
    """Refuse names that no call of that time has: a typing error would reprice nothing and look well."""
    from sinks.repricing import known_names

    for column, names in (("provider", scope.providers), ("model", scope.models), ("tenant", scope.tenants)):
        if not names:
            continue
        known = known_names(sink, scope, column)
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, 3, 0.5)
                hint = f"; near are: {', '.join(repr(other)[1:-1] for other in near)}" if near else ""
                wrong_usage(_NAME, f"no call of that time has the {column} {name!r}{hint}")


@contextlib.contextmanager
def _progress(sink: Sink, scope: Scope) -> Iterator[Callable[[int], object]]:
    """A bar on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        yield lambda calls: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from sinks.repricing import count_calls

    columns = (TextColumn("calls"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("calls", total=count_calls(sink, scope))
        yield lambda calls: bar.advance(task, calls)


# -- what is written ---------------------------------------------------------------------------


def _print(outcome: Outcome, as_json: bool, dry_run: bool) -> None:
    total = _row("total", "", "", _sum(outcome.changes))
    if as_json:
        rows = [_row(change.tenant, change.provider, change.model, change) for change in outcome.changes]
        print_rows([{"total": False, **row} for row in rows], True, "")
        nobody = {"tenant": None, "provider": None, "model": None}
        print_rows([{"total": True, **total, **nobody}], True, "")
    else:
        changed = [change for change in outcome.changes if change.changed]
        rest = [change for change in outcome.changes if not change.changed]
        rows = [_row(change.tenant, change.provider, change.model, change) for change in changed]
        if rows and rest:
            rows.append(_row("(unchanged)", "", "", _sum(rest)))
        print_rows([*rows, total], False, "")
    done = "would change" if dry_run else "changed"
    text = f"{outcome.changed:,} of {outcome.calls:,} calls {done}, prices of version {outcome.price_version}"
    if dry_run:
        text += "; nothing was written"
    if outcome.newer:
        text += f"; {outcome.newer:,} stay as they are: a later version has priced them"
    say(_NAME, text)


def _sum(changes: Any) -> Change:
    from sinks.repricing import Change

    sums = {
        name: sum(getattr(change, name) for change in changes)
        for name in Change.__struct_fields__
        if name not in ("tenant", "provider", "model")
    }
    return Change(tenant="", provider="", model="", **sums)


def _row(tenant: str, provider: str, model: str, change: Change) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "provider": provider,
        "model": model,
        "calls": change.calls,
        "changed": change.changed,
        "before_usd": _usd(change.before_nano_usd),
        "after_usd": _usd(change.after_nano_usd),
        "change_usd": _usd(change.after_nano_usd - change.before_nano_usd),
        "unpriced_before": change.unpriced_before,
        "unpriced_after": change.unpriced_after,
    }


def _usd(nano: int) -> str:
    """Dollars, exactly, with the same number of places in every row."""
    whole, rest = divmod(abs(nano), 10**9)
    return f"{'-' if nano < 0 else ''}{whole}.{rest:09d}"
