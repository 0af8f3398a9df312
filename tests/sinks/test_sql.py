"""docs/sql.md: its columns are the views' columns, and its queries answer what they say."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest

from gatewatch.events import Call, Event, Feedback, Request, Resource, Token, encode
from gatewatch.price_book import default_book
from signals.budget import Budget, Scope
from signals.chunk import SIGNALS
from signals.lane import Lane, Rules
from signals.signal import CUTS
from signals.sketch import RELATIVE_ERROR
from sinks.budget import set_budget
from sinks.clickhouse import Sink
from sinks.gpu_rate import GpuRate, save_rate
from sinks.price import register_package
from sinks.schema import STORE, TABLES, VIEWS
from sinks.source import add_source
from sinks.views import ALL_VIEWS
from tests.stored import flush

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
PAGE: Final = (DOCS / "sql.md").read_text("utf-8")
QUERIES: Final = {
    int(number): sql for number, sql in re.findall(r"^### (\d+)\. .*?```sql\n(.*?)```", PAGE, re.M | re.S)
}
# Fifteen minutes ago: in the last hour, and long enough ago for a call to count as never ended.
MINUTE_MS: Final = (int(time.time()) // 60 - 15) * 60_000
# Where it is about noon: that minute and now are of the same day. Etc/GMT-1 is one hour before UTC's clocks.
NOON_ZONE: Final = f"Etc/GMT{time.gmtime(MINUTE_MS / 1000).tm_hour - 12:+d}".replace("+0", "")


def rows_under(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    section = PAGE.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def plain(kind: str) -> str:
    """A type as people use it: how its values are stored and merged makes no difference to a query."""
    while True:
        shorter = re.sub(r"SimpleAggregateFunction\(max, (.*)\)$", r"\1", kind)
        shorter = re.sub(r"LowCardinality\(([^()]*)\)", r"\1", shorter)
        shorter = re.sub(
            r"DateTime\('UTC'\)", "DateTime", shorter.replace("DateTime64(3, 'UTC')", "DateTime64(3)")
        )
        if shorter == kind:
            return kind
        kind = shorter


def call(number: int, **fields: Any) -> Call:
    """A call of one second that started in the minute; ``seq`` is its number."""
    started_ms = MINUTE_MS + 100 * number
    known: dict[str, Any] = {
        "at_ms": started_ms + 1000,
        "started_at_ms": started_ms,
        "gateway": "eu-1",
        "emitter_id": "emitter-1",
        "seq": number,
        "call_id": f"call-{number:02d}",
        "provider": "openai",
        "model": "gpt-4o",
        "tenant": "acme",
        "team": "search",
        "total_ms": 1000.0,
        "usage_source": "provider",
    }
    return Call(**known | fields)


def thumbs(seq: int, call_id: str, score: float) -> Feedback:
    return Feedback(
        at_ms=MINUTE_MS + 50_000,
        gateway="eu-1",
        emitter_id="emitter-1",
        seq=seq,
        call_id=call_id,
        name="thumbs",
        score=score,
    )


def known_events() -> list[Event]:
    """Ten calls of one model, six of another, two that never ended, feedback; numbers 0 to 24 but for 20."""
    claude: dict[str, Any] = {"provider": "anthropic", "model": "claude", "tenant": "beta", "team": "bots"}
    usage: dict[str, Any] = {"input_tokens": 100, "cache_read_tokens": 40, "output_tokens": 10}
    streamed: dict[str, Any] = {"stream": True, "stream_end": "complete"}
    owned: list[dict[str, Any]] = [
        {
            "tags": {"workload": "chat", "app": "shop"},
            "conversation_id": "talk-1",
            "reported_cost_usd": 0.0003,
        },
        {"tags": {"workload": "chat"}, "conversation_id": "talk-1", "reported_cost_usd": 0.0004},
        {"tags": {"workload": "chat"}, "conversation_id": "talk-2"},
        *[{}] * 7,
    ]
    events: list[Event] = [
        call(number, ttft_ms=100.0 * (number + 1), output_reasoning_tokens=4, **usage, **streamed, **owner)
        for number, owner in enumerate(owned)
    ]
    events += [
        call(
            number,
            ttft_ms=3000.0,
            input_tokens=1000,
            cache_read_tokens=900,
            output_tokens=5,
            **claude,
            **streamed,
        )
        for number in range(10, 14)
    ]
    events.append(call(14, error_class="overload", status_code=529, **claude | {"usage_source": "missing"}))
    events.append(
        call(
            15,
            **claude | {"usage_source": "estimated", "total_ms": 700.0},
            error_class="cancelled",
            stream=True,
            stream_end="client_disconnect",
            input_tokens=1000,
            output_tokens=3,
        )
    )
    begun: dict[str, Any] = {
        "started_at_ms": MINUTE_MS,
        "gateway": "eu-2",
        "emitter_id": "emitter-1",
        "provider": "openai",
        "model": "gpt-4o",
        "tenant": "acme",
        "team": "search",
    }
    events += [
        Request(at_ms=MINUTE_MS, seq=16, call_id="begun-1", **begun),
        Request(at_ms=MINUTE_MS, seq=17, call_id="begun-2", **begun),
        Token(at_ms=MINUTE_MS + 900, seq=18, call_id="begun-2", output_tokens_so_far=7, **begun),
        thumbs(19, "call-00", 1.0),
        thumbs(21, "call-01", 1.0),
        thumbs(22, "call-02", 0.0),
        thumbs(23, "call-10", 0.0),
        thumbs(24, "call-11", 1.0),
        # Of no emitter that numbers its events.
        Resource(
            at_ms=MINUTE_MS + 36_000,
            gateway="eu-1",
            resource="gpu:0",
            model="llama",
            gpu_count=2.0,
            gpu_utilization=0.25,
            interval_s=36.0,
        ),
    ]
    return events


@pytest.fixture
def filled(sink: Sink) -> Sink:
    """The engine with the known events, one of them twice, and a line that is none."""
    events = known_events()
    lane = Lane(7, 0, Rules(chunk_records=10))
    add_source(
        sink, 7, cluster="test", topic="gatewatch.events.v1", incarnation="one", partition=3, chunk_records=10
    )
    lines = [*map(encode, events), encode(events[0]), b"no event"]
    for offset in range(0, len(lines), 8):
        lane.feed(offset // 8, MINUTE_MS + 55_000, b"\n".join(lines[offset : offset + 8]))
    flush(sink, lane)
    save_rate(sink, GpuRate(rate_id="own", nano_usd_per_gpu_hour=5 * 10**9, valid_from_s=0, model="llama"))
    for budget_id, amount in (("acme-day", "0.002"), ("acme-plenty", "1000000")):
        set_budget(
            sink,
            Budget(
                budget_id=budget_id,
                scope=Scope(tenant="acme"),
                period="daily",
                time_zone=NOON_ZONE,
                amount_usd=Decimal(amount),
            ),
            "test",
        )
    return sink


TODAY: Final = datetime.fromtimestamp(MINUTE_MS / 1000, UTC).date()
BEGUN: Final = datetime.fromtimestamp(MINUTE_MS / 1000, UTC)

MONDAY: Final = TODAY - timedelta(TODAY.weekday())
BERLIN_MONTH: Final = BEGUN.astimezone(ZoneInfo("Europe/Berlin")).date().replace(day=1)

LISTED: Final = f"{default_book().source}, https://www.anthropic.com/pricing#api"
UNKNOWN: Final = f"anthropic has no model 'claude' in {default_book().source}"

ANSWERS: Final[dict[int, Sequence[tuple[Any, ...]]]] = {
    1: [("anthropic", "claude", 4, 3000.0, 3000.0), ("openai", "gpt-4o", 10, 600.0, 1000.0)],
    3: [
        (TODAY, "beta", "bots", 6, 5000, 3600, 23, None),
        (TODAY, "acme", "search", 12, 1000, 400, 107, 40),
    ],
    4: [("anthropic", "cancelled", 1, 16.67), ("anthropic", "overload", 1, 16.67)],
    5: [("client_disconnect", "anthropic", "claude", 1, 700.0, 3)],
    6: [("anthropic", "claude", 90.0), ("openai", "gpt-4o", 40.0)],
    7: [("eu-1", "provider", 14, 120), ("eu-1", "estimated", 1, 3), ("eu-1", "missing", 1, None)],
    8: [("eu-2", "gpt-4o", 2, BEGUN, "begun-1")],
    9: [("anthropic", "claude", 2, 0.5), ("openai", "gpt-4o", 3, 0.67)],
    10: [("emitter-1", 25, 1, 1, 0, 1)],
    # 60 plain tokens at $2.50, 40 cached at $1.25 and 10 of output at $10 a million make $0.0003 a call.
    11: [("acme", Decimal("0.003"), 10, 0), ("beta", None, 6, 6)],
    12: [
        ("anthropic", "claude", "unpriced", UNKNOWN, 5),
        ("anthropic", "claude", "unpriced", "no usage came with the call", 1),
    ],
    13: [
        (BERLIN_MONTH, "acme", "search", Decimal("0.003"), 12, 0),
        (BERLIN_MONTH, "beta", "bots", None, 6, 6),
    ],
    14: [("", Decimal("0.0021"), 15, 6), ("chat", Decimal("0.0009"), 3, 0)],
    15: [
        ("app", "", Decimal("0.0027"), 17),
        ("app", "shop", Decimal("0.0003"), 1),
        ("workload", "", Decimal("0.0021"), 15),
        ("workload", "chat", Decimal("0.0009"), 3),
    ],
    16: [("acme", 2, Decimal("0.00045"), Decimal("0.0006"))],
    # Ten calls of 10 output tokens, two of them liked.
    17: [
        ("acme", Decimal("0.003"), Decimal("0.0003"), Decimal("0.03"), Decimal("0.0015"), 0),
        ("beta", None, None, None, None, 6),
    ],
    18: [
        ("tokens", "input", Decimal("0.0015"), 10),
        ("tokens", "output", Decimal("0.0006"), 10),
        ("tokens", "cache_read", Decimal("0.0005"), 10),
        ("tokens", "reasoning", Decimal("0.0004"), 10),
        ("unknown", "open", None, 2),
        ("unknown", "unpriced", None, 6),
    ],
    # The first week is all volume; a second one is there where it began in the last fifteen minutes.
    19: [
        (week, change, change, *[Decimal(0)] * 3, without)
        for week, change, without in (
            (MONDAY, Decimal("0.003"), 6),
            (MONDAY + timedelta(7), Decimal("-0.003"), 0),
        )
        if week <= datetime.now(UTC).date()
    ],
    20: [
        ("costs unlike the gateway's", "openai", "gpt-4o", 1),
        ("cut streams without a cost", "anthropic", "claude", 1),
        ("tokens without a price", "anthropic", "claude", 5023),
    ],
    21: [
        ("eu-1", "openai", "gpt-4o", 2, Decimal("0.0006"), Decimal("0.0007"), Decimal("-0.0001"), 50.0),
    ],
    # 36 s of two GPUs at $5 an hour, busy for a quarter of it; no call was theirs.
    22: [(TODAY, "llama", *map(Decimal, ("0.02", "0.1", "0", "0.025", "0.075")))],
    23: [
        ("abandoned", "beta", 0, 1, None, None),
        ("failed", "beta", 0, 1, None, None),
        ("idle", "", 0, 0, Decimal("0.1"), Decimal("0.075")),
    ],
    24: [("acme-day", Decimal("0.002"), Decimal("0.003"), 150.0, 0)],
    25: [
        (component, Decimal(usd), "million tokens", above, None, "list", LISTED)
        for component, usd, above in (
            ("cache_read", "0.3", 0),
            ("cache_read", "0.6", 200_000),
            ("input", "3", 0),
            ("input", "6", 200_000),
        )
    ],
}


@pytest.mark.parametrize("number", sorted(ANSWERS))
def test_a_documented_query_answers_its_question(filled: Sink, number: int) -> None:
    if "gatewatch.prices" in QUERIES[number]:
        register_package(filled)
    found = [tuple(_comparable(value) for value in row) for row in filled.rows(QUERIES[number])]
    assert found == list(ANSWERS[number])


def test_the_documented_quantile_over_aggregates_is_right_within_the_sketch_error(filled: Sink) -> None:
    found = filled.rows(QUERIES[2])
    assert [(row[0], row[1], row[2]) for row in found] == [
        ("anthropic", "claude", 4),
        ("openai", "gpt-4o", 10),
    ]
    for row, exact_ms in zip(found, (3000.0, 1000.0), strict=True):
        assert row[-1] == pytest.approx(exact_ms, rel=RELATIVE_ERROR + 0.0005)  # and rounded to 1 ms


def test_queries_are_numbered_in_order_and_each_reads_views_only() -> None:
    assert list(QUERIES) == list(range(1, len(QUERIES) + 1))
    assert set(QUERIES) == {*ANSWERS, 2}
    names = {f"{VIEWS}.{view.name}" for view in ALL_VIEWS}
    for sql in QUERIES.values():
        assert set(re.findall(r"(?:FROM|JOIN)\s+([a-z_]+\.[a-z_]+)", sql)) <= names
        assert STORE not in sql


@pytest.mark.parametrize("name", [view.name for view in ALL_VIEWS])
def test_the_page_has_the_columns_of_each_view(sink: Sink, name: str) -> None:
    columns = [(row[0].strip("`"), row[1]) for row in rows_under(f"### `{name}`")]
    described = sink.rows(f"DESCRIBE {VIEWS}.{name}")
    assert columns == [(str(column), plain(str(kind))) for column, kind, *_ in described]


def test_every_column_of_the_page_has_a_meaning_and_a_unit_where_its_name_has_one() -> None:
    units = {"_ms": "ms;", "_bytes": "bytes", "_usd": "USD;", "_watts": "W.", "_s": "s;", "_tokens": "tokens"}
    for view in ALL_VIEWS:
        for column, _, meaning in rows_under(f"### `{view.name}`"):
            assert meaning
            for ending, unit in units.items():
                if column.strip("`").endswith(ending):
                    assert meaning.startswith(unit), (view.name, column)


def test_the_page_says_how_long_every_table_keeps_its_rows() -> None:
    described = {row[0].strip("`"): (row[1], row[2].strip("`")) for row in rows_under("### Retention")}
    assert list(described) == [table.name for table in TABLES]
    for table in TABLES:
        found = re.fullmatch(r"(?:toDateTime\()?(\w+)\)? \+ toInterval(Day|Year)\((\d+)\)", table.ttl)
        assert found is not None or not table.ttl
        kept = (f"{found[3]} {found[2].lower()}s", found[1]) if found else ("ever", "")
        assert described[table.name] == kept
    texts = next(table for table in TABLES if table.name == "texts")
    days = re.sub(r".*\((\d+)\)", r"\1", texts.ttl)
    emitter = (DOCS / "emitter.md").read_text("utf-8")
    assert f"stored for {days} days in a table, `{texts.qualified}`" in emitter


def test_every_view_stands_beside_the_table_that_it_shows() -> None:
    shown = {name for row in rows_under("### Retention") for name in re.findall(r"`(\w+)`", row[3])}
    assert shown == {view.name for view in ALL_VIEWS}


def test_the_page_describes_every_cut_and_signal_as_declared() -> None:
    cuts = {row[0]: row[1] for row in rows_under("### Cuts")}
    for cut in CUTS:
        assert cuts.pop(f"`{cut.name}`") == ", ".join(f"`{name}`" for name in cut.dimensions)
    assert set(cuts) == {"`all`"}
    signals = {row[0]: row[1:] for row in rows_under("### Signals")}
    for signal in SIGNALS.values():
        unit, label, where, description = signals.pop(f"`{signal.name}`")
        assert (unit, label.strip("`"), description) == (signal.unit, signal.label, signal.description)
        every = len(signal.cuts) == len(CUTS)
        assert where == ("every" if every else ", ".join(f"`{name}`" for name in signal.cuts))
    assert not signals


def _comparable(value: Any) -> Any:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return value
