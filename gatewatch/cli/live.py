"""The live view: one screen that says how the calls and the pipeline are doing.

It is drawn from a :class:`streams.overview.Overview`, so from the views, as any reader could.
"""

from __future__ import annotations

import io
import re
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from signals.budget import BudgetStatus
    from streams.overview import Overview

__all__ = ["Meter", "Status", "draw", "line", "picture"]

_METER_S: Final = 10.0
_MODELS_LEAST: Final = 4
_LETTER_ROWS: Final = 3
_STALE_S: Final = 10.0
_SLOW_MS: Final = 10_000.0
"""From here on a duration is coloured: ten seconds is where users' attention goes (Nielsen, 1993)."""
_FAILING: Final = 0.05


class Meter:
    """The rate of a counter over the last ten seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, total: int, now_s: float | None = None) -> float:
        """Note the counter; its rate per second."""
        now = time.monotonic() if now_s is None else now_s
        self._seen.append((now, total))
        while len(self._seen) > 2 and now - self._seen[0][0] > _METER_S:
            self._seen.popleft()
        then, before = self._seen[0]
        return (total - before) / (now - then) if now > then else 0.0


class Status:
    """What the sender's side knows and the views cannot."""

    def __init__(self, total_s: float, about: str) -> None:
        self.total_s = total_s
        self.about = about
        self.running_s = 0.0
        self.emitted = 0
        self.emitted_per_s = 0.0
        self.stored_per_s = 0.0
        self.notes: deque[str] = deque(maxlen=2)
        self._emitted = Meter()
        self._stored = Meter()

    def update(self, running_s: float, emitted: int, stored: int) -> None:
        """Take the counters."""
        self.running_s = running_s
        self.emitted = emitted
        self.emitted_per_s = self._emitted.add(emitted)
        self.stored_per_s = self._stored.add(stored)


def line(status: Status, overview: Overview) -> str:
    """Everything that matters in one plain line, for logs."""
    fresh = "nothing stored yet" if overview.fresh_s is None else f"{overview.fresh_s:.1f} s fresh"
    return (
        f"{status.running_s:3.0f} s  emitted {status.emitted:,} ({status.emitted_per_s:,.0f}/s)  "
        f"stored {overview.events:,} ({fresh})  "
        f"lag {_lag(overview)}  {overview.calls_per_s:,.0f} calls/s  "
        f"{overview.error_share:.1%} failed  TTFT p50 {_ms(overview.ttft_p50_ms)} p95 "
        f"{_ms(overview.ttft_p95_ms)}  {_count(overview.input_tokens_per_s)} tokens/s in, "
        f"{_count(overview.output_tokens_per_s)} out  ${overview.usd_per_min:,.2f}/min  "
        f"{overview.rejects:,} dead letters"
        + "".join(f"  budget {one.budget.budget_id} {_going(one)}" for one in overview.budgets[:1])
    )


def draw(status: Status, overview: Overview, width: int, height: int) -> RenderableType:
    """The screen."""
    letters = max(min(len(overview.dead_letters), _LETTER_ROWS), 1)
    bottom = max(len(overview.tenants), len(overview.dearest) + len(overview.budgets[:1]) + 3 + letters)
    room = height - (4 + len(status.notes)) - (bottom + 3) - 4
    parts: list[RenderableType] = [_header(status, overview)]
    parts.append(_models(overview, max(_MODELS_LEAST, room), wide=width >= 100))
    grid = Table.grid(expand=True, padding=(0, 2))
    grid.add_column(ratio=1)
    grid.add_column(ratio=1)
    grid.add_row(_tenants(overview), Group(_spend(overview), _dead_letters(overview)))
    parts += [Text(), grid]
    parts.extend(Text(note, style="yellow", no_wrap=True, overflow="ellipsis") for note in status.notes)
    return Group(*parts)


def picture(status: Status, overview: Overview, title: str) -> str:
    """The screen as SVG, 116 columns wide."""
    width, height = 116, 40
    console = Console(
        record=True,
        width=width,
        height=height,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    console.print(draw(status, overview, width, height))
    # Fonts that the page would fetch from elsewhere are left out: the reader's own will do.
    from rich._export_format import CONSOLE_SVG_FORMAT

    plain = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    return console.export_svg(title=title, code_format=plain, unique_id="gatewatch-live")


def _header(status: Status, overview: Overview) -> Panel:
    fresh = overview.fresh_s
    stale = fresh is None or fresh > _STALE_S
    left, right = Text(), Text(justify="right")
    left.append(f"{min(status.running_s, status.total_s):.0f} of {status.total_s:.0f} s", "bold")
    left.append(f"  {status.about}")
    right.append("lag ", "dim").append(_lag(overview), "bold red" if overview.lag_records is None else "bold")
    right.append("   newest stored call ", "dim")
    right.append("none yet" if fresh is None else f"{fresh:.1f} s old", "bold red" if stale else "bold green")
    flow, windows = Text(), Text(justify="right")
    flow.append("emitted ", "dim").append(f"{status.emitted:,}", "bold").append(
        f" ({status.emitted_per_s:,.0f}/s)"
    )
    flow.append("  stored ", "dim").append(f"{overview.events:,}", "bold").append(
        f" ({status.stored_per_s:,.0f}/s)"
    )
    flow.append("  twice ", "dim").append(
        f"{overview.duplicates:,}", "bold red" if overview.duplicates else "bold"
    )
    flow.append("  late ", "dim").append(f"{overview.late:,}", "bold")
    windows.append("windows ", "dim").append(
        f"{overview.windows_closed} closed, {overview.windows_open} open", "bold"
    )
    rows = []
    # A grid for each row: what one has on its right takes no room from the other's left.
    for begin, finish in ((left, right), (flow, windows)):
        row = Table.grid(expand=True, padding=(0, 1))
        row.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        row.add_column(justify="right", no_wrap=True)
        row.add_row(begin, finish)
        rows.append(row)
    return Panel(Group(*rows), title="gatewatch", box=box.ROUNDED, border_style="cyan", padding=(0, 1))


def _models(overview: Overview, most: int, *, wide: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.add_column("model", no_wrap=True, overflow="ellipsis", ratio=1)
    for name in ("calls/s", "failed"):
        table.add_column(name, justify="right", no_wrap=True)
    if wide:
        table.add_column("errors", no_wrap=True, overflow="ellipsis", max_width=18)
    for name in ("TTFT p50", "p95", "total p95", "tok/s in", "out", "$/min"):
        table.add_column(name, justify="right", no_wrap=True)
    shown = overview.models if len(overview.models) <= most else overview.models[: most - 1]
    for model in shown:
        table.add_row(
            Text(model.model).append(f"  {model.provider}", "dim"),
            f"{model.calls_per_s:,.1f}",
            Text(f"{model.error_share:.1%}", "bold red" if model.error_share >= _FAILING else ""),
            *([Text(_failures(model.errors), "dim")] if wide else []),
            _ms(model.ttft_p50_ms),
            _slow(model.ttft_p95_ms),
            _ms(model.latency_p95_ms),
            _count(model.input_tokens_per_s),
            _count(model.output_tokens_per_s),
            "-" if model.usd_per_min is None else f"{model.usd_per_min:,.2f}",
        )
    if len(shown) < len(overview.models):
        rest = overview.models[len(shown) :]
        table.add_row(
            Text(f"{len(rest)} more", "dim"),
            f"{sum(model.calls_per_s for model in rest):,.1f}",
            *[""] * (8 if wide else 7),
        )
    table.add_section()
    table.add_row(
        Text("all", "bold"),
        f"{overview.calls_per_s:,.1f}",
        f"{overview.error_share:.1%}",
        *([""] if wide else []),
        _ms(overview.ttft_p50_ms),
        _slow(overview.ttft_p95_ms),
        "",
        _count(overview.input_tokens_per_s),
        _count(overview.output_tokens_per_s),
        f"{overview.usd_per_min:,.2f}",
    )
    return table


def _tenants(overview: Overview) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.add_column("tenants by tokens", no_wrap=True, overflow="ellipsis", ratio=1)
    for name in ("tok/s", "calls/s", "failed"):
        table.add_column(name, justify="right", no_wrap=True)
    for tenant in overview.tenants:
        table.add_row(
            Text(tenant.tenant) if tenant.tenant else Text("(none)", "dim"),
            _count(tenant.tokens_per_s),
            f"{tenant.calls_per_s:,.1f}",
            Text(f"{tenant.error_share:.1%}", "bold red" if tenant.error_share >= _FAILING else ""),
        )
    return table


def _spend(overview: Overview) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.add_column("most expensive tenants", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("spent", justify="right", no_wrap=True)
    for tenant in overview.dearest:
        table.add_row(Text(tenant.tenant) if tenant.tenant else Text("(none)", "dim"), f"${tenant.usd:,.4f}")
    table.add_row(Text("all tenants", "bold"), Text(f"${overview.usd:,.4f}", "bold"))
    for one in overview.budgets[:1]:
        name = Text("budget ", "dim").append(one.budget.budget_id, "")
        table.add_row(name, Text(_going(one), "bold red" if one.is_over else ""))
    return table


def _going(one: BudgetStatus) -> str:
    """How a budget is going, in some words."""
    used = f"{one.share:.0%} of ${one.budget.amount_usd:,.2f}"
    if one.state == "exceeded":
        return f"{used}, exceeded"
    if one.bursts_at is None:
        return used
    left_s = max(0.0, (one.bursts_at - one.at).total_seconds())
    return f"{used}, bursts in {_span(left_s)}"


def _span(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _dead_letters(overview: Overview) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.add_column("dead letters by reason", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("lines", justify="right", no_wrap=True)
    for found in overview.dead_letters[:_LETTER_ROWS]:
        table.add_row(Text(found.reason), f"{found.lines:,}")
    if not overview.dead_letters:
        table.add_row(Text("none", "dim"), "")
    return table


def _lag(overview: Overview) -> str:
    return "unknown" if overview.lag_records is None else f"{overview.lag_records:,} records"


def _failures(errors: Mapping[str, int]) -> str:
    """The class of most errors, and in how many other classes there are some."""
    if not errors:
        return ""
    name, count = max(errors.items(), key=lambda item: (item[1], item[0]))
    more = f" +{len(errors) - 1}" if len(errors) > 1 else ""
    return f"{name} {count}{more}"


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f} ms" if value < 1000 else f"{value / 1000:,.1f} s"


def _slow(value: float | None) -> Text:
    return Text(_ms(value), "bold yellow" if value is not None and value >= _SLOW_MS else "")


def _count(value: float) -> str:
    if value < 10_000:
        return f"{value:,.0f}"
    return f"{value / 1e3:,.0f}k" if value < 1e6 else f"{value / 1e6:,.1f}M"
