"""Who pays: whatever calls are grouped by, the groups add up to the total, to the nano-dollar."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal
from operator import itemgetter
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gatewatch.events import Event, Feedback, Request
from sinks.clickhouse import Sink
from tests.event import call
from tests.stored import keep_only

pytestmark = pytest.mark.engine

NANO: Final = Decimal("0.000000001")
# The end of October 2025 UTC, when it is November in Berlin for an hour.
END_MS: Final = int(datetime(2025, 10, 31, 23, 30, tzinfo=UTC).timestamp() * 1000)
HOUR_MS: Final = 3_600_000

MODELS: Final = (
    ("openai", "gpt-4o"),
    ("anthropic", "claude-sonnet-4-5"),
    ("perplexity", "sonar-pro"),  # a fee by request, which is not wholly known
    ("openrouter", "openai/gpt-oss-20b:free"),
    ("openai", "nobody-knows"),
)
NAMES: Final = st.sampled_from(["", "a", "b"])
COUNT: Final = st.one_of(st.none(), st.integers(0, 3000), st.just(1_000_000_000))
DIMENSIONS: Final = (
    *("tenant", "team", "key_alias", "user_hash", "provider", "model", "deployment"),
    *("gateway", "environment", "conversation_id"),
)


@st.composite
def events(draw: st.DrawFn) -> list[Event]:
    """Calls of all kinds, some not ended, some judged."""
    found: list[Event] = []
    for number in range(draw(st.integers(0, 40))):
        provider, model = draw(st.sampled_from(MODELS))
        fields: dict[str, Any] = {
            "at_ms": END_MS + draw(st.integers(-30, 30)) * HOUR_MS // 2,
            "provider": provider,
            "model": model,
            "gateway": draw(st.sampled_from(["eu-1", "us-1"])),
            "tags": draw(st.dictionaries(st.sampled_from(["workload", "app"]), NAMES)),
        }
        for name in ("tenant", "team", "key_alias", "user_hash", "deployment", "environment"):
            fields[name] = draw(NAMES)
        fields["conversation_id"] = draw(NAMES)
        ended = call(
            number,
            **fields,
            input_tokens=draw(COUNT),
            cache_read_tokens=draw(st.one_of(st.none(), st.integers(0, 100))),
            cache_write_tokens=draw(st.sampled_from([None, 100, 100])),
            cache_write_1h_tokens=draw(st.one_of(st.none(), st.integers(0, 100))),
            output_tokens=draw(COUNT),
            output_reasoning_tokens=draw(st.one_of(st.none(), st.integers(0, 100))),
            web_searches=draw(st.one_of(st.none(), st.integers(0, 3))),
            reported_cost_usd=draw(st.one_of(st.none(), st.just(0.000000001), st.just(0.25))),
            error_class=draw(st.sampled_from([None, "overload"])),
            gateway_cache_hit=draw(st.sampled_from([None, False, True])),
            usage_source=draw(st.sampled_from([None, "provider", "estimated", "missing"])),
        )
        begun = Request(call_id=ended.call_id, started_at_ms=ended.started_at_ms, **fields)
        found.append(ended if draw(st.integers(0, 3)) else begun)
        for score in draw(st.lists(st.sampled_from([None, 0.0, 1.0]), max_size=2)):
            found.append(
                Feedback(
                    at_ms=ended.at_ms + len(found),
                    gateway="eu-1",
                    call_id=ended.call_id,
                    name=draw(st.sampled_from(["thumbs", "resolved", "stars"])),
                    score=score,
                    user_hash=draw(NAMES),
                )
            )
    return found


def calls(sink: Sink) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sink.table("SELECT * FROM gatewatch.calls").to_pylist()
    return found


def known(values: list[Any]) -> Any:
    """The sum of what is known, nothing where nothing is."""
    found = [value for value in values if value is not None]
    return sum(found, Decimal(0)) if found else None


def has_status(status: str) -> Callable[[dict[str, Any]], int]:
    return lambda row: int(row["cost_status"] == status)


SUMS: Final[dict[str, Callable[[dict[str, Any]], Any]]] = {
    "calls": lambda row: 1,
    "failed_calls": lambda row: int(row["is_error"]),
    **{
        f"{status}_calls": has_status(status)
        for status in ("priced", "free", "partial", "provider_reported", "unpriced")
    },
    "open_calls": has_status(""),
    **{
        name: itemgetter(name)
        for name in (
            *("input_tokens", "cache_read_tokens", "cache_write_tokens"),
            *("output_tokens", "output_reasoning_tokens"),
            *("cost_usd", "cost_input_usd", "cost_cache_read_usd", "cost_cache_write_usd"),
            *("cost_output_usd", "cost_reasoning_usd", "cost_other_usd", "reported_cost_usd"),
        )
    },
}


def grouped(
    rows: list[dict[str, Any]], key: Callable[[dict[str, Any]], Hashable]
) -> dict[Hashable, tuple[Any, ...]]:
    found: dict[Hashable, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return {
        name: tuple(known([number(row) for row in group]) for number in SUMS.values())
        for name, group in found.items()
    }


def berlin_month(row: dict[str, Any]) -> Hashable:
    started_at: datetime = row["started_at"]
    return started_at.astimezone(ZoneInfo("Europe/Berlin")).date().replace(day=1)


PERIODS: Final[dict[str, Callable[[dict[str, Any]], Hashable]]] = {
    "formatDateTime(hour, '%F %H')": lambda row: f"{row['started_at']:%Y-%m-%d %H}",
    "toDate32(hour)": lambda row: row["started_at"].date(),
    "toDate32(toStartOfMonth(hour))": lambda row: row["started_at"].date().replace(day=1),
    "toDate32(toStartOfMonth(hour, 'Europe/Berlin'))": berlin_month,
    "tags['workload']": lambda row: dict(row["tags"]).get("workload", ""),
}


def check_every_dimension_and_period(sink: Sink, rows: list[dict[str, Any]]) -> None:
    total = grouped(rows, lambda row: "")
    sums = ", ".join(f"sum({name})" for name in SUMS)
    by: dict[str, Callable[[dict[str, Any]], Hashable]] = {name: itemgetter(name) for name in DIMENSIONS}
    for expression, key in (by | PERIODS).items():
        found = sink.rows(f"SELECT {expression} AS k, {sums} FROM gatewatch.chargeback GROUP BY k")
        assert {row[0]: tuple(row[1:]) for row in found} == grouped(rows, key), expression
        assert tuple(known([row[i] for row in found]) for i in range(1, len(SUMS) + 1)) == total.get(
            "", (None,) * len(SUMS)
        )
    statuses = [f"sum({name})" for name in SUMS if name.endswith("_calls") and name != "failed_calls"]
    ((apart, together),) = sink.rows(f"SELECT {' + '.join(statuses)}, sum(calls) FROM gatewatch.chargeback")
    assert apart == together == len(rows)


def check_each_tag(sink: Sink, rows: list[dict[str, Any]]) -> None:
    found = sink.rows(
        "SELECT tag, sum(usd), sum(n) FROM "
        "(SELECT tag, tags[tag] AS value, sum(cost_usd) AS usd, sum(calls) AS n FROM gatewatch.chargeback "
        "CROSS JOIN (SELECT DISTINCT arrayJoin(mapKeys(tags)) AS tag FROM gatewatch.chargeback) AS every "
        "GROUP BY tag, value) GROUP BY tag"
    )
    used = {name for row in rows for name, _ in row["tags"]}
    total = known([row["cost_usd"] for row in rows])
    assert {tuple(row) for row in found} == {(name, total, len(rows)) for name in used}


def check_items_of_the_bill(sink: Sink, rows: list[dict[str, Any]]) -> None:
    by_model: dict[Hashable, list[Decimal | None]] = defaultdict(list)
    for row in rows:
        by_model[row["started_at"].date(), row["provider"], row["model"]].append(row["cost_usd"])
    found = sink.rows(
        "SELECT toDate32(day), provider, model, sum(usd) FROM gatewatch.cost_breakdown "
        "GROUP BY 1, 2, 3 HAVING sum(usd) != 0"
    )
    assert {tuple(row[:3]): row[3] for row in found} == {
        key: known(costs) for key, costs in by_model.items() if known(costs)
    }
    parts: dict[str, list[Decimal]] = defaultdict(list)
    for row in rows:
        whole = [(item, row[f"cost_{item}_usd"]) for item in ("input", "cache_read", "output", "reasoning")]
        for item, usd in [*whole, *row["cost_details_usd"]]:
            parts[item].append(usd)
        if row["cost_status"] == "provider_reported":
            parts["reported"].append(row["cost_usd"])
    items = sink.rows(
        "SELECT item, sum(usd), sum(calls) FROM gatewatch.cost_breakdown WHERE usd IS NOT NULL GROUP BY item"
    )
    assert {tuple(row) for row in items} == {
        (item, known(amounts), sum(bool(usd) for usd in amounts))
        for item, amounts in parts.items()
        if known(amounts)
    }
    ((without,),) = sink.rows("SELECT sum(calls) FROM gatewatch.cost_breakdown WHERE usd IS NULL")
    assert without == sum(row["cost_usd"] is None for row in rows)


def down(numerator: Decimal | None, denominator: int) -> Decimal | None:
    if numerator is None or not denominator:
        return None
    return (numerator / denominator).quantize(NANO, ROUND_DOWN)


def liked(given_events: list[Event]) -> set[str]:
    """Calls of which somebody's last word, by one of the names, is yes."""
    last: dict[tuple[str, str, str], bool] = {}
    for event in given_events:
        if isinstance(event, Feedback) and event.name in ("thumbs", "resolved") and event.score is not None:
            last[event.call_id, event.name, event.user_hash] = event.score > 0
    return {call_id for (call_id, _, _), likes in last.items() if likes}


def check_unit_costs(sink: Sink, rows: list[dict[str, Any]], likes: set[str]) -> None:
    owners = ("tenant", "team", "key_alias", "provider", "model", "gateway", "environment")
    expected = {}
    groups: dict[Hashable, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["is_ended"]:
            groups[(row["started_at"].date(), *(row[name] for name in owners))].append(row)
    for key, group in groups.items():
        priced = [row for row in group if row["cost_usd"] is not None]
        usd = known([row["cost_usd"] for row in priced])
        talked = [row for row in priced if row["conversation_id"]]
        talked_usd = known([row["cost_usd"] for row in talked])
        successes = sum(not row["is_error"] for row in priced)
        output = sum(row["output_tokens"] or 0 for row in priced)
        conversations = len({row["conversation_id"] for row in talked})
        positive = sum(row["call_id"] in likes for row in priced)
        expected[key] = (
            *(len(group), len(group) - len(priced)),
            *(sum(row["cost_status"] == "partial" for row in group), usd),
            *(successes, output, conversations, talked_usd, positive),
            *(down(usd, successes), down(usd and usd * 1000, output)),
            *(down(talked_usd, conversations), down(usd, positive)),
        )
    found = sink.rows("SELECT toDate32(day) AS d, * EXCEPT (day) FROM gatewatch.unit_costs")
    assert {tuple(row[:8]): tuple(row[8:]) for row in found} == expected


@settings(
    max_examples=5,
    # A failure is shown as it was found: to make it smaller would take hundreds of fillings of the store.
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(events())
def test_whatever_calls_are_grouped_by_the_groups_add_up_to_the_total(
    sink: Sink, given_events: list[Event]
) -> None:
    keep_only(sink, given_events)
    rows = calls(sink)
    check_every_dimension_and_period(sink, rows)
    check_each_tag(sink, rows)
    check_items_of_the_bill(sink, rows)
    check_unit_costs(sink, rows, liked(given_events))


def test_feedback_counts_a_call_once_and_the_last_word_of_each_who_judges(sink: Sink) -> None:
    given_events: list[Event] = [call(n, input_tokens=1000, output_tokens=10) for n in range(6)]

    def judged(number: int, at: int, score: float | None, name: str = "thumbs", user: str = "u") -> Feedback:
        return Feedback(
            at_ms=END_MS + at,
            gateway="eu-1",
            call_id=f"call-{number}",
            name=name,
            score=score,
            user_hash=user,
        )

    given_events += [judged(0, 1, 1.0), judged(0, 2, 1.0, user="v"), judged(0, 3, 1.0, "resolved")]
    given_events += [judged(1, 2, 1.0), judged(1, 1, -1.0)]  # the last word came first
    given_events += [judged(2, 1, 1.0), judged(2, 2, 0.0), judged(5, 1, 1.0), judged(5, 2, -1.0)]
    given_events += [judged(3, 1, 5.0, "stars"), judged(4, 1, None)]
    keep_only(sink, given_events)
    assert sink.rows("SELECT positive_feedback, cost_usd FROM gatewatch.unit_costs") == [
        (2, 6 * Decimal("0.0026"))
    ]


def test_big_numbers_do_not_overflow(sink: Sink) -> None:
    """A thousand calls of the largest cost and usage that can be stored."""
    dear = [
        call(
            n,
            provider="acme",
            model="dear",
            tenant="t",
            conversation_id="c",
            input_tokens=1_000_000_000,
            output_tokens=1_000_000_000,
            reported_cost_usd=281_474.0,
        )
        for n in range(1000)
    ]
    keep_only(sink, dear)
    total = Decimal(281_474_000)
    assert sink.rows("SELECT sum(cost_usd), sum(input_tokens) FROM gatewatch.chargeback") == [(total, 10**12)]
    assert sink.rows("SELECT category, usd, calls FROM gatewatch.cost_breakdown") == [
        ("reported", total, 1000)
    ]
    ((output, each, conversation),) = sink.rows(
        "SELECT cost_per_1000_output_tokens_usd, cost_per_successful_call_usd, cost_per_conversation_usd "
        "FROM gatewatch.unit_costs"
    )
    assert (output, each, conversation) == (Decimal("0.281474"), Decimal(281_474), total)


@pytest.mark.parametrize(
    ("view", "condition"),
    [
        ("chargeback", "hour >= '2025-10-09 05:00:00' AND hour < '2025-10-09 06:00:00'"),
        ("chargeback", "toStartOfMonth(hour, 'Europe/Berlin') = '2025-12-01'"),
        ("unit_costs", "day = '2025-10-09'"),
        ("cost_breakdown", "day = '2025-10-09'"),
        ("cost_gaps", "hour = '2025-10-09 05:00:00'"),
        ("cost_drivers", "week = '2025-10-13'"),
    ],
)
def test_a_condition_on_time_reaches_the_primary_key(sink: Sink, view: str, condition: str) -> None:
    keep_only(sink, [call(n, at_ms=END_MS + n * 24 * HOUR_MS) for n in (-22, -21, -17, -10, -5, 0, 1, 5, 11)])
    plan = "\n".join(
        str(row[0])
        for row in sink.rows(f"EXPLAIN indexes = 1 SELECT * FROM gatewatch.{view} WHERE {condition}")
    )
    reads = plan.split("ReadFromMergeTree (gatewatch_store.calls)")[1:]
    assert reads
    for read in reads:
        key = read.split("PrimaryKey", 1)[1].split("ReadFromMergeTree", 1)[0]
        assert "Keys:" in key
        assert "started_at" in key
        parts = [line for line in read.split("PrimaryKey", 1)[0].splitlines() if "Parts: " in line]
        read_parts, all_parts = map(int, parts[1].rpartition(" ")[2].split("/"))
        assert read_parts < all_parts / 2
