"""Budgets in the store: exact whatever arrives how often and in which order, and nothing is forgotten."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
import pytest

from gatewatch.events import Call
from signals.budget import Budget, BudgetStatus, Scope
from signals.lane import Lane, Rules
from signals.period import Kind, period_at, zone
from sinks.budget import budgets_at, changes, remove_budget, set_budget, status
from sinks.clickhouse import Sink
from sinks.row import blocks
from sinks.schema import STORE
from tests.event import record
from tests.stored import store

LONG_AGO: Final = datetime(2020, 1, 1, tzinfo=UTC)
NOON: Final = datetime(2026, 11, 18, 12, tzinfo=UTC)
Blocks = list[tuple[str, pa.Table]]


def budget(budget_id: str = "acme", **fields: Any) -> Budget:
    known: dict[str, Any] = {
        "scope": Scope(),
        "period": "monthly",
        "time_zone": "Europe/Berlin",
        "amount_usd": Decimal(500),
    }
    return Budget(budget_id=budget_id, **known | fields)


def spend(number: int, at: datetime, usd: float | None = 1.0, **fields: Any) -> Call:
    """A call of a model that no list knows, whose gateway said what it cost; or did not."""
    at_ms = round(at.timestamp() * 1000)
    known: dict[str, Any] = {
        "at_ms": at_ms + 1,
        "started_at_ms": at_ms,
        "gateway": "g",
        "emitter_id": "e",
        "seq": number,
        "call_id": f"call-{number}",
        "provider": "nobody",
        "model": "m",
        "reported_cost_usd": usd,
    }
    return Call(**known | fields)


def insert(sink: Sink, stored: Blocks) -> None:
    for name, block in stored:
        sink.insert(f"{STORE}.{name}", block)


def the_status(sink: Sink, at: datetime, budget_id: str = "acme") -> BudgetStatus:
    (one,) = status(sink, at, budget_id)
    return one


def view(sink: Sink, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = sink.table(f"SELECT * FROM gatewatch.{name} ORDER BY budget_id").to_pylist()
    return rows


def engine_now(sink: Sink) -> datetime:
    (now,) = sink.rows("SELECT now64(3, 'UTC')")[0]
    assert isinstance(now, datetime)
    return now.replace(tzinfo=UTC)


# -- exact ---------------------------------------------------------------------------------------


def test_two_interleaved_writers_repeats_stale_inserts_and_late_events_leave_spent_exact(sink: Sink) -> None:
    """Two partitions hold some of the same calls; each flush comes at a random time, some of them twice."""
    rng = random.Random(4)
    now = engine_now(sink)
    first = max(budget().period_at(now).start, now - timedelta(days=3))
    events = []
    for number in range(200):
        at = first + (now - first) * rng.random()
        events.append(spend(number, at, rng.randrange(1, 10**12) / 10**9))
    # In any order: the event of a moment arrives after those of later ones.
    both = rng.sample(events, 40)
    flushes: list[Blocks] = []
    for source, own in ((1, events[:100] + both), (2, events[100:] + both)):
        rng.shuffle(own)
        lane = Lane(source, 0, Rules(chunk_records=64))
        for offset, event in enumerate(own):
            lane.feed(offset, round(now.timestamp() * 1000), record(event))
            if rng.random() < 0.05 and (rows := lane.flush()) is not None:
                flushes.append([("calls", blocks([rows])["calls"])])
        if (rows := lane.flush()) is not None:
            flushes.append([("calls", blocks([rows])["calls"])])
    rng.shuffle(flushes)
    set_budget(sink, budget(amount_usd=Decimal(10**9)), "test", LONG_AGO)
    expected = sum((Decimal(str(event.reported_cost_usd)) for event in events), Decimal(0))
    for stored in [*flushes, *rng.sample(flushes, 5)]:
        insert(sink, stored)
    told = the_status(sink, now + timedelta(seconds=1))
    (row,) = view(sink, "budget_spend")
    assert told.spent_usd == row["spent_usd"] == expected
    assert told.calls == row["calls"] == 200
    sink.command(f"OPTIMIZE TABLE {STORE}.calls FINAL")
    assert the_status(sink, now + timedelta(seconds=1)).spent_usd == expected


def test_a_late_event_and_a_better_cost_correct_a_period_that_has_passed(sink: Sink) -> None:
    set_budget(sink, budget(period="daily", time_zone="UTC"), "test", LONG_AGO)
    yesterday = NOON - timedelta(days=1)
    store(sink, spend(1, yesterday, 2.0), spend(2, NOON, 3.0))
    end = NOON.replace(hour=0) - timedelta(milliseconds=1)
    assert the_status(sink, end).spent_usd == 2
    store(sink, spend(3, yesterday, 0.000000001), source=2)
    store(sink, spend(1, yesterday, 5.0), source=3)
    assert the_status(sink, end).spent_usd == Decimal("5.000000001")
    assert the_status(sink, NOON + timedelta(seconds=1)).spent_usd == 3


def test_calls_without_a_cost_are_counted_and_are_not_zero(sink: Sink) -> None:
    set_budget(sink, budget(), "test", LONG_AGO)
    partial = {"provider": "openai", "model": "gpt-4o", "input_tokens": 1000, "usage_source": "provider"}
    store(
        sink,
        spend(1, NOON, 2.0),
        spend(2, NOON, None),
        spend(3, NOON, None, input_tokens=5, output_tokens=5),
        spend(4, NOON, None, **partial),
    )
    told = the_status(sink, NOON + timedelta(minutes=1))
    assert (told.calls, told.calls_without_cost, told.calls_in_part) == (4, 2, 1)
    assert told.spent_usd == Decimal("2.0025")


def test_sums_beyond_what_64_bits_hold_are_exact(sink: Sink) -> None:
    now = engine_now(sink)
    most = 281_474.976710655
    start = budget().period_at(now).start
    store(sink, *(spend(number, start, most) for number in range(40_000)))
    set_budget(sink, budget(amount_usd=Decimal("999999999999.999999999")), "test")
    told = the_status(sink, now + timedelta(minutes=1))
    expected = 40_000 * Decimal(str(most))
    assert expected > Decimal(2**63) / 10**9
    (row,) = view(sink, "budget_spend")
    assert told.spent_usd == row["spent_usd"] == expected
    assert told.remaining_usd == row["remaining_usd"] == Decimal("999999999999.999999999") - expected


def test_each_budget_counts_what_its_scope_holds(sink: Sink) -> None:
    rng = random.Random(7)
    dimensions = ("tenant", "team", "key_alias", "provider", "model", "gateway", "environment")
    now = engine_now(sink)
    start = budget().period_at(now).start
    events = [
        spend(
            number, start, rng.randrange(1, 10**6) / 1000, **{name: rng.choice("ab") for name in dimensions}
        )
        for number in range(200)
    ]
    store(sink, *events)
    scopes = [
        Scope(),
        *(Scope(**{name: "a"}) for name in dimensions),
        Scope(tenant="a", team="b"),
        Scope(provider="b", model="a", environment="b"),
        Scope(tenant="nobody"),
        Scope(**dict.fromkeys(dimensions, "b")),
    ]
    for number, scope in enumerate(scopes):
        set_budget(sink, budget(f"b{number}", scope=scope), "test")
    told = {one.budget.budget_id: one for one in status(sink, now + timedelta(minutes=1))}
    rows = {row["budget_id"]: row for row in view(sink, "budget_spend")}
    assert len(told) == len(rows) == len(scopes)
    for number, scope in enumerate(scopes):
        mine = [
            event
            for event in events
            if all(getattr(event, name) == value for name, value in scope.limits.items())
        ]
        expected = sum((Decimal(str(event.reported_cost_usd)) for event in mine), Decimal(0))
        one, row = told[f"b{number}"], rows[f"b{number}"]
        assert one.spent_usd == row["spent_usd"] == expected
        assert one.calls == row["calls"] == len(mine)
        assert {name: row[name] for name in dimensions if row[name]} == scope.limits


def test_the_edges_of_a_period_part_calls_to_the_millisecond(sink: Sink) -> None:
    """A day of 23 hours in Berlin, and one of 24 that begins at half past six in the evening."""
    millisecond = timedelta(milliseconds=1)
    for name, place in (("berlin", "Europe/Berlin"), ("kolkata", "Asia/Kolkata")):
        set_budget(sink, budget(name, period="daily", time_zone=place), "test", LONG_AGO)
    berlin = period_at("daily", zone("Europe/Berlin"), datetime(2026, 3, 29, 12, tzinfo=UTC))
    kolkata = period_at("daily", zone("Asia/Kolkata"), datetime(2026, 3, 29, 12, tzinfo=UTC))
    edges = [berlin.start, berlin.end, kolkata.start, kolkata.end]
    store(
        sink,
        *(spend(2 * n, edge - millisecond, 10 ** (2 * n) / 1000) for n, edge in enumerate(edges)),
        *(spend(2 * n + 1, edge, 10 ** (2 * n + 1) / 1000) for n, edge in enumerate(edges)),
    )
    # 18:30 to 18:30 against 23:00 to 22:00: Kolkata's end lies within Berlin's day.
    told = {
        (name, moment): the_status(sink, moment, name).spent_usd * 1000
        for name, moment in (
            ("berlin", berlin.end - millisecond),
            ("berlin", berlin.end),
            ("berlin", berlin.end + millisecond),
            ("kolkata", kolkata.end - millisecond),
            ("kolkata", kolkata.start + millisecond),
        )
    }
    assert list(told.values()) == [10 + 10**6 + 10**7, 0, 1000, 10**5 + 1 + 10, 10**5]


# -- the engine's periods -------------------------------------------------------------------------


def test_the_engine_finds_the_same_periods_as_python(sink: Sink) -> None:
    """A year of days, weeks and months in zones whose clocks do all that clocks do."""
    places = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/St_Johns",
        "Asia/Kolkata",
        "Asia/Kathmandu",
        "Pacific/Apia",
        "Pacific/Kiritimati",
        "Australia/Lord_Howe",
        "Africa/Cairo",
        "Atlantic/Azores",  # has a midnight twice, and a day without one
        "America/Nuuk",
        "Asia/Beirut",
    ]
    now = engine_now(sink)
    set_at = now - timedelta(days=380)
    # In one statement: setting each by itself would take longer than all the rest.
    set_budget(sink, budget("like"), "t", set_at)
    sink.command(
        f"INSERT INTO {STORE}.budgets SELECT * REPLACE (concat(p, '.', replaceAll(z, '/', '.')) "
        "AS budget_id, budget_id AS change_id, p AS period, z AS time_zone) "
        f"FROM {STORE}.budgets ARRAY JOIN ['daily', 'weekly', 'monthly'] AS p "
        "ARRAY JOIN {places:Array(String)} AS z",
        {"places": places},
    )
    assert remove_budget(sink, "like", "t")
    rows = sink.rows(
        "SELECT period, time_zone, period_start, period_end FROM gatewatch.budget_periods "
        "WHERE budget_id != 'like' ORDER BY budget_id, period_start"
    )
    found: dict[tuple[Kind, str], list[tuple[datetime, datetime]]] = {}
    for kind, place, start, end in rows:
        found.setdefault((kind, place), []).append((start.replace(tzinfo=UTC), end.replace(tzinfo=UTC)))
    assert len(found) == 3 * len(places)
    for (kind, place), spans in found.items():
        expected = []
        period = period_at(kind, zone(place), set_at)
        while period.start <= now:
            expected.append((period.start, period.end))
            period = period_at(kind, zone(place), period.end)
        assert spans == expected, (kind, place)
    # Where the engine's database of time zones and Python's differ, as in these two, the engine's holds.
    for place in ("Africa/Casablanca", "America/Havana"):
        set_budget(sink, budget(place.replace("/", "."), period="daily", time_zone=place), "t", set_at)
    rows = sink.rows("SELECT budget_id, period_start, period_end FROM gatewatch.budget_spend")
    running = {row[0]: (row[1].replace(tzinfo=UTC), row[2].replace(tzinfo=UTC)) for row in rows}
    assert len(running) == len(found) + 2
    told = status(sink, engine_now(sink))
    assert {one.budget.budget_id: (one.period.start, one.period.end) for one in told} == running
    assert {span[-1] for span in found.values()} <= set(running.values())


def test_every_period_of_a_budget_has_what_it_cost(sink: Sink) -> None:
    now = engine_now(sink)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    days = [today - timedelta(days=n) for n in range(10)]
    store(sink, *(spend(n, day, float(n + 1)) for n, day in enumerate(days)))
    set_budget(sink, budget(period="daily", time_zone="UTC"), "test", days[-1])
    rows = sink.rows(
        "SELECT period_start, spent_usd, calls FROM gatewatch.budget_periods ORDER BY period_start DESC"
    )
    assert [(row[0].replace(tzinfo=UTC), row[1], row[2]) for row in rows] == [
        (day, n + 1, 1) for n, day in enumerate(days)
    ]


# -- changes ---------------------------------------------------------------------------------------


def test_a_change_in_mid_period_counts_for_the_whole_period_and_history_is_kept(sink: Sink) -> None:
    store(sink, spend(1, datetime(2026, 11, 2, tzinfo=UTC), 450.0), spend(2, NOON, 200.0))
    set_budget(sink, budget(), "anna", LONG_AGO)
    set_budget(sink, budget(amount_usd=Decimal(800)), "ben", datetime(2026, 11, 10, tzinfo=UTC))
    before = the_status(sink, datetime(2026, 11, 9, tzinfo=UTC))
    assert before.budget.amount_usd == 500
    assert before.spent_usd == 450
    after = the_status(sink, NOON + timedelta(hours=1))
    assert after.budget.amount_usd == 800
    assert after.spent_usd == 650
    assert after.remaining_usd == 150
    first, second = changes(sink, "acme")
    assert (first.changed_by, first.version) == ("anna", 1)
    assert first.budget.amount_usd == 500
    assert first.valid_until == second.valid_from == datetime(2026, 11, 10, tzinfo=UTC)
    assert (second.changed_by, second.version, second.valid_until) == ("ben", 2, None)
    assert second.changed_at >= first.changed_at


def test_a_change_of_the_kind_of_period_leaves_those_that_had_ended(sink: Sink) -> None:
    now = engine_now(sink)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    set_budget(sink, budget(period="daily", time_zone="UTC"), "t", today - timedelta(days=3))
    set_budget(sink, budget(period="monthly", time_zone="UTC"), "t", today - timedelta(days=1))
    rows = sink.rows(
        "SELECT period, period_start FROM gatewatch.budget_periods ORDER BY period, period_start"
    )
    daily = [row[1].replace(tzinfo=UTC) for row in rows if row[0] == "daily"]
    assert daily == [today - timedelta(days=3), today - timedelta(days=2)]
    assert [row[1] for row in rows if row[0] == "monthly"][-1].day == 1


def test_what_held_longer_ago_than_calls_are_kept_has_no_periods(sink: Sink) -> None:
    now = engine_now(sink)
    set_budget(sink, budget(period="daily", time_zone="UTC"), "t", now - timedelta(days=1000))
    set_budget(sink, budget(period="weekly", time_zone="UTC"), "t", now - timedelta(days=500))
    set_budget(sink, budget(period="monthly", time_zone="UTC"), "t", now - timedelta(days=200))
    rows = sink.rows(
        "SELECT period, min(period_start) FROM gatewatch.budget_periods GROUP BY period ORDER BY period"
    )
    assert [row[0] for row in rows] == ["monthly", "weekly"]
    assert all(row[1].replace(tzinfo=UTC) > now - timedelta(days=400) for row in rows)


def test_a_budget_to_come_holds_from_its_start_on(sink: Sink) -> None:
    now = engine_now(sink)
    set_budget(sink, budget(), "t")
    set_budget(sink, budget(amount_usd=Decimal(900)), "t", now + timedelta(days=40))
    assert [one.amount_usd for one in budgets_at(sink, now + timedelta(minutes=1))] == [500]
    assert [one.amount_usd for one in budgets_at(sink, now + timedelta(days=41))] == [900]
    assert [(row["amount_usd"], row["is_current"]) for row in view(sink, "budgets")] == [
        (500, True),
        (900, False),
    ]
    # A later word about all the time from now on replaces it.
    set_budget(sink, budget(amount_usd=Decimal(600)), "t")
    assert [one.amount_usd for one in budgets_at(sink, now + timedelta(days=41))] == [600]
    assert [row["amount_usd"] for row in view(sink, "budgets")] == [600]
    assert len(view(sink, "budget_changes")) == 3


def test_a_removal_is_a_row_and_what_was_set_before_stays_known(sink: Sink) -> None:
    now = engine_now(sink)
    assert not remove_budget(sink, "acme", "t")
    set_budget(sink, budget(), "anna", now - timedelta(days=2))
    assert remove_budget(sink, "acme", "ben")
    assert not remove_budget(sink, "acme", "ben")
    assert status(sink, engine_now(sink) + timedelta(seconds=1)) == []
    assert view(sink, "budgets") == view(sink, "budget_spend") == []
    assert [one.budget_id for one in budgets_at(sink, now - timedelta(days=1))] == ["acme"]
    rows = view(sink, "budget_changes")
    assert [(row["version"], row["changed_by"], row["is_removed"]) for row in rows] == [
        (1, "anna", False),
        (2, "ben", True),
    ]
    # And it can come back.
    assert set_budget(sink, budget(), "carla")
    assert [row["version"] for row in view(sink, "budgets")] == [3]


def test_setting_what_is_set_already_writes_nothing(sink: Sink) -> None:
    assert set_budget(sink, budget(), "t")
    assert not set_budget(sink, budget(), "t")
    assert set_budget(sink, budget(warn_shares=(Decimal("0.9"),)), "t")
    assert set_budget(sink, budget(warn_shares=(Decimal("0.9"),), scope=Scope(team="x")), "t")
    assert len(changes(sink)) == 3


def _rows(sink: Sink) -> Iterable[Any]:
    return sink.rows("SELECT version, changed_by, amount_usd FROM gatewatch.budget_changes ORDER BY version")


def test_a_row_that_is_stored_again_changes_nothing(sink: Sink) -> None:
    set_budget(sink, budget(), "t")
    set_budget(sink, budget(amount_usd=Decimal(7)), "t")
    before = list(_rows(sink))
    for _ in range(2):
        sink.command(f"INSERT INTO {STORE}.budgets SELECT * FROM {STORE}.budgets ORDER BY version DESC")
    assert list(_rows(sink)) == before
    assert [one.amount_usd for one in budgets_at(sink, engine_now(sink) + timedelta(seconds=1))] == [7]


def test_two_who_set_at_once_are_both_remembered_and_all_readers_take_the_same(sink: Sink) -> None:
    set_budget(sink, budget(), "anna")
    sink.command(
        f"INSERT INTO {STORE}.budgets SELECT * REPLACE ('~' AS change_id, 'ben' AS changed_by, "
        f"toDecimal128(900, 9) AS amount_usd) FROM {STORE}.budgets"
    )
    sink.command(f"OPTIMIZE TABLE {STORE}.budgets FINAL")
    assert {row[1] for row in _rows(sink)} == {"anna", "ben"}
    assert [row["amount_usd"] for row in view(sink, "budgets")] == [900]
    later = engine_now(sink) + timedelta(seconds=1)
    assert [one.amount_usd for one in budgets_at(sink, later)] == [900]


def test_text_that_looks_like_sql_is_text(sink: Sink) -> None:
    odd = "a'); DROP TABLE x; -- \\ \" {name:String} é\u202e"
    set_budget(sink, budget(scope=Scope(tenant=odd)), odd)
    store(sink, spend(1, NOON, 3.0, tenant=odd), spend(2, NOON, 4.0, tenant="b"))
    (change,) = changes(sink)
    assert (change.changed_by, change.budget.scope.tenant) == (odd, odd)
    set_budget(sink, budget("past", scope=Scope(tenant=odd)), "t", LONG_AGO)
    assert the_status(sink, NOON + timedelta(seconds=1), "past").spent_usd == 3


def test_a_zone_that_the_engine_does_not_know_is_refused(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when Python's database is newer; a view over such a row would fail for everybody."""
    one = budget(time_zone="UTC")
    rows = sink.rows
    monkeypatch.setattr(sink, "rows", lambda sql, parameters=None: rows(sql, parameters | {"zone": "Mars/X"}))
    with pytest.raises(ValueError, match="ClickHouse's own database of time zones has no 'UTC'"):
        set_budget(sink, one, "t")
    monkeypatch.undo()
    assert changes(sink) == []


# -- who is in trouble -----------------------------------------------------------------------------


def test_those_in_most_trouble_come_first_and_the_last_hour_burns(sink: Sink) -> None:
    hours = [NOON - timedelta(hours=n) for n in range(24 * 28)]
    store(sink, *(spend(n, hour, 1.0) for n, hour in enumerate(hours)))
    for name, amount in (("calm", 5000), ("tight", 500), ("gone", 400), ("half", 800)):
        set_budget(sink, budget(name, amount_usd=Decimal(amount), time_zone="UTC"), "t", LONG_AGO)
    told = status(sink, NOON + timedelta(milliseconds=1))
    assert [(one.budget.budget_id, one.state) for one in told] == [
        ("gone", "exceeded"),
        ("tight", "will_exceed"),
        ("half", "warning"),
        ("calm", "ok"),
    ]
    assert {one.spent_usd for one in told} == {17 * 24 + 13}
    half = told[2]
    # One an hour against 800 in 720 hours.
    assert half.burn_rates["24h"] == pytest.approx(0.9, rel=0.05)
    assert half.forecast_usd == pytest.approx(Decimal(720), rel=Decimal("0.02"))
    assert half.season == "hour of week"
    assert half.tests > 5


def test_the_view_burns_as_the_command_does(sink: Sink) -> None:
    """Also over the edge of a period: the day of each of these zones began at another time."""
    now = engine_now(sink)
    ages_s = (60, 1000, 3000, 5400, 20_000, 80_000, 90_000)
    store(sink, *(spend(n, now - timedelta(seconds=age), float(n + 1)) for n, age in enumerate(ages_s)))
    for place in ("Etc/GMT+6", "Etc/GMT-6", "Etc/GMT+12", "UTC"):
        name = place.replace("/", ".").replace("+", "p")
        set_budget(sink, budget(name, period="daily", time_zone=place), "t")
    told = {one.budget.budget_id: one for one in status(sink)}
    assert len(told) == 4
    for row in view(sink, "budget_spend"):
        one = told[row["budget_id"]]
        rates = {name: row[f"burn_rate_{name}"] for name in one.burn_rates}
        assert rates == pytest.approx(one.burn_rates)
        # 500 a day.
        spent = [rates[name] * 500 / 24 * hours for name, hours in (("5m", 1 / 12), ("30m", 0.5), ("1h", 1))]
        assert spent == pytest.approx([1, 3, 6])
        assert rates["24h"] * 500 == pytest.approx(21)
