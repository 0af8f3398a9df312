"""docs/cost.md: what repricing shows in the worked example is what it shows."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from gatewatch.cli.reprice import _print
from gatewatch.contract import Contract
from gatewatch.price_book import PriceBook
from sinks.clickhouse import Sink
from sinks.repricing import Scope, reprice_calls
from tests.event import call
from tests.sinks.test_repricing import agree, store

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "cost.md").read_text("utf-8")
SECTION: Final = PAGE.partition("## When prices change afterwards")[2].partition("\n## ")[0]
NOVEMBER_MS: Final = round(datetime(2026, 11, 1, tzinfo=UTC).timestamp() * 1000)
DECEMBER_MS: Final = round(datetime(2026, 12, 1, tzinfo=UTC).timestamp() * 1000)


def test_the_example_of_a_late_contract(sink: Sink, capsys: pytest.CaptureFixture[str]) -> None:
    store(
        sink,
        *[
            call(
                number,
                at_ms=NOVEMBER_MS + 60_000 * number + 5_000,
                provider="azure",
                model="prod-chat" if number < 40 else "gpt-4o-mini",
                tenant="acme",
                input_tokens=1000,
                cache_read_tokens=400,
                output_tokens=100,
            )
            for number in range(50)
        ],
        appended_ms=NOVEMBER_MS + 3_600_000,
    )
    scope = Scope(from_ms=NOVEMBER_MS, until_ms=DECEMBER_MS)
    book = PriceBook(
        [Contract(contract_id="map", provider="azure", model="prod-chat", same_as_model="gpt-4o")]
    )
    _print(reprice_calls(sink, scope, 2, book), False, False)
    said = capsys.readouterr()
    (shown,) = re.findall(r"^```text\n(.*?)^```$", SECTION, flags=re.MULTILINE | re.DOTALL)
    assert said.out == shown
    assert f"> {said.err.removeprefix('gatewatch reprice: ').strip()}" in SECTION
    agree(sink)
