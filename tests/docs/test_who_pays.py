"""docs/spend.md, "Who pays": the two weeks of the example cost, and change, what the page says."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

import pytest

from gatewatch.events import Call
from sinks.clickhouse import Sink
from tests.event import call
from tests.stored import keep_only

pytestmark = pytest.mark.engine

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "spend.md").read_text("utf-8")


def table(first: str) -> list[list[str]]:
    """The rows of the table whose head begins so."""
    (found,) = re.findall(rf"^\| {re.escape(first)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()]


CALLS: Final = table("week | tenant")
DRIVERS: Final = table("model | change")


@pytest.fixture
def weeks(sink: Sink) -> Sink:
    events: list[Call] = []
    for week, tenant, model, calls, input_tokens, output_tokens, _ in CALLS:
        monday_ms = int(datetime.fromisoformat(week).replace(tzinfo=UTC).timestamp() * 1000)
        for place in range(int(calls)):
            events.append(
                call(
                    len(events),
                    at_ms=monday_ms + 60_000 * (place + 1),
                    tenant=tenant,
                    model=model,
                    input_tokens=int(input_tokens),
                    output_tokens=int(output_tokens),
                )
            )
    keep_only(sink, events)
    return sink


def test_the_calls_of_the_example_cost_what_the_page_says(weeks: Sink) -> None:
    found = weeks.rows(
        "SELECT toString(toMonday(hour)) AS week, tenant, model, sum(calls), sum(cost_usd) "
        "FROM gatewatch.chargeback GROUP BY week, tenant, model ORDER BY week, tenant"
    )
    assert [tuple(row) for row in found] == [
        (week, tenant, model, int(calls), Decimal(usd)) for week, tenant, model, calls, _, _, usd in CALLS
    ]


def test_the_drivers_of_the_example_are_what_the_page_says(weeks: Sink) -> None:
    found = weeks.rows(
        "SELECT if(model = '', 'both', model) AS series, sum(change_usd), sum(by_volume_usd), "
        "sum(by_mix_usd), sum(by_tokens_usd), sum(by_price_usd) FROM gatewatch.cost_drivers "
        "WHERE cut = 'model' AND week = '2025-10-13' GROUP BY ROLLUP(model) ORDER BY series DESC"
    )
    said = [(name, *map(Decimal, amounts)) for name, *amounts in DRIVERS]
    assert sorted(tuple(row) for row in found) == sorted(said)
    assert len(said) == 3
