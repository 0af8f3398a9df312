"""`gatewatch budgets` on a running engine, and what is asked wrongly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gatewatch.cli.budgets import commands
from gatewatch.events import Call
from sinks.schema import STORE
from streams.process import end
from tests.sinks.conftest import RunningEngine, start_store
from tests.stored import store

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    """An engine with twenty days of a dollar each twenty minutes, of which one is not known."""
    running = start_store(tmp_path_factory.mktemp("budgets"))
    sink = running.sink()
    calls = []
    for number in range(20 * 24 * 3):
        at_ms = round((NOW - timedelta(minutes=20 * number)).timestamp() * 1000)
        calls.append(
            Call(
                at_ms=at_ms,
                started_at_ms=at_ms,
                gateway="g",
                call_id=f"c{number}",
                provider="nobody",
                model="m",
                tenant="acme",
                reported_cost_usd=1.0 if number else None,
            )
        )
    store(sink, *calls)
    sink.close()
    yield running
    assert end(running.process, 30)


@pytest.fixture
def engine(served: RunningEngine, monkeypatch: pytest.MonkeyPatch) -> RunningEngine:
    """The engine without budgets."""
    monkeypatch.delenv("GATEWATCH_CLICKHOUSE_URL", raising=False)
    served.write(f"TRUNCATE TABLE {STORE}.budgets")
    return served


def budgets(engine: RunningEngine | None, *arguments: str) -> Result:
    data = [] if engine is None else ["--data", str(engine.data)]
    return CliRunner().invoke(commands, [*arguments, *data])


def lines(done: Result) -> list[dict[str, Any]]:
    assert done.exit_code == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


SET = ("--period", "daily", "--timezone", "Europe/Berlin")


@pytest.mark.engine
def test_a_budget_is_set_listed_changed_and_removed(engine: RunningEngine) -> None:
    done = budgets(engine, "set", "acme", "--tenant", "acme", "--amount", "500", "--by", "anna", *SET)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == "acme: $500.00 daily (Europe/Berlin) for tenant=acme, from now on\n"
    again = budgets(engine, "set", "acme", "--tenant", "acme", "--amount", "500.00", "--by", "ben", *SET)
    assert "so it is already" in again.stdout
    budgets(engine, "set", "acme", "--amount", "0.000000001", "--warn-at", "0.9", "--by", "ben", *SET)
    (row,) = lines(budgets(engine, "list"))
    assert (row["id"], row["amount_usd"], row["scope"]) == ("acme", "0.000000001", {})
    assert (row["warn_shares"], row["version"], row["changed_by"]) == ([0.9], 2, "ben")
    table = budgets(engine, "list", "--format", "table").stdout
    assert table.splitlines()[1].startswith("acme  everything  $0.000000001  daily Europe/Berlin")
    assert budgets(engine, "remove", "acme", "--by", "carla").stdout == "acme: removed\n"
    assert lines(budgets(engine, "list")) == []
    assert "no budgets: set one" in budgets(engine, "list", "--format", "table").stdout
    history = lines(budgets(engine, "list", "--history"))
    assert [(row["changed_by"], row["removed"]) for row in history] == [
        ("anna", False),
        ("ben", False),
        ("carla", True),
    ]
    assert "removed" in budgets(engine, "list", "--history", "--format", "table").stdout


@pytest.mark.engine
def test_the_status_is_exact_and_a_script_can_act_on_it(engine: RunningEngine) -> None:
    moment = ["--at", NOW.isoformat()]
    since = ["--starts", "2026-01-01"]
    utc = ["--period", "daily", "--timezone", "UTC"]
    budgets(engine, "set", "wide", "--tenant", "acme", "--amount", "1000", *utc, *since)
    (row,) = lines(budgets(engine, "status", "wide", *moment))
    # Those of today before now, and not the one at this moment.
    spent = (NOW - NOW.replace(hour=0, minute=0, second=0)) // timedelta(minutes=20)
    assert (row["spent_usd"], row["calls"]) == (str(spent), spent)
    assert float(row["remaining_usd"]) == 1000 - spent
    assert row["state"] == "ok"
    assert float(row["forecast_usd"]) == pytest.approx(72, abs=4)
    assert row["forecast_season"] == "hour of week"
    assert row["burn_rates"]["24h"] == pytest.approx(0.072, abs=0.002)
    assert budgets(engine, "status", "--check").exit_code == 0
    budgets(engine, "set", "tight", "--tenant", "acme", "--amount", "0.5", "--period", "weekly", *since)
    done = budgets(engine, "status", "--check")
    assert done.exit_code == 1
    first_row = json.loads(done.stdout.splitlines()[0])
    assert first_row["id"] == "tight"
    assert first_row["state"] in ("exceeded", "will_exceed")  # the latter in the first minutes of a Monday
    assert budgets(engine, "status").exit_code == 0
    assert budgets(engine, "status", "wide", "--check").exit_code == 0


@pytest.mark.engine
def test_the_status_for_people_says_what_is_not_known(engine: RunningEngine) -> None:
    since = ["--starts", "2026-01-01"]
    budgets(engine, "set", "acme", "--tenant", "acme", "--amount", "5000", "--period", "weekly", *since)
    moment = ["--at", (NOW + timedelta(milliseconds=1)).isoformat()]
    one = budgets(engine, "status", "acme", "--format", "table", *moment)
    assert one.exit_code == 0
    for name in ("scope", "spent", "remaining", "forecast", "80 of 100", "95 of 100", "burn rate"):
        assert f"\n{name:<10} " in one.stdout
    assert "1 without a cost: more was spent than is known" in one.stderr
    every = budgets(engine, "status", "--format", "table")
    assert every.stdout.splitlines()[1].startswith("acme  ok")


@pytest.mark.engine
def test_a_budget_that_is_not_there_says_which_ones_are_near(engine: RunningEngine) -> None:
    budgets(engine, "set", "acme-2026", "--amount", "5", *SET)
    for arguments in (["status", "acme-2025"], ["remove", "acme-2025"]):
        done = budgets(engine, *arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert "there is no budget 'acme-2025'; ids that are near: acme-2026" in done.stderr
    done = budgets(engine, "status", "acme-2026", "--at", "2026-01-01")
    assert done.exit_code == 2
    assert "no budget 'acme-2026' holds at 2026-01-01" in done.stderr


@pytest.mark.engine
def test_a_time_that_has_not_come_is_wrong_usage(engine: RunningEngine) -> None:
    done = budgets(engine, "status", "--at", (NOW + timedelta(days=1)).isoformat())
    assert done.exit_code == 2
    assert "has not come yet" in done.stderr


@pytest.mark.engine
def test_the_reader_sees_budgets_and_sets_none(engine: RunningEngine) -> None:
    budgets(engine, "set", "acme", "--amount", "5", "--period", "monthly")
    for view in ("budgets", "budget_changes", "budget_spend", "budget_periods"):
        assert engine.read(f"SELECT budget_id FROM gatewatch.{view}").split() == ["acme"]
    answer = engine.ask(f"INSERT INTO {STORE}.budgets (budget_id) VALUES ('x')")
    assert answer.code != 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--amount", "0"], "an amount is more than 0 USD"),
        (["--amount", "1e-10"], "at most nine decimals"),
        (["--amount", "five"], "'five' is no amount of dollars"),
        (["--amount", "5", "--timezone", "Berlin"], "names that are near: Europe/Berlin"),
        (["--amount", "5", "--warn-at", "half"], "--warn-at 'half' is no list of shares"),
        (["--amount", "5", "--warn-at", "0"], "a share to warn at"),
        (["--amount", "5", "--starts", "tomorrow"], "--starts 'tomorrow' is no time"),
        (["--amount", "5", "--starts", "0001-01-01"], "is not between 2000 and 2100"),
        (["--amount", "5", "--tenant", "a\nb"], "--tenant is a name of at most 256 printable characters"),
        (["--amount", "5", "--by", " "], "--by is empty"),
    ],
)
def test_wrong_usage_ends_with_two_before_anything_is_asked(arguments: list[str], said: str) -> None:
    done = budgets(None, "set", "acme", "--period", "monthly", "--url", "http://127.0.0.1:9", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_bad_id_and_a_bad_time_are_wrong_usage() -> None:
    done = budgets(None, "set", "a/b", "--amount", "5", "--period", "daily", "--url", "http://127.0.0.1:9")
    assert done.exit_code == 2
    assert "'a/b' is no id of a budget" in done.stderr
    done = budgets(None, "status", "", "--url", "http://127.0.0.1:9")
    assert done.exit_code == 2
    assert "an empty ID" in done.stderr
    done = budgets(None, "status", "--at", "9999-12-31", "--url", "http://127.0.0.1:9")
    assert done.exit_code == 2
    assert "is not between 2000 and 2100" in done.stderr


def test_a_server_that_does_not_answer_is_a_failed_check() -> None:
    done = budgets(None, "status", "--url", "http://127.0.0.1:9")
    assert done.exit_code == 1
    assert "gatewatch doctor" in done.stderr
